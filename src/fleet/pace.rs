//! How many due tokens a worker claims at once, and when.
//!
//! Always: no I/O and no clock here. A batch is never larger than what can be presented within a quarter of the lease. While
//! Concur fails for all, one token at a time tries it, with pauses that double.

use std::time::{Duration, SystemTime};

use crate::{
    Error,
    backoff::{Backoff, jittered},
};

/// The pauses between attempts while Concur, or the network, fails, each then cut by up to a half.
const WHILE_FAILING: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));
/// After so many failures in a row, whose pauses add up to 31 s at most, a round of renewals need not go on.
const ENOUGH: u32 = 6;
/// The part of a lease in which what is claimed must be presented.
const PART_OF_LEASE: u32 = 4;

#[derive(Debug)]
pub(super) struct Pace {
    most: usize,
    batch: usize,
    failures: u32,
    not_before: Option<SystemTime>,
}

impl Pace {
    /// `concurrent`: how many renewals run at once; `per_second`: how many requests are sent, if that is limited.
    pub(super) fn new(concurrent: usize, per_second: Option<f64>, lease: Option<Duration>) -> Self {
        let presentable = lease.zip(per_second).map_or(usize::MAX, |(lease, rate)| {
            let within = (lease / PART_OF_LEASE).as_secs_f64() * rate;
            // A number that is too large is the largest.
            #[allow(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a positive number, rounded down"
            )]
            let most = within as usize;
            most
        });
        let most = concurrent.min(presentable).max(1);
        Self { most, batch: most, failures: 0, not_before: None }
    }

    /// How many to claim now, at most.
    pub(super) fn batch(&self) -> usize {
        self.batch
    }

    /// Whether Concur has failed and not succeeded since.
    pub(super) fn is_trying(&self) -> bool {
        self.failures > 0
    }

    /// Whether Concur has failed so often in a row that it is not likely to be there again in a moment.
    pub(super) fn has_tried_enough(&self) -> bool {
        self.failures >= ENOUGH
    }

    /// How much longer nothing should be claimed.
    pub(super) fn pause(&self, now: SystemTime) -> Duration {
        if WHILE_FAILING.is_on(self.not_before, now) {
            self.not_before.and_then(|until| until.duration_since(now).ok()).unwrap_or_default()
        } else {
            Duration::ZERO
        }
    }

    pub(super) fn succeeded(&mut self) {
        self.batch = self.batch.saturating_mul(2).min(self.most);
        (self.failures, self.not_before) = (0, None);
    }

    /// A failure that concerns one member alone says nothing about the others.
    pub(super) fn failed(&mut self, error: &Error, now: SystemTime, fraction: f64) {
        if !error.is_transient() || error.code().is_some() {
            return;
        }
        // Those that were under way together count once.
        if self.pause(now).is_zero() {
            let wait = jittered(WHILE_FAILING.nth(self.failures), fraction);
            let wait = wait.max(error.retry_after().unwrap_or_default().min(WHILE_FAILING.longest));
            self.not_before = now.checked_add(wait);
            self.failures = self.failures.saturating_add(1);
        }
        self.batch = 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ConcurCode, ErrorKind, clock::from_unix_seconds};

    fn at(seconds: u64) -> SystemTime {
        from_unix_seconds(seconds).unwrap()
    }

    fn down() -> Error {
        Error::new(ErrorKind::Unavailable, "down")
    }

    #[test]
    fn a_batch_is_what_can_be_presented_within_a_quarter_of_the_lease() {
        let lease = Some(Duration::from_secs(90));
        for (concurrent, per_second, lease, batch) in [
            (64, None, None, 64),
            (64, Some(1.0), None, 64),
            (64, None, lease, 64),
            (64, Some(20.0), lease, 64),
            (64, Some(1.0), lease, 22),
            (64, Some(0.01), lease, 1),
            (0, None, None, 1),
            (64, Some(f64::MAX), lease, 64),
        ] {
            let pace = Pace::new(concurrent, per_second, lease);
            assert_eq!(pace.batch(), batch, "{concurrent} {per_second:?} {lease:?}");
        }
    }

    #[test]
    fn while_concur_fails_one_token_at_a_time_tries_it_at_growing_pauses() {
        let mut pace = Pace::new(64, None, None);
        assert!(!pace.is_trying());
        let mut now = 1000;
        for (pause, is_enough) in
            [1, 2, 4, 8, 16, 32, 60, 60].into_iter().zip([[false; 5], [true; 5]].concat())
        {
            // Many that were under way together.
            for _ in 0..10 {
                pace.failed(&down(), at(now), 1.0);
            }
            assert_eq!((pace.batch(), pace.pause(at(now))), (1, Duration::from_secs(pause)));
            assert!(pace.is_trying());
            assert_eq!(pace.has_tried_enough(), is_enough);
            now += pause;
            assert_eq!(pace.pause(at(now)), Duration::ZERO);
        }
        for batch in [2, 4, 8, 16, 32, 64, 64] {
            pace.succeeded();
            assert_eq!((pace.batch(), pace.pause(at(now))), (batch, Duration::ZERO));
            assert!(!pace.is_trying() && !pace.has_tried_enough());
        }
        pace.failed(&down(), at(now), 0.0);
        assert_eq!(pace.pause(at(now)), Duration::from_millis(500));
    }

    #[test]
    fn a_server_that_says_when_to_come_again_is_heeded_for_a_minute() {
        for (retry_after, pause) in [(30, 30), (3600, 60)] {
            let mut pace = Pace::new(64, None, None);
            pace.failed(&down().with_retry_after(Some(Duration::from_secs(retry_after))), at(1000), 1.0);
            assert_eq!(pace.pause(at(1000)), Duration::from_secs(pause));
        }
    }

    #[test]
    fn what_concerns_one_member_alone_slows_down_no_other() {
        let mut pace = Pace::new(64, None, None);
        for error in [
            down().with_code(Some(ConcurCode::new(134)), false),
            Error::new(ErrorKind::Refused, "no"),
            Error::new(ErrorKind::ReauthorizationRequired, "no"),
        ] {
            pace.failed(&error, at(1000), 0.0);
            assert_eq!((pace.batch(), pace.pause(at(1000))), (64, Duration::ZERO), "{error}");
        }
    }

    #[test]
    fn a_clock_that_was_set_back_ends_a_pause() {
        let mut pace = Pace::new(64, None, None);
        pace.failed(&down(), at(100_000), 0.0);
        assert_eq!(pace.pause(at(1000)), Duration::ZERO);
    }
}
