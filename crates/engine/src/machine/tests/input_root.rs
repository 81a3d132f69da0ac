//! What a remote worker sees: the input root of a request, read back from nothing but its blobs. A request that lacks a
//! blob, or has one under another digest, panics.

use std::collections::BTreeMap;

use minibuild_core::{Blob, BlobSource, Content, Digest, DigestFunction, RemoteRequest};
use minibuild_reapi::proto::{self, execution};

/// What lies where in an input root.
#[derive(Default)]
pub struct InputRoot {
    files: BTreeMap<String, Digest>,
    links: BTreeMap<String, String>,
    directories: BTreeMap<String, Digest>,
}

impl InputRoot {
    /// Reads it, from the `Action` down.
    pub fn of(request: &RemoteRequest) -> Self {
        let mut blobs = BTreeMap::new();
        for blob in &request.blobs {
            if let BlobSource::Bytes(bytes) = &blob.source {
                assert_eq!(DigestFunction::Sha256.digest(bytes), blob.digest, "a blob under a wrong digest");
            }
            assert!(blobs.insert(blob.digest, blob).is_none(), "{} is in the request twice", blob.digest);
        }
        let blobs = Blobs(blobs);
        let action: execution::Action = blobs.message(request.who.key);
        let _: execution::Command = blobs.message(digest_of(action.command_digest));
        let mut root = Self::default();
        root.read(&blobs, digest_of(action.input_root_digest), "");
        root
    }

    fn read(&mut self, blobs: &Blobs<'_>, digest: Digest, at: &str) {
        let below = |name: &str| if at.is_empty() { name.to_owned() } else { format!("{at}/{name}") };
        self.directories.insert(at.to_owned(), digest);
        let directory: execution::Directory = blobs.message(digest);
        for file in directory.files {
            let digest = digest_of(file.digest);
            assert!(blobs.0.contains_key(&digest), "the request lacks `{}`", below(&file.name));
            self.files.insert(below(&file.name), digest);
        }
        for link in directory.symlinks {
            self.links.insert(below(&link.name), link.target);
        }
        for child in directory.directories {
            self.read(blobs, digest_of(child.digest), &below(&child.name));
        }
    }

    /// The input at this path is `content`; gives the digest under which its text is known.
    pub fn check(&self, path: &str, content: &Content) -> Digest {
        match content {
            Content::File { digest, .. } => assert_eq!(self.files.get(path), Some(digest), "`{path}`"),
            Content::Symlink { target } => assert_eq!(self.links.get(path), Some(target), "`{path}`"),
            Content::Directory(tree) => assert_eq!(self.directories.get(path), Some(&tree.root), "`{path}`"),
        }
        content.digest_and_size().0
    }
}

struct Blobs<'a>(BTreeMap<Digest, &'a Blob>);

impl Blobs<'_> {
    fn message<M: proto::Message + Default + minibuild_reapi::Shaped>(&self, digest: Digest) -> M {
        let blob = self.0.get(&digest).unwrap_or_else(|| panic!("the request lacks the message {digest}"));
        let BlobSource::Bytes(bytes) = &blob.source else { panic!("a message is nowhere but {:?}", blob.source) };
        proto::read("message", bytes).expect("a message")
    }
}

fn digest_of(digest: Option<execution::Digest>) -> Digest {
    let digest = digest.expect("a digest");
    format!("{}/{}", digest.hash, digest.size_bytes).parse().expect("a digest")
}
