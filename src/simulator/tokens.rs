//! Which token is good for what: the simulator's memory, without HTTP.
//!
//! Always: a refresh token works until it expires, is rotated away or is revoked; no token is given out twice.

use std::{
    collections::HashMap,
    iter,
    time::{Duration, SystemTime},
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
    newest_request_token: String,
    request_tokens: HashMap<String, RequestToken>,
    refresh_tokens: HashMap<String, RefreshToken>,
    /// Rotated away, each with its family.
    rotated: HashMap<String, Family>,
    next_family: Family,
    /// With the time each expires.
    access_tokens: HashMap<String, SystemTime>,
}

/// What a sign-in settles for every token that descends from it.
#[derive(Clone)]
pub(super) struct Connection {
    /// The principal's UUID.
    pub(super) principal: String,
}

/// The number of the sign-in that a refresh token descends from.
type Family = u64;

struct RequestToken {
    expires_at: SystemTime,
    uses_left: u32,
}

struct RefreshToken {
    connection: Connection,
    family: Family,
    expires_at: SystemTime,
}

/// What a successful grant gives out.
pub(super) struct Issued {
    pub(super) connection: Connection,
    pub(super) access_token: String,
    pub(super) refresh_token: String,
    pub(super) refresh_expires_at: SystemTime,
}

impl Tokens {
    pub(super) fn new(rotation: Rotation) -> Self {
        Self { rotation, ..Self::default() }
    }

    pub(super) fn issue_request_token(&mut self, now: SystemTime) -> String {
        let token = format!("at-{}", random(28));
        let granted = RequestToken { expires_at: later(now, REQUEST_LIFETIME), uses_left: REQUEST_USES };
        self.request_tokens.insert(token.clone(), granted);
        self.newest_request_token.clone_from(&token);
        token
    }

    pub(super) fn newest_request_token(&self) -> &str {
        &self.newest_request_token
    }

    pub(super) fn request_token_uses_left(&self) -> u32 {
        self.request_tokens.get(&self.newest_request_token).map_or(0, |token| token.uses_left)
    }

    /// Burns a use of a company request token; false where it has none left or is not one.
    pub(super) fn use_request_token(&mut self, token: &str, now: SystemTime) -> bool {
        match self.request_tokens.get_mut(token) {
            Some(token) if now < token.expires_at && token.uses_left > 0 => {
                token.uses_left -= 1;
                true
            }
            _ => false,
        }
    }

    /// The first tokens of a new family.
    pub(super) fn sign_in(&mut self, connection: Connection, now: SystemTime) -> Issued {
        let family = self.next_family;
        self.next_family += 1;
        self.issue(random(30), RefreshToken { connection, family, expires_at: now }, now)
    }

    /// What a live refresh token descends from.
    pub(super) fn connection(&self, refresh_token: &str, now: SystemTime) -> Option<&Connection> {
        let token = self.refresh_tokens.get(refresh_token).filter(|token| now < token.expires_at)?;
        Some(&token.connection)
    }

    /// What a refresh grant gives out; `None` for a token that is no good.
    pub(super) fn refresh(&mut self, token: &str, now: SystemTime) -> Option<Issued> {
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
        Some(self.issue(next, live, now))
    }

    fn issue(&mut self, refresh_token: String, mut granted: RefreshToken, now: SystemTime) -> Issued {
        granted.expires_at = later(now, REFRESH_LIFETIME);
        let issued = Issued {
            connection: granted.connection.clone(),
            access_token: jwt(),
            refresh_token: refresh_token.clone(),
            refresh_expires_at: granted.expires_at,
        };
        self.refresh_tokens.insert(refresh_token, granted);
        self.access_tokens.insert(issued.access_token.clone(), later(now, ACCESS_LIFETIME));
        issued
    }

    pub(super) fn is_live(&self, refresh_token: &str, now: SystemTime) -> bool {
        self.connection(refresh_token, now).is_some()
    }

    pub(super) fn revoke(&mut self) {
        self.refresh_tokens.clear();
    }

    pub(super) fn admits(&self, access_token: &str, now: SystemTime) -> bool {
        self.access_tokens.get(access_token).is_some_and(|expires_at| now < *expires_at)
    }

    pub(super) fn expire_access_tokens(&mut self) {
        self.access_tokens.clear();
    }
}

/// Near the end of time the clock of a test may stand still.
fn later(now: SystemTime, by: Duration) -> SystemTime {
    now.checked_add(by).unwrap_or(now)
}

/// Lower-case alphanumerics, as in the tokens that SAP shows.
pub(super) fn random(length: usize) -> String {
    iter::repeat_with(|| fastrand::digit(36)).take(length).collect()
}

/// In the form of a UUID.
pub(super) fn uuid() -> String {
    let hex = format!("{:032x}", fastrand::u128(..));
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

/// Looks like a JWT and says nothing: three parts in base64url, the first two of which begin like JSON.
pub(super) fn jwt() -> String {
    let part = |length| iter::repeat_with(fastrand::alphanumeric).take(length).collect::<String>();
    format!("eyJ{}.eyJ{}.{}", part(33), part(117), part(86))
}
