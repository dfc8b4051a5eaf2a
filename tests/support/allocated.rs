//! What code allocates and leaves behind.

use std::{
    future::Future,
    pin::pin,
    task::{Context, Poll, Waker},
};

/// What the body leaves allocated on this thread, in bytes.
pub fn left_behind<T>(body: impl FnOnce() -> T) -> (T, i64) {
    let mut made = None;
    let info = allocation_counter::measure(|| made = Some(body()));
    (made.unwrap(), info.bytes_current)
}

/// Polls once a future that has nothing to wait for: what it allocates, it allocates on this thread.
pub fn now<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("there was something to wait for"),
    }
}
