//! What loading depends on changed: it is loaded, and only actions that are not what they were are looked at.

use std::fs;
use std::os::unix::fs::symlink;

use minibuild_testkit::{Run, Workspace};

use super::{settled, snapshots};
use crate::{genrule, test, with_targets, workspace};

const OF_D: &str = "used after loading: `d/BUILD.toml` changed, which loading depends on";

/// After `edit` a build loads, runs `expected`, and takes the rest from the snapshot; so does the next one, without loading.
#[track_caller]
fn reloaded(edit: impl Fn(&Workspace), changed: &str, expected: &[&str]) -> Workspace {
    let ws = settled();
    edit(&ws);
    let run = ws.build(&["//..."]).ok().started_only(expected);
    assert_eq!(run.why_no_snapshot(), format!("used after loading: `{changed}` changed, which loading depends on"));
    as_the_full_way_says(&ws, &ws.build(&["//..."]).ok_without_running().from_snapshot());
    ws
}

/// A build without snapshots runs nothing, and tells what `run` told.
#[track_caller]
fn as_the_full_way_says(ws: &Workspace, run: &Run) {
    snapshots(ws).iter().for_each(|path| fs::remove_file(path).expect("removes"));
    let full = ws.build(&["//..."]).ok_without_running();
    assert!(!full.why_no_snapshot().starts_with("used"));
    assert_eq!((run.counts(), sorted(run)), (full.counts(), sorted(&full)));
}

fn sorted(run: &Run) -> Vec<(&str, bool)> {
    let mut targets = run.targets();
    targets.sort_unstable();
    targets
}

fn append(ws: &Workspace, path: &str, text: &str) {
    ws.write(path, ws.read(path) + text);
}

#[test]
fn a_comment_runs_nothing() {
    reloaded(|ws| append(ws, "d/BUILD.toml", "# nothing\n"), "d/BUILD.toml", &[]);
}

#[test]
fn a_changed_command_runs_with_what_reads_it() {
    let edit = |ws: &Workspace| ws.write("d/BUILD.toml", genrule("x", &["x.txt"], &["x"], "echo new > $OUT"));
    let ws = reloaded(edit, "d/BUILD.toml", &["//d:x", "//:c"]);
    assert_eq!(ws.output("c"), "new\n");
    // The same bytes by another command: what reads it need not run.
    ws.write("d/BUILD.toml", genrule("x", &["x.txt"], &["x"], "echo  new > $OUT"));
    let run = ws.build(&["//..."]).ok().started_only(&["//d:x"]);
    assert_eq!((run.why_no_snapshot(), run.counts().total, run.counts().up_to_date), (OF_D, 5, 4));
    assert!(run.reason("//d:x").contains("echo  new"), "{}", run.reason("//d:x"));
}

#[test]
fn a_new_target_and_its_end() {
    let edit = |ws: &Workspace| append(ws, "d/BUILD.toml", &genrule("y", &[":x"], &["y"], "cat $SRC > $OUT"));
    let ws = reloaded(edit, "d/BUILD.toml", &["//d:y"]);
    let both = ws.read("d/BUILD.toml");
    ws.write("d/BUILD.toml", both.replace("\"y\"", "\"z\""));
    let run = ws.build(&["//..."]).ok().started_only(&["//d:z"]);
    assert_eq!(run.why_no_snapshot(), OF_D);
    assert!(ws.has_output("d/z") && !ws.has_output("d/y"), "nobody declares it any more");
    // As before: its result is still known, and its bytes are kept.
    ws.write("d/BUILD.toml", both);
    let run = ws.build(&["//..."]).ok_without_running();
    assert_eq!(run.why_no_snapshot(), OF_D);
    assert!(ws.has_output("d/y") && !ws.has_output("d/z"));
    ws.build(&["//..."]).ok_without_running().from_snapshot();
}

#[test]
fn the_last_target_of_a_package_is_gone() {
    let ws = with_targets(&genrule("a", &["in"], &["a"], "cat $SRC > $OUT"))
        .file("in", "in\n")
        .file("d/BUILD.toml", genrule("x", &[], &["x"], "echo x > $OUT"));
    ws.build(&["//..."]).ok();
    ws.build(&["//..."]).ok_without_running();
    ws.write("d/BUILD.toml", "");
    let run = ws.build(&["//..."]).ok_without_running();
    assert_eq!((run.why_no_snapshot(), run.counts().total), (OF_D, 1));
    assert!(!ws.has_output("d/x"));
}

#[test]
fn targets_in_another_order() {
    let ws = settled();
    let before = ws.read("BUILD.toml");
    let (first, rest) = before.split_at(before[1..].find("[[genrule]]").expect("has several") + 1);
    ws.write("BUILD.toml", format!("{rest}{first}"));
    let run = ws.build(&["//..."]).ok_without_running();
    assert_eq!(run.why_no_snapshot(), "used after loading: `BUILD.toml` changed, which loading depends on");
    ws.write("in", "another\n");
    ws.build(&["//..."]).ok().started_only(&["//:a", "//:b"]).from_snapshot();
}

#[test]
fn other_sources() {
    // A new one, by name.
    let edit = |ws: &Workspace| {
        ws.write("d/more.txt", "more\n");
        ws.write("d/BUILD.toml", genrule("x", &["x.txt", "more.txt"], &["x"], "cat $SRCS > $OUT"));
    };
    let ws = reloaded(edit, "d/BUILD.toml", &["//d:x", "//:c"]);
    assert_eq!(ws.output("c"), "x\nmore\n");
    ws.write("d/more.txt", "other\n");
    ws.build(&["//..."]).ok().started_only(&["//d:x", "//:c"]);
    // And by a pattern; one that matches nothing costs a load only.
    let ws = reloaded(|ws| ws.write("g/two.txt", "two\n"), "g", &["//:all"]);
    ws.build(&["//..."]).ok();
    ws.write("g/notes.md", "no match\n");
    let run = ws.build(&["//..."]).ok_without_running();
    assert_eq!(run.why_no_snapshot(), "used after loading: `g` changed, which loading depends on");
    ws.remove("g/two.txt");
    let run = ws.build(&["//..."]).ok_without_running();
    assert!(run.why_no_snapshot().starts_with("used after loading"), "{}", run.why_no_snapshot());
    assert_eq!(ws.output("all"), "one\n", "its bytes were kept");
}

#[test]
fn a_source_becomes_an_output_and_back() {
    let ws = settled();
    let plain = ws.read("d/BUILD.toml");
    append(&ws, "d/BUILD.toml", &genrule("made", &[], &["gen/y"], "echo made > $OUT"));
    ws.write("d/BUILD.toml", ws.read("d/BUILD.toml").replace("\"x.txt\"", "\":made\""));
    ws.build(&["//..."]).ok().started_only(&["//d:made", "//d:x", "//:c"]);
    assert_eq!(ws.output("c"), "made\n");
    ws.write("d/BUILD.toml", plain);
    let run = ws.build(&["//..."]).ok_without_running();
    assert_eq!((run.why_no_snapshot(), ws.output("c").as_str()), (OF_D, "x\n"));
}

#[test]
fn a_file_becomes_a_directory() {
    let dir = "[[genrule]]\nname = \"x\"\nsrcs = [\"x.txt\"]\nout_dirs = [\"x\"]\ncmd = \"cp $SRC $OUT_DIR\"\n";
    let ws = settled();
    ws.write("BUILD.toml", ws.read("BUILD.toml").replace("cat $SRC > $OUT", "ls $SRC > $OUT"));
    ws.build(&["//..."]).ok();
    ws.write("d/BUILD.toml", dir);
    let run = ws.build(&["//..."]).ok().started_only(&["//d:x", "//:c"]);
    assert_eq!((run.why_no_snapshot(), ws.output("c").as_str()), (OF_D, "x.txt\n"));
    ws.build(&["//..."]).ok_without_running().from_snapshot();
}

#[test]
fn what_is_wrong_is_said_as_ever() {
    // A source that is not there, a mistake, and then all is well again.
    let ws = settled();
    let plain = ws.read("d/BUILD.toml");
    ws.write("d/BUILD.toml", plain.replace("x.txt", "absent.txt"));
    ws.build(&["//..."]).code(2).says(&["absent.txt"]);
    ws.write("d/BUILD.toml", "[[genrule]\n");
    ws.build(&["//..."]).code(2).says(&["d/BUILD.toml:1"]);
    ws.write("d/BUILD.toml", plain);
    ws.build(&["//..."]).ok_without_running();
    // A filegroup names a file that is not there.
    append(&ws, "d/BUILD.toml", "[[filegroup]]\nname = \"f\"\nsrcs = [\"nothing.txt\"]\n");
    ws.build(&["//..."]).code(2).says(&["nothing.txt"]);
}

#[test]
fn a_failure_in_a_part_is_tried_again() {
    let ws = settled();
    let key = ws.outside().join("key");
    let cmd = format!("test -e {} && cat $SRC > $OUT", key.display());
    ws.write("d/BUILD.toml", genrule("x", &["x.txt"], &["x"], &cmd));
    let run = ws.build(&["//...", "-k"]).code(1);
    assert_eq!(run.why_no_snapshot(), OF_D);
    ws.build(&["//...", "-k"]).code(1).from_snapshot();
    fs::write(&key, "").expect("writes");
    ws.build(&["//...", "-k"]).ok().started_only(&["//d:x"]).from_snapshot();
}

#[test]
fn a_source_that_is_a_symlink_goes_the_full_way() {
    let ws = settled();
    symlink("x.txt", ws.path("d/link.txt")).expect("links");
    ws.write("d/BUILD.toml", genrule("x", &["link.txt"], &["x"], "cat $SRC > $OUT"));
    let run = ws.build(&["//..."]).ok().started_only(&["//d:x"]);
    assert_eq!(
        run.why_no_snapshot(),
        "`d/BUILD.toml` changed, which loading depends on; the source `d/link.txt` is no plain file any more"
    );
}

#[test]
fn tests_of_all_kinds() {
    let ws = with_targets(&(test("one", &["in"], "grep -q in $SRC") + &test("two", &[], "true"))).file("in", "in\n");
    let check = || ws.run(&["test", "//..."]);
    check().ok();
    check().ok_without_running();
    let with = |three: &str, two: &str| test("one", &["in"], "grep -q in $SRC") + &test("two", &[], two) + three;
    ws.write("BUILD.toml", with("", "test 1 = 1"));
    let run = check().ok().started_only(&["//:two"]);
    assert!(run.why_no_snapshot().starts_with("used after loading"));
    ws.write("BUILD.toml", with(&test("three", &["in"], "true"), "test 1 = 1"));
    let run = check().ok().started_only(&["//:three"]);
    assert_eq!(run.tests().len(), 3);
    ws.write("BUILD.toml", with("", "true"));
    let run = check().ok_without_running();
    assert!(run.why_no_snapshot().starts_with("used after loading"), "{}", run.why_no_snapshot());
    assert_eq!(run.tests().iter().filter(|(_, status)| *status == "cached").count(), 2, "{:?}", run.tests());
}

#[test]
fn more_is_wanted_and_was_built_by_another_request() {
    let ws = settled();
    ws.build(&["//:a"]).ok_without_running();
    ws.build(&["//:a"]).ok_without_running().from_snapshot();
    let build = ws.read("BUILD.toml").replace("srcs = [\"in\"]", "srcs = [\"in\", \"//d:x\"]");
    ws.write("BUILD.toml", build);
    let run = ws.build(&["//:a"]).ok().started_only(&["//:a"]);
    assert!(run.why_no_snapshot().starts_with("used after loading"), "{}", run.why_no_snapshot());
    assert_eq!((run.counts().total, run.counts().up_to_date), (2, 1), "`//d:x` is known in the state");
}

#[test]
fn what_another_request_made_of_targets_that_are_gone_is_removed() {
    let ws = settled();
    let plain = ws.read("d/BUILD.toml");
    for after in [plain.clone() + "# nothing\n", plain.clone()] {
        ws.write("d/BUILD.toml", &after);
        ws.build(&["//d/..."]).ok();
        ws.build(&["//d/..."]).ok_without_running().from_snapshot();
        append(&ws, "d/BUILD.toml", &genrule("y", &[], &["y"], "echo y > $OUT"));
        ws.build(&["//..."]).ok();
        assert!(ws.has_output("d/y"));
        ws.write("d/BUILD.toml", &after);
        let run = ws.build(&["//d/..."]).ok_without_running();
        assert_eq!(
            run.why_no_snapshot(),
            "used after loading: `minibuild-out/bin/d/y` was made meanwhile, and may be declared no more"
        );
        assert!(!ws.has_output("d/y"));
        ws.build(&["//d/..."]).ok_without_running().from_snapshot();
    }
}

#[test]
fn what_other_requests_make_of_what_is_declared_needs_no_load() {
    let ws = settled();
    let two = genrule("w", &["x.txt"], &["w"], "cat $SRC > $OUT");
    append(&ws, "d/BUILD.toml", &two);
    for pattern in ["//d:x", "//:a"] {
        ws.build(&[pattern]).ok();
        ws.build(&[pattern]).ok_without_running().from_snapshot();
    }
    // `w` is declared in a package that `//d:x` loads; all else is in ones that it does not load.
    ws.write("d/x.txt", "other\n");
    ws.write("in", "other\n");
    ws.build(&["//...", "-//d:x"]).ok();
    ws.build(&["//d:x"]).ok_without_running().from_snapshot();
    ws.build(&["//:a"]).ok_without_running().from_snapshot();
}

#[test]
fn what_a_killed_run_left_and_nobody_declares_any_more_is_removed() {
    let ws = settled();
    let mut gate = ws.gate("g");
    let two = |outs: &[&str]| {
        genrule(
            "y",
            &[],
            outs,
            &format!("echo > minibuild-out/bin/d/y2; echo > minibuild-out/bin/d/y; {}", gate.pass()),
        )
    };
    let plain = ws.read("d/BUILD.toml");
    let (both, one) = (plain.clone() + &two(&["y", "y2"]), plain.clone() + &genrule("y", &[], &["y"], "echo > $OUT"));
    for after in [&one, &plain] {
        ws.write("d/BUILD.toml", &both);
        let running = ws.start_build(&["//..."]);
        gate.arrival();
        running.kill();
        assert!(ws.has_output("d/y2"));
        ws.write("d/BUILD.toml", after);
        let run = ws.build(&["//..."]).ok();
        assert_eq!(run.why_no_snapshot(), OF_D);
        assert_eq!((ws.has_output("d/y2"), ws.has_output("d/y")), (false, *after == one));
        gate.open();
    }
}

#[test]
fn a_package_that_is_loaded_for_the_first_time_is_swept() {
    let ws = settled();
    ws.write("p/BUILD.toml", genrule("t", &[], &["t"], "echo > $OUT"));
    ws.write("p/plain.txt", "plain\n");
    for pattern in ["//p:t", "//d:x"] {
        ws.build(&[pattern]).ok();
        ws.build(&[pattern]).ok_without_running().from_snapshot();
    }
    ws.write("p/BUILD.toml", "[[filegroup]]\nname = \"files\"\nsrcs = [\"plain.txt\"]\n");
    ws.write(
        "d/BUILD.toml",
        genrule("x", &["x.txt", "//p:files"], &["x"], "cat $SRCS > $OUT; ls minibuild-out/bin/p || :"),
    );
    let run = ws.build(&["//d:x"]).ok().started_only(&["//d:x"]);
    assert_eq!(run.why_no_snapshot(), OF_D);
    assert!(!ws.has_output("p/t"), "no loaded package declares it");
}

/// Has all that is recorded be of another boot of the machine.
fn reboot(ws: &Workspace) {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").expect("reads");
    let path = ws.path("minibuild-out/.state/records");
    let mut log = fs::read(&path).expect("reads");
    let mut found = 0;
    while let Some(at) = log.windows(id.trim().len()).position(|bytes| bytes == id.trim().as_bytes()) {
        log[at] = if log[at] == b'0' { b'1' } else { b'0' };
        // Two bytes before it begins the record; its check stands before that.
        let check = crc32(&log[at - 2..at + id.trim().len()]);
        log[at - 6..at - 2].copy_from_slice(&check.to_le_bytes());
        found += 1;
    }
    assert!(found > 0, "the state has no record of the boot");
    fs::write(path, log).expect("writes");
}

fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32| if crc & 1 == 0 { crc >> 1 } else { crc >> 1 ^ 0xEDB8_8320 };
    !bytes.iter().fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), |crc, _| step(crc)))
}

#[test]
fn what_was_made_before_a_boot_is_known_and_removed() {
    let ws = settled();
    let plain = ws.read("d/BUILD.toml");
    let more = plain.clone() + &genrule("y", &[], &["y"], "echo y > $OUT");
    ws.write("d/BUILD.toml", &more);
    ws.build(&["//..."]).ok();
    let reloads = |text: &str| {
        ws.write("d/BUILD.toml", &more);
        reboot(&ws);
        ws.build(&["//d:x"]).ok_without_running();
        ws.build(&["//d:x"]).ok_without_running().from_snapshot();
        ws.write("d/BUILD.toml", text);
        ws.build(&["//d:x"])
    };
    // `x` reads `y` now, which was built before the boot.
    let reads = more.replace("\"x.txt\"", "\"x.txt\", \":y\"").replace("cat $SRC ", "cat $SRCS ");
    let run = reloads(&reads).ok().started_only(&["//d:x"]);
    assert_eq!(
        run.why_no_snapshot(),
        "`d/BUILD.toml` changed, which loading depends on; an output was made before the machine was started"
    );
    // Nobody declares `y` any more.
    assert!(ws.has_output("d/y"));
    let run = reloads(&plain).ok_without_running();
    assert_eq!((run.why_no_snapshot(), ws.has_output("d/y")), (OF_D, false));
}

#[test]
fn what_a_killed_run_of_another_request_left_is_removed() {
    for is_reverted in [false, true] {
        let ws = settled();
        let mut gate = ws.gate("g");
        let plain = ws.read("d/BUILD.toml");
        ws.build(&["//d:x"]).ok();
        ws.build(&["//d:x"]).ok_without_running().from_snapshot();
        // `y`, which `//d:x` does not want, is killed while it makes two files.
        let cmd = format!("for out in $OUTS; do echo > $out; done; {}", gate.pass());
        ws.write("d/BUILD.toml", plain.clone() + &genrule("y", &[], &["y", "y2"], &cmd));
        let running = ws.start_build(&["//d:y"]);
        gate.arrival();
        running.kill();
        gate.open();
        assert!(ws.has_output("d/y2"));
        let one = plain.clone() + &genrule("y", &[], &["y"], "echo > $OUT");
        ws.write("d/BUILD.toml", if is_reverted { &plain } else { &one });
        let run = ws.build(&["//d:x"]).ok_without_running();
        assert!(run.why_no_snapshot().starts_with("used after loading"), "{}", run.why_no_snapshot());
        assert!(!ws.has_output("d/y2"), "{is_reverted}");
        ws.build(&["//d:x"]).ok_without_running().from_snapshot();
    }
}

#[test]
fn outputs_of_all_kinds_come_back_with_what_declared_them() {
    let ws = settled();
    let plain = ws.read("d/BUILD.toml");
    let tree = "[[genrule]]\nname = \"tree\"\nsrcs = [\"x.txt\"]\nout_dirs = [\"tree\"]\ncmd = \"mkdir $OUT_DIR/deep; cp $SRC $OUT_DIR/deep/f\"\n";
    let two = "[[genrule]]\nname = \"two\"\nsrcs = [\"x.txt\"]\nouts = [\"two\"]\nout_dirs = [\"more\"]\ncmd = \"echo > minibuild-out/bin/d/two; cp $SRC minibuild-out/bin/d/more\"\n";
    let both = tree.to_owned() + two;
    for targets in ["", tree, two, &both] {
        ws.write("d/BUILD.toml", plain.clone() + targets);
        ws.build(&["//..."]).ok();
    }
    for targets in [tree, "", two, tree, &both, two, "", &both] {
        ws.write("d/BUILD.toml", plain.clone() + targets);
        let run = ws.build(&["//..."]).ok_without_running();
        assert_eq!(run.why_no_snapshot(), OF_D);
        let has = |name: &str| targets.contains(&format!("name = \"{name}\""));
        assert_eq!((ws.has_output("d/tree/deep/f"), ws.has_output("d/more/x.txt")), (has("tree"), has("two")));
    }
}

#[test]
fn a_rule_file() {
    let rule = |flag: &str| {
        format!(
            "[rule.say]\noutputs = [\"{{say.out}}\"]\n[rule.say.attrs]\ntext = {{ type = \"string\", required = true }}\n\
             [rule.say.action.say]\nouts = {{ out = \"{{name}}\" }}\nargs = [\"{{text}}\", \"{{out.out}}\"]\ncmd = \"{flag} $1 > $2\"\n"
        )
    };
    let ws = workspace()
        .file("minibuild.toml", "[workspace]\nrules = [\"say.toml\"]\n")
        .file("say.toml", rule("echo"))
        .file("d/BUILD.toml", genrule("x", &[], &["x"], "echo x > $OUT"))
        .file("BUILD.toml", "[[say]]\nname = \"hello\"\ntext = \"hello\"\n");
    ws.build(&["//..."]).ok();
    ws.build(&["//..."]).ok_without_running();
    ws.write("say.toml", rule("printf '%s!'"));
    let run = ws.build(&["//..."]).ok().started_only(&["//:hello"]);
    assert_eq!(run.why_no_snapshot(), "used after loading: `say.toml` changed, which loading depends on");
    assert_eq!(ws.output("hello"), "hello!");
    append(&ws, "say.toml", "# nothing\n");
    let run = ws.build(&["//..."]).ok_without_running();
    assert!(run.why_no_snapshot().starts_with("used after loading"), "{}", run.why_no_snapshot());
}

#[test]
fn sets_that_hold_something_else() {
    let group = |name: &str, srcs: &[&str]| format!("[[filegroup]]\nname = {name:?}\nsrcs = {srcs:?}\n");
    let targets = |low: &[&str]| {
        group("low", low)
            + &group("mid", &[":low", "m"])
            + &group("high", &[":mid", "h"])
            + &genrule("all", &[":high"], &["all"], "cat $SRCS > $OUT")
            + &genrule("some", &["m"], &["some"], "cat $SRCS > $OUT")
    };
    let ws = with_targets(&targets(&["l"]));
    ["l", "m", "h", "n"].iter().for_each(|name| ws.write(name, format!("{name}\n")));
    ws.build(&["//..."]).ok();
    ws.build(&["//..."]).ok_without_running();
    ws.write("BUILD.toml", targets(&["n", "l"]));
    let run = ws.build(&["//..."]).ok().started_only(&["//:all"]);
    assert!(run.why_no_snapshot().starts_with("used after loading"), "{}", run.why_no_snapshot());
    let mut lines: Vec<_> = ws.output("all").lines().map(str::to_owned).collect();
    lines.sort();
    assert_eq!(lines, ["h", "l", "m", "n"]);
}

#[test]
fn a_tool_that_was_not_used_before_is_looked_at_the_full_way() {
    let ws = settled();
    let tool = "[[genrule]]\nname = \"x\"\nsrcs = [\"x.txt\"]\nhost_tools = [\"sort\"]\nouts = [\"x\"]\ncmd = \"sort $SRC > $OUT\"\n";
    ws.write("d/BUILD.toml", tool);
    let run = ws.build(&["//..."]).ok().started_only(&["//d:x"]);
    assert_eq!(
        run.why_no_snapshot(),
        "`d/BUILD.toml` changed, which loading depends on; the host tool `sort` was not used before"
    );
    for _ in 0..2 {
        ws.build(&["//..."]).ok_without_running();
    }
    ws.write("d/BUILD.toml", tool.replace("sort $SRC", "sort -u $SRC"));
    let run = ws.build(&["//..."]).ok().started_only(&["//d:x"]);
    assert_eq!(run.why_no_snapshot(), OF_D);
}

#[test]
fn a_build_that_is_killed_after_the_load_leaves_what_is_to_be_done() {
    let ws = settled();
    let mut gate = ws.gate("g");
    ws.write("d/BUILD.toml", genrule("x", &["x.txt"], &["x"], &format!("{}; echo new > $OUT", gate.pass())));
    let running = ws.start_build(&["//..."]);
    gate.arrival();
    running.kill();
    // The killed one's command may be there still, and wait, too.
    gate.open();
    gate.open();
    ws.build(&["//..."]).ok().started_only(&["//d:x", "//:c"]).from_snapshot();
    assert_eq!(ws.output("c"), "new\n");
    as_the_full_way_says(&ws, &ws.build(&["//..."]).ok_without_running());
}
