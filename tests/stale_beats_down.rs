//! Stale beats down: while Concur cannot be asked, a token that is still valid is served, and each token is renewed before
//! it expires (promise 7 of docs/promises.md).

#![cfg(feature = "simulator")]

mod support;

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use concur_auth::{
    Error, ErrorKind, RefreshTokenObject, TokenStore as _,
    simulator::{Fault, Rotation},
};
use support::{Call, DAY, HOUR, MINUTE, Scene, Watched, passed, until};

#[tokio::test]
async fn an_access_token_is_reused_for_its_hour() {
    let scene = Scene::new().await;
    let first = scene.manager().access_token().await.unwrap();
    assert_eq!(first.expires_at(), support::noon() + HOUR);
    scene.clock.advance(54 * MINUTE);
    // Also by the next process.
    assert_eq!(scene.manager().access_token().await.unwrap().secret(), first.secret());
    assert_eq!(scene.concur.token_requests(), 1);
}

#[tokio::test]
async fn in_the_advisory_window_one_caller_renews_while_the_others_are_served() {
    let scene = Scene::new().await;
    let tokens = scene.manager();
    let old = tokens.access_token().await.unwrap();
    scene.clock.advance(56 * MINUTE + MINUTE / 2);

    let held = scene.concur.hold_replies();
    let carrier = tokio::spawn({
        let tokens = tokens.clone();
        async move { tokens.access_token().await.unwrap() }
    });
    until(|| scene.concur.token_requests() == 2).await;
    for _ in 0..100 {
        assert_eq!(tokens.access_token().await.unwrap().secret(), old.secret());
    }
    assert!(!carrier.is_finished());
    held.release();
    let new = carrier.await.unwrap();
    assert_ne!(new.secret(), old.secret());
    assert_eq!(tokens.access_token().await.unwrap().secret(), new.secret());
    assert_eq!(scene.concur.token_requests(), 2);
}

#[tokio::test]
async fn in_the_mandatory_window_all_wait() {
    let scene = Scene::new().await;
    let tokens = scene.manager();
    let old = tokens.access_token().await.unwrap();
    scene.clock.advance(59 * MINUTE + MINUTE / 2);
    let held = scene.concur.hold_replies();
    let asking = AtomicUsize::new(0);
    let ask = async || {
        asking.fetch_add(1, Ordering::Relaxed);
        tokens.access_token().await.unwrap()
    };
    let ((one, two), ()) = tokio::join!(async { tokio::join!(ask(), ask()) }, async {
        until(|| scene.concur.token_requests() == 2 && asking.load(Ordering::Relaxed) == 2).await;
        held.release();
    });
    assert_eq!(one.secret(), two.secret());
    assert_ne!(one.secret(), old.secret());
    assert_eq!(scene.concur.token_requests(), 2);
}

#[tokio::test]
async fn a_passing_failure_serves_the_valid_token_and_starts_a_back_off() {
    let scene = Scene::skipping(Rotation::Never).await;
    let tokens = scene.manager();
    let old = tokens.access_token().await.unwrap();
    scene.concur.set_fault(Fault::status(503));
    for minutes in [56, 59] {
        // In the advisory window, in the mandatory one.
        scene.clock.advance(minutes * MINUTE + MINUTE / 2 - passed(&scene.clock));
        let before = scene.concur.token_requests();
        for _ in 0..10 {
            assert_eq!(tokens.access_token().await.unwrap().secret(), old.secret());
        }
        assert_eq!(scene.concur.token_requests(), before + 1, "at minute {minutes}");
    }
    assert!(tokens.status().last_error.unwrap().message.contains("503"));
    // Once it has expired there is nothing to serve.
    scene.clock.advance(MINUTE);
    assert_eq!(tokens.access_token().await.unwrap_err().kind(), ErrorKind::Unavailable);

    scene.concur.clear_faults();
    scene.clock.advance(Duration::from_secs(1));
    assert_ne!(tokens.access_token().await.unwrap().secret(), old.secret());
    assert_eq!(tokens.status().last_error, None);
}

#[tokio::test]
async fn a_refresh_token_is_renewed_once_a_third_of_its_life_has_passed() {
    let scene = Scene::new().await;
    let first = scene.manager().get_valid_refresh_token().await.unwrap();
    let life = first.expires_at().unwrap() - support::noon();
    scene.clock.advance(life.unsigned_abs() / 3 - DAY);
    scene.manager().get_valid_refresh_token().await.unwrap();
    assert_eq!(scene.concur.count("refresh_token"), 0);

    scene.clock.advance(2 * DAY);
    let renewed = scene.manager().get_valid_refresh_token().await.unwrap();
    assert!(renewed.expires_at() > first.expires_at());
    assert_eq!(scene.concur.count("refresh_token"), 1);
    scene.manager().get_valid_refresh_token().await.unwrap();
    assert_eq!(scene.concur.count("refresh_token"), 1);
}

#[tokio::test]
async fn while_one_caller_renews_a_refresh_token_ahead_of_time_the_others_are_served() {
    let scene = Scene::new().await;
    let tokens = scene.manager();
    let old = tokens.get_valid_refresh_token().await.unwrap();
    scene.clock.advance(61 * DAY);
    let held = scene.concur.hold_replies();
    let carrier = tokio::spawn({
        let tokens = tokens.clone();
        async move { tokens.get_valid_refresh_token().await.unwrap() }
    });
    until(|| scene.concur.token_requests() == 2).await;
    for _ in 0..10 {
        let served = tokens.get_valid_refresh_token().await.unwrap();
        assert_eq!(served.expires_at(), old.expires_at());
    }
    held.release();
    assert!(carrier.await.unwrap().expires_at() > old.expires_at());
    assert_eq!(scene.concur.token_requests(), 2);
}

#[tokio::test]
async fn the_margin_of_a_refresh_token_can_be_chosen() {
    let scene = Scene::new().await;
    let tokens = || scene.builder().refresh_token_margin(100 * DAY).build().unwrap();
    let first = tokens().get_valid_refresh_token().await.unwrap();
    let left = first.expires_at().unwrap() - support::noon();
    for (days, renewals) in [(101, 0), (99, 1)] {
        scene.clock.set(support::noon() + left - days * DAY);
        tokens().get_valid_refresh_token().await.unwrap();
        assert_eq!(scene.concur.count("refresh_token"), renewals, "with {days} days left");
    }
}

#[tokio::test]
async fn a_server_that_does_not_extend_is_not_asked_on_every_call() {
    let scene = Scene::new().await;
    let end = scene.clock.now_utc() + 180 * DAY;
    scene.concur.set_reply_member("refresh_expires_in", Some(&end.unix_timestamp().to_string()));
    let tokens = scene.manager();
    let mut days = Vec::new();
    while scene.clock.now_utc() < end {
        let before = scene.concur.token_requests();
        for _ in 0..3 {
            tokens.get_valid_refresh_token().await.unwrap();
        }
        if scene.concur.token_requests() > before {
            days.push((scene.clock.now_utc() - support::noon()).whole_days());
        }
        scene.clock.advance(HOUR / 2);
    }
    // Each time a third of what was left has passed.
    assert_eq!(days[..6], [0, 60, 100, 126, 144, 156]);
    assert_eq!((days.len(), scene.concur.token_requests()), (21, 21));
}

/// An expiry that is past although the last grant was less than an hour ago is what is wrong, and no request token is spent.
#[tokio::test]
async fn while_the_access_token_of_the_last_grant_lives_the_refresh_token_is_tried_first() {
    for (minutes, grants) in [
        (30, ["refresh_token", "password"]),
        (0, ["password", "refresh_token"]),
        (-30, ["password", "refresh_token"]),
    ] {
        let scene = Scene::new().await;
        let now = scene.clock.now_utc().unix_timestamp();
        let mut token: serde_json::Value = serde_json::from_str(&scene.concur.token_json()).unwrap();
        token["refreshTokenExpiresAt"] = (now - 3600).into();
        token["accessTokenExpiresAt"] = (now + minutes * 60).into();
        scene.write_token(&token.to_string());
        scene.manager().get_valid_refresh_token().await.unwrap();
        assert_eq!(grants.map(|grant| scene.concur.count(grant)), [1, 0], "{minutes}");
    }
}

/// A pause of over two thirds of a life may come right after a run that was too early to renew.
#[tokio::test]
async fn a_pause_of_two_thirds_of_a_life_is_survived_wherever_it_falls() {
    for (first, pause, is_kept) in [(59, 120, true), (61, 179, true), (0, 179, true), (59, 122, false)] {
        let scene = Scene::new().await;
        let token = scene.manager().get_valid_refresh_token().await.unwrap();
        // The simulator's tokens live for 182 days: a third is 60 days and 16 hours.
        assert_eq!((token.expires_at().unwrap() - support::noon()).whole_days(), 182);
        scene.clock.advance(first * DAY);
        scene.manager().get_valid_refresh_token().await.unwrap();
        scene.clock.advance((pause + 1) * DAY);
        // The request token lives for a day only.
        assert_eq!(scene.manager().get_valid_refresh_token().await.is_ok(), is_kept, "{first} {pause}");
    }
}

/// One attempt while there is time for many more; all four once half of its life has passed.
#[tokio::test]
async fn the_later_in_its_life_the_harder_a_refresh_token_is_renewed() {
    for (days, attempts) in [(61, 1), (89, 1), (91, 4), (179, 4)] {
        let scene = Scene::skipping(Rotation::Never).await;
        scene.manager().get_valid_refresh_token().await.unwrap();
        scene.concur.set_fault(Fault::status(503));
        scene.clock.advance(days * DAY);
        let tokens = scene.manager();
        tokens.get_valid_refresh_token().await.unwrap();
        assert_eq!(scene.concur.count("refresh_token"), attempts, "after {days} days");
        assert!(tokens.status().last_error.is_some());
    }
}

#[tokio::test]
async fn a_stored_token_without_an_expiry_is_renewed() {
    let scene = Scene::new().await;
    let mut json: serde_json::Value = serde_json::from_str(&scene.concur.token_json()).unwrap();
    json.as_object_mut().unwrap().remove("refresh_expires_in");
    scene.write_token(&json.to_string());

    // While Concur is down it is served all the same.
    scene.concur.set_fault(Fault::status(500));
    let tokens = scene.manager();
    assert_eq!(tokens.get_valid_refresh_token().await.unwrap().expires_at(), None);
    scene.concur.clear_faults();
    scene.clock.advance(MINUTE * 2);
    assert!(tokens.get_valid_refresh_token().await.unwrap().expires_at().is_some());
    assert_eq!(scene.concur.count("refresh_token"), 2);
}

/// Busy means that somebody else is renewing.
#[tokio::test]
async fn no_caller_waits_for_the_stores_lock_while_the_token_is_valid() {
    use concur_auth::{JsonFileStore, TokenStore as _};
    let scene = Scene::new().await;
    let tokens = scene.manager();
    let old = tokens.access_token().await.unwrap();
    let _lock = JsonFileStore::new(scene.token_path()).try_lock().await.unwrap().unwrap();
    for minutes in [56, 59] {
        scene.clock.advance(minutes * MINUTE + MINUTE / 2 - passed(&scene.clock));
        assert_eq!(tokens.access_token().await.unwrap().secret(), old.secret());
    }
    scene.clock.advance(150 * DAY + 10 * DAY);
    tokens.get_valid_refresh_token().await.unwrap();
    assert_eq!(scene.concur.token_requests(), 1);
}

#[tokio::test]
async fn a_renewal_for_callers_who_hold_something_valid_can_wait() {
    let scene = Scene::new().await;
    let asked = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&asked);
    let store = Watched::new(move |call| {
        if matches!(call, Call::TryLockAheadOfTime | Call::TryLock) {
            noted.lock().unwrap().push(call);
        }
        Ok(())
    });
    let tokens = scene.builder().store(store).build().unwrap();
    let ahead_of_time = [Call::TryLockAheadOfTime, Call::TryLock];
    for (pass, calls) in
        [(Duration::ZERO, &ahead_of_time[1..]), (56 * MINUTE, &ahead_of_time), (HOUR, &ahead_of_time[1..])]
    {
        scene.clock.advance(pass);
        tokens.access_token().await.unwrap();
        assert_eq!(std::mem::take(&mut *asked.lock().unwrap()), calls, "after {pass:?}");
    }
    // `keep_alive` can, also without a valid access token.
    scene.clock.advance(2 * HOUR);
    let _kept = tokens.keep_alive().await.unwrap();
    until(|| {
        scene.clock.advance(MINUTE);
        !asked.lock().unwrap().is_empty()
    })
    .await;
    assert_eq!(asked.lock().unwrap()[0], Call::TryLockAheadOfTime);
}

#[tokio::test]
async fn a_refresh_token_that_looks_expired_is_the_last_resort() {
    let scene = Scene::new().await;
    let mut json: serde_json::Value = serde_json::from_str(&scene.concur.token_json()).unwrap();
    json["refresh_expires_in"] = 1_517_039_403.into();
    scene.write_token(&json.to_string());
    // The request token has expired; the refresh token only looks so.
    scene.clock.advance(2 * DAY);
    let token = scene.manager().get_valid_refresh_token().await.unwrap();
    assert_eq!((scene.concur.count("password"), scene.concur.count("refresh_token")), (1, 1));
    assert!(token.expires_at() > Some(scene.clock.now_utc()));

    // And when that is refused too, a person must act.
    scene.write_token(&json.to_string());
    scene.concur.revoke();
    let error = scene.manager().get_valid_refresh_token().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ReauthorizationRequired);
    assert_eq!((scene.concur.count("password"), scene.concur.count("refresh_token")), (2, 2));
}

/// The account was refused, not the token.
#[tokio::test]
async fn a_valid_token_is_served_though_concur_refused_to_renew_it() {
    let scene = Scene::new().await;
    let tokens = scene.manager();
    let old = tokens.access_token().await.unwrap();
    scene.concur.set_fault(Fault::code(14));
    // In the advisory window, in the mandatory one.
    for minutes in [56, 59] {
        scene.clock.advance(minutes * MINUTE + MINUTE / 2 - passed(&scene.clock));
        for _ in 0..10 {
            assert_eq!(tokens.access_token().await.unwrap().secret(), old.secret());
            scene.clock.advance(Duration::from_secs(2));
        }
    }
    assert_eq!(scene.concur.token_requests(), 2);
    assert!(tokens.status().last_error.unwrap().message.ends_with(")"), "with code and correlation id");
    scene.clock.advance(MINUTE);
    assert_eq!(tokens.access_token().await.unwrap_err().kind(), ErrorKind::Refused);
    assert_eq!(scene.concur.token_requests(), 2);

    // The same for a refresh token in its last days, also in the next process.
    let scene = Scene::new().await;
    scene.write_token(&scene.concur.token_json());
    scene.clock.advance(160 * DAY);
    scene.concur.set_fault(Fault::code(14));
    for _ in 0..3 {
        let served = scene.manager().get_valid_refresh_token().await.unwrap();
        assert_eq!(served.secret(), scene.stored_refresh_token());
    }
    assert_eq!(scene.concur.token_requests(), 1);
}

/// A refresh token that Concur refused itself is of no use to any caller; the access token lives for what is left of its hour.
#[tokio::test]
async fn a_refresh_token_that_is_dead_is_not_served_and_a_live_access_token_is() {
    for next_process in [false, true] {
        let scene = Scene::new().await;
        let mut credentials: serde_json::Value =
            serde_json::from_str(&scene.concur.credentials_json()).unwrap();
        let tokens = scene.manager();
        let access = tokens.access_token().await.unwrap();
        credentials["companyRequestToken"] = "".into();
        scene.write_credentials(&credentials.to_string());
        scene.concur.revoke();
        scene.clock.advance(56 * MINUTE);
        assert_eq!(tokens.access_token().await.unwrap().secret(), access.secret());
        assert_eq!(scene.concur.token_requests(), 2);

        let tokens = if next_process { scene.manager() } else { tokens };
        assert_eq!(tokens.access_token().await.unwrap().secret(), access.secret());
        let error = tokens.refresh().await.unwrap_err();
        assert_eq!(
            (error.kind(), error.code().map(|code| code.number())),
            (ErrorKind::ReauthorizationRequired, Some(108))
        );
        assert_eq!(scene.concur.token_requests(), 2);
    }
}

/// Also where a sign-in might have helped, and could not be tried for a passing reason.
#[tokio::test]
async fn a_refresh_token_in_its_last_days_that_is_dead_is_not_served_while_signing_in_fails() {
    let scene = Scene::skipping(Rotation::Never).await;
    scene.write_token(&scene.concur.token_json());
    scene.clock.advance(160 * DAY);
    scene.concur.fault_next(1, Fault::code(108));
    scene.concur.set_fault(Fault::status(503));
    for _ in 0..3 {
        let tokens = scene.manager();
        for _ in 0..3 {
            let error = tokens.get_valid_refresh_token().await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unavailable);
        }
    }
    // Also if signing in is then refused for another reason.
    scene.concur.set_fault(Fault::code(64));
    scene.clock.advance(MINUTE);
    for _ in 0..3 {
        let error = scene.manager().get_valid_refresh_token().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused);
    }
    // Nor is it sent again, as long as signing in may help.
    assert_eq!(scene.concur.count("refresh_token"), 1);
    scene.concur.clear_faults();
    scene.concur.issue_request_token();
    scene.write_credentials(&scene.concur.credentials_json());
    scene.manager().get_valid_refresh_token().await.unwrap();
    assert_eq!(scene.concur.count("refresh_token"), 1);
}

/// It has months to live by its expiry. Only an access token was asked for when Concur refused it.
#[tokio::test]
async fn a_refresh_token_that_is_dead_is_not_served_until_it_is_replaced() {
    let scene = Scene::new().await;
    let mut credentials: serde_json::Value = serde_json::from_str(&scene.concur.credentials_json()).unwrap();
    credentials["companyRequestToken"] = "".into();
    scene.write_credentials(&credentials.to_string());
    scene.write_token(&scene.concur.token_json());
    let tokens = scene.manager();
    tokens.get_valid_refresh_token().await.unwrap();
    scene.concur.revoke();
    tokens.access_token().await.unwrap_err();
    for tokens in [&tokens, &scene.manager()] {
        for _ in 0..3 {
            let error = tokens.get_valid_refresh_token().await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ReauthorizationRequired);
        }
    }
    assert_eq!(scene.concur.token_requests(), 1);
    scene.write_token(&scene.concur.token_json());
    tokens.get_valid_refresh_token().await.unwrap();
    tokens.access_token().await.unwrap();
}

/// Each pause is between a half and the whole of twice the one before, and a minute at most.
#[tokio::test]
async fn the_back_off_doubles_up_to_a_minute() {
    let scene = Scene::new().await;
    let tokens = scene.manager();
    let old = tokens.access_token().await.unwrap();
    let mut requests = 1;
    scene.concur.set_fault(Fault::status(503));
    scene.clock.advance(56 * MINUTE);
    for pause in [0, 1, 2, 4, 8, 16, 32, 60, 60].map(Duration::from_secs) {
        if !pause.is_zero() {
            scene.clock.advance(pause / 2 - Duration::from_millis(1));
            assert_eq!(tokens.access_token().await.unwrap().secret(), old.secret());
            assert_eq!(scene.concur.token_requests(), requests, "before half of {pause:?}");
            scene.clock.advance(pause / 2 + Duration::from_millis(1));
        }
        assert_eq!(tokens.access_token().await.unwrap().secret(), old.secret());
        requests += 1;
        assert_eq!(scene.concur.token_requests(), requests, "after {pause:?}");
    }
}

#[tokio::test]
async fn a_back_off_ends_when_the_clock_jumps_back_behind_it() {
    let scene = Scene::new().await;
    scene.write_token(&scene.concur.token_json());
    scene.clock.advance(80 * DAY);
    let tokens = scene.manager();
    scene.concur.fault_next(1, Fault::status(503));
    tokens.get_valid_refresh_token().await.unwrap();
    // Still in the last two thirds of its life.
    scene.clock.rewind(5 * DAY);
    tokens.get_valid_refresh_token().await.unwrap();
    assert_eq!(scene.concur.token_requests(), 2);
}

/// Somebody else is renewing: to look whether they are done once a second is enough.
#[tokio::test]
async fn a_busy_lock_is_not_asked_for_on_every_call() {
    use concur_auth::TokenStore as _;

    let scene = Scene::new().await;
    let asked_for_lock = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked_for_lock);
    let store = Watched::new(move |call| {
        counted.fetch_add(usize::from(call == Call::TryLock), Ordering::Relaxed);
        Ok(())
    });
    let tokens = scene.builder().store(store.clone()).build().unwrap();
    tokens.access_token().await.unwrap();
    let _lock = store.inner.try_lock().await.unwrap().unwrap();
    scene.clock.advance(56 * MINUTE);
    for asked in 2..=4 {
        for _ in 0..10 {
            tokens.access_token().await.unwrap();
        }
        assert_eq!(asked_for_lock.load(Ordering::Relaxed), asked);
        scene.clock.advance(Duration::from_secs(1));
    }
}

/// What Concur said counts, also where the store cannot be read after that: in a renewal, and in a sign-out.
#[tokio::test]
async fn a_refused_token_is_not_served_although_the_store_could_not_be_read_then() {
    for signs_out in [false, true] {
        let scene = Scene::new().await;
        let mut credentials: serde_json::Value =
            serde_json::from_str(&scene.concur.credentials_json()).unwrap();
        credentials["companyRequestToken"] = "".into();
        scene.write_credentials(&credentials.to_string());
        let (is_down, was_rehearsed) = (Arc::new(AtomicBool::new(true)), AtomicBool::new(false));
        let watched = Arc::clone(&is_down);
        let store = Watched::new(move |call| match call {
            Call::Rehearse => {
                was_rehearsed.store(true, Ordering::SeqCst);
                Ok(())
            }
            Call::Load if was_rehearsed.load(Ordering::SeqCst) && watched.load(Ordering::SeqCst) => {
                Err(Error::store("the disk is gone", "on purpose"))
            }
            _ => Ok(()),
        });
        let lock = store.inner.try_lock().await.unwrap().unwrap();
        let token = RefreshTokenObject::from_json(&scene.concur.token_json()).unwrap();
        store.inner.save(&token, &lock).await.unwrap();
        drop(lock);
        let tokens = scene.builder().store(store).build().unwrap();
        assert_eq!(tokens.get_valid_refresh_token().await.unwrap().secret(), token.secret());
        scene.concur.revoke();
        scene.clock.advance(2 * HOUR);
        let error =
            if signs_out { tokens.revoke().await.unwrap_err() } else { tokens.refresh().await.unwrap_err() };
        assert_eq!((error.kind(), scene.concur.token_requests()), (ErrorKind::Store, 1));
        is_down.store(false, Ordering::SeqCst);
        for _ in 0..3 {
            tokens.get_valid_refresh_token().await.unwrap_err();
            scene.clock.advance(HOUR);
        }
    }
}

/// Whose token is wanted is not known before a renewal, and the renewal fails.
#[tokio::test]
async fn a_valid_token_is_served_while_the_credentials_have_changed_into_something_of_no_use() {
    let scene = Scene::skipping(Rotation::Never).await;
    let tokens = scene.manager();
    let first = tokens.get_valid_refresh_token().await.unwrap();
    scene.write_credentials("[");
    for _ in 0..2 {
        assert_eq!(tokens.get_valid_refresh_token().await.unwrap().secret(), first.secret());
    }
    assert_eq!(scene.concur.token_requests(), 1);
}
