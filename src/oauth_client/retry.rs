//! From a request to its reply: repeated where that is safe, and followed to where the principal lives.
//!
//! Always: four attempts within 45 s, and one for the grant that they fall back to. Detours come on top; no request begins
//! after the budget's last moment. A request that Concur may have processed is repeated only if it is repeatable; secrets
//! follow to trusted hosts only. Time and randomness are handed in.

use std::time::Duration;

use super::{
    budget::{Conditions, LONGEST, LONGEST_SLEEP, Limits, RetryBudget, Spent},
    failure::{Failure, Fate},
    gated::Gated,
    outgoing_request::OutgoingRequest,
    request::{Attempt, post},
    response::{OkReply, milliseconds},
};
use crate::{Clock, Credentials, Error, ErrorKind, Geolocation, backoff::Backoff, log};

/// Before the second attempt a pause of up to a second, before each further attempt up to twice as long.
const PAUSES: Backoff = Backoff::new(Duration::from_secs(1), LONGEST);
/// How many other base URIs Concur may name for one grant.
const MOST_DETOURS: u32 = 3;

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
#[derive(Debug, PartialEq)]
pub(super) enum Ending {
    AsItIs,
    /// The grant may have been used, and must not be repeated.
    InDoubt,
    /// A host named itself, or the detours are used up.
    InCircles,
    /// There is no time left to ask the host that this one named.
    TooLate(Geolocation),
}

/// What a step depends on, apart from the failure.
#[derive(Clone, Copy, Debug)]
struct Situation<'a> {
    base: &'a Geolocation,
    detours: u32,
    is_repeatable: bool,
    limits: Limits,
    spent: Spent,
    /// At least 0 and less than 1: the part of the next pause that is waited for.
    fraction: f64,
}

fn step(fate: Fate, retry_after: Option<Duration>, situation: &Situation<'_>) -> Step {
    let Situation { base, detours, is_repeatable, limits, spent, fraction } = *situation;
    match fate {
        Fate::Elsewhere(to) => {
            return detour(*to, base, detours, limits, spent).map_or_else(Step::Return, Step::Detour);
        }
        Fate::Final => return Step::Return(Ending::AsItIs),
        Fate::Unknown if !is_repeatable => return Step::Return(Ending::InDoubt),
        Fate::Unknown | Fate::NothingIssued => {}
    }
    // Full jitter spreads out processes that failed together, and may shrink a pause to nothing. So Retry-After is not
    // jittered, and the longer of the two counts: no request is sent before the time that the server named, and a
    // Retry-After of 0 does not remove the pause.
    let jittered = PAUSES.nth(spent.attempts.saturating_sub(1)).mul_f64(fraction);
    let pause = jittered.max(retry_after.unwrap_or_default());
    if spent.attempts < limits.most_attempts && spent.leaves_time_to_repeat(pause, limits) {
        Step::Pause(pause)
    } else {
        Step::Return(Ending::AsItIs)
    }
}

/// Where a request is sent next that `base` has sent to `to`.
pub(super) fn detour(
    to: Geolocation,
    base: &Geolocation,
    detours: u32,
    limits: Limits,
    spent: Spent,
) -> Result<Geolocation, Ending> {
    if detours == MOST_DETOURS || to == *base {
        Err(Ending::InCircles)
    } else if spent.time_to_begin(limits).is_none() {
        Err(Ending::TooLate(to))
    } else {
        Ok(to)
    }
}

impl Ending {
    pub(super) fn error(self, error: Error, base: &Geolocation, spent: Spent) -> Error {
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
            Self::TooLate(to) => {
                let message = format!(
                    "{} says that the principal lives at {}, but the requests took {} s, so there was no time left to ask \
                     there; try again",
                    base.host(),
                    to.host(),
                    spent.total().as_secs()
                );
                Error::new(ErrorKind::Unavailable, message).answered_as(&error)
            }
        }
    }
}

/// Posts a form until it is answered or the budget is used up.
pub(super) async fn send_with_retries<T>(
    gated: &Gated,
    base: &Geolocation,
    (credentials, request): (&Credentials, &OutgoingRequest),
    conditions: &Conditions<'_>,
    understand: impl Fn(OkReply<'_>) -> Result<T, Failure> + Sync,
) -> Result<T, Error> {
    let Conditions { clock, random, budget, .. } = *conditions;
    let (what, grant) = (request.what(), request.grant_type());
    let mut base = base.clone();
    let mut detours = 0;
    budget.spent().attempts += 1;
    loop {
        let number = budget.spent().attempts;
        let attempt = Attempt { base: &base, request, conditions, number, followed: detours > 0 };
        let Failure { error, fate, .. } = match post(gated, attempt, credentials, &understand).await {
            Ok(reply) => return Ok(reply),
            Err(failure) => failure,
        };
        let spent = *budget.spent();
        let situation = Situation {
            base: &base,
            detours,
            is_repeatable: request.is_repeatable(),
            limits: budget.limits(),
            spent,
            fraction: random.fraction(),
        };
        let correlation_id = error.correlation_id();
        match step(fate, error.retry_after(), &situation) {
            Step::Return(ending) => return Err(ending.error(error, &base, spent)),
            Step::Detour(elsewhere) => {
                let (host, to) = (base.host(), elsewhere.host());
                log::event!(info, grant, host, to, correlation_id, "{what} sent elsewhere");
                base = elsewhere;
                detours += 1;
            }
            Step::Pause(pause) => {
                let pause_ms = milliseconds(pause);
                log::event!(info, grant, attempt = number, pause_ms, correlation_id, "{what} to be repeated");
                if !wait(pause, clock, budget).await {
                    return Err(error);
                }
                let mut spent = budget.spent();
                spent.passed += pause;
                spent.attempts += 1;
            }
        }
    }
}

/// Sleeps in short pieces; false as soon as no caller waits any more.
async fn wait(pause: Duration, clock: &dyn Clock, budget: &RetryBudget<'_>) -> bool {
    let mut left = pause;
    while !left.is_zero() {
        if budget.is_given_up() {
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
        use Ending::{AsItIs, InCircles, InDoubt, TooLate};
        let base = host("us");
        let elsewhere = |name: &str| Fate::Elsewhere(Box::new(host(name)));
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
            // Detours use no attempts, but time: none begins after the 60th second.
            (elsewhere("eu"), false, 1, 0, 0, Step::Detour(host("eu"))),
            (elsewhere("eu"), true, 4, 45, 0, Step::Detour(host("eu"))),
            (elsewhere("eu"), true, 1, 60, 2, Step::Detour(host("eu"))),
            (elsewhere("eu"), true, 1, 61, 0, Step::Return(TooLate(host("eu")))),
            (elsewhere("eu"), true, 1, 0, 3, Step::Return(InCircles)),
            (elsewhere("us"), true, 1, 0, 0, Step::Return(InCircles)),
            (elsewhere("us"), true, 1, 61, 0, Step::Return(InCircles)),
        ] {
            let what = format!("{fate:?}, {attempts} attempts, {passed} s, {detours} detours");
            let situation = Situation {
                base: &base,
                detours,
                is_repeatable,
                limits: RetryBudget::repeat(&|| false).limits(),
                spent: Spent { attempts, passed: secs(passed), ..Spent::default() },
                fraction: 1.0,
            };
            assert_eq!(step(fate, None, &situation), next, "{what}");
        }
    }

    #[test]
    fn a_pause_is_jittered_down_to_nothing_but_never_below_retry_after() {
        let base = host("us");
        let limits = RetryBudget::repeat(&|| false).limits();
        for (most_attempts, fraction, retry_after, next) in [
            (limits.most_attempts, 0.0, None, Step::Pause(Duration::ZERO)),
            (limits.most_attempts, 0.5, None, Step::Pause(Duration::from_secs(2))),
            (limits.most_attempts, 0.0, Some(3), Step::Pause(Duration::from_secs(3))),
            (limits.most_attempts, 1.0, Some(3), Step::Pause(Duration::from_secs(4))),
            (limits.most_attempts, 0.0, Some(15), Step::Pause(Duration::from_secs(15))),
            (limits.most_attempts, 0.0, Some(16), Step::Return(Ending::AsItIs)),
            (limits.most_attempts, 0.0, Some(u64::MAX), Step::Return(Ending::AsItIs)),
            (1, 0.0, None, Step::Return(Ending::AsItIs)),
        ] {
            let situation = Situation {
                base: &base,
                detours: 0,
                is_repeatable: true,
                limits: Limits { most_attempts, ..limits },
                spent: Spent { attempts: 3, ..Spent::default() },
                fraction,
            };
            let retry_after = retry_after.map(Duration::from_secs);
            assert_eq!(step(Fate::NothingIssued, retry_after, &situation), next, "{retry_after:?}");
        }
    }

    /// How busy the client is says nothing about the host.
    #[test]
    fn waiting_for_a_turn_leaves_the_time_for_attempts_alone_and_ends_with_the_flights() {
        let base = host("us");
        for (waited, next) in [
            (0, Step::Pause(Duration::from_secs(1))),
            (50, Step::Pause(Duration::from_secs(1))),
            (51, Step::Return(Ending::AsItIs)),
        ] {
            let situation = Situation {
                base: &base,
                detours: 0,
                is_repeatable: true,
                limits: RetryBudget::repeat(&|| false).limits(),
                spent: Spent {
                    attempts: 1,
                    passed: Duration::from_secs(9),
                    waited: Duration::from_secs(waited),
                    ..Spent::default()
                },
                fraction: 1.0,
            };
            assert_eq!(step(Fate::NothingIssued, None, &situation), next, "after {waited} s");
        }
    }
}
