//! From the ready queues to the executors.

use std::sync::Arc;

use minibuild_core::{
    ActionId, ArtifactId, Branch, BuildEvent, Content, DeclaredOutput, DownloadReason, ExecutionRequest, Fingerprint,
    Model, WsPath,
};
use minibuild_graph::Priority;

use super::evaluate::FlatInputs;
use super::remote::Sides;
use super::resources::Fit;
use super::{MAX_ATTEMPTS, Machine, Made, Name, REMOTE_ATTEMPTS, Running, Status, Step, Strategy, key_path};

impl Machine {
    /// The action has to run.
    pub(super) fn queue(&mut self, action: ActionId) {
        if self.goals.runs_nothing {
            return self.fail_without_run(
                action,
                "nothing is known of it, or its bytes are nowhere: `minibuild build` makes them",
            );
        }
        let sides = match self.sides(action) {
            Ok(sides) => sides,
            Err(reason) => return self.fail_without_run(action, &reason),
        };
        self.set_status(action, Status::Queued);
        self.enqueued += 1;
        let failed_last = self.state.action(&key_path(&self.model, action)).is_some_and(|r| r.failed);
        let priority = Priority { failed_last, remaining: self.remaining[self.node(action)] };
        if sides.here {
            self.ready.push(action, priority);
        }
        if sides.there {
            self.ready_remote.push(action, priority);
        } else {
            self.fetch_inputs(action);
        }
    }

    /// The action has to be looked at again, as soon as nobody reads its outputs.
    pub(super) fn reopen(&mut self, action: ActionId) {
        self.set_status(action, Status::Reopened);
        self.reopened.push(action);
    }

    /// Starts what may start.
    pub(super) fn start_ready(&mut self) {
        while self.stopping.is_none() {
            let looked_at = self.look_at_reopened();
            let before = self.enqueued;
            self.start_here();
            self.start_there();
            // What was tried on one side may have queued something for the other.
            if !looked_at && self.enqueued == before {
                break;
            }
        }
    }

    /// Looks again at what was reopened; true if there was any.
    fn look_at_reopened(&mut self) -> bool {
        let mut any = false;
        for action in std::mem::take(&mut self.reopened) {
            if self.status_of(action) != Status::Reopened {
                continue;
            }
            if self.is_in_use(action) {
                self.reopened.push(action);
            } else {
                any = true;
                self.settle(self.graph.node(action));
            }
        }
        any
    }

    fn start_here(&mut self) {
        let mut held_back = Vec::new();
        let mut usage = self.usage_here();
        while self.stopping.is_none() && self.running_here < self.goals.jobs && !self.exclusive_running {
            let Some((action, priority)) = self.ready.pop() else { break };
            let Some(sides) = self.startable(action).filter(|sides| sides.here) else { continue };
            let exclusive = self.model.action(action).tags.exclusive;
            if self.is_in_use(action) || exclusive && self.running_here > 0 {
                held_back.push((action, priority));
                continue;
            }
            match self.fit(action, &usage) {
                Fit::Starts => {}
                wait => {
                    held_back.push((action, priority));
                    if wait == Fit::Blocks {
                        break;
                    }
                    continue;
                }
            }
            let inputs = self.flat_inputs(action);
            let missing = self.missing_inputs(&inputs, Branch::Local);
            // Where its inputs are already it can start at once.
            if sides.there && !missing.is_empty() {
                continue;
            }
            self.start(action, Branch::Local, &inputs, missing);
            let runs = self.running.contains_key(&action);
            self.exclusive_running = exclusive && runs;
            if runs {
                self.take_resources(action, &mut usage);
            }
        }
        for (action, priority) in held_back {
            self.ready.push(action, priority);
        }
    }

    fn start_there(&mut self) {
        let jobs = self.goals.remote.as_ref().map_or(0, |remote| remote.jobs);
        let mut held_back = Vec::new();
        while self.stopping.is_none() && self.running.len() - self.running_here < jobs {
            let Some((action, priority)) = self.ready_remote.pop() else { break };
            if self.startable(action).is_none_or(|sides| !sides.there) {
                continue;
            }
            if self.is_in_use(action) {
                held_back.push((action, priority));
                continue;
            }
            let inputs = self.flat_inputs(action);
            let missing = self.missing_inputs(&inputs, Branch::Remote);
            self.start(action, Branch::Remote, &inputs, missing);
        }
        for (action, priority) in held_back {
            self.ready_remote.push(action, priority);
        }
    }

    /// Where the action may start, if it still waits for a place.
    fn startable(&self, action: ActionId) -> Option<Sides> {
        self.sides(action).ok().filter(|_| self.status_of(action) == Status::Queued)
    }

    /// Whether its outputs may be neither replaced nor removed now: a consumer runs, or one is being brought here.
    fn is_in_use(&self, action: ActionId) -> bool {
        self.has_running_reader(action) || self.is_being_fetched(action)
    }

    /// Whether an action that runs now declared one of `action`'s outputs as an input: they may be neither replaced
    /// nor removed. Only what was done before can have consumers that run.
    fn has_running_reader(&self, action: ActionId) -> bool {
        self.released[self.node(action)]
            && self.graph.consumers(action).iter().any(|consumer| self.running.contains_key(consumer))
    }

    fn start(&mut self, action: ActionId, side: Branch, inputs: &FlatInputs, missing: Vec<ArtifactId>) {
        if !missing.is_empty() {
            return self.await_inputs(action, &missing);
        }
        let command = self.command_of(action);
        let prepared = self.facts(action, &command, inputs).and_then(|facts| {
            let (key, step) = match side {
                Branch::Local => (facts.key(), None),
                Branch::Remote => match self.remote_request(action, &facts, inputs) {
                    Ok((key, request)) => (Ok(key), Some(Step::StartRemote(Box::new(request)))),
                    Err(problem) => (Err(problem), None),
                },
            };
            Ok((key.map_err(|problem| problem.to_string())?, facts.manifest(), step))
        });
        let (key, mut manifest, step) = match prepared {
            Ok(prepared) => prepared,
            Err(problem) => return self.fail_without_run(action, &problem),
        };
        let step = step.unwrap_or_else(|| Step::Start(Box::new(self.request(action, inputs, &command))));
        let why = self.why_run(action, &manifest);
        let reason = why.in_short();
        minibuild_graph::note_why(&mut manifest, &why.in_full());
        self.set_status(action, Status::Running);
        if side == Branch::Local {
            self.running_here += 1;
            self.forget_outputs(action);
            let model = Arc::clone(&self.model);
            let outputs = model.action(action).outputs.iter().map(|&id| model.artifact(id).path.clone());
            self.state.record_begun(Name::of(&model, action).as_ref(), outputs);
        }
        self.emit_action_started(action);
        self.emit_branch_started(action, side);
        let made = Made { key: key.action, manifest, reason, command };
        self.running.insert(action, Running { side, stage: None, started: self.now, key, made, stop: None });
        self.steps.push(step);
    }

    fn request(
        &self,
        action: ActionId,
        inputs: &FlatInputs,
        command: &minibuild_core::CommandLine,
    ) -> ExecutionRequest {
        let row = self.model.action(action);
        ExecutionRequest {
            run: self.run_id(action),
            command: command.clone(),
            verify: self.fingerprints(inputs),
            outputs: declared_outputs(&self.model, action),
            depfile: row.depfile.clone(),
            timeout: row.timeout,
        }
    }

    /// Fingerprints under which the inputs' contents went into the key. Directories have none.
    fn fingerprints(&self, inputs: &FlatInputs) -> Vec<(WsPath, Fingerprint)> {
        let mut list = Vec::with_capacity(inputs.artifacts.len());
        for &id in &inputs.artifacts {
            let content = &self.known[id.index()];
            if let (Some(fingerprint), Some(Content::File { .. } | Content::Symlink { .. })) =
                (self.bytes.here(id), content)
            {
                list.push((self.model.artifact(id).path.clone(), fingerprint));
            }
            if let Some(Ok(source)) = self.world.sources.get(&id) {
                list.extend(source.behind.iter().map(|(path, _, fingerprint)| (path.clone(), *fingerprint)));
            }
        }
        list
    }

    /// Inputs whose producers are not done, or whose bytes are not where the action would need them.
    fn missing_inputs(&self, inputs: &FlatInputs, side: Branch) -> Vec<ArtifactId> {
        let is_missing = |&id: &ArtifactId| {
            let is_there = self.bytes.here(id).is_some() || side == Branch::Remote && self.bytes.is_there(id);
            self.model.artifact(id).producer.is_some_and(|p| !is_there || self.status_of(p) != Status::Done)
        };
        inputs.artifacts.iter().copied().filter(is_missing).collect()
    }

    /// The action waits until its inputs can be used. Whoever waits holds no place.
    fn await_inputs(&mut self, action: ActionId, missing: &[ArtifactId]) {
        self.set_status(action, Status::AwaitingInputs);
        self.bytes.begin_waiting(action, missing.len());
        for &id in missing {
            let Some(producer) = self.model.artifact(id).producer else { continue };
            match self.status_of(producer) {
                Status::Failed | Status::Skipped => self.skip_consumers(producer),
                Status::Done if self.bytes.is_there(id) => self.fetch(id, DownloadReason::Input),
                Status::Done => self.recover_bytes(producer),
                _ => {}
            }
            // What it waits for may have turned out to be impossible.
            if self.status_of(action) != Status::AwaitingInputs {
                return;
            }
            self.bytes.wait_for(action, id);
        }
    }

    /// The bytes of a finished action's outputs are needed, and neither here nor known to be in the store: it may have
    /// them all the same, as where another store was used before, or a cache its result under the key. Of what was lost
    /// neither is believed.
    fn recover_bytes(&mut self, producer: ActionId) {
        let key = self.newest_key(producer).filter(|_| !self.lost.contains(&producer));
        if !self.check_existence(producer, key) && !self.look_up(producer, key) {
            self.want_bytes(producer, "its outputs are not on disk and are needed");
        }
    }

    /// Runs a finished action again, since its bytes are needed and nowhere to be had.
    pub(super) fn want_bytes(&mut self, producer: ActionId, reason: &str) {
        if self.attempts[producer.index()] >= MAX_ATTEMPTS {
            return self.give_up(producer, &format!("what it makes is gone again after {MAX_ATTEMPTS} runs: {reason}"));
        }
        self.forced.insert(producer, reason.to_owned());
        let is_hopeless = self.attempts[producer.index()] >= REMOTE_ATTEMPTS && !self.local_only.contains(&producer);
        if is_hopeless && self.may_fall_back(producer) {
            return self.fall_back(producer, &format!("what it makes there is gone again and again: {reason}"));
        }
        self.queue(producer);
    }

    /// What the action makes cannot be kept.
    pub(super) fn give_up(&mut self, action: ActionId, why: &str) {
        self.outcome.lost = true;
        let outputs = self.model.action(action).outputs.iter();
        let name = |&id: &ArtifactId| match &self.known[id.index()] {
            Some(content) => format!("`{}` ({})", self.model.artifact(id).path, content.digest_and_size().0),
            None => format!("`{}`", self.model.artifact(id).path),
        };
        let names: Vec<String> = outputs.map(name).collect();
        self.fail_without_run(action, &format!("{} cannot be had: {why}", names.join(", ")));
    }

    /// Its outputs are about to be removed and made anew.
    fn forget_outputs(&mut self, action: ActionId) {
        let model = Arc::clone(&self.model);
        for &id in &model.action(action).outputs {
            self.bytes.set_here(id, None);
            self.world.outputs.remove(&id);
        }
    }

    pub(super) fn emit_action_started(&mut self, action: ActionId) {
        self.steps.push(Step::Emit(BuildEvent::ActionStarted {
            action: self.model.action_key_path(action),
            label: self.model.label_of(action).to_string(),
            mnemonic: self.model.action(action).mnemonic.to_string(),
        }));
    }

    fn emit_branch_started(&mut self, action: ActionId, branch: Branch) {
        let strategy = self.goals.strategies.of(&self.model.action(action).mnemonic);
        let reason = match (self.sides(action), branch, strategy) {
            (Ok(Sides { here: true, there: true }), Branch::Local, _) => "a place is free here",
            (Ok(Sides { here: true, there: true }), Branch::Remote, _) => "no place is free here",
            (_, Branch::Local, _) if self.local_only.contains(&action) => "the remote side failed",
            (_, Branch::Local, Strategy::Local) => "the strategy is local",
            (_, Branch::Remote, Strategy::Remote) => "the strategy is remote",
            (_, Branch::Local, _) => "it may only run here",
            (_, Branch::Remote, _) => "it may only run remotely",
        };
        let action = self.model.action_key_path(action);
        self.steps.push(Step::Emit(BuildEvent::BranchStarted { action, branch, reason: reason.to_owned() }));
    }
}

/// What an action must make, as executors are told.
pub(super) fn declared_outputs(model: &Model, action: ActionId) -> Vec<DeclaredOutput> {
    let declared = model.action(action).outputs.iter().map(|&id| model.artifact(id));
    declared.map(|a| DeclaredOutput { path: a.path.clone(), kind: a.kind }).collect()
}
