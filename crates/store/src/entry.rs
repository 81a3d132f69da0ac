//! Results as files of the disk cache: an `ActionResult`, preceded by a digest of the key it is stored under and of itself.
//!
//! Values only. Logs and depfiles are in the message, trees are blobs of their own. It does not know where files lie.

use std::time::Duration;

use minibuild_core::{
    ArtifactKind, Content, DeclaredOutput, Digest, DigestFunction, FoundOutput, OutputMeta, TreeMeta, TreeNode,
    UploadRequest, WsPath,
};
use minibuild_reapi::decode::{self, ActionResult, Limits, digest_message};
use minibuild_reapi::proto::{self as messages, Message as _, execution as proto, protobuf};
use minibuild_reapi::{InputNode, tree_directories, tree_message};

/// The first bytes of each entry.
const MAGIC: &[u8] = b"minibuild result 2\n";
/// Larger logs and depfiles are not kept.
const LARGEST_TEXT: usize = 16 << 20;
/// A larger entry is none.
pub(crate) const LARGEST_ENTRY: u64 = 64 << 20;
/// A larger `Tree` is refused unread.
const LARGEST_TREE: u64 = 256 << 20;

/// A result as it is stored.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Stored {
    /// The entry.
    pub entry: Vec<u8>,
    /// Blobs that are in files of the output tree.
    pub files: Vec<(Digest, WsPath)>,
    /// Blobs that are in memory.
    pub trees: Vec<(Digest, Vec<u8>)>,
}

/// What an entry says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Recalled {
    pub outputs: Vec<FoundOutput>,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    pub depfile: Option<Vec<u8>>,
    pub wall: Duration,
}

/// A result as it is to be stored; `None` for one that is not worth it, or contradicts itself.
pub(crate) fn encode(request: &UploadRequest, function: DigestFunction) -> Option<Stored> {
    let texts = [&request.stdout[..], &request.stderr[..]];
    let depfile = request.depfile.as_ref().map(|(_, bytes)| &bytes[..]);
    if texts.into_iter().chain(depfile).any(|text| text.len() > LARGEST_TEXT) {
        return None;
    }
    let mut stored = Stored { entry: Vec::new(), files: Vec::new(), trees: Vec::new() };
    let mut result = proto::ActionResult {
        stdout_raw: request.stdout.to_vec(),
        stderr_raw: request.stderr.to_vec(),
        execution_metadata: Some(metadata(request.wall)),
        ..Default::default()
    };
    for output in &request.outputs {
        add(&mut result, &mut stored, &output.meta, function)?;
    }
    if let Some((path, bytes)) = request.depfile.as_ref()
        && !result.output_files.iter().any(|file| file.path == path.as_str())
    {
        result.output_files.push(proto::OutputFile {
            path: path.as_str().to_owned(),
            digest: Some(digest_message(&function.digest(bytes))),
            contents: bytes.to_vec(),
            ..Default::default()
        });
    }
    result.output_files.sort_by(|a, b| a.path.cmp(&b.path));
    let message = result.encode_to_vec();
    stored.entry = bound(&message, &request.who.key, function);
    Some(stored)
}

/// An entry of a message: one that was copied over another, by mistake or malice, is none.
fn bound(message: &[u8], key: &Digest, function: DigestFunction) -> Vec<u8> {
    [MAGIC, &binding(message, key, function), message].concat()
}

fn binding(message: &[u8], key: &Digest, function: DigestFunction) -> [u8; 32] {
    let mut hasher = function.hasher();
    hasher.update(&key.hash);
    hasher.update(message);
    hasher.finish().hash
}

/// The message of the entry under a key.
fn message_of<'a>(entry: &'a [u8], key: &Digest, function: DigestFunction) -> Option<&'a [u8]> {
    let (hash, message) = entry.strip_prefix(MAGIC)?.split_at_checked(32)?;
    (binding(message, key, function) == hash).then_some(message)
}

/// The entry under one key as one under another.
pub(crate) fn rebind(entry: &[u8], known: &Digest, key: &Digest, function: DigestFunction) -> Option<Vec<u8>> {
    message_of(entry, known, function).map(|message| bound(message, key, function))
}

fn add(
    result: &mut proto::ActionResult,
    stored: &mut Stored,
    meta: &OutputMeta,
    function: DigestFunction,
) -> Option<()> {
    let path = meta.path.as_str().to_owned();
    match &meta.content {
        Content::File { digest, executable } => {
            stored.files.push((*digest, meta.path.clone()));
            let digest = Some(digest_message(digest));
            result.output_files.push(proto::OutputFile {
                path,
                digest,
                is_executable: *executable,
                ..Default::default()
            });
        }
        Content::Symlink { target } => {
            let target = target.clone();
            result.output_symlinks.push(proto::OutputSymlink { path, target, node_properties: None });
        }
        Content::Directory(tree) => {
            let mut nodes = Vec::with_capacity(tree.entries.len());
            for entry in &tree.entries {
                let node = match &entry.node {
                    TreeNode::File { digest, executable } => {
                        stored.files.push((*digest, meta.path.join(entry.path.as_str()).ok()?));
                        InputNode::File { digest: *digest, executable: *executable }
                    }
                    TreeNode::Symlink { target } => InputNode::Symlink { target },
                    TreeNode::EmptyDirectory => InputNode::EmptyDirectory,
                };
                nodes.push((entry.path.as_str(), node));
            }
            let bytes = tree_message(&mut nodes, function).ok()?.bytes;
            let digest = function.digest(&bytes);
            stored.trees.push((digest, bytes));
            result.output_directories.push(proto::OutputDirectory {
                path,
                tree_digest: Some(digest_message(&digest)),
                is_topologically_sorted: true,
                ..Default::default()
            });
        }
    }
    Some(())
}

fn metadata(wall: Duration) -> proto::ExecutedActionMetadata {
    let timestamp = |at: Duration| protobuf::Timestamp {
        seconds: i64::try_from(at.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(at.subsec_nanos()).unwrap_or_default(),
    };
    // Only how long it took is ever asked, and equal results are equal bytes.
    proto::ExecutedActionMetadata {
        worker: "minibuild".to_owned(),
        execution_start_timestamp: Some(timestamp(Duration::ZERO)),
        execution_completed_timestamp: Some(timestamp(wall)),
        ..Default::default()
    }
}

/// Reads the entry under a key: what it says of the declared outputs. `read` gives blobs that are there, checked. `None` for one that
/// is damaged, of another version, or not of these outputs.
pub(crate) fn decode(
    entry: &[u8],
    key: &Digest,
    declared: &[DeclaredOutput],
    depfile: Option<&WsPath>,
    function: DigestFunction,
    read: impl Fn(&Digest) -> Option<Vec<u8>>,
) -> Option<Recalled> {
    let message = message_of(entry, key, function)?;
    let message: proto::ActionResult = messages::read("ActionResult", message).ok()?;
    let wall = wall(&message);
    let result = decode::action_result_message(message, function).ok()?;
    if result.exit_code != 0 {
        return None;
    }
    let output = |declared: &DeclaredOutput| {
        let content = content(declared, &result, function, &read)?;
        Some(FoundOutput { meta: OutputMeta { path: declared.path.clone(), content }, stamps: Vec::new() })
    };
    let outputs = declared.iter().map(output).collect::<Option<Vec<_>>>()?;
    let depfile = match depfile {
        Some(path) => Some(inline(&result, path, &read)?),
        None => None,
    };
    Some(Recalled { outputs, stdout: result.stdout.inline, stderr: result.stderr.inline, depfile, wall })
}

fn content(
    declared: &DeclaredOutput,
    result: &ActionResult,
    function: DigestFunction,
    read: impl Fn(&Digest) -> Option<Vec<u8>>,
) -> Option<Content> {
    let path = &declared.path;
    match declared.kind {
        ArtifactKind::File | ArtifactKind::Source => {
            let file = result.files.iter().find(|file| file.path == *path)?;
            Some(Content::File { digest: file.digest, executable: file.executable })
        }
        ArtifactKind::Symlink => {
            let link = result.symlinks.iter().find(|link| link.path == *path)?;
            Some(Content::Symlink { target: link.target.clone() })
        }
        ArtifactKind::Directory => {
            let digest = result.directories.iter().find(|dir| dir.path == *path)?.tree?;
            if digest.size > LARGEST_TREE {
                return None;
            }
            // The empty tree is the empty blob, which nobody keeps.
            let bytes = if digest.size == 0 { Vec::new() } else { read(&digest)? };
            let tree = decode::tree(&bytes, function, Limits::default()).ok()?;
            let root = tree_directories(&tree.entries, function, &mut |_, _| {});
            Some(Content::Directory(TreeMeta { root, size: tree.size, entries: tree.entries }.into()))
        }
    }
}

/// A depfile: in the message, or a declared output at the same time and so a blob.
fn inline(result: &ActionResult, path: &WsPath, read: impl Fn(&Digest) -> Option<Vec<u8>>) -> Option<Vec<u8>> {
    let file = result.files.iter().find(|file| file.path == *path)?;
    match &file.contents {
        Some(bytes) => Some(bytes.clone()),
        None if file.digest.size == 0 => Some(Vec::new()),
        None if file.digest.size > LARGEST_ENTRY => None,
        None => read(&file.digest),
    }
}

fn wall(result: &proto::ActionResult) -> Duration {
    let end = result.execution_metadata.as_ref().and_then(|metadata| metadata.execution_completed_timestamp);
    let duration = |end: protobuf::Timestamp| {
        Some(Duration::new(
            u64::try_from(end.seconds).ok()?,
            u32::try_from(end.nanos).ok().filter(|n| *n < 1_000_000_000)?,
        ))
    };
    end.and_then(duration).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use minibuild_core::{ActionId, Requester, RunId, TreeEntry};
    use proptest::prelude::*;

    use super::*;

    const F: DigestFunction = DigestFunction::Sha256;

    fn path(text: &str) -> WsPath {
        WsPath::new(text).expect("a path")
    }

    fn output(name: &str, content: Content) -> FoundOutput {
        FoundOutput { meta: OutputMeta { path: path(name), content }, stamps: Vec::new() }
    }

    fn tree(entries: Vec<TreeEntry>) -> Content {
        let root = tree_directories(&entries, F, &mut |_, _| {});
        let size = entries.iter().filter_map(TreeEntry::blob).map(|digest| digest.size).sum();
        Content::Directory(TreeMeta { root, size, entries }.into())
    }

    fn request() -> UploadRequest {
        let file = TreeNode::File { digest: F.digest(b"in tree"), executable: true };
        let entries = vec![
            TreeEntry { path: path("d/f"), node: file },
            TreeEntry { path: path("e"), node: TreeNode::EmptyDirectory },
            TreeEntry { path: path("l"), node: TreeNode::Symlink { target: "d/f".into() } },
        ];
        UploadRequest {
            run: RunId { action: ActionId::new(0), attempt: 0 },
            who: Requester { label: "//:x".into(), mnemonic: "X".into(), key: F.digest(b"key") },
            blobs: Vec::new(),
            outputs: vec![
                output("o/b", Content::File { digest: F.digest(b"b"), executable: false }),
                output("o/a", Content::File { digest: F.digest(b""), executable: true }),
                output("o/t", tree(entries)),
                output("o/none", tree(Vec::new())),
                output("o/l", Content::Symlink { target: "b".into() }),
            ],
            depfile: Some((path("o/x.d"), b"x: y".as_slice().into())),
            stdout: b"out".as_slice().into(),
            stderr: b"err".as_slice().into(),
            wall: Duration::from_millis(1234),
        }
    }

    fn decode(
        entry: &[u8],
        declared: &[DeclaredOutput],
        depfile: Option<&WsPath>,
        function: DigestFunction,
        read: impl Fn(&Digest) -> Option<Vec<u8>>,
    ) -> Option<Recalled> {
        super::decode(entry, &request().who.key, declared, depfile, function, read)
    }

    fn declared(outputs: &[FoundOutput]) -> Vec<DeclaredOutput> {
        let kind = |content: &Content| match content {
            Content::File { .. } => ArtifactKind::File,
            Content::Symlink { .. } => ArtifactKind::Symlink,
            Content::Directory(_) => ArtifactKind::Directory,
        };
        outputs.iter().map(|o| DeclaredOutput { path: o.meta.path.clone(), kind: kind(&o.meta.content) }).collect()
    }

    #[test]
    fn what_is_stored_is_recalled() {
        let request = request();
        let stored = encode(&request, F).expect("is worth it");
        assert_eq!(stored, encode(&request, F).expect("is worth it"), "equal results are equal bytes");
        let names: Vec<&str> = stored.files.iter().map(|(_, path)| path.as_str()).collect();
        assert_eq!(names, ["o/b", "o/a", "o/t/d/f"]);
        let trees: HashMap<Digest, Vec<u8>> = stored.trees.into_iter().collect();
        let outputs = declared(&request.outputs);
        let read = |digest: &Digest| trees.get(digest).cloned();
        let depfile = path("o/x.d");
        let recalled = decode(&stored.entry, &outputs, Some(&depfile), F, read).expect("is one");
        assert_eq!(recalled.outputs, request.outputs);
        assert_eq!((&recalled.stdout[..], &recalled.stderr[..]), (&b"out"[..], &b"err"[..]));
        assert_eq!((recalled.depfile.as_deref(), recalled.wall), (Some(&b"x: y"[..]), request.wall));
        let none = |_: &Digest| None;
        assert_eq!(decode(&stored.entry, &outputs, None, F, none), None, "a tree is lost");
        assert!(decode(&stored.entry, &outputs[..2], None, F, none).is_some());
        assert_eq!(decode(&stored.entry, &outputs[..2], Some(&path("o/y.d")), F, none), None, "it has no such depfile");
        let strange = F.digest(b"another action");
        assert_eq!(super::decode(&stored.entry, &strange, &outputs[..2], None, F, none), None, "it is another's");
        let entry = rebind(&stored.entry, &request.who.key, &strange, F).expect("is one");
        assert!(super::decode(&entry, &strange, &outputs[..2], None, F, none).is_some());
        assert_eq!(rebind(&stored.entry, &strange, &request.who.key, F), None);
        let other = DeclaredOutput { kind: ArtifactKind::Directory, ..outputs[0].clone() };
        assert_eq!(decode(&stored.entry, &[other], None, F, none), None, "it is a file");
    }

    proptest! {
        #[test]
        fn a_damaged_entry_is_none(at in any::<prop::sample::Index>(), bit in 0_u8..8, cut in any::<bool>()) {
            let request = request();
            let mut entry = encode(&request, F).expect("is worth it").entry;
            let at = at.index(entry.len());
            if cut { entry.truncate(at) } else { entry[at] ^= 1 << bit }
            prop_assert_eq!(decode(&entry, &declared(&request.outputs[..2]), None, F, |_| None), None);
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let entry = bound(&bytes, &request().who.key, F);
            let _ = decode(&entry, &declared(&request().outputs), None, F, |_| None);
        }
    }
}
