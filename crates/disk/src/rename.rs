//! Renames that replace nothing, also where the file system knows no such call.

use std::ffi::CStr;
use std::os::fd::AsFd;

use rustix::fs::{AtFlags, RenameFlags};
use rustix::io::{Errno, Result};

/// Renames `name` in `from` to `new` in `to`, a directory that only this process writes into; `EXIST` where something
/// lies there.
///
/// NFS, 9p, older ZFS and many FUSE file systems know no flags of `renameat2` and say `EINVAL`.
pub(crate) fn rename_new(from: impl AsFd, name: &CStr, to: impl AsFd, new: &CStr) -> Result<()> {
    match rustix::fs::renameat_with(&from, name, &to, new, RenameFlags::NOREPLACE) {
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP | Errno::PERM) => rename_to_free_name(from, name, to, new),
        answer => answer,
    }
}

/// The look and the rename are two calls. Nothing comes between them: the directory is private, and names are made of the
/// process and a counter.
fn rename_to_free_name(from: impl AsFd, name: &CStr, to: impl AsFd, new: &CStr) -> Result<()> {
    match rustix::fs::statat(&to, new, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(_) => Err(Errno::EXIST),
        Err(Errno::NOENT) => rustix::fs::renameat(from, name, to, new),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};

    use super::*;

    #[test]
    fn both_ways_replace_nothing() {
        type Rename = fn(&File, &CStr, &File, &CStr) -> Result<()>;
        let ways: [Rename; 2] = [|a, b, c, d| rename_new(a, b, c, d), |a, b, c, d| rename_to_free_name(a, b, c, d)];
        for rename in ways {
            let dir = tempfile::tempdir().expect("temp dir");
            for name in ["from", "to", "from/d"] {
                fs::create_dir(dir.path().join(name)).expect("mkdir");
            }
            for name in ["from/f", "to/taken", "from/d/f"] {
                fs::write(dir.path().join(name), name).expect("write");
            }
            std::os::unix::fs::symlink("nowhere", dir.path().join("to/link")).expect("symlink");
            let (from, to) = (dir.path().join("from"), dir.path().join("to"));
            let (from, to) = (File::open(from).expect("open"), File::open(to).expect("open"));
            assert_eq!(rename(&from, c"f", &to, c"taken"), Err(Errno::EXIST));
            assert_eq!(rename(&from, c"f", &to, c"link"), Err(Errno::EXIST));
            assert_eq!(rename(&from, c"none", &to, c"free"), Err(Errno::NOENT));
            assert_eq!(rename(&from, c"f", &to, c"free"), Ok(()));
            assert_eq!(rename(&from, c"d", &to, c"tree"), Ok(()));
            assert_eq!(fs::read_to_string(dir.path().join("to/taken")).expect("read"), "to/taken");
            assert_eq!(fs::read_to_string(dir.path().join("to/tree/f")).expect("read"), "from/d/f");
        }
    }
}
