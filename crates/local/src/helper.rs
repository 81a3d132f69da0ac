//! The main process's end of one helper process: started, spoken to, ended, and cleaned up after should it die.
//!
//! It does not know what commands are for.

use std::collections::BTreeSet;
use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::{Pid, getpid};

use crate::jobserver::Jobserver;
use crate::procs;
use crate::spawn::start_session;

/// Pids of all helpers of this process that were not waited for. Whatever other child is found in a session that
/// is not ours was left by a helper that died.
static HELPERS: Mutex<BTreeSet<i32>> = Mutex::new(BTreeSet::new());

/// Taken for reading while a helper starts, for writing while orphans are looked for: a helper that is not in the
/// list yet is none. Helpers start beside each other, since each waits for the exec of its process.
static STARTING: RwLock<()> = RwLock::new(());

/// How long the death of orphans is waited for.
const ORPHANS_GIVE_UP: Duration = Duration::from_secs(60);

/// A running helper.
pub(crate) struct Helper {
    pid: Pid,
    socket: Arc<UnixStream>,
}

impl Helper {
    /// Starts `program args.. root slot_dir [jobserver..]` with the socket and the lock as its standard input and output.
    pub(crate) fn start(
        program: &Path,
        args: &[CString],
        root: &Path,
        slot_dir: &Path,
        lock: Option<BorrowedFd<'_>>,
        jobserver: Option<&Jobserver>,
    ) -> io::Result<Self> {
        let (ours, theirs) = UnixStream::pair()?;
        let null = File::options().read(true).write(true).open("/dev/null")?;
        let mut argv = vec![c"minibuild".to_owned()];
        argv.extend_from_slice(args);
        argv.extend([c_string(root.as_os_str())?, c_string(slot_dir.as_os_str())?]);
        for arg in jobserver.iter().flat_map(|jobserver| jobserver.describe()) {
            argv.push(c_string(OsStr::new(&arg))?);
        }
        let program = c_string(program.as_os_str())?;
        // Orphans of a helper that dies come to us, so that they can be killed.
        nix::sys::prctl::set_child_subreaper(true)?;
        let _starting = STARTING.read().unwrap_or_else(PoisonError::into_inner);
        let stdio = [Some(theirs.as_fd()), Some(lock.unwrap_or(null.as_fd())), None];
        let pid = start_session(&program, &argv, stdio)?;
        helpers().insert(pid.as_raw());
        Ok(Self { pid, socket: Arc::new(ours) })
    }

    /// The line to it, for both directions.
    pub(crate) fn socket(&self) -> &Arc<UnixStream> {
        &self.socket
    }

    /// Ends a helper that runs nothing. It exits when its socket closes, so nobody else may hold that.
    pub(crate) fn end(self) {
        let Self { pid, socket } = self;
        // Closes the line even while somebody else still holds it.
        let _ = socket.shutdown(std::net::Shutdown::Both);
        drop(socket);
        wait_and_forget(pid);
    }

    /// Leaves a helper to itself that has a process it cannot kill: it keeps trying, and holds the lock.
    pub(crate) fn retire(self) {
        let _ = self.socket.shutdown(std::net::Shutdown::Both);
    }

    /// Cleans up after a helper that died or cannot be trusted. Returns what its command left that could not be
    /// killed.
    pub(crate) fn bury(self) -> Vec<String> {
        let _ = kill(self.pid, Signal::SIGKILL);
        wait_and_forget(self.pid);
        // Only when the helper is waited for have all its children become ours.
        kill_orphans(Instant::now() + ORPHANS_GIVE_UP)
    }
}

/// Gives back what the first helper changed in this process, so that a program it becomes is not affected.
pub(crate) fn no_more_helpers() {
    if helpers().is_empty() {
        let _ = nix::sys::prctl::set_child_subreaper(false);
    }
}

fn helpers() -> MutexGuard<'static, BTreeSet<i32>> {
    HELPERS.lock().unwrap_or_else(PoisonError::into_inner)
}

fn wait_and_forget(pid: Pid) {
    while waitpid(pid, None) == Err(Errno::EINTR) {}
    helpers().remove(&pid.as_raw());
}

/// Kills children of this process in foreign sessions that are no helpers, and their children as they come.
fn kill_orphans(deadline: Instant) -> Vec<String> {
    let own = getpid().as_raw();
    let session = procs::look(own).map_or(0, |process| process.session);
    loop {
        let orphans: Vec<_> = {
            let _none_starts = STARTING.write().unwrap_or_else(PoisonError::into_inner);
            let helpers = helpers();
            let foreign = |p: &procs::Proc| p.session != session && !helpers.contains(&p.pid);
            procs::children_of(own).into_iter().filter(foreign).collect()
        };
        if orphans.is_empty() {
            return Vec::new();
        }
        for orphan in &orphans {
            let _ = kill(Pid::from_raw(orphan.pid), Signal::SIGKILL);
        }
        for orphan in &orphans {
            if !wait_until(Pid::from_raw(orphan.pid), deadline) {
                return orphans.iter().map(|orphan| procs::describe(orphan.pid)).collect();
            }
        }
    }
}

/// Waits for the end of a child; false where it lives on.
fn wait_until(pid: Pid, deadline: Instant) -> bool {
    if let Some(pidfd) = procs::open(pid.as_raw()) {
        let left = deadline.saturating_duration_since(Instant::now()).as_millis();
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        let _ = poll(&mut [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)], timeout);
    }
    !matches!(waitpid(pid, Some(WaitPidFlag::WNOHANG)), Ok(nix::sys::wait::WaitStatus::StillAlive))
}

fn c_string(text: &OsStr) -> io::Result<CString> {
    Ok(CString::new(text.as_bytes())?)
}
