//! A stateful SAP Concur on loopback, to test programs against.
//!
//! It keeps account as Concur does: company request tokens live 24 hours and have five uses, access tokens live
//! an hour, refresh tokens six months; each by the [`Clock`] it was given. It answers wrong
//! requests with Concur's own codes, makes the faults that a network and a server make, and remembers every
//! request, so that a test can count them.
//!
//! ```
//! use concur_auth::{ErrorKind, Grant, OAuthClient, RefreshTokenObject, simulator::{ConcurSimulator, Fault}};
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), concur_auth::Error> {
//! let concur = ConcurSimulator::start().await;
//! let stored = RefreshTokenObject::from_json(&concur.token_json())?;
//!
//! let (client, grant) = (OAuthClient::new(), Grant::refresh_token(stored.secret()));
//! let renew = || async { client.request_token(&concur.base_uri().parse()?, &concur.credentials(), &grant).await };
//!
//! concur.fault_next(1, Fault::status(503).retry_after("7"));
//! assert_eq!(renew().await.unwrap_err().kind(), ErrorKind::Unavailable);
//! assert_eq!(renew().await?.refresh_token_object()?.secret(), stored.secret());
//! assert_eq!(concur.count("refresh_token"), 2);
//! # Ok(()) }
//! ```
//!
//! Nothing in it takes time, so a test need not wait for any either: [`ConcurSimulator::hold_replies`] keeps requests
//! under way for as long as the test likes.
//!
//! It serves two endpoints, `POST /oauth2/v0/token` and, to try an access token on,
//! `GET /profile/identity/v4/Users`. Everything else is 404.
//!
//! Beside it: [`ManualClock`], which a test moves by hand, and [`store_contract`], which checks a store of yours.

mod endpoints;
mod fault;
mod held_replies;
mod manual_clock;
mod recorded_request;
mod reply;
mod server;
mod store_contract;
mod tokens;

use std::{fmt, sync::Arc};

use serde_json::{Value, json};

use self::{endpoints::Concur, server::Server, tokens::Tokens};
pub use self::{
    fault::Fault,
    held_replies::HeldReplies,
    manual_clock::ManualClock,
    recorded_request::RecordedRequest,
    store_contract::{StoreCondition, store_contract},
    tokens::Rotation,
};
use crate::{Clock, Credentials, SystemClock};

/// A simulated SAP Concur with one app and one company. It ends when it is dropped.
///
/// The app's id and secret, the company's UUID and all tokens are made up anew for each. The example at the
/// [module](self) shows it at work.
pub struct ConcurSimulator {
    server: Server,
}

impl ConcurSimulator {
    /// A simulator on a free port, with the machine's clock and without rotation.
    ///
    /// # Panics
    ///
    /// When no port on loopback can be had.
    pub async fn start() -> Self {
        Self::builder().start().await
    }

    /// A simulator with a clock or a rotation of your own.
    #[must_use]
    pub fn builder() -> ConcurSimulatorBuilder {
        ConcurSimulatorBuilder { clock: Arc::new(SystemClock), rotation: Rotation::Never }
    }

    /// `http://127.0.0.1:<port>`: the base URI, and the `geolocation` in replies.
    #[must_use]
    pub fn base_uri(&self) -> String {
        self.server.concur().base_uri.clone()
    }

    /// The app, the company with its newest company request token, and the base URI.
    #[must_use]
    pub fn credentials(&self) -> Credentials {
        let concur = self.server.concur();
        Credentials::new(&concur.app_id, &concur.client_secret)
            .company(&concur.company_uuid, concur.tokens.newest_request_token())
            .base_uri(&concur.base_uri)
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
            "appID": concur.app_id,
            "clientSecret": concur.client_secret,
            "grantType": "password",
            "companyUUID": concur.company_uuid,
            "companyRequestToken": concur.tokens.newest_request_token(),
            "credentialType": "authtoken",
            "baseURI": concur.base_uri,
        });
        format!("{members:#}\n")
    }

    /// The UUID of the company.
    #[must_use]
    pub fn company_uuid(&self) -> String {
        self.server.concur().company_uuid.clone()
    }

    /// Issues a new company request token (24 hours, five uses): from now on that of
    /// [`credentials`](Self::credentials). The earlier ones stay good.
    pub fn issue_request_token(&self) -> String {
        let mut concur = self.server.concur();
        let now = concur.clock.now();
        concur.tokens.issue_request_token(now)
    }

    /// How many uses the newest company request token has left.
    #[must_use]
    pub fn request_token_uses_left(&self) -> u32 {
        self.server.concur().tokens.request_token_uses_left()
    }

    /// The text of a `refreshTokenObjectFile.json` as SAP's sample leaves it after a sign-in: the reply on one
    /// line, and `companyUUID`.
    ///
    /// The sign-in happens behind the scenes: it is no request and burns no use.
    #[must_use]
    pub fn token_json(&self) -> String {
        let mut concur = self.server.concur();
        let now = concur.clock.now();
        let issued = concur.tokens.sign_in(now);
        let mut object = concur.success(issued);
        object["companyUUID"] = concur.company_uuid.as_str().into();
        object.to_string()
    }

    /// Every /token request has this fault, until it is replaced or [cleared](Self::clear_faults).
    pub fn set_fault(&self, fault: Fault) {
        self.server.concur().faults.standing = Some(fault);
    }

    /// The next `n` /token requests have this fault, after those that were given one in the same way.
    ///
    /// ```
    /// # use concur_auth::simulator::{ConcurSimulator, Fault};
    /// # async fn example(concur: ConcurSimulator) {
    /// concur.fault_next(2, Fault::status(503));
    /// concur.fault_next(1, Fault::DropConnection);
    /// // The fourth is answered as it should be.
    /// # }
    /// ```
    pub fn fault_next(&self, n: usize, fault: Fault) {
        self.server.concur().faults.line_up(n, fault);
    }

    /// Ends every fault and whatever [`set_reply_member`](Self::set_reply_member) has set.
    pub fn clear_faults(&self) {
        let mut concur = self.server.concur();
        concur.faults.clear();
        concur.odd_members.clear();
    }

    /// Holds back the replies to /token requests that arrive from now on, until the guard is released or dropped.
    ///
    /// The grant is processed on arrival (a use is burnt, a token rotated) and the request recorded; only its reply
    /// waits. So a test can wait for a request to be under way, do what it is about, and then let the reply go, all
    /// without a delay in real time:
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
    /// let call = tokio::spawn({ let tokens = tokens.clone(); async move { tokens.access_token().await } });
    /// while concur.token_requests() == 0 {
    ///     tokio::task::yield_now().await;
    /// }
    /// call.abort(); // The caller gives up, with the reply on its way.
    /// held.release();
    ///
    /// tokens.access_token().await?;
    /// assert_eq!(concur.token_requests(), 1, "the reply was not lost");
    /// # Ok(()) }
    /// ```
    ///
    /// Requests are served one at a time: while a reply is held back, those that come after it, API calls too, wait
    /// in line and are neither processed nor recorded. A guard holds no reply to a request that arrived before it;
    /// so, to let replies go one by one, take the next guard before releasing the one that is held. The guards of a
    /// simulator that has been dropped hold nothing.
    pub fn hold_replies(&self) -> HeldReplies {
        self.server.hold_replies()
    }

    /// What refresh grants do to refresh tokens from now on.
    pub fn set_rotation(&self, rotation: Rotation) {
        self.server.concur().tokens.rotation = rotation;
    }

    /// Successful /token replies have the JSON text `value` as their member `name`; with `None` they lack it.
    ///
    /// It lasts until [`clear_faults`](Self::clear_faults). Only replies change: an access token lives its hour,
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

    /// Every request so far, in the order of arrival.
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

/// What a [`ConcurSimulator`] can be started with.
///
/// ```
/// use concur_auth::{simulator::{ConcurSimulator, ManualClock, Rotation}, time::OffsetDateTime};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let clock = ManualClock::new(OffsetDateTime::UNIX_EPOCH);
/// let concur = ConcurSimulator::builder().clock(clock.clone()).rotation(Rotation::Always).start().await;
/// # }
/// ```
#[derive(Debug)]
pub struct ConcurSimulatorBuilder {
    clock: Arc<dyn Clock>,
    rotation: Rotation,
}

impl ConcurSimulatorBuilder {
    /// The clock that tokens expire by, and that replies are dated by.
    #[must_use]
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// What refresh grants do to refresh tokens.
    #[must_use]
    pub fn rotation(mut self, rotation: Rotation) -> Self {
        self.rotation = rotation;
        self
    }

    /// Starts the simulator on a free port.
    ///
    /// # Panics
    ///
    /// When no port on loopback can be had.
    pub async fn start(self) -> ConcurSimulator {
        let Self { clock, rotation } = self;
        let server = Server::start(|base_uri| Concur::new(base_uri, clock, Tokens::new(rotation))).await;
        ConcurSimulator { server }
    }
}
