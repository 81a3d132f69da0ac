//! Typed attributes: what a rule declares, and the values a target gives.
//!
//! The meeting point of the two halves of this crate: `lang` compiles `[rule.R.attrs]` into [`AttrSpec`]s, the
//! loader turns the TOML of a target into [`AttrValue`]s by them (globs matched, labels resolved), and `lang`
//! expands the rule with those values. Built-in rules are described by the same specs.

use std::sync::Arc;

use minibuild_core::{ArtifactId, Input, TargetId, WsPath};
use minibuild_diagnostics::diag::Span;

/// A kind of file: its name, where it has one, and its endings.
pub type AcceptKind = (Option<Arc<str>>, Vec<Arc<str>>);

/// Which files an attribute takes, and under what kind names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Accept {
    /// Kinds in declared order: name (`None` for the plain list form) and endings; `/` is a tree artifact.
    pub kinds: Vec<AcceptKind>,
}

/// Type of an attribute (RULES §3).
#[derive(Clone, Debug)]
pub enum AttrType {
    /// One text.
    String {
        /// Has to match the whole text.
        pattern: Option<regex::Regex>,
    },
    /// A whole number.
    Int,
    /// One of a few texts.
    Enum {
        /// The texts, in declared order.
        values: Vec<Arc<str>>,
    },
    /// `true` or `false`.
    Bool,
    /// Texts.
    Strings {
        /// Has to match the whole of each text.
        pattern: Option<regex::Regex>,
    },
    /// A directory below the package.
    Path,
    /// Directories below the package.
    Paths,
    /// One file.
    File {
        /// `None` accepts any file.
        accept: Option<Accept>,
    },
    /// Files.
    Files {
        /// `None` accepts any file.
        accept: Option<Accept>,
    },
    /// A target.
    Target {
        /// The target gives one of these; empty accepts any target.
        providers: Vec<Arc<str>>,
    },
    /// Targets.
    Targets {
        /// Each target gives one of these; empty accepts any target.
        providers: Vec<Arc<str>>,
    },
    /// A runnable target or file.
    Tool,
    /// Runnable targets or files.
    Tools,
    /// Texts in which `$(location L)` stands for files.
    Args,
    /// A table of such texts.
    Env,
}

/// A declared default.
#[derive(Clone, Debug)]
pub enum AttrDefault {
    /// A text, in which `lang` has found the references; `AttrDefault::Text` of a file attribute is a file name.
    Text(crate::lang::DefaultText),
    /// A list of texts.
    Texts(Vec<crate::lang::DefaultText>),
    /// A truth value.
    Bool(bool),
    /// A number.
    Int(i64),
}

/// A declared attribute.
#[derive(Clone, Debug)]
pub struct AttrSpec {
    /// Its name.
    pub name: Arc<str>,
    /// Its type.
    pub ty: AttrType,
    /// Whether a target must give it.
    pub required: bool,
    /// What it is where a target does not give it.
    pub default: Option<AttrDefault>,
    /// What it is for; feeds hints, `minibuild info` and the JSON Schema.
    pub doc: Option<Arc<str>>,
    /// Where it is declared; `None` for built-in rules.
    pub span: Option<Span>,
}

/// A file of a `file` or `files` attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileItem {
    /// The file or tree artifact.
    pub artifact: ArtifactId,
    /// Index into [`Accept::kinds`]; 0 where the attribute has no `accept`.
    pub kind: u16,
    /// The target it came from, where it was given by label.
    pub from: Option<TargetId>,
}

/// A text in which some parts are paths of files, which it carries as inputs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LocText {
    /// Pieces in order.
    pub parts: Vec<LocPart>,
    /// What comes along without being named: runfiles of executables in `parts`.
    pub along: Vec<Input>,
}

/// A piece of a [`LocText`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LocPart {
    /// Plain text.
    Text(Arc<str>),
    /// Paths of these artifacts, separated by single spaces (`$(locations)`); exactly one for `$(location)`.
    Files(Vec<ArtifactId>),
}

/// A value of a `tool` or `tools` attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ToolValue {
    /// A runnable target: its executable is named, its runfiles become inputs.
    Target(TargetId),
    /// A plain source file.
    File(ArtifactId),
}

/// The value of an attribute of one target, `when` items resolved, globs matched, labels resolved, defaults filled
/// in. A list attribute that was not given is an empty list; [`AttrValue::Unset`] is only for single values.
#[derive(Clone, Debug)]
pub enum AttrValue {
    /// A single value that is neither given nor defaulted.
    Unset,
    /// `string`, `enum`.
    Text(Arc<str>),
    /// `int`.
    Int(i64),
    /// `bool`.
    Bool(bool),
    /// `strings`.
    Texts(Vec<Arc<str>>),
    /// `path`, `paths`: workspace-relative; the root is the empty path, printed as `.`.
    Paths(Vec<WsPath>),
    /// `file`, `files`.
    Files(Vec<FileItem>),
    /// `target`, `targets`; aliases are resolved.
    Targets(Vec<TargetId>),
    /// `tool`, `tools`; aliases are resolved.
    Tools(Vec<ToolValue>),
    /// `args`.
    Args(Vec<LocText>),
    /// `env`, sorted by name.
    Env(Vec<(Arc<str>, LocText)>),
}
