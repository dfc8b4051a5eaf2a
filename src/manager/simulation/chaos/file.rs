//! A model of the file with its lock: what is written is renamed into place, and what a killed process left is found.
//!
//! Always: any of its steps can be the last one of a process, and can fail.

use std::{
    fmt,
    sync::{Arc, Mutex},
};

use super::{
    planted::Bug,
    run::{Run, number_of},
};
use crate::{Error, RefreshTokenObject, StoreLock, Stored, TokenStore, caught::locked};

/// What is on the disk.
#[derive(Default)]
pub(super) struct Disk {
    file: Option<RefreshTokenObject>,
    /// Written and synced, and not renamed yet.
    temporary: Option<RefreshTokenObject>,
    note: Option<String>,
    /// Who has the lock: the process, and the number of its lock.
    lock: Option<(usize, usize)>,
    locks: usize,
}

impl Disk {
    pub(super) fn holder(&self) -> Option<usize> {
        self.lock.map(|(process, _)| process)
    }
}

/// The disk as one process sees it.
pub(super) struct FileStore {
    pub(super) run: Arc<Run>,
    pub(super) disk: Arc<Mutex<Disk>>,
    pub(super) company: usize,
    pub(super) process: usize,
    /// What was read last.
    pub(super) seen: Mutex<Option<Stored>>,
}

/// Free when dropped, also by a kill.
struct FileLock {
    disk: Arc<Mutex<Disk>>,
    number: usize,
    frees_anybodys: bool,
}

impl Drop for FileLock {
    fn drop(&mut self) {
        let mut disk = locked(&self.disk);
        disk.lock.take_if(|(_, number)| self.frees_anybodys || *number == self.number);
    }
}

impl FileStore {
    fn disk(&self) -> std::sync::MutexGuard<'_, Disk> {
        locked(&self.disk)
    }

    /// A killed process's reply that was not renamed yet, if no process is at work.
    fn adopt_leftover(&self, disk: &mut Disk) {
        if let Some(leftover) = disk.temporary.take()
            && !self.run.has(Bug::LeftoverDeleted)
        {
            self.show(disk, leftover);
        }
    }

    fn show(&self, disk: &mut Disk, token: RefreshTokenObject) {
        self.run.books().company(self.company).shown(self.run.now(), number_of(&token));
        disk.file = Some(token);
    }

    async fn step(&self) -> Result<(), Error> {
        self.run.store_step(true).await
    }
}

impl TokenStore for FileStore {
    async fn load(&self) -> Result<Option<RefreshTokenObject>, Error> {
        Ok(self.read().await?.token)
    }

    async fn read(&self) -> Result<Stored, Error> {
        self.step().await?;
        let mut disk = self.disk();
        if disk.lock.is_none() {
            self.adopt_leftover(&mut disk);
        }
        let stored = Stored::new(disk.file.clone(), disk.note.clone());
        *locked(&self.seen) = Some(stored.clone());
        Ok(stored)
    }

    async fn read_locked(&self, _: &StoreLock) -> Result<Stored, Error> {
        if self.run.has(Bug::StaleUnderTheLock)
            && let Some(seen) = locked(&self.seen).clone()
        {
            return Ok(seen);
        }
        self.read().await
    }

    async fn try_lock(&self) -> Result<Option<StoreLock>, Error> {
        self.step().await?;
        if self.disk().lock.is_some() {
            return Ok(None);
        }
        if self.run.has(Bug::CheckedThenLocked) {
            self.step().await?;
        }
        let mut disk = self.disk();
        self.adopt_leftover(&mut disk);
        disk.locks += 1;
        let number = disk.locks;
        disk.lock = Some((self.process, number));
        let frees_anybodys = self.run.has(Bug::UnlocksAnybodys);
        Ok(Some(StoreLock::new(FileLock { disk: Arc::clone(&self.disk), number, frees_anybodys })))
    }

    async fn rehearse(&self, _: Option<&RefreshTokenObject>, _: &StoreLock) -> Result<(), Error> {
        self.step().await
    }

    async fn save(&self, token: &RefreshTokenObject, _: &StoreLock) -> Result<(), Error> {
        let saved = || {
            let number = number_of(token);
            self.run.books().company(self.company).saved(self.run.now(), number);
            self.run.world.note(format!("{} saved {number} of {}", self.process, self.company));
        };
        if self.run.has(Bug::AnsweredBeforeSaved) {
            saved();
        }
        if let Err(e) = self.step().await {
            if self.run.has(Bug::FailureSwallowed) {
                return Ok(());
            }
            return Err(e);
        }
        self.disk().temporary = Some(token.clone());
        if !self.run.has(Bug::AnsweredBeforeSaved) {
            saved();
        }
        self.run.store_pause().await;
        {
            let mut disk = self.disk();
            disk.temporary = None;
            self.show(&mut disk, token.clone());
        }
        self.run.store_step(false).await
    }

    async fn remove(&self, _: &StoreLock) -> Result<(), Error> {
        self.step().await?;
        let mut disk = self.disk();
        (disk.file, disk.temporary) = (None, None);
        Ok(())
    }

    async fn remember(&self, note: Option<&str>, _: &StoreLock) -> Result<(), Error> {
        self.step().await?;
        if !self.run.has(Bug::NoteForgotten) {
            self.disk().note = note.map(str::to_owned);
        }
        Ok(())
    }

    fn is_local(&self) -> bool {
        true
    }

    fn describe(&self) -> String {
        "the file".to_owned()
    }
}

impl fmt::Debug for FileStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FileStore")
    }
}
