//! Who is served what: the decisions of all callers, and what is known of the store.
//!
//! Always: a caller waits for a flight only if nothing valid is held; what cannot be judged passing is said.

use std::{
    env::{self, VarError},
    sync::{Arc, OnceLock},
};

use tokio::sync::watch;

use super::{
    builder::Policy,
    decision::{Calm, Decision, Window, decide},
    flight::{Flights, Join, Landing, Need},
    memory::{Held, Memory},
    revocation::Revoked,
    unsaved::Unsaved,
};
use crate::{
    AccessToken, Clock, Credentials, Error, ErrorKind, Geolocation, OAuthClient, RefreshTokenObject, Status,
    TokenOrigin, credential_source::DynCredentialSource, principal::Principal, store::DynTokenStore,
};

/// What the clones of a manager share.
pub(super) struct Core {
    pub(super) store: Box<dyn DynTokenStore>,
    pub(super) source: Box<dyn DynCredentialSource>,
    pub(super) client: OAuthClient,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) policy: Policy,
    pub(super) base: Option<Geolocation>,
    pub(super) trusted_hosts: Arc<[String]>,
    pub(super) identity: OnceLock<Identity>,
    pub(super) memory: Memory,
    pub(super) flights: Flights,
    pub(super) unsaved: Unsaved,
    pub(super) revoked: Revoked,
    /// Made for the first subscriber.
    pub(super) subscribers: OnceLock<watch::Sender<Status>>,
}

/// What the credentials said at first use.
pub(super) struct Identity {
    pub(super) base: Geolocation,
    pub(super) principal: Option<Principal>,
}

impl Core {
    pub(super) async fn refresh_token(self: &Arc<Self>) -> Result<RefreshTokenObject, Error> {
        loop {
            // Before the first flight nobody knows whose token is wanted, and the flight looks at the store itself.
            let identity = self.identity.get();
            let stored = match identity {
                Some(identity) => self.look(identity.principal.as_ref(), identity).await?,
                None => None,
            };
            let now = self.clock.now();
            let decision = stored
                .as_ref()
                .map_or(Decision::Wait, |held| self.decide_refresh(&held.object, self.memory.calm(now)));
            let landing = self.act(decision, Need::RefreshToken).await;
            let held = if identity.is_some() { stored } else { self.memory.held() };
            let served = held.filter(|held| self.refresh_window(&held.object).is_valid(now));
            match (landing, served) {
                (Some(Landing::Done(landed)), _) if landed.fresh => return Ok(landed.held.object.clone()),
                // What the flight found is in the store now: look again.
                (Some(Landing::Done(_) | Landing::SignedOut), _) => {}
                (Some(Landing::Faulty(e)), _) => return Err(e),
                // Somebody else could do without: now it is our turn.
                (Some(Landing::Tried(_)), None) => {}
                (Some(Landing::Failed(e) | Landing::Tried(e)), served) => {
                    return served.filter(|_| is_passing(&e)).map(|held| held.object.clone()).ok_or(e);
                }
                (None | Some(Landing::Busy), Some(held)) => return Ok(held.object.clone()),
                (None | Some(Landing::Busy), None) => {}
            }
        }
    }

    pub(super) async fn access_token(self: &Arc<Self>) -> Result<AccessToken, Error> {
        loop {
            let now = self.clock.now();
            let held = self.memory.held();
            let access = held.as_ref().and_then(|held| held.access.as_ref());
            let decision =
                access.map_or(Decision::Wait, |access| decide(&access.window, now, self.memory.calm(now)));
            let landing = self.act(decision, Need::AccessToken).await;
            let served = self.memory.held().and_then(|held| held.live_access(self.clock.now()));
            match (landing, served) {
                (Some(Landing::Done(landed)), _) => {
                    let access = landed.held.access.as_ref();
                    let access = access.filter(|access| landed.fresh || access.window.is_valid(now));
                    if let Some(access) = access {
                        return Ok(access.token.clone());
                    }
                }
                (Some(Landing::SignedOut), _) => {}
                (Some(Landing::Faulty(e)), _) => return Err(e),
                (Some(Landing::Tried(_)), None) => {}
                (Some(Landing::Failed(e) | Landing::Tried(e)), served) => {
                    return served.filter(|_| is_passing(&e)).ok_or(e);
                }
                (None | Some(Landing::Busy), Some(token)) => return Ok(token),
                (None | Some(Landing::Busy), None) => {}
            }
        }
    }

    /// Puts another token in place of whatever is held, in a flight of its own.
    pub(super) async fn replace(self: &Arc<Self>, need: Need) -> Result<RefreshTokenObject, Error> {
        loop {
            match self.fly(need.clone(), Join::Own).await {
                Some(Landing::Done(landed)) => return Ok(landed.held.object.clone()),
                Some(Landing::Failed(e) | Landing::Tried(e) | Landing::Faulty(e)) => return Err(e),
                // Only callers that are gone make a flight give up, and this one is here.
                Some(Landing::Busy | Landing::SignedOut) | None => {}
            }
        }
    }

    /// `None` if no flight was needed, or somebody else is on one that the caller need not wait for.
    async fn act(self: &Arc<Self>, decision: Decision, need: Need) -> Option<Landing> {
        match decision {
            Decision::Serve => None,
            Decision::Carry => self.fly(need, Join::Never).await,
            Decision::Wait => self.fly(need, Join::Any).await,
        }
    }

    /// Fixes, at first use, what the credentials say about base URI and company.
    pub(super) fn identify(&self, credentials: &Credentials) -> Result<&Identity, Error> {
        if let Some(identity) = self.identity.get() {
            return Ok(identity);
        }
        let base = match (&self.base, credentials.own_base_uri(), env::var("CONCUR_BASE_URI")) {
            (Some(base), ..) => base.clone(),
            (None, Some(uri), _) => self.configured(uri, &credentials.place_of_base_uri())?,
            (None, None, Ok(uri)) if !uri.trim().is_empty() => {
                self.configured(&uri, "the environment variable CONCUR_BASE_URI")?
            }
            (None, None, Err(VarError::NotUnicode(_))) => {
                let message = "the environment variable CONCUR_BASE_URI is not UTF-8 text; set it again";
                return Err(Error::new(ErrorKind::Config, message));
            }
            (None, None, _) => self.configured(Geolocation::GLZ, "the default")?,
        };
        let principal = credentials.principal();
        Ok(self.identity.get_or_init(|| Identity { base, principal }))
    }

    fn configured(&self, uri: &str, origin: &str) -> Result<Geolocation, Error> {
        Geolocation::configured(uri, origin, Arc::clone(&self.trusted_hosts))
    }

    /// What is stored, which also becomes what is held; a token that could not be saved yet comes before both.
    pub(super) async fn look(
        &self,
        principal: Option<&Principal>,
        identity: &Identity,
    ) -> Result<Option<Arc<Held>>, Error> {
        loop {
            let before = self.memory.held();
            if before.as_ref().is_some_and(|held| held.unsaved) {
                return Ok(before);
            }
            let stored = self.store.load().await?;
            let Some(object) = stored.filter(|object| before.is_some() || !self.revoked.is(object)) else {
                return Ok(None);
            };
            if let Some(principal) = principal {
                principal.check(&object, || format!("the token in {}", self.store.describe()))?;
            }
            if before.as_ref().is_some_and(|held| held.object.is_same_reply(&object)) {
                return Ok(before);
            }
            let held = Held::new(object, TokenOrigin::Stored, &identity.base, before.as_deref());
            if let Some(held) = self.memory.publish_after(&before, held) {
                self.announce();
                return Ok(Some(held));
            }
            // Memory has changed meanwhile, and what was read may be older than that.
        }
    }

    /// Tells the subscribers, if there are any. Whoever comes last reads memory last, so the final state is told.
    pub(super) fn announce(&self) {
        if let Some(subscribers) = self.subscribers.get() {
            subscribers.send_if_modified(|told| {
                let status = self.status();
                let is_news = *told != status;
                *told = status;
                is_news
            });
        }
    }

    /// Whether what is held makes a flight needless.
    pub(super) fn satisfies(&self, need: &Need, held: &Held) -> bool {
        match need {
            Need::RefreshToken => self.decide_refresh(&held.object, Calm::Calm) == Decision::Serve,
            Need::AccessToken => held.access.as_ref().is_some_and(|access| {
                decide(&access.window, self.clock.now(), Calm::Calm) == Decision::Serve
            }),
            Need::Ahead => {
                self.decide_refresh(&held.object, Calm::Calm) == Decision::Serve
                    && held.access.as_ref().is_some_and(|access| access.window.is_early(self.clock.now()))
            }
            Need::Grant | Need::SignIn(_) | Need::Adopt(_) | Need::Revoke { .. } => false,
        }
    }

    /// Whether whoever needs this can be served while somebody else renews: from what the store holds, or, with
    /// access tokens, from memory.
    pub(super) fn can_do_without(&self, need: &Need, stored: Option<&Held>) -> bool {
        let now = self.clock.now();
        match need {
            Need::RefreshToken => stored.is_some_and(|held| self.refresh_window(&held.object).is_valid(now)),
            Need::AccessToken | Need::Ahead => {
                self.memory.held().is_some_and(|held| held.live_access(now).is_some())
            }
            Need::Grant | Need::SignIn(_) | Need::Adopt(_) | Need::Revoke { .. } => false,
        }
    }

    fn decide_refresh(&self, object: &RefreshTokenObject, calm: Calm) -> Decision {
        let now = self.clock.now();
        match decide(&self.refresh_window(object), now, calm) {
            // The last grant was less than an access token's life ago: a server that does not extend the refresh
            // token must not be asked on every call.
            Decision::Carry if object.access().is_some_and(|access| now < access.expires_at) => {
                Decision::Serve
            }
            decision => decision,
        }
    }

    fn refresh_window(&self, object: &RefreshTokenObject) -> Window {
        Window::of_refresh(object.expiry(), self.policy.refresh_token_margin)
    }
}

/// Whether the error may be over before the held token is: a caller who can go on gains nothing from being told.
pub(super) fn is_passing(e: &Error) -> bool {
    match e.kind() {
        ErrorKind::Unavailable | ErrorKind::Store | ErrorKind::Protocol => true,
        // Nothing was sent: a captive portal, or a certificate that is renewed too late.
        ErrorKind::Untrusted => true,
        // Somebody is editing them, or has blanked what is not needed for the time being.
        ErrorKind::CredentialsNeeded | ErrorKind::CredentialsInvalid => true,
        ErrorKind::ReauthorizationRequired | ErrorKind::Refused | ErrorKind::Config => false,
    }
}
