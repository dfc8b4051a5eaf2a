//! A token that the disk would not take.
//!
//! Always: it is handed out from memory, and the store's lock is kept until it is saved, so that no sibling
//! spends the token that it replaced.

use std::{sync::Arc, time::Duration};

use tokio::sync::Mutex;

use super::core::Core;
use crate::{Error, RefreshTokenObject, StoreLock, runtime};

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
    /// Saves a token that has replaced the stored one, if that can be done within a second.
    pub(super) async fn save(&self, object: &RefreshTokenObject, lock: &StoreLock) -> bool {
        let mut pauses = PAUSES.iter();
        loop {
            let Err(error) = self.store.save(object, lock).await else { return true };
            let Some(pause) = pauses.next() else {
                tracing::error!(
                    store = self.store.describe(),
                    %error,
                    "the newest refresh token is in memory only, and saving it is being retried"
                );
                return false;
            };
            self.clock.sleep(*pause).await;
        }
    }

    /// Goes on saving in the background. What is held must say already that it is unsaved.
    pub(super) async fn keep_unsaved(self: &Arc<Self>, object: RefreshTokenObject, lock: StoreLock) {
        *self.unsaved.0.lock().await = Some(Kept { object, lock });
        let core = Arc::clone(self);
        if let Ok(ours) = runtime::handle() {
            ours.spawn(async move { core.keep_saving().await });
        }
    }

    async fn keep_saving(&self) {
        let mut pause = FIRST_PAUSE;
        loop {
            self.clock.sleep(pause).await;
            if self.save_what_is_unsaved().await.is_ok() {
                return;
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Saves a token left unsaved, if there is one. The lock comes back for whoever wants to go on under it.
    pub(super) async fn save_what_is_unsaved(&self) -> Result<Option<StoreLock>, Error> {
        let mut unsaved = self.unsaved.0.lock().await;
        let Some(kept) = unsaved.as_ref() else {
            return Ok(None);
        };
        self.store.save(&kept.object, &kept.lock).await?;
        self.memory.mark_saved();
        self.announce();
        tracing::info!(store = self.store.describe(), "the newest refresh token is saved now");
        Ok(unsaved.take().map(|kept| kept.lock))
    }
}
