//! The port of stores on this machine: what is asked of whoever keeps blobs and results for later.
//!
//! Values only. What is asked for is answered by one [`StoreEvent`] later; what is kept or stored is not answered.

use std::sync::Arc;

use crate::{
    CacheAnswer, CacheLookup, Content, Digest, FetchId, FetchOutcome, FetchRequest, Fingerprint, Level, RunId,
    UploadRequest, WsPath,
};

/// Asks which blobs lie in a store here, and has them count as used. Answered by [`StoreEvent::Checked`].
#[derive(Clone, Debug)]
pub struct StoreCheck {
    /// Names the answer.
    pub run: RunId,
    /// The blobs.
    pub digests: Vec<Digest>,
}

/// An output that is about to go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Where it lies, workspace-relative.
    pub path: WsPath,
    /// What it was known to hold.
    pub content: Content,
    /// Under this fingerprint; of directories it says nothing.
    pub fingerprint: Fingerprint,
}

/// What stores tell.
#[derive(Debug)]
pub enum StoreEvent {
    /// The answer to [`StoreSide::look_up`].
    LookedUp {
        /// Of which run.
        run: RunId,
        /// What was found. A cache that fails has been told of by a message, and knows nothing.
        answer: CacheAnswer,
    },
    /// The answer to a [`StoreCheck`].
    Checked {
        /// As it was named.
        run: RunId,
        /// The blobs that are not there.
        missing: Vec<Digest>,
    },
    /// A [`FetchRequest`] is over.
    Fetched {
        /// Which fetch.
        id: FetchId,
        /// How it ended.
        outcome: FetchOutcome,
    },
    /// The stores lack some of a [`FetchRequest`]; nothing was done.
    NotHere(Box<FetchRequest>),
    /// Something to tell the user.
    Message {
        /// How urgent.
        level: Level,
        /// The text.
        text: String,
    },
}

/// Where a store's events go. Called from any thread; never waits.
pub type StoreSink = Arc<dyn Fn(StoreEvent) + Send + Sync>;

/// Someone who keeps blobs, and perhaps results, on this machine.
///
/// 1. No method but `shutdown` waits for more than a rename, and nothing is opened before the first call.
/// 2. Each look-up, check and fetch is answered by exactly one event.
/// 3. After the answer to a fetch nothing of it is written any more.
pub trait StoreSide: Send {
    /// Asks the disk cache for a result.
    fn look_up(&self, lookup: CacheLookup);
    /// Asks for blobs.
    fn check(&self, check: StoreCheck);
    /// Brings an output to its place, if all of it is here.
    fn fetch(&self, request: FetchRequest);
    /// Gives up what waits.
    fn stop_fetches(&self);
    /// Stores a local result in the disk cache, some time before the end.
    fn store(&self, request: UploadRequest);
    /// What the disk cache has under `known`, if anything, it is to have under `key`, too.
    fn store_same(&self, known: Digest, key: Digest);
    /// Moves an output away that is about to be replaced or removed, to have it later; it is away if this says true.
    fn keep(&self, output: &Kept) -> bool;
    /// Ends threads; what waits to be stored still is, unless `is_hurried`.
    fn shutdown(&mut self, is_hurried: bool);
}
