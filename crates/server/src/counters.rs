//! How often each method was called and how many bytes of blobs passed, for tests and the log.
//!
//! It does not know what the methods do.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// Counts of one method.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MethodCount {
    /// Calls that began.
    pub calls: u64,
    /// Calls that ended with an error.
    pub errors: u64,
    /// Bytes of blobs that came in, as they were sent.
    pub bytes_in: u64,
    /// Bytes of blobs that went out, as they were sent.
    pub bytes_out: u64,
}

/// What happened to actions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ActionCount {
    /// Commands run.
    pub run: u64,
    /// Requests that joined a run for the same action.
    pub merged: u64,
    /// Requests answered from the action cache.
    pub cached: u64,
    /// Runs killed on request.
    pub cancelled: u64,
}

/// A snapshot of all counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// By method, as `GetActionResult`; `HTTP GET`, `HTTP PUT`, `HTTP HEAD` for the other protocol.
    pub methods: BTreeMap<&'static str, MethodCount>,
    /// Of actions.
    pub actions: ActionCount,
}

impl Counts {
    /// Calls of a method.
    pub fn calls(&self, method: &str) -> u64 {
        self.methods.get(method).map_or(0, |count| count.calls)
    }
}

#[derive(Default)]
pub(crate) struct Counters(Mutex<Counts>);

impl Counters {
    pub(crate) fn of_method(&self, method: &'static str, edit: impl FnOnce(&mut MethodCount)) {
        edit(self.0.lock().unwrap_or_else(PoisonError::into_inner).methods.entry(method).or_default());
    }

    pub(crate) fn of_actions(&self, edit: impl FnOnce(&mut ActionCount)) {
        edit(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner).actions);
    }

    pub(crate) fn snapshot(&self) -> Counts {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_add_up() {
        let counters = Counters::default();
        for bytes in [3, 4] {
            counters.of_method("Read", |count| {
                count.calls += 1;
                count.bytes_out += bytes;
            });
        }
        counters.of_actions(|count| count.run += 1);
        let counts = counters.snapshot();
        assert_eq!((counts.calls("Read"), counts.methods["Read"].bytes_out, counts.calls("Write")), (2, 7, 0));
        assert_eq!(counts.actions.run, 1);
    }
}
