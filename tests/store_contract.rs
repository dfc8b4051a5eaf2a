//! Both built-in stores keep the contract, and each breach of it is named.

#![cfg(feature = "simulator")]

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, Ordering},
};

use concur_auth::{
    Error, JsonFileStore, MemoryStore, RefreshTokenObject, StoreLock, TokenStore,
    simulator::{StoreCondition, store_contract},
};

#[tokio::test]
async fn the_json_file_store_keeps_the_contract() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("token.json");
    store_contract(|condition| {
        // A folder cannot be read as a file.
        Some(JsonFileStore::new(if condition == StoreCondition::Broken { dir.path() } else { &path }))
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn the_memory_store_keeps_the_contract() {
    let store = MemoryStore::new();
    store_contract(|condition| (condition == StoreCondition::Working).then(|| store.clone())).await.unwrap();
}

/// What a store may do wrong.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Wrong {
    NotEmpty,
    LosesMembers,
    KeepsTheFirst,
    NeverRemoves,
    RehearsalRemoves,
    ExcludesNobody,
    NeverLocks,
    NeverReleases,
    EmptyWhenBroken,
    LockedWhenBroken,
    SavesWhenBroken,
    RemovesWhenBroken,
}

impl Wrong {
    /// Only seen where the store is broken.
    fn when_broken(self) -> bool {
        use Wrong::*;
        matches!(self, EmptyWhenBroken | LockedWhenBroken | SavesWhenBroken | RemovesWhenBroken)
    }
}

#[derive(Clone, Debug)]
struct Faulty {
    wrong: Wrong,
    broken: bool,
    held: Arc<Mutex<Option<String>>>,
    locked: Arc<AtomicBool>,
}

struct Release(Wrong, Arc<AtomicBool>);

impl Drop for Release {
    fn drop(&mut self) {
        self.1.store(self.0 == Wrong::NeverReleases, Ordering::Relaxed);
    }
}

impl Faulty {
    /// What a broken store says, unless it breaks the contract in this way.
    fn surface(&self, unless: Wrong) -> Result<(), Error> {
        if self.broken && self.wrong != unless { Err(Error::store("broken", "on purpose")) } else { Ok(()) }
    }
}

impl TokenStore for Faulty {
    async fn load(&self) -> Result<Option<RefreshTokenObject>, Error> {
        self.surface(Wrong::EmptyWhenBroken)?;
        let held = self.held.lock().unwrap().clone();
        match held {
            None if self.wrong == Wrong::NotEmpty => {
                RefreshTokenObject::from_json(r#"{"refresh_token": "x"}"#).map(Some)
            }
            held => held.map(|json| RefreshTokenObject::from_json(&json)).transpose(),
        }
    }
    async fn save(&self, token: &RefreshTokenObject, _: &StoreLock) -> Result<(), Error> {
        self.surface(Wrong::SavesWhenBroken)?;
        let mut held = self.held.lock().unwrap();
        match self.wrong {
            Wrong::KeepsTheFirst if held.is_some() => {}
            Wrong::LosesMembers => *held = Some(format!("{{\"refresh_token\": \"{}\"}}", token.secret())),
            _ => *held = Some(token.to_json()),
        }
        Ok(())
    }
    async fn remove(&self, _: &StoreLock) -> Result<(), Error> {
        self.surface(Wrong::RemovesWhenBroken)?;
        if self.wrong != Wrong::NeverRemoves {
            *self.held.lock().unwrap() = None;
        }
        Ok(())
    }
    async fn rehearse(&self, _: Option<&RefreshTokenObject>, lock: &StoreLock) -> Result<(), Error> {
        if self.wrong == Wrong::RehearsalRemoves {
            self.remove(lock).await?;
        }
        Ok(())
    }
    async fn try_lock(&self) -> Result<Option<StoreLock>, Error> {
        if self.broken && self.wrong == Wrong::LockedWhenBroken {
            return Ok(None);
        }
        let was_locked = self.locked.swap(true, Ordering::Relaxed);
        let refused = (was_locked && self.wrong != Wrong::ExcludesNobody) || self.wrong == Wrong::NeverLocks;
        Ok((!refused).then(|| StoreLock::new(Release(self.wrong, Arc::clone(&self.locked)))))
    }
}

#[tokio::test]
async fn each_breach_of_the_contract_is_named() {
    for (wrong, promise) in [
        (Wrong::NotEmpty, "an empty store loads None"),
        (Wrong::LosesMembers, "a saved token is loaded, including unknown members"),
        (Wrong::KeepsTheFirst, "a saved token replaces the whole token before it"),
        (Wrong::NeverRemoves, "a removed token is gone"),
        (Wrong::RehearsalRemoves, "a rehearsal changes nothing"),
        (Wrong::ExcludesNobody, "while the lock is held, try_lock gives None"),
        (Wrong::NeverLocks, "while the lock is free, try_lock gives it"),
        (Wrong::NeverReleases, "a dropped lock is free again"),
        (Wrong::EmptyWhenBroken, "loading from a broken store is an error, not None"),
        (Wrong::LockedWhenBroken, "locking a broken store is an error, not None"),
        (Wrong::SavesWhenBroken, "saving to a broken store is an error"),
        (Wrong::RemovesWhenBroken, "removing from a broken store is an error"),
    ] {
        let store = Faulty { wrong, broken: false, held: Arc::default(), locked: Arc::default() };
        let factory = |condition| {
            let broken = condition == StoreCondition::Broken;
            (!broken || wrong.when_broken()).then(|| Faulty { broken, ..store.clone() })
        };
        let error = store_contract(factory).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("the store breaks its contract: {promise}; see TokenStore's documentation")
        );
    }
}
