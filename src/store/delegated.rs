//! Stores that hand every call on: shared, boxed, and with their type erased.

use std::{fmt, sync::Arc, time::Duration};

use super::{StoreLock, Stored, TokenStore, erased::DynTokenStore};
use crate::{Error, RefreshTokenObject};

/// A [`TokenStore`] of any type; [`TokenStore::boxed`] makes it. Clones are the same store.
#[derive(Clone)]
pub struct BoxedStore(pub(super) Arc<dyn DynTokenStore>);

impl BoxedStore {
    pub(crate) fn into_dyn(self) -> Arc<dyn DynTokenStore> {
        self.0
    }
}

impl fmt::Debug for BoxedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// All methods but those that look at what is stored, those that take the lock, and those that change which token is stored: what a wrapper may have
/// something to add to.
macro_rules! delegate_others {
    ($of:ty as $store:path) => {
        async fn prolong(&self, lock: &StoreLock) -> Result<Duration, Error> {
            <$of as $store>::prolong(self.inner(), lock).await
        }

        async fn unlock(&self, lock: StoreLock) {
            let _ = <$of as $store>::unlock(self.inner(), lock).await;
        }

        async fn read_locked(&self, lock: &StoreLock) -> Result<Stored, Error> {
            <$of as $store>::read_locked(self.inner(), lock).await
        }

        async fn rehearse(&self, held: Option<&RefreshTokenObject>, lock: &StoreLock) -> Result<(), Error> {
            <$of as $store>::rehearse(self.inner(), held, lock).await
        }

        async fn remember(&self, note: Option<&str>, lock: &StoreLock) -> Result<(), Error> {
            <$of as $store>::remember(self.inner(), note, lock).await
        }

        fn longest_poll(&self) -> Duration {
            <$of as $store>::longest_poll(self.inner())
        }

        fn reads_by_locking(&self) -> bool {
            <$of as $store>::reads_by_locking(self.inner())
        }

        fn is_local(&self) -> bool {
            <$of as $store>::is_local(self.inner())
        }

        fn describe(&self) -> String {
            <$of as $store>::describe(self.inner())
        }
    };
}

pub(super) use delegate_others;

/// All methods, also the provided ones: otherwise the wrapper's defaults would hide the store's own.
macro_rules! delegate {
    ($of:ty as $store:path) => {
        delegate_others!($of as $store);

        async fn load(&self) -> Result<Option<RefreshTokenObject>, Error> {
            <$of as $store>::load(self.inner()).await
        }

        async fn read(&self) -> Result<Stored, Error> {
            <$of as $store>::read(self.inner()).await
        }

        async fn save(&self, token: &RefreshTokenObject, lock: &StoreLock) -> Result<(), Error> {
            <$of as $store>::save(self.inner(), token, lock).await
        }

        async fn remove(&self, lock: &StoreLock) -> Result<(), Error> {
            <$of as $store>::remove(self.inner(), lock).await
        }

        async fn try_lock(&self) -> Result<Option<StoreLock>, Error> {
            <$of as $store>::try_lock(self.inner()).await
        }

        async fn try_lock_ahead_of_time(&self) -> Result<Option<StoreLock>, Error> {
            <$of as $store>::try_lock_ahead_of_time(self.inner()).await
        }

        async fn finish(
            &self,
            token: &RefreshTokenObject,
            note: Option<&str>,
            lock: &StoreLock,
        ) -> Result<(), Error> {
            <$of as $store>::finish(self.inner(), token, note, lock).await
        }

        async fn replace(&self, token: &RefreshTokenObject, lock: &StoreLock) -> Result<(), Error> {
            <$of as $store>::replace(self.inner(), token, lock).await
        }
    };
}

pub(super) trait Wrapper {
    type Inner: ?Sized;

    fn inner(&self) -> &Self::Inner;
}

impl<S: TokenStore> Wrapper for Arc<S> {
    type Inner = S;

    fn inner(&self) -> &S {
        self
    }
}

impl<S: TokenStore> Wrapper for Box<S> {
    type Inner = S;

    fn inner(&self) -> &S {
        self
    }
}

impl Wrapper for BoxedStore {
    type Inner = dyn DynTokenStore;

    fn inner(&self) -> &Self::Inner {
        &*self.0
    }
}

impl<S: TokenStore> TokenStore for Arc<S> {
    delegate!(S as TokenStore);
}

impl<S: TokenStore> TokenStore for Box<S> {
    delegate!(S as TokenStore);
}

impl TokenStore for BoxedStore {
    delegate!(dyn DynTokenStore as DynTokenStore);
}
