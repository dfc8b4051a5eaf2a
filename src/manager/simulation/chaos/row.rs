//! A model of the row with its lease: each statement takes effect at once, and its answer may be lost.
//!
//! Always: as the statements of `PostgresStore`, whose every state `lease_model` explores; here the real renewal runs on
//! them.

use std::{
    fmt,
    sync::{Arc, Mutex},
    time::Duration,
};

use super::{
    super::HOUR,
    books::LEASE,
    planted::Bug,
    run::{Run, SECOND, number_of},
};
use crate::{Error, RefreshTokenObject, StoreLock, Stored, TokenStore, caught::locked};

const LATE_SAVE: Duration = Duration::from_secs(10);
const DOUBT: Duration = HOUR;

#[derive(Default)]
pub(super) struct Row {
    token: Option<RefreshTokenObject>,
    note: Option<String>,
    base: Base,
    lease: Option<Lease>,
    in_doubt_since: Option<Duration>,
    holders: usize,
    saves: usize,
}

#[derive(Clone, Copy)]
struct Lease {
    process: usize,
    holder: usize,
    until: Duration,
    /// How long its process had been suspended before.
    suspended: Duration,
}

/// What a save compares the row with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Base {
    save: Option<usize>,
    sign_in: usize,
}

impl Row {
    pub(super) fn holder(&self, now: Duration) -> Option<usize> {
        self.lease.filter(|lease| lease.until > now).map(|lease| lease.process)
    }

    fn stored(&self) -> Stored {
        Stored::new(self.token.clone(), self.note.clone())
    }
}

/// The row as one process sees it.
#[derive(Clone)]
pub(super) struct RowStore {
    pub(super) run: Arc<Run>,
    pub(super) row: Arc<Mutex<Row>>,
    pub(super) company: usize,
    pub(super) process: usize,
    /// The save that was read last, until a lease is taken.
    last_read: Arc<Mutex<Option<Option<usize>>>>,
    seen: Arc<Mutex<Option<Stored>>>,
}

/// Gives the lease back in the background when it is dropped, unless its process was killed.
struct Claim {
    store: RowStore,
    holder: usize,
    known: Mutex<Known>,
}

struct Known {
    found: Option<Stored>,
    base: Base,
    /// What was saved last, or is being saved, and the number of its save.
    reply: Option<(RefreshTokenObject, usize)>,
    is_released: bool,
}

impl Drop for Claim {
    fn drop(&mut self) {
        if !locked(&self.known).is_released {
            self.store.release_in_background(self.holder);
        }
    }
}

/// A lease may have been taken by a statement that was not answered.
struct Unanswered<'a>(&'a RowStore, Option<usize>);

impl Drop for Unanswered<'_> {
    fn drop(&mut self) {
        if let Some(holder) = self.1 {
            self.0.release_in_background(holder);
        }
    }
}

impl RowStore {
    pub(super) fn new(run: &Arc<Run>, row: &Arc<Mutex<Row>>, company: usize, process: usize) -> Self {
        let (run, row) = (Arc::clone(run), Arc::clone(row));
        Self { run, row, company, process, last_read: Arc::default(), seen: Arc::default() }
    }

    /// One statement: what it does is done even if its answer is lost.
    async fn run<T>(&self, statement: impl FnOnce(&mut Row, Duration) -> T) -> Result<T, Error> {
        self.run.store_step(true).await?;
        let done = statement(&mut locked(&self.row), self.run.now());
        self.run.store_step(false).await?;
        Ok(done)
    }

    fn release_in_background(&self, holder: usize) {
        if self.run.world.is_dead(self.process) {
            return;
        }
        let store = self.clone();
        let work = async move { drop(store.release(holder).await) };
        self.run.world.spawn(self.process, work);
    }

    async fn release(&self, holder: usize) -> Result<(), Error> {
        let frees_anybodys = self.run.has(Bug::UnlocksAnybodys);
        self.run(|row, _| _ = row.lease.take_if(|lease| frees_anybodys || lease.holder == holder)).await
    }

    async fn claim(&self, leaves_alone: Duration) -> Result<Option<StoreLock>, Error> {
        let only_on = locked(&self.last_read).take();
        let holder = {
            let mut row = locked(&self.row);
            row.holders += 1;
            row.holders
        };
        let mut unanswered = Unanswered(self, Some(holder));
        let lasts = if self.run.has(Bug::ShortLease) { LEASE / 10 } else { LEASE };
        let (process, company) = (self.process, self.company);
        if self.run.has(Bug::CheckedThenLocked) {
            let is_held = self.run(|row, now| row.holder(now).is_some()).await?;
            if is_held {
                return Ok(None);
            }
        }
        let claimed = self
            .run(|row, now| {
                if row.holder(now).is_some() && !self.run.has(Bug::CheckedThenLocked) {
                    return None;
                }
                let since = row.lease.map(|lease| lease.until).or(row.in_doubt_since);
                let is_left_alone = since.is_some_and(|since| since + leaves_alone > now);
                if is_left_alone || only_on.is_some_and(|save| save != row.base.save) {
                    return None;
                }
                if let Some(lease) = row.lease {
                    // Whoever had it may have spent the token.
                    let was_suspended = self.run.suspended(lease.process) > lease.suspended;
                    self.run.books().lapsed(company, was_suspended);
                }
                row.in_doubt_since = since;
                let suspended = self.run.suspended(process);
                row.lease = Some(Lease { process, holder, until: now + lasts, suspended });
                Some((row.stored(), row.base, since.is_some()))
            })
            .await?;
        unanswered.1 = None;
        Ok(claimed.map(|(found, base, in_doubt)| {
            let known = Known { found: Some(found), base, reply: None, is_released: false };
            let claim = Claim { store: self.clone(), holder, known: Mutex::new(known) };
            let lock = StoreLock::new(claim).with_lease(LEASE);
            if in_doubt { lock.in_doubt(LATE_SAVE) } else { lock }
        }))
    }

    fn claimed<'a>(&self, lock: &'a StoreLock) -> Result<&'a Claim, Error> {
        lock.of_store("the row")
    }

    fn saved(&self, number: usize) {
        self.run.saved_and_shown(self.company, number);
        self.run.world.note(format!("{} saved {number} of {}", self.process, self.company));
    }
}

impl Claim {
    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        locked(&self.known)
    }

    /// The number of this reply's save, however often it is tried, and what it starts from.
    fn begin_save(&self, token: &RefreshTokenObject) -> (usize, Base) {
        let mut known = self.known();
        known.found = None;
        let again = known.reply.as_ref().filter(|(before, _)| before.is_same_reply(token));
        let save = again.map(|(_, save)| *save).unwrap_or_else(|| {
            let mut row = locked(&self.store.row);
            row.saves += 1;
            row.saves
        });
        known.reply = Some((token.clone(), save));
        (save, known.base)
    }

    /// `last`: with this note, and the lease is over.
    async fn save(
        &self,
        token: &RefreshTokenObject,
        replaces_any: bool,
        last: Option<Option<&str>>,
    ) -> Result<(), Error> {
        let (save, base) = self.begin_save(token);
        let store = &self.store;
        if store.run.has(Bug::AnsweredBeforeSaved) {
            store.saved(number_of(token));
        }
        let saved = store
            .run(|row, _| {
                if row.base.save == Some(save) {
                    return Some(row.base);
                }
                let is_own_lease = row.lease.is_some_and(|lease| lease.holder == self.holder);
                let is_same_sign_in = row.base.sign_in == base.sign_in;
                let is_on_base = is_same_sign_in && (replaces_any || is_own_lease || row.base == base);
                if !is_on_base && !store.run.has(Bug::LateSaveOverwrites) {
                    return None;
                }
                row.token = Some(token.clone());
                row.base.save = Some(save);
                row.base.sign_in += usize::from(replaces_any);
                row.in_doubt_since = None;
                if let Some(note) = last {
                    row.note = note.map(str::to_owned);
                    row.lease.take_if(|lease| lease.holder == self.holder);
                }
                store.saved(number_of(token));
                Some(row.base)
            })
            .await;
        let saved = match saved {
            Err(_) if store.run.has(Bug::FailureSwallowed) => return Ok(()),
            saved => saved?,
        };
        let base = saved.ok_or_else(|| Error::superseded("another process has saved a newer token"))?;
        let mut known = self.known();
        known.base = base;
        known.is_released |= last.is_some();
        Ok(())
    }
}

impl TokenStore for RowStore {
    async fn load(&self) -> Result<Option<RefreshTokenObject>, Error> {
        Ok(self.read().await?.token)
    }

    async fn read(&self) -> Result<Stored, Error> {
        let (stored, base) = self.run(|row, _| (row.stored(), row.base)).await?;
        *locked(&self.last_read) = Some(base.save);
        *locked(&self.seen) = Some(stored.clone());
        Ok(stored)
    }

    async fn read_locked(&self, lock: &StoreLock) -> Result<Stored, Error> {
        let claim = self.claimed(lock)?;
        let found = claim.known().found.take();
        if self.run.has(Bug::StaleUnderTheLock)
            && let Some(seen) = locked(&self.seen).clone()
        {
            return Ok(seen);
        }
        if let Some(found) = found {
            return Ok(found);
        }
        let (stored, base) = self.run(|row, _| (row.stored(), row.base)).await?;
        claim.known().base = base;
        Ok(stored)
    }

    async fn try_lock(&self) -> Result<Option<StoreLock>, Error> {
        self.claim(Duration::ZERO).await
    }

    async fn try_lock_ahead_of_time(&self) -> Result<Option<StoreLock>, Error> {
        self.claim(DOUBT).await
    }

    async fn prolong(&self, lock: &StoreLock) -> Result<Duration, Error> {
        let claim = self.claimed(lock)?;
        let base = claim.known().base;
        let is_prolonged = self
            .run(|row, now| {
                let lease = row.lease.as_mut().filter(|lease| lease.holder == claim.holder);
                let lease = lease.filter(|_| row.base.save == base.save);
                let suspended = self.run.suspended(self.process);
                lease.map(|lease| (lease.until, lease.suspended) = (now + LEASE, suspended)).is_some()
            })
            .await?;
        let lapsed = || Error::store("the lease has lapsed", "taken over").transient();
        if is_prolonged { Ok(LEASE) } else { Err(lapsed()) }
    }

    async fn unlock(&self, lock: StoreLock) {
        if let Ok(claim) = self.claimed(&lock)
            && !std::mem::replace(&mut claim.known().is_released, true)
        {
            let _ = self.release(claim.holder).await;
        }
    }

    async fn rehearse(&self, _: Option<&RefreshTokenObject>, lock: &StoreLock) -> Result<(), Error> {
        self.claimed(lock).map(drop)
    }

    async fn save(&self, token: &RefreshTokenObject, lock: &StoreLock) -> Result<(), Error> {
        self.claimed(lock)?.save(token, false, None).await
    }

    async fn replace(&self, token: &RefreshTokenObject, lock: &StoreLock) -> Result<(), Error> {
        self.claimed(lock)?.save(token, true, None).await
    }

    async fn finish(
        &self,
        token: &RefreshTokenObject,
        note: Option<&str>,
        lock: &StoreLock,
    ) -> Result<(), Error> {
        let claim = self.claimed(lock)?;
        claim.save(token, false, Some(note)).await?;
        *locked(&self.last_read) = Some(claim.known().base.save);
        Ok(())
    }

    async fn remember(&self, note: Option<&str>, lock: &StoreLock) -> Result<(), Error> {
        let claim = self.claimed(lock)?;
        let base = claim.known().base;
        let forgets = self.run.has(Bug::NoteForgotten);
        let is_kept = self
            .run(|row, _| {
                let is_held = row.lease.is_some_and(|lease| lease.holder == claim.holder);
                let is_kept = is_held && row.base.save == base.save;
                if is_kept && !forgets {
                    row.note = note.map(str::to_owned);
                }
                is_kept
            })
            .await?;
        // As the real one: a note that went with the last save is there already.
        let was_released = claim.known().is_released;
        let lapsed = || Error::store("the note was not kept", "the lease has lapsed").transient();
        if is_kept || was_released { Ok(()) } else { Err(lapsed()) }
    }

    async fn remove(&self, lock: &StoreLock) -> Result<(), Error> {
        let base = self.claimed(lock)?.known().base;
        self.run(|row, _| {
            if row.base.sign_in <= base.sign_in {
                (row.token, row.base.save) = (None, None);
            }
        })
        .await
    }

    fn longest_poll(&self) -> Duration {
        SECOND / 2
    }

    fn reads_by_locking(&self) -> bool {
        true
    }

    fn describe(&self) -> String {
        "the row".to_owned()
    }
}

impl fmt::Debug for RowStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RowStore")
    }
}
