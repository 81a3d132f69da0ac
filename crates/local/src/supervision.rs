//! When to ask, when to kill and when to give up: the course of one run as a state machine.
//!
//! Pure: it gets the time and what happened, and says what to do. It does not know processes or signals.

use std::time::{Duration, Instant};

use minibuild_core::StopReason;

/// Between SIGTERM and SIGKILL.
const GRACE: Duration = Duration::from_secs(2);
/// While killing, survivors are looked for this often: orphans are handed over without a signal.
const RESCAN: Duration = Duration::from_millis(100);
/// How often what cannot be killed is named.
const NOTICE_EVERY: Duration = Duration::from_secs(10);
/// After this long killing is given up.
const GIVE_UP: Duration = Duration::from_secs(60);

/// What has to be done to the processes now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    Nothing,
    /// SIGTERM to all.
    Terminate,
    /// SIGKILL to all.
    Kill,
    /// SIGKILL to all, and name them.
    KillAndName,
    /// Report that they cannot be killed.
    GiveUp,
}

/// Why the command is being ended before it ended itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    TimedOut,
    Stopped(StopReason),
}

#[derive(Debug)]
enum Phase {
    Running,
    Grace { kill_at: Instant },
    Killing { since: Instant, rescan_at: Instant, notices: u32 },
}

/// The course of one run.
#[derive(Debug)]
pub(crate) struct Supervision {
    timeout_at: Option<Instant>,
    cause: Option<Cause>,
    phase: Phase,
}

impl Supervision {
    pub(crate) fn new(now: Instant, timeout: Option<Duration>) -> Self {
        Self { timeout_at: timeout.and_then(|t| now.checked_add(t)), cause: None, phase: Phase::Running }
    }

    /// Why the command was ended, if it was.
    pub(crate) fn cause(&self) -> Option<Cause> {
        self.cause
    }

    /// A stop was asked for. The command has not ended by itself before.
    pub(crate) fn stop(&mut self, reason: StopReason, now: Instant) -> Act {
        match self.cause {
            Some(Cause::Stopped(earlier)) if earlier >= reason => return Act::Nothing,
            _ => self.cause = Some(Cause::Stopped(reason)),
        }
        match (&self.phase, reason) {
            (Phase::Killing { .. }, _) | (Phase::Grace { .. }, StopReason::Interrupt) => Act::Nothing,
            (Phase::Running, StopReason::Interrupt) => self.terminate(now),
            (_, StopReason::LostRace | StopReason::Kill) => self.kill(now),
        }
    }

    /// The command has ended but something it started has not. What was asked politely keeps its grace.
    pub(crate) fn leftovers(&mut self, now: Instant) -> Act {
        match self.phase {
            Phase::Running => self.kill(now),
            Phase::Grace { .. } | Phase::Killing { .. } => Act::Nothing,
        }
    }

    /// The other side is gone: everything dies, and there is nobody to give up to.
    pub(crate) fn abandon(&mut self, now: Instant) -> Act {
        self.kill(now)
    }

    /// When to call [`Self::tick`] at the latest.
    pub(crate) fn next_tick(&self) -> Option<Instant> {
        match self.phase {
            Phase::Running => self.timeout_at,
            Phase::Grace { kill_at } => Some(kill_at),
            Phase::Killing { rescan_at, .. } => Some(rescan_at),
        }
    }

    /// Time has passed.
    pub(crate) fn tick(&mut self, now: Instant) -> Act {
        match &mut self.phase {
            Phase::Running if self.timeout_at.is_some_and(|at| at <= now) => {
                self.cause = Some(Cause::TimedOut);
                self.terminate(now)
            }
            Phase::Grace { kill_at } if *kill_at <= now => self.kill(now),
            Phase::Running | Phase::Grace { .. } => Act::Nothing,
            Phase::Killing { rescan_at, .. } if now < *rescan_at => Act::Nothing,
            Phase::Killing { since, rescan_at, notices } => {
                *rescan_at = now + RESCAN;
                let killing = now.saturating_duration_since(*since);
                if killing >= GIVE_UP {
                    Act::GiveUp
                } else if killing >= NOTICE_EVERY * (*notices + 1) {
                    *notices += 1;
                    Act::KillAndName
                } else {
                    Act::Kill
                }
            }
        }
    }

    fn terminate(&mut self, now: Instant) -> Act {
        self.phase = Phase::Grace { kill_at: now + GRACE };
        Act::Terminate
    }

    fn kill(&mut self, now: Instant) -> Act {
        self.phase = Phase::Killing { since: now, rescan_at: now + RESCAN, notices: 0 };
        Act::Kill
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use StopReason::{Interrupt, Kill, LostRace};

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_timeout_asks_waits_and_kills() {
        let start = Instant::now();
        let mut run = Supervision::new(start, Some(ms(500)));
        assert_eq!(run.next_tick(), Some(start + ms(500)));
        assert_eq!(run.tick(start + ms(499)), Act::Nothing);
        assert_eq!(run.tick(start + ms(500)), Act::Terminate);
        assert_eq!(run.leftovers(start + ms(600)), Act::Nothing, "grace goes on for the others");
        assert_eq!(run.tick(start + ms(2499)), Act::Nothing);
        assert_eq!(run.tick(start + ms(2500)), Act::Kill);
        assert_eq!(run.cause(), Some(Cause::TimedOut));
    }

    #[test]
    fn stops_only_escalate() {
        let check = |first, second, expected: (Act, Act, StopReason)| {
            let now = Instant::now();
            let mut run = Supervision::new(now, None);
            let acts = (run.stop(first, now), run.stop(second, now));
            assert_eq!((acts.0, acts.1, run.cause()), (expected.0, expected.1, Some(Cause::Stopped(expected.2))));
        };
        check(Interrupt, Interrupt, (Act::Terminate, Act::Nothing, Interrupt));
        check(Interrupt, LostRace, (Act::Terminate, Act::Kill, LostRace));
        check(Interrupt, Kill, (Act::Terminate, Act::Kill, Kill));
        check(LostRace, Interrupt, (Act::Kill, Act::Nothing, LostRace));
        check(LostRace, LostRace, (Act::Kill, Act::Nothing, LostRace));
        check(LostRace, Kill, (Act::Kill, Act::Nothing, Kill));
        check(Kill, Interrupt, (Act::Kill, Act::Nothing, Kill));
        check(Kill, LostRace, (Act::Kill, Act::Nothing, Kill));
        check(Kill, Kill, (Act::Kill, Act::Nothing, Kill));
    }

    #[test]
    fn a_stop_takes_over_from_a_timeout() {
        let now = Instant::now();
        let mut run = Supervision::new(now, Some(ms(0)));
        assert_eq!(run.tick(now), Act::Terminate);
        assert_eq!(run.stop(Interrupt, now), Act::Nothing);
        assert_eq!(run.stop(LostRace, now), Act::Kill);
        assert_eq!(run.cause(), Some(Cause::Stopped(LostRace)));
    }

    #[test]
    fn survivors_are_named_and_given_up() {
        let start = Instant::now();
        let mut run = Supervision::new(start, None);
        assert_eq!(run.leftovers(start), Act::Kill);
        let mut named = Vec::new();
        let mut now = start;
        let given_up = loop {
            now = run.next_tick().expect("killing always has a next look").max(now);
            match run.tick(now) {
                Act::KillAndName => named.push((now - start).as_secs()),
                Act::GiveUp => break now - start,
                act => assert_eq!(act, Act::Kill),
            }
        };
        assert_eq!((named, given_up.as_secs()), (vec![10, 20, 30, 40, 50], 60));
    }
}
