//! Looking at and waiting for processes by pid. It knows nothing of builds.

use std::fmt::Write as _;
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use rustix::process::PidfdFlags;

/// A process id.
pub type Pid = i32;

fn open(pid: Pid) -> Option<OwnedFd> {
    rustix::process::pidfd_open(rustix::process::Pid::from_raw(pid)?, PidfdFlags::empty()).ok()
}

/// Whether the process runs; one that ended and was not waited for does not.
pub fn is_alive(pid: Pid) -> bool {
    !wait_until_dead(pid, Duration::ZERO)
}

/// Waits until the process has ended, whoever its parent is; false if it lives on after `limit`.
#[must_use]
pub fn wait_until_dead(pid: Pid, limit: Duration) -> bool {
    open(pid).is_none_or(|pidfd| is_readable(&pidfd, limit))
}

/// Waits until a descriptor can be read; false after `limit`.
pub(crate) fn is_readable(fd: impl AsFd, limit: Duration) -> bool {
    let deadline = Instant::now() + limit;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left.as_micros().div_ceil(1000)).unwrap_or(PollTimeout::MAX);
        let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, timeout) {
            Ok(0) if left.is_zero() => return false,
            Ok(0) | Err(nix::errno::Errno::EINTR) => {}
            Ok(_) => return true,
            Err(error) => panic!("cannot poll: {error}"),
        }
    }
}

/// Sends a signal; a process that is gone takes none.
pub fn kill(pid: Pid, signal: Signal) {
    let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal);
}

/// The command line of a process, its words separated by spaces.
pub fn command_line(pid: Pid) -> String {
    let raw = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&raw).replace('\0', " ").trim_end().to_owned()
}

/// Children of a process at this moment.
pub fn children(parent: Pid) -> Vec<Pid> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|&pid| parent_of(pid) == Some(parent)).collect()
}

/// A process and its descendants, with what each of their threads waits for in the kernel.
pub(crate) fn describe_tree(root: Pid) -> String {
    let mut text = String::new();
    let mut pending = vec![root];
    while let Some(pid) = pending.pop() {
        pending.extend(children(pid));
        let _ = writeln!(text, "process {pid}: {}", command_line(pid));
        let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        for thread in threads.map(|entry| entry.path()) {
            let read = |name: &str| fs::read_to_string(thread.join(name)).unwrap_or_default();
            let (name, place) = (read("comm"), read("wchan"));
            let status = read("status");
            let state = status.lines().find(|line| line.starts_with("State:")).unwrap_or_default();
            let _ = writeln!(text, "  thread {}: {state}, {place}, {}", name.trim_end(), read("syscall").trim_end());
        }
    }
    text
}

fn parent_of(pid: Pid) -> Option<Pid> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything.
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// Living processes that have something below `dir` open or as their working directory, with their command lines.
pub(crate) fn users_of(dir: &std::path::Path) -> Vec<(Pid, String)> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let own = std::process::id().cast_signed();
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<Pid>().ok());
    let users = pids.filter(|&pid| pid != own && uses(pid, dir) && is_alive(pid));
    users.map(|pid| (pid, command_line(pid))).collect()
}

fn uses(pid: Pid, dir: &std::path::Path) -> bool {
    let below = |path: std::path::PathBuf| fs::read_link(path).is_ok_and(|target| target.starts_with(dir));
    let base = std::path::PathBuf::from(format!("/proc/{pid}"));
    below(base.join("cwd"))
        || fs::read_dir(base.join("fd")).is_ok_and(|fds| fds.flatten().any(|entry| below(entry.path())))
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_process_is_seen_and_its_end_too() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let mut child =
            Command::new("/bin/cat").stdin(Stdio::piped()).current_dir(dir.path()).spawn().expect("cat starts");
        let pid = child.id().cast_signed();
        assert!(is_alive(pid));
        assert!(children(std::process::id().cast_signed()).contains(&pid));
        assert_eq!(users_of(dir.path()), [(pid, "/bin/cat".to_owned())]);
        kill(pid, Signal::SIGKILL);
        assert!(wait_until_dead(pid, Duration::from_secs(20)));
        assert_eq!(users_of(dir.path()), []);
        child.wait().expect("waits");
        assert!(!is_alive(pid));
    }
}
