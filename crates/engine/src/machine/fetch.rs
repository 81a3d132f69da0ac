//! Bringing outputs here: what is fetched, when, and what follows from how it ended.

use std::sync::Arc;

use minibuild_core::{
    ActionId, ArtifactId, BuildEvent, Content, Digest, DownloadReason, FetchId, FetchOutcome, FetchRequest,
    Fingerprint, Level, Stamp, TreeNode, Urgency, WsPath,
};

use super::{Machine, Status, Step};
use crate::state::FileRecord;

/// A fetch under way.
#[derive(Debug)]
pub(super) struct Fetching {
    artifact: ArtifactId,
    why: DownloadReason,
}

impl Machine {
    /// Brings the wanted outputs of a finished action here.
    pub(super) fn fetch_wanted(&mut self, action: ActionId) {
        let model = Arc::clone(&self.model);
        for &id in &model.action(action).outputs {
            let known = &self.known[id.index()];
            if let Some(why) = self.bytes_wanted[id.index()]
                && known.on_disk.is_none()
                && known.is_remote
            {
                self.fetch(id, why);
            }
        }
    }

    /// Brings the inputs of an action that will run here, as far as they are only remote.
    pub(super) fn fetch_inputs(&mut self, action: ActionId) {
        if self.goals.remote.is_none() {
            return;
        }
        for id in self.flat_inputs(action).artifacts {
            let known = &self.known[id.index()];
            let is_done = self.model.artifact(id).producer.is_some_and(|p| self.status_of(p) == Status::Done);
            if is_done && known.on_disk.is_none() && known.is_remote {
                self.fetch(id, DownloadReason::Input);
            }
        }
    }

    /// Brings an output here, unless it is on its way.
    pub(super) fn fetch(&mut self, id: ArtifactId, why: DownloadReason) {
        let artifact = self.model.artifact(id);
        let known = &self.known[id.index()];
        let (Some(producer), Some(content)) = (artifact.producer, known.content.clone()) else { return };
        if self.stopping.is_some() || known.fetch.is_some() {
            return;
        }
        let fetch = FetchId(self.next_fetch);
        self.next_fetch += 1;
        let urgency = match why {
            DownloadReason::Input => Urgency::Input,
            DownloadReason::Toplevel | DownloadReason::Run | DownloadReason::Fetch => Urgency::Toplevel,
            _ => Urgency::Background,
        };
        let request = FetchRequest {
            id: fetch,
            producer,
            path: artifact.path.clone(),
            who: self.requester(producer, content.digest_and_size().0),
            content,
            urgency,
        };
        self.known[id.index()].fetch = Some(fetch);
        self.fetching.insert(fetch, Fetching { artifact: id, why });
        self.count_fetch(producer, true);
        self.steps.push(Step::Fetch(Box::new(request)));
    }

    fn count_fetch(&mut self, producer: ActionId, begins: bool) {
        for &goal in self.goals_of.get(&producer).into_iter().flatten() {
            let count = &mut self.goal_fetches[goal];
            *count = if begins { *count + 1 } else { count.saturating_sub(1) };
        }
    }

    /// Whether an output of the action is on its way here.
    pub(super) fn is_being_fetched(&self, action: ActionId) -> bool {
        !self.fetching.is_empty()
            && self.model.action(action).outputs.iter().any(|id| self.known[id.index()].fetch.is_some())
    }

    pub(super) fn take_fetched(&mut self, fetch: FetchId, outcome: FetchOutcome) {
        let Some(Fetching { artifact, why }) = self.fetching.remove(&fetch) else { return };
        let Some(producer) = self.model.artifact(artifact).producer else { return };
        self.known[artifact.index()].fetch = None;
        self.count_fetch(producer, false);
        match outcome {
            FetchOutcome::Done { stamps, copied } => self.take_bytes(artifact, why, stamps, copied),
            FetchOutcome::Lost { why, .. } => self.take_lost(artifact, producer, &why),
            FetchOutcome::Stopped => {}
            FetchOutcome::Disk(problem) => self.fail_fetch(artifact, producer, &problem),
        }
        self.announce_goals_of(producer);
    }

    fn take_bytes(&mut self, id: ArtifactId, why: DownloadReason, stamps: Vec<Stamp>, copied: u64) {
        let path = self.model.artifact(id).path.clone();
        let Some(content) = self.known[id.index()].content.clone() else { return };
        let fingerprint = fingerprint_of(&content, &stamps);
        self.known[id.index()].on_disk = Some(fingerprint);
        self.world.outputs.insert(id, (content.clone(), fingerprint));
        let files = files_of(&path, &content);
        self.outcome.downloads.files += files.len() as u64 - copied.min(files.len() as u64);
        self.outcome.downloads.files_copied += copied;
        for (path, digest) in files {
            self.outcome.downloads.bytes += digest.size;
            let event = BuildEvent::FileDownloaded { path: path.to_string(), digest, size: digest.size, why };
            self.steps.push(Step::Emit(event));
        }
        self.state.record_file(&path, FileRecord { content, stamps });
        self.wake_waiters(id);
    }

    /// The store does not have it after all: whoever makes it does so again, if it is needed.
    fn take_lost(&mut self, id: ArtifactId, producer: ActionId, why: &str) {
        self.known[id.index()].is_remote = false;
        self.forget_newest_held(producer);
        let waits = |&consumer: &ActionId| self.status_of(consumer) == Status::AwaitingInputs;
        let is_awaited = self.waiters.get(&id).is_some_and(|waiters| waiters.iter().any(waits));
        let is_needed = self.bytes_wanted[id.index()].is_some() || is_awaited;
        if is_needed && self.stopping.is_none() && self.status_of(producer) == Status::Done {
            let path = &self.model.artifact(id).path;
            self.want_bytes(producer, &format!("`{path}` could not be brought back: {why}"));
        }
    }

    /// This machine cannot take it: the target's failure, and that of whoever waits for it.
    fn fail_fetch(&mut self, id: ArtifactId, producer: ActionId, why: &str) {
        let text = format!("`{}` could not be brought here: {why}", self.model.artifact(id).path);
        self.message(Level::Error, text.clone());
        for consumer in self.waiters.remove(&id).unwrap_or_default() {
            if self.status_of(consumer) == Status::AwaitingInputs {
                self.awaiting.remove(&consumer);
                self.fail_without_run(consumer, &text);
            }
        }
        for goal in self.goals_of.get(&producer).cloned().unwrap_or_default() {
            if self.bytes_wanted[id.index()].is_some() {
                self.announce(goal, false);
            }
        }
        self.fail_build();
    }

    /// An input is there, or known anew: whoever waits for no other is looked at again.
    pub(super) fn wake_waiters(&mut self, id: ArtifactId) {
        for consumer in self.waiters.remove(&id).unwrap_or_default() {
            let Some(count) = self.awaiting.get_mut(&consumer) else { continue };
            *count -= 1;
            if *count == 0 {
                self.awaiting.remove(&consumer);
                self.reopen(consumer);
            }
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

/// The files of an output, which are what is counted.
fn files_of(path: &WsPath, content: &Content) -> Vec<(WsPath, Digest)> {
    match content {
        Content::File { digest, .. } => vec![(path.clone(), *digest)],
        Content::Symlink { .. } => Vec::new(),
        Content::Directory(tree) => {
            let file = |entry: &minibuild_core::TreeEntry| match &entry.node {
                TreeNode::File { digest, .. } => Some((path.join(entry.path.as_str()).ok()?, *digest)),
                TreeNode::Symlink { .. } | TreeNode::EmptyDirectory => None,
            };
            tree.entries.iter().filter_map(file).collect()
        }
    }
}
