//! Whose token it is: what may be signed in, adopted and kept, and where a sign-in is sent.
//!
//! Always: no principal's stored token gives way to another principal's.

use super::super::{flight::Flight, held::geolocation_of, need::Need};
use crate::{
    Credentials, Error, ErrorKind, Geolocation, Grant, RefreshTokenObject, oauth_client::SignsIn,
    principal::Principal,
};

/// What errors call a token that is to replace the held one.
const NEW_TOKEN: &str = "the new token";

/// What to do with a reply, once it says whose it is.
pub(super) enum Verdict {
    Keep,
    /// Saved first, and then the caller is told what is wrong with it.
    KeepAndTell(Error),
    /// Not saved at all.
    Refuse(Error),
}

impl Flight<'_> {
    /// Before anything is read or sent: what is to replace the held token must be the same principal's, and lead to Concur.
    pub(super) fn check_replacement(&self) -> Result<(), Error> {
        match self.need {
            Need::SignIn(grant) => check_grant(grant, self.credentials),
            Need::Adopt(token) => {
                geolocation_of(token, &self.identity.base)?;
                self.check_new(token, None)
            }
            Need::RefreshToken { .. }
            | Need::AccessToken { .. }
            | Need::KeepAlive
            | Need::Due
            | Need::Grant
            | Need::Retry
            | Need::Revoke
            | Need::Forget => Ok(()),
        }
    }

    pub(super) fn check_new(
        &self,
        token: &RefreshTokenObject,
        stored: Option<&RefreshTokenObject>,
    ) -> Result<(), Error> {
        check_owner(token, stored, self.credentials, NEW_TOKEN)
    }

    /// Once Concur has said who signed in. After a sign-in by another principal nothing is saved: a sign-in can be repeated,
    /// and the stored token, which would be overwritten, may be the only one there is. Every other reply is saved first.
    pub(super) fn judge(
        &self,
        token: &RefreshTokenObject,
        stored: Option<&RefreshTokenObject>,
        fault: Option<Error>,
    ) -> Verdict {
        let owned = check_owner(token, stored, self.credentials, "the token that Concur has sent");
        match (owned, fault) {
            (Err(foreign), _) if matches!(self.need, Need::SignIn(_)) => Verdict::Refuse(foreign),
            (_, Some(fault)) | (Err(fault), None) => Verdict::KeepAndTell(fault),
            (Ok(()), None) => Verdict::Keep,
        }
    }
}

/// Before a grant is sent.
fn check_grant(grant: &Grant, credentials: &Credentials) -> Result<(), Error> {
    let refused = |message: String| Err(Error::new(ErrorKind::Config, message));
    match (grant.signs_in(), credentials.principal()) {
        (SignsIn::Company(uuid), Some(principal)) => principal.check_company(uuid, NEW_TOKEN),
        (SignsIn::User, Some(Principal::Company(ours))) => refused(format!(
            "the grant signs in a user, but the credentials name company {ours}; use a manager whose credentials name no \
             company, with a separate store for the user's token"
        )),
        (SignsIn::Anybody, _) => refused(
            "a refresh token grant is not a sign-in, and its reply could belong to another principal; pass the token to \
             TokenManager::adopt"
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

/// Whether a token belongs to the principal that the credentials name or, where they name none, to the stored token's.
fn check_owner(
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
                "{what} belongs to another principal than the stored one; keep it in a separate store, or move the stored \
                 token away"
            ),
        )),
        _ => Ok(()),
    }
}

/// Companies, and users with a code from a browser, sign in at the base URI, which is the landing zone by default. All other
/// users belong where the stored token says that they live; from anywhere else code 16 shows the way.
pub(super) fn base_for(
    grant: &Grant,
    stored: Option<&RefreshTokenObject>,
    base: &Geolocation,
) -> Geolocation {
    let stored = stored.filter(|_| grant.is_for_the_geolocation());
    stored.and_then(|stored| geolocation_of(stored, base).ok()).unwrap_or_else(|| base.clone())
}
