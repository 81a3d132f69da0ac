//! Work that is done together: what comes while earlier work is under way piles up and goes next, all at once.
//!
//! There are no timers: nobody waits for others to come. It does not know what the work is.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Work that waits, and how many runners take from it.
pub(super) struct Pile<T> {
    state: Mutex<State<T>>,
    runners: usize,
}

struct State<T> {
    waiting: VecDeque<T>,
    running: usize,
}

/// Takes from a pile until nothing is left.
pub(super) struct Runner<T> {
    pile: Arc<Pile<T>>,
    is_done: bool,
}

impl<T> Pile<T> {
    /// A pile from which at most `runners` take at once.
    pub(super) fn new(runners: usize) -> Arc<Self> {
        Arc::new(Self { state: Mutex::new(State { waiting: VecDeque::new(), running: 0 }), runners })
    }

    /// Adds work. The caller starts the runner that is given back.
    #[must_use]
    pub(super) fn push(self: &Arc<Self>, work: impl IntoIterator<Item = T>) -> Option<Runner<T>> {
        let mut state = self.lock();
        state.waiting.extend(work);
        if state.waiting.is_empty() || state.running >= self.runners {
            return None;
        }
        state.running += 1;
        Some(Runner { pile: Arc::clone(self), is_done: false })
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Runner<T> {
    /// The next work, as much as `fits` says yes to and at least one; empty at the end of the runner.
    pub(super) fn take(&mut self, mut fits: impl FnMut(&T) -> bool) -> Vec<T> {
        let mut state = self.pile.lock();
        let mut taken = Vec::new();
        while let Some(next) = state.waiting.front() {
            // Asked for the first one too, so that it is counted.
            if !fits(next) && !taken.is_empty() {
                break;
            }
            taken.extend(state.waiting.pop_front());
        }
        if taken.is_empty() && !self.is_done {
            self.is_done = true;
            state.running -= 1;
        }
        taken
    }

    /// Another runner, where there is work left for it.
    pub(super) fn helper(&self) -> Option<Self> {
        self.pile.push([])
    }
}

impl<T> Drop for Runner<T> {
    fn drop(&mut self) {
        if !self.is_done {
            self.pile.lock().running -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_meanwhile_goes_next_all_at_once() {
        let pile = Pile::new(1);
        let mut runner = pile.push([1]).expect("the first one runs");
        assert_eq!(runner.take(|_| true), [1]);
        assert!(pile.push([2, 3]).is_none() && pile.push([4]).is_none());
        assert_eq!(runner.take(|_| true), [2, 3, 4]);
        assert!(runner.take(|_| true).is_empty());
        assert!(pile.push([]).is_none(), "no work, no runner");
        assert!(pile.push([5]).is_some(), "the next one runs again");
    }

    #[test]
    fn as_much_as_fits_and_at_least_one() {
        let pile = Pile::new(2);
        let mut runner = pile.push([5, 1, 1, 9, 1]).expect("runs");
        let mut sum = 0;
        let mut fits = |work: &i32| {
            sum += work;
            sum <= 4
        };
        assert_eq!(runner.take(&mut fits), [5], "too large, but alone");
        sum = 0;
        let mut fits = |work: &i32| {
            sum += work;
            sum <= 4
        };
        assert_eq!(runner.take(&mut fits), [1, 1]);
        let mut helper = runner.helper().expect("there is work for a second");
        assert!(runner.helper().is_none(), "but not for a third");
        assert_eq!(helper.take(|_| true), [9, 1]);
    }

    #[test]
    fn a_runner_that_is_dropped_makes_room() {
        let pile = Pile::new(1);
        drop(pile.push([1]));
        assert_eq!(pile.push([2]).expect("runs").take(|_| true), [1, 2]);
    }
}
