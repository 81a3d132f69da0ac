//! What the user asked to have here: a mode, and regular expressions.

use minibuild_core::{DownloadReason, TreeEntry, TreeMeta, TreeNode, WsPath};
use regex::Regex;

/// Which outputs are brought here whoever made them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Every output.
    All,
    /// Those of requested targets.
    #[default]
    Toplevel,
    /// None.
    Minimal,
    /// Those of requested targets, after the build that made them.
    Fetch,
}

/// What the user asked for.
#[derive(Clone, Debug, Default)]
pub struct Wishes {
    /// The mode.
    pub mode: Mode,
    regexes: Vec<Regex>,
}

impl Wishes {
    /// A mode, and expressions each of which has to match a whole workspace-relative path.
    ///
    /// # Errors
    /// The first expression that is none.
    pub fn new(mode: Mode, regexes: &[String]) -> Result<Self, String> {
        let whole = |text: &String| Regex::new(&format!("^(?:{text})$")).map_err(|error| error.to_string());
        Ok(Self { mode, regexes: regexes.iter().map(whole).collect::<Result<_, _>>()? })
    }

    /// Why an output at `path` is wanted here, not counting who else needs it.
    pub fn reason(&self, path: &WsPath, is_toplevel: bool) -> Option<DownloadReason> {
        match self.mode {
            Mode::All | Mode::Toplevel if is_toplevel => Some(DownloadReason::Toplevel),
            Mode::All => Some(DownloadReason::All),
            Mode::Fetch if is_toplevel => Some(DownloadReason::Fetch),
            _ => self.matches(path.as_str()).then_some(DownloadReason::Regex),
        }
    }

    /// The entries of a tree at `path` that are files wanted though the tree is not, in order.
    pub fn files_of<'a>(&self, path: &WsPath, tree: &'a TreeMeta) -> Vec<&'a TreeEntry> {
        if self.regexes.is_empty() {
            return Vec::new();
        }
        let files = tree.entries.iter().filter(|entry| matches!(entry.node, TreeNode::File { .. }));
        files.filter(|entry| self.matches(&format!("{path}/{}", entry.path))).collect()
    }

    /// Whether there are expressions, which may mean any file of any tree.
    pub fn has_expressions(&self) -> bool {
        !self.regexes.is_empty()
    }

    fn matches(&self, path: &str) -> bool {
        self.regexes.iter().any(|regex| regex.is_match(path))
    }
}

#[cfg(test)]
mod tests {
    use minibuild_core::DigestFunction;

    use super::*;

    fn path(text: &str) -> WsPath {
        WsPath::new(text).expect("valid path")
    }

    #[test]
    fn modes_and_expressions() {
        let check = |mode, regex: &str, is_toplevel, expected| {
            let wishes = Wishes::new(mode, &[regex.to_owned()]).expect("an expression");
            assert_eq!(wishes.reason(&path("minibuild-out/bin/x/a.txt"), is_toplevel), expected, "{mode:?} {regex}");
        };
        check(Mode::All, "", false, Some(DownloadReason::All));
        check(Mode::All, "", true, Some(DownloadReason::Toplevel));
        check(Mode::Toplevel, "", true, Some(DownloadReason::Toplevel));
        check(Mode::Toplevel, "", false, None);
        check(Mode::Fetch, "", true, Some(DownloadReason::Fetch));
        check(Mode::Fetch, "", false, None);
        check(Mode::Minimal, ".*", true, Some(DownloadReason::Regex));
        check(Mode::Minimal, r".*\.txt", true, Some(DownloadReason::Regex));
        check(Mode::Minimal, "a.txt", false, None);
        check(Mode::Minimal, "b|minibuild-out/bin/x/a.txt", false, Some(DownloadReason::Regex));
        check(Mode::Minimal, "minibuild-out/bin/x", false, None);
        assert!(Wishes::new(Mode::All, &["(".to_owned()]).is_err());
    }

    #[test]
    fn files_of_trees() {
        let entry = |name: &str| TreeEntry {
            path: path(name),
            node: TreeNode::File { digest: DigestFunction::Sha256.empty(), executable: false },
        };
        let empty = TreeEntry { path: path("d.h"), node: TreeNode::EmptyDirectory };
        let entries = vec![entry("a.h"), entry("b.c"), empty, entry("s/c.h")];
        let tree = TreeMeta { root: DigestFunction::Sha256.empty(), size: 0, entries };
        let wishes = Wishes::new(Mode::Minimal, &[r"o/t/.*\.h".to_owned()]).expect("an expression");
        let files = |wishes: &Wishes| -> Vec<WsPath> {
            wishes.files_of(&path("o/t"), &tree).into_iter().map(|entry| entry.path.clone()).collect()
        };
        assert_eq!(files(&wishes), [path("a.h"), path("s/c.h")]);
        assert_eq!(files(&Wishes::default()), []);
    }
}
