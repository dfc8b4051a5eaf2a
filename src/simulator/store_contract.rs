//! Checks that any store does what a manager relies on.

use serde_json::Value;

use crate::{Error, ErrorKind, RefreshTokenObject, StoreLock, TokenStore};

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

/// Checks a [`TokenStore`] against the whole contract: absent, round trip with unknown members, overwriting,
/// rehearsal, removal, exclusion, release of a dropped lock, and errors that surface.
///
/// `factory` makes a handle on the store in the given condition. A store may keep the default `try_lock`, which
/// excludes no other handle. The store is empty afterwards.
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
/// [`ErrorKind::Store`] with a message that says which part of the contract does not hold; the store's own error
/// where it failed.
pub async fn store_contract<S: TokenStore>(
    factory: impl Fn(StoreCondition) -> Option<S>,
) -> Result<(), Error> {
    let working =
        || factory(StoreCondition::Working).ok_or_else(|| breach("the factory has no working store"));
    let (store, other) = (working()?, working()?);
    expect(&store, None, "an empty store loads None").await?;

    let lock = store.try_lock().await?.ok_or_else(|| breach("while the lock is free, try_lock gives it"))?;
    exclusion(&other, &lock).await?;
    store.remove(&lock).await?;
    store.rehearse(None, &lock).await?;
    expect(&other, None, "removing from an empty store and rehearsing without a token leave it empty")
        .await?;

    let long = RefreshTokenObject::from_json(
        r#"{"refresh_token": "long", "unknown": {"kept": [1, 2.5, null]}, "companyUUID": "c"}"#,
    )?;
    let short = RefreshTokenObject::from_json(r#"{"refresh_token": "s"}"#)?;
    store.save(&long, &lock).await?;
    expect(&other, Some(&long), "a saved token is loaded, including unknown members").await?;
    store.save(&short, &lock).await?;
    expect(&other, Some(&short), "a saved token replaces the whole token before it").await?;
    store.rehearse(Some(&short), &lock).await?;
    expect(&other, Some(&short), "a rehearsal changes nothing").await?;
    store.save(&long, &lock).await?;
    expect(&other, Some(&long), "a save after a rehearsal is a save").await?;
    store.remove(&lock).await?;
    expect(&other, None, "a removed token is gone").await?;

    drop(lock);
    if other.try_lock().await?.is_none() {
        return Err(breach("a dropped lock is free again"));
    }
    match factory(StoreCondition::Broken) {
        Some(broken) => errors_surface(&broken, &long).await,
        None => Ok(()),
    }
}

async fn errors_surface<S: TokenStore>(broken: &S, token: &RefreshTokenObject) -> Result<(), Error> {
    if broken.load().await.is_ok() {
        return Err(breach("loading from a broken store is an error, not None"));
    }
    // An error here is also right: then nothing is sent to Concur either.
    let Ok(locked) = broken.try_lock().await else { return Ok(()) };
    let lock = locked.ok_or_else(|| breach("locking a broken store is an error, not None"))?;
    if broken.save(token, &lock).await.is_ok() {
        return Err(breach("saving to a broken store is an error"));
    }
    if broken.remove(&lock).await.is_ok() {
        return Err(breach("removing from a broken store is an error"));
    }
    Ok(())
}

/// While the lock is held no other handle gets it, unless the store keeps the default `try_lock`.
async fn exclusion<S: TokenStore>(other: &S, held: &StoreLock) -> Result<(), Error> {
    let excludes_nobody = held.get::<()>().is_some();
    match other.try_lock().await? {
        Some(_) if !excludes_nobody => Err(breach("while the lock is held, try_lock gives None")),
        _ => Ok(()),
    }
}

async fn expect<S: TokenStore>(
    store: &S,
    expected: Option<&RefreshTokenObject>,
    promise: &str,
) -> Result<(), Error> {
    let loaded = store.load().await?;
    if value(loaded.as_ref()) == value(expected) { Ok(()) } else { Err(breach(promise)) }
}

/// Compared as JSON: a store may keep the token in another form.
fn value(token: Option<&RefreshTokenObject>) -> Option<Value> {
    token.and_then(|token| token.to_json().parse().ok())
}

fn breach(promise: &str) -> Error {
    Error::new(
        ErrorKind::Store,
        format!("the store breaks its contract: {promise}; see TokenStore's documentation"),
    )
}
