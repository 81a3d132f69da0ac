//! What an action's inputs make of it: up to date, to be run, or impossible.

use std::sync::Arc;

use minibuild_core::{
    ActionId, ArtifactId, ArtifactKind, CommandLine, Content, Digest, Kept, Level, Model, OutputMeta, Runner, Work,
    WrittenFile, WsPath,
};
use minibuild_graph::{ActionKey, Facts, InputFact, Node, NodeKind};

use rustc_hash::FxHashSet;

use super::{Machine, Name, SourceFact, Status, Step, key_path};
use crate::state::{PrunedRecord, ResultRecord};

/// Inputs of an action, flattened.
pub(super) struct FlatInputs {
    pub artifacts: Vec<ArtifactId>,
    /// Those from here on are discoverable.
    pub discoverable_from: usize,
}

/// What is known of an action with the inputs it has now.
pub(super) enum Knowledge {
    Result(ResultRecord),
    /// Nothing; its key where that was needed.
    Nothing(Option<Digest>),
}

impl FlatInputs {
    fn iter(&self) -> impl Iterator<Item = (ArtifactId, bool)> {
        self.artifacts.iter().enumerate().map(|(i, &id)| (id, i >= self.discoverable_from))
    }
}

impl Machine {
    /// Everything `node` needs is done: decides what becomes of it.
    pub(super) fn settle(&mut self, node: Node) {
        let mut work = vec![node];
        while let Some(node) = work.pop() {
            let done = match self.graph.kind(node) {
                NodeKind::Set(_) => {
                    self.status[node.index()] = Status::Done;
                    true
                }
                NodeKind::Action(action) => self.evaluate(action),
            };
            if done {
                work.extend(self.release(node));
            }
        }
    }

    /// Tells whoever waits for `node` that it is done, the first time it is; gives those that wait for nothing else.
    pub(super) fn release(&mut self, node: Node) -> Vec<Node> {
        if std::mem::replace(&mut self.released[node.index()], true) {
            return Vec::new();
        }
        let chain = self.chain[node.index()];
        let mut free = Vec::new();
        for &consumer in self.graph.needed_by(node) {
            let row = consumer.index();
            self.chain[row] = self.chain[row].max(chain);
            if self.status[row] == Status::Waiting {
                self.pending[row] = self.pending[row].saturating_sub(1);
                if self.pending[row] == 0 {
                    free.push(consumer);
                }
            }
        }
        free
    }

    /// Decides on an action all of whose needs are done. True if its result is known now.
    pub(super) fn evaluate(&mut self, action: ActionId) -> bool {
        debug_assert!(self.user_of(action).is_none(), "bug: a result may be replaced while it is in use");
        if self.forced.contains_key(&action) {
            self.queue(action);
            return false;
        }
        let inputs = self.flat_inputs(action);
        match self.find_result(action, &inputs) {
            Ok(Knowledge::Result(found)) => self.use_known_result(action, &found),
            Ok(Knowledge::Nothing(key)) => {
                if !self.look_up_here(action, key) {
                    let asks = self.is_worth_asking(action, key);
                    self.queue_asking(action, asks);
                }
                false
            }
            Err(problem) => {
                self.fail_without_run(action, &problem);
                false
            }
        }
    }

    fn use_known_result(&mut self, action: ActionId, found: &ResultRecord) -> bool {
        if self.take_known_result(action, found) {
            self.reopen_consumers(action);
        }
        if let Some(missing) = self.wanted_but_nowhere(action) {
            if !self.ask_for_bytes(action, Some(found.key)) {
                self.forced.insert(action, format!("output `{missing}` is not on disk"));
                self.queue(action);
            }
            return false;
        }
        self.complete_up_to_date(action);
        true
    }

    /// Asks whoever may have the bytes of a known result; false if there is nobody left to ask.
    pub(super) fn ask_for_bytes(&mut self, action: ActionId, key: Option<Digest>) -> bool {
        self.check_stores(action, key)
            || self.look_up_here(action, key)
            || self.check_existence(action, key)
            || self.look_up(action, key)
    }

    /// The known result whose key, or pruned key, is that of the action now; it becomes the newest one.
    pub(super) fn find_result(&mut self, action: ActionId, inputs: &FlatInputs) -> Result<Knowledge, String> {
        let model = Arc::clone(&self.model);
        let name = Name::of(&model, action);
        let is_stale_test = self.is_test(action) && self.goals.fresh_tests;
        let Some(record) = self.state.action(&name.path).filter(|r| !r.results.is_empty() && !is_stale_test) else {
            self.check_inputs(inputs)?;
            let asks = self.may_look_up(action) || self.may_look_up_here(action);
            let key = if asks { Some(self.key(action, &self.command_of(action), inputs)?.action) } else { None };
            return Ok(Knowledge::Nothing(key));
        };
        let command = &self.command_of(action);
        let key = self.key(action, command, inputs)?;
        if let Some(index) = record.results.iter().position(|r| r.key == key.action && self.is_complete(action, r)) {
            let found = record.results[index].clone();
            self.state.promote_result(&name.path, index);
            return Ok(Knowledge::Result(found));
        }
        for (index, result) in record.results.iter().enumerate() {
            let Some(pruned) = &result.pruned else { continue };
            if self.is_complete(action, result) && self.pruned_key(action, command, inputs, pruned)? == pruned.key {
                let (known, found) = (result.key, ResultRecord { key: key.action, ..result.clone() });
                self.state.record_same_result(&name.path, index, found.clone());
                self.store_same(action, known, key.action);
                return Ok(Knowledge::Result(found));
            }
        }
        Ok(Knowledge::Nothing(Some(key.action)))
    }

    /// Whether a result has exactly the outputs the action declares, with their kinds.
    pub(super) fn is_complete(&self, action: ActionId, result: &ResultRecord) -> bool {
        let declared = &self.model.action(action).outputs;
        declared.len() == result.outputs.len()
            && declared.iter().zip(&result.outputs).all(|(&id, meta)| {
                let artifact = self.model.artifact(id);
                artifact.path == meta.path && is_of_kind(&meta.content, artifact.kind)
            })
    }

    pub(super) fn key(
        &self,
        action: ActionId,
        command: &CommandLine,
        inputs: &FlatInputs,
    ) -> Result<ActionKey, String> {
        self.facts(action, command, inputs)?.key().map_err(|e| e.to_string())
    }

    fn pruned_key(
        &self,
        action: ActionId,
        command: &CommandLine,
        inputs: &FlatInputs,
        pruned: &PrunedRecord,
    ) -> Result<minibuild_core::Digest, String> {
        let facts = self.facts(action, command, inputs)?;
        let was_read = |path: &WsPath| pruned.read.binary_search(path).is_ok();
        facts.pruned_key(was_read).map(|key| key.0).map_err(|e| e.to_string())
    }

    /// Everything that decides the action's result; an input that cannot be used is an error.
    pub(super) fn facts<'a>(
        &'a self,
        action: ActionId,
        command: &'a CommandLine,
        inputs: &FlatInputs,
    ) -> Result<Facts<'a>, String> {
        let row = self.model.action(action);
        let mut facts = Vec::with_capacity(inputs.artifacts.len());
        // Files with a symlink above their path.
        let mut linked = Vec::new();
        for (id, discoverable) in inputs.iter() {
            let content = self.known[id.index()].as_ref().ok_or_else(|| self.why_unusable(id))?;
            let own = InputFact { id: Some(id), path: &self.model.artifact(id).path, content, discoverable };
            match self.behind(id) {
                None => facts.push(own),
                Some(source) if matches!(content, Content::File { .. }) => linked.push((own, source)),
                Some(source) => {
                    facts.extend((!source.is_moved).then_some(own));
                    facts.extend(facts_behind(source, discoverable));
                }
            }
        }
        if !linked.is_empty() {
            let is_link = |input: &&InputFact<'a>| matches!(input.content, Content::Symlink { .. });
            let links: FxHashSet<&str> = facts.iter().filter(is_link).map(|input| input.path.as_str()).collect();
            for (own, source) in linked {
                // The kernel finds such a file by the link, where that is an input, too. Else it is a file at its path.
                if source.behind.iter().any(|(path, ..)| links.contains(path.as_str())) {
                    facts.extend(facts_behind(source, own.discoverable));
                } else {
                    facts.push(own);
                }
            }
        }
        let tools = row.host_tools.iter().filter_map(|id| self.world.tools.get(id));
        let tools: Result<Vec<_>, _> = tools.map(|tool| tool.as_ref().map_err(ToString::to_string)).collect();
        Ok(Facts {
            command,
            outputs: row.outputs.iter().map(|&id| self.model.artifact(id)).map(|a| (&a.path, a.kind)).collect(),
            depfile: row.depfile.as_ref(),
            inputs: facts,
            platform: &row.platform,
            timeout: row.timeout,
            no_cache: row.tags.no_cache,
            tools: tools?,
            host: &self.host,
            roots: Some(&self.roots),
        })
    }

    /// A source to which something else belongs, since it is a symlink or lies behind one.
    fn behind(&self, id: ArtifactId) -> Option<&SourceFact> {
        self.world.sources.get(&id)?.as_ref().ok().filter(|source| !source.behind.is_empty())
    }

    fn check_inputs(&self, inputs: &FlatInputs) -> Result<(), String> {
        let unusable = inputs.artifacts.iter().find(|id| self.known[id.index()].is_none());
        unusable.map_or(Ok(()), |&id| Err(self.why_unusable(id)))
    }

    fn why_unusable(&self, id: ArtifactId) -> String {
        match self.world.sources.get(&id) {
            Some(Err(why)) => why.clone(),
            _ => format!("its input `{}` does not exist", self.model.artifact(id).path),
        }
    }

    /// All inputs of an action, with what output links among them lead to.
    pub(super) fn flat_inputs(&mut self, action: ActionId) -> FlatInputs {
        let mut inputs = self.declared_inputs(action);
        self.add_link_targets(&mut inputs);
        inputs
    }

    /// The inputs that attributes name.
    pub(super) fn declared_inputs(&mut self, action: ActionId) -> FlatInputs {
        let model = self.model.clone();
        let row = model.action(action);
        let mut artifacts = Vec::new();
        self.scratch.begin(&model);
        self.scratch.flatten(&model, &row.inputs, &mut artifacts);
        let discoverable_from = artifacts.len();
        self.scratch.flatten(&model, &row.discoverable, &mut artifacts);
        FlatInputs { artifacts, discoverable_from }
    }

    /// A command that reads an output link reads what that leads to, which the link's content does not say.
    fn add_link_targets(&mut self, inputs: &mut FlatInputs) {
        let is_link = |id: &ArtifactId| matches!(self.known[id.index()], Some(Content::Symlink { .. }));
        if !inputs.artifacts.iter().any(is_link) {
            return;
        }
        let mut found: FxHashSet<ArtifactId> = inputs.artifacts.iter().copied().collect();
        let (mut needed, mut discoverable) = (Vec::new(), Vec::new());
        for (id, is_discoverable) in inputs.iter() {
            let mut link = id;
            while let Some(producer) = self.model.artifact(link).producer
                && let Some(target) = self.target_of(producer, link).filter(|target| found.insert(*target))
            {
                if is_discoverable { &mut discoverable } else { &mut needed }.push(target);
                link = target;
            }
        }
        let from = inputs.discoverable_from;
        inputs.discoverable_from += needed.len();
        inputs.artifacts.splice(from..from, needed);
        inputs.artifacts.extend(discoverable);
    }

    /// The command of an action; one that only writes a file has no argv.
    pub(super) fn command_of(&self, action: ActionId) -> CommandLine {
        match self.commands.work(action) {
            Work::Spawn(command) => command,
            Work::Write(file) => CommandLine { files: vec![file], ..Default::default() },
        }
    }

    /// True if consumers that are done may have used something else.
    pub(super) fn take_known_result(&mut self, action: ActionId, result: &ResultRecord) -> bool {
        let model = Arc::clone(&self.model);
        let is_remote = self.store.is_some_and(|store| result.held_by.contains(&store));
        let key_path = key_path(&model, action);
        let has_begun = self.state.action(&key_path).is_some_and(|record| !record.begun.is_empty());
        if has_begun {
            self.discard_private_files(action, &key_path);
        }
        let mut changed = false;
        for (&id, meta) in model.action(action).outputs.iter().zip(&result.outputs) {
            let on_disk = match self.world.outputs.get(&id) {
                Some((content, fingerprint)) if *content == meta.content => {
                    let fingerprint = *fingerprint;
                    if has_begun {
                        // Whatever a run left is the result: a later change is not that run's.
                        self.state.forget_begun(&key_path, &meta.path);
                    }
                    Some(fingerprint)
                }
                Some((content, _)) if Self::is_part(content, &meta.content) => None,
                Some(_) => {
                    self.discard(action, id, meta);
                    None
                }
                None if self.world.foreign.remove(&id) => {
                    self.discard(action, id, meta);
                    None
                }
                None => {
                    self.discard_rubbish(action, meta);
                    None
                }
            };
            let is_there = is_remote || self.is_present(id, &meta.content) || self.is_stored(&meta.content);
            changed |= self.learn(id, &meta.content, on_disk, is_there);
        }
        changed
    }

    /// What lies at an output's place is not its content. Where no result of the action has it either, somebody
    /// changed it, which is worth a word; else it is of another state of the sources.
    fn discard(&mut self, action: ActionId, id: ArtifactId, meta: &OutputMeta) {
        let found = self.world.outputs.remove(&id);
        self.steps.push(match &found {
            Some((content, fingerprint)) if self.is_worth_keeping(action, &meta.path, content) => {
                let (path, content) = (meta.path.clone(), content.clone());
                Step::Keep(Box::new(Kept { path, content, fingerprint: *fingerprint }))
            }
            _ => Step::Discard(meta.path.clone()),
        });
        let record = self.state.action(&key_path(&self.model, action));
        // What a failed run left is no surprise either.
        let is_begun = record.is_some_and(|record| record.begun.contains(&meta.path));
        let mut results = record.into_iter().flat_map(|record| &record.results).flat_map(|result| &result.outputs);
        let is_of = |old: &Content| found.as_ref().is_some_and(|(c, _)| c == old || Self::is_part(c, old));
        let is_known = results.any(|old| old.path == meta.path && is_of(&old.content))
            || found.is_none() && self.state.file(meta.path.as_str()).is_none();
        let key_path = key_path(&self.model, action);
        if is_begun {
            self.state.forget_begun(&key_path, &meta.path);
        }
        if !is_known && !is_begun && self.bytes.wanted(id).is_none() {
            let text = format!("`{}` was changed by something else than its action; it is removed", meta.path);
            self.message(Level::Warning, text);
        }
    }

    /// The depfile and response files that a run left which came to nothing.
    fn discard_private_files(&mut self, action: ActionId, key_path: &str) {
        let files = self.command_of(action).files;
        for path in private_files(&self.model, action, &files) {
            if self.state.action(key_path).is_some_and(|record| record.begun.contains(&path)) {
                self.state.forget_begun(key_path, &path);
                self.steps.push(Step::Discard(path));
            }
        }
    }

    /// A run that came to nothing may have left something at an output's place of which nothing else is known.
    fn discard_rubbish(&mut self, action: ActionId, meta: &OutputMeta) {
        let record = self.state.action(&key_path(&self.model, action));
        if record.is_some_and(|record| record.begun.contains(&meta.path)) {
            self.steps.push(Step::Discard(meta.path.clone()));
        }
    }

    /// A wanted output whose bytes are neither here nor believed to be in the remote store.
    pub(super) fn wanted_but_nowhere(&self, action: ActionId) -> Option<WsPath> {
        let mut outputs = self.model.action(action).outputs.iter();
        let nowhere = outputs.find(|&&id| self.bytes.is_wanted_in_vain(id) || self.is_part_wanted_in_vain(id));
        nowhere.map(|&id| self.model.artifact(id).path.clone())
    }

    fn complete_up_to_date(&mut self, action: ActionId) {
        // One that ran in this build, and was looked at once more, stays counted as what ran it.
        let runner = self.runners[action.index()];
        self.set_done(action, runner);
        if self.goals.all_events || self.goals_of.contains_key(&action) {
            let reason = "its key is unchanged".to_owned();
            self.emit_completed(action, true, Runner::UpToDate, 0, std::time::Duration::ZERO, reason);
        }
        self.after_done(action);
    }
}

/// Depfile and response files of an action, which lie beside its outputs until its command has ended.
pub(super) fn private_files(model: &Model, action: ActionId, files: &[WrittenFile]) -> Vec<WsPath> {
    let row = model.action(action);
    let mut paths: Vec<WsPath> = files.iter().map(|file| file.path.clone()).chain(row.depfile.clone()).collect();
    paths.retain(|path| row.outputs.iter().all(|&id| model.artifact(id).path != *path));
    paths
}

/// What belongs to a source, each at its own path.
fn facts_behind(source: &SourceFact, discoverable: bool) -> impl Iterator<Item = InputFact<'_>> {
    source.behind.iter().map(move |(path, content, _)| InputFact { id: None, path, content, discoverable })
}

fn is_of_kind(content: &Content, kind: ArtifactKind) -> bool {
    match kind {
        ArtifactKind::Source | ArtifactKind::File => matches!(content, Content::File { .. }),
        ArtifactKind::Directory => matches!(content, Content::Directory(_)),
        ArtifactKind::Symlink => matches!(content, Content::Symlink { .. }),
    }
}
