//! Input roots of actions with many inputs: directories that many actions share are encoded and hashed once.
//!
//! A directory's digest follows from which artifacts lie in it and from the digests of the directories below, so that is
//! what it is remembered by: a few thousand integers are compared where as many names would be sorted, encoded and
//! hashed. It does not know contents change: whoever changes one calls [`RootCache::forget`].

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};

use minibuild_core::{ArtifactId, Content, Digest, DigestFunction, WsPath};
use minibuild_reapi::{InputNode, InputRootError, input_root};
use rustc_hash::{FxHashMap, FxHasher};

/// From this many inputs on looking up beats encoding.
pub const WORTH_CACHING: usize = 64;
/// Ids kept in remembered directories, at most: 4 bytes each.
const MAX_IDS: usize = 8 << 20;

/// Digests of directories by what is in them.
#[derive(Debug, Default)]
pub struct RootCache {
    rows: FxHashMap<String, u32>,
    dirs: Vec<Dir>,
    /// Row of the directory each artifact lies in, once it is known.
    of_artifact: Vec<Option<u32>>,
    known: FxHashMap<u64, Vec<Remembered>>,
    ids: usize,
}

#[derive(Debug)]
struct Dir {
    /// `None` for the root.
    parent: Option<u32>,
    name: String,
    depth: u32,
}

#[derive(Debug)]
struct Remembered {
    dir: u32,
    members: Box<[ArtifactId]>,
    below: Box<[(u32, Digest)]>,
    digest: Digest,
}

/// One artifact of an input root.
pub type Member<'a> = (ArtifactId, &'a WsPath, &'a Content);

/// What lies in a directory of the root at hand.
#[derive(Default)]
struct Contents<'a> {
    members: Vec<Member<'a>>,
    /// Entries that are no artifacts: response files, output directories, what symlinks lead to.
    others: Vec<(&'a str, InputNode<'a>)>,
    below: Vec<(u32, Digest)>,
}

impl RootCache {
    /// Forgets every digest: the content of some artifact is another now.
    pub fn forget(&mut self) {
        self.known.clear();
        self.ids = 0;
    }

    /// Digest of the root `Directory` of these artifacts, each once, and other entries.
    ///
    /// # Errors
    /// Where paths contradict each other.
    pub fn root(
        &mut self,
        members: &[Member<'_>],
        others: &[(&str, InputNode<'_>)],
        function: DigestFunction,
    ) -> Result<Digest, InputRootError> {
        let mut work: BTreeMap<(Reverse<u32>, u32), Contents<'_>> = BTreeMap::new();
        let top = self.row("");
        work.entry((Reverse(0), top)).or_default();
        let mut placed: Vec<(u32, Member<'_>)> = members.iter().map(|&member| (self.row_of(member), member)).collect();
        placed.sort_unstable_by_key(|(row, member)| (*row, member.0));
        for part in placed.chunk_by(|a, b| a.0 == b.0) {
            self.open(part[0].0, &mut work).members.extend(part.iter().map(|(_, member)| *member));
        }
        for &(path, node) in others {
            let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
            let row = self.row(parent);
            self.open(row, &mut work).others.push((name, node));
        }
        let mut digest = function.empty();
        while let Some(((Reverse(depth), row), contents)) = work.pop_first() {
            digest = self.directory(row, &contents, function)?;
            if let Some(parent) = self.dirs[row as usize].parent {
                work.entry((Reverse(depth - 1), parent)).or_default().below.push((row, digest));
            }
        }
        Ok(digest)
    }

    /// The directory's place in the work, with all of its ancestors.
    fn open<'w, 'a>(
        &self,
        row: u32,
        work: &'w mut BTreeMap<(Reverse<u32>, u32), Contents<'a>>,
    ) -> &'w mut Contents<'a> {
        let mut at = self.dirs[row as usize].parent;
        while let Some(parent) = at {
            let dir = &self.dirs[parent as usize];
            work.entry((Reverse(dir.depth), parent)).or_default();
            at = dir.parent;
        }
        work.entry((Reverse(self.dirs[row as usize].depth), row)).or_default()
    }

    fn directory(
        &mut self,
        row: u32,
        contents: &Contents<'_>,
        function: DigestFunction,
    ) -> Result<Digest, InputRootError> {
        let hash = hash_of(row, contents);
        if contents.others.is_empty() {
            let same = |known: &&Remembered| {
                known.dir == row
                    && *known.below == contents.below
                    && known.members.iter().eq(contents.members.iter().map(|(id, ..)| id))
            };
            if let Some(known) = self.known.get(&hash).and_then(|list| list.iter().find(same)) {
                return Ok(known.digest);
            }
        }
        let digest = self.encode(contents, function)?;
        let size = contents.members.len() + contents.below.len();
        if contents.others.is_empty() && self.ids + size <= MAX_IDS {
            self.ids += size;
            let members = contents.members.iter().map(|(id, ..)| *id).collect();
            let remembered = Remembered { dir: row, members, below: contents.below.clone().into(), digest };
            self.known.entry(hash).or_default().push(remembered);
        }
        Ok(digest)
    }

    fn encode(&self, contents: &Contents<'_>, function: DigestFunction) -> Result<Digest, InputRootError> {
        let mut entries: Vec<(&str, InputNode<'_>)> = Vec::new();
        let below =
            contents.below.iter().map(|&(row, root)| (&*self.dirs[row as usize].name, InputNode::Tree { root }));
        let is_below = |name: &str| contents.below.iter().any(|(row, _)| self.dirs[*row as usize].name == name);
        entries.extend(contents.members.iter().map(|(_, path, content)| (path.file_name(), node(content))));
        // An output directory that other entries lie in is no longer empty.
        let is_filled =
            |other: &&(&str, InputNode<'_>)| matches!(other.1, InputNode::EmptyDirectory) && is_below(other.0);
        entries.extend(contents.others.iter().filter(|other| !is_filled(other)));
        entries.extend(below);
        input_root(&mut entries, function, &mut |_, _| {})
    }

    fn row_of(&mut self, (id, path, _): Member<'_>) -> u32 {
        if self.of_artifact.len() <= id.index() {
            self.of_artifact.resize(id.index() + 1, None);
        }
        if let Some(row) = self.of_artifact[id.index()] {
            return row;
        }
        let row = self.row(path.parent().unwrap_or_default());
        self.of_artifact[id.index()] = Some(row);
        row
    }

    /// The row of a directory, made with those of its ancestors where it is new.
    fn row(&mut self, path: &str) -> u32 {
        if let Some(&row) = self.rows.get(path) {
            return row;
        }
        // From the nearest known ancestor down, without recursion.
        let mut parent = None;
        let ends = path.match_indices('/').map(|(at, _)| at).chain([path.len()]);
        for end in [0].into_iter().chain(ends.filter(|&end| end > 0)) {
            let dir = &path[..end];
            let row = match self.rows.get(dir) {
                Some(&row) => row,
                None => self.add(dir, parent),
            };
            parent = Some(row);
        }
        self.rows.get(path).copied().unwrap_or_default()
    }

    fn add(&mut self, path: &str, parent: Option<u32>) -> u32 {
        let row = u32::try_from(self.dirs.len()).expect("fewer than 2^32 directories");
        let depth = parent.map_or(0, |parent| self.dirs[parent as usize].depth + 1);
        let name = path.rsplit_once('/').map_or(path, |(_, name)| name).to_owned();
        self.dirs.push(Dir { parent, name, depth });
        self.rows.insert(path.to_owned(), row);
        row
    }
}

fn hash_of(row: u32, contents: &Contents<'_>) -> u64 {
    let mut hasher = FxHasher::default();
    row.hash(&mut hasher);
    for (id, ..) in &contents.members {
        id.hash(&mut hasher);
    }
    for (below, digest) in &contents.below {
        below.hash(&mut hasher);
        digest.hash[..8].hash(&mut hasher);
    }
    hasher.finish()
}

/// The node that a content is in a directory.
pub(crate) fn node(content: &Content) -> InputNode<'_> {
    match content {
        Content::File { digest, executable } => InputNode::File { digest: *digest, executable: *executable },
        Content::Symlink { target } => InputNode::Symlink { target },
        Content::Directory(tree) => InputNode::Tree { root: tree.root },
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use minibuild_core::TreeMeta;
    use proptest::prelude::*;

    use super::*;

    const SHA: DigestFunction = DigestFunction::Sha256;

    fn content(text: &str) -> Content {
        let digest = SHA.digest(text.as_bytes());
        match text.len() % 4 {
            0 => Content::Symlink { target: text.to_owned() },
            1 => Content::Directory(Arc::new(TreeMeta { root: digest, size: 0, entries: vec![] })),
            n => Content::File { digest, executable: n == 2 },
        }
    }

    fn artifacts(paths: &[String]) -> Vec<(WsPath, Content)> {
        paths.iter().map(|p| (WsPath::new(p).expect("valid path"), content(p))).collect()
    }

    fn members<'a>(artifacts: &'a [(WsPath, Content)], pick: impl Fn(usize) -> bool) -> Vec<Member<'a>> {
        let all = artifacts.iter().enumerate().filter(|(i, _)| pick(*i));
        all.map(|(i, (path, content))| (ArtifactId::new(i), path, content)).collect()
    }

    /// The same root without any cache.
    fn plain(members: &[Member<'_>], others: &[(&str, InputNode<'_>)]) -> Result<Digest, InputRootError> {
        let mut entries: Vec<_> = members.iter().map(|(_, path, content)| (path.as_str(), node(content))).collect();
        entries.extend(others);
        input_root(&mut entries, SHA, &mut |_, _| {})
    }

    #[test]
    fn a_directory_with_the_same_members_is_hashed_once() {
        let paths: Vec<String> = (0..100).map(|i| format!("include/d{}/h{i}.h", i % 7)).collect();
        let artifacts = artifacts(&paths);
        let mut cache = RootCache::default();
        let all = members(&artifacts, |_| true);
        let first = cache.root(&all, &[], SHA);
        let remembered = cache.ids;
        assert_eq!(first, plain(&all, &[]));
        let mut reversed = all.clone();
        reversed.reverse();
        assert_eq!(cache.root(&reversed, &[], SHA), first);
        assert_eq!(cache.ids, remembered, "nothing new was encoded");
        cache.forget();
        assert_eq!(cache.root(&all, &[], SHA), first);
    }

    #[test]
    fn forgetting_is_needed_and_enough_after_a_change() {
        let mut artifacts = artifacts(&["a/x.h".to_owned(), "b/y.h".to_owned()]);
        let mut cache = RootCache::default();
        let before = cache.root(&members(&artifacts, |_| true), &[], SHA);
        artifacts[0].1 = content("another content");
        cache.forget();
        let after = cache.root(&members(&artifacts, |_| true), &[], SHA);
        assert_ne!(before, after);
        assert_eq!(after, plain(&members(&artifacts, |_| true), &[]));
    }

    #[test]
    fn contradictions_are_found() {
        let artifacts = artifacts(&["a/bbb".to_owned(), "a/bbb/c".to_owned()]);
        assert!(RootCache::default().root(&members(&artifacts, |_| true), &[], SHA).is_err());
        let file = InputNode::File { digest: SHA.digest(b"other"), executable: false };
        let one = members(&artifacts, |i| i == 0);
        assert!(RootCache::default().root(&one, &[("a/bbb", file)], SHA).is_err());
    }

    #[test]
    fn nothing_is_the_empty_directory() {
        assert_eq!(RootCache::default().root(&[], &[], SHA), Ok(SHA.empty()));
        let others = [("o/d", InputNode::EmptyDirectory), ("o/d/x", InputNode::EmptyDirectory)];
        assert_eq!(RootCache::default().root(&[], &others, SHA), plain(&[], &others));
    }

    proptest! {
        #[test]
        fn any_sequence_of_roots_equals_the_plain_way(
            names in proptest::collection::btree_set("[a-c]{1,2}(/[a-c]{1,2}){0,3}", 1..16),
            picks in proptest::collection::vec(any::<u16>(), 1..6),
            directory in "[a-c](/[a-c]){0,2}",
        ) {
            let is_prefix = |n: &String| names.iter().any(|m| m.starts_with(&format!("{n}/")));
            let paths: Vec<String> = names.iter().filter(|n| !is_prefix(n)).cloned().collect();
            let artifacts = artifacts(&paths);
            let clashes = paths.iter().any(|p| directory.starts_with(&format!("{p}/")) || *p == directory);
            let others = if clashes { vec![] } else { vec![(directory.as_str(), InputNode::EmptyDirectory)] };
            let mut cache = RootCache::default();
            for pick in picks {
                let chosen = members(&artifacts, |i| pick >> (i % 16) & 1 == 1);
                prop_assert_eq!(cache.root(&chosen, &others, SHA), plain(&chosen, &others));
                prop_assert_eq!(cache.root(&chosen, &[], SHA), plain(&chosen, &[]));
            }
        }
    }
}
