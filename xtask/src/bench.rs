//! `cargo xtask bench-read` and `cargo xtask bench-sleep`: yardsticks against a `minibuild serve` in release mode.
//!
//! What is measured and how is in `crates/server/examples/yardstick`; this builds and runs it.

use std::path::Path;

use crate::step::{Report, Step, target_dir};

/// Builds server and client, and runs the client with these words.
pub fn run(root: &Path, words: &[&str]) -> bool {
    let mut report = Report::new();
    let build = ["build", "--locked", "--release", "--package"];
    report.run(Step::cargo(root, "server", &[&build[..], &["minibuild"]].concat()));
    let example = ["minibuild-server", "--example", "yardstick"];
    report.run(Step::cargo(root, "client", &[&build[..], &example].concat()));
    if !report.passed() {
        return report.finish();
    }
    let release = target_dir(root).join("release");
    let (client, server) = (release.join("examples/yardstick"), release.join("minibuild"));
    let server = server.to_string_lossy();
    let args = [&[&*server][..], words].concat();
    report.run(Step::new(root, "benchmark", &client.to_string_lossy(), &args));
    report.finish()
}
