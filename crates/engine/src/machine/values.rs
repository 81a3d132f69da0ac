//! What goes into the machine and what comes out of it. Values only.

use std::time::Duration;

use minibuild_core::{
    ActionCounts, ArtifactId, Branch, BuildEvent, CacheLookup, Content, Digest, DigestFunction, DownloadCounts,
    ExecutionRequest, ExecutorEvent, ExistenceCheck, FetchId, FetchRequest, Fingerprint, HostToolId, Kept, RaceCounts,
    RemoteEvent, RemoteRequest, RemoteStage, RunId, StagingRequest, StopReason, StoreCheck, StoreEvent, TestStatus,
    UploadCounts, UploadRequest, Urgency, WsPath,
};
use minibuild_dynamic::policy::Running;
use minibuild_graph::HostToolFact;
use rustc_hash::{FxHashMap, FxHashSet};

use crate::state::FileRecord;
use crate::tools::UnknownVersion;

/// A source file as it was found.
#[derive(Clone, Debug)]
pub struct SourceFact {
    /// What it holds.
    pub content: Content,
    /// Under which fingerprint that was read.
    pub fingerprint: Fingerprint,
    /// For a symlink, and a file behind one: links on the way and what they lead to, transitively, inside the workspace.
    pub behind: Vec<(WsPath, Content, Fingerprint)>,
    /// A directory above its path is a symlink, so that it lies elsewhere: `behind` has it.
    pub is_moved: bool,
}

impl SourceFact {
    /// A regular file that no symlink leads to.
    pub fn file(content: Content, fingerprint: Fingerprint) -> Self {
        Self { content, fingerprint, behind: Vec::new(), is_moved: false }
    }
}

/// What was found on disk before the build.
#[derive(Debug, Default)]
pub struct World {
    /// Source files; `Err` says why one cannot be used.
    pub sources: FxHashMap<ArtifactId, Result<SourceFact, String>>,
    /// What lies where outputs will be, if anything, with its fingerprint (zero for directories).
    pub outputs: FxHashMap<ArtifactId, (Content, Fingerprint)>,
    /// Outputs at whose places something lies that no record describes, is of another kind, or cannot be read.
    pub foreign: FxHashSet<ArtifactId>,
    /// Host tools; `Err` says why one cannot be used.
    pub tools: FxHashMap<HostToolId, Result<HostToolFact, UnknownVersion>>,
}

/// Something that happened.
#[derive(Debug)]
pub enum Event {
    /// The build begins.
    Begin,
    /// The local executor tells something.
    Executor(ExecutorEvent),
    /// The remote side does.
    Remote(RemoteEvent),
    /// A store of this machine does.
    Store(StoreEvent),
    /// The answer to [`Step::Rehash`].
    Rehashed {
        /// Of which file.
        path: WsPath,
        /// What it holds now, or why it cannot be read.
        found: Result<FileRecord, String>,
    },
    /// The answer to [`Step::SetAside`].
    SetAside {
        /// As it was named.
        run: RunId,
        /// Why something may still lie there.
        problem: Option<String>,
    },
    /// It is as late as [`super::Machine::wake_at`] says.
    Wake,
    /// Ctrl-C, SIGTERM or SIGHUP.
    Interrupt,
}

/// Something the driver has to do.
#[derive(Debug)]
pub enum Step {
    /// Hand a request to the local executor.
    Start(Box<ExecutionRequest>),
    /// Stop a local run.
    Stop(RunId, StopReason),
    /// Ask the action cache.
    LookUp(Box<CacheLookup>),
    /// Ask which blobs lie in a store here.
    CheckStores(StoreCheck),
    /// Ask the disk cache.
    LookUpHere(Box<CacheLookup>),
    /// Store a local result in the disk cache.
    Store(Box<UploadRequest>),
    /// Have the disk cache know the result under one key under another, too.
    StoreSame {
        /// Under which it has it, perhaps.
        known: Digest,
        /// The other.
        key: Digest,
    },
    /// Move away what lies at an output's place, to have it later.
    Keep(Box<Kept>),
    /// Hand a request to the remote executor.
    StartRemote(Box<RemoteRequest>),
    /// Stop a remote run.
    StopRemote(RunId, StopReason),
    /// Bring outputs of a remote result near their places.
    Stage(Box<StagingRequest>),
    /// Give that up.
    StopStaging(RunId),
    /// Rename what was staged as `staged` to its places.
    Publish {
        /// Names the answer.
        run: RunId,
        /// Under which name it was staged.
        staged: RunId,
    },
    /// What was staged is not needed.
    Unstage(RunId),
    /// What was staged is complete, and not needed now.
    KeepStaged(RunId),
    /// Move away whatever lies at these places, all of them tried. Answered by one [`Event::SetAside`].
    SetAside(RunId, Vec<WsPath>),
    /// Bring an output here.
    Fetch(Box<FetchRequest>),
    /// A fetch under way is needed sooner.
    Hurry(FetchId, Urgency),
    /// Give up all fetches.
    StopFetches,
    /// Ask what the store has.
    Check(Box<ExistenceCheck>),
    /// Ask servers that were given up for a sign of life.
    Probe,
    /// Store a local result in the caches.
    Upload(Box<UploadRequest>),
    /// Read a source again, which changed since it was looked at. Answered by one [`Event::Rehashed`].
    Rehash(WsPath),
    /// Tell everybody.
    Emit(BuildEvent),
    /// Show what an action printed, or how it failed.
    Show(Box<Shown>),
    /// Move away what lies at an output's place and is not its content.
    Discard(WsPath),
    /// Delete what lies at an output's place and could not be moved away.
    Delete(WsPath),
    /// Write a test's log.
    WriteLog(WsPath, LogText),
    /// The build is over.
    Finish(Outcome),
}

/// What a test printed.
#[derive(Debug)]
pub enum LogText {
    /// All of it.
    Bytes(Vec<u8>),
    /// The files that it lies in; they become the log.
    Files(Vec<WsPath>),
}

/// An action's block on the console.
#[derive(Debug)]
pub struct Shown {
    /// Its target.
    pub label: String,
    /// Its mnemonic.
    pub mnemonic: String,
    /// Set when it failed: what happened, as a sentence.
    pub failure: Option<String>,
    /// Its command and environment.
    pub command: minibuild_core::CommandLine,
    /// Its standard output, or an excerpt: see `whole_output`.
    pub stdout: Vec<u8>,
    /// Its standard error, likewise.
    pub stderr: Vec<u8>,
    /// Where output is too long: the files with all of it.
    pub whole_output: Vec<WsPath>,
    /// Whether it is a test.
    pub test: Option<TestStatus>,
}

/// How a build ended.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcome {
    /// An action that is no test failed, or could not be run.
    pub failed: bool,
    /// A test failed.
    pub tests_failed: bool,
    /// The user interrupted it.
    pub interrupted: bool,
    /// Bytes could not be brought back, however often their producer ran.
    pub lost: bool,
    /// The build came to nothing because the server's digests are of this function: it has to be begun anew with it.
    pub other_function: Option<DigestFunction>,
    /// The remote side failed where nothing else could take its place.
    pub remote_failed: bool,
    /// Something of minibuild itself is wrong.
    pub internal: Option<String>,
    /// Counts.
    pub counts: ActionCounts,
    /// What came down.
    pub downloads: DownloadCounts,
    /// What went up; the driver's to fill in.
    pub uploads: UploadCounts,
    /// How races went.
    pub races: RaceCounts,
    /// Cache look-ups and uploads that went wrong.
    pub cache_errors: u64,
    /// Along the longest chain of actions that ran.
    pub critical_path: Duration,
    /// How soon the remote cache answers, where it was asked, in seconds.
    pub answer: Option<Running>,
}

/// An action that runs, for a progress display.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunningAction {
    /// Its target.
    pub label: String,
    /// Its mnemonic.
    pub mnemonic: String,
    /// When it began, since the start of the build.
    pub since: Duration,
    /// Where it runs.
    pub side: Branch,
    /// What the remote side does for it.
    pub stage: Option<RemoteStage>,
}

/// How much of how much.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Share {
    /// What is done.
    pub done: u64,
    /// All of it.
    pub all: u64,
}

/// Counts for a progress display.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// All wanted actions.
    pub total: u64,
    /// Those whose result is known, failed ones included.
    pub done: u64,
    /// Those that run.
    pub running: u64,
    /// Those that could run.
    pub queued: u64,
    /// Outputs on their way here.
    pub fetching: u64,
    /// Files of fetches begun so far, those that are done among them.
    pub files: Share,
    /// Their bytes.
    pub bytes: Share,
    /// Bytes that came from the remote store so far; the driver's to fill in.
    pub received: u64,
    /// Results on their way to the caches.
    pub uploading: u64,
}
