//! Moving things between the output tree and other directories of its file system, and copies whose bytes are hashed.
//!
//! It does not know what the other directories are, nor what the bytes should be.

use std::cell::RefCell;
use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;

use minibuild_core::{Digest, DigestFunction, Fingerprint, StopFlag, WsPath};
use rustix::fs::AtFlags;
use rustix::io::Errno;

use crate::DiskError;
use crate::out_tree::OutTree;
use crate::staging::{Staged, StagedFile};
use crate::stat::look_at;
use crate::writable::retry_writable;

/// Bytes copied at a time.
const PIECE: usize = 256 * 1024;

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl OutTree {
    /// Renames the file at `path` to `name` in `dir`, over whatever lies there, if it still has this fingerprint; with
    /// none it has to be a directory, and nothing may lie at `name`. False where it is another thing by now, or cannot be
    /// moved there.
    pub fn move_out(&self, path: &WsPath, expected: Option<Fingerprint>, dir: BorrowedFd<'_>, name: &CStr) -> bool {
        let moved = || {
            let (parent, last) = self.split(path).map_err(|_| Errno::INVAL)?;
            let from = crate::beneath::open_dir(self.out(), parent)?;
            let seen = look_at(&from, last).map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
            match expected {
                Some(expected) if seen.fingerprint != expected => return Ok(false),
                None if seen.kind != minibuild_core::EntryKind::Directory => return Ok(false),
                _ => {}
            }
            if expected.is_none() && seen.fingerprint.mode & 0o200 == 0 {
                // A rename to another parent writes into the directory itself.
                let name = std::ffi::CString::new(last).map_err(|_| Errno::INVAL)?;
                crate::remove::make_writable(&from, &name)?;
            }
            retry_writable(from.as_fd(), || rustix::fs::renameat(&from, last, dir, name))?;
            Ok::<bool, Errno>(true)
        };
        moved().unwrap_or(false)
    }
}

impl Staged {
    /// Renames a complete thing to `name` in `dir`, over whatever lies there.
    ///
    /// # Errors
    /// Where it cannot be moved.
    pub fn move_to(self, dir: BorrowedFd<'_>, name: &str) -> Result<(), DiskError> {
        self.rename(dir, name).map_err(|error| DiskError::new("move to", name, error))
    }
}

impl StagedFile {
    /// Renames it as it is to `name` in `dir`, over whatever lies there.
    ///
    /// # Errors
    /// Where it cannot be moved.
    pub fn move_to(self, dir: BorrowedFd<'_>, name: &str) -> Result<(), DiskError> {
        self.rename(dir, name).map_err(|error| DiskError::new("move to", name, error))
    }
}

/// Copies all of `from` into the empty file `to`, sharing blocks where the file system can, and hashes what `to` holds
/// then.
///
/// # Errors
/// Those of reading and writing, and one where `stop` was set meanwhile.
pub fn copy_hashed(from: &File, to: &File, function: DigestFunction, stop: &StopFlag) -> io::Result<Digest> {
    if rustix::fs::ioctl_ficlone(to, from).is_ok() {
        return pump(to, None, function, stop);
    }
    pump(from, Some(to), function, stop)
}

fn pump(from: &File, to: Option<&File>, function: DigestFunction, stop: &StopFlag) -> io::Result<Digest> {
    BUFFER.with_borrow_mut(|buffer| {
        buffer.resize(PIECE, 0);
        let mut hasher = function.hasher();
        let mut at = 0;
        loop {
            if stop.is_set() {
                return Err(io::Error::other("interrupted"));
            }
            match from.read_at(buffer, at) {
                Ok(0) => return Ok(hasher.finish()),
                Ok(length) => {
                    if let Some(to) = to {
                        to.write_all_at(&buffer[..length], at)?;
                    }
                    hasher.update(&buffer[..length]);
                    at += length as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    })
}

/// Has a file's times be now.
///
/// # Errors
/// Those of `utimensat`.
pub fn touch(dir: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
    let now = rustix::fs::Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_NOW };
    let times = rustix::fs::Timestamps { last_access: now, last_modification: now };
    Ok(rustix::fs::utimensat(dir, name, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn copy_is_given_up_after_a_stop() {
        let (from, to) = (tempfile::tempfile().expect("a file"), tempfile::tempfile().expect("a file"));
        from.write_all_at(b"text", 0).expect("writes");
        let (stop, function) = (StopFlag::default(), DigestFunction::Blake3);
        assert_eq!(copy_hashed(&from, &to, function, &stop).expect("copies"), function.digest(b"text"));
        stop.set();
        assert!(copy_hashed(&from, &to, function, &stop).is_err());
    }

    #[test]
    fn what_is_no_longer_what_it_was_stays() {
        let root = tempfile::tempdir().expect("temp dir");
        let tree = OutTree::open(root.path()).expect("opens");
        let bin = root.path().join("minibuild-out/bin");
        let store = root.path().join("minibuild-out/.state/store");
        fs::create_dir(&store).expect("mkdir");
        let dir = File::open(&store).expect("opens");
        let path = WsPath::new("minibuild-out/bin/a").expect("a path");
        fs::write(bin.join("a"), "x").expect("writes");
        fs::set_permissions(bin.join("a"), fs::Permissions::from_mode(0o444)).expect("chmod");
        let seen = look_at(rustix::fs::CWD, bin.join("a")).expect("is there").fingerprint;
        let other = Fingerprint { ino: seen.ino + 1, ..seen };
        assert!(!tree.move_out(&path, Some(other), dir.as_fd(), c"blob"));
        assert!(!tree.move_out(&path, None, dir.as_fd(), c"blob"), "it is no directory");
        assert!(tree.move_out(&path, Some(seen), dir.as_fd(), c"blob"));
        assert!(!tree.move_out(&path, Some(seen), dir.as_fd(), c"blob"), "it is gone");
        assert_eq!(fs::read_to_string(store.join("blob")).expect("reads"), "x");
        assert!(!bin.join("a").exists());
        fs::create_dir(bin.join("a")).expect("mkdir");
        fs::write(bin.join("a/f"), "y").expect("writes");
        fs::set_permissions(bin.join("a"), fs::Permissions::from_mode(0o555)).expect("chmod");
        assert!(tree.move_out(&path, None, dir.as_fd(), c"tree"));
        assert_eq!(fs::read_to_string(store.join("tree/f")).expect("reads"), "y");
    }

    #[test]
    fn a_copy_is_hashed() {
        let root = tempfile::tempdir().expect("temp dir");
        let bytes: Vec<u8> = (0..700_000_u32).map(|i| (i % 251) as u8).collect();
        fs::write(root.path().join("a"), &bytes).expect("writes");
        let from = File::open(root.path().join("a")).expect("opens");
        let flags = fs::File::options().read(true).write(true).create_new(true).clone();
        let to = flags.open(root.path().join("b")).expect("makes");
        for function in [DigestFunction::Sha256, DigestFunction::Blake3] {
            assert_eq!(
                copy_hashed(&from, &to, function, &StopFlag::default()).expect("copies"),
                function.digest(&bytes)
            );
        }
        assert_eq!(fs::read(root.path().join("b")).expect("reads"), bytes);
    }
}
