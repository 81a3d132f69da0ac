//! The fake disk with the fake executor on it. Stricter than the real ones: whatever may not be asked of an executor,
//! or may not happen to a file, panics.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use minibuild_core::{
    ActionId, ActionKind, ArtifactId, ArtifactKind, Content, Digest, DigestFunction, ExecutionReport, ExecutionRequest,
    ExecutionStatus, ExpectedInput, Fingerprint, FoundOutput, Model, OutputMeta, RunCost, RunId, Stamp, StopReason,
    TreeEntry, TreeMeta, TreeNode, WsPath,
};
use minibuild_reapi::tree_root;

use super::fake_remote::Remote;
use super::fake_store::Stores;
use super::plan::{Behaviour, Plan, path, source_path};
use crate::machine::RemoteGoals;

/// A file, or a tree in one text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub kind: ArtifactKind,
    pub text: String,
    /// Another one with each write.
    pub version: u64,
}

impl Entry {
    pub fn content(&self) -> Content {
        content_of(self.kind, &self.text)
    }

    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint { ino: self.version, size: self.text.len() as u64, ..Default::default() }
    }
}

/// The content of an entry that is of this kind.
pub fn content_of(kind: ArtifactKind, text: &str) -> Content {
    let digest = |text: &str| DigestFunction::Sha256.digest(text.as_bytes());
    match kind {
        ArtifactKind::Source | ArtifactKind::File => Content::File { digest: digest(text), executable: false },
        ArtifactKind::Symlink => Content::Symlink { target: text.to_owned() },
        ArtifactKind::Directory => {
            let node = |at: &str, node| TreeEntry { path: path(at), node };
            let entries = vec![
                node("deep/file", TreeNode::File { digest: digest(text), executable: false }),
                node("empty", TreeNode::EmptyDirectory),
                node("link", TreeNode::Symlink { target: "deep/file".to_owned() }),
            ];
            Content::Directory(Arc::new(TreeMeta { root: tree_root(&entries), size: text.len() as u64, entries }))
        }
    }
}

/// How a fake run ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// As its behaviour says.
    ByItself,
    /// It fails, whatever its behaviour says.
    Failure,
    /// It was told to stop and did.
    Stopped,
    /// One of its sources changes just before it ends.
    ChangedInput,
    /// It succeeds, and leaves a process that has to be killed.
    LeftProcess,
}

#[derive(Clone, Debug)]
pub struct Run {
    pub request: ExecutionRequest,
    /// Inputs as they were when it began.
    pub inputs: BTreeMap<String, Entry>,
    pub stop: Option<StopReason>,
}

/// Disk and executor.
#[derive(Clone)]
pub struct Fake {
    pub plan: Plan,
    pub model: Arc<Model>,
    pub behaviours: Vec<Behaviour>,
    pub disk: BTreeMap<String, Entry>,
    pub runs: BTreeMap<ActionId, Run>,
    pub slots: usize,
    /// Given beyond those at most.
    pub ahead: usize,
    pub no_more_starts: bool,
    /// Every text whose digest was ever told.
    pub texts: HashMap<Digest, String>,
    pub remote: Remote,
    pub stores: Stores,
    writes: u64,
    random_runs: u64,
    pub seen_runs: Vec<RunId>,
}

impl Fake {
    pub fn new(plan: Plan) -> Self {
        let behaviours = vec![Behaviour::default(); plan.actions.len()];
        let mut fake = Self {
            model: Arc::new(plan.model()),
            plan,
            behaviours,
            disk: BTreeMap::new(),
            runs: BTreeMap::new(),
            slots: 1,
            ahead: 0,
            no_more_starts: false,
            texts: HashMap::new(),
            remote: Remote::default(),
            stores: Stores::default(),
            writes: 0,
            random_runs: 0,
            seen_runs: Vec::new(),
        };
        for source in 0..fake.plan.sources {
            fake.write(&source_path(source), "0".to_owned());
        }
        fake
    }

    /// The same disk under another plan.
    pub fn replan(&mut self, plan: Plan) {
        for source in self.plan.sources..plan.sources {
            self.write(&source_path(source), "0".to_owned());
        }
        self.behaviours.resize(plan.actions.len(), Behaviour::default());
        self.model = Arc::new(plan.model());
        self.plan = plan;
    }

    /// Writes a file.
    pub fn write(&mut self, path: &str, text: String) {
        self.write_as(ArtifactKind::File, path, text);
    }

    pub fn write_as(&mut self, kind: ArtifactKind, path: &str, text: String) {
        self.writes += 1;
        self.disk.insert(path.to_owned(), Entry { kind, text, version: self.writes });
    }

    /// A build begins.
    pub fn begin(&mut self, slots: usize, ahead: usize, remote: Option<&RemoteGoals>) {
        assert!(self.runs.is_empty(), "a build ended while something ran");
        (self.slots, self.ahead) = (slots, if ahead > 0 { 16 * slots } else { 0 });
        self.remote.begin(remote);
        self.stores.begin();
        self.no_more_starts = false;
        self.seen_runs.clear();
    }

    /// All inputs of an action with their kinds, those the depfile may leave out last.
    pub fn inputs(&self, action: ActionId) -> (Vec<ArtifactId>, Vec<ArtifactId>) {
        let row = self.model.action(action);
        let (mut plain, mut discoverable) = (Vec::new(), Vec::new());
        self.model.for_each_artifact(&row.inputs, |id| plain.push(id));
        self.model.for_each_artifact(&row.discoverable, |id| discoverable.push(id));
        discoverable.retain(|id| !plain.contains(id));
        (plain, discoverable)
    }

    /// What runs, and this one besides, takes no more than there is; what takes more by itself runs alone.
    fn check_resources(&self, action: ActionId) {
        let all = || self.runs.keys().chain([&action]).map(|&a| &self.model.action(a).resources);
        let cpus: usize = all().map(|taken| (taken.cpus.max(1) as usize).min(self.slots)).sum();
        // Nothing is given ahead that takes more than a place.
        let ahead = if all().all(|taken| taken.cpus <= 1) { self.ahead } else { 0 };
        assert!(cpus <= self.slots + ahead, "{action:?} is started though its processors are taken");
        let memory: u64 = all().map(|taken| taken.memory).sum();
        let takers = all().filter(|taken| taken.memory > 0).count();
        assert!(memory <= super::session::MEMORY || takers < 2, "{action:?} is started though its memory is taken");
        for (pool, places) in super::session::POOLS {
            let taken = all().filter(|taken| taken.pool.as_deref() == Some(pool)).count();
            assert!(taken <= places as usize, "{action:?} is started though pool `{pool}` is full");
        }
    }

    /// What the key of the started action was made of is handed in as `known`.
    pub fn start(&mut self, request: ExecutionRequest, known: impl Fn(ArtifactId) -> Option<Content>) {
        let action = request.run.action;
        assert!(self.runs.len() < self.slots + self.ahead, "{action:?} is started though no slot is free");
        self.check_start(request.run);
        assert!(!self.runs.contains_key(&action), "{action:?} is started here while it runs here");
        let is_exclusive = |action: ActionId| self.model.action(action).tags.exclusive;
        let alone = self.runs.is_empty() || !is_exclusive(action) && !self.runs.keys().any(|&a| is_exclusive(a));
        assert!(alone, "{action:?} is started beside another, one of them exclusive");
        self.check_resources(action);
        let (plain, discoverable) = self.inputs(action);
        let mut inputs = BTreeMap::new();
        for id in plain.into_iter().chain(discoverable) {
            let artifact = self.model.artifact(id);
            let Some(entry) = self.disk.get(artifact.path.as_str()) else {
                panic!("{action:?} is started without its input `{}`", artifact.path)
            };
            if artifact.producer.is_some() {
                assert_eq!(
                    known(id),
                    Some(entry.content()),
                    "{action:?} is started with another `{}` than in its key",
                    artifact.path
                );
            }
            let verified = request.verify.iter().find(|expected| expected.path == artifact.path);
            assert_eq!(verified.is_some(), artifact.kind != ArtifactKind::Directory, "`{}`", artifact.path);
            inputs.insert(artifact.path.to_string(), entry.clone());
        }
        for output in &request.outputs {
            self.remove_output(&output.path);
        }
        self.runs.insert(action, Run { request, inputs, stop: None });
    }

    pub fn stop(&mut self, action: ActionId, reason: StopReason) {
        let run = self.runs.get_mut(&action).expect("only what runs is stopped");
        assert!(run.stop < Some(reason), "{action:?} is stopped again for {reason:?}");
        run.stop = Some(reason);
        self.no_more_starts |= reason != StopReason::LostRace;
    }

    /// Whatever lies at these places goes; nobody may write there now.
    pub fn set_aside(&mut self, run: RunId, paths: &[WsPath]) {
        assert!(!self.runs.contains_key(&run.action), "what {run:?} left is set aside while it is written");
        for path in paths {
            self.remove_output(path);
        }
    }

    /// Removes an output, which nothing that runs may read.
    pub fn remove_output(&mut self, path: &WsPath) {
        let reader = self.runs.iter().find(|(_, run)| run.inputs.contains_key(path.as_str()));
        assert!(reader.is_none(), "`{path}` is removed while {reader:?} reads it");
        assert!(!self.is_fetched(path), "`{path}` is removed while it is fetched");
        self.disk.remove(path.as_str());
    }

    fn is_fetched(&self, path: &WsPath) -> bool {
        self.remote.fetches.values().chain(self.stores.fetches()).any(|fetch| fetch.path == *path)
    }

    /// The next run that makes something else each time makes what the one after would have made.
    pub fn skip_random_run(&mut self) {
        self.random_runs += 1;
    }

    /// Ends a run.
    pub fn end(&mut self, action: ActionId, end: End) -> ExecutionReport {
        let run = self.runs.remove(&action).expect("it runs");
        if end == End::ChangedInput {
            self.change_a_source_of(action);
        }
        let behaviour = self.behaviours[action.index()].clone();
        let status = match end {
            End::Stopped => ExecutionStatus::Stopped(run.stop.expect("it was told to stop")),
            End::Failure => ExecutionStatus::Exited(3),
            End::ByItself | End::ChangedInput | End::LeftProcess => ExecutionStatus::Exited(i32::from(behaviour.fails)),
        };
        let succeeded = status == ExecutionStatus::Exited(0);
        let text_of = |id: ArtifactId| run.inputs[self.model.artifact(id).path.as_str()].text.clone();
        let depfile = self.depfile(action, &behaviour, &text_of).filter(|_| succeeded);
        let outputs = if succeeded { self.make(&run, &behaviour) } else { self.leave_rubbish(&run) };
        let verify = run.request.verify.iter();
        let differs = |expected: &&ExpectedInput| {
            self.disk.get(expected.path.as_str()).is_none_or(|entry| entry.fingerprint() != expected.fingerprint)
        };
        ExecutionReport {
            whole_output: Vec::new(),
            run: run.request.run,
            status,
            stdout: Vec::new(),
            stderr: Vec::new(),
            outputs,
            depfile,
            changed_inputs: verify.filter(differs).map(|expected| expected.path.clone()).collect(),
            killed: (end == End::LeftProcess).then(|| "17 sleep".to_owned()).into_iter().collect(),
            cost: RunCost { wall: std::time::Duration::from_millis(behaviour.wall), ..Default::default() },
            from_cache: false,
        }
    }

    fn change_a_source_of(&mut self, action: ActionId) {
        let (plain, discoverable) = self.inputs(action);
        let source = plain.into_iter().chain(discoverable).find(|&id| self.model.artifact(id).producer.is_none());
        if let Some(id) = source {
            let path = self.model.artifact(id).path.to_string();
            let text = format!("changed meanwhile {}", self.writes);
            self.write(&path, text);
        }
    }

    fn make(&mut self, run: &Run, behaviour: &Behaviour) -> Vec<FoundOutput> {
        let action = run.request.run.action;
        let model = Arc::clone(&self.model);
        let text_of = |id: ArtifactId| run.inputs[model.artifact(id).path.as_str()].text.clone();
        let texts = self.made_by(action, behaviour, &text_of);
        let mut found = Vec::new();
        for (output, text) in run.request.outputs.iter().zip(texts) {
            let content = self.tell(output.kind, &text);
            self.write_as(output.kind, output.path.as_str(), text);
            let fingerprint = self.disk[output.path.as_str()].fingerprint();
            let meta = OutputMeta { path: output.path.clone(), content };
            found.push(FoundOutput { meta, stamps: vec![Stamp { fingerprint, trusted: true }] });
        }
        found
    }

    /// The texts of an action's outputs, wherever it runs.
    pub fn made_by(
        &mut self,
        action: ActionId,
        behaviour: &Behaviour,
        text_of: &dyn Fn(ArtifactId) -> String,
    ) -> Vec<String> {
        let mut base = self.output_text(action, behaviour.command, text_of);
        if behaviour.random {
            // Few enough that old results come up again.
            base = format!("{base} run {}", self.random_runs % 3);
            self.random_runs += 1;
        }
        let row = self.model.action(action);
        let text = |number| match row.kind {
            ActionKind::Write => format!("command {}", behaviour.command),
            _ => format!("{base} output {number}"),
        };
        (0..row.outputs.len()).map(text).collect()
    }

    /// From now on the text can be found by its digests.
    pub fn tell(&mut self, kind: ArtifactKind, text: &str) -> Content {
        let content = content_of(kind, text);
        self.texts.insert(content.digest_and_size().0, text.to_owned());
        self.texts.insert(DigestFunction::Sha256.digest(text.as_bytes()), text.to_owned());
        content
    }

    /// What holds for each start, here or remotely.
    pub fn check_start(&mut self, run: RunId) {
        assert!(!self.no_more_starts, "{run:?} is started after a stop");
        assert!(!self.seen_runs.contains(&run), "{run:?} is started twice");
        let is_published = self.remote.publishing.keys().any(|other| other.action == run.action);
        assert!(!is_published, "{run:?} is started while its outputs are moved");
        for &id in &self.model.action(run.action).outputs {
            let path = &self.model.artifact(id).path;
            assert!(!self.is_fetched(path), "{run:?} is started while `{path}` is brought here");
        }
        self.seen_runs.push(run);
    }

    fn leave_rubbish(&mut self, run: &Run) -> Vec<FoundOutput> {
        if let Some(output) = run.request.outputs.first() {
            self.write(output.path.as_str(), "rubbish".to_owned());
        }
        Vec::new()
    }

    pub fn depfile(
        &self,
        action: ActionId,
        behaviour: &Behaviour,
        text_of: &dyn Fn(ArtifactId) -> String,
    ) -> Option<Vec<u8>> {
        self.model.action(action).depfile.as_ref()?;
        let mut names: Vec<String> =
            self.read_by(action, text_of).map(|id| self.model.artifact(id).path.to_string()).collect();
        names.push("/usr/include/stdio.h".to_owned());
        names.extend(behaviour.undeclared.then(|| "p/secret.h".to_owned()));
        Some(format!("out: {}\n", names.join(" ")).into_bytes())
    }

    /// What the depfile of a run would name now.
    pub fn depfile_names(&self, action: ActionId) -> Vec<String> {
        let text = |id: ArtifactId| self.disk[self.model.artifact(id).path.as_str()].text.clone();
        self.read_by(action, &text).map(|id| self.model.artifact(id).path.to_string()).collect()
    }

    /// Which discoverable inputs a run reads depends on what its first plain input holds.
    fn read_by(&self, action: ActionId, text: &dyn Fn(ArtifactId) -> String) -> impl Iterator<Item = ArtifactId> {
        let (plain, discoverable) = self.inputs(action);
        let digest = DigestFunction::Sha256.digest(plain.first().map(|&id| text(id)).unwrap_or_default().as_bytes());
        let pick = usize::from(digest.hash[0] % 3);
        discoverable.into_iter().enumerate().filter(move |(i, _)| (i + pick) % 3 != 0).map(|(_, id)| id)
    }

    /// The artifact at this path.
    pub fn id_of(&self, path: &WsPath) -> ArtifactId {
        let index = self.model.artifacts.iter().position(|artifact| artifact.path == *path);
        ArtifactId::new(index.expect("an artifact"))
    }

    /// What a deterministic action makes, from the texts of its inputs.
    pub fn output_text(&self, action: ActionId, command: u32, text: &dyn Fn(ArtifactId) -> String) -> String {
        if self.behaviours[action.index()].constant {
            return format!("constant of {}", action.index());
        }
        let (plain, _) = self.inputs(action);
        let mut all = format!("command {command}\n");
        for id in plain.into_iter().chain(self.read_by(action, text)) {
            all.push_str(&format!("{}={}\n", self.model.artifact(id).path, text(id)));
        }
        DigestFunction::Sha256.digest(all.as_bytes()).hex()[..12].to_owned()
    }
}

/// Paths of an action's outputs, for tests that tamper with them.
pub fn outputs_of(model: &Model, action: usize) -> Vec<WsPath> {
    let row = model.action(ActionId::new(action));
    let paths: Vec<WsPath> = row.outputs.iter().map(|&id| model.artifact(id).path.clone()).collect();
    debug_assert!(paths.iter().all(|p| *p == path(p.as_str())));
    paths
}
