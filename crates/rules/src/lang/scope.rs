//! What names mean inside one rule, and of what type they are. Knows declarations, not entries.

use std::sync::Arc;

use minibuild_diagnostics::diag::{Diagnostic, Span};
use minibuild_diagnostics::source::suggested;

use super::attrs::Broken;
use super::rule::{Count, FieldId, Kind, Provider, Source, Type};
use super::vars::{VarDecl, VarId, VarType};
use crate::attr::{Accept, AttrSpec, AttrType};

/// Names that templates give another meaning.
pub const RESERVED: &[&str] =
    &["name", "label", "package", "bin", "bin_root", "vars", "item", "out", "tags", "platform"];

/// What is known of an action before its entries are read.
#[derive(Clone, Debug)]
pub struct ActionHeader {
    /// Its name.
    pub name: Arc<str>,
    /// Where it is declared.
    pub span: Span,
    /// Its outputs, and which are tree artifacts.
    pub outs: Vec<(Arc<str>, bool)>,
    /// How often it runs.
    pub count: Count,
    /// Whether it has a depfile.
    pub depfile: bool,
}

/// A list of a rule.
#[derive(Clone, Debug)]
pub struct ListHeader {
    /// Its name.
    pub name: Arc<str>,
    /// Where it is declared.
    pub span: Span,
    /// What its texts are, once it was read.
    pub kind: Kind,
}

/// The names of one rule.
pub struct Scope<'a> {
    /// Variables.
    pub vars: &'a [VarDecl],
    /// Providers.
    pub providers: &'a [Provider],
    /// Attributes, those of parts first.
    pub attrs: Vec<AttrSpec>,
    /// Lists.
    pub lists: Vec<ListHeader>,
    /// Actions.
    pub actions: Vec<ActionHeader>,
    /// Attributes whose declarations have errors of their own.
    pub broken: Vec<String>,
    /// Variables and providers of that kind.
    pub declared_broken: &'a Broken,
}

/// Where a name is used.
#[derive(Clone, Copy)]
pub enum Within<'a> {
    /// A list of the rule: names no lists.
    List,
    /// `outputs`, `provides`, `run`, `when` and `for_each` of actions.
    Rule,
    /// Paths of outputs: `item`, but not `out`.
    Outs {
        /// Kind of the elements of `for_each`.
        item: Option<Kind>,
    },
    /// Everything else in an action.
    Action {
        /// The action.
        header: &'a ActionHeader,
        /// Kind of the elements of `for_each`.
        item: Option<Kind>,
    },
}

/// Why a name means nothing.
pub struct Unknown {
    /// What to say.
    pub message: String,
    /// Candidates for a suggestion, and the word to compare with them.
    pub candidates: Vec<String>,
    /// What to do.
    pub hint: Option<String>,
    /// Whether it may be a name of a part that is used together with another one.
    pub open: bool,
}

impl Unknown {
    fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), candidates: Vec::new(), hint: None, open: false }
    }

    fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    fn among(mut self, candidates: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.candidates.extend(candidates.into_iter().map(Into::into));
        self
    }

    /// As a complaint about the text at `span`.
    pub fn diagnostic(&self, span: Span, path: &str) -> Diagnostic {
        let last = path.rsplit('.').next().unwrap_or(path);
        let whole = self.candidates.iter().any(|candidate| candidate.contains('.'));
        let word = if whole { path } else { last };
        let diagnostic = Diagnostic::at(span, self.message.clone());
        let diagnostic = suggested(diagnostic, word, self.candidates.iter().map(String::as_str));
        self.hint.iter().fold(diagnostic, |diagnostic, hint| diagnostic.hint(hint.clone()))
    }
}

/// A name that was found.
type Found = Result<(Source, Type), Unknown>;

fn one(kind: Kind) -> Type {
    Type { kind, count: Count::One }
}

fn many(kind: Kind) -> Type {
    Type { kind, count: Count::Many }
}

fn index(at: usize) -> u16 {
    u16::try_from(at).unwrap_or(u16::MAX)
}

impl Scope<'_> {
    /// Whether the path names something whose declaration is wrong itself, which was told already.
    pub fn is_broken(&self, path: &str) -> bool {
        let has = |names: &[String], name: &str| names.iter().any(|known| known == name);
        let mut segments = path.split('.');
        match (segments.next(), segments.next()) {
            (Some("vars"), Some(name)) => has(&self.declared_broken.vars, name),
            (Some(first), second) => {
                has(&self.broken, first) || second.is_some_and(|name| has(&self.declared_broken.providers, name))
            }
            (None, _) => false,
        }
    }

    /// What a dotted path means.
    pub fn resolve(&self, path: &str, within: Within<'_>) -> Found {
        let segments: Vec<&str> = path.split('.').collect();
        match &segments[..] {
            [name] => self.single(name, within),
            ["vars", name] => self.variable(name),
            ["out", name] => Self::own_output(name, within),
            [first, rest @ ..] => match self.attr(first) {
                Some(at) => self.below_attr(at, rest),
                None => self.action_output(first, rest, within),
            },
            [] => Err(Unknown::new("an empty name")),
        }
    }

    fn attr(&self, name: &str) -> Option<usize> {
        self.attrs.iter().position(|spec| *spec.name == *name)
    }

    fn single(&self, name: &str, within: Within<'_>) -> Found {
        match name {
            "name" => return Ok((Source::Name, one(Kind::Text))),
            "label" => return Ok((Source::Label, one(Kind::Text))),
            "package" => return Ok((Source::Package, one(Kind::Text))),
            "bin" => return Ok((Source::Bin, one(Kind::Text))),
            "bin_root" => return Ok((Source::BinRoot, one(Kind::Text))),
            "item" => return Self::item(within),
            _ => {}
        }
        if let Some(at) = self.attr(name) {
            return Ok((Source::Attr(index(at)), attr_type(&self.attrs[at])));
        }
        if let Some(at) = self.lists.iter().position(|list| *list.name == *name) {
            if matches!(within, Within::List) {
                return Err(Unknown::new(format!("`{name}` is a list: a list cannot name another one")));
            }
            return Ok((Source::List(index(at)), many(self.lists[at].kind)));
        }
        if let Some(action) = self.actions.iter().find(|action| *action.name == *name) {
            let outs: Vec<String> = action.outs.iter().map(|(out, _)| format!("`{{{name}.{out}}}`")).collect();
            return Err(Unknown::new(format!("`{name}` is an action"))
                .hint(format!("name one of its outputs: {}", outs.join(", "))));
        }
        Err(self.unknown(name, within))
    }

    fn unknown(&self, name: &str, within: Within<'_>) -> Unknown {
        let mut unknown = Unknown::new(format!("unknown name `{name}`"))
            .among(self.attrs.iter().map(|spec| spec.name.to_string()))
            .among(["name", "label", "package", "bin", "bin_root"]);
        if !matches!(within, Within::List) {
            unknown = unknown.among(self.lists.iter().map(|list| list.name.to_string()));
        }
        if matches!(within, Within::Outs { item: Some(_) } | Within::Action { item: Some(_), .. }) {
            unknown = unknown.among(["item"]);
        }
        unknown.open = true;
        unknown
    }

    fn item(within: Within<'_>) -> Found {
        match within {
            Within::Outs { item: Some(kind) } | Within::Action { item: Some(kind), .. } => {
                Ok((Source::Item, one(kind)))
            }
            Within::Outs { .. } | Within::Action { .. } => Err(Unknown::new("`item` is nothing here")
                .hint("`item` is the current element of `for_each`, which this action has not")),
            Within::List | Within::Rule => Err(Unknown::new("`item` is known only inside an action")),
        }
    }

    fn own_output(name: &str, within: Within<'_>) -> Found {
        let header = match within {
            Within::Action { header, .. } => header,
            Within::Outs { .. } => return Err(Unknown::new("the path of an output cannot name an output")),
            Within::List | Within::Rule => return Err(Unknown::new("`out` is known only inside an action")),
        };
        if name == "depfile" && header.depfile {
            return Ok((Source::Depfile, one(Kind::File)));
        }
        match header.outs.iter().position(|(out, _)| **out == *name) {
            Some(at) => Ok((Source::Out(index(at)), one(Kind::File))),
            None if name == "depfile" => Err(Unknown::new("this action has no `depfile`")),
            None => Err(Unknown::new(format!("action `{}` has no output `{name}`", header.name))
                .among(header.outs.iter().map(|(out, _)| out.to_string()))),
        }
    }

    fn variable(&self, name: &str) -> Found {
        let Some(at) = self.vars.iter().position(|decl| *decl.name == *name) else {
            return Err(Unknown::new(format!("no variable `{name}` is declared"))
                .among(self.vars.iter().map(|decl| decl.name.to_string())));
        };
        let ty = match self.vars[at].ty {
            VarType::String | VarType::Enum => one(Kind::Text),
            VarType::Bool => one(Kind::Bool),
            VarType::Tool => one(Kind::Tool),
            VarType::Strings => many(Kind::Text),
        };
        Ok((Source::Var(VarId(index(at))), ty))
    }

    fn action_output(&self, name: &str, rest: &[&str], within: Within<'_>) -> Found {
        let Some(at) = self.actions.iter().position(|action| *action.name == *name) else {
            if self.lists.iter().any(|list| *list.name == *name) {
                return Err(Unknown::new(format!("`{name}` is a list: it has no parts")));
            }
            let mut unknown =
                self.unknown(name, within).among(self.actions.iter().map(|action| action.name.to_string()));
            if let [single] = rest {
                unknown = unknown.among(self.all_outputs(single));
            }
            return Err(unknown);
        };
        let action = &self.actions[at];
        let [out] = rest else {
            return Err(Unknown::new(format!("`{name}` is an action: it has outputs and nothing below them")));
        };
        match action.outs.iter().position(|(known, _)| **known == **out) {
            Some(out) => {
                let ty = Type { kind: Kind::File, count: action.count };
                Ok((Source::Action(index(at), index(out)), ty))
            }
            None => Err(Unknown::new(format!("action `{name}` has no output `{out}`"))
                .among(action.outs.iter().map(|(out, _)| out.to_string()))),
        }
    }

    /// `ACTION.OUT` of all actions that have this output.
    fn all_outputs(&self, out: &str) -> Vec<String> {
        let has = |action: &&ActionHeader| action.outs.iter().any(|(known, _)| **known == *out);
        self.actions.iter().filter(has).map(|action| format!("{}.{out}", action.name)).collect()
    }

    fn below_attr(&self, at: usize, rest: &[&str]) -> Found {
        let spec = &self.attrs[at];
        match (&spec.ty, rest) {
            (AttrType::File { accept } | AttrType::Files { accept }, [kind]) => {
                kind_of_files(spec, accept.as_ref(), kind).map(|kind| (Source::Kind(index(at), kind), many(Kind::File)))
            }
            (AttrType::Target { providers } | AttrType::Targets { providers }, [provider, field]) => {
                self.field(at, providers, provider, field)
            }
            (AttrType::Target { .. } | AttrType::Targets { .. }, _) => {
                Err(Unknown::new(format!("`{}` gives fields of providers", spec.name))
                    .hint(format!("write `{{{}.PROVIDER.FIELD}}`", spec.name)))
            }
            _ => Err(Unknown::new(format!("`{}` has no parts", spec.name))),
        }
    }

    fn field(&self, at: usize, listed: &[Arc<str>], provider: &str, field: &str) -> Found {
        let spec = &self.attrs[at];
        if !listed.is_empty() && !listed.iter().any(|name| **name == *provider) {
            let known: Vec<String> = listed.iter().map(ToString::to_string).collect();
            return Err(Unknown::new(format!("`{}` takes no targets that give `{provider}`", spec.name)).hint(
                format!(
                    "its `providers` are {}",
                    minibuild_diagnostics::source::quoted_list(known.iter().map(String::as_str))
                ),
            ));
        }
        if provider == "run" {
            return run_field(at, spec, field);
        }
        let Some(number) = self.providers.iter().position(|known| *known.name == *provider) else {
            return Err(Unknown::new(format!("unknown provider `{provider}`")));
        };
        match self.providers[number].fields.iter().position(|known| *known.name == *field) {
            Some(found) => {
                let id = FieldId { provider: index(number), field: index(found) };
                Ok((Source::Field(index(at), id), many(self.providers[number].fields[found].ty.kind())))
            }
            None => Err(Unknown::new(format!("provider `{provider}` has no field `{field}`"))
                .among(self.providers[number].fields.iter().map(|known| known.name.to_string()))),
        }
    }
}

fn run_field(at: usize, spec: &AttrSpec, field: &str) -> Found {
    match field {
        // One program, where there is one target that can be nothing but runnable.
        "executable" => {
            let only_run = matches!(&spec.ty, AttrType::Target { providers } if providers.iter().all(|p| **p == *"run") && !providers.is_empty());
            let single = only_run && (spec.required || spec.default.is_some());
            let count = if single { Count::One } else { Count::Many };
            Ok((Source::RunExecutable(index(at)), Type { kind: Kind::File, count }))
        }
        "runfiles" => Ok((Source::RunFiles(index(at)), many(Kind::File))),
        _ => Err(Unknown::new(format!("provider `run` has no field `{field}`")).among(["executable", "runfiles"])),
    }
}

fn kind_of_files(spec: &AttrSpec, accept: Option<&Accept>, kind: &str) -> Result<u16, Unknown> {
    let kinds = accept.map(|accept| &accept.kinds[..]).unwrap_or_default();
    if let Some(at) = kinds.iter().position(|(name, _)| name.as_deref() == Some(kind)) {
        return Ok(index(at));
    }
    let names: Vec<String> = kinds.iter().filter_map(|(name, _)| name.as_ref().map(ToString::to_string)).collect();
    if names.is_empty() {
        return Err(Unknown::new(format!("`{}` has no kinds of files", spec.name))
            .hint("`accept = { c = [\".c\"], hdr = [\".h\"] }` names kinds"));
    }
    Err(Unknown::new(format!("`{}` has no kind `{kind}`", spec.name)).among(names))
}

/// Type of the texts an attribute gives.
fn attr_type(spec: &AttrSpec) -> Type {
    use AttrType as T;
    let single = if spec.required || spec.default.is_some() { Count::One } else { Count::Optional };
    match &spec.ty {
        T::String { .. } | T::Enum { .. } => Type { kind: Kind::Text, count: single },
        T::Int => Type { kind: Kind::Int, count: single },
        T::Bool => Type { kind: Kind::Bool, count: single },
        T::Path => Type { kind: Kind::Dir, count: single },
        T::File { .. } | T::Tool => Type { kind: Kind::File, count: single },
        T::Strings { .. } => many(Kind::Text),
        T::Paths => many(Kind::Dir),
        T::Files { .. } | T::Target { .. } | T::Targets { .. } | T::Tools => many(Kind::File),
        T::Args => many(Kind::Args),
        T::Env => many(Kind::Env),
    }
}
