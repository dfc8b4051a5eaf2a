//! What is presented to the token endpoint in exchange for tokens.

use std::fmt;

use super::form::{Endpoint, Form};
use crate::{Credentials, Error, credentials::WhoSignsIn, secret::Secret};

/// One of Concur's grants, with all it needs beside the app's id and secret.
///
/// ```
/// use concur_auth::Grant;
///
/// let grant = Grant::refresh_token("a secret");
/// assert_eq!(format!("{grant:?}"), "Grant(refresh_token)");
/// ```
///
/// A grant with a one-time password comes from a [`OneTimePasswordRequest`](crate::OneTimePasswordRequest), one with an
/// authorization code also from an [`AuthorizationReturn`](crate::AuthorizationReturn), and one with a company request
/// token also from an [`AppCenterRedirect`](crate::AppCenterRedirect).
///
/// Source: SAP Concur developer centre, "Authentication API"; RFC 6749 section 1.3.
#[derive(Clone)]
pub struct Grant(Form);

impl Grant {
    /// A company signs in with its company request token: `grant_type=password`, `credtype=authtoken`.
    ///
    /// The token lives 24 hours and may be used five times at most. Sent to the global landing zone.
    pub fn company_request_token(company_uuid: impl Into<String>, request_token: impl Into<String>) -> Self {
        Self::new(
            "password",
            [
                ("username", Secret::new(company_uuid)),
                ("password", Secret::new(request_token)),
                ("credtype", Secret::new("authtoken")),
            ],
        )
    }

    /// A user signs in with name and password: `grant_type=password`, `credtype=password`.
    ///
    /// Sent to the user's geolocation. A wrong password counts towards a locked account (code 14).
    ///
    /// ```
    /// use concur_auth::Grant;
    ///
    /// let grant = Grant::user_password("ada@example.com", "a secret");
    /// assert_eq!(format!("{grant:?}"), "Grant(password)");
    /// ```
    ///
    /// Source: SAP Concur developer centre, "Authentication API, password grant".
    pub fn user_password(username: impl Into<String>, password: impl Into<String>) -> Self {
        Self::new(
            "password",
            [
                ("username", Secret::new(username)),
                ("password", Secret::new(password)),
                ("credtype", Secret::new("password")),
            ],
        )
    }

    /// A refresh token is renewed: `grant_type=refresh_token`. Sent to the token's last geolocation.
    pub fn refresh_token(token: impl Into<String>) -> Self {
        Self::new("refresh_token", [("refresh_token", Secret::new(token))])
    }

    /// A refresh token is renewed, and the access token is good for these scopes only (names with spaces between them).
    ///
    /// They may not exceed what was granted at first (code 54). Sent to the token's last geolocation.
    ///
    /// ```
    /// use concur_auth::Grant;
    ///
    /// let grant = Grant::refresh_token_with_scope("a secret", "openid user.read");
    /// ```
    ///
    /// Source: SAP Concur developer centre, "Authentication API, refresh token grant"; RFC 6749 section 6.
    pub fn refresh_token_with_scope(token: impl Into<String>, scope: impl Into<String>) -> Self {
        Self::new("refresh_token", [("refresh_token", Secret::new(token)), ("scope", Secret::new(scope))])
    }

    /// An app signs in by itself: `grant_type=client_credentials`. Sent to any production base URI.
    ///
    /// No refresh token comes back, so there is nothing for a [`TokenManager`](crate::TokenManager) to keep; take the
    /// [`access_token`](crate::TokenReply::access_token) from the reply, or let [`AppTokens`](crate::AppTokens) do it and
    /// ask again in time.
    ///
    /// ```no_run
    /// use concur_auth::{Credentials, Geolocation, Grant, OAuthClient};
    ///
    /// # async fn example() -> Result<(), concur_auth::Error> {
    /// let us: Geolocation = "https://us.api.concursolutions.com".parse()?;
    /// let app = Credentials::new("the app's id", "its secret");
    /// let reply = OAuthClient::new().request_token(&us, &app, &Grant::client_credentials()).await?;
    /// let access = reply.access_token()?;
    /// # Ok(()) }
    /// ```
    ///
    /// Source: SAP Concur developer centre, "Authentication API, client credentials grant"; RFC 6749 section 4.4.
    #[must_use]
    pub fn client_credentials() -> Self {
        Self::new("client_credentials", [])
    }

    /// A user has signed in with a browser: `grant_type=authorization_code`. Sent to the global landing zone.
    ///
    /// `redirect_uri` is the one that the browser was sent away with, to the letter (code 104). A code is good once.
    ///
    /// Source: SAP Concur developer centre, "Authentication API, authorization grant"; RFC 6749 section 4.1.3.
    pub fn authorization_code(code: impl Into<String>, redirect_uri: impl Into<String>) -> Self {
        Self::new(
            "authorization_code",
            [("code", Secret::new(code)), ("redirect_uri", Secret::new(redirect_uri))],
        )
    }

    /// A user has been mailed a one-time password: `grant_type=otp`.
    pub(super) fn otp(
        fields: impl IntoIterator<Item = (&'static str, Secret)>,
        facts: Vec<(String, Secret)>,
    ) -> Self {
        Self(Form { facts: facts.into(), ..Form::new(Endpoint::Token("otp"), fields) })
    }

    fn new(grant_type: &'static str, fields: impl IntoIterator<Item = (&'static str, Secret)>) -> Self {
        Self(Form::new(Endpoint::Token(grant_type), fields))
    }

    /// The id by which SAP's support and your own logs can find the request: sent as `concur-correlationid`.
    ///
    /// It must fit into an HTTP header; sending fails with [`ErrorKind::Config`](crate::ErrorKind::Config) otherwise.
    #[must_use]
    pub fn with_correlation_id(mut self, id: impl Into<String>) -> Self {
        self.0.correlation_id = Some(id.into());
        self
    }

    /// That of the credentials: a company's or a user's.
    pub(crate) fn of(credentials: &Credentials) -> Result<Self, Error> {
        let (who, username, password) = credentials.require_sign_in()?;
        Ok(match who {
            WhoSignsIn::Company => Self::company_request_token(username, password),
            WhoSignsIn::User => Self::user_password(username, password),
        })
    }

    /// Who the grant says it signs in.
    pub(crate) fn signs_in(&self) -> SignsIn<'_> {
        match (self.0.grant_type(), self.0.company_uuid()) {
            (_, Some(uuid)) => SignsIn::Company(uuid),
            (Some("refresh_token"), None) => SignsIn::Anybody,
            (Some("client_credentials"), None) => SignsIn::App,
            (_, None) => SignsIn::User,
        }
    }

    /// Whether SAP wants it at the principal's geolocation, not at the landing zone or wherever.
    pub(crate) fn is_for_the_geolocation(&self) -> bool {
        match self.signs_in() {
            SignsIn::Company(_) | SignsIn::App => false,
            SignsIn::User => self.0.grant_type() != Some("authorization_code"),
            SignsIn::Anybody => true,
        }
    }

    /// The company that signs in, where the grant says so.
    pub(crate) fn company_uuid(&self) -> Option<&str> {
        self.0.company_uuid()
    }

    pub(super) fn form(&self) -> &Form {
        &self.0
    }
}

/// Who signs in with a grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SignsIn<'a> {
    /// With this UUID.
    Company(&'a str),
    User,
    /// The app by itself.
    App,
    /// Whomever the refresh token belongs to.
    Anybody,
}

impl fmt::Debug for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Grant({})", self.0.grant_type().unwrap_or_default())
    }
}
