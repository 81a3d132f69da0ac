//! The order of the actions of a rule, from who names whose outputs; circles. Knows nodes, not entries.

use minibuild_diagnostics::diag::{Diagnostic, Diagnostics, Span};

use super::entries::{Findings, Node};
use super::scope::Scope;

/// Indices of the actions, each after those it needs; complains about the first circle found.
pub fn of_actions(scope: &Scope<'_>, found: &Findings, diags: &mut Diagnostics) -> Vec<u16> {
    let mut search = Search { found, done: Vec::new(), open: Vec::new(), circle: None };
    for at in 0..scope.actions.len() {
        search.visit(Node::Action(u16::try_from(at).unwrap_or(u16::MAX)));
    }
    if let Some(circle) = &search.circle {
        diags.push(describe(scope, circle));
    }
    let actions = search.done.iter().filter_map(|node| match node {
        Node::Action(at) => Some(*at),
        Node::List(_) | Node::Rule => None,
    });
    actions.collect()
}

struct Search<'a> {
    found: &'a Findings,
    done: Vec<Node>,
    open: Vec<Node>,
    circle: Option<Vec<Node>>,
}

impl Search<'_> {
    /// Depth first. The depth is that of chains of actions within one rule.
    fn visit(&mut self, node: Node) {
        if self.done.contains(&node) || self.circle.is_some() {
            return;
        }
        if let Some(at) = self.open.iter().position(|open| *open == node) {
            self.circle = Some(self.open[at..].to_vec());
            return;
        }
        self.open.push(node);
        for &(_, to) in self.found.mentions.range((node, Node::Rule)..).take_while(|(from, _)| *from == node) {
            self.visit(to);
        }
        self.open.pop();
        self.done.push(node);
    }
}

fn describe(scope: &Scope<'_>, circle: &[Node]) -> Diagnostic {
    let named = |node: &Node| -> (&str, Option<Span>) {
        match node {
            Node::List(at) => (&scope.lists[usize::from(*at)].name, Some(scope.lists[usize::from(*at)].span)),
            Node::Action(at) => (&scope.actions[usize::from(*at)].name, Some(scope.actions[usize::from(*at)].span)),
            Node::Rule => ("the rule", None),
        }
    };
    let mut names: Vec<&str> = circle.iter().map(|node| named(node).0).collect();
    names.extend(names.first().copied());
    let message = format!("a circle: `{}`", names.join("` needs `"));
    let mut spans = circle.iter().filter_map(|node| named(node).1);
    let diagnostic =
        spans.next().map_or_else(|| Diagnostic::error(message.clone()), |span| Diagnostic::at(span, message.clone()));
    spans.fold(diagnostic, |diagnostic, span| diagnostic.note(span, "by way of this"))
}
