//! The files of one package, as the fields of its targets name them.

use std::sync::Arc;

use minibuild_core::{DirEntry, WsPath};
use minibuild_rules::lang::Vars;
use rustc_hash::FxHashMap;

use crate::rule_table::RuleTable;
use crate::source_tree::SourceTree;

/// What reading a package needs besides its text.
#[derive(Clone, Copy)]
pub struct PackageCx<'a> {
    /// The source tree.
    pub tree: SourceTree<'a>,
    /// All rules.
    pub rules: &'a RuleTable,
    /// Values of variables, for `when`.
    pub vars: &'a Vars,
    /// Names of variables, for hints.
    pub var_names: &'a [Arc<str>],
}

/// The source tree as seen from one package, each directory listed once.
pub struct PackageFiles<'a> {
    /// What reading needs.
    pub cx: PackageCx<'a>,
    /// The package's directory.
    pub path: WsPath,
    listings: FxHashMap<String, Arc<[DirEntry]>>,
    packages: FxHashMap<String, bool>,
}

impl<'a> PackageFiles<'a> {
    /// Nothing is listed yet.
    pub fn new(cx: PackageCx<'a>, path: WsPath) -> Self {
        Self { cx, path, listings: FxHashMap::default(), packages: FxHashMap::default() }
    }

    /// The entries of a directory.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn list(&mut self, dir: &str) -> std::io::Result<Arc<[DirEntry]>> {
        if let Some(known) = self.listings.get(dir) {
            return Ok(known.clone());
        }
        let entries = self.cx.tree.fs.list_dir(dir)?;
        self.listings.insert(dir.to_owned(), entries.clone());
        Ok(entries)
    }

    /// The nearest package below this one that `path` (from the workspace root, below this package) lies in.
    pub fn border(&mut self, path: &str) -> Option<String> {
        let own = self.path.as_str().len();
        let mut end = path.rfind('/')?;
        while end > own {
            let dir = &path[..end];
            if self.is_package(dir) {
                return Some(dir.to_owned());
            }
            end = dir.rfind('/')?;
        }
        None
    }

    /// Whether a directory is a package.
    pub fn is_package(&mut self, dir: &str) -> bool {
        if let Some(&known) = self.packages.get(dir) {
            return known;
        }
        let found = self.cx.tree.is_package(dir);
        self.packages.insert(dir.to_owned(), found);
        found
    }
}
