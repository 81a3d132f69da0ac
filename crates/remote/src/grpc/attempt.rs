//! One attempt of a call: its connection and headers, and how far it came.
//!
//! It does not know what is called, nor what follows from its end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;
use tonic::Request;
use tonic::metadata::MetadataMap;

use super::watched::Watched;
use crate::channel::Lease;
use crate::outage::Outage;
use crate::pace::moved_until;

/// One attempt of a call.
pub(crate) struct Attempt {
    lease: Lease,
    metadata: MetadataMap,
    progress: Arc<Progress>,
}

/// How far a call came.
pub(super) struct Progress {
    began: Instant,
    /// Until when it moved: microseconds since then.
    last: AtomicU64,
    /// The best position an attempt reached.
    best: AtomicU64,
    /// Whether the server said anything in this attempt.
    is_heard: AtomicBool,
    outage: Arc<Outage>,
    /// Bytes that came from the server, by all calls.
    total: Arc<AtomicU64>,
}

impl Attempt {
    pub(super) fn new(lease: Lease, metadata: MetadataMap, progress: Arc<Progress>) -> Self {
        Self { lease, metadata, progress }
    }

    /// The connection to use; what comes over it is progress.
    pub(crate) fn channel(&self) -> Watched {
        Watched::new(self.lease.channel(), Arc::clone(&self.progress))
    }

    /// A request with the headers of the call.
    pub(crate) fn request<T>(&self, message: T) -> Request<T> {
        Request::from_parts(self.metadata.clone(), Default::default(), message)
    }

    /// A whole message came: the server serves. Its bytes are progress already.
    pub(crate) fn heard(&self) {
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
    /// Of a call that has not begun.
    pub(super) fn new(outage: Arc<Outage>, total: Arc<AtomicU64>) -> Self {
        let none = || AtomicU64::new(0);
        Self { began: Instant::now(), last: none(), best: none(), is_heard: AtomicBool::new(false), outage, total }
    }

    /// So many bytes came.
    pub(super) fn received(&self, bytes: usize) {
        self.total.fetch_add(bytes as u64, Ordering::Relaxed);
        let last = Duration::from_micros(self.last.load(Ordering::Relaxed));
        self.set_moved(moved_until(last, self.began.elapsed(), bytes));
    }

    /// An attempt begins.
    pub(super) fn begin(&self) {
        self.moved();
        self.is_heard.store(false, Ordering::Relaxed);
    }

    /// A sign of life: the deadline begins anew.
    pub(super) fn moved(&self) {
        self.set_moved(self.began.elapsed());
    }

    fn set_moved(&self, until: Duration) {
        self.last.fetch_max(u64::try_from(until.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// The best position an attempt reached.
    pub(super) fn best(&self) -> u64 {
        self.best.load(Ordering::Relaxed)
    }

    /// When a call that does not move before is over.
    pub(super) fn deadline(&self, patience: Duration) -> Instant {
        self.began + Duration::from_micros(self.last.load(Ordering::Relaxed)) + patience
    }
}
