//! One helper for who runs commands outside a workspace: the workers of the server.
//!
//! Each run has a directory of its own, nothing is prepared before it and nothing captured after it. It does not
//! know inputs, outputs or actions; that everything a command started is dead when its run is over, holds here as
//! for the slots of a build.

use std::ffi::{CString, OsString};
use std::fs::{DirBuilder, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use minibuild_core::{RunCost, StopReason};

use crate::bell::Bell;
use crate::helper::{Helper, HelperSpec, Line, RESUME_EVERY};
use crate::protocol::{End, FrameReader, FromSlot, Outcome, Parcel, RunCommand, ToSlot};
use crate::scratch::LOGS;
use crate::spawn::joined;

/// What a runner is made of.
pub struct RunnerConfig {
    /// The program of the helper: `/proc/self/exe` for the binary itself.
    pub helper: PathBuf,
    /// Its first arguments: `__slot`.
    pub helper_args: Vec<OsString>,
    /// An absolute path; made where it is not there. Holds what commands write to their standard output and error.
    pub dir: PathBuf,
    /// A descriptor that helpers and commands inherit: as long as something of them lives it is held.
    pub lock: Option<Arc<OwnedFd>>,
}

/// A command to run.
#[derive(Clone, Copy, Debug)]
pub struct CommandSpec<'a> {
    /// Program and arguments.
    pub argv: &'a [String],
    /// The environment, nothing added.
    pub env: &'a [(String, String)],
    /// Where it runs: an absolute path.
    pub cwd: &'a Path,
    /// Stopped after this long.
    pub timeout: Option<Duration>,
}

/// How a command ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CommandEnd {
    /// By itself with this code.
    Exited(i32),
    /// By a signal.
    Signalled(i32),
    /// It ran longer than allowed.
    TimedOut,
    /// On request.
    Stopped(StopReason),
    /// It could not be started: program and reason.
    NotStarted(String),
    /// The helper failed; says how.
    Failed(String),
}

/// What is known of a run that is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandReport {
    /// How it ended.
    pub end: CommandEnd,
    /// Descendants that outlived the command and were killed.
    pub killed: Vec<String>,
    /// What it cost.
    pub cost: RunCost,
    /// Bytes written to standard output.
    pub stdout_len: u64,
    /// Bytes written to standard error.
    pub stderr_len: u64,
}

/// Milliseconds between two looks at a run that is watched. A command writes as much as the disk takes meanwhile.
const LOOK_EVERY: u16 = 20;

/// Ends one run, whether it has begun or not. Clones end the same run.
#[derive(Clone, Default)]
pub struct Stopper(Arc<Mutex<StopState>>);

#[derive(Default)]
struct StopState {
    asked: Option<StopReason>,
    /// Set while a helper has the command: where to send a stop, and the number of the run there.
    line: Option<(Arc<Line>, u64)>,
}

impl Stopper {
    /// Asks for the end; ignored where a more urgent reason came before.
    pub fn stop(&self, reason: StopReason) {
        let mut state = self.lock();
        if state.asked < Some(reason) {
            state.asked = Some(reason);
            state.send();
        }
    }

    /// The most urgent reason asked for.
    pub fn asked(&self) -> Option<StopReason> {
        self.lock().asked
    }

    fn lock(&self) -> MutexGuard<'_, StopState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn connect(&self, line: Option<(Arc<Line>, u64)>) {
        let mut state = self.lock();
        state.line = line;
        state.send();
    }
}

impl StopState {
    /// A few bytes to a socket whose other end reads all the time; where it fails, the helper is dead.
    fn send(&self) {
        if let (Some((line, seq)), Some(reason)) = (&self.line, self.asked) {
            line.tell(&ToSlot::Stop { seq: *seq, reason });
        }
    }
}

/// Runs one command at a time. The helper is started with the first one and replaced where it died.
pub struct CommandRunner {
    config: RunnerConfig,
    args: Vec<CString>,
    seat: Option<Seat>,
    seq: u64,
}

struct Seat {
    helper: Helper,
    messages: FrameReader,
    /// What the last command wrote, where it wrote something.
    logs: [Option<File>; 2],
    /// The helper waits for leave to go on.
    is_held: bool,
}

impl CommandRunner {
    /// A runner with nothing started.
    pub fn new(mut config: RunnerConfig) -> Self {
        // An argument with NUL cannot come from a command line; without it the helper refuses to start.
        let args = std::mem::take(&mut config.helper_args);
        let args = args.into_iter().filter_map(|arg| CString::new(arg.into_vec()).ok()).collect();
        Self { config, args, seat: None, seq: 0 }
    }

    /// Starts the helper where there is none. A run does so itself; this is for who must not have files open for
    /// writing meanwhile.
    ///
    /// # Errors
    /// Those of the operating system.
    pub fn prepare(&mut self) -> io::Result<()> {
        self.sit_down()
    }

    /// Runs a command and waits for its end and that of everything it started.
    pub fn run(&mut self, spec: &CommandSpec<'_>, stopper: &Stopper) -> CommandReport {
        self.run_beside(spec, stopper, RESUME_EVERY, &mut |_| {})
    }

    /// Like [`Self::run`]. Meanwhile `look` is told every so often how many bytes the command has written, so that it can
    /// stop the run by `stopper`.
    pub fn run_watched(
        &mut self,
        spec: &CommandSpec<'_>,
        stopper: &Stopper,
        look: &mut dyn FnMut(u64),
    ) -> CommandReport {
        self.run_beside(spec, stopper, LOOK_EVERY, look)
    }

    fn run_beside(
        &mut self,
        spec: &CommandSpec<'_>,
        stopper: &Stopper,
        pause: u16,
        look: &mut dyn FnMut(u64),
    ) -> CommandReport {
        if let Some(reason) = stopper.asked() {
            return ended(CommandEnd::Stopped(reason));
        }
        if let Err(error) = self.sit_down() {
            return ended(CommandEnd::Failed(format!("cannot start a helper process: {error}")));
        }
        match self.exchange(spec, stopper, (pause, look)) {
            Ok(outcome) => self.report(outcome),
            Err(text) => ended(CommandEnd::Failed(text)),
        }
    }

    /// What the last command wrote to its standard output; `None` where that is nothing.
    pub fn stdout(&self) -> Option<&File> {
        self.seat.as_ref()?.logs[0].as_ref()
    }

    /// What the last command wrote to its standard error; `None` where that is nothing.
    pub fn stderr(&self) -> Option<&File> {
        self.seat.as_ref()?.logs[1].as_ref()
    }

    /// Sees to it that there is a helper.
    fn sit_down(&mut self) -> io::Result<()> {
        if self.seat.is_some() {
            return Ok(());
        }
        let dir = &self.config.dir;
        DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        let bell = Bell::new()?;
        let helper = Helper::start(&HelperSpec {
            program: &self.config.helper,
            args: &self.args,
            root: dir,
            slot_dir: dir,
            with_tmp: false,
            lock: self.config.lock.as_ref().map(|lock| lock.as_fd()),
            jobserver: None,
            // Who runs one command at a time hears of each end.
            bell: bell.as_fd(),
        })?;
        self.seat = Some(Seat { helper, messages: FrameReader::default(), logs: [None, None], is_held: false });
        Ok(())
    }

    fn exchange(
        &mut self,
        spec: &CommandSpec<'_>,
        stopper: &Stopper,
        (pause, look): (u16, &mut dyn FnMut(u64)),
    ) -> Result<Outcome, String> {
        let Some(seat) = &self.seat else { return Err("bug: no helper".into()) };
        self.seq += 1;
        let seq = self.seq;
        let line = Arc::clone(seat.helper.line());
        let argv = joined(spec.argv.iter().map(|text| [text]), "an argument");
        let env = joined(spec.env.iter().map(|(name, value)| [name, "=", value]), "a variable");
        let (argv, env) = match (argv, env) {
            (Ok(argv), Ok(env)) => (argv, env),
            (Err(text), _) | (_, Err(text)) => return Ok(not_started(text)),
        };
        let command = RunCommand {
            seq,
            argv,
            env,
            timeout_ms: spec.timeout.map(|t| u64::try_from(t.as_millis()).unwrap_or(u64::MAX)),
            cwd: Some(spec.cwd.to_str().ok_or("the directory of the command is not UTF-8")?.to_owned()),
        };
        let parcel = Parcel::new(&command, || self.config.dir.join(format!("command{seq}")))
            .map_err(|error| format!("cannot hand the command to its helper: {error}"))?;
        if let Some(seat) = &mut self.seat {
            seat.logs = [None, None];
            if std::mem::take(&mut seat.is_held) {
                line.tell(&ToSlot::GoOn);
            }
        }
        if !line.lay(&parcel, false) {
            return Err(self.bury());
        }
        stopper.connect(Some((Arc::clone(&line), seq)));
        let logs = LOGS.map(|name| self.config.dir.join(name));
        let mut look = || look(logs.iter().filter_map(|log| Some(log.metadata().ok()?.len())).sum());
        let outcome = self.seat.as_mut().and_then(|seat| listen(&line, &mut seat.messages, seq, pause, &mut look));
        stopper.connect(None);
        let Some(outcome) = outcome else { return Err(self.bury()) };
        if let Some(seat) = &mut self.seat {
            seat.is_held = outcome.end != End::Exited(0);
            let lengths = [outcome.stdout_len, outcome.stderr_len];
            for ((log, name), length) in seat.logs.iter_mut().zip(LOGS).zip(lengths) {
                if length > 0 {
                    let taken = take_log(&self.config.dir.join(format!("{name}.{seq}")));
                    *log = Some(taken.map_err(|error| format!("cannot read what the command wrote: {error}"))?);
                }
            }
        }
        Ok(outcome)
    }

    fn bury(&mut self) -> String {
        let alive = self.seat.take().map(|seat| seat.helper.bury()).unwrap_or_default();
        match alive.is_empty() {
            true => "the helper process that ran the command died".into(),
            false => format!("the helper process died and left what cannot be killed: {}", alive.join(", ")),
        }
    }

    fn report(&mut self, outcome: Outcome) -> CommandReport {
        let end = match outcome.end {
            End::Exited(code) => CommandEnd::Exited(code),
            End::Signalled(signal) => CommandEnd::Signalled(signal),
            End::TimedOut => CommandEnd::TimedOut,
            End::Stopped(reason) => CommandEnd::Stopped(reason),
            End::NotStarted(text) => CommandEnd::NotStarted(text),
            End::Broken(text) => CommandEnd::Failed(text),
            End::Stuck(who) => {
                if let Some(seat) = self.seat.take() {
                    seat.helper.retire();
                }
                CommandEnd::Failed(format!("processes cannot be killed: {who}"))
            }
        };
        let Outcome { killed, cost, stdout_len, stderr_len, .. } = outcome;
        CommandReport { end, killed, cost, stdout_len, stderr_len }
    }
}

impl Drop for CommandRunner {
    fn drop(&mut self) {
        if let Some(seat) = self.seat.take() {
            seat.helper.end();
        }
    }
}

/// Until the run has ended; `None` where the helper is gone.
fn listen(
    line: &Line,
    messages: &mut FrameReader,
    expected: u64,
    pause: u16,
    look: &mut dyn FnMut(),
) -> Option<Outcome> {
    loop {
        if !messages.has_begun() {
            line.wait_for_message(pause, &mut *look);
        }
        match messages.read(&mut line.socket()) {
            Ok(Some(FromSlot::Notice { .. })) => {}
            Ok(Some(FromSlot::Ended { seq, outcome })) if seq == expected => return Some(outcome),
            Ok(Some(FromSlot::Ended { .. }) | None) | Err(_) => return None,
        }
    }
}

/// Opens a file of output, which is nobody else's any more.
fn take_log(path: &Path) -> io::Result<File> {
    let log = File::open(path)?;
    std::fs::remove_file(path)?;
    Ok(log)
}

/// The outcome of a command no program can get.
fn not_started(text: String) -> Outcome {
    let (end, killed, cost) = (End::NotStarted(text), Vec::new(), RunCost::default());
    Outcome { end, killed, cost, stdout_len: 0, stderr_len: 0, left_files: false }
}

fn ended(end: CommandEnd) -> CommandReport {
    CommandReport { end, killed: Vec::new(), cost: RunCost::default(), stdout_len: 0, stderr_len: 0 }
}
