//! One slot's thread: everything about one run that blocks, from removing old outputs to hashing new ones.
//!
//! It does not know other slots, nor what comes of its reports.

use std::collections::VecDeque;
use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use minibuild_core::{
    ExecutionReport, ExecutionRequest, ExecutionStatus, ExecutorEvent, RunCost, RunId, STATE_ROOT, StopReason, WsPath,
};
use minibuild_disk::{CaptureError, DiskError, FileClock, OutTree, Seen};

use crate::executor::EventSink;
use crate::helper::Helper;
use crate::protocol::{End, FrameReader, FromSlot, Outcome, RunCommand, ToSlot, frame, write_frame};
use crate::spawn::joined;
use crate::turns::{Handover, Turns};

/// What all slots share.
pub(crate) struct Common {
    pub(crate) tree: Arc<OutTree>,
    pub(crate) clock: Arc<dyn FileClock>,
    pub(crate) program: PathBuf,
    pub(crate) args: Vec<CString>,
    pub(crate) lock: Option<OwnedFd>,
    pub(crate) sink: EventSink,
    pub(crate) turns: Turns,
    /// Runs for which there is no slot yet. Slots become free, and are taken, under its lock.
    pub(crate) waiting: Mutex<VecDeque<ExecutionRequest>>,
}

impl Common {
    pub(crate) fn waiting(&self) -> MutexGuard<'_, VecDeque<ExecutionRequest>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is going on in a slot, seen by its thread and by whoever starts and stops runs.
#[derive(Default)]
pub(crate) struct SlotState(Mutex<Current>);

#[derive(Default)]
struct Current {
    run: Option<RunId>,
    stop: Option<StopReason>,
    /// Set while the helper has the command: where to send a stop, and the number of the run there.
    line: Option<(Arc<UnixStream>, u64)>,
}

impl SlotState {
    fn lock(&self) -> MutexGuard<'_, Current> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the slot for a run if it is free.
    pub(crate) fn occupy(&self, run: RunId) -> bool {
        let mut current = self.lock();
        if current.run.is_some() {
            return false;
        }
        *current = Current { run: Some(run), stop: None, line: None };
        true
    }

    /// Asks for the end of `run` (or of whatever runs). False where it is not here or a more urgent one came.
    pub(crate) fn stop(&self, run: Option<RunId>, reason: StopReason) -> bool {
        let mut current = self.lock();
        if current.run.is_none() || run.is_some_and(|run| current.run != Some(run)) || current.stop >= Some(reason) {
            return false;
        }
        current.stop = Some(reason);
        current.send_stop();
        true
    }

    pub(crate) fn stop_asked(&self) -> Option<StopReason> {
        self.lock().stop
    }

    /// The run that was here is over; the slot is free, or that of `next`.
    fn leave_to(&self, next: Option<RunId>) {
        *self.lock() = Current { run: next, stop: None, line: None };
    }

    /// From now on stops go to the helper, those that came earlier too.
    pub(crate) fn connect(&self, socket: &Arc<UnixStream>, seq: u64) {
        let mut current = self.lock();
        current.line = Some((Arc::clone(socket), seq));
        current.send_stop();
    }

    fn disconnect(&self) {
        self.lock().line = None;
    }
}

impl Current {
    /// A few bytes to a socket whose other end reads all the time; where it fails, the helper is dead.
    fn send_stop(&self) {
        if let (Some((line, seq)), Some(reason)) = (&self.line, self.stop) {
            let _ = write_frame(&mut &**line, &ToSlot::Stop { seq: *seq, reason });
        }
    }
}

/// A slot's thread.
pub(crate) struct Worker {
    common: Arc<Common>,
    state: Arc<SlotState>,
    number: usize,
    dir: WsPath,
    tmp: WsPath,
    /// The same, as commands find it in `TMPDIR`.
    tmp_text: String,
    seat: Option<Seat>,
    tmp_is_clean: bool,
    /// How the empty directory for temporary files looked, where a change of it cannot go unseen.
    tmp_when_empty: Option<Seen>,
    seq: u64,
}

/// A helper with the files it writes to.
struct Seat {
    helper: Helper,
    messages: FrameReader,
    stdout: File,
    stderr: File,
}

/// Why a run has no result from its helper.
enum Lost {
    Stopped(StopReason),
    Failed(String),
    /// What is named cannot be killed.
    Stuck(String),
}

impl Worker {
    pub(crate) fn new(common: Arc<Common>, state: Arc<SlotState>, number: usize) -> Self {
        let path = |text: String| WsPath::new(&text).expect("constant segments and a number");
        let dir = path(format!("{STATE_ROOT}/tmp/slot{number}"));
        let tmp = path(format!("{dir}/tmp"));
        let tmp_text = common.tree.workspace().join(tmp.as_path()).to_string_lossy().into_owned();
        Self {
            common,
            state,
            number,
            dir,
            tmp,
            tmp_text,
            seat: None,
            tmp_is_clean: false,
            tmp_when_empty: None,
            seq: 0,
        }
    }

    /// Carries out one run and reports it; gives the next one for this slot, if one waits.
    pub(crate) fn carry_out(&mut self, request: &ExecutionRequest) -> Option<ExecutionRequest> {
        let started = Instant::now();
        let mut report = empty_report(request.run);
        if request.command.argv.is_empty() {
            self.write_only(request, &mut report);
            report.cost.wall = started.elapsed();
        } else {
            match self.run(request, &mut report) {
                Ok(()) => {}
                Err(Lost::Stopped(reason)) => report.status = ExecutionStatus::Stopped(reason),
                Err(Lost::Failed(text)) => report.status = ExecutionStatus::Infrastructure(text),
                Err(Lost::Stuck(who)) => report.status = ExecutionStatus::Stuck(who),
            }
        }
        report.changed_inputs = self.changed_inputs(request);
        let next = {
            let mut waiting = self.common.waiting();
            let next = waiting.pop_front();
            self.state.leave_to(next.as_ref().map(|request| request.run));
            next
        };
        (self.common.sink)(ExecutorEvent::Finished(Box::new(report)));
        next
    }

    /// Ends the helper.
    pub(crate) fn end(self) {
        if let Some(seat) = self.seat {
            seat.helper.end();
        }
    }

    /// An action without a command: minibuild writes its files itself.
    fn write_only(&self, request: &ExecutionRequest, report: &mut ExecutionReport) {
        match self.prepare(request) {
            Ok(()) => self.capture(request, report),
            Err(error) => report.status = ExecutionStatus::Infrastructure(error.render()),
        }
    }

    fn prepare(&self, request: &ExecutionRequest) -> Result<(), DiskError> {
        let depfile: Vec<&WsPath> = request.depfile.iter().collect();
        self.common.tree.prepare(&request.outputs, &depfile)?;
        request.command.files.iter().try_for_each(|file| self.common.tree.write(file))
    }

    fn run(&mut self, request: &ExecutionRequest, report: &mut ExecutionReport) -> Result<(), Lost> {
        self.sit_down()?;
        self.prepare(request).map_err(|e| Lost::Failed(e.render()))?;
        if let Some(reason) = self.state.stop_asked() {
            return Err(Lost::Stopped(reason));
        }
        let outcome = self.command(request)?;
        let logs = self.read_logs(&outcome, report);
        // That something lives on is worth more than what it printed.
        if !matches!(outcome.end, End::Stuck(_)) {
            logs?;
        }
        report.killed = outcome.killed;
        report.cost = outcome.cost;
        self.settle(outcome.end, request, report);
        // What cannot be removed does not spoil this run; the next one tries again before it starts.
        self.tmp_is_clean = self.clear_tmp().is_ok();
        Ok(())
    }

    /// Sees to it that there is a helper.
    fn sit_down(&mut self) -> Result<(), Lost> {
        if self.seat.is_some() {
            return if self.tmp_is_clean { Ok(()) } else { self.clear_tmp() };
        }
        let failed = |path: &Path, error: io::Error| {
            Lost::Failed(DiskError::new("create", path.display().to_string(), error).render())
        };
        self.common.tree.make_dir(&self.dir).map_err(|e| Lost::Failed(e.render()))?;
        let dir = self.common.tree.workspace().join(self.dir.as_path());
        let tmp = dir.join("tmp");
        match std::fs::DirBuilder::new().mode(0o700).create(&tmp) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(failed(&tmp, error)),
            _ => self.clear_tmp()?,
        }
        // New files: a helper that was given up may still have processes that write to the old ones.
        let log = |name: &str| new_log(&dir.join(name)).map_err(|e| failed(&dir.join(name), e));
        let (stdout, stderr) = (log("out")?, log("err")?);
        let common = &self.common;
        let lock = common.lock.as_ref().map(|lock| lock.as_fd());
        let helper =
            Helper::start(&common.program, &common.args, common.tree.workspace(), &dir, lock, common.turns.jobserver())
                .map_err(|e| {
                    Lost::Failed(format!("cannot start the helper process `{}`: {e}", common.program.display()))
                })?;
        self.seat = Some(Seat { helper, messages: FrameReader::default(), stdout, stderr });
        Ok(())
    }

    /// Has the helper run the command, and passes on what it tells meanwhile.
    fn command(&mut self, request: &ExecutionRequest) -> Result<Outcome, Lost> {
        let Some(seat) = &self.seat else { return Err(Lost::Failed("bug: no helper".into())) };
        self.seq += 1;
        let seq = self.seq;
        let socket = Arc::clone(seat.helper.socket());
        let run_command = match self.run_command(request, seq) {
            Ok(command) => command,
            Err(text) => return Ok(not_started(text)),
        };
        let frame = frame(&ToSlot::Run(run_command))
            .map_err(|error| Lost::Failed(format!("cannot hand the command to its helper: {error}")))?;
        let state = Arc::clone(&self.state);
        let command = Handover { run: request.run, seq, socket: Arc::clone(&socket), state, frame };
        self.common.turns.take(self.number, command).map_err(Lost::Stopped)?;
        let outcome = self.listen(&socket, request.run, seq);
        let succeeded = outcome.as_ref().is_some_and(|outcome| outcome.end == End::Exited(0));
        self.common.turns.leave(self.number, succeeded);
        self.state.disconnect();
        match outcome {
            Some(outcome) if matches!(outcome.end, End::Stuck(_)) => {
                if let Some(seat) = self.seat.take() {
                    seat.helper.retire();
                }
                Ok(outcome)
            }
            Some(outcome) => Ok(outcome),
            None => Err(self.helper_died()),
        }
    }

    /// Until the run has ended; `None` where the helper is gone.
    fn listen(&mut self, mut socket: &UnixStream, run: RunId, expected: u64) -> Option<Outcome> {
        let messages = &mut self.seat.as_mut()?.messages;
        loop {
            match messages.read(&mut socket) {
                Ok(Some(FromSlot::Notice { seq, text })) if seq == expected => {
                    (self.common.sink)(ExecutorEvent::Notice(run, text));
                }
                Ok(Some(FromSlot::Ended { seq, outcome })) if seq == expected => return Some(outcome),
                Ok(Some(_) | None) | Err(_) => return None,
            }
        }
    }

    fn helper_died(&mut self) -> Lost {
        let alive = self.seat.take().map(|seat| seat.helper.bury()).unwrap_or_default();
        match self.state.stop_asked() {
            Some(reason) if alive.is_empty() => Lost::Stopped(reason),
            _ if alive.is_empty() => Lost::Failed(
                "the helper process that ran the command died (killed from outside, or out of memory?); \
                 all processes of the command were killed"
                    .into(),
            ),
            _ => Lost::Stuck(alive.join(", ")),
        }
    }

    /// The command for the helper, or why no program can get it.
    fn run_command(&self, request: &ExecutionRequest, seq: u64) -> Result<RunCommand, String> {
        let command = &request.command;
        let tmp = Some(["TMPDIR", "=", &self.tmp_text]).filter(|_| !command.env.contains_key("TMPDIR"));
        let given = command.env.iter().map(|(name, value)| [name, "=", value]);
        let argv = joined(command.argv.iter().map(|text| [text]), "an argument")?;
        let env = joined(given.chain(tmp), "a variable")?;
        let timeout_ms = request.timeout.map(|t| u64::try_from(t.as_millis()).unwrap_or(u64::MAX));
        Ok(RunCommand { seq, argv, env, timeout_ms, cwd: None })
    }

    fn read_logs(&self, outcome: &Outcome, report: &mut ExecutionReport) -> Result<(), Lost> {
        let Some(seat) = &self.seat else { return Ok(()) };
        let read = |file: &File, length: u64| {
            if length == 0 {
                return Ok(Vec::new());
            }
            let mut bytes = vec![0; usize::try_from(length).map_err(io::Error::other)?];
            file.read_exact_at(&mut bytes, 0).map(|()| bytes)
        };
        let failed = |e: io::Error| Lost::Failed(DiskError::new("read", format!("{}/out", self.dir), e).render());
        report.stdout = read(&seat.stdout, outcome.stdout_len).map_err(failed)?;
        report.stderr = read(&seat.stderr, outcome.stderr_len).map_err(failed)?;
        Ok(())
    }

    /// What the end of the command means for the run.
    fn settle(&self, end: End, request: &ExecutionRequest, report: &mut ExecutionReport) {
        report.status = match end {
            End::Exited(0) => match self.state.stop_asked() {
                // Not wanted any more, so hashing would be for nothing.
                Some(reason @ (StopReason::LostRace | StopReason::Kill)) => ExecutionStatus::Stopped(reason),
                Some(StopReason::Interrupt) | None => return self.capture(request, report),
            },
            End::Exited(code) => ExecutionStatus::Exited(code),
            End::Signalled(signal) => ExecutionStatus::Signalled(signal),
            End::TimedOut => ExecutionStatus::TimedOut,
            End::Stopped(reason) => ExecutionStatus::Stopped(reason),
            End::NotStarted(text) => ExecutionStatus::NotStarted(text),
            End::Broken(text) => ExecutionStatus::Infrastructure(text),
            End::Stuck(who) => ExecutionStatus::Stuck(who),
        };
    }

    fn capture(&self, request: &ExecutionRequest, report: &mut ExecutionReport) {
        let captured = self.read_depfile(request).map_err(CaptureError::from).and_then(|depfile| {
            report.depfile = depfile;
            self.remove_private_inputs(request)?;
            self.common.tree.capture(&request.outputs, &*self.common.clock)
        });
        report.status = match captured {
            Ok(outputs) => {
                report.outputs = outputs;
                ExecutionStatus::Exited(0)
            }
            Err(CaptureError::Problems(problems)) => ExecutionStatus::BadOutputs(problems),
            Err(CaptureError::Disk(error)) => ExecutionStatus::Infrastructure(error.render()),
        };
    }

    /// Response files of a command that succeeded. After a failure they stay, so that it can be repeated by hand.
    fn remove_private_inputs(&self, request: &ExecutionRequest) -> Result<(), DiskError> {
        let is_private = |path: &WsPath| request.outputs.iter().all(|output| output.path != *path);
        let files = request.command.files.iter().map(|file| &file.path);
        files.filter(|path| is_private(path)).try_for_each(|path| self.common.tree.remove(path))
    }

    /// The depfile's content. One that is no declared output is removed: it is in the report now.
    fn read_depfile(&self, request: &ExecutionRequest) -> Result<Option<Vec<u8>>, DiskError> {
        let Some(path) = &request.depfile else { return Ok(None) };
        let content = self.common.tree.read(path)?;
        if content.is_some() && request.outputs.iter().all(|output| output.path != *path) {
            self.common.tree.remove(path)?;
        }
        Ok(content)
    }

    fn changed_inputs(&self, request: &ExecutionRequest) -> Vec<WsPath> {
        let paths: Vec<&str> = request.verify.iter().map(|(path, _)| path.as_str()).collect();
        let seen = self.common.tree.look_at_all(&paths);
        let is_same = |now: Option<Seen>, then| now.is_some_and(|now| now.fingerprint == then);
        let pairs = request.verify.iter().zip(seen);
        pairs.filter(|((_, then), now)| !is_same(*now, *then)).map(|((path, _), _)| path.clone()).collect()
    }

    /// Most commands leave nothing behind, which one look at the directory tells.
    fn clear_tmp(&mut self) -> Result<(), Lost> {
        let tree = &self.common.tree;
        if self.tmp_when_empty.is_some() && tree.look(&self.tmp).ok() == self.tmp_when_empty {
            return Ok(());
        }
        let now = self.common.clock.now();
        self.tmp_when_empty = None;
        tree.empty_dir(&self.tmp).map_err(|e| Lost::Failed(e.render()))?;
        if let (Ok(now), Ok(seen)) = (now, tree.look(&self.tmp)) {
            self.tmp_when_empty = now.stamp(seen.fingerprint).trusted.then_some(seen);
        }
        Ok(())
    }
}

/// The outcome of a command no program can get.
pub(crate) fn not_started(text: String) -> Outcome {
    let (end, killed, cost) = (End::NotStarted(text), Vec::new(), RunCost::default());
    Outcome { end, killed, cost, stdout_len: 0, stderr_len: 0 }
}

pub(crate) fn new_log(path: &Path) -> io::Result<File> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)
}

/// A report of a run of which nothing is known yet.
pub(crate) fn empty_report(run: RunId) -> ExecutionReport {
    ExecutionReport::new(run, ExecutionStatus::Infrastructure("the run has no result".into()))
}
