//! A renewal on demand is one that began after the call, and a refused access token does not come back.

#![cfg(feature = "simulator")]

mod support;

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use concur_auth::{
    Grant, JsonFileStore, RefreshTokenObject, TokenStore as _,
    simulator::{Fault, Rotation},
};
use support::{Call, HOUR, MINUTE, Scene, Watched, until};
use tokio::sync::oneshot;

#[tokio::test]
async fn refresh_always_sends_a_grant() {
    let scene = Scene::new().await;
    let tokens = scene.manager();
    for sent in 1..=3 {
        tokens.refresh().await.unwrap();
        assert_eq!(scene.concur.token_requests(), sent);
    }
    assert_eq!(scene.concur.count("password"), 1);
}

#[tokio::test]
async fn refresh_joins_only_a_flight_that_began_after_the_call() {
    let scene = Scene::with(Rotation::AlwaysAndRevokeFamily).await;
    let tokens = scene.manager();
    let held = scene.concur.hold_replies();
    let early = tokio::spawn({
        let tokens = tokens.clone();
        async move { tokens.refresh().await.unwrap() }
    });
    until(|| scene.concur.token_requests() == 1).await;
    // Ten more, while the first is in the air.
    let asking = Arc::new(AtomicUsize::new(0));
    let late: Vec<_> = (0..10)
        .map(|_| {
            let (tokens, asking) = (tokens.clone(), Arc::clone(&asking));
            tokio::spawn(async move {
                asking.fetch_add(1, Ordering::Relaxed);
                tokens.refresh().await.unwrap()
            })
        })
        .collect();
    until(|| asking.load(Ordering::Relaxed) == 10).await;
    held.release();
    let early = early.await.unwrap();
    for late in late {
        assert_ne!(late.await.unwrap().secret(), early.secret());
    }
    assert_eq!(scene.concur.token_requests(), 2);
}

#[tokio::test]
async fn an_invalidated_access_token_is_replaced_by_one_request() {
    let scene = Scene::new().await;
    let tokens = scene.manager();
    let refused = tokens.access_token().await.unwrap();
    for _ in 0..10 {
        tokens.invalidate(&refused);
    }
    let renewed = tokens.access_token().await.unwrap();
    assert_ne!(renewed.secret(), refused.secret());
    // It is no longer the current one.
    tokens.invalidate(&refused);
    assert_eq!(tokens.access_token().await.unwrap().secret(), renewed.secret());
    assert_eq!(scene.concur.token_requests(), 2);
}

#[tokio::test]
async fn after_invalidation_a_different_stored_token_is_adopted() {
    let scene = Scene::new().await;
    let (one, other) = (scene.manager(), scene.manager());
    let refused = one.access_token().await.unwrap();
    assert_eq!(other.access_token().await.unwrap().secret(), refused.secret());
    other.refresh().await.unwrap();
    one.invalidate(&refused);
    assert_eq!(one.access_token().await.unwrap().secret(), other.access_token().await.unwrap().secret());
    assert_eq!(scene.concur.token_requests(), 2);
}

#[tokio::test]
async fn while_renewing_fails_an_invalidated_token_is_not_served() {
    let scene = Scene::skipping(Rotation::Never).await;
    let tokens = scene.manager();
    let refused = tokens.access_token().await.unwrap();
    tokens.invalidate(&refused);
    scene.concur.set_fault(Fault::status(503));
    assert!(tokens.access_token().await.unwrap_err().is_transient());
}

#[tokio::test]
async fn no_refresh_token_that_a_sibling_rotated_away_is_handed_out() {
    let scene = Scene::with(Rotation::Always).await;
    let (one, other) = (scene.manager(), scene.manager());
    for _ in 0..5 {
        let rotated = one.refresh().await.unwrap();
        assert_eq!(other.get_valid_refresh_token().await.unwrap().secret(), rotated.secret());
    }
    assert_eq!(scene.concur.token_requests(), 5);
}

/// The access token is stored with its absolute expiry; one without is not used, for when was it issued?
#[tokio::test]
async fn a_stored_access_token_is_used_only_with_its_absolute_expiry() {
    let scene = Scene::new().await;
    scene.write_token(&scene.concur.token_json());
    scene.manager().access_token().await.unwrap();
    assert_eq!(scene.concur.count("refresh_token"), 1);
    scene.clock.advance(HOUR / 2);
    scene.manager().access_token().await.unwrap();
    assert_eq!(scene.concur.count("refresh_token"), 1);
}

/// Another program has written the file anew, with the same access token in it.
#[tokio::test]
async fn an_invalidated_access_token_does_not_come_back_from_the_store() {
    let scene = Scene::new().await;
    let tokens = scene.manager();
    let refused = tokens.access_token().await.unwrap();
    tokens.invalidate(&refused);
    let file = scene.token_file();
    scene.write_token(&file.replacen('{', "{\"note\": 1,", 1));
    // It is read, and its access token is none.
    tokens.get_valid_refresh_token().await.unwrap();
    assert_eq!(tokens.status().access_token_expires_at, None);
    assert_ne!(tokens.access_token().await.unwrap().secret(), refused.secret());
    assert_eq!(scene.concur.token_requests(), 2);
}

#[tokio::test]
async fn an_older_read_does_not_replace_a_renewed_token() {
    let scene = Scene::with(Rotation::Always).await;
    // The next load has read what is there and is slow to say so.
    let slow: Arc<Mutex<Option<oneshot::Receiver<()>>>> = Arc::default();
    let next = Arc::clone(&slow);
    let store = Watched::slowly(move |call| {
        let gate = next.lock().unwrap().take_if(|_| call == Call::Loaded);
        async move {
            if let Some(gate) = gate {
                gate.await.unwrap();
            }
            Ok(())
        }
    });
    let tokens = scene.builder().store(store.clone()).build().unwrap();
    tokens.access_token().await.unwrap();
    // A sibling renews, which is read, slowly; meanwhile this manager renews too.
    scene.builder().store(store.inner.clone()).build().unwrap().refresh().await.unwrap();
    let (go_on, gate) = oneshot::channel();
    *slow.lock().unwrap() = Some(gate);
    let reading = tokio::spawn({
        let tokens = tokens.clone();
        async move { tokens.get_valid_refresh_token().await }
    });
    until(|| slow.lock().unwrap().is_none()).await;
    tokens.refresh().await.unwrap();
    let newest = tokens.access_token().await.unwrap();
    go_on.send(()).unwrap();
    reading.await.unwrap().unwrap();
    assert_eq!(tokens.access_token().await.unwrap().secret(), newest.secret());
    assert_eq!(scene.concur.token_requests(), 3);
}

/// A server that hands the refused token out again insists on it; to ask on every call would not change its mind.
#[tokio::test]
async fn a_server_that_returns_the_invalidated_token_is_believed() {
    let scene = Scene::new().await;
    scene.concur.set_reply_member("access_token", Some("\"always-the-same\""));
    let tokens = scene.manager();
    let refused = tokens.access_token().await.unwrap();
    tokens.invalidate(&refused);
    for _ in 0..5 {
        assert_eq!(tokens.access_token().await.unwrap().secret(), "always-the-same");
    }
    assert_eq!(scene.concur.token_requests(), 2);
}

type Then = Box<dyn FnOnce() + Send>;

/// An API's 401 is reported while the store is read: that changes what is held, and nothing about what is stored.
#[tokio::test]
async fn an_invalidation_while_the_store_is_read_brings_no_rotated_token_back() {
    let scene = Scene::with(Rotation::AlwaysAndRevokeFamily).await;
    let then: Arc<Mutex<Option<Then>>> = Arc::default();
    let next = Arc::clone(&then);
    let store = Watched::new(move |call| {
        if let Some(then) = next.lock().unwrap().take_if(|_| call == Call::Loaded) {
            then();
        }
        Ok(())
    });
    let tokens = scene.builder().store(store.clone()).build().unwrap();
    let access = tokens.access_token().await.unwrap();
    let sibling = scene.builder().store(store.inner.clone()).build().unwrap();
    let rotated = sibling.refresh().await.unwrap();
    *then.lock().unwrap() = Some(Box::new({
        let tokens = tokens.clone();
        move || tokens.invalidate(&access)
    }));
    assert_eq!(tokens.get_valid_refresh_token().await.unwrap().secret(), rotated.secret());
    assert!(scene.concur.is_live(rotated.secret()));
}

/// What somebody does expressly ends well or badly for them alone.
#[tokio::test]
async fn a_refused_sign_in_is_no_answer_to_other_callers() {
    let scene = Scene::new().await;
    let tokens = scene.manager();
    tokens.access_token().await.unwrap();
    scene.clock.advance(HOUR);
    let held = scene.concur.hold_replies();
    let wrong = Grant::company_request_token(scene.concur.company_uuid(), "at-wrong");
    let sign_in = tokio::spawn({
        let tokens = tokens.clone();
        async move { tokens.sign_in(wrong).await }
    });
    support::until(|| scene.concur.token_requests() == 2).await;
    let mut waiting = Box::pin(tokens.access_token());
    assert!(!support::poll_and_drop(&mut waiting, 1).await);
    held.release();
    waiting.await.unwrap();
    assert_eq!(sign_in.await.unwrap().unwrap_err().kind(), concur_auth::ErrorKind::Refused);
    assert_eq!((scene.concur.count("password"), scene.concur.count("refresh_token")), (2, 1));
}

/// It was not issued in this flight, so its expiry is believed.
#[tokio::test]
async fn an_adopted_expired_token_is_not_handed_out_to_waiters() {
    let scene = Scene::new().await;
    let expired = (support::noon() - support::MINUTE).unix_timestamp();
    let adopted = RefreshTokenObject::from_json(&format!(
        r#"{{"refresh_token": "stale", "refreshTokenExpiresAt": {expired}, "access_token": "stale",
             "expires_in": 3600, "accessTokenExpiresAt": {expired}}}"#
    ))
    .unwrap();
    let tokens = scene.manager();
    let adopting = tokens.adopt(adopted);
    let (adopting, access, refresh) =
        tokio::join!(adopting, tokens.access_token(), tokens.get_valid_refresh_token());
    adopting.unwrap();
    assert_ne!(access.unwrap().secret(), "stale");
    assert_ne!(refresh.unwrap().secret(), "stale");
}

/// An API that refuses every token has a reason of its own, which no grant removes.
#[tokio::test]
async fn tokens_that_are_refused_as_soon_as_they_come_are_handed_out_for_a_while() {
    let scene = Scene::new().await;
    let tokens = scene.manager();
    let mut grants = Vec::new();
    let began = scene.clock.now_utc();
    for _ in 0..2000 {
        let before = scene.concur.token_requests();
        tokens.invalidate(&tokens.access_token().await.unwrap());
        if scene.concur.token_requests() > before {
            grants.push((scene.clock.now_utc() - began).whole_seconds());
        }
        scene.clock.advance(Duration::from_secs(1));
    }
    // The first token was replaced at once. Then pauses of 1, 2, 4, 8, 16, 32 and 60 s.
    assert_eq!(grants[..11], [0, 1, 2, 4, 8, 16, 32, 64, 124, 184, 244]);
    assert_eq!(grants.len(), 40);

    // A token that lives for a minute is replaced at once again.
    let old = tokens.access_token().await.unwrap();
    scene.clock.advance(2 * MINUTE);
    let current = tokens.access_token().await.unwrap();
    scene.clock.advance(MINUTE);
    tokens.invalidate(&current);
    let next = tokens.access_token().await.unwrap();
    assert!(next.secret() != current.secret() && current.secret() != old.secret());
}

/// Two callers wait for one flight. The first of them has its token refused before the second gets to see it.
#[tokio::test]
async fn what_was_refused_meanwhile_is_not_handed_out_by_the_flight_that_brought_it() {
    for app in [false, true] {
        let scene = Scene::new().await;
        let (manager, app_tokens) = (scene.manager(), scene.builder().build_for_app().unwrap());
        let access_token = || async {
            if app { app_tokens.access_token().await } else { manager.access_token().await }.unwrap()
        };
        let held = scene.concur.hold_replies();
        let (mut first, mut second) = (Box::pin(access_token()), Box::pin(access_token()));
        assert!(!polled(&mut first).await && !polled(&mut second).await);
        held.release();
        let refused = first.await;
        if app {
            app_tokens.invalidate(&refused);
        } else {
            manager.invalidate(&refused);
        }
        assert_ne!(second.await.secret(), refused.secret());
        assert_eq!(scene.concur.token_requests(), 2);
    }
}

/// It serves who asked for any access token.
#[tokio::test]
async fn what_another_process_has_got_is_not_handed_out_to_a_caller_who_needs_it_for_longer() {
    let scene = Scene::new().await;
    let tokens = scene.manager();
    let sibling = JsonFileStore::new(scene.token_path());
    let lock = sibling.try_lock().await.unwrap().unwrap();
    let mut any = Box::pin(tokens.access_token());
    assert!(!polled(&mut any).await);
    until(|| scene.clock.sleepers() == 1).await;
    let mut long = Box::pin(tokens.access_token_for(30 * MINUTE));
    assert!(!polled(&mut long).await);

    let mut token: serde_json::Value = serde_json::from_str(&scene.concur.token_json()).unwrap();
    token["access_token"] = "a-siblings-token".into();
    token["expires_in"] = 3600.into();
    token["accessTokenExpiresAt"] = (support::noon() + 20 * MINUTE).unix_timestamp().into();
    sibling.save(&RefreshTokenObject::from_json(&token.to_string()).unwrap(), &lock).await.unwrap();
    drop(lock);
    scene.clock.advance(Duration::from_secs(1));
    assert_eq!(any.await.unwrap().secret(), "a-siblings-token");
    assert_eq!(scene.concur.token_requests(), 0);
    assert!(long.await.unwrap().expires_at() > support::noon() + 30 * MINUTE);
    assert_eq!(scene.concur.token_requests(), 1);
}

/// The flight that a caller with a valid token started has made its one attempt; the other caller has nothing to fall back on.
#[tokio::test]
async fn a_caller_who_needs_another_token_is_not_content_with_the_one_attempt_of_a_caller_who_has_one() {
    let scene = Scene::skipping(Rotation::Never).await;
    let tokens = scene.manager();
    let old = tokens.access_token().await.unwrap();
    scene.clock.advance(56 * MINUTE + MINUTE / 2);
    scene.concur.fault_next(1, Fault::status(503));
    let held = scene.concur.hold_replies();
    let (mut any, mut long) =
        (Box::pin(tokens.access_token()), Box::pin(tokens.access_token_for(30 * MINUTE)));
    assert!(!polled(&mut any).await && !polled(&mut long).await);
    until(|| scene.concur.token_requests() == 2).await;
    held.release();
    assert_eq!(any.await.unwrap().secret(), old.secret());
    assert_ne!(long.await.unwrap().secret(), old.secret());
    assert_eq!(scene.concur.token_requests(), 3);
}

/// Whether it was ready.
async fn polled<F: Future>(future: &mut std::pin::Pin<Box<F>>) -> bool {
    std::future::poll_fn(|context| std::task::Poll::Ready(future.as_mut().poll(context).is_ready())).await
}
