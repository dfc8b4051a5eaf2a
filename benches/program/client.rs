//! The client: raw requests on connections that stay open, so that it takes little time itself.

use std::path::Path;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
};

/// How much is read or written at once.
const PART: usize = 256 * 1024;

pub struct Client {
    stream: UnixStream,
    received: Vec<u8>,
}

impl Client {
    pub async fn connect(socket: &Path) -> Self {
        let stream = UnixStream::connect(socket).await.expect("a server");
        Self { stream, received: vec![0; PART] }
    }

    /// The length of the reply's body.
    pub async fn get(&mut self, path: &str) -> usize {
        self.get_as_written(&get(path)).await
    }

    pub async fn get_as_written(&mut self, request: &[u8]) -> usize {
        self.stream.write_all(request).await.expect("a connection");
        self.reply().await
    }

    pub async fn post(&mut self, path: &str, length: usize) {
        let head = format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n");
        self.stream.write_all(head.as_bytes()).await.expect("a connection");
        let (part, mut left) = (vec![b'x'; PART], length);
        while left > 0 {
            let length = left.min(PART);
            self.stream.write_all(&part[..length]).await.expect("a connection");
            left -= length;
        }
        self.reply().await;
    }

    async fn reply(&mut self) -> usize {
        let mut filled = 0;
        let (head, length) = loop {
            let more = self.stream.read(&mut self.received[filled..]).await.expect("a connection");
            assert!(more > 0, "the server has closed the connection");
            filled += more;
            if let Some(head) = self.received[..filled].windows(4).position(|four| four == b"\r\n\r\n") {
                break (head + 4, length(&self.received[..head]));
            }
        };
        let mut left = length - (filled - head);
        while left > 0 {
            let more = self.stream.read(&mut self.received).await.expect("a connection");
            assert!(more > 0, "the server has closed the connection");
            left -= more;
        }
        length
    }
}

pub fn get(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").into_bytes()
}

fn length(head: &[u8]) -> usize {
    const NAME: &[u8] = b"content-length: ";
    let text = String::from_utf8_lossy(head);
    assert!(head.starts_with(b"HTTP/1.1 200"), "{text}");
    let at = head.windows(NAME.len()).position(|name| name.eq_ignore_ascii_case(NAME));
    let value = &text[at.expect("a length") + NAME.len()..];
    value.split('\r').next().and_then(|length| length.parse().ok()).expect("a number")
}
