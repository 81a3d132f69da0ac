//! What all tasks of a client share.
//!
//! It does not know what the tasks do.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use minibuild_core::{Content, Requester};
use minibuild_disk::Staged;
use tokio::sync::{OnceCell, Semaphore};

use crate::answer::Sink;
use crate::blobs::Blobs;
use crate::cache::{Cache, GrpcCache};
use crate::cas::GrpcCas;
use crate::endpoint::Endpoint;
use crate::executor::Executor;
use crate::fetch::Fetches;
use crate::grpc::Grpc;
use crate::recent_clock::RecentClock;
use crate::staging::Stagings;
use crate::{ConfigError, RemoteConfig, http};

/// Look-ups under way at a time.
const MOST_LOOKUPS: usize = 512;
/// Results being stored at a time.
const MOST_UPLOADS: usize = 64;

pub(crate) struct Shared {
    pub(crate) config: RemoteConfig,
    pub(crate) sink: Sink,
    pub(crate) cache: Cache,
    pub(crate) executor: Option<Executor>,
    pub(crate) fetches: Fetches,
    pub(crate) blobs: Blobs,
    pub(crate) stagings: Stagings,
    /// Of what is published.
    pub(crate) clock: RecentClock,
    pub(crate) lookups: Semaphore,
    pub(crate) uploads: Semaphore,
    may_upload: AtomicBool,
    /// Whether the executor has what goes to the cache.
    shares_cas: OnceCell<bool>,
}

impl Shared {
    /// Connects to nothing.
    ///
    /// # Errors
    /// A [`ConfigError`].
    pub(crate) fn new(config: RemoteConfig, sink: Sink) -> Result<Self, ConfigError> {
        let (cache, executor) = endpoints(&config, &sink)?;
        Ok(Self {
            clock: RecentClock::new(Arc::clone(&config.clock)),
            config,
            sink,
            cache,
            executor,
            fetches: Fetches::default(),
            blobs: Blobs::default(),
            stagings: Stagings::default(),
            lookups: Semaphore::new(MOST_LOOKUPS),
            uploads: Semaphore::new(MOST_UPLOADS),
            may_upload: AtomicBool::new(true),
            shares_cas: OnceCell::new(),
        })
    }

    /// Hands a complete, checked thing that is not needed now to whoever keeps it.
    pub(crate) fn keep(&self, staged: Staged, content: &Content) {
        if let Some(keeper) = &self.config.keeper {
            keeper.adopt(staged, content);
        }
    }

    /// Whether results may be uploaded, as far as is known.
    pub(crate) fn may_upload(&self) -> bool {
        self.may_upload.load(Ordering::Relaxed)
    }

    /// They may not; `true` the first time.
    pub(crate) fn forbid_uploads(&self) -> bool {
        self.may_upload.swap(false, Ordering::Relaxed)
    }

    /// Where actions are executed, as it may be shown.
    pub(crate) fn executor_name(&self) -> &str {
        self.executor.as_ref().map_or("no executor", Executor::endpoint)
    }

    /// Calls whatever is given up for now, as far as its time has come.
    pub(crate) async fn probe(&self) {
        match &self.cache {
            Cache::Grpc(cache) => cache.grpc.probe().await,
            Cache::Http(cache) => cache.probe().await,
        }
        if let Some(executor) = &self.executor {
            executor.probe().await;
        }
    }

    /// Nothing will be asked any more.
    pub(crate) fn end(&self) {
        match &self.cache {
            Cache::Grpc(cache) => cache.grpc.end(),
            Cache::Http(cache) => cache.end(),
        }
        if let Some(executor) = &self.executor {
            executor.grpc().end();
        }
    }

    /// Sees, once, whether the executor has an action that was uploaded to the cache.
    ///
    /// # Errors
    /// What is wrong.
    pub(crate) async fn check_shared_cas(&self, who: &Requester) -> Result<(), String> {
        let Some(executor) = &self.executor else { return Ok(()) };
        match self.shares_cas.get_or_try_init(|| executor.has(who)).await? {
            true => Ok(()),
            false => Err("it does not have what was uploaded to the cache: \
                both endpoints have to share one content-addressable storage"
                .to_owned()),
        }
    }
}

/// Cache and executor of a configuration.
fn endpoints(config: &RemoteConfig, sink: &Sink) -> Result<(Cache, Option<Executor>), ConfigError> {
    let executor = config.executor.as_deref().map(Endpoint::parse).transpose()?;
    let cache = config.cache.as_deref().map(Endpoint::parse).transpose()?;
    let fail = |endpoint: &Endpoint, why| ConfigError::Endpoint { url: endpoint.to_string(), why };
    let open = |endpoint: &Endpoint| {
        let grpc = Grpc::new(config, endpoint, Arc::clone(sink))?;
        let cas = GrpcCas::new(Arc::clone(&grpc), config.tree.workspace().to_owned(), config.compression);
        Ok::<_, ConfigError>(GrpcCache { grpc, cas })
    };
    match (executor, cache) {
        (Some(executor), _) if !executor.is_grpc() => Err(fail(&executor, "nothing is executed by HTTP")),
        (Some(_), Some(cache)) if !cache.is_grpc() => {
            Err(fail(&cache, "an HTTP cache cannot be used beside an executor, which does not see its blobs"))
        }
        (Some(executor), Some(cache)) if executor != cache => {
            let executor = open(&executor)?;
            Ok((Cache::Grpc(open(&cache)?), Some(Executor::new(executor.grpc, Some(executor.cas)))))
        }
        (Some(executor), _) => {
            let both = open(&executor)?;
            let executor = Executor::new(Arc::clone(&both.grpc), None);
            Ok((Cache::Grpc(both), Some(executor)))
        }
        (None, Some(Endpoint::Http(http))) => Ok((Cache::Http(Box::new(http::open(config, &http, sink)?)), None)),
        (None, Some(cache)) => Ok((Cache::Grpc(open(&cache)?), None)),
        (None, None) => Err(ConfigError::Endpoint { url: String::new(), why: "neither executor nor cache is given" }),
    }
}
