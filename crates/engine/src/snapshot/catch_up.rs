//! What other builds recorded in the state since a snapshot was written: builds of other requests, or ones that were
//! killed. An action they recorded something of is looked at again; of files only the places of records change, since what
//! lies there is looked at anyhow.

use minibuild_core::{DigestFunction, TEST_LOG_ROOT};
use rustc_hash::FxHashMap;

use super::rows::{ActionRow, ArtifactRow, EXTRA, NONE};
use super::tables::place;
use super::tail::Update;
use super::{Doubt, Snapshot};

impl Snapshot {
    /// Takes over what was added to the state.
    pub(super) fn catch_up(&mut self, function: DigestFunction) -> Result<(), Doubt> {
        let caught_up = self.head.mark.catch_up(&self.state_dir, function);
        let (index, mark) = caught_up.map_err(|e| Doubt::Disk(e.to_string()))?.ok_or(Doubt::OtherState)?;
        if index.has_boot {
            return Err(Doubt::OtherState);
        }
        let mut update = Update::new(self.sections.fingerprint(), mark);
        update.common = index.common.clone();
        for (path, record_at) in newest(&index.actions, &index.forgotten_actions) {
            // Where logs of tests lie is not among the artifacts.
            if path.starts_with(TEST_LOG_ROOT) {
                return Err(Doubt::OtherState);
            }
            update.actions.extend(self.concerned(path, record_at)?);
        }
        for (path, file_at) in newest(&index.files, &index.forgotten_files) {
            if let Some(artifact) = self.find(path) {
                update.artifacts.push((artifact as u32, ArtifactRow { file_at, ..self.row(artifact)? }));
            }
        }
        self.apply(update.clone()).ok_or(Doubt::Damaged)?;
        self.caught_up = Some(update);
        Ok(())
    }

    /// The action that has this key path or makes what lies there, to be looked at.
    fn concerned(&self, path: &str, record_at: u64) -> Result<Option<(u32, ActionRow)>, Doubt> {
        let Some(artifact) = self.find(path) else { return Ok(None) };
        let graph = self.graph()?;
        let action = graph.producers[artifact];
        if action == NONE {
            return Ok(None);
        }
        let is_its_name = graph.outputs.get(action as usize).first() == Some(&(artifact as u32));
        let record_at = if is_its_name { record_at } else { self.record_at(action as usize)? };
        Ok(Some((action, ActionRow { record_at, is_dirty: true })))
    }

    /// The artifact of this path.
    fn find(&self, path: &str) -> Option<usize> {
        let (mut low, mut high) = (0, self.paths.len());
        while low < high {
            let middle = low + (high - low) / 2;
            match place(self.paths.get(middle)).cmp(&place(path)) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Equal => return Some(middle),
                std::cmp::Ordering::Greater => high = middle,
            }
        }
        None
    }

    /// An artifact's row as it is now.
    pub(super) fn row(&self, index: usize) -> Result<ArtifactRow, Doubt> {
        let flags = self.flags[index];
        let extra = if flags & EXTRA != 0 { Some(self.extra(index)?) } else { None };
        let (print, digest) = (self.print(index), self.digest(index)?);
        Ok(ArtifactRow { flags, print, digest, file_at: self.file_at(index)?, extra })
    }
}

/// Places of what was recorded, and of what was forgotten and not recorded again.
fn newest<'a>(recorded: &'a FxHashMap<String, u64>, forgotten: &'a [String]) -> impl Iterator<Item = (&'a str, u64)> {
    let gone = forgotten.iter().filter(|path| !recorded.contains_key(*path));
    recorded.iter().map(|(path, &at)| (path.as_str(), at)).chain(gone.map(|path| (path.as_str(), 0)))
}
