//! The driver: one loop that waits for events, and does what the machine says.
//!
//! It knows threads, channels and files, and decides nothing.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use minibuild_core::{
    ArtifactId, BuildEvent, CommandSource, ExecutionStatus, Executor, ExecutorEvent, FetchId, FetchOutcome,
    FetchRequest, HostTool, Kept, Level, Model, RemoteEvent, RemoteSide, RunId, StopFlag, StoreEvent, StoreSide,
    WrittenFile, WsPath,
};
use minibuild_disk::{DiskError, FileClock, OutTree};
use minibuild_graph::HostFacts;
use minibuild_local::{Jobserver, LocalConfig, LocalExecutor};
use rustc_hash::FxHashMap;

use crate::begun::Begun;
use crate::build_error::BuildError;
use crate::lock::WorkspaceLock;
use crate::machine::{Ended, Event, Goals, LogText, Machine, Outcome, Progress, SourceFact, Step};
use crate::moment::Moment;
use crate::parts::Parts;
use crate::reporter::Reporter;
use crate::state::State;
use crate::streamed::{LOOK_EVERY, StreamedTest};
use crate::sweep::Sweep;
use crate::tool_version::VersionCommands;
use crate::tools::AskVersion;
use crate::undeclared::Undeclared;
use crate::world::Look;

/// Bytes of state that may wait for a moment without events.
const FLUSH_AT: usize = 256 * 1024;

/// Everything a build needs to know.
pub struct Build<'a> {
    /// The output tree.
    pub tree: Arc<OutTree>,
    /// The file system's clock.
    pub clock: Arc<dyn FileClock>,
    /// The state's directory.
    pub state_dir: &'a Path,
    /// The held lock.
    pub lock: &'a WorkspaceLock,
    /// What was loaded.
    pub model: Arc<Model>,
    /// Makes its commands.
    pub commands: Arc<dyn CommandSource>,
    /// Loaded packages.
    pub packages: &'a [WsPath],
    /// What is asked for.
    pub goals: Goals,
    /// The host.
    pub host: HostFacts,
    /// `[env]` with `PATH`: where host tools are looked for.
    pub env: &'a std::collections::BTreeMap<String, String>,
    /// Whether symlinks that leave the workspace count as what they lead to.
    pub follow_external: bool,
    /// `[workspace] ignore`.
    pub ignored: &'a [WsPath],
    /// `MAKEFLAGS`, which may name the jobserver of a `make` above.
    pub makeflags: Option<String>,
    /// Identifies the boot of the machine.
    pub boot_id: &'a str,
    /// Threads that look at files.
    pub threads: usize,
    /// Set by an interrupt: ends what is done before there is a loop that takes events, and after it.
    pub stop: StopFlag,
    /// When the build began.
    pub began: Instant,
    /// The remote side, which sends into the loop as [`Event::Remote`]; there where `goals.remote` is.
    pub remote: Option<Box<dyn RemoteSide>>,
    /// The stores of this machine, which send into the loop as [`Event::Store`]; there where `goals.stores` has any.
    pub store: Option<Box<dyn StoreSide>>,
    /// Artifacts without a producer that need no look: they were looked at just now.
    pub known: FxHashMap<ArtifactId, SourceFact>,
    /// The state, where it is open already; it may be a partial one that knows all about the model.
    pub state: Option<State>,
    /// Told what is known in the end, after everything is written.
    pub at_end: Option<AtEnd<'a>>,
}

/// See [`Build::at_end`].
pub type AtEnd<'a> = Box<dyn FnOnce(&mut Ended<'_>, &Outcome) + 'a>;

impl Build<'_> {
    /// Carries the build out. Interrupts come through `events`, into which `sender` sends.
    ///
    /// # Errors
    /// A [`BuildError`]; failed actions are no error but an [`Outcome`].
    pub fn run(
        mut self,
        sender: &Sender<Event>,
        events: &Receiver<Event>,
        reporter: &mut dyn Reporter,
    ) -> Result<Outcome, BuildError> {
        let opened = match self.state.take() {
            Some(state) => Ok((state, Vec::new())),
            None => State::open(self.state_dir, self.boot_id, self.tree.function()),
        };
        let (mut state, warnings) =
            opened.map_err(|source| BuildError::State { path: self.state_dir.display().to_string(), source })?;
        for text in warnings {
            reporter.event(&BuildEvent::Message { level: Level::Warning, text });
        }
        self.tree.sweep_staging()?;
        self.tree.sweep_trash()?;
        self.tree.sweep_long_output()?;
        let sweep =
            Sweep { model: &self.model, packages: self.packages, tree: &self.tree, store: self.store.as_deref() };
        sweep.run(&mut state)?;
        let mut machine = self.machine(state, reporter)?;
        if self.stop.is_set() {
            // What was hashed is worth remembering; should it not be possible, it is hashed again.
            let _ = machine.state().flush();
            return Ok(Outcome { interrupted: true, ..Default::default() });
        }
        let jobserver = self.jobserver(reporter);
        let begun = Begun::default();
        let executor = self.executor(sender, begun.clone(), jobserver)?;
        let undeclared = Undeclared::new(self.model, self.tree.clone());
        let (tree, clock, began, at_end) = (self.tree, self.clock, self.began, self.at_end);
        let (remote, store, stop) = (self.remote, self.store, self.stop);
        let sender = sender.clone();
        let driver = Driver {
            machine,
            executor,
            remote,
            store,
            last_fetch: FetchId(0),
            stopped_fetches: None,
            tree,
            clock,
            sender,
            began,
            begun,
            disk_failed: None,
            answers: VecDeque::new(),
            undeclared,
            streamed: None,
            stop,
        };
        Ok(driver.run(events, reporter, at_end))
    }

    fn machine(&self, state: State, reporter: &mut dyn Reporter) -> Result<Machine, BuildError> {
        let look = Look {
            model: &self.model,
            root: self.tree.workspace(),
            function: self.tree.function(),
            tree: Some(&self.tree),
            clock: &*self.clock,
            threads: self.threads,
            follow_external: self.follow_external,
            ignored: self.ignored,
            known: &self.known,
            stop: &self.stop,
        };
        let parts = Parts {
            look,
            model: &self.model,
            commands: &self.commands,
            goals: &self.goals,
            host: &self.host,
            env: self.env,
        };
        let mut say = |text| reporter.event(&BuildEvent::Message { level: Level::Info, text });
        let mut versions = VersionCommands::new(&self.tree, self.env, self.lock, &self.stop, &mut say);
        let mut ask = |tool: &HostTool, path: &Path| versions.ask(tool, path);
        // Who only fetches starts no program at all.
        let ask = (!self.goals.runs_nothing).then_some(&mut ask as &mut AskVersion<'_>);
        parts.machine(state, ask).map(|(machine, _)| machine)
    }

    /// That of a `make` above, or one of its own.
    fn jobserver(&self, reporter: &mut dyn Reporter) -> Option<Jobserver> {
        let jobs = self.goals.jobs;
        if let Some(joined) = self.makeflags.as_deref().and_then(|flags| Jobserver::join(flags, jobs)) {
            return Some(joined);
        }
        let path = self.state_dir.join("jobserver");
        let warn = |why| {
            let text = format!(
                "cannot make `{}`: {why}; `make` and its like do not know how many jobs there may be",
                path.display()
            );
            reporter.event(&BuildEvent::Message { level: Level::Warning, text });
        };
        Jobserver::serve(&path, jobs).map_err(warn).ok()
    }

    fn executor(
        &self,
        sender: &Sender<Event>,
        begun: Begun,
        jobserver: Option<Jobserver>,
    ) -> Result<LocalExecutor, BuildError> {
        let lock = self
            .lock
            .share()
            .map_err(|e| DiskError::new("share the lock of", self.state_dir.display().to_string(), e))?;
        let config = LocalConfig {
            tree: self.tree.clone(),
            clock: self.clock.clone(),
            slots: self.goals.jobs,
            helper: "/proc/self/exe".into(),
            helper_args: vec!["__slot".into()],
            lock: Some(lock),
            jobserver,
        };
        let (sender, began) = (sender.clone(), self.began);
        // A step told the start already: the loop need not wake for it. The receiver outlives the executor; a report after
        // the end interests nobody.
        let sink = move |event| match event {
            ExecutorEvent::Started(run) => drop(begun.lock().insert(run, began.elapsed())),
            event => drop(sender.send(Event::Executor(event))),
        };
        let executor = LocalExecutor::new(config, Arc::new(sink));
        Ok(executor.map_err(|e| DiskError::new("make", "a descriptor for local commands", e))?)
    }
}

struct Driver {
    machine: Machine,
    executor: LocalExecutor,
    remote: Option<Box<dyn RemoteSide>>,
    store: Option<Box<dyn StoreSide>>,
    /// The last fetch that was asked for, and what it was when all were stopped.
    last_fetch: FetchId,
    stopped_fetches: Option<FetchId>,
    tree: Arc<OutTree>,
    clock: Arc<dyn FileClock>,
    sender: Sender<Event>,
    began: Instant,
    begun: Begun,
    disk_failed: Option<String>,
    /// What was done at once, and is told next.
    answers: VecDeque<Event>,
    undeclared: Undeclared,
    streamed: Option<StreamedTest>,
    stop: StopFlag,
}

impl Driver {
    fn run(mut self, events: &Receiver<Event>, reporter: &mut dyn Reporter, mut at_end: Option<AtEnd<'_>>) -> Outcome {
        let mut next = Some(Event::Begin);
        if reporter.wants_moments() {
            self.machine.watch_waits();
        }
        loop {
            if let Some(event) = next.take().and_then(|event| self.hand_on(event)) {
                if let Event::Executor(ExecutorEvent::Finished(report)) = &event {
                    self.begun.lock().remove(&report.run);
                    if let Some(test) = self.streamed.take_if(|test| test.run() == report.run) {
                        test.end(&self.executor, reporter, &self.stop);
                    }
                }
                self.explain_full_disk(&event, reporter);
                self.tell(Moment::of(&event), reporter);
                let steps = self.machine.handle_event(event, self.began.elapsed());
                for (action, wait) in self.machine.take_waits() {
                    self.tell(Some(Moment::Waits(action, wait)), reporter);
                }
                if let Some(outcome) = self.perform(steps, reporter) {
                    return self.finish(outcome, events, reporter, at_end.take());
                }
            }
            let machine = &self.machine;
            let received = self.remote.as_ref().map_or(0, |remote| remote.received());
            // What was given ahead waits for its turn.
            let waiting = machine.given_here().saturating_sub(self.begun.lock().len() as u64);
            let progress = machine.progress();
            let progress = Progress { received, running: progress.running.saturating_sub(waiting), ..progress };
            // Not locked while something is shown: whoever starts commands must not wait for a terminal.
            let running = || {
                let begun = self.begun.lock().clone();
                machine.running(&|run| begun.get(&run).copied())
            };
            reporter.progress(self.began.elapsed(), progress, &running);
            next = self.wait(events, reporter);
        }
    }

    /// The next event. State is written when there is none waiting.
    fn wait(&mut self, events: &Receiver<Event>, reporter: &mut dyn Reporter) -> Option<Event> {
        if let Some(answer) = self.answers.pop_front() {
            return Some(answer);
        }
        if let Ok(event) = events.try_recv() {
            if self.machine.state().pending() > FLUSH_AT {
                self.flush(reporter);
            }
            return Some(event);
        }
        self.executor.go_on();
        self.flush(reporter);
        let executor = &self.executor;
        let more = self.streamed.as_mut().map(|test| match test.show_some(executor, reporter) {
            true => LOOK_EVERY,
            false => Duration::ZERO,
        });
        let wake = self.machine.wake_at().map(|at| at.saturating_sub(self.began.elapsed()));
        let received = match reporter.tick().into_iter().chain(wake).chain(more).min() {
            Some(longest) => events.recv_timeout(longest),
            None => events.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        match received {
            Ok(event) => Some(event),
            Err(RecvTimeoutError::Timeout) => {
                self.machine.wake_at().filter(|at| *at <= self.began.elapsed()).map(|_| Event::Wake)
            }
            // `run`'s caller holds a sender; should it not, the build ends as interrupted instead of hanging.
            Err(RecvTimeoutError::Disconnected) => Some(Event::Interrupt),
        }
    }

    fn perform(&mut self, steps: Vec<Step>, reporter: &mut dyn Reporter) -> Option<Outcome> {
        for step in steps {
            self.tell(Moment::of_step(&step), reporter);
            match step {
                Step::Start(request) => {
                    // What it is about to write is recorded, and must be even if this process dies now.
                    self.flush(reporter);
                    self.announce(request.run, reporter);
                    self.undeclared.watch(&request);
                    self.streamed = self.machine.streams(request.run.action).then(|| self.streamed_test(request.run));
                    self.executor.start(*request);
                }
                Step::Stop(run, reason) => self.executor.stop(run, reason),
                Step::LookUp(lookup) => self.remote(|remote| remote.look_up(*lookup)),
                Step::StartRemote(request) => {
                    self.announce(request.run, reporter);
                    self.remote(|remote| remote.start(*request));
                }
                Step::StopRemote(run, reason) => self.remote(|remote| remote.stop(run, reason)),
                Step::Stage(request) => self.remote(|remote| remote.stage(*request)),
                Step::StopStaging(run) => self.remote(|remote| remote.stop_staging(run)),
                Step::Publish { run, staged } => {
                    // What is about to be put there is known to the state even if this process dies now.
                    self.flush(reporter);
                    self.remote(|remote| remote.publish(run, staged));
                }
                Step::Unstage(run) => self.remote(|remote| remote.unstage(run)),
                Step::SetAside(run, paths) => self.set_aside(run, &paths),
                Step::Fetch(request) => {
                    // What is about to be brought here is known to the state even if this process dies now.
                    self.flush(reporter);
                    self.fetch(*request);
                }
                Step::CheckStores(check) => self.store(|store| store.check(check)),
                Step::LookUpHere(lookup) => self.store(|store| store.look_up(*lookup)),
                Step::Store(request) => self.store(|store| store.store(*request)),
                Step::StoreSame { known, key } => self.store(|store| store.store_same(known, key)),
                Step::Keep(kept) => self.keep(&kept, reporter),
                Step::KeepStaged(run) => self.remote(|remote| remote.keep_staged(run)),
                Step::Hurry(id, urgency) => drop(self.remote.as_ref().map(|remote| remote.hurry(id, urgency))),
                Step::StopFetches => self.stop_fetches(),
                Step::Probe => self.remote(|remote| remote.probe()),
                Step::Check(check) => self.remote(|remote| remote.check(*check)),
                Step::Upload(request) => self.remote(|remote| remote.upload(*request)),
                Step::Rehash(path) => self.rehash(path),
                Step::Emit(event) => reporter.event(&event),
                Step::Show(shown) => reporter.show(&shown),
                Step::Discard(path) => self.warn_if_failed(self.tree.set_aside(&path), reporter),
                Step::Delete(path) => self.warn_if_failed(self.tree.delete(&path), reporter),
                Step::WriteLog(path, LogText::Bytes(content)) => {
                    let log = WrittenFile { path, content, executable: false };
                    self.warn_if_failed(self.tree.write_log(&log), reporter);
                }
                Step::WriteLog(path, LogText::Files(parts)) => {
                    self.warn_if_failed(self.tree.join_log(&path, &parts), reporter);
                }
                Step::Finish(outcome) => return Some(outcome),
            }
        }
        None
    }

    fn tell(&self, moment: Option<Moment>, reporter: &mut dyn Reporter) {
        if let Some(moment) = moment.filter(|_| reporter.wants_moments()) {
            reporter.moment(self.began.elapsed(), &moment);
        }
    }

    fn streamed_test(&self, run: RunId) -> StreamedTest {
        let mnemonic = self.machine.mnemonic(run.action);
        StreamedTest::new(run, self.machine.label(run.action), mnemonic)
    }

    fn announce(&self, run: RunId, reporter: &mut dyn Reporter) {
        if let Some(command) = self.machine.command(run.action) {
            reporter.starting(&self.machine.label(run.action), command);
        }
    }

    /// Renames whatever lies at these places away; its answer is the next event.
    fn set_aside(&mut self, run: RunId, paths: &[WsPath]) {
        let problems = paths.iter().filter_map(|path| self.tree.set_aside(path).err());
        let problems: Vec<String> = problems.map(|error| error.render()).collect();
        let problem = (!problems.is_empty()).then(|| problems.join("; "));
        self.answers.push_back(Event::SetAside { run, problem });
    }

    /// Reads a source again, beside the loop.
    fn rehash(&self, path: WsPath) {
        let (sender, tree, clock) = (self.sender.clone(), self.tree.clone(), self.clock.clone());
        let read = Arc::new(move || {
            let found = crate::world::read_again(&tree, &*clock, &path);
            // After the end of the build nobody is interested.
            drop(sender.send(Event::Rehashed { path: path.clone(), found }));
        });
        let on_thread = Arc::clone(&read);
        if std::thread::Builder::new().name("rehash".to_owned()).spawn(move || on_thread()).is_err() {
            // No thread is left: the loop waits for the disk, as rarely as a source changes during a build.
            read();
        }
    }

    /// Bytes come from a store of this machine, else from the remote side.
    fn fetch(&mut self, request: FetchRequest) {
        self.last_fetch = request.id;
        match &self.store {
            Some(store) => store.fetch(request),
            None => self.remote(|remote| remote.fetch(request)),
        }
    }

    fn stop_fetches(&mut self) {
        self.stopped_fetches = Some(self.last_fetch);
        if let Some(store) = &self.store {
            store.stop_fetches();
        }
        if let Some(remote) = &self.remote {
            remote.stop_fetches();
        }
    }

    /// What the stores of this machine lack the remote side is asked for; any other event is the machine's.
    fn hand_on(&mut self, event: Event) -> Option<Event> {
        let Event::Store(StoreEvent::NotHere(request)) = event else { return Some(event) };
        let id = request.id;
        let outcome = match &self.remote {
            _ if self.stopped_fetches.is_some_and(|last| id <= last) => FetchOutcome::Stopped,
            Some(remote) => {
                remote.fetch(*request);
                return None;
            }
            None => FetchOutcome::Lost {
                digests: request.content.blobs(),
                why: "the stores of this machine do not have it any more".to_owned(),
            },
        };
        Some(Event::Store(StoreEvent::Fetched { id, outcome }))
    }

    /// Moves an output away, to the store if that takes it.
    fn keep(&self, kept: &Kept, reporter: &mut dyn Reporter) {
        if !self.store.as_ref().is_some_and(|store| store.keep(kept)) {
            self.warn_if_failed(self.tree.set_aside(&kept.path), reporter);
        }
    }

    fn store(&self, ask: impl FnOnce(&dyn StoreSide)) {
        debug_assert!(self.store.is_some(), "the machine was told of a store");
        if let Some(store) = &self.store {
            ask(&**store);
        }
    }

    /// The machine asks nothing of a remote side that is not there.
    fn remote(&self, ask: impl FnOnce(&dyn RemoteSide)) {
        debug_assert!(self.remote.is_some(), "the machine was told of a remote side");
        if let Some(remote) = &self.remote {
            ask(&**remote);
        }
    }

    /// A command that fails on a full disk can often not even say so: its output goes to the same disk.
    fn explain_full_disk(&self, event: &Event, reporter: &mut dyn Reporter) {
        let Event::Executor(ExecutorEvent::Finished(report)) = event else { return };
        let by_itself = matches!(report.status, ExecutionStatus::Exited(1..) | ExecutionStatus::Signalled(_));
        if by_itself && self.tree.is_full() {
            let full = DiskError::new("write to", minibuild_core::OUT_ROOT, nix::errno::Errno::ENOSPC);
            let text = format!("{}\nwhat commands printed may be missing", full.render());
            reporter.event(&BuildEvent::Message { level: Level::Error, text });
        }
    }

    fn warn_if_failed(&self, result: Result<(), DiskError>, reporter: &mut dyn Reporter) {
        if let Err(error) = result {
            reporter.event(&BuildEvent::Message { level: Level::Warning, text: error.render() });
        }
    }

    fn flush(&mut self, reporter: &mut dyn Reporter) {
        if self.disk_failed.is_some() {
            return;
        }
        if let Err(error) = self.machine.state().flush() {
            let error = DiskError::new("write", minibuild_core::STATE_ROOT, error);
            let hint = error.hint().map(|hint| format!("\nhint: {hint}")).unwrap_or_default();
            let text = format!(
                "the state in `{}` cannot be written: {}; results of this build are not remembered{hint}",
                error.path(),
                error.os_error()
            );
            reporter.event(&BuildEvent::Message { level: Level::Error, text: text.clone() });
            self.disk_failed = Some(text);
        }
    }

    fn finish(
        mut self,
        mut outcome: Outcome,
        events: &Receiver<Event>,
        reporter: &mut dyn Reporter,
        at_end: Option<AtEnd<'_>>,
    ) -> Outcome {
        self.executor.shutdown();
        if let Some(remote) = &mut self.remote {
            remote.shutdown();
            outcome.uploads = remote.transfer_counts();
        }
        let kept = self.tree.kept_in_trash().into_iter().map(|error| error.render());
        for text in kept.chain(self.undeclared.appeared()) {
            reporter.event(&BuildEvent::Message { level: Level::Warning, text });
        }
        if let Some(store) = &mut self.store {
            store.shutdown(outcome.interrupted || self.stop.is_set());
        }
        // What both sides came upon last. Nothing else is of interest any more.
        for event in events.try_iter() {
            let (Event::Store(StoreEvent::Message { level, text })
            | Event::Remote(RemoteEvent::Message { level, text })) = event
            else {
                continue;
            };
            reporter.event(&BuildEvent::Message { level, text });
        }
        self.flush(reporter);
        // Whatever was cut short above counts as interrupted.
        outcome.interrupted |= self.stop.is_set();
        let is_gone = |path: &WsPath| minibuild_disk::is_absent(&self.tree.workspace().join(path.as_path()));
        if self.disk_failed.is_none()
            && !outcome.interrupted
            && let Err(error) = self.machine.state().compact(is_gone)
        {
            let text = format!("the state cannot be compacted: {error}");
            reporter.event(&BuildEvent::Message { level: Level::Warning, text });
        }
        outcome.failed |= self.disk_failed.is_some();
        if let Some(at_end) = at_end.filter(|_| self.disk_failed.is_none()) {
            at_end(&mut self.machine.ended(), &outcome);
        }
        outcome.interrupted |= self.stop.is_set();
        outcome
    }
}
