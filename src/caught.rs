//! Panics in a user's store, source or clock, made harmless: the renewal that meets one may still have a token to save.

use std::{
    future::{Future, poll_fn},
    panic::{AssertUnwindSafe, catch_unwind},
    pin::pin,
    sync::{Mutex, MutexGuard, PoisonError},
    task::Poll,
};

/// The mutex's value, even after a thread panicked with it. This crate replaces each value behind a mutex in one step,
/// so a panic leaves the value intact, and to stop because of it could lose a token.
pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The output of `call`, or of `instead` if `call` panics; it is not polled again after that.
pub(crate) async fn caught<T>(call: impl Future<Output = T>, instead: impl Fn() -> T) -> T {
    let mut call = pin!(call);
    poll_fn(|context| {
        let polled = catch_unwind(AssertUnwindSafe(|| call.as_mut().poll(context)));
        polled.unwrap_or_else(|_| Poll::Ready(instead()))
    })
    .await
}
