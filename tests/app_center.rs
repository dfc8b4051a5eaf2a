//! A company connects with the app in SAP Concur's App Center: from the redirect to tokens, and nothing shown or believed
//! on the way.

#![cfg(feature = "simulator")]

mod support;

use concur_auth::{AppCenterRedirect, Credentials, ErrorKind, MemoryStore, TokenManager};
use support::Scene;

const PAGE: &str = "https://app.example.com/connect?tenant=1";

fn app(scene: &Scene) -> Credentials {
    let app = scene.concur.app();
    Credentials::new(app.id(), app.secret()).base_uri(scene.concur.base_uri())
}

fn manager(scene: &Scene, credentials: Credentials) -> TokenManager {
    let builder = TokenManager::builder().credentials(credentials).store(MemoryStore::new());
    builder.clock(scene.clock.clone()).build().unwrap()
}

#[tokio::test]
async fn the_redirect_signs_the_company_in() {
    let scene = Scene::new().await;
    let visit = AppCenterRedirect::from_url(&scene.concur.app_center_redirect(PAGE)).unwrap();
    assert_eq!(visit.company_uuid(), scene.concur.company_uuid());
    assert_eq!(visit.user_uuid().unwrap().len(), 36);
    assert_ne!(visit.user_uuid(), Some(visit.company_uuid()));

    let tokens = manager(&scene, visit.credentials(app(&scene)));
    let object = tokens.get_valid_refresh_token().await.unwrap();
    assert_eq!(object.company_uuid(), Some(&*scene.concur.company_uuid()));
    assert!(scene.concur.is_live(object.secret()));
    assert_eq!((scene.concur.count("password"), scene.concur.request_token_uses_left()), (1, 4));
}

#[tokio::test]
async fn the_grant_by_itself_is_for_a_manager_that_knows_the_app_only() {
    let scene = Scene::new().await;
    let url = scene.concur.app_center_redirect("https://app.example.com/connect");
    // As a server sees it.
    let visit = AppCenterRedirect::from_url(url.strip_prefix("https://app.example.com").unwrap()).unwrap();
    let tokens = manager(&scene, app(&scene));
    let object = tokens.sign_in(visit.grant()).await.unwrap();
    assert_eq!(object.company_uuid(), Some(&*scene.concur.company_uuid()));
    assert_eq!(scene.concur.token_requests(), 1);
}

#[tokio::test]
async fn a_made_up_visit_gets_no_tokens() {
    let scene = Scene::new().await;
    let url = format!("{PAGE}&id={}&requestToken=at-made-up", scene.concur.company_uuid());
    let visit = AppCenterRedirect::from_url(&url).unwrap();
    assert_eq!(visit.user_uuid(), None);
    let tokens = manager(&scene, visit.credentials(app(&scene)));
    let error = tokens.get_valid_refresh_token().await.unwrap_err();
    assert_eq!((error.kind(), error.code().unwrap().number()), (ErrorKind::ReauthorizationRequired, 5));
    assert_eq!(scene.concur.token_requests(), 1);
}

#[test]
fn what_the_redirect_lacks_is_named() {
    for (query, message) in [
        ("", "lacks the parameter id"),
        ("?requestToken=at-1", "lacks the parameter id"),
        ("?id=+&requestToken=at-1", "lacks the parameter id"),
        ("?id=company", "lacks the parameter requestToken"),
        ("?id=company&id=other&requestToken=at-1", "has the parameter id more than once"),
        ("?id=company&requestToken=at-1&userId=a&userId=b", "has the parameter userId more than once"),
    ] {
        let error =
            AppCenterRedirect::from_url(&format!("https://app.example.com/connect{query}")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Protocol);
        assert_eq!(
            error.to_string(),
            format!("the URL that the App Center sent the browser to {message}; let the user start again")
        );
    }
}

#[test]
fn the_request_token_is_not_shown() {
    let visit = AppCenterRedirect::from_url("/?id=company&requestToken=s3cr3t").unwrap();
    assert_eq!(format!("{visit:?}"), r#"AppCenterRedirect { company_uuid: None, user_uuid: None, .. }"#);
}
