//! The file of a snapshot: sections of bytes behind one checked table.
//!
//! Header (magic, version, number of sections, CRC of the table), table (offset, length and CRC of each section), sections.
//! Written beside and renamed, so it is whole or not there. It does not know what sections hold.

use std::fs::File;
use std::io::{self, BufWriter, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use minibuild_core::Fingerprint;
use rustix::fs::{Mode, OFlags};

const MAGIC: &[u8; 8] = b"mbsnap1\n";
/// Bumped whenever a section changes.
const VERSION: u32 = 5;
const HEADER: usize = 24;
const ENTRY: usize = 24;
/// Bytes before a [`sealed`] piece.
pub(super) const SEAL: usize = 8;
/// More sections than any version has.
const MAX_SECTIONS: u32 = 64;

#[derive(Clone, Copy)]
struct Entry {
    offset: u64,
    length: u64,
    check: u32,
}

/// Writes sections one after the other.
pub(super) struct Writer {
    file: BufWriter<File>,
    temporary: PathBuf,
    at: u64,
    sections: usize,
    table: Vec<Entry>,
    check: crc32fast::Hasher,
}

impl Writer {
    /// Begins a file of exactly `sections` sections beside `path`.
    pub fn create(path: &Path, sections: usize) -> io::Result<Self> {
        let temporary = path.with_extension("new");
        let mut file = BufWriter::with_capacity(1 << 18, File::create(&temporary)?);
        let at = (HEADER + ENTRY * sections) as u64;
        file.seek(SeekFrom::Start(at))?;
        Ok(Self { file, temporary, at, sections, table: Vec::new(), check: crc32fast::Hasher::new() })
    }

    /// Adds to the section under way; gives the offset within it.
    pub fn put(&mut self, bytes: &[u8]) -> io::Result<u64> {
        let begin = self.table.last().map_or((HEADER + ENTRY * self.sections) as u64, |e| e.offset + e.length);
        let offset = self.at - begin;
        self.file.write_all(bytes)?;
        self.check.update(bytes);
        self.at += bytes.len() as u64;
        Ok(offset)
    }

    /// Ends the section under way.
    pub fn end_section(&mut self) {
        let offset = self.table.last().map_or((HEADER + ENTRY * self.sections) as u64, |e| e.offset + e.length);
        let check = std::mem::take(&mut self.check).finalize();
        self.table.push(Entry { offset, length: self.at - offset, check });
    }

    /// A whole section.
    pub fn section(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.put(bytes)?;
        self.end_section();
        Ok(())
    }

    /// Gives the file its name.
    pub fn finish(mut self, path: &Path) -> io::Result<()> {
        if self.table.len() != self.sections {
            return Err(io::Error::other("bug: another number of sections was announced"));
        }
        let mut table = Vec::with_capacity(ENTRY * self.sections);
        for entry in &self.table {
            table.extend_from_slice(&entry.offset.to_le_bytes());
            table.extend_from_slice(&entry.length.to_le_bytes());
            table.extend_from_slice(&u64::from(entry.check).to_le_bytes());
        }
        self.file.rewind()?;
        self.file.write_all(MAGIC)?;
        self.file.write_all(&VERSION.to_le_bytes())?;
        self.file.write_all(&u32::try_from(self.sections).unwrap_or(u32::MAX).to_le_bytes())?;
        self.file.write_all(&u64::from(crc32fast::hash(&table)).to_le_bytes())?;
        self.file.write_all(&table)?;
        self.file.flush()?;
        drop(self.file);
        std::fs::rename(&self.temporary, path)
    }
}

/// An open snapshot.
pub(super) struct Sections {
    file: File,
    table: Vec<Entry>,
    fingerprint: Fingerprint,
}

impl Sections {
    /// Opens the file at `path`; `None` where there is none of ours, or its table does not check.
    pub fn open(path: &Path) -> Option<Self> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = File::from(rustix::fs::open(path, flags, Mode::empty()).ok()?);
        let fingerprint = minibuild_disk::fingerprint_of(&rustix::fs::fstat(&file).ok()?);
        let mut head = [0; HEADER];
        file.read_exact_at(&mut head, 0).ok()?;
        let count = u32::from_le_bytes(head[12..16].try_into().ok()?);
        if &head[..8] != MAGIC || head[8..12] != VERSION.to_le_bytes() || count > MAX_SECTIONS {
            return None;
        }
        let mut bytes = vec![0; ENTRY * count as usize];
        file.read_exact_at(&mut bytes, HEADER as u64).ok()?;
        if u64::from(crc32fast::hash(&bytes)).to_le_bytes() != head[16..24] {
            return None;
        }
        let word = |bytes: &[u8]| bytes.try_into().map(u64::from_le_bytes).unwrap_or_default();
        let entry = |row: &[u8]| Entry {
            offset: word(&row[..8]),
            length: word(&row[8..16]),
            check: u32::try_from(word(&row[16..24])).unwrap_or_default(),
        };
        let table: Vec<Entry> = bytes.chunks_exact(ENTRY).map(entry).collect();
        let fits = |e: &Entry| e.offset.checked_add(e.length).is_some_and(|end| end <= fingerprint.size);
        table.iter().all(fits).then_some(Self { file, table, fingerprint })
    }

    /// Names this very file.
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// A whole section; `None` where it does not check.
    pub fn read(&self, section: usize) -> Option<Vec<u8>> {
        let entry = self.table.get(section)?;
        let mut bytes = vec![0; usize::try_from(entry.length).ok()?];
        self.file.read_exact_at(&mut bytes, entry.offset).ok()?;
        (crc32fast::hash(&bytes) == entry.check).then_some(bytes)
    }

    /// A piece of a section that was written as [`sealed`] bytes at this offset.
    pub fn read_sealed(&self, section: usize, offset: u64) -> Option<Vec<u8>> {
        let entry = self.table.get(section)?;
        let mut head = [0; SEAL];
        if offset.checked_add(SEAL as u64)? > entry.length {
            return None;
        }
        self.file.read_exact_at(&mut head, entry.offset + offset).ok()?;
        let length = u32::from_le_bytes(head[..4].try_into().ok()?);
        if offset + SEAL as u64 + u64::from(length) > entry.length {
            return None;
        }
        let mut bytes = vec![0; length as usize];
        self.file.read_exact_at(&mut bytes, entry.offset + offset + SEAL as u64).ok()?;
        (crc32fast::hash(&bytes).to_le_bytes() == head[4..8]).then_some(bytes)
    }
}

/// Bytes with their own length and check.
pub(super) fn sealed(bytes: &[u8]) -> Vec<u8> {
    let mut all = Vec::with_capacity(bytes.len() + SEAL);
    all.extend_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes());
    all.extend_from_slice(&crc32fast::hash(bytes).to_le_bytes());
    all.extend_from_slice(bytes);
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(dir: &Path) -> PathBuf {
        let path = dir.join("s");
        let mut writer = Writer::create(&path, 3).expect("creates");
        writer.section(b"first").expect("writes");
        writer.section(b"").expect("writes");
        assert_eq!(writer.put(&sealed(b"one")).expect("writes"), 0);
        assert_eq!(writer.put(&sealed(b"two")).expect("writes"), 11);
        writer.end_section();
        writer.finish(&path).expect("renames");
        path
    }

    #[test]
    fn sections_come_back() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let sections = Sections::open(&written(dir.path())).expect("opens");
        assert_eq!(sections.read(0).as_deref(), Some(&b"first"[..]));
        assert_eq!(sections.read(1).as_deref(), Some(&b""[..]));
        assert_eq!(sections.read_sealed(2, 11).as_deref(), Some(&b"two"[..]));
        assert_eq!((sections.read_sealed(2, 3), sections.read_sealed(2, 22), sections.read(3)), (None, None, None));
    }

    #[test]
    fn any_flipped_byte_and_any_cut_is_refused() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = written(dir.path());
        let whole = std::fs::read(&path).expect("reads");
        let read = |bytes: &[u8]| {
            std::fs::write(&path, bytes).expect("writes");
            let sections = Sections::open(&path)?;
            Some((sections.read(0)?, sections.read(1)?, sections.read_sealed(2, 0)?, sections.read_sealed(2, 11)?))
        };
        assert!(read(&whole).is_some());
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 0x40;
            assert!(read(&damaged).is_none(), "byte {at}");
            assert!(read(&whole[..at]).is_none(), "cut at {at}");
        }
    }
}
