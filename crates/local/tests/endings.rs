//! How runs are ended, and that nothing outlives them: timeouts, stops, daemons, deaths of helper and main process.

mod common;

use std::time::{Duration, Instant};

use common::{DAEMON, Workspace, assert_all_dead, out, shell};
use minibuild_core::{ArtifactKind, ExecutionRequest, ExecutionStatus, Executor, ExecutorEvent, StopReason};

/// Writes its pid and that of a child to `pids`, then lasts for ever; neither cares for SIGTERM.
const STUBBORN: &str = "trap '' TERM; sleep 1000 & echo $$ $! > pids; while :; do wait; done";

/// Starts a run that writes pids to the pipe `pids`, and waits for them.
fn start_with_pids(ws: &mut Workspace, request: ExecutionRequest) -> (minibuild_core::RunId, Vec<String>) {
    ws.make_pipe("pids");
    let run = ws.start(request);
    let pids = ws.wait_for_pipe("pids").split_whitespace().map(str::to_owned).collect();
    (run, pids)
}

#[test]
fn a_timeout_kills_what_ignores_sigterm_after_the_grace() {
    let mut ws = Workspace::new();
    let mut asked = shell(STUBBORN, vec![out("f", ArtifactKind::File)]);
    asked.timeout = Some(Duration::from_millis(300));
    let (run, pids) = start_with_pids(&mut ws, asked);
    let report = ws.finish(run);
    assert_eq!(report.status, ExecutionStatus::TimedOut);
    assert!(report.cost.wall >= Duration::from_millis(2300), "{:?}", report.cost.wall);
    assert_all_dead(&pids);
}

/// As [`STUBBORN`]; the helper, which watches over its time, is stopped.
const STOPS_ITS_HELPER: &str = "trap '' TERM; kill -STOP $PPID; sleep 1000 & echo $$ $! > pids; while :; do wait; done";

#[test]
fn timeout_ends_a_command_that_stopped_its_helper() {
    let mut ws = Workspace::new();
    let mut asked = shell(STOPS_ITS_HELPER, vec![]);
    asked.timeout = Some(Duration::from_millis(300));
    let (run, pids) = start_with_pids(&mut ws, asked);
    assert_eq!(ws.finish(run).status, ExecutionStatus::TimedOut);
    assert_all_dead(&pids);
}

#[test]
fn stop_reaches_a_helper_that_its_command_stopped() {
    for reason in [StopReason::Interrupt, StopReason::Kill] {
        let mut ws = Workspace::new();
        let (run, pids) = start_with_pids(&mut ws, shell(STOPS_ITS_HELPER, vec![]));
        ws.executor.stop(run, reason);
        assert_eq!(ws.finish(run).status, ExecutionStatus::Stopped(reason));
        assert_all_dead(&pids);
    }
}

#[test]
fn command_that_ends_after_it_stopped_its_helper_is_reported() {
    let mut ws = Workspace::new();
    assert_eq!(ws.run(shell("kill -STOP $PPID; exit 3", vec![])).status, ExecutionStatus::Exited(3));
}

#[test]
fn a_timeout_lets_commands_clean_up() {
    let mut ws = Workspace::new();
    let script = "trap 'echo cleaned; exit 0' TERM; sleep 1000 & echo $$ $! > pids; wait";
    let mut asked = shell(script, vec![]);
    asked.timeout = Some(Duration::from_millis(300));
    let (run, pids) = start_with_pids(&mut ws, asked);
    let report = ws.finish(run);
    assert_eq!((report.status, &report.stdout[..]), (ExecutionStatus::TimedOut, &b"cleaned\n"[..]));
    assert!(report.cost.wall < Duration::from_secs(2), "no need for the whole grace");
    assert_all_dead(&pids);
}

#[test]
fn a_daemon_does_not_outlive_its_command() {
    let mut ws = Workspace::new();
    let script = format!("mkfifo up; {}; read pid < up; echo $pid > pids", DAEMON.replace("pids", "up"));
    let (run, pids) = start_with_pids(&mut ws, shell(&script, vec![]));
    let report = ws.finish(run);
    assert_eq!(report.status, ExecutionStatus::Exited(0));
    assert_all_dead(&pids);
    assert!(report.killed.iter().any(|line| line.starts_with(&format!("{} /bin/sh", pids[0]))), "{:?}", report.killed);
    let size = || std::fs::metadata(ws.root().join("grows")).map_or(0, |meta| meta.len());
    let before = size();
    assert_eq!(ws.run(shell("true", vec![])).killed, Vec::<String>::new());
    let size = || std::fs::metadata(ws.root().join("grows")).map_or(0, |meta| meta.len());
    assert_eq!(size(), before, "no byte is written after the report");
}

#[test]
fn background_children_are_killed_and_named() {
    let mut ws = Workspace::new();
    // `: > a` returns once somebody has `a` open for reading: the children are then past their exec and have their
    // own command lines. Each goes on to wait for a writer of `held`, who never comes.
    let script = "mkfifo a b held; cat a held & cat b held & : > a; : > b; exit 3";
    let report = ws.run(shell(script, vec![]));
    assert_eq!(report.status, ExecutionStatus::Exited(3));
    let mut killed: Vec<&str> = report.killed.iter().map(|line| line.split_once(' ').expect("pid first").1).collect();
    killed.sort_unstable();
    assert_eq!(killed, ["cat a held", "cat b held"]);
}

#[test]
fn a_chain_that_starts_itself_anew_for_ever_is_broken() {
    let mut ws = Workspace::new();
    let script = "printf '#!/bin/sh\\nexec setsid -f \"$0\"\\n' > chain; chmod +x chain; setsid -f $PWD/chain";
    let report = ws.run(shell(script, vec![]));
    assert_eq!(report.status, ExecutionStatus::Exited(0));
    let mine = ws.root().join("chain").display().to_string();
    for entry in std::fs::read_dir("/proc").expect("proc").flatten() {
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        assert!(!String::from_utf8_lossy(&line).contains(&mine), "{entry:?} lives");
    }
}

#[test]
fn stops_end_runs_for_their_reason() {
    let check = |reasons: &[StopReason], expected: StopReason, at_once: bool| {
        let mut ws = Workspace::new();
        let (run, pids) = start_with_pids(&mut ws, shell(STUBBORN, vec![]));
        let asked = Instant::now();
        for &reason in reasons {
            ws.executor.stop(run, reason);
        }
        let report = ws.finish(run);
        assert_eq!(report.status, ExecutionStatus::Stopped(expected), "{reasons:?}");
        assert_all_dead(&pids);
        assert_eq!(asked.elapsed() < Duration::from_secs(2), at_once, "{reasons:?}");
        ws.executor.stop(run, StopReason::Kill);
        assert_eq!(ws.run(shell("true", vec![])).status, ExecutionStatus::Exited(0), "a late stop is ignored");
    };
    use StopReason::{Interrupt, Kill, LostRace};
    check(&[Interrupt], Interrupt, false);
    check(&[LostRace], LostRace, true);
    check(&[Kill], Kill, true);
    check(&[Interrupt, LostRace], LostRace, true);
    check(&[Interrupt, Kill], Kill, true);
    check(&[Kill, Interrupt], Kill, true);
}

#[test]
fn a_stop_right_after_the_start_is_not_lost() {
    let mut ws = Workspace::new();
    for reason in [StopReason::LostRace, StopReason::Kill, StopReason::Interrupt] {
        for _ in 0..10 {
            let run = ws.start(shell("exec sleep 1000", vec![out("f", ArtifactKind::File)]));
            ws.executor.stop(run, reason);
            assert_eq!(ws.finish(run).status, ExecutionStatus::Stopped(reason));
        }
    }
}

#[test]
fn started_comes_before_finished_and_each_once() {
    let mut ws = Workspace::new();
    let run = ws.start(shell("true", vec![]));
    assert!(matches!(ws.event(), ExecutorEvent::Started(started) if started == run));
    assert!(matches!(ws.event(), ExecutorEvent::Finished(report) if report.run == run));
    let run = ws.start(shell("exec sleep 1000", vec![]));
    assert!(matches!(ws.event(), ExecutorEvent::Started(started) if started == run));
    ws.executor.shutdown();
    assert!(
        matches!(ws.event(), ExecutorEvent::Finished(report) if report.status == ExecutionStatus::Stopped(StopReason::Kill))
    );
}

#[test]
fn the_death_of_a_helper_leaves_nothing_and_the_slot_goes_on() {
    let mut ws = Workspace::new();
    let script = format!(
        "mkfifo up; {}; read pid < up; echo $$ $pid > pids; kill -9 $PPID; sleep 1000",
        DAEMON.replace("pids", "up")
    );
    let (run, pids) = start_with_pids(&mut ws, shell(&script, vec![]));
    let report = ws.finish(run);
    assert!(
        matches!(&report.status, ExecutionStatus::Infrastructure(text) if text.contains("died")),
        "{:?}",
        report.status
    );
    assert_eq!(pids.len(), 2);
    assert_all_dead(&pids);
    assert_eq!(ws.run(shell("echo on", vec![])).stdout, b"on\n");
}
