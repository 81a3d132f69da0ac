//! The main process's end of one helper process: started, spoken to, ended, and cleaned up after should it die.
//!
//! It does not know what commands are for.

use std::collections::BTreeMap;
use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, TryLockError};
use std::time::{Duration, Instant};

use minibuild_core::StopReason;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::{Pid, getpid};

use crate::jobserver::Jobserver;
use crate::procs;
use crate::protocol::{Parcel, ToSlot, take_back, write_frame};
use crate::spawn::start_session;

/// All helpers of this process that were not waited for, by pid. Whatever other child is found in a session that
/// is not ours was left by a helper that died.
static HELPERS: Mutex<BTreeMap<i32, Arc<Line>>> = Mutex::new(BTreeMap::new());

/// Set by [`kill_all`]: the process is about to exit, and no further helper starts.
static IS_OVER: AtomicBool = AtomicBool::new(false);

/// Taken for reading while a helper starts, for writing while orphans are looked for: a helper that is not in the
/// list yet is none. Helpers start beside each other, since each waits for the exec of its process.
static STARTING: RwLock<()> = RwLock::new(());

/// Milliseconds between two times that a helper with something to do is continued, which a command may have stopped.
pub(crate) const RESUME_EVERY: u16 = 5000;
/// How often a helper that should end is continued.
const RESUME_AT_END: Duration = Duration::from_millis(100);

/// How long the death of orphans is waited for.
const ORPHANS_GIVE_UP: Duration = Duration::from_secs(60);

/// The descriptors a helper finds beside its standard ones.
pub(crate) const QUEUE_FD: RawFd = 3;
/// See [`QUEUE_FD`].
pub(crate) const BELL_FD: RawFd = 4;
/// An argument of helpers whose commands run in the workspace, with a directory for temporary files.
pub(crate) const WITH_TMP: &str = "tmp";

/// A running helper.
pub(crate) struct Helper {
    pid: Pid,
    line: Arc<Line>,
}

/// The ways to a helper and back.
pub(crate) struct Line {
    /// For messages in both directions.
    socket: UnixStream,
    /// Its queue: where commands go in, and where they come out. The helper has the latter, too.
    queue: [OwnedFd; 2],
    /// The helper's pid; 0 before its start and after it was waited for.
    pid: AtomicI32,
}

impl Line {
    /// Gives the helper's end of the socket, too.
    fn new() -> io::Result<(Self, OwnedFd)> {
        let (ours, theirs) = UnixStream::pair()?;
        let (entry, exit) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
        Ok((Self { socket: ours, queue: [entry, exit], pid: AtomicI32::new(0) }, theirs.into()))
    }

    /// Messages in both directions.
    pub(crate) fn socket(&self) -> &UnixStream {
        &self.socket
    }

    /// Lays a command into the queue; false where that is full. A queue that takes nothing is the end of the line.
    pub(crate) fn lay(&self, parcel: &Parcel, rings: bool) -> bool {
        parcel.lay(self.queue[0].as_fd(), rings).unwrap_or_else(|_| {
            self.hang_up();
            false
        })
    }

    /// Takes back what the helper has not taken; gives the numbers of the runs.
    pub(crate) fn take_back(&self) -> Vec<u64> {
        std::iter::from_fn(|| take_back(self.queue[1].as_fd())).collect()
    }

    /// Tells the helper something. Where this fails it is dead, which who listens to it finds out.
    pub(crate) fn tell(&self, message: &ToSlot) {
        // The loser of a race can wait for the next turn of `RESUME_EVERY`; the end of the build should not.
        if matches!(message, ToSlot::Stop { reason, .. } if *reason != StopReason::LostRace) {
            self.resume();
        }
        let _ = write_frame(&mut &self.socket, message);
    }

    /// Waits until the helper says something, and continues it meanwhile. `look` is called after each pause of so many
    /// milliseconds.
    pub(crate) fn wait_for_message(&self, pause: u16, mut look: impl FnMut()) {
        let is_silent = |polled| matches!(polled, Ok(0) | Err(Errno::EINTR));
        while is_silent(poll(&mut [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)], pause)) {
            look();
            self.resume();
        }
    }

    /// Continues a helper that its command stopped: it watches over timeouts, and nobody else can end the command.
    pub(crate) fn resume(&self) {
        let pid = self.pid.load(Ordering::Relaxed);
        if pid > 0 {
            let _ = kill(Pid::from_raw(pid), Signal::SIGCONT);
        }
    }

    /// Ends the line, even while somebody else still holds it.
    pub(crate) fn hang_up(&self) {
        let _ = self.socket.shutdown(std::net::Shutdown::Both);
        let _ = nix::sys::socket::shutdown(self.queue[0].as_raw_fd(), nix::sys::socket::Shutdown::Both);
    }
}

/// What a helper is started with.
pub(crate) struct HelperSpec<'a> {
    /// `program args.. root slot_dir` is its command line.
    pub(crate) program: &'a Path,
    pub(crate) args: &'a [CString],
    pub(crate) root: &'a Path,
    pub(crate) slot_dir: &'a Path,
    /// Its commands get a directory for temporary files.
    pub(crate) with_tmp: bool,
    pub(crate) lock: Option<BorrowedFd<'a>>,
    pub(crate) jobserver: Option<&'a Jobserver>,
    /// What it rings.
    pub(crate) bell: BorrowedFd<'a>,
}

impl Helper {
    /// Starts a helper.
    ///
    /// # Errors
    /// Those of the operating system.
    pub(crate) fn start(spec: &HelperSpec<'_>) -> io::Result<Self> {
        if IS_OVER.load(Ordering::SeqCst) {
            return Err(io::Error::other("this process is about to exit"));
        }
        let (line, theirs) = Line::new()?;
        let null = File::options().read(true).write(true).open("/dev/null")?;
        let mut argv = vec![c"minibuild".to_owned()];
        argv.extend_from_slice(spec.args);
        argv.extend([c_string(spec.root.as_os_str())?, c_string(spec.slot_dir.as_os_str())?]);
        if spec.with_tmp {
            argv.push(c_string(OsStr::new(WITH_TMP))?);
        }
        for arg in spec.jobserver.iter().flat_map(|jobserver| jobserver.describe()) {
            argv.push(c_string(OsStr::new(&arg))?);
        }
        let program = c_string(spec.program.as_os_str())?;
        // Orphans of a helper that dies come to us, so that they can be killed.
        nix::sys::prctl::set_child_subreaper(true)?;
        let _starting = STARTING.read().unwrap_or_else(PoisonError::into_inner);
        let lock = spec.lock.unwrap_or(null.as_fd());
        let given = [(theirs.as_fd(), 0), (lock, 1), (line.queue[1].as_fd(), QUEUE_FD), (spec.bell, BELL_FD)];
        let pid = start_session(&program, &argv, &given)?;
        line.pid.store(pid.as_raw(), Ordering::Relaxed);
        let line = Arc::new(line);
        helpers().insert(pid.as_raw(), Arc::clone(&line));
        Ok(Self { pid, line })
    }

    /// The ways to it and back.
    pub(crate) fn line(&self) -> &Arc<Line> {
        &self.line
    }

    /// Ends a helper that runs nothing.
    pub(crate) fn end(self) {
        self.line.hang_up();
        // Something that its last command left may have stopped it.
        while !wait_until(self.pid, Instant::now() + RESUME_AT_END) {
            self.line.resume();
        }
        forget(self.pid);
    }

    /// Leaves a helper to itself that has a process it cannot kill: it keeps trying, and holds the lock.
    pub(crate) fn retire(self) {
        self.line.hang_up();
        self.line.resume();
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

/// How long helpers get to kill their commands before [`kill_all`] does it in their place.
const OWN_KILLS: Duration = Duration::from_millis(300);
/// How long [`kill_all`] takes at most.
const LAST_KILLS: Duration = Duration::from_millis(600);
/// How often it looks what is left.
const LOOK_EVERY: u8 = 2;

/// Children that a process has when it starts: a shell that becomes minibuild leaves its jobs to it.
pub struct ForeignChildren(Vec<procs::Proc>);

impl ForeignChildren {
    /// All children of this process.
    pub fn now() -> Self {
        Self(procs::children_of(getpid().as_raw()))
    }
}

/// Ends all helpers of this process with everything that their commands started, and all its other children but the foreign ones,
/// within less than a second.
///
/// For the thread that handles signals, when the process is about to exit: no thread can keep it from its work. Helpers kill
/// their commands when their line ends; those that do not, since a command stopped them, are killed, and then what they leave.
pub fn kill_all(foreign: &ForeignChildren) {
    IS_OVER.store(true, Ordering::SeqCst);
    // What a child leaves comes to this process, too.
    let _ = nix::sys::prctl::set_child_subreaper(true);
    let began = Instant::now();
    for line in lines_until(began + OWN_KILLS) {
        line.hang_up();
        line.resume();
    }
    let own = getpid().as_raw();
    let session = procs::look(own).map_or(0, |process| process.session);
    loop {
        let children =
            procs::children_of(own).into_iter().filter(|child| !foreign.0.iter().any(|other| other.is_same(child)));
        let (ended, alive): (Vec<_>, Vec<_>) = children.partition(|child| child.is_zombie);
        // Without this they would stay where the process that inherits them does not wait for strangers.
        for child in &ended {
            let _ = waitpid(Pid::from_raw(child.pid), Some(WaitPidFlag::WNOHANG));
        }
        let passed = began.elapsed();
        if alive.is_empty() || passed >= LAST_KILLS {
            return;
        }
        // Helpers have sessions of their own; whatever else is there has no one but this process.
        let is_due = |child: &&procs::Proc| child.session == session || passed >= OWN_KILLS;
        alive.iter().filter(is_due).for_each(|child| procs::signal(child, rustix::process::Signal::KILL));
        let _ = poll(&mut [], LOOK_EVERY);
    }
}

/// The lines of all helpers; none where the list is not to be had in time.
fn lines_until(deadline: Instant) -> Vec<Arc<Line>> {
    loop {
        match HELPERS.try_lock() {
            Ok(helpers) => return helpers.values().cloned().collect(),
            Err(TryLockError::Poisoned(error)) => return error.into_inner().values().cloned().collect(),
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => drop(poll(&mut [], LOOK_EVERY)),
            Err(TryLockError::WouldBlock) => return Vec::new(),
        }
    }
}

fn helpers() -> MutexGuard<'static, BTreeMap<i32, Arc<Line>>> {
    HELPERS.lock().unwrap_or_else(PoisonError::into_inner)
}

fn wait_and_forget(pid: Pid) {
    while waitpid(pid, None) == Err(Errno::EINTR) {}
    forget(pid);
}

/// The pid is free for another process from now on.
fn forget(pid: Pid) {
    if let Some(line) = helpers().remove(&pid.as_raw()) {
        line.pid.store(0, Ordering::Relaxed);
    }
}

/// Kills children of this process in foreign sessions that are no helpers, and their children as they come.
fn kill_orphans(deadline: Instant) -> Vec<String> {
    let own = getpid().as_raw();
    let session = procs::look(own).map_or(0, |process| process.session);
    loop {
        let orphans: Vec<_> = {
            let _none_starts = STARTING.write().unwrap_or_else(PoisonError::into_inner);
            let helpers = helpers();
            let foreign = |p: &procs::Proc| p.session != session && !helpers.contains_key(&p.pid);
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
    } else {
        // No descriptor is to be had: whoever asks again should not do so without a pause.
        let _ = poll(&mut [], LOOK_EVERY);
    }
    !matches!(waitpid(pid, Some(WaitPidFlag::WNOHANG)), Ok(nix::sys::wait::WaitStatus::StillAlive))
}

fn c_string(text: &OsStr) -> io::Result<CString> {
    Ok(CString::new(text.as_bytes())?)
}
