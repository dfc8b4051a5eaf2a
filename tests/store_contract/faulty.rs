//! A table row with a lease, shared by all handles on a [`World`], and all that can be wrong with it.

use std::{
    future::pending,
    mem,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use concur_auth::{
    Error, RefreshTokenObject, StoreLock, Stored, TokenStore,
    simulator::{SharedLock, StoreCondition},
};

use crate::support::really_wait;

/// What a store may do wrong.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Wrong {
    NotEmpty,
    LosesMembers,
    KeepsTheFirst,
    NeverRemoves,
    RemovesOnlyOnce,
    RehearsalRemoves,
    SavesOnlyOnce,
    FinishesOnlyOnce,
    FinishDoesNotSave,
    ReadsNothing,
    ReadsNothingLocked,
    ReadsNoNoteLocked,
    ReadsAsItWasOpened,
    NoteIsLost,
    NoteErasesToken,
    NoteIsKeptUntilUnlock,
    KeepsTheFirstNote,
    NoteStays,
    MakesUpANote,
    SaveMakesUpANote,
    FinishMakesUpANote,
    FinishDropsTheNote,
    ForgetFailsAfterFinish,
    HasNoLock,
    ExcludesNobody,
    LapsesEarly,
    NeverLocks,
    Waits,
    BlocksItsThread,
    ChecksThenSets,
    ChecksThenSetsOnAThread,
    NeverReleases,
    UnlocksOthers,
    UnlocksLapsed,
    UnlockNeverDone,
    UnlockNeverEnds,
    DeadHoldersKeepTheLock,
    DeathRemoves,
    NeverLapses,
    OverwritesLate,
    IgnoresLate,
    FailsLate,
    EmptyWhenBroken,
    ReadsWhenBroken,
    LockedWhenBroken,
    ReadsLockedWhenBroken,
    SavesWhenBroken,
    RehearsesWhenBroken,
    FinishesWhenBroken,
    RemovesWhenBroken,
    RemembersWhenBroken,
}

use Wrong::*;

impl Wrong {
    /// Only seen where the store is broken.
    fn is_when_broken(self) -> bool {
        format!("{self:?}").ends_with("WhenBroken")
    }
}

/// The row, in the database that all processes use.
#[derive(Clone, Debug)]
pub(crate) struct World {
    wrong: Option<Wrong>,
    row: Arc<Mutex<Row>>,
}

#[derive(Debug, Default)]
struct Row {
    token: Option<String>,
    version: u64,
    note: Option<String>,
    /// Whose the lock is.
    owner: Option<u64>,
    locks: u64,
    refusals: u64,
}

/// What a lock carries: dropping it frees the lock, unless it has lapsed and is another holder's.
struct Lease {
    world: World,
    id: u64,
    /// The version that was read or saved last under this lock.
    version: AtomicU64,
    is_finished: AtomicBool,
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut row = self.world.row();
        if row.owner == Some(self.id) && !self.world.is(NeverReleases) {
            row.owner = None;
        }
    }
}

impl World {
    pub(crate) fn new(wrong: Option<Wrong>) -> Self {
        Self { wrong, row: Arc::default() }
    }

    pub(crate) fn open(&self) -> Faulty {
        let opened = self.row().token.clone();
        Faulty { world: self.clone(), is_broken: false, opened }
    }

    pub(crate) fn handle(&self, condition: StoreCondition) -> Option<Faulty> {
        let is_broken = condition == StoreCondition::Broken;
        let is_seen = !is_broken || self.wrong.is_none_or(Wrong::is_when_broken);
        is_seen.then(|| Faulty { is_broken, ..self.open() })
    }

    pub(crate) fn lock(&self) -> SharedLock<'_> {
        let holder_dies = || async {
            let held = loop {
                if let Some(held) = self.open().try_lock().await? {
                    break held;
                }
                really_wait(Duration::from_millis(1)).await;
            };
            mem::forget(held);
            if self.is(DeathRemoves) {
                self.row().token = None;
            }
            if !self.is(DeadHoldersKeepTheLock) {
                self.row().owner = None;
            }
            Ok(())
        };
        let lapse = || async {
            if !self.is(NeverLapses) {
                self.row().owner = None;
            }
            Ok(())
        };
        SharedLock::new().free_after(Duration::from_millis(500)).holder_dies(holder_dies).lapses(lapse)
    }

    fn row(&self) -> MutexGuard<'_, Row> {
        self.row.lock().unwrap()
    }

    fn is(&self, wrong: Wrong) -> bool {
        self.wrong == Some(wrong)
    }

    fn take(&self, row: &mut Row) -> StoreLock {
        row.locks += 1;
        row.refusals = 0;
        row.owner = Some(row.locks);
        let (id, version) = (row.locks, row.version.into());
        StoreLock::new(Lease { world: self.clone(), id, version, is_finished: false.into() })
    }

    fn try_take(&self) -> Option<StoreLock> {
        let mut row = self.row();
        let is_free = row.owner.is_none() || self.is(ExcludesNobody);
        if is_free || (self.is(LapsesEarly) && row.refusals >= 3) {
            return Some(self.take(&mut row));
        }
        row.refusals += 1;
        None
    }
}

fn parsed(json: Option<&String>) -> Result<Option<RefreshTokenObject>, Error> {
    json.map(|json| RefreshTokenObject::from_json(json)).transpose()
}

#[allow(clippy::disallowed_methods, reason = "this is how a store blocks its thread")]
fn block(milliseconds: u64) {
    thread::sleep(Duration::from_millis(milliseconds));
}

/// A handle on the row.
#[derive(Clone, Debug)]
pub(crate) struct Faulty {
    world: World,
    is_broken: bool,
    opened: Option<String>,
}

impl Faulty {
    /// What a broken store says, unless it breaks the contract in this way.
    fn surface(&self, unless: Wrong) -> Result<(), Error> {
        let surfaces = self.is_broken && !self.world.is(unless);
        if surfaces { Err(Error::store("broken", "on purpose")) } else { Ok(()) }
    }

    fn write(&self, token: &RefreshTokenObject, lock: &StoreLock) -> Result<(), Error> {
        let mut row = self.world.row();
        let json = match self.world.wrong {
            Some(LosesMembers) => format!("{{\"refresh_token\": \"{}\"}}", token.secret()),
            _ => token.to_json(),
        };
        // Repeated after an unknown outcome.
        if row.token.as_ref() == Some(&json) {
            let fails = self.world.is(SavesOnlyOnce);
            return if fails { Err(Error::store("saved already", "on purpose")) } else { Ok(()) };
        }
        let lease: &Lease = lock.get().unwrap();
        if lease.version.load(Ordering::Relaxed) != row.version {
            match self.world.wrong {
                Some(OverwritesLate) => {}
                Some(IgnoresLate) => return Ok(()),
                Some(FailsLate) => return Err(Error::store("too late", "on purpose")),
                _ => return Err(Error::superseded("too late")),
            }
        }
        if !(self.world.is(KeepsTheFirst) && row.token.is_some()) {
            row.token = Some(json);
        }
        row.version += 1;
        lease.version.store(row.version, Ordering::Relaxed);
        Ok(())
    }
}

impl TokenStore for Faulty {
    async fn load(&self) -> Result<Option<RefreshTokenObject>, Error> {
        self.surface(EmptyWhenBroken)?;
        match self.world.row().token.as_ref() {
            None if self.world.is(NotEmpty) => parsed(Some(&r#"{"refresh_token": "x"}"#.to_owned())),
            token => parsed(token),
        }
    }

    async fn save(&self, token: &RefreshTokenObject, lock: &StoreLock) -> Result<(), Error> {
        self.surface(SavesWhenBroken)?;
        self.write(token, lock)?;
        let mut row = self.world.row();
        if self.world.is(SaveMakesUpANote) && row.note.is_some() {
            row.note = Some("made up".to_owned());
        }
        Ok(())
    }

    async fn remove(&self, _: &StoreLock) -> Result<(), Error> {
        self.surface(RemovesWhenBroken)?;
        let mut row = self.world.row();
        if row.token.is_none() && self.world.is(RemovesOnlyOnce) {
            return Err(Error::store("nothing to remove", "on purpose"));
        }
        if !self.world.is(NeverRemoves) {
            row.token = None;
        }
        Ok(())
    }

    async fn try_lock(&self) -> Result<Option<StoreLock>, Error> {
        let world = &self.world;
        if self.is_broken && world.wrong.is_none() {
            return Err(Error::store("broken", "on purpose"));
        }
        let is_free = world.row().owner.is_none();
        match world.wrong {
            Some(LockedWhenBroken) if self.is_broken => return Ok(None),
            Some(NeverLocks) => return Ok(None),
            Some(HasNoLock) => return Ok(Some(StoreLock::new(()))),
            Some(ChecksThenSets) => tokio::task::yield_now().await,
            Some(ChecksThenSetsOnAThread) => block(2),
            Some(Waits | BlocksItsThread) => loop {
                if let Some(lock) = world.try_take() {
                    return Ok(Some(lock));
                }
                if world.is(Waits) { really_wait(Duration::from_millis(1)).await } else { block(1) }
            },
            _ => return Ok(world.try_take()),
        }
        Ok(is_free.then(|| world.take(&mut world.row())))
    }

    async fn unlock(&self, lock: StoreLock) {
        match self.world.wrong {
            None => drop(thread::spawn(move || {
                block(1);
                drop(lock);
            })),
            Some(UnlocksOthers) => self.world.row().owner = None,
            Some(UnlocksLapsed) if !lock.get::<Lease>().unwrap().is_finished.load(Ordering::Relaxed) => {
                self.world.row().owner = None;
            }
            Some(UnlockNeverDone) => mem::forget(lock),
            Some(UnlockNeverEnds) => pending().await,
            _ => drop(lock),
        }
    }

    async fn read(&self) -> Result<Stored, Error> {
        self.surface(ReadsWhenBroken)?;
        let token = self.load().await.or_else(|e| if self.is_broken { Ok(None) } else { Err(e) })?;
        let row = self.world.row();
        let note = match self.world.wrong {
            Some(MakesUpANote) => Some("made up".to_owned()),
            Some(NoteIsKeptUntilUnlock) if row.owner.is_some() => None,
            _ => row.note.clone(),
        };
        Ok(Stored::new(token.filter(|_| !self.world.is(ReadsNothing)), note))
    }

    async fn read_locked(&self, _: &StoreLock) -> Result<Stored, Error> {
        self.surface(ReadsLockedWhenBroken)?;
        if self.is_broken {
            return Ok(Stored::default());
        }
        let mut stored = self.read().await?;
        match self.world.wrong {
            Some(ReadsNothingLocked) => stored.token = None,
            Some(ReadsNoNoteLocked) => stored.note = None,
            Some(ReadsAsItWasOpened) => stored.token = parsed(self.opened.as_ref())?,
            _ => {}
        }
        Ok(stored)
    }

    async fn rehearse(&self, _: Option<&RefreshTokenObject>, lock: &StoreLock) -> Result<(), Error> {
        self.surface(RehearsesWhenBroken)?;
        if self.world.is(RehearsalRemoves) {
            self.remove(lock).await?;
        }
        Ok(())
    }

    /// Saves, forgets and unlocks in one step.
    async fn finish(
        &self,
        token: &RefreshTokenObject,
        note: Option<&str>,
        lock: &StoreLock,
    ) -> Result<(), Error> {
        self.surface(FinishesWhenBroken)?;
        let lease: &Lease = lock.get().unwrap();
        if self.world.is(FinishesOnlyOnce) && lease.is_finished.load(Ordering::Relaxed) {
            return Err(Error::store("finished already", "on purpose"));
        }
        if !self.is_broken && !self.world.is(FinishDoesNotSave) {
            self.write(token, lock)?;
        }
        let mut row = self.world.row();
        row.note = match self.world.wrong {
            Some(FinishMakesUpANote) if row.note.is_some() => Some("made up".to_owned()),
            Some(FinishDropsTheNote) => None,
            _ => note.map(str::to_owned),
        };
        lease.is_finished.store(true, Ordering::Relaxed);
        if row.owner == Some(lease.id) {
            row.owner = None;
        }
        Ok(())
    }

    async fn remember(&self, note: Option<&str>, lock: &StoreLock) -> Result<(), Error> {
        self.surface(RemembersWhenBroken)?;
        let mut row = self.world.row();
        match (self.world.wrong, note) {
            (Some(NoteIsLost), _) | (Some(NoteStays), None) => return Ok(()),
            (Some(KeepsTheFirstNote), Some(_)) if row.note.is_some() => return Ok(()),
            (Some(NoteErasesToken), Some(_)) => row.token = None,
            (Some(ForgetFailsAfterFinish), _)
                if lock.get::<Lease>().unwrap().is_finished.load(Ordering::Relaxed) =>
            {
                return Err(Error::store("not locked", "on purpose"));
            }
            _ => {}
        }
        row.note = note.map(str::to_owned);
        Ok(())
    }
}

/// The same row, through a store that keeps the defaults.
#[derive(Clone, Debug)]
pub(crate) struct Simple(pub(crate) Faulty);

impl TokenStore for Simple {
    async fn load(&self) -> Result<Option<RefreshTokenObject>, Error> {
        self.0.load().await
    }

    async fn save(&self, token: &RefreshTokenObject, lock: &StoreLock) -> Result<(), Error> {
        self.0.save(token, lock).await
    }

    async fn remove(&self, lock: &StoreLock) -> Result<(), Error> {
        self.0.remove(lock).await
    }

    async fn try_lock(&self) -> Result<Option<StoreLock>, Error> {
        self.0.try_lock().await
    }
}
