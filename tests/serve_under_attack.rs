//! The program `concur-auth serve` under attack: what is refused, and that nothing else suffers.

#![cfg(all(feature = "cli", feature = "simulator", unix))]
#![allow(clippy::disallowed_methods, reason = "real processes, in real time")]

#[path = "serve_under_attack/forwarded.rs"]
mod forwarded;
#[path = "cli/scene.rs"]
mod scene;
#[allow(unreachable_pub, reason = "other tests export it")]
#[path = "support/skip.rs"]
mod skip;
#[path = "serve_under_attack/slow.rs"]
mod slow;

use std::{
    fs,
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    os::unix::{
        fs::{PermissionsExt as _, chown},
        net::UnixStream,
    },
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use concur_auth::simulator::Fault;

use self::{
    scene::{Ran, Scene, Serving, json_of, raw, status_of},
    skip::skip,
};

/// An API of Concur's.
const USERS: &str = "/api/profile/identity/v4/Users";
/// As long as a machine may take that has much else to do.
const PATIENCE: Duration = Duration::from_secs(120);

const SERVE: [&str; 7] = ["serve", "--socket", "auth.sock", "--listen", "127.0.0.1:0", "--key-file", "key"];

/// The command line of `serve`, which writes its log into the file `log`.
fn serve(scene: &Scene, arguments: &[&str]) -> Command {
    let mut command = scene.command(&[&SERVE, arguments].concat());
    command.stderr(fs::File::create(scene.path("log")).unwrap());
    command
}

fn log_of(scene: &Scene) -> String {
    fs::read_to_string(scene.path("log")).unwrap()
}

/// A command that another program starts.
fn under(program: &str, arguments: &[&str], command: &Command) -> Command {
    let mut wrapped = Command::new(program);
    wrapped.args(arguments).arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => wrapped.env(name, value),
            None => wrapped.env_remove(name),
        };
    }
    wrapped.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    if let Some(folder) = command.get_current_dir() {
        wrapped.current_dir(folder);
    }
    wrapped
}

fn as_user(uid: u32, command: &Command) -> Command {
    let (reuid, regid) = (format!("--reuid={uid}"), format!("--regid={uid}"));
    under("setpriv", &[&reuid, &regid, "--clear-groups", "--"], command)
}

/// Whether this process may become another user, who can run the programs of this build; says so if not.
fn can_become_another_user() -> bool {
    let mut command = Command::new("test");
    command.arg("-x").arg(env!("CARGO_BIN_EXE_concur-auth"));
    let is_possible = as_user(65534, &command).status().is_ok_and(|status| status.success());
    if !is_possible {
        skip("this user may not become another, who may run the program");
    }
    is_possible
}

/// What a process of this user reads from the socket after it has asked for a token `times` times, each time on a new connection.
fn asked_as(uid: u32, socket: &Path, times: u32) -> Vec<String> {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "as_another_user", "--ignored", "--nocapture", "--test-threads=1"]);
    command.env("SOCKET", socket).env("TIMES", times.to_string());
    let ran = Ran::of(as_user(uid, &command).output().unwrap());
    assert_eq!(ran.code, Some(0), "{ran:?}");
    ran.out.lines().filter_map(|line| line.strip_prefix("REPLY ").map(str::to_owned)).collect()
}

#[test]
#[ignore = "runs as a child process, as another user"]
#[allow(clippy::print_stdout, reason = "how the child process tells its parent")]
fn as_another_user() {
    let Some(socket) = std::env::var_os("SOCKET") else { return };
    let times: u32 = std::env::var("TIMES").unwrap().parse().unwrap();
    for _ in 0..times {
        let reply = match UnixStream::connect(&socket) {
            Ok(connection) => {
                raw(connection, "GET /token HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            }
            Err(e) => format!("{:?}", e.kind()),
        };
        println!("\nREPLY {}", reply.lines().next().unwrap_or_default());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_of_another_user_gets_nothing_unless_that_user_is_named() {
    if !can_become_another_user() {
        return;
    }
    let scene = Scene::new().await;
    fs::set_permissions(scene.dir.path(), fs::Permissions::from_mode(0o755)).unwrap();

    // The connection is closed, and how often that is said does not depend on how often the user tries.
    let serving = Serving::of(&scene, &mut serve(&scene, &["--socket-mode", "0666"]));
    let began = Instant::now();
    assert_eq!(asked_as(65534, &serving.socket, 300), [""; 300]);
    let most = 2 + usize::try_from(began.elapsed().as_secs()).unwrap();
    assert_eq!(status_of(&serving.get("/token")), 200);
    assert_eq!(serving.end(), Some(0));
    let log = log_of(&scene);
    let turned_away = "concur-auth: a process of user 65534 was turned away; --allow-uid lets it in";
    assert!(
        log.lines().all(|line| line == turned_away) && (1..=most).contains(&log.lines().count()),
        "{log}"
    );

    let serving = Serving::of(&scene, &mut serve(&scene, &["--socket-mode", "0666", "--allow-uid", "65534"]));
    assert_eq!(asked_as(65534, &serving.socket, 1), ["HTTP/1.1 200 OK"]);
    assert_eq!(asked_as(65533, &serving.socket, 1), [""]);
    assert_eq!(serving.end(), Some(0));

    let serving = Serving::of(&scene, &mut serve(&scene, &["--allow-uid", "65534"]));
    assert_eq!(asked_as(65534, &serving.socket, 1), ["PermissionDenied"]);
    assert_eq!(serving.end(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn root_is_let_in_by_another_users_server() {
    if !can_become_another_user() {
        return;
    }
    let scene = Scene::new().await;
    for path in [scene.dir.path(), &scene.path("credentials.json")] {
        chown(path, Some(65534), Some(65534)).unwrap();
    }
    fs::set_permissions(scene.dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let command = scene.command(&[&SERVE[..], &["--socket-mode", "0666"]].concat());
    let serving = Serving::of(&scene, &mut as_user(65534, &command));
    // This process is root's.
    assert_eq!(status_of(&serving.get("/token")), 200);
    assert_eq!(asked_as(65534, &serving.socket, 1), ["HTTP/1.1 200 OK"]);
    assert_eq!(asked_as(65533, &serving.socket, 1), [""]);
    assert_eq!(serving.end(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn only_loopback_is_listened_on_and_only_with_a_key() {
    let scene = Scene::new().await;
    for address in ["0.0.0.0:0", "192.0.2.1:80", "[::]:0", "[2001:db8::1]:80", "[::ffff:127.0.0.1]:0"] {
        let ran = scene.run(&["serve", "--listen", address, "--key-file", "key"]);
        let told = format!(
            "concur-auth: {address} can be reached from other machines; listen on a loopback address, such as \
             127.0.0.1:8099\n"
        );
        assert_eq!((ran.code, ran.out.as_str(), ran.err), (Some(64), "", told));
        assert!(!scene.path("key").exists());
    }
    scene.run(&["serve", "--listen", "127.0.0.1:0"]).failed(64, "--key-file <FILE>");

    for key in ["", "\n", "fifteen letters\n"] {
        scene.write("key", key);
        let ran = scene.run(&["serve", "--listen", "127.0.0.1:0", "--key-file", "key"]);
        let told =
            "concur-auth: the key in key has fewer than 16 characters; remove the file, and a key is made\n";
        assert_eq!((ran.code, ran.out.as_str(), ran.err.as_str()), (Some(1), "", told), "{key:?}");
        assert_eq!(fs::read_to_string(scene.path("key")).unwrap(), key);
    }
    let mode = || fs::metadata(scene.path("key")).unwrap().permissions().mode() & 0o777;
    fs::remove_file(scene.path("key")).unwrap();
    assert_eq!(Serving::start(&scene, &["--key-file-mode", "0640"]).end(), Some(0));
    let key = fs::read_to_string(scene.path("key")).unwrap();
    assert_eq!((mode(), key.trim().len()), (0o640, 64));
    // A key that is there stays as it is.
    let serving = Serving::start(&scene, &["--key-file-mode", "0644"]);
    assert_eq!((mode(), &serving.key), (0o640, &key.trim().to_owned()));
    assert_eq!(serving.end(), Some(0));

    if TcpListener::bind("[::1]:0").is_err() {
        return skip("there is no IPv6 here");
    }
    let all = ["serve", "--socket", "auth.sock", "--listen", "[::1]:0", "--key-file", "key"];
    let serving = Serving::of(&scene, &mut scene.command(&all));
    assert!(serving.address.starts_with("[::1]:"), "{}", serving.address);
    assert_eq!(status_of(&over_loopback(&serving, "/token")), 200);
    assert_eq!(serving.end(), Some(0));
}

fn over_loopback(serving: &Serving, path: &str) -> String {
    serving.raw_over_loopback(&keyed(serving, path))
}

/// A request that shows the key.
fn keyed(serving: &Serving, path: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {}\r\nConnection: close\r\n\r\n",
        serving.address, serving.key
    )
}

/// Waits for what another thread or process does.
#[track_caller]
fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < PATIENCE, "{what}");
        really_wait(Duration::from_millis(20));
    }
}

fn really_wait(time: Duration) {
    std::thread::sleep(time);
}

/// A client's end, of either kind.
trait Stream: Read + Write + Send {
    fn finish(&self);
}

impl Stream for UnixStream {
    fn finish(&self) {
        let _ = self.shutdown(Shutdown::Write);
    }
}

impl Stream for TcpStream {
    fn finish(&self) {
        let _ = self.shutdown(Shutdown::Write);
    }
}

/// The most memory that the process has had, in MiB.
#[cfg(target_os = "linux")]
fn most_memory(serving: &Serving) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", serving.child.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
}

/// Each listener has its own places: a client that takes all places of one harms no client of the other, and no renewal.
#[tokio::test(flavor = "multi_thread")]
async fn a_flood_on_one_listener_leaves_the_other_alone_and_passes() {
    /// So many places has each of two listeners if the process may have 160 files.
    const PLACES: usize = 8;
    for flooded_is_the_socket in [true, false] {
        let scene = Scene::new().await;
        let command = under("sh", &["-c", "ulimit -n 160; exec \"$0\" \"$@\""], &serve(&scene, &["--proxy"]));
        let serving = Serving::of(&scene, &mut { command });
        let connected = |is_the_socket: bool| -> Box<dyn Stream> {
            match is_the_socket {
                true => Box::new(UnixStream::connect(&serving.socket).unwrap()),
                false => Box::new(TcpStream::connect(&serving.address).unwrap()),
            }
        };
        let asked = |is_the_socket: bool, path: &str| match is_the_socket {
            true => serving.get(path),
            false => over_loopback(&serving, path),
        };
        // Not through the listener that is flooded: a place is free again only a moment after the client has its reply.
        assert_eq!(status_of(&asked(!flooded_is_the_socket, "/token")), 200);

        // Calls that Concur takes long to answer hold the places.
        scene.concur.fault_api(PLACES, Fault::Delay(2 * PATIENCE));
        let before = scene.concur.requests().len();
        let flood: Vec<_> = (0..PLACES)
            .map(|_| {
                let mut connection = connected(flooded_is_the_socket);
                connection.write_all(keyed(&serving, USERS).as_bytes()).unwrap();
                connection
            })
            .collect();
        until("all places are taken", || scene.concur.requests().len() == before + PLACES);
        for i in 0..300 {
            let reply = asked(flooded_is_the_socket, "/healthz");
            assert_eq!(reply, "", "connection {i}");
        }
        assert_eq!(status_of(&asked(!flooded_is_the_socket, "/token")), 200);
        scene.concur.expire_access_tokens();
        assert_eq!(status_of(&asked(!flooded_is_the_socket, USERS)), 200);
        assert_eq!(scene.concur.token_requests(), 2, "a renewal in the flood");

        drop(flood);
        until("served again", || {
            let reply = asked(flooded_is_the_socket, "/token");
            !reply.is_empty() && status_of(&reply) == 200
        });
        assert_eq!(serving.end(), Some(0));
    }
}

/// A client without the key can open connections over loopback, and begin requests.
#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_unfinished_requests_takes_little_memory() {
    let scene = Scene::new().await;
    let serving = Serving::of(&scene, &mut serve(&scene, &[]));
    assert_eq!(status_of(&serving.get("/token")), 200);
    let unfinished = format!("GET /token HTTP/1.1\r\nX: {}", "x".repeat(15 * 1024));
    let mut flood = Vec::new();
    for _ in 0..200 {
        let mut connection = TcpStream::connect(&serving.address).unwrap();
        let _ = connection.write_all(unfinished.as_bytes());
        flood.push(connection);
    }
    assert_eq!(status_of(&serving.get("/token")), 200);
    #[cfg(target_os = "linux")]
    assert!(most_memory(&serving) < 100, "{} MiB", most_memory(&serving));
    drop(flood);
    until("served again", || over_loopback(&serving, "/token").starts_with("HTTP/1.1 200 "));
    assert_eq!(serving.end(), Some(0));
}

/// The reply to bytes after which the client says that no more come.
fn reply_to(mut connection: impl Stream, bytes: &[u8]) -> String {
    // A refusal may come before all is written.
    let _ = connection.write_all(bytes);
    connection.finish();
    let mut reply = Vec::new();
    let _ = connection.read_to_end(&mut reply);
    String::from_utf8_lossy(&reply).into_owned()
}

/// The statuses of all replies on a connection.
fn statuses(replies: &str) -> Vec<u16> {
    replies.lines().filter(|line| line.starts_with("HTTP/1.")).map(status_of).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_request_for_this_program_is_refused() {
    let scene = Scene::new().await;
    let serving = Serving::of(&scene, &mut serve(&scene, &[]));
    let get = "GET /token HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n";
    let many = |count| (0..count).map(|i| format!("X-{i}: y\r\n")).collect::<String>();
    let long = |length| format!("X-Long: {}\r\n", "y".repeat(length));
    for (what, request, expected) in [
        ("plain", format!("{get}\r\n"), &[200][..]),
        ("a head of 8 KiB", format!("{get}{}\r\n", long(8 * 1024)), &[200]),
        ("a head of 17 KiB", format!("{get}{}\r\n", long(17 * 1024)), &[431]),
        ("a head of 1 MiB", format!("{get}{}\r\n", long(1024 * 1024)), &[431]),
        ("60 headers", format!("{get}{}\r\n", many(60)), &[200]),
        ("101 headers", format!("{get}{}\r\n", many(101)), &[431]),
        ("a long path", format!("GET /{} HTTP/1.1\r\n\r\n", "y".repeat(20 * 1024)), &[431]),
        (
            "a long query",
            format!("GET /token?{} HTTP/1.1\r\nConnection: close\r\n\r\n", "y".repeat(9000)),
            &[200],
        ),
        ("POST", get.replace("GET", "POST") + "Content-Length: 0\r\n\r\n", &[405]),
        ("DELETE", get.replace("GET", "DELETE") + "\r\n", &[405]),
        ("OPTIONS", get.replace("GET", "OPTIONS") + "\r\n", &[405]),
        ("another method", get.replace("GET", "BREW") + "\r\n", &[405]),
        ("CONNECT", get.replace("GET /token", "CONNECT a.example:443") + "\r\n", &[403]),
        ("OPTIONS *", get.replace("GET /token", "OPTIONS *") + "\r\n", &[405]),
        ("HEAD", get.replace("GET", "HEAD") + "\r\n", &[200]),
        ("a browser's request", format!("{get}Origin: null\r\n\r\n"), &[403]),
        ("a small body", format!("{get}Content-Length: 4096\r\n\r\n{}", "y".repeat(4096)), &[200]),
        ("a large body", format!("{get}Content-Length: 4097\r\n\r\n{}", "y".repeat(4097)), &[413]),
        ("an endless body", format!("{get}Content-Length: 18446744073709551614\r\n\r\n"), &[431]),
        ("a body in chunks", format!("{get}Transfer-Encoding: chunked\r\n\r\n1\r\ny\r\n0\r\n\r\n"), &[413]),
        ("an unknown coding", format!("{get}Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"), &[501]),
        ("two codings", format!("{get}{}\r\n0\r\n\r\n", "Transfer-Encoding: chunked\r\n".repeat(2)), &[501]),
        ("a hidden coding", format!("{get}Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n"), &[400]),
        (
            "a length and chunks",
            format!("{get}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
            &[413],
        ),
        ("no number as length", format!("{get}Content-Length: +5\r\n\r\nhello"), &[400]),
        ("two lengths", format!("{get}Content-Length: 5, 6\r\n\r\nhello"), &[400]),
        ("a folded header", format!("{get}X: y\r\n z\r\n\r\n"), &[400]),
        ("a space before the colon", format!("{get}Transfer-Encoding : chunked\r\n\r\n"), &[400]),
        ("a NUL", format!("{get}X: y\0z\r\n\r\n"), &[400]),
        ("a lone carriage return", format!("{get}X: y\rz\r\n\r\n"), &[400]),
        ("a header without a name", format!("{get}: y\r\n\r\n"), &[400]),
        ("line feeds alone", format!("{get}\r\n").replace('\r', ""), &[200]),
        ("HTTP/1.0", "GET /token HTTP/1.0\r\n\r\n".to_owned(), &[200]),
        (
            "chunks in HTTP/1.0",
            "GET /token HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_owned(),
            &[400],
        ),
        ("HTTP/0.9", "GET /token\r\n\r\n".to_owned(), &[400]),
        ("HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(), &[]),
        ("HTTP/3.0", "GET /token HTTP/3.0\r\n\r\n".to_owned(), &[400]),
        ("another protocol", "SSH-2.0-OpenSSH_9.6\r\n".to_owned(), &[400]),
        ("a long time", get.replace("/token", "/token?min_validity=18446744073709551615") + "\r\n", &[200]),
        (
            "too long a time",
            get.replace("/token", "/token?min_validity=18446744073709551616") + "\r\n",
            &[400],
        ),
        ("a negative time", get.replace("/token", "/token?min_validity=-1") + "\r\n", &[400]),
        ("two requests at once", "GET /healthz HTTP/1.1\r\n\r\n".to_owned() + get + "\r\n", &[200, 200]),
        (
            "a request in a body that is not read",
            "GET /healthz HTTP/1.1\r\nContent-Length: 23\r\n\r\nGET /status HTTP/1.1\r\n\r\n".to_owned(),
            &[200],
        ),
        (
            "a request after a refused body",
            "POST /token HTTP/1.1\r\nContent-Length: 9000\r\n\r\nGET /token HTTP/1.1\r\n\r\n".to_owned(),
            &[405],
        ),
    ] {
        let reply = serving.raw(&request);
        assert_eq!(statuses(&reply), expected, "{what}: {reply}");
    }
    let hello =
        [&[0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01, 0xfc, 0x03, 0x03][..], &[0x5a; 500]].concat();
    let reply = reply_to(TcpStream::connect(&serving.address).unwrap(), &hello);
    assert_eq!(statuses(&reply), [400], "TLS: {reply}");
    assert_eq!(status_of(&serving.get("/token")), 200);
    assert_eq!(serving.end(), Some(0));
    assert_eq!(log_of(&scene), "");
}

fn seed() -> u64 {
    std::env::var("CONCUR_AUTH_SEED").map_or_else(|_| fastrand::u64(..), |seed| seed.parse().unwrap())
}

/// Bytes at random, and requests of which some bytes are replaced, missing or repeated.
fn garbage(random: &mut fastrand::Rng, like: &str) -> Vec<u8> {
    if random.u8(..4) == 0 {
        return (0..random.usize(1..3000)).map(|_| random.u8(..)).collect();
    }
    let mut bytes = like.as_bytes().to_vec();
    for _ in 0..random.usize(1..8) {
        let at = random.usize(..bytes.len());
        match random.u8(..4) {
            0 => bytes[at] = random.u8(..),
            1 => drop(bytes.remove(at)),
            2 => bytes.insert(at, *random.choice(b"\r\n\0 :,;%/.").unwrap()),
            _ => {
                let end = random.usize(at..bytes.len());
                let part = bytes[at..end].to_vec();
                bytes.splice(at..at, part);
            }
        }
    }
    bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_ends_nothing_and_shows_nothing() {
    let seed = seed();
    let mut random = fastrand::Rng::with_seed(seed);
    let scene = Scene::new().await;
    let serving = Serving::of(&scene, &mut serve(&scene, &["--proxy", "-vv"]));
    let token = json_of(&serving.get("/token"));
    let stored: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(scene.path("refreshTokenObjectFile.json")).unwrap())
            .unwrap();
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    let secrets = [
        text(&token["access_token"]),
        text(&stored["refresh_token"]),
        scene.concur.app().secret().to_owned(),
        scene.request_token(),
        serving.key.clone(),
    ];
    let shown = |text: &str| secrets.iter().position(|secret| text.contains(secret.as_str()));

    for i in 0..400 {
        let is_the_socket = random.bool();
        // Of a request for a token a part may be left that is one.
        let path = *random.choice(&["/healthz", "/metrics", "/api/expense/v4/reports"]).unwrap();
        let like = match random.bool() {
            true => keyed(&serving, path),
            false => keyed(&serving, path)
                .replace("GET", "POST")
                .replace("\r\n\r\n", "\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"),
        };
        let bytes = garbage(&mut random, &like);
        let reply = match is_the_socket {
            true => reply_to(UnixStream::connect(&serving.socket).unwrap(), &bytes),
            false => reply_to(TcpStream::connect(&serving.address).unwrap(), &bytes),
        };
        let at = || format!("CONCUR_AUTH_SEED={seed}, {i}: {:?}\n{reply}", String::from_utf8_lossy(&bytes));
        assert_eq!(shown(&reply), None, "{}", at());
        assert!(reply.is_empty() || reply.starts_with("HTTP/1."), "{}", at());
    }
    assert_eq!(json_of(&serving.get("/token"))["access_token"], token["access_token"]);
    assert_eq!(status_of(&over_loopback(&serving, "/token")), 200);
    assert_eq!(scene.concur.token_requests(), 1, "CONCUR_AUTH_SEED={seed}");
    assert_eq!(serving.end(), Some(0));
    let log = log_of(&scene);
    assert_eq!(shown(&log), None, "CONCUR_AUTH_SEED={seed}\n{log}");
    assert!(!log.contains("panicked"), "CONCUR_AUTH_SEED={seed}\n{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_of_a_fleet_has_one_name_however_it_is_spelled() {
    let scene = Scene::new().await;
    let company = scene.company();
    scene.run_with(&["--fleet", "tokens", "fleet", "connect", &company], &scene.request_token()).ok();
    let serving = Serving::of(&scene, &mut serve(&scene, &["--fleet", "tokens"]));
    let token = |uuid: &str| serving.get(&format!("/companies/{uuid}/token"));
    for unknown in ["b3f4e2a0-0000-4000-8000-000000000000", "%2e%2e", "..", ".", "x".repeat(100).as_str(), ""]
    {
        let reply = token(unknown);
        assert_eq!(status_of(&reply), 404, "{unknown}: {reply}");
    }
    // The store has no member now. The one that was asked for is remembered for ten seconds, by whatever spelling.
    let began = Instant::now();
    assert_eq!(status_of(&token(&company)), 200);
    fs::rename(scene.path("tokens"), scene.path("elsewhere")).unwrap();
    let remembered = status_of(&token(&company.to_ascii_uppercase()));
    assert!(remembered == 200 || began.elapsed() >= Duration::from_secs(10), "{remembered}");
    assert_eq!(serving.end(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_another_process_disconnects_is_served_no_more() {
    let scene = Scene::new().await;
    let company = scene.company();
    let connect = || {
        scene.run_with(&["--fleet", "tokens", "fleet", "connect", &company], &scene.request_token()).ok();
    };
    connect();
    let serving = Serving::of(&scene, &mut serve(&scene, &["--fleet", "tokens"]));
    let token = || serving.get(&format!("/companies/{company}/token"));
    assert_eq!(status_of(&token()), 200);
    scene.run(&["--fleet", "tokens", "fleet", "disconnect", "--yes", &company]).ok();
    until("it is noticed", || status_of(&token()) != 200);
    let reply = token();
    assert_eq!((status_of(&reply), &json_of(&reply)["kind"]), (503, &"credentials_needed".into()), "{reply}");
    assert_eq!(json_of(&reply)["person_needed"], true);

    connect();
    until("it is noticed", || status_of(&token()) == 200);
    assert!(scene.concur.is_live_access(json_of(&token())["access_token"].as_str().unwrap()));
    assert_eq!(serving.end(), Some(0));
}
