//! What the main process and its helpers say to each other: commands as messages in a queue, all else as length-prefixed postcard
//! frames on a socket pair.
//!
//! It does not know what either side does with a message.

use std::io::{self, Read, Write};
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::{Path, PathBuf};

use minibuild_core::{RunCost, StopReason};
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// To the helper, beside its queue.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum ToSlot {
    /// After a command that did not succeed: take the next one.
    GoOn,
    /// End the run with this number, if it is still on.
    Stop { seq: u64, reason: StopReason },
}

/// A command with everything the helper needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RunCommand {
    pub(crate) seq: u64,
    /// Program and arguments, a NUL character after each.
    pub(crate) argv: String,
    /// Variables as `NAME=VALUE`, a NUL character after each.
    pub(crate) env: String,
    pub(crate) timeout_ms: Option<u64>,
    /// Where it runs. Where none is given it is the workspace, and the command gets a `TMPDIR` of the helper's. A helper is
    /// either always told or never.
    pub(crate) cwd: Option<String>,
}

/// A command on its way through a queue. One that is too long for that lies in a file, which goes with this.
#[derive(Debug)]
pub(crate) struct Parcel {
    bytes: Vec<u8>,
    file: Option<PathBuf>,
}

/// Far less than what a socket takes at once.
const LONGEST_MESSAGE: usize = 64 << 10;
/// A message begins with a byte made of what follows here, and the number of the run.
const HEADER: usize = 1 + size_of::<u64>();
const RINGS: u8 = 1;
const IN_FILE: u8 = 2;

impl Parcel {
    /// Packs a command; `file` is where it goes if it is long.
    ///
    /// # Errors
    /// Where the file cannot be written.
    pub(crate) fn new(command: &RunCommand, file: impl FnOnce() -> PathBuf) -> io::Result<Self> {
        let header = [&[0], &command.seq.to_le_bytes()[..]].concat();
        let bytes = postcard::to_extend(command, header.clone()).map_err(io::Error::other)?;
        if bytes.len() <= LONGEST_MESSAGE {
            return Ok(Self { bytes, file: None });
        }
        let file = file();
        let name = file.to_str().ok_or_else(|| io::Error::other("the directory is not UTF-8"))?;
        let mut parcel = Self { bytes: [&header, name.as_bytes()].concat(), file: Some(file.clone()) };
        parcel.bytes[0] = IN_FILE;
        // What a build that was killed left under this name is not followed, wherever it leads.
        match std::fs::remove_file(&file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => std::fs::File::create_new(&file)?.write_all(&bytes[HEADER..])?,
        }
        Ok(parcel)
    }

    /// Lays it into a queue; who takes it is to ring the bell, or not. False where the queue is full.
    ///
    /// # Errors
    /// Where it takes nothing, now or later.
    pub(crate) fn lay(&self, queue: BorrowedFd<'_>, rings: bool) -> io::Result<bool> {
        let rings = [self.bytes[0] | if rings { RINGS } else { 0 }];
        let parts = [io::IoSlice::new(&rings), io::IoSlice::new(&self.bytes[1..])];
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        loop {
            match nix::sys::socket::sendmsg::<()>(queue.as_raw_fd(), &parts, &[], flags, None) {
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Ok(false),
                laid => return laid.map(|_| true).map_err(Into::into),
            }
        }
    }
}

impl Drop for Parcel {
    fn drop(&mut self) {
        if let Some(file) = &self.file {
            // Nobody comes upon what is left of it but the next build, which cleans up.
            let _ = std::fs::remove_file(file);
        }
    }
}

/// What came out of a queue.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    /// A command, and whether to ring the bell.
    Command(RunCommand, bool),
    /// There is none for now.
    Nothing,
    /// Nothing comes any more.
    End,
}

/// The reading end of a queue of parcels.
pub(crate) struct QueueReader(Vec<u8>);

impl QueueReader {
    pub(crate) fn new() -> Self {
        Self(vec![0; LONGEST_MESSAGE])
    }

    /// Takes the next command; waits for it where `waits`.
    ///
    /// # Errors
    /// Those of the operating system, and what is no command.
    pub(crate) fn take(&mut self, queue: BorrowedFd<'_>, waits: bool) -> io::Result<Taken> {
        let flags = if waits { MsgFlags::empty() } else { MsgFlags::MSG_DONTWAIT };
        let length = loop {
            match recv(queue.as_raw_fd(), &mut self.0, flags) {
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Ok(Taken::Nothing),
                Err(Errno::ECONNRESET) => return Ok(Taken::End),
                got => break got?,
            }
        };
        if length == 0 {
            return Ok(Taken::End);
        }
        let Some((&[kind, ..], rest)) = self.0[..length].split_first_chunk::<HEADER>() else {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a message without a header"));
        };
        let invalid = |error| io::Error::new(io::ErrorKind::InvalidData, error);
        let command = if kind & IN_FILE == 0 {
            postcard::from_bytes(rest).map_err(invalid)?
        } else {
            let path = std::str::from_utf8(rest).map_err(io::Error::other)?;
            postcard::from_bytes(&std::fs::read(Path::new(path))?).map_err(invalid)?
        };
        Ok(Taken::Command(command, kind & RINGS != 0))
    }
}

/// Takes the next command of a queue back, without waiting, and gives its number. For who laid it there.
pub(crate) fn take_back(queue: BorrowedFd<'_>) -> Option<u64> {
    let mut header = [0; HEADER];
    let length = recv(queue.as_raw_fd(), &mut header, MsgFlags::MSG_DONTWAIT).ok()?;
    let (_, seq) = header[..length].split_first()?;
    Some(u64::from_le_bytes(seq.try_into().ok()?))
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
    /// Bytes it wrote to its standard output and error: those of the files `out.SEQ` and `err.SEQ`, which are there where
    /// there is something in them.
    pub(crate) stdout_len: u64,
    pub(crate) stderr_len: u64,
    /// It left something in its directory for temporary files, which is `tmp.SEQ` now.
    pub(crate) left_files: bool,
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
    let mut frame = vec![0; 4];
    frame = postcard::to_extend(message, frame).map_err(io::Error::other)?;
    let length = u32::try_from(frame.len() - 4).ok().filter(|length| *length <= MAX_FRAME);
    let length = length.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "message too long"))?;
    frame[..4].copy_from_slice(&length.to_le_bytes());
    to.write_all(&frame)
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
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
    use proptest::prelude::*;
    use std::os::fd::{AsFd, OwnedFd};

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

    fn queue() -> (OwnedFd, OwnedFd) {
        let kind = SockType::SeqPacket;
        socketpair(AddressFamily::Unix, kind, None, SockFlag::SOCK_CLOEXEC).expect("a socket pair")
    }

    #[test]
    fn what_was_not_taken_can_be_taken_back_by_number() {
        let (writing, reading) = queue();
        let command = |seq| RunCommand { seq, argv: "a\0".into(), env: String::new(), timeout_ms: None, cwd: None };
        for seq in 1..4 {
            let parcel = Parcel::new(&command(seq), || unreachable!("short")).expect("packed");
            assert!(parcel.lay(writing.as_fd(), false).expect("open"));
        }
        let mut reader = QueueReader::new();
        assert_eq!(reader.take(reading.as_fd(), true).expect("taken"), Taken::Command(command(1), false));
        assert_eq!([(); 3].map(|()| take_back(reading.as_fd())), [Some(2), Some(3), None]);
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
            seqs in proptest::collection::vec(any::<u64>(), 0..4),
            piece in prop_oneof![Just(1), 1_usize..40, Just(usize::MAX)],
        ) {
            let mut bytes = Vec::new();
            let sent: Vec<ToSlot> =
                seqs.into_iter().map(|seq| ToSlot::Stop { seq, reason: StopReason::LostRace }).collect();
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
        fn commands_of_any_length_come_through_a_queue(commands in proptest::collection::vec(command(), 1..4), long: bool) {
            let dir = tempfile::tempdir().expect("temp dir");
            let (writing, reading) = queue();
            let mut commands = commands;
            if long {
                commands[0].argv = "x".repeat(3 * LONGEST_MESSAGE);
            }
            let at = |seq: u64| dir.path().join(seq.to_string());
            let parcels: Vec<Parcel> =
                commands.iter().map(|command| Parcel::new(command, || at(command.seq)).expect("packed")).collect();
            prop_assert!(parcels.iter().all(|parcel| parcel.lay(writing.as_fd(), false).expect("open")));
            let mut reader = QueueReader::new();
            for command in commands {
                let taken = reader.take(reading.as_fd(), true).expect("taken");
                prop_assert_eq!(taken, Taken::Command(command, false));
            }
            prop_assert_eq!(reader.take(reading.as_fd(), false).expect("empty"), Taken::Nothing);
            prop_assert!(parcels[0].lay(writing.as_fd(), true).expect("open"));
            prop_assert!(matches!(reader.take(reading.as_fd(), false), Ok(Taken::Command(_, true))));
            drop((parcels, writing));
            prop_assert_eq!(reader.take(reading.as_fd(), true).expect("the end"), Taken::End);
            prop_assert_eq!(std::fs::read_dir(dir.path()).expect("lists").count(), 0);
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
