//! One build at a time in a workspace.

use minibuild_testkit::{Gate, Running, Signal, Workspace};

use crate::{genrule, workspace};

/// `//:slow` waits at the gate; `//:other` does not.
fn gated() -> (Workspace, Gate) {
    let ws = workspace();
    let gate = ws.gate("g");
    let cmd = format!("{}; echo slow > $OUT", gate.pass());
    ws.write("BUILD.toml", genrule("slow", &[], &["slow"], &cmd) + &genrule("other", &[], &["other"], ": > $OUT"));
    (ws, gate)
}

/// Starts a build that holds the lock.
fn hold(ws: &Workspace, gate: &mut Gate) -> Running {
    let first = ws.start_build(&["//:slow"]);
    gate.arrival();
    first
}

#[test]
fn a_second_build_waits_and_says_for_whom() {
    let (ws, mut gate) = gated();
    let first = hold(&ws, &mut gate);
    let mut second = ws.start_build(&["//:other"]);
    second.wait_for_stderr("waiting for");
    let told = second.stderr_so_far();
    assert!(
        told.contains(&format!("process {}", first.pid()))
            && told.contains("minibuild build ")
            && told.contains("//:slow"),
        "{told}"
    );
    assert!(!second.has_ended() && !ws.has_output("other"));
    gate.open();
    first.wait().ok();
    let run = second.wait().ok().started_only(&["//:other"]);
    assert_eq!(run.stderr.matches("waiting for").count(), 1, "it is said once");
}

#[test]
fn clean_waits_too() {
    let (ws, mut gate) = gated();
    let first = hold(&ws, &mut gate);
    let mut clean = ws.invoke(&["clean"]).start();
    clean.wait_for_stderr("waiting for");
    gate.open();
    first.wait().ok();
    clean.wait().ok();
    assert!(!ws.has_output("slow"));
}

#[test]
fn a_build_that_waits_for_clean_all_makes_everything_anew() {
    let (ws, mut gate) = gated();
    let first = hold(&ws, &mut gate);
    let mut clean = ws.invoke(&["clean", "--all"]).start();
    clean.wait_for_stderr("waiting for");
    let mut third = ws.start_build(&["//:other"]);
    third.wait_for_stderr("waiting for");
    gate.open();
    first.wait().ok();
    clean.wait().ok();
    third.wait().ok();
    gate.open();
    ws.build(&["//..."]).ok();
    assert_eq!(ws.outputs().len(), 2);
}

#[test]
fn whoever_waits_can_be_interrupted() {
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        let (ws, mut gate) = gated();
        let first = hold(&ws, &mut gate);
        let mut second = ws.start_build(&["//:other"]);
        second.wait_for_stderr("waiting for");
        second.signal(signal);
        second.wait().code(8).started_only(&[]);
        gate.open();
        first.wait().ok();
    }
}

#[test]
fn many_builds_at_once_are_all_right() {
    let ws = workspace().file("in", "1");
    let targets: String =
        (0..8).map(|i| genrule(&format!("t{i}"), &["in"], &[&format!("t{i}")], "cat $SRC > $OUT")).collect();
    ws.write("BUILD.toml", targets);
    let builds: Vec<Running> = (0..8).map(|_| ws.start_build(&["//..."])).collect();
    let ran: usize = builds.into_iter().map(|build| build.wait().ok().ran().len()).sum();
    assert_eq!(ran, 8, "each action ran once");
}

#[test]
fn another_workspace_is_another_lock() {
    let (ws, mut gate) = gated();
    let first = hold(&ws, &mut gate);
    let inner = ws.file("inner/minibuild.toml", "").file("inner/BUILD.toml", genrule("a", &[], &["a"], ": > $OUT"));
    inner.run(&["-C", "inner", "build", "//:a"]).ok().says_nothing_of("waiting");
    gate.open();
    first.wait().ok();
}
