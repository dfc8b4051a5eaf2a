//! Requests that failed, after which the same request must not be sent again too soon: accounts get locked, and a server that
//! fails does not recover by being asked.
//!
//! Always: no I/O and no clock here. A failure holds back only what was made from the same credentials and the same stored
//! token. Nothing in it is a secret, and nothing in it helps to find a secret.

mod note;

use std::{
    ops::Deref,
    time::{Duration, SystemTime},
};

use crate::{
    ConcurCode, Credentials, Error, ErrorKind, LastError, RefreshTokenObject, Responsible,
    backoff::{Backoff, jittered},
    consequences,
    dead_tokens::DeadTokens,
    fingerprint::fingerprint,
    random::Random,
};

/// The cool-down of a refusal; doubled with each further refusal.
const REFUSED: Backoff = Backoff::new(HOUR, Duration::from_secs(24 * 3600));
/// The same for what an administrator can lift.
const LIFTED_BY_ADMINISTRATOR: Backoff = Backoff::new(HOUR, HOUR);
/// The same for a sign-in whose outcome is not known. A company request token has five uses.
const IN_DOUBT: Backoff = Backoff::new(Duration::from_secs(60), HOUR);
/// The pauses after failures that may be over the next time, each then cut by up to a half.
pub(crate) const PASSING: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));

const HOUR: Duration = Duration::from_secs(3600);

/// What a person is told about a refresh token that is dead, where nothing else is known of it.
pub(crate) const REFUSED_BEFORE: &str = "Concur has refused this refresh token before; sign in again";

/// How many failures are kept, the newest ones: those of some programs that share a store.
const MOST: usize = 8;

/// What a request is made from: if either is another one, the request is another one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Basis<'a> {
    pub(crate) credentials: &'a Credentials,
    pub(crate) stored: Option<&'a RefreshTokenObject>,
}

/// What a failure says about sending the same again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    /// Concur will refuse it again.
    Refused,
    /// The outcome of a sign-in is not known, and the next one may be the last.
    InDoubt,
    /// It may succeed the next time.
    Passing,
}

impl Class {
    fn of(error: &Error) -> Self {
        if consequences::of(error.kind()).is_remembered {
            Self::Refused
        } else if error.is_in_doubt() {
            Self::InDoubt
        } else {
            Self::Passing
        }
    }

    fn pauses(self, code: Option<ConcurCode>) -> Backoff {
        match self {
            Self::Refused if code.and_then(ConcurCode::responsible) == Some(Responsible::Administrator) => {
                LIFTED_BY_ADMINISTRATOR
            }
            Self::Refused => REFUSED,
            Self::InDoubt => IN_DOUBT,
            Self::Passing => PASSING,
        }
    }

    fn why_not_sent(self) -> &'static str {
        match self {
            Self::Refused => "Concur refused this before",
            Self::InDoubt => "a sign-in may have used up the request token without a result",
            Self::Passing => "the last request failed",
        }
    }
}

/// A request that failed.
#[derive(Clone, Debug)]
pub(crate) struct FailedRequest {
    salt: u64,
    /// Of credentials and stored token.
    fingerprint: u32,
    class: Class,
    at: SystemTime,
    /// When the first one in a row happened.
    since: SystemTime,
    /// How many times in a row.
    times: u32,
    pause: Duration,
    error: Error,
}

/// What a person is told about a failure that holds back requests, or did until a moment ago.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pending {
    pub(crate) error: LastError,
    pub(crate) since: SystemTime,
    pub(crate) next_attempt: SystemTime,
}

impl FailedRequest {
    /// `again`: the failures in which the same failure may have happened before, and what this request was made from.
    /// `basis`: what the next request would be made from.
    pub(crate) fn of(
        error: &Error,
        again: (&FailedRequests, Basis<'_>),
        basis: Basis<'_>,
        now: SystemTime,
        random: &Random,
    ) -> Self {
        let class = Class::of(error);
        let (known, spent) = again;
        let before = known.same(class, spent);
        let times = before.map_or(0, |before| before.times).saturating_add(1);
        let pause = class.pauses(error.code()).nth(times - 1);
        let pause = if class == Class::Passing { jittered(pause, random.fraction()) } else { pause };
        let error = if class == Class::InDoubt {
            error.clone().with_kind(ErrorKind::Unavailable)
        } else {
            error.clone()
        };
        let salt = random.salt();
        let since = before.map_or(now, |before| before.since);
        Self { salt, fingerprint: of_basis(salt, basis), class, at: now, since, times, pause, error }
    }

    /// Whether other processes should know of it, and the next one after a restart.
    pub(crate) fn is_lasting(&self) -> bool {
        self.class != Class::Passing
    }

    /// The error for a call that is held back. `retry`: what the caller can do to send a refused request at once.
    pub(crate) fn again(&self, now: SystemTime, retry: Option<&str>) -> Error {
        let left = self.left(now).unwrap_or_default();
        let next = match left.as_secs_f64().ceil() {
            seconds if seconds < 60.0 => format!("{seconds} s"),
            seconds if seconds < 7200.0 => format!("{} min", (seconds / 60.0).ceil()),
            seconds => format!("{} h", (seconds / 3600.0).ceil()),
        };
        let retry = retry.filter(|_| self.is_refusal());
        let at_once = retry.map(|retry| format!(", or at once with {retry}")).unwrap_or_default();
        let why = format!(
            "{}; next attempt in {next}, or as soon as the credentials or the stored token change{at_once}",
            self.class.why_not_sent()
        );
        self.error.not_sent(&why, left)
    }

    pub(crate) fn pending(&self) -> Pending {
        Pending {
            error: LastError::of(&self.error),
            since: self.since,
            next_attempt: self.at.checked_add(self.pause).unwrap_or(self.at),
        }
    }

    /// How many times in a row.
    #[cfg(feature = "postgres")]
    pub(crate) fn times(&self) -> u32 {
        self.times
    }

    pub(crate) fn is_refusal(&self) -> bool {
        self.class == Class::Refused
    }

    pub(crate) fn at(&self) -> SystemTime {
        self.at
    }

    pub(crate) fn is_in_force(&self, now: SystemTime) -> bool {
        self.left(now).is_some()
    }

    /// What is left of its pause; `None` if that is over.
    fn left(&self, now: SystemTime) -> Option<Duration> {
        let left = match now.duration_since(self.at) {
            Ok(elapsed) => self.pause.checked_sub(elapsed)?,
            // The clock of the machine that noted it is ahead of this one. How long ago that was, is not known if the clock has
            // jumped back by more than the pause.
            Err(ahead) if ahead.duration() <= self.pause => self.pause + ahead.duration(),
            Err(_) => return None,
        };
        Some(left).filter(|left| !left.is_zero())
    }

    fn concerns(&self, basis: Basis<'_>) -> bool {
        self.fingerprint == of_basis(self.salt, basis)
    }
}

/// The newest failures, and the refresh tokens that are dead. A store keeps the lasting ones, for all processes that share it.
///
/// Boxed, because most managers never have any.
#[derive(Clone, Debug, Default)]
pub(crate) struct FailedRequests(Option<Box<Remembered>>);

#[derive(Clone, Debug, Default)]
pub(crate) struct Remembered {
    failures: Vec<FailedRequest>,
    dead: DeadTokens,
}

static NOTHING: Remembered = Remembered { failures: Vec::new(), dead: DeadTokens::NONE };

impl Deref for FailedRequests {
    type Target = Remembered;

    fn deref(&self) -> &Remembered {
        self.0.as_deref().unwrap_or(&NOTHING)
    }
}

/// Whether a note says that Concur has refused this token for good.
pub(crate) fn is_dead(token: &RefreshTokenObject, note: Option<&str>) -> bool {
    FailedRequests::from_note(note).is_dead(token)
}

impl FailedRequests {
    fn new(failures: Vec<FailedRequest>, dead: DeadTokens) -> Self {
        let is_empty = failures.is_empty() && dead.is_empty();
        Self((!is_empty).then(|| Box::new(Remembered { failures, dead })))
    }

    /// In place of what the same failure left before.
    pub(crate) fn add(&mut self, failed: FailedRequest, basis: Basis<'_>) {
        let failures = &mut self.0.get_or_insert_default().failures;
        failures.retain(|before| before.class != failed.class || !before.concerns(basis));
        failures.push(failed);
        let surplus = failures.len().saturating_sub(MOST);
        failures.drain(..surplus);
    }

    /// Adds a refresh token that Concur refused itself, or that was `revoked`; whether that is news.
    pub(crate) fn add_dead(&mut self, token: &RefreshTokenObject, revoked: bool, random: &Random) -> bool {
        self.0.get_or_insert_default().dead.add(token, revoked, random)
    }

    /// The failure that holds back this request for the longest time from now.
    pub(crate) fn in_force(&self, basis: Basis<'_>, now: SystemTime) -> Option<&FailedRequest> {
        longest(self.failures.iter().filter(|failed| failed.concerns(basis)), now)
    }

    /// The failures of this request alone, also those whose pause is over.
    pub(crate) fn of(&self, basis: Basis<'_>) -> Self {
        let failures = self.failures.iter().filter(|failed| failed.concerns(basis)).cloned().collect();
        Self::new(failures, DeadTokens::NONE)
    }

    /// The one failure that a person is told: what holds for the longest time from now, or else the newest.
    pub(crate) fn told(&self, now: SystemTime) -> Option<&FailedRequest> {
        longest(self.failures.iter(), now).or_else(|| self.newest())
    }

    /// The failure that was noted last.
    pub(crate) fn newest(&self) -> Option<&FailedRequest> {
        self.failures.iter().max_by_key(|failed| failed.at)
    }

    /// Whether a refresh token is of no use: Concur has said that it is bad or expired, or it was revoked. That has no end but
    /// a grant's success.
    pub(crate) fn is_dead(&self, token: &RefreshTokenObject) -> bool {
        self.dead.is_dead(token)
    }

    /// Whether a refresh token was revoked, although the store could not be emptied.
    pub(crate) fn is_revoked(&self, token: &RefreshTokenObject) -> bool {
        self.dead.is_revoked(token)
    }

    /// Forgets what the success of such a request disproves; whether there was anything.
    pub(crate) fn forget(&mut self, basis: Basis<'_>) -> bool {
        let Some(known) = &mut self.0 else { return false };
        let before = known.failures.len();
        known.failures.retain(|failed| !failed.concerns(basis));
        known.failures.len() < before
    }

    /// Forgets every failure. What is dead stays dead.
    pub(crate) fn forget_failures(&mut self) {
        if let Some(known) = &mut self.0 {
            known.failures.clear();
        }
    }

    /// Concur has issued this refresh token just now, so it is not dead; whether it was.
    pub(crate) fn revive(&mut self, token: &RefreshTokenObject) -> bool {
        self.0.as_mut().is_some_and(|known| known.dead.revive(token))
    }

    /// These failures and those.
    pub(crate) fn and(&self, others: &Self) -> Self {
        let failures = self.failures.iter().chain(&others.failures).cloned().collect();
        Self::new(failures, self.dead.and(&others.dead))
    }

    /// The same failure as it was known before, the one that was repeated most often.
    fn same(&self, class: Class, basis: Basis<'_>) -> Option<&FailedRequest> {
        let same = self.failures.iter().filter(|failed| failed.class == class && failed.concerns(basis));
        same.max_by_key(|failed| failed.times)
    }
}

fn longest<'a>(
    failures: impl Iterator<Item = &'a FailedRequest>,
    now: SystemTime,
) -> Option<&'a FailedRequest> {
    let holding = failures.filter_map(|failed| Some((failed.left(now)?, failed)));
    holding.max_by_key(|(left, _)| *left).map(|(_, failed)| failed)
}

fn of_basis(salt: u64, Basis { credentials, stored }: Basis<'_>) -> u32 {
    let stored = stored.map(RefreshTokenObject::secret);
    fingerprint(salt, credentials.identifying_parts().into_iter().chain([stored]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    /// Named as in a status.
    const KINDS: [(ErrorKind, &str); 9] = [
        (ErrorKind::CredentialsNeeded, "credentials_needed"),
        (ErrorKind::CredentialsInvalid, "credentials_invalid"),
        (ErrorKind::ReauthorizationRequired, "reauthorization_required"),
        (ErrorKind::Refused, "refused"),
        (ErrorKind::Unavailable, "unavailable"),
        (ErrorKind::Protocol, "protocol"),
        (ErrorKind::Untrusted, "untrusted"),
        (ErrorKind::Store, "store"),
        (ErrorKind::Config, "config"),
    ];

    fn at(seconds: u64) -> SystemTime {
        clock::from_unix_seconds(seconds).unwrap()
    }

    fn refused(code: Option<u32>) -> Error {
        Error::new(ErrorKind::Refused, "no").with_code(code.map(ConcurCode::new), true)
    }

    fn token(secret: &str) -> RefreshTokenObject {
        RefreshTokenObject::from_json(&format!(r#"{{"refresh_token": "{secret}"}}"#)).unwrap()
    }

    fn fail(known: &mut FailedRequests, error: &Error, basis: Basis<'_>, now: u64) {
        let failed = FailedRequest::of(error, (known, basis), basis, at(now), &Random::System);
        known.add(failed, basis);
    }

    #[test]
    fn a_failure_holds_back_the_same_credentials_and_token_until_its_pause_is_over() {
        let credentials = Credentials::new("a", "s").company("c", "t");
        let token = token("r");
        let mut known = FailedRequests::default();
        let basis = Basis { credentials: &credentials, stored: Some(&token) };
        fail(&mut known, &refused(Some(61)), basis, 1000);
        for (credentials, stored, now, holds) in [
            (&credentials, Some(&token), 1000, true),
            (&credentials, Some(&token), 4599, true),
            (&credentials, Some(&token), 4600, false),
            (&credentials, Some(&token), 999, true),
            (&credentials, None, 1000, false),
            (&Credentials::new("a", "s").company("c", "new"), Some(&token), 1000, false),
            (&Credentials::new("a", "new").company("c", "t"), Some(&token), 1000, false),
        ] {
            let basis = Basis { credentials, stored };
            assert_eq!(known.in_force(basis, at(now)).is_some(), holds, "at {now}");
        }
    }

    #[test]
    fn how_long_each_failure_in_a_row_holds() {
        let credentials = Credentials::new("a", "s");
        let basis = Basis { credentials: &credentials, stored: None };
        let reauthorize = Error::new(ErrorKind::ReauthorizationRequired, "");
        let in_doubt = Error::new(ErrorKind::Protocol, "").in_doubt();
        let hours = |hours: [u64; 7]| hours.map(|hours| 3600 * hours);
        let lifted = [10, 11, 12, 13, 14, 20, 53, 123].map(|code| (refused(Some(code)), hours([1; 7])));
        let others = [
            (refused(Some(64)), hours([1, 2, 4, 8, 16, 24, 24])),
            (refused(None), hours([1, 2, 4, 8, 16, 24, 24])),
            (reauthorize, hours([1, 2, 4, 8, 16, 24, 24])),
            (in_doubt, [1, 2, 4, 8, 16, 32, 60].map(|minutes| 60 * minutes)),
        ];
        for (error, pauses) in lifted.into_iter().chain(others) {
            let mut known = FailedRequests::default();
            for pause in pauses {
                fail(&mut known, &error, basis, 1000);
                // Also as a note tells it.
                for known in [&known, &FailedRequests::from_note(known.to_note().as_deref())] {
                    assert!(known.in_force(basis, at(999 + pause)).is_some(), "{error:?}: {pause} s");
                    assert!(known.in_force(basis, at(1000 + pause)).is_none(), "{error:?}: {pause} s");
                }
            }
            // Other credentials start again.
            let other = Credentials::new("a", "new");
            let basis = Basis { credentials: &other, stored: None };
            fail(&mut known, &error, basis, 1000);
            assert!(known.in_force(basis, at(1000 + pauses[0])).is_none(), "{error:?}");
        }
    }

    #[test]
    fn what_may_pass_holds_between_a_half_and_the_whole_of_a_pause_and_is_not_noted() {
        let credentials = Credentials::new("a", "s");
        let basis = Basis { credentials: &credentials, stored: None };
        let kinds = [ErrorKind::Unavailable, ErrorKind::Protocol, ErrorKind::Untrusted, ErrorKind::Store];
        for kind in kinds {
            let mut known = FailedRequests::default();
            for pause in [1, 2, 4, 8, 16, 32, 60, 60].map(Duration::from_secs) {
                fail(&mut known, &Error::new(kind, ""), basis, 1000);
                let held = |after| known.in_force(basis, at(1000) + after).is_some();
                assert!(held(pause / 2 - Duration::from_millis(1)) && !held(pause), "{pause:?}");
                assert_eq!(known.in_force(basis, at(1000)).unwrap().again(at(1000), None).kind(), kind);
                assert_eq!(known.to_note(), None);
            }
        }
    }

    /// A server that fails now and then must not make a refused secret look new.
    #[test]
    fn another_kind_of_failure_in_between_shortens_no_cool_down() {
        let credentials = Credentials::new("a", "s");
        let basis = Basis { credentials: &credentials, stored: None };
        let mut known = FailedRequests::default();
        fail(&mut known, &refused(Some(64)), basis, 0);
        fail(&mut known, &Error::new(ErrorKind::Unavailable, "down"), basis, 3600);
        fail(&mut known, &refused(Some(64)), basis, 3700);
        assert!(known.in_force(basis, at(3700 + 2 * 3600 - 1)).is_some());
        assert_eq!(known.failures.len(), 2);
    }

    #[test]
    fn eight_failures_are_kept_and_one_success_forgets_its_own_only() {
        let programs: Vec<_> = (0..10).map(|n| Credentials::new("a", n.to_string())).collect();
        let bases: Vec<_> = programs.iter().map(|credentials| Basis { credentials, stored: None }).collect();
        let mut known = FailedRequests::default();
        for basis in &bases {
            fail(&mut known, &refused(Some(64)), *basis, 1000);
        }
        let mut known = FailedRequests::from_note(known.to_note().as_deref());
        let held = |known: &FailedRequests| {
            bases.iter().map(|basis| known.in_force(*basis, at(1001)).is_some()).collect::<Vec<_>>()
        };
        assert_eq!(held(&known), [[false; 2].as_slice(), &[true; 8]].concat());
        assert!(known.forget(bases[5]) && !known.forget(bases[5]));
        assert_eq!(held(&known).iter().filter(|held| **held).count(), 7);
    }

    #[test]
    fn a_dead_token_is_dead_until_it_is_issued_again_whatever_else_fails_or_succeeds() {
        let ours = Credentials::new("a", "s");
        let programs: Vec<_> = (0..8).map(|n| Credentials::new("a", n.to_string())).collect();
        let (dead, revoked, new) = (token("dead"), token("revoked"), token("new"));
        let basis = Basis { credentials: &ours, stored: Some(&dead) };
        let mut known = FailedRequests::default();
        fail(&mut known, &refused(Some(108)), basis, 1000);
        assert!(known.add_dead(&dead, false, &Random::System));
        assert!(known.add_dead(&revoked, true, &Random::System));
        for credentials in &programs {
            fail(&mut known, &refused(Some(64)), Basis { credentials, ..basis }, 1000);
        }
        let mut noted = FailedRequests::from_note(known.to_note().as_deref());
        for known in [&known, &noted] {
            assert!(known.in_force(basis, at(1000)).is_none(), "the eight others have displaced it");
            assert!(known.is_dead(&dead) && known.is_dead(&revoked) && !known.is_dead(&new));
            assert!(known.is_revoked(&revoked) && !known.is_revoked(&dead));
        }
        noted.forget(basis);
        noted.forget_failures();
        assert!(!noted.revive(&new) && noted.is_dead(&dead));
        // A note without any failure.
        let mut noted = FailedRequests::from_note(noted.to_note().as_deref());
        assert!(noted.revive(&dead) && !noted.is_dead(&dead) && noted.revive(&revoked));
        assert_eq!(noted.to_note(), None);
    }

    #[test]
    fn a_dead_token_does_not_reset_the_doubling_of_an_earlier_refusal() {
        let (credentials, stored) = (Credentials::new("a", "s"), token("r"));
        let basis = Basis { credentials: &credentials, stored: Some(&stored) };
        let mut known = FailedRequests::default();
        fail(&mut known, &refused(Some(64)), basis, 0);
        known.add_dead(&stored, false, &Random::System);
        let mut known = FailedRequests::from_note(known.to_note().as_deref());
        fail(&mut known, &refused(Some(64)), basis, 3600);
        assert!(known.in_force(basis, at(3600 + 7199)).is_some());
    }

    #[test]
    fn a_failure_that_repeats_keeps_the_time_of_its_first_one() {
        let (credentials, other) = (Credentials::new("a", "s"), Credentials::new("a", "new"));
        let [basis, other] = [&credentials, &other].map(|credentials| Basis { credentials, stored: None });
        let mut known = FailedRequests::default();
        for now in [1000, 5000, 20_000] {
            fail(&mut known, &refused(None), basis, now);
            known = FailedRequests::from_note(known.to_note().as_deref());
        }
        fail(&mut known, &Error::new(ErrorKind::Unavailable, "down"), basis, 21_000);
        fail(&mut known, &refused(None), other, 22_000);
        let told = known.of(basis).told(at(21_000)).unwrap().pending();
        assert_eq!((told.since, told.next_attempt), (at(1000), at(20_000 + 4 * 3600)));
        assert_eq!(known.of(other).told(at(22_000)).unwrap().pending().since, at(22_000));
    }

    /// What holds longest is told as long as it holds, whichever was noted, and then the newest.
    #[test]
    fn of_two_failures_the_one_in_force_is_told() {
        let credentials = Credentials::new("a", "s");
        let basis = Basis { credentials: &credentials, stored: None };
        let (mut ours, mut noted) = (FailedRequests::default(), FailedRequests::default());
        fail(&mut ours, &Error::new(ErrorKind::Unavailable, "down"), basis, 1000);
        fail(&mut noted, &refused(None), basis, 2000);
        for known in [ours.and(&noted), noted.and(&ours)] {
            for now in [2000, 5599, 5600] {
                let told = known.of(basis).told(at(now)).unwrap().pending();
                assert_eq!(told.error.kind, ErrorKind::Refused, "at {now}");
            }
        }
        fail(&mut ours, &Error::new(ErrorKind::Unavailable, "down"), basis, 5000);
        let known = noted.and(&ours);
        for (now, kind) in [(5000, ErrorKind::Refused), (5600, ErrorKind::Unavailable)] {
            assert_eq!(known.of(basis).told(at(now)).unwrap().pending().error.kind, kind, "at {now}");
        }
    }

    #[test]
    fn a_failure_reads_back_as_what_it_was() {
        let credentials = Credentials::new("a", "s");
        let basis = Basis { credentials: &credentials, stored: None };
        let in_doubt = Error::new(ErrorKind::Protocol, "").in_doubt();
        for error in [refused(Some(64)), Error::new(ErrorKind::ReauthorizationRequired, ""), in_doubt] {
            let mut known = FailedRequests::default();
            fail(&mut known, &error, basis, 1000);
            let read = FailedRequests::from_note(known.to_note().as_deref());
            assert_eq!(known.told(at(1000)).unwrap().pending(), read.told(at(1000)).unwrap().pending());
        }
        for (kind, name) in KINDS {
            assert_eq!(serde_json::to_value(kind).unwrap(), name);
        }
    }

    #[test]
    fn the_json_form_holds_no_secret_and_can_be_read_back() {
        let credentials = Credentials::new("the-app", "the-secret").company("the-company", "the-token");
        let stored = token("the-refresh-token");
        let basis = Basis { credentials: &credentials, stored: Some(&stored) };
        let mut known = FailedRequests::default();
        fail(&mut known, &refused(Some(14)), basis, 1000);
        known.add_dead(&stored, true, &Random::System);
        let note = known.to_note().unwrap();
        for secret in ["the-app", "the-secret", "the-token", "the-refresh-token"] {
            assert!(!note.contains(secret));
        }
        let read = FailedRequests::from_note(Some(&note));
        assert_eq!(read.to_note().as_ref(), Some(&note));
        let cut_short = FailedRequests::from_note(Some(&note[..note.len() - 1]));
        assert!(cut_short.failures.is_empty() && cut_short.dead.is_empty());
        let again = read.in_force(basis, at(1060)).unwrap().again(at(1060), Some("retry_now"));
        assert_eq!(again.retry_after(), Some(Duration::from_secs(3540)));
        assert_eq!(
            again.to_string(),
            "no [not sent: Concur refused this before; next attempt in 59 min, or as soon as the credentials or the \
             stored token change, or at once with retry_now] (code 14)"
        );
    }

    /// Two machines whose clocks differ do not take turns at asking.
    #[test]
    fn a_failure_noted_by_a_clock_that_is_ahead_holds_until_its_pause_is_over_by_that_clock() {
        let credentials = Credentials::new("a", "s");
        let basis = Basis { credentials: &credentials, stored: None };
        let mut known = FailedRequests::default();
        fail(&mut known, &refused(Some(14)), basis, 10_000);
        for (now, is_held) in [(6399, false), (6400, true), (9400, true), (13_599, true), (13_600, false)] {
            assert_eq!(known.in_force(basis, at(now)).is_some(), is_held, "at {now}");
        }
    }

    #[test]
    fn the_next_attempt_is_told_in_seconds_minutes_or_hours_and_how_to_have_it_at_once() {
        let credentials = Credentials::new("a", "s");
        let basis = Basis { credentials: &credentials, stored: None };
        let in_doubt = Error::new(ErrorKind::Protocol, "").in_doubt();
        let at_once = ", or at once with retry_now";
        for (error, times, now, next, at_once) in [
            (refused(None), 1, 1000, "60 min", at_once),
            (refused(None), 1, 4541, "59 s", at_once),
            (refused(None), 2, 1001, "120 min", at_once),
            (refused(None), 2, 1000, "2 h", at_once),
            (refused(None), 9, 1000, "24 h", at_once),
            (in_doubt, 1, 1000, "1 min", ""),
            (Error::new(ErrorKind::Protocol, ""), 1, 1000, "1 s", ""),
        ] {
            let mut known = FailedRequests::default();
            for _ in 0..times {
                fail(&mut known, &error, basis, 1000);
            }
            let failed = known.in_force(basis, at(now)).unwrap();
            let told = |at_once| {
                let until = "or as soon as the credentials or the stored token change";
                format!("; next attempt in {next}, {until}{at_once}]")
            };
            let again = failed.again(at(now), Some("retry_now")).to_string();
            assert!(again.contains(&told(at_once)), "{again}");
            // An app by itself has nothing to retry with.
            let again = failed.again(at(now), None).to_string();
            assert!(again.contains(&told("")), "{again}");
        }
    }
}
