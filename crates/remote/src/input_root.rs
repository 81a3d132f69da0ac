//! What lies at the paths of an action's input root, read from the messages that describe it.
//!
//! It does not know why that is asked, nor fetches anything.

use std::collections::HashMap;

use minibuild_core::{Blob, BlobSource, Digest, DigestFunction};
use minibuild_reapi::decode;

/// More directories than that are not looked through.
const MOST_DIRECTORIES: usize = 1 << 20;

/// Files and symlinks of an input root.
#[derive(Debug, Default)]
pub(crate) struct InputRoot {
    /// Path, digest and executable bit.
    pub(crate) files: Vec<(String, Digest, bool)>,
    /// Path and text.
    pub(crate) links: Vec<(String, String)>,
}

impl InputRoot {
    /// The input root of the action with this digest, whose messages are among the blobs. What cannot be read is left
    /// out.
    pub(crate) fn of(action: Digest, blobs: &[Blob], function: DigestFunction) -> Self {
        let messages: HashMap<Digest, &[u8]> = blobs
            .iter()
            .filter_map(|blob| match &blob.source {
                BlobSource::Bytes(bytes) => Some((blob.digest, &bytes[..])),
                BlobSource::File { .. } | BlobSource::Elsewhere => None,
            })
            .collect();
        let mut root = Self::default();
        let action = messages.get(&action).and_then(|bytes| decode::action(bytes, function).ok());
        let Some(action) = action else { return root };
        let mut left = vec![(String::new(), action.input_root)];
        let mut seen = 0;
        while let Some((path, digest)) = left.pop() {
            seen += 1;
            let directory = messages.get(&digest).and_then(|bytes| decode::directory(bytes, function).ok());
            let Some(directory) = directory.filter(|_| seen <= MOST_DIRECTORIES) else { continue };
            let at = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}/{name}") };
            root.files.extend(directory.files.iter().map(|file| (at(&file.name), file.digest, file.executable)));
            root.links.extend(directory.symlinks.iter().map(|(name, target)| (at(name), target.clone())));
            left.extend(directory.directories.iter().map(|(name, digest)| (at(name), *digest)));
        }
        root
    }
}
