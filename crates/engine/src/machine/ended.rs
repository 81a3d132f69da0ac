//! What is known when a build is over: what a later build may start from.

use std::sync::Arc;

use minibuild_core::{ActionId, ArtifactId, CommandSource, Content, Fingerprint, Model};
use minibuild_graph::{HostToolFact, Node, NodeKind};

use super::{Goals, Machine, Status, key_path};
use crate::state::State;

/// A build that is over.
pub struct Ended<'a> {
    machine: &'a mut Machine,
}

impl Machine {
    /// What is known now; to be asked for after the end.
    pub fn ended(&mut self) -> Ended<'_> {
        Ended { machine: self }
    }
}

impl Ended<'_> {
    /// What was built from.
    pub fn model(&self) -> Arc<Model> {
        self.machine.model.clone()
    }

    /// Makes its commands.
    pub fn commands(&self) -> Arc<dyn CommandSource> {
        self.machine.commands.clone()
    }

    /// What was asked for.
    pub fn goals(&self) -> &Goals {
        &self.machine.goals
    }

    /// Wanted actions and sets, each after what it needs.
    pub fn order(&self) -> impl Iterator<Item = NodeKind> {
        self.machine.order.iter().map(|&node: &Node| self.machine.graph.kind(node))
    }

    /// What a source holds, or an action made.
    pub fn content(&self, id: ArtifactId) -> Option<&Content> {
        self.machine.known[id.index()].as_ref()
    }

    /// Under which fingerprint that lies on disk; a zero one for directories.
    pub fn here(&self, id: ArtifactId) -> Option<Fingerprint> {
        self.machine.bytes.here(id)
    }

    /// Host programs that were looked up.
    pub fn tool(&self, id: minibuild_core::HostToolId) -> Option<&HostToolFact> {
        self.machine.world.tools.get(&id)?.as_ref().ok()
    }

    /// Whether the next build would find the action up to date if nothing changed: its result is known, and remembered
    /// as what it made.
    pub fn is_settled(&self, action: ActionId) -> bool {
        let machine = &self.machine;
        let is_odd = machine.unrecorded.contains(&action) || machine.littered.contains(&action);
        if machine.status_of(action) != Status::Done || is_odd {
            return false;
        }
        let record = machine.state.action(&key_path(&machine.model, action));
        let Some(newest) = record.and_then(|record| record.results.first()) else { return false };
        let outputs = &machine.model.action(action).outputs;
        outputs.len() == newest.outputs.len()
            && outputs.iter().zip(&newest.outputs).all(|(&id, meta)| self.content(id) == Some(&meta.content))
    }

    /// The state.
    pub fn state(&mut self) -> &mut State {
        &mut self.machine.state
    }

    /// The state, to be read.
    pub fn read_state(&self) -> &State {
        &self.machine.state
    }
}
