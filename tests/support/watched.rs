//! A store in memory that lets a test know of every call, and interfere.

use std::{fmt, future::Future, pin::Pin, sync::Arc, time::Duration};

use concur_auth::{Error, MemoryStore, RefreshTokenObject, StoreLock, TokenStore};

/// What is being asked of the store; nothing has happened yet, unless its name says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    Load,
    Loaded,
    /// Followed by `Save`.
    Replace,
    Save,
    Remove,
    /// Followed by `TryLock`.
    TryLockAheadOfTime,
    TryLock,
    Rehearse,
}

type Answer = Pin<Box<dyn Future<Output = Result<(), Error>> + Send>>;

/// Clones share everything; `inner` is the way past whoever watches. It remembers no refusals.
#[derive(Clone)]
pub struct Watched {
    pub inner: MemoryStore,
    watch: Arc<dyn Fn(Call) -> Answer + Send + Sync>,
    lease: Option<Duration>,
}

impl Watched {
    /// `watch` may fail a call, or panic in it.
    pub fn new(watch: impl Fn(Call) -> Result<(), Error> + Send + Sync + 'static) -> Self {
        Self::slowly(move |call| {
            let answer = watch(call);
            async { answer }
        })
    }

    /// `watch` may also take its time.
    pub fn slowly<F>(watch: impl Fn(Call) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<(), Error>> + Send + 'static,
    {
        Self { inner: MemoryStore::new(), watch: Arc::new(move |call| Box::pin(watch(call))), lease: None }
    }

    /// Its lock is a lease that lasts so long.
    pub fn leased(self, lasts: Duration) -> Self {
        Self { lease: Some(lasts), ..self }
    }
}

impl TokenStore for Watched {
    async fn load(&self) -> Result<Option<RefreshTokenObject>, Error> {
        (self.watch)(Call::Load).await?;
        let loaded = self.inner.load().await;
        (self.watch)(Call::Loaded).await?;
        loaded
    }

    async fn save(&self, token: &RefreshTokenObject, lock: &StoreLock) -> Result<(), Error> {
        (self.watch)(Call::Save).await?;
        self.inner.save(token, lock).await
    }

    async fn replace(&self, token: &RefreshTokenObject, lock: &StoreLock) -> Result<(), Error> {
        (self.watch)(Call::Replace).await?;
        self.save(token, lock).await
    }

    async fn remove(&self, lock: &StoreLock) -> Result<(), Error> {
        (self.watch)(Call::Remove).await?;
        self.inner.remove(lock).await
    }

    async fn try_lock(&self) -> Result<Option<StoreLock>, Error> {
        (self.watch)(Call::TryLock).await?;
        let lock = self.inner.try_lock().await?;
        Ok(lock.map(|lock| match self.lease {
            Some(lasts) => lock.with_lease(lasts),
            None => lock,
        }))
    }

    async fn try_lock_ahead_of_time(&self) -> Result<Option<StoreLock>, Error> {
        (self.watch)(Call::TryLockAheadOfTime).await?;
        self.try_lock().await
    }

    async fn rehearse(&self, _: Option<&RefreshTokenObject>, _: &StoreLock) -> Result<(), Error> {
        (self.watch)(Call::Rehearse).await
    }
}

impl fmt::Debug for Watched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Watched")
    }
}
