//! What happens in a flight: lock, read again, rehearse the save, request, save, publish.
//!
//! Always: nothing is sent before the store has been locked, read again and found able to save; what Concur
//! sends is saved before anybody sees it.

use std::{sync::Arc, time::Duration};

use super::{
    core::{Core, Identity},
    flight::{Crew, Landed, Landing, Need},
    memory::{Held, geolocation_of},
};
use crate::{
    ConcurCode, Credentials, Error, ErrorKind, Grant, RefreshTokenObject, StoreLock, TokenOrigin, TokenReply,
    error::COMPANY_TOKENS_PAGE,
};

/// How often the lock is asked for. A pause grows from the first to the longest.
const FIRST_POLL: Duration = Duration::from_millis(2);
const LONGEST_POLL: Duration = Duration::from_millis(50);

/// How many times a token that somebody else stored meanwhile is tried in one flight.
const RACES: usize = 3;

enum Start {
    Locked(StoreLock),
    Satisfied(Arc<Held>),
    Busy,
}

/// What Concur sent and how; `None` when the refresh token was refused and the store holds another by now.
type Exchanged = Option<(TokenReply, TokenOrigin)>;

impl Core {
    pub(super) async fn run(self: &Arc<Self>, need: Need, crew: &Crew) -> Landing {
        let landing = self.renew(need, crew).await.unwrap_or_else(Landing::Failed);
        match &landing {
            Landing::Done(_) => self.memory.note_success(),
            Landing::Busy => self.memory.note_busy(self.clock.now()),
            Landing::Failed(e) | Landing::Faulty(e) => {
                tracing::warn!(error = %e, "the renewal failed");
                self.memory.note_failure(e, self.clock.now());
            }
        }
        landing
    }

    async fn renew(self: &Arc<Self>, need: Need, crew: &Crew) -> Result<Landing, Error> {
        let credentials = self.source.credentials().await?;
        let identity = self.identify(&credentials)?;
        let lock = match self.start(need, &credentials, identity, crew).await? {
            Start::Locked(lock) => lock,
            Start::Satisfied(held) => return Ok(Landing::Done(Landed { held, fresh: false })),
            Start::Busy => return Ok(Landing::Busy),
        };
        for _ in 0..RACES {
            let stored = self.look(credentials.company_uuid(), identity).await?;
            if let Some(held) = stored.as_ref().filter(|held| self.satisfies(need, held)) {
                return Ok(Landing::Done(Landed { held: Arc::clone(held), fresh: false }));
            }
            let stored = stored.as_deref().map(|held| &held.object);
            if stored.is_none() {
                credentials.require_company()?;
            }
            self.store.rehearse(stored, &lock).await?;
            if let Some((reply, origin)) = self.exchange(stored, &credentials, identity).await? {
                let held = self.keep(&reply, origin, stored, &credentials, identity, lock).await?;
                return Ok(match held {
                    Ok(held) => fit_for(need, held),
                    Err(fault) => Landing::Faulty(fault),
                });
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

    /// Gets the store's lock, unless it turns out on the way that nothing has to be renewed.
    async fn start(
        &self,
        need: Need,
        credentials: &Credentials,
        identity: &Identity,
        crew: &Crew,
    ) -> Result<Start, Error> {
        let mut waited = Duration::ZERO;
        let mut poll = FIRST_POLL;
        loop {
            // A sibling may have renewed meanwhile. To see that, and to serve a read-only folder, takes no lock.
            match self.look(credentials.company_uuid(), identity).await? {
                Some(held) if self.satisfies(need, &held) => return Ok(Start::Satisfied(held)),
                _ => {}
            }
            // The lock of a token that could not be saved is still ours.
            if let Some(lock) = self.save_what_is_unsaved().await? {
                return Ok(Start::Locked(lock));
            }
            if let Some(lock) = self.store.try_lock().await? {
                return Ok(Start::Locked(lock));
            }
            if crew.is_alone() || self.can_do_without(need) {
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
        credentials: &Credentials,
        identity: &Identity,
    ) -> Result<Exchanged, Error> {
        let Some(stored) = stored else {
            return self.obtain(credentials, identity).await;
        };
        let looks_expired = stored.expiry().is_some_and(|expiry| expiry <= self.clock.now());
        let mut no_sign_in = None;
        if looks_expired {
            match self.obtain(credentials, identity).await {
                Err(e) if needs_new_request_token(&e) => no_sign_in = Some(e),
                answer => return answer,
            }
        }
        // One that looks expired comes last, but it comes: our clock may be the one that is wrong.
        let refused = match self.present(stored, credentials, identity).await {
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
                tracing::warn!(error = %refused, "the refresh token is no longer accepted; signing in again");
                match self.obtain(credentials, identity).await {
                    Err(e) if needs_new_request_token(&e) || e.kind() == ErrorKind::Refused => e,
                    answer => return answer,
                }
            }
        };
        Err(self.reauthorization_required(&refused, &no_sign_in, credentials))
    }

    /// The refresh grant, at the token's last geolocation.
    async fn present(
        &self,
        stored: &RefreshTokenObject,
        credentials: &Credentials,
        identity: &Identity,
    ) -> Result<Exchanged, Error> {
        let geolocation = geolocation_of(stored, &identity.base)?;
        let grant = Grant::refresh_token(stored.secret());
        let reply = self.client.send(&geolocation, credentials, &grant, &self.clock).await?;
        Ok(Some((reply, TokenOrigin::Renewed)))
    }

    /// The grant with the company request token, at the base URI.
    async fn obtain(&self, credentials: &Credentials, identity: &Identity) -> Result<Exchanged, Error> {
        let (uuid, request_token) = credentials.require_company()?;
        let grant = Grant::company_request_token(uuid, request_token);
        match self.client.send(&identity.base, credentials, &grant, &self.clock).await {
            Ok(reply) => Ok(Some((reply, TokenOrigin::Obtained))),
            Err(e) if is_bad_request_token(&e) => Err(Error::new(
                ErrorKind::ReauthorizationRequired,
                format!(
                    "Concur did not accept the company UUID with its company request token, which lives 24 \
                     hours and five uses; create a new one at {COMPANY_TOKENS_PAGE} and put it into {}",
                    credentials.place()
                ),
            )
            .answered_as(&e)),
            Err(e) => Err(e),
        }
    }

    /// Both ways are closed: `refused` is what became of the refresh token, `no_sign_in` of the other.
    fn reauthorization_required(
        &self,
        refused: &Error,
        no_sign_in: &Error,
        credentials: &Credentials,
    ) -> Error {
        let (request_token, last) = match no_sign_in.kind() {
            ErrorKind::CredentialsNeeded => {
                ("there is no company request token to sign in again with", refused)
            }
            _ => ("signing in again was refused too", no_sign_in),
        };
        Error::new(
            ErrorKind::ReauthorizationRequired,
            format!(
                "the refresh token in {} is no longer accepted, and {request_token}; create a new company \
                 request token at {COMPANY_TOKENS_PAGE} and put it into {}",
                self.store.describe(),
                credentials.place()
            ),
        )
        .answered_as(last)
    }

    /// Saves and publishes what Concur sent, and only then says what is wrong with it: the inner result.
    async fn keep(
        self: &Arc<Self>,
        reply: &TokenReply,
        origin: TokenOrigin,
        stored: Option<&RefreshTokenObject>,
        credentials: &Credentials,
        identity: &Identity,
        lock: StoreLock,
    ) -> Result<Result<Arc<Held>, Error>, Error> {
        let same_grant = origin == TokenOrigin::Renewed;
        let company = stored
            .filter(|_| same_grant)
            .and_then(RefreshTokenObject::company_uuid)
            .or_else(|| credentials.company_uuid());
        let (object, fault) = reply.succeed(stored, same_grant, company)?;
        let unsaved = self.save(&object, lock).await.err();
        let before = self.memory.held();
        let mut held = Held::new(object, origin, &identity.base, before.as_deref());
        held.unsaved = unsaved.is_some();
        let held = self.memory.publish(held);
        if let Some(lock) = unsaved {
            self.keep_unsaved(held.object.clone(), lock).await;
        }
        let fault = fault.and_then(|()| geolocation_of(&held.object, &identity.base).map(drop));
        Ok(fault.map(|()| held))
    }
}

/// A reply may be good for one need and not for the other.
fn fit_for(need: Need, held: Arc<Held>) -> Landing {
    if need == Need::AccessToken && held.access.is_none() {
        return Landing::Faulty(Error::new(
            ErrorKind::Protocol,
            "Concur's reply holds no access token; the refresh token that came with it is saved",
        ));
    }
    Landing::Done(Landed { held, fresh: true })
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
