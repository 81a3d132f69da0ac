//! Whose command runs next: there may be more slots than commands at once, so that outputs of one run are captured, and those
//! of another removed, while commands run.
//!
//! A command that has to wait is a frame that is written already; whoever frees a place sends it to its helper, so that nobody
//! else has to wake up for it. Under a jobserver each command but one also needs a token of its. It does not know what commands
//! are for.

use std::collections::VecDeque;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use minibuild_core::{ExecutorEvent, RunId, StopReason};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::executor::EventSink;
use crate::jobserver::Jobserver;
use crate::protocol::{ToSlot, write_frame};
use crate::worker::SlotState;

/// A command on its way to its helper.
pub(crate) struct Handover {
    pub(crate) run: RunId,
    pub(crate) seq: u64,
    pub(crate) socket: Arc<UnixStream>,
    pub(crate) state: Arc<SlotState>,
    pub(crate) frame: Vec<u8>,
}

/// Places for commands, and who waits for one.
pub(crate) struct Turns(Arc<Inner>);

struct Inner {
    sink: EventSink,
    jobserver: Option<Jobserver>,
    places: Mutex<Places>,
}

struct Places {
    free: usize,
    /// Slots with their commands, in the order they came.
    waiting: VecDeque<(usize, Handover)>,
    /// Slots that have a place, with their tokens: one may do with that which every participant of a jobserver has.
    taken: Vec<(usize, Option<u8>)>,
    /// A command may have kept its tokens.
    may_lack_tokens: bool,
    /// A thread waits for a token.
    is_watched: bool,
    /// Slots whose command came to a bad end that the caller may not know of yet.
    held: Vec<usize>,
}

impl Turns {
    /// So many commands at once, as far as there are tokens for them.
    pub(crate) fn new(places: usize, jobserver: Option<Jobserver>, sink: EventSink) -> Self {
        let places = Places {
            free: places.max(1),
            waiting: VecDeque::new(),
            taken: Vec::new(),
            may_lack_tokens: false,
            is_watched: false,
            held: Vec::new(),
        };
        Self(Arc::new(Inner { sink, jobserver, places: Mutex::new(places) }))
    }

    /// The jobserver that its commands share.
    pub(crate) fn jobserver(&self) -> Option<&Jobserver> {
        self.0.jobserver.as_ref()
    }

    /// Hands a slot's command over once there is a place for it; what becomes of it is told by its helper.
    ///
    /// # Errors
    /// Where it would have to wait and is to be stopped already.
    pub(crate) fn take(&self, slot: usize, command: Handover) -> Result<(), StopReason> {
        let mut places = self.0.lock();
        match command.state.stop_asked() {
            Some(reason) if places.free == 0 => return Err(reason),
            _ => places.waiting.push_back((slot, command)),
        }
        Inner::pass_on(&self.0, &mut places);
        Ok(())
    }

    /// The slot's command is over, or will not be handed over. Where it did not succeed the place stays taken until
    /// [`Self::go_on`]: nothing may start that the caller would have stopped.
    pub(crate) fn leave(&self, slot: usize, succeeded: bool) {
        let mut places = self.0.lock();
        places.waiting.retain(|(waiting, _)| *waiting != slot);
        let Some(at) = places.taken.iter().position(|(taken, _)| *taken == slot) else { return };
        let (_, token) = places.taken.swap_remove(at);
        places.may_lack_tokens |= !succeeded;
        self.0.give_back(token, &mut places);
        if succeeded {
            places.free += 1;
            Inner::pass_on(&self.0, &mut places);
        } else {
            places.held.push(slot);
        }
    }

    /// The caller took note of all that it was told, and stopped what it wanted to.
    pub(crate) fn go_on(&self) {
        let mut places = self.0.lock();
        places.free += std::mem::take(&mut places.held).len();
        Inner::pass_on(&self.0, &mut places);
    }

    /// The slot's command is not wanted any more: if it waits its helper reports it as stopped.
    pub(crate) fn withdraw(&self, slot: usize, reason: StopReason) {
        let mut places = self.0.lock();
        let Some(at) = places.waiting.iter().position(|(waiting, _)| *waiting == slot) else { return };
        if let Some((_, command)) = places.waiting.remove(at) {
            // Where this fails the helper is dead, which who listens to it finds out.
            let _ = write_frame(&mut &*command.socket, &ToSlot::Skip { seq: command.seq, reason });
        }
    }
}

impl Inner {
    /// Sends commands off as long as there are places, and tokens. Under the lock: the frame has to be complete before a stop
    /// follows.
    fn pass_on(this: &Arc<Self>, places: &mut Places) {
        while places.free > 0 && !places.waiting.is_empty() {
            let token = match &this.jobserver {
                Some(jobserver) if places.taken.iter().any(|(_, token)| token.is_none()) => {
                    let Some(token) = jobserver.take() else { return Self::watch(this, places) };
                    Some(token)
                }
                _ => None,
            };
            let Some((slot, command)) = places.waiting.pop_front() else { return };
            places.free -= 1;
            places.taken.push((slot, token));
            (this.sink)(ExecutorEvent::Started(command.run));
            // Where this fails the helper is dead, which who listens to it finds out.
            let _ = (&*command.socket).write_all(&command.frame);
            command.state.connect(&command.socket, command.seq);
        }
    }

    /// Goes on when somebody gave a token back. Should there be no thread to be had, the end of a command of ours does.
    fn watch(this: &Arc<Self>, places: &mut Places) {
        if places.is_watched {
            return;
        }
        let of_thread = Arc::clone(this);
        let thread =
            std::thread::Builder::new().name("jobserver".to_owned()).spawn(move || of_thread.wait_for_tokens());
        places.is_watched = thread.is_ok();
    }

    fn wait_for_tokens(self: Arc<Self>) {
        let Some(jobserver) = &self.jobserver else { return };
        loop {
            // Now and then it is looked whether anybody still waits.
            let news = PollFd::new(jobserver.readiness(), PollFlags::POLLIN);
            let failed = poll(&mut [news], PollTimeout::from(1000u16)).is_err_and(|error| error != Errno::EINTR);
            let mut places = self.lock();
            if failed || places.waiting.is_empty() {
                places.is_watched = false;
                return;
            }
            Self::pass_on(&self, &mut places);
        }
    }

    fn give_back(&self, token: Option<u8>, places: &mut Places) {
        let Some(jobserver) = &self.jobserver else { return };
        if let Some(token) = token {
            jobserver.give_back(token);
        }
        if places.taken.is_empty() && std::mem::take(&mut places.may_lack_tokens) {
            jobserver.refill();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Places> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
