//! A cache that is reached by HTTP: `/ac/HASH` and `/cas/HASH`, by GET, HEAD and PUT.
//!
//! Whoever serves them may know nothing of digests, so everything is verified here. It does not know why a blob or
//! result is wanted.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Seek as _, Write as _};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use minibuild_core::{Blob, BlobSource, Digest, DigestFunction, Level, RemoteEvent};
use minibuild_reapi::proto::{Message as _, execution as proto};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};
use tonic::Code;
use tonic::codegen::http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};

use crate::answer::Sink;
use crate::backoff::{Backoff, mix};
use crate::breaker::{Allowed, Breaker, Change};
use crate::cache::{EnsureFailure, ReadFailure, StoreFailure, UploadCounts};
use crate::credentials::Credentials;
use crate::http_body::{self, Body};
use crate::http_connect::Connector;

/// Requests under way at a time.
const MOST: usize = 32;
/// A larger result is refused.
const LARGEST_RESULT: u64 = 64 << 20;

/// What a cache is made of.
pub(crate) struct HttpConfig {
    pub(crate) connector: Connector,
    /// Scheme, host, port and path, without a slash at the end; as in requests.
    pub(crate) base: String,
    /// The same as it may be shown.
    pub(crate) shown: String,
    /// Sent with every request; secrets among them.
    pub(crate) headers: HeaderMap,
    pub(crate) credentials: Option<Credentials>,
    pub(crate) function: DigestFunction,
    /// Longest time without progress.
    pub(crate) timeout: Duration,
    pub(crate) retries: u32,
    pub(crate) workspace: PathBuf,
    pub(crate) sink: Sink,
}

/// The cache.
pub(crate) struct HttpCache {
    config: HttpConfig,
    client: Client<Connector, Body>,
    turns: Semaphore,
    breaker: Mutex<Breaker>,
    began: Instant,
    present: Mutex<HashSet<Digest>>,
    /// The server answers no HEAD.
    has_no_head: AtomicBool,
    has_told: AtomicBool,
    calls: AtomicU64,
    sent_blobs: AtomicU64,
    sent_bytes: AtomicU64,
}

/// How a request failed.
#[derive(Debug)]
enum HttpError {
    /// A status that is no success and will not change.
    Status(StatusCode),
    /// The file to be sent is not the blob, or cannot be read.
    Changed,
    /// No answer; says why.
    Broken(String),
}

impl HttpCache {
    pub(crate) fn new(config: HttpConfig) -> Self {
        let client = Client::builder(TokioExecutor::new()).pool_max_idle_per_host(MOST).build(config.connector.clone());
        Self {
            client,
            turns: Semaphore::new(MOST),
            breaker: Mutex::new(Breaker::new(config.timeout)),
            config,
            began: Instant::now(),
            present: Mutex::default(),
            has_no_head: AtomicBool::new(false),
            has_told: AtomicBool::new(false),
            calls: AtomicU64::new(0),
            sent_blobs: AtomicU64::new(0),
            sent_bytes: AtomicU64::new(0),
        }
    }

    /// The result stored under a key.
    ///
    /// # Errors
    /// Why the cache could not be asked.
    pub(crate) async fn result(&self, key: &Digest) -> Result<Option<proto::ActionResult>, String> {
        let bytes = match self.get(&self.url("ac", key), LARGEST_RESULT).await {
            Ok(bytes) => bytes,
            Err(HttpError::Status(StatusCode::NOT_FOUND)) => return Ok(None),
            Err(error) => return Err(self.failed(&error)),
        };
        proto::ActionResult::decode(bytes).map(Some).map_err(|e| self.failed(&HttpError::Broken(e.to_string())))
    }

    /// Stores a result under a key.
    ///
    /// # Errors
    /// Why it is not stored.
    pub(crate) async fn store_result(&self, key: &Digest, result: &proto::ActionResult) -> Result<(), StoreFailure> {
        let bytes = Bytes::from(result.encode_to_vec());
        let length = bytes.len() as u64;
        let put = self.put(&self.url("ac", key), length, || http_body::of_bytes(bytes.clone())).await;
        put.map_err(|error| match self.is_denial(&error) {
            true => StoreFailure::Denied(self.text(&error)),
            false => StoreFailure::Failed(self.failed(&error)),
        })
    }

    /// The bytes of a blob, verified.
    ///
    /// # Errors
    /// Why it cannot be had.
    pub(crate) async fn read(&self, digest: Digest) -> Result<Bytes, ReadFailure> {
        for _ in 0..2 {
            let got = self.get(&self.url("cas", &digest), digest.size).await;
            let bytes = got.map_err(|error| self.read_failure(&digest, &error))?;
            if self.config.function.digest(&bytes) == digest {
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
        let mut tries = Tries::new(self);
        loop {
            file.set_len(0).and_then(|()| (&*file).rewind()).map_err(disk)?;
            let mut hasher = self.config.function.hasher();
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
            let got = self.attempt(Method::GET, &url, 0, http_body::of_bytes(Bytes::new()), &mut take).await;
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
        blobs: &[Blob],
        progress: &(dyn Fn(u64, u64) + Sync),
    ) -> Result<(), EnsureFailure> {
        let absent: Vec<&Blob> = {
            let present = self.present();
            blobs.iter().filter(|blob| blob.digest.size > 0 && !present.contains(&blob.digest)).collect()
        };
        let all = absent.len() as u64;
        let (mut done, mut lost, mut changed) = (0, Vec::new(), Vec::new());
        let mut work = FuturesUnordered::new();
        for blob in absent {
            work.push(self.ensure_one(blob));
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

    async fn ensure_one(&self, blob: &Blob) -> Result<(), EnsureFailure> {
        if !self.has(&blob.digest).await? {
            self.put_blob(blob).await?;
            self.sent_blobs.fetch_add(1, Ordering::Relaxed);
            self.sent_bytes.fetch_add(blob.digest.size, Ordering::Relaxed);
        }
        self.present().insert(blob.digest);
        Ok(())
    }

    /// Whether the cache says that it has a blob.
    async fn has(&self, digest: &Digest) -> Result<bool, EnsureFailure> {
        if self.has_no_head.load(Ordering::Relaxed) {
            return Ok(false);
        }
        let url = self.url("cas", digest);
        match self.call(Method::HEAD, &url, 0, || http_body::of_bytes(Bytes::new()), &mut |_| true).await {
            Ok(()) => Ok(true),
            Err(HttpError::Status(StatusCode::NOT_FOUND)) => Ok(false),
            Err(HttpError::Status(StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED)) => {
                self.has_no_head.store(true, Ordering::Relaxed);
                Ok(false)
            }
            Err(error) => Err(self.ensure_failure(&error)),
        }
    }

    async fn put_blob(&self, blob: &Blob) -> Result<(), EnsureFailure> {
        let url = self.url("cas", &blob.digest);
        let put = match &blob.source {
            BlobSource::Bytes(bytes) => {
                let bytes = Bytes::copy_from_slice(bytes);
                self.put(&url, blob.digest.size, || http_body::of_bytes(bytes.clone())).await
            }
            BlobSource::File { path, .. } => {
                let at = self.config.workspace.join(path.as_path());
                let function = self.config.function;
                self.put(&url, blob.digest.size, || http_body::of_file(at.clone(), blob.digest, function)).await
            }
            BlobSource::Elsewhere => return Err(EnsureFailure::Lost(vec![blob.digest])),
        };
        match (put, &blob.source) {
            (Ok(()), _) => Ok(()),
            (Err(HttpError::Changed), BlobSource::File { path, .. }) => Err(EnsureFailure::Changed(vec![path.clone()])),
            (Err(error), _) => Err(self.ensure_failure(&error)),
        }
    }

    /// No longer believes that these are present.
    pub(crate) fn forget(&self, digests: &[Digest]) {
        let mut present = self.present();
        digests.iter().for_each(|digest| {
            present.remove(digest);
        });
    }

    pub(crate) fn sent(&self) -> UploadCounts {
        let (blobs, bytes) = (self.sent_blobs.load(Ordering::Relaxed), self.sent_bytes.load(Ordering::Relaxed));
        UploadCounts { blobs, bytes }
    }

    fn present(&self) -> MutexGuard<'_, HashSet<Digest>> {
        self.present.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn url(&self, space: &str, digest: &Digest) -> String {
        let function = match self.config.function {
            DigestFunction::Sha256 => "",
            DigestFunction::Blake3 => "blake3/",
        };
        format!("{}/{space}/{function}{}", self.config.base, digest.hex())
    }

    fn text(&self, error: &HttpError) -> String {
        match error {
            HttpError::Status(status) => format!("`{}`: {status}", self.config.shown),
            HttpError::Changed => format!("`{}`: a file changed while it was sent", self.config.shown),
            HttpError::Broken(why) => format!("`{}`: {why}", self.config.shown),
        }
    }

    /// The text of an error that counts as one of the cache; the first is told.
    fn failed(&self, error: &HttpError) -> String {
        let text = self.text(error);
        if !self.has_told.swap(true, Ordering::Relaxed) {
            let text = format!("the cache fails, further failures are only counted: {text}");
            (self.config.sink)(RemoteEvent::Message { level: Level::Warning, text });
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

    fn ensure_failure(&self, error: &HttpError) -> EnsureFailure {
        if self.is_denial(error) {
            return EnsureFailure::Denied(self.text(error));
        }
        EnsureFailure::Failed(self.failed(error))
    }

    async fn get(&self, url: &str, limit: u64) -> Result<Bytes, HttpError> {
        let mut tries = Tries::new(self);
        loop {
            let mut bytes = BytesMut::new();
            let mut take = |piece: Bytes| {
                bytes.extend_from_slice(&piece);
                // One byte more is enough to see that it is something else.
                bytes.len() as u64 <= limit
            };
            match self.attempt(Method::GET, url, 0, http_body::of_bytes(Bytes::new()), &mut take).await {
                Ok(()) => return Ok(bytes.freeze()),
                Err(error) => tries.again(error).await?,
            }
        }
    }

    async fn put(&self, url: &str, length: u64, body: impl Fn() -> Body) -> Result<(), HttpError> {
        self.call(Method::PUT, url, length, body, &mut |_| true).await
    }

    /// One request with retries.
    async fn call(
        &self,
        method: Method,
        url: &str,
        length: u64,
        body: impl Fn() -> Body,
        take: &mut (dyn FnMut(Bytes) -> bool + Send),
    ) -> Result<(), HttpError> {
        let mut tries = Tries::new(self);
        loop {
            match self.attempt(method.clone(), url, length, body(), take).await {
                Ok(()) => return Ok(()),
                Err(error) => tries.again(error).await?,
            }
        }
    }

    /// One request; the answer's body is given piece by piece until `take` has enough.
    async fn attempt(
        &self,
        method: Method,
        url: &str,
        length: u64,
        body: Body,
        take: &mut (dyn FnMut(Bytes) -> bool + Send),
    ) -> Result<(), HttpError> {
        if self.breaker().allows(self.began.elapsed()) == Allowed::No {
            return Err(HttpError::Broken("it is given up for now, after failures".to_owned()));
        }
        // Closed never.
        let _turn = self.turns.acquire().await;
        let outcome = self.exchange(method, url, length, body, take).await;
        let is_served = match &outcome {
            Ok(()) | Err(HttpError::Changed) => true,
            Err(HttpError::Status(status)) => !status.is_server_error(),
            Err(HttpError::Broken(_)) => false,
        };
        if let Some(Change::Closed) = self.breaker().record(is_served, self.began.elapsed()) {
            let text = format!("`{}` can be reached again", self.config.shown);
            (self.config.sink)(RemoteEvent::Message { level: Level::Info, text });
        }
        outcome
    }

    async fn exchange(
        &self,
        method: Method,
        url: &str,
        length: u64,
        body: Body,
        take: &mut (dyn FnMut(Bytes) -> bool + Send),
    ) -> Result<(), HttpError> {
        let is_upload = method == Method::PUT;
        let request = self.request(method, url, length, body).await?;
        let response = self.client.request(request);
        // An upload moves on as long as its body is taken, which only the connection sees.
        let patience = if is_upload { self.config.timeout + upload_time(length) } else { self.config.timeout };
        let response = match timeout(patience, response).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) if http_body::is_changed(&error) => return Err(HttpError::Changed),
            Ok(Err(error)) => return Err(HttpError::Broken(source_text(&error))),
            Err(_) => return Err(HttpError::Broken(format!("no answer for {} s", patience.as_secs_f32()))),
        };
        if !response.status().is_success() {
            return Err(HttpError::Status(response.status()));
        }
        self.take_body(response, take).await
    }

    async fn take_body(
        &self,
        mut response: Response<Incoming>,
        take: &mut (dyn FnMut(Bytes) -> bool + Send),
    ) -> Result<(), HttpError> {
        loop {
            match timeout(self.config.timeout, response.frame()).await {
                Ok(None) => return Ok(()),
                Ok(Some(Ok(frame))) => {
                    if frame.into_data().is_ok_and(|piece| !take(piece)) {
                        return Ok(());
                    }
                }
                Ok(Some(Err(error))) => return Err(HttpError::Broken(source_text(&error))),
                Err(_) => {
                    let seconds = self.config.timeout.as_secs_f32();
                    return Err(HttpError::Broken(format!("nothing came for {seconds} s")));
                }
            }
        }
    }

    async fn request(&self, method: Method, url: &str, length: u64, body: Body) -> Result<Request<Body>, HttpError> {
        let is_upload = method == Method::PUT;
        let request = Request::builder().method(method).uri(url).body(body);
        let mut request = request.map_err(|_| HttpError::Broken("its address makes no request".to_owned()))?;
        let headers = request.headers_mut();
        headers.extend(self.config.headers.clone());
        if let Some(credentials) = &self.config.credentials {
            let (extra, _) = credentials.headers(None).await.map_err(HttpError::Broken)?;
            extra.apply(headers);
        }
        if is_upload {
            headers.insert(header::CONTENT_LENGTH, length.into());
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        }
        Ok(request)
    }

    fn breaker(&self) -> MutexGuard<'_, Breaker> {
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The retries of one request.
struct Tries<'a> {
    cache: &'a HttpCache,
    backoff: Backoff,
}

impl<'a> Tries<'a> {
    fn new(cache: &'a HttpCache) -> Self {
        let seed = mix(cache.calls.fetch_add(1, Ordering::Relaxed));
        Self { cache, backoff: Backoff::new(cache.config.retries, seed) }
    }

    /// Waits until the next attempt, or gives the error back.
    async fn again(&mut self, error: HttpError) -> Result<(), HttpError> {
        let may_pass = match &error {
            HttpError::Changed => false,
            HttpError::Broken(_) => true,
            HttpError::Status(status) => {
                let busy = matches!(*status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS);
                busy || (status.is_server_error() && *status != StatusCode::NOT_IMPLEMENTED)
            }
        };
        if !may_pass || self.cache.breaker().is_open() {
            return Err(error);
        }
        match self.backoff.next(Code::Unavailable, None) {
            Some(pause) => {
                tokio::time::sleep(pause).await;
                Ok(())
            }
            None => Err(error),
        }
    }
}

/// How long an upload may take without an answer, at a megabyte a second.
fn upload_time(length: u64) -> Duration {
    Duration::from_secs(length >> 20)
}

/// An error with what caused it; URLs with passwords never come here.
fn source_text(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        text = format!("{text}: {error}");
        next = error.source();
    }
    text
}
