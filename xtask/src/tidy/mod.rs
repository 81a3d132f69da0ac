//! `cargo xtask tidy`: the promises of `ARCHITECTURE.md` that a machine can check.
//!
//! Each check is a function from the repository's texts to findings, so that it is tested on invented files. Only
//! this module reads the disk and runs git and cargo.

mod docs;
mod edges;
mod lint;
mod lock;
mod modules;
mod rust_text;
mod texts;

use std::fmt;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::step::cargo_program;

/// One thing that is not as promised.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    path: String,
    line: Option<usize>,
    message: String,
    is_warning: bool,
}

impl Finding {
    /// An error about a whole file or directory.
    pub fn about(path: &str, message: impl Into<String>) -> Finding {
        Finding { path: path.to_owned(), line: None, message: message.into(), is_warning: false }
    }

    /// An error at a line, counted from 1.
    pub fn at(path: &str, line: usize, message: impl Into<String>) -> Finding {
        Finding { line: Some(line), ..Finding::about(path, message) }
    }

    /// The same, shown but not failing.
    pub fn into_warning(self) -> Finding {
        Finding { is_warning: true, ..self }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.is_warning { "warning" } else { "error" };
        match self.line {
            Some(line) => write!(f, "{kind}: {}:{line}: {}", self.path, self.message),
            None => write!(f, "{kind}: {}: {}", self.path, self.message),
        }
    }
}

/// A file of the repository, its path relative to the root with `/` between names.
#[derive(Debug, Clone)]
pub struct RepoFile {
    pub path: String,
    /// Nothing if it is not UTF-8.
    pub text: Option<String>,
}

impl RepoFile {
    /// The text, empty for a binary file.
    pub fn text(&self) -> &str {
        self.text.as_deref().unwrap_or_default()
    }

    /// Whether rustc reads it.
    pub fn is_rust(&self) -> bool {
        self.path.ends_with(".rs") && !self.path.starts_with("examples/") && !self.path.starts_with("testdata/")
    }
}

/// Runs every check on the repository; true if nothing but warnings was found.
pub fn run(root: &Path) -> bool {
    let findings = match collect(root) {
        Ok(findings) => findings,
        Err(message) => {
            eprintln!("tidy: {message}");
            return false;
        }
    };
    for finding in &findings {
        eprintln!("{finding}");
    }
    let errors = findings.iter().filter(|finding| !finding.is_warning).count();
    eprintln!("tidy: {errors} errors, {} warnings", findings.len() - errors);
    errors == 0
}

fn collect(root: &Path) -> Result<Vec<Finding>, String> {
    let files = read_files(root)?;
    let args = ["metadata", "--format-version", "1", "--no-deps", "--locked"];
    let packages = edges::parse_metadata(&output_of(root, &cargo_program(), &args)?)?;
    let mut findings = edges::check(&packages);
    findings.extend(lock::check_licences(&packages));
    findings.extend(lock::check_lock(&files));
    findings.extend(lock::check_built(&output_of(root, &cargo_program(), &lock::tree_arguments())?));
    findings.extend(modules::check(&files));
    findings.extend(lint::check(&files));
    findings.extend(texts::check(&files));
    findings.extend(docs::check(&files));
    Ok(findings)
}

/// All files git tracks or would offer to add: a new file is checked before it is committed.
fn read_files(root: &Path) -> Result<Vec<RepoFile>, String> {
    let listing = output_of(root, "git", &["ls-files", "-z", "--cached", "--others", "--exclude-standard"])?;
    let mut files = Vec::new();
    for path in listing.split('\0').filter(|path| !path.is_empty()) {
        let on_disk = root.join(path);
        // A file deleted but not yet committed, and a symlink to a directory, are no files to read.
        if on_disk.is_file() {
            let bytes = std::fs::read(&on_disk).map_err(|error| format!("cannot read `{path}`: {error}"))?;
            files.push(RepoFile { path: path.to_owned(), text: String::from_utf8(bytes).ok() });
        }
    }
    Ok(files)
}

fn output_of(root: &Path, program: &str, args: &[&str]) -> Result<String, String> {
    let mut command = Command::new(program);
    command.args(args).current_dir(root).stdin(Stdio::null());
    let output = command.output().map_err(|error| format!("cannot run `{program}`: {error}"))?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        return Err(format!("`{program} {}` failed: {}\n{stderr}", args.join(" "), output.status));
    }
    String::from_utf8(output.stdout).map_err(|_| format!("`{program}` printed something that is not UTF-8"))
}

/// Invented repositories for the tests of the checks.
#[cfg(test)]
pub mod fixture {
    use super::{Finding, RepoFile};

    /// A repository of these files.
    pub fn repo(files: &[(&str, &str)]) -> Vec<RepoFile> {
        files.iter().map(|(path, text)| RepoFile { path: (*path).into(), text: Some((*text).into()) }).collect()
    }

    /// `path:line: message` of each finding (`path: message` without a line).
    pub fn shown(findings: &[Finding]) -> Vec<String> {
        findings.iter().map(ToString::to_string).collect()
    }

    /// Asserts that one finding a pattern exists, in order, each containing its pattern.
    pub fn assert_found(findings: &[Finding], expected: &[&str]) {
        let shown = shown(findings);
        assert_eq!(shown.len(), expected.len(), "found {shown:#?}, expected {expected:#?}");
        for (text, pattern) in shown.iter().zip(expected) {
            assert!(text.contains(pattern), "`{text}` should contain `{pattern}`");
        }
    }
}
