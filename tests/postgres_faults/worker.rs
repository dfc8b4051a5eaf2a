//! A worker: a process of its own that renews one company's tokens in PostgreSQL.

use std::{
    future::Future,
    path::{Path, PathBuf},
    pin::Pin,
    time::{Duration, SystemTime},
};

use concur_auth::{Clock, CredentialsFile, Error, PostgresStore, SystemClock, TokenManager, TokenStore as _};

use crate::{
    PRINCIPAL,
    support::really_wait,
    workers::{Told, Worker, Writer, log_to},
};

/// The lease and the other limits of a worker's store.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) lease: Duration,
    pub(crate) doubt: Duration,
    pub(crate) late_save: Duration,
}

/// What a worker does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    /// Refreshes once, and ends.
    RefreshOnce,
    /// Refreshes again and again.
    Refresh,
    /// Refuses its access token, as an API does, and asks for another one, again and again.
    Invalidate,
    /// The same, and leaves the renewing to `keep_alive`.
    KeepAlive,
}

/// With the credentials and the log in `folder`.
pub(crate) fn start(folder: &Path, name: &str, url: &str, limits: Limits, work: Work) -> Worker {
    let Limits { lease, doubt, late_save } = limits;
    let times = [("LEASE", lease), ("DOUBT", doubt), ("LATE_SAVE", late_save)];
    let times = times.map(|(name, time)| (name, time.as_millis().to_string()));
    let settings = [("DATABASE", url.to_owned()), ("WORK", format!("{work:?}"))];
    Worker::start(folder, name, settings.into_iter().chain(times))
}

/// The machine's clock. Each look at the monotonic clock is a line of the log: the last one before a request is the check of
/// the lease. The minutes of `keep_alive` take a tenth of a second.
#[derive(Debug)]
struct Looked;

impl Clock for Looked {
    fn now(&self) -> SystemTime {
        SystemClock.now()
    }

    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let is_of_keep_alive = duration > Duration::from_secs(5);
        SystemClock.sleep(if is_of_keep_alive { duration / 600 } else { duration })
    }

    fn monotonic(&self) -> Duration {
        Writer::checked();
        SystemClock.monotonic()
    }
}

/// The body of the child's test: ends when its work does, or when a file `stop` is there.
pub(crate) async fn work() {
    let text = |name: &str| std::env::var(name).unwrap();
    let duration = |name: &str| Duration::from_millis(text(name).parse().unwrap());
    let folder = PathBuf::from(text("DIR"));
    let log = log_to(Path::new(&text("LOG")));
    let store = PostgresStore::new(&text("DATABASE"), PRINCIPAL)
        .unwrap()
        .lease(duration("LEASE"))
        .doubt(duration("DOUBT"))
        .late_save(duration("LATE_SAVE"));
    let tokens = TokenManager::builder()
        .credentials(CredentialsFile::new(folder.join("credentials.json")))
        .store(Told::new(store.boxed(), &log, "the company"))
        .clock(Looked)
        .build()
        .unwrap();
    let outcome = |outcome: Result<(), Error>| match outcome {
        Ok(()) => log.line(format_args!("OUTCOME done")),
        Err(e) => log.line(format_args!("OUTCOME {:?}", e.kind())),
    };
    let stop = folder.join("stop");
    let works = text("WORK");
    if works == "RefreshOnce" {
        return outcome(tokens.refresh().await.map(drop));
    }
    let _kept = match &*works {
        "KeepAlive" => Some(tokens.keep_alive().await.unwrap()),
        _ => None,
    };
    while !stop.exists() {
        let one = async {
            match &*works {
                "Refresh" => tokens.refresh().await.map(drop),
                _ => {
                    let access = tokens.access_token().await?;
                    tokens.invalidate(&access);
                    really_wait(Duration::from_millis(20)).await;
                    Ok(())
                }
            }
        };
        if let Err(e) = one.await {
            outcome(Err(e));
            // A loop that pays no attention must not fill the log.
            really_wait(Duration::from_millis(20)).await;
        }
    }
    outcome(tokens.shutdown(Duration::from_secs(60)).await);
}
