//! When `keep_alive` asks: by each token's own moment, and seldom while renewing fails.
//!
//! Always: no I/O and no clock here. All guards of a manager share one schedule, so what is asked in a day does not depend
//! on how many guards there are. Managers whose tokens were issued together, or which were all late together, do not ask
//! together.

use std::time::{Duration, SystemTime};

use super::{decision::Window, held::HeldAccess};
use crate::backoff::{Backoff, jittered};

/// How often the time is looked at. That costs nothing but a comparison.
pub(super) const TICK: Duration = Duration::from_secs(60);
/// A renewal comes so long after its moment at most, unless the clock was set, the machine slept, or requests failed.
const LATE: Duration = TICK.saturating_mul(3);
/// The pauses after failures, each then cut by up to a half. An outage costs at most 60 requests a day.
const AFTER_FAILURE: Backoff = Backoff::new(Duration::from_secs(60), Duration::from_secs(60 * 60));

#[derive(Debug, Default)]
pub(super) struct Schedule {
    failures: u32,
    not_before: Option<NotBefore>,
    phase: Phase,
    /// Boxed, as a manager without `keep_alive` has none.
    seen: Option<Box<Seen>>,
}

/// The end of a pause, by the time of day and by a clock that is never set. The earlier of the two counts: a clock that is
/// set back would make the pause last longer, or hold again much later.
#[derive(Clone, Copy, Debug)]
struct NotBefore {
    now: SystemTime,
    uptime: Duration,
}

/// The held token as it was seen first: its expiry, and times of a clock that is never set.
#[derive(Debug)]
struct Seen {
    expires: SystemTime,
    due: Duration,
    ends: Duration,
}

/// What the time that has passed says about the held token, whatever the time of day was set to since.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Age {
    Young,
    Due,
    Over,
}

/// Whether this manager's renewals come at moments of their own, hour after hour: tokens live equally long, so a renewal
/// at a random moment makes all later ones come at random moments, too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    /// The next valid token is renewed at a random moment in what is left of it.
    #[default]
    Unknown,
    /// That moment is drawn, from too short a time to be far from other managers' moments.
    Close,
    Own,
}

impl Schedule {
    /// Whether the last flight is too recent.
    pub(super) fn is_pausing(&self, now: SystemTime, uptime: Duration) -> bool {
        let pause = self.not_before.filter(|until| uptime < until.uptime);
        AFTER_FAILURE.is_on(pause.map(|until| until.now), now)
    }

    /// A clock that is set back by less than the token's age makes it look younger. `uptime`: by a clock that is never set.
    pub(super) fn age(&mut self, access: &HeldAccess, now: SystemTime, uptime: Duration) -> Age {
        let HeldAccess { window, token, .. } = access;
        let seen = self.seen.take_if(|seen| seen.expires == window.expires).unwrap_or_else(|| {
            let from_now = |at: SystemTime| {
                let left = at.duration_since(now).unwrap_or_default();
                uptime.saturating_add(left.min(token.issued().lifetime))
            };
            let (due, ends) = (from_now(window.ahead), from_now(window.expires));
            Box::new(Seen { expires: window.expires, due, ends })
        });
        let age = match uptime {
            _ if uptime < seen.due => Age::Young,
            _ if uptime < seen.ends => Age::Due,
            _ => Age::Over,
        };
        // What replaces a token that is over may expire in the same second.
        self.seen = Some(seen).filter(|_| age != Age::Over);
        age
    }

    /// The moment at which the held token is renewed, if it gets a moment of its own: before callers would renew it.
    pub(super) fn moment(&mut self, window: &Window, now: SystemTime, fraction: f64) -> Option<SystemTime> {
        if self.phase != Phase::Unknown || !window.is_fresh(now) {
            return None;
        }
        self.phase = if window.is_almost_whole(now) { Phase::Own } else { Phase::Close };
        let latest = if window.is_early(now) { window.ahead } else { window.advisory };
        let left = latest.duration_since(now).unwrap_or_default();
        now.checked_add(left.mul_f64(fraction))
    }

    /// Whether a renewal comes when other managers may come, too: after an outage, or after the clock was set or the machine
    /// slept. A token from the future is due at once, one that has expired is, and so is one in its last minutes. After failures
    /// the pauses keep managers apart while the token lives.
    pub(super) fn is_late(&self, window: Option<&Window>, now: SystemTime) -> bool {
        let is_overdue = |window: &Window| window.ahead.checked_add(LATE).is_some_and(|late| late < now);
        window.is_none_or(|window| {
            !window.is_valid(now) || now < window.not_before || (self.failures == 0 && is_overdue(window))
        })
    }

    /// After a flight that began then; `was_late` when it did.
    pub(super) fn asked(
        &mut self,
        failed: bool,
        was_late: bool,
        (now, uptime): (SystemTime, Duration),
        fraction: f64,
    ) {
        let wait = jittered(if failed { AFTER_FAILURE.nth(self.failures) } else { TICK }, fraction);
        let not_before = |now| NotBefore { now, uptime: uptime.saturating_add(wait) };
        self.not_before = now.checked_add(wait).map(not_before);
        self.failures = if failed { self.failures.saturating_add(1) } else { 0 };
        if !failed && (was_late || self.phase == Phase::Close) {
            self.phase = Phase::Unknown;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        AccessToken, Geolocation, access_token::IssuedAccess, clock::from_unix_seconds, random::Random,
        secret::Secret,
    };

    fn at(seconds: u64) -> SystemTime {
        from_unix_seconds(seconds).unwrap()
    }

    /// By both clocks.
    fn both(seconds: u64) -> (SystemTime, Duration) {
        (at(seconds), Duration::from_secs(seconds))
    }

    fn issued() -> IssuedAccess {
        IssuedAccess { secret: Secret::new("a"), expires_at: at(10_000), lifetime: Duration::from_secs(3600) }
    }

    /// Of an hour, until 10,000: renewed ahead of time from 9,400, and by callers from 9,700.
    fn window() -> Window {
        Window::of_access(&issued(), 0.0)
    }

    #[test]
    fn a_token_ages_by_the_clock_that_is_never_set() {
        let token = AccessToken::new(issued(), Geolocation::GLZ.parse().unwrap(), [].into());
        let mut access = HeldAccess::new(token, None, &Random::seeded(0));
        access.window = window();
        // The process starts at 7,000 by the time of day, and 100 by the other clock: the token has 3,000 seconds left.
        let (due, ends) = (2500, 3100);
        for set_to in [7000, 0, 20_000] {
            let mut schedule = Schedule::default();
            let mut age = |now, uptime| schedule.age(&access, at(now), Duration::from_secs(uptime));
            for (now, uptime, wanted) in [
                (7000, 100, Age::Young),
                (set_to, due - 1, Age::Young),
                (set_to, due, Age::Due),
                (set_to, ends - 1, Age::Due),
                (set_to, ends, Age::Over),
            ] {
                assert_eq!(age(now, uptime), wanted, "{uptime}, the clock set to {set_to}");
            }
        }
    }

    #[test]
    fn a_token_that_is_found_is_renewed_at_a_random_moment_in_what_is_left() {
        for (now, fraction, moment) in [
            (6400, 0.0, Some(6400)),
            (6400, 0.5, Some(7900)),
            (6400, 1.0, Some(9400)),
            (9000, 0.5, Some(9200)),
            // Where it is time already: before callers come.
            (9400, 0.5, Some(9550)),
            (9600, 1.0, Some(9700)),
            // Too late for that.
            (9700, 0.5, None),
            (10_000, 0.5, None),
        ] {
            let drawn = Schedule::default().moment(&window(), at(now), fraction);
            assert_eq!(drawn, moment.map(at), "{fraction} at {now}");
        }
    }

    #[test]
    fn one_moment_is_drawn_unless_it_was_drawn_from_a_short_time_or_came_too_late() {
        for (found, was_late, again) in [
            (6400, false, false),
            (7000, false, false),
            (7200, false, true),
            (9400, false, true),
            (6400, true, true),
        ] {
            let mut schedule = Schedule::default();
            assert!(schedule.moment(&window(), at(found), 0.5).is_some());
            assert!(schedule.moment(&window(), at(found), 0.5).is_none(), "once for each token");
            schedule.asked(true, was_late, both(found), 0.5);
            assert!(schedule.moment(&window(), at(found), 0.5).is_none(), "nothing is renewed yet");
            schedule.asked(false, was_late, both(found), 0.5);
            assert_eq!(schedule.moment(&window(), at(6400), 0.5).is_some(), again, "{found} {was_late}");
        }
    }

    #[test]
    fn what_is_late() {
        let (calm, mut failed) = (Schedule::default(), Schedule::default());
        failed.asked(true, false, both(9000), 0.5);
        // The token was issued at 6,400, and clocks may differ by ten minutes.
        for (now, is_late, after_failure) in [
            (5799, true, true),
            (5800, false, false),
            (9400, false, false),
            (9580, false, false),
            (9581, true, false),
            (9999, true, false),
            (10_000, true, true),
        ] {
            let late = [&calm, &failed].map(|schedule| schedule.is_late(Some(&window()), at(now)));
            assert_eq!(late, [is_late, after_failure], "at {now}");
        }
        assert!(calm.is_late(None, at(6400)));
    }

    #[test]
    fn each_failure_in_a_row_pauses_longer_and_a_success_starts_again() {
        let mut schedule = Schedule::default();
        for (failed, fraction, pause) in [
            (true, 0.0, 30),
            (true, 1.0, 120),
            (true, 0.0, 120),
            (false, 0.0, 30),
            (true, 1.0, 60),
            (true, 1.0, 120),
        ] {
            schedule.asked(failed, false, both(1000), fraction);
            let is_pausing = |now, uptime| schedule.is_pausing(at(now), Duration::from_secs(uptime));
            assert!(is_pausing(999 + pause, 999 + pause), "{pause}");
            // Whichever clock says so, and for whatever reason.
            for (now, uptime) in [(1000 + pause, 1000 + pause), (1000 + pause, 1001), (500, 1000 + pause)] {
                assert!(!is_pausing(now, uptime), "{pause}");
            }
        }
    }

    /// However the jitter falls: a day of failures, looked at every minute.
    #[test]
    fn a_day_of_failures_costs_at_most_60_requests() {
        let mut schedule = Schedule::default();
        let mut requests = 0;
        for minute in 0..24 * 60 {
            let now = both(minute * 60);
            if !schedule.is_pausing(now.0, now.1) {
                schedule.asked(true, true, now, 0.0);
                requests += 1;
            }
        }
        assert!((48..=60).contains(&requests), "{requests}");
    }
}
