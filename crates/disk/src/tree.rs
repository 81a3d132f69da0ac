//! Capturing a tree artifact: everything below one directory.
//!
//! It knows how entries are walked, made read-only and hashed; it does not know who declared the tree.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use minibuild_core::{
    Content, DigestFunction, EntryKind, OutputProblem, Stamp, StopFlag, TreeEntry, TreeMeta, TreeNode, WsPath,
};
use rustix::fs::{Dir, Mode};
use rustix::io::Errno;

use crate::DiskError;
use crate::beneath::resolves_beneath;
use crate::captured_entry::{Fault, noun, open_output, publish_file, read_link};
use crate::clock::FsInstant;
use crate::hash::hash_open_file;
use crate::mode::set_mode;
use crate::remove::open_listing;
use crate::stat::look_at;

/// Directories nested deeper than this are refused: each level keeps a directory open.
const MAX_DEPTH: usize = 200;

/// Captures the directory `name` in `dir`, hashing with the function, at that time. What is wrong with single entries goes to `problems`, so that all of
/// it is told at once.
pub(crate) fn capture(
    dir: BorrowedFd<'_>,
    path: &WsPath,
    name: &str,
    (now, function, stop): (FsInstant, DigestFunction, &StopFlag),
    problems: &mut Vec<OutputProblem>,
) -> Result<(Content, Vec<Stamp>), Fault> {
    let root = open_tree_dir(dir, path.as_str(), name)?;
    let mut walk = Walk { root: root.as_fd(), path, now, function, stop, entries: Vec::new(), problems };
    walk.directory(root.as_fd(), "", 0)?;
    let mut entries = walk.entries;
    entries.sort_unstable_by(|(a, _), (b, _)| a.path.cmp(&b.path));
    let stamps = entries.iter().filter_map(|(_, stamp)| *stamp).collect();
    let entries: Vec<TreeEntry> = entries.into_iter().map(|(entry, _)| entry).collect();
    let size = entries.iter().map(|entry| file_size(&entry.node)).sum();
    let root = minibuild_reapi::tree_directories(&entries, function, &mut |_, _| {});
    Ok((Content::Directory(Arc::new(TreeMeta { root, size, entries })), stamps))
}

struct Walk<'a> {
    root: BorrowedFd<'a>,
    path: &'a WsPath,
    now: FsInstant,
    function: DigestFunction,
    stop: &'a StopFlag,
    entries: Vec<(TreeEntry, Option<Stamp>)>,
    problems: &'a mut Vec<OutputProblem>,
}

impl Walk<'_> {
    /// Takes all entries of the open directory at `below` (relative to the tree's root).
    fn directory(&mut self, dir: BorrowedFd<'_>, below: &str, depth: usize) -> Result<(), Fault> {
        let shown = self.shown(below);
        let failed = |e: Errno| Fault::reading(&shown, e.into());
        let mut empty = true;
        for entry in Dir::read_from(dir).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            if entry.file_name() == c"." || entry.file_name() == c".." {
                continue;
            }
            empty = false;
            match entry.file_name().to_str() {
                Ok(name) => self.entry(dir, below, name, depth)?,
                Err(_) => {
                    let lossy = entry.file_name().to_string_lossy().into_owned();
                    self.problem(&join(below, &lossy), "has a name that is not UTF-8");
                }
            }
        }
        if empty && !below.is_empty() {
            self.push(below, TreeNode::EmptyDirectory, None);
        }
        Ok(())
    }

    fn entry(&mut self, dir: BorrowedFd<'_>, below: &str, name: &str, depth: usize) -> Result<(), Fault> {
        let relative = join(below, name);
        match self.take(dir, &relative, name, depth) {
            Err(Fault::Problem(path, what)) => {
                self.problems.push(OutputProblem { path, what });
                Ok(())
            }
            other => other,
        }
    }

    fn take(&mut self, dir: BorrowedFd<'_>, relative: &str, name: &str, depth: usize) -> Result<(), Fault> {
        let shown = self.shown(relative);
        let kind = look_at(dir, name).map_err(|e| Fault::reading(&shown, e))?.kind;
        match kind {
            EntryKind::File => self.file(dir, relative, &shown, name),
            EntryKind::Symlink => self.symlink(dir, relative, &shown, name),
            EntryKind::Directory if depth >= MAX_DEPTH => {
                let what = format!("is nested more than {MAX_DEPTH} directories deep");
                Err(Fault::problem(shown, what))
            }
            EntryKind::Directory => {
                let opened = open_tree_dir(dir, &shown, name)?;
                self.directory(opened.as_fd(), relative, depth + 1)
            }
            EntryKind::Other => Err(Fault::problem(shown, format!("is {}", noun(kind)))),
        }
    }

    fn file(&mut self, dir: BorrowedFd<'_>, relative: &str, shown: &str, name: &str) -> Result<(), Fault> {
        let file = open_output(dir, name).map_err(|e| Fault::reading(shown, e.into()))?;
        let mut file = publish_file(dir, shown, name, file)?;
        let hashed = hash_open_file(&mut file, self.function, self.now, Some(self.stop))
            .map_err(|e| Fault::reading(shown, e))?;
        let node = TreeNode::File { digest: hashed.digest, executable: hashed.executable() };
        self.push(relative, node, Some(hashed.stamp));
        Ok(())
    }

    fn symlink(&mut self, dir: BorrowedFd<'_>, relative: &str, shown: &str, name: &str) -> Result<(), Fault> {
        let (target, stamp) = read_link(dir, shown, name, self.now)?;
        let what = match resolves_beneath(self.root, relative.as_bytes()) {
            Ok(()) => {
                self.push(relative, TreeNode::Symlink { target }, Some(stamp));
                return Ok(());
            }
            Err(Errno::XDEV) => format!("is a symlink to `{target}`, which leaves its directory"),
            Err(Errno::NOENT | Errno::NOTDIR) => format!("is a symlink to `{target}`, which does not exist"),
            Err(Errno::LOOP) => format!("is a symlink to `{target}`, which leads to itself"),
            Err(error) => return Err(Fault::reading(shown, error.into())),
        };
        Err(Fault::problem(shown, what))
    }

    fn push(&mut self, relative: &str, node: TreeNode, stamp: Option<Stamp>) {
        match WsPath::new(relative) {
            Ok(path) => self.entries.push((TreeEntry { path, node }, stamp)),
            Err(error) => self.problem(relative, &error.to_string()),
        }
    }

    fn problem(&mut self, relative: &str, what: &str) {
        self.problems.push(OutputProblem { path: self.shown(relative), what: what.to_owned() });
    }

    fn shown(&self, relative: &str) -> String {
        join(self.path.as_str(), relative)
    }
}

/// Opens a directory of the tree and gives it the mode all of them have.
fn open_tree_dir(dir: BorrowedFd<'_>, shown: &str, name: &str) -> Result<OwnedFd, Fault> {
    let c_name = CString::new(name).map_err(|_| Fault::problem(shown, "has a NUL character in its name"))?;
    let opened = open_listing(dir, &c_name).map_err(|e| Fault::reading(shown, e.into()))?;
    let mode = rustix::fs::fstat(&opened).map_err(|e| Fault::reading(shown, e.into()))?.st_mode & 0o7777;
    if mode != 0o755 {
        let chmod = set_mode(&opened, Mode::from_raw_mode(0o755));
        chmod.map_err(|e| DiskError::new("change the mode of", shown, e))?;
    }
    Ok(opened)
}

fn join(below: &str, name: &str) -> String {
    match (below, name) {
        ("", _) => name.to_owned(),
        (_, "") => below.to_owned(),
        _ => format!("{below}/{name}"),
    }
}

fn file_size(node: &TreeNode) -> u64 {
    match node {
        TreeNode::File { digest, .. } => digest.size,
        TreeNode::Symlink { .. } | TreeNode::EmptyDirectory => 0,
    }
}
