//! Who waits for whom: one dense table of nodes (actions, then shared sets) with edges in compressed rows.
//!
//! Sets are nodes of their own, so that a header set shared by a thousand compilations costs a thousand edges and
//! not a thousand times its size. petgraph's algorithms run on the table itself through its visit traits. It does
//! not know what an action does.

use std::collections::HashSet;

use minibuild_core::{ActionId, Input, Model, SetId};
use petgraph::Direction;
use petgraph::visit::{
    GraphBase, GraphRef, IntoNeighbors, IntoNeighborsDirected, IntoNodeIdentifiers, NodeCount, NodeIndexable, Visitable,
};

/// A row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Node(u32);

impl Node {
    /// The row.
    pub fn index(self) -> usize {
        self.0 as usize
    }

    fn new(index: usize) -> Self {
        Self(u32::try_from(index).expect("fewer than 2^32 actions and sets"))
    }
}

/// What a row stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeKind {
    /// An action.
    Action(ActionId),
    /// A shared set: done as soon as everything in it is.
    Set(SetId),
}

/// Rows of edges: those of row `i` are `targets[starts[i]..starts[i + 1]]`.
#[derive(Debug, Default)]
struct Rows {
    starts: Vec<u32>,
    targets: Vec<Node>,
}

impl Rows {
    fn of(&self, node: Node) -> &[Node] {
        &self.targets[self.starts[node.index()] as usize..self.starts[node.index() + 1] as usize]
    }

    /// The same edges the other way round.
    fn reversed(&self) -> Self {
        let count = self.starts.len() - 1;
        let mut starts = vec![0_u32; count + 1];
        for target in &self.targets {
            starts[target.index() + 1] += 1;
        }
        for i in 0..count {
            starts[i + 1] += starts[i];
        }
        let mut at = starts.clone();
        let mut targets = vec![Node(0); self.targets.len()];
        for row in 0..count {
            for &target in self.of(Node::new(row)) {
                let slot = &mut at[target.index()];
                targets[*slot as usize] = Node::new(row);
                *slot += 1;
            }
        }
        Self { starts, targets }
    }
}

/// The graph of all loaded actions.
#[derive(Debug)]
pub struct ActionGraph {
    actions: usize,
    /// node -> what it needs.
    needs: Rows,
    /// node -> what needs it.
    needed_by: Rows,
}

/// Actions that need each other in a circle, which no rule file can express; found here all the same.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("bug: actions depend on each other in a circle: {}", .0.join(" -> "))]
pub struct CycleError(pub Vec<String>);

impl ActionGraph {
    /// The graph of a model.
    pub fn new(model: &Model) -> Self {
        let mut needs = Rows { starts: vec![0], targets: Vec::new() };
        let mut row = Vec::new();
        let actions = model.actions.len();
        let mut close = |row: &mut Vec<Node>| {
            row.sort_unstable();
            row.dedup();
            needs.targets.append(row);
            needs.starts.push(u32::try_from(needs.targets.len()).expect("fewer than 2^32 edges"));
        };
        let node_of = |input: Input| match input {
            Input::Artifact(id) => model.artifact(id).producer.map(|p| Node::new(p.index())),
            Input::Set(id) => Some(Node::new(actions + id.index())),
        };
        for action in &model.actions {
            row.extend(action.inputs.iter().chain(&action.discoverable).filter_map(|&i| node_of(i)));
            close(&mut row);
        }
        for set in &model.sets {
            row.extend(set.items.iter().filter_map(|&i| node_of(i)));
            close(&mut row);
        }
        let needed_by = needs.reversed();
        Self { actions, needs, needed_by }
    }

    /// Number of rows: actions and sets.
    pub fn len(&self) -> usize {
        self.needs.starts.len() - 1
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The row of an action.
    pub fn node(&self, action: ActionId) -> Node {
        Node::new(action.index())
    }

    /// What a row stands for.
    pub fn kind(&self, node: Node) -> NodeKind {
        match node.index().checked_sub(self.actions) {
            None => NodeKind::Action(ActionId::new(node.index())),
            Some(set) => NodeKind::Set(SetId::new(set)),
        }
    }

    /// What `node` needs directly.
    pub fn needs(&self, node: Node) -> &[Node] {
        self.needs.of(node)
    }

    /// What needs `node` directly.
    pub fn needed_by(&self, node: Node) -> &[Node] {
        self.needed_by.of(node)
    }

    /// The actions that need `action`'s outputs directly, through sets too. Each once.
    pub fn consumers(&self, action: ActionId) -> Vec<ActionId> {
        let mut seen = HashSet::new();
        let mut found = Vec::new();
        let mut stack = vec![self.node(action)];
        while let Some(node) = stack.pop() {
            for &next in self.needed_by(node) {
                if !seen.insert(next) {
                    continue;
                }
                match self.kind(next) {
                    NodeKind::Action(id) => found.push(id),
                    NodeKind::Set(_) => stack.push(next),
                }
            }
        }
        found
    }

    /// All rows that `roots` need, themselves included, each after everything it needs.
    ///
    /// # Errors
    /// A [`CycleError`] where there is no such order.
    pub fn order(&self, roots: &[ActionId], name: impl Fn(ActionId) -> String) -> Result<Vec<Node>, CycleError> {
        const NEW: u8 = 0;
        const OPEN: u8 = 1;
        const DONE: u8 = 2;
        let mut state = vec![NEW; self.len()];
        let mut order = Vec::new();
        // Depth first with a stack of our own: graphs are deeper than threads' stacks.
        let mut stack: Vec<(Node, usize)> = Vec::new();
        for &root in roots {
            let root = self.node(root);
            if state[root.index()] == NEW {
                state[root.index()] = OPEN;
                stack.push((root, 0));
            }
            while let Some((node, next)) = stack.last_mut() {
                match self.needs(*node).get(*next) {
                    None => {
                        state[node.index()] = DONE;
                        order.push(*node);
                        stack.pop();
                    }
                    Some(&need) => {
                        *next += 1;
                        match state[need.index()] {
                            NEW => {
                                state[need.index()] = OPEN;
                                stack.push((need, 0));
                            }
                            OPEN => return Err(self.cycle(&stack, need, name)),
                            _ => {}
                        }
                    }
                }
            }
        }
        Ok(order)
    }

    fn cycle(&self, stack: &[(Node, usize)], closing: Node, name: impl Fn(ActionId) -> String) -> CycleError {
        let on_path = stack.iter().map(|&(node, _)| node).skip_while(|&node| node != closing).chain([closing]);
        let names = on_path.filter_map(|node| match self.kind(node) {
            NodeKind::Action(id) => Some(name(id)),
            NodeKind::Set(_) => None,
        });
        CycleError(names.collect())
    }
}

impl GraphBase for ActionGraph {
    type NodeId = Node;
    type EdgeId = (Node, Node);
}

impl NodeCount for ActionGraph {
    fn node_count(&self) -> usize {
        self.len()
    }
}

impl NodeIndexable for ActionGraph {
    fn node_bound(&self) -> usize {
        self.len()
    }
    fn to_index(&self, node: Node) -> usize {
        node.index()
    }
    fn from_index(&self, index: usize) -> Node {
        Node::new(index)
    }
}

impl Visitable for ActionGraph {
    type Map = HashSet<Node>;
    fn visit_map(&self) -> Self::Map {
        HashSet::new()
    }
    fn reset_map(&self, map: &mut Self::Map) {
        map.clear();
    }
}

/// Handle for petgraph's algorithms: edges point from what is needed to what needs it.
impl<'a> IntoNeighbors for &'a ActionGraph {
    type Neighbors = std::iter::Copied<std::slice::Iter<'a, Node>>;
    fn neighbors(self, node: Node) -> Self::Neighbors {
        self.needed_by(node).iter().copied()
    }
}

impl<'a> IntoNeighborsDirected for &'a ActionGraph {
    type NeighborsDirected = std::iter::Copied<std::slice::Iter<'a, Node>>;
    fn neighbors_directed(self, node: Node, direction: Direction) -> Self::NeighborsDirected {
        match direction {
            Direction::Outgoing => self.needed_by(node).iter().copied(),
            Direction::Incoming => self.needs(node).iter().copied(),
        }
    }
}

impl IntoNodeIdentifiers for &ActionGraph {
    type NodeIdentifiers = std::iter::Map<std::ops::Range<usize>, fn(usize) -> Node>;
    fn node_identifiers(self) -> Self::NodeIdentifiers {
        (0..self.len()).map(Node::new as fn(usize) -> Node)
    }
}

const _: fn() = || {
    fn usable<G: GraphRef + IntoNeighborsDirected + IntoNodeIdentifiers + Visitable + NodeIndexable>() {}
    usable::<&ActionGraph>();
};

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::Arc;

    use minibuild_core::{Action, ActionKind, Artifact, ArtifactId, ArtifactKind, ArtifactSet, TargetId, WsPath};

    use super::*;

    /// A model of actions `0..n` with one output each, and edges (consumer, producer), some through sets.
    pub(crate) fn model(n: usize, edges: &[(usize, usize)], sets: &[&[usize]], uses: &[(usize, usize)]) -> Model {
        let mut model = Model::default();
        for i in 0..n {
            model.artifacts.push(Artifact {
                path: WsPath::new(&format!("minibuild-out/bin/o{i}")).expect("valid"),
                kind: ArtifactKind::File,
                producer: Some(ActionId::new(i)),
            });
        }
        for members in sets {
            let items = members.iter().map(|&m| Input::Artifact(ArtifactId::new(m))).collect();
            model.sets.push(ArtifactSet { items });
        }
        for i in 0..n {
            let direct = edges.iter().filter(|e| e.0 == i).map(|e| Input::Artifact(ArtifactId::new(e.1)));
            let shared = uses.iter().filter(|u| u.0 == i).map(|u| Input::Set(SetId::new(u.1)));
            model.actions.push(Action {
                target: TargetId::new(0),
                mnemonic: Arc::from("Test"),
                kind: ActionKind::Spawn,
                inputs: direct.chain(shared).collect(),
                discoverable: Box::default(),
                outputs: Box::new([ArtifactId::new(i)]),
                depfile: None,
                host_tools: Box::default(),
                tags: Default::default(),
                timeout: None,
                platform: Arc::from([]),
                resources: Default::default(),
            });
        }
        model
    }

    fn order(graph: &ActionGraph, roots: &[usize]) -> Vec<usize> {
        let roots: Vec<_> = roots.iter().map(|&r| ActionId::new(r)).collect();
        let order = graph.order(&roots, |a| a.index().to_string()).expect("no cycle");
        order.into_iter().map(Node::index).collect()
    }

    #[test]
    fn order_has_needs_first_and_only_what_is_needed() {
        let model = model(5, &[(1, 0), (2, 1), (2, 0)], &[], &[]);
        let graph = ActionGraph::new(&model);
        assert_eq!(order(&graph, &[2]), [0, 1, 2]);
        assert_eq!(order(&graph, &[3]), [3]);
    }

    #[test]
    fn sets_are_nodes_between() {
        let model = model(4, &[], &[&[0, 1]], &[(2, 0), (3, 0)]);
        let graph = ActionGraph::new(&model);
        assert_eq!(graph.len(), 5);
        assert_eq!(order(&graph, &[3]), [0, 1, 4, 3]);
        let mut consumers = graph.consumers(ActionId::new(0));
        consumers.sort();
        assert_eq!(consumers, [ActionId::new(2), ActionId::new(3)]);
    }

    #[test]
    fn a_circle_is_an_error_that_shows_the_path() {
        let model = model(3, &[(0, 1), (1, 2), (2, 0)], &[], &[]);
        let found = ActionGraph::new(&model).order(&[ActionId::new(0)], |a| format!("a{}", a.index()));
        assert_eq!(found, Err(CycleError(vec!["a0".into(), "a1".into(), "a2".into(), "a0".into()])));
    }

    #[test]
    fn petgraph_agrees_on_the_order() {
        let model = model(6, &[(1, 0), (2, 1), (5, 4), (4, 0)], &[&[1, 2]], &[(3, 0)]);
        let graph = ActionGraph::new(&model);
        let sorted = petgraph::algo::toposort(&graph, None).expect("acyclic");
        let at = |node: Node| sorted.iter().position(|&n| n == node);
        for node in graph.node_identifiers() {
            for &need in graph.needs(node) {
                assert!(at(need) < at(node), "{need:?} before {node:?}");
            }
        }
        assert_eq!(petgraph::algo::tarjan_scc(&graph).len(), graph.len());
    }
}
