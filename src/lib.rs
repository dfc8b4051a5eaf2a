//! TODO guide

mod access_token;
mod clock;
mod code;
mod credential_source;
mod credentials;
mod error;
mod files;
mod geolocation;
mod manager;
mod members;
mod oauth_client;
mod refresh_token_object;
mod runtime;
mod secret;
#[cfg(feature = "simulator")]
pub mod simulator;
mod status;
mod store;

pub use reqwest;
pub use time;
pub use url;

pub use self::{
    access_token::AccessToken,
    clock::{Clock, SystemClock},
    code::ConcurCode,
    credential_source::{CredentialSource, CredentialsFile, EnvCredentials},
    credentials::Credentials,
    error::{Error, ErrorKind},
    geolocation::Geolocation,
    manager::{TokenManager, TokenManagerBuilder},
    oauth_client::{Grant, OAuthClient, TokenReply},
    refresh_token_object::RefreshTokenObject,
    status::{Status, TokenOrigin},
    store::{JsonFileStore, MemoryStore, StoreLock, TokenStore},
};
