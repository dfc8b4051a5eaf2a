//! The same for any client that is a tower service.

use std::{
    error::Error as StdError,
    fmt,
    future::{Future, poll_fn},
    mem,
    pin::Pin,
    task::{Context, Poll},
};

use http::uri::PathAndQuery;
use reqwest::{StatusCode, header::HeaderMap};
use tower_layer::Layer;
use tower_service::Service;
use url::Url;

use super::{another, authorize, check, is_refused};
use crate::{AccessToken, Error, ErrorKind, Geolocation, TokenManager};

type BoxError = Box<dyn StdError + Send + Sync>;

/// Gives each request a valid bearer token, and sends it once more with another token if an API refuses the first (HTTP 401): what
/// [`TokenManager::send`] does, for any client that is a tower service. Feature `tower`.
///
/// The header `Authorization` is set here, and only for a host that may have the token; other requests are not sent. A request
/// that names no host, such as one for `/profile/identity/v4/Users`, goes to the token's
/// [`geolocation`](crate::AccessToken::geolocation).
///
/// The header is a header of the request: a client below this layer that follows redirects must leave it out where it goes to
/// another host, as reqwest does.
///
/// ```
/// use concur_auth::{BearerLayer, TokenManager, reqwest};
/// use tower::{ServiceBuilder, ServiceExt as _};
///
/// # async fn example(tokens: TokenManager) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
/// let http = ServiceBuilder::new().layer(BearerLayer::new(tokens)).service(reqwest::Client::new());
/// let users = "https://us.api.concursolutions.com/profile/identity/v4/Users".parse()?;
/// let reply = http.oneshot(reqwest::Request::new(reqwest::Method::GET, users)).await?;
/// # Ok(()) }
/// ```
///
/// # Errors
///
/// The service's own, and those of [`TokenManager::send`], as a boxed [`Error`].
#[derive(Clone)]
pub struct BearerLayer {
    tokens: TokenManager,
}

impl BearerLayer {
    /// For the APIs that this manager's principal may use.
    #[must_use]
    pub fn new(tokens: TokenManager) -> Self {
        Self { tokens }
    }
}

impl fmt::Debug for BearerLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BearerLayer").finish_non_exhaustive()
    }
}

impl<S> Layer<S> for BearerLayer {
    type Service = Bearer<S>;

    fn layer(&self, inner: S) -> Bearer<S> {
        Bearer { inner, tokens: self.tokens.clone() }
    }
}

/// A service with a [`BearerLayer`] around it.
#[derive(Clone)]
pub struct Bearer<S> {
    inner: S,
    tokens: TokenManager,
}

impl<S: fmt::Debug> fmt::Debug for Bearer<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bearer").field("inner", &self.inner).finish_non_exhaustive()
    }
}

/// A request that a [`BearerLayer`] can send: those of the crate `http`, if their bodies can be cloned, and those of reqwest.
pub trait ApiRequest: Send + Sized + 'static {
    /// Where it goes; a request that names no host is changed to go to that of `geolocation`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`] when that is no URL.
    fn resolve(&mut self, geolocation: &Geolocation) -> Result<Url, Error>;

    /// Its headers.
    fn headers_mut(&mut self) -> &mut HeaderMap;

    /// The same request for a second attempt; `None` if it can be sent only once.
    fn try_clone(&self) -> Option<Self>;
}

/// A reply to an [`ApiRequest`].
pub trait ApiResponse: Send + 'static {
    /// Its status.
    fn status(&self) -> StatusCode;

    /// Whence it came, where the client has followed redirects.
    fn url(&self) -> Option<&Url> {
        None
    }
}

impl<B: Clone + Send + 'static> ApiRequest for http::Request<B> {
    fn resolve(&mut self, geolocation: &Geolocation) -> Result<Url, Error> {
        let no_url = |e: BoxError| {
            Error::new(
                ErrorKind::Config,
                "the URI of the API request is no URL; give it scheme and host, or a path alone",
            )
            .caused_by(e)
        };
        if self.uri().authority().is_some() {
            return Url::parse(&self.uri().to_string()).map_err(|e| no_url(e.into()));
        }
        let url = geolocation.join(self.uri().path_and_query().map_or("/", PathAndQuery::as_str))?;
        *self.uri_mut() = url.as_str().parse().map_err(|e: http::uri::InvalidUri| no_url(e.into()))?;
        Ok(url)
    }

    fn headers_mut(&mut self) -> &mut HeaderMap {
        Self::headers_mut(self)
    }

    fn try_clone(&self) -> Option<Self> {
        Some(self.clone())
    }
}

impl ApiRequest for reqwest::Request {
    fn resolve(&mut self, _: &Geolocation) -> Result<Url, Error> {
        Ok(Self::url(self).clone())
    }

    fn headers_mut(&mut self) -> &mut HeaderMap {
        Self::headers_mut(self)
    }

    fn try_clone(&self) -> Option<Self> {
        Self::try_clone(self)
    }
}

impl<B: Send + 'static> ApiResponse for http::Response<B> {
    fn status(&self) -> StatusCode {
        Self::status(self)
    }
}

impl ApiResponse for reqwest::Response {
    fn status(&self) -> StatusCode {
        Self::status(self)
    }

    fn url(&self) -> Option<&Url> {
        Some(Self::url(self))
    }
}

/// Returns the URL to which the token is sent.
fn prepare(request: &mut impl ApiRequest, access: &AccessToken) -> Result<Url, Error> {
    let url = request.resolve(access.geolocation())?;
    check(&url, access)?;
    authorize(request.headers_mut(), access);
    Ok(url)
}

impl<S, Q> Service<Q> for Bearer<S>
where
    S: Service<Q> + Clone + Send + 'static,
    S::Future: Send,
    S::Response: ApiResponse,
    S::Error: Into<BoxError>,
    Q: ApiRequest,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, mut request: Q) -> Self::Future {
        let (another_one, tokens) = (self.inner.clone(), self.tokens.clone());
        // The one that is ready.
        let mut inner = mem::replace(&mut self.inner, another_one);
        Box::pin(async move {
            let access = tokens.access_token().await?;
            let again = request.try_clone();
            let asked = prepare(&mut request, &access)?;
            let response = inner.call(request).await.map_err(Into::into)?;
            if !is_refused(response.status(), &asked, response.url()) {
                return Ok(response);
            }
            let Some(mut request) = again else {
                tokens.invalidate(&access);
                return Ok(response);
            };
            let Some(access) = another(&tokens, &access).await? else { return Ok(response) };
            prepare(&mut request, &access)?;
            poll_fn(|context| inner.poll_ready(context)).await.map_err(Into::into)?;
            inner.call(request).await.map_err(Into::into)
        })
    }
}
