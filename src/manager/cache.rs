//! The token in memory, in front of the store.
//!
//! Always: only what is stored, was saved first, or is kept with the store's lock until it can be saved, is published. A look at
//! the store publishes nothing if this manager has saved or removed a token meanwhile: so a sign-out has the last word, and what
//! is held does not become older. The warm path reads one atomic pointer.

use std::{
    sync::{Arc, atomic::Ordering},
    time::SystemTime,
};

use super::{
    changes::{Began, Changes, Since},
    held::Held,
    identity::Identity,
    locked_store::{LockedStore, Rehearsed, Saving, UnsavedToken},
};
use crate::{
    AccessToken, Clock, Error, RefreshTokenObject, Status, Stored, TokenOrigin, clock,
    failed_requests::FailedRequests,
    log,
    principal::Principal,
    random::Random,
    sync::{ArcSwapOption, AtomicU64, Mutex, MutexGuard, locked},
};

pub(super) struct TokenCache {
    pub(super) store: LockedStore,
    held: ArcSwapOption<Held>,
    /// Locked while a look publishes what it has read, so that no sign-out comes in between.
    signed_out: Mutex<SignedOut>,
    changes: Changes,
    /// Why callers cannot see what is stored.
    look_failed: Mutex<Option<Error>>,
    /// When the store was last read, in Unix seconds; 0 before the first time.
    read_at: AtomicU64,
}

/// What is known of the last sign-out, and of what else is held no more.
#[derive(Default)]
struct SignedOut {
    /// This manager revoked all tokens, or was told to forget its token.
    is_done: bool,
    /// The refresh token that was revoked. The store may still hold it.
    last: Option<RefreshTokenObject>,
    /// What was held turned out to count no more, for another process had revoked, replaced or removed it.
    has_dropped: bool,
    /// The last token that another process had replaced or removed before it was saved. It may live at Concur.
    superseded: Option<Arc<Held>>,
}

/// What was known when a look began.
struct Before {
    held: Option<Arc<Held>>,
    began: Began,
}

/// What a flight found in the store.
pub(super) struct Looked {
    pub(super) held: Option<Arc<Held>>,
    /// What the store keeps of them, if that was read.
    pub(super) failed: Option<FailedRequests>,
}

impl Looked {
    /// What is held comes before what is stored, as long as it is newer.
    fn unsaved(held: Option<Arc<Held>>) -> Self {
        Self { held, failed: None }
    }

    pub(super) fn token(&self) -> Option<&RefreshTokenObject> {
        self.held.as_deref().map(|held| &held.object)
    }
}

/// What a look at the store goes by.
pub(super) struct Sync<'a> {
    pub(super) identity: &'a Identity,
    pub(super) random: &'a Random,
    pub(super) now: SystemTime,
}

/// Who looks at the store.
#[derive(Clone, Copy, Debug)]
pub(super) enum Reader {
    /// On a caller's task, outside of any flight.
    Caller,
    /// On a thread that the store may block.
    Flight,
    /// The same, under the store's lock.
    Locked,
}

/// What became of a token that was to be saved.
pub(super) enum Saved {
    /// It is held, and may be used. With an error it is in memory only, and its lock is kept.
    Held(Arc<Held>, Option<Error>),
    /// Another process has stored a newer one, which counts.
    Superseded,
}

impl TokenCache {
    pub(super) fn new(store: LockedStore) -> Self {
        Self {
            store,
            held: ArcSwapOption::empty(),
            signed_out: Mutex::default(),
            changes: Changes::default(),
            look_failed: Mutex::default(),
            read_at: AtomicU64::new(0),
        }
    }

    /// The warm path: one pointer read, one comparison, one reference count.
    #[inline]
    pub(super) fn fresh_access(&self, now: SystemTime) -> Option<AccessToken> {
        let held = self.held.load();
        let access = held.as_ref()?.access()?;
        access.window.is_fresh(now).then(|| access.token.clone())
    }

    pub(super) fn held(&self) -> Option<Arc<Held>> {
        self.held.load_full()
    }

    /// No longer hands out this access token, which an API refused, or not for long.
    pub(super) fn refuse(&self, token: &AccessToken, now: SystemTime) {
        self.change(|held| held.refusing(token, now));
    }

    /// After the credentials have named their principal.
    pub(super) fn keep_access_of(&self, principal: Option<&Principal>) {
        let is_foreign = |held: &Held| principal.is_some_and(|principal| !principal.may_own(&held.object));
        if self.held.load().as_deref().is_some_and(is_foreign) {
            self.change(|held| is_foreign(held).then(|| held.clone().without_access()));
        }
    }

    /// Has `keep_alive` renew the held token from this moment on.
    pub(super) fn renew_from(&self, moment: SystemTime) {
        self.change(|held| Some(held.clone().renewed_from(moment)));
    }

    /// The held access token has expired, although the time of day does not say so.
    pub(super) fn end_access(&self, now: SystemTime) {
        self.change(|held| Some(held.clone().ended(now)));
    }

    /// What is stored, with what the store remembers; the token also becomes what is held. A token that could not be saved yet
    /// comes before both.
    pub(super) async fn sync(&self, sync: &Sync<'_>, reader: Reader) -> Result<Looked, Error> {
        loop {
            let began = self.changes.look_begins();
            let before = Before { began, held: self.held() };
            if let Some(held) = before.held.as_ref().filter(|held| held.is_unsaved) {
                self.check_owner(&held.object, sync)?;
                return Ok(Looked::unsaved(before.held));
            }
            let stored = match reader {
                Reader::Caller => self.store.read_for_caller().await?,
                Reader::Flight => self.store.read().await?,
                Reader::Locked => self.store.read_locked().await?,
            };
            if let Some(looked) = self.take_over(stored, before, sync)? {
                return Ok(looked);
            }
        }
    }

    /// Makes what was read what is held; `None` if that has changed since `before` the read, and what was read may be older.
    fn take_over(&self, stored: Stored, before: Before, sync: &Sync<'_>) -> Result<Option<Looked>, Error> {
        let failed = FailedRequests::from_note(stored.note.as_deref());
        self.read_at.store(clock::unix_seconds(sync.now), Ordering::Relaxed);
        let nothing = |failed| Ok(Some(Looked { held: None, failed: Some(failed) }));
        let Some(object) = stored.token else {
            return nothing(failed);
        };
        // With nothing held, a revoked token in the store is what a revocation failed to remove. With something held,
        // the manager has been signed in since, and what is stored was stored after that.
        if before.held.is_none() && self.is_revoked(&object) {
            return nothing(failed);
        }
        // Another process revoked it, or this one before a restart, and could not remove it. A look that does not know of that
        // may have read it, too.
        if failed.is_revoked(&object) {
            let mut signed_out = self.signed_out();
            let _change = self.changes.begin();
            let was_held = |held: &Arc<Held>| before.held.as_ref().is_some_and(|it| Arc::ptr_eq(it, held));
            let is_gone = |held: &Arc<Held>| was_held(held) || held.object.is_same_token(&object);
            self.drop_held(&mut signed_out, is_gone);
            return nothing(failed);
        }
        self.check_owner(&object, sync)?;
        // Without its access token it was another principal's, as far as the credentials said then.
        let is_whole = |held: &Held| held.access().is_some() || object.access().is_none();
        let is_known = |held: &&Arc<Held>| held.object.is_same_reply(&object) && is_whole(held);
        let held = before.held.as_ref().filter(is_known).map(Arc::clone).unwrap_or_else(|| {
            let base = &sync.identity.base;
            let origin = TokenOrigin::Stored;
            Arc::new(Held::new(object.clone(), origin, base, before.held.as_deref(), sync.random))
        });
        Ok(self.publish_after(&before, held).map(|held| Looked { held: Some(held), failed: Some(failed) }))
    }

    fn check_owner(&self, token: &RefreshTokenObject, sync: &Sync<'_>) -> Result<(), Error> {
        let place = || format!("the token in {}", self.store.describe());
        sync.identity.principal.as_ref().map_or(Ok(()), |principal| principal.check(token, place))
    }

    /// Saves the token that is still unsaved, if there is one. Where another process has stored a newer one, nothing is held until
    /// the next look.
    pub(super) async fn save_unsaved(&self) -> Result<UnsavedToken, Error> {
        let publish = |unsaved| match unsaved {
            // A look that is under way has found it unsaved, and read nothing.
            UnsavedToken::Superseded => {
                let mut signed_out = self.signed_out();
                signed_out.superseded = self.drop_held(&mut signed_out, |held| held.is_unsaved);
            }
            UnsavedToken::Saved | UnsavedToken::None => self.change(|held| Some(held.clone().unsaved(false))),
        };
        let unsaved = self.store.save_unsaved(publish).await?;
        match unsaved {
            UnsavedToken::None => {}
            UnsavedToken::Saved => {
                log::event!(info, store = self.store.describe(), "the newest refresh token is saved now");
            }
            UnsavedToken::Superseded => {
                log::event!(warn, store = self.store.describe(), "another process has stored a newer token");
            }
        }
        Ok(unsaved)
    }

    /// Saves a token that is newer than the stored one, then publishes what `as_held` makes of it.
    pub(super) async fn save_and_publish(
        &self,
        token: RefreshTokenObject,
        _: Rehearsed,
        saving: Saving<'_>,
        clock: &dyn Clock,
        as_held: impl FnOnce(RefreshTokenObject) -> Held,
    ) -> Saved {
        // Another process may replace the token as soon as it is saved, and a look may read that one before this one is published.
        let _change = self.changes.begin();
        let publish = |saved: &Result<(), Error>| match saved {
            Err(e) if e.is_superseded() => None,
            _ => Some(self.publish(as_held(token.clone()).unsaved(saved.is_err()))),
        };
        match self.store.save_then(&token, saving, clock, publish).await {
            (Some(held), saved) => Saved::Held(held, saved.err()),
            (None, _) => Saved::Superseded,
        }
    }

    /// Nothing is held any longer, and nothing is left in the store. What is revoked is not handed out again, even if the store
    /// cannot be emptied.
    pub(super) async fn empty(&self, revoked: Option<&RefreshTokenObject>) -> Result<(), Error> {
        let _change = {
            let mut signed_out = self.signed_out();
            signed_out.is_done = true;
            signed_out.superseded = None;
            // Of a second revocation there is no token, and the first one's may still be in the store.
            signed_out.last = revoked.cloned().or(signed_out.last.take());
            let change = self.changes.begin();
            self.held.store(None);
            change
        };
        self.store.remove().await
    }

    /// What may do for revoking where nothing is stored.
    pub(super) fn for_revoking(&self) -> Option<Arc<Held>> {
        self.held().or_else(|| self.signed_out().superseded.clone())
    }

    /// Whether this manager revoked or forgot its tokens and holds none since.
    pub(super) fn is_signed_out(&self) -> bool {
        self.held.load().is_none() && self.signed_out().is_done
    }

    /// Whether there was a token. If the store is empty now, it was emptied on purpose.
    pub(super) fn had_token(&self) -> bool {
        let signed_out = self.signed_out();
        signed_out.is_done || signed_out.has_dropped || self.held.load().is_some()
    }

    fn is_revoked(&self, token: &RefreshTokenObject) -> bool {
        self.signed_out().last.as_ref().is_some_and(|revoked| revoked.is_same_token(token))
    }

    /// After a look outside of any flight.
    pub(super) fn look_ended(&self, error: Option<&Error>) {
        *locked(&self.look_failed) = error.cloned();
    }

    /// The error of the last look, if it failed.
    pub(super) fn look_failed(&self) -> Option<Error> {
        locked(&self.look_failed).clone()
    }

    pub(super) fn report(&self, status: &mut Status, now: SystemTime) {
        let read_at = Some(self.read_at.load(Ordering::Relaxed)).filter(|seconds| *seconds > 0);
        status.as_of = read_at.and_then(clock::from_unix_seconds).map(clock::public_time);
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
    fn publish_after(&self, before: &Before, held: Arc<Held>) -> Option<Arc<Held>> {
        let _no_sign_out = self.signed_out();
        match self.changes.since(before.began) {
            Since::Nothing => {
                let found = self.held.compare_and_swap(&before.held, Some(Arc::clone(&held)));
                same(found.as_ref(), before.held.as_ref()).then_some(held)
            }
            // What will be held is the change's business. To read again until it has ended could take seconds.
            Since::UnderWay => Some(held),
            Since::Changed => None,
        }
    }

    /// Holds nothing any longer, if what is held is what `is_gone`; what that was.
    fn drop_held(
        &self,
        signed_out: &mut SignedOut,
        is_gone: impl Fn(&Arc<Held>) -> bool,
    ) -> Option<Arc<Held>> {
        let before = self.held.rcu(|held| held.clone().filter(|held| !is_gone(held)));
        let dropped = before.filter(is_gone)?;
        (signed_out.is_done, signed_out.has_dropped) = (false, true);
        Some(dropped)
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

/// Whether both are the same value, or nothing.
pub(super) fn same(one: Option<&Arc<Held>>, other: Option<&Arc<Held>>) -> bool {
    one.map(Arc::as_ptr) == other.map(Arc::as_ptr)
}

#[cfg(test)]
mod schedules;
