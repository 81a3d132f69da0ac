//! Outputs that no target declares any more. It does not know why they are not.

use std::collections::HashSet;

use minibuild_core::{Kept, Model, StoreSide, WsPath};
use minibuild_disk::{DiskError, OutTree};

use crate::state::{ActionRecord, State};

/// So many actions that no target declares any more are remembered in any case.
const KEPT_UNDECLARED: usize = 1000;

/// What is looked at to find outputs that no target of a loaded package declares any more.
pub(crate) struct Sweep<'a> {
    pub model: &'a Model,
    /// Those that are loaded.
    pub packages: &'a [WsPath],
    pub tree: &'a OutTree,
    pub store: Option<&'a dyn StoreSide>,
}

impl Sweep<'_> {
    /// Removes them, or moves them into the store.
    ///
    /// # Errors
    /// The first that cannot be removed.
    pub fn run(&self, state: &mut State) -> Result<(), DiskError> {
        let model = self.model;
        let ids = || (0..model.actions.len()).map(minibuild_core::ActionId::new);
        let declared: HashSet<&str> =
            model.artifacts.iter().filter(|a| a.producer.is_some()).map(|a| a.path.as_str()).collect();
        let tests: HashSet<String> =
            ids().filter(|&id| model.action(id).outputs.is_empty()).map(|id| model.action_key_path(id)).collect();
        let loaded: HashSet<&str> = self.packages.iter().map(WsPath::as_str).collect();
        let is_declared = |path: &WsPath| declared.contains(path.as_str());
        // Most actions have nothing stale, and are only looked at.
        let has_stale = |record: &ActionRecord| {
            let made = record.results.iter().flat_map(|result| &result.outputs).map(|output| &output.path);
            let mut left = made.filter(|path| state.file(path.as_str()).is_some()).chain(&record.begun);
            left.any(|path| !is_declared(path))
        };
        let is_gone = |action: &str| !declared.contains(action) && !tests.contains(action);
        let (mut stale, mut gone): (Vec<String>, Vec<String>) = Default::default();
        for (action, record) in state.actions().filter(|(_, record)| loaded.contains(record.package.as_str())) {
            stale.extend(has_stale(record).then(|| action.to_owned()));
            gone.extend(is_gone(action).then(|| action.to_owned()));
        }
        for action in stale {
            for path in state.forget_undeclared(&action, is_declared) {
                if !self.keep(&path, state) {
                    self.tree.remove(&path)?;
                }
                state.forget_file(path.as_str());
            }
        }
        // With another branch or configuration they may be declared again.
        let most = KEPT_UNDECLARED.max(model.actions.len());
        if gone.len() > most {
            gone.sort_unstable();
            gone.iter().skip(most).for_each(|action| state.forget_action(action));
        }
        Ok(())
    }

    fn keep(&self, path: &WsPath, state: &State) -> bool {
        let (Some(store), Some(record)) = (self.store, state.file(path.as_str())) else { return false };
        let fingerprint = record.stamps.first().map(|stamp| stamp.fingerprint).unwrap_or_default();
        store.keep(&Kept { path: path.clone(), content: record.content.clone(), fingerprint })
    }
}
