//! A file that gets the bytes of a blob. What came is kept if the rest does not come now.
//!
//! It does not know where bytes come from. Whoever writes owns it, so it is never kept while somebody still writes.

use std::fs::File;
use std::io::{self, Write};
use std::sync::Arc;

use minibuild_core::{Digest, Hasher};
use minibuild_disk::{Keep, StagedFile};

use crate::cas::{Target, read_back, restart};

/// Less is brought again sooner than it is found.
const WORTH_KEEPING: u64 = 1 << 20;

/// A blob on its way into a file.
pub(crate) struct Part {
    /// Here until it is taken.
    file: Option<StagedFile>,
    digest: Digest,
    keeper: Option<Arc<dyn Keep>>,
}

impl Part {
    /// A file that is empty, or has the first bytes of the blob.
    pub(crate) fn new(file: StagedFile, digest: Digest, keeper: Option<Arc<dyn Keep>>) -> Self {
        Self { file: Some(file), digest, keeper: keeper.filter(|_| digest.size > WORTH_KEEPING) }
    }

    /// What came is worth nothing without the rest.
    pub(crate) fn keep_nothing(&mut self) {
        self.keeper = None;
    }

    /// The open file.
    ///
    /// # Errors
    /// Where there is none, which is a bug.
    pub(crate) fn file(&self) -> io::Result<&File> {
        let file = self.file.as_ref().map(StagedFile::file);
        file.ok_or_else(|| io::Error::other("bug: the file of a download is gone"))
    }

    /// All came; it is the caller's now.
    pub(crate) fn take(mut self) -> Option<StagedFile> {
        self.file.take()
    }
}

impl Write for Part {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file()?.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Target for Part {
    fn read_back(&mut self, hasher: &mut Hasher) -> io::Result<u64> {
        read_back(self.file()?, hasher)
    }

    fn restart(&mut self) -> io::Result<()> {
        restart(self.file()?)
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        let (Some(keeper), Some(file)) = (&self.keeper, self.file.take()) else { return };
        if file.file().metadata().is_ok_and(|meta| meta.len() >= WORTH_KEEPING) {
            keeper.adopt_part(file, &self.digest);
        }
    }
}
