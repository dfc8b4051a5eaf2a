//! Years of `keep_alive`: one manager for three years, and 1,000 at once for a year, while everything happens to them that
//! happens to programs.
//!
//! Always: what must have been renewed by when is worked out from the lists of outages, restarts and clock steps, and from
//! what Concur granted, and not from the code that is tested. `CONCUR_AUTH_RUNS` says how many seeds are tried.
//!
//! The long form, 1,000 managers for a year, takes minutes, and writes how many requests each minute had to
//! `target/years.tsv`, which `benches/plot` draws:
//!
//! ```sh
//! cargo test --release --locked --lib a_thousand_managers_for_a_year -- --ignored --nocapture
//! ```

mod concur;
mod office;
mod requests;
mod sky;
mod times;
mod undisturbed;

use std::{sync::Arc, time::Duration};

use self::{
    concur::{Concur, Grants, Tally},
    office::Office,
    requests::Highest,
    sky::{Climate, Kill, Shift, Sky, Trouble},
    times::{DAY, HOUR, MINUTE, YEAR},
};
use super::world::World;
use crate::{caught::locked, seed::seed};

/// The longest time between two calls for a company.
const BETWEEN_CALLS: Duration = Duration::from_secs(8 * 3600);

struct Years {
    concur: Arc<Concur>,
    tally: Tally,
    highest: Highest,
}

/// A manager for each of these companies, until the end. A run that breaks a promise shows its seed.
fn live(seed: u64, sky: Sky, companies: &[Grants], end: Duration) -> Years {
    let years = live_unchecked(seed, sky, companies, end);
    years.check(seed);
    years
}

fn live_unchecked(seed: u64, sky: Sky, companies: &[Grants], end: Duration) -> Years {
    let world = World::new(seed);
    let concur = Concur::new(&world, sky, companies.iter().copied());
    Office::new(&concur, BETWEEN_CALLS, end).open();
    world.run();
    concur.check_the_end(end);
    let tally = *locked(&concur.tally);
    let highest = locked(&concur.requests).highest(&locked(&concur.calm), concur.begun());
    Years { concur, tally, highest }
}

impl Years {
    fn check(&self, seed: u64) {
        let Self { concur, tally, highest } = self;
        let broken = locked(&concur.broken).clone();
        assert!(broken.is_empty(), "CONCUR_AUTH_SEED={seed}: {broken:#?} {tally:?} {highest:?}");
        assert!(tally.calls > 0 && tally.kills > 0 || concur.sky.kills.is_empty(), "{tally:?}");
    }
}

fn seeds() -> impl Iterator<Item = u64> {
    let runs: u64 = std::env::var("CONCUR_AUTH_RUNS").map_or(1, |runs| runs.parse().unwrap());
    let first = seed();
    (0..runs).map(move |run| first.wrapping_add(run))
}

#[allow(clippy::print_stdout, reason = "the figures are for a person who asks for them with --nocapture")]
fn live_alone(grants: Grants, time: Duration) -> impl Iterator<Item = Tally> {
    seeds().map(move |seed| {
        let Years { tally, .. } = live(seed, Sky::new(seed, &Climate::OF_YEARS, time), &[grants], time);
        println!("{grants:?}, CONCUR_AUTH_SEED={seed}: {tally:?}");
        tally
    })
}

/// Whatever is lost, killed or set wrong, and in outages of up to three weeks.
#[test]
fn in_three_years_a_token_that_stays_the_same_is_never_lost() {
    for tally in live_alone(Grants::Extend, 3 * YEAR) {
        assert_eq!((tally.lapses_by_loss, tally.outlived_by_an_outage), (0, 0));
        assert!(tally.kills > 20 && tally.calls > 1000, "{tally:?}");
        // But for a first sign-in whose process is killed.
        assert_eq!(tally.sign_ins, 1);
    }
}

/// Between Concur's grant and the save lies a moment that no client can bridge.
#[test]
fn in_a_year_a_token_that_changes_is_lost_only_with_a_reply_that_reaches_no_process() {
    for grants in [Grants::Change, Grants::RotateAndRevoke] {
        for tally in live_alone(grants, YEAR) {
            assert_eq!(tally.outlived_by_an_outage, 0);
            assert!(tally.lapses_by_loss <= tally.lost_replies + tally.kills_in_flight, "{tally:?}");
        }
    }
}

#[test]
fn a_life_that_is_never_extended_ends_at_its_end_and_a_person_signs_in() {
    for tally in live_alone(Grants::KeepExpiry, YEAR) {
        assert_eq!((tally.lapses_by_loss, tally.outlived_by_an_outage), (0, 0));
        // After 180 days, and, unless an outage or a person took long, once more after 360.
        assert!((1..=2).contains(&tally.ended_lives), "{tally:?}");
    }
}

/// Of the 180 days: three hours less are survived, and a minute more is not. Whether Concur or the program is down, or one
/// after the other, makes no difference.
#[test]
fn what_is_shorter_than_the_remaining_life_is_survived() {
    const BEGIN: Duration = DAY;
    let (shorter, longer) = (180 * DAY - 3 * HOUR, 180 * DAY + MINUTE);
    let cut = |time| (BEGIN..BEGIN + time, Trouble::Cut);
    let down = |at, down_for| Kill { at, in_flight: false, down_for };
    for (time, lapses) in [(shorter, 0), (longer, 1)] {
        for sky in [
            Sky { troubles: vec![cut(time)], ..Sky::default() },
            Sky { kills: vec![down(BEGIN, time)], ..Sky::default() },
            Sky {
                troubles: vec![cut(100 * DAY)],
                kills: vec![down(BEGIN + 99 * DAY, time - 99 * DAY)],
                ..Sky::default()
            },
        ] {
            let Years { tally, .. } = live(seed(), sky, &[Grants::Extend], BEGIN + 181 * DAY);
            assert_eq!((tally.outlived_by_an_outage, tally.sign_ins), (lapses, 1 + lapses), "{time:?}");
        }
    }
}

/// By the servers' clock the token expires while the program is down, and so no sign-in is tried first when that is up again.
#[test]
fn a_server_whose_clock_is_days_behind_makes_no_token_look_expired() {
    let behind = Shift { from: Duration::ZERO, seconds: -5 * 24 * 3600 };
    let down = Kill { at: 174 * DAY, in_flight: false, down_for: 3 * DAY };
    let sky = Sky { skews: vec![behind], kills: vec![down], ..Sky::default() };
    let Years { tally, .. } = live(seed(), sky, &[Grants::KeepExpiry], 180 * DAY - HOUR);
    assert_eq!((tally.requests, tally.sign_ins), (tally.grants, 1));
}

/// For as many managers, the most requests in any minute, and why.
fn check(managers: u32, tally: &Tally, highest: &Highest) {
    // A renewal every 51 minutes makes a fiftieth of all. At the end of an outage those whose tokens are still valid come
    // back after pauses of up to eight minutes, four times as many as usual in the first minute, and keep their moments.
    assert!(highest.quiet <= managers / 8, "{highest:?}");
    // In an outage, a manager whose moment has come tries up to seven times within the next 50 minutes, and then once or
    // twice an hour: seven times as many, or twice that if an outage before has brought moments closer together.
    assert!(highest.troubled <= managers * 3 / 10, "{highest:?}");
    // What has expired is renewed in the minute after a start, or after a step of the clock; both may come together.
    assert!(highest.begun <= 2 * managers, "{highest:?}");
    assert!(tally.most_at_once <= 64, "{tally:?}");
    assert!(tally.lapses_by_loss <= tally.lost_replies + tally.kills_in_flight, "{tally:?}");
    assert_eq!(tally.outlived_by_an_outage, 0);
}

/// Of all four kinds, on one client.
fn a_thousand() -> Vec<Grants> {
    Grants::ALL.into_iter().cycle().take(1000).collect()
}

#[test]
#[allow(clippy::print_stdout, reason = "the figures are for a person who asks for them with --nocapture")]
fn a_thousand_managers_spread_over_the_minutes_whatever_happens_in_a_day() {
    for seed in seeds() {
        let sky = Sky::new(seed, &Climate::OF_DAYS, DAY);
        let Years { tally, highest, .. } = live(seed, sky, &a_thousand(), DAY);
        println!("CONCUR_AUTH_SEED={seed}: {tally:?} {highest:?}");
        check(1000, &tally, &highest);
    }
}

#[test]
#[ignore = "takes minutes"]
#[allow(clippy::print_stdout, reason = "the figures are for a person who runs the long form")]
fn a_thousand_managers_for_a_year() {
    for seed in seeds() {
        let sky = Sky::new(seed, &Climate::OF_YEARS, YEAR);
        let years = live_unchecked(seed, sky, &a_thousand(), YEAR);
        println!("CONCUR_AUTH_SEED={seed}: {:?} {:?}", years.tally, years.highest);
        years.concur.write(YEAR);
        years.check(seed);
        check(1000, &years.tally, &years.highest);
    }
}
