//! The value that a store holds: the whole reply of the /token endpoint, as SAP's tutorial stores it.
//!
//! Always: members that this crate does not know are kept byte for byte. Reading is lenient: only an object without a
//! usable `refresh_token` is rejected.

mod received;

use std::{
    cmp::Ordering,
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use time::OffsetDateTime;
use zeroize::Zeroizing;

pub(crate) use self::received::{Predecessor, Received, received_access};
use crate::{
    Error, ErrorKind,
    access_token::IssuedAccess,
    claims::UnverifiedClaims,
    clock,
    members::{BadJson, BadMember, Members},
    secret::Secret,
    shown,
};

/// The members that this crate writes, in the order of the file. The last four are not in Concur's replies.
const ORDER: [&str; 12] = [
    "refresh_token",
    "refresh_expires_in",
    "access_token",
    "token_type",
    "expires_in",
    "scope",
    "id_token",
    "geolocation",
    COMPANY_UUID,
    ACCESS_EXPIRES_AT,
    REFRESH_EXPIRES_AT,
    REFRESH_RECEIVED_AT,
];
const COMPANY_UUID: &str = "companyUUID";
const ACCESS_EXPIRES_AT: &str = "accessTokenExpiresAt";
const REFRESH_EXPIRES_AT: &str = "refreshTokenExpiresAt";
const REFRESH_RECEIVED_AT: &str = "refreshTokenReceivedAt";

/// How long a refresh token lives when nothing says so: SAP's six months, rounded down.
const SIX_MONTHS: Duration = Duration::from_secs(180 * 24 * 3600);

/// A refresh token with everything that Concur's reply said about it. Cheap to clone.
///
/// Its JSON form is the tutorial's `refreshTokenObjectFile.json`: the whole reply of the token endpoint plus
/// `companyUUID`, and this crate's own `accessTokenExpiresAt`, `refreshTokenExpiresAt` and `refreshTokenReceivedAt` in
/// Unix seconds.
///
/// ```
/// use concur_auth::RefreshTokenObject;
///
/// let stored = RefreshTokenObject::from_json(
///     r#"{"refresh_token": "abc", "refresh_expires_in": "1517039403",
///         "companyUUID": "c", "new": [1]}"#,
/// )?;
/// assert_eq!(stored.secret(), "abc");
/// assert_eq!(stored.expires_at().unwrap().unix_timestamp(), 1_517_039_403);
/// assert_eq!(stored.company_uuid(), Some("c"));
/// assert!(stored.to_json().contains(r#""new": [1]"#));
/// # Ok::<(), concur_auth::Error>(())
/// ```
///
/// Source: SAP Concur developer centre, "Tutorial 2" and "Authentication API, refresh token".
#[derive(Clone)]
pub struct RefreshTokenObject(Arc<Inner>);

struct Inner {
    members: Members,
    refresh_token: Secret,
    expires_at: Option<SystemTime>,
    received_at: Option<SystemTime>,
    access: Option<IssuedAccess>,
    geolocation: Option<String>,
    company_uuid: Option<String>,
    principal_uuid: Option<String>,
    scopes: Arc<[String]>,
}

/// Why a text is not a refresh token object.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotAToken {
    #[error(transparent)]
    Json(#[from] BadJson),
    #[error(transparent)]
    Member(#[from] BadMember),
    #[error("the member refresh_token is missing or blank")]
    NoToken,
    /// The value of the member `sealed`.
    #[error("the token is sealed")]
    Sealed(String),
}

impl NotAToken {
    /// For a caller who has no keys.
    pub(crate) fn into_error(self) -> Error {
        if let Self::Sealed(_) = self {
            let message =
                "the text is a sealed refresh token object; open it with SealingKeys::open (feature sealing)";
            return Error::new(ErrorKind::Config, message);
        }
        Error::store("the text is not a refresh token object; was it cut short or mixed up?", self)
    }
}

/// The value of the member `sealed`, in a text that is a sealed one.
pub(crate) fn sealed_member(text: &[u8]) -> Option<String> {
    match RefreshTokenObject::parse(text) {
        Err(NotAToken::Sealed(sealed)) => Some(sealed),
        _ => None,
    }
}

impl RefreshTokenObject {
    /// Reads the JSON form; a byte order mark is tolerated.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Store`] when the text is not a JSON object with a usable `refresh_token`; its source names the line and
    /// column, or the member, and quotes no value. Other members may be missing or unusable. [`ErrorKind::Config`] when the text
    /// is sealed (feature `sealing`).
    pub fn from_json(json: &str) -> Result<Self, Error> {
        Self::parse(json.as_bytes()).map_err(NotAToken::into_error)
    }

    /// The JSON form, pretty-printed with members in a stable order. It holds secrets: handle it as a secret.
    #[must_use]
    pub fn to_json(&self) -> String {
        self.as_json().to_string()
    }

    pub(crate) fn parse(json: &[u8]) -> Result<Self, NotAToken> {
        Self::read(Members::parse(json)?)
    }

    pub(crate) fn as_json(&self) -> Zeroizing<String> {
        self.0.members.to_json(&ORDER)
    }

    fn read(members: Members) -> Result<Self, NotAToken> {
        let Some(refresh_token) = members.string("refresh_token")? else {
            let sealed = members.string("sealed").ok().flatten();
            return Err(
                sealed.map_or(NotAToken::NoToken, |sealed| NotAToken::Sealed(sealed.expose().to_owned()))
            );
        };
        // A token that was damaged in transit must not replace a stored token that may still be valid.
        if refresh_token.expose().contains(|c: char| c.is_control() || c == char::REPLACEMENT_CHARACTER) {
            return Err(BadMember("refresh_token", "printable text").into());
        }
        let text = |name| members.string(name).ok().flatten().map(|text| text.expose().trim().to_owned());
        let seconds = |name| members.seconds(name).ok().flatten();
        let time = |name| seconds(name).and_then(clock::from_unix_seconds);
        // A smaller number is something else, such as the seconds of a life.
        let servers = seconds("refresh_expires_in").filter(|at| *at >= clock::FIRST_PLAUSIBLE);
        let scopes = scopes(&members);
        Ok(Self(Arc::new(Inner {
            refresh_token,
            // This crate's own member is corrected for this machine's clock; a file that another program wrote has only
            // the server's time.
            expires_at: time(REFRESH_EXPIRES_AT).or_else(|| servers.and_then(clock::from_unix_seconds)),
            received_at: time(REFRESH_RECEIVED_AT),
            access: access(&members).ok().flatten(),
            geolocation: text("geolocation"),
            company_uuid: text(COMPANY_UUID),
            principal_uuid: claims(&members).and_then(|claims| claims.subject().map(str::to_owned)),
            scopes,
            members,
        })))
    }

    /// The refresh token itself.
    #[must_use]
    pub fn secret(&self) -> &str {
        self.0.refresh_token.expose()
    }

    /// When the refresh token expires, by this machine's clock where that is known, else by the server's.
    ///
    /// `None` if the object holds no expiry. A reply whose expiry lay in the past when it arrived counts as one without an
    /// expiry: then the token lives 180 days from its receipt. In an object without this crate's own members, a
    /// `refresh_expires_in` before September 2001 counts as none.
    #[must_use]
    pub fn expires_at(&self) -> Option<OffsetDateTime> {
        self.0.expires_at.map(clock::public_time)
    }

    /// The base URI of the principal's data centre, as received. Its host has not been checked.
    #[must_use]
    pub fn geolocation(&self) -> Option<&str> {
        self.0.geolocation.as_deref()
    }

    /// The UUID of the company that the token belongs to.
    #[must_use]
    pub fn company_uuid(&self) -> Option<&str> {
        self.0.company_uuid.as_deref()
    }

    /// The UUID of the user or company that the token belongs to, by its `id_token` (`sub`), which is **not verified**:
    /// see [`UnverifiedClaims`].
    #[must_use]
    pub fn principal_uuid(&self) -> Option<&str> {
        self.0.principal_uuid.as_deref()
    }

    /// What the `id_token` that came with the token says, **not verified**; `None` without a readable `id_token`.
    #[must_use]
    pub fn unverified_claims(&self) -> Option<UnverifiedClaims> {
        claims(&self.0.members)
    }

    /// The scopes granted (RFC 6749 section 3.3); empty if Concur named no scope.
    pub fn scopes(&self) -> impl Iterator<Item = &str> {
        self.0.scopes.iter().map(String::as_str)
    }

    /// Which of two tokens of one principal comes from a later grant; `None` if that cannot be told.
    pub(crate) fn compare_age(&self, other: &Self) -> Option<Ordering> {
        if self.secret() == other.secret() {
            return Some(Ordering::Equal);
        }
        let later = |ours: Option<SystemTime>, theirs| Some(ours?.cmp(&theirs?)).filter(|it| it.is_ne());
        later(self.0.received_at, other.0.received_at).or_else(|| later(self.expiry(), other.expiry()))
    }

    pub(crate) fn expiry(&self) -> Option<SystemTime> {
        self.0.expires_at
    }

    /// When the token was received in the last grant, and when it expires, both by this machine's clock; `None` without an
    /// expiry. Where the receipt is not known, or cannot be true at `now`, it counts as 180 days before the expiry.
    pub(crate) fn life(&self, now: SystemTime) -> Option<(SystemTime, SystemTime)> {
        let expires_at = self.0.expires_at?;
        let received_at = self.0.received_at.filter(|at| *at <= now && *at < expires_at);
        let six_months_before = || expires_at.checked_sub(SIX_MONTHS).unwrap_or(SystemTime::UNIX_EPOCH);
        Some((received_at.unwrap_or_else(six_months_before), expires_at))
    }

    /// The access token of the same reply, if it can be used.
    pub(crate) fn access(&self) -> Option<&IssuedAccess> {
        self.0.access.as_ref()
    }

    pub(crate) fn shared_scopes(&self) -> Arc<[String]> {
        Arc::clone(&self.0.scopes)
    }

    pub(crate) fn is_same_token(&self, other: &Self) -> bool {
        self.0.refresh_token == other.0.refresh_token
    }

    /// Whether both come from the same reply; two replies may hold the same token.
    pub(crate) fn is_same_reply(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.0.members == other.0.members
    }
}

fn claims(members: &Members) -> Option<UnverifiedClaims> {
    UnverifiedClaims::read(members.string("id_token").ok().flatten()?.expose())
}

fn scopes(members: &Members) -> Arc<[String]> {
    let names = members.string("scope").ok().flatten();
    names.iter().flat_map(|names| names.expose().split_whitespace()).map(str::to_owned).collect()
}

/// The access token among `members`. Without its absolute expiry it is not used, because the time at which it was
/// issued is unknown.
fn access(members: &Members) -> Result<Option<IssuedAccess>, BadMember> {
    let (Some(secret), Some(expires_at)) =
        (members.string("access_token")?, members.seconds(ACCESS_EXPIRES_AT)?)
    else {
        return Ok(None);
    };
    // RFC 6750 section 2.1: other characters cannot be sent in a header. Without an early end this takes a few instructions for
    // many bytes together.
    if !secret.expose().bytes().fold(true, |all, byte| all & byte.is_ascii_graphic()) {
        return Err(BadMember("access_token", "a bearer token"));
    }
    if members.string("token_type")?.is_some_and(|kind| !kind.expose().eq_ignore_ascii_case("bearer")) {
        return Err(BadMember("token_type", "\"Bearer\""));
    }
    let expires_at =
        clock::from_unix_seconds(expires_at).ok_or(BadMember(ACCESS_EXPIRES_AT, "a date in Unix seconds"))?;
    let lifetime = Duration::from_secs(members.seconds("expires_in")?.unwrap_or(3600));
    Ok(Some(IssuedAccess { secret, expires_at, lifetime }))
}

impl fmt::Debug for RefreshTokenObject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RefreshTokenObject")
            .field("expires_at", &self.expires_at())
            .field("company_uuid", &shown::uuid(self.company_uuid()))
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_usable_refresh_token_makes_an_object() {
        for json in [
            "{}",
            r#"{"refresh_token":""}"#,
            r#"{"refresh_token":5}"#,
            r#"{"refresh_token":"r\u0000"}"#,
            "[]",
            "",
            "{\"refresh_token\":\"r",
        ] {
            assert!(RefreshTokenObject::from_json(json).is_err(), "{json}");
        }
        let odd = r#"{"refresh_token":"r","scope":[],"companyUUID":1,"refresh_expires_in":"x"}"#;
        let lenient = RefreshTokenObject::from_json(odd).unwrap();
        assert_eq!((lenient.company_uuid(), lenient.expires_at()), (None, None));
    }

    #[test]
    fn a_number_that_cannot_be_a_date_is_no_expiry() {
        for (seconds, expires_at) in
            [("15552000", None), ("\"999999999\"", None), ("1000000000", Some(1_000_000_000)), ("0", None)]
        {
            let json = format!(r#"{{"refresh_token":"r","refresh_expires_in":{seconds}}}"#);
            let object = RefreshTokenObject::from_json(&json).unwrap();
            assert_eq!(object.expires_at().map(OffsetDateTime::unix_timestamp), expires_at, "{seconds}");
            assert!(object.to_json().contains(&format!("\"refresh_expires_in\": {seconds}")));
        }
    }

    #[test]
    fn a_life_begins_at_the_receipt_or_180_days_before_the_expiry() {
        let now = 1_800_000_000;
        let half_a_year = SIX_MONTHS.as_secs();
        let expires = now + 1000;
        for (received, begins) in [
            (Some(now - 5), now - 5),
            (Some(now), now),
            // In the future, and after the expiry.
            (Some(now + 1), expires - half_a_year),
            (Some(expires), expires - half_a_year),
            (None, expires - half_a_year),
        ] {
            let member = received.map(|at| format!(r#","refreshTokenReceivedAt":{at}"#)).unwrap_or_default();
            let json = format!(r#"{{"refresh_token":"r","refreshTokenExpiresAt":{expires}{member}}}"#);
            let life =
                RefreshTokenObject::from_json(&json).unwrap().life(clock::from_unix_seconds(now).unwrap());
            let (begin, end) = life.unwrap();
            assert_eq!(
                (clock::unix_seconds(begin), clock::unix_seconds(end)),
                (begins, expires),
                "{received:?}"
            );
        }
        let unknown =
            RefreshTokenObject::from_json(r#"{"refresh_token":"r","refreshTokenReceivedAt":5}"#).unwrap();
        assert_eq!(unknown.life(SystemTime::UNIX_EPOCH), None);
    }

    #[test]
    fn a_load_of_a_save_is_the_identity() {
        let json = r#"{"refresh_token":"r","z":{"a":[1,2.50]},"b":null,"companyUUID":"c"}"#;
        let object = RefreshTokenObject::from_json(json).unwrap();
        let again = RefreshTokenObject::from_json(&object.to_json()).unwrap();
        assert!(again.is_same_reply(&object));
        assert_eq!(again.to_json(), object.to_json());
    }
}
