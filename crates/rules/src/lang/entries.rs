//! Compiles templates, entries of lists and conditions, and checks their types. Knows the names of one rule, not
//! what the lists are for beyond the [`Use`] it is told.

use std::collections::BTreeSet;

use minibuild_diagnostics::diag::{Diagnostic, Diagnostics, Span};
use minibuild_diagnostics::source::{Reader, Text, Value, as_integer, quoted_list, suggested};
use toml::de::{DeTable, DeValue};

use super::attrs::syntax_diagnostic;
use super::decl::{condition_paths, one_of};
use super::rule::{Condition, Count, Entry, Kind, Piece, Ref, ResponseStyle, Source, TableEntry, Template, Test, Type};
use super::scope::{Scope, Within};
use super::template::{self, Modifier, RawPiece, RawRef};
use super::vars::{VarId, VarType};
use crate::attr::AttrType;

const RESPONSE_STYLES: &[(&str, ResponseStyle)] = &[("gnu", ResponseStyle::Gnu), ("lines", ResponseStyle::Lines)];

/// What a list of entries is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// `args`: any text; the only place for response files.
    Args,
    /// Any text.
    Texts,
    /// Whole references to files; a tool variable stands for its executable.
    Inputs,
    /// Whole references to files.
    Files,
}

/// A list or an action, as the node of an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Node {
    /// Everything else: `outputs`, `provides`, `run`.
    Rule,
    /// A list of the rule.
    List(u16),
    /// An action of the rule.
    Action(u16),
}

/// What compiling one rule finds out on the way.
#[derive(Default)]
pub struct Findings {
    /// Who names whom.
    pub mentions: BTreeSet<(Node, Node)>,
    /// Tool variables that are named.
    pub tool_vars: BTreeSet<VarId>,
    /// Attributes, and fields of them, that are named.
    pub sources: Vec<Source>,
}

/// Compiles the entries of one place of a rule.
pub struct Entries<'a, 'i> {
    /// The file.
    pub reader: Reader<'i>,
    /// The names.
    pub scope: &'a Scope<'a>,
    /// What may be named here.
    pub within: Within<'a>,
    /// Who is naming.
    pub node: Node,
    /// Whether unknown names are passed over: a part that no rule uses.
    pub lenient: bool,
    /// What was found.
    pub found: &'a mut Findings,
    /// Complaints.
    pub diags: &'a mut Diagnostics,
}

impl<'i> Entries<'_, 'i> {
    /// Compiles a list.
    pub fn list(&mut self, value: &'i Value<'i>, what: &str, usage: Use) -> Box<[Entry]> {
        let Some(items) = self.reader.array(value, what, self.diags) else { return Box::default() };
        items.iter().filter_map(|item| self.entry(item, what, usage)).collect()
    }

    /// Compiles one entry of a list.
    pub fn entry(&mut self, value: &'i Value<'i>, what: &str, usage: Use) -> Option<Entry> {
        match value.get_ref() {
            DeValue::String(_) => self.group(std::slice::from_ref(value), value, usage),
            DeValue::Array(items) => self.group(items, value, usage),
            DeValue::Table(table) => self.table(table, value, usage).map(|table| Entry::Table(Box::new(table))),
            _ => {
                let what = format!("an entry of {what}");
                self.reader.wrong_type(value, &what, "a string, an array of strings or a table", self.diags);
                None
            }
        }
    }

    fn group(&mut self, items: &'i [Value<'i>], value: &'i Value<'i>, usage: Use) -> Option<Entry> {
        if items.is_empty() {
            self.diags.push(Diagnostic::at(self.reader.span(value), "an empty group gives nothing"));
            return None;
        }
        let texts: Option<Vec<Text<'i>>> =
            items.iter().map(|item| self.reader.string(item, "an element of a group", self.diags)).collect();
        let templates = texts?.iter().map(|text| self.template(text)).collect::<Option<Vec<Template>>>()?;
        for template in &templates {
            self.check_use(template, usage);
        }
        let over = self.one_list(&templates)?;
        Some(Entry::Each { templates: templates.into(), over })
    }

    /// The one list that templates name, if any.
    fn one_list(&mut self, templates: &[Template]) -> Option<Option<Source>> {
        let mut over: Option<(Source, Span)> = None;
        for reference in templates.iter().flat_map(Template::refs).filter(|reference| reference.ty.count != Count::One)
        {
            match over {
                None => over = Some((reference.source, reference.span)),
                Some((source, first)) if source != reference.source => {
                    self.diags.push(
                        Diagnostic::at(reference.span, "an entry names two different lists")
                            .note(first, "the first list")
                            .hint("an entry is given once for each item of one list; there is no product of lists"),
                    );
                    return None;
                }
                Some(_) => {}
            }
        }
        Some(over.map(|(source, _)| source))
    }

    fn check_use(&mut self, template: &Template, usage: Use) {
        let tools_too = match usage {
            Use::Args | Use::Texts => return,
            Use::Inputs => true,
            Use::Files => false,
        };
        let is_file = |reference: &Ref| {
            let fits = reference.ty.kind == Kind::File || (tools_too && reference.ty.kind == Kind::Tool);
            fits && reference.mods.is_empty()
        };
        if !template.whole().is_some_and(is_file) {
            let message = "here are only files: whole references without modifiers";
            self.diags.push(Diagnostic::at(template.span, message).hint("such as `{srcs}` or `{compile.obj}`"));
        }
    }

    fn table(&mut self, table: &'i DeTable<'i>, value: &'i Value<'i>, usage: Use) -> Option<TableEntry> {
        self.reader.known_keys(table, &["when", "join", "items", "response_file"], "a table entry", self.diags);
        let when = table.get("when").map(|value| self.conditions(value)).unwrap_or_default();
        let join = table.get("join").and_then(|value| self.reader.string(value, "`join`", self.diags));
        let style =
            table.get("response_file").and_then(|value| self.reader.string(value, "`response_file`", self.diags));
        let Some(items) = table.get("items") else {
            self.diags.push(Diagnostic::at(self.reader.span(value), "a table entry needs `items`"));
            return None;
        };
        if let Some(join) = join.as_ref().filter(|_| matches!(usage, Use::Inputs | Use::Files)) {
            self.diags.push(Diagnostic::at(join.span, "`join` makes text, and here are only files"));
        }
        let response = style.and_then(|style| self.response_style(&style, usage, join.is_some()));
        // What is in a file or joined holds no further file.
        let inner = if usage == Use::Args && (response.is_some() || join.is_some()) { Use::Texts } else { usage };
        let items = self.list(items, "`items`", inner);
        Some(TableEntry { when, join: join.map(|text| text.text.into()), response, items })
    }

    fn response_style(&mut self, style: &Text<'_>, usage: Use, joined: bool) -> Option<ResponseStyle> {
        if usage != Use::Args {
            self.diags
                .push(Diagnostic::at(style.span, "`response_file` is only for tables in the `args` of an action"));
            return None;
        }
        if joined {
            self.diags.push(Diagnostic::at(style.span, "`response_file` and `join` do not go together"));
            return None;
        }
        one_of(style, "format of response file", RESPONSE_STYLES, self.diags)
    }

    /// A value of `env`: a string of at most one value, or a `join` table.
    pub fn env_value(&mut self, value: &'i Value<'i>, name: &str) -> Option<super::rule::EnvValue> {
        if let DeValue::Table(table) = value.get_ref() {
            let entry = self.table(table, value, Use::Texts)?;
            if entry.join.is_none() {
                let message = format!("the table for `{name}` needs `join`: a variable has one value");
                self.diags.push(Diagnostic::at(self.reader.span(value), message));
                return None;
            }
            return Some(super::rule::EnvValue::Join(entry));
        }
        let text = self.reader.string(value, &format!("`{name}`"), self.diags)?;
        let template = self.template(&text)?;
        self.one_list(std::slice::from_ref(&template))?;
        if let Some(many) = template.refs().find(|reference| reference.ty.count == Count::Many) {
            let hint = format!("write `{name} = {{ join = \" \", items = [\"{}\"] }}`", text.text);
            self.diags.push(Diagnostic::at(many.span, "a list where one value is needed").hint(hint));
            return None;
        }
        Some(super::rule::EnvValue::Text(template))
    }

    /// A template that must have exactly one value.
    pub fn single(&mut self, value: &'i Value<'i>, what: &str) -> Option<Template> {
        let text = self.reader.string(value, what, self.diags)?;
        let template = self.template(&text)?;
        if let Some(many) = template.refs().find(|reference| reference.ty.count != Count::One) {
            let message = format!("{what} is exactly one value, and this is a list");
            let optional = many.ty.count == Count::Optional;
            let hint =
                if optional { "give the attribute a `default` or make it `required`" } else { "name a single value" };
            self.diags.push(Diagnostic::at(many.span, message).hint(hint));
            return None;
        }
        Some(template)
    }

    /// Compiles a template.
    pub fn template(&mut self, text: &Text<'i>) -> Option<Template> {
        let pieces = match template::parse(text.text) {
            Ok(pieces) => pieces,
            Err(error) => {
                self.diags.push(syntax_diagnostic(text, &error));
                return None;
            }
        };
        let mut compiled = Vec::with_capacity(pieces.len());
        let mut good = true;
        for piece in pieces {
            match piece {
                RawPiece::Text(plain) => compiled.push(Piece::Text(plain.into())),
                RawPiece::Ref(reference) => match self.reference(text, &reference) {
                    Some(reference) => compiled.push(Piece::Ref(reference)),
                    None => good = false,
                },
            }
        }
        good.then(|| Template { pieces: compiled.into(), span: text.inner() })
    }

    fn reference(&mut self, text: &Text<'i>, raw: &RawRef) -> Option<Ref> {
        let name_span = text.part(raw.path_range.clone());
        let (source, ty) = self.resolve(&raw.path, name_span)?;
        let span = text.part(raw.whole.clone());
        match ty.kind {
            Kind::Bool => {
                self.diags.push(
                    Diagnostic::at(span, format!("`{}` is a bool, which is no text", raw.path))
                        .hint("use it in a condition: `{ when = { NAME = true }, items = [...] }`"),
                );
                return None;
            }
            Kind::Env => {
                self.diags.push(
                    Diagnostic::at(span, format!("`{}` is a table of variables, which is no text", raw.path))
                        .hint("name it in `env_from` of an action"),
                );
                return None;
            }
            _ => {}
        }
        for (modifier, range) in &raw.mods {
            if !self.modifier_fits(*modifier, ty, source) {
                let what = if *modifier == Modifier::Bin { "attributes of type `path` or `paths`" } else { "paths" };
                let message = format!("`:{}` is only for {what}", &text.text[range.clone()]);
                self.diags.push(Diagnostic::at(text.part(range.clone()), message));
                return None;
            }
        }
        let mods = raw.mods.iter().map(|(modifier, _)| *modifier).collect();
        Some(Ref { source, ty, mods, span })
    }

    fn modifier_fits(&self, modifier: Modifier, ty: Type, source: Source) -> bool {
        match modifier {
            // Files have their place already; only a directory of the package has a twin among the outputs.
            Modifier::Bin => ty.kind == Kind::Dir && !matches!(source, Source::List(_)),
            _ => ty.kind.is_path(),
        }
    }

    /// Finds a name and remembers who named it.
    pub fn resolve(&mut self, path: &str, span: Span) -> Option<(Source, Type)> {
        match self.scope.resolve(path, self.within) {
            Ok((source, ty)) => {
                self.remember(source);
                Some((source, ty))
            }
            Err(unknown) => {
                let excused = (self.lenient && unknown.open) || self.scope.is_broken(path);
                if !excused {
                    self.diags.push(unknown.diagnostic(span, path));
                }
                None
            }
        }
    }

    fn remember(&mut self, source: Source) {
        match source {
            Source::List(at) => {
                self.found.mentions.insert((self.node, Node::List(at)));
            }
            Source::Action(at, _) => {
                self.found.mentions.insert((self.node, Node::Action(at)));
            }
            Source::Var(id) if self.scope.vars[usize::from(id.0)].ty == VarType::Tool => {
                self.found.tool_vars.insert(id);
            }
            Source::Attr(_) | Source::Field(..) | Source::RunExecutable(_) | Source::RunFiles(_)
                if !self.found.sources.contains(&source) =>
            {
                self.found.sources.push(source);
            }
            _ => {}
        }
    }

    /// Compiles a `when`.
    pub fn conditions(&mut self, value: &'i Value<'i>) -> Box<[Condition]> {
        let Some(table) = self.reader.table(value, "`when`", self.diags) else { return Box::default() };
        if table.is_empty() {
            self.diags.push(Diagnostic::at(self.reader.span(value), "`when` without conditions"));
        }
        let paths = condition_paths(self.reader, table);
        paths.into_iter().filter_map(|(path, span, value)| self.condition(&path, span, value)).collect()
    }

    fn condition(&mut self, path: &str, span: Span, value: &'i Value<'i>) -> Option<Condition> {
        let (source, ty) = self.resolve(path, span)?;
        let by_value = matches!(ty.kind, Kind::Text | Kind::Int | Kind::Bool | Kind::Tool) && ty.count != Count::Many;
        let presence =
            value.get_ref().as_bool().filter(|_| !by_value || (ty.count == Count::Optional && ty.kind != Kind::Bool));
        let test = match presence {
            Some(wanted) if ty.count == Count::One => {
                let message = format!("`{path}` is always there: this condition says nothing");
                self.diags.push(Diagnostic::at(self.reader.span(value), message).hint(wanted_hint(wanted)));
                return None;
            }
            Some(wanted) => Test::NotEmpty(wanted),
            None if by_value => self.wanted_values(path, source, ty, value)?,
            None => {
                let message = format!("`{path}` is a list: its condition is `true` (not empty) or `false`");
                self.diags.push(Diagnostic::at(self.reader.span(value), message));
                return None;
            }
        };
        Some(Condition { source, test })
    }

    fn wanted_values(&mut self, path: &str, source: Source, ty: Type, value: &'i Value<'i>) -> Option<Test> {
        let items = match value.get_ref() {
            DeValue::Array(items) => &items[..],
            _ => std::slice::from_ref(value),
        };
        let words = items.iter().map(|item| self.wanted_value(path, source, ty, item)).collect::<Option<Vec<_>>>()?;
        if words.is_empty() {
            self.diags.push(Diagnostic::at(self.reader.span(value), "a condition without values never holds"));
            return None;
        }
        Some(Test::OneOf(words.into()))
    }

    fn wanted_value(&mut self, path: &str, source: Source, ty: Type, value: &'i Value<'i>) -> Option<Box<str>> {
        let what = format!("the value of `{path}`");
        match ty.kind {
            Kind::Bool => self.reader.bool(value, &what, self.diags).map(|b| b.to_string().into()),
            Kind::Int => {
                let number = as_integer(value);
                if number.is_none() {
                    self.reader.wrong_type(value, &what, "a whole number", self.diags);
                }
                number.map(|n| n.to_string().into())
            }
            _ => {
                let text = self.reader.string(value, &what, self.diags)?;
                self.check_enum(path, source, &text);
                Some(text.text.into())
            }
        }
    }

    fn check_enum(&mut self, path: &str, source: Source, text: &Text<'_>) {
        let values = match source {
            Source::Attr(at) => match &self.scope.attrs[usize::from(at)].ty {
                AttrType::Enum { values } => values,
                _ => return,
            },
            Source::Var(id) if self.scope.vars[usize::from(id.0)].ty == VarType::Enum => {
                &self.scope.vars[usize::from(id.0)].values
            }
            _ => return,
        };
        let words = || values.iter().map(|value| &**value);
        if !words().any(|word| word == text.text) {
            let diagnostic = Diagnostic::at(text.inner(), format!("`{}` is no value of `{path}`", text.text))
                .hint(format!("its values are {}", quoted_list(words())));
            self.diags.push(suggested(diagnostic, text.text, words()));
        }
    }
}

fn wanted_hint(wanted: bool) -> &'static str {
    if wanted { "leave it out" } else { "nothing under it is ever used" }
}

/// What the texts of a list of entries are: files where every entry is whole references to files.
pub fn list_kind(entries: &[Entry]) -> Kind {
    let whole_files = |template: &Template| {
        template.whole().is_some_and(|r| r.mods.is_empty() && matches!(r.ty.kind, Kind::File | Kind::Tool))
    };
    let only_files = |entry: &Entry| match entry {
        Entry::Each { templates, .. } => templates.iter().all(whole_files),
        Entry::Table(table) => table.join.is_none() && list_kind(&table.items) == Kind::File,
    };
    if entries.iter().all(only_files) { Kind::File } else { Kind::Args }
}
