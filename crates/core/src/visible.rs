//! Texts of strangers – servers, tools, file names – made safe to be shown: none moves a cursor or begins a line of its own.

use std::borrow::Cow;

/// The text with control characters as pictures, line ends and tabs aside.
pub fn visible(text: &str) -> Cow<'_, str> {
    replaced(text, &|c| !matches!(c, '\n' | '\t') && c.is_control(), picture)
}

/// The same on one line: each line end is a space.
pub fn visible_line(text: &str) -> Cow<'_, str> {
    replaced(text, &char::is_control, |c| if matches!(c, '\n' | '\r' | '\t') { ' ' } else { picture(c) })
}

fn replaced<'a>(text: &'a str, is_bad: &impl Fn(char) -> bool, replace: impl Fn(char) -> char) -> Cow<'a, str> {
    match text.chars().any(is_bad) {
        false => Cow::Borrowed(text),
        true => text.chars().map(|c| if is_bad(c) { replace(c) } else { c }).collect::<String>().into(),
    }
}

/// What stands for a control character; those above U+007F have no pictures.
fn picture(control: char) -> char {
    match u32::from(control) {
        code @ 0..=0x1f => char::from_u32(0x2400 + code).unwrap_or(char::REPLACEMENT_CHARACTER),
        0x7f => '\u{2421}',
        _ => char::REPLACEMENT_CHARACTER,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_shown_and_text_is_left_alone() {
        assert!(matches!(visible("a\tb\nc äß"), Cow::Borrowed(_)));
        assert_eq!(visible("\x1b[31m\0\x7f\u{9b}\r\n"), "␛[31m␀␡\u{fffd}␍\n");
        assert_eq!(visible_line("a\n::error::\x07\tb\r\n"), "a ::error::␇ b  ");
    }
}
