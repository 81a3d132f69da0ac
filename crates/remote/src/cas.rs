//! The content-addressable storage of one gRPC server: what is there, sending it what is not, reading.
//!
//! It does not know actions or outputs. Questions, small blobs to send and small blobs to read pile up while earlier
//! ones are under way and go together; large blobs have a stream each.

mod batch_read;
mod batch_write;
mod download;
mod ensure;
mod flights;
mod missing;
mod pile;
mod sink;
mod source;
mod write;

pub(crate) use sink::{Target, read_back, restart};

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use minibuild_core::{Digest, Requester};
use minibuild_reapi::{BlobName, Compressor};
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tonic::Code;

use crate::error::{CallError, ReadError};
use crate::grpc::Grpc;
use crate::presence::Presence;
use batch_read::{Delivery, Order};
use batch_write::Parcel;
use flights::{Flight, Flights, Outcome};
use missing::Question;
use pile::Pile;

/// Room in a message around one blob.
const OVERHEAD: u64 = 160;
/// Larger blobs have a stream of their own, whatever the server's limit: it can be resumed and compressed.
const SMALL: u64 = 256 << 10;
/// Streams at once that send, and that receive: what a stream of the latter holds in memory, windows and all, is up to 8 MiB.
const UPLOADS: usize = 16;
const DOWNLOADS: usize = 8;
/// Batches at once, of each kind.
const BATCHES: usize = 4;
/// Smaller blobs are not worth compressing.
const WORTH_PACKING: u64 = 1 << 10;

/// What was sent so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct UploadCount {
    /// Blobs.
    pub(crate) blobs: u64,
    /// Their bytes, uncompressed.
    pub(crate) bytes: u64,
}

/// The storage of one server. Clones are the same. All calls are made in a tokio runtime.
#[derive(Clone)]
pub(crate) struct GrpcCas(Arc<Shared>);

struct Shared {
    inner: Arc<Inner>,
    questions: Arc<Pile<Question>>,
    parcels: Arc<Pile<Parcel>>,
    orders: Arc<Pile<Order>>,
    flights: Arc<Flights>,
    /// What runs for several callers; ends with the last clone.
    tasks: Mutex<JoinSet<()>>,
}

/// What tasks need.
struct Inner {
    grpc: Arc<Grpc>,
    workspace: PathBuf,
    compression: bool,
    uploads: Semaphore,
    downloads: Semaphore,
    presence: Mutex<Presence>,
    began: Instant,
    sent_blobs: AtomicU64,
    sent_bytes: AtomicU64,
}

impl GrpcCas {
    /// The storage of `grpc`; files of blobs lie in `workspace`.
    pub(crate) fn new(grpc: Arc<Grpc>, workspace: PathBuf, compression: bool) -> Self {
        let inner = Inner {
            grpc,
            workspace,
            compression,
            uploads: Semaphore::new(UPLOADS),
            downloads: Semaphore::new(DOWNLOADS),
            presence: Mutex::default(),
            began: Instant::now(),
            sent_blobs: AtomicU64::new(0),
            sent_bytes: AtomicU64::new(0),
        };
        Self(Arc::new(Shared {
            inner: Arc::new(inner),
            questions: Pile::new(2),
            parcels: Pile::new(BATCHES),
            orders: Pile::new(BATCHES),
            flights: Arc::default(),
            tasks: Mutex::default(),
        }))
    }

    /// The bytes of a blob of at most `limit` bytes, verified.
    ///
    /// # Errors
    /// A [`ReadError`].
    pub(crate) async fn read(&self, who: &Requester, digest: Digest, limit: u64) -> Result<Bytes, ReadError> {
        if digest.size > limit {
            return Err(ReadError::TooLarge { digest, limit });
        }
        if digest.size == 0 {
            return Ok(Bytes::new());
        }
        let batch_limit = self.0.inner.grpc.capabilities().await.map_err(ReadError::Call)?.batch_limit;
        let read = match is_small(digest.size, batch_limit) {
            true => self.order(who, digest, batch_limit).await?,
            false => None,
        };
        let read = match read {
            Some(bytes) => Ok(bytes),
            None => download::fetch(&self.0.inner, who, digest, Vec::new()).await.map(Bytes::from),
        };
        self.note_read(digest, &read);
        read
    }

    /// Writes a blob into a file, which is given back; verified. Of one that has a stream of its own the first bytes may be
    /// there.
    ///
    /// # Errors
    /// A [`ReadError`]; what came is in the file then.
    pub(crate) async fn download<T: Target>(
        &self,
        who: &Requester,
        digest: Digest,
        mut file: T,
    ) -> Result<T, ReadError> {
        if digest.size == 0 {
            return Ok(file);
        }
        let limit = self.0.inner.grpc.capabilities().await.map_err(ReadError::Call)?.batch_limit;
        if !is_small(digest.size, limit) {
            let read = download::fetch(&self.0.inner, who, digest, file).await;
            self.note_read(digest, &read);
            return read;
        }
        let bytes = self.read(who, digest, u64::MAX).await?;
        let written = tokio::task::spawn_blocking(move || file.write_all(&bytes).map(|()| file)).await;
        let disk = |why: String| ReadError::Disk { digest, why };
        written.map_err(|e| disk(e.to_string()))?.map_err(|e| disk(e.to_string()))
    }

    /// A small blob by a batch; `None` where it has to be read by itself.
    async fn order(&self, who: &Requester, digest: Digest, limit: u64) -> Result<Option<Bytes>, ReadError> {
        let (reply, delivery) = oneshot::channel();
        let order = Order { who: Arc::new(who.clone()), digest, reply };
        if let Some(runner) = self.0.orders.push([order]) {
            self.spawn(batch_read::run(Arc::clone(&self.0.inner.grpc), runner, limit));
        }
        match delivery.await {
            Ok(Delivery::Bytes(bytes)) => Ok(Some(bytes)),
            Ok(Delivery::Alone) => Ok(None),
            Ok(Delivery::Failed(error)) => {
                self.note_read::<()>(digest, &Err(error.clone()));
                Err(error)
            }
            Err(_) => Err(ReadError::Call(self.gone("BatchReadBlobs"))),
        }
    }

    /// What could be read is there; what is lost or wrong is not.
    fn note_read<T>(&self, digest: Digest, read: &Result<T, ReadError>) {
        let mut presence = self.0.inner.presence();
        match read {
            Ok(_) => presence.seen([digest], self.0.inner.now()),
            Err(ReadError::Lost(_) | ReadError::Corrupt { .. }) => presence.forget(&[digest]),
            Err(_) => {}
        }
    }

    /// These are not believed to be there any more.
    pub(crate) fn forget(&self, digests: &[Digest]) {
        self.0.inner.presence().forget(digests);
    }

    /// Whether the server is known to have had a blob a short while ago.
    #[cfg(test)]
    pub(crate) fn has_recently(&self, digest: &Digest) -> bool {
        digest.size == 0 || self.0.inner.presence().has(digest, self.0.inner.now())
    }

    /// What was sent so far.
    pub(crate) fn uploads(&self) -> UploadCount {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        UploadCount { blobs: of(&self.0.inner.sent_blobs), bytes: of(&self.0.inner.sent_bytes) }
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = self.0.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        while tasks.try_join_next().is_some() {}
        tasks.spawn(task);
    }

    /// A task that ended without a word.
    fn gone(&self, method: &'static str) -> CallError {
        self.0.inner.grpc.refuse(Code::Internal, method, "bug: nobody answered".to_owned())
    }
}

/// Whether a blob goes with others in one message.
fn is_small(size: u64, limit: u64) -> bool {
    size <= SMALL && size.saturating_add(OVERHEAD) <= limit
}

impl Inner {
    fn now(&self) -> std::time::Duration {
        self.began.elapsed()
    }

    fn presence(&self) -> MutexGuard<'_, Presence> {
        self.presence.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends an upload.
    fn land(&self, flight: Flight, outcome: Outcome) {
        if outcome.is_ok() {
            let digest = flight.digest();
            self.presence().seen([digest], self.now());
            self.sent_blobs.fetch_add(1, Ordering::Relaxed);
            self.sent_bytes.fetch_add(digest.size, Ordering::Relaxed);
        }
        flight.land(outcome);
    }

    /// Whether a stream of so many bytes is compressed.
    async fn wants_zstd(&self, size: u64) -> Result<bool, CallError> {
        let capabilities = self.grpc.capabilities().await?;
        Ok(self.compression && size >= WORTH_PACKING && capabilities.zstd_streams)
    }

    fn blob_name(&self, digest: Digest, zstd: bool) -> BlobName {
        BlobName {
            instance: self.grpc.instance().to_owned(),
            function: self.grpc.function(),
            digest,
            compressor: if zstd { Compressor::Zstd } else { Compressor::Identity },
        }
    }
}
