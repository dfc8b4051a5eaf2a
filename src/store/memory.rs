//! A store that lasts as long as its process.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, Ordering},
};

use crate::{Error, RefreshTokenObject, StoreLock, Stored, TokenStore, caught::locked};

/// Keeps the token in memory: for tests, and for programs that get their token from another system.
///
/// Clones share one token and one lock, as managers on one file do.
///
/// ```
/// use concur_auth::{MemoryStore, RefreshTokenObject, TokenManager};
///
/// let token = RefreshTokenObject::from_json(r#"{"refresh_token": "kept elsewhere"}"#)?;
/// let tokens = TokenManager::builder().store(MemoryStore::with(token)).build()?;
/// # Ok::<(), concur_auth::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct MemoryStore {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    token: Mutex<Option<RefreshTokenObject>>,
    note: Mutex<Option<String>>,
    locked: AtomicBool,
}

impl MemoryStore {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A store that holds `token`.
    #[must_use]
    pub fn with(token: RefreshTokenObject) -> Self {
        let store = Self::new();
        store.set(Some(token));
        store
    }

    fn set(&self, token: Option<RefreshTokenObject>) {
        *locked(&self.shared.token) = token;
    }
}

/// Releases the lock when dropped.
struct Locked(Arc<Shared>);

impl Drop for Locked {
    fn drop(&mut self) {
        self.0.locked.store(false, Ordering::Release);
    }
}

impl TokenStore for MemoryStore {
    async fn load(&self) -> Result<Option<RefreshTokenObject>, Error> {
        Ok(locked(&self.shared.token).clone())
    }

    async fn save(&self, token: &RefreshTokenObject, _: &StoreLock) -> Result<(), Error> {
        self.set(Some(token.clone()));
        Ok(())
    }

    async fn remove(&self, _: &StoreLock) -> Result<(), Error> {
        self.set(None);
        Ok(())
    }

    async fn try_lock(&self) -> Result<Option<StoreLock>, Error> {
        let was_locked = self.shared.locked.swap(true, Ordering::Acquire);
        Ok((!was_locked).then(|| StoreLock::new(Locked(Arc::clone(&self.shared)))))
    }

    async fn read(&self) -> Result<Stored, Error> {
        let note = locked(&self.shared.note).clone();
        Ok(Stored::new(self.load().await?, note))
    }

    async fn remember(&self, note: Option<&str>, _: &StoreLock) -> Result<(), Error> {
        *locked(&self.shared.note) = note.map(str::to_owned);
        Ok(())
    }

    fn is_local(&self) -> bool {
        true
    }

    fn describe(&self) -> String {
        "the memory store".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_it_is_waited_for_and_errors_call_it_by_its_name() {
        let store = MemoryStore::new();
        assert!(store.is_local());
        assert_eq!(store.describe(), "the memory store");
    }
}
