//! What a driver does with the steps of races, and what is left when it crashes.

use minibuild_dynamic::race::{Event, Halt, Loser, Outcome, Plan, Race, Rules, Step};

use crate::checks;
use crate::mutants::Mutation;
use crate::world::{
    Action, Config, DiskWork, End, Fault, Phase, Process, Staged, Stream, Tag, Tree, Upload, Violation, World,
};

fn show_loser(outcome: &mut Outcome<Tag>) {
    if let Outcome::Won { winner, loser: Loser::Failed(failure), .. } = outcome {
        winner.report = failure.report;
    }
}
impl<K: Rules + Clone + Eq> World<K> {
    /// Tells a completion; it may come again later.
    pub fn complete(&mut self, config: &Config, i: usize, event: Event<Tag>) -> Result<(), Violation> {
        if std::mem::take(&mut self.actions[i].will_repeat) {
            self.actions[i].duplicate = Some(event.clone());
        }
        self.tell(config, i, event)
    }

    pub fn halt_all(&mut self, config: &Config, halt: Halt) -> Result<(), Violation> {
        self.halt = self.halt.max(Some(halt));
        for i in 0..self.actions.len() {
            self.tell(config, i, Event::Halt(halt))?;
        }
        Ok(())
    }

    pub fn tell(&mut self, config: &Config, i: usize, event: Event<Tag>) -> Result<(), Violation> {
        let steps = self.actions[i].race.handle(event);
        for step in steps {
            self.perform(config, i, step)?;
        }
        Ok(())
    }

    fn perform(&mut self, config: &Config, i: usize, step: Step<Tag>) -> Result<(), Violation> {
        checks::step(self, i, &step)?;
        let action = &mut self.actions[i];
        match step {
            Step::RunLocal(attempt) => {
                action.tree = Tree::EMPTY;
                action.is_begun = true;
                action.begin_branch(0);
                action.process = Some(Process { attempt, phase: Phase::Started, told: None, is_survivor: false });
                self.slot = Some(i);
            }
            Step::StopLocal(_, reason) => {
                if let Some(process) = &mut action.process {
                    process.told = Some(reason);
                }
            }
            Step::LookUp(attempt) => {
                action.has_started = true;
                action.need = None;
                action.look_up = Some(Stream { attempt, is_dropped: false });
            }
            Step::DropLookUp(_) => {
                if let Some(stream) = &mut action.look_up {
                    stream.is_dropped = true;
                }
            }
            Step::Execute(attempt) => {
                action.begin_branch(1);
                action.execution = Some(Stream { attempt, is_dropped: false });
                self.join_upload(i);
            }
            Step::Stage(attempt) => {
                let of = action.race.remote_result().ok_or("staged without a result")?.attempt;
                action.staging = Some(Stream { attempt, is_dropped: false });
                action.staged = Some(Staged { attempt, of, outputs: 0 });
            }
            Step::DropRemote(attempt, _) => {
                for stream in [&mut action.execution, &mut action.staging].into_iter().flatten() {
                    stream.is_dropped |= stream.attempt == attempt;
                }
                self.leave_upload(i);
                let others = matches!(self.upload, Upload::UnderWay(users) if users != 0);
                if config.mutation == Some(Mutation::CancelsUpload) && others {
                    return Err("an upload that others share was cancelled because one user lost");
                }
            }
            Step::SetAside(attempt) => action.disk = Some(DiskWork::SettingAside(attempt)),
            Step::Publish { attempt, .. } => {
                action.is_begun = true;
                action.disk = Some(DiskWork::Publishing(attempt, 0));
            }
            Step::KeepStaged(_) | Step::DiscardStaged(_) => {
                if config.mutation != Some(Mutation::LeaksStaged) {
                    action.staged = None;
                }
            }
            Step::Need(need) => {
                if config.mutation != Some(Mutation::ForgetsNeed) {
                    action.need = Some(need);
                }
            }
            Step::BranchEnded(branch, _) => action.open[branch as usize] = false,
            Step::Finish(mut outcome) => {
                if config.mutation == Some(Mutation::ShowsLoser) {
                    show_loser(&mut outcome);
                }
                let end = checks::outcome(self, config, i, &outcome)?;
                let action = &mut self.actions[i];
                action.end = Some(end);
                if matches!(end, End::LocalWon | End::RemoteWon | End::RemoteWonUnpublished) {
                    // What may lie there beside the result is not forgotten.
                    action.record = Some(action.tree);
                    action.is_begun = action.aside_failed && end == End::RemoteWonUnpublished;
                } else if end != End::Stopped {
                    self.halt_all(config, Halt::FailFast)?;
                }
            }
        }
        Ok(())
    }

    fn join_upload(&mut self, i: usize) {
        match &mut self.upload {
            Upload::NotStarted => self.upload = Upload::UnderWay(1 << i),
            Upload::UnderWay(users) => *users |= 1 << i,
            Upload::Done => {}
        }
    }

    pub fn leave_upload(&mut self, i: usize) {
        if let Upload::UnderWay(users) = &mut self.upload {
            *users &= !(1 << i);
        }
    }

    /// All that is in memory is gone; what was under way on the disk stops where it is.
    pub fn crash(&mut self) {
        self.spend(Fault::Crash);
        self.is_down = true;
        self.slot = None;
        self.halt = None;
        if let Upload::UnderWay(_) = self.upload {
            self.upload = Upload::NotStarted;
        }
        for action in &mut self.actions {
            (action.look_up, action.execution, action.staging, action.disk) = (None, None, None, None);
            (action.duplicate, action.need, action.will_repeat) = (None, None, false);
            action.open = [false; 2];
        }
    }

    pub fn begin_again(&mut self, config: &Config) -> Result<(), Violation> {
        self.is_down = false;
        for (action, &(sides, _)) in self.actions.iter_mut().zip(&config.actions) {
            action.staged = None;
            if let Some(tree) = action.record {
                if !action.is_begun && action.tree != tree {
                    return Err("a remembered result is believed that does not lie there");
                }
                continue;
            }
            if action.end.is_some() {
                continue;
            }
            let is_clean = !action.is_begun || config.mutation == Some(Mutation::ForgetsBegun);
            let first = action.race.next_attempt();
            let plan = Plan { sides, first, is_clean, compares: config.compares };
            let (tree, process, is_begun) = (action.tree, action.process, action.is_begun);
            let race = Race::with_rules(plan, self.rules.clone());
            *action = Action { tree, process, is_begun, ..Action::new(race) };
        }
        Ok(())
    }
}
