//! What a data centre remembers: an app, a company, and their tokens.
//!
//! Always: every lifetime is judged by the injected clock, and a refused grant changes nothing.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::{Duration, SystemTime},
};

use serde_json::{Value, json};

use super::{Rotation, fault::Faults, recorded_request::RecordedRequest};
use crate::{Clock, ConcurCode, clock::unix_seconds, members::Members};

const DAY: Duration = Duration::from_secs(24 * 3600);
const HOUR: Duration = Duration::from_secs(3600);
const SIX_MONTHS: Duration = Duration::from_secs(182 * 24 * 3600);
const MOST_USES: u32 = 5;

#[derive(Debug)]
pub(super) struct State {
    pub(super) clock: Arc<dyn Clock>,
    pub(super) rotation: Rotation,
    pub(super) base_uri: String,
    pub(super) app_id: String,
    pub(super) client_secret: String,
    pub(super) company_uuid: String,
    /// The newest is last.
    request_tokens: Vec<RequestToken>,
    refresh_tokens: HashMap<String, RefreshToken>,
    /// When each bearer token expires.
    access_tokens: HashMap<String, SystemTime>,
    families: u64,
    /// Members of successful replies as a test wants them: raw JSON, or left out.
    pub(super) overrides: BTreeMap<String, Option<String>>,
    pub(super) faults: Faults,
    pub(super) requests: Vec<RecordedRequest>,
}

#[derive(Debug)]
struct RequestToken {
    text: String,
    expires_at: SystemTime,
    uses_left: u32,
}

#[derive(Debug)]
struct RefreshToken {
    family: u64,
    live: bool,
    expires_at: SystemTime,
}

impl State {
    pub(super) fn new(clock: Arc<dyn Clock>, rotation: Rotation, base_uri: String) -> Self {
        let mut state = Self {
            clock,
            rotation,
            base_uri,
            app_id: uuid(),
            client_secret: uuid(),
            company_uuid: uuid(),
            request_tokens: Vec::new(),
            refresh_tokens: HashMap::new(),
            access_tokens: HashMap::new(),
            families: 0,
            overrides: BTreeMap::new(),
            faults: Faults::default(),
            requests: Vec::new(),
        };
        state.issue_request_token();
        state
    }

    pub(super) fn issue_request_token(&mut self) -> String {
        let text = format!("at-{}", alphanumerics(28));
        let expires_at = self.clock.now() + DAY;
        self.request_tokens.push(RequestToken {
            text: text.clone(),
            expires_at,
            uses_left: MOST_USES,
        });
        text
    }

    pub(super) fn request_token(&self) -> (&str, u32) {
        self.request_tokens
            .last()
            .map_or(("", 0), |token| (&token.text, token.uses_left))
    }

    /// What the token endpoint answers.
    pub(super) fn grant(&mut self, request: &RecordedRequest) -> Result<String, ConcurCode> {
        let plain_form = request.header("content-type") == Some("application/x-www-form-urlencoded");
        if !plain_form || request.query().is_some() {
            return Err(ConcurCode::new(135));
        }
        let field = |name: &str, code: u32| request.field(name).ok_or(ConcurCode::new(code));
        if field("client_id", 62)? != self.app_id {
            return Err(ConcurCode::new(61));
        }
        if field("client_secret", 63)? != self.client_secret {
            return Err(ConcurCode::new(64));
        }
        match field("grant_type", 65)?.as_str() {
            "password" => {
                let (username, password) = (field("username", 51)?, field("password", 52)?);
                if request.field("credtype").as_deref() != Some("authtoken") {
                    return Err(ConcurCode::new(120));
                }
                self.use_request_token(&username, &password)?;
                Ok(self.sign_in())
            }
            "refresh_token" => {
                let token = field("refresh_token", 106)?;
                self.renew(token)
            }
            _ => Err(ConcurCode::new(60)),
        }
    }

    fn use_request_token(&mut self, username: &str, password: &str) -> Result<(), ConcurCode> {
        let now = self.clock.now();
        let is_company = username == self.company_uuid;
        self.request_tokens
            .iter_mut()
            .find(|token| {
                is_company && token.text == password && token.expires_at > now && token.uses_left > 0
            })
            .map(|token| token.uses_left -= 1)
            .ok_or(ConcurCode::new(5))
    }

    /// Signs the company in, and returns the reply.
    pub(super) fn sign_in(&mut self) -> String {
        self.families += 1;
        let token = self.issue_refresh_token(self.families);
        self.reply(&token)
    }

    fn renew(&mut self, token: String) -> Result<String, ConcurCode> {
        let now = self.clock.now();
        let held = self
            .refresh_tokens
            .get_mut(&token)
            .ok_or(ConcurCode::BAD_REFRESH_TOKEN)?;
        let family = held.family;
        if !held.live || held.expires_at <= now {
            if self.rotation == Rotation::AlwaysAndRevokeFamily {
                // Whoever sends a token that was rotated away may have stolen it.
                self.refresh_tokens
                    .values_mut()
                    .filter(|t| t.family == family)
                    .for_each(|t| t.live = false);
            }
            return Err(ConcurCode::BAD_REFRESH_TOKEN);
        }
        if self.rotation == Rotation::Never {
            held.expires_at = now + SIX_MONTHS;
            return Ok(self.reply(&token));
        }
        held.live = false;
        let token = self.issue_refresh_token(family);
        Ok(self.reply(&token))
    }

    fn issue_refresh_token(&mut self, family: u64) -> String {
        let text = alphanumerics(30);
        let expires_at = self.clock.now() + SIX_MONTHS;
        self.refresh_tokens.insert(
            text.clone(),
            RefreshToken {
                family,
                live: true,
                expires_at,
            },
        );
        text
    }

    fn reply(&mut self, refresh_token: &str) -> String {
        let now = self.clock.now();
        let access_token = jwt();
        self.access_tokens.insert(access_token.clone(), now + HOUR);
        let expires_at = self
            .refresh_tokens
            .get(refresh_token)
            .map_or(now, |token| token.expires_at);
        let mut reply = json!({
            "expires_in": HOUR.as_secs(),
            "scope": "openid USER company.read user_read",
            "token_type": "Bearer",
            "access_token": access_token,
            "refresh_token": refresh_token,
            "refresh_expires_in": unix_seconds(expires_at),
            "id_token": jwt(),
            "geolocation": self.base_uri,
        });
        for name in self.overrides.keys() {
            reply.as_object_mut().and_then(|members| members.remove(name));
        }
        let raw = self
            .overrides
            .iter()
            .filter_map(|(name, raw)| Some(format!(",{}:{}", json!(name), raw.as_ref()?)));
        let mut text = reply.to_string();
        text.truncate(text.len() - 1);
        text.extend(raw);
        text.push('}');
        text
    }

    pub(super) fn is_live(&self, refresh_token: &str) -> bool {
        let now = self.clock.now();
        self.refresh_tokens
            .get(refresh_token)
            .is_some_and(|token| token.live && token.expires_at > now)
    }

    pub(super) fn revoke(&mut self) {
        self.refresh_tokens
            .values_mut()
            .for_each(|token| token.live = false);
    }

    pub(super) fn expire_access_tokens(&mut self) {
        self.access_tokens.clear();
    }

    /// What an API answers to a bearer token.
    pub(super) fn users(&self, authorization: Option<&str>) -> Option<Value> {
        let token = authorization?.strip_prefix("Bearer ")?;
        let live = self
            .access_tokens
            .get(token)
            .is_some_and(|expires_at| *expires_at > self.clock.now());
        let user = json!({ "id": self.company_uuid, "userName": "wiley@example.com", "active": true });
        live.then(|| json!({ "totalResults": 1, "Resources": [user] }))
    }

    /// The refresh token object as SAP's Node.js sample stores it.
    pub(super) fn sample_file(&mut self) -> String {
        let mut reply: Value = self.sign_in().parse().unwrap_or_default();
        reply["companyUUID"] = self.company_uuid.as_str().into();
        reply.to_string()
    }

    pub(super) fn credentials_file(&self) -> String {
        let mut members = Members::default();
        for (name, value) in [
            ("appID", self.app_id.as_str()),
            ("clientSecret", &self.client_secret),
            ("grantType", "password"),
            ("companyUUID", &self.company_uuid),
            ("companyRequestToken", self.request_token().0),
            ("credentialType", "authtoken"),
            ("baseURI", &self.base_uri),
        ] {
            members.set_string(name, value);
        }
        members
            .to_json(&[
                "appID",
                "clientSecret",
                "grantType",
                "companyUUID",
                "companyRequestToken",
                "credentialType",
            ])
            .to_string()
    }
}

fn alphanumerics(length: usize) -> String {
    (0..length)
        .map(|_| {
            char::from(
                fastrand::choice(b"abcdefghijklmnopqrstuvwxyz0123456789")
                    .copied()
                    .unwrap_or(b'0'),
            )
        })
        .collect()
}

/// The shape of one; nothing in it can be verified.
fn jwt() -> String {
    ["eyJhbGciOiJSUzI1NiJ9", &alphanumerics(120), &alphanumerics(86)].join(".")
}

pub(super) fn uuid() -> String {
    let hex = format!("{:032x}", fastrand::u128(..));
    format!(
        "{}-{}-{}-{}-{}",
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..]
    )
}
