//! The bearer token for API calls.

use std::{
    fmt,
    sync::{Arc, OnceLock},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use reqwest::header::HeaderValue;
use time::OffsetDateTime;
use zeroize::Zeroizing;

use crate::{Geolocation, clock, secret::Secret};

/// A bearer token, the time when it expires, and the base URI to use it at. Cheap to clone.
///
/// ```no_run
/// # async fn example(tokens: concur_auth::TokenManager, http: concur_auth::reqwest::Client)
/// # -> Result<(), Box<dyn std::error::Error>> {
/// let access = tokens.access_token().await?;
/// let users = http
///     .get(access.geolocation().join("profile/identity/v4/Users")?)
///     .bearer_auth(access.secret())
///     .send()
///     .await?;
/// # Ok(()) }
/// ```
///
/// Source: RFC 6750 section 2.1; SAP Concur developer centre, "Tutorial 3".
#[derive(Clone)]
pub struct AccessToken(Arc<Inner>);

struct Inner {
    issued: IssuedAccess,
    geolocation: Geolocation,
    scopes: Arc<[String]>,
    /// Made when it is first asked for.
    authorization: OnceLock<HeaderValue>,
}

/// A token that is younger lasts as long as any caller asks for.
const JUST_ISSUED: Duration = Duration::from_secs(60);

/// An access token as stored: its text, when it expires by our clock, and how long it lived when new.
#[derive(Clone)]
pub(crate) struct IssuedAccess {
    pub(crate) secret: Secret,
    pub(crate) expires_at: SystemTime,
    pub(crate) lifetime: Duration,
}

impl AccessToken {
    pub(crate) fn new(issued: IssuedAccess, geolocation: Geolocation, scopes: Arc<[String]>) -> Self {
        Self(Arc::new(Inner { issued, geolocation, scopes, authorization: OnceLock::new() }))
    }

    pub(crate) fn issued(&self) -> &IssuedAccess {
        &self.0.issued
    }

    pub(crate) fn left(&self, now: SystemTime) -> Duration {
        self.0.issued.expires_at.duration_since(now).unwrap_or_default()
    }

    /// Whether it is valid for so long, or as long as a new token is.
    pub(crate) fn lasts(&self, least: Duration, now: SystemTime) -> bool {
        self.left(now) >= least.min(self.0.issued.lifetime.saturating_sub(JUST_ISSUED))
    }

    /// The value of the header `Authorization` (RFC 6750 section 2.1), marked as sensitive.
    ///
    /// It is made at the first call; its clones, as this function returns one, allocate nothing. The memory is wiped with the last
    /// of them.
    ///
    /// ```no_run
    /// # fn example(access: concur_auth::AccessToken) {
    /// use concur_auth::reqwest::header::{AUTHORIZATION, HeaderMap};
    ///
    /// let mut headers = HeaderMap::new();
    /// headers.insert(AUTHORIZATION, access.authorization());
    /// # }
    /// ```
    #[must_use]
    pub fn authorization(&self) -> HeaderValue {
        self.0.authorization.get_or_init(|| bearer(self.secret())).clone()
    }

    /// The token itself, for the `Authorization: Bearer` header.
    #[must_use]
    pub fn secret(&self) -> &str {
        self.0.issued.secret.expose()
    }

    /// When the token expires, by this machine's clock.
    #[must_use]
    pub fn expires_at(&self) -> OffsetDateTime {
        clock::public_time(self.0.issued.expires_at)
    }

    /// The base URI to call APIs at.
    #[must_use]
    pub fn geolocation(&self) -> &Geolocation {
        &self.0.geolocation
    }

    /// The scopes granted (RFC 6749 section 3.3); empty if Concur named none.
    pub fn scopes(&self) -> impl Iterator<Item = &str> {
        self.0.scopes.iter().map(String::as_str)
    }
}

fn bearer(secret: &str) -> HeaderValue {
    const SCHEME: &[u8] = b"Bearer ";
    // Sized beforehand: a growing buffer would leave unwiped copies behind.
    let mut text = Zeroizing::new(Vec::with_capacity(SCHEME.len() + secret.len()));
    text.extend_from_slice(SCHEME);
    text.extend_from_slice(secret.as_bytes());
    #[allow(clippy::expect_used, reason = "a token with other characters is no access token")]
    let mut value =
        HeaderValue::from_maybe_shared(Bytes::from_owner(text)).expect("visible ASCII characters");
    value.set_sensitive(true);
    value
}

impl fmt::Debug for AccessToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessToken")
            .field("expires_at", &self.expires_at())
            .field("geolocation", &self.0.geolocation)
            .finish_non_exhaustive()
    }
}
