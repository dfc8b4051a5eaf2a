//! What a manager knows about its tokens, without any secret.

use std::fmt;

use serde::{Serialize, Serializer};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// A snapshot of a [`TokenManager`](crate::TokenManager), fit for logs and health checks: it holds no secret.
///
/// Serialises with times in RFC 3339; `Display` is one line for a person.
///
/// ```
/// # use concur_auth::{MemoryStore, RefreshTokenObject, TokenManager};
/// # let token = RefreshTokenObject::from_json(r#"{"refresh_token": "r"}"#)?;
/// let tokens = TokenManager::builder().store(MemoryStore::with(token)).build()?;
/// let status = tokens.status();
/// assert_eq!(status.to_string(), "no token held yet");
/// assert!(!status.unsaved);
/// # Ok::<(), concur_auth::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Status {
    /// The company that the held token belongs to.
    pub company_uuid: Option<String>,
    /// The user or company that the held token belongs to, by its unverified `id_token`.
    pub principal_uuid: Option<String>,
    /// The base URI of its data centre; `None` where it is not known, or not Concur's.
    pub geolocation: Option<String>,
    /// Whether the held refresh token is valid by this machine's clock; `true` also where nobody knows its expiry.
    pub refresh_token_valid: bool,
    /// When the held refresh token expires.
    #[serde(serialize_with = "rfc3339")]
    pub refresh_token_expires_at: Option<OffsetDateTime>,
    /// Whether an access token is held that is valid by this machine's clock.
    pub access_token_valid: bool,
    /// When the held access token expires; `None` while none is held.
    #[serde(serialize_with = "rfc3339")]
    pub access_token_expires_at: Option<OffsetDateTime>,
    /// How the held refresh token came to this manager; `None` before the first was held.
    pub source: Option<TokenOrigin>,
    /// The newest token could not be saved yet: it is in memory only, and saving is being retried.
    pub unsaved: bool,
    /// This manager has revoked all tokens, and holds none since.
    pub signed_out: bool,
    /// When a renewal or a revocation last worked, or a renewal found a sibling's token.
    #[serde(serialize_with = "rfc3339")]
    pub last_success: Option<OffsetDateTime>,
    /// What the last failed renewal or revocation said; `None` after one that worked.
    pub last_error: Option<String>,
}

/// How a refresh token came to a manager.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[non_exhaustive]
#[serde(rename_all = "snake_case")]
pub enum TokenOrigin {
    /// It was in the store.
    Stored,
    /// A refresh grant renewed it.
    Renewed,
    /// A sign-in obtained it.
    Obtained,
    /// It was handed over by [`TokenManager::adopt`](crate::TokenManager::adopt).
    Adopted,
}

impl fmt::Display for TokenOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stored => "stored",
            Self::Renewed => "renewed",
            Self::Obtained => "obtained",
            Self::Adopted => "adopted",
        })
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.source {
            None if self.signed_out => f.write_str("signed out: all tokens were revoked")?,
            None => f.write_str("no token held yet")?,
            Some(origin) => {
                match (&self.company_uuid, &self.principal_uuid) {
                    (Some(company), _) => write!(f, "company {company}")?,
                    (None, Some(principal)) => write!(f, "principal {principal}")?,
                    (None, None) => f.write_str("company not known")?,
                }
                write!(f, ": refresh token {origin}, ")?;
                validity(f, self.refresh_token_valid, self.refresh_token_expires_at)?;
                f.write_str("; access token ")?;
                validity(f, self.access_token_valid, self.access_token_expires_at)?;
            }
        }
        if self.unsaved {
            f.write_str("; NOT SAVED YET")?;
        }
        match &self.last_error {
            Some(error) => write!(f, "; last error: {error}"),
            None => Ok(()),
        }
    }
}

fn validity(f: &mut fmt::Formatter<'_>, valid: bool, expires_at: Option<OffsetDateTime>) -> fmt::Result {
    match (valid, expires_at.and_then(text)) {
        (true, Some(at)) => write!(f, "valid until {at}"),
        (true, None) => f.write_str("without a known expiry"),
        (false, Some(at)) => write!(f, "expired at {at}"),
        (false, None) => f.write_str("not held"),
    }
}

fn text(at: OffsetDateTime) -> Option<String> {
    at.format(&Rfc3339).ok()
}

#[allow(clippy::ref_option, reason = "serde's signature")]
fn rfc3339<S: Serializer>(at: &Option<OffsetDateTime>, serializer: S) -> Result<S::Ok, S::Error> {
    at.and_then(text).serialize(serializer)
}
