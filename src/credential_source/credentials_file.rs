//! `credentials.json`, as SAP's tutorial lays it out.
//!
//! Always: a file that exists is never written; a template appears whole and 0600, or not at all.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Mutex,
};

use crate::{
    CredentialSource, Credentials, Error, ErrorKind,
    caught::locked,
    credentials::Origin,
    error::{APPS_PAGE, COMPANY_TOKENS_PAGE},
    files::{self, Stamp, TempFile},
    members::{BadMember, Members},
    secret::Secret,
};

/// The template that the tutorial's first run writes for a person to fill in.
const TEMPLATE: &str = r#"{
  "appID": "",
  "clientSecret": "",
  "grantType": "password",
  "companyUUID": "",
  "companyRequestToken": "",
  "credentialType": "authtoken"
}
"#;

const ONLY_PASSWORD: &str = "set it to \"password\"; the other grants start with a browser, an e-mail or the app alone: pass \
                             them to TokenManager::sign_in or OAuthClient::request_token";
const COMPANY_OR_USER: &str = "set it to \"authtoken\" for a company (companyUUID, companyRequestToken) or to \"password\" \
                               for a user (name and password in the same two members)";

/// Credentials in a JSON file with the members of SAP's tutorial; read again at each use.
///
/// If there is no such file, a use writes a template (mode 0600) and fails with [`ErrorKind::CredentialsNeeded`]. An
/// existing file is never written. In addition to the tutorial's members (`appID`, `clientSecret`, `grantType`,
/// `companyUUID`, `companyRequestToken`, `credentialType`) an optional `baseURI` is read.
///
/// With `"credentialType": "password"` a user signs in, not a company: `companyUUID` is then the user's name and
/// `companyRequestToken` the password, since that is where the tutorial's program sends them.
///
/// ```
/// use concur_auth::{CredentialsFile, TokenManager};
///
/// let credentials = CredentialsFile::new("/etc/my-app/concur.json");
/// let tokens = TokenManager::builder().credentials(credentials).build()?;
/// # Ok::<(), concur_auth::Error>(())
/// ```
///
/// Source: SAP Concur developer centre, "Tutorial 2: refresh token management automation".
#[derive(Debug)]
pub struct CredentialsFile {
    path: PathBuf,
    /// The file's stamp when it was last read.
    last_read: Mutex<Option<Stamp>>,
}

impl Clone for CredentialsFile {
    fn clone(&self) -> Self {
        Self { path: self.path.clone(), last_read: Mutex::default() }
    }
}

impl CredentialsFile {
    /// The credentials file at `path`; it need not exist yet.
    pub fn new(path: impl AsRef<Path>) -> Self {
        let path = path.as_ref();
        // Absolute, so that errors name a place that can be found.
        Self {
            path: std::path::absolute(path).unwrap_or_else(|_| path.to_owned()),
            last_read: Mutex::default(),
        }
    }

    fn read(&self) -> Result<Credentials, Error> {
        let json = files::if_there(files::read(&self.path)).map_err(|e| {
            self.invalid("cannot be read", "check that it is a file this user may read").caused_by(e)
        })?;
        let json = json.ok_or_else(|| self.nothing_there())?;
        let members = Members::parse(&json).map_err(|fault| {
            self.invalid(&fault.to_string(), "fix it, or move it away and run again to get a blank template")
        })?;
        let text = |name| members.string(name).map_err(|bad| self.bad_member(bad));
        let required = |name| Ok::<_, Error>(text(name)?.unwrap_or_else(|| Secret::new("")));

        let is = |value: &Secret, allowed| value.expose().trim() == allowed;
        if text("grantType")?.is_some_and(|value| !is(&value, "password")) {
            return Err(self.unknown_value("grantType", ONLY_PASSWORD));
        }
        let app = Credentials::new(required("appID")?.expose(), required("clientSecret")?.expose())
            .base_uri(required("baseURI")?.expose());
        let (username, password) = (required("companyUUID")?, required("companyRequestToken")?);
        let credentials = match text("credentialType")? {
            Some(kind) if is(&kind, "password") => app.user(username.expose(), password.expose()),
            Some(kind) if !is(&kind, "authtoken") => {
                return Err(self.unknown_value("credentialType", COMPANY_OR_USER));
            }
            _ => app.company(username.expose(), password.expose()),
        };
        Ok(credentials.with_origin(Origin::File(self.path.clone())))
    }

    /// The value is not quoted: a secret pasted into the wrong place must not end up in a log.
    fn unknown_value(&self, member: &str, advice: &str) -> Error {
        self.invalid(&format!("the member {member} has a value that this file cannot serve"), advice)
    }

    fn bad_member(&self, BadMember(name, what): BadMember) -> Error {
        self.invalid(&format!("the member {name} is not {what}"), "put its value in double quotes")
    }

    fn invalid(&self, what: &str, advice: &str) -> Error {
        let path = self.path.display();
        Error::new(ErrorKind::CredentialsInvalid, format!("{path}: {what}; {advice}"))
    }

    fn nothing_there(&self) -> Error {
        match fs::read_link(&self.path) {
            // The link says where the file belongs, and the file may come later: a secret that is not mounted yet.
            Ok(target) => Error::new(
                ErrorKind::CredentialsNeeded,
                format!(
                    "{} is a symbolic link to {}, which does not exist; put the credentials there, or remove the link \
                     and run again to get a blank template",
                    self.path.display(),
                    target.display()
                ),
            ),
            Err(_) => self.write_template(),
        }
    }

    /// Writes the template. In each case the result is an error, which says what to do.
    fn write_template(&self) -> Error {
        let path = self.path.display();
        let fill_in = format!(
            "fill in appID and clientSecret (from {APPS_PAGE}), companyUUID and companyRequestToken (from \
             {COMPANY_TOKENS_PAGE}), then run again"
        );
        let written = TempFile::create(&self.path).and_then(|mut temp| {
            temp.write(TEMPLATE.as_bytes())?;
            temp.publish_new()
        });
        match written {
            Ok(()) => Error::new(
                ErrorKind::CredentialsNeeded,
                format!("{path} did not exist, so a blank template was written there; {fill_in}"),
            ),
            // Another process was faster, and the file is its own.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Error::new(
                ErrorKind::CredentialsNeeded,
                format!("{path} has only just been created; {fill_in}"),
            ),
            Err(e) => Error::new(
                ErrorKind::CredentialsNeeded,
                format!(
                    "{path} does not exist, and a template could not be written there; name a folder in which \
                     this user can create files"
                ),
            )
            .caused_by(e),
        }
    }
}

impl CredentialSource for CredentialsFile {
    /// Reads in place: the file is small, and a hop to another thread would cost more than the read.
    async fn credentials(&self) -> Result<Credentials, Error> {
        // Before the read, so that a change during the read is seen later.
        *locked(&self.last_read) = Stamp::of_file(&self.path).ok();
        self.read()
    }

    fn has_changed(&self) -> bool {
        *locked(&self.last_read) != Stamp::of_file(&self.path).ok()
    }
}
