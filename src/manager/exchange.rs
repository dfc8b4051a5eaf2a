//! Which grant is sent: the stored refresh token before a sign-in, and what a refusal leads to.
//!
//! Always: a company request token is spent only where nothing else can help, and not twice in a row for nothing.

use super::{core::Core, flight::Need, memory::geolocation_of, renewal::Flight, sign_in};
use crate::{
    ConcurCode, Credentials, Error, ErrorKind, Geolocation, Grant, RefreshTokenObject, TokenOrigin,
    TokenReply, log, oauth_client::Conditions, random::Random,
};

/// What Concur sent and how; `None` when the refresh token was refused and the store holds another by now.
pub(super) type Exchanged = Option<(TokenReply, TokenOrigin)>;

impl Core {
    /// Sends what can be sent, best first.
    pub(super) async fn exchange(
        &self,
        stored: Option<&RefreshTokenObject>,
        flight: Flight<'_>,
    ) -> Result<Exchanged, Error> {
        let base = &flight.identity.base;
        if let Need::SignIn(grant) = flight.need {
            let base = sign_in::base_for(grant, stored, base);
            return self.send(&base, grant, TokenOrigin::Obtained, flight).await;
        }
        let Some(stored) = stored else {
            return self.obtain(flight).await;
        };
        let looks_expired = stored.expiry().is_some_and(|expiry| expiry <= self.clock.now());
        let mut no_sign_in = None;
        if looks_expired {
            match self.obtain(flight).await {
                Err(e) if needs_new_request_token(&e) => no_sign_in = Some(e),
                answer => return answer,
            }
        }
        // One that looks expired comes last, but it comes: our clock may be the one that is wrong.
        let refused = match self.present(stored, flight).await {
            Err(e) if e.is_invalid_grant() => e,
            answer => return answer,
        };
        if self.store.load().await?.is_some_and(|now| !now.is_same_token(stored)) {
            return Ok(None);
        }
        // A locked or denied account would only be made worse by a request token.
        if !refused.is_bad_refresh_token() {
            return Err(refused);
        }
        let no_sign_in = match no_sign_in {
            Some(e) => e,
            None => {
                log::event!(warn, error = %refused, "the refresh token is no longer accepted; signing in again");
                match self.obtain(flight).await {
                    Err(e) if needs_new_request_token(&e) || e.kind() == ErrorKind::Refused => e,
                    answer => return answer,
                }
            }
        };
        Err(self.reauthorization_required(&refused, &no_sign_in, flight.credentials))
    }

    /// The refresh grant, at the token's last geolocation.
    pub(super) async fn present(
        &self,
        stored: &RefreshTokenObject,
        flight: Flight<'_>,
    ) -> Result<Exchanged, Error> {
        let geolocation = geolocation_of(stored, &flight.identity.base)?;
        let grant = Grant::refresh_token(stored.secret());
        self.send(&geolocation, &grant, TokenOrigin::Renewed, flight).await
    }

    /// The grant of the credentials, at the base URI.
    async fn obtain(&self, flight: Flight<'_>) -> Result<Exchanged, Error> {
        let grant = Grant::of(flight.credentials)?;
        let sent = self.send(&flight.identity.base, &grant, TokenOrigin::Obtained, flight).await;
        sent.map_err(|e| {
            if e.kind() == ErrorKind::Protocol {
                return e.in_doubt();
            }
            if !is_bad_request_token(&e) {
                return e;
            }
            let message = format!("Concur did not accept {}", flight.credentials.not_accepted());
            Error::new(ErrorKind::ReauthorizationRequired, message).answered_as(&e)
        })
    }

    async fn send(
        &self,
        base: &Geolocation,
        grant: &Grant,
        origin: TokenOrigin,
        flight: Flight<'_>,
    ) -> Result<Exchanged, Error> {
        let Flight { credentials, budget, .. } = flight;
        let conditions = Conditions { clock: &self.clock, random: &Random::System, budget };
        let reply = self.client.send(base, credentials, grant, &conditions).await?;
        Ok(Some((reply, origin)))
    }

    /// Both ways are closed: `refused` is what became of the refresh token, `no_sign_in` of the other.
    fn reauthorization_required(
        &self,
        refused: &Error,
        no_sign_in: &Error,
        credentials: &Credentials,
    ) -> Error {
        let (nothing, way_back) = credentials.way_back();
        let (no_sign_in, last) = match no_sign_in.kind() {
            ErrorKind::CredentialsNeeded => (nothing, refused),
            _ => ("signing in again was refused too", no_sign_in),
        };
        Error::new(
            ErrorKind::ReauthorizationRequired,
            format!(
                "the refresh token in {} is no longer accepted, and {no_sign_in}; {way_back}",
                self.store.describe()
            ),
        )
        .answered_as(last)
    }
}

/// The company request token (or the UUID it belongs to) is missing or was turned down.
fn needs_new_request_token(e: &Error) -> bool {
    matches!(e.kind(), ErrorKind::CredentialsNeeded | ErrorKind::ReauthorizationRequired)
}

/// Concur turned down the request token itself, not the app or the account.
fn is_bad_request_token(e: &Error) -> bool {
    e.kind() == ErrorKind::Refused
        && match e.code().map(ConcurCode::number) {
            Some(number) => matches!(number, 5 | 19 | 136),
            None => e.is_invalid_grant(),
        }
}
