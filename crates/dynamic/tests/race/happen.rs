//! What happens around races: processes go on and end, remote sides answer, disks and kills fail.
//!
//! Messages are not delayed separately: to whoever sees nothing but messages, one in flight is work that has not ended
//! yet. What differs is that its sender no longer hears of a stop, so every end but "stopped" stays possible after one.

use minibuild_core::{Branch, StopReason};
use minibuild_dynamic::race::{Answer, Event, FailureClass, Halt, LocalEnd, RemoteEnd, Rules, StagingEnd};

use crate::checks;
use crate::moves::Move;
use crate::mutants::Mutation;
use crate::world::{Cell, Config, DiskWork, Fault, Phase, Process, Tag, Tree, Truth, Upload, Violation, World};

fn failed(tag: Tag) -> Tag {
    Tag { truth: Truth::Failed, ..tag }
}
impl<K: Rules + Clone + Eq> World<K> {
    /// Does it, with all that follows at once.
    pub fn apply(&mut self, config: &Config, mv: Move) -> Result<(), Violation> {
        match mv {
            Move::Start(i, work) => self.tell(config, i, Event::Start(work))?,
            Move::CannotStart(i, branch) => self.refuse(config, i, branch)?,
            Move::Runs(i) => self.go_on(config, i)?,
            Move::ExitsNonZero(i) => {
                self.end_process(config, i, |tag| LocalEnd::Failed(FailureClass::Command, failed(tag)))?;
            }
            Move::DiesOfSignal(i) => {
                self.spend(Fault::Local);
                self.end_process(config, i, |tag| LocalEnd::Failed(FailureClass::Doubtful, failed(tag)))?;
            }
            Move::DiesAsTold(i) if self.is_down => self.actions[i].process = None,
            Move::DiesAsTold(i) => {
                self.end_process(config, i, |tag| LocalEnd::Stopped(Tag { truth: Truth::Stopped, ..tag }))?;
            }
            Move::CannotBeKilled(i) => self.survive(config, i)?,
            Move::Answers(i, is_hit) => self.answer(config, i, is_hit)?,
            Move::RunsRemotely(i) | Move::FailsRemotely(i) => self.end_remote(config, i, mv)?,
            Move::RemoteBreaks(i) | Move::LacksInputs(i) => {
                self.spend(Fault::Remote);
                self.end_remote(config, i, mv)?;
            }
            Move::Closes(i) => self.close(config, i)?,
            Move::Downloads(i) => self.download(config, i)?,
            Move::DownloadFails(i) => self.fail_download(config, i)?,
            Move::SetsAside(i) | Move::SetAsideFails(i) => {
                self.set_aside(config, i, matches!(mv, Move::SetsAside(_)))?;
            }
            Move::Renames(i) => self.rename(config, i)?,
            Move::RenameFails(i) => self.fail_rename(config, i)?,
            Move::WillComeTwice(i) => {
                self.spend(Fault::Duplicate);
                self.actions[i].will_repeat = true;
            }
            Move::ComesTwice(i) => self.repeat(config, i)?,
            Move::UploadEnds => self.upload = Upload::Done,
            Move::Interrupt => {
                self.spend(Fault::Interrupt);
                let halt = if self.halt >= Some(Halt::Interrupt) { Halt::Kill } else { Halt::Interrupt };
                self.halt_all(config, halt)?;
            }
            Move::NeighbourFails => {
                self.spend(Fault::Neighbour);
                self.halt_all(config, Halt::FailFast)?;
            }
            Move::Crash => self.crash(),
            Move::NextBuild => self.begin_again(config)?,
        }
        checks::state(self)
    }

    pub fn refuse(&mut self, config: &Config, i: usize, branch: Branch) -> Result<(), Violation> {
        let is_local = branch == Branch::Local;
        self.spend(if is_local { Fault::Local } else { Fault::Remote });
        let action = &mut self.actions[i];
        action.has_started = true;
        let report = Tag { is_local, attempt: action.race.next_attempt(), truth: Truth::Failed };
        self.tell(config, i, Event::CannotStart(branch, FailureClass::Infrastructure, report))
    }

    fn go_on(&mut self, config: &Config, i: usize) -> Result<(), Violation> {
        let action = &mut self.actions[i];
        let Some(process) = &mut action.process else { return Err("world: nothing runs") };
        let attempt = process.attempt;
        if process.phase < Phase::Exited && action.has_published {
            return Err("something of a local run writes after another result was published");
        }
        match process.phase {
            Phase::Started => {
                process.phase = Phase::Writing;
                action.tree.cells[0] = Cell::Half(attempt);
                action.tree.has_transient = true;
            }
            Phase::Writing => {
                process.phase = Phase::Exited;
                action.tree = Tree::whole(Cell::Local(attempt));
            }
            Phase::Exited => return self.end_process(config, i, LocalEnd::Succeeded),
        }
        Ok(())
    }

    fn end_process(
        &mut self,
        config: &Config,
        i: usize,
        end: impl FnOnce(Tag) -> LocalEnd<Tag>,
    ) -> Result<(), Violation> {
        let Some(process) = self.actions[i].process.take() else { return Err("world: nothing runs") };
        self.end_local(config, i, process, end)
    }

    fn survive(&mut self, config: &Config, i: usize) -> Result<(), Violation> {
        self.spend(Fault::Kill);
        let Some(process) = &mut self.actions[i].process else { return Err("world: nothing runs") };
        process.is_survivor = true;
        let process = *process;
        let is_hidden = config.mutation == Some(Mutation::HidesSurvivor);
        self.end_local(config, i, process, |tag| match is_hidden {
            true => LocalEnd::Stopped(tag),
            false => LocalEnd::Stuck(failed(tag)),
        })
    }

    fn end_local(
        &mut self,
        config: &Config,
        i: usize,
        process: Process,
        end: impl FnOnce(Tag) -> LocalEnd<Tag>,
    ) -> Result<(), Violation> {
        if process.told != Some(StopReason::LostRace) || config.mutation != Some(Mutation::KeepsSlot) {
            self.slot = None;
        }
        let end = end(Tag { is_local: true, attempt: process.attempt, truth: Truth::Good });
        if process.told.is_none() && matches!(end, LocalEnd::Failed(FailureClass::Command, _)) {
            self.actions[i].has_own_failure = true;
        }
        self.complete(config, i, Event::LocalEnded(process.attempt, end))
    }

    fn answer(&mut self, config: &Config, i: usize, is_hit: bool) -> Result<(), Violation> {
        let to_stage = config.actions[i].1;
        let action = &mut self.actions[i];
        let Some(stream) = action.look_up.take() else { return Err("world: nobody was asked") };
        let report = Tag { is_local: false, attempt: stream.attempt, truth: Truth::Good };
        let answer = if is_hit { Answer::Hit { report, to_stage } } else { Answer::Miss };
        if is_hit && !stream.is_dropped {
            action.open[1] = true;
            action.is_remote_decided = !to_stage;
        }
        self.complete(config, i, Event::LookedUp(stream.attempt, answer))
    }

    fn end_remote(&mut self, config: &Config, i: usize, mv: Move) -> Result<(), Violation> {
        let to_stage = config.actions[i].1;
        let action = &mut self.actions[i];
        let Some(stream) = action.execution.take() else { return Err("world: nothing runs remotely") };
        let report = Tag { is_local: false, attempt: stream.attempt, truth: Truth::Good };
        let end = match mv {
            Move::RunsRemotely(_) => RemoteEnd::Succeeded { report, to_stage },
            Move::FailsRemotely(_) => {
                action.has_own_failure |= !stream.is_dropped;
                RemoteEnd::Failed(FailureClass::Command, failed(report))
            }
            Move::LacksInputs(_) => RemoteEnd::Failed(FailureClass::Inputs, failed(report)),
            _ => RemoteEnd::Failed(FailureClass::Infrastructure, failed(report)),
        };
        action.is_remote_decided = match &end {
            RemoteEnd::Succeeded { to_stage, .. } => !to_stage,
            RemoteEnd::Failed(class, _) => *class == FailureClass::Command,
            RemoteEnd::Closed(_) => false,
        };
        self.leave_upload(i);
        self.complete(config, i, Event::RemoteEnded(stream.attempt, end))
    }

    fn close(&mut self, config: &Config, i: usize) -> Result<(), Violation> {
        let action = &mut self.actions[i];
        let report = |attempt| Tag { is_local: false, attempt, truth: Truth::Stopped };
        if let Some(stream) = action.execution.take() {
            self.complete(config, i, Event::RemoteEnded(stream.attempt, RemoteEnd::Closed(report(stream.attempt))))
        } else if let Some(stream) = action.staging.take() {
            self.complete(config, i, Event::Staged(stream.attempt, StagingEnd::Closed(report(stream.attempt))))
        } else {
            Err("world: nothing to close")
        }
    }

    fn download(&mut self, config: &Config, i: usize) -> Result<(), Violation> {
        let action = &mut self.actions[i];
        let (Some(stream), Some(staged)) = (action.staging, &mut action.staged) else {
            return Err("world: nothing is staged");
        };
        staged.outputs += 1;
        if staged.outputs < 2 {
            return Ok(());
        }
        action.staging = None;
        action.is_remote_decided = true;
        self.complete(config, i, Event::Staged(stream.attempt, StagingEnd::Complete))
    }

    fn fail_download(&mut self, config: &Config, i: usize) -> Result<(), Violation> {
        self.spend(Fault::Download);
        let Some(stream) = self.actions[i].staging.take() else { return Err("world: nothing is staged") };
        let tag = Tag { is_local: false, attempt: stream.attempt, truth: Truth::Failed };
        let end = StagingEnd::Failed(FailureClass::Infrastructure, tag);
        self.complete(config, i, Event::Staged(stream.attempt, end))
    }

    fn set_aside(&mut self, config: &Config, i: usize, works: bool) -> Result<(), Violation> {
        let action = &mut self.actions[i];
        let Some(DiskWork::SettingAside(attempt)) = action.disk.take() else {
            return Err("world: nothing is set aside");
        };
        let is_clean = works || config.mutation == Some(Mutation::HidesLeftovers);
        if works {
            action.tree = Tree::EMPTY;
        } else {
            action.aside_failed = true;
            self.spend(Fault::SetAside);
        }
        self.complete(config, i, Event::SetAside { attempt, is_clean })
    }

    /// One output comes to its place; whatever lies there makes room.
    fn rename(&mut self, config: &Config, i: usize) -> Result<(), Violation> {
        let action = &mut self.actions[i];
        let (Some(DiskWork::Publishing(attempt, done)), Some(staged)) = (action.disk, action.staged) else {
            return Err("published what is not staged");
        };
        if let Some(cell) = action.tree.cells.get_mut(usize::from(done)) {
            *cell = Cell::Remote(staged.of);
            // A directory is replaced as a whole.
            action.tree.has_transient &= done == 0 || config.mutation == Some(Mutation::MergesTrees);
            action.disk = Some(DiskWork::Publishing(attempt, done + 1));
            return Ok(());
        }
        action.disk = None;
        action.staged = None;
        action.has_published = true;
        self.complete(config, i, Event::Published(attempt, Ok(())))
    }

    fn fail_rename(&mut self, config: &Config, i: usize) -> Result<(), Violation> {
        self.spend(Fault::Publish);
        let Some(DiskWork::Publishing(attempt, _)) = self.actions[i].disk.take() else {
            return Err("world: nothing is published");
        };
        self.actions[i].is_remote_decided = false;
        let tag = Tag { is_local: false, attempt, truth: Truth::Failed };
        self.complete(config, i, Event::Published(attempt, Err(tag)))
    }

    fn repeat(&mut self, config: &Config, i: usize) -> Result<(), Violation> {
        let Some(event) = self.actions[i].duplicate.take() else { return Err("world: nothing to repeat") };
        let before = self.actions[i].race.clone();
        self.tell(config, i, event)?;
        match self.actions[i].race == before {
            true => Ok(()),
            false => Err("a completion that came twice, or late, changed something"),
        }
    }
}
