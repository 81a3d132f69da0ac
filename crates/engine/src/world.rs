//! Looking at the workspace before a build: what sources and outputs hold, what host tools are.
//!
//! Stat data only saves hashing: what has a trusted, unchanged fingerprint is known, everything else is read. It does
//! not know what follows from a change.

use std::io;
use std::path::Path;

use minibuild_core::{
    ActionId, ArtifactId, ArtifactKind, Content, DeclaredOutput, DigestFunction, EntryKind, Fingerprint, Input, Model,
    StopFlag, WsPath, map_parallel,
};
use minibuild_disk::{
    CaptureError, DiskError, FileClock, FsInstant, HashedFile, OutTree, Seen, hash_file, hash_file_until, stat_batch,
    tree_is_unchanged,
};
use rustc_hash::{FxHashMap, FxHashSet};

use crate::links::{LinkEntry, LinkEntryKind, LinkRules, LinkedSource};
use crate::machine::{SourceFact, World};
use crate::state::{FileRecord, Origin, State};

/// What looking needs.
pub struct Look<'a> {
    /// The loaded build.
    pub model: &'a Model,
    /// The workspace root.
    pub root: &'a Path,
    /// The hash function of contents.
    pub function: DigestFunction,
    /// The output tree, whose files are made read-only where they are not; without it nothing is touched, and what only
    /// that way can be looked at counts as absent.
    pub tree: Option<&'a OutTree>,
    /// The file system's clock.
    pub clock: &'a dyn FileClock,
    /// Threads that look and hash.
    pub threads: usize,
    /// Symlinks that leave the workspace count as the file they lead to.
    pub follow_external: bool,
    /// `[workspace] ignore`: not entered below a directory that a symlink leads to.
    pub ignored: &'a [WsPath],
    /// Sources that need no look.
    pub known: &'a FxHashMap<ArtifactId, SourceFact>,
    /// Once set, nothing further is read: what is found then is of no use.
    pub stop: &'a StopFlag,
}

/// What a source file holds now.
///
/// # Errors
/// Why it cannot be used.
pub fn read_again(tree: &OutTree, clock: &dyn FileClock, path: &WsPath) -> Result<FileRecord, String> {
    let now = clock.now().map_err(|e| e.render())?;
    let failed = |e: io::Error| format!("its input `{path}` cannot be read: {e}");
    // A symlink that leaves the workspace stands for the file it leads to.
    let real = tree.workspace().join(path.as_path()).canonicalize().map_err(failed)?;
    let hashed = hash_file(rustix::fs::CWD, real, tree.function(), now).map_err(failed)?;
    let content = Content::File { digest: hashed.digest, executable: hashed.executable() };
    Ok(FileRecord { content, stamps: vec![hashed.stamp], origin: Origin::Found })
}

impl Look<'_> {
    /// Looks at everything the wanted actions read or made, and at the sources that are wanted themselves.
    ///
    /// # Errors
    /// Where the file system's clock cannot be read: nothing can be written.
    pub fn at(&self, actions: &[ActionId], wanted: &[ArtifactId], state: &mut State) -> Result<World, DiskError> {
        let mut world = World::default();
        self.look_at_sources(&self.sources_of(actions, wanted), state, &mut world)?;
        world.sources.extend(self.known.iter().map(|(&id, fact)| (id, Ok(fact.clone()))));
        self.look_at_outputs(actions, state, &mut world)?;
        Ok(world)
    }

    fn root(&self) -> &Path {
        self.root
    }

    fn sources_of(&self, actions: &[ActionId], wanted: &[ArtifactId]) -> Vec<ArtifactId> {
        let mut seen = vec![false; self.model.artifacts.len()];
        let mut seen_sets = vec![false; self.model.sets.len()];
        let mut found = Vec::new();
        let rows = actions.iter().map(|&action| self.model.action(action));
        let mut stack: Vec<Input> = wanted.iter().map(|&id| Input::Artifact(id)).collect();
        for row in rows {
            stack.extend(row.inputs.iter().chain(&row.discoverable));
        }
        while let Some(input) = stack.pop() {
            match input {
                Input::Artifact(id) => {
                    let is_source = self.model.artifact(id).kind == ArtifactKind::Source;
                    if is_source && !std::mem::replace(&mut seen[id.index()], true) {
                        found.push(id);
                    }
                }
                Input::Set(id) => {
                    if !std::mem::replace(&mut seen_sets[id.index()], true) {
                        stack.extend(&self.model.sets[id.index()].items);
                    }
                }
            }
        }
        found.retain(|id| !self.known.contains_key(id));
        found.sort_by(|a, b| self.model.artifact(*a).path.cmp(&self.model.artifact(*b).path));
        found
    }

    fn look_at_sources(&self, ids: &[ArtifactId], state: &mut State, world: &mut World) -> Result<(), DiskError> {
        let paths: Vec<&str> = ids.iter().map(|&id| self.model.artifact(id).path.as_str()).collect();
        let seen = stat_batch(self.root(), &paths, self.threads);
        let mut unknown = Vec::new();
        for (&id, seen) in ids.iter().zip(seen) {
            let path = &self.model.artifact(id).path;
            match seen {
                None => drop(world.sources.insert(id, Err(format!("its input `{path}` does not exist")))),
                Some(seen) if seen.kind == EntryKind::File => match known_file(state, path.as_str(), &seen) {
                    Some(content) => {
                        let fact = SourceFact::file(content, seen.fingerprint);
                        world.sources.insert(id, Ok(fact));
                    }
                    None => unknown.push(id),
                },
                Some(seen) if seen.kind == EntryKind::Symlink => {
                    let fact = self.look_at_link(path, state);
                    world.sources.insert(id, fact);
                }
                Some(seen) => {
                    let what = if seen.kind == EntryKind::Directory { "a directory" } else { "no regular file" };
                    world.sources.insert(id, Err(format!("its input `{path}` is {what}")));
                }
            }
        }
        let paths: Vec<&WsPath> = unknown.iter().map(|&id| &self.model.artifact(id).path).collect();
        for (id, hashed) in unknown.iter().zip(self.hash_all(&paths)?) {
            let path = &self.model.artifact(*id).path;
            let fact = hashed
                .map(|hashed| self.take_hashed(path, &hashed, state))
                .map_err(|e| format!("its input `{path}` cannot be read: {e}"));
            world.sources.insert(*id, fact);
        }
        self.look_behind_links(world, state);
        Ok(())
    }

    fn take_hashed(&self, path: &WsPath, hashed: &HashedFile, state: &mut State) -> SourceFact {
        let content = Content::File { digest: hashed.digest, executable: hashed.executable() };
        state.record_seen(path, content.clone(), vec![hashed.stamp]);
        SourceFact::file(content, hashed.stamp.fingerprint)
    }

    /// Hashes files on several threads, in the order given.
    fn hash_all(&self, paths: &[&WsPath]) -> Result<Vec<io::Result<HashedFile>>, DiskError> {
        if paths.is_empty() {
            return Ok(Vec::new());
        }
        let now = self.clock.now()?;
        let hash = |path: &WsPath| self.hash_one(path, now);
        let threads = self.threads.min(paths.len() / 8 + 1);
        if threads < 2 {
            return Ok(paths.iter().map(|path| hash(path)).collect());
        }
        let parts = paths.chunks(paths.len().div_ceil(threads)).collect();
        let hash_part = |part: &[&WsPath]| part.iter().map(|path| hash(path)).collect::<Vec<_>>();
        Ok(map_parallel(parts, threads, hash_part).into_iter().flatten().collect())
    }

    fn hash_one(&self, path: &WsPath, now: FsInstant) -> io::Result<HashedFile> {
        if self.stop.is_set() {
            return Err(io::ErrorKind::Interrupted.into());
        }
        hash_file_until(rustix::fs::CWD, self.root().join(path.as_path()), self.function, now, Some(self.stop))
    }

    /// A source that is a symlink, or lies behind one, with what belongs to it inside the workspace.
    fn look_at_link(&self, path: &WsPath, state: &mut State) -> Result<SourceFact, String> {
        let rules = LinkRules { root: self.root, ignored: self.ignored, follow_external: self.follow_external };
        let source = LinkedSource::at(rules, path).map_err(|e| e.to_string())?;
        let unknown = |entry: &&LinkEntry| {
            entry.kind == LinkEntryKind::File && known_file(state, entry.path.as_str(), &entry.seen).is_none()
        };
        let unknown: Vec<WsPath> = source.entries.iter().filter(unknown).map(|entry| entry.path.clone()).collect();
        let hashed = self.hash_all(&unknown.iter().collect::<Vec<_>>()).map_err(|e| e.render())?;
        let mut fresh = FxHashMap::default();
        for (path, hashed) in unknown.into_iter().zip(hashed) {
            let hashed = hashed.map_err(|e| format!("`{path}` cannot be read: {e}"))?;
            let fact = self.take_hashed(&path, &hashed, state);
            fresh.insert(path, (fact.content, fact.fingerprint));
        }
        let mut own = None;
        let mut behind = Vec::with_capacity(source.entries.len());
        for entry in source.entries {
            let (content, fingerprint) = match entry.kind {
                LinkEntryKind::Link(target) => (Content::Symlink { target }, entry.seen.fingerprint),
                LinkEntryKind::External(real) => self.look_outside(&entry.path, &real)?,
                LinkEntryKind::File => match fresh.remove(&entry.path) {
                    Some(found) => found,
                    None => {
                        let known = known_file(state, entry.path.as_str(), &entry.seen);
                        (known.ok_or_else(|| format!("`{}` changed", entry.path))?, entry.seen.fingerprint)
                    }
                },
            };
            let is_own = entry.path == source.own;
            if is_own {
                own = Some((content.clone(), fingerprint));
            }
            if !is_own || source.own != *path {
                behind.push((entry.path, content, fingerprint));
            }
        }
        let (content, fingerprint) = own.ok_or_else(|| format!("`{path}` cannot be resolved"))?;
        Ok(SourceFact { content, fingerprint, behind, is_moved: source.own != *path })
    }

    /// The file outside of the workspace that a symlink stands for.
    fn look_outside(&self, path: &WsPath, real: &Path) -> Result<(Content, Fingerprint), String> {
        let now = self.clock.now().map_err(|e| e.render())?;
        let hashed = hash_file(rustix::fs::CWD, real, self.function, now)
            .map_err(|e| format!("`{}`, where the symlink `{path}` leads, cannot be read: {e}", real.display()))?;
        Ok((Content::File { digest: hashed.digest, executable: hashed.executable() }, hashed.stamp.fingerprint))
    }

    /// Files that are declared by a path through a symlink which is an input itself: an input root has one or the other.
    fn look_behind_links(&self, world: &mut World, state: &mut State) {
        let is_link = |content: &Content| matches!(content, Content::Symlink { .. });
        let mut links: FxHashSet<WsPath> = FxHashSet::default();
        for (&id, source) in world.sources.iter().filter_map(|(id, source)| Some((id, source.as_ref().ok()?))) {
            links.extend(is_link(&source.content).then(|| self.model.artifact(id).path.clone()));
            links
                .extend(source.behind.iter().filter(|(_, content, _)| is_link(content)).map(|(path, ..)| path.clone()));
        }
        if links.is_empty() {
            return;
        }
        for (&id, source) in &mut world.sources {
            let path = &self.model.artifact(id).path;
            let is_behind = |source: &SourceFact| {
                matches!(source.content, Content::File { .. }) && source.behind.is_empty() && has_ancestor(path, &links)
            };
            if source.as_ref().is_ok_and(is_behind) {
                *source = self.look_at_link(path, state).map(|fact| SourceFact { is_moved: false, ..fact });
            }
        }
    }

    /// What lies at the places of outputs.
    fn look_at_outputs(&self, actions: &[ActionId], state: &mut State, world: &mut World) -> Result<(), DiskError> {
        let outputs = actions.iter().flat_map(|&action| self.model.action(action).outputs.iter().copied());
        let mut ids: Vec<ArtifactId> = outputs.collect();
        ids.sort_by(|a, b| self.model.artifact(*a).path.cmp(&self.model.artifact(*b).path));
        let paths: Vec<&str> = ids.iter().map(|&id| self.model.artifact(id).path.as_str()).collect();
        let seen = stat_batch(self.root(), &paths, self.threads);
        let mut changed = Vec::new();
        let mut unsealed = Vec::new();
        for (&id, seen) in ids.iter().zip(seen) {
            let path = &self.model.artifact(id).path;
            let Some(seen) = seen else { continue };
            if state.file(path.as_str()).is_none() {
                // Of a state that was lost, or put there by somebody else.
                world.foreign.insert(id);
                continue;
            }
            match self.known_output(state, path, &seen) {
                // What a killed run left is complete perhaps, but was never published.
                _ if seen.kind == EntryKind::File && seen.fingerprint.mode & 0o222 != 0 => unsealed.push(id),
                Some(content) => drop(world.outputs.insert(id, (content, seen.fingerprint))),
                None => changed.push(id),
            }
        }
        let (files, others): (Vec<ArtifactId>, Vec<ArtifactId>) =
            changed.into_iter().partition(|&id| self.model.artifact(id).kind == ArtifactKind::File);
        self.reread_files(&files, state, world)?;
        match self.tree {
            Some(tree) => {
                unsealed.extend(others);
                self.capture_again(tree, &unsealed, state, world);
            }
            None => self.reread_files(&unsealed, state, world)?,
        }
        Ok(())
    }

    fn known_output(&self, state: &State, path: &WsPath, seen: &Seen) -> Option<Content> {
        let record = state.file(path.as_str())?;
        match &record.content {
            Content::Directory(tree) => {
                tree_is_unchanged(self.root(), path, tree, &record.stamps).then(|| record.content.clone())
            }
            _ => known_file(state, path.as_str(), seen),
        }
    }

    /// Files that are not as they were: what they hold now.
    fn reread_files(&self, files: &[ArtifactId], state: &mut State, world: &mut World) -> Result<(), DiskError> {
        let paths: Vec<&WsPath> = files.iter().map(|&id| &self.model.artifact(id).path).collect();
        for (&id, hashed) in files.iter().zip(self.hash_all(&paths)?) {
            let Ok(hashed) = hashed else {
                world.foreign.insert(id);
                continue;
            };
            let fact = self.take_hashed(&self.model.artifact(id).path, &hashed, state);
            world.outputs.insert(id, (fact.content, fact.fingerprint));
        }
        Ok(())
    }

    /// Outputs that are not as they were, or writable: what they hold now, read-only from now on.
    fn capture_again(&self, tree: &OutTree, ids: &[ArtifactId], state: &mut State, world: &mut World) {
        for &id in ids {
            let artifact = self.model.artifact(id);
            let declared = DeclaredOutput { path: artifact.path.clone(), kind: artifact.kind };
            match tree.capture(&[declared], self.clock) {
                Ok(found) => {
                    for output in found {
                        let fingerprint = match &output.meta.content {
                            Content::Directory(_) => None,
                            _ => output.stamps.first().map(|s| s.fingerprint),
                        };
                        state.record_seen(&artifact.path, output.meta.content.clone(), output.stamps);
                        world.outputs.insert(id, (output.meta.content, fingerprint.unwrap_or_default()));
                    }
                }
                Err(CaptureError::Problems(_) | CaptureError::Disk(_)) => drop(world.foreign.insert(id)),
            }
        }
    }
}

/// The recorded content of a file whose fingerprint is trusted and unchanged.
fn known_file(state: &State, path: &str, seen: &Seen) -> Option<Content> {
    let record = state.file(path)?;
    let [stamp] = record.stamps[..] else { return None };
    (stamp.trusted && stamp.fingerprint == seen.fingerprint).then(|| record.content.clone())
}

/// Whether a directory above `path` is one of `links`.
fn has_ancestor(path: &WsPath, links: &FxHashSet<WsPath>) -> bool {
    let above = std::iter::successors(path.parent(), |at| at.rsplit_once('/').map(|(above, _)| above));
    above.filter_map(|at| WsPath::new(at).ok()).any(|at| links.contains(&at))
}
