//! Deleting whatever lies at a name: files, links, directories of any depth and permissions.
//!
//! Symlinks are deleted, never followed. It does not know what it deletes or why.

use std::collections::VecDeque;
use std::ffi::{CStr, CString};
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, Dir, Mode, OFlags};
use rustix::io::{Errno, Result};

use crate::error::DiskError;

/// Directories deeper than this are moved up before they are deleted, so that neither open files nor the stack
/// run out.
const MAX_DEPTH: u32 = 64;

/// Deletes what lies at `path`, a directory with everything below it; nothing there is fine. Not for the output tree,
/// which has its own way.
///
/// # Errors
/// Those of the operating system.
pub fn remove_all(path: &Path) -> std::result::Result<(), DiskError> {
    let fail = |error: std::io::Error| DiskError::new("remove", path.display().to_string(), error);
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(fail(std::io::ErrorKind::InvalidInput.into()));
    };
    let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
    let base = match File::open(parent) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        base => base.map_err(fail)?,
    };
    let name = CString::new(name.as_bytes()).map_err(|e| fail(e.into()))?;
    remove_at(base.as_fd(), &name).map_err(|e| fail(e.into()))
}

/// Deletes what lies at `name` in `base`; nothing there is fine.
pub(crate) fn remove_at(base: BorrowedFd<'_>, name: &CStr) -> Result<()> {
    match rustix::fs::unlinkat(base, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(Errno::ACCESS) => {
            make_writable(base, c".")?;
            if rustix::fs::unlinkat(base, name, AtFlags::empty()).is_ok() {
                return Ok(());
            }
        }
        Err(other) => return Err(other),
    }
    let mut remover = Remover { base, moved: VecDeque::new(), counter: 0 };
    remover.directory(base, name, 0)?;
    while let Some(name) = remover.moved.pop_front() {
        remover.directory(base, &name, 0)?;
    }
    Ok(())
}

/// Gives the owner all rights on the directory `name` in `dir`. The caller knows that it is no symlink.
pub(crate) fn make_writable(dir: impl AsFd, name: &CStr) -> Result<()> {
    let mode = rustix::fs::statat(&dir, name, AtFlags::empty())?.st_mode;
    rustix::fs::chmodat(&dir, name, Mode::from_raw_mode(mode & 0o7777) | Mode::RWXU, AtFlags::empty())
}

/// Opens a directory for listing, made readable first where it is not.
pub(crate) fn open_listing(dir: impl AsFd, name: &CStr) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::openat(&dir, name, flags, Mode::empty()) {
        Err(Errno::ACCESS) if is_dir(&dir, name) => {
            make_writable(&dir, name)?;
            rustix::fs::openat(&dir, name, flags, Mode::empty())
        }
        opened => opened,
    }
}

/// Whether `name` in `dir` is a directory itself, not a link to one.
pub(crate) fn is_dir(dir: impl AsFd, name: &CStr) -> bool {
    rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)
        .is_ok_and(|stat| rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir())
}

struct Remover<'a> {
    base: BorrowedFd<'a>,
    /// Names in `base` of directories that were too deep.
    moved: VecDeque<CString>,
    counter: u32,
}

impl Remover<'_> {
    fn directory(&mut self, parent: BorrowedFd<'_>, name: &CStr, depth: u32) -> Result<()> {
        match rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            Err(Errno::NOTEMPTY | Errno::EXIST | Errno::ACCESS) => {}
            Err(other) => return Err(other),
        }
        let dir = open_listing(parent, name)?;
        let contents = self.contents(dir.as_fd(), depth);
        // Why something inside stays is why this does.
        rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR).map_err(|error| contents.err().unwrap_or(error))
    }

    /// Deletes all that can be; gives the first error of what cannot.
    fn contents(&mut self, dir: BorrowedFd<'_>, depth: u32) -> Result<()> {
        let mut writable = false;
        let mut outcome = Ok(());
        for entry in Dir::read_from(dir)? {
            let entry = entry?;
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            let mut removed = self.entry(dir, name, depth);
            if removed == Err(Errno::ACCESS) && !writable {
                make_writable(dir, c".")?;
                writable = true;
                removed = self.entry(dir, name, depth);
            }
            outcome = outcome.and(removed);
        }
        outcome
    }

    fn entry(&mut self, dir: BorrowedFd<'_>, name: &CStr, depth: u32) -> Result<()> {
        match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
            Err(Errno::ISDIR | Errno::PERM) if depth + 1 >= MAX_DEPTH => self.move_up(dir, name),
            Err(Errno::ISDIR | Errno::PERM) => self.directory(dir, name, depth + 1),
            Err(Errno::NOENT) => Ok(()),
            other => other,
        }
    }

    fn move_up(&mut self, dir: BorrowedFd<'_>, name: &CStr) -> Result<()> {
        loop {
            self.counter += 1;
            let unique = CString::new(format!(".deep-{}-{}", std::process::id(), self.counter)).unwrap_or_default();
            match rustix::fs::renameat(dir, name, self.base, &unique) {
                Ok(()) => {
                    self.moved.push_back(unique);
                    return Ok(());
                }
                Err(Errno::NOTEMPTY | Errno::EXIST) => {}
                Err(Errno::ACCESS) if is_dir(dir, name) => {
                    make_writable(dir, name)?;
                    rustix::fs::renameat(dir, name, self.base, &unique)?;
                    self.moved.push_back(unique);
                    return Ok(());
                }
                Err(other) => return Err(other),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn check(build: impl Fn(&std::path::Path)) {
        let dir = tempfile::tempdir().expect("temp dir");
        fs::write(dir.path().join("keep"), "x").expect("write");
        let inner = dir.path().join("inner");
        fs::create_dir(&inner).expect("mkdir");
        build(&inner.join("victim"));
        let base = File::open(&inner).expect("open");
        remove_at(base.as_fd(), c"victim").expect("removed");
        assert_eq!(fs::read_dir(&inner).expect("list").count(), 0);
        assert!(dir.path().join("keep").exists());
        build(&inner.join("victim"));
        remove_all(&inner.join("victim")).expect("removed");
        assert_eq!(fs::read_dir(&inner).expect("list").count(), 0);
        assert!(dir.path().join("keep").exists());
        remove_all(&inner.join("no/victim")).expect("nothing there is fine");
        assert!(remove_all(Path::new("/")).is_err());
    }

    #[test]
    fn anything_can_be_removed_and_links_are_not_followed() {
        check(|_| {});
        check(|path| fs::write(path, "x").expect("write"));
        check(|path| symlink("../keep", path).expect("symlink"));
        check(|path| {
            fs::create_dir_all(path.join("a/b")).expect("mkdir");
            fs::write(path.join("a/b/f"), "x").expect("write");
            symlink("../../..", path.join("a/up")).expect("symlink");
            for dir in ["a/b", "a"] {
                fs::set_permissions(path.join(dir), Permissions::from_mode(0o555)).expect("chmod");
            }
        });
    }

    #[test]
    fn deep_trees_need_few_open_files() {
        check(|path| {
            let mut deep = path.to_owned();
            for _ in 0..700 {
                deep.push("d");
            }
            fs::create_dir_all(&deep).expect("mkdir");
            fs::write(deep.join("f"), "x").expect("write");
        });
    }
}
