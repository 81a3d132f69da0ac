//! The outage breaker of one server, with a clock, and what the user is told of it.
//!
//! It does not know what the calls are for.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use minibuild_core::{Level, RemoteEvent};
use tokio::time::Instant;

use crate::breaker::{Allowed, Breaker, Change};

/// Takes what is to be told.
pub(crate) type Tell = Arc<dyn Fn(RemoteEvent) + Send + Sync>;

/// Whether one server serves.
pub(crate) struct Outage {
    breaker: Mutex<Breaker>,
    began: Instant,
    endpoint: String,
    tell: Tell,
}

impl Outage {
    /// `timeout` is the longest a failing attempt takes.
    pub(crate) fn new(endpoint: String, timeout: Duration, tell: Tell) -> Self {
        Self { breaker: Mutex::new(Breaker::new(timeout)), began: Instant::now(), endpoint, tell }
    }

    /// Whether to ask now.
    pub(crate) fn allows(&self) -> Allowed {
        self.breaker().allows(self.began.elapsed())
    }

    /// The server served, whatever its answer.
    pub(crate) fn succeeded(&self) {
        let change = self.breaker().record(true, self.began.elapsed());
        self.announce(change, "");
    }

    /// An attempt failed for this reason.
    pub(crate) fn failed(&self, why: &str) {
        let change = self.breaker().record(false, self.began.elapsed());
        self.announce(change, why);
    }

    /// All retries of a call failed.
    pub(crate) fn gave_up(&self, why: &str) {
        let change = self.breaker().gave_up(self.began.elapsed());
        self.announce(change, why);
    }

    /// Whether calls fail fast now.
    pub(crate) fn is_open(&self) -> bool {
        self.breaker().is_open()
    }

    /// Whether it ever served.
    pub(crate) fn has_answered(&self) -> bool {
        self.breaker().has_answered()
    }

    fn breaker(&self) -> MutexGuard<'_, Breaker> {
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn announce(&self, change: Option<Change>, why: &str) {
        let Some(change) = change else { return };
        let (level, text) = match change {
            Change::Opened => {
                (Level::Warning, format!("`{}` cannot be used ({why}); going on without it", self.endpoint))
            }
            Change::Closed => (Level::Info, format!("`{}` can be used again", self.endpoint)),
        };
        (self.tell)(RemoteEvent::Message { level, text });
        (self.tell)(RemoteEvent::Outage { server: self.endpoint.clone(), is_open: change == Change::Opened });
    }
}
