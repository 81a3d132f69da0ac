//! Running an action remotely: uploads, the stream of operations, and what to do when it breaks.
//!
//! What follows from what is decided in `attempts`; here it is carried out. It does not know why the action runs, nor
//! what its report leads to.

mod operation;

use std::time::Duration;

use minibuild_core::{Blob, Digest, ExecutionReport, ExecutionStatus, Level, RemoteRequest, RemoteStage, visible_line};
use minibuild_reapi::decode::{digest_message, function_number};
use minibuild_reapi::proto::longrunning::{self, operation::Result as Done};
use minibuild_reapi::proto::{execution as proto, read, rpc};
use proto::execution_stage::Value as StageValue;
use tokio::time::Instant;
use tonic::Code;

pub(crate) use self::operation::Operation;
use self::operation::{broken_or_refused, is_about_the_action, remarks, rpc_status, stage_of, text, until};
use crate::answer::Answer;
use crate::assemble::{Flawed, Parts, Wanted, assemble};
use crate::attempts::{Attempts, Ending, Pause, Step, code};
use crate::backoff::Backoff;
use crate::cache::EnsureFailure;
use crate::executor::{NoStream, Operations, is_broken};
use crate::notice::{self, QueueNotices};
use crate::shared::Shared;

/// How a step went.
enum Outcome {
    Over(Box<ExecutionReport>),
    Ended(Ending),
}

impl From<Ending> for Outcome {
    fn from(ending: Ending) -> Self {
        Self::Ended(ending)
    }
}

/// Runs an action to its end. While it is attached the future is small: what comes before and after is boxed.
pub(crate) async fn run(
    shared: &Shared,
    request: &RemoteRequest,
    answer: &Answer,
    operation: &Operation,
) -> ExecutionReport {
    let attempts = Attempts::new(shared.config.function, shared.config.retries);
    let begun = Instant::now();
    let execution = Execution {
        shared,
        request,
        answer,
        operation,
        begun,
        backoff: Backoff::new(u32::MAX, request.run.action.index() as u64),
        runs_since: None,
        stage: None,
        notices: QueueNotices::default(),
        skips_cache: request.skip_cache_lookup,
    };
    *execution.run(attempts).await
}

/// Asks the server to end an operation. Whether it can and does is its own matter.
pub(crate) async fn cancel(shared: &Shared, name: &str) {
    if let Some(executor) = &shared.executor {
        executor.cancel(name).await;
    }
}

struct Execution<'a> {
    shared: &'a Shared,
    request: &'a RemoteRequest,
    answer: &'a Answer,
    operation: &'a Operation,
    begun: Instant,
    backoff: Backoff,
    runs_since: Option<Instant>,
    stage: Option<RemoteStage>,
    notices: QueueNotices,
    skips_cache: bool,
}

impl Execution<'_> {
    async fn run(mut self, mut attempts: Attempts) -> Box<ExecutionReport> {
        let mut ended = self.upload(&self.request.blobs).await;
        if ended.is_none() {
            ended = self.check_shared_cas().await;
        }
        let mut step = Step::Execute(Pause::default());
        loop {
            if let Some(report) = ended {
                return report;
            }
            match self.carry_out(step).await {
                Outcome::Over(report) => return report,
                Outcome::Ended(ending) => {
                    let note = self.note_on(&ending);
                    step = attempts.next(ending, self.operation.name().is_some());
                    ended = self.before(&mut step, note).await;
                }
            }
        }
    }

    /// What a step needs first; a report where that ends it all.
    async fn before(&mut self, step: &mut Step, note: String) -> Option<Box<ExecutionReport>> {
        match step {
            Step::GiveUp(why) => Some(self.failed(format!("{why}{note}"))),
            Step::TimedOut => Some(self.report(ExecutionStatus::TimedOut)),
            Step::AskCache if self.skips_cache => {
                *step = Step::Execute(Pause::default());
                None
            }
            Step::UploadMissing(missing) => {
                let missing = std::mem::take(missing);
                self.upload_again(&missing).await
            }
            Step::UploadAfresh => {
                self.forget_inputs();
                self.upload(&self.request.blobs).await
            }
            Step::Wait(_) | Step::Execute(_) | Step::AskCache | Step::ExecuteBypassingCache => None,
        }
    }

    async fn carry_out(&mut self, step: Step) -> Outcome {
        match step {
            Step::Wait(pause) => {
                self.pause(pause).await;
                self.wait().await
            }
            Step::Execute(pause) => {
                self.pause(pause).await;
                self.execute().await
            }
            Step::AskCache => match Box::pin(self.ask_cache()).await {
                Some(over) => over,
                None => self.execute().await,
            },
            Step::ExecuteBypassingCache => {
                self.skips_cache = true;
                self.execute().await
            }
            Step::UploadMissing(_) | Step::UploadAfresh | Step::TimedOut | Step::GiveUp(_) => self.execute().await,
        }
    }

    /// Sees to it that the server has the blobs.
    async fn upload(&self, blobs: &[Blob]) -> Option<Box<ExecutionReport>> {
        let progress = |done, all| self.answer.stage(RemoteStage::Uploading(done, all));
        let sent = Box::pin(self.shared.cache.ensure(&self.request.who, blobs, &progress)).await;
        self.unless_sent(sent)
    }

    /// The end of the attempt where blobs could not be sent.
    fn unless_sent(&self, sent: Result<(), EnsureFailure>) -> Option<Box<ExecutionReport>> {
        match sent {
            Ok(()) => None,
            Err(EnsureFailure::Lost(digests)) => Some(self.report(ExecutionStatus::LostInputs(digests))),
            Err(EnsureFailure::Changed(paths)) => {
                let names: Vec<String> = paths.iter().map(|path| format!("`{path}`")).collect();
                let mut report = self.failed(format!("inputs changed before they were uploaded: {}", names.join(", ")));
                report.changed_inputs = paths;
                Some(report)
            }
            Err(EnsureFailure::Failed(why) | EnsureFailure::Denied(why)) => Some(self.failed(why)),
        }
    }

    /// Uploads blobs of which the server says that it lacks them, whatever was believed, and with them all others that it lacks:
    /// it does not see what lies below a directory that is missing.
    async fn upload_again(&self, missing: &[Digest]) -> Option<Box<ExecutionReport>> {
        self.forget_inputs();
        let blobs: Vec<Blob> =
            self.request.blobs.iter().filter(|blob| missing.contains(&blob.digest)).cloned().collect();
        let is_foreign = |digest: &&Digest| digest.size > 0 && !blobs.iter().any(|blob| blob.digest == **digest);
        if let Some(digest) = missing.iter().find(is_foreign) {
            return Some(self.failed(format!("the server misses {digest}, which is no input of the action")));
        }
        let sent = Box::pin(self.shared.cache.send(&self.request.who, &blobs)).await;
        match self.unless_sent(sent) {
            None => self.upload(&self.request.blobs).await,
            report => report,
        }
    }

    /// No longer believes that the server has any of the action's blobs.
    fn forget_inputs(&self) {
        let all: Vec<Digest> = self.request.blobs.iter().map(|blob| blob.digest).collect();
        self.shared.cache.forget(&all);
    }

    /// Once for each client: the executor has what went to the cache.
    async fn check_shared_cas(&self) -> Option<Box<ExecutionReport>> {
        let why = Box::pin(self.shared.check_shared_cas(&self.request.who)).await.err()?;
        Some(self.failed(why))
    }

    async fn execute(&mut self) -> Outcome {
        let Some(executor) = &self.shared.executor else {
            return Outcome::Over(self.failed("no executor is configured".to_owned()));
        };
        self.operation.set(None);
        let config = &self.shared.config;
        let policy = proto::ExecutionPolicy { priority: config.priority };
        let message = proto::ExecuteRequest {
            instance_name: config.instance.clone(),
            skip_cache_lookup: self.skips_cache,
            action_digest: Some(digest_message(&self.request.who.key)),
            execution_policy: (config.priority != 0).then_some(policy),
            digest_function: function_number(config.function),
            inline_stdout: true,
            inline_stderr: true,
            inline_output_files: self.request.depfile.iter().map(|path| path.as_str().to_owned()).collect(),
            ..Default::default()
        };
        match Box::pin(executor.execute(&self.request.who, &message)).await {
            Ok(stream) => self.follow(stream).await,
            Err(NoStream::Refused(status)) => Ending::Refused(rpc_status(&status)).into(),
            Err(NoStream::Failed(error)) => Ending::Failed(error.to_string()).into(),
        }
    }

    /// Takes the operation up again.
    async fn wait(&mut self) -> Outcome {
        let (Some(executor), Some(name)) = (&self.shared.executor, self.operation.name()) else {
            return self.execute().await;
        };
        match Box::pin(executor.wait(&self.request.who, &name)).await {
            Ok(stream) => match self.follow(stream).await {
                // Some servers send the refusal in the stream.
                Outcome::Ended(Ending::Refused(status)) if !is_about_the_action(&status) => {
                    Ending::Forgotten(visible_line(&status.message).into_owned()).into()
                }
                outcome => outcome,
            },
            Err(NoStream::Refused(status)) => Ending::Forgotten(text(&status)).into(),
            Err(NoStream::Failed(error)) => Ending::Failed(error.to_string()).into(),
        }
    }

    async fn pause(&mut self, pause: Pause) {
        if pause.failures == 0 {
            self.backoff.progressed();
        }
        // The first attempt of all comes without a failure before it.
        if let (true, Some(time)) = (pause.follows_failure, self.backoff.next(Code::Unavailable, pause.asked)) {
            tokio::time::sleep(time).await;
        }
    }

    /// Reads a stream to its end.
    async fn follow(&mut self, mut stream: Operations) -> Outcome {
        let mut had_news = false;
        loop {
            let due = self.notices.due_at().map(|due| self.begun + due);
            let message = tokio::select! {
                message = stream.next() => message,
                () = until(due) => {
                    self.give_notice();
                    continue;
                }
            };
            match message {
                Ok(Some(operation)) => {
                    had_news = true;
                    self.note(&operation);
                    if operation.done {
                        return Box::pin(self.done(operation)).await;
                    }
                }
                Ok(None) => {
                    let why = "the stream ended before the result".to_owned();
                    return Ending::Broken { why, had_news }.into();
                }
                Err(status) if had_news || is_broken(&status) => {
                    return broken_or_refused(&status, had_news).into();
                }
                Err(status) => return Ending::Refused(rpc_status(&status)).into(),
            }
        }
    }

    /// Takes name and stage of an operation.
    fn note(&mut self, operation: &longrunning::Operation) {
        if !operation.name.is_empty() {
            self.operation.set(Some(operation.name.clone()));
        }
        let stage = match stage_of(operation) {
            Some(StageValue::CacheCheck) => RemoteStage::CheckingCache,
            Some(StageValue::Queued) => RemoteStage::Queued,
            Some(StageValue::Completed) => return,
            // Servers that tell no stage are not known to make anybody wait.
            Some(StageValue::Executing | StageValue::Unknown) | None => RemoteStage::Running,
        };
        match stage {
            RemoteStage::Queued => self.notices.waits(self.begun.elapsed()),
            _ => self.notices.goes_on(),
        }
        if stage == RemoteStage::Running {
            self.runs_since.get_or_insert_with(Instant::now);
        }
        if !operation.done && self.stage != Some(stage) {
            self.stage = Some(stage);
            self.answer.stage(stage);
        }
    }

    fn give_notice(&mut self) {
        if let Some(waited) = self.notices.take(self.begun.elapsed()) {
            let text = notice::text(&self.request.who.label, waited, &self.request.platform);
            self.answer.tell(Level::Info, text);
        }
    }

    async fn done(&mut self, operation: longrunning::Operation) -> Outcome {
        self.notices.goes_on();
        let unknown = |message: &str| rpc::Status { code: code::UNKNOWN, message: message.to_owned(), details: vec![] };
        match operation.result {
            Some(Done::Error(status)) => Ending::Refused(status).into(),
            Some(Done::Response(any)) => match read::<proto::ExecuteResponse>("ExecuteResponse", &any.value) {
                Ok(response) => self.response(response).await,
                Err(error) => {
                    Ending::Refused(unknown(&format!("the server sent no `ExecuteResponse`: {error}"))).into()
                }
            },
            None => Ending::Refused(unknown("the operation is done, but has no result")).into(),
        }
    }

    async fn response(&mut self, response: proto::ExecuteResponse) -> Outcome {
        let status = response.status.clone().unwrap_or_default();
        let Some(result) = response.result.clone() else {
            let no_result =
                || rpc::Status { code: code::UNKNOWN, message: "there is no result".to_owned(), details: vec![] };
            return Ending::Refused(if status.code == 0 { no_result() } else { status }).into();
        };
        match status.code {
            0 => self.result(result, Some(&response)).await,
            code::DEADLINE_EXCEEDED => self.timed_out(result).await,
            _ => Ending::Refused(status).into(),
        }
    }

    async fn timed_out(&mut self, mut result: proto::ActionResult) -> Outcome {
        // What it made until then is of no use, and its exit code is that of being killed.
        result.exit_code = result.exit_code.max(1);
        match assemble(&self.shared.cache, self.wanted(), result).await {
            Ok(parts) => Outcome::Over(self.report_of(ExecutionStatus::TimedOut, parts)),
            Err(_) => Outcome::Over(self.report(ExecutionStatus::TimedOut)),
        }
    }

    async fn result(&mut self, result: proto::ActionResult, response: Option<&proto::ExecuteResponse>) -> Outcome {
        let is_cached = response.is_none_or(|response| response.cached_result);
        let (status, mut parts) = match assemble(&self.shared.cache, self.wanted(), result).await {
            Ok(parts) => (ExecutionStatus::Exited(parts.exit_code), parts),
            Err(Flawed::Problems(problems, parts)) => (ExecutionStatus::BadOutputs(problems), *parts),
            Err(Flawed::Lost(why)) => return Ending::ResultLost(why).into(),
            Err(Flawed::Refused(why)) => return Outcome::Over(self.failed(format!("the result is refused: {why}"))),
            Err(Flawed::Unreachable(why)) => return Outcome::Over(self.failed(why)),
        };
        if let (true, true, Some(response)) = (status != ExecutionStatus::Exited(0), parts.stderr.is_empty(), response)
        {
            parts.stderr = remarks(response).into_bytes();
        }
        let mut report = self.report_of(status, parts);
        report.from_cache = is_cached;
        Outcome::Over(report)
    }

    /// The result may be known although the operation is not.
    async fn ask_cache(&mut self) -> Option<Outcome> {
        let found = Box::pin(self.shared.cache.result(&self.request.who, self.request.depfile.as_ref())).await;
        let message = found.ok().flatten().filter(|message| message.exit_code == 0)?;
        match self.result(message, None).await {
            Outcome::Over(mut report) if report.status == ExecutionStatus::Exited(0) => {
                // It was run, for this very request as far as anybody knows.
                report.from_cache = false;
                Some(Outcome::Over(report))
            }
            _ => None,
        }
    }

    fn wanted(&self) -> Wanted<'_> {
        Wanted {
            who: &self.request.who,
            outputs: &self.request.outputs,
            depfile: self.request.depfile.as_ref(),
            function: self.shared.config.function,
            may_lack_logs: true,
            inputs: &self.request.blobs,
        }
    }

    fn report(&self, status: ExecutionStatus) -> Box<ExecutionReport> {
        let mut report = ExecutionReport::new(self.request.run, status);
        report.cost.wall = self.measured();
        Box::new(report)
    }

    fn report_of(&self, status: ExecutionStatus, parts: Parts) -> Box<ExecutionReport> {
        let mut report = self.report(status);
        report.cost.wall = parts.wall.unwrap_or(report.cost.wall);
        report.outputs = parts.outputs;
        report.stdout = parts.stdout;
        report.stderr = parts.stderr;
        report.depfile = parts.depfile;
        report
    }

    fn failed(&self, why: String) -> Box<ExecutionReport> {
        let place = self.shared.executor_name();
        let says_where = why.contains(place);
        let why = if says_where { why } else { format!("remote execution at `{place}`: {why}") };
        self.report(ExecutionStatus::Infrastructure(why))
    }

    fn measured(&self) -> Duration {
        self.runs_since.unwrap_or(self.begun).elapsed()
    }

    /// What helps to understand a refusal.
    fn note_on(&self, ending: &Ending) -> String {
        let platform = &self.request.platform;
        let is_about_it = match ending {
            Ending::Refused(status) => match status.code {
                // That there are none may be the reason.
                code::FAILED_PRECONDITION => true,
                code::INVALID_ARGUMENT => !platform.is_empty(),
                _ => false,
            },
            _ => false,
        };
        if is_about_it { format!(" ({})", notice::properties(platform)) } else { String::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attached_execution_is_small() {
        fn size_of<'a, F>(_: impl Fn(&'a Shared, &'a RemoteRequest, &'a Answer, &'a Operation) -> F) -> usize {
            std::mem::size_of::<F>()
        }
        assert!(std::mem::size_of::<Execution<'_>>() < 1024);
        let size = size_of(run);
        assert!(size < 8 * 1024, "{size} bytes");
    }
}
