//! Forwards API calls to the principal's data centre, with the bearer token attached.
//!
//! Always: only the geolocation is contacted, and nothing below the paths that sign in, sign out or connect apps. The path goes on
//! as it came, byte for byte.

use std::{
    pin::pin,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use concur_auth::{
    AccessToken, Error, Geolocation, TokenManager,
    reqwest::{self, redirect},
    url::Url,
};
use http_body_util::BodyExt as _;
use hyper::{
    HeaderMap, Method, Request, Response, StatusCode,
    body::Incoming,
    header::{
        AUTHORIZATION, CONNECTION, CONTENT_LENGTH, COOKIE, EXPECT, HOST, HeaderName, PROXY_AUTHENTICATE,
        PROXY_AUTHORIZATION, SET_COOKIE, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
    },
};

use super::{
    body::{Begun, Body, Flowing, IDLE, whole},
    routes::{told, unavailable},
};
use crate::failure::{Failure, Outcome};

/// A request with a body up to this length can be repeated with another token.
const REPEATABLE: u64 = 64 * 1024;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Of paths that were encoded more than once, this many layers are looked through.
const MOST_LAYERS: usize = 4;
/// What is for one connection only (RFC 9110 section 7.6.1).
const HOP_BY_HOP: [HeaderName; 9] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    HeaderName::from_static("proxy-connection"),
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
];
/// What the caller says about another way to this program: some gateways take the path or the host of a request from there.
const OTHER_WAYS: [&str; 9] = [
    "forwarded",
    "x-envoy-",
    "x-forwarded-",
    "x-host",
    "x-http-destinationurl",
    "x-http-host-override",
    "x-original-",
    "x-override-url",
    "x-rewrite-",
];
/// Below these, tokens are granted and revoked, and apps are connected.
const CLOSED: [&str; 2] = ["oauth2", "app-mgmt"];

pub(crate) struct Proxy {
    http: reqwest::Client,
    /// For a simulated Concur: what is on this machine needs no proxy.
    for_loopback: reqwest::Client,
}

impl Proxy {
    pub(crate) fn new() -> Outcome<Self> {
        let settings = || {
            reqwest::Client::builder()
                .redirect(redirect::Policy::none())
                .referer(false)
                .connect_timeout(CONNECT_TIMEOUT)
        };
        let built = |settings: reqwest::ClientBuilder| {
            settings.build().map_err(|e| Failure::Other(format!("could not prepare HTTP: {e}")))
        };
        Ok(Self { http: built(settings())?, for_loopback: built(settings().no_proxy())? })
    }

    pub(crate) async fn forward(
        &self,
        tokens: &TokenManager,
        path: &str,
        request: Request<Incoming>,
    ) -> Response<Body> {
        if let Err((status, message)) = check(path) {
            return told(status, message);
        }
        let (mut parts, body) = request.into_parts();
        without_hops(&mut parts.headers);
        without_other_ways(&mut parts.headers);
        // A client keeps cookies by host, and for the client that is this machine: they may be another service's.
        for name in [AUTHORIZATION, HOST, CONTENT_LENGTH, EXPECT, COOKIE] {
            parts.headers.remove(name);
        }
        let call = Call {
            proxy: self,
            method: parts.method,
            path,
            query: parts.uri.query(),
            headers: parts.headers,
        };
        let sent = match whole(Flowing::new(body), REPEATABLE).await {
            Begun::Whole(body) => {
                let send = |access: &AccessToken| call.request(access).body(body.clone());
                within(None, tokens.send(send)).await
            }
            Begun::Longer(body) => call.streamed(tokens, body).await,
            Begun::Failed => return told(StatusCode::BAD_REQUEST, "the request's body did not arrive"),
        };
        match sent {
            // To a request that this program does not make.
            Ok(response) if response.status().is_informational() => {
                told(StatusCode::BAD_GATEWAY, "the reply to the API call is none")
            }
            Ok(response) => back(response),
            Err(Unanswered::TooLate) => told(StatusCode::GATEWAY_TIMEOUT, "Concur did not answer in time"),
            Err(Unanswered::Error(error)) => unavailable(&error),
            Err(Unanswered::Broken) => told(
                StatusCode::BAD_GATEWAY,
                "no reply came to the API call; whether Concur has received it is unknown",
            ),
        }
    }
}

/// What is the same in each attempt.
struct Call<'a> {
    proxy: &'a Proxy,
    method: Method,
    path: &'a str,
    query: Option<&'a str>,
    headers: HeaderMap,
}

enum Unanswered {
    Error(Error),
    TooLate,
    Broken,
}

impl Call<'_> {
    fn request(&self, access: &AccessToken) -> reqwest::RequestBuilder {
        let url = target(access.geolocation(), self.path, self.query);
        // Plain http is for loopback only.
        let is_local = url.scheme() == "http";
        let http = if is_local { &self.proxy.for_loopback } else { &self.proxy.http };
        http.request(self.method.clone(), url).headers(self.headers.clone())
    }

    /// A body that is not kept cannot be sent again: after a 401 the client makes the call again.
    async fn streamed(
        &self,
        tokens: &TokenManager,
        body: Flowing<Incoming>,
    ) -> Result<reqwest::Response, Unanswered> {
        let access = tokens.access_token().await.map_err(Unanswered::Error)?;
        let parts = body.parts();
        let request = self.request(&access).header(AUTHORIZATION, access.authorization());
        let sent = request.body(reqwest::Body::wrap(body)).send();
        let response = within(Some(parts), async { sent.await.map_err(|_| Unanswered::Broken) }).await?;
        if response.status() == StatusCode::UNAUTHORIZED {
            tokens.invalidate(&access);
        }
        Ok(response)
    }
}

impl From<Error> for Unanswered {
    fn from(error: Error) -> Self {
        let is_of_the_call = error.kind() == concur_auth::ErrorKind::Unavailable
            && std::error::Error::source(&error).is_some_and(|cause| cause.is::<reqwest::Error>());
        if is_of_the_call { Self::Broken } else { Self::Error(error) }
    }
}

/// The reply's head, unless neither it nor another part of the request's body comes for [`IDLE`].
async fn within<T, E: Into<Unanswered>>(
    parts: Option<Arc<std::sync::atomic::AtomicU64>>,
    sent: impl Future<Output = Result<T, E>>,
) -> Result<T, Unanswered> {
    let mut sent = pin!(sent);
    let count = || parts.as_ref().map(|parts| parts.load(Relaxed));
    let mut before = count();
    loop {
        if let Ok(sent) = tokio::time::timeout(IDLE, &mut sent).await {
            return sent.map_err(Into::into);
        }
        let now = count();
        if now == before {
            return Err(Unanswered::TooLate);
        }
        before = now;
    }
}

/// The reply as the client gets it.
fn back(response: reqwest::Response) -> Response<Body> {
    let (mut parts, body) = hyper::Response::<reqwest::Body>::from(response).into_parts();
    without_hops(&mut parts.headers);
    parts.headers.remove(SET_COOKIE);
    Response::from_parts(parts, Flowing::new(body).boxed_unsync())
}

fn without_hops(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok())
        .collect();
    for name in named {
        headers.remove(name);
    }
    for name in HOP_BY_HOP {
        headers.remove(name);
    }
}

fn without_other_ways(headers: &mut HeaderMap) {
    // Some servers take an underscore for a hyphen.
    let plain = |byte: u8| if byte == b'_' { b'-' } else { byte };
    let is_other_way = |name: &&HeaderName| {
        let begins = |way: &&str| name.as_str().bytes().map(plain).take(way.len()).eq(way.bytes());
        OTHER_WAYS.iter().any(begins)
    };
    for name in headers.keys().filter(is_other_way).cloned().collect::<Vec<_>>() {
        headers.remove(name);
    }
}

/// The URL at the data centre. [`check`] has refused all that the URL type would change.
fn target(geolocation: &Geolocation, path: &str, query: Option<&str>) -> Url {
    // A copy of a URL that is parsed already.
    let mut url = geolocation.join("").expect("a geolocation is a URL");
    url.set_path(path);
    url.set_query(query);
    url
}

type Refusal = (StatusCode, &'static str);

/// Whether a path may be forwarded: written as RFC 3986 has it, and, however often it is decoded, without a way up or around, and
/// not below a closed path.
fn check(path: &str) -> Result<(), Refusal> {
    const UNCLEAR: Refusal =
        (StatusCode::FORBIDDEN, "this path is not forwarded: write it without `.`, `..`, `//` and `\\`");
    if !path.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@/%".contains(&byte)) {
        return Err((StatusCode::BAD_REQUEST, "percent-encode the path"));
    }
    let is_hex = |digits: &[u8]| digits.len() == 2 && digits.iter().all(u8::is_ascii_hexdigit);
    if !path.split('%').skip(1).all(|after| after.as_bytes().get(..2).is_some_and(is_hex)) {
        return Err((StatusCode::BAD_REQUEST, "a `%` in the path is not followed by two hexadecimal digits"));
    }
    let mut layer = path.as_bytes().to_vec();
    for _ in 0..MOST_LAYERS {
        if layer.first() == Some(&b'/') || layer.windows(2).any(|pair| pair == b"//") {
            return Err(UNCLEAR);
        }
        // Overlong forms of UTF-8 are a second way to write a slash or a dot.
        if layer.iter().any(|byte| *byte == b'\\' || byte.is_ascii_control())
            || str::from_utf8(&layer).is_err()
        {
            return Err(UNCLEAR);
        }
        let mut names = layer.split(|byte| *byte == b'/').map(|segment| {
            // Some servers take what comes after a semicolon for parameters.
            segment.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii()
        });
        if names.clone().any(|name| name == b"." || name == b"..") {
            return Err(UNCLEAR);
        }
        let first = names.next().unwrap_or_default();
        if CLOSED.iter().any(|closed| first.eq_ignore_ascii_case(closed.as_bytes())) {
            return Err((
                StatusCode::FORBIDDEN,
                "this program signs in and out; APIs below this path are not forwarded",
            ));
        }
        let next = decoded(&layer);
        if next == layer {
            return Ok(());
        }
        layer = next;
    }
    Err(UNCLEAR)
}

/// With one layer of percent-encoding less. A `%` that was itself encoded may stand alone.
fn decoded(text: &[u8]) -> Vec<u8> {
    let value = |digit: &u8| char::from(*digit).to_digit(16).and_then(|value| u8::try_from(value).ok());
    let (mut decoded, mut rest) = (Vec::with_capacity(text.len()), text);
    while let [byte, after @ ..] = rest {
        let (byte, after) = match (byte, after) {
            (b'%', [high, low, after @ ..]) => match (value(high), value(low)) {
                (Some(high), Some(low)) => (high * 16 + low, after),
                _ => (*byte, &rest[1..]),
            },
            _ => (*byte, after),
        };
        decoded.push(byte);
        rest = after;
    }
    decoded
}
