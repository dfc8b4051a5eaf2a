//! What an app and a company present to Concur, and what to tell a person when some of it is missing.

use std::{fmt, path::PathBuf, sync::Arc};

use crate::{
    Error, ErrorKind,
    error::{APPS_PAGE, COMPANY_TOKENS_PAGE},
    secret::Secret,
};

/// An app's client id and secret, and the company it acts for.
///
/// A value of this type is a [`CredentialSource`](crate::CredentialSource) itself. Surrounding white space is
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
    company_uuid: Option<String>,
    company_request_token: Option<Secret>,
    base_uri: Option<String>,
}

/// Where credentials came from, so that errors can call each part by the name that its author knows.
#[derive(Clone)]
pub(crate) enum Origin {
    Code,
    File(PathBuf),
    Environment,
}

impl Credentials {
    /// The app's client id ("App ID") and client secret.
    pub fn new(app_id: impl AsRef<str>, client_secret: impl AsRef<str>) -> Self {
        Self(Arc::new(Parts {
            origin: Origin::Code,
            app_id: app_id.as_ref().trim().to_owned(),
            client_secret: Secret::new(client_secret.as_ref().trim()),
            company_uuid: None,
            company_request_token: None,
            base_uri: None,
        }))
    }

    /// The company to sign in: its UUID, and the company request token (24 hours, at most five uses).
    ///
    /// Both are needed only when a token has to be obtained; the token may be blank later.
    #[must_use]
    pub fn company(self, uuid: impl AsRef<str>, request_token: impl AsRef<str>) -> Self {
        self.change(|parts| {
            let (uuid, token) = (uuid.as_ref().trim(), request_token.as_ref().trim());
            parts.company_uuid = (!uuid.is_empty()).then(|| uuid.to_owned());
            parts.company_request_token = (!token.is_empty()).then(|| Secret::new(token));
        })
    }

    /// The base URI to sign in at, where the builder names none.
    #[must_use]
    pub fn base_uri(self, uri: impl AsRef<str>) -> Self {
        let uri = uri.as_ref().trim();
        self.change(|parts| parts.base_uri = (!uri.is_empty()).then(|| uri.to_owned()))
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
        self.0.company_uuid.as_deref()
    }

    /// All that Concur judges: a refusal stands as long as none of them changes.
    pub(crate) fn identifying_parts(&self) -> [Option<&str>; 4] {
        let Parts { app_id, client_secret, company_uuid, company_request_token, .. } = &*self.0;
        [
            Some(app_id),
            Some(client_secret.expose()),
            company_uuid.as_deref(),
            company_request_token.as_ref().map(Secret::expose),
        ]
    }

    pub(crate) fn own_base_uri(&self) -> Option<&str> {
        self.0.base_uri.as_deref()
    }

    /// Where a person would change them.
    pub(crate) fn place(&self) -> String {
        match &self.0.origin {
            Origin::Code => "the Credentials".to_owned(),
            Origin::File(path) => path.display().to_string(),
            Origin::Environment => "the environment variable CONCUR_COMPANY_REQUEST_TOKEN".to_owned(),
        }
    }

    /// Where their own base URI stands.
    pub(crate) fn place_of_base_uri(&self) -> String {
        match &self.0.origin {
            Origin::Code | Origin::Environment => "the base URI of the Credentials".to_owned(),
            Origin::File(path) => format!("baseURI in {}", path.display()),
        }
    }

    /// Checks what every use needs.
    pub(crate) fn require_app(&self) -> Result<(), Error> {
        if !self.0.app_id.is_empty() && !self.0.client_secret.is_blank() {
            return Ok(());
        }
        Err(self.blank(
            &[(self.0.app_id.is_empty(), Part::AppId), (self.0.client_secret.is_blank(), Part::ClientSecret)],
            &format!("the app's page {APPS_PAGE} shows both"),
        ))
    }

    /// The company's UUID and request token, which a first sign-in needs.
    pub(crate) fn require_company(&self) -> Result<(&str, &str), Error> {
        if let (Some(uuid), Some(token)) = (&self.0.company_uuid, &self.0.company_request_token) {
            return Ok((uuid, token.expose()));
        }
        let hint = format!(
            "a token has to be obtained, so create a company request token at {COMPANY_TOKENS_PAGE} \
             (it lives 24 hours)"
        );
        Err(self.blank(
            &[
                (self.0.company_uuid.is_none(), Part::CompanyUuid),
                (self.0.company_request_token.is_none(), Part::CompanyRequestToken),
            ],
            &hint,
        ))
    }

    fn blank(&self, parts: &[(bool, Part)], hint: &str) -> Error {
        let names: Vec<&str> =
            parts.iter().filter(|(blank, _)| *blank).map(|(_, part)| part.name(&self.0.origin)).collect();
        let (verb, them) = if names.len() == 1 { ("is", "it") } else { ("are", "them") };
        let names = names.join(" and ");
        let message = match &self.0.origin {
            Origin::Code => format!("{names} {verb} blank in the Credentials; {hint}, then pass {them}"),
            Origin::File(path) => {
                format!("{names} {verb} blank in {}; {hint}, then fill {them} in", path.display())
            }
            Origin::Environment => {
                format!("{names} {verb} not set in the environment; {hint}, then set {them}")
            }
        };
        Error::new(ErrorKind::CredentialsNeeded, message)
    }
}

#[derive(Clone, Copy)]
enum Part {
    AppId,
    ClientSecret,
    CompanyUuid,
    CompanyRequestToken,
}

impl Part {
    fn name(self, origin: &Origin) -> &'static str {
        match (self, origin) {
            (Self::AppId, Origin::File(_)) => "appID",
            (Self::ClientSecret, Origin::File(_)) => "clientSecret",
            (Self::CompanyUuid, Origin::File(_)) => "companyUUID",
            (Self::CompanyRequestToken, Origin::File(_)) => "companyRequestToken",
            (Self::AppId, Origin::Environment) => "CONCUR_APP_ID",
            (Self::ClientSecret, Origin::Environment) => "CONCUR_CLIENT_SECRET",
            (Self::CompanyUuid, Origin::Environment) => "CONCUR_COMPANY_UUID",
            (Self::CompanyRequestToken, Origin::Environment) => "CONCUR_COMPANY_REQUEST_TOKEN",
            (Self::AppId, Origin::Code) => "the app id",
            (Self::ClientSecret, Origin::Code) => "the client secret",
            (Self::CompanyUuid, Origin::Code) => "the company UUID",
            (Self::CompanyRequestToken, Origin::Code) => "the company request token",
        }
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").finish_non_exhaustive()
    }
}
