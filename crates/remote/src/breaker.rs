//! When a server is given up for a while, and when it is asked again.
//!
//! Pure: time is a number the caller gives. It does not know what the calls are for.

use std::collections::VecDeque;
use std::time::Duration;

/// How far back outcomes count at least.
const WINDOW: Duration = Duration::from_secs(30);
/// Fewer failures than this open nothing, once the server has answered.
const LEAST_FAILURES: usize = 8;
/// Failures to successes above which it opens: more than half.
const RATIO: (usize, usize) = (1, 2);
/// The first pause before a probe.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest one.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// Outcomes that are remembered.
const MOST: usize = 256;

/// Whether a server serves.
#[derive(Clone, Debug)]
pub(crate) struct Breaker {
    state: State,
    outcomes: VecDeque<(Duration, bool)>,
    has_answered: bool,
    pause: Duration,
    window: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Closed,
    /// Until then nobody asks.
    Open(Duration),
    /// One asks; were it never to say how that ended, another one may from then on.
    Probing(Duration),
}

/// What a caller may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Allowed {
    /// Ask.
    Yes,
    /// Ask, once: on this answer everything depends.
    Probe,
    /// Fail at once.
    No,
}

/// What an outcome changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// It is given up for now.
    Opened,
    /// It serves again.
    Closed,
}

impl Breaker {
    /// A server of which nothing is known. `timeout` is the longest a failing attempt takes: outcomes count so long
    /// that a few of those fit in.
    pub(crate) fn new(timeout: Duration) -> Self {
        let window = WINDOW + timeout * 3;
        Self { state: State::Closed, outcomes: VecDeque::new(), has_answered: false, pause: FIRST_PAUSE, window }
    }

    /// Whether to ask at `now`. Whoever is told [`Allowed::Probe`] records the outcome.
    pub(crate) fn allows(&mut self, now: Duration) -> Allowed {
        match self.state {
            State::Closed => Allowed::Yes,
            State::Open(until) | State::Probing(until) if now < until => Allowed::No,
            State::Open(_) | State::Probing(_) => {
                self.state = State::Probing(now + LONGEST_PAUSE);
                Allowed::Probe
            }
        }
    }

    /// Takes note of one attempt's outcome: whether the server served, whatever its answer.
    pub(crate) fn record(&mut self, ok: bool, now: Duration) -> Option<Change> {
        self.has_answered |= ok;
        match self.state {
            State::Closed => {
                self.remember(ok, now);
                self.is_bad().then(|| self.open(now))
            }
            // Whatever is still under way from before proves as much as a probe does.
            State::Open(_) | State::Probing(_) if ok => {
                (self.state, self.pause) = (State::Closed, FIRST_PAUSE);
                Some(Change::Closed)
            }
            State::Probing(_) => {
                self.pause = (self.pause * 2).min(LONGEST_PAUSE);
                self.state = State::Open(now + self.pause);
                None
            }
            State::Open(_) => None,
        }
    }

    /// All retries of a call failed. A server that never answered is given up at once.
    pub(crate) fn gave_up(&mut self, now: Duration) -> Option<Change> {
        (self.state == State::Closed && !self.has_answered).then(|| self.open(now))
    }

    /// Whether it ever served.
    pub(crate) fn has_answered(&self) -> bool {
        self.has_answered
    }

    /// Whether calls fail fast now.
    pub(crate) fn is_open(&self) -> bool {
        self.state != State::Closed
    }

    fn remember(&mut self, ok: bool, now: Duration) {
        while self.outcomes.len() >= MOST
            || self.outcomes.front().is_some_and(|(at, _)| now.saturating_sub(*at) > self.window)
        {
            self.outcomes.pop_front();
        }
        self.outcomes.push_back((now, ok));
    }

    fn is_bad(&self) -> bool {
        let failures = self.outcomes.iter().filter(|(_, ok)| !ok).count();
        failures >= LEAST_FAILURES && failures * RATIO.1 > self.outcomes.len() * RATIO.0
    }

    fn open(&mut self, now: Duration) -> Change {
        self.state = State::Open(now + self.pause);
        self.outcomes.clear();
        Change::Opened
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn breaker() -> Breaker {
        Breaker::new(Duration::from_secs(1))
    }

    fn answered() -> Breaker {
        let mut breaker = breaker();
        assert_eq!(breaker.record(true, at(0)), None);
        breaker
    }

    #[test]
    fn some_failures_among_successes_change_nothing() {
        let mut breaker = answered();
        for n in 0..1000 {
            assert_eq!(breaker.record(n % 2 == 0, at(n)), None, "{n}");
            assert_eq!(breaker.gave_up(at(n)), None);
            assert_eq!(breaker.allows(at(n)), Allowed::Yes);
        }
    }

    #[test]
    fn mostly_failures_open_it() {
        let mut breaker = answered();
        let failures = (0..).map(|n| breaker.record(false, at(n))).position(|change| change == Some(Change::Opened));
        assert_eq!(failures, Some(LEAST_FAILURES - 1));
        assert!(breaker.is_open());
        assert_eq!(breaker.record(false, at(20)), None, "told once");
        assert_eq!(breaker.gave_up(at(20)), None);
    }

    #[test]
    fn old_failures_do_not_count() {
        let mut breaker = answered();
        for n in 0..100 {
            assert_eq!(breaker.record(false, at(n * 5_000)), None, "{n}");
        }
    }

    #[test]
    fn a_server_that_never_answered_is_given_up_after_the_first_call() {
        let mut breaker = breaker();
        assert_eq!(breaker.record(false, at(0)), None);
        assert_eq!(breaker.gave_up(at(1)), Some(Change::Opened));
        assert_eq!(breaker.allows(at(2)), Allowed::No);
        assert!(!breaker.has_answered());
    }

    #[test]
    fn one_probes_with_growing_pauses_until_it_closes() {
        let mut breaker = breaker();
        assert_eq!(breaker.gave_up(at(0)), Some(Change::Opened));
        let mut now = 0;
        for pause in [1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000] {
            assert_eq!(breaker.allows(at(now + pause - 1)), Allowed::No, "{pause}");
            now += pause;
            assert_eq!(breaker.allows(at(now)), Allowed::Probe, "{pause}");
            assert_eq!(breaker.allows(at(now)), Allowed::No, "one at a time");
            assert_eq!(breaker.record(false, at(now)), None);
        }
        assert_eq!(breaker.allows(at(now + 30_000)), Allowed::Probe);
        assert_eq!(breaker.record(true, at(now + 30_001)), Some(Change::Closed));
        assert_eq!(breaker.allows(at(now + 30_001)), Allowed::Yes);
        for n in 0..LEAST_FAILURES as u64 {
            let _ = breaker.record(false, at(now + 30_002 + n));
        }
        assert_eq!(breaker.allows(at(now + 31_500)), Allowed::Probe, "the pause is short again");
    }

    #[test]
    fn a_probe_that_never_ends_is_followed_by_another() {
        let mut breaker = breaker();
        let _ = breaker.gave_up(at(0));
        assert_eq!(breaker.allows(at(1_000)), Allowed::Probe);
        assert_eq!(breaker.allows(at(30_999)), Allowed::No);
        assert_eq!(breaker.allows(at(31_000)), Allowed::Probe);
    }

    #[test]
    fn what_was_under_way_closes_it_too() {
        let mut breaker = breaker();
        let _ = breaker.gave_up(at(0));
        assert_eq!(breaker.record(true, at(1)), Some(Change::Closed));
    }
}
