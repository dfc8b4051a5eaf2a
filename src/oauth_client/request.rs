//! One request and its reply: from the call to what the reply's status says, with the log's entries for both.
//!
//! Always: the failure of a request that was sent is logged here. A reply with tokens is not, because the log must
//! not say that it arrived before its tokens are saved.

use reqwest::StatusCode;

use super::{
    budget::Conditions,
    error_reply::ErrorReply,
    failure::Failure,
    gated::Gated,
    host_gate::Turn,
    outgoing_request::OutgoingRequest,
    response::{Entry, OkReply, Response},
    transport::{Authorization, OutgoingCall, REQUEST_TIMEOUT, Sent},
};
use crate::{Credentials, Geolocation};

/// A request, where it is sent, and which attempt this is.
#[derive(Clone, Copy)]
pub(super) struct Attempt<'a> {
    pub(super) base: &'a Geolocation,
    pub(super) request: &'a OutgoingRequest,
    pub(super) conditions: &'a Conditions<'a>,
    pub(super) number: u32,
    /// Concur itself has named this base.
    pub(super) followed: bool,
}

/// A reply with whatever status, the log's entry for it, and the turn that its request had.
pub(super) struct Exchanged {
    pub(super) response: Response,
    pub(super) entry: Entry,
    pub(super) turn: Turn,
}

/// Posts a form, and has `understand` read the reply if its status is 200.
pub(super) async fn post<T>(
    gated: &Gated,
    attempt: Attempt<'_>,
    credentials: &Credentials,
    understand: &(impl Fn(OkReply<'_>) -> Result<T, Failure> + Sync),
) -> Result<T, Failure> {
    let Attempt { base, request, followed, conditions, .. } = attempt;
    let Exchanged { response, entry, turn } =
        exchange(gated, attempt, Authorization::App(credentials)).await?;
    let Response { status, headers, body, cut } = response;
    let understood = match status {
        StatusCode::OK => {
            let (body, headers, entry) = (&body, &headers, &entry);
            understand(OkReply { body, cut, request, headers, base, followed, entry })
        }
        _ => Err(ErrorReply { base, request, status, headers: &headers, body: &body, cut }.failure()),
    };
    let understood =
        understood.map_err(|failure| entry.failed(base.host(), headers.correlation_id.as_deref(), failure));
    turn.answered(understood.as_ref().map(drop).map_err(|failure| &failure.error), conditions.clock.now());
    understood
}

/// Sends a request when its turn comes, and counts the time that it takes.
pub(super) async fn exchange(
    gated: &Gated,
    attempt: Attempt<'_>,
    authorization: Authorization<'_>,
) -> Result<Exchanged, Failure> {
    let Attempt { base, request, conditions, number, .. } = attempt;
    gated.transport.prepare(base)?;
    let call = OutgoingCall::new(base, request, authorization, conditions.clock)?;
    let turn = gated.turn(base, request, conditions).await?;
    if let Some(hold) = conditions.hold {
        hold.hold_for_a_request().await?;
    }
    let entry = Entry::new(request, number);
    let correlation_id = request.correlation_id();
    entry.sent(base.host(), correlation_id);
    conditions.budget.spent().has_sent = true;
    let sent_at = conditions.clock.monotonic();
    let Sent { elapsed, outcome } = gated.transport.send(&call).await;
    let since_sent = conditions.clock.monotonic().saturating_sub(sent_at);
    conditions.budget.spent().passed += elapsed;
    match outcome {
        Ok(mut response) => {
            // A process that was suspended reads a reply long after it came, and what is in it has lived since then.
            let late = since_sent.saturating_sub(REQUEST_TIMEOUT);
            let received_at = &mut response.headers.received_at;
            *received_at = received_at.checked_sub(late).unwrap_or(*received_at);
            let theirs = &mut response.headers.correlation_id;
            *theirs = theirs.take().or_else(|| correlation_id.map(str::to_owned));
            let entry = entry.after(Some(response.status), elapsed);
            Ok(Exchanged { response, entry, turn })
        }
        Err(failure) => {
            if failure.timed_out {
                turn.timed_out();
            }
            Err(entry.after(None, elapsed).failed(base.host(), correlation_id, failure))
        }
    }
}
