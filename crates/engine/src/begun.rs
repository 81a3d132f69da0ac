//! What runs here now, for whoever shows it: the loop need not wake up for that.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use minibuild_core::RunId;
use rustc_hash::FxHashMap;

/// Runs whose command was handed over here, and when, counted from the beginning of the build.
#[derive(Clone, Default)]
pub(crate) struct Begun(Arc<Mutex<FxHashMap<RunId, Duration>>>);

impl Begun {
    /// All that have begun and not ended.
    pub(crate) fn lock(&self) -> MutexGuard<'_, FxHashMap<RunId, Duration>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
