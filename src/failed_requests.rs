//! Requests that failed, after which the same request must not be sent again too soon: accounts get locked, and a server that
//! fails does not recover by being asked.
//!
//! Always: no I/O and no clock here. A failure holds back only what was made from the same credentials and the same stored
//! token. Nothing in it is a secret, and nothing in it helps to find a secret. A salted hash of 32 bits tells whether
//! credentials and token are still the same: too few bits to confirm a guess at a secret of over 120 bits, or to find
//! the secret.

use std::{
    hash::{DefaultHasher, Hasher},
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};

use crate::{
    ConcurCode, Credentials, Error, ErrorKind, LastError, RefreshTokenObject, Responsible,
    backoff::{Backoff, jittered},
    clock, consequences,
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
    /// Of the refresh token alone, if Concur said that it is bad or expired.
    dead_token: Option<u32>,
    class: Class,
    at: SystemTime,
    /// How many times in a row; 0 for a failure that only says that a refresh token is dead.
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
        dead_token: Option<&RefreshTokenObject>,
        now: SystemTime,
        random: &Random,
    ) -> Self {
        let class = Class::of(error);
        let (before, spent) = again;
        let times = before.times(class, spent).saturating_add(1);
        let pause = class.pauses(error.code()).nth(times - 1);
        let pause = if class == Class::Passing { jittered(pause, random.fraction()) } else { pause };
        let error = if class == Class::InDoubt {
            error.clone().with_kind(ErrorKind::Unavailable)
        } else {
            error.clone()
        };
        Self { times, pause, ..Self::new(class, error, basis, dead_token, now, random) }
    }

    /// What is left to know of a refused refresh token, if something else was tried after it: it holds nothing back.
    pub(crate) fn of_dead_token(
        refused: &Error,
        basis: Basis<'_>,
        token: &RefreshTokenObject,
        now: SystemTime,
        random: &Random,
    ) -> Self {
        Self::new(Class::Refused, refused.clone(), basis, Some(token), now, random)
    }

    fn new(
        class: Class,
        error: Error,
        basis: Basis<'_>,
        dead_token: Option<&RefreshTokenObject>,
        now: SystemTime,
        random: &Random,
    ) -> Self {
        let salt = random.salt();
        Self {
            salt,
            fingerprint: of_basis(salt, basis),
            dead_token: dead_token.map(|token| of_token(salt, token)),
            class,
            at: now,
            times: 0,
            pause: Duration::ZERO,
            error,
        }
    }

    /// Whether other processes should know of it, and the next one after a restart.
    pub(crate) fn is_lasting(&self) -> bool {
        self.class != Class::Passing
    }

    /// The error for a call that is held back.
    pub(crate) fn again(&self, now: SystemTime) -> Error {
        let left = self.left(now).unwrap_or_default();
        let next = match left.as_secs_f64().ceil() {
            seconds if seconds < 60.0 => format!("{seconds} s"),
            seconds => format!("{} min", (seconds / 60.0).ceil()),
        };
        let why = format!(
            "{}; next attempt in {next}, or as soon as the credentials or the stored token change",
            self.class.why_not_sent()
        );
        self.error.not_sent(&why, left)
    }

    pub(crate) fn pending(&self) -> Pending {
        Pending {
            error: LastError::of(&self.error),
            since: self.at,
            next_attempt: self.at.checked_add(self.pause).unwrap_or(self.at),
        }
    }

    /// What is left of its pause; `None` if that is over.
    fn left(&self, now: SystemTime) -> Option<Duration> {
        // A time in the future was noted before the clock jumped back: how long ago that was, is not known.
        let elapsed = now.duration_since(self.at).ok()?;
        self.pause.checked_sub(elapsed).filter(|left| !left.is_zero())
    }

    fn concerns(&self, basis: Basis<'_>) -> bool {
        self.fingerprint == of_basis(self.salt, basis)
    }

    fn says_dead(&self, token: &RefreshTokenObject) -> bool {
        self.dead_token.is_some_and(|dead| dead == of_token(self.salt, token))
    }
}

/// The newest failures, the newest last. A store keeps the lasting ones, for all processes that share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct FailedRequests(Vec<FailedRequest>);

impl FailedRequests {
    /// Reads a store's note. Any other text, such as a note that was cut short, says nothing.
    #[must_use]
    pub(crate) fn from_note(note: Option<&str>) -> Self {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Note {
            Several(Vec<Noted>),
            /// As it was written before a note could hold several.
            One(Box<Noted>),
        }
        let noted = match note.and_then(|note| serde_json::from_str(note).ok()) {
            Some(Note::Several(noted)) => noted,
            Some(Note::One(noted)) => vec![*noted],
            None => Vec::new(),
        };
        Self(noted.into_iter().filter_map(Noted::read).collect())
    }

    /// The note for a store, on one line; `None` where there is nothing to note.
    #[must_use]
    pub(crate) fn to_note(&self) -> Option<String> {
        let noted: Vec<_> = self.0.iter().filter(|failed| failed.is_lasting()).map(Noted::of).collect();
        if noted.is_empty() { None } else { serde_json::to_string(&noted).ok() }
    }

    /// In place of what the same failure left before.
    pub(crate) fn add(&mut self, failed: FailedRequest, basis: Basis<'_>) {
        self.0.retain(|before| before.class != failed.class || !before.concerns(basis));
        self.0.push(failed);
        let surplus = self.0.len().saturating_sub(MOST);
        self.0.drain(..surplus);
    }

    /// The failure that holds back this request for the longest time from now.
    pub(crate) fn in_force(&self, basis: Basis<'_>, now: SystemTime) -> Option<&FailedRequest> {
        let holding = self.0.iter().filter_map(|failed| Some((failed.left(now)?, failed)));
        holding
            .filter(|(_, failed)| failed.concerns(basis))
            .max_by_key(|(left, _)| *left)
            .map(|(_, failed)| failed)
    }

    /// The newest failure of this request, also if its pause is over.
    pub(crate) fn last_of(&self, basis: Basis<'_>) -> Option<&FailedRequest> {
        self.0.iter().rev().find(|failed| failed.concerns(basis))
    }

    /// Whether Concur has said that this refresh token is bad or expired. That has no end but a grant's success.
    pub(crate) fn is_dead(&self, token: &RefreshTokenObject) -> bool {
        self.0.iter().any(|failed| failed.says_dead(token))
    }

    /// Forgets what the success of such a request disproves; whether there was anything.
    pub(crate) fn forget(&mut self, basis: Basis<'_>) -> bool {
        let before = self.0.len();
        self.0.retain(|failed| !failed.concerns(basis));
        self.0.len() < before
    }

    /// Concur has issued this refresh token just now, so it is not dead; whether any failure said so.
    pub(crate) fn revive(&mut self, token: &RefreshTokenObject) -> bool {
        let mut was_dead = false;
        for failed in self.0.iter_mut().filter(|failed| failed.says_dead(token)) {
            failed.dead_token = None;
            was_dead = true;
        }
        was_dead
    }

    /// These failures and those.
    pub(crate) fn and(&self, others: &Self) -> Self {
        Self(self.0.iter().chain(&others.0).cloned().collect())
    }

    fn times(&self, class: Class, basis: Basis<'_>) -> u32 {
        let same = self.0.iter().filter(|failed| failed.class == class && failed.concerns(basis));
        same.map(|failed| failed.times).max().unwrap_or_default()
    }
}

/// A failure as a note holds it.
#[derive(Serialize, Deserialize)]
struct Noted {
    salt: u64,
    fingerprint: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    dead_token: Option<u32>,
    /// Unix seconds.
    refused_at: u64,
    times: u32,
    reauthorize: bool,
    #[serde(default)]
    in_doubt: bool,
    message: String,
    code: Option<u32>,
    correlation_id: Option<String>,
}

impl Noted {
    fn of(failed: &FailedRequest) -> Self {
        let FailedRequest { salt, fingerprint, dead_token, class, at, times, error, .. } = failed;
        Self {
            salt: *salt,
            fingerprint: *fingerprint,
            dead_token: *dead_token,
            refused_at: clock::unix_seconds(*at),
            times: *times,
            reauthorize: error.kind() == ErrorKind::ReauthorizationRequired,
            in_doubt: *class == Class::InDoubt,
            message: error.message().to_owned(),
            code: error.code().map(ConcurCode::number),
            correlation_id: error.correlation_id().map(str::to_owned),
        }
    }

    /// `None` if it was noted at a time that cannot be.
    fn read(self) -> Option<FailedRequest> {
        let (class, kind) = match (self.in_doubt, self.reauthorize) {
            (true, _) => (Class::InDoubt, ErrorKind::Unavailable),
            (_, true) => (Class::Refused, ErrorKind::ReauthorizationRequired),
            _ => (Class::Refused, ErrorKind::Refused),
        };
        let code = self.code.map(ConcurCode::new);
        let pause = self.times.checked_sub(1).map(|doublings| class.pauses(code).nth(doublings));
        Some(FailedRequest {
            salt: self.salt,
            fingerprint: self.fingerprint,
            dead_token: self.dead_token,
            class,
            at: clock::from_unix_seconds(self.refused_at)?,
            times: self.times,
            pause: pause.unwrap_or_default(),
            error: Error::new(kind, self.message)
                .with_code(code, false)
                .with_correlation_id(self.correlation_id),
        })
    }
}

fn of_basis(salt: u64, Basis { credentials, stored }: Basis<'_>) -> u32 {
    let stored = stored.map(RefreshTokenObject::secret);
    fingerprint(salt, credentials.identifying_parts().into_iter().chain([stored]))
}

fn of_token(salt: u64, token: &RefreshTokenObject) -> u32 {
    fingerprint(salt, [Some(token.secret())])
}

fn fingerprint<'a>(salt: u64, parts: impl IntoIterator<Item = Option<&'a str>>) -> u32 {
    let mut hasher = DefaultHasher::new();
    hasher.write_u64(salt);
    for part in parts {
        let part = part.unwrap_or_default();
        hasher.write_usize(part.len());
        hasher.write(part.as_bytes());
    }
    #[allow(clippy::cast_possible_truncation, reason = "only 32 bits may be known")]
    let known = hasher.finish() as u32;
    known
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let failed = FailedRequest::of(error, (known, basis), basis, None, at(now), &Random::System);
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
            (&credentials, Some(&token), 999, false),
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
                assert_eq!(known.in_force(basis, at(1000)).unwrap().again(at(1000)).kind(), kind);
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
        assert_eq!(known.0.len(), 2);
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
    fn a_dead_token_is_dead_until_it_changes_or_is_issued_again() {
        let (ours, other) = (Credentials::new("a", "s"), Credentials::new("a", "new"));
        let (dead, new) = (token("dead"), token("new"));
        let basis = Basis { credentials: &ours, stored: Some(&dead) };
        let mut known = FailedRequests::default();
        let again = (&known, basis);
        let failed =
            FailedRequest::of(&refused(Some(108)), again, basis, Some(&dead), at(1000), &Random::System);
        known.add(failed, basis);
        let mut noted = FailedRequests::from_note(known.to_note().as_deref());
        // Its cool-down is over, and other credentials do not make it live.
        assert!(noted.in_force(basis, at(1_000_000)).is_none());
        assert!(noted.is_dead(&dead) && !noted.is_dead(&new));
        noted.forget(Basis { credentials: &other, ..basis });
        assert!(!noted.revive(&new) && noted.is_dead(&dead));
        assert!(noted.revive(&dead) && !noted.is_dead(&dead));
        assert!(known.forget(basis) && !known.is_dead(&dead));
    }

    #[test]
    fn the_json_form_holds_no_secret_and_can_be_read_back() {
        let credentials = Credentials::new("the-app", "the-secret").company("the-company", "the-token");
        let stored = token("the-refresh-token");
        let basis = Basis { credentials: &credentials, stored: Some(&stored) };
        let mut known = FailedRequests::default();
        let again = (&known, basis);
        let failed =
            FailedRequest::of(&refused(Some(14)), again, basis, Some(&stored), at(1000), &Random::System);
        known.add(failed, basis);
        let note = known.to_note().unwrap();
        for secret in ["the-app", "the-secret", "the-token", "the-refresh-token"] {
            assert!(!note.contains(secret));
        }
        let read = FailedRequests::from_note(Some(&note));
        assert_eq!(read.to_note().as_ref(), Some(&note));
        assert!(FailedRequests::from_note(Some(&note[..note.len() - 1])).0.is_empty());
        let again = read.in_force(basis, at(1060)).unwrap().again(at(1060));
        assert_eq!(again.retry_after(), Some(Duration::from_secs(3540)));
        assert_eq!(
            again.to_string(),
            "no [not sent: Concur refused this before; next attempt in 59 min, or as soon as the credentials or the \
             stored token change] (code 14)"
        );
    }

    /// As the version before wrote it.
    #[test]
    fn a_note_of_a_single_refusal_is_read() {
        let credentials = Credentials::new("a", "s");
        let basis = Basis { credentials: &credentials, stored: None };
        let note = format!(
            r#"{{"salt":7,"fingerprint":{},"refused_at":1000,"times":2,"reauthorize":false,"in_doubt":false,
            "message":"no","code":64,"correlation_id":null}}"#,
            of_basis(7, basis)
        );
        let known = FailedRequests::from_note(Some(&note));
        assert!(known.in_force(basis, at(8199)).is_some() && known.in_force(basis, at(8200)).is_none());
    }

    #[test]
    fn the_time_of_the_next_attempt_is_in_seconds_or_minutes() {
        let credentials = Credentials::new("a", "s");
        let basis = Basis { credentials: &credentials, stored: None };
        for (error, now, next) in [
            (refused(None), 1000, "60 min"),
            (refused(None), 4541, "59 s"),
            (Error::new(ErrorKind::Protocol, "").in_doubt(), 1000, "1 min"),
            (Error::new(ErrorKind::Protocol, ""), 1000, "1 s"),
        ] {
            let mut known = FailedRequests::default();
            fail(&mut known, &error, basis, 1000);
            let again = known.in_force(basis, at(now)).unwrap().again(at(now)).to_string();
            assert!(again.contains(&format!("; next attempt in {next}, or as soon as")), "{again}");
        }
    }
}
