//! What token and note say about a member: when it is due, and whether it needs a person.
//!
//! Always: no I/O and no clock here; nothing in it is a secret.

use std::time::{Duration, SystemTime};

use crate::{
    FleetMember, MemberKind, MemberState, RefreshTokenObject, Stored, clock, consequences,
    failed_requests::{FailedRequest, FailedRequests, REFUSED_BEFORE},
    store::{
        member_name::{kind_of, kind_of_token},
        renewal_time::{margin_time, renewal_time},
    },
};

/// When a token is due, and when it expires. Unix seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Outlook {
    pub(super) due_at: u64,
    /// After all that expire, if that is not known.
    pub(super) expires_at: u64,
}

impl Outlook {
    /// Of a token about which nothing is noted.
    pub(super) fn of_token(
        token: &RefreshTokenObject,
        name: &str,
        now: SystemTime,
        margin: Option<Duration>,
    ) -> Self {
        let renewal = renewal_time(token, name, now).unwrap_or(now);
        let margin_begins = margin.and_then(|margin| margin_time(token, margin, now));
        Self {
            due_at: clock::unix_seconds(margin_begins.map_or(renewal, |begins| begins.min(renewal))),
            expires_at: token.expiry().map_or(u64::MAX, clock::unix_seconds),
        }
    }

    /// `None` where nothing will be due until there is another token: there is none, or Concur has refused it for good.
    pub(super) fn of(stored: &Stored, name: &str, now: SystemTime, margin: Option<Duration>) -> Option<Self> {
        let token = stored.token.as_ref()?;
        let noted = FailedRequests::from_note(stored.note.as_deref());
        if noted.is_dead(token) {
            return None;
        }
        let mut outlook = Self::of_token(token, name, now, margin);
        if let Some(refused) = needing_a_person(&noted).filter(|refused| refused.is_in_force(now)) {
            outlook.due_at = outlook.due_at.max(clock::unix_seconds(refused.pending().next_attempt));
        }
        Some(outlook)
    }
}

/// The newest failure, if a person has to act after it.
fn needing_a_person(noted: &FailedRequests) -> Option<&FailedRequest> {
    noted.newest().filter(|failed| consequences::of(failed.pending().error.kind).needs_person)
}

pub(super) fn kind(name: &str, token: Option<&RefreshTokenObject>) -> MemberKind {
    kind_of(name, token.map_or(MemberKind::Company, kind_of_token))
}

/// What an operator is shown.
pub(super) fn member(name: &str, stored: &Stored, now: SystemTime) -> FleetMember {
    let token = stored.token.as_ref();
    let kind = kind(name, token);
    let Some(token) = token else { return FleetMember::new(name, kind, MemberState::SignedOut) };
    let noted = FailedRequests::from_note(stored.note.as_deref());
    let refused = needing_a_person(&noted).map(FailedRequest::pending);
    let is_dead = noted.is_dead(token);
    let needs_person = refused.is_some() || is_dead;
    let state = if needs_person { MemberState::NeedsPerson } else { MemberState::Active };
    let mut member = FleetMember::new(name, kind, state);
    if needs_person {
        let needs = refused.as_ref().map(|refused| refused.error.to_string());
        member.needs = Some(needs.unwrap_or_else(|| REFUSED_BEFORE.to_owned()));
        member.needed_since = refused.map(|refused| clock::public_time(refused.since));
    }
    member.refresh_token_expires_at = token.expires_at();
    let is_valid = !is_dead && token.expiry().is_some_and(|expiry| now < expiry);
    member.act_before = token.expires_at().filter(|_| needs_person && is_valid);
    let due_at = Outlook::of(stored, name, now, None).map(|outlook| outlook.due_at);
    member.renew_at = due_at.and_then(clock::from_unix_seconds).map(clock::public_time);
    member
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ConcurCode, Credentials, Error, ErrorKind, failed_requests::Basis, random::Random};

    const NAME: &str = "b3f4e2a0-0000-4000-8000-000000000000";
    const DAY: u64 = 24 * 3600;
    /// When it was refused, which is when it was due.
    const THEN: u64 = 1_800_000_000;
    const EXPIRES: u64 = THEN + 100 * DAY;

    fn at(seconds: u64) -> SystemTime {
        clock::from_unix_seconds(seconds).unwrap()
    }

    fn token(members: &str) -> RefreshTokenObject {
        let received = THEN - 80 * DAY;
        RefreshTokenObject::from_json(&format!(
            r#"{{"refresh_token":"r","refreshTokenReceivedAt":{received},"refreshTokenExpiresAt":{EXPIRES}{members}}}"#
        ))
        .unwrap()
    }

    fn noted(error: Option<&Error>, dead: Option<&RefreshTokenObject>) -> Option<String> {
        let (mut noted, credentials) = (FailedRequests::default(), Credentials::new("a", "s"));
        let basis = Basis { credentials: &credentials, stored: None };
        if let Some(error) = error {
            noted.add(FailedRequest::of(error, (&noted, basis), basis, at(THEN), &Random::System), basis);
        }
        if let Some(dead) = dead {
            noted.add_dead(dead, false, &Random::System);
        }
        noted.to_note()
    }

    fn refused(code: u32) -> Error {
        Error::new(ErrorKind::Refused, "the account is locked").with_code(Some(ConcurCode::new(code)), true)
    }

    #[test]
    fn a_dead_token_is_never_due_and_a_refused_one_when_its_cool_down_ends() {
        let (ours, other) = (token(""), token(r#","z":1"#));
        let other = RefreshTokenObject::from_json(&other.to_json().replace("\"r\"", "\"other\"")).unwrap();
        let renewal = clock::unix_seconds(renewal_time(&ours, NAME, at(THEN)).unwrap());
        assert!(renewal < THEN);
        let in_doubt = Error::new(ErrorKind::Protocol, "cut off").in_doubt();
        for (note, now, due_at) in [
            (None, THEN, Some(renewal)),
            (Some("not a note".to_owned()), THEN, Some(renewal)),
            (noted(None, Some(&ours)), THEN, None),
            (noted(None, Some(&other)), THEN, Some(renewal)),
            (noted(Some(&refused(108)), Some(&ours)), THEN + 30 * DAY, None),
            (noted(Some(&refused(14)), None), THEN, Some(THEN + 3600)),
            (noted(Some(&refused(14)), None), THEN + 3599, Some(THEN + 3600)),
            (noted(Some(&refused(14)), None), THEN + 3600, Some(renewal)),
            // Noted by a clock that is far ahead.
            (noted(Some(&refused(14)), None), THEN - DAY, Some(renewal)),
            (noted(Some(&in_doubt), None), THEN, Some(renewal)),
        ] {
            let stored = Stored::new(Some(ours.clone()), note.clone());
            let outlook = Outlook::of(&stored, NAME, at(now), None);
            assert_eq!(outlook.map(|outlook| outlook.due_at), due_at, "{note:?} at {now}");
            // The margin has begun a day before the renewal; what it says of a refusal, it says nothing against.
            let margin = Duration::from_secs(EXPIRES - renewal + DAY);
            let earlier = Outlook::of(&stored, NAME, at(now), Some(margin)).map(|outlook| outlook.due_at);
            let is_paused = due_at.is_some_and(|due_at| due_at > renewal);
            assert_eq!(earlier, due_at.map(|at| if is_paused { at } else { at - DAY }), "{note:?} at {now}");
            assert!(outlook.is_none_or(|outlook| outlook.expires_at == EXPIRES));
        }
        assert_eq!(Outlook::of(&Stored::default(), NAME, at(THEN), None), None);
        let unknown = RefreshTokenObject::from_json(r#"{"refresh_token":"r"}"#).unwrap();
        let outlook = Outlook::of_token(&unknown, NAME, at(THEN), Some(Duration::MAX));
        assert_eq!(outlook, Outlook { due_at: THEN, expires_at: u64::MAX }, "at once, and after the others");
    }

    #[test]
    fn who_needs_a_person_is_shown_with_what_to_do_since_when_and_until_when() {
        let ours = token("");
        let renewal = renewal_time(&ours, NAME, at(THEN)).map(clock::public_time);
        let told = "the account is locked (code 14)";
        for (note, now, state, needs, since, renew_at) in [
            (None, THEN, MemberState::Active, None, None, renewal),
            (
                noted(Some(&Error::new(ErrorKind::Protocol, "").in_doubt()), None),
                THEN,
                MemberState::Active,
                None,
                None,
                renewal,
            ),
            (
                noted(Some(&refused(14)), None),
                THEN,
                MemberState::NeedsPerson,
                Some(told),
                Some(at(THEN)),
                Some(clock::public_time(at(THEN + 3600))),
            ),
            (
                noted(Some(&refused(14)), None),
                EXPIRES,
                MemberState::NeedsPerson,
                Some(told),
                Some(at(THEN)),
                renewal,
            ),
            (
                noted(Some(&refused(14)), Some(&ours)),
                THEN,
                MemberState::NeedsPerson,
                Some(told),
                Some(at(THEN)),
                None,
            ),
            (
                noted(None, Some(&ours)),
                THEN,
                MemberState::NeedsPerson,
                Some("Concur has refused this refresh token before; sign in again"),
                None,
                None,
            ),
        ] {
            let shown = member(NAME, &Stored::new(Some(ours.clone()), note.clone()), at(now));
            let mut expected = FleetMember::new(NAME, MemberKind::Company, state);
            expected.needs = needs.map(str::to_owned);
            expected.needed_since = since.map(clock::public_time);
            expected.refresh_token_expires_at = ours.expires_at();
            // A token that is locked is valid; a dead one has no time left in which to act.
            let is_locked = renew_at == Some(clock::public_time(at(THEN + 3600)));
            expected.act_before = ours.expires_at().filter(|_| is_locked);
            expected.renew_at = renew_at;
            assert_eq!(shown, expected, "{note:?}");
        }
    }

    #[test]
    fn the_kind_is_what_the_token_says_but_of_a_pending_name() {
        // The payload {"sub":"u"}, not signed.
        let user = token(r#","id_token":"e30.eyJzdWIiOiJ1In0.""#);
        let company = token(r#","companyUUID":"c""#);
        for (name, token, kind_is) in [
            (NAME, Some(&user), MemberKind::User),
            (NAME, Some(&company), MemberKind::Company),
            (NAME, None, MemberKind::Company),
            ("pending-0", Some(&user), MemberKind::Pending),
            ("pending-0", None, MemberKind::Pending),
        ] {
            assert_eq!(kind(name, token), kind_is, "{name} {token:?}");
        }
    }
}
