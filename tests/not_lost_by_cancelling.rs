//! Not lost by cancelling: a caller that goes away, a panic, or the end of the caller's runtime loses no rotated token
//! (promise 3 of docs/promises.md).

#![cfg(feature = "simulator")]

mod support;

use std::{
    panic,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use concur_auth::{
    Clock, CredentialSource, Credentials, CredentialsFile, Error, ErrorKind, JsonFileStore, SystemClock,
    TokenManager,
    simulator::{ConcurSimulator, ManualClock, Rotation},
};
use support::{HOUR, MINUTE, Scene, all_succeed, alone, child, poll_and_drop, until, without_tokio};

/// Callers are dropped after every number of polls there is; the server rotates every time.
#[tokio::test]
async fn callers_dropped_at_every_poll_lose_nothing() {
    let scene = Scene::with(Rotation::AlwaysAndRevokeFamily).await;
    let tokens = scene.manager();
    let mut times = 0;
    while !poll_and_drop(tokens.refresh(), times).await {
        // Whatever that left in the air comes to its end, and the next caller is served.
        tokens.refresh().await.unwrap();
        assert!(scene.concur.is_live(&scene.stored_refresh_token()), "after {times} polls");
        times += 1;
    }
    assert!(times > 1, "the future was ready too soon to be dropped");
    assert_eq!(scene.concur.count("password"), 1);
}

/// As above, but at moments that have nothing to do with the future's own.
#[tokio::test]
async fn callers_dropped_at_any_moment_lose_nothing() {
    let scene = Scene::with(Rotation::AlwaysAndRevokeFamily).await;
    let tokens = scene.manager();
    for moment in 0..200 {
        let call = tokio::spawn({
            let tokens = tokens.clone();
            async move { tokens.refresh().await }
        });
        for _ in 0..moment * 10 {
            tokio::task::yield_now().await;
        }
        call.abort();
    }
    tokens.shutdown(HOUR).await.unwrap();
    assert!(scene.concur.is_live(&scene.stored_refresh_token()));
    assert_eq!(scene.concur.count("password"), 1);
}

#[tokio::test]
async fn a_time_out_loses_nothing() {
    let scene = Scene::with(Rotation::AlwaysAndRevokeFamily).await;
    let tokens = scene.manager();
    tokens.access_token().await.unwrap();
    let held = scene.concur.hold_replies();
    {
        let mut call = Box::pin(tokens.refresh());
        tokio::select! {
            _ = &mut call => panic!("the reply is held back"),
            () = until(|| scene.concur.count("refresh_token") == 1) => {}
        }
    }
    held.release();
    tokens.shutdown(HOUR).await.unwrap();
    assert!(scene.concur.is_live(&scene.stored_refresh_token()));
    assert_eq!(scene.concur.token_requests(), 2);
}

#[tokio::test]
async fn an_abandoned_flight_spends_nothing() {
    use concur_auth::{JsonFileStore, TokenStore as _};
    let scene = Scene::new().await;
    let lock = JsonFileStore::new(scene.token_path()).try_lock().await.unwrap();
    let tokens = scene.manager();
    {
        let call = tokens.access_token();
        tokio::select! {
            _ = call => panic!("the lock is held"),
            () = until(|| scene.clock.sleepers() == 1) => {}
        }
    }
    scene.clock.advance(Duration::from_secs(1));
    tokens.shutdown(HOUR).await.unwrap();
    drop(lock);
    assert_eq!(scene.concur.token_requests(), 0);
    tokens.access_token().await.unwrap();
    assert_eq!(scene.concur.token_requests(), 1);
}

#[test]
fn the_end_of_a_runtime_loses_nothing_and_the_manager_lives_on() {
    let outer = runtime();
    let scene = outer.block_on(Scene::with(Rotation::AlwaysAndRevokeFamily));
    let tokens = scene.manager();
    for round in 1..=5 {
        let held = scene.concur.hold_replies();
        let inner = runtime();
        let call = tokens.clone();
        inner.spawn(async move {
            // The reply comes when the ending runtime drops this caller.
            let _held = held;
            call.refresh().await
        });
        inner.block_on(until(|| scene.concur.token_requests() == round));
        drop(inner);
        assert!(scene.concur.is_live(&scene.stored_refresh_token()), "round {round}");
    }
}

/// Whether the ending runtime still runs it or drops it, one request serves both callers.
#[test]
fn a_flight_queued_when_its_runtime_ends_still_serves_its_waiters() {
    let outer = runtime();
    let scene = outer.block_on(Scene::new());
    let tokens = scene.manager();

    let (unblock, blocked) = std::sync::mpsc::channel::<()>();
    let doomed = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .max_blocking_threads(1)
        .build()
        .unwrap();
    doomed.spawn_blocking(move || blocked.recv());
    // The first caller's flight is queued behind the blocked thread, and the second caller joins it.
    let mut first = Box::pin(tokens.access_token());
    assert!(!doomed.block_on(poll_once(&mut first)));
    outer.block_on(async {
        let mut second = Box::pin(tokens.access_token());
        assert!(!poll_once(&mut second).await);
        doomed.shutdown_background();
        unblock.send(()).unwrap();
        second.await.unwrap();
        first.await.unwrap();
    });
    assert_eq!(scene.concur.token_requests(), 1);
}

async fn poll_once<F: Future + Unpin>(future: &mut F) -> bool {
    use std::{pin::Pin, task::Poll};
    std::future::poll_fn(|context| Poll::Ready(Pin::new(&mut *future).poll(context).is_ready())).await
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// A flight given to a runtime that has ended never starts, has spent nothing, and is started again elsewhere.
#[test]
fn a_runtime_that_has_ended_but_is_still_entered_is_no_obstacle() {
    let outer = runtime();
    let scene = outer.block_on(Scene::new());
    let ended = runtime();
    let handle = ended.handle().clone();
    let _entered = handle.enter();
    ended.shutdown_background();
    without_tokio(scene.manager().access_token()).unwrap();
    assert_eq!(scene.concur.token_requests(), 1);
}

/// Callers that take all the threads that the flight they wait for could run on.
#[test]
fn a_flight_whose_callers_block_all_blocking_threads_runs_elsewhere() {
    const CALLERS: usize = 8;
    let scene = runtime().block_on(Scene::new());
    let crowded = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .max_blocking_threads(CALLERS)
        .enable_all()
        .build()
        .unwrap();
    let (tokens, all_there) = (scene.manager(), Arc::new(std::sync::Barrier::new(CALLERS)));
    let calls: Vec<_> = (0..CALLERS)
        .map(|_| {
            let (tokens, handle, all_there) =
                (tokens.clone(), crowded.handle().clone(), Arc::clone(&all_there));
            crowded.spawn_blocking(move || {
                all_there.wait();
                handle.block_on(tokens.access_token())
            })
        })
        .collect();
    for call in calls {
        crowded.block_on(call).unwrap().unwrap();
    }
    assert_eq!(scene.concur.token_requests(), 1);
}

/// The machine's clock is asked instead, wherever a renewal is.
#[tokio::test]
async fn a_clock_that_panics_loses_no_token() {
    #[derive(Debug)]
    struct Broken(ManualClock, Arc<AtomicBool>);
    impl Clock for Broken {
        fn now(&self) -> std::time::SystemTime {
            assert!(!self.1.load(Ordering::Relaxed), "a bug in this clock");
            self.0.now()
        }
        fn sleep(&self, _: Duration) -> std::pin::Pin<Box<dyn Future<Output = ()> + Send>> {
            Box::pin(async { panic!("a bug in this clock") })
        }
    }
    let scene = Scene::with(Rotation::AlwaysAndRevokeFamily).await;
    // The machine's clock is asked, too: by that, no token has expired.
    scene.clock.set(SystemClock.now());
    scene.concur.issue_request_token();
    scene.write_credentials(&scene.concur.credentials_json());
    let broken = Arc::new(AtomicBool::new(false));
    let tokens = scene.builder().clock(Broken(scene.clock.clone(), Arc::clone(&broken))).build().unwrap();
    tokens.access_token().await.unwrap();

    let quiet = panic::take_hook();
    panic::set_hook(Box::new(|_| {}));
    broken.store(true, Ordering::Relaxed);
    for _ in 0..3 {
        let renewed = tokens.refresh().await.unwrap();
        assert_eq!(scene.stored_refresh_token(), renewed.secret());
        assert!(scene.concur.is_live(renewed.secret()));
    }
    tokens.shutdown(HOUR).await.unwrap();
    panic::set_hook(quiet);
    assert_eq!((scene.concur.count("password"), scene.concur.count("refresh_token")), (1, 3));
}

#[test]
fn it_works_without_timers_and_without_any_runtime() {
    let scene = runtime().block_on(Scene::new());
    let bare = tokio::runtime::Builder::new_current_thread().build().unwrap();
    bare.block_on(scene.manager().access_token()).unwrap();
    drop(bare);
    without_tokio(scene.manager().refresh()).unwrap();
    assert_eq!(scene.concur.token_requests(), 2);
}

#[tokio::test]
async fn a_panic_in_a_caller_or_a_source_harms_no_other_caller() {
    #[derive(Debug)]
    struct Panicking(Credentials, std::sync::atomic::AtomicBool);
    impl CredentialSource for Panicking {
        async fn credentials(&self) -> Result<Credentials, Error> {
            assert!(self.1.swap(true, std::sync::atomic::Ordering::Relaxed), "the first time");
            Ok(self.0.clone())
        }
    }
    let scene = Scene::new().await;
    let source = Panicking(scene.concur.credentials(), false.into());
    let tokens = scene.builder().credentials(source).build().unwrap();

    let quiet = panic::take_hook();
    panic::set_hook(Box::new(|_| {}));
    let error = tokens.access_token().await.unwrap_err();
    let caller = tokio::spawn({
        let tokens = tokens.clone();
        async move {
            let _call = poll_and_drop(tokens.access_token(), 1).await;
            panic!("a caller");
        }
    });
    assert!(caller.await.is_err());
    panic::set_hook(quiet);

    assert_eq!(error.kind(), ErrorKind::CredentialsInvalid);
    assert!(
        error.to_string().starts_with("the credential source ")
            && error.to_string().ends_with("::Panicking panicked; see the panic's message"),
        "{error}"
    );
    tokens.access_token().await.unwrap();
    assert_eq!(scene.concur.token_requests(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn returning_from_main_in_mid_flight_waits_for_the_save() {
    let _alone = alone().await;
    let concur = ConcurSimulator::builder().rotation(Rotation::AlwaysAndRevokeFamily).start().await;
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("credentials.json"), concur.credentials_json()).unwrap();
    let path = dir.path().join("refreshTokenObjectFile.json");
    std::fs::write(&path, concur.token_json()).unwrap();
    let (sent, left) = (dir.path().join("sent"), dir.path().join("left"));
    // The last one's flight is that of its `keep_alive`.
    for (round, child_test) in
        [(1, "returns_in_mid_flight"), (2, "returns_in_mid_flight"), (3, "returns_while_kept_alive")]
    {
        let held = concur.hold_replies();
        let process = child(child_test).env("DIR", dir.path()).spawn().unwrap();
        until(|| concur.count("refresh_token") == round).await;
        std::fs::write(&sent, "").unwrap();
        until(|| left.exists()).await;
        held.release();
        all_succeed(vec![process]);
        std::fs::remove_file(&sent).unwrap();
        std::fs::remove_file(&left).unwrap();
        assert_eq!(concur.count("refresh_token"), round);
        let stored: serde_json::Value =
            serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        assert!(concur.is_live(stored["refresh_token"].as_str().unwrap()), "round {round}");
    }
}

#[tokio::test]
#[ignore = "runs as a child process"]
async fn returns_in_mid_flight() {
    /// Dropped with the caller, by the runtime that ends.
    struct Leaves(PathBuf);
    impl Drop for Leaves {
        fn drop(&mut self) {
            std::fs::write(self.0.join("left"), "").unwrap();
        }
    }
    let dir = PathBuf::from(std::env::var_os("DIR").unwrap());
    let tokens = TokenManager::load_from(&dir).await.unwrap();
    let leaves = Leaves(dir.clone());
    tokio::spawn(async move {
        let _leaves = leaves;
        tokens.refresh().await
    });
    until(|| dir.join("sent").exists()).await;
}

#[tokio::test]
#[ignore = "runs as a child process"]
async fn returns_while_kept_alive() {
    let dir = PathBuf::from(std::env::var_os("DIR").unwrap());
    let expired = std::fs::read_to_string(dir.join("refreshTokenObjectFile.json"))
        .unwrap()
        .replace("accessTokenExpiresAt", "another member");
    std::fs::write(dir.join("refreshTokenObjectFile.json"), expired).unwrap();
    // A clock by which the first minute, at some moment of which it begins, passes at once.
    let clock = ManualClock::new(SystemClock.now());
    let tokens = TokenManager::builder()
        .credentials(CredentialsFile::new(dir.join("credentials.json")))
        .store(JsonFileStore::new(dir.join("refreshTokenObjectFile.json")))
        .clock(clock.clone())
        .build()
        .unwrap();
    let _kept = tokens.keep_alive().await.unwrap();
    until(|| clock.sleepers() == 1).await;
    clock.advance(MINUTE);
    until(|| dir.join("sent").exists()).await;
    std::fs::write(dir.join("left"), "").unwrap();
}

#[tokio::test]
async fn shutdown_waits_for_a_flight_until_its_deadline() {
    let scene = Scene::new().await;
    let tokens = scene.manager();
    tokens.shutdown(Duration::ZERO).await.unwrap();

    let held = scene.concur.hold_replies();
    let call = tokio::spawn({
        let tokens = tokens.clone();
        async move { tokens.access_token().await }
    });
    until(|| scene.concur.token_requests() == 1).await;
    let deadline = tokio::spawn({
        let tokens = tokens.clone();
        async move { tokens.shutdown(HOUR).await }
    });
    until(|| scene.clock.sleepers() == 1).await;
    scene.clock.advance(HOUR);
    let error = deadline.await.unwrap().unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "a renewal for {} has not come to its end; call shutdown again",
            scene.token_path().display()
        )
    );
    let patient = tokio::spawn({
        let tokens = tokens.clone();
        async move { tokens.shutdown(HOUR).await }
    });
    until(|| scene.clock.sleepers() == 1).await;
    assert!(!patient.is_finished());
    held.release();
    patient.await.unwrap().unwrap();
    assert_eq!(scene.stored_refresh_token().len(), 30);
    call.await.unwrap().unwrap();
}
