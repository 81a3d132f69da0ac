//! Make-style dependency files, as compilers write them: `target…: prerequisite…`, with `\`-newline, escapes and
//! comments. Knows the syntax only, not which of the names are inputs.

/// Why a dependency file cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DepfileError {
    /// Not UTF-8.
    #[error("it is not UTF-8")]
    NotUtf8,
    /// A line that is no rule.
    #[error("line {0} has no `:` after its targets")]
    NoColon(usize),
}

/// All prerequisites of all rules, each once, in order. Rules without prerequisites (as `-MP` writes) give none.
///
/// # Errors
/// A [`DepfileError`] saying what is wrong, without the file's name.
pub fn parse_depfile(bytes: &[u8]) -> Result<Vec<String>, DepfileError> {
    let text = std::str::from_utf8(bytes).map_err(|_| DepfileError::NotUtf8)?;
    let mut found = Vec::new();
    let mut seen = std::collections::HashSet::new();
    for (number, line) in logical_lines(text) {
        let words = words(&line);
        let Some(colon) = words.iter().position(|w| w.ends_target) else {
            if words.is_empty() {
                continue;
            }
            return Err(DepfileError::NoColon(number));
        };
        for word in &words[colon + 1..] {
            if !word.text.is_empty() && seen.insert(word.text.clone()) {
                found.push(word.text.clone());
            }
        }
    }
    Ok(found)
}

/// Lines joined at `\`-newline, without comment lines, with the number of their first line.
fn logical_lines(text: &str) -> Vec<(usize, String)> {
    let mut lines = Vec::new();
    let mut joined: Option<(usize, String)> = None;
    for (index, line) in text.lines().enumerate() {
        if joined.is_none() && line.trim_start().starts_with('#') {
            continue;
        }
        let (number, mut whole) = joined.take().unwrap_or((index + 1, String::new()));
        let backslashes = line.bytes().rev().take_while(|&b| b == b'\\').count();
        if backslashes % 2 == 1 {
            whole.push_str(&line[..line.len() - 1]);
            whole.push(' ');
            joined = Some((number, whole));
        } else {
            whole.push_str(line);
            lines.push((number, whole));
        }
    }
    lines.extend(joined);
    lines
}

struct Word {
    text: String,
    /// It was followed by the colon that ends the targets.
    ends_target: bool,
}

fn words(line: &str) -> Vec<Word> {
    let mut words = Vec::new();
    let mut text = String::new();
    let mut in_targets = true;
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        match (c, chars.peek()) {
            ('\\', Some(&next @ (' ' | '#' | ':' | '\\'))) => {
                // A backslash quotes what follows, except another backslash of a plain name.
                if next == '\\' {
                    text.push('\\');
                } else {
                    chars.next();
                    text.push(next);
                }
            }
            // Make takes the rest for a comment, and compilers escape a `#` in a name.
            ('#', _) if text.is_empty() => break,
            ('$', Some('$')) => {
                chars.next();
                text.push('$');
            }
            (':', next) if in_targets && next.is_none_or(|n| n.is_whitespace()) => {
                words.push(Word { text: std::mem::take(&mut text), ends_target: true });
                in_targets = false;
            }
            (c, _) if c.is_whitespace() => {
                if !text.is_empty() {
                    words.push(Word { text: std::mem::take(&mut text), ends_target: false });
                }
            }
            _ => text.push(c),
        }
    }
    if !text.is_empty() {
        words.push(Word { text, ends_target: false });
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &[&str]) {
        let expected: Vec<String> = expected.iter().map(|&e| e.to_owned()).collect();
        assert_eq!(parse_depfile(text.as_bytes()), Ok(expected), "{text:?}");
    }

    #[test]
    fn what_compilers_write() {
        check("", &[]);
        check("a.o: a.c a.h\n", &["a.c", "a.h"]);
        check("a.o: a.c \\\n  b.h \\\n c.h", &["a.c", "b.h", "c.h"]);
        check("a.o b.o : a.c\r\n", &["a.c"]);
        check("a.o: a.c a.h a.c\n\na.h:\n", &["a.c", "a.h"]);
        check("a.o: with\\ space.h do$$llar.h ha\\#sh.h\n", &["with space.h", "do$llar.h", "ha#sh.h"]);
        check("a.o: c:/x.h d:y\n", &["c:/x.h", "d:y"]);
        check("x.d: src/main.rs\n\nsrc/main.rs:\n\n# env-dep:CARGO\n", &["src/main.rs"]);
        check("a.o:\n", &[]);
        check("a.o: a.c # made by hand\nb.o: b#1.c #\n", &["a.c", "b#1.c"]);
        check("a.o: a.c # goes on \\\n in the next line\nb.o: b.c\n", &["a.c", "b.c"]);
    }

    #[test]
    fn what_is_no_depfile() {
        assert_eq!(parse_depfile(b"\xff: x"), Err(DepfileError::NotUtf8));
        assert_eq!(parse_depfile(b"a: b\nno colon here\n"), Err(DepfileError::NoColon(2)));
    }
}
