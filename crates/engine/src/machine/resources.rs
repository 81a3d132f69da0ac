//! What local runs take while they run: processors, memory, places of named pools.
//!
//! An action that takes more than its own processor is not overtaken for ever: while the most urgent one does not fit for want
//! of processors or memory nothing else starts, so that they come free; for want of a place in a pool others go ahead.

use std::collections::BTreeMap;

use minibuild_core::{ActionId, Resources};

use super::Machine;
use super::held_starts::Cause;

/// What is taken at some moment.
#[derive(Clone, Debug, Default)]
pub(super) struct Usage {
    cpus: usize,
    memory: u64,
    pools: BTreeMap<Box<str>, u32>,
}

impl Usage {
    fn add(&mut self, resources: &Resources, jobs: usize) {
        self.cpus += cpus(resources, jobs);
        self.memory = self.memory.saturating_add(resources.memory);
        if let Some(pool) = &resources.pool {
            *self.pools.entry(pool.clone()).or_default() += 1;
        }
    }

    fn remove(&mut self, resources: &Resources, jobs: usize) {
        self.cpus = self.cpus.saturating_sub(cpus(resources, jobs));
        self.memory = self.memory.saturating_sub(resources.memory);
        if let Some(taken) = resources.pool.as_ref().and_then(|pool| self.pools.get_mut(pool)) {
            *taken = taken.saturating_sub(1);
        }
    }
}

/// More than there are counts as all there are.
fn cpus(resources: &Resources, jobs: usize) -> usize {
    (resources.cpus.max(1) as usize).min(jobs)
}

impl Machine {
    /// A run of the action has begun here.
    pub(super) fn begin_usage(&mut self, action: ActionId) {
        self.running_here += 1;
        if self.takes_resources {
            self.usage.add(&self.model.action(action).resources, self.goals.jobs);
        }
    }

    /// A run of the action is over.
    pub(super) fn end_usage(&mut self, action: ActionId) {
        self.running_here -= 1;
        if self.takes_resources {
            self.usage.remove(&self.model.action(action).resources, self.goals.jobs);
        }
    }

    /// The action is going to run here, too.
    pub(super) fn take_resources(&self, action: ActionId, usage: &mut Usage) {
        if self.takes_resources {
            usage.add(&self.model.action(action).resources, self.goals.jobs);
        }
    }

    /// What of what the action takes is taken. Alone it always may start.
    pub(super) fn fit(&self, action: ActionId, usage: &Usage) -> Option<Cause> {
        if !self.takes_resources {
            return None;
        }
        let resources = &self.model.action(action).resources;
        let is_over = usage.cpus + cpus(resources, self.goals.jobs) > self.goals.jobs;
        let memory = usage.memory.saturating_add(resources.memory);
        let is_too_large = resources.memory > 0 && usage.memory > 0 && memory > self.goals.memory;
        if is_over || is_too_large {
            return Some(Cause::Room);
        }
        let pool = resources.pool.as_ref()?;
        (!self.has_place_in(pool, usage)).then(|| Cause::Pool(pool.clone()))
    }

    pub(super) fn has_place_in(&self, pool: &str, usage: &Usage) -> bool {
        let places = self.goals.pools.get(pool).copied().unwrap_or(1).max(1);
        usage.pools.get(pool).copied().unwrap_or(0) < places
    }
}
