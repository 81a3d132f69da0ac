//! A blob on its way into the store, piece by piece.
//!
//! It does not know where the pieces come from.

use std::fs::File;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::Arc;

use minibuild_core::{Digest, DigestFunction, Hasher};

use super::{Store, StoreError, blob, disk};

/// What has come so far. Dropped unfinished, it leaves nothing.
pub(crate) struct Ingest {
    store: Arc<Store>,
    function: DigestFunction,
    hasher: Option<Hasher>,
    file: File,
    path: PathBuf,
    written: u64,
    limit: u64,
}

impl Ingest {
    /// Begins; more than `limit` bytes are refused when they come.
    pub(crate) fn new(store: &Arc<Store>, function: DigestFunction, limit: u64) -> Result<Self, StoreError> {
        store.check_size(limit)?;
        let path = store.temp();
        let file = File::create_new(&path).map_err(|e| disk("create", &path, e))?;
        let hasher = Some(function.hasher());
        Ok(Self { store: Arc::clone(store), function, hasher, file, path, written: 0, limit })
    }

    /// Bytes that came.
    pub(crate) fn written(&self) -> u64 {
        self.written
    }

    /// Takes the next bytes.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        let written = self.written.saturating_add(bytes.len() as u64);
        if written > self.limit {
            return Err(StoreError::TooLong(self.limit));
        }
        self.file.write_all(bytes).map_err(|e| disk("write", &self.path, e))?;
        if let Some(hasher) = &mut self.hasher {
            hasher.update(bytes);
        }
        self.written = written;
        Ok(())
    }

    /// All is here: checks the hash and gives the blob its name. Without `expected` any content will do.
    pub(crate) fn finish(mut self, expected: Option<&Digest>) -> Result<Digest, StoreError> {
        let got = self.hasher.take().map_or_else(|| self.function.empty(), Hasher::finish);
        if let Some(expected) = expected.filter(|expected| **expected != got) {
            return Err(StoreError::Mismatch { expected: *expected, got });
        }
        if !self.store.has(self.function, &got) {
            self.store.publish(&blob(self.function, &got), &self.path, got.size)?;
        }
        Ok(got)
    }
}

impl Drop for Ingest {
    fn drop(&mut self) {
        // After a rename there is nothing under this name.
        let _ = std::fs::remove_file(&self.path);
    }
}
