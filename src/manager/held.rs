//! A refresh token object with what is derived from it once.

use std::time::{Duration, SystemTime};

use super::decision::{Decision, Window, decide};
use crate::{
    AccessToken, Error, Geolocation, RefreshTokenObject, Status, TokenOrigin, clock, random::Random, shown,
};

#[derive(Clone, Debug)]
pub(super) struct Held {
    pub(super) object: RefreshTokenObject,
    /// The principal's data centre, if the object names one that belongs to Concur.
    geolocation: Option<Geolocation>,
    access: Option<HeldAccess>,
    /// An access token that an API refused: not to be taken from the store again.
    rejected: Option<AccessToken>,
    pub(super) origin: TokenOrigin,
    /// It is newer than what the store holds, and in memory only.
    pub(super) is_unsaved: bool,
}

#[derive(Clone, Debug)]
pub(super) struct HeldAccess {
    pub(super) token: AccessToken,
    pub(super) window: Window,
}

impl HeldAccess {
    pub(super) fn new(token: AccessToken, random: &Random) -> Self {
        Self { window: Window::of_access(token.issued(), random.fraction()), token }
    }
}

impl Held {
    /// `base` is what the object's geolocation is checked against; an untrusted geolocation yields no access token.
    pub(super) fn new(
        object: RefreshTokenObject,
        origin: TokenOrigin,
        base: &Geolocation,
        before: Option<&Self>,
        random: &Random,
    ) -> Self {
        let rejected = before.and_then(|held| held.rejected.clone());
        let geolocation = geolocation_of(&object, base).ok();
        let access = object.access().zip(geolocation.clone()).and_then(|(issued, geolocation)| {
            if rejected.as_ref().is_some_and(|token| token.secret() == issued.secret.expose()) {
                return None;
            }
            let token = AccessToken::new(issued.clone(), geolocation, object.shared_scopes());
            Some(HeldAccess::new(token, random))
        });
        let geolocation = geolocation.filter(|_| object.geolocation().is_some());
        Self { object, geolocation, access, rejected, origin, is_unsaved: false }
    }

    pub(super) fn unsaved(self, is_unsaved: bool) -> Self {
        Self { is_unsaved, ..self }
    }

    /// The same without its access token, which is not this principal's.
    pub(super) fn without_access(self) -> Self {
        Self { access: None, ..self }
    }

    /// The same without this access token, which an API refused; `None` if it is not the current one.
    pub(super) fn rejecting(&self, token: &AccessToken) -> Option<Self> {
        let current = self.access.as_ref()?;
        let is_current = current.token.secret() == token.secret();
        is_current.then(|| Self { access: None, rejected: Some(token.clone()), ..self.clone() })
    }

    /// The same, to be renewed ahead of time from this moment on.
    pub(super) fn renewed_from(mut self, moment: SystemTime) -> Self {
        if let Some(access) = &mut self.access {
            access.window.ahead = moment;
        }
        self
    }

    pub(super) fn access(&self) -> Option<&HeldAccess> {
        self.access.as_ref()
    }

    /// The access token, if an API call could still be made with it.
    pub(super) fn live_access(&self, now: SystemTime) -> Option<AccessToken> {
        let access = self.access.as_ref()?;
        access.window.is_valid(now).then(|| access.token.clone())
    }

    /// Whether the refresh token is valid.
    pub(super) fn is_valid(&self, now: SystemTime) -> bool {
        self.refresh_window(Duration::ZERO).is_valid(now)
    }

    /// What to do for a caller who needs the refresh token.
    pub(super) fn decide(
        &self,
        now: SystemTime,
        margin: Duration,
        is_backing_off: impl FnOnce() -> bool,
    ) -> Decision {
        match decide(&self.refresh_window(margin), now, is_backing_off) {
            // The last grant was less than an access token's life ago: a server that does not extend the refresh
            // token must not be asked on every call.
            Decision::RenewIfIdle if self.object.access().is_some_and(|access| now < access.expires_at) => {
                Decision::Serve
            }
            decision => decision,
        }
    }

    fn refresh_window(&self, margin: Duration) -> Window {
        Window::of_refresh(self.object.expiry(), margin)
    }

    pub(super) fn report(&self, status: &mut Status, now: SystemTime) {
        let Self { object, access, geolocation, .. } = self;
        status.company_uuid = shown::uuid(object.company_uuid()).map(str::to_owned);
        status.principal_uuid = shown::uuid(object.principal_uuid()).map(str::to_owned);
        status.geolocation = geolocation.as_ref().map(|it| it.to_string().trim_end_matches('/').to_owned());
        status.refresh_token_valid = object.expiry().is_none_or(|at| now < at);
        status.refresh_token_expires_at = object.expiry().map(clock::public_time);
        status.access_token_valid = access.as_ref().is_some_and(|access| access.window.is_valid(now));
        status.access_token_expires_at = access.as_ref().map(|access| access.token.expires_at());
        status.source = Some(self.origin);
        status.unsaved = self.is_unsaved;
    }
}

/// Where a renewal's first request goes. A refresh token that looks expired comes last, after a sign-in at `base`.
pub(super) fn first_stop(
    stored: Option<&RefreshTokenObject>,
    base: &Geolocation,
    now: SystemTime,
) -> Geolocation {
    stored
        .filter(|stored| stored.expiry().is_none_or(|expiry| now < expiry))
        .and_then(|stored| geolocation_of(stored, base).ok())
        .unwrap_or_else(|| base.clone())
}

/// The checked geolocation of a stored object, or `base` where it names none.
pub(super) fn geolocation_of(object: &RefreshTokenObject, base: &Geolocation) -> Result<Geolocation, Error> {
    let origin = "the geolocation that came with the token";
    object.geolocation().map_or_else(|| Ok(base.clone()), |received| base.received(received, origin))
}
