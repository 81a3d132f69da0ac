//! One gRPC server: every call goes through [`Grpc::call`], which knows deadlines, retries, outages and headers.
//!
//! It does not know what the calls are for.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use minibuild_core::{DigestFunction, Requester};
use minibuild_reapi::proto::execution as proto;
use proto::capabilities_client::CapabilitiesClient;
use tokio::sync::{OnceCell, Semaphore};
use tokio::time::Instant;
use tonic::metadata::MetadataMap;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use crate::backoff::{Backoff, mix};
use crate::breaker::Allowed;
use crate::capabilities::Capabilities;
use crate::channel::{Lease, Pool, transport};
use crate::config::RemoteConfig;
use crate::credentials::Credentials;
use crate::endpoint::Endpoint;
use crate::error::{self, CallError, ConfigError};
use crate::headers::Headers;
use crate::metadata;
use crate::outage::{Outage, Tell};

/// Bytes of one message that is read: servers send batches larger than they say.
pub(crate) const MAX_MESSAGE: usize = 32 << 20;
/// Calls at once over one connection.
const CALLS: usize = 100;
/// A server that never answered has so long for its first answer.
const FIRST_ANSWER: Duration = Duration::from_secs(10);

/// One server.
pub(crate) struct Grpc {
    endpoint: String,
    instance: String,
    function: DigestFunction,
    invocation: String,
    headers: Headers,
    credentials: Option<Credentials>,
    short: Pool,
    long: Pool,
    calls: Semaphore,
    timeout: Duration,
    retries: u32,
    outage: Arc<Outage>,
    seed: AtomicU64,
    capabilities: OnceCell<Arc<Capabilities>>,
}

/// How long a call may be silent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Patience {
    /// As long as is configured.
    Usual,
    /// For ever: a stream of operations. That the connection lives is seen by other means. Such calls have
    /// connections of their own, so that the others never wait behind them.
    Endless,
}

/// One attempt of a call.
pub(crate) struct Attempt {
    lease: Lease,
    metadata: MetadataMap,
    progress: Arc<Progress>,
}

/// How far a call came.
struct Progress {
    began: Instant,
    /// Milliseconds since then of the last sign of life.
    last: AtomicU64,
    /// The best position an attempt reached.
    best: AtomicU64,
    /// Whether the server said anything in this attempt.
    is_heard: AtomicBool,
    outage: Arc<Outage>,
}

impl Attempt {
    /// The connection to use.
    pub(crate) fn channel(&self) -> Channel {
        self.lease.channel()
    }

    /// A request with the headers of the call.
    pub(crate) fn request<T>(&self, message: T) -> Request<T> {
        Request::from_parts(self.metadata.clone(), Default::default(), message)
    }

    /// Something came: the deadline begins anew, and the server serves.
    pub(crate) fn heard(&self) {
        self.progress.moved();
        if !self.progress.is_heard.swap(true, Ordering::Relaxed) {
            self.progress.outage.succeeded();
        }
    }

    /// A function that says that something went out: the deadline begins anew.
    pub(crate) fn mover(&self) -> impl Fn() + Send + Sync + 'static {
        let progress = Arc::clone(&self.progress);
        move || progress.moved()
    }

    /// A position that stays reached when this attempt breaks off: with each new one, retries are counted anew.
    pub(crate) fn reached(&self, position: u64) {
        self.progress.moved();
        self.progress.best.fetch_max(position, Ordering::Relaxed);
    }
}

impl Progress {
    /// An attempt begins.
    fn begin(&self) {
        self.moved();
        self.is_heard.store(false, Ordering::Relaxed);
    }

    fn moved(&self) {
        let now = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.fetch_max(now, Ordering::Relaxed);
    }

    fn deadline(&self, patience: Duration) -> Instant {
        self.began + Duration::from_millis(self.last.load(Ordering::Relaxed)) + patience
    }
}

impl Grpc {
    /// A server that is connected to when it is first called.
    ///
    /// # Errors
    /// [`ConfigError`] where the configuration cannot be used.
    pub(crate) fn new(config: &RemoteConfig, endpoint: &Endpoint, tell: Tell) -> Result<Arc<Self>, ConfigError> {
        let transport = transport(endpoint, &config.tls, config.timeout)?;
        let connections = usize::try_from(config.connections).unwrap_or(1).max(1);
        let pairs = config.headers.iter().map(|(name, value)| (&**name, &**value));
        let credentials = config.credential_helper.as_deref().map(|helper| Credentials::new(helper, uri(endpoint)));
        Ok(Arc::new(Self {
            endpoint: endpoint.to_string(),
            instance: config.instance.clone(),
            function: config.function,
            invocation: config.invocation.clone(),
            headers: Headers::new(pairs)?,
            credentials,
            short: Pool::new(transport.clone(), connections, config.timeout),
            long: Pool::new(transport, 1, config.timeout),
            calls: Semaphore::new(CALLS * connections),
            timeout: config.timeout,
            retries: config.retries,
            outage: Arc::new(Outage::new(endpoint.to_string(), config.timeout, tell)),
            seed: AtomicU64::new(0),
            capabilities: OnceCell::new(),
        }))
    }

    /// Its address, as it may be shown.
    pub(crate) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// The instance name for requests.
    pub(crate) fn instance(&self) -> &str {
        &self.instance
    }

    /// The function of all digests.
    pub(crate) fn function(&self) -> DigestFunction {
        self.function
    }

    /// Whether it is given up for now.
    #[cfg(test)]
    pub(crate) fn is_out(&self) -> bool {
        self.outage.is_open()
    }

    /// What it can do, asked once.
    ///
    /// # Errors
    /// A [`CallError`]; with FAILED_PRECONDITION where the server answers, but cannot be used.
    pub(crate) async fn capabilities(&self) -> Result<Arc<Capabilities>, CallError> {
        self.capabilities.get_or_try_init(|| self.ask_capabilities()).await.cloned()
    }

    async fn ask_capabilities(&self) -> Result<Arc<Capabilities>, CallError> {
        let answer = self.call(None, "GetCapabilities", |attempt| async move {
            let request = proto::GetCapabilitiesRequest { instance_name: self.instance.clone() };
            let mut client = CapabilitiesClient::new(attempt.channel());
            Ok(client.get_capabilities(attempt.request(request)).await?.into_inner())
        });
        let capabilities = Capabilities::read(&answer.await?, self.function);
        capabilities.map(Arc::new).map_err(|why| self.refuse(Code::FailedPrecondition, "GetCapabilities", why))
    }

    /// An error of ours about this server.
    pub(crate) fn refuse(&self, code: Code, method: &'static str, message: String) -> CallError {
        CallError { code, message, missing: Vec::new(), endpoint: self.endpoint.clone(), method, attempts: 0 }
    }

    /// Calls, with retries; each attempt is over when nothing moved for the configured time.
    ///
    /// # Errors
    /// A [`CallError`] when an answer is final or retries are used up, at once while the server is given up.
    pub(crate) async fn call<T, F, A>(
        &self,
        who: Option<&Requester>,
        method: &'static str,
        attempt: F,
    ) -> Result<T, CallError>
    where
        F: FnMut(Attempt) -> A,
        A: Future<Output = Result<T, Status>>,
    {
        self.call_for(who, method, Patience::Usual, attempt).await
    }

    /// The same with a patience.
    ///
    /// # Errors
    /// As [`Grpc::call`].
    pub(crate) async fn call_for<T, F, A>(
        &self,
        who: Option<&Requester>,
        method: &'static str,
        patience: Patience,
        mut attempt: F,
    ) -> Result<T, CallError>
    where
        F: FnMut(Attempt) -> A,
        A: Future<Output = Result<T, Status>>,
    {
        let mut retries = Retries::new(self, method);
        loop {
            retries.admit()?;
            let (next, progress) = self.prepare(who, method, patience, &retries).await?;
            let permit = match patience {
                Patience::Usual => self.calls.acquire().await.ok(),
                Patience::Endless => None,
            };
            progress.begin();
            let result = self.bounded(attempt(next), patience, &progress).await;
            drop(permit);
            match result {
                Ok(answer) => {
                    self.outage.succeeded();
                    return Ok(answer);
                }
                Err(status) => retries.wait(&status, &progress).await?,
            }
        }
    }

    /// Connection and headers of one attempt.
    async fn prepare(
        &self,
        who: Option<&Requester>,
        method: &'static str,
        patience: Patience,
        retries: &Retries<'_>,
    ) -> Result<(Attempt, Arc<Progress>), CallError> {
        let mut metadata = MetadataMap::new();
        metadata::add(&mut metadata, &self.invocation, who);
        let mut map = metadata.into_headers();
        self.headers.apply(&mut map);
        if let Some(credentials) = &self.credentials {
            let answer = credentials.headers(retries.refused).await;
            let (headers, version) = answer.map_err(|why| self.refuse(Code::Unauthenticated, method, why))?;
            retries.credentials.store(version, Ordering::Relaxed);
            headers.apply(&mut map);
        }
        let pool = if patience == Patience::Usual { &self.short } else { &self.long };
        let progress = Arc::clone(&retries.progress);
        let metadata = MetadataMap::from_headers(map);
        Ok((Attempt { lease: pool.lease(), metadata, progress: Arc::clone(&progress) }, progress))
    }

    /// Ends an attempt that stands still.
    async fn bounded<T>(
        &self,
        attempt: impl Future<Output = Result<T, Status>>,
        patience: Patience,
        progress: &Progress,
    ) -> Result<T, Status> {
        if patience == Patience::Endless {
            return attempt.await;
        }
        let limit = if self.outage.has_answered() { self.timeout } else { self.timeout.min(FIRST_ANSWER) };
        let mut attempt = std::pin::pin!(attempt);
        loop {
            let deadline = progress.deadline(limit);
            tokio::select! {
                biased;
                result = &mut attempt => return result,
                () = tokio::time::sleep_until(deadline) => {}
            }
            if progress.deadline(limit) <= Instant::now() {
                return Err(Status::deadline_exceeded(format!("nothing came for {} s", limit.as_secs_f32())));
            }
        }
    }
}

/// The retries of one call.
struct Retries<'a> {
    grpc: &'a Grpc,
    method: &'static str,
    backoff: Backoff,
    attempts: u32,
    is_probe: bool,
    /// Where the best attempt before this one came to.
    best: u64,
    progress: Arc<Progress>,
    /// The version of the credentials in use.
    credentials: AtomicU64,
    /// The version of the credentials that were refused.
    refused: Option<u64>,
}

impl<'a> Retries<'a> {
    fn new(grpc: &'a Grpc, method: &'static str) -> Self {
        let seed = mix(grpc.seed.fetch_add(1, Ordering::Relaxed));
        let progress = Progress {
            began: Instant::now(),
            last: AtomicU64::new(0),
            best: AtomicU64::new(0),
            is_heard: AtomicBool::new(false),
            outage: Arc::clone(&grpc.outage),
        };
        Self {
            grpc,
            method,
            backoff: Backoff::new(grpc.retries, seed),
            attempts: 0,
            is_probe: false,
            best: 0,
            progress: Arc::new(progress),
            credentials: AtomicU64::new(0),
            refused: None,
        }
    }

    /// Asks the breaker.
    fn admit(&mut self) -> Result<(), CallError> {
        let allowed = self.grpc.outage.allows();
        match allowed {
            Allowed::No => {
                Err(self.error(Code::Unavailable, "it is given up for now, after failures".to_owned(), None))
            }
            allowed => {
                self.is_probe = allowed == Allowed::Probe;
                self.attempts += 1;
                Ok(())
            }
        }
    }

    /// After a failed attempt: waits until the next, or ends.
    async fn wait(&mut self, status: &Status, progress: &Progress) -> Result<(), CallError> {
        let is_outage = error::is_outage(status.code());
        let text = error::text_of(status);
        if asks_for_calm(&text) {
            self.grpc.short.calm_down();
            self.grpc.long.calm_down();
        }
        match is_outage {
            true => self.grpc.outage.failed(&text),
            false => self.grpc.outage.succeeded(),
        }
        if self.may_refresh(status.code()) {
            return Ok(());
        }
        let best = progress.best.load(Ordering::Relaxed);
        if best > self.best {
            self.best = best;
            self.backoff.progressed();
        }
        let pause = self.backoff.next(status.code(), error::advised_delay(status));
        let given_up = is_outage && (self.is_probe || self.grpc.outage.is_open());
        match pause.filter(|_| !given_up && !self.is_hopeless(status.code())) {
            Some(pause) => {
                tokio::time::sleep(pause).await;
                Ok(())
            }
            None => {
                if is_outage {
                    self.grpc.outage.gave_up(&text);
                }
                Err(self.error(status.code(), text, Some(status)))
            }
        }
    }

    /// A server that takes connections and never said a word will not begin to.
    fn is_hopeless(&self, code: Code) -> bool {
        code == Code::DeadlineExceeded && !self.grpc.outage.has_answered()
    }

    /// Refused credentials are asked for anew, once.
    fn may_refresh(&mut self, code: Code) -> bool {
        let may = code == Code::Unauthenticated && self.grpc.credentials.is_some() && self.refused.is_none();
        if may {
            self.refused = Some(self.credentials.load(Ordering::Relaxed));
        }
        may
    }

    fn error(&self, code: Code, message: String, status: Option<&Status>) -> CallError {
        let missing = status.map(|status| error::missing(status, self.grpc.function)).unwrap_or_default();
        let endpoint = self.grpc.endpoint.clone();
        CallError { code, message, missing, endpoint, method: self.method, attempts: self.attempts }
    }
}

/// Whether a server closed the connection because it was pinged too often, as some do after the third time.
fn asks_for_calm(text: &str) -> bool {
    ["too_many_pings", "excessive load", "ENHANCE_YOUR_CALM"].iter().any(|part| text.contains(part))
}

/// What a credential helper is told.
fn uri(endpoint: &Endpoint) -> String {
    match endpoint {
        Endpoint::Grpc { authority, .. } => format!("https://{authority}/"),
        other => other.to_string(),
    }
}
