//! Bringing outputs here: what is fetched, when, and what follows from how it ended.

use std::sync::Arc;
use std::time::Duration;

use minibuild_core::{
    ActionId, ArtifactId, Blob, BlobSource, BuildEvent, Content, Copied, Digest, DownloadReason, FetchId, FetchOutcome,
    FetchRequest, Fingerprint, Level, OutputMeta, Stamp, TreeEntry, TreeMeta, Urgency, WsPath,
};
use minibuild_download::{Ended, Step as Planned};
use rustc_hash::FxHashMap;

use super::{FETCH_ATTEMPTS, Goal, Machine, Name, Status, Step, Stopping};
use crate::links::lead;
use crate::state::{FileRecord, Origin};

/// A fetch that waits for its end.
#[derive(Debug)]
pub(super) struct FetchUnderWay {
    content: Content,
    files: u64,
    bytes: u64,
    since: Duration,
}

/// What is known of fetches besides who wants them.
#[derive(Debug, Default)]
pub(super) struct FetchTable {
    under_way: FxHashMap<FetchId, FetchUnderWay>,
    /// What is fetched of trees of which only single files are.
    pub(super) parts: FxHashMap<FetchId, Arc<TreeMeta>>,
    /// How often in a row outputs could not be reached.
    unreachable: FxHashMap<ArtifactId, u32>,
}

impl Machine {
    /// Brings the wanted outputs of a finished action here, and outputs that symlinks among them lead to.
    pub(super) fn fetch_wanted(&mut self, action: ActionId) {
        let model = Arc::clone(&self.model);
        for step in self.bytes.completed(&model.action(action).outputs) {
            self.take_download_step(step);
        }
        for &output in &model.action(action).outputs {
            self.fetch_part(output);
            self.fetch_behind(action, output);
        }
    }

    /// Fetches the inputs that a wanted output of `action` leads to, if that is a symlink: a chain of any length.
    fn fetch_behind(&mut self, mut action: ActionId, mut link: ArtifactId) {
        while let Some(why) = self.bytes.wanted(link) {
            let Some(behind) = self.target_of(action, link) else { return };
            let Some(producer) = self.model.artifact(behind).producer else { return };
            self.need_behind(action, link, behind, producer);
            if self.bytes.wanted(behind).is_some() {
                return;
            }
            self.bytes.want(behind, why);
            self.fetch(behind, why);
            if self.status_of(producer) == Status::Done && self.bytes.is_wanted_in_vain(behind) {
                // It was complete without its bytes, as an input that nobody read.
                self.reopen(producer);
            }
            (action, link) = (producer, behind);
        }
    }

    /// Returns the input or output of `action` that its output `link` leads to, if that is a symlink.
    pub(super) fn target_of(&mut self, action: ActionId, link: ArtifactId) -> Option<ArtifactId> {
        let Some(Content::Symlink { target }) = &self.known[link.index()] else { return None };
        let path = lead(&self.model.artifact(link).path, target)?;
        let mut near = self.declared_inputs(action).artifacts;
        near.extend(self.model.action(action).outputs.iter().filter(|&&output| output != link));
        near.into_iter().find(|&id| path.is_at_or_below(self.model.artifact(id).path.as_str()))
    }

    /// Targets that the link is of are complete only with what it leads to.
    fn need_behind(&mut self, action: ActionId, link: ArtifactId, behind: ArtifactId, producer: ActionId) {
        for goal in self.goals_of.get(&action).cloned().unwrap_or_default() {
            let Goal { artifacts, runfiles, .. } = &self.goals.targets[goal];
            let is_its = artifacts.contains(&link) || runfiles.contains(&link) || self.behind[goal].contains(&link);
            if !is_its || self.behind[goal].contains(&behind) {
                continue;
            }
            self.behind[goal].push(behind);
            let is_done = self.status_of(producer) == Status::Done;
            let goals = self.goals_of.entry(producer).or_default();
            if !goals.contains(&goal) {
                goals.push(goal);
                self.unfinished[goal] += usize::from(!is_done);
            }
        }
    }

    /// Brings the inputs of an action that will run here, as far as they are only remote.
    pub(super) fn fetch_inputs(&mut self, action: ActionId) {
        if !self.can_fetch() {
            return;
        }
        for id in self.flat_inputs(action).artifacts {
            if self.model.artifact(id).producer.is_some_and(|p| self.status_of(p) == Status::Done) {
                self.fetch(id, DownloadReason::Input);
            }
        }
    }

    /// Brings an output here, unless it is here or on its way.
    pub(super) fn fetch(&mut self, id: ArtifactId, why: DownloadReason) {
        if let Some(step) = self.bytes.need(id, why) {
            self.take_download_step(step);
        }
    }

    pub(super) fn take_download_step(&mut self, step: Planned) {
        match step {
            Planned::Fetch { id, artifact, urgency } => self.begin_fetch(id, artifact, urgency),
            Planned::FetchPart { id, artifact } => self.begin_part(id, artifact),
            Planned::Hurry { id, urgency } => self.steps.push(Step::Hurry(id, urgency)),
        }
    }

    fn begin_fetch(&mut self, id: FetchId, artifact: ArtifactId, urgency: Urgency) {
        let Some(content) = self.known[artifact.index()].clone() else { return };
        let here = self.blobs_here(&content);
        self.begin_fetch_of(id, artifact, urgency, content, here);
    }

    pub(super) fn begin_fetch_of(
        &mut self,
        id: FetchId,
        artifact: ArtifactId,
        urgency: Urgency,
        content: Content,
        here: Vec<Blob>,
    ) {
        let row = self.model.artifact(artifact);
        let Some(producer) = row.producer else { return };
        let (path, who) = (row.path.clone(), self.requester(producer, content.digest_and_size().0));
        self.count_fetch(producer, true);
        let files = files_of(&path, &content);
        let bytes = files.iter().map(|(_, digest)| digest.size).sum();
        let under_way = FetchUnderWay { content: content.clone(), files: files.len() as u64, bytes, since: self.now };
        self.fetched_files.all += under_way.files;
        self.fetched_bytes.all += bytes;
        self.fetches.under_way.insert(id, under_way);
        self.steps.push(Step::Fetch(Box::new(FetchRequest { id, producer, path, content, urgency, here, who })));
    }

    /// Blobs of a content that lie in other files here.
    pub(super) fn blobs_here(&mut self, content: &Content) -> Vec<Blob> {
        if self.digests_here.is_none() {
            let mut digests = FxHashMap::default();
            for (&id, (content, _)) in &self.world.outputs {
                digests.extend(digest_of(content).map(|digest| (digest, id)));
            }
            self.digests_here = Some(digests);
        }
        let digests = files_of(&WsPath::root(), content).into_iter().map(|(_, digest)| digest);
        digests.filter_map(|digest| self.blob_here(digest)).collect()
    }

    fn blob_here(&self, digest: Digest) -> Option<Blob> {
        let id = *self.digests_here.as_ref()?.get(&digest)?;
        let (_, fingerprint) = self.world.outputs.get(&id).filter(|(now, _)| digest_of(now) == Some(digest))?;
        let source = BlobSource::File { path: self.model.artifact(id).path.clone(), fingerprint: Some(*fingerprint) };
        Some(Blob { digest, source })
    }

    /// An output has come to lie here.
    pub(super) fn put_here(&mut self, id: ArtifactId, content: Content, fingerprint: Fingerprint) {
        if let (Some(digests), Some(digest)) = (&mut self.digests_here, digest_of(&content)) {
            digests.insert(digest, id);
        }
        self.world.outputs.insert(id, (content, fingerprint));
    }

    fn count_fetch(&mut self, producer: ActionId, begins: bool) {
        for &goal in self.goals_of.get(&producer).into_iter().flatten() {
            let count = &mut self.goal_fetches[goal];
            *count = if begins { *count + 1 } else { count.saturating_sub(1) };
        }
    }

    /// What a failed remote run left is brought here to be looked at, also when the build stops for the failure. It is
    /// never an input.
    pub(super) fn fetch_remains(&mut self, action: ActionId, remains: &[OutputMeta]) {
        if remains.is_empty() || self.stopping >= Some(Stopping::Interrupted) || self.is_being_fetched(action) {
            return;
        }
        let model = Arc::clone(&self.model);
        let name = Name::of(&model, action);
        self.state.record_begun(name.as_ref(), remains.iter().map(|output| output.path.clone()));
        for &id in &model.action(action).outputs {
            let Some(output) = remains.iter().find(|output| output.path == model.artifact(id).path) else { continue };
            self.learn(id, &output.content, None, true);
            if let Some(step) = self.bytes.need_remains(id) {
                self.take_download_step(step);
            }
        }
    }

    /// Whether an output of the action is on its way here.
    pub(super) fn is_being_fetched(&self, action: ActionId) -> bool {
        self.bytes.under_way() > 0 && self.model.action(action).outputs.iter().any(|&id| self.bytes.is_on_its_way(id))
    }

    pub(super) fn take_fetched(&mut self, fetch: FetchId, outcome: FetchOutcome) {
        let Some(ended) = self.bytes.ended(fetch) else { return };
        let Ended { artifact, why, .. } = ended;
        let Some(producer) = self.model.artifact(artifact).producer else { return };
        self.count_fetch(producer, false);
        self.end_use(producer);
        let part = self.fetches.parts.remove(&fetch);
        let Some(FetchUnderWay { content, files, bytes, since }) = self.fetches.under_way.remove(&fetch) else {
            return;
        };
        self.fetched_files.done += files;
        self.fetched_bytes.done += bytes;
        match outcome {
            FetchOutcome::Done { stamps, copied } => {
                self.fetches.unreachable.remove(&artifact);
                self.note_rate(bytes.saturating_sub(copied.bytes), self.now.saturating_sub(since));
                match part {
                    Some(part) => self.take_part(artifact, part, stamps, copied),
                    None => self.take_bytes(artifact, why, content, stamps, copied),
                }
            }
            FetchOutcome::Lost { why, .. } => self.take_lost(artifact, producer, &why),
            FetchOutcome::Unreachable(problem) => self.take_unreachable_bytes(ended, producer, &problem),
            FetchOutcome::Stopped => {}
            FetchOutcome::Disk(problem) => self.fail_fetch(artifact, producer, &problem),
        }
        for step in self.bytes.go_on() {
            self.take_download_step(step);
        }
        self.announce_goals_of(producer);
    }

    fn take_bytes(
        &mut self,
        id: ArtifactId,
        why: DownloadReason,
        content: Content,
        stamps: Vec<Stamp>,
        copied: Copied,
    ) {
        let path = self.model.artifact(id).path.clone();
        let fingerprint = fingerprint_of(&content, &stamps);
        let is_known = self.known[id.index()].as_ref() == Some(&content);
        debug_assert!(is_known, "bug: `{path}` became another while it was fetched");
        // Never under the digest of another content, whatever is believed by now.
        self.bytes.set_here(id, Some(fingerprint).filter(|_| is_known));
        self.put_here(id, content.clone(), fingerprint);
        self.count_files(&path, &content, why, copied);
        self.state.record_file(&path, FileRecord { content, stamps, origin: Origin::Brought(why) });
        self.wake_waiters(id);
    }

    /// Counts and tells files that have come to lie here, of which these were copied.
    pub(super) fn count_files(&mut self, path: &WsPath, content: &Content, why: DownloadReason, copied: Copied) {
        let files = files_of(path, content);
        let bytes: u64 = files.iter().map(|(_, digest)| digest.size).sum();
        let counts = &mut self.outcome.downloads;
        counts.files += (files.len() as u64).saturating_sub(copied.files);
        counts.bytes += bytes.saturating_sub(copied.bytes);
        counts.files_copied += copied.files;
        // Of a tree only some files of which were copied, none is told as a copy.
        let copied = copied.files >= files.len() as u64;
        for (path, digest) in files {
            let event = BuildEvent::FileDownloaded { path: path.to_string(), digest, size: digest.size, why, copied };
            self.steps.push(Step::Emit(event));
        }
    }

    /// The server could not be reached, which says nothing of what it has: the state goes on naming it as a holder, and it is
    /// not asked to run the action past its caches. After some attempts the producer runs here, or the build fails.
    fn take_unreachable_bytes(&mut self, ended: Ended, producer: ActionId, why: &str) {
        let Ended { artifact: id, why: reason, is_part } = ended;
        if !self.bytes.is_there(id) {
            // A remote run has found out meanwhile that the server lost it.
            return self.take_lost(id, producer, why);
        }
        if !self.is_needed(id) || self.stopping.is_some() || self.status_of(producer) != Status::Done {
            return;
        }
        let attempts = self.fetches.unreachable.entry(id).or_default();
        *attempts += 1;
        if *attempts < FETCH_ATTEMPTS {
            return if is_part { self.fetch_part(id) } else { self.fetch(id, reason) };
        }
        let may_run_here = self.may_fall_back(producer) || self.sides(producer).is_ok_and(|sides| sides.here);
        if self.goals.runs_nothing || !may_run_here {
            self.outcome.remote_failed = true;
            return self.fail_fetch(id, producer, why);
        }
        let path = &self.model.artifact(id).path;
        let text = format!("`{path}` cannot be downloaded: {why}");
        if self.fallbacks_told.insert("downloads".to_owned()) {
            let label = self.model.label_of(producer);
            self.message(Level::Warning, format!("{text}; `{label}` runs here instead"));
        }
        self.local_only.insert(producer);
        self.forced.insert(producer, text);
        self.queue(producer);
    }

    /// Whether a requested target or a waiting action needs the bytes here.
    fn is_needed(&self, id: ArtifactId) -> bool {
        let waits = |&consumer: &ActionId| self.status_of(consumer) == Status::AwaitingInputs;
        self.bytes.wanted(id).is_some() || self.is_part_absent(id) || self.bytes.waiters(id).iter().any(waits)
    }

    /// The store does not have it after all: whoever makes it does so again, if it is needed.
    fn take_lost(&mut self, id: ArtifactId, producer: ActionId, why: &str) {
        self.bytes.set_there(id, false);
        if let Some(content) = self.known[id.index()].clone() {
            self.forget_stored(&content);
        }
        self.forget_newest_held(producer);
        self.suspect_store();
        if self.is_needed(id) && self.stopping.is_none() && self.status_of(producer) == Status::Done {
            let path = &self.model.artifact(id).path;
            self.want_bytes(producer, &format!("`{path}` could not be brought back: {why}"));
        }
    }

    /// This machine cannot take it: the target's failure, and that of whoever waits for it.
    fn fail_fetch(&mut self, id: ArtifactId, producer: ActionId, why: &str) {
        let text = format!("`{}` could not be brought here: {why}", self.model.artifact(id).path);
        self.message(Level::Error, text.clone());
        for consumer in self.bytes.waiters(id).to_vec() {
            if self.status_of(consumer) == Status::AwaitingInputs {
                self.bytes.end_waiting(consumer);
                self.fail_without_run(consumer, &text);
            }
        }
        for goal in self.goals_of.get(&producer).cloned().unwrap_or_default() {
            if self.bytes.wanted(id).is_some() || self.is_part_absent(id) {
                self.announce(goal, false);
            }
        }
        self.fail_build();
    }

    /// An input is there, or known anew: whoever waits for no other is looked at again.
    pub(super) fn wake_waiters(&mut self, id: ArtifactId) {
        for consumer in self.bytes.wake(id) {
            self.reopen(consumer);
        }
    }
}

/// Under which fingerprint an output is known to be here; directories have none.
pub(super) fn fingerprint_of(content: &Content, stamps: &[Stamp]) -> Fingerprint {
    match content {
        Content::Directory(_) => Fingerprint::default(),
        _ => stamps.first().map(|stamp| stamp.fingerprint).unwrap_or_default(),
    }
}

fn digest_of(content: &Content) -> Option<Digest> {
    match content {
        Content::File { digest, .. } => Some(*digest),
        Content::Symlink { .. } | Content::Directory(_) => None,
    }
}

/// The files of an output, which are what is counted.
fn files_of(path: &WsPath, content: &Content) -> Vec<(WsPath, Digest)> {
    match content {
        Content::File { digest, .. } => vec![(path.clone(), *digest)],
        Content::Symlink { .. } => Vec::new(),
        Content::Directory(tree) => {
            let file = |entry: &TreeEntry| Some((path.join(entry.path.as_str()).ok()?, entry.blob()?));
            tree.entries.iter().filter_map(file).collect()
        }
    }
}
