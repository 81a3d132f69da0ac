//! What a loser leaves: gone before the winner's outputs are in their places, and never among them.

use minibuild_testkit::{Workspace, difference};

use super::{Build, Remote, branches, one, races, runners, sides};
use crate::bad_actions::SmallDisk;
use crate::{genrule, with_targets};

/// An action with a tree: what it does here until it is stopped, and what it makes remotely.
fn tree(here: &str, there: &str) -> String {
    format!("[[genrule]]\nname = \"d\"\nout_dirs = [\"d\"]\ncmd = {:?}\n", sides(here, there))
}

const MADE: &str =
    "mkdir -p $OUT_DIR/sub/deep; echo x > $OUT_DIR/x; echo y > $OUT_DIR/sub/deep/y; ln -s ../x $OUT_DIR/sub/l";

/// Races the tree: remote wins once this machine has come as far as it will. The tree is remote's afterwards.
pub(super) fn remote_wins(here: &str) -> Workspace {
    remote_wins_in(with_targets(""), here)
}

pub(super) fn remote_wins_in(ws: Workspace, here: &str) -> Workspace {
    let remote = Remote::new();
    let run = remote.overtake(&ws, tree, here, MADE);
    assert_eq!((races(&run), runners(&run)), ((1, 0, 1), vec![("//:d", "remote")]));
    ws.nothing_is_left_running();
    assert_is_remotes(&ws);
    remote.race(&ws, &["//..."]).ok_without_running();
    ws
}

fn assert_is_remotes(ws: &Workspace) {
    let clean = with_targets(&tree(MADE, MADE));
    clean.build(&["//..."]).ok();
    assert_eq!(
        difference(&clean.snapshot("minibuild-out/bin/d"), &ws.snapshot("minibuild-out/bin/d")),
        Vec::<String>::new()
    );
}

#[test]
fn d09_tree_artifact_transient_files() {
    remote_wins("echo t > $OUT_DIR/x.tmp; mkdir $OUT_DIR/work; echo t > $OUT_DIR/work/t; echo half > $OUT_DIR/x");
}

/// Read-only directories, symlinks that lead nowhere and out, a file where a directory will be.
pub(super) const ODD: &str = "mkdir -p $OUT_DIR/ro/deeper; echo f > $OUT_DIR/ro/f; chmod 0555 $OUT_DIR/ro/deeper $OUT_DIR/ro; \
     ln -s /nowhere $OUT_DIR/x; ln -s .. $OUT_DIR/up; echo file > $OUT_DIR/sub";

#[test]
fn d10_trees_of_all_kinds() {
    remote_wins(ODD);
    remote_wins("rmdir $OUT_DIR; echo 'a file where a directory will be' > $OUT_DIR");
    remote_wins("rmdir $OUT_DIR; ln -s . $OUT_DIR");
    remote_wins("rmdir $OUT_DIR");
}

#[test]
fn d10_ten_thousand_files() {
    remote_wins("mkdir $OUT_DIR/many; cd $OUT_DIR/many; seq 10000 | xargs touch; cd - > /dev/null");
}

#[test]
fn d11_partial_file_output_of_the_loser_is_gone() {
    let (remote, ws) = (Remote::new(), with_targets(""));
    let run = remote.overtake(&ws, one, "printf 'half of a very long line' > $OUT", "echo whole > $OUT");
    assert_eq!(races(&run), (1, 0, 1));
    assert_eq!(ws.output("a"), "whole\n");
}

#[test]
fn d13_loser_ignores_sigterm() {
    remote_wins("trap '' TERM INT HUP; echo t > $OUT_DIR/t");
}

#[test]
fn d14_loser_double_forks_a_daemon_that_keeps_writing() {
    remote_wins(
        "(sh -c 'trap \"\" TERM HUP; n=0; while :; do n=$((n+1)); echo $n > minibuild-out/bin/d/late$n; done' &) ; \
         while [ ! -e $OUT_DIR/late3 ]; do :; done",
    );
}

#[test]
fn d15_loser_left_a_process_in_its_own_session() {
    remote_wins(
        "(setsid sh -c 'n=0; while :; do n=$((n+1)); mkdir -p minibuild-out/bin/d/late$n; done' > /dev/null 2>&1 &) ; \
         while [ ! -e $OUT_DIR/late3 ]; do :; done",
    );
}

#[test]
fn d16_set_aside_fails() {
    let (remote, ws) = (Remote::new(), with_targets(""));
    // Where things are set aside is gone, so they cannot be; a file in the way can be replaced all the same.
    let here = "echo half > $OUT; rm -rf minibuild-out/.state/trash";
    let run = remote.overtake(&ws, one, here, "echo whole > $OUT");
    let warnings = run.messages("warning");
    assert!(warnings.iter().any(|text| text.contains("cannot be set aside")), "{warnings:?}");
    assert_eq!((races(&run), ws.output("a").as_str()), ((1, 0, 1), "whole\n"));
    remote.race(&ws, &["//..."]).ok_without_running();
}

#[test]
fn d16_what_cannot_be_set_aside_is_deleted_where_it_lies() {
    for half in [
        "echo half > $OUT_DIR/x",
        "rmdir $OUT_DIR; echo half > $OUT_DIR",
        "mkdir -p $OUT_DIR/a/b; chmod 0555 $OUT_DIR/a",
    ] {
        let (remote, ws) = (Remote::new(), with_targets(""));
        let (mut here, mut there) = (ws.gate("here"), ws.gate("there"));
        let here_text = format!("{half}; rm -rf minibuild-out/.state/trash; {}; sleep 1000", here.pass());
        ws.write("BUILD.toml", tree(&here_text, &format!("{}; {MADE}", there.pass())));
        // Nothing is wanted here, so nothing takes the place of what was left.
        let build = remote.start_race(&ws, &["//...", "--download=minimal"]);
        here.arrival();
        there.arrival();
        there.open();
        let run = build.wait().ok();
        let warnings = run.messages("warning");
        assert!(matches!(&warnings[..], [text] if text.contains("cannot be set aside")), "{warnings:?}");
        assert_eq!(races(&run), (1, 0, 1));
        assert!(!ws.has_output("d"), "{half}: what the loser left is there");
        remote.race(&ws, &["//..."]).ok_without_running();
        assert_is_remotes(&ws);
    }
}

/// Whether the thread of this process that deletes what was set aside waits for more.
fn has_deleted(build: &Build) -> bool {
    let threads = std::fs::read_dir(format!("/proc/{}/task", build.pid())).expect("it runs").flatten();
    let stats = threads.filter_map(|thread| std::fs::read_to_string(thread.path().join("stat")).ok());
    stats.into_iter().any(|stat| stat.contains("(trash) S "))
}

#[test]
fn d16_what_was_set_aside_cannot_be_deleted() {
    let (remote, ws) = (Remote::new(), with_targets(""));
    let (mut here, mut there, mut other) = (ws.gate("here"), ws.gate("there"), ws.gate("other"));
    let held = genrule("held", &[], &["held"], &format!("{}; : > $OUT", other.pass())) + "tags = [\"no-remote\"]\n";
    let race = tree(&format!("{}; sleep 1000", here.pass()), &format!("{}; {MADE}", there.pass()));
    ws.write("BUILD.toml", race + &held);
    let build = remote.start_race(&ws, &["//...", "--jobs=2"]);
    for gate in [&mut here, &mut there, &mut other] {
        gate.arrival();
    }
    // A mount point can be moved with what it lies in, and not be removed.
    let Some(disk) = SmallDisk::mount_at(ws.bin("d/mount"), "1m") else {
        build.kill();
        return remote.stop();
    };
    there.open();
    build.wait_until("the result is published, and the trash seen to", || ws.has_output("d/x") && has_deleted(&build));
    other.open();
    let run = build.wait().ok();
    for mount in std::fs::read_dir(ws.path("minibuild-out/.state/trash")).expect("it is there").flatten() {
        let done = std::process::Command::new("umount").arg(mount.path().join("mount")).status();
        assert!(done.is_ok_and(|status| status.success()));
    }
    // It is no longer where it was mounted.
    std::mem::forget(disk);
    let warnings = run.messages("warning");
    let told = |text: &&str| text.contains("cannot delete `minibuild-out/.state/trash/") && text.contains("busy");
    assert!(warnings.iter().any(told), "{warnings:?}");
    assert_eq!(races(&run), (1, 0, 1));
    assert_is_remotes(&ws);
}

#[test]
fn d17_remote_publish_fails_after_local_was_stopped() {
    let (remote, ws) = (Remote::new(), with_targets(""));
    let (mut here, mut there) = (ws.gate("here"), ws.gate("there"));
    let seen = ws.path("seen").display().to_string();
    // Where things are set aside is gone, and a directory in the way cannot be replaced by a file.
    let command = sides(
        &format!(
            "if [ -e {seen} ]; then echo made again; echo here > $OUT; exit 0; fi; touch {seen}; mkdir $OUT; \
             rm -rf minibuild-out/.state/trash; {}; sleep 1000",
            here.pass()
        ),
        &format!("{}; echo there > $OUT", there.pass()),
    );
    ws.write("BUILD.toml", genrule("a", &[], &["a"], &command));
    let build = remote.start_race(&ws, &["//..."]);
    here.arrival();
    there.arrival();
    there.open();
    let run = build.wait().ok().says(&["made again"]);
    let warnings = run.messages("warning").join("\n");
    assert!(warnings.contains("the remote result of `//:a` cannot be put in its place"), "{warnings}");
    assert_eq!((races(&run), runners(&run)), ((1, 1, 0), vec![("//:a", "local")]));
    assert_eq!(branches(&run), [("local", "lost"), ("remote", "failed"), ("local", "won")]);
    assert_eq!(ws.output("a"), "here\n");
    remote.race(&ws, &["//..."]).ok_without_running();
}
