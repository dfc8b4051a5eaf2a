//! When a fleet's worker should renew a token.
//!
//! Always: a principal's share of the longest jitter is fixed, so that tokens that were imported together are not renewed
//! together ever after; all of a token's second third and more is left for attempts. No I/O and no clock here.

use std::time::{Duration, SystemTime};

use crate::{RefreshTokenObject, fingerprint::fingerprint};

/// For how long after its last grant a token is not due for a margin: a margin may be longer than a life.
const LEFT_ALONE: Duration = Duration::from_secs(24 * 3600);
const LONGEST_JITTER: Duration = Duration::from_secs(20 * 24 * 3600);

/// When the token should be renewed; `None`: at once, since it is not known when it expires.
pub(super) fn renewal_time(
    token: &RefreshTokenObject,
    principal: &str,
    now: SystemTime,
) -> Option<SystemTime> {
    let (received_at, expires_at) = token.life(now)?;
    let life = expires_at.duration_since(received_at).unwrap_or_default();
    received_at.checked_add(time_until_renewal(life, jitter(principal)))
}

/// When the token should be renewed so that no less than the margin is left of it; `None`: that is not known.
pub(super) fn margin_time(
    token: &RefreshTokenObject,
    margin: Duration,
    now: SystemTime,
) -> Option<SystemTime> {
    let (received_at, expires_at) = token.life(now)?;
    let begins = expires_at.checked_sub(margin).unwrap_or(SystemTime::UNIX_EPOCH);
    Some(begins.max(received_at.checked_add(LEFT_ALONE)?))
}

/// A third of the life, less the principal's share of the longest jitter.
fn time_until_renewal(life: Duration, jitter: f64) -> Duration {
    life / 3 - LONGEST_JITTER.min(life / 9).mul_f64(jitter)
}

/// At least 0 and less than 1, always the same for a principal.
pub(super) fn jitter(principal: &str) -> f64 {
    f64::from(fingerprint(0, [Some(principal)])) / 4_294_967_296.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    const DAY: u64 = 24 * 3600;
    const NOW: u64 = 1_800_000_000;

    fn at(seconds: u64) -> SystemTime {
        clock::from_unix_seconds(seconds).unwrap()
    }

    fn token(received_at: Option<u64>, expires_at: Option<u64>) -> RefreshTokenObject {
        let member = |name, at: Option<u64>| at.map(|at| format!(r#","{name}":{at}"#)).unwrap_or_default();
        let (received, expires) =
            (member("refreshTokenReceivedAt", received_at), member("refreshTokenExpiresAt", expires_at));
        RefreshTokenObject::from_json(&format!(r#"{{"refresh_token":"r"{received}{expires}}}"#)).unwrap()
    }

    #[test]
    fn a_third_of_a_life_less_up_to_a_ninth_and_up_to_20_days() {
        for (life, jitter, until_renewal) in [
            (180 * DAY, 0.0, 60 * DAY),
            (180 * DAY, 0.5, 50 * DAY),
            (180 * DAY, 1.0, 40 * DAY),
            (360 * DAY, 1.0, 100 * DAY),
            (9 * 3600, 0.0, 3 * 3600),
            (9 * 3600, 1.0, 2 * 3600),
            (9, 0.5, 2),
            (0, 1.0, 0),
        ] {
            let until = time_until_renewal(Duration::from_secs(life), jitter);
            assert_eq!(until.as_secs(), until_renewal, "{life} {jitter}");
        }
    }

    #[test]
    fn a_life_begins_with_the_last_grant_as_far_as_that_can_be() {
        let (name, half_a_year) = ("b3f4e2a0", 180 * DAY);
        let share = Duration::from_secs(20 * DAY).mul_f64(jitter(name));
        for (received_at, expires_at, begins) in [
            (Some(NOW - 5), NOW - 5 + half_a_year, NOW - 5),
            (None, NOW + DAY, NOW + DAY - half_a_year),
            // In the future.
            (Some(NOW + 5), NOW + DAY, NOW + DAY - half_a_year),
            (Some(NOW - 200 * DAY), NOW - 20 * DAY, NOW - 200 * DAY),
        ] {
            let renewal = renewal_time(&token(received_at, Some(expires_at)), name, at(NOW));
            assert_eq!(renewal, Some(at(begins + 60 * DAY) - share), "{received_at:?} {expires_at}");
        }
        assert_eq!(renewal_time(&token(Some(NOW), None), name, at(NOW)), None);
    }

    #[test]
    fn a_margin_begins_before_the_expiry_and_a_day_after_the_grant() {
        for (received_at, expires_at, margin, begins) in [
            (Some(NOW), NOW + 180 * DAY, 150 * DAY, NOW + 30 * DAY),
            (Some(NOW), NOW + 180 * DAY, 0, NOW + 180 * DAY),
            (Some(NOW), NOW + 180 * DAY, 180 * DAY, NOW + DAY),
            (Some(NOW), NOW + 180 * DAY, u64::MAX, NOW + DAY),
            (None, NOW + 100 * DAY, 150 * DAY, NOW - 50 * DAY),
        ] {
            let token = token(received_at, Some(expires_at));
            let time = margin_time(&token, Duration::from_secs(margin), at(NOW));
            assert_eq!(time, Some(at(begins)), "{received_at:?} {expires_at} {margin}");
        }
        assert_eq!(margin_time(&token(Some(NOW), None), Duration::from_secs(DAY), at(NOW)), None);
    }

    #[test]
    fn the_jitter_of_many_principals_is_spread_evenly_and_does_not_change() {
        let mut tenths = [0; 10];
        for name in 0..10_000 {
            let jitter = jitter(&format!("{name:036}"));
            assert!((0.0..1.0).contains(&jitter));
            tenths
                .iter_mut()
                .enumerate()
                .filter(|(n, _)| *n == (jitter * 10.0) as usize)
                .for_each(|(_, n)| *n += 1);
        }
        assert!(tenths.iter().all(|tenth| (900..1100).contains(tenth)), "{tenths:?}");
        assert!((jitter("one") - jitter("one")).abs() < f64::EPSILON);
    }
}
