//! Where the tokens of one company are kept, and who has them there.

use std::{
    fmt,
    sync::{Arc, Mutex},
    time::Duration,
};

use super::{
    file::{Disk, FileStore},
    plan::Kind,
    row::{Row, RowStore},
    run::{Run, number_of},
};
use crate::{
    BoxedStore, Error, MemoryStore, RefreshTokenObject, StoreLock, Stored, TokenStore, caught::locked,
};

/// What several processes share, or one process has for itself.
pub(super) enum Shelf {
    Memory(Mutex<MemoryStore>),
    File(Arc<Mutex<Disk>>),
    Row(Arc<Mutex<Row>>),
}

impl Shelf {
    pub(super) fn new(kind: Kind) -> Self {
        match kind {
            Kind::Memory => Self::Memory(Mutex::default()),
            Kind::File => Self::File(Arc::default()),
            Kind::Row => Self::Row(Arc::default()),
        }
    }

    pub(super) fn is_held_by(&self, process: usize, now: Duration) -> bool {
        match self {
            Self::Memory(_) => true,
            Self::File(disk) => locked(disk).holder() == Some(process),
            Self::Row(row) => locked(row).holder(now) == Some(process),
        }
    }

    /// What was in a process's memory dies with it; whether that was something.
    pub(super) fn forgets(&self) -> bool {
        if let Self::Memory(store) = self {
            *locked(store) = MemoryStore::new();
        }
        matches!(self, Self::Memory(_))
    }

    pub(super) fn opened_by(&self, run: &Arc<Run>, process: usize, company: usize) -> BoxedStore {
        match self {
            Self::Memory(store) => {
                let store = locked(store).clone();
                Noting { run: Arc::clone(run), company, store }.boxed()
            }
            Self::File(disk) => {
                let (run, disk) = (Arc::clone(run), Arc::clone(disk));
                FileStore { run, disk, company, process, seen: Mutex::default() }.boxed()
            }
            Self::Row(row) => RowStore::new(run, row, company, process).boxed(),
        }
    }
}

/// The memory store, whose saves are noted.
struct Noting {
    run: Arc<Run>,
    company: usize,
    store: MemoryStore,
}

impl TokenStore for Noting {
    async fn load(&self) -> Result<Option<RefreshTokenObject>, Error> {
        self.store.load().await
    }

    async fn save(&self, token: &RefreshTokenObject, lock: &StoreLock) -> Result<(), Error> {
        self.run.saved_and_shown(self.company, number_of(token));
        self.store.save(token, lock).await
    }

    async fn remove(&self, lock: &StoreLock) -> Result<(), Error> {
        self.store.remove(lock).await
    }

    async fn try_lock(&self) -> Result<Option<StoreLock>, Error> {
        self.store.try_lock().await
    }

    async fn read(&self) -> Result<Stored, Error> {
        self.store.read().await
    }

    async fn remember(&self, note: Option<&str>, lock: &StoreLock) -> Result<(), Error> {
        self.store.remember(note, lock).await
    }

    fn is_local(&self) -> bool {
        true
    }
}

impl fmt::Debug for Noting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Noting")
    }
}
