//! What the steps of one flight know: what it is for, whose tokens, and how much trouble requests are worth.

use std::sync::{Arc, OnceLock};

use super::{
    cache::Looked,
    core::Core,
    held::{Held, first_stop},
    identity::Identity,
    locked_store::Rehearsed,
    need::{Need, Outcome},
    single_flight::Leader,
};
use crate::{
    Credentials, Error, Geolocation, Grant, RefreshTokenObject, TokenReply,
    failed_requests::{Basis, FailedRequest, FailedRequests},
    log,
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
    /// How Concur refused the stored refresh token, if it said that the token is dead.
    pub(super) dead: OnceLock<Error>,
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
        let sync = self.core.sync_for(self.identity);
        let looked = self.core.telling(self.core.cache.sync(&sync, is_locked)).await?;
        self.core.gate.saw(&looked.failed, self.basis(looked.token()));
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
        matches!(self.need, Need::RefreshToken { .. }) && looked.held.as_deref().is_some_and(is_half_spent)
    }

    /// Whether Concur may be asked now. An earlier failure does not hold back what was asked for explicitly.
    pub(super) fn check_gate(&self, looked: &Looked) -> Result<(), Error> {
        if self.need.is_explicit() {
            return Ok(());
        }
        self.check_host(looked.token())?;
        self.core.gate.check(self.basis(looked.token()), self.core.now())
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
        Conditions { clock: &**clock, random, budget: &self.budget, heeds_pause }
    }

    /// Remembers that a request has failed, a lasting failure for all processes on the store. The lock is still held, so the
    /// processes that wait for it do not ask again. `before`: what was known before the request. `stored`: the token from
    /// which the next request would be made. `has_fallback`: who holds something valid is served during the back-off, and who does not is owed more than the one
    /// attempt of this flight.
    pub(super) async fn remember(
        &self,
        error: &Error,
        before: &FailedRequests,
        looked: &Looked,
        stored: Option<&RefreshTokenObject>,
        has_fallback: bool,
    ) {
        // What a person tried once says nothing about the credentials.
        if matches!(self.need, Need::SignIn(_)) {
            return;
        }
        let Core { gate, machine, .. } = &**self.core;
        let (now, random) = (self.core.now(), &machine.random);
        let (spent, basis) = (self.basis(looked.token()), self.basis(stored));
        // What was known before stays known: the new failure may take the old one's place.
        let is_dead = |token: &&RefreshTokenObject| self.dead.get().is_some() || before.is_dead(token);
        let dead = looked.token().filter(is_dead);
        let failed = gate.judge(error, (before, spent), basis, dead, now, random);
        if failed.is_lasting() {
            return self.note(failed, basis, looked).await;
        }
        if let (Some(refused), Some(token)) = (self.dead.get(), dead) {
            self.note(FailedRequest::of_dead_token(refused, basis, token, now, random), basis, looked).await;
        }
        if !has_fallback {
            gate.remember(failed, basis);
        }
    }

    /// Remembers that a refresh token is dead, for other processes too.
    pub(super) async fn remember_dead(&self, token: &RefreshTokenObject, why: &Error, looked: &Looked) {
        let (basis, now) = (self.basis(Some(token)), self.core.now());
        let failed = FailedRequest::of_dead_token(why, basis, token, now, &self.core.machine.random);
        self.note(failed, basis, looked).await;
    }

    async fn note(&self, failed: FailedRequest, basis: Basis<'_>, looked: &Looked) {
        let mut noted = looked.failed.clone();
        noted.add(failed.clone(), basis);
        match self.core.cache.store.remember(noted.to_note().as_deref()).await {
            Ok(true) => self.core.gate.has_noted(noted),
            Ok(false) => self.core.gate.remember(failed, basis),
            Err(error) => {
                let cause = log::causes(&error);
                log::event!(warn, %error, cause, "other processes will not know of the refusal");
                self.core.gate.remember(failed, basis);
            }
        }
    }

    /// Forgets what the success of a request disproves. After a sign-in that a person made, nothing is held back any more.
    pub(super) async fn forget(&self, looked: &Looked, issued: &RefreshTokenObject) {
        let (gate, basis) = (&self.core.gate, self.basis(looked.token()));
        let mut noted = looked.failed.clone();
        let mut is_changed = noted.forget(basis) | noted.revive(issued);
        if matches!(self.need, Need::SignIn(_)) {
            gate.open();
            is_changed |= noted.forget(self.basis(None));
        }
        gate.forget(basis, issued);
        self.rewrite(noted, is_changed).await;
    }

    /// Forgets every failure of the requests that can be made now, and every pause.
    pub(super) async fn open_gate(&self, looked: &mut Looked) {
        self.core.gate.open();
        let (basis, signing_in) = (self.basis(looked.token()), self.basis(None));
        let mut noted = looked.failed.clone();
        let is_changed = noted.forget(basis) | noted.forget(signing_in);
        self.rewrite(noted.clone(), is_changed).await;
        looked.failed = noted;
    }

    async fn rewrite(&self, noted: FailedRequests, is_changed: bool) {
        if is_changed && let Err(error) = self.core.cache.store.remember(noted.to_note().as_deref()).await {
            let cause = log::causes(&error);
            log::event!(warn, %error, cause, "a refusal that no longer holds could not be forgotten");
        }
        self.core.gate.has_noted(noted);
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
