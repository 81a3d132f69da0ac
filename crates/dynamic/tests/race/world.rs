//! What surrounds races: processes, a disk, remote streams, an upload that is shared, one local slot, a build that can
//! be interrupted and crash. It does what the steps say, as the driver would, and complains where the real thing would
//! only go wrong.
//!
//! Messages are not delayed separately: to whoever sees nothing but messages, one in flight is work that has not ended
//! yet. What differs is that its sender no longer hears of a stop, so every end but "stopped" stays possible after one.

use std::hash::{Hash, Hasher};

use minibuild_core::{Branch, StopReason};
use minibuild_dynamic::race::{
    Answer, Attempt, Event, FailureClass, Halt, LocalEnd, Loser, Need, Outcome, Plan, Race, RemoteEnd, Rules, Sides,
    StagingEnd, Step, Work,
};

use crate::checks;
use crate::mutants::Mutation;

/// What a branch tells: who, which run, and how it really went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tag {
    pub is_local: bool,
    pub attempt: Attempt,
    pub truth: Truth,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Truth {
    Good,
    Failed,
    Stopped,
}

/// What lies at one declared output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cell {
    Empty,
    Half(Attempt),
    Local(Attempt),
    /// Of the run or look-up whose report has this attempt.
    Remote(Attempt),
}

/// Two declared outputs; the second is a directory that may hold a transient file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tree {
    pub cells: [Cell; 2],
    pub has_transient: bool,
}

impl Tree {
    pub const EMPTY: Tree = Tree { cells: [Cell::Empty; 2], has_transient: false };

    pub fn whole(cell: Cell) -> Tree {
        Tree { cells: [cell; 2], has_transient: false }
    }
}

/// A command and what it started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Process {
    pub attempt: Attempt,
    pub phase: Phase,
    pub told: Option<StopReason>,
    /// It cannot be killed, and nobody waits for it any longer.
    pub is_survivor: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Phase {
    Started,
    /// Half an output and a transient file are there.
    Writing,
    /// All outputs are there, the command exited; a descendant lives.
    Exited,
}

/// Something remote that will be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Stream {
    pub attempt: Attempt,
    pub is_dropped: bool,
}

/// What is in the staging directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Staged {
    pub attempt: Attempt,
    pub of: Attempt,
    pub outputs: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DiskWork {
    SettingAside(Attempt),
    /// So many outputs are in their places.
    Publishing(Attempt, u8),
}

/// How an action ended, as far as later checks need it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum End {
    LocalWon,
    RemoteWon,
    RemoteWonUnpublished,
    LocalFailed,
    RemoteFailed,
    BothFailed,
    Stopped,
}

/// Where the numbers of another action begin, for the hasher.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Border;

impl Hash for Border {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u16(0);
    }
}

/// One action.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Action<K> {
    pub border: Border,
    pub race: Race<Tag, K>,
    pub process: Option<Process>,
    pub look_up: Option<Stream>,
    pub execution: Option<Stream>,
    pub staging: Option<Stream>,
    pub staged: Option<Staged>,
    pub disk: Option<DiskWork>,
    pub tree: Tree,
    /// The state on disk says that something began to change the outputs.
    pub is_begun: bool,
    /// The tree that a remembered result says there is.
    pub record: Option<Tree>,
    pub end: Option<End>,
    pub need: Option<Need>,
    pub has_started: bool,
    /// Branches that began and were not said to have ended.
    pub open: [bool; 2],
    /// A remote result whose bytes are all here, or a remote failure that decides, was told.
    pub is_remote_decided: bool,
    /// The command's own failure was told while nothing was decided.
    pub has_own_failure: bool,
    pub has_published: bool,
    pub aside_failed: bool,
    /// The next completion will come a second time.
    pub will_repeat: bool,
    /// The event that will.
    pub duplicate: Option<Event<Tag>>,
}

/// What may go wrong, and how often still.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    /// A signal ends a local run; or its helper dies, and a report of that replaces the completion that is lost; or it
    /// cannot start.
    Local,
    /// Something of a local run cannot be killed.
    Kill,
    /// A remote run fails as such, or its completion is lost and a deadline ends it, or it lacks inputs, or
    /// cannot start.
    Remote,
    Download,
    SetAside,
    Publish,
    /// A completion comes twice, the second time at any later moment.
    Duplicate,
    Crash,
    Interrupt,
}

pub const FAULTS: usize = 9;

/// The bounds of one exploration.
#[derive(Clone, Debug)]
pub struct Config {
    pub name: &'static str,
    /// For each action: where it may run and whether its outputs are wanted on disk.
    pub actions: Vec<(Sides, bool)>,
    pub look_ups: bool,
    pub compares: bool,
    /// How often each fault may happen, in the order of [`Fault`].
    pub budget: [u8; FAULTS],
    /// How many faults may happen in all.
    pub faults: u8,
    pub mutation: Option<Mutation>,
}

/// Everything.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct World<K> {
    pub actions: Vec<Action<K>>,
    /// The one local slot.
    pub slot: Option<usize>,
    pub upload: Upload,
    pub halt: Option<Halt>,
    pub is_down: bool,
    pub budget: [u8; FAULTS],
    pub faults: u8,
    pub rules: K,
}

/// The upload of an input that both actions read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Upload {
    NotStarted,
    /// Who waits for it, as bits.
    UnderWay(u8),
    Done,
}

/// What may happen next, to one action or to all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Move {
    Start(usize, Work),
    /// It is found that the branch cannot start.
    CannotStart(usize, Branch),
    /// The process goes on: writes, exits, its descendants are killed and its end is told.
    Runs(usize),
    ExitsNonZero(usize),
    DiesOfSignal(usize),
    DiesAsTold(usize),
    CannotBeKilled(usize),
    Answers(usize, bool),
    RunsRemotely(usize),
    FailsRemotely(usize),
    RemoteBreaks(usize),
    /// What it reads is nowhere.
    LacksInputs(usize),
    Closes(usize),
    Downloads(usize),
    DownloadFails(usize),
    SetsAside(usize),
    SetAsideFails(usize),
    Renames(usize),
    RenameFails(usize),
    /// From now on the next completion of the action is one that comes twice.
    WillComeTwice(usize),
    /// It comes the second time.
    ComesTwice(usize),
    UploadEnds,
    Interrupt,
    Crash,
    NextBuild,
}

/// What is wrong with a state.
pub type Violation = &'static str;

fn show_loser(outcome: &mut Outcome<Tag>) {
    if let Outcome::Won { winner, loser: Loser::Failed(failure), .. } = outcome {
        winner.report = failure.report;
    }
}

fn failed(tag: Tag) -> Tag {
    Tag { truth: Truth::Failed, ..tag }
}

impl<K: Rules + Clone + Eq> World<K> {
    pub fn new(config: &Config, rules: &K) -> Self {
        let actions = config.actions.iter().map(|&(sides, _)| {
            let plan = Plan { sides, first: Attempt(0), is_clean: true, compares: config.compares };
            Action::new(Race::with_rules(plan, rules.clone()))
        });
        Self {
            actions: actions.collect(),
            slot: None,
            upload: Upload::NotStarted,
            halt: None,
            is_down: false,
            budget: config.budget,
            faults: config.faults,
            rules: rules.clone(),
        }
    }

    fn may(&self, fault: Fault) -> bool {
        self.faults > 0 && self.budget[fault as usize] > 0
    }

    fn spend(&mut self, fault: Fault) {
        self.budget[fault as usize] -= 1;
        self.faults -= 1;
    }

    /// Everything that may happen now.
    pub fn moves(&self, config: &Config) -> Vec<Move> {
        let mut moves = Vec::new();
        if self.is_down {
            self.moves_while_down(config, &mut moves);
            return moves;
        }
        for i in 0..self.actions.len() {
            self.moves_of(config, i, &mut moves);
        }
        if matches!(self.upload, Upload::UnderWay(_)) {
            moves.push(Move::UploadEnds);
        }
        let is_over = self.actions.iter().all(|action| action.end.is_some());
        if !is_over && self.may(Fault::Interrupt) {
            moves.push(Move::Interrupt);
        }
        // Nothing that is remembered changes after the end.
        if !is_over && self.may(Fault::Crash) {
            moves.push(Move::Crash);
        }
        moves
    }

    /// What was started by the crashed build goes on until its helpers have killed it; they hold the lock till then.
    fn moves_while_down(&self, config: &Config, moves: &mut Vec<Move>) {
        for (i, action) in self.actions.iter().enumerate() {
            if let Some(process) = &action.process {
                if process.phase != Phase::Exited {
                    moves.push(Move::Runs(i));
                }
                moves.push(Move::DiesAsTold(i));
            }
        }
        let is_locked = self.actions.iter().any(|action| action.process.is_some());
        if !is_locked || config.mutation == Some(Mutation::NoLock) {
            moves.push(Move::NextBuild);
        }
    }

    fn moves_of(&self, config: &Config, i: usize, moves: &mut Vec<Move>) {
        let action = &self.actions[i];
        for work in [Work::Local, Work::LookUp, Work::Execute] {
            let is_free = work != Work::Local || self.slot.is_none();
            if is_free && (work != Work::LookUp || config.look_ups) && action.race.may_start(work) {
                moves.push(Move::Start(i, work));
            }
        }
        let sides = [(Work::Local, Branch::Local, Fault::Local), (Work::Execute, Branch::Remote, Fault::Remote)];
        for (work, branch, fault) in sides {
            let may_refuse = action.race.may_start(work) && self.may(fault);
            moves.extend(may_refuse.then_some(Move::CannotStart(i, branch)));
        }
        if let Some(process) = action.process.filter(|process| !process.is_survivor) {
            moves.extend([Move::Runs(i)]);
            if process.phase != Phase::Exited {
                moves.push(Move::ExitsNonZero(i));
                moves.extend(self.may(Fault::Local).then_some(Move::DiesOfSignal(i)));
            }
            if process.told.is_some() {
                moves.push(Move::DiesAsTold(i));
                moves.extend(self.may(Fault::Kill).then_some(Move::CannotBeKilled(i)));
            }
        }
        if action.look_up.is_some() {
            moves.extend([Move::Answers(i, true), Move::Answers(i, false)]);
        }
        if let Some(stream) = action.execution {
            if self.upload == Upload::Done {
                moves.extend([Move::RunsRemotely(i), Move::FailsRemotely(i)]);
            }
            if self.may(Fault::Remote) {
                moves.extend([Move::RemoteBreaks(i), Move::LacksInputs(i)]);
            }
            moves.extend(stream.is_dropped.then_some(Move::Closes(i)));
        }
        if let Some(stream) = action.staging {
            moves.push(Move::Downloads(i));
            moves.extend(self.may(Fault::Download).then_some(Move::DownloadFails(i)));
            moves.extend(stream.is_dropped.then_some(Move::Closes(i)));
        }
        match action.disk {
            Some(DiskWork::SettingAside(_)) => {
                moves.push(Move::SetsAside(i));
                moves.extend(self.may(Fault::SetAside).then_some(Move::SetAsideFails(i)));
            }
            Some(DiskWork::Publishing(..)) => {
                moves.push(Move::Renames(i));
                moves.extend(self.may(Fault::Publish).then_some(Move::RenameFails(i)));
            }
            None => {}
        }
        let may_repeat = action.end.is_none() && action.duplicate.is_none() && self.may(Fault::Duplicate);
        moves.extend(may_repeat.then_some(Move::WillComeTwice(i)));
        moves.extend(action.duplicate.is_some().then_some(Move::ComesTwice(i)));
    }

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
            Move::Crash => self.crash(),
            Move::NextBuild => self.begin_again(config)?,
        }
        checks::state(self)
    }

    fn refuse(&mut self, config: &Config, i: usize, branch: Branch) -> Result<(), Violation> {
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

    /// Tells a completion; it may come again later.
    fn complete(&mut self, config: &Config, i: usize, event: Event<Tag>) -> Result<(), Violation> {
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

    fn tell(&mut self, config: &Config, i: usize, event: Event<Tag>) -> Result<(), Violation> {
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

    fn leave_upload(&mut self, i: usize) {
        if let Upload::UnderWay(users) = &mut self.upload {
            *users &= !(1 << i);
        }
    }

    /// All that is in memory is gone; what was under way on the disk stops where it is.
    fn crash(&mut self) {
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

    fn begin_again(&mut self, config: &Config) -> Result<(), Violation> {
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

impl<K> Action<K> {
    fn new(race: Race<Tag, K>) -> Self {
        Self {
            border: Border,
            race,
            process: None,
            look_up: None,
            execution: None,
            staging: None,
            staged: None,
            disk: None,
            tree: Tree::EMPTY,
            is_begun: false,
            record: None,
            end: None,
            need: None,
            has_started: false,
            open: [false; 2],
            is_remote_decided: false,
            has_own_failure: false,
            has_published: false,
            aside_failed: false,
            will_repeat: false,
            duplicate: None,
        }
    }

    fn begin_branch(&mut self, branch: usize) {
        self.has_started = true;
        self.need = None;
        self.open[branch] = true;
        if branch == Branch::Remote as usize {
            self.is_remote_decided = false;
        }
    }

    /// Whether anything of it is under way anywhere.
    pub fn is_idle(&self) -> bool {
        let is_running = self.process.is_some_and(|process| !process.is_survivor);
        let is_asking = self.look_up.is_some_and(|stream| !stream.is_dropped);
        !is_running && !is_asking && self.execution.is_none() && self.staging.is_none() && self.disk.is_none()
    }
}
