//! What the store still has: asked in batches, for results that are not believed to be there, and to keep the others.
//!
//! Two questions of one kind. *Existence*: a result is known, but not that this store has its blobs (it was made elsewhere,
//! or another endpoint is used now); whoever needs them waits for the answer. *Lease*: outputs that only the store has, and
//! that this build's targets are made of; asking keeps them alive on the server, and tells early what is lost. Nobody waits
//! for that one, and it never connects by itself.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use minibuild_core::{
    ActionId, ActionKind, ArtifactId, CheckId, Content, Digest, ExistenceCheck, FoundOutput, OutputMeta, RunId,
};
use rustc_hash::{FxHashMap, FxHashSet};

use super::choose::Chooser;
use super::{Lookup, Machine, Question, Status, Step, key_path};

/// The checks of one build.
#[derive(Debug, Default)]
pub(super) struct Checks {
    next: u64,
    /// Actions whose results are asked for at the end of this event.
    gathered: Vec<ActionId>,
    open: FxHashMap<CheckId, Check>,
    /// Keys of results that the store was found not to have.
    missed: FxHashMap<ActionId, Digest>,
    /// Outputs whose content the store said it has, though it may lack others of the same result.
    present: FxHashMap<ArtifactId, Content>,
    /// Actions for which the store could not be asked.
    unanswered: FxHashSet<ActionId>,
    /// All that may be needed was asked for.
    is_widened: bool,
    /// Something was asked of the remote side in this build.
    is_connected: bool,
    /// When what is only there is to be asked for next.
    lease_due: Option<Duration>,
}

#[derive(Debug, Default)]
struct Check {
    is_lease: bool,
    /// Who waits for the answer; of a lease, whom it is about.
    runs: Vec<RunId>,
    /// Known results, by their keys, that somebody may wait for later.
    early: Vec<(ActionId, Digest, Vec<Content>)>,
}

impl Checks {
    /// None yet; the first lease is due then.
    pub(super) fn new(lease_due: Option<Duration>) -> Self {
        Self { lease_due, ..Self::default() }
    }

    fn is_lease_open(&self) -> bool {
        self.open.values().any(|check| check.is_lease)
    }
}

impl Machine {
    /// Asks whether the store has what the action is known to make under `key`; false if that is known, or cannot be
    /// asked. The action is looked at again with the answer.
    pub(super) fn check_existence(&mut self, action: ActionId, key: Option<Digest>) -> bool {
        let may_ask =
            self.stopping.is_none() && self.store.is_some() && !self.lost.contains(&action) && !self.is_written(action);
        let is_asked =
            |key: &Digest| self.checks.missed.get(&action) == Some(key) || self.checks.unanswered.contains(&action);
        let Some(key) = key.filter(|key| may_ask && !is_asked(key)) else {
            return false;
        };
        self.set_status(action, Status::LookingUp);
        self.lookups.insert(action, Lookup { key, generation: self.generation, question: Question::Existence });
        self.checks.gathered.push(action);
        true
    }

    /// Asks what was gathered in this event, and what is due by now. The last thing done with an event.
    pub(super) fn ask_checks(&mut self) {
        let gathered = std::mem::take(&mut self.checks.gathered);
        if self.stopping.is_some() {
            return;
        }
        let is_open = |action: &ActionId| {
            let question = self.lookups.get(action).map(|lookup| lookup.question);
            self.status_of(*action) == Status::LookingUp && question == Some(Question::Existence)
        };
        let asked: Vec<ActionId> = gathered.into_iter().filter(is_open).collect();
        if !asked.is_empty() {
            let mut digests: Vec<Digest> = asked.iter().flat_map(|&action| self.known_blobs(action)).collect();
            let early = self.take_early(&asked);
            digests.extend(early.iter().flat_map(|(_, _, contents)| contents).flat_map(Content::blobs));
            let runs = asked.into_iter().map(|action| self.run_id(action)).collect();
            self.ask_check(Check { is_lease: false, runs, early }, digests);
        }
        let is_request = |step: &Step| {
            matches!(step, Step::LookUp(_) | Step::StartRemote(_) | Step::Fetch(_) | Step::Upload(_) | Step::Check(_))
        };
        self.checks.is_connected |= self.steps.iter().any(is_request);
        if self.checks.is_connected
            && self.checks.lease_due.is_some_and(|due| due <= self.now)
            && !self.checks.is_lease_open()
        {
            self.ask_for_lease();
        }
    }

    fn ask_for_lease(&mut self) {
        let interval = self.goals.remote.as_ref().and_then(|remote| remote.lease).map(|lease| lease.interval);
        self.checks.lease_due = interval.map(|interval| self.now + interval);
        let actions = (0..self.model.actions.len()).map(ActionId::new);
        let kept: Vec<ActionId> = actions.filter(|&action| self.is_only_there(action)).collect();
        let digests = kept.iter().flat_map(|&action| self.blobs_only_there(action)).collect();
        let runs = kept.into_iter().map(|action| self.run_id(action)).collect();
        self.ask_check(Check { is_lease: true, runs, early: Vec::new() }, digests);
    }

    /// The first time: results of this build's other actions that are neither here nor believed to be in the store. They
    /// are asked for along with those that are needed now, so that a chain of actions costs one question.
    fn take_early(&mut self, asked: &[ActionId]) -> Vec<(ActionId, Digest, Vec<Content>)> {
        if std::mem::replace(&mut self.checks.is_widened, true) {
            return Vec::new();
        }
        let asked: HashSet<&ActionId> = asked.iter().collect();
        let actions = (0..self.model.actions.len()).map(ActionId::new);
        let others = actions.filter(|action| self.status_of(*action) != Status::Unwanted && !asked.contains(action));
        others.filter_map(|action| self.early(action)).collect()
    }

    fn early(&self, action: ActionId) -> Option<(ActionId, Digest, Vec<Content>)> {
        let newest = self.state.action(&key_path(&self.model, action))?.results.first()?;
        if self.store.is_some_and(|store| newest.held_by.contains(&store)) || self.is_written(action) {
            return None;
        }
        let outputs = self.model.action(action).outputs.iter().zip(&newest.outputs);
        let is_here = |(id, meta): (&ArtifactId, &OutputMeta)| {
            self.world.outputs.get(id).is_some_and(|(content, _)| *content == meta.content)
        };
        let is_all_here = outputs.into_iter().all(is_here);
        let contents = newest.outputs.iter().map(|output| output.content.clone()).collect();
        (!is_all_here).then_some((action, newest.key, contents))
    }

    /// Whether minibuild writes the file itself: its bytes are made sooner than asked for.
    fn is_written(&self, action: ActionId) -> bool {
        self.model.action(action).kind == ActionKind::Write
    }

    fn ask_check(&mut self, check: Check, mut digests: Vec<Digest>) {
        let Some(first) = check.runs.first().map(|run| run.action) else { return };
        digests.sort_unstable();
        digests.dedup();
        let id = CheckId(self.checks.next);
        self.checks.next += 1;
        self.checks.open.insert(id, check);
        let newest = self.newest_key(first).unwrap_or_else(|| self.host.function.empty());
        let who = self.requester(first, newest);
        self.steps.push(Step::Check(Box::new(ExistenceCheck { id, digests, who })));
    }

    /// When the machine wants to be woken, should nothing happen before.
    pub fn wake_at(&self) -> Option<Duration> {
        if self.stopping.is_some() || self.finished {
            return None;
        }
        let lease = self.checks.lease_due.filter(|_| self.checks.is_connected);
        lease.into_iter().chain(self.chooser.as_ref().and_then(Chooser::wake_at)).min()
    }

    /// The store lost something it was believed to have: what else it lost is worth knowing before it is needed.
    pub(super) fn suspect_store(&mut self) {
        self.checks.present.clear();
        if self.checks.lease_due.is_some() {
            self.checks.lease_due = Some(self.now);
        }
    }

    pub(super) fn take_checked(&mut self, id: CheckId, missing: Result<Vec<Digest>, String>) {
        let Some(check) = self.checks.open.remove(&id) else { return };
        if self.stopping.is_some() {
            return;
        }
        let missing = missing.map(|digests| digests.into_iter().collect::<HashSet<Digest>>());
        if !check.is_lease {
            if let Ok(missing) = &missing {
                self.take_early_answers(check.early, missing);
            }
            for run in check.runs {
                self.take_existence(run, missing.as_ref().ok());
            }
        } else if let Ok(missing) = missing {
            self.take_lease(&check.runs, &missing);
        }
    }

    fn take_early_answers(&mut self, early: Vec<(ActionId, Digest, Vec<Content>)>, missing: &HashSet<Digest>) {
        for (action, key, contents) in early {
            if !self.lost.contains(&action) {
                let contents: Vec<Option<Content>> = contents.into_iter().map(Some).collect();
                self.take_presence(action, &key, &contents, missing);
            }
        }
    }

    /// Takes note of which outputs of a result the store has. True if no other is needed from it.
    fn take_presence(
        &mut self,
        action: ActionId,
        key: &Digest,
        contents: &[Option<Content>],
        missing: &HashSet<Digest>,
    ) -> bool {
        let model = Arc::clone(&self.model);
        let (mut has_all, mut is_enough) = (true, true);
        for (&id, content) in model.action(action).outputs.iter().zip(contents) {
            let Some(content) = content else { continue };
            if !content.blobs().iter().any(|blob| missing.contains(blob)) {
                self.checks.present.insert(id, content.clone());
                continue;
            }
            has_all = false;
            is_enough &= self.world.outputs.get(&id).is_some_and(|(here, _)| here == content);
        }
        if has_all {
            self.believe_remote(action, key);
        } else if !is_enough {
            self.checks.missed.insert(action, *key);
        }
        is_enough
    }

    /// Whether the store said in this build that it has this content of an output.
    pub(super) fn is_present(&self, id: ArtifactId, content: &Content) -> bool {
        self.checks.present.get(&id) == Some(content)
    }

    /// The store has the blobs of a known result, or not, or did not say: the action is looked at again.
    fn take_existence(&mut self, run: RunId, missing: Option<&HashSet<Digest>>) {
        let Some(lookup) = self.take_question(run, Question::Existence) else { return };
        let action = run.action;
        match missing {
            Some(missing) if lookup.generation == self.generation => {
                let outputs = self.model.action(action).outputs.iter();
                let contents: Vec<Option<Content>> = outputs.map(|&id| self.known[id.index()].clone()).collect();
                if self.take_presence(action, &lookup.key, &contents, missing) {
                    // Should it be asked again, the answer was no.
                    self.checks.missed.insert(action, lookup.key);
                }
            }
            Some(_) => {}
            None => drop(self.checks.unanswered.insert(action)),
        }
        self.reopen(action);
    }

    /// Whether a result from the cache is the one whose blobs the store just said it lacks.
    pub(super) fn is_known_to_be_lost(&self, action: ActionId, key: &Digest, outputs: &[FoundOutput]) -> bool {
        let known = self.model.action(action).outputs.iter().map(|&id| self.known[id.index()].as_ref());
        self.checks.missed.get(&action) == Some(key)
            && known.eq(outputs.iter().map(|output| Some(&output.meta.content)))
    }

    /// What the store lost is not believed to be there any more; who needs it will have it made again.
    fn take_lease(&mut self, runs: &[RunId], missing: &HashSet<Digest>) {
        if let (Some(store), Some(lease)) = (self.store, self.goals.remote.as_ref().and_then(|remote| remote.lease)) {
            self.state.record_lease(store, lease.now_unix.saturating_add(self.now.as_secs()));
        }
        for &run in runs {
            let is_lost = run == self.run_id(run.action)
                && self.status_of(run.action) == Status::Done
                && self.blobs_only_there(run.action).any(|blob| missing.contains(&blob));
            if is_lost {
                let model = Arc::clone(&self.model);
                for &id in &model.action(run.action).outputs {
                    // What is on its way finds out by itself.
                    if !self.bytes.is_on_its_way(id) {
                        self.bytes.set_there(id, false);
                    }
                }
                self.forget_newest_held(run.action);
            }
        }
    }

    /// The key of the action's newest result.
    pub(super) fn newest_key(&self, action: ActionId) -> Option<Digest> {
        let record = self.state.action(&key_path(&self.model, action));
        record.and_then(|record| record.results.first()).map(|result| result.key)
    }

    /// Whether the bytes of a finished action's outputs are believed to be in the store, and not all of them are here.
    fn is_only_there(&self, action: ActionId) -> bool {
        self.status_of(action) == Status::Done && self.blobs_only_there(action).next().is_some()
    }

    fn blobs_only_there(&self, action: ActionId) -> impl Iterator<Item = Digest> {
        let outputs = self.model.action(action).outputs.iter();
        let absent = outputs.filter(|&&id| self.is_held_remotely(id) && self.bytes.here(id).is_none());
        absent.filter_map(|&id| self.known[id.index()].as_ref()).flat_map(Content::blobs)
    }

    fn known_blobs(&self, action: ActionId) -> impl Iterator<Item = Digest> {
        let outputs = self.model.action(action).outputs.iter();
        outputs.filter_map(|&id| self.known[id.index()].as_ref()).flat_map(Content::blobs)
    }
}
