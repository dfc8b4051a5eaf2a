//! Access tokens of an app by itself, for which Concur gives no refresh token: renewed by asking again.
//!
//! Always: one request however many ask, also if who asks goes away. Memory alone, since there is nothing
//! that could be lost.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use arc_swap::ArcSwapOption;
use tokio::sync::{Mutex, OwnedMutexGuard};

use super::{
    core::{Core, is_passing},
    decision::{Decision, Window, decide},
    memory::HeldAccess,
};
use crate::{
    AccessToken, Error, ErrorKind, Grant, Refusal,
    oauth_client::{Conditions, RetryBudget},
    random::Random,
    runtime,
};

/// Keeps an app signed in by itself (`grant_type=client_credentials`), for APIs that act for no company and no user.
///
/// There is no refresh token, no store, and no file: whoever needs an access token and finds none valid asks Concur, and
/// the others wait for the same answer. Cheap to clone; clones share everything.
///
/// ```no_run
/// use concur_auth::{EnvCredentials, TokenManager};
///
/// # async fn example() -> Result<(), concur_auth::Error> {
/// let tokens = TokenManager::builder()
///     .credentials(EnvCredentials)
///     .base_uri("https://us.api.concursolutions.com")
///     .build_for_app()?;
/// let access = tokens.access_token().await?;
/// # Ok(()) }
/// ```
///
/// Source: SAP Concur developer centre, "Authentication API, client credentials grant"; RFC 6749 section 4.4.
#[derive(Clone)]
pub struct AppTokens(Arc<Inner>);

struct Inner {
    core: Arc<Core>,
    held: ArcSwapOption<HeldAccess>,
    asking: Arc<Mutex<Answer>>,
    /// The number of the last answer.
    answered: AtomicU64,
}

/// What Concur answered last, for those who waited for it.
struct Answer {
    number: u64,
    result: Result<AccessToken, Error>,
}

impl AppTokens {
    pub(super) fn new(core: Arc<Core>) -> Self {
        let none = Err(Error::new(ErrorKind::Config, "nobody has asked yet"));
        Self(Arc::new(Inner {
            core,
            held: ArcSwapOption::empty(),
            asking: Arc::new(Mutex::new(Answer { number: 0, result: none })),
            answered: AtomicU64::new(0),
        }))
    }

    /// A bearer token for API calls, valid now: from memory while it lasts.
    ///
    /// In its last five minutes the first caller renews it while the others are still served; in its last minute all wait
    /// for that.
    ///
    /// # Errors
    ///
    /// What [`OAuthClient::request_token`](crate::OAuthClient::request_token) returns, and what the credentials' source
    /// does; while the held token is valid, what may pass is no error. A refusal is remembered: nothing is sent for an
    /// hour or more unless the credentials change.
    pub async fn access_token(&self) -> Result<AccessToken, Error> {
        let Inner { core, held, asking, answered } = &*self.0;
        let before = answered.load(Ordering::Acquire);
        let now = core.clock.now();
        let held = held.load_full();
        let decision =
            held.as_ref().map_or(Decision::Wait, |held| decide(&held.window, now, core.memory.calm(now)));
        let answer = match (decision, &held) {
            (Decision::Serve, Some(held)) => return Ok(held.token.clone()),
            (Decision::Carry, Some(held)) => match Arc::clone(asking).try_lock_owned() {
                Ok(answer) => answer,
                Err(_) => return Ok(held.token.clone()),
            },
            _ => Arc::clone(asking).lock_owned().await,
        };
        let valid = held.filter(|held| held.window.is_valid(core.clock.now()));
        let result = if answer.number == before {
            self.ask(answer, valid.is_none()).await
        } else {
            answer.result.clone()
        };
        match (result, valid) {
            (Err(e), Some(held)) if is_passing(&e) => Ok(held.token.clone()),
            (result, _) => result,
        }
    }

    /// Says that an API refused this access token (HTTP 401): it is not handed out again.
    pub fn invalidate(&self, token: &AccessToken) {
        self.0.held.rcu(|held| held.clone().filter(|held| held.token.secret() != token.secret()));
    }

    /// Goes on when who asks is gone: the next one gets the answer.
    async fn ask(&self, mut answer: OwnedMutexGuard<Answer>, repeat: bool) -> Result<AccessToken, Error> {
        let (ours, inner) = (runtime::handle()?, Arc::clone(&self.0));
        // A source of credentials may block.
        let asked = ours.spawn_blocking(move || {
            let result = ours.block_on(inner.core.ask_for_the_app(repeat));
            let (memory, now) = (&inner.core.memory, inner.core.clock.now());
            match &result {
                Ok(held) => {
                    memory.note_success(now, true);
                    inner.held.store(Some(Arc::new(held.clone())));
                }
                Err(e) => memory.note_failure(e, now),
            }
            answer.number += 1;
            answer.result = result.map(|held| held.token);
            inner.answered.store(answer.number, Ordering::Release);
            answer.result.clone()
        });
        asked.await.unwrap_or_else(|e| {
            let message = "asking for an access token panicked; see the panic's message and report it";
            Err(Error::new(ErrorKind::Config, message).caused_by(e))
        })
    }
}

impl Core {
    async fn ask_for_the_app(&self, repeat: bool) -> Result<HeldAccess, Error> {
        let now = self.clock.now();
        if let Some(wait) = self.memory.asked_to_wait(now) {
            return Err(wait);
        }
        let credentials = self.source.credentials().await?;
        let base = &self.identify(&credentials)?.base;
        let refused = self.memory.refusal();
        if let Some(e) = refused.as_ref().and_then(|refusal| refusal.still_holds(&credentials, None, now)) {
            return Err(e);
        }
        let grant = Grant::client_credentials();
        let budget = if repeat { RetryBudget::repeat(&|| false) } else { RetryBudget::one_attempt() };
        let conditions = Conditions { clock: &self.clock, random: &Random::System, budget: &budget };
        let sent = self.client.send(base, &credentials, &grant, &conditions).await;
        let reply = sent.inspect_err(|e| {
            let refusal =
                Refusal::of(e, refused.as_ref(), &credentials, None, self.clock.now(), &Random::System);
            self.memory.note_refusal(refusal.or(refused.clone()));
        })?;
        reply.log();
        let token = reply.access_token()?;
        let window = Window::of_access(token.issued(), fastrand::f64());
        Ok(HeldAccess { token, window })
    }
}

impl fmt::Debug for AppTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AppTokens")
            .field("held", &self.0.held.load().as_ref().map(|held| &held.token))
            .finish()
    }
}
