//! The pause that Concur asked for with `Retry-After`, and the answer in which it did.
//!
//! Always: no clock here. Such a pause is believed for an hour at most, and no later answer shortens it.

use std::time::{Duration, SystemTime};

use crate::{Error, backoff::is_pausing};

/// The longest that a `Retry-After` is believed.
const LONGEST: Duration = Duration::from_secs(3600);

#[derive(Debug, Default)]
pub(crate) struct ServerPause(Option<Box<Asked>>);

#[derive(Debug)]
struct Asked {
    until: SystemTime,
    lasts: Duration,
    answer: Error,
}

impl Asked {
    fn is_on(&self, now: SystemTime) -> bool {
        is_pausing(Some(self.until), now, self.lasts)
    }
}

impl ServerPause {
    /// Whether an answer's pause concerns all principals of the host. With one of Concur's codes, such as 134 for a
    /// company's maintenance, it concerns the principal of the request only.
    pub(crate) fn is_for_all(answer: &Error) -> bool {
        answer.code().is_none()
    }

    /// Begins the pause that the answer asks for, if it asks for one that ends later than the present one.
    pub(crate) fn begin(&mut self, answer: &Error, now: SystemTime) {
        let Some(after) = answer.retry_after() else { return };
        let lasts = after.min(LONGEST);
        let until = now.checked_add(lasts).unwrap_or(now);
        if self.0.as_ref().is_none_or(|asked| !asked.is_on(now) || asked.until < until) {
            self.0 = Some(Box::new(Asked { until, lasts, answer: answer.clone() }));
        }
    }

    pub(crate) fn end(&mut self) {
        self.0 = None;
    }

    pub(crate) fn is_on(&self, now: SystemTime) -> bool {
        self.until(now).is_some()
    }

    /// When the pause ends, while it lasts.
    pub(crate) fn until(&self, now: SystemTime) -> Option<SystemTime> {
        self.0.as_ref().filter(|asked| asked.is_on(now)).map(|asked| asked.until)
    }

    /// The answer in which Concur asked for the pause, while that lasts.
    pub(crate) fn check(&self, now: SystemTime) -> Result<(), Error> {
        let Some(Asked { until, answer, .. }) = self.0.as_deref().filter(|asked| asked.is_on(now)) else {
            return Ok(());
        };
        let left = until.duration_since(now).unwrap_or_default();
        let seconds = left.as_secs_f64().ceil();
        let why = format!("Concur asked for a pause; the next attempt is possible in {seconds} s");
        Err(answer.not_sent(&why, left))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ConcurCode, ErrorKind, clock::from_unix_seconds};

    fn at(seconds: u64) -> SystemTime {
        from_unix_seconds(seconds).unwrap()
    }

    fn busy(retry_after: Option<u64>) -> Error {
        Error::new(ErrorKind::Unavailable, "busy").with_retry_after(retry_after.map(Duration::from_secs))
    }

    #[test]
    fn a_pause_is_believed_for_an_hour_at_most_and_never_shortened() {
        for (asked, lasts) in [(5, 5), (3600, 3600), (u64::MAX, 3600)] {
            let mut pause = ServerPause::default();
            for answer in [busy(Some(asked)), busy(Some(1)), busy(None)] {
                pause.begin(&answer, at(1000));
            }
            let error = pause.check(at(1000)).unwrap_err();
            assert!(error.is_held_back() && error.is_transient());
            assert_eq!(error.retry_after(), Some(Duration::from_secs(lasts)));
            assert_eq!(
                error.to_string(),
                format!(
                    "busy [not sent: Concur asked for a pause; the next attempt is possible in {lasts} s]"
                )
            );
            assert!(pause.is_on(at(999 + lasts)) && !pause.is_on(at(1000 + lasts)));
            pause.check(at(1000 + lasts)).unwrap();
        }
    }

    #[test]
    fn a_longer_pause_replaces_a_shorter_one_and_a_clock_that_jumped_back_ends_it() {
        let mut pause = ServerPause::default();
        pause.begin(&busy(Some(10)), at(1000));
        pause.begin(&busy(Some(20)), at(1000));
        assert!(pause.is_on(at(1019)) && !pause.is_on(at(900)));
        pause.end();
        assert!(!pause.is_on(at(1000)));
    }

    #[test]
    fn a_code_of_concurs_is_about_one_principal() {
        assert!(ServerPause::is_for_all(&busy(Some(1))));
        assert!(!ServerPause::is_for_all(&busy(Some(1)).with_code(Some(ConcurCode::new(134)), false)));
    }
}
