//! Where the refresh token object is kept between renewals and processes.

mod json_file;
mod memory;

use std::{
    any::Any,
    fmt,
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
};

pub use self::{json_file::JsonFileStore, memory::MemoryStore};
use crate::{Error, ErrorKind, RefreshTokenObject, Refusal, caught::caught};

/// Where a [`TokenManager`](crate::TokenManager) keeps its [`RefreshTokenObject`].
///
/// Three methods make a store; [`RefreshTokenObject::to_json`] and [`from_json`](RefreshTokenObject::from_json)
/// turn the value into text and back. A store that several processes share should also implement
/// [`try_lock`](Self::try_lock), or two of them may renew at once.
///
/// A renewal calls the store, and the [`CredentialSource`](crate::CredentialSource), on a thread of its own inside this
/// crate's tokio runtime. Both may block, and may use tokio's timers and sockets. They must not start or enter another
/// runtime, and a connection that belongs to another runtime ends with that runtime. `load` is also called on the task
/// that calls [`get_valid_refresh_token`](crate::TokenManager::get_valid_refresh_token). A panic counts as an error.
///
/// ```
/// use std::{fs, io::ErrorKind};
/// use concur_auth::{Error, RefreshTokenObject, StoreLock, TokenStore};
///
/// /// Keeps the token in a plain file.
/// #[derive(Debug)]
/// struct Plain(std::path::PathBuf);
///
/// impl TokenStore for Plain {
///     async fn load(&self) -> Result<Option<RefreshTokenObject>, Error> {
///         match fs::read_to_string(&self.0) {
///             Ok(json) => RefreshTokenObject::from_json(&json).map(Some),
///             Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
///             Err(e) => Err(Error::store("could not read the token", e)),
///         }
///     }
///     async fn save(&self, token: &RefreshTokenObject, _: &StoreLock) -> Result<(), Error> {
///         fs::write(&self.0, token.to_json()).map_err(|e| Error::store("could not save the token", e))
///     }
///     async fn remove(&self, _: &StoreLock) -> Result<(), Error> {
///         match fs::remove_file(&self.0) {
///             Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
///             done => done.map_err(|e| Error::store("could not remove the token", e)),
///         }
///     }
/// }
/// # let _ = concur_auth::TokenManager::builder().store(Plain("token".into()));
/// ```
pub trait TokenStore: fmt::Debug + Send + Sync + 'static {
    /// The token that is stored now; `None` if there is none.
    ///
    /// Called on every [`get_valid_refresh_token`](crate::TokenManager::get_valid_refresh_token), so it should
    /// be cheap when nothing has changed.
    ///
    /// # Errors
    ///
    /// [`Error::store`] for everything except "nothing there": a store that cannot be read is not an empty store.
    fn load(&self) -> impl Future<Output = Result<Option<RefreshTokenObject>, Error>> + Send;

    /// Stores `token`, completely or not at all. Returns once the token would survive a crash.
    ///
    /// # Errors
    ///
    /// [`Error::store`] when it is not certain that the token is stored.
    fn save(
        &self,
        token: &RefreshTokenObject,
        lock: &StoreLock,
    ) -> impl Future<Output = Result<(), Error>> + Send;

    /// Empties the store; an empty store is a success.
    ///
    /// # Errors
    ///
    /// [`Error::store`] when it is not certain that nothing is stored.
    fn remove(&self, lock: &StoreLock) -> impl Future<Output = Result<(), Error>> + Send;

    /// Takes the store's lock; `None` while another manager or process holds it. Never waits: the manager asks again.
    ///
    /// The lock is released when the [`StoreLock`] is dropped, and when its process dies. The default always succeeds,
    /// which is right only for a store that one manager uses.
    ///
    /// # Errors
    ///
    /// [`Error::store`] when the store can never be locked.
    fn try_lock(&self) -> impl Future<Output = Result<Option<StoreLock>, Error>> + Send {
        async { Ok(Some(StoreLock::new(()))) }
    }

    /// Checks, before a grant is sent, that its reply could be saved. `held` is the token that is stored now.
    ///
    /// The default saves `held` again.
    ///
    /// # Errors
    ///
    /// [`Error::store`] when a save would fail; nothing is sent to Concur then.
    fn rehearse(
        &self,
        held: Option<&RefreshTokenObject>,
        lock: &StoreLock,
    ) -> impl Future<Output = Result<(), Error>> + Send {
        async move {
            match held {
                Some(token) => self.save(token, lock).await,
                None => Ok(()),
            }
        }
    }

    /// The refusal that [`remember_refusal`](Self::remember_refusal) got last, if any. Called without the lock.
    ///
    /// The default remembers nothing: each manager then remembers only its own refusals.
    ///
    /// # Errors
    ///
    /// [`Error::store`] when the store cannot be read.
    fn recall_refusal(&self) -> impl Future<Output = Result<Option<Refusal>, Error>> + Send {
        async { Ok(None) }
    }

    /// Remembers that Concur refused, so that no process asks again too soon; `None` removes the memory.
    ///
    /// # Errors
    ///
    /// [`Error::store`] when it is not certain that the refusal is stored.
    fn remember_refusal(
        &self,
        refusal: Option<&Refusal>,
        lock: &StoreLock,
    ) -> impl Future<Output = Result<(), Error>> + Send {
        let _ = (refusal, lock);
        async { Ok(()) }
    }

    /// The store's name in errors and logs, such as the path of a file; never a secret.
    fn describe(&self) -> String {
        std::any::type_name::<Self>().to_owned()
    }
}

/// Proof that a [`TokenStore`]'s lock is held; dropping it releases the lock.
///
/// It carries a value that the store needs while it is locked: an open file, a fencing number, or `()`.
///
/// ```
/// use concur_auth::StoreLock;
///
/// let lock = StoreLock::new(7_u64);
/// assert_eq!(lock.get::<u64>(), Some(&7));
/// assert_eq!(lock.get::<String>(), None);
/// ```
pub struct StoreLock(Box<dyn Any + Send + Sync>);

impl StoreLock {
    /// A lock that carries the store's own value, whose `Drop` releases it.
    pub fn new(value: impl Any + Send + Sync) -> Self {
        Self(Box::new(value))
    }

    /// The store's own value, if it is of this type.
    #[must_use]
    pub fn get<T: Any>(&self) -> Option<&T> {
        self.0.downcast_ref()
    }
}

impl fmt::Debug for StoreLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreLock").finish_non_exhaustive()
    }
}

type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, Error>> + Send + 'a>>;

/// The object-safe twin, so that a manager needs no type parameter.
pub(crate) trait DynTokenStore: fmt::Debug + Send + Sync {
    fn load(&self) -> BoxFuture<'_, Option<RefreshTokenObject>>;
    fn save<'a>(&'a self, token: &'a RefreshTokenObject, lock: &'a StoreLock) -> BoxFuture<'a, ()>;
    fn remove<'a>(&'a self, lock: &'a StoreLock) -> BoxFuture<'a, ()>;
    fn try_lock(&self) -> BoxFuture<'_, Option<StoreLock>>;
    fn rehearse<'a>(&'a self, held: Option<&'a RefreshTokenObject>, lock: &'a StoreLock)
    -> BoxFuture<'a, ()>;
    fn recall_refusal(&self) -> BoxFuture<'_, Option<Refusal>>;
    fn remember_refusal<'a>(&'a self, refusal: Option<&'a Refusal>, lock: &'a StoreLock)
    -> BoxFuture<'a, ()>;
    fn describe(&self) -> String;
}

impl<T: TokenStore> DynTokenStore for T {
    fn load(&self) -> BoxFuture<'_, Option<RefreshTokenObject>> {
        guarded(self, async move { TokenStore::load(self).await })
    }

    fn save<'a>(&'a self, token: &'a RefreshTokenObject, lock: &'a StoreLock) -> BoxFuture<'a, ()> {
        guarded(self, async move { TokenStore::save(self, token, lock).await })
    }

    fn remove<'a>(&'a self, lock: &'a StoreLock) -> BoxFuture<'a, ()> {
        guarded(self, async move { TokenStore::remove(self, lock).await })
    }

    fn try_lock(&self) -> BoxFuture<'_, Option<StoreLock>> {
        guarded(self, async move { TokenStore::try_lock(self).await })
    }

    fn rehearse<'a>(
        &'a self,
        held: Option<&'a RefreshTokenObject>,
        lock: &'a StoreLock,
    ) -> BoxFuture<'a, ()> {
        guarded(self, async move { TokenStore::rehearse(self, held, lock).await })
    }

    fn recall_refusal(&self) -> BoxFuture<'_, Option<Refusal>> {
        guarded(self, async move { TokenStore::recall_refusal(self).await })
    }

    fn remember_refusal<'a>(
        &'a self,
        refusal: Option<&'a Refusal>,
        lock: &'a StoreLock,
    ) -> BoxFuture<'a, ()> {
        guarded(self, async move { TokenStore::remember_refusal(self, refusal, lock).await })
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
    Box::pin(caught(call, || {
        let message = format!("{} panicked; see the panic's message", DynTokenStore::describe(store));
        Err(Error::new(ErrorKind::Store, message))
    }))
}
