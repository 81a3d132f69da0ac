//! One build at a time in a workspace, and `minibuild-out/` itself.
//!
//! The lock is held by this process and by whatever it starts that may still write: helpers and commands inherit it,
//! so that even after a SIGKILL of everything of ours no second build runs beside a survivor.

use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Seek as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use minibuild_core::STATE_ROOT;
use minibuild_disk::DiskError;
use nix::fcntl::{Flock, FlockArg};

/// The held lock.
#[derive(Debug)]
pub struct WorkspaceLock {
    lock: Flock<File>,
}

/// Who holds a lock that is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Its process id.
    pub pid: u32,
    /// Its command line.
    pub command: String,
}

/// How often a lock that is held is tried again.
const RETRY: Duration = Duration::from_millis(20);

/// Makes `minibuild-out/` with its private state directory, hidden from git and backups.
///
/// # Errors
/// Those of the operating system, with the path.
pub fn prepare_out_root(root: &Path) -> Result<PathBuf, DiskError> {
    let state = root.join(STATE_ROOT);
    if !state.is_dir() {
        prepare_state(&state)?;
    }
    for (name, text) in [
        (".gitignore", "*\n"),
        (
            "CACHEDIR.TAG",
            "Signature: 8a477f597d28d172789f06886806bc55\n# Made by minibuild; backup tools may leave it out.\n",
        ),
    ] {
        let path = root.join(minibuild_core::OUT_ROOT).join(name);
        if !path.exists() {
            fs::write(&path, text).map_err(|e| DiskError::new("write", path.display().to_string(), e))?;
        }
    }
    Ok(state)
}

impl WorkspaceLock {
    /// Takes the lock of the workspace whose state directory is given, waiting as long as somebody else has it.
    /// `waiting` is told once who that is; `interrupted` waits for an interrupt that long, and the wait ends with `None` if one comes.
    ///
    /// # Errors
    /// Those of the operating system, with the path.
    pub fn take(
        state: &Path,
        command: &str,
        mut waiting: impl FnMut(&Holder),
        mut interrupted: impl FnMut(Duration) -> bool,
    ) -> Result<Option<Self>, DiskError> {
        let path = state.join("lock");
        let fail = |e: std::io::Error| DiskError::new("open the lock", path.display().to_string(), e);
        let mut file = open(&path).map_err(fail)?;
        let mut told: Option<Holder> = None;
        loop {
            match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(lock) if !is_same_file(&lock, &path) => {
                    // Somebody removed the whole output directory while this process waited.
                    drop(lock);
                    prepare_state(state)?;
                    file = open(&path).map_err(fail)?;
                    continue;
                }
                Ok(mut lock) => {
                    let text = format!("{}\n{command}\n", std::process::id());
                    lock.set_len(0)
                        .and_then(|()| lock.rewind())
                        .and_then(|()| lock.write_all(text.as_bytes()))
                        .map_err(fail)?;
                    return Ok(Some(Self { lock }));
                }
                Err((back, nix::errno::Errno::EWOULDBLOCK | nix::errno::Errno::EINTR)) => file = back,
                Err((_, errno)) => return Err(fail(errno.into())),
            }
            if let Some(holder) = holder(&mut file)
                && told.as_ref() != Some(&holder)
            {
                waiting(&holder);
                told = Some(holder);
            }
            if interrupted(RETRY) {
                return Ok(None);
            }
        }
    }

    /// A descriptor that holds the lock, too: for helpers and commands.
    ///
    /// # Errors
    /// Where there is no free descriptor.
    pub fn share(&self) -> std::io::Result<OwnedFd> {
        Ok(OwnedFd::from(self.lock.try_clone()?))
    }
}

fn open(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)
}

fn is_same_file(file: &File, path: &Path) -> bool {
    let id = |m: fs::Metadata| (m.dev(), m.ino());
    file.metadata().ok().map(id) == fs::metadata(path).ok().map(id)
}

fn prepare_state(state: &Path) -> Result<(), DiskError> {
    fs::create_dir_all(state).map_err(|e| DiskError::new("create the directory", state.display().to_string(), e))
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
        let state = prepare_out_root(dir.path()).expect("prepares");
        let first = WorkspaceLock::take(&state, "minibuild build //x", |_| {}, |_| false).expect("opens");
        assert!(first.is_some());
        let mut told = Vec::new();
        let asked = std::cell::Cell::new(0);
        let second = WorkspaceLock::take(
            &state,
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
        assert!(WorkspaceLock::take(&state, "third", |_| panic!("it is free"), |_| false).expect("opens").is_some());
    }

    #[test]
    fn the_output_directory_ignores_itself() {
        let dir = tempfile::tempdir().expect("temporary directory");
        prepare_out_root(dir.path()).expect("prepares");
        let read = |name: &str| fs::read_to_string(dir.path().join("minibuild-out").join(name)).expect("reads");
        assert_eq!(read(".gitignore"), "*\n");
        assert!(read("CACHEDIR.TAG").starts_with("Signature: 8a477f597d28d172789f06886806bc55"));
    }
}
