//! What a reply of the /token endpoint turns into: the object that a store will hold, and the access token.
//!
//! Always: a reply with a usable `refresh_token` becomes an object, whatever is wrong with its other members. Lifetimes
//! are never taken from the predecessor, and the members that only this crate writes are never taken from the server.

use std::{sync::Arc, time::SystemTime};

use super::{
    ACCESS_EXPIRES_AT, COMPANY_UUID, NotAToken, ORDER, REFRESH_EXPIRES_AT, REFRESH_RECEIVED_AT,
    RefreshTokenObject, SIX_MONTHS, access, scopes,
};
use crate::{
    access_token::IssuedAccess,
    clock,
    members::{BadMember, Members},
};

/// Members that say how long something lives: never inherited by the object of the next reply.
const LIFETIMES: [&str; 8] = [
    "refresh_token",
    "refresh_expires_in",
    "access_token",
    "token_type",
    "expires_in",
    ACCESS_EXPIRES_AT,
    REFRESH_EXPIRES_AT,
    REFRESH_RECEIVED_AT,
];

/// The object that the object of a reply replaces.
#[derive(Clone, Copy)]
pub(crate) struct Predecessor<'a> {
    pub(crate) object: &'a RefreshTokenObject,
    /// The reply answers a refresh grant with the predecessor's token, so both belong to one sign-in.
    pub(crate) same_grant: bool,
}

/// What the members of a reply turn into.
pub(crate) struct Received {
    pub(crate) object: RefreshTokenObject,
    /// The first member that cannot be used. The object lacks what that member would have said.
    pub(crate) fault: Option<BadMember>,
}

impl RefreshTokenObject {
    /// The object for a reply's members, received at `now`; `server_time` is the reply's `Date`.
    ///
    /// It inherits from the predecessor what the reply does not repeat: after a refresh grant everything but lifetimes,
    /// after a new sign-in only members that this crate does not know.
    pub(crate) fn received(
        mut members: Members,
        predecessor: Option<Predecessor<'_>>,
        company_uuid: Option<&str>,
        now: SystemTime,
        server_time: Option<SystemTime>,
    ) -> Result<Received, NotAToken> {
        // Only this crate writes these members: a server could claim anything with them.
        for own in [ACCESS_EXPIRES_AT, REFRESH_EXPIRES_AT, REFRESH_RECEIVED_AT, COMPANY_UUID] {
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
            // Tokens do not arrive expired: such a number is the seconds of a life, or the `Date` is wrong.
            .filter(|at| now < *at)
            .or_else(|| now.checked_add(SIX_MONTHS));
        if let Some(at) = expires_at {
            members.set_number(REFRESH_EXPIRES_AT, clock::unix_seconds(at));
        }
        members.set_number(REFRESH_RECEIVED_AT, clock::unix_seconds(now));
        if let Some(Predecessor { object, same_grant }) = predecessor {
            let except: &[&str] = if same_grant { &LIFETIMES } else { &ORDER };
            members.inherit(&object.0.members, except);
        }
        if let Some(uuid) = company_uuid {
            members.set_string(COMPANY_UUID, uuid);
        }
        let fault = faults.into_iter().find_map(Result::err);
        Ok(Received { object: Self::read(members)?, fault })
    }
}

/// The access token of a reply received at `now`, if the reply holds one, and its scopes.
pub(crate) fn received_access(
    mut members: Members,
    now: SystemTime,
) -> Result<(Option<IssuedAccess>, Arc<[String]>), BadMember> {
    members.remove(ACCESS_EXPIRES_AT);
    receive_access(&mut members, now)?;
    Ok((access(&members)?, scopes(&members)))
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

/// Converts a time of the server's clock to this machine's clock.
fn by_our_clock(at: SystemTime, now: SystemTime, server_time: Option<SystemTime>) -> Option<SystemTime> {
    match server_time.unwrap_or(now).duration_since(now) {
        Ok(ahead) => at.checked_sub(ahead),
        Err(behind) => at.checked_add(behind.duration()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> SystemTime {
        clock::from_unix_seconds(seconds).unwrap()
    }

    fn received(json: &str, predecessor: Option<Predecessor<'_>>) -> Received {
        let members = Members::parse(json.as_bytes()).unwrap();
        RefreshTokenObject::received(members, predecessor, Some("company"), at(1000), None).unwrap()
    }

    #[test]
    fn every_form_of_a_lifetime_is_understood() {
        for json in [
            r#"{"refresh_token":"r","access_token":"a","expires_in":3600,"refresh_expires_in":1517039403}"#,
            r#"{"refresh_token":"r","access_token":"a","expires_in":"3600","refresh_expires_in":"1517039403"}"#,
        ] {
            let Received { object, fault } = received(json, None);
            assert_eq!(fault, None);
            assert_eq!(object.expiry(), Some(at(1_517_039_403)));
            assert_eq!(object.access().unwrap().expires_at, at(4600));
            assert_eq!(object.company_uuid(), Some("company"));
        }
    }

    #[test]
    fn without_an_expiry_a_token_lives_180_days_from_receipt() {
        let Received { object, fault } = received(r#"{"refresh_token":"r"}"#, None);
        assert_eq!(fault, None);
        assert_eq!(object.expiry(), Some(at(1000) + SIX_MONTHS));
    }

    #[test]
    fn the_servers_expiry_is_stored_as_received_and_corrected_beside_it() {
        let members = Members::parse(br#"{"refresh_token":"r","refresh_expires_in":5000}"#).unwrap();
        let ahead = Some(at(1300));
        let Received { object, .. } =
            RefreshTokenObject::received(members, None, None, at(1000), ahead).unwrap();
        assert!(object.to_json().contains("\"refresh_expires_in\": 5000"));
        assert!(object.to_json().contains("\"refreshTokenExpiresAt\": 4700"));
        assert_eq!(object.expiry(), Some(at(4700)));
    }

    #[test]
    fn an_expiry_already_past_on_arrival_counts_as_absent_and_is_stored_as_received() {
        let now = 1_800_000_000;
        for (received, server_time, is_absent) in [
            ("15552000", None, true),
            ("\"15552000\"", None, true),
            ("0", None, true),
            ("1799999999", None, true),
            ("1800000000", None, true),
            ("1800000001", None, false),
            // By the Date, the server's clock is 1000 s ahead or behind.
            ("1800001000", Some(now + 1000), true),
            ("1800001001", Some(now + 1000), false),
            ("1799999001", Some(now - 1000), false),
            // A gateway's clock is a year ahead.
            ("1815552000", Some(now + 31_536_000), true),
        ] {
            let json = format!(r#"{{"refresh_token":"r","refresh_expires_in":{received}}}"#);
            let members = Members::parse(json.as_bytes()).unwrap();
            let Received { object, fault } =
                RefreshTokenObject::received(members, None, None, at(now), server_time.map(at)).unwrap();
            assert_eq!(fault, None);
            assert_eq!(
                object.expiry() == Some(at(now) + SIX_MONTHS),
                is_absent,
                "{received} with the date {server_time:?}"
            );
            let json = object.to_json();
            assert!(json.contains(&format!("\"refresh_expires_in\": {received},")), "{json}");
        }
    }

    #[test]
    fn the_receipt_is_stored_and_never_taken_from_the_server_or_a_predecessor() {
        let old = r#"{"refresh_token":"old","refreshTokenReceivedAt":7}"#;
        let old = RefreshTokenObject::from_json(old).unwrap();
        for same_grant in [true, false] {
            let theirs = r#"{"refresh_token":"r","refreshTokenReceivedAt":9}"#;
            let Received { object, .. } = received(theirs, Some(Predecessor { object: &old, same_grant }));
            assert!(object.to_json().contains("\"refreshTokenReceivedAt\": 1000"));
            assert_eq!(object.life(at(1000)), Some((at(1000), at(1000) + SIX_MONTHS)));
        }
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
            let Received { object, fault } = received(json, None);
            assert_eq!(fault.unwrap().0, bad, "{json}");
            assert_eq!(object.secret(), "r", "{json}");
        }
    }

    #[test]
    fn a_successor_inherits_what_still_holds() {
        let old = r#"{"refresh_token":"old","refresh_expires_in":9,"access_token":"a","expires_in":1,
            "accessTokenExpiresAt":1,"scope":"x y","geolocation":"https://g","note":"mine"}"#;
        let old = RefreshTokenObject::from_json(old).unwrap();
        let predecessor = |same_grant| Some(Predecessor { object: &old, same_grant });

        let Received { object: renewed, .. } = received(r#"{"refresh_token":"new"}"#, predecessor(true));
        assert_eq!((renewed.secret(), renewed.geolocation()), ("new", Some("https://g")));
        assert_eq!(renewed.scopes().collect::<Vec<_>>(), ["x", "y"]);
        assert!(renewed.to_json().contains(r#""note": "mine""#));
        assert!(renewed.access().is_none());
        assert_eq!(renewed.expiry(), Some(at(1000) + SIX_MONTHS));

        let Received { object: obtained, .. } = received(r#"{"refresh_token":"new"}"#, predecessor(false));
        assert_eq!((obtained.geolocation(), obtained.scopes().count()), (None, 0));
        assert!(obtained.to_json().contains(r#""note": "mine""#));
    }
}
