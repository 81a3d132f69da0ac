//! Files of the store: how they are found, sealed, told from changed ones, and whose directory it is.
//!
//! It does not know what the files hold, nor the index.

use std::fs::{self, File, FileTimes, Permissions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::{Duration, SystemTime};

use minibuild_core::Digest;
use minibuild_disk::DiskError;

/// Every file of the store was last modified then.
const MARK: Duration = Duration::from_secs(1_000_000_000);
/// How long the directory of another server is waited for.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);

/// A file in one of the directories.
pub(super) struct Found {
    pub(super) path: PathBuf,
    pub(super) size: u64,
    /// Seconds since the epoch.
    pub(super) used_at: i64,
    pub(super) is_variant: bool,
    pub(super) is_intact: bool,
}

/// Looks at two levels of directories; what has no business there is left alone.
pub(super) fn scan(top: &Path, mut found: impl FnMut([u8; 32], Found)) -> Result<(), DiskError> {
    for entry in walkdir::WalkDir::new(top).min_depth(2).max_depth(2) {
        let entry = entry.map_err(|e| {
            let path = e.path().unwrap_or(top).display().to_string();
            DiskError::new("read", path, e.into_io_error().unwrap_or_else(|| io::Error::other("a loop of links")))
        })?;
        let Some(name) = entry.file_name().to_str() else { continue };
        let (hex, is_variant) = name.strip_suffix(EXECUTABLE).map_or((name, false), |hex| (hex, true));
        let (Ok(digest), Ok(meta)) = (format!("{hex}/0").parse::<Digest>(), entry.metadata()) else { continue };
        if !meta.is_file() {
            continue;
        }
        let path = entry.path().to_owned();
        let is_intact = is_sealed(&meta);
        found(digest.hash, Found { path, size: meta.len(), used_at: meta.atime(), is_variant, is_intact });
    }
    Ok(())
}

const EXECUTABLE: &str = ".x";

/// Where the executable copy of a blob lies.
pub(super) fn executable_path(plain: &Path) -> PathBuf {
    let mut path = plain.as_os_str().to_owned();
    path.push(EXECUTABLE);
    path.into()
}

/// Makes a file look like every other one of the store.
pub(super) fn seal(path: &Path, mode: u32) -> Result<(), DiskError> {
    let file = File::open(path).map_err(|e| disk("open", path, e))?;
    let times = FileTimes::new().set_modified(SystemTime::UNIX_EPOCH + MARK).set_accessed(SystemTime::now());
    file.set_times(times).map_err(|e| disk("set the times of", path, e))?;
    file.set_permissions(Permissions::from_mode(mode)).map_err(|e| disk("set the mode of", path, e))
}

/// Whether nobody wrote to a file since it was sealed.
pub(super) fn is_sealed(meta: &fs::Metadata) -> bool {
    meta.modified().is_ok_and(|time| time == SystemTime::UNIX_EPOCH + MARK)
}

/// The lock of the directory. What a server that was killed left behind lets go of it once it is dead itself.
pub(super) fn take_lock(path: &Path) -> Result<Arc<OwnedFd>, DiskError> {
    let fail = |error| disk("lock (does another server use it?)", path, error);
    let open = File::options().create(true).truncate(false).write(true).open(path);
    let file = open.map_err(|e| disk("open", path, e))?;
    match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => return Ok(Arc::new(file.into())),
        Err(rustix::io::Errno::WOULDBLOCK) => {}
        Err(error) => return Err(fail(error.into())),
    }
    let (sender, locked) = channel();
    let waiting = std::thread::Builder::new().name("lock".into()).spawn(move || {
        let taken = rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive).map(|()| file);
        // Where nobody waits any more the lock goes with the file.
        let _ = sender.send(taken);
    });
    waiting.map_err(fail)?;
    match locked.recv_timeout(LOCK_PATIENCE) {
        Ok(Ok(file)) => Ok(Arc::new(file.into())),
        Ok(Err(error)) => Err(fail(error.into())),
        Err(_) => Err(fail(io::ErrorKind::WouldBlock.into())),
    }
}

/// With its parents; one that is there is fine.
pub(super) fn make_dir(path: &Path) -> Result<(), DiskError> {
    fs::create_dir_all(path).map_err(|e| disk("create", path, e))
}

/// One that is not there is fine.
pub(super) fn remove_file(path: &Path) -> Result<(), DiskError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(disk("remove", path, error)),
        _ => Ok(()),
    }
}

/// For `map_err`.
pub(crate) fn disk(action: &'static str, path: &Path, error: io::Error) -> DiskError {
    DiskError::new(action, path.display().to_string(), error)
}
