//! The file system's clock for many outputs that arrive together.
//!
//! Reading it means writing to one file, for which eight threads that publish outputs would wait. A moment that is a
//! little old is as good: it makes a stamp less trusted, never more. It does not know who asks.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use minibuild_disk::{DiskError, FileClock, FsInstant};

/// Age up to which a moment is given again. What was published since is not trusted by the clock itself either.
const RECENT: Duration = Duration::from_millis(10);

/// A clock that is read no more often than it has to be.
pub(crate) struct RecentClock {
    clock: Arc<dyn FileClock>,
    last: Mutex<Option<(Instant, FsInstant)>>,
}

impl RecentClock {
    pub(crate) fn new(clock: Arc<dyn FileClock>) -> Self {
        Self { clock, last: Mutex::new(None) }
    }
}

impl FileClock for RecentClock {
    fn now(&self) -> Result<FsInstant, DiskError> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let asked = Instant::now();
        match *last {
            Some((when, moment)) if asked.duration_since(when) < RECENT => Ok(moment),
            _ => {
                let moment = self.clock.now()?;
                *last = Some((asked, moment));
                Ok(moment)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicI64, Ordering};

    use super::*;

    /// Goes on by one each time it is read.
    struct Counting(AtomicI64);

    impl FileClock for Counting {
        fn now(&self) -> Result<FsInstant, DiskError> {
            Ok(FsInstant::of_all_devices(self.0.fetch_add(1, Ordering::Relaxed), Duration::ZERO))
        }
    }

    #[test]
    fn a_moment_is_given_again_until_it_is_old() {
        let clock = RecentClock::new(Arc::new(Counting(AtomicI64::new(7))));
        let now = || clock.now().expect("tells").ns;
        assert_eq!(now(), 7);
        // As if it had been read later, and then long ago.
        let set =
            |when: Instant| *clock.last.lock().expect("not poisoned") = Some((when, clock.clock.now().expect("tells")));
        set(Instant::now() + Duration::from_secs(60));
        assert_eq!((now(), now()), (8, 8));
        set(Instant::now() - RECENT);
        assert_eq!(now(), 10, "the one before is too old");
    }
}
