//! Serve, carry the renewal, or wait: the decision as a function of a token's window, the time and the calm.
//!
//! Always: no I/O and no clock here; the same arguments give the same answer.

use std::time::{Duration, SystemTime};

use crate::access_token::IssuedAccess;

/// How long before its expiry an access token is renewed by whoever comes first, and by everybody.
/// The figures that the AWS SDKs agreed on; a short-lived token gives a part of its life instead.
const ADVISORY: Duration = Duration::from_secs(5 * 60);
const MANDATORY: Duration = Duration::from_secs(60);
/// And by `keep_alive`, so that no caller comes first.
const AHEAD: Duration = Duration::from_secs(10 * 60);

/// How far the clocks of machines that share a token may differ.
const SKEW: Duration = Duration::from_secs(5 * 60);

/// When a token should be renewed, when it must be, and when it is of no more use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Window {
    /// Before its issue, give or take what clocks differ: the clock has jumped back, and nobody knows its age.
    pub(super) not_before: SystemTime,
    pub(super) ahead: SystemTime,
    pub(super) advisory: SystemTime,
    pub(super) mandatory: SystemTime,
    pub(super) expires: SystemTime,
}

/// What is going on while a caller asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Calm {
    /// Nobody is renewing, and nothing speaks against it.
    Calm,
    /// A renewal failed, or found somebody else at it, too short a time ago to try again.
    BackingOff,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    /// Hand out what is held.
    Serve,
    /// Renew unless somebody else is at it, in which case hand out what is held.
    Carry,
    /// Renew, or wait for who is at it.
    Wait,
}

impl Window {
    /// `jitter` between 0 and 1 shortens the windows by up to a fifth, so that processes that share a token do not
    /// all come at once.
    pub(super) fn of_access(access: &IssuedAccess, jitter: f64) -> Self {
        let advisory = ADVISORY.min(access.lifetime / 4).mul_f64(1.0 - jitter / 5.0);
        let mandatory = MANDATORY.min(access.lifetime / 20);
        let ahead = AHEAD.min(access.lifetime / 3).mul_f64(1.0 - jitter / 5.0);
        Self {
            not_before: before(access.expires_at, access.lifetime.saturating_add(SKEW)),
            ahead: before(access.expires_at, ahead),
            advisory: before(access.expires_at, advisory),
            mandatory: before(access.expires_at, mandatory),
            expires: access.expires_at,
        }
    }

    /// A refresh token lives for months, so nobody has to wait for its renewal until it has expired. One whose
    /// expiry nobody knows should always be renewed and never must be.
    pub(super) fn of_refresh(expires: Option<SystemTime>, margin: Duration) -> Self {
        let always = SystemTime::UNIX_EPOCH;
        match expires {
            Some(expires) => {
                let advisory = before(expires, margin);
                Self { not_before: always, ahead: advisory, advisory, mandatory: expires, expires }
            }
            None => {
                let never = SystemTime::UNIX_EPOCH + Duration::from_secs(u64::from(u32::MAX) * 50);
                Self { not_before: always, ahead: always, advisory: always, mandatory: never, expires: never }
            }
        }
    }

    /// Too early even for `keep_alive`.
    pub(super) fn is_early(&self, now: SystemTime) -> bool {
        self.not_before <= now && now < self.ahead
    }

    /// The warm path: nothing to decide.
    pub(super) fn is_fresh(&self, now: SystemTime) -> bool {
        self.not_before <= now && now < self.advisory
    }

    pub(super) fn is_valid(&self, now: SystemTime) -> bool {
        now < self.expires
    }
}

pub(super) fn decide(window: &Window, now: SystemTime, calm: Calm) -> Decision {
    match calm {
        _ if window.is_fresh(now) => Decision::Serve,
        _ if now >= window.expires => Decision::Wait,
        Calm::BackingOff => Decision::Serve,
        Calm::Calm if now < window.mandatory => Decision::Carry,
        Calm::Calm => Decision::Wait,
    }
}

fn before(time: SystemTime, margin: Duration) -> SystemTime {
    time.checked_sub(margin).unwrap_or(SystemTime::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::{Calm::*, Decision::*, *};
    use crate::{clock::from_unix_seconds, secret::Secret};

    fn at(seconds: u64) -> SystemTime {
        from_unix_seconds(seconds).unwrap()
    }

    fn access(lifetime: u64) -> IssuedAccess {
        IssuedAccess {
            secret: Secret::new("a"),
            expires_at: at(100_000),
            lifetime: Duration::from_secs(lifetime),
        }
    }

    #[test]
    fn the_windows_of_an_access_token() {
        for (lifetime, jitter, ahead, advisory, mandatory) in [
            (3600, 0.0, 600, 300, 60),
            (3600, 1.0, 480, 240, 60),
            (300, 0.0, 100, 75, 15),
            (0, 0.0, 0, 0, 0),
            (u64::MAX, 0.5, 540, 270, 60),
        ] {
            let window = Window::of_access(&access(lifetime), jitter);
            assert_eq!(window.ahead, at(100_000 - ahead), "{lifetime} {jitter}");
            assert_eq!(window.advisory, at(100_000 - advisory), "{lifetime} {jitter}");
            assert_eq!(window.mandatory, at(100_000 - mandatory), "{lifetime} {jitter}");
            assert_eq!(window.expires, at(100_000), "{lifetime} {jitter}");
        }
    }

    #[test]
    fn the_decision_as_a_table() {
        let window =
            Window { not_before: at(2), ahead: at(5), advisory: at(10), mandatory: at(20), expires: at(30) };
        for (now, calm, decision) in [
            (1, Calm, Carry),
            (1, BackingOff, Serve),
            (2, Calm, Serve),
            (9, BackingOff, Serve),
            (10, Calm, Carry),
            (10, BackingOff, Serve),
            (19, Calm, Carry),
            (20, Calm, Wait),
            (20, BackingOff, Serve),
            (29, BackingOff, Serve),
            (30, Calm, Wait),
            (30, BackingOff, Wait),
            (99, Calm, Wait),
        ] {
            assert_eq!(decide(&window, at(now), calm), decision, "at {now}, {calm:?}");
        }
    }

    #[test]
    fn a_refresh_token_is_renewed_in_its_last_days_and_waited_for_once_expired() {
        let window = Window::of_refresh(Some(at(1000)), Duration::from_secs(300));
        for (now, decision) in [(699, Serve), (700, Carry), (999, Carry), (1000, Wait)] {
            assert_eq!(decide(&window, at(now), Calm), decision, "at {now}");
        }
        let unknown = Window::of_refresh(None, Duration::from_secs(300));
        for now in [0, 1_800_000_000, 9_999_999_999] {
            assert_eq!(decide(&unknown, at(now), Calm), Carry, "at {now}");
        }
    }
}
