//! What a flight is for, when that is met, and how the flight ended.
//!
//! Always: no I/O and no clock here; what is held and the time are arguments.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::{
    decision::{Decision, decide},
    held::Held,
};
use crate::{Error, Grant, RefreshTokenObject};

/// What a flight is started for.
#[derive(Clone, Debug)]
pub(super) enum Need {
    /// A refresh token that is valid and not due for renewal. The caller may have looked at the store already: then the flight
    /// asks for the lock first, and looks under it.
    RefreshToken { is_looked_at: bool },
    /// An access token that is valid for at least so long, and not due for renewal.
    AccessToken { least: Duration },
    /// Both, and neither due for longer than callers ask for, so that no caller has to wait.
    KeepAlive,
    /// The stored token to be renewed, because a fleet's store has found it due and has handed in the lock for it. Without that
    /// lock, another flight has it, and nothing is left to do.
    Due,
    /// A grant to be sent, whatever is held.
    Grant,
    /// The same, whatever failed before.
    Retry,
    /// This grant to be sent, in place of whatever is held.
    SignIn(Grant),
    /// This token to be held, in place of whatever is held.
    Adopt(RefreshTokenObject),
    /// All tokens to be revoked.
    Revoke,
    /// The stored token to be removed, whatever it is, and nothing to be sent.
    Forget,
}

impl Need {
    /// What the log calls it.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::RefreshToken { .. } => "refresh_token",
            Self::AccessToken { .. } => "access_token",
            Self::KeepAlive => "keep_alive",
            Self::Due => "due",
            Self::Grant => "grant",
            Self::Retry => "retry",
            Self::SignIn(_) => "sign_in",
            Self::Adopt(_) => "adopt",
            Self::Revoke => "revoke",
            Self::Forget => "forget",
        }
    }

    /// Whether a person or a program asked for this very thing, so that no earlier failure holds it back.
    pub(super) fn is_explicit(&self) -> bool {
        matches!(self, Self::Retry | Self::SignIn(_) | Self::Adopt(_) | Self::Revoke | Self::Forget)
    }

    /// Whether what is held makes a flight needless. `margin`: how long before its expiry a refresh token is
    /// renewed, if that is chosen.
    pub(super) fn is_met_by(&self, held: &Held, now: SystemTime, margin: Option<Duration>) -> bool {
        let has_refresh = || held.decide(now, margin, || false) == Decision::Serve;
        match self {
            Self::RefreshToken { .. } => has_refresh(),
            Self::AccessToken { least } => held.access().is_some_and(|access| {
                access.token.lasts(*least, now) && decide(&access.window, now, || false) == Decision::Serve
            }),
            Self::KeepAlive => {
                has_refresh() && held.access().is_some_and(|access| access.window.is_early(now))
            }
            // What is due is the store's to say.
            Self::Due
            | Self::Grant
            | Self::Retry
            | Self::SignIn(_)
            | Self::Adopt(_)
            | Self::Revoke
            | Self::Forget => false,
        }
    }

    /// Whether this renews ahead of time, for no caller: then it can be left for later.
    pub(super) fn can_wait(&self) -> bool {
        matches!(self, Self::KeepAlive | Self::Due)
    }

    /// Whether the flight's callers can be served without it: from what the store holds, or, with access tokens, from memory.
    pub(super) fn has_fallback(&self, stored: Option<&Held>, held: Option<&Held>, now: SystemTime) -> bool {
        match self {
            Self::RefreshToken { .. } => stored.is_some_and(|stored| stored.is_valid(now)),
            Self::AccessToken { least } => {
                let live = held.and_then(|held| held.live_access(now));
                live.is_some_and(|access| access.lasts(*least, now))
            }
            Self::KeepAlive | Self::Due => held.is_some_and(|held| held.live_access(now).is_some()),
            Self::Grant | Self::Retry | Self::SignIn(_) | Self::Adopt(_) | Self::Revoke | Self::Forget => {
                false
            }
        }
    }
}

/// How a flight ended.
#[derive(Clone, Debug)]
pub(super) enum Outcome<D = Renewed> {
    Done(D),
    /// Another flight or process is renewing, and callers who hold something valid need not wait for it.
    Busy,
    Failed(Error),
    /// The single attempt failed that is made where the flight's starter has a fallback. A caller who joined and has none
    /// is owed more attempts.
    FailedOnce(Error),
    /// A token was received and saved, and something else in its reply cannot be used.
    SavedWithFault(Error),
    /// The same where only an access token is missing. Callers who want a refresh token have it.
    WithoutAccess(D, Error),
    /// The tokens are revoked or forgotten, and nothing is held.
    SignedOut,
}

impl Outcome {
    /// What Concur issued in this flight, if it did.
    pub(super) fn issued(&self) -> Option<&Renewed> {
        match self {
            Self::Done(renewed) | Self::WithoutAccess(renewed, _) if renewed.source != Source::Found => {
                Some(renewed)
            }
            _ => None,
        }
    }

    /// The flight took longer than any flight does: the process was suspended meanwhile.
    pub(super) fn has_aged(&mut self) {
        if let Self::Done(Renewed { source, .. }) | Self::WithoutAccess(Renewed { source, .. }, _) = self
            && *source == Source::Issued
        {
            *source = Source::IssuedLongAgo;
        }
    }
}

#[derive(Clone, Debug)]
pub(super) struct Renewed {
    pub(super) held: Arc<Held>,
    pub(super) source: Source,
}

/// Where a flight has its token from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// It was held or stored already.
    Found,
    /// Concur issued it in this flight, which makes it valid whatever this machine's clock says.
    Issued,
    /// The same, so long ago that it may have expired, or have been replaced.
    IssuedLongAgo,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Geolocation, TokenOrigin, clock::from_unix_seconds, random::Random};

    const MARGIN: Option<Duration> = Some(Duration::from_secs(300));

    fn at(seconds: u64) -> SystemTime {
        from_unix_seconds(seconds).unwrap()
    }

    /// A refresh token that expires at 10,000 and an access token of 3,600 seconds that expires at 5,000.
    fn held() -> Held {
        let json = r#"{"refresh_token": "r", "refreshTokenExpiresAt": 10000, "access_token": "a", "expires_in": 3600,
            "accessTokenExpiresAt": 5000}"#;
        let base: Geolocation = Geolocation::GLZ.parse().unwrap();
        let random = Random::seeded(0);
        let object = RefreshTokenObject::from_json(json).unwrap();
        Held::new(object, TokenOrigin::Stored, &base, None, &random)
    }

    fn all() -> [Need; 10] {
        let token = RefreshTokenObject::from_json(r#"{"refresh_token": "other"}"#).unwrap();
        let sign_in = Need::SignIn(Grant::refresh_token("r"));
        [
            Need::RefreshToken { is_looked_at: false },
            Need::AccessToken { least: Duration::ZERO },
            Need::KeepAlive,
            Need::Due,
            Need::Grant,
            Need::Retry,
            sign_in,
            Need::Adopt(token),
            Need::Revoke,
            Need::Forget,
        ]
    }

    #[test]
    fn what_a_need_is_called_and_whether_it_is_explicit_or_can_wait() {
        let found = all().map(|need| (need.name(), need.is_explicit(), need.can_wait()));
        let expected = [
            ("refresh_token", false, false),
            ("access_token", false, false),
            ("keep_alive", false, true),
            ("due", false, true),
            ("grant", false, false),
            ("retry", true, false),
            ("sign_in", true, false),
            ("adopt", true, false),
            ("revoke", true, false),
            ("forget", true, false),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn when_a_need_is_met() {
        // Which of the first three needs are met; the others never are.
        for (now, met) in [
            (4_000, [true, true, true]),
            (4_600, [true, true, false]),
            (4_900, [true, false, false]),
            (5_000, [true, false, false]),
            (9_699, [true, false, false]),
            (9_700, [false, false, false]),
            (10_000, [false, false, false]),
        ] {
            let expected = met.into_iter().chain([false; 7]);
            for (need, met) in all().iter().zip(expected) {
                assert_eq!(need.is_met_by(&held(), at(now), MARGIN), met, "{} at {now}", need.name());
            }
        }
    }

    #[test]
    fn what_was_found_was_not_issued() {
        let error = || Error::new(crate::ErrorKind::Protocol, "no access token");
        for (source, is_issued) in
            [(Source::Found, false), (Source::Issued, true), (Source::IssuedLongAgo, true)]
        {
            let renewed = || Renewed { held: Arc::new(held()), source };
            for outcome in [Outcome::Done(renewed()), Outcome::WithoutAccess(renewed(), error())] {
                assert_eq!(outcome.issued().is_some(), is_issued, "{source:?}");
            }
        }
        assert!(Outcome::<Renewed>::Busy.issued().is_none());
    }

    #[test]
    fn who_has_a_fallback() {
        let held = held();
        for (now, stored, in_memory, fallback) in [
            (4_999, None, None, [false, false, false, false]),
            (4_999, Some(&held), None, [true, false, false, false]),
            (4_999, None, Some(&held), [false, true, true, true]),
            (5_000, Some(&held), Some(&held), [true, false, false, false]),
            (10_000, Some(&held), Some(&held), [false, false, false, false]),
        ] {
            for (need, fallback) in all().iter().zip(fallback.into_iter().chain([false; 6])) {
                assert_eq!(
                    need.has_fallback(stored, in_memory, at(now)),
                    fallback,
                    "{} at {now}",
                    need.name()
                );
            }
        }
    }
}
