//! Writing from a thread of its own: a terminal, pipe or FIFO without a reader blocks that thread, and nothing else.
//!
//! What is written keeps its order. Who writes waits while too much is pending, but not once the invocation is to stop.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileTypeExt as _;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use minibuild_core::StopFlag;

/// Bytes that may be pending. Enough for a build to go on while its reader pauses over a page.
const MOST_PENDING: usize = 1 << 20;
/// Bytes handed to the system at a time.
const PIECE: usize = 64 << 10;
/// How often a writer that waits looks at the flag.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// After a stop: how long a reader that takes nothing is waited for, and how long one that is slow.
const LAST_WORDS: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(1));

/// Makes the target, which may wait: opening a FIFO waits for its reader.
type Open = Box<dyn FnOnce() -> io::Result<Box<dyn Write + Send>> + Send>;
type OnError = Box<dyn Fn(&io::Error) + Send>;

/// A writer whose target is written by a thread, which the first write starts. Clones write to the same target.
#[derive(Clone)]
pub struct BackgroundWriter(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    /// Something was written, or is to be written.
    news: Condvar,
    stop: StopFlag,
}

struct State {
    /// There until the first write.
    parts: Option<(Open, OnError)>,
    /// The target, where no thread could be started: then each write waits itself.
    direct: Option<Box<dyn Write + Send>>,
    pending: Vec<u8>,
    /// Bytes the thread has taken and not written.
    in_flight: usize,
    /// Counts what the thread has done.
    progress: u64,
    /// Why the target takes nothing any more.
    error: Option<String>,
}

impl BackgroundWriter {
    /// Of a target that `open` gives. `on_error` is told each failed write, from the writing thread.
    pub fn new(
        open: impl FnOnce() -> io::Result<Box<dyn Write + Send>> + Send + 'static,
        on_error: impl Fn(&io::Error) + Send + 'static,
        stop: StopFlag,
    ) -> Self {
        let parts: Option<(Open, OnError)> = Some((Box::new(open), Box::new(on_error)));
        let state = State { parts, direct: None, pending: Vec::new(), in_flight: 0, progress: 0, error: None };
        Self(Arc::new(Shared { state: Mutex::new(state), news: Condvar::new(), stop }))
    }

    /// Of standard error.
    pub fn stderr(on_error: impl Fn(&io::Error) + Send + 'static, stop: StopFlag) -> Self {
        let open = || {
            // A descriptor of its own: the thread would hold the lock of `std::io::Stderr` while it waits for a reader.
            let copy = std::os::fd::AsFd::as_fd(&io::stderr()).try_clone_to_owned();
            Ok(copy.map_or_else(|_| Box::new(io::stderr()) as Box<dyn Write + Send>, |fd| Box::new(File::from(fd))))
        };
        Self::new(open, on_error, stop)
    }

    /// Writes all of it, in pieces as there is room. Once the invocation is to stop, what does not fit is dropped.
    pub fn put(&self, mut bytes: &[u8]) {
        let mut state = self.0.lock();
        self.0.start(&mut state);
        if let Some(target) = &mut state.direct {
            return drop(target.write_all(bytes));
        }
        while !bytes.is_empty() && state.error.is_none() {
            let room = MOST_PENDING.saturating_sub(state.pending.len() + state.in_flight).min(bytes.len());
            let (now, later) = bytes.split_at(room);
            state.pending.extend_from_slice(now);
            bytes = later;
            self.0.news.notify_all();
            if !bytes.is_empty() {
                if self.0.stop.is_set() {
                    return;
                }
                state = self.0.wait(state);
            }
        }
    }

    /// Whether nothing is pending.
    pub fn is_idle(&self) -> bool {
        self.0.lock().is_idle()
    }

    /// Waits until everything is written or cannot be. After a stop only as long as there is hope that it will be: returns
    /// false where something is left.
    pub fn finish(&self) -> bool {
        let mut state = self.0.lock();
        let (mut since, mut before) = (Instant::now(), state.progress);
        let mut stopped_at = None;
        while !state.is_idle() && state.error.is_none() {
            if self.0.stop.is_set() {
                let now = Instant::now();
                let stopped_at = *stopped_at.get_or_insert_with(|| {
                    since = now;
                    now
                });
                if state.progress != before {
                    (since, before) = (now, state.progress);
                }
                if now - since >= LAST_WORDS.0 || now - stopped_at >= LAST_WORDS.1 {
                    return false;
                }
            }
            state = self.0.wait(state);
        }
        true
    }

    /// Why the target takes nothing any more.
    pub fn error(&self) -> Option<String> {
        self.0.lock().error.clone()
    }
}

impl std::fmt::Debug for BackgroundWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("BackgroundWriter")
    }
}

impl Write for BackgroundWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.put(bytes);
        self.error().map_or(Ok(bytes.len()), |error| Err(io::Error::other(error)))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A file that a flag names. What a reader has to empty – a FIFO, a pipe, a terminal – is written in the background.
pub enum OutputFile {
    /// The disk takes it.
    Disk(File),
    /// A reader takes it.
    Reader(BackgroundWriter),
}

impl OutputFile {
    /// Makes it, empty.
    ///
    /// # Errors
    /// Those of the operating system; where a reader is needed, they come with a later write.
    pub fn create(path: &Path, stop: &StopFlag) -> io::Result<Self> {
        let kind = std::fs::metadata(path).map(|meta| meta.file_type());
        if kind.is_ok_and(|kind| kind.is_fifo() || kind.is_char_device()) {
            let path = path.to_owned();
            let open = move || Ok(Box::new(File::options().write(true).open(path)?) as Box<dyn Write + Send>);
            return Ok(Self::Reader(BackgroundWriter::new(open, |_| {}, stop.clone())));
        }
        File::create(path).map(Self::Disk)
    }

    /// Waits until everything is written: see [`BackgroundWriter::finish`].
    ///
    /// # Errors
    /// That of the first write that failed.
    pub fn finish(&self) -> io::Result<()> {
        let Self::Reader(writer) = self else { return Ok(()) };
        let is_written = writer.finish();
        let error = writer.error().or_else(|| (!is_written).then(|| "interrupted".to_owned()));
        error.map_or(Ok(()), |error| Err(io::Error::other(error)))
    }
}

impl Write for &OutputFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            OutputFile::Disk(file) => (&mut &*file).write(bytes),
            OutputFile::Reader(writer) => writer.clone().write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl State {
    fn is_idle(&self) -> bool {
        self.pending.is_empty() && self.in_flight == 0
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&'a self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.news.wait_timeout(state, LOOK_EVERY).unwrap_or_else(PoisonError::into_inner).0
    }

    fn start(self: &Arc<Self>, state: &mut State) {
        let Some(parts) = state.parts.take() else { return };
        let (sender, receiver) = std::sync::mpsc::sync_channel(1);
        let shared = Arc::clone(self);
        let work = move || {
            if let Ok((open, on_error)) = receiver.recv() {
                shared.work(open, &on_error);
            }
        };
        match std::thread::Builder::new().name("writer".to_owned()).spawn(work) {
            Ok(_) => drop(sender.send(parts)),
            Err(_) => match parts.0() {
                Ok(target) => state.direct = Some(target),
                Err(error) => state.error = Some(error.to_string()),
            },
        }
    }

    fn work(&self, open: Open, on_error: &OnError) {
        let mut target = match open() {
            Ok(target) => target,
            Err(error) => return self.fail(&error, on_error),
        };
        loop {
            let mut state = self.lock();
            while state.pending.is_empty() {
                state = self.news.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            let batch = std::mem::take(&mut state.pending);
            state.in_flight = batch.len();
            drop(state);
            for piece in batch.chunks(PIECE) {
                if let Err(error) = write_all(&mut *target, piece) {
                    return self.fail(&error, on_error);
                }
                let mut state = self.lock();
                state.in_flight -= piece.len();
                state.progress += 1;
                self.news.notify_all();
            }
        }
    }

    fn fail(&self, error: &io::Error, on_error: &OnError) {
        let mut state = self.lock();
        (state.in_flight, state.error) = (0, Some(error.to_string()));
        state.pending.clear();
        self.news.notify_all();
        drop(state);
        on_error(error);
    }
}

/// As [`Write::write_all`], also where someone made the target non-blocking for all who share it.
fn write_all(target: &mut dyn Write, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match target.write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => std::thread::park_timeout(LOOK_EVERY),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::os::unix::net::UnixStream;

    use super::*;

    /// A writer into a socket, with the other end.
    fn pair(stop: &StopFlag) -> (BackgroundWriter, UnixStream) {
        let (reader, writer) = UnixStream::pair().expect("a pair");
        let open = || Ok(Box::new(writer) as Box<dyn Write + Send>);
        (BackgroundWriter::new(open, |_| {}, stop.clone()), reader)
    }

    #[test]
    fn everything_arrives_in_order_however_much_it_is() {
        let (writer, mut reader) = pair(&StopFlag::default());
        let bytes: Vec<u8> = (0..3 * MOST_PENDING).map(|at| (at / 1000) as u8).collect();
        let expected = bytes.clone();
        let reading = std::thread::spawn(move || {
            let mut read = vec![0; bytes.len()];
            reader.read_exact(&mut read).expect("all of it");
            assert!(read == bytes);
        });
        expected.chunks(1234).for_each(|piece| writer.put(piece));
        assert!(writer.finish() && writer.is_idle());
        reading.join().expect("equal");
    }

    #[test]
    fn stop_frees_a_writer_whose_reader_takes_nothing() {
        let stop = StopFlag::default();
        let (writer, _reader) = pair(&stop);
        let waiting = {
            let writer = writer.clone();
            std::thread::spawn(move || writer.put(&vec![0; 8 * MOST_PENDING]))
        };
        stop.set();
        waiting.join().expect("no panic");
        assert!(!writer.finish(), "the reader took nothing");
    }

    #[test]
    fn reader_that_goes_away_is_told_once() {
        let (told, told_of) = std::sync::mpsc::channel();
        let (reader, socket) = UnixStream::pair().expect("a pair");
        drop(reader);
        let open = || Ok(Box::new(socket) as Box<dyn Write + Send>);
        let writer = BackgroundWriter::new(
            open,
            move |e| {
                let _ = told.send(e.kind());
            },
            StopFlag::default(),
        );
        writer.put(b"one");
        assert_eq!(told_of.recv(), Ok(io::ErrorKind::BrokenPipe));
        writer.put(&vec![0; 2 * MOST_PENDING]);
        assert!(writer.finish() && writer.error().is_some() && told_of.try_recv().is_err());
    }

    #[test]
    fn target_that_cannot_be_opened_is_an_error() {
        let writer = BackgroundWriter::new(|| Err(io::ErrorKind::NotFound.into()), |_| {}, StopFlag::default());
        writer.put(b"one");
        assert!(writer.finish() && writer.error().is_some());
    }
}
