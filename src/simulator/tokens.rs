//! Which token is good for what: the simulator's memory, without HTTP.
//!
//! Always: a refresh token works until it expires, is rotated away or is revoked; no token is given out twice.

use std::{
    collections::HashMap,
    time::{Duration, SystemTime},
};

use super::{
    made_up::{jwt, random},
    reply::Code,
};

pub(super) const ACCESS_LIFETIME: Duration = Duration::from_secs(3600);
/// SAP's six months.
const REFRESH_LIFETIME: Duration = Duration::from_secs(182 * 24 * 3600);
const REQUEST_LIFETIME: Duration = Duration::from_secs(24 * 3600);
const REQUEST_USES: u32 = 5;

/// What a refresh grant does to the refresh token that it presents.
///
/// SAP: the one returned is "usually the same, but may change".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Rotation {
    /// The same token comes back, with a new six months.
    #[default]
    Never,
    /// A new token comes back, and the old one is refused from then on (code 108).
    Always,
    /// As [`Always`](Self::Always); and when an old token is presented once more, every token that came from
    /// the same sign-in is revoked, as it may have been stolen (RFC 9700 section 4.14.2).
    AlwaysAndRevokeFamily,
}

#[derive(Default)]
pub(super) struct Tokens {
    pub(super) rotation: Rotation,
    request_tokens: HashMap<String, RequestToken>,
    refresh_tokens: HashMap<String, RefreshToken>,
    /// Rotated away, each with its family.
    rotated: HashMap<String, Family>,
    next_family: Family,
    access_tokens: HashMap<String, IssuedAccessToken>,
}

/// What a sign-in settles for every token that descends from it.
#[derive(Clone)]
pub(super) struct Connection {
    pub(super) app_id: String,
    /// The principal's UUID.
    pub(super) principal: String,
    /// Names with spaces between them.
    pub(super) scope: String,
}

/// The number of the sign-in that a refresh token descends from.
type Family = u64;

struct RequestToken {
    app_id: String,
    company_uuid: String,
    expires_at: SystemTime,
    uses_left: u32,
}

struct RefreshToken {
    connection: Connection,
    family: Family,
    expires_at: SystemTime,
}

struct IssuedAccessToken {
    /// Not that of an app by itself.
    connection: Option<Connection>,
    expires_at: SystemTime,
}

/// What a successful grant gives out.
pub(super) struct Issued {
    pub(super) access_token: String,
    pub(super) scope: String,
    /// Not for an app by itself.
    pub(super) renewal: Option<Renewal>,
}

pub(super) struct Renewal {
    pub(super) connection: Connection,
    pub(super) refresh_token: String,
    pub(super) expires_at: SystemTime,
}

impl Tokens {
    pub(super) fn new(rotation: Rotation) -> Self {
        Self { rotation, ..Self::default() }
    }

    pub(super) fn issue_request_token(
        &mut self,
        app_id: &str,
        company_uuid: &str,
        now: SystemTime,
    ) -> String {
        self.issue_this_request_token(format!("at-{}", random(28)), app_id, company_uuid, now)
    }

    pub(super) fn issue_this_request_token(
        &mut self,
        token: String,
        app_id: &str,
        company_uuid: &str,
        now: SystemTime,
    ) -> String {
        let granted = RequestToken {
            app_id: app_id.to_owned(),
            company_uuid: company_uuid.to_owned(),
            expires_at: later(now, REQUEST_LIFETIME),
            uses_left: REQUEST_USES,
        };
        self.request_tokens.insert(token.clone(), granted);
        token
    }

    pub(super) fn request_token_uses_left(&self, token: &str) -> u32 {
        self.request_tokens.get(token).map_or(0, |token| token.uses_left)
    }

    /// Burns a use of a company request token.
    pub(super) fn use_request_token(
        &mut self,
        token: &str,
        (app_id, company_uuid): (&str, &str),
        now: SystemTime,
    ) -> Result<(), Code> {
        match self.request_tokens.get_mut(token) {
            Some(token) if token.company_uuid != company_uuid => Err(5),
            Some(token) if token.app_id != app_id => Err(136),
            Some(token) if now < token.expires_at && token.uses_left > 0 => {
                token.uses_left -= 1;
                Ok(())
            }
            _ => Err(5),
        }
    }

    /// An access token for an app by itself.
    pub(super) fn client_credentials(&mut self, scope: &str, now: SystemTime) -> Issued {
        Issued { access_token: self.issue_access_token(None, now), scope: scope.to_owned(), renewal: None }
    }

    /// The first tokens of a new family.
    pub(super) fn sign_in(&mut self, connection: Connection, now: SystemTime) -> Issued {
        let family = self.next_family;
        self.next_family += 1;
        let scope = connection.scope.clone();
        self.issue(random(30), RefreshToken { connection, family, expires_at: now }, scope, now)
    }

    /// What a live refresh token descends from.
    pub(super) fn connection(&self, refresh_token: &str, now: SystemTime) -> Option<&Connection> {
        let token = self.refresh_tokens.get(refresh_token).filter(|token| now < token.expires_at)?;
        Some(&token.connection)
    }

    /// What a refresh grant gives out; `None` for a token that is no good.
    ///
    /// A narrower `scope` is that of the access token only (RFC 6749 section 6).
    pub(super) fn refresh(&mut self, token: &str, scope: Option<&str>, now: SystemTime) -> Option<Issued> {
        if self.rotation == Rotation::AlwaysAndRevokeFamily
            && let Some(stolen) = self.rotated.get(token)
        {
            self.refresh_tokens.retain(|_, live| live.family != *stolen);
        }
        if !self.is_live(token, now) {
            return None;
        }
        let live = self.refresh_tokens.remove(token)?;
        let next = match self.rotation {
            Rotation::Never => token.to_owned(),
            Rotation::Always | Rotation::AlwaysAndRevokeFamily => {
                self.rotated.insert(token.to_owned(), live.family);
                random(30)
            }
        };
        let scope = scope.unwrap_or(&live.connection.scope).to_owned();
        Some(self.issue(next, live, scope, now))
    }

    fn issue(
        &mut self,
        refresh_token: String,
        mut granted: RefreshToken,
        scope: String,
        now: SystemTime,
    ) -> Issued {
        granted.expires_at = later(now, REFRESH_LIFETIME);
        let access_token = self.issue_access_token(Some(granted.connection.clone()), now);
        let renewal = Renewal {
            connection: granted.connection.clone(),
            refresh_token: refresh_token.clone(),
            expires_at: granted.expires_at,
        };
        self.refresh_tokens.insert(refresh_token, granted);
        Issued { access_token, scope, renewal: Some(renewal) }
    }

    fn issue_access_token(&mut self, connection: Option<Connection>, now: SystemTime) -> String {
        let token = jwt();
        self.access_tokens
            .insert(token.clone(), IssuedAccessToken { connection, expires_at: later(now, ACCESS_LIFETIME) });
        token
    }

    pub(super) fn is_live(&self, refresh_token: &str, now: SystemTime) -> bool {
        self.connection(refresh_token, now).is_some()
    }

    pub(super) fn revoke(&mut self) {
        self.refresh_tokens.clear();
    }

    pub(super) fn admits(&self, access_token: &str, now: SystemTime) -> bool {
        self.live_access_token(access_token, now).is_some()
    }

    pub(super) fn principal_of_access(&self, access_token: &str, now: SystemTime) -> Option<&str> {
        Some(&self.live_access_token(access_token, now)?.connection.as_ref()?.principal)
    }

    fn live_access_token(&self, access_token: &str, now: SystemTime) -> Option<&IssuedAccessToken> {
        self.access_tokens.get(access_token).filter(|token| now < token.expires_at)
    }

    /// Revokes the refresh tokens of the principal for the app, both those of a live access token; false without one.
    pub(super) fn disconnect(&mut self, access_token: &str, now: SystemTime) -> bool {
        let Some(token) = self.live_access_token(access_token, now) else {
            return false;
        };
        if let Some(Connection { app_id, principal, .. }) = token.connection.clone() {
            self.refresh_tokens.retain(|_, RefreshToken { connection, .. }| {
                (&connection.app_id, &connection.principal) != (&app_id, &principal)
            });
        }
        true
    }

    pub(super) fn expire_access_tokens(&mut self) {
        self.access_tokens.clear();
    }
}

/// Near the end of time the clock of a test may stand still.
pub(super) fn later(now: SystemTime, by: Duration) -> SystemTime {
    now.checked_add(by).unwrap_or(now)
}
