//! An operating system lock on a side file: when a process is killed the lock is free, with nothing to clean up.
//!
//! Always: the process that took the lock unlocks it, so that a child that inherited the file does not keep it locked; a
//! forked child takes nothing away from its parent.

use std::{
    fs::{File, TryLockError},
    io, mem,
    path::{Path, PathBuf},
    process,
    sync::{Mutex, MutexGuard},
};

use crate::{
    Error,
    caught::locked,
    files::{self, Stamp},
    store::file_failure::could_not,
};

/// The lock, what is known of the token file, and the room reserved for the reply while the lock is held.
#[derive(Debug)]
pub(super) struct FileLock {
    reserved: Mutex<Option<files::TempFile>>,
    /// The token file as it was last read or written under this lock. Kept here: others read without the lock, and what they
    /// see this holder has not seen.
    known: Mutex<Option<Stamp>>,
    target: PathBuf,
    file: File,
    /// The process that took the lock.
    holder: u32,
}

impl FileLock {
    /// The lock for `target`, whose symbolic links are resolved; `None` while another process holds it.
    pub(super) fn try_acquire(target: PathBuf) -> Result<Option<Self>, Error> {
        let path = path_for(&target);
        // Never deleted: after that, the next process would lock another file than the current holder.
        let file = files::open_or_create_private(&path, &target).map_err(|e| {
            let advice = "check that it is no symbolic link, and that this user may write in its folder";
            could_not("open the lock file", &path, advice, e)
        })?;
        let is_ours = outcome(file.try_lock(), &path)?;
        let holder = process::id();
        let (reserved, known) = (Mutex::new(None), Mutex::new(None));
        Ok(is_ours.then(|| Self { reserved, known, target, file, holder }))
    }

    pub(super) fn target(&self) -> &Path {
        &self.target
    }

    pub(super) fn reserved(&self) -> MutexGuard<'_, Option<files::TempFile>> {
        locked(&self.reserved)
    }

    /// What the token file looks like after this holder has read or written it.
    pub(super) fn learn(&self, stamp: Option<Stamp>) {
        *locked(&self.known) = stamp;
    }

    /// Whether the token file is still what this holder knows, as far as its metadata can tell: a program without the lock
    /// may have written it.
    pub(super) fn is_as_known(&self) -> io::Result<bool> {
        let known = *locked(&self.known);
        match known {
            Some(known) => Ok(Stamp::of_file(&self.target)? == known),
            None => Ok(true),
        }
    }
}

impl Drop for FileLock {
    fn drop(&mut self) {
        let reserved = self.reserved().take();
        if self.holder == process::id() {
            // A reservation must be gone before another process may look for leftovers.
            drop(reserved);
            // To close the file would not unlock it while a child has it open. Nothing is lost if this fails: the file is
            // closed next.
            let _ = self.file.unlock();
        } else {
            // To drop it would delete the parent's file.
            mem::forget(reserved);
        }
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

pub(super) fn path_for(target: &Path) -> PathBuf {
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
    /// As a child of this process does that was forked while the lock was held, and lives on.
    #[cfg(unix)]
    #[test]
    fn a_child_that_inherited_the_file_does_not_keep_it_locked() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("token.json");
        let take = || FileLock::try_acquire(target.clone()).unwrap();
        let lock = take().unwrap();
        let inherited = lock.file.try_clone().unwrap();
        let mut child = process::Command::new("sleep").arg("60").stdin(inherited).spawn().unwrap();
        assert!(take().is_none());
        drop(lock);
        assert!(take().is_some());
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn a_forked_child_neither_unlocks_nor_deletes_what_its_parent_has() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("token.json");
        let take = || FileLock::try_acquire(target.clone()).unwrap();
        let lock = take().unwrap();
        let in_child = FileLock {
            reserved: Mutex::new(Some(files::TempFile::create(&target).unwrap())),
            known: Mutex::new(None),
            target: target.clone(),
            file: lock.file.try_clone().unwrap(),
            holder: lock.holder + 1,
        };
        drop(in_child);
        assert!(take().is_none());
        let is_reserved = |name: &str| name.contains(files::TempFile::INFIX);
        let mut names = dir.path().read_dir().unwrap().map(|entry| entry.unwrap().file_name());
        assert!(names.any(|name| is_reserved(name.to_str().unwrap())));
        drop(lock);
        assert!(take().is_some());
    }
}
