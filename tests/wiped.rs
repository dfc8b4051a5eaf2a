//! What this crate owns is wiped when it is dropped: the process's own memory is searched for it.

#![cfg(all(feature = "simulator", target_os = "linux"))]

mod support;

use std::{
    fs,
    io::{Read as _, Seek as _, SeekFrom},
};

use concur_auth::{
    AccessToken, CredentialSource as _, Credentials, CredentialsFile, Grant, JsonFileStore,
    RefreshTokenObject, TokenManager, TokenStore as _,
};
use support::{all_succeed, alone, child};

/// Each in a process of its own, where nobody else has had these secrets.
#[tokio::test]
async fn no_secret_stays_in_memory_when_its_owners_are_gone() {
    let _alone = alone().await;
    for test in ["holds_tokens", "holds_credentials"] {
        let dir = tempfile::tempdir().unwrap();
        // Written by this process, so that the other one never holds more than what it reads.
        fs::write(
            dir.path().join("token.json"),
            format!(
                r#"{{"refresh_token": "{}", "refresh_expires_in": 9999999999, "access_token": "{}", "expires_in": 3600,
                    "accessTokenExpiresAt": 9999999999, "companyUUID": "c"}}"#,
                secret("refresh"),
                secret("access")
            ),
        )
        .unwrap();
        fs::write(
            dir.path().join("credentials.json"),
            format!(
                r#"{{"appID": "a", "clientSecret": "{}", "companyUUID": "c", "companyRequestToken": "{}"}}"#,
                secret("client"),
                secret("request")
            ),
        )
        .unwrap();
        all_succeed(vec![child(test).env("DIR", dir.path()).spawn().unwrap()]);
    }
}

/// Made up of parts, so that no program holds it before it is needed.
fn secret(name: &str) -> String {
    [name, "SECRET", "NOBODY", "MAY", "KEEP"].join("-")
}

/// Whether the secret is anywhere in this process's memory. Looked for by its parts, so that looking leaves no copy.
fn is_in_memory(name: &str) -> bool {
    let parts: [&[u8]; 9] = [name.as_bytes(), b"-", b"SECRET", b"-", b"NOBODY", b"-", b"MAY", b"-", b"KEEP"];
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let matches = |window: &[u8]| {
        let mut rest = window;
        parts.iter().all(|part| {
            let (start, end) = rest.split_at(part.len());
            rest = end;
            start == *part
        })
    };
    let mut memory = fs::File::open("/proc/self/mem").unwrap();
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let mut buffer = Vec::new();
    for line in maps.lines().filter(|line| line.contains(" rw-p ")) {
        let (from, to) = line.split(' ').next().unwrap().split_once('-').unwrap();
        let (from, to) = (u64::from_str_radix(from, 16).unwrap(), u64::from_str_radix(to, 16).unwrap());
        buffer.clear();
        memory.seek(SeekFrom::Start(from)).unwrap();
        let _ = memory.by_ref().take(to - from).read_to_end(&mut buffer);
        if buffer.windows(length).any(matches) {
            return true;
        }
        buffer.fill(0);
    }
    false
}

fn dir() -> std::path::PathBuf {
    std::env::var_os("DIR").unwrap().into()
}

#[tokio::test]
#[ignore = "runs as a child process"]
async fn holds_tokens() {
    let store = JsonFileStore::new(dir().join("token.json"));
    let token: RefreshTokenObject = store.load().await.unwrap().unwrap();
    assert!(is_in_memory("refresh") && is_in_memory("access"), "the search finds nothing");

    let lock = store.try_lock().await.unwrap().unwrap();
    store.rehearse(Some(&token), &lock).await.unwrap();
    store.save(&token, &lock).await.unwrap();
    let grant = Grant::refresh_token(token.secret());
    let tokens = TokenManager::builder()
        .credentials(Credentials::new("a", "s").company("c", "t"))
        .store(store)
        .build()
        .unwrap();
    let access: AccessToken = tokens.access_token().await.unwrap();
    let header = access.authorization();
    drop((token, grant, lock, tokens, access));
    assert!(is_in_memory("access"), "the header has it");
    drop(header);
    for name in ["refresh", "access"] {
        assert!(!is_in_memory(name), "a copy of the {name} token is left");
    }
}

#[tokio::test]
#[ignore = "runs as a child process"]
async fn holds_credentials() {
    let credentials = CredentialsFile::new(dir().join("credentials.json")).credentials().await.unwrap();
    assert!(is_in_memory("client") && is_in_memory("request"), "the search finds nothing");
    drop(credentials);
    for name in ["client", "request"] {
        assert!(!is_in_memory(name), "a copy of the {name} secret is left");
    }
}
