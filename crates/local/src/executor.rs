//! The local executor: hands runs to free slots and passes stops on.
//!
//! It never waits: each slot has a thread for that, which takes the next run that waits when it is done with one, without
//! falling asleep in between. It does not know how many runs there should be at once – who calls counts them – nor what an
//! action is for.

use std::collections::VecDeque;
use std::ffi::{CString, OsString};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use minibuild_core::{ExecutionRequest, ExecutionStatus, Executor, ExecutorEvent, RunId, StopReason};
use minibuild_disk::{FileClock, OutTree};

use crate::helper;
use crate::jobserver::Jobserver;
use crate::turns::Turns;
use crate::worker::{Common, SlotState, Worker, empty_report};

/// Takes the events of all runs; called from the slots' threads.
pub type EventSink = Arc<dyn Fn(ExecutorEvent) + Send + Sync>;

/// What a local executor is made of.
pub struct LocalConfig {
    /// The output tree of the workspace commands run in.
    pub tree: Arc<OutTree>,
    /// The clock that stamps its files.
    pub clock: Arc<dyn FileClock>,
    /// How many runs there are at most at once; what is started beyond that waits, in the order it came.
    pub slots: usize,
    /// How many of their commands run at once. With fewer places than slots a run is prepared, and another one's outputs are
    /// captured, while commands run.
    pub places: usize,
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
    slots: Vec<Slot>,
}

#[derive(Default)]
struct Slot {
    state: Arc<SlotState>,
    thread: Option<(Sender<ExecutionRequest>, JoinHandle<()>)>,
}

impl LocalExecutor {
    /// An executor with nothing started: threads and helpers come with the first run of each slot.
    pub fn new(config: LocalConfig, sink: EventSink) -> Self {
        // An argument with NUL cannot come from a command line; without it the helper refuses to start.
        let args = config.helper_args.into_iter().filter_map(|arg| CString::new(arg.into_vec()).ok()).collect();
        let turns = Turns::new(config.places, config.jobserver, Arc::clone(&sink));
        let LocalConfig { tree, clock, helper: program, lock, .. } = config;
        let common = Common { tree, clock, program, args, lock, sink, turns, waiting: Mutex::default() };
        let slots = std::iter::repeat_with(Slot::default).take(config.slots).collect();
        Self { common: Arc::new(common), slots }
    }

    /// All that was reported is taken note of: commands that wait may start in places of those that came to a bad end. To
    /// be called after what must not start any more was stopped; a start says the same.
    pub fn go_on(&self) {
        self.common.turns.go_on();
    }

    fn stop_where(&self, run: Option<RunId>, reason: StopReason) {
        let withdrawn: VecDeque<ExecutionRequest> = {
            let mut waiting = self.common.waiting();
            let (meant, others) = waiting.drain(..).partition(|request| run.is_none_or(|run| request.run == run));
            *waiting = others;
            meant
        };
        for request in withdrawn {
            let mut report = empty_report(request.run);
            report.status = ExecutionStatus::Stopped(reason);
            (self.common.sink)(ExecutorEvent::Finished(Box::new(report)));
        }
        for (number, slot) in self.slots.iter().enumerate() {
            if slot.state.stop(run, reason) {
                self.common.turns.withdraw(number, reason);
            }
        }
    }

    fn refuse(&self, run: RunId, why: &str) {
        let mut report = empty_report(run);
        report.status = ExecutionStatus::Infrastructure(why.to_owned());
        (self.common.sink)(ExecutorEvent::Finished(Box::new(report)));
    }
}

impl Executor for LocalExecutor {
    fn start(&mut self, request: ExecutionRequest) {
        self.go_on();
        let run = request.run;
        let mut waiting = self.common.waiting();
        // The first free slot: those with a warm helper come first.
        let Some(number) = self.slots.iter().position(|slot| slot.state.occupy(run)) else {
            return waiting.push_back(request);
        };
        drop(waiting);
        if !self.slots[number].hand_over(&self.common, number, request) {
            *self.slots.get_mut(number).expect("found above") = Slot::default();
            self.refuse(run, "cannot start the thread of a local slot");
        }
    }

    fn stop(&mut self, run: RunId, reason: StopReason) {
        self.stop_where(Some(run), reason);
    }

    fn shutdown(&mut self) {
        self.stop_where(None, StopReason::Kill);
        let threads: Vec<_> = self.slots.iter_mut().filter_map(|slot| slot.thread.take()).collect();
        let (senders, threads): (Vec<_>, Vec<_>) = threads.into_iter().unzip();
        drop(senders);
        for thread in threads {
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

impl Slot {
    /// Gives a run to the slot's thread, which is started first if need be.
    fn hand_over(&mut self, common: &Arc<Common>, number: usize, request: ExecutionRequest) -> bool {
        if self.thread.is_none() {
            let mut worker = Worker::new(Arc::clone(common), Arc::clone(&self.state), number);
            let (sender, requests) = channel::<ExecutionRequest>();
            let work = move || {
                for request in requests {
                    let mut next = Some(request);
                    while let Some(request) = next {
                        next = worker.carry_out(&request);
                    }
                }
                worker.end();
            };
            match std::thread::Builder::new().name(format!("slot {number}")).spawn(work) {
                Ok(thread) => self.thread = Some((sender, thread)),
                Err(_) => return false,
            }
        }
        self.thread.as_ref().is_some_and(|(sender, _)| sender.send(request).is_ok())
    }
}
