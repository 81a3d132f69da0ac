//! Making outputs where nobody looks, and publishing each in one step.
//!
//! Everything is made in `minibuild-out/.state/staging/`, on the file system of the output tree, and renamed. A file that
//! is written in one go has no name there, if the file system can do that: it is linked to its place, and a killed build
//! leaves nothing of it. Many threads can do so at once, while each new name in one directory and each rename between two
//! directories waits for the others. What is dropped unpublished goes to the trash. It does not know where the bytes come
//! from, nor checks them.

mod entry;
#[cfg(test)]
mod tests;

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use minibuild_core::{Content, Digest, OUT_ROOT, Stamp, TreeMeta, TreeNode, WsPath};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

pub(crate) use self::entry::Staging;
use self::entry::{Entry, link};
use crate::clock::{FileClock, FsInstant};
use crate::mode::set_mode;
use crate::out_tree::OutTree;
use crate::remove::{open_listing, remove_at};
use crate::rename::rename_new;
use crate::stat::look_at;
use crate::writable::retry_writable;
use crate::{DiskError, beneath};

/// How often a place is made free at most: only a program that is not minibuild puts something there meanwhile.
const TRIES: usize = 8;

/// Where a file is until it is published.
enum Place {
    /// Nowhere. The kernel frees it with its last handle.
    Unnamed(Arc<Staging>),
    Named(Entry),
}

/// A new file, open for reading and writing.
pub struct StagedFile {
    file: File,
    place: Place,
}

/// A directory that has its directories and symlinks, and gets its files.
pub struct StagedTree {
    dir: OwnedFd,
    entry: Entry,
}

/// A thing that is complete and can be published.
pub struct Staged(Complete);

enum Complete {
    Unnamed(File, Arc<Staging>),
    Named(Entry),
}

/// Where bytes go that were brought and are not needed now, and where they come back from.
pub trait Keep: Send + Sync {
    /// Takes over a complete, checked thing; of a directory some files may be missing.
    fn adopt(&self, staged: Staged, content: &Content);

    /// Takes over the first bytes of a blob, as they came.
    fn adopt_part(&self, part: StagedFile, digest: &Digest);

    /// Gives back what [`Self::adopt_part`] took. Nobody has checked it.
    fn part(&self, digest: &Digest) -> Option<StagedFile>;

    /// A blob that is kept, to be read; what it holds is to be checked.
    fn open(&self, digest: &Digest) -> Option<File>;
}

impl Staged {
    /// Moves it to `name` in `dir`, over whatever lies there.
    pub(crate) fn rename(self, dir: impl AsFd, name: &str) -> rustix::io::Result<()> {
        let dir = dir.as_fd();
        match self.0 {
            Complete::Named(entry) => entry.rename(dir, name),
            Complete::Unnamed(file, staging) => match retry_writable(dir, || link(&file, dir, name)) {
                Err(Errno::EXIST) => staging.name(&file)?.rename(dir, name),
                done => done,
            },
        }
    }

    /// Moves it to `name` in `dir`; `make_room` is called if something lies there.
    fn put(
        self,
        dir: BorrowedFd<'_>,
        name: &str,
        make_room: impl Fn() -> Result<(), DiskError>,
    ) -> Result<rustix::io::Result<()>, DiskError> {
        match self.0 {
            Complete::Named(mut entry) => match entry.rename_to_free(dir, name) {
                Err(Errno::EXIST) => {
                    make_room()?;
                    Ok(entry.rename(dir, name))
                }
                done => Ok(done),
            },
            Complete::Unnamed(file, _) => {
                for _ in 0..TRIES {
                    match retry_writable(dir, || link(&file, dir, name)) {
                        Err(Errno::EXIST) => make_room()?,
                        done => return Ok(done),
                    }
                }
                Ok(Err(Errno::EXIST))
            }
        }
    }

    /// Gives a file a name in the staging directory, so that it needs no open handle for as long as it waits.
    ///
    /// # Errors
    /// Where it cannot be given one.
    pub fn named(self) -> Result<Self, DiskError> {
        let Complete::Unnamed(file, staging) = self.0 else { return Ok(self) };
        let entry = staging.name(&file);
        let entry = entry.map_err(|e| DiskError::new("create", format!("{OUT_ROOT}/.state/staging"), e))?;
        Ok(Self(Complete::Named(entry)))
    }
}

impl StagedFile {
    /// Moves it as it is to `name` in `dir`, over whatever lies there.
    pub(crate) fn rename(self, dir: impl AsFd, name: &str) -> rustix::io::Result<()> {
        self.complete().rename(dir, name)
    }

    fn complete(self) -> Staged {
        Staged(match self.place {
            Place::Unnamed(staging) => Complete::Unnamed(self.file, staging),
            Place::Named(entry) => Complete::Named(entry),
        })
    }

    fn shown(&self) -> String {
        match &self.place {
            Place::Unnamed(_) => format!("{OUT_ROOT}/.state/staging"),
            Place::Named(entry) => entry.shown(),
        }
    }
}

impl OutTree {
    /// Has everything deleted that earlier builds left in the staging directory. Nothing may be staged yet.
    ///
    /// # Errors
    /// Where the directory cannot be listed, or an entry neither moved nor removed.
    pub fn sweep_staging(&self) -> Result<(), DiskError> {
        let staging = self.staging();
        let sweep = || {
            for entry in rustix::fs::Dir::read_from(open_listing(&staging.dir, c".")?)? {
                let entry = entry?;
                let name = entry.file_name();
                if name != c"." && name != c".." && staging.trash.set_aside(&staging.dir, name).is_err() {
                    remove_at(staging.dir.as_fd(), name)?;
                }
            }
            Ok(())
        };
        sweep().map_err(|e: Errno| DiskError::new("empty", format!("{OUT_ROOT}/.state/staging"), e))
    }

    /// A new empty file without a name, where there can be one: for what is written and published in one go.
    ///
    /// # Errors
    /// Where it cannot be made.
    pub fn stage_unnamed_file(&self) -> Result<StagedFile, DiskError> {
        match self.staging().unnamed() {
            Some(file) => Ok(StagedFile { file, place: Place::Unnamed(Arc::clone(self.staging())) }),
            None => self.stage_file(),
        }
    }

    /// A new empty file with a name in the staging directory, under which it can be seen to grow.
    ///
    /// # Errors
    /// Where it cannot be made.
    pub fn stage_file(&self) -> Result<StagedFile, DiskError> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let open = |dir: &OwnedFd, name: &CString| rustix::fs::openat(dir, name, flags, Mode::from_raw_mode(0o600));
        let (file, entry) = self.staging().make(open)?;
        Ok(StagedFile { file: File::from(file), place: Place::Named(entry) })
    }

    /// Takes the file `name` out of `dir`, to be written on; `None` where there is none that can be.
    pub fn stage_from(&self, dir: BorrowedFd<'_>, name: &CStr) -> Option<StagedFile> {
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let take = |staging: &OwnedFd, new: &CString| {
            rename_new(dir, name, staging, new)?;
            rustix::fs::openat(staging, new, flags, Mode::empty())
        };
        let (file, entry) = self.staging().make(take).ok()?;
        Some(StagedFile { file: File::from(file), place: Place::Named(entry) })
    }

    /// A symlink with this text.
    ///
    /// # Errors
    /// Where it cannot be made.
    pub fn stage_symlink(&self, target: &str) -> Result<Staged, DiskError> {
        let ((), entry) = self.staging().make(|dir, name| rustix::fs::symlinkat(target, dir, name))?;
        Ok(Staged(Complete::Named(entry)))
    }

    /// A directory with all directories and symlinks of `tree`; its files are to be added.
    ///
    /// # Errors
    /// The first thing that cannot be made.
    pub fn stage_tree(&self, tree: &TreeMeta) -> Result<StagedTree, DiskError> {
        let make = |dir: &OwnedFd, name: &CString| rustix::fs::mkdirat(dir, name, Mode::from_raw_mode(0o755));
        let ((), entry) = self.staging().make(make)?;
        let fail = |e: Errno| DiskError::new("create", entry.shown(), e);
        let dir = open_listing(&entry.staging.dir, &entry.name).map_err(fail)?;
        set_mode(&dir, Mode::from_raw_mode(0o755)).map_err(fail)?;
        let mut staged = StagedTree { dir, entry };
        staged.fill(tree)?;
        Ok(staged)
    }

    /// Puts a staged thing in its place: parents are made, whatever lies there is renamed aside. Gives the stamps of
    /// the place as [`minibuild_core::FoundOutput::stamps`] has them; `tree` is that of a staged directory.
    ///
    /// # Errors
    /// The first thing that cannot be done.
    pub fn publish(
        &self,
        staged: Staged,
        path: &WsPath,
        tree: Option<&TreeMeta>,
        clock: &dyn FileClock,
    ) -> Result<Vec<Stamp>, DiskError> {
        let (dir, name) = self.open_place(path)?;
        let put = staged.put(dir.as_fd(), name, || self.make_room(&dir, path, name))?;
        put.map_err(|e| DiskError::new("publish", path.as_str(), e))?;
        let now = clock.now()?;
        let fail = |e: io::Error| DiskError::new("look at", path.as_str(), e);
        let Some(tree) = tree else { return Ok(vec![stamp(&dir, name, now).map_err(fail)?]) };
        let top = beneath::open_dir(&dir, name).map_err(|e| fail(e.into()))?;
        let leaves = tree.entries.iter().filter(|entry| entry.node != TreeNode::EmptyDirectory);
        leaves.map(|entry| stamp(&top, entry.path.as_str(), now).map_err(fail)).collect()
    }
}

impl StagedFile {
    /// The open file.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Makes it read-only, with or without its executable bit.
    ///
    /// # Errors
    /// Where the mode cannot be set.
    pub fn finish(self, executable: bool) -> Result<Staged, DiskError> {
        set_mode(&self.file, Mode::from_raw_mode(if executable { 0o555 } else { 0o444 }))
            .map_err(|e| DiskError::new("make read-only", self.shown(), e))?;
        Ok(self.complete())
    }

    /// Makes this file equal to `from`, by sharing its blocks where the file system can.
    ///
    /// # Errors
    /// Where bytes cannot be read or written.
    pub fn copy_from(&self, from: &File) -> Result<(), DiskError> {
        if rustix::fs::ioctl_ficlone(&self.file, from).is_ok() {
            return Ok(());
        }
        copy_all(from, &self.file).map_err(|e| DiskError::new("copy to", self.shown(), e))
    }
}

impl StagedTree {
    /// Puts a complete file at `path` of the tree.
    ///
    /// # Errors
    /// Where it cannot be moved.
    pub fn add(&self, path: &WsPath, file: Staged) -> Result<(), DiskError> {
        let fail = |e: Errno| DiskError::new("create", format!("{}/{path}", self.entry.shown()), e);
        let (parent, name) = split(path);
        let dir = beneath::open_dir(&self.dir, parent).map_err(fail)?;
        file.rename(&dir, name).map_err(fail)
    }

    /// It has all its files.
    pub fn finish(self) -> Staged {
        Staged(Complete::Named(self.entry))
    }

    fn fill(&mut self, tree: &TreeMeta) -> Result<(), DiskError> {
        for entry in &tree.entries {
            let fail = |e: Errno| DiskError::new("create", format!("{}/{}", self.entry.shown(), entry.path), e);
            let (parent, name) = split(&entry.path);
            match &entry.node {
                TreeNode::EmptyDirectory => self.make_dirs(entry.path.as_str()).map_err(fail)?,
                TreeNode::File { .. } => self.make_dirs(parent).map_err(fail)?,
                TreeNode::Symlink { target } => {
                    self.make_dirs(parent).map_err(fail)?;
                    let dir = beneath::open_dir(&self.dir, parent).map_err(fail)?;
                    rustix::fs::symlinkat(target.as_str(), &dir, name).map_err(fail)?;
                }
            }
        }
        Ok(())
    }

    /// Makes the directories of a relative path, each with the mode directories of trees have.
    fn make_dirs(&self, path: &str) -> rustix::io::Result<()> {
        if path.is_empty() || beneath::open_dir(&self.dir, path).is_ok() {
            return Ok(());
        }
        let ends = path.match_indices('/').map(|(at, _)| at).chain([path.len()]);
        for end in ends {
            let (parent, name) = path[..end].rsplit_once('/').unwrap_or(("", &path[..end]));
            let parent = beneath::open_dir(&self.dir, parent)?;
            match rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o755)) {
                Ok(()) => set_mode(beneath::open_dir(&parent, name)?, Mode::from_raw_mode(0o755))?,
                Err(Errno::EXIST) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

fn split(path: &WsPath) -> (&str, &str) {
    (path.parent().unwrap_or(""), path.file_name())
}

fn stamp(dir: impl AsFd, path: &str, now: FsInstant) -> io::Result<Stamp> {
    Ok(now.stamp(look_at(dir, path)?.fingerprint))
}

fn copy_all(from: &File, to: &File) -> io::Result<()> {
    use std::os::unix::fs::FileExt;
    let mut buffer = vec![0; 256 * 1024];
    let mut at = 0;
    loop {
        match from.read_at(&mut buffer, at) {
            Ok(0) => return Ok(()),
            Ok(length) => {
                to.write_all_at(&buffer[..length], at)?;
                at += length as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
