//! What tools printed, as it is shown: bytes as they are, but for what a terminal takes for more than text.
//!
//! Colours pass where there are colours. It does not know where the text goes.

use std::io::Write as _;

/// How output is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ToolOutput {
    /// Colours pass.
    pub colour: bool,
    /// It goes to a terminal: control characters are shown by their pictures. Files get them, escape sequences aside.
    pub is_terminal: bool,
}

/// Ends whatever colours were begun.
const RESET: &[u8] = b"\x1b[0m";
/// Colours in force are not longer; of whoever never ends one the last is kept.
const LONGEST_COLOURS: usize = 256;
const ESCAPE: u8 = 0x1b;

impl ToolOutput {
    /// Appends the text as it is shown. `colours` has the sequences in force, before and after.
    pub fn append(self, text: &[u8], colours: &mut Vec<u8>, to: &mut Vec<u8>) {
        let mut rest = text;
        while let Some(at) = rest.iter().position(|&byte| !is_plain(byte)) {
            to.extend_from_slice(&rest[..at]);
            rest = &rest[at..];
            let (length, is_colour) = match rest[0] {
                ESCAPE => sequence(rest),
                _ => (control(rest), false),
            };
            let (taken, after) = rest.split_at(length);
            if is_colour && self.colour {
                to.extend_from_slice(taken);
                if is_reset(taken) || colours.len() + taken.len() > LONGEST_COLOURS {
                    colours.clear();
                }
                if !is_reset(taken) {
                    colours.extend_from_slice(taken);
                }
            } else if rest[0] == ESCAPE && length > 1 && (is_colour || !self.is_terminal) {
                // Somebody reads this as text.
            } else if self.is_terminal && taken != b"\r\n" {
                show(taken, to);
            } else if rest[0] != ESCAPE {
                to.extend_from_slice(taken);
            }
            rest = after;
        }
        to.extend_from_slice(rest);
    }

    /// Appends whole output: it ends with a line end, and with the colours as they were.
    pub(crate) fn append_block(self, text: &[u8], to: &mut Vec<u8>) {
        let mut colours = Vec::new();
        self.append(text, &mut colours, to);
        if !text.is_empty() {
            end_lines(&colours, to);
        }
    }
}

/// Ends the last line, and before that the colours: what is shown next has its own.
pub(crate) fn end_lines(colours: &[u8], to: &mut Vec<u8>) {
    if to.ends_with(b"\n") {
        to.pop();
    }
    if !colours.is_empty() {
        to.extend_from_slice(RESET);
    }
    to.push(b'\n');
}

/// Not to be looked at. `0xC2` begins the control characters above U+007F.
fn is_plain(byte: u8) -> bool {
    matches!(byte, b'\n' | b'\t' | b' '..=b'~' | 0x80..=0xc1 | 0xc3..)
}

/// The length of the control character that the text may begin with, or of the character that it is.
fn control(text: &[u8]) -> usize {
    match text {
        [0xc2, 0x80..=0xbf, ..] | [b'\r', b'\n', ..] => 2,
        _ => 1,
    }
}

/// The length of the escape sequence at the beginning, and whether it sets colours. One that does not end is only its first byte.
fn sequence(text: &[u8]) -> (usize, bool) {
    let in_range = |from: usize, range: std::ops::RangeInclusive<u8>| {
        from + text[from..].iter().take_while(|byte| range.contains(byte)).count()
    };
    let ended = |at: usize, range: std::ops::RangeInclusive<u8>| text.get(at).is_some_and(|byte| range.contains(byte));
    match text.get(1) {
        Some(b'[') => {
            let parameters = in_range(2, 0x30..=0x3f);
            let end = in_range(parameters, 0x20..=0x2f);
            let is_colour = end == parameters && text.get(end) == Some(&b'm');
            let is_usual = text[2..parameters].iter().all(|byte| matches!(byte, b'0'..=b';'));
            if ended(end, 0x40..=0x7e) { (end + 1, is_colour && is_usual) } else { (1, false) }
        }
        Some(b']' | b'P' | b'X' | b'^' | b'_') => {
            let body = text[2..].iter().position(|byte| matches!(byte, 0x07 | b'\n' | &ESCAPE));
            match body.map(|at| (2 + at, text[2 + at])) {
                Some((at, 0x07)) => (at + 1, false),
                Some((at, ESCAPE)) if text.get(at + 1) == Some(&b'\\') => (at + 2, false),
                _ => (1, false),
            }
        }
        _ => {
            let end = in_range(1, 0x20..=0x2f);
            if ended(end, 0x30..=0x7e) { (end + 1, false) } else { (1, false) }
        }
    }
}

/// Whether a sequence that sets colours ends with having none.
fn is_reset(sequence: &[u8]) -> bool {
    let parameters = &sequence[2..sequence.len() - 1];
    let last = parameters.rsplit(|byte| *byte == b';').next().unwrap_or_default();
    last.iter().all(|byte| *byte == b'0')
}

/// Shows bytes that are no text.
fn show(bytes: &[u8], to: &mut Vec<u8>) {
    match std::str::from_utf8(bytes) {
        Ok(text) => to.extend_from_slice(minibuild_core::visible(text).as_bytes()),
        // Half a character, which no terminal takes for more.
        Err(_) => drop(to.write_all(bytes)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FILE: ToolOutput = ToolOutput { colour: false, is_terminal: false };
    const TERMINAL: ToolOutput = ToolOutput { colour: true, is_terminal: true };
    const DULL: ToolOutput = ToolOutput { colour: false, is_terminal: true };
    const PAGER: ToolOutput = ToolOutput { colour: true, is_terminal: false };

    fn shown(how: ToolOutput, text: &[u8]) -> Vec<u8> {
        let mut to = Vec::new();
        how.append_block(text, &mut to);
        to
    }

    #[test]
    fn text_of_any_encoding_is_as_it_was() {
        let text = "x\u{e9} äß 漢字\t\r\n\u{a0}".as_bytes();
        let bytes = b"\xe6\x97 \xe4\xf6\xfc \xff\xfe \xc2 \xc2A\n";
        for how in [FILE, TERMINAL, DULL, PAGER] {
            assert_eq!(shown(how, text), [text, b"\n"].concat());
            assert_eq!(shown(how, bytes), bytes);
        }
    }

    #[test]
    fn colours_pass_where_there_are_colours_and_are_ended() {
        let text = b"a \x1b[31;1mred\x1b[0m \x1b[38:2::1:2:3mb\x1b[m \x1b[4mc";
        for how in [FILE, DULL] {
            assert_eq!(shown(how, text), b"a red b c\n");
        }
        for how in [TERMINAL, PAGER] {
            assert_eq!(shown(how, text), [text, &b"\x1b[0m\n"[..]].concat());
            assert_eq!(shown(how, b"\x1b[31mred\x1b[0m\n"), b"\x1b[31mred\x1b[0m\n");
            assert_eq!(shown(how, b"\x1b[31mred\x1b[0;1m\n"), b"\x1b[31mred\x1b[0;1m\x1b[0m\n");
        }
    }

    #[test]
    fn other_sequences_do_nothing() {
        let text = b"\x1b]0;title\x07a\x1b[2Jb\x1b(Bc\x1bP1\x1b\\d\x1b[?25le\x1b[>4;2mf";
        assert_eq!(shown(FILE, text), b"abcdef\n");
        let visible = "␛]0;title␇a␛[2Jb␛(Bc␛P1␛\\d␛[?25le␛[>4;2mf\n";
        assert_eq!(String::from_utf8(shown(TERMINAL, text)).expect("text"), visible);
        // What does not end is no sequence.
        assert_eq!(shown(FILE, b"a\x1b[3\nb\x1b]0;c\nd\x1b"), b"a[3\nb]0;c\nd\n");
        assert_eq!(shown(DULL, b"\x08\rx\r\n\0\xc2\x9bm"), "␈␍x\r\n␀\u{fffd}m\n".as_bytes());
        assert_eq!(shown(FILE, b"\x08\rx\r\n\0\xc2\x9bm"), b"\x08\rx\r\n\0\xc2\x9bm\n");
    }

    proptest! {
        #[test]
        fn no_bytes_leave_escapes_where_there_are_no_colours(text in "[\\x1b\\[\\]0-9;mP\\\\\\x07\n a]*") {
            for how in [FILE, DULL] {
                prop_assert!(!shown(how, text.as_bytes()).contains(&ESCAPE));
            }
        }

        #[test]
        fn any_bytes_are_shown(text: Vec<u8>) {
            for how in [FILE, TERMINAL, DULL, PAGER] {
                shown(how, &text);
            }
        }
    }
}
