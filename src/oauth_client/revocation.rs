//! Revocation of all refresh tokens that an app holds for a principal.
//!
//! Always: a refused access token is told apart from other failures, because another access token may be accepted.

use reqwest::StatusCode;

use super::{
    OAuthClient,
    budget::{Conditions, RetryBudget},
    completion::to_completion,
    error_reply::ErrorReply,
    failure::{Failure, Fate},
    outgoing_request::{Endpoint, OutgoingRequest},
    request::{Attempt, Exchanged, exchange},
    response::Response,
    retry::detour,
    transport::Authorization,
};
use crate::{AccessToken, Error, ErrorKind};

/// Why nothing was revoked, or why it is unknown whether the tokens are revoked.
pub(crate) struct NotRevoked {
    pub(crate) error: Error,
    /// The access token was not accepted: the revocation may work with another one.
    pub(crate) unauthorized: bool,
}

/// Revocation.
impl OAuthClient {
    /// Revokes **all** refresh tokens of the access token's principal for the app, wherever they are stored.
    ///
    /// A redirect (307, 308) is followed, to trusted hosts only. No store is changed:
    /// [`TokenManager::revoke`](crate::TokenManager::revoke) also empties its store. After a failure it is safe to call this
    /// again.
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
    /// network or the server fails, after which it may be unknown whether the tokens are revoked; and the other errors
    /// of [`request_token`](Self::request_token).
    ///
    /// Source: SAP Concur developer centre, "Authentication API, revoking tokens".
    pub async fn revoke(&self, access: &AccessToken) -> Result<(), Error> {
        let (client, access) = (self.clone(), access.clone());
        to_completion(async move {
            let budget = RetryBudget::one_attempt();
            let conditions = Conditions::without_manager(&budget);
            client.send_revocation(&access, &conditions).await.map_err(|not_revoked| not_revoked.error)
        })
        .await
    }

    /// Sends the revocation once, and to where a redirect leads, on the caller's executor.
    pub(crate) async fn send_revocation(
        &self,
        access: &AccessToken,
        conditions: &Conditions<'_>,
    ) -> Result<(), NotRevoked> {
        let request = OutgoingRequest::new(Endpoint::Connections, []);
        let mut base = access.geolocation().clone();
        let mut detours = 0;
        loop {
            // The answer of a host that another one has named brings no geolocation with it.
            let attempt = Attempt { base: &base, request: &request, conditions, number: 1, followed: false };
            let Err((Failure { error, fate, .. }, unauthorized)) = self.revoke_at(attempt, access).await
            else {
                return Ok(());
            };
            let Fate::Elsewhere(to) = fate else { return Err(NotRevoked { error, unauthorized }) };
            let (limits, spent) = (conditions.budget.limits(), *conditions.budget.spent());
            base = detour(*to, &base, detours, limits, spent).map_err(|ending| NotRevoked {
                error: ending.error(error, &base, spent),
                unauthorized: false,
            })?;
            detours += 1;
        }
    }

    /// The failure, and whether the access token was not accepted.
    async fn revoke_at(&self, attempt: Attempt<'_>, access: &AccessToken) -> Result<(), (Failure, bool)> {
        let Attempt { base, request, conditions, .. } = attempt;
        let Exchanged { response, entry, turn } = exchange(&self.0, attempt, Authorization::Bearer(access))
            .await
            .map_err(|failure| (failure, false))?;
        let Response { status, headers, body, cut } = response;
        let correlation_id = headers.correlation_id.as_deref();
        let unauthorized = status == StatusCode::UNAUTHORIZED;
        let failure = match status {
            _ if status.is_success() => {
                entry.answered(base.host(), correlation_id);
                turn.answered(Ok(()), conditions.clock.now());
                return Ok(());
            }
            StatusCode::UNAUTHORIZED => Error::new(
                ErrorKind::Refused,
                format!(
                    "{} did not accept the access token, so nothing was revoked; get another access token and try again",
                    base.host()
                ),
            )
            .into(),
            _ => ErrorReply { base, request, status, headers: &headers, body: &body, cut }.failure(),
        };
        let failure = entry.failed(base.host(), correlation_id, failure);
        turn.answered(Err(&failure.error), conditions.clock.now());
        Err((failure, unauthorized))
    }
}
