//! What the steps of one flight know: what it is for, whose tokens, and how much trouble requests are worth.

use std::sync::Arc;

use super::{
    cache::{Looked, Sync},
    core::Core,
    held::{Held, first_stop},
    identity::Identity,
    locked_store::Rehearsed,
    need::{Need, Outcome},
    single_flight::Leader,
};
use crate::{
    Credentials, Error, Geolocation, Grant, RefreshTokenObject, TokenReply, log,
    machine::Machine,
    oauth_client::{Conditions, RetryBudget},
};

/// How many times a token that another program stored meanwhile is tried in one flight. One such race is bad luck; after
/// three, another program replaces tokens all the time.
pub(super) const RACES: usize = 3;

pub(super) struct Flight<'a> {
    pub(super) core: &'a Arc<Core>,
    pub(super) need: &'a Need,
    pub(super) credentials: &'a Credentials,
    pub(super) identity: &'a Identity,
    pub(super) leader: &'a Leader<Outcome>,
    pub(super) budget: RetryBudget<'a>,
}

impl Flight<'_> {
    /// What is stored, which also becomes what is held. It must belong to the principal that the credentials name now.
    pub(super) async fn look(&self) -> Result<Looked, Error> {
        self.sync(false).await
    }

    /// The same under the lock.
    pub(super) async fn look_again(&self) -> Result<Looked, Error> {
        self.sync(true).await
    }

    async fn sync(&self, is_locked: bool) -> Result<Looked, Error> {
        let principal = self.credentials.principal();
        let random = &self.core.machine.random;
        let sync = Sync { principal: principal.as_ref(), identity: self.identity, random };
        self.core.telling(self.core.cache.sync(&sync, is_locked)).await
    }

    /// Whether the flight's callers can be served without it.
    pub(super) fn has_fallback(&self, stored: Option<&Held>) -> bool {
        self.need.has_fallback(stored, self.core.cache.held().as_deref(), self.core.now())
    }

    /// Whether Concur may be asked now. An earlier refusal does not hold back what was asked for explicitly.
    pub(super) fn check_gate(&self, looked: &Looked) -> Result<(), Error> {
        if self.need.is_explicit() {
            return Ok(());
        }
        self.check_host(looked.token())?;
        self.core.gate.check(looked.refusal.as_ref(), self.credentials, looked.token(), self.core.now())
    }

    /// Whether the host that is asked first has asked for a pause: then there is no reason to lock or to rehearse.
    pub(super) fn check_host(&self, stored: Option<&RefreshTokenObject>) -> Result<(), Error> {
        let now = self.core.now();
        self.core.client.check_pause(&first_stop(stored, &self.identity.base, now), now)
    }

    pub(super) fn conditions(&self) -> Conditions<'_> {
        let Machine { clock, random, .. } = &self.core.machine;
        // A person who signs in knows what was not known when Concur asked for a pause.
        let heeds_pause = !matches!(self.need, Need::SignIn(_));
        Conditions { clock: &**clock, random, budget: &self.budget, heeds_pause }
    }

    /// Remembers a refusal, for all processes on the store. The lock is still held, so the processes that wait for it do not
    /// ask again.
    pub(super) async fn remember(&self, error: &Error, looked: &Looked) {
        // What a person tried once says nothing about the credentials.
        if matches!(self.need, Need::SignIn(_)) {
            return;
        }
        let Core { cache, gate, machine, .. } = &**self.core;
        let now = self.core.now();
        let (noted, token) = (looked.refusal.as_ref(), looked.token());
        let refusal = gate.remember(error, noted, self.credentials, token, now, &machine.random);
        if let Some(refusal) = refusal
            && let Err(error) = cache.store.remember(Some(&refusal.to_json())).await
        {
            let cause = log::causes(&error);
            log::event!(warn, %error, cause, "other processes will not know of the refusal");
        }
    }

    pub(super) async fn forget_refusal(&self, looked: &Looked) {
        let Core { cache, gate, .. } = &**self.core;
        if gate.known(looked.refusal.as_ref()).is_some()
            && let Err(error) = cache.store.remember(None).await
        {
            let cause = log::causes(&error);
            log::event!(warn, %error, cause, "a refusal that no longer holds could not be forgotten");
        }
        gate.forget_refusal();
    }

    /// Sends a grant. It takes the proof that the reply can be saved.
    pub(super) async fn send(
        &self,
        base: &Geolocation,
        grant: &Grant,
        _: &Rehearsed,
    ) -> Result<TokenReply, Error> {
        self.core.client.send(base, self.credentials, grant, &self.conditions()).await
    }
}
