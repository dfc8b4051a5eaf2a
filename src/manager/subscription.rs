//! Subscriptions to changes of the status.
//!
//! Always: a slow subscriber delays no renewal. It may miss states in between, but never the final state.

use std::{fmt, sync::Arc};

use tokio::sync::watch;

use super::core::Core;
use crate::Status;

/// A subscription to a manager's status, from [`TokenManager::subscribe`](crate::TokenManager::subscribe).
///
/// ```
/// # use concur_auth::{Credentials, MemoryStore, RefreshTokenObject, TokenManager};
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), concur_auth::Error> {
/// # let token = RefreshTokenObject::from_json(r#"{"refresh_token": "r"}"#)?;
/// # let tokens = TokenManager::builder().credentials(Credentials::new("a", "s")).store(MemoryStore::new()).build()?;
/// let mut changes = tokens.subscribe().await;
/// let watcher = tokio::spawn(async move {
///     while let Some(status) = changes.next().await {
///         println!("{status}");
///     }
/// });
/// tokens.adopt(token).await?;
/// drop(tokens);
/// watcher.await.unwrap();
/// # Ok(()) }
/// ```
pub struct StatusSubscription(watch::Receiver<Status>);

impl StatusSubscription {
    pub(super) fn new(core: &Arc<Core>) -> Self {
        Self(core.subscribe())
    }

    /// Waits for the next change and returns the newest status; `None` once the manager and all its clones are gone.
    pub async fn next(&mut self) -> Option<Status> {
        self.0.changed().await.ok()?;
        Some(self.0.borrow_and_update().clone())
    }
}

impl fmt::Debug for StatusSubscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("StatusSubscription").field(&*self.0.borrow()).finish()
    }
}
