//! The twins of `crate::sync` for unit tests. In a schedule each first lets the other threads run, and blocks where the
//! scheduler sees it; elsewhere each is what it stands for. Here are also the faults that tests plant.
//!
//! Not for schedules is what lies in a `static`: tests on several threads would share what belongs to one schedule.

use std::{
    fmt,
    ops::{Deref, DerefMut},
    sync::{Arc, LockResult, PoisonError, atomic::Ordering},
    time::Duration,
};

use arc_swap::{Guard, RefCnt};

use crate::{
    caught,
    schedules::{Fault, has, is_on, step, woken_by_time},
};

pub(crate) mod watch;

#[derive(Default)]
pub(crate) struct Mutex<T> {
    /// Whose turn it is in a schedule.
    turn: shuttle::sync::Mutex<()>,
    value: std::sync::Mutex<T>,
}

/// Its parts are dropped in this order: the value is free before the next thread's turn.
pub(crate) struct MutexGuard<'a, T> {
    value: std::sync::MutexGuard<'a, T>,
    turn: Option<shuttle::sync::MutexGuard<'a, ()>>,
    mutex: &'a Mutex<T>,
}

impl<T> Mutex<T> {
    pub(crate) const fn new(value: T) -> Self {
        Self { turn: shuttle::sync::Mutex::new(()), value: std::sync::Mutex::new(value) }
    }
}

pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    let turn = is_on().then(|| mutex.turn.lock().unwrap_or_else(PoisonError::into_inner));
    MutexGuard { value: caught::locked(&mutex.value), turn, mutex }
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.value
    }
}

impl<T: fmt::Debug> fmt::Debug for Mutex<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.value.fmt(f)
    }
}

#[derive(Default)]
pub(crate) struct Condvar {
    turns: shuttle::sync::Condvar,
    threads: std::sync::Condvar,
}

pub(crate) struct Waited {
    is_timed_out: bool,
}

impl Waited {
    pub(crate) fn timed_out(&self) -> bool {
        self.is_timed_out
    }
}

impl Condvar {
    pub(crate) const fn new() -> Self {
        Self { turns: shuttle::sync::Condvar::new(), threads: std::sync::Condvar::new() }
    }

    pub(crate) fn wait_timeout<'a, T>(
        &self,
        MutexGuard { value, turn, mutex }: MutexGuard<'a, T>,
        longest: Duration,
    ) -> LockResult<(MutexGuard<'a, T>, Waited)> {
        let Some(turn) = turn else {
            let (value, waited) =
                self.threads.wait_timeout(value, longest).unwrap_or_else(PoisonError::into_inner);
            return Ok((MutexGuard { value, turn, mutex }, Waited { is_timed_out: waited.timed_out() }));
        };
        drop(value);
        if let Some(is_timed_out) = woken_by_time() {
            drop(turn);
            shuttle::thread::yield_now();
            return Ok((locked(mutex), Waited { is_timed_out }));
        }
        let turn = self.turns.wait(turn).unwrap_or_else(PoisonError::into_inner);
        let guard = MutexGuard { value: caught::locked(&mutex.value), turn: Some(turn), mutex };
        Ok((guard, Waited { is_timed_out: false }))
    }

    pub(crate) fn notify_one(&self) {
        match is_on() {
            true if has(Fault::NotifiesInVain) => {}
            true => self.turns.notify_one(),
            false => self.threads.notify_one(),
        }
    }

    pub(crate) fn notify_all(&self) {
        match is_on() {
            true if has(Fault::NotifiesInVain) => {}
            true => self.turns.notify_all(),
            false => self.threads.notify_all(),
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct AtomicU64(std::sync::atomic::AtomicU64);

impl AtomicU64 {
    pub(crate) const fn new(value: u64) -> Self {
        Self(std::sync::atomic::AtomicU64::new(value))
    }

    pub(crate) fn load(&self, ordering: Ordering) -> u64 {
        step();
        self.0.load(ordering)
    }

    pub(crate) fn store(&self, value: u64, ordering: Ordering) {
        step();
        self.0.store(value, ordering);
    }

    pub(crate) fn fetch_add(&self, value: u64, ordering: Ordering) -> u64 {
        step();
        self.0.fetch_add(if has(Fault::AddsNothing) { 0 } else { value }, ordering)
    }
}

pub(crate) struct ArcSwapOption<T>(arc_swap::ArcSwapOption<T>);

impl<T> ArcSwapOption<T> {
    pub(crate) const fn const_empty() -> Self {
        Self(arc_swap::ArcSwapOption::const_empty())
    }

    pub(crate) fn empty() -> Self {
        Self(arc_swap::ArcSwapOption::empty())
    }

    pub(crate) fn load(&self) -> Guard<Option<Arc<T>>> {
        step();
        self.0.load()
    }

    pub(crate) fn load_full(&self) -> Option<Arc<T>> {
        step();
        self.0.load_full()
    }

    pub(crate) fn store(&self, value: Option<Arc<T>>) {
        step();
        self.0.store(value);
    }

    pub(crate) fn compare_and_swap(
        &self,
        current: &Option<Arc<T>>,
        new: Option<Arc<T>>,
    ) -> Guard<Option<Arc<T>>> {
        step();
        if has(Fault::SwapsWithoutComparing) {
            self.0.store(new);
            return Guard::from_inner(current.clone());
        }
        self.0.compare_and_swap(current, new)
    }

    /// The other threads may replace the value while the function runs.
    pub(crate) fn rcu<R: Into<Option<Arc<T>>>>(
        &self,
        mut change: impl FnMut(&Option<Arc<T>>) -> R,
    ) -> Option<Arc<T>> {
        loop {
            let before = self.load_full();
            let new = change(&before).into();
            step();
            if has(Fault::ChangesWithoutComparing) {
                return self.0.swap(new);
            }
            let found = self.0.compare_and_swap(&before, new);
            if RefCnt::as_ptr(&*found) == RefCnt::as_ptr(&before) {
                return before;
            }
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct Notify(tokio::sync::Notify);

impl Notify {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn notified(&self) -> tokio::sync::futures::Notified<'_> {
        step();
        self.0.notified()
    }

    pub(crate) fn notify_waiters(&self) {
        step();
        if !has(Fault::NotifiesInVain) {
            self.0.notify_waiters();
        }
    }
}
