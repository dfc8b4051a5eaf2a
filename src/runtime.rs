//! The process-wide runtime that a flight's I/O runs on.
//!
//! HTTP connections belong to the runtime that opened them. Callers' runtimes come and go, so pooled connections live
//! here instead. It has one worker thread, which is made at the first flight and never ends, so that it also notices
//! between flights that a server has closed a pooled connection.
//!
//! Always: a lack of threads is an error, not a panic. tokio panics when it has no blocking thread and gets none, so this
//! runtime's first blocking thread is made with it, and none ever ends.

use std::{
    io,
    panic::catch_unwind,
    sync::{Mutex, OnceLock},
    time::Duration,
};

use tokio::runtime::{Builder, Handle, Runtime};

use crate::{Error, ErrorKind, caught::locked, per_process::PerProcess, threads};

/// Blocking threads, which look up host names: one for each flight.
const MOST_BLOCKING_THREADS: usize = threads::MOST;
const FOR_EVER: Duration = Duration::from_secs(u32::MAX as u64);

static OURS: PerProcess<Ours> = PerProcess::new(Ours::default);

#[derive(Default)]
struct Ours {
    runtime: OnceLock<Runtime>,
    /// Locked while the runtime is made: the loser of a race would have to drop a runtime, which async code must not do.
    making: Mutex<()>,
}

pub(crate) fn handle() -> Result<&'static Handle, Error> {
    let ours = OURS.get();
    if let Some(runtime) = ours.runtime.get() {
        return Ok(runtime.handle());
    }
    let _alone = locked(&ours.making);
    if let Some(runtime) = ours.runtime.get() {
        return Ok(runtime.handle());
    }
    let runtime = make().map_err(|e| {
        Error::new(
            ErrorKind::Unavailable,
            "could not start the background threads that do this crate's I/O; \
             check this process's limits on threads and open files",
        )
        .caused_by(e)
    })?;
    Ok(ours.runtime.get_or_init(|| runtime).handle())
}

fn make() -> io::Result<Runtime> {
    // The worker, the blocking thread, and one to spare: a thread that has ended counts for a moment longer.
    threads::try_threads(3)?;
    let made = catch_unwind(|| {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .max_blocking_threads(MOST_BLOCKING_THREADS)
            .thread_keep_alive(FOR_EVER)
            .thread_name("concur-auth")
            .enable_all()
            .build()?;
        runtime.spawn_blocking(|| ());
        Ok(runtime)
    });
    made.unwrap_or_else(|_| Err(io::ErrorKind::WouldBlock.into()))
}
