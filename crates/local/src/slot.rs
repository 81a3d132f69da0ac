//! The resident helper of one slot: runs one command after the other, and reports each when all it started is dead.
//!
//! It takes commands from a queue, and starts the next one before it reports the last: nobody has to wake up in between. After a
//! command that did not succeed it waits for leave to go on.
//!
//! It is a child subreaper in a session of its own, so whatever a command leaves behind becomes its child, and a
//! wait that says `ECHILD` is the proof that nothing is left. It does not know actions, outputs or caches. When
//! its socket closes it kills what runs and exits, holding the workspace lock until then.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use minibuild_core::RunCost;
use minibuild_disk::DiskError;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigHandler, SigSet, Signal, kill, killpg, signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::{Pid, getpid, setpgid};
use rustix::process::Signal as RawSignal;

use crate::bell::Bell;
use crate::helper::{BELL_FD, QUEUE_FD, WITH_TMP};
use crate::jobserver::Seat;
use crate::procs;
use crate::protocol::{End, FrameReader, FromSlot, Outcome, QueueReader, RunCommand, Taken, ToSlot, write_frame};
use crate::scratch::{Scratch, Written};
use crate::spawn::{Launcher, find_program, spawn_error};
use crate::supervision::{Act, Cause, Supervision};

/// Descriptors from here up are the helper's own.
const FIRST_OWN_FD: i32 = 3;
/// Those below here are given to it.
const FIRST_FOREIGN_FD: i32 = BELL_FD + 1;

/// The whole life of a helper process: `args` are the workspace root and the slot's directory. Standard input is the line to the
/// main process, standard output the descriptor that holds the workspace lock, 3 the queue of commands, and 4 the bell.
///
/// To be called before anything else in a process started for this: it rearranges descriptors and signals.
pub fn slot_main(args: impl Iterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.collect();
    let [root, slot_dir, options @ ..] = &args[..] else {
        eprintln!("minibuild slot: expected a workspace root and a slot directory");
        return ExitCode::from(37);
    };
    let served = Slot::new(Path::new(root), Path::new(slot_dir), options).and_then(|mut slot| slot.serve());
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("minibuild slot in `{}`: {error}", Path::new(slot_dir).display());
            ExitCode::from(37)
        }
    }
}

/// What a terminal, a shell or a full pipe says to this process does not count: the main process decides when it ends. They are
/// blocked, too, since what is sent to a command in its first moments, when it has not changed that yet, has to reach it.
const IGNORED: [Signal; 5] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT, Signal::SIGPIPE];

struct Slot {
    line: UnixStream,
    messages: FrameReader,
    queue: OwnedFd,
    commands: QueueReader,
    bell: Bell,
    child_ended: SignalFd,
    null: File,
    scratch: Scratch,
    launcher: Launcher,
    jobserver: Option<Seat>,
    pid: Pid,
}

/// What comes after a run.
enum Next {
    Command(RunCommand, bool),
    /// None is there.
    Wait,
    /// The run did not succeed.
    Leave,
}

impl Slot {
    fn new(root: &Path, slot_dir: &Path, options: &[OsString]) -> io::Result<Self> {
        close_foreign_descriptors();
        let options: Vec<&str> = options.iter().filter_map(|arg| arg.to_str()).collect();
        let (with_tmp, jobserver) = match &options[..] {
            [WITH_TMP, rest @ ..] => (true, rest),
            rest => (false, rest),
        };
        // The lowest numbers are free for what commands inherit.
        let (queue, bell) = (take_given(QUEUE_FD)?, take_given(BELL_FD)?);
        // Not close-on-exec: what a command leaves behind holds the lock as long as it lives. Without a lock
        // the main process gives /dev/null.
        let stdout = rustix::fs::fstat(io::stdout())?;
        if !rustix::fs::FileType::from_raw_mode(stdout.st_mode).is_char_device() {
            let _ = own_copy(io::stdout().as_fd(), FcntlArg::F_DUPFD(FIRST_OWN_FD))?.into_raw_fd();
        }
        let jobserver = match jobserver {
            // One that went away meanwhile is one that commands do without.
            [read, write, kind, jobs] => Seat::open(read, write, kind, jobs).ok(),
            _ => None,
        };
        // Fails where the main process made the session already.
        let _ = nix::unistd::setsid();
        nix::sys::prctl::set_child_subreaper(true)?;
        // A command can stop this process. Stopped, it would not see the main process die, and hold the lock for ever.
        nix::sys::prctl::set_pdeathsig(Signal::SIGCONT)?;
        for ignored in IGNORED {
            // SAFETY: ignoring a signal installs no handler that could run.
            unsafe { signal(ignored, SigHandler::SigIgn) }?;
        }
        let child = SigSet::from(Signal::SIGCHLD);
        SigSet::from_iter(IGNORED.into_iter().chain([Signal::SIGCHLD])).thread_set_mask()?;
        nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));

        let line = own_copy(io::stdin().as_fd(), FcntlArg::F_DUPFD_CLOEXEC(FIRST_OWN_FD))?;
        let null = File::options().read(true).write(true).open("/dev/null")?;
        nix::unistd::dup2_stdin(&null)?;
        nix::unistd::dup2_stdout(&null)?;
        enter(root)?;
        Ok(Self {
            line: UnixStream::from(line),
            messages: FrameReader::default(),
            queue,
            commands: QueueReader::new(),
            bell: bell.into(),
            child_ended: SignalFd::with_flags(&child, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?,
            null,
            scratch: Scratch::open(slot_dir, with_tmp)?,
            // This process was started with all other signals at their defaults.
            launcher: Launcher::new(&IGNORED),
            jobserver,
            pid: getpid(),
        })
    }

    fn serve(&mut self) -> io::Result<()> {
        let mut untold: Option<FromSlot> = None;
        let mut next = Next::Wait;
        loop {
            let (mut command, rings) = match next {
                Next::Command(command, rings) => (command, rings),
                Next::Wait => match self.commands.take(self.queue.as_fd(), true)? {
                    Taken::Command(command, rings) => (command, rings),
                    Taken::End => return self.bury_the_rest(),
                    Taken::Nothing => continue,
                },
                Next::Leave => {
                    if !self.wait_for_leave()? {
                        return self.bury_the_rest();
                    }
                    next = self.look_for_next(&mut untold)?;
                    continue;
                }
            };
            // The next command runs before anybody hears of the last one.
            let started = Instant::now();
            let leader = self.start(&mut command);
            if let Some(report) = untold.take() {
                self.send(&report);
            }
            if rings {
                self.bell.ring();
            }
            let outcome = match leader {
                Ok(leader) => match self.watch(&command, leader, started)? {
                    Some(outcome) => outcome,
                    None => return self.bury_the_rest(),
                },
                Err(text) => self.outcome(command.seq, End::NotStarted(text), Vec::new(), RunCost::default()),
            };
            let (succeeded, stuck) = (outcome.end == End::Exited(0), matches!(outcome.end, End::Stuck(_)));
            untold = Some(FromSlot::Ended { seq: command.seq, outcome });
            if stuck {
                self.tell(&mut untold);
                // Nothing more is expected but the end of the line.
                while self.messages.read::<ToSlot>(&mut self.line)?.is_some() {}
                return self.bury_the_rest();
            }
            next = if succeeded { self.look_for_next(&mut untold)? } else { Next::Leave };
            if matches!(next, Next::Leave) {
                self.tell(&mut untold);
            }
        }
    }

    /// The next command, if there is one; else the last one is told of.
    fn look_for_next(&mut self, untold: &mut Option<FromSlot>) -> io::Result<Next> {
        Ok(match self.commands.take(self.queue.as_fd(), false)? {
            Taken::Command(command, rings) => Next::Command(command, rings),
            // The end comes again.
            Taken::Nothing | Taken::End => {
                self.tell(untold);
                Next::Wait
            }
        })
    }

    /// Waits until the main process knows that a command did not succeed; false where it is gone.
    fn wait_for_leave(&mut self) -> io::Result<bool> {
        loop {
            match self.messages.read(&mut self.line)? {
                Some(ToSlot::GoOn) => return Ok(true),
                // For a run that has ended meanwhile.
                Some(ToSlot::Stop { .. }) => {}
                None => return Ok(false),
            }
        }
    }

    /// Tells what has to be known at once.
    fn tell(&mut self, untold: &mut Option<FromSlot>) {
        if let Some(report) = untold.take() {
            self.send(&report);
            self.bell.ring();
        }
    }

    /// A failure to send means that the main process is gone, which the next read tells.
    fn send(&mut self, message: &FromSlot) {
        let _ = write_frame(&mut self.line, message);
    }

    /// Until the command and all it started are dead; `None` where the main process is gone.
    fn watch(&mut self, command: &RunCommand, leader: Pid, started: Instant) -> io::Result<Option<Outcome>> {
        let timeout = command.timeout_ms.map(Duration::from_millis);
        let mut run = Run {
            seq: command.seq,
            leader,
            course: Supervision::new(started, timeout),
            end: None,
            cost: RunCost::default(),
            victims: HashMap::new(),
            killed: Vec::new(),
            closed: false,
        };
        let mut end = run.supervise(self)?;
        run.cost.wall = started.elapsed();
        if run.closed {
            return Ok(None);
        }
        if let Some(error) = self.launcher.failure()
            && end == End::Exited(Launcher::FAILED)
        {
            end = End::NotStarted(spawn_error(self.launcher.program(), self.launcher.bytes(), error));
        }
        Ok(Some(self.outcome(command.seq, end, run.killed, run.cost)))
    }

    fn outcome(&mut self, seq: u64, end: End, killed: Vec<String>, cost: RunCost) -> Outcome {
        let what_it_wrote = match end {
            // Somebody may still write.
            End::Stuck(_) => Ok(Written::default()),
            _ => self.scratch.clear(seq),
        };
        let (end, written) = match what_it_wrote {
            Ok(written) => (end, written),
            Err(error) => {
                let error = DiskError::new("clear", "minibuild-out/.state/tmp", error);
                (End::Broken(error.render()), Written::default())
            }
        };
        let Written { lengths: [stdout_len, stderr_len], left_files } = written;
        Outcome { end, killed, cost, stdout_len, stderr_len, left_files }
    }

    fn start(&mut self, command: &mut RunCommand) -> Result<Pid, String> {
        // Programs, too, may be named from there.
        if let Some(cwd) = &command.cwd {
            enter(Path::new(cwd)).map_err(|error| format!("cannot enter `{cwd}`: {error}"))?;
        }
        let (mut path, mut has_tmpdir, mut has_makeflags) = (None, false, false);
        for variable in command.env.split('\0') {
            path = path.or_else(|| variable.strip_prefix("PATH="));
            has_tmpdir |= variable.starts_with("TMPDIR=");
            has_makeflags |= variable.starts_with("MAKEFLAGS=");
        }
        let program = find_program(command.argv.split('\0').next().unwrap_or_default(), path)?;
        let tmpdir = self.scratch.variable().filter(|_| !has_tmpdir);
        let makeflags = self.jobserver.as_ref().map(Seat::makeflags).filter(|_| !has_makeflags);
        for part in tmpdir.map(|text| ["", text]).into_iter().chain(makeflags.map(|text| ["MAKEFLAGS=", text])) {
            part.iter().for_each(|text| command.env.push_str(text));
            command.env.push('\0');
        }
        let [stdout, stderr] = self.scratch.logs();
        let stdio = [self.null.as_fd(), stdout, stderr];
        let (argv, env) = (std::mem::take(&mut command.argv), std::mem::take(&mut command.env));
        let started = self.launcher.start(program, argv, env, stdio);
        started.map_err(|error| spawn_error(self.launcher.program(), self.launcher.bytes(), error))
    }

    /// The main process is gone: whatever is still there dies before this process, and with it the lock, goes.
    fn bury_the_rest(&mut self) -> io::Result<()> {
        let mut run = Run {
            seq: 0,
            leader: Pid::from_raw(0),
            course: Supervision::new(Instant::now(), None),
            end: Some(End::Exited(0)),
            cost: RunCost::default(),
            victims: HashMap::new(),
            killed: Vec::new(),
            closed: true,
        };
        run.supervise(self).map(drop)
    }
}

/// One command and all it started.
struct Run {
    seq: u64,
    leader: Pid,
    course: Supervision,
    /// How the command itself ended.
    end: Option<End>,
    cost: RunCost,
    /// Who was sent a SIGKILL, with the description of that moment.
    victims: HashMap<i32, String>,
    killed: Vec<String>,
    /// The main process is gone.
    closed: bool,
}

impl Run {
    /// Watches until nothing is left, or killing is given up.
    fn supervise(&mut self, slot: &mut Slot) -> io::Result<End> {
        // A command that was just started is not done yet; the end of it would be told.
        let mut may_have_ended = self.closed;
        loop {
            if std::mem::replace(&mut may_have_ended, true) && self.reap()? {
                return Ok(self.end.take().unwrap_or_else(|| End::Broken("the command vanished".into())));
            }
            let now = Instant::now();
            if self.closed {
                self.act(Act::Kill, slot);
            } else if self.end.is_some() {
                let act = self.course.leftovers(now);
                self.act(act, slot);
            }
            match self.course.tick(now) {
                Act::GiveUp if !self.closed => return Ok(End::Stuck(survivors(slot.pid))),
                act => self.act(act, slot),
            }
            let deadline = if self.closed { Some(now + Duration::from_millis(100)) } else { self.course.next_tick() };
            if wait_for_news(slot, deadline, !self.closed)? {
                self.read_message(slot);
            }
        }
    }

    /// Takes every child that ended; whether there is none left at all.
    fn reap(&mut self) -> io::Result<bool> {
        loop {
            let (pid, status, usage) = match wait_any() {
                Ok(Some(ended)) => ended,
                Ok(None) => return Ok(false),
                Err(Errno::ECHILD) => return Ok(true),
                Err(Errno::EINTR) => continue,
                Err(error) => return Err(error.into()),
            };
            let victim = if self.victims.is_empty() { None } else { self.victims.remove(&pid) };
            if pid == self.leader.as_raw() {
                self.command_ended(status, &usage);
            } else if let (Some(described), true) = (victim, was_killed(status)) {
                self.killed.push(described);
            }
        }
    }

    fn command_ended(&mut self, status: i32, usage: &nix::libc::rusage) {
        self.cost = cost_of(usage);
        self.end = Some(match self.course.cause() {
            Some(Cause::TimedOut) => End::TimedOut,
            Some(Cause::Stopped(reason)) => End::Stopped(reason),
            None if nix::libc::WIFSIGNALED(status) => End::Signalled(nix::libc::WTERMSIG(status)),
            None => End::Exited(nix::libc::WEXITSTATUS(status)),
        });
    }

    fn read_message(&mut self, slot: &mut Slot) {
        match slot.messages.read(&mut slot.line) {
            Ok(Some(ToSlot::Stop { seq, reason })) if seq == self.seq => {
                let act = self.course.stop(reason, Instant::now());
                self.act(act, slot);
            }
            // For a run that has ended meanwhile.
            Ok(Some(ToSlot::Stop { .. })) => {}
            // Leave that nobody asked for: the stream cannot be trusted any more.
            Ok(Some(ToSlot::GoOn) | None) | Err(_) => {
                self.closed = true;
                self.course.abandon(Instant::now());
            }
        }
    }

    fn act(&mut self, act: Act, slot: &mut Slot) {
        match act {
            Act::Nothing | Act::GiveUp => {}
            Act::Terminate => self.terminate_all(slot.pid),
            Act::Kill => self.kill_all(slot.pid),
            Act::KillAndName => {
                self.kill_all(slot.pid);
                let text = format!("cannot be killed, still waiting: {}", survivors(slot.pid));
                slot.send(&FromSlot::Notice { seq: self.seq, text });
                slot.bell.ring();
            }
        }
    }

    /// The command makes its own group, but may not have come to that. Fails where it is a program already, which comes later.
    fn make_group(&self) {
        let _ = setpgid(self.leader, self.leader);
    }

    /// SIGTERM, to each once: programs take a second one for impatience.
    fn terminate_all(&self, own: Pid) {
        let leader_is_there = self.end.is_none();
        if leader_is_there {
            // Not reaped yet, so the group is still this command's.
            self.make_group();
            let _ = killpg(self.leader, Signal::SIGTERM);
            let _ = killpg(self.leader, Signal::SIGCONT);
        }
        for process in procs::descendants(own.as_raw()) {
            let told_with_group = leader_is_there && process.group == self.leader.as_raw();
            if !process.is_zombie && !told_with_group {
                procs::signal(&process, RawSignal::TERM);
                procs::signal(&process, RawSignal::CONT);
            }
        }
    }

    /// SIGKILL to every descendant seen. Those that are missed become children sooner or later.
    fn kill_all(&mut self, own: Pid) {
        if self.end.is_none() && self.leader.as_raw() > 0 {
            self.make_group();
            let _ = killpg(self.leader, Signal::SIGKILL);
        }
        for process in procs::descendants(own.as_raw()) {
            if process.is_zombie {
                continue;
            }
            self.victims.entry(process.pid).or_insert_with(|| procs::describe(process.pid));
            if process.parent == own.as_raw() {
                // Only this process could have reaped it, and with it freed its pid and its group's.
                let _ = kill(Pid::from_raw(process.pid), Signal::SIGKILL);
                if process.group != own.as_raw() && process.group == process.pid {
                    let _ = killpg(Pid::from_raw(process.group), Signal::SIGKILL);
                }
            } else {
                procs::signal(&process, RawSignal::KILL);
            }
        }
    }
}

/// Waits for a message (true), a child's end, or the deadline.
fn wait_for_news(slot: &Slot, deadline: Option<Instant>, with_socket: bool) -> io::Result<bool> {
    if with_socket && slot.messages.has_begun() {
        return Ok(true);
    }
    let timeout = match deadline {
        None => PollTimeout::NONE,
        Some(at) => {
            // Rounded up, so as not to wake just before.
            let ms = at.saturating_duration_since(Instant::now()).as_micros().div_ceil(1000);
            PollTimeout::try_from(ms.min(60_000)).unwrap_or(PollTimeout::MAX)
        }
    };
    let wanted = if with_socket { PollFlags::POLLIN } else { PollFlags::empty() };
    let socket = if with_socket { slot.line.as_fd() } else { slot.null.as_fd() };
    let mut fds = [PollFd::new(slot.child_ended.as_fd(), PollFlags::POLLIN), PollFd::new(socket, wanted)];
    match poll(&mut fds, timeout) {
        Ok(_) | Err(Errno::EINTR) => {}
        Err(error) => return Err(error.into()),
    }
    let (child_ended, message) = (fds[0].any().unwrap_or(true), fds[1].any().unwrap_or(true));
    if child_ended {
        // One pending signal stands for any number of ended children; what comes after this is told by the next look.
        slot.child_ended.read_signal()?;
    }
    Ok(message && with_socket)
}

/// One child that ended, with its status and cost; `None` where all still run.
fn wait_any() -> nix::Result<Option<(i32, i32, nix::libc::rusage)>> {
    let mut status = 0;
    let mut usage = std::mem::MaybeUninit::<nix::libc::rusage>::zeroed();
    // SAFETY: both pointers are to live memory of the right types; a zeroed `rusage` is valid.
    let (pid, usage) = unsafe {
        let pid = nix::libc::wait4(-1, &raw mut status, nix::libc::WNOHANG, usage.as_mut_ptr());
        (pid, usage.assume_init())
    };
    match Errno::result(pid)? {
        0 => Ok(None),
        pid => Ok(Some((pid, status, usage))),
    }
}

fn was_killed(status: i32) -> bool {
    nix::libc::WIFSIGNALED(status) && nix::libc::WTERMSIG(status) == nix::libc::SIGKILL
}

fn cost_of(usage: &nix::libc::rusage) -> RunCost {
    let duration = |time: nix::libc::timeval| {
        let micros = u32::try_from(time.tv_usec).unwrap_or_default();
        Duration::new(u64::try_from(time.tv_sec).unwrap_or_default(), micros.saturating_mul(1000))
    };
    RunCost {
        wall: Duration::ZERO,
        user: duration(usage.ru_utime),
        system: duration(usage.ru_stime),
        max_rss: u64::try_from(usage.ru_maxrss).unwrap_or_default().saturating_mul(1024),
    }
}

fn survivors(own: Pid) -> String {
    let alive = procs::descendants(own.as_raw()).into_iter().filter(|process| !process.is_zombie);
    let names: Vec<String> = alive.map(|process| procs::describe(process.pid)).collect();
    names.join(", ")
}

#[expect(clippy::disallowed_methods, reason = "this process has one thread, and commands inherit the directory")]
fn enter(root: &Path) -> io::Result<()> {
    std::env::set_current_dir(root)
}

/// What the main process put there, under another number.
fn take_given(fd: i32) -> io::Result<OwnedFd> {
    // SAFETY: it was put there for us, and nothing else uses it.
    let given = unsafe { OwnedFd::from_raw_fd(fd) };
    own_copy(given.as_fd(), FcntlArg::F_DUPFD_CLOEXEC(FIRST_FOREIGN_FD))
}

fn own_copy(fd: BorrowedFd<'_>, how: FcntlArg<'_>) -> io::Result<OwnedFd> {
    let copy = fcntl(fd, how)?;
    // SAFETY: `fcntl` has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}

/// Closes what this process inherited by accident, so that commands do not get it.
fn close_foreign_descriptors() {
    let Ok(entries) = std::fs::read_dir("/proc/self/fd") else { return };
    let open: Vec<i32> = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    for fd in open.into_iter().filter(|&fd| fd >= FIRST_FOREIGN_FD) {
        // The listing's own descriptor is closed already.
        let _ = nix::unistd::close(fd);
    }
}
