//! Access tokens of the app itself, for which Concur gives no refresh token: renewed by asking again.
//!
//! Always: one request however many callers ask, also if the caller who asked goes away. Memory alone, since there is
//! nothing that could be lost.

use std::{fmt, sync::Arc, time::SystemTime};

use arc_swap::ArcSwapOption;

use super::{
    decision::{Decision, decide},
    gate::Gate,
    held::HeldAccess,
    identity::{Identification, Identity},
    need::Outcome,
    serving::{Next, is_late, next},
    shared_flight::{End, share},
    single_flight::{Join, Leader, SingleFlight},
};
use crate::{
    AccessToken, Error, ErrorKind, Grant, OAuthClient,
    caught::caught,
    credential_source::DynCredentialSource,
    failed_requests::Basis,
    machine::Machine,
    oauth_client::{Conditions, RetryBudget},
};

/// Keeps the app itself signed in (`grant_type=client_credentials`), for APIs that need no company and no user.
///
/// There is no refresh token, no store and no file: the first caller that finds no valid access token asks Concur, and
/// other callers wait for the same answer. Cheap to clone; clones share everything.
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
pub struct AppTokens(Arc<App>);

pub(super) struct App {
    pub(super) source: Box<dyn DynCredentialSource>,
    pub(super) identification: Identification,
    pub(super) client: OAuthClient,
    pub(super) gate: Gate,
    pub(super) flights: Arc<SingleFlight<Outcome<AccessToken>>>,
    pub(super) machine: Machine,
    pub(super) held: ArcSwapOption<HeldAccess>,
}

impl AppTokens {
    pub(super) fn new(app: App) -> Self {
        Self(Arc::new(app))
    }

    /// A bearer token for API calls, valid now. Served from memory while it is valid.
    ///
    /// In its last five minutes the first caller renews it while the others are still served; in its last minute all
    /// callers wait for the renewal.
    ///
    /// # Errors
    ///
    /// The errors of [`OAuthClient::request_token`](crate::OAuthClient::request_token) and of the credential source;
    /// while the current token is valid, a failure is not an error, unless the program must change
    /// ([`ErrorKind::Config`]). After a failure nothing is sent for 1 s, doubling to 60 s, after a refusal for an hour or
    /// more, unless the credentials change.
    pub async fn access_token(&self) -> Result<AccessToken, Error> {
        let app = &self.0;
        loop {
            let now = app.machine.clock.now();
            let held = app.held.load_full();
            let decision = held
                .as_ref()
                .map_or(Decision::Wait, |held| decide(&held.window, now, || app.is_backing_off(now)));
            let join = match (decision, &held) {
                (Decision::Serve, Some(held)) => return Ok(held.token.clone()),
                (Decision::RenewIfIdle, _) => Join::Never,
                _ => Join::Any,
            };
            let has_fallback = held.as_ref().is_some_and(|held| held.window.is_valid(now));
            let asked_at = app.machine.clock.monotonic();
            let outcome = app.fly(join, has_fallback).await;
            if is_late(&*app.machine.clock, asked_at, &outcome) {
                continue;
            }
            let fresh = match &outcome {
                // Unless an API has refused it since.
                Outcome::Done(token) => {
                    let held = app.held.load();
                    held.as_ref().is_some_and(|held| held.still_is(token)).then(|| token.clone())
                }
                _ => None,
            };
            // What is held by now: an API may have refused the other one meanwhile.
            let fallback = app.held.load_full().filter(|held| held.window.is_valid(app.machine.clock.now()));
            if let Next::Return(served) = next(outcome, fresh, fallback.map(|held| held.token.clone())) {
                return served;
            }
        }
    }

    /// Reports that an API refused this access token (HTTP 401): it is not handed out again, or only for the time of a pause,
    /// as with [`TokenManager::invalidate`](crate::TokenManager::invalidate).
    pub fn invalidate(&self, token: &AccessToken) {
        let now = self.0.machine.clock.now();
        self.0.held.rcu(|held| {
            let held = held.as_ref()?;
            Some(if held.is(token) { Arc::new(held.refused(now)) } else { Arc::clone(held) })
        });
    }
}

impl App {
    /// Whether a request would come too soon, so that callers who hold something valid are served.
    fn is_backing_off(&self, now: SystemTime) -> bool {
        let asks_for_a_pause = |identity: &Identity| self.client.check_pause(&identity.base, now).is_err();
        self.gate.is_backing_off(now) || self.identification.known().as_deref().is_some_and(asks_for_a_pause)
    }

    /// Joins the request under way or sends one, and waits for its outcome.
    async fn fly(self: &Arc<Self>, join: Join, has_fallback: bool) -> Outcome<AccessToken> {
        let work = |leader: Leader<_>| {
            let app = Arc::clone(self);
            async move {
                let Some(leader) = leader.begin() else { return };
                let crashed = || {
                    let message =
                        "asking for an access token panicked; see the panic's message and report it";
                    Err(Error::new(ErrorKind::Config, message))
                };
                // Another flight may have ended between its caller's look and this beginning.
                let outcome = match app.fresh() {
                    Some(token) => Outcome::Done(token),
                    None => app.note(leader.work(caught(app.ask(has_fallback), crashed)).await, has_fallback),
                };
                leader.finish(outcome);
            }
        };
        share(&self.flights, &self.machine, join, End::GoesOn, work).await
    }

    /// The held token, if it is not due for renewal.
    fn fresh(&self) -> Option<AccessToken> {
        let held = self.held.load();
        let held = held.as_ref().filter(|held| held.window.is_fresh(self.machine.clock.now()))?;
        Some(held.token.clone())
    }

    async fn ask(&self, has_fallback: bool) -> Result<AccessToken, Error> {
        let Machine { clock, random, .. } = &self.machine;
        self.gate.check_server_pause(clock.now())?;
        let credentials = self.source.credentials(&*self.machine.executor).await?;
        let base = &self.identification.of(&credentials)?.base;
        let basis = Basis { credentials: &credentials, stored: None };
        self.gate.check(basis, clock.now())?;
        let grant = Grant::client_credentials();
        // A request goes on until it is answered, whether or not a caller still waits: the next caller is served what it
        // brings.
        let budget = RetryBudget::repeat(&|| false);
        let budget = if has_fallback { budget.ahead_of_time() } else { budget };
        let conditions =
            Conditions { clock: &**clock, random, budget: &budget, heeds_pause: true, hold: None };
        let sent = self.client.send(base, &credentials, &grant, &conditions).await;
        let received = sent.and_then(|reply| {
            reply.log();
            reply.access_token()
        });
        if let Err(e) = &received
            && budget.has_sent()
        {
            let failed = self.gate.judge(e, (&self.gate.known(), basis), basis, clock.now(), random);
            if failed.is_lasting() || !has_fallback {
                self.gate.remember(failed, basis);
            }
        }
        received
    }

    fn note(&self, asked: Result<AccessToken, Error>, has_fallback: bool) -> Outcome<AccessToken> {
        let Machine { clock, random, .. } = &self.machine;
        match asked {
            Ok(token) => {
                self.gate.succeeded(clock.now(), true);
                let before = self.held.load_full();
                self.held.store(Some(Arc::new(HeldAccess::new(token.clone(), before.as_deref(), random))));
                Outcome::Done(token)
            }
            Err(e) => {
                self.gate.failed(&e, clock.now(), random);
                if has_fallback { Outcome::FailedOnce(e) } else { Outcome::Failed(e) }
            }
        }
    }
}

impl fmt::Debug for AppTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AppTokens")
            .field("held", &self.0.held.load().as_ref().map(|held| &held.token))
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::{Future, ready},
        pin::Pin,
        sync::atomic::{AtomicUsize, Ordering},
        time::Duration,
    };

    use serde_json::json;

    use super::*;
    use crate::{
        Credentials, TokenManager,
        oauth_client::{OutgoingCall, Sent, Transport},
    };

    #[derive(Default)]
    struct Counting(AtomicUsize);

    impl Transport for Counting {
        fn send<'a>(&'a self, call: &'a OutgoingCall<'a>) -> Pin<Box<dyn Future<Output = Sent> + Send + 'a>> {
            let number = self.0.fetch_add(1, Ordering::Relaxed);
            let token = json!({"access_token": format!("access-{number}"), "expires_in": 3600});
            Box::pin(ready(Sent { elapsed: Duration::ZERO, outcome: Ok(call.reply(200, &token)) }))
        }
    }

    #[tokio::test]
    async fn a_flight_that_begins_right_after_another_has_ended_sends_nothing() {
        let concur = Arc::new(Counting::default());
        let tokens = TokenManager::builder()
            .credentials(Credentials::new("app", "secret"))
            .base_uri("https://us.api.concursolutions.com")
            .oauth_client(OAuthClient::on(Arc::clone(&concur)))
            .build_for_app()
            .unwrap();
        let first = tokens.access_token().await.unwrap();
        // The caller has looked before that.
        let outcome = tokens.0.fly(Join::Any, false).await;
        assert!(matches!(outcome, Outcome::Done(token) if token.secret() == first.secret()));
        assert_eq!(concur.0.load(Ordering::Relaxed), 1);
    }
}
