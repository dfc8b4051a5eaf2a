//! One request: however many tasks, managers and processes ask at once, a missing or expiring token costs one /token request
//! (promise 1 of docs/promises.md).

#![cfg(feature = "simulator")]

mod support;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use concur_auth::{
    AccessToken, Credentials, CredentialsFile, Error, ErrorKind, JsonFileStore, MemoryStore, TokenManager,
    simulator::{ConcurSimulator, Fault, Rotation},
};
use support::{Call, HOUR, MINUTE, Scene, Watched, all_succeed, alone, child, until};

const TASKS: usize = 10_000;

/// What 10,000 tasks get that ask at once; `asking` counts those that have.
async fn stampede(tokens: &TokenManager, asking: &Arc<AtomicUsize>) -> Vec<Result<AccessToken, Error>> {
    let tasks: Vec<_> = (0..TASKS)
        .map(|_| {
            let (tokens, asking) = (tokens.clone(), Arc::clone(asking));
            tokio::spawn(async move {
                asking.fetch_add(1, Ordering::Relaxed);
                tokens.access_token().await
            })
        })
        .collect();
    let mut results = Vec::with_capacity(TASKS);
    for task in tasks {
        results.push(task.await.unwrap());
    }
    results
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_tasks_share_one_request_and_its_result() {
    let scene = Scene::new().await;
    let tokens = scene.manager();
    let mut requests = 0;
    for wait in [Duration::ZERO, 59 * MINUTE + MINUTE / 2, 2 * HOUR] {
        // Cold, in the mandatory window, expired.
        scene.clock.advance(wait);
        let held = scene.concur.hold_replies();
        let asking = Arc::new(AtomicUsize::new(0));
        let (results, ()) = tokio::join!(stampede(&tokens, &asking), async {
            until(|| asking.load(Ordering::Relaxed) == TASKS).await;
            held.release();
        });
        requests += 1;
        let first = results[0].as_ref().unwrap().secret();
        assert!(results.iter().all(|result| result.as_ref().unwrap().secret() == first));
        assert_eq!(scene.concur.token_requests(), requests, "after {wait:?}");
    }
}

#[tokio::test]
async fn ten_thousand_tasks_share_one_error() {
    use concur_auth::TokenStore as _;
    let scene = Scene::new().await;
    scene.concur.set_fault(Fault::code(14));
    let tokens = scene.manager();
    // The flight waits for the lock until everybody waits for the flight.
    let lock = JsonFileStore::new(scene.token_path()).try_lock().await.unwrap();
    let asking = Arc::new(AtomicUsize::new(0));
    let stampede = tokio::spawn({
        let asking = Arc::clone(&asking);
        async move { stampede(&tokens, &asking).await }
    });
    until(|| scene.clock.sleepers() == 1 && asking.load(Ordering::Relaxed) == TASKS).await;
    drop(lock);
    scene.clock.advance(MINUTE / 2);
    let results = stampede.await.unwrap();
    assert_eq!(scene.concur.token_requests(), 1);
    let first = results[0].as_ref().unwrap_err();
    assert_eq!(first.kind(), ErrorKind::Refused);
    let id = first.correlation_id();
    assert!(id.is_some() && results.iter().all(|result| result.as_ref().unwrap_err().correlation_id() == id));
}

#[tokio::test]
async fn refresh_tokens_and_access_tokens_come_from_the_same_request() {
    let scene = Scene::new().await;
    let tokens = scene.manager();
    let (refresh, access) = tokio::join!(tokens.get_valid_refresh_token(), tokens.access_token());
    refresh.unwrap();
    access.unwrap();
    assert_eq!(scene.concur.token_requests(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn managers_on_one_file_or_one_memory_behave_like_one() {
    let concur = ConcurSimulator::start().await;
    let dir = tempfile::tempdir().unwrap();
    let memory = MemoryStore::new();
    let builder = || TokenManager::builder().credentials(concur.credentials());
    let on_file = || builder().store(JsonFileStore::new(dir.path().join("token.json"))).build().unwrap();
    let in_memory = || builder().store(memory.clone()).build().unwrap();
    for tokens in [&on_file as &dyn Fn() -> TokenManager, &in_memory] {
        let before = concur.token_requests();
        let tasks: Vec<_> = (0..20)
            .map(|_| tokens())
            .map(|tokens| tokio::spawn(async move { tokens.access_token().await }))
            .collect();
        for task in tasks {
            task.await.unwrap().unwrap();
        }
        assert_eq!(concur.token_requests(), before + 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thirty_processes_share_one_request() {
    let _alone = alone().await;
    for expired in [false, true] {
        let concur = ConcurSimulator::start().await;
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("credentials.json"), concur.credentials_json()).unwrap();
        if expired {
            let mut json: serde_json::Value = serde_json::from_str(&concur.token_json()).unwrap();
            json["refresh_expires_in"] = 1_517_039_403.into();
            std::fs::write(dir.path().join("refreshTokenObjectFile.json"), json.to_string()).unwrap();
        }
        let held = concur.hold_replies();
        let processes =
            (0..30).map(|_| child("one_of_thirty").env("DIR", dir.path()).spawn().unwrap()).collect();
        let are_asking =
            || support::names_in(dir.path()).iter().filter(|name| name.starts_with("asking-")).count();
        until(|| are_asking() == 30 && concur.token_requests() == 1).await;
        held.release();
        all_succeed(processes);
        assert_eq!(concur.token_requests(), 1, "expired: {expired}");
    }
}

#[tokio::test]
#[ignore = "runs as a child process"]
async fn one_of_thirty() {
    let dir = std::path::PathBuf::from(std::env::var_os("DIR").unwrap());
    let tokens = TokenManager::load_from(&dir).await.unwrap();
    std::fs::write(dir.join(format!("asking-{}", std::process::id())), "").unwrap();
    tokens.get_valid_refresh_token().await.unwrap();
    tokens.access_token().await.unwrap();
}

#[tokio::test]
async fn a_killed_holder_blocks_no_other_process() {
    let _alone = alone().await;
    let scene = Scene::among_forks(Rotation::Never).await;
    let mut holder = child("holds_the_lock").env("DIR", scene.dir.path()).spawn().unwrap();
    until(|| scene.folder().iter().any(|name| name == "held")).await;
    holder.kill().unwrap();
    holder.wait().unwrap();
    scene.manager().access_token().await.unwrap();
}

#[cfg(unix)]
#[tokio::test]
async fn a_suspended_holder_leads_to_an_error_that_names_the_file() {
    let _alone = alone().await;
    let scene = Scene::among_forks(Rotation::Never).await;
    let mut holder = child("holds_the_lock").env("DIR", scene.dir.path()).spawn().unwrap();
    until(|| scene.folder().iter().any(|name| name == "held")).await;
    signal(&holder, "STOP");

    // Sleeping takes no time on this clock: the two minutes pass at once.
    let skipping = concur_auth::simulator::ManualClock::skipping(support::noon());
    let tokens = scene.builder().clock(skipping.clone()).build().unwrap();
    let error = tokens.access_token().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Store);
    assert_eq!(
        error.to_string(),
        format!(
            "waited 120 s for the lock of {}, which another process, or another manager of this one, holds; find out what it is doing (it may \
             be suspended), then try again",
            scene.token_path().display()
        )
    );
    assert!(support::passed(&skipping) >= 2 * MINUTE);
    assert_eq!(scene.concur.token_requests(), 0);
    signal(&holder, "KILL");
    holder.wait().unwrap();
}

#[tokio::test]
async fn how_long_the_lock_is_waited_for_can_be_chosen() {
    let scene = Scene::skipping(Rotation::Never).await;
    let store = concur_auth::MemoryStore::new();
    let _lock = concur_auth::TokenStore::try_lock(&store).await.unwrap().unwrap();
    let tokens =
        scene.builder().store(store).lock_timeout(std::time::Duration::from_secs(3)).build().unwrap();
    let error = tokens.access_token().await.unwrap_err();
    assert!(error.to_string().starts_with("waited 3 s for the lock of "), "{error}");
    let waited = scene.clock.now_utc() - support::noon();
    assert!((3..4).contains(&waited.whole_seconds()), "{waited}");
    assert_eq!(scene.concur.token_requests(), 0);
}

#[cfg(unix)]
fn signal(process: &std::process::Child, name: &str) {
    let status =
        std::process::Command::new("kill").arg(format!("-{name}")).arg(process.id().to_string()).status();
    assert!(status.unwrap().success());
}

#[tokio::test]
#[ignore = "runs as a child process"]
async fn holds_the_lock() {
    use concur_auth::TokenStore as _;
    let dir = std::path::PathBuf::from(std::env::var_os("DIR").unwrap());
    let store = JsonFileStore::new(dir.join("refreshTokenObjectFile.json"));
    let _lock = store.try_lock().await.unwrap().unwrap();
    std::fs::write(dir.join("held"), "").unwrap();
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn a_waiter_sees_a_siblings_token_without_the_lock() {
    use concur_auth::TokenStore as _;
    let scene = Scene::new().await;
    let sibling = JsonFileStore::new(scene.token_path());
    let lock = sibling.try_lock().await.unwrap().unwrap();

    let waiting = scene.manager();
    let waiter = tokio::spawn(async move { waiting.get_valid_refresh_token().await });
    until(|| scene.clock.sleepers() == 1).await;
    assert!(!waiter.is_finished());

    let token = concur_auth::RefreshTokenObject::from_json(&scene.concur.token_json()).unwrap();
    sibling.save(&token, &lock).await.unwrap();
    scene.clock.advance(Duration::from_secs(1));
    assert_eq!(waiter.await.unwrap().unwrap().secret(), token.secret());
    assert_eq!(scene.concur.token_requests(), 0);
    drop(lock);
}

#[cfg(unix)]
#[tokio::test]
async fn a_valid_token_in_a_read_only_folder_is_served_without_a_lock() {
    let scene = Scene::new().await;
    scene.write_token(&scene.concur.token_json());
    let before = scene.folder();
    scene.manager().get_valid_refresh_token().await.unwrap();
    assert_eq!(scene.folder(), before, "not even a lock file");
}

/// Root keeps the token, another user's program only reads it. It cannot adopt what a killed process left, and goes on with
/// the file as it is.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn another_users_valid_token_is_served_where_nothing_may_be_written() {
    use std::os::unix::fs::PermissionsExt as _;
    let _alone = support::alone().await;
    // In real time, as the other user's process.
    let concur = concur_auth::simulator::ConcurSimulator::start().await;
    let dir = tempfile::tempdir().unwrap();
    let allow = |path: &std::path::Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    allow(dir.path(), 0o755);
    let write = |name: &str, content: String| {
        std::fs::write(dir.path().join(name), content).unwrap();
        allow(&dir.path().join(name), 0o644);
    };
    write("credentials.json", concur.credentials_json());
    write("refreshTokenObjectFile.json", concur.token_json());
    for leftover in [false, true] {
        if leftover {
            write("refreshTokenObjectFile.json.tmp-0000000000000001", concur.token_json());
        }
        let before = support::names_in(dir.path());
        if !support::succeeds_as_nobody("is_served_the_token_file", dir.path()) {
            return;
        }
        assert_eq!(support::names_in(dir.path()), before);
    }
    assert_eq!(concur.token_requests(), 0);
}

#[tokio::test]
#[ignore = "runs as a child process"]
async fn is_served_the_token_file() {
    let dir = std::path::PathBuf::from(std::env::var_os("DIR").unwrap());
    let tokens = concur_auth::TokenManager::load_from(&dir).await.unwrap();
    let served = tokens.get_valid_refresh_token().await.unwrap();
    let file = std::fs::read_to_string(dir.join("refreshTokenObjectFile.json")).unwrap();
    assert!(file.contains(served.secret()));
}

/// The credentials are asked once at first use, and once per flight.
#[tokio::test]
async fn the_credential_source_is_asked_once_per_flight() {
    use concur_auth::CredentialSource;

    #[derive(Debug)]
    struct Counting(CredentialsFile, Arc<AtomicUsize>);
    impl CredentialSource for Counting {
        async fn credentials(&self) -> Result<Credentials, Error> {
            self.1.fetch_add(1, Ordering::Relaxed);
            self.0.credentials().await
        }
    }

    let scene = Scene::new().await;
    let asked = Arc::new(AtomicUsize::new(0));
    let source = Counting(CredentialsFile::new(scene.credentials_path()), Arc::clone(&asked));
    let tokens = scene.builder().credentials(source).build().unwrap();
    for _ in 0..3 {
        tokens.access_token().await.unwrap();
        tokens.get_valid_refresh_token().await.unwrap();
    }
    assert_eq!(asked.load(Ordering::Relaxed), 1);
    tokens.refresh().await.unwrap();
    assert_eq!(asked.load(Ordering::Relaxed), 2);
}

/// A sibling saved and let go of the lock between our look and our lock.
#[tokio::test]
async fn after_getting_the_lock_the_store_is_read_again() {
    use concur_auth::{RefreshTokenObject, StoreLock, TokenStore as _};

    let scene = Scene::new().await;
    let siblings = RefreshTokenObject::from_json(&scene.concur.token_json()).unwrap();
    let theirs: Arc<std::sync::OnceLock<MemoryStore>> = Arc::default();
    let (store, saved) = (Arc::clone(&theirs), siblings.clone());
    let watched = Watched::slowly(move |call| {
        let (store, saved) = (Arc::clone(&store), saved.clone());
        async move {
            if call == Call::TryLock {
                store.get().unwrap().save(&saved, &StoreLock::new(())).await?;
            }
            Ok(())
        }
    });
    theirs.set(watched.inner.clone()).unwrap();
    let tokens = scene.builder().store(watched).build().unwrap();
    assert_eq!(tokens.get_valid_refresh_token().await.unwrap().secret(), siblings.secret());
    assert_eq!(scene.concur.token_requests(), 0);
}

/// What is held in memory says nothing about what the store holds.
#[tokio::test]
async fn a_token_file_that_is_gone_is_waited_for_while_a_sibling_has_the_lock() {
    use concur_auth::TokenStore as _;
    let scene = Scene::new().await;
    let tokens = scene.manager();
    tokens.get_valid_refresh_token().await.unwrap();
    let lock = JsonFileStore::new(scene.token_path()).try_lock().await.unwrap();
    std::fs::remove_file(scene.token_path()).unwrap();
    let call = tokio::spawn({
        let tokens = tokens.clone();
        async move { tokens.get_valid_refresh_token().await }
    });
    until(|| scene.clock.sleepers() == 1).await;
    drop(lock);
    scene.clock.advance(MINUTE);
    let obtained = call.await.unwrap().unwrap();
    assert_eq!(scene.stored_refresh_token(), obtained.secret());
    assert_eq!(scene.concur.token_requests(), 2);
}
