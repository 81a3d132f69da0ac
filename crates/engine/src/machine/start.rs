//! From what is ready to the executors.

use std::sync::Arc;
use std::time::Duration;

use minibuild_core::{
    ActionId, ArtifactId, Branch, BuildEvent, Content, DeclaredOutput, DownloadReason, ExecutionReport,
    ExecutionRequest, ExecutionStatus, ExpectedInput, Fingerprint, Model, RunId, WsPath,
};
use minibuild_dynamic::policy::Reason;
use minibuild_dynamic::race::{Attempt, Event as Heard, Plan};
use minibuild_graph::ActionKey;

use super::evaluate::FlatInputs;
use super::held_starts::{Cause, Rank};
use super::outputs_in_use::UseWaiter;
use super::race::{sides_of, work_of};
use super::remote::Sides;
use super::resources::Usage;
use super::{MAX_ATTEMPTS, Machine, Made, REMOTE_ATTEMPTS, Running, Status, Step, Strategy, UNKNOWN_TIME, key_path};

/// What is started ahead should take about so long.
const LEAD: Duration = Duration::from_millis(50);
/// Started ahead at most for each that may run, and in all.
const MOST_AHEAD: (usize, usize) = (16, 256);

impl Machine {
    /// The action has to run.
    pub(super) fn queue(&mut self, action: ActionId) {
        self.queue_asking(action, false);
    }

    /// The action has to run; `asks` says whether a cache may have its result.
    pub(super) fn queue_asking(&mut self, action: ActionId, asks: bool) {
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
        if !sides.there && !asks {
            self.fetch_inputs(action);
        }
        match self.chooser {
            Some(_) => self.offer_action(action, sides, asks),
            None => self.push_ready(action),
        }
    }

    /// It waits for a place here, and there is no other side.
    pub(super) fn push_ready(&mut self, action: ActionId) {
        self.held_starts.hold(self.rank_of(action, Branch::Local), Cause::Unknown);
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
        self.probe_if_due();
        while self.stopping.is_none() {
            self.offer_held();
            let looked_at = self.take_held_answers() | self.look_at_reopened();
            let before = self.enqueued;
            let has_chosen = match self.chooser {
                Some(_) => self.choose(),
                None => self.start_here(),
            };
            if !looked_at && !has_chosen && self.enqueued == before {
                break;
            }
        }
    }

    /// Takes what is ready, most urgent first; always false: nothing follows from it by itself.
    fn start_here(&mut self) -> bool {
        while let Some(rank) = self.next_here() {
            let (_, action, _) = rank;
            self.held_starts.remove(action, Branch::Local);
            if let Some(cause) = self.hindrance_here(action, &self.usage) {
                let blocks_others = cause == Cause::Room;
                self.hold_start(rank, cause);
                if blocks_others {
                    break;
                }
                continue;
            }
            let inputs = self.flat_inputs(action);
            let missing = self.missing_inputs(&inputs, Branch::Local);
            match missing.is_empty() {
                true => self.start(action, Branch::Local, &inputs, None),
                false => self.await_inputs(action, &missing),
            }
        }
        false
    }

    /// The most urgent action whose start may be looked at, if there is a place for it.
    pub(super) fn next_here(&self) -> Option<Rank> {
        if !self.has_place_here() {
            return None;
        }
        let nothing_runs = self.running_here == 0;
        let first = self.held_starts.first(false, nothing_runs, |pool| self.has_place_in(pool, &self.usage));
        first.filter(|&(_, action, _)| self.may_go_ahead(action))
    }

    fn has_place_here(&self) -> bool {
        self.stopping.is_none() && self.running_here < self.goals.jobs + self.most_ahead() && !self.exclusive_running
    }

    /// Whether the action may start although others have to end before its command can run: their executor should always have the
    /// next commands at hand. Not more than takes [`LEAD`], if it is known: what is begun later may turn out to be more urgent.
    fn may_go_ahead(&self, action: ActionId) -> bool {
        let (jobs, least) = (self.goals.jobs, self.goals.ahead);
        if self.running_here < jobs + least {
            return true;
        }
        let each = LEAD.as_micros() / self.expected_run(action).as_micros().max(1);
        let ahead = usize::try_from(each).unwrap_or(usize::MAX).saturating_mul(jobs);
        self.running_here < jobs.saturating_add(ahead.min(self.most_ahead()))
    }

    fn most_ahead(&self) -> usize {
        let most = (MOST_AHEAD.0 * self.goals.jobs).min(MOST_AHEAD.1);
        if self.goals.ahead == 0 { 0 } else { most.max(self.goals.ahead) }
    }

    /// How long its command will run here, by its last run, or by others of its kind.
    fn expected_run(&self, action: ActionId) -> Duration {
        let last = self.state.action(&key_path(&self.model, action)).filter(|last| !last.failed);
        let last = last.map(|last| Duration::from_millis(last.wall_ms.max(1).into()));
        last.or_else(|| self.usual_runs.get(&self.model.action(action).mnemonic).copied()).unwrap_or(UNKNOWN_TIME)
    }

    /// A run here is over.
    pub(super) fn note_pace(&mut self, action: ActionId, report: &ExecutionReport) {
        if self.goals.ahead > 0 && report.status == ExecutionStatus::Exited(0) {
            let wall = report.cost.wall;
            let usual = self.usual_runs.entry(Arc::clone(&self.model.action(action).mnemonic)).or_insert(wall);
            *usual = *usual * 7 / 8 + wall / 8;
        }
    }

    /// A start has to wait until its cause ends.
    pub(super) fn hold_start(&mut self, rank: Rank, cause: Cause) {
        if let Cause::InUse(user) = cause {
            self.await_end_of_use(user, UseWaiter::Start(rank.1, rank.2));
        }
        self.held_starts.hold(rank, cause);
    }

    /// What keeps the action from starting here beside what runs.
    pub(super) fn hindrance_here(&self, action: ActionId, usage: &Usage) -> Option<Cause> {
        if let Some(user) = self.user_of(action) {
            return Some(Cause::InUse(user));
        }
        if self.is_exclusive(action) && self.running_here > 0 {
            return Some(Cause::Exclusive);
        }
        self.fit(action, usage)
    }

    /// Starts a branch whose inputs are all where it needs them, unless they make another key now.
    pub(super) fn start(&mut self, action: ActionId, branch: Branch, inputs: &FlatInputs, reason: Option<Reason>) {
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
            (running.prepared, running.reason) = (Some(step), reason);
        }
        self.tell_race(action, Heard::Start(work_of(branch)));
    }

    pub(super) fn begin_race(
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
            verify: self.expected_inputs(inputs),
            outputs: declared_outputs(&self.model, action),
            depfile: row.depfile.clone(),
            timeout: row.timeout,
        }
    }

    /// Inputs as they went into the key. Directories have no fingerprint.
    fn expected_inputs(&self, inputs: &FlatInputs) -> Vec<ExpectedInput> {
        let mut list = Vec::with_capacity(inputs.artifacts.len());
        for &id in &inputs.artifacts {
            let content = self.known[id.index()].as_ref().filter(|content| !matches!(content, Content::Directory(_)));
            if let (Some(fingerprint), Some(content)) = (self.bytes.here(id), content) {
                let (path, content) = (self.model.artifact(id).path.clone(), content.clone());
                list.push(ExpectedInput { path, content, fingerprint });
            }
            if let Some(Ok(source)) = self.world.sources.get(&id) {
                let expected = |(path, content, fingerprint): &(WsPath, Content, Fingerprint)| ExpectedInput {
                    path: path.clone(),
                    content: content.clone(),
                    fingerprint: *fingerprint,
                };
                list.extend(source.behind.iter().map(expected));
            }
        }
        list
    }

    /// Inputs whose producers are not done, or whose bytes are not where the action would need them.
    pub(super) fn missing_inputs(&self, inputs: &FlatInputs, side: Branch) -> Vec<ArtifactId> {
        inputs.artifacts.iter().copied().filter(|&id| self.is_missing(id, side)).collect()
    }

    pub(super) fn is_missing(&self, id: ArtifactId, side: Branch) -> bool {
        let is_there = self.bytes.here(id).is_some() || side == Branch::Remote && self.is_held_remotely(id);
        self.model.artifact(id).producer.is_some_and(|p| !is_there || self.status_of(p) != Status::Done)
    }

    /// The action waits until its inputs can be used. Whoever waits holds no place.
    pub(super) fn await_inputs(&mut self, action: ActionId, missing: &[ArtifactId]) {
        self.set_status(action, Status::AwaitingInputs);
        self.bytes.begin_waiting(action, missing.len());
        for &id in missing {
            let Some(producer) = self.model.artifact(id).producer else { continue };
            match self.status_of(producer) {
                Status::Failed | Status::Skipped => self.skip_consumers(producer),
                Status::Done if self.bytes.is_there(id) || self.bytes.is_on_its_way(id) => {
                    self.fetch(id, DownloadReason::Input)
                }
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
        let chosen = self.running.get(&action).and_then(|running| running.reason);
        let reason = match (chosen, branch, strategy) {
            (Some(_), ..) if self.goals.dynamic.compares && self.has_both_sides(action) => {
                "both sides are compared".to_owned()
            }
            (Some(reason), ..) if !matches!(reason, Reason::OnlySide | Reason::RemoteFailed) => reason.to_string(),
            (_, Branch::Local, _) if self.local_only.contains(&action) => "the remote side failed".to_owned(),
            (Some(Reason::RemoteFailed), ..) => Reason::RemoteFailed.to_string(),
            (_, Branch::Local, _) if self.streams(action) => "its output is streamed".to_owned(),
            (_, Branch::Local, Strategy::Local) => "the strategy is local".to_owned(),
            (_, Branch::Remote, Strategy::Remote) => "the strategy is remote".to_owned(),
            (_, Branch::Local, _) => "it may only run here".to_owned(),
            (_, Branch::Remote, _) => "it may only run remotely".to_owned(),
        };
        self.note_branch(action, branch, reason);
    }

    /// Tells, and remembers, that a branch started.
    pub(super) fn note_branch(&mut self, action: ActionId, branch: Branch, reason: String) {
        if let Some(run) = self.running.get_mut(&action).and_then(|running| running.run_mut(branch)) {
            run.reason = Some(reason.clone());
        }
        let action = self.model.action_key_path(action);
        self.steps.push(Step::Emit(BuildEvent::BranchStarted { action, branch, reason }));
    }

    fn has_both_sides(&self, action: ActionId) -> bool {
        self.sides(action) == Ok(Sides { here: true, there: true })
    }
}

/// What an action must make, as executors are told.
pub(super) fn declared_outputs(model: &Model, action: ActionId) -> Vec<DeclaredOutput> {
    let declared = model.action(action).outputs.iter().map(|&id| model.artifact(id));
    declared.map(|a| DeclaredOutput { path: a.path.clone(), kind: a.kind }).collect()
}
