//! The fake remote side: stores of blobs with action caches, and what is under way there. As strict as the fake disk:
//! whatever may not be asked panics, and a worker sees nothing but the blobs it was sent.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use minibuild_core::{
    ActionKind, ArtifactId, ArtifactKind, Blob, BlobSource, CacheAnswer, CacheLookup, CheckId, Content, Digest,
    ExecutionReport, ExecutionStatus, ExistenceCheck, FetchId, FetchOutcome, FetchRequest, FoundOutput, OutputMeta,
    PublishedOutput, RemoteEvent, RemoteRequest, RunCost, RunId, StagingOutcome, StagingRequest, Stamp, StopReason,
    TreeNode, UploadRequest, WsPath,
};

use super::fake::{Entry, Fake};
use super::input_root::InputRoot;
use crate::machine::RemoteGoals;

/// A store of blobs with its action cache.
#[derive(Clone, Debug, Default)]
pub struct Store {
    pub blobs: BTreeSet<Digest>,
    /// What it holds or held: only of these it may be believed that it has them.
    ever: BTreeSet<Digest>,
    /// Results by key. Nothing keeps their blobs.
    pub cache: BTreeMap<Digest, Cached>,
}

/// A result in an action cache.
#[derive(Clone, Debug)]
pub struct Cached {
    pub outputs: Vec<OutputMeta>,
    pub depfile: Option<Vec<u8>>,
}

impl Store {
    pub fn insert(&mut self, digests: impl IntoIterator<Item = Digest>) {
        for digest in digests {
            self.blobs.insert(digest);
            self.ever.insert(digest);
        }
    }

    /// Whether its action cache has a result with this content, which it may have lost since.
    pub fn promises(&self, content: &Content) -> bool {
        self.cache.values().any(|cached| cached.outputs.iter().any(|output| output.content == *content))
    }

    fn lacks(&self, content: &Content) -> Vec<Digest> {
        blobs_of(content).into_iter().filter(|digest| !self.blobs.contains(digest)).collect()
    }
}

/// Something that is under way and will be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Doing {
    Local(usize),
    LookUp(RunId),
    Run(RunId),
    Fetch(FetchId),
    Stage(RunId),
    Publish(RunId),
    Upload(RunId),
    Check(CheckId),
    /// This machine reads a source again.
    Rehash(ArtifactId),
    /// A slow store of this machine does something.
    Here(u64),
}

/// How something remote ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RemoteEnd {
    /// As the store and the action's behaviour say.
    ByItself,
    /// The side cannot be reached.
    Unreachable,
    /// A blob it needs is lost just now.
    Lost,
    /// The command fails; for a fetch, this machine's disk does.
    Failure,
    /// It was told to stop and did.
    Stopped,
}

#[derive(Clone, Debug)]
pub struct RemoteRun {
    pub request: RemoteRequest,
    /// Inputs as a worker sees them.
    texts: BTreeMap<ArtifactId, String>,
    pub stop: Option<StopReason>,
}

/// What is brought near its place.
#[derive(Clone, Debug)]
pub struct Staging {
    pub request: StagingRequest,
    pub is_stopped: bool,
}

/// How much was asked in one build.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    pub lookups: usize,
    pub runs: usize,
    pub fetches: usize,
    pub uploads: usize,
    pub checks: usize,
    pub stagings: usize,
    pub publishes: usize,
}

/// All stores, and what is under way in the one that is used now.
#[derive(Clone, Debug, Default)]
pub struct Remote {
    pub stores: BTreeMap<String, Store>,
    goals: Option<RemoteGoals>,
    pub lookups: BTreeMap<RunId, CacheLookup>,
    pub runs: BTreeMap<RunId, RemoteRun>,
    pub fetches: BTreeMap<FetchId, FetchRequest>,
    pub stagings: BTreeMap<RunId, Staging>,
    /// What is complete and private.
    pub staged: BTreeMap<RunId, StagingRequest>,
    /// What is being renamed, by the names of the answers.
    pub publishing: BTreeMap<RunId, StagingRequest>,
    pub uploads: BTreeMap<RunId, UploadRequest>,
    pub checks: BTreeMap<CheckId, ExistenceCheck>,
    /// Sources that are read again.
    pub rehashes: BTreeSet<ArtifactId>,
    /// Fetches were told to stop.
    pub fetches_stopped: bool,
    /// Runs whose results may not be uploaded.
    pub unclean: BTreeSet<RunId>,
    pub asked: Asked,
}

impl Remote {
    /// A build begins; what an earlier one left unanswered interests nobody.
    pub fn begin(&mut self, goals: Option<&RemoteGoals>) {
        assert!(self.runs.is_empty() && self.fetches.is_empty(), "a build ended while something ran");
        *self = Self { stores: std::mem::take(&mut self.stores), goals: goals.cloned(), ..Self::default() };
    }

    fn goals(&self) -> &RemoteGoals {
        self.goals.as_ref().expect("there is a remote side")
    }

    /// The store in use.
    pub fn store(&mut self) -> &mut Store {
        let name = self.goals().store.clone();
        self.stores.entry(name).or_default()
    }

    /// Whether the store in use, if any, ever had all of a content.
    pub fn ever_had(&mut self, content: &Content) -> bool {
        self.goals.is_some() && blobs_of(content).iter().all(|digest| self.store().ever.contains(digest))
    }

    /// Every store loses what `is_lost` says.
    pub fn evict(&mut self, mut is_lost: impl FnMut(&Digest) -> bool) {
        for store in self.stores.values_mut() {
            store.blobs.retain(|digest| !is_lost(digest));
        }
    }

    /// What will be answered.
    pub fn doing(&self) -> Vec<Doing> {
        let lookups = self.lookups.keys().map(|&run| Doing::LookUp(run));
        let runs = self.runs.keys().map(|&run| Doing::Run(run));
        let fetches = self.fetches.keys().map(|&id| Doing::Fetch(id));
        let stagings = self.stagings.keys().map(|&run| Doing::Stage(run));
        let publishing = self.publishing.keys().map(|&run| Doing::Publish(run));
        let fetches = fetches.chain(stagings).chain(publishing);
        let uploads = self.uploads.keys().map(|&run| Doing::Upload(run));
        let rehashes = self.rehashes.iter().map(|&id| Doing::Rehash(id));
        let checks = self.checks.keys().map(|&id| Doing::Check(id));
        lookups.chain(runs).chain(fetches).chain(uploads).chain(checks).chain(rehashes).collect()
    }
}

/// What is asked.
impl Fake {
    pub fn look_up(&mut self, lookup: CacheLookup) {
        let row = self.model.action(lookup.run.action);
        assert!(self.remote.goals().caches, "there is no cache");
        assert!(row.kind != ActionKind::Write && !row.tags.no_cache && !row.tags.no_remote, "{lookup:?}");
        let is_new = !self.remote.lookups.contains_key(&lookup.run);
        assert!(is_new && !self.seen_runs.contains(&lookup.run), "{:?} is looked up while it runs", lookup.run);
        self.remote.asked.lookups += 1;
        self.remote.lookups.insert(lookup.run, lookup);
    }

    /// What the key of the started action was made of is handed in as `known`.
    pub fn start_remote(&mut self, request: RemoteRequest, known: impl Fn(ArtifactId) -> Option<Content>) {
        let run = request.run;
        let row = self.model.action(run.action);
        assert!(row.kind != ActionKind::Write && !row.tags.no_remote && self.remote.goals().executes, "{run:?}");
        assert!(self.remote.runs.len() < self.remote.goals().jobs.max(1), "{run:?} is started though no place is free");
        self.check_start(run);
        let runs_there = self.remote.runs.keys().any(|other| other.action == run.action);
        assert!(!runs_there, "{run:?} is started there while it runs there");
        let root = InputRoot::of(&request);
        let (plain, discoverable) = self.inputs(run.action);
        let mut texts = BTreeMap::new();
        for id in plain.into_iter().chain(discoverable) {
            let path = &self.model.artifact(id).path;
            let content = known(id).unwrap_or_else(|| panic!("{run:?} is started with an unknown `{path}`"));
            let digest = root.check(path.as_str(), &content);
            texts.insert(id, self.texts.get(&digest).expect("told").clone());
        }
        self.changed_blobs(&request);
        self.remote.asked.runs += 1;
        self.remote.runs.insert(run, RemoteRun { request, texts, stop: None });
    }

    /// Sources that are no longer what a request says; no output may be among them.
    fn changed_blobs(&self, request: &RemoteRequest) -> Vec<(Digest, WsPath)> {
        let mut changed = Vec::new();
        for Blob { digest, source } in &request.blobs {
            let BlobSource::File { path, fingerprint } = source else { continue };
            let is_as_said = match (fingerprint, self.entry_at(path)) {
                (Some(fingerprint), Some(entry)) => entry.fingerprint() == *fingerprint,
                (None, Some(entry)) => blobs_of(&entry.content()).contains(digest),
                (_, None) => false,
            };
            let is_output = path.is_at_or_below(minibuild_core::OUT_ROOT);
            assert!(is_as_said || !is_output, "`{path}` is not what {:?} was told", request.run);
            changed.extend((!is_as_said).then(|| (*digest, path.clone())));
        }
        changed
    }

    fn entry_at(&self, path: &WsPath) -> Option<&Entry> {
        let tree = path.as_str().strip_suffix("/deep/file");
        self.disk.get(tree.unwrap_or(path.as_str()))
    }

    pub fn stop_remote(&mut self, run: RunId, reason: StopReason) {
        let stopped = self.remote.runs.get_mut(&run).expect("only what runs is stopped");
        assert!(stopped.stop < Some(reason), "{run:?} is stopped again for {reason:?}");
        stopped.stop = Some(reason);
        self.no_more_starts |= reason != StopReason::LostRace;
    }

    /// Nothing of it is seen by anybody, so it may be done beside a local run.
    pub fn stage(&mut self, request: StagingRequest) {
        assert!(!self.no_more_starts, "{request:?} is staged after a stop");
        assert!(!request.outputs.is_empty(), "nothing is staged");
        assert!(self.runs.contains_key(&request.run.action), "{:?} is staged, and nobody races", request.run);
        for output in &request.outputs {
            let digests = blobs_of(&output.content);
            assert!(digests.iter().all(|digest| self.remote.store().ever.contains(digest)), "`{}`", output.path);
        }
        self.remote.asked.stagings += 1;
        let before = self.remote.stagings.insert(request.run, Staging { request, is_stopped: false });
        assert!(before.is_none(), "staged twice");
    }

    pub fn stop_staging(&mut self, run: RunId) {
        let staging = self.remote.stagings.get_mut(&run).expect("only what is being staged is stopped");
        assert!(!std::mem::replace(&mut staging.is_stopped, true), "{run:?} is stopped twice");
    }

    pub fn publish(&mut self, run: RunId, staged: RunId) {
        let request = self.remote.staged.remove(&staged).expect("only what is staged is published");
        self.check_places(&request);
        self.remote.asked.publishes += 1;
        self.remote.publishing.insert(run, request);
    }

    /// Nobody writes or reads where outputs are about to be put, and nothing lies there.
    fn check_places(&self, request: &StagingRequest) {
        let action = request.run.action;
        assert!(!self.runs.contains_key(&action), "{:?} is published while it runs here", request.run);
        for output in &request.outputs {
            let path = output.path.as_str();
            let reader = self.runs.values().find(|run| run.inputs.contains_key(path));
            assert!(reader.is_none(), "`{path}` is published while {reader:?} reads it");
            assert!(self.remote.fetches.values().all(|fetch| fetch.path != output.path), "`{path}` is on its way");
        }
    }

    pub fn unstage(&mut self, staged: RunId) {
        assert!(!self.remote.stagings.contains_key(&staged), "{staged:?} is given up while it is staged");
        self.remote.staged.remove(&staged);
    }

    /// What its output is, according to the machine, is handed in as `known`.
    pub fn fetch(&mut self, request: FetchRequest, known: Option<&Content>, is_remains: bool) {
        let path = &request.path;
        assert!(!self.no_more_starts || is_remains, "`{path}` is fetched after a stop");
        assert_eq!(known, Some(&request.content), "`{path}`");
        assert!(self.remote.fetches.values().all(|other| other.path != *path), "`{path}` is on its way");
        self.check_publish(&request);
        for digest in blobs_of(&request.content) {
            assert!(self.remote.store().ever.contains(&digest), "the store never had `{}`", request.path);
        }
        self.remote.asked.fetches += 1;
        self.remote.fetches.insert(request.id, request);
    }

    /// Nothing that runs here reads or writes what a fetch puts there, and who makes it does not run.
    pub fn check_publish(&self, request: &FetchRequest) {
        let FetchRequest { producer, path, .. } = request;
        assert!(!self.runs.contains_key(producer), "`{path}` is fetched while it is made");
        assert!(self.remote.runs.keys().all(|run| run.action != *producer), "`{path}` is fetched while it is made");
        let reader = self.runs.values().find(|run| run.inputs.contains_key(path.as_str()));
        assert!(reader.is_none(), "`{path}` is fetched while {reader:?} reads it");
    }

    pub fn stop_fetches(&mut self) {
        self.remote.fetches_stopped = true;
        self.no_more_starts = true;
    }

    pub fn check(&mut self, check: ExistenceCheck) {
        let mut digests = check.digests.clone();
        digests.dedup();
        assert_eq!(digests, check.digests, "a blob is asked for twice");
        assert!(check.digests.iter().all(|digest| self.texts.contains_key(digest)), "blobs nobody ever made");
        self.remote.asked.checks += 1;
        assert!(self.remote.checks.insert(check.id, check).is_none(), "checked twice");
    }

    pub fn upload(&mut self, request: UploadRequest) {
        let tags = &self.model.action(request.run.action).tags;
        assert!(!tags.no_cache && !tags.no_remote, "{:?} is uploaded", request.run);
        assert!(!self.remote.unclean.contains(&request.run), "{:?} is uploaded and not clean", request.run);
        assert!(self.seen_runs.contains(&request.run), "{:?} never ran", request.run);
        self.remote.asked.uploads += 1;
        let before = self.remote.uploads.insert(request.run, request);
        assert!(before.is_none(), "uploaded twice");
    }
}

/// What is answered.
impl Fake {
    /// Ends something remote.
    pub fn end_remote(&mut self, doing: Doing, end: RemoteEnd) -> RemoteEvent {
        match doing {
            Doing::Local(_) | Doing::Rehash(_) | Doing::Here(_) => panic!("that is not remote"),
            Doing::LookUp(run) => RemoteEvent::LookedUp { run, answer: self.answer(run, end), took: Duration::ZERO },
            Doing::Run(run) => RemoteEvent::Finished(Box::new(self.end_remote_run(run, end))),
            Doing::Fetch(id) => RemoteEvent::Fetched { id, outcome: self.end_fetch(id, end) },
            Doing::Stage(run) => RemoteEvent::Staged { run, outcome: self.end_staging(run, end) },
            Doing::Publish(run) => RemoteEvent::Published { run, outcome: self.end_publishing(run, end) },
            Doing::Check(id) => RemoteEvent::Checked { id, missing: self.end_check(id, end) },
            Doing::Upload(run) => RemoteEvent::Uploaded { run, error: self.end_upload(run, end) },
        }
    }

    fn answer(&mut self, run: RunId, end: RemoteEnd) -> CacheAnswer {
        let lookup = self.remote.lookups.remove(&run).expect("asked");
        if end != RemoteEnd::ByItself {
            return CacheAnswer::Failed("the cache is away".to_owned());
        }
        match self.remote.store().cache.get(&lookup.who.key) {
            Some(cached) => CacheAnswer::Hit(Box::new(from_cache(run, cached))),
            None => CacheAnswer::Miss,
        }
    }

    fn end_remote_run(&mut self, run: RunId, end: RemoteEnd) -> ExecutionReport {
        let RemoteRun { request, texts, stop } = self.remote.runs.remove(&run).expect("it runs");
        let fails = |status| ExecutionReport::new(run, status);
        match end {
            RemoteEnd::Stopped => return fails(ExecutionStatus::Stopped(stop.expect("it was told to stop"))),
            RemoteEnd::Unreachable => return fails(ExecutionStatus::Infrastructure("no route".to_owned())),
            RemoteEnd::Failure => return fails(ExecutionStatus::Exited(3)),
            RemoteEnd::Lost => {
                let lost = self.only_there(&request).next().expect("something is only remote");
                self.remote.store().blobs.remove(&lost);
            }
            RemoteEnd::ByItself => {}
        }
        if let Some(cached) = self.remote.store().cache.get(&request.who.key).filter(|_| !request.skip_cache_lookup) {
            return from_cache(run, cached);
        }
        let elsewhere: Vec<Digest> = self.only_there(&request).collect();
        let lost: Vec<Digest> = elsewhere.into_iter().filter(|d| !self.remote.store().blobs.contains(d)).collect();
        if !lost.is_empty() {
            return fails(ExecutionStatus::LostInputs(lost));
        }
        // What the store has needs not be read.
        let mut changed = self.changed_blobs(&request);
        changed.retain(|(digest, _)| !self.remote.store().blobs.contains(digest));
        let changed_inputs: Vec<WsPath> = changed.into_iter().map(|(_, path)| path).collect();
        if !changed_inputs.is_empty() {
            let status = ExecutionStatus::Infrastructure("an input changed".to_owned());
            return ExecutionReport { changed_inputs, ..fails(status) };
        }
        self.remote.store().insert(request.blobs.iter().map(|blob| blob.digest));
        self.work(&request, &texts)
    }

    /// Blobs of a request that are not here.
    pub fn only_there(&self, request: &RemoteRequest) -> impl Iterator<Item = Digest> + use<> {
        let elsewhere = request.blobs.iter().filter(|blob| blob.source == BlobSource::Elsewhere);
        elsewhere.map(|blob| blob.digest).collect::<Vec<_>>().into_iter()
    }

    /// A worker does it.
    fn work(&mut self, request: &RemoteRequest, texts: &BTreeMap<ArtifactId, String>) -> ExecutionReport {
        let (run, action) = (request.run, request.run.action);
        let behaviour = self.behaviours[action.index()].clone();
        if behaviour.fails {
            return ExecutionReport::new(run, ExecutionStatus::Exited(1));
        }
        let text_of = |id: ArtifactId| texts[&id].clone();
        let depfile = self.depfile(action, &behaviour, &text_of);
        let made = self.made_by(action, &behaviour, &text_of);
        let mut outputs = Vec::new();
        for (output, text) in request.outputs.iter().zip(made) {
            let content = self.tell(output.kind, &text);
            self.remote.store().insert(blobs_of(&content));
            outputs.push(OutputMeta { path: output.path.clone(), content });
        }
        let cached = Cached { outputs, depfile };
        let mut report = from_cache(run, &cached);
        report.from_cache = false;
        report.cost.wall = std::time::Duration::from_millis(behaviour.wall);
        if !self.model.action(action).tags.no_cache {
            self.remote.store().cache.insert(request.who.key, cached);
        }
        report
    }

    fn end_fetch(&mut self, id: FetchId, end: RemoteEnd) -> FetchOutcome {
        let request = self.remote.fetches.remove(&id).expect("it is on its way");
        match end {
            RemoteEnd::Stopped => return FetchOutcome::Stopped,
            RemoteEnd::Failure => return FetchOutcome::Disk("no space is left".to_owned()),
            RemoteEnd::Unreachable => return FetchOutcome::Unreachable("no route".to_owned()),
            RemoteEnd::Lost => self.remote.evict(|digest| blobs_of(&request.content).contains(digest)),
            RemoteEnd::ByItself => {}
        }
        let digests = self.remote.store().lacks(&request.content);
        if !digests.is_empty() || end == RemoteEnd::Lost {
            return FetchOutcome::Lost { digests, why: "the server lost it".to_owned() };
        }
        self.check_publish(&request);
        self.put(&request.content, &request.path);
        let fingerprint = self.disk[request.path.as_str()].fingerprint();
        FetchOutcome::Done { stamps: vec![Stamp { fingerprint, trusted: true }], copied: Default::default() }
    }

    fn end_staging(&mut self, run: RunId, end: RemoteEnd) -> StagingOutcome {
        let Staging { request, is_stopped } = self.remote.stagings.remove(&run).expect("it is under way");
        let wanted = || request.outputs.iter().flat_map(|output| blobs_of(&output.content));
        let lost = |digests: Vec<Digest>, why: &str| StagingOutcome::Lost { digests, why: why.to_owned() };
        match end {
            RemoteEnd::Stopped => {
                assert!(is_stopped, "{run:?} was not told to stop");
                return StagingOutcome::Stopped;
            }
            RemoteEnd::Failure => return StagingOutcome::Disk("no space is left".to_owned()),
            RemoteEnd::Unreachable => return StagingOutcome::Unreachable("no route".to_owned()),
            RemoteEnd::Lost => {
                let digests: BTreeSet<Digest> = wanted().collect();
                self.remote.evict(|digest| digests.contains(digest));
            }
            RemoteEnd::ByItself => {}
        }
        let digests: Vec<Digest> = wanted().filter(|digest| !self.remote.store().blobs.contains(digest)).collect();
        if !digests.is_empty() || end == RemoteEnd::Lost {
            return lost(digests, "the server lost it");
        }
        self.remote.staged.insert(run, request);
        StagingOutcome::Done
    }

    /// A failure comes before the last output is in its place.
    fn end_publishing(&mut self, run: RunId, end: RemoteEnd) -> Result<Vec<PublishedOutput>, String> {
        let request = self.remote.publishing.remove(&run).expect("it is under way");
        self.check_places(&request);
        let fails = end != RemoteEnd::ByItself;
        let mut published = Vec::new();
        for output in request.outputs.iter().take(request.outputs.len() - usize::from(fails)) {
            let before = self.disk.get(output.path.as_str());
            assert!(before.is_none(), "`{}` is published over {before:?}", output.path);
            self.put(&output.content, &output.path);
            let fingerprint = self.disk[output.path.as_str()].fingerprint();
            let stamps = vec![Stamp { fingerprint, trusted: true }];
            published.push(PublishedOutput { path: output.path.clone(), stamps, copied: Default::default() });
        }
        if fails { Err("no space is left".to_owned()) } else { Ok(published) }
    }

    /// Writes what a store has to its place.
    pub fn put(&mut self, content: &Content, path: &WsPath) {
        let text = self.texts[&content.digest_and_size().0].clone();
        let kind = match content {
            Content::File { .. } => ArtifactKind::File,
            Content::Symlink { .. } => ArtifactKind::Symlink,
            Content::Directory(_) => ArtifactKind::Directory,
        };
        self.write_as(kind, path.as_str(), text);
    }

    fn end_check(&mut self, id: CheckId, end: RemoteEnd) -> Result<Vec<Digest>, String> {
        let check = self.remote.checks.remove(&id).expect("asked");
        if end != RemoteEnd::ByItself {
            return Err("the store is away".to_owned());
        }
        let blobs = &self.remote.store().blobs;
        Ok(check.digests.into_iter().filter(|digest| !blobs.contains(digest)).collect())
    }

    fn end_upload(&mut self, run: RunId, end: RemoteEnd) -> Option<String> {
        let request = self.remote.uploads.remove(&run).expect("it is under way");
        let is_there = |output: &FoundOutput| {
            let entry = self.disk.get(output.meta.path.as_str());
            entry.is_some_and(|entry| output.stamps[0].fingerprint == entry.fingerprint())
        };
        if end != RemoteEnd::ByItself || !request.outputs.iter().all(is_there) {
            return Some("it cannot be stored".to_owned());
        }
        let outputs: Vec<OutputMeta> = request.outputs.into_iter().map(|output| output.meta).collect();
        for output in &outputs {
            self.remote.store().insert(blobs_of(&output.content));
        }
        let depfile = request.depfile.map(|(_, bytes)| bytes.to_vec());
        self.remote.store().cache.insert(request.who.key, Cached { outputs, depfile });
        None
    }
}

/// The report of a hit.
pub fn from_cache(run: RunId, cached: &Cached) -> ExecutionReport {
    let output = |meta: &OutputMeta| FoundOutput { meta: meta.clone(), stamps: Vec::new() };
    ExecutionReport {
        outputs: cached.outputs.iter().map(output).collect(),
        depfile: cached.depfile.clone(),
        from_cache: true,
        // What it took whoever made it.
        cost: RunCost { wall: std::time::Duration::from_millis(7), ..Default::default() },
        ..ExecutionReport::new(run, ExecutionStatus::Exited(0))
    }
}

/// Blobs a store needs to give an output back.
pub fn blobs_of(content: &Content) -> Vec<Digest> {
    match content {
        Content::File { digest, .. } => vec![*digest],
        Content::Symlink { .. } => Vec::new(),
        Content::Directory(tree) => {
            let file = |entry: &minibuild_core::TreeEntry| match &entry.node {
                TreeNode::File { digest, .. } => Some(*digest),
                TreeNode::Symlink { .. } | TreeNode::EmptyDirectory => None,
            };
            Arc::clone(tree).entries.iter().filter_map(file).collect()
        }
    }
}
