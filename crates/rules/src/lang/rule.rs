//! Compiled rules: plain tables that expansion walks. Everything in them was checked when the files were loaded.

use std::sync::Arc;
use std::time::Duration;

use minibuild_core::{ActionTags, HostTool, Resources};
use minibuild_diagnostics::diag::Span;

use super::template::Modifier;
use super::vars::VarId;
use crate::attr::AttrSpec;

/// Index of a compiled rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RuleId(pub usize);

/// Where a value comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// `{name}`.
    Name,
    /// `{label}`.
    Label,
    /// `{package}`.
    Package,
    /// `{bin}`.
    Bin,
    /// `{bin_root}`.
    BinRoot,
    /// `{ATTR}`.
    Attr(u16),
    /// `{ATTR.KIND}`.
    Kind(u16, u16),
    /// `{ATTR.P.F}`: provider and field.
    Field(u16, FieldId),
    /// `{ATTR.run.executable}`.
    RunExecutable(u16),
    /// `{ATTR.run.runfiles}`.
    RunFiles(u16),
    /// `{LIST}`.
    List(u16),
    /// `{vars.X}`.
    Var(VarId),
    /// `{ACTION.OUT}`.
    Action(u16, u16),
    /// `{item}`.
    Item,
    /// `{out.OUT}`.
    Out(u16),
    /// `{out.depfile}`.
    Depfile,
}

/// A field of a provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FieldId {
    /// Index of the provider.
    pub provider: u16,
    /// Index of its field.
    pub field: u16,
}

/// What the texts of a source are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Plain text.
    Text,
    /// A number.
    Int,
    /// `true` or `false`: only in conditions.
    Bool,
    /// Directories that are no artifacts.
    Dir,
    /// Paths of artifacts.
    File,
    /// A tool variable: a program of the host or the path of an executable.
    Tool,
    /// Texts that remember files.
    Args,
    /// A table: only in `env_from`.
    Env,
}

impl Kind {
    /// Whether modifiers apply.
    pub fn is_path(self) -> bool {
        matches!(self, Self::File | Self::Dir)
    }
}

/// How many texts a source gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Count {
    /// Exactly one.
    One,
    /// One or none.
    Optional,
    /// Any number.
    Many,
}

/// Type of a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Type {
    /// What.
    pub kind: Kind,
    /// How many.
    pub count: Count,
}

/// A reference in a template.
#[derive(Clone, Debug)]
pub struct Ref {
    /// What is named.
    pub source: Source,
    /// What it is.
    pub ty: Type,
    /// What is taken of it.
    pub mods: Box<[Modifier]>,
    /// The reference with its braces.
    pub span: Span,
}

/// A piece of a template.
#[derive(Clone, Debug)]
pub enum Piece {
    /// Text.
    Text(Box<str>),
    /// A reference.
    Ref(Ref),
}

/// A compiled template.
#[derive(Clone, Debug)]
pub struct Template {
    /// In order.
    pub pieces: Box<[Piece]>,
    /// The string without its quotes.
    pub span: Span,
}

impl Template {
    /// The reference it consists of, if it is nothing else.
    pub fn whole(&self) -> Option<&Ref> {
        match &*self.pieces {
            [Piece::Ref(only)] => Some(only),
            _ => None,
        }
    }

    /// Its references.
    pub fn refs(&self) -> impl Iterator<Item = &Ref> {
        self.pieces.iter().filter_map(|piece| match piece {
            Piece::Ref(reference) => Some(reference),
            Piece::Text(_) => None,
        })
    }
}

/// One entry of a list.
#[derive(Clone, Debug)]
pub enum Entry {
    /// Strings given once, or once for each item of the list they name.
    Each {
        /// One, or those of a group.
        templates: Box<[Template]>,
        /// The list.
        over: Option<Source>,
    },
    /// A table.
    Table(Box<TableEntry>),
}

/// `{ when, join, items, response_file }`.
#[derive(Clone, Debug)]
pub struct TableEntry {
    /// All must hold.
    pub when: Box<[Condition]>,
    /// Makes one text of the items.
    pub join: Option<Box<str>>,
    /// Past 64 KiB the items go into a file.
    pub response: Option<ResponseStyle>,
    /// The items.
    pub items: Box<[Entry]>,
}

/// Format of a response file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResponseStyle {
    /// Backslashes before white space, quotes and backslashes.
    Gnu,
    /// One item a line.
    Lines,
}

/// One condition of a `when`.
#[derive(Clone, Debug)]
pub struct Condition {
    /// What is looked at.
    pub source: Source,
    /// What it must be.
    pub test: Test,
}

/// What a condition asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Test {
    /// Whether there are items.
    NotEmpty(bool),
    /// One of these values, as text.
    OneOf(Box<[Box<str>]>),
}

/// A provider.
#[derive(Clone, Debug)]
pub struct Provider {
    /// Its name.
    pub name: Arc<str>,
    /// Its fields in declared order.
    pub fields: Vec<Field>,
    /// What it is for.
    pub doc: Option<Arc<str>>,
    /// Where it is declared.
    pub span: Span,
}

/// A field of a provider.
#[derive(Clone, Debug)]
pub struct Field {
    /// Its name.
    pub name: Arc<str>,
    /// What it holds.
    pub ty: FieldType,
    /// How values are merged.
    pub order: Order,
    /// What it is for.
    pub doc: Option<Arc<str>>,
}

/// Type of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldType {
    /// Plain texts.
    Strings,
    /// Files.
    Files,
    /// Texts that remember files.
    Args,
}

impl FieldType {
    /// What its texts are in a template.
    pub fn kind(self) -> Kind {
        match self {
            Self::Strings => Kind::Text,
            Self::Files => Kind::File,
            Self::Args => Kind::Args,
        }
    }

    /// As written.
    pub fn name(self) -> &'static str {
        match self {
            Self::Strings => "strings",
            Self::Files => "files",
            Self::Args => "args",
        }
    }
}

/// How field values are merged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// Own first, first kept.
    #[default]
    Preorder,
    /// Own last, first kept.
    Postorder,
    /// Own first, last kept.
    Topological,
}

/// A compiled rule.
#[derive(Debug)]
pub struct Rule {
    /// Its name.
    pub name: Arc<str>,
    /// What it makes.
    pub doc: Option<Arc<str>>,
    /// Where it is declared.
    pub span: Span,
    /// Its attributes, those of its parts first.
    pub attrs: Vec<AttrSpec>,
    /// Its lists: names and entries.
    pub lists: Vec<(Arc<str>, Box<[Entry]>)>,
    /// Its actions.
    pub actions: Vec<Action>,
    /// Indices of the actions, each after those whose outputs it names.
    pub order: Vec<u16>,
    /// What its targets stand for.
    pub outputs: Box<[Entry]>,
    /// What its targets give.
    pub provides: Vec<(u16, Vec<FieldValue>)>,
    /// How its targets are run.
    pub run: Option<Run>,
    /// Tool variables it mentions.
    pub tool_vars: Vec<VarId>,
    /// Attributes, and fields of them, that it mentions.
    pub sources: Vec<Source>,
}

/// Entries of a provided field.
#[derive(Debug)]
pub struct FieldValue {
    /// Index of the field.
    pub field: u16,
    /// The target's own.
    pub own: Box<[Entry]>,
    /// What is handed on, in order.
    pub handed_on: Box<[Handed]>,
}

/// One `{ATTR.P.F}` that is handed on, with the conditions it stands under.
#[derive(Debug)]
pub struct Handed {
    /// All must hold.
    pub when: Box<[Condition]>,
    /// What.
    pub source: Source,
}

/// `run` or `test`.
#[derive(Debug)]
pub struct Run {
    /// The program.
    pub executable: Template,
    /// What it needs.
    pub runfiles: Box<[Entry]>,
    /// Whether it is a test.
    pub test: bool,
}

/// An action.
#[derive(Debug)]
pub struct Action {
    /// Its name.
    pub name: Arc<str>,
    /// Where it is declared.
    pub span: Span,
    /// All must hold.
    pub when: Box<[Condition]>,
    /// One action for each element.
    pub for_each: Option<Source>,
    /// Its outputs.
    pub outs: Box<[Out]>,
    /// What it does.
    pub body: Body,
    /// Files needed but not named.
    pub inputs: Box<[Entry]>,
    /// Environment by name.
    pub env: Box<[(Box<str>, EnvValue)]>,
    /// Attributes whose entries are added and win.
    pub env_from: Box<[u16]>,
    /// Below `{bin}`.
    pub depfile: Option<Template>,
    /// Constant settings.
    pub fixed: Fixed,
}

/// What an action does.
#[derive(Debug)]
pub enum Body {
    /// Runs a command.
    Command {
        /// Shell text.
        cmd: Option<Box<str>>,
        /// The argv, or `$1…` of the shell text.
        args: Box<[Entry]>,
    },
    /// Writes its one output.
    Write {
        /// The lines.
        lines: Box<[Entry]>,
        /// Whether it may be run.
        executable: bool,
    },
}

/// An output of an action.
#[derive(Debug)]
pub struct Out {
    /// Its name.
    pub name: Arc<str>,
    /// Whether it is a tree artifact.
    pub directory: bool,
    /// Its path below `{bin}`.
    pub path: Template,
}

/// A value of the environment.
#[derive(Debug)]
pub enum EnvValue {
    /// A text; not set where its list is empty.
    Text(Template),
    /// A `join` table.
    Join(TableEntry),
}

/// What is the same for all targets.
#[derive(Debug)]
pub struct Fixed {
    /// Kind of work in one word.
    pub mnemonic: Arc<str>,
    /// Where it may run and be stored.
    pub tags: ActionTags,
    /// Sorted by name.
    pub platform: Arc<[(Box<str>, Box<str>)]>,
    /// Killed after this long.
    pub timeout: Option<Duration>,
    /// Further programs of the host.
    pub host_tools: Box<[HostTool]>,
    /// What it takes while it runs here.
    pub resources: Resources,
}
