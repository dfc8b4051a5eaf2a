//! A reply on its way to the wire.
//!
//! Always: it carries a correlation id of its own, and its date is the injected clock's.

use std::time::{Duration, SystemTime};

use reqwest::{
    StatusCode,
    header::{CONTENT_TYPE, DATE, HeaderMap, HeaderValue, LOCATION},
};
use serde_json::{Value, json};
use wiremock::ResponseTemplate;

use super::made_up::uuid;
use crate::{ConcurCode, clock};

pub(super) struct Reply {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: String,
    pub(super) delay: Duration,
}

impl Reply {
    pub(super) fn empty(status: StatusCode) -> Self {
        Self { status, headers: HeaderMap::new(), body: String::new(), delay: Duration::ZERO }
    }

    pub(super) fn json(status: StatusCode, body: &Value) -> Self {
        let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static("application/json"))]);
        Self { headers, body: body.to_string(), ..Self::empty(status) }
    }

    pub(super) fn html(status: StatusCode, body: &str) -> Self {
        let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static("text/html"))]);
        Self { headers, body: body.to_owned(), ..Self::empty(status) }
    }

    /// To a call without a live access token.
    pub(super) fn unauthorized() -> Self {
        Self::json(StatusCode::UNAUTHORIZED, &json!({ "error": "invalid_token" }))
    }

    /// Empty, where `location` cannot be part of a header.
    pub(super) fn redirect(status: StatusCode, location: &str) -> Self {
        let location = HeaderValue::try_from(location).ok().map(|location| (LOCATION, location));
        Self { headers: location.into_iter().collect(), ..Self::empty(status) }
    }

    pub(super) fn sent_at(self, now: SystemTime) -> ResponseTemplate {
        let mut template = ResponseTemplate::new(self.status.as_u16())
            .insert_header("concur-correlationid", uuid())
            .set_body_bytes(self.body);
        // Also a delay of nothing would leave the server to turn to the next request first, whose reply may be held.
        if !self.delay.is_zero() {
            template = template.set_delay(self.delay);
        }
        // HTTP has no date before 1970 and none after 9999; then hyper adds the machine's.
        if let Some(date) = clock::from_unix_seconds(clock::unix_seconds(now)) {
            template = template.insert_header(DATE, httpdate::fmt_http_date(date));
        }
        // Last: what a fault says about a header counts.
        self.headers.iter().fold(template, |template, (name, value)| template.insert_header(name, value))
    }
}

/// A number of SAP's table of errors.
pub(super) type Code = u32;

/// Why a request is refused.
pub(super) struct ErrorBody {
    pub(super) code: Code,
    geolocation: Option<String>,
}

impl ErrorBody {
    /// Code 16, and where to retry.
    pub(super) fn lives_elsewhere(geolocation: &str) -> Self {
        Self { code: 16, geolocation: Some(geolocation.to_owned()) }
    }

    /// As the data centre at `base_uri` says it.
    pub(super) fn reply(self, base_uri: &str) -> Reply {
        let (status, mut body) = refusal(self.code);
        body["geolocation"] = self.geolocation.as_deref().unwrap_or(base_uri).into();
        Reply::json(status, &body)
    }
}

impl From<Code> for ErrorBody {
    fn from(code: Code) -> Self {
        Self { code, geolocation: None }
    }
}

/// The status and the body that go with a number of SAP's table of errors.
pub(super) fn refusal(code: Code) -> (StatusCode, Value) {
    let (status, error) = match code {
        5 | 10..=14 | 19 | 20 | 60 | 104 | 105 | 108 => (StatusCode::BAD_REQUEST, "invalid_grant"),
        // SAP lists the statuses without saying which goes with what; RFC 6749 section 5.2 does.
        53 | 61 | 64 => (StatusCode::UNAUTHORIZED, "invalid_client"),
        54 => (StatusCode::BAD_REQUEST, "invalid_scope"),
        59 => (StatusCode::FORBIDDEN, "access_denied"),
        _ => (StatusCode::BAD_REQUEST, "invalid_request"),
    };
    (status, json!({ "code": code, "error": error, "error_description": meaning(code) }))
}

pub(super) fn meaning(code: Code) -> &'static str {
    ConcurCode::new(code).meaning().unwrap_or_default()
}
