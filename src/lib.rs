//! Keeps an SAP Concur integration signed in, permanently and without manual work: obtains, stores, renews and hands
//! out OAuth2 tokens.
//!
//! It replaces the script of SAP's "Tutorial 2: refresh token management automation" and works on the same two files.
//! However many tasks ask, a missing token costs one request. A token is saved before it is used. Two processes never
//! lose a token, a full disk is noticed before a request is sent, and a crash can lose only the reply of the request under way.
//!
//! # Quick start
//!
//! ```no_run
//! use concur_auth::TokenManager;
//!
//! # async fn example(http: concur_auth::reqwest::Client) -> Result<(), Box<dyn std::error::Error>> {
//! // Uses ./credentials.json and ./refreshTokenObjectFile.json; no network.
//! let tokens = TokenManager::load().await?;
//! // The refresh token object, valid now.
//! let refresh = tokens.get_valid_refresh_token().await?;
//! // A bearer token, reused for its hour.
//! let access = tokens.access_token().await?;
//! // An API call with that token, repeated with another one after a 401.
//! let users = tokens
//!     .send(|access| http.get(format!("{}profile/identity/v4/Users", access.geolocation().as_str())))
//!     .await?;
//! # Ok(()) }
//! ```
//!
//! The first run writes a `credentials.json` template; its error says what to fill in, and where to find it.
//!
//! How often a program must run to stay signed in: at least once in a refresh token's life, which is SAP's six months, if
//! it calls [`TokenManager::access_token`]. If it calls only [`TokenManager::get_valid_refresh_token`], which renews once a
//! third of that life has passed: at equal intervals shorter than that life, or with no pause longer than two thirds of it
//! (120 days). A program that stays running with [`TokenManager::keep_alive`] renews by itself.
//!
//! The module [`guides`] has a page for each thing that a program does with this crate, and says what always holds
//! ([`guides::promises`]) and where SAP says so ([`guides::protocol`]).
//!
//! # The parts
//!
//! A [`TokenManager`] decides when a token is served, renewed or obtained. [`TokenManager::builder`] makes it from
//! three parts: a [`TokenStore`] keeps the [`RefreshTokenObject`] ([`JsonFileStore`], [`MemoryStore`], or your own in
//! 15 lines), a [`CredentialSource`] supplies the [`Credentials`] ([`CredentialsFile`], [`EnvCredentials`], a
//! [`Credentials`] value, or your own), and an [`OAuthClient`] sends the requests. None of the three knows another. A
//! [`Clock`] supplies the time. Every failure is an [`Error`]; its [`ErrorKind`] says who has to act.
//!
//! A [`Fleet`] keeps many companies and users of one app signed in. It gives each its [`TokenManager`], and knows from a
//! [`FleetStore`] who they are and whose token is due: [`FolderFleet`] on one machine, `PostgresFleet` (feature `postgres`) on
//! many.
//!
//! # Other ways to sign in, and signing out
//!
//! A company with a company request token needs no call, nor does a user whose name and password are in the credentials: the
//! manager signs them in as soon as a token is needed. Every other sign-in of a company or user starts somewhere else and ends
//! with a [`Grant`] for [`TokenManager::sign_in`]. After that everything works the same.
//!
//! | who | starts with |
//! |---|---|
//! | a company in SAP's App Center | [`AppCenterRedirect`] |
//! | a user with a browser | [`AuthorizationRequest`] |
//! | a user with an e-mailed one-time password | [`OneTimePasswordRequest`] |
//! | a user with name and password | [`Credentials::user`], [`Grant::user_password`] |
//! | the app itself, without a refresh token | [`TokenManagerBuilder::build_for_app`] |
//!
//! [`TokenManager::revoke`] signs out.
//!
//! # Glossary
//!
//! | term | meaning |
//! |---|---|
//! | access token | the bearer token of API calls; lives an hour (RFC 6749 section 1.4) |
//! | advisory window | the time before a token's expiry in which one caller renews it and the others are served |
//! | authorization code | what a browser brings back from Concur; good once (RFC 6749 section 4.1) |
//! | back-off | the pause after a failed renewal, in which no renewal is tried; a valid token is served meanwhile |
//! | code | the number in Concur's error reply, such as 108; see [`ConcurCode`] |
//! | company request token | created by a company's administrator; lives 24 hours, five uses at most |
//! | cool-down | the time in which a refused request is not sent again |
//! | correlation id | the id that Concur gives to every request; SAP's support asks for it |
//! | due | the time has come to renew a refresh token of a fleet |
//! | fleet | the companies and users of one app, kept signed in together |
//! | flight | one renewal under way; every caller who needs its result waits for it |
//! | geolocation | the base URI of the data centre that holds the principal's data |
//! | grant | what is exchanged for tokens at the token endpoint (RFC 6749 section 1.3) |
//! | `id_token` | the part of a reply that says who owns the tokens; this crate does not verify its signature |
//! | landing zone | `https://glz.api.concursolutions.com`, where a sign-in starts by default |
//! | lease | a lock that ends by itself after a time, wherever its holder may be |
//! | mandatory window | the last part of the advisory window, in which all callers wait for the renewal |
//! | member | a company or user of a fleet |
//! | one-time password | what Concur e-mails to a user who wants to sign in; good once |
//! | pending name | under which a fleet keeps a token until it is known who has signed in |
//! | principal | the owner of a token: a company or a user |
//! | refresh token | exchanged for new access tokens; lives six months from its last use |
//! | refresh token object | the whole reply of the token endpoint, as the tutorial stores it |
//! | refusal | Concur's permanent "no" to a grant; it is remembered until its cool-down has passed |
//! | rehearsal | saving the current token once more before a request, to check that the reply can be saved |
//! | rotation | Concur's answer to a refresh grant may hold a new refresh token that ends the old one |
//! | sibling | another process or manager that works on the same store |
//! | turn | the right of a request to be under way; at one host, a client gives out 64 at once |
//!
//! # Features
//!
//! | feature | what it adds |
//! |---|---|
//! | `cli` | the program `concur-auth`, for shells and other languages; nothing for the library |
//! | `metrics` | counts for operators, through the facade of the crate [`metrics`](https://docs.rs/metrics); see below |
//! | `postgres` | tokens in PostgreSQL, for programs on several machines: `PostgresStore`, `PostgresFleet` |
//! | `sealing` | tokens are ciphertext where they are kept: `SealingKeys` |
//! | `rustls` (default) | TLS by rustls with aws-lc-rs |
//! | `rustls-no-provider` | TLS by rustls with the cryptography that the program installs: see [`connections`](guides::connections) |
//! | `simulator` | a stateful SAP Concur on loopback, for testing programs that use this crate |
//! | `tower` | a valid bearer token for each request of any client that is a tower service: `BearerLayer` |
//!
//! # What is counted
//!
//! With the feature `metrics`, for the recorder that the program installs. No label names a company or user.
//!
//! | name | type | labels |
//! |---|---|---|
//! | `concur_auth_renewals_total` | counter | `need` as in the log; `outcome`: `renewed`, `found` (another process was faster), `busy`, `signed_out`, `held_back` (nothing was sent, because of the failure before), `failed`; `kind` of a failure, as in [`ErrorKind`] |
//! | `concur_auth_renewal_seconds` | histogram | `outcome`: `renewed` or `failed` |
//! | `concur_auth_unsaved_tokens` | gauge | – |
//! | `concur_auth_leases_taken_over_total` | counter, of locks that the previous holder did not give back | – |
//! | `concur_auth_members` | gauge, as of the last [`Fleet::health`] | `state`: `active`, `needs_reauthorization`, `signed_out` |
//! | `concur_auth_soonest_expiry_timestamp_seconds` | gauge, as of the last [`Fleet::health`] | – |
//!
//! # What the log says
//!
//! Events go through [`tracing`](https://docs.rs/tracing), under the target `concur_auth`, and never hold a secret.
//! Each renewal is a span `renewal` (fields `need` and `store`) inside its caller's own span. The names of span, events
//! and fields are stable. This is one renewal whose first request met a busy server, with `RUST_LOG=concur_auth=debug`,
//! each event wrapped:
//!
//! ```text
//! DEBUG renewal{need="access_token" store="/var/lib/app/refreshTokenObjectFile.json"}:
//!       token request sent grant="refresh_token" host="us.api.concursolutions.com" attempt=1
//!  WARN renewal{…}: token request failed grant="refresh_token" host="…" attempt=1 status=503
//!       correlation_id="b9eff11c-8129-5656-6196-2688ce930647" elapsed_ms=41 error=… cause=…
//!  INFO renewal{…}: token request to be repeated grant="refresh_token" attempt=1 pause_ms=2000
//!       correlation_id="b9eff11c-8129-5656-6196-2688ce930647"
//! DEBUG renewal{…}: token request sent grant="refresh_token" host="…" attempt=2
//!  INFO renewal{…}: token request answered grant="refresh_token" host="…" attempt=2 status=200
//!       correlation_id="1b266d37-a72e-e69e-961e-0519d242ec24" elapsed_ms=57
//!  INFO renewal{…}: renewal done origin=renewed unsaved=false
//! ```
//!
//! Other events: `token request sent elsewhere` (`to`: code 16 or a redirect), `renewal failed` (`error`), `renewal held
//! back` (`error`: nothing was sent, because of the failure before it), and messages from the stores. Where an error has
//! causes, its event also has the field `cause`, which names them all: an unknown name, a refused connection, a full disk.
//! A host that only Concur named is shown if it consists of known words, such as `us2`. A failed request also has Concur's
//! `code`. An [`OAuthClient`] used without a manager has no span. A subscriber that panics costs no token.
//!
//! # What is wiped, and what cannot be
//!
//! The memory of tokens, secrets, request forms and reply bodies that this crate owns is wiped when it is dropped.
//! `SECURITY.md` lists what is not, such as the buffers of other libraries and what [`RefreshTokenObject::to_json`] returns to
//! you.
//!
//! # Windows
//!
//! Everything works there except file modes and the syncing of folders, which Windows does not have: keep the token
//! file in a folder that only its user may read.

#![doc = ""]
#![doc = include_str!("../docs/weight.md")]
// On docs.rs each item says which feature it needs.
#![cfg_attr(docsrs, feature(doc_cfg))]
#![warn(clippy::unwrap_used, clippy::expect_used)]

// Every module uses only modules below it in this list; tests/floors.rs checks that.

// Many companies and users: a manager for each, and one task for all.
mod fleet;

// One API call with a bearer token.
mod api_call;

// The decisions: serve, renew or obtain.
mod manager;

// A sign-in that starts in SAP's App Center.
mod app_center;

// The three parts that a manager works with. None of them knows another.
mod credential_source;
mod oauth_client;
mod store;

// Plain values, from the richest to the poorest.
mod failed_requests; // what must not be sent again too soon
mod dead_tokens; // what no request can be made from
mod credentials;
mod principal; // the owner of a token
mod sealing; // the text in which a token is kept
mod refresh_token_object;
mod access_token;
mod claims; // what an `id_token` says
mod geolocation;
mod status;

// Tools that fail with an `Error`.
mod machine; // the time, chance and threads, handed in
mod measured; // what is counted for operators
mod keeper; // a caller's runtime waits for its flights
#[cfg(any(feature = "rustls-no-provider", feature = "postgres"))]
mod tls; // its cryptography, and why a server is not trusted
mod server_pause; // what `Retry-After` asks for
mod clock; // the only place that asks for the time
mod runtime; // the runtime that owns the connections
mod unguessable; // random values that must not be guessed
mod returned_query; // what a browser brings back

// What failed, who has to act, and what follows.
mod consequences;
mod error;
mod code;
mod shown; // what may be shown of Concur's texts

// Below everything: no word of OAuth or Concur.
mod members; // JSON objects, member by member
mod secret; // text that is wiped on drop
mod files; // atomic, private, synced files
mod log; // events that cannot do harm
mod random; // jitter and salts
mod fingerprint; // whether a text is still the same
mod backoff; // pauses that double
mod threads; // a bounded number, for work that may block
mod per_process; // what a forked child makes again
mod sync; // locks, atomics and channels, which tests can schedule
mod caught; // panics of plugged-in code

// Outside the list: for tests.
#[cfg(test)]
mod exploration; // all states of a model, for unit tests
#[cfg(test)]
mod schedules; // many orders of threads, for unit tests
#[cfg(test)]
mod seed; // repeats what is random in unit tests
#[cfg(feature = "simulator")]
pub mod simulator;

// For the targets in `fuzz/`.
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;

// For readers only.
#[cfg(any(doc, doctest))]
pub mod guides;

pub use reqwest;
pub use time;
pub use url;

#[cfg(feature = "tower")]
pub use self::api_call::{ApiRequest, ApiResponse, Bearer, BearerLayer};
#[cfg(feature = "sealing")]
pub use self::sealing::SealingKeys;
pub use self::{
    access_token::AccessToken,
    app_center::AppCenterRedirect,
    claims::UnverifiedClaims,
    clock::{Clock, SystemClock},
    code::{ConcurCode, Responsible},
    credential_source::{CredentialSource, CredentialsFile, EnvCredentials},
    credentials::{AppCredentials, Credentials},
    error::{Error, ErrorKind},
    fleet::{Fleet, FleetBuilder, FleetEvent, FleetEvents, FleetKeepAlive, FleetRenewals, Imported},
    geolocation::Geolocation,
    manager::{AppTokens, KeepAlive, StatusSubscription, TokenManager, TokenManagerBuilder},
    oauth_client::{
        AuthorizationRequest, AuthorizationReturn, Grant, OAuthClient, OneTimePasswordRequest, TokenReply,
    },
    refresh_token_object::RefreshTokenObject,
    runtime::on_runtime,
    status::{Health, LastError, Status, TokenOrigin},
    store::{
        BoxedStore, DueToken, DueTokens, FleetHealth, FleetMember, FleetStore, FolderFleet, JsonFileStore,
        MemberKind, MemberState, MemoryStore, StoreLock, Stored, TokenStore,
    },
};

#[cfg(feature = "postgres")]
pub use self::store::{PostgresFleet, PostgresStore};

/// The README's code compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
