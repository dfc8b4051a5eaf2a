//! One world, as every part of it knows it: its time, its plan and its books.

use std::{
    future::pending,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use super::{
    super::world::{Watch, World},
    books::{Books, Number},
    plan::{Kind, Plan},
    planted::Bug,
};
use crate::{Clock as _, Error, RefreshTokenObject, caught::locked};

pub(super) const SECOND: Duration = Duration::from_secs(1);
/// From the check of the lease to the answer. So long after its issue, too, an access token may begin to count.
pub(super) const LONGEST_REQUEST: Duration = Duration::from_secs(35);

/// One world, and what should not have happened in it.
pub(super) struct Run {
    pub(super) world: Arc<World>,
    pub(super) plan: Plan,
    pub(super) books: Mutex<Books>,
    pub(super) broken: Mutex<Vec<(Duration, String)>>,
    /// Which processes were suspended, for how long, and until when.
    pub(super) suspended: Mutex<Vec<(usize, Duration, Duration)>>,
    /// Steps of a store that failed.
    pub(super) store_troubles: AtomicUsize,
    pub(super) audited: AtomicUsize,
}

/// The reply that an object was made from.
pub(super) fn number_of(token: &RefreshTokenObject) -> Number {
    let access = token.access().expect("each reply has an access token");
    access.secret.expose().rsplit('-').next().unwrap().parse().unwrap()
}

impl Run {
    pub(super) fn new(seed: u64, bug: Option<Bug>) -> Arc<Self> {
        let plan = Plan::draw(seed, bug);
        Arc::new(Self {
            world: World::new(seed),
            plan,
            books: Mutex::default(),
            broken: Mutex::default(),
            suspended: Mutex::default(),
            store_troubles: AtomicUsize::new(0),
            audited: AtomicUsize::new(0),
        })
    }

    pub(super) fn has(&self, bug: Bug) -> bool {
        self.plan.bug == Some(bug)
    }

    pub(super) fn books(&self) -> MutexGuard<'_, Books> {
        locked(&self.books)
    }

    /// What is saved in one step.
    pub(super) fn saved_and_shown(&self, company: usize, number: Number) {
        let mut books = self.books();
        let books = books.company(company);
        books.saved(self.now(), number);
        books.shown(self.now(), number);
    }

    pub(super) fn breaks(&self, promise: impl Into<String>) {
        locked(&self.broken).push((self.now(), promise.into()));
    }

    pub(super) fn breaks_if(&self, is_broken: bool, promise: impl FnOnce() -> String) {
        if is_broken {
            self.breaks(promise());
        }
    }

    pub(super) fn now(&self) -> Duration {
        self.world.passed()
    }

    pub(super) fn chance_always(&self, probability: f64) -> bool {
        locked(&self.world.dice).f64() < probability
    }

    /// Of something that goes wrong, while things go wrong.
    pub(super) fn chance(&self, probability: f64) -> bool {
        probability > 0.0 && self.now() < self.plan.trouble_until && self.chance_always(probability)
    }

    pub(super) fn below(&self, end: usize) -> usize {
        locked(&self.world.dice).usize(..end)
    }

    pub(super) async fn pause(&self, time: Duration) {
        Watch(Arc::clone(&self.world)).sleep(time).await;
    }

    /// From a millisecond on, short times as often as long ones.
    pub(super) fn some_time(&self) -> Duration {
        let milliseconds = self.plan.longest_pause.as_secs_f64() * 1000.0;
        Duration::from_secs_f64(milliseconds.powf(locked(&self.world.dice).f64()) / 1000.0)
    }

    pub(super) fn lock_lapses(&self) -> bool {
        self.plan.kind == Kind::Row
    }

    /// How long this process was suspended in all.
    pub(super) fn suspended(&self, process: usize) -> Duration {
        locked(&self.suspended).iter().filter(|(who, ..)| *who == process).map(|(_, time, _)| *time).sum()
    }

    /// Whether this process was suspended since it checked its lease for the request that is under way.
    pub(super) fn was_just_suspended(&self, process: usize) -> bool {
        let since = self.now().saturating_sub(LONGEST_REQUEST);
        locked(&self.suspended).iter().any(|(who, _, until)| *who == process && *until >= since)
    }

    pub(super) async fn store_pause(&self) {
        self.pause(self.world.up_to(Duration::from_millis(20))).await;
    }

    /// One step of a store, before or after it does what it was asked for.
    pub(super) async fn store_step(&self, is_before: bool) -> Result<(), Error> {
        self.store_pause().await;
        let of = self.plan.troubles;
        if self.lock_lapses() {
            if self.chance(of.store_silent) {
                self.store_troubles.fetch_add(1, Relaxed);
                pending::<()>().await;
            }
            if self.chance(of.store_slow) {
                self.pause(self.world.up_to(8 * SECOND)).await;
            }
        }
        if self.chance(if is_before { of.store_fails } else { of.answer_lost }) {
            self.store_troubles.fetch_add(1, Relaxed);
            return Err(Error::store("the store fails", "no space left"));
        }
        Ok(())
    }
}
