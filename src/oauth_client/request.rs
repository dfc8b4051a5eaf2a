//! One request and its reply: from the call to what the reply's status says, with the log's entries for both.
//!
//! Always: the failure of a request that was sent is logged here. A reply with tokens is not, because the log must
//! not say that it arrived before its tokens are saved.

use std::time::Duration;

use reqwest::StatusCode;

use super::{
    error_reply::ErrorReply,
    failure::Failure,
    outgoing_request::OutgoingRequest,
    response::{Entry, OkReply, Response},
    transport::{Authorization, OutgoingCall, Sent, Transport},
};
use crate::{Clock, Credentials, Error, Geolocation};

/// A request, where it is sent, and which attempt this is.
#[derive(Clone, Copy)]
pub(super) struct Attempt<'a> {
    pub(super) base: &'a Geolocation,
    pub(super) request: &'a OutgoingRequest,
    pub(super) clock: &'a dyn Clock,
    pub(super) number: u32,
    /// Concur itself has named this base.
    pub(super) followed: bool,
}

/// What came of one request, and how long that took.
pub(super) struct Attempted<T> {
    pub(super) elapsed: Duration,
    pub(super) result: Result<T, Failure>,
}

impl<T> From<Error> for Attempted<T> {
    /// Nothing was sent.
    fn from(error: Error) -> Self {
        Self { elapsed: Duration::ZERO, result: Err(error.into()) }
    }
}

/// Posts a form, and has `understand` read the reply if its status is 200.
pub(super) async fn post<T>(
    transport: &dyn Transport,
    attempt: Attempt<'_>,
    credentials: &Credentials,
    understand: &(impl Fn(OkReply<'_>) -> Result<T, Failure> + Sync),
) -> Attempted<T> {
    let Attempt { base, request, followed, .. } = attempt;
    let Attempted { elapsed, result } = exchange(transport, attempt, Authorization::App(credentials)).await;
    let result = result.and_then(|(response, entry)| {
        let Response { status, headers, body, cut } = response;
        let understood = match status {
            StatusCode::OK => understand(OkReply {
                body: &body,
                cut,
                request,
                headers: &headers,
                base,
                followed,
                entry: &entry,
            }),
            _ => Err(ErrorReply { base, request, status, headers: &headers, body: &body, cut }.failure()),
        };
        understood.map_err(|failure| entry.failed(base.host(), headers.correlation_id.as_deref(), failure))
    });
    Attempted { elapsed, result }
}

/// Sends a request and returns its reply, with whatever status, and the log's entry for the reply.
pub(super) async fn exchange(
    transport: &dyn Transport,
    attempt: Attempt<'_>,
    authorization: Authorization<'_>,
) -> Attempted<(Response, Entry)> {
    let Attempt { base, request, clock, number, .. } = attempt;
    let call =
        match transport.prepare(base).and_then(|()| OutgoingCall::new(base, request, authorization, clock)) {
            Ok(call) => call,
            Err(e) => return e.into(),
        };
    let entry = Entry::new(request, number);
    let correlation_id = request.correlation_id();
    entry.sent(base.host(), correlation_id);
    let Sent { elapsed, outcome } = transport.send(&call).await;
    let result = match outcome {
        Ok(mut response) => {
            let theirs = &mut response.headers.correlation_id;
            *theirs = theirs.take().or_else(|| correlation_id.map(str::to_owned));
            let entry = entry.after(Some(response.status), elapsed);
            Ok((response, entry))
        }
        Err(failure) => Err(entry.after(None, elapsed).failed(base.host(), correlation_id, failure)),
    };
    Attempted { elapsed, result }
}
