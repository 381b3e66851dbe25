//! Independent pieces of work, shared by a few threads.
//!
//! Copying and digesting take most of a provisioning's and of a check's time, and no file waits for another.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;

use rustix::thread::{CpuSet, sched_getaffinity, sched_getcpu, sched_setaffinity};

/// Below this many pieces a second thread costs more than it saves.
const WORTH_A_THREAD: usize = 16;

/// More threads than this only wait for each other in the file system.
const MOST_THREADS: usize = 4;

/// Does the work of each item, in about their order, and hands every result to `take`, on the caller's thread. Once `take`
/// has said stop, only what is in hand already is finished (and handed over).
pub(crate) fn side_by_side<T: Sync, R: Send>(
    items: &[T],
    work: impl Fn(&T) -> R + Sync,
    mut take: impl FnMut(&T, R) -> ControlFlow<()>,
) {
    let (next, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    let one = || {
        let item =
            items.get(next.fetch_add(1, Ordering::Relaxed)).filter(|_| !stop.load(Ordering::Relaxed))?;
        Some((item, work(item)))
    };
    let mut take = |(item, result)| {
        if take(item, result).is_break() {
            stop.store(true, Ordering::Relaxed);
        }
    };
    let processors = Processors::of_this_process();
    let helpers = processors.count().min(MOST_THREADS).min(items.len() / WORTH_A_THREAD).saturating_sub(1);
    thread::scope(|scope| {
        let (sender, results) = mpsc::channel();
        for _ in 0..helpers {
            let (sender, one, processors) = (sender.clone(), &one, &processors);
            let help = move || {
                processors.leave_the_first();
                while one().is_some_and(|result| sender.send(result).is_ok()) {}
            };
            // Where no thread is to be had, this one does it all.
            if thread::Builder::new().spawn_scoped(scope, help).is_err() {
                break;
            }
        }
        drop(sender);
        while let Some(own) = one() {
            take(own);
            results.try_iter().for_each(&mut take);
        }
        results.iter().for_each(&mut take);
    });
}

/// The processors that this process may run on, and the one it runs on now. (The standard library's count reads five files
/// of control groups first.)
#[derive(Clone, Copy)]
pub struct Processors {
    allowed: Option<CpuSet>,
    first: usize,
}

impl Processors {
    /// Asked of the kernel, on the first thread.
    #[must_use]
    pub fn of_this_process() -> Self {
        Self { allowed: sched_getaffinity(None).ok(), first: sched_getcpu() }
    }

    fn count(&self) -> usize {
        self.allowed.map_or(1, |set| set.count() as usize)
    }

    /// Keeps the calling thread from the processor that the first one is on. A scheduler that gathers the threads of a young
    /// process on one processor (virtual machines do, to let others sleep) would spread them when the work is done already.
    pub fn leave_the_first(&self) {
        if let Some(mut others) = self.allowed.filter(|set| set.count() > 1) {
            others.unset(self.first);
            // Only a matter of speed.
            sched_setaffinity(None, &others).unwrap_or_default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_result_arrives_once() {
        let items: Vec<usize> = (0..1000).collect();
        let mut seen = vec![0; items.len()];
        side_by_side(
            &items,
            |item| item * 2,
            |item, double| {
                assert_eq!(*item * 2, double);
                seen[*item] += 1;
                ControlFlow::Continue(())
            },
        );
        assert!(seen.iter().all(|times| *times == 1));
        side_by_side(&[] as &[usize], |_| (), |_, ()| unreachable!("nothing to do"));
    }

    #[test]
    fn after_a_stop_little_more_is_done() {
        let items: Vec<usize> = (0..100_000).collect();
        let done = AtomicUsize::new(0);
        let slow = |_: &usize| {
            done.fetch_add(1, Ordering::Relaxed);
            thread::sleep(std::time::Duration::from_micros(10));
        };
        side_by_side(&items, slow, |_, ()| ControlFlow::Break(()));
        assert!(done.into_inner() < 1000);
    }
}
