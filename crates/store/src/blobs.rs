//! One directory of files that are named by digests.
//!
//! A name is only given by a rename, so what has one was complete; whether it still is its reader finds out. It does not
//! know how much there may be.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use minibuild_core::{Digest, DigestFunction};
use minibuild_disk::touch;
use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

/// Files by digest, all of one function.
pub(crate) struct BlobDir {
    dir: OwnedFd,
    rights: Rights,
    /// A file counts as used now if it is used so long after it last was.
    renewed_after: Duration,
    /// Which directories of the next level are there.
    made: Box<[AtomicBool]>,
}

/// What others may do with new files and directories.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rights {
    pub directory: Mode,
    pub file: Mode,
}

impl Rights {
    /// Of what belongs to one workspace.
    pub fn private() -> Self {
        Self { directory: Mode::from_raw_mode(0o755), file: Mode::from_raw_mode(0o444) }
    }

    /// Those of the directory that all share. Who may write it may renew and collect what is in it, which takes the right
    /// to write the files; what they hold is checked by each reader.
    pub fn of(shared: BorrowedFd<'_>) -> rustix::io::Result<Self> {
        let mode = rustix::fs::fstat(shared)?.st_mode;
        let file = 0o444 & mode | 0o400 | 0o022 & mode;
        Ok(Self { directory: Mode::from_raw_mode(mode & 0o7777 | 0o700), file: Mode::from_raw_mode(file) })
    }
}

/// The name of a function's directory.
pub(crate) fn name_of(function: DigestFunction) -> &'static str {
    match function {
        DigestFunction::Sha256 => "sha256",
        DigestFunction::Blake3 => "blake3",
    }
}

/// Opens the directory `path` in `base`, made where it is missing.
pub(crate) fn ensure_dir(base: BorrowedFd<'_>, path: &str, rights: Rights) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::openat(base, path, flags, Mode::empty()) {
        Err(Errno::NOENT) => {}
        opened => return opened,
    }
    match rustix::fs::mkdirat(base, path, rights.directory) {
        Err(error) if error != Errno::EXIST => return Err(error),
        _ => {}
    }
    let opened = rustix::fs::openat(base, path, flags, Mode::empty())?;
    // The process's mask is not for what is shared. Whoever else made it has done the same.
    let _ = rustix::fs::fchmod(&opened, rights.directory);
    Ok(opened)
}

impl BlobDir {
    /// The directory of `function` in `base`, made where it is missing.
    pub fn open(
        base: BorrowedFd<'_>,
        function: DigestFunction,
        rights: Rights,
        renewed_after: Duration,
    ) -> rustix::io::Result<Self> {
        let dir = ensure_dir(base, name_of(function), rights)?;
        let made = (0..256).map(|_| AtomicBool::new(false)).collect();
        Ok(Self { dir, rights, renewed_after, made })
    }

    /// The directory that [`Self::place`] is relative to.
    pub fn dir(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }

    /// Rights of files.
    pub fn rights(&self) -> Rights {
        self.rights
    }

    /// Where a blob is or would be; the directory it is in is there.
    pub fn place(&self, digest: &Digest) -> rustix::io::Result<CString> {
        let first = usize::from(digest.hash[0]);
        if !self.made[first].load(Ordering::Relaxed) {
            ensure_dir(self.dir.as_fd(), &digest.hex()[..2], self.rights)?;
            self.made[first].store(true, Ordering::Relaxed);
        }
        Ok(path_of(digest))
    }

    /// Whether a blob is there, as far as its size tells; it counts as used then.
    pub fn has(&self, digest: &Digest) -> bool {
        self.is_there(&path_of(digest), digest.size)
    }

    /// A blob to be read, and by that used. What it holds is to be checked.
    pub fn get(&self, digest: &Digest) -> Option<File> {
        let path = path_of(digest);
        self.is_there(&path, digest.size).then(|| open(self.dir(), &path).ok()).flatten()
    }

    /// A blob that has to fit into memory, checked; one that is wrong is removed.
    pub fn read(&self, digest: &Digest, function: DigestFunction) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        io::Read::read_to_end(&mut self.get(digest)?, &mut bytes).ok()?;
        if function.digest(&bytes) == *digest {
            return Some(bytes);
        }
        self.remove(digest);
        None
    }

    /// All of the file under this name, whatever its size up to `most`; it counts as used.
    pub fn read_any(&self, name: &Digest, most: u64) -> Option<Vec<u8>> {
        let path = path_of(name);
        let file = open(self.dir(), &path).ok()?;
        let stat = rustix::fs::fstat(&file).ok()?;
        let is_file = FileType::from_raw_mode(stat.st_mode).is_file();
        if !is_file || u64::try_from(stat.st_size).is_ok_and(|size| size > most) {
            return None;
        }
        let mut bytes = Vec::new();
        io::Read::read_to_end(&mut io::Read::take(&file, most), &mut bytes).ok()?;
        self.renew(&path, &stat);
        Some(bytes)
    }

    /// Removes what is no good.
    pub fn remove(&self, digest: &Digest) {
        // Gone already, or somebody else's to remove: either way nobody relies on it.
        let _ = rustix::fs::unlinkat(&self.dir, path_of(digest), AtFlags::empty());
    }

    fn is_there(&self, path: &CString, size: u64) -> bool {
        let Ok(stat) = rustix::fs::statat(&self.dir, path, AtFlags::SYMLINK_NOFOLLOW) else { return false };
        let is_it = FileType::from_raw_mode(stat.st_mode).is_file() && u64::try_from(stat.st_size) == Ok(size);
        if is_it {
            self.renew(path, &stat);
        }
        is_it
    }

    fn renew(&self, path: &CString, stat: &rustix::fs::Stat) {
        let age = since_epoch(SystemTime::now()).abs_diff(mtime(stat));
        if age >= self.renewed_after {
            // Without the right to it, it goes a bit sooner than it should.
            let _ = touch(self.dir(), path);
        }
    }
}

/// Returns the time since the epoch; zero for an earlier one.
pub(crate) fn since_epoch(time: SystemTime) -> Duration {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

/// Returns when a file was used last, since the epoch.
pub(crate) fn mtime(stat: &rustix::fs::Stat) -> Duration {
    let nanoseconds = u32::try_from(stat.st_mtime_nsec).unwrap_or(0);
    Duration::new(u64::try_from(stat.st_mtime).unwrap_or(0), nanoseconds)
}

/// Where in its directory a blob is or would be.
pub(crate) fn path_of(digest: &Digest) -> CString {
    let hex = digest.hex();
    CString::new(format!("{}/{}", &hex[..2], &hex[2..])).unwrap_or_default()
}

fn open(dir: BorrowedFd<'_>, path: &CString) -> rustix::io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    rustix::fs::openat(dir, path, flags, Mode::empty()).map(File::from)
}
