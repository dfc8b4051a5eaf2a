//! Renewing ahead of time, so that nobody has to wait and no six months run out.
//!
//! Always: it only asks for flights, as callers do, so nothing depends on it and stopping it loses nothing. It looks
//! at the time of day every minute: a machine that slept, or whose clock jumped, is caught up with within one.

use std::{
    fmt,
    future::{Future, poll_fn},
    pin::pin,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::{
    runtime::Handle,
    task::{JoinHandle, yield_now},
};

use super::{
    core::Core,
    flight::{Join, Landing, Need},
};
use crate::{
    Error,
    backoff::{is_pausing, jittered},
    runtime,
};

/// How often the time is looked at. That costs nothing but a comparison.
const TICK: Duration = Duration::from_secs(60);
/// The pauses after failures, doubled each time and then cut by up to a half. An outage costs at most 60 requests a
/// day.
const FIRST_PAUSE: Duration = Duration::from_secs(60);
const LONGEST_PAUSE: Duration = Duration::from_secs(60 * 60);

/// Keeps a manager's tokens renewed until it is dropped; see
/// [`TokenManager::keep_alive`](crate::TokenManager::keep_alive).
#[must_use = "renewing stops when this is dropped"]
pub struct KeepAlive(JoinHandle<()>);

impl KeepAlive {
    pub(super) fn start(core: &Arc<Core>) -> Result<Self, Error> {
        let callers = Handle::try_current().ok();
        Ok(Self(runtime::handle()?.spawn(Arc::clone(core).renew_for_ever(callers))))
    }
}

impl Drop for KeepAlive {
    fn drop(&mut self) {
        // It is no more than a waiter: a flight that has spent a grant goes on without it.
        self.0.abort();
    }
}

impl fmt::Debug for KeepAlive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeepAlive").finish_non_exhaustive()
    }
}

impl Core {
    /// The loop outlives the caller's runtime, but its flights take off there: the end of that waits for them.
    async fn renew_for_ever(self: Arc<Self>, callers: Option<Handle>) {
        let mut pause = FIRST_PAUSE;
        let mut not_before: Option<SystemTime> = None;
        loop {
            let now = self.clock.now();
            if !is_pausing(not_before, now, LONGEST_PAUSE) && self.is_due() {
                let mut flight = pin!(self.fly(Need::Ahead, Join::Any));
                let landing = poll_fn(|context| {
                    let _entered = callers.as_ref().map(Handle::enter);
                    flight.as_mut().poll(context)
                })
                .await;
                // Busy: a sibling is renewing, and will be done in a moment.
                let failed = !matches!(landing, Some(Landing::Busy)) && self.is_due();
                let wait = if failed { pause } else { TICK };
                not_before = now.checked_add(jittered(wait, crate::random::Random::System.fraction()));
                pause = if failed { (pause * 2).min(LONGEST_PAUSE) } else { FIRST_PAUSE };
            }
            self.clock.sleep(TICK).await;
            // A clock whose sleeps take no time must not take all of ours.
            yield_now().await;
        }
    }

    fn is_due(&self) -> bool {
        self.memory.held().is_none_or(|held| !self.satisfies(&Need::Ahead, &held))
    }
}
