//! What is sent again, and what is not, by grant and failure: a failure that may pass is tried four times within 45 seconds,
//! and a company request token only where Concur certainly issued nothing (promise 9 of docs/promises.md).

#![cfg(feature = "simulator")]

mod support;

use std::time::Duration;

use concur_auth::{
    ErrorKind, Grant, OAuthClient,
    simulator::{Fault, Rotation},
};
use support::{DAY, HOUR, MINUTE, Scene, nobody_listens, passed};

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
    let (nobody, _taken) = nobody_listens();
    let tokens = scene.builder().base_uri(nobody).build().unwrap();
    let error = tokens.get_valid_refresh_token().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    // Three pauses of up to 1, 2 and 4 seconds, which this clock skipped.
    let waited = passed(&scene.clock);
    assert!(waited > Duration::ZERO && waited <= Duration::from_secs(7), "{waited:?}");
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

    // Nor with a refresh token that is due for renewal.
    let refresh = tokens.get_valid_refresh_token().await.unwrap();
    scene.clock.advance(70 * DAY);
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
        assert_eq!(passed(&scene.clock), Duration::from_secs(9), "{after}");
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
    assert_eq!(passed(&scene.clock), Duration::ZERO);

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
                    "127.0.0.1 answered 429 Too Many Requests; try again later [not sent: Concur asked for a pause; \
                     the next attempt is possible in 40 s] (correlation id {})",
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

/// Every attempt gets the whole 30 seconds that a request may take, so none begins after the fifteenth.
#[tokio::test]
async fn attempts_and_pauses_end_within_45_seconds() {
    for (after, requests) in
        [("0", 4), ("4", 4), ("6", 3), ("9", 2), ("14", 2), ("16", 1), ("18446744073709551615", 1)]
    {
        let scene = Scene::skipping(Rotation::Never).await;
        scene.concur.set_fault(Fault::status(503).retry_after(after));
        scene.manager().get_valid_refresh_token().await.unwrap_err();
        assert_eq!(scene.concur.token_requests(), requests, "every {after} s");
        assert!(passed(&scene.clock) <= Duration::from_secs(15), "{:?}", passed(&scene.clock));
    }
    // A time that has passed already is no reason not to pause, however short the pauses' jitter makes them.
    let scene = Scene::skipping(Rotation::Never).await;
    scene.concur.set_fault(Fault::status(503).retry_after("0"));
    scene.manager().get_valid_refresh_token().await.unwrap_err();
    assert!(passed(&scene.clock) > Duration::ZERO);

    let scene = Scene::skipping(Rotation::Never).await;
    scene.concur.fault_next(1, Fault::status(503).retry_after("2"));
    scene.concur.fault_next(1, Fault::status(503).retry_after("18446744073709551615"));
    let error = scene.manager().get_valid_refresh_token().await.unwrap_err();
    assert_eq!(error.retry_after(), Some(Duration::from_secs(u64::MAX)));
}

/// What a flight sends first and what it falls back on share four attempts.
#[tokio::test]
async fn a_fallback_has_what_attempts_are_left() {
    let scene = Scene::skipping(Rotation::Never).await;
    scene.write_token(&scene.concur.token_json());
    scene.concur.fault_next(2, Fault::status(503));
    scene.concur.fault_next(1, Fault::code(108));
    scene.concur.set_fault(Fault::status(503));
    scene.manager().access_token().await.unwrap_err();
    assert_eq!((scene.concur.count("refresh_token"), scene.concur.count("password")), (3, 1));
}

/// What follows a request whose reply was lost may be the last use: not at once, and not five times in a row.
#[tokio::test]
async fn a_company_request_token_that_may_have_been_spent_is_not_spent_again_at_once() {
    for fault in [Fault::DropReply, Fault::html(200), Fault::status(200).body(r#"{"refresh_token": 7}"#)] {
        let scene = Scene::new().await;
        scene.concur.set_fault(fault);
        for _ in 0..10 {
            // Another manager, as the next process is.
            scene.manager().access_token().await.unwrap_err();
        }
        assert_eq!(scene.concur.token_requests(), 1);
        let tokens = scene.manager();
        let held_back = tokens.get_valid_refresh_token().await.unwrap_err();
        assert_eq!(held_back.kind(), ErrorKind::Unavailable);
        let why = " [not sent: a sign-in may have used up the request token without a result; next attempt in 1 min, or as \
                   soon as the credentials or the stored token change]";
        assert!(held_back.to_string().contains(why), "{held_back}");
        for (wait, requests) in [(60, 2), (60, 2), (60, 3)] {
            scene.clock.advance(Duration::from_secs(wait));
            tokens.access_token().await.unwrap_err();
            assert_eq!(scene.concur.token_requests(), requests);
        }
        // Another request token is another matter.
        scene.concur.clear_faults();
        scene.concur.issue_request_token();
        scene.write_credentials(&scene.concur.credentials_json());
        tokens.access_token().await.unwrap();
    }
}

/// Nobody is left to repeat it for, and a runtime that ends has nothing to wait for.
#[tokio::test]
async fn what_nobody_waits_for_is_not_repeated() {
    let scene = Scene::new().await;
    scene.concur.set_fault(Fault::status(503).retry_after("14"));
    let tokens = scene.manager();
    {
        let call = tokens.access_token();
        tokio::select! {
            _ = call => panic!("there is a pause to come"),
            () = support::until(|| scene.clock.sleepers() == 1) => {}
        }
    }
    scene.clock.advance(Duration::from_millis(500));
    tokens.shutdown(HOUR).await.unwrap();
    assert_eq!(scene.concur.token_requests(), 1);
}

/// Whoever joins a flight that could do without more attempts, and cannot, makes them.
#[tokio::test]
async fn who_has_nothing_in_hand_is_not_content_with_somebody_elses_one_attempt() {
    let scene = Scene::skipping(Rotation::Never).await;
    let tokens = scene.manager();
    let refresh = tokens.get_valid_refresh_token().await.unwrap();
    let left = refresh.expires_at().unwrap() - scene.clock.now_utc();
    scene.clock.advance(left.unsigned_abs() - DAY);
    scene.concur.fault_next(1, Fault::status(503));
    let held = scene.concur.hold_replies();
    let carrier = tokio::spawn({
        let tokens = tokens.clone();
        async move { tokens.get_valid_refresh_token().await }
    });
    support::until(|| scene.concur.token_requests() == 2).await;
    let joined = tokio::spawn({
        let tokens = tokens.clone();
        async move { tokens.access_token().await }
    });
    tokio::task::yield_now().await;
    held.release();
    assert_eq!(carrier.await.unwrap().unwrap().secret(), refresh.secret());
    joined.await.unwrap().unwrap();
    assert_eq!(scene.concur.count("refresh_token"), 2);
}

#[tokio::test]
async fn the_status_counts_whatever_becomes_of_the_body() {
    let long = "x".repeat(300 * 1024);
    let scene = Scene::skipping(Rotation::Never).await;
    scene.concur.set_fault(Fault::status(503).retry_after("3").body(&long));
    let error = scene.manager().access_token().await.unwrap_err();
    assert!(error.is_transient());
    assert_eq!(error.retry_after(), Some(Duration::from_secs(3)));
    assert_eq!(scene.concur.token_requests(), 4);
}

/// A code that Concur documents is judgement, whatever the status says: accounts get locked.
#[tokio::test]
async fn a_server_error_with_a_reason_is_not_repeated() {
    let scene = Scene::skipping(Rotation::Never).await;
    scene.concur.set_fault(Fault::status(500).body(r#"{"code": 14, "error": "invalid_grant"}"#));
    for _ in 0..3 {
        let error = scene.manager().access_token().await.unwrap_err();
        assert_eq!((error.kind(), error.code().map(|code| code.number())), (ErrorKind::Refused, Some(14)));
    }
    assert_eq!(scene.concur.token_requests(), 1);
}

/// It was about the old ones.
#[tokio::test]
async fn a_refusal_holds_nothing_back_once_the_credentials_are_mended() {
    let scene = Scene::new().await;
    scene.concur.fault_next(1, Fault::code(64).retry_after("3000"));
    let tokens = scene.manager();
    assert_eq!(tokens.access_token().await.unwrap_err().kind(), ErrorKind::Refused);
    scene.concur.issue_request_token();
    scene.write_credentials(&scene.concur.credentials_json());
    tokens.access_token().await.unwrap();
}

/// It brings a token and says nothing about Concur.
#[tokio::test]
async fn an_adoption_does_not_end_what_concur_asked_for() {
    let scene = Scene::new().await;
    scene.concur.fault_next(1, Fault::status(429).retry_after("600"));
    let tokens = scene.manager();
    tokens.access_token().await.unwrap_err();
    tokens
        .adopt(concur_auth::RefreshTokenObject::from_json(&scene.concur.token_json()).unwrap())
        .await
        .unwrap();
    tokens.access_token().await.unwrap_err();
    assert_eq!(scene.concur.token_requests(), 1);
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

/// The refresh token is known to be dead, and what would replace it is in doubt.
#[tokio::test]
async fn after_a_refusal_and_a_lost_sign_in_nothing_is_sent() {
    let scene = Scene::new().await;
    scene.write_token(&scene.concur.token_json());
    scene.concur.fault_next(1, Fault::code(108));
    scene.concur.fault_next(1, Fault::DropReply);
    for _ in 0..10 {
        scene.manager().access_token().await.unwrap_err();
    }
    assert_eq!((scene.concur.count("refresh_token"), scene.concur.count("password")), (1, 1));
}

/// A clock that goes on between any two looks at it, as real ones do.
#[tokio::test]
async fn being_held_back_is_no_news_and_holds_nothing_back_longer() {
    #[derive(Debug)]
    struct Ticking(concur_auth::simulator::ManualClock);
    impl concur_auth::Clock for Ticking {
        fn now(&self) -> std::time::SystemTime {
            self.0.advance(Duration::from_micros(10));
            self.0.now()
        }
        fn sleep(&self, duration: Duration) -> std::pin::Pin<Box<dyn Future<Output = ()> + Send>> {
            self.0.sleep(duration)
        }
    }
    let scene = Scene::skipping(Rotation::Never).await;
    scene.concur.set_fault(Fault::status(429).retry_after("60"));
    let tokens = scene.builder().clock(Ticking(scene.clock.clone())).build().unwrap();
    let first = tokens.access_token().await.unwrap_err();
    for _ in 0..100 {
        let again = tokens.access_token().await.unwrap_err();
        assert!(again.to_string().len() < first.to_string().len() + 100, "{again}");
        assert_eq!(tokens.status().last_error.unwrap().message, first.to_string());
    }
    scene.concur.clear_faults();
    scene.clock.advance(MINUTE);
    tokens.access_token().await.unwrap();
}
