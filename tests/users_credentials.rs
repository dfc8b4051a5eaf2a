//! A `credentials.json` serves a user as it serves a company: name and password in the two members that the tutorial's
//! program sends as such.

#![cfg(feature = "simulator")]

mod support;

use concur_auth::{ErrorKind, simulator::SimulatedUser};
use serde_json::json;
use support::{DAY, HOUR, Scene};

fn credentials_json(scene: &Scene, user: &SimulatedUser, password: &str) -> String {
    let app = scene.concur.app();
    json!({
        "appID": app.id(), "clientSecret": app.secret(), "grantType": "password", "companyUUID": user.username(),
        "companyRequestToken": password, "credentialType": "password", "baseURI": scene.concur.base_uri(),
    })
    .to_string()
}

#[tokio::test]
async fn a_user_is_signed_in_renewed_and_signed_in_again() {
    let scene = Scene::new().await;
    let (user, eu) = (scene.concur.add_user(), scene.concur.add_data_centre().await);
    scene.concur.move_principal(user.uuid(), &eu);
    scene.write_credentials(&credentials_json(&scene, &user, user.password()));
    let obtained = scene.manager().get_valid_refresh_token().await.unwrap();
    assert_eq!((obtained.company_uuid(), obtained.principal_uuid()), (None, Some(user.uuid())));
    assert_eq!(scene.stored_refresh_token(), obtained.secret());

    scene.clock.advance(HOUR);
    scene.manager().access_token().await.unwrap();
    scene.clock.advance(200 * DAY);
    scene.manager().get_valid_refresh_token().await.unwrap();
    // Each sign-in is led from the landing zone to the user's home; the renewal goes there at once.
    assert_eq!((scene.concur.count("password"), scene.concur.count("refresh_token")), (4, 1));
    assert_eq!(scene.concur.request_token_uses_left(), 5);
}

#[tokio::test]
async fn blank_members_have_the_files_names() {
    let scene = Scene::new().await;
    let user = scene.concur.add_user();
    scene.write_credentials(&credentials_json(&scene, &user, ""));
    let error = scene.manager().get_valid_refresh_token().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::CredentialsNeeded);
    assert_eq!(
        error.to_string(),
        format!(
            "companyRequestToken is blank in {}; a token must be obtained, and with credentialType \"password\" these \
             members are the user's name and password: ask the user, then fill it in",
            scene.credentials_path().display()
        )
    );
    assert_eq!(scene.concur.token_requests(), 0);
}

#[tokio::test]
async fn a_wrong_password_is_sent_once_and_the_error_names_no_company() {
    let scene = Scene::new().await;
    let user = scene.concur.add_user();
    scene.write_credentials(&credentials_json(&scene, &user, "wrong"));
    let error = scene.manager().get_valid_refresh_token().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ReauthorizationRequired);
    assert_eq!(
        error.to_string(),
        format!(
            "Concur did not accept the user's name with the password; put the right ones into {} (code 5, correlation id \
             {})",
            scene.credentials_path().display(),
            error.correlation_id().unwrap()
        )
    );
    scene.manager().get_valid_refresh_token().await.unwrap_err();
    assert_eq!(scene.concur.token_requests(), 1, "the refusal is remembered: accounts get locked");
}

#[tokio::test]
async fn when_token_and_password_are_refused_the_user_must_act() {
    let scene = Scene::new().await;
    let user = scene.concur.add_user();
    scene.write_credentials(&credentials_json(&scene, &user, user.password()));
    scene.manager().get_valid_refresh_token().await.unwrap();
    scene.concur.revoke();
    scene.write_credentials(&credentials_json(&scene, &user, ""));
    let error = scene.manager().refresh().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ReauthorizationRequired);
    assert_eq!(
        error.to_string(),
        format!(
            "the refresh token in {} is no longer accepted, and there is no password to sign in again with; put the user's \
             name and password into {} (code 108, correlation id {})",
            scene.token_path().display(),
            scene.credentials_path().display(),
            error.correlation_id().unwrap()
        )
    );
}

#[tokio::test]
async fn an_unknown_grant_type_is_refused_with_the_allowed_values() {
    let scene = Scene::new().await;
    for grant_type in ["client_credentials", "authorization_code", "otp", "refresh_token", "s3cr3t"] {
        let json = scene.concur.credentials_json().replacen("\"password\"", &format!("{grant_type:?}"), 1);
        scene.write_credentials(&json);
        let error = scene.manager().get_valid_refresh_token().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::CredentialsInvalid);
        assert_eq!(
            error.to_string(),
            format!(
                "{}: the member grantType has a value that this file cannot serve; set it to \"password\"; the other \
                 grants start with a browser, an e-mail or the app alone: pass them to TokenManager::sign_in or \
                 OAuthClient::request_token",
                scene.credentials_path().display()
            )
        );
    }
    assert_eq!(scene.concur.token_requests(), 0);
}
