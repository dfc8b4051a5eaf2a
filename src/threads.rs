//! Threads for work that may block: a bounded number, each started when it is needed and ended once it has been idle.
//!
//! Always: work is done in the order in which it came; work that is accepted is done; where the system gives no thread, that
//! is an error, and only if no thread is left that could do the work later.

use std::{
    collections::VecDeque,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::PoisonError,
    thread,
    time::Duration,
};

use crate::{
    per_process::PerProcess,
    sync::{Condvar, Mutex, locked},
};

/// In each of the two pools.
pub(crate) const MOST: usize = 64;
const IDLE: Duration = Duration::from_secs(10);

static FLIGHTS: PerProcess<ThreadPool> =
    PerProcess::new(|| ThreadPool::new(MOST, IDLE, |run| start("concur-auth-flight", run)));
static STORES: PerProcess<ThreadPool> =
    PerProcess::new(|| ThreadPool::new(MOST, IDLE, |run| start("concur-auth-store", run)));

type Job = Box<dyn FnOnce() + Send>;

pub(crate) struct ThreadPool {
    waiting: Mutex<Waiting>,
    arrived: Condvar,
    most: usize,
    idle: Duration,
    start: fn(Job) -> io::Result<()>,
}

#[derive(Default)]
struct Waiting {
    jobs: VecDeque<Job>,
    threads: usize,
    idle: usize,
}

/// The threads that flights run on.
pub(crate) fn for_flights() -> &'static ThreadPool {
    FLIGHTS.get()
}

/// Those for calls of stores outside of flights, so that a store that blocks holds up no flight of another manager, and no
/// caller waits for flights only to read a store.
pub(crate) fn for_stores() -> &'static ThreadPool {
    STORES.get()
}

fn start(name: &str, run: Job) -> io::Result<()> {
    thread::Builder::new().name(name.to_owned()).spawn(run).map(drop)
}

impl ThreadPool {
    fn new(most: usize, idle: Duration, start: fn(Job) -> io::Result<()>) -> Self {
        Self { waiting: Mutex::default(), arrived: Condvar::new(), most, idle, start }
    }

    /// Does `job` as soon as a thread is free. An error means that it will not be done.
    pub(crate) fn run(&'static self, job: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let mut waiting = locked(&self.waiting);
        // A job that waits already will take an idle thread.
        if waiting.jobs.len() >= waiting.idle && waiting.threads < self.most {
            match (self.start)(Box::new(|| self.work())) {
                Ok(()) => waiting.threads += 1,
                // The threads that live will come to it.
                Err(_) if waiting.threads > 0 => {}
                Err(e) => return Err(e),
            }
        }
        waiting.jobs.push_back(Box::new(job));
        drop(waiting);
        self.arrived.notify_one();
        Ok(())
    }

    /// What each thread does.
    fn work(&self) {
        while let Some(job) = self.next() {
            // The caller who waits for the job notices that its part in it is gone.
            let _ = catch_unwind(AssertUnwindSafe(job));
        }
    }

    /// The next job, or `None` once this thread has been idle for too long.
    fn next(&self) -> Option<Job> {
        let mut waiting = locked(&self.waiting);
        loop {
            if let Some(job) = waiting.jobs.pop_front() {
                return Some(job);
            }
            waiting.idle += 1;
            let (woken, waited) =
                self.arrived.wait_timeout(waiting, self.idle).unwrap_or_else(PoisonError::into_inner);
            waiting = woken;
            waiting.idle -= 1;
            if waited.timed_out() && waiting.jobs.is_empty() {
                waiting.threads -= 1;
                return None;
            }
        }
    }
}

/// Finds out whether the system gives this many more threads. tokio does not say: it panics where it gets none.
pub(crate) fn try_threads(count: usize) -> io::Result<()> {
    let gate = Mutex::new(());
    thread::scope(|scope| {
        // All of them live at once.
        let closed = locked(&gate);
        let start = |_| thread::Builder::new().spawn_scoped(scope, || drop(locked(&gate)));
        let started: Vec<_> = (0..count).map(start).collect();
        drop(closed);
        // To their very ends: the threads that are tried for come next.
        started.into_iter().try_for_each(|thread| thread.map(|thread| drop(thread.join())))
    })
}

#[cfg(test)]
mod schedules;

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc, Barrier,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc,
    };

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    fn pool(most: usize, idle: Duration, start: fn(Job) -> io::Result<()>) -> &'static ThreadPool {
        Box::leak(Box::new(ThreadPool::new(most, idle, start)))
    }

    fn start(job: Job) -> io::Result<()> {
        super::start("a test's", job)
    }

    #[test]
    fn jobs_are_done_in_the_order_in_which_they_came() {
        let (pool, (done, order)) = (pool(1, LONG, start), mpsc::channel());
        for number in 0..100 {
            let done = done.clone();
            pool.run(move || done.send(number).unwrap()).unwrap();
        }
        drop(done);
        assert!(order.iter().eq(0..100));
    }

    #[test]
    fn no_more_threads_than_the_most_are_started_and_no_more_than_are_needed() {
        let pool = pool(3, LONG, start);
        let (done, jobs) = mpsc::channel();
        // One after the other needs one thread.
        for number in 0..10 {
            let done = done.clone();
            pool.run(move || done.send(number).unwrap()).unwrap();
            jobs.recv().unwrap();
            while locked(&pool.waiting).idle == 0 {
                thread::yield_now();
            }
        }
        assert_eq!(locked(&pool.waiting).threads, 1);
        let (busy, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        // Three at a time meet; a fourth would make it hang.
        let barrier = Arc::new(Barrier::new(3));
        for number in 0..30 {
            let (busy, most, barrier, done) =
                (Arc::clone(&busy), Arc::clone(&most), Arc::clone(&barrier), done.clone());
            let job = move || {
                most.fetch_max(busy.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                barrier.wait();
                busy.fetch_sub(1, Ordering::SeqCst);
                done.send(number).unwrap();
            };
            pool.run(job).unwrap();
        }
        assert_eq!(jobs.iter().take(30).count(), 30);
        assert_eq!((most.load(Ordering::SeqCst), locked(&pool.waiting).threads), (3, 3));
    }

    #[test]
    fn idle_threads_end_and_start_again() {
        let (pool, (done, jobs)) = (pool(3, Duration::from_millis(1), start), mpsc::channel());
        for _ in 0..3 {
            let done = done.clone();
            pool.run(move || done.send(()).unwrap()).unwrap();
            jobs.recv().unwrap();
            while locked(&pool.waiting).threads > 0 {
                thread::yield_now();
            }
        }
    }

    #[test]
    fn without_a_thread_nothing_is_accepted_and_with_one_everything_is() {
        static MAY_START: AtomicBool = AtomicBool::new(false);
        let start = |job| {
            if MAY_START.swap(false, Ordering::SeqCst) {
                start(job)
            } else {
                Err(io::ErrorKind::WouldBlock.into())
            }
        };
        let (pool, (done, jobs)) = (pool(3, LONG, start), mpsc::channel());
        let run = || {
            let done = done.clone();
            pool.run(move || done.send(()).unwrap())
        };
        assert_eq!(run().unwrap_err().kind(), io::ErrorKind::WouldBlock);
        assert!(locked(&pool.waiting).jobs.is_empty());
        MAY_START.store(true, Ordering::SeqCst);
        for _ in 0..10 {
            run().unwrap();
        }
        assert_eq!(jobs.iter().take(10).count(), 10);
        assert_eq!(locked(&pool.waiting).threads, 1);
    }

    #[test]
    fn a_job_that_panics_costs_no_thread() {
        let (pool, (done, jobs)) = (pool(1, LONG, start), mpsc::channel());
        pool.run(|| std::panic::resume_unwind(Box::new("a job"))).unwrap();
        pool.run(move || done.send(()).unwrap()).unwrap();
        jobs.recv().unwrap();
        assert_eq!(locked(&pool.waiting).threads, 1);
    }

    #[test]
    fn threads_that_are_tried_leave_nothing_behind() {
        for count in [0, 1, 8] {
            try_threads(count).unwrap();
        }
    }
}
