//! Compiles one rule: its parts and itself as one set of attributes, lists, actions, provided fields.

use std::sync::Arc;

use minibuild_diagnostics::diag::{Diagnostic, Diagnostics, Span};
use minibuild_diagnostics::source::{Entry, Reader, suggested};
use toml::de::DeTable;

use super::attrs::{self, Declared};
use super::compile_action;
use super::entries::{Entries, Findings, Node, Use, list_kind};
use super::order;
use super::rule::{
    Action, Condition, Count, Entry as ListEntry, FieldType, FieldValue, Handed, Kind, Order, Rule, Run, Source,
};
use super::scope::{ListHeader, RESERVED, Scope, Within};

const RULE_KEYS: &[&str] =
    &["doc", "parts", "hermetic", "attrs", "lists", "action", "outputs", "provides", "run", "test"];

/// More names than this in one rule are a mistake, and orders are found by recursion over them.
const MAX_NAMES: usize = 2000;

/// The table of a rule or of one of its parts.
#[derive(Clone, Copy)]
pub struct Fragment<'i> {
    /// `[rule.R]` or `[part.X]`.
    pub table: &'i DeTable<'i>,
}

/// Reads one rule.
pub struct RuleReader<'a, 'd, 'i> {
    reader: Reader<'i>,
    entry: Entry<'i>,
    declared: Declared<'a>,
    diags: &'d mut Diagnostics,
    lenient: bool,
}

/// A named entry of `attrs`, `lists` or `action`.
struct Named<'i> {
    section: &'static str,
    entry: Entry<'i>,
}

impl<'a, 'd, 'i> RuleReader<'a, 'd, 'i> {
    /// A reader of the rule or part that `entry` declares.
    pub fn new(reader: Reader<'i>, entry: Entry<'i>, declared: Declared<'a>, diags: &'d mut Diagnostics) -> Self {
        Self { reader, entry, declared, diags, lenient: false }
    }

    /// Compiles the rule; `None` if anything in it is wrong.
    pub fn rule(mut self, fragments: &[Fragment<'i>], table: &'i DeTable<'i>) -> Option<Rule> {
        let errors = self.diags.list.len();
        self.reader.known_keys(table, RULE_KEYS, &format!("rule `{}`", self.entry.key), self.diags);
        let rule = self.compile(fragments, table);
        (self.diags.list.len() == errors).then_some(rule)
    }

    /// Checks a part that no rule uses, as far as it can be understood alone.
    pub fn unused_part(mut self, table: &'i DeTable<'i>) {
        self.lenient = true;
        self.compile(&[Fragment { table }], table);
    }

    fn compile(&mut self, fragments: &[Fragment<'i>], table: &'i DeTable<'i>) -> Rule {
        let (run, test) = (table.contains_key("run"), table.contains_key("test"));
        let named = self.named(fragments, run, test);
        let of = |section: &str| named.iter().filter(|n| n.section == section).map(|n| n.entry).collect::<Vec<_>>();
        let mut broken = Vec::new();
        let mut attrs = Vec::new();
        for entry in of("attrs") {
            match attrs::attribute(self.reader, &entry, self.declared, self.diags) {
                Some(spec) => attrs.push(spec),
                None => broken.push(entry.key.to_owned()),
            }
        }
        let actions = of("action");
        let list_entries = of("lists");
        let list_header =
            |entry: &Entry<'_>| ListHeader { name: Arc::from(entry.key), span: entry.key_span, kind: Kind::Args };
        let mut scope = Scope {
            vars: self.declared.vars,
            providers: self.declared.providers,
            attrs,
            lists: list_entries.iter().map(list_header).collect(),
            actions: Vec::new(),
            broken,
            declared_broken: self.declared.broken,
        };
        scope.actions = actions.iter().map(|entry| compile_action::header(self.reader, entry, self.diags)).collect();
        let mut found = Findings::default();
        let lists = self.lists(&mut scope, &list_entries, &mut found);
        let mut compiled: Vec<Action> =
            actions.iter().enumerate().filter_map(|(at, entry)| self.action(&scope, at, entry, &mut found)).collect();
        if self.is_hermetic(table) {
            compiled.iter_mut().for_each(|action| action.fixed.tags.hermetic = true);
        }
        let outputs = self.outputs(&scope, table, &mut found);
        let provides = self.provides(&scope, table, &mut found);
        let run = self.run(&scope, table, run, test, &mut found);
        self.check_names(&scope, &found);
        let order = order::of_actions(&scope, &found, self.diags);
        let doc = self.reader.doc(table, self.diags);
        Rule {
            name: Arc::from(self.entry.key),
            doc,
            span: self.entry.key_span,
            attrs: scope.attrs,
            lists,
            actions: compiled,
            outputs,
            provides,
            run,
            tool_vars: found.tool_vars.into_iter().collect(),
            sources: found.sources,
            order,
        }
    }

    fn is_hermetic(&mut self, table: &'i DeTable<'i>) -> bool {
        let value = table.get("hermetic");
        value.and_then(|value| self.reader.bool(value, "`hermetic`", self.diags)).unwrap_or(false)
    }

    /// All named entries of the rule and its parts: one namespace, nothing twice.
    fn named(&mut self, fragments: &[Fragment<'i>], run: bool, test: bool) -> Vec<Named<'i>> {
        let mut all: Vec<Named<'i>> = Vec::new();
        for fragment in fragments {
            for section in ["attrs", "lists", "action"] {
                let Some(value) = fragment.table.get(section) else { continue };
                let Some(table) = self.reader.table(value, &format!("`{section}`"), self.diags) else { continue };
                for entry in self.reader.entries(table) {
                    if self.may_be_named(&entry, section, run, test, &all) {
                        all.push(Named { section, entry });
                    }
                }
            }
        }
        all
    }

    fn may_be_named(&mut self, entry: &Entry<'i>, section: &str, run: bool, test: bool, all: &[Named<'i>]) -> bool {
        let what = match section {
            "attrs" => "an attribute",
            "lists" => "a list",
            _ => "an action",
        };
        if !self.reader.name(entry, what, self.diags) {
            return false;
        }
        let of_run = run || test;
        let taken = RESERVED.contains(&entry.key)
            || (of_run && section == "attrs" && ["args", "env"].contains(&entry.key))
            || (test && section == "attrs" && ["timeout", "pool", "cpus", "memory"].contains(&entry.key));
        if taken {
            self.diags
                .push(Diagnostic::at(entry.key_span, format!("`{}` is taken: every such rule has it", entry.key)));
            return false;
        }
        if all.len() >= MAX_NAMES {
            let message = format!("rule `{}` has more than {MAX_NAMES} attributes, lists and actions", self.entry.key);
            self.diags.push(Diagnostic::at(self.entry.key_span, message));
            return false;
        }
        if let Some(first) = all.iter().find(|known| known.entry.key == entry.key) {
            let message = format!("`{}` comes twice in rule `{}`", entry.key, self.entry.key);
            let diagnostic = Diagnostic::at(entry.key_span, message).note(first.entry.key_span, "first here");
            self.diags.push(diagnostic.hint("attributes, lists and actions of a rule and its parts are one namespace"));
            return false;
        }
        true
    }

    fn entries<'e>(
        &'e mut self,
        scope: &'e Scope<'e>,
        within: Within<'e>,
        node: Node,
        found: &'e mut Findings,
    ) -> Entries<'e, 'i> {
        Entries { reader: self.reader, scope, within, node, lenient: self.lenient, found, diags: self.diags }
    }

    fn lists(
        &mut self,
        scope: &mut Scope<'_>,
        entries: &[Entry<'i>],
        found: &mut Findings,
    ) -> Vec<(Arc<str>, Box<[ListEntry]>)> {
        let mut lists = Vec::new();
        for (at, entry) in entries.iter().enumerate() {
            let node = Node::List(u16::try_from(at).unwrap_or(u16::MAX));
            let list = self.entries(scope, Within::List, node, found).list(entry.value, "a list", Use::Texts);
            scope.lists[at].kind = list_kind(&list);
            lists.push((Arc::from(entry.key), list));
        }
        lists
    }

    fn action(&mut self, scope: &Scope<'_>, at: usize, entry: &Entry<'i>, found: &mut Findings) -> Option<Action> {
        let node = Node::Action(u16::try_from(at).unwrap_or(u16::MAX));
        let entries = self.entries(scope, Within::Rule, node, found);
        compile_action::action(entries, entry, &scope.actions[at])
    }

    fn outputs(&mut self, scope: &Scope<'_>, table: &'i DeTable<'i>, found: &mut Findings) -> Box<[ListEntry]> {
        let Some(value) = table.get("outputs") else { return Box::default() };
        self.entries(scope, Within::Rule, Node::Rule, found).list(value, "`outputs`", Use::Files)
    }

    fn run(
        &mut self,
        scope: &Scope<'_>,
        table: &'i DeTable<'i>,
        run: bool,
        test: bool,
        found: &mut Findings,
    ) -> Option<Run> {
        let key = if test { "test" } else { "run" };
        let value = table.get(key)?;
        if run && test {
            let span = self.reader.span(value);
            self.diags.push(Diagnostic::at(span, "a rule has `run` or `test`: what is tested can be run as well"));
        }
        let inner = self.reader.table(value, &format!("`{key}`"), self.diags)?;
        self.reader.known_keys(inner, &["executable", "runfiles"], &format!("`{key}`"), self.diags);
        let Some(executable) = inner.get("executable") else {
            self.diags.push(Diagnostic::at(self.reader.span(value), format!("`{key}` needs an `executable`")));
            return None;
        };
        let mut entries = self.entries(scope, Within::Rule, Node::Rule, found);
        let runfiles =
            inner.get("runfiles").map(|value| entries.list(value, "`runfiles`", Use::Inputs)).unwrap_or_default();
        let executable = entries.single(executable, "`executable`")?;
        let whole = executable.whole().filter(|r| r.ty.kind == Kind::File && r.mods.is_empty());
        if whole.is_none() {
            self.diags.push(Diagnostic::at(
                executable.span,
                "`executable` must be one file: a whole reference such as `{link.bin}`",
            ));
            return None;
        }
        Some(Run { executable, runfiles, test })
    }

    fn provides(
        &mut self,
        scope: &Scope<'_>,
        table: &'i DeTable<'i>,
        found: &mut Findings,
    ) -> Vec<(u16, Vec<FieldValue>)> {
        let Some(value) = table.get("provides") else { return Vec::new() };
        let Some(table) = self.reader.table(value, "`provides`", self.diags) else { return Vec::new() };
        self.reader.entries(table).iter().filter_map(|entry| self.provided(scope, entry, found)).collect()
    }

    fn provided(
        &mut self,
        scope: &Scope<'_>,
        entry: &Entry<'i>,
        found: &mut Findings,
    ) -> Option<(u16, Vec<FieldValue>)> {
        let Some(at) = scope.providers.iter().position(|provider| *provider.name == *entry.key) else {
            if self.declared.broken.providers.iter().any(|name| name == entry.key) {
                return None;
            }
            let diagnostic = attrs::unknown_provider(entry.key_span, entry.key);
            self.diags.push(suggested(diagnostic, entry.key, scope.providers.iter().map(|provider| &*provider.name)));
            return None;
        };
        let provider = &scope.providers[at];
        let table = self.reader.table(entry.value, &format!("provider `{}`", entry.key), self.diags)?;
        let mut values = Vec::new();
        for field_entry in self.reader.entries(table) {
            let Some(field) = provider.fields.iter().position(|field| *field.name == *field_entry.key) else {
                let message = format!("provider `{}` has no field `{}`", entry.key, field_entry.key);
                let diagnostic = Diagnostic::at(field_entry.key_span, message).note(provider.span, "the provider");
                self.diags.push(suggested(
                    diagnostic,
                    field_entry.key,
                    provider.fields.iter().map(|field| &*field.name),
                ));
                continue;
            };
            let ty = provider.fields[field].ty;
            let usage = if ty == FieldType::Files { Use::Files } else { Use::Texts };
            let list = self.entries(scope, Within::Rule, Node::Rule, found).list(field_entry.value, "a field", usage);
            let mut split = Split {
                scope,
                ty,
                order: provider.fields[field].order,
                own: Vec::new(),
                handed: Vec::new(),
                diags: self.diags,
            };
            split.all(list, &[]);
            let field = u16::try_from(field).unwrap_or(u16::MAX);
            values.push(FieldValue { field, own: split.own.into(), handed_on: split.handed.into() });
        }
        Some((u16::try_from(at).ok()?, values))
    }

    /// An action none of whose outputs is named would never run.
    fn check_names(&mut self, scope: &Scope<'_>, found: &Findings) {
        if self.lenient {
            return;
        }
        for (at, action) in scope.actions.iter().enumerate() {
            let node = Node::Action(u16::try_from(at).unwrap_or(u16::MAX));
            if !found.mentions.iter().any(|(from, to)| *to == node && *from != node) {
                let message = format!("no output of action `{}` is named in rule `{}`", action.name, self.entry.key);
                self.diags.push(
                    Diagnostic::at(action.span, message)
                        .hint("name it in `outputs`, `provides`, `run` or another action, or remove the action"),
                );
            }
        }
    }
}

/// Splits the entries of a field into own ones and what is handed on.
struct Split<'a> {
    scope: &'a Scope<'a>,
    ty: FieldType,
    order: Order,
    own: Vec<ListEntry>,
    handed: Vec<Handed>,
    diags: &'a mut Diagnostics,
}

impl Split<'_> {
    fn all(&mut self, entries: Box<[ListEntry]>, when: &[Condition]) {
        for entry in entries {
            match entry {
                ListEntry::Each { ref templates, .. } => match handed_source(templates) {
                    Some((source, span)) => self.hand_on(source, span, when),
                    None => {
                        let span = templates.first().map(|template| template.span);
                        self.keep(entry, span, when);
                    }
                },
                // What is joined is one new text, the target's own.
                ListEntry::Table(table) if table.join.is_some() => {
                    let span = first_span(&table.items);
                    self.keep(ListEntry::Table(table), span, when);
                }
                ListEntry::Table(table) => {
                    let mut all = when.to_vec();
                    all.extend(table.when.iter().cloned());
                    self.all(table.items, &all);
                }
            }
        }
    }

    fn keep(&mut self, entry: ListEntry, span: Option<Span>, when: &[Condition]) {
        if let Some(span) = span.filter(|_| self.order != Order::Postorder && !self.handed.is_empty()) {
            let order = if self.order == Order::Preorder { "preorder" } else { "topological" };
            self.diags.push(
                Diagnostic::at(span, format!("own entries of a {order} field stand before what is handed on"))
                    .hint("move it above the `{ATTR.PROVIDER.FIELD}` entries"),
            );
        }
        if when.is_empty() {
            self.own.push(entry);
        } else {
            let when = when.into();
            let table = super::rule::TableEntry { when, join: None, response: None, items: Box::new([entry]) };
            self.own.push(ListEntry::Table(Box::new(table)));
        }
    }

    fn hand_on(&mut self, source: Source, span: Span, when: &[Condition]) {
        let Source::Field(_, id) = source else { return };
        let provider = &self.scope.providers[usize::from(id.provider)];
        let field = &provider.fields[usize::from(id.field)];
        let name = format!("{}.{}", provider.name, field.name);
        if self.ty == FieldType::Files && field.ty != FieldType::Files {
            // Told already: here are only files.
        } else if field.ty != self.ty {
            let message =
                format!("`{name}` holds {} and cannot be handed on in a field of {}", field.ty.name(), self.ty.name());
            self.diags.push(Diagnostic::at(span, message));
        } else if field.order != self.order {
            self.diags.push(Diagnostic::at(span, format!("`{name}` is merged in another order than this field")));
        } else if self.order == Order::Postorder && !self.own.is_empty() {
            self.diags.push(
                Diagnostic::at(span, "own entries of a postorder field stand after what is handed on")
                    .hint("move it above the target's own entries"),
            );
        }
        self.handed.push(Handed { when: when.into(), source });
    }
}

/// Where the first string of the entries stands.
pub fn first_span(entries: &[ListEntry]) -> Option<Span> {
    entries.iter().find_map(|entry| match entry {
        ListEntry::Each { templates, .. } => templates.first().map(|template| template.span),
        ListEntry::Table(table) => first_span(&table.items),
    })
}

/// The field that an entry hands on: `{ATTR.P.F}` and nothing else.
fn handed_source(templates: &[super::rule::Template]) -> Option<(Source, Span)> {
    let [template] = templates else { return None };
    let whole = template.whole().filter(|r| r.mods.is_empty() && r.ty.count == Count::Many)?;
    matches!(whole.source, Source::Field(..)).then_some((whole.source, whole.span))
}
