//! What the steps of one flight know: what it is for, whose tokens, and how much trouble requests are worth.

use std::sync::Arc;

use super::{
    cache::{Looked, Reader},
    core::Core,
    held::{Held, first_stop},
    identity::Identity,
    locked_store::Rehearsed,
    need::{Need, Outcome},
    single_flight::Leader,
};
use crate::{
    Credentials, Error, Geolocation, Grant, RefreshTokenObject, TokenReply,
    failed_requests::{Basis, FailedRequests},
    log,
    machine::Machine,
    oauth_client::{Conditions, Hold, RetryBudget},
    store::BoxFuture,
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

/// The store's lock is what a request needs.
impl Hold for Flight<'_> {
    fn hold_for_a_request(&self) -> BoxFuture<'_, ()> {
        let Core { cache, machine, .. } = &**self.core;
        Box::pin(cache.store.hold_for_a_request(self.leader.number(), &*machine.clock))
    }
}

/// What the store still has to remember.
pub(super) struct Remaining {
    pub(super) noted: FailedRequests,
    is_changed: bool,
}

impl Flight<'_> {
    /// What is stored, which also becomes what is held. It must belong to the principal that the credentials name now.
    pub(super) async fn look(&self) -> Result<Looked, Error> {
        self.sync(Reader::Flight).await
    }

    /// The same under the lock.
    pub(super) async fn look_again(&self) -> Result<Looked, Error> {
        self.sync(Reader::Locked).await
    }

    async fn sync(&self, reader: Reader) -> Result<Looked, Error> {
        let looked = self.core.sync_with_store(self.identity, reader).await?;
        self.core.cache.look_ended(None);
        self.core.gate.saw(looked.failed.as_ref(), self.basis(looked.token()));
        Ok(looked)
    }

    /// What a request is made from while this token is stored.
    pub(super) fn basis<'b>(&'b self, stored: Option<&'b RefreshTokenObject>) -> Basis<'b> {
        Basis { credentials: self.credentials, stored }
    }

    /// What is stored is not used if it names a foreign host. A new sign-in may replace it.
    pub(super) fn check_geolocation(&self, looked: &Looked) -> Result<(), Error> {
        match &looked.held {
            Some(held) if !matches!(self.need, Need::SignIn(_) | Need::Adopt(_)) => held.check_geolocation(),
            _ => Ok(()),
        }
    }

    /// Whether the flight's callers can be served without it.
    pub(super) fn has_fallback(&self, stored: Option<&Held>) -> bool {
        let stored = stored.filter(|stored| !self.core.gate.is_dead(&stored.object));
        self.need.has_fallback(stored, self.core.cache.held().as_deref(), self.core.now())
    }

    /// Whether a refresh token is wanted that has been renewed for the last time long ago.
    pub(super) fn is_urgent(&self, looked: &Looked) -> bool {
        let is_half_spent = |held: &Held| held.is_half_spent(self.core.now());
        matches!(self.need, Need::RefreshToken { .. } | Need::Due)
            && looked.held.as_deref().is_some_and(is_half_spent)
    }

    /// Whether Concur may be asked now. An earlier failure does not hold back what was asked for explicitly.
    pub(super) fn check_gate(&self, looked: &Looked) -> Result<(), Error> {
        if self.need.is_explicit() {
            return Ok(());
        }
        self.check_host(looked.token())?;
        self.core.gate.check_or_retry(self.basis(looked.token()), self.core.now())
    }

    /// Without a stored token, a member of a fleet is connected by its own sign-in and by nothing else: there is no reason to
    /// lock, which would make a row or a folder for a name that was mistyped.
    pub(super) fn check_sign_in(&self, looked: &Looked) -> Result<(), Error> {
        if self.core.policy.is_in_a_fleet && looked.held.is_none() && !self.need.is_explicit() {
            self.credentials.require_sign_in()?;
        }
        Ok(())
    }

    /// Whether the host that is asked first has asked for a pause: then there is no reason to lock or to rehearse.
    pub(super) fn check_host(&self, stored: Option<&RefreshTokenObject>) -> Result<(), Error> {
        let now = self.core.now();
        self.core.client.check_pause(&first_stop(stored, &self.identity.base, now), now)
    }

    pub(super) fn conditions(&self) -> Conditions<'_> {
        let Machine { clock, random, .. } = &self.core.machine;
        // A person knows what was not known when Concur asked for a pause.
        let heeds_pause = !matches!(self.need, Need::SignIn(_) | Need::Retry);
        Conditions { clock: &**clock, random, budget: &self.budget, heeds_pause, hold: Some(self) }
    }

    /// Remembers that a request has failed, a lasting failure for all processes. The lock is still held, so the processes that
    /// wait for it do not ask again. `before`: what was known before the request. `has_fallback`: who holds something valid is
    /// served during the back-off, and who does not is owed more than the one attempt of this flight.
    pub(super) async fn remember(
        &self,
        error: &Error,
        before: &FailedRequests,
        looked: &Looked,
        has_fallback: bool,
    ) {
        let Core { gate, machine, .. } = &**self.core;
        let basis = self.basis(looked.token());
        let failed = gate.judge(error, (before, basis), basis, self.core.now(), &machine.random);
        let mut noted = self.noted(looked);
        let dead = gate.found_dead();
        let is_news = dead.as_ref().is_some_and(|token| noted.add_dead(token, false, &machine.random));
        if failed.is_lasting() {
            noted.add(failed.clone(), basis);
        }
        let is_lasting = failed.is_lasting();
        let is_noted = (is_lasting || is_news) && self.note(noted).await;
        if !is_noted && let Some(token) = &dead {
            gate.remember_dead(token, false, &machine.random);
        }
        let is_to_keep = if is_lasting { !is_noted } else { !has_fallback };
        if is_to_keep {
            gate.remember(failed, basis);
        }
    }

    /// The same after a reply was saved that cannot be used as it is, for this manager alone: the lock is released by then.
    pub(super) fn remember_of_saved(
        &self,
        error: &Error,
        before: &FailedRequests,
        looked: &Looked,
        has_fallback: bool,
    ) {
        let Core { gate, machine, cache, .. } = &**self.core;
        let held = cache.held();
        let spent = self.basis(looked.token());
        let basis = self.basis(held.as_deref().map(|held| &held.object));
        let failed = gate.judge(error, (before, spent), basis, self.core.now(), &machine.random);
        if failed.is_lasting() || !has_fallback {
            gate.remember(failed, basis);
        }
    }

    /// Remembers that a refresh token is revoked, for other processes too.
    pub(super) async fn remember_dead(&self, token: &RefreshTokenObject, looked: &Looked) {
        let Core { gate, machine, .. } = &**self.core;
        let mut noted = self.noted(looked);
        if noted.add_dead(token, true, &machine.random) && !self.note(noted).await {
            gate.remember_dead(token, true, &machine.random);
        }
    }

    /// What the store keeps, as far as is known: it is not read while what is held is newer.
    pub(super) fn noted(&self, looked: &Looked) -> FailedRequests {
        looked.failed.clone().unwrap_or_else(|| self.core.gate.noted())
    }

    /// Whether the store keeps this now.
    async fn note(&self, noted: FailedRequests) -> bool {
        match self.core.cache.store.remember(noted.to_note().as_deref()).await {
            Ok(true) => {
                self.core.gate.has_written(noted);
                true
            }
            Ok(false) => false,
            Err(error) => {
                let cause = log::causes(&error);
                log::event!(warn, %error, cause, "other processes will not know of the refusal");
                false
            }
        }
    }

    /// What is still to be remembered once this token is issued: not what the success of its request disproves. After a
    /// sign-in that a person made, nothing is held back any more.
    pub(super) fn remaining(&self, looked: &Looked, issued: &RefreshTokenObject) -> Remaining {
        let mut noted = self.noted(looked);
        let request = noted.forget(self.basis(looked.token()));
        let token = noted.revive(issued);
        let sign_in = matches!(self.need, Need::SignIn(_)) && noted.forget(self.basis(None));
        Remaining { noted, is_changed: request || token || sign_in }
    }

    /// Forgets the rest, once the token is saved.
    pub(super) async fn forget(&self, looked: &Looked, issued: &RefreshTokenObject, remaining: Remaining) {
        let gate = &self.core.gate;
        if matches!(self.need, Need::SignIn(_)) {
            gate.open();
        }
        gate.forget(self.basis(looked.token()), issued);
        self.rewrite(remaining).await;
    }

    /// Forgets every failure of the requests that can be made now, and every pause. What is dead stays dead.
    pub(super) async fn open_gate(&self, looked: &mut Looked) {
        let mut noted = self.noted(looked);
        let token = looked.token();
        self.core.gate.open();
        let renewal = noted.forget(self.basis(token));
        let sign_in = noted.forget(self.basis(None));
        looked.failed = Some(noted.clone());
        self.rewrite(Remaining { noted, is_changed: renewal || sign_in }).await;
    }

    async fn rewrite(&self, Remaining { noted, is_changed }: Remaining) {
        if is_changed && let Err(error) = self.core.cache.store.remember(noted.to_note().as_deref()).await {
            let cause = log::causes(&error);
            log::event!(warn, %error, cause, "a refusal that no longer holds could not be forgotten");
        }
        self.core.gate.has_written(noted);
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
