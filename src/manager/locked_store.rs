//! The store, and its lock while it is this manager's.
//!
//! Always: from a token's arrival until it is saved, the token is kept here together with the store's lock, so that neither a
//! full disk nor a panic loses it, and no other process spends the token that it replaced. A store that does not answer
//! holds up no caller for longer than the deadline.

use std::{sync::Arc, time::Duration};

use tokio::sync::{Mutex, oneshot};

use crate::{
    Clock, Error, ErrorKind, RefreshTokenObject, StoreLock, Stored,
    clock::within,
    machine::Executor,
    store::{BoxFuture, DynTokenStore},
};

/// How long a call of a store may take. Real time: a real server is waited for.
const DEADLINE: Duration = Duration::from_secs(10);

/// The pauses between the attempts that a flight makes before it gives up for the time being: about a second.
const PAUSES: [Duration; 4] = [
    Duration::from_millis(50),
    Duration::from_millis(150),
    Duration::from_millis(300),
    Duration::from_millis(500),
];

pub(super) struct LockedStore {
    store: Arc<dyn DynTokenStore>,
    executor: Arc<dyn Executor>,
    ours: Mutex<Option<Ours>>,
}

/// The store's lock, and what is done under it.
struct Ours {
    lock: StoreLock,
    /// A flight is using the lock, so that only this flight may release it.
    in_flight: bool,
    /// To be saved before anything else is done under the lock.
    unsaved: Option<RefreshTokenObject>,
}

/// Whether a save is the last thing that a flight does under the lock: the store may release it then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Save {
    Last,
    More,
}

/// Proof that the store is locked and was found able to save a reply.
pub(super) struct Rehearsed(());

impl LockedStore {
    pub(super) fn new(store: Arc<dyn DynTokenStore>, executor: Arc<dyn Executor>) -> Self {
        Self { store, executor, ours: Mutex::new(None) }
    }

    /// For a caller outside of any flight. What opens connections does so on this crate's runtime, where they live on.
    pub(super) async fn read_for_caller(&self) -> Result<Stored, Error> {
        if self.store.is_local() {
            return self.store.read().await;
        }
        let (store, executor) = (Arc::clone(&self.store), Arc::clone(&self.executor));
        let (told, loaded) = oneshot::channel();
        self.executor.spawn_blocking(Box::pin(async move {
            // Without a deadline of its own a read that stands still would keep what the next one needs.
            if let Some(answer) = within(executor.wait(DEADLINE), store.read()).await {
                let _ = told.send(answer);
            }
        }))?;
        // The read may also block its thread, where no deadline ends it.
        self.call(Box::pin(async { loaded.await.unwrap_or_else(|_| Err(self.no_answer())) })).await
    }

    /// What is stored by now.
    pub(super) async fn load(&self) -> Result<Option<RefreshTokenObject>, Error> {
        self.call(self.store.load()).await
    }

    pub(super) async fn read(&self) -> Result<Stored, Error> {
        self.call(self.store.read()).await
    }

    /// Whether the lock is this flight's now; `false` while another process holds it.
    pub(super) async fn try_lock(&self) -> Result<bool, Error> {
        let mut ours = self.ours.lock().await;
        if ours.is_none() {
            let lock = self.call(self.store.try_lock()).await?;
            *ours = lock.map(|lock| Ours { lock, in_flight: false, unsaved: None });
        }
        if let Some(ours) = ours.as_mut() {
            ours.in_flight = true;
        }
        Ok(ours.is_some())
    }

    /// At the end of a flight. The lock stays with a token that could not be saved.
    pub(super) async fn release(&self) {
        let mut ours = self.ours.lock().await;
        if let Some(ours) = ours.as_mut() {
            ours.in_flight = false;
        }
        let done = take_if_done(&mut ours);
        self.unlock(done).await;
    }

    pub(super) async fn read_locked(&self) -> Result<Stored, Error> {
        let ours = self.ours.lock().await;
        self.call(self.store.read_locked(lock_in(&ours)?)).await
    }

    /// Finds out whether a reply could be saved, before a grant is spent for it.
    pub(super) async fn rehearse(&self, stored: Option<&RefreshTokenObject>) -> Result<Rehearsed, Error> {
        let ours = self.ours.lock().await;
        self.call(self.store.rehearse(stored, lock_in(&ours)?)).await?;
        Ok(Rehearsed(()))
    }

    /// Whether the store keeps the note, for all processes; `false` if it keeps none.
    pub(super) async fn remember(&self, note: Option<&str>) -> Result<bool, Error> {
        let ours = self.ours.lock().await;
        let lock = lock_in(&ours)?;
        self.call(self.store.remember(note, lock)).await?;
        Ok(!lock.has_no_notes())
    }

    pub(super) async fn remove(&self) -> Result<(), Error> {
        let ours = self.ours.lock().await;
        self.call(self.store.remove(lock_in(&ours)?)).await
    }

    /// Saves a token, then calls `publish` with how that went. Nothing else saves the token in between.
    pub(super) async fn save_then<T>(
        &self,
        token: &RefreshTokenObject,
        save: Save,
        clock: &dyn Clock,
        publish: impl FnOnce(&Result<(), Error>) -> T,
    ) -> (T, Result<(), Error>) {
        let mut slot = self.ours.lock().await;
        let saved = match slot.as_mut() {
            Some(ours) => {
                ours.unsaved = Some(token.clone());
                let saved = self.save_within_a_second(token, save, &ours.lock, clock).await;
                if saved.as_ref().map_or_else(Error::is_superseded, |()| true) {
                    ours.unsaved = None;
                }
                saved
            }
            None => Err(not_locked()),
        };
        (publish(&saved), saved)
    }

    /// The attempts end early where the store gives no answer: the next attempt is the background's.
    async fn save_within_a_second(
        &self,
        token: &RefreshTokenObject,
        save: Save,
        lock: &StoreLock,
        clock: &dyn Clock,
    ) -> Result<(), Error> {
        let attempt = || match save {
            Save::Last => self.store.finish(token, lock),
            Save::More => self.store.save(token, lock),
        };
        for pause in PAUSES {
            match self.answer(attempt()).await {
                Some(Err(e)) if !e.is_superseded() => clock.sleep(pause).await,
                Some(answer) => return answer,
                None => return Err(self.no_answer()),
            }
        }
        self.call(attempt()).await
    }

    /// Saves the token that is still unsaved, then calls `publish`; whether there was one. An error that says *superseded* is
    /// the last one: another process has stored a newer token.
    pub(super) async fn save_unsaved(&self, publish: impl FnOnce()) -> Result<bool, Error> {
        let mut slot = self.ours.lock().await;
        let Some(ours) = slot.as_mut() else { return Ok(false) };
        let Some(token) = &ours.unsaved else { return Ok(false) };
        let saved = self.call(self.store.save(token, &ours.lock)).await;
        if saved.as_ref().is_err_and(|e| !e.is_superseded()) {
            return saved.map(|()| true);
        }
        ours.unsaved = None;
        publish();
        let done = take_if_done(&mut slot);
        // Whoever asks whether a token is unsaved need not wait for the end of the lock.
        drop(slot);
        self.unlock(done).await;
        Ok(true)
    }

    pub(super) async fn has_unsaved(&self) -> bool {
        self.ours.lock().await.as_ref().is_some_and(|ours| ours.unsaved.is_some())
    }

    /// Hands in the store's lock for the next flight, or for one that waits for the lock: it begins locked.
    #[cfg(test)]
    pub(super) async fn hand_in(&self, lock: StoreLock) {
        // The lock of an unsaved token stays: it is ours for the next flight, too.
        self.ours.lock().await.get_or_insert(Ours { lock, in_flight: false, unsaved: None });
    }

    /// The longest pause between two looks while another process holds the lock.
    pub(super) fn longest_poll(&self) -> Duration {
        self.store.longest_poll()
    }

    /// What errors and logs call the store.
    pub(super) fn describe(&self) -> String {
        self.store.describe()
    }

    async fn unlock(&self, done: Option<Ours>) {
        if let Some(ours) = done {
            // A store that cannot unlock says so itself, and its lock lapses.
            let _ = self.call(self.store.unlock(ours.lock)).await;
        }
    }

    async fn call<T>(&self, call: BoxFuture<'_, T>) -> Result<T, Error> {
        self.answer(call).await.unwrap_or_else(|| Err(self.no_answer()))
    }

    /// The answer of a call; `None` if it took too long. The calls of a local store end, or block their
    /// thread, which is noticed elsewhere.
    async fn answer<T>(&self, call: BoxFuture<'_, T>) -> Option<Result<T, Error>> {
        if self.store.is_local() {
            Some(call.await)
        } else {
            within(self.executor.wait(DEADLINE), call).await
        }
    }

    fn no_answer(&self) -> Error {
        let message = format!(
            "{} did not answer within {} s; check that its server runs and can be reached",
            self.describe(),
            DEADLINE.as_secs()
        );
        Error::new(ErrorKind::Store, message).transient()
    }
}

fn take_if_done(slot: &mut Option<Ours>) -> Option<Ours> {
    slot.take_if(|ours| !ours.in_flight && ours.unsaved.is_none())
}

fn lock_in(ours: &Option<Ours>) -> Result<&StoreLock, Error> {
    ours.as_ref().map(|ours| &ours.lock).ok_or_else(not_locked)
}

fn not_locked() -> Error {
    Error::new(ErrorKind::Store, "the store was used without its lock; please report this")
}
