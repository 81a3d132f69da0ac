//! Searches in Rust code that clippy does not do per crate: purity of the deciding crates, suppressed lints,
//! ignored tests, unfinished code, long files.

use super::modules::{Use, reachable};
use super::rust_text::{code_only, line_of, without_tests};
use super::{Finding, RepoFile};

/// Crates that decide: no file system, process, environment, network, clock or terminal.
const DECIDING: &[&str] = &["core", "diagnostics", "rules", "loader", "graph", "dynamic", "download"];

/// Modules of `std` they may not name. Threads are not among them: computing in parallel is no I/O.
const BANNED_MODULES: &[&str] = &["fs", "process", "env", "net"];

/// Other words they may not contain.
const BANNED_WORDS: &[&str] =
    &["Instant::now", "SystemTime", "tokio::", "println!", "print!", "eprintln!", "eprint!", "dbg!"];

/// Longer files should be split; counted without tests.
const MAX_LINES: usize = 500;

/// All findings of these searches.
pub fn check(files: &[RepoFile]) -> Vec<Finding> {
    let reached = reachable(files);
    let mut findings = Vec::new();
    for file in files.iter().filter(|file| file.is_rust()) {
        let code = code_only(file.text());
        let shipped = without_tests(&code);
        findings.extend(check_everywhere(&file.path, &code));
        if reached.get(file.path.as_str()) == Some(&Use::Shipped) {
            findings.extend(check_length(&file.path, &shipped));
            if is_deciding(&file.path) {
                findings.extend(check_pure(&file.path, &shipped));
            }
        }
    }
    findings
}

fn is_deciding(path: &str) -> bool {
    let krate = path.strip_prefix("crates/").and_then(|rest| rest.split('/').next());
    krate.is_some_and(|krate| DECIDING.contains(&krate)) && path.contains("/src/")
}

fn check_everywhere(path: &str, code: &str) -> Vec<Finding> {
    let rules: [(&str, &str); 5] = [
        ("#[ignore]", "an ignored test needs a reason: `#[ignore = \"why\"]`"),
        ("#[allow(", "use `#[expect(..., reason = \"why\")]`, which complains when it is no longer needed"),
        ("#![allow(", "use `#![expect(..., reason = \"why\")]`, which complains when it is no longer needed"),
        ("todo!", "unfinished code"),
        ("unimplemented!", "unfinished code"),
    ];
    let found = rules.iter().flat_map(|(pattern, message)| {
        words(code, pattern).map(move |at| Finding::at(path, line_of(code, at), *message))
    });
    found.collect()
}

fn check_length(path: &str, shipped: &str) -> Option<Finding> {
    let lines = shipped.lines().filter(|line| !line.trim().is_empty()).count();
    let message = || format!("{lines} lines of code without tests and comments, more than {MAX_LINES}: split it");
    (lines > MAX_LINES).then(|| Finding::about(path, message()).into_warning())
}

fn check_pure(path: &str, shipped: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    for word in BANNED_WORDS {
        findings.extend(words(shipped, word).map(|at| impure(path, shipped, at, word)));
    }
    for at in words(shipped, "std::") {
        for module in std_modules(&shipped[at + "std::".len()..]) {
            findings.push(impure(path, shipped, at, &format!("std::{module}")));
        }
    }
    findings
}

fn impure(path: &str, text: &str, at: usize, what: &str) -> Finding {
    let what = what.trim_end_matches("::");
    Finding::at(path, line_of(text, at), format!("`{what}` in a crate that decides and does no I/O"))
}

/// The banned modules named right after `std::`, alone or in a `{...}` group.
fn std_modules(rest: &str) -> Vec<&'static str> {
    let named: Vec<&str> = match rest.strip_prefix('{') {
        Some(group) => top_level_names(group),
        None => vec![rest],
    };
    let is_banned = |name: &str, module: &str| {
        // Constants of the compilation target read nothing.
        let tail = name.strip_prefix(module);
        tail.is_some_and(|tail| !tail.starts_with(is_name_char) && !tail.starts_with("::consts"))
    };
    let banned = BANNED_MODULES.iter().filter(|module| named.iter().any(|name| is_banned(name, module)));
    banned.copied().collect()
}

/// The entries of a `use` group, inner groups left out.
fn top_level_names(group: &str) -> Vec<&str> {
    let (mut depth, mut start, mut names) = (0, 0, Vec::new());
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => {
                names.push(group[start..at].trim());
                break;
            }
            '}' => depth -= 1,
            ',' if depth == 0 => {
                names.push(group[start..at].trim());
                start = at + 1;
            }
            _ => {}
        }
    }
    names
}

/// Where `pattern` stands as a word of its own.
fn words<'a>(text: &'a str, pattern: &'a str) -> impl Iterator<Item = usize> + 'a {
    let starts_a_word = pattern.starts_with(is_name_char);
    let ends_a_word = pattern.ends_with(is_name_char);
    text.match_indices(pattern).map(|(at, _)| at).filter(move |at| {
        let before = text[..*at].ends_with(is_name_char);
        let after = text[at + pattern.len()..].starts_with(is_name_char);
        !(starts_a_word && before || ends_a_word && after)
    })
}

fn is_name_char(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::fixture::{assert_found, repo};

    fn check_core(code: &str, expected: &[&str]) {
        assert_found(&check(&repo(&[("crates/core/src/lib.rs", code)])), expected);
    }

    #[test]
    fn deciding_crates_are_pure() {
        check_core("use std::fs;", &["`std::fs`"]);
        check_core("\n\nuse std::{collections::BTreeMap, fs::File, io};", &["lib.rs:3: `std::fs`"]);
        check_core("let x = ::std::process::id();", &["`std::process`"]);
        check_core("std::env::var(x)", &["`std::env`"]);
        check_core("use std::net::TcpStream;", &["`std::net`"]);
        check_core("Instant::now()", &["`Instant::now`"]);
        check_core("use std::time::{Duration, SystemTime};", &["`SystemTime`"]);
        check_core("tokio::spawn(x); println!()", &["`tokio`", "`println!`"]);
    }

    #[test]
    fn what_is_pure_passes() {
        check_core("use std::fmt; use std::path::Path; use std::env::consts::OS; use std::{fmt::Write, io};", &[]);
        check_core("// std::fs\nlet s = \"std::fs\"; mystd::fs(); std::fsx::y();", &[]);
        check_core("#[cfg(test)] mod tests { use std::fs; }", &[]);
        assert_found(&check(&repo(&[("crates/disk/src/lib.rs", "use std::fs;")])), &[]);
        assert_found(&check(&repo(&[("crates/core/tests/t.rs", "use std::fs;")])), &[]);
    }

    #[test]
    fn suppressions_and_unfinished_code_are_found_in_tests_too() {
        let code =
            "#[ignore]\nfn a() {}\n#[allow(dead_code)]\nfn b() { todo!() }\n#[cfg(test)] mod t { unimplemented!() }";
        let files = repo(&[("crates/disk/src/lib.rs", code)]);
        let expected = ["lib.rs:1: an ignored", "lib.rs:3: use `#[expect", "lib.rs:4: unfin", "lib.rs:5: unfin"];
        assert_found(&check(&files), &expected);
        let good = "#[ignore = \"needs a cluster\"]\n#[expect(dead_code, reason = \"x\")]\n// todo!\nfn mytodo() {}";
        assert_found(&check(&repo(&[("crates/disk/src/lib.rs", good)])), &[]);
    }

    #[test]
    fn long_files_are_a_warning_and_tests_do_not_count() {
        let long = "fn a() {}\n".repeat(MAX_LINES + 1);
        assert_found(&check(&repo(&[("crates/disk/src/lib.rs", &long)])), &["warning: crates/disk/src/lib.rs: 501"]);
        let tests = format!("fn a() {{}}\n#[cfg(test)] mod tests {{\n{long}}}");
        assert_found(&check(&repo(&[("crates/disk/src/lib.rs", &tests)])), &[]);
    }
}
