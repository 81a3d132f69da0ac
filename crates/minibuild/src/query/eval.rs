//! Answers to query expressions on the loaded targets. Pure; follows dependencies by iteration, however deep they are.

use minibuild_core::{ArtifactId, Model, TargetId};

use super::lex::{Flaw, Operator};
use super::parse::{Expr, Node};

/// What an expression stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// Targets, in the order of their ids.
    Targets(Vec<TargetId>),
    /// Targets, each a dependency of the one before.
    Path(Vec<TargetId>),
    /// Files, in the order of their ids.
    Files(Vec<ArtifactId>),
}

/// Answers questions about one model.
pub struct Evaluator<'a> {
    model: &'a Model,
    /// What each pattern means.
    patterns: &'a [Vec<TargetId>],
    /// By target, those that name it; made when it is first needed.
    users: Option<Vec<Vec<TargetId>>>,
}

impl<'a> Evaluator<'a> {
    /// For a model, with the targets of each pattern of the query.
    pub fn new(model: &'a Model, patterns: &'a [Vec<TargetId>]) -> Self {
        Self { model, patterns, users: None }
    }

    /// The answer.
    ///
    /// # Errors
    /// Where files stand in place of targets, or the other way round.
    pub fn answer(&mut self, node: &Node) -> Result<Found, Flaw> {
        Ok(match &node.expr {
            Expr::Patterns(list) => {
                let all = list.iter().flat_map(|&index| &self.patterns[index]).copied();
                Found::Targets(sorted(all.collect()))
            }
            Expr::Deps(of, depth) => {
                let of = self.targets(of)?;
                Found::Targets(members(&self.needed_by(&of, *depth)))
            }
            Expr::ReverseDeps(universe, of, depth) => self.reverse_deps(universe, of, *depth)?,
            Expr::SomePath(from, to) => self.some_path(from, to)?,
            Expr::AllPaths(from, to) => self.all_paths(from, to)?,
            Expr::Kind(regex, of) => {
                let of = self.targets(of)?;
                let model = self.model;
                Found::Targets(of.into_iter().filter(|&id| regex.is_match(&model.target(id).rule)).collect())
            }
            Expr::Filter(regex, of) => self.filter(regex, of)?,
            Expr::Outputs(of) => {
                let of = self.targets(of)?;
                Found::Files(sorted(of.into_iter().flat_map(|id| outputs(self.model, id)).collect()))
            }
            Expr::Chain(first, rest) => self.chain(first, rest)?,
        })
    }

    fn targets(&mut self, node: &Node) -> Result<Vec<TargetId>, Flaw> {
        match self.answer(node)? {
            Found::Targets(list) => Ok(list),
            Found::Path(list) => Ok(sorted(list)),
            Found::Files(_) => Err(Flaw::new(node.at.clone(), "these are files, and targets are needed here")),
        }
    }

    fn chain(&mut self, first: &Node, rest: &[(Operator, Node)]) -> Result<Found, Flaw> {
        let mut all = match self.answer(first)? {
            Found::Path(list) => Found::Targets(sorted(list)),
            other => other,
        };
        // Neighbours united at once: a long sum is sorted once.
        let mut rest = rest.iter().peekable();
        while let Some((operator, node)) = rest.next() {
            let mut more = self.operand(&all, node)?;
            while let Some((_, node)) = rest.next_if(|(next, _)| *operator == Operator::Union && *next == *operator) {
                match (&mut more, self.operand(&all, node)?) {
                    (Found::Files(files), Found::Files(further)) => files.extend(further),
                    (Found::Targets(targets), Found::Targets(further)) => targets.extend(further),
                    _ => return Err(mixed(node)),
                }
            }
            all = match (all, more) {
                (Found::Files(a), Found::Files(b)) => Found::Files(combine(*operator, a, b)),
                (Found::Targets(a), Found::Targets(b)) => Found::Targets(combine(*operator, a, b)),
                _ => return Err(mixed(node)),
            };
        }
        Ok(all)
    }

    /// An operand of the same kind as `other`.
    fn operand(&mut self, other: &Found, node: &Node) -> Result<Found, Flaw> {
        match (other, self.answer(node)?) {
            (Found::Files(_), Found::Files(list)) => Ok(Found::Files(list)),
            (Found::Files(_), _) | (_, Found::Files(_)) => Err(mixed(node)),
            (_, Found::Targets(list)) => Ok(Found::Targets(list)),
            (_, Found::Path(list)) => Ok(Found::Targets(sorted(list))),
        }
    }

    fn filter(&mut self, regex: &regex::Regex, of: &Node) -> Result<Found, Flaw> {
        let model = self.model;
        let matches = |id: &TargetId| regex.is_match(&model.target(*id).label.to_string());
        Ok(match self.answer(of)? {
            Found::Targets(list) => Found::Targets(list.into_iter().filter(matches).collect()),
            Found::Path(list) => Found::Targets(sorted(list.into_iter().filter(matches).collect())),
            Found::Files(list) => {
                let matches = |id: &ArtifactId| regex.is_match(model.artifact(*id).path.as_str());
                Found::Files(list.into_iter().filter(matches).collect())
            }
        })
    }

    fn reverse_deps(&mut self, universe: &Node, of: &Node, depth: Option<usize>) -> Result<Found, Flaw> {
        let universe = self.targets(universe)?;
        let inside = self.needed_by(&universe, None);
        let mut of = self.targets(of)?;
        of.retain(|id| inside[id.index()]);
        let users = self.users();
        let next = |id: TargetId| users[id.index()].iter().copied().filter(|user| inside[user.index()]);
        Ok(Found::Targets(members(&reach(inside.len(), &of, depth, next))))
    }

    fn all_paths(&mut self, from: &Node, to: &Node) -> Result<Found, Flaw> {
        let (from, mut to) = (self.targets(from)?, self.targets(to)?);
        let inside = self.needed_by(&from, None);
        to.retain(|id| inside[id.index()]);
        let users = self.users();
        let next = |id: TargetId| users[id.index()].iter().copied().filter(|user| inside[user.index()]);
        Ok(Found::Targets(members(&reach(inside.len(), &to, None, next))))
    }

    /// A shortest path, found level by level.
    fn some_path(&mut self, from: &Node, to: &Node) -> Result<Found, Flaw> {
        let (from, to) = (self.targets(from)?, self.targets(to)?);
        let mut is_goal = vec![false; self.model.targets.len()];
        to.iter().for_each(|id| is_goal[id.index()] = true);
        let mut came_from: Vec<Option<TargetId>> = vec![None; is_goal.len()];
        let mut seen = vec![false; is_goal.len()];
        from.iter().for_each(|id| seen[id.index()] = true);
        let mut queue: std::collections::VecDeque<TargetId> = from.into();
        while let Some(at) = queue.pop_front() {
            if is_goal[at.index()] {
                let back = std::iter::successors(Some(at), |id| came_from[id.index()]);
                let mut path: Vec<TargetId> = back.collect();
                path.reverse();
                return Ok(Found::Path(path));
            }
            for &dep in &self.model.target(at).deps {
                if !std::mem::replace(&mut seen[dep.index()], true) {
                    came_from[dep.index()] = Some(at);
                    queue.push_back(dep);
                }
            }
        }
        Ok(Found::Path(Vec::new()))
    }

    /// Marks what `of` need, themselves included.
    fn needed_by(&self, of: &[TargetId], depth: Option<usize>) -> Vec<bool> {
        let model = self.model;
        reach(model.targets.len(), of, depth, |id| model.target(id).deps.iter().copied())
    }

    fn users(&mut self) -> &[Vec<TargetId>] {
        let model = self.model;
        self.users.get_or_insert_with(|| {
            let mut users = vec![Vec::new(); model.targets.len()];
            for (index, target) in model.targets.iter().enumerate() {
                target.deps.iter().for_each(|dep| users[dep.index()].push(TargetId::new(index)));
            }
            users
        })
    }
}

/// Files a target stands for on the command line, sets flattened.
pub fn outputs(model: &Model, target: TargetId) -> Vec<ArtifactId> {
    let mut found = Vec::new();
    model.for_each_artifact(&model.target(target).outputs, |id| found.push(id));
    found
}

fn mixed(node: &Node) -> Flaw {
    Flaw::new(node.at.clone(), "files and targets cannot be combined")
}

/// Marks what can be reached in at most `depth` steps.
fn reach<N: Iterator<Item = TargetId>>(
    count: usize,
    from: &[TargetId],
    depth: Option<usize>,
    next: impl Fn(TargetId) -> N,
) -> Vec<bool> {
    let mut seen = vec![false; count];
    let mut level = from.to_vec();
    level.iter().for_each(|id| seen[id.index()] = true);
    let mut left = depth.unwrap_or(usize::MAX);
    while left > 0 && !level.is_empty() {
        left -= 1;
        let mut further = Vec::new();
        for id in level.into_iter().flat_map(&next) {
            if !std::mem::replace(&mut seen[id.index()], true) {
                further.push(id);
            }
        }
        level = further;
    }
    seen
}

fn members(seen: &[bool]) -> Vec<TargetId> {
    seen.iter().enumerate().filter(|(_, seen)| **seen).map(|(index, _)| TargetId::new(index)).collect()
}

fn sorted<T: Ord>(mut list: Vec<T>) -> Vec<T> {
    list.sort_unstable();
    list.dedup();
    list
}

/// `a` is sorted, `b` need not be.
fn combine<T: Ord>(operator: Operator, mut a: Vec<T>, b: Vec<T>) -> Vec<T> {
    let b = sorted(b);
    match operator {
        Operator::Union => {
            a.extend(b);
            sorted(a)
        }
        Operator::Except => {
            a.retain(|item| b.binary_search(item).is_err());
            a
        }
        Operator::Intersect => {
            a.retain(|item| b.binary_search(item).is_ok());
            a
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use minibuild_core::{Artifact, ArtifactKind, Input, Label, PackageId, Target, WsPath};

    use super::*;
    use crate::query::parse::parse;

    /// Targets `//:NAME` by name, rule and the indices of their dependencies; each has one output.
    fn model(targets: &[(&str, &str, &[usize])]) -> Model {
        let mut model = Model::default();
        for (index, (name, rule, deps)) in targets.iter().enumerate() {
            let path = WsPath::new(&format!("minibuild-out/bin/{name}")).expect("a path");
            model.artifacts.push(Artifact { path, kind: ArtifactKind::File, producer: None });
            model.targets.push(Target {
                label: Label::new("", name).expect("a label"),
                package: PackageId::new(0),
                rule: (*rule).into(),
                tags: Box::default(),
                outputs: Box::new([Input::Artifact(ArtifactId::new(index))]),
                groups: BTreeMap::new(),
                run: None,
                test: None,
                deps: deps.iter().map(|&dep| TargetId::new(dep)).collect(),
                alias_of: None,
            });
        }
        model
    }

    /// app -> lib, gen; lib -> base; gen -> base; other -> lib; alone.
    fn small() -> Model {
        model(&[
            ("base", "c_library", &[]),
            ("lib", "c_library", &[0]),
            ("gen", "genrule", &[0]),
            ("app", "c_binary", &[1, 2]),
            ("other", "c_test", &[1]),
            ("alone", "genrule", &[]),
        ])
    }

    fn ask(model: &Model, text: &str) -> Result<String, Flaw> {
        let query = parse(text)?;
        let by_name = |name: &str| {
            let ids = (0..model.targets.len()).map(TargetId::new);
            ids.filter(|&id| name == "all" || model.target(id).label.name() == name).collect::<Vec<_>>()
        };
        let patterns: Vec<Vec<TargetId>> = query.patterns.iter().map(|(name, _)| by_name(name)).collect();
        let name = |id: &TargetId| model.target(*id).label.name().to_owned();
        Ok(match Evaluator::new(model, &patterns).answer(&query.root)? {
            Found::Targets(list) => sorted(list.iter().map(name).collect()).join(" "),
            Found::Path(list) => list.iter().map(name).collect::<Vec<_>>().join(">"),
            Found::Files(list) => {
                list.iter().map(|id| model.artifact(*id).path.to_string()).collect::<Vec<_>>().join(" ")
            }
        })
    }

    #[test]
    fn answers() {
        let model = small();
        let check = |text: &str, expected: &str| assert_eq!(ask(&model, text).as_deref(), Ok(expected), "{text}");
        check("app", "app");
        check("deps(app)", "app base gen lib");
        check("deps(app, 0)", "app");
        check("deps(app, 1)", "app gen lib");
        check("rdeps(all, base)", "app base gen lib other");
        check("rdeps(all, base, 1)", "base gen lib");
        check("rdeps(app, base)", "app base gen lib");
        check("rdeps(alone, base)", "");
        check("somepath(app, base)", "app>lib>base");
        check("somepath(base, app)", "");
        check("somepath(app, app)", "app");
        check("somepath(set(other app), gen + base)", "app>gen");
        check("allpaths(app, base)", "app base gen lib");
        check("allpaths(other, base)", "base lib other");
        check("allpaths(base, app)", "");
        check("kind(c_, all)", "app base lib other");
        check("kind('^c_library$', deps(app))", "base lib");
        check("filter(':a', all)", "alone app");
        check("all - deps(app)", "alone other");
        check("deps(app) ^ deps(other)", "base lib");
        check("app + lib + lib - lib + gen", "app gen");
        check("deps(somepath(app, lib), 0)", "app lib");
        check("set()", "");
        check("outputs(lib + gen)", "minibuild-out/bin/lib minibuild-out/bin/gen");
        check("filter(lib, outputs(all))", "minibuild-out/bin/lib");
        check("outputs(all) - outputs(kind(c_, all))", "minibuild-out/bin/gen minibuild-out/bin/alone");
    }

    #[test]
    fn files_are_no_targets() {
        let model = small();
        let place = |text: &str| ask(&model, text).err().map(|flaw| flaw.at);
        assert_eq!(place("deps(outputs(app))"), Some(5..17));
        assert_eq!(place("app + lib + outputs(app)"), Some(12..24));
        assert_eq!(place("outputs(app) ^ lib"), Some(15..18));
    }

    #[test]
    fn a_deep_graph_is_no_deep_stack() {
        let names: Vec<String> = (0..200_000).map(|i| format!("t{i}")).collect();
        let deps: Vec<Vec<usize>> = (0..names.len()).map(|i| if i == 0 { vec![] } else { vec![i - 1] }).collect();
        let rows: Vec<_> = names.iter().zip(&deps).map(|(name, deps)| (name.as_str(), "r", &deps[..])).collect();
        let model = model(&rows);
        let lines = |text: &str| ask(&model, text).map(|answer| answer.split([' ', '>']).count());
        for text in ["deps(t199999)", "rdeps(all, t0)", "allpaths(t199999, t0)", "somepath(t199999, t0)"] {
            assert_eq!(lines(text), Ok(200_000), "{text}");
        }
    }
}
