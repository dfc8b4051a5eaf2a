//! `GET /oauth2/v0/authorize`: a user in a browser lets an app act for them, and the app gets a code.
//!
//! Always: a code works for one grant, by the app and with the `redirect_uri` of the request for it.

use std::time::{Duration, SystemTime};

use reqwest::StatusCode;
use url::Url;

use super::{
    ConcurSimulator, SimulatedUser,
    data_centres::Reach,
    endpoints::Concur,
    form::Form,
    grants::{GrantRequest, within},
    made_up::random,
    recorded_request::RecordedRequest,
    reply::{Code, ErrorBody, Reply, meaning},
    tokens::{Connection, Issued, later},
};

/// SAP names no figure; RFC 6749 section 4.1.2 recommends ten minutes at most.
const CODE_LIFETIME: Duration = Duration::from_secs(600);

/// What the person at the browser does.
pub(super) enum Consent {
    /// The user with this UUID signs in and agrees.
    Given(String),
    Denied(Code),
}

pub(super) struct AuthorizationCode {
    connection: Connection,
    redirect_uri: String,
    expires_at: SystemTime,
}

impl Concur {
    pub(super) fn authorize(&mut self, request: &RecordedRequest, now: SystemTime) -> Reply {
        let query = Form::parse(request.query().unwrap_or_default());
        let (app_id, redirect_uri) = match self.where_to_return(&query) {
            Ok((app_id, redirect_uri)) => (app_id.to_owned(), redirect_uri),
            Err(refusal) => return refusal.reply(request.base_uri()),
        };
        let mut back = redirect_uri;
        match self.ask_for_consent(&app_id, &query) {
            Ok(None) => return Reply::html(StatusCode::OK, SIGN_IN_PAGE),
            Ok(Some(connection)) => {
                let geolocation = self.principals.geolocation(&connection.principal);
                let code = random(30);
                back.query_pairs_mut().append_pair("geolocation", geolocation).append_pair("code", &code);
                let redirect_uri = query.field("redirect_uri").unwrap_or_default().to_owned();
                let issued =
                    AuthorizationCode { connection, redirect_uri, expires_at: later(now, CODE_LIFETIME) };
                self.authorization_codes.insert(code, issued);
            }
            Err(refusal) => {
                back.query_pairs_mut()
                    .append_pair("error_code", &refusal.code.to_string())
                    .append_pair("error_description", meaning(refusal.code));
            }
        }
        if let Some(state) = query.field("state") {
            back.query_pairs_mut().append_pair("state", state);
        }
        Reply::redirect(StatusCode::FOUND, back.as_str())
    }

    /// The app, and the URL that the browser returns to. Without both the browser is sent nowhere (RFC 6749 section
    /// 4.1.2.1).
    fn where_to_return<'a>(&self, query: &'a Form) -> Result<(&'a str, Url), ErrorBody> {
        let app_id = query.required("client_id", 62)?;
        self.apps.find(app_id).ok_or(61)?;
        let redirect_uri = query.required("redirect_uri", 102)?;
        Ok((app_id, Url::parse(redirect_uri).map_err(|_| 135)?))
    }

    /// `None` while no user is at the browser.
    fn ask_for_consent(&self, app_id: &str, query: &Form) -> Result<Option<Connection>, ErrorBody> {
        self.not_refused(app_id)?;
        if query.field("response_type") != Some("code") {
            return Err(135.into());
        }
        let scope = query.field("scope").unwrap_or(&self.scopes);
        within(scope, &self.scopes)?;
        match &self.consent {
            None => Ok(None),
            Some(Consent::Denied(code)) => Err((*code).into()),
            Some(Consent::Given(user)) => {
                self.not_refused(user)?;
                let (app_id, scope) = (app_id.to_owned(), scope.to_owned());
                Ok(Some(Connection { app_id, principal: user.clone(), scope }))
            }
        }
    }

    pub(super) fn authorization_code_grant(&mut self, grant: &GrantRequest<'_>) -> Result<Issued, ErrorBody> {
        let code = grant.form.required("code", 101)?;
        let redirect_uri = grant.form.required("redirect_uri", 102)?;
        let issued =
            self.authorization_codes.get(code).filter(|code| grant.now < code.expires_at).ok_or(103)?;
        if issued.connection.app_id != grant.app_id {
            return Err(105.into());
        }
        if issued.redirect_uri != redirect_uri {
            return Err(104.into());
        }
        self.admit(&issued.connection.principal, Reach::LandingZone, grant.request)?;
        let spent = self.authorization_codes.remove(code).ok_or(103)?;
        Ok(self.tokens.sign_in(spent.connection, grant.now))
    }
}

const SIGN_IN_PAGE: &str = "<!DOCTYPE html>\n<html><head><title>Sign in</title></head><body>No user is at the browser: \
                            call ConcurSimulator::consent_as or deny_consent.</body></html>\n";

/// The browser at `/oauth2/v0/authorize`. Until a test calls one of these, the browser gets a page and is sent nowhere.
impl ConcurSimulator {
    /// From now on this user is at the browser, signs in, and agrees: the browser is sent to
    /// `redirect_uri?geolocation=…&code=…`.
    ///
    /// The `state` of the request is sent back, as always in OAuth (RFC 6749 section 4.1.2; SAP's page does not show
    /// it). The code lives ten minutes and works for one grant.
    ///
    /// ```
    /// use concur_auth::{reqwest::{Client, redirect}, simulator::ConcurSimulator, url::Url};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let concur = ConcurSimulator::start().await;
    /// concur.consent_as(&concur.add_user());
    ///
    /// let app = concur.app();
    /// let query = [
    ///     ("client_id", app.id()),
    ///     ("redirect_uri", "https://app.example.com/back"),
    ///     ("response_type", "code"),
    ///     ("scope", "openid"),
    ///     ("state", "s1"),
    /// ];
    /// let page = Url::parse_with_params(&format!("{}/oauth2/v0/authorize", concur.base_uri()), query)?;
    /// let browser = Client::builder().redirect(redirect::Policy::none()).build()?;
    /// let answer = browser.get(page).send().await?;
    ///
    /// let back = Url::parse(answer.headers()["location"].to_str()?)?;
    /// let names: Vec<_> = back.query_pairs().map(|(name, _)| name.into_owned()).collect();
    /// assert_eq!(names, ["geolocation", "code", "state"]);
    /// # Ok(()) }
    /// ```
    pub fn consent_as(&self, user: &SimulatedUser) {
        self.server.concur().consent = Some(Consent::Given(user.uuid().to_owned()));
    }

    /// From now on the user at the browser does not agree: the browser is sent to
    /// `redirect_uri?error_code=…&error_description=…`, with this code.
    pub fn deny_consent(&self, code: u32) {
        self.server.concur().consent = Some(Consent::Denied(code));
    }
}
