//! Requested targets: when they are done, and what is said of them.

use std::time::Duration;

use minibuild_core::{ActionId, ArtifactId, BuildEvent, DownloadReason, OutputEvent, Runner, TestStatus};

use super::finish::millis;
use super::{Goal, Machine, Status, Step};

impl Machine {
    pub(super) fn mark_goals(&mut self) {
        let mut is_toplevel = vec![false; self.model.artifacts.len()];
        for &id in self.goals.targets.iter().flat_map(|goal| &goal.artifacts) {
            is_toplevel[id.index()] = true;
        }
        for (index, artifact) in self.model.artifacts.iter().enumerate() {
            if let Some(why) = self.goals.wishes.reason(&artifact.path, is_toplevel[index]) {
                self.bytes.want(ArtifactId::new(index), why);
            }
        }
        for (index, goal) in self.goals.targets.iter().enumerate() {
            for id in &goal.runfiles {
                self.bytes.want(*id, DownloadReason::Run);
            }
            let producers =
                goal.artifacts.iter().chain(&goal.runfiles).filter_map(|&id| self.model.artifact(id).producer);
            let mut actions: Vec<ActionId> = producers.chain(goal.test).collect();
            actions.sort_unstable();
            actions.dedup();
            for &action in &actions {
                self.goals_of.entry(action).or_default().push(index);
            }
            self.unfinished.push(actions.len());
        }
    }

    pub(super) fn take_sources(&mut self) {
        for (id, fact) in &self.world.sources {
            if let Ok(fact) = fact {
                self.known[id.index()] = Some(fact.content.clone());
                self.bytes.set_here(*id, Some(fact.fingerprint));
            }
        }
    }

    pub(super) fn announce_goals_of(&mut self, action: ActionId) {
        let failed = matches!(self.status_of(action), Status::Failed | Status::Skipped);
        for goal in self.goals_of.get(&action).cloned().unwrap_or_default() {
            if failed {
                self.announce(goal, false);
            }
            self.announce_if_complete(goal);
        }
    }

    /// Says that a requested target is done, as soon as everything it stands for is.
    pub(super) fn announce_if_complete(&mut self, goal: usize) {
        if self.unfinished[goal] == 0
            && self.goal_fetches[goal] == 0
            && !self.announced[goal]
            && self.bytes_are_here(goal)
        {
            self.announce(goal, self.sources_are_usable(goal));
        }
    }

    /// Whether everything wanted of the target is on disk.
    fn bytes_are_here(&self, goal: usize) -> bool {
        let Goal { artifacts, runfiles, .. } = &self.goals.targets[goal];
        let is_absent = |id: &ArtifactId| {
            let is_output = self.model.artifact(*id).producer.is_some();
            is_output && (self.bytes.is_wanted_and_absent(*id) || self.is_part_absent(*id))
        };
        !artifacts.iter().chain(runfiles).chain(&self.behind[goal]).any(is_absent)
    }

    /// Says what became of a requested target, once.
    pub(super) fn announce(&mut self, goal: usize, success: bool) {
        if self.outcome.other_function.is_some() || std::mem::replace(&mut self.announced[goal], true) {
            return;
        }
        let Goal { target, artifacts, .. } = &self.goals.targets[goal];
        let label = self.model.target(*target).label.to_string();
        let outputs = artifacts.iter().filter_map(|&id| self.output_event(id, true)).collect();
        if !success {
            self.report_unusable_sources(goal);
        }
        self.steps.push(Step::Emit(BuildEvent::TargetCompleted { label, success, outputs }));
    }

    fn sources_are_usable(&self, goal: usize) -> bool {
        let usable = |id: &ArtifactId| !matches!(self.world.sources.get(id), Some(Err(_)));
        self.goals.targets[goal].artifacts.iter().all(usable)
    }

    fn report_unusable_sources(&mut self, goal: usize) {
        let artifacts = self.goals.targets[goal].artifacts.clone();
        for id in artifacts {
            if let Some(Err(why)) = self.world.sources.get(&id) {
                self.outcome.failed = true;
                let text = why.clone();
                self.message(minibuild_core::Level::Error, text);
            }
        }
    }

    fn output_event(&self, id: ArtifactId, with_presence: bool) -> Option<OutputEvent> {
        let content = self.known[id.index()].as_ref()?;
        let (digest, size) = content.digest_and_size();
        Some(OutputEvent {
            path: self.model.artifact(id).path.to_string(),
            kind: content.kind(),
            digest,
            size,
            present: with_presence.then_some(self.bytes.here(id).is_some()),
        })
    }

    pub(super) fn emit_completed(
        &mut self,
        action: ActionId,
        success: bool,
        runner: Runner,
        exit_code: i32,
        wall: Duration,
        reason: String,
    ) {
        // The build is begun anew; that is what counts.
        if self.outcome.other_function.is_some() {
            return;
        }
        let row = self.model.action(action);
        let outputs = match success {
            true => row.outputs.iter().filter_map(|&id| self.output_event(id, false)).collect(),
            false => Vec::new(),
        };
        self.steps.push(Step::Emit(BuildEvent::ActionCompleted {
            action: self.model.action_key_path(action),
            label: self.model.label_of(action).to_string(),
            mnemonic: row.mnemonic.to_string(),
            success,
            runner,
            exit_code,
            wall_ms: millis(wall),
            reason,
            outputs,
        }));
        if success && runner == Runner::UpToDate && self.is_test(action) {
            self.emit_test(action, TestStatus::Cached, 0, Duration::ZERO);
        }
    }

    pub(super) fn emit_test(&mut self, action: ActionId, status: TestStatus, attempt: u32, wall: Duration) {
        let label = self.model.label_of(action).to_string();
        let log = self.model.test_log_path(action).to_string();
        self.steps.push(Step::Emit(BuildEvent::TestCompleted { label, status, attempt, ms: millis(wall), log }));
    }
}
