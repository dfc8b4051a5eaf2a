//! Grants: what is sent to the token endpoint in exchange for tokens.
//!
//! Always: `Debug` shows only the grant type, because every other part may be a secret.

use std::fmt;

use super::outgoing_request::{Endpoint, OutgoingRequest};
use crate::{Credentials, Error, credentials::WhoSignsIn, secret::Secret};

/// One of Concur's grants, with everything it needs apart from the app's id and secret.
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
pub struct Grant(OutgoingRequest);

impl Grant {
    /// A company signs in with its company request token: `grant_type=password`, `credtype=authtoken`.
    ///
    /// The token lives 24 hours and may be used at most five times. Sent to the global landing zone.
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

    /// A refresh token is renewed, and the access token is valid for these scopes only (names separated by spaces).
    ///
    /// The scopes may not exceed those first granted (code 54). Sent to the token's last geolocation.
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

    /// The app itself signs in: `grant_type=client_credentials`. Sent to any production base URI.
    ///
    /// The reply holds no refresh token, so there is nothing for a [`TokenManager`](crate::TokenManager) to keep. Take
    /// the [`access_token`](crate::TokenReply::access_token) from the reply, or use [`AppTokens`](crate::AppTokens),
    /// which requests a new one in time.
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
    /// `redirect_uri` must equal, character for character, the redirect URI of the authorization request (code 104). A
    /// code works once.
    ///
    /// Source: SAP Concur developer centre, "Authentication API, authorization grant"; RFC 6749 section 4.1.3.
    pub fn authorization_code(code: impl Into<String>, redirect_uri: impl Into<String>) -> Self {
        Self::new(
            "authorization_code",
            [("code", Secret::new(code)), ("redirect_uri", Secret::new(redirect_uri))],
        )
    }

    /// A user received a one-time password by mail: `grant_type=otp`.
    pub(super) fn otp(
        fields: impl IntoIterator<Item = (&'static str, Secret)>,
        facts: Vec<(String, Secret)>,
    ) -> Self {
        Self(OutgoingRequest { facts: facts.into(), ..OutgoingRequest::new(Endpoint::Token("otp"), fields) })
    }

    fn new(grant_type: &'static str, fields: impl IntoIterator<Item = (&'static str, Secret)>) -> Self {
        Self(OutgoingRequest::new(Endpoint::Token(grant_type), fields))
    }

    /// Sets the id by which SAP's support and your own logs can find the request: sent as `concur-correlationid`.
    ///
    /// The id must fit into an HTTP header; otherwise sending fails with
    /// [`ErrorKind::Config`](crate::ErrorKind::Config).
    #[must_use]
    pub fn with_correlation_id(mut self, id: impl Into<String>) -> Self {
        self.0.correlation_id = Some(id.into());
        self
    }

    /// The sign-in that the credentials allow: a company's or a user's.
    pub(crate) fn of(credentials: &Credentials) -> Result<Self, Error> {
        let (who, username, password) = credentials.require_sign_in()?;
        Ok(match who {
            WhoSignsIn::Company => Self::company_request_token(username, password),
            WhoSignsIn::User => Self::user_password(username, password),
        })
    }

    /// The principal that the grant signs in.
    pub(crate) fn signs_in(&self) -> SignsIn<'_> {
        match (self.0.grant_type(), self.0.company_uuid()) {
            (_, Some(uuid)) => SignsIn::Company(uuid),
            (Some("refresh_token"), None) => SignsIn::Anybody,
            (Some("client_credentials"), None) => SignsIn::App,
            (_, None) => SignsIn::User,
        }
    }

    /// Whether SAP expects the grant at the principal's geolocation and not at the landing zone or any base URI.
    pub(crate) fn is_for_the_geolocation(&self) -> bool {
        match self.signs_in() {
            SignsIn::Company(_) | SignsIn::App => false,
            SignsIn::User => self.0.grant_type() != Some("authorization_code"),
            SignsIn::Anybody => true,
        }
    }

    /// The UUID of the company that signs in, if the grant is a company's sign-in.
    pub(crate) fn company_uuid(&self) -> Option<&str> {
        self.0.company_uuid()
    }

    pub(super) fn request(&self) -> &OutgoingRequest {
        &self.0
    }
}

/// The principal that signs in with a grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SignsIn<'a> {
    /// The company with this UUID.
    Company(&'a str),
    User,
    /// The app itself, without company or user.
    App,
    /// The owner of the refresh token, whose name the grant does not say.
    Anybody,
}

impl fmt::Debug for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Grant({})", self.0.grant_type().unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_and_owners_of_refresh_tokens_are_at_their_geolocation() {
        for (grant, is_there) in [
            (Grant::refresh_token("r"), true),
            (Grant::user_password("ada", "p"), true),
            (Grant::otp([], Vec::new()), true),
            (Grant::authorization_code("c", "https://app.example.com"), false),
            (Grant::company_request_token("uuid", "at"), false),
            (Grant::client_credentials(), false),
        ] {
            assert_eq!(grant.is_for_the_geolocation(), is_there, "{grant:?}");
        }
    }
}
