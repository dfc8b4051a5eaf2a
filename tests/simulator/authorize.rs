//! A user in a browser lets the app act for them.

use std::collections::HashMap;

use concur_auth::url::Url;

use super::*;

const BACK: &str = "https://app.example.com/back?tenant=1";

/// What an app asks for, to be changed.
fn query(concur: &ConcurSimulator) -> Vec<(&'static str, String)> {
    let client_id = concur.app().id().to_owned();
    let fixed =
        [("redirect_uri", BACK), ("scope", "openid user.read"), ("response_type", "code"), ("state", "a&b")];
    fixed
        .into_iter()
        .map(|(name, value)| (name, value.to_owned()))
        .chain([("client_id", client_id)])
        .collect()
}

async fn browse(base_uri: &str, query: &[(&str, String)]) -> Response {
    let page = Url::parse_with_params(&format!("{base_uri}/oauth2/v0/authorize"), query).unwrap();
    let browser = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap();
    browser.get(page).send().await.unwrap()
}

/// The query that the browser comes back with.
async fn come_back(base_uri: &str, query: &[(&str, String)]) -> HashMap<String, String> {
    let answer = browse(base_uri, query).await;
    assert_eq!(answer.status(), 302);
    let location = answer.headers()["location"].to_str().unwrap();
    assert!(location.starts_with(BACK), "{location}");
    let mut pairs: HashMap<_, _> = Url::parse(location).unwrap().query_pairs().into_owned().collect();
    assert_eq!(pairs.remove("tenant").as_deref(), Some("1"));
    pairs
}

async fn code_for(concur: &ConcurSimulator) -> String {
    concur.consent_as(&concur.add_user());
    come_back(&concur.base_uri(), &query(concur)).await.remove("code").expect("a code")
}

fn code_form<'a>(app: &SimulatedApp, code: &str, redirect_uri: &str) -> Vec<(&'a str, String)> {
    app_form(app, &[("grant_type", "authorization_code"), ("code", code), ("redirect_uri", redirect_uri)])
}

#[tokio::test]
async fn a_user_who_agrees_comes_back_with_a_code_that_is_good_for_tokens() {
    let (concur, _) = simulator().await;
    let (eu, us) = (concur.add_data_centre().await, concur.add_data_centre().await);
    let user = concur.add_user();
    concur.move_principal(user.uuid(), &eu);
    concur.consent_as(&user);

    for (asked_at, exchanged_at) in [(concur.base_uri(), concur.base_uri()), (us.clone(), eu.clone())] {
        let mut back = come_back(&asked_at, &query(&concur)).await;
        let code = back.remove("code").unwrap();
        assert!(is_opaque(&code, 30));
        assert_eq!(back, HashMap::from([("geolocation".into(), eu.clone()), ("state".into(), "a&b".into())]));

        let form = code_form(&concur.app(), &code, BACK);
        let (_, elsewhere) = grant_at(&us, &form).await;
        assert_eq!((&elsewhere["code"], &elsewhere["geolocation"]), (&json!(16), &json!(eu)));
        let (status, reply) = grant_at(&exchanged_at, &form).await;
        assert_eq!((status, reply.as_object().unwrap().len()), (200, 8));
        assert_eq!((&reply["scope"], &reply["geolocation"]), (&json!("openid user.read"), &json!(eu)));
        assert!(concur.is_live(&text(&reply, "refresh_token")));

        assert_eq!(grant_at(&exchanged_at, &form).await.1["code"], 103, "spent");
    }
    assert_eq!((concur.count("authorization_code"), concur.token_requests()), (6, 6));
}

#[tokio::test]
async fn only_the_requested_scopes_are_granted() {
    let (concur, _) = simulator().await;
    concur.consent_as(&concur.add_user());
    for (scope, granted) in [(Some("openid"), "openid"), (None, "openid company.read user.read")] {
        let mut query = query(&concur);
        query.retain(|(name, _)| !["scope", "state"].contains(name));
        query.extend(scope.map(|scope| ("scope", scope.to_owned())));
        let back = come_back(&concur.base_uri(), &query).await;
        assert_eq!(back.len(), 2, "no state where none was given");
        let (_, reply) = grant_at(&concur.base_uri(), &code_form(&concur.app(), &back["code"], BACK)).await;
        assert_eq!(reply["scope"], granted);
    }
}

#[tokio::test]
async fn a_user_who_does_not_agree_comes_back_with_the_code_told() {
    let (concur, _) = simulator().await;
    concur.deny_consent(59);
    let back = come_back(&concur.base_uri(), &query(&concur)).await;
    let expected = [("error_code", "59"), ("error_description", "client disabled"), ("state", "a&b")];
    assert_eq!(back, expected.map(|(name, value)| (name.into(), value.into())).into());
}

#[tokio::test]
async fn a_wrong_request_comes_back_with_its_code() {
    let (concur, _) = simulator().await;
    let user = concur.add_user();
    concur.consent_as(&user);
    let error_code = async |name: &'static str, value: &str| {
        let mut query = query(&concur);
        query.retain(|(kept, _)| *kept != name);
        query.push((name, value.to_owned()));
        come_back(&concur.base_uri(), &query).await.remove("error_code")
    };
    assert_eq!(error_code("scope", "openid receipts.write").await.as_deref(), Some("54"));
    assert_eq!(error_code("response_type", "token").await.as_deref(), Some("135"));
    assert_eq!(error_code("state", "other").await, None);
    concur.refuse_principal(user.uuid(), 123);
    assert_eq!(error_code("state", "other").await.as_deref(), Some("123"));
    concur.refuse_app(concur.app().id(), 59);
    assert_eq!(error_code("state", "other").await.as_deref(), Some("59"));
}

#[tokio::test]
async fn without_app_and_redirect_uri_the_browser_is_sent_nowhere() {
    let (concur, _) = simulator().await;
    concur.consent_as(&concur.add_user());
    for (name, value, status, code) in [
        ("client_id", "", 400, 62),
        ("client_id", "other", 401, 61),
        ("redirect_uri", "", 400, 102),
        ("redirect_uri", "/back", 400, 135),
    ] {
        let mut query = query(&concur);
        query.retain(|(kept, _)| *kept != name);
        query.push((name, value.to_owned()));
        let answer = browse(&concur.base_uri(), &query).await;
        assert!(!answer.headers().contains_key("location"));
        let (answered, body) = status_and_body(answer).await;
        assert_eq!((answered, &body["code"]), (status, &json!(code)), "{name}={value}");
    }
}

#[tokio::test]
async fn without_a_user_at_the_browser_there_is_a_page() {
    let (concur, _) = simulator().await;
    let page = browse(&concur.base_uri(), &query(&concur)).await;
    assert_eq!(
        (page.status().as_u16(), &page.headers()["content-type"]),
        (200, &"text/html".parse().unwrap())
    );
    assert!(page.text().await.unwrap().contains("call ConcurSimulator::consent_as"));
    let [visit] = &concur.requests()[..] else { panic!("one visit") };
    assert_eq!((visit.method(), visit.path(), visit.status()), ("GET", "/oauth2/v0/authorize", Some(200)));
}

#[tokio::test]
async fn each_wrong_use_of_a_code_has_its_own_error() {
    let (concur, clock) = simulator().await;
    let code = code_for(&concur).await;
    let (app, other) = (concur.app(), concur.add_app());
    for (form, refusal, error) in [
        (code_form(&app, "", BACK), 101, "invalid_request"),
        (code_form(&app, &code, ""), 102, "invalid_request"),
        (code_form(&app, "never issued", BACK), 103, "invalid_request"),
        (code_form(&app, &code, "https://app.example.com/back"), 104, "invalid_grant"),
        (code_form(&other, &code, BACK), 105, "invalid_grant"),
    ] {
        let (status, body) = grant_at(&concur.base_uri(), &form).await;
        assert_eq!((status, &body["code"], &body["error"]), (400, &json!(refusal), &json!(error)));
    }
    clock.advance(10 * 60 * SECOND - SECOND);
    assert_eq!(grant_at(&concur.base_uri(), &code_form(&app, &code, BACK)).await.0, 200, "still good");

    let late = code_for(&concur).await;
    clock.advance(10 * 60 * SECOND);
    assert_eq!(grant_at(&concur.base_uri(), &code_form(&app, &late, BACK)).await.1["code"], 103);
}
