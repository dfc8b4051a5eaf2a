//! The warm path: `access_token()` with a token in memory, as nearly every call finds it.
//!
//! The floor is the least work for handing out a shared token that expires: one `SystemTime::now` and one clone of an
//! `Arc`, dropped again by the caller. Two tasks on two cores share the token's reference count, which
//! then travels from core to core: there the goal is a multiple of one task's floor.

#![allow(missing_docs, reason = "criterion's macros make undocumented functions")]
#![allow(clippy::disallowed_methods, reason = "benches measure real time")]

mod support;

use std::{
    hint::black_box,
    sync::{Arc, Barrier},
    thread,
    time::{Duration, SystemTime},
};

use concur_auth::{Credentials, MemoryStore, TokenManager};
use criterion::{Criterion, criterion_group, criterion_main};
use support::{beside, rounds, server::Server, timed};
use tokio::runtime::{Builder, Runtime};

fn runtime() -> Runtime {
    Builder::new_current_thread().build().expect("a runtime")
}

/// A manager that holds an access token for an hour.
fn warm_manager(server: &Server) -> TokenManager {
    let tokens = TokenManager::builder()
        .credentials(Credentials::new("app", "secret").company("uuid", "token"))
        .store(MemoryStore::new())
        .base_uri(&server.uri)
        .build()
        .expect("a manager");
    runtime().block_on(tokens.access_token()).expect("an access token");
    tokens
}

fn floor(n: u64, shared: &Arc<SystemTime>) -> Duration {
    rounds(n, || black_box(SystemTime::now()) < **black_box(&Arc::clone(shared)))
}

fn ours(n: u64, tokens: &TokenManager, runtime: &Runtime) -> Duration {
    timed(|| {
        runtime.block_on(async {
            for _ in 0..n {
                black_box(tokens.access_token().await.expect("an access token"));
            }
        });
    })
}

/// Runs `work` in two threads at the same time; how long the slower one took.
fn in_two_threads(work: impl Fn() -> Duration + Sync) -> Duration {
    let together = Barrier::new(2);
    thread::scope(|scope| {
        let threads = [(); 2].map(|()| {
            scope.spawn(|| {
                together.wait();
                work()
            })
        });
        threads.into_iter().map(|thread| thread.join().expect("no panic")).max().unwrap_or_default()
    })
}

fn warm_path(criterion: &mut Criterion) {
    support::explain(include_str!("warm_path.rs"));
    let server = Server::start();
    let tokens = warm_manager(&server);
    let shared = Arc::new(SystemTime::now() + Duration::from_secs(3600));
    let (shared, tokens) = (&shared, &tokens);

    let here = runtime();
    beside(criterion, "warm path, 1 task", Some(1.4), |n| floor(n, shared), |n| ours(n, tokens, &here));
    beside(
        criterion,
        "warm path, 2 tasks on 2 cores",
        Some(5.0),
        |n| floor(n, shared),
        |n| in_two_threads(|| ours(n, tokens, &runtime())),
    );
    // For comparison only: how much slower the floor itself is when two cores share one reference count.
    beside(
        criterion,
        "the floor, 2 tasks on 2 cores",
        None,
        |n| floor(n, shared),
        |n| in_two_threads(|| floor(n, shared)),
    );
    assert_eq!(server.requests(), 1, "all but the first call were warm");
}

criterion_group! {
    name = benches;
    config = support::criterion();
    targets = warm_path
}
criterion_main!(benches);
