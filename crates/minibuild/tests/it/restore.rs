//! Outputs somebody deleted or changed, download modes, `clean`.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use minibuild_testkit::Workspace;

use crate::{genrule, with_targets};

/// in -> mid -> top, and a tree.
fn built() -> Workspace {
    let targets = genrule("mid", &["in"], &["mid"], "cat $SRC > $OUT")
        + &genrule("top", &[":mid"], &["top"], "(cat $SRC; echo top) > $OUT")
        + "[[genrule]]\nname = \"tree\"\nsrcs = [\"in\"]\nout_dirs = [\"t\"]\ncmd = \"mkdir $OUT_DIR/e; cp $SRC $OUT_DIR/f\"\n";
    let ws = with_targets(&targets).file("in", "1\n");
    ws.build(&["//:top", "//:tree"]).ok();
    ws
}

/// Changes an output as somebody would who does not care that it is read-only.
fn overwrite(path: &Path, text: &str) {
    fs::set_permissions(path, fs::Permissions::from_mode(0o644)).expect("changes a mode");
    fs::write(path, text).expect("writes");
}

#[test]
fn a_deleted_toplevel_output_comes_back() {
    let ws = built();
    let before = ws.outputs();
    fs::remove_file(ws.bin("top")).expect("removes");
    ws.build(&["//:top"]).ok();
    assert_eq!(ws.outputs(), before);
    ws.build(&["//:top"]).ok_without_running();
}

#[test]
fn t07_also_after_an_unrelated_build() {
    let ws = built();
    let before = ws.outputs();
    fs::remove_file(ws.bin("top")).expect("removes");
    ws.build(&["//:tree"]).ok_without_running();
    ws.build(&["//:top"]).ok();
    assert_eq!(ws.outputs(), before);
}

#[test]
fn t08_a_deleted_intermediate_stays_absent_and_nothing_runs() {
    let ws = built();
    fs::remove_file(ws.bin("mid")).expect("removes");
    ws.build(&["//:top"]).ok_without_running();
    assert!(!ws.has_output("mid"));
    // Needed again, it is there again.
    ws.write("BUILD.toml", ws.read("BUILD.toml").replace("echo top", "echo new"));
    ws.build(&["//:top"]).ok();
    assert_eq!(ws.output("top"), "1\nnew\n");
    assert!(ws.has_output("mid"));
}

#[test]
fn t09_a_modified_intermediate_is_never_used() {
    let ws = built();
    overwrite(&ws.bin("mid"), "wrong\n");
    ws.build(&["//:top"]).ok_without_running();
    assert_ne!(fs::read_to_string(ws.bin("mid")).unwrap_or_default(), "wrong\n");
    ws.write("BUILD.toml", ws.read("BUILD.toml").replace("echo top", "echo new"));
    ws.build(&["//:top"]).ok();
    assert_eq!(ws.output("top"), "1\nnew\n");
}

#[test]
fn t10_a_modified_toplevel_output_is_restored() {
    let ws = built();
    let before = ws.outputs();
    overwrite(&ws.bin("top"), "wrong\n");
    ws.build(&["//:top"]).ok();
    assert_eq!(ws.outputs(), before);
    // Of the same length, too, in place, with the time it had.
    let times = fs::metadata(ws.bin("top")).expect("it is there").modified().expect("a time");
    overwrite(&ws.bin("top"), "2\ntop\n");
    let file = fs::File::options().write(true).open(ws.bin("top")).expect("opens");
    file.set_modified(times).expect("sets the time");
    drop(file);
    ws.build(&["//:top"]).ok();
    assert_eq!(ws.outputs(), before);
    ws.build(&["//:top"]).ok_without_running();
}

#[test]
fn a_changed_mode_of_an_output_is_restored() {
    let ws = built();
    let before = ws.outputs();
    fs::set_permissions(ws.bin("top"), fs::Permissions::from_mode(0o755)).expect("changes");
    ws.build(&["//:top"]).ok();
    assert_eq!(ws.outputs(), before);
}

#[test]
fn a_modified_tree_is_restored() {
    type Change = fn(&Workspace);
    let changes: [(&str, Change); 5] = [
        ("a file changed", |ws| overwrite(&ws.bin("t/f"), "2\n")),
        ("a file added", |ws| fs::write(ws.bin("t/g"), "x").expect("writes")),
        ("a file removed", |ws| fs::remove_file(ws.bin("t/f")).expect("removes")),
        ("an empty directory removed", |ws| fs::remove_dir(ws.bin("t/e")).expect("removes")),
        ("a directory added", |ws| fs::create_dir(ws.bin("t/e/d")).expect("makes")),
    ];
    for (what, change) in changes {
        let ws = built();
        let before = ws.outputs();
        change(&ws);
        ws.build(&["//:tree"]).ok();
        assert_eq!(ws.outputs(), before, "{what}");
        ws.build(&["//:tree"]).ok_without_running();
    }
}

#[test]
fn everything_deleted_comes_back_and_is_equal() {
    let ws = built();
    let before = ws.outputs();
    fs::remove_dir_all(ws.bin("")).expect("removes");
    ws.build(&["//:mid", "//:top", "//:tree"]).ok();
    assert_eq!(ws.outputs(), before);
}

#[test]
fn t04_minimal_needs_nothing_on_disk() {
    let ws = built();
    fs::remove_dir_all(ws.bin("")).expect("removes");
    let run = ws.build(&["--download=minimal", "//:top", "//:tree"]).ok_without_running();
    assert_eq!(run.outputs_of("//:top")[0].present, Some(false));
    assert!(!ws.has_output("top"));
    run.says(&["minibuild-out/bin/top (not downloaded, "]);
}

#[test]
fn all_brings_intermediates_back() {
    let ws = built();
    let before = ws.outputs();
    fs::remove_file(ws.bin("mid")).expect("removes");
    ws.build(&["--download=all", "//:top"]).ok();
    assert_eq!(ws.outputs(), before);
}

#[test]
fn clean_removes_outputs_and_the_next_build_makes_them_again() {
    let ws = built();
    let before = ws.outputs();
    ws.run(&["clean"]).ok();
    assert!(!ws.bin("").exists() || ws.outputs().is_empty());
    ws.build(&["//:top", "//:tree"]).ok();
    assert_eq!(ws.outputs(), before);
}

#[test]
fn clean_deletes_what_killed_builds_left() {
    let ws = built();
    let left = ["trash/1-0/sub", "staging/1-0"].map(|dir| ws.path(&format!("minibuild-out/.state/{dir}")));
    left.iter().for_each(|dir| fs::create_dir_all(dir).expect("makes"));
    ws.run(&["clean"]).ok();
    for dir in ["trash", "staging"] {
        assert!(ws.snapshot(&format!("minibuild-out/.state/{dir}")).is_empty(), "{dir}");
    }
}

#[test]
fn clean_all_removes_everything() {
    let ws = built();
    let before = ws.outputs();
    ws.run(&["clean", "--all"]).ok();
    assert!(!ws.path("minibuild-out").exists());
    ws.build(&["//:top", "//:tree"]).ok().started_only(&["//:mid", "//:top", "//:tree"]);
    assert_eq!(ws.outputs(), before);
}

#[test]
fn clean_of_a_fresh_workspace_is_fine() {
    let ws = with_targets("");
    ws.run(&["clean"]).ok();
    ws.run(&["clean", "--all"]).ok();
    assert!(!ws.path("minibuild-out").exists());
}
