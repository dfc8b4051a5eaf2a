//! No hammering: what Concur has refused is not asked again until the credentials or the stored token change, or an hour has
//! passed (promise 9 of docs/promises.md).

#![cfg(feature = "simulator")]

mod support;

use std::time::Duration;

use concur_auth::{
    ErrorKind, Grant, MemoryStore, TokenManager,
    simulator::{ConcurSimulator, Fault, Rotation},
};
use support::{HOUR, Scene, Watched, all_succeed, alone, child};

#[tokio::test]
async fn a_refusal_is_remembered_by_the_manager_and_by_the_next_process() {
    let scene = Scene::new().await;
    scene.concur.set_fault(Fault::code(14));
    let first = scene.manager().access_token().await.unwrap_err();
    assert_eq!(first.kind(), ErrorKind::Refused);
    for _ in 0..5 {
        // Another manager on the same file, as the next process is.
        let again = scene.manager().access_token().await.unwrap_err();
        assert_eq!(again.kind(), first.kind());
        assert_eq!(again.code(), first.code());
        assert_eq!(
            again.to_string(),
            format!(
                "Concur refused the password grant at 127.0.0.1: account locked; ask the company's Concur administrator to \
                 unlock it [not sent: Concur refused this before; next attempt in 60 min, or as soon as the credentials \
                 or the stored token change] (code 14, correlation id {})",
                first.correlation_id().unwrap()
            )
        );
        assert_eq!(scene.manager().refresh().await.unwrap_err().code(), first.code());
        assert_eq!(scene.manager().get_valid_refresh_token().await.unwrap_err().code(), first.code());
    }
    assert_eq!(scene.concur.token_requests(), 1);
}

/// Every five minutes with wrong credentials, for three days.
#[tokio::test]
async fn a_cron_job_with_wrong_credentials_does_not_lock_the_account() {
    let scene = Scene::new().await;
    scene.concur.set_fault(Fault::code(5));
    let mut a_day = Vec::new();
    for _ in 0..3 {
        let before = scene.concur.token_requests();
        for _ in 0..24 * 12 {
            scene.manager().access_token().await.unwrap_err();
            scene.clock.advance(Duration::from_secs(300));
        }
        a_day.push(scene.concur.token_requests() - before);
    }
    // After 0, 1, 3, 7 and 15 hours, and then once a day.
    assert_eq!(a_day, [5, 1, 1]);
}

#[tokio::test]
async fn a_refusal_is_forgotten_when_the_credentials_change() {
    let scene = Scene::new().await;
    let mut wrong: serde_json::Value = serde_json::from_str(&scene.concur.credentials_json()).unwrap();
    wrong["clientSecret"] = "wrong".into();
    scene.write_credentials(&wrong.to_string());
    let tokens = scene.manager();
    for _ in 0..3 {
        assert_eq!(tokens.access_token().await.unwrap_err().code().map(|code| code.number()), Some(64));
    }
    assert_eq!(scene.concur.token_requests(), 1);
    // No restart: the next flight reads the file again.
    scene.write_credentials(&scene.concur.credentials_json());
    tokens.access_token().await.unwrap();
    assert_eq!(scene.concur.token_requests(), 2);
}

#[tokio::test]
async fn a_refusal_is_forgotten_when_the_stored_token_changes() {
    let scene = Scene::new().await;
    scene.write_token(&scene.concur.token_json());
    scene.concur.fault_next(1, Fault::code(14));
    scene.manager().access_token().await.unwrap_err();
    scene.manager().access_token().await.unwrap_err();
    assert_eq!(scene.concur.token_requests(), 1);
    scene.write_token(&scene.concur.token_json());
    scene.manager().access_token().await.unwrap();
}

#[tokio::test]
async fn an_explicit_user_action_is_not_blocked_by_a_refusal() {
    let scene = Scene::new().await;
    scene.concur.fault_next(1, Fault::code(14));
    let tokens = scene.manager();
    tokens.access_token().await.unwrap_err();
    let grant = Grant::company_request_token(scene.concur.company_uuid(), scene.concur.issue_request_token());
    tokens.sign_in(grant).await.unwrap();
    tokens.refresh().await.unwrap();

    // And a grant that was wrong says nothing about the credentials.
    let wrong = Grant::company_request_token(scene.concur.company_uuid(), "at-wrong");
    assert_eq!(tokens.sign_in(wrong).await.unwrap_err().kind(), ErrorKind::Refused);
    tokens.refresh().await.unwrap();
}

#[tokio::test]
async fn a_valid_refresh_token_is_served_in_spite_of_a_refusal() {
    let scene = Scene::new().await;
    let tokens = scene.manager();
    tokens.get_valid_refresh_token().await.unwrap();
    scene.concur.set_fault(Fault::code(14));
    scene.clock.advance(HOUR);
    tokens.access_token().await.unwrap_err();
    tokens.get_valid_refresh_token().await.unwrap();
    assert_eq!(scene.concur.token_requests(), 2);
}

#[tokio::test]
async fn passing_failures_are_not_remembered() {
    let scene = Scene::skipping(Rotation::Never).await;
    for fault in [Fault::status(503), Fault::status(429), Fault::code(134)] {
        scene.concur.set_fault(fault);
        scene.manager().access_token().await.unwrap_err();
    }
    scene.concur.clear_faults();
    scene.manager().access_token().await.unwrap();
    // Each call makes four attempts. (After a failure that may have spent something it would be one, and then none.)
    assert_eq!(scene.concur.token_requests(), 4 + 4 + 4 + 1);
}

#[tokio::test]
async fn a_refusal_is_remembered_by_the_store_or_else_by_the_manager() {
    let scene = Scene::new().await;
    scene.concur.set_fault(Fault::code(14));
    let store = MemoryStore::new();
    for _ in 0..3 {
        let tokens = scene.builder().store(store.clone()).build().unwrap();
        tokens.access_token().await.unwrap_err();
    }
    assert_eq!(scene.concur.token_requests(), 1);
    let tokens = scene.builder().store(Watched::new(|_| Ok(()))).build().unwrap();
    for _ in 0..3 {
        tokens.access_token().await.unwrap_err();
    }
    assert_eq!(scene.concur.token_requests(), 2);
}

/// What is on disk must not help an attacker.
#[tokio::test]
async fn a_refusal_on_disk_holds_no_secret_and_differs_each_time() {
    let mut seen = Vec::new();
    for _ in 0..2 {
        let scene = Scene::new().await;
        scene.write_credentials(
            &serde_json::json!({
                "appID": "the-app", "clientSecret": "the-secret", "companyUUID": "the-company",
                "companyRequestToken": "the-token", "baseURI": scene.concur.base_uri(),
            })
            .to_string(),
        );
        scene.manager().access_token().await.unwrap_err();
        let lock_file = scene.dir.path().join("refreshTokenObjectFile.json.note");
        let remembered = std::fs::read_to_string(lock_file).unwrap();
        let json: serde_json::Value = serde_json::from_str(&remembered).unwrap();
        for secret in ["the-app", "the-secret", "the-token"] {
            assert!(!remembered.contains(secret), "{remembered}");
        }
        assert!(json["fingerprint"].as_u64().unwrap() < 1 << 32, "more than 32 bits: {remembered}");
        seen.push(json["fingerprint"].clone());
    }
    assert_ne!(seen[0], seen[1], "not salted");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_processes_with_wrong_credentials_ask_once() {
    let _alone = alone().await;
    let concur = ConcurSimulator::builder().rotation(Rotation::Never).start().await;
    let dir = tempfile::tempdir().unwrap();
    let mut wrong: serde_json::Value = serde_json::from_str(&concur.credentials_json()).unwrap();
    wrong["companyRequestToken"] = "at-wrong".into();
    std::fs::write(dir.path().join("credentials.json"), wrong.to_string()).unwrap();
    all_succeed((0..20).map(|_| child("one_of_twenty").env("DIR", dir.path()).spawn().unwrap()).collect());
    assert_eq!(concur.token_requests(), 1);
}

#[tokio::test]
#[ignore = "runs as a child process"]
async fn one_of_twenty() {
    let tokens = TokenManager::load_from(std::env::var_os("DIR").unwrap()).await.unwrap();
    for _ in 0..3 {
        let error = tokens.get_valid_refresh_token().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ReauthorizationRequired);
    }
}
