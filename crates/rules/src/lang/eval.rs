//! Walks the entries of a rule for one target. One walk, several visitors: what is rendered and what is collected as
//! inputs cannot drift. Pure: sees the target's values and the model, changes neither.

use std::borrow::Cow;

use minibuild_core::{ArtifactId, Model};
use minibuild_diagnostics::diag::Span;

use super::field::Unit;
use super::modify;
use super::rule::{Condition, Entry, Piece, Source, TableEntry, Template, Test};
use super::values::{ActionRun, Item, TargetValues, path_text};
use super::vars::{ToolVar, VarValue};
use crate::attr::{AttrValue, LocPart, LocText};
use crate::path_argument::as_argument;

/// Looks at values, inside one run of an action or outside of any.
#[derive(Clone, Copy)]
pub struct Eval<'a> {
    /// Values of the target.
    pub values: &'a TargetValues,
    /// Paths of artifacts.
    pub model: &'a Model,
    /// The run, for `item` and `out`.
    pub run: Option<&'a ActionRun>,
}

/// What is done with the entries of a walk. Only entries that give something are visited.
pub trait Visitor {
    /// Templates given once, or once for each item of `over`.
    fn each(&mut self, eval: Eval<'_>, templates: &[Template], over: Option<Source>);

    /// A table whose conditions hold.
    fn table(&mut self, eval: Eval<'_>, table: &TableEntry)
    where
        Self: Sized,
    {
        eval.walk(&table.items, self);
    }
}

impl<'a> Eval<'a> {
    /// Visits the entries that give something.
    pub fn walk(self, entries: &[Entry], visitor: &mut impl Visitor) {
        for entry in entries {
            match entry {
                Entry::Each { templates, over } => {
                    if over.is_none_or(|source| !self.is_empty(source)) {
                        visitor.each(self, templates, *over);
                    }
                }
                Entry::Table(table) => {
                    if self.holds(&table.when) {
                        visitor.table(self, table);
                    }
                }
            }
        }
    }

    /// Whether all conditions hold.
    pub fn holds(self, conditions: &[Condition]) -> bool {
        conditions.iter().all(|condition| match &condition.test {
            Test::NotEmpty(wanted) => self.is_empty(condition.source) != *wanted,
            Test::OneOf(words) => {
                let is = |value: &str| words.iter().any(|word| **word == *value);
                match self.texts(condition.source).first() {
                    Some(value) => is(value),
                    // A bool that nobody set is false.
                    None => self.is_bool(condition.source) && is("false"),
                }
            }
        })
    }

    fn is_bool(self, source: Source) -> bool {
        let Source::Attr(at) = source else { return false };
        matches!(self.values.rule.attrs[usize::from(at)].ty, crate::attr::AttrType::Bool)
    }

    /// Whether a source gives nothing.
    pub fn is_empty(self, source: Source) -> bool {
        match source {
            Source::Attr(at) => match &self.values.attrs[usize::from(at)] {
                AttrValue::Unset => true,
                AttrValue::Texts(texts) => texts.is_empty(),
                AttrValue::Paths(paths) => paths.is_empty(),
                AttrValue::Files(files) => files.is_empty(),
                AttrValue::Args(args) => args.is_empty(),
                _ => self.texts(source).is_empty(),
            },
            Source::Field(..) => self.values.fields.get(&source).is_none_or(|node| !node.has_units),
            Source::List(at) => self.gives_nothing(&self.values.rule.lists[usize::from(at)].1),
            _ => self.texts(source).is_empty(),
        }
    }

    /// Whether the entries give no text.
    pub fn gives_nothing(self, entries: &[Entry]) -> bool {
        let mut any = Any(false);
        self.walk(entries, &mut any);
        !any.0
    }

    /// The texts a source gives.
    pub fn texts(self, source: Source) -> Vec<Cow<'a, str>> {
        let values = self.values;
        match source {
            Source::Name => vec![Cow::Borrowed(values.label.name())],
            Source::Label => vec![Cow::Owned(values.label.to_string())],
            Source::Package if values.label.package().is_empty() => vec![Cow::Borrowed(".")],
            Source::Package => vec![Cow::Borrowed(values.label.package())],
            Source::Bin => vec![Cow::Borrowed(&*values.bin)],
            Source::BinRoot => vec![Cow::Borrowed(minibuild_core::BIN_ROOT)],
            Source::Attr(at) => self.attr_texts(at),
            Source::Var(_) => self.var_texts(source),
            Source::Field(_, id) => {
                let order = values.providers[usize::from(id.provider)].fields[usize::from(id.field)].order;
                let units = values.fields.get(&source).map(|node| node.merged(order)).unwrap_or_default();
                units.into_iter().flat_map(|unit| self.unit_texts(unit)).collect()
            }
            Source::List(at) => {
                let entries = &values.rule.lists[usize::from(at)].1;
                self.render(entries).into_iter().map(|line| Cow::Owned(line.text)).collect()
            }
            Source::RunExecutable(_) => self.files(source).into_iter().map(|id| self.program(id)).collect(),
            Source::Item => match self.run.and_then(|run| run.item.as_ref()) {
                Some(Item::Text(text, _)) => vec![Cow::Borrowed(&**text)],
                Some(Item::File(id)) => vec![self.path(*id)],
                None => Vec::new(),
            },
            Source::Depfile => {
                let depfile = self.run.and_then(|run| run.depfile.as_ref());
                depfile.into_iter().map(|path| Cow::Borrowed(path.as_str())).collect()
            }
            Source::Kind(..) | Source::RunFiles(_) | Source::Action(..) | Source::Out(_) => {
                self.files(source).into_iter().map(|id| self.path(id)).collect()
            }
        }
    }

    fn attr_texts(self, at: u16) -> Vec<Cow<'a, str>> {
        match &self.values.attrs[usize::from(at)] {
            AttrValue::Unset | AttrValue::Env(_) => Vec::new(),
            AttrValue::Text(text) => vec![Cow::Borrowed(&**text)],
            AttrValue::Int(number) => vec![Cow::Owned(number.to_string())],
            AttrValue::Bool(value) => vec![Cow::Borrowed(if *value { "true" } else { "false" })],
            AttrValue::Texts(texts) => texts.iter().map(|text| Cow::Borrowed(&**text)).collect(),
            AttrValue::Paths(paths) => paths.iter().map(|path| Cow::Borrowed(path_text(path))).collect(),
            AttrValue::Args(args) => args.iter().map(|text| Cow::Owned(self.loc_text(text))).collect(),
            AttrValue::Tools(_) => self.files(Source::Attr(at)).into_iter().map(|id| self.program(id)).collect(),
            AttrValue::Files(_) | AttrValue::Targets(_) => {
                self.files(Source::Attr(at)).into_iter().map(|id| self.path(id)).collect()
            }
        }
    }

    fn var_texts(self, source: Source) -> Vec<Cow<'a, str>> {
        let Source::Var(id) = source else { return Vec::new() };
        match self.values.vars.get(id) {
            VarValue::Text(text) | VarValue::Tool(ToolVar::Host(text)) => vec![Cow::Borrowed(&**text)],
            VarValue::Texts(texts) => texts.iter().map(|text| Cow::Borrowed(&**text)).collect(),
            VarValue::Bool(value) => vec![Cow::Borrowed(if *value { "true" } else { "false" })],
            VarValue::Tool(ToolVar::Label(..)) => {
                self.values.tools.get(&id).into_iter().map(|id| self.program(*id)).collect()
            }
        }
    }

    fn unit_texts(self, unit: &'a Unit) -> Vec<Cow<'a, str>> {
        match unit {
            Unit::Text(text) => vec![Cow::Borrowed(&**text)],
            Unit::File(id) => vec![self.path(*id)],
            Unit::Group(texts) => texts.iter().map(|text| Cow::Borrowed(&**text)).collect(),
        }
    }

    /// The artifacts a source of files stands for, in order.
    pub fn files(self, source: Source) -> Vec<ArtifactId> {
        let values = self.values;
        match source {
            Source::Attr(at) => match &values.attrs[usize::from(at)] {
                AttrValue::Files(files) => files.iter().map(|file| file.artifact).collect(),
                _ => values.files_of.get(&at).cloned().unwrap_or_default(),
            },
            Source::Kind(at, kind) => match &values.attrs[usize::from(at)] {
                AttrValue::Files(files) => {
                    files.iter().filter(|file| file.kind == kind).map(|file| file.artifact).collect()
                }
                _ => Vec::new(),
            },
            Source::Field(_, id) => {
                let order = values.providers[usize::from(id.provider)].fields[usize::from(id.field)].order;
                let units = values.fields.get(&source).map(|node| node.merged(order)).unwrap_or_default();
                let files = units.into_iter().filter_map(|unit| match unit {
                    Unit::File(id) => Some(*id),
                    Unit::Text(_) | Unit::Group(_) => None,
                });
                files.collect()
            }
            Source::RunExecutable(_) | Source::RunFiles(_) => values.run_of.get(&source).cloned().unwrap_or_default(),
            Source::List(at) => self.files_in(&values.rule.lists[usize::from(at)].1),
            Source::Action(at, out) => {
                values.runs[usize::from(at)].iter().filter_map(|run| run.outs.get(usize::from(out)).copied()).collect()
            }
            Source::Var(id) => values.tools.get(&id).copied().into_iter().collect(),
            Source::Out(at) => self.run.and_then(|run| run.outs.get(usize::from(at)).copied()).into_iter().collect(),
            Source::Item => match self.run.and_then(|run| run.item.as_ref()) {
                Some(Item::File(id)) => vec![*id],
                Some(Item::Text(..)) | None => Vec::new(),
            },
            Source::Name | Source::Label | Source::Package | Source::Bin | Source::BinRoot | Source::Depfile => {
                Vec::new()
            }
        }
    }

    /// The artifacts of a list of whole references to files, in order.
    pub fn files_in(self, entries: &[Entry]) -> Vec<ArtifactId> {
        let mut files = FilesOf(Vec::new());
        self.walk(entries, &mut files);
        files.0
    }

    /// The sources that the entries name, where they give something; each once.
    pub fn mentioned(self, entries: &[Entry]) -> Vec<Source> {
        let mut mentioned = Mentioned(Vec::new());
        self.walk(entries, &mut mentioned);
        mentioned.0
    }

    /// The texts the entries give.
    pub fn render(self, entries: &[Entry]) -> Vec<Line> {
        let mut render = Render { lines: Vec::new() };
        self.walk(entries, &mut render);
        render.lines
    }

    /// The texts one entry gives.
    pub fn render_each(self, templates: &[Template], over: Option<Source>) -> Vec<Line> {
        let mut render = Render { lines: Vec::new() };
        render.each(self, templates, over);
        render.lines
    }

    /// The texts a table gives whose conditions hold.
    pub fn render_table(self, table: &TableEntry) -> Vec<Line> {
        let mut render = Render { lines: Vec::new() };
        render.table(self, table);
        render.lines
    }

    /// The one text of a template; `None` where its list is empty.
    pub fn text_of(self, template: &Template) -> Option<String> {
        let over = template.refs().find(|reference| reference.ty.count != super::rule::Count::One);
        match over.map(|reference| reference.source) {
            None => Some(self.fill(template, None, "")),
            Some(source) => self.texts(source).first().map(|item| self.fill(template, Some(source), item)),
        }
    }

    /// A template with one item of the list it names.
    pub fn fill(self, template: &Template, over: Option<Source>, item: &str) -> String {
        let mut text = String::new();
        let package = self.values.label.package();
        for piece in &template.pieces {
            match piece {
                Piece::Text(plain) => text.push_str(plain),
                Piece::Ref(reference) if Some(reference.source) == over => {
                    text.push_str(&modify::apply(item, &reference.mods, package));
                }
                Piece::Ref(reference) => {
                    if let Some(value) = self.texts(reference.source).first() {
                        text.push_str(&modify::apply(value, &reference.mods, package));
                    }
                }
            }
        }
        text
    }

    /// A text with the paths of its files.
    pub fn loc_text(self, text: &LocText) -> String {
        let mut all = String::new();
        for part in &text.parts {
            match part {
                LocPart::Text(plain) => all.push_str(plain),
                LocPart::Files(files) => {
                    let paths = files.iter().map(|id| as_argument(path_text(&self.model.artifact(*id).path)));
                    let paths: Vec<Cow<'_, str>> = paths.collect();
                    all.push_str(&paths.join(" "));
                }
            }
        }
        all
    }

    fn path(self, id: ArtifactId) -> Cow<'a, str> {
        Cow::Borrowed(path_text(&self.model.artifact(id).path))
    }

    /// The path of something that is run: without a slash it would be looked up in `PATH`.
    fn program(self, id: ArtifactId) -> Cow<'a, str> {
        let path = self.path(id);
        if path.contains('/') { path } else { Cow::Owned(format!("./{path}")) }
    }
}

/// A rendered text with the template it was made by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// The text.
    pub text: String,
    /// The template, inside lists that of the list's entry.
    pub template: Span,
    /// The list it was given for, or the one reference it is.
    pub source: Option<Source>,
    /// Whether it is nothing but the path of a file.
    pub is_path: bool,
}

struct Render {
    lines: Vec<Line>,
}

impl Render {
    fn push(&mut self, eval: Eval<'_>, template: &Template, over: Option<Source>, item: &str) {
        let is_path = template.whole().is_some_and(|r| r.ty.kind == super::rule::Kind::File);
        let text = eval.fill(template, over, item);
        self.lines.push(Line {
            text: if is_path { as_argument(&text).into_owned() } else { text },
            template: template.span,
            source: over.or_else(|| template.refs().next().map(|reference| reference.source)),
            is_path,
        });
    }
}

impl Visitor for Render {
    fn each(&mut self, eval: Eval<'_>, templates: &[Template], over: Option<Source>) {
        // A whole list stands for its entries, so that each text keeps the template that made it.
        if let ([template], Some(Source::List(at))) = (templates, over)
            && template.whole().is_some_and(|reference| reference.mods.is_empty())
        {
            eval.walk(&eval.values.rule.lists[usize::from(at)].1, self);
            return;
        }
        match over {
            None => templates.iter().for_each(|template| self.push(eval, template, None, "")),
            Some(source) => {
                for item in eval.texts(source) {
                    templates.iter().for_each(|template| self.push(eval, template, over, &item));
                }
            }
        }
    }

    fn table(&mut self, eval: Eval<'_>, table: &TableEntry) {
        let Some(join) = &table.join else { return eval.walk(&table.items, self) };
        let lines = eval.render(&table.items);
        let Some(first) = lines.first() else { return };
        let texts: Vec<&str> = lines.iter().map(|line| line.text.as_str()).collect();
        self.lines.push(Line {
            text: texts.join(join),
            template: first.template,
            source: first.source,
            is_path: false,
        });
    }
}

struct Any(bool);

impl Visitor for Any {
    fn each(&mut self, _: Eval<'_>, _: &[Template], _: Option<Source>) {
        self.0 = true;
    }
}

struct Mentioned(Vec<Source>);

impl Visitor for Mentioned {
    fn each(&mut self, _: Eval<'_>, templates: &[Template], _: Option<Source>) {
        for reference in templates.iter().flat_map(Template::refs) {
            if !self.0.contains(&reference.source) {
                self.0.push(reference.source);
            }
        }
    }
}

struct FilesOf(Vec<ArtifactId>);

impl Visitor for FilesOf {
    fn each(&mut self, eval: Eval<'_>, templates: &[Template], _: Option<Source>) {
        for reference in templates.iter().flat_map(Template::refs) {
            self.0.extend(eval.files(reference.source));
        }
    }
}
