//! Which rules there are and what a target of each may say: one table that the reader of BUILD.toml, its hints,
//! `minibuild info` and the JSON Schema are all made from.

use std::sync::Arc;

use minibuild_core::ArtifactKind;
use minibuild_diagnostics::diag::Span;
use minibuild_rules::attr::{AttrSpec, AttrType};
use minibuild_rules::lang::{RuleId, RuleSet};
use rustc_hash::FxHashMap;

/// Type of one field of a target.
#[derive(Clone, Debug)]
pub enum FieldType {
    /// As attributes of rule files.
    Attr(AttrType),
    /// One text with `$(location)`.
    Loc,
    /// Declared outputs of one kind.
    Outs(ArtifactKind),
    /// A path among the outputs that is no declared output.
    OutPath,
    /// `{ path, content }`.
    RspFile,
    /// `"10m"` or seconds.
    Duration,
    /// `"2GiB"` or bytes.
    Memory,
    /// Names of programs, or `{ program, version }`.
    HostTools,
    /// Tags.
    Tags,
    /// Platform properties.
    Platform,
}

/// One field of a target.
#[derive(Clone, Debug)]
pub struct Field {
    /// The key in BUILD.toml.
    pub name: Arc<str>,
    /// What it takes.
    pub ty: FieldType,
    /// Whether a target must give it.
    pub required: bool,
    /// What it is for.
    pub doc: Option<Arc<str>>,
    /// Where a rule file declares it.
    pub span: Option<Span>,
}

/// Who expands the targets of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RuleKind {
    /// Built in.
    Genrule,
    /// Built in.
    Filegroup,
    /// Built in.
    Alias,
    /// Built in.
    Test,
    /// A rule of the rule files.
    Loaded(RuleId),
}

/// One rule.
#[derive(Clone, Debug)]
pub struct RuleInfo {
    /// The name of its array of tables.
    pub name: Arc<str>,
    /// Who expands it.
    pub kind: RuleKind,
    /// Its fields except `name`; those of a rule file come first, in declared order.
    pub fields: Vec<Field>,
    /// What it makes.
    pub doc: Option<Arc<str>>,
    /// For rules of rule files: the declarations behind the first fields.
    pub attrs: Vec<AttrSpec>,
}

impl RuleInfo {
    /// Index of a field.
    pub fn field(&self, name: &str) -> Option<usize> {
        self.fields.iter().position(|f| &*f.name == name)
    }
}

/// All rules by name.
pub struct RuleTable {
    /// In order of declaration, built-in ones first.
    pub rules: Vec<RuleInfo>,
    by_name: FxHashMap<Arc<str>, usize>,
}

impl RuleTable {
    /// The built-in rules and those of rule files.
    pub fn new(set: &RuleSet) -> Self {
        let mut rules = vec![genrule(), filegroup(), alias(), test()];
        rules.extend(set.rule_names().filter_map(|name| Some(loaded(set, set.rule(name)?, name))));
        let by_name = rules.iter().enumerate().map(|(index, rule)| (rule.name.clone(), index)).collect();
        Self { rules, by_name }
    }

    /// Index of a rule.
    pub fn find(&self, name: &str) -> Option<usize> {
        self.by_name.get(name).copied()
    }
}

fn loaded(set: &RuleSet, id: RuleId, name: &Arc<str>) -> RuleInfo {
    let attrs = set.attrs(id).to_vec();
    RuleInfo {
        name: name.clone(),
        kind: RuleKind::Loaded(id),
        fields: loaded_fields(&attrs, set.is_runnable(id), set.is_test(id)),
        doc: set.rule_doc(id).cloned(),
        attrs,
    }
}

/// The fields of a loaded rule: its attributes, then what every rule has.
fn loaded_fields(attrs: &[AttrSpec], runnable: bool, test: bool) -> Vec<Field> {
    let from_spec = |spec: &AttrSpec| Field {
        name: spec.name.clone(),
        ty: FieldType::Attr(spec.ty.clone()),
        required: spec.required,
        doc: spec.doc.clone(),
        span: spec.span,
    };
    let mut fields: Vec<Field> = attrs.iter().map(from_spec).collect();
    fields.push(tags());
    fields.push(platform());
    if runnable {
        fields.push(field(
            "args",
            args_type(),
            "Arguments of the run, before those of the command line; `$(location LABEL)` is expanded.",
        ));
        fields.push(field(
            "env",
            FieldType::Attr(AttrType::Env),
            "Environment of the run; `$(location LABEL)` is expanded.",
        ));
    }
    if test {
        fields.push(timeout());
        fields.extend(resources());
    }
    fields
}

fn field(name: &str, ty: FieldType, doc: &str) -> Field {
    Field { name: Arc::from(name), ty, required: false, doc: Some(Arc::from(doc)), span: None }
}

fn required(mut field: Field) -> Field {
    field.required = true;
    field
}

fn files() -> FieldType {
    FieldType::Attr(AttrType::Files { accept: None })
}

fn args_type() -> FieldType {
    FieldType::Attr(AttrType::Args)
}

fn text() -> FieldType {
    FieldType::Attr(AttrType::String { pattern: None })
}

fn tags() -> Field {
    field(
        "tags",
        FieldType::Tags,
        "`local`, `no-remote`, `no-local`, `no-cache`, `no-remote-cache`, `manual`, `exclusive`, or words of your own.",
    )
}

fn platform() -> Field {
    field(
        "platform",
        FieldType::Platform,
        "Platform properties an executor must have, such as `{ OSFamily = \"linux\" }`.",
    )
}

fn timeout() -> Field {
    field(
        "timeout",
        FieldType::Duration,
        "The command is stopped after this long: `\"90s\"`, `\"10m\"`, `\"1h30m\"` or seconds.",
    )
}

fn resources() -> [Field; 3] {
    [
        field("pool", text(), "A pool of `[build] pools` of which the action takes one place while it runs here."),
        field("cpus", FieldType::Attr(AttrType::Int), "Job slots the action takes while it runs here; 1 if not given."),
        field("memory", FieldType::Memory, "Memory the action takes while it runs here, such as `\"2GiB\"`."),
    ]
}

fn command_fields() -> Vec<Field> {
    let mut fields = vec![
        field("srcs", files(), "Files the command reads; the first is `$SRC`, all are `$SRCS`."),
        field(
            "tools",
            FieldType::Attr(AttrType::Tools),
            "Targets or files the command runs; named with `$(location LABEL)`.",
        ),
        field(
            "cmd",
            FieldType::Loc,
            "Text run by `/bin/sh -e -c`; only `$(location LABEL)` and `$(locations LABEL)` are expanded.",
        ),
        field(
            "args",
            args_type(),
            "The whole argv, without a shell; `$(location LABEL)` and `$(locations LABEL)` are expanded.",
        ),
        field("env", FieldType::Attr(AttrType::Env), "Environment of the command; `$(location LABEL)` is expanded."),
        field(
            "host_tools",
            FieldType::HostTools,
            "Programs of the host the command runs, whose content is part of the key: a name or `{ program, version = [ARGS] }`.",
        ),
        tags(),
        platform(),
        timeout(),
    ];
    fields.extend(resources());
    fields.push(field("doc", text(), "What the target is for."));
    fields
}

fn genrule() -> RuleInfo {
    let mut fields = command_fields();
    fields.extend([
        field("outs", FieldType::Outs(ArtifactKind::File), "Files the command makes, relative to the package; the first is `$OUT`, all are `$OUTS`."),
        field("out_dirs", FieldType::Outs(ArtifactKind::Directory), "Directories the command fills; the first is `$OUT_DIR`."),
        field("out_symlinks", FieldType::Outs(ArtifactKind::Symlink), "Symlinks the command makes, kept as they are."),
        field("inputs", files(), "Files the command may read and the depfile names; one it did not read causes no re-run."),
        field("depfile", FieldType::OutPath, "Make-style file of discovered inputs that the command writes."),
        field("rspfile", FieldType::RspFile, "`{ path, content }`: a private input written by minibuild, for what is too long for a command line."),
        field("hermetic", FieldType::Attr(AttrType::Bool), "The command reads nothing but its declared inputs, so its local results may be uploaded to a shared cache."),
    ]);
    rule("genrule", RuleKind::Genrule, fields, "Runs one command that makes files.")
}

fn test() -> RuleInfo {
    let mut fields = command_fields();
    fields.extend([
        field("data", files(), "Files the test reads when it runs."),
        field(
            "executable",
            FieldType::Attr(AttrType::Tool),
            "A runnable target or a file that is the test, run with `args`; instead of `cmd`.",
        ),
    ]);
    rule("test", RuleKind::Test, fields, "A command that passes when it exits 0.")
}

fn filegroup() -> RuleInfo {
    let fields = vec![
        field("srcs", files(), "The files the group stands for."),
        tags(),
        field("doc", text(), "What the target is for."),
    ];
    rule("filegroup", RuleKind::Filegroup, fields, "A name for a list of files.")
}

fn alias() -> RuleInfo {
    let actual =
        field("actual", FieldType::Attr(AttrType::Target { providers: Vec::new() }), "The target it stands for.");
    let fields = vec![required(actual), tags(), field("doc", text(), "What the target is for.")];
    rule("alias", RuleKind::Alias, fields, "Another name for a target.")
}

fn rule(name: &str, kind: RuleKind, fields: Vec<Field>, doc: &str) -> RuleInfo {
    RuleInfo { name: Arc::from(name), kind, fields, doc: Some(Arc::from(doc)), attrs: Vec::new() }
}
