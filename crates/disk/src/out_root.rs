//! The directory `minibuild-out` and its private state, which a checkout may have brought.
//!
//! Version control stores symlinks, so nothing here is led out of the workspace by one that the user did not make:
//! `minibuild-out` may be a symlink to a directory that is empty or minibuild's own, and below it none is followed.

use std::ffi::CStr;
use std::fs;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use minibuild_core::{OUT_ROOT, STATE_ROOT};
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use crate::remove::{is_dir, open_listing};
use crate::{DiskError, beneath};

/// The state directory, from `minibuild-out`.
const STATE: &str = ".state";
/// Says which directory the state was made in; a copy is another one.
const ORIGIN: &str = "origin";
/// What every directory of minibuild has, hidden from version control and backups by it.
const MARKERS: [(&str, &str); 2] = [
    (".gitignore", "*\n"),
    (
        "CACHEDIR.TAG",
        "Signature: 8a477f597d28d172789f06886806bc55\n# Made by minibuild; backup tools may leave it out.\n",
    ),
];

/// Directories looked through below each other.
const MAX_DEPTH: usize = 32;

/// Makes `minibuild-out` with its state directory; gives the path of the latter.
///
/// # Errors
/// Where a symlink leads elsewhere, and those of the operating system.
pub fn prepare_out_root(workspace: &Path) -> Result<PathBuf, DiskError> {
    let path = workspace.join(OUT_ROOT);
    let out = open_out(&path)?;
    let state = workspace.join(STATE_ROOT);
    let fail = |e: Errno| DiskError::new("create the directory", state.display().to_string(), e);
    match rustix::fs::mkdirat(&out, STATE, Mode::from_raw_mode(0o777)) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(fail(error)),
    }
    match beneath::open_dir(&out, STATE) {
        Ok(_) => {}
        Err(Errno::LOOP | Errno::NOTDIR) if is_link(out.as_fd(), STATE) => {
            let text = format!("it is a symlink, and minibuild follows none in `{OUT_ROOT}`\nhint: remove it");
            return Err(DiskError::new("use", state.display().to_string(), io::Error::other(text)));
        }
        Err(error) => return Err(fail(error)),
    }
    for (name, text) in MARKERS {
        write_marker(out.as_fd(), name, text)
            .map_err(|e| DiskError::new("write", path.join(name).display().to_string(), e))?;
    }
    Ok(state)
}

/// Removes symlinks, pipes, sockets and devices at any depth of the state directory. A checkout or a copy of the workspace may
/// have left them there; they lead writes elsewhere or make them wait. Does nothing for a directory that was looked through
/// before. The workspace lock is held.
///
/// # Errors
/// Those of the operating system.
pub fn adopt_state(state: &Path) -> Result<(), DiskError> {
    let fail = |e: io::Error| DiskError::new("look through", state.display().to_string(), e);
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let dir = rustix::fs::open(state, flags, Mode::empty()).map_err(|e| fail(e.into()))?;
    let stat = rustix::fs::fstat(&dir).map_err(|e| fail(e.into()))?;
    // No checkout knows the inode it will get.
    let origin = format!("{} {}\n", stat.st_dev, stat.st_ino);
    if read_small(dir.as_fd(), ORIGIN).is_ok_and(|text| text == origin) {
        return Ok(());
    }
    remove_special_files(dir).map_err(|e| fail(e.into()))?;
    let write = || {
        let dir = rustix::fs::open(state, flags, Mode::empty())?;
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = rustix::fs::openat(dir, ORIGIN, flags, Mode::from_raw_mode(0o644))?;
        fs::File::from(file).write_all(origin.as_bytes())
    };
    write().map_err(|e: io::Error| DiskError::new("write", state.join(ORIGIN).display().to_string(), e))
}

/// Opens `minibuild-out`, made where it is missing.
fn open_out(path: &Path) -> Result<OwnedFd, DiskError> {
    let shown = || path.display().to_string();
    let is_link = match fs::symlink_metadata(path) {
        Ok(meta) => meta.is_symlink(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            match fs::create_dir(path) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(DiskError::new("create the directory", shown(), error));
                }
                _ => {}
            }
            false
        }
        Err(error) => return Err(DiskError::new("look at", shown(), error)),
    };
    let follow = if is_link { OFlags::empty() } else { OFlags::NOFOLLOW };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | follow;
    let opened = rustix::fs::open(path, flags, Mode::empty()).map_err(|e| match e {
        Errno::NOENT if is_link => {
            let text =
                "it is a symlink to a directory that does not exist\nhint: make that directory, or remove the link";
            DiskError::new("use", shown(), io::Error::other(text))
        }
        error => DiskError::new("open the directory", shown(), error),
    })?;
    if is_link && !is_ours(opened.as_fd()).map_err(|e| DiskError::new("list", shown(), e))? {
        let target = fs::read_link(path).unwrap_or_default();
        let text = format!(
            "it is a symlink to `{}`, a directory that is neither empty nor minibuild's own\nhint: remove the link, or empty that directory if nothing in it is needed",
            target.display()
        );
        return Err(DiskError::new("use", shown(), io::Error::other(text)));
    }
    Ok(opened)
}

/// Whether a directory is empty, or has the marker of minibuild.
fn is_ours(dir: BorrowedFd<'_>) -> io::Result<bool> {
    let [_, (tag, text)] = MARKERS;
    if read_small(dir, tag).is_ok_and(|found| found == text) {
        return Ok(true);
    }
    for entry in rustix::fs::Dir::read_from(dir)? {
        let name = entry?.file_name().to_owned();
        if name.as_c_str() != c"." && name.as_c_str() != c".." && name.as_c_str() != c"lost+found" {
            return Ok(false);
        }
    }
    Ok(true)
}

/// A regular file with a line or two.
fn read_small(dir: BorrowedFd<'_>, name: &str) -> io::Result<String> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = fs::File::from(rustix::fs::openat(dir, name, flags, Mode::empty())?);
    let mut text = String::new();
    file.take(4096).read_to_string(&mut text)?;
    Ok(text)
}

/// Makes a marker where there is none. What lies there already, a symlink included, stays.
fn write_marker(out: BorrowedFd<'_>, name: &str, text: &str) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::openat(out, name, flags, Mode::from_raw_mode(0o666)) {
        Ok(file) => fs::File::from(file).write_all(text.as_bytes()),
        Err(Errno::EXIST) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn is_link(dir: BorrowedFd<'_>, name: &str) -> bool {
    rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)
        .is_ok_and(|stat| rustix::fs::FileType::from_raw_mode(stat.st_mode).is_symlink())
}

/// Whether a name is there and is neither a file nor a directory.
fn is_special(dir: BorrowedFd<'_>, name: &CStr) -> bool {
    use rustix::fs::FileType;
    let kind =
        rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).map(|stat| FileType::from_raw_mode(stat.st_mode));
    kind.is_ok_and(|kind| !kind.is_file() && !kind.is_dir())
}

/// Removes everything below a directory that is neither a file nor a directory. As many directories are open as it is deep:
/// what lies deeper than anything written by path waits to be deleted, which follows no link.
fn remove_special_files(top: OwnedFd) -> rustix::io::Result<()> {
    let mut open = vec![rustix::fs::Dir::new(top)?];
    loop {
        let can_go_down = open.len() < MAX_DEPTH;
        let Some(dir) = open.last_mut() else { return Ok(()) };
        let Some(entry) = dir.next() else {
            open.pop();
            continue;
        };
        let entry = entry?;
        let (name, base) = (entry.file_name(), dir.fd()?);
        if name == c"." || name == c".." {
            continue;
        }
        match entry.file_type() {
            rustix::fs::FileType::Directory if can_go_down => {
                let below = open_listing(base, name)?;
                open.push(rustix::fs::Dir::new(below)?);
            }
            rustix::fs::FileType::Unknown if can_go_down && is_dir(base, name) => {
                let below = open_listing(base, name)?;
                open.push(rustix::fs::Dir::new(below)?);
            }
            rustix::fs::FileType::Directory | rustix::fs::FileType::RegularFile => {}
            rustix::fs::FileType::Unknown if !is_special(base, name) => {}
            _ => rustix::fs::unlinkat(base, name, AtFlags::empty())?,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn the_output_directory_ignores_itself() {
        let dir = tempfile::tempdir().expect("temporary directory");
        prepare_out_root(dir.path()).expect("prepares");
        let read = |name: &str| fs::read_to_string(dir.path().join("minibuild-out").join(name)).expect("reads");
        assert_eq!(read(".gitignore"), "*\n");
        assert!(read("CACHEDIR.TAG").starts_with("Signature: 8a477f597d28d172789f06886806bc55"));
    }

    #[test]
    fn a_link_is_taken_to_what_is_empty_or_ours() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let (ws, victim) = (dir.path().join("ws"), dir.path().join("victim"));
        fs::create_dir(&ws).expect("makes");
        symlink("../victim", ws.join("minibuild-out")).expect("links");
        let error = |expected: &str| {
            let text = prepare_out_root(&ws).expect_err("it is refused").render();
            assert!(text.contains(expected) && text.contains("\nhint: "), "{text}");
        };
        error("does not exist");
        fs::create_dir(&victim).expect("makes");
        fs::write(victim.join("bin"), "mine").expect("writes");
        error("neither empty nor minibuild's own");
        assert_eq!(fs::read_dir(&victim).expect("lists").count(), 1);
        fs::remove_file(victim.join("bin")).expect("removes");
        prepare_out_root(&ws).expect("it is empty");
        prepare_out_root(&ws).expect("it is ours");
        assert!(victim.join(".state").is_dir());
    }

    #[test]
    fn links_below_are_not_followed() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let out = dir.path().join("minibuild-out");
        fs::create_dir(&out).expect("makes");
        fs::create_dir(dir.path().join("victim")).expect("makes");
        symlink("../victim", out.join(".state")).expect("links");
        symlink("../made", out.join(".gitignore")).expect("links");
        let text = prepare_out_root(dir.path()).expect_err("it is refused").render();
        assert!(text.contains("it is a symlink") && text.contains("hint: remove it"), "{text}");
        assert_eq!(fs::read_dir(dir.path().join("victim")).expect("lists").count(), 0);
        fs::remove_file(out.join(".state")).expect("removes");
        prepare_out_root(dir.path()).expect("prepares");
        assert!(!dir.path().join("made").exists());
    }

    #[test]
    fn links_of_a_state_that_came_from_elsewhere_are_removed_once() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let state = prepare_out_root(dir.path()).expect("prepares");
        fs::write(dir.path().join("mine"), "").expect("writes");
        fs::create_dir_all(state.join("store/cas/sha256")).expect("makes");
        for name in ["records.new", "origin", "store/size", "store/cas/sha256/ab"] {
            symlink(dir.path().join("mine"), state.join(name)).expect("links");
        }
        adopt_state(&state).expect("looks through");
        for name in ["records.new", "store/size", "store/cas/sha256/ab"] {
            assert!(fs::symlink_metadata(state.join(name)).is_err(), "{name}");
        }
        assert_eq!(fs::read_to_string(dir.path().join("mine")).expect("reads"), "");
        symlink("x", state.join("own")).expect("links");
        adopt_state(&state).expect("was looked through");
        assert!(fs::symlink_metadata(state.join("own")).is_ok());
    }

    #[test]
    fn pipes_of_a_state_that_came_from_elsewhere_are_removed_and_not_waited_for() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let state = prepare_out_root(dir.path()).expect("prepares");
        fs::create_dir(state.join("store")).expect("makes");
        for name in ["origin", "clock", "store/size"] {
            nix::unistd::mkfifo(&state.join(name), nix::sys::stat::Mode::S_IRWXU).expect("makes a pipe");
        }
        adopt_state(&state).expect("looks through");
        assert!(state.join("origin").is_file() && !state.join("clock").exists() && !state.join("store/size").exists());
    }
}
