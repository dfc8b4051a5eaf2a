//! The tutorial's runs: template, fill in, obtain and store, use the stored one, obtain again after expiry.

#![cfg(feature = "simulator")]

mod support;

use concur_auth::{ErrorKind, TokenManager};
use support::{DAY, Scene};

#[tokio::test]
async fn the_whole_story() {
    let scene = Scene::new().await;
    std::fs::remove_file(scene.credentials_path()).unwrap();

    // 1st run: a template.
    let error = scene.manager().get_valid_refresh_token().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::CredentialsNeeded);
    assert_eq!(
        error.to_string(),
        format!(
            "{} did not exist, so a blank template was written there; fill in appID and clientSecret (from \
             https://www.concursolutions.com/nui/ocstool), companyUUID and companyRequestToken (from \
             https://www.concursolutions.com/nui/authadmin/companytokens), then run again",
            scene.credentials_path().display()
        )
    );
    let template: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(scene.credentials_path()).unwrap()).unwrap();
    assert_eq!(
        template,
        serde_json::json!({
            "appID": "", "clientSecret": "", "grantType": "password",
            "companyUUID": "", "companyRequestToken": "", "credentialType": "authtoken"
        })
    );

    // 2nd run: obtained and stored.
    scene.write_credentials(&scene.concur.credentials_json());
    let obtained = scene.manager().get_valid_refresh_token().await.unwrap();
    assert_eq!(obtained.company_uuid(), Some(scene.concur.company_uuid().as_str()));
    assert_eq!(scene.stored_refresh_token(), obtained.secret());
    assert_eq!(scene.concur.token_requests(), 1);

    // 3rd run: the stored one.
    let stored = scene.manager().get_valid_refresh_token().await.unwrap();
    assert_eq!(stored.secret(), obtained.secret());
    assert_eq!(scene.concur.token_requests(), 1);

    // After expiry: obtained again.
    scene.clock.advance(200 * DAY);
    scene.concur.issue_request_token();
    scene.write_credentials(&scene.concur.credentials_json());
    let again = scene.manager().get_valid_refresh_token().await.unwrap();
    assert_ne!(again.secret(), obtained.secret());
    assert_eq!(scene.stored_refresh_token(), again.secret());
    assert_eq!((scene.concur.count("password"), scene.concur.token_requests()), (2, 2));
}

#[tokio::test]
async fn load_from_reads_the_two_files_of_a_folder() {
    let scene = Scene::new().await;
    scene.write_token(&scene.concur.token_json());
    let tokens = TokenManager::load_from(scene.dir.path()).await.unwrap();
    // The simulated clock stands in the past or the future; an expiry is all that counts here.
    assert!(tokens.get_valid_refresh_token().await.unwrap().expires_at().is_some());
}

#[tokio::test]
async fn with_a_stored_token_the_companys_part_may_be_blank() {
    let scene = Scene::new().await;
    scene.manager().get_valid_refresh_token().await.unwrap();

    let mut credentials: serde_json::Value = serde_json::from_str(&scene.concur.credentials_json()).unwrap();
    credentials["companyUUID"] = "".into();
    credentials["companyRequestToken"] = "".into();
    scene.write_credentials(&credentials.to_string());
    scene.manager().get_valid_refresh_token().await.unwrap();
    assert_eq!(scene.concur.token_requests(), 1);

    std::fs::remove_file(scene.token_path()).unwrap();
    let error = scene.manager().get_valid_refresh_token().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::CredentialsNeeded);
    assert_eq!(
        error.to_string(),
        format!(
            "companyUUID and companyRequestToken are blank in {}; a token must be obtained: create a company \
             request token at https://www.concursolutions.com/nui/authadmin/companytokens (it lives 24 hours), then \
             fill them in",
            scene.credentials_path().display()
        )
    );
}

#[tokio::test]
async fn a_refused_request_token_says_what_to_do() {
    let scene = Scene::new().await;
    scene.clock.advance(2 * DAY);
    let error = scene.manager().get_valid_refresh_token().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ReauthorizationRequired);
    assert_eq!(error.code().map(|code| code.number()), Some(5));
    assert_eq!(
        error.to_string(),
        format!(
            "Concur did not accept the company UUID with its company request token, which lives 24 hours and five \
             uses; create a new one at https://www.concursolutions.com/nui/authadmin/companytokens and put it into \
             {} (code 5, correlation id {})",
            scene.credentials_path().display(),
            error.correlation_id().unwrap()
        )
    );
}

#[tokio::test]
async fn a_request_token_that_is_refused_without_a_code_says_the_same() {
    let scene = Scene::new().await;
    scene
        .concur
        .fault_next(1, concur_auth::simulator::Fault::status(400).body(r#"{"error": "invalid_grant"}"#));
    let error = scene.manager().get_valid_refresh_token().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ReauthorizationRequired);
    assert_eq!(error.code(), None);
    let text = error.to_string();
    assert!(
        text.starts_with(
            "Concur did not accept the company UUID with its company request token, which lives 24 hours and five uses; \
             create a new one at https://www.concursolutions.com/nui/authadmin/companytokens and put it into "
        ),
        "{text}"
    );
    assert_eq!(scene.concur.token_requests(), 1);
}
