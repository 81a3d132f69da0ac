//! Excerpts of output that is too long to be shown, or to be kept in memory.

use std::io;

/// Output of one command that is longer is shown in part, and its whole is a file.
pub const LONGEST_OUTPUT: u64 = 10 << 20;
/// Bytes of its beginning, and of its end, that are in an excerpt.
const PART: usize = 256 << 10;

/// The first and the last part of a text of `length` bytes, cut between lines where there are any; all of a short one. `read`
/// fills a buffer from an offset on.
///
/// # Errors
/// Those of `read`.
pub fn excerpt(length: u64, read: impl Fn(&mut [u8], u64) -> io::Result<()>) -> io::Result<Vec<u8>> {
    let read_at = |offset: u64, length: usize| {
        let mut bytes = vec![0; length];
        read(&mut bytes, offset).map(|()| bytes)
    };
    let part = PART as u64;
    if length <= 2 * part {
        return read_at(0, usize::try_from(length).unwrap_or_default());
    }
    let mut text = read_at(0, PART)?;
    let end = read_at(length - part, PART)?;
    if let Some(at) = text.iter().rposition(|&byte| byte == b'\n') {
        text.truncate(at + 1);
    }
    let from = end.iter().position(|&byte| byte == b'\n').map_or(0, |at| at + 1);
    let shown = (text.len() + end.len() - from) as u64;
    if !text.ends_with(b"\n") {
        text.push(b'\n');
    }
    text.extend_from_slice(format!("({} bytes of output are left out here)\n", length - shown).as_bytes());
    text.extend_from_slice(&end[from..]);
    Ok(text)
}

/// The same of a text in memory.
pub fn excerpt_of(text: &[u8]) -> Vec<u8> {
    let read = |buffer: &mut [u8], offset: u64| {
        let from = usize::try_from(offset).unwrap_or(usize::MAX);
        let part = text.get(from..).and_then(|rest| rest.get(..buffer.len()));
        part.map(|part| buffer.copy_from_slice(part)).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    };
    excerpt(text.len() as u64, read).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_output_is_its_own_excerpt() {
        for text in [b"".to_vec(), b"one\ntwo".to_vec(), vec![0xff; 2 * PART]] {
            assert!(excerpt_of(&text) == text);
        }
    }

    #[test]
    fn long_output_loses_whole_lines_in_the_middle() {
        let line = b"0123456789\n";
        let text = line.repeat(PART);
        let found = excerpt_of(&text);
        let kept = PART / line.len();
        let note = format!("({} bytes of output are left out here)\n", (PART - 2 * kept) * line.len());
        assert!(found == [line.repeat(kept), note.into_bytes(), line.repeat(kept)].concat());
        // Without lines there is only the middle.
        let found = excerpt_of(&vec![b'x'; 3 * PART]);
        let note = format!("\n({PART} bytes of output are left out here)\n");
        assert!(found == [vec![b'x'; PART], note.into_bytes(), vec![b'x'; PART]].concat());
    }
}
