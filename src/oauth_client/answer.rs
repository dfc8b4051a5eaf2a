//! What a reply other than 200 means, and what to do about it.
//!
//! Always: none of the server's own words are shown, since it may echo the request's secrets.

use std::time::Duration;

use reqwest::{StatusCode, Url};

use super::{
    Form,
    attempts::{Failure, Fate},
};
use crate::{
    ConcurCode, Error, ErrorKind, Geolocation,
    error::{APPS_PAGE, COMPANY_TOKENS_PAGE},
    members::Members,
};

/// What a refusal says beside its body.
pub(super) struct Answer<'a> {
    pub(super) base: &'a Geolocation,
    pub(super) status: StatusCode,
    pub(super) location: Option<&'a str>,
    pub(super) retry_after: Option<Duration>,
}

pub(super) fn failure(answer: &Answer<'_>, body: &[u8], form: &Form) -> Failure {
    let Answer { base, status, retry_after, .. } = *answer;
    let host = base.host();
    let members = Members::parse(body).unwrap_or_default();
    let number = members.seconds("code").ok().flatten().and_then(|number| u32::try_from(number).ok());
    let code = number.map(ConcurCode::new);
    let named = members.string("error").ok().flatten();
    let is_invalid_grant = named.as_ref().is_some_and(|error| error.expose() == "invalid_grant");

    let is_overload = status == StatusCode::TOO_MANY_REQUESTS || status == StatusCode::SERVICE_UNAVAILABLE;
    // A reason is judgement, whatever the status says: to ask again could lock an account. But that a refresh token is
    // bad is not believed of a server that is down.
    let is_judged =
        code.is_some_and(|code| code.meaning().is_some() && code != ConcurCode::BAD_REFRESH_TOKEN);
    let (kind, fate, message) = if code.is_some_and(ConcurCode::is_transient) {
        let message = format!("{host}: company undergoing scheduled maintenance; try again later");
        (ErrorKind::Unavailable, Fate::NothingIssued, message)
    } else if (status.is_server_error() || is_overload) && !is_judged {
        let fate = match status.as_u16() {
            429 | 503 => Fate::NothingIssued,
            500 | 502 | 504 => Fate::Unknown,
            _ => Fate::Final,
        };
        (ErrorKind::Unavailable, fate, format!("{host} answered {status}; try again later"))
    } else if status.is_redirection() {
        match redirect(answer, form) {
            Ok(fate) => {
                let message =
                    format!("{host} answered with a redirect, which is not followed; check the base URI");
                (ErrorKind::Protocol, fate, message)
            }
            Err(untrusted) => return untrusted.into(),
        }
    } else if code.is_none() && named.is_none() {
        let message = format!(
            "{host} answered {status} without one of Concur's error codes; check the base URI and any proxy"
        );
        (ErrorKind::Protocol, Fate::Final, message)
    } else {
        let fate = match members.string("geolocation") {
            Ok(Some(elsewhere)) if code == Some(ConcurCode::ELSEWHERE) => {
                match base
                    .received(elsewhere.expose(), "where Concur's code 16 says that the principal lives")
                {
                    Ok(elsewhere) => Fate::Elsewhere(elsewhere),
                    Err(untrusted) => return untrusted.with_code(code, false).into(),
                }
            }
            _ => Fate::Final,
        };
        let meaning = code.and_then(ConcurCode::meaning).unwrap_or(if is_invalid_grant {
            "the grant is not valid"
        } else {
            "a reason that its documentation does not list"
        });
        let advice = advice(code, form);
        let message = format!("Concur refused {form} at {host}: {meaning}; {advice}");
        (ErrorKind::Refused, fate, message)
    };
    // What a server that is down says of the grant means nothing.
    let refuses_grant = kind == ErrorKind::Refused
        && !status.is_server_error()
        && (is_invalid_grant || code == Some(ConcurCode::BAD_REFRESH_TOKEN));
    let retry_after = retry_after.filter(|_| kind == ErrorKind::Unavailable);
    let error = Error::new(kind, message).with_code(code, refuses_grant).with_retry_after(retry_after);
    Failure { error, fate }
}

/// Only a redirect that keeps method and body (RFC 9110 section 15.4) and leads to the same endpoint is followed.
fn redirect(answer: &Answer<'_>, form: &Form) -> Result<Fate, Error> {
    let keeps_body = matches!(answer.status, StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT);
    let target =
        answer.location.and_then(|location| Url::parse(answer.base.as_str()).ok()?.join(location).ok());
    match target {
        Some(target)
            if keeps_body && target.path() == format!("/{}", form.path()) && target.query().is_none() =>
        {
            let origin = format!("where {} redirects to", answer.base.host());
            answer.base.received(target.as_str(), &origin).map(Fate::Elsewhere)
        }
        _ => Ok(Fate::Final),
    }
}

fn advice(code: Option<ConcurCode>, form: &Form) -> String {
    match code.map(|code| (code.number(), code.advice())) {
        Some((59..=61 | 64 | 107 | 115, Some(advice))) => format!("{advice} ({APPS_PAGE})"),
        Some((5 | 19 | 136, _)) if form.company_uuid().is_some() => {
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
    use proptest::prelude::*;

    use super::*;
    use crate::Grant;

    const SECRET: &str = "s3cr3t-t0k3n";

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
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

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
            for body in [&body, json.as_bytes(), &[json.as_bytes(), &body].concat()] {
                let grant = Grant::refresh_token(SECRET);
                let status = StatusCode::from_u16(status).unwrap();
                let answer = Answer { base: &base, status, location: location.as_deref(), retry_after: None };
                let Failure { error, fate } = failure(&answer, body, grant.form());
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
