//! May Concur be asked now for this principal? Back-off after failures, refusals, and the pauses that Concur asks for with a
//! code, such as a company's maintenance. What concerns all principals of a host, the client keeps.
//!
//! Always: no I/O and no clock here. What Concur refused is not sent again too soon, because accounts get locked; nothing is
//! sent while Concur asks for a pause.

use std::{
    mem,
    sync::{Mutex, MutexGuard},
    time::{Duration, SystemTime},
};

use crate::{
    Credentials, Error, RefreshTokenObject, Status,
    backoff::{Backoff, jittered},
    caught::locked,
    clock,
    random::Random,
    refusal::Refusal,
    server_pause::ServerPause,
};

/// The pauses after failed renewals.
const BACK_OFF: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));
#[derive(Debug, Default)]
pub(super) struct Gate(Mutex<History>);

/// How the last renewals went.
#[derive(Debug, Default)]
struct History {
    failures: u32,
    back_off_until: Option<SystemTime>,
    pause: ServerPause,
    last_success: Option<SystemTime>,
    last_error: Option<Error>,
    /// For stores that remember nothing.
    refusal: Option<Refusal>,
}

impl Gate {
    /// Whether a renewal would come too soon after one that failed. Callers who hold something valid are served meanwhile.
    pub(super) fn is_backing_off(&self, now: SystemTime) -> bool {
        let history = self.history();
        history.pause.is_on(now) || BACK_OFF.is_on(history.back_off_until, now)
    }

    /// Whether Concur has refused the same thing, or asked for a pause, too short a time ago to ask again. `noted` is what
    /// the store remembers.
    pub(super) fn check(
        &self,
        noted: Option<&Refusal>,
        credentials: &Credentials,
        stored: Option<&RefreshTokenObject>,
        now: SystemTime,
    ) -> Result<(), Error> {
        self.check_server_pause(now)?;
        let refusal = self.known(noted);
        refusal.and_then(|refusal| refusal.still_holds(credentials, stored, now)).map_or(Ok(()), Err)
    }

    /// The answer in which Concur asked for a pause for this principal, while that lasts.
    pub(super) fn check_server_pause(&self, now: SystemTime) -> Result<(), Error> {
        self.history().pause.check(now)
    }

    /// Remembers what the error says about credentials and token, and returns what the store should remember.
    pub(super) fn remember(
        &self,
        error: &Error,
        noted: Option<&Refusal>,
        credentials: &Credentials,
        stored: Option<&RefreshTokenObject>,
        now: SystemTime,
        random: &Random,
    ) -> Option<Refusal> {
        let before = self.known(noted);
        let refusal = Refusal::of(error, before.as_ref(), credentials, stored, now, random)?;
        self.history().refusal = Some(refusal.clone());
        Some(refusal)
    }

    pub(super) fn forget_refusal(&self) {
        self.history().refusal = None;
    }

    /// The store's comes first: another process may have more to tell.
    pub(super) fn known(&self, noted: Option<&Refusal>) -> Option<Refusal> {
        noted.cloned().or_else(|| self.history().refusal.clone())
    }

    /// `is_fresh`: Concur itself answered, so it no longer asks for a pause.
    pub(super) fn succeeded(&self, now: SystemTime, is_fresh: bool) {
        let mut history = self.history();
        let mut pause = mem::take(&mut history.pause);
        if is_fresh {
            pause.end();
        }
        *history = History { last_success: Some(now), pause, ..History::default() };
    }

    /// Another process holds the store's lock: it will be done in a moment.
    pub(super) fn found_busy(&self, now: SystemTime) {
        self.history().back_off_until = now.checked_add(BACK_OFF.first);
    }

    /// An error for which nothing was sent is no news.
    pub(super) fn failed(&self, error: &Error, now: SystemTime, random: &Random) {
        if error.is_held_back() {
            return;
        }
        let mut history = self.history();
        history.back_off_until = now.checked_add(jittered(BACK_OFF.nth(history.failures), random.fraction()));
        history.failures += 1;
        history.last_error = Some(error.clone());
        // What concerns all principals is kept by the client.
        if !ServerPause::is_for_all(error) {
            history.pause.begin(error, now);
        }
    }

    pub(super) fn report(&self, status: &mut Status) {
        let history = self.history();
        status.last_success = history.last_success.map(clock::public_time);
        status.last_error = history.last_error.as_ref().map(Error::to_string);
    }

    fn history(&self) -> MutexGuard<'_, History> {
        locked(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ConcurCode, ErrorKind, clock::from_unix_seconds};

    fn at(seconds: u64) -> SystemTime {
        from_unix_seconds(seconds).unwrap()
    }

    fn unavailable(retry_after: Option<u64>) -> Error {
        Error::new(ErrorKind::Unavailable, "down").with_retry_after(retry_after.map(Duration::from_secs))
    }

    fn maintenance(retry_after: u64) -> Error {
        unavailable(Some(retry_after)).with_code(Some(ConcurCode::new(134)), false)
    }

    fn refused() -> Error {
        Error::new(ErrorKind::Refused, "no").with_code(Some(ConcurCode::new(14)), true)
    }

    #[test]
    fn each_failure_in_a_row_backs_off_longer_and_a_success_ends_it() {
        let gate = Gate::default();
        for (failures, at_least, at_most) in [(1, 0.5, 1.0), (2, 1.0, 2.0), (3, 2.0, 4.0), (9, 30.0, 60.0)] {
            while gate.history().failures < failures {
                gate.failed(&unavailable(None), at(1000), &Random::System);
            }
            let after = |seconds| at(1000) + Duration::from_secs_f64(seconds);
            assert!(gate.is_backing_off(after(at_least - 0.001)), "after {failures}");
            assert!(!gate.is_backing_off(after(at_most)), "after {failures}");
        }
        gate.succeeded(at(1000), true);
        assert!(!gate.is_backing_off(at(1000)));
    }

    #[test]
    fn a_busy_store_is_left_alone_for_a_second() {
        let gate = Gate::default();
        gate.found_busy(at(1000));
        assert!(gate.is_backing_off(at(1000)) && !gate.is_backing_off(at(1001)));
        gate.check_server_pause(at(1000)).unwrap();
    }

    #[test]
    fn only_a_pause_that_concerns_this_principal_is_kept_here() {
        let gate = Gate::default();
        gate.failed(&unavailable(Some(100)), at(1000), &Random::System);
        gate.check_server_pause(at(1000)).unwrap();
        gate.failed(&maintenance(100), at(1000), &Random::System);
        let error = gate.check_server_pause(at(1010)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "down [not sent: Concur asked for a pause; the next attempt is possible in 90 s] (code 134)"
        );
        assert!(gate.is_backing_off(at(1099)) && !gate.is_backing_off(at(1100)));
    }

    #[test]
    fn only_an_answer_from_concur_ends_a_servers_pause_early() {
        let gate = Gate::default();
        gate.failed(&maintenance(100), at(1000), &Random::System);
        gate.succeeded(at(1001), false);
        gate.check_server_pause(at(1001)).unwrap_err();
        gate.succeeded(at(1001), true);
        gate.check_server_pause(at(1001)).unwrap();
    }

    #[test]
    fn what_was_not_sent_is_no_failure() {
        let gate = Gate::default();
        gate.failed(&unavailable(None).held_back(), at(1000), &Random::System);
        assert!(!gate.is_backing_off(at(1000)));
        assert_eq!(gate.history().failures, 0);
    }

    #[test]
    fn a_refusal_holds_back_the_same_credentials_and_what_the_store_remembers_comes_first() {
        let (ours, other) = (Credentials::new("a", "s"), Credentials::new("a", "new"));
        let (gate, sibling) = (Gate::default(), Gate::default());
        let noted = gate.remember(&refused(), None, &ours, None, at(1000), &Random::System);
        assert!(gate.remember(&unavailable(None), None, &ours, None, at(1000), &Random::System).is_none());
        let kind = |checked: Result<(), Error>| checked.unwrap_err().kind();
        assert_eq!(kind(gate.check(None, &ours, None, at(1001))), ErrorKind::Refused);
        assert_eq!(kind(sibling.check(noted.as_ref(), &ours, None, at(1001))), ErrorKind::Refused);
        sibling.check(None, &ours, None, at(1001)).unwrap();
        gate.check(None, &other, None, at(1001)).unwrap();
        let about_others = sibling.remember(&refused(), None, &other, None, at(1001), &Random::System);
        gate.check(about_others.as_ref(), &ours, None, at(1001)).unwrap();
        gate.forget_refusal();
        gate.check(None, &ours, None, at(1001)).unwrap();
    }
}
