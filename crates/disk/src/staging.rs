//! Making outputs where nobody looks, and publishing them in one rename.
//!
//! Files, symlinks and whole directories are made in `minibuild-out/.state/staging/`, on the file system of the output
//! tree. What is dropped unpublished goes to the trash. It does not know where the bytes come from, nor checks them.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use minibuild_core::{Content, Digest, OUT_ROOT, Stamp, TreeMeta, TreeNode, WsPath};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::clock::{FileClock, FsInstant};
use crate::mode::set_mode;
use crate::out_tree::{OutTree, retry_writable};
use crate::remove::open_listing;
use crate::rename::rename_new;
use crate::stat::look_at;
use crate::trash::Trash;
use crate::{DiskError, beneath};

/// The staging directory.
pub(crate) struct Staging {
    dir: OwnedFd,
    trash: Arc<Trash>,
    counter: AtomicU64,
}

/// Something in the staging directory; dropped, it goes to the trash.
struct Place {
    staging: Arc<Staging>,
    name: CString,
    is_taken: bool,
}

/// A new file, open for reading and writing.
pub struct StagedFile {
    file: File,
    place: Place,
}

/// A directory that has its directories and symlinks, and gets its files.
pub struct StagedTree {
    dir: OwnedFd,
    place: Place,
}

/// A thing that is complete and can be published.
pub struct Staged(Place);

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

impl Staging {
    pub(crate) fn new(dir: OwnedFd, trash: Arc<Trash>) -> Self {
        Self { dir, trash, counter: AtomicU64::new(0) }
    }

    /// Makes something under a name of its own.
    fn make<T>(
        self: &Arc<Self>,
        make: impl Fn(&OwnedFd, &CString) -> rustix::io::Result<T>,
    ) -> Result<(T, Place), DiskError> {
        loop {
            let name = format!("{}-{}", std::process::id(), self.counter.fetch_add(1, Ordering::Relaxed));
            let name = CString::new(name).unwrap_or_default();
            match make(&self.dir, &name) {
                Ok(made) => return Ok((made, Place { staging: Arc::clone(self), name, is_taken: false })),
                // Left by an earlier process with our id.
                Err(Errno::EXIST) => {}
                Err(error) => return Err(DiskError::new("create", format!("{OUT_ROOT}/.state/staging"), error)),
            }
        }
    }
}

impl Place {
    fn shown(&self) -> String {
        format!("{OUT_ROOT}/.state/staging/{}", self.name.to_string_lossy())
    }

    fn rename(mut self, dir: impl AsFd, name: &str) -> rustix::io::Result<()> {
        let dir = dir.as_fd();
        retry_writable(dir, || rustix::fs::renameat(&self.staging.dir, &self.name, dir, name))?;
        self.is_taken = true;
        Ok(())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if !self.is_taken {
            // What stays is deleted by the next build.
            let _ = self.staging.trash.set_aside(&self.staging.dir, &self.name);
        }
    }
}

impl Staged {
    pub(crate) fn rename(self, dir: impl AsFd, name: &str) -> rustix::io::Result<()> {
        self.0.rename(dir, name)
    }
}

impl StagedFile {
    pub(crate) fn rename(self, dir: impl AsFd, name: &str) -> rustix::io::Result<()> {
        self.place.rename(dir, name)
    }
}

impl OutTree {
    /// Has everything deleted that earlier builds left in the staging directory. Nothing may be staged yet.
    ///
    /// # Errors
    /// Where the directory cannot be listed or its entries not be moved.
    pub fn sweep_staging(&self) -> Result<(), DiskError> {
        let staging = self.staging();
        let sweep = || {
            for entry in rustix::fs::Dir::read_from(open_listing(&staging.dir, c".")?)? {
                let entry = entry?;
                if entry.file_name() != c"." && entry.file_name() != c".." {
                    staging.trash.set_aside(&staging.dir, entry.file_name())?;
                }
            }
            Ok(())
        };
        sweep().map_err(|e: Errno| DiskError::new("empty", format!("{OUT_ROOT}/.state/staging"), e))
    }

    /// A new empty file.
    ///
    /// # Errors
    /// Where it cannot be made.
    pub fn stage_file(&self) -> Result<StagedFile, DiskError> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let open = |dir: &OwnedFd, name: &CString| rustix::fs::openat(dir, name, flags, Mode::from_raw_mode(0o600));
        let (file, place) = self.staging().make(open)?;
        Ok(StagedFile { file: File::from(file), place })
    }

    /// Takes the file `name` out of `dir`, to be written on; `None` where there is none that can be.
    pub fn stage_from(&self, dir: BorrowedFd<'_>, name: &CStr) -> Option<StagedFile> {
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let take = |staging: &OwnedFd, new: &CString| {
            rename_new(dir, name, staging, new)?;
            rustix::fs::openat(staging, new, flags, Mode::empty())
        };
        let (file, place) = self.staging().make(take).ok()?;
        Some(StagedFile { file: File::from(file), place })
    }

    /// A symlink with this text.
    ///
    /// # Errors
    /// Where it cannot be made.
    pub fn stage_symlink(&self, target: &str) -> Result<Staged, DiskError> {
        let ((), place) = self.staging().make(|dir, name| rustix::fs::symlinkat(target, dir, name))?;
        Ok(Staged(place))
    }

    /// A directory with all directories and symlinks of `tree`; its files are to be added.
    ///
    /// # Errors
    /// The first thing that cannot be made.
    pub fn stage_tree(&self, tree: &TreeMeta) -> Result<StagedTree, DiskError> {
        let make = |dir: &OwnedFd, name: &CString| rustix::fs::mkdirat(dir, name, Mode::from_raw_mode(0o755));
        let ((), place) = self.staging().make(make)?;
        let fail = |e: Errno| DiskError::new("create", place.shown(), e);
        let dir = open_listing(&place.staging.dir, &place.name).map_err(fail)?;
        set_mode(&dir, Mode::from_raw_mode(0o755)).map_err(fail)?;
        let mut staged = StagedTree { dir, place };
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
        let (dir, name) = self.clear_place(path)?;
        staged.0.rename(&dir, name).map_err(|e| DiskError::new("publish", path.as_str(), e))?;
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
            .map_err(|e| DiskError::new("make read-only", self.place.shown(), e))?;
        Ok(Staged(self.place))
    }

    /// Makes this file equal to `from`, by sharing its blocks where the file system can.
    ///
    /// # Errors
    /// Where bytes cannot be read or written.
    pub fn copy_from(&self, from: &File) -> Result<(), DiskError> {
        if rustix::fs::ioctl_ficlone(&self.file, from).is_ok() {
            return Ok(());
        }
        copy_all(from, &self.file).map_err(|e| DiskError::new("copy to", self.place.shown(), e))
    }
}

impl StagedTree {
    /// Puts a complete file at `path` of the tree.
    ///
    /// # Errors
    /// Where it cannot be moved.
    pub fn add(&self, path: &WsPath, file: Staged) -> Result<(), DiskError> {
        let fail = |e: Errno| DiskError::new("create", format!("{}/{path}", self.place.shown()), e);
        let (parent, name) = split(path);
        let dir = beneath::open_dir(&self.dir, parent).map_err(fail)?;
        file.0.rename(&dir, name).map_err(fail)
    }

    /// It has all its files.
    pub fn finish(self) -> Staged {
        Staged(self.place)
    }

    fn fill(&mut self, tree: &TreeMeta) -> Result<(), DiskError> {
        for entry in &tree.entries {
            let fail = |e: Errno| DiskError::new("create", format!("{}/{}", self.place.shown(), entry.path), e);
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
