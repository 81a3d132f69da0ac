//! One named command of a task: run it, say how long it took, remember whether it passed.
//!
//! Knows nothing of what the commands do; the tasks put them in order.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// A command with the name it has in the summary.
pub struct Step {
    name: &'static str,
    command: Command,
}

impl Step {
    /// A step that runs `program` in `root`, without stdin.
    pub fn new(root: &Path, name: &'static str, program: &str, args: &[&str]) -> Step {
        let mut command = Command::new(program);
        command.args(args).current_dir(root).stdin(Stdio::null());
        Step { name, command }
    }

    /// A step that runs cargo, the same one that runs this program.
    pub fn cargo(root: &Path, name: &'static str, args: &[&str]) -> Step {
        Step::new(root, name, &cargo_program(), args)
    }

    /// Sets one variable of its environment.
    pub fn env(mut self, key: &str, value: &str) -> Step {
        self.command.env(key, value);
        self
    }
}

/// The results of the steps run so far.
pub struct Report {
    rows: Vec<(&'static str, bool, Duration)>,
}

impl Report {
    /// An empty report.
    pub fn new() -> Report {
        Report { rows: Vec::new() }
    }

    /// Runs a step to its end, its output passed through.
    pub fn run(&mut self, mut step: Step) {
        self.check(step.name, || match step.command.status() {
            Ok(status) => status.success(),
            Err(error) => {
                eprintln!("xtask: cannot run `{}`: {error}", step.command.get_program().to_string_lossy());
                false
            }
        });
    }

    /// Runs a check that lives in this program.
    pub fn check(&mut self, name: &'static str, check: impl FnOnce() -> bool) {
        eprintln!("==> {name}");
        let start = Instant::now();
        let passed = check();
        self.rows.push((name, passed, start.elapsed()));
    }

    /// Prints one line a step; true if all passed.
    pub fn finish(self) -> bool {
        eprintln!("\nxtask summary");
        for (name, passed, took) in &self.rows {
            eprintln!("{}", summary_line(name, *passed, *took));
        }
        self.passed()
    }

    /// Whether all steps so far passed.
    pub fn passed(&self) -> bool {
        self.rows.iter().all(|(_, passed, _)| *passed)
    }
}

fn summary_line(name: &str, passed: bool, took: Duration) -> String {
    let verdict = if passed { "ok" } else { "FAILED" };
    format!("  {verdict:<6} {name:<12} {:>7.1} s", took.as_secs_f64())
}

/// Cargo's own path when it started us, so that a chosen toolchain stays chosen.
pub fn cargo_program() -> String {
    std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned())
}

/// Where cargo puts what it builds.
pub fn target_dir(root: &Path) -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), |dir| root.join(dir))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_failed_check_fails_the_report() {
        for (outcomes, expected) in [(vec![true, true], true), (vec![true, false, true], false), (vec![], true)] {
            let mut report = Report::new();
            for outcome in &outcomes {
                report.check("check", || *outcome);
            }
            assert_eq!(report.finish(), expected, "{outcomes:?}");
        }
    }

    #[test]
    fn a_program_that_does_not_exist_is_a_failed_step() {
        let mut report = Report::new();
        report.run(Step::new(Path::new("."), "absent", "no-such-program-of-ours", &[]));
        assert!(!report.finish());
    }

    #[test]
    fn the_exit_code_decides() {
        for (script, expected) in [("exit 0", true), ("exit 3", false)] {
            let mut report = Report::new();
            report.run(Step::new(Path::new("."), "sh", "sh", &["-c", script]));
            assert_eq!(report.finish(), expected, "{script}");
        }
    }

    #[test]
    fn summary_lines_say_the_verdict_first() {
        assert_eq!(summary_line("tidy", true, Duration::from_millis(1500)), "  ok     tidy             1.5 s");
        assert!(summary_line("tidy", false, Duration::ZERO).contains("FAILED"));
    }
}
