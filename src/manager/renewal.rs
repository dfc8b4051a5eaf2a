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
    ConcurCode, Credentials, Error, ErrorKind, Geolocation, Grant, RefreshTokenObject, StoreLock,
    TokenOrigin, TokenReply, log, oauth_client::Patience,
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
    pub(super) patience: &'a Patience<'a>,
}

enum Start {
    Locked(StoreLock),
    Satisfied(Arc<Held>),
    Busy,
}

/// What Concur sent and how; `None` when the refresh token was refused and the store holds another by now.
type Exchanged = Option<(TokenReply, TokenOrigin)>;

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
        let (once, repeat) = (Patience::one_attempt(), Patience::repeat(&is_given_up));
        let mut flight = Flight { need, identity, credentials: &credentials, patience: &repeat };
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
                flight.patience = &once;
            }
            let stored = stored.as_deref().map(|held| &held.object);
            self.check_refusal(flight, stored).await?;
            if stored.is_none() && !matches!(need, Need::SignIn(_) | Need::Adopt(_)) {
                credentials.require_sign_in()?;
            }
            self.store.rehearse(stored, &lock).await?;
            if let Need::Adopt(object) = need {
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
                sign_in::check_token(token, flight.credentials)
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

    /// Sends what can be sent, best first.
    async fn exchange(
        &self,
        stored: Option<&RefreshTokenObject>,
        flight: Flight<'_>,
    ) -> Result<Exchanged, Error> {
        let base = &flight.identity.base;
        if let Need::SignIn(grant) = flight.need {
            let base = sign_in::base_for(grant, stored, base);
            return self.send(&base, grant, TokenOrigin::Obtained, flight).await;
        }
        let Some(stored) = stored else {
            return self.obtain(flight).await;
        };
        let looks_expired = stored.expiry().is_some_and(|expiry| expiry <= self.clock.now());
        let mut no_sign_in = None;
        if looks_expired {
            match self.obtain(flight).await {
                Err(e) if needs_new_request_token(&e) => no_sign_in = Some(e),
                answer => return answer,
            }
        }
        // One that looks expired comes last, but it comes: our clock may be the one that is wrong.
        let refused = match self.present(stored, flight).await {
            Err(e) if e.is_invalid_grant() => e,
            answer => return answer,
        };
        if self.store.load().await?.is_some_and(|now| !now.is_same_token(stored)) {
            return Ok(None);
        }
        // Another code means that the account is locked or denied: a request token would make that worse.
        if !matches!(refused.code(), None | Some(ConcurCode::BAD_REFRESH_TOKEN)) {
            return Err(refused);
        }
        let no_sign_in = match no_sign_in {
            Some(e) => e,
            None => {
                log::event!(warn, error = %refused, "the refresh token is no longer accepted; signing in again");
                match self.obtain(flight).await {
                    Err(e) if needs_new_request_token(&e) || e.kind() == ErrorKind::Refused => e,
                    answer => return answer,
                }
            }
        };
        Err(self.reauthorization_required(&refused, &no_sign_in, flight.credentials))
    }

    /// The refresh grant, at the token's last geolocation.
    pub(super) async fn present(
        &self,
        stored: &RefreshTokenObject,
        flight: Flight<'_>,
    ) -> Result<Exchanged, Error> {
        let geolocation = geolocation_of(stored, &flight.identity.base)?;
        let grant = Grant::refresh_token(stored.secret());
        self.send(&geolocation, &grant, TokenOrigin::Renewed, flight).await
    }

    /// The grant of the credentials, at the base URI.
    async fn obtain(&self, flight: Flight<'_>) -> Result<Exchanged, Error> {
        let grant = Grant::of(flight.credentials)?;
        let now = self.clock.now();
        if let Some(e) = self.memory.doubts(flight.credentials, now) {
            return Err(e);
        }
        let sent = self.send(&flight.identity.base, &grant, TokenOrigin::Obtained, flight).await;
        sent.map_err(|e| {
            if e.is_in_doubt() || e.kind() == ErrorKind::Protocol {
                self.memory.note_doubt(&e, flight.credentials, self.clock.now());
            }
            if !is_bad_request_token(&e) {
                return e;
            }
            let message = format!("Concur did not accept {}", flight.credentials.not_accepted());
            Error::new(ErrorKind::ReauthorizationRequired, message).answered_as(&e)
        })
    }

    async fn send(
        &self,
        base: &Geolocation,
        grant: &Grant,
        origin: TokenOrigin,
        flight: Flight<'_>,
    ) -> Result<Exchanged, Error> {
        let Flight { credentials, patience, .. } = flight;
        let reply = self.client.send(base, credentials, grant, &self.clock, patience).await?;
        Ok(Some((reply, origin)))
    }

    /// Both ways are closed: `refused` is what became of the refresh token, `no_sign_in` of the other.
    fn reauthorization_required(
        &self,
        refused: &Error,
        no_sign_in: &Error,
        credentials: &Credentials,
    ) -> Error {
        let (nothing, way_back) = credentials.way_back();
        let (no_sign_in, last) = match no_sign_in.kind() {
            ErrorKind::CredentialsNeeded => (nothing, refused),
            _ => ("signing in again was refused too", no_sign_in),
        };
        Error::new(
            ErrorKind::ReauthorizationRequired,
            format!(
                "the refresh token in {} is no longer accepted, and {no_sign_in}; {way_back}",
                self.store.describe()
            ),
        )
        .answered_as(last)
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
        let succeeded = reply.succeed(stored, same_grant, company).inspect_err(|e| {
            if origin == TokenOrigin::Obtained {
                self.memory.note_doubt(e, flight.credentials, self.clock.now());
            }
            reply.log();
        });
        let (object, fault) = succeeded?;
        let fault = sign_in::check_received(&object, flight, fault).inspect_err(|_| reply.log())?;
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

/// The company request token (or the UUID it belongs to) is missing or was turned down.
fn needs_new_request_token(e: &Error) -> bool {
    matches!(e.kind(), ErrorKind::CredentialsNeeded | ErrorKind::ReauthorizationRequired)
}

/// Concur turned down the request token itself, not the app or the account.
fn is_bad_request_token(e: &Error) -> bool {
    e.kind() == ErrorKind::Refused
        && match e.code().map(ConcurCode::number) {
            Some(number) => matches!(number, 5 | 19 | 136),
            None => e.is_invalid_grant(),
        }
}
