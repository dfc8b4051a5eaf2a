//! What an app sends to Concur to identify itself, with the company or the user that it acts for.

mod app;
mod missing;

use std::{fmt, path::PathBuf, sync::Arc};

pub use self::app::AppCredentials;
use crate::{principal::Principal, secret::Secret};

/// An app's client id and secret, and the company or user it acts for.
///
/// A value of this type is a [`CredentialSource`](crate::CredentialSource) itself. White space around a part is
/// dropped, and blank parts count as absent: they come from templates.
///
/// ```
/// use concur_auth::Credentials;
///
/// let credentials = Credentials::new("my-app-id", "my-client-secret")
///     .company("b3f4e2a0-0000-4000-8000-000000000000", "at-0123456789abcdefghijklmnopqr");
/// assert_eq!(format!("{credentials:?}"), "Credentials { .. }");
/// ```
///
/// Source: SAP Concur developer centre, "Authentication API, password grant" and "Tutorial 2".
#[derive(Clone)]
pub struct Credentials(Arc<Parts>);

#[derive(Clone)]
struct Parts {
    origin: Origin,
    app_id: String,
    client_secret: Secret,
    who: WhoSignsIn,
    /// The company's UUID, or the user's name.
    username: Option<String>,
    /// The company request token, or the user's password.
    password: Option<Secret>,
    user_uuid: Option<String>,
    base_uri: Option<String>,
}

/// The owner of the name and the secret of a first sign-in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WhoSignsIn {
    Company,
    User,
}

/// Where credentials came from, so that errors can use the names that the person who wrote them knows.
#[derive(Clone)]
pub(crate) enum Origin {
    Code,
    File(PathBuf),
    Environment,
    /// The company or user is a member of a fleet.
    Fleet,
}

impl Credentials {
    /// The app's client id ("App ID") and client secret.
    pub fn new(app_id: impl AsRef<str>, client_secret: impl AsRef<str>) -> Self {
        Self(Arc::new(Parts {
            origin: Origin::Code,
            app_id: app_id.as_ref().trim().to_owned(),
            client_secret: Secret::new(client_secret.as_ref().trim()),
            who: WhoSignsIn::Company,
            username: None,
            password: None,
            user_uuid: None,
            base_uri: None,
        }))
    }

    /// The company to sign in: its UUID, and the company request token (24 hours, at most five uses).
    ///
    /// Both are needed only when a token must be obtained; the request token may be blank later.
    #[must_use]
    pub fn company(self, uuid: impl AsRef<str>, request_token: impl AsRef<str>) -> Self {
        self.signs_in(WhoSignsIn::Company, uuid.as_ref(), request_token.as_ref().trim())
    }

    /// The user to sign in, with the password, instead of a company.
    ///
    /// Both are needed only when a token must be obtained. Wrong passwords lock the account.
    ///
    /// ```
    /// use concur_auth::Credentials;
    ///
    /// let app = Credentials::new("my-app-id", "my-client-secret");
    /// let credentials = app.user("ada@example.com", "a secret");
    /// assert_eq!(credentials.company_uuid(), None);
    /// ```
    #[must_use]
    pub fn user(self, name: impl AsRef<str>, password: impl AsRef<str>) -> Self {
        self.signs_in(WhoSignsIn::User, name.as_ref(), password.as_ref())
    }

    fn signs_in(self, who: WhoSignsIn, username: &str, password: &str) -> Self {
        let username = username.trim();
        self.change(|parts| {
            parts.who = who;
            parts.username = (!username.is_empty()).then(|| username.to_owned());
            parts.password = Some(Secret::new(password)).filter(|password| !password.is_blank());
        })
    }

    /// The user whose tokens these credentials are for: the UUID, which is `sub` in Concur's `id_token`.
    ///
    /// A stored token that names another owner is then refused, as another company's token is.
    ///
    /// ```
    /// use concur_auth::Credentials;
    ///
    /// let app = Credentials::new("my-app-id", "my-client-secret");
    /// let of_one_traveller = app.clone().for_user("5b8a4c3e-0000-4000-8000-000000000000");
    /// ```
    #[must_use]
    pub fn for_user(self, uuid: impl AsRef<str>) -> Self {
        let uuid = uuid.as_ref().trim();
        self.change(|parts| parts.user_uuid = (!uuid.is_empty()).then(|| uuid.to_owned()))
    }

    /// The base URI to sign in at, if the builder names none.
    #[must_use]
    pub fn base_uri(self, uri: impl AsRef<str>) -> Self {
        let uri = uri.as_ref().trim();
        self.change(|parts| parts.base_uri = (!uri.is_empty()).then(|| uri.to_owned()))
    }

    /// Without the company or user.
    pub(crate) fn of_the_app_alone(self) -> Self {
        self.change(|parts| {
            parts.who = WhoSignsIn::Company;
            (parts.username, parts.password, parts.user_uuid) = (None, None, None);
        })
    }

    pub(crate) fn with_origin(self, origin: Origin) -> Self {
        self.change(|parts| parts.origin = origin)
    }

    fn change(mut self, change: impl FnOnce(&mut Parts)) -> Self {
        change(Arc::make_mut(&mut self.0));
        self
    }

    pub(crate) fn app_id(&self) -> &str {
        &self.0.app_id
    }

    pub(crate) fn client_secret(&self) -> &str {
        self.0.client_secret.expose()
    }

    /// The company's UUID, if known.
    #[must_use]
    pub fn company_uuid(&self) -> Option<&str> {
        self.0.username.as_deref().filter(|_| self.0.who == WhoSignsIn::Company)
    }

    /// The owner that tokens must have, as far as that is known.
    pub(crate) fn principal(&self) -> Option<Principal> {
        match (&self.0.user_uuid, self.company_uuid()) {
            (Some(user), _) => Some(Principal::User(user.clone())),
            (None, Some(company)) => Some(Principal::Company(company.to_owned())),
            (None, None) => None,
        }
    }

    /// All parts that Concur judges: a refusal holds as long as none of them changes.
    pub(crate) fn identifying_parts(&self) -> [Option<&str>; 4] {
        let Parts { app_id, client_secret, username, password, .. } = &*self.0;
        [
            Some(app_id),
            Some(client_secret.expose()),
            username.as_deref(),
            password.as_ref().map(Secret::expose),
        ]
    }

    pub(crate) fn own_base_uri(&self) -> Option<&str> {
        self.0.base_uri.as_deref()
    }

    /// The place where a person changes the credentials.
    pub(crate) fn place(&self) -> String {
        match &self.0.origin {
            Origin::Code => "the Credentials".to_owned(),
            Origin::Fleet => "the fleet".to_owned(),
            Origin::File(path) => path.display().to_string(),
            Origin::Environment => "the environment variable CONCUR_COMPANY_REQUEST_TOKEN".to_owned(),
        }
    }

    /// The place of the credentials' own base URI.
    pub(crate) fn place_of_base_uri(&self) -> String {
        match &self.0.origin {
            Origin::Code | Origin::Environment | Origin::Fleet => {
                "the base URI of the Credentials".to_owned()
            }
            Origin::File(path) => format!("baseURI in {}", path.display()),
        }
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").finish_non_exhaustive()
    }
}
