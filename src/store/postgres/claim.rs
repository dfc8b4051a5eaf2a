//! The lock of a [`PostgresStore`](super::PostgresStore): a lease, and what its holder knows of the row.
//!
//! Always: a reply has one id, however often it is saved. A lock that is dropped without being unlocked gives the lease
//! back in the background.

use std::{
    mem,
    sync::{Arc, Mutex, MutexGuard},
};

use super::row::{Found, Leased, Reply, TokenRow};
use crate::{Error, ErrorKind, RefreshTokenObject, Stored, caught::locked, log, runtime};

pub(super) struct Claim {
    row: Arc<TokenRow>,
    /// Random, of this lock alone: no other lock's lease is prolonged or ended by mistake.
    holder: String,
    known: Mutex<Known>,
}

struct Known {
    /// What the claim has found, until it is read.
    found: Option<Stored>,
    save_id: Option<String>,
    note: Option<String>,
    reply: Option<(RefreshTokenObject, String)>,
    is_released: bool,
}

impl Claim {
    pub(super) fn new(row: Arc<TokenRow>, holder: String, leased: Leased) -> Self {
        let Found { stored, save_id } = leased.found;
        let note = stored.note.clone();
        let known = Known { found: Some(stored), save_id, note, reply: None, is_released: false };
        Self { row, holder, known: Mutex::new(known) }
    }

    pub(super) fn holder(&self) -> &str {
        &self.holder
    }

    /// The id of the last save that this holder knows of.
    pub(super) fn save_id(&self) -> Option<String> {
        self.known().save_id.clone()
    }

    /// The claim has read the row; a second look reads it again.
    pub(super) async fn read(&self) -> Result<Stored, Error> {
        if let Some(found) = self.known().found.take() {
            return Ok(found);
        }
        let Found { stored, save_id } = self.row.read().await?;
        let mut known = self.known();
        (known.save_id, known.note) = (save_id, stored.note.clone());
        Ok(stored)
    }

    /// `last`: with this note, and the lease is over.
    pub(super) async fn save(
        &self,
        token: &RefreshTokenObject,
        last: Option<Option<&str>>,
    ) -> Result<(), Error> {
        let (save_id, presented) = {
            let mut known = self.known();
            known.found = None;
            let again = known.reply.as_ref().filter(|(before, _)| before.as_json() == token.as_json());
            let save_id = match again {
                Some((_, save_id)) => save_id.clone(),
                None => known.reply.insert((token.clone(), random_id()?)).1.clone(),
            };
            (save_id, known.save_id.clone())
        };
        let reply = Reply { token, save_id: &save_id, presented: presented.as_deref(), last };
        if !self.row.save(&self.holder, reply).await? {
            let message = format!("another process has saved a newer token in {}", self.row.describe());
            return Err(Error::superseded(message));
        }
        let mut known = self.known();
        known.save_id = Some(save_id);
        if let Some(note) = last {
            known.note = note.map(str::to_owned);
            known.is_released = true;
        }
        Ok(())
    }

    /// Sends nothing where the row has this note already.
    pub(super) async fn remember(&self, note: Option<&str>) -> Result<(), Error> {
        let save_id = {
            let known = self.known();
            if known.note.as_deref() == note {
                return Ok(());
            }
            known.save_id.clone()
        };
        if !self.row.remember(&self.holder, save_id.as_deref(), note).await? {
            return Err(self.lapsed("the note was not kept"));
        }
        self.known().note = note.map(str::to_owned);
        Ok(())
    }

    pub(super) async fn remove(&self) -> Result<(), Error> {
        let save_id = self.save_id();
        if !self.row.remove(save_id.as_deref()).await? {
            let message = format!("another process has saved a newer token in {}", self.row.describe());
            return Err(Error::superseded(message));
        }
        let mut known = self.known();
        (known.found, known.save_id, known.reply) = (None, None, None);
        Ok(())
    }

    pub(super) async fn release(&self) {
        if mem::replace(&mut self.known().is_released, true) {
            return;
        }
        if let Err(error) = self.row.release(&self.holder).await {
            let (store, cause) = (self.row.describe(), log::causes(&error));
            log::event!(warn, store, %error, cause, "the lease could not be given back, and lapses by itself");
        }
    }

    pub(super) fn lapsed(&self, what: &str) -> Error {
        let message = format!(
            "{what}: the lease on {} has lapsed, and another process may have taken it; try again",
            self.row.describe()
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

/// Ends a lease that the holder may have. If that fails, the lease lapses by itself.
pub(super) fn release_in_background(row: &Arc<TokenRow>, holder: String) {
    if let Ok(ours) = runtime::handle() {
        let row = Arc::clone(row);
        ours.spawn(async move { row.release(&holder).await });
    }
}

/// 128 random bits, in hexadecimal digits.
pub(super) fn random_id() -> Result<String, Error> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|e| {
        let message = "the operating system gives no random numbers; check that this process may read them";
        Error::new(ErrorKind::Config, message).caused_by(e)
    })?;
    Ok(format!("{:032x}", u128::from_ne_bytes(bytes)))
}
