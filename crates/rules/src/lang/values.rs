//! What one target's templates see: its attribute values and what was looked up for them. Made once when the target
//! is expanded, kept for making argv later. Knows no templates.

use std::sync::Arc;

use minibuild_core::{ActionId, ArtifactId, BIN_ROOT, Input, Label, WsPath};
use minibuild_diagnostics::diag::Span;
use rustc_hash::FxHashMap;

use super::field::FieldNode;
use super::rule::{Provider, Rule};
use super::vars::{VarId, Vars};
use crate::attr::AttrValue;

/// Everything that does not differ between the actions of a target.
pub struct TargetValues {
    /// The rule.
    pub rule: Arc<Rule>,
    /// All providers of the load.
    pub providers: Arc<[Provider]>,
    /// Variables of the load.
    pub vars: Arc<Vars>,
    /// The target's label.
    pub label: Label,
    /// Output directory of the package, `minibuild-out/bin/lib`.
    pub bin: Arc<str>,
    /// Attribute values in the order of the rule.
    pub attrs: Vec<AttrValue>,
    /// Where the target gives them.
    pub attr_spans: Box<[Option<Span>]>,
    /// Files that targets and tools among the attributes stand for, by attribute.
    pub files_of: FxHashMap<u16, Vec<ArtifactId>>,
    /// Merged fields, by attribute, provider, field.
    pub fields: FxHashMap<super::rule::Source, Arc<FieldNode>>,
    /// Files of `{ATTR.run.…}`.
    pub run_of: FxHashMap<super::rule::Source, Vec<ArtifactId>>,
    /// Executables of tool variables that are labels.
    pub tools: FxHashMap<VarId, ArtifactId>,
    /// What the actions came to, by index of the action.
    pub runs: Vec<Vec<ActionRun>>,
}

/// One run of an action.
#[derive(Clone, Debug)]
pub struct ActionRun {
    /// Its row.
    pub id: ActionId,
    /// The element of `for_each`.
    pub item: Option<Item>,
    /// Its outputs in declared order.
    pub outs: Box<[ArtifactId]>,
    /// Its depfile.
    pub depfile: Option<WsPath>,
}

/// An element of `for_each`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// A file.
    File(ArtifactId),
    /// A text, with the files it remembers.
    Text(Arc<str>, Box<[Input]>),
}

/// The output directory of a package.
pub fn bin_dir(package: &str) -> Arc<str> {
    if package.is_empty() { Arc::from(BIN_ROOT) } else { Arc::from(format!("{BIN_ROOT}/{package}")) }
}

/// A path as text: the root is `.`.
pub fn path_text(path: &WsPath) -> &str {
    if path.as_str().is_empty() { "." } else { path.as_str() }
}
