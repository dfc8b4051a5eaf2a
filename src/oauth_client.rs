//! The token endpoint: one grant out, one reply back.
//!
//! Always: secrets travel in the body, to a checked host; a request ends within 30 s, and its reply is read up to 256
//! KiB.

mod attempts;
mod grant;
mod refusal;
mod reply;
mod unreachable;

use std::{
    fmt, mem,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use reqwest::{Response, StatusCode, header, redirect, retry, tls};
use url::form_urlencoded;
use zeroize::Zeroizing;

pub(crate) use self::attempts::Patience;
use self::{
    attempts::{Failure, Fate},
    refusal::Answer,
    unreachable::Cut,
};
pub use self::{grant::Grant, reply::TokenReply};
use crate::{
    Clock, ConcurCode, Credentials, Error, ErrorKind, Geolocation, SystemClock, clock::Stopwatch, log,
    runtime,
};

const TOKEN_PATH: &str = "oauth2/v0/token";
/// The most that is read of a reply.
const MAX_REPLY: usize = 256 * 1024;
/// What room is made for a reply that does not announce its length.
const USUAL_REPLY: usize = 8 * 1024;
/// The most that one request may take, its reply included.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Concur's OAuth2 token endpoint. Clones share one pool of connections, as do managers that were given one.
///
/// Nothing is built before the first request.
///
/// ```no_run
/// use concur_auth::{Credentials, Geolocation, Grant, OAuthClient};
///
/// # async fn example() -> Result<(), concur_auth::Error> {
/// let client = OAuthClient::new();
/// let glz: Geolocation = "https://glz.api.concursolutions.com".parse()?;
/// let app = Credentials::new("the app's id", "its secret");
/// let reply = client.request_token(&glz, &app, &Grant::company_request_token("the UUID", "the token")).await?;
/// let to_be_stored = reply.refresh_token_object();
/// # Ok(()) }
/// ```
///
/// Source: SAP Concur developer centre, "Authentication API"; RFC 6749 sections 4 to 6.
#[derive(Clone)]
pub struct OAuthClient(Arc<Http>);

struct Http {
    settings: Mutex<Settings>,
    secure: OnceLock<reqwest::Client>,
    loopback: OnceLock<reqwest::Client>,
}

/// What the client for https is to be built of.
enum Settings {
    Ours,
    Given(Box<reqwest::ClientBuilder>),
    /// Given and tried, which can be done once.
    Spent,
}

impl OAuthClient {
    /// A client with the platform's certificates and the proxy that the environment names.
    #[must_use]
    pub fn new() -> Self {
        Self::with(Settings::Ours)
    }

    /// A client on your own HTTP settings: proxy, certificates, addresses. Redirects, retries, TLS version and
    /// time-outs are set by this crate.
    pub fn with_http_client(settings: reqwest::ClientBuilder) -> Self {
        Self::with(Settings::Given(Box::new(settings)))
    }

    fn with(settings: Settings) -> Self {
        Self(Arc::new(Http {
            settings: Mutex::new(settings),
            secure: OnceLock::new(),
            loopback: OnceLock::new(),
        }))
    }

    /// Sends one grant to the token endpoint at `base`, and follows it to where Concur says that the principal lives
    /// (code 16, redirects of implementation sites): to trusted hosts only.
    ///
    /// A failure is returned, not repeated: [`is_transient`](Error::is_transient) and
    /// [`retry_after`](Error::retry_after) say whether and when to try again. A company request token has five uses;
    /// after a reply that was lost, one may be spent.
    ///
    /// The request goes on when the returned future is dropped; a [`TokenManager`](crate::TokenManager) also
    /// saves what comes back.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Refused`] with Concur's code; [`ErrorKind::Unavailable`] when the network, the server or the
    /// company's maintenance is in the way; [`ErrorKind::Untrusted`] when the server has no certificate that this
    /// machine accepts (nothing was sent then); [`ErrorKind::Protocol`] when the reply is not one;
    /// [`ErrorKind::Config`] when no HTTP client can be built.
    pub async fn request_token(
        &self,
        base: &Geolocation,
        credentials: &Credentials,
        grant: &Grant,
    ) -> Result<TokenReply, Error> {
        let (client, base, grant) = (self.clone(), base.clone(), grant.clone());
        let credentials = credentials.clone();
        let request = async move {
            let reply = client.send(&base, &credentials, &grant, &SystemClock, Patience::OneAttempt).await?;
            reply.log();
            Ok(reply)
        };
        // Connections belong to the runtime that opened them, and the caller's may end.
        runtime::handle()?.spawn(request).await.map_err(|e| {
            Error::new(ErrorKind::Config, "the request did not come to an end; please report this")
                .caused_by(e)
        })?
    }

    /// One request. What goes wrong is told to the log here; of a reply the log is told by whoever keeps it.
    async fn post(
        &self,
        base: &Geolocation,
        credentials: &Credentials,
        grant: &Grant,
        clock: &dyn Clock,
        attempt: u32,
        limit: Duration,
    ) -> Result<TokenReply, Failure> {
        let (host, watch) = (base.host(), Stopwatch::start());
        let mut request = self
            .http(base)?
            .post(base.join(TOKEN_PATH)?)
            .timeout(limit.min(REQUEST_TIMEOUT))
            // With a charset parameter Concur rejects the request.
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .header(header::ACCEPT, "application/json")
            .body(form(credentials, grant));
        if let Some(id) = grant.correlation_id() {
            let id = header::HeaderValue::from_str(id).map_err(|e| {
                Error::new(
                    ErrorKind::Config,
                    "the grant's correlation id does not fit into an HTTP header; use visible ASCII",
                )
                .caused_by(e)
            })?;
            request = request.header(reply::CORRELATION_ID, id);
        }
        log::event!(debug, grant = grant.name(), host, attempt, "token request sent");
        let response = match request.send().await {
            Ok(response) => response,
            Err(e) => {
                let failure = unreachable::failure(e, host, grant);
                let entry = Entry { grant: grant.name(), attempt, status: None, elapsed: watch.elapsed() };
                entry.failed(host, &failure.error);
                return Err(failure);
            }
        };

        let status = response.status();
        let headers = reply::Headers::of(&response, clock.now(), |id| grant.leaks_into(id, credentials));
        let (body, cut) = read(response).await;
        let entry =
            Entry { grant: grant.name(), attempt, status: Some(status.as_u16()), elapsed: watch.elapsed() };
        let result = match (status, cut) {
            (StatusCode::OK, cut) => TokenReply::read(&body, cut, grant, &headers, base, &entry),
            (_, Some(cut)) => Err(cut.explain(host, grant)),
            (_, None) => {
                let location = headers.location.as_deref();
                let answer = Answer { base, status, location, retry_after: headers.retry_after };
                Err(refusal::failure(&answer, &body, grant))
            }
        };
        result.map_err(|Failure { error, fate }| {
            let error = error.with_correlation_id(headers.correlation_id.clone());
            match fate {
                Fate::Elsewhere(_) => entry.answered(host, error.correlation_id()),
                _ => entry.failed(host, &error),
            }
            Failure { error, fate }
        })
    }

    /// Plain http is for loopback only, where no proxy and no certificate has a place.
    fn http(&self, base: &Geolocation) -> Result<&reqwest::Client, Error> {
        let slot = if base.is_plain() { &self.0.loopback } else { &self.0.secure };
        if let Some(client) = slot.get() {
            return Ok(client);
        }
        let mut settings = self.0.settings.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = slot.get() {
            return Ok(client);
        }
        let client = if base.is_plain() {
            build(reqwest::Client::builder().no_proxy().tls_certs_only([]))
        } else {
            match &mut *settings {
                Settings::Ours => build(reqwest::Client::builder()),
                Settings::Given(given) => {
                    let given = mem::take(&mut **given);
                    *settings = Settings::Spent;
                    build(given)
                }
                Settings::Spent => return Err(spent()),
            }
        };
        client.map(|client| slot.get_or_init(|| client)).map_err(|e| match *settings {
            Settings::Spent => spent().caused_by(e.without_url()),
            // It may pass, as a lack of memory or of open files does: the next request tries again.
            _ => Error::new(
                ErrorKind::Unavailable,
                "could not build the HTTP client; check this machine's certificates, and this process's limits on \
                 memory and open files",
            )
            .caused_by(e.without_url()),
        })
    }
}

/// What the log says of a request.
#[derive(Clone, Debug)]
struct Entry {
    grant: &'static str,
    attempt: u32,
    status: Option<u16>,
    elapsed: Duration,
}

impl Entry {
    fn answered(&self, host: &str, correlation_id: Option<&str>) {
        let Self { grant, attempt, status, .. } = *self;
        let elapsed_ms = self.elapsed_ms();
        log::event!(info, grant, host, attempt, status, correlation_id, elapsed_ms, "token request answered");
    }

    fn failed(&self, host: &str, error: &Error) {
        let Self { grant, attempt, status, .. } = *self;
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
            "token request failed"
        );
    }

    fn elapsed_ms(&self) -> u64 {
        u64::try_from(self.elapsed.as_millis()).unwrap_or(u64::MAX)
    }
}

fn build(settings: reqwest::ClientBuilder) -> Result<reqwest::Client, reqwest::Error> {
    settings
        .user_agent(concat!("concur-auth/", env!("CARGO_PKG_VERSION")))
        .redirect(redirect::Policy::none())
        // A grant that was sent may have been spent; whether to repeat it is decided elsewhere.
        .retry(retry::never())
        .referer(false)
        .tls_version_min(tls::Version::TLS_1_2)
        .connect_timeout(CONNECT_TIMEOUT)
        .timeout(REQUEST_TIMEOUT)
        .build()
}

fn spent() -> Error {
    Error::new(
        ErrorKind::Config,
        "no HTTP client could be built of the settings given to http_client; check them, this machine's certificates, \
         and this process's limits on open files, then start the program again",
    )
}

/// The form, in memory that is wiped once it has been sent.
fn form(credentials: &Credentials, grant: &Grant) -> Bytes {
    let app = [("client_id", credentials.app_id()), ("client_secret", credentials.client_secret())];
    let fields = || app.into_iter().chain(grant.fields());
    // Sized beforehand, all escaped: a growing string would leave unwiped copies behind.
    let size: usize = fields().map(|(name, value)| 3 * (name.len() + value.len()) + 2).sum();
    let form = form_urlencoded::Serializer::new(String::with_capacity(size)).extend_pairs(fields()).finish();
    Bytes::from_owner(Zeroizing::new(form.into_bytes()))
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

impl Default for OAuthClient {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for OAuthClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OAuthClient").finish_non_exhaustive()
    }
}
