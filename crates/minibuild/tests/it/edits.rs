//! Edits that stat data can hardly tell: same size, same second, same time stamps. Each is seen.

use std::fs::{self, File, FileTimes};
use std::io::{Seek as _, Write as _};

use minibuild_testkit::Workspace;

use crate::{genrule, with_targets};

fn copies() -> Workspace {
    with_targets(
        &(genrule("a", &["in"], &["a"], "cat $SRC > $OUT") + &genrule("b", &[":a"], &["b"], "cat $SRC > $OUT")),
    )
    .file("in", "000")
}

/// A hundred edits, each by `edit`, each followed at once by a build that must see it.
fn check(edit: impl Fn(&Workspace, &str)) {
    let ws = copies();
    ws.build(&["//:b"]).ok();
    for number in 1..=100 {
        let text = format!("{number:03}");
        edit(&ws, &text);
        ws.invoke(&["build", "//:b"]).without_events().run().ok();
        assert_eq!(ws.output("b"), text);
    }
    ws.build(&["//:b"]).ok_without_running();
}

#[test]
fn a_hundred_edits_of_the_same_size() {
    check(|ws, text| ws.write("in", text));
}

#[test]
fn a_hundred_edits_in_place_that_keep_the_modification_time() {
    check(|ws, text| {
        let path = ws.path("in");
        let times = fs::metadata(&path).expect("it is there");
        let times = FileTimes::new()
            .set_modified(times.modified().expect("a time"))
            .set_accessed(times.accessed().expect("a time"));
        let mut file = File::options().write(true).open(&path).expect("opens");
        file.rewind().expect("rewinds");
        file.write_all(text.as_bytes()).expect("writes");
        file.set_times(times).expect("sets times");
    });
}

#[test]
fn a_hundred_files_moved_in_place_with_an_old_time() {
    check(|ws, text| {
        let new = ws.outside().join("new");
        fs::write(&new, text).expect("writes");
        let file = File::options().write(true).open(&new).expect("opens");
        file.set_modified(std::time::UNIX_EPOCH).expect("sets the time");
        fs::rename(&new, ws.path("in")).expect("renames");
    });
}

#[test]
fn a_hundred_edits_of_the_output_itself() {
    check(|ws, text| {
        ws.write("in", text);
        // What somebody did to the output in the meantime is undone or made up for.
        let output = ws.bin("b");
        let mut permissions = fs::metadata(&output).expect("it is there").permissions();
        std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o644);
        fs::set_permissions(&output, permissions).expect("changes");
        fs::write(&output, "xxx").expect("writes");
    });
}

#[test]
fn a_change_of_the_clock_is_no_change_of_a_file() {
    let ws = copies();
    ws.build(&["//:b"]).ok();
    for time in [std::time::UNIX_EPOCH, std::time::UNIX_EPOCH + std::time::Duration::from_secs(4_000_000_000)] {
        File::options().write(true).open(ws.path("in")).expect("opens").set_modified(time).expect("sets the time");
        ws.build(&["//:b"]).ok_without_running();
        ws.write("in", "111");
        File::options().write(true).open(ws.path("in")).expect("opens").set_modified(time).expect("sets the time");
        ws.build(&["//:b"]).ok();
        assert_eq!(ws.output("b"), "111");
        ws.write("in", "000");
        ws.build(&["//:b"]).ok();
    }
}

#[test]
fn what_is_no_output_of_its_kind_is_removed_also_where_no_bytes_are_wanted() {
    let tree = "[[genrule]]\nname = \"t\"\nout_dirs = [\"t\"]\ncmd = \"echo x > $OUT_DIR/f\"\n";
    let ws = with_targets(&(genrule("a", &[], &["a"], "echo x > $OUT") + tree));
    ws.build(&["//..."]).ok();
    let replace = |name: &str, make: fn(&std::path::Path)| {
        let path = ws.bin(name);
        fs::remove_dir_all(&path).or_else(|_| fs::remove_file(&path)).expect("it is there");
        make(&path);
        let run = ws.build(&["--download=minimal", "//..."]).ok();
        run.says(&[&format!("`minibuild-out/bin/{name}` was changed by something else than its action")]);
        assert!(path.symlink_metadata().is_err(), "{name} is still there");
        ws.build(&["//..."]).ok();
    };
    replace("a", |path| std::os::unix::fs::symlink("../../BUILD.toml", path).expect("links"));
    replace("a", |path| fs::create_dir_all(path.join("d")).expect("makes"));
    replace("t", |path| std::os::unix::fs::symlink("..", path).expect("links"));
    replace("t", |path| fs::write(path, "x").expect("writes"));
}

#[test]
fn what_a_lost_state_knew_does_not_stay_beside_results_of_caches() {
    let targets = |text: &str| {
        genrule("a", &[], &["a"], &format!("echo {text} > $OUT")) + &genrule("b", &[":a"], &["b"], "cat $SRC > $OUT")
    };
    let ws = with_targets(&targets("one"));
    let cache = format!("--disk-cache={}", ws.outside().join("cache").display());
    let build = || ws.build(&[&cache, "//:b"]).ok();
    build();
    ws.write("BUILD.toml", targets("two"));
    build();
    fs::remove_dir_all(ws.path("minibuild-out/.state")).expect("removes");
    ws.write("BUILD.toml", targets("one"));
    let run = build();
    assert!(!ws.bin("a").exists() && ws.output("b") == "one\n", "{}", run.stderr);
    run.says_nothing_of("changed by something else");
}
