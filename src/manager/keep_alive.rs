//! Renews in the background before tokens expire, so that no caller waits and the refresh token does not expire.
//!
//! Always: it only asks for flights, as callers do, so nothing depends on it and stopping it loses nothing. It looks
//! at the time of day every minute: it recovers within a minute after the machine slept or its clock jumped.

use std::{
    fmt,
    future::{Future, poll_fn},
    pin::pin,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::{runtime::Handle, sync::oneshot, task::yield_now};

use super::{
    core::Core,
    need::{Need, Outcome},
    renewal::fly,
    single_flight::Join,
};
use crate::{
    Error,
    backoff::{Backoff, jittered},
    clock::within,
};

/// How often it looks at the time. That costs nothing but a comparison.
const TICK: Duration = Duration::from_secs(60);
/// The pauses after failures, each then cut by up to a half. An outage costs at most 60 requests a day.
const AFTER_FAILURE: Backoff = Backoff::new(Duration::from_secs(60), Duration::from_secs(60 * 60));

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
        let work = async move { drop(within(renewing, stopped).await) };
        core.machine.executor.spawn(Box::pin(work))?;
        Ok(Self { _running: running })
    }
}

impl fmt::Debug for KeepAlive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeepAlive").finish_non_exhaustive()
    }
}

/// The loop outlives the caller's runtime, but its flights start there: the end of that runtime waits for them.
async fn renew_until_stopped(core: Arc<Core>, callers: Option<Handle>) {
    let mut failures = 0;
    let mut not_before: Option<SystemTime> = None;
    loop {
        let now = core.now();
        if !AFTER_FAILURE.is_on(not_before, now) && is_due(&core) {
            let mut flight = pin!(fly(&core, &Need::KeepAlive, Join::Any));
            let outcome = poll_fn(|context| {
                let _entered = callers.as_ref().map(Handle::enter);
                flight.as_mut().poll(context)
            })
            .await;
            // Busy: another process is renewing, and will be done in a moment.
            let failed = !matches!(outcome, Outcome::Busy) && is_due(&core);
            let wait = if failed { AFTER_FAILURE.nth(failures) } else { TICK };
            not_before = now.checked_add(jittered(wait, core.machine.random.fraction()));
            failures = if failed { failures.saturating_add(1) } else { 0 };
        }
        core.machine.clock.sleep(TICK).await;
        // A clock whose sleeps take no time must not take all of the runtime's.
        yield_now().await;
    }
}

fn is_due(core: &Core) -> bool {
    core.cache.held().is_none_or(|held| !core.meets(&Need::KeepAlive, &held))
}
