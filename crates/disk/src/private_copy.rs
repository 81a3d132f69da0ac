//! Replacing an output by a private copy of its content.
//!
//! For outputs that share their bytes with something else: a hard link to an input, or a symlink where a file was
//! declared. Making those read-only in place would change the other file. It does not know why it is asked.

use std::fs::File;
use std::io;
use std::os::fd::BorrowedFd;

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use crate::mode::set_mode;

/// Puts a copy of `from` at `name` in `dir`, replacing what lies there, and returns it open for reading.
pub(crate) fn replace_with_copy(dir: BorrowedFd<'_>, name: &str, mut from: File) -> io::Result<File> {
    let temp = format!(".{}.minibuild-copy", std::process::id());
    // Left by an earlier process with our id; only one capture at a time uses this directory and name.
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let (mut to, temp) = create(dir, &temp, flags)?;
    let publish = || {
        io::copy(&mut from, &mut to)?;
        let executable = rustix::fs::fstat(&from)?.st_mode & 0o111 != 0;
        set_mode(&to, Mode::from_raw_mode(if executable { 0o555 } else { 0o444 }))?;
        rustix::fs::renameat(dir, &temp, dir, name)?;
        io::Seek::rewind(&mut to)?;
        Ok(to)
    };
    publish().inspect_err(|_| {
        // The error that counts is the first one.
        let _ = rustix::fs::unlinkat(dir, &temp, AtFlags::empty());
    })
}

fn create(dir: BorrowedFd<'_>, stem: &str, flags: OFlags) -> io::Result<(File, String)> {
    for number in 0..u32::MAX {
        let name = format!("{stem}-{number}");
        match rustix::fs::openat(dir, &name, flags, Mode::from_raw_mode(0o600)) {
            Ok(opened) => return Ok((File::from(opened), name)),
            Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(Errno::EXIST.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn the_copy_is_read_only_and_the_original_untouched() {
        let dir = tempfile::tempdir().expect("temp dir");
        let (source, out) = (dir.path().join("source"), dir.path().join("out"));
        std::fs::write(&source, "text").expect("write");
        std::fs::set_permissions(&source, std::fs::Permissions::from_mode(0o755)).expect("chmod");
        rustix::fs::link(&source, &out).expect("link");
        let handle = File::open(dir.path()).expect("open");
        let copy = replace_with_copy(handle.as_fd(), "out", File::open(&out).expect("open")).expect("copied");
        assert_eq!(io::read_to_string(copy).expect("read"), "text");
        let mode = |path| std::fs::metadata(path).expect("stat").permissions().mode() & 0o777;
        assert_eq!((mode(&source), mode(&out)), (0o755, 0o555));
        std::fs::write(&source, "changed").expect("write");
        assert_eq!(std::fs::read_to_string(&out).expect("read"), "text");
        assert_eq!(std::fs::read_dir(dir.path()).expect("list").count(), 2, "no temporary file stays");
    }
}
