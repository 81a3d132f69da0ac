//! What a loser leaves, for a user to whom permissions mean something (scenarios D10 and D16).

use std::os::unix::fs::MetadataExt as _;

use minibuild_testkit::Workspace;

use super::leftovers::{ODD, remote_wins_in};
use super::{Remote, one, races};
use crate::with_targets;

/// A workspace of a user without privileges; `None`, loudly, where there is none.
fn of_nobody() -> Option<Workspace> {
    let ws = with_targets("");
    if !ws.give_up_privileges() {
        return None;
    }
    Some(ws)
}

#[test]
fn d10_trees_of_all_kinds_without_privileges() {
    for here in [
        ODD,
        "rmdir $OUT_DIR; echo 'a file where a directory will be' > $OUT_DIR",
        "chmod 0555 $OUT_DIR",
        "mkdir -p $OUT_DIR/a/b; echo f > $OUT_DIR/a/b/f; chmod 0 $OUT_DIR/a/b/f $OUT_DIR/a/b $OUT_DIR/a $OUT_DIR",
        "mkdir $OUT_DIR/many; cd $OUT_DIR/many; seq 10000 | xargs touch; chmod 0555 .; cd - > /dev/null",
    ] {
        let Some(ws) = of_nobody() else { return };
        let ws = remote_wins_in(ws, here);
        let owner = std::fs::metadata(ws.bin("d")).expect("it was published").uid();
        assert_ne!(owner, 0, "the build had privileges");
        assert!(ws.snapshot("minibuild-out/.state/staging").is_empty());
    }
}

#[test]
fn d10_the_directory_of_the_outputs_is_read_only() {
    let Some(ws) = of_nobody() else { return };
    remote_wins_in(ws, "echo t > $OUT_DIR/t; chmod 0555 minibuild-out/bin");
}

#[test]
fn d16_set_aside_fails_without_privileges() {
    let Some(ws) = of_nobody() else { return };
    let remote = Remote::new();
    let here = "echo half > $OUT; chmod 0555 minibuild-out/.state/trash";
    let run = remote.overtake(&ws, one, here, "echo whole > $OUT");
    let warnings = run.messages("warning");
    let named = |text: &&str| text.contains("cannot be set aside") && text.contains("minibuild-out/bin/a");
    assert!(warnings.iter().any(named), "{warnings:?}");
    assert_eq!((races(&run), ws.output("a").as_str()), ((1, 0, 1), "whole\n"));
    remote.race(&ws, &["//..."]).ok_without_running();
}
