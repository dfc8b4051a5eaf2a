//! A forked child is never left waiting for a renewal of its parent, and takes nothing away from it: promise 3 of docs/promises.md.

#![cfg(all(feature = "simulator", unix))]

mod support;

use std::{fs, panic, path::Path, process};

use concur_auth::{
    ErrorKind, TokenManager,
    simulator::{ConcurSimulator, Rotation},
};
use fork::Fork;
use support::{all_succeed, alone, child, until};
use tokio::runtime::{Builder, Runtime};

#[tokio::test]
async fn a_child_forked_in_mid_flight_gets_an_error_and_makes_a_manager_of_its_own() {
    let _alone = alone().await;
    all_succeed(vec![child("forks_in_mid_flight").spawn().unwrap()]);
}

#[tokio::test]
async fn a_child_forked_after_a_flight_is_served_and_leaves_its_parents_connections_alone() {
    let _alone = alone().await;
    all_succeed(vec![child("forks_after_a_flight").spawn().unwrap()]);
}

/// A process that forks has a simulated Concur, and the tutorial's two files.
struct Parent {
    runtime: Runtime,
    concur: ConcurSimulator,
    dir: tempfile::TempDir,
    tokens: TokenManager,
}

impl Parent {
    fn new() -> Self {
        let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let rotation = Rotation::AlwaysAndRevokeFamily;
        let concur = runtime.block_on(ConcurSimulator::builder().rotation(rotation).start());
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("credentials.json"), concur.credentials_json()).unwrap();
        fs::write(dir.path().join("refreshTokenObjectFile.json"), concur.token_json()).unwrap();
        let tokens = runtime.block_on(TokenManager::load_from(dir.path())).unwrap();
        Self { runtime, concur, dir, tokens }
    }
}

/// Runs `work` in a child, and returns the child's process id.
fn forked(work: impl FnOnce(Runtime)) -> i32 {
    match fork::fork().unwrap() {
        Fork::Parent(child) => child,
        Fork::Child => {
            let work = || work(Builder::new_current_thread().enable_all().build().unwrap());
            let outcome = panic::catch_unwind(panic::AssertUnwindSafe(work));
            process::exit(i32::from(outcome.is_err()));
        }
    }
}

/// The child's own manager, on the same files.
fn renews_with_a_manager_of_its_own(runtime: &Runtime, dir: &Path) {
    let own = runtime.block_on(TokenManager::load_from(dir)).unwrap();
    let before = runtime.block_on(own.get_valid_refresh_token()).unwrap();
    assert_ne!(runtime.block_on(own.refresh()).unwrap().secret(), before.secret());
}

#[test]
#[ignore = "runs as a child process"]
fn forks_in_mid_flight() {
    let Parent { runtime, concur, dir, tokens } = Parent::new();
    let held = concur.hold_replies();
    let call = runtime.spawn({
        let tokens = tokens.clone();
        async move { tokens.refresh().await }
    });
    runtime.block_on(until(|| concur.token_requests() == 1));
    let told = dir.path().join("told");
    let child = forked(|runtime| {
        for _ in 0..2 {
            let error = runtime.block_on(tokens.refresh()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config);
            assert_eq!(
                error.to_string(),
                "this process was forked while its parent was renewing with this manager, and that renewal does not go \
                 on here; make a new manager in the forked process"
            );
        }
        fs::write(&told, "").unwrap();
        // Its parent has the lock, of which this process inherited the file.
        renews_with_a_manager_of_its_own(&runtime, dir.path());
    });
    runtime.block_on(until(|| told.exists()));
    held.release();
    runtime.block_on(call).unwrap().unwrap();
    assert_eq!(fork::waitpid(child).unwrap(), 0);
    assert_eq!((concur.count("refresh_token"), concur.count("password")), (2, 0));
    // And the parent sees what its child has stored.
    runtime.block_on(tokens.refresh()).unwrap();
}

#[test]
#[ignore = "runs as a child process"]
fn forks_after_a_flight() {
    let Parent { runtime, concur, dir, tokens } = Parent::new();
    let access = runtime.block_on(tokens.access_token()).unwrap();
    let child = forked(|runtime| {
        let served = runtime.block_on(tokens.access_token()).unwrap();
        assert_eq!(served.secret(), access.secret());
        let error = runtime.block_on(tokens.refresh()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        assert_eq!(
            error.to_string(),
            "this process was forked after its parent had sent requests with this OAuthClient, whose connections belong \
             to the parent; make a new OAuthClient, and new managers on it, in the forked process"
        );
        renews_with_a_manager_of_its_own(&runtime, dir.path());
    });
    assert_eq!(fork::waitpid(child).unwrap(), 0);
    runtime.block_on(tokens.refresh()).unwrap();
    assert_eq!(concur.count("password"), 0);
}

#[cfg(feature = "postgres")]
#[tokio::test]
async fn a_child_forked_after_a_statement_is_told_to_make_a_store_of_its_own() {
    let _alone = alone().await;
    all_succeed(vec![child("forks_after_a_statement").spawn().unwrap()]);
}

#[cfg(feature = "postgres")]
#[test]
#[ignore = "runs as a child process"]
fn forks_after_a_statement() {
    use concur_auth::{PostgresStore, TokenStore as _};

    // Nobody listens there.
    let store = || PostgresStore::new("postgres://app@127.0.0.1:1/concur", "c").unwrap();
    let (runtime, parents) = (Builder::new_current_thread().enable_all().build().unwrap(), store());
    let not_connected = "could not connect to PostgreSQL database concur at 127.0.0.1:1";
    let error = runtime.block_on(parents.load()).unwrap_err();
    assert!(error.to_string().starts_with(not_connected), "{error}");
    let child = forked(|runtime| {
        let error = runtime.block_on(parents.load()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Store);
        assert_eq!(
            error.to_string(),
            "the connections to PostgreSQL database concur at 127.0.0.1:1 belong to the process that forked this one; make \
             stores in the forked child, or fork before the first statement"
        );
        let error = runtime.block_on(store().load()).unwrap_err();
        assert!(error.to_string().starts_with(not_connected), "{error}");
    });
    assert_eq!(fork::waitpid(child).unwrap(), 0);
}
