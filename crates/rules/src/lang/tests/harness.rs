//! A loader in miniature: targets are written down as values, not as TOML.

use std::collections::HashMap;
use std::sync::Arc;

use minibuild_core::{
    ActionId, ActionKind, ArtifactId, BIN_ROOT, Input, Label, PackageId, Target, TargetId, Work, WsPath,
};
use minibuild_diagnostics::diag::{Diagnostics, FileId, Sources, Span};

use super::super::expand::Around;
use super::super::vars::{HostFacts, Setting, SettingValue, VarInputs, Vars};
use super::super::{RuleSet, compile};
use crate::attr::{AttrDefault, AttrSpec, AttrType, AttrValue, FileItem, LocPart, LocText, ToolValue};
use crate::builder::ModelBuilder;
use crate::provide::{Common, Provided, TargetCx};

/// The files of the contract that are shipped, and two more of its examples.
pub const C: (&str, &str) = ("@std/c.toml", include_str!("../../../std/c.toml"));
pub const PYTHON: (&str, &str) = ("@std/python.toml", include_str!("../../../std/python.toml"));
pub const RUST: (&str, &str) = ("@std/rust.toml", include_str!("../../../std/rust.toml"));
pub const CODEGEN: (&str, &str) = ("rules/codegen.toml", include_str!("../testdata/codegen.toml"));
pub const JS: (&str, &str) = ("rules/js.toml", include_str!("../testdata/js.toml"));

/// A value as a test writes it down.
#[derive(Clone)]
pub enum V {
    /// `string`, `enum`.
    S(&'static str),
    B(bool),
    I(i64),
    /// Any list: by type of the attribute. `:x` and `//x:y` are targets, `$(location X)` works in `args`.
    L(Vec<&'static str>),
    /// `env`.
    E(Vec<(&'static str, &'static str)>),
}

pub struct World {
    pub sources: Sources,
    pub set: RuleSet,
    pub diags: Diagnostics,
    pub builder: ModelBuilder,
    pub vars: Arc<Vars>,
    pub provided: Vec<Provided>,
    by_label: HashMap<String, TargetId>,
}

pub fn setting(name: &str, value: &str) -> Setting {
    Setting {
        name: name.to_owned(),
        value: SettingValue::Text(value.to_owned()),
        span: None,
        origin: "--var".to_owned(),
    }
}

impl World {
    pub fn new(files: &[(&str, &str)]) -> Self {
        Self::with_vars(files, &[], Vec::new())
    }

    pub fn with_vars(files: &[(&str, &str)], configs: &[&str], flags: Vec<Setting>) -> Self {
        let mut sources = Sources::default();
        let ids: Vec<FileId> = files.iter().map(|(path, text)| sources.add(path, Arc::from(*text))).collect();
        let mut diags = Diagnostics::default();
        let set = compile(&ids, &sources, &mut diags);
        let inputs = VarInputs {
            host: HostFacts { os: "linux".to_owned(), arch: "x86_64".to_owned() },
            base: Vec::new(),
            configs: configs.iter().map(|name| ((*name).to_owned(), Vec::new())).collect(),
            flags,
        };
        let vars = Arc::new(set.resolve_vars(&inputs, &mut diags));
        let builder = ModelBuilder::default();
        Self { sources, set, diags, builder, vars, provided: Vec::new(), by_label: HashMap::new() }
    }

    /// Fails the test if anything was complained about.
    #[track_caller]
    pub fn clean(&self) {
        assert!(self.diags.list.is_empty(), "{}", self.complaints());
    }

    /// All complaints, one a line: `FILE:LINE:COLUMN: MESSAGE [UNDERLINED] label; note FILE:LINE:COL …; hint …`.
    pub fn complaints(&self) -> String {
        let lines: Vec<String> = self.diags.list.iter().map(|diagnostic| self.complaint(diagnostic)).collect();
        lines.join("\n")
    }

    fn place(&self, span: Span) -> (String, String) {
        let text = self.sources.text(span.file);
        let before = &text[..span.start as usize];
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        (
            format!("{}:{line}:{column}", self.sources.path(span.file)),
            text[span.start as usize..span.end as usize].to_owned(),
        )
    }

    fn complaint(&self, diagnostic: &minibuild_diagnostics::diag::Diagnostic) -> String {
        let mut line = String::new();
        if let Some((span, label)) = &diagnostic.primary {
            let (place, under) = self.place(*span);
            line += &format!("{place}: {} [{under}]", diagnostic.message);
            if !label.is_empty() {
                line += &format!(" ({label})");
            }
        } else {
            line += &diagnostic.message;
        }
        for (span, text) in &diagnostic.notes {
            let (place, under) = self.place(*span);
            line += &format!("; {text} {place} [{under}]");
        }
        for hint in &diagnostic.hints {
            line += &format!("; hint: {hint}");
        }
        line
    }

    pub fn id(&self, label: &str) -> TargetId {
        self.by_label[label]
    }

    pub fn of(&self, label: &str) -> &Provided {
        &self.provided[self.id(label).index()]
    }

    pub fn source(&mut self, path: &str) -> ArtifactId {
        self.builder.source(WsPath::new(path).expect("a path"))
    }

    /// A target that gives only files, which are made if they are not sources.
    pub fn files(&mut self, label: &str, outputs: Vec<ArtifactId>) -> TargetId {
        let provided = Provided { outputs: outputs.into_iter().map(Input::Artifact).collect(), ..Provided::default() };
        self.finish(label, "filegroup", provided)
    }

    fn finish(&mut self, label: &str, rule: &str, provided: Provided) -> TargetId {
        let id = TargetId::new(self.provided.len());
        if self.builder.model.targets.len() == id.index() {
            self.push_row(label, rule);
        }
        self.provided.push(provided);
        self.by_label.insert(label.to_owned(), id);
        id
    }

    fn push_row(&mut self, label: &str, rule: &str) {
        self.builder.model.targets.push(Target {
            label: Label::parse(label, "").expect("a label"),
            package: PackageId::new(0),
            rule: Arc::from(rule),
            tags: Box::default(),
            outputs: Box::default(),
            groups: Default::default(),
            run: None,
            test: None,
            deps: Box::default(),
            alias_of: None,
        });
    }

    /// Loads and expands a target.
    pub fn target(&mut self, rule: &str, label: &str, attrs: &[(&str, V)]) -> TargetId {
        self.target_with(rule, label, attrs, Common::default())
    }

    pub fn target_with(&mut self, rule: &str, label: &str, attrs: &[(&str, V)], common: Common) -> TargetId {
        let parsed = Label::parse(label, "").expect("a label");
        let rule_id = self.set.rule(rule).unwrap_or_else(|| panic!("no rule {rule}: {}", self.complaints()));
        let specs: Vec<AttrSpec> = self.set.attrs(rule_id).to_vec();
        for (name, _) in attrs {
            assert!(specs.iter().any(|spec| *spec.name == **name), "{rule} has no attribute {name}");
        }
        let values: Vec<AttrValue> = specs.iter().map(|spec| self.value(spec, &parsed, attrs)).collect();
        self.push_row(label, rule);
        let file = FileId(0);
        let header = Span { file, start: 0, end: 0 };
        let cx = TargetCx {
            id: TargetId::new(self.provided.len()),
            label: &parsed,
            package: PackageId::new(0),
            attrs: &values,
            attr_spans: &vec![None; values.len()],
            header,
            common: &common,
        };
        let table = &self.provided;
        let lookup = |id: TargetId| &table[id.index()];
        let around = Around { provided: &lookup, vars: &self.vars };
        let provided = self.set.expand(rule_id, &cx, &around, &mut self.builder, &mut self.diags);
        self.finish(label, rule, provided)
    }

    fn value(&mut self, spec: &AttrSpec, label: &Label, attrs: &[(&str, V)]) -> AttrValue {
        let given = attrs.iter().find(|(name, _)| **name == *spec.name).map(|(_, value)| value.clone());
        let words: Vec<String> = match given {
            Some(V::S(text)) => vec![text.to_owned()],
            Some(V::L(texts)) => texts.into_iter().map(str::to_owned).collect(),
            Some(V::B(value)) => return AttrValue::Bool(value),
            Some(V::I(value)) => return AttrValue::Int(value),
            Some(V::E(pairs)) => {
                return AttrValue::Env(pairs.iter().map(|(n, v)| (Arc::from(*n), self.loc(v, label))).collect());
            }
            None => match &spec.default {
                Some(AttrDefault::Bool(value)) => return AttrValue::Bool(*value),
                Some(AttrDefault::Int(value)) => return AttrValue::Int(*value),
                Some(AttrDefault::Text(text)) => vec![text.expand(label, &self.vars)],
                Some(AttrDefault::Texts(texts)) => texts.iter().map(|text| text.expand(label, &self.vars)).collect(),
                None => Vec::new(),
            },
        };
        self.typed(spec, label, &words)
    }

    fn typed(&mut self, spec: &AttrSpec, label: &Label, words: &[String]) -> AttrValue {
        use AttrType as T;
        let single = matches!(
            spec.ty,
            T::String { .. }
                | T::Enum { .. }
                | T::Int
                | T::Bool
                | T::Path
                | T::File { .. }
                | T::Target { .. }
                | T::Tool
        );
        if single && words.is_empty() {
            return AttrValue::Unset;
        }
        let shared = |word: &String| -> Arc<str> { Arc::from(word.as_str()) };
        match &spec.ty {
            T::String { .. } | T::Enum { .. } => AttrValue::Text(shared(&words[0])),
            T::Strings { .. } => AttrValue::Texts(words.iter().map(shared).collect()),
            T::Path | T::Paths => AttrValue::Paths(words.iter().map(|word| below(label, word)).collect()),
            T::File { accept } | T::Files { accept } => {
                let mut files = Vec::new();
                for word in words {
                    for (artifact, from) in self.artifacts(word, label) {
                        let kind = self.kind_of(artifact, accept.as_ref());
                        files.push(FileItem { artifact, kind, from });
                    }
                }
                AttrValue::Files(files)
            }
            T::Target { .. } | T::Targets { .. } => {
                AttrValue::Targets(words.iter().map(|word| self.named(word, label)).collect())
            }
            T::Tool | T::Tools => {
                let tool = |word: &String| match word.contains(':') {
                    true => ToolValue::Target(self.named(word, label)),
                    false => ToolValue::File(self.builder.source(below(label, word))),
                };
                AttrValue::Tools(words.iter().map(tool).collect())
            }
            T::Args => AttrValue::Args(words.iter().map(|word| self.loc(word, label)).collect()),
            T::Env => AttrValue::Env(Vec::new()),
            T::Int | T::Bool => panic!("write V::I or V::B for {}", spec.name),
        }
    }

    fn named(&self, word: &str, label: &Label) -> TargetId {
        let label = Label::parse(word, label.package()).expect("a label").to_string();
        *self.by_label.get(&label).unwrap_or_else(|| panic!("no target {label}"))
    }

    fn artifacts(&mut self, word: &str, label: &Label) -> Vec<(ArtifactId, Option<TargetId>)> {
        if !word.contains(':') {
            return vec![(self.builder.source(below(label, word)), None)];
        }
        let id = self.named(word, label);
        let mut all = Vec::new();
        self.builder
            .model
            .for_each_artifact(&self.provided[id.index()].outputs, |artifact| all.push((artifact, Some(id))));
        all
    }

    fn kind_of(&self, artifact: ArtifactId, accept: Option<&crate::attr::Accept>) -> u16 {
        let row = self.builder.model.artifact(artifact);
        let Some(accept) = accept else { return 0 };
        let fits = |ending: &Arc<str>| match row.kind {
            minibuild_core::ArtifactKind::Directory => **ending == *"/",
            _ => row.path.as_str().ends_with(&**ending),
        };
        let at = accept.kinds.iter().position(|(_, endings)| endings.iter().any(fits));
        u16::try_from(at.unwrap_or_else(|| panic!("{} is not accepted", row.path))).expect("few kinds")
    }

    fn loc(&mut self, word: &str, label: &Label) -> LocText {
        let mut parts = Vec::new();
        let mut rest = word;
        while let Some((before, after)) = rest.split_once("$(location ") {
            let (name, tail) = after.split_once(')').expect("a closing bracket");
            parts.push(LocPart::Text(Arc::from(before)));
            parts.push(LocPart::Files(self.artifacts(name, label).into_iter().map(|(id, _)| id).collect()));
            rest = tail;
        }
        parts.push(LocPart::Text(Arc::from(rest)));
        LocText { parts, along: Vec::new() }
    }

    pub fn path(&self, id: ArtifactId) -> String {
        self.builder.model.artifact(id).path.to_string()
    }

    /// Paths of all artifacts of the inputs, in the order met.
    pub fn paths(&self, inputs: &[Input]) -> Vec<String> {
        let mut paths = Vec::new();
        self.builder.model.for_each_artifact(inputs, |id| paths.push(self.path(id)));
        paths
    }

    /// The actions of a target, in order.
    pub fn actions(&self, label: &str) -> Vec<ActionId> {
        self.of(label).recipes.iter().map(|(id, _)| *id).collect()
    }

    pub fn work(&self, label: &str, at: usize) -> Work {
        let (id, recipe) = &self.of(label).recipes[at];
        let work = recipe.work(&self.builder.model, *id);
        assert_eq!(work, recipe.work(&self.builder.model, *id), "the same work each time");
        let kind = self.builder.model.action(*id).kind;
        assert_eq!(kind == ActionKind::Write, matches!(work, Work::Write(_)));
        work
    }

    /// The command line of an action.
    pub fn command(&self, label: &str, at: usize) -> minibuild_core::CommandLine {
        match self.work(label, at) {
            Work::Spawn(command) => command,
            Work::Write(file) => panic!("{label} writes {}", file.path),
        }
    }

    /// The argv of an action as one text.
    pub fn argv(&self, label: &str, at: usize) -> String {
        self.command(label, at).argv.join(" ")
    }

    /// What an action writes.
    pub fn written(&self, label: &str, at: usize) -> String {
        match self.work(label, at) {
            Work::Write(file) => String::from_utf8(file.content).expect("text"),
            Work::Spawn(command) => panic!("{label} runs {:?}", command.argv),
        }
    }

    pub fn row(&self, label: &str, at: usize) -> &minibuild_core::Action {
        self.builder.model.action(self.of(label).recipes[at].0)
    }

    pub fn input_paths(&self, label: &str, at: usize) -> Vec<String> {
        self.paths(&self.row(label, at).inputs)
    }
}

fn below(label: &Label, word: &str) -> WsPath {
    let text = match (label.package(), word) {
        (package, ".") => package.to_owned(),
        ("", word) => word.to_owned(),
        (package, word) => format!("{package}/{word}"),
    };
    WsPath::new(&text).expect("a path")
}

/// `minibuild-out/bin/…`.
pub fn bin(path: &str) -> String {
    format!("{BIN_ROOT}/{path}")
}
