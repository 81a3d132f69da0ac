//! Cached results of actions whose outputs are in use.
//!
//! A producer that is done may be asked for again, since bytes of it are gone, and a cache may have another result under
//! the same key. That result replaces outputs, so its answer waits while a consumer reads them or a fetch writes them.

use std::time::Duration;

use minibuild_core::{ActionId, CacheAnswer, FoundOutput, RunId};

use super::Machine;

/// A cache's answer that cannot be taken yet.
#[derive(Debug)]
pub(super) enum HeldAnswer {
    /// Of the remote cache, with the time that it took.
    RemoteCache(RunId, CacheAnswer, Duration),
    /// Of the disk cache.
    DiskCache(RunId, CacheAnswer),
}

impl HeldAnswer {
    /// Returns the action that the answer is about.
    pub(super) fn action(&self) -> ActionId {
        match self {
            Self::RemoteCache(run, ..) | Self::DiskCache(run, _) => run.action,
        }
    }
}

impl Machine {
    /// Whether an answer would replace outputs that are in use.
    pub(super) fn has_to_wait(&self, run: RunId, answer: &CacheAnswer) -> bool {
        match answer {
            CacheAnswer::Hit(report) => self.is_in_use(run.action) && self.differs(run.action, &report.outputs),
            CacheAnswer::Miss | CacheAnswer::Failed(_) => false,
        }
    }

    fn differs(&self, action: ActionId, outputs: &[FoundOutput]) -> bool {
        let known = self.model.action(action).outputs.iter().map(|&id| self.known[id.index()].as_ref());
        !known.eq(outputs.iter().map(|output| Some(&output.meta.content)))
    }

    /// Takes the answers of actions whose outputs are free by now; true if there was any. An answer is looked at as if it had come
    /// just now, so one that nobody waits for any more is dropped.
    pub(super) fn take_held_answers(&mut self) -> bool {
        let (waiting, free): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.held_answers).into_iter().partition(|held| self.is_in_use(held.action()));
        self.held_answers = waiting;
        let any = !free.is_empty();
        for held in free {
            match held {
                HeldAnswer::RemoteCache(run, answer, took) => self.take_answer(run, answer, took),
                HeldAnswer::DiskCache(run, answer) => self.take_answer_here(run, answer),
            }
        }
        any
    }
}
