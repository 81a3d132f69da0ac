//! Declarations of attributes: `[rule.R.attrs]`, `[part.X.attrs]`, with the texts of their defaults.

use std::sync::Arc;

use minibuild_core::Label;
use minibuild_diagnostics::diag::{Diagnostic, Diagnostics, Span};
use minibuild_diagnostics::source::{Entry, Reader, Text, Value, as_integer, quoted_list, suggested};
use toml::de::{DeTable, DeValue};

use super::decl::{check_applies, declared_type};
use super::rule::Provider;
use super::template::{self, Help, MODIFIERS, RawPiece, SyntaxError};
use super::vars::{ToolVar, VarDecl, VarId, VarType, VarValue, Vars};
use crate::attr::{Accept, AttrDefault, AttrSpec, AttrType};

const ATTR_KEYS: &[&str] = &["type", "required", "default", "values", "pattern", "accept", "providers", "doc"];

#[derive(Clone, Copy, PartialEq, Eq)]
enum TypeName {
    String,
    Int,
    Enum,
    Bool,
    Strings,
    Path,
    Paths,
    File,
    Files,
    Target,
    Targets,
    Tool,
    Tools,
    Args,
    Env,
}

const ATTR_TYPES: &[(&str, TypeName)] = &[
    ("string", TypeName::String),
    ("int", TypeName::Int),
    ("enum", TypeName::Enum),
    ("bool", TypeName::Bool),
    ("strings", TypeName::Strings),
    ("path", TypeName::Path),
    ("paths", TypeName::Paths),
    ("file", TypeName::File),
    ("files", TypeName::Files),
    ("target", TypeName::Target),
    ("targets", TypeName::Targets),
    ("tool", TypeName::Tool),
    ("tools", TypeName::Tools),
    ("args", TypeName::Args),
    ("env", TypeName::Env),
];

/// The text of a default, with its references `{name}`, `{package}`, `{vars.X}`.
#[derive(Clone, Debug)]
pub struct DefaultText {
    pieces: Box<[DefaultPiece]>,
    /// Where it is declared.
    pub span: Span,
}

#[derive(Clone, Debug)]
enum DefaultPiece {
    Text(Box<str>),
    Name,
    Package,
    Var(VarId),
}

impl DefaultText {
    /// The text for one target.
    pub fn expand(&self, label: &Label, vars: &Vars) -> String {
        let mut text = String::new();
        for piece in &self.pieces {
            match piece {
                DefaultPiece::Text(plain) => text.push_str(plain),
                DefaultPiece::Name => text.push_str(label.name()),
                DefaultPiece::Package => text.push_str(if label.package().is_empty() { "." } else { label.package() }),
                DefaultPiece::Var(id) => match vars.get(*id) {
                    VarValue::Text(value) | VarValue::Tool(ToolVar::Host(value) | ToolVar::Label(value, _)) => {
                        text.push_str(value);
                    }
                    VarValue::Bool(value) => text.push_str(if *value { "true" } else { "false" }),
                    VarValue::Texts(_) => {}
                },
            }
        }
        text
    }

    /// The text, where it names nothing.
    pub fn constant(&self) -> Option<&str> {
        match &*self.pieces {
            [DefaultPiece::Text(text)] => Some(text),
            _ => None,
        }
    }

    /// The variable it consists of, if it is nothing else.
    fn only_var(&self) -> Option<VarId> {
        match &*self.pieces {
            [DefaultPiece::Var(id)] => Some(*id),
            _ => None,
        }
    }
}

/// What attribute declarations may refer to.
#[derive(Clone, Copy)]
pub struct Declared<'a> {
    /// Variables.
    pub vars: &'a [VarDecl],
    /// Providers.
    pub providers: &'a [Provider],
    /// Names of declarations with errors: what names them is not wrong for that.
    pub broken: &'a Broken,
}

/// Names of variables and providers whose declarations have errors of their own.
#[derive(Default)]
pub struct Broken {
    /// Variables.
    pub vars: Vec<String>,
    /// Providers.
    pub providers: Vec<String>,
}

/// Reads one attribute.
pub fn attribute<'i>(
    reader: Reader<'i>,
    entry: &Entry<'i>,
    declared: Declared<'_>,
    diags: &mut Diagnostics,
) -> Option<AttrSpec> {
    let what = format!("attribute `{}`", entry.key);
    let table = reader.table(entry.value, &what, diags)?;
    reader.known_keys(table, ATTR_KEYS, &what, diags);
    let name = declared_type(reader, entry, table, "attribute", ATTR_TYPES, diags)?;
    let ty = attr_type(reader, entry, table, name, declared, diags)?;
    let required = table.get("required").and_then(|v| reader.bool(v, "`required`", diags)).unwrap_or(false);
    let default = table.get("default").and_then(|value| default_value(reader, value, &ty, declared, diags));
    if let Some((key, _)) = table.get_key_value("default").filter(|_| required) {
        let span = Span::new(reader.file, key.span());
        diags.push(Diagnostic::at(span, format!("{what} is required and has a default: it can only have one")));
    }
    Some(AttrSpec {
        name: Arc::from(entry.key),
        ty,
        required,
        default,
        doc: reader.doc(table, diags),
        span: Some(entry.key_span),
    })
}

fn attr_type<'i>(
    reader: Reader<'i>,
    entry: &Entry<'i>,
    table: &'i DeTable<'i>,
    name: TypeName,
    declared: Declared<'_>,
    diags: &mut Diagnostics,
) -> Option<AttrType> {
    use TypeName as N;
    check_applies(reader, table, "values", name == N::Enum, "`enum`", diags);
    check_applies(reader, table, "pattern", matches!(name, N::String | N::Strings), "`string` and `strings`", diags);
    check_applies(reader, table, "accept", matches!(name, N::File | N::Files), "`file` and `files`", diags);
    check_applies(reader, table, "providers", matches!(name, N::Target | N::Targets), "`target` and `targets`", diags);
    Some(match name {
        N::String => AttrType::String { pattern: pattern(reader, table, diags) },
        N::Strings => AttrType::Strings { pattern: pattern(reader, table, diags) },
        N::Enum => AttrType::Enum { values: enum_values(reader, entry, table, diags)? },
        N::File => AttrType::File { accept: accept(reader, table, diags) },
        N::Files => AttrType::Files { accept: accept(reader, table, diags) },
        N::Target => AttrType::Target { providers: providers(reader, table, declared, diags) },
        N::Targets => AttrType::Targets { providers: providers(reader, table, declared, diags) },
        N::Int => AttrType::Int,
        N::Bool => AttrType::Bool,
        N::Path => AttrType::Path,
        N::Paths => AttrType::Paths,
        N::Tool => AttrType::Tool,
        N::Tools => AttrType::Tools,
        N::Args => AttrType::Args,
        N::Env => AttrType::Env,
    })
}

/// The pattern, anchored so that `is_match` looks at the whole text.
fn pattern<'i>(reader: Reader<'i>, table: &'i DeTable<'i>, diags: &mut Diagnostics) -> Option<regex::Regex> {
    let text = reader.string(table.get("pattern")?, "`pattern`", diags)?;
    let checked = regex::Regex::new(text.text).and_then(|_| regex::Regex::new(&format!(r"\A(?:{})\z", text.text)));
    match checked {
        Ok(regex) => Some(regex),
        Err(error) => {
            let reason = error.to_string();
            let last = reason.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
            diags.push(Diagnostic::at(text.inner(), format!("`pattern` is no regular expression: {last}")));
            None
        }
    }
}

fn enum_values<'i>(
    reader: Reader<'i>,
    entry: &Entry<'i>,
    table: &'i DeTable<'i>,
    diags: &mut Diagnostics,
) -> Option<Vec<Arc<str>>> {
    let values = table.get("values").map(|value| reader.strings(value, "`values`", diags).unwrap_or_default());
    let values: Vec<Arc<str>> = values.into_iter().flatten().map(|text| Arc::from(text.text)).collect();
    if values.is_empty() {
        diags.push(Diagnostic::at(entry.key_span, format!("attribute `{}` is an enum without `values`", entry.key)));
        return None;
    }
    Some(values)
}

fn accept<'i>(reader: Reader<'i>, table: &'i DeTable<'i>, diags: &mut Diagnostics) -> Option<Accept> {
    let value = table.get("accept")?;
    let mut taken: Vec<(Arc<str>, Span)> = Vec::new();
    let kinds = match value.get_ref() {
        DeValue::Table(kinds) => reader
            .entries(kinds)
            .iter()
            .filter_map(|entry| {
                reader.name(entry, "a kind of files", diags).then_some(())?;
                Some((Some(Arc::from(entry.key)), reader.strings(entry.value, "a kind", diags)?))
            })
            .collect::<Vec<_>>(),
        _ => vec![(None, reader.strings(value, "`accept`", diags)?)],
    };
    let mut checked = |(name, endings): (Option<Arc<str>>, Vec<Text<'_>>)| {
        (name, endings.iter().filter_map(|text| ending(text, &mut taken, diags)).collect())
    };
    Some(Accept { kinds: kinds.into_iter().map(&mut checked).collect() })
}

fn ending(text: &Text<'_>, taken: &mut Vec<(Arc<str>, Span)>, diags: &mut Diagnostics) -> Option<Arc<str>> {
    if text.text.is_empty() || (text.text.contains('/') && text.text != "/") {
        let message = format!("`{}` is no ending of a file name", text.text);
        diags.push(Diagnostic::at(text.inner(), message).hint("endings are like `.c`; `/` alone takes tree artifacts"));
        return None;
    }
    if let Some((_, first)) = taken.iter().find(|(ending, _)| **ending == *text.text) {
        let message = format!("the ending `{}` is listed twice", text.text);
        diags.push(Diagnostic::at(text.inner(), message).note(*first, "first here"));
        return None;
    }
    let ending: Arc<str> = Arc::from(text.text);
    taken.push((ending.clone(), text.inner()));
    Some(ending)
}

fn providers<'i>(
    reader: Reader<'i>,
    table: &'i DeTable<'i>,
    declared: Declared<'_>,
    diags: &mut Diagnostics,
) -> Vec<Arc<str>> {
    let Some(value) = table.get("providers") else { return Vec::new() };
    let known = || declared.providers.iter().map(|provider| &*provider.name).chain(["run"]);
    let texts = reader.strings(value, "`providers`", diags).unwrap_or_default();
    let broken = |text: &Text<'_>| declared.broken.providers.iter().any(|name| name == text.text);
    for text in texts.iter().filter(|text| !known().any(|name| name == text.text) && !broken(text)) {
        let diagnostic = unknown_provider(text.inner(), text.text);
        diags.push(suggested(diagnostic, text.text, known()));
    }
    texts.iter().map(|text| Arc::from(text.text)).collect()
}

/// A provider that no listed rule file declares.
pub fn unknown_provider(span: Span, name: &str) -> Diagnostic {
    Diagnostic::at(span, format!("unknown provider `{name}`"))
        .hint("the rule file that declares it must be listed in `[workspace] rules` as well")
}

fn default_value<'i>(
    reader: Reader<'i>,
    value: &'i Value<'i>,
    ty: &AttrType,
    declared: Declared<'_>,
    diags: &mut Diagnostics,
) -> Option<AttrDefault> {
    match ty {
        AttrType::Bool => reader.bool(value, "`default`", diags).map(AttrDefault::Bool),
        AttrType::Int => {
            let number = as_integer(value);
            if number.is_none() {
                reader.wrong_type(value, "`default`", "a whole number", diags);
            }
            number.map(AttrDefault::Int)
        }
        AttrType::Env => {
            diags.push(Diagnostic::at(reader.span(value), "an attribute of type `env` has no default"));
            None
        }
        _ if is_list(ty) => {
            let texts = reader.strings(value, "`default`", diags)?;
            let texts = texts.iter().filter_map(|text| default_text(text, ty, declared, diags)).collect();
            Some(AttrDefault::Texts(texts))
        }
        _ => {
            let text = reader.string(value, "`default`", diags)?;
            default_text(&text, ty, declared, diags).map(AttrDefault::Text)
        }
    }
}

/// Whether values of the type are lists.
pub fn is_list(ty: &AttrType) -> bool {
    use AttrType as T;
    matches!(ty, T::Strings { .. } | T::Paths | T::Files { .. } | T::Targets { .. } | T::Tools | T::Args)
}

fn default_text(
    text: &Text<'_>,
    ty: &AttrType,
    declared: Declared<'_>,
    diags: &mut Diagnostics,
) -> Option<DefaultText> {
    let pieces = match template::parse(text.text) {
        Ok(pieces) => pieces,
        Err(error) => {
            diags.push(syntax_diagnostic(text, &error));
            return None;
        }
    };
    let pieces = pieces.iter().map(|piece| default_piece(text, piece, declared, diags)).collect::<Option<Vec<_>>>()?;
    let default = DefaultText { pieces: pieces.into(), span: text.inner() };
    check_constant(text, &default, ty, declared, diags);
    Some(default)
}

fn default_piece(
    text: &Text<'_>,
    piece: &RawPiece,
    declared: Declared<'_>,
    diags: &mut Diagnostics,
) -> Option<DefaultPiece> {
    let reference = match piece {
        RawPiece::Text(plain) => return Some(DefaultPiece::Text(plain.as_str().into())),
        RawPiece::Ref(reference) => reference,
    };
    if let Some((_, range)) = reference.mods.first() {
        diags.push(Diagnostic::at(text.part(range.clone()), "a default takes no modifiers"));
        return None;
    }
    let span = text.part(reference.path_range.clone());
    match reference.path.as_str() {
        "name" => return Some(DefaultPiece::Name),
        "package" => return Some(DefaultPiece::Package),
        _ => {}
    }
    let Some(var) = reference.path.strip_prefix("vars.") else {
        let message = format!("a default cannot name `{}`", reference.path);
        diags.push(Diagnostic::at(span, message).hint("it may name `{name}`, `{package}` and `{vars.X}`"));
        return None;
    };
    let Some(at) = declared.vars.iter().position(|decl| *decl.name == *var) else {
        if declared.broken.vars.iter().any(|name| name == var) {
            return None;
        }
        let diagnostic = Diagnostic::at(span, format!("no variable `{var}` is declared"));
        diags.push(suggested(diagnostic, var, declared.vars.iter().map(|decl| &*decl.name)));
        return None;
    };
    if declared.vars[at].ty == VarType::Strings {
        diags.push(Diagnostic::at(span, format!("`vars.{var}` is a list: a default names single values only")));
        return None;
    }
    u16::try_from(at).ok().map(|at| DefaultPiece::Var(VarId(at)))
}

/// Checks what can be known of a default before there is a target.
fn check_constant(
    text: &Text<'_>,
    default: &DefaultText,
    ty: &AttrType,
    declared: Declared<'_>,
    diags: &mut Diagnostics,
) {
    match ty {
        AttrType::Enum { values } => {
            let from_var =
                default.only_var().map(|id| &declared.vars[usize::from(id.0)].values[..]).unwrap_or_default();
            let wrong = default.constant().into_iter().chain(from_var.iter().map(|value| &**value));
            let is_value = |word: &str| values.iter().any(|value| **value == *word);
            if let Some(wrong) = wrong.into_iter().find(|word| !is_value(word)) {
                let words = || values.iter().map(|value| &**value);
                let diagnostic = Diagnostic::at(text.inner(), format!("`{wrong}` is not among the `values`"))
                    .hint(format!("they are {}", quoted_list(words())));
                diags.push(suggested(diagnostic, wrong, words()));
            }
        }
        AttrType::String { pattern: Some(pattern) } | AttrType::Strings { pattern: Some(pattern) }
            if default.constant().is_some_and(|text| !pattern.is_match(text)) =>
        {
            diags.push(Diagnostic::at(text.inner(), "the default does not match the `pattern`"));
        }
        _ => {}
    }
}

/// A template that cannot be read.
pub fn syntax_diagnostic(text: &Text<'_>, error: &SyntaxError) -> Diagnostic {
    let diagnostic = Diagnostic::at(text.part(error.range.clone()), error.message.clone());
    let words = || MODIFIERS.iter().map(|(name, _)| *name);
    match &error.help {
        Help::Hint(hint) => diagnostic.hint(*hint),
        Help::Modifier(word) => {
            suggested(diagnostic, word, words()).hint(format!("modifiers are {}", quoted_list(words())))
        }
    }
}
