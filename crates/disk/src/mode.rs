//! Permissions of files that are ours.

use std::os::fd::AsFd;

use rustix::fs::{AtFlags, Mode};
use rustix::io::{Errno, Result};

/// Sets a mode whatever the process's mask is. A file system without permissions (FAT and its like) refuses that even to
/// the owner; a file that stays writable there is hashed in each build, which costs time, not correctness.
///
/// # Errors
/// Those of the operating system, unless the file system has no permissions.
pub fn set_mode(file: impl AsFd, mode: Mode) -> Result<()> {
    let set = match rustix::fs::fchmod(&file, mode) {
        // Handles without the right to read take the other way.
        Err(Errno::BADF) => rustix::fs::chmodat(&file, ".", mode, AtFlags::empty()),
        done => done,
    };
    match set {
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
        Err(Errno::PERM) if is_ours(&file) => Ok(()),
        done => done,
    }
}

/// Whether the kernel itself would allow a change of the mode.
fn is_ours(file: impl AsFd) -> bool {
    let user = rustix::process::geteuid();
    user.is_root() || rustix::fs::fstat(file).is_ok_and(|stat| stat.st_uid == user.as_raw())
}
