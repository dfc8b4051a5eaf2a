//! What a test can ask about a request after the event.

use std::fmt;

use reqwest::header::HeaderMap;
use url::form_urlencoded;
use wiremock::Request;

const TOKEN_PATH: &str = "/oauth2/v0/token";

/// A request that the simulator received. `Debug` shows none of its secrets.
///
/// ```
/// use concur_auth::{Grant, OAuthClient, simulator::ConcurSimulator};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), concur_auth::Error> {
/// let concur = ConcurSimulator::start().await;
/// let grant = Grant::refresh_token("unknown");
/// let (base, app) = (concur.base_uri().parse()?, concur.credentials());
/// let refused = OAuthClient::new().request_token(&base, &app, &grant).await;
/// assert!(refused.is_err());
///
/// let request = &concur.requests()[0];
/// assert_eq!((request.method(), request.path()), ("POST", "/oauth2/v0/token"));
/// assert_eq!(request.grant_type(), Some("refresh_token"));
/// assert_eq!(request.header("content-type"), Some("application/x-www-form-urlencoded"));
/// assert_eq!(request.status(), Some(400));
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct RecordedRequest {
    base_uri: String,
    method: String,
    path: String,
    query: Option<String>,
    headers: HeaderMap,
    body: String,
    grant_type: Option<String>,
    pub(super) principal: Option<String>,
    pub(super) status: Option<u16>,
}

impl RecordedRequest {
    pub(super) fn new(base_uri: &str, request: &Request) -> Self {
        let grant_type = form_urlencoded::parse(&request.body).find(|(name, _)| name == "grant_type");
        Self {
            base_uri: base_uri.to_owned(),
            method: request.method.to_string(),
            path: request.url.path().to_owned(),
            query: request.url.query().map(str::to_owned),
            headers: request.headers.clone(),
            body: String::from_utf8_lossy(&request.body).into_owned(),
            grant_type: grant_type.map(|(_, value)| value.into_owned()),
            principal: None,
            status: None,
        }
    }

    /// The base URI that it was sent to: one of the [data centres](super::ConcurSimulator::add_data_centre) or
    /// [implementation sites](super::ConcurSimulator::add_implementation_site).
    #[must_use]
    pub fn base_uri(&self) -> &str {
        &self.base_uri
    }

    /// The HTTP method, in capitals.
    #[must_use]
    pub fn method(&self) -> &str {
        &self.method
    }

    /// The path of the URL, without the query.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The query of the URL, as sent; `None` where there was no question mark.
    #[must_use]
    pub fn query(&self) -> Option<&str> {
        self.query.as_deref()
    }

    /// The first header with this name, in any case; `None` where it is not there or not text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The body, as sent. That of a grant holds secrets.
    #[must_use]
    pub fn body(&self) -> &str {
        &self.body
    }

    /// The field `grant_type` of the form in the body.
    #[must_use]
    pub fn grant_type(&self) -> Option<&str> {
        self.grant_type.as_deref()
    }

    /// The UUID of the company or user whom it concerns: who signs in, or whose token it was when it came; `None` where the simulator
    /// does not know that.
    #[must_use]
    pub fn principal(&self) -> Option<&str> {
        self.principal.as_deref()
    }

    /// The HTTP status of the reply; `None` where the connection was closed without one.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        self.status
    }

    pub(super) fn bearer_token(&self) -> Option<&str> {
        self.header("authorization")?.strip_prefix("Bearer ")
    }

    pub(super) fn is_for_a_token(&self) -> bool {
        self.method == "POST" && self.path == TOKEN_PATH
    }

    /// Whether it changes what tokens there are: a test may want to know what happens until its reply arrives.
    pub(super) fn can_be_held(&self) -> bool {
        self.is_for_a_token() || self.method == "DELETE"
    }
}

impl fmt::Debug for RecordedRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecordedRequest")
            .field("method", &self.method)
            .field("path", &self.path)
            .field("status", &self.status)
            .finish_non_exhaustive()
    }
}
