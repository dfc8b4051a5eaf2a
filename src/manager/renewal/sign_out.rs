//! Signing out: all tokens revoked, the store emptied, nothing held.
//!
//! Always: it is a flight like any other, so no renewal is under way meanwhile, and it comes to its end whatever becomes of
//! its caller. What is revoked is handed out no more, even if the store cannot be emptied.

use std::sync::Arc;

use super::super::{
    flight::{Flight, RACES},
    held::Held,
    need::{Outcome, Renewed},
};
use crate::{
    AccessToken, Error, ErrorKind, RefreshTokenObject, StoreLock, TokenOrigin, oauth_client::NotRevoked,
};

/// What a renewal before a revocation led to.
enum Renewal {
    /// An access token to revoke with.
    Access(AccessToken, Arc<Held>, StoreLock),
    /// The refresh token is no longer accepted, and another program has stored another, which is to be revoked too.
    Another(Arc<Held>, StoreLock),
    /// The refresh token is no longer accepted: there is nothing to revoke.
    Dead(StoreLock),
    /// The reply was saved and cannot be used.
    Ended(Outcome),
}

impl Flight<'_> {
    /// Revokes with the access token at hand. If there is none, or Concur does not accept it, a renewed one is used.
    pub(super) async fn sign_out(
        &self,
        stored: Option<Arc<Held>>,
        mut lock: StoreLock,
    ) -> Result<Outcome, Error> {
        let (cache, now) = (&self.core.cache, self.core.now());
        self.check_host(stored.as_deref().map(|held| &held.object))?;
        self.core.gate.check_server_pause(now)?;
        // Where another process has emptied the store, what is held may still do for revoking.
        let Some(mut held) = stored.or_else(|| cache.held()) else {
            return self.empty(None, &lock).await;
        };
        for _ in 0..RACES {
            if let Some(access) = held.live_access(now) {
                match self.revoke_with(&access).await {
                    Ok(()) => return self.empty(Some(&held.object), &lock).await,
                    Err(NotRevoked { unauthorized: true, .. }) => cache.reject(&access),
                    Err(NotRevoked { error, .. }) => return Err(error),
                }
            }
            match self.renew_to_revoke(&held, lock).await? {
                Renewal::Access(access, held, lock) => {
                    self.revoke_with(&access).await.map_err(|not| not.error)?;
                    return self.empty(Some(&held.object), &lock).await;
                }
                Renewal::Another(other, still_held) => (held, lock) = (other, still_held),
                Renewal::Dead(lock) => return self.empty(Some(&held.object), &lock).await,
                Renewal::Ended(outcome) => return Ok(outcome),
            }
        }
        let message =
            format!("another program keeps replacing the token in {}; stop that program", cache.describe());
        Err(Error::new(ErrorKind::Store, message))
    }

    async fn revoke_with(&self, access: &AccessToken) -> Result<(), NotRevoked> {
        self.core.client.send_revocation(access, &self.conditions()).await
    }

    /// A company request token is not spent for this: without a token there is nothing to revoke.
    async fn renew_to_revoke(&self, held: &Held, lock: StoreLock) -> Result<Renewal, Error> {
        let cache = &self.core.cache;
        let rehearsed = cache.rehearse(Some(&held.object), lock).await?;
        let reply = match self.present(&held.object).await {
            Ok(reply) => reply,
            Err(e) if !e.is_bad_refresh_token() => return Err(e),
            Err(_) => {
                let lock = rehearsed.into_lock();
                return Ok(match self.sync().await? {
                    Some(other) if !other.object.is_same_token(&held.object) => Renewal::Another(other, lock),
                    _ => Renewal::Dead(lock),
                });
            }
        };
        let settled = self.accept(&reply, TokenOrigin::Renewed, Some(&held.object), rehearsed).await?;
        let Outcome::Done(Renewed { held, .. }) = settled.outcome else {
            return Ok(Renewal::Ended(settled.outcome));
        };
        let Some(access) = held.access().map(|access| access.token.clone()) else {
            let message = "Concur gives no access token to revoke the tokens with; tell SAP Concur's support";
            return Err(Error::new(ErrorKind::Protocol, message));
        };
        let lock = match settled.lock {
            Some(lock) => lock,
            // The renewed token is not saved yet, and nothing is revoked before it is.
            None => self.lock_of_unsaved().await?,
        };
        Ok(Renewal::Access(access, held, lock))
    }

    async fn lock_of_unsaved(&self) -> Result<StoreLock, Error> {
        let lock = self.core.cache.try_lock().await?;
        lock.ok_or_else(|| Error::new(ErrorKind::Store, "another process has taken the lock; try again"))
    }

    /// Nothing is held any longer, and nothing is left to be found.
    async fn empty(&self, revoked: Option<&RefreshTokenObject>, lock: &StoreLock) -> Result<Outcome, Error> {
        let cache = &self.core.cache;
        cache.empty(revoked, lock).await.map_err(|e| {
            let message = format!(
                "all tokens are revoked, but the dead one could not be removed from {}; remove it, or call revoke again",
                cache.describe()
            );
            Error::store(message, e)
        })?;
        Ok(Outcome::SignedOut)
    }
}
