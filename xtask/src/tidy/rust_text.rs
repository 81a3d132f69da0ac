//! Just enough of Rust's lexical structure to search code without hitting comments, strings and tests.
//!
//! No parser: text goes in, text of the same length comes out with the uninteresting parts blanked, so that byte
//! offsets and line numbers stay true.

/// Blanks comments and the contents of string, byte-string, raw-string and char literals.
pub fn code_only(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let end = token_end(bytes, at);
        if let Some(end) = end {
            blank(&mut out[at..end]);
            at = end;
        } else {
            // An identifier is stepped over whole, so that the `r` of `for` or a `b` inside a name opens no literal.
            at += identifier_len(&bytes[at..]).max(1);
        }
    }
    into_text(out)
}

/// Blanks every item below `#[cfg(test)]` in text that `code_only` has made.
pub fn without_tests(code: &str) -> String {
    const MARK: &str = "#[cfg(test)]";
    let mut out = code.as_bytes().to_vec();
    let mut from = 0;
    while let Some(found) = code[from..].find(MARK) {
        let start = from + found;
        let end = item_end(code.as_bytes(), start + MARK.len());
        blank(&mut out[start..end]);
        from = end;
    }
    into_text(out)
}

/// The number of the line a byte offset lies in, counted from 1.
pub fn line_of(text: &str, offset: usize) -> usize {
    text.as_bytes()[..offset].iter().filter(|byte| **byte == b'\n').count() + 1
}

/// Where the comment or literal that starts at `at` ends; nothing if none starts there.
fn token_end(bytes: &[u8], at: usize) -> Option<usize> {
    let rest = &bytes[at..];
    if rest.starts_with(b"//") {
        return Some(position(bytes, at, |byte| byte == b'\n'));
    }
    if rest.starts_with(b"/*") {
        return Some(block_comment_end(bytes, at));
    }
    let prefix = literal_prefix_len(rest);
    let quote = at + prefix;
    match bytes.get(quote)? {
        b'"' if prefix > 0 && bytes[at..quote].contains(&b'r') => Some(raw_string_end(bytes, quote, 0)),
        b'#' if prefix > 0 && bytes[at..quote].contains(&b'r') => {
            let hashes = bytes[quote..].iter().take_while(|byte| **byte == b'#').count();
            let opens = bytes.get(quote + hashes) == Some(&b'"');
            opens.then(|| raw_string_end(bytes, quote + hashes, hashes))
        }
        b'"' => Some(quoted_end(bytes, quote, b'"')),
        b'\'' if is_char_literal(&bytes[quote..]) => Some(quoted_end(bytes, quote, b'\'')),
        _ => None,
    }
}

/// Length of `r`, `b`, `br`, `c`, `cr` before a literal; 0 if what follows is no literal.
fn literal_prefix_len(rest: &[u8]) -> usize {
    let len = identifier_len(rest);
    let is_prefix = matches!(&rest[..len], b"r" | b"b" | b"br" | b"c" | b"cr");
    let opens = matches!(rest.get(len), Some(b'"' | b'\'' | b'#'));
    if is_prefix && opens { len } else { 0 }
}

fn identifier_len(rest: &[u8]) -> usize {
    rest.iter().take_while(|byte| byte.is_ascii_alphanumeric() || **byte == b'_' || **byte >= 0x80).count()
}

/// `'a'` and `'\n'` are characters, `'a` is a lifetime.
fn is_char_literal(rest: &[u8]) -> bool {
    match rest.get(1) {
        Some(b'\\') => true,
        Some(first) if *first >= 0x80 => true,
        Some(_) => rest.get(2) == Some(&b'\''),
        None => false,
    }
}

fn quoted_end(bytes: &[u8], quote: usize, close: u8) -> usize {
    let mut at = quote + 1;
    while at < bytes.len() && bytes[at] != close {
        at += if bytes[at] == b'\\' { 2 } else { 1 };
    }
    (at + 1).min(bytes.len())
}

fn raw_string_end(bytes: &[u8], quote: usize, hashes: usize) -> usize {
    let close = [&b"\""[..], &b"#".repeat(hashes)].concat();
    let found = bytes[quote + 1..].windows(close.len()).position(|window| window == close);
    found.map_or(bytes.len(), |offset| quote + 1 + offset + close.len())
}

fn block_comment_end(bytes: &[u8], start: usize) -> usize {
    let (mut at, mut depth) = (start, 0);
    while at < bytes.len() {
        if bytes[at..].starts_with(b"/*") {
            (at, depth) = (at + 2, depth + 1);
        } else if bytes[at..].starts_with(b"*/") {
            (at, depth) = (at + 2, depth - 1);
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    bytes.len()
}

/// The end of the item that follows an attribute: its `;`, or the brace that closes its first one.
fn item_end(code: &[u8], start: usize) -> usize {
    let mut depth = 0;
    for (offset, byte) in code[start..].iter().enumerate() {
        match byte {
            b';' if depth == 0 => return start + offset + 1,
            b'{' => depth += 1,
            b'}' if depth <= 1 => return start + offset + 1,
            b'}' => depth -= 1,
            _ => {}
        }
    }
    code.len()
}

fn position(bytes: &[u8], from: usize, wanted: impl Fn(u8) -> bool) -> usize {
    bytes[from..].iter().position(|byte| wanted(*byte)).map_or(bytes.len(), |offset| from + offset)
}

fn blank(bytes: &mut [u8]) {
    for byte in bytes.iter_mut().filter(|byte| **byte != b'\n') {
        *byte = b' ';
    }
}

/// Whole literals and comments were blanked, so what is left is still UTF-8.
fn into_text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_code(input: &str, expected: &str) {
        let squeezed = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        let code = code_only(input);
        assert_eq!(code.len(), input.len(), "{input}");
        assert_eq!(squeezed(&code), expected, "{input}");
    }

    #[test]
    fn comments_and_literals_are_blanked() {
        check_code("a // b \" c\nd", "a d");
        check_code("a /* b /* c */ d */ e", "a e");
        check_code(r#"f("x \" y", 'c', '\'', z)"#, "f( , , , z)");
        check_code(r##"f(r#"x " y"#, br"\", b'q')"##, "f( , , )");
        check_code("fn f<'a>(x: &'a str) {}", "fn f<'a>(x: &'a str) {}");
        check_code("r#type bar#x", "r#type bar#x");
        check_code("\"für\" naïve 'ü'", "naïve");
        check_code("\"never closed", "");
        check_code("/* never closed", "");
    }

    #[test]
    fn items_of_tests_are_blanked() {
        let code = "fn a() { x } #[cfg(test)] mod tests { fn b() { y } } fn c() {} #[cfg(test)]\nuse q; z";
        let kept: Vec<&str> = ["a", "b", "c", "x", "y", "z", "q"]
            .into_iter()
            .filter(|word| without_tests(code).split(|c: char| !c.is_alphanumeric()).any(|found| found == *word))
            .collect();
        assert_eq!(kept, ["a", "c", "x", "z"]);
    }

    #[test]
    fn lines_are_counted_from_one() {
        assert_eq!(line_of("a\nb\nc", 0), 1);
        assert_eq!(line_of("a\nb\nc", 4), 3);
    }
}
