//! The seam below which requests are sent: over HTTP in a program, or to a simulated Concur in a unit test.
//!
//! Always: one call sends one request, without retries and without redirects. Above the seam nothing needs tokio's
//! runtime, the network or the machine's own clock, so any executor can run it.

use std::{future::Future, pin::Pin, time::Duration};

use reqwest::header::HeaderValue;
use url::Url;

use super::{failure::Failure, outgoing_request::OutgoingRequest, response::Response};
use crate::{AccessToken, Clock, Credentials, Error, ErrorKind, Geolocation, shown};

/// The longest that one request may take, its reply included. Every transport keeps to it.
pub(crate) const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// Sends single requests.
pub(crate) trait Transport: Send + Sync {
    /// Fails if no request to `base` can be sent at all. Called before the log says that a request is sent.
    fn prepare(&self, _base: &Geolocation) -> Result<(), Error> {
        Ok(())
    }

    fn send<'a>(&'a self, call: &'a OutgoingCall<'a>) -> Pin<Box<dyn Future<Output = Sent> + Send + 'a>>;
}

/// One request, with everything that is needed to send it.
pub(crate) struct OutgoingCall<'a> {
    pub(super) base: &'a Geolocation,
    pub(super) request: &'a OutgoingRequest,
    pub(super) authorization: Authorization<'a>,
    /// Says when the reply's headers arrive.
    pub(crate) clock: &'a dyn Clock,
    pub(super) url: Url,
    pub(super) correlation_id: Option<HeaderValue>,
}

/// How the sender of a request proves its identity.
#[derive(Clone, Copy)]
pub(super) enum Authorization<'a> {
    /// With the app's id and secret, in the form.
    App(&'a Credentials),
    /// With an access token, in a header.
    Bearer(&'a AccessToken),
}

/// What came of one request.
pub(crate) struct Sent {
    /// From the start of the request to the end of its reply, or to its failure.
    pub(crate) elapsed: Duration,
    pub(crate) outcome: Result<Response, Failure>,
}

impl<'a> OutgoingCall<'a> {
    pub(super) fn new(
        base: &'a Geolocation,
        request: &'a OutgoingRequest,
        authorization: Authorization<'a>,
        clock: &'a dyn Clock,
    ) -> Result<Self, Error> {
        let correlation_id =
            request.correlation_id().map(HeaderValue::from_str).transpose().map_err(|e| {
                Error::new(
                    ErrorKind::Config,
                    "the grant's correlation id does not fit into an HTTP header; use visible ASCII",
                )
                .caused_by(e)
            })?;
        let url = base.join(request.path())?;
        Ok(Self { base, request, authorization, clock, url, correlation_id })
    }

    /// Whether a correlation id that the server chose may be shown: it is our own, or a UUID that is no secret of this call.
    /// Refresh tokens and client secrets may be UUIDs, too.
    pub(super) fn may_show(&self, id: &str) -> bool {
        let is_secret = || match self.authorization {
            Authorization::App(credentials) => self.request.leaks_into(id, credentials),
            Authorization::Bearer(access) => id.contains(access.secret()),
        };
        self.request.correlation_id() == Some(id) || (shown::is_uuid(id) && !is_secret())
    }
}

/// So that a test keeps access to the simulated Concur that it gave to a client.
#[cfg(test)]
impl<T: Transport + ?Sized> Transport for std::sync::Arc<T> {
    fn prepare(&self, base: &Geolocation) -> Result<(), Error> {
        (**self).prepare(base)
    }

    fn send<'a>(&'a self, call: &'a OutgoingCall<'a>) -> Pin<Box<dyn Future<Output = Sent> + Send + 'a>> {
        (**self).send(call)
    }
}

/// For a simulated Concur: what the request says, and what it is answered with.
#[cfg(test)]
impl OutgoingCall<'_> {
    /// The host that the request goes to.
    pub(crate) fn host(&self) -> &str {
        self.base.host()
    }

    pub(crate) fn path(&self) -> &str {
        self.url.path()
    }

    pub(crate) fn grant_type(&self) -> Option<&str> {
        self.request.grant_type()
    }

    /// The value of a field of the form, such as `refresh_token`.
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.request.field(name)
    }

    /// The access token that the request carries.
    pub(crate) fn bearer_token(&self) -> Option<&str> {
        match self.authorization {
            Authorization::App(_) => None,
            Authorization::Bearer(access) => Some(access.secret()),
        }
    }

    /// A reply without headers, received now.
    pub(crate) fn reply(&self, status: u16, body: &serde_json::Value) -> Response {
        Response::json(status, body, super::response::Headers::none(self.clock.now()))
    }

    /// The connection broke off: Concur may have processed the request, but its reply did not arrive.
    pub(crate) fn lost_reply(&self) -> Failure {
        super::unreachable::broken_off(self.host(), self.request)
    }

    /// The request may have been processed, and no reply came in the time that a request may take.
    pub(crate) fn no_answer(&self) -> (Duration, Failure) {
        (REQUEST_TIMEOUT, super::unreachable::no_answer(self.host(), self.request))
    }

    /// No connection was made, so Concur did not process the request.
    pub(crate) fn not_connected(&self) -> Failure {
        super::unreachable::not_connected(self.host())
    }
}
