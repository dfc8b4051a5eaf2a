//! A save: a new synced file replaces the old file, and the folder is synced.
//!
//! The floor is the same without the crate: write, fsync, rename, fsync of the folder. Most of both is the disk's two
//! fsyncs, which `the fsyncs alone` counts separately.

#![allow(missing_docs, reason = "criterion's macros make undocumented functions")]

mod support;

use std::{fs::File, io::Write as _};

use concur_auth::{JsonFileStore, RefreshTokenObject, TokenStore as _};
use criterion::{Criterion, criterion_group, criterion_main};
use support::{bare_save, beside, rounds, write_files};

/// What the disk takes for two fsyncs with something to write each.
fn fsyncs(file: &mut File, dir: &File, json: &[u8]) {
    file.write_all(json).expect("room");
    file.sync_all().expect("a disk");
    dir.sync_all().expect("a disk");
}

fn save(criterion: &mut Criterion) {
    support::explain(include_str!("save.rs"));
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let dir = tempfile::tempdir().expect("a folder");
    write_files(dir.path());
    let store = JsonFileStore::new(dir.path().join("refreshTokenObjectFile.json"));
    let token = RefreshTokenObject::from_json(support::STORED).expect("a token");
    let json = token.to_json();
    let lock = runtime.block_on(store.try_lock()).expect("a folder").expect("nobody else");

    beside(
        criterion,
        "save",
        None,
        |n| rounds(n, || bare_save(dir.path(), json.as_bytes())),
        |n| rounds(n, || runtime.block_on(store.save(&token, &lock)).expect("a disk")),
    );
    let mut file = File::create(dir.path().join("fsync")).expect("a file");
    let folder = File::open(dir.path()).expect("a folder");
    beside(
        criterion,
        "a bare save, beside the fsyncs alone",
        None,
        |n| rounds(n, || fsyncs(&mut file, &folder, json.as_bytes())),
        |n| rounds(n, || bare_save(dir.path(), json.as_bytes())),
    );
}

criterion_group! {
    name = benches;
    config = support::criterion().sample_size(50);
    targets = save
}
criterion_main!(benches);
