//! An append-only log of checked records: the one file format of `.state`.
//!
//! Header of 16 bytes (magic, format version, CRC of both), then records: length, CRC-32, payload. What was cut off by a
//! crash ends at the first record that does not check; everything before it is whole. It does not know what records
//! mean.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use minibuild_core::Fingerprint;
use rustix::fs::{Mode, OFlags};

const MAGIC: &[u8; 8] = b"minibld\n";
const HEADER: usize = 16;
/// Longest payload that is believed; a longer length is garbage.
const MAX_RECORD: usize = 1 << 30;

/// An open log, appended to by one process at a time (the workspace lock's matter).
#[derive(Debug)]
pub struct Log {
    file: File,
    path: PathBuf,
    /// Bytes not yet handed to the operating system.
    buffer: Vec<u8>,
    /// Length of the file once the buffer is written.
    len: u64,
}

/// What was found when a log was opened.
#[derive(Debug, PartialEq, Eq)]
pub enum Opened {
    /// There was none.
    New,
    /// All of it checks.
    Whole,
    /// The end was cut off; says how many bytes were dropped.
    Torn(u64),
    /// It is none of ours or of another version, and was moved out of the way.
    Foreign,
}

impl Log {
    /// Opens or makes the log at `path` with a format `version`, and gives the payloads of its records.
    ///
    /// # Errors
    /// Those of the operating system; bad content is no error but an [`Opened`].
    pub fn open(path: &Path, version: u32, mut record: impl FnMut(u64, &[u8])) -> io::Result<(Self, Opened)> {
        let was_no_file = remove_other(path)?;
        let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        let opened = if was_no_file {
            Opened::Foreign
        } else if bytes.is_empty() {
            Opened::New
        } else if bytes.len() < HEADER || bytes[..HEADER] != header(version) {
            Opened::Foreign
        } else {
            let end = read_records(&bytes, HEADER, &mut record);
            if end == bytes.len() { Opened::Whole } else { Opened::Torn((bytes.len() - end) as u64) }
        };
        let keep = match &opened {
            Opened::New | Opened::Foreign => 0,
            Opened::Whole => bytes.len(),
            Opened::Torn(cut) => bytes.len() - usize::try_from(*cut).unwrap_or(bytes.len()),
        };
        let mut log = Self { file, path: path.to_owned(), buffer: Vec::new(), len: keep as u64 };
        if keep != bytes.len() {
            log.file.set_len(log.len)?;
        }
        if keep == 0 {
            log.buffer.extend_from_slice(&header(version));
            log.len = HEADER as u64;
            log.flush()?;
        }
        log.file.seek(SeekFrom::End(0))?;
        Ok((log, opened))
    }

    /// Reads the log at `path` and changes nothing of it: one that is absent, or none of ours, reads as empty. What is
    /// appended must never be flushed.
    ///
    /// # Errors
    /// Those of the operating system.
    pub fn look(path: &Path, version: u32, mut record: impl FnMut(u64, &[u8])) -> io::Result<Self> {
        let (mut file, is_ours) = match std::fs::symlink_metadata(path) {
            Ok(meta) if meta.is_file() => (File::open(path)?, true),
            _ => (File::open("/dev/null")?, false),
        };
        let mut bytes = Vec::new();
        if is_ours {
            file.read_to_end(&mut bytes)?;
        }
        let is_ours = bytes.len() >= HEADER && bytes[..HEADER] == header(version);
        let end = if is_ours { read_records(&bytes, HEADER, &mut record) } else { 0 };
        Ok(Self { file, path: path.to_owned(), buffer: Vec::new(), len: end as u64 })
    }

    /// Opens the log at `path` for more records without reading those it has, if it is the file of this fingerprint.
    ///
    /// # Errors
    /// Those of the operating system. `None` where it is another file, or none.
    pub fn open_at(path: &Path, version: u32, expected: &Fingerprint) -> io::Result<Option<Self>> {
        let Some(log) = Self::open_grown(path, version, expected)? else { return Ok(None) };
        Ok((log.fingerprint()? == *expected).then_some(log))
    }

    /// As [`Self::open_at`]; something may have been added to the file since.
    ///
    /// # Errors
    /// Those of the operating system.
    pub fn open_grown(path: &Path, version: u32, before: &Fingerprint) -> io::Result<Option<Self>> {
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let Ok(file) = rustix::fs::open(path, flags, Mode::empty()) else { return Ok(None) };
        let mut log = Self { file: File::from(file), path: path.to_owned(), buffer: Vec::new(), len: 0 };
        let now = log.fingerprint()?;
        log.len = now.size;
        let mut head = [0; HEADER];
        let is_ours = log.file.read_exact(&mut head).is_ok() && head == header(version);
        let is_same = (now.dev, now.ino, now.mode) == (before.dev, before.ino, before.mode) && now.size >= before.size;
        Ok((is_ours && is_same).then_some(log))
    }

    /// The file as it is now.
    ///
    /// # Errors
    /// Those of the operating system.
    pub fn fingerprint(&self) -> io::Result<Fingerprint> {
        Ok(minibuild_disk::fingerprint_of(&rustix::fs::fstat(&self.file)?))
    }

    /// Gives the payloads of all written records from offset `from` on, which is 0 or was an [`Self::end`]; returns where
    /// the last whole one ends.
    ///
    /// # Errors
    /// Those of the operating system.
    pub fn read_from(&self, from: u64, mut record: impl FnMut(u64, &[u8])) -> io::Result<u64> {
        let from = from.max(HEADER as u64);
        let written = self.len - self.buffer.len() as u64;
        let mut bytes = vec![0; usize::try_from(written.saturating_sub(from)).unwrap_or_default()];
        self.file.read_exact_at(&mut bytes, from)?;
        let end = read_records(&bytes, 0, &mut |offset, payload| record(from + offset, payload));
        Ok(from + end as u64)
    }

    /// Where the next record will begin.
    pub fn end(&self) -> u64 {
        self.len
    }

    /// Adds a record; gives the offset of its payload. Written by the next [`Self::flush`]. An empty one is left out,
    /// since it would read as the end; at its offset, 0, nothing is ever found.
    pub fn append(&mut self, payload: &[u8]) -> u64 {
        if payload.is_empty() {
            return 0;
        }
        let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        self.buffer.extend_from_slice(&length.to_le_bytes());
        self.buffer.extend_from_slice(&crc(payload).to_le_bytes());
        self.buffer.extend_from_slice(payload);
        let offset = self.len + 8;
        self.len = offset + payload.len() as u64;
        offset
    }

    /// Whether no record was ever appended.
    pub fn is_empty(&self) -> bool {
        self.len <= HEADER as u64
    }

    /// Hands everything appended to the operating system.
    ///
    /// # Errors
    /// Those of the operating system; on a full disk nothing half-written stays.
    pub fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let start = self.len - self.buffer.len() as u64;
        if let Err(error) = self.file.write_all_at(&self.buffer, start) {
            // Best effort: a torn end is recognised anyway.
            let _ = self.file.set_len(start);
            self.buffer.clear();
            self.len = start;
            return Err(error);
        }
        self.buffer.clear();
        Ok(())
    }

    /// Bytes waiting for a flush.
    pub fn pending(&self) -> usize {
        self.buffer.len()
    }

    /// The payload at `offset`, as given by [`Self::append`] or [`Self::open`]. `None` if it does not check.
    pub fn read_at(&self, offset: u64) -> Option<Vec<u8>> {
        let written = self.len - self.buffer.len() as u64;
        if offset > written {
            let at = usize::try_from(offset - written).ok()?;
            return record_at(&self.buffer, at.checked_sub(8)?).map(|(payload, _)| payload.to_vec());
        }
        let mut head = [0; 8];
        self.file.read_exact_at(&mut head, offset.checked_sub(8)?).ok()?;
        let (length, check) = split_head(&head);
        if length > MAX_RECORD || offset + length as u64 > written {
            return None;
        }
        let mut payload = vec![0; length];
        self.file.read_exact_at(&mut payload, offset).ok()?;
        (crc(&payload) == check).then_some(payload)
    }

    /// Replaces the whole content by these payloads, atomically; gives their offsets.
    ///
    /// # Errors
    /// Those of the operating system; the old content stays then.
    pub fn rewrite(&mut self, version: u32, payloads: impl Iterator<Item = Vec<u8>>) -> io::Result<Vec<u64>> {
        let temporary = self.path.with_extension("new");
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&temporary)?;
        let mut fresh = Self { file, path: self.path.clone(), buffer: header(version).to_vec(), len: HEADER as u64 };
        let mut offsets = Vec::new();
        for payload in payloads {
            offsets.push(fresh.append(&payload));
            if fresh.pending() > 1 << 20 {
                fresh.flush()?;
            }
        }
        fresh.flush()?;
        // Some file systems leave an empty file behind a rename after a power loss. This happens once in thousands of
        // builds, so that waiting for the disk costs nothing.
        fresh.file.sync_data()?;
        std::fs::rename(&temporary, &self.path)?;
        *self = fresh;
        Ok(offsets)
    }
}

/// Removes what lies at the log's place and is no regular file (a pipe would be waited for); says whether there was.
fn remove_other(path: &Path) -> io::Result<bool> {
    match std::fs::symlink_metadata(path) {
        Ok(meta) if meta.is_file() => Ok(false),
        Ok(meta) if meta.is_dir() => std::fs::remove_dir_all(path).map(|()| true),
        Ok(_) => std::fs::remove_file(path).map(|()| true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

fn header(version: u32) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[..8].copy_from_slice(MAGIC);
    header[8..12].copy_from_slice(&version.to_le_bytes());
    let check = crc(&header[..12]);
    header[12..].copy_from_slice(&check.to_le_bytes());
    header
}

fn crc(bytes: &[u8]) -> u32 {
    crc32fast::hash(bytes)
}

fn split_head(head: &[u8; 8]) -> (usize, u32) {
    let word = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    (word(0) as usize, word(4))
}

/// The record whose head is at `at`, and where it ends.
fn record_at(bytes: &[u8], at: usize) -> Option<(&[u8], usize)> {
    let head = bytes.get(at..at.checked_add(8)?)?.try_into().ok()?;
    let (length, check) = split_head(head);
    // Of zeros, which a crash may leave where nothing was written yet, the check of an empty payload would hold.
    if length == 0 || length > MAX_RECORD {
        return None;
    }
    let end = (at + 8).checked_add(length)?;
    let payload = bytes.get(at + 8..end)?;
    (crc(payload) == check).then_some((payload, end))
}

/// Gives all whole records from `at` on; returns where the first that is not starts.
fn read_records(bytes: &[u8], mut at: usize, record: &mut impl FnMut(u64, &[u8])) -> usize {
    while let Some((payload, end)) = record_at(bytes, at) {
        record((at + 8) as u64, payload);
        at = end;
    }
    at
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(path: &Path) -> (Vec<Vec<u8>>, Opened) {
        let mut found = Vec::new();
        let (_, opened) = Log::open(path, 1, |_, payload| found.push(payload.to_vec())).expect("opens");
        (found, opened)
    }

    fn write(path: &Path, records: &[&[u8]]) {
        let (mut log, _) = Log::open(path, 1, |_, _| {}).expect("opens");
        for record in records {
            log.append(record);
        }
        log.flush().expect("flushes");
    }

    #[test]
    fn what_was_written_is_read_and_appended_to() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("log");
        assert_eq!(read(&path), (vec![], Opened::New));
        write(&path, &[b"one", b""]);
        write(&path, &[b"three"]);
        assert_eq!(read(&path), (vec![b"one".to_vec(), b"three".to_vec()], Opened::Whole));
    }

    #[test]
    fn a_cut_anywhere_keeps_the_whole_records_and_appending_goes_on() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("log");
        write(&path, &[b"first", b"second"]);
        let whole = std::fs::read(&path).expect("reads");
        for cut in HEADER..whole.len() {
            std::fs::write(&path, &whole[..cut]).expect("writes");
            write(&path, &[b"after"]);
            let kept = usize::from(cut >= HEADER + 13);
            let (found, opened) = read(&path);
            assert_eq!(opened, Opened::Whole, "cut at {cut}");
            assert_eq!(found.len(), kept + 1, "cut at {cut}");
            assert_eq!(found.last().map(Vec::as_slice), Some(&b"after"[..]));
        }
    }

    #[test]
    fn zeros_at_the_end_are_no_records() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("log");
        write(&path, &[b"one"]);
        let whole = std::fs::read(&path).expect("reads");
        std::fs::write(&path, [&whole[..], &[0; 100]].concat()).expect("writes");
        assert_eq!(read(&path), (vec![b"one".to_vec()], Opened::Torn(100)));
        assert_eq!(read(&path), (vec![b"one".to_vec()], Opened::Whole));
    }

    #[test]
    fn another_version_and_garbage_are_foreign() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("log");
        write(&path, &[b"x"]);
        let (_, opened) = Log::open(&path, 2, |_, _| panic!("no record is believed")).expect("opens");
        assert_eq!(opened, Opened::Foreign);
        std::fs::write(&path, b"garbage").expect("writes");
        assert_eq!(read(&path), (vec![], Opened::Foreign));
        assert_eq!(read(&path), (vec![], Opened::Whole));
    }

    #[test]
    fn what_is_no_file_is_foreign_and_does_not_hang() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("log");
        type Make = fn(&Path);
        let makes: [Make; 3] = [
            |path| nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRWXU).expect("makes a pipe"),
            |path| std::fs::create_dir_all(path.join("below")).expect("makes directories"),
            |path| std::os::unix::fs::symlink("/dev/zero", path).expect("links"),
        ];
        for make in makes {
            let _ = std::fs::remove_file(&path);
            make(&path);
            assert_eq!(read(&path), (vec![], Opened::Foreign));
            write(&path, &[b"x"]);
            assert_eq!(read(&path), (vec![b"x".to_vec()], Opened::Whole));
        }
    }

    #[test]
    fn payloads_are_found_again_by_offset_flushed_or_not() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let (mut log, _) = Log::open(&dir.path().join("log"), 1, |_, _| {}).expect("opens");
        let first = log.append(b"first");
        log.flush().expect("flushes");
        let second = log.append(b"second");
        assert_eq!(log.read_at(first).as_deref(), Some(&b"first"[..]));
        assert_eq!(log.read_at(second).as_deref(), Some(&b"second"[..]));
        for nonsense in [0, 1, 7, first + 1, second + 1, u64::MAX] {
            assert_eq!(log.read_at(nonsense), None, "{nonsense}");
        }
        let offsets = log.rewrite(1, [b"new".to_vec()].into_iter()).expect("rewrites");
        assert_eq!(log.read_at(offsets[0]).as_deref(), Some(&b"new"[..]));
        log.append(b"more");
        log.flush().expect("flushes");
        assert_eq!(read(&dir.path().join("log")).0, [b"new".to_vec(), b"more".to_vec()]);
    }

    proptest! {
        #[test]
        fn any_damage_never_panics_and_never_gives_a_record_that_was_not_written(
            at in 0_usize..64, with in any::<u8>(), cut in 0_usize..64
        ) {
            let dir = tempfile::tempdir().expect("temporary directory");
            let path = dir.path().join("log");
            let written: [&[u8]; 3] = [b"alpha", b"beta", b"gamma"];
            write(&path, &written);
            let mut bytes = std::fs::read(&path).expect("reads");
            let at = at.min(bytes.len() - 1);
            bytes[at] ^= with;
            bytes.truncate(bytes.len().saturating_sub(cut));
            std::fs::write(&path, &bytes).expect("writes");
            let (found, _) = read(&path);
            for (found, written) in found.iter().zip(written) {
                prop_assert_eq!(&found[..], written);
            }
        }
    }
}
