//! A user signs in with a browser: the browser is sent to Concur's page with an unpredictable state, its return is
//! accepted only with that state, and the code is exchanged at the landing zone.

#![cfg(feature = "simulator")]

mod support;

use std::collections::{HashMap, HashSet};

use concur_auth::{
    AuthorizationRequest, Credentials, ErrorKind, Geolocation, MemoryStore, OAuthClient, TokenManager,
    reqwest::{Client, redirect},
    simulator::{ConcurSimulator, Fault},
};
use support::Scene;

const BACK: &str = "https://app.example.com/back?tenant=1";

fn request_at(base: &str, app_id: &str) -> AuthorizationRequest {
    let base: Geolocation = base.parse().unwrap();
    AuthorizationRequest::new(&base, app_id, BACK, "openid user.read").unwrap()
}

fn request(concur: &ConcurSimulator) -> AuthorizationRequest {
    request_at(&concur.base_uri(), concur.app().id())
}

/// What the app's server sees when the browser comes back.
async fn browse(request: &AuthorizationRequest) -> String {
    let browser = Client::builder().redirect(redirect::Policy::none()).build().unwrap();
    let answer = browser.get(request.authorize_url()).send().await.unwrap();
    answer.headers()["location"].to_str().unwrap().to_owned()
}

fn user_manager(concur: &ConcurSimulator) -> TokenManager {
    let app = Credentials::new(concur.app().id(), concur.app().secret()).base_uri(concur.base_uri());
    TokenManager::builder().credentials(app).store(MemoryStore::new()).build().unwrap()
}

#[test]
fn the_browser_is_sent_to_the_www_host_with_what_sap_asks_for() {
    let request = request_at("https://glz.api.concursolutions.com", "the app");
    let url = request.authorize_url();
    assert_eq!(
        url.as_str(),
        format!(
            "https://www-glz.api.concursolutions.com/oauth2/v0/authorize?client_id=the+app&redirect_uri=\
             https%3A%2F%2Fapp.example.com%2Fback%3Ftenant%3D1&scope=openid+user.read&response_type=code&state={}",
            request.state()
        )
    );
}

#[test]
fn every_state_is_different_and_long() {
    let states: HashSet<_> =
        (0..100).map(|_| request_at("http://127.0.0.1:9", "app").state().to_owned()).collect();
    assert_eq!(states.len(), 100);
    assert!(states.iter().all(|state| state.len() == 64 && state.bytes().all(|b| b.is_ascii_hexdigit())));
}

#[test]
fn debug_shows_no_secret() {
    let request = request_at("http://127.0.0.1:9", "app");
    assert_eq!(
        format!("{request:?}"),
        r#"AuthorizationRequest { base: Geolocation("http://127.0.0.1:9/"), redirect_uri: "https://app.example.com/back?tenant=1", .. }"#
    );
    let returned = request.returned(&format!("/?code=s3cr3t&state={}", request.state())).unwrap();
    assert_eq!(
        format!("{returned:?}"),
        "AuthorizationReturn { grant: Grant(authorization_code), geolocation: None }"
    );
}

#[test]
fn a_redirect_uri_has_to_be_a_url() {
    let base: Geolocation = "http://127.0.0.1:9".parse().unwrap();
    let error = AuthorizationRequest::new(&base, "app", "/back", "openid").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert_eq!(
        error.to_string(),
        "the redirect URI is not a URL; write it like https://app.example.com/back"
    );
}

#[tokio::test]
async fn a_user_who_agrees_is_signed_in() {
    let scene = Scene::new().await;
    let (user, eu) = (scene.concur.add_user(), scene.concur.add_data_centre().await);
    scene.concur.move_principal(user.uuid(), &eu);
    scene.concur.consent_as(&user);

    let request = request(&scene.concur);
    let returned = request.returned(&browse(&request).await).unwrap();
    assert_eq!(returned.geolocation().unwrap().as_str(), format!("{eu}/"));

    let tokens = user_manager(&scene.concur);
    let object = tokens.sign_in(returned.grant()).await.unwrap();
    assert!(scene.concur.is_live(object.secret()));
    let exchange = scene.concur.requests().pop().unwrap();
    assert_eq!(exchange.base_uri(), scene.concur.base_uri(), "at the landing zone");
    let fields: HashMap<_, _> =
        concur_auth::url::form_urlencoded::parse(exchange.body().as_bytes()).into_owned().collect();
    assert_eq!(
        (fields["grant_type"].as_str(), fields["redirect_uri"].as_str()),
        ("authorization_code", BACK)
    );
    assert_eq!(fields.len(), 5);

    let status = tokens.status().to_string();
    assert!(status.starts_with(&format!("principal {}: refresh token obtained, ", user.uuid())), "{status}");

    // From then on at the user's geolocation, without anybody knowing how it began.
    tokens.refresh().await.unwrap();
    assert_eq!(scene.concur.requests().pop().unwrap().base_uri(), eu);
    assert_eq!((scene.concur.count("authorization_code"), scene.concur.token_requests()), (1, 2));
}

/// Where several processes serve one site, the state comes from the user's session.
#[tokio::test]
async fn another_process_with_the_state_can_complete_the_sign_in() {
    let scene = Scene::new().await;
    scene.concur.consent_as(&scene.concur.add_user());
    let sent = request(&scene.concur);
    let url = browse(&sent).await;
    let elsewhere = request(&scene.concur);
    assert!(elsewhere.returned(&url).is_err());
    elsewhere.with_state(sent.state()).returned(&url).unwrap();
}

#[tokio::test]
async fn a_user_who_does_not_agree_is_reported() {
    let scene = Scene::new().await;
    scene.concur.deny_consent(59);
    let request = request(&scene.concur);
    let error = request.returned(&browse(&request).await).unwrap_err();
    assert_eq!((error.kind(), error.code().unwrap().number()), (ErrorKind::Refused, 59));
    assert_eq!(
        error.to_string(),
        "the user was not signed in: client disabled; ask SAP Concur to enable the app (code 59)"
    );
}

#[test]
fn a_strangers_text_is_not_shown() {
    let request = request_at("http://127.0.0.1:9", "app");
    let state = request.state();
    for (query, message) in [
        (
            "error_code=12&error_description=Access%20%3Cb%3Edenied%3C%2Fb%3E%0A%1B[31m".to_owned(),
            "the user was not signed in: logon denied; ask the company's Concur administrator to allow it (code 12)",
        ),
        (
            "error_code=999".to_owned(),
            "the user was not signed in: a reason that SAP's documentation does not list; let the user try once more \
             (code 999)",
        ),
        (
            "error_code=access_denied".to_owned(),
            "the user was not signed in: a reason that SAP's documentation does not list; let the user try once more",
        ),
        (
            format!("error_description={state}&code=c&state={state}"),
            "the user was not signed in: a reason that SAP's documentation does not list; let the user try once more",
        ),
    ] {
        let error = request.returned(&format!("/back?{query}")).unwrap_err();
        assert_eq!((error.kind(), error.to_string().as_str()), (ErrorKind::Refused, message));
    }
}

#[test]
fn a_return_that_does_not_prove_the_users_own_browser_is_refused() {
    let request = request_at("https://glz.api.concursolutions.com", "app");
    let state = request.state();
    let other = state.replace(|c| c != '0', "0");
    const ORIGIN: &str = "the URL that the browser came back with";
    for (query, kind, message) in [
        (
            format!("code=c&state={other}"),
            ErrorKind::Protocol,
            format!("{ORIGIN} has another state than the authorization request; let the user start again"),
        ),
        (
            "code=c".to_owned(),
            ErrorKind::Protocol,
            format!("{ORIGIN} lacks the parameter state; let the user start again"),
        ),
        (
            "code=c&state=".to_owned(),
            ErrorKind::Protocol,
            format!("{ORIGIN} lacks the parameter state; let the user start again"),
        ),
        (
            format!("code=c&state={other}&state={state}"),
            ErrorKind::Protocol,
            format!("{ORIGIN} has the parameter state more than once; let the user start again"),
        ),
        (
            format!("code=c&code=d&state={state}"),
            ErrorKind::Protocol,
            format!("{ORIGIN} has the parameter code more than once; let the user start again"),
        ),
        (
            format!("state={state}"),
            ErrorKind::Protocol,
            format!("{ORIGIN} lacks the parameter code; let the user start again"),
        ),
        (
            format!("code=c&state={state}&geolocation=https://us.api.concursolutions.com.example.net"),
            ErrorKind::Untrusted,
            "refused to send secrets to a host that is not Concur's (the geolocation that the browser \
             brought); Concur's hosts are https, below concursolutions.com or concurcdc.cn, without a port (a host of your \
             own must be named with TokenManagerBuilder::trust_host)"
                .to_owned(),
        ),
    ] {
        let error = request.returned(&format!("https://app.example.com/back?tenant=1&{query}")).unwrap_err();
        assert_eq!((error.kind(), error.to_string()), (kind, message));
    }
}

#[tokio::test]
async fn a_code_that_was_used_is_refused_and_never_sent_twice_by_itself() {
    let scene = Scene::new().await;
    scene.concur.consent_as(&scene.concur.add_user());
    let request = request(&scene.concur);
    let grant = request.returned(&browse(&request).await).unwrap().grant();
    let base: Geolocation = scene.concur.base_uri().parse().unwrap();
    let (client, app) = (OAuthClient::new(), scene.concur.credentials());

    scene.concur.fault_next(1, Fault::DropReply);
    let lost = client.request_token(&base, &app, &grant).await.unwrap_err();
    assert_eq!(lost.kind(), ErrorKind::Unavailable);
    assert_eq!(scene.concur.token_requests(), 1);

    let error = client.request_token(&base, &app, &grant).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "Concur refused the authorization_code grant at 127.0.0.1: code bad or expired; let the user sign in once \
             more, which gives a new code (code 103, correlation id {})",
            error.correlation_id().unwrap()
        )
    );
}
