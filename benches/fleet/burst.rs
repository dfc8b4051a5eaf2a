//! Many companies connect at the same moment: how much runs at once, and whether a company waits longer than its turn.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use concur_auth::{Fleet, FleetStore, FolderFleet, Grant};
use tokio::task::JoinSet;

use super::{
    Scale,
    database::{Stage, fleet_on, runtime},
    endpoint::Endpoint,
    members,
};
use crate::{postgres::Postgres, support::process};

/// A reply takes as long as this, so that requests are under way together.
const REPLY: Duration = Duration::from_millis(20);

pub fn on_postgres(postgres: &Postgres, scale: Scale) {
    let stage = Stage::new(postgres);
    connect_all(&stage.endpoint, stage.store(), scale, "PostgreSQL");
}

pub fn in_a_folder(scale: Scale) {
    let (endpoint, folder) = (Endpoint::start(), tempfile::tempdir().expect("a folder"));
    connect_all(&endpoint, FolderFleet::new(folder.path()), scale, "a folder");
}

fn connect_all(endpoint: &Endpoint, store: impl FleetStore, scale: Scale, place: &str) {
    let count = scale.of(200, 10_000);
    let fleet = fleet_on(store, &endpoint.uri).build().expect("a fleet");
    let runtime = runtime();
    endpoint.delay(REPLY);
    // Starts what is started once.
    runtime.block_on(connect(&fleet, count + 1));
    let (before, open) = (process::threads(), process::descriptors());
    // In the order in which they called, and in which they were served.
    let (called, start) = (Arc::new(AtomicUsize::new(0)), Instant::now());
    let (served, threads, descriptors) = process::most_during(|| {
        runtime.block_on(async {
            let mut calls = JoinSet::new();
            for n in 1..=count {
                let (fleet, called) = (fleet.clone(), Arc::clone(&called));
                calls.spawn(async move {
                    let turn = called.fetch_add(1, Ordering::Relaxed);
                    connect(&fleet, n).await;
                    turn
                });
            }
            let mut served = Vec::new();
            while let Some(turn) = calls.join_next().await {
                served.push(turn.expect("no panic"));
            }
            served
        })
    });
    let took = start.elapsed();
    let passed_over =
        served.iter().enumerate().map(|(place, turn)| place.saturating_sub(*turn)).max().unwrap_or(0);
    assert_eq!((endpoint.answered(), endpoint.refused()), (count + 1, 0));
    let health = runtime.block_on(fleet.health()).expect("a store");
    assert_eq!(health.active, count as u64 + 1, "all are served");
    println!(
        "  >> {place}: {count} companies connect at once: all served in {:.1} s ({:.0} a second); at most {} requests under way (goal: 64), \
         {threads} threads ({before} before), {descriptors} descriptors ({open} before; both ends of each connection to the \
         endpoint); at most {passed_over} places later than its turn",
        took.as_secs_f64(),
        count as f64 / took.as_secs_f64(),
        endpoint.most_under_way(),
    );
}

async fn connect(fleet: &Fleet, n: usize) {
    let uuid = members::uuid(n);
    let grant = Grant::company_request_token(&uuid, "at-0123456789");
    assert_eq!(fleet.connect(grant).await.expect("a sign-in"), uuid);
}
