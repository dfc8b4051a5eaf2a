//! What a company costs that the program uses: its call on the warm path, and its memory.

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use concur_auth::{Fleet, FolderFleet, TokenManager};

use super::{
    Scale,
    database::{Stage, fleet_on, runtime},
    endpoint::Endpoint,
    members::{self, APP},
    process,
};
use crate::{
    postgres::Postgres,
    support::{median, say},
};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// `fleet.company(uuid)` and `access_token()`, beside `access_token()` alone.
pub fn warm_path(scale: Scale) {
    let (count, samples, calls) = scale.of((100, 1, 100), (10_000, 51, 100_000));
    let (endpoint, folder) = (Endpoint::start(), tempfile::tempdir().expect("a folder"));
    members::write_files(folder.path(), count, &endpoint.uri, |_| DAY);
    let fleet = fleet_on(FolderFleet::new(folder.path()), &endpoint.uri).build().expect("a fleet");
    let names: Vec<_> = (1..=count).map(members::uuid).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let managers: Vec<_> = names.iter().map(|name| fleet.company(name)).collect();
    runtime.block_on(async {
        for manager in &managers {
            manager.access_token().await.expect("a token");
        }
    });
    for (what, used) in [("one company", 1), ("each company in turn", count)] {
        let (names, managers) = (&names[..used], &managers[..used]);
        let (mut floor, mut ours) = (Vec::new(), Vec::new());
        for _ in 0..samples {
            floor.push(runtime.block_on(bare(managers, calls)));
            ours.push(runtime.block_on(by_the_fleet(&fleet, names, calls)));
        }
        let ratio = median(ours.iter().zip(&floor).map(|(ours, floor)| ours / floor));
        let more = median(ours.iter().zip(&floor).map(|(ours, floor)| ours - floor));
        // What other programs on the machine take is not in the least of many samples.
        let least = |samples: &[f64]| samples.iter().copied().fold(f64::INFINITY, f64::min);
        let least_more = least(&ours) - least(&floor);
        let (ours, floor) = (median(ours.into_iter()), median(floor.into_iter()));
        let what = format!("a warm call by the fleet, {count} in memory, {what}");
        say(&what, ours, floor, ratio, None);
        println!(
            "  >> {what}: {more:.1} ns more than access_token() alone, the least {least_more:.1} (goal: 100 ns at most)"
        );
    }
    assert_eq!(endpoint.answered(), 0, "all calls were warm");
}

async fn bare(managers: &[TokenManager], calls: usize) -> f64 {
    let start = Instant::now();
    for manager in managers.iter().cycle().take(calls) {
        black_box(black_box(manager).access_token().await.expect("a token"));
    }
    start.elapsed().as_secs_f64() * 1e9 / calls as f64
}

async fn by_the_fleet(fleet: &Fleet, names: &[String], calls: usize) -> f64 {
    let start = Instant::now();
    for name in names.iter().cycle().take(calls) {
        black_box(fleet.company(black_box(name)).access_token().await.expect("a token"));
    }
    start.elapsed().as_secs_f64() * 1e9 / calls as f64
}

/// By the pages of this process. Exact figures are in `tests/fleet_memory.rs`.
pub fn memory_on_postgres(postgres: &Postgres, scale: Scale) {
    let count = scale.of(100, 10_000);
    let stage = Stage::new(postgres);
    stage.insert(APP, count + 100, &stage.endpoint.uri, "interval '1 day'");
    memory(&stage.fleet(), count, "PostgreSQL");
}

pub fn memory_in_a_folder(scale: Scale) {
    let count = scale.of(100, 10_000);
    let (endpoint, folder) = (Endpoint::start(), tempfile::tempdir().expect("a folder"));
    members::write_files(folder.path(), count + 100, &endpoint.uri, |_| DAY);
    let fleet = fleet_on(FolderFleet::new(folder.path()), &endpoint.uri).build().expect("a fleet");
    memory(&fleet, count, "a folder");
}

fn memory(fleet: &Fleet, count: usize, place: &str) {
    let runtime = runtime();
    let ask = |numbers: std::ops::RangeInclusive<usize>| {
        runtime.block_on(async {
            for n in numbers {
                fleet.company(&members::uuid(n)).access_token().await.expect("a token");
            }
        });
    };
    // What is there once: connections, an index, threads.
    ask(count + 1..=count + 100);
    let before = process::resident();
    ask(1..=count);
    let each = (process::resident() as f64 - before as f64) / count as f64;
    let token = members::token(1, "http://127.0.0.1:80", DAY).len();
    println!(
        "  >> {place}: a company in use takes {each:.0} bytes, its token object of {token} characters included"
    );
}
