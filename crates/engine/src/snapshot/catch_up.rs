//! What other builds recorded in the state since a snapshot was written: builds of other requests, or ones that were
//! killed. An action they recorded something of is looked at again; of files only the places of records change, since what
//! lies there is looked at anyhow. Outputs of loaded packages that were not declared may have to be removed: only a load can tell.

use std::path::Path;

use minibuild_core::{BIN_ROOT, BUILD_FILE, DigestFunction, TEST_LOG_ROOT, WORKSPACE_FILE};
use rustc_hash::{FxHashMap, FxHashSet};

use super::report::test_log;
use super::rows::{ActionRow, ArtifactRow, EXTRA, NONE};
use super::tables::{Texts, place};
use super::tail::Update;
use super::{Doubt, Snapshot};
use crate::state::Index;

impl Snapshot {
    /// Takes over what was added to the state.
    pub(super) fn catch_up(&mut self, root: &Path, function: DigestFunction) -> Result<(), Doubt> {
        let caught_up = self.head.mark.catch_up(&self.state_dir, function);
        let (index, mark) = caught_up.map_err(|e| Doubt::Disk(e.to_string()))?.ok_or(Doubt::OtherState)?;
        if index.has_boot {
            return Err(Doubt::OtherState);
        }
        let mut update = Update::new(self.sections.fingerprint(), mark);
        update.common = index.common.clone();
        let tests = self.tests_by_log(&index)?;
        // Paths of which something was recorded, and that are none of the snapshot's.
        let mut unknown: Vec<&str> = Vec::new();
        for (path, record_at) in newest(&index.actions, &index.forgotten_actions) {
            match self.action_of(path, &tests)? {
                Some(action) => update.actions.push((action, self.to_look_at(action, path, record_at)?)),
                None => unknown.extend((record_at != 0).then_some(path)),
            }
        }
        for (path, file_at) in newest(&index.files, &index.forgotten_files) {
            match self.find(path) {
                Some(artifact) => {
                    update.artifacts.push((artifact as u32, ArtifactRow { file_at, ..self.row(artifact)? }));
                }
                None => unknown.extend((file_at != 0).then_some(path)),
            }
        }
        let begun = index.begun.values().flat_map(|begun| &begun.paths);
        unknown.extend(begun.map(String::as_str).filter(|path| self.find(path).is_none()));
        let mut packages = Packages { root, of: self.head.packages.iter().map(|path| (path.as_str(), true)).collect() };
        unknown.retain(|path| packages.is_of_loaded(path));
        let unwanted = if unknown.is_empty() { None } else { Some(self.unwanted()?) };
        let unwanted: FxHashSet<&str> = unwanted.iter().flat_map(Texts::iter).collect();
        let is_stranger = |path: &&str| !unwanted.contains(path);
        update.stranger = unknown.into_iter().find(is_stranger).map(str::to_owned);
        self.apply(update.clone()).ok_or(Doubt::Damaged)?;
        self.caught_up = Some(update);
        Ok(())
    }

    /// Tests by the paths of their logs, where the index has any.
    fn tests_by_log(&self, index: &Index) -> Result<FxHashMap<String, u32>, Doubt> {
        let mut names = index.actions.keys().chain(&index.forgotten_actions);
        if !names.any(|path| path.starts_with(TEST_LOG_ROOT)) {
            return Ok(FxHashMap::default());
        }
        let tests = self.tests()?.into_iter();
        Ok(tests.map(|(label, action)| (test_log(label), action)).collect())
    }

    /// The action that has this key path or makes what lies there.
    fn action_of(&self, path: &str, tests: &FxHashMap<String, u32>) -> Result<Option<u32>, Doubt> {
        if let Some(&test) = tests.get(path) {
            return Ok(Some(test));
        }
        let Some(artifact) = self.find(path) else { return Ok(None) };
        Ok(self.graph()?.producers.get(artifact).copied().filter(|&action| action != NONE))
    }

    fn to_look_at(&self, action: u32, path: &str, record_at: u64) -> Result<ActionRow, Doubt> {
        let first = self.graph()?.outputs.get(action as usize).first();
        let is_its_name = first.is_none_or(|&output| self.paths.get(output as usize) == path);
        let record_at = if is_its_name { record_at } else { self.record_at(action as usize)? };
        Ok(ActionRow { record_at, is_dirty: true })
    }

    /// The artifact of this path.
    pub(super) fn find(&self, path: &str) -> Option<usize> {
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

/// Directories that are packages, and whether they were loaded.
struct Packages<'a> {
    root: &'a Path,
    of: FxHashMap<&'a str, bool>,
}

impl<'a> Packages<'a> {
    /// Whether a path is that of an output of a loaded package.
    fn is_of_loaded(&mut self, path: &'a str) -> bool {
        let Some(mut above) = path.strip_prefix(BIN_ROOT).and_then(|path| path.strip_prefix('/')) else { return false };
        // The nearest package so far that was not loaded: none of this workspace if it lies in a nested one.
        let mut other = None;
        while !above.is_empty() {
            above = above.rsplit_once('/').map_or("", |(parent, _)| parent);
            let has = |name| self.root.join(above).join(name).exists();
            if !above.is_empty() && has(WORKSPACE_FILE) {
                other = None;
            } else if let Some(&is_loaded) = self.of.get(above) {
                return is_loaded && other.is_none();
            } else if other.is_none() && has(BUILD_FILE) {
                other = Some(above);
            }
        }
        self.of.extend(other.map(|package| (package, false)));
        false
    }
}

/// Places of what was recorded, and of what was forgotten and not recorded again.
fn newest<'a>(recorded: &'a FxHashMap<String, u64>, forgotten: &'a [String]) -> impl Iterator<Item = (&'a str, u64)> {
    let gone = forgotten.iter().filter(|path| !recorded.contains_key(*path));
    recorded.iter().map(|(path, &at)| (path.as_str(), at)).chain(gone.map(|path| (path.as_str(), 0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_output_is_of_the_nearest_package_above_it() {
        let dir = tempfile::tempdir().expect("temporary directory");
        std::fs::create_dir_all(dir.path().join("a/b/c")).expect("makes");
        std::fs::write(dir.path().join("a/b").join(BUILD_FILE), "").expect("writes");
        let check = |path: &str, loaded: &[&'static str], expected: bool| {
            let of = loaded.iter().map(|path| (*path, true)).collect();
            let mut packages = Packages { root: dir.path(), of };
            for _ in 0..2 {
                assert_eq!(packages.is_of_loaded(path), expected, "{path} {loaded:?}");
            }
        };
        check("minibuild-out/bin/a/b/x", &["a/b"], true);
        check("minibuild-out/bin/a/b/c/x", &["a", "a/b"], true);
        check("minibuild-out/bin/a/b/c/x", &["a", ""], false);
        check("minibuild-out/bin/a/x", &["a"], true);
        check("minibuild-out/bin/a/x", &["", "a/b"], true);
        check("minibuild-out/bin/x", &[""], true);
        check("minibuild-out/bin/x", &["a"], false);
        check("minibuild-out/binary/x", &[""], false);
        check("a/x", &["a", ""], false);
        std::fs::write(dir.path().join("a/b").join(WORKSPACE_FILE), "").expect("writes");
        let of = [("", true)].into_iter().collect();
        let mut packages = Packages { root: dir.path(), of };
        assert!(packages.is_of_loaded("minibuild-out/bin/a/b/c/x"), "`a/b` is a package of another workspace");
    }
}
