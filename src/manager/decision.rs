//! Serve, renew if idle, or wait: the decision as a function of a token's window, the time and the back-off.
//!
//! Always: no I/O and no clock here; the same arguments give the same answer.

use std::time::{Duration, SystemTime};

use crate::access_token::IssuedAccess;

/// How long before its expiry an access token is renewed by the first caller, and waited for by all callers.
/// The figures that the AWS SDKs agreed on; a short-lived token gives a part of its life instead.
const ADVISORY: Duration = Duration::from_secs(5 * 60);
const MANDATORY: Duration = Duration::from_secs(60);
/// How long before its expiry `keep_alive` renews it, so that no caller has to.
const AHEAD: Duration = Duration::from_secs(10 * 60);

/// How far the clocks of machines that share a token may differ.
const SKEW: Duration = Duration::from_secs(10 * 60);

/// When a token should be renewed, when it must be, and when it is of no use any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Window {
    /// Its issue, less what clocks may differ. Before that the clock has jumped back, and the token's age is unknown.
    pub(super) not_before: SystemTime,
    pub(super) ahead: SystemTime,
    pub(super) advisory: SystemTime,
    pub(super) mandatory: SystemTime,
    pub(super) expires: SystemTime,
    /// Before that it is not valid. Only what was refused has such a beginning: that of the pause in which it is handed out.
    pub(super) begins: SystemTime,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    /// Hand out what is held.
    Serve,
    /// Renew if no renewal is under way; otherwise hand out what is held.
    RenewIfIdle,
    /// Renew, or wait for the renewal under way.
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
            begins: SystemTime::UNIX_EPOCH,
        }
    }

    /// A refresh token lives for months, so no caller has to wait for its renewal until it has expired. It is renewed once a
    /// third of its `life` has passed, from its receipt to its expiry: a program that runs at equal intervals shorter than a
    /// life then keeps it, and so does a program that never pauses for longer than two thirds of a life. Or it is renewed
    /// within `margin` of its expiry, if that is given. A refresh token with an unknown expiry should always be renewed and
    /// never must be.
    pub(super) fn of_refresh(life: Option<(SystemTime, SystemTime)>, margin: Option<Duration>) -> Self {
        let always = SystemTime::UNIX_EPOCH;
        match life {
            Some((received, expires)) => {
                let whole = expires.duration_since(received).unwrap_or_default();
                let advisory = before(expires, margin.unwrap_or(whole / 3 * 2));
                Self {
                    not_before: always,
                    ahead: advisory,
                    advisory,
                    mandatory: expires,
                    expires,
                    begins: always,
                }
            }
            None => {
                let never = SystemTime::UNIX_EPOCH + Duration::from_secs(u64::from(u32::MAX) * 50);
                Self {
                    not_before: always,
                    ahead: always,
                    advisory: always,
                    mandatory: never,
                    expires: never,
                    begins: always,
                }
            }
        }
    }

    /// Too early even for `keep_alive`.
    pub(super) fn is_early(&self, now: SystemTime) -> bool {
        self.not_before <= now && now < self.ahead
    }

    /// Whether at least three quarters are left of the time from its issue until `keep_alive` renews it.
    pub(super) fn is_almost_whole(&self, now: SystemTime) -> bool {
        let issued = self.not_before.checked_add(SKEW).unwrap_or(self.ahead);
        let whole = self.ahead.duration_since(issued).unwrap_or_default();
        self.ahead.duration_since(now).is_ok_and(|left| left >= whole.mul_f64(0.75))
    }

    /// How long ago the token was issued; `None` if its issue lies in the future.
    pub(super) fn age(&self, now: SystemTime) -> Option<Duration> {
        now.duration_since(self.not_before.checked_add(SKEW)?).ok()
    }

    /// The same from now on, with an earlier end, whatever the clock is set to afterwards.
    pub(super) fn cut(&self, now: SystemTime, end: SystemTime) -> Self {
        let Self { not_before, ahead, advisory, mandatory, expires, .. } = *self;
        Self {
            not_before: not_before.max(now),
            begins: now,
            ahead: ahead.min(end),
            advisory: advisory.min(end),
            mandatory: mandatory.min(end),
            expires: expires.min(end),
        }
    }

    /// The warm path: nothing to decide.
    pub(super) fn is_fresh(&self, now: SystemTime) -> bool {
        self.not_before <= now && now < self.advisory
    }

    pub(super) fn is_valid(&self, now: SystemTime) -> bool {
        self.begins <= now && now < self.expires
    }
}

/// `is_backing_off` is asked only where it matters: most calls find a token that nothing has to be decided about.
pub(super) fn decide(window: &Window, now: SystemTime, is_backing_off: impl FnOnce() -> bool) -> Decision {
    if window.is_fresh(now) {
        Decision::Serve
    } else if !window.is_valid(now) {
        Decision::Wait
    } else if is_backing_off() {
        // A renewal failed, or found the store locked, too short a time ago to try again.
        Decision::Serve
    } else if now < window.mandatory {
        Decision::RenewIfIdle
    } else {
        Decision::Wait
    }
}

fn before(time: SystemTime, margin: Duration) -> SystemTime {
    time.checked_sub(margin).unwrap_or(SystemTime::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::{Decision::*, *};
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
    fn how_old_a_token_is_and_whether_it_is_almost_whole() {
        // Issued at 96,400, and renewed by `keep_alive` from 99,400 on.
        let window = Window::of_access(&access(3600), 0.0);
        for (now, age, is_almost_whole) in [
            (96_399, None, true),
            (96_400, Some(0), true),
            (97_150, Some(750), true),
            (97_151, Some(751), false),
            (99_401, Some(3001), false),
        ] {
            assert_eq!(window.age(at(now)), age.map(Duration::from_secs), "at {now}");
            assert_eq!(window.is_almost_whole(at(now)), is_almost_whole, "at {now}");
        }
    }

    #[test]
    fn the_decision_as_a_table() {
        let window = Window {
            not_before: at(2),
            ahead: at(5),
            advisory: at(10),
            mandatory: at(20),
            expires: at(30),
            begins: at(0),
        };
        for (now, backing_off, decision) in [
            (1, false, RenewIfIdle),
            (1, true, Serve),
            (2, false, Serve),
            (9, true, Serve),
            (10, false, RenewIfIdle),
            (10, true, Serve),
            (19, false, RenewIfIdle),
            (20, false, Wait),
            (20, true, Serve),
            (29, true, Serve),
            (30, false, Wait),
            (30, true, Wait),
            (99, false, Wait),
        ] {
            assert_eq!(
                decide(&window, at(now), || backing_off),
                decision,
                "at {now}, backing off: {backing_off}"
            );
        }
    }

    #[test]
    fn a_refresh_token_is_renewed_after_a_third_of_its_life_and_waited_for_once_expired() {
        let window = Window::of_refresh(Some((at(100), at(1000))), None);
        for (now, decision) in
            [(99, Serve), (399, Serve), (400, RenewIfIdle), (999, RenewIfIdle), (1000, Wait)]
        {
            assert_eq!(decide(&window, at(now), || false), decision, "at {now}");
        }
    }

    #[test]
    fn a_refresh_token_is_renewed_within_a_margin_of_its_expiry_if_one_is_given() {
        let window = Window::of_refresh(Some((at(100), at(1000))), Some(Duration::from_secs(300)));
        for (now, decision) in [(699, Serve), (700, RenewIfIdle), (999, RenewIfIdle), (1000, Wait)] {
            assert_eq!(decide(&window, at(now), || false), decision, "at {now}");
        }
        let unknown = Window::of_refresh(None, None);
        for now in [0, 1_800_000_000, 9_999_999_999] {
            assert_eq!(decide(&unknown, at(now), || false), RenewIfIdle, "at {now}");
        }
    }
}
