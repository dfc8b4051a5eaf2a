//! Where the refresh token object is kept between renewals and processes.

mod delegated;
mod erased;
mod file_failure;
mod fleet;
mod folder;
mod json_file;
mod lock_wait;
pub(crate) mod member_name;
mod memory;
#[cfg(feature = "postgres")]
mod postgres;
mod renewal_time;

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

#[cfg(all(fuzzing, feature = "postgres"))]
pub(crate) use self::postgres::spool;
#[cfg(feature = "postgres")]
pub use self::postgres::{PostgresFleet, PostgresStore};
pub use self::{
    delegated::BoxedStore,
    fleet::{DueToken, DueTokens, FleetHealth, FleetMember, FleetStore, MemberKind, MemberState},
    folder::FolderFleet,
    json_file::JsonFileStore,
    memory::MemoryStore,
};
pub(crate) use self::{
    erased::{BoxFuture, DynTokenStore},
    fleet::DynFleetStore,
    lock_wait::LockWait,
};
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
/// | save the reply | [`finish`](Self::finish), or [`replace`](Self::replace) after a sign-in; [`remember`](Self::remember) if the note changes |
/// | unlock | [`unlock`](Self::unlock) |
///
/// So a database store can renew with two statements: one that takes the lock, returns what is stored and proves that the
/// database accepts writes, so that `read_locked` and `rehearse` need none; and one in `finish` that saves, replaces the note
/// and unlocks, so that `remember` and `unlock` need none. With [`reads_by_locking`](Self::reads_by_locking) the first look is
/// left out. No connection has to be held while the grant is sent.
///
/// # A lock that lapses
///
/// A lock can be a lease: it ends by itself after a time, wherever its holder may be.
/// [`StoreLock::with_lease`] says so. Then nothing is sent to Concur unless the rest of the lease is long enough for the
/// request and its save; before that, [`prolong`](Self::prolong) is called. A holder that was suspended in between can still
/// come late, so a save must compare what is stored with what was read under the lock, and say [`Error::superseded`].
///
/// # What a store may count on
///
/// - A lock is held for four minutes at most, unless a token cannot be saved: then it is held until that token is saved.
/// - A call that has not ended after 10 seconds is dropped at its next `await`, and its outcome is unknown. A save whose
///   outcome is unknown, or that failed, is repeated with the same token, and must then succeed also if it had succeeded
///   before. A `finish` is repeated by `finish` within the next second, and by [`save`](Self::save) after that.
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
    /// stored a newer token since the store was last read or saved under this lock, as after the lock's lease has lapsed.
    /// Then that token is used, and this save is not repeated.
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
    /// process dies, or, if it is a lease, when that lapses. The default always succeeds, which is right only for a store that one manager uses.
    ///
    /// # Errors
    ///
    /// [`Error::store`] when the store cannot be locked.
    fn try_lock(&self) -> impl Future<Output = Result<Option<StoreLock>, Error>> + Send {
        async { Ok(Some(StoreLock::new(()))) }
    }

    /// The same for a renewal that can wait, because it is made ahead of time. A store may say `None` also while a process
    /// that held the lock may still have a reply to save. The default is [`try_lock`](Self::try_lock).
    ///
    /// # Errors
    ///
    /// As [`try_lock`](Self::try_lock).
    fn try_lock_ahead_of_time(&self) -> impl Future<Output = Result<Option<StoreLock>, Error>> + Send {
        self.try_lock()
    }

    /// Makes the lease of `lock` last longer, if the lock is still held and what is stored is still what was read under it.
    /// Returns how long it lasts from the beginning of this call.
    ///
    /// Called only for a lock [with a lease](StoreLock::with_lease), before a request for which the rest of the lease is too
    /// short. The default is an error.
    ///
    /// # Errors
    ///
    /// [`Error::store`] when the lease could not be prolonged. Then the request is not sent.
    fn prolong(&self, lock: &StoreLock) -> impl Future<Output = Result<Duration, Error>> + Send {
        let _ = lock;
        let message = format!(
            "the lock of {} lapses too soon to send a request, and cannot be prolonged",
            self.describe()
        );
        async { Err(Error::store(message, "TokenStore::prolong is not implemented")) }
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
    /// A store may also replace its note by `note` and release the lock in the same step. If the note changes, `remember(note)`
    /// is called all the same, and then `unlock`; both have nothing left to do then.
    ///
    /// # Errors
    ///
    /// As [`save`](Self::save).
    fn finish(
        &self,
        token: &RefreshTokenObject,
        note: Option<&str>,
        lock: &StoreLock,
    ) -> impl Future<Output = Result<(), Error>> + Send {
        let _ = note;
        self.save(token, lock)
    }

    /// Saves a token that does not come from a renewal: a sign-in, or an adoption. It takes the place of whatever is stored,
    /// but for what another sign-in has stored since. The default is [`save`](Self::save).
    ///
    /// Only a store whose lock lapses has a reason to tell the two apart: a late sign-in is worth more than what another process
    /// has renewed meanwhile.
    ///
    /// # Errors
    ///
    /// As [`save`](Self::save).
    fn replace(
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

    /// Whether [`try_lock`](Self::try_lock) also reads, at no further cost: then the renewal of a token that a manager holds asks
    /// for the lock before it looks. Default: `false`.
    ///
    /// Such a store may say `None` where what is stored is no longer what this handle has read last.
    fn reads_by_locking(&self) -> bool {
        false
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
    lease: Option<Box<Lease>>,
}

/// What a lock that ends by itself says of that.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lease {
    /// From the beginning of the call that took the lock.
    pub(crate) lasts: Duration,
    /// How long a save of an earlier holder is waited for.
    pub(crate) late_save: Duration,
}

impl StoreLock {
    /// A lock that carries the store's own value, whose `Drop` releases it.
    pub fn new(value: impl Any + Send + Sync) -> Self {
        Self { value: Box::new(value), has_no_notes: AtomicBool::new(false), lease: None }
    }

    /// Says that the lock ends by itself: `lasts` counts from the beginning of the call of [`TokenStore::try_lock`].
    ///
    /// Before a request to Concur, 40 seconds of it must be left, 30 for the request and 10 for its save; otherwise
    /// [`TokenStore::prolong`] is called. Choose at least 80 seconds: of a shorter lease, half must be left, and a reply may come
    /// after it has lapsed. Callers wait for a lock for two minutes.
    #[must_use]
    pub fn with_lease(mut self, lasts: Duration) -> Self {
        let late_save = self.lease.map_or(Duration::ZERO, |lease| lease.late_save);
        self.lease = Some(Box::new(Lease { lasts, late_save }));
        self
    }

    /// Says that the lease of the holder before has lapsed, so that this holder may have sent the stored token and not saved
    /// the reply yet. If Concur then refuses the token, the store is read again for `late_save` before the refusal counts.
    #[must_use]
    pub fn in_doubt(mut self, late_save: Duration) -> Self {
        let lasts = self.lease.map_or(Duration::MAX, |lease| lease.lasts);
        self.lease = Some(Box::new(Lease { lasts, late_save }));
        self
    }

    /// The value that a store of this crate has put in; `store` is what it is called.
    pub(crate) fn of_store<T: Any>(&self, store: impl fmt::Display) -> Result<&T, Error> {
        self.get()
            .ok_or_else(|| Error::store(format!("{store} was used with another store's lock"), "wrong lock"))
    }

    pub(crate) fn lease(&self) -> Option<Lease> {
        self.lease.as_deref().copied()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_in_doubt_in_whichever_order_that_is_said() {
        let (lasts, late) = (Duration::from_secs(90), Duration::from_secs(10));
        for lock in [
            StoreLock::new(()).with_lease(lasts).in_doubt(late),
            StoreLock::new(()).in_doubt(late).with_lease(lasts),
        ] {
            let lease = lock.lease().unwrap();
            assert_eq!((lease.lasts, lease.late_save), (lasts, late));
        }
    }
}
