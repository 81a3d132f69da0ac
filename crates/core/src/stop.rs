//! The request that an invocation end: made once, seen by all threads.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

/// A request to stop, which all clones share. It is never withdrawn.
///
/// Work that can take long looks at it between two pieces; a thread that only waits does so in [`StopFlag::wait_for`].
#[derive(Clone, Debug, Default)]
pub struct StopFlag(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    is_set: AtomicBool,
    /// Orders a waiter's look at the flag before the notification. Held for that look only, so `set` never waits long.
    waiting: Mutex<()>,
    news: Condvar,
}

impl StopFlag {
    /// Whether a stop was requested.
    pub fn is_set(&self) -> bool {
        self.0.is_set.load(Ordering::Acquire)
    }

    /// Requests the stop and wakes all who wait for it.
    pub fn set(&self) {
        self.0.is_set.store(true, Ordering::Release);
        drop(self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner));
        self.0.news.notify_all();
    }

    /// Waits that long for the request; returns whether it was made.
    pub fn wait_for(&self, time: Duration) -> bool {
        let guard = self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.0.news.wait_timeout_while(guard, time, |()| !self.is_set()));
        self.is_set()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flag_set_in_one_clone_is_seen_in_all() {
        let flag = StopFlag::default();
        let other = flag.clone();
        assert!(!other.is_set() && !other.wait_for(Duration::ZERO));
        flag.set();
        flag.set();
        assert!(other.is_set() && other.wait_for(Duration::MAX));
    }

    #[test]
    fn waiter_wakes_when_the_flag_is_set() {
        let flag = StopFlag::default();
        let other = flag.clone();
        let waiter = std::thread::spawn(move || other.wait_for(Duration::from_secs(3600)));
        flag.set();
        assert!(waiter.join().expect("no panic"));
    }
}
