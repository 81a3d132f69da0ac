//! Scenario tests: the real binary on private workspaces, one module for each subject. All go through
//! `minibuild-testkit`; none sleeps or says how fast something has to be.

mod actions;
mod bad_actions;
mod bad_state;
mod bad_toml;
mod basics;
mod c_rules;
mod chaos;
mod compdb;
mod completions;
mod config;
mod differential;
mod disk_cache;
mod edits;
mod events;
mod exit_codes;
mod explain;
mod file_systems;
mod interrupts;
mod jobserver;
mod links;
mod locking;
mod output_text;
mod outputs;
mod profile;
mod query;
mod remote;
mod resources;
mod restore;
mod run_cmd;
mod serve;
mod signals;
mod snapshot;
mod store;
mod streamed_tests;
mod tell;
mod test_cmd;
mod tools;

use minibuild_testkit::Workspace;

/// An empty workspace for the binary under test.
fn workspace() -> Workspace {
    Workspace::new(env!("CARGO_BIN_EXE_minibuild"))
}

/// A workspace whose root package has these targets.
fn with_targets(targets: &str) -> Workspace {
    workspace().file("BUILD.toml", targets)
}

/// A genrule; further keys can be appended.
fn genrule(name: &str, srcs: &[&str], outs: &[&str], cmd: &str) -> String {
    format!("[[genrule]]\nname = {name:?}\nsrcs = {srcs:?}\nouts = {outs:?}\ncmd = {cmd:?}\n")
}

/// A test with a command; further keys can be appended.
fn test(name: &str, srcs: &[&str], cmd: &str) -> String {
    format!("[[test]]\nname = {name:?}\nsrcs = {srcs:?}\ncmd = {cmd:?}\n")
}
