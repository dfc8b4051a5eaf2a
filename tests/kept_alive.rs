//! Kept alive: no caller waits, nothing lapses, and Concur is asked seldom.

#![cfg(feature = "simulator")]

mod support;

use std::{sync::Arc, time::Duration};

use concur_auth::{
    CredentialSource, Credentials, Error, KeepAlive, MemoryStore, TokenManager,
    simulator::{ConcurSimulator, Fault, ManualClock, Rotation},
};
use support::{DAY, HOUR, MINUTE, Scene, noon, until};

/// Three minutes at a time, waiting for the keeper to have had its turn in each: slower than its own tick, and fast
/// enough for its ten minutes' lead. Where that is far off, straight to it.
async fn let_pass(tokens: &TokenManager, clock: &ManualClock, time: Duration) {
    let end = clock.now_utc() + time;
    while clock.now_utc() < end {
        until(|| clock.sleepers() == 1).await;
        let now = clock.now_utc();
        let to_lead = tokens.status().access_token_expires_at.unwrap_or(now) - now - 12 * MINUTE;
        clock.advance(
            (3 * MINUTE).max(to_lead.try_into().unwrap_or_default()).min((end - now).unsigned_abs()),
        );
    }
    until(|| clock.sleepers() == 1).await;
}

/// It begins at a random moment of the first minute.
async fn kept_alive(tokens: &TokenManager, clock: &ManualClock) -> KeepAlive {
    let kept = tokens.keep_alive().await.unwrap();
    until(|| clock.sleepers() == 1).await;
    clock.advance(MINUTE);
    until(|| clock.sleepers() == 1).await;
    kept
}

/// Over real connections. `src/manager/simulation/years/undisturbed.rs` does the same for three years, in a simulated world.
#[tokio::test]
async fn hourly_access_tokens_cost_fewer_than_thirty_requests_a_day() {
    let clock = ManualClock::new(noon());
    let concur = ConcurSimulator::builder()
        .clock(clock.clone())
        .rotation(Rotation::AlwaysAndRevokeFamily)
        .start()
        .await;
    let tokens = TokenManager::builder()
        .credentials(concur.credentials())
        .store(MemoryStore::new())
        .clock(clock.clone())
        .build()
        .unwrap();
    let _kept = kept_alive(&tokens, &clock).await;
    for day in 0..30 {
        // Looked at four times a day: both tokens are valid, and taking them sends nothing.
        let before = concur.token_requests();
        for _ in 0..4 {
            let now = concur.token_requests();
            assert!(tokens.access_token().await.unwrap().expires_at() > clock.now_utc());
            assert!(concur.is_live(tokens.get_valid_refresh_token().await.unwrap().secret()));
            assert_eq!(concur.token_requests(), now, "a caller had to renew on day {day}");
            let_pass(&tokens, &clock, 6 * HOUR).await;
        }
        let requests = concur.token_requests() - before;
        assert!((24..=29).contains(&requests), "{requests} requests on day {day}");
    }
    assert_eq!(concur.count("password"), 1);
}

#[tokio::test]
async fn an_outage_of_days_costs_few_requests_and_is_recovered_from() {
    let scene = Scene::new().await;
    let tokens = scene.builder().store(MemoryStore::new()).build().unwrap();
    let _kept = kept_alive(&tokens, &scene.clock).await;
    scene.concur.set_fault(Fault::status(503));
    let before = scene.concur.token_requests();
    for _ in 0..4 {
        let today = scene.concur.token_requests();
        let_pass(&tokens, &scene.clock, DAY).await;
        assert!(scene.concur.token_requests() - today <= 60);
    }
    assert!(scene.concur.token_requests() - before >= 4 * 24, "it gave up");
    assert!(tokens.status().last_error.is_some());
    scene.concur.clear_faults();
    let_pass(&tokens, &scene.clock, HOUR).await;
    let now = scene.concur.token_requests();
    tokens.access_token().await.unwrap();
    assert_eq!(scene.concur.token_requests(), now, "a caller had to renew");
    assert_eq!(tokens.status().last_error, None);
}

/// Asleep for a week: the time of day jumps while no sleep ends. And clocks that are set, either way.
#[tokio::test]
async fn a_suspended_machine_and_a_clock_that_jumps_are_caught_up_with_in_a_minute() {
    let scene = Scene::new().await;
    let tokens = scene.builder().store(MemoryStore::new()).build().unwrap();
    let _kept = kept_alive(&tokens, &scene.clock).await;
    for (jump, forward) in [(7 * DAY, true), (300 * DAY, false), (293 * DAY, true)] {
        let now = scene.clock.now_utc();
        scene.clock.set(if forward { now + jump } else { now - jump });
        let before = scene.concur.token_requests();
        let_pass(&tokens, &scene.clock, 3 * MINUTE).await;
        assert_eq!(scene.concur.token_requests(), before + 1, "after {jump:?}");
        tokens.access_token().await.unwrap();
        assert_eq!(scene.concur.token_requests(), before + 1, "a caller had to renew after {jump:?}");
    }
}

#[tokio::test]
async fn a_server_that_gives_no_access_token_is_not_asked_every_minute() {
    let scene = Scene::new().await;
    scene.concur.set_reply_member("access_token", None);
    let tokens = scene.builder().store(MemoryStore::new()).build().unwrap();
    let _kept = kept_alive(&tokens, &scene.clock).await;
    let_pass(&tokens, &scene.clock, DAY).await;
    assert!(scene.concur.token_requests() <= 60, "{}", scene.concur.token_requests());
}

#[tokio::test]
async fn it_stops_with_its_guard_and_a_reply_on_its_way_is_still_saved() {
    /// Part of a manager, as long as anybody has one.
    #[derive(Debug)]
    struct Part {
        credentials: Credentials,
        _part: Arc<()>,
    }
    impl CredentialSource for Part {
        async fn credentials(&self) -> Result<Credentials, Error> {
            Ok(self.credentials.clone())
        }
    }

    let scene = Scene::with(Rotation::AlwaysAndRevokeFamily).await;
    let part = Arc::new(());
    let source = Part { credentials: scene.concur.credentials(), _part: Arc::clone(&part) };
    let tokens = scene.builder().credentials(source).build().unwrap();
    let kept = kept_alive(&tokens, &scene.clock).await;
    let held = scene.concur.hold_replies();
    scene.clock.advance(HOUR);
    until(|| scene.concur.token_requests() == 2).await;
    drop(kept);
    held.release();
    tokens.shutdown(HOUR).await.unwrap();
    assert!(scene.concur.is_live(&scene.stored_refresh_token()));
    // Never needed for correctness.
    tokens.access_token().await.unwrap();
    // And nobody is left who could renew.
    drop(tokens);
    until(|| Arc::strong_count(&part) == 1).await;
    assert_eq!((scene.concur.token_requests(), scene.clock.sleepers()), (2, 0));
}

/// Such as that of the documentation of `Clock`.
#[tokio::test]
async fn a_clock_whose_sleeps_take_no_time_leaves_time_for_others() {
    #[derive(Debug)]
    struct Instant(ManualClock);
    impl concur_auth::Clock for Instant {
        fn now(&self) -> std::time::SystemTime {
            self.0.now()
        }
        fn sleep(&self, _: Duration) -> std::pin::Pin<Box<dyn Future<Output = ()> + Send>> {
            Box::pin(std::future::ready(()))
        }
    }
    let scene = Scene::new().await;
    let hasty = scene.builder().clock(Instant(scene.clock.clone())).build().unwrap();
    let kept = hasty.keep_alive().await.unwrap();
    let sibling = scene.builder().store(MemoryStore::new()).build().unwrap();
    for _ in 0..3 {
        sibling.refresh().await.unwrap();
    }
    drop(kept);
}
