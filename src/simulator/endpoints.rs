//! The endpoints: what Concur holds, and the reply it makes of that to a request.
//!
//! Always: a grant that is refused spends nothing, and every request is recorded.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::SystemTime,
};

use reqwest::StatusCode;
use serde_json::{Value, json};
use url::form_urlencoded;
use wiremock::{Request, ResponseTemplate};

use super::{
    fault::{Fault, Faults},
    recorded_request::RecordedRequest,
    reply::{Reply, refusal},
    tokens::{ACCESS_LIFETIME, Issued, Tokens, jwt, uuid},
};
use crate::{Clock, clock};

const USERS_PATH: &str = "/profile/identity/v4/Users";
const SCOPES: &str = "openid company.read user.read";

pub(super) struct Concur {
    pub(super) base_uri: String,
    pub(super) app_id: String,
    pub(super) client_secret: String,
    pub(super) company_uuid: String,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) tokens: Tokens,
    pub(super) faults: Faults,
    /// Members of a successful reply that are other than they should be, or missing.
    pub(super) odd_members: BTreeMap<String, Option<Value>>,
    pub(super) requests: Vec<RecordedRequest>,
}

/// A number of SAP's table of errors.
type Code = u32;

impl Concur {
    pub(super) fn new(base_uri: String, clock: Arc<dyn Clock>, mut tokens: Tokens) -> Self {
        tokens.issue_request_token(clock.now());
        Self {
            base_uri,
            app_id: uuid(),
            client_secret: uuid(),
            company_uuid: uuid(),
            clock,
            tokens,
            faults: Faults::default(),
            odd_members: BTreeMap::new(),
            requests: Vec::new(),
        }
    }

    /// The reply to a request; `None` where the connection is to be closed instead.
    pub(super) fn answer(&mut self, request: &Request) -> Option<ResponseTemplate> {
        let now = self.clock.now();
        let mut recorded = RecordedRequest::new(request);
        let reply = match (recorded.method(), recorded.path().trim_end_matches('/')) {
            _ if recorded.is_for_a_token() => self.token_endpoint(&recorded, now),
            ("GET", USERS_PATH) => Some(self.users(&recorded, now)),
            _ => Some(Reply::empty(StatusCode::NOT_FOUND)),
        };
        recorded.status = reply.as_ref().map(|reply| reply.status.as_u16());
        self.requests.push(recorded);
        reply.map(|reply| reply.sent_at(now))
    }

    fn token_endpoint(&mut self, request: &RecordedRequest, now: SystemTime) -> Option<Reply> {
        match self.faults.next() {
            None => Some(self.reply_to_grant(request, now)),
            Some(Fault::Status { status, headers, body }) => {
                Some(Reply { headers, body, ..Reply::empty(status) })
            }
            Some(Fault::Delay(delay)) => Some(Reply { delay, ..self.reply_to_grant(request, now) }),
            Some(Fault::DropConnection) => None,
            Some(Fault::DropReply) => {
                self.reply_to_grant(request, now);
                None
            }
        }
    }

    fn reply_to_grant(&mut self, request: &RecordedRequest, now: SystemTime) -> Reply {
        match self.process_grant(request, now) {
            Ok(issued) => Reply::json(StatusCode::OK, &self.success(issued)),
            Err(code) => {
                let (status, mut body) = refusal(code);
                body["geolocation"] = self.base_uri.as_str().into();
                Reply::json(status, &body)
            }
        }
    }

    fn process_grant(&mut self, request: &RecordedRequest, now: SystemTime) -> Result<Issued, Code> {
        // The exact type: Concur rejects one with a charset parameter.
        let is_form = request
            .header("content-type")
            .is_some_and(|it| it.eq_ignore_ascii_case("application/x-www-form-urlencoded"));
        if !is_form || request.query().is_some_and(|query| !query.is_empty()) {
            return Err(135);
        }
        let form: HashMap<_, _> = form_urlencoded::parse(request.body().as_bytes()).collect();
        let field = |name: &str| form.get(name).map(AsRef::as_ref).filter(|value: &&str| !value.is_empty());
        let required = |name: &str, missing: Code| field(name).ok_or(missing);

        let client_id = required("client_id", 62)?;
        let client_secret = required("client_secret", 63)?;
        let grant_type = required("grant_type", 65)?;
        if client_id != self.app_id {
            return Err(61);
        }
        if client_secret != self.client_secret {
            return Err(64);
        }
        match grant_type {
            "password" => {
                let username = required("username", 51)?;
                let password = required("password", 52)?;
                match field("credtype") {
                    Some("authtoken") => {}
                    // The password of a person, and none is known here.
                    Some("password") | None => return Err(5),
                    Some(_) => return Err(120),
                }
                if username != self.company_uuid || !self.tokens.use_request_token(password, now) {
                    return Err(5);
                }
                Ok(self.tokens.sign_in(now))
            }
            "refresh_token" => {
                let token = required("refresh_token", 106)?;
                self.tokens.refresh(token, now).ok_or(108)
            }
            _ => Err(60),
        }
    }

    /// The body of a successful reply.
    pub(super) fn success(&self, issued: Issued) -> Value {
        let mut body = json!({
            "access_token": issued.access_token,
            "token_type": "Bearer",
            "expires_in": ACCESS_LIFETIME.as_secs(),
            "refresh_token": issued.refresh_token,
            // Despite its name SAP's absolute time.
            "refresh_expires_in": clock::unix_seconds(issued.refresh_expires_at),
            "scope": SCOPES,
            "id_token": jwt(),
            "geolocation": self.base_uri,
        });
        if let Some(members) = body.as_object_mut() {
            for (name, value) in &self.odd_members {
                match value {
                    Some(value) => members.insert(name.clone(), value.clone()),
                    None => members.remove(name),
                };
            }
        }
        body
    }

    fn users(&self, request: &RecordedRequest, now: SystemTime) -> Reply {
        let bearer = request.header("authorization").and_then(|it| it.strip_prefix("Bearer "));
        if !bearer.is_some_and(|token| self.tokens.admits(token, now)) {
            return Reply::json(StatusCode::UNAUTHORIZED, &json!({ "error": "invalid_token" }));
        }
        let user = json!({ "id": "5b8a4c3e-0000-4000-8000-000000000000", "userName": "ada@example.com" });
        Reply::json(StatusCode::OK, &json!({ "totalResults": 1, "Resources": [user] }))
    }
}
