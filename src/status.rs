//! What a manager knows about its tokens, without any secret.

use time::OffsetDateTime;

/// A snapshot of a [`TokenManager`](crate::TokenManager), fit for logs and health checks: it holds no secret.
///
/// ```
/// # async fn example(tokens: concur_auth::TokenManager) -> Result<(), concur_auth::Error> {
/// tokens.get_valid_refresh_token().await?;
/// if tokens.status().unsaved {
///     eprintln!("the newest token is in memory only: look at the disk");
/// }
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Status {
    /// The company that the held token belongs to.
    pub company_uuid: Option<String>,
    /// The base URI of the company's data centre, as received.
    pub geolocation: Option<String>,
    /// When the held refresh token expires.
    pub refresh_token_expires_at: Option<OffsetDateTime>,
    /// When the held access token expires; `None` while none is held.
    pub access_token_expires_at: Option<OffsetDateTime>,
    /// How the held refresh token came to this manager; `None` before the first was held.
    pub source: Option<TokenOrigin>,
    /// The newest token could not be saved yet: it is in memory only, and saving is being retried.
    pub unsaved: bool,
    /// What the last failed renewal said; `None` after one that worked.
    pub last_error: Option<String>,
}

/// How a refresh token came to a manager.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TokenOrigin {
    /// It was in the store.
    Stored,
    /// A refresh grant renewed it.
    Renewed,
    /// A sign-in obtained it.
    Obtained,
}
