//! Work spread over threads, as many as the system gives.

use std::panic::resume_unwind;
use std::sync::{Mutex, PoisonError};
use std::thread::Builder;

/// Does `work` for each part on at most `threads` threads, of which this is one; results are in the order of the parts.
///
/// A user may have no thread left, in containers above all. Then this thread does everything, where `Scope::spawn` panics.
pub fn map_parallel<P: Send, R: Send>(parts: Vec<P>, threads: usize, work: impl Fn(P) -> R + Sync) -> Vec<R> {
    let further = threads.min(parts.len()).saturating_sub(1);
    let queue = Mutex::new(parts.into_iter().enumerate());
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
    let run = || {
        let mut done = Vec::new();
        while let Some((index, part)) = next() {
            done.push((index, work(part)));
        }
        done
    };
    let mut done = std::thread::scope(|scope| {
        let start = |_| Builder::new().spawn_scoped(scope, run).ok();
        let others: Vec<_> = (0..further).map_while(start).collect();
        let mut done = run();
        for other in others {
            done.extend(other.join().unwrap_or_else(|panic| resume_unwind(panic)));
        }
        done
    });
    done.sort_unstable_by_key(|(index, _)| *index);
    done.into_iter().map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_keep_the_order_of_their_parts() {
        for threads in [0, 1, 3, 64] {
            let doubled = map_parallel((0..100).collect(), threads, |part| part * 2);
            assert_eq!(doubled, (0..100).map(|part| part * 2).collect::<Vec<_>>());
        }
        assert_eq!(map_parallel(Vec::<u8>::new(), 4, |part| part), []);
    }

    #[test]
    fn parts_run_beside_each_other() {
        let barrier = std::sync::Barrier::new(3);
        map_parallel(vec![(); 3], 3, |()| barrier.wait());
    }
}
