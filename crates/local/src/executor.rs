//! The local executor: takes runs, and passes stops on.
//!
//! It never waits: one thread serves all helpers. It does not know how many runs there should be at once – who calls counts
//! them – nor what an action is for.

use std::ffi::{CString, OsString};
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;

use minibuild_core::{ExecutionReport, ExecutionRequest, ExecutionStatus, Executor, ExecutorEvent, RunId, StopReason};
use minibuild_disk::{FileClock, OutTree};

use crate::helper;
use crate::inputs::InputRecheck;
use crate::jobserver::Jobserver;
use crate::scratch::LOGS;
use crate::service::{Common, EventSink, Service, Shared};
use crate::work::{Place, Work};

/// What a local executor is made of.
pub struct LocalConfig {
    /// The output tree of the workspace commands run in.
    pub tree: Arc<OutTree>,
    /// The clock that stamps its files.
    pub clock: Arc<dyn FileClock>,
    /// How many commands run at most at once. What is started beyond that is made ready and waits, in the order it came.
    pub slots: usize,
    /// The program of the helpers: `/proc/self/exe` for the binary itself.
    pub helper: PathBuf,
    /// Its first arguments: `__slot`.
    pub helper_args: Vec<OsString>,
    /// A descriptor that holds the workspace lock; helpers and commands inherit it.
    pub lock: Option<OwnedFd>,
    /// What commands and what they start share processors by.
    pub jobserver: Option<Jobserver>,
}

/// Runs commands on this machine.
pub struct LocalExecutor {
    common: Arc<Common>,
    thread: Option<JoinHandle<()>>,
}

impl LocalExecutor {
    /// An executor with nothing started: its thread and helpers come with the first runs.
    ///
    /// # Errors
    /// Where there is no descriptor to be had.
    pub fn new(config: LocalConfig, sink: EventSink) -> std::io::Result<Self> {
        // An argument with NUL cannot come from a command line; without it the helper refuses to start.
        let args = config.helper_args.into_iter().filter_map(|arg| CString::new(arg.into_vec()).ok()).collect();
        let place = Place { tree: config.tree, clock: config.clock, recheck: InputRecheck::default() };
        let program = (config.helper, args);
        let common = Common::new(place, program, config.lock, config.jobserver, config.slots, sink)?;
        Ok(Self { common: Arc::new(common), thread: None })
    }

    /// All that was reported is taken note of, and nothing more is asked for at the moment: commands may start where another one
    /// came to a bad end. To be called after what must not start any more was stopped.
    pub fn go_on(&self) {
        let mut shared = self.common.shared();
        let Shared { desk, wires, .. } = &mut *shared;
        desk.go_on(wires);
        if desk.is_low() {
            self.common.call(&mut shared);
        }
    }

    /// What a command that runs now writes to: its standard output and error. `None` where it has not begun.
    pub fn output_of(&self, run: RunId) -> Option<[File; 2]> {
        let seat = self.common.shared().desk.seat_of(run)?;
        let tree = &self.common.place.tree;
        let path = |name: &str| Place::dir(seat).join(name).ok();
        let open = |name: &str| tree.open_file(&path(name)?).ok()?;
        let files = [open(LOGS[0])?, open(LOGS[1])?];
        // Those of the run have other names once it is over.
        let is_there = |(file, name): (&File, &str)| {
            let seen = path(name).and_then(|path| tree.look(&path).ok());
            let opened = file.metadata().ok();
            seen.zip(opened).is_some_and(|(seen, opened)| seen.fingerprint.ino == opened.ino())
        };
        files.iter().zip(LOGS).all(is_there).then_some(files)
    }

    fn stop_where(&self, run: Option<RunId>, reason: StopReason) {
        let withdrawn = {
            let mut shared = self.common.shared();
            let Shared { desk, wires, .. } = &mut *shared;
            let withdrawn = desk.stop(run, reason, wires);
            // What lay behind it in a queue is to be given anew.
            self.common.call(&mut shared);
            withdrawn
        };
        for (run, reason) in withdrawn {
            self.finish(run, ExecutionStatus::Stopped(reason));
        }
    }

    fn finish(&self, run: RunId, status: ExecutionStatus) {
        (self.common.sink)(ExecutorEvent::Finished(Box::new(ExecutionReport::new(run, status))));
    }
}

impl Executor for LocalExecutor {
    fn start(&mut self, request: ExecutionRequest) {
        if self.thread.is_none() {
            let service = Service::new(Arc::clone(&self.common));
            match std::thread::Builder::new().name("local".to_owned()).spawn(move || service.serve()) {
                Ok(thread) => self.thread = Some(thread),
                Err(error) => {
                    let why = format!("cannot start the thread that serves local commands: {error}");
                    return self.finish(request.run, ExecutionStatus::Infrastructure(why));
                }
            }
        }
        let mut shared = self.common.shared();
        let Shared { desk, wires, .. } = &mut *shared;
        desk.go_on(wires);
        desk.ask(request.run, Work { request, parcel: None });
        if desk.has_idle() {
            self.common.call(&mut shared);
        }
    }

    fn stop(&mut self, run: RunId, reason: StopReason) {
        self.stop_where(Some(run), reason);
    }

    fn shutdown(&mut self) {
        self.stop_where(None, StopReason::Kill);
        if let Some(thread) = self.thread.take() {
            self.common.end();
            // A thread that panicked has reported nothing more to wait for.
            let _ = thread.join();
        }
        helper::no_more_helpers();
    }
}

impl Drop for LocalExecutor {
    fn drop(&mut self) {
        self.shutdown();
    }
}
