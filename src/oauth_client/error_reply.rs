//! What a reply other than 200 means, and what to do about it.
//!
//! Always: no text of the server's is shown, since it may repeat the request's secrets.

use reqwest::{StatusCode, Url};

use super::{
    failure::{Failure, Fate},
    outgoing_request::OutgoingRequest,
    response::Headers,
    unreachable::Cut,
};
use crate::{
    ConcurCode, Error, ErrorKind, Geolocation,
    error::{APPS_PAGE, COMPANY_TOKENS_PAGE},
    members::Members,
};

/// What refuses a request for good (RFC 6749 section 5.2, and SAP's table). Any other `error` comes from another program,
/// such as a gateway's "Not Found", or passes.
const REFUSALS: [&str; 7] = [
    "access_denied",
    "invalid_client",
    "invalid_grant",
    "invalid_request",
    "invalid_scope",
    "unauthorized_client",
    "unsupported_grant_type",
];
/// What passes by itself (RFC 6749 section 4.1.2.1).
const PASSING: [&str; 2] = ["server_error", "temporarily_unavailable"];

/// A reply without success.
pub(super) struct ErrorReply<'a> {
    pub(super) base: &'a Geolocation,
    pub(super) request: &'a OutgoingRequest,
    pub(super) status: StatusCode,
    pub(super) headers: &'a Headers,
    pub(super) body: &'a [u8],
    /// Why the body may be incomplete.
    pub(super) cut: Option<Cut>,
}

/// The kinds of replies without success.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    /// The company is under scheduled maintenance.
    Maintenance,
    /// The server did not process the request.
    Overloaded,
    /// The server may have processed the request before it failed.
    Crashed,
    /// The server fails in a way that another attempt within seconds does not change.
    Broken,
    Redirect,
    /// The reply holds no error of Concur's, so probably another program sent it.
    NotConcurs,
    /// Concur decided about the request. `bad_grant`: the grant itself is bad, not the app or the account.
    Refused {
        bad_grant: bool,
    },
}

/// `named` is the reply's `error`.
fn classify(status: StatusCode, code: Option<ConcurCode>, named: Option<&str>) -> Class {
    // A documented code is a decision, whatever the status says: sending the grant again could lock an account. The
    // exception is 108: a failing server is not believed that a refresh token is bad.
    let is_decision =
        code.is_some_and(|code| code.meaning().is_some() && code != ConcurCode::BAD_REFRESH_TOKEN);
    let names_grant = named == Some("invalid_grant") || code == Some(ConcurCode::BAD_REFRESH_TOKEN);
    match status.as_u16() {
        _ if code.is_some_and(ConcurCode::is_transient) => Class::Maintenance,
        429 | 503 if !is_decision => Class::Overloaded,
        500 | 502 | 504 if !is_decision => Class::Crashed,
        500..=599 if !is_decision => Class::Broken,
        300..=399 => Class::Redirect,
        _ if code.is_some() || named.is_some_and(|error| REFUSALS.contains(&error)) => {
            // What a failing server says about the grant means nothing.
            Class::Refused { bad_grant: names_grant && !status.is_server_error() }
        }
        _ if named.is_some_and(|error| PASSING.contains(&error)) => Class::Broken,
        _ => Class::NotConcurs,
    }
}

impl Class {
    fn kind(self) -> ErrorKind {
        match self {
            Self::Maintenance | Self::Overloaded | Self::Crashed | Self::Broken => ErrorKind::Unavailable,
            Self::Redirect | Self::NotConcurs => ErrorKind::Protocol,
            Self::Refused { .. } => ErrorKind::Refused,
        }
    }
}

impl ErrorReply<'_> {
    /// What the reply means. The status decides what happened to the grant, even if the body is incomplete.
    pub(super) fn failure(self) -> Failure {
        let members = Members::parse(self.body).unwrap_or_default();
        let number = members.seconds("code").ok().flatten().and_then(|number| u32::try_from(number).ok());
        // Gateways repeat the status in their JSON; none of SAP's codes is one.
        let code = number.filter(|number| *number != u32::from(self.status.as_u16())).map(ConcurCode::new);
        let named = members.string("error").ok().flatten();
        let named = named.as_ref().map(|error| error.expose());
        let class = classify(self.status, code, named);
        let (error, fate) = match self.fate(class, code, &members) {
            Ok(fate) => {
                let is_unavailable = class.kind() == ErrorKind::Unavailable;
                let error = Error::new(class.kind(), self.message(class, code, named))
                    .with_code(code, class == Class::Refused { bad_grant: true })
                    .with_retry_after(self.headers.retry_after.filter(|_| is_unavailable));
                (error, fate)
            }
            Err(untrusted) => (untrusted, Fate::Final),
        };
        let error = match self.cut {
            Some(cut) => error.caused_by(cut),
            None => error,
        };
        Failure::new(error, fate)
    }

    /// An error where the reply leads to a host that is not trusted.
    fn fate(&self, class: Class, code: Option<ConcurCode>, members: &Members) -> Result<Fate, Error> {
        Ok(match class {
            Class::Maintenance | Class::Overloaded => Fate::NothingIssued,
            Class::Crashed => Fate::Unknown,
            Class::Broken | Class::NotConcurs => Fate::Final,
            Class::Redirect => self.redirect()?,
            Class::Refused { .. } => match members.string("geolocation") {
                Ok(Some(elsewhere)) if code == Some(ConcurCode::ELSEWHERE) => {
                    let origin = "where Concur's code 16 says that the principal lives";
                    let elsewhere = self.base.received(elsewhere.expose(), origin);
                    Fate::Elsewhere(Box::new(
                        elsewhere.map_err(|untrusted| untrusted.with_code(code, false))?,
                    ))
                }
                _ => Fate::Final,
            },
        })
    }

    /// Only a redirect that keeps method and body (RFC 9110 section 15.4) and leads to the same endpoint is followed.
    fn redirect(&self) -> Result<Fate, Error> {
        let keeps_body =
            matches!(self.status, StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT);
        let location = self.headers.location.as_deref();
        let target = location.and_then(|location| Url::parse(self.base.as_str()).ok()?.join(location).ok());
        let path = format!("/{}", self.request.path());
        match target {
            Some(target) if keeps_body && target.path() == path && target.query().is_none() => {
                let origin = format!("where {} redirects to", self.base.host());
                self.base.received(target.as_str(), &origin).map(|to| Fate::Elsewhere(Box::new(to)))
            }
            _ => Ok(Fate::Final),
        }
    }

    fn message(&self, class: Class, code: Option<ConcurCode>, named: Option<&str>) -> String {
        let (host, status, request) = (self.base.host(), self.status, self.request);
        match class {
            Class::Maintenance => {
                format!("{host}: company undergoing scheduled maintenance; try again later")
            }
            Class::Overloaded | Class::Crashed | Class::Broken => {
                format!("{host} answered {status}; try again later")
            }
            Class::Redirect => {
                format!("{host} answered with a redirect, which is not followed; check the base URI")
            }
            Class::NotConcurs => format!(
                "{host} answered {status} without one of Concur's error codes; check the base URI and any proxy"
            ),
            Class::Refused { .. } => {
                let meaning = code.and_then(ConcurCode::meaning).unwrap_or(match named {
                    Some("invalid_grant") => "the grant is not valid",
                    _ => "a reason that SAP's documentation does not list",
                });
                format!("Concur refused {request} at {host}: {meaning}; {}", advice(code, request))
            }
        }
    }
}

fn advice(code: Option<ConcurCode>, request: &OutgoingRequest) -> String {
    match code.map(|code| (code.number(), code.advice())) {
        Some((59..=61 | 64 | 107 | 115, Some(advice))) => format!("{advice} ({APPS_PAGE})"),
        Some((5 | 19 | 136, _)) if request.company_uuid().is_some() => {
            format!("check the company UUID and create a new company request token at {COMPANY_TOKENS_PAGE}")
        }
        Some((108, _)) => {
            format!("sign in again with a new company request token from {COMPANY_TOKENS_PAGE}")
        }
        Some((_, Some(advice))) => advice.to_owned(),
        _ => "ask SAP Concur's support, with the correlation id".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use proptest::prelude::*;

    use super::*;
    use crate::Grant;

    const SECRET: &str = "s3cr3t-t0k3n";

    #[test]
    fn status_code_and_named_error_say_what_a_reply_means() {
        use Class::{Broken, Crashed, Maintenance, NotConcurs, Overloaded, Redirect, Refused};
        let (refused, bad_grant) = (Refused { bad_grant: false }, Refused { bad_grant: true });
        let invalid_grant = Some("invalid_grant");
        for (status, code, named, class) in [
            // Maintenance, with any status.
            (404, Some(134), None, Maintenance),
            (307, Some(134), None, Maintenance),
            (400, Some(134), invalid_grant, Maintenance),
            (503, Some(134), None, Maintenance),
            // A server that fails, without a decision of Concur's.
            (429, None, None, Overloaded),
            (429, Some(999), None, Overloaded),
            (503, None, None, Overloaded),
            (503, None, invalid_grant, Overloaded),
            (503, Some(108), invalid_grant, Overloaded),
            (500, None, None, Crashed),
            (502, None, invalid_grant, Crashed),
            (504, Some(108), None, Crashed),
            (501, None, None, Broken),
            (505, Some(999), invalid_grant, Broken),
            (599, Some(108), None, Broken),
            // A documented code is a decision, whatever the status.
            (503, Some(14), invalid_grant, refused),
            (429, Some(14), None, refused),
            (429, Some(14), invalid_grant, bad_grant),
            (500, Some(5), invalid_grant, refused),
            (501, Some(16), None, refused),
            // Redirects, also with an error in the body.
            (301, None, None, Redirect),
            (307, Some(14), invalid_grant, Redirect),
            (308, None, None, Redirect),
            // No error of Concur's.
            (204, None, None, NotConcurs),
            (400, None, None, NotConcurs),
            (404, None, None, NotConcurs),
            (999, None, None, NotConcurs),
            // A gateway's words, or a server's that will recover.
            (404, None, Some("Not Found"), NotConcurs),
            (401, None, Some("Unauthorized"), NotConcurs),
            (403, None, Some("INVALID_GRANT"), NotConcurs),
            (400, None, Some("authorization_pending"), NotConcurs),
            (400, None, Some("temporarily_unavailable"), Broken),
            (400, None, Some("server_error"), Broken),
            (503, None, Some("temporarily_unavailable"), Overloaded),
            // Refusals.
            (400, Some(108), None, bad_grant),
            (400, Some(108), invalid_grant, bad_grant),
            (400, None, invalid_grant, bad_grant),
            (400, Some(14), invalid_grant, bad_grant),
            (400, Some(14), None, refused),
            (400, Some(999), None, refused),
            (400, None, Some("invalid_request"), refused),
            (401, None, Some("invalid_client"), refused),
            (400, None, Some("unauthorized_client"), refused),
            (400, None, Some("unsupported_grant_type"), refused),
            (400, None, Some("invalid_scope"), refused),
            (403, None, Some("access_denied"), refused),
            (400, Some(64), Some("Not Found"), refused),
            (401, Some(61), Some("invalid_client"), refused),
            (600, Some(5), None, refused),
        ] {
            let found = classify(StatusCode::from_u16(status).unwrap(), code.map(ConcurCode::new), named);
            assert_eq!(found, class, "{status} with code {code:?} and error {named:?}");
        }
    }

    fn told(status: u16, body: &str, grant: &Grant) -> String {
        let base: Geolocation = "https://us.api.concursolutions.com".parse().unwrap();
        let (request, headers) = (grant.request(), &Headers::none(SystemTime::UNIX_EPOCH));
        let (status, body) = (StatusCode::from_u16(status).unwrap(), body.as_bytes());
        ErrorReply { base: &base, request, status, headers, body, cut: None }.failure().error.to_string()
    }

    #[test]
    fn a_refusal_says_what_to_do_next_for_the_grant_that_was_sent() {
        let refresh = Grant::refresh_token("r");
        let password = Grant::user_password("name", "password");
        let company = Grant::company_request_token("uuid", "at-token");
        let support = "ask SAP Concur's support, with the correlation id";
        for (grant, body, meaning, advice) in [
            (&refresh, r#"{"error": "invalid_grant"}"#, "the grant is not valid", support.to_owned()),
            (
                &refresh,
                r#"{"error": "invalid_request"}"#,
                "a reason that SAP's documentation does not list",
                support.to_owned(),
            ),
            (
                &refresh,
                r#"{"code": 108}"#,
                "bad or expired refresh token",
                format!("sign in again with a new company request token from {COMPANY_TOKENS_PAGE}"),
            ),
            (
                &company,
                r#"{"code": 5}"#,
                "incorrect credentials",
                format!(
                    "check the company UUID and create a new company request token at {COMPANY_TOKENS_PAGE}"
                ),
            ),
            (
                &password,
                r#"{"code": 5}"#,
                "incorrect credentials",
                "check the credentials and sign in again".to_owned(),
            ),
            (
                &password,
                r#"{"code": 64}"#,
                "incorrect client credentials",
                format!("check the app's id, secret, grants and scopes on its page ({APPS_PAGE})"),
            ),
        ] {
            let told = told(400, body, grant);
            assert!(told.contains(&format!(" at us.api.concursolutions.com: {meaning}; {advice}")), "{told}");
        }
    }

    fn value() -> impl Strategy<Value = String> {
        prop_oneof![
            any::<i128>().prop_map(|number| number.to_string()),
            (0..150_u32).prop_map(|number| number.to_string()),
            (0..150_u32).prop_map(|number| format!("\"{number}\"")),
            any::<f64>().prop_map(|number| format!("{number:?}")),
            Just("\"invalid_grant\"".to_owned()),
            Just("\"https://us2.api.concursolutions.com\"".to_owned()),
            Just("\"https://example.net\"".to_owned()),
            Just(format!("\"{SECRET}\"")),
            Just(format!("[\"{SECRET}\"]")),
            Just(SECRET.to_owned()),
        ]
    }

    proptest! {
        #![proptest_config(crate::seed::seeded())]

        #[test]
        fn any_body_gives_an_error_in_our_own_words(
            status in 100..=999_u16,
            body: Vec<u8>,
            values in proptest::collection::vec(value(), 4),
            location: Option<String>,
        ) {
            let [code, error, description, geolocation] = values.try_into().unwrap();
            let json = format!(
                "{{\"code\": {code}, \"error\": {error}, \"error_description\": {description}, \"geolocation\": {geolocation}}}"
            );
            let base: Geolocation = "https://us.api.concursolutions.com".parse().unwrap();
            let headers = Headers { location, ..Headers::none(SystemTime::UNIX_EPOCH) };
            for body in [&body, json.as_bytes(), &[json.as_bytes(), &body].concat()] {
                let grant = Grant::refresh_token(SECRET);
                let status = StatusCode::from_u16(status).unwrap();
                let (request, headers) = (grant.request(), &headers);
                let Failure { error, fate, .. } =
                    ErrorReply { base: &base, request, status, headers, body, cut: None }.failure();
                if let Fate::Elsewhere(elsewhere) = fate {
                    prop_assert!(elsewhere.host().ends_with(".concursolutions.com"));
                }
                let shown = format!("{error} {error:?} {error:#?}");
                prop_assert!(!shown.contains(SECRET), "{}", shown);
                prop_assert!(shown.contains("us.api.concursolutions.com") || error.kind() == ErrorKind::Untrusted, "{}", shown);
            }
        }
    }
}
