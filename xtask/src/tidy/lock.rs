//! What we take from outside: the number of locked packages, where they come from, and our own licence field.

use super::edges::Package;
use super::{Finding, RepoFile};

/// Packages in `Cargo.lock`, ours included. Today's number with little room: raising it is a decision to argue
/// for in the commit that does it.
const MAX_LOCKED_PACKAGES: usize = 240;
const REGISTRY: &str = "registry+https://github.com/rust-lang/crates.io-index";
const LICENCE: &str = "Apache-2.0";

/// Every package says the licence of the `LICENSE` file.
pub fn check_licences(packages: &[Package]) -> Vec<Finding> {
    let bad = packages.iter().filter(|package| package.license.as_deref() != Some(LICENCE));
    bad.map(|package| Finding::about(&package.name, format!("`license` must be `{LICENCE}`"))).collect()
}

/// The lock file is small enough and names one registry only.
pub fn check_lock(files: &[RepoFile]) -> Vec<Finding> {
    let Some(lock) = files.iter().find(|file| file.path == "Cargo.lock") else {
        return vec![Finding::about("Cargo.lock", "must be committed: the binary is built from it")];
    };
    let mut findings = Vec::new();
    for (index, line) in lock.text().lines().enumerate() {
        if let Some(source) = line.strip_prefix("source = ").map(|text| text.trim_matches('"'))
            && source != REGISTRY
        {
            findings.push(Finding::at(&lock.path, index + 1, format!("package from `{source}`, not crates.io")));
        }
    }
    let count = lock.text().lines().filter(|line| *line == "[[package]]").count();
    if count > MAX_LOCKED_PACKAGES {
        findings.push(Finding::about(&lock.path, format!("{count} packages, the limit is {MAX_LOCKED_PACKAGES}")));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::fixture::{assert_found, repo};

    #[test]
    fn licences() {
        let package = |licence: Option<&str>| Package {
            name: "x".into(),
            license: licence.map(Into::into),
            dependencies: vec![],
        };
        assert_found(&check_licences(&[package(Some("Apache-2.0"))]), &[]);
        assert_found(&check_licences(&[package(None), package(Some("MIT"))]), &["x: `license`", "x: `license`"]);
    }

    #[test]
    fn the_lock_file_is_there_small_and_from_one_registry() {
        let package = |source: &str| format!("[[package]]\nname = \"a\"\nsource = \"{source}\"\n");
        let at_limit = package(REGISTRY).repeat(MAX_LOCKED_PACKAGES);
        assert_found(&check_lock(&repo(&[("Cargo.lock", &at_limit)])), &[]);
        let above = at_limit + &package("git+https://example.org/x");
        assert_found(&check_lock(&repo(&[("Cargo.lock", &above)])), &["not crates.io", "241 packages"]);
        assert_found(&check_lock(&[]), &["must be committed"]);
    }
}
