//! Making a report's parts of an `ActionResult`: trees, logs and depfile are fetched, outputs checked.
//!
//! It does not know whether the result comes from a cache or an execution, nor what follows from a flaw.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{join, join_all};
use minibuild_core::{
    ArtifactKind, Blob, DeclaredOutput, Digest, DigestFunction, FoundOutput, OutputProblem, Requester, TreeMeta, WsPath,
};
use minibuild_reapi::decode::{self, ActionResult, Directory, Limits, Log, OutputDirectory, OutputFile, TreeContent};
use minibuild_reapi::proto::execution as proto;

use crate::cache::{Cache, ReadFailure};
use crate::input_root::InputRoot;
use crate::result;

/// A larger `Tree` or `Directory` is refused unread.
const LARGEST_TREE: u64 = 256 << 20;
/// A larger log is not fetched; a note takes its place.
const LARGEST_LOG: u64 = 64 << 20;

/// What is asked of a result.
#[derive(Clone, Copy)]
pub(crate) struct Wanted<'a> {
    pub(crate) who: &'a Requester,
    pub(crate) outputs: &'a [DeclaredOutput],
    pub(crate) depfile: Option<&'a WsPath>,
    pub(crate) function: DigestFunction,
    /// Whether a note may take the place of a log that cannot be had.
    pub(crate) may_lack_logs: bool,
    /// Messages of the action and its input root, where they are at hand.
    pub(crate) inputs: &'a [Blob],
}

impl Wanted<'_> {
    fn input_root(&self) -> InputRoot {
        InputRoot::of(self.who.key, self.inputs, self.function)
    }
}

/// The parts of a report.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) exit_code: i32,
    /// All that are declared; where the result is of no use those that are there.
    pub(crate) outputs: Vec<FoundOutput>,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
    pub(crate) depfile: Option<Vec<u8>>,
    pub(crate) wall: Option<Duration>,
}

/// Why a result is of no use.
#[derive(Debug)]
pub(crate) enum Flawed {
    /// It is no valid message.
    Refused(String),
    /// A blob it names cannot be had.
    Lost(String),
    /// Its outputs are not as declared; with its logs.
    Problems(Vec<OutputProblem>, Box<Parts>),
    /// The cache cannot be reached.
    Unreachable(String),
}

/// Makes the parts of a result.
///
/// # Errors
/// [`Flawed`]; what is wrong with outputs only where the exit code is 0.
pub(crate) async fn assemble(cache: &Cache, wanted: Wanted<'_>, message: proto::ActionResult) -> Result<Parts, Flawed> {
    let wall = result::wall(&message);
    let result = decode::action_result_message(message, wanted.function).map_err(|e| Flawed::Refused(e.to_string()))?;
    let logs = join(log(cache, wanted, &result.stdout), log(cache, wanted, &result.stderr));
    let (logs, depfile) = join(logs, depfile(cache, wanted, &result)).await;
    let mut parts = Parts {
        exit_code: result.exit_code,
        outputs: Vec::new(),
        stdout: logs.0?,
        stderr: logs.1?,
        depfile: depfile?,
        wall,
    };
    if result.exit_code != 0 {
        // What a failed command left is worth a look, and no error if it is lost.
        let trees = trees(cache, wanted, &result).await.unwrap_or_default();
        parts.outputs = result::found(wanted.outputs, &result, &trees);
        return Ok(parts);
    }
    let trees = trees(cache, wanted, &result).await?;
    match result::outputs(wanted.outputs, &result, &trees, || wanted.input_root()) {
        Ok(outputs) => parts.outputs = outputs,
        Err(problems) => {
            parts.outputs = result::found(wanted.outputs, &result, &trees);
            return Err(Flawed::Problems(problems, Box::new(parts)));
        }
    }
    Ok(parts)
}

async fn read(cache: &Cache, wanted: Wanted<'_>, digest: Digest) -> Result<Bytes, Flawed> {
    if digest.size == 0 {
        return Ok(Bytes::new());
    }
    cache.read(wanted.who, digest).await.map_err(|failure| match failure {
        ReadFailure::Unreachable(why) => Flawed::Unreachable(why),
        failure => Flawed::Lost(failure.about(&digest)),
    })
}

/// Bytes that came along, if they are what their digest says.
fn inline(bytes: &[u8], digest: Digest, function: DigestFunction) -> Option<Vec<u8>> {
    (!bytes.is_empty() && function.digest(bytes) == digest).then(|| bytes.to_vec())
}

async fn log(cache: &Cache, wanted: Wanted<'_>, log: &Log) -> Result<Vec<u8>, Flawed> {
    let Some(digest) = log.digest else { return Ok(log.inline.clone()) };
    if let Some(bytes) = inline(&log.inline, digest, wanted.function) {
        return Ok(bytes);
    }
    if digest.size > LARGEST_LOG {
        return Ok(format!("({} bytes of output were not fetched: {digest})\n", digest.size).into_bytes());
    }
    match read(cache, wanted, digest).await {
        Ok(bytes) => Ok(bytes.to_vec()),
        Err(Flawed::Lost(why) | Flawed::Unreachable(why)) if wanted.may_lack_logs => {
            Ok(format!("(output was not fetched: {why})\n").into_bytes())
        }
        Err(flawed) => Err(flawed),
    }
}

async fn depfile(cache: &Cache, wanted: Wanted<'_>, result: &ActionResult) -> Result<Option<Vec<u8>>, Flawed> {
    let Some(file) = wanted.depfile.and_then(|path| result::file(result, path)) else { return Ok(None) };
    let OutputFile { digest, contents, .. } = file;
    if let Some(bytes) = contents.as_ref().and_then(|bytes| inline(bytes, *digest, wanted.function)) {
        return Ok(Some(bytes));
    }
    if digest.size > LARGEST_LOG {
        return Err(Flawed::Refused(format!("the depfile has {} bytes", digest.size)));
    }
    Ok(Some(read(cache, wanted, *digest).await?.to_vec()))
}

/// The trees of all declared directories.
async fn trees(cache: &Cache, wanted: Wanted<'_>, result: &ActionResult) -> Result<result::Trees, Flawed> {
    let is_declared = |dir: &&OutputDirectory| {
        let same = |output: &&DeclaredOutput| output.path == dir.path && output.kind == ArtifactKind::Directory;
        wanted.outputs.iter().any(|output| same(&output))
    };
    if result.directories.is_empty() {
        return Ok(HashMap::new());
    }
    let one = |dir: OutputDirectory| async move {
        let content = tree(cache, wanted, &dir).await?;
        let refused = |why: String| Flawed::Refused(format!("`{}`: {why}", dir.path));
        let content = content.map_err(refused)?;
        Ok((dir.path, Arc::new(result::tree_meta(content, wanted.function))))
    };
    let all = join_all(result.directories.iter().filter(is_declared).cloned().map(one)).await;
    all.into_iter().collect::<Result<Vec<(WsPath, Arc<TreeMeta>)>, Flawed>>().map(|all| all.into_iter().collect())
}

/// A tree, from its `Tree` message where there is one; the inner error is one of the messages.
async fn tree(cache: &Cache, wanted: Wanted<'_>, dir: &OutputDirectory) -> Result<Result<TreeContent, String>, Flawed> {
    let Some(digest) = dir.tree.or(dir.root) else { return Ok(Err("it has no digest".to_owned())) };
    if digest.size > LARGEST_TREE {
        return Ok(Err(format!("its `Tree` has {} bytes", digest.size)));
    }
    let bytes = read(cache, wanted, digest).await?;
    if dir.tree.is_some() {
        return Ok(decode::tree(&bytes, wanted.function, Limits::default()).map_err(|e| e.to_string()));
    }
    let children = match directories(cache, wanted, &bytes).await? {
        Ok(children) => children,
        Err(why) => return Ok(Err(why)),
    };
    let tree = decode::tree_of_directories(&bytes, &children, wanted.function, Limits::default());
    Ok(tree.map_err(|e| e.to_string()))
}

/// All `Directory` messages below a root, level by level, each once.
async fn directories(cache: &Cache, wanted: Wanted<'_>, root: &[u8]) -> Result<Result<Vec<Bytes>, String>, Flawed> {
    let mut known: HashMap<Digest, Bytes> = HashMap::new();
    let mut level = match children(root, wanted.function) {
        Ok(level) => level,
        Err(why) => return Ok(Err(why)),
    };
    while !level.is_empty() {
        level.sort_unstable();
        level.dedup();
        level.retain(|digest| digest.size > 0 && !known.contains_key(digest));
        let total = known.keys().chain(&level).fold(0_u64, |sum, digest| sum.saturating_add(digest.size));
        if total > LARGEST_TREE {
            return Ok(Err(format!("its directories have more than {LARGEST_TREE} bytes")));
        }
        let read = join_all(level.iter().map(|digest| read(cache, wanted, *digest))).await;
        let read: Vec<Bytes> = read.into_iter().collect::<Result<_, _>>()?;
        let mut next = Vec::new();
        for (digest, bytes) in level.into_iter().zip(read) {
            match children(&bytes, wanted.function) {
                Ok(below) => next.extend(below),
                Err(why) => return Ok(Err(why)),
            }
            known.insert(digest, bytes);
        }
        level = next;
    }
    Ok(Ok(known.into_values().collect()))
}

fn children(bytes: &[u8], function: DigestFunction) -> Result<Vec<Digest>, String> {
    let directory: Directory = decode::directory(bytes, function).map_err(|e| e.to_string())?;
    Ok(directory.directories.into_iter().map(|(_, digest)| digest).collect())
}
