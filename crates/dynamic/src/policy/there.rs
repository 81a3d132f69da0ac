//! What is sent to the remote side, and what is expected of what is there.

use minibuild_core::{ActionId, Branch};

use super::Policy;
use super::here::as_ms;
use super::live::{Live, Local, Remote};
use super::micros::Us;
use super::port::{Mode, Reason, Step};
use super::predict::Guess;

/// Later than predicted by this factor, and this long, a remote run may hang.
const LATE: f64 = 1.3;
const LATE_MIN: Us = 5_000;
/// A second branch there is of use if it may end within this part of what the local run still needs.
const HELPS: f64 = 1.1;

impl Policy {
    /// Sends what waits, most urgent first, while there is room.
    pub(super) fn send_waiting(&mut self, now: Us) {
        while self.workers.in_flight < self.window() {
            let first = match (self.table.waiting.first(), self.table.only_there.first()) {
                _ if self.is_breaker_open => self.table.only_there.first(),
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            };
            let Some(&(_, action)) = first else { break };
            let Some(&live) = self.table.get(action) else { break };
            let reason = self.reason_to_send(&live);
            self.send(action, &live, reason, now);
        }
    }

    fn reason_to_send(&self, live: &Live) -> Reason {
        if live.local_failed {
            return Reason::LocalFailed;
        }
        if live.local == Local::Closed || live.local == Local::Parked {
            return Reason::OnlySide;
        }
        if self.config.mode == Mode::Race {
            return Reason::Race;
        }
        match (self.predict.local(live), self.predict.remote(live)) {
            (Some(local), Some(remote)) if remote < local => {
                Reason::RemoteSooner { local: as_ms(local), remote: as_ms(remote) }
            }
            _ => Reason::NoSlotHere,
        }
    }

    fn send(&mut self, action: ActionId, live: &Live, reason: Reason, now: Us) {
        let needs = self.wait_there(self.workers.in_flight) + self.predict.remote(live).unwrap_or(0.0);
        let end = now.saturating_add(needs as Us);
        self.workers.in_flight += 1;
        self.table.change(action, |live| live.remote = Remote::Sent { since: now, end });
        self.steps.push(Step::Start(action, Branch::Remote, reason));
    }

    fn window(&self) -> usize {
        match self.config.mode {
            Mode::Race => self.config.remote_jobs,
            Mode::Adaptive => {
                self.workers.window(self.config.remote_jobs, self.predict.overhead(), self.predict.mean_exec())
            }
        }
    }

    /// Predicted wait for a worker, with `ahead` runs before it.
    pub(super) fn wait_there(&self, ahead: usize) -> f64 {
        let Some(mean) = self.predict.mean_exec() else { return 0.0 };
        let jobs = self.config.remote_jobs.max(1) as f64;
        let for_a_place = ((ahead as f64 + 1.0 - jobs) / jobs).max(0.0) * (mean + self.predict.overhead());
        self.workers.wait(ahead, mean).max(for_a_place)
    }

    /// From the begin on a worker, as heard here, to the result.
    pub(super) fn rest_of_execution(&self, live: &Live) -> f64 {
        self.predict.exec(live).unwrap_or(0.0) + self.predict.download(live)
    }

    /// Learns from how long the oldest waits for a worker, as far as it may run here too.
    pub(super) fn observe_queue(&mut self, now: Us) {
        let Some(&(_, oldest)) = self.table.queued.first() else { return };
        let Some(Remote::Queued { since, .. }) = self.table.get(oldest).map(|live| live.remote) else { return };
        if let Some(rest) = self.workers.record_waiting(now.saturating_sub(since)) {
            self.wake_at(now.saturating_add(rest));
        }
    }

    /// What a run that is away still needs, as seen from here.
    pub(super) fn rest_there(&self, live: &Live, now: Us) -> Option<f64> {
        match live.remote {
            Remote::Sent { end, .. } | Remote::Executing { end, .. } => Some(end.saturating_sub(now) as f64),
            Remote::Queued { since, place, .. } => {
                // Its place among those that wait is guessed from its number: some of them were given up.
                let (first, _) = *self.table.queued.first()?;
                let (last, _) = *self.table.queued.last()?;
                let part = (place - first) as f64 / (last - first + 1) as f64;
                let ahead = self.workers.executing + (self.workers.queued as f64 * part) as usize;
                let waited = now.saturating_sub(since) as f64;
                Some(self.wait_there(ahead).max(waited / 2.0) + self.rest_of_execution(live))
            }
            _ => None,
        }
    }

    /// What is not back when it was predicted to be is expected later; what is late by far, later by far.
    pub(super) fn correct_flight(&mut self, now: Us) {
        while let Some(&(_, action)) = self.table.flight.first().filter(|(end, _)| *end <= now) {
            let Some(&live) = self.table.get(action) else { break };
            let (since, predicted) = match live.remote {
                Remote::Sent { since, .. } => (since, self.predict.remote(&live).unwrap_or(0.0)),
                Remote::Executing { since, .. } => (since, self.rest_of_execution(&live)),
                _ => break,
            };
            let limit = since.saturating_add((predicted * LATE) as Us).saturating_add(LATE_MIN);
            let later = if now < limit { limit } else { now.saturating_add((now - since).max(LATE_MIN)) };
            self.table.change(action, |live| match &mut live.remote {
                Remote::Sent { end, .. } | Remote::Executing { end, .. } => *end = later,
                _ => {}
            });
        }
    }

    /// Sends a second branch of what runs here: where it may end earlier, or the local run is late.
    pub(super) fn help_here(&mut self, now: Us) {
        for action in std::mem::take(&mut self.alone_now) {
            let Some(&live) = self.table.get(action) else { continue };
            let Local::Running(run) = live.local else { continue };
            if live.remote != Remote::Waiting || live.is_over || !self.has_room_there() {
                continue;
            }
            let ran = now.saturating_sub(run.since) as f64;
            let informed = self.predict.local_guess(&live).is_some_and(Guess::is_informed);
            if !informed {
                // Nothing is known of how long it takes on either side: both find out.
                self.send(action, &live, Reason::BothUnknown, now);
                continue;
            }
            let (Some(local), Some(remote)) = (self.predict.local(&live), self.predict.remote(&live)) else { continue };
            let rest = (local - ran).max(0.0);
            let risk = self.risk_of_losing(&live, rest, remote) / remote.min(rest).max(1.0) * (ran + remote.min(rest));
            let affordable = self.budget.affords(risk, self.config.critical_duplicates, self.work_ahead());
            if remote <= rest * HELPS && affordable {
                self.budget.charge(risk);
                self.table.change(action, |live| {
                    if let Local::Running(run) = &mut live.local {
                        run.risk += risk;
                    }
                });
                self.send(action, &live, Reason::RemoteHelps { local: as_ms(rest), remote: as_ms(remote) }, now);
            }
        }
        self.help_late(now);
    }

    fn help_late(&mut self, now: Us) {
        while let Some(&(_, action)) = self.table.alone.first().filter(|(late, _)| *late <= now) {
            let Some(&live) = self.table.get(action) else { break };
            let Local::Running(run) = live.local else { break };
            if self.is_breaker_open || !self.has_room_there() {
                break;
            }
            if live.remote == Remote::Fresh {
                self.ask(action, now);
                continue;
            }
            let since = as_ms(now.saturating_sub(run.since) as f64);
            self.send(action, &live, Reason::LocalLate { local: as_ms(run.predicted as f64), since }, now);
        }
    }

    /// Whether a second branch takes no worker from a first one.
    fn has_room_there(&self) -> bool {
        !self.is_breaker_open
            && self.table.waiting.is_empty()
            && self.table.only_there.is_empty()
            && self.workers.has_spare()
            && self.workers.in_flight < self.window()
    }
}
