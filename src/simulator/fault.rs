//! Faults of the endpoints that programs send requests to, made when a test asks for them.

use std::time::Duration;

use reqwest::{
    StatusCode,
    header::{HeaderMap, HeaderName, HeaderValue},
};

use super::{recorded_request::RecordedRequest, reply::refusal};

/// Something that goes wrong with a /token, /otp or connections request.
///
/// ```
/// use std::time::Duration;
/// use concur_auth::simulator::Fault;
///
/// Fault::code(14); // the account is locked
/// Fault::status(429).retry_after("7");
/// Fault::status(200).body("not what was expected");
/// Fault::html(503); // a proxy's error page
/// Fault::Delay(Duration::from_millis(50));
/// Fault::DropReply;
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Fault {
    /// Another reply in place of the right one; the request is not processed.
    ///
    /// Made by [`Fault::status`], [`Fault::code`] and [`Fault::html`].
    #[non_exhaustive]
    Status {
        /// The HTTP status.
        status: StatusCode,
        /// The headers in addition to the headers of every reply.
        headers: HeaderMap,
        /// The body, as sent.
        body: String,
    },
    /// The right reply, late by this much real time; the request is processed on arrival.
    ///
    /// Simulates a slow network. To put events in order, use
    /// [`ConcurSimulator::hold_replies`](super::ConcurSimulator::hold_replies).
    Delay(Duration),
    /// The connection is closed without a reply; the request is not processed.
    DropConnection,
    /// The request is processed (a use is spent, a token rotated), then the connection is closed without a reply.
    DropReply,
}

impl Fault {
    /// A reply with this HTTP status and an empty body.
    ///
    /// # Panics
    ///
    /// When `status` is not the status of a final reply: 200 to 999.
    #[must_use]
    #[track_caller]
    pub fn status(status: u16) -> Self {
        match StatusCode::from_u16(status) {
            Ok(status) if !status.is_informational() => {
                Self::Status { status, headers: HeaderMap::new(), body: String::new() }
            }
            _ => panic!("{status} is not the HTTP status of a reply; use 200 to 999"),
        }
    }

    /// The refusal that SAP's table lists under this code, without a `geolocation`.
    ///
    /// If that member matters, as for code 16, [move](super::ConcurSimulator::move_principal) the principal to another
    /// data centre, or write the body yourself:
    ///
    /// ```
    /// use concur_auth::simulator::Fault;
    ///
    /// let body = r#"{"code": 16, "error": "invalid_request", "geolocation": "http://127.0.0.1:9"}"#;
    /// Fault::code(16).body(body);
    /// ```
    #[must_use]
    pub fn code(code: u32) -> Self {
        let (status, body) = refusal(code);
        Self::Status { status, headers: HeaderMap::new(), body: body.to_string() }
            .header("content-type", "application/json")
    }

    /// An error page for people, as a proxy or a gateway shows it.
    ///
    /// # Panics
    ///
    /// As [`Fault::status`].
    #[must_use]
    #[track_caller]
    pub fn html(status: u16) -> Self {
        Self::status(status)
            .header("content-type", "text/html")
            .body("<!DOCTYPE html>\n<html><head><title>Error</title></head><body>Try later.</body></html>\n")
    }

    /// The same fault with this body. For faults that are replies.
    #[must_use]
    pub fn body(mut self, text: impl Into<String>) -> Self {
        if let Self::Status { body, .. } = &mut self {
            *body = text.into();
        }
        self
    }

    /// The same fault with this header, which replaces a header of the same name. For faults that are replies.
    ///
    /// # Panics
    ///
    /// When `name` or `value` cannot be part of a header.
    #[must_use]
    #[track_caller]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) else {
            panic!("{name:?}: {value:?} is not an HTTP header");
        };
        if let Self::Status { headers, .. } = &mut self {
            headers.insert(name, value);
        }
        self
    }

    /// The same fault with a `Retry-After`: seconds or a date (RFC 9110 section 10.2.3).
    ///
    /// # Panics
    ///
    /// As [`Fault::header`].
    #[must_use]
    #[track_caller]
    pub fn retry_after(self, value: &str) -> Self {
        self.header("retry-after", value)
    }
}

/// The faults of coming requests: first the queued faults, then the standing fault.
#[derive(Default)]
pub(super) struct Faults {
    in_line: Vec<Queued>,
    pub(super) standing: Option<Fault>,
}

struct Queued {
    /// For how many requests.
    left: usize,
    is_for: Box<dyn Fn(&RecordedRequest) -> bool + Send>,
    fault: Fault,
}

impl Faults {
    pub(super) fn line_up(
        &mut self,
        n: usize,
        is_for: impl Fn(&RecordedRequest) -> bool + Send + 'static,
        fault: Fault,
    ) {
        self.in_line.push(Queued { left: n, is_for: Box::new(is_for), fault });
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    pub(super) fn next(&mut self, request: &RecordedRequest) -> Option<Fault> {
        self.in_line.retain(|queued| queued.left > 0);
        match self.in_line.iter_mut().find(|queued| (queued.is_for)(request)) {
            Some(queued) => {
                queued.left -= 1;
                Some(queued.fault.clone())
            }
            None => self.standing.clone(),
        }
    }
}
