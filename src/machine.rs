//! What a renewal takes from the machine that it runs on: the time, chance, and threads.
//!
//! Always: handed in, never reached for, so that a test can be the machine: thousands of simulated processes then run on
//! one thread, and a seed repeats the run.

use std::{fmt, future::Future, io, pin::Pin, process, sync::Arc, time::Duration};

use tokio::runtime::Handle;

use crate::{Clock, Error, ErrorKind, SystemClock, keeper::keep, random::Random, runtime, threads};

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
    /// Runs work that the end of the caller's runtime should wait for. If that ends before the work has begun, the work is
    /// dropped, or, with `for_no_runtime`, begins nevertheless.
    fn launch(&self, work: Work, for_no_runtime: bool) -> Result<(), Error>;

    /// Runs work that may block its thread, as a slow disk does.
    fn spawn_blocking(&self, work: Work) -> Result<(), Error>;

    /// Runs work that blocks no thread.
    fn spawn(&self, work: Work) -> Result<(), Error>;

    /// Ready once this much real time has passed, whatever an injected clock says.
    fn wait(&self, time: Duration) -> Work;

    /// The process id. A forked child has another.
    fn process(&self) -> u32;
}

/// The threads of this process: those for flights and stores, and that of this crate's runtime.
#[derive(Debug)]
pub(crate) struct Threads;

impl Executor for Threads {
    fn launch(&self, work: Work, for_no_runtime: bool) -> Result<(), Error> {
        let ours = runtime::handle()?;
        // This crate's own runtime never ends.
        let callers = Handle::try_current().ok().filter(|callers| callers.id() != ours.id());
        let mut kept = callers.filter(|_| !for_no_runtime).map(|callers| keep(&callers));
        let begin_and_end = move || {
            if kept.as_mut().is_none_or(|kept| kept.begin()) {
                ours.block_on(work);
            }
        };
        threads::for_flights().run(begin_and_end).map_err(no_thread)
    }

    fn spawn_blocking(&self, work: Work) -> Result<(), Error> {
        let ours = runtime::handle()?;
        threads::for_stores().run(|| ours.block_on(work)).map_err(no_thread)
    }

    fn spawn(&self, work: Work) -> Result<(), Error> {
        runtime::handle()?.spawn(work);
        Ok(())
    }

    fn wait(&self, time: Duration) -> Work {
        SystemClock.sleep(time)
    }

    fn process(&self) -> u32 {
        process::id()
    }
}

fn no_thread(e: io::Error) -> Error {
    Error::new(
        ErrorKind::Unavailable,
        "could not start a thread for the renewal; check this process's limits on threads and memory",
    )
    .caused_by(e)
}
