//! Requests over HTTP: one client for https, one for loopback, each built for its first request.
//!
//! Always: a request ends within 30 s, its reply is read up to 256 KiB into memory that is wiped, and no redirect and
//! no retry happens here.

use std::{
    future::Future,
    mem,
    pin::{Pin, pin},
    process,
    sync::{Mutex, OnceLock},
    time::Duration,
};

use reqwest::{RequestBuilder, header, redirect, retry};
use zeroize::Zeroizing;

use super::{
    failure::Failure,
    response::{CORRELATION_ID, Headers, Response},
    transport::{Authorization, OutgoingCall, REQUEST_TIMEOUT, Sent, Transport},
    unreachable::{self, Broken, Cut},
};
#[cfg(feature = "rustls-no-provider")]
use crate::tls;
use crate::{
    Clock as _, Error, ErrorKind, Geolocation, SystemClock,
    caught::locked,
    clock::{Stopwatch, within},
};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The last part of the time for a request.
const TO_READ_WHAT_IS_THERE: Duration = Duration::from_millis(500);
/// The client's own time-out would drop a reply that arrived while the process was suspended.
const NEVER: Duration = Duration::from_secs(86_400);

/// The most that is read of a reply: 256 KiB.
const MAX_REPLY: usize = 262_144;
/// The buffer's first size for a reply that does not announce its length.
const USUAL_REPLY: usize = 8_192;

pub(super) struct Http {
    settings: Mutex<Settings>,
    secure: OnceLock<reqwest::Client>,
    loopback: OnceLock<reqwest::Client>,
    /// The process that builds the clients. Their connections are served there, so a forked child must not use them.
    process: OnceLock<u32>,
}

/// What the client for https is built from.
enum Settings {
    Ours,
    Given(Box<reqwest::ClientBuilder>),
    /// The caller's settings were tried, and this is what came of it. They cannot be tried again, because building consumes them.
    Spent(Error),
}

impl Http {
    pub(super) fn ours() -> Self {
        Self::with(Settings::Ours)
    }

    pub(super) fn given(settings: reqwest::ClientBuilder) -> Self {
        Self::with(Settings::Given(Box::new(settings)))
    }

    fn with(settings: Settings) -> Self {
        let (secure, loopback) = (OnceLock::new(), OnceLock::new());
        Self { settings: Mutex::new(settings), secure, loopback, process: OnceLock::new() }
    }

    /// Plain http is for loopback only, which needs no proxy and no certificates.
    fn client(&self, base: &Geolocation) -> Result<&reqwest::Client, Error> {
        if *self.process.get_or_init(process::id) != process::id() {
            return Err(forked());
        }
        let slot = if base.is_plain() { &self.loopback } else { &self.secure };
        if let Some(client) = slot.get() {
            return Ok(client);
        }
        let mut settings = locked(&self.settings);
        if let Some(client) = slot.get() {
            return Ok(client);
        }
        let client = if base.is_plain() {
            build(for_loopback()?)
        } else {
            match &mut *settings {
                Settings::Ours => build(for_https()?),
                Settings::Given(given) => {
                    let given = mem::take(&mut **given);
                    let built = build_given(given);
                    *settings = Settings::Spent(built.as_ref().err().cloned().unwrap_or_else(spent));
                    built?
                }
                Settings::Spent(error) => return Err(error.clone()),
            }
        };
        client.map(|client| slot.get_or_init(|| client)).map_err(|e| match *settings {
            Settings::Spent(_) => spent().caused_by(e.without_url()),
            // The cause may pass, such as too little memory or too many open files: the next request tries again.
            _ => Error::new(
                ErrorKind::Unavailable,
                "could not build the HTTP client; check this machine's certificates, and this process's limits on \
                 memory and open files",
            )
            .caused_by(e.without_url()),
        })
    }

    fn request(&self, call: &OutgoingCall<'_>) -> Result<RequestBuilder, Error> {
        let (client, url) = (self.client(call.base)?, call.url.clone());
        let request = match call.authorization {
            Authorization::App(credentials) => client
                .post(url)
                // With a charset parameter Concur rejects the request.
                .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
                .header(header::ACCEPT, "application/json")
                .body(call.request.encoded(credentials)),
            Authorization::Bearer(access) => client.delete(url).bearer_auth(access.secret()),
        };
        Ok(match &call.correlation_id {
            Some(id) => request.header(CORRELATION_ID, id),
            None => request,
        })
    }

    async fn exchange(&self, call: &OutgoingCall<'_>) -> Result<Response, Failure> {
        let request = self.request(call)?;
        let mut time_is_up = pin!(time_is_up());
        let response = match within(time_is_up.as_mut(), request.send()).await {
            Some(answer) => answer.map_err(Broken::from),
            None => Err(Broken::too_late()),
        };
        let response = response.map_err(|e| unreachable::failure(e, call.base.host(), call.request))?;
        let status = response.status();
        let headers = Headers::of(response.headers(), call.clock.now(), |id| call.may_show(id));
        let (body, cut) = read(response, time_is_up).await;
        Ok(Response { status, headers, body, cut })
    }
}

impl Transport for Http {
    fn prepare(&self, base: &Geolocation) -> Result<(), Error> {
        self.client(base).map(drop)
    }

    fn send<'a>(&'a self, call: &'a OutgoingCall<'a>) -> Pin<Box<dyn Future<Output = Sent> + Send + 'a>> {
        Box::pin(async move {
            // A request takes real time, so the injected clock cannot measure it.
            let watch = Stopwatch::start();
            let outcome = self.exchange(call).await;
            Sent { elapsed: watch.elapsed(), outcome }
        })
    }
}

/// Plain http needs no proxy and no certificates. reqwest asks for cryptography all the same.
fn for_loopback() -> Result<reqwest::ClientBuilder, Error> {
    let settings = reqwest::Client::builder().no_proxy();
    #[cfg(feature = "rustls-no-provider")]
    let settings = {
        tls::cryptography()?;
        settings.tls_backend_rustls().tls_certs_only([])
    };
    Ok(settings)
}

#[cfg(feature = "rustls-no-provider")]
fn for_https() -> Result<reqwest::ClientBuilder, Error> {
    tls::cryptography().map(|_| reqwest::Client::builder().tls_backend_rustls())
}

/// What TLS reqwest has then, and with which defaults, only the caller knows.
#[cfg(not(feature = "rustls-no-provider"))]
fn for_https() -> Result<reqwest::ClientBuilder, Error> {
    Err(no_tls())
}

#[cfg(not(feature = "rustls-no-provider"))]
fn no_tls() -> Error {
    Error::new(
        ErrorKind::Config,
        "this program is built without TLS for Concur; enable the feature `rustls` of concur-auth, or give a client with \
         other TLS to http_client",
    )
}

/// Whether reqwest has TLS, which depends on features that other crates ask for. Without TLS it would send a request for https to
/// a proxy in clear text.
///
/// Where reqwest has TLS, its client builder has a method `tls_certs_merge`, which takes precedence over the trait's.
#[cfg(not(feature = "rustls-no-provider"))]
#[allow(
    dead_code,
    unused_imports,
    reason = "one half is used where reqwest has TLS, the other where it has none"
)]
mod has_tls {
    use std::convert::Infallible;

    use reqwest::ClientBuilder;

    pub(super) struct NoTls;

    pub(super) trait WithoutTls: Sized {
        fn tls_certs_merge(self, _: [Infallible; 0]) -> NoTls {
            NoTls
        }
    }

    impl WithoutTls for ClientBuilder {}

    pub(super) trait Checked {
        fn checked(self) -> Option<ClientBuilder>;
    }

    impl Checked for ClientBuilder {
        fn checked(self) -> Option<ClientBuilder> {
            Some(self)
        }
    }

    impl Checked for NoTls {
        fn checked(self) -> Option<ClientBuilder> {
            None
        }
    }

    pub(super) fn checked(settings: ClientBuilder) -> Option<ClientBuilder> {
        settings.tls_certs_merge([]).checked()
    }
}

/// Where rustls lacks cryptography, reqwest panics; only the caller knows whether these settings bring their own.
fn build_given(settings: reqwest::ClientBuilder) -> Result<Result<reqwest::Client, reqwest::Error>, Error> {
    #[cfg(feature = "rustls-no-provider")]
    if let Err(missing) = tls::cryptography() {
        let built = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| build(settings)));
        return built.map_err(|_| missing);
    }
    #[cfg(not(feature = "rustls-no-provider"))]
    let settings = has_tls::checked(settings).ok_or_else(no_tls)?;
    Ok(build(settings))
}

fn build(settings: reqwest::ClientBuilder) -> Result<reqwest::Client, reqwest::Error> {
    // Without this feature reqwest may have no TLS, and then not this method either.
    #[cfg(feature = "rustls-no-provider")]
    let settings = settings.tls_version_min(reqwest::tls::Version::TLS_1_2);
    settings
        .user_agent(concat!("concur-auth/", env!("CARGO_PKG_VERSION")))
        .redirect(redirect::Policy::none())
        // A grant that was sent may have been used; retry.rs decides whether it may be repeated.
        .retry(retry::never())
        .referer(false)
        // Another crate may have enabled these features, and a small compressed reply can unpack to a huge one.
        .no_gzip()
        .no_brotli()
        .no_deflate()
        .no_zstd()
        .connect_timeout(CONNECT_TIMEOUT)
        .timeout(NEVER)
        .read_timeout(NEVER)
        .build()
}

/// After [`REQUEST_TIMEOUT`]. Its last part begins only once the rest is over: a process that was suspended meanwhile has the time
/// to read a reply that has arrived already, in which there may be the only refresh token.
async fn time_is_up() {
    SystemClock.sleep(REQUEST_TIMEOUT.saturating_sub(TO_READ_WHAT_IS_THERE)).await;
    SystemClock.sleep(TO_READ_WHAT_IS_THERE).await;
}

fn forked() -> Error {
    Error::new(
        ErrorKind::Config,
        "this process was forked after its parent had sent requests with this OAuthClient, whose connections belong to the \
         parent; make a new OAuthClient, and new managers on it, in the forked process",
    )
}

fn spent() -> Error {
    Error::new(
        ErrorKind::Config,
        "no HTTP client could be built from the settings given to http_client; check them, this machine's \
         certificates, and this process's limits on open files, then start the program again",
    )
}

/// The body, and why it may be incomplete.
async fn read(
    mut response: reqwest::Response,
    mut time_is_up: Pin<&mut impl Future<Output = ()>>,
) -> (Zeroizing<Vec<u8>>, Option<Cut>) {
    let announced = response.content_length().and_then(|length| usize::try_from(length).ok());
    let mut body = Zeroizing::new(Vec::with_capacity(announced.unwrap_or(USUAL_REPLY).min(MAX_REPLY)));
    loop {
        let chunk = match within(time_is_up.as_mut(), response.chunk()).await {
            Some(Ok(Some(chunk))) => chunk,
            Some(Ok(None)) => return (body, None),
            Some(Err(e)) => return (body, Some(Cut::Off(e.into()))),
            None => return (body, Some(Cut::Off(Broken::too_late()))),
        };
        if body.len() + chunk.len() > MAX_REPLY {
            return (body, Some(Cut::TooLong));
        }
        append(&mut body, &chunk);
    }
}

/// A vector that grows by itself frees its old buffer unwiped.
fn append(body: &mut Zeroizing<Vec<u8>>, chunk: &[u8]) {
    let length = body.len() + chunk.len();
    if length > body.capacity() {
        let mut larger = Zeroizing::new(Vec::with_capacity(2 * length));
        larger.extend_from_slice(body);
        *body = larger;
    }
    body.extend_from_slice(chunk);
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn what_keeps_a_client_from_being_made_is_found_before_a_request_has_its_turn() {
        let http = Http::given(reqwest::Client::builder().user_agent("\n"));
        let base = "https://us.api.concursolutions.com".parse().unwrap();
        assert_eq!(http.prepare(&base).unwrap_err().kind(), ErrorKind::Config);
    }

    /// In the reply may be the only refresh token.
    #[tokio::test]
    async fn a_read_time_out_of_the_program_drops_no_reply() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let uri = format!("http://{}", listener.local_addr().unwrap());
        let (too_late, is_too_late) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let (mut connection, _) = listener.accept().unwrap();
            is_too_late.recv().unwrap();
            connection.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").unwrap();
        });
        let time_out = Duration::from_millis(10);
        let client = build(reqwest::Client::builder().no_proxy().read_timeout(time_out)).unwrap();
        let reply = tokio::spawn(client.get(uri).send());
        SystemClock.sleep(20 * time_out).await;
        too_late.send(()).unwrap();
        assert_eq!(reply.await.unwrap().unwrap().status(), 204);
    }

    #[test]
    fn a_body_never_grows_by_itself() {
        let mut body = Zeroizing::new(Vec::with_capacity(8));
        append(&mut body, b"1234");
        append(&mut body, b"5678");
        assert_eq!(body.capacity(), 8);
        append(&mut body, b"9");
        assert_eq!((body.as_slice(), body.capacity()), (&b"123456789"[..], 18));
    }
}
