//! The owners of tokens: companies, and the users of the first.

use std::{
    collections::{HashMap, HashSet},
    fmt,
};

use super::{
    ConcurSimulator,
    made_up::{random, uuid},
};

/// A user of the simulated company. `Debug` shows only the UUID.
///
/// ```
/// use concur_auth::{reqwest, simulator::ConcurSimulator};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> reqwest::Result<()> {
/// let concur = ConcurSimulator::start().await;
/// let (app, user) = (concur.app(), concur.add_user());
/// let form = format!(
///     "client_id={}&client_secret={}&grant_type=password&username={}&password={}",
///     app.id(), app.secret(), user.username(), user.password(),
/// );
/// let url = format!("{}/oauth2/v0/token", concur.base_uri());
/// let request = reqwest::Client::new().post(url).body(form);
/// let reply = request.header("content-type", "application/x-www-form-urlencoded").send().await?;
/// assert_eq!(reply.status(), 200);
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct SimulatedUser {
    uuid: String,
    username: String,
    password: String,
}

impl SimulatedUser {
    /// The UUID: the `sub` of the user's `id_token`s.
    #[must_use]
    pub fn uuid(&self) -> &str {
        &self.uuid
    }

    /// The user name, which is also the e-mail address that one-time passwords are sent to.
    #[must_use]
    pub fn username(&self) -> &str {
        &self.username
    }

    /// The password.
    #[must_use]
    pub fn password(&self) -> &str {
        &self.password
    }
}

impl fmt::Debug for SimulatedUser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimulatedUser").field("uuid", &self.uuid).finish_non_exhaustive()
    }
}

/// A company that a test added. `Debug` shows only the UUID.
///
/// ```
/// use concur_auth::{Grant, OAuthClient, simulator::ConcurSimulator};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), concur_auth::Error> {
/// let concur = ConcurSimulator::start().await;
/// let company = concur.add_company();
/// let grant = Grant::company_request_token(company.uuid(), company.request_token());
/// let base = concur.base_uri().parse()?;
/// OAuthClient::new().request_token(&base, &concur.credentials(), &grant).await?;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct SimulatedCompany {
    uuid: String,
    request_token: String,
}

impl SimulatedCompany {
    /// The UUID.
    #[must_use]
    pub fn uuid(&self) -> &str {
        &self.uuid
    }

    /// A company request token for the first app (24 hours, five uses).
    #[must_use]
    pub fn request_token(&self) -> &str {
        &self.request_token
    }
}

impl fmt::Debug for SimulatedCompany {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimulatedCompany").field("uuid", &self.uuid).finish_non_exhaustive()
    }
}

/// The companies, and the users of the first.
pub(super) struct Principals {
    company_uuid: String,
    other_companies: HashSet<String>,
    /// By the principal's UUID.
    geolocations: HashMap<String, String>,
    /// By user name.
    users: HashMap<String, SimulatedUser>,
}

impl Principals {
    pub(super) fn new(geolocation: String, company_uuid: Option<String>) -> Self {
        let company_uuid = company_uuid.unwrap_or_else(uuid);
        let geolocations = HashMap::from([(company_uuid.clone(), geolocation)]);
        Self { company_uuid, other_companies: HashSet::new(), geolocations, users: HashMap::new() }
    }

    pub(super) fn is_company(&self, uuid: &str) -> bool {
        uuid == self.company_uuid || self.other_companies.contains(uuid)
    }

    /// The company lives where the first lives.
    fn add_company(&mut self) -> String {
        let uuid = uuid();
        let geolocation = self.geolocation(&self.company_uuid).to_owned();
        self.geolocations.insert(uuid.clone(), geolocation);
        self.other_companies.insert(uuid.clone());
        uuid
    }

    pub(super) fn company_uuid(&self) -> &str {
        &self.company_uuid
    }

    pub(super) fn user(&self, username: &str) -> Option<&SimulatedUser> {
        self.users.get(username)
    }

    /// The user lives where the company lives.
    fn add_user(&mut self) -> SimulatedUser {
        let username = format!("{}@example.com", random(12));
        let user = SimulatedUser { uuid: uuid(), username, password: random(20) };
        let geolocation = self.geolocation(&self.company_uuid).to_owned();
        self.geolocations.insert(user.uuid.clone(), geolocation);
        self.users.insert(user.username.clone(), user.clone());
        user
    }

    pub(super) fn geolocation(&self, uuid: &str) -> &str {
        self.geolocations.get(uuid).map_or("", String::as_str)
    }

    /// False if there is no principal with this UUID.
    pub(super) fn relocate(&mut self, uuid: &str, geolocation: &str) -> bool {
        self.geolocations.get_mut(uuid).map(|old| geolocation.clone_into(old)).is_some()
    }
}

/// Companies and users.
impl ConcurSimulator {
    /// Adds a company, with a company request token for the first app, that lives where the first company lives.
    pub fn add_company(&self) -> SimulatedCompany {
        let uuid = self.server.concur().principals.add_company();
        let request_token = self.issue_request_token_for(&uuid);
        SimulatedCompany { uuid, request_token }
    }

    /// Issues a new company request token (24 hours, five uses) of the company with this UUID, for the first app. It is of no use if
    /// there is no such company.
    pub fn issue_request_token_for(&self, company_uuid: &str) -> String {
        let mut concur = self.server.concur();
        let (now, app_id) = (concur.clock.now(), concur.apps.first.id().to_owned());
        concur.tokens.issue_request_token(&app_id, company_uuid, now)
    }

    /// Adds a user of the company, with a made-up name and password, who lives where the company lives.
    pub fn add_user(&self) -> SimulatedUser {
        self.server.concur().principals.add_user()
    }
}
