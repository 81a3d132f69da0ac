//! Opening paths beneath a directory without being led out of it by symlinks.
//!
//! Uses `openat2` and, where a sandbox forbids that call, a walk over the segments. It does not know which
//! directories these are.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags};
use rustix::io::{Errno, Result};

static NO_OPENAT2: AtomicBool = AtomicBool::new(false);

/// Opens the directory `path` (`""` is `base` itself) for use as a base of further calls. No segment may be a
/// symlink: `ELOOP` or `ENOTDIR` tell of one.
pub(crate) fn open_dir(base: impl AsFd, path: &str) -> Result<OwnedFd> {
    let base = base.as_fd();
    let path = if path.is_empty() { "." } else { path };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    match openat2(base, path, flags, resolve) {
        Some(opened) => opened,
        None => walk(base, path),
    }
}

/// Opens what lies at `path` with `flags`, no segment a symlink, not even the last. `None` where that takes more than one
/// call or does not work: there are other ways, which say why.
pub(crate) fn open_at_once(base: impl AsFd, path: &str, flags: OFlags) -> Option<OwnedFd> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    openat2(base.as_fd(), path, flags, resolve)?.ok()
}

/// Whether `path`, symlinks followed, leads to something that exists and never leaves `base` on the way.
/// `XDEV` tells that it does leave.
pub(crate) fn resolves_beneath(base: BorrowedFd<'_>, path: &[u8]) -> Result<()> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    match openat2(base, path, flags, ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS) {
        Some(opened) => opened.map(drop),
        None => resolve_by_hand(base, path),
    }
}

/// `None` where the call is not to be had, or cannot tell: while anything at all is renamed on this machine the kernel may not
/// know whether a `..` led outside, and says `EAGAIN` (openat2(2)).
fn openat2(
    base: BorrowedFd<'_>,
    path: impl rustix::path::Arg,
    flags: OFlags,
    how: ResolveFlags,
) -> Option<Result<OwnedFd>> {
    if NO_OPENAT2.load(Ordering::Relaxed) {
        return None;
    }
    match rustix::fs::openat2(base, path, flags, Mode::empty(), how) {
        Err(Errno::NOSYS | Errno::PERM) => {
            NO_OPENAT2.store(true, Ordering::Relaxed);
            None
        }
        Err(Errno::AGAIN) => None,
        answer => Some(answer),
    }
}

fn walk(base: BorrowedFd<'_>, path: &str) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut dir: Option<OwnedFd> = None;
    for segment in path.split('/') {
        let at = dir.as_ref().map_or(base, |dir| dir.as_fd());
        dir = Some(rustix::fs::openat(at, segment, flags, Mode::empty())?);
    }
    dir.ok_or(Errno::NOENT)
}

/// The same question answered segment by segment, with the directories passed kept for `..`.
fn resolve_by_hand(base: BorrowedFd<'_>, path: &[u8]) -> Result<()> {
    let mut passed: Vec<OwnedFd> = Vec::new();
    let mut left: Vec<Vec<u8>> = segments(path)?;
    let mut links = 0;
    while let Some(segment) = left.pop() {
        if segment == b".." {
            passed.pop().ok_or(Errno::XDEV)?;
            continue;
        }
        let at = passed.last().map_or(base, |dir| dir.as_fd());
        let stat = rustix::fs::statat(at, &*segment, AtFlags::SYMLINK_NOFOLLOW)?;
        let kind = rustix::fs::FileType::from_raw_mode(stat.st_mode);
        if kind.is_symlink() {
            links += 1;
            if links > 40 {
                return Err(Errno::LOOP);
            }
            let target = rustix::fs::readlinkat(at, &*segment, Vec::new())?;
            left.extend(segments(target.as_bytes())?);
        } else if kind.is_dir() {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let opened = rustix::fs::openat(at, &*segment, flags, Mode::empty())?;
            passed.push(opened);
        } else if !left.is_empty() {
            return Err(Errno::NOTDIR);
        }
    }
    Ok(())
}

/// The segments, last first; an absolute path leaves the base.
fn segments(path: &[u8]) -> Result<Vec<Vec<u8>>> {
    if path.starts_with(b"/") {
        return Err(Errno::XDEV);
    }
    let parts = path.split(|&b| b == b'/').filter(|part| !part.is_empty() && *part != b".");
    Ok(parts.rev().map(<[u8]>::to_vec).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::unix::fs::symlink;

    fn fixture() -> (tempfile::TempDir, File) {
        let dir = tempfile::tempdir().expect("temp dir");
        let base = dir.path().join("base");
        std::fs::create_dir_all(base.join("a/b")).expect("mkdir");
        std::fs::write(base.join("a/file"), "x").expect("write");
        for (target, name) in [
            ("a", "to-a"),
            ("../outside", "out"),
            ("/etc", "abs"),
            ("nowhere", "dangling"),
            ("loop", "loop"),
            ("a/b/../file", "round"),
            ("to-a/../../outside", "sly"),
        ] {
            symlink(target, base.join(name)).expect("symlink");
        }
        std::fs::create_dir(dir.path().join("outside")).expect("mkdir");
        let base = File::open(base).expect("open");
        (dir, base)
    }

    #[test]
    fn renames_elsewhere_change_no_answer() {
        let (dir, base) = fixture();
        let (one, two) = (dir.path().join("one"), dir.path().join("two"));
        std::fs::create_dir(&one).expect("mkdir");
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    std::fs::rename(&one, &two).and_then(|()| std::fs::rename(&two, &one)).expect("renames");
                }
            });
            let wrong = (0..20_000).find_map(|_| resolves_beneath(base.as_fd(), b"a/b/../file").err());
            is_over.store(true, Ordering::Relaxed);
            assert_eq!(wrong, None);
        });
    }

    #[test]
    fn directories_open_without_symlinks_only() {
        let (_keep, base) = fixture();
        for good in ["", "a", "a/b"] {
            assert!(open_dir(&base, good).is_ok() && (good.is_empty() || walk(base.as_fd(), good).is_ok()), "{good}");
        }
        for bad in ["to-a", "to-a/b", "out", "abs", "a/file", "missing", "a/file/x", "dangling"] {
            assert!(open_dir(&base, bad).is_err() && walk(base.as_fd(), bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn both_ways_of_resolving_agree() {
        let (_keep, base) = fixture();
        let check = |path: &str, expected: Result<()>| {
            assert_eq!(resolves_beneath(base.as_fd(), path.as_bytes()), expected, "openat2 {path}");
            assert_eq!(resolve_by_hand(base.as_fd(), path.as_bytes()), expected, "by hand {path}");
        };
        check("a/file", Ok(()));
        check("to-a/file", Ok(()));
        check("round", Ok(()));
        check("a/../a/./b", Ok(()));
        check("out", Err(Errno::XDEV));
        check("sly", Err(Errno::XDEV));
        check("abs", Err(Errno::XDEV));
        check("../outside", Err(Errno::XDEV));
        check("dangling", Err(Errno::NOENT));
        check("loop", Err(Errno::LOOP));
        check("a/file/x", Err(Errno::NOTDIR));
    }
}
