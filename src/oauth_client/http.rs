//! The HTTP clients below: one for https, one for loopback, each built for its first request.

use std::{
    mem,
    sync::{Mutex, OnceLock, PoisonError},
    time::Duration,
};

use reqwest::{redirect, retry, tls};

use crate::{Error, ErrorKind, Geolocation};

/// The most that one request may take, its reply included.
pub(super) const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

pub(super) struct Http {
    settings: Mutex<Settings>,
    secure: OnceLock<reqwest::Client>,
    loopback: OnceLock<reqwest::Client>,
}

/// What the client for https is to be built of.
enum Settings {
    Ours,
    Given(Box<reqwest::ClientBuilder>),
    /// Given, and found unusable. They can be tried only once.
    Unusable(Error),
}

impl Http {
    pub(super) fn ours() -> Self {
        Self::with(Settings::Ours)
    }

    pub(super) fn given(settings: reqwest::ClientBuilder) -> Self {
        Self::with(Settings::Given(Box::new(settings)))
    }

    fn with(settings: Settings) -> Self {
        Self { settings: Mutex::new(settings), secure: OnceLock::new(), loopback: OnceLock::new() }
    }

    /// Plain http is for loopback only, where no proxy and no certificate has a place.
    pub(super) fn client(&self, base: &Geolocation) -> Result<&reqwest::Client, Error> {
        let slot = if base.is_plain() { &self.loopback } else { &self.secure };
        if let Some(client) = slot.get() {
            return Ok(client);
        }
        let mut settings = self.settings.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = slot.get() {
            return Ok(client);
        }
        let client = if base.is_plain() {
            build(reqwest::Client::builder().no_proxy().tls_certs_only([]))?
        } else {
            match mem::replace(&mut *settings, Settings::Ours) {
                // What is wrong may pass, such as too many open files: the next request tries again.
                Settings::Ours => build(reqwest::Client::builder())?,
                Settings::Given(given) => build(*given).inspect_err(|e| {
                    *settings = Settings::Unusable(e.clone());
                })?,
                Settings::Unusable(e) => {
                    *settings = Settings::Unusable(e.clone());
                    return Err(e);
                }
            }
        };
        Ok(slot.get_or_init(|| client))
    }
}

fn build(settings: reqwest::ClientBuilder) -> Result<reqwest::Client, Error> {
    settings
        .user_agent(concat!("concur-auth/", env!("CARGO_PKG_VERSION")))
        .redirect(redirect::Policy::none())
        // A grant that was sent may have been spent; whether to repeat it is decided elsewhere.
        .retry(retry::never())
        .referer(false)
        .tls_version_min(tls::Version::TLS_1_2)
        .connect_timeout(CONNECT_TIMEOUT)
        .timeout(REQUEST_TIMEOUT)
        .build()
        .map_err(|e| {
            Error::new(
                ErrorKind::Config,
                "could not build the HTTP client; check the settings given to http_client and this machine's \
                 certificates",
            )
            .caused_by(e.without_url())
        })
}
