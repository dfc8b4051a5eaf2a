//! Not asking again what Concur has refused, since accounts get locked, nor while it asks to be left alone.
//!
//! Always: a refusal is known to all processes on the store before its lock is free, so that those who wait for the
//! lock do not ask again; what a person does expressly is not held up by it.

use super::{core::Core, flight::Need, renewal::Flight};
use crate::{Error, RefreshTokenObject, Refusal, StoreLock, log};

impl Core {
    /// Whether Concur has refused the same thing, or asked to be left alone, too short a time ago to ask again.
    pub(super) async fn check_refusal(
        &self,
        flight: Flight<'_>,
        stored: Option<&RefreshTokenObject>,
    ) -> Result<(), Error> {
        if matches!(flight.need, Need::SignIn(_) | Need::Adopt(_) | Need::Revoke { .. }) {
            return Ok(());
        }
        let now = self.clock.now();
        if let Some(answer) = self.memory.asked_to_wait(now) {
            return Err(answer);
        }
        let holds =
            self.recall().await.and_then(|refusal| refusal.still_holds(flight.credentials, stored, now));
        holds.map_or(Ok(()), Err)
    }

    pub(super) async fn remember(
        &self,
        error: &Error,
        flight: Flight<'_>,
        stored: Option<&RefreshTokenObject>,
        lock: &StoreLock,
    ) {
        // What a person tried expressly says nothing about the credentials.
        if matches!(flight.need, Need::SignIn(_)) {
            return;
        }
        let (before, now) = (self.recall().await, self.clock.now());
        let Some(refusal) = Refusal::of(
            error,
            before.as_ref(),
            flight.credentials,
            stored,
            now,
            &crate::random::Random::System,
        ) else {
            return;
        };
        if let Err(error) = self.store.remember_refusal(Some(&refusal), lock).await {
            log::event!(warn, %error, "other processes will not know of the refusal");
        }
        self.memory.note_refusal(Some(refusal));
    }

    pub(super) async fn forget_refusal(&self, lock: &StoreLock) {
        if self.recall().await.is_some()
            && let Err(error) = self.store.remember_refusal(None, lock).await
        {
            log::event!(warn, %error, "a refusal that no longer holds could not be forgotten");
        }
        self.memory.note_refusal(None);
    }

    /// The store's comes first: another process may have more to tell. Memory serves stores that do not remember.
    async fn recall(&self) -> Option<Refusal> {
        let stored = self.store.recall_refusal().await.unwrap_or_else(|error| {
            log::event!(warn, %error, "whether there was a refusal could not be read");
            None
        });
        stored.or_else(|| self.memory.refusal())
    }
}
