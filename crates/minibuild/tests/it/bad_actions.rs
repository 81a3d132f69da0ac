//! Actions that do not do what they declared, and surroundings in which nothing can be done: what failed, why, and
//! that the next correct build is right.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use minibuild_testkit::{Workspace, is_alive, skipped, wait_until_dead};

use crate::{genrule, with_targets, workspace};

/// A target that makes file `f` and directory `d` with a command.
fn target(cmd: &str) -> String {
    format!("[[genrule]]\nname = \"a\"\nsrcs = [\"in\"]\nouts = [\"f\"]\nout_dirs = [\"d\"]\ncmd = {cmd:?}\n")
}

/// The action fails with exit code 1 and these texts; mended, the next build is right.
#[track_caller]
fn check(cmd: &str, expected: &[&str]) -> Workspace {
    let ws = with_targets(&target(cmd)).file("in", "x");
    let run = ws.build(&["//:a"]).code(1).says(expected).says(&["//:a (Genrule) failed: "]);
    assert_eq!(run.targets(), [("//:a", false)]);
    ws.build(&["//:a"]).code(1).started_only(&["//:a"]);
    ws.write("BUILD.toml", target("echo x > $OUT; echo y > $OUT_DIR/g"));
    ws.build(&["//:a"]).ok();
    assert_eq!((ws.output("f"), ws.output("d/g")), ("x\n".into(), "y\n".into()));
    assert_eq!(ws.outputs().len(), 3, "{:?}", ws.outputs().keys());
    ws
}

#[test]
fn outputs_that_are_not_made() {
    check(":", &["its outputs are not as declared: `minibuild-out/bin/f` "]);
    check(": > $OUT; rmdir $OUT_DIR", &["`minibuild-out/bin/d` "]);
    check("rm -rf minibuild-out/bin", &["`minibuild-out/bin/f` ", "`minibuild-out/bin/d` "]);
}

#[test]
fn outputs_of_the_wrong_kind() {
    check("mkdir $OUT", &["`minibuild-out/bin/f` is a directory", "file"]);
    check(": > $OUT; rmdir $OUT_DIR; : > $OUT_DIR", &["`minibuild-out/bin/d` is a ", "directory"]);
    check("mkfifo $OUT", &["`minibuild-out/bin/f` "]);
    check(": > $OUT; mkfifo $OUT_DIR/p", &["`minibuild-out/bin/d/p` "]);
    check(": > $OUT; rmdir $OUT_DIR; ln -s . $OUT_DIR", &["`minibuild-out/bin/d` "]);
}

#[test]
fn symlinks_in_a_tree_that_lead_nowhere_or_out() {
    check(": > $OUT; ln -s nowhere $OUT_DIR/l", &["`minibuild-out/bin/d/l` ", "nowhere"]);
    check(": > $OUT; ln -s ../f $OUT_DIR/l", &["`minibuild-out/bin/d/l` ", "../f"]);
    check(": > $OUT; ln -s /etc/hostname $OUT_DIR/l", &["`minibuild-out/bin/d/l` ", "/etc/hostname"]);
    check(": > $OUT; ln -s l $OUT_DIR/l", &["`minibuild-out/bin/d/l` "]);
}

#[test]
fn a_name_in_a_tree_that_is_not_utf8() {
    check(": > $OUT; : > \"$OUT_DIR/$(printf 'odd-\\377')\"", &["minibuild-out/bin/d", "UTF-8"]);
}

#[test]
fn an_unreadable_output_is_made_readable() {
    let ws =
        with_targets(&target("echo x > $OUT; chmod 000 $OUT; mkdir $OUT_DIR/e; chmod 000 $OUT_DIR/e")).file("in", "");
    let run = ws.build(&["//:a"]);
    // Root reads everything; others are told.
    if matches!(run.ending, minibuild_testkit::Ending::Exited(0)) {
        assert_eq!(ws.output("f"), "x\n");
    } else {
        run.code(1).says(&["minibuild-out/bin/"]);
    }
}

#[test]
fn a_command_that_does_not_exist() {
    let with_args = |program: &str| format!("[[genrule]]\nname = \"a\"\nouts = [\"f\"]\nargs = [{program:?}, \"x\"]\n");
    let check = |program: &str, expected: &[&str]| {
        let ws = with_targets(&with_args(program)).file("plain", "echo");
        ws.build(&["//:a"]).code(1).says(&["//:a (Genrule) failed: could not be started: "]).says(expected);
        ws.write("BUILD.toml", with_args("touch").replace("\"x\"", "\"$(location f)\""));
        ws.build(&["//:a"]).ok();
    };
    check("no-such-program", &["cannot find program `no-such-program` in `PATH` (/usr/local/bin:/usr/bin:/bin)"]);
    check("./no/such/program", &["`./no/such/program`"]);
    check("./plain", &["`./plain`", "xecut"]);
    check("/etc", &["`/etc`"]);
}

#[test]
fn a_command_of_the_shell_that_does_not_exist() {
    check("no-such-program", &["exit code 127", "no-such-program"]);
}

#[test]
fn an_interpreter_that_does_not_exist() {
    let ws = with_targets("[[genrule]]\nname = \"a\"\nouts = [\"f\"]\nargs = [\"./tool\"]\n")
        .program("tool", "#!/no/such/shell\n");
    ws.build(&["//:a"]).code(1).says(&["could not be started", "tool"]);
}

#[test]
fn an_argument_that_is_too_long() {
    let long = "x".repeat(200_000);
    let ws = with_targets(&format!("[[genrule]]\nname = \"a\"\nouts = [\"f\"]\nargs = [\"true\", {long:?}]\n"));
    ws.build(&["//:a"]).code(1).says(&["could not be started", "too long"]);
}

#[test]
fn an_input_that_is_edited_while_the_action_runs() {
    let ws = workspace().file("in", "one");
    let mut gate = ws.gate("g");
    ws.write("BUILD.toml", genrule("a", &["in"], &["a"], &format!("cp $SRC $OUT; {}", gate.pass())));
    let build = ws.start_build(&["//:a"]);
    gate.arrival();
    ws.write("in", "two");
    gate.open();
    let run = build.wait().ok();
    let expected = "`in` changed while `//:a` ran; its result is used now and not remembered";
    assert_eq!(run.messages("warning"), [expected]);
    gate.open();
    ws.build(&["//:a"]).ok().started_only(&["//:a"]);
    assert_eq!(ws.output("a"), "two");
    ws.build(&["//:a"]).ok_without_running();
}

#[test]
fn an_input_that_is_edited_and_edited_back() {
    let ws = workspace().file("in", "one");
    let mut gate = ws.gate("g");
    ws.write("BUILD.toml", genrule("a", &["in"], &["a"], &format!("{}; cp $SRC $OUT", gate.pass())));
    let build = ws.start_build(&["//:a"]);
    gate.arrival();
    ws.write("in", "two");
    gate.open();
    build.wait().ok().says(&["`in` changed while"]);
    ws.write("in", "one");
    gate.open();
    ws.build(&["//:a"]).ok().started_only(&["//:a"]);
    assert_eq!(ws.output("a"), "one", "what was made of the other content is not taken for this one's");
}

#[test]
fn an_input_that_is_removed_while_the_action_runs() {
    let ws = workspace().file("in", "one");
    let mut gate = ws.gate("g");
    ws.write("BUILD.toml", genrule("a", &["in"], &["a"], &format!("cp $SRC $OUT; {}", gate.pass())));
    let build = ws.start_build(&["//:a"]);
    gate.arrival();
    ws.remove("in");
    gate.open();
    build.wait().ok().says(&["`in` changed while"]);
    ws.build(&["//:a"]).code(2).says(&["`in`"]);
    ws.write("in", "two");
    gate.open();
    ws.build(&["//:a"]).ok();
    assert_eq!(ws.output("a"), "two");
}

#[test]
fn an_action_that_changes_its_own_input() {
    let ws = with_targets(&genrule("a", &["in"], &["a"], "echo more >> $SRC; cp $SRC $OUT")).file("in", "one\n");
    ws.build(&["//:a"]).ok().says(&["`in` changed while `//:a` ran"]);
    ws.build(&["//:a"]).ok().started_only(&["//:a"]);
    assert_eq!(ws.output("a"), "one\nmore\nmore\n");
}

#[test]
fn an_action_that_changes_an_input_another_made() {
    let targets = genrule("a", &[], &["a"], "echo a > $OUT")
        + &genrule("b", &[":a"], &["b"], "cp $SRC $OUT; chmod u+w $SRC; echo wrong > $SRC");
    let ws = with_targets(&targets);
    ws.build(&["//:b"]).ok().says(&["`minibuild-out/bin/a` changed while `//:b` ran"]);
    ws.write("BUILD.toml", targets.replace("; chmod u+w $SRC; echo wrong > $SRC", ""));
    ws.build(&["//:a", "//:b"]).ok();
    assert_eq!((ws.output("a"), ws.output("b")), ("a\n".into(), "a\n".into()));
}

/// A process that does what it can to live on: two forks, a session of its own, no environment, no SIGTERM.
const DAEMON: &str = "(setsid env -i /bin/sh -c 'trap \"\" TERM HUP INT; echo $$ > \"$0\"; (while :; do read -r _ < \"$1\"; done) & while :; do read -r _ < \"$1\"; done' PIDFILE FIFO > /dev/null 2>&1 &)";

#[test]
fn a_daemon_does_not_outlive_its_action() {
    let ws = workspace();
    let mut gate = ws.gate("daemon");
    let daemon = DAEMON.replace("PIDFILE", &ws.outside().join("gates/daemon.arrived").display().to_string());
    let daemon = daemon.replace("FIFO", &ws.outside().join("gates/daemon.go").display().to_string());
    let (mut started, rest) = (ws.gate("started"), ": > $OUT");
    ws.write("BUILD.toml", genrule("a", &[], &["a"], &format!("{daemon}; {}; {rest}", started.pass())));
    let build = ws.start_build(&["//:a"]);
    started.arrival();
    let pid = gate.arrival();
    assert!(is_alive(pid));
    started.open();
    let run = build.wait().ok();
    assert!(!is_alive(pid), "the daemon is dead before its action's outputs are read");
    let warnings = run.messages("warning");
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].starts_with("processes of `//:a` outlived its command and were killed: "), "{warnings:?}");
    assert!(warnings[0].contains(&pid.to_string()), "{warnings:?}");
    ws.nothing_is_left_running();
}

#[test]
fn a_daemon_of_a_failing_action_dies_too() {
    let ws = workspace();
    let mut gate = ws.gate("daemon");
    let daemon = format!("(setsid /bin/sh -c \"{}\" &); ", gate.pass());
    let mut started = ws.gate("started");
    ws.write("BUILD.toml", genrule("a", &[], &["a"], &format!("{daemon}{}; exit 3", started.pass())));
    let build = ws.start_build(&["//:a"]);
    // The one that was told apart by `$$` is the action's own shell, since the text is expanded there.
    gate.arrival();
    started.arrival();
    started.open();
    build.wait().code(1).says(&["exit code 3"]);
    ws.nothing_is_left_running();
}

#[test]
fn background_children_are_no_part_of_the_result() {
    let ws = workspace();
    let gate = ws.gate("never");
    ws.write(
        "BUILD.toml",
        genrule("a", &[], &["a"], &format!("({}; echo late > $OUT) & echo now > $OUT", gate.wait())),
    );
    ws.build(&["//:a"]).ok().says(&["outlived its command"]);
    assert_eq!(ws.output("a"), "now\n");
    ws.nothing_is_left_running();
}

#[test]
fn much_output_on_both_streams_is_shown_whole() {
    let cmd = "i=0; while [ $i -lt 3000 ]; do echo line-$i; echo err-$i >&2; i=$((i+1)); done; printf '\\377'; exit 1";
    let run = with_targets(&genrule("a", &[], &["a"], cmd)).build(&["//:a"]).code(1).says(&[
        "line-2999\n",
        "err-2999\n",
        "\u{fffd}",
    ]);
    for start in ["line-", "err-"] {
        assert_eq!(run.stderr.lines().filter(|line| line.starts_with(start)).count(), 3000);
    }
}

/// A small file system of its own; `None`, loudly, where mounting is not allowed.
pub struct SmallDisk(std::path::PathBuf);

impl SmallDisk {
    /// For the output tree.
    fn mount(ws: &Workspace, size: &str) -> Option<Self> {
        Self::mount_at(ws.path("minibuild-out"), size)
    }

    /// At a path where there is nothing yet.
    pub fn mount_at(path: std::path::PathBuf, size: &str) -> Option<Self> {
        fs::create_dir(&path).expect("makes a directory");
        let options = format!("size={size},mode=755");
        let mount =
            std::process::Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(&path).output();
        match mount {
            Ok(done) if done.status.success() => Some(Self(path)),
            other => {
                skipped(&format!("no file system can be mounted here (root needed): {other:?}"));
                None
            }
        }
    }

    fn remount(&self, options: &str) {
        let done = std::process::Command::new("mount").args(["-o", options]).arg(&self.0).status().expect("mount runs");
        assert!(done.success(), "mount -o {options}");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a failed test may have left something running there.
        let _ = std::process::Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_is_a_clear_error_and_nothing_is_recorded_as_done() {
    let ws =
        with_targets(&genrule("a", &["in"], &["a"], "head -c $(cat $SRC) /dev/zero > $OUT")).file("in", "30000000");
    let Some(disk) = SmallDisk::mount(&ws, "4m") else { return };
    ws.build(&["//:a"]).code(1).says(&[
        "//:a (Genrule) failed",
        "`minibuild-out`: No space left on device",
        "hint: the disk is full",
    ]);
    ws.build(&["//:a"]).code(1).started_only(&["//:a"]);
    disk.remount("remount,size=64m");
    ws.build(&["//:a"]).ok();
    assert_eq!(fs::metadata(ws.bin("a")).expect("it is there").len(), 30_000_000);
    ws.build(&["//:a"]).ok_without_running();
    drop(disk);
}

#[test]
fn a_disk_that_is_full_from_the_start_is_an_error_that_names_it() {
    let ws = with_targets(&genrule("a", &["in"], &["a"], "head -c $(cat $SRC) /dev/zero > $OUT")).file("in", "1");
    let Some(disk) = SmallDisk::mount(&ws, "1m") else { return };
    ws.build(&["//:a"]).ok();
    let filler = ws.path("minibuild-out/filler");
    // Written until nothing more fits.
    let _ = std::process::Command::new("dd")
        .args(["if=/dev/zero", "bs=1k"])
        .arg(format!("of={}", filler.display()))
        .output();
    ws.write("in", "200000");
    ws.build(&["//:a"]).code(1).says(&["`minibuild-out`: No space left on device", "hint: the disk is full"]);
    fs::remove_file(&filler).expect("removes");
    ws.build(&["//:a"]).ok();
    assert_eq!(fs::metadata(ws.bin("a")).expect("it is there").len(), 200_000);
    ws.build(&["//:a"]).ok_without_running();
    drop(disk);
}

#[test]
fn a_read_only_output_tree_is_a_clear_error() {
    let ws = with_targets(&genrule("a", &["in"], &["a"], "cat $SRC > $OUT")).file("in", "1");
    let Some(disk) = SmallDisk::mount(&ws, "4m") else { return };
    ws.build(&["//:a"]).ok();
    disk.remount("remount,ro");
    ws.write("in", "2");
    ws.build(&["//:a"]).code(1).says(&["minibuild-out", "Read-only file system"]);
    ws.run(&["clean"]).code(1).says(&["minibuild-out", "Read-only file system"]);
    disk.remount("remount,rw");
    ws.build(&["//:a"]).ok();
    assert_eq!(ws.output("a"), "2");
    drop(disk);
}

#[test]
fn an_output_directory_that_is_a_file() {
    let ws = with_targets(&genrule("a", &[], &["a"], ": > $OUT")).file("minibuild-out", "a file");
    ws.build(&["//:a"]).code(1).says(&["minibuild-out"]);
    assert_eq!(ws.read("minibuild-out"), "a file", "it is not ours to remove");
    ws.remove("minibuild-out");
    ws.build(&["//:a"]).ok();
}

#[test]
fn an_output_directory_that_is_a_symlink_the_user_made() {
    let ws = with_targets(&genrule("a", &[], &["a"], "echo x > $OUT"));
    fs::create_dir(ws.outside().join("big-disk")).expect("makes a directory");
    let ws = ws.link("minibuild-out", "../big-disk");
    ws.build(&["//:a"]).ok();
    assert_eq!(ws.output("a"), "x\n");
    ws.build(&["//:a"]).ok_without_running();
}

#[test]
fn a_source_that_cannot_be_read() {
    let ws = with_targets(&genrule("a", &["in"], &["a"], "cat $SRC > $OUT")).file("in", "x");
    fs::set_permissions(ws.path("in"), fs::Permissions::from_mode(0o000)).expect("changes");
    if fs::read(ws.path("in")).is_ok() {
        skipped("this user reads everything");
        return;
    }
    ws.build(&["//:a"]).code(1).says(&["its input `in` cannot be read", "ermission denied"]);
    fs::set_permissions(ws.path("in"), fs::Permissions::from_mode(0o644)).expect("changes");
    ws.build(&["//:a"]).ok();
}

#[test]
fn a_source_that_is_no_file() {
    let ws = with_targets(&genrule("a", &["in"], &["a"], "cat $SRC > $OUT"));
    let made = std::process::Command::new("mkfifo").arg(ws.path("in")).status().expect("mkfifo runs");
    assert!(made.success());
    ws.build(&["//:a"]).code(2).says(&["`in`", "neither a file nor a symlink"]);
}

#[test]
fn a_stuck_action_dies_with_the_build() {
    // Stopped processes take no SIGTERM; the helper goes on to SIGKILL.
    let ws = workspace();
    let mut gate = ws.gate("g");
    ws.write("BUILD.toml", genrule("a", &[], &["a"], &format!("trap '' TERM; {}; kill -STOP $$", gate.arrive())));
    let build = ws.start_build(&["//:a"]);
    let pid = gate.arrival();
    build.signal(minibuild_testkit::Signal::SIGINT);
    build.wait().code(8);
    assert!(wait_until_dead(pid, std::time::Duration::ZERO));
}
