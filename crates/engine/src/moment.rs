//! What happens to actions and transfers, for whoever keeps an account of time.

use minibuild_core::{ActionId, Branch, ExecutorEvent, FetchId, RemoteEvent, RemoteStage, RunId, WsPath};

use crate::machine::{Event, Step};

/// What an action waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Wait {
    /// A cache's answer.
    LookUp,
    /// A place.
    Queued,
    /// Its inputs' bytes.
    Inputs,
    /// A source that is read again.
    Rehash,
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Moment {
    /// The workspace was looked at; the build begins.
    Begun,
    /// An action waits for this from now on, or for nothing any more.
    Waits(ActionId, Option<Wait>),
    /// A run starts.
    RunStarted(RunId, Branch),
    /// The remote side is at this.
    Stage(RunId, RemoteStage),
    /// A run is over.
    RunEnded(RunId, Branch),
    /// An output is fetched.
    FetchStarted(FetchId, WsPath),
    /// A fetch is over.
    FetchEnded(FetchId),
    /// A result is stored in the caches.
    UploadStarted(RunId),
    /// That is over.
    UploadEnded(RunId),
}

impl Moment {
    /// What an event says.
    pub(crate) fn of(event: &Event) -> Option<Self> {
        Some(match event {
            Event::Begin => Self::Begun,
            Event::Executor(ExecutorEvent::Finished(report)) => Self::RunEnded(report.run, Branch::Local),
            Event::Remote(RemoteEvent::Finished(report)) => Self::RunEnded(report.run, Branch::Remote),
            Event::Remote(RemoteEvent::Stage { run, stage }) => Self::Stage(*run, *stage),
            Event::Remote(RemoteEvent::Fetched { id, .. }) => Self::FetchEnded(*id),
            Event::Remote(RemoteEvent::Uploaded { run, .. }) => Self::UploadEnded(*run),
            _ => return None,
        })
    }

    /// What a step begins.
    pub(crate) fn of_step(step: &Step) -> Option<Self> {
        Some(match step {
            Step::Start(request) => Self::RunStarted(request.run, Branch::Local),
            Step::StartRemote(request) => Self::RunStarted(request.run, Branch::Remote),
            Step::Fetch(request) => Self::FetchStarted(request.id, request.path.clone()),
            Step::Upload(request) => Self::UploadStarted(request.run),
            _ => return None,
        })
    }
}
