//! Saved before used: a token from Concur is in the store before any caller sees it (promise 2 of docs/promises.md).

#![cfg(feature = "simulator")]

mod support;

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use concur_auth::{Error, ErrorKind, RefreshTokenObject, TokenStore as _, simulator::Rotation};
use support::{Call, HOUR, Scene, Watched, until};

/// The steps of one flight: (look), lock, read again, rehearse, request, save, publish.
#[tokio::test]
async fn the_steps_of_a_flight_come_in_their_order() {
    let scene = Scene::new().await;
    let calls = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&calls);
    let store = Watched::new(move |call| {
        noted.lock().unwrap().push(call);
        Ok(())
    });
    let tokens = scene.builder().store(store).build().unwrap();
    let begun = [Call::Load, Call::TryLock, Call::Load, Call::Rehearse];
    // What is renewed takes the place of its predecessor only, what is signed in that of whatever is stored.
    for (requests, saved) in [(1, &[Call::Replace, Call::Save][..]), (2, &[Call::Save])] {
        calls.lock().unwrap().clear();
        tokens.refresh().await.unwrap();
        calls.lock().unwrap().retain(|call| *call != Call::Loaded);
        assert_eq!(*calls.lock().unwrap(), [&begun, saved].concat());
        assert_eq!(scene.concur.token_requests(), requests);
    }
}

#[tokio::test]
async fn rotation_saves_token_expiry_and_geolocation_before_use() {
    let scene = Scene::with(Rotation::Always).await;
    let tokens = scene.manager();
    let first = tokens.get_valid_refresh_token().await.unwrap();
    scene.clock.advance(HOUR);
    let moved = scene.concur.base_uri().replace("127.0.0.1", "localhost");
    scene.concur.set_reply_member("geolocation", Some(&format!("\"{moved}\"")));
    let access = tokens.access_token().await.unwrap();

    let stored = RefreshTokenObject::from_json(&scene.token_file()).unwrap();
    assert_ne!(stored.secret(), first.secret());
    assert!(stored.expires_at() > first.expires_at());
    assert_eq!(stored.geolocation(), Some(moved.as_str()));
    assert_eq!(access.geolocation().as_str().trim_end_matches('/'), moved);
    // The next one is asked for there.
    tokens.refresh().await.unwrap();
    let host = scene.concur.requests()[2].header("host").unwrap().to_owned();
    assert!(host.starts_with("localhost:"), "{host}");
}

#[tokio::test]
async fn a_reply_with_a_bad_member_is_saved_and_then_reported() {
    for (member, json) in [
        ("expires_in", "\"soon\""),
        ("refresh_expires_in", "-1"),
        ("access_token", "[]"),
        ("geolocation", "7"),
        ("token_type", "\"mac\""),
    ] {
        let scene = Scene::with(Rotation::Always).await;
        scene.concur.set_reply_member(member, Some(json));
        let error = scene.manager().get_valid_refresh_token().await.expect_err(member);
        assert_eq!(error.kind(), ErrorKind::Protocol, "{member}");
        let named = format!("the reply of 127.0.0.1 has a fault: the member {member} is not ");
        assert!(error.to_string().starts_with(&named), "{error}");
        assert!(scene.concur.is_live(&scene.stored_refresh_token()), "{member}");
        // From the store it is served, and nothing more is sent.
        scene.manager().get_valid_refresh_token().await.unwrap();
        assert_eq!(scene.concur.token_requests(), 1, "{member}");
    }
}

#[tokio::test]
async fn a_token_just_received_is_never_judged_expired_within_its_flight() {
    let scene = Scene::new().await;
    scene.concur.set_reply_member("expires_in", Some("0"));
    scene.concur.set_reply_member("refresh_expires_in", Some("1517039403"));
    let tokens = scene.manager();
    tokens.access_token().await.unwrap();
    assert_eq!(scene.concur.token_requests(), 1);
    scene.manager().refresh().await.unwrap();
    assert_eq!(scene.concur.token_requests(), 2);
}

/// A save that fails at first and works later is still before use.
#[tokio::test]
async fn a_save_is_tried_five_times_before_the_token_is_handed_out_unsaved() {
    for (refusals, unsaved) in [(4, false), (5, true)] {
        let scene = Scene::new().await;
        let saves = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&saves);
        let store = Watched::new(move |call| {
            if call == Call::Save && counted.fetch_add(1, Ordering::Relaxed) < refusals {
                return Err(Error::store("refused by the test", "no room"));
            }
            Ok(())
        });
        let clock = concur_auth::simulator::ManualClock::skipping(support::noon());
        let tokens = scene.builder().store(store.clone()).clock(clock.clone()).build().unwrap();
        tokens.get_valid_refresh_token().await.unwrap();
        let waited = support::passed(&clock);
        if unsaved {
            // The next attempt comes in the background.
            support::until(|| !tokens.status().unsaved).await;
        } else {
            assert!(!tokens.status().unsaved);
        }
        assert_eq!(saves.load(Ordering::Relaxed), refusals + 1);
        assert!(waited >= Duration::from_secs(1), "waited {waited:?}");
        assert!(store.inner.load().await.unwrap().is_some());
    }
}

#[tokio::test]
async fn no_caller_sees_the_token_before_the_save_ends() {
    let scene = Scene::with(Rotation::Always).await;
    // A save lasts until the test lets it end.
    let (saving, go_on) = (Arc::new(AtomicUsize::new(0)), Arc::new(tokio::sync::Semaphore::new(0)));
    let (counted, gate) = (Arc::clone(&saving), Arc::clone(&go_on));
    let store = Watched::slowly(move |call| {
        let (counted, gate) = (Arc::clone(&counted), Arc::clone(&gate));
        async move {
            if call == Call::Save {
                counted.fetch_add(1, Ordering::Relaxed);
                gate.acquire().await.unwrap().forget();
            }
            Ok(())
        }
    });
    let tokens = scene.builder().store(store.clone()).build().unwrap();
    for saves in 1..=2 {
        let before = tokens.status();
        let renewal = tokio::spawn({
            let tokens = tokens.clone();
            async move { tokens.refresh().await }
        });
        support::until(|| saving.load(Ordering::Relaxed) == saves).await;
        assert_eq!(scene.concur.token_requests(), saves);
        let mut status = tokens.status();
        // The store was read meanwhile, which is all that has changed.
        status.as_of = before.as_of;
        assert_eq!(status, before, "save {saves}");
        assert!(!renewal.is_finished());
        if saves == 1 {
            assert!(!support::poll_and_drop(tokens.access_token(), 1).await);
        }
        go_on.add_permits(1);
        let renewed = renewal.await.unwrap().unwrap();
        assert_eq!(store.inner.load().await.unwrap().unwrap().secret(), renewed.secret());
        scene.clock.advance(HOUR / 2);
    }
}

/// The seconds of a life, and a date: both are past on arrival, so they count as absent. A program that starts again and
/// again must not spend the five uses of its request token on them.
#[tokio::test]
async fn an_expiry_that_is_past_on_arrival_does_not_cost_a_second_request() {
    for past in ["15552000", "1517039403"] {
        let scene = Scene::new().await;
        scene.concur.set_reply_member("refresh_expires_in", Some(past));
        for _ in 0..10 {
            let received = scene.manager().get_valid_refresh_token().await.unwrap();
            assert_eq!(received.expires_at(), Some(scene.clock.now_utc() + 180 * 24 * HOUR));
        }
        assert_eq!(scene.concur.token_requests(), 1);
        assert!(scene.token_file().contains(&format!("\"refresh_expires_in\": {past},")));
    }
}

/// A byte that is no text, in a member that nobody needs.
#[tokio::test]
async fn a_reply_with_a_byte_that_is_not_utf_8_is_saved() {
    let scene = Scene::new().await;
    let server = wiremock::MockServer::start().await;
    let body = b"{\"refresh_token\": \"kept\", \"motto\": \"\xff\"}".to_vec();
    let reply = wiremock::ResponseTemplate::new(200).set_body_bytes(body);
    wiremock::Mock::given(wiremock::matchers::any()).respond_with(reply).mount(&server).await;
    let tokens = scene.builder().base_uri(server.uri()).build().unwrap();
    assert_eq!(tokens.get_valid_refresh_token().await.unwrap().secret(), "kept");
    assert_eq!(scene.stored_refresh_token(), "kept");
}

/// A store that panics is one that fails: the token is kept, handed out, and saved later, under the same lock.
#[tokio::test]
async fn a_panic_in_the_store_loses_no_token() {
    let scene = Scene::with(Rotation::AlwaysAndRevokeFamily).await;
    // How many of which call panic.
    let panics = Arc::new(Mutex::new((Call::Save, 7)));
    let next = Arc::clone(&panics);
    let store = Watched::new(move |call| {
        let panics = {
            let mut next = next.lock().unwrap();
            let panics = next.0 == call && next.1 > 0;
            next.1 -= usize::from(panics);
            panics
        };
        assert!(!panics, "a bug in this store");
        Ok(())
    });
    let clock = concur_auth::simulator::ManualClock::skipping(support::noon());
    let tokens = scene.builder().store(store.clone()).clock(clock).build().unwrap();
    let obtained = tokens.get_valid_refresh_token().await.unwrap();
    support::until(|| !tokens.status().unsaved).await;
    assert_eq!(store.inner.load().await.unwrap().unwrap().secret(), obtained.secret());
    // The lock goes in the same breath, and a moment later.
    while store.inner.try_lock().await.unwrap().is_none() {
        tokio::task::yield_now().await;
    }

    *panics.lock().unwrap() = (Call::Rehearse, 1);
    let error = tokens.refresh().await.unwrap_err();
    assert_eq!(error.kind(), concur_auth::ErrorKind::Store);
    assert!(error.to_string().ends_with("::Watched panicked; see the panic's message"), "{error}");
    assert_eq!(scene.concur.token_requests(), 1, "the rehearsal panicked, so nothing was sent");
    tokens.refresh().await.unwrap();
}

/// Each caller's error is about what that caller asked for.
#[tokio::test]
async fn a_reply_without_an_access_token_serves_who_wants_the_refresh_token() {
    let scene = Scene::new().await;
    scene.concur.set_reply_member("access_token", None);
    let tokens = scene.manager();
    let held = scene.concur.hold_replies();
    let access = tokio::spawn({
        let tokens = tokens.clone();
        async move { tokens.access_token().await }
    });
    until(|| scene.concur.token_requests() == 1).await;
    let joined = Arc::new(AtomicUsize::new(0));
    let refresh = tokio::spawn({
        let (tokens, joined) = (tokens.clone(), Arc::clone(&joined));
        async move {
            joined.fetch_add(1, Ordering::Relaxed);
            tokens.get_valid_refresh_token().await
        }
    });
    until(|| joined.load(Ordering::Relaxed) == 1).await;
    held.release();
    assert_eq!(access.await.unwrap().unwrap_err().kind(), ErrorKind::Protocol);
    assert_eq!(refresh.await.unwrap().unwrap().secret(), scene.stored_refresh_token());
    assert_eq!(scene.concur.token_requests(), 1);
}
