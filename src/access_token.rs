//! The bearer token for API calls.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use time::OffsetDateTime;

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
}

/// An access token as stored: its text, when it expires by our clock, and how long it lived when new.
#[derive(Clone)]
pub(crate) struct IssuedAccess {
    pub(crate) secret: Secret,
    pub(crate) expires_at: SystemTime,
    pub(crate) lifetime: Duration,
}

impl AccessToken {
    pub(crate) fn new(issued: IssuedAccess, geolocation: Geolocation, scopes: Arc<[String]>) -> Self {
        Self(Arc::new(Inner { issued, geolocation, scopes }))
    }

    pub(crate) fn issued(&self) -> &IssuedAccess {
        &self.0.issued
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

impl fmt::Debug for AccessToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessToken")
            .field("expires_at", &self.expires_at())
            .field("geolocation", &self.0.geolocation)
            .finish_non_exhaustive()
    }
}
