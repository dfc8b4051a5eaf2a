//! The one error type: what happened, to which file or host, and what to do next.
//!
//! Always: no secret in a message or a source, and `Display` does not repeat what `source()` says.

use std::{error::Error as StdError, fmt, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

use crate::ConcurCode;

/// Where users create apps (App ID and client secret).
pub(crate) const APPS_PAGE: &str = "https://www.concursolutions.com/nui/ocstool";
/// Where users create company request tokens.
pub(crate) const COMPANY_TOKENS_PAGE: &str = "https://www.concursolutions.com/nui/authadmin/companytokens";

type BoxError = Box<dyn StdError + Send + Sync>;

/// The category of an [`Error`]: who has to act.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// Credentials are missing: a template was just written, or members of it are blank.
    CredentialsNeeded,
    /// Credentials are there and unusable: unreadable, of the wrong type, or with an unknown value.
    CredentialsInvalid,
    /// A person must create a new company request token, or a user must sign in again.
    ReauthorizationRequired,
    /// Concur refused with a code that another sign-in would not fix.
    Refused,
    /// Network, 5xx, 429, maintenance, or a limit of this process on threads or open files: the same call may work later.
    Unavailable,
    /// The reply is not what the protocol allows.
    Protocol,
    /// The host must not receive secrets: it is not Concur's, or its certificate does not prove that it is.
    Untrusted,
    /// The token store failed, or its lock was not free in time.
    Store,
    /// The configuration is inconsistent.
    Config,
}

/// Any failure of this crate.
///
/// `Display` says what happened, to which file or host, and what to do next; causes are in
/// [`source()`](std::error::Error::source), and `Debug` shows both, so that `main` may return it. None of them ever
/// holds a secret.
///
/// ```
/// use concur_auth::{Error, ErrorKind};
///
/// fn of_my_store(e: std::io::Error) -> Error {
///     Error::store("could not write the token to the vault; check its permissions", e)
/// }
/// let error = of_my_store(std::io::ErrorKind::PermissionDenied.into());
/// assert_eq!(error.kind(), ErrorKind::Store);
/// assert_eq!(error.to_string(), "could not write the token to the vault; check its permissions");
/// ```
#[derive(Clone)]
pub struct Error(Arc<Inner>);

#[derive(Clone)]
struct Inner {
    kind: ErrorKind,
    message: String,
    retry_after: Option<Duration>,
    code: Option<ConcurCode>,
    /// Concur refused the grant itself (`invalid_grant`, RFC 6749 section 5.2), or with its code for that.
    invalid_grant: bool,
    /// It is not known whether the grant was used up, and it cannot be repeated.
    in_doubt: bool,
    /// Nothing was sent, because of an earlier error.
    held_back: bool,
    /// The store says that the error may pass by itself.
    transient: bool,
    /// The store holds a newer token than the one that was to be saved.
    superseded: bool,
    correlation_id: Option<String>,
    source: Option<Arc<dyn StdError + Send + Sync>>,
}

impl Error {
    /// A [`ErrorKind::Store`] error, for implementers of [`TokenStore`](crate::TokenStore).
    ///
    /// The message names the place and says what to do next; neither it nor the source may hold a secret.
    pub fn store(message: impl Into<String>, source: impl Into<BoxError>) -> Self {
        Self::new(ErrorKind::Store, message).caused_by(source)
    }

    /// A [`ErrorKind::Store`] error that says: this save came too late, because another process has stored a newer token
    /// since the lock was taken. For implementers of [`TokenStore::save`](crate::TokenStore::save).
    ///
    /// ```
    /// use concur_auth::{Error, ErrorKind};
    ///
    /// let error = Error::superseded("the row was saved by another process");
    /// assert_eq!(error.kind(), ErrorKind::Store);
    /// ```
    pub fn superseded(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Store, message).change(|inner| inner.superseded = true)
    }

    /// The same error, marked as one that may pass by itself, such as a database that is failing over.
    ///
    /// ```
    /// use concur_auth::Error;
    ///
    /// let error = Error::store("the database is failing over", "connection refused").transient();
    /// assert!(error.is_transient());
    /// ```
    #[must_use]
    pub fn transient(self) -> Self {
        self.change(|inner| inner.transient = true)
    }

    /// A [`ErrorKind::CredentialsInvalid`] error, for implementers of
    /// [`CredentialSource`](crate::CredentialSource).
    ///
    /// The message names the place and says what to do next; neither it nor the source may hold a secret.
    pub fn credentials(message: impl Into<String>, source: impl Into<BoxError>) -> Self {
        Self::new(ErrorKind::CredentialsInvalid, message).caused_by(source)
    }

    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(Arc::new(Inner {
            kind,
            message: message.into(),
            retry_after: None,
            code: None,
            invalid_grant: false,
            in_doubt: false,
            held_back: false,
            transient: false,
            superseded: false,
            correlation_id: None,
            source: None,
        }))
    }

    pub(crate) fn caused_by(self, source: impl Into<BoxError>) -> Self {
        self.change(|inner| inner.source = Some(source.into().into()))
    }

    pub(crate) fn with_code(self, code: Option<ConcurCode>, invalid_grant: bool) -> Self {
        self.change(|inner| {
            inner.code = code;
            inner.invalid_grant = invalid_grant;
        })
    }

    pub(crate) fn in_doubt(self) -> Self {
        self.change(|inner| inner.in_doubt = true)
    }

    pub(crate) fn with_correlation_id(self, id: Option<String>) -> Self {
        self.change(|inner| inner.correlation_id = id)
    }

    /// Takes over what Concur's reply said, for an error that explains another.
    pub(crate) fn answered_as(self, other: &Self) -> Self {
        self.with_code(other.code(), other.is_invalid_grant())
            .with_correlation_id(other.correlation_id().map(str::to_owned))
    }

    pub(crate) fn with_retry_after(self, after: Option<Duration>) -> Self {
        self.change(|inner| inner.retry_after = after)
    }

    /// Who has to act.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Whether the same call may work later without any change.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        self.0.kind == ErrorKind::Unavailable || self.0.transient
    }

    /// How long to wait before the next attempt: the pause that Concur asked for (`Retry-After`, RFC 9110 section 10.2.3),
    /// or what is left of the pause after an earlier failure, in which a [`TokenManager`](crate::TokenManager) sends nothing.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.0.retry_after
    }

    /// The `code` of Concur's reply.
    #[must_use]
    pub fn code(&self) -> Option<ConcurCode> {
        self.0.code
    }

    /// Without the code and the correlation id that `Display` adds.
    pub(crate) fn message(&self) -> &str {
        &self.0.message
    }

    pub(crate) fn held_back(self) -> Self {
        self.change(|inner| inner.held_back = true)
    }

    /// The same error for a call for which nothing was sent: why, and how long it is until the next attempt.
    pub(crate) fn not_sent(&self, why: &str, left: Duration) -> Self {
        let message = format!("{} [not sent: {why}]", self.message());
        self.clone().held_back().with_retry_after(Some(left)).change(|inner| inner.message = message)
    }

    /// The same error for a caller who has asked for an access token that lasts longer than the one that is held.
    pub(crate) fn with_left(self, left: Duration, least: Duration) -> Self {
        let (left, least) = (left.as_secs(), least.as_secs());
        let message = format!(
            "{} [the access token that is held lasts {left} s, not the {least} s asked for]",
            self.message()
        );
        self.change(|inner| inner.message = message)
    }

    pub(crate) fn with_kind(self, kind: ErrorKind) -> Self {
        self.change(|inner| inner.kind = kind)
    }

    pub(crate) fn is_held_back(&self) -> bool {
        self.0.held_back
    }

    pub(crate) fn is_superseded(&self) -> bool {
        self.0.superseded
    }

    pub(crate) fn is_in_doubt(&self) -> bool {
        self.0.in_doubt
    }

    /// Concur says that the refresh token is dead. Any other code says that the account is locked or denied.
    pub(crate) fn is_bad_refresh_token(&self) -> bool {
        self.is_invalid_grant() && matches!(self.code(), None | Some(ConcurCode::BAD_REFRESH_TOKEN))
    }

    pub(crate) fn is_invalid_grant(&self) -> bool {
        self.0.invalid_grant
    }

    /// The `Concur-Correlationid` of Concur's reply: SAP's support asks for it.
    #[must_use]
    pub fn correlation_id(&self) -> Option<&str> {
        self.0.correlation_id.as_deref()
    }

    /// Clones of the error stay as they are.
    fn change(mut self, change: impl FnOnce(&mut Inner)) -> Self {
        change(Arc::make_mut(&mut self.0));
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.0.message, Suffix(&self.0))
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|source| source as &(dyn StdError + 'static))
    }
}

/// What a person sees of an error that `main` returns: the kind, the message, and one line for each cause.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {self}", self.0.kind)?;
        let mut cause = self.source();
        while let Some(e) = cause {
            write!(f, "\n  caused by: {e}")?;
            cause = e.source();
        }
        Ok(())
    }
}

struct Suffix<'a>(&'a Inner);

impl fmt::Display for Suffix<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0.code, &self.0.correlation_id) {
            (Some(code), Some(id)) => write!(f, " (code {code}, correlation id {id})"),
            (Some(code), None) => write!(f, " (code {code})"),
            (None, Some(id)) => write!(f, " (correlation id {id})"),
            (None, None) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The answer in which a host asks for a pause is kept, and goes on to the caller.
    #[test]
    fn an_error_that_was_cloned_can_still_be_marked() {
        let error = Error::new(ErrorKind::Unavailable, "down").caused_by(std::io::Error::other("reset"));
        let kept = error.clone();
        let marked = error.in_doubt().with_correlation_id(Some("id".to_owned()));
        assert!(marked.is_in_doubt() && !kept.is_in_doubt());
        assert_eq!(
            (marked.to_string().as_str(), kept.to_string().as_str()),
            ("down (correlation id id)", "down")
        );
        let is_io = |e: &Error| e.source().is_some_and(|source| source.is::<std::io::Error>());
        assert!(is_io(&marked) && is_io(&kept));
    }

    #[test]
    fn an_error_that_main_returns_reads_well() {
        let error = Error::store("could not save; make room", std::io::Error::other("disk full"))
            .with_code(Some(ConcurCode::new(5)), false)
            .with_correlation_id(Some("id".to_owned()));
        assert_eq!(
            format!("{error:?}"),
            "Store: could not save; make room (code 5, correlation id id)\n  caused by: disk full"
        );
    }
}
