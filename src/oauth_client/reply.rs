//! A successful reply of the token endpoint.

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use reqwest::{Response, StatusCode, header};

use super::{Grant, log_answer, unreachable::Cut};
use crate::{
    AccessToken, Error, ErrorKind, Geolocation, RefreshTokenObject,
    members::{BadMember, Members},
};

/// What Concur answered to a [`Grant`](crate::Grant).
///
/// It is received already: keep its [`refresh_token_object`](Self::refresh_token_object) before anything else,
/// even if another member of the reply is at fault.
pub struct TokenReply {
    members: Members,
    headers: Headers,
    base: Geolocation,
    grant: &'static str,
    /// Why there is no more than this, where it is not all.
    fault: Option<Error>,
}

/// The headers that mean something.
#[derive(Clone, Debug)]
pub(super) struct Headers {
    pub(super) received_at: SystemTime,
    pub(super) server_time: Option<SystemTime>,
    pub(super) retry_after: Option<Duration>,
    pub(super) correlation_id: Option<String>,
}

impl Headers {
    /// `is_secret` tells whether a text that the server chose holds a secret of the request.
    pub(super) fn of(response: &Response, now: SystemTime, is_secret: impl Fn(&str) -> bool) -> Self {
        let text = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok());
        let date = text(header::DATE.as_str()).and_then(|date| httpdate::parse_http_date(date).ok());
        let retry_after = text(header::RETRY_AFTER.as_str()).and_then(|value| {
            value.trim().parse().map(Duration::from_secs).ok().or_else(|| {
                let at = httpdate::parse_http_date(value).ok()?;
                Some(at.duration_since(date.unwrap_or(now)).unwrap_or_default())
            })
        });
        let is_id = |id: &&str| {
            (1..=64).contains(&id.len())
                && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte))
                && !is_secret(id)
        };
        Self {
            received_at: now,
            server_time: date,
            retry_after,
            correlation_id: text("concur-correlationid").filter(is_id).map(str::to_owned),
        }
    }
}

impl TokenReply {
    /// Of a reply that is cut short, a usable refresh token counts all the same: no other may come.
    pub(super) fn read(
        body: &[u8],
        cut: Option<Cut>,
        grant: &Grant,
        headers: &Headers,
        base: &Geolocation,
    ) -> Result<Self, Error> {
        let (members, garbled) = Members::parse_reply(body);
        let reply =
            Self { members, headers: headers.clone(), base: base.clone(), grant: grant.name(), fault: None };
        match cut.or(garbled.map(Cut::Garbled)) {
            None => Ok(reply),
            Some(cut) if reply.refresh_token_object().is_ok() => {
                let host = base.host();
                let fault = Error::new(
                    cut.kind(),
                    format!(
                        "the reply of {host} is good up to its refresh token but not to its end; try again"
                    ),
                )
                .with_correlation_id(headers.correlation_id.clone())
                .caused_by(cut);
                Ok(Self { fault: Some(fault), ..reply })
            }
            Some(cut) => Err(cut.explain(base.host(), grant)),
        }
    }

    /// Tells the log of it. Not before it is saved: a subscriber may end the process.
    pub(crate) fn log(&self) {
        let id = self.headers.correlation_id.as_deref();
        log_answer(self.grant, self.base.host(), StatusCode::OK, None, id);
    }

    /// The refresh token and all that came with it.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Protocol`] when the reply holds no usable `refresh_token`.
    pub fn refresh_token_object(&self) -> Result<RefreshTokenObject, Error> {
        self.succeed(None, false, None).map(|(object, _)| object)
    }

    /// The access token that came with the reply.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Protocol`] when the reply holds no usable access token, [`ErrorKind::Untrusted`] when its
    /// `geolocation` is not Concur's.
    pub fn access_token(&self) -> Result<AccessToken, Error> {
        let (object, fault) = self.succeed(None, false, None)?;
        fault?;
        let geolocation = match object.geolocation() {
            Some(received) => self.base.received(received, "the geolocation in the reply")?,
            None => self.base.clone(),
        };
        let issued = object.access().ok_or_else(|| self.at_fault(BadMember("access_token", "there")))?;
        Ok(AccessToken::new(issued.clone(), geolocation, object.shared_scopes()))
    }

    /// The object that follows `predecessor`, and apart from it what else is wrong with the reply.
    pub(crate) fn succeed(
        &self,
        predecessor: Option<&RefreshTokenObject>,
        same_grant: bool,
        company_uuid: Option<&str>,
    ) -> Result<(RefreshTokenObject, Result<(), Error>), Error> {
        let Headers { received_at, server_time, .. } = self.headers;
        let (object, fault) = RefreshTokenObject::received(
            self.members.clone(),
            predecessor,
            same_grant,
            company_uuid,
            received_at,
            server_time,
        )
        .map_err(|e| self.protocol(&format!("holds no usable refresh token: {e}")))?;
        let fault = match &self.fault {
            Some(cut) => Err(cut.clone()),
            None => fault.map_err(|bad| self.at_fault(bad)),
        };
        Ok((object, fault))
    }

    fn at_fault(&self, bad: BadMember) -> Error {
        self.protocol(&format!("has a fault: {bad}"))
    }

    fn protocol(&self, what: &str) -> Error {
        let host = self.base.host();
        Error::new(
            ErrorKind::Protocol,
            format!("the reply of {host} {what}; tell SAP Concur's support, with the correlation id"),
        )
        .with_correlation_id(self.headers.correlation_id.clone())
    }
}

impl fmt::Debug for TokenReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenReply")
            .field("members", &self.members)
            .field("base", &self.base)
            .finish_non_exhaustive()
    }
}
