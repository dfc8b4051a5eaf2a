//! How a manager is put together. Nothing here does I/O.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use url::Host;

use super::{AppTokens, TokenManager, core::Core};
use crate::{
    Clock, CredentialSource, CredentialsFile, Error, ErrorKind, Geolocation, JsonFileStore, MemoryStore,
    OAuthClient, SystemClock, TokenStore, clock::Guarded, credential_source::DynCredentialSource,
    store::DynTokenStore,
};

/// Puts a [`TokenManager`] together; every part has a default.
///
/// ```
/// use concur_auth::{EnvCredentials, MemoryStore, TokenManager};
///
/// let tokens = TokenManager::builder()
///     .credentials(EnvCredentials)
///     .store(MemoryStore::new())
///     .base_uri("https://us.api.concursolutions.com")
///     .build()?;
/// # Ok::<(), concur_auth::Error>(())
/// ```
#[derive(Debug)]
#[must_use]
pub struct TokenManagerBuilder {
    store: Option<Box<dyn DynTokenStore>>,
    credentials: Option<Box<dyn DynCredentialSource>>,
    base_uri: Option<String>,
    trusted_hosts: Vec<String>,
    http_client: Option<reqwest::ClientBuilder>,
    oauth_client: Option<OAuthClient>,
    clock: Arc<dyn Clock>,
    policy: Policy,
}

/// The knobs.
#[derive(Clone, Debug)]
pub(super) struct Policy {
    pub(super) refresh_token_margin: Duration,
    pub(super) lock_timeout: Duration,
}

impl TokenManagerBuilder {
    pub(super) fn new() -> Self {
        Self {
            store: None,
            credentials: None,
            base_uri: None,
            trusted_hosts: Vec::new(),
            http_client: None,
            oauth_client: None,
            clock: Arc::new(SystemClock),
            policy: Policy {
                refresh_token_margin: Duration::from_secs(30 * 24 * 3600),
                lock_timeout: Duration::from_secs(60),
            },
        }
    }

    /// Where tokens are kept. Default: [`JsonFileStore`] on `./refreshTokenObjectFile.json`.
    pub fn store(mut self, store: impl TokenStore) -> Self {
        self.store = Some(Box::new(store));
        self
    }

    /// Where credentials come from. Default: [`CredentialsFile`] on `./credentials.json`.
    pub fn credentials(mut self, source: impl CredentialSource) -> Self {
        self.credentials = Some(Box::new(source));
        self
    }

    /// The base URI to sign in at. Default: the credentials' own, else the variable `CONCUR_BASE_URI`, else the
    /// global landing zone `https://glz.api.concursolutions.com`. Fixed at first use.
    ///
    /// Later calls go to the geolocation that Concur's replies name.
    pub fn base_uri(mut self, uri: impl Into<String>) -> Self {
        self.base_uri = Some(uri.into());
        self
    }

    /// Trusts one more host, such as a gateway of your own, with secrets: over https, on any port. A name or an IP
    /// address, without scheme, port and path.
    pub fn trust_host(mut self, host: impl Into<String>) -> Self {
        self.trusted_hosts.push(host.into());
        self
    }

    /// The HTTP settings to use: proxy, certificates, addresses. Redirects, retries, TLS version and time-outs
    /// are set by this crate. The client is built at the first request.
    pub fn http_client(mut self, settings: reqwest::ClientBuilder) -> Self {
        self.http_client = Some(settings);
        self
    }

    /// A client that other managers use too: all share one pool of connections.
    pub fn oauth_client(mut self, client: OAuthClient) -> Self {
        self.oauth_client = Some(client);
        self
    }

    /// Where the time comes from. Default: [`SystemClock`].
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(Guarded(clock));
        self
    }

    /// How long before its expiry a refresh token is renewed. Default: 30 days.
    pub fn refresh_token_margin(mut self, margin: Duration) -> Self {
        self.policy.refresh_token_margin = margin;
        self
    }

    /// How long to wait for the store's lock while another process renews. Default: 60 seconds.
    pub fn lock_timeout(mut self, timeout: Duration) -> Self {
        self.policy.lock_timeout = timeout;
        self
    }

    /// Not a manager but the access tokens of the app by itself, which come without a refresh token; see [`AppTokens`].
    ///
    /// A store has no part in it, nor have the knobs for refresh tokens and the lock.
    ///
    /// # Errors
    ///
    /// As [`build`](Self::build).
    pub fn build_for_app(self) -> Result<AppTokens, Error> {
        Ok(AppTokens::new(self.store(MemoryStore::new()).build()?.0))
    }

    /// The manager. Nothing is read, sent or started yet.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Untrusted`] when the base URI is not one that may receive secrets; [`ErrorKind::Config`] when it is
    /// no URL, when `trust_host` was given something else than a host, or when both `http_client` and `oauth_client`
    /// were given.
    pub fn build(self) -> Result<TokenManager, Error> {
        let trusted_hosts: Arc<[String]> =
            self.trusted_hosts.iter().map(|host| host_name(host)).collect::<Result<_, _>>()?;
        let client = match (self.oauth_client, self.http_client) {
            (Some(_), Some(_)) => {
                return Err(Error::new(
                    ErrorKind::Config,
                    "both http_client and oauth_client were given; give the HTTP settings to \
                     OAuthClient::with_http_client instead",
                ));
            }
            (Some(client), None) => client,
            (None, Some(settings)) => OAuthClient::with_http_client(settings),
            (None, None) => OAuthClient::new(),
        };
        let base = match self.base_uri {
            Some(uri) => {
                Some(Geolocation::configured(&uri, "given to the builder", Arc::clone(&trusted_hosts))?)
            }
            None => None,
        };
        Ok(TokenManager(Arc::new(Core {
            store: self.store.unwrap_or_else(|| Box::new(JsonFileStore::new(super::TOKEN_FILE))),
            source: self
                .credentials
                .unwrap_or_else(|| Box::new(CredentialsFile::new(super::CREDENTIALS_FILE))),
            client,
            clock: self.clock,
            policy: self.policy,
            base,
            trusted_hosts,
            identity: OnceLock::new(),
            memory: Default::default(),
            flights: Default::default(),
            unsaved: Default::default(),
            revoked: Default::default(),
            subscribers: OnceLock::new(),
        })))
    }
}

/// As a URL spells it.
fn host_name(host: &str) -> Result<String, Error> {
    let parsed = match host.parse() {
        Ok(ip) => Ok(Host::Ipv6(ip)),
        Err(_) => Host::parse(host),
    };
    let named = parsed.map(|host| host.to_string());
    named.map_err(|e| {
        let message = format!(
            "trust_host(\"{host}\") does not name a host; give a name or an IP address, without scheme, port and path"
        );
        Error::new(ErrorKind::Config, message).caused_by(e)
    })
}
