//! Declarations of rule files: variables, config overlays, providers. Knows no templates but those of defaults.

use std::sync::Arc;

use minibuild_diagnostics::diag::{Diagnostic, Diagnostics, Span};
use minibuild_diagnostics::source::{Entry, Reader, Text, Value, quoted_list, suggested};
use toml::de::{DeTable, DeValue};

use super::rule::{Field, FieldType, Order, Provider};
use super::vars::{ToolVar, VarDecl, VarId, VarType, VarValue};

const VAR_KEYS: &[&str] = &["type", "default", "values", "version", "doc"];
const VAR_TYPES: &[(&str, VarType)] = &[
    ("string", VarType::String),
    ("strings", VarType::Strings),
    ("bool", VarType::Bool),
    ("enum", VarType::Enum),
    ("tool", VarType::Tool),
];
const FIELD_TYPES: &[(&str, FieldType)] =
    &[("strings", FieldType::Strings), ("files", FieldType::Files), ("args", FieldType::Args)];
const ORDERS: &[(&str, Order)] =
    &[("preorder", Order::Preorder), ("postorder", Order::Postorder), ("topological", Order::Topological)];

/// Looks a word up in a closed table; complains with a suggestion if it is not there.
pub fn one_of<T: Copy>(text: &Text<'_>, what: &str, table: &[(&str, T)], diags: &mut Diagnostics) -> Option<T> {
    if let Some((_, found)) = table.iter().find(|(word, _)| *word == text.text) {
        return Some(*found);
    }
    let words = || table.iter().map(|(word, _)| *word);
    let diagnostic = Diagnostic::at(text.inner(), format!("unknown {what} `{}`", text.text))
        .hint(format!("it is one of {}", quoted_list(words())));
    diags.push(suggested(diagnostic, text.text, words()));
    None
}

/// The `type` of a declaration.
pub fn declared_type<'i, T: Copy>(
    reader: Reader<'i>,
    entry: &Entry<'i>,
    table: &'i DeTable<'i>,
    what: &str,
    types: &[(&str, T)],
    diags: &mut Diagnostics,
) -> Option<T> {
    let Some(value) = table.get("type") else {
        let words = quoted_list(types.iter().map(|(word, _)| *word));
        diags.push(
            Diagnostic::at(entry.key_span, format!("{what} `{}` has no `type`", entry.key))
                .hint(format!("it is one of {words}")),
        );
        return None;
    };
    let text = reader.string(value, "`type`", diags)?;
    one_of(&text, &format!("type of {what}"), types, diags)
}

/// Reads one entry of `[vars]`.
pub fn variable<'i>(reader: Reader<'i>, entry: &Entry<'i>, diags: &mut Diagnostics) -> Option<VarDecl> {
    let table = reader.table(entry.value, &format!("variable `{}`", entry.key), diags)?;
    reader.known_keys(table, VAR_KEYS, &format!("variable `{}`", entry.key), diags);
    let ty = declared_type(reader, entry, table, "variable", VAR_TYPES, diags)?;
    let mut decl = VarDecl {
        name: Arc::from(entry.key),
        ty,
        values: texts_of(reader, table, "values", diags),
        version: texts_of(reader, table, "version", diags),
        default: VarValue::Bool(false),
        doc: reader.doc(table, diags),
        span: Some(entry.key_span),
    };
    check_applies(reader, table, "values", ty == VarType::Enum, "`enum`", diags);
    check_applies(reader, table, "version", ty == VarType::Tool, "`tool`", diags);
    if ty == VarType::Enum && decl.values.is_empty() {
        diags.push(Diagnostic::at(entry.key_span, format!("variable `{}` is an enum without `values`", entry.key)));
        return None;
    }
    let Some(default) = table.get("default") else {
        diags.push(Diagnostic::at(entry.key_span, format!("variable `{}` has no `default`", entry.key)));
        return None;
    };
    decl.default = var_value(reader, default, &decl, diags)?;
    Some(decl)
}

fn texts_of<'i>(reader: Reader<'i>, table: &'i DeTable<'i>, key: &str, diags: &mut Diagnostics) -> Vec<Arc<str>> {
    let Some(value) = table.get(key) else { return Vec::new() };
    let texts = reader.strings(value, &format!("`{key}`"), diags).unwrap_or_default();
    texts.iter().map(|text| Arc::from(text.text)).collect()
}

/// Complains about a key that says nothing for this type.
pub fn check_applies<'i>(
    reader: Reader<'i>,
    table: &'i DeTable<'i>,
    key: &str,
    applies: bool,
    types: &str,
    diags: &mut Diagnostics,
) {
    if let Some((found, _)) = table.get_key_value(key).filter(|_| !applies) {
        let span = Span::new(reader.file, found.span());
        diags.push(Diagnostic::at(span, format!("`{key}` is only for type {types}")));
    }
}

/// A value for a variable, from TOML.
pub fn var_value<'i>(
    reader: Reader<'i>,
    value: &'i Value<'i>,
    decl: &VarDecl,
    diags: &mut Diagnostics,
) -> Option<VarValue> {
    let what = format!("variable `{}`", decl.name);
    match decl.ty {
        VarType::Bool => reader.bool(value, &what, diags).map(VarValue::Bool),
        VarType::Strings => {
            let texts = reader.strings(value, &what, diags)?;
            Some(VarValue::Texts(texts.iter().map(|text| Arc::from(text.text)).collect()))
        }
        VarType::String | VarType::Enum | VarType::Tool => {
            let text = reader.string(value, &what, diags)?;
            match text_value(decl, text.text) {
                Ok(value) => Some(value),
                Err(message) => {
                    let diagnostic = Diagnostic::at(text.inner(), message);
                    diags.push(suggested(diagnostic, text.text, decl.values.iter().map(|value| &**value)));
                    None
                }
            }
        }
    }
}

/// A value for a variable of one text.
pub fn text_value(decl: &VarDecl, text: &str) -> Result<VarValue, String> {
    let shared: Arc<str> = Arc::from(text);
    match decl.ty {
        VarType::Enum if !decl.values.iter().any(|value| **value == *text) => {
            let values = quoted_list(decl.values.iter().map(|value| &**value));
            Err(format!("`{text}` is no value of `vars.{}`: it is one of {values}", decl.name))
        }
        VarType::Tool if text.is_empty() => Err(format!("`vars.{}` needs the name of a program or a label", decl.name)),
        VarType::Tool if text.contains("//") && !text.starts_with('/') || text.starts_with("//") => {
            Ok(VarValue::Tool(ToolVar::Label(shared, None)))
        }
        VarType::Tool => Ok(VarValue::Tool(ToolVar::Host(shared))),
        _ => Ok(VarValue::Text(shared)),
    }
}

/// Reads the entries of a `[config.NAME]`, of which rule files have only `vars`.
pub fn config<'i>(
    reader: Reader<'i>,
    entry: &Entry<'i>,
    vars: &[VarDecl],
    broken: &[String],
    diags: &mut Diagnostics,
) -> Vec<(VarId, VarValue)> {
    let place = format!("`[config.{}]` of a rule file", entry.key);
    let Some(table) = reader.table(entry.value, &place, diags) else { return Vec::new() };
    reader.known_keys(table, &["vars"], &place, diags);
    let Some(values) = table.get("vars").and_then(|value| reader.table(value, "`vars`", diags)) else {
        return Vec::new();
    };
    reader
        .entries(values)
        .iter()
        .filter(|entry| !broken.iter().any(|name| name == entry.key))
        .filter_map(|entry| overlay(reader, entry, vars, diags))
        .collect()
}

fn overlay<'i>(
    reader: Reader<'i>,
    entry: &Entry<'i>,
    vars: &[VarDecl],
    diags: &mut Diagnostics,
) -> Option<(VarId, VarValue)> {
    let own = |decl: &VarDecl| decl.span.is_some_and(|span| span.file == reader.file);
    let Some(at) = vars.iter().position(|decl| *decl.name == *entry.key) else {
        let diagnostic = Diagnostic::at(entry.key_span, format!("no variable `{}` is declared", entry.key));
        diags.push(suggested(diagnostic, entry.key, vars.iter().filter(|decl| own(decl)).map(|decl| &*decl.name)));
        return None;
    };
    if !own(&vars[at]) {
        let message =
            format!("`{}` is not declared in this file: only the file that declares a variable sets it", entry.key);
        let diagnostic = Diagnostic::at(entry.key_span, message);
        diags.push(vars[at].span.into_iter().fold(diagnostic, |d, span| d.note(span, "declared here")));
        return None;
    }
    let value = var_value(reader, entry.value, &vars[at], diags)?;
    Some((VarId(u16::try_from(at).ok()?), value))
}

/// Reads one `[provider.P]`.
pub fn provider<'i>(reader: Reader<'i>, entry: &Entry<'i>, diags: &mut Diagnostics) -> Option<Provider> {
    let what = format!("provider `{}`", entry.key);
    let table = reader.table(entry.value, &what, diags)?;
    reader.known_keys(table, &["doc", "fields"], &what, diags);
    let fields = table.get("fields").and_then(|value| reader.table(value, "`fields`", diags));
    let fields = fields.map(|fields| reader.entries(fields)).unwrap_or_default();
    let fields: Option<Vec<Field>> = fields.iter().map(|entry| field(reader, entry, diags)).collect();
    Some(Provider { name: Arc::from(entry.key), fields: fields?, doc: reader.doc(table, diags), span: entry.key_span })
}

fn field<'i>(reader: Reader<'i>, entry: &Entry<'i>, diags: &mut Diagnostics) -> Option<Field> {
    reader.name(entry, "a field", diags).then_some(())?;
    let what = format!("field `{}`", entry.key);
    let table = reader.table(entry.value, &what, diags)?;
    reader.known_keys(table, &["type", "order", "doc"], &what, diags);
    let ty = declared_type(reader, entry, table, "field", FIELD_TYPES, diags)?;
    let order = table
        .get("order")
        .and_then(|value| reader.string(value, "`order`", diags))
        .and_then(|text| one_of(&text, "order", ORDERS, diags))
        .unwrap_or_default();
    Some(Field { name: Arc::from(entry.key), ty, order, doc: reader.doc(table, diags) })
}

/// The values of a `when`: pairs of a dotted path and the value asked for, nested tables flattened.
pub fn condition_paths<'i>(reader: Reader<'i>, table: &'i DeTable<'i>) -> Vec<(String, Span, &'i Value<'i>)> {
    let mut found = Vec::new();
    let mut open: Vec<(String, Option<Span>, Entry<'i>)> =
        reader.entries(table).into_iter().rev().map(|entry| (String::new(), None, entry)).collect();
    while let Some((prefix, start, entry)) = open.pop() {
        let path = format!("{prefix}{}", entry.key);
        let span = start.map_or(entry.key_span, |start: Span| Span { end: entry.key_span.end, ..start });
        match entry.value.get_ref() {
            DeValue::Table(inner) if !inner.is_empty() => {
                let below = reader.entries(inner).into_iter().rev();
                open.extend(below.map(|entry| (format!("{path}."), Some(span), entry)));
            }
            _ => found.push((path, span, entry.value)),
        }
    }
    found
}
