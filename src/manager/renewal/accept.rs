//! From the reply to the store: saved, published, and only then judged.
//!
//! Always: the order is save, publish, forget what failed before, tell the log. A token that could not be saved is handed out all
//! the same, and saving it goes on in the background.

use std::{sync::Arc, time::Duration};

use tokio::sync::oneshot;

use super::{
    super::{
        cache::{Looked, Saved},
        core::Core,
        flight::Flight,
        held::{Held, geolocation_of},
        locked_store::{Rehearsed, Replaces, Save, Saving},
        need::{Need, Outcome, Renewed, Source},
    },
    owner::Verdict,
};
use crate::{
    Error, ErrorKind, RefreshTokenObject, TokenOrigin, TokenReply, backoff::Backoff, log,
    oauth_client::Accepted, refresh_token_object::Predecessor,
};

/// The pauses between the attempts at saving in the background, for as long as the process lives.
const SAVING: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));

impl Flight<'_> {
    /// Saves and publishes what Concur sent, and only then says what is wrong with it.
    pub(super) async fn accept(
        &self,
        reply: &TokenReply,
        origin: TokenOrigin,
        looked: &Looked,
        rehearsed: Rehearsed,
        save: Save,
    ) -> Result<Outcome, Error> {
        let stored = looked.token();
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
                reply.log();
                return Err(if same_grant { e } else { e.in_doubt() });
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
        let saved = self.keep(object, origin, looked, rehearsed, save).await;
        let Some(held) = saved else {
            reply.log();
            return self.superseded().await;
        };
        if save == Save::Last {
            // A subscriber that takes its time must not hold up the processes that wait for the lock.
            self.core.cache.store.release(self.leader.number()).await;
        }
        // Not before it is saved: a subscriber may end the process.
        reply.log();
        let fault = fault.or_else(|| geolocation_of(&held.object, &self.identity.base).err());
        Ok(match fault {
            Some(fault) => Outcome::SavedWithFault(fault),
            None if matches!(self.need, Need::AccessToken { .. }) && held.access().is_none() => {
                Outcome::WithoutAccess(Renewed { held, source: Source::Issued }, reply.without_access_token())
            }
            None => Outcome::Done(Renewed { held, source: Source::Issued }),
        })
    }

    /// Takes over a token from elsewhere.
    pub(super) async fn adopt(&self, token: &RefreshTokenObject, looked: &Looked) -> Result<Outcome, Error> {
        let stored = looked.token();
        let rehearsed = self.core.cache.store.rehearse(stored).await?;
        self.check_new(token, stored)?;
        let saved = self.keep(token.clone(), TokenOrigin::Adopted, looked, rehearsed, Save::Last).await;
        match saved {
            Some(held) => Ok(Outcome::Done(Renewed { held, source: Source::Found })),
            None => self.superseded().await,
        }
    }

    /// Another process has stored a newer token than the one that was to be saved: that token counts.
    async fn superseded(&self) -> Result<Outcome, Error> {
        log::event!(
            warn,
            store = self.core.cache.store.describe(),
            "another process has stored a newer token"
        );
        let stored = self.look_again().await?.held;
        if matches!(self.need, Need::SignIn(_) | Need::Adopt(_)) {
            // Asked for explicitly, and not what is stored now. Sending the grant again would not be what was asked for.
            let message = format!(
                "the new token was not kept: another sign-in has reached {} meanwhile, and counts; sign in, or adopt the token, \
                 again if it should not",
                self.core.cache.store.describe()
            );
            return Err(Error::new(ErrorKind::Store, message));
        }
        Ok(match stored {
            Some(held) => Outcome::Done(Renewed { held, source: Source::Found }),
            None => Outcome::Busy,
        })
    }

    /// Saves and publishes a token that is newer than the stored one, and sees to it that it is saved in the end; `None` if
    /// another process was faster.
    async fn keep(
        &self,
        token: RefreshTokenObject,
        origin: TokenOrigin,
        looked: &Looked,
        rehearsed: Rehearsed,
        save: Save,
    ) -> Option<Arc<Held>> {
        let Core { cache, machine, .. } = &**self.core;
        let before = cache.held();
        let as_held = |token| {
            let held = Held::new(token, origin, &self.identity.base, before.as_deref(), &machine.random);
            // Every reply is saved, also another principal's: it may be the only one that is left. Its access token would
            // call APIs for that other principal, so no caller gets it.
            let principal = self.identity.principal.as_ref();
            let is_ours = principal.is_none_or(|principal| principal.may_own(&held.object));
            if is_ours { held } else { held.without_access() }
        };
        let remaining = self.remaining(looked, &token);
        let note = remaining.noted.to_note();
        let replaces = match origin {
            TokenOrigin::Renewed => Replaces::Predecessor,
            _ => Replaces::Anything,
        };
        let saving = Saving { save, replaces, note: note.as_deref() };
        match cache.save_and_publish(token, rehearsed, saving, &*machine.clock, as_held).await {
            Saved::Held(held, unsaved) => {
                match (origin, &unsaved) {
                    // No grant has issued it: it may be the very token that was refused.
                    (TokenOrigin::Adopted, _) => {
                        self.core.gate.saw(looked.failed.as_ref(), self.basis(Some(&held.object)));
                    }
                    (_, None) => self.forget(looked, &held.object, remaining).await,
                    (_, Some(_)) => self.core.gate.forget(self.basis(looked.token()), &held.object),
                }
                let Some(error) = unsaved else { return Some(held) };
                let core = Arc::clone(self.core);
                // Without a thread for it, the next flight and `shutdown` still save the token first.
                let _ = machine.executor.spawn(Box::pin(async move { keep_saving(&core).await }));
                log::event!(
                    error,
                    store = cache.store.describe(),
                    %error,
                    cause = log::causes(&error),
                    "the newest refresh token is in memory only, and saving it is being retried"
                );
                Some(held)
            }
            Saved::Superseded => None,
        }
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
    if !core.cache.store.has_unsaved().await {
        return Ok(());
    }
    let (told, outcome) = oneshot::channel();
    let saver = Arc::clone(core);
    let save = async move {
        let saved = saver.save_unsaved().await;
        saver.announce();
        let _ = told.send(saved);
    };
    core.machine.executor.spawn_blocking(Box::pin(save))?;
    outcome.await.map_err(|e| Error::store("the save did not come to its end; please report this", e))?
}
