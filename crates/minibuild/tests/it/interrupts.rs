//! Ctrl-C, SIGTERM, SIGHUP and SIGKILL: nothing survives, what finished is remembered, the next build is right.

use std::time::Duration;

use minibuild_testkit::{Ending, Gate, Pid, Running, Signal, Workspace, command_line, is_alive, kill, wait_until_dead};

use crate::{genrule, with_targets, workspace};

const SOON: Duration = Duration::from_secs(60);

/// first -> held -> last; `held` waits at the gate half-way through its output.
struct Scene {
    ws: Workspace,
    gate: Gate,
}

impl Scene {
    /// `before` is shell text that `held` begins with.
    fn new(before: &str) -> Self {
        let ws = workspace();
        let gate = ws.gate("g");
        let held = format!("{before} echo half > $OUT; {}; echo whole >> $OUT", gate.pass());
        let targets = [
            genrule("first", &[], &["first"], "echo first > $OUT"),
            genrule("held", &[":first"], &["held"], &held),
            genrule("last", &[":held"], &["last"], "cat $SRC > $OUT"),
        ];
        ws.write("BUILD.toml", targets.concat());
        Self { ws, gate }
    }

    /// A build at the gate, with the pid of the command that waits there.
    fn start(&mut self) -> (Running, Pid) {
        let build = self.ws.start_build(&["-j2", "//:last"]);
        let pid = self.gate.arrival();
        (build, pid)
    }

    /// The next build is right; `first` is still known if `first_is_known`.
    fn check_next(mut self, first_is_known: bool) {
        self.gate.open();
        let run = self.ws.build(&["//:last"]).ok();
        let expected: &[&str] =
            if first_is_known { &["//:held", "//:last"] } else { &["//:first", "//:held", "//:last"] };
        assert_eq!(run.ran(), expected);
        assert_eq!(self.ws.output("last"), "half\nwhole\n");
        self.ws.build(&["//:last"]).ok_without_running();
        self.gate.arrival();
        assert!(self.ws.snapshot("minibuild-out/.state/trash").is_empty());
    }
}

#[test]
fn each_signal_stops_the_build_in_order() {
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        let mut scene = Scene::new("");
        let (build, command) = scene.start();
        build.signal(signal);
        let run = build.wait().code(8).says(&["the build was interrupted"]);
        assert!(!is_alive(command));
        assert_eq!(run.counts().local, 1, "what finished is counted");
        scene.ws.nothing_is_left_running();
        scene.check_next(true);
    }
}

#[test]
fn a_command_is_asked_before_it_is_killed() {
    let mut scene = Scene::new("trap 'echo asked > said; exit 1' TERM;");
    let (build, _) = scene.start();
    build.signal(Signal::SIGINT);
    build.wait().code(8);
    assert_eq!(scene.ws.read("said"), "asked\n");
    scene.check_next(true);
}

#[test]
fn a_command_that_ends_well_after_it_was_stopped_is_not_believed() {
    let mut scene = Scene::new("trap 'echo wrong > $OUT; exit 0' TERM;");
    let (build, _) = scene.start();
    build.signal(Signal::SIGINT);
    build.wait().code(8);
    scene.check_next(true);
}

#[test]
fn the_second_signal_kills_at_once() {
    let mut scene = Scene::new("trap 'echo deaf > said' TERM INT HUP;");
    // The gate's read is begun anew each time a signal interrupts it.
    let text = scene
        .ws
        .read("BUILD.toml")
        .replace("; echo whole", " || :; while :; do read -r _ < never || :; done; echo whole");
    let never = std::process::Command::new("mkfifo").arg(scene.ws.path("never")).status().expect("mkfifo runs");
    assert!(never.success());
    scene.ws.write("BUILD.toml", &text);
    let (build, command) = scene.start();
    build.signal(Signal::SIGINT);
    // It takes note of the first and lives on.
    while !scene.ws.path("said").exists() {
        assert!(!wait_until_dead(command, Duration::from_millis(2)), "it is deaf to SIGTERM");
    }
    build.signal(Signal::SIGINT);
    build.wait().code(8);
    assert!(!is_alive(command));
    scene.ws.write("BUILD.toml", text.replace("while :; do read -r _ < never || :; done; ", ""));
    scene.check_next(true);
}

#[test]
fn grandchildren_die_with_an_interrupted_command() {
    let mut scene = Scene::new("");
    let mut inner = scene.ws.gate("inner");
    let text = scene.ws.read("BUILD.toml");
    let daemon =
        format!("(setsid /bin/sh -c \\\"trap '' TERM INT HUP; {}\\\" &) ;", inner.pass().replace("$$", "\\\\$\\\\$"));
    scene.ws.write("BUILD.toml", text.replace("cmd = \" echo half", &format!("cmd = \"{daemon} echo half")));
    let (build, _) = scene.start();
    let daemon = inner.arrival();
    assert!(is_alive(daemon));
    build.signal(Signal::SIGINT);
    build.wait().code(8);
    assert!(!is_alive(daemon));
    scene.ws.write("BUILD.toml", text);
    scene.check_next(true);
}

#[test]
fn keep_going_does_not_go_on_after_an_interrupt() {
    let mut scene = Scene::new("");
    let build = scene.ws.start_build(&["-k", "//..."]);
    scene.gate.arrival();
    build.signal(Signal::SIGINT);
    build.wait().code(8);
    scene.check_next(true);
}

#[test]
fn sigkill_of_the_main_process_kills_helpers_and_commands() {
    let mut scene = Scene::new("trap '' TERM INT HUP;");
    let (build, command) = scene.start();
    let helpers = build.helpers();
    assert!(!helpers.is_empty());
    assert_eq!(build.kill().ending, Ending::Signalled(Signal::SIGKILL as i32));
    for pid in helpers.into_iter().chain([command]) {
        assert!(wait_until_dead(pid, SOON), "{pid} lives on: {}", command_line(pid));
    }
    scene.check_next(true);
}

#[test]
fn the_build_after_a_sigkill_waits_for_what_is_left() {
    let mut scene = Scene::new("trap '' TERM INT HUP;");
    let (build, command) = scene.start();
    build.kill();
    // At once: whatever is left then is waited for.
    let next = scene.ws.start_build(&["//:last"]);
    scene.gate.arrival();
    assert!(!is_alive(command), "the killed build's command was dead before this one began");
    scene.gate.open();
    next.wait().ok();
    assert_eq!(scene.ws.output("last"), "half\nwhole\n");
}

#[test]
fn what_a_killed_action_left_disappears_with_its_target() {
    for signal in [Signal::SIGINT, Signal::SIGKILL] {
        let mut scene = Scene::new("");
        let (build, _) = scene.start();
        build.signal(signal);
        build.wait();
        scene.ws.nothing_is_left_running();
        if signal == Signal::SIGKILL {
            assert_eq!(scene.ws.output("held"), "half\n");
        } else {
            assert!(!scene.ws.has_output("held"), "a build that ends in order leaves nothing half made");
        }
        scene.ws.write("BUILD.toml", genrule("first", &[], &["first"], "echo first > $OUT"));
        scene.ws.build(&["//..."]).ok();
        assert_eq!(scene.ws.outputs().len(), 1, "{:?}", scene.ws.outputs());
    }
}

#[test]
fn no_build_starts_beside_the_survivor_of_a_killed_helper() {
    let mut scene = Scene::new("");
    let (build, command) = scene.start();
    let helpers = build.helpers();
    // All at once, as by `killall -9 minibuild`: nobody is left to kill the command. The main process is stopped first, lest it
    // sees a helper die and does the helper's work. A stopped helper would go on when the main process dies.
    build.signal(Signal::SIGSTOP);
    for &pid in &helpers {
        kill(pid, Signal::SIGKILL);
        assert!(wait_until_dead(pid, SOON));
    }
    build.kill();
    assert!(is_alive(command), "it survives");
    let mut next = scene.ws.start_build(&["//:last"]);
    next.wait_for_stderr("waiting for process");
    let told = next.stderr_so_far();
    assert!(told.contains(&command.to_string()), "{command}: {told}");
    assert_eq!(scene.gate.arrival_within(Duration::from_millis(200)), None, "nothing was started beside it");
    assert!(!next.has_ended());
    kill(command, Signal::SIGKILL);
    assert!(wait_until_dead(command, SOON));
    scene.gate.arrival();
    scene.gate.open();
    next.wait().ok();
    assert_eq!(scene.ws.output("last"), "half\nwhole\n");
}

#[test]
fn a_helper_that_is_killed_is_an_error_of_its_action() {
    let mut scene = Scene::new("");
    let (build, command) = scene.start();
    for pid in build.helpers() {
        kill(pid, Signal::SIGKILL);
    }
    // Nobody watches over the command any more; nothing it makes may be taken.
    let run = build.wait();
    assert_eq!(run.ending, Ending::Exited(1), "{}", run.stderr);
    run.says(&["//:held"]);
    kill(command, Signal::SIGKILL);
    assert!(wait_until_dead(command, SOON));
    scene.check_next(true);
}

#[test]
fn a_closed_stderr_does_not_stop_the_build() {
    let scene = Scene::new("");
    let mut gate = scene.gate;
    gate.open();
    let status = std::process::Command::new("/bin/sh")
        .args(["-c", "exec \"$0\" build //:last 2>&-", env!("CARGO_BIN_EXE_minibuild")])
        .current_dir(scene.ws.root())
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("HOME", scene.ws.home())
        .status();
    assert!(status.expect("it runs").success());
    assert_eq!(scene.ws.output("last"), "half\nwhole\n");
}

#[test]
fn a_build_in_a_command_of_the_same_workspace_is_refused_and_others_are_not() {
    let binary = env!("CARGO_BIN_EXE_minibuild");
    // Also where the command gave up its session and its parent.
    let nested = format!("setsid -w sh -c '{binary} build //:b; echo $?' > $OUT");
    let elsewhere =
        format!("mkdir w; : > w/minibuild.toml; : > w/BUILD.toml; {binary} -C w build //... && rm -r w && : > $OUT");
    let ws = with_targets(&(genrule("a", &[], &["a"], &nested) + &genrule("b", &[], &["b"], ": > $OUT")));
    let run = ws.build(&["//:a"]).ok();
    run.says(&["cannot take the lock", "waits for this one", "hint: a command of a build cannot build"]);
    assert_eq!(ws.output("a"), "1\n");
    ws.write("BUILD.toml", genrule("c", &[], &["c"], &elsewhere));
    ws.build(&["//:c"]).ok();
}
