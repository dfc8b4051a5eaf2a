//! The process-wide runtime that a flight's I/O runs on.
//!
//! HTTP connections belong to the runtime that opened them. Callers' runtimes come and go, so pooled connections live
//! here instead. It has one worker thread, which is made at the first flight and never ends, so that it also notices
//! between flights that a server has closed a pooled connection.

use std::sync::{Mutex, OnceLock};

use tokio::runtime::{Builder, Handle, Runtime};

use crate::{Error, ErrorKind, caught::locked};

static RUNTIME: OnceLock<Runtime> = OnceLock::new();
/// Locked while the runtime is made: the loser of a race would have to drop a runtime, which async code must not do.
static MAKING: Mutex<()> = Mutex::new(());

pub(crate) fn handle() -> Result<&'static Handle, Error> {
    if let Some(runtime) = RUNTIME.get() {
        return Ok(runtime.handle());
    }
    let _alone = locked(&MAKING);
    if let Some(runtime) = RUNTIME.get() {
        return Ok(runtime.handle());
    }
    let runtime = Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("concur-auth")
        .enable_all()
        .build()
        .map_err(|e| {
            Error::new(
                ErrorKind::Config,
                "could not start the background thread that does this crate's I/O; \
                 check this process's limits on threads and open files",
            )
            .caused_by(e)
        })?;
    Ok(RUNTIME.get_or_init(|| runtime).handle())
}
