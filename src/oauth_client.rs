//! Concur's OAuth2 endpoints: one request out, one reply back.
//!
//! Always: secrets travel in the body, to a checked host; a request ends within 30 s, and its reply is read up to 256
//! KiB.

mod answer;
mod attempts;
mod authorize;
mod exchange;
mod form;
mod grant;
mod http;
mod otp;

mod reply;
mod revocation;
mod unreachable;

use std::{fmt, future::Future, sync::Arc};

pub(crate) use self::{attempts::Patience, grant::SignsIn, reply::Accepted, revocation::NotRevoked};
pub use self::{
    authorize::{AuthorizationRequest, AuthorizationReturn},
    grant::Grant,
    otp::OneTimePasswordRequest,
    reply::TokenReply,
};
use self::{form::Form, http::Http};
use crate::{Clock, Credentials, Error, ErrorKind, Geolocation, SystemClock, runtime};

/// Concur's OAuth2 endpoints. Clones share one pool of connections, as do managers that were given one.
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

impl OAuthClient {
    /// A client with the platform's certificates and the proxy that the environment names.
    #[must_use]
    pub fn new() -> Self {
        Self(Arc::new(Http::ours()))
    }

    /// A client on your own HTTP settings: proxy, certificates, addresses. Redirects, retries, TLS version and
    /// time-outs are set by this crate.
    pub fn with_http_client(settings: reqwest::ClientBuilder) -> Self {
        Self(Arc::new(Http::given(settings)))
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
        to_its_end(async move {
            let reply =
                client.send(&base, &credentials, &grant, &SystemClock, &Patience::one_attempt()).await?;
            reply.log();
            Ok(reply)
        })
        .await
    }

    /// Sends a grant until it is answered, on the runtime that it is called on: this crate's own.
    pub(crate) async fn send(
        &self,
        base: &Geolocation,
        credentials: &Credentials,
        grant: &Grant,
        clock: &dyn Clock,
        patience: &Patience<'_>,
    ) -> Result<TokenReply, Error> {
        self.persist(base, (credentials, grant.form()), clock, patience, TokenReply::read).await
    }
}

/// Runs a request where its connection lives on, and to its end even if nobody waits for it any longer.
async fn to_its_end<T: Send + 'static>(
    request: impl Future<Output = Result<T, Error>> + Send + 'static,
) -> Result<T, Error> {
    // Connections belong to the runtime that opened them, and the caller's may end.
    runtime::handle()?.spawn(request).await.map_err(|e| {
        Error::new(ErrorKind::Config, "the request did not come to an end; please report this").caused_by(e)
    })?
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
