//! The bytes of blobs that lie here, read so that a change of a file is noticed.
//!
//! It does not know where they go. Everything here blocks.

use std::fs::File;
use std::io::{Cursor, Read};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use minibuild_core::{Blob, BlobSource, Digest, DigestFunction, Fingerprint, Hasher, WsPath};
use minibuild_disk::fingerprint_of;

/// A blob being read.
pub(super) struct Source {
    from: Origin,
    digest: Digest,
    at: u64,
    /// Where no fingerprint says that the bytes are those of the digest.
    hasher: Option<Hasher>,
    function: DigestFunction,
}

enum Origin {
    Bytes(Cursor<std::sync::Arc<[u8]>>),
    File { file: File, path: WsPath, fingerprint: Option<Fingerprint> },
}

/// The file is not what it was, or not there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Changed(pub(super) WsPath);

impl Source {
    /// Opens a blob; `None` where its bytes are elsewhere.
    pub(super) fn open(workspace: &Path, blob: &Blob, function: DigestFunction) -> Option<Result<Self, Changed>> {
        let (from, needs_hash) = match &blob.source {
            BlobSource::Elsewhere => return None,
            BlobSource::Bytes(bytes) => (Origin::Bytes(Cursor::new(std::sync::Arc::clone(bytes))), false),
            BlobSource::File { path, fingerprint } => {
                let Ok(file) = File::open(workspace.join(path.as_path())) else {
                    return Some(Err(Changed(path.clone())));
                };
                (Origin::File { file, path: path.clone(), fingerprint: *fingerprint }, fingerprint.is_none())
            }
        };
        let hasher = needs_hash.then(|| function.hasher());
        let mut source = Self { from, digest: blob.digest, at: 0, hasher, function };
        Some(source.check().map(|()| source))
    }

    /// The next piece of at most `most` bytes, fewer only at the end, where the source is checked before its last
    /// bytes are given out. Empty behind the end.
    pub(super) fn next(&mut self, most: usize) -> Result<Vec<u8>, Changed> {
        let length = usize::try_from(self.digest.size - self.at).unwrap_or(usize::MAX).min(most);
        let mut piece = vec![0; length];
        let read = match &mut self.from {
            Origin::Bytes(bytes) => bytes.read_exact(&mut piece),
            Origin::File { file, .. } => file.read_exact(&mut piece),
        };
        read.map_err(|_| self.changed())?;
        self.at += length as u64;
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&piece);
        }
        if self.at == self.digest.size && length > 0 {
            self.check()?;
            self.check_hash()?;
        }
        Ok(piece)
    }

    /// Goes on at a later position.
    pub(super) fn skip_to(&mut self, position: u64) -> Result<(), Changed> {
        const PIECE: u64 = 1 << 20;
        // Hashing needs all of it; otherwise reading is as good as seeking, and happens once in a broken upload.
        while self.at < position {
            let most = (position - self.at).min(PIECE);
            self.next(usize::try_from(most).unwrap_or(0))?;
        }
        Ok(())
    }

    /// All of it.
    pub(super) fn read_all(mut self) -> Result<Vec<u8>, Changed> {
        self.next(usize::MAX)
    }

    /// Another fingerprint proves no change of the content: from then on the bytes are hashed.
    fn check(&mut self) -> Result<(), Changed> {
        let Origin::File { file, fingerprint, .. } = &mut self.from else { return Ok(()) };
        let Ok(seen) = rustix::fs::fstat(&*file).map(|stat| fingerprint_of(&stat)) else { return Err(self.changed()) };
        let is_same = fingerprint.as_ref().is_none_or(|fingerprint| *fingerprint == seen);
        if !is_same {
            *fingerprint = None;
            self.hasher = self.hash_so_far().ok();
        }
        let can_be_checked = is_same || self.hasher.is_some();
        if can_be_checked && seen.size == self.digest.size { Ok(()) } else { Err(self.changed()) }
    }

    /// A hasher of the bytes that were given out.
    fn hash_so_far(&self) -> std::io::Result<Hasher> {
        let mut hasher = self.function.hasher();
        let Origin::File { file, .. } = &self.from else { return Ok(hasher) };
        let mut piece = vec![0; 256 * 1024];
        let mut at = 0;
        while at < self.at {
            let length = usize::try_from(self.at - at).unwrap_or(usize::MAX).min(piece.len());
            file.read_exact_at(&mut piece[..length], at)?;
            hasher.update(&piece[..length]);
            at += length as u64;
        }
        Ok(hasher)
    }

    fn check_hash(&mut self) -> Result<(), Changed> {
        let is_other = self.hasher.take().is_some_and(|hasher| hasher.finish() != self.digest);
        if is_other { Err(self.changed()) } else { Ok(()) }
    }

    /// Bytes that are here are as long as their digest says, or the caller is wrong: the empty path says so.
    fn changed(&self) -> Changed {
        match &self.from {
            Origin::Bytes(_) => Changed(WsPath::root()),
            Origin::File { path, .. } => Changed(path.clone()),
        }
    }
}
