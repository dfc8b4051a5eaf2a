//! A process may keep 100,000 companies of a fleet signed in: a company in use takes little more than its token, and a company
//! that was never asked for next to nothing.

#![allow(clippy::disallowed_methods, reason = "the files' dates are real")]
#![allow(clippy::print_stdout, reason = "the sizes are results")]

#[path = "support/allocated.rs"]
#[allow(unreachable_pub, reason = "two test files use it")]
mod allocated;
#[path = "../benches/fleet/members.rs"]
#[allow(dead_code, unreachable_pub, reason = "the bench uses the rest")]
mod members;

use std::time::Duration;

use allocated::{left_behind, now};
use concur_auth::{
    AppCredentials, Fleet, FleetStore as _, FolderFleet, JsonFileStore, RefreshTokenObject, TokenStore as _,
};
use members::{APP, uuid};

const MEMBERS: usize = 1000;
const DAY: Duration = Duration::from_secs(24 * 3600);
const URI: &str = "https://us.api.concursolutions.com";

/// The folder of a fleet with companies 1 to [`MEMBERS`], of which none is due.
fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    // Makes what says whose the folder is.
    assert!(now(FolderFleet::new(dir.path()).claim_due(APP, 1)).unwrap().tokens.is_empty());
    members::write_files(dir.path(), MEMBERS, URI, |_| DAY);
    dir
}

fn fleet(dir: &tempfile::TempDir) -> Fleet {
    let builder = Fleet::builder().app(AppCredentials::new(APP, "secret")).base_uri(URI);
    builder.store(FolderFleet::new(dir.path())).build().unwrap()
}

/// One company's token as it is held: access token, id token and the rest of the reply.
fn token(dir: &tempfile::TempDir) -> (RefreshTokenObject, i64) {
    let uuid = uuid(1);
    let file = dir.path().join(&uuid[..2]).join(&uuid).join("refreshTokenObjectFile.json");
    left_behind(|| now(JsonFileStore::new(file).load()).unwrap().unwrap())
}

#[test]
fn a_company_in_use_takes_less_than_2_kib_on_top_of_its_token() {
    let dir = folder();
    let (_held, token) = token(&dir);
    assert!((1000..8 * 1024).contains(&token), "not a token's size: {token}");
    let fleet = fleet(&dir);
    let ask = |n| {
        let company = fleet.company(&uuid(n));
        now(company.get_valid_refresh_token()).unwrap();
        now(company.access_token()).unwrap()
    };
    // What is there once.
    ask(MEMBERS);
    let ((), bytes) = left_behind(|| (1..MEMBERS).for_each(|n| drop(ask(n))));
    let each = bytes / (MEMBERS as i64 - 1) - token;
    println!("a company in use: {each} bytes in addition to the {token} of its token");
    assert!(each < 2048, "{each} in addition to {token}");
}

#[test]
fn a_company_that_was_never_asked_for_takes_less_than_300_bytes_in_a_folder() {
    let dir = folder();
    let store = FolderFleet::new(dir.path());
    let (due, bytes) = left_behind(|| now(store.claim_due(APP, 1)).unwrap());
    assert!(due.tokens.is_empty() && due.next.is_some(), "{due:?}");
    let each = bytes / MEMBERS as i64;
    println!("a company that was never asked for: {each} bytes");
    assert!((1..300).contains(&each), "{each}");
}

#[test]
fn a_company_that_was_asked_for_and_has_no_token_yet_takes_less_than_2_kib() {
    let dir = folder();
    let fleet = fleet(&dir);
    drop(fleet.company(&uuid(MEMBERS)));
    let ((), bytes) = left_behind(|| (1..MEMBERS).for_each(|n| drop(fleet.company(&uuid(n)))));
    let each = bytes / (MEMBERS as i64 - 1);
    println!("a company asked for, of which no token is read: {each} bytes");
    assert!((1..2048).contains(&each), "{each}");
}
