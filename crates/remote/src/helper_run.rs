//! One run of a credential helper: a command that is bounded in time and in what it prints.
//!
//! Its own end counts, not that of children which keep its output open; with it its process group ends, as it does where the
//! run is given up. It does not know what an answer looks like.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, Command};

/// A helper that takes longer is killed.
const PATIENCE: Duration = Duration::from_secs(10);
/// A wait as long as this is worth a line.
const WORTH_A_LINE: Duration = Duration::from_secs(2);
/// Larger answers are none; tokens have a few KiB.
const LARGEST_ANSWER: usize = 256 << 10;
/// Bytes read at a time.
const PIECE: usize = 8 << 10;

/// Why a helper gave no answer, as the end of a sentence.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HelperError {
    #[error("cannot be run: {0}")]
    NotRun(io::Error),
    #[error("cannot be read: {0}")]
    Unreadable(io::Error),
    #[error("has no output")]
    NoOutput,
    #[error("printed more than {} KiB", LARGEST_ANSWER >> 10)]
    TooLong,
    #[error("gave no answer for {} s", PATIENCE.as_secs())]
    Silent,
}

/// What a helper printed before its end.
pub(crate) struct Printed {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
}

/// Runs `program get` with a request as its input. `say` is told of a helper that is slow.
///
/// # Errors
/// A [`HelperError`]; a helper that fails is none.
pub(crate) async fn run(program: &str, request: &str, say: &(dyn Fn(String) + Sync)) -> Result<Printed, HelperError> {
    let mut answer = std::pin::pin!(ask(program, request));
    match tokio::time::timeout(WORTH_A_LINE, &mut answer).await {
        Ok(answer) => return answer,
        Err(_) => say(format!("waiting for the credential helper `{program}`, at most {} s", PATIENCE.as_secs())),
    }
    match tokio::time::timeout(PATIENCE.saturating_sub(WORTH_A_LINE), answer).await {
        Ok(answer) => answer,
        Err(_) => Err(HelperError::Silent),
    }
}

async fn ask(program: &str, request: &str) -> Result<Printed, HelperError> {
    let mut command = Command::new(program);
    command.arg("get").kill_on_drop(true).process_group(0);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(HelperError::NotRun)?;
    // Dropped before the child: where the run is given up, nobody has waited for it and its group is certainly its own.
    let group = Group::of(&child).map_err(HelperError::NotRun)?;
    if let Some(mut stdin) = child.stdin.take() {
        // A helper that does not want to know the request may have closed its input.
        let _ = stdin.write_all(request.as_bytes()).await;
    }
    let printed = read_until_end(&mut child).await?;
    drop(group);
    Ok(printed)
}

/// What the helper prints until it ends.
async fn read_until_end(child: &mut Child) -> Result<Printed, HelperError> {
    let broken = HelperError::Unreadable;
    let (Some(out), Some(err)) = (child.stdout.take(), child.stderr.take()) else {
        return Err(HelperError::NoOutput);
    };
    let (mut out, mut err) = (Stream::new(out), Stream::new(err));
    let status = loop {
        tokio::select! {
            biased;
            ended = child.wait() => break ended.map_err(broken)?,
            read = out.read(), if !out.is_over => read.map_err(broken)?,
            read = err.read(), if !err.is_over => read.map_err(broken)?,
        }
        check_size(&out, &err)?;
    };
    // What lies in the pipes belongs to the answer; who else could still write is not waited for.
    out.drain().map_err(broken)?;
    err.drain().map_err(broken)?;
    check_size(&out, &err)?;
    Ok(Printed { status, stdout: out.text, stderr: err.text })
}

fn check_size<R, S>(out: &Stream<R>, err: &Stream<S>) -> Result<(), HelperError> {
    let is_long = out.text.len().max(err.text.len()) > LARGEST_ANSWER;
    if is_long { Err(HelperError::TooLong) } else { Ok(()) }
}

/// The processes of a helper, which do not outlive this.
struct Group(Pid);

impl Group {
    fn of(child: &Child) -> io::Result<Self> {
        let pid = child.id().and_then(|pid| Pid::from_raw(pid.cast_signed()));
        pid.map(Self).ok_or_else(|| io::Error::other("it has no process id"))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Fails where nothing of it lives any more. Its number is nobody else's until then, and not the next one to be given.
        let _ = kill_process_group(self.0, Signal::KILL);
    }
}

/// One of a helper's outputs.
struct Stream<R> {
    from: R,
    text: Vec<u8>,
    is_over: bool,
}

impl<R> Stream<R> {
    fn new(from: R) -> Self {
        Self { from, text: Vec::new(), is_over: false }
    }
}

impl<R: AsyncRead + AsFd + Unpin> Stream<R> {
    async fn read(&mut self) -> io::Result<()> {
        self.text.reserve(PIECE);
        self.is_over = self.from.read_buf(&mut self.text).await? == 0;
        Ok(())
    }

    /// Takes what is there, without waiting.
    fn drain(&mut self) -> io::Result<()> {
        let mut piece = [0; PIECE];
        while !self.is_over && self.text.len() <= LARGEST_ANSWER {
            match read_now(self.from.as_fd(), &mut piece)? {
                None => break,
                Some(length) => {
                    self.text.extend_from_slice(&piece[..length]);
                    self.is_over = length == 0;
                }
            }
        }
        Ok(())
    }
}

/// Reads a descriptor that does not block; `None` where nothing is there.
fn read_now(from: BorrowedFd<'_>, to: &mut [u8]) -> io::Result<Option<usize>> {
    match rustix::io::retry_on_intr(|| rustix::io::read(from, &mut *to)) {
        Err(rustix::io::Errno::AGAIN) => Ok(None),
        read => Ok(Some(read?)),
    }
}
