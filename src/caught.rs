//! Panics of the code that users plug in, made harmless: a renewal that meets one still has a token to save.

use std::{
    future::{Future, poll_fn},
    panic::{AssertUnwindSafe, catch_unwind},
    pin::pin,
    task::Poll,
};

/// The output of `call`, or what `instead` makes should it panic; it is not polled again after that.
pub(crate) async fn caught<T>(call: impl Future<Output = T>, instead: impl Fn() -> T) -> T {
    let mut call = pin!(call);
    poll_fn(|context| {
        let polled = catch_unwind(AssertUnwindSafe(|| call.as_mut().poll(context)));
        polled.unwrap_or_else(|_| Poll::Ready(instead()))
    })
    .await
}
