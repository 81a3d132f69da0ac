//! The server: one queue, first come first served, and its workers.

use std::collections::VecDeque;

use rustc_hash::{FxHashMap, FxHashSet};

use crate::sim::model::{Cancel, Us};

/// The queue and the workers of a server.
#[derive(Debug)]
pub struct Server {
    workers: usize,
    cancel: Cancel,
    queue: VecDeque<u32>,
    /// What of the queue is still wanted.
    waiting: FxHashSet<u32>,
    /// What runs, since when.
    running: FxHashMap<u32, Us>,
    wasted: Us,
}

impl Server {
    pub fn new(workers: usize, cancel: Cancel) -> Self {
        Self {
            workers,
            cancel,
            queue: VecDeque::new(),
            waiting: FxHashSet::default(),
            running: FxHashMap::default(),
            wasted: 0,
        }
    }

    /// An execution is asked for.
    pub fn arrive(&mut self, action: u32) {
        self.queue.push_back(action);
        self.waiting.insert(action);
    }

    /// Gives the next execution to a free worker.
    pub fn begin(&mut self, now: Us) -> Option<u32> {
        while self.running.len() < self.workers {
            let action = self.queue.pop_front()?;
            if !self.waiting.remove(&action) || self.running.contains_key(&action) {
                continue;
            }
            self.running.insert(action, now);
            return Some(action);
        }
        None
    }

    /// A worker is done with what takes `exec`; gives how long it ran, if it was not stopped before.
    pub fn finish(&mut self, action: u32, now: Us, exec: Us) -> Option<Us> {
        let since = *self.running.get(&action)?;
        if since + exec != now {
            return None;
        }
        self.running.remove(&action);
        Some(exec)
    }

    /// The client dropped its stream; true if a worker became free.
    pub fn drop_stream(&mut self, action: u32, now: Us) -> bool {
        if let Some(&since) = self.running.get(&action) {
            if self.cancel != Cancel::Always {
                return false;
            }
            self.running.remove(&action);
            self.wasted += now - since;
            return true;
        }
        if self.cancel != Cancel::Never {
            self.waiting.remove(&action);
        }
        false
    }

    /// It lost everything.
    pub fn lose_all(&mut self, now: Us) {
        self.queue.clear();
        self.waiting.clear();
        self.wasted += self.running.drain().map(|(_, since)| now - since).sum::<Us>();
    }

    pub fn add_waste(&mut self, ran: Us) {
        self.wasted += ran;
    }

    pub fn wasted(&self) -> Us {
        self.wasted
    }
}
