//! Sources that changed between the look at them and their upload: read again, after which whoever reads them has another
//! key. A local run cannot come here: what changes while it runs is in its report.

use minibuild_core::{ActionId, ArtifactId, Branch, Content, ExecutionReport, Fingerprint, Level, WsPath};

use super::fetch::fingerprint_of;
use super::{Machine, Running, Status, Step};
use crate::state::FileRecord;

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
            let waiting = self.rehashing.entry(path.clone()).or_default();
            if waiting.is_empty() {
                self.steps.push(Step::Rehash(path));
            }
            waiting.push(action);
        }
    }

    /// A source was read again.
    pub(super) fn take_rehashed(&mut self, path: &WsPath, found: Result<FileRecord, String>) {
        let Some(waiting) = self.rehashing.remove(path) else { return };
        let found = found.map(|record| {
            let fingerprint = fingerprint_of(&record.content, &record.stamps);
            self.state.record_file(path, record.clone());
            (record.content, fingerprint)
        });
        for id in self.sources_at(path) {
            if self.learn_source(id, path, &found) {
                self.outdate_readers(id);
            }
        }
        for action in waiting {
            let waits_on = self.rehashing.values().any(|others| others.contains(&action));
            if !waits_on && self.status_of(action) == Status::Rehashing {
                self.reopen(action);
            }
        }
    }

    /// Sources that are this file, or lead to it.
    fn sources_at(&self, path: &WsPath) -> Vec<ArtifactId> {
        let leads_there = |id: ArtifactId| match self.world.sources.get(&id) {
            Some(Ok(source)) => source.behind.iter().any(|(behind, ..)| behind == path),
            _ => false,
        };
        let sources = self.world.sources.keys().copied();
        let mut found: Vec<ArtifactId> =
            sources.filter(|&id| self.model.artifact(id).path == *path || leads_there(id)).collect();
        found.sort_unstable();
        found
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
    fn outdate_readers(&mut self, id: ArtifactId) {
        for index in 0..self.model.actions.len() {
            let action = ActionId::new(index);
            let status = self.status_of(action);
            let has_used = matches!(status, Status::Done | Status::Running);
            if has_used && self.flat_inputs(action).artifacts.contains(&id) {
                if status == Status::Done {
                    self.reopen(action);
                } else {
                    self.outdated.insert(action);
                }
            }
        }
    }
}
