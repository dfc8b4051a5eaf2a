//! One request and its reply, and what the log says of both.

use std::time::Duration;

use reqwest::{RequestBuilder, Response, StatusCode, header};
use zeroize::Zeroizing;

use super::{
    Form, OAuthClient,
    answer::{self, Answer},
    attempts::{Failure, Fate, milliseconds},
    reply::{self, Headers},
    unreachable::{self, Cut},
};
use crate::{Clock, ConcurCode, Credentials, Error, ErrorKind, Geolocation, clock::Stopwatch, log};

/// The most that is read of a reply.
const MAX_REPLY: usize = 256 * 1024;
/// What room is made for a reply that does not announce its length.
const USUAL_REPLY: usize = 8 * 1024;

/// A request that is to be sent, perhaps once more.
#[derive(Clone, Copy)]
pub(super) struct Attempt<'a> {
    pub(super) base: &'a Geolocation,
    pub(super) form: &'a Form,
    pub(super) clock: &'a dyn Clock,
    pub(super) number: u32,
    /// Concur itself has named this base.
    pub(super) followed: bool,
}

/// A reply with status 200, to be made sense of.
pub(super) struct Answered<'a> {
    pub(super) body: &'a [u8],
    /// Why it may not be all of it.
    pub(super) cut: Option<Cut>,
    pub(super) form: &'a Form,
    pub(super) headers: &'a Headers,
    pub(super) base: &'a Geolocation,
    pub(super) followed: bool,
    pub(super) entry: &'a Entry,
}

impl OAuthClient {
    /// One request. What goes wrong is told to the log here; of a reply the log is told by whoever keeps it.
    pub(super) async fn post<T>(
        &self,
        attempt: Attempt<'_>,
        credentials: &Credentials,
        understand: impl Fn(Answered<'_>) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let Attempt { base, form, followed, .. } = attempt;
        let request = self
            .0
            .client(base)?
            .post(base.join(form.path())?)
            // With a charset parameter Concur rejects the request.
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .header(header::ACCEPT, "application/json")
            .body(form.encoded(credentials));
        let request = with_correlation_id(request, form.correlation_id())?;
        let received = Received::of(request, attempt, |id| form.leaks_into(id, credentials)).await?;
        let Received { status, headers, body, cut, entry } = received;
        let result = match (status, cut) {
            (StatusCode::OK, cut) => {
                let headers = &headers;
                understand(Answered { body: &body, cut, form, headers, base, followed, entry: &entry })
            }
            (status, cut) => Err(refusal_in(status, cut, &headers, &body, base, form)),
        };
        result.map_err(|failure| entry.failed_with(base.host(), &headers, failure))
    }
}

/// What came back for a request, with whatever status.
pub(super) struct Received {
    pub(super) status: StatusCode,
    pub(super) headers: Headers,
    pub(super) body: Zeroizing<Vec<u8>>,
    pub(super) cut: Option<Cut>,
    pub(super) entry: Entry,
}

impl Received {
    /// `is_secret` tells whether a text that the server chose holds a secret of the request.
    pub(super) async fn of(
        request: RequestBuilder,
        attempt: Attempt<'_>,
        is_secret: impl Fn(&str) -> bool,
    ) -> Result<Self, Failure> {
        let Attempt { base, form, clock, number, .. } = attempt;
        let host = base.host();
        let entry = Entry::new(form.what(), form.grant_type(), number);
        entry.sent(host, form.correlation_id());
        let watch = Stopwatch::start();
        let response = match request.send().await {
            Ok(response) => response,
            Err(e) => {
                let Failure { error, fate } = unreachable::failure(e, host, form);
                let error = error.with_correlation_id(form.correlation_id().map(str::to_owned));
                entry.after(None, &watch).failed(host, &error);
                return Err(Failure { error, fate });
            }
        };
        let status = response.status();
        let mut headers = Headers::of(&response, clock.now(), is_secret);
        if headers.correlation_id.is_none() {
            headers.correlation_id = form.correlation_id().map(str::to_owned);
        }
        let (body, cut) = read(response).await;
        Ok(Self { status, headers, body, cut, entry: entry.after(Some(status), &watch) })
    }
}

/// What a reply without success means.
pub(super) fn refusal_in(
    status: StatusCode,
    cut: Option<Cut>,
    headers: &Headers,
    body: &[u8],
    base: &Geolocation,
    form: &Form,
) -> Failure {
    let location = headers.location.as_deref();
    let answer = Answer { base, status, location, retry_after: headers.retry_after };
    let Failure { error, fate } = answer::failure(&answer, body, form);
    // The status says what became of the request, whatever became of the words that explain it.
    Failure {
        error: match cut {
            Some(cut) => error.caused_by(cut),
            None => error,
        },
        fate,
    }
}

fn with_correlation_id(request: RequestBuilder, id: Option<&str>) -> Result<RequestBuilder, Error> {
    let Some(id) = id else {
        return Ok(request);
    };
    let id = header::HeaderValue::from_str(id).map_err(|e| {
        Error::new(
            ErrorKind::Config,
            "the grant's correlation id does not fit into an HTTP header; use visible ASCII",
        )
        .caused_by(e)
    })?;
    Ok(request.header(reply::CORRELATION_ID, id))
}

/// What came of the body, and why no more.
async fn read(mut response: Response) -> (Zeroizing<Vec<u8>>, Option<Cut>) {
    let announced = response.content_length().and_then(|length| usize::try_from(length).ok());
    let mut body = Zeroizing::new(Vec::with_capacity(announced.unwrap_or(USUAL_REPLY).min(MAX_REPLY)));
    loop {
        let chunk = match response.chunk().await {
            Ok(Some(chunk)) => chunk,
            Ok(None) => return (body, None),
            Err(e) => return (body, Some(Cut::Off(e.without_url()))),
        };
        let length = body.len() + chunk.len();
        if length > MAX_REPLY {
            return (body, Some(Cut::TooLong));
        }
        if length > body.capacity() {
            // Not left to the vector, which would free the old buffer unwiped.
            let mut larger = Zeroizing::new(Vec::with_capacity(2 * length));
            larger.extend_from_slice(&body);
            body = larger;
        }
        body.extend_from_slice(&chunk);
    }
}

/// What the log says of a request.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    /// Such as "token request".
    what: &'static str,
    grant: Option<&'static str>,
    attempt: u32,
    status: Option<u16>,
    elapsed: Duration,
}

impl Entry {
    pub(super) fn new(what: &'static str, grant: Option<&'static str>, attempt: u32) -> Self {
        Self { what, grant, attempt, status: None, elapsed: Duration::ZERO }
    }

    fn after(self, status: Option<StatusCode>, watch: &Stopwatch) -> Self {
        Self { status: status.map(|status| status.as_u16()), elapsed: watch.elapsed(), ..self }
    }

    fn sent(&self, host: &str, correlation_id: Option<&str>) {
        let Self { what, grant, attempt, .. } = *self;
        log::event!(debug, grant, host, attempt, correlation_id, "{what} sent");
    }

    pub(super) fn answered(&self, host: &str, correlation_id: Option<&str>) {
        let Self { what, grant, attempt, status, .. } = *self;
        let elapsed_ms = self.elapsed_ms();
        log::event!(info, grant, host, attempt, status, correlation_id, elapsed_ms, "{what} answered");
    }

    fn failed(&self, host: &str, error: &Error) {
        let Self { what, grant, attempt, status, .. } = *self;
        let code = error.code().map(ConcurCode::number);
        let (correlation_id, elapsed_ms) = (error.correlation_id(), self.elapsed_ms());
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
            "{what} failed"
        );
    }

    /// The failure with the reply's correlation id, told to the log.
    pub(super) fn failed_with(&self, host: &str, headers: &Headers, failure: Failure) -> Failure {
        let error = failure.error.with_correlation_id(headers.correlation_id.clone());
        match failure.fate {
            Fate::Elsewhere(_) => self.answered(host, error.correlation_id()),
            _ => self.failed(host, &error),
        }
        Failure { error, ..failure }
    }

    fn elapsed_ms(&self) -> u64 {
        milliseconds(self.elapsed)
    }
}
