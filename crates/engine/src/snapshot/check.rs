//! One pass over everything a snapshot depends on: what is not as it was?

use std::path::Path;

use minibuild_core::{ArtifactKind, Content, DigestFunction, EntryKind, HostTool, WsPath, map_parallel};
use minibuild_disk::{DiskFs, FileClock, FsInstant, HashedFile, Look, Seen, hash_file, stat_filter, tree_is_unchanged};
use minibuild_download::Wishes;

use super::rows::{EXECUTABLE, EXTRA, NONE, PRESENT, PrintRow, TRUSTED, UNKNOWN, is_executable, kind_of};
use super::{Doubt, Snapshot};
use crate::tools;

/// What a check needs to know.
pub struct Question<'a> {
    /// The workspace root.
    pub root: &'a Path,
    /// The workspace as the loader would see it.
    pub files: &'a DiskFs,
    /// The file system's clock.
    pub clock: &'a dyn FileClock,
    /// Of all digests.
    pub function: DigestFunction,
    /// Threads that look.
    pub threads: usize,
    /// What is wanted on disk now.
    pub wishes: &'a Wishes,
}

/// What is not as it was.
#[derive(Default)]
pub struct Changes {
    /// Sources with other content.
    pub(super) sources: Vec<u32>,
    /// Actions to be looked at: something is not as they left it, or wanted and absent.
    pub(super) actions: Vec<u32>,
    /// Files that are the same under another fingerprint.
    pub(super) prints: Vec<(u32, PrintRow)>,
    /// Looks that are the same under another fingerprint.
    pub(super) looks: Vec<(u32, Look)>,
}

impl Changes {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.sources.is_empty() && self.actions.is_empty()
    }
}

impl Snapshot {
    /// Looks at everything.
    ///
    /// # Errors
    /// Why the full way has to be gone.
    pub fn check(&self, question: &Question<'_>) -> Result<Changes, Doubt> {
        if let Some(path) = &self.stranger {
            return Err(Doubt::Stranger(path.clone()));
        }
        let mut changes = Changes { looks: self.check_looks(question.files)?, ..Default::default() };
        self.check_tools(question.root)?;
        let suspects = self.suspects(question);
        // What reads them has to be able to trust what it reads: nothing is hashed before the clock was read.
        self.examine(&suspects, question, &mut changes)?;
        let dirty = self.dirty.iter().enumerate().filter(|(_, dirty)| **dirty != 0);
        changes.actions.extend(dirty.map(|(action, _)| action as u32));
        self.add_wanted(question.wishes, &mut changes)?;
        changes.actions.sort_unstable();
        changes.actions.dedup();
        Ok(changes)
    }

    fn check_looks(&self, files: &DiskFs) -> Result<Vec<(u32, Look)>, Doubt> {
        let mut fresh = Vec::new();
        for (index, look) in self.head.looks.iter().enumerate() {
            let now = files.ask_again(look).ok_or_else(|| Doubt::Loading(look.path.clone()))?;
            if now != *look {
                fresh.push((index as u32, now));
            }
        }
        Ok(fresh)
    }

    fn check_tools(&self, root: &Path) -> Result<(), Doubt> {
        for row in &self.head.tools {
            let Some(before) = &row.trace else { continue };
            let tool = HostTool {
                program: row.program.as_str().into(),
                version_args: row.version_args.iter().map(|argument| argument.as_str().into()).collect(),
            };
            if tools::trace(&tool, &self.head.env, root) != *before {
                return Err(Doubt::Tool(row.program.clone()));
            }
        }
        Ok(())
    }

    /// Artifacts that are not surely as they were.
    fn suspects(&self, question: &Question<'_>) -> Vec<(u32, Option<Seen>)> {
        let is_same = |index: usize, seen: &Option<Seen>| {
            let flags = self.flags[index];
            match seen {
                // Where nothing is known an action has to be looked at anyhow.
                _ if flags & UNKNOWN != 0 => true,
                None => flags & PRESENT == 0,
                Some(_) if flags & PRESENT == 0 => false,
                Some(seen) => flags & TRUSTED != 0 && flags & EXTRA == 0 && seen.fingerprint == self.print(index),
            }
        };
        let keep = |index: usize, seen: Option<Seen>| (!is_same(index, &seen)).then_some((index as u32, seen));
        stat_filter(question.root, self.flags.len(), |index| self.paths.get(index), question.threads, keep)
    }

    fn examine(
        &self,
        suspects: &[(u32, Option<Seen>)],
        question: &Question<'_>,
        changes: &mut Changes,
    ) -> Result<(), Doubt> {
        if suspects.is_empty() {
            return Ok(());
        }
        let now = question.clock.now().map_err(|e| Doubt::Disk(e.render()))?;
        let mut to_hash = Vec::new();
        for (index, seen) in suspects {
            match self.glance(*index as usize, seen.as_ref(), question)? {
                Glance::Hash => to_hash.push(*index),
                Glance::Same => {}
                Glance::Changed => changes.actions.push(self.producer(*index as usize)?),
            }
        }
        for (index, hashed) in to_hash.iter().zip(self.hash(&to_hash, question, now)) {
            self.compare(*index, hashed, changes)?;
        }
        Ok(())
    }

    /// What can be said of a suspect without reading it.
    fn glance(&self, index: usize, seen: Option<&Seen>, question: &Question<'_>) -> Result<Glance, Doubt> {
        let flags = self.flags[index];
        let is_here = flags & PRESENT != 0;
        match (kind_of(flags), seen) {
            (ArtifactKind::Source, Some(seen)) if seen.kind == EntryKind::File => Ok(Glance::Hash),
            (ArtifactKind::Source, _) => Err(Doubt::Source(self.paths.get(index).to_owned())),
            (ArtifactKind::File, Some(seen))
                if is_here && seen.kind == EntryKind::File && seen.fingerprint.mode & 0o222 == 0 =>
            {
                Ok(Glance::Hash)
            }
            (ArtifactKind::Directory, Some(_)) if is_here => {
                let extra = self.extra(index)?;
                let path = WsPath::new(self.paths.get(index)).map_err(|_| Doubt::Damaged)?;
                let Content::Directory(tree) = &extra.content else { return Err(Doubt::Damaged) };
                let is_same = tree_is_unchanged(question.root, &path, tree, &extra.stamps);
                Ok(if is_same { Glance::Same } else { Glance::Changed })
            }
            (ArtifactKind::Symlink, Some(seen)) if is_here => {
                let is_same = flags & TRUSTED != 0 && seen.fingerprint == self.print(index);
                Ok(if is_same { Glance::Same } else { Glance::Changed })
            }
            _ => Ok(Glance::Changed),
        }
    }

    /// Hashes files on several threads, in the order given.
    fn hash(&self, ids: &[u32], question: &Question<'_>, now: FsInstant) -> Vec<std::io::Result<HashedFile>> {
        let hash = |&id: &u32| {
            let path = question.root.join(self.paths.get(id as usize));
            hash_file(rustix::fs::CWD, path, question.function, now)
        };
        let threads = question.threads.min(ids.len() / 8 + 1);
        if threads < 2 {
            return ids.iter().map(hash).collect();
        }
        let parts = ids.chunks(ids.len().div_ceil(threads)).collect();
        let hash_part = |part: &[u32]| part.iter().map(hash).collect::<Vec<_>>();
        map_parallel(parts, threads, hash_part).into_iter().flatten().collect()
    }

    fn compare(&self, id: u32, hashed: std::io::Result<HashedFile>, changes: &mut Changes) -> Result<(), Doubt> {
        let index = id as usize;
        let is_source = kind_of(self.flags[index]) == ArtifactKind::Source;
        let hashed = match hashed {
            Ok(hashed) => hashed,
            Err(_) if is_source => return Err(Doubt::Source(self.paths.get(index).to_owned())),
            Err(_) => {
                changes.actions.push(self.producer(index)?);
                return Ok(());
            }
        };
        let before = self.digest(index)?;
        if hashed.digest == before && hashed.executable() == is_executable(self.flags[index]) {
            let flags = self.flags[index];
            let mut seen = PrintRow::new(kind_of(flags), hashed.stamp.fingerprint, Some(&[hashed.stamp]));
            seen.flags |= flags & EXECUTABLE;
            changes.prints.push((id, seen));
        } else if is_source {
            changes.sources.push(id);
        } else {
            changes.actions.push(self.producer(index)?);
        }
        Ok(())
    }

    fn producer(&self, index: usize) -> Result<u32, Doubt> {
        self.graph()?.producers.get(index).copied().filter(|&action| action != NONE).ok_or(Doubt::Damaged)
    }

    /// Actions whose outputs are wanted here by now and are not here.
    fn add_wanted(&self, wishes: &Wishes, changes: &mut Changes) -> Result<(), Doubt> {
        let is_absent = |flags: u8| flags & (PRESENT | UNKNOWN) == 0 && kind_of(flags) != ArtifactKind::Source;
        if !self.flags.iter().any(|&flags| is_absent(flags)) {
            return Ok(());
        }
        let mut is_toplevel = vec![false; self.flags.len()];
        let goals = self.goals()?;
        for &id in (0..goals.items.len()).flat_map(|goal| goals.items.get(goal)) {
            is_toplevel[id as usize] = true;
        }
        for (index, &flags) in self.flags.iter().enumerate().filter(|(_, flags)| is_absent(**flags)) {
            let path = WsPath::new(self.paths.get(index)).map_err(|_| Doubt::Damaged)?;
            if wishes.reason(&path, is_toplevel[index]).is_some() {
                changes.actions.push(self.producer(index)?);
            } else if wishes.has_expressions() && kind_of(flags) == ArtifactKind::Directory {
                return Err(Doubt::Request("an expression may mean files of a directory that is not here"));
            }
        }
        Ok(())
    }
}

enum Glance {
    Same,
    Hash,
    Changed,
}
