//! The attempts of one call: whether there is another one, and when.
//!
//! It does not know what is called.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tonic::{Code, Status};

use super::Grpc;
use super::progress::Progress;
use crate::backoff::{Backoff, mix};
use crate::breaker::Allowed;
use crate::error::{self, CallError};

/// The retries of one call.
pub(super) struct Retries<'a> {
    grpc: &'a Grpc,
    method: &'static str,
    backoff: Backoff,
    attempts: u32,
    is_probe: bool,
    /// Where the best attempt before this one came to.
    best: u64,
    pub(super) progress: Arc<Progress>,
    /// The version of the credentials in use.
    pub(super) credentials: AtomicU64,
    /// The version of the credentials that were refused.
    pub(super) refused: Option<u64>,
}

impl<'a> Retries<'a> {
    pub(super) fn new(grpc: &'a Grpc, method: &'static str) -> Self {
        let seed = mix(grpc.seed.fetch_add(1, Ordering::Relaxed));
        Self {
            grpc,
            method,
            backoff: Backoff::new(grpc.retries, seed),
            attempts: 0,
            is_probe: false,
            best: 0,
            progress: Arc::new(Progress::new(Arc::clone(&grpc.outage), Arc::clone(&grpc.received))),
            credentials: AtomicU64::new(0),
            refused: None,
        }
    }

    /// Asks the breaker.
    pub(super) fn admit(&mut self) -> Result<(), CallError> {
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
    pub(super) async fn wait(&mut self, status: &Status) -> Result<(), CallError> {
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
        let best = self.progress.best();
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
        CallError { code, message, missing, endpoint, method: self.method, attempts: self.attempts, blob: None }
    }
}

/// Whether a server closed the connection because it was pinged too often, as some do after the third time.
fn asks_for_calm(text: &str) -> bool {
    ["too_many_pings", "excessive load", "ENHANCE_YOUR_CALM"].iter().any(|part| text.contains(part))
}
