//! Development tasks, run as `cargo xtask TASK`.
//!
//! Reads the command line and starts one task. What a task does lies in its module; this file knows only their
//! names.

mod bench;
mod chart;
mod ci;
mod dist;
mod sim;
mod step;
mod tidy;

use std::path::PathBuf;
use std::process::ExitCode;

const USAGE: &str = "\
usage: cargo xtask TASK

  ci [--no-test]   everything a change must pass: format, lints, documentation, tidy, tests
  test             all tests: unit, scenario and doc tests, then the examples
  tidy             checks on the repository itself (crate edges, module docs, pure crates, ...)
  bench-read [BYTES]
                   a blob up to the embedded server and down again: a yardstick for minibuild's own transfers
  bench-read many [COUNT [BYTES [COUNT [BYTES [CONNECTIONS]]]]]
                   so many small blobs and so many large ones down, hashed and written to files
  bench-sleep [ACTIONS [SECONDS [WORKERS]]]
                   actions that only sleep on the embedded server: what is beyond the sleeping is overhead
  bench-picture TABLE
                   draws what `scripts/bench` printed (a file with its table) as docs/bench.svg
  sim [--workloads FILE.jsonl | --quick | --large | --help]
                   the adaptive policy beside its rivals under a virtual clock, and whether its bars are met
  dist             the static release binary; prints its path
";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let root = repository_root();
    let passed = match words.as_slice() {
        ["ci"] => ci::run_ci(&root, true),
        ["ci", "--no-test"] => ci::run_ci(&root, false),
        ["test"] => ci::run_tests(&root),
        ["tidy"] => tidy::run(&root),
        ["bench-read", "many", rest @ ..] => bench::run(&root, &[&["read"], rest].concat()),
        ["bench-read", rest @ ..] => bench::run(&root, &[&["transfer"], rest].concat()),
        ["bench-sleep", rest @ ..] => bench::run(&root, &[&["sleep"], rest].concat()),
        ["bench-picture", table] => chart::run(&root, table),
        ["sim", rest @ ..] => sim::run(&root, rest),
        ["sim-here", rest @ ..] => sim::run_here(&root, rest),
        ["dist"] => dist::run(&root),
        _ => {
            eprint!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The directory above this package: where the workspace's `Cargo.toml` lies.
fn repository_root() -> PathBuf {
    let package = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    package.parent().map(PathBuf::from).unwrap_or(package)
}
