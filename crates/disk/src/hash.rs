//! Reading a file into its digest, together with a fingerprint that is known to belong to those bytes.
//!
//! It does not know what the digest is for, and keeps nothing.

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::fd::AsFd;

use minibuild_core::{Digest, DigestFunction, Fingerprint, Stamp, StopFlag};
use rustix::fs::{Mode, OFlags};

use crate::clock::FsInstant;
use crate::stat::fingerprint_of;

/// Bytes read at a time; files up to this size take one read.
const PIECE: usize = 256 * 1024;
/// Bytes between two looks whether to stop. What an interrupted command just made is still worth a fraction of a second.
const LARGE: u64 = 64 << 20;
/// How often a file that changes while it is read is read again.
const TRIES: u32 = 3;

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// A regular file's content by digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HashedFile {
    /// Of its bytes.
    pub digest: Digest,
    /// Of its state when they were read. Never trusted where the file kept changing meanwhile.
    pub stamp: Stamp,
}

impl HashedFile {
    /// Whether the file has its executable bit.
    pub fn executable(&self) -> bool {
        self.stamp.fingerprint.mode & 0o111 != 0
    }
}

/// Hashes the regular file at `path` relative to `dir`; `now` was read from the file system's clock before.
/// A symlink at the last component is not followed.
///
/// # Errors
/// Those of opening and reading; `ELOOP` for a symlink, `InvalidInput` for anything else but a regular file.
pub fn hash_file(
    dir: impl AsFd,
    path: impl rustix::path::Arg,
    function: DigestFunction,
    now: FsInstant,
) -> io::Result<HashedFile> {
    hash_file_until(dir, path, function, now, None)
}

/// As [`hash_file`], but a large file is given up once `stop` is set.
///
/// # Errors
/// As [`hash_file`].
pub fn hash_file_until(
    dir: impl AsFd,
    path: impl rustix::path::Arg,
    function: DigestFunction,
    now: FsInstant,
    stop: Option<&StopFlag>,
) -> io::Result<HashedFile> {
    // Without NONBLOCK, opening a pipe would wait for a writer.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let mut file = File::from(rustix::fs::openat(dir, path, flags, Mode::empty())?);
    hash_open_file(&mut file, function, now, stop)
}

/// Hashes an open file from its beginning.
pub(crate) fn hash_open_file(
    file: &mut File,
    function: DigestFunction,
    now: FsInstant,
    stop: Option<&StopFlag>,
) -> io::Result<HashedFile> {
    let before = regular(file)?;
    hash_seen_file(file, before, function, now, stop)
}

/// The same for a regular file that was looked at just before.
pub(crate) fn hash_seen_file(
    file: &mut File,
    mut before: Fingerprint,
    function: DigestFunction,
    now: FsInstant,
    stop: Option<&StopFlag>,
) -> io::Result<HashedFile> {
    for attempt in 0.. {
        if attempt > 0 {
            file.rewind()?;
        }
        let digest = BUFFER.with_borrow_mut(|buffer| read_through(file, buffer, before.size, function, stop))?;
        let after = regular(file)?;
        if before == after && digest.size == after.size {
            return Ok(HashedFile { digest, stamp: now.stamp(after) });
        }
        if attempt + 1 >= TRIES {
            return Ok(HashedFile { digest, stamp: Stamp { fingerprint: after, trusted: false } });
        }
        before = after;
    }
    unreachable!("the loop above returns")
}

fn regular(file: &File) -> io::Result<Fingerprint> {
    let stat = rustix::fs::fstat(file)?;
    if !rustix::fs::FileType::from_raw_mode(stat.st_mode).is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    Ok(fingerprint_of(&stat))
}

fn read_through(
    file: &mut File,
    buffer: &mut Vec<u8>,
    size: u64,
    function: DigestFunction,
    stop: Option<&StopFlag>,
) -> io::Result<Digest> {
    buffer.resize(PIECE, 0);
    let mut hasher = function.hasher();
    let (mut total, mut look_at) = (0, LARGE);
    // The size that was seen ends the reading without one more call; the caller compares it afterwards.
    while total < size {
        let got = match file.read(buffer) {
            Ok(0) => break,
            Ok(got) => got,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        hasher.update(&buffer[..got]);
        total += got as u64;
        if total >= look_at {
            look_at = total + LARGE;
            if stop.is_some_and(StopFlag::is_set) {
                return Err(io::Error::other("interrupted"));
            }
        }
    }
    Ok(hasher.finish())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const LATER: FsInstant = FsInstant::of_all_devices(i64::MAX, Duration::from_millis(20));

    fn check(content: &[u8]) {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("f");
        std::fs::write(&path, content).expect("write");
        for function in [DigestFunction::Sha256, DigestFunction::Blake3] {
            let hashed = hash_file(rustix::fs::CWD, &path, function, LATER).expect("hash");
            assert_eq!(hashed.digest, function.digest(content));
            assert!(hashed.stamp.trusted && !hashed.executable());
        }
    }

    #[test]
    fn sizes_around_the_buffer() {
        for size in [0, 1, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE + 17] {
            check(&(0..size).map(|i| (i % 251) as u8).collect::<Vec<_>>());
        }
    }

    #[test]
    fn large_file_is_given_up_after_a_stop_and_a_small_one_is_not() {
        let dir = tempfile::tempdir().expect("temp dir");
        let (stop, function) = (StopFlag::default(), DigestFunction::Blake3);
        stop.set();
        let hash = |size: u64| {
            let path = dir.path().join("f");
            File::create(&path).and_then(|file| file.set_len(size)).expect("a sparse file");
            hash_file_until(rustix::fs::CWD, &path, function, LATER, Some(&stop))
        };
        assert!(hash(1000).is_ok());
        assert!(hash(1 << 40).is_err());
    }

    #[test]
    fn only_regular_files_are_hashed() {
        let dir = tempfile::tempdir().expect("temp dir");
        let at = |name: &str| hash_file(rustix::fs::CWD, dir.path().join(name), DigestFunction::Sha256, LATER);
        std::os::unix::fs::symlink("f", dir.path().join("link")).expect("symlink");
        let pipe = dir.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).expect("fifo");
        assert_eq!(at("missing").map_err(|e| e.kind()), Err(io::ErrorKind::NotFound));
        assert_eq!(at("link").map_err(|e| e.raw_os_error()), Err(Some(40)));
        assert_eq!(at("pipe").map_err(|e| e.kind()), Err(io::ErrorKind::InvalidInput));
        assert_eq!(at("").map_err(|e| e.kind()), Err(io::ErrorKind::InvalidInput));
    }

    #[test]
    fn a_file_written_after_the_clock_was_read_is_not_trusted() {
        let dir = tempfile::tempdir().expect("temp dir");
        std::fs::write(dir.path().join("f"), "x").expect("write");
        let early = FsInstant::of_all_devices(0, LATER.granularity);
        let hashed = hash_file(rustix::fs::CWD, dir.path().join("f"), DigestFunction::Sha256, early).expect("hash");
        assert!(!hashed.stamp.trusted);
    }
}
