//! Which action starts where, and when both sides try: predictions, budgets and their reasons.
//!
//! Pure: [`Policy::take`] is told what happened, [`Policy::decide`] answers what has to be done, both with the time since
//! the start of the build. It knows how urgent actions are, how long they took before and what the remote side tells of
//! its stages. It does not know the graph, what commands do, how a race is decided, nor how many workers there are.
//! `docs/design/policy.md` says why it decides as it does.

mod budget;
mod here;
mod history;
mod live;
mod micros;
mod port;
mod predict;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
mod there;
mod workers;

use std::time::Duration;

use minibuild_core::{ActionId, Branch};

use budget::Budget;
use live::{Live, Local, Remote, Table};
use micros::{Us, micros};
use predict::Predictor;
use workers::Workers;

pub use history::{ActionHistory, EndpointHistory, History, MnemonicHistory, Running};
pub use port::{Config, Ended, Event, MnemonicId, Mode, Ready, Reason, RemoteTimes, Step, Urgency};

/// Decides for the actions of one build where and when they run.
///
/// 1. A branch of an action is started at most once, unless it was [`Ended::Returned`] and offered again.
/// 2. No more than [`Config::jobs`] local and [`Config::remote_jobs`] remote runs are under way.
/// 3. An action that is ready is started on some side as soon as one that may run it has nothing better to do; nothing
///    waits for an answer that may never come.
#[derive(Debug)]
pub struct Policy {
    config: Config,
    table: Table,
    predict: Predictor,
    workers: Workers,
    budget: Budget,
    /// Begun to run here without a remote side; maybe one helps.
    alone_now: Vec<ActionId>,
    running_here: usize,
    memory_here: u64,
    is_exclusive_running: bool,
    is_breaker_open: bool,
    has_hit: bool,
    /// When the cache was asked first.
    first_asked: Option<Us>,
    /// When it first answered: it was connected to by then.
    first_answered: Option<Us>,
    /// How many were sent, ever.
    sent: u64,
    /// When to look again, as last told.
    wake: Option<Us>,
    steps: Vec<Step>,
}

impl Policy {
    /// A policy for one build. `mnemonics` are the names that [`MnemonicId`]s stand for.
    pub fn new(config: Config, history: History, mnemonics: Vec<String>) -> Self {
        let config = Config { jobs: config.jobs.max(1), remote_jobs: config.remote_jobs.max(1), ..config };
        Self {
            table: Table::new(config.mode == Mode::Race),
            workers: Workers::new(history.endpoint.workers),
            predict: Predictor::new(history, mnemonics),
            budget: Budget::default(),
            alone_now: Vec::new(),
            running_here: 0,
            memory_here: 0,
            is_exclusive_running: false,
            is_breaker_open: false,
            has_hit: false,
            first_asked: None,
            first_answered: None,
            sent: 0,
            wake: None,
            steps: Vec::new(),
            config,
        }
    }

    /// What later builds should know.
    pub fn history(&self) -> History {
        let mut history = self.predict.history();
        history.endpoint.workers = self.workers.known();
        history
    }

    /// How soon the cache answers, if it answered in this build: for builds elsewhere, too.
    pub fn learnt_answer(&self) -> Option<Running> {
        self.predict.learnt_answer()
    }

    /// Time here that was wasted by runs that lost.
    pub fn wasted_here(&self) -> Duration {
        Duration::from_micros(self.budget.wasted() as u64)
    }

    /// Takes notice of what happened at `now`.
    pub fn take(&mut self, event: Event, now: Duration) {
        let now = micros(now);
        match event {
            Event::Ready(action, ready) => self.take_ready(action, &ready, now),
            Event::LookedUp { action, hit, took } => self.take_answer(action, Some(hit), took.map(micros), now),
            Event::Answered { hit, took } => self.predict.record_answer_time(micros(took), hit),
            Event::LookUpFailed(action) => self.take_answer(action, None, None, now),
            Event::LocalEnded { action, how, wall, max_rss } => self.take_local(action, how, micros(wall), max_rss),
            Event::RemoteQueued(action) => self.take_queued(action, now),
            Event::RemoteExecuting(action) => self.take_executing(action, now),
            Event::RemoteEnded { action, how, times } => self.take_remote(action, how, times, now),
            Event::Offered(action, branch) => self.take_offer(action, branch),
            Event::Withdrawn(action) => self.table.change(action, |live| live.is_over = true),
            Event::Breaker(is_open) => self.is_breaker_open = is_open,
        }
    }

    /// What has to be done now. To be called when all that happened up to `now` was taken, and when a [`Step::WakeAt`]
    /// is due.
    #[must_use]
    pub fn decide(&mut self, now: Duration) -> Vec<Step> {
        let now = micros(now);
        if self.wake.is_some_and(|wake| wake <= now) {
            self.wake = None;
        }
        match self.config.mode {
            Mode::Race => self.decide_race(now),
            Mode::Adaptive => self.decide_adaptive(now),
        }
        std::mem::take(&mut self.steps)
    }

    fn decide_adaptive(&mut self, now: Us) {
        self.observe_queue(now);
        self.correct_flight(now);
        self.look_at_fresh(now);
        self.start_distinct_here(now);
        self.send_waiting(now);
        self.start_second_here(now);
        self.help_here(now);
        self.set_wake(now);
    }

    fn decide_race(&mut self, now: Us) {
        while let Some(&(due, action)) = self.table.delayed.first().filter(|(due, _)| *due <= now) {
            debug_assert!(due <= now);
            self.table.change(action, |live| live.delayed_until = None);
        }
        for action in self.table.all_fresh() {
            self.ask(action, now);
        }
        self.start_raced_here(now);
        self.send_waiting(now);
        if let Some(&(due, _)) = self.table.delayed.first() {
            self.wake_at(due);
        }
    }

    fn take_ready(&mut self, action: ActionId, ready: &Ready, now: Us) {
        match self.table.get(action).copied() {
            Some(live) if live.remote.sent().is_some() => return,
            Some(live) if matches!(live.local, Local::Running(_)) => return self.revive(action, &live, ready),
            _ => {}
        }
        let mut live = Live::new(ready, now);
        if self.config.mode == Mode::Race && self.has_hit && ready.there && ready.here {
            live.delayed_until = Some(now.saturating_add(micros(self.config.race_delay)));
        }
        self.table.insert(action, live);
    }

    /// What runs here goes on, and the remote side may be tried again.
    fn revive(&mut self, action: ActionId, live: &Live, ready: &Ready) {
        let may_help = ready.there && !matches!(live.remote, Remote::Asking { .. });
        self.table.change(action, |live| {
            live.is_over = false;
            live.there = ready.there;
            if may_help {
                live.remote = Remote::Waiting;
            }
        });
        if may_help {
            self.alone_now.push(action);
        }
    }

    /// Whether a start of the action, or an answer about it, is still to be expected of this policy.
    pub fn may_start(&self, action: ActionId) -> bool {
        self.may_start_on(action, Branch::Local) || self.may_start_on(action, Branch::Remote)
    }

    /// The same of one side; the cache's answer counts as the remote one's.
    pub fn may_start_on(&self, action: ActionId, branch: Branch) -> bool {
        self.table.get(action).is_some_and(|live| {
            let may_start = match branch {
                Branch::Local => live.local == Local::Idle,
                Branch::Remote => matches!(live.remote, Remote::Fresh | Remote::Asking { .. } | Remote::Waiting),
            };
            !live.is_over && may_start
        })
    }

    /// Whether a start on this side came back and has to be offered before it is tried again.
    pub fn is_parked(&self, action: ActionId, branch: Branch) -> bool {
        self.table.get(action).is_some_and(|live| {
            let is_parked = match branch {
                Branch::Local => live.local == Local::Parked,
                Branch::Remote => live.remote == Remote::Parked,
            };
            !live.is_over && is_parked
        })
    }

    /// How many runs it counts as under way here and remotely.
    pub fn under_way(&self) -> (usize, usize) {
        (self.running_here, self.workers.in_flight)
    }

    fn take_answer(&mut self, action: ActionId, answer: Option<bool>, took: Option<Us>, now: Us) {
        let Some(&live) = self.table.get(action) else { return };
        let Remote::Asking { since } = live.remote else { return };
        if let Some(hit) = answer {
            self.first_answered.get_or_insert(now);
            self.predict.record_answer(live.mnemonic, took.unwrap_or(now.saturating_sub(since)), hit);
            self.has_hit |= hit;
        }
        if answer != Some(true) && matches!(live.local, Local::Running(_)) && live.there && !live.is_over {
            self.alone_now.push(action);
        }
        self.table.change(action, |live| {
            live.is_over |= answer == Some(true);
            live.remote = if live.is_over { Remote::Closed } else { live.after_miss() };
        });
    }

    fn take_local(&mut self, action: ActionId, how: Ended, wall: Us, max_rss: u64) {
        let Some(&live) = self.table.get(action) else { return };
        let Local::Running(run) = live.local else { return };
        self.running_here = self.running_here.saturating_sub(1);
        self.memory_here = self.memory_here.saturating_sub(run.memory);
        self.is_exclusive_running &= !live.exclusive;
        self.budget.release(run.risk);
        match how {
            Ended::Won => {
                self.predict.record_local(&live, wall.saturating_sub(live.fetch), max_rss);
                self.budget.record_done(Some(wall as f64));
            }
            Ended::Lost => {
                self.predict.record_cut(&live, wall);
                self.budget.record_waste(wall as f64);
            }
            Ended::Failed | Ended::Returned => {}
        }
        self.table.change(action, |live| {
            live.is_over |= matches!(how, Ended::Won | Ended::Lost);
            live.local_failed |= how == Ended::Failed;
            live.local = if how == Ended::Returned { Local::Parked } else { Local::Closed };
            live.is_fetching = how == Ended::Returned && live.fetch > 0;
            // Nothing is left to weigh: what was not tried is tried now.
            if live.remote == Remote::Fresh && how == Ended::Failed {
                live.remote = live.after_miss();
            }
        });
    }

    fn take_queued(&mut self, action: ActionId, now: Us) {
        let Some(&Live { remote: Remote::Sent { since: sent, .. }, .. }) = self.table.get(action) else { return };
        self.workers.queued += 1;
        let place = self.sent;
        self.sent += 1;
        self.table.change(action, |live| live.remote = Remote::Queued { sent, since: now, place });
    }

    fn take_executing(&mut self, action: ActionId, now: Us) {
        let Some(&live) = self.table.get(action) else { return };
        let sent = match live.remote {
            Remote::Sent { since, .. } => since,
            Remote::Queued { sent, .. } => {
                self.workers.queued = self.workers.queued.saturating_sub(1);
                sent
            }
            _ => return,
        };
        self.workers.record_executing();
        let end = now.saturating_add(self.rest_of_execution(&live) as Us);
        self.table.change(action, |live| live.remote = Remote::Executing { sent, since: now, end });
    }

    fn take_remote(&mut self, action: ActionId, how: Ended, times: RemoteTimes, now: Us) {
        let Some(&live) = self.table.get(action) else { return };
        let Some(sent) = live.remote.sent() else { return };
        match live.remote {
            Remote::Queued { .. } => self.workers.queued = self.workers.queued.saturating_sub(1),
            Remote::Executing { .. } => self.workers.executing = self.workers.executing.saturating_sub(1),
            _ => {}
        }
        self.workers.in_flight = self.workers.in_flight.saturating_sub(1);
        self.workers.record_ended();
        if how == Ended::Won {
            self.predict.record_remote(&live, now.saturating_sub(sent), times);
            self.budget.record_done(self.predict.local(&live));
        }
        self.table.change(action, |live| {
            live.is_over |= matches!(how, Ended::Won | Ended::Lost);
            live.remote_failed |= how == Ended::Failed;
            // Nothing is left to give a head start to.
            live.delayed_until = None;
            live.remote = if how == Ended::Returned { Remote::Parked } else { Remote::Closed };
        });
    }

    fn take_offer(&mut self, action: ActionId, branch: Branch) {
        self.table.change(action, |live| match branch {
            Branch::Local if live.local == Local::Parked => {
                live.local = Local::Idle;
                // What had to be brought was.
                live.fetch = if live.is_fetching { 0 } else { live.fetch };
                live.is_fetching = false;
            }
            Branch::Remote if live.remote == Remote::Parked => live.remote = live.after_miss(),
            _ => {}
        });
    }

    /// Asks for another decision at `time`, if none is due before.
    fn wake_at(&mut self, time: Us) {
        if self.wake.is_none_or(|wake| time < wake) {
            self.wake = Some(time);
            self.steps.push(Step::WakeAt(Duration::from_micros(time)));
        }
    }
}
