//! Single files of trees: a regular expression may want some of them while nobody wants the tree.
//!
//! What of a tree is on disk then is a *part* of it: a directory that holds nothing but entries of the tree. A part is
//! kept, and never taken for the tree.

use std::sync::Arc;

use minibuild_core::{
    ArtifactId, Blob, BlobSource, Content, Copied, DownloadReason, FetchId, Fingerprint, Stamp, TreeEntry, TreeMeta,
    TreeNode, Urgency,
};

use super::Machine;
use crate::state::{FileRecord, Origin};

impl Machine {
    /// Whether single files of the tree are wanted here, and not all of them are.
    pub(super) fn is_part_absent(&self, id: ArtifactId) -> bool {
        if self.bytes.wanted(id).is_some() || self.bytes.here(id).is_some() {
            return false;
        }
        let Some(Content::Directory(tree)) = &self.known[id.index()] else { return false };
        let wanted = self.goals.wishes.files_of(&self.model.artifact(id).path, tree);
        let here = self.part_here(id, tree);
        wanted
            .into_iter()
            .any(|entry| here.is_none_or(|part| part.entries.binary_search_by(|e| e.path.cmp(&entry.path)).is_err()))
    }

    /// What is on disk of a tree that is not here as a whole.
    fn part_here(&self, id: ArtifactId, tree: &TreeMeta) -> Option<&Arc<TreeMeta>> {
        match self.world.outputs.get(&id) {
            Some((Content::Directory(part), _)) if tree.contains(part) => Some(part),
            _ => None,
        }
    }

    /// Brings files of a tree here that are wanted though it is not.
    pub(super) fn fetch_part(&mut self, id: ArtifactId) {
        if !self.is_part_absent(id) {
            return;
        }
        let Some(Content::Directory(tree)) = self.known[id.index()].clone() else { return };
        let part = self.part_of(id, &tree);
        if part.entries.len() == tree.entries.len() {
            self.bytes.want(id, DownloadReason::Regex);
            return self.fetch(id, DownloadReason::Regex);
        }
        if let Some(step) = self.bytes.need_part(id) {
            self.take_download_step(step);
        }
    }

    /// What of the tree is wanted or on disk already.
    fn part_of(&self, id: ArtifactId, tree: &TreeMeta) -> TreeMeta {
        let mut entries: Vec<TreeEntry> =
            self.goals.wishes.files_of(&self.model.artifact(id).path, tree).into_iter().cloned().collect();
        entries.extend(
            self.part_here(id, tree)
                .iter()
                .flat_map(|part| part.entries.iter().filter(|entry| tree.has(entry)).cloned()),
        );
        entries.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        entries.dedup();
        let size = size_of(&entries);
        let root = minibuild_reapi::tree_directories(&entries, self.host.function, &mut |_, _| {});
        TreeMeta { root, size, entries }
    }

    /// The part as it is fetched: in one piece, what is here already copied.
    pub(super) fn begin_part(&mut self, id: FetchId, artifact: ArtifactId) {
        let Some(Content::Directory(tree)) = self.known[artifact.index()].clone() else { return };
        let part = Arc::new(self.part_of(artifact, &tree));
        let here = self.blobs_of_part(artifact, &tree);
        self.fetches.parts.insert(id, Arc::clone(&part));
        self.begin_fetch_of(id, artifact, Urgency::Background, Content::Directory(part), here);
    }

    /// Files of the part on disk, as far as the state knows under which fingerprints.
    fn blobs_of_part(&self, id: ArtifactId, tree: &TreeMeta) -> Vec<Blob> {
        let path = &self.model.artifact(id).path;
        let (Some(part), Some(record)) = (self.part_here(id, tree), self.state.file(path.as_str())) else {
            return Vec::new();
        };
        if record.content != Content::Directory(Arc::clone(part)) {
            return Vec::new();
        }
        let leaves = part.entries.iter().filter(|entry| entry.node != TreeNode::EmptyDirectory);
        let blob = |(entry, stamp): (&TreeEntry, &Stamp)| {
            let digest = entry.blob()?;
            let path = path.join(entry.path.as_str()).ok()?;
            let source = BlobSource::File { path, fingerprint: Some(stamp.fingerprint) };
            Some(Blob { digest, source })
        };
        leaves.zip(&record.stamps).filter_map(blob).collect()
    }

    /// A part has come to lie here.
    pub(super) fn take_part(&mut self, id: ArtifactId, part: Arc<TreeMeta>, stamps: Vec<Stamp>, mut copied: Copied) {
        let path = self.model.artifact(id).path.clone();
        let old = match self.world.outputs.get(&id) {
            Some((Content::Directory(old), _)) if part.contains(old) => old.entries.clone(),
            _ => Vec::new(),
        };
        let (old, new): (Vec<TreeEntry>, Vec<TreeEntry>) =
            part.entries.iter().cloned().partition(|entry| old.contains(entry));
        copied.files = copied.files.saturating_sub(old.len() as u64);
        copied.bytes = copied.bytes.saturating_sub(size_of(&old));
        let new = TreeMeta { root: part.root, size: 0, entries: new };
        self.count_files(&path, &Content::Directory(Arc::new(new)), DownloadReason::Regex, copied);
        let content = Content::Directory(part);
        self.world.outputs.insert(id, (content.clone(), Fingerprint::default()));
        let origin = Origin::Brought(DownloadReason::Regex);
        self.state.record_file(&path, FileRecord { content, stamps, origin });
    }

    /// Whether files of the tree are wanted, and neither here nor believed to be anywhere.
    pub(super) fn is_part_wanted_in_vain(&self, id: ArtifactId) -> bool {
        !self.bytes.is_there(id) && self.is_part_absent(id)
    }

    /// Whether what lies at an output's place is a part of what it is.
    pub(super) fn is_part(found: &Content, whole: &Content) -> bool {
        match (found, whole) {
            (Content::Directory(part), Content::Directory(tree)) => !part.entries.is_empty() && tree.contains(part),
            _ => false,
        }
    }
}

fn size_of(entries: &[TreeEntry]) -> u64 {
    entries.iter().filter_map(TreeEntry::blob).map(|digest| digest.size).sum()
}
