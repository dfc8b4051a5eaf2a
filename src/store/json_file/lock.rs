//! An operating system lock on a side file: when a process is killed the lock is free, with nothing to clean up.

use std::{
    fs::{File, TryLockError},
    io,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard},
};

use crate::{Error, caught::locked, files};

/// The lock, and the room reserved for the reply while it is held.
#[derive(Debug)]
pub(super) struct FileLock {
    // Dropped first: a reservation must be gone before another process may look for leftovers.
    reserved: Mutex<Option<files::TempFile>>,
    target: PathBuf,
    // The lock itself: closing the file releases it.
    _file: File,
}

impl FileLock {
    /// The lock for `target`, whose symbolic links are resolved; `None` while another process holds it.
    pub(super) fn try_acquire(target: PathBuf) -> Result<Option<Self>, Error> {
        let path = path_for(&target);
        // Never deleted: after that, the next process would lock another file than the current holder.
        let file = files::open_or_create_private(&path).map_err(|e| {
            let path = path.display();
            Error::store(
                format!("could not open the lock file {path}; check that this user may write in its folder"),
                e,
            )
        })?;
        let is_ours = outcome(file.try_lock(), &path)?;
        Ok(is_ours.then(|| Self { reserved: Mutex::new(None), target, _file: file }))
    }

    pub(super) fn target(&self) -> &Path {
        &self.target
    }

    pub(super) fn reserved(&self) -> MutexGuard<'_, Option<files::TempFile>> {
        locked(&self.reserved)
    }
}

/// Whether the lock was taken; an error if it never can be.
fn outcome(tried: Result<(), TryLockError>, path: &Path) -> Result<bool, Error> {
    match tried {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(e)) if e.kind() == io::ErrorKind::Interrupted => Ok(false),
        Err(TryLockError::Error(e)) => Err(Error::store(
            format!(
                "could not lock {}; its file system may not support locks: keep the token file on a local disk, or \
                 implement TokenStore on something that several processes can lock",
                path.display()
            ),
            e,
        )),
    }
}

fn path_for(target: &Path) -> PathBuf {
    files::beside(target, ".lock")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_system_without_locks_is_reported() {
        let path = Path::new("/net/token.json.lock");
        for (tried, ours) in [
            (Ok(()), true),
            (Err(TryLockError::WouldBlock), false),
            (Err(TryLockError::Error(io::ErrorKind::Interrupted.into())), false),
        ] {
            assert_eq!(outcome(tried, path).unwrap(), ours);
        }
        let unsupported = TryLockError::Error(io::ErrorKind::Unsupported.into());
        assert_eq!(
            outcome(Err(unsupported), path).unwrap_err().to_string(),
            "could not lock /net/token.json.lock; its file system may not support locks: keep the token file on a local \
             disk, or implement TokenStore on something that several processes can lock"
        );
    }
}
