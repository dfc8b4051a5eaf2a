//! From HTTP to the state and back.
//!
//! wiremock handles one request at a time, so that what a matcher saw still holds when its responder runs.

use std::{
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use wiremock::{Match, Mock, MockServer, Request, Respond, ResponseTemplate, matchers::any};

use super::{
    Fault,
    recorded_request::RecordedRequest,
    state::{State, uuid},
};
use crate::ConcurCode;

const TOKEN_ENDPOINT: &str = "/oauth2/v0/token";

#[derive(Clone, Debug)]
pub(super) struct Shared(pub(super) Arc<Mutex<State>>);

impl Shared {
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) async fn mount(&self, server: &MockServer) {
        let shared = self.clone();
        let dropped = Mock::given(Drops(self.clone())).respond_with_err(move |request: &Request| {
            shared.drop_connection(request);
            io::Error::from(io::ErrorKind::ConnectionReset)
        });
        dropped.with_priority(1).mount(server).await;
        Mock::given(any()).respond_with(self.clone()).mount(server).await;
    }

    fn drop_connection(&self, request: &Request) {
        let mut state = self.state();
        let request = RecordedRequest::of(request);
        if let Some(Fault::DropReply) = state.faults.take() {
            let _ = state.grant(&request);
        }
        state.requests.push(request);
    }

    fn token(state: &mut State, request: &RecordedRequest) -> ResponseTemplate {
        let fault = state.faults.take();
        if let Some(Fault::Status {
            status,
            headers,
            body,
        }) = fault
        {
            let reply = ResponseTemplate::new(status).set_body_string(body);
            return headers
                .into_iter()
                .fold(reply, |reply, (name, value)| reply.append_header(name, value));
        }
        let reply = match state.grant(request) {
            Ok(body) => json(200, body),
            Err(code) => refusal(code, &state.base_uri),
        };
        match fault {
            Some(Fault::Delay(delay)) => reply.set_delay(delay),
            _ => reply.set_delay(Duration::ZERO),
        }
    }
}

/// Whether the next token request's connection is to be dropped.
struct Drops(Shared);

impl Match for Drops {
    fn matches(&self, request: &Request) -> bool {
        let state = self.0.state();
        request.url.path() == TOKEN_ENDPOINT
            && matches!(
                state.faults.peek(),
                Some(Fault::DropConnection | Fault::DropReply)
            )
    }
}

impl Respond for Shared {
    fn respond(&self, request: &Request) -> ResponseTemplate {
        let mut state = self.state();
        let request = RecordedRequest::of(request);
        let reply = match (request.method(), request.path().trim_end_matches('/')) {
            ("POST", TOKEN_ENDPOINT) => Self::token(&mut state, &request),
            ("GET", "/profile/identity/v4/Users") => match state.users(request.header("authorization")) {
                Some(users) => json(200, users.to_string()),
                None => ResponseTemplate::new(401),
            },
            _ => ResponseTemplate::new(404),
        };
        state.requests.push(request);
        reply
            .insert_header("concur-correlationid", uuid())
            .insert_header("date", httpdate::fmt_http_date(state.clock.now()))
    }
}

fn json(status: u16, body: String) -> ResponseTemplate {
    ResponseTemplate::new(status).set_body_raw(body, "application/json")
}

fn refusal(code: ConcurCode, geolocation: &str) -> ResponseTemplate {
    let (status, error) = code.reply();
    let description = code.meaning().unwrap_or_default();
    let body = serde_json::json!({
        "code": code.number(), "error": error, "error_description": description, "geolocation": geolocation,
    });
    json(status, body.to_string())
}

impl ConcurCode {
    /// The HTTP status and the `error` that come with the code.
    pub(super) fn reply(self) -> (u16, &'static str) {
        match self.number() {
            5 | 10..=14 | 19 | 20 | 60 | 104 | 105 | 108 => (400, "invalid_grant"),
            53 | 61 | 64 => (401, "invalid_client"),
            54 => (400, "invalid_scope"),
            59 => (403, "access_denied"),
            _ => (400, "invalid_request"),
        }
    }
}
