//! The tree below `minibuild-out/`: preparing outputs, writing files, setting things aside.
//!
//! All paths are workspace-relative, must lie below `minibuild-out/`, and are resolved beneath it without
//! following symlinks, so that nothing an action leaves there can lead a write elsewhere. (`minibuild-out` itself
//! may be a symlink the user made.) It does not know what an action is.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use minibuild_core::{ArtifactKind, DeclaredOutput, DigestFunction, OUT_ROOT, StopFlag, WrittenFile, WsPath};
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use crate::DiskError;
use crate::beneath;
use crate::mode::set_mode;
use crate::remove::remove_at;
use crate::staging::Staging;
use crate::stat::{Seen, look_at, stat_below};
use crate::trash::Trash;
use crate::writable::retry_writable;

/// At and below these a file or link in the way of a directory is removed: nothing there is the user's.
const REPLACEABLE: [&str; 2] = ["bin", "testlogs"];

/// The state's directory, and the trash in it.
const STATE: &str = ".state";
const TRASH: &str = "trash";

/// Less free space than this counts as none.
const FULL_BELOW: u64 = 64 * 1024;

/// The output tree of one workspace.
pub struct OutTree {
    workspace: PathBuf,
    /// The workspace's own directory.
    root: OwnedFd,
    out: OwnedFd,
    trash: Arc<Trash>,
    staging: Arc<Staging>,
    function: DigestFunction,
    stop: StopFlag,
}

/// The directory opened last, with its path: outputs of one action mostly lie together.
#[derive(Default)]
pub(crate) struct DirCache(Option<(String, OwnedFd)>);

impl OutTree {
    /// Opens the tree of the workspace at `workspace` (absolute), making `minibuild-out/` and its state directories
    /// where they are missing.
    ///
    /// # Errors
    /// Where they cannot be made or opened.
    pub fn open(workspace: &Path) -> Result<Self, DiskError> {
        let out_path = workspace.join(OUT_ROOT);
        std::fs::create_dir_all(&out_path).map_err(|e| DiskError::new("create", out_path.display().to_string(), e))?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let open = |path: &Path| {
            let opened = rustix::fs::open(path, flags, Mode::empty());
            opened.map_err(|e| DiskError::new("open", path.display().to_string(), e))
        };
        let (root, out) = (open(workspace)?, open(&out_path)?);
        ensure_dir(&out, "bin")?;
        ensure_dir(&out, ".state/tmp")?;
        let state_dir = |dir: &str| ensure_dir(&out, dir);
        let trash = Arc::new(Trash::new(state_dir(".state/trash")?));
        let staging = Arc::new(Staging::new(state_dir(".state/staging")?, Arc::clone(&trash)));
        let (function, stop) = (DigestFunction::default(), StopFlag::default());
        Ok(Self { workspace: workspace.to_owned(), root, out, trash, staging, function, stop })
    }

    /// The same tree, whose outputs are hashed with this function.
    pub fn hashed_with(self, function: DigestFunction) -> Self {
        Self { function, ..self }
    }

    /// The same tree; once `stop` is set, captures and copies of large outputs are given up.
    #[must_use]
    pub fn stopped_by(self, stop: StopFlag) -> Self {
        Self { stop, ..self }
    }

    /// See [`Self::stopped_by`].
    pub fn stop(&self) -> &StopFlag {
        &self.stop
    }

    /// The hash function of digests of outputs.
    pub fn function(&self) -> DigestFunction {
        self.function
    }

    /// The workspace root.
    pub fn workspace(&self) -> &Path {
        &self.workspace
    }

    /// Whether so little can still be written that an output or a log may have been cut short. Where the system does
    /// not tell, the disk counts as not full.
    pub fn is_full(&self) -> bool {
        rustix::fs::fstatvfs(&self.out).is_ok_and(|disk| {
            let no_inodes = disk.f_files > 0 && disk.f_favail == 0;
            no_inodes || disk.f_bavail.saturating_mul(disk.f_frsize) < FULL_BELOW
        })
    }

    /// Removes the declared outputs and `others` (whatever lies there), makes parent directories, and makes the
    /// declared directories empty.
    ///
    /// # Errors
    /// The first thing that cannot be done.
    pub fn prepare(&self, outputs: &[DeclaredOutput], others: &[&WsPath]) -> Result<(), DiskError> {
        let mut cache = DirCache::default();
        let all = outputs.iter().map(|output| (&output.path, output.kind));
        for (path, kind) in all.chain(others.iter().map(|path| (*path, ArtifactKind::File))) {
            let (parent, name) = self.split(path)?;
            let dir = self.ensure_dir_cached(&mut cache, parent)?;
            self.clear(dir, path, name)?;
            if kind == ArtifactKind::Directory {
                retry_writable(dir, || rustix::fs::mkdirat(dir, name, Mode::from_raw_mode(0o755)))
                    .map_err(|e| DiskError::new("create", path.as_str(), e))?;
            }
        }
        Ok(())
    }

    /// Writes one file, replacing what lies there; parent directories are made. It is published read-only.
    ///
    /// # Errors
    /// The first thing that cannot be done.
    pub fn write(&self, file: &WrittenFile) -> Result<(), DiskError> {
        let (parent, name) = self.split(&file.path)?;
        let dir = self.ensure_dir(parent)?;
        self.clear(dir.as_fd(), &file.path, name)?;
        let mode = Mode::from_raw_mode(if file.executable { 0o555 } else { 0o444 });
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let write = || {
            let opened = retry_writable(dir.as_fd(), || rustix::fs::openat(&dir, name, flags, mode))?;
            let mut opened = File::from(opened);
            opened.write_all(&file.content)?;
            set_mode(&opened, mode)?;
            Ok(())
        };
        write().map_err(|e: io::Error| DiskError::new("write", file.path.as_str(), e))
    }

    /// Removes whatever lies at `path`: files at once, directories by way of the trash. Nothing there is fine.
    ///
    /// # Errors
    /// Where it cannot be removed.
    pub fn remove(&self, path: &WsPath) -> Result<(), DiskError> {
        let (parent, name) = self.split(path)?;
        match self.open_dir(parent) {
            Ok(dir) => self.clear(dir.as_fd(), path, name),
            Err(error) if is_absent(error.os_error()) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Renames whatever lies at `path` into the trash in constant time; a background thread deletes it. Nothing
    /// there is fine.
    ///
    /// # Errors
    /// Where it cannot be renamed.
    pub fn set_aside(&self, path: &WsPath) -> Result<(), DiskError> {
        let (parent, name) = self.split(path)?;
        let dir = match self.open_dir(parent) {
            Err(error) if is_absent(error.os_error()) => return Ok(()),
            opened => opened?,
        };
        let name = c_name(path, name)?;
        self.trash.set_aside(&dir, &name).map_err(|e| DiskError::new("set aside", path.as_str(), e))
    }

    /// Deletes whatever lies at `path` where it is: for what cannot be renamed, however long that takes. Nothing there is
    /// fine.
    ///
    /// # Errors
    /// Where something cannot be deleted.
    pub fn delete(&self, path: &WsPath) -> Result<(), DiskError> {
        let (parent, name) = self.split(path)?;
        match self.open_dir(parent) {
            Err(error) if is_absent(error.os_error()) => Ok(()),
            Err(error) => Err(error),
            Ok(dir) => {
                let name = c_name(path, name)?;
                remove_at(dir.as_fd(), &name).map_err(|e| DiskError::new("delete", path.as_str(), e))
            }
        }
    }

    /// Empties a directory in place and says whether there was anything in it. Meant for small private ones.
    ///
    /// # Errors
    /// Where something cannot be removed.
    pub fn empty_dir(&self, path: &WsPath) -> Result<bool, DiskError> {
        let fail = |e: Errno| DiskError::new("empty", path.as_str(), e);
        let (parent, name) = self.split(path)?;
        let parent = self.ensure_dir(parent)?;
        let name = c_name(path, name)?;
        let dir = crate::remove::open_listing(&parent, &name).map_err(fail)?;
        let mut found = false;
        for entry in rustix::fs::Dir::read_from(&dir).map_err(fail)? {
            let entry = entry.map_err(fail)?;
            if entry.file_name() != c"." && entry.file_name() != c".." {
                found = true;
                remove_at(dir.as_fd(), entry.file_name()).map_err(fail)?;
            }
        }
        Ok(found)
    }

    /// What lies in a directory: names, and whether each is a directory itself. A name that is no UTF-8 is shown as near as
    /// can be. Nothing where there is no such directory.
    ///
    /// # Errors
    /// Where it cannot be listed.
    pub fn list(&self, path: &WsPath) -> Result<Vec<(String, bool)>, DiskError> {
        let fail = |e: Errno| DiskError::new("list", path.as_str(), e);
        let dir = match self.open_dir(self.below_out(path)?) {
            Err(error) if is_absent(error.os_error()) => return Ok(Vec::new()),
            opened => opened?,
        };
        let listing = crate::remove::open_listing(&dir, c".").map_err(fail)?;
        let mut found = Vec::new();
        for entry in rustix::fs::Dir::read_from(listing).map_err(fail)? {
            let entry = entry.map_err(fail)?;
            let name = entry.file_name();
            if name != c"." && name != c".." {
                let is_dir = match entry.file_type() {
                    rustix::fs::FileType::Unknown => crate::remove::is_dir(&dir, name),
                    kind => kind.is_dir(),
                };
                found.push((name.to_string_lossy().into_owned(), is_dir));
            }
        }
        Ok(found)
    }

    /// Looks at what lies at `path`. Symlinks on the way are followed: good for telling whether it is what it was, not more.
    ///
    /// # Errors
    /// Those of `fstatat`.
    pub fn look(&self, path: &WsPath) -> Result<Seen, DiskError> {
        let relative = self.below_out(path)?;
        look_at(&self.out, relative).map_err(|e| DiskError::new("look at", path.as_str(), e))
    }

    /// Looks at files of the workspace, each as [`crate::stat_batch`] does.
    pub fn look_at_all<P: AsRef<str>>(&self, paths: &[P]) -> Vec<Option<Seen>> {
        stat_below(&self.root, paths)
    }

    /// The content of the regular file at `path`, `None` where there is nothing.
    ///
    /// # Errors
    /// Where it is something else or cannot be read.
    pub fn read(&self, path: &WsPath) -> Result<Option<Vec<u8>>, DiskError> {
        let Some(mut file) = self.open_file(path)? else { return Ok(None) };
        let mut content = Vec::new();
        let read = io::Read::read_to_end(&mut file, &mut content);
        read.map(|_| Some(content)).map_err(|e| DiskError::new("read", path.as_str(), e))
    }

    /// Opens the file at `path` for reading, `None` where there is nothing.
    ///
    /// # Errors
    /// Where it cannot be opened.
    pub fn open_file(&self, path: &WsPath) -> Result<Option<File>, DiskError> {
        let (parent, name) = self.split(path)?;
        let dir = match self.open_dir(parent) {
            Err(error) if is_absent(error.os_error()) => return Ok(None),
            opened => opened?,
        };
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        match rustix::fs::openat(&dir, name, flags, Mode::empty()) {
            Ok(opened) => Ok(Some(File::from(opened))),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(DiskError::new("read", path.as_str(), error)),
        }
    }

    /// Makes the directory `path` with its parents.
    ///
    /// # Errors
    /// Where it cannot be made.
    pub fn make_dir(&self, path: &WsPath) -> Result<(), DiskError> {
        let relative = self.below_out(path)?;
        self.ensure_dir(relative).map(drop)
    }

    /// Removes everything in `minibuild-out` but the state's directory with `kept`, a file in it.
    ///
    /// All is renamed away first: whoever comes upon a half-cleaned directory must find none of it.
    ///
    /// # Errors
    /// The first thing that cannot be removed.
    pub fn remove_contents(&self, kept: &str) -> Result<(), DiskError> {
        let state = self.open_dir(STATE)?;
        self.set_aside_entries(&self.out, OUT_ROOT, &[STATE])?;
        self.set_aside_entries(&state, &format!("{OUT_ROOT}/{STATE}"), &[kept, TRASH])?;
        self.empty_trash()?;
        let name = c_name(&WsPath::root(), TRASH)?;
        remove_at(state.as_fd(), &name).map_err(|e| DiskError::new("remove", format!("{OUT_ROOT}/{STATE}/{TRASH}"), e))
    }

    /// Renames what lies in a directory into the trash; what cannot be renamed, as a mount point cannot, is deleted.
    fn set_aside_entries(&self, dir: &OwnedFd, shown: &str, but: &[&str]) -> Result<(), DiskError> {
        let fail = |e: Errno| DiskError::new("list", shown, e);
        let listing = crate::remove::open_listing(dir, c".").map_err(fail)?;
        for entry in rustix::fs::Dir::read_from(listing).map_err(fail)? {
            let entry = entry.map_err(fail)?;
            let name = entry.file_name();
            let is_kept = |kept: &&str| name.to_bytes() == kept.as_bytes();
            if [".", ".."].iter().chain(but).any(is_kept) {
                continue;
            }
            if self.trash.set_aside(dir, name).is_err() {
                let path = || format!("{shown}/{}", name.to_string_lossy());
                remove_at(dir.as_fd(), name).map_err(|e| DiskError::new("remove", path(), e))?;
            }
        }
        Ok(())
    }

    /// Removes the directories that [`Self::remove_contents`] left, now that the kept file is gone. They stay where
    /// another process uses them again, and where `minibuild-out` is a symlink.
    pub fn remove_empty_root(&self) {
        let _ = rustix::fs::unlinkat(&self.out, STATE, AtFlags::REMOVEDIR);
        let _ = rustix::fs::unlinkat(&self.root, OUT_ROOT, AtFlags::REMOVEDIR);
    }

    /// Has everything deleted that earlier builds left in the trash.
    ///
    /// # Errors
    /// Where the trash cannot be listed.
    pub fn sweep_trash(&self) -> Result<(), DiskError> {
        self.trash.sweep().map_err(|e| DiskError::new("list", format!("{OUT_ROOT}/.state/trash"), e))
    }

    /// What turned out so far, and since the last call, not to be deletable in the trash.
    pub fn kept_in_trash(&self) -> Vec<DiskError> {
        let shown = |name: CString| format!("{OUT_ROOT}/.state/trash/{}", name.to_string_lossy());
        let kept = self.trash.take_kept().into_iter();
        kept.map(|(name, error)| DiskError::new("delete", shown(name), error)).collect()
    }

    /// Waits until all that was thrown away is deleted.
    ///
    /// # Errors
    /// The first thing that cannot be deleted.
    pub fn empty_trash(&self) -> Result<(), DiskError> {
        self.trash.finish();
        self.kept_in_trash().into_iter().next().map_or(Ok(()), Err)
    }

    /// The directory `minibuild-out`.
    pub(crate) fn out(&self) -> BorrowedFd<'_> {
        self.out.as_fd()
    }

    /// Where things are made before they are published.
    pub(crate) fn staging(&self) -> &Arc<Staging> {
        &self.staging
    }

    /// Opens the directory an output lies in, made with its parents where missing; the output's name in it.
    pub(crate) fn open_place<'p>(&self, path: &'p WsPath) -> Result<(OwnedFd, &'p str), DiskError> {
        let (parent, name) = self.split(path)?;
        Ok((self.ensure_dir(parent)?, name))
    }

    /// Sets aside what lies at the place `name` in `dir` of an output. What cannot be set aside and is no directory is removed.
    pub(crate) fn make_room(&self, dir: &OwnedFd, path: &WsPath, name: &str) -> Result<(), DiskError> {
        if let Err(error) = self.trash.set_aside(dir, &c_name(path, name)?) {
            let removed = rustix::fs::unlinkat(dir, name, AtFlags::empty());
            removed.map_err(|_| DiskError::new("set aside", path.as_str(), error))?;
        }
        Ok(())
    }

    /// The directory and last segment of a path below the output root.
    pub(crate) fn split<'p>(&self, path: &'p WsPath) -> Result<(&'p str, &'p str), DiskError> {
        let relative = self.below_out(path)?;
        Ok(relative.rsplit_once('/').unwrap_or(("", relative)))
    }

    /// Opens a directory given relative to the output root, from `cache` where it is the same as last time.
    pub(crate) fn open_dir_cached<'c>(&self, cache: &'c mut DirCache, dir: &str) -> Result<BorrowedFd<'c>, DiskError> {
        cache.get(dir, || self.open_dir(dir))
    }

    fn ensure_dir_cached<'c>(&self, cache: &'c mut DirCache, dir: &str) -> Result<BorrowedFd<'c>, DiskError> {
        cache.get(dir, || self.ensure_dir(dir))
    }

    fn below_out<'p>(&self, path: &'p WsPath) -> Result<&'p str, DiskError> {
        let below = path.as_str().strip_prefix(OUT_ROOT).and_then(|rest| rest.strip_prefix('/'));
        below.ok_or_else(|| {
            let error = io::Error::new(io::ErrorKind::InvalidInput, "it is not below `minibuild-out`");
            DiskError::new("change", path.as_str(), error)
        })
    }

    /// See [`beneath::open_at_once`].
    pub(crate) fn open_at_once(&self, path: &WsPath, flags: OFlags) -> Result<Option<OwnedFd>, DiskError> {
        Ok(beneath::open_at_once(&self.out, self.below_out(path)?, flags))
    }

    pub(crate) fn open_dir(&self, dir: &str) -> Result<OwnedFd, DiskError> {
        beneath::open_dir(&self.out, dir).map_err(|e| DiskError::new("open", format!("{OUT_ROOT}/{dir}"), e))
    }

    pub(crate) fn ensure_dir(&self, dir: &str) -> Result<OwnedFd, DiskError> {
        ensure_dir(&self.out, dir)
    }

    /// Removes `name` from `dir`, a directory that is not empty by way of the trash.
    fn clear(&self, dir: BorrowedFd<'_>, path: &WsPath, name: &str) -> Result<(), DiskError> {
        let fail = |e: Errno| DiskError::new("remove", path.as_str(), e);
        // Mostly there is nothing, and a look does not wait for others that change the directory, as a removal does.
        if rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).is_err_and(|error| error == Errno::NOENT) {
            return Ok(());
        }
        match retry_writable(dir, || rustix::fs::unlinkat(dir, name, AtFlags::empty())) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(Errno::ISDIR | Errno::PERM) => match rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR) {
                Ok(()) | Err(Errno::NOENT) => Ok(()),
                Err(_) => self.trash.set_aside(dir, &c_name(path, name)?).map_err(fail),
            },
            Err(error) => Err(fail(error)),
        }
    }
}

impl DirCache {
    fn get(
        &mut self,
        dir: &str,
        open: impl FnOnce() -> Result<OwnedFd, DiskError>,
    ) -> Result<BorrowedFd<'_>, DiskError> {
        if self.0.as_ref().is_none_or(|(last, _)| last != dir) {
            self.0 = Some((dir.to_owned(), open()?));
        }
        let (_, fd) = self.0.as_ref().expect("set just above");
        Ok(fd.as_fd())
    }
}

/// Opens a directory below the output root, made with its parents where missing. Tries the cheap way first.
fn ensure_dir(out: &OwnedFd, dir: &str) -> Result<OwnedFd, DiskError> {
    let error = match beneath::open_dir(out, dir) {
        Ok(opened) => return Ok(opened),
        Err(error) => error,
    };
    let fail = |e: Errno| DiskError::new("create", format!("{OUT_ROOT}/{dir}"), e);
    if dir.is_empty() || !matches!(error, Errno::NOENT | Errno::NOTDIR | Errno::LOOP) {
        return Err(fail(error));
    }
    let (parent, name) = dir.rsplit_once('/').unwrap_or(("", dir));
    let parent = ensure_dir(out, parent)?;
    // Another action may make the same directory now, or remove the same stray file: look again a few times.
    let mut last = error;
    for _ in 0..8 {
        match retry_writable(parent.as_fd(), || rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o777))) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(fail(error)),
        }
        match beneath::open_dir(&parent, name) {
            Ok(opened) => return Ok(opened),
            Err(error @ (Errno::NOTDIR | Errno::LOOP)) if is_replaceable(dir) => {
                last = error;
                let _ = rustix::fs::unlinkat(&parent, name, AtFlags::empty());
            }
            Err(Errno::NOENT) => {}
            Err(error) => return Err(fail(error)),
        }
    }
    Err(fail(last))
}

fn is_replaceable(dir: &str) -> bool {
    REPLACEABLE.iter().any(|root| dir.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')))
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
        || error.raw_os_error() == Some(Errno::LOOP.raw_os_error())
}

fn c_name(path: &WsPath, name: &str) -> Result<CString, DiskError> {
    CString::new(name).map_err(|e| DiskError::new("open", path.as_str(), io::Error::from(e)))
}
