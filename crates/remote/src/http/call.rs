//! Requests to an HTTP cache: retries, outages, time limits, headers.
//!
//! It does not know blobs or results.

use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use minibuild_core::DigestFunction;
use reqwest::header::{self, HeaderMap, HeaderValue};
use reqwest::{Body, Method, Request, Response, StatusCode, Url};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout, timeout_at};
use tonic::Code;

use super::body::{self, Progress};
use super::client::Client;
use crate::answer::Sink;
use crate::backoff::{Backoff, mix};
use crate::breaker::Allowed;
use crate::credentials::Credentials;
use crate::outage::Outage;
use crate::pace::moved_until;

/// Requests under way at a time.
pub(super) const MOST: usize = 32;

/// What a cache is made of.
pub(super) struct HttpConfig {
    pub(super) client: Client,
    /// Where the cache is, as in requests; no password is in it.
    pub(super) base: Url,
    /// The same as the user wrote it, as far as it may be shown.
    pub(super) shown: String,
    /// Sent with every request; secrets among them.
    pub(super) headers: HeaderMap,
    pub(super) credentials: Option<Credentials>,
    pub(super) function: DigestFunction,
    /// Longest time without progress.
    pub(super) timeout: Duration,
    pub(super) retries: u32,
    pub(super) workspace: PathBuf,
    pub(super) sink: Sink,
}

/// How a request failed.
#[derive(Debug)]
pub(super) enum HttpError {
    /// A status that is no success and will not change.
    Status(StatusCode),
    /// The file to be sent is not the blob, or cannot be read.
    Changed,
    /// No answer; says why.
    Broken(String),
    /// It was not asked, since a credential helper gave no headers; says why.
    NoCredentials(String),
    /// An answer that is none; says why.
    Nonsense(String),
}

/// What takes the pieces of an answer, and says whether it takes more.
pub(super) type Take<'a> = &'a mut (dyn FnMut(Bytes) -> bool + Send);

/// What is sent.
#[derive(Clone, Copy)]
pub(super) struct Upload<'a> {
    /// In bytes.
    pub(super) length: u64,
    /// Made anew for each attempt.
    pub(super) body: &'a (dyn Fn(Progress) -> Body + Sync),
}

/// One server.
pub(super) struct Caller {
    pub(super) config: HttpConfig,
    turns: Semaphore,
    outage: Outage,
    calls: AtomicU64,
    /// Bytes that came from it so far.
    pub(super) received: AtomicU64,
    /// Version of the credentials used last.
    version: AtomicU64,
    /// One more than the version of the credentials that were refused last; 0 for none.
    refused: AtomicU64,
}

impl Caller {
    /// Whether the cache is given up for now.
    pub(super) fn is_out(&self) -> bool {
        self.outage.is_open()
    }

    /// Nothing will be asked any more.
    pub(super) fn end(&self) {
        self.outage.end();
    }

    pub(super) fn new(config: HttpConfig) -> Self {
        Self {
            outage: Outage::new(config.shown.clone(), config.timeout, Arc::clone(&config.sink)),
            config,
            turns: Semaphore::new(MOST),
            calls: AtomicU64::new(0),
            received: AtomicU64::new(0),
            version: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        }
    }

    /// The whole answer, at most one piece more than `limit` bytes.
    ///
    /// # Errors
    /// An [`HttpError`], after retries.
    pub(super) async fn get(&self, url: &Url, limit: u64) -> Result<Bytes, HttpError> {
        let mut tries = Tries::new(self);
        loop {
            let mut bytes = BytesMut::new();
            let mut take = |piece: Bytes| {
                bytes.extend_from_slice(&piece);
                // One byte more is enough to see that it is something else.
                bytes.len() as u64 <= limit
            };
            match self.get_pieces(url, &mut take).await {
                Ok(()) => return Ok(bytes.freeze()),
                Err(error) => tries.again(error).await?,
            }
        }
    }

    /// Stores something.
    ///
    /// # Errors
    /// An [`HttpError`], after retries.
    pub(super) async fn put(&self, url: &Url, upload: Upload<'_>) -> Result<(), HttpError> {
        self.call(Method::PUT, url, Some(upload)).await
    }

    /// Whether there is something, without its bytes.
    ///
    /// # Errors
    /// An [`HttpError`], after retries.
    pub(super) async fn head(&self, url: &Url) -> Result<(), HttpError> {
        self.call(Method::HEAD, url, None).await
    }

    /// One request with retries, the answer to which says nothing but its status.
    async fn call(&self, method: Method, url: &Url, upload: Option<Upload<'_>>) -> Result<(), HttpError> {
        let mut tries = Tries::new(self);
        loop {
            match self.attempt(method.clone(), url, upload, &mut |_| true).await {
                Ok(()) => return Ok(()),
                Err(error) => tries.again(error).await?,
            }
        }
    }

    /// One attempt at bytes, given piece by piece.
    ///
    /// # Errors
    /// An [`HttpError`].
    pub(super) async fn get_pieces(&self, url: &Url, take: Take<'_>) -> Result<(), HttpError> {
        self.attempt(Method::GET, url, None, take).await
    }

    /// One request; the answer's body is given piece by piece until `take` has enough.
    async fn attempt(
        &self,
        method: Method,
        url: &Url,
        upload: Option<Upload<'_>>,
        take: Take<'_>,
    ) -> Result<(), HttpError> {
        if self.outage.allows() == Allowed::No {
            return Err(HttpError::Broken("it is given up for now, after failures".to_owned()));
        }
        // Closed never.
        let _turn = self.turns.acquire().await;
        let outcome = self.exchange(method, url, upload, take).await;
        match &outcome {
            Err(HttpError::Status(status)) if status.is_server_error() => self.outage.failed(status.as_str()),
            Err(HttpError::Broken(why) | HttpError::NoCredentials(why)) => self.outage.failed(why),
            Ok(()) | Err(HttpError::Changed | HttpError::Status(_) | HttpError::Nonsense(_)) => self.outage.succeeded(),
        }
        outcome
    }

    async fn exchange(
        &self,
        method: Method,
        url: &Url,
        upload: Option<Upload<'_>>,
        take: Take<'_>,
    ) -> Result<(), HttpError> {
        let progress = Progress::default();
        let request = self.request(method, url, upload, &progress).await?;
        let mut response = std::pin::pin!(self.config.client.execute(request));
        let response = loop {
            let before = progress.bytes();
            match timeout(self.config.timeout, &mut response).await {
                Ok(Ok(response)) => break response,
                Ok(Err(error)) if body::is_changed(&error) => return Err(HttpError::Changed),
                Ok(Err(error)) => return Err(broken(&error)),
                // An upload goes on as long as it moves.
                Err(_) if progress.bytes() > before => {}
                Err(_) => return Err(self.silent()),
            }
        };
        if !response.status().is_success() {
            return Err(HttpError::Status(response.status()));
        }
        self.take_body(response, take).await
    }

    async fn take_body(&self, mut response: Response, take: Take<'_>) -> Result<(), HttpError> {
        let (began, mut until) = (Instant::now(), Duration::ZERO);
        loop {
            match timeout_at(began + until + self.config.timeout, response.chunk()).await {
                Ok(Ok(piece)) => {
                    let bytes = piece.as_ref().map_or(0, Bytes::len);
                    until = moved_until(until, began.elapsed(), bytes);
                    self.received.fetch_add(bytes as u64, Ordering::Relaxed);
                    if !piece.is_some_and(&mut *take) {
                        return Ok(());
                    }
                }
                Ok(Err(error)) => return Err(broken(&error.without_url())),
                Err(_) => return Err(self.silent()),
            }
        }
    }

    async fn request(
        &self,
        method: Method,
        url: &Url,
        upload: Option<Upload<'_>>,
        progress: &Progress,
    ) -> Result<Request, HttpError> {
        let mut request = Request::new(method, url.clone());
        let headers = request.headers_mut();
        headers.extend(self.config.headers.clone());
        if let Some(credentials) = &self.config.credentials {
            let refused = self.refused.load(Ordering::Relaxed).checked_sub(1);
            let (extra, version) = credentials.headers(refused).await.map_err(HttpError::NoCredentials)?;
            self.version.store(version, Ordering::Relaxed);
            extra.apply(headers);
        }
        if let Some(Upload { length, body }) = upload {
            headers.insert(header::CONTENT_LENGTH, length.into());
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
            *request.body_mut() = Some(body(progress.clone()));
        }
        Ok(request)
    }

    fn silent(&self) -> HttpError {
        let seconds = self.config.timeout.as_secs_f32();
        HttpError::Broken(format!("nothing came for {seconds} s, or next to nothing for longer"))
    }
}

/// The retries of one request.
pub(super) struct Tries<'a> {
    caller: &'a Caller,
    backoff: Backoff,
    has_refreshed: bool,
}

impl<'a> Tries<'a> {
    pub(super) fn new(caller: &'a Caller) -> Self {
        let seed = mix(caller.calls.fetch_add(1, Ordering::Relaxed));
        Self { caller, backoff: Backoff::new(caller.config.retries, seed), has_refreshed: false }
    }

    /// Waits until the next attempt, or gives the error back.
    ///
    /// # Errors
    /// The same error, where another attempt is of no use.
    pub(super) async fn again(&mut self, error: HttpError) -> Result<(), HttpError> {
        if self.may_refresh(&error) {
            return Ok(());
        }
        let may_pass = match &error {
            HttpError::Changed | HttpError::Nonsense(_) => false,
            HttpError::NoCredentials(why) => {
                // Another attempt would wait for the same helper.
                self.caller.outage.gave_up(why);
                false
            }
            HttpError::Broken(_) => true,
            HttpError::Status(status) => {
                let busy = matches!(*status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS);
                busy || (status.is_server_error() && *status != StatusCode::NOT_IMPLEMENTED)
            }
        };
        if !may_pass || self.caller.outage.is_open() {
            return Err(error);
        }
        match self.backoff.next(Code::Unavailable, None) {
            Some(pause) => {
                tokio::time::sleep(pause).await;
                Ok(())
            }
            None => {
                if let HttpError::Broken(why) = &error {
                    self.caller.outage.gave_up(why);
                }
                Err(error)
            }
        }
    }

    /// Refused credentials are asked for anew, once.
    fn may_refresh(&mut self, error: &HttpError) -> bool {
        let is_refused = matches!(error, HttpError::Status(StatusCode::UNAUTHORIZED));
        let may = is_refused && !self.has_refreshed && self.caller.config.credentials.is_some();
        if may {
            self.has_refreshed = true;
            self.caller.refused.store(self.caller.version.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        }
        may
    }
}

/// What caused an error, down to what the operating system says.
fn broken(error: &dyn Error) -> HttpError {
    let mut causes = Vec::new();
    let mut next = error.source();
    while let Some(cause) = next {
        causes.push(cause.to_string());
        next = cause.source();
    }
    HttpError::Broken(if causes.is_empty() { error.to_string() } else { causes.join(": ") })
}
