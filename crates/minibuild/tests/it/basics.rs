//! Ordinary builds: what runs and what does not, patterns, failures, commands' surroundings.

use minibuild_testkit::{Event, Workspace, children};

use crate::{genrule, with_targets, workspace};

/// in.txt -> a.txt (upper case) -> b.txt -> c.txt
pub fn chain() -> Workspace {
    let targets = [
        genrule("a", &["in.txt"], &["a.txt"], "tr a-z A-Z < $SRC > $OUT"),
        genrule("b", &[":a"], &["b.txt"], "(cat $SRC; echo b) > $OUT"),
        genrule("c", &[":b"], &["c.txt"], "(cat $SRC; echo c) > $OUT"),
    ];
    with_targets(&targets.concat()).file("in.txt", "one\n")
}

#[test]
fn a_chain_is_built_in_order_and_nothing_goes_to_stdout() {
    let ws = chain();
    let run = ws.build(&["//:c"]).ok();
    assert_eq!(run.ran_in_order(), ["//:a", "//:b", "//:c"]);
    assert_eq!(ws.output("c.txt"), "ONE\nb\nc\n");
    assert_eq!(run.stdout, "");
    assert_eq!(run.targets(), [("//:c", true)]);
    run.says(&["Target //:c up-to-date:\n  minibuild-out/bin/c.txt\n", "INFO: 3 actions: 3 local."]);
}

#[test]
fn only_what_is_asked_for_is_built() {
    let ws = chain();
    ws.build(&["//:b"]).ok().started_only(&["//:a", "//:b"]);
    assert!(!ws.has_output("c.txt"));
}

#[test]
fn a_second_build_runs_nothing() {
    let ws = chain();
    ws.build(&["//..."]).ok();
    let run = ws.build(&["//..."]).ok_without_running();
    let counts = run.counts();
    assert_eq!((counts.total, counts.up_to_date, counts.local), (3, 3, 0));
    run.says(&["3 actions: 3 up to date."]);
}

#[test]
fn touching_every_file_runs_nothing() {
    let ws = chain();
    ws.build(&["//..."]).ok();
    for file in ["in.txt", "BUILD.toml", "minibuild.toml"] {
        ws.write(file, ws.read(file));
    }
    ws.build(&["//..."]).ok_without_running();
    ws.build(&["//..."]).ok_without_running();
}

#[test]
fn a_change_runs_what_depends_on_it() {
    let ws = chain();
    ws.build(&["//..."]).ok();
    ws.write("in.txt", "two\n");
    let run = ws.build(&["//..."]).ok().started_only(&["//:a", "//:b", "//:c"]);
    assert!(run.reason("//:a").contains("in.txt"), "{}", run.reason("//:a"));
    assert_eq!(ws.output("c.txt"), "TWO\nb\nc\n");
}

#[test]
fn equal_outputs_cut_the_build_off() {
    let ws = chain();
    ws.build(&["//..."]).ok();
    ws.write("in.txt", "One\n");
    let run = ws.build(&["//..."]).ok().started_only(&["//:a"]);
    assert_eq!(run.counts().up_to_date, 2);
    ws.build(&["//..."]).ok_without_running();
}

#[test]
fn a_changed_command_or_environment_runs_again() {
    let ws = with_targets(&genrule("a", &[], &["a"], "echo x > $OUT"));
    ws.build(&["//:a"]).ok();
    ws.write("BUILD.toml", genrule("a", &[], &["a"], "echo y > $OUT"));
    ws.build(&["//:a"]).ok().started_only(&["//:a"]);
    assert_eq!(ws.output("a"), "y\n");
    ws.write("BUILD.toml", genrule("a", &[], &["a"], "echo y > $OUT") + "env = { X = \"1\" }\n");
    ws.build(&["//:a"]).ok().started_only(&["//:a"]);
    ws.build(&["//:a"]).ok_without_running();
}

#[test]
fn comments_and_other_targets_in_a_build_file_run_nothing() {
    let ws = chain();
    ws.build(&["//:c"]).ok();
    ws.write("BUILD.toml", ws.read("BUILD.toml") + "# a comment\n" + &genrule("d", &[], &["d"], ": > $OUT"));
    ws.build(&["//:c"]).ok_without_running();
}

#[test]
fn explain_says_why() {
    let ws = chain();
    ws.build(&["--explain", "//:a"]).ok().says(&["//:a (Genrule) ran: "]);
    ws.write("in.txt", "two\n");
    ws.build(&["--explain", "//:a"]).ok().says(&["//:a (Genrule) ran: ", "in.txt"]);
}

#[test]
fn commands_are_shown_when_asked_for() {
    let ws = chain();
    ws.build(&["-v", "//:a"]).ok().says(&["# //:a\n/bin/sh -e -c 'tr a-z A-Z < $SRC > $OUT'"]);
}

#[test]
fn output_of_an_action_is_shown_when_it_ran_and_not_when_up_to_date() {
    let ws = with_targets(&genrule("a", &[], &["a"], "echo to-out; echo to-err >&2; : > $OUT"));
    let run = ws.build(&["//:a"]).ok().says(&["INFO: From //:a (Genrule):\nto-out\nto-err\n"]);
    assert_eq!(run.stdout, "");
    ws.build(&["//:a"]).ok().says_nothing_of("to-out");
}

#[test]
fn aliases_filegroups_and_source_files_on_the_command_line() {
    let rest = r#"
        [[alias]]
        name = "also_a"
        actual = ":a"
        [[filegroup]]
        name = "both"
        srcs = ["in.txt", ":a", ":b"]
    "#;
    let ws = chain();
    ws.write("BUILD.toml", ws.read("BUILD.toml") + rest);
    let run = ws.build(&["//:also_a"]).ok().started_only(&["//:a"]);
    assert_eq!(run.outputs_of("//:also_a")[0].path, "minibuild-out/bin/a.txt");
    let run = ws.build(&["//:both"]).ok().started_only(&["//:b"]);
    let paths: Vec<&str> = run.outputs_of("//:both").iter().map(|output| output.path.as_str()).collect();
    assert_eq!(paths, ["in.txt", "minibuild-out/bin/a.txt", "minibuild-out/bin/b.txt"]);
    assert!(run.outputs_of("//:both").iter().all(|output| output.present == Some(true)));
}

#[test]
fn manual_targets_are_left_out_of_wildcards() {
    let manual = genrule("m", &[], &["m"], ": > $OUT") + "tags = [\"manual\"]\n";
    let ws = with_targets(&(genrule("a", &[], &["a"], ": > $OUT") + &manual));
    ws.build(&["//..."]).ok().started_only(&["//:a"]);
    ws.build(&["//:all"]).ok().started_only(&[]);
    ws.build(&["//:m"]).ok().started_only(&["//:m"]);
}

/// Targets a in each of the packages x, x/y and z.
fn packages() -> Workspace {
    let target = genrule("a", &[], &["a"], ": > $OUT");
    workspace().file("x/BUILD.toml", &target).file("x/y/BUILD.toml", &target).file("z/BUILD.toml", &target)
}

#[test]
fn patterns_add_and_subtract() {
    let check = |patterns: &[&str], expected: &[&str]| {
        packages().build(patterns).ok().started_only(expected);
    };
    check(&["//..."], &["//x:a", "//x/y:a", "//z:a"]);
    check(&["//x/..."], &["//x:a", "//x/y:a"]);
    check(&["//x:all"], &["//x:a"]);
    check(&["//...", "-//x/..."], &["//z:a"]);
    check(&["//...", "-//x:a"], &["//x/y:a", "//z:a"]);
    check(&["//z:a", "//x/y:a"], &["//x/y:a", "//z:a"]);
}

#[test]
fn relative_patterns_are_those_of_the_current_directory() {
    let ws = packages();
    ws.invoke(&["build", ":a"]).dir("x").run().ok().started_only(&["//x:a"]);
    ws.invoke(&["build", "y:a"]).dir("x").run().ok().started_only(&["//x/y:a"]);
    ws.invoke(&["build", "..."]).dir("x").run().ok().started_only(&[]);
    ws.invoke(&["build", "..."]).dir("z").run().ok().started_only(&["//z:a"]);
    packages().invoke(&["build", "//...", "-:a"]).dir("x").run().ok().started_only(&["//x/y:a", "//z:a"]);
}

#[test]
fn started_elsewhere_by_a_flag() {
    let ws = packages();
    ws.run(&["-C", "x", "build", ":a"]).ok().started_only(&["//x:a"]);
    ws.invoke(&["build", "-C", "../z", ":a"]).dir("x").run().ok().started_only(&["//z:a"]);
}

/// bad fails; after_bad needs it; good does not.
fn half_bad() -> Workspace {
    let targets = [
        genrule("bad", &["flag"], &["bad"], "cp $SRC $OUT; echo told >&2; test \"$(cat $SRC)\" = good"),
        genrule("after_bad", &[":bad"], &["after_bad"], "cp $SRC $OUT"),
        genrule("good", &[], &["good"], ": > $OUT"),
        genrule("after_good", &[":good"], &["after_good"], "cp $SRC $OUT"),
    ];
    with_targets(&targets.concat()).file("flag", "bad")
}

#[test]
fn keep_going_builds_all_that_does_not_depend_on_a_failure() {
    let ws = half_bad();
    let run = ws.build(&["-k", "//..."]).code(1).started_only(&["//:after_good", "//:bad", "//:good"]);
    let mut targets = run.targets();
    targets.sort_unstable();
    assert_eq!(targets, [("//:after_bad", false), ("//:after_good", true), ("//:bad", false), ("//:good", true)]);
    assert_eq!(run.counts().failed, 1);
    run.says(&["Target //:bad failed to build", "Target //:after_bad failed to build"]);
}

#[test]
fn a_failure_shows_everything_needed_to_understand_and_repeat_it() {
    let ws = half_bad();
    ws.build(&["//:after_bad"]).code(1).says(&[
        "ERROR: //:bad (Genrule) failed: exit code 1",
        "command: /bin/sh -e -c 'cp $SRC $OUT; echo told >&2;",
        "in:      [ws]\n",
        "by hand: cd [ws] && env -i ",
        "told\n",
    ]);
    // What it left can be looked at.
    assert_eq!(ws.output("bad"), "bad");
}

#[test]
fn the_command_shown_for_doing_it_by_hand_does_it() {
    let ws = half_bad();
    let run = ws.build(&["//:bad"]).code(1);
    let line = run.stderr.lines().find_map(|line| line.trim().strip_prefix("by hand: ")).expect("it is shown");
    ws.write("flag", "good");
    let line = line.replace("[ws]", ws.root().to_str().expect("UTF-8"));
    std::fs::remove_file(ws.bin("bad")).expect("removes");
    let done = std::process::Command::new("/bin/sh").args(["-c", &line]).output().expect("runs");
    assert!(done.status.success(), "{done:?}");
    assert_eq!(ws.output("bad"), "good");
}

#[test]
fn a_failed_action_runs_again_and_its_outputs_are_never_used() {
    let ws = half_bad();
    ws.build(&["//:after_bad"]).code(1).started_only(&["//:bad"]);
    ws.build(&["//:after_bad"]).code(1).started_only(&["//:bad"]);
    ws.write("flag", "good");
    ws.build(&["//:after_bad"]).ok().started_only(&["//:bad", "//:after_bad"]);
    ws.build(&["//:after_bad"]).ok_without_running();
    ws.write("flag", "bad");
    ws.build(&["//:after_bad"]).code(1).started_only(&["//:bad"]);
}

#[test]
fn what_failed_last_time_comes_first() {
    let mut targets: String =
        (0..10).map(|i| genrule(&format!("a{i}"), &["v"], &[&format!("a{i}")], "cat $SRC > $OUT")).collect();
    targets += &genrule("z", &["v"], &["z"], "cat $SRC > $OUT; grep -q good $SRC");
    let ws = with_targets(&targets).file("v", "bad 1");
    ws.build(&["-k", "-j1", "//..."]).code(1);
    ws.write("v", "bad 2");
    let run = ws.build(&["-j1", "//..."]).code(1);
    assert_eq!(run.ran_in_order(), ["//:z"], "without -k nothing comes after the failure");
    ws.write("v", "good");
    let run = ws.build(&["-j1", "//..."]).ok();
    assert_eq!(run.ran_in_order()[0], "//:z");
    assert_eq!(run.ran().len(), 11);
}

#[test]
fn without_keep_going_a_failure_stops_what_runs() {
    let mut targets = genrule("bad", &[], &["bad"], "exit 3");
    let ws = workspace();
    let (mut gate, mut release) = (ws.gate("slow"), ws.gate("bad"));
    targets += &genrule("slow", &[], &["slow"], &format!("{}; : > $OUT", gate.pass()));
    targets = targets.replace("exit 3", &format!("{}; exit 3", release.pass()));
    ws.write("BUILD.toml", targets);
    let build = ws.start_build(&["-j2", "//..."]);
    let slow = gate.arrival();
    release.arrival();
    release.open();
    let run = build.wait().code(1).says(&["//:bad (Genrule) failed: exit code 3"]);
    assert!(!minibuild_testkit::is_alive(slow));
    let stopped = |event: &Event| matches!(event, Event::BranchFinished { outcome, .. } if outcome == "stopped");
    assert_eq!(run.events.iter().filter(|event| stopped(event)).count(), 1);
    assert_eq!(run.counts().failed, 1);
    ws.nothing_is_left_running();
}

#[test]
fn a_signal_and_a_timeout_are_failures_that_say_so() {
    let ws = workspace();
    let gate = ws.gate("never");
    let targets = [
        genrule("killed", &[], &["killed"], "kill -SEGV $$"),
        genrule("late", &[], &["late"], &gate.wait()) + "timeout = \"300ms\"\n",
    ];
    ws.write("BUILD.toml", targets.concat());
    ws.build(&["//:killed"]).code(1).says(&["ended by signal 11 (SIGSEGV)"]);
    ws.build(&["//:late"]).code(1).says(&["killed after its timeout of 300ms"]);
    ws.nothing_is_left_running();
}

#[test]
fn the_environment_is_exactly_what_is_declared() {
    let ws = with_targets(
        &(genrule("a", &["in"], &["a", "b"], "env > $OUT; : > minibuild-out/bin/b") + "env = { MINE = \"x y\" }\n"),
    )
    .file("in", "")
    .file("minibuild.toml", "[env]\nEVERYWHERE = \"1\"\n");
    ws.invoke(&["build", "//:a"]).env("SECRET", "1").env("CC", "clang").run().ok();
    let text = ws.output("a");
    let mut names: Vec<(&str, &str)> = text.lines().filter_map(|line| line.split_once('=')).collect();
    names.sort_unstable();
    let mut given =
        |wanted| names.iter().position(|(name, _)| *name == wanted).map(|at| names.remove(at).1).expect("it is set");
    let (tmp, makeflags) = (given("TMPDIR"), given("MAKEFLAGS"));
    let expected = [
        ("EVERYWHERE", "1"),
        ("MINE", "x y"),
        ("OUT", "minibuild-out/bin/a"),
        ("PATH", "/usr/local/bin:/usr/bin:/bin"),
        ("PWD", ws.root().to_str().expect("UTF-8")),
        ("SRC", "in"),
    ];
    // The shell itself sets PWD.
    assert_eq!(names, expected);
    assert!(tmp.starts_with(ws.root().to_str().expect("UTF-8")), "{tmp}");
    assert!(makeflags.contains("--jobserver-auth="), "{makeflags}");
}

#[test]
fn srcs_and_outs_are_given_where_they_are_mentioned() {
    let ws = with_targets(&genrule(
        "a",
        &["x", "y"],
        &["a", "b"],
        "echo $SRCS > $OUT; echo \"$OUTS\" > minibuild-out/bin/b",
    ))
    .file("x", "")
    .file("y", "");
    ws.build(&["//:a"]).ok();
    assert_eq!(ws.output("a"), "x y\n");
    assert_eq!(ws.output("b"), "minibuild-out/bin/a minibuild-out/bin/b\n");
}

#[test]
fn the_temporary_directory_is_private_empty_and_gone_afterwards() {
    let cmd = "ls -A \"$TMPDIR\" > $OUT; : > \"$TMPDIR/left\"; mkdir \"$TMPDIR/d\"; echo \"$TMPDIR\" >> $OUT";
    let ws = with_targets(&(genrule("a", &[], &["a"], cmd) + &genrule("b", &[":a"], &["b"], cmd)));
    ws.build(&["-j1", "//:b"]).ok();
    for output in ["a", "b"] {
        let text = ws.output(output);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 1, "it is empty at first: {lines:?}");
        for left in ["left", "d"] {
            assert!(!std::path::Path::new(lines[0]).join(left).exists(), "what was in it is gone");
        }
    }
}

#[test]
fn a_command_without_a_shell_gets_its_arguments_as_they_are() {
    let target = r#"
        [[genrule]]
        name = "a"
        srcs = ["show"]
        outs = ["a"]
        args = ["$(location show)", "$(location a)", "a b", "$HOME", "*", "'"]
    "#;
    let ws = with_targets(target).program("show", "#!/bin/sh\nout=$1; shift; printf '<%s>' \"$@\" > \"$out\"\n");
    ws.build(&["//:a"]).ok();
    assert_eq!(ws.output("a"), "<a b><$HOME><*><'>");
}

#[test]
fn a_generated_tool_is_run_and_its_change_reruns_its_users() {
    let targets =
        genrule("gen", &["version"], &["gen"], "(echo '#!/bin/sh'; echo \"echo $(cat $SRC)\") > $OUT; chmod +x $OUT")
            + &genrule("use", &[], &["use"], "$(location :gen) > $OUT")
            + "tools = [\":gen\"]\n";
    let ws = with_targets(&targets).file("version", "1");
    ws.build(&["//:use"]).ok();
    assert_eq!(ws.output("use"), "1\n");
    ws.write("version", "2");
    ws.build(&["//:use"]).ok().started_only(&["//:gen", "//:use"]);
    assert_eq!(ws.output("use"), "2\n");
}

#[test]
fn a_private_response_file_is_part_of_the_key() {
    let target = |content: &str| {
        format!(
            "[[genrule]]\nname = \"a\"\nsrcs = [\"in\"]\nouts = [\"a\"]\ncmd = \"cat minibuild-out/bin/list > $OUT\"\nrspfile = {{ path = \"list\", content = {content} }}\n"
        )
    };
    let ws = with_targets(&target("\"one\"")).file("in", "");
    ws.build(&["//:a"]).ok();
    assert_eq!(ws.output("a").trim_end(), "one");
    ws.build(&["//:a"]).ok_without_running();
    ws.write("BUILD.toml", target("\"two\""));
    ws.build(&["//:a"]).ok().started_only(&["//:a"]);
    assert_eq!(ws.output("a").trim_end(), "two");
}

#[test]
fn as_many_run_at_once_as_jobs_are_given() {
    let ws = workspace();
    let mut gate = ws.gate("g");
    let targets: String = (0..4)
        .map(|i| genrule(&format!("a{i}"), &[], &[&format!("a{i}")], &format!("{}; : > $OUT", gate.pass())))
        .collect();
    ws.write("BUILD.toml", targets);
    let build = ws.start_build(&["-j3", "//..."]);
    for _ in 0..3 {
        gate.arrival();
    }
    // A fourth may be prepared, and its command waits.
    assert_eq!(build.helpers().iter().filter(|&&helper| !children(helper).is_empty()).count(), 3);
    gate.open();
    gate.arrival();
    for _ in 0..3 {
        gate.open();
    }
    build.wait().ok();
}

#[test]
fn an_exclusive_action_runs_alone() {
    let ws = workspace();
    let mut gate = ws.gate("g");
    let cmd = format!("{}; : > $OUT", gate.pass());
    let targets =
        genrule("alone", &[], &["alone"], &cmd) + "tags = [\"exclusive\"]\n" + &genrule("other", &[], &["other"], &cmd);
    ws.write("BUILD.toml", targets);
    let build = ws.start_build(&["-j2", "//..."]);
    gate.arrival();
    assert_eq!(gate.arrival_within(std::time::Duration::from_millis(200)), None);
    gate.open();
    gate.arrival();
    gate.open();
    build.wait().ok();
}
