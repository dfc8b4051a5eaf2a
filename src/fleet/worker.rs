//! One task that keeps all members of a fleet signed in; other processes may have the same task.
//!
//! ```text
//! every minute: drop the managers that are not in use, and renew the access tokens of those that are
//! otherwise:    wait for free slots ─▶ claim tokens that are due ─▶ one flight for each
//! ```
//!
//! Always: what is claimed is presented, or given back. What is to be renewed is the store's to say, so no process needs to know of
//! another. At most as many renewals run as the fleet has slots.

use std::{
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, SystemTime},
};

use tokio::{
    runtime::Handle,
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    task::yield_now,
};

use super::{
    Inner,
    due::{Round, Teller},
    managers::AskedBy,
    pace::Pace,
};
use crate::{
    DueToken, DueTokens, Error, TokenManager,
    backoff::{Backoff, jittered},
    caught::locked,
    clock::within,
    log,
    manager::Due,
};

/// How often the store is asked when it knows of nothing that is due, and how often managers are looked at.
const MINUTE: Duration = Duration::from_secs(60);
/// The pauses while the store fails.
const STORE_FAILS: Backoff = Backoff::new(Duration::from_secs(1), MINUTE);

pub(super) struct Worker {
    pub(super) fleet: Arc<Inner>,
    callers: Option<Handle>,
    pub(super) stop: Stop,
    pace: Mutex<Pace>,
}

/// Ready once the guard is dropped, or the fleet is shut down.
#[derive(Clone)]
pub(super) struct Stop {
    pub(super) guard: watch::Receiver<()>,
    pub(super) fleet: watch::Receiver<()>,
}

impl Stop {
    pub(super) async fn stopped(mut self) {
        let Self { guard, fleet } = &mut self;
        // The guard's sender sends nothing: it is dropped.
        within(async { drop(fleet.changed().await) }, async { drop(guard.changed().await) }).await;
    }
}

/// What a claim says about the next one.
pub(super) enum Next {
    /// Concur fails for all, and is left alone for so long.
    Paused(Duration),
    /// As far as the store knows, no more is due for so long.
    DueIn(Duration),
    /// The store has failed, and is left alone for so long.
    StoreFails(Error, Duration),
}

impl Next {
    fn wait(&self) -> Duration {
        let (Self::Paused(wait) | Self::DueIn(wait) | Self::StoreFails(_, wait)) = self;
        *wait
    }
}

/// When the worker does what next.
struct Schedule {
    next_minute: SystemTime,
    next_claim: SystemTime,
    store_failures: u32,
}

impl Worker {
    pub(super) fn new(fleet: Arc<Inner>, stop: Stop) -> Arc<Self> {
        let pace = Pace::new(fleet.concurrent, fleet.per_second, fleet.store.lease());
        Arc::new(Self { fleet, callers: Handle::try_current().ok(), stop, pace: Mutex::new(pace) })
    }

    pub(super) async fn run(self: Arc<Self>) {
        within(self.stop.clone().stopped(), self.work()).await;
    }

    async fn work(self: &Arc<Self>) {
        let machine = &self.fleet.blueprint.machine;
        let start = machine.clock.now();
        // A phase of its own: workers that start together do not wake up together.
        let first = start.checked_add(MINUTE.mul_f64(machine.random.fraction())).unwrap_or(start);
        let mut schedule = Schedule { next_minute: first, next_claim: start, store_failures: 0 };
        loop {
            let now = machine.clock.now();
            // A clock that was set back must not stop the worker.
            schedule.next_minute = schedule.next_minute.min(now.checked_add(MINUTE).unwrap_or(now));
            schedule.next_claim = schedule.next_claim.min(now.checked_add(MINUTE).unwrap_or(now));
            if schedule.next_minute <= now {
                schedule.next_minute = now.checked_add(MINUTE).unwrap_or(now);
                self.keep_warm();
            }
            if schedule.next_claim <= now {
                let wait = self.claim(&mut schedule.store_failures, None).await.wait();
                let now = machine.clock.now();
                schedule.next_claim = now.checked_add(wait).unwrap_or(now);
            }
            let next = schedule.next_minute.min(schedule.next_claim);
            let sleep = next.duration_since(machine.clock.now()).unwrap_or_default();
            machine.clock.sleep(sleep).await;
            // A clock whose sleeps take no time must not take all of the runtime's.
            yield_now().await;
        }
    }

    /// Renews the access tokens that are in use, before their users would have to.
    fn keep_warm(self: &Arc<Self>) {
        for manager in self.fleet.managers.tidy(self.fleet.blueprint.machine.clock.now()) {
            if !manager.is_to_be_kept_warm() {
                continue;
            }
            let worker = Arc::clone(self);
            let work = async move {
                let Ok(_slot) = worker.fleet.slots.acquire().await else { return };
                within(worker.stop.clone().stopped(), manager.keep_warm(worker.callers.as_ref())).await;
            };
            // Without a runtime there is nothing that could be kept.
            let _ = self.fleet.blueprint.machine.executor.spawn(Box::pin(work));
        }
    }

    /// Claims what is due, and starts to renew it: in a round, what that round has not claimed before.
    pub(super) async fn claim(
        self: &Arc<Self>,
        store_failures: &mut u32,
        mut round: Option<&mut Round>,
    ) -> Next {
        let Inner { slots, blueprint, .. } = &*self.fleet;
        let machine = &blueprint.machine;
        let (batch, is_trying) = {
            let pace = self.pace();
            (pace.batch(), pace.is_trying())
        };
        // Half of a batch at least, so that a claim is worth its statement. A token that tries whether Concur is there again comes
        // alone.
        let least = if is_trying { self.fleet.concurrent } else { batch.div_ceil(2) };
        let Some(mut free) = take(slots, least).await else { return Next::DueIn(MINUTE) };
        // Those whose slots these were may have failed.
        let pause = self.pace().pause(machine.clock.now());
        if !pause.is_zero() {
            return Next::Paused(pause);
        }
        // No more than a batch, and no less if so many are free.
        drop(free.split(free.num_permits().saturating_sub(batch)));
        let more = (batch - free.num_permits()).min(slots.available_permits());
        if let Some(more) = try_take(slots, more) {
            free.merge(more);
        }
        let most = free.num_permits();
        let asked_at = machine.clock.monotonic();
        match self.fleet.claim_due(most).await {
            Ok(DueTokens { tokens, next, failed }) => {
                *store_failures = 0;
                for teller in failed.iter().filter_map(|name| round.as_mut()?.take(name)) {
                    teller.tell_failed();
                }
                let claimed = tokens.len();
                for token in tokens {
                    let teller = round.as_mut().map(|round| round.take(&token.principal));
                    if let Some(None) = teller {
                        self.manager_of(&token).decline(token.lock).await;
                        continue;
                    }
                    // A store that claims more than it was asked for gives those back.
                    let Some(slot) = free.split(1) else { break };
                    self.renew(token, asked_at, slot, teller.flatten());
                }
                // There may be more.
                let is_all = claimed < most;
                Next::DueIn(if is_all { next.unwrap_or(MINUTE).min(MINUTE) } else { Duration::ZERO })
            }
            Err(error) => {
                let store = self.fleet.store.describe();
                log::event!(warn, store, %error, cause = log::causes(&error), "could not find out which tokens are due");
                let wait = jittered(STORE_FAILS.nth(*store_failures), machine.random.fraction());
                *store_failures = store_failures.saturating_add(1);
                Next::StoreFails(error, wait)
            }
        }
    }

    fn manager_of(&self, DueToken { principal, kind, .. }: &DueToken) -> TokenManager {
        self.fleet.manager(*kind, principal, AskedBy::Worker)
    }

    fn renew(
        self: &Arc<Self>,
        due: DueToken,
        asked_at: Duration,
        slot: OwnedSemaphorePermit,
        teller: Option<Teller>,
    ) {
        let manager = self.manager_of(&due);
        let worker = Arc::clone(self);
        let work = async move {
            let renewal = manager.renew_due(due.lock, asked_at, worker.callers.as_ref());
            let due = within(worker.stop.clone().stopped(), renewal).await;
            manager.give_back().await;
            if let (Some(teller), Some(due)) = (teller, &due) {
                teller.tell(due);
            }
            worker.learn(due);
            drop(slot);
        };
        // Without a runtime the lock is dropped, which gives it back.
        let _ = self.fleet.blueprint.machine.executor.spawn(Box::pin(work));
    }

    fn learn(&self, due: Option<Due>) {
        let machine = &self.fleet.blueprint.machine;
        match due {
            Some(Due::Renewed) => self.pace().succeeded(),
            Some(Due::Failed(error)) => {
                self.pace().failed(&error, machine.clock.now(), machine.random.fraction());
            }
            Some(Due::NotNeeded) | None => {}
        }
    }

    pub(super) fn pace(&self) -> MutexGuard<'_, Pace> {
        locked(&self.pace)
    }
}

async fn take(slots: &Arc<Semaphore>, count: usize) -> Option<OwnedSemaphorePermit> {
    Arc::clone(slots).acquire_many_owned(u32::try_from(count).ok()?).await.ok()
}

fn try_take(slots: &Arc<Semaphore>, count: usize) -> Option<OwnedSemaphorePermit> {
    Arc::clone(slots).try_acquire_many_owned(u32::try_from(count).ok()?).ok()
}
