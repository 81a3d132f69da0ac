//! From the bytes of a file to a TOML table with the place of each value; every syntax error of the file, not only
//! the first. Knows TOML's grammar and nothing of what the keys mean.

use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::diag::{Diagnostic, Diagnostics, FileId, Span};

/// At most this many syntax errors of one file are told: an unclosed bracket can make hundreds.
const MAX_SYNTAX_ERRORS: usize = 10;

/// A table and whether its file has syntax errors; what is missing in such a file is no news.
pub struct Document<'i> {
    /// What could be read.
    pub table: DeTable<'i>,
    /// Whether there were syntax errors.
    pub broken: bool,
}

/// The text of a file.
///
/// # Errors
/// A message naming the file and the first byte that is not UTF-8.
pub fn decode(path: &str, bytes: Vec<u8>) -> Result<Arc<str>, String> {
    match String::from_utf8(bytes) {
        Ok(text) => Ok(Arc::from(text)),
        Err(error) => {
            let good = &error.as_bytes()[..error.utf8_error().valid_up_to()];
            let line = good.iter().filter(|b| **b == b'\n').count() + 1;
            let start = good.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
            let column = String::from_utf8_lossy(&good[start..]).chars().count() + 1;
            Err(format!("`{path}` is not UTF-8: line {line}, column {column}"))
        }
    }
}

/// Parses a whole file.
pub fn parse<'i>(text: &'i str, file: FileId, diags: &mut Diagnostics) -> Document<'i> {
    let (table, errors) = DeTable::parse_recoverable(text);
    let table = table.into_inner();
    let broken = !errors.is_empty();
    let mut seen = Vec::new();
    for error in errors {
        let range = error.span().unwrap_or(0..0);
        if seen.len() == MAX_SYNTAX_ERRORS || seen.contains(&range) {
            continue;
        }
        seen.push(range.clone());
        diags.push(syntax_error(text, file, &table, range, error.message()));
    }
    Document { table, broken }
}

fn syntax_error(
    text: &str,
    file: FileId,
    table: &DeTable<'_>,
    range: std::ops::Range<usize>,
    message: &str,
) -> Diagnostic {
    let span = Span::new(file, range.clone());
    if message != "duplicate key" {
        return Diagnostic::at(span, message.replace('\n', " "));
    }
    let key = unquote(text.get(range.clone()).unwrap_or_default());
    let diagnostic = Diagnostic::at(span, format!("`{key}` is given twice"));
    match first_definition(text, table, key, range.start) {
        Some(first) => diagnostic.note(Span::new(file, first), "first given here"),
        None => diagnostic,
    }
}

fn unquote(key: &str) -> &str {
    key.trim_matches(|c| c == '"' || c == '\'')
}

/// The last place before `before` where `key` is defined in a table that is still open there.
fn first_definition(text: &str, table: &DeTable<'_>, key: &str, before: usize) -> Option<std::ops::Range<usize>> {
    let mut best: Option<std::ops::Range<usize>> = None;
    let mut tables: Vec<&DeTable<'_>> = vec![table];
    while let Some(table) = tables.pop() {
        for (name, value) in table {
            let at = name.span();
            if name.get_ref() == key && at.start < before && best.as_ref().is_none_or(|b| b.start < at.start) {
                best = Some(at);
            }
            push_open_tables(text, value, before, &mut tables);
        }
    }
    best
}

/// Tables in `value` that a key at `before` may belong to: an inline table is closed after its brace.
fn push_open_tables<'a, 'i>(
    text: &str,
    value: &'a Spanned<DeValue<'i>>,
    before: usize,
    tables: &mut Vec<&'a DeTable<'i>>,
) {
    let mut values = vec![value];
    while let Some(value) = values.pop() {
        let range = value.span();
        let inline =
            text.get(range.clone()).is_some_and(|t| t.starts_with('{') || (t.starts_with('[') && !t.starts_with("[[")));
        match value.get_ref() {
            DeValue::Table(table) if !text[range.start..].starts_with('{') || range.end > before => tables.push(table),
            DeValue::Array(items) if !inline || range.end > before => values.extend(items.iter()),
            _ => {}
        }
    }
}
