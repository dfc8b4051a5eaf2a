//! Signing out: all tokens revoked, the store emptied, nothing held.
//!
//! Always: it is a flight like any other, so no renewal is under way meanwhile, and it comes to its end whatever becomes
//! of its caller. What is revoked is handed out no more, also if the store cannot be emptied.

use std::sync::{Arc, Mutex, MutexGuard};

use super::{
    core::Core,
    flight::{Join, Landed, Landing, Need},
    memory::Held,
    renewal::Flight,
};
use crate::{
    Error, ErrorKind, RefreshTokenObject, Status, StoreLock, caught::locked, oauth_client::NotRevoked,
};

/// A flight with an access token that is refused, one that renews it, one with the new one.
const MOST_FLIGHTS: usize = 3;

/// What is known of the last revocation.
#[derive(Debug, Default)]
pub(super) struct Revoked(Mutex<Parted>);

#[derive(Debug, Default)]
struct Parted {
    signed_out: bool,
    /// The refresh token that was revoked. The store may still hold it.
    last: Option<RefreshTokenObject>,
}

impl Revoked {
    pub(super) fn is(&self, token: &RefreshTokenObject) -> bool {
        self.slot().last.as_ref().is_some_and(|revoked| revoked.is_same_token(token))
    }

    fn slot(&self) -> MutexGuard<'_, Parted> {
        locked(&self.0)
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
        if let Some(answer) = self.memory.asked_to_wait(now) {
            return Err(answer);
        }
        // Where somebody else has emptied the store, what is held may still do for revoking.
        let Some(held) = stored.or_else(|| self.memory.held()) else {
            return self.part(None, &lock).await;
        };
        let Some(access) = held.live_access(now) else {
            return self.renew_to_revoke(&held, flight, lock).await;
        };
        match self.client.send_revocation(&access, &self.clock).await {
            Ok(()) => self.part(Some(&held.object), &lock).await,
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
            Err(e) if !e.is_bad_refresh_token() => Err(e),
            Ok(None) | Err(_) => {
                // Another program may have stored another token meanwhile, which is to be revoked, too.
                match self.look(flight.credentials.principal().as_ref(), flight.identity).await? {
                    Some(other) if !other.object.is_same_token(&held.object) => {
                        Ok(Landing::Done(Landed { held: other, fresh: false }))
                    }
                    _ => self.part(Some(&held.object), &lock).await,
                }
            }
        }
    }

    /// Nothing is held any longer, nor to be found again.
    async fn part(&self, revoked: Option<&RefreshTokenObject>, lock: &StoreLock) -> Result<Landing, Error> {
        *self.revoked.slot() = Parted { signed_out: true, last: revoked.cloned() };
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
        self.memory.held().is_none() && self.revoked.slot().signed_out
    }

    /// A token was there, and now there is none: nobody's doing but somebody's who meant it.
    pub(super) fn has_been_emptied(&self) -> bool {
        self.memory.held().is_some() || self.is_signed_out()
    }

    pub(super) fn status(&self) -> Status {
        let mut status = self.memory.status(self.clock.now());
        status.signed_out = status.source.is_none() && self.is_signed_out();
        status
    }
}
