//! The deciding half of the engine: events in, steps out, nothing waited for.
//!
//! Knows which actions are wanted, what is known of their results, which run, and what has to happen next. It does no
//! I/O and has no clock: contents of sources and of what lies in the output tree are handed in as a [`World`], times
//! with each event. An action moves through one table of statuses; queues and counters are views of it.

mod evaluate;
mod finish;
mod start;
mod targets;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

use minibuild_core::{
    ActionCounts, ActionId, ActionKind, ArtifactId, BuildEvent, CommandSource, Content, ExecutionRequest,
    ExecutorEvent, Fingerprint, HostToolId, Input, Level, Model, RunId, StopReason, TargetId, TestStatus, WsPath,
};
use minibuild_graph::{
    ActionGraph, ActionKey, CycleError, HostFacts, HostToolFact, Node, NodeKind, ReadyQueue, RootCache, critical_path,
};
use rustc_hash::FxHashMap;

use crate::state::{ActionName, State};

/// Predicted time of an action nothing is known of.
const UNKNOWN_TIME: Duration = Duration::from_millis(100);
/// How often one action is run anew because its bytes were needed.
const MAX_ATTEMPTS: u32 = 5;

/// What is asked of one build.
#[derive(Clone, Debug)]
pub struct Goals {
    /// Absolute path of the workspace root.
    pub root: String,
    /// Requested targets with what they stand for.
    pub targets: Vec<Goal>,
    /// Bytes of every output are wanted, not only those of requested targets.
    pub all_bytes: bool,
    /// Bytes of requested targets' outputs are wanted.
    pub toplevel_bytes: bool,
    /// Actions that run here at once.
    pub jobs: usize,
    /// Builds all that does not depend on what failed.
    pub keep_going: bool,
    /// Runs tests whose pass is known, too.
    pub fresh_tests: bool,
    /// `action_completed` for each up-to-date action, not only those of requested targets.
    pub all_events: bool,
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

/// A source file as it was found.
#[derive(Clone, Debug)]
pub struct SourceFact {
    /// What it holds.
    pub content: Content,
    /// Under which fingerprint that was read.
    pub fingerprint: Fingerprint,
    /// For a symlink: what it leads to, transitively, inside the workspace.
    pub behind: Vec<(WsPath, Content, Fingerprint)>,
}

/// What was found on disk before the build.
#[derive(Debug, Default)]
pub struct World {
    /// Source files; `Err` says why one cannot be used.
    pub sources: FxHashMap<ArtifactId, Result<SourceFact, String>>,
    /// What lies where outputs will be, if anything, with its fingerprint (zero for directories).
    pub outputs: FxHashMap<ArtifactId, (Content, Fingerprint)>,
    /// Host tools.
    pub tools: FxHashMap<HostToolId, HostToolFact>,
}

/// Something that happened.
#[derive(Debug)]
pub enum Event {
    /// The build begins.
    Begin,
    /// An executor tells something.
    Executor(ExecutorEvent),
    /// Ctrl-C, SIGTERM or SIGHUP.
    Interrupt,
}

/// Something the driver has to do.
#[derive(Debug)]
pub enum Step {
    /// Hand a request to the local executor.
    Start(Box<ExecutionRequest>),
    /// Stop a run.
    Stop(RunId, StopReason),
    /// Tell everybody.
    Emit(BuildEvent),
    /// Show what an action printed, or how it failed.
    Show(Box<Shown>),
    /// Move away what lies at an output's place and is not its content.
    Discard(WsPath),
    /// Write a test's log.
    WriteLog(WsPath, Vec<u8>),
    /// The build is over.
    Finish(Outcome),
}

/// An action's block on the console.
#[derive(Debug)]
pub struct Shown {
    /// Its target.
    pub label: String,
    /// Its mnemonic.
    pub mnemonic: String,
    /// Set when it failed: what happened, as a sentence.
    pub failure: Option<String>,
    /// Its command and environment.
    pub command: minibuild_core::CommandLine,
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// Its standard error.
    pub stderr: Vec<u8>,
    /// Whether it is a test.
    pub test: Option<TestStatus>,
}

/// How a build ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// An action that is no test failed, or could not be run.
    pub failed: bool,
    /// A test failed.
    pub tests_failed: bool,
    /// The user interrupted it.
    pub interrupted: bool,
    /// Bytes could not be brought back, however often their producer ran.
    pub lost: bool,
    /// Something of minibuild itself is wrong.
    pub internal: Option<String>,
    /// Counts.
    pub counts: ActionCounts,
    /// Along the longest chain of actions that ran.
    pub critical_path: Duration,
}

/// Where an action stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Status {
    /// Nobody needs it.
    Unwanted,
    /// Something it needs is not done.
    Waiting,
    /// It must run and waits for a slot.
    Queued,
    /// It must run, but what makes its inputs has to be done, and their bytes here, first.
    AwaitingInputs,
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

/// What is known of an artifact.
#[derive(Clone, Debug, Default)]
struct Known {
    /// What its action made last, or would make: what consumers were told.
    content: Option<Content>,
    /// Where `content` is on disk: under which fingerprint.
    on_disk: Option<Fingerprint>,
}

/// What is remembered of an action while it runs.
#[derive(Debug)]
struct Running {
    started: Duration,
    key: ActionKey,
    manifest: String,
    reason: String,
    command: minibuild_core::CommandLine,
    stop: Option<StopReason>,
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
    known: Vec<Known>,
    remaining: Vec<Duration>,
    /// End of the longest chain of runs up to and with each node.
    chain: Vec<Duration>,
    attempts: Vec<u32>,
    /// Nodes whose consumers were told that they are done.
    released: Vec<bool>,
    /// Why an action is run although its key is known.
    forced: FxHashMap<ActionId, String>,
    /// Wanted on disk whatever happens.
    bytes_wanted: Vec<bool>,
    /// Consumers in `AwaitingInputs`, with how many producers they wait for.
    awaiting: FxHashMap<ActionId, usize>,
    waiters: FxHashMap<ActionId, Vec<ActionId>>,
    /// Goals each action belongs to.
    goals_of: FxHashMap<ActionId, Vec<usize>>,
    /// How many actions of each goal are not `Done`.
    unfinished: Vec<usize>,
    announced: Vec<bool>,
    /// Nodes that need nothing.
    idle: Vec<Node>,

    ready: ReadyQueue,
    running: FxHashMap<ActionId, Running>,
    exclusive_running: bool,
    stopping: Option<Stopping>,
    outcome: Outcome,
    finished: bool,
    scratch: Scratch,
    /// Directories of input roots; every known content goes through [`Machine::learn`], which makes it forget.
    roots: RefCell<RootCache>,
    steps: Vec<Step>,
    now: Duration,
}

/// Marks of the last flattening, so that none has to be cleared.
#[derive(Default)]
struct Scratch {
    epoch: u32,
    artifacts: Vec<u32>,
    sets: Vec<u32>,
    stack: Vec<Input>,
}

impl Scratch {
    /// The artifacts of `inputs`, sets flattened, each once, appended to `found`.
    fn flatten(&mut self, model: &Model, inputs: &[Input], found: &mut Vec<ArtifactId>) {
        self.stack.extend(inputs.iter().rev());
        while let Some(input) = self.stack.pop() {
            match input {
                Input::Artifact(id) => {
                    if std::mem::replace(&mut self.artifacts[id.index()], self.epoch) != self.epoch {
                        found.push(id);
                    }
                }
                Input::Set(id) => {
                    if std::mem::replace(&mut self.sets[id.index()], self.epoch) != self.epoch {
                        self.stack.extend(model.sets[id.index()].items.iter().rev());
                    }
                }
            }
        }
    }

    fn begin(&mut self, model: &Model) {
        self.epoch += 1;
        self.artifacts.resize(model.artifacts.len(), 0);
        self.sets.resize(model.sets.len(), 0);
    }
}

/// The wanted part of a graph.
#[derive(Debug)]
pub struct Wanted {
    /// The whole graph.
    pub graph: ActionGraph,
    /// Wanted rows, each after what it needs.
    pub order: Vec<Node>,
}

impl Wanted {
    /// What `goals` need of `model`.
    ///
    /// # Errors
    /// A [`CycleError`], which only a bug of the loader can cause.
    pub fn new(model: &Model, goals: &Goals) -> Result<Self, CycleError> {
        let graph = ActionGraph::new(model);
        let mut roots: Vec<ActionId> = Vec::new();
        for goal in &goals.targets {
            let artifacts = goal.artifacts.iter().chain(&goal.runfiles);
            roots.extend(artifacts.filter_map(|&a| model.artifact(a).producer).chain(goal.test));
        }
        let order = graph.order(&roots, |action| model.action_key_path(action))?;
        Ok(Self { graph, order })
    }

    /// The wanted actions.
    pub fn actions(&self) -> impl Iterator<Item = ActionId> {
        self.order.iter().filter_map(|&node| match self.graph.kind(node) {
            NodeKind::Action(id) => Some(id),
            NodeKind::Set(_) => None,
        })
    }
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
        state: State,
    ) -> Self {
        let goals = Goals { jobs: goals.jobs.max(1), ..goals };
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
            status,
            pending,
            known: vec![Known::default(); model.artifacts.len()],
            remaining,
            chain: vec![Duration::ZERO; rows],
            attempts: vec![0; model.actions.len()],
            released: vec![false; rows],
            forced: FxHashMap::default(),
            bytes_wanted: vec![false; model.artifacts.len()],
            awaiting: FxHashMap::default(),
            waiters: FxHashMap::default(),
            goals_of: FxHashMap::default(),
            unfinished: Vec::new(),
            idle,
            announced: vec![false; goals.targets.len()],
            ready: ReadyQueue::default(),
            running: FxHashMap::default(),
            exclusive_running: false,
            stopping: None,
            outcome: Outcome::default(),
            finished: false,
            scratch: Scratch::default(),
            roots: RefCell::default(),
            steps: Vec::new(),
            now: Duration::ZERO,
            model,
            commands,
            graph,
            goals,
            host,
            world,
            state,
        };
        machine.mark_goals();
        machine.take_sources();
        machine.outcome.counts.total =
            order.iter().filter(|&&n| matches!(machine.graph.kind(n), NodeKind::Action(_))).count() as u64;
        machine
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
            Event::Executor(ExecutorEvent::Finished(report)) => self.take_report(*report),
        }
        self.start_ready();
        self.finish_if_idle();
        std::mem::take(&mut self.steps)
    }

    /// The state, for flushing between events and at the end.
    pub fn state(&mut self) -> &mut State {
        &mut self.state
    }

    /// Where the build stands, for a progress display.
    pub fn progress(&self) -> Progress {
        let counts = &self.outcome.counts;
        let done =
            counts.up_to_date + counts.local + counts.remote + counts.disk_cache + counts.remote_cache + counts.failed;
        Progress { total: counts.total, done, running: self.running.len() as u64, queued: self.ready.len() as u64 }
    }

    /// The label of an action's target.
    pub fn label(&self, action: ActionId) -> String {
        self.model.label_of(action).to_string()
    }

    /// What runs now: label, mnemonic and since when.
    pub fn running(&self) -> Vec<(String, String, Duration)> {
        let mut list: Vec<_> = self
            .running
            .iter()
            .map(|(&action, running)| {
                let mnemonic = self.model.action(action).mnemonic.to_string();
                (self.model.label_of(action).to_string(), mnemonic, running.started)
            })
            .collect();
        list.sort_by(|a, b| (a.2, &a.0).cmp(&(b.2, &b.0)));
        list
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
        let (next, reason) = match self.stopping {
            None | Some(Stopping::FailFast) => (Stopping::Interrupted, StopReason::Interrupt),
            Some(_) => (Stopping::Killed, StopReason::Kill),
        };
        self.outcome.interrupted = true;
        self.stop_all(next, reason);
    }

    fn stop_all(&mut self, stopping: Stopping, reason: StopReason) {
        self.stopping = self.stopping.max(Some(stopping));
        let mut runs: Vec<ActionId> = self.running.keys().copied().collect();
        runs.sort_unstable();
        for action in runs {
            let attempt = self.attempts[action.index()];
            if let Some(running) = self.running.get_mut(&action)
                && running.stop < Some(reason)
            {
                running.stop = Some(reason);
                self.steps.push(Step::Stop(RunId { action, attempt }, reason));
            }
        }
    }

    fn message(&mut self, level: Level, text: String) {
        self.steps.push(Step::Emit(BuildEvent::Message { level, text }));
    }

    fn finish_if_idle(&mut self) {
        if self.finished || !self.running.is_empty() {
            return;
        }
        if self.stopping.is_none() && !self.ready.is_empty() {
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
        for goal in 0..self.goals.targets.len() {
            self.announce(goal, false);
        }
        self.finished = true;
        self.outcome.critical_path = self.chain.iter().max().copied().unwrap_or_default();
        self.steps.push(Step::Finish(self.outcome.clone()));
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
        let ran = self.attempts[action.index()] > 0;
        let counts = &mut self.outcome.counts;
        let done = if ran { &mut counts.local } else { &mut counts.up_to_date };
        match (before == Status::Done, status == Status::Done) {
            (false, true) => *done += 1,
            (true, false) => *done -= 1,
            _ => {}
        }
        counts.failed += u64::from(status == Status::Failed);
        for &goal in self.goals_of.get(&action).into_iter().flatten() {
            match (before == Status::Done, status == Status::Done) {
                (false, true) => self.unfinished[goal] -= 1,
                (true, false) => self.unfinished[goal] += 1,
                _ => {}
            }
        }
    }

    fn is_test(&self, action: ActionId) -> bool {
        self.model.action(action).kind == ActionKind::Test
    }
}

/// Counts for a progress display.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// All wanted actions.
    pub total: u64,
    /// Those whose result is known, failed ones included.
    pub done: u64,
    /// Those that run.
    pub running: u64,
    /// Those that could run.
    pub queued: u64,
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
