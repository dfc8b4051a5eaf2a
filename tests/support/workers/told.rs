//! How a worker tells its log of each step.

use std::{
    fmt::Arguments,
    fs::File,
    future::Future,
    io::{self, Write as _},
    path::Path,
    sync::Arc,
    time::Duration,
};

use concur_auth::{BoxedStore, Error, RefreshTokenObject, StoreLock, Stored, TokenStore};
use tracing_subscriber::{EnvFilter, fmt::MakeWriter};

/// The end of the line that a clock writes at each look at the lease: see [`Writer::checked`].
pub const CHECKED: &str = "CHECKED";

/// Clones append to the same file.
#[derive(Clone, Debug)]
pub struct Writer(Arc<File>);

/// The log, to which this crate's events go from now on.
pub fn log_to(path: &Path) -> Writer {
    let file = File::options().create(true).append(true).open(path).unwrap();
    let log = Writer(Arc::new(file));
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new("concur_auth=debug,told=debug"))
        .with_writer(log.clone())
        .without_time()
        .with_ansi(false)
        .init();
    log
}

impl Writer {
    pub fn line(&self, line: Arguments<'_>) {
        (&*self.0).write_all(format!("{line}\n").as_bytes()).unwrap();
    }

    /// As an event, because the span of the flight that looks at the clock says whose lease it looks at.
    pub fn checked() {
        tracing::debug!(target: "told", "CHECKED");
    }
}

impl io::Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (&*self.0).write(bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Writer {
    type Writer = Self;
    fn make_writer(&self) -> Self {
        self.clone()
    }
}

/// A store whose reads under the lock are lines of the log, and its saves, before and after. It is called `{NAME}`.
#[derive(Debug)]
pub struct Told {
    store: BoxedStore,
    log: Writer,
    name: String,
}

impl Told {
    pub fn new(store: BoxedStore, log: &Writer, name: &str) -> Self {
        Self { store, log: log.clone(), name: name.to_owned() }
    }

    fn tell(&self, what: Arguments<'_>) {
        self.log.line(format_args!("{{{}}} {what}", self.name));
    }

    async fn save(
        &self,
        token: &RefreshTokenObject,
        save: impl Future<Output = Result<(), Error>>,
    ) -> Result<(), Error> {
        self.tell(format_args!("SAVING {}", token.secret()));
        let saved = save.await;
        match &saved {
            Ok(()) => self.tell(format_args!("SAVED")),
            Err(e) if e.to_string().starts_with("another process has saved a newer token") => {
                self.tell(format_args!("SUPERSEDED"))
            }
            Err(e) => self.tell(format_args!("NOT SAVED {e}")),
        }
        saved
    }
}

impl TokenStore for Told {
    async fn load(&self) -> Result<Option<RefreshTokenObject>, Error> {
        self.store.load().await
    }

    async fn save(&self, token: &RefreshTokenObject, lock: &StoreLock) -> Result<(), Error> {
        self.save(token, self.store.save(token, lock)).await
    }

    async fn remove(&self, lock: &StoreLock) -> Result<(), Error> {
        self.store.remove(lock).await
    }

    async fn try_lock(&self) -> Result<Option<StoreLock>, Error> {
        self.store.try_lock().await
    }

    async fn try_lock_ahead_of_time(&self) -> Result<Option<StoreLock>, Error> {
        self.store.try_lock_ahead_of_time().await
    }

    async fn prolong(&self, lock: &StoreLock) -> Result<Duration, Error> {
        self.store.prolong(lock).await
    }

    async fn unlock(&self, lock: StoreLock) {
        self.store.unlock(lock).await;
    }

    async fn read(&self) -> Result<Stored, Error> {
        self.store.read().await
    }

    async fn read_locked(&self, lock: &StoreLock) -> Result<Stored, Error> {
        let stored = self.store.read_locked(lock).await?;
        if let Some(token) = &stored.token {
            self.tell(format_args!("READ {}", token.secret()));
        }
        Ok(stored)
    }

    async fn rehearse(&self, held: Option<&RefreshTokenObject>, lock: &StoreLock) -> Result<(), Error> {
        self.store.rehearse(held, lock).await
    }

    async fn finish(
        &self,
        token: &RefreshTokenObject,
        note: Option<&str>,
        lock: &StoreLock,
    ) -> Result<(), Error> {
        self.save(token, self.store.finish(token, note, lock)).await
    }

    async fn replace(&self, token: &RefreshTokenObject, lock: &StoreLock) -> Result<(), Error> {
        self.save(token, self.store.replace(token, lock)).await
    }

    async fn remember(&self, note: Option<&str>, lock: &StoreLock) -> Result<(), Error> {
        self.store.remember(note, lock).await
    }

    fn longest_poll(&self) -> Duration {
        self.store.longest_poll()
    }

    fn reads_by_locking(&self) -> bool {
        self.store.reads_by_locking()
    }

    fn is_local(&self) -> bool {
        self.store.is_local()
    }

    fn describe(&self) -> String {
        format!("{{{}}}", self.name)
    }
}
