//! The exit codes of the contract, one test each, and which of several causes counts.

use minibuild_testkit::Signal;

use crate::{genrule, test, with_targets, workspace};

#[test]
fn success_is_0() {
    with_targets(&genrule("a", &[], &["a"], ": > $OUT")).build(&["//:a"]).code(0);
    with_targets("").build(&["//..."]).code(0);
}

#[test]
fn a_failed_build_is_1() {
    let ws = with_targets(&genrule("a", &[], &["a"], "exit 99"));
    ws.build(&["//:a"]).code(1);
    ws.build(&["-k", "//:a"]).code(1);
}

#[test]
fn a_bad_command_line_configuration_or_label_is_2() {
    let ws = with_targets("");
    ws.run(&["build"]).code(2);
    ws.build(&["//:a"]).code(2);
    ws.build(&["--var=x=y", "//..."]).code(2);
    ws.write("BUILD.toml", "[[x]]");
    ws.build(&["//..."]).code(2);
}

#[test]
fn failed_tests_are_3() {
    with_targets(&(test("a", &[], "exit 99") + &test("b", &[], "exit 0"))).test(&["//..."]).code(3);
}

#[test]
fn valid_patterns_without_a_test_are_4() {
    with_targets(&genrule("a", &[], &["a"], "exit 1")).test(&["//..."]).code(4);
}

#[test]
fn an_interrupt_is_8() {
    let ws = workspace();
    let mut gate = ws.gate("g");
    ws.write("BUILD.toml", genrule("a", &[], &["a"], &gate.pass()));
    let build = ws.start_build(&["//:a"]);
    gate.arrival();
    build.signal(Signal::SIGINT);
    build.wait().code(8);
}

#[test]
fn events_that_cannot_be_written_are_38() {
    let ws = with_targets("");
    ws.invoke(&["build", "--events=/dev/full", "//..."]).without_events().run().code(38);
}

#[test]
fn a_failed_build_counts_before_failed_tests() {
    let targets = [test("t", &[], "exit 1"), genrule("a", &[], &["a"], "exit 1"), test("needs_a", &[":a"], "cat $SRC")];
    with_targets(&targets.concat()).test(&["-k", "//..."]).code(1);
}

#[test]
fn an_interrupt_counts_before_a_failed_build() {
    let ws = workspace();
    let mut gate = ws.gate("g");
    ws.write(
        "BUILD.toml",
        genrule("bad", &[], &["bad"], "exit 1")
            + &genrule("held", &[":ok"], &["held"], &gate.pass())
            + &genrule("ok", &[], &["ok"], ": > $OUT"),
    );
    let build = ws.start_build(&["-k", "-j1", "//..."]);
    gate.arrival();
    build.signal(Signal::SIGINT);
    build.wait().code(8);
}

#[test]
fn bad_input_counts_before_events_that_cannot_be_written() {
    let ws = with_targets("[");
    ws.invoke(&["build", "--events=/dev/full", "//..."])
        .without_events()
        .run()
        .code(2)
        .says(&["events cannot be written"]);
}
