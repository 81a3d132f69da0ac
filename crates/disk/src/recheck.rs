//! Whether a captured tree is still as it was, without reading its files.
//!
//! It does not know what the tree is for. A doubt is an answer: the caller captures the tree anew.

use std::path::Path;

use minibuild_core::{EntryKind, Fingerprint, Stamp, TreeMeta, TreeNode, WsPath};

use crate::stat::{fingerprint_of, look_at};

/// Whether the tree at `path` below `root` has exactly the entries of `tree`, each file and symlink with its trusted
/// stamp. Stamps are in the order of the entries that are no empty directories.
pub fn tree_is_unchanged(root: &Path, path: &WsPath, tree: &TreeMeta, stamps: &[Stamp]) -> bool {
    let top = root.join(path.as_path());
    if !rustix::fs::lstat(&top).is_ok_and(|s| rustix::fs::FileType::from_raw_mode(s.st_mode).is_dir()) {
        return false;
    }
    let mut expected = 0;
    let mut stamps = stamps.iter();
    for entry in &tree.entries {
        let at = top.join(entry.path.as_path());
        let Ok(seen) = look_at(rustix::fs::CWD, &at) else { return false };
        expected += 1;
        match entry.node {
            TreeNode::EmptyDirectory if seen.kind == EntryKind::Directory && is_empty_dir(&at) => {}
            TreeNode::EmptyDirectory => return false,
            TreeNode::File { .. } | TreeNode::Symlink { .. } => {
                if stamps.next().is_none_or(|stamp| !stamp.trusted || stamp.fingerprint != seen.fingerprint) {
                    return false;
                }
            }
        }
    }
    stamps.next().is_none() && leaves(&top) == Some(expected)
}

/// Number of files, links and empty directories below `top`.
fn leaves(top: &Path) -> Option<usize> {
    let mut count = 0;
    for entry in walkdir::WalkDir::new(top).min_depth(1) {
        let entry = entry.ok()?;
        let is_leaf = match entry.file_type().is_dir() {
            true => is_empty_dir(entry.path()),
            false => true,
        };
        count += usize::from(is_leaf);
    }
    Some(count)
}

/// A directory that cannot be listed is not known to be empty.
fn is_empty_dir(path: &Path) -> bool {
    std::fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none())
}

/// Fingerprint of what a path leads to, symlinks followed.
///
/// # Errors
/// Those of the operating system.
pub fn fingerprint_behind(path: &Path) -> std::io::Result<Fingerprint> {
    Ok(fingerprint_of(&rustix::fs::stat(path)?))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::Arc;

    use minibuild_core::{ArtifactKind, Content, DeclaredOutput};

    use super::*;
    use crate::{FileClock, FsInstant, OutTree};

    /// Says that everything was written long ago.
    struct Later;
    impl FileClock for Later {
        fn now(&self) -> Result<FsInstant, crate::DiskError> {
            Ok(FsInstant::of_all_devices(i64::MAX, std::time::Duration::from_millis(20)))
        }
    }

    #[test]
    fn any_change_of_an_entry_is_seen() {
        type Edit = fn(&Path);
        let edits: Vec<(&str, Edit, bool)> = vec![
            ("nothing", |_| {}, true),
            ("new file", |t| fs::write(t.join("new"), "").expect("writes"), false),
            ("new file in the empty directory", |t| fs::write(t.join("empty/new"), "").expect("writes"), false),
            ("new empty directory", |t| fs::create_dir(t.join("dir/e")).expect("makes"), false),
            ("file gone", |t| fs::remove_file(t.join("dir/f")).expect("removes"), false),
            ("replaced", |t| fs::rename(t.join("g"), t.join("dir/f")).expect("renames"), false),
            (
                "directory became a file",
                |t| {
                    fs::remove_dir(t.join("empty")).expect("removes");
                    fs::write(t.join("empty"), "").expect("writes");
                },
                false,
            ),
            ("all gone", |t| fs::remove_dir_all(t).expect("removes"), false),
        ];
        for (name, edit, expected) in edits {
            let workspace = tempfile::tempdir().expect("temporary directory");
            let out = OutTree::open(workspace.path()).expect("opens");
            let path = WsPath::new("minibuild-out/bin/t").expect("valid path");
            let top = workspace.path().join(path.as_path());
            fs::create_dir_all(top.join("dir")).expect("makes");
            fs::create_dir_all(top.join("empty")).expect("makes");
            fs::write(top.join("dir/f"), "f").expect("writes");
            fs::write(top.join("g"), "g").expect("writes");
            std::os::unix::fs::symlink("g", top.join("link")).expect("links");
            let declared = DeclaredOutput { path: path.clone(), kind: ArtifactKind::Directory };
            let found = out.capture(&[declared], &Later).expect("captures").remove(0);
            let Content::Directory(tree) = found.meta.content else { panic!("a directory was captured") };
            let tree: Arc<TreeMeta> = tree;
            edit(&top);
            assert_eq!(tree_is_unchanged(workspace.path(), &path, &tree, &found.stamps), expected, "{name}");
            let untrusted: Vec<Stamp> = found.stamps.iter().map(|s| Stamp { trusted: false, ..*s }).collect();
            assert!(!tree_is_unchanged(workspace.path(), &path, &tree, &untrusted), "{name}");
        }
    }
}
