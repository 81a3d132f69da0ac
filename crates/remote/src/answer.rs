//! One answer to each request, whatever becomes of the work.
//!
//! A task holds a [`Ticket`]; dropped unanswered – the task was cancelled, or panicked – it answers for itself. It does
//! not know what the work is.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use minibuild_core::{
    CacheAnswer, CheckId, ExecutionReport, ExecutionStatus, FetchId, FetchOutcome, Level, RemoteEvent, RemoteStage,
    RunId, StagingOutcome,
};

/// Where events go. It never waits.
pub(crate) type Sink = Arc<dyn Fn(RemoteEvent) + Send + Sync>;

/// What was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Request {
    LookUp(RunId),
    Run(RunId),
    Fetch(FetchId),
    Stage(RunId),
    Publish(RunId),
    Check(CheckId),
    Upload(RunId),
}

impl Request {
    /// The answer of work that did not come to its end, and why not.
    fn unfinished(self, why: &Unfinished) -> RemoteEvent {
        match self {
            Self::LookUp(run) => {
                RemoteEvent::LookedUp { run, answer: CacheAnswer::Failed(why.text().to_owned()), took: Duration::ZERO }
            }
            Self::Run(run) => {
                let status = ExecutionStatus::Infrastructure(why.text().to_owned());
                RemoteEvent::Finished(Box::new(ExecutionReport::new(run, status)))
            }
            Self::Fetch(id) => RemoteEvent::Fetched { id, outcome: why.outcome() },
            Self::Stage(run) => RemoteEvent::Staged { run, outcome: why.staging_outcome() },
            Self::Publish(run) => RemoteEvent::Published { run, outcome: Err(why.text().to_owned()) },
            Self::Check(id) => RemoteEvent::Checked { id, missing: Err(why.text().to_owned()) },
            Self::Upload(run) => RemoteEvent::Uploaded { run, error: Some(why.text().to_owned()) },
        }
    }
}

/// Why work did not come to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unfinished {
    /// It was cancelled.
    Stopped,
    /// A mistake of this program.
    Panicked,
    /// There are no threads for it.
    NoThreads,
}

impl Unfinished {
    fn text(self) -> &'static str {
        match self {
            Self::Stopped => "the remote side was shut down",
            Self::Panicked => "bug: work for the remote side panicked",
            Self::NoThreads => "the threads of the remote side could not be started",
        }
    }

    fn staging_outcome(self) -> StagingOutcome {
        match self {
            Self::Stopped => StagingOutcome::Stopped,
            Self::Panicked | Self::NoThreads => StagingOutcome::Disk(self.text().to_owned()),
        }
    }

    fn outcome(self) -> FetchOutcome {
        match self {
            Self::Stopped => FetchOutcome::Stopped,
            Self::Panicked | Self::NoThreads => FetchOutcome::Disk(self.text().to_owned()),
        }
    }
}

/// The answer to one request: the first one given counts.
pub(crate) struct Answer {
    request: Request,
    sink: Sink,
    is_given: AtomicBool,
}

impl Answer {
    pub(crate) fn new(request: Request, sink: Sink) -> Arc<Self> {
        Arc::new(Self { request, sink, is_given: AtomicBool::new(false) })
    }

    /// Answers, unless that was done before.
    pub(crate) fn give(&self, event: RemoteEvent) {
        if !self.is_given.swap(true, Ordering::AcqRel) {
            (self.sink)(event);
        }
    }

    /// Answers that the work was not done.
    pub(crate) fn give_up(&self, why: Unfinished) {
        self.give(self.request.unfinished(&why));
    }

    /// Says what a run does now, as long as it has no answer.
    pub(crate) fn stage(&self, stage: RemoteStage) {
        if let (Request::Run(run), false) = (self.request, self.is_given.load(Ordering::Acquire)) {
            (self.sink)(RemoteEvent::Stage { run, stage });
        }
    }

    /// Tells the user something.
    pub(crate) fn tell(&self, level: Level, text: String) {
        (self.sink)(RemoteEvent::Message { level, text });
    }
}

/// The duty to answer.
pub(crate) struct Ticket(pub(crate) Arc<Answer>);

impl Drop for Ticket {
    fn drop(&mut self) {
        let why = if std::thread::panicking() { Unfinished::Panicked } else { Unfinished::Stopped };
        self.0.give_up(why);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use minibuild_core::ActionId;

    use super::*;

    fn run() -> RunId {
        RunId { action: ActionId::new(0), attempt: 3 }
    }

    fn log() -> (Sink, Arc<Mutex<Vec<String>>>) {
        let log = Arc::new(Mutex::new(Vec::new()));
        let sink = {
            let log = Arc::clone(&log);
            Arc::new(move |event| log.lock().expect("not poisoned").push(format!("{event:?}")))
        };
        (sink, log)
    }

    #[test]
    fn the_first_answer_counts_and_stages_end_with_it() {
        let (sink, log) = log();
        let answer = Answer::new(Request::Run(run()), sink);
        answer.stage(RemoteStage::Queued);
        answer.give_up(Unfinished::Stopped);
        answer.stage(RemoteStage::Running);
        answer.give(RemoteEvent::Uploaded { run: run(), error: None });
        drop(Ticket(answer));
        let log = log.lock().expect("not poisoned");
        assert_eq!(log.len(), 2, "{log:?}");
        assert!(log[0].contains("Queued") && log[1].contains("shut down"), "{log:?}");
    }

    #[test]
    fn dropped_tickets_answer_for_themselves() {
        let requests = [
            Request::LookUp(run()),
            Request::Run(run()),
            Request::Fetch(FetchId(7)),
            Request::Stage(run()),
            Request::Publish(run()),
            Request::Upload(run()),
            Request::Check(CheckId(3)),
        ];
        let (sink, log) = log();
        for request in requests {
            drop(Ticket(Answer::new(request, Arc::clone(&sink))));
            let ticket = Ticket(Answer::new(request, Arc::clone(&sink)));
            let panics = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
                let _held = ticket;
                panic!("on purpose");
            }));
            assert!(panics.is_err());
        }
        let log = log.lock().expect("not poisoned");
        let expected = ["shut down", "bug", "shut down", "bug", "Stopped", "bug", "Stopped", "bug", "shut down", "bug"];
        let expected = expected.into_iter().chain(["shut down", "bug", "shut down", "bug"]).collect::<Vec<_>>();
        assert_eq!(log.len(), expected.len());
        for (text, part) in log.iter().zip(expected) {
            assert!(text.contains(part), "{text} lacks {part}");
        }
    }
}
