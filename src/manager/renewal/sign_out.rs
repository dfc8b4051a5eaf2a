//! Signing out: all tokens revoked, the store emptied, nothing held.
//!
//! Always: it is a flight like any other, so no renewal is under way meanwhile, and it comes to its end whatever becomes of
//! its caller. What is revoked is handed out no more, even if the store cannot be emptied.

use std::sync::Arc;

use super::super::{
    cache::Looked,
    flight::{Flight, RACES},
    held::Held,
    locked_store::Save,
    need::{Outcome, Renewed},
};
use crate::{AccessToken, Error, ErrorKind, RefreshTokenObject, TokenOrigin, oauth_client::NotRevoked};

/// What a renewal before a revocation led to.
enum Renewal {
    /// An access token to revoke with.
    Access(AccessToken, Arc<Held>),
    /// The refresh token is no longer accepted, and another program has stored another, which is to be revoked too.
    Another(Looked),
    /// The refresh token is no longer accepted: there is nothing to revoke.
    Dead,
    /// The reply was saved and cannot be used.
    Ended(Outcome),
}

impl Flight<'_> {
    /// Revokes with the access token at hand. If there is none, or Concur does not accept it, a renewed one is used.
    pub(super) async fn sign_out(&self, mut looked: Looked) -> Result<Outcome, Error> {
        let (cache, now) = (&self.core.cache, self.core.now());
        self.check_host(looked.token())?;
        self.core.gate.check_server_pause(now)?;
        for _ in 0..RACES {
            let stored = looked.token().cloned();
            // Where another process has emptied the store, what is or was held may still do for revoking, unless it is another
            // principal's than the credentials name now.
            let principal = self.identity.principal.as_ref();
            let is_ours =
                |held: &Arc<Held>| principal.is_none_or(|principal| principal.may_own(&held.object));
            looked.held = looked.held.or_else(|| cache.for_revoking().filter(is_ours));
            let Some(held) = looked.held.clone() else {
                return self.empty(None, &looked).await;
            };
            if let Some(access) = held.live_access(now) {
                match self.revoke_with(&access).await {
                    Ok(()) => return self.empty(Some(&held.object), &looked).await,
                    Err(NotRevoked { unauthorized: true, .. }) => cache.refuse(&access, now),
                    Err(NotRevoked { error, .. }) => return Err(error),
                }
            }
            match self.renew_to_revoke(&held, &looked, stored.as_ref()).await? {
                Renewal::Access(access, held) => {
                    self.revoke_with(&access).await.map_err(|not| not.error)?;
                    return self.empty(Some(&held.object), &looked).await;
                }
                Renewal::Another(other) => looked = other,
                Renewal::Dead => return self.empty(Some(&held.object), &looked).await,
                Renewal::Ended(outcome) => return Ok(outcome),
            }
        }
        Err(self.too_many_races())
    }

    async fn revoke_with(&self, access: &AccessToken) -> Result<(), NotRevoked> {
        self.core.client.send_revocation(access, &self.conditions()).await
    }

    /// A company request token is not spent for this: without a token there is nothing to revoke. What another process has
    /// removed from the store is not written back by the rehearsal.
    async fn renew_to_revoke(
        &self,
        held: &Held,
        looked: &Looked,
        stored: Option<&RefreshTokenObject>,
    ) -> Result<Renewal, Error> {
        let rehearsed = self.core.cache.store.rehearse(stored).await?;
        let reply = match self.present(&held.object, &rehearsed).await {
            Ok(reply) => reply,
            Err(e) if !e.is_bad_refresh_token() => return Err(e),
            Err(_) => {
                self.core.gate.find_dead(&held.object);
                let waited = self.is_overtaken(&held.object).await;
                let again = match waited.and(self.look_again().await) {
                    Ok(again) => again,
                    // Whatever the store holds by now: this token is dead.
                    Err(unread) => {
                        self.remember_dead(&held.object, looked).await;
                        return Err(unread);
                    }
                };
                let is_another = again.token().is_some_and(|token| !token.is_same_token(&held.object));
                return Ok(if is_another { Renewal::Another(again) } else { Renewal::Dead });
            }
        };
        let outcome = self.accept(&reply, TokenOrigin::Renewed, looked, rehearsed, Save::More).await?;
        let Outcome::Done(Renewed { held, .. }) = outcome else {
            return Ok(Renewal::Ended(outcome));
        };
        self.core.gate.succeeded(self.core.now(), true);
        // Nothing is revoked before the renewed token is saved.
        self.core.save_unsaved().await?;
        match held.access() {
            Some(access) => Ok(Renewal::Access(access.token.clone(), held)),
            None => {
                let message =
                    "Concur gives no access token to revoke the tokens with; tell SAP Concur's support";
                Err(Error::new(ErrorKind::Protocol, message))
            }
        }
    }

    /// Nothing is held any longer, and nothing is left to be found.
    async fn empty(&self, revoked: Option<&RefreshTokenObject>, looked: &Looked) -> Result<Outcome, Error> {
        let cache = &self.core.cache;
        let Err(e) = cache.empty(revoked).await else { return Ok(Outcome::SignedOut) };
        let message = format!(
            "all tokens are revoked, but the dead one could not be removed from {}; remove it, or call revoke again",
            cache.store.describe()
        );
        let error = Error::store(message, e);
        // Other processes would serve it, as would this one after a restart.
        if let Some(token) = revoked {
            self.remember_dead(token, looked).await;
        }
        Err(error)
    }
}
