//! What a manager relies on in a store, checked on anybody's.

use serde_json::Value;

use crate::{Error, ErrorKind, RefreshTokenObject, StoreLock, TokenStore};

/// Which store a factory given to [`store_contract`] is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StoreCondition {
    /// Another handle on one and the same store, which is empty at first: what another process would open.
    Working,
    /// A store that can be neither read nor written, such as one whose server is gone. A factory whose store cannot
    /// break, as one in memory, has none: then it is not checked that errors surface.
    Broken,
}

/// Checks a [`TokenStore`] against the whole contract: absent, round trip with unknown members, overwriting,
/// rehearsal, removal, exclusion, release of a dropped lock, and errors that surface.
///
/// `factory` makes a handle on the store in the condition asked for. A store whose `try_lock` is the default one
/// excludes nobody, and may. What was stored is gone afterwards.
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

    let lock =
        store.try_lock().await?.ok_or_else(|| breach("nobody holds the lock, and try_lock gives None"))?;
    exclusion(&other, &lock).await?;
    store.remove(&lock).await?;
    store.rehearse(None, &lock).await?;
    expect(&other, None, "removing nothing and rehearsing with nothing leave the store empty").await?;

    let long = RefreshTokenObject::from_json(
        r#"{"refresh_token": "long", "unknown": {"kept": [1, 2.5, null]}, "companyUUID": "c"}"#,
    )?;
    let short = RefreshTokenObject::from_json(r#"{"refresh_token": "s"}"#)?;
    store.save(&long, &lock).await?;
    expect(&other, Some(&long), "what was saved is loaded, with members that nobody knows").await?;
    store.save(&short, &lock).await?;
    expect(&other, Some(&short), "the token saved last replaces the one before, all of it").await?;
    store.rehearse(Some(&short), &lock).await?;
    expect(&other, Some(&short), "a rehearsal changes nothing").await?;
    store.save(&long, &lock).await?;
    expect(&other, Some(&long), "a save after a rehearsal is a save").await?;
    store.remove(&lock).await?;
    expect(&other, None, "what was removed is gone").await?;

    drop(lock);
    if other.try_lock().await?.is_none() {
        return Err(breach("a dropped lock is free for the next"));
    }
    match factory(StoreCondition::Broken) {
        Some(broken) => errors_surface(&broken, &long).await,
        None => Ok(()),
    }
}

async fn errors_surface<S: TokenStore>(broken: &S, token: &RefreshTokenObject) -> Result<(), Error> {
    if broken.load().await.is_ok() {
        return Err(breach("a store that cannot be read is an error, and never an empty one"));
    }
    // An error here is as good: then nothing is sent to Concur either.
    let Ok(locked) = broken.try_lock().await else { return Ok(()) };
    let lock =
        locked.ok_or_else(|| breach("a broken store's lock is an error, and never somebody else's"))?;
    if broken.save(token, &lock).await.is_ok() {
        return Err(breach("a save that a broken store did not make is an error"));
    }
    if broken.remove(&lock).await.is_ok() {
        return Err(breach("a removal that a broken store did not make is an error"));
    }
    Ok(())
}

/// The lock is held: nobody else gets it, unless the store says that it excludes nobody.
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

/// Compared as JSON: a store may keep it in a form of its own.
fn value(token: Option<&RefreshTokenObject>) -> Option<Value> {
    token.and_then(|token| token.to_json().parse().ok())
}

fn breach(promise: &str) -> Error {
    Error::new(
        ErrorKind::Store,
        format!("the store breaks its contract: {promise}; see TokenStore's documentation"),
    )
}
