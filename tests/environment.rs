//! Credentials and base URI from the environment, each case in a process of its own.

#![cfg(feature = "simulator")]

mod support;

use std::process::Command;

use concur_auth::{EnvCredentials, ErrorKind, MemoryStore, TokenManager, simulator::ConcurSimulator};
use support::{all_succeed, alone, child};

const NAMES: [&str; 5] = [
    "CONCUR_APP_ID",
    "CONCUR_CLIENT_SECRET",
    "CONCUR_COMPANY_UUID",
    "CONCUR_COMPANY_REQUEST_TOKEN",
    "CONCUR_BASE_URI",
];

/// A child whose environment has the simulator's credentials and base URI, and that must see `outcome`.
fn signed_in_by(concur: &ConcurSimulator, outcome: &str) -> Command {
    let json: serde_json::Value = serde_json::from_str(&concur.credentials_json()).unwrap();
    let members = ["appID", "clientSecret", "companyUUID", "companyRequestToken", "baseURI"];
    let mut command = child("obtains_a_token");
    for (name, member) in NAMES.iter().zip(members) {
        command.env(name, json[member].as_str().unwrap());
    }
    command.env("OUTCOME", outcome);
    command
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn complete_and_incomplete_environments() {
    let _alone = alone().await;
    let concur = ConcurSimulator::start().await;
    let apps = "https://www.concursolutions.com/nui/ocstool";
    let tokens = "https://www.concursolutions.com/nui/authadmin/companytokens";

    let mut children = vec![signed_in_by(&concur, "obtained")];
    let mut no_app = signed_in_by(
        &concur,
        &format!(
            "CredentialsNeeded: CONCUR_APP_ID and CONCUR_CLIENT_SECRET are not set in the environment; the app's page \
             {apps} shows both, then set them"
        ),
    );
    no_app.env_remove("CONCUR_APP_ID").env("CONCUR_CLIENT_SECRET", " ");
    children.push(no_app);
    let mut no_token = signed_in_by(
        &concur,
        &format!(
            "CredentialsNeeded: CONCUR_COMPANY_REQUEST_TOKEN is not set in the environment; a token must be obtained: \
             create a company request token at {tokens} (it lives 24 hours), then set it"
        ),
    );
    no_token.env_remove("CONCUR_COMPANY_REQUEST_TOKEN");
    children.push(no_token);
    let mut foreign = signed_in_by(
        &concur,
        "Untrusted: refused to send secrets to https://example.net (the environment variable CONCUR_BASE_URI); Concur's hosts are \
         https, below concursolutions.com or concurcdc.cn, without a port (a host of your own must be named with TokenManagerBuilder::trust_host)",
    );
    foreign.env("CONCUR_BASE_URI", "https://example.net");
    children.push(foreign);
    #[cfg(unix)]
    {
        use std::os::unix::ffi::OsStrExt as _;
        let mut no_text = signed_in_by(
            &concur,
            "CredentialsInvalid: the environment variable CONCUR_CLIENT_SECRET is not UTF-8 text; set it again",
        );
        no_text.env("CONCUR_CLIENT_SECRET", std::ffi::OsStr::from_bytes(b"\xff"));
        children.push(no_text);
    }
    all_succeed(children.into_iter().map(|mut child| child.spawn().unwrap()).collect());
    assert_eq!(concur.token_requests(), 1);
}

#[tokio::test]
#[ignore = "runs as a child process"]
async fn obtains_a_token() {
    let tokens =
        TokenManager::builder().credentials(EnvCredentials).store(MemoryStore::new()).build().unwrap();
    let outcome = match tokens.get_valid_refresh_token().await {
        Ok(_) => "obtained".to_owned(),
        Err(e) => {
            assert_ne!(e.kind(), ErrorKind::Unavailable, "{e}");
            format!("{:?}: {e}", e.kind())
        }
    };
    assert_eq!(outcome, std::env::var("OUTCOME").unwrap());
}
