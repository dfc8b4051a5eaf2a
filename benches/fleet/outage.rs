//! After an outage everything is due: the rate limit alone says how long it takes, and who expires first comes first.

use std::time::{Duration, Instant};

use super::{
    Scale,
    database::Stage,
    members::{APP, number_of},
};
use crate::postgres::Postgres;

const PER_SECOND: u32 = 500;
/// The most that are claimed at once.
const BATCH: usize = 64;

pub fn catch_up(postgres: &Postgres, scale: Scale) {
    let count = scale.long_of(300, 10_000, 100_000);
    let stage = Stage::new(postgres);
    // Company n expires a minute after company n - 1.
    stage.insert(APP, count, &stage.endpoint.uri, "interval '170 days' - n * interval '1 minute'");
    stage.make_due(APP, count);
    stage.endpoint.log();
    let fleet = stage.builder().max_requests_per_second(f64::from(PER_SECOND)).build().expect("a fleet");
    super::renewals::renew_all(&stage, &fleet, count);
    stage.assert_saved(APP, count, 1);
    assert_eq!(stage.endpoint.refused(), 0);
    let log = stage.endpoint.logged();
    assert_eq!(log.len(), count);
    let took = log[count - 1].0 - log[0].0;
    let ideal = (count - 1) as f64 / f64::from(PER_SECOND);
    println!(
        "  >> {count} due, {PER_SECOND} requests a second: {:.2} s from the first to the last, {:+.2} % of the limit's {ideal:.2} s (goal: \
         2 %); at most {} requests in a second (goal: {})",
        took.as_secs_f64(),
        100.0 * (took.as_secs_f64() / ideal - 1.0),
        most_in_a_second(&log),
        PER_SECOND + 1,
    );
    println!(
        "  >> a request came at most {} places before one that expires earlier (goal: less than two batches of {BATCH})",
        most_overtaken(&log)
    );
}

/// The most requests that came within any second.
fn most_in_a_second(log: &[(Instant, String)]) -> usize {
    let mut first = 0;
    let within = log.iter().enumerate().map(|(last, (at, _))| {
        while *at - log[first].0 >= Duration::from_secs(1) {
            first += 1;
        }
        last + 1 - first
    });
    within.max().unwrap_or(0)
}

/// How far ahead of its turn a request came, at most. Company n expires as the n-th.
fn most_overtaken(log: &[(Instant, String)]) -> usize {
    let places = log.iter().enumerate().map(|(place, (_, name))| number_of(name).saturating_sub(place + 1));
    places.max().unwrap_or(0)
}
