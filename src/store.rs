//! Where the refresh token object is kept between renewals and processes.

mod delegated;
mod erased;
mod json_file;
mod memory;
#[cfg(test)]
mod postgres;

use std::{
    any::Any,
    fmt,
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

pub(crate) use self::erased::{BoxFuture, DynTokenStore};
pub use self::{delegated::BoxedStore, json_file::JsonFileStore, memory::MemoryStore};
use crate::{Error, RefreshTokenObject};

/// For stores on this machine: a sibling's renewal is seen at once, for little work.
const LONGEST_POLL: Duration = Duration::from_millis(50);

/// Where a [`TokenManager`](crate::TokenManager) keeps its [`RefreshTokenObject`].
///
/// Three methods make a store; [`RefreshTokenObject::to_json`] and [`from_json`](RefreshTokenObject::from_json)
/// turn the value into text and back. A store that several processes share should also implement
/// [`try_lock`](Self::try_lock), or two of them may renew at once. The feature `simulator` has `store_contract` and
/// `shared_store_contract`, which check a store.
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
/// # #[cfg(feature = "simulator")]
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// #     use concur_auth::simulator::{StoreCondition::Working, store_contract};
/// #     let path = std::env::temp_dir().join(format!("concur-auth-plain-{}", std::process::id()));
/// #     store_contract(|it| (it == Working).then(|| Plain(path.clone()))).await.unwrap();
/// # });
/// ```
///
/// # What a renewal calls
///
/// | step | calls |
/// |---|---|
/// | look | [`read`](Self::read) |
/// | lock | [`try_lock`](Self::try_lock), then [`read_locked`](Self::read_locked) |
/// | prove that a reply can be saved | [`rehearse`](Self::rehearse) |
/// | send the grant to Concur | – |
/// | save the reply | [`finish`](Self::finish), and [`remember`](Self::remember)`(None)` if something was remembered |
/// | unlock | [`unlock`](Self::unlock) |
///
/// So a database store can renew with three statements: one for `read`; one that takes the lock, returns what is stored and
/// proves that the database accepts writes, so that `read_locked` and `rehearse` need none; and one in `finish` that saves,
/// forgets and unlocks, so that `remember` and `unlock` need none. No connection has to be held while the grant is sent.
///
/// # What a store may count on
///
/// - A lock is held for four minutes at most, unless a token cannot be saved: then it is held until that token is saved.
/// - A call that has not ended after 10 seconds is dropped at its next `await`, and its outcome is unknown. A save whose
///   outcome is unknown, or that failed, is repeated with the same token, and must then succeed also if it had succeeded
///   before.
/// - A panic counts as an error.
///
/// # Where a store runs
///
/// All calls run inside this crate's tokio runtime, on threads that they may block, so connections that a store opens in
/// them belong to that runtime: they live as long as the process, and a renewal that outlives the program's own runtime
/// can still save. A pool that connects when it is made must be made there too, with [`on_runtime`](crate::on_runtime). A
/// call must not start or enter another runtime. A store that [is local](Self::is_local) is called in place instead.
pub trait TokenStore: fmt::Debug + Send + Sync + 'static {
    /// The token that is stored now; `None` if there is none.
    ///
    /// Called on every [`get_valid_refresh_token`](crate::TokenManager::get_valid_refresh_token), by [`read`](Self::read), so
    /// it should be cheap when nothing has changed.
    ///
    /// # Errors
    ///
    /// [`Error::store`] for everything except "nothing there": a store that cannot be read is not an empty store.
    /// [`Error::transient`] marks an error that may pass by itself.
    fn load(&self) -> impl Future<Output = Result<Option<RefreshTokenObject>, Error>> + Send;

    /// Stores `token`, completely or not at all. Returns once the token would survive a crash.
    ///
    /// # Errors
    ///
    /// [`Error::store`] when it is not certain that the token is stored; [`Error::superseded`] when another process has
    /// stored a newer token since the lock was taken, as after the lock's lease has lapsed: then that token is used, and
    /// this save is not repeated.
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

    /// Takes the store's lock; `None` while another manager or process holds it. Never waits: the manager asks again,
    /// first after 2 ms, then at growing intervals up to [`longest_poll`](Self::longest_poll).
    ///
    /// The lock must become free when [`unlock`](Self::unlock) is called, when the [`StoreLock`] is dropped, and when its
    /// process dies. The default always succeeds, which is right only for a store that one manager uses.
    ///
    /// # Errors
    ///
    /// [`Error::store`] when the store cannot be locked.
    fn try_lock(&self) -> impl Future<Output = Result<Option<StoreLock>, Error>> + Send {
        async { Ok(Some(StoreLock::new(()))) }
    }

    /// Releases the lock. The default drops it.
    ///
    /// A store that needs a statement for that overrides this. [`StoreLock`]s are dropped without it only after a panic.
    /// A failure is the store's to log: a process that waits for the lock must get it in the end, for example when a lease lapses.
    fn unlock(&self, lock: StoreLock) -> impl Future<Output = ()> + Send {
        async move { drop(lock) }
    }

    /// Token and note in one read, without the lock. The default has no note: see [`remember`](Self::remember).
    ///
    /// # Errors
    ///
    /// As [`load`](Self::load).
    fn read(&self) -> impl Future<Output = Result<Stored, Error>> + Send {
        async { Ok(Stored::new(self.load().await?, None)) }
    }

    /// Token and note, read under the lock: at least as new as when the lock was taken. The default is
    /// [`read`](Self::read).
    ///
    /// # Errors
    ///
    /// As [`load`](Self::load).
    fn read_locked(&self, lock: &StoreLock) -> impl Future<Output = Result<Stored, Error>> + Send {
        let _ = lock;
        self.read()
    }

    /// Checks, before a grant is sent, that its reply could be saved. `held` is the token that is stored now.
    ///
    /// The default saves `held` again. A store that finds that another program has replaced `held` since it was read under
    /// the lock may change nothing and return [`Error::superseded`]: then the store is read again.
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

    /// Saves `token` as the last thing under this lock. The default is [`save`](Self::save).
    ///
    /// A store may also forget its note and release the lock in the same step. `remember(None)` and `unlock` are called all
    /// the same, and then have nothing left to do.
    ///
    /// # Errors
    ///
    /// As [`save`](Self::save).
    fn finish(
        &self,
        token: &RefreshTokenObject,
        lock: &StoreLock,
    ) -> impl Future<Output = Result<(), Error>> + Send {
        self.save(token, lock)
    }

    /// Keeps a note for all processes that share the store, in place of the one before: a short text on one line, without
    /// any secret. `None` removes it. It says what Concur refused, so that no process asks again too soon.
    ///
    /// The default keeps nothing: each manager then remembers only its own refusals. [`read`](Self::read) returns the note.
    ///
    /// # Errors
    ///
    /// [`Error::store`] when it is not certain that the note is kept.
    fn remember(
        &self,
        note: Option<&str>,
        lock: &StoreLock,
    ) -> impl Future<Output = Result<(), Error>> + Send {
        let _ = note;
        lock.mark_as_without_notes();
        async { Ok(()) }
    }

    /// The longest pause between two looks of a process that waits for the lock. Default: 50 milliseconds.
    fn longest_poll(&self) -> Duration {
        LONGEST_POLL
    }

    /// Whether a call may run in place, on the task that calls [`TokenManager`](crate::TokenManager), because it opens no
    /// connection and takes no time worth mentioning. Default: `false`.
    ///
    /// This saves a valid token's caller the way to another thread and back.
    fn is_local(&self) -> bool {
        false
    }

    /// The store's name in errors and logs, such as the path of a file; never a secret.
    fn describe(&self) -> String {
        std::any::type_name::<Self>().to_owned()
    }

    /// The same store as a value of one type, whatever its own type is.
    ///
    /// ```
    /// use concur_auth::{BoxedStore, JsonFileStore, MemoryStore, TokenStore};
    ///
    /// fn store(is_test: bool) -> BoxedStore {
    ///     if is_test { MemoryStore::new().boxed() } else { JsonFileStore::new("token.json").boxed() }
    /// }
    /// # store(true);
    /// ```
    fn boxed(self) -> BoxedStore
    where
        Self: Sized,
    {
        BoxedStore(Arc::new(self))
    }
}

/// What a [`TokenStore`] holds: the token, and the note that goes with it.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Stored {
    /// The token, if there is one.
    pub token: Option<RefreshTokenObject>,
    /// What [`TokenStore::remember`] got last.
    pub note: Option<String>,
}

impl Stored {
    /// What a store found.
    #[must_use]
    pub fn new(token: Option<RefreshTokenObject>, note: Option<String>) -> Self {
        Self { token, note }
    }
}

/// Proof that a [`TokenStore`]'s lock is held; dropping it releases the lock.
///
/// It carries a value that the store needs while it is locked: an open file, a lease and the version it was taken at, or
/// `()`.
///
/// ```
/// use concur_auth::StoreLock;
///
/// let lock = StoreLock::new(7_u64);
/// assert_eq!(lock.get::<u64>(), Some(&7));
/// assert_eq!(lock.get::<String>(), None);
/// ```
pub struct StoreLock {
    value: Box<dyn Any + Send + Sync>,
    /// Set by the default [`TokenStore::remember`]: the manager then remembers by itself, and `store_contract` can tell a
    /// store that keeps no notes from a store that loses them.
    has_no_notes: AtomicBool,
}

impl StoreLock {
    /// A lock that carries the store's own value, whose `Drop` releases it.
    pub fn new(value: impl Any + Send + Sync) -> Self {
        Self { value: Box::new(value), has_no_notes: AtomicBool::new(false) }
    }

    /// The store's own value, if it is of this type.
    #[must_use]
    pub fn get<T: Any>(&self) -> Option<&T> {
        self.value.downcast_ref()
    }

    fn mark_as_without_notes(&self) {
        self.has_no_notes.store(true, Ordering::Relaxed);
    }

    pub(crate) fn has_no_notes(&self) -> bool {
        self.has_no_notes.load(Ordering::Relaxed)
    }
}

impl fmt::Debug for StoreLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreLock").finish_non_exhaustive()
    }
}
