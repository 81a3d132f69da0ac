//! The model under construction: interning of artifacts, conflicts of outputs.

use minibuild_core::{
    Action, ActionId, Artifact, ArtifactId, ArtifactKind, ArtifactSet, HostTool, HostToolId, Input, Model, SetId,
    WsPath,
};
use rustc_hash::FxHashMap;
use std::collections::hash_map::{Entry, VacantEntry};

/// Makes a [`Model`]; each artifact path, host tool has one id.
#[derive(Default)]
pub struct ModelBuilder {
    /// What is made so far.
    pub model: Model,
    by_path: FxHashMap<WsPath, ArtifactId>,
    tools: FxHashMap<HostTool, HostToolId>,
    /// Some path means something to a shell.
    has_unsafe_path: bool,
    longest_path: usize,
}

/// Whether a byte of a path means nothing to the shell; those of characters beyond ASCII never do.
pub fn is_shell_safe(byte: u8) -> bool {
    matches!(byte, b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | 0x80..)
        || matches!(byte, b'_' | b'-' | b'+' | b'=' | b':' | b',' | b'.' | b'/' | b'@' | b'%' | b'^')
}

impl ModelBuilder {
    /// An empty model with room for so many files and actions.
    pub fn with_capacity(artifacts: usize, actions: usize) -> Self {
        let mut builder = Self::default();
        builder.by_path.reserve(artifacts);
        builder.model.artifacts.reserve(artifacts);
        builder.model.actions.reserve(actions);
        builder
    }

    /// The source file at `path`.
    pub fn source(&mut self, path: WsPath) -> ArtifactId {
        match self.by_path.entry(path) {
            Entry::Occupied(known) => *known.get(),
            Entry::Vacant(free) => {
                (self.has_unsafe_path, self.longest_path) = note(free.key(), self.has_unsafe_path, self.longest_path);
                add(&mut self.model, free, ArtifactKind::Source, None)
            }
        }
    }

    /// The artifact at a path.
    pub fn find(&self, path: &str) -> Option<ArtifactId> {
        self.by_path.get(path).copied()
    }

    /// Declares an output of the action that will be added next or has id `producer`.
    ///
    /// # Errors
    /// The artifact that has the path already: two actions declare one output.
    pub fn output(&mut self, path: WsPath, kind: ArtifactKind, producer: ActionId) -> Result<ArtifactId, ArtifactId> {
        match self.by_path.entry(path) {
            Entry::Occupied(taken) => Err(*taken.get()),
            Entry::Vacant(free) => {
                (self.has_unsafe_path, self.longest_path) = note(free.key(), self.has_unsafe_path, self.longest_path);
                Ok(add(&mut self.model, free, kind, Some(producer)))
            }
        }
    }

    /// Whether so many artifacts can for certain be listed in a text that a shell takes apart, of at most so many bytes. Spares
    /// looking at all their paths.
    pub fn can_list(&self, count: usize, bytes: usize) -> bool {
        !self.has_unsafe_path && count.saturating_mul(self.longest_path + 1) <= bytes
    }

    /// The id the next action will get: outputs are declared before their action is added.
    pub fn next_action(&self) -> ActionId {
        ActionId::new(self.model.actions.len())
    }

    /// Adds an action, whose id is [`Self::next_action`] of just before.
    pub fn add_action(&mut self, action: Action) -> ActionId {
        let id = self.next_action();
        self.model.actions.push(action);
        id
    }

    /// A set of these members; a single set is itself.
    pub fn set(&mut self, items: Vec<Input>) -> SetId {
        if let [Input::Set(only)] = items[..] {
            return only;
        }
        let id = SetId::new(self.model.sets.len());
        self.model.sets.push(ArtifactSet { items: items.into_boxed_slice() });
        id
    }

    /// The id of a host tool.
    pub fn host_tool(&mut self, tool: HostTool) -> HostToolId {
        let model = &mut self.model;
        *self.tools.entry(tool).or_insert_with_key(|tool| {
            model.host_tools.push(tool.clone());
            HostToolId::new(model.host_tools.len() - 1)
        })
    }
}

fn note(path: &WsPath, has_unsafe_path: bool, longest: usize) -> (bool, usize) {
    let text = path.as_str();
    (has_unsafe_path || !text.bytes().all(is_shell_safe), longest.max(text.len()))
}

fn add(
    model: &mut Model,
    free: VacantEntry<'_, WsPath, ArtifactId>,
    kind: ArtifactKind,
    producer: Option<ActionId>,
) -> ArtifactId {
    let id = ArtifactId::new(model.artifacts.len());
    model.artifacts.push(Artifact { path: free.key().clone(), kind, producer });
    *free.insert(id)
}
