//! Looking at the workspace before a build: what sources and outputs hold, what host tools are.
//!
//! Stat data only saves hashing: what has a trusted, unchanged fingerprint is known, everything else is read. It does
//! not know what follows from a change.

use std::io;
use std::path::Path;

use minibuild_core::{
    ActionId, ArtifactId, ArtifactKind, Content, DeclaredOutput, DigestFunction, EntryKind, Fingerprint, Input, Model,
    OUT_ROOT, StopFlag, WsPath, map_parallel,
};
use minibuild_disk::{
    CaptureError, DiskError, FileClock, FsInstant, HashedFile, OutTree, Seen, hash_file, hash_file_until, stat_batch,
    tree_is_unchanged,
};
use rustc_hash::FxHashMap;

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
    let hashed = hash_file(rustix::fs::CWD, tree.workspace().join(path.as_path()), tree.function(), now)
        .map_err(|e| format!("its input `{path}` cannot be read: {e}"))?;
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
                        let fact = SourceFact { content, fingerprint: seen.fingerprint, behind: Vec::new() };
                        world.sources.insert(id, Ok(fact));
                    }
                    None => unknown.push(id),
                },
                Some(seen) if seen.kind == EntryKind::Symlink => {
                    let fact = self.look_at_link(path, &seen, state);
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
        Ok(())
    }

    fn take_hashed(&self, path: &WsPath, hashed: &HashedFile, state: &mut State) -> SourceFact {
        let content = Content::File { digest: hashed.digest, executable: hashed.executable() };
        state.record_seen(path, content.clone(), vec![hashed.stamp]);
        SourceFact { content, fingerprint: hashed.stamp.fingerprint, behind: Vec::new() }
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

    /// A symlink among the sources, with what it leads to inside the workspace.
    fn look_at_link(&self, path: &WsPath, seen: &Seen, state: &mut State) -> Result<SourceFact, String> {
        let mut behind = Vec::new();
        let mut at = path.clone();
        let mut first: Option<(Content, Fingerprint)> = None;
        let mut seen = *seen;
        for _ in 0..MAX_LINKS {
            let full = self.root().join(at.as_path());
            let target = std::fs::read_link(&full).map_err(|e| format!("the symlink `{at}` cannot be read: {e}"))?;
            let Some(target) = target.to_str().map(str::to_owned) else {
                return Err(format!("the symlink `{at}` leads to a name that is not UTF-8"));
            };
            let content = Content::Symlink { target: target.clone() };
            match &first {
                None => first = Some((content, seen.fingerprint)),
                Some(_) => behind.push((at.clone(), content, seen.fingerprint)),
            }
            let Some(next) = resolve(&at, &target).filter(|next| !next.is_at_or_below(OUT_ROOT)) else {
                return self.look_outside(path, &target);
            };
            let Some(what) = stat_batch(self.root(), &[next.as_str()], 1).pop().flatten() else {
                return Err(format!("the symlink `{at}` leads to `{next}`, which does not exist"));
            };
            match what.kind {
                EntryKind::Symlink => (at, seen) = (next, what),
                EntryKind::File => {
                    behind.push(self.file_behind(&next, &what, state)?);
                    break;
                }
                EntryKind::Directory => {
                    self.directory_behind(&next, state, &mut behind)?;
                    break;
                }
                EntryKind::Other => {
                    return Err(format!("the symlink `{at}` leads to `{next}`, which is no regular file"));
                }
            }
        }
        let (content, fingerprint) = first.ok_or_else(|| format!("`{path}` cannot be resolved"))?;
        if behind.is_empty() || matches!(behind.last(), Some((_, Content::Symlink { .. }, _))) {
            return Err(format!("the symlink `{path}` leads to too many further symlinks"));
        }
        Ok(SourceFact { content, fingerprint, behind })
    }

    fn file_behind(
        &self,
        path: &WsPath,
        seen: &Seen,
        state: &mut State,
    ) -> Result<(WsPath, Content, Fingerprint), String> {
        if let Some(content) = known_file(state, path.as_str(), seen) {
            return Ok((path.clone(), content, seen.fingerprint));
        }
        let now = self.clock.now().map_err(|e| e.render())?;
        let hashed = self.hash_one(path, now).map_err(|e| format!("`{path}` cannot be read: {e}"))?;
        let fact = self.take_hashed(path, &hashed, state);
        Ok((path.clone(), fact.content, fact.fingerprint))
    }

    fn directory_behind(
        &self,
        path: &WsPath,
        state: &mut State,
        behind: &mut Vec<(WsPath, Content, Fingerprint)>,
    ) -> Result<(), String> {
        for entry in walkdir::WalkDir::new(self.root().join(path.as_path())).sort_by_file_name() {
            let entry = entry.map_err(|e| format!("`{path}` cannot be listed: {e}"))?;
            if !entry.file_type().is_file() {
                continue;
            }
            let below = entry.path().strip_prefix(self.root()).ok().and_then(|p| p.to_str()).map(WsPath::new);
            let Some(Ok(below)) = below else {
                return Err(format!("`{}` has a name that is not UTF-8", entry.path().display()));
            };
            if let Some(seen) = stat_batch(self.root(), &[below.as_str()], 1).pop().flatten() {
                behind.push(self.file_behind(&below, &seen, state)?);
            }
        }
        Ok(())
    }

    /// A symlink that leaves the workspace.
    fn look_outside(&self, path: &WsPath, target: &str) -> Result<SourceFact, String> {
        if !self.follow_external {
            return Err(format!(
                "the symlink `{path}` leaves the workspace (to `{target}`); set `[build] external_links = \"follow\"` to take what it leads to as a file"
            ));
        }
        let real = std::fs::canonicalize(self.root().join(path.as_path()))
            .map_err(|e| format!("the symlink `{path}` cannot be followed: {e}"))?;
        let now = self.clock.now().map_err(|e| e.render())?;
        let hashed = hash_file(rustix::fs::CWD, &real, self.function, now)
            .map_err(|e| format!("`{}`, where the symlink `{path}` leads, cannot be read: {e}", real.display()))?;
        let link =
            minibuild_disk::look_at(rustix::fs::CWD, self.root().join(path.as_path())).map_err(|e| e.to_string())?;
        let content = Content::File { digest: hashed.digest, executable: hashed.executable() };
        Ok(SourceFact { content, fingerprint: link.fingerprint, behind: Vec::new() })
    }

    /// Outputs some record describes.
    fn look_at_outputs(&self, actions: &[ActionId], state: &mut State, world: &mut World) -> Result<(), DiskError> {
        let outputs = actions.iter().flat_map(|&action| self.model.action(action).outputs.iter().copied());
        let mut ids: Vec<ArtifactId> =
            outputs.filter(|&id| state.file(self.model.artifact(id).path.as_str()).is_some()).collect();
        ids.sort_by(|a, b| self.model.artifact(*a).path.cmp(&self.model.artifact(*b).path));
        let paths: Vec<&str> = ids.iter().map(|&id| self.model.artifact(id).path.as_str()).collect();
        let seen = stat_batch(self.root(), &paths, self.threads);
        let mut changed = Vec::new();
        let mut unsealed = Vec::new();
        for (&id, seen) in ids.iter().zip(seen) {
            let path = &self.model.artifact(id).path;
            let Some(seen) = seen else { continue };
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

    /// Files that are not as they were: what they hold now. One that cannot be read counts as absent.
    fn reread_files(&self, files: &[ArtifactId], state: &mut State, world: &mut World) -> Result<(), DiskError> {
        let paths: Vec<&WsPath> = files.iter().map(|&id| &self.model.artifact(id).path).collect();
        for (&id, hashed) in files.iter().zip(self.hash_all(&paths)?) {
            if let Ok(hashed) = hashed {
                let fact = self.take_hashed(&self.model.artifact(id).path, &hashed, state);
                world.outputs.insert(id, (fact.content, fact.fingerprint));
            }
        }
        Ok(())
    }

    /// Outputs that are not as they were, or writable: what they hold now, read-only from now on. One that is of another
    /// kind or cannot be read counts as absent.
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
                Err(CaptureError::Problems(_) | CaptureError::Disk(_)) => {}
            }
        }
    }
}

/// As many symlinks in a row as the kernel follows.
const MAX_LINKS: usize = 40;

/// The recorded content of a file whose fingerprint is trusted and unchanged.
fn known_file(state: &State, path: &str, seen: &Seen) -> Option<Content> {
    let record = state.file(path)?;
    let [stamp] = record.stamps[..] else { return None };
    (stamp.trusted && stamp.fingerprint == seen.fingerprint).then(|| record.content.clone())
}

/// Where a symlink at `link` with this text leads, if inside the workspace.
fn resolve(link: &WsPath, target: &str) -> Option<WsPath> {
    if target.starts_with('/') {
        return None;
    }
    let mut segments: Vec<&str> = link.parent()?.split('/').filter(|s| !s.is_empty()).collect();
    for segment in target.split('/') {
        match segment {
            "" | "." => {}
            ".." => drop(segments.pop()?),
            other => segments.push(other),
        }
    }
    WsPath::new(&segments.join("/")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn symlinks_resolve_inside_and_leave_outside() {
        let check = |link: &str, target: &str, expected: Option<&str>| {
            let link = WsPath::new(link).expect("valid path");
            assert_eq!(resolve(&link, target).map(|p| p.to_string()).as_deref(), expected, "{link} -> {target}");
        };
        check("a/l", "b", Some("a/b"));
        check("a/l", "../b/./c", Some("b/c"));
        check("l", "b", Some("b"));
        check("l", "../b", None);
        check("a/l", "/etc/passwd", None);
        check("a/l", "..", Some(""));
    }
}
