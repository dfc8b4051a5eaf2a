//! One line for an API call: a valid bearer token, to trusted hosts only, and once more after a 401.

#![cfg(feature = "simulator")]

mod support;

use std::{error::Error as _, net::TcpListener, time::Duration};

use concur_auth::{
    AccessToken, ErrorKind, TokenManager,
    reqwest::{
        self, Client, RequestBuilder, StatusCode,
        header::{AUTHORIZATION, HeaderMap},
    },
    simulator::{Fault, Rotation},
};
use support::{Scene, until};
use wiremock::{Mock, MockServer, ResponseTemplate, matchers};

const MINUTE: Duration = Duration::from_secs(60);

fn users(http: &Client) -> impl Fn(&AccessToken) -> RequestBuilder + use<> {
    let http = http.clone();
    move |access| http.get(format!("{}profile/identity/v4/Users", access.geolocation()))
}

/// The requests that were not for tokens: their bearers, and how they were answered.
fn api_calls(scene: &Scene) -> Vec<(Option<String>, u16)> {
    let requests = scene.concur.requests();
    let calls = requests.iter().filter(|request| request.path().starts_with("/profile"));
    calls.map(|it| (it.header("authorization").map(str::to_owned), it.status().unwrap())).collect()
}

#[tokio::test]
async fn a_call_has_a_valid_bearer_token_and_a_refused_one_is_replaced_once() {
    let scene = Scene::with(Rotation::AlwaysAndRevokeFamily).await;
    let (tokens, http) = (scene.manager(), Client::new());
    let reply = tokens.send(users(&http)).await.unwrap();
    assert_eq!((reply.status(), scene.concur.token_requests()), (StatusCode::OK, 1));
    let first = format!("Bearer {}", tokens.access_token().await.unwrap().secret());
    assert_eq!(api_calls(&scene), [(Some(first.clone()), 200)]);

    scene.concur.expire_access_tokens();
    let reply = tokens.send(users(&http)).await.unwrap();
    assert_eq!((reply.status(), scene.concur.token_requests()), (StatusCode::OK, 2));
    let second = format!("Bearer {}", tokens.access_token().await.unwrap().secret());
    assert_ne!(first, second);
    assert_eq!(api_calls(&scene)[1..], [(Some(first), 401), (Some(second), 200)]);
}

#[tokio::test]
async fn however_many_calls_are_refused_at_once_one_grant_is_sent() {
    let scene = Scene::new().await;
    let (tokens, http) = (scene.manager(), Client::new());
    tokens.access_token().await.unwrap();
    scene.concur.expire_access_tokens();
    let calls: Vec<_> = (0..50)
        .map(|_| {
            let (tokens, users) = (tokens.clone(), users(&http));
            tokio::spawn(async move { tokens.send(users).await.unwrap().status() })
        })
        .collect();
    for call in calls {
        assert_eq!(call.await.unwrap(), StatusCode::OK);
    }
    assert_eq!(scene.concur.token_requests(), 2);
}

/// An API of one's own on loopback, which a simulated Concur's tokens may be sent to.
async fn api(reply: ResponseTemplate) -> MockServer {
    let api = MockServer::start().await;
    Mock::given(matchers::any()).respond_with(reply).mount(&api).await;
    api
}

/// It has a reason of its own, which no token removes: at most two requests a call, and no grant for each of them.
#[tokio::test]
async fn an_api_that_refuses_every_token_is_asked_twice_at_most() {
    let scene = Scene::new().await;
    let (tokens, http) = (scene.manager(), Client::new());
    let api = api(ResponseTemplate::new(401).set_body_string("no licence")).await;
    let mut asked = 0;
    for (requests, grants) in [(2, 2), (1, 2), (1, 2)] {
        let reply = tokens.send(|_| http.post(api.uri()).body("new")).await.unwrap();
        assert_eq!(reply.status(), StatusCode::UNAUTHORIZED);
        assert_eq!(reply.text().await.unwrap(), "no licence");
        asked += requests;
        assert_eq!(api.received_requests().await.unwrap().len(), asked);
        assert_eq!(scene.concur.token_requests(), grants);
    }
    let requests = api.received_requests().await.unwrap();
    assert!(requests.iter().all(|request| request.body == b"new"));
}

/// The client leaves the token out where it is redirected to another host. So a 401 from there says nothing about the token.
#[tokio::test]
async fn a_redirect_to_another_host_costs_no_token() {
    let scene = Scene::new().await;
    let (tokens, http) = (scene.manager(), Client::new());
    let elsewhere = api(ResponseTemplate::new(401)).await;
    let api = api(ResponseTemplate::new(307).insert_header("location", elsewhere.uri())).await;
    let access = tokens.access_token().await.unwrap();
    for calls in 1..4 {
        let reply = tokens.send(|_| http.get(api.uri())).await.unwrap();
        assert_eq!(reply.status(), StatusCode::UNAUTHORIZED);
        let there = elsewhere.received_requests().await.unwrap();
        assert_eq!(there.len(), calls);
        assert!(there.iter().all(|request| !request.headers.contains_key(AUTHORIZATION)));
    }
    assert_eq!(tokens.access_token().await.unwrap().secret(), access.secret());
    assert_eq!(scene.concur.token_requests(), 1);
}

#[tokio::test]
async fn any_other_status_is_the_callers() {
    let scene = Scene::new().await;
    let (tokens, http) = (scene.manager(), Client::new());
    for status in [403, 404, 429, 500, 503] {
        let api = api(ResponseTemplate::new(status)).await;
        let reply = tokens.send(|_| http.get(api.uri())).await.unwrap();
        assert_eq!(reply.status(), status);
        assert_eq!(api.received_requests().await.unwrap().len(), 1);
    }
    assert_eq!(scene.concur.token_requests(), 1);
}

#[tokio::test]
async fn nothing_is_sent_to_a_foreign_host() {
    let scene = Scene::new().await;
    let (tokens, http) = (scene.manager(), Client::new());
    for url in ["https://concur.example/users", "http://us.api.concursolutions.com/"] {
        let error = tokens.send(|_| http.get(url)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Untrusted, "{url}: {error}");
        assert!(error.to_string().contains("(an API call)"), "{error}");
    }
}

#[tokio::test]
async fn what_cannot_be_sent_is_an_error_that_says_so() {
    let scene = Scene::new().await;
    let (tokens, http) = (scene.manager(), Client::new());
    let error = tokens.send(|_| http.get("no URL")).await.unwrap_err();
    assert_eq!(error.to_string(), "the API request cannot be built; see its cause");
    assert_eq!(error.kind(), ErrorKind::Config);
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let closed = format!("http://127.0.0.1:{port}/");
    let error = tokens.send(|_| http.get(&closed)).await.unwrap_err();
    assert_eq!(error.to_string(), "no reply came to an API call; whether Concur has received it is unknown");
    assert!(error.kind() == ErrorKind::Unavailable && error.is_transient());
    assert!(error.source().unwrap().downcast_ref::<reqwest::Error>().unwrap().url().is_none());
}

/// Also where the program has set another one.
#[tokio::test]
async fn there_is_one_authorization_and_it_is_sensitive() {
    let scene = Scene::new().await;
    let (tokens, http) = (scene.manager(), Client::new());
    tokens.send(|access| users(&http)(access).bearer_auth("mine")).await.unwrap();
    let access = tokens.access_token().await.unwrap();
    assert_eq!(api_calls(&scene), [(Some(format!("Bearer {}", access.secret())), 200)]);

    let mut headers = HeaderMap::new();
    headers.insert(AUTHORIZATION, access.authorization());
    assert!(access.authorization().is_sensitive());
    assert_eq!(format!("{headers:?}"), "{\"authorization\": Sensitive}");
}

async fn for_minutes(tokens: &TokenManager, minutes: u32) -> Result<AccessToken, concur_auth::Error> {
    tokens.access_token_for(minutes * MINUTE).await
}

#[tokio::test]
async fn a_token_lasts_as_long_as_was_asked_for() {
    let scene = Scene::new().await;
    let tokens = scene.manager();
    let first = for_minutes(&tokens, 20).await.unwrap();
    scene.clock.advance(35 * MINUTE);
    assert_eq!(for_minutes(&tokens, 20).await.unwrap().secret(), first.secret());
    scene.clock.advance(6 * MINUTE);
    assert_eq!(tokens.access_token().await.unwrap().secret(), first.secret());
    // One request, however many callers ask.
    let callers: Vec<_> = (0..50)
        .map(|_| {
            let tokens = tokens.clone();
            tokio::spawn(async move { for_minutes(&tokens, 20).await.unwrap().secret().to_owned() })
        })
        .collect();
    for caller in callers {
        assert_ne!(caller.await.unwrap(), first.secret());
    }
    assert_eq!(scene.concur.token_requests(), 2);
    // Another process finds it.
    for_minutes(&scene.manager(), 20).await.unwrap();
    assert_eq!(scene.concur.token_requests(), 2);
}

/// No token lives for two hours: a new one counts for a minute.
#[tokio::test]
async fn a_new_token_lasts_as_long_as_any_caller_asks_for() {
    let scene = Scene::new().await;
    let tokens = scene.manager();
    for_minutes(&tokens, 120).await.unwrap();
    scene.clock.advance(MINUTE);
    for_minutes(&tokens, 120).await.unwrap();
    assert_eq!(scene.concur.token_requests(), 1);
    scene.clock.advance(Duration::from_secs(1));
    for_minutes(&tokens, 120).await.unwrap();
    assert_eq!(scene.concur.token_requests(), 2);
}

#[tokio::test]
async fn an_error_names_what_is_left() {
    let scene = Scene::skipping(Rotation::Never).await;
    let tokens = scene.manager();
    let first = tokens.access_token().await.unwrap();
    scene.clock.advance(50 * MINUTE);
    scene.concur.set_fault(Fault::code(61));
    let error = for_minutes(&tokens, 20).await.unwrap_err();
    let left = "[the access token that is held lasts 600 s, not the 1200 s asked for] (code 61";
    assert!(error.kind() == ErrorKind::Refused && error.to_string().contains(left), "{error}");
    assert_eq!(for_minutes(&tokens, 9).await.unwrap().secret(), first.secret());
}

/// While an API refuses every token, the pause holds for these callers, too.
#[tokio::test]
async fn what_was_refused_again_is_not_replaced_before_its_pause_is_over() {
    let scene = Scene::new().await;
    let tokens = scene.manager();
    for _ in 0..2 {
        let access = for_minutes(&tokens, 20).await.unwrap();
        tokens.invalidate(&access);
    }
    assert_eq!(scene.concur.token_requests(), 2);
    for_minutes(&tokens, 20).await.unwrap();
    assert_eq!(scene.concur.token_requests(), 2);
    scene.clock.advance(Duration::from_secs(2));
    for_minutes(&tokens, 20).await.unwrap();
    assert_eq!(scene.concur.token_requests(), 3);
}

/// A caller that goes away does not end the renewal.
#[tokio::test]
async fn a_call_that_is_dropped_loses_no_token() {
    let scene = Scene::with(Rotation::AlwaysAndRevokeFamily).await;
    let (tokens, http) = (scene.manager(), Client::new());
    tokens.access_token().await.unwrap();
    scene.concur.expire_access_tokens();
    let replies = scene.concur.hold_replies();
    let call = tokio::spawn({
        let (tokens, users) = (tokens.clone(), users(&http));
        async move { tokens.send(users).await.map(drop) }
    });
    until(|| scene.concur.token_requests() == 2).await;
    call.abort();
    assert!(call.await.unwrap_err().is_cancelled());
    replies.release();
    assert_eq!(tokens.send(users(&http)).await.unwrap().status(), StatusCode::OK);
    assert_eq!(scene.concur.token_requests(), 2);
    assert!(scene.concur.is_live(&scene.stored_refresh_token()));
}

#[cfg(feature = "tower")]
mod tower_layer {
    use concur_auth::BearerLayer;
    use http::Request;
    use tower::{BoxError, Service, ServiceBuilder, ServiceExt as _, service_fn};

    use super::*;

    /// A client of the crate `http`'s requests, with bodies that can be cloned.
    fn client(
        tokens: &TokenManager,
    ) -> impl Service<
        Request<String>,
        Response = http::Response<reqwest::Body>,
        Error = BoxError,
        Future: Send,
    > + Clone {
        let http = Client::new();
        let send = move |request: Request<String>| {
            let http = http.clone();
            async move {
                let reply = http.execute(request.try_into()?).await?;
                Ok::<_, reqwest::Error>(http::Response::<reqwest::Body>::from(reply))
            }
        };
        ServiceBuilder::new().layer(BearerLayer::new(tokens.clone())).service(service_fn(send))
    }

    #[tokio::test]
    async fn a_layer_does_the_same_for_any_client() {
        let scene = Scene::with(Rotation::AlwaysAndRevokeFamily).await;
        let tokens = scene.manager();
        let client = client(&tokens);
        // A request that names no host goes to the token's.
        let users = || Request::get("/profile/identity/v4/Users?count=2").body(String::new()).unwrap();
        assert_eq!(client.clone().oneshot(users()).await.unwrap().status(), 200);
        scene.concur.expire_access_tokens();
        assert_eq!(client.clone().oneshot(users()).await.unwrap().status(), 200);
        let statuses: Vec<_> = api_calls(&scene).into_iter().map(|(_, status)| status).collect();
        assert_eq!((statuses, scene.concur.token_requests()), (vec![200, 401, 200], 2));

        let foreign = Request::get("https://concur.example/").body(String::new()).unwrap();
        let error = client.clone().oneshot(foreign).await.unwrap_err();
        let error = error.downcast_ref::<concur_auth::Error>().unwrap();
        assert_eq!(error.kind(), ErrorKind::Untrusted);
        let api = api(ResponseTemplate::new(401)).await;
        let elsewhere = Request::post(format!("{}/x", api.uri())).body("new".to_owned()).unwrap();
        assert_eq!(client.oneshot(elsewhere).await.unwrap().status(), 401);
        // Two tokens in a row were refused within a minute: the second one has its pause.
        assert_eq!((api.received_requests().await.unwrap().len(), scene.concur.token_requests()), (1, 2));
    }

    #[tokio::test]
    async fn a_request_whose_uri_is_no_url_is_not_sent() {
        let scene = Scene::new().await;
        let tokens = scene.manager();
        for uri in ["127.0.0.1:80".to_owned(), format!("/{}", "x".repeat(65_530))] {
            let request = Request::get(uri).body(String::new()).unwrap();
            let error = client(&tokens).oneshot(request).await.unwrap_err();
            let error = error.downcast_ref::<concur_auth::Error>().unwrap();
            assert_eq!(error.kind(), ErrorKind::Config);
            assert_eq!(
                error.to_string(),
                "the URI of the API request is no URL; give it scheme and host, or a path alone"
            );
        }
        // Only the one for the token.
        assert_eq!(scene.concur.requests().len(), 1);
    }

    /// reqwest's own client; and a body that can be sent only once.
    #[tokio::test]
    async fn a_request_that_cannot_be_made_again_is_sent_once() {
        let scene = Scene::new().await;
        let tokens = scene.manager();
        let api = api(ResponseTemplate::new(401)).await;
        let client = ServiceBuilder::new().layer(BearerLayer::new(tokens.clone())).service(Client::new());
        for (body, sent) in [(reqwest::Body::from("again"), 2), (once(), 1)] {
            let mut request = reqwest::Request::new(reqwest::Method::POST, api.uri().parse().unwrap());
            *request.body_mut() = Some(body);
            let before = api.received_requests().await.unwrap().len();
            assert_eq!(client.clone().oneshot(request).await.unwrap().status(), 401);
            assert_eq!(api.received_requests().await.unwrap().len(), before + sent);
        }
    }

    fn once() -> reqwest::Body {
        struct Once(Option<bytes::Bytes>);

        impl http_body::Body for Once {
            type Data = bytes::Bytes;
            type Error = std::convert::Infallible;

            fn poll_frame(
                mut self: std::pin::Pin<&mut Self>,
                _: &mut std::task::Context<'_>,
            ) -> std::task::Poll<Option<Result<http_body::Frame<bytes::Bytes>, Self::Error>>> {
                std::task::Poll::Ready(self.0.take().map(|data| Ok(http_body::Frame::data(data))))
            }
        }

        reqwest::Body::wrap(Once(Some(bytes::Bytes::from_static(b"once"))))
    }
}
