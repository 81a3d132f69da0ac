//! The port of executors: what is asked of whoever runs commands, and the report they give.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{ActionId, ArtifactKind, CommandLine, Digest, OutputKind, WsPath};

/// What identifies the state of a file without reading it, by one `fstat`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Fingerprint {
    /// Device.
    pub dev: u64,
    /// Inode.
    pub ino: u64,
    /// Size in bytes.
    pub size: u64,
    /// Type and permission bits.
    pub mode: u32,
    /// Modification time, nanoseconds since the epoch.
    pub mtime_ns: i64,
    /// Change time, nanoseconds since the epoch.
    pub ctime_ns: i64,
}

impl Fingerprint {
    /// Whether an equal fingerprint later proves equal content: both times were older than `clock_ns`, the file
    /// system's own clock taken before the content was read, by more than `granularity`.
    pub fn is_trusted(&self, clock_ns: i64, granularity: Duration) -> bool {
        let margin = i64::try_from(granularity.as_nanos()).unwrap_or(i64::MAX);
        self.mtime_ns.max(self.ctime_ns).checked_add(margin).is_some_and(|limit| limit < clock_ns)
    }
}

/// A fingerprint with whether it may be believed later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    /// Taken before and confirmed after the content was read.
    pub fingerprint: Fingerprint,
    /// See [`Fingerprint::is_trusted`].
    pub trusted: bool,
}

/// What is known of one output, whether or not its bytes are here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputMeta {
    /// Workspace-relative path.
    pub path: WsPath,
    /// Content and kind.
    pub content: Content,
}

/// Content of a file system object by digest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Content {
    /// A regular file.
    File {
        /// Of its bytes.
        digest: Digest,
        /// Whether it has its executable bit.
        executable: bool,
    },
    /// A symlink, kept as it is.
    Symlink {
        /// Its text.
        target: String,
    },
    /// A directory with everything below it.
    Directory(Arc<TreeMeta>),
}

/// A directory's whole content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TreeMeta {
    /// Digest of the canonical root `Directory` message.
    pub root: Digest,
    /// Sum of the sizes of all files.
    pub size: u64,
    /// Every entry below the root, sorted by path: files, symlinks and *empty* directories.
    pub entries: Vec<TreeEntry>,
}

impl TreeMeta {
    /// Whether everything in `part` is in this tree, too, and equal; a directory of it may have more below it here.
    pub fn contains(&self, part: &Self) -> bool {
        part.entries.iter().all(|entry| self.has(entry) || self.is_directory(entry))
    }

    /// Whether exactly this entry is in the tree.
    pub fn has(&self, entry: &TreeEntry) -> bool {
        self.entries.binary_search_by(|own| own.path.cmp(&entry.path)).is_ok_and(|at| self.entries[at] == *entry)
    }

    /// Whether the entry is a directory that is one in this tree, too.
    fn is_directory(&self, entry: &TreeEntry) -> bool {
        let below = format!("{}/", entry.path);
        let at = self.entries.partition_point(|own| own.path.as_str() < below.as_str());
        let next = self.entries.get(at);
        entry.node == TreeNode::EmptyDirectory && next.is_some_and(|own| own.path.as_str().starts_with(&below))
    }
}

/// One entry of a tree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TreeEntry {
    /// Path relative to the tree's root.
    pub path: WsPath,
    /// What it is.
    pub node: TreeNode,
}

impl TreeEntry {
    /// The digest of a file.
    pub fn blob(&self) -> Option<Digest> {
        match self.node {
            TreeNode::File { digest, .. } => Some(digest),
            TreeNode::Symlink { .. } | TreeNode::EmptyDirectory => None,
        }
    }
}

/// What an entry of a tree is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TreeNode {
    /// A regular file.
    File {
        /// Of its bytes.
        digest: Digest,
        /// Whether it has its executable bit.
        executable: bool,
    },
    /// A symlink.
    Symlink {
        /// Its text.
        target: String,
    },
    /// A directory with nothing in it.
    EmptyDirectory,
}

impl Content {
    /// Kind, as events say it.
    pub fn kind(&self) -> OutputKind {
        match self {
            Self::File { .. } => OutputKind::File,
            Self::Symlink { .. } => OutputKind::Symlink,
            Self::Directory(_) => OutputKind::Directory,
        }
    }

    /// The blobs that a store needs to give it back. Empty ones need nobody.
    pub fn blobs(&self) -> Vec<Digest> {
        let mut blobs = match self {
            Self::File { digest, .. } => vec![*digest],
            Self::Symlink { .. } => Vec::new(),
            Self::Directory(tree) => tree.entries.iter().filter_map(TreeEntry::blob).collect(),
        };
        blobs.retain(|digest| digest.size > 0);
        blobs
    }

    /// Digest and size, as events say them.
    pub fn digest_and_size(&self) -> (Digest, u64) {
        match self {
            Self::File { digest, .. } => (*digest, digest.size),
            Self::Symlink { target } => {
                let digest = crate::DigestFunction::Sha256.digest(target.as_bytes());
                (digest, digest.size)
            }
            Self::Directory(tree) => (tree.root, tree.size),
        }
    }
}

/// An output found on this disk: its content and the stamps that let a later build skip reading it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundOutput {
    /// What it is.
    pub meta: OutputMeta,
    /// One stamp for a file or symlink; for a directory one for each file and symlink of it, in entry order.
    pub stamps: Vec<Stamp>,
}

/// A declared output of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeclaredOutput {
    /// Workspace-relative path.
    pub path: WsPath,
    /// What it has to be; never [`ArtifactKind::Source`].
    pub kind: ArtifactKind,
}

/// Names one run of one action. A completion whose run is no longer the current one is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RunId {
    /// The action.
    pub action: ActionId,
    /// Counts the runs of that action in this build, from 0.
    pub attempt: u32,
}

/// An input as it went into an action's key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExpectedInput {
    /// Where it lies.
    pub path: WsPath,
    /// What it holds.
    pub content: Content,
    /// Under which fingerprint that was read. One that differs proves no change: a backup by hard links, `touch` and
    /// `chmod` alter the times of a file, but not its content.
    pub fingerprint: Fingerprint,
}

/// A request to run one command.
#[derive(Clone, Debug)]
pub struct ExecutionRequest {
    /// Its name in reports and stops.
    pub run: RunId,
    /// What to run. With an empty `argv` nothing is run: `files` are written (after the declared outputs were
    /// removed), and the declared outputs are captured as after a command that succeeded.
    pub command: CommandLine,
    /// Inputs that are no directories. After the command ended each is looked at again; those whose content differs (or
    /// that are gone) are named in [`ExecutionReport::changed_inputs`].
    pub verify: Vec<ExpectedInput>,
    /// What it must make.
    pub outputs: Vec<DeclaredOutput>,
    /// A make-style dependency file it writes; read into the report.
    pub depfile: Option<WsPath>,
    /// Stopped after this long.
    pub timeout: Option<Duration>,
}

/// Why a run is stopped. Later ones are more urgent; a stop only escalates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum StopReason {
    /// Another action failed, or the first Ctrl-C: SIGTERM, 2 s, SIGKILL.
    Interrupt,
    /// The other branch won: SIGKILL at once.
    LostRace,
    /// The second Ctrl-C: SIGKILL at once.
    Kill,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExecutionStatus {
    /// The command ended by itself with this code. For 0, all declared outputs are there.
    Exited(i32),
    /// A signal ended it.
    Signalled(i32),
    /// It ran longer than allowed and was stopped.
    TimedOut,
    /// Stopped on request; nothing of it may be used.
    Stopped(StopReason),
    /// The command could not be started: program and the operating system's reason.
    NotStarted(String),
    /// It ended with 0, but its outputs are not as declared.
    BadOutputs(Vec<OutputProblem>),
    /// The executor itself failed; says what and where.
    Infrastructure(String),
    /// Processes of it cannot be killed and may go on writing: names them. The one end of a local run after which
    /// something of it may live.
    Stuck(String),
    /// Remotely: inputs that neither the server nor this machine has.
    LostInputs(Vec<Digest>),
}

/// What is wrong with one declared output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutputProblem {
    /// The declared path, or the path below it that is at fault.
    pub path: String,
    /// What is wrong, as the end of a sentence starting with the path.
    pub what: String,
}

/// What a run cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunCost {
    /// From start to the end of the last descendant.
    pub wall: Duration,
    /// User CPU time of the command and its waited-for descendants.
    pub user: Duration,
    /// System CPU time of the same.
    pub system: Duration,
    /// Largest resident set, bytes.
    pub max_rss: u64,
}

/// What an executor tells of one run: always a report, never an `Err`.
#[derive(Clone, Debug)]
pub struct ExecutionReport {
    /// Which run.
    pub run: RunId,
    /// How it ended.
    pub status: ExecutionStatus,
    /// Standard output, or an excerpt: see `whole_output`.
    pub stdout: Vec<u8>,
    /// Standard error, likewise.
    pub stderr: Vec<u8>,
    /// Where output is too long to be kept in memory: the files with all of it, that of standard output before that of standard
    /// error, for whoever takes the report. The next build removes them.
    pub whole_output: Vec<WsPath>,
    /// Outputs as found, in the order declared; all of them if the status is `Exited(0)`. Else, and of remote runs only,
    /// those that are there nevertheless.
    pub outputs: Vec<FoundOutput>,
    /// Content of the depfile where one was declared and exists.
    pub depfile: Option<Vec<u8>>,
    /// Inputs of [`ExecutionRequest::verify`] that are no longer as they were.
    pub changed_inputs: Vec<WsPath>,
    /// Descendants that outlived the command and were killed: pid and command line of each.
    pub killed: Vec<String>,
    /// What it cost.
    pub cost: RunCost,
    /// Whether nothing was run: a cache had the result.
    pub from_cache: bool,
}

/// The exit code of a command that could not be started, as a shell has it: 126 for a file that cannot be run, 127 where
/// there is none. `why` is the text of [`ExecutionStatus::NotStarted`].
pub fn not_started_code(why: &str) -> i32 {
    if why.starts_with("cannot find") || why.contains("no such file") { 127 } else { 126 }
}

impl ExecutionReport {
    /// A report that says nothing but how the run ended.
    pub fn new(run: RunId, status: ExecutionStatus) -> Self {
        Self {
            run,
            status,
            stdout: Vec::new(),
            stderr: Vec::new(),
            whole_output: Vec::new(),
            outputs: Vec::new(),
            depfile: None,
            changed_inputs: Vec::new(),
            killed: Vec::new(),
            cost: RunCost::default(),
            from_cache: false,
        }
    }
}

/// What an executor tells while it works.
#[derive(Clone, Debug)]
pub enum ExecutorEvent {
    /// The command is running now.
    Started(RunId),
    /// The run is over, all of its processes are gone.
    Finished(Box<ExecutionReport>),
    /// A line for the user, such as a process that cannot be killed.
    Notice(RunId, String),
}

/// Something that runs commands.
///
/// 1. `start` and `stop` never wait.
/// 2. Each started run gives exactly one `Finished`, whatever happens, also after a stop.
/// 3. When `Finished` arrives no process of the run is alive (locally) and no byte of it will be written any more, unless
///    its status is [`ExecutionStatus::Stuck`].
/// 4. A stop for a run that is over is ignored; a stop with a less urgent reason than an earlier one too.
/// 5. At most as many runs are started at once as the executor has slots; who calls counts them.
pub trait Executor: Send {
    /// Begins a run.
    fn start(&mut self, request: ExecutionRequest);
    /// Asks for its end.
    fn stop(&mut self, run: RunId, reason: StopReason);
    /// Ends helpers and threads; every run must be over.
    fn shutdown(&mut self);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DigestFunction;

    fn tree(entries: &[(&str, Option<&str>)]) -> TreeMeta {
        let entry = |(path, text): &(&str, Option<&str>)| TreeEntry {
            path: WsPath::new(path).expect("a path"),
            node: match text {
                Some(text) => {
                    TreeNode::File { digest: DigestFunction::Sha256.digest(text.as_bytes()), executable: false }
                }
                None => TreeNode::EmptyDirectory,
            },
        };
        TreeMeta { root: DigestFunction::Sha256.empty(), size: 0, entries: entries.iter().map(entry).collect() }
    }

    #[test]
    fn parts_of_trees() {
        let whole = tree(&[("a", Some("1")), ("d-x", Some("2")), ("d/e/f", Some("3")), ("empty", None)]);
        let check =
            |part: &[(&str, Option<&str>)], expected| assert_eq!(whole.contains(&tree(part)), expected, "{part:?}");
        check(&[], true);
        check(&[("a", Some("1"))], true);
        check(&[("a", Some("2"))], false);
        check(&[("b", Some("1"))], false);
        check(&[("d/e/f", Some("3")), ("empty", None)], true);
        check(&[("d", None)], true);
        check(&[("d/e", None)], true);
        check(&[("d/e/f", None)], false);
        check(&[("a", None)], false);
        check(&[("x", None)], false);
    }
}
