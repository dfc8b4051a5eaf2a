//! From a request to its reply: repeated where that is safe, and followed to where the principal lives.
//!
//! Always: four attempts within 45 s, and one for the grant that they fall back to. Detours come on top, while there is
//! time. A request that Concur may have processed is repeated only if it is repeatable; secrets follow to trusted hosts
//! only. Time and randomness are handed in.

use std::{
    sync::{Mutex, MutexGuard},
    time::Duration,
};

use super::{
    failure::{Failure, Fate},
    outgoing_request::OutgoingRequest,
    request::{Attempt, Attempted, post},
    response::{OkReply, milliseconds},
    transport::{REQUEST_TIMEOUT, Transport},
};
use crate::{
    Clock, Credentials, Error, ErrorKind, Geolocation, backoff::Backoff, caught::locked, log, random::Random,
};

const MOST_ATTEMPTS: u32 = 4;
/// From the first attempt to the last answer.
const LONGEST: Duration = Duration::from_secs(45);
/// Before the second attempt a pause of up to a second, before each further attempt up to twice as long.
const PAUSES: Backoff = Backoff::new(Duration::from_secs(1), LONGEST);
/// How often a pause checks whether a caller still waits.
const LONGEST_SLEEP: Duration = Duration::from_millis(500);
/// How many other base URIs Concur may name for one grant.
const MOST_DETOURS: u32 = 3;

/// What sending depends on, apart from the request.
#[derive(Clone, Copy)]
pub(crate) struct Conditions<'a> {
    pub(crate) clock: &'a dyn Clock,
    pub(crate) random: &'a Random,
    pub(crate) budget: &'a RetryBudget<'a>,
}

/// How many attempts and how much time all requests for one purpose may use together.
pub(crate) struct RetryBudget<'a> {
    most_attempts: u32,
    is_given_up: &'a (dyn Fn() -> bool + Sync),
    spent: Mutex<Spent>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Spent {
    attempts: u32,
    passed: Duration,
}

impl Spent {
    /// Whether a whole request fits after a pause. Each attempt gets all the time that a request may take: a reply must
    /// not be missed because earlier replies were late.
    fn leaves_time_for(self, pause: Duration) -> bool {
        self.passed.saturating_add(pause).saturating_add(REQUEST_TIMEOUT) <= LONGEST
    }
}

impl<'a> RetryBudget<'a> {
    /// For a caller that has a valid token to fall back to, or that decides about the next attempt itself.
    pub(crate) fn one_attempt() -> Self {
        Self { most_attempts: 1, ..Self::repeat(&|| false) }
    }

    /// Repeats until `is_given_up` says that no caller waits any more.
    pub(crate) fn repeat(is_given_up: &'a (dyn Fn() -> bool + Sync)) -> Self {
        Self { most_attempts: MOST_ATTEMPTS, is_given_up, spent: Mutex::default() }
    }

    fn spent(&self) -> MutexGuard<'_, Spent> {
        locked(&self.spent)
    }
}

/// What follows a request that failed.
#[derive(Debug, PartialEq)]
enum Step {
    Return(Ending),
    /// Send the request to this base URI, at once.
    Detour(Geolocation),
    /// Send the request again after this pause.
    Pause(Duration),
}

/// How the caller learns of the failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    AsItIs,
    /// The grant may have been used, and must not be repeated.
    InDoubt,
    /// A host named itself, or the detours or the time for them are used up.
    InCircles,
}

/// What a step depends on, apart from the failure.
#[derive(Clone, Copy, Debug)]
struct Situation<'a> {
    base: &'a Geolocation,
    detours: u32,
    is_repeatable: bool,
    most_attempts: u32,
    spent: Spent,
    /// At least 0 and less than 1: the part of the next pause that is waited for.
    fraction: f64,
}

fn step(fate: Fate, retry_after: Option<Duration>, situation: &Situation<'_>) -> Step {
    let Situation { base, detours, is_repeatable, most_attempts, spent, fraction } = *situation;
    match fate {
        Fate::Elsewhere(to)
            if detours < MOST_DETOURS && to != *base && spent.leaves_time_for(Duration::ZERO) =>
        {
            return Step::Detour(to);
        }
        Fate::Elsewhere(_) => return Step::Return(Ending::InCircles),
        Fate::Final => return Step::Return(Ending::AsItIs),
        Fate::Unknown if !is_repeatable => return Step::Return(Ending::InDoubt),
        Fate::Unknown | Fate::NothingIssued => {}
    }
    // Full jitter spreads out processes that failed together, and may shrink a pause to nothing. So Retry-After is not
    // jittered, and the longer of the two counts: no request is sent before the time that the server named, and a
    // Retry-After of 0 does not remove the pause.
    let jittered = PAUSES.nth(spent.attempts.saturating_sub(1)).mul_f64(fraction);
    let pause = jittered.max(retry_after.unwrap_or_default());
    if spent.attempts < most_attempts && spent.leaves_time_for(pause) {
        Step::Pause(pause)
    } else {
        Step::Return(Ending::AsItIs)
    }
}

impl Ending {
    fn error(self, error: Error, base: &Geolocation) -> Error {
        match self {
            Self::AsItIs => error,
            Self::InDoubt => error.in_doubt(),
            Self::InCircles => {
                let message = format!(
                    "{} does not say where the principal lives: its answers lead back to itself, or in circles; tell SAP \
                     Concur's support, with the correlation id",
                    base.host()
                );
                Error::new(ErrorKind::Protocol, message).answered_as(&error)
            }
        }
    }
}

/// Posts a form until it is answered or the budget is used up.
pub(super) async fn send_with_retries<T>(
    transport: &dyn Transport,
    base: &Geolocation,
    (credentials, request): (&Credentials, &OutgoingRequest),
    conditions: &Conditions<'_>,
    understand: impl Fn(OkReply<'_>) -> Result<T, Failure> + Sync,
) -> Result<T, Error> {
    let Conditions { clock, random, budget } = *conditions;
    let (what, grant) = (request.what(), request.grant_type());
    let mut base = base.clone();
    let mut detours = 0;
    budget.spent().attempts += 1;
    loop {
        let number = budget.spent().attempts;
        let attempt = Attempt { base: &base, request, clock, number, followed: detours > 0 };
        let Attempted { elapsed, result } = post(transport, attempt, credentials, &understand).await;
        let Failure { error, fate } = match result {
            Ok(reply) => return Ok(reply),
            Err(failure) => failure,
        };
        // Counted, not read from the clock: requests take real time, pauses take the injected clock's.
        budget.spent().passed += elapsed;
        let situation = Situation {
            base: &base,
            detours,
            is_repeatable: request.is_repeatable(),
            most_attempts: budget.most_attempts,
            spent: *budget.spent(),
            fraction: random.fraction(),
        };
        let correlation_id = error.correlation_id();
        match step(fate, error.retry_after(), &situation) {
            Step::Return(ending) => return Err(ending.error(error, &base)),
            Step::Detour(elsewhere) => {
                let (host, to) = (base.host(), elsewhere.host());
                log::event!(info, grant, host, to, correlation_id, "{what} sent elsewhere");
                base = elsewhere;
                detours += 1;
            }
            Step::Pause(pause) => {
                let pause_ms = milliseconds(pause);
                log::event!(info, grant, attempt = number, pause_ms, correlation_id, "{what} to be repeated");
                if !wait(pause, clock, budget.is_given_up).await {
                    return Err(error);
                }
                let mut spent = budget.spent();
                spent.passed += pause;
                spent.attempts += 1;
            }
        }
    }
}

/// Sleeps in short pieces; false as soon as `is_given_up` says so.
async fn wait(pause: Duration, clock: &dyn Clock, is_given_up: &(dyn Fn() -> bool + Sync)) -> bool {
    let mut left = pause;
    while !left.is_zero() {
        if is_given_up() {
            return false;
        }
        let sleep = left.min(LONGEST_SLEEP);
        clock.sleep(sleep).await;
        left -= sleep;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(name: &str) -> Geolocation {
        format!("https://{name}.api.concursolutions.com").parse().unwrap()
    }

    #[test]
    fn fate_budget_and_detours_say_what_follows_a_failure() {
        use Ending::{AsItIs, InCircles, InDoubt};
        let base = host("us");
        let elsewhere = |name: &str| Fate::Elsewhere(host(name));
        let secs = Duration::from_secs;
        // (fate, repeatable, attempts made, seconds passed, detours)
        for (fate, is_repeatable, attempts, passed, detours, next) in [
            (Fate::Final, true, 1, 0, 0, Step::Return(AsItIs)),
            (Fate::Final, false, 1, 0, 0, Step::Return(AsItIs)),
            // Nothing was issued, so any grant may be repeated, with pauses that double.
            (Fate::NothingIssued, true, 1, 0, 0, Step::Pause(secs(1))),
            (Fate::NothingIssued, false, 1, 0, 0, Step::Pause(secs(1))),
            (Fate::NothingIssued, true, 2, 0, 0, Step::Pause(secs(2))),
            (Fate::NothingIssued, true, 3, 0, 0, Step::Pause(secs(4))),
            (Fate::NothingIssued, true, 4, 0, 0, Step::Return(AsItIs)),
            // A whole request of 30 s must fit into the 45 s, after the pause.
            (Fate::NothingIssued, true, 1, 14, 0, Step::Pause(secs(1))),
            (Fate::NothingIssued, true, 1, 15, 0, Step::Return(AsItIs)),
            // A lost reply.
            (Fate::Unknown, true, 1, 0, 0, Step::Pause(secs(1))),
            (Fate::Unknown, true, 4, 0, 0, Step::Return(AsItIs)),
            (Fate::Unknown, true, 1, 30, 0, Step::Return(AsItIs)),
            (Fate::Unknown, false, 1, 0, 0, Step::Return(InDoubt)),
            (Fate::Unknown, false, 4, 0, 0, Step::Return(InDoubt)),
            // Detours use no attempts, but time.
            (elsewhere("eu"), false, 1, 0, 0, Step::Detour(host("eu"))),
            (elsewhere("eu"), true, 4, 15, 2, Step::Detour(host("eu"))),
            (elsewhere("eu"), true, 1, 16, 0, Step::Return(InCircles)),
            (elsewhere("eu"), true, 1, 0, 3, Step::Return(InCircles)),
            (elsewhere("us"), true, 1, 0, 0, Step::Return(InCircles)),
        ] {
            let what = format!("{fate:?}, {attempts} attempts, {passed} s, {detours} detours");
            let situation = Situation {
                base: &base,
                detours,
                is_repeatable,
                most_attempts: MOST_ATTEMPTS,
                spent: Spent { attempts, passed: secs(passed) },
                fraction: 1.0,
            };
            assert_eq!(step(fate, None, &situation), next, "{what}");
        }
    }

    #[test]
    fn a_pause_is_jittered_down_to_nothing_but_never_below_retry_after() {
        let base = host("us");
        for (most_attempts, fraction, retry_after, next) in [
            (MOST_ATTEMPTS, 0.0, None, Step::Pause(Duration::ZERO)),
            (MOST_ATTEMPTS, 0.5, None, Step::Pause(Duration::from_secs(2))),
            (MOST_ATTEMPTS, 0.0, Some(3), Step::Pause(Duration::from_secs(3))),
            (MOST_ATTEMPTS, 1.0, Some(3), Step::Pause(Duration::from_secs(4))),
            (MOST_ATTEMPTS, 0.0, Some(15), Step::Pause(Duration::from_secs(15))),
            (MOST_ATTEMPTS, 0.0, Some(16), Step::Return(Ending::AsItIs)),
            (MOST_ATTEMPTS, 0.0, Some(u64::MAX), Step::Return(Ending::AsItIs)),
            (1, 0.0, None, Step::Return(Ending::AsItIs)),
        ] {
            let situation = Situation {
                base: &base,
                detours: 0,
                is_repeatable: true,
                most_attempts,
                spent: Spent { attempts: 3, passed: Duration::ZERO },
                fraction,
            };
            let retry_after = retry_after.map(Duration::from_secs);
            assert_eq!(step(Fate::NothingIssued, retry_after, &situation), next, "{retry_after:?}");
        }
    }
}
