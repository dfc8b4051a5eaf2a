//! An app's id and secret, without the companies and users that it acts for.

use std::fmt;

use super::{Credentials, Origin};
use crate::Error;

/// An app's client id and secret, for a [`Fleet`](crate::Fleet) of companies and users that it acts for.
///
/// ```
/// use concur_auth::AppCredentials;
///
/// let app = AppCredentials::new("my-app-id", "my-client-secret");
/// assert_eq!(format!("{app:?}"), "AppCredentials { .. }");
/// ```
#[derive(Clone)]
pub struct AppCredentials(Credentials);

impl AppCredentials {
    /// The app's client id ("App ID") and client secret.
    pub fn new(app_id: impl AsRef<str>, client_secret: impl AsRef<str>) -> Self {
        Self(Credentials::new(app_id, client_secret))
    }

    pub(crate) fn of(credentials: Credentials) -> Self {
        Self(credentials)
    }

    pub(crate) fn check(&self) -> Result<(), Error> {
        self.0.require_app()
    }

    pub(crate) fn app_id(&self) -> &str {
        self.0.app_id()
    }

    /// For a company of a fleet, which signs in by the fleet's `connect` alone.
    pub(crate) fn for_company(&self, uuid: &str) -> Credentials {
        self.for_member().company(uuid, "")
    }

    /// The same for a user.
    pub(crate) fn for_user(&self, uuid: &str) -> Credentials {
        self.for_member().for_user(uuid)
    }

    /// The same for a principal that is not known yet.
    pub(crate) fn for_member(&self) -> Credentials {
        self.0.clone().with_origin(Origin::Fleet)
    }
}

/// The app's part of any credentials, such as those of a [`CredentialsFile`](crate::CredentialsFile), with their base URI.
impl From<Credentials> for AppCredentials {
    fn from(credentials: Credentials) -> Self {
        Self(credentials.of_the_app_alone())
    }
}

impl fmt::Debug for AppCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AppCredentials").finish_non_exhaustive()
    }
}
