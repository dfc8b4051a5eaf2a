//! The endpoints: what Concur holds, and who answers which request.
//!
//! Always: a request that is refused spends nothing, and every request is recorded.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::SystemTime,
};

use serde_json::Value;
use wiremock::{Request, ResponseTemplate};

use super::{
    apis::Apis,
    apps::Apps,
    authorize::{AuthorizationCode, Consent},
    data_centres::DataCentres,
    fault::{Fault, Faults},
    form::Form,
    limits::Limits,
    made_up::uuid,
    otp::OneTimePasswords,
    principals::Principals,
    recorded_request::RecordedRequest,
    reply::{Code, Reply},
    tokens::{Rotation, Tokens},
};
use crate::Clock;

/// What a simulator is made with.
pub(super) struct Settings {
    pub(super) clock: Arc<dyn Clock>,
    pub(super) rotation: Rotation,
    pub(super) scopes: String,
    /// Id and secret.
    pub(super) app: Option<(String, String)>,
    /// UUID and request token.
    pub(super) company: Option<(String, String)>,
    pub(super) limits: Limits,
}

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
    pub(super) apis: Apis,
    pub(super) limits: Limits,
    /// Members of a successful reply that are other than they should be, or missing.
    pub(super) odd_members: BTreeMap<String, Option<Value>>,
    pub(super) requests: Vec<RecordedRequest>,
}

impl Concur {
    pub(super) fn new(landing_zone: String, settings: Settings) -> Self {
        let Settings { clock, rotation, scopes, app, company, limits } = settings;
        let mut tokens = Tokens::new(rotation);
        let (company, request_token) = company.unzip();
        let principals = Principals::new(landing_zone.clone(), company);
        let company = principals.company_uuid();
        let issue = |id: &str| match request_token {
            Some(token) => tokens.issue_this_request_token(token, id, company, clock.now()),
            None => tokens.issue_request_token(id, company, clock.now()),
        };
        Self {
            data_centres: DataCentres::new(landing_zone),
            apps: Apps::new(app, issue),
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
            apis: Apis::default(),
            limits,
            odd_members: BTreeMap::new(),
            requests: Vec::new(),
        }
    }

    /// The reply to a request that came to `base_uri`; `None` where the connection is to be closed instead.
    pub(super) fn answer(&mut self, base_uri: &str, request: &Request) -> Option<ResponseTemplate> {
        let now = self.clock.now();
        let mut recorded = RecordedRequest::new(base_uri, request);
        recorded.principal = self.principal_of(&recorded, now);
        let answered = self.limits.count(now).or_else(|| self.data_centres.redirect(&recorded));
        let reply = match answered {
            Some(reply) => Some(reply),
            None => self.data_centre(&recorded, now),
        };
        recorded.status = reply.as_ref().map(|reply| reply.status.as_u16());
        self.requests.push(recorded);
        reply.map(|reply| reply.sent_at(now))
    }

    fn data_centre(&mut self, request: &RecordedRequest, now: SystemTime) -> Option<Reply> {
        match (request.method(), request.path().trim_end_matches('/')) {
            _ if request.is_for_a_token() => self.oauth(request, |concur| concur.token(request, now)),
            ("POST", "/oauth2/v0/otp") => self.oauth(request, |concur| concur.otp(request, now)),
            ("DELETE", "/app-mgmt/v0/connections") => {
                self.oauth(request, |concur| concur.disconnect(request, now))
            }
            ("GET", "/oauth2/v0/authorize") => Some(self.authorize(request, now)),
            _ => self.api(request, now),
        }
    }

    fn principal_of(&self, request: &RecordedRequest, now: SystemTime) -> Option<String> {
        if !request.is_for_a_token() {
            return self.tokens.principal_of_access(request.bearer_token()?, now).map(str::to_owned);
        }
        let form = Form::parse(request.body());
        if let Some(token) = form.field("refresh_token") {
            return Some(self.tokens.connection(token, now)?.principal.clone());
        }
        let name = form.field("username")?;
        let is_company = self.principals.is_company(name);
        let uuid = if is_company { name } else { self.principals.user(name)?.uuid() };
        Some(uuid.to_owned())
    }

    fn oauth(
        &mut self,
        request: &RecordedRequest,
        process: impl FnOnce(&mut Self) -> Reply,
    ) -> Option<Reply> {
        let fault = self.faults.next(request);
        self.unless_faulty(fault, process)
    }

    /// The reply that `process` makes, or what the fault makes of it.
    pub(super) fn unless_faulty(
        &mut self,
        fault: Option<Fault>,
        process: impl FnOnce(&mut Self) -> Reply,
    ) -> Option<Reply> {
        match fault {
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
}
