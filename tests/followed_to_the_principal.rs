//! Followed to where the principal lives: code 16 and the redirects of implementation sites, to trusted hosts only.

#![cfg(feature = "simulator")]

mod support;

use concur_auth::{ErrorKind, Grant, OAuthClient, simulator::Fault};
use support::{HOUR, Scene};

/// The base URIs that /token requests came to, in order.
fn asked(scene: &Scene) -> Vec<String> {
    scene.concur.requests().iter().map(|request| request.base_uri().to_owned()).collect()
}

#[tokio::test]
async fn the_geolocation_of_the_last_reply_is_where_the_next_renewal_goes() {
    let scene = Scene::new().await;
    let (glz, eu, us) =
        (scene.concur.base_uri(), scene.concur.add_data_centre().await, scene.concur.add_data_centre().await);
    scene.concur.move_principal(&scene.concur.company_uuid(), &eu);
    let tokens = scene.manager();
    let access = tokens.access_token().await.unwrap();
    assert_eq!(access.geolocation().as_str(), format!("{eu}/"));
    scene.clock.advance(HOUR);
    tokens.access_token().await.unwrap();
    assert_eq!(asked(&scene), [&*glz, &*eu]);

    // The principal moves: the old data centre names the new one, and from then on gets no request.
    scene.concur.move_principal(&scene.concur.company_uuid(), &us);
    scene.clock.advance(HOUR);
    let moved = tokens.access_token().await.unwrap();
    assert_eq!(moved.geolocation().as_str(), format!("{us}/"));
    scene.clock.advance(HOUR);
    scene.manager().access_token().await.unwrap();
    assert_eq!(asked(&scene), [&*glz, &*eu, &*eu, &*us, &*us]);
    assert_eq!(scene.concur.count("password"), 1);
}

#[tokio::test]
async fn an_implementation_site_redirects_with_method_and_body() {
    for status in [307, 308] {
        let scene = Scene::new().await;
        let production = scene.concur.base_uri();
        let site = scene.concur.add_implementation_site(status, &production).await;
        let tokens = scene.builder().base_uri(&site).build().unwrap();
        tokens.get_valid_refresh_token().await.unwrap();
        let requests = scene.concur.requests();
        assert_eq!(asked(&scene), [site, production], "{status}");
        assert_eq!(requests[0].body(), requests[1].body());
        assert_eq!(requests[1].method(), "POST");
        assert_eq!(scene.concur.request_token_uses_left(), 4);
    }
}

#[tokio::test]
async fn another_redirect_is_an_error_and_gets_nothing() {
    let elsewhere = Scene::new().await;
    let target = |path: &str| format!("{}{path}", elsewhere.concur.base_uri());
    for (status, location) in [
        (301, target("/oauth2/v0/token")),
        (302, target("/oauth2/v0/token")),
        (303, target("/oauth2/v0/token")),
        (307, target("/login")),
        (307, target("/oauth2/v0/token?a=b")),
        (308, String::new()),
    ] {
        let scene = Scene::new().await;
        scene.concur.set_fault(Fault::status(status).header("location", &location));
        let error = scene.manager().get_valid_refresh_token().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Protocol, "{status} to {location}");
        assert_eq!(
            error.to_string(),
            format!(
                "127.0.0.1 answered with a redirect, which is not followed; check the base URI (correlation id {})",
                error.correlation_id().unwrap()
            )
        );
        assert_eq!(scene.concur.token_requests(), 1);
    }
    assert!(elsewhere.concur.requests().is_empty());
}

#[tokio::test]
async fn no_request_follows_to_a_host_that_is_not_concurs() {
    const ADVICE: &str = "Concur's hosts are https, below concursolutions.com or concurcdc.cn, without a port (a host of \
                          your own must be named with TokenManagerBuilder::trust_host)";
    for (fault, origin, code) in [
        (
            Fault::code(16)
                .body(r#"{"code": 16, "error": "invalid_request", "geolocation": "https://example.net"}"#),
            "where Concur's code 16 says that the principal lives",
            "code 16, ",
        ),
        (
            Fault::status(307).header("location", "https://example.net/oauth2/v0/token"),
            "where 127.0.0.1 redirects to",
            "",
        ),
    ] {
        let scene = Scene::new().await;
        scene.concur.set_fault(fault);
        let error = scene.manager().get_valid_refresh_token().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Untrusted);
        let id = error.correlation_id().unwrap();
        assert_eq!(
            error.to_string(),
            format!(
                "refused to send secrets to a host that is not Concur's ({origin}); {ADVICE} ({code}correlation id {id})"
            )
        );
        assert_eq!(scene.concur.token_requests(), 1);
    }
}

#[tokio::test]
async fn a_request_that_is_sent_in_circles_stops() {
    // To itself.
    let scene = Scene::new().await;
    let itself = format!(r#"{{"code": 16, "geolocation": "{}"}}"#, scene.concur.base_uri());
    scene.concur.set_fault(Fault::code(16).body(itself));
    let error = scene.manager().get_valid_refresh_token().await.unwrap_err();
    assert_eq!(scene.concur.token_requests(), 1);
    assert_eq!(error.kind(), ErrorKind::Protocol);
    assert_eq!(
        error.to_string(),
        format!(
            "127.0.0.1 does not say where the principal lives: its answers lead back to itself, or in circles; tell SAP \
             Concur's support, with the correlation id (code 16, correlation id {})",
            error.correlation_id().unwrap()
        )
    );

    // From site to site.
    let scene = Scene::new().await;
    let mut to = scene.concur.base_uri();
    for _ in 0..4 {
        to = scene.concur.add_implementation_site(307, &to).await;
    }
    let tokens = scene.builder().base_uri(&to).build().unwrap();
    assert_eq!(tokens.get_valid_refresh_token().await.unwrap_err().kind(), ErrorKind::Protocol);
    assert_eq!(scene.concur.requests().len(), 4);
}

/// Code 16 without a place is a refusal like any other.
#[tokio::test]
async fn code_16_without_a_geolocation_is_an_error() {
    let scene = Scene::new().await;
    scene.concur.set_fault(Fault::code(16));
    let error = scene.manager().get_valid_refresh_token().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused);
    assert!(
        error.to_string().starts_with(
            "Concur refused the password grant at 127.0.0.1: the user lives in another data centre; use the base URI of \
             that data centre (code 16, correlation id "
        ),
        "{error}"
    );
}

#[tokio::test]
async fn a_request_carries_the_callers_correlation_id() {
    let scene = Scene::new().await;
    let base = scene.concur.base_uri().parse().unwrap();
    let (client, credentials) = (OAuthClient::new(), scene.concur.credentials());
    let grant = Grant::refresh_token("never issued").with_correlation_id("my-own-id");
    client.request_token(&base, &credentials, &grant).await.unwrap_err();
    assert_eq!(scene.concur.requests()[0].header("concur-correlationid"), Some("my-own-id"));
    scene.concur.fault_next(1, Fault::DropConnection);
    let lost = client.request_token(&base, &credentials, &grant).await.unwrap_err();
    assert_eq!(lost.correlation_id(), Some("my-own-id"));

    let grant = Grant::refresh_token("never issued").with_correlation_id("my\nid");
    let error = client.request_token(&base, &credentials, &grant).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert_eq!(
        error.to_string(),
        "the grant's correlation id does not fit into an HTTP header; use visible ASCII"
    );
    assert_eq!(scene.concur.token_requests(), 2);
}

/// Where the reply does not say it again.
#[tokio::test]
async fn the_geolocation_of_code_16_is_remembered() {
    let scene = Scene::new().await;
    let eu = scene.concur.add_data_centre().await;
    scene.write_token(&scene.concur.token_json());
    scene.concur.move_principal(&scene.concur.company_uuid(), &eu);
    scene.concur.set_reply_member("geolocation", None);
    for _ in 0..2 {
        let access = scene.manager().access_token().await.unwrap();
        assert_eq!(access.geolocation().as_str(), format!("{eu}/"));
        scene.clock.advance(HOUR);
    }
    assert_eq!(asked(&scene), [&*scene.concur.base_uri(), &*eu, &*eu]);
}
