//! The part of a graph that some goals need. It does not know what is up to date.

use minibuild_core::{ActionId, Model};
use minibuild_graph::{ActionGraph, CycleError, Node, NodeKind};

use super::Goals;

/// The wanted part of a graph.
#[derive(Debug)]
pub struct Wanted {
    /// The whole graph.
    pub graph: ActionGraph,
    /// Wanted rows, each after what it needs.
    pub order: Vec<Node>,
}

impl Wanted {
    /// What `goals` need of `model`.
    ///
    /// # Errors
    /// A [`CycleError`], which only a bug of the loader can cause.
    pub fn new(model: &Model, goals: &Goals) -> Result<Self, CycleError> {
        let graph = ActionGraph::new(model);
        let mut roots: Vec<ActionId> = Vec::new();
        for goal in &goals.targets {
            let artifacts = goal.artifacts.iter().chain(&goal.runfiles);
            roots.extend(artifacts.filter_map(|&a| model.artifact(a).producer).chain(goal.test));
        }
        let order = graph.order(&roots, |action| model.action_key_path(action))?;
        Ok(Self { graph, order })
    }

    /// The wanted actions.
    pub fn actions(&self) -> impl Iterator<Item = ActionId> {
        self.order.iter().filter_map(|&node| match self.graph.kind(node) {
            NodeKind::Action(id) => Some(id),
            NodeKind::Set(_) => None,
        })
    }
}
