//! `minibuild test`.

use minibuild_testkit::Workspace;

use crate::{genrule, test, with_targets, workspace};

fn log(ws: &Workspace, path: &str) -> String {
    ws.read(&format!("minibuild-out/testlogs/{path}/test.log"))
}

#[test]
fn a_pass_is_remembered_as_long_as_its_key_is_unchanged() {
    let ws = with_targets(&test("t", &["in"], "echo seen; grep -q good $SRC")).file("in", "good 1");
    let run = ws.test(&["//:t"]).ok().started_only(&["//:t"]).says(&["//:t PASSED in "]).says_nothing_of("seen");
    assert_eq!((run.tests(), run.ran_mnemonics()), (vec![("//:t", "passed")], vec!["Test"]));
    assert_eq!(log(&ws, "t"), "seen\n");
    let run = ws.test(&["//:t"]).ok_without_running().says(&["//:t PASSED (cached)"]);
    assert_eq!(run.tests(), [("//:t", "cached")]);
    ws.test(&["--no-cache-tests", "//:t"]).ok().started_only(&["//:t"]);
    ws.test(&["//:t"]).ok_without_running();
    ws.write("in", "good 2");
    ws.test(&["//:t"]).ok().started_only(&["//:t"]);
}

#[test]
fn a_failure_shows_the_log_and_runs_again() {
    let ws = with_targets(&test("t", &["in"], "echo told; echo also >&2; grep -q good $SRC")).file("in", "bad");
    for _ in 0..2 {
        let run = ws.test(&["//:t"]).code(3).started_only(&["//:t"]);
        assert_eq!(run.tests(), [("//:t", "failed")]);
        run.says(&["told\nalso\n", "//:t FAILED in ", "minibuild-out/testlogs/t/test.log", "exit code 1"]);
    }
    assert_eq!(log(&ws, "t"), "told\nalso\n");
    ws.write("in", "good");
    ws.test(&["//:t"]).ok();
    ws.write("in", "bad");
    ws.test(&["//:t"]).code(3);
}

#[test]
fn each_test_runs_whatever_the_others_do() {
    let targets = [
        test("a_fails", &[], "exit 1"),
        test("b_passes", &[], "exit 0"),
        test("c_fails", &[], "kill -9 $$"),
        test("d_passes", &[], "exit 0"),
    ];
    let ws = with_targets(&targets.concat());
    let run = ws.test(&["-j1", "//..."]).code(3);
    let expected =
        [("//:a_fails", "failed"), ("//:b_passes", "passed"), ("//:c_fails", "failed"), ("//:d_passes", "passed")];
    assert_eq!(run.tests(), expected);
    run.says(&["//:a_fails FAILED", "//:c_fails FAILED", "//:d_passes PASSED"]);
}

#[test]
fn a_test_that_takes_too_long_times_out() {
    let ws = workspace();
    let gate = ws.gate("never");
    ws.write("BUILD.toml", test("t", &[], &format!("echo before; {}", gate.wait())) + "timeout = \"300ms\"\n");
    let run = ws.test(&["//:t"]).code(3).says(&["//:t TIMEOUT after", "before\n"]);
    assert_eq!(run.tests(), [("//:t", "timeout")]);
    assert_eq!(log(&ws, "t"), "before\n");
    ws.nothing_is_left_running();
}

#[test]
fn patterns_without_a_test_are_exit_code_4() {
    let ws = with_targets(&genrule("a", &[], &["a"], ": > $OUT"));
    ws.test(&["//:a"]).code(4).says(&["the patterns name no test", "hint:"]).started_only(&[]);
    ws.test(&["//..."]).code(4);
    ws.test(&["//:b"]).code(2);
}

#[test]
fn a_test_whose_needs_fail_to_build_is_exit_code_1() {
    let ws = with_targets(&(genrule("a", &[], &["a"], "exit 7") + &test("t", &[":a"], "cat $SRC")));
    let run = ws.test(&["//:t"]).code(1).says(&["//:a (Genrule) failed: exit code 7"]);
    assert_eq!(run.tests(), []);
    assert_eq!(run.targets(), [("//:t", false)]);
}

#[test]
fn build_builds_tests_without_running_them() {
    let ws = with_targets(&(genrule("a", &[], &["a"], ": > $OUT") + &test("t", &[":a"], "exit 1")));
    let run = ws.build(&["//..."]).ok();
    assert_eq!(run.tests(), []);
}

#[test]
fn the_output_of_tests_is_shown_as_asked() {
    let ws = with_targets(&(test("good", &[], "echo from-good") + &test("bad", &[], "echo from-bad; exit 1")));
    let check = |flags: &[&str], good: bool, bad: bool| {
        let run = ws.test(&[&["--no-cache-tests", "//..."], flags].concat()).code(3);
        assert_eq!(
            (run.stderr.contains("\nfrom-good"), run.stderr.contains("\nfrom-bad")),
            (good, bad),
            "{flags:?}: {}",
            run.stderr
        );
    };
    check(&[], false, true);
    check(&["--test-output=errors"], false, true);
    check(&["--test-output=all"], true, true);
    check(&["--test-output=summary"], false, false);
}

#[test]
fn an_executable_with_arguments_and_data() {
    let targets = r#"
        [[test]]
        name = "t"
        executable = ":checker"
        args = ["one", "a b", "$(location data.txt)"]
        data = ["data.txt"]
        env = { MODE = "strict" }
        [[genrule]]
        name = "checker"
        outs = ["checker"]
        cmd = '''
        printf '#!/bin/sh\necho "$MODE" "$#" "$1" "$2"; cat "$3"; pwd' > $OUT
        chmod +x $OUT
        '''
    "#;
    let ws = with_targets(targets).file("data.txt", "data\n");
    ws.test(&["//:t"]).ok().started_only(&["//:checker", "//:t"]);
    assert_eq!(log(&ws, "t"), format!("strict 3 one a b\ndata\n{}\n", ws.root().display()));
    ws.write("data.txt", "other\n");
    ws.test(&["//:t"]).ok().started_only(&["//:t"]);
}

#[test]
fn a_script_of_the_root_package_is_a_test() {
    let ws = with_targets("[[test]]\nname = \"t\"\nargs = [\"$(location check.sh)\", \"x\"]\n")
        .program("check.sh", "#!/bin/sh\necho \"got $1\"\n");
    ws.test(&["//:t"]).ok();
    assert_eq!(log(&ws, "t"), "got x\n");
}

#[test]
fn what_was_logged_before_is_replaced() {
    let ws = with_targets(&test("t", &["in"], "cat $SRC"))
        .file("in", "a longer text\n")
        .file("x/BUILD.toml", test("t", &[], "echo x"));
    ws.test(&["//..."]).ok();
    ws.write("in", "short\n");
    ws.test(&["//..."]).ok();
    assert_eq!((log(&ws, "t"), log(&ws, "x/t")), ("short\n".into(), "x\n".into()));
}
