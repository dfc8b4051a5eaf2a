//! Checks that any store does what a manager relies on.
//!
//! Always: what is broken is named as the promise that [`TokenStore`]'s documentation makes; a store that answers late is
//! waited for, and a store that never answers fails the check instead of stopping it.

mod locking;
mod shared;

use serde_json::Value;

use self::locking::{acquire, answers_while_held, lets_one_in, still_held};
pub use self::shared::{SharedLock, shared_store_contract};
use crate::{BoxedStore, Error, ErrorKind, RefreshTokenObject, StoreLock, TokenStore};

/// The condition of the store that [`store_contract`] asks its factory for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StoreCondition {
    /// Another handle on the same store, as another process would open it. The store is empty at first.
    Working,
    /// A store that can be neither read nor written, for example because its server is gone. The factory gives `None`
    /// if its store cannot break, such as a store in memory; then errors are not checked.
    Broken,
}

/// Checks a [`TokenStore`] against what every store promises.
///
/// - Token: none at first, saved with unknown members, replaced, removed; `load`, `read` and `read_locked` agree; `finish`
///   is a save; a save or a removal that is repeated under the same lock succeeds; a rehearsal changes nothing.
/// - Note: kept until it is replaced or removed, and the token stays; a save may drop the note, and makes none up. A store
///   with the default [`remember`](TokenStore::remember) keeps no note.
/// - Lock: `try_lock` answers within a second; of four handles that ask at once, one gets the lock, in many rounds, on one
///   thread and on several; `unlock` and dropping the lock free it, within a second; what a manager calls after `finish` is
///   harmless. A store with the default [`try_lock`](TokenStore::try_lock) excludes no other handle.
/// - Errors of a broken store surface.
///
/// `factory` makes a handle on the store in the given condition. The store is empty afterwards. Stores that several
/// processes share should also pass [`shared_store_contract`].
///
/// ```
/// use concur_auth::{MemoryStore, simulator::{StoreCondition, store_contract}};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), concur_auth::Error> {
/// let store = MemoryStore::new();
/// store_contract(|condition| (condition == StoreCondition::Working).then(|| store.clone())).await?;
/// # Ok(()) }
/// ```
///
/// # Errors
///
/// [`ErrorKind::Store`] with a message that names the promise that does not hold; the store's own error where a call
/// failed that should succeed.
pub async fn store_contract<S: TokenStore>(
    factory: impl Fn(StoreCondition) -> Option<S>,
) -> Result<(), Error> {
    let working = || {
        let store = factory(StoreCondition::Working).map(TokenStore::boxed);
        store.ok_or_else(|| breach("the factory has no working store"))
    };
    let handles = Handles { store: working()?, other: working()? };
    let (long, short) = tokens()?;
    handles.hold(None, None, "an empty store loads None").await?;

    let lock = acquire(&handles.store, "while the lock is free, try_lock gives it").await?;
    let excludes = !is_default(&lock);
    answers_while_held(&handles.other, excludes).await?;
    tokens_are_kept(&handles, &lock, &long, &short).await?;
    notes_are_kept(&handles, &lock, &long, &short).await?;
    removals(&handles, &lock).await?;
    drop(lock);
    let lock = acquire(&handles.other, "a dropped lock is free again").await?;
    handles.other.unlock_in_time(lock).await?;

    finish_is_the_last_save(&handles, &long, &short).await?;
    if excludes {
        lets_one_in(&[working()?, working()?, working()?, working()?]).await?;
    }
    let lock = acquire(&handles.store, UNLOCKED).await?;
    handles.store.remember(None, &lock).await?;
    removals(&handles, &lock).await?;
    handles.store.unlock_in_time(lock).await?;
    match factory(StoreCondition::Broken) {
        Some(broken) => errors_surface(&broken, &long).await,
        None => Ok(()),
    }
}

const UNLOCKED: &str = "a second after unlock the lock is free";
const REPEATED: &str = "a save that is repeated with the same token under the same lock succeeds";

/// Two handles on one store. `store` takes the locks.
struct Handles {
    store: BoxedStore,
    other: BoxedStore,
}

impl Handles {
    /// Both handles find `expected`, however they read; otherwise `promise` is broken.
    async fn hold(
        &self,
        expected: Option<&RefreshTokenObject>,
        lock: Option<&StoreLock>,
        promise: &str,
    ) -> Result<(), Error> {
        for store in [&self.other, &self.store] {
            require(is_same(store.load().await?.as_ref(), expected), promise)?;
            require(is_same(store.read().await?.token.as_ref(), expected), "read finds what load finds")?;
        }
        if let Some(lock) = lock {
            let locked = self.store.read_locked(lock).await?.token;
            require(is_same(locked.as_ref(), expected), "read_locked finds what load finds")?;
        }
        Ok(())
    }

    /// What both handles read as the note.
    async fn note(&self, lock: &StoreLock) -> Result<Option<String>, Error> {
        let note = self.other.read().await?.note;
        require(
            self.store.read_locked(lock).await?.note == note,
            "read_locked finds the note that read finds",
        )?;
        Ok(note)
    }
}

async fn tokens_are_kept(
    handles: &Handles,
    lock: &StoreLock,
    long: &RefreshTokenObject,
    short: &RefreshTokenObject,
) -> Result<(), Error> {
    let (store, locked) = (&handles.store, Some(lock));
    repeat(store.remove(lock).await, "removing from an empty store succeeds")?;
    store.rehearse(None, lock).await?;
    let empty = "removing from an empty store and rehearsing without a token leave it empty";
    handles.hold(None, locked, empty).await?;

    store.save(long, lock).await?;
    handles.hold(Some(long), locked, "a saved token is loaded, including unknown members").await?;
    store.save(short, lock).await?;
    handles.hold(Some(short), locked, "a saved token replaces the whole token before it").await?;
    store.rehearse(Some(short), lock).await?;
    handles.hold(Some(short), locked, "a rehearsal changes nothing").await?;
    store.save(long, lock).await?;
    handles.hold(Some(long), locked, "a save after a rehearsal is a save").await?;
    // As after a save whose outcome is unknown.
    repeat(store.save(long, lock).await, REPEATED)?;
    handles.hold(Some(long), locked, REPEATED).await
}

/// `long` is stored.
async fn notes_are_kept(
    handles: &Handles,
    lock: &StoreLock,
    long: &RefreshTokenObject,
    short: &RefreshTokenObject,
) -> Result<(), Error> {
    let (store, locked) = (&handles.store, Some(lock));
    require(handles.note(lock).await?.is_none(), "a store makes up no note")?;
    for text in ["{\"first\": \"note, with \\\"quotes\\\" and ünïcode\"}", "second"] {
        store.remember(Some(text), lock).await?;
        handles.hold(Some(long), locked, "a note does not change the token").await?;
        let kept = handles.note(lock).await?;
        require(kept.is_some() || lock.has_no_notes(), "a remembered note is read")?;
        require(kept.is_none_or(|kept| kept == text), "read gives the note that was remembered last")?;
    }
    store.save(short, lock).await?;
    handles.hold(Some(short), locked, "a token that is saved while a note is kept is loaded").await?;
    let kept = handles.note(lock).await?;
    require(kept.is_none_or(|kept| kept == "second"), "a save makes up no note")?;
    store.remember(Some("third"), lock).await?;
    for _ in 0..2 {
        repeat(store.remember(None, lock).await, "removing a note succeeds, also if there is none")?;
        require(handles.note(lock).await?.is_none(), "a removed note is gone")?;
        handles.hold(Some(short), locked, "removing a note does not change the token").await?;
    }
    Ok(())
}

async fn removals(handles: &Handles, lock: &StoreLock) -> Result<(), Error> {
    for _ in 0..2 {
        repeat(handles.store.remove(lock).await, "removing from an empty store succeeds")?;
        handles.hold(None, Some(lock), "a removed token is gone").await?;
    }
    Ok(())
}

/// A store may free the lock in `finish`: what a manager calls then must not harm the next holder.
async fn finish_is_the_last_save(
    handles: &Handles,
    long: &RefreshTokenObject,
    short: &RefreshTokenObject,
) -> Result<(), Error> {
    let Handles { store, other } = handles;
    let lock = acquire(store, UNLOCKED).await?;
    store.save(short, &lock).await?;
    store.remember(Some("kept"), &lock).await?;
    store.finish(long, Some("next"), &lock).await?;
    handles.hold(Some(long), None, "finish is a save").await?;
    let kept = other.read().await?.note;
    let is_known = |kept: &str| matches!(kept, "kept" | "next");
    let promise = "finish keeps the note, or replaces it by the note that it was given";
    require(kept.as_deref().map_or_else(|| lock.has_no_notes(), is_known), promise)?;
    for again in [store.finish(long, Some("next"), &lock).await, store.save(long, &lock).await] {
        repeat(again, REPEATED)?;
    }
    handles.hold(Some(long), None, REPEATED).await?;

    let harmless = "remember after finish is harmless";
    repeat(store.remember(Some("next"), &lock).await, harmless)?;
    handles.hold(Some(long), None, harmless).await?;
    let note = other.read().await?.note;
    require(
        note.map_or_else(|| lock.has_no_notes(), |note| note == "next"),
        "remember after finish keeps the note",
    )?;
    let next = other.try_lock().await?;
    store.unlock_in_time(lock).await?;
    if let Some(next) = next {
        if !is_default(&next) {
            still_held(store, "unlock after finish frees no other holder's lock").await?;
        }
        other.unlock_in_time(next).await?;
    }
    handles.hold(Some(long), None, "unlock after finish does not change the token").await
}

async fn errors_surface<S: TokenStore>(broken: &S, token: &RefreshTokenObject) -> Result<(), Error> {
    require(broken.load().await.is_err(), "loading from a broken store is an error, not None")?;
    require(broken.read().await.is_err(), "reading a broken store is an error")?;
    // An error here is also right: then nothing is sent to Concur either.
    let Ok(locked) = broken.try_lock().await else { return Ok(()) };
    let lock = locked.ok_or_else(|| breach("locking a broken store is an error, not None"))?;
    require(broken.read_locked(&lock).await.is_err(), "reading a broken store under the lock is an error")?;
    require(broken.save(token, &lock).await.is_err(), "saving to a broken store is an error")?;
    require(broken.rehearse(Some(token), &lock).await.is_err(), "rehearsing in a broken store is an error")?;
    require(broken.finish(token, None, &lock).await.is_err(), "finishing in a broken store is an error")?;
    require(broken.remove(&lock).await.is_err(), "removing from a broken store is an error")?;
    let remembered = broken.remember(Some("note"), &lock).await;
    require(remembered.is_err() || lock.has_no_notes(), "remembering in a broken store is an error")
}

/// The lock of a store with the default `try_lock`.
fn is_default(lock: &StoreLock) -> bool {
    lock.get::<()>().is_some()
}

/// A long token with unknown members, and a short token.
fn tokens() -> Result<(RefreshTokenObject, RefreshTokenObject), Error> {
    let long = r#"{"refresh_token": "long", "unknown": {"kept": [1, 2.5, null]}, "companyUUID": "c"}"#;
    Ok((RefreshTokenObject::from_json(long)?, RefreshTokenObject::from_json(r#"{"refresh_token": "s"}"#)?))
}

/// Compared as JSON: a store may keep the token in another form.
fn is_same(one: Option<&RefreshTokenObject>, other: Option<&RefreshTokenObject>) -> bool {
    let value = |token: &RefreshTokenObject| token.to_json().parse::<Value>().ok();
    one.map(value) == other.map(value)
}

fn require(holds: bool, promise: &str) -> Result<(), Error> {
    if holds { Ok(()) } else { Err(breach(promise)) }
}

/// A call that may not fail, because its effect is there already.
fn repeat(answer: Result<(), Error>, promise: &str) -> Result<(), Error> {
    answer.map_err(|e| breach(promise).caused_by(e))
}

fn breach(promise: &str) -> Error {
    Error::new(
        ErrorKind::Store,
        format!("the store breaks its contract: {promise}; see TokenStore's documentation"),
    )
}
