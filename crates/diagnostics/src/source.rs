//! Reading a parsed TOML tree with places: every complaint of wrong types, unknown keys, bad names goes through here.
//! Knows TOML values and nothing of what rule files mean.

use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::diag::{Diagnostic, Diagnostics, FileId, Span};
use crate::place;
use crate::suggest;

/// A TOML value with its place.
pub type Value<'i> = Spanned<DeValue<'i>>;

/// A decoded string with where it stands.
#[derive(Clone, Debug)]
pub struct Text<'i> {
    /// The decoded text.
    pub text: &'i str,
    /// The whole token, quotes included.
    pub span: Span,
    token: &'i str,
}

impl Text<'_> {
    /// The place of a part of the text.
    pub fn part(&self, range: std::ops::Range<usize>) -> Span {
        place::inside(self.token, self.span, self.text, range)
    }

    /// The place of the text without its quotes.
    pub fn inner(&self) -> Span {
        if self.text.is_empty() { self.span } else { self.part(0..self.text.len()) }
    }
}

/// One entry of a table.
#[derive(Clone, Copy)]
pub struct Entry<'i> {
    /// The key.
    pub key: &'i str,
    /// Where the key stands.
    pub key_span: Span,
    /// The value.
    pub value: &'i Value<'i>,
}

/// Reads one file.
#[derive(Clone, Copy)]
pub struct Reader<'i> {
    /// The file.
    pub file: FileId,
    /// Its text.
    pub text: &'i str,
}

impl<'i> Reader<'i> {
    /// The place of a value.
    pub fn span(&self, value: &Value<'_>) -> Span {
        Span::new(self.file, value.span())
    }

    /// The entries of a table in the order written.
    pub fn entries(&self, table: &'i DeTable<'i>) -> Vec<Entry<'i>> {
        let mut entries: Vec<Entry<'i>> = table
            .iter()
            .map(|(key, value)| Entry { key: key.get_ref(), key_span: Span::new(self.file, key.span()), value })
            .collect();
        entries.sort_by_key(|entry| entry.key_span);
        entries
    }

    /// The value as a table.
    pub fn table(&self, value: &'i Value<'i>, what: &str, diags: &mut Diagnostics) -> Option<&'i DeTable<'i>> {
        let table = value.get_ref().as_table();
        if table.is_none() {
            self.wrong_type(value, what, "a table", diags);
        }
        table
    }

    /// The value as a string.
    pub fn string(&self, value: &'i Value<'i>, what: &str, diags: &mut Diagnostics) -> Option<Text<'i>> {
        let text = self.as_string(value);
        if text.is_none() {
            self.wrong_type(value, what, "a string", diags);
        }
        text
    }

    /// The value as a string, silently.
    pub fn as_string(&self, value: &'i Value<'i>) -> Option<Text<'i>> {
        let text = value.get_ref().as_str()?;
        let token = self.text.get(value.span()).unwrap_or_default();
        Some(Text { text, span: self.span(value), token })
    }

    /// The value as a truth value.
    pub fn bool(&self, value: &Value<'_>, what: &str, diags: &mut Diagnostics) -> Option<bool> {
        let found = value.get_ref().as_bool();
        if found.is_none() {
            self.wrong_type(value, what, "`true` or `false`", diags);
        }
        found
    }

    /// The value as a whole number.
    pub fn integer(&self, value: &Value<'_>, what: &str, diags: &mut Diagnostics) -> Option<i64> {
        let found = as_integer(value);
        if found.is_none() {
            self.wrong_type(value, what, "a whole number", diags);
        }
        found
    }

    /// The value as an array.
    pub fn array(&self, value: &'i Value<'i>, what: &str, diags: &mut Diagnostics) -> Option<&'i [Value<'i>]> {
        match value.get_ref().as_array() {
            Some(items) => Some(items),
            None => {
                self.wrong_type(value, what, "an array", diags);
                None
            }
        }
    }

    /// The value as an array of strings; elements of other types are complained about and left out.
    pub fn strings(&self, value: &'i Value<'i>, what: &str, diags: &mut Diagnostics) -> Option<Vec<Text<'i>>> {
        let items = self.array(value, what, diags)?;
        Some(items.iter().filter_map(|item| self.string(item, what, diags)).collect())
    }

    /// The `doc` of a table.
    pub fn doc(&self, table: &'i DeTable<'i>, diags: &mut Diagnostics) -> Option<Arc<str>> {
        let text = self.string(table.get("doc")?, "`doc`", diags)?;
        Some(Arc::from(text.text))
    }

    /// Complains about keys that are not among `known`.
    pub fn known_keys(&self, table: &'i DeTable<'i>, known: &[&str], place: &str, diags: &mut Diagnostics) {
        for entry in self.entries(table) {
            if !known.contains(&entry.key) {
                let message = format!("unknown key `{}` in {place}", entry.key);
                diags.push(suggested(Diagnostic::at(entry.key_span, message), entry.key, known.iter().copied()));
            }
        }
    }

    /// Complains about a value of the wrong type.
    pub fn wrong_type(&self, value: &Value<'_>, what: &str, expected: &str, diags: &mut Diagnostics) {
        let found = value.get_ref().type_str();
        diags.push(Diagnostic::at(self.span(value), format!("{what} must be {expected}, not {}", article(found))));
    }

    /// Whether a key is a name; complains if not.
    pub fn name(&self, entry: &Entry<'_>, what: &str, diags: &mut Diagnostics) -> bool {
        let good = is_name(entry.key);
        if !good {
            let message = format!("`{}` cannot name {what}", entry.key);
            diags.push(
                Diagnostic::at(entry.key_span, message)
                    .hint("names start with a letter and have letters a-z, digits and `_` only"),
            );
        }
        good
    }
}

fn article(type_name: &str) -> String {
    let an = type_name.starts_with(['a', 'e', 'i', 'o', 'u']);
    format!("{} {type_name}", if an { "an" } else { "a" })
}

/// A whole number of any radix.
pub fn as_integer(value: &Value<'_>) -> Option<i64> {
    let integer = value.get_ref().as_integer()?;
    i64::from_str_radix(integer.as_str(), integer.radix()).ok()
}

/// Whether the text matches `[a-z][a-z0-9_]*`.
pub fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
}

/// Adds "did you mean" where a candidate is near.
pub fn suggested<'a>(diagnostic: Diagnostic, word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Diagnostic {
    match suggest::did_you_mean(word, candidates) {
        Some(label) => diagnostic.label(label),
        None => diagnostic,
    }
}

/// `` `a`, `b`, `c` ``.
pub fn quoted_list<'a>(words: impl IntoIterator<Item = &'a str>) -> String {
    let words: Vec<String> = words.into_iter().map(|word| format!("`{word}`")).collect();
    words.join(", ")
}
