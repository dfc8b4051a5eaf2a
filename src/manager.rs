//! Decides when a token is served, renewed or obtained: the only part that knows all the others.
//!
//! Always: a missing or expiring token costs one request, however many callers ask; a token from Concur is saved before
//! any caller sees it; building and loading start, send and build nothing.

// The faces.
mod app_tokens;
mod builder;
mod in_a_fleet;
mod keep_alive;
mod subscription;

// What callers get, and the renewals behind it.
mod renewal;
mod serving;

// The parts that the clones of a manager share, and what one flight knows.
mod core;
mod flight;

// Each part guards its own promise.
mod cache;
mod gate;
mod identity;
mod locked_store;
mod shared_flight;
mod single_flight;

// Values and decisions: no I/O.
mod changes;
mod decision;
mod held;
mod need;
mod observer;
mod schedule;

#[cfg(test)]
mod simulation;

use std::{fmt, path::Path, sync::Arc, time::Duration};

pub use self::{
    app_tokens::AppTokens, builder::TokenManagerBuilder, keep_alive::KeepAlive,
    subscription::StatusSubscription,
};
pub(crate) use self::{builder::Blueprint, in_a_fleet::Due, observer::Observer};
use self::{core::Core, need::Need};
use crate::{
    AccessToken, Clock as _, CredentialsFile, Error, ErrorKind, Grant, JsonFileStore, RefreshTokenObject,
    Status, clock::within,
};

/// The names that SAP's tutorial uses.
const CREDENTIALS_FILE: &str = "credentials.json";
const TOKEN_FILE: &str = "refreshTokenObjectFile.json";

/// Keeps one principal signed in: obtains, stores, renews and hands out its tokens.
///
/// Cheap to clone; clones share everything. Any number of managers and processes may use one store.
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

impl TokenManager {
    /// A manager that uses the tutorial's two files in the current folder: `credentials.json` and
    /// `refreshTokenObjectFile.json`. Sends nothing and builds no HTTP client.
    ///
    /// # Errors
    ///
    /// As [`load_from`](Self::load_from).
    pub async fn load() -> Result<Self, Error> {
        Self::load_from(".").await
    }

    /// A manager that uses the tutorial's two files in the folder `dir`. Sends nothing and builds no HTTP client.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::CredentialsNeeded`] when `credentials.json` was missing (now there is a template) or lacks the
    /// app's id or secret; [`ErrorKind::CredentialsInvalid`] when the file cannot be used; [`ErrorKind::Untrusted`]
    /// when the base URI in it is not Concur's.
    pub async fn load_from(dir: impl AsRef<Path>) -> Result<Self, Error> {
        let dir = dir.as_ref();
        let manager = Self::builder()
            .credentials(CredentialsFile::new(dir.join(CREDENTIALS_FILE)))
            .store(JsonFileStore::new(dir.join(TOKEN_FILE)))
            .build()?;
        let credentials = manager.0.source.credentials(&*manager.0.machine.executor).await?;
        manager.0.identification.of(&credentials)?;
        Ok(manager)
    }

    /// Builds a manager from parts of your choice.
    pub fn builder() -> TokenManagerBuilder {
        TokenManagerBuilder::new()
    }

    /// The refresh token object, valid now and saved.
    ///
    /// Looks at the store on every call, so that a token that a sibling process has replaced is never handed out. A
    /// valid token costs no request. Once a third of its life has passed, it is renewed: a program that calls only this
    /// function keeps it at equal intervals shorter than that life, or without a pause longer than two thirds of it. A
    /// missing or expired token is obtained with the company request token. If the store has been emptied, the company
    /// counts as signed out: the token in memory is not written back.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::CredentialsNeeded`] when a token must be obtained and the company's part of the credentials is
    /// blank; [`ErrorKind::ReauthorizationRequired`] when a person must create a new company request token;
    /// [`ErrorKind::Store`] when the store cannot be read or locked, or could not save a reply (nothing was sent then);
    /// [`ErrorKind::Config`] when the stored token belongs to another company or user; and the errors of
    /// [`OAuthClient::request_token`](crate::OAuthClient::request_token).
    pub async fn get_valid_refresh_token(&self) -> Result<RefreshTokenObject, Error> {
        serving::refresh_token(&self.0).await
    }

    /// A bearer token for API calls, valid now.
    ///
    /// Served from memory while it is valid: no lock, no allocation, no waiting. In its last five minutes the first
    /// caller renews it while the others are still served; in its last minute all callers wait for the renewal.
    ///
    /// # Errors
    ///
    /// As [`get_valid_refresh_token`](Self::get_valid_refresh_token); while the current token is valid, a renewal that
    /// fails is not an error, unless the program must change ([`ErrorKind::Config`]). [`status`](Self::status) has it.
    pub async fn access_token(&self) -> Result<AccessToken, Error> {
        match self.0.cache.fresh_access(self.0.now()) {
            Some(token) => Ok(token),
            // Boxed, so that the future of the warm path stays small.
            None => Box::pin(serving::access_token(&self.0, Duration::ZERO)).await,
        }
    }

    /// A bearer token that is valid for at least this long, for work that goes on after the call, such as an upload or another
    /// program.
    ///
    /// As [`access_token`](Self::access_token), but where the current token expires sooner, it is renewed first. A token that was
    /// issued less than a minute ago always counts: Concur's live for an hour.
    ///
    /// ```no_run
    /// # async fn example(tokens: concur_auth::TokenManager) -> Result<(), concur_auth::Error> {
    /// let access = tokens.access_token_for(std::time::Duration::from_secs(20 * 60)).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`access_token`](Self::access_token); also where the current token is valid, but expires sooner and cannot be renewed: the
    /// message names what is left.
    pub async fn access_token_for(&self, least: Duration) -> Result<AccessToken, Error> {
        let now = self.0.now();
        match self.0.cache.fresh_access(now).filter(|access| access.lasts(least, now)) {
            Some(token) => Ok(token),
            None => Box::pin(serving::access_token(&self.0, least)).await,
        }
    }

    /// Renews the tokens now, even if they are valid, and returns the new refresh token object.
    ///
    /// Concurrent callers share one grant: each caller gets the result of a grant that was sent after its call. After a
    /// failure nothing is sent before its pause is over, as for every other call; [`retry_now`](Self::retry_now) ends the
    /// pause.
    ///
    /// # Errors
    ///
    /// As [`get_valid_refresh_token`](Self::get_valid_refresh_token).
    pub async fn refresh(&self) -> Result<RefreshTokenObject, Error> {
        serving::grant(&self.0, Need::Grant).await
    }

    /// Like [`refresh`](Self::refresh), and at once: ends every pause and forgets every refusal first, also those that the
    /// store keeps for other processes.
    ///
    /// For a person who has removed the cause of a refusal, such as a locked account. A program must not call this by
    /// itself: the pauses after failures are what keeps accounts from being locked.
    ///
    /// ```no_run
    /// # async fn example(tokens: concur_auth::TokenManager) -> Result<(), concur_auth::Error> {
    /// // The administrator says that the account is unlocked.
    /// let refresh = tokens.retry_now().await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`get_valid_refresh_token`](Self::get_valid_refresh_token). A failure is followed by a pause again.
    pub async fn retry_now(&self) -> Result<RefreshTokenObject, Error> {
        serving::grant(&self.0, Need::Retry).await
    }

    /// Reports that an API refused this access token (HTTP 401): this manager does not hand it out again.
    ///
    /// Does nothing if the token is no longer the current one. The next call of [`access_token`](Self::access_token)
    /// takes another token from the store, or renews.
    ///
    /// An API that refuses every token has a reason of its own, which no renewal removes. So a token that is younger than a
    /// minute, and whose predecessor was refused, too, is handed out for a pause of 1 s, 2 s, 4 s and so on, up to 60 s,
    /// and only then replaced.
    pub fn invalidate(&self, token: &AccessToken) {
        self.0.cache.refuse(token, self.0.now());
        self.0.announce();
    }

    /// The state of this manager's tokens, without any secret. Reads memory only, so it knows nothing before the first call
    /// that reads the store.
    #[must_use]
    pub fn status(&self) -> Status {
        self.0.status()
    }

    /// The same after a look at the credentials and the store, which also tells what failed before a restart, or in another
    /// process. Sends nothing to Concur.
    ///
    /// A look that fails is the status's `last_error`.
    ///
    /// ```
    /// # use concur_auth::{Credentials, Health, MemoryStore, TokenManager};
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), concur_auth::Error> {
    /// # let builder = TokenManager::builder().credentials(Credentials::new("a", "s"));
    /// # let tokens = builder.store(MemoryStore::new()).build()?;
    /// let status = tokens.read_status().await;
    /// if status.health() == Health::PersonNeeded {
    ///     println!("{:?} must act before {:?}: {status}", status.responsible(), status.act_before);
    /// }
    /// # Ok(()) }
    /// ```
    pub async fn read_status(&self) -> Status {
        serving::read_status(&self.0).await
    }

    /// Signs in with this grant, replaces the current token, and returns the refresh token object once it is saved.
    ///
    /// For explicit user actions: the grant is sent whatever failed before. A success ends every pause.
    ///
    /// # Errors
    ///
    /// The errors of [`OAuthClient::request_token`](crate::OAuthClient::request_token); [`ErrorKind::Store`] when the
    /// token could not be saved (nothing was sent then); [`ErrorKind::Config`] when grant, credentials and stored token
    /// do not all belong to one principal.
    pub async fn sign_in(&self, grant: Grant) -> Result<RefreshTokenObject, Error> {
        serving::replace(&self.0, Need::SignIn(grant)).await
    }

    /// Replaces the current token with a token from elsewhere, for example from another system's database, and saves
    /// it.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Store`] when the token could not be saved; [`ErrorKind::Config`] when it, the credentials and the
    /// stored token do not all belong to one principal; [`ErrorKind::Untrusted`] when its geolocation is not Concur's.
    pub async fn adopt(&self, token: RefreshTokenObject) -> Result<(), Error> {
        serving::replace(&self.0, Need::Adopt(token)).await.map(drop)
    }

    /// Revokes **all** refresh tokens of the principal for the app, wherever they are stored, and empties the store and
    /// this manager's memory.
    ///
    /// Without a token nothing is sent. A stored token that Concur no longer accepts (code 108) is removed. After a
    /// failure, [`status`](Self::status) shows how far the revocation came; call this again to finish. Access tokens
    /// that were handed out before may work until their hour is over.
    ///
    /// The next call that needs a token signs in again if the credentials allow it: first remove the company request
    /// token, or the user's password, from them. [`keep_alive`](Self::keep_alive) does not sign in again.
    ///
    /// ```no_run
    /// # async fn example(tokens: concur_auth::TokenManager) -> Result<(), concur_auth::Error> {
    /// tokens.revoke().await?;
    /// assert!(tokens.status().signed_out);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// The errors of [`OAuthClient::revoke`](crate::OAuthClient::revoke), and of renewing the access token that it
    /// needs; [`ErrorKind::Store`] when the store could not be locked (nothing was sent then), or could not be emptied
    /// afterwards.
    pub async fn revoke(&self) -> Result<(), Error> {
        serving::sign_out(&self.0, Need::Revoke).await
    }

    /// Subscribes to changes of this manager's status.
    pub async fn subscribe(&self) -> StatusSubscription {
        StatusSubscription::new(&self.0)
    }

    /// Renews both tokens in the background before they expire, until the guard is dropped.
    ///
    /// Not needed for correctness: without it, callers renew. With it, no caller waits, and the refresh token does not
    /// expire in a program that has few callers. It sends about 28 requests a day, and at most 60 a day while renewing
    /// fails. Several guards of one manager, or of its clones, send no more than one.
    ///
    /// Any number of managers spread themselves over the hour. Each begins at a random moment of the first minute, and
    /// renews the first valid token that it finds at a random moment in what is left of that token.
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), concur_auth::Error> {
    /// let tokens = concur_auth::TokenManager::load().await?;
    /// let _kept = tokens.keep_alive().await?;
    /// // … serve …
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unavailable`] when no background thread can be started. Later failures are in [`status`](Self::status),
    /// in the log, and in the errors that callers get.
    pub async fn keep_alive(&self) -> Result<KeepAlive, Error> {
        KeepAlive::start(&self.0)
    }

    /// Waits for a renewal under way and for a token that could not be saved yet, for `deadline` at most.
    ///
    /// Not needed on a tokio runtime while the disk works: when the runtime ends, for example because `main` returns,
    /// it waits for a renewal by itself (unless all its blocking threads were taken for a second when the renewal
    /// began). A renewal that is still queued then, because 64 are under way, does not begin if its callers end with the
    /// runtime. Without tokio, call this before the process ends. A signal's default action, `process::exit` and
    /// [`shutdown_background`](tokio::runtime::Runtime::shutdown_background) wait for nothing: on Ctrl-C, return from
    /// `main`. The manager can be used afterwards.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Store`] when the deadline has passed and the newest refresh token is still in memory only, or
    /// the renewal has not ended.
    ///
    /// ```no_run
    /// # async fn serve(_: &concur_auth::TokenManager) {}
    /// # #[tokio::main] async fn main() -> Result<(), concur_auth::Error> {
    /// let tokens = concur_auth::TokenManager::load().await?;
    /// tokio::select! {
    ///     () = serve(&tokens) => {}
    ///     _ = tokio::signal::ctrl_c() => {}
    /// }
    /// tokens.shutdown(std::time::Duration::from_secs(10)).await
    /// # }
    /// ```
    pub async fn shutdown(&self, deadline: Duration) -> Result<(), Error> {
        let mut last = None;
        let all_saved = async {
            self.0.flights.until_idle().await;
            while let Err(e) = renewal::save_in_background(&self.0).await {
                last = Some(e);
                self.0.machine.clock.sleep(Duration::from_millis(100)).await;
            }
        };
        if within(self.0.machine.clock.sleep(deadline), all_saved).await.is_some() {
            return Ok(());
        }
        let store = self.0.cache.store.describe();
        let is_unsaved = self.0.cache.held().is_some_and(|held| held.is_unsaved);
        let error = Error::new(
            ErrorKind::Store,
            if is_unsaved {
                format!(
                    "the newest refresh token is still not saved to {store}, and ends with this process; make room \
                     there, then call shutdown again"
                )
            } else {
                format!("a renewal for {store} has not come to its end; call shutdown again")
            },
        );
        Err(match last {
            Some(cause) => error.caused_by(cause),
            None => error,
        })
    }
}

impl fmt::Debug for TokenManager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenManager")
            .field("store", &self.0.cache.store.describe())
            .field("status", &self.status())
            .finish_non_exhaustive()
    }
}
