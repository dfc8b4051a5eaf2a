//! Stores with connections of their own: opened on the crate's runtime they outlive the program's, and a store that does
//! not answer holds up no caller (promise 3 of docs/promises.md). The store is that of `examples/own_database.rs`.

#![cfg(feature = "simulator")]

#[path = "../examples/own_database.rs"]
#[allow(dead_code, unreachable_pub, reason = "an example has a main")]
mod own_database;
mod support;

use std::{
    net::SocketAddr,
    panic,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use concur_auth::{
    Error, ErrorKind, MemoryStore, RefreshTokenObject, StoreLock, Stored, TokenManager, TokenStore,
    on_runtime, simulator::Rotation,
};
use own_database::{Database, server};
use support::{Scene, poll_and_drop, until, without_tokio};
use tokio::runtime::{Builder, Runtime};

const FLAVOURS: [fn() -> Builder; 2] = [Builder::new_current_thread, Builder::new_multi_thread];

fn runtime(flavour: fn() -> Builder) -> Runtime {
    flavour().enable_all().build().unwrap()
}

/// A Concur that rotates, an empty database, and how many connections were made to it.
struct Setting {
    scene: Scene,
    server: SocketAddr,
    connections: Arc<AtomicUsize>,
}

impl Setting {
    fn new() -> Self {
        let scene =
            runtime(Builder::new_current_thread).block_on(Scene::with(Rotation::AlwaysAndRevokeFamily));
        let (server, connections) = server::start().unwrap();
        Self { scene, server, connections }
    }

    fn manager(&self, store: impl TokenStore) -> TokenManager {
        self.scene.builder().store(store).build().unwrap()
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    fn is_stored_token_live(&self) -> bool {
        let stored = runtime(Builder::new_current_thread).block_on(Database::new(self.server).load());
        self.scene.concur.is_live(stored.unwrap().unwrap().secret())
    }

    /// As `main` does that returns while Concur has got the request, and has not answered yet.
    fn end_in_mid_flight(&self, main: Runtime, tokens: TokenManager) {
        let concur = &self.scene.concur;
        let (held, before) = (concur.hold_replies(), concur.token_requests());
        main.spawn(async move {
            // The reply comes when the ending runtime drops this caller.
            let _held = held;
            tokens.refresh().await
        });
        main.block_on(until(|| concur.token_requests() > before));
        drop(main);
    }
}

#[test]
fn a_connection_opened_in_a_renewal_outlives_main() {
    for flavour in FLAVOURS {
        let (setting, main) = (Setting::new(), runtime(flavour));
        let tokens = setting.manager(Database::new(setting.server));
        main.block_on(tokens.get_valid_refresh_token()).unwrap();
        setting.end_in_mid_flight(main, tokens);
        assert_eq!(setting.connections(), 1);
        assert!(setting.is_stored_token_live());
    }
}

#[test]
fn a_connection_made_by_on_runtime_outlives_main() {
    for flavour in FLAVOURS {
        let (setting, main) = (Setting::new(), runtime(flavour));
        let database = main.block_on(on_runtime(Database::connect(setting.server))).unwrap().unwrap();
        let tokens = setting.manager(database);
        setting.end_in_mid_flight(main, tokens);
        assert_eq!(setting.connections(), 1);
        assert!(setting.is_stored_token_live());
    }
}

/// Opens another connection for its second read, and does everything else over the newest one.
#[derive(Debug)]
struct ReconnectsToRead(SocketAddr, Mutex<Database>, AtomicUsize);

impl ReconnectsToRead {
    fn newest(&self) -> Database {
        self.1.lock().unwrap().clone()
    }
}

impl TokenStore for ReconnectsToRead {
    async fn load(&self) -> Result<Option<RefreshTokenObject>, Error> {
        self.newest().load().await
    }
    async fn read(&self) -> Result<Stored, Error> {
        if self.2.fetch_add(1, Ordering::Relaxed) == 1 {
            *self.1.lock().unwrap() = Database::new(self.0);
        }
        self.newest().read().await
    }
    async fn read_locked(&self, lock: &StoreLock) -> Result<Stored, Error> {
        self.newest().read_locked(lock).await
    }
    async fn save(&self, token: &RefreshTokenObject, lock: &StoreLock) -> Result<(), Error> {
        self.newest().save(token, lock).await
    }
    async fn remove(&self, lock: &StoreLock) -> Result<(), Error> {
        self.newest().remove(lock).await
    }
    async fn try_lock(&self) -> Result<Option<StoreLock>, Error> {
        self.newest().try_lock().await
    }
    async fn unlock(&self, lock: StoreLock) {
        self.newest().unlock(lock).await;
    }
}

/// The one call that a caller's own task could make in place.
#[test]
fn a_connection_opened_to_load_a_valid_token_outlives_main() {
    for flavour in FLAVOURS {
        let (setting, main) = (Setting::new(), runtime(flavour));
        let first = Mutex::new(Database::new(setting.server));
        let tokens = setting.manager(ReconnectsToRead(setting.server, first, AtomicUsize::new(0)));
        main.block_on(tokens.get_valid_refresh_token()).unwrap();
        assert_eq!(setting.connections(), 1, "of the renewal");
        main.block_on(tokens.get_valid_refresh_token()).unwrap();
        assert_eq!(setting.connections(), 2, "and of the look at the store");
        setting.end_in_mid_flight(main, tokens);
        assert_eq!(setting.connections(), 2);
        assert!(setting.is_stored_token_live());
    }
}

#[test]
fn a_runtime_for_each_call_works_on_one_connection() {
    for connects_at_once in [false, true] {
        let setting = Setting::new();
        let database = match connects_at_once {
            true => without_tokio(on_runtime(Database::connect(setting.server))).unwrap().unwrap(),
            false => Database::new(setting.server),
        };
        let tokens = setting.manager(database);
        for call in 0..20 {
            let runtime = runtime(Builder::new_current_thread);
            runtime.block_on(async {
                match call % 3 {
                    0 => drop(tokens.get_valid_refresh_token().await.unwrap()),
                    1 => drop(tokens.refresh().await.unwrap()),
                    _ => drop(tokens.access_token().await.unwrap()),
                }
            });
        }
        assert_eq!(setting.connections(), 1);
        assert!(setting.is_stored_token_live());
    }
}

/// The store was connected in a runtime of one thread, and that thread waits for it, so its connection stands still.
#[test]
fn a_call_that_blocks_the_thread_of_its_runtime_ends() {
    /// Blocks the thread that alone could bring the store's answer.
    fn blocked<T>(server: SocketAddr, call: impl Future<Output = Result<T, Error>>) {
        let error = without_tokio(call).map(drop).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!(
                "the database at {server} did not answer within 10 s; check that its server runs and can be reached"
            )
        );
        assert!(error.is_transient() && error.kind() == ErrorKind::Store);
    }
    let in_a_renewal = || {
        let (setting, main) = (Setting::new(), runtime(Builder::new_current_thread));
        main.block_on(async {
            let tokens = setting.manager(Database::connect(setting.server).await.unwrap());
            blocked(setting.server, tokens.access_token());
            // The next call makes a connection where it belongs.
            without_tokio(tokens.access_token()).unwrap();
        });
    };
    let in_a_look_at_the_store = || {
        let (setting, main) = (Setting::new(), runtime(Builder::new_current_thread));
        main.block_on(async {
            let tokens = setting.manager(Database::connect(setting.server).await.unwrap());
            // While the thread is free the store answers.
            tokens.get_valid_refresh_token().await.unwrap();
            blocked(setting.server, tokens.get_valid_refresh_token());
            without_tokio(tokens.get_valid_refresh_token()).unwrap();
        });
    };
    // Ten seconds each.
    thread::scope(|scope| {
        scope.spawn(in_a_renewal);
        scope.spawn(in_a_look_at_the_store);
    });
}

/// Blocks its thread in `read`, as a database library without `async` may.
#[derive(Debug)]
struct Blocks(MemoryStore, Arc<Mutex<()>>);

impl TokenStore for Blocks {
    async fn load(&self) -> Result<Option<RefreshTokenObject>, Error> {
        drop(self.1.lock().unwrap());
        self.0.load().await
    }
    async fn save(&self, token: &RefreshTokenObject, lock: &StoreLock) -> Result<(), Error> {
        self.0.save(token, lock).await
    }
    async fn remove(&self, lock: &StoreLock) -> Result<(), Error> {
        self.0.remove(lock).await
    }
}

/// It goes on, and once its call has ended callers are served what it brought.
#[test]
fn a_renewal_that_blocks_its_thread_holds_up_no_caller() {
    let (setting, main) = (Setting::new(), runtime(Builder::new_current_thread));
    let standstill = Arc::new(Mutex::new(()));
    let tokens = setting.manager(Blocks(MemoryStore::new(), Arc::clone(&standstill)));
    let blocked = standstill.lock().unwrap();
    main.block_on(async {
        // The second caller comes when the first one has been told, and waits for nothing.
        for _ in 0..2 {
            let error = tokens.access_token().await.unwrap_err();
            assert_eq!((error.kind(), error.is_transient()), (ErrorKind::Unavailable, true));
            assert_eq!(
                error.to_string(),
                "the renewal has stood still for 10 s or more and goes on waiting, because a call of the token store, of the \
                 credential source or of a log subscriber blocks its thread; find out which call, and what it waits for"
            );
        }
        assert_eq!(setting.scene.concur.token_requests(), 0);
        drop(blocked);
        // Until the flight gets on, callers are told that it stands still.
        while let Err(e) = tokens.access_token().await {
            assert_eq!(e.kind(), ErrorKind::Unavailable);
        }
        assert_eq!(setting.scene.concur.token_requests(), 1);
    });
}

#[tokio::test]
async fn what_is_made_on_the_runtime_comes_back_or_the_error_says_why_not() {
    assert_eq!(on_runtime(async { 7 }).await.unwrap(), 7);
    // It may block, and use the runtime again.
    let nested =
        async { without_tokio(on_runtime(async { 7 })).unwrap() + on_runtime(async { 1 }).await.unwrap() };
    assert_eq!(on_runtime(nested).await.unwrap(), 8);

    let quiet = panic::take_hook();
    panic::set_hook(Box::new(|_| {}));
    let error = on_runtime(async { panic!("a bug in the pool") }).await.map(|never: ()| never).unwrap_err();
    panic::set_hook(quiet);
    assert_eq!(error.kind(), ErrorKind::Config);
    assert_eq!(error.to_string(), "the future given to on_runtime panicked; see the panic's message");
}

/// Dropped before it is polled, it never begins; dropped later, it ends.
#[tokio::test]
async fn what_was_begun_on_the_runtime_ends_without_its_caller() {
    for (polls, expected) in [(0, 0), (1, 1)] {
        let (ended, open) = (Arc::new(AtomicUsize::new(0)), Arc::new(tokio::sync::Notify::new()));
        let (ends, wait) = (Arc::clone(&ended), Arc::clone(&open));
        let make = async move {
            wait.notified().await;
            ends.fetch_add(1, Ordering::Relaxed);
        };
        assert!(!poll_and_drop(on_runtime(make), polls).await);
        open.notify_one();
        until(|| ended.load(Ordering::Relaxed) == expected).await;
        assert!(expected == 1 || Arc::strong_count(&ended) == 1);
    }
}

/// As at a limit on threads.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn without_a_thread_to_be_had_making_a_pool_is_an_error() {
    let _alone = support::alone().await;
    if let Some(mut child) = support::as_a_user_with(30, "makes_a_pool_without_threads") {
        support::all_succeed(vec![child.spawn().unwrap()]);
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
#[ignore = "runs as a child process"]
async fn makes_a_pool_without_threads() {
    use std::{future::poll_fn, task::Poll};

    on_runtime(async {}).await.unwrap();
    let mut calls = Vec::new();
    let error = loop {
        assert!(calls.len() < 100, "there is no limit");
        let mut call = Box::pin(on_runtime(std::future::pending::<()>()));
        match poll_fn(|context| Poll::Ready(call.as_mut().poll(context))).await {
            Poll::Ready(made) => break made.unwrap_err(),
            Poll::Pending => calls.push(call),
        }
    };
    assert_eq!(
        error.to_string(),
        "could not start a thread for on_runtime; check this process's limits on threads and memory"
    );
    assert!(error.is_transient() && error.kind() == ErrorKind::Unavailable);
}
