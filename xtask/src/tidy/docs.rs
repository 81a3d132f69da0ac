//! The documents agree with the repository: the map names every crate, relative links lead somewhere.

use super::{Finding, RepoFile};

const MAP: &str = "ARCHITECTURE.md";
const REQUIRED: &[&str] = &["README.md", MAP, "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "docs/README.md"];

/// All findings about documents.
pub fn check(files: &[RepoFile]) -> Vec<Finding> {
    let mut findings: Vec<Finding> =
        REQUIRED.iter().filter(|path| !exists(files, path)).map(|path| Finding::about(path, "must exist")).collect();
    findings.extend(check_map(files));
    findings.extend(files.iter().filter(|file| file.path.ends_with(".md")).flat_map(|file| check_links(file, files)));
    findings
}

fn check_map(files: &[RepoFile]) -> Vec<Finding> {
    let map = files.iter().find(|file| file.path == MAP).map(RepoFile::text).unwrap_or_default();
    let names = files.iter().filter_map(|file| file.path.strip_prefix("crates/")?.strip_suffix("/Cargo.toml"));
    let missing = names.filter(|name| !map.contains(&format!("`crates/{name}`")));
    missing.map(|name| Finding::about(MAP, format!("does not mention `crates/{name}`"))).collect()
}

fn check_links(file: &RepoFile, files: &[RepoFile]) -> Vec<Finding> {
    let dir = file.path.rsplit_once('/').map_or("", |(dir, _)| dir);
    let mut findings = Vec::new();
    for (index, line) in file.text().lines().enumerate() {
        for target in link_targets(line) {
            if !resolve(dir, target).is_some_and(|path| exists(files, &path)) {
                findings.push(Finding::at(&file.path, index + 1, format!("link to `{target}`, which does not exist")));
            }
        }
    }
    findings
}

/// Relative targets of `[text](target)`, without their fragment.
fn link_targets(line: &str) -> impl Iterator<Item = &str> {
    let targets = line.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    let relative = targets.filter(|target| !target.contains("://") && !target.starts_with(['#', '<']));
    relative.filter_map(|target| target.split('#').next())
}

/// The path a link means; nothing if it leaves the repository.
fn resolve(dir: &str, target: &str) -> Option<String> {
    let mut parts: Vec<&str> = dir.split('/').filter(|part| !part.is_empty()).collect();
    for part in target.split('/') {
        match part {
            "." | "" => {}
            ".." => drop(parts.pop()?),
            _ => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

/// Whether a file or a directory of that path is there.
fn exists(files: &[RepoFile], path: &str) -> bool {
    let below = format!("{path}/");
    files.iter().any(|file| file.path == path || file.path.starts_with(&below))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::fixture::{assert_found, repo};

    const HOUSE: &[(&str, &str)] = &[
        ("README.md", "[map](ARCHITECTURE.md#flow) [docs](docs/) [web](https://example.org/x) [here](#top)\n"),
        ("ARCHITECTURE.md", "`crates/core` is the vocabulary.\n"),
        ("CHANGELOG.md", ""),
        ("CONTRIBUTING.md", ""),
        ("LICENSE", ""),
        ("docs/README.md", "[up](../README.md)\n"),
        ("crates/core/Cargo.toml", ""),
    ];

    #[test]
    fn a_good_house_passes() {
        assert_found(&check(&repo(HOUSE)), &[]);
    }

    #[test]
    fn missing_documents_crates_and_links_are_found() {
        let mut files = repo(HOUSE);
        files.retain(|file| file.path != "LICENSE");
        files.extend(repo(&[("crates/disk/Cargo.toml", ""), ("docs/a.md", "[x](b.md) [y](../../z.md)\n")]));
        let expected = ["LICENSE: must exist", "`crates/disk`", "docs/a.md:1: link to `b.md`", "link to `../../z.md`"];
        assert_found(&check(&files), &expected);
    }
}
