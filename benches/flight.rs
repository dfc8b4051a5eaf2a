//! One flight, from the call to the saved token, compared with a bare reqwest POST of the same form to the same server.
//!
//! Five steps, so that the difference of two steps is the cost of a part: the bare POST, all on the caller's thread;
//! `OAuthClient`, which switches to the runtime that owns the connections (and to a second core, if one is idle), and
//! parses and checks the reply; a manager on a store in memory, which adds the switch to a thread for flights and the
//! flight's bookkeeping; the tutorial's two files, which add reading them, the lock, the rehearsal and the save; and
//! the fsyncs of rehearsal and save alone.

#![allow(missing_docs, reason = "criterion's macros make undocumented functions")]
#![allow(clippy::disallowed_methods, clippy::print_stdout, reason = "benches measure real time and print it")]

mod support;

use std::{
    fs::{self, File},
    io::Write as _,
    time::Duration,
};

use concur_auth::{
    Credentials, CredentialsFile, Geolocation, Grant, JsonFileStore, MemoryStore, OAuthClient,
    RefreshTokenObject, TokenManager, reqwest,
};
use criterion::{Criterion, criterion_group, criterion_main};
use support::{bare_save, human, median, rounds, server::Server, write_files};
use tokio::runtime::{Builder, Runtime};

/// The most that a flight may cost on top of a bare POST, not counting its fsyncs.
const GOAL: f64 = 500e3;

/// How many times each step runs for the differences.
const TURNS: usize = 400;

struct Stage {
    runtime: Runtime,
    server: Server,
    bare: reqwest::Client,
    client: OAuthClient,
    in_memory: TokenManager,
    on_files: TokenManager,
    dir: tempfile::TempDir,
}

impl Stage {
    fn new() -> Self {
        let (server, client) = (Server::start(), OAuthClient::new());
        let dir = tempfile::tempdir().expect("a folder");
        write_files(dir.path());
        let token = stored(&server.uri);
        fs::write(dir.path().join("refreshTokenObjectFile.json"), token.to_json()).expect("a file");
        let builder = || TokenManager::builder().oauth_client(client.clone()).base_uri(&server.uri);
        let in_memory = builder()
            .credentials(Credentials::new("app", "secret").company("uuid", "token"))
            .store(MemoryStore::with(token))
            .build()
            .expect("a manager");
        let on_files = builder()
            .credentials(CredentialsFile::new(dir.path().join("credentials.json")))
            .store(JsonFileStore::new(dir.path().join("refreshTokenObjectFile.json")))
            .build()
            .expect("a manager");
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        Self { runtime, bare: reqwest::Client::new(), server, client, in_memory, on_files, dir }
    }

    fn bare_post(&self) {
        self.runtime.block_on(async {
            let form = "client_id=app&client_secret=secret&grant_type=refresh_token&refresh_token=\
                        abcdefghijklmnopqrstuvwxyz0123";
            let request = self.bare.post(format!("{}/oauth2/v0/token", self.server.uri));
            let request = request.header("content-type", "application/x-www-form-urlencoded").body(form);
            request.send().await.expect("a server").bytes().await.expect("a reply")
        });
    }

    fn client(&self) {
        let base: Geolocation = self.server.uri.parse().expect("loopback");
        let (app, grant) =
            (Credentials::new("app", "secret"), Grant::refresh_token("abcdefghijklmnopqrstuvwxyz0123"));
        self.runtime.block_on(self.client.request_token(&base, &app, &grant)).expect("a reply");
    }

    fn refresh(&self, tokens: &TokenManager) {
        self.runtime.block_on(tokens.refresh()).expect("a token");
    }

    /// What the disk takes of a flight on files: rehearsal (a file, the folder, the room for the reply), save (a file,
    /// the folder).
    fn fsyncs(&self, token: &[u8]) {
        let dir = self.dir.path();
        bare_save(dir, token);
        let path = dir.join("room");
        let mut room = File::create(&path).expect("a file");
        room.write_all(&vec![b' '; 260 * 1024 + token.len()]).expect("room");
        room.sync_all().expect("a disk");
        bare_save(dir, token);
        fs::remove_file(path).expect("a folder");
    }
}

fn stored(geolocation: &str) -> RefreshTokenObject {
    let json = support::STORED.replace("https://us.api.concursolutions.com", geolocation);
    RefreshTokenObject::from_json(&json).expect("a token")
}

fn flight(criterion: &mut Criterion) {
    support::explain(include_str!("flight.rs"));
    let stage = Stage::new();
    let token = stored(&stage.server.uri).to_json();
    let steps: [(&str, &dyn Fn()); 5] = [
        ("bare POST (the floor)", &|| stage.bare_post()),
        ("OAuthClient", &|| stage.client()),
        ("manager, store in memory", &|| stage.refresh(&stage.in_memory)),
        ("manager, two files", &|| stage.refresh(&stage.on_files)),
        ("the fsyncs of that, alone", &|| stage.fsyncs(token.as_bytes())),
    ];
    let mut group = criterion.benchmark_group("flight");
    for (name, step) in steps {
        group.bench_function(name, |b| b.iter(step));
    }
    group.finish();

    if support::is_dry_run() {
        return;
    }
    // Alternating, for the differences.
    let mut taken: [Vec<f64>; 5] = Default::default();
    for _ in 0..TURNS {
        for ((_, step), taken) in steps.iter().zip(&mut taken) {
            taken.push(nanoseconds(rounds(1, step)));
        }
    }
    let [bare, client, in_memory, on_files, fsyncs] = taken.map(|taken| median(taken.into_iter()));
    println!("  >> a bare POST takes {}; on top of that,", human(bare));
    println!("  >>   OAuthClient adds {}", human(client - bare));
    println!("  >>   the flight of a manager adds {}", human(in_memory - client));
    println!("  >>   two files add {}, of which fsyncs {}", human(on_files - in_memory), human(fsyncs));
    let extra = on_files - fsyncs - bare;
    println!("  >> beside the bare POST and the fsyncs: {} (goal: {} at most)", human(extra), human(GOAL));
    support::say("flight, store in memory", in_memory, bare, in_memory / bare, None);
    support::say("flight, two files", on_files, bare + fsyncs, on_files / (bare + fsyncs), None);
}

fn nanoseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e9
}

criterion_group! {
    name = benches;
    config = support::criterion().sample_size(50);
    targets = flight
}
criterion_main!(benches);
