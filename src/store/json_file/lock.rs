//! An operating system lock on a side file: a killed process leaves it free, with nothing to clean up.

use std::{
    fs::{File, TryLockError},
    io,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::{Error, files};

/// The lock, and the room reserved for the reply while it is held.
#[derive(Debug)]
pub(super) struct FileLock {
    // Dropped first: a reservation must be gone before somebody else may look for leftovers.
    reserved: Mutex<Option<files::TempFile>>,
    target: PathBuf,
    _file: File,
}

impl FileLock {
    /// The lock for `target`, whose symbolic links are resolved; `None` while somebody else holds it.
    pub(super) fn try_acquire(target: PathBuf) -> Result<Option<Self>, Error> {
        let path = files::beside(&target, ".lock");
        // Never deleted: who deletes a lock file lets the next one lock another.
        let file = files::open_or_create_private(&path).map_err(|e| {
            let path = path.display();
            Error::store(
                format!("could not open the lock file {path}; check that this user may write in its folder"),
                e,
            )
        })?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Self { reserved: Mutex::new(None), target, _file: file })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(e)) if e.kind() == io::ErrorKind::Interrupted => Ok(None),
            Err(TryLockError::Error(e)) => Err(Error::store(
                format!(
                    "could not lock {}; its file system may not support locks: keep the token file on a local \
                     disk, or implement TokenStore on something that several processes can lock",
                    path.display()
                ),
                e,
            )),
        }
    }

    pub(super) fn target(&self) -> &Path {
        &self.target
    }

    pub(super) fn reserved(&self) -> MutexGuard<'_, Option<files::TempFile>> {
        self.reserved.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
