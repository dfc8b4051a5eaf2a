//! Decides when a token is served, renewed or obtained: the only part that knows all the others.
//!
//! Always: a missing or expiring token costs one request whatever the load; a token from Concur is saved before
//! anybody sees it; building and loading start, send and build nothing.

mod builder;
mod decision;
mod flight;
mod memory;
mod renewal;
mod unsaved;

use std::{
    fmt,
    future::{Future, poll_fn},
    path::Path,
    pin::pin,
    sync::{Arc, OnceLock},
    task::Poll,
    time::Duration,
};

pub use self::builder::TokenManagerBuilder;
use self::{
    builder::Policy,
    decision::{Calm, Decision, Window, decide},
    flight::{Flights, Join, Landing, Need},
    memory::{Held, Memory},
    unsaved::Unsaved,
};
use crate::{
    AccessToken, Clock, Credentials, CredentialsFile, Error, ErrorKind, Geolocation, JsonFileStore,
    OAuthClient, RefreshTokenObject, Status, credential_source::DynCredentialSource, store::DynTokenStore,
};

/// The names that SAP's tutorial uses.
const CREDENTIALS_FILE: &str = "credentials.json";
const TOKEN_FILE: &str = "refreshTokenObjectFile.json";

/// Keeps one principal signed in: obtains, stores, renews and hands out its tokens.
///
/// Cheap to clone; clones share everything. Any number of managers and processes may work on one store.
///
/// ```no_run
/// use concur_auth::TokenManager;
///
/// # async fn example() -> Result<(), concur_auth::Error> {
/// let tokens = TokenManager::load().await?;
/// let refresh = tokens.get_valid_refresh_token().await?;
/// let access = tokens.access_token().await?;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct TokenManager(Arc<Core>);

struct Core {
    store: Box<dyn DynTokenStore>,
    source: Box<dyn DynCredentialSource>,
    client: OAuthClient,
    clock: Arc<dyn Clock>,
    policy: Policy,
    base: Option<Geolocation>,
    trusted_hosts: Arc<[String]>,
    identity: OnceLock<Identity>,
    memory: Memory,
    flights: Flights,
    unsaved: Unsaved,
}

/// What the credentials said at first use.
struct Identity {
    base: Geolocation,
    company_uuid: Option<String>,
}

impl TokenManager {
    /// A manager on the tutorial's two files in the current folder: `credentials.json` and
    /// `refreshTokenObjectFile.json`. No network, and no HTTP client yet.
    ///
    /// # Errors
    ///
    /// As [`load_from`](Self::load_from).
    pub async fn load() -> Result<Self, Error> {
        Self::load_from(".").await
    }

    /// A manager on the tutorial's two files in the folder `dir`. No network, and no HTTP client yet.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::CredentialsNeeded`] when `credentials.json` was missing (a template is there now) or lacks the
    /// app's id or secret; [`ErrorKind::CredentialsInvalid`] when it cannot be used; [`ErrorKind::Untrusted`] when
    /// the base URI it names is not Concur's.
    pub async fn load_from(dir: impl AsRef<Path>) -> Result<Self, Error> {
        let dir = dir.as_ref();
        let manager = Self::builder()
            .credentials(CredentialsFile::new(dir.join(CREDENTIALS_FILE)))
            .store(JsonFileStore::new(dir.join(TOKEN_FILE)))
            .build()?;
        let credentials = manager.0.source.credentials().await?;
        manager.0.identify(&credentials)?;
        Ok(manager)
    }

    /// A manager of parts of your choice.
    pub fn builder() -> TokenManagerBuilder {
        TokenManagerBuilder::new()
    }

    /// The refresh token object, valid now and saved.
    ///
    /// Looks at the store on every call, so that what a sibling process has replaced is never handed out. A valid
    /// token costs no request; one in its last 30 days is renewed, and a missing or expired one obtained with the
    /// company request token.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::CredentialsNeeded`] when a token has to be obtained and the company's part of the credentials
    /// is blank; [`ErrorKind::ReauthorizationRequired`] when a person must create a new company request token;
    /// [`ErrorKind::Store`] when the store cannot be read, locked or could not save a reply (nothing was sent
    /// then); [`ErrorKind::Config`] when the stored token is another company's; and what
    /// [`OAuthClient::request_token`] returns.
    pub async fn get_valid_refresh_token(&self) -> Result<RefreshTokenObject, Error> {
        self.0.refresh_token().await
    }

    /// A bearer token for API calls, valid now.
    ///
    /// Served from memory while it lasts: no lock, no allocation, no waiting. In its last five minutes the first
    /// caller renews it while the others are still served; in its last minute all wait for that.
    ///
    /// # Errors
    ///
    /// As [`get_valid_refresh_token`](Self::get_valid_refresh_token); while the held token is valid, a renewal
    /// that fails for a passing reason is not an error.
    pub async fn access_token(&self) -> Result<AccessToken, Error> {
        match self.0.memory.fresh_access(self.0.clock.now()) {
            Some(token) => Ok(token),
            // Boxed, so that the future of the warm path stays small.
            None => Box::pin(self.0.access_token()).await,
        }
    }

    /// Renews the tokens now, whatever is held, and returns the new refresh token object.
    ///
    /// Callers at the same time share one grant: each gets the result of one that was sent after its call.
    ///
    /// # Errors
    ///
    /// As [`get_valid_refresh_token`](Self::get_valid_refresh_token).
    pub async fn refresh(&self) -> Result<RefreshTokenObject, Error> {
        let first = self.0.flights.next_number();
        loop {
            match self.0.fly(Need::Grant, Join::Since(first)).await {
                Some(Landing::Done(landed)) if landed.fresh => return Ok(landed.held.object.clone()),
                Some(Landing::Failed(e) | Landing::Faulty(e)) => return Err(e),
                _ => {}
            }
        }
    }

    /// Says that an API refused this access token (HTTP 401): it is not handed out by this manager again.
    ///
    /// Does nothing if it is no longer the current one. The next call of [`access_token`](Self::access_token)
    /// takes another from the store, or renews.
    pub fn invalidate(&self, token: &AccessToken) {
        self.0.memory.reject(token);
    }

    /// What this manager knows about its tokens, without any secret. Reads memory only.
    #[must_use]
    pub fn status(&self) -> Status {
        let mut status = self.0.memory.held().map_or_else(Status::default, |held| Status::from(&*held));
        status.last_error = self.0.memory.last_error();
        status
    }

    /// Waits for a renewal under way and for a token that could not be saved yet, for `deadline` at most.
    ///
    /// Never needed while the disk works: returning from `main` waits for a renewal by itself. The manager can be
    /// used afterwards.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Store`] when the deadline has passed and the newest refresh token is still in memory only, or
    /// the renewal has not ended.
    pub async fn shutdown(&self, deadline: Duration) -> Result<(), Error> {
        let mut last = None;
        let all_saved = async {
            self.0.flights.until_landed().await;
            while let Err(e) = self.0.save_what_is_unsaved().await {
                last = Some(e);
                self.0.clock.sleep(Duration::from_millis(100)).await;
            }
        };
        let in_time = before(self.0.clock.sleep(deadline), all_saved).await;
        match (in_time, last) {
            (true, _) => Ok(()),
            (false, Some(e)) => Err(Error::store(
                format!(
                    "the newest refresh token is still not saved to {}, and ends with this process; make room \
                     there, then call shutdown again",
                    self.0.store.describe()
                ),
                e,
            )),
            (false, None) => Err(Error::new(
                ErrorKind::Store,
                format!(
                    "a renewal for {} has not come to its end; call shutdown again",
                    self.0.store.describe()
                ),
            )),
        }
    }
}

/// Runs `work` until `deadline`; whether it came to its end.
async fn before(deadline: impl Future<Output = ()>, work: impl Future<Output = ()>) -> bool {
    let (mut deadline, mut work) = (pin!(deadline), pin!(work));
    poll_fn(|context| {
        if work.as_mut().poll(context).is_ready() {
            Poll::Ready(true)
        } else {
            deadline.as_mut().poll(context).map(|()| false)
        }
    })
    .await
}

impl Core {
    async fn refresh_token(self: &Arc<Self>) -> Result<RefreshTokenObject, Error> {
        loop {
            // Before the first flight nobody knows whose token is wanted, and the flight looks at the store itself.
            let identity = self.identity.get();
            let stored = match identity {
                Some(identity) => self.look(identity.company_uuid.as_deref(), identity).await?,
                None => None,
            };
            let now = self.clock.now();
            let decision = stored
                .as_ref()
                .map_or(Decision::Wait, |held| self.decide_refresh(&held.object, self.memory.calm(now)));
            let landing = self.act(decision, Need::RefreshToken).await;
            let held = if identity.is_some() { stored } else { self.memory.held() };
            let served = held.filter(|held| self.refresh_window(&held.object).is_valid(now));
            match (landing, served) {
                (Some(Landing::Done(landed)), _) if landed.fresh => return Ok(landed.held.object.clone()),
                // What the flight found is in the store now: look again.
                (Some(Landing::Done(_)), _) => {}
                (Some(Landing::Faulty(e)), _) => return Err(e),
                (Some(Landing::Failed(e)), served) => {
                    return served.filter(|_| is_passing(&e)).map(|held| held.object.clone()).ok_or(e);
                }
                (None | Some(Landing::Busy), Some(held)) => return Ok(held.object.clone()),
                (None | Some(Landing::Busy), None) => {}
            }
        }
    }

    async fn access_token(self: &Arc<Self>) -> Result<AccessToken, Error> {
        loop {
            let now = self.clock.now();
            let held = self.memory.held();
            let access = held.as_ref().and_then(|held| held.access.as_ref());
            let decision =
                access.map_or(Decision::Wait, |access| decide(&access.window, now, self.memory.calm(now)));
            let landing = self.act(decision, Need::AccessToken).await;
            let served = self.memory.held().and_then(|held| held.live_access(self.clock.now()));
            match (landing, served) {
                (Some(Landing::Done(landed)), _) => {
                    let access = landed.held.access.as_ref();
                    let access = access.filter(|access| landed.fresh || access.window.is_valid(now));
                    if let Some(access) = access {
                        return Ok(access.token.clone());
                    }
                }
                (Some(Landing::Faulty(e)), _) => return Err(e),
                (Some(Landing::Failed(e)), served) => return served.filter(|_| is_passing(&e)).ok_or(e),
                (None | Some(Landing::Busy), Some(token)) => return Ok(token),
                (None | Some(Landing::Busy), None) => {}
            }
        }
    }

    /// `None` if no flight was needed, or somebody else is on one that the caller need not wait for.
    async fn act(self: &Arc<Self>, decision: Decision, need: Need) -> Option<Landing> {
        match decision {
            Decision::Serve => None,
            Decision::Carry => self.fly(need, Join::Never).await,
            Decision::Wait => self.fly(need, Join::Any).await,
        }
    }

    /// Fixes, at first use, what the credentials say about base URI and company.
    fn identify(&self, credentials: &Credentials) -> Result<&Identity, Error> {
        if let Some(identity) = self.identity.get() {
            return Ok(identity);
        }
        let base = match (&self.base, credentials.own_base_uri(), std::env::var("CONCUR_BASE_URI")) {
            (Some(base), ..) => base.clone(),
            (None, Some(uri), _) => self.configured(uri)?,
            (None, None, Ok(uri)) if !uri.trim().is_empty() => self.configured(&uri)?,
            (None, None, _) => self.configured(Geolocation::GLZ)?,
        };
        let company_uuid = credentials.company_uuid().map(str::to_owned);
        Ok(self.identity.get_or_init(|| Identity { base, company_uuid }))
    }

    fn configured(&self, uri: &str) -> Result<Geolocation, Error> {
        Geolocation::configured(uri, Arc::clone(&self.trusted_hosts))
    }

    /// What is stored, which also becomes what is held; a token that could not be saved yet comes before both.
    async fn look(
        &self,
        company_uuid: Option<&str>,
        identity: &Identity,
    ) -> Result<Option<Arc<Held>>, Error> {
        let before = self.memory.held();
        if before.as_ref().is_some_and(|held| held.unsaved) {
            return Ok(before);
        }
        let Some(object) = self.store.load().await? else {
            return Ok(None);
        };
        if let (Some(ours), Some(theirs)) = (company_uuid, object.company_uuid())
            && !ours.eq_ignore_ascii_case(theirs)
        {
            return Err(Error::new(
                ErrorKind::Config,
                format!(
                    "the token in {} belongs to company {theirs}, but the credentials name company {ours}; use \
                     another place for this company's token, or move that one away",
                    self.store.describe()
                ),
            ));
        }
        if before.as_ref().is_some_and(|held| held.object.is_same_reply(&object)) {
            return Ok(before);
        }
        let held = Held::new(object, crate::TokenOrigin::Stored, &identity.base, before.as_deref());
        Ok(Some(self.memory.publish_after(&before, held)))
    }

    /// Whether what is held makes a flight needless.
    fn satisfies(&self, need: Need, held: &Held) -> bool {
        match need {
            Need::RefreshToken => self.decide_refresh(&held.object, Calm::Calm) == Decision::Serve,
            Need::AccessToken => held.access.as_ref().is_some_and(|access| {
                decide(&access.window, self.clock.now(), Calm::Calm) == Decision::Serve
            }),
            Need::Grant => false,
        }
    }

    /// Whether whoever needs this can be served from memory while somebody else renews.
    fn can_do_without(&self, need: Need) -> bool {
        let now = self.clock.now();
        self.memory.held().is_some_and(|held| match need {
            Need::RefreshToken => self.refresh_window(&held.object).is_valid(now),
            Need::AccessToken => held.live_access(now).is_some(),
            Need::Grant => false,
        })
    }

    fn decide_refresh(&self, object: &RefreshTokenObject, calm: Calm) -> Decision {
        let now = self.clock.now();
        match decide(&self.refresh_window(object), now, calm) {
            // The last grant was less than an access token's life ago: a server that does not extend the refresh
            // token must not be asked on every call.
            Decision::Carry if object.access().is_some_and(|access| now < access.expires_at) => {
                Decision::Serve
            }
            decision => decision,
        }
    }

    fn refresh_window(&self, object: &RefreshTokenObject) -> Window {
        Window::of_refresh(object.expiry(), self.policy.refresh_token_margin)
    }
}

/// Whether a valid token may be served in spite of the error: nothing is gained by telling a caller who can go
/// on, unless a person has to act.
fn is_passing(e: &Error) -> bool {
    !matches!(e.kind(), ErrorKind::ReauthorizationRequired | ErrorKind::Refused | ErrorKind::Untrusted)
}

impl fmt::Debug for TokenManager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenManager")
            .field("store", &self.0.store.describe())
            .field("status", &self.status())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Core {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Core").finish_non_exhaustive()
    }
}
