//! Which Rust file is a module of what: files nobody declares, and files without module docs.
//!
//! Follows `mod name;` (with or without `#[path]`) from the crate roots cargo finds by itself.

use std::collections::BTreeMap;

use super::rust_text::{code_only, line_of, without_tests};
use super::{Finding, RepoFile};

/// Whether a reached file is compiled for tests alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    Shipped,
    TestOnly,
}

/// Unwired files and missing module docs.
pub fn check(files: &[RepoFile]) -> Vec<Finding> {
    let reached = reachable(files);
    let mut findings = Vec::new();
    for file in files.iter().filter(|file| file.is_rust()) {
        if !reached.contains_key(file.path.as_str()) {
            findings.push(Finding::about(&file.path, "no `mod` declares this file: it is never compiled"));
        }
        if !has_module_docs(file.text()) {
            findings.push(Finding::about(&file.path, "must open with `//!`: what it does and what it does not know"));
        }
    }
    let silent = files.iter().filter(|file| file.path.ends_with("Cargo.toml"));
    findings.extend(
        silent
            .filter(|file| file.text().contains("autotests = false"))
            .map(|file| Finding::about(&file.path, "`autotests = false` would leave test files out silently")),
    );
    findings
}

/// Every file that some crate root leads to, and what for.
pub fn reachable(files: &[RepoFile]) -> BTreeMap<&str, Use> {
    let by_path: BTreeMap<&str, &RepoFile> = files.iter().map(|file| (file.path.as_str(), file)).collect();
    let mut reached = BTreeMap::new();
    let mut open: Vec<(&str, Use)> =
        by_path.keys().filter_map(|path| root_use(path).map(|found| (*path, found))).collect();
    while let Some((path, found)) = open.pop() {
        // A file reached in both ways counts as shipped.
        match reached.get(path) {
            Some(Use::Shipped) => continue,
            Some(Use::TestOnly) if found == Use::TestOnly => continue,
            _ => reached.insert(path, found),
        };
        for (child, is_test) in children(by_path[path]) {
            let child_use = if is_test { Use::TestOnly } else { found };
            let existing = child.iter().find_map(|candidate| by_path.get_key_value(candidate.as_str()));
            open.extend(existing.map(|(path, _)| (*path, child_use)));
        }
    }
    reached
}

/// A root cargo knows without being told: `src/lib.rs`, `src/main.rs`, `src/bin/*`, `tests/*`, ...
fn root_use(path: &str) -> Option<Use> {
    let parts: Vec<&str> = path.split('/').collect();
    let is_rust = |name: &str| name.ends_with(".rs");
    match parts.as_slice() {
        [.., "src", "lib.rs" | "main.rs"] | ["build.rs"] | [.., "build.rs"] => Some(Use::Shipped),
        [.., "src", "bin", name] if is_rust(name) => Some(Use::Shipped),
        [.., "tests" | "benches" | "examples", name] if is_rust(name) && !parts.contains(&"src") => Some(Use::TestOnly),
        [.., "tests" | "benches" | "examples", _, "main.rs"] if !parts.contains(&"src") => Some(Use::TestOnly),
        _ => None,
    }
}

/// The modules a file declares: candidate paths of each, and whether only tests see it.
fn children(file: &RepoFile) -> Vec<(Vec<String>, bool)> {
    let code = code_only(file.text());
    let shipped = without_tests(&code);
    let mut found = Vec::new();
    for (offset, name) in declared_modules(&code) {
        let is_test = shipped.as_bytes()[offset] == b' ';
        let line = line_of(&code, offset);
        found.push((module_paths(&file.path, name, path_attribute(file.text(), line)), is_test));
    }
    found
}

/// Offset and name of every `mod name;`.
fn declared_modules(code: &str) -> Vec<(usize, &str)> {
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    let starts = code.match_indices("mod ").filter(|(at, _)| !code[..*at].ends_with(is_name));
    starts
        .filter_map(|(at, _)| {
            let rest = code[at + 4..].trim_start();
            let end = rest.find(|c: char| !is_name(c))?;
            rest[end..].trim_start().starts_with(';').then(|| (at, &rest[..end]))
        })
        .collect()
}

/// The file named by a `#[path = "..."]` on the line or the one before.
fn path_attribute(text: &str, line: usize) -> Option<&str> {
    let near = text.lines().skip(line.saturating_sub(2)).take(2);
    near.filter_map(|line| line.split_once("#[path")?.1.split('"').nth(1)).last()
}

fn module_paths(parent: &str, name: &str, path: Option<&str>) -> Vec<String> {
    let (dir, file) = parent.rsplit_once('/').unwrap_or(("", parent));
    let stem = file.trim_end_matches(".rs");
    if let Some(path) = path {
        return vec![normalised(&format!("{dir}/{path}"))];
    }
    let own_dir = match stem {
        "lib" | "main" | "mod" | "build" => dir.to_owned(),
        _ if root_use(parent).is_some() => dir.to_owned(),
        _ => format!("{dir}/{stem}"),
    };
    vec![format!("{own_dir}/{name}.rs"), format!("{own_dir}/{name}/mod.rs")]
}

/// Takes `..` and `.` out of a relative path.
fn normalised(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "." | "" => {}
            ".." => drop(parts.pop()),
            _ => parts.push(part),
        }
    }
    parts.join("/")
}

/// The first line that is neither empty nor a `#!` line is a module comment.
fn has_module_docs(text: &str) -> bool {
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("#!"));
    lines.next().is_some_and(|line| line.starts_with("//!"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::fixture::{assert_found, repo};

    #[test]
    fn wired_files_with_docs_pass() {
        let files = repo(&[
            ("crates/a/src/lib.rs", "//! A.\nmod x;\n#[cfg(test)]\nmod tests;\n"),
            ("crates/a/src/x.rs", "//! X.\npub(crate) mod y;"),
            ("crates/a/src/x/y.rs", "//! Y."),
            ("crates/a/src/tests.rs", "//! Tests."),
            ("crates/a/tests/cli.rs", "//! Cli.\nmod common;\n#[path = \"../shared/far.rs\"]\nmod far;\n"),
            ("crates/a/tests/common/mod.rs", "//! Common."),
            ("crates/a/shared/far.rs", "//! Far."),
            ("examples/x/src/main.rs", "fn main() {}"),
        ]);
        assert_found(&check(&files), &[]);
    }

    #[test]
    fn unwired_and_undocumented_files_are_found() {
        let files = repo(&[
            ("crates/a/src/lib.rs", "// A.\n// mod z;\n"),
            ("crates/a/src/z.rs", "//! Z."),
            ("crates/a/src/tests/old.rs", "//! Old."),
            ("crates/a/Cargo.toml", "autotests = false\n"),
        ]);
        let expected = ["lib.rs: must open", "z.rs: no `mod`", "old.rs: no `mod`", "Cargo.toml: `autotests"];
        assert_found(&check(&files), &expected);
    }

    #[test]
    fn test_modules_pass_their_use_on() {
        let files = repo(&[
            ("a/src/lib.rs", "#[cfg(test)] mod t; mod s;"),
            ("a/src/t.rs", "mod deep;"),
            ("a/src/t/deep.rs", ""),
            ("a/src/s.rs", ""),
            ("a/tests/e2e.rs", ""),
        ]);
        let reached = reachable(&files);
        assert_eq!(reached["a/src/t/deep.rs"], Use::TestOnly);
        assert_eq!(reached["a/src/s.rs"], Use::Shipped);
        assert_eq!(reached["a/tests/e2e.rs"], Use::TestOnly);
    }
}
