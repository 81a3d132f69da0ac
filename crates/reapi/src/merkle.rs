//! Merkle trees of `Directory` messages: input roots and tree artifacts.

use std::cmp::Ordering;

use minibuild_core::{Digest, DigestFunction, TreeEntry, TreeNode};

use crate::wire::Message;

/// What lies at a path of an input root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InputNode<'a> {
    /// A regular file.
    File {
        /// Of its bytes.
        digest: Digest,
        /// Whether it has its executable bit.
        executable: bool,
    },
    /// A symlink.
    Symlink {
        /// Its text.
        target: &'a str,
    },
    /// A whole directory known by the digest of its root message: a tree artifact.
    Tree {
        /// Digest of its root `Directory`.
        root: Digest,
    },
    /// A directory with nothing in it.
    EmptyDirectory,
}

/// Receives each `Directory` blob with its digest, children before parents.
pub type DirectoryBlobs<'a> = dyn FnMut(Digest, &[u8]) + 'a;

/// Why entries make no tree.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InputRootError {
    /// One path is given twice with different contents.
    #[error("`{0}` is an input twice, with different contents")]
    Twice(String),
    /// One entry lies below another that is no plain directory.
    #[error("`{0}` lies below `{1}`, which is another input and no plain directory")]
    Below(String, String),
}

/// Digest of the root `Directory` of these entries: (path, node), in any order, equal duplicates allowed.
///
/// # Errors
/// An [`InputRootError`] where paths contradict each other.
pub fn input_root(
    entries: &mut Vec<(&str, InputNode<'_>)>,
    function: DigestFunction,
    blobs: &mut DirectoryBlobs<'_>,
) -> Result<Digest, InputRootError> {
    entries.sort_unstable_by(|a, b| compare_paths(a.0, b.0));
    entries.dedup();
    for pair in entries.windows(2) {
        let ((first, node), (second, _)) = (pair[0], pair[1]);
        if first == second {
            return Err(InputRootError::Twice(first.to_owned()));
        }
        let below = second.strip_prefix(first).is_some_and(|rest| rest.starts_with('/'));
        if below && !matches!(node, InputNode::EmptyDirectory) {
            return Err(InputRootError::Below(second.to_owned(), first.to_owned()));
        }
    }
    Ok(Encoder { function, blobs, spare: Vec::new() }.directory(entries, 0))
}

/// Digest of the canonical root `Directory` of a tree artifact (SHA-256). The entries are sorted and do not
/// contradict each other, as [`minibuild_core::TreeMeta`] promises; entries that do are left out.
pub fn tree_root(entries: &[TreeEntry]) -> Digest {
    tree_directories(entries, DigestFunction::Sha256, &mut |_, _| {})
}

/// As [`tree_root`], with the function of all digests; `blobs` gets each `Directory` message.
pub fn tree_directories(entries: &[TreeEntry], function: DigestFunction, blobs: &mut DirectoryBlobs<'_>) -> Digest {
    let mut nodes: Vec<(&str, InputNode<'_>)> = Vec::with_capacity(entries.len());
    for entry in entries {
        let node = match &entry.node {
            TreeNode::File { digest, executable } => InputNode::File { digest: *digest, executable: *executable },
            TreeNode::Symlink { target } => InputNode::Symlink { target },
            TreeNode::EmptyDirectory => InputNode::EmptyDirectory,
        };
        nodes.push((entry.path.as_str(), node));
    }
    nodes.sort_unstable_by(|a, b| compare_paths(a.0, b.0));
    nodes.dedup_by(|a, b| a.0 == b.0);
    Encoder { function, blobs, spare: Vec::new() }.directory(&nodes, 0)
}

/// Order in which everything below a directory is together: segment by segment.
fn compare_paths(a: &str, b: &str) -> Ordering {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    let common = a.iter().zip(b).take_while(|(x, y)| x == y).count();
    let rank = |bytes: &[u8]| match bytes.get(common) {
        None => 0,
        Some(b'/') => 1,
        Some(&byte) => u16::from(byte) + 2,
    };
    rank(a).cmp(&rank(b))
}

struct Encoder<'a, 'b> {
    function: DigestFunction,
    blobs: &'a mut DirectoryBlobs<'b>,
    /// Messages that are done with, to be filled again.
    spare: Vec<Message>,
}

impl Encoder<'_, '_> {
    /// Encodes the directory whose entries share their first `skip` bytes. The depth of recursion is that of
    /// the paths, which the operating system bounds.
    fn directory(&mut self, entries: &[(&str, InputNode<'_>)], skip: usize) -> Digest {
        let mut parts = [self.message(), self.message(), self.message()];
        let mut at = 0;
        while let Some(&(path, node)) = entries.get(at) {
            let rest = &path[skip..];
            at += 1;
            let name = match rest.split_once('/') {
                None => rest,
                Some((name, _)) => {
                    let end = skip + name.len() + 1;
                    let group = entries[at..].iter().take_while(|(p, _)| p.get(..end) == path.get(..end)).count();
                    let digest = self.directory(&entries[at - 1..at + group], end);
                    write_directory_node(&mut parts[1], name, &digest);
                    at += group;
                    continue;
                }
            };
            match node {
                InputNode::File { digest, executable } => write_file_node(&mut parts[0], name, &digest, executable),
                InputNode::Tree { root } => write_directory_node(&mut parts[1], name, &root),
                InputNode::Symlink { target } => parts[2].message(3, |m| {
                    m.text(1, name);
                    m.text(2, target);
                }),
                // One with entries below it is no longer empty; they come next and make its node.
                InputNode::EmptyDirectory => {
                    let next_is_below = entries
                        .get(at)
                        .is_some_and(|(p, _)| p[skip..].strip_prefix(name).is_some_and(|r| r.starts_with('/')));
                    if !next_is_below {
                        let empty = self.function.empty();
                        (self.blobs)(empty, &[]);
                        write_directory_node(&mut parts[1], name, &empty);
                    }
                }
            }
        }
        self.finish(parts)
    }

    fn finish(&mut self, parts: [Message; 3]) -> Digest {
        let bytes = parts.each_ref().map(Message::as_bytes).concat();
        let digest = self.function.digest(&bytes);
        (self.blobs)(digest, &bytes);
        self.spare.extend(parts);
        digest
    }

    fn message(&mut self) -> Message {
        let mut message = self.spare.pop().unwrap_or_default();
        message.clear();
        message
    }
}

fn write_file_node(message: &mut Message, name: &str, digest: &Digest, executable: bool) {
    message.message(1, |m| {
        m.text(1, name);
        m.digest(2, digest);
        m.bool(4, executable);
    });
}

fn write_directory_node(message: &mut Message, name: &str, digest: &Digest) {
    message.message(2, |m| {
        m.text(1, name);
        m.digest(2, digest);
    });
}

#[cfg(all(test, feature = "messages"))]
mod tests {
    use std::collections::BTreeMap;

    use bazel_remote_apis::build::bazel::remote::execution::v2 as proto;
    use proptest::prelude::*;
    use prost::Message as _;

    use super::*;

    fn file(text: &str) -> InputNode<'static> {
        InputNode::File { digest: DigestFunction::Sha256.digest(text.as_bytes()), executable: text.len() % 2 == 1 }
    }

    fn root_of(paths: &[(&str, InputNode<'_>)]) -> Result<Digest, InputRootError> {
        input_root(&mut paths.to_vec(), DigestFunction::Sha256, &mut |_, _| {})
    }

    /// The same tree by the generated types, built naively.
    fn reference(paths: &[(&str, InputNode<'_>)]) -> Vec<u8> {
        let mut directory = proto::Directory::default();
        let mut below: BTreeMap<&str, Vec<(&str, InputNode<'_>)>> = BTreeMap::new();
        let proto_digest = |d: &Digest| Some(proto::Digest { hash: d.hex(), size_bytes: d.size as i64 });
        for &(path, node) in paths {
            if let Some((name, rest)) = path.split_once('/') {
                below.entry(name).or_default().push((rest, node));
                continue;
            }
            let name = path.to_owned();
            match node {
                InputNode::File { digest, executable } => directory.files.push(proto::FileNode {
                    name,
                    digest: proto_digest(&digest),
                    is_executable: executable,
                    ..Default::default()
                }),
                InputNode::Symlink { target } => directory.symlinks.push(proto::SymlinkNode {
                    name,
                    target: target.to_owned(),
                    ..Default::default()
                }),
                InputNode::Tree { root } => {
                    directory.directories.push(proto::DirectoryNode { name, digest: proto_digest(&root) });
                }
                InputNode::EmptyDirectory => {
                    below.entry(path).or_default();
                }
            }
        }
        for (name, entries) in below {
            let digest = DigestFunction::Sha256.digest(&reference(&entries));
            directory.directories.push(proto::DirectoryNode { name: name.to_owned(), digest: proto_digest(&digest) });
        }
        directory.files.sort_by(|a, b| a.name.cmp(&b.name));
        directory.directories.sort_by(|a, b| a.name.cmp(&b.name));
        directory.symlinks.sort_by(|a, b| a.name.cmp(&b.name));
        directory.encode_to_vec()
    }

    fn check(paths: &[(&str, InputNode<'_>)]) {
        assert_eq!(root_of(paths), Ok(DigestFunction::Sha256.digest(&reference(paths))), "{paths:?}");
    }

    #[test]
    fn roots_equal_those_of_the_generated_types() {
        check(&[]);
        check(&[("a", file("x"))]);
        check(&[("b/c", file("x")), ("a", file("yy")), ("b/a", InputNode::Symlink { target: "../a" })]);
        check(&[
            ("a-b", file("1")),
            ("a/b", file("2")),
            ("a.b", file("3")),
            ("a0/x/y/z", file("4")),
            ("a0/x.y", file("5")),
        ]);
        check(&[("d", InputNode::EmptyDirectory), ("e/f", InputNode::EmptyDirectory)]);
        check(&[("d", InputNode::EmptyDirectory), ("d/x", file("1")), ("d/y/z", file("1"))]);
        let root = DigestFunction::Sha256.digest(b"tree");
        check(&[("t", InputNode::Tree { root }), ("u/t", InputNode::Tree { root })]);
    }

    #[test]
    fn contradictions_are_named() {
        assert_eq!(root_of(&[("a", file("1")), ("a", file("2"))]), Err(InputRootError::Twice("a".into())));
        assert_eq!(
            root_of(&[("a", file("1")), ("a/b", file("2"))]),
            Err(InputRootError::Below("a/b".into(), "a".into()))
        );
        assert!(root_of(&[("a", file("1")), ("a", file("1"))]).is_ok());
    }

    #[test]
    fn blobs_are_given_children_first_and_hash_to_their_digests() {
        let mut seen = Vec::new();
        let root = input_root(
            &mut vec![("a/b/c", file("1")), ("d", file("2"))],
            DigestFunction::Sha256,
            &mut |digest, bytes| {
                assert_eq!(digest, DigestFunction::Sha256.digest(bytes));
                seen.push(digest);
            },
        );
        assert_eq!(seen.len(), 3);
        assert_eq!(root.ok().as_ref(), seen.last());
    }

    proptest! {
        #[test]
        fn any_tree_equals_the_reference(names in proptest::collection::btree_set("[a-c.]{1,2}(/[a-c-]{1,2}){0,3}", 0..12)) {
            let paths: Vec<(&str, InputNode<'_>)> = names
                .iter()
                .filter(|n| n.split('/').all(|s| s != "." && s != ".."))
                .filter(|n| !names.iter().any(|m| m.starts_with(&format!("{n}/"))))
                .map(|n| (n.as_str(), file(n)))
                .collect();
            check(&paths);
        }
    }
}
