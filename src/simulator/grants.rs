//! `POST /oauth2/v0/token`: a grant in, tokens out.

use std::time::SystemTime;

use reqwest::StatusCode;
use serde_json::{Value, json};

use super::{
    data_centres::Reach,
    endpoints::Concur,
    form::Form,
    recorded_request::RecordedRequest,
    reply::{ErrorBody, Reply},
    tokens::{ACCESS_LIFETIME, Connection, Issued, Renewal},
};
use crate::clock;

/// A request for tokens by an app whose secret was right.
pub(super) struct GrantRequest<'a> {
    pub(super) app_id: String,
    pub(super) form: &'a Form,
    pub(super) request: &'a RecordedRequest,
    pub(super) now: SystemTime,
}

impl Concur {
    pub(super) fn token(&mut self, request: &RecordedRequest, now: SystemTime) -> Reply {
        match self.process_grant(request, now) {
            Ok(issued) => Reply::json(StatusCode::OK, &self.success(issued, request.base_uri(), now)),
            Err(refusal) => refusal.reply(request.base_uri()),
        }
    }

    fn process_grant(&mut self, request: &RecordedRequest, now: SystemTime) -> Result<Issued, ErrorBody> {
        let form = Form::of(request)?;
        let app_id = self.authenticate(&form)?;
        let grant_type = form.required("grant_type", 65)?;
        self.not_refused(grant_type)?;
        let grant = GrantRequest { app_id, form: &form, request, now };
        match grant_type {
            "password" => self.password_grant(grant),
            "refresh_token" => self.refresh_grant(&grant),
            "otp" => self.otp_grant(&grant),
            "authorization_code" => self.authorization_code_grant(&grant),
            "client_credentials" => Ok(self.tokens.client_credentials(&self.scopes, now)),
            _ => Err(60.into()),
        }
    }

    fn password_grant(&mut self, grant: GrantRequest<'_>) -> Result<Issued, ErrorBody> {
        let username = grant.form.required("username", 51)?;
        let password = grant.form.required("password", 52)?;
        let principal = match grant.form.field("credtype") {
            Some("authtoken") if self.principals.is_company(username) => {
                self.admit(username, Reach::LandingZone, grant.request)?;
                let used = self.tokens.use_request_token(password, (&grant.app_id, username), grant.now);
                self.attempted(username, used)?;
                username.to_owned()
            }
            Some("authtoken") => return Err(5.into()),
            Some("password") | None => {
                let user = self.principals.user(username).ok_or(100)?;
                self.admit(user.uuid(), Reach::Geolocation, grant.request)?;
                let (uuid, is_right) = (user.uuid().to_owned(), password == user.password());
                self.attempted(&uuid, is_right.then_some(()).ok_or(5))?;
                uuid
            }
            Some(_) => return Err(120.into()),
        };
        let scope = self.scopes.clone();
        Ok(self.tokens.sign_in(Connection { app_id: grant.app_id, principal, scope }, grant.now))
    }

    fn refresh_grant(&mut self, grant: &GrantRequest<'_>) -> Result<Issued, ErrorBody> {
        let token = grant.form.required("refresh_token", 106)?;
        let scope = grant.form.field("scope");
        if let Some(connection) = self.tokens.connection(token, grant.now) {
            if connection.app_id != grant.app_id {
                return Err(105.into());
            }
            self.admit(&connection.principal, Reach::Geolocation, grant.request)?;
            within(scope.unwrap_or_default(), &connection.scope)?;
        }
        self.tokens.refresh(token, scope, grant.now).ok_or_else(|| 108.into())
    }

    /// The body of a successful reply of the data centre at `base_uri`.
    pub(super) fn success(&self, issued: Issued, base_uri: &str, now: SystemTime) -> Value {
        let mut body = json!({
            "access_token": issued.access_token,
            "token_type": "Bearer",
            "expires_in": ACCESS_LIFETIME.as_secs(),
            "scope": issued.scope,
            "geolocation": base_uri,
        });
        if let Some(Renewal { connection, refresh_token, expires_at }) = issued.renewal {
            body["geolocation"] = self.principals.geolocation(&connection.principal).into();
            body["id_token"] = self.id_token(&connection, now).into();
            body["refresh_token"] = refresh_token.into();
            // Despite its name, SAP sends an absolute time.
            body["refresh_expires_in"] = clock::unix_seconds(expires_at).into();
        }
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
}

/// Code 54 if the request asks for more than was granted.
pub(super) fn within(asked: &str, granted: &str) -> Result<(), ErrorBody> {
    let granted: Vec<_> = granted.split_ascii_whitespace().collect();
    match asked.split_ascii_whitespace().all(|scope| granted.contains(&scope)) {
        true => Ok(()),
        false => Err(54.into()),
    }
}
