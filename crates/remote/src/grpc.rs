//! One gRPC server: every call goes through [`Grpc::call`], which knows deadlines, retries, outages and headers.
//!
//! It does not know what the calls are for.

mod attempt;
mod progress;
mod retries;
mod watched;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use minibuild_core::{DigestFunction, RemoteEvent, Requester};
use minibuild_reapi::proto::execution as proto;
use proto::capabilities_client::CapabilitiesClient;
use tokio::sync::{OnceCell, Semaphore};
use tokio::time::Instant;
use tonic::metadata::MetadataMap;
use tonic::{Code, Status};

use crate::capabilities::{Capabilities, offered_function};
use crate::channel::{Pool, transport};
use crate::config::RemoteConfig;
use crate::credentials::Credentials;
use crate::endpoint::Endpoint;
use crate::error::{CallError, ConfigError};
use crate::headers::Headers;
use crate::metadata;
use crate::outage::{Outage, Tell};
pub(crate) use attempt::Attempt;
use progress::Progress;
use retries::Retries;

/// Bytes of one message that is read: servers send batches larger than they say.
pub(crate) const MAX_MESSAGE: usize = 32 << 20;
/// Bytes of what a server says about itself: lists of numbers, mostly.
const MAX_CAPABILITIES: usize = 256 << 10;
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
    received: Arc<AtomicU64>,
    seed: AtomicU64,
    capabilities: OnceCell<Arc<Capabilities>>,
    on_other_function: Option<Tell>,
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

impl Grpc {
    /// A server that is connected to when it is first called.
    ///
    /// # Errors
    /// [`ConfigError`] where the configuration cannot be used.
    pub(crate) fn new(config: &RemoteConfig, endpoint: &Endpoint, tell: Tell) -> Result<Arc<Self>, ConfigError> {
        let transport = transport(endpoint, &config.tls, config.timeout)?;
        let connections = usize::try_from(config.connections).unwrap_or(1).max(1);
        let pairs = config.headers.iter().map(|(name, value)| (&**name, &**value));
        let helper = config.credential_helper.as_deref();
        let credentials = helper.map(|helper| Credentials::new(helper, uri(endpoint), Arc::clone(&tell)));
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
            on_other_function: config.may_change_function.then(|| Arc::clone(&tell)),
            outage: Arc::new(Outage::new(endpoint.to_string(), config.timeout, tell)),
            received: Arc::default(),
            seed: AtomicU64::new(0),
            capabilities: OnceCell::new(),
        }))
    }

    /// Bytes that came from it so far, messages and all.
    pub(crate) fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
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

    /// Nothing will be asked any more.
    pub(crate) fn end(&self) {
        self.outage.end();
    }

    /// If it is given up, and its time has come, asks it for a sign of life.
    pub(crate) async fn probe(&self) {
        if self.outage.is_open() {
            // What follows from the answer is the breaker's.
            drop(self.ask_capabilities().await);
        }
    }

    async fn ask_capabilities(&self) -> Result<Arc<Capabilities>, CallError> {
        let answer = self.call(None, "GetCapabilities", |attempt| async move {
            let request = proto::GetCapabilitiesRequest { instance_name: self.instance.clone() };
            let client = CapabilitiesClient::new(attempt.channel());
            let mut client = client.max_decoding_message_size(MAX_CAPABILITIES);
            Ok(client.get_capabilities(attempt.request(request)).await?.into_inner())
        });
        let answer = answer.await?;
        let capabilities = Capabilities::read(&answer, self.function);
        if let (Err(_), Some(tell)) = (&capabilities, &self.on_other_function)
            && let Some(other) = offered_function(&answer).filter(|other| *other != self.function)
        {
            tell(RemoteEvent::OtherFunction(other));
        }
        capabilities.map(Arc::new).map_err(|why| self.refuse(Code::FailedPrecondition, "GetCapabilities", why))
    }

    /// An error of ours about this server.
    pub(crate) fn refuse(&self, code: Code, method: &'static str, message: String) -> CallError {
        CallError {
            code,
            message,
            missing: Vec::new(),
            endpoint: self.endpoint.clone(),
            method,
            attempts: 0,
            blob: None,
        }
    }

    /// An error of calls that lack the headers of a helper: no server without them, and none until it has answered.
    fn lack_credentials(&self, method: &'static str, why: String) -> CallError {
        self.outage.failed(&why);
        self.outage.gave_up(&why);
        self.refuse(Code::Unauthenticated, method, why)
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
            let next = self.prepare(who, method, patience, &retries).await?;
            let progress = Arc::clone(&retries.progress);
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
                Err(status) => retries.wait(&status).await?,
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
    ) -> Result<Attempt, CallError> {
        let mut metadata = MetadataMap::new();
        metadata::add(&mut metadata, &self.invocation, who);
        let mut map = metadata.into_headers();
        self.headers.apply(&mut map);
        if let Some(credentials) = &self.credentials {
            let answer = credentials.headers(retries.refused).await;
            let (headers, version) = answer.map_err(|why| self.lack_credentials(method, why))?;
            retries.credentials.store(version, Ordering::Relaxed);
            headers.apply(&mut map);
        }
        let pool = if patience == Patience::Usual { &self.short } else { &self.long };
        Ok(Attempt::new(pool.lease(), MetadataMap::from_headers(map), Arc::clone(&retries.progress)))
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
                let why = format!("nothing came for {} s, or next to nothing for longer", limit.as_secs_f32());
                return Err(Status::deadline_exceeded(why));
            }
        }
    }
}

/// What a credential helper is told.
fn uri(endpoint: &Endpoint) -> String {
    match endpoint {
        Endpoint::Grpc { authority, .. } => format!("https://{authority}/"),
        other => other.to_string(),
    }
}
