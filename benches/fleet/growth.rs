//! What a claim costs, and how many statements a renewal takes, as the fleet grows.

use std::{
    fs::{self, File, OpenOptions},
    io::Write as _,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use concur_auth::{FleetStore, FolderFleet, on_runtime};
use tokio::runtime::Runtime;

use super::{
    Scale, bare,
    database::{Stage, runtime},
    endpoint::Endpoint,
    members::{self, APP},
    renewals::statements,
};
use crate::{
    postgres::Postgres,
    support::{human, is_dry_run, median},
};

/// What a worker claims at once.
const BATCH: usize = 64;
const DAY: Duration = Duration::from_secs(24 * 3600);

/// Nanoseconds of one claim: the first of a process, one of a whole batch, and one that finds that nothing is due.
struct Claims {
    first: f64,
    batch: f64,
    nothing: f64,
}

/// A claim takes what is due, so each turn needs a batch of its own; then nothing is left.
fn claims(runtime: &Runtime, store: impl FleetStore, turns: usize) -> Claims {
    let store = Arc::new(store);
    let claim = |most| {
        let store = Arc::clone(&store);
        let start = Instant::now();
        let claimed = runtime.block_on(on_runtime(async move { store.claim_due(APP, most).await }));
        let claimed = claimed.expect("a runtime").expect("a store");
        (start.elapsed().as_secs_f64() * 1e9, claimed)
    };
    let (first, _) = claim(0);
    // Locked until all is measured, as while tokens are renewed.
    let mut locked = Vec::new();
    let batch = (0..turns).map(|_| {
        let (took, claimed) = claim(BATCH);
        assert_eq!(claimed.tokens.len(), BATCH);
        locked.push(claimed);
        took
    });
    let batch = median(batch.collect::<Vec<_>>().into_iter());
    let nothing = (0..turns).map(|_| {
        let (took, claimed) = claim(BATCH);
        assert_eq!(claimed.tokens.len(), 0);
        took
    });
    let nothing = median(nothing.collect::<Vec<_>>().into_iter());
    Claims { first, batch, nothing }
}

/// For `benches/plot`, which draws `benches/growth.svg`.
fn note(series: &str, members: usize, value: f64) {
    if is_dry_run() {
        return;
    }
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("target");
    fs::create_dir_all(&target).expect("target");
    let file: Result<File, _> = OpenOptions::new().create(true).append(true).open(target.join("growth.tsv"));
    writeln!(file.expect("target/growth.tsv"), "{series}\t{members}\t{value:.4}").expect("target/growth.tsv");
}

fn say(place: &str, members: usize, floor: f64, claims: &Claims) {
    println!(
        "  >> {place}, {members} members: a claim of {BATCH} takes {}, {:.2} x its floor of {}; one that finds nothing {}",
        human(claims.batch),
        claims.batch / floor,
        human(floor),
        human(claims.nothing),
    );
    note(&format!("{place}: a claim of {BATCH} [ms]"), members, claims.batch / 1e6);
    note(&format!("{place}: its floor [ms]"), members, floor / 1e6);
    note(&format!("{place}: a claim of nothing [ms]"), members, claims.nothing / 1e6);
}

pub fn on_postgres(postgres: &Postgres, scale: Scale) {
    let turns = scale.of(2, 10);
    for members in scale.of(vec![200], vec![1_000, 10_000, 100_000]) {
        let due = turns * BATCH;
        let mut stage = Stage::new(postgres);
        stage.insert(APP, members, &stage.endpoint.uri, "interval '1 day'");
        stage.make_due(APP, due);
        let claims = claims(&stage.runtime, stage.store(), turns);
        // As after an hour in which nothing was done.
        stage.database.psql("UPDATE concur_auth_tokens SET lease_owner = NULL, lease_until = NULL WHERE lease_owner IS NOT NULL");
        stage.make_due(APP, due);
        let each = statements(&stage, due);
        note("PostgreSQL: statements a renewal", members, each);

        // The bare loop's claim, in a table of its own.
        stage = Stage::new(postgres);
        stage.insert(bare::APP, members, &stage.endpoint.uri, "interval '1 day'");
        stage.make_due(bare::APP, due);
        let bare = bare::Loop::new(&stage, &stage.endpoint.uri);
        let floor = (0..turns).map(|turn| {
            let start = Instant::now();
            assert_eq!(stage.block_on(bare.claim(turn, BATCH)).len(), BATCH);
            start.elapsed().as_secs_f64() * 1e9
        });
        let floor = median(floor.collect::<Vec<_>>().into_iter());
        say("PostgreSQL", members, floor, &claims);
    }
}

/// Opens, locks and reads these files: what any claim of them must do.
fn bare_claim(place: &Path, numbers: impl Iterator<Item = usize>) -> f64 {
    let start = Instant::now();
    let held: Vec<_> = numbers
        .map(|n| {
            let uuid = members::uuid(n);
            let folder = place.join(&uuid[..2]).join(&uuid);
            let lock = File::create(folder.join("bare.lock")).expect("a file");
            lock.try_lock().expect("free");
            (lock, fs::read(folder.join("refreshTokenObjectFile.json")).expect("a file"))
        })
        .collect();
    let took = start.elapsed().as_secs_f64() * 1e9;
    drop(held);
    took
}

pub fn in_a_folder(scale: Scale) {
    let turns = scale.of(2, 10);
    for members in scale.of(vec![200], vec![1_000, 10_000, 100_000]) {
        let due = turns * BATCH;
        let (runtime, endpoint) = (runtime(), Endpoint::start());
        let folder = tempfile::tempdir().expect("a folder");
        // Those that are due got their tokens long ago.
        let ago = |n| if n <= due { 61 * DAY } else { DAY };
        members::write_files(folder.path(), members, &endpoint.uri, ago);
        let floor = (0..turns).map(|turn| bare_claim(folder.path(), turn * BATCH + 1..=(turn + 1) * BATCH));
        let floor = median(floor.collect::<Vec<_>>().into_iter());
        let claims = claims(&runtime, FolderFleet::new(folder.path()), turns);
        say("a folder", members, floor, &claims);
        println!(
            "  >> a folder, {members} members: the first claim, which reads all files, takes {}",
            human(claims.first)
        );
        note("a folder: the first claim [ms]", members, claims.first / 1e6);
    }
}
