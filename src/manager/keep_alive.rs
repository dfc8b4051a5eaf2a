//! Renews in the background before tokens expire, so that no caller waits and the refresh token does not expire.
//!
//! Always: it only asks for flights, as callers do, so nothing depends on it and stopping it loses nothing. It looks
//! at the time of day every minute: it recovers within a minute after the machine slept or its clock jumped.

use std::{
    fmt,
    future::{Future, poll_fn},
    pin::pin,
    sync::Arc,
    time::SystemTime,
};

use tokio::{runtime::Handle, sync::oneshot, task::yield_now};

use super::{
    core::Core,
    need::{Need, Outcome},
    renewal::fly,
    schedule::{Age, Schedule, TICK},
    single_flight::Join,
};
use crate::{Error, clock::within};

/// Keeps a manager's tokens renewed until it is dropped; see
/// [`TokenManager::keep_alive`](crate::TokenManager::keep_alive).
#[must_use = "renewing stops when this is dropped"]
pub struct KeepAlive {
    /// Dropped with the guard, which stops the renewing. That is no more than a waiter: a flight that has spent a grant
    /// goes on without it.
    _running: oneshot::Sender<()>,
}

impl KeepAlive {
    pub(super) fn start(core: &Arc<Core>) -> Result<Self, Error> {
        let (running, stopped) = oneshot::channel();
        let renewing = renew_until_stopped(Arc::clone(core), Handle::try_current().ok());
        let work = async move {
            within(renewing, stopped).await;
        };
        core.machine.executor.spawn(Box::pin(work))?;
        Ok(Self { _running: running })
    }
}

impl fmt::Debug for KeepAlive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeepAlive").finish_non_exhaustive()
    }
}

async fn renew_until_stopped(core: Arc<Core>, callers: Option<Handle>) {
    // A phase of its own, so that guards that start together do not look, and wake up, together.
    let first = TICK.mul_f64(core.machine.random.fraction());
    core.machine.clock.sleep(first).await;
    loop {
        renew_if_due(&core, callers.as_ref()).await;
        core.machine.clock.sleep(TICK).await;
        // A clock whose sleeps take no time must not take all of the runtime's.
        yield_now().await;
    }
}

pub(super) async fn renew_if_due(core: &Arc<Core>, callers: Option<&Handle>) {
    // Another guard of this manager may be waiting for its flight. What that brings counts for this one, too.
    let mut schedule = core.schedule.lock().await;
    let (now, uptime) = (core.now(), core.machine.clock.monotonic());
    let Some(was_late) = is_to_be_renewed(core, &mut schedule, now) else { return };
    let outcome = fly_from(callers, core, &Need::KeepAlive).await;
    // Busy: another process is renewing, and will be done in a moment.
    let failed = !matches!(outcome, Outcome::Busy) && is_due(core);
    schedule.asked(failed, was_late, (now, uptime), core.machine.random.fraction());
}

/// Whether a flight is to be started now; `Some(true)` if it is late.
pub(super) fn is_to_be_renewed(core: &Core, schedule: &mut Schedule, now: SystemTime) -> Option<bool> {
    let random = &core.machine.random;
    let held = core.cache.held();
    let access = held.as_ref().and_then(|held| held.access());
    if let Some(moment) = access.and_then(|access| schedule.moment(&access.window, now, random.fraction())) {
        core.cache.renew_from(moment);
    }
    let uptime = core.machine.clock.monotonic();
    if let Some(access) = access.filter(|access| access.window.is_valid(now)) {
        match schedule.age(access, now, uptime) {
            Age::Due if access.window.is_early(now) => core.cache.renew_from(now),
            Age::Over => core.cache.end_access(now),
            Age::Young | Age::Due => {}
        }
    }
    if schedule.is_pausing(now, uptime) || !is_due(core) {
        return None;
    }
    Some(schedule.is_late(access.map(|access| &access.window), now))
}

/// A flight that outlives the callers' runtime, but starts there: the end of that runtime waits for it.
pub(super) async fn fly_from(callers: Option<&Handle>, core: &Arc<Core>, need: &Need) -> Outcome {
    let mut flight = pin!(fly(core, need, Join::Any));
    poll_fn(|context| {
        let _entered = callers.map(Handle::enter);
        flight.as_mut().poll(context)
    })
    .await
}

fn is_due(core: &Core) -> bool {
    core.cache.held().is_none_or(|held| !core.meets(&Need::KeepAlive, &held))
}
