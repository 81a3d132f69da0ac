//! What happens to commands when the main process dies. In a file of its own: other tests make their process adopt
//! orphans and kill them.

mod common;

use std::fs::File;
use std::process::{Child, Command};

use common::{DAEMON, Workspace, assert_all_dead, is_alive};
use rustix::fs::FlockOperation;

/// A main process of its own in the workspace, which tests may kill.
fn main_process(ws: &Workspace, script: &str) -> (Child, Vec<String>) {
    ws.make_pipe("pids");
    let child = Command::new(env!("CARGO_BIN_EXE_slot-for-tests"))
        .args(["__main".as_ref(), ws.root().as_os_str(), script.as_ref()])
        .stdout(std::process::Stdio::null())
        .spawn()
        .expect("starts");
    let pids = ws.wait_for_pipe("pids").split_whitespace().map(str::to_owned).collect();
    (child, pids)
}

fn kill_and_wait(mut main: Child) {
    main.kill().expect("alive until now");
    main.wait().expect("ours");
}

fn kill(pid: &str) {
    let pid = nix::unistd::Pid::from_raw(pid.parse().expect("a pid"));
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).expect("alive until now");
}

#[test]
fn when_the_main_process_dies_everything_does_and_then_the_lock_is_free() {
    let ws = Workspace::new();
    let script = format!(
        "trap '' TERM; mkfifo up; {}; read pid < up; echo $$ $PPID $pid > pids; sleep 1000",
        DAEMON.replace("pids", "up")
    );
    let (main, pids) = main_process(&ws, &script);
    assert_eq!(pids.len(), 3);
    let lock = File::open(ws.root().join("lock")).expect("lock file");
    rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).expect_err("held");
    kill_and_wait(main);
    rustix::fs::flock(&lock, FlockOperation::LockExclusive).expect("given up by all");
    assert_all_dead(&[pids[0].clone(), pids[2].clone()]);
}

#[test]
fn helper_that_its_command_stopped_does_not_outlive_the_main_process() {
    let ws = Workspace::new();
    let (main, pids) = main_process(&ws, "trap '' TERM; kill -STOP $PPID; echo $$ $PPID > pids; sleep 1000");
    kill_and_wait(main);
    let lock = File::open(ws.root().join("lock")).expect("lock file");
    rustix::fs::flock(&lock, FlockOperation::LockExclusive).expect("given up by all");
    assert_all_dead(&pids);
}

#[test]
fn what_outlives_main_process_and_helper_still_holds_the_lock() {
    let ws = Workspace::new();
    let script =
        format!("mkfifo up; {}; read pid < up; echo $PPID $pid > pids; sleep 1000", DAEMON.replace("pids", "up"));
    let (mut main, pids) = main_process(&ws, &script);
    // The main process must not clean up after its helper.
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(main.id().cast_signed()), nix::sys::signal::Signal::SIGSTOP)
        .expect("alive");
    kill(&pids[0]);
    main.kill().expect("alive");
    main.wait().expect("ours");
    let lock = File::open(ws.root().join("lock")).expect("lock file");
    assert!(is_alive(&pids[1]));
    rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).expect_err("held by the daemon");
    for entry in std::fs::read_dir("/proc").expect("proc").flatten() {
        if std::fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd == ws.root()) {
            kill(&entry.file_name().to_string_lossy());
        }
    }
    rustix::fs::flock(&lock, FlockOperation::LockExclusive).expect("given up");
}
