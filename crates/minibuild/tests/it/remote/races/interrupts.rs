//! Ctrl-C at each step of a race. Gates, hanging calls and a stopped helper hold the build where it is to be hit.

use minibuild_testkit::{Gate, Signal, Workspace, kill};

use super::{Build, Remote, branches, one, sides};
use crate::{genrule, with_targets};

/// Faults by which calls of these methods are never answered.
fn hang(methods: &[&str]) -> String {
    methods.iter().map(|method| format!("[[fault]]\nkind = \"hang\"\nmethod = {method:?}\n")).collect()
}

const DOWNLOADS: [&str; 2] = ["BatchReadBlobs", "Read"];

/// Ctrl-C ends it, and nothing that it started lives on.
#[track_caller]
fn interrupt(remote: &Remote, ws: &Workspace, build: Build) -> minibuild_testkit::Run {
    build.signal(Signal::SIGINT);
    let run = build.wait().code(8);
    // Workers may still wait at a gate.
    remote.stop();
    ws.nothing_is_left_running();
    run
}

/// Ctrl-C stops both branches, and half of `a` is not left.
#[track_caller]
fn interrupt_both(remote: &Remote, ws: &Workspace, build: Build) {
    let run = interrupt(remote, ws, build);
    let mut ends = branches(&run);
    ends.sort_unstable();
    assert_eq!(ends, [("local", "stopped"), ("remote", "stopped")]);
    assert!(!ws.has_output("a"), "half an output is left");
}

/// The next build makes all there is to make, and the one after that nothing.
#[track_caller]
fn build_again(remote: &Remote, ws: &Workspace, expected: &[(&str, &str)]) {
    remote.restart("");
    remote.race(ws, &["//..."]).ok();
    for (path, text) in expected {
        assert_eq!(ws.output(path), *text, "{path}");
    }
    remote.race(ws, &["//..."]).ok_without_running();
}

#[test]
fn d26_interrupt_before_anything_starts() {
    for method in ["GetCapabilities", "GetActionResult"] {
        let remote = Remote::with(&hang(&[method]));
        // Here it would start at once.
        let ws = with_targets(&(genrule("a", &[], &["a"], "echo a > $OUT") + "tags = [\"no-local\"]\n"));
        let build = remote.start_race(&ws, &["//..."]);
        build.wait_until("the server is asked", || remote.calls(&[method]) > 0);
        let run = interrupt(&remote, &ws, build);
        assert!(run.ran().is_empty(), "{method}: {:?}", run.ran());
        assert!(!ws.has_output("a"), "{method}");
        build_again(&remote, &ws, &[("a", "a\n")]);
    }
}

#[test]
fn d26_interrupt_during_the_upload_of_inputs() {
    let uploads = ["FindMissingBlobs", "BatchUpdateBlobs", "Write"];
    for method in &uploads[..2] {
        let (remote, ws) = (Remote::with(&hang(&[method])), with_targets("").file("in", "in\n"));
        let mut here = ws.gate("here");
        let command = sides(&format!("{}; cp $SRC $OUT", here.pass()), "cp $SRC $OUT");
        ws.write("BUILD.toml", genrule("a", &["in"], &["a"], &command));
        let build = remote.start_race(&ws, &["//..."]);
        here.arrival();
        build.wait_until("the input is being sent", || remote.calls(&[method]) > 0);
        interrupt(&remote, &ws, build);
        assert!(!ws.has_output("a"), "{method}");
        here.open();
        build_again(&remote, &ws, &[("a", "in\n")]);
    }
}

#[test]
fn d26_interrupt_during_the_fetch_of_an_input() {
    let (remote, ws) = (Remote::new(), with_targets(""));
    let big = "i=0; while [ $i -lt 9 ]; do echo $i; i=$((i+1)); done > $OUT";
    let targets = genrule("big", &[], &["big"], big)
        + &genrule("a", &[":big"], &["a"], "wc -l < $SRC > $OUT")
        + "tags = [\"no-remote\"]\n";
    ws.write("BUILD.toml", &targets);
    remote.build(&ws, &["//:big", "--download=minimal"]).ok();
    remote.restart(&hang(&DOWNLOADS));
    let build = remote.start_race(&ws, &["//..."]);
    build.wait_until("the input is being brought", || remote.calls(&DOWNLOADS) > 0);
    interrupt(&remote, &ws, build);
    assert!(!ws.has_output("big") && !ws.has_output("a"));
    build_again(&remote, &ws, &[("a", "9\n"), ("big", "0\n1\n2\n3\n4\n5\n6\n7\n8\n")]);
}

#[test]
fn d26_interrupt_during_the_run() {
    let (remote, ws) = (Remote::new(), with_targets(""));
    let (mut here, mut there) = (ws.gate("here"), ws.gate("there"));
    let command = format!("echo half > $OUT; {}; echo a > $OUT", here.pass());
    ws.write("BUILD.toml", one(&command, &format!("{}; echo a > $OUT", there.pass())));
    let build = remote.start_race(&ws, &["//..."]);
    here.arrival();
    there.arrival();
    interrupt_both(&remote, &ws, build);
    here.open();
    there.open();
    build_again(&remote, &ws, &[("a", "a\n")]);
}

#[test]
fn d26_interrupt_during_the_download() {
    let (remote, ws) = (Remote::with(&hang(&DOWNLOADS)), with_targets(""));
    let mut here = ws.gate("here");
    ws.write("BUILD.toml", one(&format!("echo half > $OUT; {}; echo a > $OUT", here.pass()), "echo a > $OUT"));
    let build = remote.start_race(&ws, &["//..."]);
    here.arrival();
    build.wait_until("the output is being brought", || remote.calls(&DOWNLOADS) > 0);
    interrupt_both(&remote, &ws, build);
    here.open();
    build_again(&remote, &ws, &[("a", "a\n")]);
}

/// An action that holds the build, which cannot end by itself then before the interrupt comes.
fn held(gate: &Gate) -> String {
    genrule("held", &[], &["held"], &format!("{}; echo held > $OUT", gate.pass())) + "tags = [\"no-remote\"]\n"
}

/// Files in the staging directory that have all their bytes: those are read-only.
fn complete_in_staging(ws: &Workspace) -> usize {
    let staged = std::fs::read_dir(ws.path("minibuild-out/.state/staging")).expect("it is there");
    let is_complete = |entry: &std::fs::DirEntry| entry.metadata().is_ok_and(|m| m.permissions().readonly());
    staged.flatten().filter(is_complete).count()
}

#[test]
fn d26_interrupt_between_claim_and_publish() {
    let (remote, ws) = (Remote::new(), with_targets(""));
    let (mut here, mut there, mut other) = (ws.gate("here"), ws.gate("there"), ws.gate("other"));
    let command = sides(
        &format!("echo half > $OUT; {}; echo here > $OUT", here.pass()),
        &format!("{}; echo there > $OUT", there.pass()),
    );
    ws.write("BUILD.toml", genrule("a", &[], &["a"], &command) + &held(&other));
    let build = remote.start_race(&ws, &["//...", "--jobs=2"]);
    for gate in [&mut here, &mut there, &mut other] {
        gate.arrival();
    }
    // A helper that is stopped does not say that the local command is dead, so the claim cannot go on to its publish.
    let helpers = build.helpers();
    helpers.iter().for_each(|&pid| kill(pid, Signal::SIGSTOP));
    there.open();
    build.wait_until("the output is staged", || complete_in_staging(&ws) == 1);
    build.signal(Signal::SIGINT);
    helpers.iter().for_each(|&pid| kill(pid, Signal::SIGCONT));
    let run = build.wait().code(8);
    remote.stop();
    ws.nothing_is_left_running();
    // What was claimed before the interrupt came is published whole; else nothing is there.
    let ends = branches(&run);
    match ws.has_output("a") {
        true => {
            assert_eq!(ws.output("a"), "there\n");
            assert!(ends.contains(&("local", "lost")) && ends.contains(&("remote", "won")), "{ends:?}");
        }
        false => assert!(ends.contains(&("remote", "stopped")), "{ends:?}"),
    }
    for gate in [&mut here, &mut there, &mut other] {
        gate.open();
    }
    remote.restart("");
    remote.race(&ws, &["//..."]).ok();
    assert_ne!(ws.output("a"), "half\n");
    remote.race(&ws, &["//..."]).ok_without_running();
}

#[test]
fn d26_interrupt_during_the_publish() {
    const MANY: usize = 1500;
    let (remote, ws) = (Remote::new(), with_targets(""));
    let (mut here, mut there, mut other) = (ws.gate("here"), ws.gate("there"), ws.gate("other"));
    let names: Vec<String> = (0..MANY).map(|n| format!("f{n}")).collect();
    let outs: Vec<&str> = names.iter().map(String::as_str).collect();
    let made = "i=0; while [ $i -lt 1500 ]; do echo whole > minibuild-out/bin/f$i; i=$((i+1)); done";
    let command = sides(&format!("{}; {made}", here.pass()), &format!("{}; {made}", there.pass()));
    ws.write("BUILD.toml", genrule("a", &[], &outs, &command) + &held(&other));
    let build = remote.start_race(&ws, &["//...", "--jobs=2"]);
    for gate in [&mut here, &mut there, &mut other] {
        gate.arrival();
    }
    there.open();
    build.wait_until("an output is in its place", || ws.has_output("f0") || ws.has_output("f1499"));
    let run = interrupt(&remote, &ws, build);
    assert!(branches(&run).contains(&("remote", "won")), "{:?}", branches(&run));
    for name in &names {
        assert_eq!(ws.output(name), "whole\n", "{name}: a claim is not taken back");
    }
    assert!(!ws.has_output("held"));
    other.open();
    remote.restart("");
    remote.race(&ws, &["//..."]).ok().started_only(&["//:held"]);
    assert_eq!(ws.output("held"), "held\n");
}
