//! One `Directory` message.

use minibuild_core::{Digest, DigestFunction};

use super::{check_name, check_text, digest_message, required};
use crate::proto::execution as proto;
use crate::{DecodeError, Flaw};

const WHAT: &str = "Directory";

/// What a directory holds, each list sorted by name, no name twice.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Directory {
    /// Regular files.
    pub files: Vec<FileEntry>,
    /// Directories with the digests of their messages.
    pub directories: Vec<(String, Digest)>,
    /// Symlinks with their texts.
    pub symlinks: Vec<(String, String)>,
}

/// A regular file of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileEntry {
    /// One segment.
    pub name: String,
    /// Of its content.
    pub digest: Digest,
    /// Whether it has its executable bit.
    pub executable: bool,
}

impl Directory {
    /// Number of entries.
    pub fn len(&self) -> usize {
        self.files.len() + self.directories.len() + self.symlinks.len()
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Reads a `Directory` blob.
///
/// # Errors
/// A [`DecodeError`] where it is none, or names or digests are not as they have to be.
pub fn directory(bytes: &[u8], function: DigestFunction) -> Result<Directory, DecodeError> {
    directory_message(crate::proto::read(WHAT, bytes)?, function)
}

/// Checks a `Directory` message.
///
/// # Errors
/// As [`directory`].
pub fn directory_message(message: proto::Directory, function: DigestFunction) -> Result<Directory, DecodeError> {
    check_names(message.files.iter().map(|node| &*node.name))?;
    check_names(message.directories.iter().map(|node| &*node.name))?;
    check_names(message.symlinks.iter().map(|node| &*node.name))?;
    check_unique(&message)?;
    let mut found = Directory::default();
    for node in message.files {
        let digest = digest_of(&node.name, node.digest.as_ref(), function)?;
        found.files.push(FileEntry { name: node.name, digest, executable: node.is_executable });
    }
    for node in message.directories {
        let digest = digest_of(&node.name, node.digest.as_ref(), function)?;
        found.directories.push((node.name, digest));
    }
    for node in message.symlinks {
        check_text(WHAT, &node.name, &node.target)?;
        found.symlinks.push((node.name, node.target));
    }
    Ok(found)
}

impl From<&Directory> for proto::Directory {
    fn from(directory: &Directory) -> Self {
        let file = |entry: &FileEntry| proto::FileNode {
            name: entry.name.clone(),
            digest: Some(digest_message(&entry.digest)),
            is_executable: entry.executable,
            node_properties: None,
        };
        let dir = |(name, digest): &(String, Digest)| proto::DirectoryNode {
            name: name.clone(),
            digest: Some(digest_message(digest)),
        };
        let link = |(name, target): &(String, String)| proto::SymlinkNode {
            name: name.clone(),
            target: target.clone(),
            node_properties: None,
        };
        Self {
            files: directory.files.iter().map(file).collect(),
            directories: directory.directories.iter().map(dir).collect(),
            symlinks: directory.symlinks.iter().map(link).collect(),
            node_properties: None,
        }
    }
}

fn digest_of(name: &str, digest: Option<&proto::Digest>, function: DigestFunction) -> Result<Digest, DecodeError> {
    required(WHAT, "digest", digest, function).map_err(|e| DecodeError::new(WHAT, name, e.flaw().clone()))
}

fn check_names<'a>(names: impl Iterator<Item = &'a str>) -> Result<(), DecodeError> {
    let mut last: Option<&str> = None;
    for name in names {
        check_name(WHAT, name)?;
        match last {
            Some(last) if last == name => return Err(DecodeError::new(WHAT, "", Flaw::Twice(name.to_owned()))),
            Some(last) if last > name => return Err(DecodeError::new(WHAT, "", Flaw::Unsorted(name.to_owned()))),
            _ => last = Some(name),
        }
    }
    Ok(())
}

/// Each list is sorted, so what is in two of them is found by looking up.
fn check_unique(message: &proto::Directory) -> Result<(), DecodeError> {
    let is_file = |name: &str| message.files.binary_search_by(|node| (*node.name).cmp(name)).is_ok();
    let is_link = |name: &str| message.symlinks.binary_search_by(|node| (*node.name).cmp(name)).is_ok();
    let directories = message.directories.iter().map(|node| &*node.name);
    let twice = directories.clone().find(|name| is_file(name) || is_link(name));
    let twice = twice.or_else(|| message.symlinks.iter().map(|node| &*node.name).find(|name| is_file(name)));
    match twice {
        Some(name) => Err(DecodeError::new(WHAT, "", Flaw::Twice(name.to_owned()))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::Message as _;

    use super::*;

    const F: DigestFunction = DigestFunction::Sha256;

    fn file(name: &str) -> proto::FileNode {
        let digest = Some(digest_message(&F.digest(b"x")));
        proto::FileNode { name: name.to_owned(), digest, is_executable: false, node_properties: None }
    }

    fn link(name: &str, target: &str) -> proto::SymlinkNode {
        proto::SymlinkNode { name: name.to_owned(), target: target.to_owned(), node_properties: None }
    }

    fn dir(name: &str) -> proto::DirectoryNode {
        proto::DirectoryNode { name: name.to_owned(), digest: Some(digest_message(&F.empty())) }
    }

    fn check(files: &[&str], dirs: &[&str], links: &[(&str, &str)], expected: Result<usize, &str>) {
        let message = proto::Directory {
            files: files.iter().map(|name| file(name)).collect(),
            directories: dirs.iter().map(|name| dir(name)).collect(),
            symlinks: links.iter().map(|(name, target)| link(name, target)).collect(),
            node_properties: None,
        };
        let got = directory(&message.encode_to_vec(), F);
        match expected {
            Ok(entries) => {
                let got = got.expect("decodes");
                assert_eq!(got.len(), entries);
                assert_eq!(proto::Directory::from(&got), message);
            }
            Err(part) => assert!(got.clone().is_err_and(|e| e.to_string().contains(part)), "{got:?} lacks {part}"),
        }
    }

    #[test]
    fn names_are_segments_in_order_and_once() {
        check(&[], &[], &[], Ok(0));
        check(&["a", "b"], &["c", "d"], &[("e", "../x"), ("f", "/abs")], Ok(6));
        for bad in ["", ".", "..", "a/b", "/", "a\0b"] {
            check(&[bad], &[], &[], Err("is no name"));
            check(&[], &[bad], &[], Err("is no name"));
            check(&[], &[], &[(bad, "t")], Err("is no name"));
        }
        check(&["b", "a"], &[], &[], Err("not in order"));
        check(&[], &["b", "a"], &[], Err("not in order"));
        check(&["a", "a"], &[], &[], Err("twice"));
        check(&["a"], &["a"], &[], Err("twice"));
        check(&["a"], &[], &[("a", "t")], Err("twice"));
        check(&[], &["a"], &[("a", "t")], Err("twice"));
        check(&[], &[], &[("a", "")], Err("empty or holds NUL"));
        check(&[], &[], &[("a", "x\0")], Err("empty or holds NUL"));
    }

    #[test]
    fn a_file_without_digest_or_with_a_bad_one() {
        for (digest, part) in [
            (None, "no `digest`"),
            (Some(proto::Digest { hash: "zz".into(), size_bytes: 1 }), "no hash"),
            (Some(proto::Digest { hash: F.digest(b"x").hex(), size_bytes: i64::MIN }), "no size"),
        ] {
            let files = vec![proto::FileNode { digest, ..file("name") }];
            let error = directory_message(proto::Directory { files, ..Default::default() }, F).expect_err("refused");
            assert!(error.to_string().contains(part) && error.to_string().contains("\"name\""), "{error}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_an_answer(bytes: Vec<u8>) {
            if let Ok(found) = directory(&bytes, F) {
                prop_assert!(found.files.iter().all(|f| !f.name.contains('/') && f.name != ".."));
            }
        }

        #[test]
        fn any_names_are_refused_or_kept(
            files in proptest::collection::vec("[a-c./\\x00]{0,3}", 0..4),
            dirs in proptest::collection::vec("[d-f.]{0,3}", 0..4),
            links in proptest::collection::vec("[a-f.]{0,3}", 0..4),
        ) {
            let message = proto::Directory {
                files: files.iter().map(|name| file(name)).collect(),
                directories: dirs.iter().map(|name| dir(name)).collect(),
                symlinks: links.iter().map(|name| link(name, "t")).collect(),
                node_properties: None,
            };
            let mut all: Vec<&String> = files.iter().chain(&dirs).chain(&links).collect();
            all.sort();
            let is_sorted = files.is_sorted() && dirs.is_sorted() && links.is_sorted();
            let is_unique = all.windows(2).all(|w| w[0] != w[1]);
            let are_names = all.iter().all(|n| !n.is_empty() && **n != "." && **n != ".." && !n.contains(['/', '\0']));
            prop_assert_eq!(directory_message(message, F).is_ok(), is_sorted && is_unique && are_names);
        }
    }
}
