//! May Concur be asked now for this principal? Failed requests, the back-off after them, and the pauses that Concur asks for
//! with a code, such as a company's maintenance. What concerns all principals of a host, the client keeps.
//!
//! Always: no I/O and no clock here. What failed is not sent again too soon, because accounts get locked; nothing is sent
//! while Concur asks for a pause.

use std::{
    sync::{Mutex, MutexGuard},
    time::SystemTime,
};

use crate::{
    Error, LastError, RefreshTokenObject, Status,
    backoff::jittered,
    caught::locked,
    clock, consequences,
    failed_requests::{Basis, FailedRequest, FailedRequests, PASSING},
    random::Random,
    server_pause::ServerPause,
};

#[derive(Debug, Default)]
pub(super) struct Gate(Mutex<History>);

/// The last renewal that failed, and the first one of all that have failed since a success.
#[derive(Debug)]
struct Failure {
    error: Error,
    at: SystemTime,
    since: SystemTime,
}

/// How the last renewals went.
#[derive(Debug, Default)]
struct History {
    failures: u32,
    back_off_until: Option<SystemTime>,
    pause: ServerPause,
    last_success: Option<SystemTime>,
    /// Boxed, as most managers never have one.
    last_failure: Option<Box<Failure>>,
    /// Those that may pass, and those that the store does not keep.
    failed: FailedRequests,
    /// What the store was last seen to keep.
    noted: FailedRequests,
    /// How often this manager has changed what the store keeps.
    written: u64,
    /// The refresh token that Concur has said is dead in the flight under way, which will remember it.
    found_dead: Option<RefreshTokenObject>,
    /// Those of the present credentials and stored token, until a request from them succeeds.
    pending: FailedRequests,
}

impl Gate {
    /// Whether a renewal would come too soon after one that failed, for callers who hold something valid: they are served
    /// meanwhile.
    pub(super) fn is_backing_off(&self, now: SystemTime) -> bool {
        let history = self.history();
        history.pause.is_on(now) || PASSING.is_on(history.back_off_until, now)
    }

    /// Takes note of what the store keeps, unless that was not read, and of what requests are made from now.
    pub(super) fn saw(&self, noted: Option<&FailedRequests>, basis: Basis<'_>) {
        let mut history = self.history();
        if let Some(noted) = noted {
            history.noted = noted.clone();
        }
        history.pending = history.known().of(basis);
    }

    /// Whether such a request failed, or Concur asked for a pause, too short a time ago to ask again.
    pub(super) fn check(&self, basis: Basis<'_>, now: SystemTime) -> Result<(), Error> {
        self.check_or(None, basis, now)
    }

    /// The same for a caller who can end a refusal's pause with `retry_now`.
    pub(super) fn check_or_retry(&self, basis: Basis<'_>, now: SystemTime) -> Result<(), Error> {
        self.check_or(Some("retry_now"), basis, now)
    }

    fn check_or(&self, retry: Option<&str>, basis: Basis<'_>, now: SystemTime) -> Result<(), Error> {
        self.check_server_pause(now)?;
        let known = self.known();
        known.in_force(basis, now).map_or(Ok(()), |failed| Err(failed.again(now, retry)))
    }

    /// The answer in which Concur asked for a pause for this principal, while that lasts.
    pub(super) fn check_server_pause(&self, now: SystemTime) -> Result<(), Error> {
        self.history().pause.check(now)
    }

    /// The failures that this manager and the store remember.
    pub(super) fn known(&self) -> FailedRequests {
        self.history().known()
    }

    /// What the store was last seen to keep.
    pub(super) fn noted(&self) -> FailedRequests {
        self.history().noted.clone()
    }

    /// A request that was made from `spent` has failed, and the next one would be made from `basis`. `before` is what was
    /// known before it was sent.
    pub(super) fn judge(
        &self,
        error: &Error,
        (before, spent): (&FailedRequests, Basis<'_>),
        basis: Basis<'_>,
        now: SystemTime,
        random: &Random,
    ) -> FailedRequest {
        let failed = FailedRequest::of(error, (before, spent), basis, now, random);
        let mut history = self.history();
        history.pending = history.known().of(basis);
        history.pending.add(failed.clone(), basis);
        failed
    }

    /// Remembers a failure that no store keeps.
    pub(super) fn remember(&self, failed: FailedRequest, basis: Basis<'_>) {
        self.history().failed.add(failed, basis);
    }

    /// Remembers a dead refresh token that no store keeps.
    pub(super) fn remember_dead(&self, token: &RefreshTokenObject, revoked: bool, random: &Random) {
        self.history().failed.add_dead(token, revoked, random);
    }

    /// Concur has just said that this refresh token is bad or expired. It is served to no caller, also while the flight goes on.
    pub(super) fn find_dead(&self, token: &RefreshTokenObject) {
        self.history().found_dead = Some(token.clone());
    }

    /// What the flight under way has to remember.
    pub(super) fn found_dead(&self) -> Option<RefreshTokenObject> {
        self.history().found_dead.clone()
    }

    pub(super) fn flight_ended(&self) {
        self.history().found_dead = None;
    }

    /// To be taken before a look at the store: what is read while this manager writes may be older than what it writes.
    pub(super) fn written(&self) -> u64 {
        self.history().written
    }

    /// What this manager has written into the store.
    pub(super) fn has_written(&self, noted: FailedRequests) {
        let mut history = self.history();
        history.noted = noted;
        history.written += 1;
    }

    /// What the store keeps now, if that was read.
    pub(super) fn has_noted(&self, noted: Option<FailedRequests>) {
        if let Some(noted) = noted {
            self.history().noted = noted;
        }
    }

    /// A request that was made from `basis` has succeeded.
    pub(super) fn forget(&self, basis: Basis<'_>, issued: &RefreshTokenObject) {
        let mut history = self.history();
        let History { failed, noted, pending, .. } = &mut *history;
        for known in [failed, noted] {
            known.forget(basis);
            known.revive(issued);
        }
        *pending = FailedRequests::default();
        history.found_dead = None;
    }

    /// Forgets every failure and every pause: a person knows better. What is dead stays dead until a grant with it succeeds.
    pub(super) fn open(&self) {
        let mut history = self.history();
        let History { last_success, failed, noted, written, .. } = std::mem::take(&mut *history);
        let [failed, noted] = [failed, noted].map(|mut known| {
            known.forget_failures();
            known
        });
        *history = History { last_success, failed, noted, written, ..History::default() };
    }

    /// Whether Concur has said that this refresh token is bad or expired, as far as this manager knows.
    pub(super) fn is_dead(&self, token: &RefreshTokenObject) -> bool {
        let history = self.history();
        let is_found = history.found_dead.as_ref().is_some_and(|dead| dead.is_same_token(token));
        is_found || history.failed.is_dead(token) || history.noted.is_dead(token)
    }

    /// The last failure of a request from the same credentials and stored token, until one succeeds. Its next attempt may be
    /// possible by now.
    #[cfg(test)]
    pub(super) fn pending(&self, now: SystemTime) -> Option<crate::failed_requests::Pending> {
        self.history().pending.told(now).map(FailedRequest::pending)
    }

    /// `is_fresh`: Concur itself answered, so it no longer asks for a pause.
    pub(super) fn succeeded(&self, now: SystemTime, is_fresh: bool) {
        let mut history = self.history();
        if is_fresh {
            history.pause.end();
        }
        history.failures = 0;
        history.back_off_until = None;
        history.last_success = Some(now);
        history.last_failure = None;
    }

    /// Another process holds the store's lock: it will be done in a moment. A back-off that ends later goes on.
    pub(super) fn found_busy(&self, now: SystemTime) {
        let mut history = self.history();
        let under_way = history.back_off_until.filter(|until| PASSING.is_on(Some(*until), now));
        history.back_off_until = now.checked_add(PASSING.first).max(under_way);
    }

    /// An error for which nothing was sent because of an earlier one is no news: who holds something valid need not look
    /// again for a moment.
    pub(super) fn failed(&self, error: &Error, now: SystemTime, random: &Random) {
        if error.is_held_back() {
            return self.found_busy(now);
        }
        let mut history = self.history();
        history.back_off_until = now.checked_add(jittered(PASSING.nth(history.failures), random.fraction()));
        history.failures = history.failures.saturating_add(1);
        let since = history.last_failure.as_ref().map_or(now, |before| before.since);
        history.last_failure = Some(Box::new(Failure { error: error.clone(), at: now, since }));
        // What concerns all principals is kept by the client.
        if !ServerPause::is_for_all(error) {
            history.pause.begin(error, now);
        }
    }

    /// After a restart the store's note tells what failed before. `host_pause`: until when the host that is asked next has
    /// asked for a pause.
    pub(super) fn report(&self, status: &mut Status, now: SystemTime, host_pause: Option<SystemTime>) {
        let history = self.history();
        let told = history.pending.told(now);
        let pending = told.map(FailedRequest::pending);
        status.last_success = history.last_success.map(clock::public_time);
        let last = history.last_failure.as_deref();
        let last_error = last.filter(|last| !told.is_some_and(|told| hides(told, last, now)));
        status.last_error = last_error
            .map(|last| LastError::of(&last.error))
            .or_else(|| pending.as_ref().map(|pending| pending.error.clone()));
        let since = [pending.as_ref().map(|pending| pending.since), last.map(|last| last.since)];
        status.failing_since = since.into_iter().flatten().min().map(clock::public_time);
        // After a failure of its own, or a pause that Concur asked for, which a sibling's success does not end.
        let own = [pending.map(|pending| pending.next_attempt), history.back_off_until];
        let own = own.into_iter().flatten().max().filter(|_| status.last_error.is_some());
        let next = [own, history.pause.until(now), host_pause].into_iter().flatten().max();
        status.next_attempt_at = next.filter(|next| now < *next).map(clock::public_time);
    }

    fn history(&self) -> MutexGuard<'_, History> {
        locked(&self.0)
    }
}

/// Whether a person is told this failure instead of the last error: it is newer, as one of another process can be, or it is a
/// refusal in force, and the error needs no person.
fn hides(failed: &FailedRequest, last: &Failure, now: SystemTime) -> bool {
    failed.at() > last.at
        || (failed.is_refusal()
            && failed.is_in_force(now)
            && !consequences::of(last.error.kind()).needs_person)
}

impl History {
    fn known(&self) -> FailedRequests {
        self.noted.and(&self.failed)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        ConcurCode, Credentials, ErrorKind, Health, clock::from_unix_seconds, failed_requests::Pending,
    };

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

    fn token(secret: &str) -> RefreshTokenObject {
        RefreshTokenObject::from_json(&format!(r#"{{"refresh_token": "{secret}"}}"#)).unwrap()
    }

    fn fail(gate: &Gate, error: &Error, basis: Basis<'_>, now: u64) -> FailedRequest {
        let failed = gate.judge(error, (&gate.known(), basis), basis, at(now), &Random::System);
        gate.remember(failed.clone(), basis);
        failed
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

    /// Who holds something valid looks once a second, and the next failure is the first one.
    #[test]
    fn what_was_held_back_is_no_failure() {
        let gate = Gate::default();
        gate.failed(&unavailable(None).held_back(), at(1000), &Random::System);
        assert!(gate.is_backing_off(at(1000)) && !gate.is_backing_off(at(1001)));
        assert_eq!(gate.history().failures, 0);
        assert!(gate.history().last_failure.is_none());
    }

    #[test]
    fn a_failed_request_holds_back_the_same_one_whether_the_store_keeps_it_or_not() {
        let (ours, other) = (Credentials::new("a", "s"), Credentials::new("a", "new"));
        let [ours, other] = [&ours, &other].map(|credentials| Basis { credentials, stored: None });
        let (gate, sibling) = (Gate::default(), Gate::default());
        let mut noted = FailedRequests::default();
        noted.add(fail(&gate, &refused(), ours, 1000), ours);
        sibling.check(ours, at(1001)).unwrap();
        sibling.saw(Some(&noted), ours);
        for gate in [&gate, &sibling] {
            assert_eq!(gate.check(ours, at(1001)).unwrap_err().kind(), ErrorKind::Refused);
            gate.check(other, at(1001)).unwrap();
        }
        // A third process has succeeded with the same.
        sibling.saw(Some(&FailedRequests::default()), ours);
        sibling.check(ours, at(1001)).unwrap();
        gate.forget(ours, &token("t"));
        gate.check(ours, at(1001)).unwrap();
    }

    #[test]
    fn a_success_with_other_credentials_or_another_token_forgets_nothing() {
        let (ours, other) = (Credentials::new("a", "s"), Credentials::new("a", "new"));
        let token = token("t");
        let basis = Basis { credentials: &ours, stored: Some(&token) };
        let gate = Gate::default();
        fail(&gate, &unavailable(None), basis, 1000);
        gate.forget(Basis { credentials: &other, ..basis }, &token);
        gate.forget(Basis { stored: None, ..basis }, &token);
        gate.succeeded(at(1000), false);
        gate.check(basis, at(1000)).unwrap_err();
        gate.forget(basis, &token);
        gate.check(basis, at(1000)).unwrap();
    }

    #[test]
    fn an_open_gate_holds_nothing_back() {
        let credentials = Credentials::new("a", "s");
        let basis = Basis { credentials: &credentials, stored: None };
        let gate = Gate::default();
        gate.succeeded(at(900), true);
        gate.failed(&maintenance(100), at(1000), &Random::System);
        fail(&gate, &refused(), basis, 1000);
        gate.open();
        assert_eq!(gate.history().last_success, Some(at(900)));
        gate.check(basis, at(1000)).unwrap();
        assert!(!gate.is_backing_off(at(1000)));
        assert_eq!(gate.pending(at(1000)), None);
    }

    #[test]
    fn what_a_person_is_told_is_what_concerns_the_present_credentials_and_token() {
        let (ours, other) = (Credentials::new("a", "s"), Credentials::new("a", "new"));
        let [ours, other] = [&ours, &other].map(|credentials| Basis { credentials, stored: None });
        let (gate, next_process) = (Gate::default(), Gate::default());
        assert_eq!(gate.pending(at(1000)), None);
        let error = refused().with_correlation_id(Some("id".to_owned()));
        let mut noted = FailedRequests::default();
        noted.add(fail(&gate, &error, ours, 1000), ours);
        next_process.saw(Some(&FailedRequests::from_note(noted.to_note().as_deref())), ours);
        let told = Pending { error: LastError::of(&error), since: at(1000), next_attempt: at(4600) };
        assert_eq!(
            (gate.pending(at(1000)), next_process.pending(at(1000))),
            (Some(told.clone()), Some(told))
        );
        // Another process was told something else, which does not concern this one.
        next_process.saw(Some(&noted), other);
        assert_eq!(next_process.pending(at(1000)), None);
        gate.forget(ours, &token("t"));
        assert_eq!(gate.pending(at(1000)), None);
    }

    /// As a look that is slower than a retry by hand and its failure.
    #[test]
    fn no_look_takes_what_was_written_meanwhile_for_nothing() {
        let gate = Gate::default();
        gate.has_written(FailedRequests::default());
        let began = gate.written();
        gate.open();
        gate.has_written(FailedRequests::default());
        assert_ne!(gate.written(), began);
    }

    #[test]
    fn a_dead_token_is_known_from_the_store_and_by_itself() {
        let (credentials, token) = (Credentials::new("a", "s"), token("dead"));
        let basis = Basis { credentials: &credentials, stored: Some(&token) };
        let (gate, next_process) = (Gate::default(), Gate::default());
        gate.remember_dead(&token, false, &Random::System);
        let mut noted = FailedRequests::default();
        noted.add_dead(&token, false, &Random::System);
        assert!(gate.is_dead(&token) && !next_process.is_dead(&token));
        next_process.saw(Some(&noted), basis);
        assert!(next_process.is_dead(&token));
        // It holds nothing back.
        next_process.check(basis, at(1000)).unwrap();
        // A person who signs in or tries again does not revive it, and a grant with it does.
        for gate in [&gate, &next_process] {
            gate.open();
            assert!(gate.is_dead(&token));
        }
        gate.forget(basis, &token);
        assert!(!gate.is_dead(&token));
    }

    #[test]
    fn a_busy_store_or_a_held_back_call_shortens_no_back_off() {
        let gate = Gate::default();
        for _ in 0..4 {
            gate.failed(&unavailable(None), at(1000), &Random::System);
        }
        gate.found_busy(at(1001));
        gate.failed(&unavailable(None).held_back(), at(1001), &Random::System);
        assert!(gate.is_backing_off(at(1003)));
        // After the clock has jumped back, the end of the pause is not known.
        gate.found_busy(at(10));
        assert!(gate.is_backing_off(at(10)) && !gate.is_backing_off(at(11)));
    }

    #[test]
    fn the_next_attempt_heeds_every_pause() {
        let credentials = Credentials::new("a", "s");
        let basis = Basis { credentials: &credentials, stored: None };
        let gate = Gate::default();
        let next = |host_pause: Option<u64>| {
            let mut status = Status::default();
            gate.report(&mut status, at(1000), host_pause.map(at));
            status.next_attempt_at
        };
        let told = |seconds| Some(clock::public_time(at(seconds)));
        assert_eq!((next(None), next(Some(5000))), (None, told(5000)), "nothing has failed here");
        gate.failed(&maintenance(100), at(1000), &Random::System);
        assert_eq!((next(None), next(Some(1050)), next(Some(1200))), (told(1100), told(1100), told(1200)));
        fail(&gate, &refused(), basis, 1000);
        assert_eq!((next(None), next(Some(5000))), (told(4600), told(5000)));
    }

    #[test]
    fn what_a_flight_found_dead_is_dead_until_it_ends_and_what_is_noted_for_longer() {
        let (gate, token) = (Gate::default(), token("t"));
        gate.find_dead(&token);
        assert!(gate.is_dead(&token) && !gate.noted().is_dead(&token));
        gate.flight_ended();
        assert!(!gate.is_dead(&token));
        let mut noted = FailedRequests::default();
        noted.add_dead(&token, false, &Random::System);
        gate.has_noted(Some(noted));
        gate.has_noted(None);
        assert!(gate.is_dead(&token) && gate.noted().is_dead(&token));
    }

    #[test]
    fn a_back_off_that_ends_now_is_no_next_attempt() {
        let gate = Gate::default();
        gate.failed(&unavailable(None), at(1000), &Random::System);
        let ends = gate.history().back_off_until.unwrap();
        for (now, is_told) in [(ends - Duration::from_nanos(1), true), (ends, false)] {
            let mut status = Status::default();
            gate.report(&mut status, now, None);
            assert_eq!(status.next_attempt_at.is_some(), is_told);
        }
    }

    #[test]
    fn an_attempt_that_is_possible_now_is_no_next_attempt() {
        let gate = Gate::default();
        gate.failed(&maintenance(100), at(1000), &Random::System);
        for (now, is_told) in [(1099, true), (1100, false)] {
            let mut status = Status::default();
            gate.report(&mut status, at(now), None);
            assert_eq!(status.next_attempt_at.is_some(), is_told, "at {now}");
        }
    }

    #[test]
    fn what_is_newer_is_told_and_a_refusal_before_what_needs_no_person() {
        let credentials = Credentials::new("a", "s");
        let basis = Basis { credentials: &credentials, stored: None };
        let a_person_must_act = Error::new(ErrorKind::ReauthorizationRequired, "sign in");
        for (failed, last, last_at, now, is_hidden) in [
            (unavailable(None), unavailable(None), 1000, 1000, false),
            (unavailable(None), unavailable(None), 999, 1000, true),
            (unavailable(None), unavailable(None), 1001, 1001, false),
            (refused(), unavailable(None), 1001, 1001, true),
            (refused(), a_person_must_act.clone(), 1001, 1001, false),
            (refused(), a_person_must_act, 999, 1001, true),
            // The refusal's hour is over.
            (refused(), unavailable(None), 1001, 4600, false),
        ] {
            let failed = fail(&Gate::default(), &failed, basis, 1000);
            let last = Failure { error: last, at: at(last_at), since: at(last_at) };
            assert_eq!(hides(&failed, &last, at(now)), is_hidden, "{:?} at {last_at}, now {now}", last.error);
        }
    }

    /// Another process was refused after this one's request had failed for a reason that may pass.
    #[test]
    fn a_passing_failure_hides_no_refusal() {
        let credentials = Credentials::new("a", "s");
        let basis = Basis { credentials: &credentials, stored: None };
        for (ours, theirs) in [(1000, 2000), (2000, 1000)] {
            let (gate, other) = (Gate::default(), Gate::default());
            fail(&gate, &unavailable(None), basis, ours);
            gate.failed(&unavailable(None), at(ours), &Random::System);
            let mut noted = FailedRequests::default();
            noted.add(fail(&other, &refused(), basis, theirs), basis);
            gate.saw(Some(&noted), basis);
            let mut status = Status::default();
            gate.report(&mut status, at(2000), None);
            assert_eq!(status.health(), Health::PersonNeeded, "ours at {ours}");
            assert_eq!(status.failing_since, Some(clock::public_time(at(1000))));
            assert_eq!(status.next_attempt_at, Some(clock::public_time(at(theirs + 3600))));
        }
    }

    #[test]
    fn what_was_not_read_erases_nothing() {
        let (credentials, dead) = (Credentials::new("a", "s"), token("dead"));
        let basis = Basis { credentials: &credentials, stored: None };
        let gate = Gate::default();
        let mut noted = FailedRequests::default();
        noted.add(fail(&Gate::default(), &refused(), basis, 1000), basis);
        noted.add_dead(&dead, false, &Random::System);
        gate.saw(Some(&noted), basis);
        gate.saw(None, basis);
        gate.has_noted(None);
        gate.check(basis, at(1000)).unwrap_err();
        assert!(gate.is_dead(&dead) && gate.pending(at(1000)).is_some());
    }
}
