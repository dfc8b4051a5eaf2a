//! The clock is injected, and building or loading starts nothing: promises 11 and 12 of docs/promises.md.

#![cfg(feature = "simulator")]

mod support;

use std::time::{Duration, SystemTime};

use concur_auth::{ErrorKind, TokenManager, simulator::ManualClock, time::OffsetDateTime};
use support::{DAY, Scene};

#[cfg(target_os = "linux")]
#[tokio::test]
async fn building_loading_and_serving_start_no_thread_or_socket() {
    let _alone = support::alone().await;
    let child = support::child("serves_a_stored_token").spawn().unwrap();
    support::all_succeed(vec![child]);
}

#[cfg(target_os = "linux")]
#[test]
#[ignore = "runs as a child process, since other tests start threads"]
fn serves_a_stored_token() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("credentials.json"), r#"{"appID": "a", "clientSecret": "s"}"#).unwrap();
    let far = r#"{"refresh_token": "r", "refresh_expires_in": 9999999999, "access_token": "a", "expires_in": 3600,
        "accessTokenExpiresAt": 9999999999}"#;
    std::fs::write(dir.path().join("refreshTokenObjectFile.json"), far).unwrap();
    let count = |folder: &str| std::fs::read_dir(folder).unwrap().count();
    let before = (count("/proc/self/task"), count("/proc/self/fd"));
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let tokens = TokenManager::load_from(dir.path()).await.unwrap();
        tokens.get_valid_refresh_token().await.unwrap();
        // The store is looked at each time.
        tokens.clone().get_valid_refresh_token().await.unwrap();
        let _ = tokens.status();
        assert_eq!((count("/proc/self/task"), count("/proc/self/fd")), before);
    });
}

/// Five years back and forth: nothing panics, and a token that should be valid is had each time.
#[tokio::test]
async fn the_clock_may_jump_either_way() {
    let scene = Scene::new().await;
    let tokens = scene.manager();
    for (days, forward) in
        [(0, true), (1800, true), (3600, false), (1800, true), (20_000, false), (18_200, true)]
    {
        if forward {
            scene.clock.advance(days * DAY);
        } else {
            scene.clock.rewind(days * DAY);
        }
        scene.concur.issue_request_token();
        scene.write_credentials(&scene.concur.credentials_json());
        tokens.refresh().await.unwrap();
        tokens.access_token().await.unwrap();
        tokens.get_valid_refresh_token().await.unwrap();
    }
}

#[tokio::test]
async fn at_the_ends_of_time_nothing_overflows() {
    let last = OffsetDateTime::from_unix_timestamp(253_402_300_799).unwrap();
    for start in [SystemTime::UNIX_EPOCH, SystemTime::UNIX_EPOCH - DAY, last.into()] {
        let scene = Scene::new().await;
        scene.write_token(&scene.concur.token_json());
        let clock = ManualClock::new(start);
        let tokens = scene.builder().clock(clock.clone()).build().unwrap();
        let _ = tokens.access_token().await;
        let _ = tokens.get_valid_refresh_token().await;
        clock.advance(Duration::MAX);
        let _ = tokens.refresh().await;
        let _ = format!("{tokens:?} {:?}", tokens.status());
    }
}

/// `refresh_expires_in` is the server's clock: stored as received, and beside it ours.
#[tokio::test]
async fn a_machine_whose_clock_is_wrong_still_renews_in_time() {
    let scene = Scene::new().await;
    // This machine lags 400 days behind Concur.
    let ours = ManualClock::new(support::noon() - 400 * DAY);
    let tokens = scene.builder().clock(ours.clone()).build().unwrap();
    let obtained = tokens.get_valid_refresh_token().await.unwrap();
    let left = (obtained.expires_at().unwrap() - ours.now_utc()).whole_days();
    assert!((181..=182).contains(&left), "{left} days left by our clock");
    ours.advance(160 * DAY);
    scene.clock.advance(160 * DAY);
    tokens.get_valid_refresh_token().await.unwrap();
    assert_eq!((scene.concur.count("password"), scene.concur.count("refresh_token")), (1, 1));
}

#[tokio::test]
async fn contradictory_settings_are_reported() {
    let error = TokenManager::builder()
        .http_client(concur_auth::reqwest::Client::builder())
        .oauth_client(concur_auth::OAuthClient::new())
        .build()
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert_eq!(
        error.to_string(),
        "both http_client and oauth_client were given; give the HTTP settings to OAuthClient::with_http_client instead"
    );
}

/// These settings can never make a client, so whoever makes one says so.
#[tokio::test]
async fn the_http_client_is_built_for_the_first_request() {
    use concur_auth::{Credentials, MemoryStore, RefreshTokenObject, reqwest};
    let stored = r#"{"refresh_token": "r", "refresh_expires_in": 9999999999}"#;
    let tokens = TokenManager::builder()
        .credentials(Credentials::new("a", "s"))
        .store(MemoryStore::with(RefreshTokenObject::from_json(stored).unwrap()))
        .base_uri("https://us.api.concursolutions.com")
        .http_client(reqwest::Client::builder().user_agent("\n"))
        .build()
        .unwrap();
    assert_eq!(tokens.get_valid_refresh_token().await.unwrap().secret(), "r");
    assert_eq!(
        tokens.refresh().await.unwrap_err().to_string(),
        "no HTTP client could be built from the settings given to http_client; check them, this machine's \
         certificates, and this process's limits on open files, then start the program again"
    );
}

/// Settings can be used once. So each further request says the same.
#[tokio::test]
async fn settings_that_made_no_client_are_used_up() {
    use concur_auth::{Credentials, Grant, OAuthClient, reqwest};
    let client = OAuthClient::with_http_client(reqwest::Client::builder().user_agent("\n"));
    let (app, grant) = (Credentials::new("a", "s"), Grant::refresh_token("r"));
    let base = "https://us.api.concursolutions.com".parse().unwrap();
    for _ in 0..2 {
        let error = client.request_token(&base, &app, &grant).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        assert_eq!(
            error.to_string(),
            "no HTTP client could be built from the settings given to http_client; check them, this machine's \
             certificates, and this process's limits on open files, then start the program again"
        );
    }
}

/// What keeps a client of ours from being made may pass, and then one is.
#[cfg(unix)]
#[tokio::test]
async fn a_lack_of_open_files_passes() {
    let _alone = support::alone().await;
    support::all_succeed(vec![support::child("runs_out_of_open_files").spawn().unwrap()]);
}

#[cfg(unix)]
#[tokio::test]
#[ignore = "runs as a child process"]
async fn runs_out_of_open_files() {
    use concur_auth::{Credentials, Grant, OAuthClient};
    let scene = Scene::new().await;
    let (client, app, grant) = (OAuthClient::new(), Credentials::new("a", "s"), Grant::refresh_token("r"));
    let ask = async |base: &str| {
        client.request_token(&base.parse().unwrap(), &app, &grant).await.unwrap_err().to_string()
    };
    // So that this crate's runtime has its files already.
    ask(&scene.concur.base_uri()).await;
    let mut open = Vec::new();
    while let Ok(file) = std::fs::File::open("/dev/null") {
        open.push(file);
    }
    assert_eq!(
        ask("https://127.0.0.1:9").await,
        "could not build the HTTP client; check this machine's certificates, and this process's limits on memory and open \
         files"
    );
    drop(open);
    let said = ask("https://127.0.0.1:9").await;
    assert!(said.starts_with("could not connect to 127.0.0.1;"), "{said}");
}
