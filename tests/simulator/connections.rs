//! A company connects with an app, and the connection ends.

use std::collections::HashMap;

use concur_auth::url::Url;

use super::*;

async fn disconnect(concur: &ConcurSimulator, access_token: &str) -> u16 {
    let request = reqwest::Client::new().delete(format!("{}/app-mgmt/v0/connections", concur.base_uri()));
    request.bearer_auth(access_token).send().await.unwrap().status().as_u16()
}

/// The refresh and the access token of a user that signs in.
async fn user_signs_in(concur: &ConcurSimulator, app: &SimulatedApp) -> (String, String) {
    let user = concur.add_user();
    let fields = [("grant_type", "password"), ("username", user.username()), ("password", user.password())];
    let (_, reply) = grant_at(&concur.base_uri(), &app_form(app, &fields)).await;
    (text(&reply, "refresh_token"), text(&reply, "access_token"))
}

#[tokio::test]
async fn disconnecting_revokes_the_refresh_tokens_of_that_principal_only() {
    let (concur, _) = simulator().await;
    let (first, second) = (parse(&concur.token_json()), parse(&concur.token_json()));
    let (user, _) = user_signs_in(&concur, &concur.app()).await;
    let other = concur.add_app();
    let fields = [
        ("grant_type", "password"),
        ("credtype", "authtoken"),
        ("username", &*concur.company_uuid()),
        ("password", other.request_token()),
    ];
    let (_, elsewhere) = grant_at(&concur.base_uri(), &app_form(&other, &fields)).await;

    let access_token = text(&second, "access_token");
    assert_eq!(disconnect(&concur, &access_token).await, 200);
    for token in [&first, &second] {
        let token = text(token, "refresh_token");
        assert!(!concur.is_live(&token));
        assert_eq!(code(refresh(&concur, &token).await), Some(108));
    }
    assert!(concur.is_live(&user) && concur.is_live(&text(&elsewhere, "refresh_token")));

    assert_eq!(users_status(&concur, &access_token).await, 200, "an access token lives on for its hour");
    assert_eq!(disconnect(&concur, &access_token).await, 200, "there is nothing left to revoke");
    sign_in(&concur).await.expect("the company may connect again");
}

#[tokio::test]
async fn disconnecting_needs_a_live_access_token() {
    let (concur, clock) = simulator().await;
    let stored = parse(&concur.token_json());
    let (refresh_token, access_token) = (text(&stored, "refresh_token"), text(&stored, "access_token"));
    clock.advance(HOUR);
    assert_eq!(disconnect(&concur, &access_token).await, 401);
    assert_eq!(disconnect(&concur, &refresh_token).await, 401);
    let url = format!("{}/app-mgmt/v0/connections", concur.base_uri());
    assert_eq!(reqwest::Client::new().delete(&url).send().await.unwrap().status(), 401);
    assert_eq!(reqwest::get(url).await.unwrap().status(), 404);
    assert!(concur.is_live(&refresh_token));
    let asked: Vec<_> = concur.requests().iter().map(|request| request.method().to_owned()).collect();
    assert_eq!(asked, ["DELETE", "DELETE", "DELETE", "GET"]);
}

#[tokio::test]
async fn disconnecting_may_fail_too() {
    let (concur, _) = simulator().await;
    let stored = parse(&concur.token_json());
    concur.fault_next(1, Fault::status(503));
    concur.fault_next(1, Fault::DropReply);
    assert_eq!(disconnect(&concur, &text(&stored, "access_token")).await, 503);
    assert!(concur.is_live(&text(&stored, "refresh_token")));
    let request = reqwest::Client::new().delete(format!("{}/app-mgmt/v0/connections", concur.base_uri()));
    request.bearer_auth(text(&stored, "access_token")).send().await.unwrap_err();
    assert!(!concur.is_live(&text(&stored, "refresh_token")));
}

#[tokio::test]
async fn the_app_center_redirect_has_all_that_a_sign_in_needs() {
    let (concur, _) = simulator().await;
    let visit = concur.app_center_redirect("https://app.example.com/connect?lang=en");
    assert!(visit.starts_with("https://app.example.com/connect?lang=en&id="), "{visit}");
    let query: HashMap<_, _> = Url::parse(&visit).unwrap().query_pairs().into_owned().collect();
    assert_eq!(query.len(), 4);
    assert_eq!(query["id"], concur.company_uuid());
    assert_eq!((query["userId"].len(), query["userId"] == query["id"]), (36, false));
    assert_eq!(query["requestToken"], concur.app().request_token());

    sign_in_with(&concur, &query["requestToken"]).await.unwrap();
    assert_eq!(concur.request_token_uses_left(), 4);

    let again = Url::parse(&concur.app_center_redirect("https://app.example.com")).unwrap();
    let again: HashMap<_, _> = again.query_pairs().into_owned().collect();
    assert_eq!(again["userId"], query["userId"]);
    assert_ne!(again["requestToken"], query["requestToken"]);
}

#[tokio::test]
#[should_panic(expected = r#"the landing page "nowhere" is not a URL"#)]
async fn a_landing_page_that_is_not_a_url_panics() {
    let _ = simulator().await.0.app_center_redirect("nowhere");
}
