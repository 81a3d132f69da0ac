//! The part of a graph that some goals need. It does not know what is up to date.

use minibuild_core::{ActionId, Model};
use minibuild_graph::{ActionGraph, CycleError, Node, NodeKind};

use super::Goal;

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
    pub fn new(model: &Model, goals: &[Goal]) -> Result<Self, CycleError> {
        let graph = ActionGraph::new(model);
        let mut roots: Vec<ActionId> = Vec::new();
        for goal in goals {
            let artifacts = goal.artifacts.iter().chain(&goal.runfiles);
            roots.extend(artifacts.filter_map(|&a| model.artifact(a).producer).chain(goal.test));
        }
        let order = graph.order(&roots, |action| model.action_key_path(action))?;
        Ok(Self { graph, order })
    }

    /// The wanted actions and sets, each after what it needs.
    pub fn nodes(&self) -> impl Iterator<Item = NodeKind> {
        self.order.iter().map(|&node| self.graph.kind(node))
    }

    /// The wanted actions.
    pub fn actions(&self) -> impl Iterator<Item = ActionId> {
        self.nodes().filter_map(|node| match node {
            NodeKind::Action(id) => Some(id),
            NodeKind::Set(_) => None,
        })
    }
}
