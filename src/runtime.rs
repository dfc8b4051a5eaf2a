//! The process-wide runtime that a flight's I/O runs on.
//!
//! HTTP connections belong to the runtime that opened them. Callers' runtimes come and go, so pooled connections live
//! here instead. It has one worker thread, which is made at the first flight and never ends, so that it also notices
//! between flights that a server has closed a pooled connection.
//!
//! Always: a lack of threads is an error, not a panic. tokio panics when it has no blocking thread and gets none, so this
//! runtime's first blocking thread is made with it, and none ever ends.

use std::{
    future::Future,
    io,
    panic::catch_unwind,
    sync::{Mutex, OnceLock},
    thread,
    time::Duration,
};

use tokio::{
    runtime::{Builder, Handle, Runtime},
    sync::oneshot,
};

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

/// Runs `make` to its end on this crate's own runtime, for example to make a pool of connections there.
///
/// A connection belongs to the runtime that opened it. When `main` returns during a renewal, tokio closes the connections
/// of the program's own runtime before it waits for the renewal, so a [`TokenStore`](crate::TokenStore) on such a
/// connection could not save the new token. This crate's runtime lives as long as the process.
///
/// **Needed** for a pool or a client of a [`TokenStore`](crate::TokenStore) or a
/// [`CredentialSource`](crate::CredentialSource) that connects, or starts background tasks, when it is made. **Not
/// needed** for one that connects at its first use: all calls of a store or source run on this crate's runtime anyway.
/// Files and memory need no runtime.
///
/// `make` runs on a thread of its own, which it may block, and ends also if its caller is dropped. It works in any
/// executor, and inside the calls of a store too.
///
/// ```
/// use tokio::net::TcpStream;
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let server = std::net::TcpListener::bind("127.0.0.1:0")?;
/// # let database = server.local_addr()?;
/// // The outer error is on_runtime's, the inner one is the connection's.
/// let connection = concur_auth::on_runtime(TcpStream::connect(database)).await??;
/// # drop(connection);
/// # Ok(()) }
/// ```
///
/// # Errors
///
/// [`ErrorKind::Unavailable`] when no thread can be started; [`ErrorKind::Config`] when `make` panics.
pub async fn on_runtime<F>(make: F) -> Result<F::Output, Error>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    let ours = handle()?;
    let (told, made) = oneshot::channel();
    // Neither a task, which must not block the one worker, nor a thread of tokio's pool, which panics where there is none.
    let started = thread::Builder::new().name("concur-auth-run".to_owned()).spawn(move || {
        // An error means that the caller has gone.
        let _ = told.send(ours.block_on(make));
    });
    if let Err(e) = started {
        let message =
            "could not start a thread for on_runtime; check this process's limits on threads and memory";
        return Err(Error::new(ErrorKind::Unavailable, message).caused_by(e));
    }
    let panicked = "the future given to on_runtime panicked; see the panic's message";
    made.await.map_err(|_| Error::new(ErrorKind::Config, panicked))
}
