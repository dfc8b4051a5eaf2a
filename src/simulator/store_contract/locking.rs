//! The lock of a store, as handles on several threads see it.
//!
//! Always: a call is waited for by counting short pauses, not until a point in time, so that a machine that stands still for
//! a while does not make a good store look slow.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    sync::{Arc, Barrier},
    task::Poll,
    time::Duration,
};

use tokio::sync::oneshot;

use super::{UNLOCKED, breach, require};
use crate::{
    BoxedStore, Clock as _, Error, StoreLock, SystemClock, TokenStore as _,
    machine::{Executor as _, Threads},
};

const SHORTEST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(20);
pub(super) const SECOND: Duration = Duration::from_secs(1);
/// On one thread, a store that waits between its look and its lock is caught in the first round.
const ROUNDS_INTERLEAVED: usize = 8;
/// On several threads that is a matter of luck.
const ROUNDS_AT_ONCE: usize = 24;
const NEVER_WAITS: &str = "try_lock never waits: it answers None while the lock is held";
pub(super) const EXCLUDES: &str = "while the lock is held, try_lock gives None";

impl BoxedStore {
    /// Unlocks, as long as that takes no longer than a second.
    pub(super) async fn unlock_in_time(&self, lock: StoreLock) -> Result<(), Error> {
        let store = self.clone();
        let answer = within(SECOND, begin(async move { store.unlock(lock).await })?).await?;
        answer.ok_or_else(|| breach(UNLOCKED))
    }
}

/// Runs `work` as a manager would: on this crate's runtime, on a thread that it may block.
pub(super) fn begin<T: Send + 'static>(
    work: impl Future<Output = T> + Send + 'static,
) -> Result<oneshot::Receiver<T>, Error> {
    let (tell, told) = oneshot::channel();
    Threads.spawn_blocking(Box::pin(async move {
        let _ = tell.send(work.await);
    }))?;
    Ok(told)
}

/// What `told` says within `time`, more or less.
pub(super) async fn within<T>(time: Duration, told: oneshot::Receiver<T>) -> Result<Option<T>, Error> {
    let mut told = pin!(told);
    for pause in pauses_in(time) {
        let mut pause = SystemClock.sleep(pause);
        let answer = poll_fn(|context| match told.as_mut().poll(context) {
            Poll::Ready(answer) => Poll::Ready(Some(answer)),
            Poll::Pending => pause.as_mut().poll(context).map(|()| None),
        });
        match answer.await {
            Some(Ok(answer)) => return Ok(Some(answer)),
            Some(Err(_)) => return Err(breach("a call of the store ends without a panic")),
            None => {}
        }
    }
    Ok(None)
}

/// Pauses that double, as a manager's do, and together take `time`.
fn pauses_in(time: Duration) -> impl Iterator<Item = Duration> {
    let (mut left, mut next) = (time, SHORTEST_PAUSE);
    std::iter::from_fn(move || {
        let pause = next.min(left);
        left -= pause;
        next = (2 * next).min(LONGEST_PAUSE);
        (!pause.is_zero()).then_some(pause)
    })
}

/// The lock, which another holder may still be about to free; `promise` is broken if that takes longer than a second.
pub(super) async fn acquire(store: &BoxedStore, promise: &str) -> Result<StoreLock, Error> {
    acquire_within(SECOND, store, promise).await
}

pub(super) async fn acquire_within(
    time: Duration,
    store: &BoxedStore,
    promise: &str,
) -> Result<StoreLock, Error> {
    for pause in pauses_in(time) {
        if let Some(lock) = answer_of_try_lock(store).await? {
            return Ok(lock);
        }
        SystemClock.sleep(pause).await;
    }
    answer_of_try_lock(store).await?.ok_or_else(|| breach(promise))
}

/// On a thread of its own, so that a call that blocks its thread is noticed, too.
async fn answer_of_try_lock(store: &BoxedStore) -> Result<Option<StoreLock>, Error> {
    let store = store.clone();
    let answer = within(SECOND, begin(async move { store.try_lock().await })?).await?;
    answer.unwrap_or_else(|| Err(breach(NEVER_WAITS)))
}

/// While the lock is held elsewhere.
pub(super) async fn answers_while_held(other: &BoxedStore, excludes: bool) -> Result<(), Error> {
    let locked = answer_of_try_lock(other).await?;
    require(locked.is_none() || !excludes, EXCLUDES)
}

pub(super) async fn still_held(other: &BoxedStore, promise: &str) -> Result<(), Error> {
    require(answer_of_try_lock(other).await?.is_none(), promise)
}

/// Of handles that ask for the lock at the same time, one at most gets it.
pub(super) async fn lets_one_in(handles: &[BoxedStore]) -> Result<(), Error> {
    for _ in 0..ROUNDS_INTERLEAVED {
        round(handles, Asked::Interleaved).await?;
    }
    for _ in 0..ROUNDS_AT_ONCE {
        round(handles, Asked::OnThreads).await?;
    }
    Ok(())
}

#[derive(Clone, Copy)]
enum Asked {
    Interleaved,
    OnThreads,
}

/// Asks until a handle gets the lock: an unlock that takes a while may still be under way.
async fn round(handles: &[BoxedStore], asked: Asked) -> Result<(), Error> {
    for pause in pauses_in(SECOND) {
        let locks = match asked {
            Asked::Interleaved => interleaved(handles).await?,
            Asked::OnThreads => on_threads(handles).await?,
        };
        let holders = locks.iter().flatten().count();
        require(holders <= 1, "of handles that ask for the lock at the same time, one gets it")?;
        for (store, lock) in handles.iter().zip(locks) {
            if let Some(lock) = lock {
                return store.unlock_in_time(lock).await;
            }
        }
        SystemClock.sleep(pause).await;
    }
    Err(breach(UNLOCKED))
}

/// Every handle's call is polled once before any is polled again: a store that awaits between its look at the lock and
/// taking the lock gives the lock to all of them.
async fn interleaved(handles: &[BoxedStore]) -> Result<Vec<Option<StoreLock>>, Error> {
    let mut calls: Vec<_> = handles.iter().map(|store| (Box::pin(store.try_lock()), None)).collect();
    poll_fn(|context| {
        for (call, answer) in calls.iter_mut().filter(|(_, answer)| answer.is_none()) {
            if let Poll::Ready(ready) = call.as_mut().poll(context) {
                *answer = Some(ready);
            }
        }
        if calls.iter().all(|(_, answer)| answer.is_some()) { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    calls.into_iter().filter_map(|(_, answer)| answer).collect()
}

async fn on_threads(handles: &[BoxedStore]) -> Result<Vec<Option<StoreLock>>, Error> {
    let start = Arc::new(Barrier::new(handles.len()));
    let mut calls = Vec::new();
    for store in handles {
        let (store, start) = (store.clone(), Arc::clone(&start));
        calls.push(begin(async move {
            start.wait();
            store.try_lock().await
        })?);
    }
    let mut locks = Vec::new();
    for call in calls {
        locks.push(within(10 * SECOND, call).await?.unwrap_or_else(|| Err(breach(NEVER_WAITS)))?);
    }
    Ok(locks)
}
