//! What goes into a race and what comes out of it. Values only.

use minibuild_core::{Branch, BranchOutcome, ExecutionStatus, StopReason, not_started_code};

/// Names one piece of work of a race: a run, a look-up, staging, setting aside, publishing. Never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Attempt(pub u32);

/// The sides on which an action may run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Sides {
    /// Here only. (A cache may be asked all the same.)
    Local,
    /// Remotely only.
    Remote,
    /// On both.
    Either,
}

impl Sides {
    /// Whether `branch` is among them.
    pub fn allow(self, branch: Branch) -> bool {
        match branch {
            Branch::Local => self != Sides::Remote,
            Branch::Remote => self != Sides::Local,
        }
    }
}

/// What is known of an action before its race.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Plan {
    /// Where it may run.
    pub sides: Sides,
    /// The number of the first piece of work.
    pub first: Attempt,
    /// Whether nothing lies at the declared outputs but what an earlier success put there. If not (an earlier run did
    /// not finish), what lies there is set aside before anything is published.
    pub is_clean: bool,
    /// Whether both sides run to their ends, so that their results can be compared; local's is used where it is good.
    pub compares: bool,
}

/// Something that can be started when a place for it is free.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Work {
    /// The local branch.
    Local,
    /// A question to the action cache; at most one in a race.
    LookUp,
    /// The remote branch.
    Execute,
}

/// Why the whole action is given up. Later ones are more urgent; a halt only escalates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Halt {
    /// Another action failed.
    FailFast,
    /// The user asked.
    Interrupt,
    /// The user asked twice.
    Kill,
}

impl Halt {
    /// How branches are stopped for it.
    pub fn stop_reason(self) -> StopReason {
        match self {
            Halt::FailFast | Halt::Interrupt => StopReason::Interrupt,
            Halt::Kill => StopReason::Kill,
        }
    }
}

/// What a failure says about the action. Later ones are shown first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FailureClass {
    /// The side itself failed: nothing is known of the command.
    Infrastructure,
    /// What the action reads is not there or not as it was: neither side can be started before that is mended, but one
    /// that runs may still decide.
    Inputs,
    /// The command failed in a way that may be its side's fault: 126, 127, 128 + SIGKILL or SIGTERM, a signal, a
    /// timeout, a program that could not be started, outputs that are not as declared.
    Doubtful,
    /// The command's own failure: it decides at once.
    Command,
    /// Something of a run cannot be killed and may go on writing: nothing can be published any more.
    Survivor,
}

impl FailureClass {
    /// The class of a status that is neither success nor an answered stop. `None` for those two.
    pub fn of(status: &ExecutionStatus) -> Option<Self> {
        Some(match status {
            ExecutionStatus::Exited(0) | ExecutionStatus::Stopped(_) => return None,
            ExecutionStatus::Exited(code) => Self::of_exit_code(*code),
            ExecutionStatus::NotStarted(why) => Self::of_exit_code(not_started_code(why)),
            ExecutionStatus::Signalled(_) | ExecutionStatus::TimedOut | ExecutionStatus::BadOutputs(_) => {
                Self::Doubtful
            }
            ExecutionStatus::Infrastructure(_) => Self::Infrastructure,
            ExecutionStatus::LostInputs(_) => Self::Inputs,
            ExecutionStatus::Stuck(_) => Self::Survivor,
        })
    }

    fn of_exit_code(code: i32) -> Self {
        match code {
            // Not executable, not found, and what a shell makes of SIGKILL and SIGTERM.
            126 | 127 | 137 | 143 => Self::Doubtful,
            _ => Self::Command,
        }
    }
}

/// How a local run ended. All of its processes are gone, but for `Stuck`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum LocalEnd<R> {
    /// With 0, its outputs captured as declared.
    Succeeded(R),
    /// By itself.
    Failed(FailureClass, R),
    /// It was stopped.
    Stopped(R),
    /// Something of it cannot be killed.
    Stuck(R),
}

/// What a cache answered.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Answer<R> {
    /// It has a usable result.
    Hit {
        /// The result.
        report: R,
        /// Whether something of it has to be on disk before the action is done.
        to_stage: bool,
    },
    /// Nothing usable, or it could not be asked.
    Miss,
}

/// How a remote execution ended; its stream is closed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum RemoteEnd<R> {
    /// With 0 and all declared outputs.
    Succeeded {
        /// The result.
        report: R,
        /// Whether something of it has to be on disk before the action is done.
        to_stage: bool,
    },
    /// Otherwise.
    Failed(FailureClass, R),
    /// It was given up.
    Closed(R),
}

/// How staging ended; nothing of it is written any more.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum StagingEnd<R> {
    /// All is there, verified.
    Complete,
    /// Some could not be had, or not be written here.
    Failed(FailureClass, R),
    /// It was given up.
    Closed(R),
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Event<R> {
    /// A place is free for this, and whoever decides wants it. Answered by the step that starts it, or by nothing where
    /// it is no longer of use (see [`super::Race::may_start`]).
    Start(Work),
    /// The branch may start but cannot: its place is gone for good, its inputs are not to be had there. Like a failure
    /// of it; ignored where it may not start anyway.
    CannotStart(Branch, FailureClass, R),
    /// A local run is over.
    LocalEnded(Attempt, LocalEnd<R>),
    /// A cache answered.
    LookedUp(Attempt, Answer<R>),
    /// A remote execution is over.
    RemoteEnded(Attempt, RemoteEnd<R>),
    /// Staging is over.
    Staged(Attempt, StagingEnd<R>),
    /// Setting aside is over.
    SetAside {
        /// Which.
        attempt: Attempt,
        /// Whether nothing is left at the declared places.
        is_clean: bool,
    },
    /// Publishing is over: well, or with what went wrong.
    Published(Attempt, Result<(), R>),
    /// The action is to be given up.
    Halt(Halt),
}

/// Which branch has to be started for the action to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Need {
    /// The local one.
    Local,
    /// The remote one.
    Remote,
    /// One of them.
    Either,
}

/// Something that has to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step<R> {
    /// Clear the declared outputs and run the command here. Answered by [`Event::LocalEnded`].
    RunLocal(Attempt),
    /// Stop that run; sent again only with a more urgent reason.
    StopLocal(Attempt, StopReason),
    /// Ask the cache. Answered by [`Event::LookedUp`].
    LookUp(Attempt),
    /// The answer is not waited for any longer. Nothing has to be done; what comes is dropped.
    DropLookUp(Attempt),
    /// Run it remotely. Answered by [`Event::RemoteEnded`].
    Execute(Attempt),
    /// Bring what has to be on disk to a private place. Answered by [`Event::Staged`].
    Stage(Attempt),
    /// Close the stream of that execution, or end that staging; work that others share goes on. Answered by the event
    /// of the attempt.
    DropRemote(Attempt, StopReason),
    /// Rename aside whatever lies at the declared outputs. Answered by [`Event::SetAside`].
    SetAside(Attempt),
    /// Rename what was staged as `staged` to its places. Answered by [`Event::Published`].
    Publish {
        /// Names the answer.
        attempt: Attempt,
        /// Under which number it was staged.
        staged: Attempt,
    },
    /// What was staged under this number is good but not needed here: the local store may have it.
    KeepStaged(Attempt),
    /// What was staged under this number is of no use.
    DiscardStaged(Attempt),
    /// Nothing is under way, and the action needs this. Told once, until something starts.
    Need(Need),
    /// A branch that ran, or came as far as a cached result, is over.
    BranchEnded(Branch, BranchOutcome),
    /// The race is over.
    Finish(Outcome<R>),
}

/// The result that is used.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Winner<R> {
    /// Whose it is.
    pub branch: Branch,
    /// What it told; the other's output is shown nowhere.
    pub report: R,
    /// Whether a cache had it.
    pub is_cached: bool,
    /// Whether its bytes were made, or put, in their places. Else all of the outputs are absent.
    pub is_on_disk: bool,
}

/// A failure and whose it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SidedFailure<R> {
    /// Whose.
    pub branch: Branch,
    /// What it says about the action.
    pub class: FailureClass,
    /// What the branch told.
    pub report: R,
}

/// What became of the branch that is not used, as far as it came to an end of its own.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Loser<R> {
    /// It did not.
    Nothing,
    /// It failed.
    Failed(SidedFailure<R>),
    /// It succeeded, too (only where both are compared).
    Succeeded(R),
}

/// How a race ended. Everything that was started is joined, but for [`FailureClass::Survivor`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Outcome<R> {
    /// There is a result.
    Won {
        /// It.
        winner: Winner<R>,
        /// The other one.
        loser: Loser<R>,
        /// Whether setting aside failed, so that something else may lie where the result has nothing on disk.
        has_leftovers: bool,
    },
    /// The action failed.
    Failed {
        /// Shown first.
        first: SidedFailure<R>,
        /// Of the other branch, if it failed as well.
        second: Option<SidedFailure<R>>,
        /// Whether setting aside failed, so that remains of the other branch may lie among the outputs.
        has_leftovers: bool,
    },
    /// It was given up.
    Stopped {
        /// Why.
        halt: Halt,
        /// Whether setting aside failed, so that half an output may lie there.
        has_leftovers: bool,
    },
    /// A bug of this module: says which.
    Bug(&'static str),
}
