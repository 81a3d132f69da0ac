//! Checks on every text file: white space, traces of one machine, files that do not belong here.

use super::{Finding, RepoFile};

/// Directories of one machine. Written in two parts so that this file does not find itself.
const MACHINE_PATHS: &[&str] =
    &[concat!("/ro", "ot/"), concat!("/ho", "me/"), concat!("/wo", "rk/"), concat!("/Us", "ers/")];

/// Settings that would send cargo or pip to a registry of one site.
const REGISTRY_SETTINGS: &[&str] = &[
    concat!("replace-", "with ="),
    concat!("[regis", "tries"),
    concat!("--index", "-url"),
    concat!("PIP_INDEX", "_URL"),
];

/// Checks every file.
pub fn check(files: &[RepoFile]) -> Vec<Finding> {
    files.iter().flat_map(check_file).collect()
}

fn check_file(file: &RepoFile) -> Vec<Finding> {
    let mut findings = Vec::new();
    if file.path.ends_with(".proto") {
        findings.push(Finding::about(&file.path, "interface files of others come from a package, not from here"));
    }
    if is_verbatim(&file.path) {
        return findings;
    }
    for (index, line) in file.text().split('\n').enumerate() {
        let reasons = [check_white_space(line), check_traces(line)];
        findings.extend(reasons.into_iter().flatten().map(|reason| Finding::at(&file.path, index + 1, reason)));
    }
    if !file.text().is_empty() && !file.text().ends_with('\n') {
        findings.push(Finding::about(&file.path, "no newline at the end"));
    }
    findings
}

/// Files whose bytes are the point.
fn is_verbatim(path: &str) -> bool {
    path == "LICENSE" || path == "Cargo.lock" || path.starts_with("testdata/")
}

fn check_white_space(line: &str) -> Option<String> {
    line.ends_with([' ', '\t', '\r']).then(|| "white space at the end of the line".to_owned())
}

fn check_traces(line: &str) -> Option<String> {
    // A trace only where a path begins: the same name further down in a relative path is none.
    let begins = |at: usize| !line[..at].ends_with(|c: char| c.is_alphanumeric() || "._-}".contains(c));
    let path = MACHINE_PATHS.iter().find(|path| line.match_indices(*path).any(|(at, _)| begins(at)));
    let setting = REGISTRY_SETTINGS.iter().find(|setting| line.contains(*setting));
    path.or(setting).map(|trace| format!("`{trace}` belongs to one machine"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::fixture::{assert_found, repo};

    #[test]
    fn good_texts_pass() {
        let files = repo(&[
            ("README.md", "# A\n\ndocs/home/x and $PWD/work/x are fine\n"),
            ("testdata/odd.txt", "trailing  \nno newline"),
            ("empty", ""),
        ]);
        assert_found(&check(&files), &[]);
    }

    #[test]
    fn each_fault_is_found() {
        let home = format!("see {}me/x\n", "/ho");
        let mirror = format!("{}with = \"mirror\"\n", "replace-");
        let files = repo(&[
            ("a.md", "x \n"),
            ("b.sh", &home),
            ("c.toml", &mirror),
            ("d.txt", "x"),
            ("e.proto", "x\n"),
            ("f.txt", "x\r\n"),
        ]);
        let expected =
            ["a.md:1: white", "b.sh:1: `", "c.toml:1: `", "d.txt: no newline", "e.proto: interface", "f.txt:1"];
        assert_found(&check(&files), &expected);
    }
}
