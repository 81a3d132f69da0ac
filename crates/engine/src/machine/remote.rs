//! The remote side: which side may run an action, what is asked of caches, what is sent, and what answers mean.

use std::collections::HashSet;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::time::Duration;

use minibuild_core::{
    ActionId, ActionKind, ArtifactId, Blob, BlobSource, Branch, CacheAnswer, CacheLookup, Content, Digest,
    DigestFunction, ExecutionReport, Fingerprint, Level, RemoteEvent, RemoteRequest, Requester, RunId, Runner,
    TreeEntry, TreeMeta, UploadRequest, WsPath,
};
use minibuild_dynamic::policy::Event as Told;
use minibuild_graph::{ActionKey, Facts};
use minibuild_reapi::{InputRootError, tree_directories};
use rustc_hash::FxHashMap;

use super::evaluate::FlatInputs;
use super::goals::{Strategy, Uploads};
use super::outputs_in_use::HeldAnswer;
use super::start::declared_outputs;
use super::{Lookup, Machine, Made, Question, Running, Status, Step, Stopping, key_path};

/// Bits of a mode that say what a file is, and what they are of a symlink.
const FILE_TYPE: u32 = 0o170_000;
const SYMLINK: u32 = 0o120_000;

/// The sides on which an action may run; one of them at least.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sides {
    pub here: bool,
    pub there: bool,
}

impl Sides {
    pub(super) fn allow(self, branch: Branch) -> bool {
        match branch {
            Branch::Local => self.here,
            Branch::Remote => self.there,
        }
    }
}

impl Machine {
    /// The sides on which the action may run now.
    ///
    /// # Errors
    /// Why neither may.
    pub(super) fn sides(&self, action: ActionId) -> Result<Sides, String> {
        let here = self.refused_here(action);
        let there = self.refused_there(action);
        let may = Sides { here: here.is_none(), there: there.is_none() && !self.local_only.contains(&action) };
        if let (Some(here), Some(there)) = (here, there) {
            return Err(format!("it may run {here} and {there}"));
        }
        if !may.here || !may.there {
            return Ok(may);
        }
        Ok(match self.goals.strategies.of(&self.model.action(action).mnemonic) {
            Strategy::Local => Sides { here: true, there: false },
            Strategy::Remote => Sides { here: false, there: true },
            // Of a race only the winner's output may be shown.
            Strategy::Dynamic if self.streams(action) => Sides { here: true, there: false },
            Strategy::Dynamic => may,
        })
    }

    fn refused_here(&self, action: ActionId) -> Option<String> {
        let row = self.model.action(action);
        if row.tags.no_local {
            return Some("not on this machine (tag `no-local`)".to_owned());
        }
        let contradicts = |(name, value): &&(Box<str>, Box<str>)| {
            let host = match &**name {
                "OSFamily" => &self.host.os,
                "ISA" | "Arch" => &self.host.isa,
                _ => return false,
            };
            !same_platform(host, value)
        };
        let (name, value) = row.platform.iter().find(contradicts)?;
        Some(format!("not on this machine (platform property `{name}` is `{value}`)"))
    }

    fn refused_there(&self, action: ActionId) -> Option<String> {
        let row = self.model.action(action);
        if row.tags.no_remote {
            Some("not remotely (tag `no-remote`)".to_owned())
        } else if !self.goals.remote.as_ref().is_some_and(|remote| remote.executes) {
            Some("not remotely (no remote executor is set)".to_owned())
        } else if row.kind == ActionKind::Write {
            Some("not remotely (minibuild writes the file itself)".to_owned())
        } else {
            None
        }
    }

    /// Whether results of the action may be in the remote cache, or come there.
    fn is_cached_remotely(&self, action: ActionId) -> bool {
        let row = self.model.action(action);
        let tags = &row.tags;
        self.goals.remote.as_ref().is_some_and(|remote| remote.caches)
            && row.kind != ActionKind::Write
            && !(tags.no_cache || tags.no_remote_cache || tags.no_remote)
    }

    /// Whether a cache is worth asking for the action.
    pub(super) fn may_look_up(&self, action: ActionId) -> bool {
        self.stopping.is_none() && self.is_cached_remotely(action) && !(self.is_test(action) && self.goals.fresh_tests)
    }

    /// Whether the cache may be asked for this key, and was not.
    pub(super) fn is_worth_asking(&self, action: ActionId, key: Option<Digest>) -> bool {
        key.is_some_and(|key| self.may_look_up(action) && self.missed.get(&action) != Some(&key))
    }

    /// Asks the cache for the bytes of a known result; false if there is none to ask, or it was asked for this key.
    pub(super) fn look_up(&mut self, action: ActionId, key: Option<Digest>) -> bool {
        let Some(key) = key.filter(|key| self.is_worth_asking(action, Some(*key))) else {
            return false;
        };
        self.set_status(action, Status::LookingUp);
        self.lookups.insert(action, Lookup { key, generation: self.generation, question: Question::Result });
        let lookup = self.lookup_for(self.run_id(action), key);
        self.steps.push(Step::LookUp(Box::new(lookup)));
        true
    }

    /// What a cache is asked for the action.
    pub(super) fn lookup_for(&self, run: RunId, key: Digest) -> CacheLookup {
        CacheLookup {
            run,
            who: self.requester(run.action, key),
            outputs: declared_outputs(&self.model, run.action),
            depfile: self.model.action(run.action).depfile.clone(),
        }
    }

    pub(super) fn take_remote(&mut self, event: RemoteEvent) {
        match event {
            RemoteEvent::LookedUp { run, answer, took } => {
                self.take_cache_answer(HeldAnswer::RemoteCache(run, answer, took));
            }
            RemoteEvent::Stage { run, stage } => self.take_stage(run, stage),
            RemoteEvent::Outage { server, is_open } => self.take_outage(server, is_open),
            RemoteEvent::Finished(report) => self.take_report(Branch::Remote, *report),
            RemoteEvent::Fetched { id, outcome } => self.take_fetched(id, outcome),
            RemoteEvent::Staged { run, outcome } => self.take_staged(run, outcome),
            RemoteEvent::Published { run, outcome } => self.take_published(run, outcome),
            RemoteEvent::Checked { id, missing } => self.take_checked(id, missing),
            RemoteEvent::Uploaded { run, error } => self.take_uploaded(run, error),
            RemoteEvent::OtherFunction(function) => {
                self.outcome.other_function = Some(function);
                self.stop_all(Stopping::FailFast);
            }
            RemoteEvent::Message { level, text } => self.message(level, text),
        }
    }

    /// An answer that is no longer asked for is dropped.
    pub(super) fn take_answer(&mut self, run: RunId, answer: CacheAnswer, took: Duration) {
        if self.running.contains_key(&run.action) {
            return self.take_raced_answer(run, answer, took);
        }
        let Some(lookup) = self.take_question(run, Question::Result) else { return };
        let action = run.action;
        if !matches!(answer, CacheAnswer::Failed(_)) {
            self.tell_policy(Told::Answered { hit: matches!(answer, CacheAnswer::Hit(_)), took });
        }
        if lookup.generation == self.generation
            && let CacheAnswer::Hit(report) = answer
        {
            if self.take_hit(action, lookup.key, *report, Runner::RemoteCache) {
                return;
            }
            self.missed.insert(action, lookup.key);
        } else if lookup.generation == self.generation {
            self.outcome.cache_errors += u64::from(matches!(answer, CacheAnswer::Failed(_)));
            self.missed.insert(action, lookup.key);
        }
        self.reopen(action);
    }

    /// The question that an answer is for; `None` where it is no longer asked.
    pub(super) fn take_question(&mut self, run: RunId, question: Question) -> Option<Lookup> {
        let action = run.action;
        let is_current = run == self.run_id(action) && self.status_of(action) == Status::LookingUp;
        let is_asked = self.lookups.get(&action).is_some_and(|lookup| lookup.question == question);
        if self.stopping.is_some() || !is_current || !is_asked {
            return None;
        }
        self.lookups.remove(&action)
    }

    /// Takes a result from the cache; false if it is of no use.
    pub(super) fn take_hit(&mut self, action: ActionId, key: Digest, report: ExecutionReport, runner: Runner) -> bool {
        if runner == Runner::RemoteCache && self.is_known_to_be_lost(action, &key, &report.outputs) {
            return false;
        }
        let Ok(read) = self.read_inputs(action, &report) else { return false };
        let command = self.command_of(action);
        let inputs = self.flat_inputs(action);
        let Ok(manifest) = self.facts(action, &command, &inputs).map(|facts| facts.manifest()) else { return false };
        let which = if runner == Runner::DiskCache { "the disk cache" } else { "a remote cache" };
        let reason = format!("{which} had its result");
        self.emit_action_started(action);
        self.succeed(action, Made { key, manifest, reason, command }, report, read, runner);
        true
    }

    pub(super) fn run_id(&self, action: ActionId) -> RunId {
        RunId { action, attempt: self.attempts[action.index()] }
    }

    pub(super) fn requester(&self, action: ActionId, key: Digest) -> Requester {
        Requester {
            label: self.model.label_of(action).to_string(),
            mnemonic: self.model.action(action).mnemonic.to_string(),
            key,
        }
    }

    /// What a remote executor needs, with the key.
    pub(super) fn remote_request(
        &self,
        run: RunId,
        facts: &Facts<'_>,
        inputs: &FlatInputs,
    ) -> Result<(ActionKey, RemoteRequest), InputRootError> {
        let action = run.action;
        let row = self.model.action(action);
        let mut blobs = Blobs::default();
        let key = facts.key_with(&mut |digest, bytes| blobs.add_bytes(digest, bytes))?;
        let command = facts.command_bytes();
        blobs.add_bytes(key.action, &facts.action_bytes(key.command, key.input_root));
        blobs.add_bytes(key.command, &command);
        for file in &facts.command.files {
            blobs.add_bytes(self.host.function.digest(&file.content), &file.content);
        }
        for &id in &inputs.artifacts {
            let Some(content) = &self.known[id.index()] else { continue };
            let path = &self.model.artifact(id).path;
            match (content, self.bytes.here(id)) {
                (Content::Directory(tree), on_disk) => {
                    blobs.add_tree(path, tree, on_disk.is_some(), self.host.function)
                }
                (Content::File { digest, .. }, Some(fingerprint)) => {
                    blobs.add_file(*digest, path, Some(fingerprint));
                }
                (Content::File { digest, .. }, None) => blobs.add(*digest, || BlobSource::Elsewhere),
                (Content::Symlink { .. }, _) => self.add_behind(id, &mut blobs),
            }
        }
        let request = RemoteRequest {
            run,
            who: self.requester(action, key.action),
            blobs: blobs.list,
            outputs: declared_outputs(&self.model, action),
            depfile: row.depfile.clone(),
            platform: row.platform.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect(),
            skip_cache_lookup: self.forced.contains_key(&action) || !self.may_look_up(action),
        };
        Ok((key, request))
    }

    /// What a symlink among the sources leads to.
    fn add_behind(&self, id: ArtifactId, blobs: &mut Blobs) {
        let Some(Ok(source)) = self.world.sources.get(&id) else { return };
        for (path, content, fingerprint) in &source.behind {
            if let Content::File { digest, .. } = content {
                blobs.add_file(*digest, path, Some(*fingerprint));
            }
        }
    }

    /// Stores the result of a local run, if it may be.
    pub(super) fn upload_result(&mut self, action: ActionId, running: &Running, report: &ExecutionReport) {
        let policy = self.goals.remote.as_ref().map_or(Uploads::Never, |remote| remote.uploads);
        let is_wanted = match policy {
            Uploads::Never => false,
            Uploads::Hermetic => self.model.action(action).tags.hermetic,
            Uploads::Always => true,
        };
        if !is_wanted
            || !self.may_be_shared(action, report)
            || !self.is_cached_remotely(action)
            || self.stopping >= Some(Stopping::Interrupted)
        {
            return;
        }
        let inputs = self.flat_inputs(action);
        let Ok(facts) = self.facts(action, &running.made.command, &inputs) else { return };
        let mut blobs = Blobs::default();
        blobs.add_bytes(running.key.action, &facts.action_bytes(running.key.command, running.key.input_root));
        blobs.add_bytes(running.key.command, &facts.command_bytes());
        let upload = self.upload_of(action, running, report, blobs.list);
        self.uploading.insert(report.run, (running.key.action, self.runs[action.index()]));
        self.steps.push(Step::Upload(Box::new(upload)));
    }

    /// Whether the result of a local run may go into caches: it is of the inputs that its key says, and of nothing else, and all
    /// of its output is in memory.
    pub(super) fn may_be_shared(&self, action: ActionId, report: &ExecutionReport) -> bool {
        let is_exact = report.changed_inputs.is_empty() && report.killed.is_empty();
        is_exact && report.whole_output.is_empty() && !self.outdated.contains(&action)
    }

    /// What a cache has to have of a result, besides the bytes of its outputs.
    pub(super) fn upload_of(
        &self,
        action: ActionId,
        running: &Running,
        report: &ExecutionReport,
        blobs: Vec<Blob>,
    ) -> UploadRequest {
        let depfile = self.model.action(action).depfile.clone();
        UploadRequest {
            run: report.run,
            who: self.requester(action, running.key.action),
            blobs,
            outputs: report.outputs.clone(),
            depfile: depfile.zip(report.depfile.as_deref().map(Arc::from)),
            stdout: Arc::from(&report.stdout[..]),
            stderr: Arc::from(&report.stderr[..]),
            wall: report.cost.wall,
        }
    }

    fn take_uploaded(&mut self, run: RunId, error: Option<String>) {
        let Some((key, runs)) = self.uploading.remove(&run) else { return };
        if error.is_some() {
            self.outcome.cache_errors += 1;
            return;
        }
        // Another run since may have made something else under the same key.
        if runs == self.runs[run.action.index()] {
            self.believe_remote(run.action, &key);
        }
    }

    /// The store has what the action made under this key.
    pub(super) fn believe_remote(&mut self, action: ActionId, key: &Digest) {
        let path = key_path(&self.model, action).into_owned();
        let newest = self.state.action(&path).and_then(|record| record.results.first());
        let is_newest = newest.is_some_and(|newest| newest.key == *key);
        if let Some(store) = self.store {
            self.state.set_held(&path, key, store, true);
        }
        if is_newest && self.status_of(action) == Status::Done {
            let model = Arc::clone(&self.model);
            for &id in &model.action(action).outputs {
                self.bytes.set_there(id, true);
            }
        }
    }

    /// Remembers across builds that the store lost what the action made last.
    pub(super) fn forget_newest_held(&mut self, action: ActionId) {
        self.lost.insert(action);
        let path = key_path(&self.model, action).into_owned();
        if let (Some(key), Some(store)) = (self.newest_key(action), self.store) {
            self.state.set_held(&path, &key, store, false);
        }
    }

    /// Whether the end of the build waits for uploads under way.
    pub(super) fn awaits_uploads(&self) -> bool {
        !self.uploading.is_empty() && self.goals.remote.as_ref().is_some_and(|remote| remote.waits_for_uploads)
    }

    /// The server lost inputs of a remote run. Those that are here by now, or on their way, are sent with the next one;
    /// the producers of the others run again first. True if there is hope.
    pub(super) fn heal_inputs(&mut self, action: ActionId, lost: &[Digest]) -> bool {
        let lost: HashSet<&Digest> = lost.iter().collect();
        let inputs = self.flat_inputs(action);
        let mut producers = Vec::new();
        let mut is_at_hand = false;
        for &id in &inputs.artifacts {
            let content = self.known[id.index()].as_ref();
            let Some(producer) = self.model.artifact(id).producer else { continue };
            if !content.is_some_and(|content| holds_any(content, &lost)) {
                continue;
            }
            self.bytes.set_there(id, false);
            if self.bytes.here(id).is_some() || self.bytes.is_on_its_way(id) {
                is_at_hand = true;
            } else {
                producers.push(producer);
            }
        }
        producers.sort_unstable();
        producers.dedup();
        for &producer in &producers {
            self.forget_newest_held(producer);
        }
        self.suspect_store();
        is_at_hand || !producers.is_empty()
    }

    /// Whether a remote run that came to nothing through no fault of the action's is tried here instead: where both
    /// sides may run it always, else if that is wanted.
    pub(super) fn may_fall_back(&self, action: ActionId) -> bool {
        let is_dynamic = self.goals.strategies.of(&self.model.action(action).mnemonic) == Strategy::Dynamic;
        let is_wanted = self.goals.remote.as_ref().is_some_and(|remote| remote.falls_back);
        (is_dynamic || is_wanted) && self.refused_here(action).is_none()
    }

    /// The action runs here from now on, since the remote side failed it. Of many with the same reason one is named.
    pub(super) fn fall_back(&mut self, action: ActionId, why: &str) {
        self.tell_fallback(action, why);
        self.queue(action);
    }

    /// As above, for one that may run here as it is.
    pub(super) fn tell_fallback(&mut self, action: ActionId, why: &str) {
        if self.fallbacks_told.insert(why.to_owned()) {
            let label = self.model.label_of(action);
            self.message(Level::Warning, format!("`{label}` could not be run remotely and runs here: {why}"));
        }
        self.local_only.insert(action);
    }
}

fn holds_any(content: &Content, digests: &HashSet<&Digest>) -> bool {
    match content {
        Content::File { digest, .. } => digests.contains(digest),
        Content::Symlink { .. } => false,
        Content::Directory(tree) => tree.entries.iter().filter_map(TreeEntry::blob).any(|blob| digests.contains(&blob)),
    }
}

/// Blobs, each digest once.
#[derive(Default)]
struct Blobs {
    list: Vec<Blob>,
    seen: FxHashMap<Digest, usize>,
}

impl Blobs {
    /// One that is somewhere here, too, is taken from here.
    fn add(&mut self, digest: Digest, source: impl FnOnce() -> BlobSource) {
        match self.seen.entry(digest) {
            Entry::Vacant(entry) => {
                entry.insert(self.list.len());
                self.list.push(Blob { digest, source: source() });
            }
            Entry::Occupied(entry) => {
                let known = &mut self.list[*entry.get()].source;
                if *known == BlobSource::Elsewhere {
                    *known = source();
                }
            }
        }
    }

    fn add_bytes(&mut self, digest: Digest, bytes: &[u8]) {
        self.add(digest, || BlobSource::Bytes(Arc::from(bytes)));
    }

    /// The fingerprint of a link that is followed says nothing of the file.
    fn add_file(&mut self, digest: Digest, path: &WsPath, fingerprint: Option<Fingerprint>) {
        let fingerprint = fingerprint.filter(|fingerprint| fingerprint.mode & FILE_TYPE != SYMLINK);
        self.add(digest, || BlobSource::File { path: path.clone(), fingerprint });
    }

    /// A tree's files and its `Directory` messages, which no server needs to have as blobs of their own.
    fn add_tree(&mut self, path: &WsPath, tree: &TreeMeta, is_here: bool, function: DigestFunction) {
        tree_directories(&tree.entries, function, &mut |digest, bytes| self.add_bytes(digest, bytes));
        for entry in &tree.entries {
            let Some(digest) = entry.blob() else { continue };
            match path.join(entry.path.as_str()) {
                Ok(path) if is_here => self.add_file(digest, &path, None),
                _ => self.add(digest, || BlobSource::Elsewhere),
            }
        }
    }
}

fn same_platform(host: &str, wanted: &str) -> bool {
    let canonical = |text: &str| match text.to_lowercase().as_str() {
        "x86-64" | "amd64" | "x86_64" => "x86_64".to_owned(),
        "arm64" | "aarch64" => "aarch64".to_owned(),
        other => other.to_owned(),
    };
    canonical(host) == canonical(wanted)
}
