//! Listing what is kept, and removing what was not used for longest.
//!
//! It does not know who else uses it: what is removed under a reader is a miss for that one.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::blobs::mtime;

/// What a file takes on disk at least, and by what it grows.
const BLOCK: u64 = 4096;

/// What a file of this size takes on disk, about.
pub(crate) fn on_disk(size: u64) -> u64 {
    size.max(1).div_ceil(BLOCK).saturating_mul(BLOCK)
}

/// A kept file.
#[derive(Debug)]
struct Found {
    /// Since the epoch, when it was used last.
    used: Duration,
    bytes: u64,
    path: CString,
}

/// All files that are kept below some directories.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    files: Vec<Found>,
    /// What they take on disk.
    pub bytes: u64,
}

impl Listing {
    /// Lists `tops` in `root`, each `<function>/<2 hex>/<62 hex>` below it. What cannot be listed counts as not there.
    pub fn of(root: BorrowedFd<'_>, tops: &[&str]) -> Self {
        let mut listing = Self::default();
        for top in tops {
            listing.add(root, top, 3);
        }
        listing
    }

    fn add(&mut self, root: BorrowedFd<'_>, path: &str, depth: u32) {
        let Ok(dir) = open_dir(root, path) else { return };
        for name in names(&dir) {
            let below = format!("{path}/{}", name.to_string_lossy());
            match rustix::fs::statat(&dir, &name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) if FileType::from_raw_mode(stat.st_mode).is_dir() && depth > 1 => {
                    self.add(root, &below, depth - 1);
                }
                Ok(stat) if FileType::from_raw_mode(stat.st_mode).is_file() => {
                    let Ok(path) = CString::new(below) else { continue };
                    let bytes = on_disk(u64::try_from(stat.st_size).unwrap_or(0));
                    self.bytes = self.bytes.saturating_add(bytes);
                    self.files.push(Found { used: mtime(&stat), bytes, path });
                }
                _ => {}
            }
        }
    }

    /// Removes files that were last used before `before` (or after `now`, which is nonsense), the oldest first, until no
    /// more than `most` bytes are there. Gives when the oldest that is left was used.
    pub fn trim(&mut self, root: BorrowedFd<'_>, most: u64, before: Duration, now: Duration) -> Option<Duration> {
        let age = |file: &Found| if file.used > now { Duration::ZERO } else { file.used };
        self.files.sort_unstable_by_key(|file| std::cmp::Reverse(age(file)));
        while self.bytes > most {
            match self.files.pop_if(|file| age(file) < before) {
                Some(file) if is_gone(rustix::fs::unlinkat(root, &file.path, AtFlags::empty())) => {
                    self.bytes = self.bytes.saturating_sub(file.bytes);
                }
                // Somebody else's, who does not let us: it still takes its place.
                Some(_) => {}
                None => break,
            }
        }
        self.files.last().map(age)
    }
}

fn is_gone(removed: rustix::io::Result<()>) -> bool {
    matches!(removed, Ok(()) | Err(Errno::NOENT))
}

/// Opens a directory for listing.
pub(crate) fn open_dir(base: BorrowedFd<'_>, path: &str) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(base, path, flags, Mode::empty())
}

/// Names in a directory, as far as it can be listed.
pub(crate) fn names(dir: &OwnedFd) -> Vec<CString> {
    let Ok(entries) = Dir::read_from(dir.as_fd()) else { return Vec::new() };
    let names = entries.filter_map(Result::ok).map(|entry| entry.file_name().to_owned());
    names.filter(|name| name.as_c_str() != c"." && name.as_c_str() != c"..").collect()
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::time::{Duration, SystemTime};

    use super::*;

    #[test]
    fn the_oldest_go_first_and_what_is_recent_stays() {
        let root = tempfile::tempdir().expect("temp dir");
        let put = |name: &str, used: u64, size: usize| {
            let path = root.path().join("cas/sha256/aa").join(name);
            fs::create_dir_all(path.parent().expect("has one")).expect("mkdir");
            fs::write(&path, vec![0; size]).expect("writes");
            let time = SystemTime::UNIX_EPOCH + Duration::from_secs(used);
            File::options().write(true).open(&path).expect("opens").set_modified(time).expect("sets");
        };
        let all = [("a", 100, 5000), ("b", 200, 10), ("c", 300, 0), ("d", 900, 10), ("future", 5000, 1)];
        for (name, used, size) in all {
            put(name, used, size);
        }
        let left = || {
            let mut names: Vec<String> = fs::read_dir(root.path().join("cas/sha256/aa"))
                .expect("lists")
                .map(|e| e.expect("entry").file_name().into_string().expect("utf-8"))
                .collect();
            names.sort();
            names.join(" ")
        };
        let dir = File::open(root.path()).expect("opens");
        let trim = |most, before| {
            let mut listing = Listing::of(dir.as_fd(), &["cas", "ac"]);
            let seconds = Duration::from_secs;
            let oldest = listing.trim(dir.as_fd(), most, seconds(before), seconds(1000));
            (oldest.map(|oldest| oldest.as_secs()), listing.bytes)
        };
        assert_eq!(trim(6 * 4096, 950), (Some(0), 6 * 4096));
        assert_eq!(trim(3 * 4096, 950), (Some(200), 3 * 4096), "a used time that is to come is no used time");
        assert_eq!(left(), "b c d");
        assert_eq!(trim(0, 250), (Some(300), 2 * 4096));
        assert_eq!(left(), "c d");
        assert_eq!(trim(0, 2000), (None, 0));
        assert_eq!(left(), "");
    }
}
