//! Concur's OAuth2 endpoints: one request is sent, one reply returned.
//!
//! Always: secrets are sent in the body or a header, never in a URL, and only to a checked host. A request ends within
//! 30 s, and its reply is read up to 256 KiB.

// From the grant to its reply.
mod retry;
// One request and its reply.
mod request;
// When requests are sent, and how many at once.
mod budget;
mod gated;
mod host_gate;
mod rate;
// The seam, and HTTP below it.
mod http;
mod transport;
// What is sent, and what comes back.
mod error_reply;
mod failure;
mod grant;
mod outgoing_request;
mod reply;
mod response;
mod unreachable;
// Further ways to sign in, and signing out.
mod authorize;
mod completion;
mod otp;
mod revocation;
// For the targets in `fuzz/`.
#[cfg(fuzzing)]
pub(crate) mod fuzzing;

use std::{fmt, sync::Arc, time::SystemTime};

pub use self::{
    authorize::{AuthorizationRequest, AuthorizationReturn},
    grant::Grant,
    otp::OneTimePasswordRequest,
    reply::TokenReply,
};
pub(crate) use self::{
    budget::{Conditions, Hold, RetryBudget},
    grant::SignsIn,
    reply::Accepted,
    revocation::NotRevoked,
    transport::{REQUEST_TIMEOUT, Transport},
};
use self::{completion::to_completion, gated::Gated, http::Http, rate::Rate, retry::send_with_retries};
#[cfg(test)]
pub(crate) use self::{
    failure::Failure,
    response::{Headers, Response},
    transport::{OutgoingCall, Sent},
};
use crate::{Credentials, Error, Geolocation};

/// How many requests to one host run at once, unless the program says otherwise. Flights have no more threads than that.
const MOST_AT_ONCE: usize = 64;

/// Concur's OAuth2 endpoints. Clones share one pool of connections, and so do managers that were given a clone.
///
/// The HTTP client is built at the first request.
///
/// Clones also share what is known of each host, whichever of them asked:
///
/// - At most 64 requests to one host run at once ([`max_concurrent_requests`](Self::max_concurrent_requests)); further
///   requests wait in the order in which they came.
/// - With [`max_requests_per_second`](Self::max_requests_per_second), requests are sent an equal time apart.
/// - After a 429, or a 5xx without one of Concur's codes, that has a `Retry-After`, nothing is sent to that host until
///   the named time, or for an hour at most: the error is the same answer again, with the time of the next attempt in
///   [`retry_after`](Error::retry_after). With a code, such as 134, the pause concerns one principal, and the principal's
///   manager keeps it.
/// - After three time-outs in a row the host gets one request at a time until it answers one.
///
/// ```no_run
/// use concur_auth::{Credentials, Geolocation, Grant, OAuthClient};
///
/// # async fn example() -> Result<(), concur_auth::Error> {
/// let client = OAuthClient::new();
/// let glz: Geolocation = "https://glz.api.concursolutions.com".parse()?;
/// let app = Credentials::new("the app's id", "its secret");
/// let grant = Grant::company_request_token("the UUID", "the token");
/// let reply = client.request_token(&glz, &app, &grant).await?;
/// let to_be_stored = reply.refresh_token_object();
/// # Ok(()) }
/// ```
///
/// Source: SAP Concur developer centre, "Authentication API"; RFC 6749 sections 4 to 6.
#[derive(Clone)]
pub struct OAuthClient(Arc<Gated>);

impl OAuthClient {
    /// A client with the platform's certificates and the proxy that the environment variables name.
    #[must_use]
    pub fn new() -> Self {
        Self::over(Arc::new(Http::ours()))
    }

    /// A client with your own HTTP settings: proxy, certificates, addresses. This crate sets redirects, retries, TLS
    /// version and time-outs. See [`TokenManagerBuilder::http_client`](crate::TokenManagerBuilder::http_client).
    pub fn with_http_client(settings: reqwest::ClientBuilder) -> Self {
        Self::over(Arc::new(Http::given(settings)))
    }

    /// A client of a simulated Concur.
    #[cfg(test)]
    pub(crate) fn on(transport: impl Transport + 'static) -> Self {
        Self::over(Arc::new(transport))
    }

    fn over(transport: Arc<dyn Transport>) -> Self {
        Self(Arc::new(Gated::new(transport, MOST_AT_ONCE, None)))
    }

    /// How many requests to one host run at once. Default: 64; 0 counts as 1.
    ///
    /// A request that has waited 60 seconds for its turn (30 while its manager holds something valid) is not sent and
    /// fails as [`ErrorKind::Unavailable`](crate::ErrorKind::Unavailable).
    ///
    /// Call it before the client is cloned: the returned client uses the same connections, but it counts, and pauses, for
    /// itself and its own clones only.
    ///
    /// ```
    /// use concur_auth::{OAuthClient, TokenManager};
    ///
    /// let client = OAuthClient::new().max_concurrent_requests(8);
    /// let first = TokenManager::builder().oauth_client(client.clone());
    /// let second = TokenManager::builder().oauth_client(client);
    /// # drop((first, second));
    /// ```
    #[must_use]
    pub fn max_concurrent_requests(self, most: usize) -> Self {
        let Gated { transport, rate, .. } = &*self.0;
        Self(Arc::new(Gated::new(Arc::clone(transport), most, rate.clone())))
    }

    /// How many requests are sent in a second, to all hosts together: one by one, an equal time apart. Default: no limit.
    ///
    /// A request that does not get its turn within 60 seconds (30 while its manager holds something valid) is not sent and fails as
    /// [`ErrorKind::Unavailable`](crate::ErrorKind::Unavailable). Less than one request a minute counts as one a minute, and so
    /// does what is no positive number.
    ///
    /// As with [`max_concurrent_requests`](Self::max_concurrent_requests), the returned client counts for itself and its own
    /// clones only.
    ///
    /// ```
    /// use concur_auth::OAuthClient;
    ///
    /// let client = OAuthClient::new().max_requests_per_second(20.0);
    /// # drop(client);
    /// ```
    #[must_use]
    pub fn max_requests_per_second(self, most: f64) -> Self {
        let Gated { transport, gates, .. } = &*self.0;
        let rate = Some(Arc::new(Rate::per_second(most)));
        Self(Arc::new(Gated::new(Arc::clone(transport), gates.most_at_once(), rate)))
    }

    /// Sends one grant to the token endpoint at `base`. If Concur answers that the principal lives elsewhere (code
    /// 16, or a redirect of an implementation site), the grant is sent there, to trusted hosts only.
    ///
    /// A failure is returned, not repeated: [`is_transient`](Error::is_transient) and
    /// [`retry_after`](Error::retry_after) say whether and when to try again. A company request token has five uses; a
    /// lost reply may have used one.
    ///
    /// The request continues after the returned future is dropped, but then its reply is lost. A
    /// [`TokenManager`](crate::TokenManager) saves the reply in any case.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Refused`] with Concur's code; [`ErrorKind::Unavailable`] when the network or the server fails, the
    /// company is under maintenance, the host has asked for a pause (then nothing was sent), or other requests of this
    /// client left no turn for 60 seconds (the same); [`ErrorKind::Untrusted`] when the server has no certificate that this machine
    /// accepts (then nothing was sent); [`ErrorKind::Protocol`] when the reply is not a reply of Concur's token
    /// endpoint; [`ErrorKind::Config`] when no HTTP client can be built.
    ///
    /// [`ErrorKind::Refused`]: crate::ErrorKind::Refused
    /// [`ErrorKind::Unavailable`]: crate::ErrorKind::Unavailable
    /// [`ErrorKind::Untrusted`]: crate::ErrorKind::Untrusted
    /// [`ErrorKind::Protocol`]: crate::ErrorKind::Protocol
    /// [`ErrorKind::Config`]: crate::ErrorKind::Config
    pub async fn request_token(
        &self,
        base: &Geolocation,
        credentials: &Credentials,
        grant: &Grant,
    ) -> Result<TokenReply, Error> {
        let (client, base, grant) = (self.clone(), base.clone(), grant.clone());
        let credentials = credentials.clone();
        to_completion(async move {
            let budget = RetryBudget::one_attempt();
            let conditions = Conditions::without_manager(&budget);
            let reply = client.send(&base, &credentials, &grant, &conditions).await?;
            reply.log();
            Ok(reply)
        })
        .await
    }

    /// The answer in which the host asked for a pause, while that lasts.
    pub(crate) fn check_pause(&self, base: &Geolocation, now: SystemTime) -> Result<(), Error> {
        self.0.check_pause(base, now)
    }

    /// Sends a grant until it is answered or the budget is used up, on the caller's executor. With HTTP that must be
    /// this crate's own runtime, which owns the connections.
    pub(crate) async fn send(
        &self,
        base: &Geolocation,
        credentials: &Credentials,
        grant: &Grant,
        conditions: &Conditions<'_>,
    ) -> Result<TokenReply, Error> {
        let sent = (credentials, grant.request());
        send_with_retries(&self.0, base, sent, conditions, TokenReply::read).await
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

#[cfg(test)]
mod tests;
