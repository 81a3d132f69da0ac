//! Stores on this machine: what goes there before it is replaced, and what is asked of them.
//!
//! What a store said in this build that it has counts as fetchable, like bytes of a remote store; the driver asks the stores
//! first for each fetch. Whether it is still there then it finds out.

use std::sync::Arc;

use minibuild_core::{
    ActionId, ArtifactId, CacheAnswer, Content, Digest, ExecutionReport, Kept, RunId, Runner, StoreCheck, StoreEvent,
    WsPath,
};
use rustc_hash::{FxHashMap, FxHashSet};

use super::outputs_in_use::HeldAnswer;
use super::{Lookup, Machine, Question, Running, Status, Step, Stopping, key_path};

/// What is known of the stores of this machine.
#[derive(Debug, Default)]
pub(super) struct Stored {
    /// Blobs a store said it has.
    blobs: FxHashSet<Digest>,
    /// Keys of results whose blobs were asked for.
    asked: FxHashMap<ActionId, Digest>,
    /// Keys under which the disk cache had nothing of use.
    missed: FxHashMap<ActionId, Digest>,
}

impl Machine {
    /// Takes it that a store has these blobs.
    pub fn assume_stored(&mut self, blobs: Vec<Digest>) {
        self.stored.blobs.extend(blobs);
    }

    pub(super) fn take_store(&mut self, event: StoreEvent) {
        match event {
            StoreEvent::LookedUp { run, answer } => self.take_cache_answer(HeldAnswer::DiskCache(run, answer)),
            StoreEvent::Checked { run, missing } => self.take_stored(run, &missing),
            StoreEvent::Fetched { id, outcome } => self.take_fetched(id, outcome),
            StoreEvent::Message { level, text } => self.message(level, text),
            // The driver's to hand on.
            StoreEvent::NotHere(request) => {
                debug_assert!(false, "bug: nobody was given the fetch of `{}`", request.path);
            }
        }
    }

    /// Whether bytes can come from elsewhere than from a run.
    pub(super) fn can_fetch(&self) -> bool {
        self.goals.remote.is_some() || self.goals.stores.any()
    }

    /// Whether a store said that it has all of a content.
    pub(super) fn is_stored(&self, content: &Content) -> bool {
        // What needs no blob needs no store either.
        self.goals.stores.any() && content.blobs().iter().all(|blob| self.stored.blobs.contains(blob))
    }

    /// Whether the remote store is believed to have the bytes, and not only one of this machine.
    pub(super) fn is_held_remotely(&self, id: ArtifactId) -> bool {
        if !self.bytes.is_there(id) || self.stored.blobs.is_empty() {
            return self.bytes.is_there(id);
        }
        let Some(content) = &self.known[id.index()] else { return false };
        let is_kept = content.blobs().iter().any(|blob| self.stored.blobs.contains(blob));
        !is_kept || self.is_present(id, content) || self.is_newest_held(id)
    }

    fn is_newest_held(&self, id: ArtifactId) -> bool {
        let Some(producer) = self.model.artifact(id).producer else { return false };
        let newest = self.state.action(&key_path(&self.model, producer)).and_then(|record| record.results.first());
        newest.zip(self.store).is_some_and(|(newest, store)| newest.held_by.contains(&store))
    }

    /// Asks whether a store has those outputs of a known result that are not here; false if that is known, or there is
    /// none. The action is looked at again with the answer.
    pub(super) fn check_stores(&mut self, action: ActionId, key: Option<Digest>) -> bool {
        let may_ask = self.stopping.is_none() && self.goals.stores.any();
        let Some(key) = key.filter(|key| may_ask && self.stored.asked.get(&action) != Some(key)) else { return false };
        let model = Arc::clone(&self.model);
        let absent = model.action(action).outputs.iter().filter(|&&id| self.bytes.here(id).is_none());
        let mut digests: Vec<Digest> =
            absent.filter_map(|&id| self.known[id.index()].as_ref()).flat_map(Content::blobs).collect();
        digests.sort_unstable();
        digests.dedup();
        self.stored.asked.insert(action, key);
        self.set_status(action, Status::LookingUp);
        self.lookups.insert(action, Lookup { key, generation: self.generation, question: Question::Stored });
        self.steps.push(Step::CheckStores(StoreCheck { run: self.run_id(action), digests }));
        true
    }

    fn take_stored(&mut self, run: RunId, missing: &[Digest]) {
        let Some(lookup) = self.take_question(run, Question::Stored) else { return };
        let action = run.action;
        if lookup.generation == self.generation {
            let model = Arc::clone(&self.model);
            let outputs = model.action(action).outputs.iter();
            let contents: Vec<Content> = outputs.filter_map(|&id| self.known[id.index()].clone()).collect();
            let blobs = contents.iter().flat_map(Content::blobs);
            self.stored.blobs.extend(blobs.filter(|blob| !missing.contains(blob)));
        } else {
            // What was asked is not what is known now.
            self.stored.asked.remove(&action);
        }
        self.reopen(action);
    }

    /// A store lost what it said it had.
    pub(super) fn forget_stored(&mut self, content: &Content) {
        for blob in content.blobs() {
            self.stored.blobs.remove(&blob);
        }
    }

    /// What lies at places of outputs and is about to go, as far as a recorded result may want it back.
    pub(super) fn keep_outputs(&mut self, action: ActionId) {
        if !self.goals.stores.local || self.world.outputs.is_empty() {
            return;
        }
        let model = Arc::clone(&self.model);
        for &id in &model.action(action).outputs {
            let Some((content, fingerprint)) = self.world.outputs.get(&id) else { continue };
            let path = &model.artifact(id).path;
            if self.is_worth_keeping(action, path, content) {
                let kept = Kept { path: path.clone(), content: content.clone(), fingerprint: *fingerprint };
                self.steps.push(Step::Keep(Box::new(kept)));
            }
        }
    }

    /// Whether a recorded result of the action has this output.
    pub(super) fn is_worth_keeping(&self, action: ActionId, path: &WsPath, content: &Content) -> bool {
        let record = self.state.action(&key_path(&self.model, action));
        let mut outputs = record.into_iter().flat_map(|record| &record.results).flat_map(|result| &result.outputs);
        self.goals.stores.local && outputs.any(|output| output.path == *path && output.content == *content)
    }

    /// Whether the disk cache is worth asking for the action.
    pub(super) fn may_look_up_here(&self, action: ActionId) -> bool {
        let is_fresh_test = self.is_test(action) && self.goals.fresh_tests;
        self.stopping.is_none() && self.is_cached_here(action) && !is_fresh_test
    }

    fn is_cached_here(&self, action: ActionId) -> bool {
        self.goals.stores.disk_cache && !self.model.action(action).tags.no_cache
    }

    /// The result under one key is known to be that of another, too: whoever only has the cache has to find it there.
    pub(super) fn store_same(&mut self, action: ActionId, known: Digest, key: Digest) {
        if self.may_look_up_here(action) {
            self.steps.push(Step::StoreSame { known, key });
        }
    }

    /// Asks the disk cache; false if there is none to ask, or it was asked for this key.
    pub(super) fn look_up_here(&mut self, action: ActionId, key: Option<Digest>) -> bool {
        let may_ask = self.may_look_up_here(action);
        let Some(key) = key.filter(|key| may_ask && self.stored.missed.get(&action) != Some(key)) else { return false };
        self.set_status(action, Status::LookingUp);
        self.lookups.insert(action, Lookup { key, generation: self.generation, question: Question::ResultHere });
        let lookup = self.lookup_for(self.run_id(action), key);
        self.steps.push(Step::LookUpHere(Box::new(lookup)));
        true
    }

    pub(super) fn take_answer_here(&mut self, run: RunId, answer: CacheAnswer) {
        let Some(lookup) = self.take_question(run, Question::ResultHere) else { return };
        let action = run.action;
        if lookup.generation == self.generation {
            // Once is enough, whatever it said: what is lost after a hit is made again.
            self.stored.missed.insert(action, lookup.key);
            if let CacheAnswer::Hit(report) = answer {
                self.stored.blobs.extend(report.outputs.iter().flat_map(|output| output.meta.content.blobs()));
                if self.take_hit(action, lookup.key, *report, Runner::DiskCache) {
                    return;
                }
            }
        }
        self.reopen(action);
    }

    /// Has the disk cache store the result of a local run, if it may be.
    pub(super) fn store_result(&mut self, action: ActionId, running: &Running, report: &ExecutionReport) {
        if !self.may_be_shared(action, report)
            || !self.is_cached_here(action)
            || self.stopping >= Some(Stopping::Interrupted)
        {
            return;
        }
        let upload = self.upload_of(action, running, report, Vec::new());
        self.steps.push(Step::Store(Box::new(upload)));
    }
}
