//! Load, parse and validity check of a stored token: what a program pays that finds a valid one.
//!
//! Three steps of one ladder, so that each can be read as a ratio to the others: reading the bytes of both files (the
//! floor), a manager that sees them for the first time, and one that has seen them before.

#![allow(missing_docs, reason = "criterion's macros make undocumented functions")]

use std::hint::black_box;

use concur_auth::TokenManager;
use criterion::{Criterion, criterion_group, criterion_main};

const STORED: &str = r#"{"expires_in":3600,"scope":"openid USER company.read","token_type":"Bearer",
"access_token":"eyJraWQiOiIxIn0.eyJzdWIiOiIyIn0.c2lnbmF0dXJl","refresh_token":"abcdefghijklmnopqrstuvwxyz0123",
"refresh_expires_in":9999999999,"geolocation":"https://us.api.concursolutions.com","companyUUID":"uuid"}"#;

const CREDENTIALS: &str = r#"{"appID": "app", "clientSecret": "secret", "companyUUID": "uuid"}"#;

fn stored_token(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("refreshTokenObjectFile.json");
    std::fs::write(&path, STORED).expect("a token file");
    std::fs::write(dir.path().join("credentials.json"), CREDENTIALS).expect("a credentials file");

    let mut group = criterion.benchmark_group("stored_token");
    group.bench_function("floor: read both files", |b| {
        let credentials = dir.path().join("credentials.json");
        b.iter(|| black_box((std::fs::read(&path), std::fs::read(&credentials))));
    });
    group.bench_function("first look: load, parse, check", |b| {
        b.iter(|| {
            runtime.block_on(async {
                let tokens = TokenManager::load_from(dir.path()).await.expect("credentials");
                black_box(tokens.get_valid_refresh_token().await.expect("a valid token"))
            })
        });
    });
    group.bench_function("later looks: unchanged file", |b| {
        let tokens = runtime.block_on(TokenManager::load_from(dir.path())).expect("credentials");
        b.iter(|| {
            runtime
                .block_on(async { black_box(tokens.get_valid_refresh_token().await.expect("a valid token")) })
        });
    });
    group.finish();
}

criterion_group!(benches, stored_token);
criterion_main!(benches);
