//! Threads for what takes long, so that the one that serves the helpers never does. Started when there is something for them.
//!
//! It does not know what the work is.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

type Task = Box<dyn FnOnce() + Send>;

/// A few threads with a common queue.
pub(crate) struct Crew {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    most: usize,
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    news: Condvar,
}

#[derive(Default)]
struct Queue {
    tasks: VecDeque<Task>,
    idle: usize,
    is_over: bool,
}

impl Crew {
    /// At most so many threads.
    pub(crate) fn new(most: usize) -> Self {
        Self { shared: Arc::default(), threads: Mutex::default(), most: most.max(1) }
    }

    /// Has the work done; here and now where there is no thread to be had.
    pub(crate) fn hand(&self, task: Task) {
        let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        let mut queue = self.shared.lock();
        let needs_one = queue.idle <= queue.tasks.len() && threads.len() < self.most;
        queue.tasks.push_back(task);
        drop(queue);
        if needs_one {
            let shared = Arc::clone(&self.shared);
            match std::thread::Builder::new().name("capture".to_owned()).spawn(move || shared.work()) {
                Ok(thread) => threads.push(thread),
                Err(_) if threads.is_empty() => {
                    let task = self.shared.lock().tasks.pop_front();
                    drop(threads);
                    task.into_iter().for_each(|task| task());
                    return;
                }
                Err(_) => {}
            }
        }
        self.shared.news.notify_one();
    }
}

impl Drop for Crew {
    /// What was handed over is done first.
    fn drop(&mut self) {
        self.shared.lock().is_over = true;
        self.shared.news.notify_all();
        for thread in self.threads.get_mut().unwrap_or_else(PoisonError::into_inner).drain(..) {
            // A thread that panicked has nothing more to wait for.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) {
        let mut queue = self.lock();
        loop {
            if let Some(task) = queue.tasks.pop_front() {
                drop(queue);
                task();
                queue = self.lock();
            } else if queue.is_over {
                return;
            } else {
                queue.idle += 1;
                queue = self.news.wait(queue).unwrap_or_else(PoisonError::into_inner);
                queue.idle -= 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn tasks_run_beside_each_other_and_all_are_done() {
        let crew = Crew::new(3);
        let (done, barrier) = (Arc::new(AtomicUsize::new(0)), Arc::new(Barrier::new(3)));
        for _ in 0..3 {
            let (done, barrier) = (Arc::clone(&done), Arc::clone(&barrier));
            crew.hand(Box::new(move || {
                barrier.wait();
                done.fetch_add(1, Ordering::Relaxed);
            }));
        }
        for _ in 0..20 {
            let done = Arc::clone(&done);
            crew.hand(Box::new(move || {
                done.fetch_add(1, Ordering::Relaxed);
            }));
        }
        drop(crew);
        assert_eq!(done.load(Ordering::Relaxed), 23);
    }
}
