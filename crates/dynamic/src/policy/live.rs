//! The actions that are under way, and the queues they stand in.
//!
//! One table of states; each queue is a view of it. [`Table::change`] is the only way to another state, so a queue can
//! never disagree with it.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use minibuild_core::ActionId;
use rustc_hash::FxHashMap;

use super::ActionHistory;
use super::micros::{Us, micros};
use super::port::{MnemonicId, Ready, Urgency};

/// Place in a queue by urgency, most urgent first, of equals the one loaded first.
pub(super) type Rank = (Reverse<Urgency>, ActionId);

/// What an action does here.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Local {
    /// Nothing, and it may start.
    Idle,
    /// It runs.
    Running(Run),
    /// Nothing, and it may not start now.
    Parked,
    /// It was tried, or never may.
    Closed,
}

/// A local run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Run {
    pub since: Us,
    /// Predicted time.
    pub predicted: Us,
    /// Predicted memory, bytes.
    pub memory: u64,
    /// Expected waste, charged to the budget while it runs.
    pub risk: f64,
}

/// What an action does remotely.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Remote {
    /// Nothing yet.
    Fresh,
    /// The cache is asked.
    Asking { since: Us },
    /// It may be sent.
    Waiting,
    /// It was sent; nothing was heard of it since.
    Sent { since: Us, end: Us },
    /// The server has no worker for it yet; `place` is its number among all that were sent.
    Queued { sent: Us, since: Us, place: u64 },
    /// A worker runs it.
    Executing { sent: Us, since: Us, end: Us },
    /// Nothing, and it may not start now.
    Parked,
    /// It was tried, or never may.
    Closed,
}

impl Remote {
    /// When it was sent, if it is not back.
    pub fn sent(&self) -> Option<Us> {
        match *self {
            Self::Sent { since, .. } => Some(since),
            Self::Queued { sent, .. } | Self::Executing { sent, .. } => Some(sent),
            _ => None,
        }
    }
}

/// An action that is not over on all sides.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Live {
    pub urgency: Urgency,
    pub mnemonic: MnemonicId,
    pub history: ActionHistory,
    pub fetch: Us,
    /// Its inputs are being brought here for a local start.
    pub is_fetching: bool,
    pub ready_since: Us,
    pub may_look_up: bool,
    /// Whether the remote side may run it, once it was looked up.
    pub there: bool,
    pub exclusive: bool,
    pub local: Local,
    pub remote: Remote,
    /// Its result is known, or not wanted: what still runs is only awaited.
    pub is_over: bool,
    /// A side failed: which is told as the reason of what follows.
    pub local_failed: bool,
    pub remote_failed: bool,
    /// In policy `race`: when a local start is due, if that is not at once.
    pub delayed_until: Option<Us>,
}

impl Live {
    pub fn new(ready: &Ready, now: Us) -> Self {
        Self {
            urgency: ready.urgency,
            mnemonic: ready.mnemonic,
            history: ready.history,
            fetch: micros(ready.fetch),
            is_fetching: false,
            ready_since: now,
            may_look_up: ready.may_look_up,
            there: ready.there,
            exclusive: ready.exclusive,
            local: if ready.here { Local::Idle } else { Local::Closed },
            remote: match (ready.there, ready.may_look_up) {
                (_, true) => Remote::Fresh,
                (true, false) => Remote::Waiting,
                (false, false) => Remote::Closed,
            },
            is_over: false,
            local_failed: false,
            remote_failed: false,
            delayed_until: None,
        }
    }

    /// What follows on the remote side when the cache was not asked, or had nothing.
    pub fn after_miss(&self) -> Remote {
        if self.there { Remote::Waiting } else { Remote::Closed }
    }

    fn is_gone(&self) -> bool {
        let is_here = matches!(self.local, Local::Running(_));
        let is_there = self.remote.sent().is_some() || matches!(self.remote, Remote::Asking { .. });
        self.is_over && !is_here && !is_there
    }
}

/// The queue of an action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Nowhere,
    Fresh(Rank),
    OnlyHere(Rank),
    Exclusive(Rank),
    Asking(Rank),
    Waiting(Rank),
    OnlyThere(Rank),
    Queued(u64),
    Flight(Us),
    Away(Rank),
    Alone(Us),
    Delayed(Us),
}

/// The table and its views.
#[derive(Debug, Default)]
pub(super) struct Table {
    races: bool,
    live: FxHashMap<ActionId, Live>,
    /// The cache may be asked, and nothing runs that an answer would be later than. Each decision looks at all of them.
    pub fresh: BTreeSet<Rank>,
    /// May start here, and there is nothing to weigh against it.
    pub only_here: BTreeSet<Rank>,
    /// May start here while nothing else runs here.
    pub exclusive: BTreeSet<Rank>,
    /// The cache is asked; may start here.
    pub asking: BTreeSet<Rank>,
    /// May start on either side.
    pub waiting: BTreeSet<Rank>,
    /// May be sent, and not start here.
    pub only_there: BTreeSet<Rank>,
    /// Wait for a worker, oldest first; may start here.
    pub queued: BTreeSet<(u64, ActionId)>,
    /// Under way there, by predicted end; may start here.
    pub flight: BTreeSet<(Us, ActionId)>,
    /// All of `queued` and `flight`, most urgent first.
    pub away: BTreeSet<Rank>,
    /// Run here, and the remote side may be tried; by the time at which that is late.
    pub alone: BTreeSet<(Us, ActionId)>,
    /// In policy `race`: may start here then.
    pub delayed: BTreeSet<(Us, ActionId)>,
    /// How many wait for inputs that are being brought here.
    pub fetching: usize,
}

impl Table {
    /// An empty one; with `races` all that may run here stands in `only_here`, whatever it does remotely.
    pub fn new(races: bool) -> Self {
        Self { races, ..Self::default() }
    }

    pub fn get(&self, action: ActionId) -> Option<&Live> {
        self.live.get(&action)
    }

    pub fn len(&self) -> usize {
        self.live.len()
    }

    /// Returns what stands in `fresh`, most urgent first: a decision takes each of them from there.
    pub(crate) fn all_fresh(&self) -> Vec<ActionId> {
        self.fresh.iter().map(|&(_, action)| action).collect()
    }

    /// Adds an action, or replaces what is known of one.
    pub fn insert(&mut self, action: ActionId, live: Live) {
        if let Some(old) = self.live.insert(action, live) {
            self.leave(action, &old);
        }
        self.enter(action, &live);
    }

    /// Changes an action's state; one that is over and runs nowhere is forgotten.
    pub fn change(&mut self, action: ActionId, change: impl FnOnce(&mut Live)) {
        let Some(old) = self.live.get(&action).copied() else { return };
        let mut new = old;
        change(&mut new);
        self.leave(action, &old);
        if new.is_gone() {
            self.live.remove(&action);
        } else {
            self.live.insert(action, new);
            self.enter(action, &new);
        }
    }

    fn enter(&mut self, action: ActionId, live: &Live) {
        self.fetching += usize::from(live.is_fetching && !live.is_over);
        for place in self.places(action, live) {
            match place {
                Place::Nowhere => false,
                Place::Fresh(rank) => self.fresh.insert(rank),
                Place::OnlyHere(rank) => self.only_here.insert(rank),
                Place::Exclusive(rank) => self.exclusive.insert(rank),
                Place::Asking(rank) => self.asking.insert(rank),
                Place::Waiting(rank) => self.waiting.insert(rank),
                Place::OnlyThere(rank) => self.only_there.insert(rank),
                Place::Queued(number) => self.queued.insert((number, action)),
                Place::Flight(time) => self.flight.insert((time, action)),
                Place::Away(rank) => self.away.insert(rank),
                Place::Alone(time) => self.alone.insert((time, action)),
                Place::Delayed(time) => self.delayed.insert((time, action)),
            };
        }
    }

    fn leave(&mut self, action: ActionId, live: &Live) {
        self.fetching -= usize::from(live.is_fetching && !live.is_over);
        for place in self.places(action, live) {
            match place {
                Place::Nowhere => false,
                Place::Fresh(rank) => self.fresh.remove(&rank),
                Place::OnlyHere(rank) => self.only_here.remove(&rank),
                Place::Exclusive(rank) => self.exclusive.remove(&rank),
                Place::Asking(rank) => self.asking.remove(&rank),
                Place::Waiting(rank) => self.waiting.remove(&rank),
                Place::OnlyThere(rank) => self.only_there.remove(&rank),
                Place::Queued(number) => self.queued.remove(&(number, action)),
                Place::Flight(time) => self.flight.remove(&(time, action)),
                Place::Away(rank) => self.away.remove(&rank),
                Place::Alone(time) => self.alone.remove(&(time, action)),
                Place::Delayed(time) => self.delayed.remove(&(time, action)),
            };
        }
    }

    /// Returns the queues from which the local and the remote side take an action in this state.
    ///
    /// A side that may start stands in a queue that is looked at for this side, whatever the other side does:
    /// `a_side_that_may_start_stands_in_a_queue` checks it for each pair of states.
    fn places(&self, action: ActionId, live: &Live) -> [Place; 2] {
        let rank = (Reverse(live.urgency), action);
        if live.is_over {
            return [Place::Nowhere; 2];
        }
        let runs_here = matches!(live.local, Local::Running(_));
        // A start here that was not asked for may come back: then the cache has still to be asked.
        if live.remote == Remote::Fresh && (self.races || !runs_here) {
            return [Place::Fresh(rank), Place::Nowhere];
        }
        let may_start = live.local == Local::Idle;
        let there = if live.remote == Remote::Waiting { Place::OnlyThere(rank) } else { Place::Nowhere };
        if may_start && live.exclusive {
            return [Place::Exclusive(rank), there];
        }
        if self.races {
            let here = match live.delayed_until {
                _ if !may_start => Place::Nowhere,
                Some(time) => Place::Delayed(time),
                None => Place::OnlyHere(rank),
            };
            return [here, there];
        }
        match live.local {
            Local::Idle => places_of_idle(live.remote, rank),
            Local::Parked | Local::Closed => [there, Place::Nowhere],
            Local::Running(run) if matches!(live.remote, Remote::Waiting | Remote::Fresh) => {
                let late = run.since.saturating_add(run.predicted.max(MIN_RUN) / 2 * 3);
                [Place::Alone(late), Place::Nowhere]
            }
            Local::Running(_) => [Place::Nowhere; 2],
        }
    }
}

/// Returns the queues of an action that may start here, by what it does remotely.
fn places_of_idle(remote: Remote, rank: Rank) -> [Place; 2] {
    match remote {
        Remote::Fresh => [Place::Fresh(rank), Place::Nowhere],
        Remote::Asking { .. } => [Place::Asking(rank), Place::Nowhere],
        Remote::Waiting => [Place::Waiting(rank), Place::Nowhere],
        Remote::Queued { place, .. } => [Place::Queued(place), Place::Away(rank)],
        Remote::Sent { end, .. } | Remote::Executing { end, .. } => [Place::Flight(end), Place::Away(rank)],
        Remote::Parked | Remote::Closed => [Place::OnlyHere(rank), Place::Nowhere],
    }
}

/// Runs are not called late before this.
const MIN_RUN: Us = 2_000;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn views(table: &Table) -> String {
        let counts = [
            ("fresh", table.fresh.len()),
            ("only_here", table.only_here.len()),
            ("exclusive", table.exclusive.len()),
            ("asking", table.asking.len()),
            ("waiting", table.waiting.len()),
            ("only_there", table.only_there.len()),
            ("queued", table.queued.len()),
            ("flight", table.flight.len()),
            ("away", table.away.len()),
            ("alone", table.alone.len()),
            ("delayed", table.delayed.len()),
        ];
        let named: Vec<&str> = counts.iter().filter(|(_, count)| *count > 0).map(|(name, _)| *name).collect();
        named.join(" ")
    }

    #[test]
    fn each_state_has_its_queues() {
        let run = Local::Running(Run { since: 0, predicted: 5, memory: 0, risk: 0.0 });
        let sent = Remote::Sent { since: 0, end: 9 };
        let queued = Remote::Queued { sent: 0, since: 0, place: 3 };
        let cases = [
            (false, Local::Idle, Remote::Fresh, "fresh"),
            (false, Local::Parked, Remote::Fresh, "fresh"),
            (false, Local::Idle, Remote::Asking { since: 0 }, "asking"),
            (false, Local::Idle, Remote::Waiting, "waiting"),
            (false, Local::Idle, sent, "flight away"),
            (false, Local::Idle, queued, "queued away"),
            (false, Local::Idle, Remote::Closed, "only_here"),
            (false, Local::Closed, Remote::Waiting, "only_there"),
            (false, Local::Closed, sent, ""),
            (false, run, Remote::Waiting, "alone"),
            (false, run, sent, ""),
            (true, Local::Idle, Remote::Waiting, "only_here only_there"),
            (true, Local::Idle, sent, "only_here"),
            (true, run, Remote::Waiting, "only_there"),
        ];
        for (races, local, remote, expected) in cases {
            let mut table = Table { races, ..Table::default() };
            let ready = Ready { here: true, there: true, may_look_up: true, ..Ready::default() };
            let action = ActionId::new(7);
            table.insert(action, Live::new(&ready, 0));
            table.change(action, |live| (live.local, live.remote) = (local, remote));
            assert_eq!(views(&table), expected, "{races} {local:?} {remote:?}");
            table.change(action, |live| live.is_over = true);
            assert_eq!(views(&table), "");
            table.change(action, |live| (live.local, live.remote) = (Local::Closed, Remote::Closed));
            assert_eq!(table.len(), 0);
        }
    }

    /// Queues that are looked at for each side.
    const FOR_HERE: [&str; 9] =
        ["fresh", "only_here", "exclusive", "asking", "waiting", "queued", "flight", "away", "delayed"];
    const FOR_THERE: [&str; 4] = ["fresh", "waiting", "only_there", "alone"];

    fn all_states() -> impl Iterator<Item = (Local, Remote)> {
        let run = Local::Running(Run { since: 0, predicted: 5, memory: 0, risk: 0.0 });
        let remotes = [
            Remote::Fresh,
            Remote::Asking { since: 0 },
            Remote::Waiting,
            Remote::Sent { since: 0, end: 9 },
            Remote::Queued { sent: 0, since: 0, place: 3 },
            Remote::Executing { sent: 0, since: 0, end: 9 },
            Remote::Parked,
            Remote::Closed,
        ];
        let locals = [Local::Idle, run, Local::Parked, Local::Closed];
        locals.into_iter().flat_map(move |local| remotes.into_iter().map(move |remote| (local, remote)))
    }

    #[test]
    fn a_side_that_may_start_stands_in_a_queue() {
        for bits in 0..16 {
            let [races, exclusive, there, is_delayed] = [1, 2, 4, 8].map(|bit| bits & bit != 0);
            for (local, remote) in all_states() {
                let mut table = Table::new(races);
                let ready = Ready { here: true, there, exclusive, may_look_up: true, ..Ready::default() };
                let live = Live { local, remote, delayed_until: is_delayed.then_some(7), ..Live::new(&ready, 0) };
                table.insert(ActionId::new(7), live);
                let views = views(&table);
                let stands = |queues: &[&str]| views.split(' ').any(|view| queues.contains(&view));
                let case = format!("races {races}, exclusive {exclusive}, {local:?}, {remote:?}: `{views}`");
                assert!(local != Local::Idle || stands(&FOR_HERE), "nothing starts it here: {case}");
                let may_start_there = matches!(remote, Remote::Fresh | Remote::Waiting);
                assert!(!may_start_there || stands(&FOR_THERE), "nothing starts it remotely: {case}");
            }
        }
    }

    #[test]
    fn the_most_urgent_stands_first() {
        let mut table = Table::default();
        let at = |failed_last, seconds| Urgency { failed_last, remaining: Duration::from_secs(seconds) };
        for (id, urgency) in [(0, at(false, 1)), (1, at(false, 9)), (2, at(true, 0)), (3, at(false, 9))] {
            let ready = Ready { here: true, urgency, ..Ready::default() };
            table.insert(ActionId::new(id), Live::new(&ready, 0));
        }
        let order: Vec<usize> = table.only_here.iter().map(|(_, action)| action.index()).collect();
        assert_eq!(order, [2, 1, 3, 0]);
    }
}
