//! `--events`: what the stream says, in which order, and that it always ends.

use std::io::{BufRead as _, BufReader};

use minibuild_testkit::{Event, Signal};

use crate::{genrule, test, with_targets, workspace};

fn name(event: &Event) -> &'static str {
    match event {
        Event::BuildStarted { .. } => "build_started",
        Event::ActionStarted { .. } => "action_started",
        Event::BranchStarted { .. } => "branch_started",
        Event::BranchFinished { .. } => "branch_finished",
        Event::ActionCompleted { .. } => "action_completed",
        Event::FileDownloaded { .. } => "file_downloaded",
        Event::TestCompleted { .. } => "test_completed",
        Event::Message { .. } => "message",
        Event::TargetCompleted { .. } => "target_completed",
        Event::BuildFinished { .. } => "build_finished",
    }
}

#[test]
fn an_action_is_told_from_its_start_to_its_targets_completion() {
    let ws = with_targets(&genrule("a", &[], &["a", "b"], "echo > $OUT; : > minibuild-out/bin/b"));
    let run = ws.build(&["-k", "--var=os=linux", "//:a"]).ok();
    let names: Vec<&str> = run.events.iter().map(name).collect();
    let expected = [
        "build_started",
        "action_started",
        "branch_started",
        "branch_finished",
        "action_completed",
        "target_completed",
        "build_finished",
    ];
    assert_eq!(names, expected);
    let Event::BuildStarted { build_id, command, patterns, options } = &run.events[0] else { panic!("it starts") };
    assert!(build_id.len() >= 32 && command == "build" && patterns == &["//:a"], "{:?}", run.events[0]);
    assert_eq!(options, &["build.keep_going=true", "var os=linux"]);
    let Event::ActionCompleted { action, runner, exit_code, outputs, .. } = &run.events[4] else {
        panic!("it completes")
    };
    assert_eq!((action.as_str(), runner.as_str(), *exit_code), ("minibuild-out/bin/a", "local", 0));
    let hash = "01ba4719c80b6fe911b091a7c05124b64eeece964e09c058ef8f9805daca546b";
    assert_eq!(
        (outputs[0].path.as_str(), outputs[0].kind.as_str(), outputs[0].size),
        ("minibuild-out/bin/a", "file", 1)
    );
    assert_eq!(outputs[0].digest, format!("{hash}/1"));
    assert_eq!(outputs[0].present, None);
    assert_eq!(run.outputs_of("//:a")[1].present, Some(true));
}

#[test]
fn each_build_has_an_id_of_its_own() {
    let ws = with_targets("");
    let id = || match ws.build(&["//..."]).ok().events.remove(0) {
        Event::BuildStarted { build_id, .. } => build_id,
        other => panic!("it starts with {other:?}"),
    };
    assert_ne!(id(), id());
}

#[test]
fn up_to_date_actions_are_told_where_asked_for() {
    let ws = with_targets(&(genrule("a", &[], &["a"], ": > $OUT") + &genrule("b", &[":a"], &["b"], ": > $OUT")));
    ws.build(&["//:b"]).ok();
    let completed = |args: &[&str]| -> Vec<String> {
        let run = ws.build(args).ok_without_running();
        let label = |event| match event {
            Event::ActionCompleted { label, runner, .. } if runner == "up_to_date" => Some(label),
            _ => None,
        };
        run.events.into_iter().filter_map(label).collect()
    };
    assert_eq!(completed(&["//:b"]), ["//:b"]);
    let mut all = completed(&["--events-detail=all", "//:b"]);
    all.sort_unstable();
    assert_eq!(all, ["//:a", "//:b"]);
}

#[test]
fn a_failed_action_says_so_with_its_exit_code() {
    let ws = with_targets(&(genrule("a", &[], &["a"], "exit 17") + &genrule("b", &[], &["b"], "kill -9 $$")));
    let run = ws.build(&["-k", "//..."]).code(1);
    let failed = |event: &Event| match event {
        Event::ActionCompleted { label, success: false, exit_code, outputs, .. } if outputs.is_empty() => {
            Some((label.clone(), *exit_code))
        }
        _ => None,
    };
    let mut codes: Vec<_> = run.events.iter().filter_map(failed).collect();
    codes.sort_unstable();
    assert_eq!(codes, [("//:a".to_owned(), 17), ("//:b".to_owned(), 137)]);
}

#[test]
fn the_last_event_is_the_end_also_when_nothing_is_built() {
    let ws = with_targets("[[genrul]]\nname = \"a\"\n");
    let run = ws.build(&["//:a"]).code(2);
    assert_eq!(run.events.iter().map(name).collect::<Vec<_>>(), ["build_started", "build_finished"]);
    ws.write("BUILD.toml", "");
    assert_eq!(ws.build(&["//:nope"]).code(2).events.len(), 2);
    assert_eq!(ws.test(&["//..."]).code(4).events.len(), 2);
    ws.write("minibuild.toml", "[");
    assert_eq!(ws.build(&["//:nope"]).code(2).events.len(), 2);
}

#[test]
fn t30_files_of_a_target_are_there_when_it_is_announced() {
    let mut targets: String =
        (0..30).map(|i| genrule(&format!("a{i}"), &["in"], &[&format!("a{i}")], "cat $SRC > $OUT")).collect();
    targets += "[[genrule]]\nname = \"tree\"\nout_dirs = [\"t\"]\ncmd = \"echo > $OUT_DIR/f\"\n";
    targets += &test("passes", &[":a1"], "cat $SRC");
    let ws = with_targets(&targets).file("in", "1");
    let fifo = ws.outside().join("events.fifo");
    let made = std::process::Command::new("mkfifo").arg(&fifo).status().expect("mkfifo runs");
    assert!(made.success());
    for args in [["build", "//..."], ["test", "//..."]] {
        let build = ws.invoke(&[args[0], &format!("--events={}", fifo.display()), args[1]]).without_events().start();
        let reader = BufReader::new(std::fs::File::open(&fifo).expect("opens"));
        let mut announced = 0;
        for line in reader.lines() {
            let line = line.expect("reads");
            if line.contains("\"target_completed\"") {
                announced += 1;
                for path in line.split("\"path\":\"").skip(1).filter_map(|rest| rest.split('"').next()) {
                    assert!(ws.path(path).exists(), "`{path}` is announced, but not there");
                }
            }
        }
        build.wait().ok();
        assert!(announced >= 31, "{announced}");
    }
}

#[test]
fn events_are_flushed_as_they_happen() {
    let ws = workspace();
    let mut gate = ws.gate("g");
    ws.write("BUILD.toml", genrule("a", &[], &["a"], &format!("{}; : > $OUT", gate.pass())));
    let path = ws.outside().join("events");
    let build = ws.invoke(&["build", &format!("--events={}", path.display()), "//:a"]).without_events().start();
    gate.arrival();
    let text = std::fs::read_to_string(&path).expect("it is there");
    assert!(text.contains("\"action_started\"") && text.ends_with('\n'), "{text}");
    gate.open();
    build.wait().ok();
}

#[test]
fn an_interrupted_build_ends_its_events() {
    let ws = workspace();
    let mut gate = ws.gate("g");
    ws.write("BUILD.toml", genrule("a", &[], &["a"], &gate.pass()));
    let build = ws.start_build(&["//:a"]);
    gate.arrival();
    build.signal(Signal::SIGINT);
    let run = build.wait().code(8);
    let outcomes: Vec<&str> = run
        .events
        .iter()
        .filter_map(|event| match event {
            Event::BranchFinished { outcome, .. } => Some(outcome.as_str()),
            _ => None,
        })
        .collect();
    assert_eq!(outcomes, ["stopped"]);
    assert_eq!(run.targets(), [("//:a", false)]);
}

#[test]
fn events_that_cannot_be_written_are_exit_code_38() {
    let ws = with_targets(&(genrule("a", &[], &["a"], ": > $OUT") + &genrule("b", &[], &["b"], "exit 1")));
    let with =
        |path: &str, target: &str| ws.invoke(&["build", &format!("--events={path}"), target]).without_events().run();
    with("/nonexistent/events", "//:a").code(38).says(&["events cannot be written to `/nonexistent/events`"]);
    assert!(ws.has_output("a"), "the build was done all the same");
    with("/dev/full", "//:a").code(38).says(&["events cannot be written"]);
    with("/dev/full", "//:b").code(1).says(&["events cannot be written"]);
}

#[test]
fn no_colour_and_no_bar_where_there_is_no_terminal() {
    let ws = with_targets(&genrule("a", &[], &["a"], ": > $OUT"));
    ws.build(&["//:a"]).ok().says_nothing_of("\x1b");
    ws.build(&["--color=always", "//:a"]).ok().says(&["\x1b["]);
}

#[test]
fn results_shown_are_limited_and_failures_are_not() {
    let mut targets: String = (0..5).map(|i| genrule(&format!("a{i}"), &[], &[&format!("a{i}")], ": > $OUT")).collect();
    let ws = with_targets(&targets);
    ws.build(&["--show-result=4", "//..."]).ok().says(&["5 targets up-to-date"]).says_nothing_of("Target //:a0");
    ws.build(&["--show-result=5", "//..."]).ok().says(&["Target //:a0 up-to-date", "Target //:a4 up-to-date"]);
    targets += &genrule("bad", &[], &["bad"], "exit 1");
    ws.write("BUILD.toml", targets);
    ws.build(&["--show-result=0", "-k", "//..."])
        .code(1)
        .says(&["5 targets up-to-date", "Target //:bad failed to build"]);
}
