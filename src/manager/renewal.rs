//! One renewal, step by step.
//!
//! ```text
//! ask for the credentials       whose tokens, and where to send the request
//!        ▼
//! look at the store ──────────▶ done: what is stored meets the need
//!        ▼        ▲
//! try to lock ────┘ pause ────▶ busy: another process renews, and the callers have a fallback
//!        ▼
//! look again ─────────────────▶ done: another process was faster
//!        ▼        ▲
//! may Concur be asked? ───────▶ error: a request failed just now, or Concur asked for a pause
//!        ▼        │
//! rehearse the save ──────────▶ error: the store could not save a reply
//!        ▼        │ another program has replaced the token meanwhile
//! exchange ───────┘ overtaken ▶ error: refused, or no answer
//!        ▼
//! save ───────────────────────▶ the store fails: kept with its lock, and saved in the background
//!        ▼
//! publish ────────────────────▶ done, or: saved, with a fault to tell
//! ```
//!
//! Always: nothing is sent before the store has been locked, read again and found able to save; what Concur sends is saved
//! before any caller sees it. The steps run on any executor: the time, chance, threads, the store and the sending of a
//! request are handed in.

mod accept;
mod exchange;
mod owner;
mod sign_out;

use std::{future::poll_fn, sync::Arc, task::Poll, time::Duration};

pub(super) use self::accept::save_in_background;
use self::exchange::Exchanged;
use super::{
    cache::Looked,
    core::Core,
    flight::{Flight, RACES},
    held::Held,
    locked_store::Save,
    need::{Need, Outcome, Renewed, Source},
    shared_flight::{End, share},
    single_flight::{Join, Leader},
};
use crate::{
    Error, ErrorKind,
    caught::caught,
    failed_requests::FailedRequests,
    log,
    measured::{self, Ended},
    oauth_client::RetryBudget,
    store::LockWait,
};

/// What no flight takes: the process was suspended meanwhile, and what the flight brought may have expired, or have been replaced.
pub(super) const LONGEST: Duration = Duration::from_secs(300);

/// Joins a flight or starts one, and waits for its outcome; [`Outcome::Busy`] if `join` forbids to join the one under way.
pub(super) async fn fly(core: &Arc<Core>, need: &Need, join: Join) -> Outcome {
    let work = |leader: Leader<Outcome>| {
        let span = log::span(|| {
            let store = core.cache.store.describe();
            tracing::info_span!(target: "concur_auth", "renewal", need = need.name(), store)
        });
        let (flown, need) = (Arc::clone(core), need.clone());
        async move {
            let Some(leader) = leader.begin() else { return };
            let flight = async {
                let outcome = caught(run(&flown, &need, &leader), || crashed(&flown)).await;
                // Before the callers go on: their next flight may want the lock at once.
                flown.cache.store.release(leader.number()).await;
                outcome
            };
            let outcome = leader.work(log::within(span, flight)).await;
            leader.finish(outcome);
        }
    };
    share(&core.flights, &core.machine, join, End::Waits, work).await
}

async fn run(core: &Arc<Core>, need: &Need, leader: &Leader<Outcome>) -> Outcome {
    let clock = &core.machine.clock;
    let began = clock.monotonic();
    let mut outcome = renew(core, need, leader).await.unwrap_or_else(Outcome::Failed);
    let took = clock.monotonic().saturating_sub(began);
    measured::renewal(need.name(), &ended(&outcome), took);
    let now = core.now();
    match &outcome {
        Outcome::Done(Renewed { held, source }) => {
            core.gate.succeeded(now, *source != Source::Found);
            log::event!(info, origin = %held.origin, unsaved = held.is_unsaved, "renewal done");
        }
        Outcome::SignedOut => core.gate.succeeded(now, true),
        Outcome::Busy => core.gate.found_busy(now),
        Outcome::Failed(e)
        | Outcome::FailedOnce(e)
        | Outcome::SavedWithFault(e)
        | Outcome::WithoutAccess(_, e) => {
            // A sign-in that a person tries in vain says nothing about what is held.
            if !matches!(need, Need::SignIn(_) | Need::Adopt(_)) {
                core.gate.failed(e, now, &core.machine.random);
            }
            // The failure before it was told; a loop that pays no attention must not fill the log.
            if e.is_held_back() {
                log::event!(debug, error = %e, cause = log::causes(e), "renewal held back");
            } else {
                log::event!(warn, error = %e, cause = log::causes(e), "renewal failed");
            }
        }
    }
    core.gate.flight_ended();
    core.announce();
    if took > LONGEST {
        outcome.has_aged();
    }
    outcome
}

fn ended(outcome: &Outcome) -> Ended {
    match outcome {
        Outcome::Done(renewed) if renewed.source != Source::Found => Ended::Renewed,
        Outcome::Done(_) => Ended::Found,
        Outcome::SignedOut => Ended::SignedOut,
        Outcome::Busy => Ended::Busy,
        Outcome::Failed(e)
        | Outcome::FailedOnce(e)
        | Outcome::SavedWithFault(e)
        | Outcome::WithoutAccess(_, e) => {
            if e.is_held_back() {
                Ended::HeldBack
            } else {
                Ended::Failed(e.kind())
            }
        }
    }
}

/// What is left to do for a flight that panicked. What it received is saved, or kept to be saved.
fn crashed(core: &Core) -> Outcome {
    let error = Error::new(ErrorKind::Config, "the renewal panicked; see the panic's message and report it");
    core.gate.failed(&error, core.now(), &core.machine.random);
    core.announce();
    Outcome::Failed(error)
}

async fn renew(core: &Arc<Core>, need: &Need, leader: &Leader<Outcome>) -> Result<Outcome, Error> {
    let credentials = core.source.credentials(&*core.machine.executor).await?;
    let identity = core.identify(&credentials)?;
    let is_given_up = || leader.is_alone();
    let budget = RetryBudget::repeat(&is_given_up);
    let mut flight = Flight { core, need, credentials: &credentials, identity: &identity, leader, budget };
    flight.check_replacement()?;
    match flight.start().await? {
        Start::Locked => flight.go_on().await,
        Start::Met(held) => Ok(Outcome::Done(Renewed { held, source: Source::Found })),
        Start::Busy => Ok(Outcome::Busy),
    }
}

enum Start {
    Locked,
    /// What is held meets the need by now.
    Met(Arc<Held>),
    Busy,
}

impl Flight<'_> {
    /// Gets the store's lock, unless it turns out on the way that nothing has to be renewed.
    async fn start(&self) -> Result<Start, Error> {
        let Core { cache, machine, policy, .. } = &**self.core;
        if matches!(self.need, Need::Due) {
            let is_ours = cache.store.take_handed_in(self.leader.number()).await;
            return Ok(if is_ours { Start::Locked } else { Start::Busy });
        }
        let is_looked_at = matches!(self.need, Need::RefreshToken { is_looked_at: true });
        // What is held was looked at before. Without anything held, what is stored may do.
        let locks_first = is_looked_at || (cache.store.reads_by_locking() && cache.held().is_some());
        let first = if locks_first { self.lock().await } else { Ok(false) };
        if matches!(first, Ok(true)) {
            return Ok(Start::Locked);
        }
        // After an error, what is stored may still do.
        let was_refused = locks_first && first.is_ok();
        let mut wait = LockWait::new(cache.store.longest_poll(), policy.lock_timeout);
        // The store's own calls take time, too, which no injected clock may know of.
        let mut deadline = None;
        loop {
            // What is to be forgotten need not be a token that can be read.
            let mut held = None;
            if !matches!(self.need, Need::Forget) {
                // Another process may have renewed meanwhile. To see that, and to serve a read-only folder, takes no lock.
                let looked = self.look().await?;
                self.check_geolocation(&looked)?;
                if let Some(held) = looked.held.as_ref().filter(|held| self.core.meets(self.need, held)) {
                    return Ok(Start::Met(Arc::clone(held)));
                }
                self.check_gate(&looked)?;
                self.check_sign_in(&looked)?;
                if was_refused && self.need.can_wait() {
                    return Ok(Start::Busy);
                }
                held = looked.held;
            }
            if self.lock().await? {
                return Ok(Start::Locked);
            }
            if self.leader.is_alone() || self.need.can_wait() || self.has_fallback(held.as_deref()) {
                return Ok(Start::Busy);
            }
            let deadline = deadline.get_or_insert_with(|| machine.executor.wait(policy.lock_timeout));
            let is_over = poll_fn(|context| Poll::Ready(deadline.as_mut().poll(context).is_ready())).await;
            if is_over || wait.is_over() {
                return Err(wait.timed_out(&cache.store.describe()));
            }
            if wait.is_new() {
                let (store, longest_s) = (cache.store.describe(), policy.lock_timeout.as_secs());
                log::event!(debug, store, longest_s, "the lock is held by another process");
            }
            machine.clock.sleep(wait.pause()).await;
        }
    }

    /// Whether the lock is this flight's now. A token that is still unsaved is saved first, and ends the lock that it kept.
    async fn lock(&self) -> Result<bool, Error> {
        let Core { cache, machine, .. } = &**self.core;
        self.core.save_unsaved().await?;
        let can_wait = self.need.can_wait() || self.has_fallback(cache.held().as_deref());
        cache.store.try_lock(self.leader.number(), can_wait, &*machine.clock).await
    }

    /// Under the lock.
    async fn go_on(&mut self) -> Result<Outcome, Error> {
        if matches!(self.need, Need::Forget) {
            return self.core.cache.empty(None).await.map(|()| Outcome::SignedOut);
        }
        for race in 0..RACES {
            let mut looked = self.look_again().await?;
            self.check_geolocation(&looked)?;
            // The token that was due is gone: another process has renewed it.
            let is_overtaken = race > 0 && matches!(self.need, Need::Due);
            if let Some(held) =
                looked.held.as_ref().filter(|held| is_overtaken || self.core.meets(self.need, held))
            {
                return Ok(Outcome::Done(Renewed { held: Arc::clone(held), source: Source::Found }));
            }
            let has_fallback = self.need.can_wait() || self.has_fallback(looked.held.as_deref());
            // One attempt will do while there is time for many more.
            let is_early = has_fallback && !self.is_urgent(&looked);
            if is_early {
                self.budget = self.budget.ahead_of_time();
            }
            match self.need {
                // Another program has replaced the stored token since the look: nothing is adopted or revoked yet.
                Need::Adopt(adopted) => match self.adopt(adopted, &looked).await {
                    Err(e) if e.is_superseded() => continue,
                    outcome => return outcome,
                },
                Need::Revoke => match self.sign_out(looked).await {
                    Err(e) if e.is_superseded() => continue,
                    outcome => return outcome,
                },
                Need::Retry => self.open_gate(&mut looked).await,
                _ => self.check_gate(&looked)?,
            }
            let before = self.core.gate.known();
            let asked = self.ask(&looked).await;
            if self.budget.has_sent() {
                self.remember_failure(&asked, &before, &looked, has_fallback).await;
            }
            match asked {
                Ok(Some(outcome)) => return Ok(outcome),
                Ok(None) => {}
                Err(e) if e.is_superseded() => {}
                Err(e) if is_early => return Ok(Outcome::FailedOnce(e)),
                Err(e) => return Err(e),
            }
        }
        Err(self.too_many_races())
    }

    /// Asks Concur, and keeps what it sends; `None` if another program has replaced the stored token meanwhile.
    async fn ask(&self, looked: &Looked) -> Result<Option<Outcome>, Error> {
        let cache = &self.core.cache;
        match (self.need, looked.token()) {
            (Need::SignIn(_), _) | (_, Some(_)) => {}
            // The store was emptied: another process or an administrator signed the principal out. Only a caller who
            // needs a token signs it in again.
            (Need::KeepAlive, None) if cache.had_token() => return Ok(Some(Outcome::Busy)),
            (Need::Due, None) => return Ok(Some(Outcome::Busy)),
            (_, None) => _ = self.credentials.require_sign_in()?,
        }
        let rehearsed = cache.store.rehearse(looked.token()).await?;
        match self.exchange(looked.token(), &rehearsed).await? {
            Exchanged::Reply(reply, origin) => {
                self.accept(&reply, origin, looked, rehearsed, Save::Last).await.map(Some)
            }
            Exchanged::Overtaken => Ok(None),
        }
    }

    /// After a request was sent: every failure of it holds back the next one for a while. What a person tried once says
    /// nothing about the credentials.
    async fn remember_failure(
        &self,
        asked: &Result<Option<Outcome>, Error>,
        before: &FailedRequests,
        looked: &Looked,
        has_fallback: bool,
    ) {
        match asked {
            _ if matches!(self.need, Need::SignIn(_)) => {}
            Err(e) => self.remember(e, before, looked, has_fallback).await,
            Ok(Some(Outcome::SavedWithFault(e) | Outcome::WithoutAccess(_, e))) => {
                self.remember_of_saved(e, before, looked, has_fallback);
            }
            Ok(_) => {}
        }
    }

    fn too_many_races(&self) -> Error {
        let store = self.core.cache.store.describe();
        let message = format!("another program keeps replacing the token in {store}; stop that program");
        Error::new(ErrorKind::Store, message)
    }
}
