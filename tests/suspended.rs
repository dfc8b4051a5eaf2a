//! A process that is suspended while Concur answers reads the reply when it goes on, however late that is.

#![cfg(all(feature = "simulator", unix))]

mod support;

use std::{path::PathBuf, process::Command, time::Duration};

use concur_auth::{
    TokenManager,
    simulator::{ConcurSimulator, Rotation},
};

use self::support::{all_succeed, child, really_wait, until};

/// The longest that a request may take.
const REQUEST: Duration = Duration::from_secs(30);

#[tokio::test]
async fn a_reply_that_arrived_while_the_process_was_suspended_is_saved() {
    let concur = ConcurSimulator::builder().rotation(Rotation::AlwaysAndRevokeFamily).start().await;
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("credentials.json"), concur.credentials_json()).unwrap();
    let load = || TokenManager::load_from(dir.path());
    let before = load().await.unwrap().get_valid_refresh_token().await.unwrap();

    let held = concur.hold_replies();
    let process = child("refreshes").env("DIR", dir.path()).spawn().unwrap();
    until(|| concur.count("refresh_token") == 1).await;
    let signal = |name: &str| {
        assert!(
            Command::new("kill").args(["-s", name, &process.id().to_string()]).status().unwrap().success()
        );
    };
    signal("STOP");
    held.release();
    // Real time, which the process's own time-out goes by.
    really_wait(REQUEST + Duration::from_secs(1)).await;
    signal("CONT");
    all_succeed(vec![process]);

    let after = load().await.unwrap().get_valid_refresh_token().await.unwrap();
    assert!(concur.is_live(after.secret()) && after.secret() != before.secret());
    assert_eq!((concur.count("password"), concur.count("refresh_token")), (1, 1));
}

#[tokio::test]
#[ignore = "runs as a child process"]
async fn refreshes() {
    let tokens = TokenManager::load_from(PathBuf::from(std::env::var_os("DIR").unwrap())).await.unwrap();
    tokens.refresh().await.unwrap();
}
