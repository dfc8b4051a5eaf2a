//! One JSON file, readable by SAP's Node.js sample and this crate alike.
//!
//! Always: readers never need the lock and never see half a file; no file of the user's is overwritten; files that a
//! killed process left behind are looked at, under the lock, before a grant is sent. What has not changed is not read again.

mod leftovers;
mod lock;
#[cfg(test)]
mod lock_model;
mod note;

use std::{
    borrow::Cow,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard},
};

use self::lock::FileLock;
use crate::{
    Error, ErrorKind, RefreshTokenObject, StoreLock, Stored, TokenStore,
    caught::locked,
    clock::{Clock as _, SystemClock},
    files::{self, Stamp},
    log,
    sealing::{TokenText, Unusable},
    store::file_failure::could_not,
};

/// The room that one reply can take: it is read up to 256 KiB, and this crate adds a few members, for which there are 4 KiB.
const ROOM_FOR_REPLY: usize = 266_240;

/// The default store: one JSON file of mode 0600, such as `refreshTokenObjectFile.json`.
///
/// The file holds the whole reply of Concur's token endpoint, `companyUUID`, and this crate's own
/// `accessTokenExpiresAt`, `refreshTokenExpiresAt` and `refreshTokenReceivedAt` (Unix seconds). It is replaced by
/// renaming a complete, synced file over it. Processes exclude each other with an operating system lock on a side file
/// (`….lock`), which is free again when a process is killed. The other side files are `….note`, what Concur refused,
/// `….tmp-<random>`, a save in progress, and `….corrupt-<time>`, a token file that could not be used and was moved out of
/// the way.
///
/// File operations run in place, not on another thread: a look at unchanged files costs three `stat`s, of the token file,
/// its folder and the note. The folder is listed only when it has changed, or has changed within 2 seconds before the
/// last look, to find what a killed process left. In a folder that other programs, or thousands of tenants, change all
/// the time that is every look, so give the tenants folders of their own.
///
/// # Programs without the lock
///
/// SAP's sample program and a person's editor take no lock. What they write is noticed until right before a renewal sends
/// its grant, and then used instead. What they write while the request is under way is replaced by the reply, and what
/// they write between the last look before a rename and that rename, a few microseconds, is lost.
///
/// # Owners
///
/// On Unix, new files get the owner of the token file. Where there is no token file yet, root gives them the owner of the
/// folder, so that the program that owns the folder can go on after root has run it once; any other user's files are that
/// user's own. If the token file belongs to another user whose file cannot be made, an error says so before anything is
/// sent. A lock or a note that is a symbolic link is refused.
///
/// ```
/// use concur_auth::{JsonFileStore, TokenManager};
///
/// let store = JsonFileStore::new("/var/lib/my-app/concur-token.json");
/// let tokens = TokenManager::builder().store(store).build()?;
/// # Ok::<(), concur_auth::Error>(())
/// ```
#[derive(Debug)]
pub struct JsonFileStore {
    path: PathBuf,
    text: TokenText,
    seen: Mutex<Seen>,
}

/// What earlier looks have found.
#[derive(Debug, Default)]
struct Seen {
    place: Option<Place>,
    token: Option<LastRead>,
    note: Option<Box<note::LastRead>>,
}

/// Where the token file is.
#[derive(Debug)]
struct Place {
    /// The store's path with every symbolic link resolved, if there are any. Many managers have a path each.
    target: Option<Box<Path>>,
    /// The folder as it was when it held no leftovers.
    folder: Option<Stamp>,
}

impl Place {
    fn target<'a>(&'a self, path: &'a Path) -> &'a Path {
        self.target.as_deref().unwrap_or(path)
    }

    /// Whether the folder is what it was when it held no leftovers.
    fn is_free_of_leftovers(&self, target: &Path) -> bool {
        self.folder.is_some() && self.folder == Stamp::of_folder(files::folder_of(target)).ok()
    }
}

#[derive(Clone, Debug)]
struct LastRead {
    stamp: Stamp,
    token: Option<RefreshTokenObject>,
}

impl LastRead {
    /// `stamp` is the file's, from a moment ago.
    fn of(path: &Path, stamp: Stamp, text: &TokenText) -> io::Result<Self> {
        let nothing = Self { stamp: Stamp::NOTHING, token: None };
        if stamp == Stamp::NOTHING {
            return Ok(nothing);
        }
        let Some(mut file) = files::if_there(File::open(path))? else { return Ok(nothing) };
        let stamp = Stamp::of(&file.metadata()?);
        let token = usable(&files::read_open(&mut file)?, text)?;
        if token.is_none() {
            log::event!(warn, file = %path.display(), "the token file holds no usable refresh token");
        }
        Ok(Self { stamp, token })
    }
}

impl JsonFileStore {
    /// The token file at `path`; it need not exist yet.
    pub fn new(path: impl AsRef<Path>) -> Self {
        let path = path.as_ref();
        // Absolute, so that errors name a place that can be found.
        let mut path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        path.shrink_to_fit();
        Self { path, text: TokenText::default(), seen: Mutex::default() }
    }

    /// Seals the token file and its side files. A token file that is not sealed is read, and sealed at the next save. Feature
    /// `sealing`.
    ///
    /// ```
    /// use concur_auth::{JsonFileStore, SealingKeys};
    ///
    /// # let line = SealingKeys::generate("2026-11")?;
    /// let keys: SealingKeys = line.parse()?; // such as "2026-11:eyTz…"
    /// let store = JsonFileStore::new("/var/lib/my-app/concur-token.json").sealed_with(keys);
    /// # let _ = store;
    /// # Ok::<(), concur_auth::Error>(())
    /// ```
    #[cfg(feature = "sealing")]
    #[must_use]
    pub fn sealed_with(self, keys: crate::SealingKeys) -> Self {
        self.with_text(TokenText::sealed(keys, ""))
    }

    pub(crate) fn with_text(self, text: TokenText) -> Self {
        Self { text, ..self }
    }

    /// The token as it is now, after which `seen` has the place, too. `NotFound`: the folder is missing.
    fn look(&self, seen: &mut Seen) -> io::Result<Option<RefreshTokenObject>> {
        if let Some(last) = seen.token.as_ref().filter(|last| last.stamp != Stamp::NOTHING)
            && last.stamp == Stamp::of_file(&self.path)?
            && seen.place.as_ref().is_some_and(|place| place.is_free_of_leftovers(place.target(&self.path)))
        {
            return Ok(last.token.clone());
        }
        let target = files::resolve(&self.path)?;
        if !self.is_free_of_leftovers(seen, &target) {
            let folder = self.recover(&target);
            seen.place = Some(self.place(&target, folder));
        }
        let stamp = Stamp::of_file(&self.path)?;
        match &seen.token {
            Some(last) if last.stamp == stamp => Ok(last.token.clone()),
            _ => Ok(seen.token.insert(LastRead::of(&self.path, stamp, &self.text)?).token.clone()),
        }
    }

    /// Adopts the token that a killed process left, so that the token it replaced is not served. A process that may only
    /// read, or that finds the lock taken by a process that is saving, goes on with the file as it is.
    fn recover(&self, target: &Path) -> Option<Stamp> {
        let recovered = leftovers::list(target).and_then(|listing| {
            if listing.is_empty() {
                return Ok(listing.folder(SystemClock.now()));
            }
            if let Ok(Some(lock)) = FileLock::try_acquire(target.to_owned()) {
                leftovers::adopt(leftovers::list(lock.target())?, lock.target(), &self.text)?;
            }
            Ok(None)
        });
        recovered.unwrap_or_else(|error| {
            let file = self.path.display();
            log::event!(warn, %file, %error, "could not look for files that a killed process left");
            None
        })
    }

    /// Token and note as they are. Nothing is locked or written, so what a killed process left is not found.
    pub(super) fn peek(&self) -> Result<Stored, Error> {
        let stamp = Stamp::of_file(&self.path);
        let read = stamp
            .and_then(|stamp| LastRead::of(&self.path, stamp, &self.text))
            .map_err(|e| self.could_not_read(e))?;
        let note = if read.token.is_some() { self.note(&self.target(), &mut None)? } else { None };
        Ok(Stored::new(read.token, note))
    }

    /// Where the side files are.
    fn target(&self) -> Cow<'_, Path> {
        let is_link = fs::symlink_metadata(&self.path).is_ok_and(|metadata| metadata.is_symlink());
        let target = if is_link { files::resolve(&self.path).ok() } else { None };
        target.map_or(Cow::Borrowed(&*self.path), Cow::Owned)
    }

    /// Moves the token of another store to this store, in place of its token, in one step. Both are locked. What is noted here
    /// is about the token that was here, so it goes first: a crash in between costs a request that is refused once more.
    pub(super) fn take_over(
        &self,
        token: &RefreshTokenObject,
        lock: &StoreLock,
        from: &Self,
        from_lock: &StoreLock,
    ) -> Result<(), Error> {
        let (lock, from_lock) = (self.lock(lock)?, from.lock(from_lock)?);
        let moved = || {
            leftovers::set_aside_if_unusable(lock.target(), &self.text)?;
            note::write(lock.target(), None, &self.text)?;
            if self.text.is_sealed() {
                // It is sealed for its new place before it is moved there, so that it is never in two places.
                let mut temp = files::TempFile::create(from_lock.target())?;
                temp.write(self.text.of(token).map_err(io::Error::other)?.as_bytes())?;
                temp.rename()?;
            }
            // Another program may have written it. Windows syncs only what may be written.
            fs::OpenOptions::new().read(true).write(true).open(from_lock.target())?.sync_all()?;
            fs::rename(from_lock.target(), lock.target())?;
            files::sync_folder(files::folder_of(lock.target()))?;
            files::sync_folder(files::folder_of(from_lock.target()))
        };
        let what = format!("move the token of {} to", from.path.display());
        moved().map_err(self.failed(&what))
    }

    /// Removes the folder of a store that is not used any more, and that holds no token. Other files stay, and the folder with
    /// them.
    pub(super) fn remove_folder(&self) -> io::Result<()> {
        let target = self.target();
        note::write(&target, None, &self.text)?;
        files::remove_if_there(&lock::path_for(&target))?;
        files::if_there(fs::remove_dir(files::folder_of(&self.path))).map(drop)
    }

    pub(super) fn folder(&self) -> &Path {
        files::folder_of(&self.path)
    }

    fn place(&self, target: &Path, folder: Option<Stamp>) -> Place {
        Place { target: Some(target.into()).filter(|_| target != self.path), folder }
    }

    /// Whether no leftovers of `target` can have come since the last look.
    fn is_free_of_leftovers(&self, seen: &Seen, target: &Path) -> bool {
        let place = seen.place.as_ref().filter(|place| place.target(&self.path) == target);
        place.is_some_and(|place| place.is_free_of_leftovers(target))
    }

    fn has_no_place(&self, e: io::Error) -> Error {
        could_not("find the place of", &self.path, "check that the folder in which it is to be is there", e)
    }

    fn could_not_read(&self, e: io::Error) -> Error {
        could_not("read", &self.path, "check that it is a file this user may read", e)
    }

    /// A note that is out of reach is no reason not to renew. A note that is sealed may say that nothing must be sent.
    fn note(&self, target: &Path, last: &mut Option<Box<note::LastRead>>) -> Result<Option<String>, Error> {
        note::read(target, last, &self.text).or_else(|error| {
            let failed = could_not("read", &note::path_for(target), "check that this user may read it", error);
            if failed.kind() == ErrorKind::Config {
                return Err(failed);
            }
            log::event!(warn, error = %failed, cause = log::causes(&failed), "could not read the note beside the token file");
            Ok(None)
        })
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        locked(&self.seen)
    }

    fn write(&self, token: &RefreshTokenObject, lock: &FileLock) -> io::Result<()> {
        let mut reserved = lock.reserved();
        let mut temp = match reserved.take() {
            Some(temp) => temp,
            None => files::TempFile::create(lock.target())?,
        };
        temp.write(self.text.of(token).map_err(io::Error::other)?.as_bytes())?;
        // If a step below fails, this file is the only copy of a token that has replaced its predecessor.
        temp.keep();
        if let Err(e) =
            leftovers::set_aside_if_unusable(lock.target(), &self.text).and_then(|_| temp.rename())
        {
            // Where the folder was taken away, the file went with it, and the next attempt needs a new one.
            *reserved = Some(temp).filter(|_| e.kind() != io::ErrorKind::NotFound);
            return Err(e);
        }
        put_in_place(&temp, lock)
    }

    /// The same steps as [`Self::write`] with the current token, and then room for the reply; `false` if a program without
    /// the lock has written the token file since it was read.
    fn try_out(&self, held: Option<&RefreshTokenObject>, lock: &FileLock) -> io::Result<bool> {
        if !lock.is_as_known()? {
            return Ok(false);
        }
        if leftovers::set_aside_if_unusable(lock.target(), &self.text)? {
            lock.learn(Some(Stamp::NOTHING));
        }
        let mut room = self.text.length_of(ROOM_FOR_REPLY);
        if let Some(token) = held {
            let text = self.text.of(token).map_err(io::Error::other)?;
            room += text.len();
            let mut temp = files::TempFile::create(lock.target())?;
            temp.write(text.as_bytes())?;
            // Again, as late as can be: to write and sync takes time.
            if !lock.is_as_known()? {
                return Ok(false);
            }
            temp.rename()?;
            put_in_place(&temp, lock)?;
        }
        let mut temp = files::TempFile::create(lock.target())?;
        temp.reserve(room)?;
        // That took time, too, and the request comes next.
        if !lock.is_as_known()? {
            return Ok(false);
        }
        *lock.reserved() = Some(temp);
        Ok(true)
    }

    fn delete(&self, lock: &FileLock) -> io::Result<()> {
        leftovers::set_aside_if_unusable(lock.target(), &self.text)?;
        if files::if_there(fs::remove_file(lock.target()))?.is_some() {
            files::sync_folder(files::folder_of(lock.target()))?;
        }
        lock.learn(Some(Stamp::NOTHING));
        Ok(())
    }

    fn failed(&self, what: &str) -> impl FnOnce(io::Error) -> Error {
        let advice = "check that the file and its folder belong to this user, can be replaced, and that the disk has room";
        move |e| could_not(what, &self.path, advice, e)
    }

    fn lock<'a>(&self, lock: &'a StoreLock) -> Result<&'a FileLock, Error> {
        lock.of_store(self.path.display())
    }
}

/// What is left to do after a rename.
fn put_in_place(renamed: &files::TempFile, lock: &FileLock) -> io::Result<()> {
    lock.learn(renamed.metadata().ok().map(|metadata| Stamp::of(&metadata)));
    files::sync_folder(files::folder_of(lock.target()))
}

/// The token in a file's content, if there is one; an error if it is sealed and cannot be opened.
fn usable(content: &[u8], text: &TokenText) -> io::Result<Option<RefreshTokenObject>> {
    match text.token(content) {
        Ok(token) => Ok(Some(token)),
        Err(Unusable::NotAToken(_)) => Ok(None),
        Err(Unusable::Sealed(e)) => Err(io::Error::other(e)),
    }
}

impl TokenStore for JsonFileStore {
    async fn load(&self) -> Result<Option<RefreshTokenObject>, Error> {
        // The folder may be missing.
        let found = files::if_there(self.look(&mut self.seen()));
        Ok(found.map_err(|e| self.could_not_read(e))?.flatten())
    }

    async fn save(&self, token: &RefreshTokenObject, lock: &StoreLock) -> Result<(), Error> {
        self.write(token, self.lock(lock)?).map_err(self.failed("save the token to"))
    }

    async fn remove(&self, lock: &StoreLock) -> Result<(), Error> {
        self.delete(self.lock(lock)?).map_err(self.failed("remove"))
    }

    async fn try_lock(&self) -> Result<Option<StoreLock>, Error> {
        let target = files::resolve(&self.path).map_err(|e| self.has_no_place(e))?;
        let Some(lock) = FileLock::try_acquire(target)? else {
            return Ok(None);
        };
        let mut seen = self.seen();
        if !self.is_free_of_leftovers(&seen, lock.target()) {
            let failed = self.failed("look at unfinished saves of");
            let folder = leftovers::list(lock.target()).and_then(|listing| {
                let folder = listing.folder(SystemClock.now());
                leftovers::adopt(listing, lock.target(), &self.text).map(|()| folder)
            });
            seen.place = Some(self.place(lock.target(), folder.map_err(failed)?));
        }
        // Under the lock the files are read again in any case: a stamp could miss a write within the same tick of the clock.
        (seen.token, seen.note) = (None, None);
        Ok(Some(StoreLock::new(lock)))
    }

    async fn rehearse(&self, held: Option<&RefreshTokenObject>, lock: &StoreLock) -> Result<(), Error> {
        if self.try_out(held, self.lock(lock)?).map_err(self.failed("save a token to"))? {
            return Ok(());
        }
        let path = self.path.display();
        Err(Error::superseded(format!(
            "{path} was changed by a program that does not take its lock; read it again"
        )))
    }

    async fn read(&self) -> Result<Stored, Error> {
        let mut seen = self.seen();
        let token = self.look(&mut seen).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => self.has_no_place(e),
            _ => self.could_not_read(e),
        })?;
        let Seen { place, note, .. } = &mut *seen;
        let note = match &place {
            Some(place) => self.note(place.target(&self.path), note)?,
            None => None,
        };
        Ok(Stored::new(token, note))
    }

    /// Reads the file that is locked, wherever a symbolic link may lead by now.
    async fn read_locked(&self, lock: &StoreLock) -> Result<Stored, Error> {
        let lock = self.lock(lock)?;
        let stamp = Stamp::of_file(lock.target());
        let read = stamp.and_then(|stamp| LastRead::of(lock.target(), stamp, &self.text));
        let LastRead { stamp, token } = read.map_err(|e| self.could_not_read(e))?;
        lock.learn(Some(stamp));
        Ok(Stored::new(token, self.note(lock.target(), &mut None)?))
    }

    async fn remember(&self, note: Option<&str>, lock: &StoreLock) -> Result<(), Error> {
        let target = self.lock(lock)?.target();
        // Beside anything else than a file, such as a folder, no process would read the note.
        let is_possible = Stamp::of_file(target);
        let written = is_possible.and_then(|_| note::write(target, note, &self.text));
        written.map_err(self.failed("write the note beside"))
    }

    fn is_local(&self) -> bool {
        true
    }

    fn describe(&self) -> String {
        self.path.display().to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_removed_once_and_stays_with_files_that_are_not_the_stores() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("member");
        let store = JsonFileStore::new(folder.join("token.json"));
        for name in ["", "mine.txt"] {
            fs::create_dir(&folder).unwrap();
            fs::write(lock::path_for(&folder.join("token.json")), "").unwrap();
            if name.is_empty() {
                store.remove_folder().unwrap();
                store.remove_folder().unwrap();
                assert!(!folder.exists());
            } else {
                fs::write(folder.join(name), "").unwrap();
                store.remove_folder().unwrap_err();
                assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
            }
        }
    }
}
