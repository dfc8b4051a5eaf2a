//! A stateful SAP Concur on loopback, to test programs against.
//!
//! It counts as Concur does: company request tokens live 24 hours and have five uses, access tokens live an hour,
//! refresh tokens six months, all by the [`Clock`] that the test gives it. It answers wrong requests with Concur's own
//! codes, makes the faults that networks and servers make, and records every request, so that a test can count
//! requests.
//!
//! ```
//! use concur_auth::{
//!     ErrorKind, Grant, OAuthClient, RefreshTokenObject,
//!     simulator::{ConcurSimulator, Fault},
//! };
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), concur_auth::Error> {
//! let concur = ConcurSimulator::start().await;
//! let stored = RefreshTokenObject::from_json(&concur.token_json())?;
//!
//! let (client, grant) = (OAuthClient::new(), Grant::refresh_token(stored.secret()));
//! let (base, app) = (concur.base_uri().parse()?, concur.credentials());
//! let renew = || client.request_token(&base, &app, &grant);
//!
//! concur.fault_next(1, Fault::status(503));
//! assert_eq!(renew().await.unwrap_err().kind(), ErrorKind::Unavailable);
//! assert_eq!(renew().await?.refresh_token_object()?.secret(), stored.secret());
//! assert_eq!(concur.count("refresh_token"), 2);
//! # Ok(()) }
//! ```
//!
//! Nothing in it takes time, so tests need no real delays: [`ConcurSimulator::hold_replies`] keeps requests under way
//! for as long as a test wants.
//!
//! It has one app, one company and one base URI. A test can add more:
//! [apps](ConcurSimulator::add_app), [companies](ConcurSimulator::add_company), [users](ConcurSimulator::add_user),
//! [data centres](ConcurSimulator::add_data_centre), [implementation sites](ConcurSimulator::add_implementation_site).
//!
//! # Endpoints
//!
//! | request | what it does |
//! |---|---|
//! | `POST /oauth2/v0/token` | grants tokens; see below |
//! | `POST /oauth2/v0/otp` | [mails](ConcurSimulator::mails) a one-time password to a user |
//! | `GET /oauth2/v0/authorize` | sends a browser back with an authorization code, once [a user is at it](ConcurSimulator::consent_as) |
//! | `DELETE /app-mgmt/v0/connections` | revokes all refresh tokens of the bearer's principal for the app; 401 without a live access token |
//! | `GET /profile/identity/v4/Users` | a list of one user, to try an access token on; 401 without a live one |
//! | what a test has [mounted](ConcurSimulator::mount) | the JSON that the test has given; 401 without a live access token |
//!
//! Everything else is 404, including `/oauth2/v0/jwks`: there is no key, and the signature of an `id_token` is made up.
//! The payload of an `id_token` lacks `concur.version` and `concur.profile`, whose values SAP's page does not show; nor
//! does it show the `concur.type` of a company, which is `company` here.
//!
//! [Faults](Fault) affect the first two and the `DELETE`, and [others](ConcurSimulator::fault_api) the last two. Browsers use the same base URI as programs: there is no
//! second host with `www-`.
//!
//! # Grants
//!
//! | `grant_type` | where it is accepted |
//! |---|---|
//! | `password`, `credtype=authtoken`: the company's UUID and a [company request token](ConcurSimulator::issue_request_token) | landing zone, geolocation |
//! | `password`, `credtype=password` or none: a user's name and password | geolocation |
//! | `refresh_token`, perhaps with a narrower `scope` | geolocation |
//! | `client_credentials`: no refresh token comes back | anywhere |
//! | `authorization_code`: `code`, `redirect_uri` | landing zone, geolocation |
//! | `otp`: `channel_handle`, `channel_type`, `otp`, perhaps a `scope`, and all that was sent to `/otp` | geolocation |
//!
//! # Codes
//!
//! | code | is the answer to |
//! |---|---|
//! | 5 | a wrong password; a company's UUID or request token that is unknown, expired or used up |
//! | 16 | a principal who lives elsewhere; with the `geolocation` to retry against |
//! | 51, 52, 62, 63, 65, 101, 102, 106 | nothing in `username`, `password`, `client_id`, `client_secret`, `grant_type`, `code`, `redirect_uri`, `refresh_token` |
//! | 54 | a `scope` that exceeds what was granted or [may be asked for](ConcurSimulatorBuilder::scopes) |
//! | 55, 80, 81 | an address that is no user's, a channel that is not `email`, a handle that is no address |
//! | 56, 57, 58 | nothing in `otp`, `channel_type`, `channel_handle` |
//! | 60 | an unknown `grant_type` |
//! | 61, 64 | an unknown app, its wrong secret |
//! | 82, 83, 84, 85 | too many one-time passwords open, none open, other facts than were sent to `/otp`, a wrong one |
//! | 100 | an unknown user name |
//! | 103, 104 | a code that is unknown, expired or used; another `redirect_uri` |
//! | 105, 136 | a code or refresh token, a company request token, of [another app](ConcurSimulator::add_app) |
//! | 108 | a refresh token that is unknown, expired, rotated away or revoked |
//! | 120 | another `credtype` |
//! | 135 | another content type, a charset, anything in the URL of a `POST`; for `/authorize`, another `response_type` than `code` or a `redirect_uri` that is not a URL |
//!
//! The rest of SAP's table cannot be provoked by a request: use [`Fault::code`] for the next request, or
//! [`refuse_app`](ConcurSimulator::refuse_app) (53, 59), [`refuse_grant_type`](ConcurSimulator::refuse_grant_type)
//! (60, 107) and [`refuse_principal`](ConcurSimulator::refuse_principal) (10 to 14, 123, 139 and so on) until further
//! notice. SAP does not say after how many wrong passwords an account is locked, nor how many requests are too many: here no account is
//! locked and no request is too many, unless the builder is told the numbers
//! ([`lock_after`](ConcurSimulatorBuilder::lock_after),
//! [`requests_per_minute`](ConcurSimulatorBuilder::requests_per_minute)).
//!
//! Where SAP's page does not say which code applies (5 or 100, 105 or 108, 135), the table above is this simulator's
//! choice. The order of checks, the lives of one-time passwords and authorization codes, and that access tokens work in
//! every data centre are its choice, too.
//!
//! # Other tools
//!
//! [`ManualClock`], which a test moves by hand; [`FlakyStore`], a store that fails when a test wants it to; and
//! [`store_contract`] and [`shared_store_contract`], which check a store of yours.

mod apis;
mod app_center;
mod apps;
mod authorize;
mod connections;
mod data_centres;
mod endpoints;
mod fault;
mod flaky_store;
mod form;
mod grants;
mod held_replies;
mod id_token;
mod limits;
mod made_up;
mod manual_clock;
mod otp;
mod principals;
mod recorded_request;
mod refusals;
mod reply;
mod server;
mod store_contract;
mod tokens;

use std::{
    fmt,
    net::{Ipv4Addr, TcpListener},
    sync::{Arc, Mutex},
};

use serde_json::{Value, json};

pub use self::{
    apps::SimulatedApp,
    fault::Fault,
    flaky_store::{FlakyStore, StoreCall},
    held_replies::HeldReplies,
    manual_clock::ManualClock,
    otp::Mail,
    principals::{SimulatedCompany, SimulatedUser},
    recorded_request::RecordedRequest,
    store_contract::{SharedLock, StoreCondition, shared_store_contract, store_contract},
    tokens::Rotation,
};
use self::{
    endpoints::{Concur, Settings},
    limits::Limits,
    server::Server,
    tokens::Connection,
};
use crate::{Clock, Credentials, SystemClock};

/// A simulated SAP Concur. It ends when it is dropped.
///
/// Each simulator makes up its own ids, secrets and tokens. See the example of the [module](self).
pub struct ConcurSimulator {
    server: Server,
    /// Further base URIs of the same Concur.
    other_servers: Mutex<Vec<Server>>,
}

impl ConcurSimulator {
    /// Starts a simulator on a free port, with the machine's clock and without rotation.
    ///
    /// # Panics
    ///
    /// When no port on loopback is free.
    pub async fn start() -> Self {
        Self::builder().start().await
    }

    /// A simulator with your own clock or rotation.
    #[must_use]
    pub fn builder() -> ConcurSimulatorBuilder {
        ConcurSimulatorBuilder {
            port: None,
            settings: Settings {
                clock: Arc::new(SystemClock),
                rotation: Rotation::Never,
                scopes: String::from("openid company.read user.read"),
                app: None,
                company: None,
                limits: Limits::default(),
            },
        }
    }

    /// `http://127.0.0.1:<port>`: the base URI of the global landing zone, which is a data centre as well. Unless a
    /// principal [was moved](Self::move_principal), it is the `geolocation` in replies.
    #[must_use]
    pub fn base_uri(&self) -> String {
        self.server.base_uri().to_owned()
    }

    /// The app, the company with its newest company request token, and the base URI.
    #[must_use]
    pub fn credentials(&self) -> Credentials {
        let concur = self.server.concur();
        Credentials::new(concur.apps.first.id(), concur.apps.first.secret())
            .company(concur.principals.company_uuid(), concur.apps.first.request_token())
            .base_uri(self.server.base_uri())
    }

    /// The same as the text of a `credentials.json`: the tutorial's six members, and `baseURI`.
    ///
    /// ```
    /// # use concur_auth::simulator::ConcurSimulator;
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> std::io::Result<()> {
    /// # let dir = tempfile::tempdir()?;
    /// let concur = ConcurSimulator::start().await;
    /// std::fs::write(dir.path().join("credentials.json"), concur.credentials_json())?;
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn credentials_json(&self) -> String {
        let concur = self.server.concur();
        let members = json!({
            "appID": concur.apps.first.id(),
            "clientSecret": concur.apps.first.secret(),
            "grantType": "password",
            "companyUUID": concur.principals.company_uuid(),
            "companyRequestToken": concur.apps.first.request_token(),
            "credentialType": "authtoken",
            "baseURI": self.server.base_uri(),
        });
        format!("{members:#}\n")
    }

    /// The UUID of the company.
    #[must_use]
    pub fn company_uuid(&self) -> String {
        self.server.concur().principals.company_uuid().to_owned()
    }

    /// Issues a new company request token (24 hours, five uses), which [`credentials`](Self::credentials) hold from now
    /// on. The earlier request tokens still work.
    pub fn issue_request_token(&self) -> String {
        let mut concur = self.server.concur();
        let now = concur.clock.now();
        concur.issue_request_token(now)
    }

    /// How many uses the newest company request token has left.
    #[must_use]
    pub fn request_token_uses_left(&self) -> u32 {
        let concur = self.server.concur();
        concur.tokens.request_token_uses_left(concur.apps.first.request_token())
    }

    /// The text of a `refreshTokenObjectFile.json` as SAP's sample leaves it after a sign-in: the reply on one
    /// line, and `companyUUID`.
    ///
    /// This sign-in is not recorded as a request and uses up no use.
    #[must_use]
    pub fn token_json(&self) -> String {
        let mut concur = self.server.concur();
        let now = concur.clock.now();
        let connection = Connection {
            app_id: concur.apps.first.id().to_owned(),
            principal: concur.principals.company_uuid().to_owned(),
            scope: concur.scopes.clone(),
        };
        let issued = concur.tokens.sign_in(connection, now);
        let mut object = concur.success(issued, self.server.base_uri(), now);
        object["companyUUID"] = concur.principals.company_uuid().into();
        object.to_string()
    }

    /// Every /token, /otp and connections request has this fault, until it is replaced or
    /// [cleared](Self::clear_faults).
    pub fn set_fault(&self, fault: Fault) {
        self.server.concur().faults.standing = Some(fault);
    }

    /// The next `n` /token, /otp and connections requests have this fault, after the faults that were queued before it.
    ///
    /// ```
    /// # use concur_auth::simulator::{ConcurSimulator, Fault};
    /// # async fn example(concur: ConcurSimulator) {
    /// concur.fault_next(2, Fault::status(503));
    /// concur.fault_next(1, Fault::DropConnection);
    /// // The fourth request gets the right answer.
    /// # }
    /// ```
    pub fn fault_next(&self, n: usize, fault: Fault) {
        self.fault_where(n, |_| true, fault);
    }

    /// The next `n` /token, /otp and connections requests of which this is true have this fault: those of one company, say, or one
    /// grant. `is_for` is asked for each request while no other request is answered: it must not call the simulator.
    ///
    /// ```
    /// # use concur_auth::simulator::{ConcurSimulator, Fault};
    /// # async fn example(concur: ConcurSimulator) {
    /// let company = concur.add_company();
    /// let of_company = move |request: &concur_auth::simulator::RecordedRequest| {
    ///     request.principal() == Some(company.uuid())
    /// };
    /// concur.fault_where(3, of_company, Fault::code(134)); // scheduled maintenance
    /// concur.fault_where(1, |request| request.grant_type() == Some("refresh_token"), Fault::DropReply);
    /// # }
    /// ```
    pub fn fault_where(
        &self,
        n: usize,
        is_for: impl Fn(&RecordedRequest) -> bool + Send + 'static,
        fault: Fault,
    ) {
        self.server.concur().faults.line_up(n, is_for, fault);
    }

    /// Ends every fault, those of API calls too, and removes every member set with [`set_reply_member`](Self::set_reply_member).
    pub fn clear_faults(&self) {
        let mut concur = self.server.concur();
        concur.faults.clear();
        concur.apis.faults.clear();
        concur.odd_members.clear();
    }

    /// Holds back the replies to /token requests and to revocations that arrive from now on, until the guard is released
    /// or dropped.
    ///
    /// The request is processed on arrival (a use is spent, a token rotated or revoked) and recorded; only its reply
    /// waits. So a test can wait until a request is under way, do its work, and then let the reply go, without a real
    /// delay:
    ///
    /// ```
    /// use concur_auth::{MemoryStore, TokenManager, simulator::ConcurSimulator};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), concur_auth::Error> {
    /// let concur = ConcurSimulator::start().await;
    /// let tokens =
    ///     TokenManager::builder().credentials(concur.credentials()).store(MemoryStore::new()).build()?;
    ///
    /// let held = concur.hold_replies();
    /// let caller = tokens.clone();
    /// let call = tokio::spawn(async move { caller.access_token().await });
    /// while concur.token_requests() == 0 {
    ///     tokio::task::yield_now().await;
    /// }
    /// call.abort(); // The caller gives up before the reply arrives.
    /// held.release();
    ///
    /// tokens.access_token().await?;
    /// assert_eq!(concur.token_requests(), 1, "the reply was not lost");
    /// # Ok(()) }
    /// ```
    ///
    /// Requests are served one at a time: while a reply is held back, later requests, API calls too, wait in line and
    /// are neither processed nor recorded. A guard does not hold replies to requests that arrived before it. So, to let
    /// replies go one by one, take the next guard before releasing the current guard. The guards of a dropped simulator
    /// hold nothing.
    pub fn hold_replies(&self) -> HeldReplies {
        self.server.hold_replies()
    }

    /// Sets what refresh grants do to refresh tokens from now on.
    pub fn set_rotation(&self, rotation: Rotation) {
        self.server.concur().tokens.rotation = rotation;
    }

    /// Successful /token replies have the JSON text `value` as their member `name`; with `None` they lack it.
    ///
    /// This lasts until [`clear_faults`](Self::clear_faults). Only replies change: an access token lives its hour,
    /// whatever `expires_in` says.
    ///
    /// ```
    /// # use concur_auth::simulator::ConcurSimulator;
    /// # async fn example(concur: ConcurSimulator) {
    /// concur.set_reply_member("expires_in", Some(r#""3600""#)); // a string, as Concur sometimes writes it
    /// concur.set_reply_member("id_token", None);
    /// # }
    /// ```
    ///
    /// # Panics
    ///
    /// When `value` is not JSON.
    #[track_caller]
    pub fn set_reply_member(&self, name: &str, value: Option<&str>) {
        let value = value.map(|text| match serde_json::from_str::<Value>(text) {
            Ok(value) => value,
            Err(e) => panic!("the value for the member {name} is not JSON: {e}"),
        });
        self.server.concur().odd_members.insert(name.to_owned(), value);
    }

    /// Revokes every refresh token: grants with them are refused with code 108.
    pub fn revoke(&self) {
        self.server.concur().tokens.revoke();
    }

    /// Ends every access token before its time: API calls with them answer 401.
    pub fn expire_access_tokens(&self) {
        self.server.concur().tokens.expire_access_tokens();
    }

    /// All requests so far, in the order of arrival.
    #[must_use]
    pub fn requests(&self) -> Vec<RecordedRequest> {
        self.server.concur().requests.clone()
    }

    /// How many /token requests named this grant type, with whatever result.
    #[must_use]
    pub fn count(&self, grant_type: &str) -> usize {
        self.count_where(|request| request.grant_type() == Some(grant_type))
    }

    /// How many /token requests there were, with whatever result.
    #[must_use]
    pub fn token_requests(&self) -> usize {
        self.count_where(|_| true)
    }

    fn count_where(&self, is_meant: impl Fn(&RecordedRequest) -> bool) -> usize {
        let concur = self.server.concur();
        concur.requests.iter().filter(|request| request.is_for_a_token() && is_meant(request)).count()
    }

    /// Whether a refresh grant with this refresh token would work now.
    #[must_use]
    pub fn is_live(&self, refresh_token: &str) -> bool {
        let concur = self.server.concur();
        concur.tokens.is_live(refresh_token, concur.clock.now())
    }
}

impl fmt::Debug for ConcurSimulator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConcurSimulator").field("base_uri", &self.base_uri()).finish_non_exhaustive()
    }
}

/// The settings of a [`ConcurSimulator`].
///
/// ```
/// use concur_auth::{simulator::{ConcurSimulator, ManualClock, Rotation}, time::OffsetDateTime};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let clock = ManualClock::new(OffsetDateTime::UNIX_EPOCH);
/// let builder = ConcurSimulator::builder().clock(clock.clone()).rotation(Rotation::Always);
/// let concur = builder.start().await;
/// # }
/// ```
pub struct ConcurSimulatorBuilder {
    port: Option<u16>,
    settings: Settings,
}

/// Shows no secret.
impl fmt::Debug for ConcurSimulatorBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConcurSimulatorBuilder").field("port", &self.port).finish_non_exhaustive()
    }
}

impl ConcurSimulatorBuilder {
    /// The clock for the expiry of tokens and the dates of replies.
    #[must_use]
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.settings.clock = Arc::new(clock);
        self
    }

    /// What refresh grants do to refresh tokens.
    #[must_use]
    pub fn rotation(mut self, rotation: Rotation) -> Self {
        self.settings.rotation = rotation;
        self
    }

    /// Listens on this port of 127.0.0.1. Default: a free one. A simulator that was dropped gives its port back a moment later.
    #[must_use]
    pub fn port(mut self, port: u16) -> Self {
        self.port = Some(port);
        self
    }

    /// The first app's `client_id` and `client_secret`. Default: made up.
    #[must_use]
    pub fn app(mut self, id: impl Into<String>, secret: impl Into<String>) -> Self {
        self.settings.app = Some((id.into(), secret.into()));
        self
    }

    /// The company's UUID and its first company request token. Default: made up.
    #[must_use]
    pub fn company(mut self, uuid: impl Into<String>, request_token: impl Into<String>) -> Self {
        self.settings.company = Some((uuid.into(), request_token.into()));
        self
    }

    /// Locks an account (code 14) after so many wrong passwords or company request tokens in a row, until
    /// [`end_refusals`](ConcurSimulator::end_refusals). Default: never; SAP does not say after how many.
    #[must_use]
    pub fn lock_after(mut self, wrong_attempts: u32) -> Self {
        self.settings.limits.wrong_attempts = Some(wrong_attempts);
        self
    }

    /// Answers more requests in a minute with 429 and `Retry-After`. Default: no limit; SAP publishes none.
    #[must_use]
    pub fn requests_per_minute(mut self, most: usize) -> Self {
        self.settings.limits.requests_per_minute = Some(most);
        self
    }

    /// The scopes that apps may ask for, separated by spaces. A request that names no scope gets all of them.
    #[must_use]
    pub fn scopes(mut self, scopes: &str) -> Self {
        scopes.clone_into(&mut self.settings.scopes);
        self
    }

    /// Starts the simulator.
    ///
    /// # Panics
    ///
    /// When the port, or every port on loopback, is taken.
    pub async fn start(self) -> ConcurSimulator {
        let Self { port, settings } = self;
        let listener = port.map(|port| match TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            Ok(listener) => listener,
            Err(e) => panic!("the simulator cannot listen on 127.0.0.1:{port}: {e}"),
        });
        let server = Server::start(listener, |base_uri| Concur::new(base_uri, settings)).await;
        ConcurSimulator { server, other_servers: Mutex::default() }
    }
}
