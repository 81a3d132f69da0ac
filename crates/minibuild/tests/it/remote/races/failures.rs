//! Failures of one side or both: which of them decide, and what is shown.

use minibuild_testkit::{Run, Workspace};

use super::{Remote, races, runners, sides};
use crate::{genrule, with_targets};

/// Who goes first, once both are there.
#[derive(Clone, Copy, PartialEq)]
enum First {
    Here,
    There,
}

/// Races one action whose branches wait for each other, and does not let the second go before the build knows that the first failed:
/// that its process is dead is not enough.
fn race(remote: &Remote, first: First, here: &str, there: &str, flags: &[&str]) -> (Workspace, Run) {
    let ws = with_targets("");
    let (mut gate_here, mut gate_there) = (ws.gate("here"), ws.gate("there"));
    let command = sides(&format!("{}; {here}", gate_here.pass()), &format!("{}; {there}", gate_there.pass()));
    ws.write("BUILD.toml", genrule("a", &[], &["a"], &command));
    let build = remote.start_race(&ws, &[&["//..."], flags].concat());
    gate_here.arrival();
    gate_there.arrival();
    let (opens, branch, next) = match first {
        First::Here => (&mut gate_here, "local", &mut gate_there),
        First::There => (&mut gate_there, "remote", &mut gate_here),
    };
    opens.open();
    build.wait_for_event(&format!(r#""branch":"{branch}","outcome":"failed""#));
    next.open();
    let run = build.wait();
    (ws, run)
}

const FINE: &str = "echo fine; echo a > $OUT";

#[test]
fn d19_local_fails_first_with_exit_1() {
    let (_, run) = race(&Remote::new(), First::Here, "echo bad here; exit 1", "sleep 1000", &[]);
    let run = run.code(1).says(&["exit code 1", "bad here"]);
    assert_eq!(races(&run), (1, 0, 0));
}

#[test]
fn d20_remote_fails_first_with_exit_1() {
    let (ws, run) = race(&Remote::new(), First::There, "echo bad here; sleep 1000", "echo bad there; exit 1", &[]);
    run.code(1).says(&["exit code 1", "\nbad there\n"]).says_nothing_of("\nbad here\n").says_nothing_of("outlived");
    ws.nothing_is_left_running();
}

#[test]
fn d21_local_killed_by_signal_lets_remote_decide() {
    let (ws, run) = race(&Remote::new(), First::Here, "kill -9 $$", FINE, &[]);
    assert_eq!((runners(&run.ok()), ws.output("a").as_str()), (vec![("//:a", "remote")], "a\n"));
}

#[test]
fn d22_local_tool_missing_lets_remote_decide() {
    let (ws, run) = race(&Remote::new(), First::Here, "echo b > $OUT; exit 127", FINE, &[]);
    assert_eq!((runners(&run.ok()), ws.output("a").as_str()), (vec![("//:a", "remote")], "a\n"));
}

#[test]
fn d41_exit_127_on_the_other_side() {
    let (ws, run) = race(&Remote::new(), First::There, FINE, "exit 127", &[]);
    assert_eq!((runners(&run.ok()), ws.output("a").as_str()), (vec![("//:a", "local")], "a\n"));
}

#[test]
fn d23_remote_infrastructure_error_lets_local_decide() {
    let remote = Remote::with("[[fault]]\nkind = \"error\"\nmethod = \"Execute\"\ncode = \"INTERNAL\"\n");
    let ws = with_targets(&genrule("a", &[], &["a"], FINE));
    let run = remote.race(&ws, &["//...", "--remote-retries=0"]).ok();
    assert_eq!((runners(&run), ws.output("a").as_str()), (vec![("//:a", "local")], "a\n"));
}

#[test]
fn d24_both_fail() {
    let (_, run) = race(&Remote::new(), First::Here, "echo log here; kill -9 $$", "echo log there; exit 3", &[]);
    let run = run.code(1).says(&["exit code 3", "log there", "signal 9", "log here"]);
    let shown = format!("{}{}", run.stdout, run.stderr);
    assert!(shown.find("exit code 3") < shown.find("signal 9"), "the command's own failure comes first:\n{shown}");
}

#[test]
fn d25_ignorable_local_failure_then_remote_fails() {
    let (_, run) = race(&Remote::new(), First::Here, "kill -9 $$", "kill -9 $$", &[]);
    run.code(1).says(&["signal 9"]).says_nothing_of("panicked");
}

#[test]
fn d18_remote_lacks_a_declared_output() {
    let (ws, run) = race(&Remote::new(), First::There, FINE, "true", &[]);
    assert_eq!((runners(&run.ok()), ws.output("a").as_str()), (vec![("//:a", "local")], "a\n"));
    let (_, run) = race(&Remote::new(), First::There, "kill -9 $$", "true", &[]);
    run.code(1);
}

#[test]
fn d37_server_dies_mid_race() {
    let (remote, ws) = (Remote::new(), with_targets(""));
    let (mut here, mut there) = (ws.gate("here"), ws.gate("there"));
    let held = sides(&format!("{}; echo a > $OUT", here.pass()), &there.pass());
    ws.write("BUILD.toml", genrule("a", &[], &["a"], &held) + &genrule("b", &[":a"], &["b"], "cat $SRC > $OUT"));
    let build = remote.start_race(&ws, &["//...", "--remote-retries=0", "--remote-timeout=5s"]);
    here.arrival();
    there.arrival();
    remote.stop();
    here.open();
    let run = build.wait().ok();
    assert_eq!((run.counts().local, ws.output("b").as_str()), (2, "a\n"));
    remote.restart("");
    ws.write("BUILD.toml", genrule("c", &[], &["c"], &sides("sleep 1000", "echo c > $OUT")));
    let run = remote.race(&ws, &["//..."]).ok();
    assert_eq!(runners(&run), [("//:c", "remote")], "the server is used again");
}

#[test]
fn d24_both_fail_one_after_the_other() {
    // What `b` reads is on the server only, and is brought here for the other try.
    let (remote, ws) = (Remote::new(), with_targets(""));
    let mut here = ws.gate("here");
    let made = genrule("a", &[], &["a"], "echo a > $OUT");
    ws.write("BUILD.toml", &made);
    remote.build(&ws, &["//:a", "--download=minimal"]).ok();
    let both = |here: &str| sides(here, "echo log there; kill -9 $$");
    ws.write(
        "BUILD.toml",
        made.clone() + &genrule("b", &[":a"], &["b"], &both(&format!("{}; echo log here; exit 3", here.pass()))),
    );
    let build = remote.start_race(&ws, &["//:b", "--download=minimal"]);
    build.wait_for_event(r#""branch":"remote","outcome":"failed""#);
    here.open();
    let run = build.wait().code(1);
    let run = run.says(&["exit code 3", "log here", "remotely, too: exit code 137", "log there"]);
    assert!(run.stderr.find("exit code 3") < run.stderr.find("exit code 137"), "{}", run.stderr);
    // What failed there is not shown where this side decides otherwise.
    ws.write("BUILD.toml", made + &genrule("b", &[":a"], &["b"], &both("echo log here; cat $SRC > $OUT")));
    let run = remote.race(&ws, &["//:b", "--download=minimal"]).ok().says(&["log here"]).says_nothing_of("log there");
    assert_eq!(runners(&run), [("//:b", "local")]);
}
