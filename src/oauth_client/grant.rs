//! What is presented to the token endpoint in exchange for tokens.

use std::fmt;

use crate::{Credentials, secret::Secret};

/// One of Concur's grants, with all it needs beside the app's id and secret.
///
/// ```
/// use concur_auth::Grant;
///
/// let grant = Grant::refresh_token("a secret");
/// assert_eq!(format!("{grant:?}"), "Grant(refresh_token)");
/// ```
///
/// Source: SAP Concur developer centre, "Authentication API"; RFC 6749 section 1.3.
#[derive(Clone)]
pub struct Grant {
    grant_type: &'static str,
    company_uuid: Option<String>,
    fields: Vec<(&'static str, Secret)>,
    correlation_id: Option<String>,
}

impl Grant {
    /// A company signs in with its company request token: `grant_type=password`, `credtype=authtoken`.
    ///
    /// The token lives 24 hours and may be used five times at most. Sent to the global landing zone.
    pub fn company_request_token(company_uuid: impl Into<String>, request_token: impl Into<String>) -> Self {
        let company_uuid = company_uuid.into();
        Self {
            grant_type: "password",
            company_uuid: Some(company_uuid.clone()),
            fields: vec![
                ("username", Secret::new(company_uuid)),
                ("password", Secret::new(request_token)),
                ("credtype", Secret::new("authtoken")),
            ],
            correlation_id: None,
        }
    }

    /// A refresh token is renewed: `grant_type=refresh_token`. Sent to the token's last geolocation.
    pub fn refresh_token(token: impl Into<String>) -> Self {
        Self {
            grant_type: "refresh_token",
            company_uuid: None,
            fields: vec![("refresh_token", Secret::new(token))],
            correlation_id: None,
        }
    }

    /// The id by which SAP's support and your own logs can find the request: sent as `concur-correlationid`.
    ///
    /// It must fit into an HTTP header; sending fails with [`ErrorKind::Config`](crate::ErrorKind::Config) otherwise.
    #[must_use]
    pub fn with_correlation_id(mut self, id: impl Into<String>) -> Self {
        self.correlation_id = Some(id.into());
        self
    }

    pub(crate) fn correlation_id(&self) -> Option<&str> {
        self.correlation_id.as_deref()
    }

    /// The `grant_type`, which is no secret.
    pub(crate) fn name(&self) -> &'static str {
        self.grant_type
    }

    /// The company that signs in, where the grant says so.
    pub(crate) fn company_uuid(&self) -> Option<&str> {
        self.company_uuid.as_deref()
    }

    /// Whether it may be sent again when nobody knows what became of it: a refresh token that reached nobody was
    /// spent for nobody, but a company request token has few uses.
    pub(crate) fn is_repeatable(&self) -> bool {
        self.grant_type == "refresh_token"
    }

    pub(crate) fn fields(&self) -> impl Iterator<Item = (&'static str, &str)> {
        std::iter::once(("grant_type", self.grant_type))
            .chain(self.fields.iter().map(|(name, value)| (*name, value.expose())))
    }

    /// Whether `text`, which a server chose, holds a secret of this request.
    pub(crate) fn leaks_into(&self, text: &str, credentials: &Credentials) -> bool {
        let ours =
            self.fields.iter().filter(|(name, _)| *name != "credtype").map(|(_, value)| value.expose());
        ours.chain([credentials.client_secret()]).any(|secret| !secret.is_empty() && text.contains(secret))
    }
}

impl fmt::Debug for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Grant({})", self.grant_type)
    }
}
