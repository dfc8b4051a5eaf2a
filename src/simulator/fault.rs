//! What the token endpoint does wrong when it is told to.

use std::{collections::VecDeque, time::Duration};

use reqwest::header::{CONTENT_TYPE, HeaderName, HeaderValue, LOCATION, RETRY_AFTER};
use serde_json::json;

use crate::ConcurCode;

/// Something that goes wrong at the token endpoint instead of, or on top of, the right answer.
///
/// ```
/// use std::time::Duration;
/// use concur_auth::simulator::Fault;
///
/// Fault::code(14); // the account is locked
/// Fault::status(429).retry_after("7");
/// Fault::status(200).body("what is this?");
/// Fault::html(503); // a proxy's error page
/// Fault::Delay(Duration::from_millis(50));
/// Fault::DropReply;
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Fault {
    /// Another reply in place of the right one; the grant is not processed. Made by [`Fault::status`],
    /// [`Fault::code`] and [`Fault::html`].
    #[non_exhaustive]
    Status {
        /// The HTTP status.
        status: u16,
        /// Headers beside those that every reply has.
        headers: Vec<(HeaderName, HeaderValue)>,
        /// The body, as sent.
        body: String,
    },
    /// The right reply, but late, in real time. The grant is processed on arrival.
    Delay(Duration),
    /// The connection is closed without a reply, and the grant is not processed.
    DropConnection,
    /// The grant is processed (a use is burnt, the token is rotated), and then the connection is closed without
    /// a reply.
    DropReply,
}

impl Fault {
    /// A reply with this HTTP status and no body.
    #[must_use]
    pub fn status(status: u16) -> Self {
        Self::Status {
            status,
            headers: Vec::new(),
            body: String::new(),
        }
    }

    /// One of Concur's error replies, as its documentation lists it.
    #[must_use]
    pub fn code(number: u32) -> Self {
        let code = ConcurCode::new(number);
        let (status, error) = code.reply();
        let description = code.meaning().unwrap_or("not documented");
        let body = json!({ "code": number, "error": error, "error_description": description });
        Self::status(status)
            .body(body.to_string())
            .header(CONTENT_TYPE, "application/json")
    }

    /// The error page of a proxy or load balancer.
    #[must_use]
    pub fn html(status: u16) -> Self {
        Self::status(status)
            .body("<html><h1>Something went wrong</h1></html>")
            .header(CONTENT_TYPE, "text/html")
    }

    /// The same reply with a `Retry-After`: seconds, or a date as in the `Date` header.
    #[must_use]
    pub fn retry_after(self, value: &str) -> Self {
        self.header(RETRY_AFTER, value)
    }

    /// The same reply with a `Location`, for statuses that redirect.
    #[must_use]
    pub fn location(self, uri: &str) -> Self {
        self.header(LOCATION, uri)
    }

    /// The same reply with this body.
    #[must_use]
    pub fn body(mut self, text: impl Into<String>) -> Self {
        if let Self::Status { body, .. } = &mut self {
            *body = text.into();
        }
        self
    }

    fn header(mut self, name: HeaderName, value: &str) -> Self {
        if let (Self::Status { headers, .. }, Ok(value)) = (&mut self, HeaderValue::from_str(value)) {
            headers.push((name, value));
        }
        self
    }
}

/// Which fault comes next: those queued one by one, then the standing one.
#[derive(Debug, Default)]
pub(super) struct Faults {
    queued: VecDeque<Fault>,
    standing: Option<Fault>,
}

impl Faults {
    pub(super) fn stand(&mut self, fault: Fault) {
        self.standing = Some(fault);
    }

    pub(super) fn queue(&mut self, times: usize, fault: Fault) {
        self.queued.extend(std::iter::repeat_n(fault, times));
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    pub(super) fn peek(&self) -> Option<&Fault> {
        self.queued.front().or(self.standing.as_ref())
    }

    pub(super) fn take(&mut self) -> Option<Fault> {
        self.queued.pop_front().or_else(|| self.standing.clone())
    }
}
