//! What is sent again, and what is not: rule 9 of the design, by grant and failure.

#![cfg(feature = "simulator")]

mod support;

use std::time::Duration;

use concur_auth::{
    ErrorKind, Grant, OAuthClient,
    simulator::{Fault, Rotation},
};
use support::{DAY, HOUR, MINUTE, Scene};

/// A failure, and how many requests a refresh token and a company request token make of it.
fn failures() -> Vec<(&'static str, Fault, usize, usize)> {
    vec![
        ("429", Fault::status(429), 4, 4),
        ("503", Fault::status(503), 4, 4),
        ("503 in HTML", Fault::html(503), 4, 4),
        ("code 134", Fault::code(134), 4, 4),
        ("500", Fault::status(500), 4, 1),
        ("502", Fault::html(502), 4, 1),
        ("504", Fault::status(504), 4, 1),
        ("connection closed", Fault::DropConnection, 4, 1),
        ("reply lost", Fault::DropReply, 4, 1),
        ("501", Fault::status(501), 1, 1),
        ("400 without a code", Fault::status(400), 1, 1),
        ("404 in HTML", Fault::html(404), 1, 1),
        ("code 14", Fault::code(14), 1, 1),
        ("code 64", Fault::code(64), 1, 1),
        ("200 in HTML", Fault::html(200), 1, 1),
        ("302", Fault::status(302).header("location", "/login"), 1, 1),
    ]
}

#[tokio::test]
async fn a_refresh_token_is_sent_again_after_every_failure_that_may_pass() {
    for (failure, fault, requests, _) in failures() {
        let scene = Scene::skipping(Rotation::Never).await;
        scene.write_token(&scene.concur.token_json());
        scene.concur.set_fault(fault);
        scene.manager().access_token().await.unwrap_err();
        assert_eq!(scene.concur.count("refresh_token"), requests, "{failure}");
        assert_eq!(scene.concur.count("password"), 0, "{failure}");
    }
}

/// It has five uses.
#[tokio::test]
async fn a_company_request_token_is_sent_again_only_when_certainly_nothing_was_issued() {
    for (failure, fault, _, requests) in failures() {
        let scene = Scene::skipping(Rotation::Never).await;
        scene.concur.set_fault(fault);
        scene.manager().access_token().await.unwrap_err();
        assert_eq!(scene.concur.count("password"), requests, "{failure}");
        assert!(scene.concur.request_token_uses_left() >= 4, "{failure}");
    }
}

#[tokio::test]
async fn a_failure_that_passes_is_not_noticed() {
    for failures in 1..=3 {
        let scene = Scene::skipping(Rotation::AlwaysAndRevokeFamily).await;
        scene.concur.fault_next(failures, Fault::status(503));
        let obtained = scene.manager().get_valid_refresh_token().await.unwrap();
        assert_eq!(scene.concur.count("password"), failures + 1);
        assert_eq!(scene.concur.request_token_uses_left(), 4);
        assert_eq!(scene.stored_refresh_token(), obtained.secret());
    }
}

#[tokio::test]
async fn nobody_there_is_tried_four_times() {
    let scene = Scene::skipping(Rotation::Never).await;
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let nobody = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let tokens = scene.builder().base_uri(nobody).build().unwrap();
    let error = tokens.get_valid_refresh_token().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    // Three pauses of up to 1, 2 and 4 seconds, which this clock skipped.
    let waited = scene.clock.now_utc() - support::noon();
    assert!(waited <= Duration::from_secs(7), "{waited}");
}

/// While a valid token is held nobody has to wait for more than one attempt.
#[tokio::test]
async fn with_a_valid_token_in_hand_there_is_one_attempt() {
    let scene = Scene::skipping(Rotation::Never).await;
    let tokens = scene.manager();
    let token = tokens.access_token().await.unwrap();
    scene.clock.advance(HOUR - 2 * MINUTE);
    scene.concur.set_fault(Fault::status(503));
    assert_eq!(tokens.access_token().await.unwrap().secret(), token.secret());
    assert_eq!(scene.concur.count("refresh_token"), 1);

    // Nor with a refresh token in its last days.
    let refresh = tokens.get_valid_refresh_token().await.unwrap();
    let left = refresh.expires_at().unwrap() - scene.clock.now_utc();
    scene.clock.advance(left.unsigned_abs() - DAY);
    assert_eq!(tokens.get_valid_refresh_token().await.unwrap().secret(), refresh.secret());
    assert_eq!(scene.concur.count("refresh_token"), 2);
}

#[tokio::test]
async fn retry_after_is_waited_for_in_seconds_and_as_a_date() {
    let in_nine_seconds = "Thu, 28 May 2026 20:26:49 GMT";
    for after in ["9", in_nine_seconds] {
        let scene = Scene::skipping(Rotation::Never).await;
        scene.concur.fault_next(1, Fault::status(503).retry_after(after));
        scene.manager().get_valid_refresh_token().await.unwrap();
        let waited = scene.clock.now_utc() - support::noon();
        assert_eq!(waited, Duration::from_secs(9), "{after}");
        assert_eq!(scene.concur.token_requests(), 2);
    }
}

/// And until it has passed nobody asks again, whoever calls.
#[tokio::test]
async fn a_retry_after_that_is_too_long_is_returned_at_once_and_believed_by_all() {
    let scene = Scene::skipping(Rotation::Never).await;
    scene.concur.set_fault(Fault::status(429).retry_after("60"));
    let tokens = scene.manager();
    let first = tokens.access_token().await.unwrap_err();
    assert_eq!((first.kind(), first.retry_after()), (ErrorKind::Unavailable, Some(MINUTE)));
    assert_eq!(scene.clock.now_utc(), support::noon());

    scene.concur.clear_faults();
    scene.clock.advance(Duration::from_secs(20));
    for _ in 0..3 {
        for error in [
            tokens.access_token().await.unwrap_err(),
            tokens.refresh().await.unwrap_err(),
            tokens.get_valid_refresh_token().await.unwrap_err(),
        ] {
            assert_eq!(error.retry_after(), Some(Duration::from_secs(40)));
            assert_eq!(
                error.to_string(),
                format!(
                    "127.0.0.1 answered 429 Too Many Requests; try again later [nothing was sent: Concur has asked to be \
                     left alone for another 40 s] (correlation id {})",
                    first.correlation_id().unwrap()
                )
            );
        }
    }
    assert_eq!(scene.concur.token_requests(), 1);
    scene.clock.advance(Duration::from_secs(40));
    tokens.access_token().await.unwrap();
    assert_eq!(scene.concur.token_requests(), 2);
}

/// No attempt begins so late that its answer could come after 45 seconds.
#[tokio::test]
async fn attempts_and_pauses_end_within_45_seconds() {
    for (after, requests) in [("14", 4), ("15", 3), ("22", 3), ("23", 2), ("44", 2), ("45", 1)] {
        let scene = Scene::skipping(Rotation::Never).await;
        scene.concur.set_fault(Fault::status(503).retry_after(after));
        scene.manager().get_valid_refresh_token().await.unwrap_err();
        assert_eq!(scene.concur.token_requests(), requests, "every {after} s");
        assert!(scene.clock.now_utc() - support::noon() < Duration::from_secs(45));
    }
}

/// The clock stands still: any pause would be one for ever.
#[tokio::test]
async fn the_client_by_itself_repeats_nothing() {
    let scene = Scene::new().await;
    let base = scene.concur.base_uri().parse().unwrap();
    scene.concur.set_fault(Fault::status(503).retry_after("7"));
    let grant = Grant::refresh_token("r");
    let error =
        OAuthClient::new().request_token(&base, &scene.concur.credentials(), &grant).await.unwrap_err();
    assert!(error.is_transient());
    assert_eq!(error.retry_after(), Some(Duration::from_secs(7)));
    assert_eq!(scene.concur.token_requests(), 1);
}
