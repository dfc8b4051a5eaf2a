//! A user signs in with a browser: the URL to send the browser to, and the URL that it returns with.
//!
//! Always: a code is accepted only if the returned state equals the request's state, which proves that this request
//! started the sign-in.

use std::{fmt, hint::black_box};

use url::Url;

use super::grant::Grant;
use crate::{
    ConcurCode, Error, ErrorKind, Geolocation, returned_query::ReturnedQuery, secret::Secret,
    unguessable::hexadecimal,
};

/// 256 bits: an attacker cannot guess a state, and no two states are the same.
const STATE_BYTES: usize = 32;

/// A sign-in with a user's browser, which leads to a [`Grant::authorization_code`].
///
/// ```
/// use concur_auth::{AuthorizationRequest, Geolocation};
///
/// # fn main() -> Result<(), concur_auth::Error> {
/// let glz: Geolocation = "https://glz.api.concursolutions.com".parse()?;
/// let back = "https://app.example.com/back";
/// let sign_in = AuthorizationRequest::new(&glz, "the app's id", back, "openid user.read")?;
///
/// // Send the browser to this page, and keep `sign_in.state()` in the user's session.
/// let page = sign_in.authorize_url();
/// assert_eq!(page.host_str(), Some("www-glz.api.concursolutions.com"));
///
/// // The browser returns.
/// let us = "https://us.api.concursolutions.com";
/// let url = format!("/back?geolocation={us}&code=c&state={}", sign_in.state());
/// let returned = sign_in.returned(&url)?;
/// assert_eq!(format!("{:?}", returned.grant()), "Grant(authorization_code)");
///
/// // A URL with another state was not caused by this request.
/// assert!(sign_in.returned("/back?code=c&state=another").is_err());
/// # Ok(()) }
/// ```
///
/// Source: SAP Concur developer centre, "Authentication API, authorization grant"; RFC 6749 section 4.1.
#[derive(Clone)]
pub struct AuthorizationRequest {
    base: Geolocation,
    page: Url,
    app_id: String,
    redirect_uri: String,
    scope: String,
    state: Secret,
}

impl AuthorizationRequest {
    /// A request for the app with this id. `base` is the global landing zone or a data centre. `redirect_uri` is the
    /// app's page that the browser returns to, as registered with SAP. `scope` holds the scopes to request (names
    /// separated by spaces).
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`] when `redirect_uri` is not a URL, or when the operating system provides no random bytes.
    pub fn new(
        base: &Geolocation,
        app_id: impl Into<String>,
        redirect_uri: impl Into<String>,
        scope: impl Into<String>,
    ) -> Result<Self, Error> {
        let redirect_uri = redirect_uri.into();
        Url::parse(&redirect_uri).map_err(|e| {
            let message = "the redirect URI is not a URL; write it like https://app.example.com/back";
            Error::new(ErrorKind::Config, message).caused_by(e)
        })?;
        Ok(Self {
            base: base.clone(),
            page: base.for_browsers().join("oauth2/v0/authorize")?,
            app_id: app_id.into(),
            redirect_uri,
            scope: scope.into(),
            state: random_state()?,
        })
    }

    /// The same request with the state that was kept in the user's session, for a browser that returns to another
    /// process than the one that started the sign-in.
    #[must_use]
    pub fn with_state(mut self, state: impl Into<String>) -> Self {
        self.state = Secret::new(state);
        self
    }

    /// The page to send the browser to. The state is the only secret in this URL.
    #[must_use]
    pub fn authorize_url(&self) -> Url {
        let mut url = self.page.clone();
        url.query_pairs_mut().extend_pairs([
            ("client_id", self.app_id.as_str()),
            ("redirect_uri", &self.redirect_uri),
            ("scope", &self.scope),
            ("response_type", "code"),
            ("state", self.state.expose()),
        ]);
        url
    }

    /// What distinguishes this user's browser from any other: 64 random hexadecimal digits.
    #[must_use]
    pub fn state(&self) -> &str {
        self.state.expose()
    }

    /// Reads the URL that the browser returned with: the whole URL, or its path and query as a server sees them.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Refused`] when the user was not signed in, with the `error_code` of the URL (its other words
    /// are not shown, since a stranger can write such a URL); [`ErrorKind::Protocol`] when the URL has another state (an
    /// attacker may have written it) or lacks a code; [`ErrorKind::Untrusted`] when its geolocation is not a host of Concur's.
    pub fn returned(&self, url: &str) -> Result<AuthorizationReturn, Error> {
        let query = ReturnedQuery::of(url, "the URL that the browser came back with");
        // Before the state is checked: a URL that reports an error yields no grant, even if an attacker wrote it.
        if let Some(refused) = self.refusal(&query)? {
            return Err(refused);
        }
        if !is_same(query.required("state")?.expose(), self.state.expose()) {
            return Err(query.invalid("has another state than the authorization request"));
        }
        let code = query.required("code")?;
        let geolocation = match query.get("geolocation")? {
            Some(uri) => Some(self.base.received(uri.expose(), "the geolocation that the browser brought")?),
            None => None,
        };
        Ok(AuthorizationReturn {
            grant: Grant::authorization_code(code.expose(), &self.redirect_uri),
            geolocation,
        })
    }

    fn refusal(&self, query: &ReturnedQuery) -> Result<Option<Error>, Error> {
        let (code, description) = (query.get("error_code")?, query.get("error_description")?);
        if code.is_none() && description.is_none() {
            return Ok(None);
        }
        let code = code.and_then(|number| number.expose().trim().parse().ok()).map(ConcurCode::new);
        let meaning =
            code.and_then(ConcurCode::meaning).unwrap_or("a reason that SAP's documentation does not list");
        let advice = code.and_then(ConcurCode::advice).unwrap_or("let the user try once more");
        let message = format!("the user was not signed in: {meaning}; {advice}");
        Ok(Some(Error::new(ErrorKind::Refused, message).with_code(code, false)))
    }
}

impl fmt::Debug for AuthorizationRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthorizationRequest")
            .field("base", &self.base)
            .field("redirect_uri", &self.redirect_uri)
            .finish_non_exhaustive()
    }
}

/// What a user's browser returned with after the sign-in.
///
/// See the example at [`AuthorizationRequest`].
#[derive(Clone, Debug)]
pub struct AuthorizationReturn {
    grant: Grant,
    geolocation: Option<Geolocation>,
}

impl AuthorizationReturn {
    /// The grant to send to the global landing zone, with
    /// [`OAuthClient::request_token`](crate::OAuthClient::request_token) or
    /// [`TokenManager::sign_in`](crate::TokenManager::sign_in). The grant works once.
    #[must_use]
    pub fn grant(&self) -> Grant {
        self.grant.clone()
    }

    /// The user's geolocation, if the browser brought one.
    #[must_use]
    pub fn geolocation(&self) -> Option<&Geolocation> {
        self.geolocation.as_ref()
    }
}

fn random_state() -> Result<Secret, Error> {
    hexadecimal::<STATE_BYTES>().map(Secret::new)
}

/// Compares in a time that depends on the lengths only, so that an attacker cannot find the state letter by letter.
fn is_same(given: &str, expected: &str) -> bool {
    let (given, expected) = (given.as_bytes(), expected.as_bytes());
    let different = given.iter().zip(expected).fold(0, |different, (a, b)| black_box(different | (a ^ b)));
    given.len() == expected.len() && different == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_state_is_the_same() {
        for (given, same) in
            [("abc", true), ("abd", false), ("acb", false), ("ab", false), ("abcd", false), ("", false)]
        {
            assert_eq!(is_same(given, "abc"), same, "{given}");
        }
    }
}
