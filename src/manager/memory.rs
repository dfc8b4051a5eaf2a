//! What a manager holds in memory: the newest token, and how the last renewals went.
//!
//! Always: the warm path reads one atomic pointer; whoever replaces what is held makes a whole new value.

use std::{
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwapOption;

use super::decision::{Calm, Window};
use crate::{
    AccessToken, Error, Geolocation, RefreshTokenObject, Refusal, Status, TokenOrigin,
    backoff::{Backoff, is_pausing, jittered},
    caught::locked,
    clock,
};

/// The first pause after a failed renewal; it doubles with each further one.
const FIRST_BACK_OFF: Duration = Duration::from_secs(1);
const LONGEST_BACK_OFF: Duration = Duration::from_secs(60);
/// The longest that a `Retry-After` is believed.
const LONGEST_QUIET: Duration = Duration::from_secs(3600);

#[derive(Debug, Default)]
pub(super) struct Memory {
    held: ArcSwapOption<Held>,
    past: Mutex<Past>,
}

/// A refresh token object with what is derived from it once.
#[derive(Clone, Debug)]
pub(super) struct Held {
    pub(super) object: RefreshTokenObject,
    /// Where the principal lives, if the object says so and leads to Concur.
    geolocation: Option<Geolocation>,
    pub(super) access: Option<HeldAccess>,
    /// An access token that an API refused: not to be taken from the store again.
    rejected: Option<AccessToken>,
    pub(super) origin: TokenOrigin,
    pub(super) unsaved: bool,
}

#[derive(Clone, Debug)]
pub(super) struct HeldAccess {
    pub(super) token: AccessToken,
    pub(super) window: Window,
}

#[derive(Debug, Default)]
struct Past {
    failures: u32,
    back_off_until: Option<SystemTime>,
    quiet: Option<Quiet>,
    last_success: Option<SystemTime>,
    last_error: Option<Error>,
    /// For stores that do not remember it.
    refusal: Option<Refusal>,
}

/// Concur asked to be left alone (`Retry-After`), in this answer.
#[derive(Debug)]
struct Quiet {
    until: SystemTime,
    lasts: Duration,
    answer: Error,
}

impl Quiet {
    fn is_on(&self, now: SystemTime) -> bool {
        is_pausing(Some(self.until), now, self.lasts)
    }
}

impl Held {
    /// `base` is what the object's geolocation is checked against; an untrusted one yields no access token.
    pub(super) fn new(
        object: RefreshTokenObject,
        origin: TokenOrigin,
        base: &Geolocation,
        before: Option<&Self>,
    ) -> Self {
        let rejected = before.and_then(|held| held.rejected.clone());
        let geolocation = geolocation_of(&object, base).ok();
        let access = object.access().zip(geolocation.clone()).and_then(|(issued, geolocation)| {
            if rejected.as_ref().is_some_and(|token| token.secret() == issued.secret.expose()) {
                return None;
            }
            let window = Window::of_access(issued, fastrand::f64());
            let token = AccessToken::new(issued.clone(), geolocation, object.shared_scopes());
            Some(HeldAccess { token, window })
        });
        let geolocation = geolocation.filter(|_| object.geolocation().is_some());
        Self { object, geolocation, access, rejected, origin, unsaved: false }
    }

    /// The access token, if an API call could still be made with it.
    pub(super) fn live_access(&self, now: SystemTime) -> Option<AccessToken> {
        let access = self.access.as_ref()?;
        access.window.is_valid(now).then(|| access.token.clone())
    }
}

/// The checked geolocation of a stored object, or `base` where it names none.
pub(super) fn geolocation_of(object: &RefreshTokenObject, base: &Geolocation) -> Result<Geolocation, Error> {
    let origin = "the geolocation that came with the token";
    object.geolocation().map_or_else(|| Ok(base.clone()), |received| base.received(received, origin))
}

impl Memory {
    /// The warm path: one pointer read, one comparison, one reference count.
    pub(super) fn fresh_access(&self, now: SystemTime) -> Option<AccessToken> {
        let held = self.held.load();
        let access = held.as_ref()?.access.as_ref()?;
        access.window.is_fresh(now).then(|| access.token.clone())
    }

    pub(super) fn held(&self) -> Option<Arc<Held>> {
        self.held.load_full()
    }

    pub(super) fn publish(&self, held: Held) -> Arc<Held> {
        let held = Arc::new(held);
        self.held.store(Some(Arc::clone(&held)));
        held
    }

    /// Publishes what was read from the store; `None` if what is held is no longer what it was `before` the read.
    pub(super) fn publish_after(&self, before: &Option<Arc<Held>>, held: Held) -> Option<Arc<Held>> {
        let held = Arc::new(held);
        let found = self.held.compare_and_swap(before, Some(Arc::clone(&held)));
        let is_as_before = found.as_ref().map(Arc::as_ptr) == before.as_ref().map(Arc::as_ptr);
        is_as_before.then_some(held)
    }

    pub(super) fn clear(&self) {
        self.held.store(None);
    }

    pub(super) fn mark_saved(&self) {
        self.change(|held| held.unsaved = false);
    }

    pub(super) fn reject(&self, token: &AccessToken) {
        self.change(|held| {
            let is_current =
                held.access.as_ref().is_some_and(|access| access.token.secret() == token.secret());
            if is_current {
                held.access = None;
                held.rejected = Some(token.clone());
            }
        });
    }

    fn change(&self, change: impl Fn(&mut Held)) {
        self.held.rcu(|held| {
            held.as_ref().map(|held| {
                let mut changed = Held::clone(held);
                change(&mut changed);
                Arc::new(changed)
            })
        });
    }

    pub(super) fn calm(&self, now: SystemTime) -> Calm {
        let past = self.past();
        let is_quiet = past.quiet.as_ref().is_some_and(|quiet| quiet.is_on(now));
        if is_quiet || Backoff::new(FIRST_BACK_OFF, LONGEST_BACK_OFF).is_on(past.back_off_until, now) {
            Calm::BackingOff
        } else {
            Calm::Calm
        }
    }

    /// `fresh`: Concur has answered, so it no longer asks to be left alone.
    pub(super) fn note_success(&self, now: SystemTime, fresh: bool) {
        let mut past = self.past();
        let quiet = past.quiet.take().filter(|_| !fresh);
        *past = Past { last_success: Some(now), quiet, ..Past::default() };
    }

    /// Somebody else holds the store's lock: they will be done in a moment.
    pub(super) fn note_busy(&self, now: SystemTime) {
        self.past().back_off_until = now.checked_add(FIRST_BACK_OFF);
    }

    /// An error for which nothing was sent is no news.
    pub(super) fn note_failure(&self, error: &Error, now: SystemTime) {
        if error.is_held_back() {
            return;
        }
        let mut past = self.past();
        let pause = FIRST_BACK_OFF.saturating_mul(1 << past.failures.min(10)).min(LONGEST_BACK_OFF);
        past.failures += 1;
        past.back_off_until = now.checked_add(jittered(pause, fastrand::f64()));
        past.last_error = Some(error.clone());
        if let Some(after) = error.retry_after() {
            let lasts = after.min(LONGEST_QUIET);
            let until = now.checked_add(lasts).unwrap_or(now);
            if past.quiet.as_ref().is_none_or(|quiet| !quiet.is_on(now) || quiet.until < until) {
                past.quiet = Some(Quiet { until, lasts, answer: error.clone() });
            }
        }
    }

    /// The answer in which Concur asked to be left alone, while that lasts.
    pub(super) fn asked_to_wait(&self, now: SystemTime) -> Option<Error> {
        let past = self.past();
        let Quiet { until, answer, .. } = past.quiet.as_ref().filter(|quiet| quiet.is_on(now))?;
        let left = until.duration_since(now).unwrap_or_default();
        let seconds = left.as_secs_f64().ceil();
        let message = format!(
            "{} [nothing was sent: Concur has asked to be left alone, and is asked again in {seconds} s]",
            answer.message()
        );
        let error = Error::new(answer.kind(), message).answered_as(answer).with_retry_after(Some(left));
        Some(error.held_back())
    }

    pub(super) fn refusal(&self) -> Option<Refusal> {
        self.past().refusal.clone()
    }

    pub(super) fn note_refusal(&self, refusal: Option<Refusal>) {
        self.past().refusal = refusal;
    }

    pub(super) fn status(&self, now: SystemTime) -> Status {
        let mut status = Status::default();
        if let Some(held) = self.held() {
            let Held { object, access, geolocation, .. } = &*held;
            status.company_uuid = object.company_uuid().map(str::to_owned);
            status.principal_uuid = object.principal_uuid().map(str::to_owned);
            status.geolocation = geolocation.as_ref().map(|it| it.as_str().trim_end_matches('/').to_owned());
            status.refresh_token_valid = object.expiry().is_none_or(|at| now < at);
            status.refresh_token_expires_at = object.expiry().map(clock::public_time);
            status.access_token_valid = access.as_ref().is_some_and(|access| access.window.is_valid(now));
            status.access_token_expires_at = access.as_ref().map(|access| access.token.expires_at());
            status.source = Some(held.origin);
            status.unsaved = held.unsaved;
        }
        let past = self.past();
        status.last_success = past.last_success.map(clock::public_time);
        status.last_error = past.last_error.as_ref().map(Error::to_string);
        status
    }

    fn past(&self) -> MutexGuard<'_, Past> {
        locked(&self.past)
    }
}
