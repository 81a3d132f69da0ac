//! A cache that is reached by HTTP: `/ac/HASH` and `/cas/HASH`, by GET, HEAD and PUT.
//!
//! Whoever serves them may know nothing of digests, so everything is verified here. It does not know why a blob or
//! result is wanted.

mod body;
mod call;
mod client;
mod open;

use std::fs::File;
use std::io::{self, Seek as _, Write as _};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use minibuild_core::{Blob, BlobSource, Digest, DigestFunction, Level, RemoteEvent, Requester, UploadCounts};
use minibuild_reapi::decode::LARGEST_RESULT;
use minibuild_reapi::proto::{Message as _, execution as proto, read};
use reqwest::{StatusCode, Url};
use tokio::time::Instant;

use self::call::{Caller, HttpConfig, HttpError, Tries, Upload};
pub(crate) use self::open::open;
use crate::cache::{EnsureFailure, ReadFailure, StoreFailure};
use crate::presence::Presence;

/// Blobs asked for at a time.
const MOST_QUESTIONS: usize = 64;

/// The cache.
pub(crate) struct HttpCache {
    caller: Caller,
    presence: Mutex<Presence>,
    began: Instant,
    /// The server answers no HEAD.
    has_no_head: AtomicBool,
    has_told: AtomicBool,
    sent_blobs: AtomicU64,
    sent_bytes: AtomicU64,
}

impl HttpCache {
    fn new(config: HttpConfig) -> Self {
        Self {
            caller: Caller::new(config),
            presence: Mutex::default(),
            began: Instant::now(),
            has_no_head: AtomicBool::new(false),
            has_told: AtomicBool::new(false),
            sent_blobs: AtomicU64::new(0),
            sent_bytes: AtomicU64::new(0),
        }
    }

    fn config(&self) -> &HttpConfig {
        &self.caller.config
    }

    /// The result stored under a key.
    ///
    /// # Errors
    /// Why the cache could not be asked.
    pub(crate) async fn result(&self, key: &Digest) -> Result<Option<proto::ActionResult>, String> {
        let bytes = match self.caller.get(&self.url("ac", key), LARGEST_RESULT as u64).await {
            Ok(bytes) => bytes,
            Err(HttpError::Status(StatusCode::NOT_FOUND)) => return Ok(None),
            Err(error) => return Err(self.failed(&error)),
        };
        let result = read("ActionResult", &bytes).map(Some);
        result.map_err(|error| self.failed(&HttpError::Nonsense(error.to_string())))
    }

    /// Nothing will be asked any more.
    pub(crate) fn end(&self) {
        self.caller.end();
    }

    /// If it is given up, and its time has come, asks it for a sign of life.
    pub(crate) async fn probe(&self) {
        if self.caller.is_out() {
            // What follows from the answer is the breaker's.
            drop(self.result(&self.config().function.empty()).await);
        }
    }

    /// Stores a result under a key.
    ///
    /// # Errors
    /// Why it is not stored.
    pub(crate) async fn store_result(&self, who: &Requester, result: &proto::ActionResult) -> Result<(), StoreFailure> {
        let bytes = Bytes::from(result.encode_to_vec());
        let put = self.put_bytes(&self.url("ac", &who.key), &bytes).await;
        put.map_err(|error| match self.is_denial(&error) {
            true => StoreFailure::Denied(self.text(&error)),
            false => StoreFailure::Failed(self.failed_about(&error, &format!(" (the result of `{}`)", who.label))),
        })
    }

    /// The bytes of a blob, verified.
    ///
    /// # Errors
    /// Why it cannot be had.
    pub(crate) async fn read(&self, digest: Digest) -> Result<Bytes, ReadFailure> {
        for _ in 0..2 {
            let got = self.caller.get(&self.url("cas", &digest), digest.size).await;
            let bytes = got.map_err(|error| self.read_failure(&digest, &error))?;
            if self.config().function.digest(&bytes) == digest {
                return Ok(bytes);
            }
        }
        self.forget(&[digest]);
        Err(ReadFailure::Corrupt)
    }

    /// A blob into a file, verified.
    ///
    /// # Errors
    /// Why it cannot be had.
    pub(crate) async fn download(&self, digest: Digest, file: &File) -> Result<(), ReadFailure> {
        for _ in 0..2 {
            if self.download_once(digest, file).await? {
                return Ok(());
            }
        }
        self.forget(&[digest]);
        Err(ReadFailure::Corrupt)
    }

    /// Whether what came is the blob.
    async fn download_once(&self, digest: Digest, file: &File) -> Result<bool, ReadFailure> {
        let disk = |e: io::Error| ReadFailure::Disk(format!("cannot write blob {digest}: {e}"));
        let mut tries = Tries::new(&self.caller);
        loop {
            file.set_len(0).and_then(|()| (&*file).rewind()).map_err(disk)?;
            let mut hasher = self.config().function.hasher();
            let mut size = 0;
            let mut write_error = None;
            let url = self.url("cas", &digest);
            let mut take = |piece: Bytes| {
                size += piece.len() as u64;
                hasher.update(&piece);
                if size <= digest.size && write_error.is_none() {
                    write_error = (&*file).write_all(&piece).err();
                }
                size <= digest.size && write_error.is_none()
            };
            let got = self.caller.get_pieces(&url, &mut take).await;
            if let Some(error) = write_error {
                return Err(disk(error));
            }
            match got {
                Ok(()) => return Ok(hasher.finish() == digest),
                Err(error) => tries.again(error).await.map_err(|error| self.read_failure(&digest, &error))?,
            }
        }
    }

    /// Sees to it that the cache has the blobs.
    ///
    /// # Errors
    /// Why not.
    pub(crate) async fn ensure(
        &self,
        who: &Requester,
        blobs: &[Blob],
        progress: &(dyn Fn(u64, u64) + Sync),
    ) -> Result<(), EnsureFailure> {
        let absent: Vec<&Blob> = {
            let (presence, now) = (self.presence(), self.began.elapsed());
            blobs.iter().filter(|blob| blob.digest.size > 0 && !presence.has(&blob.digest, now)).collect()
        };
        let all = absent.len() as u64;
        let (mut done, mut lost, mut changed) = (0, Vec::new(), Vec::new());
        let mut work = FuturesUnordered::new();
        for blob in absent {
            work.push(self.ensure_one(who, blob));
        }
        while let Some(outcome) = work.next().await {
            match outcome {
                Ok(()) => {}
                Err(EnsureFailure::Lost(digests)) => lost.extend(digests),
                Err(EnsureFailure::Changed(paths)) => changed.extend(paths),
                Err(error) => return Err(error),
            }
            done += 1;
            progress(done, all);
        }
        drop(work);
        match (changed.is_empty(), lost.is_empty()) {
            (false, _) => Err(EnsureFailure::Changed(changed)),
            (true, false) => Err(EnsureFailure::Lost(lost)),
            (true, true) => Ok(()),
        }
    }

    /// Those of `digests` that the cache lacks now. One that cannot be asked for single blobs may have any of them.
    pub(crate) async fn missing(&self, digests: Vec<Digest>) -> Result<Vec<Digest>, String> {
        let ask = |digest: Digest| async move { (digest, self.has(None, &digest).await) };
        let mut answers = futures_util::stream::iter(digests.into_iter().map(ask)).buffer_unordered(MOST_QUESTIONS);
        let mut missing = Vec::new();
        while let Some((digest, answer)) = answers.next().await {
            match answer {
                Ok(true) => self.presence().seen([digest], self.began.elapsed()),
                Ok(false) => missing.push(digest),
                Err(failure) => return Err(failure.text()),
            }
        }
        drop(answers);
        if self.has_no_head.load(Ordering::Relaxed) {
            return Err(format!("`{}` answers no HEAD, so that nobody knows what it has", self.config().shown));
        }
        self.forget(&missing);
        Ok(missing)
    }

    async fn ensure_one(&self, who: &Requester, blob: &Blob) -> Result<(), EnsureFailure> {
        if !self.has(Some(who), &blob.digest).await? {
            self.put_blob(who, blob).await?;
            self.sent_blobs.fetch_add(1, Ordering::Relaxed);
            self.sent_bytes.fetch_add(blob.digest.size, Ordering::Relaxed);
        }
        self.presence().seen([blob.digest], self.began.elapsed());
        Ok(())
    }

    /// Whether the cache says that it has a blob.
    async fn has(&self, who: Option<&Requester>, digest: &Digest) -> Result<bool, EnsureFailure> {
        if self.has_no_head.load(Ordering::Relaxed) {
            return Ok(false);
        }
        let url = self.url("cas", digest);
        match self.caller.head(&url).await {
            Ok(()) => Ok(true),
            Err(HttpError::Status(StatusCode::NOT_FOUND)) => Ok(false),
            Err(HttpError::Status(StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED)) => {
                self.has_no_head.store(true, Ordering::Relaxed);
                Ok(false)
            }
            Err(error) => Err(self.ensure_failure(who, digest, &error)),
        }
    }

    async fn put_bytes(&self, url: &Url, bytes: &Bytes) -> Result<(), HttpError> {
        let body = |progress| body::of_bytes(bytes.clone(), progress);
        self.caller.put(url, Upload { length: bytes.len() as u64, body: &body }).await
    }

    async fn put_blob(&self, who: &Requester, blob: &Blob) -> Result<(), EnsureFailure> {
        let url = self.url("cas", &blob.digest);
        let put = match &blob.source {
            BlobSource::Bytes(bytes) => self.put_bytes(&url, &Bytes::copy_from_slice(bytes)).await,
            BlobSource::File { path, .. } => {
                let (at, function) = (self.config().workspace.join(path.as_path()), self.config().function);
                let body = |progress| body::of_file(at.clone(), blob.digest, function, progress);
                self.caller.put(&url, Upload { length: blob.digest.size, body: &body }).await
            }
            BlobSource::Elsewhere => return Err(EnsureFailure::Lost(vec![blob.digest])),
        };
        match (put, &blob.source) {
            (Ok(()), _) => Ok(()),
            (Err(HttpError::Changed), BlobSource::File { path, .. }) => Err(EnsureFailure::Changed(vec![path.clone()])),
            (Err(error), _) => Err(self.ensure_failure(Some(who), &blob.digest, &error)),
        }
    }

    /// No longer believes that these are present.
    pub(crate) fn forget(&self, digests: &[Digest]) {
        self.presence().forget(digests);
    }

    pub(crate) fn sent(&self) -> UploadCounts {
        let (blobs, bytes) = (self.sent_blobs.load(Ordering::Relaxed), self.sent_bytes.load(Ordering::Relaxed));
        UploadCounts { files: blobs, bytes }
    }

    pub(crate) fn received(&self) -> u64 {
        self.caller.received.load(Ordering::Relaxed)
    }

    /// As if so much time had gone by.
    #[cfg(test)]
    pub(crate) fn grow_older(&mut self, by: std::time::Duration) {
        self.began -= by;
    }

    fn presence(&self) -> MutexGuard<'_, Presence> {
        self.presence.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn url(&self, space: &str, digest: &Digest) -> Url {
        let function = match self.config().function {
            DigestFunction::Sha256 => "",
            DigestFunction::Blake3 => "blake3/",
        };
        let mut url = self.config().base.clone();
        url.set_path(&format!("{}/{space}/{function}{}", url.path().trim_end_matches('/'), digest.hex()));
        url
    }

    fn text(&self, error: &HttpError) -> String {
        match error {
            HttpError::Status(status) => format!("`{}`: {status}", self.config().shown),
            HttpError::Changed => format!("`{}`: a file changed while it was sent", self.config().shown),
            HttpError::Broken(why) | HttpError::NoCredentials(why) | HttpError::Nonsense(why) => {
                format!("`{}`: {why}", self.config().shown)
            }
        }
    }

    /// The text of an error that counts as one of the cache. The first that is no outage is told; outages tell
    /// themselves.
    fn failed(&self, error: &HttpError) -> String {
        self.failed_about(error, "")
    }

    /// The same with what the request was about, behind the text.
    fn failed_about(&self, error: &HttpError, about: &str) -> String {
        let text = self.text(error) + about;
        let is_outage = matches!(error, HttpError::Broken(_) | HttpError::NoCredentials(_));
        if !is_outage && !self.has_told.swap(true, Ordering::Relaxed) {
            let text = format!("the cache fails, further failures are only counted: {text}");
            (self.config().sink)(RemoteEvent::Message { level: Level::Warning, text });
        }
        text
    }

    fn is_denial(&self, error: &HttpError) -> bool {
        let HttpError::Status(status) = error else { return false };
        matches!(
            *status,
            StatusCode::UNAUTHORIZED
                | StatusCode::FORBIDDEN
                | StatusCode::METHOD_NOT_ALLOWED
                | StatusCode::NOT_IMPLEMENTED
        )
    }

    fn read_failure(&self, digest: &Digest, error: &HttpError) -> ReadFailure {
        match error {
            HttpError::Status(StatusCode::NOT_FOUND | StatusCode::GONE) => {
                self.forget(&[*digest]);
                ReadFailure::Lost
            }
            error => ReadFailure::Unreachable(self.failed(error)),
        }
    }

    fn ensure_failure(&self, who: Option<&Requester>, digest: &Digest, error: &HttpError) -> EnsureFailure {
        if self.is_denial(error) {
            return EnsureFailure::Denied(format!("{} (blob {digest})", self.text(error)));
        }
        let target = who.map(|who| format!(" of `{}`", who.label)).unwrap_or_default();
        EnsureFailure::Failed(self.failed_about(error, &format!(" (blob {digest}{target})")))
    }
}
