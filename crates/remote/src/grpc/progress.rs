//! How far a call came, over all its attempts: what moves its deadline.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use crate::outage::Outage;
use crate::pace::moved_until;

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

    /// A whole message came: the server serves.
    pub(super) fn heard(&self) {
        if !self.is_heard.swap(true, Ordering::Relaxed) {
            self.outage.succeeded();
        }
    }

    /// This position stays reached when the attempt breaks off.
    pub(super) fn reached(&self, position: u64) {
        self.moved();
        self.best.fetch_max(position, Ordering::Relaxed);
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
