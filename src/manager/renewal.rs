//! What happens in a flight: lock, read again, rehearse the save, request, save, publish.
//!
//! Always: nothing is sent before the store has been locked, read again and found able to save; what Concur
//! sends is saved before anybody sees it.

use std::{sync::Arc, time::Duration};

use super::{
    core::{Core, Identity},
    flight::{Crew, Landed, Landing, Need},
    memory::{Held, geolocation_of},
    sign_in,
};
use crate::{
    Credentials, Error, ErrorKind, RefreshTokenObject, StoreLock, TokenOrigin, TokenReply, log,
    oauth_client::{Accepted, RetryBudget},
    refresh_token_object::Predecessor,
};

/// How often the lock is asked for. A pause grows from the first to the longest.
const FIRST_POLL: Duration = Duration::from_millis(2);
const LONGEST_POLL: Duration = Duration::from_millis(50);

/// How many times a token that somebody else stored meanwhile is tried in one flight.
const RACES: usize = 3;

/// What a flight goes by.
#[derive(Clone, Copy)]
pub(super) struct Flight<'a> {
    pub(super) need: &'a Need,
    pub(super) identity: &'a Identity,
    pub(super) credentials: &'a Credentials,
    pub(super) budget: &'a RetryBudget<'a>,
}

enum Start {
    Locked(StoreLock),
    Satisfied(Arc<Held>),
    Busy,
}

impl Core {
    pub(super) async fn run(self: &Arc<Self>, need: &Need, crew: &Crew) -> Landing {
        let landing = self.renew(need, crew).await.unwrap_or_else(Landing::Failed);
        match &landing {
            Landing::Done(Landed { held, fresh }) => {
                self.memory.note_success(self.clock.now(), *fresh);
                log::event!(info, origin = %held.origin, unsaved = held.unsaved, "renewal done");
            }
            Landing::SignedOut => self.memory.note_success(self.clock.now(), true),
            Landing::Busy => self.memory.note_busy(self.clock.now()),
            Landing::Failed(e) | Landing::Tried(e) | Landing::Faulty(e) => {
                self.memory.note_failure(e, self.clock.now());
                log::event!(warn, error = %e, "renewal failed");
            }
        }
        self.announce();
        landing
    }

    /// What is left to do for a flight that panicked. What it received is saved, or kept to be saved.
    pub(super) fn crashed(&self) -> Landing {
        let error =
            Error::new(ErrorKind::Config, "the renewal panicked; see the panic's message and report it");
        self.memory.note_failure(&error, self.clock.now());
        self.announce();
        Landing::Failed(error)
    }

    async fn renew(self: &Arc<Self>, need: &Need, crew: &Crew) -> Result<Landing, Error> {
        let credentials = self.source.credentials().await?;
        let identity = self.identify(&credentials)?;
        let is_given_up = || crew.is_alone();
        let (once, repeat) = (RetryBudget::one_attempt(), RetryBudget::repeat(&is_given_up));
        let mut flight = Flight { need, identity, credentials: &credentials, budget: &repeat };
        self.check_replacement(flight)?;
        let lock = match self.start(flight, crew).await? {
            Start::Locked(lock) => lock,
            Start::Satisfied(held) => return Ok(Landing::Done(Landed { held, fresh: false })),
            Start::Busy => return Ok(Landing::Busy),
        };
        for _ in 0..RACES {
            let stored = self.look(credentials.principal().as_ref(), flight.identity).await?;
            if let Some(held) = stored.as_ref().filter(|held| self.satisfies(need, held)) {
                return Ok(Landing::Done(Landed { held: Arc::clone(held), fresh: false }));
            }
            if let Need::Revoke { again } = *need {
                return self.sign_out(stored, again, flight, lock).await;
            }
            let can_do_without = matches!(need, Need::Ahead) || self.can_do_without(need, stored.as_deref());
            if can_do_without {
                flight.budget = &once;
            }
            let stored = stored.as_deref().map(|held| &held.object);
            self.check_refusal(flight, stored).await?;
            if stored.is_none() && matches!(need, Need::Ahead) && self.has_been_emptied() {
                return Ok(Landing::Busy);
            }
            if stored.is_none() && !matches!(need, Need::SignIn(_) | Need::Adopt(_)) {
                credentials.require_sign_in()?;
            }
            self.store.rehearse(stored, &lock).await?;
            if let Need::Adopt(object) = need {
                sign_in::check_token(object, stored, flight.credentials, sign_in::TO_BE_HELD)?;
                let held = self.hold(object.clone(), TokenOrigin::Adopted, flight, lock).await;
                return Ok(Landing::Done(Landed { held, fresh: false }));
            }
            match self.exchange(stored, flight).await {
                Ok(Some((reply, origin))) => return self.keep(&reply, origin, stored, flight, lock).await,
                Ok(None) => {}
                Err(e) => {
                    self.remember(&e, flight, stored, &lock).await;
                    return if can_do_without { Ok(Landing::Tried(e)) } else { Err(e) };
                }
            }
        }
        Err(Error::new(
            ErrorKind::Store,
            format!(
                "{} is being changed by another program as fast as its tokens can be tried; stop that program",
                self.store.describe()
            ),
        ))
    }

    /// A token in place of the held one must be the same principal's, and lead to Concur.
    fn check_replacement(&self, flight: Flight<'_>) -> Result<(), Error> {
        match flight.need {
            Need::SignIn(grant) => sign_in::check_grant(grant, flight.credentials),
            Need::Adopt(token) => {
                geolocation_of(token, &flight.identity.base)?;
                sign_in::check_token(token, None, flight.credentials, sign_in::TO_BE_HELD)
            }
            Need::RefreshToken | Need::AccessToken | Need::Ahead | Need::Grant | Need::Revoke { .. } => {
                Ok(())
            }
        }
    }

    /// Gets the store's lock, unless it turns out on the way that nothing has to be renewed.
    async fn start(&self, flight: Flight<'_>, crew: &Crew) -> Result<Start, Error> {
        let mut waited = Duration::ZERO;
        let mut poll = FIRST_POLL;
        loop {
            // A sibling may have renewed meanwhile. To see that, and to serve a read-only folder, takes no lock.
            let stored = self.look(flight.credentials.principal().as_ref(), flight.identity).await?;
            if let Some(held) = stored.as_ref().filter(|held| self.satisfies(flight.need, held)) {
                return Ok(Start::Satisfied(Arc::clone(held)));
            }
            self.check_refusal(flight, stored.as_deref().map(|held| &held.object)).await?;
            // The lock of a token that could not be saved is still ours.
            if let Some(lock) = self.save_what_is_unsaved().await? {
                return Ok(Start::Locked(lock));
            }
            if let Some(lock) = self.store.try_lock().await? {
                return Ok(Start::Locked(lock));
            }
            if crew.is_alone() || self.can_do_without(flight.need, stored.as_deref()) {
                return Ok(Start::Busy);
            }
            if waited >= self.policy.lock_timeout {
                return Err(Error::new(
                    ErrorKind::Store,
                    format!(
                        "waited {} s for the lock of {}, which another process holds; find out what that \
                         process is doing (it may be suspended), then try again",
                        waited.as_secs(),
                        self.store.describe()
                    ),
                ));
            }
            self.clock.sleep(poll).await;
            // Counted, not read from the clock, which may jump.
            waited += poll;
            poll = (poll * 2).min(LONGEST_POLL);
        }
    }

    /// Saves and publishes what Concur sent, and only then says what is wrong with it.
    pub(super) async fn keep(
        self: &Arc<Self>,
        reply: &TokenReply,
        origin: TokenOrigin,
        stored: Option<&RefreshTokenObject>,
        flight: Flight<'_>,
        lock: StoreLock,
    ) -> Result<Landing, Error> {
        let same_grant = origin == TokenOrigin::Renewed;
        let of_grant = match flight.need {
            Need::SignIn(grant) => grant.company_uuid(),
            _ => stored.filter(|_| same_grant).and_then(RefreshTokenObject::company_uuid),
        };
        let company = of_grant.or_else(|| flight.credentials.company_uuid());
        let predecessor = stored.map(|object| Predecessor { object, same_grant });
        let Accepted { object, fault } = match reply.succeed(predecessor, company) {
            Ok(accepted) => accepted,
            Err(e) => {
                let e = if same_grant { e } else { e.in_doubt() };
                self.remember(&e, flight, stored, &lock).await;
                reply.log();
                return Err(e);
            }
        };
        let fault = fault.map_or(Ok(()), Err);
        let fault = sign_in::check_received(&object, stored, flight, fault).inspect_err(|_| reply.log())?;
        let held = self.hold(object, origin, flight, lock).await;
        // Not before it is saved: a subscriber may end the process.
        reply.log();
        if let Err(fault) = fault.and_then(|()| geolocation_of(&held.object, &flight.identity.base).map(drop))
        {
            return Ok(Landing::Faulty(fault));
        }
        if matches!(flight.need, Need::AccessToken) && held.access.is_none() {
            return Ok(Landing::Faulty(reply.without_access_token()));
        }
        Ok(Landing::Done(Landed { held, fresh: true }))
    }
}
