//! A time no strategy can beat: the longest chain with the faster side for each action, and both pools as fluids.
//!
//! The fluid bound lets each action that no cache has be split at will between both pools, without any latency; a hit
//! costs neither pool anything.

use super::model::{Action, Us, Workload};

/// Both bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bound {
    /// The longest chain.
    pub critical_path: Us,
    /// Both pools always busy.
    pub fluid: Us,
}

impl Bound {
    /// Of a workload.
    pub fn of(workload: &Workload) -> Self {
        Self { critical_path: critical_path(workload), fluid: fluid(workload) }
    }

    /// The greater of both.
    pub fn time(self) -> Us {
        self.critical_path.max(self.fluid)
    }
}

fn faster(workload: &Workload, action: &Action) -> Us {
    let there = (action.there || action.hit).then(|| workload.remote_time(action));
    let here = action.here.then_some(action.local);
    here.into_iter().chain(there).min().unwrap_or(0)
}

fn critical_path(workload: &Workload) -> Us {
    let mut ends: Vec<Us> = Vec::with_capacity(workload.actions.len());
    for action in &workload.actions {
        let begin = action.deps.iter().map(|&need| ends[need as usize]).max().unwrap_or(0);
        ends.push(begin + faster(workload, action));
    }
    ends.into_iter().max().unwrap_or(0)
}

/// The best split gives to this machine what takes it the smallest part of a worker's time; at most one action is
/// divided.
fn fluid(workload: &Workload) -> Us {
    let (jobs, workers) = (workload.jobs.max(1) as f64, workload.workers as f64);
    let to_run = workload.actions.iter().filter(|action| !action.hit);
    let (mut here, mut there, mut either) = (0.0, 0.0, Vec::new());
    for action in to_run {
        match (action.here, action.there && workers > 0.0) {
            (true, false) => here += action.local as f64 / jobs,
            (false, _) => there += action.exec as f64 / workers.max(1.0),
            (true, true) => either.push((action.local as f64 / jobs, action.exec as f64 / workers)),
        }
    }
    either.sort_by(|a, b| (a.0 * b.1).total_cmp(&(b.0 * a.1)));
    there += either.iter().map(|(_, exec)| exec).sum::<f64>();
    for (local, exec) in either {
        if here + local <= there - exec {
            here += local;
            there -= exec;
            continue;
        }
        let part = ((there - here) / (local + exec)).clamp(0.0, 1.0);
        return (here + part * local).max(there - part * exec) as Us;
    }
    here.max(there) as Us
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::tests::{action, workload};

    #[test]
    fn the_longest_chain_takes_the_faster_side_of_each_action() {
        let mut load = workload(vec![action(&[], 100, 50), action(&[0], 100, 300), action(&[], 50, 1)]);
        load.rtt = 10_000;
        // 50 and 3 round trips, then 100 here.
        assert_eq!(critical_path(&load), 180_000);
        load.actions[1].hit = true;
        assert_eq!(critical_path(&load), 90_000);
        load.actions[0].there = false;
        assert_eq!(critical_path(&load), 110_000);
    }

    #[test]
    fn the_fluid_bound_gives_each_pool_what_it_is_better_at() {
        let check = |jobs, workers, actions: Vec<Action>, expected: Us| {
            let mut load = workload(actions);
            (load.jobs, load.workers) = (jobs, workers);
            assert_eq!(fluid(&load), expected * 1000);
        };
        check(1, 1, vec![action(&[], 100, 100)], 50);
        check(1, 1, vec![action(&[], 100, 300), action(&[], 300, 100)], 100);
        check(2, 1, vec![action(&[], 100, 100); 3], 100);
        check(1, 1, vec![action(&[], 100, 100), Action { hit: true, ..action(&[], 900, 900) }], 50);
        check(1, 1, vec![Action { there: false, ..action(&[], 100, 1) }], 100);
        check(4, 1, vec![Action { here: false, ..action(&[], 1, 100) }; 2], 200);
    }
}
