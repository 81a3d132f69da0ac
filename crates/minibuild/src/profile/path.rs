//! The critical path: the chain of runs, each needing the one before, that took longest. Pure.

use std::collections::HashMap;
use std::time::Duration;

use minibuild_core::{ActionId, Model};
use minibuild_graph::{ActionGraph, Node, NodeKind};

/// The actions of the longest chain among those that ran for so long, first to last.
pub fn critical_path(model: &Model, ran: &HashMap<ActionId, Duration>) -> Vec<ActionId> {
    let graph = ActionGraph::new(model);
    let mut roots: Vec<ActionId> = ran.keys().copied().collect();
    roots.sort_unstable();
    // Only a bug of the loader makes a circle, and the build itself has told of it.
    let Ok(order) = graph.order(&roots, |action| model.action_key_path(action)) else { return Vec::new() };
    let mut chain: Vec<Duration> = vec![Duration::ZERO; graph.len()];
    let mut before: Vec<Option<Node>> = vec![None; graph.len()];
    let mut last: Option<Node> = None;
    for node in order {
        let longest = graph.needs(node).iter().copied().max_by_key(|need| chain[need.index()]);
        before[node.index()] = longest;
        let own = match graph.kind(node) {
            NodeKind::Action(action) => ran.get(&action).copied().unwrap_or_default(),
            NodeKind::Set(_) => Duration::ZERO,
        };
        chain[node.index()] = own + longest.map_or(Duration::ZERO, |need| chain[need.index()]);
        if last.is_none_or(|last| chain[last.index()] < chain[node.index()]) {
            last = Some(node);
        }
    }
    let nodes = std::iter::successors(last, |node| before[node.index()]);
    let actions = nodes.filter_map(|node| match graph.kind(node) {
        NodeKind::Action(action) => ran.contains_key(&action).then_some(action),
        NodeKind::Set(_) => None,
    });
    let mut path: Vec<ActionId> = actions.collect();
    path.reverse();
    path
}
