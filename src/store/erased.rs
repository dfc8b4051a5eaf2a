//! The object-safe twin of [`TokenStore`], so that a manager needs no type parameter.
//!
//! Always: a panic in a store is an error of the store.

use std::{
    fmt,
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    time::Duration,
};

use super::{LONGEST_POLL, StoreLock, Stored, TokenStore};
use crate::{Error, ErrorKind, RefreshTokenObject, caught::caught};

pub(crate) type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, Error>> + Send + 'a>>;

type Token = RefreshTokenObject;

pub(crate) trait DynTokenStore: fmt::Debug + Send + Sync {
    fn load(&self) -> BoxFuture<'_, Option<Token>>;
    fn save<'a>(&'a self, token: &'a Token, lock: &'a StoreLock) -> BoxFuture<'a, ()>;
    fn remove<'a>(&'a self, lock: &'a StoreLock) -> BoxFuture<'a, ()>;
    fn try_lock(&self) -> BoxFuture<'_, Option<StoreLock>>;
    fn try_lock_ahead_of_time(&self) -> BoxFuture<'_, Option<StoreLock>>;
    fn prolong<'a>(&'a self, lock: &'a StoreLock) -> BoxFuture<'a, Duration>;
    fn unlock(&self, lock: StoreLock) -> BoxFuture<'_, ()>;
    fn read(&self) -> BoxFuture<'_, Stored>;
    fn read_locked<'a>(&'a self, lock: &'a StoreLock) -> BoxFuture<'a, Stored>;
    fn rehearse<'a>(&'a self, held: Option<&'a Token>, lock: &'a StoreLock) -> BoxFuture<'a, ()>;
    fn finish<'a>(
        &'a self,
        token: &'a Token,
        note: Option<&'a str>,
        lock: &'a StoreLock,
    ) -> BoxFuture<'a, ()>;
    fn replace<'a>(&'a self, token: &'a Token, lock: &'a StoreLock) -> BoxFuture<'a, ()>;
    fn remember<'a>(&'a self, note: Option<&'a str>, lock: &'a StoreLock) -> BoxFuture<'a, ()>;
    fn longest_poll(&self) -> Duration;
    fn reads_by_locking(&self) -> bool;
    fn is_local(&self) -> bool;
    fn describe(&self) -> String;
}

impl<T: TokenStore> DynTokenStore for T {
    fn load(&self) -> BoxFuture<'_, Option<Token>> {
        guarded(self, async move { TokenStore::load(self).await })
    }

    fn save<'a>(&'a self, token: &'a Token, lock: &'a StoreLock) -> BoxFuture<'a, ()> {
        guarded(self, async move { TokenStore::save(self, token, lock).await })
    }

    fn remove<'a>(&'a self, lock: &'a StoreLock) -> BoxFuture<'a, ()> {
        guarded(self, async move { TokenStore::remove(self, lock).await })
    }

    fn try_lock(&self) -> BoxFuture<'_, Option<StoreLock>> {
        guarded(self, async move { TokenStore::try_lock(self).await })
    }

    fn try_lock_ahead_of_time(&self) -> BoxFuture<'_, Option<StoreLock>> {
        guarded(self, async move { TokenStore::try_lock_ahead_of_time(self).await })
    }

    fn prolong<'a>(&'a self, lock: &'a StoreLock) -> BoxFuture<'a, Duration> {
        guarded(self, async move { TokenStore::prolong(self, lock).await })
    }

    fn unlock(&self, lock: StoreLock) -> BoxFuture<'_, ()> {
        guarded(self, async move {
            TokenStore::unlock(self, lock).await;
            Ok(())
        })
    }

    fn read(&self) -> BoxFuture<'_, Stored> {
        guarded(self, async move { TokenStore::read(self).await })
    }

    fn read_locked<'a>(&'a self, lock: &'a StoreLock) -> BoxFuture<'a, Stored> {
        guarded(self, async move { TokenStore::read_locked(self, lock).await })
    }

    fn rehearse<'a>(&'a self, held: Option<&'a Token>, lock: &'a StoreLock) -> BoxFuture<'a, ()> {
        guarded(self, async move { TokenStore::rehearse(self, held, lock).await })
    }

    fn finish<'a>(
        &'a self,
        token: &'a Token,
        note: Option<&'a str>,
        lock: &'a StoreLock,
    ) -> BoxFuture<'a, ()> {
        guarded(self, async move { TokenStore::finish(self, token, note, lock).await })
    }

    fn replace<'a>(&'a self, token: &'a Token, lock: &'a StoreLock) -> BoxFuture<'a, ()> {
        guarded(self, async move { TokenStore::replace(self, token, lock).await })
    }

    fn remember<'a>(&'a self, note: Option<&'a str>, lock: &'a StoreLock) -> BoxFuture<'a, ()> {
        guarded(self, async move { TokenStore::remember(self, note, lock).await })
    }

    fn longest_poll(&self) -> Duration {
        catch_unwind(AssertUnwindSafe(|| TokenStore::longest_poll(self))).unwrap_or(LONGEST_POLL)
    }

    fn reads_by_locking(&self) -> bool {
        catch_unwind(AssertUnwindSafe(|| TokenStore::reads_by_locking(self))).unwrap_or(false)
    }

    fn is_local(&self) -> bool {
        catch_unwind(AssertUnwindSafe(|| TokenStore::is_local(self))).unwrap_or(false)
    }

    fn describe(&self) -> String {
        let described = catch_unwind(AssertUnwindSafe(|| TokenStore::describe(self)));
        described.unwrap_or_else(|_| std::any::type_name::<T>().to_owned())
    }
}

/// The call itself is inside the future, so that a panic in it is caught, too.
fn guarded<'a, T: 'a>(
    store: &'a impl TokenStore,
    call: impl Future<Output = Result<T, Error>> + Send + 'a,
) -> BoxFuture<'a, T> {
    guarded_call(|| DynTokenStore::describe(store), call)
}

/// The same for a store of any kind; `describe` says what it is called.
pub(super) fn guarded_call<'a, T: 'a>(
    describe: impl Fn() -> String + Send + Sync + 'a,
    call: impl Future<Output = Result<T, Error>> + Send + 'a,
) -> BoxFuture<'a, T> {
    Box::pin(caught(call, move || Err(panicked(&describe()))))
}

/// The error where a store of this name panicked.
pub(super) fn panicked(store: &str) -> Error {
    Error::new(ErrorKind::Store, format!("{store} panicked; see the panic's message"))
}
