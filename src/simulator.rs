//! A stateful SAP Concur on loopback, to test programs against that use this crate (feature `simulator`).
//!
//! It signs a company in, renews and rotates refresh tokens, lets tokens expire by a clock that your test moves,
//! counts the five uses of a request token, and goes wrong on demand. It knows one app and one company.
//!
//! ```
//! use std::time::{Duration, SystemTime};
//! use concur_auth::{MemoryStore, TokenManager, simulator::{ConcurSimulator, Fault, ManualClock}};
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), concur_auth::Error> {
//! let clock = ManualClock::new(SystemTime::now());
//! let concur = ConcurSimulator::builder().clock(clock.clone()).start().await;
//! let tokens = TokenManager::builder()
//!     .credentials(concur.credentials())
//!     .store(MemoryStore::new())
//!     .clock(clock.clone())
//!     .build()?;
//!
//! let first = tokens.access_token().await?;
//! clock.advance(Duration::from_secs(3600));
//! concur.fault_next(1, Fault::status(503));
//! assert!(tokens.access_token().await.unwrap_err().is_transient());
//! assert_ne!(tokens.access_token().await?.secret(), first.secret());
//! assert_eq!((concur.count("password"), concur.count("refresh_token")), (1, 2));
//! # Ok(()) }
//! ```

mod fault;
mod manual_clock;
mod recorded_request;
mod server;
mod state;

use std::{
    fmt,
    sync::{Arc, Mutex},
};

use wiremock::MockServer;

pub use self::{fault::Fault, manual_clock::ManualClock, recorded_request::RecordedRequest};
use self::{server::Shared, state::State};
use crate::{Clock, Credentials, SystemClock};

/// The simulated Concur. Its server ends when it is dropped.
///
/// See the [module's example](self).
pub struct ConcurSimulator {
    server: MockServer,
    shared: Shared,
}

/// What a refresh grant does to the refresh token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Rotation {
    /// The token stays the same, and its six months begin anew. What SAP's servers usually do.
    Never,
    /// Every refresh grant returns another token, and the one that was sent is dead.
    Always,
    /// As [`Always`](Self::Always); and when a dead token comes back, all that descend from its sign-in die.
    AlwaysAndRevokeFamily,
}

/// Settings of a [`ConcurSimulator`] before it starts.
#[derive(Debug)]
#[must_use]
pub struct ConcurSimulatorBuilder {
    clock: Arc<dyn Clock>,
    rotation: Rotation,
}

impl ConcurSimulatorBuilder {
    /// The clock that lifetimes are judged by. Default: the machine's own.
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// What a refresh grant does to the refresh token. Default: [`Rotation::Never`].
    pub fn rotation(mut self, rotation: Rotation) -> Self {
        self.rotation = rotation;
        self
    }

    /// Starts the server on a free port of the loopback address.
    pub async fn start(self) -> ConcurSimulator {
        let server = MockServer::builder().disable_request_recording().start().await;
        let state = State::new(self.clock, self.rotation, server.uri());
        let shared = Shared(Arc::new(Mutex::new(state)));
        shared.mount(&server).await;
        ConcurSimulator { server, shared }
    }
}

impl ConcurSimulator {
    /// A simulated Concur on the machine's clock, without rotation.
    pub async fn start() -> Self {
        Self::builder().start().await
    }

    /// A simulated Concur with other settings.
    pub fn builder() -> ConcurSimulatorBuilder {
        ConcurSimulatorBuilder {
            clock: Arc::new(SystemClock),
            rotation: Rotation::Never,
        }
    }

    /// Where it answers, without a slash at the end: `http://127.0.0.1:<port>`.
    #[must_use]
    pub fn base_uri(&self) -> String {
        self.server.uri()
    }

    /// The app's and the company's credentials, with the newest request token and this simulator's base URI.
    #[must_use]
    pub fn credentials(&self) -> Credentials {
        let state = self.shared.state();
        Credentials::new(&state.app_id, &state.client_secret)
            .company(&state.company_uuid, state.request_token().0)
            .base_uri(&state.base_uri)
    }

    /// The same as the text of a `credentials.json`.
    #[must_use]
    pub fn credentials_json(&self) -> String {
        self.shared.state().credentials_file()
    }

    /// The company's UUID.
    #[must_use]
    pub fn company_uuid(&self) -> String {
        self.shared.state().company_uuid.clone()
    }

    /// Creates a company request token, as an administrator does: 24 hours, five uses.
    pub fn issue_request_token(&self) -> String {
        self.shared.state().issue_request_token()
    }

    /// How many uses the newest request token has left.
    #[must_use]
    pub fn request_token_uses_left(&self) -> u32 {
        self.shared.state().request_token().1
    }

    /// A new refresh token object as SAP's Node.js sample stores it: the whole reply plus `companyUUID`, on one
    /// line. No request is counted and no use burnt.
    #[must_use]
    pub fn token_json(&self) -> String {
        self.shared.state().sample_file()
    }

    /// From now on refresh grants do this to the refresh token.
    pub fn set_rotation(&self, rotation: Rotation) {
        self.shared.state().rotation = rotation;
    }

    /// Every token request goes wrong like this until [`clear_faults`](Self::clear_faults).
    pub fn set_fault(&self, fault: Fault) {
        self.shared.state().faults.stand(fault);
    }

    /// The next `times` token requests go wrong like this, after those queued before.
    pub fn fault_next(&self, times: usize, fault: Fault) {
        self.shared.state().faults.queue(times, fault);
    }

    /// Nothing goes wrong any more.
    pub fn clear_faults(&self) {
        self.shared.state().faults.clear();
    }

    /// A member of every successful reply as your test wants it: JSON text, or `None` to leave it out.
    pub fn set_reply_member(&self, name: &str, json: Option<&str>) {
        self.shared
            .state()
            .overrides
            .insert(name.to_owned(), json.map(str::to_owned));
    }

    /// Revokes every refresh token there is.
    pub fn revoke(&self) {
        self.shared.state().revoke();
    }

    /// From now on APIs refuse the access tokens that there are, whatever their expiry.
    pub fn expire_access_tokens(&self) {
        self.shared.state().expire_access_tokens();
    }

    /// Whether a refresh grant with this token would work now.
    #[must_use]
    pub fn is_live(&self, refresh_token: &str) -> bool {
        self.shared.state().is_live(refresh_token)
    }

    /// Every request so far, in order.
    #[must_use]
    pub fn requests(&self) -> Vec<RecordedRequest> {
        self.shared.state().requests.clone()
    }

    /// How many token requests had this `grant_type`, whatever became of them.
    #[must_use]
    pub fn count(&self, grant_type: &str) -> usize {
        self.shared
            .state()
            .requests
            .iter()
            .filter(|request| request.grant_type() == Some(grant_type))
            .count()
    }

    /// How many token requests there were, whatever became of them.
    #[must_use]
    pub fn token_requests(&self) -> usize {
        self.shared
            .state()
            .requests
            .iter()
            .filter(|request| request.path() == "/oauth2/v0/token")
            .count()
    }
}

impl fmt::Debug for ConcurSimulator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConcurSimulator")
            .field("base_uri", &self.base_uri())
            .finish_non_exhaustive()
    }
}
