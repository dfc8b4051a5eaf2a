//! Both built-in stores and the stores in the documentation keep the contract, and each breach of it is named.

#![cfg(feature = "simulator")]

mod support;
#[path = "store_contract/faulty.rs"]
mod faulty;
/// The store in the guide "A store of your own": a test checks that this is the same text.
#[path = "store_contract/guides_store.rs"]
mod guides_store;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use concur_auth::{
    BoxedStore, Error, JsonFileStore, MemoryStore, TokenStore,
    simulator::{SharedLock, StoreCondition, shared_store_contract, store_contract},
};
use faulty::{Simple, World, Wrong};
use support::{child, names_in, until};

/// One handle per call, as another process would open it.
async fn check<S: TokenStore>(open: impl Fn() -> S) -> Result<(), Error> {
    store_contract(|condition| (condition == StoreCondition::Working).then(&open)).await
}

#[tokio::test]
async fn the_json_file_store_keeps_the_contract() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("token.json");
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    // Neither a folder nor what is below a file can be read as a file.
    for broken in [dir.path(), &file.join("token.json")] {
        let open =
            |condition| JsonFileStore::new(if condition == StoreCondition::Broken { broken } else { &path });
        store_contract(|condition| Some(open(condition))).await.unwrap();
    }
}

#[tokio::test]
async fn the_memory_store_keeps_the_contract() {
    let store = MemoryStore::new();
    check(|| store.clone()).await.unwrap();
    shared_store_contract(|| store.clone(), SharedLock::new()).await.unwrap();
}

#[tokio::test]
async fn a_store_that_is_shared_or_boxed_keeps_the_contract() {
    let store = MemoryStore::new();
    check(|| Arc::new(store.clone())).await.unwrap();
    check(|| Box::new(store.clone())).await.unwrap();
    check(|| -> BoxedStore { store.clone().boxed() }).await.unwrap();
}

#[tokio::test]
async fn processes_that_are_killed_leave_the_json_file_store_to_others() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("token.json");
    let lock = SharedLock::new().free_after(Duration::from_secs(10)).holder_dies(|| async {
        let mut holder = child("holds_the_lock").env("DIR", dir.path()).spawn().unwrap();
        until(|| names_in(dir.path()).iter().any(|name| name == "held")).await;
        holder.kill().unwrap();
        holder.wait().unwrap();
        Ok(())
    });
    shared_store_contract(|| JsonFileStore::new(&path), lock).await.unwrap();
}

#[tokio::test]
#[ignore = "runs as a child process"]
async fn holds_the_lock() {
    let dir = PathBuf::from(std::env::var_os("DIR").unwrap());
    let store = JsonFileStore::new(dir.join("token.json"));
    let _lock = loop {
        if let Some(lock) = store.try_lock().await.unwrap() {
            break lock;
        }
    };
    fs::write(dir.join("held"), "").unwrap();
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn the_store_in_the_guide_keeps_the_contract() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let guide = fs::read_to_string(root.join("docs/guides/own_store.md")).unwrap().replace("\r\n", "\n");
    let (_, store) = include_str!("store_contract/guides_store.rs").split_once("use ").unwrap();
    let store = store.split_once("#[derive").unwrap().1.replace("pub(crate) ", "").replace("\r\n", "\n");
    assert!(guide.contains(&store), "the guide's store is not the one that is checked here: {store}");

    let dir = tempfile::tempdir().unwrap();
    check(|| guides_store::MyStore(dir.path().join("token.json"))).await.unwrap();
}

#[tokio::test]
async fn a_store_with_leases_and_slow_unlocks_keeps_the_contract() {
    let (one, other, simple) = (World::new(None), World::new(None), World::new(None));
    let checks = tokio::join!(
        store_contract(|condition| one.handle(condition)),
        shared_store_contract(|| other.open(), other.lock()),
        // The default `remember` is recognised through all wrappers.
        check(|| Arc::new(Box::new(Simple(simple.open())).boxed())),
    );
    (checks.0.and(checks.1).and(checks.2)).unwrap();
    shared_store_contract(|| Simple(simple.open()), simple.lock()).await.unwrap();
}

/// All at the same time: some breaches are only seen after a second.
async fn assert_named(broken: &[(Wrong, &str)], is_shared: bool) {
    let checks: Vec<_> = broken
        .iter()
        .map(|&(wrong, promise)| {
            let world = World::new(Some(wrong));
            let check = tokio::spawn(async move {
                match is_shared {
                    true => shared_store_contract(|| world.open(), world.lock()).await,
                    false => store_contract(|condition| world.handle(condition)).await,
                }
            });
            (wrong, promise, check)
        })
        .collect();
    for (wrong, promise, check) in checks {
        let error = check.await.unwrap().expect_err(&format!("{wrong:?} is a breach"));
        let expected = format!("the store breaks its contract: {promise}; see TokenStore's documentation");
        assert_eq!(error.to_string(), expected, "{wrong:?}");
    }
}

#[tokio::test]
async fn each_breach_of_the_contract_is_named() {
    tokio::join!(each_breach_is_named(), each_breach_among_processes_is_named());
}

async fn each_breach_is_named() {
    let finishes_note = "finish keeps the note, or replaces it by the note that it was given";
    let repeated = "a save that is repeated with the same token under the same lock succeeds";
    let breaches = [
        (Wrong::NotEmpty, "an empty store loads None"),
        (Wrong::LosesMembers, "a saved token is loaded, including unknown members"),
        (Wrong::KeepsTheFirst, "a saved token replaces the whole token before it"),
        (Wrong::NeverRemoves, "a removed token is gone"),
        (Wrong::RemovesOnlyOnce, "removing from an empty store succeeds"),
        (Wrong::RehearsalRemoves, "a rehearsal changes nothing"),
        (Wrong::SavesOnlyOnce, repeated),
        (Wrong::FinishesOnlyOnce, repeated),
        (Wrong::FinishDoesNotSave, "finish is a save"),
        (Wrong::ReadsNothing, "read finds what load finds"),
        (Wrong::ReadsNothingLocked, "read_locked finds what load finds"),
        (Wrong::ReadsNoNoteLocked, "read_locked finds the note that read finds"),
        (Wrong::NoteIsLost, "a remembered note is read"),
        (Wrong::NoteErasesToken, "a note does not change the token"),
        (Wrong::KeepsTheFirstNote, "read gives the note that was remembered last"),
        (Wrong::NoteStays, "a removed note is gone"),
        (Wrong::MakesUpANote, "a store makes up no note"),
        (Wrong::SaveMakesUpANote, "a save makes up no note"),
        (Wrong::FinishMakesUpANote, finishes_note),
        (Wrong::FinishDropsTheNote, finishes_note),
        (Wrong::ForgetFailsAfterFinish, "remember after finish is harmless"),
        (Wrong::UnlocksOthers, "unlock after finish frees no other holder's lock"),
        (Wrong::ExcludesNobody, "while the lock is held, try_lock gives None"),
        (Wrong::NeverLocks, "while the lock is free, try_lock gives it"),
        (Wrong::Waits, "try_lock never waits: it answers None while the lock is held"),
        (Wrong::BlocksItsThread, "try_lock never waits: it answers None while the lock is held"),
        (Wrong::ChecksThenSets, "of handles that ask for the lock at the same time, one gets it"),
        (Wrong::ChecksThenSetsOnAThread, "of handles that ask for the lock at the same time, one gets it"),
        (Wrong::NeverReleases, "a dropped lock is free again"),
        (Wrong::UnlockNeverDone, "a second after unlock the lock is free"),
        (Wrong::UnlockNeverEnds, "a second after unlock the lock is free"),
        (Wrong::EmptyWhenBroken, "loading from a broken store is an error, not None"),
        (Wrong::ReadsWhenBroken, "reading a broken store is an error"),
        (Wrong::LockedWhenBroken, "locking a broken store is an error, not None"),
        (Wrong::ReadsLockedWhenBroken, "reading a broken store under the lock is an error"),
        (Wrong::SavesWhenBroken, "saving to a broken store is an error"),
        (Wrong::RehearsesWhenBroken, "rehearsing in a broken store is an error"),
        (Wrong::FinishesWhenBroken, "finishing in a broken store is an error"),
        (Wrong::RemovesWhenBroken, "removing from a broken store is an error"),
        (Wrong::RemembersWhenBroken, "remembering in a broken store is an error"),
    ];
    assert_named(&breaches, false).await;
}

async fn each_breach_among_processes_is_named() {
    let late = "a save that comes after another process's save says Error::superseded";
    let breaches = [
        (Wrong::HasNoLock, "a store that several processes share implements try_lock"),
        (Wrong::ExcludesNobody, "while the lock is held, try_lock gives None"),
        (Wrong::ChecksThenSets, "of handles that ask for the lock at the same time, one gets it"),
        (Wrong::ReadsAsItWasOpened, "read_locked finds what the holder before has saved"),
        (Wrong::NoteIsLost, "a note is read by other processes while the lock is held"),
        (Wrong::NoteIsKeptUntilUnlock, "a note is read by other processes while the lock is held"),
        (Wrong::SavesOnlyOnce, "a save that is repeated with the same token under the same lock succeeds"),
        (Wrong::UnlockNeverDone, "a second after unlock the lock is free"),
        (Wrong::DeadHoldersKeepTheLock, "the lock of a holder that has died is free in time"),
        (Wrong::DeathRemoves, "a holder that dies leaves the token as it was"),
        (Wrong::NeverLapses, "a lock that has lapsed is free"),
        (Wrong::OverwritesLate, "a save that comes late does not replace a newer token"),
        (Wrong::IgnoresLate, late),
        (Wrong::FailsLate, late),
        (Wrong::LapsesEarly, "never do two handles hold the lock"),
        (Wrong::UnlocksLapsed, "unlocking a lapsed lock frees no other holder's lock"),
    ];
    assert_named(&breaches, true).await;
}

#[tokio::test]
async fn a_factory_that_makes_no_store_is_named() {
    let error = store_contract(|_| None::<MemoryStore>).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "the store breaks its contract: the factory has no working store; see TokenStore's documentation"
    );
}
