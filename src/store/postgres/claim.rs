//! The lock of a [`PostgresStore`](super::PostgresStore): a lease, and what its holder knows of the row.
//!
//! Always: a reply has one id, however often it is saved. A lock that is dropped without being unlocked gives the lease
//! back in the background.

use std::{
    future::Future,
    mem,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use super::{
    Limits,
    row::{Base, Ending, Found, Leased, News, Note, ToSave, TokenRow, reason_against},
    spool::{Spool, Spooled},
};
use crate::{
    Clock as _, Error, ErrorKind, RefreshTokenObject, StoreLock, Stored, SystemClock, caught::locked,
    clock::within, log, runtime, unguessable::hexadecimal,
};

/// After so long a token that is being saved is written to the disk, too.
const PATIENCE: Duration = Duration::from_secs(1);

pub(super) struct Claim {
    row: Arc<TokenRow>,
    /// Random, and of no other lock of this row: no other lock's lease is prolonged or ended by mistake.
    holder: String,
    lease: Duration,
    /// The number of a sign-in under this lease.
    sign_in: i64,
    known: Mutex<Known>,
}

struct Known {
    /// What the claim has found, until it is read.
    found: Option<Stored>,
    base: Base,
    /// What is stored under that base.
    token: Option<RefreshTokenObject>,
    note: Option<String>,
    /// What was saved last, or is being saved, and its id.
    reply: Option<(RefreshTokenObject, String)>,
    /// That reply waits on the disk.
    is_spooled: bool,
    is_released: bool,
}

/// What a save starts from.
struct Saving {
    save_id: String,
    base: Base,
    /// This token was not tried to be saved before.
    is_first: bool,
    /// The lease was ended.
    is_over: bool,
}

impl Claim {
    /// The lock of a lease that was taken.
    pub(super) fn lock(row: Arc<TokenRow>, holder: String, limits: Limits, leased: Leased) -> StoreLock {
        let Limits { lease, late_save, .. } = limits;
        let Leased { found: Found { stored, base }, sign_in, in_doubt } = leased;
        let (token, note) = (stored.token.clone(), stored.note.clone());
        let known = Known {
            found: Some(stored),
            base,
            token,
            note,
            reply: None,
            is_spooled: false,
            is_released: false,
        };
        let claim = Self { row, holder, lease, sign_in, known: Mutex::new(known) };
        let lock = StoreLock::new(claim).with_lease(lease);
        if in_doubt { lock.in_doubt(late_save) } else { lock }
    }

    pub(super) fn holder(&self) -> &str {
        &self.holder
    }

    /// What the row held when this holder last read or saved it.
    pub(super) fn base(&self) -> Base {
        self.known().base.clone()
    }

    /// The claim has read the row; a second look reads it again.
    pub(super) async fn read(&self) -> Result<Stored, Error> {
        if let Some(found) = self.known().found.take() {
            return Ok(found);
        }
        let Found { stored, base } = self.row.read().await?;
        let mut known = self.known();
        (known.base, known.token, known.note) = (base, stored.token.clone(), stored.note.clone());
        Ok(stored)
    }

    /// `last`: with this note, and the lease is over.
    pub(super) async fn save(
        &self,
        token: &RefreshTokenObject,
        last: Option<Option<&str>>,
    ) -> Result<(), Error> {
        let Saving { save_id, base, is_over, .. } = self.begin_save(token)?;
        // Nothing is left to do, and by now another process may have gone on from there.
        if base.save_id.as_ref() == Some(&save_id) && (last.is_none() || is_over) {
            return Ok(());
        }
        let to_save = ToSave { token, save_id: &save_id, base: &base };
        let saving = self.row.save(to_save, Ending { holder: &self.holder, last });
        let saved = self.or_spooled(saving, to_save, None).await?;
        let mut known = self.saved(token, saved)?;
        if let Some(note) = last {
            known.note = note.map(str::to_owned);
            known.is_released = true;
        }
        Ok(())
    }

    /// What a sign-in brought.
    pub(super) async fn replace(&self, token: &RefreshTokenObject) -> Result<(), Error> {
        let Saving { save_id, base, is_first, .. } = self.begin_save(token)?;
        if base.save_id.as_ref() == Some(&save_id) {
            return Ok(());
        }
        let reason = reason_against(token, self.known().note.as_deref());
        let to_save = ToSave { token, save_id: &save_id, base: &base };
        let saving = async {
            let saved = self.row.replace(to_save, self.sign_in, reason).await?;
            // The row was deleted, and this sign-in comes after that. A repeated save cannot know: it may have been stored, renewed
            // and then deleted.
            if saved.is_some() || !is_first {
                return Ok(saved);
            }
            let Some(made) = self.row.make(&self.holder, self.lease).await? else { return Ok(None) };
            let to_save = ToSave { base: &made.found.base, ..to_save };
            self.row.replace(to_save, made.sign_in, reason).await
        };
        let saved = self.or_spooled(saving, to_save, Some(self.sign_in)).await?;
        self.saved(token, saved).map(drop)
    }

    /// The outcome of a save. If that fails, or takes long, the token is on the disk meanwhile, where there is a place for it.
    async fn or_spooled(
        &self,
        saving: impl Future<Output = Result<Option<Base>, Error>>,
        to_save: ToSave<'_>,
        sign_in: Option<i64>,
    ) -> Result<Option<Base>, Error> {
        let Some(spool) = &self.row.at_rest.spool else { return saving.await };
        let mut saving = pin!(saving);
        let saved = match within(SystemClock.sleep(PATIENCE), saving.as_mut()).await {
            Some(saved) => saved,
            None => {
                self.spool(spool, to_save, sign_in);
                saving.await
            }
        };
        if saved.is_err() {
            self.spool(spool, to_save, sign_in);
        } else if self.known().is_spooled {
            spool.remove(&self.row, to_save.save_id);
            self.known().is_spooled = false;
        }
        saved
    }

    /// Once for each reply.
    fn spool(&self, spool: &Spool, to_save: ToSave<'_>, sign_in: Option<i64>) {
        if self.known().is_spooled {
            return;
        }
        let spooled = Spooled::new(&self.row, to_save, sign_in, &self.holder);
        let store = &self.row;
        match spooled.and_then(|spooled| spool.add(&spooled)) {
            Ok(file) => {
                self.known().is_spooled = true;
                let file = file.display();
                log::event!(warn, %store, %file, "the database has not taken a new token; it waits on the disk");
            }
            Err(error) => {
                let cause = log::causes(&error);
                log::event!(error, %store, %error, cause, "a new token is in memory only");
            }
        }
    }

    fn begin_save(&self, token: &RefreshTokenObject) -> Result<Saving, Error> {
        let mut known = self.known();
        known.found = None;
        let again = known.reply.as_ref().filter(|(before, _)| before.is_same_reply(token));
        let is_first = again.is_none();
        let save_id = match again {
            Some((_, save_id)) => save_id.clone(),
            None => {
                known.is_spooled = false;
                known.reply.insert((token.clone(), random_id()?)).1.clone()
            }
        };
        Ok(Saving { save_id, base: known.base.clone(), is_first, is_over: known.is_released })
    }

    fn saved(&self, token: &RefreshTokenObject, saved: Option<Base>) -> Result<MutexGuard<'_, Known>, Error> {
        let Some(base) = saved else {
            let message = format!("another process has saved a newer token in {}", self.row);
            return Err(Error::superseded(message));
        };
        let mut known = self.known();
        (known.base, known.token) = (base, Some(token.clone()));
        Ok(known)
    }

    /// Sends nothing where the row has this note already.
    pub(super) async fn remember(&self, text: Option<&str>) -> Result<(), Error> {
        let (base, note) = {
            let known = self.known();
            if known.note.as_deref() == text {
                return Ok(());
            }
            let news = News::between(known.note.as_deref(), text);
            let against = known.token.as_ref().and_then(|token| reason_against(token, text));
            (known.base.clone(), Note { text, news, against })
        };
        if !self.row.remember(&self.holder, &base, note).await? {
            return Err(self.lapsed("the note was not kept"));
        }
        self.known().note = text.map(str::to_owned);
        Ok(())
    }

    pub(super) async fn remove(&self) -> Result<(), Error> {
        self.row.remove(&self.base()).await?;
        let mut known = self.known();
        (known.found, known.token, known.reply) = (None, None, None);
        known.base.save_id = None;
        Ok(())
    }

    pub(super) async fn release(&self) {
        if mem::replace(&mut self.known().is_released, true) {
            return;
        }
        if let Err(error) = self.row.release(&self.holder).await {
            let (store, cause) = (&self.row, log::causes(&error));
            log::event!(warn, %store, %error, cause, "the lease could not be given back, and lapses by itself");
        }
    }

    pub(super) fn lapsed(&self, what: &str) -> Error {
        let message = format!(
            "{what}: the lease on {} has lapsed, and another process may have taken it; try again",
            self.row
        );
        Error::new(ErrorKind::Store, message).transient()
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        locked(&self.known)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if !self.known().is_released {
            release_in_background(&self.row, mem::take(&mut self.holder));
        }
    }
}

/// A claim whose answer has not arrived: leases may have been taken. Dropped as such, also in mid-statement, it gives them back.
pub(super) struct Unanswered<F: FnOnce()>(Option<F>);

impl<F: FnOnce()> Unanswered<F> {
    pub(super) fn new(give_back: F) -> Self {
        Self(Some(give_back))
    }

    pub(super) fn answered(mut self) {
        self.0 = None;
    }
}

impl<F: FnOnce()> Drop for Unanswered<F> {
    fn drop(&mut self) {
        if let Some(give_back) = self.0.take() {
            give_back();
        }
    }
}

/// Ends a lease that the holder may have. If that fails, the lease lapses by itself.
pub(super) fn release_in_background(row: &Arc<TokenRow>, holder: String) {
    let row = Arc::clone(row);
    in_background(async move { row.release(&holder).await });
}

pub(super) fn in_background<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) {
    if let Ok(ours) = runtime::handle() {
        ours.spawn(work);
    }
}

/// 128 bits: no two are the same.
pub(super) fn random_id() -> Result<String, Error> {
    hexadecimal::<16>()
}
