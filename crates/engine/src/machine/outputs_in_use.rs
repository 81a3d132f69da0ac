//! Outputs that may be neither replaced nor removed now, and what waits until they may.
//!
//! A consumer reads them, or a fetch writes them. A start of their action waits for that, and so does an action that has to
//! be looked at again. So does a cache's answer: bytes of what is done may be gone, and a cache may have another result under
//! the same key. What waits is looked at again when that one use ends; there may be another use by then.

use std::time::Duration;

use minibuild_core::{ActionId, ArtifactKind, Branch, CacheAnswer, FoundOutput, RunId};
use rustc_hash::{FxHashMap, FxHashSet};

use super::{Machine, Running, Status};

/// Something that waits until outputs are no longer used.
#[derive(Debug)]
pub(super) enum UseWaiter {
    /// A start that is held, and may be held for another cause by then.
    Start(ActionId, Branch),
    /// An action that has to be looked at again.
    Reopened(ActionId),
    /// Another result of an action.
    Answer(HeldAnswer),
}

/// A cache's answer that cannot be taken yet.
#[derive(Debug)]
pub(super) enum HeldAnswer {
    /// Of the remote cache, with the time that it took.
    RemoteCache(RunId, CacheAnswer, Duration),
    /// Of the disk cache.
    DiskCache(RunId, CacheAnswer),
}

impl HeldAnswer {
    fn action(&self) -> ActionId {
        match self {
            Self::RemoteCache(run, ..) | Self::DiskCache(run, _) => run.action,
        }
    }
}

/// What waits for the end of uses.
#[derive(Debug, Default)]
pub(super) struct UseWaiters {
    /// By the action that uses the outputs, or whose own outputs are being fetched.
    by_user: FxHashMap<ActionId, Vec<UseWaiter>>,
    /// Answers that waited for a use that has ended.
    answers: Vec<HeldAnswer>,
}

#[cfg(test)]
impl UseWaiters {
    /// Whether an answer about the action waits.
    pub(super) fn has_answer_for(&self, action: ActionId) -> bool {
        let is_it = |waiter: &UseWaiter| matches!(waiter, UseWaiter::Answer(held) if held.action() == action);
        self.by_user.values().flatten().any(is_it) || self.answers.iter().any(|held| held.action() == action)
    }

    /// Whether a start waits for the end of this use.
    pub(super) fn has_start(&self, user: ActionId, action: ActionId, branch: Branch) -> bool {
        let is_it = |waiter: &UseWaiter| matches!(waiter, UseWaiter::Start(a, b) if (*a, *b) == (action, branch));
        self.by_user.get(&user).into_iter().flatten().any(is_it)
    }

    /// The user for which an action waits that has to be looked at again.
    pub(super) fn user_before(&self, reopened: ActionId) -> Option<ActionId> {
        let is_it = |waiter: &UseWaiter| matches!(waiter, UseWaiter::Reopened(action) if *action == reopened);
        self.by_user.iter().find(|(_, waiters)| waiters.iter().any(is_it)).map(|(user, _)| *user)
    }

    /// The answers, as text.
    pub(super) fn picture(&self) -> Vec<String> {
        let answers = self.by_user.values().flatten().filter(|waiter| matches!(waiter, UseWaiter::Answer(_)));
        let mut text: Vec<String> = answers.map(|answer| format!("{answer:?}")).collect();
        text.sort_unstable();
        text
    }
}

impl Machine {
    /// The action for whose end, or for the end of whose fetch, one has to wait before `action`'s outputs may be replaced.
    pub(super) fn user_of(&self, action: ActionId) -> Option<ActionId> {
        #[cfg(test)]
        self.looks.set(self.looks.get() + 1);
        self.running_reader(action).or_else(|| self.is_being_fetched(action).then_some(action))
    }

    /// An action that runs now and declared one of `action`'s outputs as an input. Only what was done before can have
    /// consumers that run.
    fn running_reader(&self, action: ActionId) -> Option<ActionId> {
        let runs = |reader: &ActionId| self.running.get(reader).is_some_and(Running::has_begun);
        let readers = if self.released[self.node(action)] { self.readers(action) } else { Vec::new() };
        readers.iter().copied().find(runs)
    }

    /// Actions that may read outputs of `action`: its consumers, and those of links that these make.
    pub(super) fn readers(&self, action: ActionId) -> Vec<ActionId> {
        let makes_links = |reader: &ActionId| {
            let mut outputs = self.model.action(*reader).outputs.iter();
            outputs.any(|&id| self.model.artifact(id).kind == ArtifactKind::Symlink)
        };
        let mut readers = self.graph.consumers(action);
        let mut pending: Vec<ActionId> = readers.iter().copied().filter(makes_links).collect();
        if pending.is_empty() {
            return readers;
        }
        let mut found: FxHashSet<ActionId> = readers.iter().copied().collect();
        while let Some(link) = pending.pop() {
            for reader in self.graph.consumers(link) {
                if found.insert(reader) {
                    readers.push(reader);
                    pending.extend(makes_links(&reader).then_some(reader));
                }
            }
        }
        readers
    }

    pub(super) fn await_end_of_use(&mut self, user: ActionId, waiter: UseWaiter) {
        self.use_waiters.by_user.entry(user).or_default().push(waiter);
    }

    /// The action does not run any more, or one of its outputs is no longer being fetched.
    pub(super) fn end_use(&mut self, user: ActionId) {
        for waiter in self.use_waiters.by_user.remove(&user).unwrap_or_default() {
            match waiter {
                UseWaiter::Start(action, branch) => self.held_starts.end_use(action, branch, user),
                UseWaiter::Reopened(action) => self.reopened.push(action),
                UseWaiter::Answer(held) => self.use_waiters.answers.push(held),
            }
            self.enqueued += 1;
        }
    }

    /// Looks again at what was reopened; true if there was any.
    pub(super) fn look_at_reopened(&mut self) -> bool {
        let mut any = false;
        for action in std::mem::take(&mut self.reopened) {
            if self.status_of(action) != Status::Reopened {
                continue;
            }
            if let Some(user) = self.user_of(action) {
                self.await_end_of_use(user, UseWaiter::Reopened(action));
            } else {
                any = true;
                self.settle(self.graph.node(action));
            }
        }
        any
    }

    /// Keeps an answer that would replace outputs in use; else gives it back.
    pub(super) fn hold_answer(&mut self, held: HeldAnswer) -> Option<HeldAnswer> {
        let action = held.action();
        let (HeldAnswer::RemoteCache(_, answer, _) | HeldAnswer::DiskCache(_, answer)) = &held;
        let is_another = match answer {
            CacheAnswer::Hit(report) => self.differs(action, &report.outputs),
            CacheAnswer::Miss | CacheAnswer::Failed(_) => false,
        };
        match self.user_of(action).filter(|_| is_another) {
            Some(user) => {
                self.await_end_of_use(user, UseWaiter::Answer(held));
                None
            }
            None => Some(held),
        }
    }

    fn differs(&self, action: ActionId, outputs: &[FoundOutput]) -> bool {
        let known = self.model.action(action).outputs.iter().map(|&id| self.known[id.index()].as_ref());
        !known.eq(outputs.iter().map(|output| Some(&output.meta.content)))
    }

    /// Takes the answers that waited for a use that has ended; true if there was any. An answer is looked at as if it had
    /// come just now, so one that nobody waits for any more is dropped.
    pub(super) fn take_held_answers(&mut self) -> bool {
        let answers = std::mem::take(&mut self.use_waiters.answers);
        let any = !answers.is_empty();
        for held in answers {
            self.take_cache_answer(held);
        }
        any
    }

    /// A cache answered.
    pub(super) fn take_cache_answer(&mut self, answer: HeldAnswer) {
        match self.hold_answer(answer) {
            Some(HeldAnswer::RemoteCache(run, answer, took)) => self.take_answer(run, answer, took),
            Some(HeldAnswer::DiskCache(run, answer)) => self.take_answer_here(run, answer),
            None => {}
        }
    }
}
