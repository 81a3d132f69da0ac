//! Every doubt sends a build to the loader, and where that is not enough the full way, and that way sees what changed.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt as _;

use minibuild_testkit::Workspace;

use super::{sample, settled, snapshots};
use crate::genrule;

/// After `edit` a build cannot use the snapshot, says why, and runs `expected`.
#[track_caller]
fn doubt(edit: impl Fn(&Workspace), why: &str, expected: &[&str]) {
    let ws = settled();
    ws.build(&["//..."]).ok_without_running().from_snapshot();
    edit(&ws);
    let run = ws.build(&["//..."]).ok().started_only(expected);
    assert_eq!(run.why_no_snapshot(), why);
    ws.build(&["//..."]).ok_without_running();
    ws.build(&["//..."]).ok_without_running().from_snapshot();
}

#[test]
fn a_changed_build_file() {
    let edit = |ws: &Workspace| ws.write("d/BUILD.toml", genrule("x", &["x.txt"], &["x"], "tac $SRC > $OUT"));
    doubt(edit, "used after loading: `d/BUILD.toml` changed, which loading depends on", &["//d:x"]);
}

#[test]
fn a_new_file_that_a_glob_matches() {
    doubt(
        |ws| ws.write("g/two.txt", "two\n"),
        "used after loading: `g` changed, which loading depends on",
        &["//:all"],
    );
}

#[test]
fn a_file_that_a_glob_matched_is_gone() {
    let ws = sample().file("g/two.txt", "two\n");
    ws.build(&["//..."]).ok();
    ws.build(&["//..."]).ok().from_snapshot();
    ws.remove("g/two.txt");
    let run = ws.build(&["//..."]).ok().started_only(&["//:all"]);
    assert_eq!(run.why_no_snapshot(), "used after loading: `g` changed, which loading depends on");
}

#[test]
fn a_package_where_there_was_none() {
    let ws = settled();
    ws.write("g/BUILD.toml", "");
    // Its files are another package's now.
    ws.build(&["//..."]).code(2).says(&["g"]);
}

#[test]
fn the_configuration() {
    let edit = |ws: &Workspace| ws.write("minibuild.toml", "[env]\nLC_ALL = \"C\"\n");
    doubt(edit, "there is no snapshot of this request", &["//:a", "//:all", "//:b", "//:c", "//d:x"]);
    let edit = |ws: &Workspace| ws.write("minibuild.local.toml", "[build]\nsalt = \"x\"\n");
    doubt(edit, "there is no snapshot of this request", &["//:a", "//:all", "//:b", "//:c", "//d:x"]);
    let edit = |ws: &Workspace| ws.write("minibuild.local.toml", "[build]\njobs = 3\n");
    doubt(edit, "used after loading: `minibuild.local.toml` changed, which loading depends on", &[]);
}

#[test]
fn a_new_directory() {
    doubt(|ws| ws.write("d/more/file.txt", ""), "used after loading: `d` changed, which loading depends on", &[]);
}

#[test]
fn a_workspace_where_there_was_none_and_none_where_there_was_one() {
    let ws = sample().file("e/BUILD.toml", genrule("y", &[], &["y"], "echo y > $OUT"));
    ws.build(&["//..."]).ok();
    ws.build(&["//..."]).ok_without_running();
    ws.build(&["//..."]).ok_without_running().from_snapshot();
    ws.write("e/minibuild.toml", "");
    let run = ws.build(&["//..."]).ok_without_running();
    assert_eq!((run.why_no_snapshot() != "used", run.counts().total), (true, 5));
    ws.write("e/BUILD.toml", genrule("y", &[], &["y"], "echo z > $OUT"));
    ws.build(&["//..."]).ok_without_running().from_snapshot();
    ws.remove("e/minibuild.toml");
    let run = ws.build(&["//..."]).ok().started_only(&["//e:y"]);
    assert_ne!(run.why_no_snapshot(), "used");
}

#[test]
fn a_link_that_leads_nowhere_and_then_to_a_file() {
    let ws = settled();
    ws.build(&["//..."]).ok_without_running().from_snapshot();
    std::os::unix::fs::symlink("host.1:2", ws.path("g/linked.txt")).expect("links");
    ws.build(&["//..."]).ok_without_running();
    ws.build(&["//..."]).ok_without_running().from_snapshot();
    ws.write("g/host.1:2", "not saved\n");
    ws.build(&["//..."]).ok().started_only(&["//:all"]);
}

#[test]
fn a_file_where_an_output_goes() {
    let ws = settled();
    let declared = ws.read("d/BUILD.toml").contains("outs = [\"x\"]");
    assert!(declared, "the sample has changed");
    ws.write("d/x", "a source file of that name");
    assert_ne!(ws.build(&["//..."]).why_no_snapshot(), "used");
}

#[test]
fn the_user_s_configuration() {
    let ws = settled();
    let dir = ws.home().join(".config/minibuild");
    fs::create_dir_all(&dir).expect("makes directories");
    fs::write(dir.join("config.toml"), "[build]\nsalt = \"mine\"\n").expect("writes");
    let run = ws.build(&["//..."]).ok();
    assert_eq!((run.why_no_snapshot(), run.counts().local), ("there is no snapshot of this request", 5));
}

#[test]
fn environment_and_flags() {
    let ws = settled();
    let salted = |salt: &str| ws.invoke(&["build", "//..."]).env("MINIBUILD_SALT", salt).run().ok();
    assert_eq!(salted("x").why_no_snapshot(), "there is no snapshot of this request");
    let unknown = ws.invoke(&["build", "//..."]).env("MINIBUILD_NONSENSE", "x").run().ok();
    assert_ne!(unknown.why_no_snapshot(), "used");
    // Warnings are repeated, so such a load leaves no snapshot.
    for _ in 0..2 {
        let run = ws.invoke(&["build", "//..."]).env("MINIBUILD_NONSENSE", "x").run().ok();
        run.says(&["MINIBUILD_NONSENSE"]);
    }
    ws.write("minibuild.toml", "[config.c.env]\nX = \"1\"\n");
    ws.build(&["//..."]).ok();
    ws.build(&["//..."]).ok().from_snapshot();
    let run = ws.build(&["//...", "--config=c"]).ok();
    assert_eq!((run.why_no_snapshot(), run.counts().local), ("there is no snapshot of this request", 5));
}

#[test]
fn other_patterns_and_another_place() {
    let ws = settled();
    assert_ne!(ws.build(&["//d/..."]).ok().why_no_snapshot(), "used");
    assert_ne!(ws.build(&["//...", "-//d:x"]).ok().why_no_snapshot(), "used");
    assert_ne!(ws.invoke(&["build", "..."]).dir("d").run().ok().why_no_snapshot(), "used");
}

#[test]
fn a_host_tool_in_path() {
    let tool = "[[genrule]]\nname = \"t\"\nhost_tools = [\"mytool\"]\nouts = [\"t\"]\ncmd = \"mytool > $OUT\"\n";
    let ws = crate::with_targets(tool);
    let (first, second) = (ws.outside().join("first"), ws.outside().join("second"));
    let program = |dir: &std::path::Path, text: &str| {
        fs::create_dir_all(dir).expect("makes");
        let path = dir.join("mytool");
        fs::write(&path, format!("#!/bin/sh\necho {text}\n")).expect("writes");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("changes");
        // Long ago, so that one look is enough to trust it.
        File::options().write(true).open(&path).expect("opens").set_modified(std::time::UNIX_EPOCH).expect("sets");
    };
    program(&second, "second");
    ws.write("minibuild.toml", format!("[env]\nPATH = \"{}:{}:/usr/bin:/bin\"\n", first.display(), second.display()));
    for _ in 0..3 {
        ws.build(&["//:t"]).ok();
    }
    ws.build(&["//:t"]).ok_without_running().from_snapshot();
    // Found earlier in PATH, where there was none.
    program(&first, "first");
    let run = ws.build(&["//:t"]).ok().started_only(&["//:t"]);
    assert_eq!(run.why_no_snapshot(), "the host tool `mytool` is another");
    assert_eq!(ws.output("t"), "first\n");
    for _ in 0..2 {
        ws.build(&["//:t"]).ok();
    }
    program(&first, "other");
    assert_eq!(ws.build(&["//:t"]).ok().why_no_snapshot(), "the host tool `mytool` is another");
    assert_eq!(ws.output("t"), "other\n");
}

#[test]
fn another_binary() {
    let ws = settled();
    let copy = ws.outside().join("minibuild-copy");
    fs::copy(env!("CARGO_BIN_EXE_minibuild"), &copy).expect("copies");
    let events = ws.outside().join("events");
    let status = std::process::Command::new(&copy)
        .args(["build", "//...", "--events"])
        .arg(&events)
        .current_dir(ws.root())
        .env_clear()
        .env("HOME", ws.home())
        .stderr(std::process::Stdio::null())
        .status()
        .expect("starts");
    assert!(status.success());
    let text = fs::read_to_string(events).expect("reads");
    assert!(text.contains(r#""snapshot":"there is no snapshot of this request""#), "{text}");
}

#[test]
fn sources_that_cannot_be_used() {
    let ws = settled();
    ws.remove("in");
    ws.build(&["//..."]).code(2).says(&["in"]);
    let ws = settled().link("link", "g/one.txt");
    ws.remove("in");
    fs::rename(ws.path("link"), ws.path("in")).expect("renames");
    let run = ws.build(&["//..."]).ok();
    assert_eq!(ws.output("b"), "one\n");
    assert_ne!(run.why_no_snapshot(), "used");
}

/// Damages the file in many ways, each of which `check` gets after `prepare`.
fn damage(ws: &Workspace, is_tail: bool, prepare: impl Fn(usize), check: impl Fn(usize)) {
    const PLACES: usize = 20;
    for place in 0..2 * PLACES {
        prepare(place);
        let is_it = |path: &std::path::PathBuf| path.extension().is_some() == is_tail;
        let path = snapshots(ws).into_iter().find(is_it).expect("it is there");
        let mut bytes = fs::read(&path).expect("reads");
        let at = bytes.len() * (place / 2) / PLACES;
        if place % 2 == 0 {
            bytes[at] ^= 1
        } else {
            bytes.truncate(at)
        }
        fs::write(&path, bytes).expect("writes");
        check(place);
    }
}

#[test]
fn damaged_snapshots() {
    let ws = settled();
    let check = |_| {
        ws.build(&["//..."]).ok_without_running();
        assert_eq!(ws.output("b"), "in\n");
    };
    damage(&ws, false, |_| {}, check);
}

#[test]
fn damaged_tails() {
    let ws = settled();
    let edit = |place: usize| {
        ws.write("in", format!("{place}\n"));
        ws.build(&["//..."]).ok().started_only(&["//:a", "//:b"]);
        // Where the last was damaged a snapshot was written anew, and has no tail; now it has one.
        ws.write("in", format!("{place}x\n"));
        ws.build(&["//..."]).ok().from_snapshot().started_only(&["//:a", "//:b"]);
    };
    let check = |place| {
        // What a lost tail told is in the state as well; either way is right.
        ws.build(&["//..."]).ok_without_running();
        assert_eq!(ws.output("b"), format!("{place}x\n"));
    };
    damage(&ws, true, edit, check);
}

#[test]
fn state_that_is_not_the_snapshot_s() {
    let ws = settled();
    let path = ws.path("minibuild-out/.state/records");
    let before = fs::read(&path).expect("reads");
    ws.write("in", "changed\n");
    ws.build(&["//:a"]).ok();
    // Something was added, which is read.
    ws.build(&["//..."]).ok().from_snapshot().started_only(&["//:b"]);
    ws.build(&["//..."]).ok_without_running().from_snapshot();
    // Put back by hand: older than the snapshot.
    fs::write(&path, before).expect("writes");
    let run = ws.build(&["//..."]).ok();
    assert_eq!(run.why_no_snapshot(), "the state was written since the snapshot");
    assert_eq!(ws.output("b"), "changed\n");
    fs::remove_file(&path).expect("removes");
    let run = ws.build(&["//..."]).ok();
    assert_eq!(run.why_no_snapshot(), "the state was written since the snapshot");
}

#[test]
fn an_output_directory_that_is_gone() {
    let ws = settled();
    ws.remove("minibuild-out/bin");
    let run = ws.build(&["//..."]).ok();
    assert_eq!(run.counts().local, 5);
    ws.remove("minibuild-out");
    let run = ws.build(&["//..."]).ok();
    assert_eq!((run.counts().local, run.why_no_snapshot()), (5, "there is no snapshot of this request"));
}
