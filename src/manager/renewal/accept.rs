//! From the reply to the store: saved, published, and only then judged.
//!
//! Always: the order is save, publish, forget the refusal, tell the log. A token that could not be saved is handed out all
//! the same, and saving it goes on in the background.

use std::{sync::Arc, time::Duration};

use tokio::sync::oneshot;

use super::{
    super::{
        cache::{Rehearsed, Saved},
        core::Core,
        flight::Flight,
        held::{Held, geolocation_of},
        need::{Need, Outcome, Renewed},
    },
    owner::Verdict,
};
use crate::{
    Error, RefreshTokenObject, StoreLock, TokenOrigin, TokenReply, backoff::Backoff, log,
    oauth_client::Accepted, refresh_token_object::Predecessor,
};

/// The pauses between the attempts at saving in the background, for as long as the process lives.
const SAVING: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));

/// A reply that was saved, or is being saved.
pub(super) struct Settled {
    pub(super) outcome: Outcome,
    /// `None` while the token cannot be saved: then the lock is kept with it.
    pub(super) lock: Option<StoreLock>,
}

impl Flight<'_> {
    /// Saves and publishes what Concur sent, and only then says what is wrong with it.
    pub(super) async fn accept(
        &self,
        reply: &TokenReply,
        origin: TokenOrigin,
        stored: Option<&RefreshTokenObject>,
        rehearsed: Rehearsed,
    ) -> Result<Settled, Error> {
        let same_grant = origin == TokenOrigin::Renewed;
        let of_grant = match self.need {
            Need::SignIn(grant) => grant.company_uuid(),
            _ => stored.filter(|_| same_grant).and_then(RefreshTokenObject::company_uuid),
        };
        let company = of_grant.or_else(|| self.credentials.company_uuid());
        let predecessor = stored.map(|object| Predecessor { object, same_grant });
        let Accepted { object, fault } = match reply.succeed(predecessor, company) {
            Ok(accepted) => accepted,
            Err(e) => {
                let e = if same_grant { e } else { e.in_doubt() };
                self.remember(&e, stored, rehearsed.lock()).await;
                reply.log();
                return Err(e);
            }
        };
        let fault = match self.judge(&object, stored, fault) {
            Verdict::Keep => None,
            Verdict::KeepAndTell(fault) => Some(fault),
            Verdict::Refuse(e) => {
                reply.log();
                return Err(e);
            }
        };
        let Saved { held, lock, .. } = self.keep(object, origin, rehearsed).await;
        // Not before it is saved: a subscriber may end the process.
        reply.log();
        let fault = fault.or_else(|| geolocation_of(&held.object, &self.identity.base).err());
        let outcome = match fault {
            Some(fault) => Outcome::SavedWithFault(fault),
            None if matches!(self.need, Need::AccessToken) && held.access().is_none() => {
                Outcome::SavedWithFault(reply.without_access_token())
            }
            None => Outcome::Done(Renewed { held, fresh: true }),
        };
        Ok(Settled { outcome, lock })
    }

    /// Takes over a token from elsewhere.
    pub(super) async fn adopt(
        &self,
        token: &RefreshTokenObject,
        stored: Option<&RefreshTokenObject>,
        lock: StoreLock,
    ) -> Result<Outcome, Error> {
        let rehearsed = self.core.cache.rehearse(stored, lock).await?;
        self.check_new(token, stored)?;
        let Saved { held, .. } = self.keep(token.clone(), TokenOrigin::Adopted, rehearsed).await;
        Ok(Outcome::Done(Renewed { held, fresh: false }))
    }

    /// Saves and publishes a token that is newer than the stored one, and sees to it that it is saved in the end.
    async fn keep(&self, token: RefreshTokenObject, origin: TokenOrigin, rehearsed: Rehearsed) -> Saved {
        let Core { cache, machine, .. } = &**self.core;
        let as_held = |token| {
            // Whatever an API refused before: this is what Concur hands out now.
            let held = Held::new(token, origin, &self.identity.base, None, &machine.random);
            // Every reply is saved, also another principal's: it may be the only one that is left. Its access token would
            // call APIs for that other principal, so no caller gets it.
            let principal = self.credentials.principal();
            match principal.map_or(Ok(()), |principal| principal.check(&held.object, String::new)) {
                Ok(()) => held,
                Err(_) => held.without_access(),
            }
        };
        let saved = cache.save_and_publish(token, rehearsed, &*machine.clock, as_held).await;
        if let Some(lock) = &saved.lock {
            self.forget_refusal(lock).await;
        }
        if let Some(error) = &saved.failure {
            let core = Arc::clone(self.core);
            // Without a thread for it, the next flight and `shutdown` still save the token first.
            let _ = machine.executor.spawn(Box::pin(async move { keep_saving(&core).await }));
            log::event!(
                error,
                store = cache.describe(),
                %error,
                "the newest refresh token is in memory only, and saving it is being retried"
            );
        }
        saved
    }
}

async fn keep_saving(core: &Arc<Core>) {
    let mut failures = 0;
    loop {
        core.machine.clock.sleep(SAVING.nth(failures)).await;
        if save_in_background(core).await.is_ok() {
            return;
        }
        failures = failures.saturating_add(1);
    }
}

/// Saves a token left unsaved on a thread that a slow disk may block, and without being cancelled.
pub(in super::super) async fn save_in_background(core: &Arc<Core>) -> Result<(), Error> {
    if !core.cache.has_unsaved().await {
        return Ok(());
    }
    let (told, outcome) = oneshot::channel();
    let saver = Arc::clone(core);
    let save = async move {
        let saved = saver.cache.save_unsaved().await;
        saver.announce();
        let _ = told.send(saved);
    };
    core.machine.executor.spawn_blocking(Box::pin(save))?;
    outcome.await.map_err(|e| Error::store("the save did not come to its end; please report this", e))?
}
