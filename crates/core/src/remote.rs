//! The port of remote sides: what is asked of whoever looks actions up, runs them elsewhere, and brings bytes.
//!
//! Values only. Whoever takes the requests never makes the caller wait: each request is answered by exactly one
//! [`RemoteEvent`] later, whatever happens.

use std::sync::Arc;
use std::time::Duration;

use crate::{
    ActionId, Content, DeclaredOutput, Digest, DigestFunction, ExecutionReport, Fingerprint, FoundOutput, Level, RunId,
    Stamp, WsPath,
};

/// Whose work a call is, for `RequestMetadata` and messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requester {
    /// Label of the target.
    pub label: String,
    /// Mnemonic of the action.
    pub mnemonic: String,
    /// Digest of the `Action`.
    pub key: Digest,
}

/// A blob that a server may need.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blob {
    /// What it is.
    pub digest: Digest,
    /// Where its bytes are.
    pub source: BlobSource,
}

/// Where the bytes of a blob are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BlobSource {
    /// Here.
    Bytes(Arc<[u8]>),
    /// In a file, opened with symlinks followed.
    File {
        /// Workspace-relative.
        path: WsPath,
        /// Under which the digest was taken: equal before and after reading, the bytes are those of the digest.
        /// `None` where they have to be hashed again to know.
        fingerprint: Option<Fingerprint>,
    },
    /// Nowhere here: only servers are believed to have it.
    Elsewhere,
}

/// Asks the action cache. Answered by [`RemoteEvent::LookedUp`].
#[derive(Clone, Debug)]
pub struct CacheLookup {
    /// Names the answer.
    pub run: RunId,
    /// Whose work it is; `key` is looked up.
    pub who: Requester,
    /// What a usable result has to have, with these kinds.
    pub outputs: Vec<DeclaredOutput>,
    /// The depfile a usable result has to have; its bytes come with the report.
    pub depfile: Option<WsPath>,
}

/// What a cache knows of an action.
#[derive(Clone, Debug)]
pub enum CacheAnswer {
    /// A usable result: status `Exited(0)`, outputs without stamps, logs and depfile with their bytes.
    Hit(Box<ExecutionReport>),
    /// Nothing usable.
    Miss,
    /// It could not be asked; says why. Counted and otherwise like a miss.
    Failed(String),
}

/// Runs an action remotely. Answered by [`RemoteEvent::Finished`].
#[derive(Clone, Debug)]
pub struct RemoteRequest {
    /// Its name in reports and stops.
    pub run: RunId,
    /// Whose work it is; `key` is executed.
    pub who: Requester,
    /// Everything the server needs: `Action`, `Command`, `Directory` messages, files. Each digest once.
    pub blobs: Vec<Blob>,
    /// What it must make.
    pub outputs: Vec<DeclaredOutput>,
    /// A make-style dependency file it writes; read into the report.
    pub depfile: Option<WsPath>,
    /// Platform properties, for notices.
    pub platform: Vec<(String, String)>,
    /// Whether the server has to run it even if it knows a result.
    pub skip_cache_lookup: bool,
}

/// What a remote action does now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RemoteStage {
    /// Asks a cache.
    CheckingCache,
    /// Sends blobs: how many of how many.
    Uploading(u64, u64),
    /// Waits for a worker.
    Queued,
    /// A worker runs it.
    Running,
    /// Its outputs are brought here.
    Downloading,
}

/// Names one fetch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FetchId(pub u64);

/// How urgent a fetch is; greater is sooner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Urgency {
    /// Nobody waits for it.
    Background,
    /// A requested target waits for it.
    Toplevel,
    /// An action waits for it.
    Input,
}

/// Brings one output to its place: staged, every byte hashed on the way, then renamed over whatever lies there.
/// Answered by [`RemoteEvent::Fetched`].
#[derive(Clone, Debug)]
pub struct FetchRequest {
    /// Names the answer.
    pub id: FetchId,
    /// The action that made it.
    pub producer: ActionId,
    /// Workspace-relative.
    pub path: WsPath,
    /// What it is.
    pub content: Content,
    /// How soon.
    pub urgency: Urgency,
    /// Blobs of it that are in files here already, to be copied instead.
    pub here: Vec<Blob>,
    /// Whose work it is.
    pub who: Requester,
}

/// Files whose bytes were here already, or came for another file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Copied {
    /// How many.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl std::ops::AddAssign for Copied {
    fn add_assign(&mut self, other: Self) {
        self.files += other.files;
        self.bytes += other.bytes;
    }
}

/// How a fetch ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FetchOutcome {
    /// It is in its place.
    Done {
        /// As of [`FoundOutput::stamps`].
        stamps: Vec<Stamp>,
        /// What needed no transfer of its own.
        copied: Copied,
    },
    /// The server lost these blobs, or has something else under their names.
    Lost {
        /// The blobs.
        digests: Vec<Digest>,
        /// What was seen.
        why: String,
    },
    /// The server cannot be reached, or refuses: whether it has them is not known.
    Unreachable(String),
    /// It was stopped.
    Stopped,
    /// This machine could not take it: disk full, no permission.
    Disk(String),
}

/// Brings outputs of a remote result near their places, privately: every byte hashed on the way, complete, and where
/// nobody looks. Answered by [`RemoteEvent::Staged`]; what was staged is then published or given up.
#[derive(Clone, Debug)]
pub struct StagingRequest {
    /// Names the answer, and what was staged.
    pub run: RunId,
    /// What to bring.
    pub outputs: Vec<StagedOutput>,
    /// Whose work it is.
    pub who: Requester,
}

/// One output that is staged.
#[derive(Clone, Debug)]
pub struct StagedOutput {
    /// Where it will be, workspace-relative.
    pub path: WsPath,
    /// What it is.
    pub content: Content,
    /// Blobs of it that are in files here already, to be copied instead.
    pub here: Vec<Blob>,
}

/// How staging ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StagingOutcome {
    /// All is there, verified.
    Done,
    /// The server lost these blobs, or has something else under their names.
    Lost {
        /// The blobs.
        digests: Vec<Digest>,
        /// What was seen.
        why: String,
    },
    /// The server cannot be reached, or refuses: whether it has them is not known.
    Unreachable(String),
    /// It was stopped.
    Stopped,
    /// This machine could not take it.
    Disk(String),
}

/// An output that was put in its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishedOutput {
    /// Its place.
    pub path: WsPath,
    /// As of [`FoundOutput::stamps`].
    pub stamps: Vec<Stamp>,
    /// What of it needed no transfer of its own.
    pub copied: Copied,
}

/// Names one existence check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CheckId(pub u64);

/// Asks which blobs the store lacks, and by that keeps the others alive there. Answered by [`RemoteEvent::Checked`].
#[derive(Clone, Debug)]
pub struct ExistenceCheck {
    /// Names the answer.
    pub id: CheckId,
    /// The blobs.
    pub digests: Vec<Digest>,
    /// Whose work it is.
    pub who: Requester,
}

/// Stores the result of a local run in the caches, blobs first. Answered by [`RemoteEvent::Uploaded`].
#[derive(Clone, Debug)]
pub struct UploadRequest {
    /// Names the answer.
    pub run: RunId,
    /// Whose work it is; the result is stored under `key`.
    pub who: Requester,
    /// `Action` and `Command`.
    pub blobs: Vec<Blob>,
    /// What the run made.
    pub outputs: Vec<FoundOutput>,
    /// The depfile with its bytes; part of the result.
    pub depfile: Option<(WsPath, Arc<[u8]>)>,
    /// Standard output, all of it.
    pub stdout: Arc<[u8]>,
    /// Standard error.
    pub stderr: Arc<[u8]>,
    /// How long the run took.
    pub wall: std::time::Duration,
}

/// What a remote side tells.
#[derive(Clone, Debug)]
pub enum RemoteEvent {
    /// The answer to a [`CacheLookup`].
    LookedUp {
        /// Of which run.
        run: RunId,
        /// What was found.
        answer: CacheAnswer,
        /// How long the call took, connecting aside.
        took: Duration,
    },
    /// A run goes on.
    Stage {
        /// Which run.
        run: RunId,
        /// What it does now.
        stage: RemoteStage,
    },
    /// A [`RemoteRequest`] is over.
    Finished(Box<ExecutionReport>),
    /// A [`FetchRequest`] is over.
    Fetched {
        /// Which fetch.
        id: FetchId,
        /// How it ended.
        outcome: FetchOutcome,
    },
    /// A [`StagingRequest`] is over; nothing of it is written any more.
    Staged {
        /// Of which run.
        run: RunId,
        /// How it ended.
        outcome: StagingOutcome,
    },
    /// The answer to [`RemoteSide::publish`].
    Published {
        /// As it was named.
        run: RunId,
        /// What lies in its place now; or what went wrong, with which nothing further was put anywhere.
        outcome: Result<Vec<PublishedOutput>, String>,
    },
    /// The answer to an [`ExistenceCheck`].
    Checked {
        /// Which check.
        id: CheckId,
        /// The blobs that are missing, or why the store could not be asked.
        missing: Result<Vec<Digest>, String>,
    },
    /// A server was given up for now, or serves again; told once each time.
    Outage {
        /// Its address.
        server: String,
        /// Whether it cannot be used.
        is_open: bool,
    },
    /// An [`UploadRequest`] is over.
    Uploaded {
        /// Of which run.
        run: RunId,
        /// What went wrong, if anything.
        error: Option<String>,
    },
    /// The server lacks the function of all digests, has this one, and the configuration leaves the choice to it.
    OtherFunction(DigestFunction),
    /// Something to tell the user: an outage, its end, an action that waits long for a worker.
    Message {
        /// How urgent.
        level: Level,
        /// The text.
        text: String,
    },
}

/// Where a remote side's events go. Called from any thread; never waits.
pub type RemoteSink = Arc<dyn Fn(RemoteEvent) + Send + Sync>;

/// Someone who looks actions up, runs them elsewhere, and brings bytes.
///
/// 1. No method but `shutdown` waits, and nothing is connected before the first request.
/// 2. Each request is answered by exactly one event, whatever happens, also after a stop.
/// 3. After a `Fetched` nothing of that fetch is written any more; one that was stopped left its place as it was.
/// 4. A stop for a run that is over is ignored. A stopped run may go on elsewhere, but nothing of it is told here.
/// 5. How much is under way at once is the side's affair, but for runs: whoever starts them counts them.
pub trait RemoteSide: Send {
    /// Asks the action cache.
    fn look_up(&self, lookup: CacheLookup);
    /// Begins a run.
    fn start(&self, request: RemoteRequest);
    /// Gives a run up.
    fn stop(&self, run: RunId, reason: crate::StopReason);
    /// Brings an output here.
    fn fetch(&self, request: FetchRequest);
    /// Makes a fetch more urgent; one that is over or has begun to transfer stays as it is.
    fn hurry(&self, fetch: FetchId, urgency: Urgency);
    /// Gives all fetches up.
    fn stop_fetches(&self);
    /// Brings outputs near their places.
    fn stage(&self, request: StagingRequest);
    /// Gives a staging up; blobs that others share still come.
    fn stop_staging(&self, run: RunId);
    /// Puts what was staged as `staged` in its places, one rename each, over whatever lies there.
    fn publish(&self, run: RunId, staged: RunId);
    /// What was staged under this name is not needed.
    fn unstage(&self, staged: RunId);
    /// The same, but what is complete may be of use later.
    fn keep_staged(&self, staged: RunId) {
        self.unstage(staged);
    }
    /// Asks what the store has; nothing that was seen earlier in the build is taken for an answer.
    fn check(&self, check: ExistenceCheck);
    /// Asks servers that were given up for a sign of life; answered by nothing but [`RemoteEvent::Outage`].
    fn probe(&self);
    /// Stores the result of a local run.
    fn upload(&self, request: UploadRequest);
    /// Blobs and bytes sent so far, inputs of runs included.
    fn transfer_counts(&self) -> crate::UploadCounts;
    /// Bytes that came from the store so far, messages and all: for a display of how fast.
    fn received(&self) -> u64;
    /// Ends connections and threads; what is under way is given up.
    fn shutdown(&mut self);
}
