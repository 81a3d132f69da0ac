//! Typed reading of TOML values with a diagnostic for each that is not as expected. Knows places and types, not what
//! the keys mean; shared by BUILD.toml and minibuild.toml.

use std::time::Duration;

use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

use crate::diag::{Diagnostic, Diagnostics, FileId, Span};
use crate::suggest::did_you_mean;

/// A TOML value with its place.
pub type Value<'i> = Spanned<DeValue<'i>>;
/// A TOML key with its place.
pub type Key<'i> = Spanned<DeString<'i>>;

/// Reads the values of one file.
pub struct Walk<'d> {
    /// The file.
    pub file: FileId,
    /// Its text.
    pub text: &'d str,
    /// Where complaints go.
    pub diags: &'d mut Diagnostics,
}

/// The type of a value in words.
pub fn type_name(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a float",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "an array",
        DeValue::Table(_) => "a table",
    }
}

/// A span of time such as `1h30m`, `10m`, `90s`, `500ms`; a bare number is seconds.
pub fn parse_duration(text: &str) -> Option<Duration> {
    if let Ok(seconds) = text.parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    let mut total = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let number: u32 = rest[..digits].parse().ok()?;
        let after = &rest[digits..];
        let unit_len = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        let unit = match &after[..unit_len] {
            "ms" => Duration::from_millis(1),
            "s" => Duration::from_secs(1),
            "m" | "min" => Duration::from_secs(60),
            "h" => Duration::from_secs(3600),
            "d" => Duration::from_secs(86_400),
            _ => return None,
        };
        total = total.checked_add(unit.checked_mul(number)?)?;
        rest = &after[unit_len..];
    }
    (!text.is_empty()).then_some(total)
}

/// Bytes: `4096`, `512KiB`, `2GiB`, `1GB`.
pub fn parse_size(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..digits].parse().ok()?;
    let unit: u64 = match text[digits..].trim_start().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        "t" | "tib" => 1 << 40,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        _ => return None,
    };
    number.checked_mul(unit)
}

impl<'d> Walk<'d> {
    /// Where a value or key stands.
    pub fn span<T>(&self, value: &Spanned<T>) -> Span {
        Span::new(self.file, value.span())
    }

    /// Adds an error at a value or key.
    pub fn error<T>(&mut self, value: &Spanned<T>, message: impl Into<String>) -> &mut Diagnostic {
        let span = self.span(value);
        self.error_at(span, message)
    }

    /// Adds an error at a place.
    pub fn error_at(&mut self, span: Span, message: impl Into<String>) -> &mut Diagnostic {
        self.diags.list.push(Diagnostic::at(span, message));
        self.diags.list.last_mut().expect("one was pushed")
    }

    /// Says that a value has the wrong type.
    pub fn wrong_type(&mut self, value: &Value<'_>, what: &str, expected: &str) {
        let found = type_name(value.get_ref());
        self.error(value, format!("`{what}` takes {expected}, not {found}"));
    }

    /// Says that a key is unknown, with the nearest of `known`.
    pub fn unknown_key<'k>(&mut self, key: &Key<'_>, place: &str, known: impl IntoIterator<Item = &'k str> + Clone) {
        let name = key.get_ref().to_string();
        let hint = did_you_mean(&name, known.clone());
        let all = || {
            let names: Vec<String> = known.into_iter().map(|k| format!("`{k}`")).collect();
            format!("{place} knows {}", names.join(", "))
        };
        let text = hint.unwrap_or_else(all);
        self.error(key, format!("unknown key `{name}` in {place}")).hints.push(text);
    }

    /// A string.
    pub fn string<'v>(&mut self, value: &'v Value<'_>, what: &str) -> Option<&'v str> {
        match value.get_ref() {
            DeValue::String(text) => Some(text),
            _ => {
                self.wrong_type(value, what, "a string");
                None
            }
        }
    }

    /// `true` or `false`.
    pub fn boolean(&mut self, value: &Value<'_>, what: &str) -> Option<bool> {
        match value.get_ref() {
            DeValue::Boolean(truth) => Some(*truth),
            _ => {
                self.wrong_type(value, what, "`true` or `false`");
                None
            }
        }
    }

    /// A whole number.
    pub fn integer(&mut self, value: &Value<'_>, what: &str) -> Option<i64> {
        let DeValue::Integer(number) = value.get_ref() else {
            self.wrong_type(value, what, "a whole number");
            return None;
        };
        let parsed = i64::from_str_radix(number.as_str(), number.radix()).ok();
        if parsed.is_none() {
            self.error(value, format!("`{what}` is out of range: {}", number.as_str()));
        }
        parsed
    }

    /// A whole number that is not negative.
    pub fn count(&mut self, value: &Value<'_>, what: &str) -> Option<u64> {
        let number = self.integer(value, what)?;
        let count = u64::try_from(number).ok();
        if count.is_none() {
            self.error(value, format!("`{what}` takes a number that is not negative, not {number}"));
        }
        count
    }

    /// The items of an array.
    pub fn array<'v, 'i>(&mut self, value: &'v Value<'i>, what: &str) -> Option<&'v [Value<'i>]> {
        match value.get_ref() {
            DeValue::Array(items) => Some(items),
            _ => {
                self.wrong_type(value, what, "an array");
                None
            }
        }
    }

    /// An array of strings with their places.
    pub fn strings<'v>(&mut self, value: &'v Value<'_>, what: &str) -> Option<Vec<(&'v str, Span)>> {
        let mut texts = Vec::new();
        let mut fine = true;
        for item in self.array(value, what)? {
            match self.string(item, what) {
                Some(text) => texts.push((text, self.span(item))),
                None => fine = false,
            }
        }
        fine.then_some(texts)
    }

    /// A table.
    pub fn table<'v, 'i>(&mut self, value: &'v Value<'i>, what: &str) -> Option<&'v DeTable<'i>> {
        match value.get_ref() {
            DeValue::Table(table) => Some(table),
            _ => {
                self.wrong_type(value, what, "a table");
                None
            }
        }
    }

    /// A span of time: `"10m"` or seconds.
    pub fn duration(&mut self, value: &Value<'_>, what: &str) -> Option<Duration> {
        let parsed = match value.get_ref() {
            DeValue::String(text) => parse_duration(text),
            DeValue::Integer(_) => Some(Duration::from_secs(self.count(value, what)?)),
            _ => {
                self.wrong_type(value, what, "a time such as `\"10m\"`");
                return None;
            }
        };
        if parsed.is_none() {
            self.error(value, format!("`{what}` is no time"))
                .hints
                .push("write `\"90s\"`, `\"10m\"`, `\"1h30m\"` or a number of seconds".into());
        }
        parsed
    }

    /// Reads a limit of time: `"10m"` or seconds, and more than none.
    pub fn time_limit(&mut self, value: &Value<'_>, what: &str) -> Option<Duration> {
        let limit = self.duration(value, what)?;
        if limit.is_zero() {
            self.error(value, format!("`{what}` must be more than zero"))
                .hints
                .push(format!("leave `{what}` out for no limit"));
            return None;
        }
        Some(limit)
    }

    /// Bytes: `"2GiB"` or a number.
    pub fn size(&mut self, value: &Value<'_>, what: &str) -> Option<u64> {
        let parsed = match value.get_ref() {
            DeValue::String(text) => parse_size(text),
            DeValue::Integer(_) => return self.count(value, what),
            _ => {
                self.wrong_type(value, what, "a size such as `\"2GiB\"`");
                return None;
            }
        };
        if parsed.is_none() {
            self.error(value, format!("`{what}` is no size"))
                .hints
                .push("write `\"512MiB\"`, `\"2GiB\"` or a number of bytes".into());
        }
        parsed
    }

    /// The place of the piece `start..end` of a string value, where the string is written without escapes; the
    /// whole value otherwise.
    pub fn span_inside(&self, value: &Value<'_>, text: &str, start: usize, end: usize) -> Span {
        let range = value.span();
        let raw = self.text.get(range.clone()).unwrap_or_default();
        match raw.find(text) {
            Some(offset) if !text.is_empty() => {
                Span::new(self.file, range.start + offset + start..range.start + offset + end)
            }
            _ => Span::new(self.file, range),
        }
    }
}
