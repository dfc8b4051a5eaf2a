//! What came back for a request, and what the log says about it.
//!
//! Always: the body's memory is wiped, and the log shows no text of the server's except a correlation id that was
//! checked.

use std::time::{Duration, SystemTime};

use reqwest::{
    StatusCode,
    header::{self, HeaderMap},
};
use zeroize::Zeroizing;

use super::{
    failure::{Failure, Fate},
    outgoing_request::OutgoingRequest,
    unreachable::Cut,
};
use crate::{ConcurCode, Error, Geolocation, clock, log};

/// The header with the id of a request, by which SAP's support finds it.
pub(super) const CORRELATION_ID: &str = "concur-correlationid";

/// A reply, with whatever status.
pub(crate) struct Response {
    pub(crate) status: StatusCode,
    pub(crate) headers: Headers,
    pub(crate) body: Zeroizing<Vec<u8>>,
    /// Why the body may be incomplete.
    pub(crate) cut: Option<Cut>,
}

/// The headers that this crate uses.
#[derive(Clone, Debug)]
pub(crate) struct Headers {
    /// When the headers arrived, by the injected clock.
    pub(crate) received_at: SystemTime,
    pub(crate) server_time: Option<SystemTime>,
    pub(crate) retry_after: Option<Duration>,
    pub(crate) location: Option<String>,
    pub(crate) correlation_id: Option<String>,
}

impl Headers {
    /// `is_presentable` tells whether an id that the server chose may be shown.
    pub(super) fn of(headers: &HeaderMap, now: SystemTime, is_presentable: impl Fn(&str) -> bool) -> Self {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let date = text(header::DATE.as_str())
            .and_then(|date| httpdate::parse_http_date(date).ok())
            // A gateway whose clock was never set would make every token live for decades.
            .filter(|date| clock::unix_seconds(*date) >= clock::FIRST_PLAUSIBLE);
        let retry_after = text(header::RETRY_AFTER.as_str())
            .and_then(|value| self::retry_after(value.trim(), date.unwrap_or(now)));
        Self {
            received_at: now,
            server_time: date,
            retry_after,
            location: text(header::LOCATION.as_str()).map(str::to_owned),
            correlation_id: text(CORRELATION_ID).filter(|id| is_presentable(id)).map(str::to_owned),
        }
    }
}

/// Seconds, or a date by the clock that says `now` (RFC 9110 section 10.2.3).
fn retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let at = httpdate::parse_http_date(value).ok()?;
    Some(at.duration_since(now).unwrap_or_default())
}

/// A reply with status 200, before its body is read.
pub(super) struct OkReply<'a> {
    pub(super) body: &'a [u8],
    /// Why the body may be incomplete.
    pub(super) cut: Option<Cut>,
    pub(super) request: &'a OutgoingRequest,
    pub(super) headers: &'a Headers,
    pub(super) base: &'a Geolocation,
    /// Concur itself has named this base.
    pub(super) followed: bool,
    pub(super) entry: &'a Entry,
}

/// What the log says about one request.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    /// For example "token request".
    what: &'static str,
    grant: Option<&'static str>,
    attempt: u32,
    status: Option<u16>,
    elapsed: Duration,
}

impl Entry {
    pub(super) fn new(request: &OutgoingRequest, attempt: u32) -> Self {
        let (what, grant) = (request.what(), request.grant_type());
        Self { what, grant, attempt, status: None, elapsed: Duration::ZERO }
    }

    pub(super) fn after(self, status: Option<StatusCode>, elapsed: Duration) -> Self {
        Self { status: status.map(|status| status.as_u16()), elapsed, ..self }
    }

    pub(super) fn sent(&self, host: &str, correlation_id: Option<&str>) {
        let Self { what, grant, attempt, .. } = *self;
        log::event!(debug, grant, host, attempt, correlation_id, "{what} sent");
    }

    pub(super) fn answered(&self, host: &str, correlation_id: Option<&str>) {
        let Self { what, grant, attempt, status, .. } = *self;
        let elapsed_ms = milliseconds(self.elapsed);
        log::event!(info, grant, host, attempt, status, correlation_id, elapsed_ms, "{what} answered");
    }

    /// Logs the failure, after it got the correlation id that belongs to it.
    pub(super) fn failed(&self, host: &str, correlation_id: Option<&str>, failure: Failure) -> Failure {
        let Failure { error, fate, timed_out } = failure;
        let error = error.with_correlation_id(correlation_id.map(str::to_owned));
        // A reply that names another base URI is an answer: the request goes there.
        if matches!(fate, Fate::Elsewhere(_)) {
            self.answered(host, correlation_id);
        } else {
            self.warn(host, &error);
        }
        Failure { error, fate, timed_out }
    }

    fn warn(&self, host: &str, error: &Error) {
        let Self { what, grant, attempt, status, .. } = *self;
        let code = error.code().map(ConcurCode::number);
        let (correlation_id, elapsed_ms) = (error.correlation_id(), milliseconds(self.elapsed));
        let cause = log::causes(error);
        log::event!(
            warn,
            grant,
            host,
            attempt,
            status,
            code,
            correlation_id,
            elapsed_ms,
            %error,
            cause,
            "{what} failed"
        );
    }
}

pub(super) fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// For a simulated Concur.
#[cfg(test)]
impl Response {
    pub(crate) fn json(status: u16, body: &serde_json::Value, headers: Headers) -> Self {
        let status = StatusCode::from_u16(status).unwrap();
        Self { status, headers, body: Zeroizing::new(body.to_string().into_bytes()), cut: None }
    }
}

/// For a simulated Concur.
#[cfg(test)]
impl Headers {
    /// No header at all.
    pub(crate) fn none(received_at: SystemTime) -> Self {
        Self { received_at, server_time: None, retry_after: None, location: None, correlation_id: None }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_date_of_a_clock_that_was_never_set_is_no_date() {
        for (date, is_date) in [
            ("Thu, 01 Jan 1970 00:10:00 GMT", false),
            ("Sun, 09 Sep 2001 01:46:39 GMT", false),
            ("Sun, 09 Sep 2001 01:46:40 GMT", true),
            ("soon", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::DATE, date.parse().unwrap());
            let read = Headers::of(&headers, SystemTime::UNIX_EPOCH, |_| true);
            assert_eq!(read.server_time.is_some(), is_date, "{date}");
        }
    }

    #[test]
    fn an_entry_knows_how_long_the_answer_took() {
        let grant = crate::Grant::refresh_token("r");
        let elapsed = Duration::from_millis(41);
        let entry = Entry::new(grant.request(), 2).after(Some(StatusCode::OK), elapsed);
        assert_eq!((entry.attempt, entry.status, entry.elapsed), (2, Some(200), elapsed));
    }

    proptest! {
        #![proptest_config(crate::seed::seeded())]

        #[test]
        fn retry_after_is_seconds_or_a_date_or_nothing(
            text: String,
            seconds: u64,
            pause in 0..1_000_000_000_u64,
            now in 0..4_000_000_000_u64,
        ) {
            let now = clock::from_unix_seconds(now).unwrap();
            let _ = retry_after(&text, now);
            prop_assert_eq!(retry_after(&seconds.to_string(), now), Some(Duration::from_secs(seconds)));
            let date = |at| httpdate::fmt_http_date(at);
            prop_assert_eq!(
                retry_after(&date(now + Duration::from_secs(pause)), now),
                Some(Duration::from_secs(pause))
            );
            prop_assert_eq!(retry_after(&date(SystemTime::UNIX_EPOCH), now), Some(Duration::ZERO));
        }
    }
}
