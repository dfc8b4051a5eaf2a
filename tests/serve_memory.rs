//! A large body goes through `serve --proxy` in either direction as it is, and takes at most 64 MiB of the program's memory, also
//! where the side that receives it does not read.

#![cfg(all(feature = "cli", target_os = "linux"))]

use std::{
    fs,
    io::{BufRead, BufReader, ErrorKind, Read, Write},
    net::{TcpListener, TcpStream},
    os::unix::net::UnixStream,
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, Sender, channel},
    thread,
    time::Duration,
};

use concur_auth::{Clock as _, SystemClock};

const LENGTH: usize = 1 << 30;
const MOST_MEMORY: u64 = 64 << 20;
/// A prime, so that a part that is lost, doubled or moved does not fit.
const PERIOD: usize = 65_521;
/// A sender whose bytes are not taken for so long has filled every buffer between the two sides.
const STOPPED: Duration = Duration::from_millis(200);

/// The body, from any place in its period on.
fn pattern() -> Vec<u8> {
    (0..2 * PERIOD).map(|at| (((at % PERIOD) * 2_654_435_761) >> 16) as u8).collect()
}

/// Sends the body, and tells the receiver to begin once no more is taken.
fn send(to: &mut impl Write, stopped: &Sender<()>) {
    let (pattern, mut sent) = (pattern(), 0);
    while sent < LENGTH {
        let at = sent % PERIOD;
        match to.write(&pattern[at..at + PERIOD.min(LENGTH - sent)]) {
            Ok(more) => sent += more,
            Err(e) if e.kind() == ErrorKind::WouldBlock => drop(stopped.send(())),
            Err(e) => panic!("{e} after {sent} bytes"),
        }
    }
}

/// Takes the body, once the sender has come to a stop.
fn receive(from: &mut impl Read, stopped: &Receiver<()>) {
    stopped.recv().expect("a sender that has to wait");
    let (pattern, mut part, mut received) = (pattern(), vec![0; PERIOD], 0);
    while received < LENGTH {
        let most = PERIOD.min(LENGTH - received);
        let more = from.read(&mut part[..most]).unwrap();
        assert!(more > 0, "it ends after {received} bytes");
        let at = received % PERIOD;
        assert!(part[..more] == pattern[at..at + more], "another byte after {received} bytes");
        received += more;
    }
}

/// All lines before a body.
fn head(from: &mut impl BufRead) -> String {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert!(from.read_line(&mut head).unwrap() > 0, "no head: {head:?}");
    }
    head.to_ascii_lowercase()
}

/// The program, which forwards to that address.
struct Serving(Child);

impl Serving {
    fn start(dir: &Path, upstream: &TcpListener) -> Self {
        let base = format!("http://{}", upstream.local_addr().unwrap());
        let expires = concur_auth::time::OffsetDateTime::from(SystemClock.now()).unix_timestamp() + 3600;
        let token = format!(
            r#"{{"access_token": "a", "expires_in": 3600, "accessTokenExpiresAt": {expires}, "refresh_token": "r",
                "refresh_expires_in": 9999999999, "companyUUID": "uuid", "geolocation": "{base}"}}"#
        );
        let credentials = r#"{"appID": "app", "clientSecret": "secret", "companyUUID": "uuid"}"#;
        fs::write(dir.join("refreshTokenObjectFile.json"), token).unwrap();
        fs::write(dir.join("credentials.json"), credentials).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_concur-auth"));
        // Those of the person who runs the tests.
        let names = std::env::vars_os().map(|(name, _)| name);
        for name in names.filter(|name| name.to_string_lossy().starts_with("CONCUR_")) {
            command.env_remove(name);
        }
        command.args(["serve", "--proxy", "--socket", "s", "--dir", ".", "--base-uri", &base]);
        let mut child = command.current_dir(dir).stdout(Stdio::piped()).spawn().unwrap();
        let mut said = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut said).unwrap();
        assert_eq!(said, "listening on unix:s\n");
        Self(child)
    }

    fn peak_memory(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.0.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() * 1024
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn within_memory(
    upstream: fn(TcpStream, &Sender<()>, &Receiver<()>),
    client: fn(UnixStream, &Sender<()>, &Receiver<()>),
) {
    let (dir, listener) = (tempfile::tempdir().unwrap(), TcpListener::bind("127.0.0.1:0").unwrap());
    let serving = Serving::start(dir.path(), &listener);
    // One direction is used in each test.
    let (tell, told) = channel();
    let (tell_back, told_back) = channel();
    let answered = thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        stream.set_write_timeout(Some(STOPPED)).unwrap();
        upstream(stream, &tell, &told_back);
    });
    let stream = UnixStream::connect(dir.path().join("s")).unwrap();
    stream.set_write_timeout(Some(STOPPED)).unwrap();
    client(stream, &tell_back, &told);
    answered.join().unwrap();
    let most = serving.peak_memory();
    assert!(most <= MOST_MEMORY, "{most} bytes");
}

#[test]
fn a_reply_of_1_gib_takes_at_most_64_mib() {
    within_memory(
        |stream, stopped, _| {
            assert!(head(&mut BufReader::new(&stream)).starts_with("get /report http/1.1\r\n"));
            write!(&stream, "HTTP/1.1 200 OK\r\nContent-Length: {LENGTH}\r\n\r\n").unwrap();
            send(&mut &stream, stopped);
        },
        |stream, _, stopped| {
            write!(&stream, "GET /api/report HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
            let mut reply = BufReader::new(&stream);
            let head = head(&mut reply);
            assert!(head.starts_with("http/1.1 200 ok\r\n"), "{head}");
            assert!(head.contains(&format!("\r\ncontent-length: {LENGTH}\r\n")), "{head}");
            receive(&mut reply, stopped);
        },
    );
}

#[test]
fn a_request_of_1_gib_takes_at_most_64_mib() {
    within_memory(
        |stream, _, stopped| {
            let mut request = BufReader::new(&stream);
            let head = head(&mut request);
            assert!(head.starts_with("post /receipts http/1.1\r\n"), "{head}");
            assert!(head.contains(&format!("\r\ncontent-length: {LENGTH}\r\n")), "{head}");
            receive(&mut request, stopped);
            write!(&stream, "HTTP/1.1 204 No Content\r\n\r\n").unwrap();
        },
        |stream, stopped, _| {
            let head = "POST /api/receipts HTTP/1.1\r\nHost: localhost\r\n";
            write!(&stream, "{head}Content-Length: {LENGTH}\r\n\r\n").unwrap();
            send(&mut &stream, stopped);
            let reply = self::head(&mut BufReader::new(&stream));
            assert!(reply.starts_with("http/1.1 204 no content\r\n"), "{reply}");
        },
    );
}
