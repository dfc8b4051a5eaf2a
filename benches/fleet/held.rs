//! What a company costs that the program uses: its call on the warm path, and its memory.

use std::{
    collections::HashMap,
    env,
    hint::black_box,
    ops::RangeInclusive,
    process::{Command, Stdio},
    sync::RwLock,
    time::{Duration, Instant},
};

use concur_auth::{Fleet, FolderFleet, PostgresFleet, TokenManager};

use super::{
    Scale,
    database::{Stage, fleet_on, runtime},
    endpoint::Endpoint,
    members::{self, APP},
};
use crate::{
    postgres::Postgres,
    support::{median, process, say},
};

const DAY: Duration = Duration::from_secs(24 * 3600);
/// What a program writes that keeps its managers by itself.
type Map = RwLock<HashMap<String, TokenManager>>;
/// Companies that are asked for before memory is measured.
const ONCE: usize = 100;

/// `fleet.company(uuid)` and `access_token()`, compared with `access_token()` alone, and with a map of managers behind one lock, as
/// a program would write it.
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
    let map = names.iter().cloned().zip(managers.iter().cloned());
    let map: Map = RwLock::new(map.collect());
    for (what, used) in [("one company", 1), ("each company in turn", count)] {
        let (names, managers) = (&names[..used], &managers[..used]);
        let (mut floor, mut mapped, mut ours) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..samples {
            floor.push(runtime.block_on(bare(managers, calls)));
            mapped.push(runtime.block_on(by_a_map(&map, names, calls)));
            ours.push(runtime.block_on(by_the_fleet(&fleet, names, calls)));
        }
        let ratio = median(ours.iter().zip(&floor).map(|(ours, floor)| ours / floor));
        let more_than =
            |floor: &[f64], ours: &[f64]| median(ours.iter().zip(floor).map(|(ours, floor)| ours - floor));
        let (more, more_mapped) = (more_than(&floor, &ours), more_than(&floor, &mapped));
        // What other programs on the machine take is not in the least of many samples.
        let least = |samples: &[f64]| samples.iter().copied().fold(f64::INFINITY, f64::min);
        let least_more = least(&ours) - least(&floor);
        let (ours, floor) = (median(ours.into_iter()), median(floor.into_iter()));
        let what = format!("a warm call by the fleet, {count} in memory, {what}");
        say(&what, ours, floor, ratio, None);
        println!(
            "  >> {what}: {more:.1} ns more than access_token() alone, the least {least_more:.1} (goal: 100 ns at most); \
             by a map behind a lock {more_mapped:.1} more"
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

async fn by_a_map(map: &Map, names: &[String], calls: usize) -> f64 {
    let start = Instant::now();
    for name in names.iter().cycle().take(calls) {
        let manager = map.read().expect("no panic under it").get(black_box(name)).cloned();
        black_box(manager.expect("a manager").access_token().await.expect("a token"));
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

/// By the pages of a process of its own, for what other rows of this bench have freed would be used again. Exact figures are in
/// `tests/fleet_memory.rs`.
pub fn memory_on_postgres(postgres: &Postgres, scale: Scale) {
    let count = scale.of(100, 10_000);
    let stage = Stage::new(postgres);
    stage.insert(APP, count + ONCE, &stage.endpoint.uri, "interval '1 day'");
    memory("PostgreSQL", &stage.database.url(), &stage.endpoint, count);
}

pub fn memory_in_a_folder(scale: Scale) {
    let count = scale.of(100, 10_000);
    let (endpoint, folder) = (Endpoint::start(), tempfile::tempdir().expect("a folder"));
    members::write_files(folder.path(), count + ONCE, &endpoint.uri, |_| DAY);
    memory("a folder", folder.path().to_str().expect("a name in UTF-8"), &endpoint, count);
}

fn memory(place: &str, store: &str, endpoint: &Endpoint, count: usize) {
    let mut program = Command::new(env::current_exe().expect("this program"));
    program.args([super::USER, store, &endpoint.uri, &count.to_string()]);
    let output = program.stderr(Stdio::inherit()).output().expect("a process");
    let each = String::from_utf8(output.stdout).expect("a number");
    let token = members::token(1, &endpoint.uri, DAY).len();
    println!(
        "  >> {place}: a company in use takes {} bytes, its token object of {token} characters included",
        each.trim()
    );
}

/// What the process does: asks for the tokens of that many companies, and prints by how many bytes each has made it larger.
pub fn user(arguments: &[String]) {
    let [store, uri, count] = arguments else { panic!("a store, an endpoint and a number") };
    let count = count.parse().expect("a number");
    let fleet = match PostgresFleet::new(store) {
        Ok(store) => fleet_on(store, uri).build(),
        Err(_) => fleet_on(FolderFleet::new(store), uri).build(),
    };
    let (fleet, runtime) = (fleet.expect("a fleet"), runtime());
    let ask = |numbers: RangeInclusive<usize>| {
        runtime.block_on(async {
            for n in numbers {
                fleet.company(&members::uuid(n)).access_token().await.expect("a token");
            }
        });
    };
    // What is there once: connections, threads.
    ask(count + 1..=count + ONCE);
    let before = process::resident();
    ask(1..=count);
    println!("{}", (process::resident() - before) / count as u64);
}
