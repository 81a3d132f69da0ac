//! One file or symlink that a command made: opened, made read-only and read, or why it cannot be.

use std::fs::File;
use std::io;
use std::os::fd::BorrowedFd;

use minibuild_core::{EntryKind, Stamp};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::DiskError;
use crate::clock::FsInstant;
use crate::mode::set_mode;
use crate::private_copy::replace_with_copy;
use crate::remove::make_writable;
use crate::stat::look_at;

/// What capturing one output, or one entry of a tree, may come to.
pub(crate) enum Fault {
    /// Not as declared: path and what is wrong.
    Problem(String, String),
    Disk(DiskError),
}

impl Fault {
    pub(crate) fn problem(path: impl Into<String>, what: impl Into<String>) -> Self {
        Self::Problem(path.into(), what.into())
    }

    /// A failed look at what the command left: its permissions are the command's matter, all else the disk's.
    pub(crate) fn reading(path: &str, error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::PermissionDenied => Self::problem(path, "cannot be read: permission denied"),
            io::ErrorKind::InvalidInput => Self::problem(path, "is not a regular file"),
            _ => Self::Disk(DiskError::new("read", path, error)),
        }
    }
}

impl From<DiskError> for Fault {
    fn from(error: DiskError) -> Self {
        Self::Disk(error)
    }
}

pub(crate) const OPEN_OUTPUT: OFlags =
    OFlags::RDONLY.union(OFlags::NOFOLLOW).union(OFlags::NONBLOCK).union(OFlags::CLOEXEC).union(OFlags::NOCTTY);

/// Opens a regular file for reading; one without read permission is given it.
pub(crate) fn open_output(dir: BorrowedFd<'_>, name: &str) -> rustix::io::Result<File> {
    match rustix::fs::openat(dir, name, OPEN_OUTPUT, Mode::empty()) {
        Err(Errno::ACCESS) => {
            let seen = look_at(dir, name).map_err(|_| Errno::ACCESS)?;
            if seen.kind == EntryKind::File {
                let mode = published_mode(seen.fingerprint.mode);
                rustix::fs::chmodat(dir, name, mode, rustix::fs::AtFlags::empty())?;
            } else {
                let _ = make_writable(dir, c".");
            }
            rustix::fs::openat(dir, name, OPEN_OUTPUT, Mode::empty()).map(File::from)
        }
        opened => opened.map(File::from),
    }
}

/// Makes an open output read-only, first a copy of its own where it has other names.
pub(crate) fn publish_file(dir: BorrowedFd<'_>, path: &str, name: &str, file: File) -> Result<File, Fault> {
    let stat = rustix::fs::fstat(&file).map_err(|e| Fault::reading(path, e.into()))?;
    if stat.st_nlink > 1 {
        return replace_with_copy(dir, name, file).map_err(|e| DiskError::new("copy", path, e).into());
    }
    make_read_only(&file, stat.st_mode, path)?;
    Ok(file)
}

/// Gives an open output the mode of a published one; whether it had another.
pub(crate) fn make_read_only(file: &File, mode: u32, path: &str) -> Result<bool, DiskError> {
    let published = published_mode(mode);
    let has_other = mode & 0o7777 != published.as_raw_mode();
    if has_other {
        set_mode(file, published).map_err(|e| DiskError::new("make read-only", path, e))?;
    }
    Ok(has_other)
}

fn published_mode(mode: u32) -> Mode {
    Mode::from_raw_mode(if mode & 0o111 != 0 { 0o555 } else { 0o444 })
}

/// Content and stamp of a symlink that is kept as it is.
pub(crate) fn read_link(dir: BorrowedFd<'_>, path: &str, name: &str, now: FsInstant) -> Result<(String, Stamp), Fault> {
    let reading = |e: io::Error| Fault::reading(path, e);
    let before = look_at(dir, name).map_err(reading)?;
    let target = rustix::fs::readlinkat(dir, name, Vec::new()).map_err(|e| reading(e.into()))?;
    let after = look_at(dir, name).map_err(reading)?;
    let target = target.into_string().map_err(|_| Fault::problem(path, "is a symlink whose target is not UTF-8"))?;
    let mut stamp = now.stamp(after.fingerprint);
    stamp.trusted &= before == after;
    Ok((target, stamp))
}

pub(crate) fn noun(kind: EntryKind) -> &'static str {
    match kind {
        EntryKind::File => "a file",
        EntryKind::Directory => "a directory",
        EntryKind::Symlink => "a symlink",
        EntryKind::Other => "a special file (device, socket or pipe)",
    }
}
