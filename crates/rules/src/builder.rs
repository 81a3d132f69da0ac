//! The model under construction: interning of artifacts, conflicts of outputs.

use minibuild_core::{
    Action, ActionId, Artifact, ArtifactId, ArtifactKind, ArtifactSet, HostTool, HostToolId, Input, Model, SetId,
    WsPath,
};
use rustc_hash::FxHashMap;

/// Makes a [`Model`]; each artifact path, host tool has one id.
#[derive(Default)]
pub struct ModelBuilder {
    /// What is made so far.
    pub model: Model,
    by_path: FxHashMap<WsPath, ArtifactId>,
    tools: FxHashMap<HostTool, HostToolId>,
}

impl ModelBuilder {
    /// The source file at `path`.
    pub fn source(&mut self, path: WsPath) -> ArtifactId {
        if let Some(&id) = self.by_path.get(&path) {
            return id;
        }
        self.insert(Artifact { path, kind: ArtifactKind::Source, producer: None })
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
        match self.by_path.get(&path) {
            Some(&taken) => Err(taken),
            None => Ok(self.insert(Artifact { path, kind, producer: Some(producer) })),
        }
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

    fn insert(&mut self, artifact: Artifact) -> ArtifactId {
        let id = ArtifactId::new(self.model.artifacts.len());
        self.by_path.insert(artifact.path.clone(), id);
        self.model.artifacts.push(artifact);
        id
    }
}
