//! What waits for a thread: what somebody waits for first, and nothing beside the taking apart of trees.
//!
//! It does not know what the jobs are about.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use minibuild_core::{CacheLookup, Digest, FetchRequest, StoreCheck, UploadRequest};

/// Something to be done on a thread.
pub(crate) enum Job {
    /// Gives files of trees that were moved in their names; whoever looks for blobs comes after it.
    TakeApart,
    LookUp(CacheLookup),
    Check(StoreCheck),
    Fetch(FetchRequest),
    Store(Box<UploadRequest>),
    StoreSame {
        known: Digest,
        key: Digest,
    },
}

/// Jobs of some threads.
#[derive(Default)]
pub(crate) struct Queue {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    urgent: VecDeque<Job>,
    background: VecDeque<Job>,
    /// A tree is to be taken apart.
    is_apart_wanted: bool,
    is_taking_apart: bool,
    /// Threads there are, and those that store.
    threads: usize,
    storing: usize,
    idle: usize,
    is_closed: bool,
}

/// A job with what ends with it.
pub(crate) struct Turn<'a> {
    queue: &'a Queue,
    job: Option<Job>,
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Apart,
    Urgent,
    Background,
}

impl Queue {
    /// Takes a job; says whether one more thread is worth it, of `most`.
    pub fn push(&self, job: Job, most: usize) -> bool {
        let mut state = self.state();
        match job {
            Job::TakeApart => state.is_apart_wanted = true,
            Job::Store(_) | Job::StoreSame { .. } => state.background.push_back(job),
            _ => state.urgent.push_back(job),
        }
        let is_wanted = state.idle == 0 && state.threads < most;
        state.threads += usize::from(is_wanted);
        drop(state);
        self.changed.notify_one();
        is_wanted
    }

    /// The next job; `None` where there will be no more.
    pub fn pop(&self) -> Option<Turn<'_>> {
        let mut state = self.state();
        loop {
            if let Some(turn) = self.take(&mut state) {
                return Some(turn);
            }
            let is_empty = state.urgent.is_empty() && state.background.is_empty() && !state.is_apart_wanted;
            if state.is_closed && is_empty {
                return None;
            }
            state.idle += 1;
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.idle -= 1;
        }
    }

    fn take(&self, state: &mut State) -> Option<Turn<'_>> {
        if state.is_apart_wanted && !state.is_taking_apart {
            (state.is_apart_wanted, state.is_taking_apart) = (false, true);
            return Some(Turn { queue: self, job: Some(Job::TakeApart), kind: Kind::Apart });
        }
        if !state.is_taking_apart
            && let Some(job) = state.urgent.pop_front()
        {
            return Some(Turn { queue: self, job: Some(job), kind: Kind::Urgent });
        }
        // Who waits finds a thread that does not store, if there is more than one.
        if state.storing + 1 < state.threads.max(2) || state.is_closed {
            let job = state.background.pop_front()?;
            state.storing += 1;
            return Some(Turn { queue: self, job: Some(job), kind: Kind::Background });
        }
        None
    }

    /// Gives back all fetches that wait.
    pub fn take_fetches(&self) -> Vec<FetchRequest> {
        let mut state = self.state();
        let (fetches, others): (Vec<Job>, Vec<Job>) =
            std::mem::take(&mut state.urgent).into_iter().partition(|job| matches!(job, Job::Fetch(_)));
        state.urgent = others.into();
        let fetch = |job| if let Job::Fetch(request) = job { Some(request) } else { None };
        fetches.into_iter().filter_map(fetch).collect()
    }

    /// There will be no more; what waits in the background is forgotten if that is wanted.
    pub fn close(&self, is_hurried: bool) {
        let mut state = self.state();
        state.is_closed = true;
        if is_hurried {
            state.background.clear();
        }
        drop(state);
        self.changed.notify_all();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Turn<'_> {
    /// What to do, once.
    pub fn job(&mut self) -> Option<Job> {
        self.job.take()
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut state = self.queue.state();
        match self.kind {
            Kind::Apart => state.is_taking_apart = false,
            Kind::Background => state.storing -= 1,
            Kind::Urgent => return,
        }
        drop(state);
        self.queue.changed.notify_all();
    }
}
