//! How a manager is put together. Always: nothing here does I/O.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use url::Host;

use super::{
    AppTokens, TokenManager,
    app_tokens::App,
    cache::TokenCache,
    core::{Core, Policy},
    identity::Identification,
    locked_store::LockedStore,
    observer::Observer,
};
use crate::{
    Clock, CredentialSource, CredentialsFile, Error, ErrorKind, JsonFileStore, OAuthClient, SystemClock,
    TokenStore,
    clock::Guarded,
    credential_source::DynCredentialSource,
    machine::{Machine, Threads},
    random::Random,
    store::DynTokenStore,
};

/// Builds a [`TokenManager`]; every part has a default.
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
    store: Option<Arc<dyn DynTokenStore>>,
    credentials: Option<Box<dyn DynCredentialSource>>,
    base_uri: Option<String>,
    trusted_hosts: Vec<String>,
    http_client: Option<reqwest::ClientBuilder>,
    oauth_client: Option<OAuthClient>,
    machine: Machine,
    policy: Policy,
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
            machine: Machine {
                clock: Arc::new(SystemClock),
                random: Arc::new(Random::System),
                executor: Arc::new(Threads),
            },
            policy: Policy {
                refresh_token_margin: None,
                lock_timeout: Duration::from_secs(120),
                is_in_a_fleet: false,
            },
        }
    }

    /// Where tokens are kept. Default: [`JsonFileStore`] on `./refreshTokenObjectFile.json`.
    pub fn store(mut self, store: impl TokenStore) -> Self {
        self.store = Some(Arc::new(store));
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

    /// Allows secrets to be sent to one more host, such as your own gateway: over https, on any port. Give a name or an
    /// IP address, without scheme, port, path and wildcard; name each host by itself.
    pub fn trust_host(mut self, host: impl Into<String>) -> Self {
        self.trusted_hosts.push(host.into());
        self
    }

    /// The HTTP settings to use: proxy, certificates, addresses. Redirects, retries, TLS version and time-outs
    /// are set by this crate. The client is built at the first request.
    ///
    /// In a build without the features `rustls` and `rustls-no-provider`, nothing is sent over https without these settings, and
    /// the TLS version is theirs, too.
    ///
    /// ```
    /// use concur_auth::{TokenManager, reqwest};
    ///
    /// let proxy = reqwest::Proxy::https("http://proxy.example:3128")?;
    /// let builder = TokenManager::builder().http_client(reqwest::Client::builder().proxy(proxy));
    /// # Ok::<(), reqwest::Error>(())
    /// ```
    pub fn http_client(mut self, settings: reqwest::ClientBuilder) -> Self {
        self.http_client = Some(settings);
        self
    }

    /// A client that other managers use, too: all of them share one pool of connections.
    pub fn oauth_client(mut self, client: OAuthClient) -> Self {
        self.oauth_client = Some(client);
        self
    }

    /// The clock. Default: [`SystemClock`].
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.machine.clock = Arc::new(Guarded(clock));
        self
    }

    /// Another machine than this one, with a clock of its own.
    #[cfg(test)]
    pub(super) fn machine(mut self, machine: Machine) -> Self {
        self.machine = machine;
        self
    }

    /// How long before its expiry a refresh token is renewed. Default: once a third of its life has passed since the last
    /// grant, which leaves 120 of SAP's 180 days. A program that calls only
    /// [`get_valid_refresh_token`](TokenManager::get_valid_refresh_token) must run at shorter intervals than this.
    pub fn refresh_token_margin(mut self, margin: Duration) -> Self {
        self.policy.refresh_token_margin = Some(margin);
        self
    }

    /// How long to wait for the store's lock while another process renews. Default: 120 seconds, which is longer than
    /// a renewal can take (91 seconds and the store's own time).
    pub fn lock_timeout(mut self, timeout: Duration) -> Self {
        self.policy.lock_timeout = timeout;
        self
    }

    /// Builds the source of access tokens for the app itself, which has no refresh token; see [`AppTokens`].
    ///
    /// The store and the settings for refresh tokens and the lock are not used.
    ///
    /// # Errors
    ///
    /// As [`build`](Self::build).
    pub fn build_for_app(self) -> Result<AppTokens, Error> {
        let Parts { source, blueprint, .. } = self.parts()?;
        let Blueprint { identification, client, machine, .. } = blueprint;
        Ok(AppTokens::new(App {
            source,
            identification,
            client,
            machine,
            gate: Default::default(),
            flights: Default::default(),
            held: Default::default(),
        }))
    }

    /// Builds the manager. Reads, sends and starts nothing.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Untrusted`] when the base URI must not receive secrets; [`ErrorKind::Config`] when it is not a URL,
    /// when `trust_host` was not given a host, or when both `http_client` and `oauth_client` were given.
    pub fn build(self) -> Result<TokenManager, Error> {
        let Parts { source, store, blueprint } = self.parts()?;
        let store = store.unwrap_or_else(|| Arc::new(JsonFileStore::new(super::TOKEN_FILE)));
        Ok(blueprint.manager(source, store, None))
    }

    /// What the managers of a fleet have in common. The store and the credentials are each manager's own.
    pub(crate) fn blueprint(self) -> Result<Blueprint, Error> {
        let mut blueprint = self.parts()?.blueprint;
        blueprint.policy.is_in_a_fleet = true;
        Ok(blueprint)
    }

    fn parts(self) -> Result<Parts, Error> {
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
        let source = self.credentials;
        Ok(Parts {
            source: source.unwrap_or_else(|| Box::new(CredentialsFile::new(super::CREDENTIALS_FILE))),
            store: self.store,
            blueprint: Blueprint {
                identification: Identification::new(self.base_uri.as_deref(), trusted_hosts)?,
                client,
                machine: self.machine,
                policy: self.policy,
            },
        })
    }
}

/// What managers have in common that are made alike.
pub(crate) struct Blueprint {
    identification: Identification,
    pub(crate) client: OAuthClient,
    pub(crate) machine: Machine,
    policy: Policy,
}

impl Blueprint {
    pub(crate) fn manager(
        &self,
        source: Box<dyn DynCredentialSource>,
        store: Arc<dyn DynTokenStore>,
        observer: Option<Box<dyn Observer>>,
    ) -> TokenManager {
        let machine = self.machine.clone();
        TokenManager(Arc::new(Core {
            source,
            identification: self.identification.unused(),
            client: self.client.clone(),
            policy: self.policy.clone(),
            cache: TokenCache::new(LockedStore::new(store, Arc::clone(&machine.executor))),
            machine,
            gate: Default::default(),
            flights: Default::default(),
            schedule: Default::default(),
            subscribers: OnceLock::new(),
            observer,
        }))
    }
}

/// What both kinds of manager are put together of, and what only one of them needs.
struct Parts {
    source: Box<dyn DynCredentialSource>,
    store: Option<Arc<dyn DynTokenStore>>,
    blueprint: Blueprint,
}

/// As a URL spells it.
fn host_name(host: &str) -> Result<String, Error> {
    let parsed = match host.parse() {
        Ok(ip) => Ok(Host::Ipv6(ip)),
        Err(_) => Host::parse(host),
    };
    let error = || {
        let message = format!(
            "trust_host(\"{host}\") does not name a host; give one name or IP address, such as gateway.example.com, \
             without scheme, port, path and wildcard"
        );
        Error::new(ErrorKind::Config, message)
    };
    let named = parsed.map_err(|e| error().caused_by(e))?.to_string();
    // The URL standard also takes names that no server has.
    let is_name = |label: &str| {
        !label.is_empty() && !label.contains(['*', '!', '$', '&', '(', ')', ',', ';', '=', '+'])
    };
    if named.starts_with('[') || named.split('.').all(is_name) { Ok(named) } else { Err(error()) }
}
