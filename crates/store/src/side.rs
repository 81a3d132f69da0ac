//! The stores of one build as the port that the engine drives: a few threads that take requests.
//!
//! Nothing is opened and no thread is started before the first request.

use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use minibuild_core::{
    CacheAnswer, CacheLookup, Content, Digest, FetchId, FetchOutcome, FetchRequest, Kept, RunId, StoreCheck, StoreEvent,
    StoreSide, StoreSink, UploadRequest,
};
use minibuild_disk::{FileClock, OutTree, Staged};

use crate::cache::DiskCache;
use crate::local::LocalStore;
use crate::queue::{Job, Queue};
use crate::restore::Places;

/// What stores are made of.
pub struct StoresConfig {
    /// The output tree.
    pub tree: Arc<OutTree>,
    /// The file system's clock.
    pub clock: Arc<dyn FileClock>,
    /// Bytes that the local store may take; with none there is no such store.
    pub local_size: u64,
    /// The disk cache, if there is one.
    pub cache: Option<CacheConfig>,
    /// Threads at most.
    pub threads: usize,
    /// Where events go.
    pub sink: StoreSink,
}

/// A disk cache.
pub struct CacheConfig {
    /// Its directory, absolute.
    pub path: PathBuf,
    /// Bytes that it may take.
    pub size: Option<u64>,
}

/// The stores of one build.
#[derive(Clone)]
pub struct Stores(Arc<Shared>);

struct Shared {
    tree: Arc<OutTree>,
    clock: Arc<dyn FileClock>,
    local: LocalStore,
    cache: Option<DiskCache>,
    threads: usize,
    sink: StoreSink,
    queue: Queue,
    workers: Mutex<Vec<JoinHandle<()>>>,
}

/// What a request is answered with should nothing else be said.
enum Ticket {
    LookUp(RunId),
    Check(RunId),
    Fetch(FetchId),
    Nothing,
}

impl Stores {
    /// The stores of these settings.
    pub fn new(config: StoresConfig) -> Self {
        let StoresConfig { tree, clock, local_size, cache, threads, sink } = config;
        let cache = cache.map(|cache| {
            let workspace = tree.workspace().to_owned();
            DiskCache::new(cache.path, cache.size, tree.function(), workspace, sink.clone())
        });
        let local = LocalStore::new(Arc::clone(&tree), local_size);
        let (queue, workers) = (Queue::default(), Mutex::default());
        Self(Arc::new(Shared { tree, clock, local, cache, threads: threads.max(2), sink, queue, workers }))
    }

    /// Takes over what was staged for an output, complete and checked, and is not needed now.
    pub fn adopt(&self, staged: Staged, content: &Content) {
        self.0.local.adopt(staged, content);
        self.take_apart();
    }

    fn take_apart(&self) {
        if self.0.local.has_trees() {
            self.push(Job::TakeApart);
        }
    }

    fn push(&self, job: Job) {
        let shared = &self.0;
        if shared.queue.push(job, shared.threads) {
            let worker = Arc::clone(shared);
            let thread = std::thread::Builder::new().name("store".into()).spawn(move || worker.work());
            match thread {
                Ok(thread) => shared.workers.lock().unwrap_or_else(PoisonError::into_inner).push(thread),
                // No thread to be had: as long as it takes, here.
                Err(_) => shared.work_once(),
            }
        }
    }
}

impl StoreSide for Stores {
    fn look_up(&self, lookup: CacheLookup) {
        self.push(Job::LookUp(lookup));
    }

    fn check(&self, check: StoreCheck) {
        self.push(Job::Check(check));
    }

    fn fetch(&self, request: FetchRequest) {
        let is_empty = self.0.cache.is_none() && self.0.local.blobs().is_none() && request.here.is_empty();
        if is_empty && !request.content.blobs().is_empty() {
            return (self.0.sink)(StoreEvent::NotHere(Box::new(request)));
        }
        self.push(Job::Fetch(request));
    }

    fn stop_fetches(&self) {
        for request in self.0.queue.take_fetches() {
            (self.0.sink)(StoreEvent::Fetched { id: request.id, outcome: FetchOutcome::Stopped });
        }
    }

    fn store(&self, request: UploadRequest) {
        if self.0.cache.is_some() {
            self.push(Job::Store(Box::new(request)));
        }
    }

    fn store_same(&self, known: Digest, key: Digest) {
        if self.0.cache.is_some() {
            self.push(Job::StoreSame { known, key });
        }
    }

    fn keep(&self, output: &Kept) -> bool {
        let is_away = self.0.local.keep(output);
        if is_away && matches!(output.content, Content::Directory(_)) {
            self.take_apart();
        }
        is_away
    }

    fn shutdown(&mut self, is_hurried: bool) {
        self.0.queue.close(is_hurried);
        let workers = std::mem::take(&mut *self.0.workers.lock().unwrap_or_else(PoisonError::into_inner));
        for worker in workers {
            // One that panicked has answered.
            let _ = worker.join();
        }
        self.0.local.end();
    }
}

impl Shared {
    fn work(&self) {
        while let Some(mut turn) = self.queue.pop() {
            if let Some(job) = turn.job() {
                self.attempt(job);
            }
        }
    }

    fn work_once(&self) {
        if let Some(job) = self.queue.pop().and_then(|mut turn| turn.job()) {
            self.attempt(job);
        }
    }

    /// Does a job; whoever waits is answered whatever happens.
    fn attempt(&self, job: Job) {
        let ticket = match &job {
            Job::LookUp(lookup) => Ticket::LookUp(lookup.run),
            Job::Check(check) => Ticket::Check(check.run),
            Job::Fetch(request) => Ticket::Fetch(request.id),
            Job::TakeApart | Job::Store(_) | Job::StoreSame { .. } => Ticket::Nothing,
        };
        if std::panic::catch_unwind(AssertUnwindSafe(|| self.act(job))).is_err() {
            let event = match ticket {
                Ticket::LookUp(run) => StoreEvent::LookedUp { run, answer: CacheAnswer::Miss },
                Ticket::Check(run) => StoreEvent::Checked { run, missing: Vec::new() },
                Ticket::Fetch(id) => {
                    let outcome = FetchOutcome::Disk("bug: copying from a store panicked".to_owned());
                    StoreEvent::Fetched { id, outcome }
                }
                Ticket::Nothing => return,
            };
            (self.sink)(event);
        }
    }

    fn act(&self, job: Job) {
        let places =
            Places { tree: &self.tree, clock: &*self.clock, local: &self.local, cache: self.cache.as_ref() };
        match job {
            Job::TakeApart => self.local.take_apart(),
            Job::LookUp(lookup) => {
                let answer = self.cache.as_ref().map_or(CacheAnswer::Miss, |cache| cache.look_up(&lookup));
                (self.sink)(StoreEvent::LookedUp { run: lookup.run, answer });
            }
            Job::Check(StoreCheck { run, digests }) => {
                let missing = digests.into_iter().filter(|digest| !places.has(digest)).collect();
                (self.sink)(StoreEvent::Checked { run, missing });
            }
            Job::Fetch(request) => (self.sink)(match places.restore(&request) {
                Some(outcome) => StoreEvent::Fetched { id: request.id, outcome },
                None => StoreEvent::NotHere(Box::new(request)),
            }),
            Job::Store(request) => {
                if let Some(cache) = &self.cache {
                    cache.store(&request);
                }
            }
            Job::StoreSame { known, key } => {
                if let Some(cache) = &self.cache {
                    cache.store_same(&known, &key);
                }
            }
        }
    }
}
