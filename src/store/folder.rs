//! The tokens of a fleet in a folder: one token file for each member, on one machine.
//!
//! Always: each token file is what [`JsonFileStore`](crate::JsonFileStore) makes of it. Which tokens are due is known from an
//! index in memory, which is kept up to date by looks into the folder; what it says is checked under the lock.

mod assignment;
mod claims;
mod index;
mod layout;
mod listing;
mod marker;
mod member_store;
mod outlook;
mod rounds;

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use self::{index::Index, member_store::MemberStore, outlook::Outlook, rounds::Rounds};
use crate::{
    BoxedStore, Clock, DueTokens, Error, FleetMember, FleetStore, JsonFileStore, Stored, SystemClock,
    TokenStore as _,
    caught::locked,
    clock::Guarded,
    sealing::{SealingKeys, TokenText},
    store::member_name::{NoStore, is_name, misnamed},
};

/// Keeps the tokens of a fleet in a folder: nothing to install, for any number of processes on one machine.
///
/// ```
/// use concur_auth::FolderFleet;
///
/// let store = FolderFleet::new("/var/lib/my-app/tokens");
/// # let _ = store;
/// ```
///
/// # The folder
///
/// Each member has a folder of its own, `ab/UUID` with the first two characters of its UUID, all in lower case. In it is a
/// [`JsonFileStore`](crate::JsonFileStore) called `refreshTokenObjectFile.json`, whose documentation says which other files
/// there are, and whose they are. `fleet.json` says which app's tokens the folder holds, and in which format; the folder of
/// another app is refused, and so is a later format. On Unix only the owner may read files and folders. The folder that this
/// one is in must be there.
///
/// # What is found when
///
/// What is saved by another process is found by looks into the folder: a new member within a minute, and a token in the place
/// of another within an hour. A token that another process has renewed meanwhile is not renewed again. For every member the
/// index takes less than 300 bytes, and once an hour its token file is read. The first
/// [`claim_due`](FleetStore::claim_due) of a process reads all of them.
///
/// Clones share the index.
#[derive(Clone, Debug)]
pub struct FolderFleet(Arc<Shared>);

struct Shared {
    place: PathBuf,
    clock: Arc<dyn Clock>,
    keys: Option<SealingKeys>,
    /// Tokens are due already when less than this is left of them.
    margin: Option<Duration>,
    /// The app that the folder is known to belong to.
    app_id: OnceLock<Arc<str>>,
    index: Mutex<Index>,
    /// From the first claim on: a process that claims nothing needs no index.
    keeps_index: AtomicBool,
    /// Locked while the folder is looked into. A second caller waits for the first look.
    rounds: tokio::sync::Mutex<Rounds>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("place", &self.place).finish_non_exhaustive()
    }
}

impl FolderFleet {
    /// The folder at `place`; it need not exist yet. Reads and makes nothing.
    pub fn new(place: impl AsRef<Path>) -> Self {
        let place = place.as_ref();
        // Absolute, so that errors name a place that can be found.
        let place = std::path::absolute(place).unwrap_or_else(|_| place.to_owned());
        Self(Arc::new(Shared::at(place)))
    }

    /// The clock. Default: [`SystemClock`].
    #[must_use]
    pub fn clock(self, clock: impl Clock) -> Self {
        self.change(|shared| shared.clock = Arc::new(Guarded(clock)))
    }

    /// Seals the token files and their side files. A token file that is not sealed is read, and sealed at its next save. Feature
    /// `sealing`.
    ///
    /// ```
    /// use concur_auth::{FolderFleet, SealingKeys};
    ///
    /// # let line = SealingKeys::generate("2026-11")?;
    /// let keys: SealingKeys = line.parse()?; // such as "2026-11:eyTz…"
    /// let store = FolderFleet::new("/var/lib/my-app/tokens").sealed_with(keys);
    /// # let _ = store;
    /// # Ok::<(), concur_auth::Error>(())
    /// ```
    #[cfg(feature = "sealing")]
    #[must_use]
    pub fn sealed_with(self, keys: SealingKeys) -> Self {
        self.change(|shared| shared.keys = Some(keys))
    }

    /// A store of its own: clones stay as they are.
    fn change(self, change: impl FnOnce(&mut Shared)) -> Self {
        let Shared { place, clock, keys, margin, .. } = &*self.0;
        let mut changed = Shared::at(place.clone());
        (changed.clock, changed.keys, changed.margin) = (Arc::clone(clock), keys.clone(), *margin);
        change(&mut changed);
        Self(Arc::new(changed))
    }
}

impl Shared {
    fn at(place: PathBuf) -> Self {
        let (app_id, index, keeps_index, rounds) = Default::default();
        let clock = Arc::new(SystemClock);
        Self { place, clock, keys: None, margin: None, app_id, index, keeps_index, rounds }
    }

    /// Makes the folder for this app, unless it is there; an error if it belongs to another app.
    fn make(&self, app_id: &Arc<str>) -> Result<(), Error> {
        if self.app_id.get() == Some(app_id) {
            return Ok(());
        }
        marker::make(&self.place, app_id)?;
        let _ = self.app_id.set(Arc::clone(app_id));
        Ok(())
    }

    /// The same for what only reads.
    fn check(&self, app_id: &str) -> Result<(), Error> {
        if self.app_id.get().is_some_and(|ours| **ours == *app_id) {
            return Ok(());
        }
        if marker::check(&self.place, app_id)? {
            let _ = self.app_id.set(app_id.into());
        }
        Ok(())
    }

    /// The same value each time, as far as it is known: many stores have it.
    fn shared_app_id(&self, app_id: &str) -> Arc<str> {
        self.app_id.get().filter(|ours| ***ours == *app_id).map_or_else(|| app_id.into(), Arc::clone)
    }

    /// The store of a member's token file.
    fn file(&self, app_id: &str, name: &str) -> JsonFileStore {
        JsonFileStore::new(layout::token_file(&self.place, name)).with_text(self.text(app_id, name))
    }

    fn text(&self, app_id: &str, name: &str) -> TokenText {
        TokenText::of_principal(self.keys.as_ref(), app_id, name)
    }

    fn outlook(&self, stored: &Stored, name: &str, now: SystemTime) -> Option<Outlook> {
        Outlook::of(stored, name, now, self.margin)
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        locked(&self.index)
    }

    fn keep_index(&self) {
        self.keeps_index.store(true, Ordering::Release);
    }

    /// Tells the index what this process has changed.
    fn tell(&self, change: impl FnOnce(&mut Index)) {
        if self.keeps_index.load(Ordering::Acquire) {
            change(&mut self.index());
        }
    }
}

impl FleetStore for FolderFleet {
    fn of(&self, app_id: &str, principal: &str) -> BoxedStore {
        let name = principal.to_ascii_lowercase();
        if !is_name(&name) {
            return NoStore(misnamed()).boxed();
        }
        MemberStore::new(Arc::clone(&self.0), self.0.shared_app_id(app_id), &name).boxed()
    }

    async fn claim_due(&self, app_id: &str, most: usize) -> Result<DueTokens, Error> {
        let shared = &*self.0;
        shared.make(&shared.shared_app_id(app_id))?;
        let mut rounds = shared.rounds.lock().await;
        rounds.look(shared, app_id, shared.clock.now()).await?;
        let unreadable = rounds.take_unreadable();
        drop(rounds);
        let mut due = claims::claim(shared, app_id, most).await;
        due.failed.extend(unreadable);
        Ok(due)
    }

    /// As far as this process has come across them.
    async fn count_busy(&self, app_id: &str) -> Result<u64, Error> {
        self.0.check(app_id)?;
        Ok(self.0.index().busy_ones())
    }

    async fn list(&self, app_id: &str, after: Option<&str>, most: usize) -> Result<Vec<FleetMember>, Error> {
        self.0.check(app_id)?;
        listing::list(&self.0, app_id, after, most)
    }

    async fn member(&self, app_id: &str, principal: &str) -> Result<Option<FleetMember>, Error> {
        let name = principal.to_ascii_lowercase();
        if !is_name(&name) {
            return Err(misnamed());
        }
        self.0.check(app_id)?;
        Ok(listing::member_called(&self.0, app_id, &name))
    }

    async fn assign(&self, app_id: &str, pending: &str, principal: &str) -> Result<(), Error> {
        let (pending, principal) = (pending.to_ascii_lowercase(), principal.to_ascii_lowercase());
        if !is_name(&pending) || !is_name(&principal) {
            return Err(misnamed());
        }
        let app_id = self.0.shared_app_id(app_id);
        self.0.make(&app_id)?;
        assignment::assign(&self.0, &app_id, &pending, &principal).await
    }

    #[cfg(feature = "sealing")]
    async fn count_by_sealing_key(
        &self,
        app_id: &str,
    ) -> Result<std::collections::BTreeMap<Option<String>, u64>, Error> {
        self.0.check(app_id)?;
        listing::count_by_sealing_key(&self.0.place)
    }

    fn refresh_token_margin(&mut self, margin: Duration) -> Result<(), Error> {
        *self = self.clone().change(|shared| shared.margin = Some(margin));
        Ok(())
    }

    #[cfg(feature = "sealing")]
    fn seal_with(&mut self, keys: SealingKeys) -> Result<(), Error> {
        *self = self.clone().sealed_with(keys);
        Ok(())
    }

    fn describe(&self) -> String {
        self.0.place.display().to_string()
    }
}
