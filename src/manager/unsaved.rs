//! From the reply to the disk: a token that is newer than the stored one.
//!
//! Always: from its arrival until it is saved it is kept here together with the store's lock, so that neither a full
//! disk nor a panic loses it and no sibling spends the token that it replaced.

use std::{sync::Arc, time::Duration};

use tokio::sync::Mutex;

use super::{core::Core, memory::Held, renewal::Flight};
use crate::{Error, RefreshTokenObject, StoreLock, TokenOrigin, log, runtime};

/// The pauses between the attempts that a flight makes before it gives up for the time being: about a second.
const PAUSES: [Duration; 4] = [
    Duration::from_millis(50),
    Duration::from_millis(150),
    Duration::from_millis(300),
    Duration::from_millis(500),
];
/// Afterwards, in the background, for as long as the process lives.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

#[derive(Debug, Default)]
pub(super) struct Unsaved(Mutex<Option<Kept>>);

#[derive(Debug)]
struct Kept {
    object: RefreshTokenObject,
    lock: StoreLock,
}

impl Core {
    /// Saves and publishes a token that is newer than the stored one.
    pub(super) async fn hold(
        self: &Arc<Self>,
        object: RefreshTokenObject,
        origin: TokenOrigin,
        flight: Flight<'_>,
        lock: StoreLock,
    ) -> Arc<Held> {
        // Ours until it is published, so that nobody saves it in between.
        let mut unsaved = self.unsaved.0.lock().await;
        let kept = unsaved.insert(Kept { object, lock });
        let saved = self.save_within_a_second(kept).await;
        // Whatever an API refused before: this is what Concur hands out now.
        let mut held = Held::new(kept.object.clone(), origin, &flight.identity.base, None);
        held.unsaved = saved.is_err();
        let principal = flight.credentials.principal();
        if principal.is_some_and(|principal| principal.check(&held.object, String::new).is_err()) {
            held.access = None;
        }
        let held = self.memory.publish(held);
        match saved {
            Ok(()) => {
                if let Some(Kept { lock, .. }) = unsaved.take() {
                    self.forget_refusal(&lock).await;
                }
            }
            Err(error) => {
                drop(unsaved);
                let core = Arc::clone(self);
                if let Ok(ours) = runtime::handle() {
                    ours.spawn(async move { core.keep_saving().await });
                }
                log::event!(
                    error,
                    store = self.store.describe(),
                    %error,
                    "the newest refresh token is in memory only, and saving it is being retried"
                );
            }
        }
        held
    }

    async fn save_within_a_second(&self, kept: &Kept) -> Result<(), Error> {
        for pause in PAUSES {
            if self.store.save(&kept.object, &kept.lock).await.is_ok() {
                return Ok(());
            }
            self.clock.sleep(pause).await;
        }
        self.store.save(&kept.object, &kept.lock).await
    }

    async fn keep_saving(self: Arc<Self>) {
        let mut pause = FIRST_PAUSE;
        loop {
            self.clock.sleep(pause).await;
            if self.save_in_background().await.is_ok() {
                return;
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Saves a token left unsaved on a thread that a slow disk may block, and without being cancelled.
    pub(super) async fn save_in_background(self: &Arc<Self>) -> Result<(), Error> {
        if self.unsaved.0.lock().await.is_none() {
            return Ok(());
        }
        let (core, ours) = (Arc::clone(self), runtime::handle()?);
        let saved = ours.spawn_blocking(move || ours.block_on(core.save_what_is_unsaved()).map(drop)).await;
        saved.map_err(|e| Error::store("the save did not come to its end; please report this", e))?
    }

    /// Saves a token left unsaved, if there is one. The lock comes back for whoever wants to go on under it.
    pub(super) async fn save_what_is_unsaved(&self) -> Result<Option<StoreLock>, Error> {
        let mut unsaved = self.unsaved.0.lock().await;
        let Some(kept) = unsaved.as_ref() else {
            return Ok(None);
        };
        self.store.save(&kept.object, &kept.lock).await?;
        self.memory.mark_saved();
        let lock = unsaved.take().map(|kept| kept.lock);
        self.announce();
        log::event!(info, store = self.store.describe(), "the newest refresh token is saved now");
        Ok(lock)
    }
}
