//! Files that others name: read whole if they are regular files.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use minibuild_core::Fingerprint;
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::stat::fingerprint_of;

/// Reads a regular file, or one that symlinks lead to.
///
/// # Errors
/// Those of the operating system. `IsADirectory` or `InvalidInput` for anything else: opening a pipe would wait for a writer,
/// and some devices never end.
pub fn read_regular_file(path: &Path) -> io::Result<Vec<u8>> {
    read_regular(path).map(|(bytes, ..)| bytes)
}

/// Reads a regular file with its fingerprints before and after.
pub(crate) fn read_regular(path: &Path) -> io::Result<(Vec<u8>, Fingerprint, Fingerprint)> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let mut file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    let stat = rustix::fs::fstat(&file)?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => {}
        FileType::Directory => return Err(Errno::ISDIR.into()),
        _ => return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file")),
    }
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok((bytes, fingerprint_of(&stat), fingerprint_of(&rustix::fs::fstat(&file)?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_regular_file_is_an_error_at_once() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let (file, pipe, link) = (dir.path().join("file"), dir.path().join("pipe"), dir.path().join("link"));
        std::fs::write(&file, "text").expect("writes");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).expect("makes a pipe");
        std::os::unix::fs::symlink("file", &link).expect("links");
        assert_eq!(read_regular_file(&link).expect("reads"), b"text");
        let kind = |path: &Path| read_regular_file(path).expect_err("an error").kind();
        assert_eq!(kind(&pipe), io::ErrorKind::InvalidInput);
        assert_eq!(kind(Path::new("/dev/zero")), io::ErrorKind::InvalidInput);
        assert_eq!(kind(dir.path()), io::ErrorKind::IsADirectory);
        assert_eq!(kind(&dir.path().join("absent")), io::ErrorKind::NotFound);
    }
}
