//! Where the symlinks of a result lead, found out without a disk.
//!
//! The rules are those of outputs made here: a link in a tree leads to something in that tree, and a symlink where a
//! file was declared stands for the file it leads to. It does not know who made the links.

use std::collections::{BTreeMap, BTreeSet};

use minibuild_core::{Digest, TreeMeta, TreeNode};

use crate::input_root::InputRoot;

/// Links followed before a path counts as a loop.
const MAX_LINKS: u32 = 40;

/// Names and what they stand for, below one directory.
#[derive(Default)]
pub(crate) struct Names<'a> {
    leaves: BTreeMap<&'a str, Leaf<'a>>,
    directories: BTreeSet<&'a str>,
}

#[derive(Clone, Copy)]
enum Leaf<'a> {
    File(Digest, bool),
    Link(&'a str),
    Tree(&'a TreeMeta),
}

/// Where a path leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// A file: digest, executable bit.
    File(Digest, bool),
    /// A directory.
    Directory,
    /// Out of the directory all names are below.
    Outside,
    /// Nowhere.
    Nothing,
}

impl<'a> Names<'a> {
    /// All entries of a tree.
    pub(crate) fn of_tree(tree: &'a TreeMeta) -> Self {
        let mut names = Self::default();
        for entry in &tree.entries {
            let path = entry.path.as_str();
            match &entry.node {
                TreeNode::File { digest, executable } => names.file(path, *digest, *executable),
                TreeNode::Symlink { target } => names.link(path, target),
                TreeNode::EmptyDirectory => names.directory(path),
            }
        }
        names
    }

    pub(crate) fn file(&mut self, path: &'a str, digest: Digest, executable: bool) {
        self.leaf(path, Leaf::File(digest, executable));
    }

    pub(crate) fn link(&mut self, path: &'a str, target: &'a str) {
        self.leaf(path, Leaf::Link(target));
    }

    /// What lies at the places of inputs, where no output does.
    pub(crate) fn add_inputs(&mut self, root: &'a InputRoot) {
        let files = root.files.iter().map(|(path, digest, executable)| (path, Leaf::File(*digest, *executable)));
        let links = root.links.iter().map(|(path, target)| (path, Leaf::Link(target)));
        for (path, leaf) in files.chain(links) {
            if !self.leaves.contains_key(path.as_str()) {
                self.leaf(path, leaf);
            }
        }
    }

    pub(crate) fn tree(&mut self, path: &'a str, tree: &'a TreeMeta) {
        self.leaf(path, Leaf::Tree(tree));
    }

    fn directory(&mut self, path: &'a str) {
        self.parents(path);
        self.directories.insert(path);
    }

    fn leaf(&mut self, path: &'a str, leaf: Leaf<'a>) {
        self.parents(path);
        self.leaves.insert(path, leaf);
    }

    fn parents(&mut self, path: &'a str) {
        self.directories.extend(path.match_indices('/').map(|(at, _)| &path[..at]));
    }

    /// Where `path` leads, all links followed. A tree is not looked into.
    pub(crate) fn follow(&self, path: &str) -> Target {
        let mut at = String::new();
        let mut left: Vec<&str> = path.rsplit('/').collect();
        let mut links = 0;
        while let Some(segment) = left.pop() {
            match segment {
                "" | "." => continue,
                ".." if at.is_empty() => return Target::Outside,
                ".." => {
                    at.truncate(at.rfind('/').unwrap_or(0));
                    continue;
                }
                _ => {}
            }
            let end = at.len();
            if end > 0 {
                at.push('/');
            }
            at.push_str(segment);
            match self.leaves.get(at.as_str()) {
                Some(Leaf::Link(target)) => {
                    links += 1;
                    if target.starts_with('/') {
                        return Target::Outside;
                    }
                    if links > MAX_LINKS {
                        return Target::Nothing;
                    }
                    at.truncate(end);
                    left.extend(target.rsplit('/'));
                }
                Some(Leaf::File(digest, executable)) => return file_at_end(&left, *digest, *executable),
                Some(Leaf::Tree(tree)) => {
                    left.reverse();
                    return inside(tree, &left.join("/"));
                }
                None if self.directories.contains(at.as_str()) => {}
                None => return Target::Nothing,
            }
        }
        Target::Directory
    }
}

fn file_at_end(left: &[&str], digest: Digest, executable: bool) -> Target {
    if left.iter().all(|segment| segment.is_empty()) { Target::File(digest, executable) } else { Target::Nothing }
}

/// Where a path below a tree leads, as far as it stays in that tree.
fn inside(tree: &TreeMeta, path: &str) -> Target {
    Names::of_tree(tree).follow(path)
}

/// The links of a tree that lead out of it or nowhere: path and what is wrong, as the end of a sentence.
pub(crate) fn bad_links(tree: &TreeMeta) -> Vec<(String, String)> {
    let is_link = |node: &TreeNode| matches!(node, TreeNode::Symlink { .. });
    if !tree.entries.iter().any(|entry| is_link(&entry.node)) {
        return Vec::new();
    }
    let names = Names::of_tree(tree);
    let mut bad = Vec::new();
    for entry in &tree.entries {
        let TreeNode::Symlink { target } = &entry.node else { continue };
        let what = match names.follow(entry.path.as_str()) {
            Target::File(..) | Target::Directory => continue,
            Target::Outside => "which leaves its directory",
            Target::Nothing => "which does not exist",
        };
        bad.push((entry.path.as_str().to_owned(), format!("is a symlink to `{target}`, {what}")));
    }
    bad
}

#[cfg(test)]
mod tests {
    use minibuild_core::{DigestFunction, TreeEntry, WsPath};

    use super::*;

    fn file() -> TreeNode {
        TreeNode::File { digest: DigestFunction::Sha256.digest(b"x"), executable: false }
    }

    fn tree(entries: &[(&str, Option<&str>)]) -> TreeMeta {
        let entry = |(path, target): &(&str, Option<&str>)| TreeEntry {
            path: WsPath::new(path).expect("a path"),
            node: target.map_or_else(file, |target| TreeNode::Symlink { target: target.to_owned() }),
        };
        TreeMeta { root: DigestFunction::Sha256.empty(), size: 0, entries: entries.iter().map(entry).collect() }
    }

    #[test]
    fn links_of_trees_stay_in_them_and_lead_somewhere() {
        let check = |target: &str, expected: Option<&str>| {
            let tree = tree(&[("a/b/f", None), ("a/dir", Some("b")), ("a/l", Some(target)), ("loop", Some("loop"))]);
            let bad = bad_links(&tree);
            let of_l = bad.iter().find(|(path, _)| path == "a/l");
            match (of_l, expected) {
                (None, None) => {}
                (Some((_, what)), Some(part)) => assert!(what.contains(part), "{target}: {what}"),
                (got, _) => panic!("{target}: {got:?} instead of {expected:?}"),
            }
            assert!(bad.iter().any(|(path, what)| path == "loop" && what.contains("does not exist")));
        };
        for good in ["b/f", "dir/f", "../a/b/f", "b", "b/", "./b/./f", "../a/dir/../b/f", ".."] {
            check(good, None);
        }
        for bad in ["../..", "../../x", "/etc", "dir/../../../x"] {
            check(bad, Some("leaves"));
        }
        for bad in ["none", "b/f/x", "b/none", "../loop", "l"] {
            check(bad, Some("does not exist"));
        }
    }

    #[test]
    fn links_beside_trees_are_followed_into_them() {
        let inner = tree(&[("d/f", None), ("l", Some("d/f"))]);
        let mut names = Names::default();
        names.tree("out/t", &inner);
        names.link("out/x", "t/l");
        names.link("out/y", "t/../t/d");
        names.link("out/z", "../out/x");
        let digest = DigestFunction::Sha256.digest(b"x");
        assert_eq!(names.follow("out/x"), Target::File(digest, false));
        assert_eq!(names.follow("out/z"), Target::File(digest, false));
        assert_eq!(names.follow("out/t"), Target::Directory);
        assert_eq!(names.follow("out/none"), Target::Nothing);
    }
}
