//! What is sent to one of Concur's endpoints, without the app's credentials.
//!
//! Always: its memory is wiped, and only its kind is ever shown.

use std::{fmt, sync::Arc};

use bytes::Bytes;
use url::form_urlencoded;
use zeroize::Zeroizing;

use crate::{Credentials, secret::Secret};

/// Fields whose values are no secrets: they identify no company and no user.
const PUBLIC: [&str; 4] = ["credtype", "channel_type", "scope", "redirect_uri"];
/// A shorter fact could be part of any text by chance, so finding it in a text proves nothing.
const SHORTEST_TELLING_FACT: usize = 8;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Endpoint {
    /// Takes the grant of this type.
    Token(&'static str),
    OneTimePassword,
    /// Takes no form, only a bearer token.
    Connections,
}

/// The app's own parameters of a one-time password.
pub(super) type Facts = Arc<[(String, Secret)]>;

#[derive(Clone)]
pub(crate) struct OutgoingRequest {
    pub(super) endpoint: Endpoint,
    pub(super) fields: Vec<(&'static str, Secret)>,
    pub(super) facts: Facts,
    pub(super) correlation_id: Option<String>,
}

impl OutgoingRequest {
    pub(super) fn new(endpoint: Endpoint, fields: impl IntoIterator<Item = (&'static str, Secret)>) -> Self {
        Self { endpoint, fields: fields.into_iter().collect(), facts: Facts::default(), correlation_id: None }
    }

    pub(super) fn path(&self) -> &'static str {
        match self.endpoint {
            Endpoint::Token(_) => "oauth2/v0/token",
            Endpoint::OneTimePassword => "oauth2/v0/otp",
            Endpoint::Connections => "app-mgmt/v0/connections",
        }
    }

    pub(super) fn grant_type(&self) -> Option<&'static str> {
        match self.endpoint {
            Endpoint::Token(grant_type) => Some(grant_type),
            Endpoint::OneTimePassword | Endpoint::Connections => None,
        }
    }

    /// The name of the request in the log.
    pub(super) fn what(&self) -> &'static str {
        match self.endpoint {
            Endpoint::Token(_) => "token request",
            Endpoint::OneTimePassword => "one-time password request",
            Endpoint::Connections => "revocation",
        }
    }

    /// Whether the request may be sent again after its reply was lost. A refresh grant may: the lost new token was
    /// delivered to no caller. So may an app's own sign-in, which uses nothing up. But a company request token has few
    /// uses, a wrong password counts towards a locked account, authorization codes and one-time passwords work once,
    /// and users should not receive the same mail twice.
    pub(super) fn is_repeatable(&self) -> bool {
        matches!(self.endpoint, Endpoint::Token("refresh_token" | "client_credentials"))
    }

    /// The warning for a lost reply to a request that may not be sent again.
    pub(super) fn what_may_have_happened(&self) -> &'static str {
        match self.endpoint {
            Endpoint::Token(_) => {
                "the grant may nevertheless have been used, so find out why before you try again"
            }
            Endpoint::OneTimePassword => {
                "the mail may nevertheless have been sent, so look for it before you try again"
            }
            Endpoint::Connections => "the tokens may nevertheless have been revoked; try again",
        }
    }

    pub(super) fn correlation_id(&self) -> Option<&str> {
        self.correlation_id.as_deref()
    }

    /// The UUID of the company that signs in, if the request is a company's sign-in.
    pub(super) fn company_uuid(&self) -> Option<&str> {
        self.field("username").filter(|_| self.field("credtype") == Some("authtoken"))
    }

    /// The value of a protocol field.
    pub(super) fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(field, _)| *field == name).map(|(_, value)| value.expose())
    }

    /// The form that is sent, in memory that is wiped after sending.
    pub(super) fn encoded(&self, credentials: &Credentials) -> Bytes {
        let app = [("client_id", credentials.app_id()), ("client_secret", credentials.client_secret())];
        let grant_type = self.grant_type().map(|grant_type| ("grant_type", grant_type));
        let fields = self.fields.iter().map(|(name, value)| (*name, value.expose()));
        let facts = self.facts.iter().map(|(name, value)| (name.as_str(), value.expose()));
        let all = app.into_iter().chain(grant_type).chain(fields).chain(facts);
        // Sized in advance: a growing string would leave unwiped copies behind.
        let form = String::with_capacity(longest(all.clone()));
        let form = form_urlencoded::Serializer::new(form).extend_pairs(all).finish();
        Bytes::from_owner(Zeroizing::new(form.into_bytes()))
    }

    /// Whether `text`, which a server chose, contains a secret of this request.
    pub(super) fn leaks_into(&self, text: &str, credentials: &Credentials) -> bool {
        let fields = self.fields.iter().filter(|(name, _)| !PUBLIC.contains(name)).map(|(_, value)| value);
        let facts = self.facts.iter().map(|(_, value)| value);
        let telling = facts.filter(|value| value.expose().len() >= SHORTEST_TELLING_FACT);
        let ours = fields.chain(telling).map(Secret::expose).chain([credentials.client_secret()]);
        ours.into_iter().any(|secret| !secret.is_empty() && text.contains(secret))
    }
}

/// How many bytes a form takes at most, whose values have to be escaped byte by byte. No name has to be.
fn longest<'a>(fields: impl Iterator<Item = (&'a str, &'a str)>) -> usize {
    fields.map(|(name, value)| 3 * (name.len() + value.len())).sum()
}

/// Reads as part of a sentence.
impl fmt::Display for OutgoingRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.endpoint {
            Endpoint::Token(grant_type) => write!(f, "the {grant_type} grant"),
            Endpoint::OneTimePassword => f.write_str("to mail a one-time password"),
            Endpoint::Connections => f.write_str("to revoke the tokens"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Grant;

    #[test]
    fn a_form_has_the_room_that_it_may_need() {
        for value in ["", "é", "&&&&&&&&&&&&&&&&&&&&&&&&&&&&&&", "plain"] {
            let fields = || [("id", value), ("client_secret", value)].into_iter();
            let form = form_urlencoded::Serializer::new(String::new()).extend_pairs(fields()).finish();
            assert!((form.len()..4 * form.len()).contains(&longest(fields())), "{value:?}");
        }
    }

    #[test]
    fn only_what_spends_nothing_may_be_sent_again() {
        for (grant, repeatable) in [
            (Grant::refresh_token("r"), true),
            (Grant::refresh_token_with_scope("r", "openid"), true),
            (Grant::client_credentials(), true),
            (Grant::company_request_token("uuid", "at"), false),
            (Grant::user_password("ada", "p"), false),
            (Grant::authorization_code("c", "https://app.example.com"), false),
        ] {
            assert_eq!(grant.request().is_repeatable(), repeatable, "{grant:?}");
        }
    }

    #[test]
    fn what_is_secret_of_a_form_is_known() {
        let app = Credentials::new("the-app", "the-secret");
        for (grant, secrets) in [
            (Grant::refresh_token_with_scope("the-token", "openid"), &["the-token", "the-secret"][..]),
            (Grant::company_request_token("the-uuid", "at-1"), &["the-uuid", "at-1", "the-secret"]),
            (Grant::user_password("ada", "pass-1"), &["ada", "pass-1", "the-secret"]),
            (Grant::authorization_code("code-1", "https://a.example"), &["code-1", "the-secret"]),
            (Grant::client_credentials(), &["the-secret"]),
        ] {
            for secret in secrets {
                assert!(grant.request().leaks_into(&format!("x{secret}x"), &app), "{grant:?}: {secret}");
            }
            for public in ["authtoken", "password", "openid", "https://a.example", "the-app", ""] {
                assert!(!grant.request().leaks_into(public, &app), "{grant:?}: {public}");
            }
        }
    }
}
