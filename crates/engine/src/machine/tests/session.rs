//! One build of the machine in the fake world, event by event. What must hold after each of them is in `checks`.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use minibuild_core::{
    ActionId, ArtifactId, BuildEvent, DigestFunction, ExecutorEvent, FetchRequest, Level, RunId, Runner, Stamp,
    StopReason, StoreEvent, TargetId, WsPath,
};
use minibuild_download::{Mode, Wishes};
use minibuild_graph::{HostFacts, Node};
use tempfile::TempDir;

use super::fake::{End, Fake};
use super::fake_remote::{Doing, RemoteEnd};
use super::plan::{Commands, source_path};
use crate::machine::{
    Dynamic, Event, Foreseen, Goal, Goals, Machine, Outcome, RacePolicy, RemoteGoals, Shown, SourceFact, Step,
    Stopping, StoreGoals, Strategies, Strategy, Uploads, Wanted, World,
};
use crate::state::{FileRecord, Origin, State};

/// A directory for state: in memory where there is such a place, since thousands are made.
pub fn state_dir() -> TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("temporary directory")
}

/// What is asked of a fake build.
#[derive(Clone, Debug)]
pub struct Ask {
    pub targets: Vec<usize>,
    pub all_bytes: bool,
    pub toplevel_bytes: bool,
    pub jobs: usize,
    pub ahead: usize,
    pub keep_going: bool,
    pub fresh_tests: bool,
    pub streams_tests: bool,
    pub strategy: Strategy,
    pub dynamic: Dynamic,
    pub remote: Option<RemoteGoals>,
    pub stores: StoreGoals,
}

/// Asks for these targets with their bytes, one job at a time.
pub fn ask(targets: &[usize]) -> Ask {
    let targets = targets.to_vec();
    Ask {
        targets,
        all_bytes: false,
        toplevel_bytes: true,
        jobs: 1,
        ahead: 0,
        keep_going: false,
        fresh_tests: false,
        streams_tests: false,
        strategy: Strategy::Local,
        dynamic: Dynamic::default(),
        remote: None,
        stores: StoreGoals::default(),
    }
}

impl Ask {
    pub fn jobs(self, jobs: usize) -> Self {
        Self { jobs, ..self }
    }

    /// Runs are started ahead, at least so many.
    pub fn ahead(self, ahead: usize) -> Self {
        Self { ahead, ..self }
    }

    pub fn keep_going(self) -> Self {
        Self { keep_going: true, ..self }
    }

    /// No bytes are asked for.
    pub fn minimal(self) -> Self {
        Self { toplevel_bytes: false, ..self }
    }

    /// All bytes are asked for.
    pub fn all(self) -> Self {
        Self { all_bytes: true, ..self }
    }

    /// Both stores of this machine are there.
    pub fn keeping(self) -> Self {
        Self { stores: StoreGoals { local: true, disk_cache: true }, ..self }
    }

    /// There is a remote side.
    pub fn with(self, remote: RemoteGoals) -> Self {
        Self { remote: Some(remote), ..self }
    }

    pub fn strategy(self, strategy: Strategy) -> Self {
        Self { strategy, ..self }
    }

    /// Both branches of each action start as soon as there are places for them.
    pub fn racing(self) -> Self {
        let dynamic = Dynamic { policy: RacePolicy::Race, ..Dynamic::default() };
        Self { dynamic, ..self.with(remote()).strategy(Strategy::Dynamic) }
    }

    /// Everything runs remotely, many at once.
    pub fn remotely(self) -> Self {
        self.with(remote()).strategy(Strategy::Remote)
    }

    fn wishes(&self) -> Wishes {
        let mode = match (self.all_bytes, self.toplevel_bytes) {
            (true, _) => Mode::All,
            (false, true) => Mode::Toplevel,
            (false, false) => Mode::Minimal,
        };
        Wishes::new(mode, &[]).expect("no expression is a bad one")
    }

    fn goals(&self, fake: &Fake) -> Goals {
        let goal = |&number: &usize| {
            let outputs = fake.plan.actions[number].outputs.len();
            let test = fake.model.targets[number].test;
            Goal {
                target: TargetId::new(number),
                artifacts: (0..outputs).map(|output| fake.plan.artifact(number, output)).collect(),
                runfiles: Vec::new(),
                test,
            }
        };
        Goals {
            root: "/ws".to_owned(),
            is_absent: |path| path.ends_with("ghost"),
            targets: self.targets.iter().map(goal).collect(),
            wishes: self.wishes(),
            runs_nothing: false,
            jobs: self.jobs,
            ahead: self.ahead,
            pools: POOLS.into_iter().map(|(name, places)| (name.to_owned(), places)).collect(),
            memory: MEMORY,
            keep_going: self.keep_going,
            fresh_tests: self.fresh_tests,
            streams_tests: self.streams_tests,
            all_events: true,
            strategies: Strategies { default: self.strategy, ..Default::default() },
            dynamic: self.dynamic,
            remote: self.remote.clone(),
            stores: self.stores,
        }
    }
}

/// Pools of every fake build, with their places.
pub const POOLS: [(&str, u32); 2] = [("one", 1), ("two", 2)];
/// Memory of the fake machine.
pub const MEMORY: u64 = 100;

/// A remote side that runs and caches, for which nobody uploads.
pub fn remote() -> RemoteGoals {
    RemoteGoals {
        store: "here".to_owned(),
        executes: true,
        caches: true,
        jobs: 9,
        uploads: Uploads::Never,
        waits_for_uploads: true,
        falls_back: true,
        lease: None,
    }
}

/// One that only caches, and gets all results.
pub fn cache() -> RemoteGoals {
    RemoteGoals { executes: false, uploads: Uploads::Always, ..remote() }
}

/// A build under way, or done.
pub struct Session<'a> {
    pub fake: &'a mut Fake,
    pub machine: Machine,
    pub ask: Ask,
    /// In order of their starts, wherever.
    pub started: Vec<usize>,
    /// Paths that were fetched, in order.
    pub fetched: Vec<String>,
    pub stops: Vec<(usize, StopReason)>,
    pub events: Vec<BuildEvent>,
    pub shown: Vec<Shown>,
    pub outcome: Option<Outcome>,
    pub(super) announced: BTreeMap<String, bool>,
    /// A source changed under the build, whose results are then a mixture.
    pub(super) is_mixed: bool,
    /// A fetch failed for a reason of this machine's.
    pub(super) disk_failed: bool,
    /// A stop was seen before the event that is handled now.
    was_stopped: Option<Stopping>,
    /// Whether the next build finds what this one recorded.
    pub keeps_state: bool,
    /// Milliseconds from event to event.
    pub tick: u64,
    now: u64,
    set_aside: Vec<(RunId, Vec<WsPath>)>,
    answers: VecDeque<StoreEvent>,
}

impl<'a> Session<'a> {
    /// What a build would do, from the state as it lies there.
    pub fn preview(fake: &mut Fake, state_dir: &Path, ask: &Ask) -> Vec<Foreseen> {
        let mut state = State::look(state_dir, "boot", DigestFunction::Sha256).expect("the state is read");
        let world = look(fake, &mut state);
        let (machine, order) = Self::machine(fake, ask, world, state);
        machine.preview(&order)
    }

    fn machine(fake: &Fake, ask: &Ask, world: World, state: State) -> (Machine, Vec<Node>) {
        let goals = ask.goals(fake);
        let wanted = Wanted::new(&fake.model, &goals.targets).expect("no cycle");
        let commands = Commands { plan: fake.plan.clone(), behaviours: fake.behaviours.clone() };
        let host = HostFacts {
            os: "linux".into(),
            isa: "x86_64".into(),
            salt: String::new(),
            function: DigestFunction::Sha256,
        };
        let order = wanted.order.clone();
        (Machine::new(fake.model.clone(), Arc::new(commands), wanted, goals, host, world, state), order)
    }

    /// A build that has begun.
    pub fn begin(fake: &'a mut Fake, state_dir: &Path, ask: &Ask) -> Self {
        let (mut state, warnings) = State::open(state_dir, "boot", DigestFunction::Sha256).expect("the state opens");
        assert_eq!(warnings, Vec::<String>::new());
        let world = look(fake, &mut state);
        let (machine, _) = Self::machine(fake, ask, world, state);
        fake.begin(ask.jobs, ask.ahead, ask.remote.as_ref());
        let mut session = Session {
            fake,
            machine,
            ask: ask.clone(),
            started: Vec::new(),
            fetched: Vec::new(),
            stops: Vec::new(),
            events: Vec::new(),
            shown: Vec::new(),
            outcome: None,
            announced: BTreeMap::new(),
            is_mixed: false,
            disk_failed: false,
            was_stopped: None,
            keeps_state: true,
            tick: 1,
            now: 0,
            set_aside: Vec::new(),
            answers: VecDeque::new(),
        };
        session.handle(Event::Begin);
        session
    }

    pub fn running(&self) -> Vec<usize> {
        self.fake.runs.keys().map(|action| action.index()).collect()
    }

    /// Whether the run was told to stop.
    pub fn is_stopped(&self, action: usize) -> bool {
        self.fake.runs[&ActionId::new(action)].stop.is_some()
    }

    pub fn interrupt(&mut self) {
        self.handle(Event::Interrupt);
    }

    /// Ends a run.
    pub fn end(&mut self, action: usize, end: End) {
        let report = self.fake.end(ActionId::new(action), end);
        self.is_mixed |= !report.changed_inputs.is_empty();
        if !report.changed_inputs.is_empty() || !report.killed.is_empty() {
            self.fake.remote.unclean.insert(report.run);
        }
        self.handle(Event::Executor(ExecutorEvent::Finished(Box::new(report))));
    }

    /// A source is read again.
    fn rehash(&mut self, id: ArtifactId) {
        assert!(self.fake.remote.rehashes.remove(&id), "nobody asked");
        let path = self.fake.model.artifact(id).path.clone();
        let entry = self.fake.disk.get(path.as_str()).cloned();
        let found = entry.ok_or_else(|| "it is gone".to_owned()).map(|entry| {
            let content = self.fake.tell(entry.kind, &entry.text);
            let stamps = vec![Stamp { fingerprint: entry.fingerprint(), trusted: true }];
            FileRecord { content, stamps, origin: Origin::Found }
        });
        self.handle(Event::Rehashed { path, found });
    }

    /// Ends something remote.
    pub fn end_remote(&mut self, doing: Doing, end: RemoteEnd) {
        match doing {
            Doing::Rehash(id) => return self.rehash(id),
            Doing::Here(number) => {
                let event = self.fake.end_here(number);
                return self.handle(Event::Store(event));
            }
            _ => {}
        }
        self.disk_failed |= matches!(doing, Doing::Fetch(_)) && end == RemoteEnd::Failure;
        let event = self.fake.end_remote(doing, end);
        self.handle(Event::Remote(event));
    }

    /// Everything that will be answered, runs here first.
    pub fn doing(&self) -> Vec<Doing> {
        let mut doing: Vec<Doing> = self.running().into_iter().map(Doing::Local).collect();
        doing.extend(self.fake.remote.doing());
        doing.extend(self.fake.stores.doing().map(Doing::Here));
        doing
    }

    /// What is done remotely for an action, by its number.
    pub fn remote_runs(&self) -> Vec<usize> {
        self.fake.remote.runs.keys().map(|run| run.action.index()).collect()
    }

    /// Whether what is done was told to stop.
    pub fn is_told_to_stop(&self, doing: Doing) -> bool {
        match doing {
            Doing::Local(action) => self.is_stopped(action),
            Doing::Run(run) => self.fake.remote.runs[&run].stop.is_some(),
            Doing::Fetch(_) => self.fake.remote.fetches_stopped,
            Doing::Stage(run) => self.fake.remote.stagings[&run].is_stopped,
            Doing::Publish(_)
            | Doing::LookUp(_)
            | Doing::Upload(_)
            | Doing::Check(_)
            | Doing::Rehash(_)
            | Doing::Here(_) => false,
        }
    }

    /// Ends something as it ends by itself, or as it was told to.
    pub fn go_on(&mut self, doing: Doing) {
        match (doing, self.is_told_to_stop(doing)) {
            (Doing::Local(action), true) => self.end(action, End::Stopped),
            (Doing::Local(action), false) => self.end(action, End::ByItself),
            (_, true) => self.end_remote(doing, RemoteEnd::Stopped),
            (_, false) => self.end_remote(doing, RemoteEnd::ByItself),
        }
    }

    /// Ends everything in its way; `pick` chooses the next.
    pub fn finish(&mut self, mut pick: impl FnMut(&[Doing]) -> usize) {
        while self.outcome.is_none() {
            let doing = self.doing();
            assert!(!doing.is_empty(), "nothing is under way, and the build is not over");
            self.go_on(doing[pick(&doing) % doing.len()]);
        }
    }

    /// Hands an event to the machine and does what it says.
    pub fn handle(&mut self, event: Event) {
        self.now += self.tick;
        let tells = std::env::var_os("MINIBUILD_HISTORY").is_some();
        if tells {
            println!("{} {}", self.now, short(format!("{event:?}")));
        }
        let over = self.outcome.is_some();
        self.was_stopped = self.machine.stopping;
        let steps = self.machine.handle_event(event, Duration::from_millis(self.now));
        assert!(!over || steps.is_empty(), "something happens after the end");
        for step in steps {
            assert!(self.outcome.is_none(), "something comes after `Finish`");
            if tells {
                println!("    {}", short(format!("{step:?}")));
            }
            self.perform(step);
        }
        // What is done at once is told at once, before anybody looks.
        if let Some((run, paths)) = self.set_aside.pop() {
            self.fake.set_aside(run, &paths);
            return self.handle(Event::SetAside { run, problem: None });
        }
        if let Some(answer) = self.answers.pop_front() {
            return self.handle(Event::Store(answer));
        }
        self.check_always();
        if self.outcome.is_some() {
            self.check_end();
            if self.keeps_state {
                self.machine.state().flush().expect("the state is written");
            }
        }
    }

    fn perform(&mut self, step: Step) {
        match step {
            Step::Start(request) => {
                self.started.push(request.run.action.index());
                self.fake.start(*request, |id| self.machine.known[id.index()].clone());
            }
            Step::Stop(run, reason) => {
                self.stops.push((run.action.index(), reason));
                self.fake.stop(run.action, reason);
            }
            Step::Emit(event) => {
                if let BuildEvent::TargetCompleted { label, success, outputs } = &event {
                    let present = outputs.iter().all(|o| o.present == Some(true));
                    assert!(!success || !self.ask.toplevel_bytes || present, "{label} is announced without its bytes");
                    let before = self.announced.insert(label.clone(), *success);
                    assert_eq!(before, None, "{label} is announced twice");
                }
                self.events.push(event);
            }
            Step::Show(shown) => self.shown.push(*shown),
            Step::Discard(path) | Step::Delete(path) => self.fake.remove_output(&path),
            Step::WriteLog(..) => {}
            Step::Finish(outcome) => {
                let remote = &self.fake.remote;
                let is_idle = self.fake.runs.is_empty() && remote.runs.is_empty() && remote.fetches.is_empty();
                let has_staged = !(remote.stagings.is_empty() && remote.staged.is_empty());
                assert!(!has_staged && remote.publishing.is_empty(), "the build ends while something is staged");
                assert!(is_idle, "the build ends while something runs");
                self.outcome = Some(outcome);
            }
            Step::LookUp(lookup) => {
                self.check_request();
                self.fake.look_up(*lookup);
            }
            Step::StartRemote(request) => {
                self.check_request();
                self.started.push(request.run.action.index());
                self.fake.start_remote(*request, |id| self.machine.known[id.index()].clone());
            }
            Step::StopRemote(run, reason) => {
                self.stops.push((run.action.index(), reason));
                self.fake.stop_remote(run, reason);
            }
            Step::Fetch(request) => self.perform_fetch(*request),
            Step::Stage(request) => {
                self.check_request();
                self.fake.stage(*request);
            }
            Step::StopStaging(run) => self.fake.stop_staging(run),
            Step::Publish { run, staged } => self.fake.publish(run, staged),
            Step::Unstage(run) | Step::KeepStaged(run) => self.fake.unstage(run),
            Step::CheckStores(check) => {
                self.check_request();
                match self.fake.stores.are_slow {
                    true => self.fake.stores.begin_check(check),
                    false => self.answers.push_back(self.fake.check_stores(check)),
                }
            }
            Step::LookUpHere(lookup) => {
                self.check_request();
                match self.fake.stores.are_slow {
                    true => self.fake.stores.begin_look_up(*lookup),
                    false => self.answers.push_back(self.fake.look_up_here(&lookup)),
                }
            }
            Step::Store(request) => self.fake.store(*request),
            Step::StoreSame { known, key } => self.fake.store_same(known, key),
            Step::Keep(kept) => {
                assert!(self.ask.stores.local, "there is no store");
                self.fake.keep(&kept);
            }
            Step::SetAside(run, paths) => self.set_aside.push((run, paths)),
            Step::Rehash(path) => {
                self.check_request();
                let id = self.fake.id_of(&path);
                assert!(self.fake.remote.rehashes.insert(id), "`{path}` is being read again");
            }
            Step::Hurry(id, urgency) => {
                let Some(fetch) = self.fake.remote.fetches.get_mut(&id) else {
                    // A store has answered already, or is about to.
                    let is_here = self.fake.stores.fetches().any(|fetch| fetch.id == id);
                    return assert!(is_here || !self.answers.is_empty(), "only what is on its way hurries");
                };
                assert!(fetch.urgency < urgency, "`{}` is as urgent already", fetch.path);
                fetch.urgency = urgency;
            }
            Step::StopFetches => self.fake.stop_fetches(),
            Step::Probe => self.check_request(),
            Step::Check(check) => {
                self.check_request();
                self.fake.check(*check);
            }
            Step::Upload(request) => {
                assert!(self.was_stopped < Some(Stopping::Interrupted), "an upload after an interrupt");
                self.fake.upload(*request);
            }
        }
    }

    fn check_request(&self) {
        assert!(self.ask.remote.is_some() || self.ask.stores.any(), "there is no other side");
        assert_eq!(self.was_stopped, None, "something is asked after a stop");
    }

    fn perform_fetch(&mut self, request: FetchRequest) {
        let id = self.fake.id_of(&request.path);
        let is_remains = self.is_remains(&request);
        if !is_remains {
            self.check_request();
            self.check_fetch(id, &request);
            self.fetched.push(request.path.to_string());
        }
        if self.fake.stores.are_slow && self.fake.begin_copy(&request) {
            return;
        }
        if self.ask.stores.any()
            && let Some(event) = self.fake.fetch_here(&request)
        {
            return self.answers.push_back(event);
        }
        let known = self.machine.known[id.index()].clone();
        self.fake.fetch(request, known.as_ref(), is_remains);
    }

    /// The last `action_completed` of an action: who made its result, and why.
    pub fn completed(&self, action: usize) -> Option<(bool, Runner, String)> {
        let wanted = format!("//p:a{action}");
        self.events.iter().rev().find_map(|event| match event {
            BuildEvent::ActionCompleted { label, success, runner, reason, .. } if *label == wanted => {
                Some((*success, *runner, reason.clone()))
            }
            _ => None,
        })
    }

    /// Why actions failed.
    pub fn failures(&self) -> Vec<&str> {
        self.shown.iter().filter_map(|shown| shown.failure.as_deref()).collect()
    }

    /// Whether a blob that this needs can be lost.
    pub fn can_be_lost(&self, doing: Doing) -> bool {
        match doing {
            Doing::Run(run) => self.fake.only_there(&self.fake.remote.runs[&run].request).next().is_some(),
            Doing::Fetch(_) | Doing::Stage(_) => true,
            Doing::Local(_)
            | Doing::Publish(_)
            | Doing::LookUp(_)
            | Doing::Upload(_)
            | Doing::Check(_)
            | Doing::Rehash(_)
            | Doing::Here(_) => false,
        }
    }

    /// Whether the target was announced, and how.
    pub fn announced(&self, target: usize) -> Option<bool> {
        self.announced.get(&format!("//p:a{target}")).copied()
    }

    pub fn warnings(&self) -> Vec<&str> {
        let warning = |event| match event {
            &BuildEvent::Message { level: Level::Warning, ref text } => Some(text.as_str()),
            _ => None,
        };
        self.events.iter().filter_map(warning).collect()
    }

    /// The end of a build that must be over.
    pub fn outcome(&self) -> &Outcome {
        self.outcome.as_ref().expect("the build is over")
    }
}

fn short(mut text: String) -> String {
    let end = text.char_indices().nth(300).map_or(text.len(), |(at, _)| at);
    text.truncate(end);
    text
}

/// What is found on the fake disk before a build, as the real look finds it.
fn look(fake: &mut Fake, state: &mut State) -> World {
    let mut world = World::default();
    for source in 0..fake.plan.sources {
        let path = source_path(source);
        let id = ArtifactId::new(source);
        let Some(entry) = fake.disk.get(&path) else {
            world.sources.insert(id, Err(format!("its input `{path}` does not exist")));
            continue;
        };
        let content = entry.content();
        fake.texts.insert(content.digest_and_size().0, entry.text.clone());
        world.sources.insert(id, Ok(SourceFact::file(content, entry.fingerprint())));
    }
    for (index, artifact) in fake.model.artifacts.iter().enumerate().filter(|(_, a)| a.producer.is_some()) {
        let known = state.file(artifact.path.as_str()).cloned();
        let (Some(record), Some(entry)) = (known, fake.disk.get(artifact.path.as_str())) else { continue };
        let stamp = Stamp { fingerprint: entry.fingerprint(), trusted: true };
        let content = entry.content();
        if record.stamps != [stamp] {
            state.record_seen(&artifact.path, content.clone(), vec![stamp]);
        } else {
            assert_eq!(record.content, content, "the state is wrong about `{}`", artifact.path);
        }
        world.outputs.insert(ArtifactId::new(index), (content, entry.fingerprint()));
    }
    world
}
