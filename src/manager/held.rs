//! A refresh token object with what is derived from it once.

use std::time::{Duration, SystemTime};

use super::decision::{Decision, Window, decide};
use crate::{
    AccessToken, Error, Geolocation, RefreshTokenObject, Status, TokenOrigin, backoff::Backoff, clock,
    random::Random, shown,
};

/// A token that an API refuses sooner than this is young: the reason is hardly its age.
const YOUNG: Duration = Duration::from_secs(60);
/// How long a young token is handed out after its refusal, if its predecessor was refused, too.
const REFUSED_AGAIN: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));

#[derive(Clone, Debug)]
pub(super) struct Held {
    pub(super) object: RefreshTokenObject,
    /// The principal's data centre, or the base URI where the object names none; an error if it names a foreign host.
    geolocation: Result<Geolocation, Error>,
    access: Option<HeldAccess>,
    pub(super) origin: TokenOrigin,
    /// It is newer than what the store holds, and in memory only.
    pub(super) is_unsaved: bool,
}

/// An access token, and what API calls made of it.
#[derive(Clone, Debug)]
pub(super) struct HeldAccess {
    pub(super) token: AccessToken,
    pub(super) window: Window,
    /// How many tokens in a row an API refused before this one.
    refused_before: u32,
    /// An API refused this one. It is handed out until the end of its window, which is a pause, and no longer.
    is_refused: bool,
}

impl HeldAccess {
    /// `before`: what it replaces.
    pub(super) fn new(token: AccessToken, before: Option<&Self>, random: &Random) -> Self {
        let refused_before = before.filter(|it| it.is_refused).map_or(0, |it| it.refused_before + 1);
        let window = Window::of_access(token.issued(), random.fraction());
        Self { window, token, refused_before, is_refused: false }
    }

    /// The same after an API refused it. An API that refuses every token for a reason of its own must not make each call a
    /// grant: a young token whose predecessor was refused, too, is handed out for the time of a pause.
    pub(super) fn refused(&self, now: SystemTime) -> Self {
        if self.is_refused {
            return self.clone();
        }
        let is_young = self.window.age(now).is_some_and(|age| age < YOUNG);
        let (until, refused_before) = match self.refused_before.checked_sub(1) {
            Some(earlier) if is_young => {
                (now.checked_add(REFUSED_AGAIN.nth(earlier)).unwrap_or(now), self.refused_before)
            }
            _ => (now, 0),
        };
        Self { window: self.window.cut(now, until), refused_before, is_refused: true, ..self.clone() }
    }

    pub(super) fn is(&self, token: &AccessToken) -> bool {
        self.token.secret() == token.secret()
    }

    /// Whether it is this token, and no API has refused it.
    pub(super) fn still_is(&self, token: &AccessToken) -> bool {
        self.is(token) && !self.is_refused
    }
}

impl Held {
    /// `base` is what the object's geolocation is checked against; an untrusted geolocation yields no access token.
    pub(super) fn new(
        object: RefreshTokenObject,
        origin: TokenOrigin,
        base: &Geolocation,
        before: Option<&Self>,
        random: &Random,
    ) -> Self {
        let before = before.and_then(|held| held.access.as_ref());
        let geolocation = geolocation_of(&object, base);
        let access = object.access().zip(geolocation.as_ref().ok()).map(|(issued, geolocation)| {
            match before {
                // What was refused stays refused, unless Concur hands it out once more.
                Some(before)
                    if before.is_refused
                        && before.token.secret() == issued.secret.expose()
                        && origin == TokenOrigin::Stored =>
                {
                    before.clone()
                }
                _ => {
                    let token = AccessToken::new(issued.clone(), geolocation.clone(), object.shared_scopes());
                    HeldAccess::new(token, before, random)
                }
            }
        });
        Self { object, geolocation, access, origin, is_unsaved: false }
    }

    pub(super) fn unsaved(self, is_unsaved: bool) -> Self {
        Self { is_unsaved, ..self }
    }

    /// The same without its access token, which is not this principal's.
    pub(super) fn without_access(self) -> Self {
        Self { access: None, ..self }
    }

    /// The same after an API refused this access token; `None` if it is not the current one.
    pub(super) fn refusing(&self, token: &AccessToken, now: SystemTime) -> Option<Self> {
        let current = self.access.as_ref().filter(|current| current.is(token))?;
        Some(Self { access: Some(current.refused(now)), ..self.clone() })
    }

    /// Whether this access token is the current one, and no API has refused it.
    pub(super) fn still_has(&self, token: &AccessToken) -> bool {
        self.access.as_ref().is_some_and(|current| current.still_is(token))
    }

    /// A token with a foreign geolocation is not handed out: its user would send secrets there.
    pub(super) fn check_geolocation(&self) -> Result<(), Error> {
        self.geolocation.as_ref().map(drop).map_err(Error::clone)
    }

    /// The same, to be renewed ahead of time from this moment on.
    pub(super) fn renewed_from(mut self, moment: SystemTime) -> Self {
        if let Some(access) = &mut self.access {
            access.window.ahead = moment;
        }
        self
    }

    /// The same with an access token that is valid no more, whatever the clock is set to afterwards.
    pub(super) fn ended(mut self, now: SystemTime) -> Self {
        if let Some(access) = &mut self.access {
            access.window = access.window.cut(now, now);
        }
        self
    }

    pub(super) fn access(&self) -> Option<&HeldAccess> {
        self.access.as_ref()
    }

    /// The access token, if an API call could still be made with it.
    pub(super) fn live_access(&self, now: SystemTime) -> Option<AccessToken> {
        let access = self.access.as_ref()?;
        access.window.is_valid(now).then(|| access.token.clone())
    }

    /// Whether the refresh token is valid.
    pub(super) fn is_valid(&self, now: SystemTime) -> bool {
        self.object.expiry().is_none_or(|expiry| now < expiry)
    }

    /// What to do for a caller who needs the refresh token.
    pub(super) fn decide(
        &self,
        now: SystemTime,
        margin: Option<Duration>,
        is_backing_off: impl FnOnce() -> bool,
    ) -> Decision {
        match decide(&self.refresh_window(now, margin), now, is_backing_off) {
            // The last grant was less than an access token's life ago: a server that does not extend the refresh
            // token must not be asked on every call.
            Decision::RenewIfIdle if self.object.access().is_some_and(|access| now < access.expires_at) => {
                Decision::Serve
            }
            decision => decision,
        }
    }

    /// Whether half of the refresh token's life has passed: then a renewal is worth all its attempts.
    pub(super) fn is_half_spent(&self, now: SystemTime) -> bool {
        self.object.life(now).is_some_and(|(received, expires)| {
            let whole = expires.duration_since(received).unwrap_or_default();
            expires.duration_since(now).unwrap_or_default() <= whole / 2
        })
    }

    fn refresh_window(&self, now: SystemTime, margin: Option<Duration>) -> Window {
        Window::of_refresh(self.object.life(now), margin)
    }

    pub(super) fn report(&self, status: &mut Status, now: SystemTime) {
        let Self { object, geolocation, .. } = self;
        // What was refused and is no longer handed out is not shown as a token that has expired.
        let access = self.access.as_ref().filter(|access| !access.is_refused || access.window.is_valid(now));
        status.company_uuid = shown::uuid(object.company_uuid()).map(str::to_owned);
        status.principal_uuid = shown::uuid(object.principal_uuid()).map(str::to_owned);
        let geolocation = geolocation.as_ref().ok().filter(|_| object.geolocation().is_some());
        status.geolocation = geolocation.map(|it| it.to_string().trim_end_matches('/').to_owned());
        status.refresh_token_valid = self.is_valid(now);
        status.refresh_token_expires_at = object.expiry().map(clock::public_time);
        status.access_token_valid = access.is_some_and(|access| access.window.is_valid(now));
        status.access_token_expires_at = access.map(|access| access.token.expires_at());
        status.source = Some(self.origin);
        status.unsaved = self.is_unsaved;
    }
}

/// Where a renewal's first request goes. A refresh token that looks expired comes last, after a sign-in at `base`.
pub(super) fn first_stop(
    stored: Option<&RefreshTokenObject>,
    base: &Geolocation,
    now: SystemTime,
) -> Geolocation {
    stored
        .filter(|stored| stored.expiry().is_none_or(|expiry| now < expiry))
        .and_then(|stored| geolocation_of(stored, base).ok())
        .unwrap_or_else(|| base.clone())
}

/// The checked geolocation of a stored object, or `base` where it names none.
pub(super) fn geolocation_of(object: &RefreshTokenObject, base: &Geolocation) -> Result<Geolocation, Error> {
    let origin = "the geolocation that came with the token";
    object.geolocation().map_or_else(|| Ok(base.clone()), |received| base.received(received, origin))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> SystemTime {
        clock::from_unix_seconds(seconds).unwrap()
    }

    /// Issued at 1,400, for an hour.
    fn held(access: &str, before: Option<&Held>) -> Held {
        let json = format!(
            r#"{{"refresh_token": "r", "access_token": "{access}", "expires_in": 3600, "accessTokenExpiresAt": 5000}}"#
        );
        let object = RefreshTokenObject::from_json(&json).unwrap();
        let base = Geolocation::GLZ.parse().unwrap();
        Held::new(object, TokenOrigin::Renewed, &base, before, &Random::seeded(0))
    }

    fn refused(held: &Held, now: u64) -> Held {
        held.refusing(&held.access().unwrap().token, at(now)).unwrap()
    }

    #[test]
    fn what_an_api_refused_stays_refused_when_the_clock_is_set_back() {
        let first = refused(&held("a", None), 1430);
        // Young, and so was its predecessor: it is handed out for a second.
        let second = refused(&held("b", Some(&first)), 1440);
        assert!(second.live_access(at(1440)).is_some() && second.live_access(at(1441)).is_none());
        for held in [first, second] {
            for now in [0, 1400, 1429, 1439, 1441, 4000] {
                assert!(held.live_access(at(now)).is_none(), "at {now}");
                assert!(!held.access().unwrap().window.is_fresh(at(now)), "at {now}");
            }
        }
    }

    #[test]
    fn a_token_is_young_for_a_minute_and_its_refusal_counts_what_was_refused_before() {
        let first = refused(&held("a", None), 1400);
        for (refused_at, pause) in [(1459, 1), (1460, 0)] {
            let second = refused(&held("b", Some(&first)), refused_at);
            assert_eq!(second.live_access(at(refused_at)).is_some(), pause > 0, "at {refused_at}");
            assert!(second.live_access(at(refused_at + pause)).is_none(), "at {refused_at}");
        }
        // The third young token in a row is handed out for two seconds, the fourth for four.
        let mut last = first;
        for (access, pause) in [("b", 1), ("c", 2), ("d", 4)] {
            last = refused(&held(access, Some(&last)), 1400);
            assert!(last.live_access(at(1399 + pause)).is_some(), "{access}");
            assert!(last.live_access(at(1400 + pause)).is_none(), "{access}");
        }
        // After an older one the count begins again.
        let older = refused(&held("e", Some(&last)), 1460);
        assert!(older.live_access(at(1460)).is_none());
        let next = refused(&held("f", Some(&older)), 1400);
        assert!(next.live_access(at(1400)).is_some() && next.live_access(at(1401)).is_none());
    }

    #[test]
    fn only_the_current_token_can_be_refused_and_is_the_current_one_until_then() {
        let (first, second) = (held("a", None), held("b", None));
        let token = |held: &Held| held.access().unwrap().token.clone();
        assert!(first.refusing(&token(&second), at(1500)).is_none());
        assert!(first.still_has(&token(&first)) && !first.still_has(&token(&second)));
        assert!(!refused(&first, 1500).still_has(&token(&first)));
        assert!(first.without_access().access().is_none());
    }

    const EXPIRY: u64 = 2_000_000_000;

    fn of(geolocation: &str) -> RefreshTokenObject {
        let json = format!(
            r#"{{"refresh_token": "r", "refresh_expires_in": {EXPIRY}, "geolocation": "{geolocation}"}}"#
        );
        RefreshTokenObject::from_json(&json).unwrap()
    }

    #[test]
    fn a_token_that_looks_expired_is_not_where_a_renewal_starts() {
        let base: Geolocation = Geolocation::GLZ.parse().unwrap();
        let elsewhere = "https://eu2.api.concursolutions.com";
        let stored = of(elsewhere);
        for (stored, now, stop) in [
            (None, EXPIRY - 1, &base),
            (Some(&stored), EXPIRY - 1, &elsewhere.parse().unwrap()),
            (Some(&stored), EXPIRY, &base),
            (Some(&stored), EXPIRY + 1, &base),
            (Some(&of("https://example.com")), EXPIRY - 1, &base),
        ] {
            assert_eq!(first_stop(stored, &base, at(now)), *stop, "at {now}");
        }
    }

    /// Its life is six months.
    fn of_a_reply(access_expires: u64) -> Held {
        let json = format!(
            r#"{{"refresh_token": "r", "refresh_expires_in": {EXPIRY},
                 "access_token": "a", "expires_in": 3600, "accessTokenExpiresAt": {access_expires}}}"#
        );
        let object = RefreshTokenObject::from_json(&json).unwrap();
        Held::new(object, TokenOrigin::Stored, &Geolocation::GLZ.parse().unwrap(), None, &Random::seeded(0))
    }

    #[test]
    fn a_refresh_token_that_is_due_is_renewed_once_the_access_token_of_its_reply_has_expired() {
        let now = EXPIRY - 24 * 60 * 60;
        let held = of_a_reply(now);
        for (now, decision) in [
            (now - 1, Decision::Serve),
            (now, Decision::RenewIfIdle),
            (now + 1, Decision::RenewIfIdle),
            (EXPIRY, Decision::Wait),
        ] {
            assert_eq!(held.decide(at(now), None, || false), decision, "at {now}");
        }
    }

    #[test]
    fn half_of_a_life_and_its_end_to_the_second() {
        let held = of_a_reply(EXPIRY);
        let half = EXPIRY - 90 * 24 * 60 * 60;
        assert!(!held.is_half_spent(at(half - 1)) && held.is_half_spent(at(half)));
        for (now, is_valid) in [(EXPIRY - 1, true), (EXPIRY, false)] {
            let mut status = Status::default();
            held.report(&mut status, at(now));
            assert_eq!(
                (status.refresh_token_valid, held.is_valid(at(now))),
                (is_valid, is_valid),
                "at {now}"
            );
        }
    }
}
