//! Keeps the writing of executable files and the start of processes apart.
//!
//! A process that starts holds every descriptor of this one until its exec, and a file that somebody has open for
//! writing cannot be run. Any number may write, a few may start, but never both kinds at once. Those who start
//! go first: there are only as many of them as workers, so that writers do not wait for ever. It knows neither files
//! nor processes.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Starts at once: each waits for its process's exec. All at once cost more processor time; see the design note for
/// how little is known of what a few win.
const MOST_STARTING: usize = 4;

/// See the module.
#[derive(Default)]
pub(crate) struct Apart {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    writing: usize,
    starting: usize,
    waiting_to_start: usize,
}

/// Held while one writes or starts.
pub(crate) struct Guard<'a> {
    apart: &'a Apart,
    leave: fn(&mut State),
}

impl Apart {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until nobody starts a process.
    pub(crate) fn writing(&self) -> Guard<'_> {
        let state = self.changed.wait_while(self.lock(), |state| state.starting + state.waiting_to_start > 0);
        state.unwrap_or_else(PoisonError::into_inner).writing += 1;
        Guard { apart: self, leave: |state| state.writing -= 1 }
    }

    /// Waits until nobody writes.
    pub(crate) fn starting(&self) -> Guard<'_> {
        let mut state = self.lock();
        state.waiting_to_start += 1;
        let is_busy = |state: &mut State| state.writing > 0 || state.starting >= MOST_STARTING;
        state = self.changed.wait_while(state, is_busy).unwrap_or_else(PoisonError::into_inner);
        state.waiting_to_start -= 1;
        state.starting += 1;
        Guard { apart: self, leave: |state| state.starting -= 1 }
    }
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        (self.leave)(&mut self.apart.lock());
        self.apart.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicI64, Ordering};

    use super::*;

    #[test]
    fn one_kind_at_a_time_and_many_of_it() {
        let apart = Apart::default();
        let (_first, _second) = (apart.writing(), apart.writing());
        drop((_first, _second));
        let (_first, _second) = (apart.starting(), apart.starting());
    }

    #[test]
    fn never_both() {
        let (apart, inside) = (Apart::default(), AtomicI64::new(0));
        std::thread::scope(|scope| {
            for number in 0..8 {
                let (apart, inside) = (&apart, &inside);
                scope.spawn(move || {
                    for _ in 0..500 {
                        let (_guard, step) = match number % 2 {
                            0 => (apart.writing(), 1),
                            _ => (apart.starting(), -1),
                        };
                        let before = inside.fetch_add(step, Ordering::SeqCst);
                        assert!(before * step >= 0, "{before} of the other kind");
                        inside.fetch_sub(step, Ordering::SeqCst);
                    }
                });
            }
        });
        assert_eq!(inside.into_inner(), 0);
    }
}
