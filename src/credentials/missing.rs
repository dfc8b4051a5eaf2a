//! The messages when some of the credentials are missing, or are no longer accepted.
//!
//! Always: each part has the name that the person who wrote it knows.

use super::{Credentials, Origin, WhoSignsIn};
use crate::{
    Error, ErrorKind,
    error::{APPS_PAGE, COMPANY_TOKENS_PAGE},
};

impl Credentials {
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

    /// What a first sign-in needs: a company or a user, its name (the company's UUID, or the user's name), and its
    /// secret.
    pub(crate) fn require_sign_in(&self) -> Result<(WhoSignsIn, &str, &str), Error> {
        if let (Some(username), Some(password)) = (&self.0.username, &self.0.password) {
            return Ok((self.0.who, username, password.expose()));
        }
        if let Origin::Fleet = self.0.origin {
            return Err(Error::new(ErrorKind::CredentialsNeeded, self.not_connected()));
        }
        let (name, secret) = (self.0.username.is_none(), self.0.password.is_none());
        Err(match self.0.who {
            WhoSignsIn::Company if self.0.username.is_none() && self.0.user_uuid.is_some() => {
                let message = "the user's token is missing or expired; let the user sign in, and pass the grant to \
                               TokenManager::sign_in";
                Error::new(ErrorKind::CredentialsNeeded, message)
            }
            WhoSignsIn::Company => self.blank(
                &[(name, Part::CompanyUuid), (secret, Part::CompanyRequestToken)],
                &format!(
                    "a token must be obtained: create a company request token at {COMPANY_TOKENS_PAGE} \
                     (it lives 24 hours)"
                ),
            ),
            WhoSignsIn::User => self.blank(
                &[(name, Part::Username), (secret, Part::Password)],
                match self.0.origin {
                    Origin::File(_) => {
                        "a token must be obtained, and with credentialType \"password\" these members are the user's \
                         name and password: ask the user"
                    }
                    Origin::Code | Origin::Environment | Origin::Fleet => {
                        "a token must be obtained: ask the user"
                    }
                },
            ),
        })
    }

    /// What Concur did not accept, and what a person can do.
    pub(crate) fn not_accepted(&self) -> String {
        let place = self.place();
        match self.0.who {
            WhoSignsIn::Company => format!(
                "the company UUID with its company request token, which lives 24 hours and five uses; create a new one \
                 at {COMPANY_TOKENS_PAGE} and put it into {place}"
            ),
            WhoSignsIn::User => {
                format!("the user's name with the password; put the right ones into {place}")
            }
        }
    }

    /// Why another sign-in is impossible when a part is blank, and what a person can do.
    pub(crate) fn way_back(&self) -> (&'static str, String) {
        let place = self.place();
        match self.0.who {
            _ if matches!(self.0.origin, Origin::Fleet) => {
                ("a member of a fleet signs in by Fleet::connect alone", self.connect_again())
            }
            WhoSignsIn::User => (
                "there is no password to sign in again with",
                format!("put the user's name and password into {place}"),
            ),
            WhoSignsIn::Company if self.0.user_uuid.is_some() => (
                "there is nothing to sign in again with",
                "let the user sign in again, and pass the grant to TokenManager::sign_in".to_owned(),
            ),
            WhoSignsIn::Company => (
                "there is no company request token to sign in again with",
                format!(
                    "create a new company request token at {COMPANY_TOKENS_PAGE} and put it into {place}"
                ),
            ),
        }
    }

    /// A member of a fleet without a token.
    fn not_connected(&self) -> String {
        let member = match (self.company_uuid(), &self.0.user_uuid) {
            (Some(company), _) => format!("company {company} is"),
            (None, Some(user)) => format!("user {user} is"),
            (None, None) => "the company or user is".to_owned(),
        };
        format!("{member} not connected: the fleet has no token; {}", self.connect_again())
    }

    fn connect_again(&self) -> String {
        if self.company_uuid().is_some() {
            format!(
                "create a company request token at {COMPANY_TOKENS_PAGE}, and pass Grant::company_request_token, or what the App \
                 Center sends, to Fleet::connect"
            )
        } else {
            "let the user sign in, and pass the grant to Fleet::connect".to_owned()
        }
    }

    fn blank(&self, parts: &[(bool, Part)], hint: &str) -> Error {
        let names: Vec<&str> =
            parts.iter().filter(|(blank, _)| *blank).map(|(_, part)| part.name(&self.0.origin)).collect();
        let (verb, them) = if names.len() == 1 { ("is", "it") } else { ("are", "them") };
        let names = names.join(" and ");
        let message = match &self.0.origin {
            Origin::Code | Origin::Fleet => {
                format!("{names} {verb} blank in the Credentials; {hint}, then pass {them}")
            }
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
    Username,
    Password,
}

impl Part {
    fn name(self, origin: &Origin) -> &'static str {
        match (self, origin) {
            (Self::AppId, Origin::File(_)) => "appID",
            (Self::ClientSecret, Origin::File(_)) => "clientSecret",
            (Self::CompanyUuid | Self::Username, Origin::File(_)) => "companyUUID",
            (Self::CompanyRequestToken | Self::Password, Origin::File(_)) => "companyRequestToken",
            (Self::AppId, Origin::Environment) => "CONCUR_APP_ID",
            (Self::ClientSecret, Origin::Environment) => "CONCUR_CLIENT_SECRET",
            (Self::CompanyUuid, Origin::Environment) => "CONCUR_COMPANY_UUID",
            (Self::CompanyRequestToken, Origin::Environment) => "CONCUR_COMPANY_REQUEST_TOKEN",
            (Self::AppId, Origin::Code | Origin::Fleet) => "the app id",
            (Self::ClientSecret, Origin::Code | Origin::Fleet) => "the client secret",
            (Self::CompanyUuid, Origin::Code | Origin::Fleet) => "the company UUID",
            (Self::CompanyRequestToken, Origin::Code | Origin::Fleet) => "the company request token",
            (Self::Username, Origin::Code | Origin::Environment | Origin::Fleet) => "the user's name",
            (Self::Password, Origin::Code | Origin::Environment | Origin::Fleet) => "the user's password",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::AppCredentials;

    #[test]
    fn each_part_has_the_name_of_its_origin() {
        let app = || Credentials::new("app", "secret");
        let in_environment = |credentials: Credentials| credentials.with_origin(Origin::Environment);
        let message = |checked: Result<(), Error>| checked.unwrap_err().to_string();
        let sign_in = |credentials: Credentials| message(credentials.require_sign_in().map(drop));
        let company = "a token must be obtained: create a company request token at \
            https://www.concursolutions.com/nui/authadmin/companytokens (it lives 24 hours)";
        let both = "the app's page https://www.concursolutions.com/nui/ocstool shows both";
        for (found, expected) in [
            (
                message(Credentials::new("", "").require_app()),
                format!("the app id and the client secret are blank in the Credentials; {both}, then pass them"),
            ),
            (
                message(in_environment(Credentials::new("app", "")).require_app()),
                format!("CONCUR_CLIENT_SECRET is not set in the environment; {both}, then set it"),
            ),
            (
                sign_in(app().company("", "")),
                format!("the company UUID and the company request token are blank in the Credentials; {company}, then pass them"),
            ),
            (
                sign_in(in_environment(app().company("", ""))),
                format!(
                    "CONCUR_COMPANY_UUID and CONCUR_COMPANY_REQUEST_TOKEN are not set in the environment; {company}, then set them"
                ),
            ),
            (
                sign_in(app().user("", "")),
                "the user's name and the user's password are blank in the Credentials; a token must be obtained: ask the user, then \
                 pass them"
                    .to_owned(),
            ),
            (
                sign_in(AppCredentials::new("app", "secret").for_member()),
                "the company or user is not connected: the fleet has no token; let the user sign in, and pass the grant to \
                 Fleet::connect"
                    .to_owned(),
            ),
        ] {
            assert_eq!(found, expected);
        }
    }

    #[test]
    fn a_new_request_token_is_put_where_the_old_one_is() {
        let credentials = Credentials::new("app", "secret").company("uuid", "token");
        let (_, in_code) = credentials.clone().way_back();
        let (_, in_environment) = credentials.with_origin(Origin::Environment).way_back();
        assert!(in_code.ends_with(" and put it into the Credentials"), "{in_code}");
        assert!(
            in_environment
                .ends_with(" and put it into the environment variable CONCUR_COMPANY_REQUEST_TOKEN"),
            "{in_environment}"
        );
    }
}
