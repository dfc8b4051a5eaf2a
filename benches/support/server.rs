//! A token endpoint on loopback that does almost nothing, since the client is measured.
//!
//! It answers every request with the same reply, counts connections and requests, and can hold replies back.

use std::{
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Instant,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    runtime::Runtime,
    sync::watch,
};

pub struct Server {
    pub uri: String,
    shared: Arc<Shared>,
    _runtime: Runtime,
}

#[derive(Debug)]
struct Shared {
    reply: Vec<u8>,
    connections: AtomicUsize,
    requests: AtomicUsize,
    open: watch::Sender<bool>,
    last_reply: Mutex<Option<Instant>>,
}

impl Server {
    pub fn start() -> Self {
        let (runtime, listener, uri) = listen();
        let body = format!(
            r#"{{"expires_in":3600,"scope":"openid company.read","token_type":"Bearer","access_token":"{}","refresh_token":"{}","refresh_expires_in":9999999999,"geolocation":"{uri}","id_token":"e.e.e"}}"#,
            "a".repeat(900),
            "r".repeat(36),
        );
        let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json";
        let reply = format!("{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len()).into_bytes();
        let shared = Arc::new(Shared {
            reply,
            connections: AtomicUsize::new(0),
            requests: AtomicUsize::new(0),
            open: watch::Sender::new(true),
            last_reply: Mutex::new(None),
        });
        let serving = Arc::clone(&shared);
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                serving.connections.fetch_add(1, SeqCst);
                tokio::spawn(serve(stream, Arc::clone(&serving)));
            }
        });
        Self { uri, shared, _runtime: runtime }
    }

    pub fn connections(&self) -> usize {
        self.shared.connections.load(SeqCst)
    }

    pub fn requests(&self) -> usize {
        self.shared.requests.load(SeqCst)
    }

    /// Replies wait until [`release`](Self::release).
    pub fn hold(&self) {
        self.shared.open.send_replace(false);
    }

    pub fn release(&self) {
        self.shared.open.send_replace(true);
    }

    /// When the last reply was sent.
    pub fn last_reply(&self) -> Option<Instant> {
        *self.shared.last_reply.lock().expect("no panic under it")
    }
}

async fn serve(mut stream: TcpStream, shared: Arc<Shared>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut received = Vec::with_capacity(4096);
    let mut open = shared.open.subscribe();
    while let Some(end) = read_request(&mut stream, &mut received).await? {
        received.drain(..end);
        shared.requests.fetch_add(1, SeqCst);
        let _ = open.wait_for(|open| *open).await;
        *shared.last_reply.lock().expect("no panic under it") = Some(Instant::now());
        stream.write_all(&shared.reply).await?;
    }
    Ok(())
}

/// A port on loopback and its base URI, with a thread of its own: a server's work is not on its clients' runtimes.
pub fn listen() -> (Runtime, TcpListener, String) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.expect("a runtime");
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("a port");
    let uri = format!("http://{}", listener.local_addr().expect("an address"));
    (runtime, listener, uri)
}

/// Where the first of the received requests ends, which is read to its end; `None` at the end of the connection.
pub async fn read_request(stream: &mut TcpStream, received: &mut Vec<u8>) -> io::Result<Option<usize>> {
    loop {
        if let Some(end) = end_of_request(received) {
            return Ok(Some(end));
        }
        if stream.read_buf(received).await? == 0 {
            return Ok(None);
        }
    }
}

/// The end of the first request, once the request is complete.
fn end_of_request(received: &[u8]) -> Option<usize> {
    let head = received.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
    let text = std::str::from_utf8(&received[..head]).ok()?.to_ascii_lowercase();
    let length = text.lines().find_map(|line| line.strip_prefix("content-length:"));
    let end = head + length.and_then(|length| length.trim().parse().ok()).unwrap_or(0);
    (received.len() >= end).then_some(end)
}
