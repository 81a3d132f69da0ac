//! Uploads under way: what came so far stays when a stream breaks, so that the next one can go on there.
//!
//! It does not know messages or streams.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use minibuild_reapi::{Compressor, UploadName};
use tonic::Status;

use crate::answer::store_error;
use crate::store::{Ingest, Store};

/// Uploads that are remembered; the one begun longest ago goes first.
const MOST: usize = 1000;
/// A sender chooses how much memory unpacking takes, up to 16 MiB; more than the highest ordinary level wants.
const MAX_WINDOW: u32 = 24;

/// All uploads under way, by resource name.
#[derive(Default)]
pub(crate) struct Uploads(Mutex<Table>);

#[derive(Default)]
struct Table {
    uploads: HashMap<UploadName, (u64, Arc<Upload>)>,
    clock: u64,
}

/// One upload.
#[derive(Default)]
pub(crate) struct Upload {
    state: Mutex<State>,
    /// Streams that bring it; without one it is abandoned until the next comes.
    streams: AtomicUsize,
}

/// Held by a stream as long as it lasts.
pub(crate) struct Bringing {
    uploads: Arc<Uploads>,
    upload: Arc<Upload>,
    most_abandoned: u64,
}

impl std::ops::Deref for Bringing {
    type Target = Arc<Upload>;

    fn deref(&self) -> &Arc<Upload> {
        &self.upload
    }
}

impl Drop for Bringing {
    fn drop(&mut self) {
        self.upload.streams.fetch_sub(1, Ordering::AcqRel);
        self.uploads.forget_abandoned(self.most_abandoned);
    }
}

#[derive(Default)]
struct State {
    sink: Option<Sink>,
    /// Counts the streams; the one before loses its right to write when another comes.
    owner: u64,
}

pub(crate) enum Sink {
    Plain(Box<Ingest>),
    Zstd(Box<zstd::stream::write::Decoder<'static, Unpacked>>),
}

/// Where unpacked bytes go; the ingest's limit makes an end of bombs.
pub(crate) struct Unpacked {
    ingest: Ingest,
    error: Option<Status>,
}

impl io::Write for Unpacked {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.ingest.write(bytes) {
            Ok(()) => Ok(bytes.len()),
            Err(error) => {
                self.error = Some(store_error(error));
                Err(io::Error::other("refused"))
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Uploads {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The upload of this name, begun where it was not. When the stream is over, no more than `most_abandoned` bytes
    /// of uploads without a stream stay.
    pub(crate) fn bring(self: &Arc<Self>, name: &UploadName, most_abandoned: u64) -> Bringing {
        let upload = self.get(name);
        upload.streams.fetch_add(1, Ordering::AcqRel);
        Bringing { uploads: Arc::clone(self), upload, most_abandoned }
    }

    /// Forgets uploads without a stream, those begun first, until the rest has this many bytes at most.
    fn forget_abandoned(&self, most: u64) {
        let mut table = self.table();
        let abandoned = table.uploads.iter().filter(|(_, (_, upload))| upload.streams.load(Ordering::Acquire) == 0);
        let mut abandoned: Vec<(u64, UploadName, u64)> =
            abandoned.map(|(name, (began, upload))| (*began, name.clone(), upload.committed())).collect();
        abandoned.sort_unstable_by_key(|(began, ..)| *began);
        let mut total = abandoned.iter().fold(0, |sum: u64, (.., bytes)| sum.saturating_add(*bytes));
        for (_, name, bytes) in abandoned {
            if total <= most {
                return;
            }
            total -= bytes;
            table.uploads.remove(&name);
        }
    }

    fn get(&self, name: &UploadName) -> Arc<Upload> {
        let mut table = self.table();
        table.clock += 1;
        let clock = table.clock;
        if let Some((_, upload)) = table.uploads.get(name) {
            return Arc::clone(upload);
        }
        if table.uploads.len() >= MOST {
            let oldest = table.uploads.iter().min_by_key(|(_, (began, _))| *began).map(|(name, _)| name.clone());
            oldest.and_then(|name| table.uploads.remove(&name));
        }
        let upload = Arc::new(Upload::default());
        table.uploads.insert(name.clone(), (clock, Arc::clone(&upload)));
        upload
    }

    /// Bytes that came of an upload under way.
    pub(crate) fn committed(&self, name: &UploadName) -> Option<u64> {
        let upload = self.table().uploads.get(name).map(|(_, upload)| Arc::clone(upload))?;
        Some(upload.committed())
    }

    /// Forgets an upload that is complete or failed.
    pub(crate) fn end(&self, name: &UploadName) {
        self.table().uploads.remove(name);
    }
}

impl Upload {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn committed(&self) -> u64 {
        self.lock().sink.as_ref().map_or(0, Sink::written)
    }

    /// A new stream comes that goes on at `offset`; returns its number.
    pub(crate) fn begin(&self, store: &Arc<Store>, name: &UploadName, offset: u64) -> Result<u64, Status> {
        let mut state = self.lock();
        let earlier = state.sink.take().map(Sink::into_ingest);
        let ingest = match earlier {
            Some(earlier) if offset > 0 && earlier.written() == offset => earlier,
            earlier if offset > 0 => {
                let committed = earlier.as_ref().map_or(0, Ingest::written);
                state.sink = earlier.map(|ingest| Sink::Plain(Box::new(ingest)));
                return Err(Status::invalid_argument(format!(
                    "the upload cannot go on at {offset}: {committed} bytes are committed"
                )));
            }
            _ => Ingest::new(store, name.blob.function, name.blob.digest.size).map_err(store_error)?,
        };
        state.sink = Some(Sink::new(ingest, name.blob.compressor)?);
        state.owner += 1;
        Ok(state.owner)
    }

    /// Takes bytes of stream `owner`. After an error nothing is left.
    pub(crate) fn write(&self, owner: u64, bytes: &[u8]) -> Result<(), Status> {
        let mut state = self.lock();
        let mut sink = state.take(owner)?;
        sink.write(bytes)?;
        state.sink = Some(sink);
        Ok(())
    }

    /// All is here.
    pub(crate) fn finish(&self, owner: u64, name: &UploadName) -> Result<(), Status> {
        let sink = self.lock().take(owner)?;
        sink.finish()?.finish(Some(&name.blob.digest)).map(drop).map_err(store_error)
    }
}

impl State {
    fn take(&mut self, owner: u64) -> Result<Sink, Status> {
        if self.owner != owner {
            return Err(Status::aborted("another stream goes on with this upload"));
        }
        self.sink.take().ok_or_else(|| Status::aborted("the upload failed before"))
    }
}

impl Sink {
    pub(crate) fn new(ingest: Ingest, compressor: Compressor) -> Result<Self, Status> {
        match compressor {
            Compressor::Identity => Ok(Self::Plain(Box::new(ingest))),
            Compressor::Zstd => {
                let fail = |e| Status::internal(format!("cannot decompress: {e}"));
                let mut decoder = zstd::stream::write::Decoder::new(Unpacked { ingest, error: None }).map_err(fail)?;
                decoder.window_log_max(MAX_WINDOW).map_err(fail)?;
                Ok(Self::Zstd(Box::new(decoder)))
            }
        }
    }

    pub(crate) fn written(&self) -> u64 {
        match self {
            Self::Plain(ingest) => ingest.written(),
            Self::Zstd(decoder) => decoder.get_ref().ingest.written(),
        }
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), Status> {
        match self {
            Self::Plain(ingest) => ingest.write(bytes).map_err(store_error),
            Self::Zstd(decoder) => {
                let written = io::Write::write_all(decoder, bytes);
                written.map_err(|e| zstd_error(decoder.get_mut(), &e))
            }
        }
    }

    /// What came, with what the decompressor still held.
    pub(crate) fn finish(self) -> Result<Ingest, Status> {
        match self {
            Self::Plain(ingest) => Ok(*ingest),
            Self::Zstd(mut decoder) => match io::Write::flush(&mut decoder) {
                Ok(()) => Ok(decoder.into_inner().ingest),
                Err(error) => Err(zstd_error(decoder.get_mut(), &error)),
            },
        }
    }

    /// What came for sure.
    fn into_ingest(self) -> Ingest {
        match self {
            Self::Plain(ingest) => *ingest,
            Self::Zstd(decoder) => decoder.into_inner().ingest,
        }
    }
}

fn zstd_error(sink: &mut Unpacked, error: &io::Error) -> Status {
    let refused = sink.error.take();
    refused.unwrap_or_else(|| Status::invalid_argument(format!("the upload does not decompress: {error}")))
}
