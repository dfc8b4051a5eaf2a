//! Requests that end even if their caller goes away.
//!
//! Always: a request runs on this crate's own runtime, because connections belong to the runtime that opened them, and
//! the caller's runtime may end.

use std::future::Future;

use crate::{Error, ErrorKind, runtime};

/// Runs a request to its end, whether or not the returned future is dropped.
pub(super) async fn to_completion<T: Send + 'static>(
    request: impl Future<Output = Result<T, Error>> + Send + 'static,
) -> Result<T, Error> {
    runtime::handle()?.spawn(request).await.map_err(|e| {
        Error::new(ErrorKind::Config, "the request was not completed; please report this").caused_by(e)
    })?
}
