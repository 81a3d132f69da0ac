//! Writing `Tree` messages.

use std::collections::HashSet;

use minibuild_core::{Digest, DigestFunction};

use crate::merkle::{InputNode, InputRootError, input_root};
use crate::wire::Message;

/// A directory as a `Tree` and as the `Directory` messages in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TreeBlob {
    /// The `Tree` message: root, then children, each once and after everything that holds it.
    pub bytes: Vec<u8>,
    /// Digest of the root `Directory`.
    pub root: Digest,
    /// Every `Directory` message once, children before parents.
    pub directories: Vec<(Digest, Vec<u8>)>,
}

/// The tree of these entries, in any order.
///
/// # Errors
/// An [`InputRootError`] where paths contradict each other.
pub fn tree_message(
    entries: &mut Vec<(&str, InputNode<'_>)>,
    function: DigestFunction,
) -> Result<TreeBlob, InputRootError> {
    let mut directories: Vec<(Digest, Vec<u8>)> = Vec::new();
    let mut seen = HashSet::new();
    let root = input_root(entries, function, &mut |digest, bytes| {
        if seen.insert(digest) {
            directories.push((digest, bytes.to_vec()));
        }
    })?;
    let mut message = Message::default();
    let of_root = directories.iter().find(|(digest, _)| *digest == root);
    message.repeated_text(1, of_root.map_or(&[][..], |(_, bytes)| bytes));
    // A directory comes before all that hold it, so backwards it comes after them.
    for (_, bytes) in directories.iter().rev().filter(|(digest, _)| *digest != root) {
        message.repeated_text(2, bytes);
    }
    Ok(TreeBlob { bytes: message.into_bytes(), root, directories })
}

#[cfg(all(test, feature = "messages"))]
mod tests {
    use prost::Message as _;

    use super::*;
    use crate::decode::{Limits, tree};
    use crate::proto::execution as proto;

    const F: DigestFunction = DigestFunction::Sha256;

    #[test]
    fn a_tree_has_each_directory_once_parents_first() {
        let file = |text: &str| InputNode::File { digest: F.digest(text.as_bytes()), executable: false };
        let mut entries = vec![
            ("a/same/f", file("1")),
            ("b/c/same/f", file("1")),
            ("b/x", file("2")),
            ("e", InputNode::EmptyDirectory),
            ("l", InputNode::Symlink { target: "b/x" }),
        ];
        let blob = tree_message(&mut entries, F).expect("no contradictions");
        let message = proto::Tree::decode(&*blob.bytes).expect("decodes");
        assert_eq!(message.encode_to_vec(), blob.bytes, "canonical");
        let digests: Vec<Digest> = message.children.iter().map(|c| F.digest(&c.encode_to_vec())).collect();
        assert_eq!(digests.iter().collect::<HashSet<_>>().len(), digests.len());
        for (at, child) in message.children.iter().enumerate() {
            for node in &child.directories {
                let digest = crate::decode::digest(node.digest.as_ref().expect("has one"), F).expect("valid");
                assert!(digests[at + 1..].contains(&digest), "{} comes later", node.name);
            }
        }
        let content = tree(&blob.bytes, F, Limits::default()).expect("decodes");
        let paths: Vec<&str> = content.entries.iter().map(|e| e.path.as_str()).collect();
        assert_eq!(paths, ["a/same/f", "b/c/same/f", "b/x", "e", "l"]);
        assert_eq!(content.root, blob.root);
    }

    #[test]
    fn nothing_is_a_tree_too() {
        let blob = tree_message(&mut vec![], F).expect("no contradictions");
        let message = proto::Tree::decode(&*blob.bytes).expect("decodes");
        assert_eq!((message.root, message.children.len()), (Some(proto::Directory::default()), 0));
        assert_eq!(blob.root, F.empty());
    }
}
