//! Why an action runs: what differs between the facts it has now and those of its newest result.

use minibuild_core::ActionId;
use minibuild_graph::{Change, diff, reason, summarise};

use super::{Machine, key_path};

/// Why an action runs, or ran.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// In words: nothing of its facts has to differ.
    Said(String),
    /// These facts differ; never empty.
    Changed(Vec<Change>),
}

impl Why {
    /// One line, with the first change and how many more there are.
    pub fn in_short(&self) -> String {
        match self {
            Self::Said(text) => text.clone(),
            Self::Changed(changes) => reason(changes).unwrap_or_default(),
        }
    }

    /// A line for each change.
    pub fn in_full(&self) -> Vec<String> {
        match self {
            Self::Said(text) => vec![text.clone()],
            Self::Changed(changes) => changes.iter().map(summarise).collect(),
        }
    }
}

impl Machine {
    /// Why the action runs, from what differs to its newest known result. What only the names of unread inputs could
    /// tell is no reason.
    pub(super) fn why_run(&self, action: ActionId, manifest: &str) -> Why {
        if let Some(reason) = self.forced.get(&action) {
            return Why::Said(reason.clone());
        }
        let Some(record) = self.state.action(&key_path(&self.model, action)) else {
            return Why::Said("nothing is known of it yet".to_owned());
        };
        let Some(newest) = record.results.first() else {
            let how = if record.failed { "it failed" } else { "it did not finish" };
            return Why::Said(format!("{how} when it last ran"));
        };
        let mut changes = self.state.manifest(newest.manifest).map(|old| diff(&old, manifest)).unwrap_or_default();
        if let Some(pruned) = &newest.pruned {
            let is_unread = |change: &Change| {
                change.kind == "discoverable"
                    && (change.old.is_some() && change.new.is_some())
                    && !pruned.read.iter().any(|path| path.as_str() == change.name)
            };
            changes.retain(|change| !is_unread(change));
        }
        if !changes.is_empty() {
            return Why::Changed(changes);
        }
        Why::Said(match record.failed {
            true => "it failed when it last ran".to_owned(),
            false if self.is_test(action) => "its result is not reused".to_owned(),
            false => "its last result cannot be used".to_owned(),
        })
    }
}
