//! What a manager knows about its tokens, without any secret.

use std::fmt;

use serde::{Serialize, Serializer};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::{ConcurCode, Error, ErrorKind, Responsible, consequences, log};

/// A snapshot of a [`TokenManager`](crate::TokenManager), for logs and health checks: it holds no secret.
///
/// [`health`](Self::health) says in one word whether a person is needed; then [`responsible`](Self::responsible) says who,
/// `last_error` why, and `act_before` by when. Serialised times are in RFC 3339; `Display` is one line for a person.
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
    /// When the store was last read: what is said about tokens was true then, or is newer. `None` before the first time.
    #[serde(serialize_with = "rfc3339")]
    pub as_of: Option<OffsetDateTime>,
    /// The company that owns the current token; `None` also if what names it is not a UUID.
    pub company_uuid: Option<String>,
    /// The user or company that owns the current token, by its unverified `id_token`; `None` also if what names it is not
    /// a UUID.
    pub principal_uuid: Option<String>,
    /// The base URI of the owner's data centre, as [`Geolocation`](crate::Geolocation) displays it; `None` if it is not
    /// known, or not Concur's.
    pub geolocation: Option<String>,
    /// Whether the current refresh token is valid by this machine's clock; `true` also if its expiry is not known. `false` if
    /// Concur has refused it.
    pub refresh_token_valid: bool,
    /// Whether Concur has refused the current refresh token (code 108, or `invalid_grant` without a code).
    pub refresh_token_refused: bool,
    /// When the current refresh token expires.
    #[serde(serialize_with = "rfc3339")]
    pub refresh_token_expires_at: Option<OffsetDateTime>,
    /// Whether there is an access token that is valid by this machine's clock.
    pub access_token_valid: bool,
    /// When the current access token expires; `None` while there is none.
    #[serde(serialize_with = "rfc3339")]
    pub access_token_expires_at: Option<OffsetDateTime>,
    /// How the current refresh token came to this manager; `None` before the first.
    pub source: Option<TokenOrigin>,
    /// Whether the newest token is in memory only: it could not be saved yet, and saving is being repeated.
    pub unsaved: bool,
    /// Whether this manager has revoked all tokens, or a fleet was told to forget them, and has had none since.
    pub signed_out: bool,
    /// When a renewal or a revocation last succeeded, or a renewal found a sibling's token.
    #[serde(serialize_with = "rfc3339")]
    pub last_success: Option<OffsetDateTime>,
    /// The last failed renewal or revocation; `None` after a success.
    pub last_error: Option<LastError>,
    /// Since when renewals have failed; `None` after a success.
    #[serde(serialize_with = "rfc3339")]
    pub failing_since: Option<OffsetDateTime>,
    /// When the next request may be sent, unless the credentials or the stored token change before; `None` if at any time.
    #[serde(serialize_with = "rfc3339")]
    pub next_attempt_at: Option<OffsetDateTime>,
    /// Where a person is needed: when the refresh token expires. `None` if no person is needed, or no refresh token is valid.
    #[serde(serialize_with = "rfc3339")]
    pub act_before: Option<OffsetDateTime>,
}

/// What failed, as a [`Status`] tells it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct LastError {
    /// Its category.
    pub kind: ErrorKind,
    /// What happened, and what to do next.
    pub message: String,
    /// Concur's code, if there is one.
    pub code: Option<ConcurCode>,
    /// What SAP's support asks for, if Concur answered.
    pub correlation_id: Option<String>,
    /// The causes, such as a refused connection or a full disk, separated by `: `.
    pub causes: Option<String>,
}

/// Whether tokens are kept, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[non_exhaustive]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// Nothing has failed since the last success.
    Healthy,
    /// A renewal or a save has failed, for a reason that may pass by itself. What is valid is served.
    Degraded,
    /// Renewals fail until a person acts. What is valid is served until then.
    PersonNeeded,
}

impl Status {
    /// Whether a person is needed.
    ///
    /// ```
    /// # use concur_auth::{Health, MemoryStore, TokenManager};
    /// # let tokens = TokenManager::builder().store(MemoryStore::new()).build()?;
    /// let status = tokens.status();
    /// match status.health() {
    ///     Health::Healthy => {}
    ///     Health::Degraded => println!("a renewal failed, and is tried again"),
    ///     Health::PersonNeeded => println!("alert: act before {:?}", status.act_before),
    ///     _ => {}
    /// }
    /// # Ok::<(), concur_auth::Error>(())
    /// ```
    #[must_use]
    pub fn health(&self) -> Health {
        match &self.last_error {
            Some(error) if consequences::of(error.kind).needs_person => Health::PersonNeeded,
            None if !self.unsaved => Health::Healthy,
            _ => Health::Degraded,
        }
    }

    /// Also tells this error, unless one is told already that needs a person.
    pub(crate) fn tell(&mut self, error: Option<&Error>) {
        if self.health() != Health::PersonNeeded {
            self.last_error = error.map(LastError::of).or(self.last_error.take());
        }
        let needs_person = self.health() == Health::PersonNeeded && self.refresh_token_valid;
        self.act_before = self.refresh_token_expires_at.filter(|_| needs_person);
    }

    /// Who has to act on the last error; `None` if nothing has failed.
    #[must_use]
    pub fn responsible(&self) -> Option<Responsible> {
        let error = self.last_error.as_ref()?;
        Some(error.code.and_then(ConcurCode::responsible).unwrap_or(match error.kind {
            ErrorKind::ReauthorizationRequired => Responsible::SigningIn,
            ErrorKind::Refused => Responsible::AppOwner,
            ErrorKind::CredentialsNeeded
            | ErrorKind::CredentialsInvalid
            | ErrorKind::Store
            | ErrorKind::Config
            | ErrorKind::Untrusted => Responsible::Operator,
            ErrorKind::Unavailable | ErrorKind::Protocol => Responsible::Nobody,
        }))
    }
}

impl LastError {
    pub(crate) fn of(error: &Error) -> Self {
        Self {
            kind: error.kind(),
            message: error.to_string(),
            code: error.code(),
            correlation_id: error.correlation_id().map(str::to_owned),
            causes: log::causes(error),
        }
    }
}

impl fmt::Display for LastError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match &self.causes {
            Some(causes) => write!(f, ": {causes}"),
            None => Ok(()),
        }
    }
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
    /// The program passed it to [`TokenManager::adopt`](crate::TokenManager::adopt).
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
            None if self.signed_out => f.write_str("signed out")?,
            None => f.write_str("no token held yet")?,
            Some(origin) => {
                match (&self.company_uuid, &self.principal_uuid) {
                    (Some(company), _) => write!(f, "company {company}")?,
                    (None, Some(principal)) => write!(f, "principal {principal}")?,
                    (None, None) => f.write_str("company not known")?,
                }
                write!(f, ": refresh token {origin}, ")?;
                if self.refresh_token_refused {
                    f.write_str("refused by Concur")?;
                } else {
                    validity(f, self.refresh_token_valid, self.refresh_token_expires_at)?;
                }
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
pub(crate) fn rfc3339<S: Serializer>(at: &Option<OffsetDateTime>, serializer: S) -> Result<S::Ok, S::Error> {
    at.and_then(text).serialize(serializer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_for_people() {
        let at = Some(OffsetDateTime::UNIX_EPOCH);
        let mut status = Status {
            source: Some(TokenOrigin::Obtained),
            refresh_token_valid: true,
            access_token_expires_at: at,
            ..Status::default()
        };
        assert_eq!(
            status.to_string(),
            "company not known: refresh token obtained, without a known expiry; access token expired at 1970-01-01T00:00:00Z"
        );
        status.principal_uuid = Some("8e01b9c0".to_owned());
        status.refresh_token_expires_at = at;
        status.access_token_expires_at = None;
        status.unsaved = true;
        assert_eq!(
            status.to_string(),
            "principal 8e01b9c0: refresh token obtained, valid until 1970-01-01T00:00:00Z; access token not held; NOT SAVED YET"
        );
        status.company_uuid = Some("08bbce1d".to_owned());
        status.refresh_token_refused = true;
        status.last_error = Some(LastError::of(&crate::Error::new(ErrorKind::Unavailable, "no answer")));
        assert!(
            status
                .to_string()
                .starts_with("company 08bbce1d: refresh token obtained, refused by Concur; access"),
            "{status}"
        );
        assert!(status.to_string().ends_with("; NOT SAVED YET; last error: no answer"), "{status}");
    }
}
