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
    /// Why the last attempt failed.
    last_failure: Mutex<Option<String>>,
}

impl Outage {
    /// `timeout` is the longest a failing attempt takes.
    pub(crate) fn new(endpoint: String, timeout: Duration, tell: Tell) -> Self {
        let (breaker, last_failure) = (Mutex::new(Breaker::new(timeout)), Mutex::default());
        Self { breaker, began: Instant::now(), endpoint, tell, last_failure }
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
        *self.last_failure() = Some(why.to_owned());
        let change = self.breaker().record(false, self.began.elapsed());
        self.announce(change, why);
    }

    /// All retries of a call failed.
    pub(crate) fn gave_up(&self, why: &str) {
        let change = self.breaker().gave_up(self.began.elapsed());
        self.announce(change, why);
    }

    /// Nothing will be asked any more. A build that was over before the server could be given up says now that it was of no
    /// use.
    pub(crate) fn end(&self) {
        let why = self.last_failure().take();
        if let Some(why) = why.filter(|_| !self.has_answered() && !self.is_open()) {
            let text = format!("`{}` never answered ({why}); nothing was done with it", self.endpoint);
            (self.tell)(RemoteEvent::Message { level: Level::Warning, text });
        }
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

    fn last_failure(&self) -> MutexGuard<'_, Option<String>> {
        self.last_failure.lock().unwrap_or_else(PoisonError::into_inner)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_server_that_never_answered_is_told_of_once_at_the_end() {
        let told = |steps: &[&str]| {
            let told = Arc::new(Mutex::new(Vec::new()));
            let to = Arc::clone(&told);
            let tell: Tell = Arc::new(move |event| {
                if let RemoteEvent::Message { text, .. } = event {
                    to.lock().expect("no panic").push(text);
                }
            });
            let outage = Outage::new("grpc://h:1".to_owned(), Duration::from_secs(1), tell);
            for step in steps {
                match *step {
                    "ok" => outage.succeeded(),
                    "gave up" => outage.gave_up("refused"),
                    "end" => outage.end(),
                    _ => outage.failed("refused"),
                }
            }
            told.lock().expect("no panic").clone()
        };
        let never = ["`grpc://h:1` never answered (refused); nothing was done with it"];
        assert_eq!(told(&["failed", "failed", "end", "end"]), never);
        assert!(told(&["end"]).is_empty() && told(&["ok", "failed", "end"]).is_empty());
        assert!(told(&["failed", "ok", "end"]).is_empty());
        let once = told(&["failed", "gave up", "failed", "end"]);
        assert!(once.len() == 1 && once[0].contains("cannot be used"), "{once:?}");
    }
}
