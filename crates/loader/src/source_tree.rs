//! Which directories below the workspace root are part of its source tree: not those of minibuild and git, not those
//! of other workspaces, not those the configuration ignores. It does not know what a package holds.

use std::io;

use minibuild_core::{BUILD_FILE, DirEntry, EntryKind, OUT_ROOT, SourceFs, WORKSPACE_FILE, WsPath};

/// The directories of one workspace, seen through the configuration.
#[derive(Clone, Copy)]
pub struct SourceTree<'a> {
    pub fs: &'a dyn SourceFs,
    /// Directories in which there are no packages.
    pub ignored: &'a [WsPath],
}

impl<'a> SourceTree<'a> {
    /// Whether a directory may hold packages, as far as its path says.
    pub(crate) fn may_hold_packages(&self, dir: &str) -> bool {
        !dir.split('/').any(is_reserved_name) && !self.ignored.iter().any(|ignored| is_below(dir, ignored.as_str()))
    }

    /// Whether a directory is one of this workspace's packages.
    pub fn is_package(&self, dir: &str) -> bool {
        matches!(self.fs.kind(&join(dir, BUILD_FILE)), Ok(Some(_)))
            && self.may_hold_packages(dir)
            && self.nested_workspace(dir).is_none()
    }

    /// The workspace below this one that holds a directory.
    pub(crate) fn nested_workspace<'p>(&self, dir: &'p str) -> Option<&'p str> {
        let ends = dir.match_indices('/').map(|(at, _)| at).chain([dir.len()]);
        let mut above = ends.map(|end| &dir[..end]).filter(|above| !above.is_empty());
        above.find(|above| self.is_workspace(above))
    }

    /// Whether a directory has a `minibuild.toml`.
    pub(crate) fn is_workspace(&self, dir: &str) -> bool {
        let kind = self.fs.kind(&join(dir, WORKSPACE_FILE));
        kind.is_ok_and(|kind| kind.is_some_and(|kind| kind != EntryKind::Directory))
    }

    /// Lists the directories at or below `top` that may hold packages, each with its directories and its `BUILD.toml`.
    pub fn walk(&self, top: &str) -> Vec<(String, io::Result<std::sync::Arc<[DirEntry]>>)> {
        self.fs.walk(top, &[BUILD_FILE], WORKSPACE_FILE, &|dir| self.may_hold_packages(dir))
    }
}

/// Whether a directory of this name belongs to minibuild or git, wherever it lies.
pub(crate) fn is_reserved_name(name: &str) -> bool {
    name == OUT_ROOT || name == ".git"
}

/// Whether the entries are those of a package's directory. Whatever has the name counts: reading it says what is wrong.
pub(crate) fn has_build_file(entries: &[DirEntry]) -> bool {
    entries.iter().any(|e| e.name.as_deref() == Ok(BUILD_FILE))
}

/// Whether the entries are those of the root of a workspace.
pub(crate) fn has_workspace_file(entries: &[DirEntry]) -> bool {
    entries.iter().any(|e| e.kind != EntryKind::Directory && e.name.as_deref() == Ok(WORKSPACE_FILE))
}

/// Two parts of a path, the first perhaps empty.
pub fn join(dir: &str, below: &str) -> String {
    match (dir.is_empty(), below.is_empty()) {
        (true, _) => below.to_owned(),
        (_, true) => dir.to_owned(),
        _ => format!("{dir}/{below}"),
    }
}

/// Whether `path` is `dir` or lies below it.
pub fn is_below(path: &str, dir: &str) -> bool {
    dir.is_empty() || path.strip_prefix(dir).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}
