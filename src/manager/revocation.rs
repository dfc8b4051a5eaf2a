//! Signing out: all tokens revoked, the store emptied, nothing held.
//!
//! Always: it is a flight like any other, so no renewal is under way meanwhile, and it comes to its end whatever becomes
//! of its caller. What is revoked is handed out no more, also if the store cannot be emptied.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{
    core::Core,
    flight::{Join, Landed, Landing, Need},
    memory::Held,
    renewal::Flight,
};
use crate::{ConcurCode, Error, ErrorKind, RefreshTokenObject, Status, StoreLock, oauth_client::NotRevoked};

/// A flight with an access token that is refused, one that renews it, one with the new one.
const MOST_FLIGHTS: usize = 3;

/// The refresh token that was revoked last. The store may still hold it.
#[derive(Debug, Default)]
pub(super) struct Revoked(Mutex<Option<RefreshTokenObject>>);

impl Revoked {
    pub(super) fn is(&self, token: &RefreshTokenObject) -> bool {
        self.slot().as_ref().is_some_and(|revoked| revoked.is_same_token(token))
    }

    fn slot(&self) -> MutexGuard<'_, Option<RefreshTokenObject>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Core {
    pub(super) async fn revoke(self: &Arc<Self>) -> Result<(), Error> {
        let mut flights = 0;
        while flights < MOST_FLIGHTS {
            match self.fly(Need::Revoke { again: flights > 0 }, Join::Own).await {
                Some(Landing::SignedOut) => return Ok(()),
                Some(Landing::Failed(e) | Landing::Tried(e) | Landing::Faulty(e)) => return Err(e),
                // Without an access token that is accepted; there may be one now.
                Some(Landing::Done(_)) => flights += 1,
                Some(Landing::Busy) | None => {}
            }
        }
        let message = "Concur gives no access token to revoke the tokens with; tell SAP Concur's support";
        Err(Error::new(ErrorKind::Protocol, message))
    }

    /// One flight of a revocation, under the store's lock.
    pub(super) async fn sign_out(
        self: &Arc<Self>,
        stored: Option<Arc<Held>>,
        again: bool,
        flight: Flight<'_>,
        lock: StoreLock,
    ) -> Result<Landing, Error> {
        let now = self.clock.now();
        // Where somebody else has emptied the store, what is held may still do for revoking.
        let in_memory = || self.memory.held().filter(|held| held.live_access(now).is_some());
        let Some(held) = stored.or_else(in_memory) else {
            self.memory.clear();
            self.store.remove(&lock).await?;
            return Ok(Landing::SignedOut);
        };
        let Some(access) = held.live_access(now) else {
            return self.renew_to_revoke(&held, flight, lock).await;
        };
        match self.client.disconnect(&access, &self.clock).await {
            Ok(()) => self.forget(&held.object, &lock).await,
            Err(NotRevoked { unauthorized: true, .. }) if !again => {
                self.memory.reject(&access);
                Ok(Landing::Done(Landed { held, fresh: false }))
            }
            Err(NotRevoked { error, .. }) => Err(error),
        }
    }

    /// A company request token is not spent for this: who has no token left has nothing to revoke.
    async fn renew_to_revoke(
        self: &Arc<Self>,
        held: &Held,
        flight: Flight<'_>,
        lock: StoreLock,
    ) -> Result<Landing, Error> {
        self.store.rehearse(Some(&held.object), &lock).await?;
        match self.present(&held.object, flight).await {
            Ok(Some((reply, origin))) => self.keep(&reply, origin, Some(&held.object), flight, lock).await,
            Err(e) if e.code() != Some(ConcurCode::BAD_REFRESH_TOKEN) => Err(e),
            Ok(None) | Err(_) => self.forget(&held.object, &lock).await,
        }
    }

    async fn forget(&self, revoked: &RefreshTokenObject, lock: &StoreLock) -> Result<Landing, Error> {
        *self.revoked.slot() = Some(revoked.clone());
        self.memory.clear();
        self.store.remove(lock).await.map_err(|e| {
            let message = format!(
                "all tokens are revoked, but the dead one could not be removed from {}; remove it, or call revoke again",
                self.store.describe()
            );
            Error::store(message, e)
        })?;
        Ok(Landing::SignedOut)
    }

    pub(super) fn is_signed_out(&self) -> bool {
        self.memory.held().is_none() && self.revoked.slot().is_some()
    }

    pub(super) fn status(&self) -> Status {
        let mut status = self.memory.status(self.clock.now());
        status.signed_out = status.source.is_none() && self.is_signed_out();
        status
    }
}
