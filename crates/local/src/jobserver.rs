//! A GNU jobserver: tokens that minibuild's commands and what they start (`make`, `cargo`, `gcc -flto`) share, so that
//! together they are never more than `--jobs`. Served by the build, or joined where a `make` above offers one.
//!
//! The protocol is that of GNU make's manual, "POSIX Jobserver Interaction": a byte in a pipe is a place, each participant has one
//! more of its own. It does not know who runs when.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::sys::stat::Mode;
use rustix::fs::OFlags;

const TOKEN: u8 = b'+';
/// Its options in `MAKEFLAGS`; the second is that of GNU make before 4.2.
const OPTIONS: [&str; 2] = ["--jobserver-auth=", "--jobserver-fds="];

/// A pool of tokens.
#[derive(Debug)]
pub struct Jobserver {
    reader: File,
    writer: File,
    /// Where others open it for reading, and for writing.
    ends: (PathBuf, PathBuf),
    is_fifo: bool,
    /// What is in it while nothing runs; `None` where it is somebody else's.
    size: Option<usize>,
    jobs: usize,
}

impl Jobserver {
    /// A new one at `path`, for `jobs` commands at once.
    ///
    /// # Errors
    /// Those of the operating system.
    pub fn serve(path: &Path, jobs: usize) -> io::Result<Self> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => nix::unistd::mkfifo(path, Mode::S_IRUSR | Mode::S_IWUSR)?,
        }
        let ends = (path.to_owned(), path.to_owned());
        let server = Self::open(ends, true, Some(jobs.saturating_sub(1)), jobs)?;
        server.refill();
        Ok(server)
    }

    /// The one of a `make` above, if `makeflags` (the variable's value) names one that is really there.
    pub fn join(makeflags: &str, jobs: usize) -> Option<Self> {
        let ends = match offered(makeflags)? {
            Offer::Fifo(path) => (path.clone(), path),
            Offer::Descriptors(read, write) => (of_this_process(read), of_this_process(write)),
        };
        let is_fifo = ends.0 == ends.1 && !ends.0.starts_with("/proc");
        let is_pipe = |path: &Path| std::fs::metadata(path).is_ok_and(|seen| seen.file_type().is_fifo());
        // Descriptors that were closed, or stand for something else by now, are what a `make` without `+` leaves.
        (is_pipe(&ends.0) && is_pipe(&ends.1)).then(|| Self::open(ends, is_fifo, None, jobs).ok())?
    }

    fn open(ends: (PathBuf, PathBuf), is_fifo: bool, size: Option<usize>, jobs: usize) -> io::Result<Self> {
        // Opened anew, so that it does not block while others' descriptors do. A fifo needs a writer to be opened.
        let reader = OpenOptions::new().read(true).write(is_fifo).custom_flags(nix::libc::O_NONBLOCK).open(&ends.0)?;
        // A pipe takes 64 KiB, and 4 KiB where its owner has many. A write that waits for room would wait for ever.
        let writer = OpenOptions::new().read(is_fifo).write(true).custom_flags(nix::libc::O_NONBLOCK).open(&ends.1)?;
        Ok(Self { reader, writer, ends, is_fifo, size, jobs })
    }

    /// Takes a token, if there is one.
    pub(crate) fn take(&self) -> Option<u8> {
        let mut token = [0];
        let taken = (&self.reader).read(&mut token);
        (taken.ok() == Some(1)).then_some(token[0])
    }

    /// Gives it back.
    pub(crate) fn give_back(&self, token: u8) {
        // A pipe that takes no byte any more has no reader, or more tokens than anyone could use.
        let _ = (&self.writer).write(&[token]);
    }

    /// Nothing runs: what a command that was killed kept is replaced, what it made up is gone.
    pub(crate) fn refill(&self) {
        let Some(size) = self.size else { return };
        while self.take().is_some() {}
        self.fill(size);
    }

    /// Puts in as many tokens as fit.
    fn fill(&self, size: usize) {
        let tokens = [TOKEN; 4096];
        let (mut missing, mut piece) = (size, tokens.len());
        while missing > 0 {
            match (&self.writer).write(&tokens[..missing.min(piece)]) {
                Ok(written) => missing -= written,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // A short write is done as a whole or not at all; the last bytes of room take shorter ones.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && piece > 1 => piece /= 2,
                Err(_) => return,
            }
        }
    }

    /// Becomes readable when there is a token.
    pub(crate) fn readiness(&self) -> BorrowedFd<'_> {
        self.reader.as_fd()
    }

    /// Arguments for [`Seat::open`] in a helper.
    pub(crate) fn describe(&self) -> [String; 4] {
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let kind = if self.is_fifo { "fifo" } else { "pipe" };
        [text(&self.ends.0), text(&self.ends.1), kind.to_owned(), self.jobs.to_string()]
    }
}

/// A helper's descriptors of a jobserver, which its commands inherit.
#[derive(Debug)]
pub(crate) struct Seat {
    /// Kept for what they are to the commands.
    _ends: [OwnedFd; 2],
    makeflags: String,
}

impl Seat {
    /// From what [`Jobserver::describe`] says.
    ///
    /// # Errors
    /// Those of the operating system.
    pub(crate) fn open(read: &str, write: &str, kind: &str, jobs: &str) -> io::Result<Self> {
        let is_fifo = kind == "fifo";
        // Without close-on-exec, which the standard library always asks for. A fifo needs a writer to be opened.
        let open = |path, flags| rustix::fs::open(path, flags, rustix::fs::Mode::empty());
        let (to_read, to_write) = if is_fifo { (OFlags::RDWR, OFlags::RDWR) } else { (OFlags::RDONLY, OFlags::WRONLY) };
        let ends = [open(read, to_read)?, open(write, to_write)?];
        let [r, w] = ends.each_ref().map(AsRawFd::as_raw_fd);
        // The last one counts for GNU make, and those before 4.4 know no fifo.
        let by_name = is_fifo && !read.contains(char::is_whitespace);
        let fifo = if by_name { format!(" --jobserver-auth=fifo:{read}") } else { String::new() };
        Ok(Self { _ends: ends, makeflags: format!(" -j{jobs}{fifo} --jobserver-auth={r},{w}") })
    }

    /// The value of `MAKEFLAGS`.
    pub(crate) fn makeflags(&self) -> &str {
        &self.makeflags
    }
}

fn of_this_process(fd: i32) -> PathBuf {
    format!("/proc/{}/fd/{fd}", std::process::id()).into()
}

#[derive(Debug, PartialEq, Eq)]
enum Offer {
    Fifo(PathBuf),
    Descriptors(i32, i32),
}

/// What `MAKEFLAGS` names; the last one counts. Variables of a command line follow after `--`.
fn offered(makeflags: &str) -> Option<Offer> {
    let words = makeflags.split_whitespace().take_while(|word| *word != "--");
    let value = words.filter_map(|word| OPTIONS.iter().find_map(|option| word.strip_prefix(option))).last()?;
    if let Some(path) = value.strip_prefix("fifo:") {
        return Some(Offer::Fifo(path.into()));
    }
    let (read, write) = value.split_once(',')?;
    let number = |text: &str| text.parse().ok().filter(|fd: &i32| *fd >= 0);
    Some(Offer::Descriptors(number(read)?, number(write)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(server: &Jobserver) -> usize {
        let tokens: Vec<u8> = std::iter::from_fn(|| server.take()).collect();
        tokens.iter().for_each(|&token| server.give_back(token));
        tokens.len()
    }

    #[test]
    fn one_token_less_than_jobs_and_lost_or_invented_ones_are_made_good() {
        let dir = tempfile::tempdir().expect("temporary directory");
        for jobs in [0, 1, 2, 8] {
            let server = Jobserver::serve(&dir.path().join("js"), jobs).expect("served");
            let size = jobs.saturating_sub(1);
            assert_eq!(count(&server), size);
            let _ = server.take();
            server.refill();
            assert_eq!(count(&server), size, "a lost one");
            (0..5).for_each(|_| server.give_back(TOKEN));
            server.refill();
            assert_eq!(count(&server), size, "invented ones");
        }
    }

    #[test]
    fn more_tokens_than_the_pipe_takes_fill_it_and_do_not_block() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let server = Jobserver::serve(&dir.path().join("js"), 1_000_000).expect("served");
        let capacity = nix::fcntl::fcntl(&server.writer, nix::fcntl::FcntlArg::F_GETPIPE_SZ).expect("a pipe");
        let taken = std::iter::from_fn(|| server.take()).count();
        assert_eq!(taken, usize::try_from(capacity).expect("a size"));
        server.refill();
        server.give_back(TOKEN);
        assert_eq!(std::iter::from_fn(|| server.take()).count(), taken);
    }

    #[test]
    fn the_one_of_a_make_above_is_joined_by_name_or_descriptors() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("js");
        let above = Jobserver::serve(&path, 3).expect("served");
        let joined =
            Jobserver::join(&format!(" -j3 --jobserver-auth=fifo:{} -- X=1", path.display()), 8).expect("there");
        let token = joined.take().expect("a token");
        assert_eq!(count(&above), 1);
        joined.give_back(token);
        joined.refill();
        assert_eq!(count(&above), 2, "not ours to fill");
        let (read, write) = nix::unistd::pipe().expect("a pipe");
        nix::unistd::write(&write, b"x").expect("written");
        let flags = format!("k --jobserver-auth={},{}", read.as_raw_fd(), write.as_raw_fd());
        let joined = Jobserver::join(&flags, 8).expect("there");
        assert_eq!((joined.take(), joined.take()), (Some(b'x'), None), "it does not block");
        joined.give_back(b'x');
        assert_eq!(count(&joined), 1);
    }

    #[test]
    fn what_is_not_there_is_not_joined() {
        let file = tempfile::tempfile().expect("a file");
        let no_pipe = format!("--jobserver-auth={0},{0}", file.as_raw_fd());
        for flags in
            ["", "-j4", "--jobserver-auth=", "--jobserver-auth=fifo:/no/such", "--jobserver-auth=-2,-2", &no_pipe]
        {
            assert!(Jobserver::join(flags, 2).is_none(), "{flags}");
        }
        assert_eq!(offered("--jobserver-fds=3,4"), Some(Offer::Descriptors(3, 4)));
        assert_eq!(offered("--jobserver-fds=3,4 --jobserver-auth=fifo:/x"), Some(Offer::Fifo("/x".into())));
        assert_eq!(offered("-- --jobserver-fds=3,4"), None);
    }

    #[test]
    fn a_seat_names_both_ways() {
        let dir = tempfile::tempdir().expect("temporary directory");
        for (name, is_named) in [("js", true), ("a b", false)] {
            let server = Jobserver::serve(&dir.path().join(name), 4).expect("served");
            let [read, write, kind, jobs] = server.describe();
            let seat = Seat::open(&read, &write, &kind, &jobs).expect("opened");
            let flags = seat.makeflags();
            assert!(flags.starts_with(" -j4 ") && flags.contains("fifo:") == is_named, "{flags}");
            assert!(matches!(offered(flags), Some(Offer::Descriptors(..))), "{flags}");
        }
    }
}
