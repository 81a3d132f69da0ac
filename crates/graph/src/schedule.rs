//! How much work lies ahead of each action: what to start first follows from it.

use std::time::Duration;

use minibuild_core::ActionId;

use crate::topology::{ActionGraph, Node, NodeKind};

/// For each row of `order` (a result of [`ActionGraph::order`]) the predicted time from its start to the end of the
/// build; indexed by row, zero for rows outside of `order`.
pub fn critical_path(graph: &ActionGraph, order: &[Node], predicted: impl Fn(ActionId) -> Duration) -> Vec<Duration> {
    let mut remaining = vec![Duration::ZERO; graph.len()];
    for &node in order.iter().rev() {
        let own = match graph.kind(node) {
            NodeKind::Action(action) => predicted(action),
            NodeKind::Set(_) => Duration::ZERO,
        };
        let total = remaining[node.index()] + own;
        remaining[node.index()] = total;
        for need in graph.needs(node) {
            let slot = &mut remaining[need.index()];
            *slot = (*slot).max(total);
        }
    }
    remaining
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::tests::model;

    #[test]
    fn remaining_time_is_the_longest_chain() {
        // 0 <- 1 <- 2 and 0 <- 3, all through a set for 3.
        let model = model(4, &[(1, 0), (2, 1)], &[&[0]], &[(3, 0)]);
        let graph = ActionGraph::new(&model);
        let roots = [ActionId::new(2), ActionId::new(3)];
        let order = graph.order(&roots, |_| String::new()).expect("acyclic");
        let seconds = [1, 2, 3, 10];
        let remaining = critical_path(&graph, &order, |a| Duration::from_secs(seconds[a.index()]));
        let of = |i: usize| remaining[i].as_secs();
        assert_eq!((of(0), of(1), of(2), of(3)), (11, 5, 3, 10));
    }
}
