//! A store that fails when a test asks for it.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use crate::{Error, RefreshTokenObject, StoreLock, Stored, TokenStore, caught::locked};

/// A call of a [`FlakyStore`] that a test can make fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StoreCall {
    /// [`load`](TokenStore::load), [`read`](TokenStore::read), [`read_locked`](TokenStore::read_locked).
    Read,
    /// [`try_lock`](TokenStore::try_lock), [`try_lock_ahead_of_time`](TokenStore::try_lock_ahead_of_time).
    Lock,
    /// [`rehearse`](TokenStore::rehearse).
    Rehearse,
    /// [`save`](TokenStore::save), [`finish`](TokenStore::finish), [`replace`](TokenStore::replace).
    Save,
    /// [`remember`](TokenStore::remember).
    Remember,
    /// [`remove`](TokenStore::remove).
    Remove,
}

/// Another store, some of whose calls fail: what does your program do when the disk is full, or the database gone? Clones share the
/// failures to come.
///
/// ```
/// use concur_auth::{
///     ErrorKind, MemoryStore, TokenManager,
///     simulator::{ConcurSimulator, FlakyStore, StoreCall},
/// };
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), concur_auth::Error> {
/// let concur = ConcurSimulator::start().await;
/// let store = FlakyStore::new(MemoryStore::new());
/// let tokens =
///     TokenManager::builder().credentials(concur.credentials()).store(store.clone()).build()?;
///
/// store.fail_next(1, StoreCall::Lock);
/// assert_eq!(tokens.access_token().await.unwrap_err().kind(), ErrorKind::Store);
/// assert_eq!(concur.token_requests(), 0, "nothing is sent for a token that could not be saved");
/// tokens.access_token().await?;
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct FlakyStore<S> {
    inner: Arc<S>,
    failures: Arc<Mutex<HashMap<StoreCall, usize>>>,
}

impl<S> Clone for FlakyStore<S> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner), failures: Arc::clone(&self.failures) }
    }
}

impl<S: TokenStore> FlakyStore<S> {
    /// A store that does what `store` does.
    pub fn new(store: S) -> Self {
        Self { inner: Arc::new(store), failures: Arc::default() }
    }

    /// The next `n` of these calls fail, with an error of a store. They have no effect.
    pub fn fail_next(&self, n: usize, call: StoreCall) {
        locked(&self.failures).insert(call, n);
    }

    /// All of these calls fail, until [`recover`](Self::recover).
    pub fn fail(&self, call: StoreCall) {
        self.fail_next(usize::MAX, call);
    }

    /// No call fails any more.
    pub fn recover(&self) {
        locked(&self.failures).clear();
    }

    fn passes(&self, call: StoreCall) -> Result<(), Error> {
        let mut failures = locked(&self.failures);
        match failures.get_mut(&call) {
            Some(left) if *left > 0 => {
                *left -= 1;
                let message = format!("{} fails, because the test wants it to", self.inner.describe());
                Err(Error::store(message, format!("FlakyStore: {call:?}")))
            }
            _ => Ok(()),
        }
    }
}

impl<S: TokenStore> TokenStore for FlakyStore<S> {
    async fn load(&self) -> Result<Option<RefreshTokenObject>, Error> {
        self.passes(StoreCall::Read)?;
        self.inner.load().await
    }

    async fn save(&self, token: &RefreshTokenObject, lock: &StoreLock) -> Result<(), Error> {
        self.passes(StoreCall::Save)?;
        self.inner.save(token, lock).await
    }

    async fn remove(&self, lock: &StoreLock) -> Result<(), Error> {
        self.passes(StoreCall::Remove)?;
        self.inner.remove(lock).await
    }

    async fn try_lock(&self) -> Result<Option<StoreLock>, Error> {
        self.passes(StoreCall::Lock)?;
        self.inner.try_lock().await
    }

    async fn try_lock_ahead_of_time(&self) -> Result<Option<StoreLock>, Error> {
        self.passes(StoreCall::Lock)?;
        self.inner.try_lock_ahead_of_time().await
    }

    async fn prolong(&self, lock: &StoreLock) -> Result<Duration, Error> {
        self.inner.prolong(lock).await
    }

    async fn unlock(&self, lock: StoreLock) {
        self.inner.unlock(lock).await;
    }

    async fn read(&self) -> Result<Stored, Error> {
        self.passes(StoreCall::Read)?;
        self.inner.read().await
    }

    async fn read_locked(&self, lock: &StoreLock) -> Result<Stored, Error> {
        self.passes(StoreCall::Read)?;
        self.inner.read_locked(lock).await
    }

    async fn rehearse(&self, held: Option<&RefreshTokenObject>, lock: &StoreLock) -> Result<(), Error> {
        self.passes(StoreCall::Rehearse)?;
        self.inner.rehearse(held, lock).await
    }

    async fn finish(
        &self,
        token: &RefreshTokenObject,
        note: Option<&str>,
        lock: &StoreLock,
    ) -> Result<(), Error> {
        self.passes(StoreCall::Save)?;
        self.inner.finish(token, note, lock).await
    }

    async fn replace(&self, token: &RefreshTokenObject, lock: &StoreLock) -> Result<(), Error> {
        self.passes(StoreCall::Save)?;
        self.inner.replace(token, lock).await
    }

    async fn remember(&self, note: Option<&str>, lock: &StoreLock) -> Result<(), Error> {
        self.passes(StoreCall::Remember)?;
        self.inner.remember(note, lock).await
    }

    fn longest_poll(&self) -> Duration {
        self.inner.longest_poll()
    }

    fn reads_by_locking(&self) -> bool {
        self.inner.reads_by_locking()
    }

    fn is_local(&self) -> bool {
        self.inner.is_local()
    }

    fn describe(&self) -> String {
        self.inner.describe()
    }
}
