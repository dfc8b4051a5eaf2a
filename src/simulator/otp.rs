//! One-time passwords: `POST /oauth2/v0/otp` e-mails a password to a user, and `grant_type=otp` uses it.
//!
//! Always: all facts that an app sent with its request must be sent again with the grant.

use std::{
    collections::HashMap,
    fmt,
    time::{Duration, SystemTime},
};

use reqwest::StatusCode;
use serde_json::json;
use url::Url;

use super::{
    ConcurSimulator, SimulatedUser,
    data_centres::Reach,
    endpoints::Concur,
    form::Form,
    grants::{GrantRequest, within},
    made_up::random,
    recorded_request::RecordedRequest,
    reply::{ErrorBody, Reply},
    tokens::{Connection, Issued, later},
};

/// SAP names no figure.
const LIFETIME: Duration = Duration::from_secs(3600);
/// SAP names no figure.
const MOST_OPEN: usize = 5;

/// Fields that identify the request and are not facts.
const NO_FACTS: [&str; 4] = ["client_id", "client_secret", "channel_handle", "channel_type"];

/// An e-mail with a one-time password. `Debug` shows only its address.
///
/// See the example of [`ConcurSimulator::mails`].
#[derive(Clone)]
pub struct Mail {
    to: String,
    one_time_password: String,
    link: Option<String>,
}

impl Mail {
    /// The `channel_handle`: the user's e-mail address.
    #[must_use]
    pub fn to(&self) -> &str {
        &self.to
    }

    /// The one-time password, to be sent as `otp`.
    #[must_use]
    pub fn one_time_password(&self) -> &str {
        &self.one_time_password
    }

    /// The `link` of the request, with the one-time password as its query parameter `token`; `None` if the request
    /// had no `link`, or a `link` that is not a URL.
    #[must_use]
    pub fn link(&self) -> Option<&str> {
        self.link.as_deref()
    }
}

impl fmt::Debug for Mail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mail").field("to", &self.to).finish_non_exhaustive()
    }
}

#[derive(Default)]
pub(super) struct OneTimePasswords {
    open: Vec<OneTimePassword>,
    mails: Vec<Mail>,
}

struct OneTimePassword {
    app_id: String,
    username: String,
    secret: String,
    facts: HashMap<String, String>,
    expires_at: SystemTime,
}

impl OneTimePassword {
    fn is_for(&self, app_id: &str, username: &str) -> bool {
        self.app_id == app_id && self.username == username
    }
}

impl Concur {
    pub(super) fn otp(&mut self, request: &RecordedRequest, now: SystemTime) -> Reply {
        match self.mail_one_time_password(request, now) {
            Ok(()) => Reply::json(StatusCode::OK, &json!({ "message": "otp sent" })),
            Err(refusal) => refusal.reply(request.base_uri()),
        }
    }

    fn mail_one_time_password(
        &mut self,
        request: &RecordedRequest,
        now: SystemTime,
    ) -> Result<(), ErrorBody> {
        let form = Form::of(request)?;
        let app_id = self.authenticate(&form)?;
        let to = channel_handle(&form)?;
        let user = self.principals.user(to).ok_or(55)?;
        self.admit(user.uuid(), Reach::Geolocation, request)?;

        let one_time_passwords = &mut self.one_time_passwords;
        one_time_passwords.open.retain(|it| now < it.expires_at);
        if one_time_passwords.open.iter().filter(|it| it.is_for(&app_id, to)).count() >= MOST_OPEN {
            return Err(82.into());
        }
        let secret = random(20);
        let link = form.field("link").and_then(|link| Url::parse(link).ok()).map(|mut link| {
            link.query_pairs_mut().append_pair("token", &secret);
            link.into()
        });
        one_time_passwords.mails.push(Mail { to: to.to_owned(), one_time_password: secret.clone(), link });
        one_time_passwords.open.push(OneTimePassword {
            app_id,
            username: to.to_owned(),
            secret,
            facts: form.all_but(&NO_FACTS),
            expires_at: later(now, LIFETIME),
        });
        Ok(())
    }

    pub(super) fn otp_grant(&mut self, grant: &GrantRequest<'_>) -> Result<Issued, ErrorBody> {
        let secret = grant.form.required("otp", 56)?;
        let username = channel_handle(grant.form)?;
        let principal = self.principals.user(username).map(SimulatedUser::uuid).ok_or(83)?;
        self.admit(principal, Reach::Geolocation, grant.request)?;

        let open = &mut self.one_time_passwords.open;
        open.retain(|it| grant.now < it.expires_at);
        if !open.iter().any(|it| it.is_for(&grant.app_id, username)) {
            return Err(83.into());
        }
        let is_meant = |it: &OneTimePassword| it.is_for(&grant.app_id, username) && it.secret == secret;
        let position = open.iter().position(is_meant).ok_or(85)?;
        let is_repeated = |(name, value): (&String, &String)| grant.form.field(name) == Some(value);
        if !open.get(position).is_some_and(|it| it.facts.iter().all(is_repeated)) {
            return Err(84.into());
        }
        let scope = grant.form.field("scope").unwrap_or(&self.scopes);
        within(scope, &self.scopes)?;
        open.remove(position);
        let connection = Connection {
            app_id: grant.app_id.clone(),
            principal: principal.to_owned(),
            scope: scope.to_owned(),
        };
        Ok(self.tokens.sign_in(connection, grant.now))
    }
}

fn channel_handle(form: &Form) -> Result<&str, ErrorBody> {
    let channel_type = form.required("channel_type", 57)?;
    let channel_handle = form.required("channel_handle", 58)?;
    if channel_type != "email" {
        return Err(80.into());
    }
    if !channel_handle.contains('@') {
        return Err(81.into());
    }
    Ok(channel_handle)
}

/// One-time passwords.
impl ConcurSimulator {
    /// All e-mails with a one-time password so far, in the order of sending.
    ///
    /// A one-time password works for one grant within an hour, by the app that asked for it. A user can have five open
    /// one-time passwords for an app; then the answer to `POST /oauth2/v0/otp` is code 82. (SAP's page names no
    /// figures.)
    ///
    /// ```
    /// use concur_auth::{reqwest::{self, Client}, simulator::ConcurSimulator};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> reqwest::Result<()> {
    /// let concur = ConcurSimulator::start().await;
    /// let (app, user) = (concur.app(), concur.add_user());
    /// let post = async |path: &str, fields: &str| {
    ///     let common = format!(
    ///         "client_id={}&client_secret={}&channel_type=email&channel_handle={}\
    ///          &link=https://app.example.com/in",
    ///         app.id(), app.secret(), user.username(),
    ///     );
    ///     let request = Client::new().post(format!("{}{path}", concur.base_uri())).body(common + fields);
    ///     request.header("content-type", "application/x-www-form-urlencoded").send().await
    /// };
    /// assert_eq!(post("/oauth2/v0/otp", "").await?.text().await?, r#"{"message":"otp sent"}"#);
    ///
    /// let mail = &concur.mails()[0];
    /// assert!(mail.link().unwrap().starts_with("https://app.example.com/in?token="));
    /// let fields = format!("&grant_type=otp&otp={}", mail.one_time_password());
    /// assert_eq!(post("/oauth2/v0/token", &fields).await?.status(), 200);
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn mails(&self) -> Vec<Mail> {
        self.server.concur().one_time_passwords.mails.clone()
    }
}
