//! What a fleet does with the managers of its members, apart from what any caller does.
//!
//! Always: a lock that the fleet has taken is used by a flight or given back.

use std::{sync::Arc, time::Duration};

use tokio::runtime::Handle;

use super::{
    TokenManager,
    keep_alive::{fly_from, is_to_be_renewed, renew_if_due},
    need::{Need, Outcome, Source},
    serving::sign_out,
};
use crate::{Credentials, Error, StoreLock};

/// What became of a token that was due.
#[derive(Debug)]
pub(crate) enum Due {
    /// Concur has issued a new token in this flight.
    Renewed,
    /// Another flight or process was at it, or the member was signed out.
    NotNeeded,
    Failed(Error),
}

impl TokenManager {
    /// Says whose tokens are wanted, which otherwise only the first flight would find out: so a first look at a stored token that
    /// is valid needs no flight.
    pub(crate) fn belonging_to(self, credentials: &Credentials) -> Self {
        // A base URI that cannot be used is the first flight's to tell.
        let _ = self.0.identification.of(credentials);
        self
    }

    /// Renews the stored token, which is due, under this lock, which was asked for at `asked_at` by the monotonic clock. The end
    /// of the `callers`' runtime waits for it.
    pub(crate) async fn renew_due(
        &self,
        lock: StoreLock,
        asked_at: Duration,
        callers: Option<&Handle>,
    ) -> Due {
        self.0.cache.store.hand_in(lock, asked_at).await;
        match fly_from(callers, &self.0, &Need::Due).await {
            Outcome::Done(renewed) | Outcome::WithoutAccess(renewed, _)
                if renewed.source != Source::Found =>
            {
                Due::Renewed
            }
            Outcome::Done(_) | Outcome::WithoutAccess(..) | Outcome::Busy | Outcome::SignedOut => {
                Due::NotNeeded
            }
            Outcome::Failed(e) | Outcome::FailedOnce(e) | Outcome::SavedWithFault(e) => Due::Failed(e),
        }
    }

    /// Empties the store and this manager's memory. Sends nothing.
    pub(crate) async fn forget(&self) -> Result<(), Error> {
        sign_out(&self.0, Need::Forget).await
    }

    /// Gives back the lock of a token that is due, and is not to be renewed.
    pub(crate) async fn decline(&self, lock: StoreLock) {
        self.0.cache.store.decline(lock).await;
    }

    /// Gives back a lock that was handed in for a flight that did not begin.
    pub(crate) async fn give_back(&self) {
        self.0.cache.store.give_back().await;
    }

    /// Whether [`keep_warm`](Self::keep_warm) has something to do now.
    pub(crate) fn is_to_be_kept_warm(&self) -> bool {
        // Locked: a flight is under way.
        let Ok(mut schedule) = self.0.schedule.try_lock() else { return false };
        is_to_be_renewed(&self.0, &mut schedule, self.0.now()).is_some()
    }

    /// Renews the access token ahead of its expiry, as `keep_alive` does once a minute.
    pub(crate) async fn keep_warm(&self, callers: Option<&Handle>) {
        renew_if_due(&self.0, callers).await;
    }

    /// Whether the newest token is in memory only.
    pub(crate) fn is_unsaved(&self) -> bool {
        self.0.cache.held().is_some_and(|held| held.is_unsaved)
    }

    /// Whether anything but the fleet's own list holds this manager: the program, a flight, or a token that is not saved yet.
    pub(crate) fn is_in_use(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{MemoryStore, TokenStore};

    #[tokio::test]
    async fn a_lock_that_was_handed_in_and_that_no_flight_has_taken_is_given_back() {
        let store = MemoryStore::new();
        let credentials = Credentials::new("the app's id", "its secret");
        let manager = TokenManager::builder().credentials(credentials).store(store.clone()).build().unwrap();
        let lock = TokenStore::try_lock(&store).await.unwrap().unwrap();
        manager.0.cache.store.hand_in(lock, Duration::ZERO).await;
        assert!(TokenStore::try_lock(&store).await.unwrap().is_none());
        manager.give_back().await;
        assert!(TokenStore::try_lock(&store).await.unwrap().is_some());
    }
}
