//! Signing in expressly: with which grants, whose, and where they are sent.
//!
//! Always: nobody's stored token gives way to somebody else's.

use super::{flight::Need, memory::geolocation_of, renewal::Flight};
use crate::{
    Credentials, Error, ErrorKind, Geolocation, Grant, RefreshTokenObject, oauth_client::SignsIn,
    principal::Principal,
};

pub(super) const TO_BE_HELD: &str = "the token to be held";

/// Before anything is sent.
pub(super) fn check_grant(grant: &Grant, credentials: &Credentials) -> Result<(), Error> {
    let refused = |message: String| Err(Error::new(ErrorKind::Config, message));
    match (grant.signs_in(), credentials.principal()) {
        (SignsIn::Company(uuid), Some(principal)) => principal.check_company(uuid, TO_BE_HELD),
        (SignsIn::User, Some(Principal::Company(ours))) => refused(format!(
            "the grant signs in a user, but the credentials name company {ours}; use a manager whose credentials name no \
             company, with another place for the user's token"
        )),
        (SignsIn::Anybody, _) => refused(
            "nobody signs in with a refresh token, and the one that comes back could be another principal's; hand it over \
             with TokenManager::adopt"
                .to_owned(),
        ),
        (SignsIn::App, _) => refused(
            "an app that signs in by itself gets no refresh token, so there is nothing to keep; use \
             TokenManagerBuilder::build_for_app, which asks again in time"
                .to_owned(),
        ),
        _ => Ok(()),
    }
}

/// Whether a token is that of whom the credentials name or, where they name nobody, of whom the stored one is.
pub(super) fn check_token(
    token: &RefreshTokenObject,
    stored: Option<&RefreshTokenObject>,
    credentials: &Credentials,
    what: &str,
) -> Result<(), Error> {
    if let Some(principal) = credentials.principal() {
        return principal.check(token, || what.to_owned());
    }
    match stored.and_then(Principal::of).map(|principal| principal.check(token, || what.to_owned())) {
        Some(Err(_)) => Err(Error::new(
            ErrorKind::Config,
            format!(
                "{what} belongs to another principal than the stored one; use another place for it, or move that one away"
            ),
        )),
        _ => Ok(()),
    }
}

/// Once Concur has said who signed in. After a sign-in by somebody else nothing is saved: that can be repeated, and the
/// stored token, which would be overwritten, may be the only one there is. Every other reply is saved first.
pub(super) fn check_received(
    token: &RefreshTokenObject,
    stored: Option<&RefreshTokenObject>,
    flight: Flight<'_>,
    fault: Result<(), Error>,
) -> Result<Result<(), Error>, Error> {
    let checked = check_token(token, stored, flight.credentials, "the token that Concur has sent");
    if let Need::SignIn(_) = flight.need {
        checked?;
        return Ok(fault);
    }
    Ok(fault.and(checked))
}

/// Companies, and users with a code from a browser, sign in at the base URI, which is the landing zone by default.
/// Everybody else belongs where the stored token says that they live; from anywhere else code 16 shows the way.
pub(super) fn base_for(
    grant: &Grant,
    stored: Option<&RefreshTokenObject>,
    base: &Geolocation,
) -> Geolocation {
    let stored = stored.filter(|_| grant.is_for_the_geolocation());
    stored.and_then(|stored| geolocation_of(stored, base).ok()).unwrap_or_else(|| base.clone())
}
