//! What a client may send to the endpoint: the target `endpoint` of `fuzz/`.
//!
//! Always: the refresh token is in no answer, the access token in none to a client without the key, and no request below a closed
//! path is forwarded.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use concur_auth::{Credentials, MemoryStore, RefreshTokenObject, TokenManager};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, UnixStream},
    runtime::Runtime,
};

use super::{
    counts::Counts,
    door::{Door, Key},
    listeners::Connection,
    proxy::Proxy,
    routes::Served,
    served_on,
};
use crate::{
    locked,
    place::{Kept, Tokens},
};

const KEY: &str = "the-key-of-the-endpoint";
const REFRESH_TOKEN: &str = "the-refresh-token";
const ACCESS_TOKEN: &str = "the-access-token";

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    thread_local! {
        static ENDPOINT: Endpoint = Endpoint::start();
    }
    let [door, sent @ ..] = input else { return };
    ENDPOINT.with(|endpoint| endpoint.check(door % 2 == 0, sent));
});

struct Endpoint {
    runtime: Runtime,
    served: Arc<Served>,
    socket: Arc<Door>,
    loopback: Arc<Door>,
}

impl Endpoint {
    fn start() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let concur = runtime.block_on(apis());
        let token = format!(
            r#"{{"refresh_token": "{REFRESH_TOKEN}", "refreshTokenExpiresAt": 9000000000, "access_token": "{ACCESS_TOKEN}",
                "expires_in": 4000000000, "accessTokenExpiresAt": 8000000000, "geolocation": "http://{concur}"}}"#
        );
        let manager = TokenManager::builder()
            .credentials(Credentials::new("app", "secret"))
            .base_uri(format!("http://{concur}"))
            .store(MemoryStore::with(RefreshTokenObject::from_json(&token).unwrap()))
            .build()
            .unwrap();
        let served = Served {
            kept: Kept::One(Tokens { manager, fleet: None }),
            proxy: Some(Proxy::new().ok().unwrap()),
            counts: Counts::default(),
            members: Mutex::default(),
            last: Mutex::default(),
        };
        let loopback = Door::Loopback { address: "127.0.0.1:8080".to_owned(), key: Key::given(KEY) };
        Self {
            runtime,
            served: Arc::new(served),
            socket: Arc::new(Door::Socket),
            loopback: Arc::new(loopback),
        }
    }

    fn check(&self, is_socket: bool, sent: &[u8]) {
        let door = if is_socket { &self.socket } else { &self.loopback };
        let mut answer = Vec::new();
        self.runtime.block_on(async {
            let (mut client, server) = UnixStream::pair().unwrap();
            let served = tokio::spawn(served_on(Connection::Unix(server), &self.served, door));
            // The endpoint may hang up before it has read all of it.
            let (mut from, mut to) = client.split();
            let ask = async {
                let _ = to.write_all(sent).await;
                let _ = to.shutdown().await;
            };
            let _ = tokio::join!(ask, from.read_to_end(&mut answer));
            let _ = served.await.unwrap();
        });
        assert_eq!(*locked(&CLOSED), None, "a closed path was forwarded");
        let has = |text: &str| answer.windows(text.len()).any(|part| part == text.as_bytes());
        assert!(!has(REFRESH_TOKEN));
        let shows_key = sent.windows(KEY.len()).any(|part| part == KEY.as_bytes());
        assert!(is_socket || shows_key || !has(ACCESS_TOKEN));
    }
}

/// What came below a path that is not forwarded.
static CLOSED: Mutex<Option<String>> = Mutex::new(None);

/// A Concur that looks at the path of each request.
async fn apis() -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut connection, _)) = listener.accept().await {
            let mut head = [0; 32 * 1024];
            let mut length = 0;
            while !head[..length].windows(4).any(|end| end == b"\r\n\r\n") {
                match connection.read(&mut head[length..]).await {
                    Ok(read @ 1..) => length += read,
                    _ => break,
                }
            }
            let head = String::from_utf8_lossy(&head[..length]).to_ascii_lowercase();
            let path = head.split(' ').nth(1).unwrap_or_default();
            let first = path.split('/').find(|name| !name.is_empty()).unwrap_or_default();
            // A renewal of the manager's own has no bearer token.
            if ["oauth2", "app-mgmt"].contains(&first) && head.contains("authorization: bearer") {
                *locked(&CLOSED) = Some(head);
            }
            let _ = connection
                .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok")
                .await;
        }
    });
    address
}
