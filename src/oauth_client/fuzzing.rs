//! What Concur, or a gateway before it, answers: for the targets in `fuzz/`.

use reqwest::{
    StatusCode,
    header::{HeaderMap, HeaderName, HeaderValue},
};

use super::{
    error_reply::ErrorReply,
    failure::Fate,
    grant::Grant,
    reply::TokenReply,
    response::{Entry, Headers, OkReply},
};
use crate::{Clock as _, Error, Geolocation, RefreshTokenObject, SystemClock};

/// What the targets give to the parsers as a secret.
pub const SECRET: &str = "s3cr3t-t0k3n";

/// An error shows nothing of what was read.
pub fn shows_no_secret(error: &Error) {
    let shown = format!("{error} {error:?} {error:#?}");
    assert!(!shown.contains(SECRET), "{shown}");
}

/// A reply with status 200: its token is the same one after it was saved and loaded.
pub fn reply(head: &[u8], body: &[u8]) {
    let base = base();
    let grant = Grant::company_request_token("uuid", SECRET);
    let (request, headers) = (grant.request(), headers(head));
    let entry = Entry::new(request, 1);
    for followed in [false, true] {
        let (cut, headers) = (None, &headers);
        let reply = OkReply { body, cut, request, headers, base: &base, followed, entry: &entry };
        let reply = match TokenReply::read(reply) {
            Ok(reply) => reply,
            Err(failure) => {
                shows_no_secret(&failure.error);
                continue;
            }
        };
        assert!(!format!("{reply:?}").contains(SECRET));
        let _ = reply.access_token().map_err(|error| shows_no_secret(&error));
        match reply.succeed(None, Some("uuid")) {
            Ok(accepted) => {
                let object = accepted.object;
                let again = RefreshTokenObject::from_json(&object.to_json()).unwrap();
                assert!(again.is_same_reply(&object));
                assert_eq!(again.expires_at(), object.expires_at());
                accepted.fault.iter().for_each(shows_no_secret);
            }
            Err(error) => shows_no_secret(&error),
        }
    }
}

/// A reply without success: it leads to no host that is not trusted.
pub fn error_reply(status: u16, head: &[u8], body: &[u8]) {
    let Ok(status) = StatusCode::from_u16(status) else { return };
    let base = base();
    let grant = Grant::company_request_token("uuid", SECRET);
    let (request, headers) = (grant.request(), headers(head));
    let reply = ErrorReply { base: &base, request, status, headers: &headers, body, cut: None };
    let failure = reply.failure();
    shows_no_secret(&failure.error);
    if let Fate::Elsewhere(elsewhere) = failure.fate {
        let elsewhere = elsewhere.as_str();
        assert!(elsewhere.parse::<Geolocation>().is_ok(), "{elsewhere}");
    }
}

fn base() -> Geolocation {
    Geolocation::GLZ.parse().unwrap()
}

/// The headers of a head, as far as they can be ones.
fn headers(head: &[u8]) -> Headers {
    let mut headers = HeaderMap::new();
    for line in head.split(|byte| *byte == b'\n') {
        let mut parts = line.splitn(2, |byte| *byte == b':');
        let (Some(name), Some(value)) = (parts.next(), parts.next()) else { continue };
        if let (Ok(name), Ok(value)) =
            (HeaderName::from_bytes(name), HeaderValue::from_bytes(value.trim_ascii()))
        {
            headers.append(name, value);
        }
    }
    Headers::of(&headers, SystemClock.now(), |id| !id.contains(SECRET))
}
