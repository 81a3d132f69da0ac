//! From the ready queues to the executors.

use std::sync::Arc;

use minibuild_core::{
    ActionId, ArtifactId, Branch, BuildEvent, Content, DeclaredOutput, DownloadReason, ExecutionRequest, Fingerprint,
    Model, RunId, WsPath,
};
use minibuild_dynamic::race::{Attempt, Event as Heard, Plan, Work};
use minibuild_graph::{ActionKey, Priority};

use super::evaluate::FlatInputs;
use super::race::{sides_of, work_of};
use super::remote::Sides;
use super::resources::{Fit, Usage};
use super::{MAX_ATTEMPTS, Machine, Made, REMOTE_ATTEMPTS, RacePolicy, Running, Status, Step, Strategy, key_path};

/// How a branch of an action that waits for a place may start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Entry {
    /// The other can do without it.
    MayGo,
    /// Nothing goes on without it.
    HasTo,
}

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
        // Whoever starts others may be the cause: then it is looked at before that ends.
        self.enqueued += 1;
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
        while self.has_place_here() {
            let Some((action, priority)) = self.ready.pop() else { break };
            let Some(entry) = self.entry(action, Branch::Local) else { continue };
            match self.fit_here(action, &usage) {
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
            if entry == Entry::MayGo && !missing.is_empty() {
                continue;
            }
            self.enter(action, Branch::Local, &inputs, &missing);
            if self.running.get(&action).is_some_and(|running| running.runs_on(Branch::Local)) {
                self.take_resources(action, &mut usage);
            }
        }
        let has_others = !held_back.is_empty();
        for (action, priority) in held_back {
            self.ready.push(action, priority);
        }
        if !has_others {
            self.race_the_tail(&mut usage);
        }
    }

    fn has_place_here(&self) -> bool {
        self.stopping.is_none() && self.running_here < self.goals.jobs && !self.exclusive_running
    }

    /// Whether the action may start here beside what runs.
    fn fit_here(&self, action: ActionId, usage: &Usage) -> Fit {
        let exclusive = self.model.action(action).tags.exclusive;
        if self.is_in_use(action) || exclusive && self.running_here > 0 {
            return Fit::Waits;
        }
        self.fit(action, usage)
    }

    /// Places for which nothing is queued race what runs remotely.
    fn race_the_tail(&mut self, usage: &mut Usage) {
        if self.races_all() {
            return;
        }
        while self.has_place_here() && self.ready.is_empty() {
            let Some(action) = self.next_to_race(usage) else { break };
            let inputs = self.flat_inputs(action);
            if !self.missing_inputs(&inputs, Branch::Local).is_empty() {
                if let Some(running) = self.running.get_mut(&action) {
                    running.lacks_inputs_here = true;
                }
                continue;
            }
            self.enter(action, Branch::Local, &inputs, &[]);
            match self.running.get_mut(&action) {
                Some(running) if running.runs_on(Branch::Local) => self.take_resources(action, usage),
                // Whatever was wrong, it is not tried again.
                Some(running) => running.lacks_inputs_here = true,
                None => {}
            }
        }
    }

    /// The action under way remotely for which a run here is worth most: the one with most to do behind it.
    fn next_to_race(&self, usage: &Usage) -> Option<ActionId> {
        let is_candidate = |(action, running): &(&ActionId, &Running)| {
            !running.lacks_inputs_here
                && running.race.is_under_way(Branch::Remote)
                && running.race.may_start(Work::Local)
                && self.fit_here(**action, usage) == Fit::Starts
        };
        let candidates = self.running.iter().filter(is_candidate);
        candidates.map(|(&action, _)| action).max_by_key(|&action| {
            let longest = self.remaining[self.node(action)];
            (longest, std::cmp::Reverse(action))
        })
    }

    fn start_there(&mut self) {
        let jobs = self.goals.remote.as_ref().map_or(0, |remote| remote.jobs);
        let mut held_back = Vec::new();
        while self.stopping.is_none() && self.running_there < jobs {
            let Some((action, priority)) = self.ready_remote.pop() else { break };
            let Some(entry) = self.entry(action, Branch::Remote) else { continue };
            if self.is_in_use(action) {
                held_back.push((action, priority));
                continue;
            }
            let inputs = self.flat_inputs(action);
            let missing = self.missing_inputs(&inputs, Branch::Remote);
            if entry == Entry::MayGo && self.running.contains_key(&action) && !missing.is_empty() {
                continue;
            }
            self.enter(action, Branch::Remote, &inputs, &missing);
        }
        for (action, priority) in held_back {
            self.ready_remote.push(action, priority);
        }
    }

    /// Whether both branches of an action start as soon as there are places for them.
    fn races_all(&self) -> bool {
        self.goals.dynamic.policy == RacePolicy::Race || self.goals.dynamic.compares
    }

    /// Whether this branch of the action may start, if that is still of use.
    fn entry(&self, action: ActionId, branch: Branch) -> Option<Entry> {
        match self.status_of(action) {
            Status::Queued => {
                let sides = self.sides(action).ok()?;
                let (this, other) = match branch {
                    Branch::Local => (sides.here, sides.there),
                    Branch::Remote => (sides.there, sides.here),
                };
                this.then_some(if other { Entry::MayGo } else { Entry::HasTo })
            }
            Status::Running => {
                let running = self.running.get(&action).filter(|r| r.race.may_start(work_of(branch)))?;
                match running.needs(branch) {
                    true => Some(Entry::HasTo),
                    false => self.races_all().then_some(Entry::MayGo),
                }
            }
            _ => None,
        }
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

    /// Starts a branch, or has the action wait for its inputs.
    fn enter(&mut self, action: ActionId, branch: Branch, inputs: &FlatInputs, missing: &[ArtifactId]) {
        match (missing.is_empty(), self.running.contains_key(&action)) {
            (false, false) => self.await_inputs(action, missing),
            (false, true) => {
                if branch == Branch::Local {
                    // The other side was tried; what is missing here is brought next.
                    self.local_only.insert(action);
                }
                self.refuse(action, branch);
            }
            (true, _) => self.start(action, branch, inputs),
        }
    }

    fn start(&mut self, action: ActionId, branch: Branch, inputs: &FlatInputs) {
        let running = self.running.get(&action);
        let command = running.map_or_else(|| self.command_of(action), |running| running.made.command.clone());
        let attempt = running.map_or(self.attempts[action.index()], |running| running.race.next_attempt().0);
        let run = RunId { action, attempt };
        let prepared = self.facts(action, &command, inputs).and_then(|facts| {
            let (key, step) = match branch {
                Branch::Local => (facts.key(), None),
                Branch::Remote => match self.remote_request(run, &facts, inputs) {
                    Ok((key, request)) => (Ok(key), Some(Step::StartRemote(Box::new(request)))),
                    Err(problem) => (Err(problem), None),
                },
            };
            let manifest = if running.is_some() { String::new() } else { facts.manifest() };
            Ok((key.map_err(|problem| problem.to_string())?, manifest, step))
        });
        let (key, manifest, step) = match (prepared, running) {
            (Ok(prepared), _) => prepared,
            (Err(_), Some(_)) => return self.refuse(action, branch),
            (Err(problem), None) => return self.fail_without_run(action, &problem),
        };
        let step = step.unwrap_or_else(|| Step::Start(Box::new(self.request(run, inputs, &command))));
        match running {
            Some(running) if running.key.action != key.action => return self.refuse(action, branch),
            Some(_) => {}
            None => self.begin_race(action, run, key, manifest, command),
        }
        if let Some(running) = self.running.get_mut(&action) {
            running.prepared = Some(step);
        }
        self.tell_race(action, Heard::Start(work_of(branch)));
    }

    fn begin_race(
        &mut self,
        action: ActionId,
        run: RunId,
        key: ActionKey,
        mut manifest: String,
        command: minibuild_core::CommandLine,
    ) {
        let Ok(sides) = self.sides(action) else { return };
        let why = self.why_run(action, &manifest);
        let reason = why.in_short();
        minibuild_graph::note_why(&mut manifest, &why.in_full());
        self.set_status(action, Status::Running);
        self.emit_action_started(action);
        let made = Made { key: key.action, manifest, reason, command };
        let plan = Plan {
            sides: sides_of(sides),
            first: Attempt(run.attempt),
            // What an earlier run left is removed before a run here, and before a fetch.
            is_clean: true,
            compares: self.goals.dynamic.compares && sides.here && sides.there,
        };
        self.running.insert(action, Running::new(plan, key, made, self.now));
    }

    fn request(&self, run: RunId, inputs: &FlatInputs, command: &minibuild_core::CommandLine) -> ExecutionRequest {
        let action = run.action;
        let row = self.model.action(action);
        ExecutionRequest {
            run,
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
            let is_there = self.bytes.here(id).is_some() || side == Branch::Remote && self.is_held_remotely(id);
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
        if !self.ask_for_bytes(producer, key) {
            self.want_bytes(producer, "its outputs are not on disk and are needed");
        }
    }

    /// Runs a finished action again, since its bytes are needed and nowhere to be had.
    pub(super) fn want_bytes(&mut self, producer: ActionId, reason: &str) {
        if self.runs[producer.index()] >= MAX_ATTEMPTS {
            return self.give_up(producer, &format!("what it makes is gone again after {MAX_ATTEMPTS} runs: {reason}"));
        }
        self.forced.insert(producer, reason.to_owned());
        let is_hopeless = self.runs[producer.index()] >= REMOTE_ATTEMPTS && !self.local_only.contains(&producer);
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
    pub(super) fn forget_outputs(&mut self, action: ActionId) {
        self.keep_outputs(action);
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

    pub(super) fn emit_branch_started(&mut self, action: ActionId, branch: Branch) {
        let strategy = self.goals.strategies.of(&self.model.action(action).mnemonic);
        let running = self.running.get(&action);
        let (needs, other) = (running.is_some_and(|r| r.needs(branch)), running.is_some_and(Running::has_begun));
        let reason = match (self.sides(action), branch, strategy) {
            _ if needs => "the other side came to nothing",
            _ if other && self.goals.dynamic.compares => "both sides are compared",
            _ if other && self.races_all() => "both sides race",
            _ if other => "a place is free, and nothing else is left for it",
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
