//! What commands leave among the outputs though no target declares it: seen by listing directories before and after.
//!
//! Looked at are the directories in which local runs have outputs, and those of their packages, each once before its first
//! run and once in the end; a build that runs nothing here looks at none. It does not know who made what.

use std::sync::Arc;

use minibuild_core::{BIN_ROOT, ExecutionRequest, Model, WsPath};
use minibuild_disk::OutTree;
use rustc_hash::{FxHashMap, FxHashSet};

/// How many are named.
const MOST_NAMED: usize = 10;

/// Directories with what lay there before.
pub(crate) struct Undeclared {
    model: Arc<Model>,
    tree: Arc<OutTree>,
    before: FxHashMap<WsPath, FxHashSet<String>>,
    /// Outputs of runs here, what minibuild itself writes for them, and the directories above.
    own: FxHashSet<String>,
}

impl Undeclared {
    pub(crate) fn new(model: Arc<Model>, tree: Arc<OutTree>) -> Self {
        Self { model, tree, before: FxHashMap::default(), own: FxHashSet::default() }
    }

    /// A run is about to start here.
    pub(crate) fn watch(&mut self, request: &ExecutionRequest) {
        let model = Arc::clone(&self.model);
        let package = model.label_of(request.run.action).package();
        let of_package = if package.is_empty() { BIN_ROOT.to_owned() } else { format!("{BIN_ROOT}/{package}") };
        self.watch_dir(&of_package);
        for output in &request.outputs {
            self.watch_dir(output.path.parent().unwrap_or(BIN_ROOT));
        }
        let written = request.command.files.iter().map(|file| &file.path).chain(&request.depfile);
        for path in request.outputs.iter().map(|output| &output.path).chain(written) {
            for at in from(path.as_str()) {
                if self.own.contains(at) {
                    break;
                }
                self.own.insert(at.to_owned());
            }
        }
    }

    fn watch_dir(&mut self, dir: &str) {
        if self.before.contains_key(dir) {
            return;
        }
        let Ok(dir) = WsPath::new(dir) else { return };
        // What cannot be listed is not told of.
        if let Ok(found) = self.tree.list(&dir) {
            self.before.insert(dir, found.into_iter().map(|(name, _)| name).collect());
        }
    }

    /// A sentence on what is there now, was not before, and is declared by nobody; for the end, when nothing runs.
    pub(crate) fn appeared(&self) -> Option<String> {
        let mut found = Vec::new();
        for (dir, before) in &self.before {
            let there = self.tree.list(dir).unwrap_or_default().into_iter();
            let new = there.filter(|(name, _)| !before.contains(name));
            let new = new.map(|(name, is_dir)| (format!("{dir}/{name}"), is_dir));
            found.extend(new.filter(|(path, _)| !self.own.contains(path)));
        }
        if !found.is_empty() {
            // Only now all of what was loaded has to be looked through.
            let declared = self.declared();
            found.retain(|(path, _)| !declared.contains(path.as_str()));
        }
        found.sort_unstable();
        let shown = |(path, is_dir)| if is_dir { format!("`{path}/`") } else { format!("`{path}`") };
        sentence(&found.into_iter().map(shown).collect::<Vec<_>>())
    }

    /// Paths of outputs and of the directories above them.
    fn declared(&self) -> FxHashSet<&str> {
        let made = self.model.artifacts.iter().filter(|artifact| artifact.producer.is_some());
        let mut declared = FxHashSet::default();
        for artifact in made {
            // Above what is known all is.
            let _ = from(artifact.path.as_str()).all(|at| declared.insert(at));
        }
        declared
    }
}

/// A path and the directories above it, the nearest first.
fn from(path: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(Some(path), |at| at.rsplit_once('/').map(|(above, _)| above))
}

fn sentence(found: &[String]) -> Option<String> {
    if found.is_empty() {
        return None;
    }
    let named = found[..found.len().min(MOST_NAMED)].join(", ");
    let more = if found.len() > MOST_NAMED { format!(" and {} more", found.len() - MOST_NAMED) } else { String::new() };
    Some(format!(
        "commands left what no target declares: {named}{more}\n\
         hint: declare what is needed as outputs; what is not belongs in `$TMPDIR`"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_and_what_is_above() {
        assert_eq!(from("a/b/c").collect::<Vec<_>>(), ["a/b/c", "a/b", "a"]);
    }

    #[test]
    fn as_many_are_named_as_fit() {
        let names = |count: usize| (0..count).map(|n| format!("`f{n}`")).collect::<Vec<_>>();
        assert_eq!(sentence(&names(0)), None);
        for (count, end) in [(1, "declares: `f0`\n"), (10, "`f9`\n"), (12, "`f9` and 2 more\n")] {
            let text = sentence(&names(count)).expect("there are some");
            assert!(text.contains(end), "{text}");
        }
    }
}
