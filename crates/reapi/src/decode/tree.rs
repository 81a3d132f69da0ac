//! `Tree` messages: a whole directory in one blob.

use std::collections::HashMap;

use minibuild_core::{Digest, DigestFunction, TreeEntry, TreeNode, WsPath};

use prost::Message as _;

use super::{Directory, PathBudget, directory};
use crate::{DecodeError, Flaw, shape};

const WHAT: &str = "Tree";

/// How much of a tree is believed. A few kilobytes can name each other so often that the tree has no end.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Levels of directories.
    pub depth: usize,
    /// Entries of all directories, each counted as often as it is there.
    pub entries: usize,
    /// Bytes of all paths together: levels and entries alone leave room for hundreds of gigabytes.
    pub paths: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { depth: 200, entries: 2_000_000, paths: PathBudget::MOST }
    }
}

/// What a tree holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TreeContent {
    /// Every file, symlink and *empty* directory, sorted by path.
    pub entries: Vec<TreeEntry>,
    /// Sum of the sizes of all files.
    pub size: u64,
    /// Digest of the root `Directory` as the sender wrote it.
    pub root: Digest,
}

/// The same message with its directories left as they are, since their digests are of the sender's bytes.
#[derive(Clone, PartialEq, prost::Message)]
struct RawTree {
    #[prost(bytes = "vec", optional, tag = "1")]
    root: Option<Vec<u8>>,
    #[prost(bytes = "vec", repeated, tag = "2")]
    children: Vec<Vec<u8>>,
}

/// Reads a `Tree` blob. Children may come in any order, twice, or unreferenced; all that are referenced must be there.
///
/// # Errors
/// A [`DecodeError`] where it is none, a directory is not as it has to be, or it is larger than `limits`.
pub fn tree(bytes: &[u8], function: DigestFunction, limits: Limits) -> Result<TreeContent, DecodeError> {
    shape::check_shape(WHAT, bytes, &shape::TREE)?;
    let raw = RawTree::decode(bytes).map_err(|e| DecodeError::new(WHAT, "", Flaw::NotProtobuf(e.to_string())))?;
    if raw.root.is_none() && !raw.children.is_empty() {
        return Err(DecodeError::new("Tree", "", Flaw::Missing("root")));
    }
    tree_of_directories(&raw.root.unwrap_or_default(), &raw.children, function, limits)
}

/// The same of `Directory` blobs that came one by one: the root, and whatever it names, in any order.
///
/// # Errors
/// As [`tree`].
pub fn tree_of_directories(
    root: &[u8],
    children: &[impl AsRef<[u8]>],
    function: DigestFunction,
    limits: Limits,
) -> Result<TreeContent, DecodeError> {
    if children.len() > limits.entries {
        return Err(too_large("", format!("{} directories", limits.entries)));
    }
    // It grows with those that differ: how many there are is the sender's word.
    let mut known = HashMap::new();
    for child in children {
        known.insert(function.digest(child.as_ref()), directory(child.as_ref(), function)?);
    }
    let digest = function.digest(root);
    let root = directory(root, function)?;
    let mut walk = Walk {
        known: &known,
        limits,
        paths: PathBudget::of(limits.paths),
        empty: function.empty(),
        seen: 0,
        size: 0,
        entries: Vec::new(),
    };
    walk.directory(&root, "", 0)?;
    let mut entries = walk.entries;
    entries.sort_unstable_by(|a, b| a.path.cmp(&b.path));
    Ok(TreeContent { entries, size: walk.size, root: digest })
}

struct Walk<'a> {
    known: &'a HashMap<Digest, Directory>,
    limits: Limits,
    paths: PathBudget,
    empty: Digest,
    seen: usize,
    size: u64,
    entries: Vec<TreeEntry>,
}

impl Walk<'_> {
    /// The recursion is no deeper than the limit.
    fn directory(&mut self, directory: &Directory, at: &str, depth: usize) -> Result<(), DecodeError> {
        self.seen = self.seen.saturating_add(directory.len());
        if self.seen > self.limits.entries {
            return Err(too_large(at, format!("{} entries", self.limits.entries)));
        }
        if depth > self.limits.depth {
            return Err(too_large(at, format!("{} levels", self.limits.depth)));
        }
        if directory.is_empty() && depth > 0 {
            self.push(at, "", TreeNode::EmptyDirectory)?;
        }
        for file in &directory.files {
            let total = self.size.checked_add(file.digest.size);
            self.size = total.ok_or_else(|| too_large(at, format!("{} bytes", u64::MAX)))?;
            self.push(at, &file.name, TreeNode::File { digest: file.digest, executable: file.executable })?;
        }
        for (name, target) in &directory.symlinks {
            self.push(at, name, TreeNode::Symlink { target: target.clone() })?;
        }
        for (name, digest) in &directory.directories {
            let empty = Directory::default();
            let child = match self.known.get(digest) {
                Some(child) => child,
                None if *digest == self.empty => &empty,
                None => {
                    return Err(DecodeError::new(WHAT, super::short(&format!("{at}/{name}")), Flaw::Absent(*digest)));
                }
            };
            let below = self.join(at, name)?;
            self.directory(child, &below, depth + 1)?;
        }
        Ok(())
    }

    fn push(&mut self, at: &str, name: &str, node: TreeNode) -> Result<(), DecodeError> {
        let path = super::path(WHAT, &if name.is_empty() { at.to_owned() } else { self.join(at, name)? })?;
        debug_assert!(path != WsPath::root(), "names are not empty");
        self.entries.push(TreeEntry { path, node });
        Ok(())
    }

    fn join(&mut self, at: &str, name: &str) -> Result<String, DecodeError> {
        self.paths.join(at, name).map_err(|flaw| DecodeError::new(WHAT, super::short(at), flaw))
    }
}

fn too_large(at: &str, what: String) -> DecodeError {
    DecodeError::new(WHAT, super::short(at), Flaw::TooLarge(what))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::Message as _;

    use super::*;
    use crate::decode::digest_message;
    use crate::proto::execution as proto;

    const F: DigestFunction = DigestFunction::Sha256;

    fn node(name: &str, child: &proto::Directory) -> proto::DirectoryNode {
        let digest = Some(digest_message(&F.digest(&child.encode_to_vec())));
        proto::DirectoryNode { name: name.to_owned(), digest }
    }

    fn file(name: &str, size: i64) -> proto::FileNode {
        let digest = Some(proto::Digest { hash: F.digest(name.as_bytes()).hex(), size_bytes: size });
        proto::FileNode { name: name.to_owned(), digest, ..Default::default() }
    }

    fn read(root: proto::Directory, children: Vec<proto::Directory>) -> Result<TreeContent, DecodeError> {
        let limits = Limits { depth: 10, entries: 1000, ..Limits::default() };
        tree(&proto::Tree { root: Some(root), children }.encode_to_vec(), F, limits)
    }

    #[test]
    fn a_tree_is_its_leaves_in_order() {
        let inner = proto::Directory { files: vec![file("f", 7)], ..Default::default() };
        let root = proto::Directory {
            files: vec![file("z", 5)],
            directories: vec![node("d", &inner), node("e", &proto::Directory::default()), node("g", &inner)],
            symlinks: vec![proto::SymlinkNode { name: "l".into(), target: "../z".into(), node_properties: None }],
            node_properties: None,
        };
        // An unreferenced child, one twice, and the empty one left out, as real servers do.
        let children = vec![proto::Directory { files: vec![file("x", 1)], ..Default::default() }, inner.clone(), inner];
        let got = read(root.clone(), children).expect("decodes");
        let paths: Vec<&str> = got.entries.iter().map(|e| e.path.as_str()).collect();
        assert_eq!(paths, ["d/f", "e", "g/f", "l", "z"]);
        assert_eq!(got.size, 7 + 7 + 5);
        assert_eq!(got.root, F.digest(&root.encode_to_vec()));
        assert_eq!(got.entries[1].node, TreeNode::EmptyDirectory);
    }

    #[test]
    fn trees_that_are_refused() {
        let check = |root, children, part: &str| {
            let got = read(root, children);
            assert!(got.clone().is_err_and(|e| e.to_string().contains(part)), "{got:?} lacks {part}");
        };
        let of = |directories| proto::Directory { directories, ..Default::default() };
        let lone = proto::Directory { files: vec![file("f", 1)], ..Default::default() };
        check(of(vec![node("d", &lone)]), vec![], "is not in it");
        // Twice as large with each level, in a few bytes.
        let mut levels = vec![lone.clone()];
        for _ in 0..9 {
            let last = levels.last().expect("one at least");
            levels.push(of((0..4).map(|i| node(&format!("{i}"), last)).collect()));
        }
        check(levels.pop().expect("ten"), levels, "1000 entries");
        let mut levels = vec![lone];
        for _ in 0..12 {
            let last = levels.last().expect("one at least");
            levels.push(of(vec![node("d", last)]));
        }
        check(levels.pop().expect("twelve"), levels, "10 levels");
        let huge = |names: [&str; 3]| names.iter().map(|name| file(name, i64::MAX)).collect();
        let root = proto::Directory { files: huge(["a", "b", "c"]), ..Default::default() };
        check(root, vec![], "bytes");
        let evil = proto::Directory { files: vec![file("..", 1)], ..Default::default() };
        check(evil.clone(), vec![], "no name");
        check(proto::Directory::default(), vec![evil], "no name");
    }

    /// A directory below `depth` directories with the longest names there are.
    fn deep(inner: proto::Directory, depth: usize) -> (proto::Directory, Vec<proto::Directory>) {
        let name = "n".repeat(255);
        let mut levels = vec![inner];
        for _ in 0..depth {
            let directories = vec![node(&name, levels.last().expect("one at least"))];
            levels.push(proto::Directory { directories, ..Default::default() });
        }
        (levels.pop().expect("the top"), levels)
    }

    #[test]
    fn paths_no_system_takes_are_refused() {
        let read =
            |(root, children), limits| tree(&proto::Tree { root: Some(root), children }.encode_to_vec(), F, limits);
        let lone = proto::Directory { files: vec![file("f", 1)], ..Default::default() };
        let got = read(deep(lone.clone(), 15), Limits::default()).expect("15 names and a file");
        assert_eq!(got.entries[0].path.as_str().len(), 15 * 256 + 1);
        for (inner, depth) in [(lone, 16), (proto::Directory::default(), 17)] {
            let got = read(deep(inner, depth), Limits::default()).map(|tree| tree.entries.len());
            assert!(got.clone().is_err_and(|e| e.to_string().contains("4095 bytes in a path")), "{got:?}");
        }
    }

    #[test]
    fn all_paths_together_are_bounded() {
        // Twice as many paths with each level, in 80 bytes.
        let mut levels = vec![proto::Directory { files: vec![file("f", 1)], ..Default::default() }];
        for _ in 0..12 {
            let last = levels.last().expect("one at least");
            let directories = vec![node("a", last), node("b", last)];
            levels.push(proto::Directory { directories, ..Default::default() });
        }
        let (root, mut children) = deep(levels.pop().expect("the top"), 14);
        children.extend(levels);
        let bytes = proto::Tree { root: Some(root), children }.encode_to_vec();
        let limits = Limits { paths: 8 << 20, ..Limits::default() };
        let got = tree(&bytes, F, limits).map(|tree| tree.entries.len());
        assert!(got.clone().is_err_and(|e| e.to_string().contains("8388608 bytes of paths")), "{got:?}");
        assert_eq!(tree(&bytes, F, Limits::default()).map(|tree| tree.entries.len()), Ok(4096));
    }

    #[test]
    fn a_tree_of_many_empty_directories_is_refused_unread() {
        let bytes = [0x12, 0].repeat(4 << 20);
        let got = tree(&bytes, F, Limits::default());
        assert!(got.is_err_and(|e| e.to_string().contains("more than the memory")));
    }

    #[test]
    fn a_tree_that_lost_its_root_is_empty() {
        let got = tree(&[], F, Limits::default()).expect("decodes");
        assert_eq!((got.entries.len(), got.size, got.root), (0, 0, F.empty()));
        let headless = proto::Tree { root: None, children: vec![proto::Directory::default()] };
        assert!(tree(&headless.encode_to_vec(), F, Limits::default()).is_err(), "it lost more than nothing");
    }

    proptest! {
        #[test]
        fn any_bytes_are_an_answer(bytes: Vec<u8>) {
            let _ = tree(&bytes, F, Limits::default());
        }
    }
}
