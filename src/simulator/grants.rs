//! `POST /oauth2/v0/token`: a grant in, tokens out.

use std::time::SystemTime;

use reqwest::StatusCode;
use serde_json::{Value, json};

use super::{
    data_centres::Reach,
    endpoints::Concur,
    form::Form,
    recorded_request::RecordedRequest,
    reply::{Refusal, Reply},
    tokens::{ACCESS_LIFETIME, Connection, Issued, jwt},
};
use crate::clock;

const SCOPES: &str = "openid company.read user.read";

impl Concur {
    pub(super) fn token(&mut self, request: &RecordedRequest, now: SystemTime) -> Reply {
        match self.process_grant(request, now) {
            Ok(issued) => Reply::json(StatusCode::OK, &self.success(issued)),
            Err(refusal) => refusal.reply(request.base_uri()),
        }
    }

    fn process_grant(&mut self, request: &RecordedRequest, now: SystemTime) -> Result<Issued, Refusal> {
        let form = Form::of(request)?;
        self.authenticate(&form)?;
        match form.required("grant_type", 65)? {
            "password" => self.password_grant(request, &form, now),
            "refresh_token" => self.refresh_grant(request, &form, now),
            _ => Err(60.into()),
        }
    }

    /// The app says who it is.
    fn authenticate(&self, form: &Form) -> Result<(), Refusal> {
        let client_id = form.required("client_id", 62)?;
        let client_secret = form.required("client_secret", 63)?;
        if client_id != self.app_id {
            return Err(61.into());
        }
        if client_secret != self.client_secret {
            return Err(64.into());
        }
        Ok(())
    }

    fn password_grant(
        &mut self,
        request: &RecordedRequest,
        form: &Form,
        now: SystemTime,
    ) -> Result<Issued, Refusal> {
        let username = form.required("username", 51)?;
        let password = form.required("password", 52)?;
        match form.field("credtype") {
            Some("authtoken") => {}
            // The password of a person, and none is known here.
            Some("password") | None => return Err(5.into()),
            Some(_) => return Err(120.into()),
        }
        if username != self.principals.company_uuid() {
            return Err(5.into());
        }
        self.locate(username, Reach::LandingZone, request)?;
        if !self.tokens.use_request_token(password, now) {
            return Err(5.into());
        }
        Ok(self.tokens.sign_in(Connection { principal: username.to_owned() }, now))
    }

    fn refresh_grant(
        &mut self,
        request: &RecordedRequest,
        form: &Form,
        now: SystemTime,
    ) -> Result<Issued, Refusal> {
        let token = form.required("refresh_token", 106)?;
        if let Some(connection) = self.tokens.connection(token, now) {
            self.locate(&connection.principal, Reach::Geolocation, request)?;
        }
        self.tokens.refresh(token, now).ok_or_else(|| 108.into())
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
            "geolocation": self.principals.geolocation(&issued.connection.principal),
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
}
