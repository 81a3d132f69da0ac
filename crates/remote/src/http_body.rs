//! Bodies of uploads: bytes in memory, or a file that has to turn out to be the blob.
//!
//! The last piece of a file leaves only when all of it has the expected digest, so that a server which trusts names
//! never stores something else under one. It does not know who asks for the upload.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::PathBuf;

use bytes::Bytes;
use futures_util::stream::try_unfold;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::Frame;
use minibuild_core::{Digest, DigestFunction, Hasher};

/// Bytes read from a file at a time.
const PIECE: usize = 256 << 10;

/// A body of a request.
pub(crate) type Body = UnsyncBoxBody<Bytes, io::Error>;

/// The body with these bytes.
pub(crate) fn of_bytes(bytes: Bytes) -> Body {
    Full::new(bytes).map_err(|never| match never {}).boxed_unsync()
}

/// The error of a file that is not the blob.
pub(crate) fn is_changed(error: &(dyn std::error::Error + 'static)) -> bool {
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
pub(crate) fn of_file(path: PathBuf, digest: Digest, function: DigestFunction) -> Body {
    let begin = Reading { path, file: None, digest, left: digest.size, hasher: Some(function.hasher()) };
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
        if self.left == 0 && self.hasher.take().is_none_or(|hasher| hasher.finish() != self.digest) {
            return Err(io::Error::other(Changed));
        }
        Ok((piece.into(), self))
    }
}
