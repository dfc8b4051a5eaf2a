//! A worker: a process of its own that renews one company's tokens in PostgreSQL, and what its log says afterwards.
//!
//! Always: the log has a line before each step and after it, each written by one system call. So what a process that was
//! killed or suspended had done and not done can be read in it, to the step.

use std::{
    fmt::Arguments,
    fs::{self, File},
    future::Future,
    io::{self, Write as _},
    path::{Path, PathBuf},
    pin::Pin,
    process::{Child, Stdio},
    sync::Arc,
    time::{Duration, SystemTime},
};

use concur_auth::{
    Clock, CredentialsFile, Error, PostgresStore, RefreshTokenObject, StoreLock, Stored, SystemClock,
    TokenManager, TokenStore,
};
use tracing_subscriber::{EnvFilter, fmt::MakeWriter};

use crate::{
    PRINCIPAL,
    postgres::{is_running, kill, wait_until},
    support::{child, really_wait},
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

/// A worker process.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) process: Child,
    pub(crate) log: PathBuf,
}

impl Worker {
    /// With the credentials and the log in `folder`.
    pub(crate) fn start(folder: &Path, name: &str, url: &str, limits: Limits, work: Work) -> Self {
        let log = folder.join(format!("{name}.log"));
        let Limits { lease, doubt, late_save } = limits;
        let [lease, doubt, late_save] = [lease, doubt, late_save].map(|it| it.as_millis().to_string());
        let mut command = child("works");
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command.envs([("DATABASE", url), ("WORK", &format!("{work:?}"))]);
        command.envs([("LEASE", lease), ("DOUBT", doubt), ("LATE_SAVE", late_save)]);
        command.env("DIR", folder).env("LOG", &log);
        Self { process: command.spawn().unwrap(), log }
    }

    pub(crate) fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Returns when all its threads stand still.
    pub(crate) fn suspend(&self) {
        assert!(kill("STOP", self.process.id()));
        assert!(wait_until(|| stands_still(self.process.id())), "it does not stop");
    }

    pub(crate) fn go_on(&self) {
        assert!(kill("CONT", self.process.id()));
    }

    pub(crate) fn is_running(&self) -> bool {
        is_running(self.process.id())
    }

    pub(crate) fn log(&self) -> Log {
        Log::read(&self.log)
    }

    /// What came of [`Work::RefreshOnce`], once the process has ended.
    pub(crate) fn outcome(&mut self) -> String {
        assert!(self.process.wait().unwrap().success(), "{}", fs::read_to_string(&self.log).unwrap());
        self.log().outcome().to_owned()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn stands_still(process: u32) -> bool {
    let Ok(threads) = fs::read_dir(format!("/proc/{process}/task")) else {
        // A system without /proc: the signal has been delivered at least.
        return true;
    };
    threads.flatten().all(|thread| {
        let stat = fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
        stat.contains(") T ") || stat.contains(") t ")
    })
}

// ---------------------------------------------------------------------------------------------------------------------
// The log.

/// The lines of a worker's log, as far as they are whole.
#[derive(Debug)]
pub(crate) struct Log(pub(crate) Vec<String>);

/// One token request of a worker, as its log tells.
#[derive(Debug, Default)]
pub(crate) struct Sent {
    /// The refresh token that it presents; `None` for a sign-in.
    pub(crate) presented: Option<String>,
    /// The line of the last look at the lease before it.
    pub(crate) checked: usize,
    pub(crate) is_refused: bool,
    /// The refresh token of its reply, if the worker came as far as saving it.
    pub(crate) issued: Option<String>,
    /// The line that tells of the end of its save, if there is one, and whether the reply was saved.
    pub(crate) settled: Option<(usize, bool)>,
}

impl Log {
    pub(crate) fn read(path: &Path) -> Self {
        let text = fs::read_to_string(path).unwrap_or_default();
        Self(text.split_inclusive('\n').filter(|line| line.ends_with('\n')).map(str::to_owned).collect())
    }

    pub(crate) fn outcome(&self) -> &str {
        let line = self.0.iter().rev().find_map(|line| line.strip_prefix("OUTCOME "));
        line.unwrap_or_default().trim_end()
    }

    /// All requests for a token, in their order.
    pub(crate) fn sent(&self) -> Vec<Sent> {
        let (mut checked, mut stored, mut all) = (0, None, Vec::<Sent>::new());
        for (number, line) in self.0.iter().enumerate() {
            let line = line.trim_end();
            if line == "CLOCK" {
                checked = number;
            } else if let Some(token) = line.strip_prefix("READ ") {
                stored = Some(token.to_owned());
            } else if line.contains(": token request sent ") {
                let presented = stored.clone().filter(|_| line.contains("grant=\"refresh_token\""));
                all.push(Sent { presented, checked, ..Sent::default() });
            } else if let Some(last) = all.last_mut() {
                if line.contains(": token request failed ") {
                    last.is_refused = true;
                } else if let Some(token) = line.strip_prefix("SAVING ") {
                    last.issued.get_or_insert(token.to_owned());
                } else if matches!(line, "SAVED" | "SUPERSEDED") {
                    last.settled.get_or_insert((number, line == "SAVED"));
                }
            }
        }
        all
    }
}

/// Clones append to the same file.
#[derive(Clone, Debug)]
struct Writer(Arc<File>);

impl Writer {
    fn line(&self, line: Arguments<'_>) {
        (&*self.0).write_all(format!("{line}\n").as_bytes()).unwrap();
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

/// The machine's clock. Each look at the monotonic clock is a line of the log: the last one before a request is the check of
/// the lease. The minutes of `keep_alive` take a tenth of a second.
#[derive(Debug)]
struct Looked(Writer);

impl Clock for Looked {
    fn now(&self) -> SystemTime {
        SystemClock.now()
    }

    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let is_of_keep_alive = duration > Duration::from_secs(5);
        SystemClock.sleep(if is_of_keep_alive { duration / 600 } else { duration })
    }

    fn monotonic(&self) -> Duration {
        self.0.line(format_args!("CLOCK"));
        SystemClock.monotonic()
    }
}

/// A store whose reads under the lock are lines of the log, and its saves, before and after.
#[derive(Debug)]
struct Told(PostgresStore, Writer);

impl Told {
    async fn save(
        &self,
        token: &RefreshTokenObject,
        save: impl Future<Output = Result<(), Error>>,
    ) -> Result<(), Error> {
        self.1.line(format_args!("SAVING {}", token.secret()));
        let saved = save.await;
        match &saved {
            Ok(()) => self.1.line(format_args!("SAVED")),
            Err(e) if e.to_string().starts_with("another process has saved a newer token") => {
                self.1.line(format_args!("SUPERSEDED"))
            }
            Err(e) => self.1.line(format_args!("NOT SAVED {e}")),
        }
        saved
    }
}

impl TokenStore for Told {
    async fn load(&self) -> Result<Option<RefreshTokenObject>, Error> {
        self.0.load().await
    }

    async fn save(&self, token: &RefreshTokenObject, lock: &StoreLock) -> Result<(), Error> {
        self.save(token, self.0.save(token, lock)).await
    }

    async fn remove(&self, lock: &StoreLock) -> Result<(), Error> {
        self.0.remove(lock).await
    }

    async fn try_lock(&self) -> Result<Option<StoreLock>, Error> {
        self.0.try_lock().await
    }

    async fn try_lock_ahead_of_time(&self) -> Result<Option<StoreLock>, Error> {
        self.0.try_lock_ahead_of_time().await
    }

    async fn prolong(&self, lock: &StoreLock) -> Result<Duration, Error> {
        self.0.prolong(lock).await
    }

    async fn unlock(&self, lock: StoreLock) {
        self.0.unlock(lock).await;
    }

    async fn read(&self) -> Result<Stored, Error> {
        self.0.read().await
    }

    async fn read_locked(&self, lock: &StoreLock) -> Result<Stored, Error> {
        let stored = self.0.read_locked(lock).await?;
        if let Some(token) = &stored.token {
            self.1.line(format_args!("READ {}", token.secret()));
        }
        Ok(stored)
    }

    async fn rehearse(&self, held: Option<&RefreshTokenObject>, lock: &StoreLock) -> Result<(), Error> {
        self.0.rehearse(held, lock).await
    }

    async fn finish(
        &self,
        token: &RefreshTokenObject,
        note: Option<&str>,
        lock: &StoreLock,
    ) -> Result<(), Error> {
        self.save(token, self.0.finish(token, note, lock)).await
    }

    async fn remember(&self, note: Option<&str>, lock: &StoreLock) -> Result<(), Error> {
        self.0.remember(note, lock).await
    }

    fn longest_poll(&self) -> Duration {
        self.0.longest_poll()
    }

    fn reads_by_locking(&self) -> bool {
        self.0.reads_by_locking()
    }

    fn describe(&self) -> String {
        self.0.describe()
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// The process.

/// The body of the child's test: ends when its work does, or when a file `stop` is there.
pub(crate) async fn work() {
    let text = |name: &str| std::env::var(name).unwrap();
    let duration = |name: &str| Duration::from_millis(text(name).parse().unwrap());
    let folder = PathBuf::from(text("DIR"));
    let file = File::options().create(true).append(true).open(text("LOG")).unwrap();
    let log = Writer(Arc::new(file));
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new("concur_auth=debug"))
        .with_writer(log.clone())
        .without_time()
        .with_ansi(false)
        .init();
    let store = PostgresStore::new(&text("DATABASE"), PRINCIPAL)
        .unwrap()
        .lease(duration("LEASE"))
        .doubt(duration("DOUBT"))
        .late_save(duration("LATE_SAVE"));
    let tokens = TokenManager::builder()
        .credentials(CredentialsFile::new(folder.join("credentials.json")))
        .store(Told(store, log.clone()))
        .clock(Looked(log.clone()))
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
