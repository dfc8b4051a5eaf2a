//! What a host asks for, and how many requests it gets at once, is known to all managers on one client: rule 9 of the
//! design.

#![cfg(feature = "simulator")]

mod support;

use std::time::Duration;

use concur_auth::{
    AccessToken, Clock as _, ErrorKind, Geolocation, Grant, MemoryStore, OAuthClient, OneTimePasswordRequest,
    RefreshTokenObject, TokenManager,
    simulator::{ConcurSimulator, Fault},
};
use support::{HOUR, MINUTE, Scene, really_wait, until};

/// A manager of the scene with a store of its own, which holds a refresh token. (A company request token has five uses.)
fn manager(scene: &Scene, client: &OAuthClient) -> TokenManager {
    let token = RefreshTokenObject::from_json(&scene.concur.token_json()).unwrap();
    scene.builder().store(MemoryStore::with(token)).oauth_client(client.clone()).build().unwrap()
}

fn base(concur: &ConcurSimulator) -> Geolocation {
    concur.base_uri().parse().unwrap()
}

#[tokio::test]
async fn a_hundred_managers_on_one_client_believe_what_one_was_told() {
    let scene = Scene::new().await;
    let client = OAuthClient::new();
    let holding: Vec<_> = (0..50).map(|_| manager(&scene, &client)).collect();
    let mut held = Vec::new();
    for tokens in &holding {
        held.push(tokens.access_token().await.unwrap());
    }
    // In their last minute, where callers wait for the renewal.
    scene.clock.advance(HOUR - MINUTE / 2);
    let before = scene.concur.token_requests();
    scene.concur.fault_next(1, Fault::status(429).retry_after("3600"));
    let first = manager(&scene, &client).access_token().await.unwrap_err();
    assert_eq!(first.retry_after(), Some(HOUR));
    for _ in 0..50 {
        let error = manager(&scene, &client).access_token().await.unwrap_err();
        assert_eq!((error.kind(), error.retry_after()), (ErrorKind::Unavailable, Some(HOUR)));
        assert_eq!(
            error.to_string(),
            format!(
                "127.0.0.1 answered 429 Too Many Requests; try again later [not sent: Concur asked for a pause; the next \
                 attempt is possible in 3600 s] (correlation id {})",
                first.correlation_id().unwrap()
            )
        );
    }
    for (tokens, token) in holding.iter().zip(&held) {
        assert_eq!(tokens.access_token().await.unwrap().secret(), token.secret());
        assert_eq!(tokens.refresh().await.unwrap_err().retry_after(), Some(HOUR));
    }
    assert_eq!(scene.concur.token_requests(), before + 1);
    // Another client has heard nothing.
    manager(&scene, &OAuthClient::new()).access_token().await.unwrap();
    scene.clock.advance(HOUR);
    holding[0].access_token().await.unwrap();
}

#[tokio::test]
async fn a_pause_that_came_with_a_code_concerns_one_principal() {
    let scene = Scene::new().await;
    let client = OAuthClient::new();
    let (ours, other) = (manager(&scene, &client), manager(&scene, &client));
    let maintenance = Fault::status(503).body(r#"{"code": 134, "error": "invalid_request"}"#);
    scene.concur.fault_next(1, maintenance.retry_after("3600"));
    ours.access_token().await.unwrap_err();
    other.access_token().await.unwrap();
    let error = ours.access_token().await.unwrap_err();
    assert!(error.to_string().contains("[not sent: Concur asked for a pause"), "{error}");
    assert_eq!(scene.concur.token_requests(), 2);
}

/// A person who signs in, or brings a token, is not held back; what ends a manager's own pause ends the host's.
#[tokio::test]
async fn a_sign_in_is_sent_during_a_pause_and_its_success_ends_the_pause() {
    let scene = Scene::new().await;
    let client = OAuthClient::new();
    scene.concur.fault_next(1, Fault::status(429).retry_after("3600"));
    manager(&scene, &client).access_token().await.unwrap_err();

    let wrong = Grant::company_request_token(scene.concur.company_uuid(), "at-wrong");
    let tokens = manager(&scene, &client);
    assert_eq!(tokens.sign_in(wrong).await.unwrap_err().kind(), ErrorKind::Refused);
    tokens.adopt(RefreshTokenObject::from_json(&scene.concur.token_json()).unwrap()).await.unwrap();
    assert_eq!(tokens.refresh().await.unwrap_err().retry_after(), Some(HOUR));
    assert_eq!(tokens.revoke().await.unwrap_err().retry_after(), Some(HOUR));
    assert_eq!((scene.concur.token_requests(), scene.concur.count("refresh_token")), (2, 1));

    let grant = Grant::company_request_token(scene.concur.company_uuid(), scene.concur.issue_request_token());
    tokens.sign_in(grant).await.unwrap();
    manager(&scene, &client).access_token().await.unwrap();
}

#[tokio::test]
async fn the_client_by_itself_and_an_app_by_itself_obey_the_same_gate() {
    let scene = Scene::new().await;
    let (client, base) = (OAuthClient::new(), base(&scene.concur));
    let app = scene.concur.credentials();
    let access: AccessToken = scene.manager().access_token().await.unwrap();
    let by_app = TokenManager::builder()
        .credentials(app.clone())
        .base_uri(scene.concur.base_uri())
        .oauth_client(client.clone())
        .build_for_app()
        .unwrap();
    let before = scene.concur.requests().len();
    scene.concur.fault_next(1, Fault::status(503).retry_after("3600"));
    let grant = Grant::client_credentials();
    client.request_token(&base, &app, &grant).await.unwrap_err();

    let mail = OneTimePasswordRequest::by_email("ada@example.com");
    for error in [
        client.request_token(&base, &app, &grant).await.err(),
        client.request_one_time_password(&base, &app, &mail).await.err(),
        client.revoke(&access).await.err(),
        by_app.access_token().await.err(),
    ] {
        let error = error.unwrap();
        assert!(error.to_string().contains("[not sent: Concur asked for a pause"), "{error}");
        assert!(error.retry_after().unwrap() > HOUR - MINUTE);
    }
    assert_eq!(scene.concur.requests().len(), before + 1);
}

#[tokio::test]
async fn no_more_requests_run_at_once_than_the_knob_allows() {
    let scene = Scene::new().await;
    let client = OAuthClient::new().max_concurrent_requests(3);
    let held = scene.concur.hold_replies();
    let calls: Vec<_> = (0..12)
        .map(|_| {
            let tokens = manager(&scene, &client);
            tokio::spawn(async move { tokens.access_token().await })
        })
        .collect();
    // Three are on their way, and the simulator has read the first of them. Nine wait for their turn; twice a second each
    // looks whether it still has to.
    until(|| scene.concur.token_requests() == 1 && scene.clock.sleepers() == 9).await;
    for _ in 0..10 {
        scene.clock.advance(Duration::from_millis(500));
        until(|| scene.clock.sleepers() == 9).await;
    }
    held.release();
    for call in calls {
        call.await.unwrap().unwrap();
    }
    assert_eq!(scene.concur.token_requests(), 12);
}

#[tokio::test]
async fn requests_are_sent_an_equal_time_apart_if_the_rate_is_limited() {
    let scene = Scene::new().await;
    let client = OAuthClient::new().max_requests_per_second(2.0);
    let calls: Vec<_> = (0..4)
        .map(|_| {
            let tokens = manager(&scene, &client);
            tokio::spawn(async move { tokens.access_token().await })
        })
        .collect();
    for sent in 1..=4 {
        until(|| scene.concur.token_requests() == sent).await;
        if sent < 4 {
            // The next request waits for its moment, and comes no sooner.
            let before = scene.clock.now();
            until(|| scene.clock.sleepers() > 0).await;
            scene.clock.advance(Duration::from_millis(499));
            really_wait(Duration::from_millis(20)).await;
            assert_eq!(scene.concur.token_requests(), sent);
            scene.clock.advance(Duration::from_millis(1));
            assert_eq!(scene.clock.now().duration_since(before).unwrap(), Duration::from_millis(500));
        }
    }
    for call in calls {
        call.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_request_that_gets_no_turn_in_a_minute_says_that_the_rate_is_the_reason() {
    let scene = Scene::new().await;
    let client = OAuthClient::new().max_requests_per_second(1.0 / 45.0);
    let first = manager(&scene, &client);
    first.access_token().await.unwrap();
    let late: Vec<_> = (0..2)
        .map(|_| {
            let tokens = manager(&scene, &client);
            tokio::spawn(async move { tokens.access_token().await })
        })
        .collect();
    let moves = time_passes(&scene);
    let mut outcomes = Vec::new();
    for call in late {
        outcomes.push(call.await.unwrap());
    }
    moves.abort();
    outcomes.sort_by_key(Result::is_err);
    assert!(outcomes[0].is_ok(), "{outcomes:?}");
    let error = outcomes[1].as_ref().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert_eq!(
        error.to_string(),
        "sent no token request to 127.0.0.1: it waited 60 s for its turn, because this client sends one request every \
         45 s (OAuthClient::max_requests_per_second); try again later"
    );
    assert_eq!(scene.concur.token_requests(), 2);
}

/// Not the rate, for which it has not waited yet.
#[tokio::test]
async fn a_request_that_gets_no_turn_since_others_are_under_way_says_that_they_are_the_reason() {
    let scene = Scene::new().await;
    let client = OAuthClient::new().max_concurrent_requests(1).max_requests_per_second(20.0);
    let held = scene.concur.hold_replies();
    let access_token = || {
        let tokens = manager(&scene, &client);
        tokio::spawn(async move { tokens.access_token().await })
    };
    let first = access_token();
    until(|| scene.concur.token_requests() == 1).await;
    let second = access_token();
    let moves = time_passes(&scene);
    let error = second.await.unwrap().unwrap_err();
    moves.abort();
    assert_eq!(
        error.to_string(),
        "sent no token request to 127.0.0.1: it waited 60 s for its turn, because all turns at that host were taken (1 at once); \
         try again later, or allow more with OAuthClient::max_concurrent_requests"
    );
    held.release();
    first.await.unwrap().unwrap();
    assert_eq!(scene.concur.token_requests(), 1);
}

/// At 250 times its speed, until the task is aborted.
fn time_passes(scene: &Scene) -> tokio::task::JoinHandle<()> {
    let clock = scene.clock.clone();
    tokio::spawn(async move {
        loop {
            really_wait(Duration::from_millis(1)).await;
            clock.advance(Duration::from_millis(250));
        }
    })
}
