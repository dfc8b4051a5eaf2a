//! One JSON file, readable by SAP's Node.js sample and this crate alike.
//!
//! Always: readers never need the lock and never see half a file; no file of the user's is overwritten; files that a
//! killed process left behind are looked at, under the lock, before a grant is sent.

mod leftovers;
mod lock;
mod note;

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard},
    time::SystemTime,
};

use self::lock::FileLock;
use crate::{Error, RefreshTokenObject, StoreLock, Stored, TokenStore, caught::locked, files, log};

/// The room that one reply can take: it is read up to 256 KiB, and this crate adds a few members.
const ROOM_FOR_REPLY: usize = (256 + 4) * 1024;

/// The default store: one JSON file of mode 0600, such as `refreshTokenObjectFile.json`.
///
/// The file holds the whole reply of Concur's token endpoint, `companyUUID`, and this crate's own
/// `accessTokenExpiresAt`, `refreshTokenExpiresAt` and `refreshTokenReceivedAt` (Unix seconds). It is replaced by
/// renaming a complete, synced file over it. Processes exclude each other with an operating system lock on a side file
/// (`….lock`), which is free again when a process is killed. The other side files are `….note`, what Concur refused,
/// `….tmp-<random>`, a save in progress, and `….corrupt-<time>`, a token file that could not be used and was moved out of
/// the way.
///
/// File operations run in place, not on another thread: an unchanged file costs one `stat`.
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
    seen: Mutex<Seen>,
}

/// What earlier reads have found.
#[derive(Debug, Default)]
struct Seen {
    /// Leftovers were looked at under the lock, or there were none.
    leftovers_looked_for: bool,
    last_read: Option<LastRead>,
}

#[derive(Debug)]
struct LastRead {
    stamp: Stamp,
    token: Option<RefreshTokenObject>,
}

/// Changes whenever the file is replaced or written.
#[derive(Debug, PartialEq, Eq)]
struct Stamp {
    length: u64,
    modified: Option<SystemTime>,
    #[cfg(unix)]
    identity: (u64, u64, i64, i64),
}

impl Stamp {
    fn of(metadata: &fs::Metadata) -> Self {
        #[cfg(unix)]
        use std::os::unix::fs::MetadataExt as _;
        Self {
            length: metadata.len(),
            modified: metadata.modified().ok(),
            #[cfg(unix)]
            identity: (metadata.dev(), metadata.ino(), metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

impl JsonFileStore {
    /// The token file at `path`; it need not exist yet.
    pub fn new(path: impl AsRef<Path>) -> Self {
        let path = path.as_ref();
        // Absolute, so that errors name a place that can be found.
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        Self { path, seen: Mutex::default() }
    }

    fn read(&self) -> io::Result<Option<RefreshTokenObject>> {
        let mut seen = self.seen();
        if !seen.leftovers_looked_for {
            seen.leftovers_looked_for = self.recover();
        }
        let metadata = match fs::metadata(&self.path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            metadata => metadata?,
        };
        // Asked before opening: to open a named pipe would wait for its writer.
        files::regular(&metadata)?;
        if let Some(last) = seen.last_read.as_ref().filter(|last| last.stamp == Stamp::of(&metadata)) {
            return Ok(last.token.clone());
        }
        let mut file = match File::open(&self.path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file?,
        };
        let stamp = Stamp::of(&file.metadata()?);
        let token = usable(&files::read_open(&mut file)?);
        if token.is_none() {
            log::event!(warn, file = %self.path.display(), "the token file holds no usable refresh token");
        }
        seen.last_read = Some(LastRead { stamp, token: token.clone() });
        Ok(token)
    }

    /// Adopts the token that a killed process left, so that the token it replaced is not served; whether nothing is
    /// left. A process that may only read, or that finds the lock taken by a process that is saving, goes on with the
    /// file as it is.
    fn recover(&self) -> bool {
        let recovered = files::resolve(&self.path).and_then(|target| {
            if !leftovers::are_there(&target)? {
                return Ok(true);
            }
            let Ok(Some(lock)) = FileLock::try_acquire(target) else { return Ok(false) };
            leftovers::adopt(lock.target()).map(|()| true)
        });
        match recovered {
            Err(e) if e.kind() == io::ErrorKind::NotFound => true,
            Err(error) => {
                let file = self.path.display();
                log::event!(warn, %file, %error, "could not look for files that a killed process left");
                false
            }
            Ok(nothing_left) => nothing_left,
        }
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
        temp.write(token.as_json().as_bytes())?;
        // If a step below fails, this file is the only copy of a token that has replaced its predecessor.
        temp.keep();
        if let Err(e) = leftovers::set_aside_if_unusable(lock.target()).and_then(|()| temp.rename()) {
            // Where the folder was taken away, the file went with it, and the next attempt needs a new one.
            *reserved = Some(temp).filter(|_| e.kind() != io::ErrorKind::NotFound);
            return Err(e);
        }
        files::sync_folder(files::folder_of(lock.target()))
    }

    /// The same steps as [`Self::write`] with the current token, and then room for the reply.
    fn try_out(&self, held: Option<&RefreshTokenObject>, lock: &FileLock) -> io::Result<()> {
        leftovers::set_aside_if_unusable(lock.target())?;
        let mut room = ROOM_FOR_REPLY;
        if let Some(token) = held {
            let json = token.as_json();
            room += json.len();
            let mut temp = files::TempFile::create(lock.target())?;
            temp.write(json.as_bytes())?;
            temp.rename()?;
            files::sync_folder(files::folder_of(lock.target()))?;
        }
        let mut temp = files::TempFile::create(lock.target())?;
        temp.reserve(room)?;
        *lock.reserved() = Some(temp);
        Ok(())
    }

    fn delete(&self, lock: &FileLock) -> io::Result<()> {
        leftovers::set_aside_if_unusable(lock.target())?;
        match fs::remove_file(lock.target()) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed.and_then(|()| files::sync_folder(files::folder_of(lock.target()))),
        }
    }

    fn failed(&self, what: &str) -> impl FnOnce(io::Error) -> Error {
        let message = format!(
            "could not {what} {}; check that the file and its folder belong to this user, can be replaced, and \
             that the disk has room",
            self.path.display()
        );
        |e| Error::store(message, e)
    }

    fn lock<'a>(&self, lock: &'a StoreLock) -> Result<&'a FileLock, Error> {
        lock.get().ok_or_else(|| {
            Error::store(format!("{} was used with another store's lock", self.path.display()), "wrong lock")
        })
    }
}

/// The token in a file's content, if there is one.
fn usable(json: &[u8]) -> Option<RefreshTokenObject> {
    RefreshTokenObject::parse(json).ok()
}

impl TokenStore for JsonFileStore {
    async fn load(&self) -> Result<Option<RefreshTokenObject>, Error> {
        self.read().map_err(|e| {
            let path = self.path.display();
            Error::store(format!("could not read {path}; check that it is a file this user may read"), e)
        })
    }

    async fn save(&self, token: &RefreshTokenObject, lock: &StoreLock) -> Result<(), Error> {
        self.write(token, self.lock(lock)?).map_err(self.failed("save the token to"))
    }

    async fn remove(&self, lock: &StoreLock) -> Result<(), Error> {
        self.delete(self.lock(lock)?).map_err(self.failed("remove"))
    }

    async fn try_lock(&self) -> Result<Option<StoreLock>, Error> {
        let target = files::resolve(&self.path).map_err(self.failed("find the place of"))?;
        let Some(lock) = FileLock::try_acquire(target)? else {
            return Ok(None);
        };
        leftovers::adopt(lock.target()).map_err(self.failed("look at unfinished saves of"))?;
        // Under the lock the file is read again in any case: a stamp could miss a write within the same tick of the
        // clock.
        self.seen().last_read = None;
        Ok(Some(StoreLock::new(lock)))
    }

    async fn rehearse(&self, held: Option<&RefreshTokenObject>, lock: &StoreLock) -> Result<(), Error> {
        self.try_out(held, self.lock(lock)?).map_err(self.failed("save a token to"))
    }

    async fn read(&self) -> Result<Stored, Error> {
        let target = files::resolve(&self.path).map_err(self.failed("find the place of"))?;
        // A note that cannot be read is no reason not to renew.
        let note = note::read(&target).unwrap_or_else(|error| {
            log::event!(warn, file = %self.path.display(), %error, "could not read the note beside the token file");
            None
        });
        Ok(Stored::new(self.load().await?, note))
    }

    async fn remember(&self, note: Option<&str>, lock: &StoreLock) -> Result<(), Error> {
        let target = self.lock(lock)?.target();
        let is_possible = match fs::metadata(target) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            // Beside anything else, such as a folder, no process would read the note.
            metadata => metadata.and_then(|metadata| files::regular(&metadata)),
        };
        let written = is_possible.and_then(|()| note::write(target, note));
        written.map_err(self.failed("write the note beside"))
    }

    fn is_local(&self) -> bool {
        true
    }

    fn describe(&self) -> String {
        self.path.display().to_string()
    }
}
