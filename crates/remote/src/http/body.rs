//! Bodies of uploads: bytes in memory, or a file that has to turn out to be the blob.
//!
//! The last piece of a file leaves only when all of it has the expected digest, so that a server which trusts names
//! never stores something else under one. It does not know who asks for the upload.

use std::convert::Infallible;
use std::error::Error;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures_util::stream::{try_unfold, unfold};
use minibuild_core::{Digest, DigestFunction, Hasher};
use reqwest::Body;

/// Bytes read from a file at a time.
const PIECE: usize = 256 << 10;

/// How many bytes of a body were taken by the connection.
#[derive(Clone, Default)]
pub(super) struct Progress(Arc<AtomicU64>);

impl Progress {
    pub(super) fn bytes(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn add(&self, bytes: usize) {
        self.0.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

/// The body with these bytes.
pub(super) fn of_bytes(bytes: Bytes, progress: Progress) -> Body {
    let pieces = unfold((bytes, progress), |(mut bytes, progress)| async move {
        if bytes.is_empty() {
            return None;
        }
        let piece = bytes.split_to(bytes.len().min(PIECE));
        progress.add(piece.len());
        Some((Ok::<_, Infallible>(piece), (bytes, progress)))
    });
    Body::wrap_stream(pieces)
}

/// Whether a request failed because its file is not the blob.
pub(super) fn is_changed(error: &(dyn Error + 'static)) -> bool {
    error.is::<Changed>() || error.source().is_some_and(is_changed)
}

#[derive(Debug, thiserror::Error)]
#[error("the file is not what it was")]
struct Changed;

/// The body with the content of a file.
pub(super) fn of_file(path: PathBuf, digest: Digest, function: DigestFunction, progress: Progress) -> Body {
    let begin = Reading { path, file: None, digest, left: digest.size, hasher: Some(function.hasher()), progress };
    Body::wrap_stream(try_unfold(begin, |reading| async move {
        if reading.left == 0 {
            return Ok(None);
        }
        let next = tokio::task::spawn_blocking(move || reading.next()).await;
        next.ok().and_then(Result::ok).map(Some).ok_or(Changed)
    }))
}

struct Reading {
    path: PathBuf,
    file: Option<File>,
    digest: Digest,
    left: u64,
    hasher: Option<Hasher>,
    progress: Progress,
}

impl Reading {
    fn next(mut self) -> io::Result<(Bytes, Self)> {
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(File::open(&self.path)?),
        };
        let length = usize::try_from(self.left).unwrap_or(usize::MAX).min(PIECE);
        let mut piece = vec![0; length];
        file.read_exact(&mut piece)?;
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&piece);
        }
        self.left -= length as u64;
        self.progress.add(length);
        if self.left == 0 && self.hasher.take().is_none_or(|hasher| hasher.finish() != self.digest) {
            return Err(io::ErrorKind::InvalidData.into());
        }
        Ok((piece.into(), self))
    }
}
