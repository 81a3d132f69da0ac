//! What we take from outside: the number of packages we build, where they come from, and our own licence field.

use std::collections::BTreeSet;

use super::edges::Package;
use super::{Finding, RepoFile};

/// Packages that are built for [`TARGET`], ours included, tests' own ones not. Today's number with little room: raising
/// it is a decision to argue for in the commit that does it.
const MAX_BUILT_PACKAGES: usize = 220;
/// What is counted for, so that the number is the same on every machine.
const TARGET: &str = "x86_64-unknown-linux-gnu";
const REGISTRY: &str = "registry+https://github.com/rust-lang/crates.io-index";
const LICENCE: &str = "Apache-2.0";

/// Every package says the licence of the `LICENSE` file.
pub fn check_licences(packages: &[Package]) -> Vec<Finding> {
    let bad = packages.iter().filter(|package| package.license.as_deref() != Some(LICENCE));
    bad.map(|package| Finding::about(&package.name, format!("`license` must be `{LICENCE}`"))).collect()
}

/// The arguments with which cargo lists what [`check_built`] counts. The lock file is no measure: it also names what
/// packages need on other systems and what nobody asked of them.
pub fn tree_arguments() -> [&'static str; 9] {
    ["tree", "--locked", "--workspace", "--target", TARGET, "--edges", "normal,build", "--prefix", "none"]
}

/// Few enough packages are built; `tree` is a line for each use of one.
pub fn check_built(tree: &str) -> Vec<Finding> {
    let name_and_version = |line: &'_ str| line.split(' ').take(2).map(str::to_owned).collect::<Vec<_>>();
    let packages: BTreeSet<Vec<String>> = tree.lines().filter(|line| !line.is_empty()).map(name_and_version).collect();
    let count = packages.len();
    if count <= MAX_BUILT_PACKAGES {
        return Vec::new();
    }
    let message = format!("{count} packages are built for {TARGET}, the limit is {MAX_BUILT_PACKAGES}");
    vec![Finding::about("Cargo.toml", message)]
}

/// The lock file is there and names one registry only.
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
    fn the_lock_file_is_there_and_from_one_registry() {
        let package = |source: &str| format!("[[package]]\nname = \"a\"\nsource = \"{source}\"\n");
        let good = package(REGISTRY).repeat(3);
        assert_found(&check_lock(&repo(&[("Cargo.lock", &good)])), &[]);
        let bad = good + &package("git+https://example.org/x");
        assert_found(&check_lock(&repo(&[("Cargo.lock", &bad)])), &["not crates.io"]);
        assert_found(&check_lock(&[]), &["must be committed"]);
    }

    #[test]
    fn each_version_of_a_package_counts_once() {
        let used_often = "a v1.0.0 (proc-macro)\na v1.0.0 (proc-macro) (*)\na v1.0.0\n\n".repeat(MAX_BUILT_PACKAGES);
        let others = |count| (0..count).map(|minor| format!("b v1.{minor}.0 (*)\n")).collect::<String>();
        assert_found(&check_built(&(used_often.clone() + &others(MAX_BUILT_PACKAGES - 1))), &[]);
        assert_found(&check_built(&(used_often + &others(MAX_BUILT_PACKAGES))), &["221 packages are built for x86_64"]);
    }
}
