//! The HTTP clients below: one for https, one for loopback, each built for its first request.

use std::{
    mem,
    sync::{Mutex, OnceLock},
    time::Duration,
};

use reqwest::{redirect, retry, tls};

use crate::{Error, ErrorKind, Geolocation, caught::locked};

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
    /// Given and tried, which can be done once.
    Spent,
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
        let mut settings = locked(&self.settings);
        if let Some(client) = slot.get() {
            return Ok(client);
        }
        let client = if base.is_plain() {
            build(reqwest::Client::builder().no_proxy().tls_certs_only([]))
        } else {
            match &mut *settings {
                Settings::Ours => build(reqwest::Client::builder()),
                Settings::Given(given) => {
                    let given = mem::take(&mut **given);
                    *settings = Settings::Spent;
                    build(given)
                }
                Settings::Spent => return Err(spent()),
            }
        };
        client.map(|client| slot.get_or_init(|| client)).map_err(|e| match *settings {
            Settings::Spent => spent().caused_by(e.without_url()),
            // It may pass, as a lack of memory or of open files does: the next request tries again.
            _ => Error::new(
                ErrorKind::Unavailable,
                "could not build the HTTP client; check this machine's certificates, and this process's limits on \
                 memory and open files",
            )
            .caused_by(e.without_url()),
        })
    }
}

fn build(settings: reqwest::ClientBuilder) -> Result<reqwest::Client, reqwest::Error> {
    settings
        .user_agent(concat!("concur-auth/", env!("CARGO_PKG_VERSION")))
        .redirect(redirect::Policy::none())
        // A grant that was sent may have been spent; whether to repeat it is decided elsewhere.
        .retry(retry::never())
        .referer(false)
        // Also where another crate has switched them on: a small reply can unpack to a large one.
        .no_gzip()
        .no_brotli()
        .no_deflate()
        .no_zstd()
        .tls_version_min(tls::Version::TLS_1_2)
        .connect_timeout(CONNECT_TIMEOUT)
        .timeout(REQUEST_TIMEOUT)
        .build()
}

fn spent() -> Error {
    Error::new(
        ErrorKind::Config,
        "no HTTP client could be built of the settings given to http_client; check them, this machine's certificates, \
         and this process's limits on open files, then start the program again",
    )
}
