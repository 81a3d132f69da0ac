//! The output of a test that runs: whole lines of two streams as they come.
//!
//! It knows neither the terminal nor the test.

use crate::tool_output::{RESET, ToolOutput};

/// A longer line is shown in parts.
const LONGEST_LINE: usize = 64 << 10;

/// What of a test's output was not shown yet.
#[derive(Debug, Default)]
pub struct TestStream {
    /// Begun lines of standard output and error.
    begun: [Vec<u8>; 2],
    is_coloured: bool,
}

impl TestStream {
    /// Takes a piece of a stream; gives what is to be shown now.
    pub fn take(&mut self, stream: usize, text: &[u8], how: ToolOutput) -> Vec<u8> {
        let begun = &mut self.begun[stream.min(1)];
        begun.extend_from_slice(text);
        let end = begun.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
        let end = if begun.len() - end > LONGEST_LINE { begun.len() } else { end };
        let lines: Vec<u8> = begun.drain(..end).collect();
        let mut shown = Vec::new();
        if !lines.is_empty() {
            self.is_coloured |= how.append(&lines, &mut shown);
        }
        shown
    }

    /// The lines that were not ended, and the end of colours.
    pub fn end(self, how: ToolOutput) -> Vec<u8> {
        let mut shown = Vec::new();
        let mut is_coloured = self.is_coloured;
        for text in self.begun.iter().filter(|text| !text.is_empty()) {
            is_coloured |= how.append(text, &mut shown);
            shown.push(b'\n');
        }
        if is_coloured {
            shown.extend_from_slice(RESET);
        }
        shown
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOW: ToolOutput = ToolOutput { colour: true, is_terminal: false };

    #[test]
    fn lines_are_shown_when_they_are_whole() {
        let mut stream = TestStream::default();
        assert_eq!(stream.take(0, b"one\ntw", HOW), b"one\n");
        assert_eq!(stream.take(1, b"error", HOW), b"");
        assert_eq!(stream.take(0, b"o\n", HOW), b"two\n");
        assert_eq!(stream.take(1, b"s\n\x1b[31mr", HOW), b"errors\n");
        assert_eq!(stream.take(0, b"three", HOW), b"");
        assert_eq!(stream.end(HOW), b"three\n\x1b[31mr\n\x1b[0m");
    }

    #[test]
    fn endless_line_takes_no_memory_and_colours_end() {
        let mut stream = TestStream::default();
        let shown: usize = (0..100).map(|_| stream.take(0, &[b'x'; 10_000], HOW).len()).sum();
        assert!(stream.begun[0].len() <= LONGEST_LINE && shown + stream.begun[0].len() == 1_000_000);
        let mut stream = TestStream::default();
        assert_eq!(stream.take(0, b"\x1b[31mred\n", HOW), b"\x1b[31mred\n");
        assert_eq!(stream.end(HOW), b"\x1b[0m");
    }
}
