//! From a request to its reply: repeated where that harms nobody, and followed to where the principal lives.
//!
//! Always: four attempts within 45 s, and one for what they fall back on; detours come on top, while there is time. What
//! Concur may have spent is repeated only if it can be; secrets follow to trusted hosts only.

use std::{
    sync::{Mutex, MutexGuard},
    time::Duration,
};

use super::{
    Form, OAuthClient,
    exchange::{Answered, Attempt},
    http::REQUEST_TIMEOUT,
};
use crate::{Clock, Credentials, Error, ErrorKind, Geolocation, caught::locked, clock::Stopwatch, log};

const MOST_ATTEMPTS: u32 = 4;
/// From the first attempt to the last answer.
const LONGEST: Duration = Duration::from_secs(45);
/// Before the second attempt a pause of up to this long, before each further one twice as long.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// How often during a pause it is asked whether anybody still waits.
const LONGEST_SLEEP: Duration = Duration::from_millis(500);
/// How many times in one go Concur may name another place.
const MOST_DETOURS: u32 = 3;

/// How much trouble requests are worth: one budget for all that are sent to the same end.
pub(crate) struct Patience<'a> {
    most_attempts: u32,
    is_given_up: &'a (dyn Fn() -> bool + Sync),
    spent: Mutex<Spent>,
}

#[derive(Default)]
struct Spent {
    attempts: u32,
    passed: Duration,
}

impl<'a> Patience<'a> {
    /// There is a valid token to go on with, or the caller decides what to do next.
    pub(crate) fn one_attempt() -> Self {
        Self { most_attempts: 1, ..Self::repeat(&|| false) }
    }

    /// Until nobody waits any longer.
    pub(crate) fn repeat(is_given_up: &'a (dyn Fn() -> bool + Sync)) -> Self {
        Self { most_attempts: MOST_ATTEMPTS, is_given_up, spent: Mutex::default() }
    }

    fn spent(&self) -> MutexGuard<'_, Spent> {
        locked(&self.spent)
    }

    /// The pause before the next attempt, if there may be one. It gets all the time that a request may take: a reply
    /// must not be missed because others were late.
    fn pause(&self, error: &Error) -> Option<Duration> {
        let spent = self.spent();
        if spent.attempts >= self.most_attempts {
            return None;
        }
        // Also a server that names no time at all is given some.
        let pause = pause_after(spent.attempts, fastrand::f64()).max(error.retry_after().unwrap_or_default());
        drop(spent);
        self.has_time_for(pause).then_some(pause)
    }

    /// Whether a whole request fits after a pause.
    fn has_time_for(&self, pause: Duration) -> bool {
        let begins = self.spent().passed.saturating_add(pause);
        begins.saturating_add(REQUEST_TIMEOUT) <= LONGEST
    }
}

/// Why there is no reply, and what that says of the grant.
pub(super) struct Failure {
    pub(super) error: Error,
    pub(super) fate: Fate,
}

/// What became of a grant that was not answered with tokens.
pub(super) enum Fate {
    /// Concur judged it, or nothing is gained by asking again.
    Final,
    /// Concur certainly issued nothing, and may the next time.
    NothingIssued,
    /// Concur may have issued tokens that reached nobody.
    Unknown,
    /// It is to be sent to this place instead.
    Elsewhere(Geolocation),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self { error, fate: Fate::Final }
    }
}

impl OAuthClient {
    /// Posts a form until it is answered, on the runtime that it is called on: this crate's own.
    pub(super) async fn persist<T>(
        &self,
        base: &Geolocation,
        (credentials, form): (&Credentials, &Form),
        clock: &dyn Clock,
        patience: &Patience<'_>,
        understand: impl Fn(Answered<'_>) -> Result<T, Failure>,
    ) -> Result<T, Error> {
        let (what, grant) = (form.what(), form.grant_type());
        let mut base = base.clone();
        let mut detours = 0;
        patience.spent().attempts += 1;
        loop {
            let number = patience.spent().attempts;
            // Real requests take real time, and pauses that of the clock; neither is read from the time of day.
            let watch = Stopwatch::start();
            let attempt = Attempt { base: &base, form, clock, number, followed: detours > 0 };
            let sent = self.post(attempt, credentials, &understand).await;
            let Failure { error, fate } = match sent {
                Ok(reply) => return Ok(reply),
                Err(failure) => failure,
            };
            patience.spent().passed += watch.elapsed();
            let is_lost = matches!(fate, Fate::Unknown) && !form.is_repeatable();
            let error = if is_lost { error.in_doubt() } else { error };
            let may_repeat = match fate {
                Fate::Elsewhere(elsewhere)
                    if detours < MOST_DETOURS
                        && elsewhere != base
                        && patience.has_time_for(Duration::ZERO) =>
                {
                    let (host, to, correlation_id) = (base.host(), elsewhere.host(), error.correlation_id());
                    log::event!(info, grant, host, to, correlation_id, "{what} sent elsewhere");
                    base = elsewhere;
                    detours += 1;
                    continue;
                }
                Fate::Elsewhere(_) => {
                    let message = format!(
                        "{} does not say where the principal lives: it led back to itself, or in circles; tell SAP \
                         Concur's support, with the correlation id",
                        base.host()
                    );
                    return Err(Error::new(ErrorKind::Protocol, message).answered_as(&error));
                }
                Fate::Final => false,
                Fate::NothingIssued => true,
                Fate::Unknown => !is_lost,
            };
            let Some(pause) = patience.pause(&error).filter(|_| may_repeat) else { return Err(error) };
            let (pause_ms, correlation_id) = (milliseconds(pause), error.correlation_id());
            log::event!(info, grant, attempt = number, pause_ms, correlation_id, "{what} to be repeated");
            let mut left = pause;
            while !left.is_zero() {
                if (patience.is_given_up)() {
                    return Err(error);
                }
                let sleep = left.min(LONGEST_SLEEP);
                clock.sleep(sleep).await;
                left -= sleep;
            }
            let mut spent = patience.spent();
            spent.passed += pause;
            spent.attempts += 1;
        }
    }
}

pub(super) fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Exponential with full jitter: `jitter` between 0 and 1 is the part of the pause that is waited for.
fn pause_after(attempt: u32, jitter: f64) -> Duration {
    FIRST_PAUSE.saturating_mul(1 << attempt.saturating_sub(1).min(10)).mul_f64(jitter)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_are_jittered_down_to_nothing() {
        for (attempt, jitter, milliseconds) in
            [(1, 1.0, 1000), (2, 1.0, 2000), (3, 1.0, 4000), (3, 0.5, 2000), (3, 0.0, 0)]
        {
            assert_eq!(pause_after(attempt, jitter), Duration::from_millis(milliseconds));
        }
    }
}
