//! Variables: declarations, and the values one load uses.
//!
//! Knows the precedence of what it is given, not where it comes from.

use std::sync::Arc;

use minibuild_diagnostics::diag::Span;

use crate::attr::ToolValue;

/// Index of a declared variable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VarId(pub u16);

/// Type of a variable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VarType {
    /// One text.
    String,
    /// Texts.
    Strings,
    /// `true` or `false`.
    Bool,
    /// One of the declared values.
    Enum,
    /// A host program, or the label of something runnable.
    Tool,
}

/// A declared variable.
#[derive(Clone, Debug)]
pub struct VarDecl {
    /// Its name, without `vars.`.
    pub name: Arc<str>,
    /// Its type.
    pub ty: VarType,
    /// Values of an enum.
    pub values: Vec<Arc<str>>,
    /// Arguments whose output joins the fingerprint of a tool.
    pub version: Vec<Arc<str>>,
    /// What it is where nobody sets it.
    pub default: VarValue,
    /// What it is for.
    pub doc: Option<Arc<str>>,
    /// Where its name is declared; `None` for `os` and `arch`.
    pub span: Option<Span>,
}

/// A value of a variable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VarValue {
    /// `string`, `enum`.
    Text(Arc<str>),
    /// `strings`.
    Texts(Vec<Arc<str>>),
    /// `bool`.
    Bool(bool),
    /// `tool`.
    Tool(ToolVar),
}

/// A value of a `tool` variable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToolVar {
    /// A program of the host, as written.
    Host(Arc<str>),
    /// Text with `//`: a label, and what the loader found it to be.
    Label(Arc<str>, Option<ToolValue>),
}

/// What this host is, in the words of `vars.os` and `vars.arch`.
#[derive(Clone, Debug)]
pub struct HostFacts {
    /// Such as `linux`, `macos`.
    pub os: String,
    /// Such as `x86_64`, `aarch64`.
    pub arch: String,
}

/// One `NAME = value` that replaces a default.
#[derive(Clone, Debug)]
pub struct Setting {
    /// The variable.
    pub name: String,
    /// The value.
    pub value: SettingValue,
    /// Where it is written, for those in files.
    pub span: Option<Span>,
    /// Where it comes from in words, such as `--var` or `MINIBUILD_VAR_CC`.
    pub origin: String,
}

/// A value as somebody wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SettingValue {
    /// A text: a TOML string, or raw text of a flag or an environment variable. In a raw text lists are written as
    /// TOML arrays, truth values as `true` and `false`.
    Text(String),
    /// A truth value.
    Bool(bool),
    /// Texts.
    Texts(Vec<String>),
}

/// All that sets variables, each list from weak to strong.
#[derive(Clone, Debug)]
pub struct VarInputs {
    /// This host.
    pub host: HostFacts,
    /// `[vars]` of the user's, the workspace's and the personal file.
    pub base: Vec<Setting>,
    /// Each `--config` in the order given, with `[config.NAME.vars]` of the workspace; those of the rule files are
    /// put below it here.
    pub configs: Vec<(String, Vec<Setting>)>,
    /// `MINIBUILD_VAR_*`, then `--var`.
    pub flags: Vec<Setting>,
}

/// The values of one load, by [`VarId`].
#[derive(Clone, Debug, Default)]
pub struct Vars {
    pub(super) names: Arc<[Arc<str>]>,
    pub(super) versions: Vec<Box<[Box<str>]>>,
    pub(super) values: Vec<VarValue>,
}

impl Vars {
    /// The value of a variable.
    pub fn get(&self, id: VarId) -> &VarValue {
        &self.values[usize::from(id.0)]
    }

    /// The name of a variable.
    pub fn name(&self, id: VarId) -> &str {
        self.names.get(usize::from(id.0)).map_or("", |name| name)
    }

    /// The value of the variable of that name.
    pub fn by_name(&self, name: &str) -> Option<&VarValue> {
        let at = self.names.iter().position(|n| &**n == name)?;
        self.values.get(at)
    }

    /// Tool variables that hold labels, to be resolved with [`Self::set_tool`] before anything is expanded.
    pub fn tool_labels(&self) -> impl Iterator<Item = (VarId, &str)> {
        self.values.iter().zip(0..).filter_map(|(value, at)| match value {
            VarValue::Tool(ToolVar::Label(label, _)) => Some((VarId(at), &**label)),
            _ => None,
        })
    }

    /// Says what the label of a tool variable is.
    pub fn set_tool(&mut self, id: VarId, tool: ToolValue) {
        if let Some(VarValue::Tool(ToolVar::Label(_, resolved))) = self.values.get_mut(usize::from(id.0)) {
            *resolved = Some(tool);
        }
    }
}
