//! A directory tree as data that can be compared: kinds, permission bits, contents.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use minibuild_core::DigestFunction;

/// One entry of a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// A regular file: permission bits and the hash of its content.
    File(u32, String),
    /// A symlink with its text.
    Symlink(String),
    /// A directory.
    Directory,
    /// Anything else.
    Other,
}

/// Every entry below a directory, by path relative to it.
pub type Snapshot = BTreeMap<String, Entry>;

/// Reads a tree. A missing root is an empty tree.
pub(crate) fn take(root: &Path) -> Snapshot {
    let mut found = Snapshot::new();
    let mut pending = vec![root.to_owned()];
    while let Some(dir) = pending.pop() {
        let Ok(entries) = fs::read_dir(&dir) else { continue };
        for entry in entries.flatten() {
            let path = entry.path();
            let name = path.strip_prefix(root).expect("it lies below the root").to_string_lossy().into_owned();
            let kind = look(&path);
            if kind == Entry::Directory {
                pending.push(path);
            }
            found.insert(name, kind);
        }
    }
    found
}

fn look(path: &Path) -> Entry {
    let Ok(metadata) = fs::symlink_metadata(path) else { return Entry::Other };
    let kind = metadata.file_type();
    if kind.is_dir() {
        Entry::Directory
    } else if kind.is_symlink() {
        let target = fs::read_link(path).unwrap_or_default();
        Entry::Symlink(target.to_string_lossy().into_owned())
    } else if kind.is_file() {
        let content = fs::read(path).unwrap_or_else(|e| panic!("cannot read {}: {e}", path.display()));
        Entry::File(metadata.permissions().mode() & 0o7777, DigestFunction::Sha256.digest(&content).hex())
    } else {
        Entry::Other
    }
}

/// The lines in which two trees differ, the first as `-`, the second as `+`.
pub fn difference(first: &Snapshot, second: &Snapshot) -> Vec<String> {
    let mut lines = Vec::new();
    for (path, entry) in first.iter().filter(|(path, entry)| second.get(*path) != Some(entry)) {
        lines.push(format!("- {path}: {entry:?}"));
    }
    for (path, entry) in second.iter().filter(|(path, entry)| first.get(*path) != Some(entry)) {
        lines.push(format!("+ {path}: {entry:?}"));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trees_differ_in_content_mode_kind_and_names() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let at = |name: &str| dir.path().join(name);
        fs::create_dir(at("d")).expect("makes");
        fs::write(at("d/f"), "x").expect("writes");
        std::os::unix::fs::symlink("d/f", at("l")).expect("links");
        let first = take(dir.path());
        assert_eq!(first.keys().collect::<Vec<_>>(), ["d", "d/f", "l"]);
        assert_eq!(difference(&first, &take(dir.path())), Vec::<String>::new());
        fs::set_permissions(at("d/f"), fs::Permissions::from_mode(0o600)).expect("changes");
        assert_eq!(difference(&first, &take(dir.path())).len(), 2);
        fs::remove_file(at("l")).expect("removes");
        fs::write(at("l"), "x").expect("writes");
        assert_eq!(difference(&first, &take(dir.path())).len(), 4);
    }
}
