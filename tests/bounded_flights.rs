//! Flights are bounded, and at the system's limits a renewal fails with an error that passes: promise 3 of docs/promises.md.
//!
//! Threads and descriptors are those of a whole process, so each test runs in a process of its own.

#![cfg(all(feature = "simulator", target_os = "linux"))]
#![allow(
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "figures are results, and times are real"
)]

#[path = "../benches/support/server.rs"]
#[allow(
    dead_code,
    unreachable_pub,
    clippy::disallowed_methods,
    reason = "the benches use the rest, and measure real time"
)]
mod server;
mod support;

use std::{
    fs, io, panic,
    sync::{
        Arc, Barrier, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant, SystemTime},
};

use concur_auth::{
    Clock as _, Credentials, ErrorKind, KeepAlive, MemoryStore, OAuthClient, RefreshTokenObject, SystemClock,
    TokenManager, simulator::ConcurSimulator,
};
use server::Server;
use support::{all_succeed, alone, child, really_wait, until};
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};

/// Threads of this crate's own that flights run on.
const MOST: usize = 64;

/// A manager of its own for each company, all on one client, each with a refresh token and no access token.
fn managers(count: usize, server: &Server) -> Vec<TokenManager> {
    let client = OAuthClient::new();
    let manager = |company: usize| {
        let json = format!(
            r#"{{"refresh_token": "{company:036}", "refresh_expires_in": 9999999999, "companyUUID": "{company}"}}"#
        );
        TokenManager::builder()
            .credentials(Credentials::new("app", "secret").company(company.to_string(), ""))
            .oauth_client(client.clone())
            .base_uri(&server.uri)
            .store(MemoryStore::with(RefreshTokenObject::from_json(&json).unwrap()))
            .build()
            .unwrap()
    };
    (0..count).map(manager).collect()
}

fn runtime(blocking_threads: usize) -> Runtime {
    let mut builder = Builder::new_multi_thread();
    builder.worker_threads(2).thread_name("program").max_blocking_threads(blocking_threads);
    builder.enable_all().build().unwrap()
}

/// The names of this process's threads, which Linux cuts after 15 letters.
fn threads_named(name: &str) -> usize {
    let tasks = fs::read_dir("/proc/self/task").unwrap().flatten();
    // A thread may end before its name is read.
    let names = tasks.filter_map(|task| fs::read_to_string(task.path().join("comm")).ok());
    names.filter(|found| found.trim_end() == name).count()
}

fn count(folder: &str) -> usize {
    fs::read_dir(folder).unwrap().count()
}

#[tokio::test]
async fn however_many_managers_renew_64_flights_run_and_the_programs_threads_stay_its_own() {
    let _alone = alone().await;
    all_succeed(vec![child("three_hundred_managers_renew").spawn().unwrap()]);
}

#[test]
#[ignore = "runs as a child process"]
fn three_hundred_managers_renew() {
    const MANAGERS: usize = 300;
    /// One of them is for the flights.
    const BLOCKING_THREADS: usize = 3;
    let (server, runtime) = (Server::start(), runtime(BLOCKING_THREADS));
    let managers = managers(MANAGERS, &server);
    let before = (count("/proc/self/task"), count("/proc/self/fd"));
    server.hold();
    let calls: Vec<_> = managers
        .iter()
        .cloned()
        .map(|tokens| runtime.spawn(async move { tokens.access_token().await }))
        .collect();
    runtime.block_on(until(|| server.requests() == MOST));
    // As long as a program's own work may take until it has all threads but one at once.
    let all_there = Arc::new(Barrier::new(BLOCKING_THREADS - 1));
    let own_work: Vec<_> = (1..BLOCKING_THREADS)
        .map(|_| {
            let all_there = Arc::clone(&all_there);
            runtime.spawn_blocking(move || all_there.wait())
        })
        .collect();
    for work in own_work {
        runtime.block_on(work).unwrap();
    }
    assert_eq!((threads_named("concur-auth-fli"), server.requests()), (MOST, MOST));
    // Beside the flights: this crate's worker, its first blocking thread, and the program's three.
    assert!(count("/proc/self/task") - before.0 <= MOST + 2 + BLOCKING_THREADS);
    // Both ends of each connection, and what the runtime itself has.
    let descriptors = count("/proc/self/fd") - before.1;
    assert!(descriptors <= 2 * MOST + 8, "{descriptors}");
    server.release();
    for call in calls {
        runtime.block_on(call).unwrap().unwrap();
    }
    assert_eq!(server.requests(), MANAGERS);
}

/// Their callers end with the runtime.
#[tokio::test]
async fn a_runtime_ends_without_waiting_for_flights_that_no_caller_needs() {
    let _alone = alone().await;
    all_succeed(vec![child("returns_with_queued_flights").spawn().unwrap()]);
}

#[test]
#[ignore = "runs as a child process"]
fn returns_with_queued_flights() {
    let (server, runtime) = (Server::start(), runtime(3));
    let managers = managers(MOST + 100, &server);
    server.hold();
    for tokens in &managers {
        let tokens = tokens.clone();
        runtime.spawn(async move { tokens.access_token().await });
    }
    runtime.block_on(until(|| server.requests() == MOST));
    let ended = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            drop(runtime);
            ended.store(true, Ordering::SeqCst);
        });
        let outer = Builder::new_current_thread().enable_all().build().unwrap();
        outer.block_on(really_wait(Duration::from_millis(300)));
        assert!(!ended.load(Ordering::SeqCst), "it waits for those that have begun");
        server.release();
        outer.block_on(until(|| ended.load(Ordering::SeqCst)));
    });
    let served = managers.iter().filter(|tokens| tokens.status().access_token_valid).count();
    assert_eq!((server.requests(), served), (MOST, MOST), "those that were queued have sent nothing");
}

/// For the figures in the documentation: `cargo test --all-features --test bounded_flights -- --ignored --nocapture
/// --exact two_thousand_at_once`.
#[test]
#[ignore = "a measurement; takes a while"]
fn two_thousand_at_once() {
    let before = (count("/proc/self/task"), count("/proc/self/fd"));
    for kept_alive in [false, true] {
        let (server, runtime) = (Server::start(), runtime(512));
        let managers = managers(2000, &server);
        let failed = AtomicUsize::new(0);
        let peak = (AtomicUsize::new(0), AtomicUsize::new(0));
        let done = AtomicBool::new(false);
        let own_work = Mutex::new(Duration::ZERO);
        let start = Instant::now();
        thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::SeqCst) {
                    peak.0.fetch_max(count("/proc/self/task"), Ordering::SeqCst);
                    peak.1.fetch_max(count("/proc/self/fd"), Ordering::SeqCst);
                    thread::sleep(Duration::from_millis(2));
                }
            });
            server.hold();
            let mut kept: Vec<KeepAlive> = Vec::new();
            let calls: Vec<_> = managers
                .iter()
                .cloned()
                .map(|tokens| {
                    if kept_alive {
                        kept.push(runtime.block_on(tokens.keep_alive()).unwrap());
                        runtime.spawn(async move {
                            until_valid(&tokens).await;
                            true
                        })
                    } else {
                        runtime.spawn(async move { tokens.access_token().await.is_ok() })
                    }
                })
                .collect();
            // Two seconds in which Concur answers nobody.
            let asked = Instant::now();
            while asked.elapsed() < Duration::from_secs(2) {
                let start = Instant::now();
                runtime.block_on(runtime.spawn_blocking(|| ())).unwrap();
                let mut longest = own_work.lock().unwrap();
                *longest = longest.max(start.elapsed());
                drop(longest);
                thread::sleep(Duration::from_millis(20));
            }
            server.release();
            for call in calls {
                failed.fetch_add(usize::from(!runtime.block_on(call).unwrap()), Ordering::SeqCst);
            }
            done.store(true, Ordering::SeqCst);
        });
        println!(
            "{}: {} threads and {} descriptors at most, {} failed, {:?} in all, the longest spawn_blocking of the program {:?}",
            if kept_alive { "2,000 keep-alives" } else { "2,000 renewals" },
            peak.0.load(Ordering::SeqCst) - before.0,
            peak.1.load(Ordering::SeqCst) - before.1,
            failed.load(Ordering::SeqCst),
            start.elapsed(),
            own_work.lock().unwrap(),
        );
    }
}

async fn until_valid(tokens: &TokenManager) {
    while !tokens.status().access_token_valid {
        SystemClock.sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn at_a_limit_of_threads_valid_tokens_are_served_and_nothing_panics() {
    let _alone = alone().await;
    if let Some(mut child) = support::as_a_user_with(60, "runs_out_of_threads") {
        all_succeed(vec![child.spawn().unwrap()]);
    }
}

#[tokio::test]
async fn at_a_limit_of_descriptors_valid_tokens_are_served_and_nothing_panics() {
    let _alone = alone().await;
    all_succeed(vec![child("runs_out_of_descriptors").spawn().unwrap()]);
}

/// All threads that this user may have, until it is dropped.
struct Taken(Arc<AtomicBool>, Vec<thread::JoinHandle<()>>);

impl Taken {
    fn all_threads() -> Self {
        let free = Arc::new(AtomicBool::new(false));
        let mut threads = Vec::new();
        loop {
            let freed = Arc::clone(&free);
            let park = move || {
                while !freed.load(Ordering::SeqCst) {
                    thread::park();
                }
            };
            match thread::Builder::new().spawn(park) {
                Ok(thread) => threads.push(thread),
                Err(e) => {
                    assert_eq!(e.kind(), io::ErrorKind::WouldBlock);
                    assert!(!threads.is_empty() && threads.len() < 100, "{}", threads.len());
                    return Self(free, threads);
                }
            }
        }
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
        for thread in self.1.drain(..) {
            thread.thread().unpark();
            thread.join().unwrap();
        }
    }
}

/// A simulated Concur, and managers that hold an access token and have had no flight so far.
struct Stage {
    runtime: Runtime,
    concur: ConcurSimulator,
    panics: Arc<AtomicUsize>,
}

impl Stage {
    fn new() -> Self {
        let panics = Arc::new(AtomicUsize::new(0));
        let (counted, shown) = (Arc::clone(&panics), panic::take_hook());
        panic::set_hook(Box::new(move |info| {
            counted.fetch_add(1, Ordering::SeqCst);
            shown(info);
        }));
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let concur = runtime.block_on(ConcurSimulator::builder().start());
        Self { runtime, concur, panics }
    }

    /// Its access token expires in so many seconds.
    fn holding(&self, seconds: u64) -> (TokenManager, TempDir) {
        let dir = tempfile::tempdir().unwrap();
        let mut stored: serde_json::Value = serde_json::from_str(&self.concur.token_json()).unwrap();
        let now = SystemClock.now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        stored["access_token"] = HELD.into();
        stored["expires_in"] = 3600.into();
        stored["accessTokenExpiresAt"] = (now + seconds).into();
        fs::write(dir.path().join("credentials.json"), self.concur.credentials_json()).unwrap();
        fs::write(dir.path().join("refreshTokenObjectFile.json"), stored.to_string()).unwrap();
        let tokens = self.runtime.block_on(async {
            let tokens = TokenManager::load_from(dir.path()).await.unwrap();
            tokens.get_valid_refresh_token().await.unwrap();
            tokens
        });
        assert_eq!(threads_named("concur-auth"), 0);
        (tokens, dir)
    }

    fn access(&self, tokens: &TokenManager) -> Result<String, concur_auth::Error> {
        self.runtime.block_on(tokens.access_token()).map(|access| access.secret().to_owned())
    }

    /// Whatever the limit is: served while valid, otherwise an error that passes, and renewed when it has passed.
    fn is_served_while_valid<T>(&self, take: impl Fn() -> T) -> (TokenManager, TempDir) {
        let (advisory, mandatory, expired) = (self.holding(180), self.holding(50), self.holding(0));
        let taken = take();
        for (valid, _) in [&advisory, &mandatory] {
            assert_eq!(self.access(valid).unwrap(), HELD);
        }
        let error = self.access(&expired.0).unwrap_err();
        assert!(error.kind() == ErrorKind::Unavailable && error.is_transient(), "{error:?}");
        assert_eq!(
            error.to_string(),
            "could not start the background threads that do this crate's I/O; check this process's limits on threads and \
             open files"
        );
        let error = self.runtime.block_on(expired.0.keep_alive()).map(drop).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        drop(taken);
        assert_eq!((self.concur.token_requests(), threads_named("concur-auth")), (0, 0));
        for (tokens, _) in [&advisory, &mandatory, &expired] {
            assert_ne!(self.access(tokens).unwrap(), HELD);
        }
        assert_eq!(self.panics.load(Ordering::SeqCst), 0);
        expired
    }
}

const HELD: &str = "the-held-one";
#[test]
#[ignore = "runs as a child process, as a user that may have few threads"]
fn runs_out_of_threads() {
    let stage = Stage::new();
    let (tokens, _dir) = stage.is_served_while_valid(Taken::all_threads);

    // From now on this crate has threads, and what can wait for one is done, also for a runtime that gets no thread.
    let bare = Builder::new_current_thread().enable_all().build().unwrap();
    let taken = Taken::all_threads();
    let before = stage.concur.token_requests();
    for runtime in [&stage.runtime, &bare, &stage.runtime] {
        runtime.block_on(tokens.refresh()).unwrap();
    }
    assert_eq!(stage.concur.token_requests(), before + 3);
    // And the program's own runtime works as before.
    drop(taken);
    bare.block_on(bare.spawn_blocking(|| ())).unwrap();
    bare.block_on(tokens.refresh()).unwrap();
    assert_eq!(stage.panics.load(Ordering::SeqCst), 0);
}

#[test]
#[ignore = "runs as a child process"]
fn runs_out_of_descriptors() {
    let all_descriptors = || {
        let mut open = Vec::new();
        while let Ok(file) = fs::File::open("/dev/null") {
            open.push(file);
        }
        open
    };
    Stage::new().is_served_while_valid(all_descriptors);
}
