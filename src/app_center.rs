//! A company connects from SAP Concur's App Center, which sends an administrator's browser to the app.

use std::fmt;

use crate::{Credentials, Error, Grant, returned_query::ReturnedQuery, secret::Secret, shown};

/// The query that an administrator's browser brings after connecting a company with the app in SAP Concur's App Center:
/// `?id=…&requestToken=…&userId=…`.
///
/// Any visitor can open your page with made-up parameters. Concur checks the request token when the grant is sent.
/// Nothing checks the user's UUID, so it does not sign a user in to your app.
///
/// ```
/// use concur_auth::{AppCenterRedirect, Credentials};
///
/// let url = "/connect?id=the-company&requestToken=at-0123&userId=the-administrator";
/// let visit = AppCenterRedirect::from_url(url)?;
/// assert_eq!(visit.company_uuid(), "the-company");
/// assert_eq!(visit.user_uuid(), Some("the-administrator"));
///
/// // For this company's own manager. Use it at once: the request token lives 24 hours.
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
    /// Reads the URL that the browser came with: the whole URL, or its path and query as a server sees them.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Protocol`](crate::ErrorKind::Protocol) when the URL lacks `id` or `requestToken`, or has one of the
    /// three parameters twice.
    pub fn from_url(url: &str) -> Result<Self, Error> {
        let query = ReturnedQuery::of(url, "the URL that the App Center sent the browser to");
        let text = |value: &Secret| value.expose().trim().to_owned();
        Ok(Self {
            company_uuid: text(query.required("id")?),
            request_token: query.required("requestToken")?.clone(),
            user_uuid: query.get("userId")?.map(text),
        })
    }

    /// The UUID of the company that wants to connect.
    #[must_use]
    pub fn company_uuid(&self) -> &str {
        &self.company_uuid
    }

    /// The UUID of the administrator who connects it, as the URL says. Not checked.
    #[must_use]
    pub fn user_uuid(&self) -> Option<&str> {
        self.user_uuid.as_deref()
    }

    /// The app's credentials with this company's UUID and request token, for a manager of its own.
    #[must_use]
    pub fn credentials(&self, app: Credentials) -> Credentials {
        app.company(&self.company_uuid, self.request_token.expose())
    }

    /// The grant alone: `grant_type=password`, `credtype=authtoken`. Send it to the global landing zone.
    pub fn grant(&self) -> Grant {
        Grant::company_request_token(&self.company_uuid, self.request_token.expose())
    }
}

impl From<AppCenterRedirect> for Grant {
    fn from(redirect: AppCenterRedirect) -> Self {
        redirect.grant()
    }
}

impl fmt::Debug for AppCenterRedirect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AppCenterRedirect")
            .field("company_uuid", &shown::uuid(Some(&self.company_uuid)))
            .field("user_uuid", &shown::uuid(self.user_uuid()))
            .finish_non_exhaustive()
    }
}
