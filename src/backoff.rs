//! Pauses that double: how long the next one is, and whether the last one still lasts.
//!
//! Always: no I/O, no clock and no randomness here; the same arguments give the same answer.

use std::time::{Duration, SystemTime};

/// A pause that doubles with each failure in a row, up to the longest.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Backoff {
    pub(crate) first: Duration,
    pub(crate) longest: Duration,
}

impl Backoff {
    pub(crate) const fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest }
    }

    /// The pause after a failure that `doublings` failures came before.
    pub(crate) fn nth(self, doublings: u32) -> Duration {
        self.first.saturating_mul(1 << doublings.min(16)).min(self.longest)
    }

    /// Whether a pause until that time is still on. A pause that seems to be longer than the longest pause was set
    /// before the clock jumped back, and is over.
    pub(crate) fn is_on(self, until: Option<SystemTime>, now: SystemTime) -> bool {
        is_pausing(until, now, self.longest)
    }
}

/// Like [`Backoff::is_on`], for a pause that a server chose.
pub(crate) fn is_pausing(until: Option<SystemTime>, now: SystemTime, longest: Duration) -> bool {
    let left = until.and_then(|until| until.duration_since(now).ok());
    left.is_some_and(|left| !left.is_zero() && left <= longest)
}

/// `fraction` between 0 and 1 gives between a half and the whole of a pause, so that processes do not come back
/// together.
pub(crate) fn jittered(pause: Duration, fraction: f64) -> Duration {
    pause.mul_f64(0.5 + fraction / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BACKOFF: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));

    #[test]
    fn pauses_double_up_to_the_longest() {
        for (doublings, seconds) in [(0, 1), (1, 2), (2, 4), (5, 32), (6, 60), (7, 60), (u32::MAX, 60)] {
            assert_eq!(BACKOFF.nth(doublings), Duration::from_secs(seconds), "{doublings}");
        }
        let endless = Backoff::new(Duration::MAX, Duration::MAX);
        assert_eq!(endless.nth(u32::MAX), Duration::MAX);
    }

    #[test]
    fn a_pause_lasts_until_its_end_unless_the_clock_jumped_back() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        for (now, is_on) in [(39, false), (40, true), (99, true), (100, false), (101, false)] {
            assert_eq!(BACKOFF.is_on(Some(at(100)), at(now)), is_on, "at {now}");
        }
        assert!(!BACKOFF.is_on(None, at(0)));
    }

    #[test]
    fn jitter_takes_up_to_a_half() {
        for (fraction, millis) in [(0.0, 500), (0.5, 750), (1.0, 1000)] {
            assert_eq!(jittered(Duration::from_secs(1), fraction), Duration::from_millis(millis));
        }
    }
}
