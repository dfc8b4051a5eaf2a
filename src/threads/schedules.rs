//! Threads that hand in jobs while the pool's threads start, work and end, in many orders.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::SeqCst},
};

use shuttle::thread;

use super::*;
use crate::schedules::{World, one_in, step};

const MOST_HERE: usize = 2;

/// A thread that is idle may end at any moment.
const JOBS: World = World::in_time(|| {
    let pool: &'static ThreadPool = Box::leak(Box::new(ThreadPool::new(MOST_HERE, IDLE, |job| {
        if one_in(4) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        thread::spawn(job);
        Ok(())
    })));
    let (accepted, done, at_once) =
        (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let hands_in = |_| {
        let (accepted, done, at_once) = (Arc::clone(&accepted), Arc::clone(&done), Arc::clone(&at_once));
        thread::spawn(move || {
            for _ in 0..2 {
                let (done, at_once) = (Arc::clone(&done), Arc::clone(&at_once));
                let job = move || {
                    assert!(at_once.fetch_add(1, SeqCst) < MOST_HERE, "no more threads than the most");
                    step();
                    at_once.fetch_sub(1, SeqCst);
                    done.fetch_add(1, SeqCst);
                };
                if pool.run(job).is_ok() {
                    accepted.fetch_add(1, SeqCst);
                }
            }
        })
    };
    let threads: Vec<_> = (0..2).map(hands_in).collect();
    for thread in threads {
        thread.join().unwrap();
    }
    while locked(&pool.waiting).threads > 0 {
        thread::yield_now();
    }
    let waiting = locked(&pool.waiting);
    assert_eq!(done.load(SeqCst), accepted.load(SeqCst), "what is accepted is done");
    assert_eq!((waiting.jobs.len(), waiting.idle), (0, 0));
});

#[test]
fn what_is_accepted_is_done_while_idle_threads_end() {
    JOBS.holds_in(4_000);
}
