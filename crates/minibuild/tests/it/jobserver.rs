//! The jobserver that commands find in `MAKEFLAGS`, and the one of a `make` above.

use std::process::Command;

use minibuild_testkit::{Workspace, skipped};

use crate::{genrule, with_targets};

/// A makefile whose targets leave a mark while they are made, and note how many there are.
const MARKS: &str = "all: $(addprefix $(NAME),1 2 3 4 5 6)\n\
    $(NAME)%:\n\t@touch marks/$@; ls marks | wc -l >> counts; read line < /dev/null; sleep 0.05; rm marks/$@\n";

fn has_make() -> bool {
    let found = Command::new("make").arg("--version").output().is_ok();
    if !found {
        skipped("there is no `make`");
    }
    found
}

/// Actions each of which has `make` make six things.
fn makes(names: &[&str]) -> Workspace {
    let cmd = |name: &&str| format!("make -f marks.mk NAME={name} > $OUT");
    let rules: String =
        names.iter().map(|name| genrule(name, &["marks.mk"], &[&format!("{name}.log")], &cmd(name))).collect();
    let ws = with_targets(&rules).file("marks.mk", MARKS);
    std::fs::create_dir(ws.path("marks")).expect("made");
    ws
}

/// The most that was made at once.
fn most(ws: &Workspace) -> usize {
    let counts = ws.read("counts");
    counts.lines().map(|line| line.trim().parse().expect("a number")).max().expect("something was made")
}

#[test]
fn makes_in_actions_share_the_jobs() {
    if !has_make() {
        return;
    }
    // Two recipes that wait for each other: alone on its place an action has all other jobs to itself.
    let pair = "all: a b\na:\n\t@echo > p; read line < q\nb:\n\t@read line < p; echo > q\n";
    let ws = with_targets(&genrule("a", &["pair.mk"], &["a.log"], "make -f pair.mk > $OUT")).file("pair.mk", pair);
    for pipe in ["p", "q"] {
        assert!(Command::new("mkfifo").arg(ws.path(pipe)).status().expect("mkfifo").success());
    }
    ws.build(&["-j2", "//..."]).ok().says_nothing_of("warning");
    let ws = makes(&["x", "y", "z"]);
    ws.build(&["-j3", "//..."]).ok().says_nothing_of("warning");
    assert!(most(&ws) <= 3, "{} at once", most(&ws));
}

#[test]
fn a_make_above_is_asked() {
    if !has_make() {
        return;
    }
    let ws = makes(&["x", "y"]);
    let build = format!("all:\n\t+{} build -j4 //...\n", env!("CARGO_BIN_EXE_minibuild"));
    ws.write("above.mk", build);
    let mut make = Command::new("make");
    make.args(["-j2", "-f", "above.mk"]).current_dir(ws.root());
    // What the user has set is not of this test.
    make.env("HOME", ws.home()).env_remove("XDG_CONFIG_HOME").env_remove("XDG_STATE_HOME");
    let run = make.output().expect("it runs");
    let stderr = String::from_utf8_lossy(&run.stderr);
    assert!(run.status.success(), "{stderr}");
    assert!(most(&ws) <= 2, "{} at once", most(&ws));
    assert!(ws.has_output("x.log") && ws.has_output("y.log"), "{stderr}");
}

#[test]
fn what_an_action_sees_names_a_fifo() {
    let ws = with_targets(
        &(genrule("a", &[], &["a"], "echo \"$MAKEFLAGS\" > $OUT")
            + &genrule("own", &[], &["own"], "echo \"$MAKEFLAGS\" > $OUT")
            + "env = { MAKEFLAGS = \"mine\" }\n"),
    );
    ws.build(&["-j3", "//..."]).ok();
    let flags = ws.output("a");
    assert!(flags.contains("-j3") && flags.contains("--jobserver-auth=fifo:"), "{flags}");
    assert_eq!(ws.output("own"), "mine\n");
    // It is no part of the key.
    ws.build(&["-j4", "//..."]).ok_without_running();
}
