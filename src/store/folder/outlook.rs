//! What token and note say about a member: when it is due, and whether it needs a person.
//!
//! Always: no I/O and no clock here; nothing in it is a secret.

use std::time::SystemTime;

use crate::{
    FleetMember, MemberKind, MemberState, RefreshTokenObject, Stored, clock, consequences,
    failed_requests::{FailedRequest, FailedRequests},
    principal::Principal,
    store::renewal_time::renewal_time,
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
    pub(super) fn of_token(token: &RefreshTokenObject, name: &str, now: SystemTime) -> Self {
        Self {
            due_at: clock::unix_seconds(renewal_time(token, name, now).unwrap_or(now)),
            expires_at: token.expiry().map_or(u64::MAX, clock::unix_seconds),
        }
    }

    /// `None` where nothing will be due until there is another token: there is none, or Concur has refused it for good.
    pub(super) fn of(stored: &Stored, name: &str, now: SystemTime) -> Option<Self> {
        let token = stored.token.as_ref()?;
        let noted = FailedRequests::from_note(stored.note.as_deref());
        if noted.is_dead(token) {
            return None;
        }
        let mut outlook = Self::of_token(token, name, now);
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
    match token.and_then(Principal::of) {
        _ if is_pending(name) => MemberKind::Pending,
        Some(Principal::User(_)) => MemberKind::User,
        Some(Principal::Company(_)) | None => MemberKind::Company,
    }
}

pub(super) fn is_pending(name: &str) -> bool {
    name.starts_with("pending-")
}

/// What an operator is shown.
pub(super) fn member(name: &str, stored: &Stored, now: SystemTime) -> FleetMember {
    let token = stored.token.as_ref();
    let kind = kind(name, token);
    let Some(token) = token else { return FleetMember::new(name, kind, MemberState::SignedOut) };
    let noted = FailedRequests::from_note(stored.note.as_deref());
    let refused = needing_a_person(&noted).map(FailedRequest::pending);
    let needs_person = refused.is_some() || noted.is_dead(token);
    let state = if needs_person { MemberState::NeedsPerson } else { MemberState::Active };
    let mut member = FleetMember::new(name, kind, state);
    if needs_person {
        let needs = refused.as_ref().map(|refused| refused.error.to_string());
        member.needs = Some(needs.unwrap_or_else(|| crate::failed_requests::REFUSED_BEFORE.to_owned()));
        member.needed_since = refused.map(|refused| clock::public_time(refused.since));
    }
    member.act_before = token.expires_at();
    let due_at = Outlook::of(stored, name, now).map(|outlook| outlook.due_at);
    member.renew_at = due_at.and_then(clock::from_unix_seconds).map(clock::public_time);
    member
}
