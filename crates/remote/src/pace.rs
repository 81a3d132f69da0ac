//! Since when a transfer stands still: bytes that trickle count for as long as they would take on a slow link.
//!
//! Values only, no clock. It does not know what is transferred.

use std::time::Duration;

/// Bytes a second that count as progress. The streams and batches of one client may share a link of a megabit.
const SLOWEST: u64 = 4 << 10;

/// Returns until when a transfer counts as moving, given until when it did and how many bytes came at `now`. A peer that
/// sends a byte now and then does not keep it moving.
pub(crate) fn moved_until(until: Duration, now: Duration, bytes: usize) -> Duration {
    let worth = Duration::from_micros((bytes as u64).saturating_mul(1_000_000) / SLOWEST);
    until.saturating_add(worth).min(now).max(until)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How long a transfer goes on that gets `bytes` each `every`, if it may stand still for a minute.
    fn lasts(bytes: usize, every: Duration) -> Option<Duration> {
        let (mut until, mut now) = (Duration::ZERO, Duration::ZERO);
        for _ in 0..1000 {
            now += every;
            if now > until + Duration::from_secs(60) {
                return Some(now);
            }
            until = moved_until(until, now, bytes);
        }
        None
    }

    #[test]
    fn a_peer_that_drips_ends_like_one_that_is_silent() {
        let second = Duration::from_secs(1);
        assert_eq!(lasts(0, second), Some(second * 61));
        assert_eq!(lasts(1, second), Some(second * 61));
        assert_eq!(lasts(1 << 10, second), Some(second * 80), "a quarter of what counts buys a third more time");
        assert_eq!(lasts(4 << 10, second), None);
        assert_eq!(lasts(1 << 20, second * 59), None, "much at once counts for the time before");
        assert_eq!(lasts(1 << 20, second * 61), Some(second * 61));
    }
}
