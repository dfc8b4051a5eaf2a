//! Panics of the code that users plug in, turned into errors: a renewal that meets one still has a token to save.

use std::{
    future::{Future, poll_fn},
    panic::{AssertUnwindSafe, catch_unwind},
    pin::pin,
    task::Poll,
};

use crate::Error;

/// The outcome of `call`; `panicked` makes the error, should it panic. Not polled again after that.
pub(crate) async fn caught<T>(
    call: impl Future<Output = Result<T, Error>>,
    panicked: impl Fn() -> Error,
) -> Result<T, Error> {
    let mut call = pin!(call);
    poll_fn(|context| {
        let polled = catch_unwind(AssertUnwindSafe(|| call.as_mut().poll(context)));
        polled.unwrap_or_else(|_| Poll::Ready(Err(panicked())))
    })
    .await
}
