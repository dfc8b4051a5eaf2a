//! Which grant is sent: the stored refresh token before a sign-in, and what a refusal leads to.
//!
//! Always: a company request token is spent only where nothing else can help, and not twice in a row for nothing.

use std::time::Duration;

use super::{
    super::{core::Core, flight::Flight, held::geolocation_of, locked_store::Rehearsed, need::Need},
    owner::base_for,
};
use crate::{
    ConcurCode, Error, ErrorKind, Grant, RefreshTokenObject, TokenOrigin, TokenReply, consequences, log,
};

/// The pause between two looks for the save of a process that is late.
const LOOKS_FOR_A_LATE_SAVE: Duration = Duration::from_millis(500);

pub(super) enum Exchanged {
    /// What Concur sent, and for which kind of grant.
    Reply(Box<TokenReply>, TokenOrigin),
    /// The refresh token was refused, and the store holds another by now.
    Overtaken,
}

/// The two ways to a new token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// With the stored refresh token.
    Refresh,
    /// With what the credentials hold: a company request token, or a user's password.
    SignIn,
}

enum Tried {
    Answered(Exchanged),
    /// Only the other way is left.
    Closed(Error),
}

/// Best first. A refresh token that is no longer accepted, or looks expired, comes last, but it comes: this machine's clock may
/// be the wrong one.
fn ways(looks_dead: bool) -> [Way; 2] {
    if looks_dead { [Way::SignIn, Way::Refresh] } else { [Way::Refresh, Way::SignIn] }
}

/// Whether a failure leaves only the other way; any other failure ends the flight.
fn closes(way: Way, is_last: bool, e: &Error) -> bool {
    match way {
        // With another code the account is locked or denied, which a request token would only make worse.
        Way::Refresh => e.is_bad_refresh_token(),
        Way::SignIn => {
            consequences::of(e.kind()).leaves_no_sign_in
                // After the refresh token was refused, it takes a person whatever the code says.
                || (is_last && e.kind() == ErrorKind::Refused)
        }
    }
}

impl Flight<'_> {
    /// Sends what can be sent, best first.
    pub(super) async fn exchange(
        &self,
        stored: Option<&RefreshTokenObject>,
        rehearsed: &Rehearsed,
    ) -> Result<Exchanged, Error> {
        let base = &self.identity.base;
        if let Need::SignIn(grant) = self.need {
            let reply = self.send(&base_for(grant, stored, base), grant, rehearsed).await?;
            return Ok(Exchanged::Reply(Box::new(reply), TokenOrigin::Obtained));
        }
        let Some(stored) = stored else {
            return Ok(Exchanged::Reply(Box::new(self.obtain(rehearsed).await?), TokenOrigin::Obtained));
        };
        let now = self.core.now();
        // While the access token of the last grant lives, the refresh token's expiry is what is wrong.
        let is_recent = stored.access().is_some_and(|access| now < access.expires_at);
        let looks_expired = !is_recent && stored.expiry().is_some_and(|expiry| expiry <= now);
        let [first, last] = ways(looks_expired || self.core.gate.is_dead(stored));
        let first_closed = match self.try_way(first, false, stored, rehearsed).await? {
            Tried::Answered(answer) => return Ok(answer),
            Tried::Closed(e) => e,
        };
        if last == Way::SignIn {
            let cause = log::causes(&first_closed);
            log::event!(warn, error = %first_closed, cause, "the refresh token is no longer accepted; signing in again");
        }
        let last_closed = match self.try_way(last, true, stored, rehearsed).await? {
            Tried::Answered(answer) => return Ok(answer),
            Tried::Closed(e) => e,
        };
        Err(match last {
            Way::SignIn => self.reauthorization_required(&first_closed, &last_closed),
            Way::Refresh => self.reauthorization_required(&last_closed, &first_closed),
        })
    }

    async fn try_way(
        &self,
        way: Way,
        is_last: bool,
        stored: &RefreshTokenObject,
        rehearsed: &Rehearsed,
    ) -> Result<Tried, Error> {
        let answer = match way {
            Way::Refresh => self.present(stored, rehearsed).await.map(|reply| (reply, TokenOrigin::Renewed)),
            Way::SignIn => self.obtain(rehearsed).await.map(|reply| (reply, TokenOrigin::Obtained)),
        };
        let e = match answer {
            Ok((reply, origin)) => return Ok(Tried::Answered(Exchanged::Reply(Box::new(reply), origin))),
            Err(e) => e,
        };
        // The lock is held, and yet the store may hold another token by now: not every store has a lock, and SAP's sample
        // takes none.
        let is_closed = closes(way, is_last, &e);
        if is_closed && way == Way::Refresh {
            // Before anything else takes its time: whatever the store holds by now, this token is dead.
            self.core.gate.find_dead(stored);
        }
        if way == Way::Refresh && e.is_invalid_grant() && self.is_overtaken(stored).await? {
            return Ok(Tried::Answered(Exchanged::Overtaken));
        }
        if is_closed { Ok(Tried::Closed(e)) } else { Err(e) }
    }

    /// Whether the store holds another token than the one that was refused. If the process that held the lock before may
    /// have sent that token, its save is waited for.
    pub(super) async fn is_overtaken(&self, refused: &RefreshTokenObject) -> Result<bool, Error> {
        let Core { cache, machine, .. } = &**self.core;
        let mut left = cache.store.late_save().await;
        loop {
            let stored = cache.store.load().await?;
            if stored.is_some_and(|stored| !stored.is_same_token(refused)) {
                return Ok(true);
            }
            if left.is_zero() {
                return Ok(false);
            }
            let pause = left.min(LOOKS_FOR_A_LATE_SAVE);
            machine.clock.sleep(pause).await;
            left -= pause;
        }
    }

    /// The refresh grant, at the token's last geolocation.
    pub(super) async fn present(
        &self,
        stored: &RefreshTokenObject,
        rehearsed: &Rehearsed,
    ) -> Result<TokenReply, Error> {
        let geolocation = geolocation_of(stored, &self.identity.base)?;
        self.send(&geolocation, &Grant::refresh_token(stored.secret()), rehearsed).await
    }

    /// The grant of the credentials, at the base URI.
    async fn obtain(&self, rehearsed: &Rehearsed) -> Result<TokenReply, Error> {
        let grant = Grant::of(self.credentials)?;
        self.send(&self.identity.base, &grant, rehearsed).await.map_err(|e| {
            if e.kind() == ErrorKind::Protocol {
                return e.in_doubt();
            }
            if !is_bad_request_token(&e) {
                return e;
            }
            let message = format!("Concur did not accept {}", self.credentials.not_accepted());
            Error::new(ErrorKind::ReauthorizationRequired, message).answered_as(&e)
        })
    }

    /// Both ways are closed: `refused` is what became of the refresh token, `no_sign_in` of the sign-in.
    fn reauthorization_required(&self, refused: &Error, no_sign_in: &Error) -> Error {
        let (nothing, way_back) = self.credentials.way_back();
        let (no_sign_in, last) = match no_sign_in.kind() {
            ErrorKind::CredentialsNeeded => (nothing, refused),
            _ => ("signing in again was refused too", no_sign_in),
        };
        Error::new(
            ErrorKind::ReauthorizationRequired,
            format!(
                "the refresh token in {} is no longer accepted, and {no_sign_in}; {way_back}",
                self.core.cache.store.describe()
            ),
        )
        .answered_as(last)
    }
}

/// Concur turned down the request token itself, not the app or the account.
fn is_bad_request_token(e: &Error) -> bool {
    e.kind() == ErrorKind::Refused
        && match e.code().map(ConcurCode::number) {
            Some(number) => matches!(number, 5 | 19 | 136),
            None => e.is_invalid_grant(),
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(kind: ErrorKind, code: Option<u32>, is_invalid_grant: bool) -> Error {
        Error::new(kind, "").with_code(code.map(ConcurCode::new), is_invalid_grant)
    }

    #[test]
    fn what_closes_a_way() {
        use ErrorKind::*;
        for (kind, code, is_invalid_grant, refresh, sign_in, sign_in_last) in [
            (Refused, Some(108), true, true, false, true),
            (Refused, None, true, true, false, true),
            (Refused, Some(14), true, false, false, true),
            (Refused, Some(61), false, false, false, true),
            (ReauthorizationRequired, Some(5), true, false, true, true),
            (CredentialsNeeded, None, false, false, true, true),
            (CredentialsInvalid, None, false, false, false, false),
            (Unavailable, None, false, false, false, false),
            (Protocol, None, false, false, false, false),
            (Untrusted, None, false, false, false, false),
        ] {
            let e = error(kind, code, is_invalid_grant);
            let closed = [
                closes(Way::Refresh, false, &e),
                closes(Way::SignIn, false, &e),
                closes(Way::SignIn, true, &e),
            ];
            assert_eq!(closed, [refresh, sign_in, sign_in_last], "{kind:?} {code:?}");
        }
    }
}
