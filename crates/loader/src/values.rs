//! Values of one target as BUILD.toml gives them, checked as far as one package can: types, files that exist, globs
//! matched, `when` resolved, labels well-formed. What a label stands for is not known here.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use minibuild_core::{ArtifactKind, HostTool, Label, TargetId, WsPath};
use minibuild_diagnostics::diag::Span;

/// Something a target refers to.
#[derive(Clone, Debug)]
pub enum Reference {
    /// A source file that exists.
    Source(WsPath),
    /// A target, or one of its output groups.
    Label(LabelRef),
    /// A declared output of the target itself, by its path; only in `$(location)`.
    Own(WsPath),
}

/// A label with an optional output group.
#[derive(Clone, Debug)]
pub struct LabelRef {
    /// The target.
    pub label: Label,
    /// `[group]`.
    pub group: Option<Arc<str>>,
    /// Which target that is.
    pub target: Found,
}

impl LabelRef {
    /// A label of which nobody has looked up yet what it names.
    pub fn new(label: Label, group: Option<Arc<str>>) -> Self {
        Self { label, group, target: Found::default() }
    }
}

/// The target a label names, set once the targets of all packages have their ids, so that it is looked up by its text
/// once only.
#[derive(Debug)]
pub struct Found(AtomicU32);

impl Found {
    const NOTHING: u32 = u32::MAX;

    /// Remembers the target.
    pub fn set(&self, target: TargetId) {
        self.0.store(u32::try_from(target.index()).unwrap_or(Self::NOTHING), Ordering::Relaxed);
    }

    /// The target, if it was looked up and found.
    pub fn get(&self) -> Option<TargetId> {
        let index = self.0.load(Ordering::Relaxed);
        (index != Self::NOTHING).then(|| TargetId::new(index as usize))
    }
}

impl Default for Found {
    fn default() -> Self {
        Self(AtomicU32::new(Self::NOTHING))
    }
}

impl Clone for Found {
    fn clone(&self) -> Self {
        Self(AtomicU32::new(self.0.load(Ordering::Relaxed)))
    }
}

/// A reference with its place.
#[derive(Clone, Debug)]
pub struct Placed<T> {
    /// What.
    pub value: T,
    /// Where it is written.
    pub span: Span,
}

/// A text with `$(location)`.
#[derive(Clone, Debug, Default)]
pub struct RawLoc {
    /// Pieces in order.
    pub parts: Vec<RawPart>,
}

/// A piece of a [`RawLoc`].
#[derive(Clone, Debug)]
pub enum RawPart {
    /// Plain text.
    Text(Arc<str>),
    /// `$(location X)`, or `$(locations X)` where `many`.
    Location { of: Placed<Reference>, many: bool },
}

/// A declared output.
#[derive(Clone, Debug)]
pub struct RawOut {
    /// Where it lies, from the workspace root.
    pub path: WsPath,
    /// What it is.
    pub kind: ArtifactKind,
    /// Where it is declared.
    pub span: Span,
}

/// `rspfile = { path, content }`.
#[derive(Clone, Debug)]
pub struct RawRspFile {
    /// Where it is written.
    pub path: WsPath,
    /// Its text; lines where it was given as a list.
    pub content: Vec<RawLoc>,
    /// Whether `content` was a list: each entry ends its line, and several files in one entry make several lines.
    pub lines: bool,
}

/// A value of one field.
#[derive(Clone, Debug)]
pub enum RawValue {
    /// `string`, `enum`.
    Text(Arc<str>),
    /// `int`.
    Int(i64),
    /// `bool`.
    Bool(bool),
    /// `strings`.
    Texts(Vec<Arc<str>>),
    /// `path`, `paths`.
    Paths(Vec<WsPath>),
    /// `file`, `files`, `tool`, `tools`, `target`, `targets`.
    References(Vec<Placed<Reference>>),
    /// One text with `$(location)`.
    Loc(RawLoc),
    /// `args`.
    Args(Vec<RawLoc>),
    /// `env`, sorted by name.
    Env(Vec<(Arc<str>, RawLoc)>),
    /// Declared outputs.
    Outs(Vec<RawOut>),
    /// An undeclared output.
    OutPath(WsPath),
    /// A response file.
    RspFile(RawRspFile),
    /// A span of time.
    Duration(Duration),
    /// Bytes.
    Memory(u64),
    /// Programs of the host.
    HostTools(Vec<HostTool>),
    /// Tags.
    Tags(Vec<Box<str>>),
    /// Platform properties, sorted by name.
    Platform(Vec<(Box<str>, Box<str>)>),
}

/// A target as its package gives it.
#[derive(Clone, Debug)]
pub struct RawTarget {
    /// Index in the [`RuleTable`](crate::rule_table::RuleTable).
    pub rule: usize,
    /// Its label.
    pub label: Label,
    /// Its header, such as `[[genrule]]`.
    pub header: Span,
    /// Its name's value.
    pub name_span: Span,
    /// What it gives: index of the field, value and place, sorted by field.
    pub values: Vec<(usize, (RawValue, Span))>,
    /// Whether something in it was complained about: it is not expanded, but its labels count.
    pub failed: bool,
}

/// All that one BUILD.toml gives.
#[derive(Clone, Debug)]
pub struct RawPackage {
    /// Its directory.
    pub path: WsPath,
    /// In the order written.
    pub targets: Vec<RawTarget>,
    /// Whether the file has syntax errors, so that a missing target is no news.
    pub broken: bool,
}

impl RawTarget {
    /// The value of a field of the rule.
    pub fn value(&self, field: usize) -> Option<&(RawValue, Span)> {
        self.values.iter().find(|(index, _)| *index == field).map(|(_, value)| value)
    }

    /// Calls `visit` for every label the target names, in order.
    pub fn for_each_label<'a>(&'a self, visit: &mut dyn FnMut(&'a LabelRef, Span)) {
        for (_, (value, _)) in &self.values {
            match value {
                RawValue::References(refs) => refs.iter().for_each(|r| visit_reference(r, visit)),
                RawValue::Loc(loc) => visit_loc(loc, visit),
                RawValue::Args(locs) => locs.iter().for_each(|l| visit_loc(l, visit)),
                RawValue::Env(entries) => entries.iter().for_each(|(_, l)| visit_loc(l, visit)),
                RawValue::RspFile(file) => file.content.iter().for_each(|l| visit_loc(l, visit)),
                _ => {}
            }
        }
    }
}

fn visit_loc<'a>(loc: &'a RawLoc, visit: &mut dyn FnMut(&'a LabelRef, Span)) {
    for part in &loc.parts {
        if let RawPart::Location { of, .. } = part {
            visit_reference(of, visit);
        }
    }
}

fn visit_reference<'a>(reference: &'a Placed<Reference>, visit: &mut dyn FnMut(&'a LabelRef, Span)) {
    if let Reference::Label(label) = &reference.value {
        visit(label, reference.span);
    }
}
