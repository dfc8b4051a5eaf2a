//! The simulator counts as Concur does, and makes only the faults that a test asks for.
#![cfg(feature = "simulator")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking, its helpers too")]

mod apis;
mod authorize;
mod codes;
mod connections;
mod geolocations;
mod grants;
mod otp;

use std::{
    collections::HashSet,
    net::TcpStream,
    task::{Context, Poll, Waker},
    time::{Duration, SystemTime},
};

use concur_auth::{
    Clock, CredentialSource, CredentialsFile, Error, ErrorKind, Grant, OAuthClient, RefreshTokenObject,
    TokenReply,
    reqwest::{self, Response, header::HeaderMap},
    simulator::{ConcurSimulator, Fault, ManualClock, Rotation, SimulatedApp},
};
use serde_json::{Value, json};
use tokio::task::coop;

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);
const SIX_MONTHS: Duration = Duration::from_secs(182 * 24 * 3600);
/// Thu, 01 Jan 2026 00:00:00 GMT, in Unix seconds.
const START: u64 = 1_767_225_600;

fn start() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(START)
}

/// A simulator by a clock that stands still until the test moves it.
async fn simulator() -> (ConcurSimulator, ManualClock) {
    let clock = ManualClock::new(start());
    (ConcurSimulator::builder().clock(clock.clone()).start().await, clock)
}

async fn send(concur: &ConcurSimulator, client: &OAuthClient, grant: &Grant) -> Result<TokenReply, Error> {
    client.request_token(&concur.base_uri().parse()?, &concur.credentials(), grant).await
}

/// Signs in with the newest company request token.
async fn sign_in(concur: &ConcurSimulator) -> Result<RefreshTokenObject, Error> {
    let token = member(concur, "companyRequestToken");
    sign_in_with(concur, &token).await
}

async fn sign_in_with(concur: &ConcurSimulator, request_token: &str) -> Result<RefreshTokenObject, Error> {
    let grant = Grant::company_request_token(concur.company_uuid(), request_token);
    send(concur, &OAuthClient::new(), &grant).await?.refresh_token_object()
}

async fn refresh(concur: &ConcurSimulator, token: &str) -> Result<RefreshTokenObject, Error> {
    send(concur, &OAuthClient::new(), &Grant::refresh_token(token)).await?.refresh_token_object()
}

fn code(result: Result<RefreshTokenObject, Error>) -> Option<u32> {
    result.expect_err("should have been refused").code().map(|code| code.number())
}

/// A member of the simulator's `credentials.json`.
fn member(concur: &ConcurSimulator, name: &str) -> String {
    text(&parse(&concur.credentials_json()), name)
}

fn parse(json: &str) -> Value {
    serde_json::from_str(json).expect(json)
}

fn text(json: &Value, name: &str) -> String {
    json[name].as_str().expect(name).to_owned()
}

/// The fields of a company's sign-in, to be changed.
fn form(concur: &ConcurSimulator) -> Vec<(&'static str, String)> {
    vec![
        ("client_id", member(concur, "appID")),
        ("client_secret", member(concur, "clientSecret")),
        ("grant_type", "password".to_owned()),
        ("username", concur.company_uuid()),
        ("password", member(concur, "companyRequestToken")),
        ("credtype", "authtoken".to_owned()),
    ]
}

fn encode(form: &[(&str, String)]) -> String {
    concur_auth::url::form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish()
}

async fn post(url: String, content_type: &str, body: String) -> Response {
    let request = reqwest::Client::new().post(url).header("content-type", content_type).body(body);
    request.send().await.unwrap()
}

async fn post_form(concur: &ConcurSimulator, form: &[(&str, String)]) -> Response {
    post(format!("{}/oauth2/v0/token", concur.base_uri()), "application/x-www-form-urlencoded", encode(form))
        .await
}

/// Posts these fields to the token endpoint at `base_uri`.
async fn grant_at(base_uri: &str, form: &[(&str, String)]) -> (u16, Value) {
    let url = format!("{base_uri}/oauth2/v0/token");
    status_and_body(post(url, "application/x-www-form-urlencoded", encode(form)).await).await
}

/// The app's fields, and these.
fn app_form<'a>(app: &SimulatedApp, fields: &[(&'a str, &str)]) -> Vec<(&'a str, String)> {
    let app = [("client_id", app.id().to_owned()), ("client_secret", app.secret().to_owned())];
    app.into_iter().chain(fields.iter().map(|(name, value)| (*name, (*value).to_owned()))).collect()
}

async fn status_and_body(response: Response) -> (u16, Value) {
    (response.status().as_u16(), parse(&response.text().await.unwrap()))
}

async fn users(concur: &ConcurSimulator, path: &str, access_token: &str) -> Response {
    let request = reqwest::Client::new().get(format!("{}{path}", concur.base_uri()));
    request.bearer_auth(access_token).send().await.unwrap()
}

async fn users_status(concur: &ConcurSimulator, access_token: &str) -> u16 {
    users(concur, "/profile/identity/v4/Users", access_token).await.status().as_u16()
}

/// Whether `text` is this many lower-case alphanumerics.
fn is_opaque(text: &str, length: usize) -> bool {
    text.len() == length && text.bytes().all(|byte| byte.is_ascii_digit() || byte.is_ascii_lowercase())
}

// Sign-in.

/// tokio lets a task that has done much wait until it gives way, which a task that drops something does not do. (Where this goes wrong,
/// the test does not end.)
#[tokio::test]
async fn a_simulator_ends_in_a_task_that_has_used_up_its_share() {
    let (concur, _) = simulator().await;
    std::future::poll_fn(|context| {
        while coop::has_budget_remaining() {
            let _ = std::pin::pin!(coop::consume_budget()).poll(context);
        }
        Poll::Ready(())
    })
    .await;
    drop(concur);
}

#[tokio::test]
async fn a_company_signs_in_with_the_credentials() {
    let (concur, _) = simulator().await;
    let stored = sign_in(&concur).await.unwrap();

    assert!(is_opaque(stored.secret(), 30));
    assert!(concur.is_live(stored.secret()));
    assert_eq!(stored.geolocation(), Some(&*concur.base_uri()));
    assert_eq!(concur.request_token_uses_left(), 4);
    assert_eq!(concur.credentials().company_uuid(), Some(&*concur.company_uuid()));
    assert_eq!((concur.token_requests(), concur.count("password"), concur.count("refresh_token")), (1, 1, 0));
}

#[tokio::test]
async fn a_reply_has_the_members_of_saps() {
    let (concur, _) = simulator().await;
    let (status, reply) = status_and_body(post_form(&concur, &form(&concur)).await).await;

    assert_eq!(status, 200);
    let names: Vec<_> = reply.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(
        names,
        [
            "access_token",
            "expires_in",
            "geolocation",
            "id_token",
            "refresh_expires_in",
            "refresh_token",
            "scope",
            "token_type"
        ]
    );
    assert_eq!(reply["token_type"], "Bearer");
    assert_eq!(reply["expires_in"], 3600);
    assert_eq!(reply["refresh_expires_in"], START + SIX_MONTHS.as_secs());
    assert_eq!(reply["geolocation"], concur.base_uri());
    let is_base64url = |part: &str| {
        part.len() > 30 && part.bytes().all(|it| it.is_ascii_alphanumeric() || b"-_".contains(&it))
    };
    for jwt in [text(&reply, "access_token"), text(&reply, "id_token")] {
        let parts: Vec<_> = jwt.split('.').collect();
        assert_eq!(parts.len(), 3);
        assert!(parts.iter().all(|part| is_base64url(part)));
    }
}

#[tokio::test]
async fn the_credentials_json_is_a_credentials_file() {
    let (concur, _) = simulator().await;
    let file = parse(&concur.credentials_json());
    let names: HashSet<_> = file.as_object().unwrap().keys().map(String::as_str).collect();
    let tutorial =
        ["appID", "clientSecret", "grantType", "companyUUID", "companyRequestToken", "credentialType"];
    assert_eq!(names, tutorial.into_iter().chain(["baseURI"]).collect());
    assert_eq!(file["baseURI"], concur.base_uri());

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("credentials.json");
    std::fs::write(&path, concur.credentials_json()).unwrap();
    let credentials = CredentialsFile::new(path).credentials().await.unwrap();
    let grant = Grant::company_request_token(concur.company_uuid(), text(&file, "companyRequestToken"));
    let base = concur.base_uri().parse().unwrap();
    OAuthClient::new().request_token(&base, &credentials, &grant).await.unwrap();
}

#[tokio::test]
async fn the_token_file_is_as_saps_sample_leaves_it() {
    let (concur, _) = simulator().await;
    let json = concur.token_json();

    assert!(json.starts_with('{') && json.ends_with('}') && !json.contains('\n'), "one line");
    let stored = RefreshTokenObject::from_json(&json).unwrap();
    assert_eq!(stored.company_uuid(), Some(&*concur.company_uuid()));
    assert_eq!(stored.geolocation(), Some(&*concur.base_uri()));
    assert_eq!(parse(&json).as_object().unwrap().len(), 9, "the reply's eight members and companyUUID");

    assert_eq!((concur.token_requests(), concur.request_token_uses_left()), (0, 5));
    assert_eq!(users_status(&concur, &text(&parse(&json), "access_token")).await, 200);
    refresh(&concur, stored.secret()).await.unwrap();
}

#[tokio::test]
async fn a_company_request_token_has_five_uses() {
    let (concur, _) = simulator().await;
    for left in (0..5).rev() {
        sign_in(&concur).await.unwrap();
        assert_eq!(concur.request_token_uses_left(), left);
    }
    assert_eq!(code(sign_in(&concur).await), Some(5));
    assert_eq!(concur.request_token_uses_left(), 0);
}

#[tokio::test]
async fn a_company_request_token_lives_24_hours() {
    let (concur, clock) = simulator().await;
    clock.advance(DAY - SECOND);
    sign_in(&concur).await.unwrap();
    clock.advance(SECOND);
    assert_eq!(code(sign_in(&concur).await), Some(5));
    assert_eq!(concur.request_token_uses_left(), 4);
}

#[tokio::test]
async fn a_new_company_request_token_takes_over_and_the_old_one_stays_good() {
    let (concur, _) = simulator().await;
    let old = member(&concur, "companyRequestToken");
    sign_in(&concur).await.unwrap();

    let new = concur.issue_request_token();
    assert!(is_opaque(new.strip_prefix("at-").unwrap(), 28));
    assert_eq!(member(&concur, "companyRequestToken"), new);
    assert_eq!(concur.request_token_uses_left(), 5);

    sign_in_with(&concur, &old).await.unwrap();
    assert_eq!(concur.request_token_uses_left(), 5);
    sign_in_with(&concur, &new).await.unwrap();
    assert_eq!(concur.request_token_uses_left(), 4);
}

// Refusals.

#[tokio::test]
async fn each_wrong_form_has_its_code() {
    let (concur, _) = simulator().await;
    let blank = String::new;
    let is = |value: &str| value.to_owned();
    for (changes, status, code, error) in [
        (vec![("client_id", blank())], 400, 62, "invalid_request"),
        (vec![("client_secret", blank())], 400, 63, "invalid_request"),
        (vec![("grant_type", blank())], 400, 65, "invalid_request"),
        (vec![("username", blank())], 400, 51, "invalid_request"),
        (vec![("password", blank())], 400, 52, "invalid_request"),
        (vec![("client_id", is("other"))], 401, 61, "invalid_client"),
        (vec![("client_secret", is("other"))], 401, 64, "invalid_client"),
        (vec![("username", is("other"))], 400, 5, "invalid_grant"),
        (vec![("password", is("other"))], 400, 5, "invalid_grant"),
        (vec![("credtype", is("password"))], 400, 100, "invalid_request"),
        (vec![("credtype", blank())], 400, 100, "invalid_request"),
        (vec![("credtype", is("other"))], 400, 120, "invalid_request"),
        (vec![("grant_type", is("refresh_token"))], 400, 106, "invalid_request"),
        (
            vec![("grant_type", is("refresh_token")), ("refresh_token", is("other"))],
            400,
            108,
            "invalid_grant",
        ),
        (vec![("grant_type", is("other"))], 400, 60, "invalid_grant"),
    ] {
        let mut form = form(&concur);
        form.retain(|(name, _)| !changes.iter().any(|(changed, _)| changed == name));
        form.extend(changes.clone());
        let (answered, body) = status_and_body(post_form(&concur, &form).await).await;
        assert_eq!(answered, status, "{changes:?}");
        let description = concur_auth::ConcurCode::new(code).meaning();
        let expected = json!({
            "code": code,
            "error": error,
            "error_description": description,
            "geolocation": concur.base_uri(),
        });
        assert_eq!(body, expected, "{changes:?}");

        // Missing altogether is the same as blank.
        form.retain(|(_, value)| !value.is_empty());
        assert_eq!(status_and_body(post_form(&concur, &form).await).await, (status, expected), "{changes:?}");
    }
    assert_eq!(concur.request_token_uses_left(), 5, "none of them spent anything");
}

#[tokio::test]
async fn a_charset_another_type_and_anything_in_the_url_are_rejected() {
    const FORM: &str = "application/x-www-form-urlencoded";
    let (concur, _) = simulator().await;
    for (query, content_type) in [
        ("", "application/x-www-form-urlencoded; charset=utf-8"),
        ("", "application/x-www-form-urlencoded;charset=UTF-8"),
        ("", "application/json"),
        ("?client_id=x", FORM),
        ("?a", FORM),
    ] {
        let url = format!("{}/oauth2/v0/token{query}", concur.base_uri());
        let (status, body) = status_and_body(post(url, content_type, encode(&form(&concur))).await).await;
        assert_eq!((status, &body["code"]), (400, &json!(135)), "{query} {content_type}");
    }
    assert_eq!((concur.request_token_uses_left(), concur.count("password")), (5, 5));
}

#[tokio::test]
async fn everything_else_is_404() {
    let (concur, _) = simulator().await;
    let http = reqwest::Client::new();
    for path in ["/", "/oauth2/v0/token", "/oauth2/v0/otp", "/oauth2/v0/jwks", "/profile/identity/v4/Users/1"]
    {
        let response = http.get(format!("{}{path}", concur.base_uri())).send().await.unwrap();
        assert_eq!(response.status(), 404, "{path}");
    }
    assert_eq!(concur.token_requests(), 0);
}

#[tokio::test]
async fn simulators_do_not_know_each_other() {
    let ((one, _), (other, _)) = (simulator().await, simulator().await);
    assert_ne!(one.base_uri(), other.base_uri());
    let (_, body) = status_and_body(post_form(&one, &form(&other)).await).await;
    assert_eq!(body["code"], 61);
}

// Every reply.

#[tokio::test]
async fn every_reply_has_its_correlation_id_and_the_clocks_date() {
    let (concur, clock) = simulator().await;
    let mut ids = HashSet::new();
    let mut check = |headers: &HeaderMap, date: &str| {
        assert_eq!(headers["date"], date);
        assert!(ids.insert(headers["concur-correlationid"].clone()), "unique");
    };
    let granted = post_form(&concur, &form(&concur)).await;
    check(granted.headers(), "Thu, 01 Jan 2026 00:00:00 GMT");
    clock.advance(HOUR);
    let refused = post_form(&concur, &[]).await;
    check(refused.headers(), "Thu, 01 Jan 2026 01:00:00 GMT");
    clock.rewind(DAY);
    check(
        users(&concur, "/profile/identity/v4/Users", "dead").await.headers(),
        "Wed, 31 Dec 2025 01:00:00 GMT",
    );
    check(users(&concur, "/nowhere", "dead").await.headers(), "Wed, 31 Dec 2025 01:00:00 GMT");
    concur.set_fault(Fault::html(503));
    check(post_form(&concur, &[]).await.headers(), "Wed, 31 Dec 2025 01:00:00 GMT");

    let reported = sign_in(&concur).await.unwrap_err();
    assert!(reported.correlation_id().is_some());
}

#[tokio::test]
async fn a_clock_beyond_every_calendar_is_answered_too() {
    let (concur, clock) = simulator().await;
    for time in [SystemTime::UNIX_EPOCH - DAY, SystemTime::UNIX_EPOCH + DAY * 365 * 9000] {
        clock.set(time);
        concur.issue_request_token();
        assert_eq!(post_form(&concur, &form(&concur)).await.status(), 200);
    }
}

// Refresh tokens.

#[tokio::test]
async fn without_rotation_a_refresh_grant_renews_the_same_token() {
    let (concur, clock) = simulator().await;
    let first = sign_in(&concur).await.unwrap();
    clock.advance(SIX_MONTHS - SECOND);
    let renewed = refresh(&concur, first.secret()).await.unwrap();
    assert_eq!(renewed.secret(), first.secret());
    let expires_at = &parse(&renewed.to_json())["refresh_expires_in"];
    assert_eq!(expires_at, &json!(START + 2 * SIX_MONTHS.as_secs() - 1));

    clock.advance(SIX_MONTHS - SECOND);
    assert!(concur.is_live(first.secret()));
    clock.advance(SECOND);
    assert!(!concur.is_live(first.secret()));
    assert_eq!(code(refresh(&concur, first.secret()).await), Some(108));
}

#[tokio::test]
async fn with_rotation_only_the_newest_token_works() {
    let (concur, _) = simulator().await;
    concur.set_rotation(Rotation::Always);
    let first = sign_in(&concur).await.unwrap();
    let second = refresh(&concur, first.secret()).await.unwrap();
    assert_ne!(first.secret(), second.secret());
    assert!(!concur.is_live(first.secret()) && concur.is_live(second.secret()));

    assert_eq!(code(refresh(&concur, first.secret()).await), Some(108));
    refresh(&concur, second.secret()).await.expect("unharmed by the first one's return");
}

#[tokio::test]
async fn a_rotated_token_that_comes_back_ends_its_family_and_no_other() {
    let concur = ConcurSimulator::builder().rotation(Rotation::AlwaysAndRevokeFamily).start().await;
    let first = sign_in(&concur).await.unwrap();
    let second = refresh(&concur, first.secret()).await.unwrap();
    let third = refresh(&concur, second.secret()).await.unwrap();
    let other_family = sign_in(&concur).await.unwrap();

    assert_eq!(code(refresh(&concur, "never issued").await), Some(108));
    assert!(concur.is_live(third.secret()));
    assert_eq!(code(refresh(&concur, first.secret()).await), Some(108));
    assert!(!concur.is_live(third.secret()));
    assert_eq!(code(refresh(&concur, third.secret()).await), Some(108));
    refresh(&concur, other_family.secret()).await.unwrap();
}

#[tokio::test]
async fn revoking_ends_every_refresh_token() {
    let (concur, _) = simulator().await;
    let tokens = [sign_in(&concur).await.unwrap(), sign_in(&concur).await.unwrap()];
    concur.revoke();
    for token in &tokens {
        assert!(!concur.is_live(token.secret()));
        assert_eq!(code(refresh(&concur, token.secret()).await), Some(108));
    }
    sign_in(&concur).await.expect("a new sign-in works");
}

#[tokio::test]
async fn of_many_at_once_one_gets_the_rotated_token() {
    let (concur, _) = simulator().await;
    concur.set_rotation(Rotation::Always);
    let stored = sign_in(&concur).await.unwrap();
    let client = OAuthClient::new();
    let (base, credentials) = (concur.base_uri().parse().unwrap(), concur.credentials());
    let grant = Grant::refresh_token(stored.secret());
    let flights: Vec<_> = (0..100)
        .map(|_| {
            let (client, base, credentials, grant) =
                (client.clone(), concur_auth::Geolocation::clone(&base), credentials.clone(), grant.clone());
            tokio::spawn(async move { client.request_token(&base, &credentials, &grant).await })
        })
        .collect();
    let mut codes = Vec::new();
    for flight in flights {
        codes.push(flight.await.unwrap().err().map(|e| e.code().unwrap().number()));
    }
    assert_eq!(codes.iter().filter(|code| code.is_none()).count(), 1);
    assert_eq!(codes.iter().filter(|code| **code == Some(108)).count(), 99);
    assert_eq!(concur.count("refresh_token"), 100);
}

// Access tokens.

#[tokio::test]
async fn an_access_token_lives_its_hour() {
    let (concur, clock) = simulator().await;
    let first = text(&parse(&concur.token_json()), "access_token");
    let second = text(&parse(&concur.token_json()), "access_token");
    assert_ne!(first, second);
    clock.advance(HOUR - SECOND);
    for path in ["/profile/identity/v4/Users", "/profile/identity/v4/Users/"] {
        let (status, body) = status_and_body(users(&concur, path, &first).await).await;
        assert_eq!((status, body["Resources"].as_array().unwrap().len()), (200, 1), "{path}");
    }
    clock.advance(SECOND);
    assert_eq!(users_status(&concur, &first).await, 401);
    assert_eq!(users_status(&concur, "never issued").await, 401);
    let unsigned = reqwest::get(format!("{}/profile/identity/v4/Users", concur.base_uri())).await.unwrap();
    assert_eq!(unsigned.status(), 401);
}

#[tokio::test]
async fn access_tokens_can_be_ended_before_their_time() {
    let (concur, _) = simulator().await;
    let json = parse(&concur.token_json());
    concur.expire_access_tokens();
    assert_eq!(users_status(&concur, &text(&json, "access_token")).await, 401);
    assert!(concur.is_live(&text(&json, "refresh_token")));
    assert_eq!(users_status(&concur, &text(&parse(&concur.token_json()), "access_token")).await, 200);
}

// Faults.

#[tokio::test]
async fn faults_in_line_come_before_the_standing_one() {
    let (concur, _) = simulator().await;
    concur.set_fault(Fault::status(500));
    concur.set_fault(Fault::status(503));
    concur.fault_next(2, Fault::code(14));
    concur.fault_next(0, Fault::status(599));
    concur.fault_next(1, Fault::status(429));
    let token = text(&parse(&concur.token_json()), "access_token");
    let mut statuses = Vec::new();
    for _ in 0..5 {
        statuses.push(post_form(&concur, &form(&concur)).await.status().as_u16());
        assert_eq!(users_status(&concur, &token).await, 200, "faults are for /token only");
    }
    assert_eq!(statuses, [400, 400, 429, 503, 503]);
    assert_eq!((concur.count("password"), concur.request_token_uses_left()), (5, 5));

    concur.fault_next(1, Fault::status(429));
    concur.clear_faults();
    assert_eq!(post_form(&concur, &form(&concur)).await.status(), 200);
}

#[tokio::test]
async fn a_reply_in_place_of_the_right_one_is_sent_as_written() {
    let (concur, _) = simulator().await;
    concur.fault_next(1, Fault::status(429).retry_after("7"));
    let error = sign_in(&concur).await.unwrap_err();
    assert_eq!((error.kind(), error.retry_after()), (ErrorKind::Unavailable, Some(Duration::from_secs(7))));

    concur.fault_next(1, Fault::status(200).body("hello"));
    assert_eq!(post_form(&concur, &[]).await.text().await.unwrap(), "hello");

    let elsewhere =
        Fault::status(307).header("Location", "/a").header("location", "/b").header("Date", "never");
    concur.fault_next(1, elsewhere);
    let http = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap();
    let response = http.post(format!("{}/oauth2/v0/token", concur.base_uri())).send().await.unwrap();
    let all: Vec<_> = response.headers().get_all("location").iter().collect();
    assert_eq!(all, ["/b"]);
    assert_eq!(response.headers()["date"], "never");

    concur.fault_next(1, Fault::html(502));
    let response = post_form(&concur, &[]).await;
    assert_eq!(
        (response.status().as_u16(), &response.headers()["content-type"]),
        (502, &"text/html".parse().unwrap())
    );
    assert!(response.text().await.unwrap().starts_with("<!DOCTYPE html>"));
}

#[tokio::test]
async fn a_code_comes_with_its_status_and_name() {
    let (concur, _) = simulator().await;
    for (code, status, error, description) in [
        (5, 400, "invalid_grant", "incorrect credentials"),
        (14, 400, "invalid_grant", "account locked"),
        (16, 400, "invalid_request", "the user lives in another data centre"),
        (54, 400, "invalid_scope", "scope exceeds what was granted"),
        (59, 403, "access_denied", "client disabled"),
        (64, 401, "invalid_client", "incorrect client credentials"),
        (108, 400, "invalid_grant", "bad or expired refresh token"),
        (134, 400, "invalid_request", "company undergoing scheduled maintenance"),
        (999, 400, "invalid_request", ""),
    ] {
        concur.fault_next(1, Fault::code(code));
        let response = post_form(&concur, &[]).await;
        assert_eq!(response.headers()["content-type"], "application/json");
        let body = json!({ "code": code, "error": error, "error_description": description });
        assert_eq!(status_and_body(response).await, (status, body));
    }
}

#[tokio::test]
async fn a_delayed_grant_is_processed_on_arrival_and_blocks_no_other() {
    let (concur, _) = simulator().await;
    concur.fault_next(1, Fault::Delay(24 * HOUR));
    concur.fault_next(1, Fault::Delay(Duration::from_millis(1)));
    let late = tokio::spawn({
        let (url, body) = (format!("{}/oauth2/v0/token", concur.base_uri()), encode(&form(&concur)));
        async move { post(url, "application/x-www-form-urlencoded", body).await }
    });
    while concur.token_requests() == 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(concur.request_token_uses_left(), 4);
    sign_in(&concur).await.expect("a short delay ends with the right reply");
    assert!(!late.is_finished());
    assert_eq!(concur.requests()[0].status(), Some(200));
}

/// Lets other tasks and threads run until there were this many /token requests.
async fn arrived(concur: &ConcurSimulator, requests: usize) {
    while concur.token_requests() < requests {
        tokio::task::yield_now().await;
    }
}

/// Signs in, in the background.
fn signing_in(concur: &ConcurSimulator) -> tokio::task::JoinHandle<Response> {
    let (url, body) = (format!("{}/oauth2/v0/token", concur.base_uri()), encode(&form(concur)));
    tokio::spawn(async move { post(url, "application/x-www-form-urlencoded", body).await })
}

#[tokio::test]
async fn a_held_reply_waits_for_its_release_and_its_grant_does_not() {
    let (concur, _) = simulator().await;
    let held = concur.hold_replies();
    let call = signing_in(&concur);
    arrived(&concur, 1).await;
    assert_eq!((concur.request_token_uses_left(), concur.requests()[0].status()), (4, Some(200)));
    // A reply that is not held has come before somebody else's, asked for later.
    sign_in(&simulator().await.0).await.unwrap();
    assert!(!call.is_finished());
    held.release();
    assert_eq!(call.await.unwrap().status(), 200);

    // Dropping it is as good, and what comes later is not held.
    drop(concur.hold_replies());
    sign_in(&concur).await.unwrap();
}

#[tokio::test]
async fn replies_in_place_of_the_right_one_are_held_as_well() {
    let (concur, _) = simulator().await;
    let closed = tokio::spawn({
        concur.fault_next(1, Fault::DropReply);
        let (client, base, credentials) =
            (OAuthClient::new(), concur.base_uri().parse().unwrap(), concur.credentials());
        let grant =
            Grant::company_request_token(concur.company_uuid(), member(&concur, "companyRequestToken"));
        async move { client.request_token(&base, &credentials, &grant).await }
    });
    let held = concur.hold_replies();
    arrived(&concur, 1).await;
    assert!(!closed.is_finished());
    held.release();
    assert_eq!(closed.await.unwrap().unwrap_err().kind(), ErrorKind::Unavailable);
}

#[tokio::test]
async fn a_revocation_is_held_as_well() {
    let (concur, _) = simulator().await;
    let json = parse(&concur.token_json());
    let held = concur.hold_replies();
    let call = tokio::spawn({
        let url = format!("{}/app-mgmt/v0/connections", concur.base_uri());
        reqwest::Client::new().delete(url).bearer_auth(text(&json, "access_token")).send()
    });
    while concur.requests().is_empty() {
        tokio::task::yield_now().await;
    }
    assert!(!concur.is_live(&text(&json, "refresh_token")), "it is processed on arrival");
    // A reply that is not held has come before somebody else's, asked for later.
    sign_in(&simulator().await.0).await.unwrap();
    assert!(!call.is_finished());
    held.release();
    assert_eq!(call.await.unwrap().unwrap().status(), 200);
}

#[tokio::test]
async fn api_calls_are_not_held() {
    let (concur, _) = simulator().await;
    let token = text(&parse(&concur.token_json()), "access_token");
    let _held = concur.hold_replies();
    assert_eq!(users_status(&concur, &token).await, 200);
}

#[tokio::test]
async fn replies_can_be_let_go_one_by_one() {
    let (concur, _) = simulator().await;
    let mut held = concur.hold_replies();
    let mut calls: Vec<_> = (0..3).map(|_| signing_in(&concur)).collect();
    for round in 1..=3 {
        arrived(&concur, round).await;
        assert_eq!(calls.iter().filter(|call| !call.is_finished()).count(), 4 - round);
        let next = concur.hold_replies();
        held.release();
        while calls.iter().all(|call| !call.is_finished()) {
            tokio::task::yield_now().await;
        }
        calls.retain(|call| !call.is_finished());
        held = next;
    }
    assert!(calls.is_empty());
    drop(held);
}

#[tokio::test]
async fn a_caller_that_is_gone_blocks_no_other_reply() {
    let (concur, _) = simulator().await;
    let held = concur.hold_replies();
    let call = signing_in(&concur);
    arrived(&concur, 1).await;
    call.abort();
    assert!(call.await.unwrap_err().is_cancelled());
    held.release();
    sign_in(&concur).await.unwrap();
    assert_eq!(concur.request_token_uses_left(), 3);
}

#[tokio::test]
async fn a_dropped_simulator_waits_for_no_reply() {
    let (concur, _) = simulator().await;
    let (early, late) = (concur.hold_replies(), concur.hold_replies());
    let call = signing_in(&concur);
    arrived(&concur, 1).await;
    drop(concur);
    // The reply goes, or the connection ends.
    let _ = call.await;
    assert_eq!(format!("{early:?}"), "HeldReplies { .. }");
    drop((early, late));
}

#[tokio::test]
async fn a_dropped_connection_spends_nothing() {
    let (concur, _) = simulator().await;
    let client = OAuthClient::new();
    let grant = Grant::company_request_token(concur.company_uuid(), member(&concur, "companyRequestToken"));
    // First a good one, so that the connection to be dropped is one that has been used.
    send(&concur, &client, &grant).await.unwrap();
    concur.fault_next(1, Fault::DropConnection);
    assert_eq!(send(&concur, &client, &grant).await.unwrap_err().kind(), ErrorKind::Unavailable);
    assert_eq!((concur.request_token_uses_left(), concur.count("password")), (4, 2));
    assert_eq!(concur.requests()[1].status(), None);

    concur.fault_next(1, Fault::DropConnection);
    let url = format!("{}/oauth2/v0/token", concur.base_uri());
    reqwest::Client::new().post(url).send().await.expect_err("not even an error page");
    send(&concur, &client, &grant).await.expect("the next is answered");
}

#[tokio::test]
async fn a_dropped_reply_has_spent_what_was_sent() {
    let (concur, _) = simulator().await;
    concur.set_rotation(Rotation::Always);
    let stored = sign_in(&concur).await.unwrap();
    concur.fault_next(2, Fault::DropReply);

    let error = refresh(&concur, stored.secret()).await.unwrap_err();
    assert_eq!((error.kind(), error.code()), (ErrorKind::Unavailable, None));
    assert!(!concur.is_live(stored.secret()));
    assert_eq!(sign_in(&concur).await.unwrap_err().kind(), ErrorKind::Unavailable);
    assert_eq!(concur.request_token_uses_left(), 3);
    let statuses: Vec<_> = concur.requests().iter().map(|request| request.status()).collect();
    assert_eq!(statuses, [Some(200), None, None]);
}

#[tokio::test]
async fn members_of_a_reply_can_be_odd_or_missing() {
    let (concur, _) = simulator().await;
    concur.set_reply_member("expires_in", Some(r#""3600""#));
    concur.set_reply_member("news", Some("[1, null]"));
    concur.set_reply_member("id_token", None);
    let (_, reply) = status_and_body(post_form(&concur, &form(&concur)).await).await;
    assert_eq!((&reply["expires_in"], &reply["news"]), (&json!("3600"), &json!([1, null])));
    assert_eq!(reply.get("id_token"), None);

    concur.clear_faults();
    let reply = parse(&concur.token_json());
    assert_eq!((&reply["expires_in"], reply.get("news")), (&json!(3600), None));
}

#[test]
#[should_panic(expected = "99 is not the HTTP status of a reply; use 200 to 999")]
fn an_invalid_status_panics_in_the_test_not_in_the_server() {
    drop(Fault::status(99));
}

#[test]
#[should_panic(expected = r#""a b": "c" is not an HTTP header"#)]
fn an_invalid_header_panics_in_the_test_not_in_the_server() {
    drop(Fault::status(503).header("a b", "c"));
}

#[tokio::test]
#[should_panic(expected = "the value for the member scope is not JSON")]
async fn a_member_that_is_not_json_panics_in_the_test_not_in_the_server() {
    simulator().await.0.set_reply_member("scope", Some("no quotes"));
}

// What a test sees.

#[tokio::test]
async fn requests_are_recorded_in_order_and_unchanged() {
    let (concur, _) = simulator().await;
    let body = encode(&form(&concur));
    post(format!("{}/oauth2/v0/token?a=b", concur.base_uri()), "text/plain", body.clone()).await;
    users(&concur, "/profile/identity/v4/Users/", "dead").await;

    let requests = concur.requests();
    assert_eq!(requests.len(), 2);
    let [token, users] = &requests[..] else { unreachable!() };
    assert_eq!((token.method(), token.path(), token.query()), ("POST", "/oauth2/v0/token", Some("a=b")));
    assert_eq!((token.header("Content-TYPE"), token.header("accept-charset")), (Some("text/plain"), None));
    assert_eq!((token.body(), token.grant_type()), (&*body, Some("password")));
    assert_eq!(token.status(), Some(400));
    assert_eq!((users.method(), users.path(), users.query()), ("GET", "/profile/identity/v4/Users/", None));
    assert_eq!((users.header("authorization"), users.body()), (Some("Bearer dead"), ""));
    assert_eq!((users.grant_type(), users.status()), (None, Some(401)));
    assert_eq!((concur.token_requests(), concur.count("password"), concur.count("other")), (1, 1, 0));
}

#[tokio::test]
async fn debug_shows_no_secret() {
    let (concur, _) = simulator().await;
    let url =
        format!("{}/oauth2/v0/token?client_secret={}", concur.base_uri(), member(&concur, "clientSecret"));
    post(url, "application/x-www-form-urlencoded", encode(&form(&concur))).await;
    assert_eq!(
        format!("{concur:?}"),
        format!("ConcurSimulator {{ base_uri: \"{}\", .. }}", concur.base_uri())
    );
    assert_eq!(
        format!("{:?}", concur.requests()),
        "[RecordedRequest { method: \"POST\", path: \"/oauth2/v0/token\", status: Some(400), .. }]"
    );
}

#[tokio::test]
async fn dropping_the_simulator_ends_the_server() {
    let (concur, _) = simulator().await;
    let address = concur.base_uri().strip_prefix("http://").unwrap().to_owned();
    let mut connection = TcpStream::connect(&address).unwrap();
    connection.set_read_timeout(Some(Duration::from_secs(300))).unwrap();
    drop(concur);
    // Not a second connection: by then another server may have taken the port.
    match std::io::Read::read(&mut connection, &mut [0]) {
        Ok(0) => {}
        Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset => {}
        still_there => panic!("{still_there:?}"),
    }
}

#[test]
fn the_simulator_can_be_shared_between_threads() {
    fn shared<T: Send + Sync>() {}
    shared::<ConcurSimulator>();
    shared::<ManualClock>();
}

// The clock.

fn is_ready(sleep: &mut (impl Future<Output = ()> + Unpin)) -> bool {
    std::pin::Pin::new(sleep).poll(&mut Context::from_waker(Waker::noop())) == Poll::Ready(())
}

#[test]
fn a_sleep_ends_when_enough_time_has_passed() {
    let clock = ManualClock::new(start());
    let (mut short, mut long) = (clock.sleep(HOUR), clock.clone().sleep(2 * HOUR));
    assert_eq!(clock.sleepers(), 2);
    clock.advance(HOUR - SECOND);
    assert!(!is_ready(&mut short));
    clock.advance(SECOND);
    assert!(is_ready(&mut short) && !is_ready(&mut long));
    assert_eq!((clock.sleepers(), clock.now()), (1, start() + HOUR));
    drop(long);
    assert_eq!(clock.sleepers(), 0);

    assert!(is_ready(&mut clock.sleep(Duration::ZERO)));
    assert!(!is_ready(&mut clock.sleep(Duration::MAX)));
}

#[tokio::test]
async fn a_task_that_sleeps_is_woken() {
    let clock = ManualClock::new(start());
    let task = tokio::spawn(clock.sleep(HOUR));
    tokio::task::yield_now().await;
    clock.advance(HOUR);
    task.await.unwrap();
}

#[test]
fn a_jump_of_the_time_of_day_ends_no_sleep_and_lengthens_none() {
    let clock = ManualClock::new(start());
    let mut sleep = clock.sleep(HOUR);
    clock.set(start() + DAY);
    assert_eq!((clock.now(), is_ready(&mut sleep)), (start() + DAY, false));
    clock.rewind(2 * DAY);
    assert_eq!(clock.now(), start() - DAY);
    clock.set(clock.now_utc());
    assert_eq!(clock.now(), start() - DAY);
    clock.advance(HOUR);
    assert!(is_ready(&mut sleep));
}

#[test]
fn a_skipping_clock_passes_the_time_of_a_sleep_once_it_is_polled() {
    let clock = ManualClock::skipping(start());
    let (mut awaited, dropped) = (clock.sleep(HOUR), clock.sleep(DAY));
    drop(dropped);
    assert_eq!(clock.now(), start());
    assert!(is_ready(&mut awaited));
    assert_eq!((clock.now(), clock.sleepers()), (start() + HOUR, 0));
}

#[test]
fn the_clock_stops_at_the_end_of_time() {
    let clock = ManualClock::new(start());
    clock.advance(Duration::MAX);
    clock.rewind(Duration::MAX);
    assert_eq!(clock.now(), start());
}
