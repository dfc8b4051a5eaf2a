//! The endpoints: what Concur holds, and who answers which request.
//!
//! Always: a request that is refused spends nothing, and every request is recorded.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::SystemTime,
};

use reqwest::StatusCode;
use serde_json::{Value, json};
use wiremock::{Request, ResponseTemplate};

use super::{
    apps::Apps,
    authorize::{AuthorizationCode, Consent},
    data_centres::DataCentres,
    fault::{Fault, Faults},
    made_up::uuid,
    otp::OneTimePasswords,
    principals::Principals,
    recorded_request::RecordedRequest,
    reply::{Code, Reply},
    tokens::Tokens,
};
use crate::Clock;

const USERS_PATH: &str = "/profile/identity/v4/Users";

pub(super) struct Concur {
    pub(super) data_centres: DataCentres,
    pub(super) apps: Apps,
    /// What every app may ask for.
    pub(super) scopes: String,
    pub(super) principals: Principals,
    /// Who connects the company with apps.
    pub(super) administrator_uuid: String,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) tokens: Tokens,
    pub(super) consent: Option<Consent>,
    pub(super) authorization_codes: HashMap<String, AuthorizationCode>,
    pub(super) one_time_passwords: OneTimePasswords,
    /// Whom Concur refuses, and how.
    pub(super) refusals: HashMap<String, Code>,
    pub(super) faults: Faults,
    /// Members of a successful reply that are other than they should be, or missing.
    pub(super) odd_members: BTreeMap<String, Option<Value>>,
    pub(super) requests: Vec<RecordedRequest>,
}

impl Concur {
    pub(super) fn new(
        landing_zone: String,
        clock: Arc<dyn Clock>,
        mut tokens: Tokens,
        scopes: String,
    ) -> Self {
        let principals = Principals::new(landing_zone.clone());
        let company = principals.company_uuid();
        Self {
            data_centres: DataCentres::new(landing_zone),
            apps: Apps::new(|id| tokens.issue_request_token(id, company, clock.now())),
            scopes,
            principals,
            administrator_uuid: uuid(),
            clock,
            tokens,
            consent: None,
            authorization_codes: HashMap::new(),
            one_time_passwords: OneTimePasswords::default(),
            refusals: HashMap::new(),
            faults: Faults::default(),
            odd_members: BTreeMap::new(),
            requests: Vec::new(),
        }
    }

    /// The reply to a request that came to `base_uri`; `None` where the connection is to be closed instead.
    pub(super) fn answer(&mut self, base_uri: &str, request: &Request) -> Option<ResponseTemplate> {
        let now = self.clock.now();
        let mut recorded = RecordedRequest::new(base_uri, request);
        let reply = match self.data_centres.redirect(&recorded) {
            Some(redirect) => Some(redirect),
            None => self.data_centre(&recorded, now),
        };
        recorded.status = reply.as_ref().map(|reply| reply.status.as_u16());
        self.requests.push(recorded);
        reply.map(|reply| reply.sent_at(now))
    }

    fn data_centre(&mut self, request: &RecordedRequest, now: SystemTime) -> Option<Reply> {
        match (request.method(), request.path().trim_end_matches('/')) {
            _ if request.is_for_a_token() => self.unless_faulty(|concur| concur.token(request, now)),
            ("POST", "/oauth2/v0/otp") => self.unless_faulty(|concur| concur.otp(request, now)),
            ("DELETE", "/app-mgmt/v0/connections") => {
                self.unless_faulty(|concur| concur.disconnect(request, now))
            }
            ("GET", "/oauth2/v0/authorize") => Some(self.authorize(request, now)),
            ("GET", USERS_PATH) => Some(self.users(request, now)),
            _ => Some(Reply::empty(StatusCode::NOT_FOUND)),
        }
    }

    /// The reply that `process` makes, or what the next fault makes of it.
    fn unless_faulty(&mut self, process: impl FnOnce(&mut Self) -> Reply) -> Option<Reply> {
        match self.faults.next() {
            None => Some(process(self)),
            Some(Fault::Status { status, headers, body }) => {
                Some(Reply { headers, body, ..Reply::empty(status) })
            }
            Some(Fault::Delay(delay)) => Some(Reply { delay, ..process(self) }),
            Some(Fault::DropConnection) => None,
            Some(Fault::DropReply) => {
                process(self);
                None
            }
        }
    }

    fn users(&self, request: &RecordedRequest, now: SystemTime) -> Reply {
        if !request.bearer_token().is_some_and(|token| self.tokens.admits(token, now)) {
            return Reply::unauthorized();
        }
        let user = json!({ "id": "5b8a4c3e-0000-4000-8000-000000000000", "userName": "ada@example.com" });
        Reply::json(StatusCode::OK, &json!({ "totalResults": 1, "Resources": [user] }))
    }
}
