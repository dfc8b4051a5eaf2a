//! The events that this crate sends to the log.
//!
//! Always: no field holds a secret, and an event never stops the work that it reports, even if the subscriber panics,
//! for example because it writes to a closed pipe or a full disk.

use std::{
    error::Error as StdError,
    future::{Future, poll_fn},
    iter::successors,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::pin,
};

use tracing::Span;

/// `event!(warn, error = %e, "what happened")`: like tracing's own macros, under the target `concur_auth`.
macro_rules! event {
    ($level:ident, $($what:tt)+) => {
        $crate::log::quietly(|| tracing::$level!(target: "concur_auth", $($what)+))
    };
}
pub(crate) use event;

pub(crate) fn quietly(tell: impl FnOnce()) {
    let _ = catch_unwind(AssertUnwindSafe(tell));
}

/// The chain of an error's causes on one line, for the field `cause`: they tell a refused connection from a full disk.
pub(crate) fn causes(error: &(dyn StdError + 'static)) -> Option<String> {
    let causes = successors(error.source(), |&cause| cause.source());
    let texts: Vec<String> = causes.map(ToString::to_string).collect();
    (!texts.is_empty()).then(|| texts.join(": "))
}

/// A span, if the subscriber can make one.
pub(crate) fn span(make: impl FnOnce() -> Span) -> Span {
    catch_unwind(AssertUnwindSafe(make)).unwrap_or_else(|_| Span::none())
}

/// Polls `work` inside `span`, as far as the subscriber does not panic.
pub(crate) async fn within<T>(span: Span, work: impl Future<Output = T>) -> T {
    let mut work = pin!(work);
    let outcome = poll_fn(|context| {
        let entered = catch_unwind(AssertUnwindSafe(|| span.enter()));
        let polled = work.as_mut().poll(context);
        quietly(|| drop(entered));
        polled
    })
    .await;
    quietly(|| drop(span));
    outcome
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("could not save")]
    struct NotSaved(#[source] NotWritten);

    #[derive(Debug, thiserror::Error)]
    #[error("could not write")]
    struct NotWritten(#[source] io::Error);

    #[test]
    fn every_cause_is_named_once() {
        let full = NotWritten(io::ErrorKind::StorageFull.into());
        assert_eq!(causes(&NotSaved(full)).unwrap(), "could not write: no storage space");
        assert_eq!(causes(&io::Error::from(io::ErrorKind::NotFound)), None);
    }
}
