//! Starts that are wanted and did not happen yet, each in the queue of what is in its way.
//!
//! A queue is looked at again only when its cause may have ended, and then from its most urgent end: thousands of actions
//! that wait for one place in a pool cost nothing while it is taken. Does not know what actions are or take.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use minibuild_core::{ActionId, ArtifactId, Branch};
use minibuild_dynamic::policy::Urgency;
use rustc_hash::FxHashMap;

/// Place among starts: most urgent first, of equals the action loaded first.
pub(super) type Rank = (Reverse<Urgency>, ActionId, Branch);

/// What is in the way of a start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// Nothing, as far as is known: it has to be looked at.
    Unknown,
    /// This action reads what it makes, or is it itself, and what it made is being fetched.
    InUse(ActionId),
    /// The pool of this name is full.
    Pool(Box<str>),
    /// It is exclusive, and others run.
    Exclusive,
    /// Processors or memory are taken, and nothing less urgent starts before it does.
    Room,
    /// Something more urgent is held for [`Cause::Room`].
    Behind,
    /// These inputs are not where it needs them. The last is looked at first.
    Inputs(Vec<ArtifactId>),
}

/// Starts that are held, and the queues they stand in.
#[derive(Debug, Default)]
pub(super) struct HeldStarts {
    causes: FxHashMap<(ActionId, Branch), (Rank, Cause)>,
    unknown: BTreeSet<Rank>,
    /// Without empty queues.
    pools: BTreeMap<Box<str>, BTreeSet<Rank>>,
    exclusive: BTreeSet<Rank>,
    room: BTreeSet<Rank>,
    behind: BTreeSet<Rank>,
    inputs: BTreeSet<Rank>,
}

impl HeldStarts {
    /// Holds a start, or changes why it is held.
    pub(super) fn hold(&mut self, rank: Rank, cause: Cause) {
        let (_, action, branch) = rank;
        self.remove(action, branch);
        match &cause {
            Cause::Pool(pool) => match self.pools.get_mut(pool) {
                Some(queue) => drop(queue.insert(rank)),
                None => drop(self.pools.insert(pool.clone(), BTreeSet::from([rank]))),
            },
            other => drop(self.queue(other).map(|queue| queue.insert(rank))),
        }
        self.causes.insert((action, branch), (rank, cause));
    }

    /// Forgets a start.
    pub(super) fn remove(&mut self, action: ActionId, branch: Branch) {
        let Some((rank, cause)) = self.causes.remove(&(action, branch)) else { return };
        match cause {
            Cause::Pool(pool) => {
                let Some(queue) = self.pools.get_mut(&pool) else { return };
                queue.remove(&rank);
                if queue.is_empty() {
                    self.pools.remove(&pool);
                }
            }
            other => drop(self.queue(&other).map(|queue| queue.remove(&rank))),
        }
    }

    /// Forgets all starts of an action.
    pub(super) fn remove_all(&mut self, action: ActionId) {
        self.remove(action, Branch::Local);
        self.remove(action, Branch::Remote);
    }

    /// The queue of a cause. Pools have one each; the end of a use is told by the use.
    fn queue(&mut self, cause: &Cause) -> Option<&mut BTreeSet<Rank>> {
        Some(match cause {
            Cause::Unknown => &mut self.unknown,
            Cause::Exclusive => &mut self.exclusive,
            Cause::Room => &mut self.room,
            Cause::Behind => &mut self.behind,
            Cause::Inputs(_) => &mut self.inputs,
            Cause::InUse(_) | Cause::Pool(_) => return None,
        })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.causes.is_empty()
    }

    pub(super) fn has(&self, action: ActionId, branch: Branch) -> bool {
        self.causes.contains_key(&(action, branch))
    }

    /// Whether nothing may start here before something more urgent does.
    pub(super) fn is_blocked(&self, rank: Rank) -> bool {
        self.room.first().is_some_and(|first| *first < rank)
    }

    /// Returns the most urgent start whose cause may have ended.
    ///
    /// `is_free` says whether a pool has a place. After a start that blocks others, only those of which nothing is known are
    /// left: they may be remote ones.
    pub(super) fn first(&self, is_blocked: bool, nothing_runs: bool, is_free: impl Fn(&str) -> bool) -> Option<Rank> {
        let unknown = self.unknown.first();
        if is_blocked {
            return unknown.copied();
        }
        let exclusive = self.exclusive.first().filter(|_| nothing_runs);
        let pools = self.pools.iter().filter(|(pool, _)| is_free(pool)).filter_map(|(_, queue)| queue.first());
        let firsts = [unknown, exclusive, self.room.first(), self.behind.first()];
        firsts.into_iter().flatten().chain(pools).min().copied()
    }

    /// Starts that wait for inputs are looked at if none of these is missing any more.
    pub(super) fn look_at_inputs(&mut self, is_missing: impl Fn(ArtifactId, Branch) -> bool) {
        let mut free = Vec::new();
        for &rank in &self.inputs {
            let (_, action, branch) = rank;
            let Some((_, Cause::Inputs(inputs))) = self.causes.get_mut(&(action, branch)) else { continue };
            // Each is looked at until it has come, and once then.
            while inputs.pop_if(|last| !is_missing(*last, branch)).is_some() {}
            free.extend(inputs.is_empty().then_some(rank));
        }
        for rank in free {
            self.hold(rank, Cause::Unknown);
        }
    }

    /// `user` no longer uses the action's outputs: the start is looked at, unless it is held for something else by now.
    pub(super) fn end_use(&mut self, action: ActionId, branch: Branch, user: ActionId) {
        if let Some(&(rank, Cause::InUse(current))) = self.causes.get(&(action, branch))
            && current == user
        {
            self.hold(rank, Cause::Unknown);
        }
    }

    /// Everything that is held, for checks.
    #[cfg(test)]
    pub(super) fn all(&self) -> impl Iterator<Item = &(Rank, Cause)> {
        self.causes.values()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn rank(number: usize, seconds: u64) -> Rank {
        let urgency = Urgency { failed_last: false, remaining: Duration::from_secs(seconds) };
        (Reverse(urgency), ActionId::new(number), Branch::Local)
    }

    fn first(held: &HeldStarts) -> Option<usize> {
        held.first(false, false, |_| false).map(|(_, action, _)| action.index())
    }

    #[test]
    fn a_queue_whose_cause_lasts_is_not_looked_at() {
        let mut held = HeldStarts::default();
        held.hold(rank(1, 9), Cause::Pool("p".into()));
        held.hold(rank(2, 8), Cause::Exclusive);
        held.hold(rank(3, 7), Cause::InUse(ActionId::new(9)));
        held.hold(rank(4, 6), Cause::Inputs(vec![ArtifactId::new(1), ArtifactId::new(2)]));
        assert_eq!(first(&held), None);
        assert_eq!(held.first(false, false, |pool| pool == "p"), Some(rank(1, 9)));
        assert_eq!(held.first(false, true, |_| false), Some(rank(2, 8)));
        held.end_use(ActionId::new(3), Branch::Local, ActionId::new(9));
        assert_eq!(first(&held), Some(3));
    }

    #[test]
    fn the_most_urgent_of_all_queues_comes_first_and_of_equals_the_one_loaded_first() {
        let mut held = HeldStarts::default();
        held.hold(rank(1, 1), Cause::Unknown);
        held.hold(rank(2, 5), Cause::Room);
        held.hold(rank(3, 3), Cause::Behind);
        assert_eq!(first(&held), Some(2));
        assert!(held.is_blocked(rank(3, 3)) && !held.is_blocked(rank(4, 6)));
        assert_eq!(held.first(true, true, |_| true), Some(rank(1, 1)));
        held.remove_all(ActionId::new(2));
        assert_eq!(first(&held), Some(3));
        held.hold(rank(0, 3), Cause::Unknown);
        assert_eq!(first(&held), Some(0));
        let failed = Urgency { failed_last: true, remaining: Duration::ZERO };
        held.hold((Reverse(failed), ActionId::new(7), Branch::Local), Cause::Unknown);
        assert_eq!(first(&held), Some(7));
        [0, 1, 3, 7].into_iter().for_each(|number| held.remove_all(ActionId::new(number)));
        assert!(held.is_empty() && first(&held).is_none());
    }

    #[test]
    fn a_start_that_is_held_for_another_cause_stays_held_when_a_use_ends() {
        let mut held = HeldStarts::default();
        held.hold(rank(1, 1), Cause::InUse(ActionId::new(9)));
        held.hold(rank(1, 1), Cause::Exclusive);
        held.end_use(ActionId::new(1), Branch::Local, ActionId::new(9));
        assert_eq!(first(&held), None);
        assert!(held.has(ActionId::new(1), Branch::Local));
    }

    #[test]
    fn each_input_is_waited_for_and_looked_at_once_when_it_has_come() {
        let mut held = HeldStarts::default();
        let inputs: Vec<ArtifactId> = (0..100).map(ArtifactId::new).collect();
        held.hold(rank(1, 1), Cause::Inputs(inputs));
        let looks = std::cell::Cell::new(0);
        for come in 0..=100 {
            assert_eq!(first(&held), None);
            held.look_at_inputs(|id, _| {
                looks.set(looks.get() + 1);
                id.index() >= come
            });
        }
        assert_eq!((first(&held), looks.get()), (Some(1), 200));
    }
}
