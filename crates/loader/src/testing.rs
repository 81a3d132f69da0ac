//! A source tree in memory, for the tests of this crate. Stricter than a disk: it refuses paths that are not normal.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use minibuild_core::{DirEntry, EntryKind, SourceFs, WsPath};

/// A tree of files.
#[derive(Default)]
pub struct MemoryFs {
    files: BTreeMap<String, Vec<u8>>,
    links: BTreeMap<String, String>,
    bad_names: Vec<(String, String, EntryKind)>,
}

impl MemoryFs {
    /// Files with their contents.
    pub fn new(files: &[(&str, &str)]) -> Self {
        let mut fs = Self::default();
        for (path, text) in files {
            fs.file(path, text.as_bytes());
        }
        fs
    }

    /// Adds a file.
    pub fn file(&mut self, path: &str, bytes: &[u8]) {
        assert!(WsPath::new(path).is_ok_and(|p| !p.as_str().is_empty()), "{path}");
        self.files.insert(path.to_owned(), bytes.to_vec());
    }

    /// Adds a symlink.
    pub fn link(&mut self, path: &str, target: &str) {
        self.links.insert(path.to_owned(), target.to_owned());
    }

    /// Adds a file or an empty directory whose name is not UTF-8, given as it would be shown.
    pub fn bad_name(&mut self, dir: &str, lossy: &str, kind: EntryKind) {
        self.bad_names.push((dir.to_owned(), lossy.to_owned(), kind));
    }

    fn all(&self) -> impl Iterator<Item = (&str, EntryKind)> {
        let files = self.files.keys().map(|p| (p.as_str(), EntryKind::File));
        files.chain(self.links.keys().map(|p| (p.as_str(), EntryKind::Symlink)))
    }
}

impl SourceFs for MemoryFs {
    fn read(&self, path: &str) -> io::Result<Vec<u8>> {
        assert!(WsPath::new(path).is_ok(), "read of {path:?}");
        self.files.get(path).cloned().ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
    }

    fn list_dir(&self, path: &str) -> io::Result<Arc<[DirEntry]>> {
        assert!(WsPath::new(path).is_ok(), "list of {path:?}");
        let mut entries: BTreeMap<Result<String, String>, EntryKind> = BTreeMap::new();
        for (file, kind) in self.all() {
            let rest =
                if path.is_empty() { Some(file) } else { file.strip_prefix(path).and_then(|r| r.strip_prefix('/')) };
            match rest.map(|r| r.split_once('/')) {
                Some(Some((dir, _))) => entries.insert(Ok(dir.to_owned()), EntryKind::Directory),
                Some(None) => entries.insert(Ok(rest.unwrap_or_default().to_owned()), kind),
                None => None,
            };
        }
        for (_, lossy, kind) in self.bad_names.iter().filter(|(dir, ..)| dir == path) {
            entries.insert(Err(lossy.clone()), *kind);
        }
        if entries.is_empty() && !path.is_empty() {
            return Err(io::ErrorKind::NotFound.into());
        }
        Ok(entries.into_iter().map(|(name, kind)| DirEntry { name, kind }).collect())
    }

    fn kind(&self, path: &str) -> io::Result<Option<EntryKind>> {
        assert!(WsPath::new(path).is_ok(), "kind of {path:?}");
        if let Some((_, kind)) = self.all().find(|(p, _)| *p == path) {
            return Ok(Some(kind));
        }
        Ok(self.list_dir(path).is_ok().then_some(EntryKind::Directory))
    }

    fn kind_behind(&self, path: &str) -> Option<EntryKind> {
        let path = self.links.get(path).map_or(path, String::as_str);
        if self.files.contains_key(path) {
            return Some(EntryKind::File);
        }
        self.list_dir(path).is_ok().then_some(EntryKind::Directory)
    }

    fn walk(
        &self,
        start: &str,
        names: &[&str],
        barrier: &str,
        enter: &(dyn Fn(&str) -> bool + Sync),
    ) -> Vec<(String, io::Result<Arc<[DirEntry]>>)> {
        let mut found = Vec::new();
        let mut pending = vec![start.to_owned()];
        while let Some(dir) = pending.pop() {
            if !enter(&dir) {
                continue;
            }
            let entries = self.list_dir(&dir);
            let is_barrier = |e: &DirEntry| e.kind != EntryKind::Directory && e.name.as_deref() == Ok(barrier);
            if dir != start && entries.iter().flat_map(|e| e.iter()).any(is_barrier) {
                continue;
            }
            for entry in entries.iter().flat_map(|e| e.iter()).filter(|e| e.kind == EntryKind::Directory) {
                if let Ok(name) = &entry.name {
                    pending.push(crate::source_tree::join(&dir, name));
                }
            }
            let is_asked = |e: &&DirEntry| {
                e.kind == EntryKind::Directory || e.name.as_deref().is_ok_and(|name| names.contains(&name))
            };
            found.push((dir, entries.map(|entries| entries.iter().filter(is_asked).cloned().collect())));
        }
        found.sort_by(|a, b| a.0.cmp(&b.0));
        found
    }
}
