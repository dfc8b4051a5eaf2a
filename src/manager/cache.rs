//! The token in memory, and the store behind it.
//!
//! Always: only what is stored, or was saved first, is published. A token that could not be saved yet is kept here
//! together with the store's lock, so that neither a full disk nor a panic loses it, and no other process spends the token
//! that it replaced. The warm path reads one atomic pointer.

use std::{
    ptr,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwapOption;
use tokio::sync;

use super::{held::Held, identity::Identity};
use crate::{
    AccessToken, Clock, Error, RefreshTokenObject, Refusal, Status, StoreLock, TokenOrigin, caught::locked,
    log, principal::Principal, random::Random, store::DynTokenStore,
};

/// The pauses between the attempts that a flight makes before it gives up for the time being: about a second.
const PAUSES: [Duration; 4] = [
    Duration::from_millis(50),
    Duration::from_millis(150),
    Duration::from_millis(300),
    Duration::from_millis(500),
];

pub(super) struct TokenCache {
    store: Box<dyn DynTokenStore>,
    held: ArcSwapOption<Held>,
    kept_lock: sync::Mutex<Option<KeptLock>>,
    signed_out: Mutex<SignedOut>,
}

/// The store's lock while no flight has it.
struct KeptLock {
    lock: StoreLock,
    /// To be saved before anything else is done under the lock.
    unsaved: Option<RefreshTokenObject>,
}

/// What is known of the last revocation.
#[derive(Default)]
struct SignedOut {
    /// This manager revoked all tokens.
    revoked: bool,
    /// The refresh token that was revoked. The store may still hold it.
    last: Option<RefreshTokenObject>,
}

/// Proof that the store is locked and was found able to save a reply.
pub(super) struct Rehearsed(StoreLock);

impl Rehearsed {
    pub(super) fn lock(&self) -> &StoreLock {
        &self.0
    }

    pub(super) fn into_lock(self) -> StoreLock {
        self.0
    }
}

/// What became of a token that was to be saved. It is held and may be used either way.
pub(super) struct Saved {
    pub(super) held: Arc<Held>,
    /// The lock comes back, unless the token could not be saved: then the lock is kept with the token.
    pub(super) lock: Option<StoreLock>,
    /// Why the token is in memory only.
    pub(super) failure: Option<Error>,
}

impl TokenCache {
    pub(super) fn new(store: Box<dyn DynTokenStore>) -> Self {
        Self {
            store,
            held: ArcSwapOption::empty(),
            kept_lock: sync::Mutex::new(None),
            signed_out: Mutex::default(),
        }
    }

    /// The warm path: one pointer read, one comparison, one reference count.
    pub(super) fn fresh_access(&self, now: SystemTime) -> Option<AccessToken> {
        let held = self.held.load();
        let access = held.as_ref()?.access()?;
        access.window.is_fresh(now).then(|| access.token.clone())
    }

    pub(super) fn held(&self) -> Option<Arc<Held>> {
        self.held.load_full()
    }

    /// No longer hands out this access token, which an API refused.
    pub(super) fn reject(&self, token: &AccessToken) {
        self.change(|held| held.rejecting(token));
    }

    /// Has `keep_alive` renew the held token from this moment on.
    pub(super) fn renew_from(&self, moment: SystemTime) {
        self.change(|held| Some(held.clone().renewed_from(moment)));
    }

    /// What is stored, which also becomes what is held; a token that could not be saved yet comes before both.
    pub(super) async fn sync_from_store(
        &self,
        principal: Option<&Principal>,
        identity: &Identity,
        random: &Random,
    ) -> Result<Option<Arc<Held>>, Error> {
        loop {
            let before = self.held();
            if before.as_ref().is_some_and(|held| held.is_unsaved) {
                return Ok(before);
            }
            let Some(object) = self.store.load().await? else {
                return Ok(None);
            };
            // With nothing held, a revoked token in the store is what a revocation failed to remove. With something held,
            // the manager has been signed in since, and what is stored was stored after that.
            if before.is_none() && self.is_revoked(&object) {
                return Ok(None);
            }
            if let Some(principal) = principal {
                principal.check(&object, || format!("the token in {}", self.describe()))?;
            }
            if before.as_ref().is_some_and(|held| held.object.is_same_reply(&object)) {
                return Ok(before);
            }
            let held = Held::new(object, TokenOrigin::Stored, &identity.base, before.as_deref(), random);
            if let Some(held) = self.publish_after(&before, held) {
                return Ok(Some(held));
            }
            // What is held has changed meanwhile, and what was read may be older than that.
        }
    }

    /// What is stored, without making it what is held.
    pub(super) async fn stored(&self) -> Result<Option<RefreshTokenObject>, Error> {
        self.store.load().await
    }

    /// The store's lock, or `None` while another process holds it. A token that is still unsaved is saved first.
    pub(super) async fn try_lock(&self) -> Result<Option<StoreLock>, Error> {
        match self.take_kept_lock().await? {
            Some(lock) => Ok(Some(lock)),
            None => self.store.try_lock().await,
        }
    }

    /// Saves the token that is still unsaved, if there is one, and frees its lock.
    pub(super) async fn save_unsaved(&self) -> Result<(), Error> {
        self.take_kept_lock().await.map(drop)
    }

    pub(super) async fn has_unsaved(&self) -> bool {
        self.kept_lock.lock().await.as_ref().is_some_and(|kept| kept.unsaved.is_some())
    }

    /// Hands in the store's lock for the next flight, or for one that waits for the lock: it begins locked.
    #[cfg(test)]
    pub(super) async fn hand_in(&self, lock: StoreLock) {
        *self.kept_lock.lock().await = Some(KeptLock { lock, unsaved: None });
    }

    async fn take_kept_lock(&self) -> Result<Option<StoreLock>, Error> {
        let mut kept = self.kept_lock.lock().await;
        if let Some(KeptLock { lock, unsaved: Some(token) }) = kept.as_ref() {
            self.store.save(token, lock).await?;
            self.change(|held| Some(held.clone().unsaved(false)));
            log::event!(info, store = self.describe(), "the newest refresh token is saved now");
        }
        Ok(kept.take().map(|kept| kept.lock))
    }

    /// Finds out whether a reply could be saved, before a grant is spent for it.
    pub(super) async fn rehearse(
        &self,
        stored: Option<&RefreshTokenObject>,
        lock: StoreLock,
    ) -> Result<Rehearsed, Error> {
        self.store.rehearse(stored, &lock).await?;
        Ok(Rehearsed(lock))
    }

    /// Saves a token that is newer than the stored one, then publishes what `as_held` makes of it.
    pub(super) async fn save_and_publish(
        &self,
        token: RefreshTokenObject,
        rehearsed: Rehearsed,
        clock: &dyn Clock,
        as_held: impl FnOnce(RefreshTokenObject) -> Held,
    ) -> Saved {
        // Kept until the token is published, so that nothing saves it in between, and a panic leaves it to be saved.
        let mut kept = self.kept_lock.lock().await;
        let KeptLock { lock, .. } = kept.insert(KeptLock { lock: rehearsed.0, unsaved: Some(token.clone()) });
        let failure = self.save_within_a_second(&token, lock, clock).await.err();
        let held = self.publish(as_held(token).unsaved(failure.is_some()));
        let lock = if failure.is_none() { kept.take().map(|kept| kept.lock) } else { None };
        Saved { held, lock, failure }
    }

    async fn save_within_a_second(
        &self,
        token: &RefreshTokenObject,
        lock: &StoreLock,
        clock: &dyn Clock,
    ) -> Result<(), Error> {
        for pause in PAUSES {
            if self.store.save(token, lock).await.is_ok() {
                return Ok(());
            }
            clock.sleep(pause).await;
        }
        self.store.save(token, lock).await
    }

    /// After a revocation: nothing is held any longer, and nothing is left in the store. What is revoked is not handed out
    /// again, even if the store cannot be emptied.
    pub(super) async fn empty(
        &self,
        revoked: Option<&RefreshTokenObject>,
        lock: &StoreLock,
    ) -> Result<(), Error> {
        *self.signed_out() = SignedOut { revoked: true, last: revoked.cloned() };
        self.held.store(None);
        self.store.remove(lock).await
    }

    /// Whether this manager revoked its tokens and holds none since.
    pub(super) fn is_signed_out(&self) -> bool {
        self.held.load().is_none() && self.signed_out().revoked
    }

    /// Whether there was a token. If the store is empty now, it was emptied on purpose.
    pub(super) fn had_token(&self) -> bool {
        self.held.load().is_some() || self.is_signed_out()
    }

    fn is_revoked(&self, token: &RefreshTokenObject) -> bool {
        self.signed_out().last.as_ref().is_some_and(|revoked| revoked.is_same_token(token))
    }

    /// The refusal that the store remembers. A store that cannot tell is no reason not to renew.
    pub(super) async fn recall_refusal(&self) -> Option<Refusal> {
        self.store.recall_refusal().await.unwrap_or_else(|error| {
            log::event!(warn, %error, "whether there was a refusal could not be read");
            None
        })
    }

    pub(super) async fn remember_refusal(
        &self,
        refusal: Option<&Refusal>,
        lock: &StoreLock,
    ) -> Result<(), Error> {
        self.store.remember_refusal(refusal, lock).await
    }

    /// What errors and logs call the store.
    pub(super) fn describe(&self) -> String {
        self.store.describe()
    }

    pub(super) fn report(&self, status: &mut Status, now: SystemTime) {
        match self.held() {
            Some(held) => held.report(status, now),
            None => status.signed_out = self.is_signed_out(),
        }
    }

    fn publish(&self, held: Held) -> Arc<Held> {
        let held = Arc::new(held);
        self.held.store(Some(Arc::clone(&held)));
        held
    }

    /// Publishes what was read from the store; `None` if what is held is no longer what it was `before` the read.
    fn publish_after(&self, before: &Option<Arc<Held>>, held: Held) -> Option<Arc<Held>> {
        let held = Arc::new(held);
        let found = self.held.compare_and_swap(before, Some(Arc::clone(&held)));
        let as_pointer = |held: Option<&Arc<Held>>| held.map_or(ptr::null(), Arc::as_ptr);
        (as_pointer(found.as_ref()) == as_pointer(before.as_ref())).then_some(held)
    }

    fn change(&self, change: impl Fn(&Held) -> Option<Held>) {
        self.held.rcu(|held| {
            let held = held.as_ref()?;
            Some(change(held).map_or_else(|| Arc::clone(held), Arc::new))
        });
    }

    fn signed_out(&self) -> MutexGuard<'_, SignedOut> {
        locked(&self.signed_out)
    }
}
