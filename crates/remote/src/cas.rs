//! The content-addressable storage of one gRPC server: what is there, sending it what is not, reading.
//!
//! It does not know actions or outputs. Questions, small blobs to send and small blobs to read pile up while earlier
//! ones are under way and go together; large blobs have a stream each.

mod batch_read;
mod batch_write;
mod download;
mod flights;
mod missing;
mod pile;
mod presence;
mod sink;
mod source;
mod write;

use std::collections::HashMap;
use std::fs::File;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use minibuild_core::{Blob, BlobSource, Digest, Requester, WsPath};
use minibuild_reapi::{BlobName, Compressor};
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tonic::Code;

use crate::error::{CallError, EnsureError, ReadError};
use crate::grpc::Grpc;
use batch_read::{Delivery, Order};
use batch_write::Parcel;
use flights::{Flight, Flights, Outcome, SendError, Waiter};
use missing::Question;
use pile::Pile;
use presence::Presence;

/// Room in a message around one blob.
const OVERHEAD: u64 = 160;
/// Larger blobs have a stream of their own, whatever the server's limit: it can be resumed and compressed.
const SMALL: u64 = 256 << 10;
/// Streams at once in each direction: with what each holds in memory, some 64 MiB together.
const STREAMS: usize = 16;
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
            uploads: Semaphore::new(STREAMS),
            downloads: Semaphore::new(STREAMS),
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

    /// Makes sure that the server has all of these, and tells how many of how many were sent.
    ///
    /// # Errors
    /// An [`EnsureError`]. Where blobs are lost nothing is sent; otherwise what could be sent is.
    pub(crate) async fn ensure(
        &self,
        who: &Requester,
        blobs: &[Blob],
        progress: &(dyn Fn(u64, u64) + Sync),
    ) -> Result<(), EnsureError> {
        let wanted = self.not_seen(blobs);
        if wanted.is_empty() {
            return Ok(());
        }
        // Before anything else: a server that does not know the digest function says strange things.
        self.0.inner.grpc.capabilities().await.map_err(EnsureError::Call)?;
        let who = Arc::new(who.clone());
        let missing = self.find_missing(&who, wanted.keys().copied().collect()).await.map_err(EnsureError::Call)?;
        let missing: Vec<&Blob> = missing.iter().filter_map(|digest| wanted.get(digest).copied()).collect();
        let is_lost = |blob: &&&Blob| blob.source == BlobSource::Elsewhere;
        let lost: Vec<Digest> = missing.iter().filter(is_lost).map(|blob| blob.digest).collect();
        if !lost.is_empty() {
            return Err(EnsureError::Lost(lost));
        }
        if missing.is_empty() {
            return Ok(());
        }
        self.send(&who, &missing, progress).await
    }

    /// What may be missing, each digest once; with a source, where one of several has one.
    fn not_seen<'a>(&self, blobs: &'a [Blob]) -> HashMap<Digest, &'a Blob> {
        let now = self.0.inner.now();
        let presence = self.0.inner.presence();
        let mut wanted: HashMap<Digest, &Blob> = HashMap::new();
        for blob in blobs.iter().filter(|blob| blob.digest.size > 0 && !presence.has(&blob.digest, now)) {
            let known = wanted.entry(blob.digest).or_insert(blob);
            if known.source == BlobSource::Elsewhere {
                *known = blob;
            }
        }
        wanted
    }

    async fn find_missing(&self, who: &Arc<Requester>, digests: Vec<Digest>) -> Result<Vec<Digest>, CallError> {
        let mut answers = Vec::new();
        let questions: Vec<Question> = digests
            .chunks(missing::PAGE)
            .map(|page| {
                let (reply, answer) = oneshot::channel();
                answers.push(answer);
                Question { who: Arc::clone(who), digests: page.to_vec(), reply }
            })
            .collect();
        if let Some(runner) = self.0.questions.push(questions) {
            self.spawn(missing::run(Arc::clone(&self.0.inner.grpc), runner));
        }
        let mut missing = Vec::new();
        for answer in answers {
            missing.extend(answer.await.map_err(|_| self.gone("FindMissingBlobs"))??);
        }
        let absent: std::collections::HashSet<&Digest> = missing.iter().collect();
        let present = digests.iter().filter(|digest| !absent.contains(digest)).copied();
        self.0.inner.presence().seen(present, self.0.inner.now());
        Ok(missing)
    }

    /// Sends all of these, or waits for whoever sends them already.
    async fn send(
        &self,
        who: &Arc<Requester>,
        blobs: &[&Blob],
        progress: &(dyn Fn(u64, u64) + Sync),
    ) -> Result<(), EnsureError> {
        let capabilities = self.0.inner.grpc.capabilities().await.map_err(EnsureError::Call)?;
        let limit = capabilities.batch_limit;
        if let Some(most) = capabilities.max_blob_size
            && let Some(blob) = blobs.iter().find(|blob| blob.digest.size > most)
        {
            let why = format!("blob {} is larger than the {most} bytes it takes", blob.digest);
            return Err(EnsureError::Call(self.0.inner.grpc.refuse(Code::ResourceExhausted, "Write", why)));
        }
        let total = blobs.len() as u64;
        progress(0, total);
        let waiters = self.board(who, blobs, limit);
        let ends = waiters.into_iter().map(|(blob, waiter)| async move { (blob, waiter.outcome().await) });
        let mut ends: FuturesUnordered<_> = ends.collect();
        let (mut done, mut changed, mut failed) = (0, Vec::new(), None);
        while let Some((blob, outcome)) = ends.next().await {
            let outcome = self.again_if_not_ours(who, blob, outcome, limit).await;
            done += 1;
            progress(done, total);
            match outcome {
                Ok(()) => {}
                Err(SendError::Changed(path)) => changed.push(path),
                Err(SendError::Call(error)) => failed = failed.or(Some(error)),
            }
        }
        verdict(changed, failed)
    }

    /// Another caller's file of the same content may have changed; ours has not been looked at then.
    async fn again_if_not_ours(
        &self,
        who: &Arc<Requester>,
        blob: &Blob,
        outcome: Option<Outcome>,
        limit: u64,
    ) -> Outcome {
        let ours = match &blob.source {
            BlobSource::File { path, .. } => Some(path),
            _ => None,
        };
        match outcome {
            Some(Err(SendError::Changed(path))) if ours != Some(&path) => {}
            Some(outcome) => return outcome,
            None => {}
        }
        let Some((_, waiter)) = self.board(who, &[blob], limit).pop() else { return Ok(()) };
        waiter.outcome().await.unwrap_or_else(|| Err(SendError::Call(self.gone("Write"))))
    }

    /// Sees to it that all of these are under way.
    fn board<'a>(&self, who: &Arc<Requester>, blobs: &[&'a Blob], limit: u64) -> Vec<(&'a Blob, Waiter)> {
        let mut parcels = Vec::new();
        let mut waiters = Vec::with_capacity(blobs.len());
        for &blob in blobs {
            let (waiter, flight) = self.0.flights.join(blob.digest);
            waiters.push((blob, waiter));
            let Some(flight) = flight else { continue };
            let (who, blob) = (Arc::clone(who), blob.clone());
            if is_small(blob.digest.size, limit) {
                parcels.push(Parcel { who, blob, flight });
            } else {
                self.spawn(write::run(Arc::clone(&self.0.inner), who, blob, flight));
            }
        }
        let mut next = self.0.parcels.push(parcels);
        while let Some(runner) = next {
            next = runner.helper();
            self.spawn(batch_write::run(Arc::clone(&self.0.inner), runner, limit));
        }
        waiters
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

    /// Writes a blob into an empty file, which is given back; verified.
    ///
    /// # Errors
    /// A [`ReadError`]; the file holds anything then.
    pub(crate) async fn download(&self, who: &Requester, digest: Digest, mut file: File) -> Result<File, ReadError> {
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

fn verdict(mut changed: Vec<WsPath>, failed: Option<CallError>) -> Result<(), EnsureError> {
    changed.sort();
    changed.dedup();
    match failed {
        _ if !changed.is_empty() => Err(EnsureError::Changed(changed)),
        Some(error) => Err(EnsureError::Call(error)),
        None => Ok(()),
    }
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
