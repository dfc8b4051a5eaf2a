//! Credentials in environment variables.

use std::env::{self, VarError};

use zeroize::Zeroizing;

use crate::{AppCredentials, CredentialSource, Credentials, Error, ErrorKind, credentials::Origin};

/// Credentials from the environment, for containers and serverless functions.
///
/// `CONCUR_APP_ID` and `CONCUR_CLIENT_SECRET` must be set; `CONCUR_COMPANY_UUID` and
/// `CONCUR_COMPANY_REQUEST_TOKEN` only when a token must be obtained.
///
/// ```
/// use concur_auth::{EnvCredentials, MemoryStore, TokenManager};
///
/// let tokens = TokenManager::builder().credentials(EnvCredentials).store(MemoryStore::new()).build()?;
/// # Ok::<(), concur_auth::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default)]
#[allow(clippy::exhaustive_structs, reason = "a name for the environment has no parts to add")]
pub struct EnvCredentials;

impl CredentialSource for EnvCredentials {
    async fn credentials(&self) -> Result<Credentials, Error> {
        let (id, secret) = (variable("CONCUR_APP_ID")?, variable("CONCUR_CLIENT_SECRET")?);
        let (uuid, token) = (variable("CONCUR_COMPANY_UUID")?, variable("CONCUR_COMPANY_REQUEST_TOKEN")?);
        let credentials = Credentials::new(&*id, &*secret).company(&*uuid, &*token);
        Ok(credentials.with_origin(Origin::Environment))
    }
}

impl AppCredentials {
    /// From the environment variables `CONCUR_APP_ID` and `CONCUR_CLIENT_SECRET`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::CredentialsNeeded`] when one of them is not set; [`ErrorKind::CredentialsInvalid`] when one is not UTF-8
    /// text.
    pub fn from_env() -> Result<Self, Error> {
        let (id, secret) = (variable("CONCUR_APP_ID")?, variable("CONCUR_CLIENT_SECRET")?);
        let app = Self::of(Credentials::new(&*id, &*secret).with_origin(Origin::Environment));
        app.check()?;
        Ok(app)
    }
}

/// A variable's text; blank if the variable is not set.
fn variable(name: &'static str) -> Result<Zeroizing<String>, Error> {
    match env::var(name) {
        Ok(value) => Ok(Zeroizing::new(value)),
        Err(VarError::NotPresent) => Ok(Zeroizing::default()),
        Err(VarError::NotUnicode(_)) => Err(Error::new(
            ErrorKind::CredentialsInvalid,
            format!("the environment variable {name} is not UTF-8 text; set it again"),
        )),
    }
}
