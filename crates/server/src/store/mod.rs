//! Blobs and results on disk: written whole or not at all, looked up in memory, limited in size.
//!
//! A file is written under a temporary name while it is hashed and renamed when its hash is right, so what lies
//! under a hash has that content. The index is in memory and made anew from the directories at the start. Files are
//! never changed: their modification time is a fixed one, so that a write through a hard link of a worker shows.
//! It does not know connections or actions.

mod files;
mod index;
mod ingest;
mod spawning;

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use minibuild_core::{Digest, DigestFunction};
use minibuild_disk::{DiskError, FsInstant, hash_file};

pub(crate) use files::disk;
use files::{Found, executable_path, is_sealed, make_dir, remove_file, scan, seal, take_lock};
use index::{Index, Pin};
pub(crate) use index::{Key, Space};
pub(crate) use ingest::Ingest;
use spawning::Apart;

const FUNCTIONS: [(DigestFunction, &str); 2] = [(DigestFunction::Sha256, "sha256"), (DigestFunction::Blake3, "blake3")];
const SPACES: [(Space, &str); 2] = [(Space::Cas, "cas"), (Space::Results, "ac")];

/// Why something could not be stored or read.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The content is not what its name says.
    #[error("the content is {got}, not {expected}")]
    Mismatch {
        /// What it was to be.
        expected: Digest,
        /// What came.
        got: Digest,
    },
    /// More came than the name says.
    #[error("more than {0} bytes came")]
    TooLong(u64),
    /// The limit leaves no room.
    #[error("the store is full: {size} bytes do not fit beside what is in use, the limit is {limit}")]
    Full {
        /// What was to be stored.
        size: u64,
        /// All there is.
        limit: u64,
    },
    /// The disk failed.
    #[error("{}", render(.0))]
    Disk(#[from] DiskError),
}

/// An error with what the operating system said: the other end of a connection sees no sources.
pub(crate) fn render(error: &DiskError) -> String {
    format!("{error}: {}", error.os_error())
}

/// See the module.
pub(crate) struct Store {
    dir: PathBuf,
    limit: u64,
    index: Mutex<Index>,
    counter: AtomicU64,
    /// Between who writes files that are to be run and who starts helpers.
    pub(crate) apart: Apart,
    /// Held as long as the store is in use.
    lock: Arc<OwnedFd>,
}

impl Store {
    /// Opens the store in `dir`, which is made where it is not there.
    ///
    /// # Errors
    /// Where the disk fails, or another server uses the directory.
    pub(crate) fn open(dir: &Path, limit: u64) -> Result<Self, DiskError> {
        make_dir(dir)?;
        let lock = take_lock(&dir.join("lock"))?;
        let temp = dir.join("tmp");
        minibuild_disk::remove_all(&temp)?;
        make_dir(&temp)?;
        let mut found = Vec::new();
        for (space, space_name) in SPACES {
            for (function, function_name) in FUNCTIONS {
                let top = dir.join(space_name).join(function_name);
                make_dir(&top)?;
                scan(&top, |hash, file| found.push((Key { space, function, hash }, file)))?;
            }
        }
        let store = Self {
            dir: dir.to_owned(),
            limit,
            index: Mutex::new(Index::new(limit)),
            counter: AtomicU64::new(0),
            apart: Apart::default(),
            lock,
        };
        store.rebuild(found)?;
        Ok(store)
    }

    /// A descriptor that holds the directory; who works for the server may inherit it.
    pub(crate) fn lock(&self) -> Arc<OwnedFd> {
        Arc::clone(&self.lock)
    }

    /// Takes in what was found, oldest first.
    fn rebuild(&self, mut found: Vec<(Key, Found)>) -> Result<(), DiskError> {
        found.sort_by_key(|(_, file)| (file.is_variant, file.used_at));
        let mut index = self.index();
        for (key, file) in found {
            if file.is_variant {
                match index.touch(&key) {
                    Some(_) => index.add_extra(&key, file.size),
                    None => remove_file(&file.path)?,
                }
                continue;
            }
            let victims = if file.is_intact { index.make_room(file.size).ok() } else { None };
            match victims {
                Some(victims) => {
                    index.insert(key, file.size);
                    self.remove_files(&victims);
                }
                None => remove_file(&file.path)?,
            }
        }
        Ok(())
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes taken and number of things.
    pub(crate) fn usage(&self) -> (u64, usize) {
        let index = self.index();
        (index.used(), index.len())
    }

    /// Whether a blob is there; it counts as used.
    pub(crate) fn has(&self, function: DigestFunction, digest: &Digest) -> bool {
        digest.size == 0 || self.index().touch(&blob(function, digest)) == Some(digest.size)
    }

    /// The digest of a blob of which only the hash is known.
    pub(crate) fn digest_of(&self, function: DigestFunction, hash: [u8; 32]) -> Option<Digest> {
        let empty = function.empty();
        if hash == empty.hash {
            return Some(empty);
        }
        let size = self.index().touch(&Key { space: Space::Cas, function, hash })?;
        Some(Digest { hash, size })
    }

    /// Those of the digests that are not there.
    pub(crate) fn missing(&self, function: DigestFunction, digests: impl Iterator<Item = Digest>) -> Vec<Digest> {
        let mut index = self.index();
        let is_there = |index: &mut Index, d: &Digest| d.size == 0 || index.touch(&blob(function, d)) == Some(d.size);
        digests.filter(|digest| !is_there(&mut index, digest)).collect()
    }

    /// Opens a blob for reading, `None` where it is not there.
    pub(crate) fn open_blob(&self, function: DigestFunction, digest: &Digest) -> Result<Option<File>, StoreError> {
        if !self.has(function, digest) {
            return Ok(None);
        }
        if digest.size == 0 {
            return Ok(Some(File::open("/dev/null").map_err(|e| DiskError::new("open", "/dev/null", e))?));
        }
        self.open_file(&blob(function, digest))
    }

    /// A file that vanished behind our back is forgotten.
    fn open_file(&self, key: &Key) -> Result<Option<File>, StoreError> {
        let path = self.path(key);
        match File::open(&path) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.index().forget(key);
                Ok(None)
            }
            Err(error) => Err(disk("open", &path, error).into()),
        }
    }

    /// A blob's bytes, `None` where it is not there. For small ones.
    pub(crate) fn read(&self, function: DigestFunction, digest: &Digest) -> Result<Option<Vec<u8>>, StoreError> {
        if digest.size == 0 {
            return Ok(Some(Vec::new()));
        }
        let Some(mut file) = self.open_blob(function, digest)? else { return Ok(None) };
        let mut bytes = Vec::with_capacity(usize::try_from(digest.size).unwrap_or(0).min(64 << 20));
        let path = || self.path(&blob(function, digest));
        file.read_to_end(&mut bytes).map_err(|e| disk("read", &path(), e))?;
        if bytes.len() as u64 != digest.size {
            self.drop_blob(function, digest);
            return Ok(None);
        }
        Ok(Some(bytes))
    }

    /// Stores bytes that are all here under their digest, which is checked.
    pub(crate) fn put(&self, function: DigestFunction, expected: &Digest, bytes: &[u8]) -> Result<(), StoreError> {
        let got = function.digest(bytes);
        if got != *expected {
            return Err(StoreError::Mismatch { expected: *expected, got });
        }
        self.put_new(function, bytes).map(drop)
    }

    /// Stores bytes and says their digest.
    pub(crate) fn put_new(&self, function: DigestFunction, bytes: &[u8]) -> Result<Digest, StoreError> {
        let digest = function.digest(bytes);
        if !self.has(function, &digest) {
            self.write(&blob(function, &digest), bytes)?;
        }
        Ok(digest)
    }

    /// Stores something that is named by another thing than its content.
    pub(crate) fn put_result(&self, key: &Key, bytes: &[u8]) -> Result<(), StoreError> {
        self.write(key, bytes)
    }

    /// Bytes stored by [`Self::put_result`].
    pub(crate) fn read_result(&self, key: &Key) -> Result<Option<Vec<u8>>, StoreError> {
        if self.index().touch(key).is_none() {
            return Ok(None);
        }
        let Some(mut file) = self.open_file(key)? else { return Ok(None) };
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(|e| disk("read", &self.path(key), e))?;
        Ok(Some(bytes))
    }

    /// Removes something.
    pub(crate) fn forget(&self, key: &Key) {
        let mut index = self.index();
        if index.forget(key) {
            self.remove_files(&[*key]);
        }
    }

    /// Removes a blob, pinned or not: it is lost or cannot be trusted.
    pub(crate) fn drop_blob(&self, function: DigestFunction, digest: &Digest) {
        self.forget(&blob(function, digest));
    }

    /// Removes everything that nobody uses right now.
    pub(crate) fn evict_all(&self) {
        let mut index = self.index();
        let keys = index.take_unpinned();
        self.remove_files(&keys);
    }

    /// Keeps blobs from going as long as the guard lives; those that are not there are returned.
    pub(crate) fn pin<'a>(
        self: &Arc<Self>,
        function: DigestFunction,
        digests: impl Iterator<Item = &'a Digest>,
        pins: &mut Pins,
    ) -> Vec<Digest> {
        let mut index = self.index();
        let mut missing = Vec::new();
        for digest in digests.filter(|digest| digest.size > 0) {
            let key = blob(function, digest);
            let is_there = index.touch(&key) == Some(digest.size);
            match index.pin(&key) {
                Some(pin) if is_there => pins.pins.push(pin),
                Some(pin) => {
                    index.unpin(&pin);
                    missing.push(*digest);
                }
                None => missing.push(*digest),
            }
        }
        missing
    }

    /// A guard that pins nothing yet.
    pub(crate) fn pins(self: &Arc<Self>) -> Pins {
        Pins { store: Arc::clone(self), pins: Vec::new() }
    }

    /// Takes over a file that nobody writes to any more, without copying it where it has one name only.
    pub(crate) fn adopt(&self, path: &Path, function: DigestFunction) -> Result<Digest, StoreError> {
        let now = FsInstant::of_all_devices(0, Duration::ZERO);
        let hashed = hash_file(rustix::fs::CWD, path, function, now).map_err(|e| disk("read", path, e))?;
        let digest = hashed.digest;
        if self.has(function, &digest) {
            return Ok(digest);
        }
        let temp = self.temp();
        let is_ours = fs::symlink_metadata(path).is_ok_and(|meta| meta.nlink() == 1);
        if !(is_ours && rustix::fs::link(path, &temp).is_ok()) {
            fs::copy(path, &temp).map_err(|e| disk("copy", path, e))?;
        }
        self.publish(&blob(function, &digest), &temp, digest.size)?;
        Ok(digest)
    }

    /// A file that has a blob's content and mode 0444 or 0555. The blob is pinned.
    pub(crate) fn variant(
        &self,
        function: DigestFunction,
        digest: &Digest,
        executable: bool,
    ) -> Result<Option<PathBuf>, StoreError> {
        let key = blob(function, digest);
        let plain = self.path(&key);
        if !executable {
            return Ok(Some(plain));
        }
        let variant = executable_path(&plain);
        if variant.exists() {
            return Ok(Some(variant));
        }
        let temp = self.temp();
        let copied = {
            let _writing = self.apart.writing();
            fs::copy(&plain, &temp)
        };
        match copied {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(disk("copy", &plain, error).into()),
            Ok(_) => seal(&temp, 0o555)?,
        }
        let mut index = self.index();
        if !variant.exists() {
            fs::rename(&temp, &variant).map_err(|e| disk("rename", &temp, e))?;
            index.add_extra(&key, digest.size);
        } else {
            remove_file(&temp)?;
        }
        Ok(Some(variant))
    }

    /// Whether a file given out by [`Self::variant`] is as it was given out.
    pub(crate) fn is_intact(&self, function: DigestFunction, digest: &Digest, executable: bool) -> bool {
        let plain = self.path(&blob(function, digest));
        let (path, mode) = if executable { (executable_path(&plain), 0o555) } else { (plain, 0o444) };
        match fs::symlink_metadata(path) {
            Ok(meta) => is_sealed(&meta) && meta.len() == digest.size && meta.mode() & 0o7777 == mode,
            // It went meanwhile, so nothing bad is left.
            Err(_) => true,
        }
    }

    /// Whether a blob of this size fits at all.
    pub(crate) fn check_size(&self, size: u64) -> Result<(), StoreError> {
        if size <= self.limit { Ok(()) } else { Err(StoreError::Full { size, limit: self.limit }) }
    }

    /// Most bytes there can be.
    pub(crate) fn limit(&self) -> u64 {
        self.limit
    }

    /// A name for a temporary file or directory that nobody else uses.
    pub(crate) fn temp(&self) -> PathBuf {
        self.dir.join("tmp").join(self.counter.fetch_add(1, Ordering::Relaxed).to_string())
    }

    fn write(&self, key: &Key, bytes: &[u8]) -> Result<(), StoreError> {
        let temp = self.temp();
        fs::write(&temp, bytes).map_err(|e| disk("write", &temp, e))?;
        self.publish(key, &temp, bytes.len() as u64)
    }

    /// Gives a complete file its name; it is removed where that fails.
    pub(crate) fn publish(&self, key: &Key, temp: &Path, size: u64) -> Result<(), StoreError> {
        self.try_publish(key, temp, size).inspect_err(|_| {
            // The error that counts is the first one.
            let _ = fs::remove_file(temp);
        })
    }

    fn try_publish(&self, key: &Key, temp: &Path, size: u64) -> Result<(), StoreError> {
        seal(temp, 0o444)?;
        let path = self.path(key);
        let mut index = self.index();
        let victims = index.make_room(size).map_err(|_| StoreError::Full { size, limit: self.limit })?;
        self.remove_files(&victims);
        if let Err(error) = fs::rename(temp, &path) {
            let parent = path.parent().unwrap_or(&self.dir);
            make_dir(parent)?;
            if error.kind() != io::ErrorKind::NotFound {
                return Err(disk("rename", temp, error).into());
            }
            fs::rename(temp, &path).map_err(|e| disk("rename", temp, e))?;
        }
        index.insert(*key, size);
        Ok(())
    }

    pub(crate) fn path(&self, key: &Key) -> PathBuf {
        let hex = Digest { hash: key.hash, size: 0 }.hex();
        let space = SPACES.iter().find(|(space, _)| *space == key.space).map_or("", |(_, name)| name);
        let function = FUNCTIONS.iter().find(|(function, _)| *function == key.function).map_or("", |(_, name)| name);
        self.dir.join(space).join(function).join(&hex[..2]).join(hex)
    }

    /// Called with the index locked, so that nobody puts one of them back meanwhile.
    fn remove_files(&self, keys: &[Key]) {
        for key in keys {
            let path = self.path(key);
            // What cannot be removed is found again at the next start.
            let _ = fs::remove_file(executable_path(&path));
            let _ = fs::remove_file(&path);
        }
    }
}

/// Blobs that stay as long as this lives.
pub(crate) struct Pins {
    store: Arc<Store>,
    pins: Vec<Pin>,
}

impl Drop for Pins {
    fn drop(&mut self) {
        let mut index = self.store.index();
        for pin in &self.pins {
            index.unpin(pin);
        }
    }
}

/// The key of a blob.
pub(crate) fn blob(function: DigestFunction, digest: &Digest) -> Key {
    Key { space: Space::Cas, function, hash: digest.hash }
}

#[cfg(test)]
mod tests;
