//! `cargo xtask ci` and `cargo xtask test`: the whole CI, in the order in which failures are cheapest to learn.
//!
//! Everything is built in the dev profile, so that tests, examples and the binary they run share one build.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::step::{Report, Step, cargo_program, target_dir};
use crate::tidy;

/// All checks; the tests too unless the caller has just run them.
pub fn run_ci(root: &Path, with_tests: bool) -> bool {
    let mut report = Report::new();
    report.run(Step::cargo(root, "fmt", &["fmt", "--all", "--check"]));
    report.check("tidy", || tidy::run(root));
    report.run(Step::cargo(
        root,
        "clippy",
        &["clippy", "--locked", "--workspace", "--all-targets", "--", "-D", "warnings"],
    ));
    report.run(
        Step::cargo(root, "doc", &["doc", "--locked", "--workspace", "--no-deps", "--document-private-items"])
            .env("RUSTDOCFLAGS", "-D warnings"),
    );
    if with_tests {
        add_tests(&mut report, root);
    }
    report.finish()
}

/// Unit, scenario and doc tests, then the examples as a user would build them.
pub fn run_tests(root: &Path) -> bool {
    let mut report = Report::new();
    add_tests(&mut report, root);
    report.finish()
}

fn add_tests(report: &mut Report, root: &Path) {
    let runner: &[&str] = if has_nextest(root) {
        &["nextest", "run", "--locked", "--workspace", "--no-fail-fast"]
    } else {
        &["test", "--locked", "--workspace", "--all-targets", "--no-fail-fast"]
    };
    report.run(Step::cargo(root, "tests", runner));
    report.run(Step::cargo(root, "doc tests", &["test", "--locked", "--workspace", "--doc"]));
    // All targets, because then cargo unifies features as for the tests and has nothing left to build.
    report.run(Step::cargo(root, "binary", &["build", "--locked", "--workspace", "--all-targets"]));
    let binary = target_dir(root).join("debug/minibuild");
    report.run(Step::new(root, "examples", "scripts/test-examples", &[]).env("MINIBUILD", &binary.to_string_lossy()));
}

fn has_nextest(root: &Path) -> bool {
    let mut probe = Command::new(cargo_program());
    probe.args(["nextest", "--version"]).current_dir(root);
    probe.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    probe.status().is_ok_and(|status| status.success())
}
