//! The parts that the clones of a manager share.
//!
//! Always: each part guards its own promise; here they only stand together.

use std::{
    future::Future,
    sync::{Arc, OnceLock},
    time::{Duration, SystemTime},
};

use tokio::sync::{Mutex, watch};

use super::{
    cache::{Looked, Reader, Sync, TokenCache, same},
    gate::Gate,
    held::{Held, first_stop},
    identity::{Identification, Identity},
    locked_store::UnsavedToken,
    need::{Need, Outcome},
    observer::Observer,
    schedule::Schedule,
    single_flight::SingleFlight,
};
use crate::{
    Credentials, Error, OAuthClient, Status, credential_source::DynCredentialSource, failed_requests::Basis,
    log, machine::Machine,
};

pub(super) struct Core {
    pub(super) source: Box<dyn DynCredentialSource>,
    pub(super) identification: Identification,
    pub(super) client: OAuthClient,
    pub(super) cache: TokenCache,
    pub(super) gate: Gate,
    pub(super) flights: Arc<SingleFlight<Outcome>>,
    /// Locked by the `keep_alive` guard whose flight is under way.
    pub(super) schedule: Mutex<Schedule>,
    pub(super) machine: Machine,
    pub(super) policy: Policy,
    /// Made for the first subscriber.
    pub(super) subscribers: OnceLock<watch::Sender<Status>>,
    pub(super) observer: Option<Box<dyn Observer>>,
}

/// The knobs.
#[derive(Clone, Debug)]
pub(super) struct Policy {
    /// `None`: two thirds of the refresh token's life.
    pub(super) refresh_token_margin: Option<Duration>,
    pub(super) lock_timeout: Duration,
    /// The manager is one of a fleet's.
    pub(super) is_in_a_fleet: bool,
}

impl Core {
    // Inlined with `TokenCache::fresh_access`: two calls less on the warm path.
    #[inline]
    pub(super) fn now(&self) -> SystemTime {
        self.machine.clock.now()
    }

    /// Whose tokens these credentials want. What is held of another principal is handed out no more.
    pub(super) fn identify(&self, credentials: &Credentials) -> Result<Arc<Identity>, Error> {
        let identity = self.identification.of(credentials)?;
        self.cache.keep_access_of(identity.principal.as_ref());
        Ok(identity)
    }

    /// What is stored, for a caller outside of any flight; it also becomes what is held.
    pub(super) async fn sync(&self, identity: &Identity) -> Result<Option<Arc<Held>>, Error> {
        self.sync_as(Reader::Caller, identity).await
    }

    async fn sync_as(&self, reader: Reader, identity: &Identity) -> Result<Option<Arc<Held>>, Error> {
        let Looked { held, failed } = self.sync_with_store(identity, reader).await?;
        held.as_ref().map_or(Ok(()), |held| held.check_geolocation())?;
        self.gate.has_noted(failed);
        self.cache.look_ended(None);
        Ok(held)
    }

    /// The same, where it is known whose token is wanted, and the store can be read.
    pub(super) async fn stored_for_a_caller(&self) -> Option<Arc<Held>> {
        let identity = self.identification.known()?;
        self.sync(&identity).await.ok().flatten()
    }

    /// Saves the token that is still unsaved, if there is one. Where another process has stored a newer one, the store is looked at
    /// at once; the status tells if that fails.
    pub(super) async fn save_unsaved(&self) -> Result<(), Error> {
        self.telling(async {
            let unsaved = self.cache.save_unsaved().await?;
            if unsaved == UnsavedToken::Superseded
                && let Some(identity) = self.identification.known()
                && let Err(e) = self.sync_as(Reader::Flight, &identity).await
            {
                self.told_of_a_look(e);
            }
            Ok(())
        })
        .await
    }

    /// What the credentials and the store say now, for the status.
    pub(super) async fn look(&self) -> Result<(), Error> {
        let asked = self.source.credentials(&*self.machine.executor).await;
        let identity = match &asked {
            Ok(credentials) => self.identify(credentials)?,
            Err(_) => self.identification.without_credentials()?,
        };
        let looked = self.sync_with_store(&identity, Reader::Flight).await;
        self.cache.look_ended(looked.as_ref().err());
        let Looked { held, failed } = looked?;
        let stored = held.as_ref().map(|held| &held.object);
        match &asked {
            Ok(credentials) => self.gate.saw(failed.as_ref(), Basis { credentials, stored }),
            Err(_) => self.gate.has_noted(failed),
        }
        // Without credentials it is not known which hosts they trust.
        asked?;
        held.as_ref().map_or(Ok(()), |held| held.check_geolocation())
    }

    /// A look at the store, and what of it is news.
    pub(super) async fn sync_with_store(&self, identity: &Identity, reader: Reader) -> Result<Looked, Error> {
        let written = self.gate.written();
        let Looked { held, failed } = self.telling(self.cache.sync(&self.sync_for(identity), reader)).await?;
        Ok(Looked { held, failed: failed.filter(|_| self.gate.written() == written) })
    }

    /// What a look at the store for this principal goes by.
    fn sync_for<'a>(&'a self, identity: &'a Identity) -> Sync<'a> {
        Sync { identity, random: &self.machine.random, now: self.now() }
    }

    /// What is held, unless it is another principal's than the credentials named last.
    pub(super) fn wanted(&self) -> Option<Arc<Held>> {
        let identity = self.identification.known();
        let principal = identity.as_ref().and_then(|identity| identity.principal.as_ref());
        let is_ours = |held: &Arc<Held>| principal.is_none_or(|principal| principal.may_own(&held.object));
        self.cache.held().filter(is_ours)
    }

    /// A caller's own look at the store has failed: the status says so until a look succeeds.
    pub(super) fn told_of_a_look(&self, error: Error) -> Error {
        log::event!(warn, %error, cause = log::causes(&error), "could not look at the stored token");
        self.cache.look_ended(Some(&error));
        self.announce();
        error
    }

    /// Tells the subscribers if `look` has changed what is held. A look that found nothing new costs them nothing.
    pub(super) async fn telling<T>(&self, look: impl Future<Output = T>) -> T {
        let before = self.cache.held();
        let found = look.await;
        if !same(before.as_ref(), self.cache.held().as_ref()) {
            self.announce();
        }
        found
    }

    /// Whether what is held makes a flight needless.
    pub(super) fn meets(&self, need: &Need, held: &Held) -> bool {
        let is_useless = !matches!(need, Need::AccessToken { .. }) && self.gate.is_dead(&held.object);
        !is_useless && need.is_met_by(held, self.now(), self.policy.refresh_token_margin)
    }

    /// Whether a renewal would come too soon, so that callers who hold something valid are served.
    pub(super) fn is_backing_off(&self, now: SystemTime) -> bool {
        self.gate.is_backing_off(now) || self.asks_for_a_pause(now).is_some()
    }

    /// How much longer the host that would be asked first wants to be left alone.
    fn asks_for_a_pause(&self, now: SystemTime) -> Option<Duration> {
        let (identity, held) = (self.identification.known()?, self.cache.held());
        let first = first_stop(held.as_deref().map(|held| &held.object), &identity.base, now);
        let pause = self.client.check_pause(&first, now).err()?;
        Some(pause.retry_after().unwrap_or_default())
    }

    pub(super) fn status(&self) -> Status {
        let mut status = Status::default();
        let now = self.now();
        self.cache.report(&mut status, now);
        let held = self.cache.held();
        status.refresh_token_refused = held.as_ref().is_some_and(|held| self.gate.is_dead(&held.object));
        status.refresh_token_valid &= !status.refresh_token_refused;
        let host_pause = self.asks_for_a_pause(now).and_then(|left| now.checked_add(left));
        self.gate.report(&mut status, now, host_pause);
        status.tell(self.cache.look_failed().as_ref());
        status
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<Status> {
        self.subscribers.get_or_init(|| watch::Sender::new(self.status())).subscribe()
    }

    /// Tells the subscribers, if there are any and there is news. The status is read inside `send_if_modified`, so the
    /// last announcement always carries the final state.
    pub(super) fn announce(&self) {
        let observer = self.observer.as_deref().filter(|observer| observer.is_listening());
        // What an observer hears first is a change.
        let first = || watch::Sender::new(Status::default());
        let subscribers = if observer.is_some() {
            Some(self.subscribers.get_or_init(first))
        } else {
            self.subscribers.get()
        };
        if let Some(subscribers) = subscribers {
            subscribers.send_if_modified(|told| {
                let status = self.status();
                // When the store was read is no news.
                let is_news = Status { as_of: status.as_of, ..told.clone() } != status;
                *told = status;
                if let Some(observer) = observer.filter(|_| is_news) {
                    observer.changed(told);
                }
                is_news
            });
        }
    }
}
