//! Bodies of uploads: bytes in memory, or a file that has to turn out to be the blob.
//!
//! The last piece of a file leaves only when all of it has the expected digest, so that a server which trusts names
//! never stores something else under one. It does not know who asks for the upload.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures_util::stream::{try_unfold, unfold};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Empty, StreamBody};
use hyper::body::Frame;
use minibuild_core::{Digest, DigestFunction, Hasher};

/// Bytes read from a file at a time.
const PIECE: usize = 256 << 10;

/// A body of a request.
pub(super) type Body = UnsyncBoxBody<Bytes, io::Error>;

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

/// No body.
pub(super) fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

/// The body with these bytes.
pub(super) fn of_bytes(bytes: Bytes, progress: Progress) -> Body {
    let pieces = unfold((bytes, progress), |(mut bytes, progress)| async move {
        if bytes.is_empty() {
            return None;
        }
        let piece = bytes.split_to(bytes.len().min(PIECE));
        progress.add(piece.len());
        Some((Ok(Frame::data(piece)), (bytes, progress)))
    });
    StreamBody::new(pieces).boxed_unsync()
}

/// The error of a file that is not the blob.
pub(super) fn is_changed(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        let is_ours = |e: &io::Error| e.get_ref().is_some_and(|inner| inner.is::<Changed>());
        if error.is::<Changed>() || error.downcast_ref::<io::Error>().is_some_and(is_ours) {
            return true;
        }
        next = error.source();
    }
    false
}

#[derive(Debug, thiserror::Error)]
#[error("the file is not what it was")]
struct Changed;

/// The body with the content of a file.
pub(super) fn of_file(path: PathBuf, digest: Digest, function: DigestFunction, progress: Progress) -> Body {
    let begin = Reading { path, file: None, digest, left: digest.size, hasher: Some(function.hasher()), progress };
    let pieces = try_unfold(begin, |reading| async move {
        if reading.left == 0 {
            return Ok(None);
        }
        match tokio::task::spawn_blocking(move || reading.next()).await {
            Ok(next) => next.map(|(piece, reading)| Some((Frame::data(piece), reading))),
            Err(error) => Err(io::Error::other(error)),
        }
    });
    StreamBody::new(pieces).boxed_unsync()
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
            return Err(io::Error::other(Changed));
        }
        Ok((piece.into(), self))
    }
}
