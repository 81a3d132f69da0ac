//! The output of a test that runs: whole lines of two streams as they come.
//!
//! It knows neither the terminal nor the test.

use crate::tool_output::{ToolOutput, end_lines};

/// A longer line is shown in parts.
const LONGEST_LINE: usize = 64 << 10;

/// What of a test's output was not shown yet.
#[derive(Debug, Default)]
pub struct TestStream {
    /// Begun lines of standard output and error.
    begun: [Vec<u8>; 2],
    /// Of the last line: the next one goes on with them, but nothing in between has them.
    colours: Vec<u8>,
}

impl TestStream {
    /// Takes a piece of a stream; gives what is to be shown now.
    pub fn take(&mut self, stream: usize, text: &[u8], how: ToolOutput) -> Vec<u8> {
        let begun = &mut self.begun[stream.min(1)];
        begun.extend_from_slice(text);
        let end = begun.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
        let end = if begun.len() - end > LONGEST_LINE { begun.len() } else { end };
        let lines: Vec<u8> = begun.drain(..end).collect();
        self.show(&lines, how)
    }

    fn show(&mut self, lines: &[u8], how: ToolOutput) -> Vec<u8> {
        if lines.is_empty() {
            return Vec::new();
        }
        let mut shown = self.colours.clone();
        how.append(lines, &mut self.colours, &mut shown);
        end_lines(&self.colours, &mut shown);
        shown
    }

    /// The lines that were not ended.
    pub fn end(mut self, how: ToolOutput) -> Vec<u8> {
        let begun = std::mem::take(&mut self.begun);
        begun.iter().flat_map(|text| self.show(text, how)).collect()
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
        assert_eq!(stream.end(HOW), b"three\n\x1b[31mr\x1b[0m\n");
    }

    #[test]
    fn endless_line_takes_no_memory() {
        let mut stream = TestStream::default();
        let shown = (0..100).flat_map(|_| stream.take(0, &[b'x'; 10_000], HOW)).filter(|&byte| byte == b'x').count();
        assert!(stream.begun[0].len() <= LONGEST_LINE && shown + stream.begun[0].len() == 1_000_000);
    }

    #[test]
    fn colours_go_on_in_the_next_line_and_not_in_between() {
        let mut stream = TestStream::default();
        assert_eq!(stream.take(0, b"\x1b[31mred\n", HOW), b"\x1b[31mred\x1b[0m\n");
        assert_eq!(stream.take(0, b"too\n", HOW), b"\x1b[31mtoo\x1b[0m\n");
        assert_eq!(stream.take(0, b"\x1b[mplain\n", HOW), b"\x1b[31m\x1b[mplain\n");
        assert_eq!(stream.end(HOW), b"");
    }
}
