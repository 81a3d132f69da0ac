//! More slots than places for commands: who waits, who goes next, and what becomes of those that wait.

mod common;

use common::{Workspace, out, shell};
use minibuild_core::{ArtifactKind, ExecutionReport, ExecutionStatus, Executor, ExecutorEvent, RunId, StopReason};

/// The next report, and the runs whose command was handed over before it.
fn next_end(ws: &Workspace) -> (ExecutionReport, Vec<RunId>) {
    let mut started = Vec::new();
    loop {
        match ws.event() {
            ExecutorEvent::Started(run) => started.push(run),
            ExecutorEvent::Finished(report) => return (*report, started),
            ExecutorEvent::Notice(..) => {}
        }
    }
}

/// Holds the only place until something is written into the pipe.
fn block(ws: &mut Workspace, script: &str) -> RunId {
    ws.make_pipe("gate");
    ws.make_pipe("here");
    block_again(ws, script)
}

/// As [`block`], with its pipes.
fn block_again(ws: &mut Workspace, script: &str) -> RunId {
    let run = ws.start(shell(&format!("echo > here; read line < gate; {script}"), vec![]));
    ws.wait_for_pipe("here");
    run
}

fn open_gate(ws: &Workspace) {
    std::fs::write(ws.root().join("gate"), "go\n").expect("somebody reads");
}

#[test]
fn commands_never_run_beside_more_than_there_are_places() {
    let mut ws = Workspace::with(2, None);
    // Each leaves a mark while it runs, and fails where there are too many.
    let script = |number: usize| {
        let shell_text =
            format!("touch mark{number}; set -- mark*; test $# -le 2; sleep 0.01; rm mark{number}; echo > $OUT");
        let mut asked = shell(&shell_text, vec![out(&format!("f{number}"), ArtifactKind::File)]);
        asked.command.env.insert("OUT".into(), format!("minibuild-out/bin/pkg/f{number}"));
        asked
    };
    let mut next = 4;
    for number in 0..next {
        ws.start(script(number));
    }
    for _ in 0..40 {
        let (report, _) = next_end(&ws);
        assert_eq!((report.status, report.outputs.len()), (ExecutionStatus::Exited(0), 1));
        if next < 40 {
            ws.start(script(next));
            next += 1;
        }
    }
}

#[test]
fn who_waits_comes_in_order_and_is_told_when_it_starts() {
    let mut ws = Workspace::with(1, None);
    let first = block(&mut ws, "true");
    let (second, third) = (ws.start(shell("true", vec![])), ws.start(shell("true", vec![])));
    open_gate(&ws);
    let ends: Vec<_> = (0..3).map(|_| next_end(&ws)).collect();
    let started: Vec<RunId> = ends.iter().flat_map(|(_, started)| started.clone()).collect();
    assert_eq!(started[0], first);
    let mut rest = started[1..].to_vec();
    rest.sort_unstable_by_key(|run| run.action);
    assert_eq!(rest, [second, third]);
    assert!(ends.iter().all(|(report, _)| report.status == ExecutionStatus::Exited(0)));
}

#[test]
fn runs_without_a_slot_wait_for_whichever_is_free_first() {
    let mut ws = Workspace::with(1, None);
    let first = block(&mut ws, "true");
    let runs: Vec<RunId> =
        ["one", "two", "three"].map(|text| ws.start(shell(&format!("echo {text} >> ran"), vec![]))).to_vec();
    ws.executor.stop(runs[1], StopReason::LostRace);
    let (report, _) = next_end(&ws);
    assert_eq!((report.run, report.status), (runs[1], ExecutionStatus::Stopped(StopReason::LostRace)));
    open_gate(&ws);
    let ends: Vec<RunId> = (0..3).map(|_| next_end(&ws).0.run).collect();
    assert_eq!(ends, [first, runs[0], runs[2]]);
    assert_eq!(std::fs::read_to_string(ws.root().join("ran")).expect("reads"), "one\nthree\n");
    // And where all are to end none of them begins.
    let running = block_again(&mut ws, "true");
    let waiting = ws.start(shell("echo four >> ran", vec![]));
    ws.executor.shutdown();
    let mut ends: Vec<_> = (0..2).map(|_| next_end(&ws).0).map(|report| (report.run, report.status)).collect();
    ends.sort_by_key(|(run, _)| run.action);
    let stopped = ExecutionStatus::Stopped(StopReason::Kill);
    assert_eq!(ends, [(running, stopped.clone()), (waiting, stopped)]);
    assert_eq!(std::fs::read_to_string(ws.root().join("ran")).expect("reads"), "one\nthree\n");
}

#[test]
fn a_stop_reaches_who_waits_without_its_command_being_started() {
    for reason in [StopReason::LostRace, StopReason::Interrupt, StopReason::Kill] {
        let mut ws = Workspace::with(1, None);
        let first = block(&mut ws, "true");
        let second = ws.start(shell("echo > ran", vec![]));
        ws.executor.stop(second, reason);
        let (report, started) = next_end(&ws);
        assert_eq!((report.run, report.status), (second, ExecutionStatus::Stopped(reason)));
        assert_eq!(started, [first]);
        open_gate(&ws);
        assert_eq!(next_end(&ws).0.run, first);
        assert!(!ws.root().join("ran").exists());
        // Both slots are of use again.
        let third = ws.start(shell("echo > ran", vec![]));
        assert_eq!(next_end(&ws).0.run, third);
        assert!(ws.root().join("ran").exists());
    }
}

#[test]
fn after_a_failure_nothing_starts_before_the_caller_took_note() {
    let mut ws = Workspace::with(1, None);
    let first = block(&mut ws, "exit 3");
    let second = ws.start(shell("echo > ran", vec![]));
    open_gate(&ws);
    let (report, started) = next_end(&ws);
    assert_eq!((report.run, report.status, &started[..]), (first, ExecutionStatus::Exited(3), &[first][..]));
    ws.executor.stop(second, StopReason::Interrupt);
    ws.executor.go_on();
    let (report, started) = next_end(&ws);
    assert_eq!((report.run, report.status), (second, ExecutionStatus::Stopped(StopReason::Interrupt)));
    assert!(started.is_empty() && !ws.root().join("ran").exists());

    let first = ws.start(shell("exit 4", vec![]));
    assert_eq!(next_end(&ws).0.run, first);
    let second = ws.start(shell("echo > ran", vec![]));
    assert_eq!(next_end(&ws).0.run, second, "a start says as well that the failure was taken note of");
}

#[test]
fn the_end_takes_who_waits_along() {
    let mut ws = Workspace::with(1, None);
    let first = block(&mut ws, "true");
    let (second, third) = (ws.start(shell("echo > ran", vec![])), ws.start(shell("echo > ran", vec![])));
    ws.executor.shutdown();
    let mut ended: Vec<RunId> = (0..3)
        .map(|_| {
            let report = next_end(&ws).0;
            assert_eq!(report.status, ExecutionStatus::Stopped(StopReason::Kill));
            report.run
        })
        .collect();
    ended.sort_unstable_by_key(|run| run.action);
    assert_eq!(ended, [first, second, third]);
    assert!(!ws.root().join("ran").exists());
}

#[test]
fn a_dead_helper_takes_no_place_with_it() {
    let mut ws = Workspace::with(1, None);
    ws.make_pipe("pids");
    let first = ws.start(shell("echo $PPID > pids; sleep 1000", vec![]));
    let helper: i32 = ws.wait_for_pipe("pids").trim().parse().expect("a pid");
    let second = ws.start(shell("true", vec![]));
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(helper), nix::sys::signal::Signal::SIGKILL).expect("it is there");
    let (report, _) = next_end(&ws);
    assert_eq!(report.run, first);
    assert!(matches!(report.status, ExecutionStatus::Infrastructure(_)), "{:?}", report.status);
    ws.executor.go_on();
    let (report, _) = next_end(&ws);
    assert_eq!((report.run, report.status), (second, ExecutionStatus::Exited(0)));
}
