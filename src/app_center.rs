//! SAP Concur's App Center sends an administrator's browser here to connect a company.

use std::fmt;

use crate::{Credentials, Error, Grant, returned_query::ReturnedQuery, secret::Secret};

/// What the browser of an administrator brings who connects a company with the app in SAP Concur's App Center:
/// `?id=…&requestToken=…&userId=…`.
///
/// Anybody can open that page with parameters of their own. Concur tells whether the request token is one, once the grant
/// is sent; the user's UUID is told by nobody, so it is no sign-in to your app.
///
/// ```
/// use concur_auth::{AppCenterRedirect, Credentials};
///
/// let visit = AppCenterRedirect::from_url("/connect?id=the-company&requestToken=at-0123&userId=the-administrator")?;
/// assert_eq!(visit.company_uuid(), "the-company");
/// assert_eq!(visit.user_uuid(), Some("the-administrator"));
///
/// // For a manager of this company's own, which signs in at its first use, well within the token's 24 hours.
/// let credentials = visit.credentials(Credentials::new("the app's id", "its secret"));
/// # Ok::<(), concur_auth::Error>(())
/// ```
///
/// Source: SAP Concur developer centre, "App Center connection flow".
#[derive(Clone)]
pub struct AppCenterRedirect {
    company_uuid: String,
    request_token: Secret,
    user_uuid: Option<String>,
}

impl AppCenterRedirect {
    /// The URL that the browser came with: whole, or its path and query as a server sees them.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Protocol`](crate::ErrorKind::Protocol) when it lacks `id` or `requestToken`, or has one of the
    /// three twice.
    pub fn from_url(url: &str) -> Result<Self, Error> {
        let query = ReturnedQuery::of(url, "the URL that the App Center sent the browser to");
        let text = |value: &Secret| value.expose().trim().to_owned();
        Ok(Self {
            company_uuid: text(query.required("id")?),
            request_token: query.required("requestToken")?.clone(),
            user_uuid: query.get("userId")?.map(text),
        })
    }

    /// The company that is to be connected.
    #[must_use]
    pub fn company_uuid(&self) -> &str {
        &self.company_uuid
    }

    /// The administrator who connects it, by the URL's word.
    #[must_use]
    pub fn user_uuid(&self) -> Option<&str> {
        self.user_uuid.as_deref()
    }

    /// The app's credentials with this company's UUID and request token, for a manager of its own.
    #[must_use]
    pub fn credentials(&self, app: Credentials) -> Credentials {
        app.company(&self.company_uuid, self.request_token.expose())
    }

    /// The grant by itself: `grant_type=password`, `credtype=authtoken`. Sent to the global landing zone.
    pub fn grant(&self) -> Grant {
        Grant::company_request_token(&self.company_uuid, self.request_token.expose())
    }
}

impl fmt::Debug for AppCenterRedirect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AppCenterRedirect")
            .field("company_uuid", &self.company_uuid)
            .field("user_uuid", &self.user_uuid)
            .finish_non_exhaustive()
    }
}
