//! What a renewal takes from the machine that it runs on: the time, chance, and threads.
//!
//! Always: handed in, never reached for, so that a test can be the machine: thousands of simulated processes then run on
//! one thread, and a seed repeats the run.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use tokio::runtime::Handle;

use crate::{Clock, Error, ErrorKind, SystemClock, caught::locked, random::Random, runtime};

/// How long a flight waits for a blocking thread of the caller's runtime. Real time: real threads are waited for.
const LONGEST_QUEUE: Duration = Duration::from_secs(1);

#[derive(Clone, Debug)]
pub(crate) struct Machine {
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) random: Arc<Random>,
    pub(crate) executor: Arc<dyn Executor>,
}

/// Work that does not end with the caller who started it.
pub(crate) type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Where work runs. Each of these returns at once; an error means that nothing will run.
pub(crate) trait Executor: fmt::Debug + Send + Sync {
    /// Runs work that the end of the caller's runtime should wait for. Work that has not begun by then is dropped, or, with
    /// `on_own_thread`, begins all the same.
    fn launch(&self, work: Work, on_own_thread: bool) -> Result<(), Error>;

    /// Runs work that may block its thread, as a slow disk does.
    fn spawn_blocking(&self, work: Work) -> Result<(), Error>;

    /// Runs work that blocks no thread.
    fn spawn(&self, work: Work) -> Result<(), Error>;

    /// Ready once this much real time has passed, whatever an injected clock says.
    fn wait(&self, time: Duration) -> Work;
}

/// The threads of this process: those of the caller's runtime, of this crate's own, and new ones.
#[derive(Debug)]
pub(crate) struct Threads;

impl Executor for Threads {
    /// Inside a blocking task of the caller's runtime, because a runtime waits for those when it ends.
    fn launch(&self, work: Work, on_own_thread: bool) -> Result<(), Error> {
        // Built here, so that a process without threads to spare learns that from an error.
        let ours = runtime::handle()?;
        match Handle::try_current() {
            Ok(callers) if !on_own_thread => {
                queue(work, &callers, ours);
                Ok(())
            }
            _ => on_a_thread(work, ours),
        }
    }

    fn spawn_blocking(&self, work: Work) -> Result<(), Error> {
        let ours = runtime::handle()?;
        ours.spawn_blocking(move || ours.block_on(work));
        Ok(())
    }

    fn spawn(&self, work: Work) -> Result<(), Error> {
        runtime::handle()?.spawn(work);
        Ok(())
    }

    fn wait(&self, time: Duration) -> Work {
        SystemClock.sleep(time)
    }
}

/// Queues `work` for a blocking thread of the caller's runtime. If none gets free within a second, the work runs on a thread
/// of its own: the callers who wait for it may be what keeps the threads busy.
fn queue(work: Work, callers: &Handle, ours: &'static Handle) {
    let work = Arc::new(Mutex::new(Some(work)));
    // Weak, so that work whose runtime ends while it is queued is dropped, and its callers know that it never began.
    let queued = Arc::downgrade(&work);
    let deadline = ours.spawn(async move {
        SystemClock.sleep(LONGEST_QUEUE).await;
        if let Some(work) = queued.upgrade().and_then(|work| locked(&work).take()) {
            // Without a thread to be had the work is dropped, which its callers notice.
            let _ = on_a_thread(work, ours);
        }
    });
    callers.spawn_blocking(move || {
        let work = locked(&work).take();
        if let Some(work) = work {
            deadline.abort();
            ours.block_on(work);
        }
    });
}

/// Not on a blocking thread of this crate's runtime: name resolution needs those, and flights would wait for themselves.
fn on_a_thread(work: Work, ours: &'static Handle) -> Result<(), Error> {
    let started = thread::Builder::new().name("concur-auth-flight".to_owned()).spawn(|| ours.block_on(work));
    started.map(drop).map_err(|e| {
        Error::new(
            ErrorKind::Config,
            "could not start a thread for the renewal; check this process's limits on threads and memory",
        )
        .caused_by(e)
    })
}
