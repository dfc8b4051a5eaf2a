//! A permanent refusal, after which the same request must not be sent again: accounts get locked.
//!
//! Always: nothing in it is a secret, and nothing in it helps to find a secret. A salted hash of 32 bits tells whether
//! credentials and token are still the same: too few bits to confirm a guess at a secret of over 120 bits, or to find
//! the secret.

use std::{
    hash::{DefaultHasher, Hasher},
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};

use crate::{
    ConcurCode, Credentials, Error, ErrorKind, RefreshTokenObject, backoff::Backoff, clock, consequences,
    random::Random,
};

/// The cool-down of a refusal; doubled with each further refusal.
const REFUSED: Backoff = Backoff::new(Duration::from_secs(3600), Duration::from_secs(24 * 3600));
/// The same for a sign-in whose outcome is not known. A company request token has five uses.
const IN_DOUBT: Backoff = Backoff::new(Duration::from_secs(60), Duration::from_secs(3600));

/// A refusal, for all processes that share a store: the note that a store keeps is its JSON form.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Refusal {
    salt: u64,
    fingerprint: u32,
    /// Unix seconds.
    refused_at: u64,
    /// How many times in a row, with the same credentials and token.
    times: u32,
    reauthorize: bool,
    /// Not refused: the outcome of a sign-in is not known.
    #[serde(default)]
    in_doubt: bool,
    message: String,
    code: Option<u32>,
    correlation_id: Option<String>,
}

impl Refusal {
    /// Reads the JSON form; `None` for any other text, such as a JSON form that was cut short.
    #[must_use]
    pub(crate) fn from_json(json: &str) -> Option<Self> {
        serde_json::from_str(json).ok()
    }

    /// The JSON form, on one line.
    #[must_use]
    pub(crate) fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// The refusal to remember. `None` unless Concur refused, or the outcome of a sign-in is not known: any other
    /// failure may be over the next time.
    pub(crate) fn of(
        error: &Error,
        before: Option<&Self>,
        credentials: &Credentials,
        stored: Option<&RefreshTokenObject>,
        now: SystemTime,
        random: &Random,
    ) -> Option<Self> {
        let is_refused = consequences::of(error.kind()).is_remembered;
        if !is_refused && !error.is_in_doubt() {
            return None;
        }
        let salt = random.salt();
        let again = before.filter(|refusal| refusal.concerns(credentials, stored));
        Some(Self {
            salt,
            fingerprint: fingerprint(salt, credentials, stored),
            refused_at: clock::unix_seconds(now),
            times: again.map_or(1, |refusal| refusal.times.saturating_add(1)),
            reauthorize: error.kind() == ErrorKind::ReauthorizationRequired,
            in_doubt: !is_refused,
            message: error.message().to_owned(),
            code: error.code().map(ConcurCode::number),
            correlation_id: error.correlation_id().map(str::to_owned),
        })
    }

    /// The error again, if it was about these credentials and this token and its cool-down has not passed.
    pub(crate) fn still_holds(
        &self,
        credentials: &Credentials,
        stored: Option<&RefreshTokenObject>,
        now: SystemTime,
    ) -> Option<Error> {
        let refused_at = clock::from_unix_seconds(self.refused_at)?;
        let cool_downs = if self.in_doubt { IN_DOUBT } else { REFUSED };
        let cool_down = cool_downs.nth(self.times.saturating_sub(1));
        // A time in the future was noted before the clock jumped back: how long ago that was, is not known.
        let elapsed = now.duration_since(refused_at).ok()?;
        if elapsed >= cool_down || !self.concerns(credentials, stored) {
            return None;
        }
        let kind = match self {
            Self { in_doubt: true, .. } => ErrorKind::Unavailable,
            Self { reauthorize: true, .. } => ErrorKind::ReauthorizationRequired,
            _ => ErrorKind::Refused,
        };
        let minutes = (cool_down - elapsed).as_secs().div_ceil(60);
        let why = if self.in_doubt {
            "a sign-in may have used up the request token without a result"
        } else {
            "Concur refused this before"
        };
        let message = format!(
            "{} [not sent: {why}; next attempt in {minutes} min, or as soon as the credentials or the stored token \
             change]",
            self.message
        );
        Some(
            Error::new(kind, message)
                .held_back()
                .with_code(self.code.map(ConcurCode::new), false)
                .with_correlation_id(self.correlation_id.clone()),
        )
    }

    fn concerns(&self, credentials: &Credentials, stored: Option<&RefreshTokenObject>) -> bool {
        self.fingerprint == fingerprint(self.salt, credentials, stored)
    }
}

fn fingerprint(salt: u64, credentials: &Credentials, stored: Option<&RefreshTokenObject>) -> u32 {
    let mut hasher = DefaultHasher::new();
    hasher.write_u64(salt);
    let parts = credentials.identifying_parts().into_iter().chain([stored.map(RefreshTokenObject::secret)]);
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

    fn error() -> Error {
        Error::new(ErrorKind::Refused, "no").with_code(Some(ConcurCode::new(14)), true)
    }

    #[test]
    fn a_refusal_holds_for_the_same_credentials_and_token_until_its_cool_down_passes() {
        let credentials = Credentials::new("a", "s").company("c", "t");
        let token = RefreshTokenObject::from_json(r#"{"refresh_token": "r"}"#).unwrap();
        let refusal =
            Refusal::of(&error(), None, &credentials, Some(&token), at(1000), &Random::System).unwrap();
        for (credentials, stored, now, holds) in [
            (&credentials, Some(&token), 1000, true),
            (&credentials, Some(&token), 4599, true),
            (&credentials, Some(&token), 4600, false),
            (&credentials, Some(&token), 999, false),
            (&credentials, None, 1000, false),
            (&Credentials::new("a", "s").company("c", "new"), Some(&token), 1000, false),
            (&Credentials::new("a", "new").company("c", "t"), Some(&token), 1000, false),
        ] {
            assert_eq!(refusal.still_holds(credentials, stored, at(now)).is_some(), holds, "at {now}");
        }
    }

    #[test]
    fn each_further_refusal_doubles_the_cool_down_up_to_a_day() {
        let credentials = Credentials::new("a", "s");
        let mut refusal = None;
        for hours in [1, 2, 4, 8, 16, 24, 24] {
            refusal = Refusal::of(&error(), refusal.as_ref(), &credentials, None, at(0), &Random::System);
            let refusal = refusal.as_ref().unwrap();
            assert!(refusal.still_holds(&credentials, None, at(hours * 3600 - 1)).is_some(), "{hours} h");
            assert!(refusal.still_holds(&credentials, None, at(hours * 3600)).is_none(), "{hours} h");
        }
        let other = Credentials::new("a", "new");
        let first = Refusal::of(&error(), refusal.as_ref(), &other, None, at(0), &Random::System).unwrap();
        assert!(first.still_holds(&other, None, at(3600)).is_none());
    }

    #[test]
    fn the_json_form_holds_no_secret_and_can_be_read_back() {
        let credentials = Credentials::new("the-app", "the-secret").company("the-company", "the-token");
        let refusal = Refusal::of(&error(), None, &credentials, None, at(1000), &Random::System).unwrap();
        let json = refusal.to_json();
        for secret in ["the-app", "the-secret", "the-token"] {
            assert!(!json.contains(secret));
        }
        assert_eq!(Refusal::from_json(&json), Some(refusal.clone()));
        assert_eq!(Refusal::from_json(&json[..json.len() - 1]), None);
        let again = refusal.still_holds(&credentials, None, at(1060)).unwrap();
        assert_eq!(
            again.to_string(),
            "no [not sent: Concur refused this before; next attempt in 59 min, or as soon as the credentials or the \
             stored token change] (code 14)"
        );
    }

    #[test]
    fn only_what_concur_refused_is_remembered() {
        let credentials = Credentials::new("a", "s");
        for kind in
            [ErrorKind::Unavailable, ErrorKind::Store, ErrorKind::CredentialsNeeded, ErrorKind::Protocol]
        {
            assert_eq!(
                Refusal::of(&Error::new(kind, ""), None, &credentials, None, at(0), &Random::System),
                None
            );
        }
    }
}
