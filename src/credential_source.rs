//! Where credentials come from.

mod credentials_file;
mod env;

use std::{
    fmt,
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    time::Duration,
};

pub use self::{credentials_file::CredentialsFile, env::EnvCredentials};
use crate::{Credentials, Error, ErrorKind, caught::caught, clock::within, machine::Executor};

/// How long a source may take. Real time: a real server is waited for.
const DEADLINE: Duration = Duration::from_secs(30);

/// Where a [`TokenManager`](crate::TokenManager) takes its credentials from.
///
/// The manager asks the source once at first use and once per renewal, and not while a valid token is served, unless
/// [`has_changed`](Self::has_changed) says so: a source may be slow, and the credentials may change while the program runs.
/// Whose tokens are kept is what the source said last.
///
/// ```
/// use concur_auth::{CredentialSource, Credentials, Error};
///
/// #[derive(Debug)]
/// struct Vault;
///
/// impl CredentialSource for Vault {
///     async fn credentials(&self) -> Result<Credentials, Error> {
///         Ok(Credentials::new("the app's id", "a secret from the vault"))
///     }
/// }
/// # let _ = concur_auth::TokenManager::builder().credentials(Vault);
/// ```
///
/// # Where a source runs
///
/// As a [`TokenStore`](crate::TokenStore) does: inside this crate's tokio runtime, on threads that it may block, so a
/// connection that it opens there lives as long as the process. A client that connects, or starts background tasks, when
/// it is made must be made there too, with [`on_runtime`](crate::on_runtime). A call must not start or enter another
/// runtime. After 30 s it is dropped, and the renewal fails with an error that passes. Only
/// [`load_from`](crate::TokenManager::load_from) reads its `credentials.json` in place, on its caller's task.
pub trait CredentialSource: fmt::Debug + Send + Sync + 'static {
    /// The credentials as they are now.
    ///
    /// # Errors
    ///
    /// [`Error::credentials`] with a message that names the place and says what to do next.
    fn credentials(&self) -> impl Future<Output = Result<Credentials, Error>> + Send;

    /// Whether the credentials may differ from those that were returned last, so that
    /// [`get_valid_refresh_token`](crate::TokenManager::get_valid_refresh_token) asks for them although a valid token is
    /// stored. `false` unless a source says otherwise.
    ///
    /// Asked at each such call, on the caller's task, so it should take as long as one `stat` and no longer.
    fn has_changed(&self) -> bool {
        false
    }
}

impl CredentialSource for Credentials {
    async fn credentials(&self) -> Result<Credentials, Error> {
        Ok(self.clone())
    }
}

/// The object-safe twin, so that a manager needs no type parameter.
pub(crate) trait DynCredentialSource: fmt::Debug + Send + Sync {
    fn credentials<'a>(&'a self, executor: &'a dyn Executor) -> Asked<'a>;
    fn has_changed(&self) -> bool;
}

type Asked<'a> = Pin<Box<dyn Future<Output = Result<Credentials, Error>> + Send + 'a>>;

impl<T: CredentialSource> DynCredentialSource for T {
    fn credentials<'a>(&'a self, executor: &'a dyn Executor) -> Asked<'a> {
        let name = std::any::type_name::<T>;
        let panicked = move || {
            let message = format!("the credential source {} panicked; see the panic's message", name());
            Err(Error::new(ErrorKind::CredentialsInvalid, message))
        };
        let too_late = move || {
            let message = format!(
                "the credential source {} did not answer within {} s; check that its server runs and can be reached",
                name(),
                DEADLINE.as_secs()
            );
            Err(Error::new(ErrorKind::Unavailable, message))
        };
        Box::pin(async move {
            let asked = caught(async { CredentialSource::credentials(self).await }, panicked);
            let credentials = within(executor.wait(DEADLINE), asked).await.unwrap_or_else(too_late)?;
            credentials.require_app()?;
            Ok(credentials)
        })
    }

    /// Where that panics, the next question is the one that tells.
    fn has_changed(&self) -> bool {
        catch_unwind(AssertUnwindSafe(|| CredentialSource::has_changed(self))).unwrap_or(true)
    }
}
