//! How a fleet is put together. Always: nothing here does I/O.

use std::{sync::Arc, time::Duration};

use tokio::sync::{Semaphore, watch};

use super::{Fleet, Inner, events::Events, managers::Managers};
use crate::{
    AppCredentials, Clock, Error, ErrorKind, FleetStore, FolderFleet, OAuthClient, TokenManager,
    TokenManagerBuilder, sealing::SealingKeys, store::DynFleetStore,
};

/// Where tokens are kept, unless the program says otherwise.
const FOLDER: &str = "tokens";
/// As many flights as this crate has threads for.
const MOST_AT_ONCE: usize = 64;

/// Builds a [`Fleet`]; every part has a default.
///
/// ```
/// use concur_auth::{AppCredentials, Fleet, FolderFleet};
///
/// let fleet = Fleet::builder()
///     .app(AppCredentials::new("the app's id", "its secret"))
///     .store(FolderFleet::new("/var/lib/my-app/tokens"))
///     .max_concurrent(64)
///     .max_requests_per_second(20.0)
///     .build()?;
/// # Ok::<(), concur_auth::Error>(())
/// ```
#[derive(Debug)]
#[must_use]
pub struct FleetBuilder {
    app: Option<AppCredentials>,
    store: Option<Box<dyn DynFleetStore>>,
    keys: Option<SealingKeys>,
    managers: TokenManagerBuilder,
    client: Option<OAuthClient>,
    concurrent: usize,
    per_second: Option<f64>,
    margin: Option<Duration>,
}

impl FleetBuilder {
    pub(super) fn new() -> Self {
        Self {
            app: None,
            store: None,
            keys: None,
            managers: TokenManager::builder(),
            client: None,
            concurrent: MOST_AT_ONCE,
            per_second: None,
            margin: None,
        }
    }

    /// The app for which the members are signed in. Default: [`AppCredentials::from_env`].
    pub fn app(mut self, app: AppCredentials) -> Self {
        self.app = Some(app);
        self
    }

    /// Where the tokens are kept. Default: [`FolderFleet`] on `./tokens`.
    pub fn store(mut self, store: impl FleetStore) -> Self {
        self.store = Some(Box::new(store));
        self
    }

    /// Seals the tokens where they are kept. Tokens that are not sealed are read, and sealed at their next save. Feature `sealing`.
    ///
    /// ```no_run
    /// use concur_auth::{Fleet, SealingKeys};
    ///
    /// let fleet = Fleet::builder().sealed_with(SealingKeys::from_env()?).build()?;
    /// # Ok::<(), concur_auth::Error>(())
    /// ```
    #[cfg(feature = "sealing")]
    pub fn sealed_with(mut self, keys: SealingKeys) -> Self {
        self.keys = Some(keys);
        self
    }

    /// How many renewals, and how many requests to one host, run at once. Default: 64, which is also the most; 0 counts as 1.
    pub fn max_concurrent(mut self, most: usize) -> Self {
        self.concurrent = most.clamp(1, MOST_AT_ONCE);
        self
    }

    /// How many requests this process sends in a second. Default: no limit. See [`OAuthClient::max_requests_per_second`].
    pub fn max_requests_per_second(mut self, most: f64) -> Self {
        self.per_second = Some(most);
        self
    }

    /// How long before its expiry a refresh token is due, where that is earlier than the store's own time for it. Default: the store's
    /// time, which leaves 120 to 140 of SAP's 180 days.
    ///
    /// For [`Fleet::keep_alive`] and [`Fleet::renew_due`] of this fleet: other processes may have another margin, or none. Within a day
    /// of its last grant, or of the last change of its row in PostgreSQL, a token is not due for the margin, so that a margin
    /// longer than a token's life does not renew it without end. Nor is it before the pause is over that follows a failure.
    ///
    /// ```no_run
    /// use std::time::Duration;
    ///
    /// use concur_auth::Fleet;
    ///
    /// // Each token once a month.
    /// let fleet = Fleet::builder().refresh_token_margin(Duration::from_secs(150 * 24 * 3600)).build()?;
    /// # Ok::<(), concur_auth::Error>(())
    /// ```
    pub fn refresh_token_margin(mut self, margin: Duration) -> Self {
        self.margin = Some(margin);
        self
    }

    /// As [`TokenManagerBuilder::base_uri`].
    pub fn base_uri(mut self, uri: impl Into<String>) -> Self {
        self.managers = self.managers.base_uri(uri);
        self
    }

    /// As [`TokenManagerBuilder::trust_host`].
    pub fn trust_host(mut self, host: impl Into<String>) -> Self {
        self.managers = self.managers.trust_host(host);
        self
    }

    /// As [`TokenManagerBuilder::http_client`].
    pub fn http_client(mut self, settings: reqwest::ClientBuilder) -> Self {
        self.client = Some(OAuthClient::with_http_client(settings));
        self
    }

    /// As [`TokenManagerBuilder::clock`].
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.managers = self.managers.clock(clock);
        self
    }

    /// As [`TokenManagerBuilder::lock_timeout`].
    pub fn lock_timeout(mut self, timeout: Duration) -> Self {
        self.managers = self.managers.lock_timeout(timeout);
        self
    }

    /// Builds the fleet. Reads, sends and starts nothing.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::CredentialsNeeded`] when the app's id or secret is blank; [`ErrorKind::Config`] when
    /// `max_requests_per_second` was given something that is no positive number, or there is a margin, or sealing keys, for a
    /// store that does not take any; and as [`TokenManagerBuilder::build`].
    pub fn build(self) -> Result<Fleet, Error> {
        let app = self.app.map_or_else(AppCredentials::from_env, Ok)?;
        app.check()?;
        let mut client = self.client.unwrap_or_default().max_concurrent_requests(self.concurrent);
        if let Some(most) = self.per_second {
            if !(most.is_finite() && most > 0.0) {
                let message =
                    format!("max_requests_per_second({most}) is no positive number; pass one, such as 20.0");
                return Err(Error::new(ErrorKind::Config, message));
            }
            client = client.max_requests_per_second(most);
        }
        let mut store = self.store.unwrap_or_else(|| Box::new(FolderFleet::new(FOLDER)));
        if let Some(margin) = self.margin {
            store.refresh_token_margin(margin)?;
        }
        #[cfg(feature = "sealing")]
        if let Some(keys) = &self.keys {
            store.seal_with(keys.clone())?;
        }
        Ok(Fleet(Arc::new(Inner {
            app,
            store: store.into(),
            blueprint: self.managers.oauth_client(client).blueprint()?,
            concurrent: self.concurrent,
            per_second: self.per_second,
            keys: self.keys,
            managers: Managers::new(),
            events: Events::new(),
            slots: Arc::new(Semaphore::new(self.concurrent)),
            stop: watch::Sender::new(()),
        })))
    }
}
