//! Release of a stampede: 10,000 tasks wait for one token; the time from the arrival of the reply until the last task
//! has the token.
//!
//! The reply is held back until all tasks wait. The floor is 10,000 tasks that wait for a value in a bare `watch`
//! channel, on the same runtime. The store is in memory: `flight` says what a disk adds.

#![allow(missing_docs, reason = "criterion's macros make undocumented functions")]
#![allow(clippy::disallowed_methods, reason = "benches measure real time")]

mod support;

use std::{
    hint::black_box,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use concur_auth::{Credentials, MemoryStore, OAuthClient, TokenManager};
use criterion::{Criterion, criterion_group, criterion_main};
use support::{beside, server::Server};
use tokio::{runtime::Runtime, sync::watch};

const WAITERS: usize = 10_000;

/// Starts the waiters, `release`s them when all wait, and returns the time that the last one took from then.
fn stampede<F>(runtime: &Runtime, wait: impl Fn() -> F, release: impl FnOnce() -> Instant) -> Duration
where
    F: Future<Output = ()> + Send + 'static,
{
    let waiting = Arc::new(AtomicUsize::new(0));
    runtime.block_on(async {
        let tasks: Vec<_> = (0..WAITERS)
            .map(|_| {
                let (waiter, waiting) = (wait(), Arc::clone(&waiting));
                tokio::spawn(async move {
                    waiting.fetch_add(1, SeqCst);
                    waiter.await;
                    Instant::now()
                })
            })
            .collect();
        while waiting.load(SeqCst) < WAITERS {
            tokio::task::yield_now().await;
        }
        // The last waiter has reported, but does not sleep yet.
        tokio::time::sleep(Duration::from_millis(20)).await;
        let start = release();
        let mut last = start;
        for task in tasks {
            last = last.max(task.await.expect("no panic"));
        }
        last - start
    })
}

fn floor(runtime: &Runtime) -> Duration {
    let (sender, receiver) = watch::channel(None);
    let wait = || {
        let mut receiver = receiver.clone();
        async move {
            black_box(receiver.wait_for(Option::is_some).await.expect("a sender").clone());
        }
    };
    stampede(runtime, wait, || {
        let start = Instant::now();
        sender.send_replace(Some(Arc::new(())));
        start
    })
}

fn ours(runtime: &Runtime, server: &Server, client: &OAuthClient) -> Duration {
    let tokens = TokenManager::builder()
        .credentials(Credentials::new("app", "secret").company("uuid", "token"))
        .store(MemoryStore::new())
        .base_uri(&server.uri)
        .oauth_client(client.clone())
        .build()
        .expect("a manager");
    let before = server.requests();
    server.hold();
    let wait = || {
        let tokens = tokens.clone();
        async move {
            black_box(tokens.access_token().await.expect("an access token"));
        }
    };
    let taken = stampede(runtime, wait, || {
        while server.requests() == before {
            std::thread::yield_now();
        }
        let start = Instant::now();
        server.release();
        start
    });
    assert_eq!(server.requests(), before + 1, "one request for all");
    taken
}

fn release(criterion: &mut Criterion) {
    support::explain(include_str!("stampede.rs"));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let (server, client) = (Server::start(), OAuthClient::new());
    let mut longest = Duration::ZERO;
    beside(
        criterion,
        "stampede, 10,000 waiters",
        None,
        |n| (0..n).map(|_| floor(&runtime)).sum(),
        |n| {
            (0..n)
                .map(|_| {
                    let taken = ours(&runtime, &server, &client);
                    longest = longest.max(taken);
                    taken
                })
                .sum()
        },
    );
    #[allow(clippy::print_stdout, reason = "a result")]
    if !support::is_dry_run() {
        println!("  >> the longest was {longest:.1?} (goal: 50 ms at most)");
    }
}

criterion_group! {
    name = benches;
    config = support::criterion().sample_size(20);
    targets = release
}
criterion_main!(benches);
