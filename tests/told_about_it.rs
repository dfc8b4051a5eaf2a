//! Told about it: status and subscriptions.

#![cfg(feature = "simulator")]

mod support;

use concur_auth::{
    CredentialSource, Credentials, CredentialsFile, Error, ErrorKind, Grant, Health, JsonFileStore,
    MemoryStore, OAuthClient, RefreshTokenObject, Responsible, Status, StatusSubscription, TokenOrigin,
    TokenStore as _,
    simulator::{Fault, Rotation},
};
use support::{DAY, HOUR, MINUTE, Scene, noon};

#[tokio::test]
async fn the_status_shows_everything_but_no_secret() {
    let scene = Scene::skipping(Rotation::Never).await;
    let tokens = scene.manager();
    assert_eq!(tokens.status().to_string(), "no token held yet");
    let token = tokens.get_valid_refresh_token().await.unwrap();
    let status = tokens.status();
    assert_eq!(status.company_uuid.as_deref(), Some(scene.concur.company_uuid().as_str()));
    assert_eq!(status.geolocation, Some(scene.concur.base_uri()));
    assert_eq!((status.refresh_token_valid, status.refresh_token_expires_at), (true, token.expires_at()));
    assert_eq!((status.access_token_valid, status.access_token_expires_at), (true, Some(noon() + HOUR)));
    assert_eq!((status.source, status.unsaved), (Some(TokenOrigin::Obtained), false));
    assert_eq!((status.last_success, status.last_error.as_ref()), (Some(noon()), None));
    assert_eq!(
        status.to_string(),
        format!(
            "company {}: refresh token obtained, valid until 2026-11-26T20:26:40Z; access token valid until \
             2026-05-28T21:26:40Z",
            scene.concur.company_uuid()
        )
    );
    assert_eq!(
        serde_json::to_value(&status).unwrap(),
        serde_json::json!({
            "company_uuid": scene.concur.company_uuid(), "principal_uuid": scene.concur.company_uuid(), "geolocation": scene.concur.base_uri(),
            "refresh_token_valid": true, "refresh_token_refused": false, "refresh_token_expires_at": "2026-11-26T20:26:40Z",
            "access_token_valid": true, "access_token_expires_at": "2026-05-28T21:26:40Z",
            "source": "obtained", "unsaved": false, "signed_out": false, "last_success": "2026-05-28T20:26:40Z", "last_error": null, "failing_since": null, "next_attempt_at": null, "act_before": null, "as_of": "2026-05-28T20:26:40Z",
        })
    );

    scene.clock.advance(HOUR);
    scene.concur.set_fault(Fault::status(503));
    let error = tokens.access_token().await.unwrap_err();
    let status = tokens.status();
    let told = serde_json::to_value(&status).unwrap()["last_error"].take();
    assert_eq!(
        told,
        serde_json::json!({
            "kind": "unavailable", "message": error.to_string(), "code": null, "correlation_id": error.correlation_id(),
            "causes": null
        })
    );
    assert!(!status.access_token_valid && status.refresh_token_valid);
    assert_eq!(status.last_error.as_ref().unwrap().message, error.to_string());
    assert!(status.to_string().ends_with(&format!("expired at 2026-05-28T21:26:40Z; last error: {error}")));
}

/// Also by a process that has only just been started: it reads what the store remembers, and sends nothing.
#[tokio::test]
async fn the_status_says_what_is_needed_from_whom_and_by_when() {
    for (code, responsible, is_dead, hours) in [
        (14, Responsible::Administrator, false, 1),
        (61, Responsible::AppOwner, false, 1),
        // The request token has expired, too.
        (108, Responsible::SigningIn, true, 1),
    ] {
        let scene = Scene::skipping(Rotation::Never).await;
        let first = scene.manager();
        let token = first.get_valid_refresh_token().await.unwrap();
        assert_eq!((first.status().health(), first.status().responsible()), (Health::Healthy, None));
        scene.clock.advance(70 * DAY);
        scene.concur.set_fault(Fault::code(code));
        let since = scene.clock.now_utc();
        let outcome = first.get_valid_refresh_token().await;
        assert_eq!(outcome.is_err(), is_dead, "{code}");
        let sent = scene.concur.token_requests();

        let restarted = scene.manager();
        assert_eq!(restarted.status().to_string(), "no token held yet");
        for status in [first.status(), restarted.read_status().await, restarted.status()] {
            assert_eq!(status.health(), Health::PersonNeeded, "{code}");
            assert_eq!(status.responsible(), Some(responsible));
            assert_eq!(status.refresh_token_valid, !is_dead);
            assert_eq!(status.act_before, token.expires_at().filter(|_| !is_dead));
            assert_eq!(
                (status.as_of, status.failing_since, status.next_attempt_at),
                (Some(since), Some(since), Some(since + hours * HOUR))
            );
            let error = status.last_error.unwrap();
            assert_eq!(error.code.map(|code| code.number()), Some(code));
            assert!(error.correlation_id.is_some() && !error.message.contains("not sent"));
        }
        assert_eq!(scene.concur.token_requests(), sent, "{code}");

        // Once the pause is over the next attempt is possible, and a success is healthy.
        scene.clock.advance(25 * HOUR);
        assert_eq!(restarted.read_status().await.next_attempt_at, None);
        scene.concur.clear_faults();
        restarted.retry_now().await.unwrap();
        let status = restarted.status();
        assert_eq!((status.health(), status.failing_since, status.last_error), (Health::Healthy, None, None));
        assert!(status.refresh_token_valid);
    }
}

#[tokio::test]
async fn what_may_pass_is_degraded_and_its_causes_are_told() {
    let scene = Scene::skipping(Rotation::Never).await;
    scene.manager().get_valid_refresh_token().await.unwrap();
    let (nobody, _guard) = support::nobody_listens();
    let mut token: serde_json::Value = serde_json::from_str(&scene.token_file()).unwrap();
    token["geolocation"] = nobody.into();
    scene.write_token(&token.to_string());
    scene.clock.advance(70 * DAY);
    let tokens = scene.manager();
    tokens.get_valid_refresh_token().await.unwrap();
    let status = tokens.status();
    assert_eq!((status.health(), status.responsible()), (Health::Degraded, Some(Responsible::Nobody)));
    assert_eq!(status.act_before, None);
    let causes = status.last_error.unwrap().causes.unwrap();
    assert!(causes.contains("Connection refused") || causes.contains("refused"), "{causes}");

    // A look that fails is told, too.
    std::fs::remove_file(scene.token_path()).unwrap();
    std::fs::create_dir(scene.token_path()).unwrap();
    let status = tokens.read_status().await;
    assert_eq!(status.health(), Health::Degraded);
    let error = status.last_error.unwrap();
    assert_eq!((error.kind, error.causes.as_deref()), (ErrorKind::Store, Some("it is not a regular file")));
}

/// What has changed already.
async fn news(changes: &mut StatusSubscription) -> Option<Status> {
    tokio::select! {
        biased;
        news = changes.next() => news,
        () = tokio::task::yield_now() => None,
    }
}

#[tokio::test]
async fn subscribers_get_each_change() {
    let scene = Scene::skipping(Rotation::Never).await;
    let tokens = scene.manager();
    let mut changes = tokens.subscribe().await;
    tokens.get_valid_refresh_token().await.unwrap();
    assert_eq!(changes.next().await.unwrap().source, Some(TokenOrigin::Obtained));

    scene.clock.advance(HOUR);
    tokens.access_token().await.unwrap();
    let renewed = changes.next().await.unwrap();
    assert_eq!(renewed.source, Some(TokenOrigin::Renewed));
    assert_eq!(renewed, tokens.status());

    tokens.invalidate(&tokens.access_token().await.unwrap());
    assert_eq!(changes.next().await.unwrap().access_token_expires_at, None);

    scene.concur.set_fault(Fault::status(503));
    tokens.access_token().await.unwrap_err();
    assert!(changes.next().await.unwrap().last_error.unwrap().message.contains("503"));

    drop(tokens);
    assert_eq!(changes.next().await, None);
}

#[tokio::test]
async fn a_slow_subscriber_blocks_no_caller_and_misses_no_final_state() {
    let scene = Scene::with(Rotation::Always).await;
    let tokens = scene.manager();
    let mut slow = tokens.subscribe().await;
    for _ in 0..100 {
        scene.clock.advance(support::MINUTE);
        tokens.refresh().await.unwrap();
    }
    assert_eq!(slow.next().await.unwrap(), tokens.status());
    assert_eq!(news(&mut slow).await, None, "nothing more has changed");
}

/// No flight is needed for it.
#[tokio::test]
async fn what_a_callers_look_finds_is_news() {
    let scene = Scene::new().await;
    let tokens = scene.manager();
    tokens.get_valid_refresh_token().await.unwrap();
    let mut changes = tokens.subscribe().await;
    scene.clock.advance(MINUTE);
    scene.manager().refresh().await.unwrap();
    assert_eq!(news(&mut changes).await, None);
    tokens.get_valid_refresh_token().await.unwrap();
    assert_eq!(news(&mut changes).await.unwrap(), tokens.status());
}

/// Another process is renewing, so that a flight looks at the store and ends. When that was is no news.
#[tokio::test]
async fn a_look_that_finds_nothing_new_is_no_news() {
    let scene = Scene::new().await;
    let tokens = scene.manager();
    assert_eq!(tokens.status().as_of, None, "the store was not looked at yet");
    tokens.access_token().await.unwrap();
    let mut changes = tokens.subscribe().await;
    let before = tokens.status();
    let _lock = JsonFileStore::new(scene.token_path()).try_lock().await.unwrap().unwrap();
    scene.clock.advance(56 * MINUTE);
    tokens.access_token().await.unwrap();
    let mut after = tokens.status();
    assert!(after.as_of > before.as_of);
    after.as_of = before.as_of;
    assert_eq!(after, before);
    assert_eq!(news(&mut changes).await, None);
}

#[tokio::test]
async fn sign_in_replaces_the_token_and_saves_it_before_it_returns() {
    let scene = Scene::new().await;
    let tokens = scene.manager();
    let old = tokens.get_valid_refresh_token().await.unwrap();
    let grant = Grant::company_request_token(scene.concur.company_uuid(), scene.concur.issue_request_token());
    let new = tokens.sign_in(grant).await.unwrap();
    assert_ne!(new.secret(), old.secret());
    assert_eq!(scene.stored_refresh_token(), new.secret());
    assert_eq!(tokens.get_valid_refresh_token().await.unwrap().secret(), new.secret());
    assert_eq!(scene.concur.token_requests(), 2);

    let theirs = Grant::company_request_token("another", "at-x");
    let error = tokens.sign_in(theirs).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(
        error.to_string().starts_with("the new token belongs to a company without a UUID, but"),
        "{error}"
    );
    assert_eq!(scene.concur.token_requests(), 2);
}

#[tokio::test]
async fn sign_in_works_where_the_credentials_name_no_company() {
    let scene = Scene::new().await;
    let json: serde_json::Value = serde_json::from_str(&scene.concur.credentials_json()).unwrap();
    let app = Credentials::new(json["appID"].as_str().unwrap(), json["clientSecret"].as_str().unwrap());
    let tokens = scene.builder().credentials(app).base_uri(scene.concur.base_uri()).build().unwrap();
    let grant = Grant::company_request_token(
        scene.concur.company_uuid(),
        json["companyRequestToken"].as_str().unwrap(),
    );
    let token = tokens.sign_in(grant).await.unwrap();
    assert_eq!(token.company_uuid(), Some(scene.concur.company_uuid().as_str()));
    tokens.access_token().await.unwrap();
    assert_eq!(scene.concur.token_requests(), 1);
}

#[tokio::test]
async fn adopt_imports_a_token_from_elsewhere() {
    let scene = Scene::new().await;
    let tokens = scene.manager();
    let theirs = RefreshTokenObject::from_json(&scene.concur.token_json()).unwrap();
    tokens.adopt(theirs.clone()).await.unwrap();
    assert_eq!(scene.stored_refresh_token(), theirs.secret());
    assert_eq!(tokens.status().source, Some(TokenOrigin::Adopted));
    assert_eq!(scene.concur.token_requests(), 0);
    tokens.access_token().await.unwrap();
    assert_eq!((scene.concur.count("refresh_token"), scene.concur.count("password")), (1, 0));

    for (token, kind) in [
        (r#"{"refresh_token": "r", "companyUUID": "another"}"#, ErrorKind::Config),
        (r#"{"refresh_token": "r", "geolocation": "https://example.net"}"#, ErrorKind::Untrusted),
    ] {
        let before = scene.token_file();
        let error = tokens.adopt(RefreshTokenObject::from_json(token).unwrap()).await.unwrap_err();
        assert_eq!(error.kind(), kind);
        assert_eq!(scene.token_file(), before);
    }
}

/// Serverless: the token comes with each invocation, and many managers share one client.
#[tokio::test]
async fn managers_with_separate_tokens_share_one_client() {
    let scene = Scene::new().await;
    let client = OAuthClient::new();
    for _ in 0..20 {
        let token = RefreshTokenObject::from_json(&scene.concur.token_json()).unwrap();
        let tokens =
            scene.builder().store(MemoryStore::with(token)).oauth_client(client.clone()).build().unwrap();
        tokens.access_token().await.unwrap();
    }
    assert_eq!((scene.concur.count("refresh_token"), scene.concur.count("password")), (20, 0));
}

/// An administrator pastes a new request token while the service runs.
#[tokio::test]
async fn a_credentials_file_is_read_again_when_it_changed() {
    let scene = Scene::new().await;
    let tokens = scene.manager();
    tokens.get_valid_refresh_token().await.unwrap();
    scene.concur.revoke();
    scene.clock.advance(2 * support::DAY);
    let error = tokens.access_token().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ReauthorizationRequired);
    scene.concur.issue_request_token();
    scene.write_credentials(&scene.concur.credentials_json());
    tokens.access_token().await.unwrap();
}

#[tokio::test]
async fn a_source_that_fails_for_a_while_does_no_harm() {
    use std::sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    };
    #[derive(Debug)]
    struct Failing(CredentialsFile, Arc<AtomicBool>);
    impl CredentialSource for Failing {
        async fn credentials(&self) -> Result<Credentials, Error> {
            if self.1.load(Ordering::Relaxed) {
                return Err(Error::credentials("the vault is sealed; unseal it", "sealed"));
            }
            self.0.credentials().await
        }
    }
    let scene = Scene::new().await;
    let sealed = Arc::new(AtomicBool::new(true));
    let source = Failing(CredentialsFile::new(scene.credentials_path()), Arc::clone(&sealed));
    let tokens = scene.builder().credentials(source).build().unwrap();
    assert_eq!(tokens.access_token().await.unwrap_err().to_string(), "the vault is sealed; unseal it");
    sealed.store(false, Ordering::Relaxed);
    let held = tokens.access_token().await.unwrap();
    // While the token is valid nobody notices; once it has expired, the error is the source's.
    sealed.store(true, Ordering::Relaxed);
    scene.clock.advance(58 * support::MINUTE);
    assert_eq!(tokens.access_token().await.unwrap().secret(), held.secret());
    scene.clock.advance(HOUR);
    assert_eq!(tokens.access_token().await.unwrap_err().kind(), ErrorKind::CredentialsInvalid);
    sealed.store(false, Ordering::Relaxed);
    tokens.access_token().await.unwrap();
}

/// While callers cannot see what is stored, no health check is green; once they can, it is.
#[tokio::test]
async fn a_store_that_cannot_be_read_is_told_as_long_as_that_lasts() {
    let scene = Scene::new().await;
    let tokens = scene.manager();
    let token = tokens.get_valid_refresh_token().await.unwrap();
    let aside = scene.dir.path().join("aside");
    std::fs::rename(scene.token_path(), &aside).unwrap();
    std::fs::create_dir(scene.token_path()).unwrap();
    let error = tokens.get_valid_refresh_token().await.unwrap_err();
    let status = tokens.status();
    assert_eq!((status.health(), status.responsible()), (Health::Degraded, Some(Responsible::Operator)));
    assert_eq!(status.last_error.unwrap().message, error.to_string());

    std::fs::remove_dir(scene.token_path()).unwrap();
    std::fs::rename(&aside, scene.token_path()).unwrap();
    assert_eq!(tokens.get_valid_refresh_token().await.unwrap().secret(), token.secret());
    assert_eq!((tokens.status().health(), tokens.status().last_error), (Health::Healthy, None));
}

#[tokio::test]
async fn a_status_is_read_from_the_store_although_the_credentials_cannot_be_used() {
    let scene = Scene::new().await;
    scene.manager().get_valid_refresh_token().await.unwrap();
    scene.write_credentials("{}");
    let status = scene.manager().read_status().await;
    assert!(status.refresh_token_valid && status.company_uuid.is_some());
    assert_eq!((status.health(), status.responsible()), (Health::PersonNeeded, Some(Responsible::Operator)));
    assert_eq!(status.last_error.unwrap().kind, ErrorKind::CredentialsNeeded);
    assert_eq!(status.act_before, status.refresh_token_expires_at);
}

/// The host's pause holds back what this manager would send, too.
#[tokio::test]
async fn the_next_attempt_comes_after_a_pause_that_concur_asked_for() {
    let scene = Scene::skipping(Rotation::Never).await;
    let tokens = scene.manager();
    tokens.get_valid_refresh_token().await.unwrap();
    scene.clock.advance(70 * DAY);
    scene.concur.set_fault(Fault::status(503).retry_after("1800"));
    let now = scene.clock.now_utc();
    tokens.get_valid_refresh_token().await.unwrap();
    assert_eq!(tokens.status().next_attempt_at, Some(now + HOUR / 2));
}
