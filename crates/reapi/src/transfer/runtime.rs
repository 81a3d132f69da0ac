//! Starting the threads that carry connections, or saying that there are none to be had.
//!
//! Tokio panics where the system refuses its first thread, and where it refuses a later one the task waits for ever. So all
//! that are needed are started once before, and a few for what blocks are kept from then on.

use std::io;
use std::sync::mpsc::channel;
use std::sync::{Arc, PoisonError, RwLock};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;

/// Threads for work that blocks which are there from the start; more come as the system gives them.
const BLOCKING: usize = 2;
/// Such threads are not given up, since they might not be had again.
const FOR_EVER: Duration = Duration::from_secs(365 * 24 * 3600);
/// How long the start of a thread is waited for that can be had.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long the kernel is given to forget threads that ended. It takes microseconds.
const SETTLING: Duration = Duration::from_millis(20);

/// A runtime with so many `workers`, and at most `most_blocking` further threads for work that blocks.
///
/// # Errors
/// Where the threads cannot be started.
pub fn start_runtime(name: &str, workers: usize, most_blocking: usize) -> io::Result<Runtime> {
    try_threads(workers + BLOCKING)?;
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(workers).max_blocking_threads(most_blocking.max(BLOCKING));
    builder.thread_keep_alive(FOR_EVER).thread_name(name).enable_all();
    // Another process may have got the threads meanwhile.
    let started = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let runtime = builder.build()?;
        reserve(&runtime).map(|()| runtime)
    }));
    started.unwrap_or_else(|_| Err(io::ErrorKind::WouldBlock.into()))
}

/// Has the threads for what blocks started.
fn reserve(runtime: &Runtime) -> io::Result<()> {
    let all_started = Arc::new(RwLock::new(()));
    let held = all_started.write().unwrap_or_else(PoisonError::into_inner);
    let (sender, receiver) = channel();
    for _ in 0..BLOCKING {
        let (sender, all_started) = (sender.clone(), Arc::clone(&all_started));
        runtime.spawn_blocking(move || {
            let _ = sender.send(());
            drop(all_started.read());
        });
    }
    let wait = || receiver.recv_timeout(PATIENCE).map_err(|_| io::Error::from(io::ErrorKind::WouldBlock));
    let started = (0..BLOCKING).try_for_each(|_| wait());
    drop(held);
    started
}

/// Starts so many threads at once, and ends them.
fn try_threads(count: usize) -> io::Result<()> {
    let before = count_threads();
    let all_started = Arc::new(RwLock::new(()));
    let held = all_started.write().unwrap_or_else(PoisonError::into_inner);
    let start = |_| {
        let all_started = Arc::clone(&all_started);
        Builder::new().spawn(move || drop(all_started.read()))
    };
    let mut threads: Vec<JoinHandle<()>> = Vec::new();
    let started = (0..count).try_for_each(|number| start(number).map(|thread| threads.push(thread)));
    drop(held);
    threads.into_iter().for_each(|thread| drop(thread.join()));
    // A thread that was joined still counts for the user's limit until the kernel has forgotten it.
    let deadline = Instant::now() + SETTLING;
    while count_threads() > before && Instant::now() < deadline {
        std::thread::yield_now();
    }
    started
}

fn count_threads() -> usize {
    std::fs::read_dir("/proc/self/task").map_or(0, Iterator::count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runtime_runs_tasks_and_blocking_work() {
        let runtime = start_runtime("test", 2, 4).expect("there are threads");
        let answer = runtime.block_on(async { tokio::task::spawn_blocking(|| 7).await });
        assert_eq!(answer.expect("no panic"), 7);
    }

    #[test]
    fn threads_that_were_tried_are_given_back() {
        (0..50).for_each(|_| try_threads(4).expect("there are threads"));
    }
}
