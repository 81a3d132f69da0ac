//! One build at a time in a workspace.
//!
//! The lock is held by this process and by whatever it starts that may still write: helpers and commands inherit it,
//! so that even after a SIGKILL of everything of ours no second build runs beside a survivor.

use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Seek as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use minibuild_core::STATE_ROOT;
pub use minibuild_disk::prepare_out_root;
use minibuild_disk::{DiskError, adopt_state};
use nix::fcntl::{Flock, FlockArg};

/// The held lock.
#[derive(Debug)]
pub struct WorkspaceLock {
    lock: Flock<File>,
    path: PathBuf,
}

/// Who holds a lock that is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Its process id.
    pub pid: u32,
    /// Its command line.
    pub command: String,
}

/// The lock's file, in the state's directory.
pub const LOCK: &str = "lock";
/// How often a lock that is held is tried again.
const RETRY: Duration = Duration::from_millis(20);

impl WorkspaceLock {
    /// Takes the lock of the workspace, waiting as long as another process has it. `waiting` is told once which one that
    /// is; `interrupted` waits for an interrupt that long, and the wait ends with `None` if one comes.
    ///
    /// # Errors
    /// Those of the operating system, with the path; and if the process that has it waits for this one.
    pub fn take(
        workspace: &Path,
        command: &str,
        mut waiting: impl FnMut(&Holder),
        mut interrupted: impl FnMut(Duration) -> bool,
    ) -> Result<Option<Self>, DiskError> {
        let path = workspace.join(STATE_ROOT).join(LOCK);
        let fail = |e: std::io::Error| DiskError::new("open the lock", path.display().to_string(), e);
        let mut file = open(workspace, &path)?;
        let mut told: Option<Holder> = None;
        loop {
            match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(lock) if !is_same_file(&lock, &path) => {
                    // Another process removed the whole output directory while this one waited.
                    drop(lock);
                    file = open(workspace, &path)?;
                    continue;
                }
                Ok(mut lock) => {
                    adopt_state(&workspace.join(STATE_ROOT))?;
                    let text = format!("{}\n{command}\n", std::process::id());
                    lock.set_len(0)
                        .and_then(|()| lock.rewind())
                        .and_then(|()| lock.write_all(text.as_bytes()))
                        .map_err(fail)?;
                    return Ok(Some(Self { lock, path }));
                }
                Err((back, nix::errno::Errno::EWOULDBLOCK | nix::errno::Errno::EINTR)) => file = back,
                Err((_, errno)) => return Err(refused(&path, errno)),
            }
            if let Some(holder) = holder(&mut file)
                && told.as_ref() != Some(&holder)
            {
                if minibuild_local::is_ancestor(holder.pid) {
                    return Err(waits_for_this(&path, &holder));
                }
                waiting(&holder);
                told = Some(holder);
            }
            if interrupted(RETRY) {
                return Ok(None);
            }
        }
    }

    /// Removes the lock's file and gives the lock up: the last thing done where everything is removed. Whoever waits for
    /// it makes another.
    ///
    /// # Errors
    /// Where it cannot be removed.
    pub fn remove(self) -> Result<(), DiskError> {
        let removed = fs::remove_file(&self.path);
        removed.map_err(|e| DiskError::new("remove", self.path.display().to_string(), e))
    }

    /// A descriptor that holds the lock, too: for helpers and commands.
    ///
    /// # Errors
    /// Where there is no free descriptor.
    pub fn share(&self) -> std::io::Result<OwnedFd> {
        Ok(OwnedFd::from(self.lock.try_clone()?))
    }
}

/// Opens the lock's file, and makes what is missing: `clean --all` may remove it at any moment.
fn open(workspace: &Path, path: &Path) -> Result<File, DiskError> {
    let fail = |e: std::io::Error| DiskError::new("open the lock", path.display().to_string(), e);
    let mut last = None;
    for _ in 0..MOST_TRIES {
        // A lock that is a symlink came with a checkout: what it leads to is not minibuild's to write.
        let flags = i32::try_from(rustix::fs::OFlags::NOFOLLOW.bits()).unwrap_or_default();
        match OpenOptions::new().read(true).write(true).create(true).truncate(false).custom_flags(flags).open(path) {
            Ok(file) => return Ok(file),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => last = Some(error),
            Err(_) if fs::symlink_metadata(path).is_ok_and(|meta| meta.is_symlink()) => {
                fs::remove_file(path).map_err(fail)?;
                continue;
            }
            Err(error) => return Err(fail(error)),
        }
        match prepare_out_root(workspace) {
            Err(error) if error.os_error().kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Err(fail(last.unwrap_or_else(|| std::io::ErrorKind::NotFound.into())))
}

/// How often the lock's file is made again that another process removes meanwhile.
const MOST_TRIES: usize = 100;

fn refused(path: &Path, errno: nix::errno::Errno) -> DiskError {
    use nix::errno::Errno;
    let source = match errno {
        Errno::ENOLCK | Errno::ENOSYS | Errno::EOPNOTSUPP => std::io::Error::other(
            "its file system has no locks (flock)\nhint: make `minibuild-out` a symlink to an empty directory of another file system",
        ),
        other => other.into(),
    };
    DiskError::new("take the lock", path.display().to_string(), source)
}

/// A build in a command of a build: each would wait for the other.
fn waits_for_this(path: &Path, holder: &Holder) -> DiskError {
    let Holder { pid, command } = holder;
    let text = format!(
        "the process {pid} that holds it (`{command}`) waits for this one\n\
         hint: a command of a build cannot build in the same workspace; make what it needs an input of its target"
    );
    DiskError::new("take the lock", path.display().to_string(), std::io::Error::other(text))
}

fn is_same_file(file: &File, path: &Path) -> bool {
    let id = |m: fs::Metadata| (m.dev(), m.ino());
    file.metadata().ok().map(id) == fs::metadata(path).ok().map(id)
}

/// Who holds the lock: whoever wrote its name into it, if alive; else any process that has the file open.
fn holder(file: &mut File) -> Option<Holder> {
    let mut text = String::new();
    file.rewind().ok()?;
    file.read_to_string(&mut text).ok()?;
    let (pid, command) = text.split_once('\n').unwrap_or(("", ""));
    let written = pid.parse().ok().map(|pid| Holder { pid, command: command.trim_end().to_owned() });
    let metadata = file.metadata().ok()?;
    let holds = |pid: u32| has_open(pid, metadata.dev(), metadata.ino());
    if let Some(holder) = written.filter(|holder| holds(holder.pid)) {
        return Some(holder);
    }
    let own = std::process::id();
    let mut pids: Vec<u32> =
        fs::read_dir("/proc").ok()?.flatten().filter_map(|e| e.file_name().to_str()?.parse().ok()).collect();
    pids.sort_unstable();
    let pid = pids.into_iter().find(|&pid| pid != own && holds(pid))?;
    let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let command = String::from_utf8_lossy(&command).replace('\0', " ").trim_end().to_owned();
    Some(Holder { pid, command })
}

fn has_open(pid: u32, dev: u64, ino: u64) -> bool {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    entries.flatten().any(|entry| fs::metadata(entry.path()).is_ok_and(|m| m.dev() == dev && m.ino() == ino))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_waits_and_is_told_by_whom_it_is_held() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let first = WorkspaceLock::take(dir.path(), "minibuild build //x", |_| {}, |_| false).expect("opens");
        assert!(first.is_some());
        let mut told = Vec::new();
        let asked = std::cell::Cell::new(0);
        let second = WorkspaceLock::take(
            dir.path(),
            "other",
            |holder| told.push(holder.clone()),
            |_| {
                asked.set(asked.get() + 1);
                asked.get() > 2
            },
        );
        assert!(second.expect("opens").is_none());
        let expected = Holder { pid: std::process::id(), command: "minibuild build //x".to_owned() };
        assert_eq!(told, [expected]);
        drop(first);
        assert!(
            WorkspaceLock::take(dir.path(), "third", |_| panic!("it is free"), |_| false).expect("opens").is_some()
        );
    }

    #[test]
    fn a_lock_that_is_a_symlink_leads_nowhere() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let state = prepare_out_root(dir.path()).expect("prepares");
        fs::write(dir.path().join("mine"), "mine").expect("writes");
        for target in ["../../mine", "../../made"] {
            std::os::unix::fs::symlink(target, state.join(LOCK)).expect("links");
            let lock = WorkspaceLock::take(dir.path(), "x", |_| panic!("it is free"), |_| false).expect("opens");
            assert!(lock.is_some());
            assert_eq!(fs::read_to_string(dir.path().join("mine")).expect("reads"), "mine");
            assert!(!dir.path().join("made").exists());
            fs::remove_file(state.join(LOCK)).expect("removes");
        }
    }

    #[test]
    fn a_lock_that_is_removed_by_its_holder_is_made_again_by_the_next() {
        let dir = tempfile::tempdir().expect("temporary directory");
        prepare_out_root(dir.path()).expect("prepares");
        let take = || WorkspaceLock::take(dir.path(), "x", |_| {}, |_| false).expect("opens").expect("it is free");
        let first = std::cell::Cell::new(Some(take()));
        // The holder removes everything while the second one waits.
        let interrupted = |_| {
            if let Some(first) = first.take() {
                first.remove().expect("removes");
                fs::remove_dir_all(dir.path().join("minibuild-out")).expect("removes");
            }
            false
        };
        let second = WorkspaceLock::take(dir.path(), "second", |_| {}, interrupted).expect("opens");
        assert!(second.is_some() && dir.path().join("minibuild-out/CACHEDIR.TAG").exists());
    }
}
