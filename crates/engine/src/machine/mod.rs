//! The deciding half of the engine: events in, steps out, nothing waited for.
//!
//! Knows which actions are wanted, what is known of their results, which run, and what has to happen next. It does no
//! I/O and has no clock: contents of sources and of what lies in the output tree are handed in as a [`World`], times
//! with each event. An action moves through one table of statuses; queues and counters are views of it.

mod checks;
mod choose;
mod ended;
mod evaluate;
mod failures;
mod fetch;
mod finish;
mod flatten;
mod goals;
mod held_starts;
mod look_up;
mod outputs_in_use;
mod parts;
mod preview;
mod progress;
mod race;
mod rehash;
mod remote;
mod resources;
mod show;
mod start;
mod store;
mod targets;
#[cfg(test)]
mod tests;
mod values;
mod wanted;
mod why;

use std::borrow::Cow;
use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

use minibuild_core::{
    ActionId, ActionKind, ArtifactId, Branch, BuildEvent, CommandSource, Content, Digest, ExecutorEvent, Level, Model,
    Resources, RunId, Runner,
};
use minibuild_download::Planner;
use minibuild_graph::{ActionGraph, HostFacts, Node, NodeKind, RootCache, critical_path};
use rustc_hash::{FxHashMap, FxHashSet};

use self::choose::Chooser;
use self::flatten::Scratch;
use self::held_starts::HeldStarts;
use self::race::Running;
use crate::moment::Wait;
use crate::state::{ActionName, State, StoreId};

pub use ended::Ended;
pub use goals::{Dynamic, Goal, Goals, Lease, RacePolicy, RemoteGoals, StoreGoals, Strategies, Strategy, Uploads};
pub use preview::{Foreseen, Maybe, OutputPlace, Place, Verdict};
pub use values::{Event, LogText, Outcome, Progress, RunningAction, Share, Shown, SourceFact, Step, World};
pub use wanted::Wanted;
pub use why::Why;

/// Predicted time of an action nothing is known of.
const UNKNOWN_TIME: Duration = Duration::from_millis(100);
/// How often one action is run anew because its bytes were needed.
const MAX_ATTEMPTS: u32 = 5;
/// How often an output is fetched from a server that cannot be reached; each time the client has tried several times.
const FETCH_ATTEMPTS: u32 = 3;
/// Runs of an action for bytes that are gone again after which it runs here, if it may.
const REMOTE_ATTEMPTS: u32 = 2;

/// Where an action stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Status {
    /// Nobody needs it.
    Unwanted,
    /// Something it needs is not done.
    Waiting,
    /// A cache is asked.
    LookingUp,
    /// It must run and waits for a place.
    Queued,
    /// It must run, but what makes its inputs has to be done, and their bytes here, first.
    AwaitingInputs,
    /// Its inputs changed since they were looked at, and are read again.
    Rehashing,
    /// What it needs is another now, or is here now: it has to be looked at again.
    Reopened,
    /// It runs.
    Running,
    /// Its result is known.
    Done,
    /// It failed.
    Failed,
    /// Something it needs failed.
    Skipped,
}

/// What a result is the result of.
#[derive(Debug)]
struct Made {
    key: Digest,
    manifest: String,
    /// Why it was made.
    reason: String,
    command: minibuild_core::CommandLine,
}

/// What is asked for an action before it may have to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Question {
    /// What the cache knows under its key.
    Result,
    /// Whether the store has the blobs of a result that is known.
    Existence,
    /// What the disk cache knows under its key.
    ResultHere,
    /// Whether a store here has the blobs of a result that is known.
    Stored,
}

/// A question that waits for its answer.
#[derive(Debug)]
struct Lookup {
    key: Digest,
    generation: u64,
    question: Question,
}

/// Why no further action is started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stopping {
    /// One failed.
    FailFast,
    /// The user asked.
    Interrupted,
    /// The user asked twice.
    Killed,
}

/// The state machine of one build.
pub struct Machine {
    model: Arc<Model>,
    commands: Arc<dyn CommandSource>,
    graph: ActionGraph,
    goals: Goals,
    host: HostFacts,
    world: World,
    state: State,

    status: Vec<Status>,
    /// Unfinished needs of each node.
    pending: Vec<u32>,
    /// What each artifact's action made last, or would make: what consumers were told.
    known: Vec<Option<Content>>,
    remaining: Vec<Duration>,
    /// End of the longest chain of runs up to and with each node.
    chain: Vec<Duration>,
    /// The number of each action's next piece of work.
    attempts: Vec<u32>,
    /// How often each action ran.
    runs: Vec<u32>,
    /// Nodes whose consumers were told that they are done.
    released: Vec<bool>,
    /// Why an action is run although its key is known.
    forced: FxHashMap<ActionId, String>,
    /// Where the bytes of contents are, who wants them and who waits for them.
    bytes: Planner,
    /// Who made each action's result; what counts is made of.
    runners: Vec<Runner>,
    /// What is asked of a cache now, under which key.
    lookups: FxHashMap<ActionId, Lookup>,
    /// What waits until outputs are no longer in use.
    use_waiters: outputs_in_use::UseWaiters,
    /// Keys under which the cache had nothing.
    missed: FxHashMap<ActionId, Digest>,
    /// What the store is asked to have.
    checks: checks::Checks,
    /// What stores of this machine have.
    stored: store::Stored,
    /// Actions whose outputs the store was found to have lost.
    lost: FxHashSet<ActionId>,
    /// Actions whose remote side failed.
    local_only: FxHashSet<ActionId>,
    /// Why, as it was told.
    fallbacks_told: FxHashSet<String>,
    /// Sources that are read again, with the actions that wait for that.
    rehashing: rehash::Rehashes,
    /// Actions for which that was done.
    rekeyed: FxHashSet<ActionId>,
    /// What failed remotely of actions that are looked at again since they could not go on here at once.
    earlier_failures: FxHashMap<ActionId, failures::Earlier>,
    /// Actions at whose places something may lie that could not be moved away.
    littered: FxHashSet<ActionId>,
    /// Actions that run with inputs that are known to be others by now.
    outdated: FxHashSet<ActionId>,
    /// Where files with these digests lie here, as far as it was ever asked; to be checked when used.
    digests_here: Option<FxHashMap<Digest, ArtifactId>>,
    /// How much of what was asked for came, for a display.
    fetched_files: Share,
    fetched_bytes: Share,
    /// Fetches under way.
    fetches: fetch::FetchTable,
    /// What goals need besides what they stand for: outputs that symlinks among those lead to.
    behind: Vec<Vec<ArtifactId>>,
    /// Fetches under way for each goal.
    goal_fetches: Vec<u32>,
    /// Uploads under way, with the keys under which results are stored, and how often the action had run by then.
    uploading: FxHashMap<RunId, (Digest, u32)>,
    /// Counts changes of contents, so that an answer knows whether what was asked still stands.
    generation: u64,
    store: Option<StoreId>,
    /// Goals each action belongs to.
    goals_of: FxHashMap<ActionId, Vec<usize>>,
    /// How many actions of each goal are not `Done`.
    unfinished: Vec<usize>,
    announced: Vec<bool>,
    /// Nodes that need nothing.
    idle: Vec<Node>,
    /// Wanted nodes, each after what it needs.
    order: Vec<Node>,
    /// Actions whose result serves this build and is not remembered.
    unrecorded: FxHashSet<ActionId>,

    /// Starts that did not happen yet: all of them where there is no remote side, else those that the policy wanted.
    held_starts: HeldStarts,
    /// What local runs take; not counted where no action takes more than a place.
    usage: resources::Usage,
    /// How often it was asked whether an action may start, or has to be looked at again.
    #[cfg(test)]
    looks: std::cell::Cell<u64>,
    /// What decides where and when actions run, where there is one.
    chooser: Option<Chooser>,
    queued: u64,
    /// How often something was queued.
    enqueued: u64,
    /// Actions to be looked at again.
    reopened: Vec<ActionId>,
    running_here: usize,
    running_there: usize,
    /// How long runs of a mnemonic took here of late, as a mean.
    usual_runs: FxHashMap<Arc<str>, Duration>,
    /// Whether any wanted action takes more than a place.
    takes_resources: bool,
    running: FxHashMap<ActionId, Running>,
    exclusive_running: bool,
    stopping: Option<Stopping>,
    outcome: Outcome,
    finished: bool,
    scratch: Scratch,
    /// Directories of input roots; every known content goes through [`Machine::learn`], which makes it forget.
    roots: RefCell<RootCache>,
    steps: Vec<Step>,
    /// What actions wait for from some moment on, where somebody wants to know.
    waits: Option<Vec<(ActionId, Option<Wait>)>>,
    now: Duration,
}

impl Machine {
    /// A machine that has not begun.
    pub fn new(
        model: Arc<Model>,
        commands: Arc<dyn CommandSource>,
        wanted: Wanted,
        goals: Goals,
        host: HostFacts,
        world: World,
        mut state: State,
    ) -> Self {
        let remote = goals.remote.map(|remote| RemoteGoals { jobs: remote.jobs.max(1), ..remote });
        let goals = Goals { jobs: goals.jobs.max(1), remote, ..goals };
        let Wanted { graph, order } = wanted;
        let rows = graph.len();
        let mut status = vec![Status::Unwanted; rows];
        let mut pending = vec![0; rows];
        let idle = order.iter().copied().filter(|&node| graph.needs(node).is_empty()).collect();
        for &node in &order {
            status[node.index()] = Status::Waiting;
            pending[node.index()] = u32::try_from(graph.needs(node).len()).unwrap_or(u32::MAX);
        }
        let predict = |action: ActionId| {
            let known = state.action(&key_path(&model, action)).map(|a| Duration::from_millis(a.wall_ms.into()));
            known.filter(|time| !time.is_zero()).unwrap_or(UNKNOWN_TIME)
        };
        let remaining = critical_path(&graph, &order, predict);
        let mut machine = Self {
            order,
            status,
            pending,
            known: vec![None; model.artifacts.len()],
            remaining,
            chain: vec![Duration::ZERO; rows],
            attempts: vec![0; model.actions.len()],
            runs: vec![0; model.actions.len()],
            released: vec![false; rows],
            forced: FxHashMap::default(),
            bytes: Planner::new(model.artifacts.len()),
            runners: vec![Runner::UpToDate; model.actions.len()],
            lookups: FxHashMap::default(),
            use_waiters: outputs_in_use::UseWaiters::default(),
            missed: FxHashMap::default(),
            checks: checks::Checks::default(),
            stored: store::Stored::default(),
            lost: FxHashSet::default(),
            local_only: FxHashSet::default(),
            fallbacks_told: FxHashSet::default(),
            rehashing: rehash::Rehashes::default(),
            rekeyed: FxHashSet::default(),
            earlier_failures: FxHashMap::default(),
            littered: FxHashSet::default(),
            outdated: FxHashSet::default(),
            digests_here: None,
            fetched_files: Share::default(),
            fetched_bytes: Share::default(),
            fetches: fetch::FetchTable::default(),
            behind: vec![Vec::new(); goals.targets.len()],
            goal_fetches: vec![0; goals.targets.len()],
            uploading: FxHashMap::default(),
            generation: 0,
            store: goals.remote.as_ref().map(|remote| state.store_id(&remote.store)),
            goals_of: FxHashMap::default(),
            unfinished: Vec::new(),
            idle,
            unrecorded: FxHashSet::default(),
            announced: vec![false; goals.targets.len()],
            held_starts: HeldStarts::default(),
            usage: resources::Usage::default(),
            #[cfg(test)]
            looks: std::cell::Cell::new(0),
            chooser: None,
            queued: 0,
            enqueued: 0,
            reopened: Vec::new(),
            running_here: 0,
            usual_runs: FxHashMap::default(),
            running_there: 0,
            takes_resources: false,
            running: FxHashMap::default(),
            exclusive_running: false,
            stopping: None,
            outcome: Outcome::default(),
            finished: false,
            scratch: Scratch::default(),
            roots: RefCell::default(),
            steps: Vec::new(),
            waits: None,
            now: Duration::ZERO,
            model,
            commands,
            graph,
            goals,
            host,
            world,
            state,
        };
        machine.checks = checks::Checks::new(machine.first_lease());
        machine.mark_goals();
        machine.take_sources();
        let is_limited = |action| machine.model.action(action).resources != Resources::default();
        let takes_resources = machine.actions().any(is_limited);
        machine.takes_resources = takes_resources;
        machine.chooser = machine.new_chooser();
        machine.outcome.counts.total = machine.actions().count() as u64;
        machine
    }

    /// The wanted actions, in the order of needs.
    fn actions(&self) -> impl Iterator<Item = ActionId> {
        self.order.iter().filter_map(|&node| match self.graph.kind(node) {
            NodeKind::Action(action) => Some(action),
            NodeKind::Set(_) => None,
        })
    }

    /// What has to be done now that this happened at `now` (since the start of the build).
    #[must_use]
    pub fn handle_event(&mut self, event: Event, now: Duration) -> Vec<Step> {
        if self.finished {
            return Vec::new();
        }
        self.now = now;
        match event {
            Event::Begin => self.begin(),
            Event::Interrupt => self.interrupt(),
            Event::Executor(ExecutorEvent::Started(_)) => {}
            Event::Executor(ExecutorEvent::Notice(_, text)) => self.message(Level::Warning, text),
            Event::Executor(ExecutorEvent::Finished(report)) => self.take_report(Branch::Local, *report),
            Event::Remote(event) => self.take_remote(event),
            Event::Store(event) => self.take_store(event),
            Event::Rehashed { path, found } => self.take_rehashed(&path, found),
            Event::SetAside { run, problem } => self.take_set_aside(run, problem),
            Event::Wake => {}
        }
        self.start_ready();
        self.ask_checks();
        self.finish_if_idle();
        std::mem::take(&mut self.steps)
    }

    /// What decides about sides, if there is more than one.
    fn new_chooser(&self) -> Option<Chooser> {
        let store = self.store.filter(|_| !self.goals.runs_nothing)?;
        let mnemonics = self.model.actions.iter().map(|row| &*row.mnemonic).collect();
        Some(Chooser::new(&self.goals, self.state.history(store), mnemonics))
    }

    /// When what is only in the store is asked for first: an interval after it was last, in whichever build.
    fn first_lease(&self) -> Option<Duration> {
        let lease = self.goals.remote.as_ref()?.lease?;
        let last = self.store.and_then(|store| self.state.lease(store)).unwrap_or_default();
        let since = Duration::from_secs(lease.now_unix.saturating_sub(last));
        Some(lease.interval.saturating_sub(since))
    }

    /// The state, for flushing between events and at the end.
    pub fn state(&mut self) -> &mut State {
        &mut self.state
    }

    /// From now on keeps what actions wait for.
    pub fn watch_waits(&mut self) {
        self.waits = Some(Vec::new());
    }

    /// What actions wait for since the last call, in its order; nothing unless it is kept.
    pub fn take_waits(&mut self) -> Vec<(ActionId, Option<Wait>)> {
        self.waits.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// The label of an action's target.
    pub fn label(&self, action: ActionId) -> String {
        self.model.label_of(action).to_string()
    }

    /// The mnemonic of an action.
    pub fn mnemonic(&self, action: ActionId) -> String {
        self.model.action(action).mnemonic.to_string()
    }

    /// The command of an action that runs.
    pub fn command(&self, action: ActionId) -> Option<&minibuild_core::CommandLine> {
        self.running.get(&action).map(|running| &running.made.command)
    }

    fn begin(&mut self) {
        let idle: Vec<Node> = std::mem::take(&mut self.idle);
        for goal in 0..self.goals.targets.len() {
            self.announce_if_complete(goal);
        }
        for node in idle {
            self.settle(node);
        }
    }

    fn interrupt(&mut self) {
        let next = match self.stopping {
            None | Some(Stopping::FailFast) => Stopping::Interrupted,
            Some(_) => Stopping::Killed,
        };
        self.outcome.interrupted = true;
        self.stop_all(next);
    }

    fn stop_all(&mut self, stopping: Stopping) {
        self.stopping = self.stopping.max(Some(stopping));
        self.halt_races(stopping);
        self.bytes.stop();
        if self.bytes.under_way() > 0 {
            self.steps.push(Step::StopFetches);
        }
    }

    fn message(&mut self, level: Level, text: String) {
        self.steps.push(Step::Emit(BuildEvent::Message { level, text }));
    }

    fn finish_if_idle(&mut self) {
        if !self.finished && self.stopping.is_none() && self.is_stalled() {
            self.outcome.internal = Some("bug: actions are ready, and none of them is started".to_owned());
            self.stop_all(Stopping::FailFast);
        }
        if self.finished || !self.is_idle() {
            return;
        }
        let stuck = self.status.iter().enumerate().filter(|(row, status)| {
            let undecided =
                [Status::Waiting, Status::Queued, Status::AwaitingInputs, Status::Reopened].contains(status);
            undecided && *row < self.model.actions.len()
        });
        if self.stopping.is_none()
            && let Some((row, status)) = stuck.into_iter().next()
        {
            let name = self.model.action_key_path(ActionId::new(row));
            self.outcome.internal = Some(format!("bug: nothing runs, but `{name}` is still {status:?}"));
        }
        let is_to_be_repeated = self.outcome.other_function.is_some();
        for goal in (0..self.goals.targets.len()).filter(|_| !is_to_be_repeated) {
            self.announce(goal, false);
        }
        self.finished = true;
        self.keep_history();
        self.outcome.critical_path = self.chain.iter().max().copied().unwrap_or_default();
        self.steps.push(Step::Finish(self.outcome.clone()));
    }

    /// Whether nothing is under way that the build's end has to wait for.
    fn is_idle(&self) -> bool {
        if !self.running.is_empty() || self.bytes.under_way() > 0 {
            return false;
        }
        match self.stopping {
            Some(Stopping::Interrupted | Stopping::Killed) => true,
            Some(Stopping::FailFast) => !self.awaits_uploads(),
            None => {
                let is_asked = !self.lookups.is_empty() || !self.rehashing.is_empty();
                self.queued == 0 && self.reopened.is_empty() && !is_asked && !self.awaits_uploads()
            }
        }
    }

    fn node(&self, action: ActionId) -> usize {
        self.graph.node(action).index()
    }

    fn status_of(&self, action: ActionId) -> Status {
        self.status[self.node(action)]
    }

    /// The only place where an action's status changes: counts of results and of unfinished goals follow from it.
    fn set_status(&mut self, action: ActionId, status: Status) {
        let row = self.node(action);
        let before = std::mem::replace(&mut self.status[row], status);
        let is_to_start = |status| matches!(status, Status::Queued | Status::LookingUp | Status::Running);
        if is_to_start(before) && !is_to_start(status) {
            self.held_starts.remove_all(action);
            self.abandon(action);
        }
        if before == Status::Running && status != Status::Running {
            self.end_use(action);
        }
        if let Some(waits) = &mut self.waits
            && wait_of(before) != wait_of(status)
        {
            waits.push((action, wait_of(status)));
        }
        let counts = &mut self.outcome.counts;
        let made = match self.runners[action.index()] {
            Runner::UpToDate => &mut counts.up_to_date,
            Runner::DiskCache => &mut counts.disk_cache,
            Runner::RemoteCache => &mut counts.remote_cache,
            Runner::Local => &mut counts.local,
            Runner::Remote => &mut counts.remote,
        };
        count(made, before == Status::Done, status == Status::Done);
        count(&mut self.queued, before == Status::Queued, status == Status::Queued);
        counts.failed += u64::from(status == Status::Failed);
        if before == Status::LookingUp {
            self.lookups.remove(&action);
        }
        for &goal in self.goals_of.get(&action).into_iter().flatten() {
            match (before == Status::Done, status == Status::Done) {
                (false, true) => self.unfinished[goal] -= 1,
                (true, false) => self.unfinished[goal] += 1,
                _ => {}
            }
        }
    }

    /// The result is known, and this is who made it.
    fn set_done(&mut self, action: ActionId, runner: Runner) {
        self.runners[action.index()] = runner;
        self.set_status(action, Status::Done);
    }

    /// Whether the output of the action is shown while it runs here.
    pub fn streams(&self, action: ActionId) -> bool {
        self.goals.streams_tests && self.is_test(action)
    }

    /// Whether nothing else runs here beside the action: its tag says so, or else its output would be mixed with others'.
    fn is_exclusive(&self, action: ActionId) -> bool {
        self.model.action(action).tags.exclusive || self.streams(action)
    }

    fn is_test(&self, action: ActionId) -> bool {
        self.model.action(action).kind == ActionKind::Test
    }
}

fn wait_of(status: Status) -> Option<Wait> {
    match status {
        Status::LookingUp => Some(Wait::LookUp),
        Status::Queued => Some(Wait::Queued),
        Status::AwaitingInputs => Some(Wait::Inputs),
        Status::Rehashing => Some(Wait::Rehash),
        _ => None,
    }
}

/// Follows one thing that enters or leaves what is counted.
fn count(counter: &mut u64, was: bool, is: bool) {
    match (was, is) {
        (false, true) => *counter += 1,
        (true, false) => *counter -= 1,
        _ => {}
    }
}

/// What identifies an action across builds, as [`Model::action_key_path`] says it, without a copy where there is one.
fn key_path(model: &Model, action: ActionId) -> Cow<'_, str> {
    match model.action(action).outputs.first() {
        Some(&output) => Cow::Borrowed(model.artifact(output).path.as_str()),
        None => Cow::Owned(model.action_key_path(action)),
    }
}

/// The name under which the state knows an action.
struct Name<'a> {
    path: Cow<'a, str>,
    package: &'a str,
}

impl<'a> Name<'a> {
    fn of(model: &'a Model, action: ActionId) -> Self {
        Self { path: key_path(model, action), package: model.label_of(action).package() }
    }

    fn as_ref(&self) -> ActionName<'_> {
        ActionName { path: &self.path, package: self.package }
    }
}
