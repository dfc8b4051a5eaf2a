//! The program `concur-auth` in a folder of its own, with a simulated Concur.

#![allow(dead_code, unreachable_pub, reason = "each test program needs its own part")]

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    net::TcpStream,
    os::unix::{fs::PermissionsExt as _, net::UnixStream},
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
};

use concur_auth::{Clock as _, SystemClock, simulator::ConcurSimulator, time::OffsetDateTime};
use serde_json::Value;

/// A folder for the program, and a Concur.
pub struct Scene {
    pub concur: ConcurSimulator,
    pub dir: tempfile::TempDir,
    /// libfaketime, and what the program takes for the time when it starts.
    pub time: Option<(String, OffsetDateTime)>,
}

impl Scene {
    pub async fn new() -> Self {
        Self::with(ConcurSimulator::start().await)
    }

    pub fn with(concur: ConcurSimulator) -> Self {
        let scene = Self { concur, dir: tempfile::tempdir().unwrap(), time: None };
        scene.write("credentials.json", &scene.concur.credentials_json());
        scene
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn write(&self, name: &str, text: &str) {
        self.write_bytes(name, text.as_bytes());
    }

    pub fn write_bytes(&self, name: &str, bytes: &[u8]) {
        fs::write(self.path(name), bytes).unwrap();
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(0o600)).unwrap();
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_concur-auth"));
        if let Some((library, time)) = &self.time {
            let (date, hour, minute, second) = (time.date(), time.hour(), time.minute(), time.second());
            command
                .env("LD_PRELOAD", library)
                .env("FAKETIME", format!("@{date} {hour:02}:{minute:02}:{second:02}"));
            command.env("TZ", "UTC").env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        }
        without_settings(&mut command);
        command.args(arguments).current_dir(self.dir.path()).env("CONCUR_BASE_URI", self.concur.base_uri());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    pub fn run(&self, arguments: &[&str]) -> Ran {
        Ran::of(self.command(arguments).output().unwrap())
    }

    pub fn run_with(&self, arguments: &[&str], input: &str) -> Ran {
        let mut child = self.command(arguments).stdin(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        Ran::of(child.wait_with_output().unwrap())
    }

    pub fn change_stored(&self, member: &str, value: i64) {
        let text = fs::read_to_string(self.path("refreshTokenObjectFile.json")).unwrap();
        let mut stored: Value = serde_json::from_str(&text).unwrap();
        stored[member] = value.into();
        self.write("refreshTokenObjectFile.json", &stored.to_string());
    }

    pub fn company(&self) -> String {
        self.concur.company_uuid()
    }

    pub fn request_token(&self) -> String {
        let credentials: Value = serde_json::from_str(&self.concur.credentials_json()).unwrap();
        credentials["companyRequestToken"].as_str().unwrap().to_owned()
    }
}

/// Takes away what tells the program where the tokens of the person are who runs the tests.
pub fn without_settings(command: &mut Command) {
    let ours = std::env::vars_os().map(|(name, _)| name);
    for name in ours.filter(|name| name.to_string_lossy().starts_with("CONCUR_")) {
        command.env_remove(name);
    }
    command.env_remove("CREDENTIALS_DIRECTORY").env_remove("XDG_RUNTIME_DIR");
}

/// In so many seconds, as a Unix time.
pub fn time_in(seconds: i64) -> i64 {
    OffsetDateTime::from(SystemClock.now()).unix_timestamp() + seconds
}

/// What came of a run.
#[derive(Debug)]
pub struct Ran {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Ran {
    pub fn of(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Self { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }

    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!((self.code, self.err.as_str()), (Some(0), ""), "{self:?}");
        self.out
    }

    #[track_caller]
    pub fn failed(self, code: i32, with: &str) {
        assert!(self.code == Some(code) && self.err.contains(with) && self.out.is_empty(), "{self:?}");
    }
}

/// A program that serves, until it is dropped.
pub struct Serving {
    pub child: Child,
    pub socket: PathBuf,
    pub address: String,
    pub key: String,
}

impl Serving {
    pub fn start(scene: &Scene, arguments: &[&str]) -> Self {
        let all = ["serve", "--socket", "auth.sock", "--listen", "127.0.0.1:0", "--key-file", "key"];
        Self::of(scene, &mut scene.command(&[&all, arguments].concat()))
    }

    /// The same with a command that the test has changed.
    pub fn of(scene: &Scene, command: &mut Command) -> Self {
        let socket = scene.path("auth.sock");
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut address = String::new();
        for _ in 0..2 {
            let line = lines.next().unwrap().unwrap();
            match line.strip_prefix("listening on http://") {
                Some(found) => address = found.to_owned(),
                None => assert_eq!(line, "listening on unix:auth.sock"),
            }
        }
        let key = fs::read_to_string(scene.path("key")).unwrap().trim().to_owned();
        Self { child, socket, address, key }
    }

    /// The whole reply to a request that is written as it is.
    pub fn raw(&self, request: &str) -> String {
        raw(UnixStream::connect(&self.socket).unwrap(), request)
    }

    pub fn raw_over_loopback(&self, request: &str) -> String {
        raw(TcpStream::connect(&self.address).unwrap(), request)
    }

    pub fn get(&self, path: &str) -> String {
        self.raw(&format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"))
    }

    pub fn end(mut self) -> Option<i32> {
        Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status().unwrap();
        self.child.wait().unwrap().code()
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn raw(mut connection: impl std::io::Read + std::io::Write, request: &str) -> String {
    // A refusal may come before all is written.
    let _ = connection.write_all(request.as_bytes());
    let mut reply = Vec::new();
    let _ = connection.read_to_end(&mut reply);
    String::from_utf8_lossy(&reply).into_owned()
}

pub fn status_of(reply: &str) -> u16 {
    reply.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or_else(|| panic!("{reply:?}"))
}

pub fn json_of(reply: &str) -> Value {
    serde_json::from_str(reply.split_once("\r\n\r\n").unwrap().1).unwrap()
}
