//! Provider field values as shared nodes: own units and the nodes that are handed on. Merging is one walk over the
//! nodes, linear in their edges, which equals writing everything out and keeping one of equal units.
//! Knows nothing of templates.

use std::sync::Arc;

use minibuild_core::{ArtifactId, HostToolId, Input};
use rustc_hash::FxHashSet;

use super::rule::Order;

/// What is kept or dropped as a whole.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Unit {
    /// A text of a `strings` field.
    Text(Arc<str>),
    /// A file of a `files` field.
    File(ArtifactId),
    /// All that one entry of one target gives to an `args` field.
    Group(Box<[Arc<str>]>),
}

/// The value of one field: of one target, or merged over the targets of an attribute.
#[derive(Debug, Default)]
pub struct FieldNode {
    /// The target's own.
    pub own: Box<[Unit]>,
    /// Nodes that are handed on, in order.
    pub children: Box<[Arc<FieldNode>]>,
    /// All files it carries, those of children included.
    pub files: Option<Input>,
    /// Runtime files of runnable programs among [`Self::files`], which count where the files are runfiles.
    pub run_files: Option<Input>,
    /// Host programs whose names are in its texts.
    pub host_tools: Box<[HostToolId]>,
    /// Whether there is any unit, here or below.
    pub has_units: bool,
}

/// The fields of one provider of one target, by index; what `Provided` carries.
#[derive(Debug)]
pub struct ProviderFields(pub Vec<Arc<FieldNode>>);

impl Drop for FieldNode {
    /// Takes long chains apart in a loop: dropped by recursion they could overflow the stack.
    fn drop(&mut self) {
        let mut open = std::mem::take(&mut self.children).into_vec();
        while let Some(child) = open.pop() {
            if let Some(mut node) = Arc::into_inner(child) {
                open.extend(std::mem::take(&mut node.children));
            }
        }
    }
}

impl FieldNode {
    /// A node that carries nothing yet.
    pub fn new(own: Vec<Unit>, children: Vec<Arc<FieldNode>>) -> Self {
        let has_units = !own.is_empty() || children.iter().any(|child| child.has_units);
        let (own, children) = (own.into(), children.into());
        Self { own, children, files: None, run_files: None, host_tools: Box::default(), has_units }
    }

    /// The units in order, each once.
    pub fn merged(&self, order: Order) -> Vec<&Unit> {
        let mut walk = Walk { seen: FxHashSet::default(), nodes: FxHashSet::default(), units: Vec::new() };
        match order {
            Order::Preorder => walk.preorder(self),
            Order::Postorder => walk.postorder(self),
            Order::Topological => {
                walk.reversed(self);
                walk.units.reverse();
            }
        }
        walk.units
    }
}

/// A walk that meets each node once: a second visit would only meet units that are there already.
struct Walk<'a> {
    seen: FxHashSet<&'a Unit>,
    nodes: FxHashSet<*const FieldNode>,
    units: Vec<&'a Unit>,
}

/// A step of a walk; an explicit stack keeps deep chains of libraries off the thread's own.
enum Step<'a> {
    Enter(&'a FieldNode),
    Own(&'a FieldNode),
}

impl<'a> Walk<'a> {
    fn keep(&mut self, unit: &'a Unit) {
        if self.seen.insert(unit) {
            self.units.push(unit);
        }
    }

    fn preorder(&mut self, root: &'a FieldNode) {
        let mut stack = vec![root];
        while let Some(node) = stack.pop() {
            if self.nodes.insert(std::ptr::from_ref(node)) {
                node.own.iter().for_each(|unit| self.keep(unit));
                stack.extend(node.children.iter().rev().map(|child| &**child));
            }
        }
    }

    fn postorder(&mut self, root: &'a FieldNode) {
        let mut stack = vec![Step::Enter(root)];
        while let Some(step) = stack.pop() {
            match step {
                Step::Own(node) => node.own.iter().for_each(|unit| self.keep(unit)),
                Step::Enter(node) => {
                    if self.nodes.insert(std::ptr::from_ref(node)) {
                        stack.push(Step::Own(node));
                        stack.extend(node.children.iter().rev().map(|child| Step::Enter(child)));
                    }
                }
            }
        }
    }

    /// The mirror image of own-first with the last kept: children from the last, own from its end, first kept.
    fn reversed(&mut self, root: &'a FieldNode) {
        let mut stack = vec![Step::Enter(root)];
        while let Some(step) = stack.pop() {
            match step {
                Step::Own(node) => node.own.iter().rev().for_each(|unit| self.keep(unit)),
                Step::Enter(node) => {
                    if self.nodes.insert(std::ptr::from_ref(node)) {
                        stack.push(Step::Own(node));
                        stack.extend(node.children.iter().map(|child| Step::Enter(child)));
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn node(own: &[&str], children: &[Arc<FieldNode>]) -> Arc<FieldNode> {
        let own = own.iter().map(|text| Unit::Text(Arc::from(*text))).collect();
        Arc::new(FieldNode::new(own, children.to_vec()))
    }

    fn show(node: &FieldNode, order: Order) -> String {
        let units = node.merged(order);
        let texts = units.iter().map(|unit| match unit {
            Unit::Text(text) => text.to_string(),
            other => format!("{other:?}"),
        });
        texts.collect::<Vec<_>>().join(" ")
    }

    /// What the contract says: write everything out, then keep one of equal units.
    fn by_definition(node: &FieldNode, order: Order) -> Vec<&Unit> {
        fn all<'a>(node: &'a FieldNode, own_last: bool, out: &mut Vec<&'a Unit>) {
            if !own_last {
                out.extend(&node.own);
            }
            node.children.iter().for_each(|child| all(child, own_last, out));
            if own_last {
                out.extend(&node.own);
            }
        }
        let mut units = Vec::new();
        all(node, order == Order::Postorder, &mut units);
        let last_kept = order == Order::Topological;
        if last_kept {
            units.reverse();
        }
        let mut seen = FxHashSet::default();
        units.retain(|unit| seen.insert(*unit));
        if last_kept {
            units.reverse();
        }
        units
    }

    #[test]
    fn a_diamond_in_each_order() {
        let base = node(&["base"], &[]);
        let left = node(&["left"], std::slice::from_ref(&base));
        let right = node(&["right"], &[base]);
        let top = node(&["top"], &[left, right]);
        assert_eq!(show(&top, Order::Preorder), "top left base right");
        assert_eq!(show(&top, Order::Postorder), "base left right top");
        assert_eq!(show(&top, Order::Topological), "top left right base");
    }

    #[test]
    fn a_long_chain_needs_no_deep_stack_and_a_wide_ladder_no_long_time() {
        let mut chain = node(&["0"], &[]);
        let mut ladder = node(&["0"], &[]);
        for n in 1..20_000 {
            chain = node(&[&n.to_string()], &[chain]);
        }
        for n in 1..200 {
            // Written out this would be 2^200 units.
            ladder = node(&[&n.to_string()], &[ladder.clone(), node(&[], &[ladder])]);
        }
        for order in [Order::Preorder, Order::Postorder, Order::Topological] {
            assert_eq!(chain.merged(order).len(), 20_000);
            assert_eq!(ladder.merged(order).len(), 200);
        }
    }

    proptest! {
        #[test]
        fn the_walk_equals_the_definition(
            rows in proptest::collection::vec((proptest::collection::vec(0_u8..6, 0..3), proptest::collection::vec(any::<proptest::sample::Index>(), 0..4)), 1..9),
        ) {
            let mut nodes: Vec<Arc<FieldNode>> = Vec::new();
            for (own, children) in rows {
                let own: Vec<String> = own.iter().map(ToString::to_string).collect();
                let own: Vec<&str> = own.iter().map(String::as_str).collect();
                let children: Vec<_> = if nodes.is_empty() { Vec::new() } else { children.iter().map(|at| at.get(&nodes).clone()).collect() };
                nodes.push(node(&own, &children));
            }
            let root = nodes.last().expect("at least one row");
            for order in [Order::Preorder, Order::Postorder, Order::Topological] {
                prop_assert_eq!(root.merged(order), by_definition(root, order));
            }
        }
    }
}
