//! Outputs of an action: looked for where they were declared, taken into the store, described in a result.
//!
//! It does not know inputs or commands. What was declared and is not there is left out, as the API has it.

use std::collections::HashMap;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use minibuild_core::{DigestFunction, WsPath};
use minibuild_reapi::decode::{Command, Outputs, digest_message};
use minibuild_reapi::proto::execution as proto;
use minibuild_reapi::{InputNode, TreeBlob, tree_message};

use crate::store::{Store, StoreError, disk};

/// Levels of directories in an output directory.
const DEPTH: usize = 200;

/// Why outputs cannot be brought back.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OutputError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("output `{0}` is neither a file, nor a directory, nor a symlink")]
    Special(String),
    #[error("output `{0}` has a name or a link text that is not UTF-8")]
    NotUtf8(String),
    #[error("output `{0}` has more than {DEPTH} levels of directories")]
    TooDeep(String),
    #[error("output `{0}`: {1}")]
    Tree(String, String),
}

/// Fills in the outputs below `root`, the input root of the action.
pub(crate) fn collect(
    store: &Store,
    function: DigestFunction,
    root: &Path,
    command: &Command,
    result: &mut proto::ActionResult,
) -> Result<(), OutputError> {
    let root = root.canonicalize().map_err(|e| StoreError::from(disk("look at", root, e)))?;
    let base = root.join(command.working_directory.as_path());
    let mut collector = Collector { store, function, command, result, executable: HashMap::new() };
    for path in command.outputs.paths() {
        let at = base.join(path.as_path());
        if let Some(meta) = look(&root, &at)? {
            collector.output(path, &at, &meta)?;
        }
    }
    Ok(())
}

/// What lies at a path; `None` where there is nothing, or a symlink on the way leads out of the root.
fn look(root: &Path, at: &Path) -> Result<Option<Metadata>, OutputError> {
    let parent = if at == root { Some(root) } else { at.parent() };
    let is_inside = parent.and_then(|parent| parent.canonicalize().ok()).is_some_and(|real| real.starts_with(root));
    if !is_inside {
        return Ok(None);
    }
    match fs::symlink_metadata(at) {
        Ok(meta) => Ok(Some(meta)),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(StoreError::from(disk("look at", at, error)).into()),
    }
}

struct Collector<'a> {
    store: &'a Store,
    function: DigestFunction,
    command: &'a Command,
    result: &'a mut proto::ActionResult,
    /// By inode, as first seen: taking a file into the store changes its mode.
    executable: HashMap<u64, bool>,
}

impl Collector<'_> {
    fn output(&mut self, path: &WsPath, at: &Path, meta: &Metadata) -> Result<(), OutputError> {
        let kind = meta.file_type();
        let is_wanted_as = |wanted: Wanted| self.wanted(path).is_none_or(|declared| declared == wanted);
        if kind.is_symlink() {
            self.symlink(path, at)
        } else if kind.is_file() {
            if is_wanted_as(Wanted::File) { self.file(path, at, meta) } else { Ok(()) }
        } else if kind.is_dir() {
            if is_wanted_as(Wanted::Directory) { self.directory(path, at) } else { Ok(()) }
        } else {
            Err(OutputError::Special(path.to_string()))
        }
    }

    /// What clients of version 2.0 declared; others take any kind.
    fn wanted(&self, path: &WsPath) -> Option<Wanted> {
        match &self.command.outputs {
            Outputs::Paths(_) => None,
            Outputs::Typed { files, .. } if files.contains(path) => Some(Wanted::File),
            Outputs::Typed { .. } => Some(Wanted::Directory),
        }
    }

    fn file(&mut self, path: &WsPath, at: &Path, meta: &Metadata) -> Result<(), OutputError> {
        let is_executable = self.is_executable(meta);
        let digest = self.store.adopt(at, self.function)?;
        self.result.output_files.push(proto::OutputFile {
            path: path.to_string(),
            digest: Some(digest_message(&digest)),
            is_executable,
            ..Default::default()
        });
        Ok(())
    }

    /// Named twice: where clients look today, and where those of version 2.0 do.
    #[expect(deprecated, reason = "clients of version 2.0 know the old fields only")]
    fn symlink(&mut self, path: &WsPath, at: &Path) -> Result<(), OutputError> {
        let target = link_text(path.as_str(), at)?;
        let link = proto::OutputSymlink { path: path.to_string(), target, node_properties: None };
        let leads_to_directory = match self.wanted(path) {
            Some(wanted) => wanted == Wanted::Directory,
            None => at.is_dir(),
        };
        match leads_to_directory {
            true => self.result.output_directory_symlinks.push(link.clone()),
            false => self.result.output_file_symlinks.push(link.clone()),
        }
        self.result.output_symlinks.push(link);
        Ok(())
    }

    fn directory(&mut self, path: &WsPath, at: &Path) -> Result<(), OutputError> {
        let entries = self.walk(path, at)?;
        let mut nodes: Vec<(&str, InputNode<'_>)> =
            entries.iter().map(|(path, node)| (&**path, node.borrow())).collect();
        let tree = tree_message(&mut nodes, self.function);
        let tree = tree.map_err(|e| OutputError::Tree(path.to_string(), e.to_string()))?;
        let directory = self.store_tree(path, &tree)?;
        self.result.output_directories.push(directory);
        Ok(())
    }

    fn store_tree(&self, path: &WsPath, tree: &TreeBlob) -> Result<proto::OutputDirectory, OutputError> {
        let mut directory = proto::OutputDirectory { path: path.to_string(), ..Default::default() };
        if self.command.wants_trees {
            let digest = self.store.put_new(self.function, &tree.bytes)?;
            directory.tree_digest = Some(digest_message(&digest));
            directory.is_topologically_sorted = true;
        }
        if self.command.wants_directories {
            for (_, bytes) in &tree.directories {
                self.store.put_new(self.function, bytes)?;
            }
            directory.root_directory_digest = Some(digest_message(&tree.root));
        }
        Ok(directory)
    }

    fn is_executable(&mut self, meta: &Metadata) -> bool {
        *self.executable.entry(meta.ino()).or_insert(meta.mode() & 0o111 != 0)
    }

    /// Files, symlinks and empty directories below a directory.
    fn walk(&mut self, path: &WsPath, top: &Path) -> Result<Vec<(String, Node)>, OutputError> {
        let mut found: Vec<(String, Node)> = Vec::new();
        for entry in walkdir::WalkDir::new(top).min_depth(1).follow_links(false) {
            let entry = entry.map_err(|e| walk_error(top, e))?;
            let shown = || format!("{path}/{}", entry.path().strip_prefix(top).unwrap_or(top).display());
            if entry.depth() > DEPTH {
                return Err(OutputError::TooDeep(path.to_string()));
            }
            let relative = entry.path().strip_prefix(top).ok().and_then(Path::to_str);
            let relative = relative.ok_or_else(|| OutputError::NotUtf8(shown()))?.to_owned();
            let kind = entry.file_type();
            let node = if kind.is_dir() {
                // One that is not empty after all is overruled by what lies in it.
                Node::EmptyDirectory
            } else if kind.is_symlink() {
                Node::Symlink(link_text(&shown(), entry.path())?)
            } else if kind.is_file() {
                let meta = entry.metadata().map_err(|e| walk_error(top, e))?;
                let is_executable = self.is_executable(&meta);
                Node::File(self.store.adopt(entry.path(), self.function)?, is_executable)
            } else {
                return Err(OutputError::Special(shown()));
            };
            found.push((relative, node));
        }
        Ok(found)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Wanted {
    File,
    Directory,
}

enum Node {
    File(minibuild_core::Digest, bool),
    Symlink(String),
    EmptyDirectory,
}

impl Node {
    fn borrow(&self) -> InputNode<'_> {
        match self {
            Self::File(digest, executable) => InputNode::File { digest: *digest, executable: *executable },
            Self::Symlink(target) => InputNode::Symlink { target },
            Self::EmptyDirectory => InputNode::EmptyDirectory,
        }
    }
}

fn link_text(shown: &str, at: &Path) -> Result<String, OutputError> {
    let target: PathBuf = fs::read_link(at).map_err(|e| StoreError::from(disk("read", at, e)))?;
    target.into_os_string().into_string().map_err(|_| OutputError::NotUtf8(shown.to_owned()))
}

fn walk_error(top: &Path, error: walkdir::Error) -> OutputError {
    let path = error.path().unwrap_or(top).to_owned();
    let error = error.into_io_error().unwrap_or_else(|| io::Error::other("a loop of links"));
    StoreError::from(disk("read", &path, error)).into()
}
