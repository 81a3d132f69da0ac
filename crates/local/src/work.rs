//! What is done for one run beside its command, and blocks: from removing old outputs to hashing new ones.
//!
//! It does not know other runs, nor what comes of its reports.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use minibuild_core::{
    ArtifactKind, ExecutionReport, ExecutionRequest, ExecutionStatus, LONG_OUTPUT_ROOT, LONGEST_OUTPUT, OutputProblem,
    RunId, STATE_ROOT, StopReason, WsPath, excerpt,
};
use minibuild_disk::{CaptureError, DiskError, FileClock, OutTree};

use crate::inputs::InputRecheck;
use crate::protocol::{End, Outcome, Parcel, RunCommand};
use crate::spawn::joined;

/// Where runs take place.
pub(crate) struct Place {
    pub(crate) tree: Arc<OutTree>,
    pub(crate) clock: Arc<dyn FileClock>,
    pub(crate) recheck: InputRecheck,
}

/// A run that was asked for, and its command once it is ready.
#[derive(Debug)]
pub(crate) struct Work {
    pub(crate) request: ExecutionRequest,
    pub(crate) parcel: Option<Parcel>,
}

/// What came of making a run ready.
pub(crate) enum Prepared {
    /// Its command may start.
    Ready(Parcel),
    /// There is nothing to be run, or it cannot be: the report.
    Over(Box<ExecutionReport>),
}

/// A larger depfile is none: it is read into memory. Those of large projects have some 100 KiB.
const LARGEST_DEPFILE: u64 = 64 << 20;
/// A command so short cannot have written much.
const SHORT: Duration = Duration::from_millis(20);
/// Bytes whose hashing takes no time worth mentioning.
const FEW_BYTES: u64 = 1 << 20;

impl Place {
    /// The directory of a seat's helper.
    pub(crate) fn dir(seat: usize) -> WsPath {
        own_path(format!("{STATE_ROOT}/tmp/slot{seat}"))
    }

    /// Where a long command waits for its helper.
    fn file_of(&self, seq: u64) -> PathBuf {
        self.tree.workspace().join(STATE_ROOT).join(format!("tmp/command{seq}"))
    }

    /// Removes old outputs and writes the files of the command.
    pub(crate) fn prepare(&self, seq: u64, request: &ExecutionRequest) -> Prepared {
        let started = Instant::now();
        let over = |status: ExecutionStatus| Prepared::Over(self.report(request, status));
        let depfile: Vec<&WsPath> = request.depfile.iter().collect();
        let prepared = self.tree.prepare(&request.outputs, &depfile);
        let written = prepared.and_then(|()| request.command.files.iter().try_for_each(|file| self.tree.write(file)));
        if let Err(error) = written {
            return over(ExecutionStatus::Infrastructure(error.render()));
        }
        if request.command.argv.is_empty() {
            // An action without a command: its files are its outputs.
            let mut report = empty_report(request.run);
            self.capture(request, &mut report);
            report.cost.wall = started.elapsed();
            report.changed_inputs = self.changed_inputs(request);
            return Prepared::Over(Box::new(report));
        }
        let command = match run_command(request, seq) {
            Ok(command) => command,
            Err(text) => return over(ExecutionStatus::NotStarted(text)),
        };
        match Parcel::new(&command, || self.file_of(seq)) {
            Ok(parcel) => Prepared::Ready(parcel),
            Err(error) => {
                over(ExecutionStatus::Infrastructure(format!("cannot hand the command to its helper: {error}")))
            }
        }
    }

    /// Whether looking at what the command made may take long.
    pub(crate) fn is_long(&self, request: &ExecutionRequest, outcome: &Outcome) -> bool {
        let size = |path: &WsPath| self.tree.look(path).map_or(0, |seen| seen.fingerprint.size);
        request.outputs.iter().any(|output| output.kind == ArtifactKind::Directory)
            || outcome.cost.wall > SHORT
                && request.outputs.iter().map(|output| size(&output.path)).sum::<u64>() > FEW_BYTES
            || outcome.stdout_len + outcome.stderr_len > FEW_BYTES
    }

    /// Looks at what a command made that ran in the seat, and what it means for the run. `stop` gives the most urgent reason for
    /// which it was to end.
    pub(crate) fn finish(
        &self,
        seat: usize,
        seq: u64,
        request: &ExecutionRequest,
        outcome: Outcome,
        stop: &dyn Fn() -> Option<StopReason>,
    ) -> ExecutionReport {
        let mut report = empty_report(request.run);
        let logs = self.take_logs(seat, seq, &outcome, &mut report);
        // That something lives on is worth more than what it printed.
        let logs = if matches!(outcome.end, End::Stuck(_)) { Ok(()) } else { logs };
        match logs {
            Ok(()) => {
                (report.killed, report.cost) = (outcome.killed, outcome.cost);
                self.settle(outcome.end, request, stop(), &mut report);
            }
            Err(error) => report.status = ExecutionStatus::Infrastructure(error.render()),
        }
        if matches!(report.status, ExecutionStatus::Stopped(_)) {
            // Nobody is interested in what it printed. The next build looks again for what cannot be removed.
            report.whole_output.drain(..).for_each(|path| drop(self.tree.remove(&path)));
        }
        if outcome.left_files {
            // What cannot be removed is nobody's any more; the next build tries again.
            let _ = self.tree.remove(&of_run(seat, "tmp", seq));
        }
        report.changed_inputs = self.changed_inputs(request);
        report
    }

    /// A report of a run that did not come to its command.
    pub(crate) fn report(&self, request: &ExecutionRequest, status: ExecutionStatus) -> Box<ExecutionReport> {
        let changed_inputs = self.changed_inputs(request);
        Box::new(ExecutionReport { changed_inputs, ..ExecutionReport::new(request.run, status) })
    }

    /// Takes what the command printed into the report; what is too long for memory stays in files.
    fn take_logs(
        &self,
        seat: usize,
        seq: u64,
        outcome: &Outcome,
        report: &mut ExecutionReport,
    ) -> Result<(), DiskError> {
        let is_long = outcome.stdout_len + outcome.stderr_len > LONGEST_OUTPUT;
        let RunId { action, attempt } = report.run;
        let mut take = |name: &str, length: u64| {
            if length == 0 {
                return Ok(Vec::new());
            }
            let path = of_run(seat, name, seq);
            let failed = |error| DiskError::new("read", path.as_str(), error);
            let file = self.tree.open_file(&path)?.ok_or_else(|| failed(io::ErrorKind::NotFound.into()))?;
            let text = match is_long {
                true => excerpt(length, |to, offset| file.read_exact_at(to, offset)),
                false => read_whole(file),
            };
            let text = text.map_err(failed)?;
            if is_long {
                let kept = own_path(format!("{LONG_OUTPUT_ROOT}/{}.{attempt}.{name}", action.index()));
                self.tree.move_file(&path, &kept)?;
                report.whole_output.push(kept);
            } else {
                self.tree.remove(&path)?;
            }
            Ok(text)
        };
        let (stdout, stderr) = (take("out", outcome.stdout_len)?, take("err", outcome.stderr_len)?);
        (report.stdout, report.stderr) = (stdout, stderr);
        Ok(())
    }

    /// What the end of the command means for the run.
    fn settle(&self, end: End, request: &ExecutionRequest, stop: Option<StopReason>, report: &mut ExecutionReport) {
        report.status = match end {
            // Where it is not wanted any more, hashing would be for nothing.
            End::Exited(0) => match stop {
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
        // What it names is of interest only with the outputs.
        if let Some(depfile) = private_depfile(request) {
            let _ = self.tree.remove(depfile);
        }
    }

    fn capture(&self, request: &ExecutionRequest, report: &mut ExecutionReport) {
        let captured = self.read_depfile(request).and_then(|depfile| {
            report.depfile = depfile;
            self.remove_private_inputs(request)?;
            self.tree.capture(&request.outputs, &*self.clock)
        });
        report.status = match captured {
            Ok(outputs) => {
                report.outputs = outputs;
                ExecutionStatus::Exited(0)
            }
            Err(CaptureError::Problems(problems)) => ExecutionStatus::BadOutputs(problems),
            // The request to stop this run is on its way.
            Err(CaptureError::Disk(_)) if self.tree.stop().is_set() => ExecutionStatus::Stopped(StopReason::Interrupt),
            Err(CaptureError::Disk(error)) => ExecutionStatus::Infrastructure(error.render()),
        };
    }

    /// Response files of a command that succeeded. After a failure they stay, so that it can be repeated by hand.
    fn remove_private_inputs(&self, request: &ExecutionRequest) -> Result<(), DiskError> {
        let is_private = |path: &WsPath| request.outputs.iter().all(|output| output.path != *path);
        let files = request.command.files.iter().map(|file| &file.path);
        files.filter(|path| is_private(path)).try_for_each(|path| self.tree.remove(path))
    }

    /// The depfile's content. One that is no declared output is removed: it is in the report now.
    fn read_depfile(&self, request: &ExecutionRequest) -> Result<Option<Vec<u8>>, CaptureError> {
        let Some(path) = &request.depfile else { return Ok(None) };
        let mut content = None;
        if let Some(file) = self.tree.open_file(path)? {
            let failed = |error| DiskError::new("read", path.as_str(), error);
            if file.metadata().map_err(failed)?.len() > LARGEST_DEPFILE {
                let what = format!("is larger than {} MiB, too large for a depfile", LARGEST_DEPFILE >> 20);
                return Err(CaptureError::Problems(vec![OutputProblem { path: path.to_string(), what }]));
            }
            content = Some(read_whole(file).map_err(failed)?);
        }
        if content.is_some()
            && let Some(path) = private_depfile(request)
        {
            self.tree.remove(path)?;
        }
        Ok(content)
    }

    fn changed_inputs(&self, request: &ExecutionRequest) -> Vec<WsPath> {
        let paths: Vec<&str> = request.verify.iter().map(|expected| expected.path.as_str()).collect();
        let seen = self.tree.look_at_all(&paths);
        let pairs = request.verify.iter().zip(seen);
        let changed = pairs.filter(|(expected, now)| !self.recheck.is_same(&self.tree, &*self.clock, expected, *now));
        changed.map(|(expected, _)| expected.path.clone()).collect()
    }
}

/// The depfile, unless it is an output as well.
fn private_depfile(request: &ExecutionRequest) -> Option<&WsPath> {
    request.depfile.as_ref().filter(|path| request.outputs.iter().all(|output| output.path != **path))
}

fn read_whole(mut file: File) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    file.read_to_end(&mut text)?;
    Ok(text)
}

/// What a helper named after a run.
fn of_run(seat: usize, name: &str, seq: u64) -> WsPath {
    own_path(format!("{}/{name}.{seq}", Place::dir(seat)))
}

fn own_path(text: String) -> WsPath {
    WsPath::new(&text).expect("constant segments and numbers")
}

/// The command for a helper, or why no program can get it.
fn run_command(request: &ExecutionRequest, seq: u64) -> Result<RunCommand, String> {
    let command = &request.command;
    let argv = joined(command.argv.iter().map(|text| [text]), "an argument")?;
    let env = joined(command.env.iter().map(|(name, value)| [name, "=", value]), "a variable")?;
    let timeout_ms = request.timeout.map(|t| u64::try_from(t.as_millis()).unwrap_or(u64::MAX));
    Ok(RunCommand { seq, argv, env, timeout_ms, cwd: None })
}

/// A report of a run of which nothing is known yet.
fn empty_report(run: RunId) -> ExecutionReport {
    ExecutionReport::new(run, ExecutionStatus::Infrastructure("the run has no result".into()))
}
