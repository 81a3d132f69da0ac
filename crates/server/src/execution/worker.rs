//! Workers: each takes an action from the board, runs it in a directory of its own, and reports.
//!
//! A worker's thread does everything that blocks; its helper process runs the commands. It does not know who waits
//! for the result.

use std::collections::HashSet;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use minibuild_core::{Digest, DigestFunction, not_started_code};
use minibuild_local::{CommandEnd, CommandReport, CommandRunner, CommandSpec, RunnerConfig};
use minibuild_reapi::decode::digest_message;
use minibuild_reapi::proto::{Message, execution as proto, protobuf, rpc};
use tonic::{Code, Status};

use super::board::{Job, failed};
use super::inputs::{Inputs, read_inputs};
use super::outputs::collect;
use crate::answer::{store_error, to_message};
use crate::faults::Occasion;
use crate::inject::FaultKind;
use crate::services::record;
use crate::shared::Shared;
use crate::store::{Ingest, disk};

/// Logs up to this size come along with the result.
const INLINE: u64 = 16 << 10;
/// What a shell says of a command ended by SIGKILL.
const KILLED: i32 = 128 + 9;

/// What workers are made of.
pub(crate) struct Workers {
    shared: Arc<Shared>,
    dir: PathBuf,
    helper: PathBuf,
    helper_args: Vec<std::ffi::OsString>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// Actions that changed an input: they get copies from now on.
    careless: Arc<Mutex<HashSet<Digest>>>,
}

impl Workers {
    pub(crate) fn new(
        shared: Arc<Shared>,
        dir: PathBuf,
        helper: PathBuf,
        helper_args: Vec<std::ffi::OsString>,
    ) -> Self {
        Self { shared, dir, helper, helper_args, threads: Mutex::default(), careless: Arc::default() }
    }

    /// Starts a worker's thread.
    ///
    /// # Errors
    /// Those of the operating system.
    pub(crate) fn start(&self, number: usize) -> std::io::Result<()> {
        let dir = self.dir.join(number.to_string());
        let runner = CommandRunner::new(RunnerConfig {
            helper: self.helper.clone(),
            helper_args: self.helper_args.clone(),
            dir: dir.join("log"),
            lock: Some(self.shared.store.lock()),
        });
        let mut worker = Worker {
            shared: Arc::clone(&self.shared),
            name: format!("minibuild-{}-{number}", std::process::id()),
            root: dir.join("root"),
            runner,
            careless: Arc::clone(&self.careless),
        };
        let work = move || {
            while let Some((id, job)) = worker.shared.board.take() {
                // Whoever waits is answered, whatever happens here.
                let carry_out = std::panic::AssertUnwindSafe(|| worker.carry_out(&job));
                let response =
                    std::panic::catch_unwind(carry_out).unwrap_or_else(|_| failed(13, "bug: a worker failed"));
                worker.shared.board.finish(id, response);
            }
        };
        let thread = std::thread::Builder::new().name(format!("worker {number}")).spawn(work)?;
        self.lock().push(thread);
        Ok(())
    }

    /// Waits for all threads; the board was stopped before.
    pub(crate) fn join(&self) {
        let threads = std::mem::take(&mut *self.lock());
        for thread in threads {
            // One that panicked has nothing more to say.
            let _ = thread.join();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<JoinHandle<()>>> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Worker {
    shared: Arc<Shared>,
    name: String,
    /// The input root of the action that runs.
    root: PathBuf,
    runner: CommandRunner,
    careless: Arc<Mutex<HashSet<Digest>>>,
}

/// When what happened.
struct Times {
    worker_start: SystemTime,
    fetch_start: SystemTime,
    fetch_end: SystemTime,
    run_start: SystemTime,
    run_end: SystemTime,
}

impl Worker {
    fn carry_out(&mut self, job: &Job) -> proto::ExecuteResponse {
        let command_line = job.command.arguments.join(" ");
        let occasion = Occasion { method: "", digest: Some(job.digest), command: Some(&command_line) };
        let slow: Duration = self.shared.faults.strikes(FaultKind::Slow, occasion).map(|s| s.duration()).sum();
        if !slow.is_zero() {
            wait_unless_stopped(slow, job);
        }
        if let Some(strike) = self.shared.faults.strike(FaultKind::Fail, occasion) {
            return match strike.fault.exit_code {
                Some(code) => injected_exit(code),
                None => failed(strike.code(), "injected"),
            };
        }
        let response = self.run(job).unwrap_or_else(|status| proto::ExecuteResponse {
            status: Some(details_of(&status)),
            ..Default::default()
        });
        // What stays is removed before the next run, which says so if it cannot.
        let _ = minibuild_disk::remove_all(&self.root);
        response
    }

    fn run(&mut self, job: &Job) -> Result<proto::ExecuteResponse, Status> {
        let worker_start = SystemTime::now();
        let store = Arc::clone(&self.shared.store);
        let mut pins = store.pins();
        let inputs = read_inputs(&self.shared, job.function, job.action.input_root, &mut pins)?;
        self.prepare(job, &inputs)?;
        let run_start = SystemTime::now();
        let report = self.command(job)?;
        let times = Times {
            worker_start,
            fetch_start: worker_start,
            fetch_end: run_start,
            run_start,
            run_end: SystemTime::now(),
        };
        self.shared.counters.of_actions(|count| count.run += 1);
        let changed = inputs.drop_changed(&store, job.function);
        if changed > 0 && self.lock_careless().insert(job.digest) {
            // It may be this action that changed it, or one beside it: nothing of it is believed, and next time
            // it works on copies.
            return Err(Status::unavailable(format!("{changed} inputs changed while the action ran")));
        }
        self.respond(job, report, &times)
    }

    fn lock_careless(&self) -> MutexGuard<'_, HashSet<Digest>> {
        self.careless.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the private directory: inputs, and the directories outputs go to.
    fn prepare(&self, job: &Job, inputs: &Inputs) -> Result<(), Status> {
        minibuild_disk::remove_all(&self.root).map_err(|e| store_error(e.into()))?;
        make_dir(&self.root)?;
        if !inputs.has_directory(job.command.working_directory.as_str()) {
            let text = format!("the working directory `{}` is not in the input root", job.command.working_directory);
            return Err(Status::invalid_argument(text));
        }
        let copy = self.lock_careless().contains(&job.digest);
        inputs.lay_out(&self.shared.store, job.function, &self.root, copy).map_err(store_error)?;
        let base = self.root.join(job.command.working_directory.as_path());
        for parent in job.command.outputs.paths().filter_map(|path| path.parent()) {
            make_dir(&base.join(parent))?;
        }
        Ok(())
    }

    fn command(&mut self, job: &Job) -> Result<CommandReport, Status> {
        {
            let store = Arc::clone(&self.shared.store);
            let _starting = store.apart.starting();
            self.runner.prepare().map_err(|e| Status::unavailable(format!("cannot start a helper process: {e}")))?;
        }
        let cwd = self.root.join(job.command.working_directory.as_path());
        let spec = CommandSpec {
            argv: &job.command.arguments,
            env: &job.command.environment,
            cwd: &cwd,
            timeout: job.action.timeout.filter(|timeout| !timeout.is_zero()),
        };
        Ok(self.runner.run(&spec, &job.stopper))
    }

    /// The response to a run that came to an end of its own or of time.
    fn respond(&self, job: &Job, report: CommandReport, times: &Times) -> Result<proto::ExecuteResponse, Status> {
        let mut not_started = None;
        let (exit_code, status) = match report.end {
            CommandEnd::Exited(code) => (code, rpc::Status::default()),
            CommandEnd::Signalled(signal) => (128 + signal, rpc::Status::default()),
            CommandEnd::TimedOut => {
                let after = job.action.timeout.unwrap_or_default();
                let text = format!("the command was killed after its timeout of {after:?}");
                (KILLED, to_message(&Status::deadline_exceeded(text)))
            }
            CommandEnd::NotStarted(text) => {
                let code = not_started_code(&text);
                not_started = Some(text);
                (code, rpc::Status::default())
            }
            CommandEnd::Stopped(_) => {
                self.shared.counters.of_actions(|count| count.cancelled += 1);
                let is_stopping = self.shared.board.is_stopping();
                let code = if is_stopping { Code::Unavailable } else { Code::Cancelled };
                return Err(Status::new(code, "the command was killed"));
            }
            CommandEnd::Failed(text) => return Err(Status::unavailable(text)),
        };
        let mut result = proto::ActionResult { exit_code, ..Default::default() };
        self.logs(job.function, &report.stdout_len, &report.stderr_len, not_started, &mut result)?;
        let collected = collect(&self.shared.store, job.function, &self.root, &job.command, &mut result);
        collected.map_err(output_error)?;
        result.execution_metadata = Some(self.metadata(job, times));
        if status.code == 0 && exit_code == 0 && !job.action.do_not_cache {
            record(&self.shared.store, job.function, &job.digest, &result).map_err(store_error)?;
        }
        let message = match &*report.killed {
            [] => String::new(),
            killed => format!("processes that outlived the command were killed: {}", killed.join(", ")),
        };
        Ok(proto::ExecuteResponse { result: Some(result), status: Some(status), message, ..Default::default() })
    }

    fn logs(
        &self,
        function: DigestFunction,
        stdout: &u64,
        stderr: &u64,
        not_started: Option<String>,
        result: &mut proto::ActionResult,
    ) -> Result<(), Status> {
        if let Some(text) = not_started {
            let digest = self.shared.store.put_new(function, text.as_bytes()).map_err(store_error)?;
            result.stderr_digest = Some(digest_message(&digest));
            result.stderr_raw = text.into_bytes();
            return Ok(());
        }
        (result.stdout_raw, result.stdout_digest) = self.log(function, self.runner.stdout(), *stdout)?;
        (result.stderr_raw, result.stderr_digest) = self.log(function, self.runner.stderr(), *stderr)?;
        Ok(())
    }

    /// The text where it is short, and its digest.
    fn log(
        &self,
        function: DigestFunction,
        file: Option<&File>,
        length: u64,
    ) -> Result<(Vec<u8>, Option<proto::Digest>), Status> {
        let Some(file) = file.filter(|_| length > 0) else { return Ok((Vec::new(), None)) };
        let mut ingest = Ingest::new(&self.shared.store, function, length).map_err(store_error)?;
        let mut inline = Vec::new();
        let mut at = 0;
        while at < length {
            let mut piece = vec![0; usize::try_from((length - at).min(1 << 20)).unwrap_or(0)];
            file.read_exact_at(&mut piece, at).map_err(|e| Status::internal(format!("cannot read the log: {e}")))?;
            ingest.write(&piece).map_err(store_error)?;
            at += piece.len() as u64;
            if length <= INLINE {
                inline = piece;
            }
        }
        let digest = ingest.finish(None).map_err(store_error)?;
        Ok((inline, Some(digest_message(&digest))))
    }

    fn metadata(&self, job: &Job, times: &Times) -> proto::ExecutedActionMetadata {
        let now = SystemTime::now();
        proto::ExecutedActionMetadata {
            worker: self.name.clone(),
            queued_timestamp: timestamp(job.queued_at),
            worker_start_timestamp: timestamp(times.worker_start),
            worker_completed_timestamp: timestamp(now),
            input_fetch_start_timestamp: timestamp(times.fetch_start),
            input_fetch_completed_timestamp: timestamp(times.fetch_end),
            execution_start_timestamp: timestamp(times.run_start),
            execution_completed_timestamp: timestamp(times.run_end),
            output_upload_start_timestamp: timestamp(times.run_end),
            output_upload_completed_timestamp: timestamp(now),
            ..Default::default()
        }
    }
}

/// Waits, but not for an action that is to end.
fn wait_unless_stopped(duration: Duration, job: &Job) {
    const LOOK: Duration = Duration::from_millis(20);
    // Nothing is ever sent: a channel is the way to wait for time to pass.
    let (_sender, never) = channel::<()>();
    let until = Instant::now() + duration;
    while job.stopper.asked().is_none() {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() || never.recv_timeout(left.min(LOOK)) == Err(RecvTimeoutError::Disconnected) {
            return;
        }
    }
}

fn injected_exit(code: i32) -> proto::ExecuteResponse {
    let result = proto::ActionResult { exit_code: code, stderr_raw: b"injected\n".to_vec(), ..Default::default() };
    proto::ExecuteResponse { result: Some(result), status: Some(rpc::Status::default()), ..Default::default() }
}

/// A status with its details, which sit encoded in that of a call.
fn details_of(status: &Status) -> rpc::Status {
    match rpc::Status::decode(status.details()) {
        Ok(message) if !status.details().is_empty() => message,
        _ => to_message(status),
    }
}

fn output_error(error: super::outputs::OutputError) -> Status {
    match error {
        super::outputs::OutputError::Store(error) => store_error(error),
        other => Status::invalid_argument(other.to_string()),
    }
}

fn make_dir(path: &Path) -> Result<(), Status> {
    fs::create_dir_all(path).map_err(|e| store_error(disk("create", path, e).into()))
}

fn timestamp(time: SystemTime) -> Option<protobuf::Timestamp> {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    let seconds = i64::try_from(since.as_secs()).ok()?;
    Some(protobuf::Timestamp { seconds, nanos: i32::try_from(since.subsec_nanos()).ok()? })
}
