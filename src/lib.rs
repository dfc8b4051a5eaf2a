//! Keeps an SAP Concur integration signed in for ever: obtains, stores, renews and hands out OAuth2 tokens, and
//! never loses one.
//!
//! It replaces the script of SAP's "Tutorial 2: refresh token management automation", works on the same two
//! files, and does what that script does not: whatever the load, a missing token costs one request; a token is
//! saved before it is used; a crash, a full disk or two processes at once lose nothing.
//!
//! # Quick start
//!
//! ```no_run
//! use concur_auth::TokenManager;
//!
//! # async fn example(http: concur_auth::reqwest::Client) -> Result<(), Box<dyn std::error::Error>> {
//! let tokens = TokenManager::load().await?;               // ./credentials.json, ./refreshTokenObjectFile.json; no network
//! let refresh = tokens.get_valid_refresh_token().await?;  // the refresh token object, valid now
//! let access = tokens.access_token().await?;              // a bearer token, reused for its hour
//! let users = http.get(access.geolocation().join("profile/identity/v4/Users")?)
//!     .bearer_auth(access.secret()).send().await?;
//! # Ok(()) }
//! ```
//!
//! The first run writes a `credentials.json` to fill in, and its error says with what and from where.
//!
//! # The parts
//!
//! A [`TokenManager`] decides when a token is served, renewed or obtained. It is put together
//! ([`TokenManager::builder`]) of a [`TokenStore`] (where the [`RefreshTokenObject`] is kept:
//! [`JsonFileStore`], [`MemoryStore`], or your own in 15 lines), a [`CredentialSource`] ([`CredentialsFile`],
//! [`EnvCredentials`], a [`Credentials`] value, or your own), and an [`OAuthClient`]. None of these three knows
//! another. Time comes from a [`Clock`]. Every failure is an [`Error`]; its [`ErrorKind`] says who has to act.
//!
//! # The ways in, and the way out
//!
//! A company signs in with a company request token, by itself, as soon as a token is needed. Everybody else begins
//! elsewhere, and ends in a [`Grant`] for [`TokenManager::sign_in`], from where on all is the same:
//!
//! | who | begins with |
//! |---|---|
//! | a company in SAP's App Center | [`AppCenterRedirect`] |
//! | a user with a browser | [`AuthorizationRequest`] |
//! | a user with a mail | [`OneTimePasswordRequest`] |
//! | a user with name and password | [`Credentials::user`], [`Grant::user_password`] |
//! | the app by itself, without a refresh token | [`TokenManagerBuilder::build_for_app`] |
//!
//! [`TokenManager::revoke`] ends it.
//!
//! # Glossary
//!
//! | term | meaning |
//! |---|---|
//! | access token | the bearer token of API calls; lives an hour (RFC 6749 section 1.4) |
//! | authorization code | what a browser brings back from Concur; good once (RFC 6749 section 4.1) |
//! | company request token | what a company's administrator creates once; lives 24 hours, five uses at most |
//! | correlation id | the id that Concur gives to every request; SAP's support asks for it |
//! | flight | one renewal under way, which everybody who needs it waits for |
//! | geolocation | the base URI of the data centre that holds the principal's data |
//! | grant | what is exchanged for tokens at the token endpoint (RFC 6749 section 1.3) |
//! | one-time password | what Concur mails to a user who is to sign in; good once |
//! | principal | whom a token belongs to: a company or a user |
//! | refresh token | what new access tokens are had for; lives six months from its last use |
//! | refresh token object | the whole reply of the token endpoint, as the tutorial stores it |
//! | rehearsal | saving once more what is held, to know beforehand that a reply can be saved |
//!
//! # Features
//!
//! `simulator`: a stateful SAP Concur on loopback, for testing programs that use this crate.
//!
//! # What the log tells
//!
//! Through [`tracing`](https://docs.rs/tracing), under the target `concur_auth`; never a secret. Each renewal is a span
//! `renewal` (fields `need` and `store`) inside its caller's own; names and fields are promises. With
//! `RUST_LOG=concur_auth=debug`, one renewal whose first request met a busy server:
//!
//! ```text
//! DEBUG renewal{need="access_token" store="/var/lib/app/refreshTokenObjectFile.json"}: token request sent grant="refresh_token" host="us.api.concursolutions.com" attempt=1
//!  WARN renewal{…}: token request failed grant="refresh_token" host="…" attempt=1 status=503 correlation_id="b9eff11c-8129-5656-6196-2688ce930647" elapsed_ms=41 error=…
//!  INFO renewal{…}: token request to be repeated grant="refresh_token" attempt=1 pause_ms=2000 correlation_id="b9eff11c-8129-5656-6196-2688ce930647"
//! DEBUG renewal{…}: token request sent grant="refresh_token" host="…" attempt=2
//!  INFO renewal{…}: token request answered grant="refresh_token" host="…" attempt=2 status=200 correlation_id="1b266d37-a72e-e69e-961e-0519d242ec24" elapsed_ms=57
//!  INFO renewal{…}: renewal done origin=renewed unsaved=false
//! ```
//!
//! Further ones: `token request sent elsewhere` (`to`: code 16 or a redirect), `renewal failed` (`error`), and, in plain
//! words, what a store found or could not do. A failed request also has Concur's `code`. An [`OAuthClient`] by itself has no span. A subscriber that panics costs
//! no token.
//!
//! # What is wiped, and what cannot be
//!
//! The memory of tokens, secrets, request forms and reply bodies that this crate owns is wiped when it is
//! dropped. The buffers of the HTTP and TLS libraries below it cannot be, nor those in which the JSON parser undoes
//! escapes, nor the process's environment variables, nor what [`RefreshTokenObject::to_json`]
//! hands to you.
//!
//! # Windows
//!
//! Everything works there but file modes and the syncing of folders, which Windows does not have: keep the token
//! file in a folder that only its user may read.

#![doc = ""]
#![doc = include_str!("../docs/protocol.md")]
#![forbid(unsafe_code)]
#![warn(clippy::unwrap_used, clippy::expect_used)]

mod access_token;
mod app_center;
mod backoff;
mod caught;
mod claims;
mod clock;
mod code;
mod credential_source;
mod credentials;
mod error;
mod files;
mod geolocation;
mod log;
mod manager;
mod members;
mod oauth_client;
mod principal;
mod random;
mod refresh_token_object;
mod refusal;
mod returned_query;
mod runtime;
mod secret;
#[cfg(test)]
mod seed;
#[cfg(feature = "simulator")]
pub mod simulator;
mod status;
mod store;

pub use reqwest;
pub use time;
pub use url;

pub use self::{
    access_token::AccessToken,
    app_center::AppCenterRedirect,
    claims::UnverifiedClaims,
    clock::{Clock, SystemClock},
    code::{ConcurCode, Responsible},
    credential_source::{CredentialSource, CredentialsFile, EnvCredentials},
    credentials::Credentials,
    error::{Error, ErrorKind},
    geolocation::Geolocation,
    manager::{AppTokens, KeepAlive, StatusSubscription, TokenManager, TokenManagerBuilder},
    oauth_client::{
        AuthorizationRequest, AuthorizationReturn, Grant, OAuthClient, OneTimePasswordRequest, TokenReply,
    },
    refresh_token_object::RefreshTokenObject,
    refusal::Refusal,
    status::{Status, TokenOrigin},
    store::{JsonFileStore, MemoryStore, StoreLock, TokenStore},
};

/// The README's code compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
