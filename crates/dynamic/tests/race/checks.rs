//! What has to hold: of each step, of each state, of each outcome.

use minibuild_core::{Branch, StopReason};
use minibuild_dynamic::race::{
    FailureClass, Halt, Loser, Need, Outcome, Rules, SidedFailure, Sides, Step, Winner, Work,
};

use crate::world::{Action, Cell, Config, End, Tag, Tree, Truth, Violation, World};

fn ensure(holds: bool, violation: Violation) -> Result<(), Violation> {
    if holds { Ok(()) } else { Err(violation) }
}

/// Before a step is done.
pub fn step<K: Rules + Clone + Eq>(world: &World<K>, i: usize, step: &Step<Tag>) -> Result<(), Violation> {
    let action = &world.actions[i];
    ensure(action.end.is_none(), "something is asked for after the outcome")?;
    match step {
        Step::RunLocal(_) => {
            ensure(world.slot.is_none(), "a local run starts without a slot")?;
            ensure(action.process.is_none(), "two local runs write the same outputs")?;
            ensure(action.disk.is_none(), "a local run starts while outputs are moved")?;
            ensure(!action.has_published, "a local run starts over a published result")?;
            ensure(!is_halted(world), "something starts after a stop")
        }
        Step::LookUp(_) | Step::Execute(_) | Step::Stage(_) | Step::Need(_) => {
            ensure(!is_halted(world), "something starts after a stop")
        }
        Step::StopLocal(_, reason) => {
            let is_running = action.process.is_some_and(|process| process.told < Some(*reason));
            ensure(is_running, "a stop for what does not run, or was stopped as urgently")?;
            let is_lost = *reason == StopReason::LostRace;
            ensure(!is_lost || action.is_remote_decided, "local is stopped though remote may still fail")?;
            ensure(is_lost || is_halted(world), "a branch is stopped as if the user had asked")
        }
        Step::DropRemote(_, reason) => {
            let is_lost = *reason == StopReason::LostRace;
            ensure(is_lost || is_halted(world), "a branch is stopped as if the user had asked")
        }
        Step::SetAside(_) => {
            ensure(action.process.is_none(), "outputs are moved while a local run writes them")?;
            ensure(action.disk.is_none(), "outputs are moved by two")
        }
        Step::Publish { staged, .. } => {
            ensure(action.process.is_none(), "published while a local run, or what it started, lives")?;
            ensure(action.disk.is_none(), "two publish at a time")?;
            let is_complete = action.staged.is_some_and(|there| there.attempt == *staged && there.outputs == 2);
            ensure(is_complete && action.staging.is_none(), "published what is not all staged")
        }
        Step::KeepStaged(attempt) | Step::DiscardStaged(attempt) => {
            ensure(action.staging.is_none() && action.disk.is_none(), "staged bytes are given away while in use")?;
            let is_there = action.staged.is_some_and(|staged| staged.attempt == *attempt);
            ensure(is_there, "staged bytes are given away that are not there")
        }
        Step::BranchEnded(branch, _) => ensure(action.open[*branch as usize], "a branch ends that did not begin"),
        Step::DropLookUp(_) | Step::Finish(_) => Ok(()),
    }
}

fn is_halted<K>(world: &World<K>) -> bool {
    world.halt.is_some()
}

/// After each move.
pub fn state<K: Rules + Clone + Eq>(world: &World<K>) -> Result<(), Violation> {
    if world.is_down {
        return Ok(());
    }
    for action in &world.actions {
        if let Some(halt) = world.halt {
            ensure(is_stopping(action, halt), "something goes on after a stop as if nobody had asked")?;
        }
        if action.end.is_some() {
            ensure(action.is_idle(), "an action ended while something of it goes on")?;
        } else if action.has_started && action.is_idle() {
            ensure(has_hope(action), "nothing goes on, nothing is asked for, and there is no outcome")?;
        }
    }
    Ok(())
}

/// Whether all that is under way was told to end, and as urgently as was asked.
fn is_stopping<K>(action: &Action<K>, halt: Halt) -> bool {
    // Whoever lost is killed at once already.
    let urgency = halt.stop_reason().min(StopReason::LostRace);
    let local = action.process.is_none_or(|process| process.is_survivor || process.told >= Some(urgency));
    let streams = [action.execution, action.staging];
    local && streams.into_iter().flatten().all(|stream| stream.is_dropped)
}

/// Whether what is asked for can be started.
fn has_hope<K: Rules>(action: &Action<K>) -> bool {
    let may = |work| action.race.may_start(work);
    match action.need {
        Some(Need::Local) => may(Work::Local),
        Some(Need::Remote) => may(Work::Execute),
        Some(Need::Either) => may(Work::Local) && may(Work::Execute),
        None => false,
    }
}

/// Of an outcome; says which it is.
pub fn outcome<K: Rules + Clone + Eq>(
    world: &World<K>,
    config: &Config,
    i: usize,
    outcome: &Outcome<Tag>,
) -> Result<End, Violation> {
    let action = &world.actions[i];
    let has_survivor = action.process.is_some_and(|process| process.is_survivor);
    ensure(has_survivor || action.process.is_none(), "an action is left before its local branch is joined")?;
    ensure(action.execution.is_none() && action.staging.is_none(), "an action is left before its stream is closed")?;
    ensure(action.look_up.is_none_or(|stream| stream.is_dropped), "an action is left while a cache is asked")?;
    ensure(action.disk.is_none(), "an action is left while its outputs are moved")?;
    ensure(action.staged.is_none(), "staged bytes are left behind")?;
    ensure(action.open == [false; 2], "a branch began and was never said to have ended")?;
    match outcome {
        Outcome::Won { winner, loser, has_leftovers } => {
            ensure(!has_survivor, "a result is used beside a process that may go on writing")?;
            ensure(config.compares || !action.has_own_failure, "the command failed, and the action did not")?;
            loser_is_the_other(winner.branch, loser, config)?;
            let is_alone = config.actions[i].0 != Sides::Either || is_halted(world);
            let is_compared = is_alone || *loser != Loser::Nothing;
            ensure(!config.compares || is_compared, "there is nothing to compare the result with")?;
            won(action, winner, *has_leftovers)
        }
        Outcome::Failed { first, second, has_leftovers } => {
            failed(config.actions[i].0, action, first, second.as_ref())?;
            if first.branch == Branch::Remote || first.class == FailureClass::Infrastructure {
                ensure(action.tree == Tree::EMPTY || *has_leftovers, "a failure leaves what is not its own")?;
            }
            let is_kept = first.branch == Branch::Local && first.class == FailureClass::Command;
            ensure(!is_kept || !*has_leftovers, "what is to be looked into would be deleted")?;
            let is_remote = |cell: &Cell| matches!(cell, Cell::Remote(_));
            ensure(!action.tree.cells.iter().any(is_remote) || *has_leftovers, "half a result was published")?;
            Ok(match (first.branch, second) {
                (_, Some(_)) => End::BothFailed,
                (Branch::Local, None) => End::LocalFailed,
                (Branch::Remote, None) => End::RemoteFailed,
            })
        }
        Outcome::Stopped { halt, has_leftovers } => {
            ensure(world.halt.is_some(), "a branch's stop was taken for one of the build")?;
            ensure(world.halt >= Some(*halt) && *halt >= Halt::FailFast, "stopped for a reason nobody gave")?;
            ensure(action.tree == Tree::EMPTY || *has_leftovers, "half a result is left after a stop")?;
            Ok(End::Stopped)
        }
        Outcome::Bug(_) => Err("the protocol says that it has a bug"),
    }
}

fn loser_is_the_other(winner: Branch, loser: &Loser<Tag>, config: &Config) -> Result<(), Violation> {
    match loser {
        Loser::Nothing => Ok(()),
        Loser::Failed(failure) => ensure(failure.branch != winner, "the loser is the winner"),
        Loser::Succeeded(report) => {
            ensure(report.is_local == (winner == Branch::Remote), "the loser is the winner")?;
            ensure(config.compares, "both branches ran to their ends")
        }
    }
}

fn won<K>(action: &Action<K>, winner: &Winner<Tag>, has_leftovers: bool) -> Result<End, Violation> {
    let report = winner.report;
    ensure(report.is_local == (winner.branch == Branch::Local), "what is shown is not the winner's")?;
    ensure(report.truth == Truth::Good, "a result is used that is none")?;
    let may_have_leftovers = action.aside_failed && winner.branch == Branch::Remote;
    ensure(!has_leftovers || may_have_leftovers, "leftovers are told that are not there")?;
    let expected = match winner.branch {
        Branch::Local => Tree::whole(Cell::Local(report.attempt)),
        Branch::Remote if winner.is_on_disk => Tree::whole(Cell::Remote(report.attempt)),
        Branch::Remote => Tree::EMPTY,
    };
    let may_differ = has_leftovers && winner.branch == Branch::Remote && !winner.is_on_disk;
    ensure(action.tree == expected || may_differ, "what lies on the disk is not the result that is told")?;
    Ok(match (winner.branch, winner.is_on_disk) {
        (Branch::Local, _) => End::LocalWon,
        (Branch::Remote, true) => End::RemoteWon,
        (Branch::Remote, false) => End::RemoteWonUnpublished,
    })
}

fn failed<K: Rules>(
    sides: Sides,
    action: &Action<K>,
    first: &SidedFailure<Tag>,
    second: Option<&SidedFailure<Tag>>,
) -> Result<(), Violation> {
    ensure(first.report.truth == Truth::Failed, "an action fails without a failure")?;
    ensure(first.report.is_local == (first.branch == Branch::Local), "what is shown is not whose it is said to be")?;
    if let Some(second) = second {
        ensure(second.branch != first.branch, "one failure is shown twice")?;
        ensure(first.class >= second.class, "the command's own failure is not shown first")?;
    }
    let decides = first.class >= FailureClass::Command;
    ensure(!action.has_own_failure || decides, "the command failed, and something else is shown")?;
    let is_alone = sides != Sides::Either || first.class == FailureClass::Inputs;
    ensure(decides || is_alone || second.is_some(), "an action fails though the other side could decide")
}
