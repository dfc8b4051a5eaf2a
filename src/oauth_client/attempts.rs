//! From a request to its reply: repeated where that harms nobody, and followed to where the principal lives.
//!
//! Always: four attempts and 45 s at most; what Concur may have spent is repeated only if it can be; secrets follow to
//! trusted hosts only.

use std::time::Duration;

use super::{
    Form, OAuthClient,
    exchange::{Answered, Attempt},
};
use crate::{Clock, Credentials, Error, ErrorKind, Geolocation, clock::Stopwatch, log};

const MOST_ATTEMPTS: u32 = 4;
/// From the first attempt to the last answer.
const LONGEST: Duration = Duration::from_secs(45);
/// Before the second attempt a pause of up to this long, before each further one twice as long.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// How many times in one go Concur may name another place.
const MOST_DETOURS: u32 = 3;

/// Whether a grant is worth repeating.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Patience {
    /// There is a valid token to go on with.
    OneAttempt,
    Repeat,
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
        patience: Patience,
        understand: impl Fn(Answered<'_>) -> Result<T, Failure>,
    ) -> Result<T, Error> {
        let (what, grant) = (form.what(), form.grant_type());
        let mut base = base.clone();
        let (mut number, mut detours) = (1, 0);
        let mut passed = Duration::ZERO;
        loop {
            // Real requests take real time, and pauses that of the clock; neither is read from the time of day.
            let watch = Stopwatch::start();
            let limit = LONGEST.saturating_sub(passed);
            let attempt = Attempt { base: &base, form, clock, number, limit };
            let sent = self.post(attempt, credentials, &understand).await;
            let Failure { error, fate } = match sent {
                Ok(reply) => return Ok(reply),
                Err(failure) => failure,
            };
            passed += watch.elapsed();
            let may_repeat = match fate {
                Fate::Elsewhere(elsewhere) if detours < MOST_DETOURS && elsewhere != base => {
                    let (host, to) = (base.host(), elsewhere.host());
                    log::event!(info, grant, host, to, "{what} sent elsewhere");
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
                Fate::Unknown => form.is_repeatable(),
            };
            if !may_repeat || patience == Patience::OneAttempt || number == MOST_ATTEMPTS {
                return Err(error);
            }
            let pause = error.retry_after().unwrap_or_else(|| pause_after(number, fastrand::f64()));
            if passed + pause >= LONGEST {
                return Err(error);
            }
            let pause_ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
            log::event!(info, grant, attempt = number, pause_ms, "{what} to be repeated");
            clock.sleep(pause).await;
            passed += pause;
            number += 1;
        }
    }
}

/// Exponential with full jitter: `jitter` between 0 and 1 is the part of the pause that is waited for.
fn pause_after(attempt: u32, jitter: f64) -> Duration {
    (FIRST_PAUSE * 2_u32.pow(attempt - 1)).mul_f64(jitter)
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
