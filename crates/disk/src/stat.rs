//! Looking at many paths at once without reading them.
//!
//! The hot path of a build in which nothing changed: one `fstatat` a path, relative to its directory, on a few
//! threads. It does not know what the answers are compared with.

use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use minibuild_core::{EntryKind, Fingerprint, map_parallel};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};

/// What lies at a path, symlinks not followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Identifies the state of what is there.
    pub fingerprint: Fingerprint,
    /// What it is.
    pub kind: EntryKind,
}

/// Paths a thread takes at a time; also the least number worth a second thread.
const CHUNK: usize = 1024;

/// The fingerprint in the result of a `stat`.
#[expect(clippy::unnecessary_cast, reason = "field types differ between architectures")]
pub fn fingerprint_of(stat: &Stat) -> Fingerprint {
    let ns = |seconds: i64, nanos: i64| seconds.saturating_mul(1_000_000_000).saturating_add(nanos);
    Fingerprint {
        dev: stat.st_dev as u64,
        ino: stat.st_ino as u64,
        size: stat.st_size as u64,
        mode: stat.st_mode as u32,
        mtime_ns: ns(stat.st_mtime as i64, stat.st_mtime_nsec as i64),
        ctime_ns: ns(stat.st_ctime as i64, stat.st_ctime_nsec as i64),
    }
}

/// Whether nothing lies at a path, for certain.
pub fn is_absent(path: &Path) -> bool {
    use std::io::ErrorKind::{NotADirectory, NotFound};
    path.symlink_metadata().is_err_and(|error| matches!(error.kind(), NotFound | NotADirectory))
}

/// The kind in the result of a `stat`.
pub(crate) fn kind_of(file_type: FileType) -> EntryKind {
    match file_type {
        FileType::RegularFile => EntryKind::File,
        FileType::Directory => EntryKind::Directory,
        FileType::Symlink => EntryKind::Symlink,
        _ => EntryKind::Other,
    }
}

/// Looks at one path relative to `dir`, symlinks not followed.
///
/// # Errors
/// Those of `fstatat`.
pub fn look_at(dir: impl AsFd, path: impl rustix::path::Arg) -> std::io::Result<Seen> {
    let stat = rustix::fs::statat(dir, path, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(Seen { fingerprint: fingerprint_of(&stat), kind: kind_of(FileType::from_raw_mode(stat.st_mode)) })
}

/// Looks at every path below `root` (or absolute), with `threads` threads where it pays; answers in the order
/// asked. Fastest where paths of one directory follow each other. `None` is what cannot be looked at, for
/// whatever reason: the caller falls back to a slower way that reports it.
pub fn stat_batch<P: AsRef<str> + Sync>(root: &Path, paths: &[P], threads: usize) -> Vec<Option<Seen>> {
    if paths.is_empty() {
        return Vec::new();
    }
    if let [path] = paths {
        return vec![look_at(rustix::fs::CWD, root.join(path.as_ref())).ok()];
    }
    let mut answers = vec![None; paths.len()];
    let Ok(root) = open_path(rustix::fs::CWD, root) else { return answers };
    if threads < 2 || paths.len() <= CHUNK {
        return stat_below(&root, paths);
    }
    let chunks = paths.chunks(CHUNK).zip(answers.chunks_mut(CHUNK)).collect();
    map_parallel(chunks, threads, |(paths, answers)| stat_chunk(&root, paths, answers));
    answers
}

/// As [`stat_batch`] for `count` paths given one by one; only what `keep` makes of the answers stays, in the order of
/// the paths. For so many paths that a table of all answers would be felt.
pub fn stat_filter<'p, T: Send>(
    root: &Path,
    count: usize,
    path: impl Fn(usize) -> &'p str + Sync,
    threads: usize,
    keep: impl Fn(usize, Option<Seen>) -> Option<T> + Sync,
) -> Vec<T> {
    let root = open_path(rustix::fs::CWD, root).ok();
    let look = |range: Range<usize>, kept: &mut Vec<T>| {
        let mut cursor = Cursor::default();
        for index in range {
            let seen = root.as_ref().and_then(|root| cursor.look(root, path(index)));
            kept.extend(keep(index, seen));
        }
    };
    let chunks = count.div_ceil(CHUNK);
    if threads < 2 || chunks < 2 {
        let mut kept = Vec::new();
        look(0..count, &mut kept);
        return kept;
    }
    let look_at_chunk = |chunk: usize| {
        let mut kept = Vec::new();
        look(chunk * CHUNK..count.min((chunk + 1) * CHUNK), &mut kept);
        kept
    };
    map_parallel((0..chunks).collect(), threads, look_at_chunk).into_iter().flatten().collect()
}

/// As [`stat_batch`], from an open directory and on this thread.
pub(crate) fn stat_below<P: AsRef<str>>(root: &OwnedFd, paths: &[P]) -> Vec<Option<Seen>> {
    let mut answers = vec![None; paths.len()];
    stat_chunk(root, paths, &mut answers);
    answers
}

fn stat_chunk<P: AsRef<str>>(root: &OwnedFd, paths: &[P], answers: &mut [Option<Seen>]) {
    let mut cursor = Cursor::default();
    for (path, answer) in paths.iter().zip(answers) {
        *answer = cursor.look(root, path.as_ref());
    }
}

/// The directory looked into last: paths of one directory mostly follow each other. It is opened when that is sure to pay.
#[derive(Default)]
struct Cursor<'p> {
    parent: Option<&'p str>,
    /// Looks into it so far, from the root.
    looks: usize,
    /// Set once it was to be opened.
    opened: Option<Option<OwnedFd>>,
}

impl<'p> Cursor<'p> {
    /// Opening and closing a directory costs about as much as so many walks to it.
    const WORTH_OPENING: usize = 3;

    fn look(&mut self, root: &OwnedFd, path: &'p str) -> Option<Seen> {
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        if parent.is_empty() {
            return look_at(root, if path.is_empty() { "." } else { path }).ok();
        }
        if self.parent != Some(parent) {
            *self = Self { parent: Some(parent), looks: 0, opened: None };
        }
        if self.opened.is_none() && self.looks < Self::WORTH_OPENING {
            self.looks += 1;
            return look_at(root, path).ok();
        }
        let dir = self.opened.get_or_insert_with(|| open_path(root, parent).ok());
        look_at(dir.as_ref()?, name).ok()
    }
}

fn open_path(at: impl AsFd, path: impl rustix::path::Arg) -> rustix::io::Result<OwnedFd> {
    rustix::fs::openat(at, path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_gets_its_own_answer_in_order() {
        let dir = tempfile::tempdir().expect("temp dir");
        let mut paths = vec![String::new(), "missing".into(), "missing/below".into(), "d0/f0/below-a-file".into()];
        for d in 0..5 {
            std::fs::create_dir(dir.path().join(format!("d{d}"))).expect("mkdir");
            for f in 0..600 {
                let path = format!("d{d}/f{f}");
                std::fs::write(dir.path().join(&path), "x".repeat(d * 1000 + f)).expect("write");
                paths.push(path);
            }
        }
        std::os::unix::fs::symlink("d0", dir.path().join("link")).expect("symlink");
        paths.extend(["link".into(), "link/f7".into(), dir.path().join("d1/f9").display().to_string()]);
        let one = stat_batch(dir.path(), &paths, 1);
        assert_eq!(one, stat_batch(dir.path(), &paths, 3));
        for threads in [1, 3] {
            let path = |index: usize| paths[index].as_str();
            let kept = stat_filter(dir.path(), paths.len(), path, threads, |i, seen| Some((i, seen)));
            assert_eq!(kept, one.iter().copied().enumerate().collect::<Vec<_>>());
        }
        let size = |path: &str| {
            let index = paths.iter().position(|p| p == path).expect("asked");
            one[index].map(|seen| (seen.kind, seen.fingerprint.size))
        };
        assert_eq!(one[0].map(|seen| seen.kind), Some(EntryKind::Directory));
        assert_eq!((size("missing"), size("missing/below"), size("d0/f0/below-a-file")), (None, None, None));
        assert_eq!(size("d3/f599"), Some((EntryKind::File, 3599)));
        assert_eq!(size("link").map(|(kind, _)| kind), Some(EntryKind::Symlink));
        assert_eq!(size("link/f7"), Some((EntryKind::File, 7)));
        assert_eq!(one.last().copied().flatten().map(|seen| seen.fingerprint.size), Some(1009));
    }

    #[test]
    fn fingerprints_tell_a_change() {
        let dir = tempfile::tempdir().expect("temp dir");
        let file = dir.path().join("f");
        std::fs::write(&file, "a").expect("write");
        let first = look_at(rustix::fs::CWD, &file).expect("stat");
        assert_eq!(first, look_at(rustix::fs::CWD, &file).expect("stat"));
        std::fs::write(&file, "ab").expect("write");
        assert_ne!(first, look_at(rustix::fs::CWD, &file).expect("stat"));
    }
}
