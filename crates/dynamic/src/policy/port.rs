//! What the policy is told and what it answers: values only.

use std::fmt;
use std::time::Duration;

use minibuild_core::{ActionId, Branch};

use super::history::ActionHistory;

/// Names a mnemonic: its index in the list a policy was made with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MnemonicId(pub u32);

/// How sides are chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Both sides at once, whenever both may.
    Race,
    /// The side that is predicted to end earlier; both where that is worth it.
    #[default]
    Adaptive,
}

/// What bounds the decisions.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// How sides are chosen.
    pub mode: Mode,
    /// Actions that run here at once.
    pub jobs: usize,
    /// Actions that are executed remotely at once, those that wait there for a worker included.
    pub remote_jobs: usize,
    /// Bytes that local runs may take together by prediction; 0 for no limit. One action always may run.
    pub memory: u64,
    /// In [`Mode::Race`], how long a local start waits for its remote side once the cache was seen to answer with a hit.
    pub race_delay: Duration,
    /// Part of the work done so far that may be wasted here by runs that lose.
    pub duplicates: f64,
    /// The same where slots here would be idle otherwise and the action decides when the build ends.
    pub critical_duplicates: f64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            mode: Mode::Adaptive,
            jobs: 1,
            remote_jobs: 400,
            memory: 0,
            race_delay: Duration::from_secs(1),
            duplicates: 0.07,
            critical_duplicates: 0.18,
        }
    }
}

/// How urgent an action is; larger is sooner.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Urgency {
    /// It failed in the last build that tried it.
    pub failed_last: bool,
    /// Predicted time from its start to the end of the longest chain behind it.
    pub remaining: Duration,
}

/// An action whose inputs are known: it has to be brought to an end on some side.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Ready {
    /// Whether it may run on this machine.
    pub here: bool,
    /// Whether it may run remotely.
    pub there: bool,
    /// Whether the remote cache may be asked. Without it, a side that may run it starts without asking.
    pub may_look_up: bool,
    /// Whether nothing else may run here beside it.
    pub exclusive: bool,
    /// How urgent it is.
    pub urgency: Urgency,
    /// What kind of action it is.
    pub mnemonic: MnemonicId,
    /// What is known of it from earlier builds.
    pub history: ActionHistory,
    /// Predicted time to bring here the inputs whose bytes are only remote.
    pub fetch: Duration,
}

/// How a branch ended that did not win.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Its result is the action's.
    Won,
    /// The other side's result is the action's: it was stopped.
    Lost,
    /// It could not decide: the other side may, and this one is not tried again.
    Failed,
    /// It did not begin, or has to be tried again later: see [`Event::Offered`]. A local one for which inputs are predicted
    /// to be brought ([`Ready::fetch`]) waits for them meanwhile.
    Returned,
}

/// How long the stages of a remote run took, as far as the server told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RemoteTimes {
    /// Waiting for a worker.
    pub queue: Duration,
    /// On the worker.
    pub exec: Duration,
    /// Bringing outputs here.
    pub download: Duration,
}

/// What the policy is told. An event about an action it does not know (any more) is dropped.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// An action has to be brought to an end.
    Ready(ActionId, Ready),
    /// A look-up was answered. With a hit the action is over; what runs of it here will be stopped.
    LookedUp {
        /// Which action.
        action: ActionId,
        /// Whether there was a usable result.
        hit: bool,
        /// How long the call took, connecting aside; `None` where that is the time from the question on.
        took: Option<Duration>,
    },
    /// A question that no look-up of a policy asked was answered: says how soon the cache answers.
    Answered {
        /// Whether there was a result.
        hit: bool,
        /// How long the call took, connecting aside.
        took: Duration,
    },
    /// A look-up could not be answered: counts as a miss that teaches nothing of the cache's content.
    LookUpFailed(ActionId),
    /// A local run is over and its slot free.
    LocalEnded {
        /// Which action.
        action: ActionId,
        /// How.
        how: Ended,
        /// From start to end.
        wall: Duration,
        /// Largest resident set, bytes; 0 if unknown.
        max_rss: u64,
    },
    /// The server has a remote run and no worker for it yet.
    RemoteQueued(ActionId),
    /// A worker runs it.
    RemoteExecuting(ActionId),
    /// A remote run is over, or given up.
    RemoteEnded {
        /// Which action.
        action: ActionId,
        /// How.
        how: Ended,
        /// What its stages took; of use only if it won.
        times: RemoteTimes,
    },
    /// A side that [`Ended::Returned`] may be tried again.
    Offered(ActionId, Branch),
    /// The action needs no start any more: it is over, or its build is. Branches that run still end with their events.
    Withdrawn(ActionId),
    /// The outage breaker opened (`true`) or closed.
    Breaker(bool),
}

/// What has to be done. Each is answered by events in the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Ask the remote cache.
    LookUp(ActionId),
    /// Start a branch.
    Start(ActionId, Branch, Reason),
    /// Call [`super::Policy::decide`] at this time at the latest, if nothing happens before. Replaces any earlier one.
    WakeAt(Duration),
}

/// Why a branch is started; its `Display` is what `branch_started` says. Times are predictions, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The action may run nowhere else.
    OnlySide,
    /// Policy `race`: both sides at once.
    Race,
    /// Policy `race`: the remote side did not end within the delay.
    RaceDelayed,
    /// A slot is idle, and nothing is known yet of how soon the cache answers.
    IdleCold,
    /// A slot is idle and the cache would answer too late to wait for it.
    IdleSlowCache {
        /// Until the answer.
        answer: u32,
        /// The local run.
        local: u32,
    },
    /// A slot is idle and the cache will have nothing, most likely.
    IdleLikelyMiss {
        /// Share of hits, percent.
        hits: u8,
    },
    /// The cache had nothing, and local is predicted to end earlier.
    LocalSooner {
        /// The local run.
        local: u32,
        /// The remote side.
        remote: u32,
    },
    /// The remote side is busy: a free slot here takes another action.
    RemoteBusy {
        /// The local run.
        local: u32,
        /// The remote side, waiting included.
        remote: u32,
    },
    /// It waits in the remote queue.
    TakenFromQueue {
        /// The local run.
        local: u32,
        /// What the remote side still needs.
        remote: u32,
    },
    /// It runs remotely, and local may end earlier: both try.
    BothTry {
        /// The local run.
        local: u32,
        /// What the remote side still needs.
        remote: u32,
    },
    /// The remote side is unreachable.
    Outage,
    /// The remote side failed.
    RemoteFailed,
    /// The local side failed.
    LocalFailed,
    /// The cache had nothing, and remote is predicted to end earlier.
    RemoteSooner {
        /// The local run.
        local: u32,
        /// The remote side.
        remote: u32,
    },
    /// No slot is free here.
    NoSlotHere,
    /// It runs here, and remote may end earlier: both try.
    RemoteHelps {
        /// What the local run still needs.
        local: u32,
        /// The remote side.
        remote: u32,
    },
    /// It runs here, nothing tells for how long, and workers are idle: both try.
    BothUnknown,
    /// It runs here longer than predicted.
    LocalLate {
        /// The predicted local run.
        local: u32,
        /// How long it runs.
        since: u32,
    },
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::OnlySide => write!(f, "it may run on no other side"),
            Self::Race => write!(f, "the policy is to race"),
            Self::RaceDelayed => write!(f, "the policy is to race, and remote gave no result within the delay"),
            Self::IdleCold => write!(f, "a slot is idle, and how soon the cache answers is not known yet"),
            Self::IdleSlowCache { answer, local } => {
                write!(f, "a slot is idle, and the cache answers in {answer} ms where local takes {local} ms")
            }
            Self::IdleLikelyMiss { hits } => {
                write!(f, "a slot is idle, and the cache had a result for {hits} % of the actions")
            }
            Self::LocalSooner { local, remote } => {
                write!(f, "local takes {local} ms, remote would take {remote} ms")
            }
            Self::RemoteBusy { local, remote } => {
                write!(f, "remote is busy: {remote} ms with the wait there, {local} ms here")
            }
            Self::TakenFromQueue { local, remote } => {
                write!(f, "it waits in the remote queue: {remote} ms there, {local} ms here")
            }
            Self::BothTry { local, remote } => {
                write!(f, "a slot is idle: remote still needs {remote} ms, local takes {local} ms")
            }
            Self::Outage => write!(f, "the remote side is unreachable"),
            Self::RemoteFailed => write!(f, "the remote side failed"),
            Self::LocalFailed => write!(f, "the local side failed"),
            Self::RemoteSooner { local, remote } => {
                write!(f, "remote takes {remote} ms, local would take {local} ms")
            }
            Self::NoSlotHere => write!(f, "no slot is free here"),
            Self::RemoteHelps { local, remote } => {
                write!(f, "local still needs {local} ms, remote may end in {remote} ms")
            }
            Self::BothUnknown => write!(f, "how long it takes is not known on either side: both try"),
            Self::LocalLate { local, since } => {
                write!(f, "it has run here for {since} ms, {local} ms were predicted")
            }
        }
    }
}
