//! Refresh tokens that are of no use any more: Concur said that they are bad or expired, or they were revoked and the store
//! could not be emptied.
//!
//! Always: no I/O and no clock here. A failed request neither adds a token nor pushes one out; only the token's being issued
//! again takes it off the list. Nothing in it is a secret.

use serde::{Deserialize, Serialize};

use crate::{RefreshTokenObject, fingerprint::fingerprint, random::Random};

/// How many are kept, the newest ones: more than the programs that share a store leave behind.
const MOST: usize = 16;

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct DeadTokens(Vec<DeadToken>);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct DeadToken {
    salt: u64,
    fingerprint: u32,
    revoked: bool,
}

impl DeadToken {
    fn is(&self, token: &RefreshTokenObject) -> bool {
        self.fingerprint == of(self.salt, token)
    }
}

impl DeadTokens {
    pub(crate) const NONE: Self = Self(Vec::new());

    /// `revoked`: by this crate, and not just refused. Whether that is news.
    pub(crate) fn add(&mut self, token: &RefreshTokenObject, revoked: bool, random: &Random) -> bool {
        if let Some(dead) = self.0.iter_mut().find(|dead| dead.is(token)) {
            let is_news = revoked && !dead.revoked;
            dead.revoked |= revoked;
            return is_news;
        }
        let salt = random.salt();
        self.push(DeadToken { salt, fingerprint: of(salt, token), revoked });
        true
    }

    pub(crate) fn is_dead(&self, token: &RefreshTokenObject) -> bool {
        self.0.iter().any(|dead| dead.is(token))
    }

    pub(crate) fn is_revoked(&self, token: &RefreshTokenObject) -> bool {
        self.0.iter().any(|dead| dead.revoked && dead.is(token))
    }

    /// Concur has issued this refresh token just now; whether it was dead.
    pub(crate) fn revive(&mut self, token: &RefreshTokenObject) -> bool {
        let before = self.0.len();
        self.0.retain(|dead| !dead.is(token));
        self.0.len() < before
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// These tokens and those.
    pub(crate) fn and(&self, others: &Self) -> Self {
        Self(self.0.iter().chain(&others.0).copied().collect())
    }

    fn push(&mut self, dead: DeadToken) {
        self.0.push(dead);
        let surplus = self.0.len().saturating_sub(MOST);
        self.0.drain(..surplus);
    }
}

fn of(salt: u64, token: &RefreshTokenObject) -> u32 {
    fingerprint(salt, [Some(token.secret())])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(secret: &str) -> RefreshTokenObject {
        RefreshTokenObject::from_json(&format!(r#"{{"refresh_token": "{secret}"}}"#)).unwrap()
    }

    #[test]
    fn a_token_is_dead_until_it_is_issued_again() {
        let (dead, new) = (token("dead"), token("new"));
        let mut known = DeadTokens::default();
        assert!(known.add(&dead, false, &Random::System) && !known.add(&dead, false, &Random::System));
        assert!(known.is_dead(&dead) && !known.is_revoked(&dead) && !known.is_dead(&new));
        assert!(known.add(&dead, true, &Random::System) && !known.add(&dead, false, &Random::System));
        assert!(known.is_revoked(&dead));
        assert!(!known.revive(&new) && known.is_dead(&dead));
        assert!(known.revive(&dead) && known.is_empty());
    }

    #[test]
    fn sixteen_are_kept_the_newest_ones() {
        let tokens: Vec<_> = (0..20).map(|n| token(&n.to_string())).collect();
        let mut known = DeadTokens::default();
        for token in &tokens {
            known.add(token, false, &Random::System);
        }
        let dead: Vec<_> = tokens.iter().map(|token| known.is_dead(token)).collect();
        assert_eq!(dead, [[false; 4].as_slice(), &[true; 16]].concat());
    }
}
