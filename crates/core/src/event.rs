//! Events of one build: what `--events` writes, and what console and profile are made of.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use crate::Digest;

/// One output in an event.
#[derive(Clone, Debug, Serialize)]
pub struct OutputEvent {
    /// Workspace-relative path.
    pub path: String,
    /// `file`, `directory` or `symlink`.
    pub kind: OutputKind,
    /// Digest of the content; of a tree the canonical root Directory's; of a symlink its target text's.
    pub digest: Digest,
    /// Size in bytes; of a tree the sum of its files.
    pub size: u64,
    /// Whether it is on disk (only in `target_completed`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub present: Option<bool>,
}

/// What an output is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OutputKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
}

/// Who made an action's result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Runner {
    /// Nobody had to.
    UpToDate,
    /// The disk cache.
    DiskCache,
    /// A remote cache.
    RemoteCache,
    /// This machine.
    Local,
    /// A remote worker.
    Remote,
}

/// A side of an action's execution.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Branch {
    /// This machine.
    Local,
    /// A remote worker or cache.
    Remote,
}

/// How a branch ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BranchOutcome {
    /// Its result is the action's.
    Won,
    /// The other branch's is.
    Lost,
    /// It failed.
    Failed,
    /// Stopped by an interrupt or because another action failed.
    Stopped,
}

/// Urgency of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// For information.
    Info,
    /// Something is odd; the build goes on.
    Warning,
    /// Something failed.
    Error,
}

impl Level {
    /// The word that a message of this level begins with on a terminal.
    pub fn word(self) -> &'static str {
        match self {
            Self::Info => "INFO",
            Self::Warning => "WARNING",
            Self::Error => "ERROR",
        }
    }
}

/// How a test ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum TestStatus {
    /// Exit code 0.
    Passed,
    /// Any other end.
    Failed,
    /// Killed after its timeout.
    Timeout,
    /// Passed earlier with the same key; not run.
    Cached,
}

/// Why a file was downloaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DownloadReason {
    /// Output of a requested target.
    Toplevel,
    /// Input of a local action.
    Input,
    /// `--download=all`.
    All,
    /// `--download-regex`.
    Regex,
    /// Output of a failed action.
    Failed,
    /// `minibuild run`.
    Run,
    /// `minibuild fetch`.
    Fetch,
    /// A test's log.
    Log,
}

/// Counts of actions by what became of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ActionCounts {
    /// All that were looked at.
    pub total: u64,
    /// Not run: result known.
    pub up_to_date: u64,
    /// Served by the disk cache.
    pub disk_cache: u64,
    /// Served by a remote cache.
    pub remote_cache: u64,
    /// Run here.
    pub local: u64,
    /// Run remotely.
    pub remote: u64,
    /// Failed, wherever.
    pub failed: u64,
}

/// What came down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DownloadCounts {
    /// Output files materialised from a remote endpoint, each path once.
    pub files: u64,
    /// Their bytes on the wire's uncompressed side.
    pub bytes: u64,
    /// Materialised from a blob that was on this disk already.
    pub files_copied: u64,
}

/// What went up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct UploadCounts {
    /// Blobs.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// How races went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RaceCounts {
    /// Actions that ran on both sides.
    pub run: u64,
    /// Local's result stood.
    pub local_won: u64,
    /// Remote's result stood.
    pub remote_won: u64,
    /// Milliseconds of local work thrown away.
    pub wasted_local_ms: u64,
    /// Milliseconds of remote work thrown away.
    pub wasted_remote_ms: u64,
}

/// One event. Fields may be added, never renamed.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum BuildEvent {
    /// The first event.
    BuildStarted {
        /// Unique id of this invocation.
        build_id: String,
        /// `build`, `test` or `run`.
        command: String,
        /// Patterns as given.
        patterns: Vec<String>,
        /// Options that differ from their defaults.
        options: Vec<String>,
    },
    /// An action is about to be carried out.
    ActionStarted {
        /// Its id: the path of its first output, or of its log.
        action: String,
        /// Its target.
        label: String,
        /// Its mnemonic.
        mnemonic: String,
    },
    /// One side starts on an action.
    BranchStarted {
        /// Action id.
        action: String,
        /// Which side.
        branch: Branch,
        /// Why this side, now.
        reason: String,
    },
    /// One side is done with an action.
    BranchFinished {
        /// Action id.
        action: String,
        /// Which side.
        branch: Branch,
        /// How it ended.
        outcome: BranchOutcome,
        /// Milliseconds it took.
        ms: u64,
    },
    /// An action's result is known.
    ActionCompleted {
        /// Action id.
        action: String,
        /// Its target.
        label: String,
        /// Its mnemonic.
        mnemonic: String,
        /// Whether it succeeded.
        success: bool,
        /// Who made the result.
        runner: Runner,
        /// Exit code of the command; 128 + signal where one ended it.
        exit_code: i32,
        /// Milliseconds of wall time.
        wall_ms: u64,
        /// Why it ran, or why not.
        reason: String,
        /// What it made.
        outputs: Vec<OutputEvent>,
    },
    /// A file is on disk that was not.
    FileDownloaded {
        /// Workspace-relative path.
        path: String,
        /// Its digest.
        digest: Digest,
        /// Bytes.
        size: u64,
        /// Why.
        why: DownloadReason,
        /// Its bytes were copied from another place on this machine.
        copied: bool,
    },
    /// A test has a verdict.
    TestCompleted {
        /// Its target.
        label: String,
        /// The verdict.
        status: TestStatus,
        /// Which run of it, from 1.
        attempt: u32,
        /// Milliseconds.
        ms: u64,
        /// Path of its log.
        log: String,
    },
    /// Something to tell the user.
    Message {
        /// How urgent.
        level: Level,
        /// The text.
        text: String,
    },
    /// A requested target is done and its files are where the download mode wants them.
    TargetCompleted {
        /// Its label.
        label: String,
        /// Whether all of it succeeded.
        success: bool,
        /// What it stands for.
        outputs: Vec<OutputEvent>,
    },
    /// The last event, also after an error or an interrupt.
    BuildFinished {
        /// Exit code of the process.
        exit_code: i32,
        /// Whether it is 0.
        success: bool,
        /// Milliseconds of wall time.
        wall_ms: u64,
        /// Milliseconds along the longest chain of actions that ran.
        critical_path_ms: u64,
        /// Counts of actions.
        actions: ActionCounts,
        /// Counts of downloads.
        downloads: DownloadCounts,
        /// Counts of uploads.
        uploads: UploadCounts,
        /// Counts of races.
        races: RaceCounts,
        /// `used` where the snapshot of an earlier build spared loading, `used after loading: ` with the reason where it spared the
        /// rest, else why it did not.
        #[serde(skip_serializing_if = "str::is_empty")]
        snapshot: Cow<'static, str>,
    },
}
