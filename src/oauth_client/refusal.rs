//! What a reply other than 200 means, and what to do about it.
//!
//! Always: none of the server's own words are shown, since it may echo the request's secrets.

use std::time::Duration;

use reqwest::StatusCode;

use super::Grant;
use crate::{
    ConcurCode, Error, ErrorKind,
    error::{APPS_PAGE, COMPANY_TOKENS_PAGE},
    members::Members,
};

pub(super) fn error(
    status: StatusCode,
    body: &[u8],
    host: &str,
    grant: &Grant,
    retry_after: Option<Duration>,
) -> Error {
    let members = Members::parse(body).unwrap_or_default();
    let number = members.seconds("code").ok().flatten().and_then(|number| u32::try_from(number).ok());
    let code = number.map(ConcurCode::new);
    let named = members.string("error").ok().flatten();
    let is_invalid_grant = named.as_ref().is_some_and(|error| error.expose() == "invalid_grant");

    let (kind, message) = if code == Some(ConcurCode::MAINTENANCE) {
        let message = format!("{host}: company undergoing scheduled maintenance; try again later");
        (ErrorKind::Unavailable, message)
    } else if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS {
        (ErrorKind::Unavailable, format!("{host} answered {status}; try again later"))
    } else if status.is_redirection() {
        let message = format!("{host} answered with a redirect, which is not followed; check the base URI");
        (ErrorKind::Protocol, message)
    } else if code.is_none() && named.is_none() {
        let message = format!(
            "{host} answered {status} without one of Concur's error codes; check the base URI and any proxy"
        );
        (ErrorKind::Protocol, message)
    } else {
        let meaning = code.and_then(ConcurCode::meaning).unwrap_or(if is_invalid_grant {
            "the grant is not valid"
        } else {
            "a reason that its documentation does not list"
        });
        let advice = advice(code, grant);
        (
            ErrorKind::Refused,
            format!("Concur refused the {} grant at {host}: {meaning}; {advice}", grant.name()),
        )
    };
    // What a server that is down says of the grant means nothing.
    let refuses_grant =
        kind == ErrorKind::Refused && (is_invalid_grant || code == Some(ConcurCode::BAD_REFRESH_TOKEN));
    Error::new(kind, message).with_code(code, refuses_grant).with_retry_after(retry_after)
}

fn advice(code: Option<ConcurCode>, grant: &Grant) -> String {
    match code.map(ConcurCode::number) {
        Some(59..=65 | 107 | 115) => {
            format!("check the app's id, secret and grants at {APPS_PAGE}")
        }
        Some(5 | 19 | 136) if grant.name() == "password" => {
            format!("check the company UUID and create a new company request token at {COMPANY_TOKENS_PAGE}")
        }
        Some(108) => {
            format!("sign in again with a new company request token from {COMPANY_TOKENS_PAGE}")
        }
        Some(10..=14 | 20 | 53 | 123) => "ask the company's Concur administrator to enable it".to_owned(),
        _ => "ask SAP Concur's support, with the correlation id".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECRET: &str = "s3cr3t-t0k3n";

    fn value() -> impl Strategy<Value = String> {
        prop_oneof![
            any::<i128>().prop_map(|number| number.to_string()),
            (0..150_u32).prop_map(|number| number.to_string()),
            (0..150_u32).prop_map(|number| format!("\"{number}\"")),
            any::<f64>().prop_map(|number| format!("{number:?}")),
            Just("\"invalid_grant\"".to_owned()),
            Just(format!("\"{SECRET}\"")),
            Just(format!("[\"{SECRET}\"]")),
            Just(SECRET.to_owned()),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn any_body_gives_an_error_in_our_own_words(
            status in 100..=999_u16,
            body: Vec<u8>,
            values in proptest::collection::vec(value(), 3),
        ) {
            let [code, error, description] = values.try_into().unwrap();
            let json = format!("{{\"code\": {code}, \"error\": {error}, \"error_description\": {description}}}");
            for body in [&body, json.as_bytes(), &[json.as_bytes(), &body].concat()] {
                let grant = Grant::refresh_token(SECRET);
                let status = StatusCode::from_u16(status).unwrap();
                let error = super::error(status, body, "the.host", &grant, None);
                let shown = format!("{error} {error:?} {error:#?}");
                prop_assert!(!shown.contains(SECRET), "{}", shown);
                prop_assert!(shown.contains("the.host"), "{}", shown);
            }
        }
    }
}
