//! Whether an input still holds what went into an action's key.
//!
//! It does not know what follows from a change.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use minibuild_core::{Content, EntryKind, ExpectedInput, Fingerprint, WsPath};
use minibuild_disk::{FileClock, OutTree, Seen, fingerprint_behind, hash_file};

/// Checks inputs, and remembers what was read for it.
#[derive(Debug, Default)]
pub(crate) struct InputRecheck {
    /// What files were found to hold under fingerprints that are trusted. A backup by hard links changes the times of all
    /// inputs at once, and each of them belongs to many actions.
    read: Mutex<HashMap<WsPath, (Fingerprint, Content)>>,
}

impl InputRecheck {
    /// Whether an input that was looked at just now holds what it should. One with another fingerprint is read.
    pub(crate) fn is_same(
        &self,
        tree: &OutTree,
        clock: &dyn FileClock,
        expected: &ExpectedInput,
        now: Option<Seen>,
    ) -> bool {
        let Some(seen) = now else { return false };
        if seen.fingerprint == expected.fingerprint {
            return true;
        }
        let path = tree.workspace().join(expected.path.as_path());
        match (&expected.content, seen.kind) {
            (Content::Symlink { target }, EntryKind::Symlink) => {
                std::fs::read_link(&path).is_ok_and(|now| now.as_os_str() == target.as_str())
            }
            (Content::File { .. }, EntryKind::File) => self.holds(tree, clock, expected, &path, seen.fingerprint),
            // The input is a link that leaves the workspace, and stands for the file it leads to.
            (Content::File { .. }, EntryKind::Symlink) => match (fingerprint_behind(&path), path.canonicalize()) {
                (Ok(fingerprint), _) if fingerprint == expected.fingerprint => true,
                (Ok(fingerprint), Ok(real)) => self.holds(tree, clock, expected, &real, fingerprint),
                _ => false,
            },
            _ => false,
        }
    }

    /// Whether the file at `real` holds what the input should.
    fn holds(
        &self,
        tree: &OutTree,
        clock: &dyn FileClock,
        expected: &ExpectedInput,
        real: &Path,
        fingerprint: Fingerprint,
    ) -> bool {
        // Reading a file of another size is of no use.
        if fingerprint.size != expected.fingerprint.size {
            return false;
        }
        let read = || self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, content)) = read().get(&expected.path)
            && *at == fingerprint
        {
            return *content == expected.content;
        }
        let Ok(now) = clock.now() else { return false };
        let Ok(hashed) = hash_file(rustix::fs::CWD, real, tree.function(), now) else { return false };
        let content = Content::File { digest: hashed.digest, executable: hashed.executable() };
        let is_same = content == expected.content;
        if hashed.stamp.trusted {
            read().insert(expected.path.clone(), (hashed.stamp.fingerprint, content));
        }
        is_same
    }
}
