//! What a slot's thread and its helper process say to each other: length-prefixed postcard frames on a socket pair.
//!
//! It does not know what either side does with a message.

use std::io::{self, Read, Write};
use std::ops::Range;

use minibuild_core::{RunCost, StopReason};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// To the helper.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum ToSlot {
    /// Run this command; sent only while none runs.
    Run(RunCommand),
    /// Report this run as stopped for that reason: it is not to be started. Sent instead of [`ToSlot::Run`].
    Skip { seq: u64, reason: StopReason },
    /// End the run with this number, if it is still on.
    Stop { seq: u64, reason: StopReason },
}

/// A command with everything the helper needs.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RunCommand {
    pub(crate) seq: u64,
    /// Program and arguments, a NUL character after each.
    pub(crate) argv: String,
    /// Variables as `NAME=VALUE`, a NUL character after each.
    pub(crate) env: String,
    pub(crate) timeout_ms: Option<u64>,
    /// Where it runs; the workspace where none is given. A helper is either always told or never.
    pub(crate) cwd: Option<String>,
}

/// From the helper. There is no word of the start: it would wake the other side once more for every command, and a
/// command that cannot be started is told at once.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum FromSlot {
    /// A line for the user.
    Notice { seq: u64, text: String },
    /// The command and all it started are gone (except after [`End::Stuck`]).
    Ended { seq: u64, outcome: Outcome },
}

/// How a run ended, with what is known of it.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Outcome {
    pub(crate) end: End,
    /// Descendants that had to be killed.
    pub(crate) killed: Vec<String>,
    pub(crate) cost: RunCost,
    /// Sizes of the log files.
    pub(crate) stdout_len: u64,
    pub(crate) stderr_len: u64,
}

/// The end itself.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum End {
    Exited(i32),
    Signalled(i32),
    TimedOut,
    Stopped(StopReason),
    NotStarted(String),
    /// The helper cannot go on; nothing was started or everything is dead.
    Broken(String),
    /// Some process cannot be killed; the helper keeps trying and must not be used again.
    Stuck(String),
}

/// Larger frames are a sign of a broken stream.
const MAX_FRAME: u32 = 1 << 30;

/// Sends one message.
pub(crate) fn write_frame(to: &mut impl Write, message: &impl Serialize) -> io::Result<()> {
    to.write_all(&frame(message)?)
}

/// The bytes of one message.
pub(crate) fn frame(message: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut frame = vec![0; 4];
    frame = postcard::to_extend(message, frame).map_err(io::Error::other)?;
    let length = u32::try_from(frame.len() - 4).ok().filter(|length| *length <= MAX_FRAME);
    let length = length.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "message too long"))?;
    frame[..4].copy_from_slice(&length.to_le_bytes());
    Ok(frame)
}

/// Takes frames off a socket. What is there is read in one call: a frame that has come whole costs one.
#[derive(Default)]
pub(crate) struct FrameReader {
    buffer: Vec<u8>,
    /// Where in the buffer the next frame begins.
    start: usize,
}

impl FrameReader {
    /// Bytes asked for at a time; most frames are shorter.
    const PIECE: usize = 4096;
    /// Nothing larger is reserved on the word of four bytes.
    const LARGEST_PIECE: usize = 1 << 20;

    /// Whether bytes of a frame were read already, so that the socket may stay silent although there is a message.
    pub(crate) fn has_begun(&self) -> bool {
        self.start < self.buffer.len()
    }

    /// Waits for one message; `None` where the other side is gone.
    pub(crate) fn read<T: DeserializeOwned>(&mut self, from: &mut impl Read) -> io::Result<Option<T>> {
        loop {
            let missing = match self.split()? {
                Ok(body) => {
                    let message = postcard::from_bytes(&self.buffer[body.clone()]);
                    self.start = body.end;
                    return message.map(Some).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e));
                }
                Err(missing) => missing,
            };
            if !self.fill(missing, from)? {
                return Ok(None);
            }
        }
    }

    /// Where the body of the next frame lies, or how many bytes are missing at least.
    fn split(&self) -> io::Result<Result<Range<usize>, usize>> {
        let here = &self.buffer[self.start..];
        let Some((length, body)) = here.split_first_chunk::<4>() else { return Ok(Err(4 - here.len())) };
        let length = u32::from_le_bytes(*length);
        if length > MAX_FRAME {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "frame too long"));
        }
        let (length, begin) = (length as usize, self.start + 4);
        Ok(if body.len() < length { Err(length - body.len()) } else { Ok(begin..begin + length) })
    }

    /// Reads what is there; false where nothing comes any more.
    fn fill(&mut self, missing: usize, from: &mut impl Read) -> io::Result<bool> {
        self.buffer.drain(..self.start);
        self.start = 0;
        let filled = self.buffer.len();
        self.buffer.resize(filled + missing.clamp(Self::PIECE, Self::LARGEST_PIECE), 0);
        let got = loop {
            match from.read(&mut self.buffer[filled..]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if is_gone(&error) => break Ok(0),
                got => break got,
            }
        };
        self.buffer.truncate(filled + *got.as_ref().unwrap_or(&0));
        got.map(|got| got > 0)
    }
}

fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn command() -> impl Strategy<Value = RunCommand> {
        let rest = (any::<Option<u64>>(), any::<Option<String>>());
        (any::<u64>(), ".*", ".*", rest).prop_map(|(seq, argv, env, (timeout_ms, cwd))| RunCommand {
            seq,
            argv,
            env,
            timeout_ms,
            cwd,
        })
    }

    /// A socket that gives a few bytes at a time.
    struct Dribble<'a> {
        bytes: &'a [u8],
        piece: usize,
    }

    impl Read for Dribble<'_> {
        fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
            let some = to.len().min(self.piece);
            self.bytes.read(&mut to[..some])
        }
    }

    proptest! {
        #[test]
        fn messages_come_back_as_they_were_sent(
            commands in proptest::collection::vec(command(), 0..4),
            piece in prop_oneof![Just(1), 1_usize..40, Just(usize::MAX)],
        ) {
            let mut bytes = Vec::new();
            let sent: Vec<ToSlot> = commands.into_iter().map(ToSlot::Run).collect();
            for message in &sent {
                write_frame(&mut bytes, message).expect("written");
            }
            let mut reader = FrameReader::default();
            let mut from = Dribble { bytes: &bytes, piece };
            for message in &sent {
                let received = reader.read::<ToSlot>(&mut from).expect("read");
                prop_assert_eq!(received.as_ref(), Some(message));
            }
            prop_assert!(!reader.has_begun());
            prop_assert!(reader.read::<ToSlot>(&mut from).expect("end").is_none());
        }

        #[test]
        fn any_bytes_are_an_answer_not_a_panic(bytes: Vec<u8>) {
            let _ = FrameReader::default().read::<FromSlot>(&mut &bytes[..]);
        }
    }

    #[test]
    fn a_frame_cut_off_is_the_end() {
        let mut bytes = Vec::new();
        write_frame(&mut bytes, &ToSlot::Stop { seq: 7, reason: StopReason::Kill }).expect("written");
        for length in 0..bytes.len() {
            assert!(FrameReader::default().read::<ToSlot>(&mut &bytes[..length]).expect("no error").is_none());
        }
    }
}
