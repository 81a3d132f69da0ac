//! The staging directory: names in it, and files that have none yet.
//!
//! It does not know what the things are for.

use std::ffi::CString;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use minibuild_core::OUT_ROOT;
use rustix::fs::{AtFlags, CWD, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use crate::DiskError;
use crate::trash::Trash;
use crate::writable::retry_writable;

/// The staging directory.
pub(crate) struct Staging {
    pub(super) dir: OwnedFd,
    pub(super) trash: Arc<Trash>,
    counter: AtomicU64,
    /// Whether files without a name can be made here and named later. Tried once.
    pub(super) has_unnamed: OnceLock<bool>,
}

/// A name in the staging directory; dropped, what lies there goes to the trash.
pub(super) struct Entry {
    pub(super) staging: Arc<Staging>,
    pub(super) name: CString,
    is_taken: bool,
}

impl Staging {
    pub(crate) fn new(dir: OwnedFd, trash: Arc<Trash>) -> Self {
        Self { dir, trash, counter: AtomicU64::new(0), has_unnamed: OnceLock::new() }
    }

    /// Makes something under a name of its own.
    pub(super) fn make<T>(
        self: &Arc<Self>,
        make: impl Fn(&OwnedFd, &CString) -> rustix::io::Result<T>,
    ) -> Result<(T, Entry), DiskError> {
        let made = self.try_make(make);
        made.map_err(|error| DiskError::new("create", format!("{OUT_ROOT}/.state/staging"), error))
    }

    fn try_make<T>(
        self: &Arc<Self>,
        make: impl Fn(&OwnedFd, &CString) -> rustix::io::Result<T>,
    ) -> rustix::io::Result<(T, Entry)> {
        loop {
            let name = format!("{}-{}", std::process::id(), self.counter.fetch_add(1, Ordering::Relaxed));
            let name = CString::new(name).unwrap_or_default();
            match make(&self.dir, &name) {
                Ok(made) => return Ok((made, Entry { staging: Arc::clone(self), name, is_taken: false })),
                // Left by an earlier process with our id.
                Err(Errno::EXIST) => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn open_unnamed(&self) -> rustix::io::Result<File> {
        let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
        rustix::fs::openat(&self.dir, c".", flags, Mode::from_raw_mode(0o600)).map(File::from)
    }

    /// A file without a name. `None` where the file system has none, `/proc` is not there, or nothing can be made at all.
    pub(super) fn unnamed(self: &Arc<Self>) -> Option<File> {
        let works = || {
            let file = self.open_unnamed()?;
            self.name(&file).map(drop)
        };
        if !self.has_unnamed.get_or_init(|| works().is_ok()) {
            return None;
        }
        self.open_unnamed().ok()
    }

    /// Gives a file a name here.
    pub(super) fn name(self: &Arc<Self>, file: &File) -> rustix::io::Result<Entry> {
        self.try_make(|dir, name| link(file, dir, name)).map(|((), entry)| entry)
    }
}

/// Gives a file without a name its first one. By way of `/proc`, since `AT_EMPTY_PATH` needs a privilege before Linux 6.10.
pub(super) fn link(file: &File, dir: impl AsFd, name: impl rustix::path::Arg) -> rustix::io::Result<()> {
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    rustix::fs::linkat(CWD, path, dir, name, AtFlags::SYMLINK_FOLLOW)
}

impl Entry {
    pub(super) fn shown(&self) -> String {
        format!("{OUT_ROOT}/.state/staging/{}", self.name.to_string_lossy())
    }

    /// Renames it to `name` in `dir`, over whatever lies there.
    pub(super) fn rename(mut self, dir: BorrowedFd<'_>, name: &str) -> rustix::io::Result<()> {
        retry_writable(dir, || rustix::fs::renameat(&self.staging.dir, &self.name, dir, name))?;
        self.is_taken = true;
        Ok(())
    }

    /// Renames it to `name` in `dir` unless something lies there, which `EXIST` tells. File systems that do not know such
    /// renames say the same without a look.
    pub(super) fn rename_to_free(&mut self, dir: BorrowedFd<'_>, name: &str) -> rustix::io::Result<()> {
        let rename = || rustix::fs::renameat_with(&self.staging.dir, &self.name, dir, name, RenameFlags::NOREPLACE);
        match retry_writable(dir, rename) {
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => Err(Errno::EXIST),
            done => {
                self.is_taken = done.is_ok();
                done
            }
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        if !self.is_taken {
            // What stays is deleted by the next build.
            let _ = self.staging.trash.set_aside(&self.staging.dir, &self.name);
        }
    }
}
