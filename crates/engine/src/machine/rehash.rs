//! Sources that changed between the look at them and their upload: read again, after which whoever reads them has another
//! key. A local run cannot come here: what changes while it runs is in its report.

use std::sync::Arc;

use minibuild_core::{ActionId, ArtifactId, Branch, Content, ExecutionReport, Fingerprint, Level, WsPath};

use rustc_hash::FxHashMap;

use super::fetch::fingerprint_of;
use super::{Machine, Running, Status, Step};
use crate::state::FileRecord;

/// Sources that are being read again.
#[derive(Debug, Default)]
pub(super) struct Rehashes {
    /// The actions that wait for each.
    waiting: FxHashMap<WsPath, Vec<ActionId>>,
    /// For how many each action waits.
    awaited: FxHashMap<ActionId, usize>,
    /// Made for the first of them: a checkout during a build changes thousands.
    index: Option<SourceIndex>,
}

impl Rehashes {
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

/// What belongs to a source.
#[derive(Debug, Default)]
struct SourceIndex {
    /// Sources that are the file, or lead to it.
    at: FxHashMap<WsPath, Vec<ArtifactId>>,
    /// Wanted actions that read the source.
    readers: FxHashMap<ArtifactId, Vec<ActionId>>,
}

impl Machine {
    /// A remote run came to nothing since its inputs were not what its key says. Once for each action they are read
    /// again; an output that something else changed is not.
    pub(super) fn take_changed_inputs(&mut self, action: ActionId, running: Running, report: ExecutionReport) {
        if self.stopping.is_some() {
            return self.take_stopped(action);
        }
        let names: Vec<String> = report.changed_inputs.iter().map(|path| format!("`{path}`")).collect();
        let text = format!("{} changed before it could be sent to the remote side", names.join(", "));
        let are_sources = report.changed_inputs.iter().all(|path| !path.is_at_or_below(minibuild_core::OUT_ROOT));
        if !are_sources || !self.rekeyed.insert(action) {
            return self.take_failure(action, Branch::Remote, running, report, &text);
        }
        self.message(Level::Warning, text);
        self.set_status(action, Status::Rehashing);
        for path in report.changed_inputs {
            let waiting = self.rehashing.waiting.entry(path.clone()).or_default();
            if waiting.is_empty() {
                self.steps.push(Step::Rehash(path));
            }
            waiting.push(action);
            *self.rehashing.awaited.entry(action).or_default() += 1;
        }
    }

    /// A source was read again.
    pub(super) fn take_rehashed(&mut self, path: &WsPath, found: Result<FileRecord, String>) {
        let Some(waiting) = self.rehashing.waiting.remove(path) else { return };
        let found = found.map(|record| {
            let fingerprint = fingerprint_of(&record.content, &record.stamps);
            self.state.record_file(path, record.clone());
            (record.content, fingerprint)
        });
        let index = match self.rehashing.index.take() {
            Some(index) => index,
            None => self.index_sources(),
        };
        for &id in index.at.get(path).into_iter().flatten() {
            if self.learn_source(id, path, &found) {
                self.outdate_readers(index.readers.get(&id).map(|readers| &readers[..]).unwrap_or_default());
            }
        }
        self.rehashing.index = Some(index);
        for action in waiting {
            let waits_on = self.rehashing.awaited.get_mut(&action).is_some_and(|awaited| {
                *awaited = awaited.saturating_sub(1);
                *awaited > 0
            });
            if !waits_on && self.status_of(action) == Status::Rehashing {
                self.reopen(action);
            }
        }
    }

    fn index_sources(&mut self) -> SourceIndex {
        let mut index = SourceIndex::default();
        for (&id, source) in &self.world.sources {
            index.at.entry(self.model.artifact(id).path.clone()).or_default().push(id);
            for (path, ..) in source.iter().flat_map(|source| &source.behind) {
                index.at.entry(path.clone()).or_default().push(id);
            }
        }
        for ids in index.at.values_mut() {
            ids.sort_unstable();
            ids.dedup();
        }
        let model = Arc::clone(&self.model);
        let is_wanted = |&action: &ActionId| self.status_of(action) != Status::Unwanted;
        let wanted: Vec<ActionId> = (0..model.actions.len()).map(ActionId::new).filter(is_wanted).collect();
        for action in wanted {
            for id in self.flat_inputs(action).artifacts {
                if model.artifact(id).producer.is_none() {
                    index.readers.entry(id).or_default().push(action);
                }
            }
        }
        index
    }

    /// Takes over what a source holds now; true if that is something else.
    fn learn_source(&mut self, id: ArtifactId, path: &WsPath, found: &Result<(Content, Fingerprint), String>) -> bool {
        let is_itself = self.model.artifact(id).path == *path;
        match (self.world.sources.get_mut(&id), found) {
            (Some(Ok(source)), Ok((content, fingerprint))) if is_itself => {
                (source.content, source.fingerprint) = (content.clone(), *fingerprint);
                return self.learn(id, content, Some(*fingerprint), false);
            }
            (Some(Ok(source)), Ok((content, fingerprint))) => {
                let mut changed = false;
                for behind in source.behind.iter_mut().filter(|(behind, ..)| behind == path) {
                    changed |= behind.1 != *content;
                    (behind.1, behind.2) = (content.clone(), *fingerprint);
                }
                if !changed {
                    return false;
                }
            }
            (_, Ok(_)) => return false,
            (_, Err(why)) => {
                self.world.sources.insert(id, Err(why.clone()));
                self.known[id.index()] = None;
                self.bytes.set_here(id, None);
            }
        }
        self.generation += 1;
        self.roots.get_mut().forget();
        true
    }

    /// Whoever used what the source held before is looked at anew; what runs, when it is done.
    fn outdate_readers(&mut self, readers: &[ActionId]) {
        for &action in readers {
            #[cfg(test)]
            self.looks.set(self.looks.get() + 1);
            match self.status_of(action) {
                Status::Done => self.reopen(action),
                Status::Running => drop(self.outdated.insert(action)),
                _ => {}
            }
        }
    }
}
