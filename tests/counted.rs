//! What the feature `metrics` counts, as Prometheus would read it.

#![cfg(all(feature = "metrics", feature = "simulator"))]

mod support;

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use concur_auth::{
    AppCredentials, Error, Fleet, FolderFleet, Grant, JsonFileStore, MemoryStore, RefreshTokenObject,
    StoreLock, Stored, TokenStore,
    simulator::{Fault, Rotation},
};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use support::{Call, DAY, HOUR, MINUTE, Scene, Watched, until};

/// One for this program: a test holds the lock below, and compares with what was counted before it.
fn recorder() -> &'static PrometheusHandle {
    static RECORDER: OnceLock<PrometheusHandle> = OnceLock::new();
    RECORDER.get_or_init(|| PrometheusBuilder::new().install_recorder().unwrap())
}

static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// The value of a series; 0 before anything was counted.
fn value(series: &str) -> f64 {
    let page = recorder().render();
    let line = page.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ').map(str::to_owned));
    line.map_or(0.0, |value| value.parse().unwrap())
}

/// What was counted since.
struct Since(Vec<(String, f64)>);

impl Since {
    fn now(series: &[&str]) -> Self {
        recorder();
        Self(series.iter().map(|series| ((*series).to_owned(), value(series))).collect())
    }

    fn counted(&self) -> Vec<f64> {
        self.0.iter().map(|(series, before)| value(series) - before).collect()
    }
}

/// `keep_alive` leaves a token to the process that is renewing it, though it has no valid access token.
#[tokio::test]
async fn a_renewal_ahead_of_time_does_not_wait_for_another_process() {
    let _alone = ALONE.lock().await;
    let since = Since::now(&[
        r#"concur_auth_renewals_total{need="keep_alive",outcome="busy",kind=""}"#,
        r#"concur_auth_renewal_seconds_count{outcome="failed"}"#,
    ]);
    let scene = Scene::new().await;
    let tokens = scene.manager();
    tokens.access_token().await.unwrap();
    scene.clock.advance(2 * HOUR);
    let lock = JsonFileStore::new(scene.token_path()).try_lock().await.unwrap().unwrap();
    let _kept = tokens.keep_alive().await.unwrap();
    until(|| {
        scene.clock.advance(MINUTE);
        since.counted() != [0.0, 0.0]
    })
    .await;
    assert_eq!(since.counted()[1], 0.0, "no failure to get the lock in time");
    drop(lock);
    assert_eq!(scene.concur.token_requests(), 1);
}

#[tokio::test]
async fn renewals_are_counted_by_how_they_end() {
    let _alone = ALONE.lock().await;
    let since = Since::now(&[
        r#"concur_auth_renewals_total{need="refresh_token",outcome="renewed",kind=""}"#,
        r#"concur_auth_renewals_total{need="access_token",outcome="found",kind=""}"#,
        r#"concur_auth_renewals_total{need="access_token",outcome="failed",kind="Refused"}"#,
        r#"concur_auth_renewals_total{need="access_token",outcome="held_back",kind=""}"#,
        r#"concur_auth_renewal_seconds_count{outcome="renewed"}"#,
        r#"concur_auth_renewal_seconds_count{outcome="failed"}"#,
    ]);
    let scene = Scene::with(Rotation::AlwaysAndRevokeFamily).await;
    let tokens = scene.manager();
    tokens.get_valid_refresh_token().await.unwrap();
    assert_eq!(since.counted(), [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]);
    // Another process finds what the first has stored.
    scene.manager().access_token().await.unwrap();
    assert_eq!(since.counted(), [1.0, 1.0, 0.0, 0.0, 1.0, 0.0]);
    scene.clock.advance(DAY);
    scene.concur.fault_next(1, Fault::code(14));
    tokens.access_token().await.unwrap_err();
    assert_eq!(since.counted(), [1.0, 1.0, 1.0, 0.0, 1.0, 1.0]);
    // Another process reads of the refusal.
    scene.manager().access_token().await.unwrap_err();
    assert_eq!(since.counted(), [1.0, 1.0, 1.0, 1.0, 1.0, 1.0]);
    assert_eq!(scene.concur.token_requests(), 2);
    let page = recorder().render();
    for name in [scene.concur.company_uuid(), scene.concur.app().id().to_owned()] {
        assert!(!page.contains(&name), "{page}");
    }
}

#[tokio::test]
async fn a_token_that_is_not_saved_is_counted_until_it_is() {
    let _alone = ALONE.lock().await;
    let scene = Scene::skipping(Rotation::AlwaysAndRevokeFamily).await;
    let is_full = Arc::new(AtomicBool::new(true));
    let full = Arc::clone(&is_full);
    let store = Watched::new(move |call| match call {
        Call::Save if full.load(Ordering::Acquire) => {
            Err(Error::store("full", std::io::Error::other("no room")))
        }
        _ => Ok(()),
    });
    let tokens = scene.builder().store(store).build().unwrap();
    let since = Since::now(&["concur_auth_unsaved_tokens"]);
    tokens.get_valid_refresh_token().await.unwrap();
    assert_eq!(since.counted(), [1.0]);
    is_full.store(false, Ordering::Release);
    until(|| since.counted() == [0.0]).await;
    until(|| !tokens.status().unsaved).await;
}

/// A store whose locks are leases that the holder before did not give back.
#[derive(Debug)]
struct InDoubt(MemoryStore);

impl TokenStore for InDoubt {
    async fn read(&self) -> Result<Stored, Error> {
        self.0.read().await
    }

    async fn load(&self) -> Result<Option<RefreshTokenObject>, Error> {
        self.0.load().await
    }

    async fn save(&self, token: &RefreshTokenObject, lock: &StoreLock) -> Result<(), Error> {
        self.0.save(token, lock).await
    }

    async fn remove(&self, lock: &StoreLock) -> Result<(), Error> {
        self.0.remove(lock).await
    }

    async fn try_lock(&self) -> Result<Option<StoreLock>, Error> {
        let minute = Duration::from_secs(60);
        Ok(self.0.try_lock().await?.map(|lock| lock.with_lease(minute).in_doubt(minute)))
    }
}

#[tokio::test]
async fn a_lease_that_was_not_given_back_is_counted() {
    let _alone = ALONE.lock().await;
    let scene = Scene::new().await;
    let tokens = scene.builder().store(InDoubt(MemoryStore::new())).build().unwrap();
    let since = Since::now(&["concur_auth_leases_taken_over_total"]);
    tokens.get_valid_refresh_token().await.unwrap();
    assert_eq!(since.counted(), [1.0]);
}

#[tokio::test]
async fn a_look_at_a_fleet_counts_its_members() {
    let _alone = ALONE.lock().await;
    recorder();
    let scene = Scene::new().await;
    let app = scene.concur.app();
    let fleet = Fleet::builder()
        .app(AppCredentials::new(app.id(), app.secret()))
        .base_uri(scene.concur.base_uri())
        .store(FolderFleet::new(scene.dir.path().join("tokens")).clock(scene.clock.clone()))
        .clock(scene.clock.clone())
        .build()
        .unwrap();
    let members = |state: &str| value(&format!(r#"concur_auth_members{{state="{state}"}}"#));
    for expected in 1..=3 {
        let company = scene.concur.add_company();
        fleet.connect(Grant::company_request_token(company.uuid(), company.request_token())).await.unwrap();
        if expected == 3 {
            fleet.disconnect(company.uuid()).await.unwrap();
        }
    }
    let health = fleet.health().await.unwrap();
    assert_eq!((members("active"), members("needs_reauthorization"), members("signed_out")), (2.0, 0.0, 1.0));
    let soonest = health.soonest_expiry.unwrap().unix_timestamp();
    assert_eq!(value("concur_auth_soonest_expiry_timestamp_seconds").to_string(), soonest.to_string());
}
