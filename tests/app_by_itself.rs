//! An app signs in without a company or a user: its access token lives in memory, costs one request however many callers
//! ask, and is renewed by another request.

#![cfg(feature = "simulator")]

mod support;

use std::{
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Waker},
    time::{Duration, SystemTime},
};

use concur_auth::{
    AppTokens, Clock, Credentials, ErrorKind, Grant,
    simulator::{Fault, ManualClock},
};
use support::{HOUR, MINUTE, Scene, noon};

fn app_tokens(scene: &Scene) -> AppTokens {
    scene.builder().build_for_app().unwrap()
}

#[tokio::test]
async fn one_request_an_hour_however_many_callers_ask() {
    let scene = Scene::new().await;
    let tokens = app_tokens(&scene);
    for requests in 1..=3 {
        let tasks: Vec<_> = (0..100)
            .map(|_| {
                let tokens = tokens.clone();
                tokio::spawn(async move { tokens.access_token().await.unwrap().secret().to_owned() })
            })
            .collect();
        let mut secrets = Vec::new();
        for task in tasks {
            secrets.push(task.await.unwrap());
        }
        secrets.dedup();
        assert_eq!((secrets.len(), scene.concur.count("client_credentials")), (1, requests));
        scene.clock.advance(HOUR);
    }
    assert_eq!(scene.concur.token_requests(), 3);
    assert_eq!(scene.folder(), ["credentials.json"], "nothing is stored");
}

#[tokio::test]
async fn an_expiring_token_is_renewed_and_a_passing_failure_is_no_error() {
    let scene = Scene::new().await;
    let tokens = app_tokens(&scene);
    let first = tokens.access_token().await.unwrap();
    scene.clock.advance(57 * MINUTE);
    scene.concur.fault_next(1, Fault::status(503));
    for _ in 0..3 {
        assert_eq!(tokens.access_token().await.unwrap().secret(), first.secret());
    }
    assert_eq!(scene.concur.token_requests(), 2, "the others back off");
    scene.clock.advance(2 * MINUTE);
    assert_ne!(tokens.access_token().await.unwrap().secret(), first.secret());
    assert_eq!(scene.concur.token_requests(), 3);
}

/// Its caller has not been woken when it is suspended.
#[tokio::test]
async fn after_a_suspension_no_token_from_before_it_is_handed_out() {
    #[derive(Clone, Debug)]
    struct Suspended(ManualClock, Arc<AtomicU64>);

    impl Clock for Suspended {
        fn now(&self) -> SystemTime {
            self.0.now()
        }

        fn monotonic(&self) -> Duration {
            Duration::from_secs(self.1.load(Ordering::Relaxed))
        }

        fn sleep(&self, duration: Duration) -> Pin<Box<dyn Future<Output = ()> + Send>> {
            self.0.sleep(duration)
        }
    }

    let scene = Scene::new().await;
    let clock = Suspended(scene.clock.clone(), Arc::default());
    let tokens = scene.builder().clock(clock.clone()).build_for_app().unwrap();
    let mut caller = pin!(tokens.access_token());
    assert!(caller.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    let before = tokens.access_token().await.unwrap();
    clock.0.advance(2 * HOUR);
    clock.1.fetch_add(2 * 3600, Ordering::Relaxed);
    let after = caller.await.unwrap();
    assert_ne!(after.secret(), before.secret());
    assert!(after.expires_at() > scene.clock.now_utc());
    assert_eq!(scene.concur.token_requests(), 2);
}

#[tokio::test]
async fn in_its_last_five_minutes_one_caller_renews_while_the_others_are_served() {
    let scene = Scene::new().await;
    let tokens = app_tokens(&scene);
    let old = tokens.access_token().await.unwrap();
    scene.clock.advance(56 * MINUTE + MINUTE / 2);
    let held = scene.concur.hold_replies();
    let carrier = tokio::spawn({
        let tokens = tokens.clone();
        async move { tokens.access_token().await.unwrap() }
    });
    support::until(|| scene.concur.token_requests() == 2).await;
    for _ in 0..10 {
        assert_eq!(tokens.access_token().await.unwrap().secret(), old.secret());
    }
    assert!(!carrier.is_finished());
    held.release();
    assert_ne!(carrier.await.unwrap().secret(), old.secret());
    assert_eq!(scene.concur.token_requests(), 2);
}

#[tokio::test]
async fn a_token_just_received_is_handed_out_whatever_its_expiry() {
    let scene = Scene::new().await;
    scene.concur.set_reply_member("expires_in", Some("0"));
    app_tokens(&scene).access_token().await.unwrap();
    assert_eq!(scene.concur.token_requests(), 1);
}

#[tokio::test]
async fn a_token_that_an_api_refused_is_not_handed_out_again() {
    let scene = Scene::new().await;
    let tokens = app_tokens(&scene);
    let refused = tokens.access_token().await.unwrap();
    tokens.invalidate(&refused);
    let other = tokens.access_token().await.unwrap();
    assert_ne!(other.secret(), refused.secret());
    tokens.invalidate(&refused);
    assert_eq!(tokens.access_token().await.unwrap().secret(), other.secret());
    assert_eq!(scene.concur.token_requests(), 2);
}

#[tokio::test]
async fn a_refusal_reaches_all_waiters_and_is_remembered() {
    let scene = Scene::new().await;
    let credentials = Credentials::new(scene.concur.app().id(), "wrong").base_uri(scene.concur.base_uri());
    let tokens = scene.builder().credentials(credentials).build_for_app().unwrap();
    let tasks: Vec<_> = (0..20)
        .map(|_| {
            let tokens = tokens.clone();
            tokio::spawn(async move { tokens.access_token().await.unwrap_err() })
        })
        .collect();
    for task in tasks {
        let error = task.await.unwrap();
        assert_eq!((error.kind(), error.code().unwrap().number()), (ErrorKind::Refused, 64));
    }
    let error = tokens.access_token().await.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "Concur refused the client_credentials grant at 127.0.0.1: incorrect client credentials; check the app's id, \
             secret, grants and scopes on its page (https://www.concursolutions.com/nui/ocstool) [not sent: Concur \
             refused this before; next attempt in 60 min, or as soon as the credentials or the stored token change] (code 64, \
             correlation id {})",
            error.correlation_id().unwrap()
        )
    );
    assert_eq!(scene.concur.token_requests(), 1);
    scene.clock.advance(HOUR);
    tokens.access_token().await.unwrap_err();
    assert_eq!(scene.concur.token_requests(), 2);
}

/// The grant spends nothing, so it is repeated until it is answered.
#[tokio::test]
async fn without_a_token_the_request_is_repeated_until_concur_answers() {
    let scene = Scene::new().await;
    let tokens = scene.builder().clock(ManualClock::skipping(noon())).build_for_app().unwrap();
    scene.concur.fault_next(1, Fault::status(503));
    scene.concur.fault_next(1, Fault::DropReply);
    tokens.access_token().await.unwrap();
    assert_eq!(scene.concur.count("client_credentials"), 3);
}

#[tokio::test]
async fn a_manager_explains_that_there_is_nothing_to_keep() {
    let scene = Scene::new().await;
    let error = scene.manager().sign_in(Grant::client_credentials()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert_eq!(
        error.to_string(),
        "an app that signs in by itself gets no refresh token, so there is nothing to keep; use \
         TokenManagerBuilder::build_for_app, which asks again in time"
    );
    assert_eq!(scene.concur.token_requests(), 0);
}

#[tokio::test]
async fn debug_shows_no_secret() {
    let scene = Scene::new().await;
    let tokens = app_tokens(&scene);
    assert_eq!(format!("{tokens:?}"), "AppTokens { held: None }");
    let secret = tokens.access_token().await.unwrap().secret().to_owned();
    assert!(!format!("{tokens:?}").contains(&secret));
}

#[tokio::test]
async fn an_abandoned_answer_serves_the_next_caller() {
    let scene = Scene::new().await;
    let tokens = app_tokens(&scene);
    let held = scene.concur.hold_replies();
    tokio::select! {
        _ = tokens.access_token() => panic!("the reply is held back"),
        () = support::until(|| scene.concur.token_requests() == 1) => {}
    }
    let next: Vec<_> = (0..5)
        .map(|_| {
            let tokens = tokens.clone();
            tokio::spawn(async move { tokens.access_token().await })
        })
        .collect();
    tokio::task::yield_now().await;
    held.release();
    for call in next {
        call.await.unwrap().unwrap();
    }
    assert_eq!(scene.concur.token_requests(), 1);
}
