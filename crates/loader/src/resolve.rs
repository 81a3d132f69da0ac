//! What the labels of all loaded packages stand for: a table of targets, their dependencies, an order in which each
//! target comes after those it names. Iterative throughout: a chain of a million targets is no deeper than one.

use minibuild_core::{Label, TargetId, map_parallel};
use minibuild_diagnostics::diag::{Diagnostic, Diagnostics, Span};
use minibuild_diagnostics::suggest::did_you_mean;
use rustc_hash::{FxHashMap, FxHashSet};

use crate::values::{LabelRef, RawPackage, RawTarget};

/// Dependencies of a target that its file does not name.
pub type ExtraDeps<'f, 'a> = dyn Fn(&RawTarget, &FxHashMap<&'a Label, TargetId>) -> Vec<TargetId> + Sync + 'f;

/// All loaded targets and how they hang together.
pub struct TargetGraph<'a> {
    /// Packages in the order of their ids.
    pub packages: &'a [RawPackage],
    /// Targets by id, with the index of their package.
    pub targets: Vec<(&'a RawTarget, usize)>,
    /// Id of each label.
    pub by_label: FxHashMap<&'a Label, TargetId>,
    /// By target: the one that its label stands for, itself unless another one has the same label.
    pub named: Vec<TargetId>,
    /// Direct dependencies with the place of the first mention.
    pub deps: Vec<Vec<(TargetId, Span)>>,
    /// Targets that name something unknown or stand in a cycle: they cannot be expanded.
    pub broken: FxHashSet<TargetId>,
    in_cycle: FxHashSet<TargetId>,
}

/// What one target names.
struct Named<'a> {
    deps: Vec<(TargetId, Span)>,
    unknown: Vec<(&'a Label, Span)>,
}

impl<'a> TargetGraph<'a> {
    /// Numbers the targets and resolves their labels, on so many threads. `extra` are dependencies that the files do not
    /// name.
    pub fn new(packages: &'a [RawPackage], extra: &ExtraDeps<'_, 'a>, threads: usize, diags: &mut Diagnostics) -> Self {
        let count = packages.iter().map(|p| p.targets.len()).sum();
        let mut targets = Vec::with_capacity(count);
        let mut named = Vec::with_capacity(count);
        let mut by_label = FxHashMap::with_capacity_and_hasher(count, rustc_hash::FxBuildHasher);
        for (index, package) in packages.iter().enumerate() {
            for target in &package.targets {
                named.push(*by_label.entry(&target.label).or_insert_with(|| TargetId::new(targets.len())));
                targets.push((target, index));
            }
        }
        let mut graph = Self {
            packages,
            targets,
            by_label,
            named,
            deps: Vec::with_capacity(count),
            broken: FxHashSet::default(),
            in_cycle: FxHashSet::default(),
        };
        for (index, row) in graph.names(extra, threads).into_iter().enumerate() {
            if !row.unknown.is_empty() || graph.targets[index].0.failed {
                graph.broken.insert(TargetId::new(index));
            }
            for (label, span) in row.unknown {
                diags.list.extend(graph.unknown_label(label).map(|d| place(d, span)));
            }
            graph.deps.push(row.deps);
        }
        graph
    }

    /// What each target names, in their order.
    fn names(&self, extra: &ExtraDeps<'_, 'a>, threads: usize) -> Vec<Named<'a>> {
        const WORTH_A_THREAD: usize = 1000;
        let threads = threads.min(self.targets.len() / WORTH_A_THREAD).max(1);
        let chunk = self.targets.len().div_ceil(threads).max(1);
        let read = |targets: &[(&'a RawTarget, usize)]| -> Vec<Named<'a>> {
            targets.iter().map(|(target, _)| self.named_by(target, extra)).collect()
        };
        if threads == 1 {
            return read(&self.targets);
        }
        map_parallel(self.targets.chunks(chunk).collect(), threads, read).into_iter().flatten().collect()
    }

    /// The target a label names.
    pub fn target_of(&self, label: &LabelRef) -> Option<TargetId> {
        label.target.get().or_else(|| self.by_label.get(&label.label).copied())
    }

    fn named_by(&self, target: &'a RawTarget, extra: &ExtraDeps<'_, 'a>) -> Named<'a> {
        let mut deps: Vec<(TargetId, Span)> = Vec::new();
        let mut unknown = Vec::new();
        target.for_each_label(&mut |label, span| match self.by_label.get(&label.label) {
            Some(&id) => {
                label.target.set(id);
                if !deps.iter().any(|(known, _)| *known == id) {
                    deps.push((id, span));
                }
            }
            None => unknown.push((&label.label, span)),
        });
        for id in extra(target, &self.by_label) {
            if !deps.iter().any(|(known, _)| *known == id) {
                deps.push((id, target.header));
            }
        }
        Named { deps, unknown }
    }

    /// What is wrong with a label that names no target; `None` where its package's own errors say it already.
    pub fn unknown_label(&self, label: &Label) -> Option<Diagnostic> {
        let Some(package) = self.packages.iter().find(|p| p.path.as_str() == label.package()) else {
            let hint = did_you_mean(label.package(), self.packages.iter().map(|p| p.path.as_str()));
            let mut diagnostic = Diagnostic::error(format!("no package `//{}`", label.package()));
            diagnostic.hints.push(hint.unwrap_or_else(|| "a package is a directory with a BUILD.toml".into()));
            return Some(diagnostic);
        };
        if package.broken {
            return None;
        }
        let names = || package.targets.iter().map(|t| t.label.name());
        let mut diagnostic =
            Diagnostic::error(format!("no target `{}` in package `//{}`", label.name(), label.package()));
        let hint = did_you_mean(label.name(), names()).unwrap_or_else(|| {
            let mut known: Vec<String> = names().take(8).map(|n| format!("`:{n}`")).collect();
            if known.is_empty() {
                known.push("no targets".into())
            }
            format!("the package has {}", known.join(", "))
        });
        diagnostic.hints.push(hint);
        Some(diagnostic)
    }

    /// Targets in an order in which dependencies come first. Cycles are reported, their members marked broken.
    pub fn order(&mut self, diags: &mut Diagnostics) -> Vec<TargetId> {
        const NEW: u32 = 0;
        const DONE: u32 = u32::MAX;
        let count = self.targets.len();
        let mut order = Vec::with_capacity(count);
        // 0: not seen; a depth (from 1) while on the path; DONE afterwards.
        let mut state = vec![NEW; count];
        let mut path: Vec<(usize, usize)> = Vec::new();
        let mut cycles: Vec<Vec<usize>> = Vec::new();
        for start in 0..count {
            if state[start] != NEW {
                continue;
            }
            state[start] = 1;
            path.push((start, 0));
            while let Some((node, next)) = path.last_mut() {
                let Some(&(dep, _)) = self.deps[*node].get(*next) else {
                    state[*node] = DONE;
                    order.push(TargetId::new(*node));
                    path.pop();
                    continue;
                };
                *next += 1;
                match state[dep.index()] {
                    NEW => {
                        state[dep.index()] = u32::try_from(path.len()).unwrap_or(DONE - 2) + 1;
                        path.push((dep.index(), 0));
                    }
                    DONE => {}
                    depth => cycles.push(path[depth as usize - 1..].iter().map(|(n, _)| *n).collect()),
                }
            }
        }
        for cycle in cycles {
            self.report_cycle(&cycle, diags);
        }
        order
    }

    fn report_cycle(&mut self, cycle: &[usize], diags: &mut Diagnostics) {
        if cycle.iter().any(|n| self.in_cycle.contains(&TargetId::new(*n))) {
            return;
        }
        // Told from its smallest label on, so that it reads the same whatever was asked for.
        let start = (0..cycle.len()).min_by_key(|i| &self.targets[cycle[*i]].0.label).unwrap_or(0);
        let members: Vec<usize> = cycle[start..].iter().chain(&cycle[..start]).copied().collect();
        let labels: Vec<String> =
            members.iter().chain(members.first()).map(|n| self.targets[*n].0.label.to_string()).collect();
        let edge = |i: usize| {
            let to = TargetId::new(members[(i + 1) % members.len()]);
            self.deps[members[i]].iter().find(|(dep, _)| *dep == to).map(|(_, span)| *span)
        };
        let mut diagnostic = Diagnostic::error(format!("dependency cycle: {}", labels.join(" -> ")));
        diagnostic.primary = edge(0).map(|span| (span, String::new()));
        for (i, label) in labels.iter().enumerate().take(members.len()).skip(1) {
            diagnostic.notes.extend(edge(i).map(|span| (span, format!("`{label}` needs `{}`", labels[i + 1]))));
        }
        diags.push(diagnostic);
        self.in_cycle.extend(members.iter().copied().map(TargetId::new));
        self.broken.extend(members.into_iter().map(TargetId::new));
    }
}

/// The same complaint at a place.
pub fn place(mut diagnostic: Diagnostic, span: Span) -> Diagnostic {
    diagnostic.primary = Some((span, String::new()));
    diagnostic
}
