//! Uploads under way: each blob once, however many want it, for as long as one of them does.
//!
//! It does not know how blobs are sent.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use minibuild_core::{Digest, WsPath};
use tokio::sync::watch;

use crate::error::CallError;

/// How an upload ended.
pub(super) type Outcome = Result<(), SendError>;

/// Why a blob was not sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum SendError {
    /// This file is not what it was, or not there.
    Changed(WsPath),
    /// The server could not be asked, or refused.
    Call(CallError),
}

/// All uploads under way.
#[derive(Default)]
pub(super) struct Flights(Mutex<HashMap<Digest, Arc<watch::Sender<Option<Outcome>>>>>);

/// Waits for the end of an upload; when the last one is gone, it need not go on.
pub(super) struct Waiter(watch::Receiver<Option<Outcome>>);

/// The duty to upload a blob and to say how it ended.
pub(super) struct Flight {
    flights: Arc<Flights>,
    digest: Digest,
    sender: Arc<watch::Sender<Option<Outcome>>>,
}

impl Flights {
    fn lock(&self) -> MutexGuard<'_, HashMap<Digest, Arc<watch::Sender<Option<Outcome>>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the upload of a blob; the first one to ask has to see to it.
    pub(super) fn join(self: &Arc<Self>, digest: Digest) -> (Waiter, Option<Flight>) {
        let mut table = self.lock();
        if let Some(sender) = table.get(&digest) {
            return (Waiter(sender.subscribe()), None);
        }
        let (sender, receiver) = watch::channel(None);
        let sender = Arc::new(sender);
        table.insert(digest, Arc::clone(&sender));
        (Waiter(receiver), Some(Flight { flights: Arc::clone(self), digest, sender }))
    }
}

impl Waiter {
    /// How it ended; `None` where whoever saw to it went away without a word.
    pub(super) async fn outcome(mut self) -> Option<Outcome> {
        let ended = self.0.wait_for(Option::is_some).await.ok()?;
        ended.clone()
    }
}

impl Flight {
    /// What is uploaded.
    pub(super) fn digest(&self) -> Digest {
        self.digest
    }

    /// Ends it.
    pub(super) fn land(self, outcome: Outcome) {
        self.flights.lock().remove(&self.digest);
        self.sender.send_replace(Some(outcome));
    }

    /// Gives it up where nobody waits any more; whether that was so.
    pub(super) fn is_abandoned(&self) -> bool {
        let mut table = self.flights.lock();
        let nobody = self.sender.receiver_count() == 0;
        if nobody {
            table.remove(&self.digest);
        }
        nobody
    }

    /// Waits until nobody waits any more; the flight is given up then.
    pub(super) async fn abandoned(&self) {
        loop {
            self.sender.closed().await;
            if self.is_abandoned() {
                return;
            }
        }
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        // A later flight of the same blob is not this one's to remove.
        let mut table = self.flights.lock();
        if table.get(&self.digest).is_some_and(|sender| Arc::ptr_eq(sender, &self.sender)) {
            table.remove(&self.digest);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use minibuild_core::DigestFunction;

    use super::*;

    fn poll<T>(future: impl Future<Output = T>) -> Poll<T> {
        pin!(future).poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn one_flies_and_all_learn_how_it_ended() {
        let flights = Arc::new(Flights::default());
        let digest = DigestFunction::Sha256.digest(b"a");
        let (first, flight) = flights.join(digest);
        let (second, none) = flights.join(digest);
        let flight = flight.expect("the first one flies");
        assert!(none.is_none() && !flight.is_abandoned());
        drop(first);
        assert!(!flight.is_abandoned(), "the second still waits");
        flight.land(Ok(()));
        assert_eq!(poll(second.outcome()), Poll::Ready(Some(Ok(()))));
        assert!(flights.join(digest).1.is_some(), "what has landed flies anew");
    }

    #[test]
    fn without_waiters_it_is_given_up() {
        let flights = Arc::new(Flights::default());
        let digest = DigestFunction::Sha256.digest(b"a");
        let (waiter, flight) = flights.join(digest);
        let flight = flight.expect("flies");
        assert_eq!(poll(flight.abandoned()), Poll::Pending);
        drop(waiter);
        assert_eq!(poll(flight.abandoned()), Poll::Ready(()));
        let (waiter, later) = flights.join(digest);
        drop(flight);
        assert!(flights.join(digest).1.is_none(), "the later one is still in the table");
        drop(later);
        assert_eq!(poll(waiter.outcome()), Poll::Ready(None));
    }
}
