//! What callers get: which flight each needs, and what it is told once that flight has ended.
//!
//! Always: while one caller renews ahead of time, the others are served; in a token's last minute all wait. A failure is told where
//! nothing valid is held, or where the program must change.

use std::{sync::Arc, time::Duration};

use tokio::sync::oneshot;

use super::{
    core::Core,
    decision::{Decision, decide},
    held::{Held, HeldAccess},
    need::{Need, Outcome, Renewed, Source},
    renewal::{LONGEST, fly},
    single_flight::Join,
};
use crate::{AccessToken, Clock, Error, ErrorKind, RefreshTokenObject, Status, clock::within, consequences};

/// A source's 30 s and a store's 10 s. What takes longer blocks its thread.
const LONGEST_LOOK: Duration = Duration::from_secs(45);

/// What a caller does once the flight that it waited for has ended.
#[derive(Debug)]
pub(super) enum Next<T> {
    Return(Result<T, Error>),
    /// Decide again: by what the store holds now, or with a flight of its own.
    AskAgain,
}

/// `fresh` is what the flight brought for this caller, `fallback` what the caller could be served without a flight.
pub(super) fn next<D, T>(outcome: Outcome<D>, fresh: Option<T>, fallback: Option<T>) -> Next<T> {
    use Next::{AskAgain, Return};
    match (outcome, fresh, fallback) {
        (Outcome::Done(_) | Outcome::WithoutAccess(..), Some(fresh), _) => Return(Ok(fresh)),
        // What the flight found is in the store now.
        (Outcome::Done(_) | Outcome::SignedOut, ..) => AskAgain,
        (Outcome::SavedWithFault(e) | Outcome::WithoutAccess(_, e), ..) => Return(Err(e)),
        // Its starter had a fallback, and this caller has none.
        (Outcome::FailedOnce(_), _, None) => AskAgain,
        (Outcome::Failed(e) | Outcome::FailedOnce(e), _, Some(fallback))
            if consequences::of(e.kind()).serves_held =>
        {
            Return(Ok(fallback))
        }
        (Outcome::Failed(e) | Outcome::FailedOnce(e), ..) => Return(Err(e)),
        (Outcome::Busy, _, Some(fallback)) => Return(Ok(fallback)),
        (Outcome::Busy, _, None) => AskAgain,
    }
}

pub(super) async fn refresh_token(core: &Arc<Core>) -> Result<RefreshTokenObject, Error> {
    // Since this call a flight has asked for the credentials. A source may say at any time that they may have changed.
    let mut have_been_asked_for = false;
    loop {
        // Before the first flight, and after the credentials have changed, it is unknown whose token is wanted. Then a flight
        // asks for the credentials, and looks at the store itself. So it does where the token is another principal's.
        let is_known = have_been_asked_for || !core.source.has_changed();
        let identity = core.identification.known().filter(|_| is_known);
        let synced = match &identity {
            Some(identity) => core.sync(identity).await.map(Some),
            None => Ok(None),
        };
        let (stored, is_looked_at) = match synced {
            Ok(Some(stored)) => (stored, true),
            Ok(None) => (None, false),
            Err(e) if e.kind() == ErrorKind::Config => (None, false),
            Err(e) => return Err(core.told_of_a_look(e)),
        };
        let now = core.now();
        let margin = core.policy.refresh_token_margin;
        let is_alive = |held: &&Arc<Held>| !core.gate.is_dead(&held.object);
        let decision = stored
            .as_ref()
            .filter(is_alive)
            .map_or(Decision::Wait, |held| held.decide(now, margin, || core.is_backing_off(now)));
        let join = match (decision, &stored) {
            (Decision::Serve, Some(held)) => return Ok(held.object.clone()),
            (Decision::RenewIfIdle, _) => Join::Never,
            _ => Join::Any,
        };
        let looked_at = core.cache.held().filter(|_| is_looked_at);
        let (outcome, is_late) = fly_in_time(core, &Need::RefreshToken { is_looked_at }, join).await;
        have_been_asked_for = true;
        if is_late {
            continue;
        }
        let has_seen =
            |held: &Arc<Held>| looked_at.as_ref().is_some_and(|it| it.object.is_same_reply(&held.object));
        let held = match &outcome {
            // What the flight has found, also where it failed, is newer than what this caller has looked at.
            _ if identity.is_some() => core.wanted().filter(|held| !has_seen(held)).or(stored),
            // This caller has not looked. A store that does not answer costs it one deadline, and not two.
            Outcome::Failed(e) if e.kind() == ErrorKind::Store => core.wanted(),
            // What is held may have been removed from the store.
            Outcome::Failed(_) => core.stored_for_a_caller().await,
            _ => None,
        };
        let now = core.now();
        let fallback = held.as_ref().filter(is_alive).filter(|held| held.is_valid(now));
        let fallback = fallback.map(|held| held.object.clone());
        let still_held = |issued: &&Renewed| {
            issued.source == Source::Issued
                && core.cache.held().is_some_and(|held| held.object.is_same_reply(&issued.held.object))
        };
        let fresh = outcome.issued().filter(still_held).map(|issued| issued.held.object.clone());
        if let Next::Return(served) = next(outcome, fresh, fallback) {
            return served;
        }
    }
}

/// `least`: how long it is to be valid.
pub(super) async fn access_token(core: &Arc<Core>, least: Duration) -> Result<AccessToken, Error> {
    loop {
        let now = core.now();
        let held = core.cache.held();
        let access = held.as_ref().and_then(|held| held.access());
        let access = access.filter(|access| access.token.lasts(least, now));
        let decision =
            access.map_or(Decision::Wait, |access| decide(&access.window, now, || core.is_backing_off(now)));
        let join = match (decision, access) {
            (Decision::Serve, Some(access)) => return Ok(access.token.clone()),
            (Decision::RenewIfIdle, _) => Join::Never,
            _ => Join::Any,
        };
        let (outcome, is_late) = fly_in_time(core, &Need::AccessToken { least }, join).await;
        if is_late {
            continue;
        }
        let now = core.now();
        let live = core.cache.held().and_then(|held| held.live_access(now));
        let fallback = live.clone().filter(|access| access.lasts(least, now));
        let fresh = match &outcome {
            Outcome::Done(renewed) => {
                let is_enough =
                    |access: &HeldAccess| access.window.is_valid(now) && access.token.lasts(least, now);
                let access = renewed
                    .held
                    .access()
                    .filter(|access| renewed.source == Source::Issued || is_enough(access));
                // An API may have refused it since: another caller had it sooner.
                let still_held =
                    |token: &AccessToken| core.cache.held().is_some_and(|held| held.still_has(token));
                access.map(|access| access.token.clone()).filter(still_held)
            }
            _ => None,
        };
        if let Next::Return(served) = next(outcome, fresh, fallback) {
            return served.map_err(|e| match live {
                Some(access) if !access.lasts(least, now) => e.with_left(access.left(now), least),
                _ => e,
            });
        }
    }
}

/// Waits for a flight; `true` if this process was suspended meanwhile, and what the flight brought may be out of date.
async fn fly_in_time(core: &Arc<Core>, need: &Need, join: Join) -> (Outcome, bool) {
    let asked_at = core.machine.clock.monotonic();
    let outcome = fly(core, need, join).await;
    let is_late = is_late(&*core.machine.clock, asked_at, &outcome);
    (outcome, is_late)
}

/// Whether this process was suspended since then, so that what a flight brought may be out of date.
pub(super) fn is_late<D>(clock: &dyn Clock, asked_at: Duration, outcome: &Outcome<D>) -> bool {
    let has_failed =
        matches!(outcome, Outcome::Failed(_) | Outcome::FailedOnce(_) | Outcome::SavedWithFault(_));
    !has_failed && clock.monotonic().saturating_sub(asked_at) > LONGEST
}

/// The result of a grant that was sent after this call, for [`Need::Grant`] or, whatever failed before, [`Need::Retry`].
pub(super) async fn grant(core: &Arc<Core>, need: Need) -> Result<RefreshTokenObject, Error> {
    let mut first = core.flights.next_number();
    loop {
        let outcome = fly(core, &need, Join::Since(first)).await;
        // A flight that this caller joined may be held back by what failed before. Its own is not.
        if matches!((&need, &outcome), (Need::Retry, Outcome::Failed(e)) if e.is_held_back()) {
            first = core.flights.next_number();
            continue;
        }
        let fresh = outcome.issued().map(|issued| issued.held.object.clone());
        if let Next::Return(served) = next(outcome, fresh, None) {
            return served;
        }
    }
}

/// A look at the credentials and the store, on a thread that they may block.
pub(super) async fn read_status(core: &Arc<Core>) -> Status {
    let (told, looked) = oneshot::channel();
    let looks = Arc::clone(core);
    let look = async move {
        let _ = told.send(looks.look().await);
    };
    let executor = &core.machine.executor;
    let looked = match executor.spawn_blocking(Box::pin(look)) {
        Ok(()) => within(executor.wait(LONGEST_LOOK), looked).await,
        Err(e) => Some(Ok(Err(e))),
    };
    let mut status = core.status();
    if let Some(error) = match looked {
        Some(Ok(outcome)) => outcome.err(),
        Some(Err(_)) => {
            Some(Error::new(ErrorKind::Config, "the look at the store panicked; see the panic's message"))
        }
        None => Some(Error::new(
            ErrorKind::Unavailable,
            "the credential source or the token store blocks its thread; find out what it waits for",
        )),
    } {
        status.tell(Some(&error));
    }
    status
}

/// Puts another token in place of whatever is held, in a flight of its own.
pub(super) async fn replace(core: &Arc<Core>, need: Need) -> Result<RefreshTokenObject, Error> {
    loop {
        let outcome = fly(core, &need, Join::Own).await;
        let fresh = match &outcome {
            Outcome::Done(renewed) => Some(renewed.held.object.clone()),
            _ => None,
        };
        if let Next::Return(served) = next(outcome, fresh, None) {
            return served;
        }
    }
}

/// For [`Need::Revoke`] or [`Need::Forget`], in a flight of its own.
pub(super) async fn sign_out(core: &Arc<Core>, need: Need) -> Result<(), Error> {
    loop {
        let outcome = fly(core, &need, Join::Own).await;
        if matches!(outcome, Outcome::SignedOut) {
            return Ok(());
        }
        if let Next::Return(served) = next(outcome, None, None) {
            return served;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{pin::Pin, time::SystemTime};

    use super::*;
    use crate::ErrorKind;

    /// So much time has passed.
    #[derive(Debug)]
    struct At(Duration);

    impl Clock for At {
        fn now(&self) -> SystemTime {
            SystemTime::UNIX_EPOCH
        }

        fn monotonic(&self) -> Duration {
            self.0
        }

        fn sleep(&self, _: Duration) -> Pin<Box<dyn Future<Output = ()> + Send>> {
            unreachable!()
        }
    }

    #[test]
    fn what_comes_after_the_longest_flight_is_late_unless_it_is_a_failure() {
        let (asked_at, moment) = (Duration::from_secs(1000), Duration::from_nanos(1));
        let is_late = |passed, outcome| is_late::<()>(&At(asked_at + passed), asked_at, &outcome);
        assert!(!is_late(LONGEST, Outcome::Done(())));
        for (outcome, is_out_of_date) in [
            (Outcome::Done(()), true),
            (Outcome::Busy, true),
            (Outcome::SignedOut, true),
            (Outcome::Failed(Error::new(PASSING, "")), false),
            (Outcome::FailedOnce(Error::new(PASSING, "")), false),
            (Outcome::SavedWithFault(Error::new(PASSING, "")), false),
        ] {
            assert_eq!(is_late(LONGEST + moment, outcome), is_out_of_date);
        }
    }

    const PASSING: ErrorKind = ErrorKind::Unavailable;
    const LASTING: ErrorKind = ErrorKind::Config;

    #[test]
    fn what_callers_get_as_a_table() {
        let error = |kind| Error::new(kind, "");
        let outcomes = || {
            [
                Outcome::Done(()),
                Outcome::SignedOut,
                Outcome::Busy,
                Outcome::SavedWithFault(error(ErrorKind::Protocol)),
                Outcome::WithoutAccess((), error(ErrorKind::Protocol)),
                Outcome::Failed(error(PASSING)),
                Outcome::Failed(error(LASTING)),
                Outcome::FailedOnce(error(PASSING)),
                Outcome::FailedOnce(error(LASTING)),
            ]
        };
        // For each of them: with nothing to fall back on, and with something.
        let expected = [
            ["again", "again"],
            ["again", "again"],
            ["again", "fallback"],
            ["Protocol", "Protocol"],
            ["Protocol", "Protocol"],
            ["Unavailable", "fallback"],
            ["Config", "Config"],
            ["again", "fallback"],
            ["again", "Config"],
        ];
        let what = |next| match next {
            Next::Return(Ok(served)) => String::from(served),
            Next::Return(Err(e)) => format!("{:?}", Error::kind(&e)),
            Next::AskAgain => "again".to_owned(),
        };
        for ((bare, held), [without, with]) in outcomes().into_iter().zip(outcomes()).zip(expected) {
            let case = format!("{bare:?}");
            assert_eq!(what(next(bare, None, None)), without, "{case} with nothing to fall back on");
            assert_eq!(
                what(next(held, None, Some("fallback"))),
                with,
                "{case} with something to fall back on"
            );
        }
        assert_eq!(what(next(Outcome::Done(()), Some("fresh"), Some("fallback"))), "fresh");
        assert_eq!(what(next(Outcome::Done(()), Some("fresh"), None)), "fresh");
        let without_access = Outcome::WithoutAccess((), error(PASSING));
        assert_eq!(what(next(without_access, Some("fresh"), None)), "fresh");
    }
}
