//! A user signs in with a one-time password that Concur sends by mail.
//!
//! Always: the parameters sent with the request for the mail are sent again with the grant, because one value makes
//! both requests.

use std::fmt;

use super::{
    OAuthClient,
    budget::{Conditions, RetryBudget},
    completion::to_completion,
    failure::Failure,
    grant::Grant,
    outgoing_request::{Endpoint, OutgoingRequest},
    response::OkReply,
    retry::send_with_retries,
};
use crate::{
    Credentials, Error, ErrorKind, Geolocation, members::Members, returned_query::ReturnedQuery,
    secret::Secret,
};

/// Names that the protocol uses, so an app's own parameter may not have them.
const RESERVED: [&str; 17] = [
    "client_id",
    "client_secret",
    "grant_type",
    "channel_handle",
    "channel_type",
    "otp",
    "scope",
    "name",
    "company",
    "link",
    "username",
    "password",
    "credtype",
    "code",
    "redirect_uri",
    "refresh_token",
    "token",
];

/// Asks Concur to mail a user a one-time password, and makes the grant with that password.
///
/// ```
/// use concur_auth::{Credentials, Geolocation, OAuthClient, OneTimePasswordRequest};
///
/// # async fn example(user: Geolocation, app: Credentials, opened: String) -> Result<(), concur_auth::Error> {
/// let sign_in = OneTimePasswordRequest::by_email("ada@example.com")
///     .name("Ada")
///     .company("Analytical Engines")
///     .link("https://app.example.com/in")
///     .parameter("trip", "7")?;
///
/// let client = OAuthClient::new();
/// let geolocation = client.request_one_time_password(&user, &app, &sign_in).await?;
///
/// // The user opens the link in the mail.
/// let grant = sign_in.grant_from_link(&opened)?;
/// let reply = client.request_token(&geolocation, &app, &grant).await?;
/// # Ok(()) }
/// ```
///
/// The process that sends the grant need not be the one that requested the mail: it makes an equal value from the same
/// parts.
///
/// Source: SAP Concur developer centre, "Authentication API, one-time password grant".
#[derive(Clone)]
pub struct OneTimePasswordRequest {
    email: Secret,
    scope: Option<String>,
    facts: Vec<(String, Secret)>,
}

impl OneTimePasswordRequest {
    /// For the user with this e-mail address: `channel_type=email`.
    pub fn by_email(address: impl Into<String>) -> Self {
        Self { email: Secret::new(address), scope: None, facts: Vec::new() }
    }

    /// The user's name, which the mail shows.
    #[must_use]
    pub fn name(self, name: impl Into<String>) -> Self {
        self.fact("name", name)
    }

    /// The user's company, which the mail shows.
    #[must_use]
    pub fn company(self, company: impl Into<String>) -> Self {
        self.fact("company", company)
    }

    /// Your page that the mail links to; Concur adds the one-time password as the query parameter `token`.
    #[must_use]
    pub fn link(self, url: impl Into<String>) -> Self {
        self.fact("link", url)
    }

    /// The scopes to request (names separated by spaces). Only the grant carries them.
    #[must_use]
    pub fn scope(mut self, scope: impl Into<String>) -> Self {
        self.scope = Some(scope.into());
        self
    }

    /// A parameter of your own, which Concur expects again with the grant (code 84).
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`] when the name is blank, used by the protocol, or given already.
    pub fn parameter(self, name: impl Into<String>, value: impl Into<String>) -> Result<Self, Error> {
        let name = name.into();
        let fault = if name.trim().is_empty() {
            "has no name; give it a name"
        } else if RESERVED.iter().any(|reserved| reserved.eq_ignore_ascii_case(name.trim())) {
            "has a name that the protocol uses; give it another name"
        } else if self.facts.iter().any(|(given, _)| *given == name) {
            "was given already; give it another name"
        } else {
            return Ok(self.fact(&name, value));
        };
        let message = format!("the parameter \"{name}\" of a one-time password {fault}");
        Err(Error::new(ErrorKind::Config, message))
    }

    fn fact(mut self, name: &str, value: impl Into<String>) -> Self {
        self.facts.retain(|(given, _)| given != name);
        self.facts.push((name.to_owned(), Secret::new(value)));
        self
    }

    /// The grant with the one-time password of the mail: `grant_type=otp`. Sent to the user's geolocation; it works
    /// once.
    pub fn grant(&self, one_time_password: impl Into<String>) -> Grant {
        let scope = self.scope.as_ref().map(|scope| ("scope", Secret::new(scope)));
        let fields = self.channel().into_iter().chain([("otp", Secret::new(one_time_password))]).chain(scope);
        Grant::otp(fields, self.facts.clone())
    }

    /// The grant with the one-time password of the link that the user opened. `url` is the whole URL, or its path and
    /// query as a server sees them.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Protocol`] when the link has no query parameter `token`, or more than one.
    pub fn grant_from_link(&self, url: &str) -> Result<Grant, Error> {
        let query = ReturnedQuery::of(url, "the link with the one-time password");
        Ok(self.grant(query.required("token")?.expose()))
    }

    fn channel(&self) -> [(&'static str, Secret); 2] {
        [("channel_handle", self.email.clone()), ("channel_type", Secret::new("email"))]
    }

    fn request(&self) -> OutgoingRequest {
        let request = OutgoingRequest::new(Endpoint::OneTimePassword, self.channel());
        OutgoingRequest { facts: self.facts.clone().into(), ..request }
    }
}

impl fmt::Debug for OneTimePasswordRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OneTimePasswordRequest").finish_non_exhaustive()
    }
}

/// One-time passwords.
impl OAuthClient {
    /// Asks Concur to mail a one-time password, and returns the user's geolocation, which the grant is to be sent to.
    ///
    /// `base` is the user's geolocation if the caller knows it; otherwise the request follows the user as
    /// [`request_token`](Self::request_token) does. A failure is returned, not repeated, so that the user does not
    /// receive the mail twice.
    ///
    /// # Errors
    ///
    /// As [`request_token`](Self::request_token): for example [`ErrorKind::Refused`] if the address is unknown (code
    /// 55) or too many one-time passwords are open (code 82).
    pub async fn request_one_time_password(
        &self,
        base: &Geolocation,
        credentials: &Credentials,
        request: &OneTimePasswordRequest,
    ) -> Result<Geolocation, Error> {
        let (client, base, request) = (self.clone(), base.clone(), request.request());
        let credentials = credentials.clone();
        to_completion(async move {
            let budget = RetryBudget::one_attempt();
            let conditions = Conditions::without_manager(&budget);
            send_with_retries(&client.0, &base, (&credentials, &request), &conditions, sent_from).await
        })
        .await
    }
}

/// The data centre that sent the mail. Concur has been seen to use two spellings of its `message`, so any text
/// counts. A reply without a `message`, such as a proxy's page, does not say that a mail was sent.
fn sent_from(reply: OkReply<'_>) -> Result<Geolocation, Failure> {
    let OkReply { body, cut, request, headers, base, entry, .. } = reply;
    if let Some(cut) = cut {
        return Err(cut.explain(base.host(), request));
    }
    let message = Members::parse(body).ok().and_then(|members| members.string("message").ok().flatten());
    if message.is_none() {
        let message = format!(
            "{} did not say that the one-time password was sent; check the base URI and any proxy",
            base.host()
        );
        return Err(Error::new(ErrorKind::Protocol, message).into());
    }
    entry.answered(base.host(), headers.correlation_id.as_deref());
    Ok(base.clone())
}
