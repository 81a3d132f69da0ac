//! Whose command runs next: there may be more slots than commands at once, so that outputs of one run are captured, and those
//! of another removed, while commands run.
//!
//! A command that has to wait is a frame that is written already; whoever frees a place sends it to its helper, so that nobody
//! else has to wake up for it. It does not know what commands are for.

use std::collections::VecDeque;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use minibuild_core::{ExecutorEvent, RunId, StopReason};

use crate::executor::EventSink;
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
pub(crate) struct Turns {
    sink: EventSink,
    places: Mutex<Places>,
}

struct Places {
    free: usize,
    /// Slots with their commands, in the order they came.
    waiting: VecDeque<(usize, Handover)>,
    /// Slots that have a place.
    taken: Vec<usize>,
    /// Slots whose command came to a bad end that the caller may not know of yet.
    held: Vec<usize>,
}

impl Turns {
    /// So many commands at once.
    pub(crate) fn new(places: usize, sink: EventSink) -> Self {
        let places = Places { free: places.max(1), waiting: VecDeque::new(), taken: Vec::new(), held: Vec::new() };
        Self { sink, places: Mutex::new(places) }
    }

    /// Hands a slot's command over once there is a place for it; what becomes of it is told by its helper.
    ///
    /// # Errors
    /// Where it would have to wait and is to be stopped already.
    pub(crate) fn take(&self, slot: usize, command: Handover) -> Result<(), StopReason> {
        let mut places = self.lock();
        match command.state.stop_asked() {
            Some(reason) if places.free == 0 => return Err(reason),
            _ => places.waiting.push_back((slot, command)),
        }
        self.pass_on(&mut places);
        Ok(())
    }

    /// The slot's command is over, or will not be handed over. Where it did not succeed the place stays taken until
    /// [`Self::go_on`]: nothing may start that the caller would have stopped.
    pub(crate) fn leave(&self, slot: usize, succeeded: bool) {
        let mut places = self.lock();
        places.waiting.retain(|(waiting, _)| *waiting != slot);
        let Some(at) = places.taken.iter().position(|taken| *taken == slot) else { return };
        places.taken.swap_remove(at);
        if succeeded {
            places.free += 1;
            self.pass_on(&mut places);
        } else {
            places.held.push(slot);
        }
    }

    /// The caller took note of all that it was told, and stopped what it wanted to.
    pub(crate) fn go_on(&self) {
        let mut places = self.lock();
        places.free += std::mem::take(&mut places.held).len();
        self.pass_on(&mut places);
    }

    /// The slot's command is not wanted any more: if it waits its helper reports it as stopped.
    pub(crate) fn withdraw(&self, slot: usize, reason: StopReason) {
        let mut places = self.lock();
        let Some(at) = places.waiting.iter().position(|(waiting, _)| *waiting == slot) else { return };
        if let Some((_, command)) = places.waiting.remove(at) {
            // Where this fails the helper is dead, which who listens to it finds out.
            let _ = write_frame(&mut &*command.socket, &ToSlot::Skip { seq: command.seq, reason });
        }
    }

    /// Sends commands off as long as there are places. Under the lock: the frame has to be complete before a stop follows.
    fn pass_on(&self, places: &mut Places) {
        while places.free > 0
            && let Some((slot, command)) = places.waiting.pop_front()
        {
            places.free -= 1;
            places.taken.push(slot);
            (self.sink)(ExecutorEvent::Started(command.run));
            // Where this fails the helper is dead, which who listens to it finds out.
            let _ = (&*command.socket).write_all(&command.frame);
            command.state.connect(&command.socket, command.seq);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Places> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
