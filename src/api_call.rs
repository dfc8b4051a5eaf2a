//! One API call with a bearer token, repeated with another token where the API refuses the first.
//!
//! ```text
//! token ─▶ request ─▶ host trusted? ─▶ sent ─▶ 401? ─▶ another token ─▶ request ─▶ sent
//! ```
//!
//! Always: a token is sent to trusted hosts only. What was answered otherwise than with 401 is not sent again, and nothing is sent
//! more than twice.

#[cfg(feature = "tower")]
mod layer;

use reqwest::{
    RequestBuilder, Response, StatusCode,
    header::{AUTHORIZATION, HeaderMap},
};
use url::Url;

#[cfg(feature = "tower")]
pub use self::layer::{ApiRequest, ApiResponse, Bearer, BearerLayer};
use crate::{AccessToken, Error, ErrorKind, TokenManager};

impl TokenManager {
    /// Sends a request to one of Concur's APIs with a valid bearer token, and once more with another token if the API refuses the
    /// first (HTTP 401).
    ///
    /// `request` makes the request for an access token, with which it can also be told whose data centre to ask; it is called again
    /// for a second attempt. The header `Authorization` is set here, and only for a host that may have the token: Concur's, and those
    /// of [`trust_host`](crate::TokenManagerBuilder::trust_host). A reply of any status is a success; a second 401 is returned.
    ///
    /// ```no_run
    /// # async fn example(tokens: concur_auth::TokenManager, http: concur_auth::reqwest::Client)
    /// # -> Result<(), Box<dyn std::error::Error>> {
    /// let users = tokens
    ///     .send(|access| http.get(format!("{}profile/identity/v4/Users", access.geolocation().as_str())))
    ///     .await?
    ///     .error_for_status()?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`access_token`](Self::access_token); [`ErrorKind::Untrusted`] when the request goes to another host (nothing was sent);
    /// [`ErrorKind::Config`] when it cannot be built; [`ErrorKind::Unavailable`] when no reply came, with the HTTP library's error
    /// as its source. Whether Concur has done what was asked is unknown then.
    pub async fn send(&self, request: impl Fn(&AccessToken) -> RequestBuilder) -> Result<Response, Error> {
        let access = self.access_token().await?;
        let (asked, response) = send_with(&access, request(&access)).await?;
        if !is_refused(response.status(), &asked, Some(response.url())) {
            return Ok(response);
        }
        match another(self, &access).await? {
            Some(access) => send_with(&access, request(&access)).await.map(|(_, response)| response),
            None => Ok(response),
        }
    }
}

/// The reply, and the URL to which the token was sent.
async fn send_with(access: &AccessToken, request: RequestBuilder) -> Result<(Url, Response), Error> {
    let (client, request) = request.build_split();
    let mut request = request.map_err(|e| {
        Error::new(ErrorKind::Config, "the API request cannot be built; see its cause")
            .caused_by(e.without_url())
    })?;
    check(request.url(), access)?;
    authorize(request.headers_mut(), access);
    let asked = request.url().clone();
    let response = client.execute(request).await.map_err(|e| {
        let message = "no reply came to an API call; whether Concur has received it is unknown";
        Error::new(ErrorKind::Unavailable, message).caused_by(e.without_url())
    })?;
    Ok((asked, response))
}

/// Whether that place may have the token.
fn check(url: &Url, access: &AccessToken) -> Result<(), Error> {
    let geolocation = access.geolocation();
    // Not by comparing origins: user information in a URL does not change its origin.
    if url.as_str().starts_with(geolocation.as_str()) {
        return Ok(());
    }
    geolocation.received(url.as_str(), "an API call").map(drop)
}

fn authorize(headers: &mut HeaderMap, access: &AccessToken) {
    headers.insert(AUTHORIZATION, access.authorization());
}

/// Whether the token is what an API did not like. A redirect may have led to another host, and there clients send no token.
fn is_refused(status: StatusCode, asked: &Url, replied: Option<&Url>) -> bool {
    status == StatusCode::UNAUTHORIZED && replied.is_none_or(|url| url.origin() == asked.origin())
}

/// What to try after an API has refused a token; `None` if there is nothing else.
async fn another(tokens: &TokenManager, refused: &AccessToken) -> Result<Option<AccessToken>, Error> {
    tokens.invalidate(refused);
    let access = tokens.access_token().await?;
    // An API that refuses every token gets the same one for a pause.
    Ok(Some(access).filter(|access| access.secret() != refused.secret()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// After a redirect to another host, where the client leaves the header out.
    #[test]
    fn a_401_of_another_host_says_nothing_about_the_token() {
        let asked = "https://us.api.concursolutions.com/profile/v4/Users".parse().unwrap();
        for (url, is_refused_there) in [
            ("https://us.api.concursolutions.com/profile/identity/v4/Users", true),
            ("https://eu.api.concursolutions.com/", false),
            ("http://us.api.concursolutions.com/", false),
            ("https://us.api.concursolutions.com.example/", false),
            ("https://example.net/", false),
        ] {
            let replied = url.parse().unwrap();
            assert_eq!(
                is_refused(StatusCode::UNAUTHORIZED, &asked, Some(&replied)),
                is_refused_there,
                "{url}"
            );
            assert!(!is_refused(StatusCode::FORBIDDEN, &asked, Some(&replied)));
        }
        assert!(is_refused(StatusCode::UNAUTHORIZED, &asked, None));
    }
}
