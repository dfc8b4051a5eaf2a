//! What the endpoint answers.

use std::{
    collections::HashMap,
    sync::Mutex,
    time::{Duration, Instant},
};

use bytes::Bytes;
use concur_auth::{AccessToken, Error, Fleet, Health, MemberKind, MemberState, TokenManager};
use http_body_util::{BodyExt as _, Full};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Body as _, Incoming},
    header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE},
};
use serde_json::{Value, json};

pub(crate) use super::body::Body;
use super::{counts::Counts, door::Door, proxy::Proxy};
use crate::{
    locked,
    place::{Kept, manager_of, members},
    say,
};

/// For how long a token is valid at least, unless the client says otherwise.
const MIN_VALIDITY: u64 = 60;
/// When to ask again, where the error does not say.
const ASK_AGAIN: Duration = Duration::from_secs(60);
/// Another process may disconnect a member; for so long it is still taken for one.
const REMEMBERED: Duration = Duration::from_secs(10);
/// Of a member's name, which is a UUID or a pending one's.
const LONGEST_NAME: usize = 64;
const JSON: &str = "application/json";
/// A body that none of the own routes reads.
const MAX_OWN_BODY: u64 = 4096;

/// What is served.
pub(crate) struct Served {
    pub(crate) kept: Kept,
    pub(crate) proxy: Option<Proxy>,
    pub(crate) counts: Counts,
    /// Of a fleet: who is known to be a member, and when the store was asked, so that it is not asked before each answer.
    pub(crate) members: Mutex<HashMap<String, (MemberKind, Instant)>>,
    pub(crate) last: Mutex<Option<Answer>>,
}

/// The last one to `GET /token`.
pub(crate) struct Answer {
    access: AccessToken,
    seconds_left: i64,
    text: Bytes,
}

impl Answer {
    fn is_of(&self, access: &AccessToken, seconds_left: i64) -> bool {
        self.seconds_left == seconds_left
            && self.access.secret() == access.secret()
            && self.access.expires_at() == access.expires_at()
            && self.access.geolocation() == access.geolocation()
    }
}

impl Served {
    /// The tokens of a member; `None` if there is no such member.
    async fn member(&self, fleet: &Fleet, uuid: &str) -> Result<Option<TokenManager>, Error> {
        // What cannot be a name is an unknown name, and no failure of the store.
        if !uuid.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
            || !(1..=LONGEST_NAME).contains(&uuid.len())
        {
            return Ok(None);
        }
        // The store's spelling: one member is remembered once.
        let name = uuid.to_ascii_lowercase();
        let known = self.known(&name);
        if let Some((kind, true)) = known {
            return Ok(Some(manager_of(fleet, &name, kind)));
        }
        let kind = match fleet.member(&name).await {
            Ok(Some(member)) => {
                locked(&self.members).insert(name.clone(), (member.kind, Instant::now()));
                if member.state == MemberState::SignedOut && !member.unsaved {
                    // Perhaps by another process: then there still is a token in the memory of this one.
                    let tokens = manager_of(fleet, &name, member.kind);
                    if let Ok(access) = tokens.access_token().await {
                        tokens.invalidate(&access);
                    }
                }
                member.kind
            }
            Ok(None) => {
                locked(&self.members).remove(&name);
                return Ok(None);
            }
            // A store that is down stops no token that is in memory.
            Err(error) => known.ok_or(error)?.0,
        };
        Ok(Some(manager_of(fleet, &name, kind)))
    }

    /// What is known of a member, and whether that is new enough. Where it is not, one caller is told so and asks the store.
    fn known(&self, name: &str) -> Option<(MemberKind, bool)> {
        let mut members = locked(&self.members);
        let (kind, asked_at) = members.get_mut(name)?;
        let is_new = asked_at.elapsed() < REMEMBERED;
        if !is_new {
            *asked_at = Instant::now();
        }
        Some((*kind, is_new))
    }
}

pub(crate) async fn answer(served: &Served, door: &Door, request: Request<Incoming>) -> Response<Body> {
    if let Err((status, message)) = door.check(&request) {
        let mut refusal = told(status, message);
        if status == StatusCode::UNAUTHORIZED {
            refusal.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        return refusal;
    }
    let path = request.uri().path().to_owned();
    match (&served.kept, path.as_str()) {
        (_, "/metrics") => match own(&request) {
            Ok(()) => text(StatusCode::OK, "text/plain; version=0.0.4", served.counts.text()),
            Err(refusal) => *refusal,
        },
        (Kept::One(tokens), path) => of_one(served, &tokens.manager, path, request).await,
        (Kept::Fleet(fleet), path) => of_fleet(served, fleet, path, request).await,
    }
}

async fn of_one(
    served: &Served,
    tokens: &TokenManager,
    path: &str,
    request: Request<Incoming>,
) -> Response<Body> {
    if let Some(api) = path.strip_prefix("/api/") {
        return match &served.proxy {
            Some(proxy) => proxy.forward(tokens, api, request).await,
            None => told(StatusCode::NOT_FOUND, "APIs are not forwarded; start the program with --proxy"),
        };
    }
    if let Err(refusal) = own(&request) {
        return *refusal;
    }
    match path {
        "/token" => token(&served.last, tokens, request.uri().query().unwrap_or_default()).await,
        "/status" => json(StatusCode::OK, &say::status(&tokens.read_status().await)),
        "/healthz" => {
            let status = tokens.read_status().await;
            let is_well = status.health() != Health::PersonNeeded;
            let code = if is_well { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
            text(code, "text/plain", format!("{status}\n"))
        }
        _ => told(
            StatusCode::NOT_FOUND,
            "there are /token, /status, /healthz, /metrics and, with --proxy, /api/…",
        ),
    }
}

async fn of_fleet(served: &Served, fleet: &Fleet, path: &str, request: Request<Incoming>) -> Response<Body> {
    if let Some((uuid, path)) = path.strip_prefix("/companies/").and_then(|path| path.split_once('/')) {
        let path = format!("/{path}");
        return match served.member(fleet, uuid).await {
            Ok(Some(tokens)) => match path.as_str() {
                "/token" | "/status" => of_one(served, &tokens, &path, request).await,
                path if path.starts_with("/api/") => of_one(served, &tokens, path, request).await,
                _ => told(StatusCode::NOT_FOUND, "a company has /token, /status and, with --proxy, /api/…"),
            },
            Ok(None) => told(StatusCode::NOT_FOUND, "no such company or user in this fleet"),
            Err(error) => unavailable(&error),
        };
    }
    if let Err(refusal) = own(&request) {
        return *refusal;
    }
    match path {
        "/companies" => companies(fleet).await,
        "/status" | "/healthz" => match fleet.health().await {
            Ok(health) => json(StatusCode::OK, &json!(health)),
            Err(error) => unavailable(&error),
        },
        _ => told(
            StatusCode::NOT_FOUND,
            "there are /companies, /companies/{uuid}/token, /companies/{uuid}/status, /status, /healthz, /metrics and, with --proxy, \
             /companies/{uuid}/api/…",
        ),
    }
}

async fn companies(fleet: &Fleet) -> Response<Body> {
    match members(fleet).await {
        Ok(members) => json(StatusCode::OK, &members.iter().map(say::member).collect()),
        Err(error) => unavailable(&error),
    }
}

async fn token(last: &Mutex<Option<Answer>>, tokens: &TokenManager, query: &str) -> Response<Body> {
    let asked = query.split('&').find_map(|pair| pair.strip_prefix("min_validity="));
    let Ok(least) = asked.map_or(Ok(MIN_VALIDITY), str::parse) else {
        return told(StatusCode::BAD_REQUEST, "min_validity is a number of seconds, such as 600");
    };
    match tokens.access_token_for(Duration::from_secs(least)).await {
        Ok(access) => text(StatusCode::OK, JSON, written(last, access)),
        Err(error) => unavailable(&error),
    }
}

/// The answer is written once in a second: to write it takes longer than all the rest of a request.
fn written(last: &Mutex<Option<Answer>>, access: AccessToken) -> Bytes {
    let seconds_left = say::seconds_left(&access);
    let mut last = locked(last);
    if let Some(last) = &*last
        && last.is_of(&access, seconds_left)
    {
        return last.text.clone();
    }
    let text = Bytes::from(say::access_token(&access, seconds_left).to_string());
    *last = Some(Answer { access, seconds_left, text: text.clone() });
    text
}

/// Whether the request can be one for a route of our own.
fn own(request: &Request<Incoming>) -> Result<(), Box<Response<Body>>> {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        let mut refusal = told(StatusCode::METHOD_NOT_ALLOWED, "only GET");
        refusal.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return Err(Box::new(refusal));
    }
    if request.body().size_hint().upper().is_none_or(|length| length > MAX_OWN_BODY) {
        return Err(Box::new(told(StatusCode::PAYLOAD_TOO_LARGE, "the body is not read here")));
    }
    Ok(())
}

/// There is no token now.
pub(crate) fn unavailable(error: &Error) -> Response<Body> {
    let mut response = json(StatusCode::SERVICE_UNAVAILABLE, &say::error(error));
    // A person takes longer than a moment.
    let least = if error.kind().needs_person() { ASK_AGAIN } else { Duration::from_secs(1) };
    let seconds = error.retry_after().unwrap_or(least).max(least).as_secs_f64().ceil();
    if let Ok(value) = HeaderValue::from_str(&format!("{seconds:.0}")) {
        response.headers_mut().insert(RETRY_AFTER, value);
    }
    response
}

/// A refusal, in words.
pub(crate) fn told(status: StatusCode, message: &str) -> Response<Body> {
    json(status, &json!({ "message": message }))
}

fn json(status: StatusCode, value: &Value) -> Response<Body> {
    text(status, JSON, value.to_string())
}

fn text(status: StatusCode, kind: &'static str, text: impl Into<Bytes>) -> Response<Body> {
    let body = Full::new(text.into()).map_err(|never| match never {});
    let mut response = Response::new(body.boxed_unsync());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
