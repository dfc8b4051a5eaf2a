//! Checks what processes that share a store promise each other through it.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use super::{
    Handles, REPEATED, UNLOCKED, breach, is_default,
    locking::{EXCLUDES, SECOND, acquire, acquire_within, begin, lets_one_in, still_held, within},
    removals, repeat, require,
};
use crate::{BoxedStore, Clock as _, Error, RefreshTokenObject, SystemClock, TokenStore};

const LOCKERS: usize = 4;
/// How often each locker takes the lock.
const TURNS: usize = 5;
/// How long a locker holds the lock.
const HELD: Duration = Duration::from_millis(10);
const TURN_COMES: Duration = Duration::from_secs(10);

const ALONE: &str = "never do two handles hold the lock";

type Happening<'a> =
    Box<dyn Fn() -> Pin<Box<dyn Future<Output = Result<(), Error>> + Send + 'a>> + Send + Sync + 'a>;

/// What the author of a store tells [`shared_store_contract`] about the store's lock.
///
/// By default a holder dies as a dropped [`StoreLock`](crate::StoreLock) does, its lock is free within a second, and locks
/// do not lapse.
#[derive(Default)]
pub struct SharedLock<'a> {
    holder_dies: Option<Happening<'a>>,
    free_after: Option<Duration>,
    lapses: Option<Happening<'a>>,
}

impl<'a> SharedLock<'a> {
    /// A lock that is free within a second after its holder has died, and that does not lapse.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// How a holder dies: `dies` takes the lock, as another process does, dies while it holds the lock, and then returns.
    /// For example, it starts a process that takes the lock, and kills that process; or it calls [`std::mem::forget`] on
    /// the [`StoreLock`](crate::StoreLock).
    #[must_use]
    pub fn holder_dies<F>(mut self, dies: impl Fn() -> F + Send + Sync + 'a) -> Self
    where
        F: Future<Output = Result<(), Error>> + Send + 'a,
    {
        self.holder_dies = Some(Box::new(move || Box::pin(dies())));
        self
    }

    /// The lock is free at the latest this long after its holder has died, in real time: the lease, for example. Default:
    /// one second.
    #[must_use]
    pub fn free_after(mut self, time: Duration) -> Self {
        self.free_after = Some(time);
        self
    }

    /// How a lock lapses while its holder lives: once `lapse` has returned, every lock that was taken before has lapsed. For
    /// example, it waits for the end of the lease, or sets the time of the lease back in the database.
    ///
    /// Then a save that comes after another process's save must say [`Error::superseded`].
    #[must_use]
    pub fn lapses<F>(mut self, lapse: impl Fn() -> F + Send + Sync + 'a) -> Self
    where
        F: Future<Output = Result<(), Error>> + Send + 'a,
    {
        self.lapses = Some(Box::new(move || Box::pin(lapse())));
        self
    }
}

impl fmt::Debug for SharedLock<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedLock").field("free_after", &self.free_after).finish_non_exhaustive()
    }
}

/// Checks what a [`TokenStore`] promises to processes that share it, in addition to [`store_contract`](super::store_contract).
///
/// - Four handles on four threads take turns: never two hold the lock, each gets its turns, and each reads under the lock
///   what the holder before it has saved.
/// - A note is read by the other handles while the lock is still held.
/// - A save that is repeated under its lock succeeds, and so does a repeated `finish`.
/// - After `unlock` another handle gets the lock within a second.
/// - After a holder's death the lock is free in time, and the token is there.
/// - Where locks lapse: a lapsed lock is free; a save or `finish` under it, after another holder's save, says
///   [`Error::superseded`] and changes nothing; its `unlock` frees no other holder's lock.
///
/// `open` makes a handle on the store, as another process would open it; `lock` says what becomes of the lock of a holder
/// that dies or is late. The store is empty at first, and afterwards.
///
/// ```
/// use std::time::Duration;
/// use concur_auth::{JsonFileStore, simulator::{SharedLock, shared_store_contract}};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), concur_auth::Error> {
/// # let folder = tempfile::tempdir().unwrap();
/// let path = folder.path().join("token.json");
/// let lock = SharedLock::new().free_after(Duration::from_secs(2));
/// shared_store_contract(|| JsonFileStore::new(&path), lock).await?;
/// # Ok(()) }
/// ```
///
/// # Errors
///
/// [`ErrorKind::Store`](crate::ErrorKind::Store) with a message that names the promise that does not hold; the error of the
/// store, or of the closures in `lock`, where a call failed that should succeed.
pub async fn shared_store_contract<S: TokenStore>(
    open: impl Fn() -> S,
    lock: SharedLock<'_>,
) -> Result<(), Error> {
    let open = || open().boxed();
    let handles = Handles { store: open(), other: open() };
    let Handles { store, other } = &handles;
    excludes(store, other).await?;
    lets_one_in(&[open(), open(), open(), open()]).await?;
    takes_turns(&open).await?;

    let held = acquire(store, UNLOCKED).await?;
    let newest = token(1)?;
    store.save(&newest, &held).await?;
    store.remember(Some("shared"), &held).await?;
    let note = other.read().await?.note;
    let is_read = note.as_deref() == Some("shared") || held.has_no_notes();
    require(is_read, "a note is read by other processes while the lock is held")?;
    store.remember(None, &held).await?;
    for again in [
        store.save(&newest, &held).await,
        store.finish(&newest, None, &held).await,
        store.finish(&newest, None, &held).await,
    ] {
        repeat(again, REPEATED)?;
    }
    store.unlock_in_time(held).await?;
    let held = acquire(other, UNLOCKED).await?;
    other.unlock_in_time(held).await?;

    a_holder_dies(&handles, &lock, &newest).await?;
    if let Some(lapse) = &lock.lapses {
        a_save_comes_late(&handles, lapse).await?;
    }
    let held = acquire(store, UNLOCKED).await?;
    removals(&handles, &held).await?;
    store.unlock_in_time(held).await
}

fn token(number: usize) -> Result<RefreshTokenObject, Error> {
    RefreshTokenObject::from_json(&format!(r#"{{"refresh_token": "r", "number": {number}}}"#))
}

/// The number in a [`token`]; 0 for no token.
fn number_in(token: Option<&RefreshTokenObject>) -> usize {
    let json = token.and_then(|token| token.to_json().parse::<serde_json::Value>().ok());
    json.and_then(|json| json.get("number")?.as_u64()).and_then(|it| it.try_into().ok()).unwrap_or(0)
}

async fn excludes(store: &BoxedStore, other: &BoxedStore) -> Result<(), Error> {
    let held = acquire(store, "while the lock is free, try_lock gives it").await?;
    require(!is_default(&held), "a store that several processes share implements try_lock")?;
    still_held(other, EXCLUDES).await?;
    store.unlock_in_time(held).await
}

/// Each turn adds one to the number in the token: a turn that overlaps with another, or that reads something old, is missing
/// in the end.
async fn takes_turns(open: &impl Fn() -> BoxedStore) -> Result<(), Error> {
    let holders = Arc::new(AtomicUsize::new(0));
    let mut lockers = Vec::new();
    for _ in 0..LOCKERS {
        let (store, holders) = (open(), Arc::clone(&holders));
        lockers.push(begin(async move {
            for _ in 0..TURNS {
                take_turn(&store, &holders).await?;
            }
            Ok(())
        })?);
    }
    for locker in lockers {
        let done = within(TURN_COMES * 6, locker).await?;
        done.unwrap_or_else(|| Err(breach("each holder's calls are answered")))?;
    }
    let counted = number_in(open().load().await?.as_ref());
    require(counted == LOCKERS * TURNS, "read_locked finds what the holder before has saved")
}

async fn take_turn(store: &BoxedStore, holders: &AtomicUsize) -> Result<(), Error> {
    let lock = acquire_within(TURN_COMES, store, "each handle that waits for the lock gets it").await?;
    let alone = holders.fetch_add(1, Ordering::SeqCst) == 0;
    let number = number_in(store.read_locked(&lock).await?.token.as_ref());
    // Long enough for the other lockers to ask for the lock.
    SystemClock.sleep(HELD).await;
    // Before `finish`, which may free the lock.
    holders.fetch_sub(1, Ordering::SeqCst);
    require(alone, ALONE)?;
    let saved = store.finish(&token(number + 1)?, None, &lock).await;
    saved.map_err(|e| if e.is_superseded() { breach(ALONE).caused_by(e) } else { e })?;
    store.unlock_in_time(lock).await
}

async fn a_holder_dies(
    handles: &Handles,
    lock: &SharedLock<'_>,
    stored: &RefreshTokenObject,
) -> Result<(), Error> {
    match &lock.holder_dies {
        Some(dies) => dies().await?,
        None => drop(acquire(&handles.other, UNLOCKED).await?),
    }
    let time = lock.free_after.unwrap_or(SECOND);
    let freed =
        acquire_within(time, &handles.store, "the lock of a holder that has died is free in time").await?;
    handles.hold(Some(stored), Some(&freed), "a holder that dies leaves the token as it was").await?;
    handles.store.unlock_in_time(freed).await
}

/// Its lock has lapsed, and another holder has saved: while that holder still has the lock, and after that.
async fn a_save_comes_late(handles: &Handles, lapse: &Happening<'_>) -> Result<(), Error> {
    let Handles { store, other } = handles;
    for is_held in [true, false] {
        let (late, newer) = (token(100)?, token(200)?);
        let lapsed = acquire(store, UNLOCKED).await?;
        store.save(&token(50)?, &lapsed).await?;
        lapse().await?;
        let held = acquire(other, "a lock that has lapsed is free").await?;
        other.save(&newer, &held).await?;
        let held = if is_held {
            Some(held)
        } else {
            other.unlock_in_time(held).await?;
            None
        };
        for answer in [store.save(&late, &lapsed).await, store.finish(&late, None, &lapsed).await] {
            let promise = "a save that comes after another process's save says Error::superseded";
            handles.hold(Some(&newer), None, "a save that comes late does not replace a newer token").await?;
            require(answer.is_err_and(|e| e.is_superseded()), promise)?;
        }
        store.unlock_in_time(lapsed).await?;
        if let Some(held) = held {
            still_held(store, "unlocking a lapsed lock frees no other holder's lock").await?;
            other.unlock_in_time(held).await?;
        }
    }
    Ok(())
}
