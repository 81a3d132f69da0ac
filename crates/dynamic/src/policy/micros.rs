//! Times as the policy computes with them.

use std::time::Duration;

/// Microseconds.
pub(super) type Us = u64;

/// Converts a time, the longest one where it does not fit.
pub(super) fn micros(time: Duration) -> Us {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
