//! What happens to actions and transfers, for whoever keeps an account of time. Values only.

use minibuild_core::{ActionId, Branch, FetchId, RemoteStage, RunId, WsPath};

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
