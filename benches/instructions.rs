//! The program whose instructions `.ci/guard` counts: a number of rounds of one thing, or of its floor, and nothing
//! else.
//!
//! Seconds depend on the machine and its other work; instructions do not. Two runs that differ only in the number
//! of rounds differ by the instructions of those rounds, so start and end need not be known.
//!
//! Run by hand, as `cargo bench` does, it runs each thing once and counts nothing.

#![allow(clippy::print_stdout, reason = "says what it is for")]
#![allow(clippy::disallowed_methods, reason = "the floor of the warm path is the clock")]

use std::{
    env,
    fs::{self, File},
    hint::black_box,
    io::Write as _,
    path::Path,
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::{Duration, SystemTime},
};

use concur_auth::{JsonFileStore, RefreshTokenObject, TokenManager, TokenStore as _};

const CREDENTIALS: &str = r#"{"appID": "app", "clientSecret": "secret", "companyUUID": "uuid"}"#;

const NAMES: [&str; 6] = ["warm-floor", "warm", "load-floor", "load", "save-floor", "save"];

/// A token file with an access token that is valid for an hour.
fn stored() -> String {
    let hour = Duration::from_secs(3600);
    let in_an_hour = (SystemTime::now() + hour).duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
    format!(
        r#"{{"expires_in":3600,"scope":"openid USER company.read","token_type":"Bearer","access_token":"{}",
"refresh_token":"abcdefghijklmnopqrstuvwxyz0123","refresh_expires_in":9999999999,"accessTokenExpiresAt":{},
"geolocation":"https://us.api.concursolutions.com","companyUUID":"uuid"}}"#,
        "eyJraWQiOiIxIn0.".repeat(60),
        in_an_hour.as_secs()
    )
}

/// Polls a future once that does not have to wait.
fn now<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("there was something to wait for"),
    }
}

fn load(dir: &Path) -> TokenManager {
    let tokens = now(TokenManager::load_from(dir)).expect("credentials");
    black_box(now(tokens.get_valid_refresh_token()).expect("a valid token"));
    tokens
}

/// Reads both files, and parses them as any JSON.
fn bare_load(dir: &Path) {
    for name in ["credentials.json", "refreshTokenObjectFile.json"] {
        let bytes = fs::read(dir.join(name)).expect("a file");
        black_box(serde_json::from_slice::<serde_json::Value>(&bytes).expect("JSON"));
    }
}

/// Writes a file, renames it, and syncs both it and its folder.
fn bare_save(dir: &Path, json: &str) {
    let (temp, target) = (dir.join("bare.tmp"), dir.join("bare.json"));
    let mut file = File::create(&temp).expect("a file");
    file.write_all(json.as_bytes()).expect("room");
    file.sync_all().expect("a disk");
    fs::rename(&temp, &target).expect("a folder");
    File::open(dir).and_then(|dir| dir.sync_all()).expect("a disk");
}

fn run(name: &str, rounds: u64) {
    let dir = tempfile::tempdir().expect("a folder");
    let dir = dir.path();
    let path = dir.join("refreshTokenObjectFile.json");
    fs::write(&path, stored()).expect("a token file");
    fs::write(dir.join("credentials.json"), CREDENTIALS).expect("a credentials file");
    let repeat = |work: &dyn Fn()| (0..rounds).for_each(|_| work());
    match name {
        "warm-floor" => {
            let shared = Arc::new(SystemTime::now() + Duration::from_secs(3600));
            repeat(&|| assert!(SystemTime::now() < **black_box(&Arc::clone(&shared))));
        }
        "warm" => {
            let tokens = load(dir);
            repeat(&|| drop(black_box(now(tokens.access_token()).expect("an access token"))));
        }
        "load-floor" => repeat(&|| bare_load(dir)),
        "load" => repeat(&|| drop(load(dir))),
        "save-floor" => {
            let json = RefreshTokenObject::from_json(&stored()).expect("a token").to_json();
            repeat(&|| bare_save(dir, &json));
        }
        "save" => {
            let token = RefreshTokenObject::from_json(&stored()).expect("a token");
            let store = JsonFileStore::new(&path);
            let lock = now(store.try_lock()).expect("a folder").expect("nobody else");
            repeat(&|| now(store.save(&token, &lock)).expect("a disk"));
        }
        _ => panic!("no such thing: {name}; there are {NAMES:?}"),
    }
}

fn main() {
    // Cargo's own flags, `--bench` and `--test`, say nothing here.
    let arguments: Vec<String> = env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    if let [name, rounds] = arguments.as_slice() {
        return run(name, rounds.parse().expect("a number of rounds"));
    }
    NAMES.iter().for_each(|name| run(name, 1));
    println!("instructions: each thing ran once; `.ci/guard` counts their instructions");
}
