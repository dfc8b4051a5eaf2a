//! The store, which other processes use too, and the program whose cache is tested.

use std::{
    future::{Future, ready},
    pin::Pin,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::{Duration, SystemTime},
};

use shuttle::{future::block_on, thread};

use super::super::{
    super::{
        held::Held,
        identity::Identity,
        locked_store::{LockedStore, Rehearsed, Replaces, Save, Saving},
    },
    Reader, Sync, TokenCache,
};
use crate::{
    Clock, Error, Geolocation, RefreshTokenObject, StoreLock, Stored, TokenOrigin, TokenStore, clock,
    failed_requests::FailedRequests,
    machine::Threads,
    random::Random,
    sync::{Mutex, locked},
};

const MOST_TOKENS: usize = 8;

/// The tokens in the order in which Concur issues them.
static TOKENS: LazyLock<Vec<RefreshTokenObject>> = LazyLock::new(|| {
    let json = |number| {
        format!(
            r#"{{"refresh_token": "{number}", "access_token": "a{number}", "expires_in": 3600, "accessTokenExpiresAt": 5000}}"#
        )
    };
    (0..MOST_TOKENS).map(|number| RefreshTokenObject::from_json(&json(number)).unwrap()).collect()
});

pub(super) fn token(number: usize) -> RefreshTokenObject {
    TOKENS[number].clone()
}

pub(super) fn number_of(token: &RefreshTokenObject) -> usize {
    token.secret().parse().unwrap()
}

/// Time stands still, and a pause takes none.
#[derive(Clone, Copy, Debug)]
struct Noon;

impl Clock for Noon {
    fn now(&self) -> SystemTime {
        clock::from_unix_seconds(1500).unwrap()
    }

    fn sleep(&self, _: Duration) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(ready(()))
    }

    fn monotonic(&self) -> Duration {
        Duration::ZERO
    }
}

/// A process on the store. It may save and give up the lock in one step, as PostgreSQL does.
#[derive(Clone, Debug)]
pub(super) struct Process(Arc<Mutex<Contents>>);

#[derive(Debug, Default)]
struct Contents {
    token: Option<RefreshTokenObject>,
    note: Option<String>,
    /// The newest token that was ever saved.
    saved: usize,
    /// How many times the lock was taken, and whether it is.
    locks: usize,
    is_locked: bool,
    refuses_saves: usize,
    refuses_to_remove: bool,
}

/// Gives up the lock, unless it is another holder's by now.
struct Locked(Process, usize);

impl Drop for Locked {
    fn drop(&mut self) {
        let mut contents = locked(&self.0.0);
        if contents.locks == self.1 {
            contents.is_locked = false;
        }
    }
}

impl Process {
    pub(super) fn with(token: RefreshTokenObject) -> Self {
        let saved = number_of(&token);
        Self(Arc::new(Mutex::new(Contents { token: Some(token), saved, ..Contents::default() })))
    }

    pub(super) fn saved(&self) -> usize {
        locked(&self.0).saved
    }

    pub(super) fn refuses_saves(&self, times: usize) {
        locked(&self.0).refuses_saves = times;
    }

    pub(super) fn refuses_to_remove(&self, refuses: bool) {
        locked(&self.0).refuses_to_remove = refuses;
    }

    fn wait_for_the_lock(&self) -> StoreLock {
        loop {
            if let Some(lock) = block_on(TokenStore::try_lock(self)).unwrap() {
                return lock;
            }
            thread::yield_now();
        }
    }

    /// Another process renews.
    pub(super) fn renew(&self) {
        let lock = self.wait_for_the_lock();
        let next = token(self.saved() + 1);
        block_on(TokenStore::save(self, &next, &lock)).unwrap();
    }

    /// Another process revokes, and cannot remove.
    pub(super) fn note_as_revoked(&self, token: &RefreshTokenObject) {
        let lock = self.wait_for_the_lock();
        let mut noted = FailedRequests::default();
        noted.add_dead(token, true, &Random::seeded(0));
        block_on(TokenStore::remember(self, noted.to_note().as_deref(), &lock)).unwrap();
    }

    fn set(&self, token: &RefreshTokenObject, is_last: bool) -> Result<(), Error> {
        let mut contents = locked(&self.0);
        if let Some(left) = contents.refuses_saves.checked_sub(1) {
            contents.refuses_saves = left;
            return Err(Error::store("no space", "full"));
        }
        contents.saved = contents.saved.max(number_of(token));
        contents.token = Some(token.clone());
        contents.is_locked &= !is_last;
        Ok(())
    }
}

impl TokenStore for Process {
    async fn load(&self) -> Result<Option<RefreshTokenObject>, Error> {
        Ok(locked(&self.0).token.clone())
    }

    async fn read(&self) -> Result<Stored, Error> {
        let contents = locked(&self.0);
        Ok(Stored::new(contents.token.clone(), contents.note.clone()))
    }

    async fn save(&self, token: &RefreshTokenObject, _: &StoreLock) -> Result<(), Error> {
        self.set(token, false)
    }

    async fn finish(&self, token: &RefreshTokenObject, _: Option<&str>, _: &StoreLock) -> Result<(), Error> {
        self.set(token, true)
    }

    async fn rehearse(&self, _: Option<&RefreshTokenObject>, _: &StoreLock) -> Result<(), Error> {
        Ok(())
    }

    async fn remove(&self, _: &StoreLock) -> Result<(), Error> {
        let mut contents = locked(&self.0);
        if contents.refuses_to_remove {
            return Err(Error::store("read only", "read only"));
        }
        contents.token = None;
        Ok(())
    }

    async fn remember(&self, note: Option<&str>, _: &StoreLock) -> Result<(), Error> {
        locked(&self.0).note = note.map(str::to_owned);
        Ok(())
    }

    async fn try_lock(&self) -> Result<Option<StoreLock>, Error> {
        let mut contents = locked(&self.0);
        if contents.is_locked {
            return Ok(None);
        }
        contents.is_locked = true;
        contents.locks += 1;
        Ok(Some(StoreLock::new(Locked(self.clone(), contents.locks))))
    }

    fn is_local(&self) -> bool {
        true
    }
}

/// The program whose cache it is.
#[derive(Clone)]
pub(super) struct Program {
    pub(super) cache: Arc<TokenCache>,
    pub(super) store: Process,
    identity: Arc<Identity>,
    random: Arc<Random>,
    flights: Arc<AtomicU64>,
}

impl Program {
    pub(super) fn new(store: Process) -> Self {
        let locked = LockedStore::new(Arc::new(store.clone()), Arc::new(Threads));
        Self {
            cache: Arc::new(TokenCache::new(locked)),
            store,
            identity: Arc::new(Identity { base: Geolocation::GLZ.parse().unwrap(), principal: None }),
            random: Arc::new(Random::seeded(0)),
            flights: Arc::default(),
        }
    }

    pub(super) fn now(&self) -> SystemTime {
        Noon.now()
    }

    /// The number of the token that is held.
    pub(super) fn held(&self) -> Option<usize> {
        self.cache.held().map(|held| number_of(&held.object))
    }

    /// The number of the token that a caller's look finds.
    pub(super) fn look(&self) -> Option<usize> {
        self.look_as(Reader::Caller)
    }

    fn look_as(&self, reader: Reader) -> Option<usize> {
        let sync = Sync { identity: &self.identity, random: &self.random, now: self.now() };
        block_on(self.cache.sync(&sync, reader)).unwrap().token().map(number_of)
    }

    pub(super) fn save_unsaved(&self) {
        _ = block_on(self.cache.save_unsaved());
    }

    /// Does something in a flight, under the lock.
    pub(super) fn in_flight(&self, act: impl FnOnce(&Flight<'_>)) {
        let number = self.flights.fetch_add(1, SeqCst);
        while !block_on(self.cache.store.try_lock(number, false, &Noon)).unwrap() {
            thread::yield_now();
        }
        act(&Flight(self));
        block_on(self.cache.store.release(number));
    }
}

pub(super) struct Flight<'a>(&'a Program);

impl Flight<'_> {
    pub(super) fn empty(&self, revoked: Option<&RefreshTokenObject>) -> Result<(), Error> {
        block_on(self.0.cache.empty(revoked))
    }

    pub(super) fn sign_in(&self, token: RefreshTokenObject) {
        self.accept(token, TokenOrigin::Obtained, Replaces::Anything);
    }

    pub(super) fn renew(&self) {
        self.0.save_unsaved();
        let stored = self.0.look_as(Reader::Locked).unwrap();
        self.accept(token(stored + 1), TokenOrigin::Renewed, Replaces::Predecessor);
    }

    fn accept(&self, token: RefreshTokenObject, origin: TokenOrigin, replaces: Replaces) {
        let Program { cache, identity, random, .. } = self.0;
        let rehearsed: Rehearsed = block_on(cache.store.rehearse(None)).unwrap();
        let before = cache.held();
        let as_held = |token| Held::new(token, origin, &identity.base, before.as_deref(), random);
        let saving = Saving { save: Save::Last, replaces, note: None };
        block_on(cache.save_and_publish(token, rehearsed, saving, &Noon, as_held));
    }
}
