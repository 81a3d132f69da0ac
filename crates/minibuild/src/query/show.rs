//! Answers of a query as text, JSON or a graph for `dot`. Knows how things are written, not how they were found.

use std::fmt::Write as _;

use minibuild_core::{ArtifactId, ArtifactKind, Model, TargetId};
use serde::Serialize;

use super::eval::{Found, outputs};
use crate::args::QueryOutput;

/// One target of the answer.
#[derive(Serialize)]
struct TargetRow<'a> {
    label: String,
    rule: &'a str,
    tags: &'a [Box<str>],
    deps: Vec<String>,
    outputs: Vec<&'a str>,
}

/// One file of the answer.
#[derive(Serialize)]
struct FileRow<'a> {
    path: &'a str,
    kind: &'static str,
    /// The target that makes it; `null` for source files.
    label: Option<String>,
}

/// The answer as it is printed; nothing for an empty one as text.
pub fn show(model: &Model, found: &Found, how: QueryOutput) -> String {
    match (how, found) {
        (QueryOutput::Text, _) => lines(names(model, found)),
        (QueryOutput::Json, Found::Files(list)) => json(in_order(model, list).map(|id| file_row(model, id))),
        (QueryOutput::Json, Found::Targets(list) | Found::Path(list)) => {
            json(by_label(model, found, list).into_iter().map(|id| target_row(model, id)))
        }
        (QueryOutput::Dot, _) => dot(model, found),
    }
}

fn names(model: &Model, found: &Found) -> Vec<String> {
    match found {
        Found::Files(list) => in_order(model, list).map(|id| model.artifact(id).path.to_string()).collect(),
        Found::Targets(list) | Found::Path(list) => {
            by_label(model, found, list).into_iter().map(|id| model.target(id).label.to_string()).collect()
        }
    }
}

/// Targets sorted by label; those of a path stay in its order.
fn by_label(model: &Model, found: &Found, list: &[TargetId]) -> Vec<TargetId> {
    let mut list = list.to_vec();
    if matches!(found, Found::Targets(_)) {
        list.sort_by_cached_key(|id| model.target(*id).label.to_string());
    }
    list
}

fn in_order<'a>(model: &'a Model, list: &[ArtifactId]) -> impl Iterator<Item = ArtifactId> + use<'a> {
    let mut list = list.to_vec();
    list.sort_by(|a, b| model.artifact(*a).path.cmp(&model.artifact(*b).path));
    list.into_iter()
}

fn lines(names: Vec<String>) -> String {
    names.into_iter().map(|name| name + "\n").collect()
}

/// An array with one object a line.
fn json(rows: impl Iterator<Item = impl Serialize>) -> String {
    // Texts and lists of texts cannot fail to be written.
    let rows: Vec<String> = rows.filter_map(|row| serde_json::to_string(&row).ok()).collect();
    if rows.is_empty() { "[]\n".to_owned() } else { format!("[\n{}\n]\n", rows.join(",\n")) }
}

fn target_row(model: &Model, id: TargetId) -> TargetRow<'_> {
    let target = model.target(id);
    let mut deps: Vec<String> = target.deps.iter().map(|&dep| model.target(dep).label.to_string()).collect();
    deps.sort();
    let outputs = outputs(model, id).into_iter().map(|id| model.artifact(id).path.as_str()).collect();
    TargetRow { label: target.label.to_string(), rule: &target.rule, tags: &target.tags, deps, outputs }
}

fn file_row(model: &Model, id: ArtifactId) -> FileRow<'_> {
    let artifact = model.artifact(id);
    let kind = match artifact.kind {
        ArtifactKind::Source => "source",
        ArtifactKind::File => "file",
        ArtifactKind::Directory => "directory",
        ArtifactKind::Symlink => "symlink",
    };
    let label = artifact.producer.map(|action| model.label_of(action).to_string());
    FileRow { path: artifact.path.as_str(), kind, label }
}

/// The answer's targets, with those of their dependencies that are in it, too.
fn dot(model: &Model, found: &Found) -> String {
    let mut text = String::from("digraph minibuild {\n  node [shape=box];\n");
    for name in names(model, found) {
        let _ = writeln!(text, "  {};", quote(&name));
    }
    if let Found::Targets(list) | Found::Path(list) = found {
        let mut is_in = vec![false; model.targets.len()];
        list.iter().for_each(|id| is_in[id.index()] = true);
        for id in by_label(model, found, list) {
            let target = model.target(id);
            let deps = target.deps.iter().filter(|dep| is_in[dep.index()]);
            let mut deps: Vec<String> = deps.map(|&dep| model.target(dep).label.to_string()).collect();
            deps.sort();
            for dep in deps {
                let _ = writeln!(text, "  {} -> {};", quote(&target.label.to_string()), quote(&dep));
            }
        }
    }
    text + "}\n"
}

fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('\\', "\\\\").replace('"', "\\\""))
}
