//! The base URIs of the simulated Concur, and the home of each principal.
//!
//! Always: the first base URI is the global landing zone, and a data centre as well; all of them share one state.

use std::collections::HashMap;

use reqwest::{
    StatusCode,
    header::{HeaderValue, LOCATION},
};

use super::{
    ConcurSimulator,
    endpoints::Concur,
    recorded_request::RecordedRequest,
    reply::{ErrorBody, Reply},
};
use crate::caught::locked;

pub(super) struct DataCentres {
    /// The landing zone first.
    base_uris: Vec<String>,
    sites: HashMap<String, ImplementationSite>,
}

struct ImplementationSite {
    status: StatusCode,
    redirects_to: String,
}

/// The places that a grant may be sent to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// The principal's geolocation only.
    Geolocation,
    /// The global landing zone too.
    LandingZone,
}

impl DataCentres {
    pub(super) fn new(landing_zone: String) -> Self {
        Self { base_uris: vec![landing_zone], sites: HashMap::new() }
    }

    pub(super) fn landing_zone(&self) -> &str {
        self.base_uris.first().map_or("", String::as_str)
    }

    /// The reply to a request at an implementation site; `None` for a data centre.
    pub(super) fn redirect(&self, request: &RecordedRequest) -> Option<Reply> {
        let site = self.sites.get(request.base_uri())?;
        let query = request.query().map(|query| format!("?{query}")).unwrap_or_default();
        Some(Reply::redirect(site.status, &format!("{}{}{query}", site.redirects_to, request.path())))
    }
}

impl Concur {
    /// Code 16 if the principal lives in another data centre.
    pub(super) fn locate(
        &self,
        principal: &str,
        reach: Reach,
        request: &RecordedRequest,
    ) -> Result<(), ErrorBody> {
        let geolocation = self.principals.geolocation(principal);
        let at = request.base_uri();
        if at == geolocation || (reach == Reach::LandingZone && at == self.data_centres.landing_zone()) {
            Ok(())
        } else {
            Err(ErrorBody::lives_elsewhere(geolocation))
        }
    }
}

/// Data centres.
impl ConcurSimulator {
    /// Adds a data centre, which shares all state with the others; gives its base URI, on a port of its own.
    ///
    /// Grants with a company request token or an authorization code may be sent to the landing zone
    /// ([`base_uri`](Self::base_uri)) or the principal's geolocation, those of the app itself
    /// (`client_credentials`) anywhere, and all others to the principal's geolocation only. Anywhere else the answer
    /// is code 16, with the `geolocation` to retry against, and nothing is spent.
    ///
    /// ```
    /// use concur_auth::{Grant, OAuthClient, RefreshTokenObject, simulator::ConcurSimulator};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), concur_auth::Error> {
    /// let concur = ConcurSimulator::start().await;
    /// let eu = concur.add_data_centre().await;
    /// let stored = RefreshTokenObject::from_json(&concur.token_json())?;
    /// concur.move_principal(&concur.company_uuid(), &eu);
    ///
    /// let (client, grant) = (OAuthClient::new(), Grant::refresh_token(stored.secret()));
    /// let reply = client.request_token(&concur.base_uri().parse()?, &concur.credentials(), &grant).await?;
    /// assert_eq!(reply.refresh_token_object()?.geolocation(), Some(&*eu));
    /// let asked: Vec<_> = concur.requests().iter().map(|request| request.base_uri().to_owned()).collect();
    /// assert_eq!(asked, [concur.base_uri(), eu]);
    /// # Ok(()) }
    /// ```
    ///
    /// # Panics
    ///
    /// When no port on loopback is free.
    pub async fn add_data_centre(&self) -> String {
        let base_uri = self.serve_another().await;
        self.server.concur().data_centres.base_uris.push(base_uri.clone());
        base_uri
    }

    /// Adds a site that answers every request with this redirect to the same path at the base URI `to`; gives the
    /// site's base URI.
    ///
    /// Concur's implementation sites redirect to production. With 307 and 308 a client sends the method and the
    /// body again (RFC 9110 sections 15.4.8 and 15.4.9).
    ///
    /// ```
    /// # use concur_auth::simulator::ConcurSimulator;
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// let concur = ConcurSimulator::start().await;
    /// let us_impl = concur.add_implementation_site(308, &concur.base_uri()).await;
    /// let elsewhere = concur.add_implementation_site(307, "https://example.net").await;
    /// # }
    /// ```
    ///
    /// # Panics
    ///
    /// When `status` is not that of a redirect (300 to 399), `to` cannot be part of a header, or no port on loopback
    /// can be had.
    pub async fn add_implementation_site(&self, status: u16, to: &str) -> String {
        let status = match StatusCode::from_u16(status) {
            Ok(status) if status.is_redirection() => status,
            _ => panic!("{status} is not the HTTP status of a redirect; use 307 or 308"),
        };
        assert!(HeaderValue::try_from(to).is_ok(), "{to:?} cannot be a {LOCATION}");
        let base_uri = self.serve_another().await;
        let site = ImplementationSite { status, redirects_to: to.trim_end_matches('/').to_owned() };
        self.server.concur().data_centres.sites.insert(base_uri.clone(), site);
        base_uri
    }

    /// Moves the company, or a user, to the data centre at `base_uri`, which is the `geolocation` in replies from now
    /// on. All principals live in the landing zone at first. Their tokens still work after a move.
    ///
    /// # Panics
    ///
    /// When there is no principal with this UUID or no data centre at `base_uri`.
    #[track_caller]
    pub fn move_principal(&self, uuid: &str, base_uri: &str) {
        let mut concur = self.server.concur();
        let base_uri = base_uri.trim_end_matches('/');
        let is_known = concur.data_centres.base_uris.iter().any(|known| known == base_uri);
        let is_moved = is_known && concur.principals.relocate(uuid, base_uri);
        drop(concur);
        assert!(is_known, "there is no data centre at {base_uri}; add_data_centre makes one");
        assert!(is_moved, "there is no principal with the UUID {uuid}");
    }

    async fn serve_another(&self) -> String {
        let server = self.server.start_another().await;
        let base_uri = server.base_uri().to_owned();
        locked(&self.other_servers).push(server);
        base_uri
    }
}
