//! When a call is tried again.
//!
//! Pure: no clock, no randomness but what the caller seeds it with.

use std::time::Duration;

use tonic::Code;

/// The first pause, before jitter.
const FIRST: Duration = Duration::from_millis(100);
/// The longest pause, before jitter.
const LONGEST: Duration = Duration::from_secs(5);
/// The longest pause a server may ask for.
const LONGEST_ADVISED: Duration = Duration::from_secs(60);

/// Retries of one call.
#[derive(Clone, Debug)]
pub(crate) struct Backoff {
    retries: u32,
    tried: u32,
    seed: u64,
}

impl Backoff {
    /// At most `retries` retries; `seed` decides the jitter.
    pub(crate) fn new(retries: u32, seed: u64) -> Self {
        Self { retries, tried: 0, seed }
    }

    /// The pause before the next attempt after one that ended with `code`, or `None` where there is none. `advised`
    /// is what the server asks for.
    pub(crate) fn next(&mut self, code: Code, advised: Option<Duration>) -> Option<Duration> {
        if !is_worth_retrying(code) || self.tried >= self.retries {
            return None;
        }
        let pause = self.pause();
        self.tried += 1;
        Some(advised.map_or(pause, |advised| advised.min(LONGEST_ADVISED).max(pause.min(FIRST))))
    }

    /// The attempt before brought the work on: what comes is as a first failure.
    pub(crate) fn progressed(&mut self) {
        self.tried = 0;
    }

    /// From half to the whole of what doubles each time.
    fn pause(&self) -> Duration {
        let whole = FIRST.saturating_mul(1 << self.tried.min(16)).min(LONGEST);
        let dice = mix(self.seed ^ u64::from(self.tried).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let half = whole / 2;
        half + half.mul_f64(f64::from(u32::try_from(dice >> 32).unwrap_or(0)) / f64::from(u32::MAX))
    }
}

/// Whether the same call may succeed a little later. CANCELLED, where nobody here asked for it, and
/// DEADLINE_EXCEEDED are what broken connections and proxies answer.
pub(crate) fn is_worth_retrying(code: Code) -> bool {
    matches!(
        code,
        Code::Unavailable
            | Code::ResourceExhausted
            | Code::Aborted
            | Code::Internal
            | Code::Unknown
            | Code::Cancelled
            | Code::DeadlineExceeded
    )
}

/// Spreads every bit over all others.
pub(crate) fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    z = (z ^ (z >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    z ^ (z >> 32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_with_jitter_up_to_a_limit_and_then_end() {
        for seed in 0..100 {
            let mut backoff = Backoff::new(10, seed);
            for whole_ms in [100, 200, 400, 800, 1600, 3200, 5000, 5000, 5000, 5000] {
                let pause = backoff.next(Code::Unavailable, None).expect("retries are left").as_millis();
                assert!((whole_ms / 2..=whole_ms).contains(&pause), "{pause} of {whole_ms}");
            }
            assert_eq!(backoff.next(Code::Unavailable, None), None);
            backoff.progressed();
            assert!(backoff.next(Code::Unavailable, None).is_some_and(|pause| pause <= FIRST));
        }
    }

    #[test]
    fn seeds_differ() {
        let first = |seed| Backoff::new(1, seed).next(Code::Unavailable, None);
        assert_eq!(first(1), first(1));
        assert!((0..10).any(|seed| first(seed) != first(seed + 1)));
    }

    #[test]
    fn what_the_server_advises_is_heard() {
        let advised = |ms| Backoff::new(1, 0).next(Code::ResourceExhausted, Some(Duration::from_millis(ms)));
        assert_eq!(advised(1500), Some(Duration::from_millis(1500)));
        assert!(advised(0).is_some_and(|pause| pause >= FIRST / 2), "never at once");
        assert_eq!(advised(1 << 40), Some(LONGEST_ADVISED));
        assert_eq!(Backoff::new(0, 0).next(Code::Unavailable, Some(FIRST)), None);
    }

    #[test]
    fn only_what_may_pass_is_retried() {
        use Code::*;
        for code in [Unavailable, ResourceExhausted, Aborted, Internal, Unknown, Cancelled, DeadlineExceeded] {
            assert!(Backoff::new(1, 0).next(code, None).is_some(), "{code:?}");
        }
        for code in [
            InvalidArgument,
            NotFound,
            Unimplemented,
            PermissionDenied,
            FailedPrecondition,
            AlreadyExists,
            OutOfRange,
            DataLoss,
            Unauthenticated,
            Ok,
        ] {
            assert_eq!(Backoff::new(9, 0).next(code, None), None, "{code:?}");
        }
    }
}
