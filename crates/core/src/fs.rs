//! The port through which the loader looks at the source tree.

use std::io;

use serde::{Deserialize, Serialize};

/// What lies at a path, symlinks not followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum EntryKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link, whatever it points at.
    Symlink,
    /// A device, socket or pipe.
    Other,
}

/// One entry of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirEntry {
    /// Its name: `Err` holds a lossy rendering of a name that is not UTF-8.
    pub name: Result<String, String>,
    /// What it is.
    pub kind: EntryKind,
}

/// Read access to the workspace (paths relative to its root, `""` is the root) and to absolute paths.
///
/// 1. Nothing is written.
/// 2. Every look is remembered by the implementation, absent paths too: the set of looks is what a snapshot of
///    the loaded graph depends on.
/// 3. Answers do not change within one load.
/// 4. Callable from several threads at once.
pub trait SourceFs: Send + Sync {
    /// The content of a file.
    ///
    /// # Errors
    /// Those of the operating system; `NotFound` where there is nothing.
    fn read(&self, path: &str) -> io::Result<Vec<u8>>;

    /// The entries of a directory, sorted by name.
    ///
    /// # Errors
    /// Those of the operating system; `NotFound` where there is nothing.
    fn list_dir(&self, path: &str) -> io::Result<std::sync::Arc<[DirEntry]>>;

    /// What lies at a path, `None` where there is nothing. Symlinks are not followed.
    ///
    /// # Errors
    /// Those of the operating system, except `NotFound` and `NotADirectory`.
    fn kind(&self, path: &str) -> io::Result<Option<EntryKind>>;

    /// What lies at a path, symlinks followed; `None` where there is nothing, as behind a dangling link.
    fn kind_behind(&self, path: &str) -> Option<EntryKind>;

    /// All directories at or below `start` whose path `enter` accepts, sorted by path, each with those of its entries that are
    /// directories or have one of `names`. A directory below `start` that holds a `barrier`, other than a directory of that
    /// name, is left out with all below it. Directories that cannot be read are given with their error, and so are those
    /// whose name is not UTF-8 if one of `names` lies below them. Symlinks to directories are not entered.
    fn walk(
        &self,
        start: &str,
        names: &[&str],
        barrier: &str,
        enter: &(dyn Fn(&str) -> bool + Sync),
    ) -> Vec<(String, io::Result<std::sync::Arc<[DirEntry]>>)>;
}
