//! What may happen next in a world.

use minibuild_core::Branch;
use minibuild_dynamic::race::{Rules, Work};

use crate::mutants::Mutation;
use crate::world::{Config, DiskWork, Fault, Phase, Upload, World};

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
    NeighbourFails,
    Crash,
    NextBuild,
}
impl<K: Rules + Clone + Eq> World<K> {
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
        if !is_over && self.halt.is_none() && self.may(Fault::Neighbour) {
            moves.push(Move::NeighbourFails);
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
                moves.extend(config.commands_fail.then_some(Move::ExitsNonZero(i)));
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
                moves.push(Move::RunsRemotely(i));
                moves.extend(config.commands_fail.then_some(Move::FailsRemotely(i)));
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
}
