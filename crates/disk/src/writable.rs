//! Directories of ours that an action left read-only.

use std::os::fd::BorrowedFd;

use rustix::io::Errno;

use crate::remove::make_writable;

/// Does `call`, once more with `dir` made writable where permissions forbid it: a directory an action left
/// read-only is ours all the same.
pub(crate) fn retry_writable<T>(
    dir: BorrowedFd<'_>,
    mut call: impl FnMut() -> rustix::io::Result<T>,
) -> rustix::io::Result<T> {
    match call() {
        Err(Errno::ACCESS) if make_writable(dir, c".").is_ok() => call(),
        answer => answer,
    }
}
