//! What a store holds: the whole reply of the /token endpoint, as SAP's tutorial stores it.
//!
//! Always: members that this crate does not know survive to the letter, and reading is lenient: only an object
//! without a usable `refresh_token` is not one.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use time::OffsetDateTime;
use zeroize::Zeroizing;

use crate::{
    Error,
    access_token::IssuedAccess,
    claims::UnverifiedClaims,
    clock,
    members::{BadMember, Fault, Members},
    secret::Secret,
};

/// The members that this crate writes, in the order of the file. The last three are not in Concur's replies.
const ORDER: [&str; 11] = [
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
];
const COMPANY_UUID: &str = "companyUUID";
const ACCESS_EXPIRES_AT: &str = "accessTokenExpiresAt";
const REFRESH_EXPIRES_AT: &str = "refreshTokenExpiresAt";

/// Members that say how long something lives: never carried over to the next reply's object.
const LIFETIMES: [&str; 7] = [
    "refresh_token",
    "refresh_expires_in",
    "access_token",
    "token_type",
    "expires_in",
    ACCESS_EXPIRES_AT,
    REFRESH_EXPIRES_AT,
];

/// How long a refresh token lives when the reply does not say: SAP's six months, counted short.
const SIX_MONTHS: Duration = Duration::from_secs(180 * 24 * 3600);

/// A refresh token with everything Concur said about it. Cheap to clone.
///
/// Its JSON form is the tutorial's `refreshTokenObjectFile.json`: the whole reply of the token endpoint plus
/// `companyUUID`, and this crate's own `accessTokenExpiresAt` and `refreshTokenExpiresAt` in Unix seconds.
///
/// ```
/// use concur_auth::RefreshTokenObject;
///
/// let stored = RefreshTokenObject::from_json(
///     r#"{"refresh_token": "abc", "refresh_expires_in": "1517039403", "companyUUID": "c", "new": [1]}"#,
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
    access: Option<IssuedAccess>,
    geolocation: Option<String>,
    company_uuid: Option<String>,
    principal_uuid: Option<String>,
    scopes: Arc<[String]>,
}

/// What the members of a reply turn into beside the object: the first that could not be used.
pub(crate) type Received = (RefreshTokenObject, Result<(), BadMember>);

/// Why a text is not a refresh token object.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotOne {
    #[error(transparent)]
    Json(#[from] Fault),
    #[error(transparent)]
    Member(#[from] BadMember),
    #[error("the member refresh_token is missing or blank")]
    NoToken,
}

impl RefreshTokenObject {
    /// Reads the JSON form; a byte order mark is tolerated.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Store`](crate::ErrorKind::Store) when the text is not a JSON object with a usable
    /// `refresh_token`; the message names the place and quotes nothing. Other members may be missing or odd.
    pub fn from_json(json: &str) -> Result<Self, Error> {
        Self::parse(json.as_bytes()).map_err(|e| {
            Error::store("the text is not a refresh token object; was it cut short or mixed up?", e)
        })
    }

    /// The JSON form, pretty-printed with members in a stable order. It holds secrets: handle it as one.
    #[must_use]
    pub fn to_json(&self) -> String {
        self.as_json().to_string()
    }

    pub(crate) fn parse(json: &[u8]) -> Result<Self, NotOne> {
        Self::read(Members::parse(json)?)
    }

    pub(crate) fn as_json(&self) -> Zeroizing<String> {
        self.0.members.to_json(&ORDER)
    }

    fn read(members: Members) -> Result<Self, NotOne> {
        let refresh_token = members.string("refresh_token")?.ok_or(NotOne::NoToken)?;
        // One that was damaged on its way must not take the place of one that may still be good.
        if refresh_token.expose().contains(|c: char| c.is_control() || c == char::REPLACEMENT_CHARACTER) {
            return Err(BadMember("refresh_token", "printable text").into());
        }
        let text = |name| members.string(name).ok().flatten().map(|text| text.expose().trim().to_owned());
        let time = |name| members.seconds(name).ok().flatten().and_then(clock::from_unix_seconds);
        let scopes = scopes(&members);
        Ok(Self(Arc::new(Inner {
            refresh_token,
            // Ours is corrected for this machine's clock; a file from another program has only the server's.
            expires_at: time(REFRESH_EXPIRES_AT).or_else(|| time("refresh_expires_in")),
            access: access(&members).ok().flatten(),
            geolocation: text("geolocation"),
            company_uuid: text(COMPANY_UUID),
            principal_uuid: claims(&members).and_then(|claims| claims.subject().map(str::to_owned)),
            scopes,
            members,
        })))
    }

    /// The object for a reply's members, received at `now`; `server_time` is the reply's `Date`.
    ///
    /// From `predecessor` it inherits what the reply does not say anew: after a refresh grant (`same_grant`) all
    /// but lifetimes, after a new sign-in only members that this crate does not know.
    pub(crate) fn received(
        mut members: Members,
        predecessor: Option<&Self>,
        same_grant: bool,
        company_uuid: Option<&str>,
        now: SystemTime,
        server_time: Option<SystemTime>,
    ) -> Result<Received, NotOne> {
        // Ours to say: a server could say anything by them.
        for own in [ACCESS_EXPIRES_AT, REFRESH_EXPIRES_AT, COMPANY_UUID] {
            members.remove(own);
        }
        let faults = [
            members.seconds("refresh_expires_in").and_then(|seconds| match seconds {
                Some(seconds) if clock::from_unix_seconds(seconds).is_none() => {
                    Err(BadMember("refresh_expires_in", "a date in Unix seconds"))
                }
                _ => Ok(()),
            }),
            receive_access(&mut members, now),
            members.string("scope").map(drop),
            members.string("geolocation").map(drop),
        ];
        let expires_at = members
            .seconds("refresh_expires_in")
            .ok()
            .flatten()
            .and_then(clock::from_unix_seconds)
            .and_then(|at| by_our_clock(at, now, server_time))
            .or_else(|| now.checked_add(SIX_MONTHS));
        if let Some(at) = expires_at {
            members.set_number(REFRESH_EXPIRES_AT, clock::unix_seconds(at));
        }
        if let Some(predecessor) = predecessor {
            let except: &[&str] = if same_grant { &LIFETIMES } else { &ORDER };
            members.inherit(&predecessor.0.members, except);
        }
        if let Some(uuid) = company_uuid {
            members.set_string(COMPANY_UUID, uuid);
        }
        let fault = faults.into_iter().find(Result::is_err).unwrap_or(Ok(()));
        Ok((Self::read(members)?, fault))
    }

    /// The refresh token itself.
    #[must_use]
    pub fn secret(&self) -> &str {
        self.0.refresh_token.expose()
    }

    /// When the refresh token expires, by this machine's clock where that is known, else by the server's.
    ///
    /// `None` where the object does not say.
    #[must_use]
    pub fn expires_at(&self) -> Option<OffsetDateTime> {
        self.0.expires_at.map(clock::public_time)
    }

    /// The base URI of the principal's data centre, as received: it has not been checked.
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

    /// What the `id_token` that came with the token says, **not verified**; `None` where there is none that can be read.
    #[must_use]
    pub fn unverified_claims(&self) -> Option<UnverifiedClaims> {
        claims(&self.0.members)
    }

    /// The scopes granted (RFC 6749 section 3.3); empty where Concur named none.
    pub fn scopes(&self) -> impl Iterator<Item = &str> {
        self.0.scopes.iter().map(String::as_str)
    }

    pub(crate) fn expiry(&self) -> Option<SystemTime> {
        self.0.expires_at
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

    /// Whether both are one and the same reply, not only the same token.
    pub(crate) fn is_same_reply(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.0.members == other.0.members
    }
}

/// The access token of a reply received at `now`, if there is one, and its scopes.
pub(crate) fn received_access(
    mut members: Members,
    now: SystemTime,
) -> Result<(Option<IssuedAccess>, Arc<[String]>), BadMember> {
    members.remove(ACCESS_EXPIRES_AT);
    receive_access(&mut members, now)?;
    Ok((access(&members)?, scopes(&members)))
}

fn claims(members: &Members) -> Option<UnverifiedClaims> {
    UnverifiedClaims::read(members.string("id_token").ok().flatten()?.expose())
}

fn scopes(members: &Members) -> Arc<[String]> {
    let names = members.string("scope").ok().flatten();
    names.iter().flat_map(|names| names.expose().split_whitespace()).map(str::to_owned).collect()
}

/// The access token among `members`; one without its absolute expiry is none (when was it issued?).
fn access(members: &Members) -> Result<Option<IssuedAccess>, BadMember> {
    let (Some(secret), Some(expires_at)) =
        (members.string("access_token")?, members.seconds(ACCESS_EXPIRES_AT)?)
    else {
        return Ok(None);
    };
    // RFC 6750 section 2.1: anything else could not be sent in a header.
    if !secret.expose().bytes().all(|byte| byte.is_ascii_graphic()) {
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

/// Gives the reply's access token its absolute expiry.
fn receive_access(members: &mut Members, now: SystemTime) -> Result<(), BadMember> {
    const EXPIRES_IN: BadMember = BadMember("expires_in", "a number of seconds");
    if members.string("access_token")?.is_none() {
        return Ok(());
    }
    let lifetime = members.seconds("expires_in")?.ok_or(EXPIRES_IN)?;
    let expires_at = clock::unix_seconds(now).saturating_add(lifetime);
    clock::from_unix_seconds(expires_at).ok_or(EXPIRES_IN)?;
    members.set_number(ACCESS_EXPIRES_AT, expires_at);
    access(members).map(drop)
}

/// A time told by the server's clock, by ours.
fn by_our_clock(at: SystemTime, now: SystemTime, server_time: Option<SystemTime>) -> Option<SystemTime> {
    match server_time.unwrap_or(now).duration_since(now) {
        Ok(ahead) => at.checked_sub(ahead),
        Err(behind) => at.checked_add(behind.duration()),
    }
}

impl fmt::Debug for RefreshTokenObject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RefreshTokenObject")
            .field("expires_at", &self.expires_at())
            .field("company_uuid", &self.0.company_uuid)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> SystemTime {
        clock::from_unix_seconds(seconds).unwrap()
    }

    fn received(json: &str, predecessor: Option<(&RefreshTokenObject, bool)>) -> Received {
        let members = Members::parse(json.as_bytes()).unwrap();
        let (predecessor, same) = predecessor.map_or((None, false), |(object, same)| (Some(object), same));
        RefreshTokenObject::received(members, predecessor, same, Some("company"), at(1000), None).unwrap()
    }

    #[test]
    fn every_form_of_a_lifetime_is_understood() {
        for json in [
            r#"{"refresh_token":"r","access_token":"a","expires_in":3600,"refresh_expires_in":1517039403}"#,
            r#"{"refresh_token":"r","access_token":"a","expires_in":"3600","refresh_expires_in":"1517039403"}"#,
        ] {
            let (object, fault) = received(json, None);
            assert_eq!(fault, Ok(()));
            assert_eq!(object.expiry(), Some(at(1_517_039_403)));
            assert_eq!(object.access().unwrap().expires_at, at(4600));
            assert_eq!(object.company_uuid(), Some("company"));
        }
    }

    #[test]
    fn without_an_expiry_a_token_lives_180_days_from_receipt() {
        let (object, fault) = received(r#"{"refresh_token":"r"}"#, None);
        assert_eq!(fault, Ok(()));
        assert_eq!(object.expiry(), Some(at(1000) + SIX_MONTHS));
    }

    #[test]
    fn the_servers_expiry_is_stored_as_received_and_corrected_beside_it() {
        let members = Members::parse(br#"{"refresh_token":"r","refresh_expires_in":5000}"#).unwrap();
        let ahead = Some(at(1300));
        let (object, _) = RefreshTokenObject::received(members, None, false, None, at(1000), ahead).unwrap();
        assert!(object.to_json().contains("\"refresh_expires_in\": 5000"));
        assert!(object.to_json().contains("\"refreshTokenExpiresAt\": 4700"));
        assert_eq!(object.expiry(), Some(at(4700)));
    }

    #[test]
    fn a_bad_member_is_named_and_the_rest_is_kept() {
        for (json, bad) in [
            (r#"{"refresh_token":"r","refresh_expires_in":-1}"#, "refresh_expires_in"),
            (r#"{"refresh_token":"r","refresh_expires_in":1e14}"#, "refresh_expires_in"),
            (r#"{"refresh_token":"r","access_token":7}"#, "access_token"),
            (r#"{"refresh_token":"r","access_token":"a\u0000b","expires_in":1}"#, "access_token"),
            (r#"{"refresh_token":"r","access_token":"a"}"#, "expires_in"),
            (r#"{"refresh_token":"r","access_token":"a","expires_in":4611686018427387904}"#, "expires_in"),
            (r#"{"refresh_token":"r","access_token":"a","expires_in":1,"token_type":"mac"}"#, "token_type"),
            (r#"{"refresh_token":"r","geolocation":[]}"#, "geolocation"),
            (r#"{"refresh_token":"r","scope":{}}"#, "scope"),
        ] {
            let (object, fault) = received(json, None);
            assert_eq!(fault.unwrap_err().0, bad, "{json}");
            assert_eq!(object.secret(), "r", "{json}");
        }
    }

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
    fn a_successor_inherits_what_still_holds() {
        let old = r#"{"refresh_token":"old","refresh_expires_in":9,"access_token":"a","expires_in":1,
            "accessTokenExpiresAt":1,"scope":"x y","geolocation":"https://g","note":"mine"}"#;
        let old = RefreshTokenObject::from_json(old).unwrap();

        let (renewed, _) = received(r#"{"refresh_token":"new"}"#, Some((&old, true)));
        assert_eq!((renewed.secret(), renewed.geolocation()), ("new", Some("https://g")));
        assert_eq!(renewed.scopes().collect::<Vec<_>>(), ["x", "y"]);
        assert!(renewed.to_json().contains(r#""note": "mine""#));
        assert!(renewed.access().is_none());
        assert_eq!(renewed.expiry(), Some(at(1000) + SIX_MONTHS));

        let (obtained, _) = received(r#"{"refresh_token":"new"}"#, Some((&old, false)));
        assert_eq!((obtained.geolocation(), obtained.scopes().count()), (None, 0));
        assert!(obtained.to_json().contains(r#""note": "mine""#));
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
