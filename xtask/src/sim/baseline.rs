//! The strategies the policy is compared with.
//!
//! They are told the same events and are as simple as the real ones: local only, remote only, and Buck2's hybrid, which
//! sends everything and lets this machine join in only while no more actions are under way than it has slots. (Bazel's
//! race is the policy's own mode `race`.)

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::time::Duration;

use minibuild_core::{ActionId, Branch};
use minibuild_dynamic::policy::{Ended, Event, Ready, Reason, Step, Urgency};
use rustc_hash::FxHashMap;

use super::world::Scheduler;

/// Which of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Everything here that may run here, without a cache.
    Local,
    /// Everything asked of the cache and else sent, if it may.
    Remote,
    /// As remote, and here too while at most this many actions are under way.
    HoldBack(usize),
}

type Rank = (Reverse<Urgency>, ActionId);

/// A simple strategy.
pub struct Baseline {
    kind: Kind,
    jobs: usize,
    remote_jobs: usize,
    live: FxHashMap<ActionId, Ready>,
    here: BTreeSet<Rank>,
    there: BTreeSet<Rank>,
    /// Failed in an outage; sent again after it.
    failed: Vec<ActionId>,
    running: usize,
    sent: usize,
    steps: Vec<Step>,
}

impl Baseline {
    /// One that has begun nothing.
    pub fn new(kind: Kind, jobs: usize, remote_jobs: usize) -> Self {
        Self {
            kind,
            jobs,
            remote_jobs,
            live: FxHashMap::default(),
            here: BTreeSet::new(),
            there: BTreeSet::new(),
            failed: Vec::new(),
            running: 0,
            sent: 0,
            steps: Vec::new(),
        }
    }

    fn take_ready(&mut self, action: ActionId, ready: Ready) {
        let rank = (Reverse(ready.urgency), action);
        let uses_here = match self.kind {
            Kind::Local => ready.here,
            Kind::Remote => ready.here && !ready.there,
            Kind::HoldBack(_) => ready.here,
        };
        if uses_here {
            self.here.insert(rank);
        }
        if self.kind != Kind::Local || !ready.here {
            self.steps.push(Step::LookUp(action));
        }
        self.live.insert(action, ready);
    }

    fn rank(&self, action: ActionId) -> Option<Rank> {
        self.live.get(&action).map(|ready| (Reverse(ready.urgency), action))
    }

    fn end(&mut self, action: ActionId) {
        if let Some(rank) = self.rank(action) {
            self.here.remove(&rank);
            self.there.remove(&rank);
            self.live.remove(&action);
        }
    }

    fn retry(&mut self) {
        for action in std::mem::take(&mut self.failed) {
            self.there.extend(self.rank(action));
        }
    }
}

impl Scheduler for Baseline {
    fn take(&mut self, event: Event, _now: Duration) {
        match event {
            Event::Ready(action, ready) => self.take_ready(action, ready),
            Event::LookedUp { action, hit: true, .. } => self.end(action),
            Event::LookedUp { action, hit: false, .. } | Event::LookUpFailed(action)
                if self.live.get(&action).is_some_and(|ready| ready.there) =>
            {
                self.there.extend(self.rank(action));
            }
            Event::LocalEnded { action, how, .. } => {
                self.running -= 1;
                if how == Ended::Won {
                    self.end(action);
                }
            }
            Event::RemoteEnded { action, how, .. } => {
                self.sent -= 1;
                match how {
                    Ended::Won => self.end(action),
                    Ended::Lost => {}
                    Ended::Failed | Ended::Returned => self.failed.push(action),
                }
            }
            Event::Breaker(false) => self.retry(),
            _ => {}
        }
    }

    fn decide(&mut self, _now: Duration) -> Vec<Step> {
        let may_join = match self.kind {
            Kind::HoldBack(limit) => self.live.len() <= limit,
            Kind::Local | Kind::Remote => true,
        };
        while self.running < self.jobs
            && may_join
            && let Some((_, action)) = self.here.pop_first()
        {
            self.running += 1;
            self.steps.push(Step::Start(action, Branch::Local, Reason::OnlySide));
        }
        while self.sent < self.remote_jobs
            && let Some((_, action)) = self.there.pop_first()
        {
            self.sent += 1;
            self.steps.push(Step::Start(action, Branch::Remote, Reason::OnlySide));
        }
        std::mem::take(&mut self.steps)
    }
}
