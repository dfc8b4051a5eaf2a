//! Panics, made harmless: a renewal that meets one in a user's store, source or clock still has a token to save.

use std::{
    future::{Future, poll_fn},
    panic::{AssertUnwindSafe, catch_unwind},
    pin::pin,
    sync::{Mutex, MutexGuard, PoisonError},
    task::Poll,
};

/// The mutex's value, also after a thread panicked with it. Each value that this crate keeps behind a mutex is replaced in
/// one step, so a panic leaves it as it was, and to stop over it would lose a token for nothing.
pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The output of `call`, or what `instead` makes should it panic; it is not polled again after that.
pub(crate) async fn caught<T>(call: impl Future<Output = T>, instead: impl Fn() -> T) -> T {
    let mut call = pin!(call);
    poll_fn(|context| {
        let polled = catch_unwind(AssertUnwindSafe(|| call.as_mut().poll(context)));
        polled.unwrap_or_else(|_| Poll::Ready(instead()))
    })
    .await
}
