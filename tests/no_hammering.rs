//! No hammering: what failed is not asked again until a pause has passed, or the credentials or the stored token change; what
//! Concur has refused, not for an hour or more (promise 9 of docs/promises.md).

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
    Credentials, Error, ErrorKind, Grant, MemoryStore, TokenManager,
    simulator::{ConcurSimulator, Fault, Rotation},
};
use support::{Call, HOUR, Scene, Watched, all_succeed, alone, child};

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
                 or the stored token change, or at once with retry_now] (code 14, correlation id {})",
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

/// No grant has issued it just now, so it is as good as it was.
#[tokio::test]
async fn adopting_the_refused_token_again_sends_nothing() {
    for code in [14, 108] {
        let scene = Scene::skipping(Rotation::Never).await;
        let mut credentials: serde_json::Value =
            serde_json::from_str(&scene.concur.credentials_json()).unwrap();
        credentials["companyRequestToken"] = "".into();
        scene.write_credentials(&credentials.to_string());
        scene.write_token(&scene.concur.token_json());
        scene.concur.set_fault(Fault::code(code));
        let tokens = scene.manager();
        let first = tokens.access_token().await.unwrap_err();
        assert_eq!(scene.concur.token_requests(), 1);
        let same = concur_auth::RefreshTokenObject::from_json(&scene.token_file()).unwrap();
        tokens.adopt(same).await.unwrap();
        let status = tokens.status();
        assert_eq!(status.health(), concur_auth::Health::PersonNeeded, "{code}");
        assert_eq!(status.refresh_token_valid, code == 14);
        for tokens in [&tokens, &scene.manager()] {
            let again = tokens.access_token().await.unwrap_err();
            assert_eq!((again.kind(), again.code()), (first.kind(), first.code()));
            assert_eq!(tokens.get_valid_refresh_token().await.is_err(), code == 108);
        }
        assert_eq!(scene.concur.token_requests(), 1, "{code}");
        // Another token is another matter.
        scene.concur.clear_faults();
        let another = concur_auth::RefreshTokenObject::from_json(&scene.concur.token_json()).unwrap();
        tokens.adopt(another).await.unwrap();
        assert_eq!(tokens.status().health(), concur_auth::Health::Healthy);
        tokens.access_token().await.unwrap();
    }
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
async fn a_sign_in_forgets_what_was_refused_before_a_token_was_adopted() {
    let scene = Scene::new().await;
    scene.concur.fault_next(1, Fault::code(14));
    let tokens = scene.manager();
    tokens.access_token().await.unwrap_err();
    let adopted = concur_auth::RefreshTokenObject::from_json(&scene.concur.token_json()).unwrap();
    tokens.adopt(adopted).await.unwrap();
    let is_noted = || scene.folder().contains(&"refreshTokenObjectFile.json.note".to_owned());
    assert!(is_noted());
    let grant = Grant::company_request_token(scene.concur.company_uuid(), scene.concur.issue_request_token());
    tokens.sign_in(grant).await.unwrap();
    assert!(!is_noted());
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

/// Failures of a request with the stored refresh token that may be over the next time.
fn passing() -> Vec<(&'static str, Fault, usize)> {
    vec![
        ("401", Fault::status(401), 1),
        ("403", Fault::status(403), 1),
        ("501", Fault::status(501), 1),
        ("a captive portal's page", Fault::html(200), 1),
        ("no access token", Fault::status(200).body(r#"{"refresh_token": "another"}"#), 1),
        ("no refresh token", Fault::status(200).body(r#"{"access_token": "a", "expires_in": 3600}"#), 1),
        ("429", Fault::status(429), 4),
        ("503", Fault::status(503), 4),
        ("reply lost", Fault::DropReply, 4),
    ]
}

#[tokio::test]
async fn with_nothing_valid_in_hand_a_failure_is_followed_by_a_pause() {
    for (failure, fault, requests) in passing() {
        let scene = Scene::skipping(Rotation::Never).await;
        scene.write_token(&scene.concur.token_json());
        scene.concur.set_fault(fault);
        let tokens = scene.manager();
        let first = tokens.access_token().await.unwrap_err();
        for _ in 0..200 {
            let again = tokens.access_token().await.unwrap_err();
            assert_eq!((again.kind(), again.code()), (first.kind(), first.code()), "{failure}");
            let left = again.retry_after().unwrap();
            assert!(left > Duration::ZERO && left <= Duration::from_secs(1), "{failure}: {left:?}");
            let said = " [not sent: the last request failed; next attempt in 1 s, or as soon as the credentials or the \
                        stored token change]";
            let shown = first.to_string();
            let (message, id) = shown.rsplit_once(" (correlation id ").unwrap_or((&shown, ""));
            let id = if id.is_empty() { String::new() } else { format!(" (correlation id {id}") };
            assert_eq!(again.to_string(), format!("{message}{said}{id}"), "{failure}");
        }
        assert_eq!(scene.concur.token_requests(), requests, "{failure}");
        // Whatever is asked for.
        tokens.refresh().await.unwrap_err();
        assert_eq!(scene.concur.token_requests(), requests, "{failure}");
        scene.clock.advance(Duration::from_secs(1));
        tokens.access_token().await.unwrap_err();
        assert_eq!(scene.concur.token_requests(), 2 * requests, "{failure}");
    }
}

/// For the app itself, too.
#[tokio::test]
async fn a_failure_of_the_apps_own_sign_in_is_followed_by_a_pause() {
    let scene = Scene::new().await;
    scene.concur.set_fault(Fault::status(403));
    let tokens = scene.builder().build_for_app().unwrap();
    for _ in 0..200 {
        tokens.access_token().await.unwrap_err();
    }
    assert_eq!(scene.concur.token_requests(), 1);
    scene.concur.clear_faults();
    scene.clock.advance(Duration::from_secs(1));
    tokens.access_token().await.unwrap();
}

#[tokio::test]
async fn a_pause_ends_at_once_when_credentials_or_token_change_or_a_person_signs_in() {
    for change in ["credentials", "token", "sign-in"] {
        let scene = Scene::new().await;
        scene.write_token(&scene.concur.token_json());
        scene.concur.fault_next(1, Fault::status(501));
        let tokens = scene.manager();
        tokens.access_token().await.unwrap_err();
        tokens.access_token().await.unwrap_err();
        assert_eq!(scene.concur.token_requests(), 1);
        match change {
            "credentials" => {
                scene.concur.issue_request_token();
                scene.write_credentials(&scene.concur.credentials_json());
            }
            "token" => scene.write_token(&scene.concur.token_json()),
            _ => {
                let request_token = scene.concur.issue_request_token();
                let grant = Grant::company_request_token(scene.concur.company_uuid(), request_token);
                tokens.sign_in(grant).await.unwrap();
            }
        }
        tokens.access_token().await.unwrap();
        assert_eq!(scene.concur.token_requests(), 2, "{change}");
    }
}

/// It costs Concur nothing, and is over as soon as its cause is.
#[tokio::test]
async fn what_failed_before_anything_was_sent_is_not_paused() {
    let scene = Scene::new().await;
    let tokens = scene.manager();
    scene.write_credentials("{");
    for _ in 0..3 {
        assert_eq!(tokens.access_token().await.unwrap_err().kind(), ErrorKind::CredentialsInvalid);
    }
    scene.write_credentials(&scene.concur.credentials_json());
    tokens.access_token().await.unwrap();

    let broken = Arc::new(AtomicBool::new(true));
    let is_broken = Arc::clone(&broken);
    let store = Watched::new(move |call| match call {
        Call::Rehearse if is_broken.load(Ordering::Relaxed) => Err(Error::store("full", "disk")),
        _ => Ok(()),
    });
    let tokens = scene.builder().store(store).build().unwrap();
    for _ in 0..3 {
        assert_eq!(tokens.access_token().await.unwrap_err().kind(), ErrorKind::Store);
    }
    broken.store(false, Ordering::Relaxed);
    tokens.access_token().await.unwrap();
}

/// And if the answer also asks for a pause: it says no more about the grant than without.
#[tokio::test]
async fn a_server_that_failed_with_a_sign_in_leaves_it_in_doubt_whatever_pause_it_asks_for() {
    let scene = Scene::skipping(Rotation::Never).await;
    scene.concur.set_fault(Fault::status(500).retry_after("2"));
    let tokens = scene.manager();
    tokens.access_token().await.unwrap_err();
    scene.clock.advance(Duration::from_secs(2));
    let error = tokens.access_token().await.unwrap_err();
    assert!(error.to_string().contains("a sign-in may have used up the request token"), "{error}");
    assert_eq!(scene.concur.token_requests(), 1);
}

/// Two programs with different credentials, in turns.
#[tokio::test]
async fn refusals_of_two_programs_on_one_store_do_not_displace_each_other() {
    let scene = Scene::with(Rotation::Never).await;
    let json: serde_json::Value = serde_json::from_str(&scene.concur.credentials_json()).unwrap();
    let program = |secret: &str| {
        let credentials = Credentials::new(json["appID"].as_str().unwrap(), secret);
        let credentials = credentials.company(scene.concur.company_uuid(), "at-wrong");
        scene.builder().credentials(credentials).base_uri(scene.concur.base_uri()).build().unwrap()
    };
    for _ in 0..20 {
        for secret in ["wrong", "wrong too"] {
            let error = program(secret).access_token().await.unwrap_err();
            assert_eq!(error.code().map(|code| code.number()), Some(64));
        }
    }
    assert_eq!(scene.concur.token_requests(), 2);
}

/// It says nothing about another's secret.
#[tokio::test]
async fn one_programs_success_forgets_its_own_refusals_only() {
    let scene = Scene::with(Rotation::Never).await;
    scene.write_token(&scene.concur.token_json());
    let json: serde_json::Value = serde_json::from_str(&scene.concur.credentials_json()).unwrap();
    let wrong = || {
        let credentials = Credentials::new(json["appID"].as_str().unwrap(), "wrong");
        let credentials = credentials.company(scene.concur.company_uuid(), "at-wrong");
        scene.builder().credentials(credentials).base_uri(scene.concur.base_uri()).build().unwrap()
    };
    wrong().refresh().await.unwrap_err();
    for _ in 0..7 {
        for _ in 0..10 {
            assert!(wrong().refresh().await.unwrap_err().to_string().contains("not sent"));
        }
        scene.manager().refresh().await.unwrap();
    }
    assert_eq!(scene.concur.token_requests(), 1 + 7);
}

#[tokio::test]
async fn what_an_administrator_can_lift_is_asked_once_an_hour() {
    let scene = Scene::new().await;
    scene.write_token(&scene.concur.token_json());
    scene.concur.set_fault(Fault::code(14));
    for _ in 0..2 {
        let before = scene.concur.token_requests();
        for _ in 0..24 * 12 {
            scene.manager().access_token().await.unwrap_err();
            scene.clock.advance(Duration::from_secs(300));
        }
        assert_eq!(scene.concur.token_requests() - before, 24);
    }
}

#[tokio::test]
async fn after_an_account_is_unlocked_retry_now_works_at_once() {
    for next_process in [false, true] {
        let scene = Scene::new().await;
        scene.write_token(&scene.concur.token_json());
        scene.concur.set_fault(Fault::code(14));
        let tokens = scene.manager();
        tokens.access_token().await.unwrap_err();
        // Still locked: it is sent, and holds back again.
        assert_eq!(tokens.retry_now().await.unwrap_err().kind(), ErrorKind::Refused);
        assert_eq!(scene.concur.token_requests(), 2);
        tokens.access_token().await.unwrap_err();
        tokens.refresh().await.unwrap_err();
        assert_eq!(scene.concur.token_requests(), 2);

        scene.concur.clear_faults();
        let tokens = if next_process { scene.manager() } else { tokens };
        tokens.refresh().await.unwrap_err();
        let renewed = tokens.retry_now().await.unwrap();
        assert_eq!(scene.stored_refresh_token(), renewed.secret());
        tokens.access_token().await.unwrap();
        tokens.refresh().await.unwrap();
        assert_eq!(scene.concur.token_requests(), 4);
        assert!(!scene.folder().contains(&"refreshTokenObjectFile.json.note".to_owned()));
    }
}

#[tokio::test]
async fn retry_now_ends_the_pauses_too() {
    for fault in
        [Fault::status(501), Fault::status(429).retry_after("600"), Fault::code(134).retry_after("600")]
    {
        let scene = Scene::new().await;
        scene.write_token(&scene.concur.token_json());
        scene.concur.fault_next(1, fault);
        let tokens = scene.manager();
        tokens.access_token().await.unwrap_err();
        tokens.refresh().await.unwrap_err();
        tokens.retry_now().await.unwrap();
        assert_eq!(scene.concur.token_requests(), 2);
    }
}

/// Concur has asked for a pause for this manager's principal.
async fn paused() -> (Scene, TokenManager) {
    let scene = Scene::new().await;
    scene.write_token(&scene.concur.token_json());
    let tokens = scene.manager();
    scene.concur.fault_next(1, Fault::code(134).retry_after("600"));
    tokens.access_token().await.unwrap_err();
    (scene, tokens)
}

/// The note of a token file lies beside the file itself, wherever a link to it may be.
#[cfg(unix)]
#[tokio::test]
async fn a_refusal_is_told_to_the_next_process_through_a_link() {
    let scene = Scene::new().await;
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("token.json"), scene.concur.token_json()).unwrap();
    std::os::unix::fs::symlink(folder.path().join("token.json"), scene.token_path()).unwrap();
    scene.concur.set_fault(Fault::code(14));
    scene.manager().access_token().await.unwrap_err();
    let told = scene.manager().read_status().await.last_error.unwrap();
    assert_eq!(told.code.map(|code| code.number()), Some(14));
}

/// Of what Concur said before, that is: not of what it answers to the retry.
#[tokio::test]
async fn after_a_retry_in_vain_the_pause_is_that_of_its_own_failure() {
    let (scene, tokens) = paused().await;
    scene.concur.fault_next(1, Fault::status(501));
    tokens.retry_now().await.unwrap_err();
    scene.clock.advance(Duration::from_secs(1));
    tokens.access_token().await.unwrap();
    assert_eq!(scene.concur.token_requests(), 3);
}

/// Another manager has not heard of it, and what that manager gets says nothing about the next request.
#[tokio::test]
async fn a_pause_that_concur_asked_for_outlasts_what_another_process_has_renewed() {
    let (scene, tokens) = paused().await;
    let renewed = scene.manager().access_token().await.unwrap();
    assert_eq!(tokens.access_token().await.unwrap().secret(), renewed.secret());
    let error = tokens.refresh().await.unwrap_err();
    assert!(error.to_string().contains("[not sent: Concur asked for a pause"), "{error}");
    assert_eq!(scene.concur.token_requests(), 2);
}

#[tokio::test]
async fn a_pause_that_concur_asked_for_is_over_when_it_answers_a_sign_in() {
    let (scene, tokens) = paused().await;
    let request_token = scene.concur.issue_request_token();
    tokens.sign_in(Grant::company_request_token(scene.concur.company_uuid(), request_token)).await.unwrap();
    tokens.refresh().await.unwrap();
    assert_eq!(scene.concur.token_requests(), 3);
}

/// Those that come while a request is under way share the next one, which is sent after their calls.
#[tokio::test]
async fn many_that_retry_at_once_share_a_request() {
    let scene = Scene::new().await;
    scene.write_token(&scene.concur.token_json());
    scene.concur.set_fault(Fault::code(14));
    let tokens = scene.manager();
    tokens.access_token().await.unwrap_err();
    let held = scene.concur.hold_replies();
    let retrying: Vec<_> = (0..10)
        .map(|_| {
            let tokens = tokens.clone();
            tokio::spawn(async move { tokens.retry_now().await })
        })
        .collect();
    support::until(|| scene.concur.token_requests() == 2).await;
    held.release();
    for one in retrying {
        assert_eq!(one.await.unwrap().unwrap_err().kind(), ErrorKind::Refused);
    }
    assert_eq!(scene.concur.token_requests(), 3);
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
        let fingerprint = json["failures"][0]["fingerprint"].as_u64().unwrap();
        assert!(fingerprint < 1 << 32, "more than 32 bits: {remembered}");
        seen.push(fingerprint);
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
