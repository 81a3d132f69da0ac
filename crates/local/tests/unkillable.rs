//! A process that cannot be killed. Takes a minute and the freezer of cgroup v1, so it is run by hand:
//! `cargo test -p minibuild-local --test unkillable -- --ignored`.

mod common;

use std::fs;
use std::path::PathBuf;

use common::{Workspace, is_alive, shell};
use minibuild_core::{ExecutionStatus, Executor, ExecutorEvent, StopReason};

/// A frozen control group: its processes take no signal, not even SIGKILL.
struct Freezer(PathBuf);

impl Freezer {
    fn new() -> Option<Self> {
        let dir = PathBuf::from(format!("/sys/fs/cgroup/freezer/minibuild-test-{}", std::process::id()));
        match fs::create_dir(&dir) {
            Ok(()) => Some(Self(dir)),
            Err(error) => {
                eprintln!("SKIPPED: no freezer here: {error}");
                None
            }
        }
    }

    fn set(&self, file: &str, text: &str) {
        fs::write(self.0.join(file), text).expect("written");
    }
}

impl Drop for Freezer {
    fn drop(&mut self) {
        let _ = fs::write(self.0.join("freezer.state"), "THAWED");
        let _ = fs::remove_dir(&self.0);
    }
}

#[test]
#[ignore = "takes a minute and needs the freezer of cgroup v1"]
fn what_cannot_be_killed_is_named_and_given_up() {
    let Some(freezer) = Freezer::new() else { return };
    let mut ws = Workspace::new();
    ws.make_pipe("pids");
    let run = ws.start(shell("sleep 1234 & echo $! > pids; wait", vec![]));
    let pid = ws.wait_for_pipe("pids").trim().to_owned();
    freezer.set("cgroup.procs", &pid);
    freezer.set("freezer.state", "FROZEN");
    ws.executor.stop(run, StopReason::LostRace);
    let mut named = 0;
    let report = loop {
        match ws.event() {
            ExecutorEvent::Notice(of, text) if of == run => {
                // Frozen before or after it became `sleep`; its command line has the word either way.
                assert!(text.contains(&format!(" {pid} ")) && text.contains("sleep 1234"), "{text}");
                named += 1;
            }
            ExecutorEvent::Finished(report) => break report,
            ExecutorEvent::Started(_) | ExecutorEvent::Notice(..) => {}
        }
    };
    assert_eq!(named, 5);
    let stuck = matches!(&report.status, ExecutionStatus::Stuck(who) if who.contains("sleep 1234"));
    assert!(stuck, "{:?}", report.status);
    ws.succeed(shell("true", vec![]));
    assert!(is_alive(&pid));
    let process = rustix::process::Pid::from_raw(pid.parse().expect("a pid")).expect("not zero");
    let process = rustix::process::pidfd_open(process, rustix::process::PidfdFlags::empty()).expect("alive");
    freezer.set("freezer.state", "THAWED");
    let mut ended = [nix::poll::PollFd::new(std::os::fd::AsFd::as_fd(&process), nix::poll::PollFlags::POLLIN)];
    nix::poll::poll(&mut ended, nix::poll::PollTimeout::NONE).expect("the retired helper has killed it");
}
