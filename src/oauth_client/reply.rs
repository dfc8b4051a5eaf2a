//! A successful reply of the token endpoint.

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use reqwest::{Response, header};

use super::Entry;
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
    entry: Entry,
}

/// The id of a request, by which SAP's support finds it.
pub(super) const CORRELATION_ID: &str = "concur-correlationid";

/// The headers that mean something.
#[derive(Clone, Debug)]
pub(super) struct Headers {
    pub(super) received_at: SystemTime,
    pub(super) server_time: Option<SystemTime>,
    pub(super) retry_after: Option<Duration>,
    pub(super) location: Option<String>,
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
            location: text(header::LOCATION.as_str()).map(str::to_owned),
            correlation_id: text(CORRELATION_ID).filter(is_id).map(str::to_owned),
        }
    }
}

impl TokenReply {
    pub(super) fn new(members: Members, headers: Headers, base: Geolocation, entry: Entry) -> Self {
        Self { members, headers, base, entry }
    }

    /// Tells the log of it. Not before it is saved: a subscriber may end the process.
    pub(crate) fn log(&self) {
        self.entry.answered(self.base.host(), self.headers.correlation_id.as_deref());
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
        .map_err(|e| self.protocol("holds no usable refresh token").caused_by(e))?;
        Ok((object, fault.map_err(|bad| self.at_fault(bad))))
    }

    fn at_fault(&self, bad: BadMember) -> Error {
        self.protocol("has a fault").caused_by(bad)
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
