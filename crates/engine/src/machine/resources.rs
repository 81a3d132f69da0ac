//! What local runs take while they run: processors, memory, places of named pools.
//!
//! An action that takes more than its own processor is not overtaken for ever: while the most urgent one does not fit for want
//! of processors or memory nothing else starts, so that they come free; for want of a place in a pool others go ahead.

use std::collections::BTreeMap;

use minibuild_core::{ActionId, Branch, Resources};

use super::Machine;

/// What is taken at some moment.
#[derive(Debug, Default)]
pub(super) struct Usage {
    cpus: usize,
    memory: u64,
    pools: BTreeMap<Box<str>, u32>,
}

/// Whether an action may start beside what runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fit {
    /// It may.
    Starts,
    /// It has to wait, and others need not.
    Waits,
    /// It has to wait, and so do others.
    Blocks,
}

impl Usage {
    fn add(&mut self, resources: &Resources, jobs: usize) {
        self.cpus += cpus(resources, jobs);
        self.memory = self.memory.saturating_add(resources.memory);
        if let Some(pool) = &resources.pool {
            *self.pools.entry(pool.clone()).or_default() += 1;
        }
    }
}

/// More than there are counts as all there are.
fn cpus(resources: &Resources, jobs: usize) -> usize {
    (resources.cpus.max(1) as usize).min(jobs)
}

impl Machine {
    /// What runs here takes now. Where no action takes more than a place this is not even counted.
    pub(super) fn usage_here(&self) -> Usage {
        let mut usage = Usage::default();
        if self.takes_resources {
            let here = self.running.iter().filter(|(_, running)| running.runs_on(Branch::Local));
            here.for_each(|(&action, _)| self.take_resources(action, &mut usage));
        }
        usage
    }

    /// The action runs here, too.
    pub(super) fn take_resources(&self, action: ActionId, usage: &mut Usage) {
        if self.takes_resources {
            usage.add(&self.model.action(action).resources, self.goals.jobs);
        }
    }

    /// Whether the action may start here. Alone it always may.
    pub(super) fn fit(&self, action: ActionId, usage: &Usage) -> Fit {
        if !self.takes_resources {
            return Fit::Starts;
        }
        let resources = &self.model.action(action).resources;
        let is_over = usage.cpus + cpus(resources, self.goals.jobs) > self.goals.jobs;
        let memory = usage.memory.saturating_add(resources.memory);
        let is_too_large = resources.memory > 0 && usage.memory > 0 && memory > self.goals.memory;
        if is_over || is_too_large {
            return Fit::Blocks;
        }
        let Some(pool) = &resources.pool else { return Fit::Starts };
        let places = self.goals.pools.get(&**pool).copied().unwrap_or(1).max(1);
        if usage.pools.get(pool).copied().unwrap_or(0) < places { Fit::Starts } else { Fit::Waits }
    }
}
