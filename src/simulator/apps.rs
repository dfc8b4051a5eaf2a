//! The apps that Concur knows: its clients, in OAuth's words.

use std::{fmt, iter, time::SystemTime};

use super::{ConcurSimulator, endpoints::Concur, form::Form, made_up::uuid, reply::ErrorBody};

/// An app that the simulated Concur knows. `Debug` shows only its id.
///
/// ```
/// use concur_auth::{Credentials, ErrorKind, Grant, OAuthClient, simulator::ConcurSimulator};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), concur_auth::Error> {
/// let concur = ConcurSimulator::start().await;
/// let other = concur.add_app();
///
/// let credentials = Credentials::new(concur.app().id(), concur.app().secret());
/// let grant = Grant::company_request_token(concur.company_uuid(), other.request_token());
/// let base = concur.base_uri().parse()?;
/// let refused = OAuthClient::new().request_token(&base, &credentials, &grant).await;
/// assert_eq!(refused.unwrap_err().code().unwrap().number(), 136);
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct SimulatedApp {
    id: String,
    secret: String,
    request_token: String,
}

impl SimulatedApp {
    /// The `client_id`.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The `client_secret`.
    #[must_use]
    pub fn secret(&self) -> &str {
        &self.secret
    }

    /// The newest company request token for this app.
    #[must_use]
    pub fn request_token(&self) -> &str {
        &self.request_token
    }
}

impl fmt::Debug for SimulatedApp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimulatedApp").field("id", &self.id).finish_non_exhaustive()
    }
}

/// The first app, and the apps that a test added.
pub(super) struct Apps {
    pub(super) first: SimulatedApp,
    added: Vec<SimulatedApp>,
}

impl Apps {
    /// `given` are its id and secret, if they are not to be made up. `issue_request_token` gets the id of the app that it is for.
    pub(super) fn new(
        given: Option<(String, String)>,
        issue_request_token: impl FnOnce(&str) -> String,
    ) -> Self {
        Self { first: app(given, issue_request_token), added: Vec::new() }
    }

    pub(super) fn find(&self, id: &str) -> Option<&SimulatedApp> {
        iter::once(&self.first).chain(&self.added).find(|app| app.id == id)
    }
}

fn app(given: Option<(String, String)>, issue_request_token: impl FnOnce(&str) -> String) -> SimulatedApp {
    let (id, secret) = given.unwrap_or_else(|| (uuid(), uuid()));
    SimulatedApp { secret, request_token: issue_request_token(&id), id }
}

impl Concur {
    /// Checks the app's id and secret; gives its id.
    pub(super) fn authenticate(&self, form: &Form) -> Result<String, ErrorBody> {
        let client_id = form.required("client_id", 62)?;
        let client_secret = form.required("client_secret", 63)?;
        let app = self.apps.find(client_id).ok_or(61)?;
        if client_secret != app.secret {
            return Err(64.into());
        }
        self.not_refused(client_id)?;
        Ok(client_id.to_owned())
    }

    pub(super) fn issue_request_token(&mut self, now: SystemTime) -> String {
        let (app, company) = (&mut self.apps.first, self.principals.company_uuid());
        app.request_token = self.tokens.issue_request_token(&app.id, company, now);
        app.request_token.clone()
    }
}

/// Apps.
impl ConcurSimulator {
    /// The first app: the app of [`credentials`](Self::credentials).
    #[must_use]
    pub fn app(&self) -> SimulatedApp {
        self.server.concur().apps.first.clone()
    }

    /// Adds an app, with its own company request token. Tokens and codes issued to another app are refused: code 136
    /// for a company request token, 105 for an authorization code or a refresh token.
    pub fn add_app(&self) -> SimulatedApp {
        let mut concur = self.server.concur();
        let now = concur.clock.now();
        let company = concur.principals.company_uuid().to_owned();
        let added = app(None, |id| concur.tokens.issue_request_token(id, &company, now));
        concur.apps.added.push(added.clone());
        added
    }
}
