//! One build of the machine in the fake world, event by event, with everything that must hold after each of them.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use minibuild_core::{
    ActionId, ArtifactId, ArtifactKind, BuildEvent, DigestFunction, ExecutorEvent, Level, Runner, Stamp, StopReason,
    TargetId,
};
use minibuild_graph::HostFacts;
use tempfile::TempDir;

use super::fake::{End, Fake, content_of};
use super::plan::{Commands, source_path};
use crate::machine::{Event, Goal, Goals, Machine, Outcome, Shown, SourceFact, Status, Step, Wanted, World};
use crate::state::{FileRecord, State};

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
    pub keep_going: bool,
    pub fresh_tests: bool,
}

/// Asks for these targets with their bytes, one job at a time.
pub fn ask(targets: &[usize]) -> Ask {
    let targets = targets.to_vec();
    Ask { targets, all_bytes: false, toplevel_bytes: true, jobs: 1, keep_going: false, fresh_tests: false }
}

impl Ask {
    pub fn jobs(self, jobs: usize) -> Self {
        Self { jobs, ..self }
    }

    pub fn keep_going(self) -> Self {
        Self { keep_going: true, ..self }
    }

    /// No bytes are asked for.
    pub fn minimal(self) -> Self {
        Self { toplevel_bytes: false, ..self }
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
            targets: self.targets.iter().map(goal).collect(),
            all_bytes: self.all_bytes,
            toplevel_bytes: self.toplevel_bytes,
            jobs: self.jobs,
            keep_going: self.keep_going,
            fresh_tests: self.fresh_tests,
            all_events: true,
            strategies: Default::default(),
            remote: None,
        }
    }
}

/// A build under way, or done.
pub struct Session<'a> {
    pub fake: &'a mut Fake,
    pub machine: Machine,
    pub ask: Ask,
    /// In order of their starts.
    pub started: Vec<usize>,
    pub stops: Vec<(usize, StopReason)>,
    pub events: Vec<BuildEvent>,
    pub shown: Vec<Shown>,
    pub outcome: Option<Outcome>,
    announced: BTreeMap<String, bool>,
    /// A source changed under the build, whose results are then a mixture.
    is_mixed: bool,
    /// Whether the next build finds what this one recorded.
    pub keeps_state: bool,
    now: u64,
}

impl<'a> Session<'a> {
    /// A build that has begun.
    pub fn begin(fake: &'a mut Fake, state_dir: &Path, ask: &Ask) -> Self {
        let (mut state, warnings) = State::open(state_dir, "boot", DigestFunction::Sha256).expect("the state opens");
        assert_eq!(warnings, Vec::<String>::new());
        let goals = ask.goals(fake);
        let wanted = Wanted::new(&fake.model, &goals).expect("no cycle");
        let world = look(fake, &mut state);
        let commands = Commands { plan: fake.plan.clone(), behaviours: fake.behaviours.clone() };
        let host = HostFacts {
            os: "linux".into(),
            isa: "x86_64".into(),
            salt: String::new(),
            function: DigestFunction::Sha256,
        };
        let machine = Machine::new(fake.model.clone(), Arc::new(commands), wanted, goals, host, world, state);
        fake.begin(ask.jobs);
        let mut session = Session {
            fake,
            machine,
            ask: ask.clone(),
            started: Vec::new(),
            stops: Vec::new(),
            events: Vec::new(),
            shown: Vec::new(),
            outcome: None,
            announced: BTreeMap::new(),
            is_mixed: false,
            keeps_state: true,
            now: 0,
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
        self.is_mixed |= end == End::ChangedInput;
        let report = self.fake.end(ActionId::new(action), end);
        self.handle(Event::Executor(ExecutorEvent::Finished(Box::new(report))));
    }

    /// Ends all runs by themselves (those told to stop do), `pick` chooses the next of those that run.
    pub fn finish(&mut self, mut pick: impl FnMut(&[usize]) -> usize) {
        while self.outcome.is_none() {
            let running = self.running();
            assert!(!running.is_empty(), "nothing runs, and the build is not over");
            let action = running[pick(&running) % running.len()];
            let end = if self.is_stopped(action) { End::Stopped } else { End::ByItself };
            self.end(action, end);
        }
    }

    /// Hands an event to the machine and does what it says.
    pub fn handle(&mut self, event: Event) {
        self.now += 1;
        let over = self.outcome.is_some();
        let steps = self.machine.handle_event(event, Duration::from_millis(self.now));
        assert!(!over || steps.is_empty(), "something happens after the end");
        for step in steps {
            assert!(self.outcome.is_none(), "something comes after `Finish`");
            self.perform(step);
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
                self.fake.start(*request, |id| self.machine.known[id.index()].content.clone());
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
            Step::Discard(path) => self.fake.remove_output(&path),
            Step::WriteLog(..) => {}
            Step::Finish(outcome) => {
                assert!(self.fake.runs.is_empty(), "the build ends while something runs");
                self.outcome = Some(outcome);
            }
            other => panic!("there is no remote side: {other:?}"),
        }
    }

    fn actions(&self) -> impl Iterator<Item = ActionId> + use<> {
        (0..self.fake.plan.actions.len()).map(ActionId::new)
    }

    /// What holds after each event.
    fn check_always(&self) {
        let machine = &self.machine;
        if machine.stopping.is_some() {
            assert!(self.fake.runs.values().all(|run| run.stop.is_some()), "something runs on after a stop");
        }
        let count = |status| self.actions().filter(|&a| machine.status_of(a) == status).count() as u64;
        let counts = &machine.outcome.counts;
        assert_eq!(count(Status::Done), counts.up_to_date + counts.local, "{counts:?}");
        assert_eq!(count(Status::Failed), counts.failed, "{counts:?}");
        assert!(machine.progress().done <= counts.total, "{counts:?}");
        assert_eq!(count(Status::Running), self.fake.runs.len() as u64);
        for action in self.actions() {
            assert_eq!(self.fake.runs.contains_key(&action), machine.running.contains_key(&action));
            if machine.status_of(action) == Status::Done {
                self.check_done(action);
            }
        }
    }

    /// What is known of a finished action's outputs is what lies on the disk.
    fn check_done(&self, action: ActionId) {
        for &id in &self.fake.model.action(action).outputs {
            let known = &self.machine.known[id.index()];
            let artifact = self.fake.model.artifact(id);
            let here = self.fake.disk.get(artifact.path.as_str());
            match known.on_disk {
                Some(fingerprint) => {
                    let here = here.unwrap_or_else(|| panic!("`{}` is not on disk", artifact.path));
                    assert_eq!(known.content, Some(here.content()), "`{}`", artifact.path);
                    assert!(artifact.kind == ArtifactKind::Directory || fingerprint == here.fingerprint());
                }
                None => {
                    assert!(
                        self.machine.bytes_wanted[id.index()].is_none(),
                        "`{}` is wanted and not here",
                        artifact.path
                    );
                    let here = here.map(|entry| entry.content());
                    assert!(here.is_none() || here != known.content, "`{}` is on disk unnoticed", artifact.path);
                }
            }
        }
    }

    fn check_end(&self) {
        let outcome = self.outcome.as_ref().expect("the build is over");
        assert_eq!(outcome.internal, None);
        assert_eq!(self.announced.len(), self.ask.targets.len(), "each target is announced");
        let is_good = !(outcome.failed || outcome.tests_failed || outcome.interrupted || outcome.lost);
        let counts = &outcome.counts;
        if is_good {
            assert_eq!(counts.total, counts.up_to_date + counts.local);
            assert!(self.announced.values().all(|&success| success), "{:?}", self.announced);
            if !self.is_mixed {
                self.check_against_clean_build();
            }
        }
    }

    /// Every wanted output is what a build from nothing would have made of the sources as they were seen.
    fn check_against_clean_build(&self) {
        let mut clean = Clean { session: self, texts: BTreeMap::new() };
        for action in self.actions().filter(|&a| self.machine.status_of(a) == Status::Done) {
            for &id in &self.fake.model.action(action).outputs {
                let expected = clean.text(id);
                let kind = self.fake.model.artifact(id).kind;
                let path = &self.fake.model.artifact(id).path;
                assert_eq!(self.machine.known[id.index()].content, Some(content_of(kind, &expected)), "`{path}`");
            }
        }
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

/// A build from nothing, on paper.
struct Clean<'a, 'b> {
    session: &'a Session<'b>,
    texts: BTreeMap<ArtifactId, String>,
}

impl Clean<'_, '_> {
    fn text(&mut self, id: ArtifactId) -> String {
        if let Some(text) = self.texts.get(&id) {
            return text.clone();
        }
        let fake = &*self.session.fake;
        let artifact = fake.model.artifact(id);
        let text = match artifact.producer {
            None => self.source_text(id),
            Some(action) => self.output_text(action, id),
        };
        self.texts.insert(id, text.clone());
        text
    }

    /// As it was seen when the build began: one that changes meanwhile is the next build's matter.
    fn source_text(&self, id: ArtifactId) -> String {
        let content = self.session.machine.known[id.index()].content.as_ref().expect("a usable source");
        self.session.fake.texts.get(&content.digest_and_size().0).expect("seen").clone()
    }

    fn output_text(&mut self, action: ActionId, id: ArtifactId) -> String {
        let fake = &*self.session.fake;
        let behaviour = &fake.behaviours[action.index()];
        if fake.plan.actions[action.index()].kind == minibuild_core::ActionKind::Write {
            return format!("command {}", behaviour.command);
        }
        let (plain, discoverable) = fake.inputs(action);
        let texts: BTreeMap<ArtifactId, String> =
            plain.into_iter().chain(discoverable).map(|input| (input, self.text(input))).collect();
        let fake = &*self.session.fake;
        let base = fake.output_text(action, behaviour.command, &|input| texts[&input].clone());
        let number = fake.model.action(action).outputs.iter().position(|&o| o == id).expect("its output");
        if !behaviour.random {
            return format!("{base} output {number}");
        }
        // Whatever it made last, as long as it made that of these inputs.
        let content = self.session.machine.known[id.index()].content.as_ref().expect("made");
        let made = fake.texts.get(&content.digest_and_size().0).expect("made");
        assert!(made.starts_with(&format!("{base} ")), "`{made}` was made of other inputs than `{base}`");
        made.clone()
    }
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
        world.sources.insert(id, Ok(SourceFact { content, fingerprint: entry.fingerprint(), behind: Vec::new() }));
    }
    for (index, artifact) in fake.model.artifacts.iter().enumerate().filter(|(_, a)| a.producer.is_some()) {
        let known = state.file(artifact.path.as_str()).cloned();
        let (Some(record), Some(entry)) = (known, fake.disk.get(artifact.path.as_str())) else { continue };
        let stamp = Stamp { fingerprint: entry.fingerprint(), trusted: true };
        let content = entry.content();
        if record.stamps != [stamp] {
            state.record_file(&artifact.path, FileRecord { content: content.clone(), stamps: vec![stamp] });
        } else {
            assert_eq!(record.content, content, "the state is wrong about `{}`", artifact.path);
        }
        world.outputs.insert(ArtifactId::new(index), (content, entry.fingerprint()));
    }
    world
}
