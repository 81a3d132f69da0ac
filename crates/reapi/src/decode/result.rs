//! `ActionResult` messages.

use std::collections::BTreeMap;

use minibuild_core::{Digest, DigestFunction, WsPath};

use super::{check_text, digest, path, required};
use crate::proto::execution as proto;
use crate::{DecodeError, Flaw};

const WHAT: &str = "ActionResult";

/// What an action made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ActionResult {
    /// Of the command.
    pub exit_code: i32,
    /// Regular files, sorted by path.
    pub files: Vec<OutputFile>,
    /// Directories, sorted by path.
    pub directories: Vec<OutputDirectory>,
    /// Symlinks, sorted by path, each once however many fields name it.
    pub symlinks: Vec<OutputSymlink>,
    /// Standard output.
    pub stdout: Log,
    /// Standard error.
    pub stderr: Log,
    /// Who ran it.
    pub worker: String,
}

/// An output that is a regular file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutputFile {
    /// Relative to the working directory.
    pub path: WsPath,
    /// Of its content.
    pub digest: Digest,
    /// Whether it has its executable bit.
    pub executable: bool,
    /// The content where it came along.
    pub contents: Option<Vec<u8>>,
}

/// An output that is a directory; one of the digests at least is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutputDirectory {
    /// Relative to the working directory, which the empty path is.
    pub path: WsPath,
    /// Of its `Tree` message.
    pub tree: Option<Digest>,
    /// Of its root `Directory` message.
    pub root: Option<Digest>,
}

/// An output that is a symlink.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutputSymlink {
    /// Relative to the working directory.
    pub path: WsPath,
    /// Its text.
    pub target: String,
}

/// What a command wrote.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Log {
    /// The text where it came along.
    pub inline: Vec<u8>,
    /// Of the text where it lies in the store.
    pub digest: Option<Digest>,
}

impl ActionResult {
    /// Digests of all blobs the result names itself; what trees name is not among them.
    pub fn blobs(&self) -> impl Iterator<Item = Digest> + '_ {
        let files = self.files.iter().map(|file| file.digest);
        let directories = self.directories.iter().flat_map(|dir| dir.tree.into_iter().chain(dir.root));
        files.chain(directories).chain(self.stdout.digest).chain(self.stderr.digest)
    }
}

/// Reads an `ActionResult`.
///
/// # Errors
/// A [`DecodeError`] where it is none or contradicts itself, or has paths that lead elsewhere.
pub fn action_result(bytes: &[u8], function: DigestFunction) -> Result<ActionResult, DecodeError> {
    action_result_message(crate::proto::read(WHAT, bytes)?, function)
}

/// Checks an `ActionResult` message.
///
/// # Errors
/// As [`action_result`].
pub fn action_result_message(
    message: proto::ActionResult,
    function: DigestFunction,
) -> Result<ActionResult, DecodeError> {
    let symlinks = symlinks(&message)?;
    let mut result = ActionResult {
        exit_code: message.exit_code,
        stdout: log("stdout", message.stdout_raw, message.stdout_digest.as_ref(), function)?,
        stderr: log("stderr", message.stderr_raw, message.stderr_digest.as_ref(), function)?,
        worker: message.execution_metadata.map(|m| m.worker).unwrap_or_default(),
        symlinks,
        ..Default::default()
    };
    for file in message.output_files {
        result.files.push(output_file(file, function)?);
    }
    for directory in &message.output_directories {
        result.directories.push(output_directory(directory, function)?);
    }
    result.files.sort_by(|a, b| a.path.cmp(&b.path));
    result.directories.sort_by(|a, b| a.path.cmp(&b.path));
    check_paths(&result)?;
    Ok(result)
}

fn output_file(file: proto::OutputFile, function: DigestFunction) -> Result<OutputFile, DecodeError> {
    let path = output_path(&file.path)?;
    let digest = required(WHAT, "digest", file.digest.as_ref(), function)
        .map_err(|e| DecodeError::new(WHAT, &*file.path, e.flaw().clone()))?;
    check_inline(path.as_str(), &file.contents, &digest)?;
    let contents = (!file.contents.is_empty()).then_some(file.contents);
    Ok(OutputFile { path, digest, executable: file.is_executable, contents })
}

fn output_directory(
    message: &proto::OutputDirectory,
    function: DigestFunction,
) -> Result<OutputDirectory, DecodeError> {
    let at = |e: DecodeError| DecodeError::new(WHAT, super::short(&message.path), e.flaw().clone());
    let optional = |message: Option<&proto::Digest>| message.map(|d| digest(d, function)).transpose().map_err(at);
    let tree = optional(message.tree_digest.as_ref())?;
    let root = optional(message.root_directory_digest.as_ref())?;
    if tree.is_none() && root.is_none() {
        return Err(DecodeError::new(WHAT, super::short(&message.path), Flaw::Missing("tree_digest")));
    }
    Ok(OutputDirectory { path: path(WHAT, &message.path)?, tree, root })
}

/// One link may be named by the new field and by one of the old ones.
#[expect(deprecated, reason = "servers of version 2.0 fill the old fields")]
fn symlinks(message: &proto::ActionResult) -> Result<Vec<OutputSymlink>, DecodeError> {
    let all = message.output_symlinks.iter();
    let all = all.chain(&message.output_file_symlinks).chain(&message.output_directory_symlinks);
    let mut found: BTreeMap<WsPath, &str> = BTreeMap::new();
    for link in all {
        check_text(WHAT, &link.path, &link.target)?;
        let earlier = found.insert(output_path(&link.path)?, &link.target);
        if earlier.is_some_and(|target| target != link.target) {
            return Err(DecodeError::new(WHAT, "", Flaw::Twice(link.path.clone())));
        }
    }
    Ok(found.into_iter().map(|(path, target)| OutputSymlink { path, target: target.to_owned() }).collect())
}

fn log(
    name: &'static str,
    inline: Vec<u8>,
    message: Option<&proto::Digest>,
    function: DigestFunction,
) -> Result<Log, DecodeError> {
    let digest = message.map(|d| digest(d, function)).transpose();
    let digest = digest.map_err(|e| DecodeError::new(WHAT, name, e.flaw().clone()))?;
    if let Some(digest) = &digest {
        check_inline(name, &inline, digest)?;
    }
    Ok(Log { inline, digest })
}

fn check_inline(at: &str, inline: &[u8], digest: &Digest) -> Result<(), DecodeError> {
    if inline.is_empty() || inline.len() as u64 == digest.size {
        return Ok(());
    }
    let text = format!("{} bytes came along for {digest}", inline.len());
    Err(DecodeError::new(WHAT, at, Flaw::Contradiction(text)))
}

/// A path that is not the working directory itself.
fn output_path(text: &str) -> Result<WsPath, DecodeError> {
    match path(WHAT, text)? {
        path if path.as_str().is_empty() => Err(DecodeError::new(WHAT, "", Flaw::Path(String::new()))),
        path => Ok(path),
    }
}

/// No path is there twice, and none lies below a file or symlink.
fn check_paths(result: &ActionResult) -> Result<(), DecodeError> {
    let leaves = result.files.iter().map(|f| (f.path.as_str(), true));
    let links = result.symlinks.iter().map(|l| (l.path.as_str(), true));
    let all = leaves.chain(links).chain(result.directories.iter().map(|d| (d.path.as_str(), false)));
    let mut known: BTreeMap<&str, bool> = BTreeMap::new();
    for (path, is_leaf) in all {
        if known.insert(path, is_leaf).is_some() {
            return Err(DecodeError::new(WHAT, "", Flaw::Twice(path.to_owned())));
        }
    }
    for path in known.keys() {
        let mut ancestors = path.match_indices('/').map(|(at, _)| &path[..at]);
        if let Some(leaf) = ancestors.find(|ancestor| known.get(ancestor) == Some(&true)) {
            let text = format!("`{path}` lies below `{leaf}`, which is no directory");
            return Err(DecodeError::new(WHAT, "", Flaw::Contradiction(text)));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::Message as _;

    use super::*;
    use crate::decode::digest_message;

    const F: DigestFunction = DigestFunction::Sha256;

    fn file(path: &str) -> proto::OutputFile {
        let digest = Some(digest_message(&F.digest(b"abc")));
        proto::OutputFile { path: path.to_owned(), digest, ..Default::default() }
    }

    fn link(path: &str, target: &str) -> proto::OutputSymlink {
        proto::OutputSymlink { path: path.to_owned(), target: target.to_owned(), node_properties: None }
    }

    fn dir(path: &str) -> proto::OutputDirectory {
        let tree_digest = Some(digest_message(&F.digest(b"tree")));
        proto::OutputDirectory { path: path.to_owned(), tree_digest, ..Default::default() }
    }

    fn check(edit: impl Fn(&mut proto::ActionResult), expected: Result<usize, &str>) {
        let mut message = proto::ActionResult::default();
        edit(&mut message);
        let got = action_result(&message.encode_to_vec(), F);
        match expected {
            Ok(blobs) => assert_eq!(got.expect("decodes").blobs().count(), blobs),
            Err(part) => assert!(got.clone().is_err_and(|e| e.to_string().contains(part)), "{got:?} lacks {part}"),
        }
    }

    #[test]
    #[expect(deprecated, reason = "servers of version 2.0 fill the old fields")]
    fn results_that_are_taken_and_refused() {
        check(|_| {}, Ok(0));
        check(|r| r.output_files = vec![file("b"), file("a/c")], Ok(2));
        check(|r| r.stdout_digest = Some(digest_message(&F.digest(b"out"))), Ok(1));
        check(|r| r.output_directories = vec![dir(""), dir("x")], Ok(2));
        for bad in ["", "/abs", "..", "a/../b", "a//b", "a/", "n\0"] {
            check(|r| r.output_files = vec![file(bad)], Err("no relative path"));
            check(|r| r.output_symlinks = vec![link(bad, "t")], Err("no relative path"));
            if !bad.is_empty() {
                check(|r| r.output_directories = vec![dir(bad)], Err("no relative path"));
            }
        }
        check(|r| r.output_files = vec![file("a"), file("a")], Err("twice"));
        let both = |r: &mut proto::ActionResult| {
            r.output_files = vec![file("a")];
            r.output_directories = vec![dir("a")];
        };
        check(both, Err("twice"));
        let below = |r: &mut proto::ActionResult| {
            r.output_symlinks = vec![link("a", "t")];
            r.output_files = vec![file("a/b/c")];
        };
        check(below, Err("lies below `a`"));
        let wrong = proto::OutputFile { contents: b"abcd".to_vec(), ..file("a") };
        check(|r| r.output_files = vec![wrong.clone()], Err("4 bytes came along"));
        check(|r| r.output_files = vec![proto::OutputFile { digest: None, ..file("a") }], Err("no `digest`"));
        check(|r| r.output_directories = vec![proto::OutputDirectory::default()], Err("no `tree_digest`"));
        check(|r| r.output_symlinks = vec![link("a", "")], Err("empty"));
        let named_twice = |old: &'static str| {
            move |r: &mut proto::ActionResult| {
                r.output_symlinks = vec![link("a", "t")];
                r.output_file_symlinks = vec![link("a", old)];
            }
        };
        check(named_twice("t"), Ok(0));
        check(named_twice("u"), Err("twice"));
        let lying = |r: &mut proto::ActionResult| {
            r.stderr_raw = b"x".to_vec();
            r.stderr_digest = Some(digest_message(&F.digest(b"long")));
        };
        check(lying, Err("stderr"));
    }

    proptest! {
        #[test]
        fn any_bytes_are_an_answer(bytes: Vec<u8>) {
            let _ = action_result(&bytes, F);
        }
    }
}
