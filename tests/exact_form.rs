//! What goes over the wire is what SAP documents, and nothing else.

#![cfg(feature = "simulator")]

mod support;

use concur_auth::simulator::{Fault, Rotation};
use concur_auth::{Credentials, ErrorKind, Geolocation, Grant, OAuthClient, TokenManager};
use support::Scene;
use wiremock::{Mock, MockServer, ResponseTemplate, matchers::any};

#[tokio::test]
async fn the_company_request_token_grant() {
    let server = MockServer::start().await;
    let reply = ResponseTemplate::new(200).set_body_string(r#"{"refresh_token": "r"}"#);
    Mock::given(any()).respond_with(reply).mount(&server).await;
    let base: Geolocation = server.uri().parse().unwrap();
    let app = Credentials::new("app & co", "s=cret/ü");
    let grant = Grant::company_request_token("uuid", "at-token");
    OAuthClient::new().request_token(&base, &app, &grant).await.unwrap();

    let request = &server.received_requests().await.unwrap()[0];
    assert_eq!(
        (request.method.as_str(), request.url.path(), request.url.query()),
        ("POST", "/oauth2/v0/token", None)
    );
    assert_eq!(
        String::from_utf8_lossy(&request.body),
        "client_id=app+%26+co&client_secret=s%3Dcret%2F%C3%BC&grant_type=password&username=uuid&password=at-token\
         &credtype=authtoken"
    );
    assert_eq!(request.headers["content-type"], "application/x-www-form-urlencoded");
    assert_eq!(request.headers["content-length"], request.body.len().to_string().as_str());
}

#[tokio::test]
async fn the_refresh_token_grant() {
    let scene = Scene::new().await;
    scene.manager().refresh().await.unwrap();
    scene.manager().refresh().await.unwrap();
    let request = &scene.concur.requests()[1];
    let fields: Vec<_> =
        request.body().split('&').map(|field| field.split('=').next().unwrap().to_owned()).collect();
    assert_eq!(fields, ["client_id", "client_secret", "grant_type", "refresh_token"]);
    assert_eq!(request.query(), None);
}

/// Whatever the server says in its own words stays out: it may echo what was sent.
#[tokio::test]
async fn errors_have_code_and_correlation_id_but_no_words_of_the_server() {
    let server = MockServer::start().await;
    let base: Geolocation = server.uri().parse().unwrap();
    let client = OAuthClient::new();
    let app = Credentials::new("the-app", "the-secret");
    let grant = Grant::company_request_token("uuid", "the-token");
    let long = "x".repeat(300 * 1024);
    for (status, body, id, kind, message) in [
        (
            400,
            r#"{"code": "14", "error": "invalid_grant", "error_description": "the-secret"}"#,
            "00000001-0000-4000-8000-000000000000",
            ErrorKind::Refused,
            "Concur refused the password grant at 127.0.0.1: account locked; ask the company's Concur administrator to \
             unlock it (code 14, correlation id 00000001-0000-4000-8000-000000000000)",
        ),
        (
            400,
            r#"{"code": 61, "error": "invalid_client"}"#,
            "the-secret",
            ErrorKind::Refused,
            "Concur refused the password grant at 127.0.0.1: client not found; check the app's id, secret, grants and \
             scopes on its page (https://www.concursolutions.com/nui/ocstool) (code 61)",
        ),
        (
            403,
            "<html>the-secret</html>",
            "id 3",
            ErrorKind::Protocol,
            "127.0.0.1 answered 403 Forbidden without one of Concur's error codes; check the base URI and any proxy",
        ),
        (
            503,
            "the-secret",
            "00000004-0000-4000-8000-000000000000",
            ErrorKind::Unavailable,
            "127.0.0.1 answered 503 Service Unavailable; try again later (correlation id 00000004-0000-4000-8000-000000000000)",
        ),
        (
            400,
            r#"{"code": 134, "error": "invalid_request"}"#,
            "00000005-0000-4000-8000-000000000000",
            ErrorKind::Unavailable,
            "127.0.0.1: company undergoing scheduled maintenance; try again later (code 134, correlation id 00000005-0000-4000-8000-000000000000)",
        ),
        (
            307,
            "",
            "00000006-0000-4000-8000-000000000000",
            ErrorKind::Protocol,
            "127.0.0.1 answered with a redirect, which is not followed; check the base URI (correlation id 00000006-0000-4000-8000-000000000000)",
        ),
        (
            200,
            "the-secret",
            "00000007-0000-4000-8000-000000000000",
            ErrorKind::Protocol,
            "127.0.0.1 answered with text that is not a JSON object; check the base URI and any proxy (correlation id 00000007-0000-4000-8000-000000000000)",
        ),
        (
            200,
            long.as_str(),
            "00000008-0000-4000-8000-000000000000",
            ErrorKind::Protocol,
            "127.0.0.1 answered with more than 256 KiB; check the base URI and any proxy (correlation id 00000008-0000-4000-8000-000000000000)",
        ),
    ] {
        server.reset().await;
        let reply = ResponseTemplate::new(status)
            .set_body_string(body)
            .insert_header("concur-CORRELATIONID", id)
            .insert_header("location", "https://example.net/");
        Mock::given(any()).respond_with(reply).mount(&server).await;
        let error = client.request_token(&base, &app, &grant).await.unwrap_err();
        assert_eq!((error.kind(), error.to_string().as_str()), (kind, message));
        assert!(!format!("{error:?}").contains("the-secret"), "{error:?}");
    }
}

#[tokio::test]
async fn a_host_that_is_not_concurs_gets_nothing() {
    let error = TokenManager::builder().base_uri("https://concursolutions.example.net").build().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Untrusted);
    assert_eq!(
        error.to_string(),
        "refused to send secrets to https://concursolutions.example.net (given to the builder); Concur's hosts are https, \
         below concursolutions.com or concurcdc.cn, without a port (a host of your own must be named with \
         TokenManagerBuilder::trust_host)"
    );

    for not_a_host in [
        "gateway.example.net:8443",
        "https://gateway.example.net",
        "gateway.example.net/path",
        "*.example.net",
        "*",
        ".example.net",
        "gateway..example.net",
        "gateway.example.net,other.example.net",
        "user@gateway.example.net",
        "",
        " ",
    ] {
        let error = TokenManager::builder().trust_host(not_a_host).build().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        assert_eq!(
            error.to_string(),
            format!(
                "trust_host(\"{not_a_host}\") does not name a host; give one name or IP address, such as \
                 gateway.example.com, without scheme, port, path and wildcard"
            )
        );
    }

    for (named, uri) in [
        ("2001:db8::1", "https://[2001:db8::1]:8443"),
        ("[2001:db8::1]", "https://[2001:db8::1]"),
        ("192.0.2.1", "https://192.0.2.1"),
        ("bücher.example", "https://xn--bcher-kva.example"),
        ("Gateway.Example.net", "https://gateway.example.net"),
    ] {
        TokenManager::builder().trust_host(named).base_uri(uri).build().expect(named);
    }

    let scene = Scene::new().await;
    let credentials =
        scene.concur.credentials_json().replace(&scene.concur.base_uri(), "https://example.net");
    scene.write_credentials(&credentials);
    assert_eq!(scene.manager().get_valid_refresh_token().await.unwrap_err().kind(), ErrorKind::Untrusted);

    // A token file that names another host is refused before the refresh token goes there.
    let scene = Scene::new().await;
    scene.write_token(
        r#"{"refresh_token": "r", "geolocation": "https://us.api.concursolutions.com.example.net"}"#,
    );
    assert_eq!(scene.manager().access_token().await.unwrap_err().kind(), ErrorKind::Untrusted);
    assert_eq!(scene.concur.token_requests(), 0);
}

/// Saved first, reported afterwards: the refresh token itself is good.
#[tokio::test]
async fn a_reply_that_names_another_host_is_saved_and_then_refused() {
    let scene = Scene::new().await;
    scene.concur.set_reply_member("geolocation", Some(r#""https://example.net""#));
    let error = scene.manager().get_valid_refresh_token().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Untrusted);
    assert!(scene.concur.is_live(&scene.stored_refresh_token()));
    assert_eq!(scene.concur.token_requests(), 1);
}

#[tokio::test]
async fn an_unreachable_server_is_reported() {
    let scene = Scene::skipping(Rotation::Never).await;
    let (nobody, _taken) = support::nobody_listens();
    let error =
        scene.builder().base_uri(nobody).build().unwrap().get_valid_refresh_token().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert_eq!(
        error.to_string(),
        "could not connect to 127.0.0.1; check the network, any proxy, and the base URI"
    );

    scene.concur.set_fault(Fault::DropConnection);
    let error = scene.manager().get_valid_refresh_token().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert_eq!(
        error.to_string(),
        "the connection to 127.0.0.1 broke off; the grant may nevertheless have been used, so find out why before you \
         try again"
    );
}

/// What goes to a loopback address goes there, and to no proxy that the environment names.
#[tokio::test]
async fn no_proxy_sees_what_is_sent_over_plain_http() {
    let _alone = support::alone().await;
    let scene = Scene::among_forks(Rotation::Never).await;
    let proxy = MockServer::start().await;
    let mut sends = support::child("sends_one_request");
    for name in ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"] {
        sends.env(name, proxy.uri());
    }
    for name in ["no_proxy", "NO_PROXY"] {
        sends.env_remove(name);
    }
    let process = sends.env("DIR", scene.dir.path()).spawn().unwrap();
    // Waited for on another thread: the servers need this one.
    tokio::task::spawn_blocking(|| support::all_succeed(vec![process])).await.unwrap();
    assert!(proxy.received_requests().await.unwrap().is_empty());
    assert_eq!(scene.concur.token_requests(), 1);
}

#[tokio::test]
#[ignore = "runs as a child process"]
async fn sends_one_request() {
    let tokens = TokenManager::load_from(std::env::var_os("DIR").unwrap()).await.unwrap();
    // The simulated clock shows another time, and an access token just received is valid nevertheless.
    tokens.access_token().await.unwrap();
}
