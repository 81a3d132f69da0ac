//! What to start first: the longest chain of work ahead, what failed last time before everything.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use minibuild_core::ActionId;

use crate::topology::{ActionGraph, Node, NodeKind};

/// How urgent an action is; larger is sooner.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Priority {
    /// It failed in the last build that tried it: whoever repairs it wants to know at once.
    pub failed_last: bool,
    /// Predicted time from its start to the end of the longest chain behind it.
    pub remaining: Duration,
}

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

/// Actions that may start now, most urgent first.
#[derive(Debug, Default)]
pub struct ReadyQueue {
    heap: BinaryHeap<(Priority, Reverse<ActionId>)>,
}

impl ReadyQueue {
    /// Adds an action.
    pub fn push(&mut self, action: ActionId, priority: Priority) {
        self.heap.push((priority, Reverse(action)));
    }

    /// Takes the most urgent; of equals the one loaded first.
    pub fn pop(&mut self) -> Option<(ActionId, Priority)> {
        self.heap.pop().map(|(priority, Reverse(action))| (action, priority))
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.heap.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.heap.is_empty()
    }
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

    #[test]
    fn failed_last_comes_first_then_the_longest_then_load_order() {
        let mut queue = ReadyQueue::default();
        let at = |failed_last, s| Priority { failed_last, remaining: Duration::from_secs(s) };
        queue.push(ActionId::new(1), at(false, 5));
        queue.push(ActionId::new(3), at(false, 9));
        queue.push(ActionId::new(0), at(false, 5));
        queue.push(ActionId::new(2), at(true, 1));
        let order: Vec<_> = std::iter::from_fn(|| queue.pop()).map(|(a, _)| a.index()).collect();
        assert_eq!(order, [2, 3, 0, 1]);
    }
}
