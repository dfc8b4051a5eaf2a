//! After a revocation nothing is left: not at Concur, not in the store, not in memory; and every failure half-way is
//! reported.

#![cfg(feature = "simulator")]

mod support;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use concur_auth::{
    Error, ErrorKind, MemoryStore, OAuthClient, RefreshTokenObject, StoreLock, Stored, TokenStore,
    simulator::{Fault, Rotation},
};
use support::{DAY, HOUR, MINUTE, Scene, until};

fn deletions(scene: &Scene) -> usize {
    let requests = scene.concur.requests();
    requests.iter().filter(|it| (it.method(), it.path()) == ("DELETE", "/app-mgmt/v0/connections")).count()
}

#[tokio::test]
async fn a_revocation_leaves_no_token() {
    let scene = Scene::new().await;
    let elsewhere = RefreshTokenObject::from_json(&scene.concur.token_json()).unwrap();
    let tokens = scene.manager();
    let held = tokens.get_valid_refresh_token().await.unwrap();
    let access = tokens.access_token().await.unwrap();
    let mut changes = tokens.subscribe().await;

    tokens.revoke().await.unwrap();
    assert!(!scene.concur.is_live(held.secret()) && !scene.concur.is_live(elsewhere.secret()));
    assert!(!scene.token_path().exists());
    let status = tokens.status();
    assert!(status.signed_out && !status.refresh_token_valid && !status.access_token_valid);
    assert_eq!((status.source, status.last_error.as_ref()), (None, None));
    assert_eq!(status.to_string(), "signed out");
    assert_eq!(changes.next().await.unwrap(), status);

    let request = scene.concur.requests().pop().unwrap();
    assert_eq!(request.header("authorization"), Some(&*format!("Bearer {}", access.secret())));
    assert_eq!((request.query(), request.body()), (None, ""));
    assert_eq!((deletions(&scene), scene.concur.token_requests()), (1, 1));

    // Whoever asks again is signed in again, as the credentials allow it.
    let anew = tokens.get_valid_refresh_token().await.unwrap();
    assert!(scene.concur.is_live(anew.secret()));
    assert!(!tokens.status().signed_out);
    assert_eq!(scene.concur.count("password"), 2);
}

/// As the documentation says: first remove the company request token from the credentials, then revoke.
#[tokio::test]
async fn what_another_process_has_revoked_is_not_served_where_the_credentials_have_changed_too() {
    let scene = Scene::new().await;
    let tokens = scene.manager();
    tokens.get_valid_refresh_token().await.unwrap();
    let mut credentials: serde_json::Value = serde_json::from_str(&scene.concur.credentials_json()).unwrap();
    credentials["companyRequestToken"] = "".into();
    scene.write_credentials(&credentials.to_string());
    scene.manager().revoke().await.unwrap();
    for _ in 0..2 {
        let error = tokens.get_valid_refresh_token().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::CredentialsNeeded, "{error}");
    }
    assert_eq!(scene.concur.token_requests(), 1);
}

#[tokio::test]
async fn without_a_token_a_revocation_sends_nothing() {
    let scene = Scene::new().await;
    scene.manager().revoke().await.unwrap();
    let tokens = scene.manager();
    tokens.get_valid_refresh_token().await.unwrap();
    for _ in 0..2 {
        tokens.revoke().await.unwrap();
        assert!(tokens.status().signed_out);
    }
    assert_eq!((deletions(&scene), scene.concur.token_requests()), (1, 1));
}

#[tokio::test]
async fn an_access_token_that_has_expired_or_is_refused_is_renewed_first() {
    for refused in [false, true] {
        let scene = Scene::new().await;
        let tokens = scene.manager();
        tokens.access_token().await.unwrap();
        if refused {
            scene.concur.expire_access_tokens();
        } else {
            scene.clock.advance(HOUR);
        }
        tokens.revoke().await.unwrap();
        assert!(!scene.token_path().exists());
        assert_eq!(deletions(&scene), if refused { 2 } else { 1 });
        assert_eq!((scene.concur.count("refresh_token"), scene.concur.count("password")), (1, 1));
    }
}

#[tokio::test]
async fn a_redirect_of_a_revocation_is_followed_to_a_trusted_host_only() {
    const PATH: &str = "/app-mgmt/v0/connections";
    for status in [307, 308] {
        let scene = Scene::new().await;
        let tokens = scene.manager();
        let access = tokens.access_token().await.unwrap();
        let eu = scene.concur.add_data_centre().await;

        let away = Fault::status(status).header("location", &format!("https://example.net{PATH}"));
        scene.concur.fault_next(1, away);
        let error = tokens.revoke().await.unwrap_err();
        assert_eq!((error.kind(), deletions(&scene)), (ErrorKind::Untrusted, 1));
        assert!(scene.concur.is_live(&scene.stored_refresh_token()));

        let bases = || -> Vec<String> {
            scene.concur.requests().iter().skip(2).map(|request| request.base_uri().to_owned()).collect()
        };
        scene.concur.fault_next(1, Fault::status(status).header("location", &format!("{eu}{PATH}")));
        tokens.revoke().await.unwrap();
        assert_eq!(bases(), [scene.concur.base_uri(), eu]);
        let last = scene.concur.requests().pop().unwrap();
        assert_eq!((last.method(), last.path()), ("DELETE", PATH));
        assert_eq!(last.header("authorization"), Some(&*format!("Bearer {}", access.secret())));
        assert!(!scene.token_path().exists());
    }
}

#[tokio::test]
async fn a_new_access_token_that_is_refused_is_reported() {
    let scene = Scene::new().await;
    let tokens = scene.manager();
    tokens.access_token().await.unwrap();
    // The grant in between is not to fail.
    for fault in [Fault::status(401), Fault::Delay(Duration::ZERO), Fault::status(401)] {
        scene.concur.fault_next(1, fault);
    }
    let error = tokens.revoke().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused);
    assert_eq!(
        error.to_string(),
        format!(
            "127.0.0.1 did not accept the access token, so nothing was revoked; get another access token and try again \
             (correlation id {})",
            error.correlation_id().unwrap()
        )
    );
    assert_eq!((deletions(&scene), scene.concur.token_requests()), (2, 2));
    assert!(scene.concur.is_live(&scene.stored_refresh_token()));
}

/// The refresh token in it is saved first: it may be the only one.
#[tokio::test]
async fn a_renewal_for_a_revocation_whose_reply_cannot_be_used_is_reported_and_revokes_nothing() {
    let scene = Scene::with(Rotation::AlwaysAndRevokeFamily).await;
    let tokens = scene.manager();
    tokens.access_token().await.unwrap();
    scene.clock.advance(HOUR);
    scene.concur.set_reply_member("expires_in", Some(r#""""#));
    let error = tokens.revoke().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Protocol);
    assert!(error.to_string().contains("the member expires_in is not a number of seconds"), "{error}");
    assert_eq!((deletions(&scene), scene.concur.count("refresh_token")), (0, 1));
    let renewed = scene.stored_refresh_token();
    assert!(scene.concur.is_live(&renewed));

    scene.concur.clear_faults();
    tokens.revoke().await.unwrap();
    assert!(!scene.concur.is_live(&renewed) && !scene.token_path().exists());
    assert_eq!(deletions(&scene), 1);
}

#[tokio::test]
async fn a_revocation_that_fails_half_way_is_reported_and_can_be_finished() {
    for (fault, message, revoked) in [
        (Fault::status(503), "127.0.0.1 answered 503 Service Unavailable; try again later", false),
        (
            Fault::DropReply,
            "the connection to 127.0.0.1 broke off; the tokens may nevertheless have been revoked; try again",
            true,
        ),
        (
            Fault::code(59),
            "Concur refused to revoke the tokens at 127.0.0.1: client disabled; ask SAP Concur to enable the app \
             (https://www.concursolutions.com/nui/ocstool) (code 59)",
            false,
        ),
    ] {
        let scene = Scene::new().await;
        let tokens = scene.manager();
        tokens.access_token().await.unwrap();
        let stored = scene.stored_refresh_token();
        let fault = match fault {
            fault @ Fault::Status { .. } => fault.header("concur-correlationid", "not an id"),
            fault => fault,
        };
        scene.concur.fault_next(1, fault);
        let error = tokens.revoke().await.unwrap_err();
        assert_eq!(error.to_string(), message);
        assert_eq!((deletions(&scene), scene.concur.is_live(&stored)), (1, !revoked));
        let status = tokens.status();
        assert!(!status.signed_out && status.refresh_token_valid);
        assert_eq!(status.last_error.unwrap().message, message);
        assert_eq!(scene.stored_refresh_token(), stored);

        tokens.revoke().await.unwrap();
        assert!(tokens.status().signed_out && !scene.token_path().exists());
        assert_eq!((deletions(&scene), scene.concur.token_requests()), (2, 1));
        assert!(!scene.concur.is_live(&stored));
    }
}

/// A memory store whose content cannot be removed for a while.
#[derive(Debug)]
struct Sticky(MemoryStore, Arc<AtomicBool>);

impl TokenStore for Sticky {
    async fn load(&self) -> Result<Option<RefreshTokenObject>, Error> {
        TokenStore::load(&self.0).await
    }
    async fn save(&self, token: &RefreshTokenObject, lock: &StoreLock) -> Result<(), Error> {
        TokenStore::save(&self.0, token, lock).await
    }
    async fn read(&self) -> Result<Stored, Error> {
        TokenStore::read(&self.0).await
    }
    async fn remember(&self, note: Option<&str>, lock: &StoreLock) -> Result<(), Error> {
        TokenStore::remember(&self.0, note, lock).await
    }
    async fn remove(&self, lock: &StoreLock) -> Result<(), Error> {
        if self.1.load(Ordering::Relaxed) {
            return Err(Error::store("the vault is sealed; unseal it", "sealed"));
        }
        TokenStore::remove(&self.0, lock).await
    }
    fn describe(&self) -> String {
        "the vault".to_owned()
    }
}

#[tokio::test]
async fn a_store_that_cannot_be_emptied_is_reported_and_serves_no_token() {
    let scene = Scene::new().await;
    let (store, sealed) = (MemoryStore::new(), Arc::new(AtomicBool::new(true)));
    let tokens = scene.builder().store(Sticky(store.clone(), Arc::clone(&sealed))).build().unwrap();
    let dead = tokens.get_valid_refresh_token().await.unwrap();
    let error = tokens.revoke().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Store);
    assert_eq!(
        error.to_string(),
        "all tokens are revoked, but the dead one could not be removed from the vault; remove it, or call revoke again"
    );
    let status = tokens.status();
    assert!(status.signed_out && !status.refresh_token_valid && !status.access_token_valid);
    assert_eq!(
        status.to_string(),
        format!("signed out; last error: {error}: the vault is sealed; unseal it: sealed")
    );

    // Nor does the next process take the dead token for a valid one.
    let next = scene.builder().store(Sticky(store.clone(), Arc::clone(&sealed))).build().unwrap();
    let status = next.read_status().await;
    assert!(!status.refresh_token_valid && !status.access_token_valid);

    let anew = tokens.get_valid_refresh_token().await.unwrap();
    assert_ne!(anew.secret(), dead.secret());
    assert_eq!((scene.concur.count("password"), scene.concur.count("refresh_token")), (2, 0));
    assert_eq!(tokens.status().last_error, None);

    // However often it is revoked, while the store cannot be emptied.
    for _ in 0..3 {
        tokens.revoke().await.unwrap_err();
        let status = tokens.status();
        assert!(status.signed_out && !status.refresh_token_valid);
    }
    let third = tokens.get_valid_refresh_token().await.unwrap();
    assert!(![dead.secret(), anew.secret()].contains(&third.secret()));
    assert_eq!((scene.concur.count("password"), scene.concur.count("refresh_token")), (3, 0));
    tokens.revoke().await.unwrap_err();
    sealed.store(false, Ordering::Relaxed);
    tokens.revoke().await.unwrap();
    assert!(TokenStore::load(&store).await.unwrap().is_none());
    assert_eq!((deletions(&scene), tokens.status().last_error), (3, None));
}

/// A sibling has emptied the store, and Concur cannot be asked: what memory holds is not written back.
#[tokio::test]
async fn a_revocation_that_fails_writes_nothing_into_an_emptied_store() {
    let scene = Scene::skipping(Rotation::Never).await;
    let tokens = scene.manager();
    tokens.access_token().await.unwrap();
    std::fs::remove_file(scene.token_path()).unwrap();
    // No access token is left to revoke with, so a renewal comes first.
    scene.clock.advance(HOUR);
    scene.concur.set_fault(Fault::status(500));
    tokens.revoke().await.unwrap_err();
    assert!(!scene.token_path().exists());
}

/// A use of the company request token only to revoke with it would be a waste.
#[tokio::test]
async fn a_refused_token_is_removed_without_spending_a_request_token() {
    let scene = Scene::new().await;
    let tokens = scene.manager();
    tokens.access_token().await.unwrap();
    scene.concur.revoke();
    scene.clock.advance(HOUR);
    tokens.revoke().await.unwrap();
    assert!(!scene.token_path().exists() && tokens.status().signed_out);
    assert_eq!((scene.concur.count("refresh_token"), scene.concur.count("password")), (1, 1));
    assert_eq!(deletions(&scene), 0);
}

#[tokio::test]
async fn a_caller_that_goes_away_does_not_stop_a_revocation() {
    let scene = Scene::new().await;
    let tokens = scene.manager();
    tokens.access_token().await.unwrap();
    let held = scene.concur.hold_replies();
    let caller = tokio::spawn({
        let tokens = tokens.clone();
        async move { tokens.revoke().await }
    });
    until(|| deletions(&scene) == 1).await;
    caller.abort();
    assert!(scene.token_path().exists());
    held.release();
    until(|| !scene.token_path().exists()).await;
    tokens.shutdown(HOUR).await.unwrap();
    assert!(tokens.status().signed_out);
}

#[tokio::test]
async fn a_waiter_gets_a_token_of_a_new_sign_in_and_no_revoked_token() {
    let scene = Scene::new().await;
    let tokens = scene.manager();
    tokens.access_token().await.unwrap();
    let held = scene.concur.hold_replies();
    let parting = tokio::spawn({
        let tokens = tokens.clone();
        async move { tokens.revoke().await }
    });
    until(|| deletions(&scene) == 1).await;
    let waiting = tokio::spawn({
        let tokens = tokens.clone();
        async move { tokens.refresh().await }
    });
    // It begins to wait for the revocation before that ends.
    tokio::task::yield_now().await;
    held.release();
    let refreshed = waiting.await.unwrap().unwrap();
    parting.await.unwrap().unwrap();
    assert!(scene.concur.is_live(refreshed.secret()));
    assert_eq!((scene.concur.count("password"), scene.concur.count("refresh_token")), (2, 0));
}

#[tokio::test]
async fn keep_alive_does_not_undo_a_revocation() {
    let scene = Scene::new().await;
    let tokens = scene.manager();
    tokens.access_token().await.unwrap();
    let _kept = tokens.keep_alive().await.unwrap();
    until(|| scene.clock.sleepers() > 0).await;
    tokens.revoke().await.unwrap();
    for _ in 0..10 {
        until(|| scene.clock.sleepers() > 0).await;
        scene.clock.advance(MINUTE);
    }
    scene.clock.advance(DAY);
    until(|| scene.clock.sleepers() > 0).await;
    assert_eq!(scene.concur.token_requests(), 1);
}

#[tokio::test]
async fn the_client_alone_revokes_and_changes_no_store() {
    let scene = Scene::new().await;
    let tokens = scene.manager();
    let access = tokens.access_token().await.unwrap();
    OAuthClient::new().revoke(&access).await.unwrap();
    let stored = scene.stored_refresh_token();
    assert!(!scene.concur.is_live(&stored));

    scene.concur.expire_access_tokens();
    let error = OAuthClient::new().revoke(&access).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused);
    assert_eq!(
        error.to_string(),
        format!(
            "127.0.0.1 did not accept the access token, so nothing was revoked; get another access token and try again \
             (correlation id {})",
            error.correlation_id().unwrap()
        )
    );
}

/// Somebody has removed the file, and the access token has expired.
#[tokio::test]
async fn a_token_that_only_memory_holds_is_revoked_too() {
    let scene = Scene::new().await;
    let tokens = scene.manager();
    let held = tokens.get_valid_refresh_token().await.unwrap();
    std::fs::remove_file(scene.token_path()).unwrap();
    scene.clock.advance(HOUR);
    tokens.revoke().await.unwrap();
    assert!(!scene.concur.is_live(held.secret()));
    assert!(tokens.status().signed_out);
}

#[tokio::test]
async fn without_a_token_a_revocation_still_signs_out() {
    let scene = Scene::new().await;
    let tokens = scene.manager();
    tokens.revoke().await.unwrap();
    assert!(tokens.status().signed_out);
    assert!(scene.concur.requests().is_empty());
}

/// Another manager, or process, on the same store.
#[tokio::test]
async fn a_siblings_keep_alive_does_not_revive_what_was_revoked() {
    let scene = Scene::new().await;
    let (one, other) = (scene.manager(), scene.manager());
    one.access_token().await.unwrap();
    let _kept = other.keep_alive().await.unwrap();
    support::until(|| scene.clock.sleepers() == 1).await;
    scene.clock.advance(support::MINUTE);
    support::until(|| other.status().access_token_valid && scene.clock.sleepers() == 1).await;
    one.revoke().await.unwrap();
    for _ in 0..3 * 60 {
        scene.clock.advance(support::MINUTE);
        support::until(|| scene.clock.sleepers() == 1).await;
    }
    assert_eq!(scene.concur.count("password"), 1);
    assert!(!scene.token_path().exists());
    // Until somebody signs in again; then it is kept.
    one.access_token().await.unwrap();
    for _ in 0..60 {
        scene.clock.advance(support::MINUTE);
        support::until(|| scene.clock.sleepers() == 1).await;
    }
    assert!(scene.concur.count("refresh_token") >= 1);
}
