//! From the ready queue to the executor.

use std::sync::Arc;

use minibuild_core::{
    ActionId, ArtifactId, Branch, BuildEvent, Content, DeclaredOutput, ExecutionRequest, Fingerprint, RunId, WsPath,
};
use minibuild_graph::{Priority, diff, reason};

use super::evaluate::FlatInputs;
use super::{MAX_ATTEMPTS, Machine, Name, Running, Status, Step, key_path};

impl Machine {
    /// The action has to run.
    pub(super) fn queue(&mut self, action: ActionId) {
        self.set_status(action, Status::Queued);
        self.push_ready(action);
    }

    /// The action has to be looked at again, as soon as nobody reads its outputs.
    pub(super) fn reopen(&mut self, action: ActionId) {
        self.set_status(action, Status::Reopened);
        self.push_ready(action);
    }

    fn push_ready(&mut self, action: ActionId) {
        let failed_last = self.state.action(&key_path(&self.model, action)).is_some_and(|r| r.failed);
        let remaining = self.remaining[self.node(action)];
        self.ready.push(action, Priority { failed_last, remaining });
    }

    /// Starts what may start.
    pub(super) fn start_ready(&mut self) {
        let mut held_back = Vec::new();
        while self.stopping.is_none() && self.running.len() < self.goals.jobs && !self.exclusive_running {
            let Some((action, priority)) = self.ready.pop() else { break };
            let status = self.status_of(action);
            let exclusive = self.model.action(action).tags.exclusive;
            match status {
                Status::Queued | Status::Reopened if self.has_running_reader(action) => {
                    held_back.push((action, priority))
                }
                Status::Reopened => self.settle(self.graph.node(action)),
                Status::Queued if exclusive && !self.running.is_empty() => held_back.push((action, priority)),
                Status::Queued => {
                    self.start(action);
                    self.exclusive_running = exclusive && self.running.contains_key(&action);
                }
                // Skipped since it was queued.
                _ => {}
            }
        }
        for (action, priority) in held_back {
            self.ready.push(action, priority);
        }
    }

    /// Whether an action that runs now declared one of `action`'s outputs as an input: they may be neither replaced
    /// nor removed. Only what was done before can have consumers that run.
    fn has_running_reader(&self, action: ActionId) -> bool {
        self.released[self.node(action)]
            && self.graph.consumers(action).iter().any(|consumer| self.running.contains_key(consumer))
    }

    fn start(&mut self, action: ActionId) {
        let inputs = self.flat_inputs(action);
        let missing = self.missing_producers(&inputs);
        if !missing.is_empty() {
            return self.await_inputs(action, missing);
        }
        let command = self.command_of(action);
        let (key, manifest) = match self.facts(action, &command, &inputs).map(|f| (f.key(), f.manifest())) {
            Ok((Ok(key), manifest)) => (key, manifest),
            Ok((Err(problem), _)) => return self.fail_without_run(action, &problem.to_string()),
            Err(problem) => return self.fail_without_run(action, &problem),
        };
        let reason = self.reason_to_run(action, &manifest);
        let request = self.request(action, &inputs, &command);
        self.set_status(action, Status::Running);
        self.forget_outputs(action);
        let name = Name::of(&self.model, action);
        self.state.record_begun(name.as_ref(), request.outputs.iter().map(|output| output.path.clone()));
        self.emit_started(action);
        let running = Running { started: self.now, key, manifest, reason, command, stop: None };
        self.running.insert(action, running);
        self.steps.push(Step::Start(Box::new(request)));
    }

    fn request(
        &self,
        action: ActionId,
        inputs: &FlatInputs,
        command: &minibuild_core::CommandLine,
    ) -> ExecutionRequest {
        let row = self.model.action(action);
        let declared = row.outputs.iter().map(|&id| self.model.artifact(id));
        ExecutionRequest {
            run: RunId { action, attempt: self.attempts[action.index()] },
            command: command.clone(),
            verify: self.fingerprints(inputs),
            outputs: declared.map(|a| DeclaredOutput { path: a.path.clone(), kind: a.kind }).collect(),
            depfile: row.depfile.clone(),
            timeout: row.timeout,
        }
    }

    /// Fingerprints under which the inputs' contents went into the key. Directories have none.
    fn fingerprints(&self, inputs: &FlatInputs) -> Vec<(WsPath, Fingerprint)> {
        let mut list = Vec::with_capacity(inputs.artifacts.len());
        for &id in &inputs.artifacts {
            let known = &self.known[id.index()];
            if let (Some(fingerprint), Some(Content::File { .. } | Content::Symlink { .. })) =
                (known.on_disk, &known.content)
            {
                list.push((self.model.artifact(id).path.clone(), fingerprint));
            }
            if let Some(Ok(source)) = self.world.sources.get(&id) {
                list.extend(source.behind.iter().map(|(path, _, fingerprint)| (path.clone(), *fingerprint)));
            }
        }
        list
    }

    /// Why the action runs, from what differs to its newest known result.
    fn reason_to_run(&self, action: ActionId, manifest: &str) -> String {
        if let Some(reason) = self.forced.get(&action) {
            return reason.clone();
        }
        let Some(record) = self.state.action(&key_path(&self.model, action)) else {
            return "nothing is known of it yet".to_owned();
        };
        let Some(newest) = record.results.first() else {
            let how = if record.failed { "it failed" } else { "it did not finish" };
            return format!("{how} when it last ran");
        };
        let changed = self.state.manifest(newest.manifest).and_then(|old| reason(&diff(&old, manifest)));
        changed.unwrap_or_else(|| match record.failed {
            true => "it failed when it last ran".to_owned(),
            false if self.is_test(action) => "its result is not reused".to_owned(),
            false => "its last result cannot be used".to_owned(),
        })
    }

    /// Producers of inputs that are not done, or whose outputs are not on disk.
    fn missing_producers(&self, inputs: &FlatInputs) -> Vec<ActionId> {
        let missing = |&id: &ArtifactId| {
            let producer = self.model.artifact(id).producer?;
            let is_here = self.status_of(producer) == Status::Done && self.known[id.index()].on_disk.is_some();
            (!is_here).then_some(producer)
        };
        let mut producers: Vec<ActionId> = inputs.artifacts.iter().filter_map(missing).collect();
        producers.sort_unstable();
        producers.dedup();
        producers
    }

    /// The action waits until the bytes of its inputs are there. Whoever waits holds no slot.
    fn await_inputs(&mut self, action: ActionId, producers: Vec<ActionId>) {
        self.set_status(action, Status::AwaitingInputs);
        self.awaiting.insert(action, producers.len());
        for producer in producers {
            match self.status_of(producer) {
                Status::Failed | Status::Skipped => self.skip_consumers(producer),
                Status::Done => self.want_bytes(producer),
                _ => {}
            }
            // What it waits for may have turned out to be impossible.
            if self.status_of(action) != Status::AwaitingInputs {
                return;
            }
            self.waiters.entry(producer).or_default().push(action);
        }
    }

    /// Runs a finished action again because its bytes are needed. There is nowhere to fetch them from yet.
    fn want_bytes(&mut self, producer: ActionId) {
        if self.attempts[producer.index()] >= MAX_ATTEMPTS {
            self.outcome.lost = true;
            let path = self.model.action_key_path(producer);
            return self.fail_without_run(producer, &format!("`{path}` is gone again after {MAX_ATTEMPTS} runs"));
        }
        self.forced.insert(producer, "its outputs are not on disk and are needed".to_owned());
        self.queue(producer);
    }

    /// Its outputs are about to be removed and made anew.
    fn forget_outputs(&mut self, action: ActionId) {
        let model = Arc::clone(&self.model);
        for &id in &model.action(action).outputs {
            self.known[id.index()].on_disk = None;
            self.world.outputs.remove(&id);
        }
    }

    fn emit_started(&mut self, action: ActionId) {
        let name = self.model.action_key_path(action);
        let label = self.model.label_of(action).to_string();
        let mnemonic = self.model.action(action).mnemonic.to_string();
        self.steps.push(Step::Emit(BuildEvent::ActionStarted { action: name.clone(), label, mnemonic }));
        let reason = "the strategy is local".to_owned();
        self.steps.push(Step::Emit(BuildEvent::BranchStarted { action: name, branch: Branch::Local, reason }));
    }
}
