//! What is asked of one build. Values only.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use minibuild_core::{ActionId, ArtifactId, TargetId};
use minibuild_download::Wishes;
use minibuild_dynamic::policy::Running;

/// What is asked of one build.
#[derive(Clone, Debug)]
pub struct Goals {
    /// Absolute path of the workspace root.
    pub root: String,
    /// Whether nothing lies at a path, for certain. Asked only of names in depfiles that no input accounts for.
    pub is_absent: fn(&Path) -> bool,
    /// Requested targets with what they stand for.
    pub targets: Vec<Goal>,
    /// Which outputs are wanted here.
    pub wishes: Wishes,
    /// Nothing may run: what is not known stays unknown.
    pub runs_nothing: bool,
    /// Actions that run here at once.
    pub jobs: usize,
    /// Started beyond those at least, to be made ready while others run. There are more while runs are short. Where this is zero
    /// there are none.
    pub ahead: usize,
    /// Named pools and their places, for actions that run here.
    pub pools: BTreeMap<String, u32>,
    /// Bytes of memory that actions which run here may take together, as they say.
    pub memory: u64,
    /// Builds all that does not depend on what failed.
    pub keep_going: bool,
    /// Runs tests whose pass is known, too.
    pub fresh_tests: bool,
    /// The output of tests is shown while they run: one at a time, and here where they may run here.
    pub streams_tests: bool,
    /// `action_completed` for each up-to-date action, not only those of requested targets.
    pub all_events: bool,
    /// Where actions are meant to run.
    pub strategies: Strategies,
    /// How an action is raced that may run on both sides.
    pub dynamic: Dynamic,
    /// The remote side, if there is one.
    pub remote: Option<RemoteGoals>,
    /// What keeps bytes on this machine besides the output tree.
    pub stores: StoreGoals,
}

/// What keeps bytes on this machine besides the output tree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreGoals {
    /// Outputs that are about to be replaced are kept.
    pub local: bool,
    /// Results are looked up in, and stored to, a disk cache.
    pub disk_cache: bool,
}

impl StoreGoals {
    /// Whether there is anything to ask.
    pub fn any(self) -> bool {
        self.local || self.disk_cache
    }
}

/// How an action is raced that may run on both sides.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Dynamic {
    /// When its second branch starts.
    pub policy: RacePolicy,
    /// Both branches run to their ends, and their results are compared.
    pub compares: bool,
    /// Part of the work of a build that may be done twice; `None` for what is usual.
    pub duplicates: Option<f64>,
    /// How soon the cache answers, as builds elsewhere learnt, in seconds.
    pub answer: Running,
}

/// When the second branch of an action starts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RacePolicy {
    /// As soon as there is a place for it.
    Race,
    /// When there is nothing else for that place.
    #[default]
    Adaptive,
}

/// One requested target.
#[derive(Clone, Debug)]
pub struct Goal {
    /// The target.
    pub target: TargetId,
    /// Artifacts it stands for; sources among them.
    pub artifacts: Vec<ArtifactId>,
    /// Artifacts whose bytes are needed besides: what `run` needs at run time.
    pub runfiles: Vec<ArtifactId>,
    /// Its test, if it is to be run.
    pub test: Option<ActionId>,
}

/// Where an action is meant to run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Strategy {
    /// On this machine.
    #[default]
    Local,
    /// Remotely.
    Remote,
    /// Wherever it is done sooner.
    Dynamic,
}

/// Where actions are meant to run, by mnemonic.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Strategies {
    /// Of those not named.
    pub default: Strategy,
    /// Of those named.
    pub by_mnemonic: BTreeMap<String, Strategy>,
}

impl Strategies {
    /// The one for actions of this mnemonic.
    pub fn of(&self, mnemonic: &str) -> Strategy {
        self.by_mnemonic.get(mnemonic).copied().unwrap_or(self.default)
    }
}

/// What the remote side can do and is wanted for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteGoals {
    /// Names the store of blobs, the same in each build: endpoint, instance and digest function.
    pub store: String,
    /// Whether it runs actions.
    pub executes: bool,
    /// Whether results are looked up and stored there.
    pub caches: bool,
    /// Remote actions at once.
    pub jobs: usize,
    /// Whose results are stored.
    pub uploads: Uploads,
    /// Whether the build ends only when its uploads have.
    pub waits_for_uploads: bool,
    /// Whether what fails there for no fault of the action's runs here.
    pub falls_back: bool,
    /// How outputs that only the store has are kept alive there; `None` for not at all.
    pub lease: Option<Lease>,
}

/// How outputs that only the store has are kept alive there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// How often the store is asked for them, in builds that speak to it anyway.
    pub interval: Duration,
    /// When the build began, in seconds since the Unix epoch.
    pub now_unix: u64,
}

/// Which results of local runs are stored in the caches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Uploads {
    /// None.
    Never,
    /// Of actions whose rule is marked `hermetic`.
    Hermetic,
    /// All.
    Always,
}
