//! What surrounds races: processes, a disk, remote streams, an upload that is shared, one local slot, a build that can
//! be interrupted and crash. It does what the steps say, as the driver would (`driver`), lets happen what may (`moves`,
//! `happen`), and complains where the real thing would only go wrong (`checks`).

use std::hash::{Hash, Hasher};

use minibuild_core::{Branch, StopReason};
use minibuild_dynamic::race::{Attempt, Event, Halt, Need, Plan, Race, Rules, Sides};

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
    /// An action that is not looked at fails.
    Neighbour,
}

pub const FAULTS: usize = 10;

/// The bounds of one exploration.
#[derive(Clone, Debug)]
pub struct Config {
    pub name: &'static str,
    /// For each action: where it may run and whether its outputs are wanted on disk.
    pub actions: Vec<(Sides, bool)>,
    pub look_ups: bool,
    /// Whether the command may fail by itself.
    pub commands_fail: bool,
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
/// What is wrong with a state.
pub type Violation = &'static str;

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

    pub fn may(&self, fault: Fault) -> bool {
        self.faults > 0 && self.budget[fault as usize] > 0
    }

    pub fn spend(&mut self, fault: Fault) {
        self.budget[fault as usize] -= 1;
        self.faults -= 1;
    }
}

impl<K> Action<K> {
    pub fn new(race: Race<Tag, K>) -> Self {
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

    pub fn begin_branch(&mut self, branch: usize) {
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
