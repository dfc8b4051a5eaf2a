//! A process may keep 100,000 companies signed in: managers are small, and share one pool of connections.

#![cfg(feature = "simulator")]
#![allow(clippy::disallowed_methods, reason = "real sockets take real time")]
#![allow(clippy::print_stdout, reason = "the sizes are results")]

#[path = "support/allocated.rs"]
#[allow(unreachable_pub, reason = "two test files use it")]
mod allocated;
#[path = "../benches/support/server.rs"]
#[allow(dead_code, unreachable_pub, reason = "the benches use the rest")]
mod server;

use std::time::{Duration, SystemTime};

use allocated::{left_behind, now};
use concur_auth::{
    Clock as _, Credentials, FleetStore as _, FolderFleet, MemoryStore, OAuthClient, RefreshTokenObject,
    SystemClock, TokenManager, TokenManagerBuilder, TokenStore as _,
};
use server::Server;

const KIB: i64 = 1024;

fn stored(company: usize, geolocation: &str) -> RefreshTokenObject {
    let in_an_hour = SystemClock.now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs() + 3600;
    let json = format!(
        r#"{{"access_token": "{}", "refresh_token": "{company:036}", "expires_in": 3600,
        "refresh_expires_in": 9999999999, "accessTokenExpiresAt": {in_an_hour},
        "geolocation": "{geolocation}", "companyUUID": "{company}"}}"#,
        "a".repeat(900)
    );
    RefreshTokenObject::from_json(&json).unwrap()
}

fn credentials(company: usize) -> Credentials {
    Credentials::new("app", "secret").company(company.to_string(), "")
}

fn builder(company: usize, client: &OAuthClient, uri: &str) -> TokenManagerBuilder {
    TokenManager::builder()
        .credentials(credentials(company))
        .oauth_client(client.clone())
        .base_uri(uri)
        .clock(SystemClock)
}

#[test]
fn an_idle_manager_takes_less_than_2_kib_beside_its_tokens() {
    let (client, uri) = (OAuthClient::new(), "https://us.api.concursolutions.com");
    let dir = tempfile::tempdir().unwrap();
    let (_, warm_up) = left_behind(|| builder(0, &client, uri).store(MemoryStore::new()).build().unwrap());
    assert!(warm_up > 0);

    let (_, token) = left_behind(|| stored(1, uri));
    assert!((1000..8 * KIB).contains(&token), "not a token's size: {token}");
    let (_idle, bytes) = left_behind(|| {
        let store = MemoryStore::with(stored(1, uri));
        builder(1, &client, uri).store(store).build().unwrap()
    });
    println!("built, on memory: {} bytes beside the {token} of its token", bytes - token);
    assert!(bytes - token < 2 * KIB, "{bytes} with a token of {token}");

    // A manager of its own client, on its own file, loaded and looked at once: what a process that never renews has.
    std::fs::write(dir.path().join("token.json"), stored(1, uri).to_json()).unwrap();
    let credentials_file = r#"{"appID": "app", "clientSecret": "secret", "companyUUID": "1"}"#;
    std::fs::write(dir.path().join("credentials.json"), credentials_file).unwrap();
    std::fs::rename(dir.path().join("token.json"), dir.path().join("refreshTokenObjectFile.json")).unwrap();
    let (_used, bytes) = left_behind(|| {
        let tokens = now(TokenManager::load_from(dir.path())).unwrap();
        now(tokens.get_valid_refresh_token()).unwrap();
        now(tokens.access_token()).unwrap();
        tokens
    });
    println!("loaded and used, on files: {} bytes beside the {token} of its token", bytes - token);
    assert!(bytes - token < 2 * KIB, "{bytes} with a token of {token}");

    // On the folder of a fleet, with a client that is shared.
    let fleet = FolderFleet::new(dir.path().join("tokens"));
    let names = [1, 2].map(|company| format!("{company:036}"));
    for (company, name) in (1..).zip(&names) {
        let store = fleet.of("app", name);
        now(async {
            let lock = store.try_lock().await.unwrap().unwrap();
            store.save(&stored(company, uri), &lock).await.unwrap();
        });
    }
    let use_it = |company: usize| {
        let store = fleet.of("app", &names[company - 1]);
        now(store.read()).unwrap();
        builder(company, &client, uri).store(store).build().unwrap()
    };
    let _warm_up = use_it(1);
    let (_used, bytes) = left_behind(|| use_it(2));
    println!(
        "built, on a store in a fleet's folder that was read: {} bytes beside the {token} of its token",
        bytes - token
    );
    assert!(bytes - token < 2 * KIB, "{bytes} with a token of {token}");
}

/// Waits until the HTTP client's pool has got its connection back.
///
/// The crate's own runtime has one worker thread. That thread reads the end of a reply, which wakes the caller, and then
/// puts the connection into the pool. Where other programs take the processor between the two steps, the next caller
/// finds the pool empty and opens a second connection, as it should. A sleep of the [`SystemClock`] ends on the same
/// thread, after what that thread was at. Two sleeps, because the thread may look at its timers between two tasks, but
/// not twice in a row without running those that are ready.
async fn connection_is_back() {
    for _ in 0..2 {
        SystemClock.sleep(Duration::from_millis(1)).await;
    }
}

#[test]
fn a_hundred_thousand_managers_share_one_connection() {
    const MANAGERS: usize = 100_000;
    let (server, client) = (Server::start(), OAuthClient::new());
    let (managers, bytes) = left_behind(|| {
        let new = |company| {
            let store = MemoryStore::with(stored(company, &server.uri));
            builder(company, &client, &server.uri).store(store).build().unwrap()
        };
        (0..MANAGERS).map(new).collect::<Vec<_>>()
    });
    println!("{} bytes each, their tokens included", bytes / MANAGERS as i64);
    assert!(bytes / (MANAGERS as i64) < 6 * KIB, "{bytes}");
    assert_eq!((server.connections(), server.requests()), (0, 0), "idle managers ask nothing");

    // One in two hundred renews, one after the other.
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    for tokens in managers.iter().step_by(200) {
        runtime.block_on(tokens.refresh()).unwrap();
        runtime.block_on(connection_is_back());
    }
    assert_eq!((server.connections(), server.requests()), (1, MANAGERS / 200));
}
