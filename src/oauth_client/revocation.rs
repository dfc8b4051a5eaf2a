//! Parting: all refresh tokens that a principal's app holds are revoked.

use reqwest::StatusCode;

use super::{
    OAuthClient,
    exchange::{Attempt, Received, refusal_in},
    form::{Endpoint, Form},
    http::REQUEST_TIMEOUT,
    to_its_end,
};
use crate::{AccessToken, Clock, Error, ErrorKind, SystemClock};

/// Why nothing was revoked, as far as is known.
pub(crate) struct NotRevoked {
    pub(crate) error: Error,
    /// The access token was not accepted: with another one it may work.
    pub(crate) unauthorized: bool,
}

impl From<Error> for NotRevoked {
    fn from(error: Error) -> Self {
        Self { error, unauthorized: false }
    }
}

/// Revocation.
impl OAuthClient {
    /// Revokes **all** refresh tokens of the access token's principal for the app, wherever they are kept.
    ///
    /// Nothing is removed from any store: [`TokenManager::revoke`](crate::TokenManager::revoke) does that too. It may
    /// safely be called again after a failure.
    ///
    /// ```no_run
    /// # async fn example(tokens: concur_auth::TokenManager) -> Result<(), concur_auth::Error> {
    /// let access = tokens.access_token().await?;
    /// concur_auth::OAuthClient::new().revoke(&access).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Refused`] when the access token is not accepted (any more); [`ErrorKind::Unavailable`] when the
    /// network or the server is in the way, and perhaps nobody knows whether the tokens are revoked; and what else
    /// [`request_token`](Self::request_token) returns.
    ///
    /// Source: SAP Concur developer centre, "Authentication API, revoking tokens".
    pub async fn revoke(&self, access: &AccessToken) -> Result<(), Error> {
        let (client, access) = (self.clone(), access.clone());
        to_its_end(async move { client.disconnect(&access, &SystemClock).await.map_err(|not| not.error) })
            .await
    }

    /// On the runtime that it is called on: this crate's own.
    pub(crate) async fn disconnect(&self, access: &AccessToken, clock: &dyn Clock) -> Result<(), NotRevoked> {
        let base = access.geolocation();
        let form = Form::new(Endpoint::Connections, []);
        let request = self
            .0
            .client(base)?
            .delete(base.join(form.path())?)
            .timeout(REQUEST_TIMEOUT)
            .bearer_auth(access.secret());
        let attempt = Attempt { base, form: &form, clock, number: 1, followed: false };
        let received = Received::of(request, attempt, |id| id.contains(access.secret())).await;
        let Received { status, headers, body, cut, entry } = received.map_err(|failure| failure.error)?;
        let unauthorized = status == StatusCode::UNAUTHORIZED;
        let failure = match status {
            _ if status.is_success() => {
                entry.answered(base.host(), headers.correlation_id.as_deref());
                return Ok(());
            }
            StatusCode::UNAUTHORIZED => Error::new(
                ErrorKind::Refused,
                format!(
                    "{} did not accept the access token, so nothing was revoked; get another one and try again",
                    base.host()
                ),
            )
            .into(),
            _ => refusal_in(status, cut, &headers, &body, base, &form),
        };
        Err(NotRevoked { error: entry.failed_with(base.host(), &headers, failure).error, unauthorized })
    }
}
