//! Programs that do without the default feature `rustls`: what they forgot is named, what they bring is used.
//!
//! `.ci/run` runs this file in each of the two builds that it has a test for.

#![cfg(not(feature = "rustls"))]

#[cfg(not(feature = "rustls-no-provider"))]
use std::{io, net::TcpListener};

use concur_auth::{Credentials, ErrorKind, MemoryStore, TokenManager, TokenManagerBuilder, reqwest};

/// A port at which no server listens.
const NO_SERVER: &str = "https://localhost:1";

fn manager(base_uri: &str) -> TokenManagerBuilder {
    TokenManager::builder()
        .credentials(Credentials::new("the-app", "the-secret").company("uuid", "at-token"))
        .store(MemoryStore::new())
        .base_uri(base_uri)
}

async fn refusal(manager: &TokenManager) -> (ErrorKind, String) {
    let error = manager.get_valid_refresh_token().await.unwrap_err();
    (error.kind(), error.to_string())
}

fn not_connected() -> (ErrorKind, String) {
    let message = "could not connect to localhost; check the network, any proxy, and the base URI";
    (ErrorKind::Unavailable, message.to_owned())
}

/// One test, because cryptography is installed for the whole process. `tls.rs` runs in this build, too, with cryptography.
#[cfg(feature = "rustls-no-provider")]
#[tokio::test]
async fn without_cryptography_the_error_says_what_to_do_and_with_it_the_same_manager_works() {
    let plain = manager("http://localhost:1").build().unwrap();
    let secure = manager(NO_SERVER).build().unwrap();
    let message = "there is no cryptography for TLS; install a provider when the program starts, as with \
                   rustls::crypto::ring::default_provider().install_default(), or enable the feature `rustls` of concur-auth";
    let given = manager(NO_SERVER).http_client(reqwest::Client::builder()).build().unwrap();
    for manager in [&plain, &secure, &given] {
        assert_eq!(refusal(manager).await, (ErrorKind::Config, message.to_owned()));
    }

    rustls::crypto::aws_lc_rs::default_provider().install_default().unwrap();
    for manager in [&plain, &secure] {
        assert_eq!(refusal(manager).await, not_connected());
    }
    // Its settings are used up.
    assert_eq!(refusal(&given).await, (ErrorKind::Config, message.to_owned()));
}

#[cfg(not(feature = "rustls-no-provider"))]
#[tokio::test]
async fn without_tls_the_error_says_what_to_do() {
    let message = "this program is built without TLS for Concur; enable the feature `rustls` of concur-auth, or give a client \
                   with other TLS to http_client";
    let secure = manager(NO_SERVER).build().unwrap();
    assert_eq!(refusal(&secure).await, (ErrorKind::Config, message.to_owned()));
    // Nor is anything sent in clear text to a proxy, by a client that has no TLS either.
    let proxy = TcpListener::bind("127.0.0.1:0").unwrap();
    proxy.set_nonblocking(true).unwrap();
    let address = format!("http://{}", proxy.local_addr().unwrap());
    let settings = reqwest::Client::builder().proxy(reqwest::Proxy::all(address).unwrap());
    let given = manager(NO_SERVER).http_client(settings).build().unwrap();
    for _ in 0..2 {
        assert_eq!(refusal(&given).await, (ErrorKind::Config, message.to_owned()));
    }
    assert_eq!(proxy.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
    // A Concur on loopback needs no TLS.
    let plain = manager("http://localhost:1").build().unwrap();
    assert_eq!(refusal(&plain).await, not_connected());
}
