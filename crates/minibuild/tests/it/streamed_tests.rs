//! `--test-output=streamed`: what a test prints is shown while it runs.

use minibuild_testkit::Running;

use crate::remote::Remote;
use crate::{genrule, test, with_targets, workspace};

const STREAMED: &str = "--test-output=streamed";

#[track_caller]
fn shows_once(stderr: &str, texts: &[&str]) {
    for text in texts {
        assert_eq!(stderr.matches(text).count(), 1, "`{text}` in:\n{stderr}");
    }
}

#[test]
fn lines_of_a_test_are_shown_while_it_runs() {
    for (end, code) in [("", 0), ("; exit 1", 3), ("; kill -9 $$", 3)] {
        let ws = workspace();
        let mut gate = ws.gate("g");
        let cmd = format!("echo one; echo two >&2; printf 'th'; {}; echo ree; printf four{end}", gate.pass());
        ws.write("BUILD.toml", test("t", &[], &cmd));
        let mut build = ws.invoke(&["test", STREAMED, "//..."]).start();
        gate.arrival();
        build.wait_for_stderr("one\n");
        build.wait_for_stderr("two\n");
        assert!(!build.stderr_so_far().contains("th"), "a line that is not whole");
        gate.open();
        let run = build.wait().code(code);
        shows_once(&run.stderr, &["From //:t (Test):\n", "one\n", "two\n", "three\n", "four\n"]);
        assert_eq!(ws.read("minibuild-out/testlogs/t/test.log"), "one\nthree\nfourtwo\n");
        // Nothing runs, so nothing is shown.
        if code == 0 {
            ws.test(&[STREAMED, "//..."]).ok_without_running().says(&["(cached)"]).says_nothing_of("one");
        }
    }
}

#[test]
fn streamed_tests_run_one_at_a_time() {
    let targets: String =
        (0..4).map(|i| test(&format!("t{i}"), &[], &format!("mkdir alone; echo {i}; rmdir alone"))).collect();
    let ws = with_targets(&(targets + &genrule("g", &[], &["g"], "mkdir alone; : > $OUT; rmdir alone")));
    let run = ws.test(&["-j4", STREAMED, "//..."]).ok();
    for i in 0..4 {
        shows_once(&run.stderr, &[&format!("From //:t{i} (Test):\n{i}\n")]);
    }
}

#[test]
fn streamed_test_that_may_run_here_does_so_and_one_that_may_not_is_shown_at_its_end() {
    let remote = Remote::with("");
    let ws = with_targets(&(test("a", &[], "echo here") + &test("b", &[], "echo there") + "tags = [\"no-local\"]\n"));
    for flags in [&["--dynamic-policy=race"][..], &["--dynamic-policy=adaptive"]] {
        let args = [&["--no-cache-tests", "--remote-cache=none", STREAMED, "//..."], flags].concat();
        let args: Vec<&str> = args.into_iter().filter(|arg| *arg != "--remote-cache=none").collect();
        let run = ws.test(&[&[&*remote.executor()], &args[..]].concat()).ok();
        shows_once(&run.stderr, &["From //:a (Test):\nhere\n", "From //:b (Test):\nthere\n"]);
        assert_eq!((run.counts().local, run.counts().remote + run.counts().remote_cache), (1, 1), "{}", run.stderr);
    }
}

#[test]
fn everything_is_shown_of_a_loud_test_and_only_once() {
    let ws = with_targets(&test("t", &[], "seq 1 300000; seq 300001 300010 >&2"));
    let run = ws.test(&[STREAMED, "//..."]).ok();
    let numbers: Vec<u32> = run.stderr.lines().filter_map(|line| line.parse().ok()).collect();
    let mut sorted = numbers.clone();
    sorted.sort_unstable();
    assert!(sorted == (1..=300_010).collect::<Vec<_>>(), "{} lines", numbers.len());
}

#[test]
fn signal_ends_a_streamed_test_whose_output_nobody_reads() {
    let ws = with_targets(&test("t", &[], "exec yes"));
    let (build, reader): (Running, _) = crate::signals::unread(ws.invoke(&["test", STREAMED, "//..."]));
    crate::signals::wait_until_full(&build, &reader);
    build.signal(minibuild_testkit::Signal::SIGINT);
    build.wait().code(8);
    ws.nothing_is_left_running();
}
