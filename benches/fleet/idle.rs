//! What it costs to keep many members signed in while nothing is due.

use std::{path::Path, thread, time::Duration};

use concur_auth::{Fleet, FolderFleet};

use super::{
    Scale,
    database::{Stage, fleet_on, runtime},
    endpoint::Endpoint,
    members::{self, APP},
};
use crate::{postgres::Postgres, support::process::processor_time};

/// A part of a core.
const GOAL: f64 = 0.005;
const DAY: Duration = Duration::from_secs(24 * 3600);
/// How many companies a part of the measurement has in memory.
const IN_USE: usize = 10_000;

pub fn on_postgres(postgres: &Postgres, scale: Scale) {
    let stage = Stage::new(postgres);
    stage.insert(APP, members(scale), &stage.endpoint.uri, "interval '1 day'");
    let runtime = runtime();
    let before = stage.transactions().0;
    keep(&runtime, &stage.fleet(), &stage.endpoint, "PostgreSQL", scale);
    let (after, connections) = stage.transactions();
    println!(
        "  >> PostgreSQL: {} statements meanwhile, those of the companies in use included",
        after - before - connections
    );
}

pub fn in_a_folder(scale: Scale) {
    let (endpoint, folder) = (Endpoint::start(), tempfile::tempdir().expect("a folder"));
    members::write_files(folder.path(), members(scale), &endpoint.uri, |_| DAY);
    let fleet = fleet_on(FolderFleet::new(folder.path() as &Path), &endpoint.uri).build().expect("a fleet");
    keep(&runtime(), &fleet, &endpoint, "a folder", scale);
}

fn members(scale: Scale) -> usize {
    scale.long_of(300, 10_000, 100_000)
}

fn keep(runtime: &tokio::runtime::Runtime, fleet: &Fleet, endpoint: &Endpoint, place: &str, scale: Scale) {
    let lasts = Duration::from_secs_f64(scale.long_of(0.1, 20.0, 125.0));
    let members = members(scale);
    let nothing = during(lasts / 5);
    let worker = runtime.block_on(fleet.keep_alive()).expect("a worker");
    // The first claim may have to look at all files.
    let first = during(lasts / 5);
    let idle = during(lasts);
    say(place, members, "no company is asked for", idle, nothing);
    println!(
        "  >> {place}: the first {:?} took {:.2} s of processor time",
        lasts / 5,
        first * (lasts / 5).as_secs_f64()
    );
    assert_eq!(endpoint.answered(), 0, "nothing was due");
    let used = IN_USE.min(members);
    runtime.block_on(async {
        for n in 1..=used {
            fleet.company(&members::uuid(n)).access_token().await.expect("a token");
        }
    });
    let warm = during(lasts);
    let renewed = endpoint.answered();
    let who = format!("{used} companies in use, {renewed} of them renewed");
    say(place, members, &who, warm, nothing);
    drop(worker);
}

fn say(place: &str, members: usize, who: &str, part: f64, nothing: f64) {
    println!(
        "  >> {place}: keep_alive of {members} members, no refresh token due, {who}: {:.3} % of a core, without it {:.3} % (goal: {} %)",
        part * 100.0,
        nothing * 100.0,
        GOAL * 100.0
    );
}

/// The part of a core that this process takes.
fn during(lasts: Duration) -> f64 {
    let before = processor_time();
    thread::sleep(lasts);
    (processor_time() - before).as_secs_f64() / lasts.as_secs_f64()
}
