//! What a program's own tests need: endpoints, faults of one company, limits, fixed ids, a store that fails.

use std::{net::TcpListener, time::Duration};

use concur_auth::{
    Clock as _, Credentials, ErrorKind, Grant, JsonFileStore, MemoryStore, OAuthClient, SystemClock,
    TokenManager, TokenStore as _,
    reqwest::{Client, StatusCode},
    simulator::{ConcurSimulator, Fault, FlakyStore, ManualClock, Rotation, StoreCall},
};

fn manager(concur: &ConcurSimulator) -> TokenManager {
    TokenManager::builder().credentials(concur.credentials()).store(MemoryStore::new()).build().unwrap()
}

async fn get(concur: &ConcurSimulator, path: &str, bearer: Option<&str>) -> (StatusCode, String) {
    let mut request = Client::new().get(format!("{}{path}", concur.base_uri()));
    if let Some(bearer) = bearer {
        request = request.bearer_auth(bearer);
    }
    let reply = request.send().await.unwrap();
    (reply.status(), reply.text().await.unwrap())
}

#[tokio::test]
async fn a_mounted_endpoint_checks_the_bearer() {
    let concur = ConcurSimulator::start().await;
    assert_eq!(get(&concur, "/expense/v4/reports", None).await.0, 404);
    concur.mount("get", "/expense/v4/reports/", r#"{"items": [1]}"#);
    let access = manager(&concur).access_token().await.unwrap();
    assert!(concur.is_live_access(access.secret()) && !concur.is_live_access("another"));
    let expected = (StatusCode::OK, r#"{"items":[1]}"#.to_owned());
    for path in ["/expense/v4/reports", "/expense/v4/reports/?limit=5"] {
        assert_eq!(get(&concur, path, Some(access.secret())).await, expected, "{path}");
    }
    assert_eq!(get(&concur, "/expense/v4/reports", Some("another")).await.0, 401);
    assert_eq!(get(&concur, "/expense/v4/reports", None).await.0, 401);
    // In place of the one that is always there.
    concur.mount("GET", "/profile/identity/v4/Users", "[]");
    assert_eq!(get(&concur, "/profile/identity/v4/Users", Some(access.secret())).await.1, "[]");
    let request = concur.requests().pop().unwrap();
    assert_eq!((request.principal(), request.status()), (Some(&*concur.company_uuid()), Some(200)));
    concur.expire_access_tokens();
    assert!(!concur.is_live_access(access.secret()));
    assert_eq!(get(&concur, "/expense/v4/reports", Some(access.secret())).await.0, 401);
}

#[tokio::test]
async fn api_calls_have_faults_of_their_own() {
    let concur = ConcurSimulator::start().await;
    let tokens = manager(&concur);
    concur.fault_api(1, Fault::status(429).retry_after("7"));
    concur.fault_api(1, Fault::DropConnection);
    let access = tokens.access_token().await.unwrap();
    let users = "/profile/identity/v4/Users";
    assert_eq!(get(&concur, users, Some(access.secret())).await.0, 429);
    let url = format!("{}{users}", concur.base_uri());
    assert!(Client::new().get(&url).send().await.is_err());
    assert_eq!(get(&concur, users, Some(access.secret())).await.0, 200);
    // Once refused although it is live: `send` takes another token.
    concur.fault_api(1, Fault::status(401));
    assert_eq!(tokens.send(|_| Client::new().get(&url)).await.unwrap().status(), 200);
    assert_eq!(concur.token_requests(), 2);
    concur.fault_api(9, Fault::status(500));
    concur.clear_faults();
    assert_eq!(get(&concur, users, Some(access.secret())).await.0, 200);
}

#[tokio::test]
async fn a_fault_can_be_for_one_company_or_one_grant() {
    let concur = ConcurSimulator::start().await;
    let (one, other) = (concur.add_company(), concur.add_company());
    let (client, base) = (OAuthClient::new(), concur.base_uri().parse().unwrap());
    let app = Credentials::new(concur.app().id(), concur.app().secret());
    let uuid = one.uuid().to_owned();
    concur.fault_where(2, move |request| request.principal() == Some(&uuid), Fault::code(134));
    let sign_in = async |uuid: &str, token: &str| {
        client.request_token(&base, &app, &Grant::company_request_token(uuid, token)).await
    };
    let others = sign_in(other.uuid(), other.request_token()).await.unwrap();
    let error = sign_in(one.uuid(), one.request_token()).await.unwrap_err();
    assert_eq!(error.code().unwrap().number(), 134);
    // Also by its refresh token.
    concur.clear_faults();
    let refresh = sign_in(one.uuid(), one.request_token()).await.unwrap().refresh_token_object().unwrap();
    let uuid = one.uuid().to_owned();
    concur.fault_where(1, move |request| request.principal() == Some(&uuid), Fault::code(134));
    concur.fault_where(1, |request| request.grant_type() == Some("refresh_token"), Fault::code(14));
    let renew = async |secret: &str| {
        let outcome = client.request_token(&base, &app, &Grant::refresh_token(secret)).await;
        outcome.err().map(|e| e.code().unwrap().number())
    };
    let others = others.refresh_token_object().unwrap();
    assert_eq!(renew(others.secret()).await, Some(14));
    assert_eq!(renew(refresh.secret()).await, Some(134));
    assert_eq!(renew(refresh.secret()).await, None);
}

#[tokio::test]
async fn wrong_attempts_in_a_row_lock_an_account() {
    let concur = ConcurSimulator::builder().lock_after(3).start().await;
    let (user, company) = (concur.add_user(), concur.company_uuid());
    let (client, base) = (OAuthClient::new(), concur.base_uri().parse().unwrap());
    let app = concur.credentials();
    let code = async |grant: Grant| {
        client.request_token(&base, &app, &grant).await.err().map_or(0, |e| e.code().unwrap().number())
    };
    let user = |password: &str| Grant::user_password(user.username(), password);
    let right = |concur: &ConcurSimulator| concur.app().request_token().to_owned();
    let password = concur.add_user();
    assert_eq!(code(Grant::user_password(password.username(), password.password())).await, 0);
    for (attempt, expected) in [("wrong", 5), ("wrong", 5), ("wrong", 5), ("wrong", 14)] {
        assert_eq!(code(user(attempt)).await, expected);
    }
    // A right one in between begins the count again.
    for (attempt, expected) in
        [("wrong", 5), ("wrong", 5), (&right(&concur), 0), ("wrong", 5), ("wrong", 5), ("wrong", 5)]
    {
        assert_eq!(code(Grant::company_request_token(&company, attempt)).await, expected, "{attempt}");
    }
    assert_eq!(code(Grant::company_request_token(&company, right(&concur))).await, 14);
    concur.end_refusals();
    assert_eq!(code(Grant::company_request_token(&company, right(&concur))).await, 0);
}

#[tokio::test]
async fn one_request_too_many_in_a_minute_is_told_when_to_come_again() {
    let clock = ManualClock::new(SystemClock.now());
    let concur = ConcurSimulator::builder().clock(clock.clone()).requests_per_minute(2).start().await;
    let url = format!("{}/profile/identity/v4/Users", concur.base_uri());
    let get = async || {
        let reply = Client::new().get(&url).send().await.unwrap();
        let after = reply.headers().get("retry-after").map(|after| after.to_str().unwrap().to_owned());
        (reply.status().as_u16(), after)
    };
    assert_eq!(get().await, (401, None));
    clock.advance(Duration::from_secs(20));
    assert_eq!(get().await, (401, None));
    clock.advance(Duration::from_millis(500));
    assert_eq!(get().await, (429, Some("40".to_owned())));
    clock.advance(Duration::from_millis(39_500));
    assert_eq!((get().await, get().await), ((401, None), (429, Some("20".to_owned()))));
}

#[tokio::test]
async fn port_ids_and_secrets_can_be_the_same_at_each_start() {
    for _ in 0..2 {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let builder = ConcurSimulator::builder().port(port).rotation(Rotation::Always);
        let builder = builder.app("the app", "its secret").company("uuid", "at-x");
        assert_eq!(format!("{builder:?}"), format!("ConcurSimulatorBuilder {{ port: Some({port}), .. }}"));
        let concur = builder.start().await;
        assert_eq!(concur.base_uri(), format!("http://127.0.0.1:{port}"));
        let json: serde_json::Value = serde_json::from_str(&concur.credentials_json()).unwrap();
        let members = ["appID", "clientSecret", "companyUUID", "companyRequestToken"];
        assert_eq!(members.map(|name| &json[name]), ["the app", "its secret", "uuid", "at-x"]);
        manager(&concur).access_token().await.unwrap();
        assert_eq!(concur.request_token_uses_left(), 4);
    }
}

#[tokio::test]
async fn a_flaky_store_fails_as_often_as_it_is_told() {
    let concur = ConcurSimulator::start().await;
    // Its clones are the same store, also where the store below cannot be cloned.
    let dir = tempfile::tempdir().unwrap();
    let store = FlakyStore::new(JsonFileStore::new(dir.path().join("token.json")));
    let tokens =
        TokenManager::builder().credentials(concur.credentials()).store(store.clone()).build().unwrap();
    tokens.access_token().await.unwrap();
    for call in [StoreCall::Lock, StoreCall::Read, StoreCall::Rehearse] {
        store.fail(call);
        let error = tokens.refresh().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Store, "{call:?}: {error}");
        store.recover();
        assert_eq!(concur.token_requests(), 1, "{call:?}");
    }
    // What could not be saved is handed out, and saved later.
    store.fail(StoreCall::Save);
    let token = tokens.refresh().await.unwrap();
    assert!(tokens.status().unsaved);
    store.recover();
    tokens.shutdown(Duration::from_secs(60)).await.unwrap();
    assert_eq!(store.load().await.unwrap().unwrap().secret(), token.secret());
    store.fail_next(1, StoreCall::Remove);
    assert_eq!(tokens.revoke().await.unwrap_err().kind(), ErrorKind::Store);
    tokens.revoke().await.unwrap();
    assert!(store.load().await.unwrap().is_none());
}

#[tokio::test]
async fn a_flaky_store_hands_the_calls_of_few_renewals_on() {
    let dir = tempfile::tempdir().unwrap();
    let store = FlakyStore::new(JsonFileStore::new(dir.path().join("token.json")));
    store.fail_next(1, StoreCall::Lock);
    let error = store.try_lock_ahead_of_time().await.map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Store);
    let lock = store.try_lock_ahead_of_time().await.unwrap().unwrap();
    let error = store.prolong(&lock).await.unwrap_err();
    assert!(error.to_string().contains("cannot be prolonged"), "{error}");
    let token = concur_auth::RefreshTokenObject::from_json(r#"{"refresh_token": "r"}"#).unwrap();
    store.fail_next(1, StoreCall::Save);
    assert_eq!(store.finish(&token, None, &lock).await.unwrap_err().kind(), ErrorKind::Store);
    assert!(store.load().await.unwrap().is_none());
    store.finish(&token, None, &lock).await.unwrap();
    assert_eq!(store.load().await.unwrap().unwrap().secret(), "r");
}
