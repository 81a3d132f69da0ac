//! When a server is given up for a while, and when it is asked again.
//!
//! Pure: time is a number the caller gives. It does not know what the calls are for.

use std::time::Duration;

/// How far back outcomes count.
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
    outcomes: std::collections::VecDeque<(Duration, bool)>,
    has_answered: bool,
    pause: Duration,
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

impl Default for Breaker {
    fn default() -> Self {
        Self { state: State::Closed, outcomes: Default::default(), has_answered: false, pause: FIRST_PAUSE }
    }
}

impl Breaker {
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
                *self = Self { has_answered: true, ..Self::default() };
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
            || self.outcomes.front().is_some_and(|(at, _)| now.saturating_sub(*at) > WINDOW)
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
