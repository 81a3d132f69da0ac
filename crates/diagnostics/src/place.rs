//! From a place inside a decoded TOML string back to the place in the file, through escapes and trimmed newlines.
//! Knows the four kinds of TOML strings and nothing of templates.

use std::ops::Range;

use crate::diag::Span;

/// The place in the file of `range` (bytes of `decoded`), where `token` is the raw text of the string, quotes
/// included, that stands at `span`. The whole token where the two do not fit together.
pub fn inside(token: &str, span: Span, decoded: &str, range: Range<usize>) -> Span {
    let found = raw_offset(token, decoded, range.start, Side::Start)
        .zip(raw_offset(token, decoded, range.end, Side::End))
        .filter(|(start, end)| start <= end);
    match found {
        Some((start, end)) => Span { file: span.file, start: span.start + clamp(start), end: span.start + clamp(end) },
        None => span,
    }
}

fn clamp(offset: usize) -> u32 {
    u32::try_from(offset).unwrap_or(u32::MAX)
}

/// Whether an offset begins or ends a range: trimmed line ends before it belong to it only at its start.
#[derive(Clone, Copy, PartialEq)]
enum Side {
    Start,
    End,
}

/// How a token is quoted: offset of its first character, whether backslashes are escapes.
fn opening(token: &str) -> (usize, bool) {
    let (skip, escapes) = match token {
        t if t.starts_with("\"\"\"") => (3, true),
        t if t.starts_with("'''") => (3, false),
        t if t.starts_with('"') => (1, true),
        t if t.starts_with('\'') => (1, false),
        _ => return (0, false),
    };
    let rest = &token[skip..];
    let newline = if skip == 1 {
        0
    } else if rest.starts_with("\r\n") {
        2
    } else {
        usize::from(rest.starts_with('\n'))
    };
    (skip + newline, escapes)
}

/// Walks token and decoded text in step until `wanted` decoded bytes are passed.
fn raw_offset(token: &str, decoded: &str, wanted: usize, side: Side) -> Option<usize> {
    let (mut raw, escapes) = opening(token);
    let mut done = 0;
    while done < wanted || side == Side::Start {
        let rest = token.get(raw..)?;
        let (raw_len, decoded_len) = step(rest, decoded.get(done..)?, escapes);
        if done == wanted && decoded_len > 0 {
            break;
        }
        if raw_len == 0 {
            return (done == wanted).then_some(raw);
        }
        raw += raw_len;
        done += decoded_len;
    }
    (done == wanted).then_some(raw)
}

/// Bytes taken from token and decoded text by one character or escape.
fn step(raw: &str, decoded: &str, escapes: bool) -> (usize, usize) {
    let produced = decoded.chars().next().map_or(0, char::len_utf8);
    let Some(first) = raw.chars().next() else { return (0, 0) };
    if escapes && first == '\\' {
        return escape(&raw[1..], produced);
    }
    if decoded.is_empty() {
        return (0, 0);
    }
    if raw.starts_with("\r\n") && decoded.starts_with('\n') {
        return (2, 1);
    }
    (first.len_utf8(), produced)
}

fn escape(after: &str, produced: usize) -> (usize, usize) {
    match after.chars().next() {
        Some('x') => (4, produced),
        Some('u') => (6, produced),
        Some('U') => (10, produced),
        Some(c) if c.is_ascii_whitespace() => {
            let blank = after.len() - after.trim_start_matches([' ', '\t', '\r', '\n']).len();
            (1 + blank, 0)
        }
        Some(c) => (1 + c.len_utf8(), produced),
        None => (1, 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diag::FileId;

    /// Parses `toml`, looks for `needle` in the decoded value of `k` and says which raw text its span covers.
    fn covered<'t>(toml: &'t str, needle: &str) -> &'t str {
        let table = toml::de::DeTable::parse(toml).expect("valid TOML");
        let value = table.get_ref().get("k").expect("has k");
        let decoded = value.get_ref().as_str().expect("a string");
        let at = decoded.find(needle).expect("needle is there");
        let span = Span::new(FileId(0), value.span());
        let found = inside(&toml[value.span()], span, decoded, at..at + needle.len());
        &toml[found.start as usize..found.end as usize]
    }

    #[test]
    fn escapes_and_line_ends_do_not_shift_places() {
        let check = |toml: &str, needle: &str, expected: &str| assert_eq!(covered(toml, needle), expected, "{toml}");
        check("k = \"a{b}c\"", "{b}", "{b}");
        check("k = 'a{b}c'", "{b}", "{b}");
        check(r#"k = "\t\"\u00e4é\U0001F600{b}""#, "{b}", "{b}");
        check(r#"k = "\x41\e{b}\\""#, "{b}", "{b}");
        check("k = \"\"\"\n  x \\\n     {b}\"\"\"", "{b}", "{b}");
        check("k = \"\"\"\r\nx\r\ny\r\n{b}\"\"\"", "{b}", "{b}");
        check("k = '''\nx\n\\t{b}'''", "{b}", "{b}");
        check(r#"k = "{\u0062}""#, "{b}", r"{\u0062}");
        check("k = \"\"", "", "");
    }
}
