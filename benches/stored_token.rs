//! Load, parse and validity check of a stored token: the cost for a program that finds a valid token.
//!
//! Three steps: reading the bytes of both files (the floor), a manager that reads them for the first time, and a
//! manager that has read them before and checks whether they have changed (its floor is one `stat`).

#![allow(missing_docs, reason = "criterion's macros make undocumented functions")]

mod support;

use std::{fs, hint::black_box};

use concur_auth::TokenManager;
use criterion::{Criterion, criterion_group, criterion_main};
use support::{beside, rounds, write_files};

fn stored_token(criterion: &mut Criterion) {
    support::explain(include_str!("stored_token.rs"));
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let dir = tempfile::tempdir().expect("a folder");
    let (path, credentials) =
        (dir.path().join("refreshTokenObjectFile.json"), dir.path().join("credentials.json"));
    write_files(dir.path());

    beside(
        criterion,
        "stored token, first look",
        None,
        |n| rounds(n, || (fs::read(&path), fs::read(&credentials))),
        |n| {
            rounds(n, || {
                runtime.block_on(async {
                    let tokens = TokenManager::load_from(dir.path()).await.expect("credentials");
                    tokens.get_valid_refresh_token().await.expect("a valid token")
                })
            })
        },
    );
    let tokens = runtime.block_on(TokenManager::load_from(dir.path())).expect("credentials");
    beside(
        criterion,
        "stored token, later looks",
        None,
        |n| rounds(n, || fs::metadata(&path)),
        |n| {
            rounds(n, || {
                runtime.block_on(async {
                    black_box(tokens.get_valid_refresh_token().await.expect("a valid token"))
                })
            })
        },
    );
}

criterion_group! {
    name = benches;
    config = support::criterion();
    targets = stored_token
}
criterion_main!(benches);
