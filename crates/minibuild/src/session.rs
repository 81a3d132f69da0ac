//! `build`, `test` and `run` from the command line to the exit code.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use minibuild_core::{
    ArtifactId, BuildEvent, CommandSource, DigestFunction, Input, Level, Model, RemoteSide, StoreSide, WsPath,
};
use minibuild_disk::{DiskFs, FileClock as _, FsClock, OutTree};
use minibuild_download::{Mode, Wishes};
use minibuild_engine::build::{AtEnd, Build};
use minibuild_engine::lock::{WorkspaceLock, prepare_out_root};
use minibuild_engine::machine::{Event, Goal, Goals, Outcome, SourceFact};
use minibuild_engine::snapshot::Key;
use minibuild_engine::state::State;
use minibuild_graph::HostFacts;
use minibuild_loader::{
    ConfigInput, DownloadMode, ExternalLinks, LoadFailure, LoadRequest, Loaded, Requested, Settings, TestOutput, load,
    load_settings, render,
};
use minibuild_store::Stores;
use rustc_hash::FxHashMap;

use crate::answer_times::AnswerTimes;
use crate::args::BuildFlags;
use crate::build_channel::BuildChannel;
use crate::console::Console;
use crate::event_log::EventLog;
use crate::event_sinks::EventSinks;
use crate::prefix::use_color;
use crate::profile::Profile;
use crate::refusal::Refusal;
use crate::remote_side::FunctionChoice;
use crate::run_program::RunProgram;
use crate::workspace::{self, Workspace};
use crate::{exit, fast_path, prefix, preview, redact, remote_side, signals, stores, tell};

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `minibuild build`.
    Build,
    /// `minibuild test`.
    Test,
    /// `minibuild run`.
    Run,
    /// `minibuild fetch`.
    Fetch,
}

/// One invocation of `build`, `test` or `run`.
pub struct Session<'a> {
    /// Which of them.
    pub kind: Kind,
    /// Where.
    pub workspace: Workspace,
    /// Its flags.
    pub flags: &'a BuildFlags,
    /// Patterns, or the one label of `run`.
    pub patterns: Vec<String>,
    /// Arguments of the program of `run`.
    pub program_args: Vec<String>,
    /// When minibuild was started.
    pub began: Instant,
    /// Unique id of this invocation, see [`build_id`].
    pub build_id: String,
    /// Whether a snapshot was used, or why not: see [`BuildEvent::BuildFinished`].
    pub snapshot: Cow<'static, str>,
}

/// An id for one invocation: unique enough for logs, and nothing is decided by it.
pub fn build_id(root: &std::path::Path) -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let seed = format!("{}.{}.{}", now.as_nanos(), std::process::id(), root.display());
    let hex = DigestFunction::Sha256.digest(seed.as_bytes()).hex();
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..32])
}

/// What a finished build leaves to be done.
struct Done {
    outcome: Outcome,
    program: Option<RunProgram>,
}

/// Where and with what a build is carried out.
pub(crate) struct Place<'a> {
    pub lock: &'a WorkspaceLock,
    pub line: &'a BuildChannel,
    pub clock: &'a Arc<FsClock>,
}

/// What is built, all of a load or a part of a snapshot.
pub(crate) struct BuildParts<'a> {
    pub targets: Vec<Goal>,
    pub model: Arc<Model>,
    pub commands: Arc<dyn CommandSource>,
    pub packages: &'a [WsPath],
    pub known: FxHashMap<ArtifactId, SourceFact>,
    pub state: Option<State>,
    pub at_end: Option<AtEnd<'a>>,
}

impl Session<'_> {
    /// Does it; gives the exit code. `run` does not come back if its program can be started.
    pub fn run(mut self) -> u8 {
        let line = BuildChannel::new();
        // A dry run has nothing to end in order: there a signal does what it does to any program.
        if !self.flags.dry_run {
            let interrupt = line.sender.clone();
            let notify = move || drop(interrupt.send(Event::Interrupt));
            if let Err(error) = signals::listen(line.stop.clone(), notify) {
                line.say(&prefix::error(format!("signals cannot be caught: {error}")));
                return exit::INTERNAL;
            }
        }
        let code = self.run_on(&line);
        let is_told = line.out.finish();
        match code {
            // What an interrupt kept from being written is no fault of the file's.
            exit::EVENTS_NOT_WRITTEN if line.stop.is_set() => exit::INTERRUPTED,
            exit::SUCCESS if !is_told => exit::INTERRUPTED,
            code => code,
        }
    }

    fn run_on(&mut self, line: &BuildChannel) -> u8 {
        let mut events = EventLog::open(self.flags.events.as_deref(), self.began, &line.stop);
        let mut profile = Profile::open(self.flags.profile.as_deref(), &line.stop);
        events.write(&self.started());
        let done = self.build(line, &mut events, &mut profile);
        let (code, outcome, program) = match done {
            Ok(done) => (exit::of(&done.outcome), done.outcome, done.program),
            Err(refusal) => {
                if !refusal.text.is_empty() {
                    line.say(&refusal.text);
                }
                (refusal.code, Outcome::default(), None)
            }
        };
        let code = told_of_file(line, code, profile.finish(&self.build_id, self.began.elapsed()).as_deref());
        events.write(&self.finished(code, &outcome));
        events.finish();
        let code = told_of_file(line, code, events.error());
        match program.filter(|_| code == exit::SUCCESS) {
            Some(program) => self.become_program(program, line),
            None => code,
        }
    }

    fn started(&self) -> BuildEvent {
        let command = match self.kind {
            Kind::Build => "build",
            Kind::Test => "test",
            Kind::Run => "run",
            Kind::Fetch => "fetch",
        };
        let settings = self.flags.settings();
        let names = settings.iter().map(|(key, value)| redact::setting(key, value));
        let configs = self.flags.config.config.iter().map(|name| format!("config={name}"));
        let vars = self.flags.config.var.iter().map(|var| format!("var {var}"));
        BuildEvent::BuildStarted {
            build_id: self.build_id.clone(),
            command: command.to_owned(),
            patterns: self.patterns.clone(),
            options: names.chain(configs).chain(vars).collect(),
        }
    }

    fn finished(&self, code: u8, outcome: &Outcome) -> BuildEvent {
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        BuildEvent::BuildFinished {
            exit_code: code.into(),
            success: code == exit::SUCCESS,
            wall_ms: millis(self.began.elapsed()),
            critical_path_ms: millis(outcome.critical_path),
            actions: outcome.counts,
            downloads: outcome.downloads,
            uploads: outcome.uploads,
            races: outcome.races,
            snapshot: self.snapshot.clone(),
        }
    }

    /// Says what a build would do, and does nothing: takes no lock, writes no state, asks nobody.
    fn dry_run(&self, line: &BuildChannel) -> Result<Done, Refusal> {
        if self.kind == Kind::Fetch {
            return Err(Refusal::bad_input("`fetch` runs nothing; `--dry-run` is for `build`, `test` and `run`"));
        }
        let input = workspace::config_input(&self.flags.config, self.flags.settings()).map_err(Refusal::bad_input)?;
        let request = self.load_request(input);
        let loaded =
            load(&tell::files_of(&self.workspace), &request).map_err(|failure| self.refuse(&failure, None, line))?;
        let settings = &loaded.settings;
        let mut console =
            Console::new(settings, &self.workspace.root.display().to_string(), self.flags.explain, line.out.clone());
        console.clear();
        if !loaded.warnings.list.is_empty() {
            console.print(&render(&loaded.warnings, &loaded.sources, use_color(Default::default())));
        }
        let state_dir = self.workspace.root.join(minibuild_core::STATE_ROOT);
        let function = remote_side::choose_function(&settings.remote, &state_dir).function;
        let goals = self.goals(self.requested(&loaded)?, &loaded.settings, function)?;
        let has_cache = goals.remote.as_ref().is_some_and(|remote| remote.caches) || goals.stores.disk_cache;
        let foreseen = preview::foresee(&self.workspace, &loaded, goals, function)?;
        for one in &foreseen {
            if let Some(line) = preview::line(&loaded.model, one) {
                console.message(Level::Info, &line);
            }
        }
        let counts = preview::Counts::of(&foreseen);
        let note = if has_cache && counts.run > 0 { " Caches, which may have results, were not asked." } else { "" };
        console.message(Level::Info, &format!("{} Nothing was run.{note}", counts.text()));
        let mut outcome = Outcome::default();
        // Counted is what has an outcome.
        (outcome.counts.total, outcome.counts.up_to_date) = (counts.up_to_date, counts.up_to_date);
        Ok(Done { outcome, program: None })
    }

    fn load_request(&self, config: ConfigInput) -> LoadRequest {
        LoadRequest {
            config,
            patterns: self.patterns.clone(),
            cwd: self.workspace.cwd.clone(),
            host: workspace::host(),
            threads: workspace::cores(),
        }
    }

    fn build(&mut self, line: &BuildChannel, events: &mut EventLog, profile: &mut Profile) -> Result<Done, Refusal> {
        if self.flags.dry_run {
            return self.dry_run(line);
        }
        let root = self.workspace.root.clone();
        let input = workspace::config_input(&self.flags.config, self.flags.settings()).map_err(Refusal::bad_input)?;
        let state_dir = prepare_out_root(&root)?;
        let clock = Arc::new(FsClock::open(&state_dir)?);
        let files = DiskFs::new(&root, clock.now()?).stopped_by(line.stop.clone());
        let (settings, ..) = load_settings(&files, &input).map_err(|failure| self.refuse(&failure, None, line))?;
        let mut console = Console::new(&settings, &root.display().to_string(), self.flags.explain, line.out.clone());
        let lock = self.lock(&console, line)?;
        profile.phase("start", self.began.elapsed());
        let mut function = remote_side::choose_function(&settings.remote, &state_dir);
        let key = fast_path::key(self, &settings, &input, function.function);
        let place = Place { lock: &lock, line, clock: &clock };
        let mut told = EventSinks { console: &mut console, events, profile, root: &root };
        let doubt = match fast_path::take(self, key, &settings, function, &files, &place, &mut told)? {
            Ok(outcome) => return Ok(self.done_from_snapshot(outcome, "used", &mut console)),
            Err(doubt) => doubt,
        };
        line.go_on()?;
        self.snapshot = doubt.to_string().into();
        let request = self.load_request(input);
        let loaded = load(&files, &request).map_err(|failure| self.refuse(&failure, Some(&settings), line))?;
        line.go_on()?;
        // The process ends with the build: to give all this back piece by piece would only take time.
        let loaded: &Loaded = Box::leak(Box::new(loaded));
        if !loaded.warnings.list.is_empty() {
            console.print(&render(&loaded.warnings, &loaded.sources, use_color(settings.color)));
        }
        profile.phase("load", self.began.elapsed());
        profile.loaded(&loaded.model);
        let mut told = EventSinks { console: &mut console, events, profile, root: &root };
        if doubt.is_of_loading() {
            match fast_path::take_loaded(self, key, loaded, function, &files, &place, &mut told)? {
                Ok(outcome) => {
                    let snapshot = format!("used after loading: {doubt}");
                    return Ok(self.done_from_snapshot(outcome, snapshot, &mut console));
                }
                Err(another) => self.snapshot = format!("{doubt}; {another}").into(),
            }
        }
        let program = self.program(loaded)?;
        let mut outcome = self.drive(loaded, function, &place, &mut told, Some((key, &files)))?;
        if let Some(other) = outcome.other_function.filter(|_| function.may_change) {
            remote_side::remember_function(&loaded.settings.remote, &state_dir, other);
            function = FunctionChoice { function: other, may_change: false };
            // What the first client still told is of no use. An interrupt is remembered elsewhere, too.
            while line.receiver.try_recv().is_ok() {}
            outcome = self.drive(loaded, function, &place, &mut told, None)?;
        }
        console.summary(&outcome, self.began.elapsed());
        Ok(Done { outcome, program })
    }

    /// A build that needed no more than a snapshot, or a part of its graph.
    fn done_from_snapshot(
        &mut self,
        outcome: Outcome,
        snapshot: impl Into<Cow<'static, str>>,
        console: &mut Console,
    ) -> Done {
        self.snapshot = snapshot.into();
        console.summary(&outcome, self.began.elapsed());
        Done { outcome, program: None }
    }

    fn lock(&self, console: &Console, line: &BuildChannel) -> Result<WorkspaceLock, Refusal> {
        let command = redact::command_line(std::env::args_os().map(|arg| arg.to_string_lossy().into_owned()));
        let waiting = |holder: &minibuild_engine::lock::Holder| {
            let text = format!("waiting for process {} to finish with this workspace: {}", holder.pid, holder.command);
            console.message(Level::Info, &text);
        };
        let interrupted = |time| line.stop.wait_for(time);
        let lock = WorkspaceLock::take(&self.workspace.root, &command, waiting, interrupted)?;
        lock.ok_or_else(Refusal::interrupted)
    }

    /// What is wrong; after an interrupt that is only what was not read any more.
    fn refuse(&self, failure: &LoadFailure, settings: Option<&Settings>, line: &BuildChannel) -> Refusal {
        if line.stop.is_set() {
            return Refusal::interrupted();
        }
        let color = use_color(settings.map(|s| s.color).unwrap_or_default());
        Refusal::diagnostics(render(&failure.diagnostics, &failure.sources, color))
    }

    pub(crate) fn requested(&self, loaded: &Loaded) -> Result<Vec<Goal>, Refusal> {
        let targets: Vec<Goal> = loaded.requested.iter().map(|requested| self.goal(&loaded.model, requested)).collect();
        if self.kind == Kind::Test && targets.iter().all(|goal| goal.test.is_none()) {
            let text = "the patterns name no test\nhint: tests are targets of `test` and of rules such as `c_test`";
            return Err(Refusal::new(exit::NO_TESTS, text));
        }
        Ok(targets)
    }

    fn goals(&self, targets: Vec<Goal>, settings: &Settings, function: DigestFunction) -> Result<Goals, Refusal> {
        let remote = remote_side::goals(settings, function).map_err(Refusal::bad_input)?;
        let jobs = settings.jobs.map_or_else(workspace::cores, |jobs| jobs as usize);
        Ok(Goals {
            root: self.workspace.root.display().to_string(),
            is_absent: minibuild_disk::is_absent,
            targets,
            wishes: self.wishes(settings)?,
            runs_nothing: self.kind == Kind::Fetch,
            jobs,
            // Where actions have two sides one that waits here could run there; a profile shows when commands ran.
            ahead: if jobs < 2 || remote.is_some() || self.flags.profile.is_some() { 0 } else { 3 + jobs / 8 },
            pools: settings.pools.clone(),
            memory: workspace::memory(),
            keep_going: settings.keep_going,
            fresh_tests: !settings.cache_tests,
            streams_tests: self.kind == Kind::Test && settings.test_output == TestOutput::Streamed,
            all_events: self.flags.events_detail.is_some(),
            strategies: remote_side::strategies(settings),
            dynamic: remote_side::dynamic(settings),
            remote,
            stores: stores::goals(settings),
        })
    }

    pub(crate) fn wishes(&self, settings: &Settings) -> Result<Wishes, Refusal> {
        let mode = match settings.download {
            _ if self.kind == Kind::Fetch => Mode::Fetch,
            DownloadMode::All => Mode::All,
            DownloadMode::Toplevel => Mode::Toplevel,
            DownloadMode::Minimal => Mode::Minimal,
        };
        Wishes::new(mode, &settings.download_regex).map_err(Refusal::bad_input)
    }

    fn goal(&self, model: &Model, requested: &Requested) -> Goal {
        let target = model.target(requested.target);
        let files = match &requested.group {
            Some(group) => target.groups.get(&**group).map(|files| &files[..]).unwrap_or_default(),
            None => &target.outputs,
        };
        let test = target.test.filter(|_| self.kind == Kind::Test);
        let runfiles = target.run.iter().filter(|_| self.kind == Kind::Run);
        let mut run_inputs: Vec<Input> = Vec::new();
        for run in runfiles {
            run_inputs.push(Input::Artifact(run.executable));
            run_inputs.extend(&run.runfiles);
        }
        Goal {
            target: requested.target,
            artifacts: if test.is_some() { Vec::new() } else { flatten(model, files) },
            runfiles: flatten(model, &run_inputs),
            test,
        }
    }

    /// What `run` becomes if all goes well.
    fn program(&self, loaded: &Loaded) -> Result<Option<RunProgram>, Refusal> {
        if self.kind != Kind::Run {
            return Ok(None);
        }
        let [requested] = &loaded.requested[..] else {
            let count = loaded.requested.len();
            return Err(Refusal::bad_input(format!("`run` takes one target; `{}` names {count}", self.patterns[0])));
        };
        let target = loaded.model.target(requested.target);
        let Some(run) = &target.run else {
            let text = format!("`{}` is a `{}`, which cannot be run", target.label, target.rule);
            return Err(Refusal::bad_input(text));
        };
        let mut args = run.args.to_vec();
        args.extend(self.program_args.iter().cloned());
        let path = self.workspace.root.join(loaded.model.artifact(run.executable).path.as_path());
        Ok(Some(RunProgram { path, args, env: run.env.clone().into_iter().collect() }))
    }

    /// Builds what was loaded. A snapshot is written under the key given, if there is one, of what `files` were asked.
    fn drive(
        &self,
        loaded: &Loaded,
        choice: FunctionChoice,
        place: &Place<'_>,
        told: &mut EventSinks<'_>,
        snapshot: Option<(Key, &DiskFs)>,
    ) -> Result<Outcome, Refusal> {
        let is_silent = loaded.warnings.list.is_empty();
        let snapshot = snapshot.filter(|_| is_silent && matches!(self.kind, Kind::Build | Kind::Test));
        let remember =
            snapshot.map(|(key, files)| fast_path::remember_at_end(key, files, loaded, &self.workspace.root));
        let parts = BuildParts {
            targets: self.requested(loaded)?,
            model: loaded.model.clone(),
            commands: loaded.commands.clone(),
            packages: &loaded.packages,
            known: Default::default(),
            state: None,
            at_end: remember,
        };
        self.carry_out(parts, &loaded.settings, choice, place, told)
    }

    /// Builds, from wherever the graph comes.
    pub(crate) fn carry_out(
        &self,
        parts: BuildParts<'_>,
        settings: &Settings,
        choice: FunctionChoice,
        place: &Place<'_>,
        told: &mut EventSinks<'_>,
    ) -> Result<Outcome, Refusal> {
        let facts = workspace::host();
        let function = choice.function;
        let mut goals = self.goals(parts.targets, settings, function)?;
        let answer_times = goals.remote.as_ref().and_then(|_| AnswerTimes::of(&settings.remote));
        goals.dynamic.answer = answer_times.as_ref().map(AnswerTimes::read).unwrap_or_default();
        let tree =
            Arc::new(OutTree::open(&self.workspace.root)?.hashed_with(function).stopped_by(place.line.stop.clone()));
        let stores = stores::open(settings, &tree, place.clock, place.line);
        let remote = goals
            .remote
            .is_some()
            .then(|| self.open_remote(settings, choice, &tree, place.clock, place.line, &stores))
            .transpose()?;
        let has_stores = goals.stores.any();
        let build = Build {
            tree,
            clock: place.clock.clone(),
            remote,
            store: has_stores.then(|| Box::new(stores) as Box<dyn StoreSide>),
            state_dir: &self.workspace.root.join(minibuild_core::STATE_ROOT),
            lock: place.lock,
            model: parts.model,
            commands: parts.commands,
            packages: parts.packages,
            goals,
            host: HostFacts { os: facts.os, isa: facts.arch, salt: settings.salt.clone(), function },
            env: &settings.env,
            follow_external: settings.external_links == ExternalLinks::Follow,
            ignored: &settings.ignore,
            makeflags: std::env::var("MAKEFLAGS").ok(),
            boot_id: &workspace::boot_id(),
            threads: workspace::cores(),
            stop: place.line.stop.clone(),
            began: self.began,
            known: parts.known,
            state: parts.state,
            at_end: parts.at_end,
        };
        let outcome = build.run(&place.line.sender, &place.line.receiver, told)?;
        if let (Some(times), Some(answer)) = (answer_times, outcome.answer) {
            times.remember(answer);
        }
        Ok(outcome)
    }

    fn open_remote(
        &self,
        settings: &Settings,
        function: FunctionChoice,
        tree: &Arc<OutTree>,
        clock: &Arc<FsClock>,
        line: &BuildChannel,
        stores: &Stores,
    ) -> Result<Box<dyn RemoteSide>, Refusal> {
        let sender = line.sender.clone();
        let parts = remote_side::Parts {
            build_id: self.build_id.clone(),
            function,
            tree: tree.clone(),
            clock: clock.clone(),
            keeper: Arc::new(stores.clone()),
            // The loop outlives the client; an event after its end interests nobody.
            sink: Arc::new(move |event| drop(sender.send(Event::Remote(event)))),
        };
        remote_side::open(settings, parts).map_err(Refusal::bad_input)
    }

    /// Replaces this process. The lock is released with it, since its descriptor closes on exec.
    fn become_program(&self, program: RunProgram, line: &BuildChannel) -> u8 {
        // The program would not see a signal that was caught for it.
        line.out.finish();
        signals::let_go();
        if line.stop.is_set() {
            return exit::INTERRUPTED;
        }
        line.say(&prefix::error(program.start(&self.workspace.root)));
        exit::BUILD_FAILED
    }
}

/// The exit code once it is said that a file could not be written.
fn told_of_file(line: &BuildChannel, code: u8, error: Option<&str>) -> u8 {
    let Some(error) = error else { return code };
    let (level, code) = match code {
        exit::SUCCESS => (Level::Error, exit::EVENTS_NOT_WRITTEN),
        code => (Level::Warning, code),
    };
    line.say(&prefix::message(level, error));
    code
}

fn flatten(model: &Model, inputs: &[Input]) -> Vec<ArtifactId> {
    let mut found = Vec::new();
    model.for_each_artifact(inputs, |id| found.push(id));
    found
}
