//! Excerpts of output that is too long to be kept in memory.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

/// Output of one command that is longer stays in its files.
pub(crate) const LONGEST_OUTPUT: u64 = 10 << 20;
/// Bytes of its beginning, and of its end, that are in an excerpt.
const PART: usize = 256 << 10;

/// The first and the last part of a file of `length` bytes, cut between lines where there are any; all of a short one.
pub(crate) fn excerpt(file: &File, length: u64) -> io::Result<Vec<u8>> {
    let part = PART as u64;
    if length <= 2 * part {
        return read_at(file, 0, usize::try_from(length).unwrap_or_default());
    }
    let mut text = read_at(file, 0, PART)?;
    let end = read_at(file, length - part, PART)?;
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

fn read_at(file: &File, offset: u64, length: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, offset)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn excerpt_of(text: &[u8]) -> Vec<u8> {
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(text).expect("written");
        excerpt(&file, text.len() as u64).expect("reads")
    }

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
