//! The program as the units of `examples/deploy` run it: the test is the service manager. It opens the listeners, hands over the
//! credentials, hears what the program says of itself, and ends it.

#![cfg(all(feature = "cli", feature = "simulator", unix))]

#[path = "deploy/files.rs"]
mod files;
#[path = "cli/scene.rs"]
mod scene;
#[allow(unreachable_pub, reason = "other tests export it")]
#[path = "support/skip.rs"]
mod skip;

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    os::{
        fd::OwnedFd,
        unix::{
            fs::{MetadataExt as _, PermissionsExt as _, chown},
            net::{UnixDatagram, UnixListener, UnixStream},
            process::CommandExt as _,
        },
    },
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread::JoinHandle,
    time::Duration,
};

use concur_auth::{Clock as _, SealingKeys, SystemClock, simulator::Fault};

use self::scene::{Ran, Scene, json_of, raw, status_of};

/// For what must come: much longer than it takes.
const DEADLINE: Duration = Duration::from_secs(60);
/// A user that is not root and owns nothing.
const NOBODY: u32 = 65534;
const TOKEN: &str = "GET /token HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";

/// What systemd does for the two units.
struct Manager {
    scene: Scene,
    socket: UnixListener,
    notified: UnixDatagram,
    /// Of the process, where the test may choose it.
    user: Option<u32>,
}

impl Manager {
    async fn new() -> Self {
        let scene = Scene::new().await;
        fs::set_permissions(scene.dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        for name in ["run", "lib", "lib/concur-auth", "credentials"] {
            fs::create_dir(scene.path(name)).unwrap();
        }
        fs::rename(scene.path("credentials.json"), scene.path("credentials/credentials.json")).unwrap();
        // Who can become another user does: then the program cannot do more than it can as a service.
        let user = (fs::metadata(scene.dir.path()).unwrap().uid() == 0).then_some(NOBODY);
        // Not by this process: a child that another test starts meanwhile would have the copy open for writing, and then nothing
        // can run it.
        let copied = Command::new("cp").arg(env!("CARGO_BIN_EXE_concur-auth")).arg(scene.dir.path()).status();
        assert!(copied.unwrap().success());
        let socket = UnixListener::bind(scene.path("run/auth.sock")).unwrap();
        let notified = UnixDatagram::bind(scene.path("run/notify")).unwrap();
        notified.set_read_timeout(Some(DEADLINE)).unwrap();
        for name in ["run/auth.sock", "run/notify"] {
            fs::set_permissions(scene.path(name), fs::Permissions::from_mode(0o666)).unwrap();
        }
        Self { scene, socket, notified, user }
    }

    /// Makes all modes as systemd has them: a state folder of one's own, and credentials to read.
    fn hand_over(&self) {
        let credentials = self.path("credentials");
        let files = fs::read_dir(&credentials).unwrap().map(|entry| (entry.unwrap().path(), 0o400));
        let folders = [(credentials.clone(), 0o500), (self.path("lib/concur-auth"), 0o700)];
        for (path, mode) in files.chain(folders) {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            chown(&path, self.user, self.user).unwrap();
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.scene.path(name)
    }

    /// Starts the service with its command line, `clients` for `$CLIENTS`, and these listeners.
    fn start(&self, clients: &str, loopback: Option<TcpListener>) -> Service {
        let listeners = if loopback.is_some() { "2" } else { "1" };
        self.run(&self.command_line(clients), listeners, Some(self.socket()), loopback)
    }

    fn command_line(&self, clients: &str) -> Vec<String> {
        let mut words = files::exec_start(self.path("lib").to_str().unwrap(), clients);
        words[0] = self.path("concur-auth").to_str().unwrap().to_owned();
        words
    }

    fn socket(&self) -> UnixListener {
        self.socket.try_clone().unwrap()
    }

    fn run(
        &self,
        arguments: &[String],
        listeners: &str,
        socket: Option<UnixListener>,
        loopback: Option<TcpListener>,
    ) -> Service {
        self.hand_over();
        // Listeners are the descriptors from 3 on, for the process that the variable names.
        let script = r#"count=$1; shift
            case $count in
            0) exec </dev/null ;;
            1) exec 3<&0 </dev/null ;;
            2) exec 3<&0 4<&1 </dev/null >&2 ;;
            esac
            [ "$count" = 0 ] || export LISTEN_FDS="$count" LISTEN_PID=$$
            exec "$@""#;
        let stdio = |listener: Option<OwnedFd>| listener.map_or_else(Stdio::null, Stdio::from);
        let mut command = Command::new("sh");
        command.args(["-c", script, "sh", listeners]).args(arguments).current_dir("/").env_clear();
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.env("NOTIFY_SOCKET", self.path("run/notify"));
        command.env("CREDENTIALS_DIRECTORY", self.path("credentials"));
        command.stdin(stdio(socket.map(Into::into))).stdout(stdio(loopback.map(Into::into)));
        command.stderr(Stdio::piped());
        if let Some(user) = self.user {
            command.uid(user).gid(user);
        }
        Service(command.spawn().unwrap())
    }

    /// The next message of the service that has this in it, and all that came before.
    fn told(&self, what: &str) -> Vec<String> {
        let mut messages = Vec::new();
        let mut bytes = [0; 4096];
        loop {
            let length = match self.notified.recv(&mut bytes) {
                Ok(length) => length,
                Err(e) => panic!("{e}: no message with {what:?} came, but {messages:?}"),
            };
            messages.push(String::from_utf8(bytes[..length].to_vec()).unwrap());
            if messages.last().unwrap().contains(what) {
                return messages;
            }
        }
    }

    /// A client that gives up where no service starts: the listener is there without it.
    fn client(&self) -> UnixStream {
        let client = UnixStream::connect(self.path("run/auth.sock")).unwrap();
        client.set_read_timeout(Some(DEADLINE)).unwrap();
        client
    }

    fn token(&self) -> String {
        raw(self.client(), TOKEN)
    }
}

/// What `look` finds, which comes in a moment.
fn soon<T>(mut look: impl FnMut() -> Option<T>) -> T {
    let started = SystemClock.now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(SystemClock.now().duration_since(started).unwrap() < DEADLINE, "it did not come");
        std::thread::yield_now();
    }
}

/// The process of the service, until it is dropped.
struct Service(Child);

impl Service {
    fn terminate(&self) {
        Command::new("kill").args(["-TERM", &self.0.id().to_string()]).status().unwrap();
    }

    /// The exit code, and what it said on standard error.
    fn ended(mut self) -> (Option<i32>, String) {
        let code = self.0.wait().unwrap().code();
        let mut said = String::new();
        self.0.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        (code, said)
    }

    fn end(self) {
        self.terminate();
        let (code, said) = self.ended();
        assert_eq!(code, Some(0), "{said}");
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_comes_before_the_service_is_answered_and_the_socket_outlives_it() {
    let manager = Manager::new().await;
    for _ in 0..2 {
        let mut early = manager.client();
        early.write_all(TOKEN.as_bytes()).unwrap();
        let service = manager.start("", None);
        let mut reply = String::new();
        early.read_to_string(&mut reply).unwrap();
        assert_eq!(status_of(&reply), 200, "{reply}");
        service.end();
        // It is systemd's: the next client waits in it for the next start.
        assert!(manager.path("run/auth.sock").exists());
    }
    assert_eq!(manager.scene.concur.token_requests(), 1);
    // Without $XDG_RUNTIME_DIR and --socket there was no other socket, so there is no lock of one.
    assert_eq!(fs::read_dir(manager.path("run")).unwrap().count(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_loopback_listener_of_the_service_manager_needs_the_key() {
    let manager = Manager::new().await;
    let bound = |address: &str| TcpListener::bind((address, 0)).unwrap();
    let key = manager.path("lib/concur-auth/key");
    let with_key = format!("--key-file {}", key.display());

    let (listener, address) = {
        let listener = bound("127.0.0.1");
        let address = listener.local_addr().unwrap();
        (listener, address)
    };
    let service = manager.start(&with_key, Some(listener));
    manager.told("READY=1");
    let key = fs::read_to_string(key).unwrap();
    let request = |key: &str| {
        let head = format!("GET /token HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n");
        status_of(&raw(
            TcpStream::connect(address).unwrap(),
            &format!("{head}Authorization: Bearer {key}\r\n\r\n"),
        ))
    };
    assert_eq!((request(key.trim()), request("another-key-of-16")), (200, 401));
    assert_eq!(status_of(&manager.token()), 200);
    service.end();

    for (listener, arguments, why) in [
        (bound("127.0.0.1"), "", "add --key-file FILE"),
        (bound("0.0.0.0"), &*with_key, "can be reached from other machines"),
    ] {
        let (code, said) = manager.start(arguments, Some(listener)).ended();
        assert!(code == Some(64) && said.contains(why), "{code:?}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_service_manager_is_told_that_it_serves_how_it_is_and_that_it_ends() {
    let manager = Manager::new().await;
    let service = manager.start("", None);
    let ready = manager.told("READY=1").pop();
    assert_eq!(ready.as_deref(), Some("STATUS=serving tokens\nREADY=1\n"));
    // A client may come before the program looks by itself whether there is something to do.
    assert_eq!(status_of(&manager.token()), 200);
    let status = manager.told("access token valid until ").pop().unwrap();
    assert!(
        status.starts_with(&format!("STATUS=company {}: refresh token ", manager.scene.company())),
        "{status}"
    );
    service.terminate();
    manager.told("STOPPING=1");
    assert_eq!(service.ended().0, Some(0));

    // It is ready without a token, too: clients get an answer, and the status says what is wrong.
    fs::remove_file(manager.path("lib/concur-auth/refreshTokenObjectFile.json")).unwrap();
    manager.scene.concur.set_fault(Fault::code(14));
    let service = manager.start("", None);
    manager.told("READY=1");
    assert_eq!(status_of(&manager.token()), 503);
    manager.told("code 14");
    service.end();
}

/// Without socket activation, as a sidecar.
#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_is_ready_listens_on_a_socket_of_its_own() {
    let manager = Manager::new().await;
    let own = manager.path("lib/concur-auth/own.sock");
    let program = manager.path("concur-auth");
    let [program, own_path, state] =
        [&program, &own, &manager.path("lib/concur-auth")].map(|it| it.to_str().unwrap().to_owned());
    let arguments = [program, "serve".into(), "--socket".into(), own_path, "--dir".into(), state];
    let service = manager.run(&arguments, "0", None, None);
    manager.told("READY=1");
    assert_eq!(status_of(&raw(UnixStream::connect(&own).unwrap(), TOKEN)), 200);
    service.end();
    assert!(!own.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_and_sealing_keys_are_those_of_the_service_manager() {
    let manager = Manager::new().await;
    let key = SealingKeys::generate("2026-11").unwrap();
    fs::write(manager.path("credentials/sealing-keys"), key).unwrap();
    let service = manager.start("", None);
    let reply = manager.token();
    assert_eq!(status_of(&reply), 200, "{reply}");
    let token = json_of(&reply)["access_token"].as_str().unwrap().to_owned();
    let stored = fs::read_to_string(manager.path("lib/concur-auth/refreshTokenObjectFile.json")).unwrap();
    assert!(stored.contains("2026-11") && !stored.contains(&token), "{stored}");
    // The program did not make a blank one, and has left those as they were.
    assert!(!manager.path("lib/concur-auth/credentials.json").exists());
    assert_eq!(fs::read_dir(manager.path("credentials")).unwrap().count(), 2);
    service.end();

    // Without the key that the file was sealed with there is no token, and no other is obtained.
    fs::remove_file(manager.path("credentials/sealing-keys")).unwrap();
    let service = manager.start("", None);
    let reply = manager.token();
    assert!(status_of(&reply) == 503 && reply.contains("2026-11"), "{reply}");
    assert_eq!(manager.scene.concur.token_requests(), 1);
    service.end();
}

/// As a mounted Secret of Kubernetes changes: its folder stays, and the file is another one.
#[tokio::test(flavor = "multi_thread")]
async fn changed_credentials_are_used_without_a_restart() {
    let manager = Manager::new().await;
    let file = manager.path("credentials/credentials.json");
    let good = fs::read_to_string(&file).unwrap();
    fs::write(&file, "{}").unwrap();
    let service = manager.start("", None);
    let reply = manager.token();
    assert!(status_of(&reply) == 503 && json_of(&reply)["person_needed"] == true, "{reply}");
    let unfinished = manager.path("unfinished");
    fs::write(&unfinished, good).unwrap();
    chown(&unfinished, manager.user, manager.user).unwrap();
    fs::rename(unfinished, file).unwrap();
    let reply = manager.token();
    assert_eq!(status_of(&reply), 200, "{reply}");
    service.end();
}

/// A group may read a mounted Secret, because root owns it. No administrator can change that.
#[tokio::test]
async fn doctor_accepts_the_modes_that_the_service_manager_gives_to_credentials() {
    let scene = Scene::new().await;
    let file = scene.path("credentials/credentials.json");
    fs::create_dir(scene.path("credentials")).unwrap();
    fs::rename(scene.path("credentials.json"), &file).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o440)).unwrap();
    let run = |command: &str| {
        let mut command = scene.command(&[command]);
        Ran::of(command.env("CREDENTIALS_DIRECTORY", scene.path("credentials")).output().unwrap()).ok()
    };
    run("refresh-token");
    assert_eq!(run("doctor"), "nothing found\n");
}

/// An API call that has reached a data centre of the test's own, and its client.
fn in_flight(manager: &Manager, data_centre: &TcpListener) -> (TcpStream, JoinHandle<String>) {
    let (client, call) = (manager.client(), TOKEN.replace("/token", "/api/expense/v4/reports"));
    let client = std::thread::spawn(move || raw(client, &call));
    data_centre.set_nonblocking(true).unwrap();
    let mut concur = soon(|| data_centre.accept().ok()).0;
    concur.set_nonblocking(false).unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        concur.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    assert!(head.starts_with(b"GET /expense/v4/reports HTTP/1.1\r\n"));
    (concur, client)
}

/// The listener of a data centre, which new tokens name.
fn data_centre(manager: &Manager) -> TcpListener {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let uri = format!("\"http://{}\"", listener.local_addr().unwrap());
    manager.scene.concur.set_reply_member("geolocation", Some(&uri));
    listener
}

#[tokio::test(flavor = "multi_thread")]
async fn at_sigterm_an_api_call_in_flight_is_finished() {
    let manager = Manager::new().await;
    let data_centre = data_centre(&manager);
    let service = manager.start("", None);
    assert_eq!(status_of(&manager.token()), 200);
    let (mut concur, client) = in_flight(&manager, &data_centre);
    concur.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfirst").unwrap();
    service.terminate();
    manager.told("STOPPING=1");
    concur.write_all(b"then ").unwrap();
    let reply = client.join().unwrap();
    assert!(status_of(&reply) == 200 && reply.ends_with("\r\n\r\nfirstthen "), "{reply}");
    assert_eq!(service.ended(), (Some(0), String::new()));
}

#[tokio::test(flavor = "multi_thread")]
async fn at_sigterm_a_client_that_waits_for_a_sign_in_gets_its_token() {
    let manager = Manager::new().await;
    let held = manager.scene.concur.hold_replies();
    let service = manager.start("", None);
    let client = manager.client();
    let client = std::thread::spawn(move || raw(client, TOKEN));
    soon(|| (manager.scene.concur.token_requests() > 0).then_some(()));
    service.terminate();
    manager.told("STOPPING=1");
    held.release();
    let reply = client.join().unwrap();
    assert_eq!(status_of(&reply), 200, "{reply}");
    assert_eq!(service.ended(), (Some(0), String::new()));
    assert!(manager.path("lib/concur-auth/refreshTokenObjectFile.json").exists());
}

/// systemd would kill the program at the unit's time-out, and a token that is not saved yet would be lost.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_does_not_end_delays_the_end_by_less_than_the_units_time_out() {
    let manager = Manager::new().await;
    let data_centre = data_centre(&manager);
    let service = manager.start("", None);
    assert_eq!(status_of(&manager.token()), 200);
    let (concur, client) = in_flight(&manager, &data_centre);
    let started = SystemClock.now();
    service.terminate();
    assert_eq!(service.ended(), (Some(0), String::new()));
    let taken = SystemClock.now().duration_since(started).unwrap();
    let [limit] = &files::unit("systemd/concur-auth.service")["TimeoutStopSec"][..] else {
        panic!("one limit")
    };
    let limit = Duration::from_secs(limit.strip_suffix('s').unwrap().parse().unwrap());
    assert!(taken < limit, "{taken:?}");
    drop(concur);
    assert_eq!(client.join().unwrap(), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_users_of_the_list_are_let_in() {
    let mut manager = Manager::new().await;
    if manager.user.is_none() {
        return skip::skip("only root can start programs as two other users");
    }
    let stranger = NOBODY - 1;
    let ask = |manager: &Manager| {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--max-time", "60", "--unix-socket"]).arg(manager.path("run/auth.sock"));
        curl.args(["--write-out", "%{http_code}", "--output", "/dev/null", "http://localhost/token"]);
        let output = curl.uid(stranger).gid(stranger).current_dir("/").output();
        output.ok().map(|output| String::from_utf8(output.stdout).unwrap())
    };
    let service = manager.start("", None);
    manager.told("READY=1");
    let Some(turned_away) = ask(&manager) else { return skip::skip("there is no curl") };
    // Root, and the service's own user.
    assert_eq!((&*turned_away, status_of(&manager.token())), ("000", 200));
    service.terminate();
    let (code, said) = service.ended();
    assert!(
        code == Some(0) && said.contains(&format!("user {stranger} was turned away; --allow-uid")),
        "{said}"
    );
    let service = manager.start(&format!("--allow-uid {stranger}"), None);
    assert_eq!(ask(&manager).unwrap(), "200");
    service.end();
    // A service of root's would prove nothing.
    assert!(manager.user.take().is_some_and(|user| user != 0));
}

/// The system calls of groups of systemd's, which may name other groups.
fn system_calls(groups: &str) -> Option<Vec<String>> {
    let mut calls = Vec::new();
    for group in groups.split(' ') {
        let output = Command::new("systemd-analyze").args(["syscall-filter", group]).output().ok()?;
        let lines = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success() && !lines.is_empty(), "{group}");
        for name in lines.lines().skip(1).map(str::trim).filter(|line| !line.starts_with('#')) {
            match name.starts_with('@') {
                true => calls.extend(system_calls(name)?),
                false => calls.push(name.to_owned()),
            }
        }
    }
    Some(calls)
}

/// All that the program does from its start to its end, while it signs in and forwards an API call.
#[tokio::test(flavor = "multi_thread")]
async fn the_units_restrictions_allow_all_that_the_program_does() {
    let unit = files::unit("systemd/concur-auth.service");
    let [allowed, refused] = &unit["SystemCallFilter"][..] else { panic!("two lines") };
    let (allowed, refused) = (system_calls(allowed), system_calls(refused.strip_prefix('~').unwrap()));
    let (Some(allowed), Some(refused)) = (allowed, refused) else {
        return skip::skip("there is no systemd-analyze");
    };
    if Command::new("strace").arg("--version").output().is_err() {
        return skip::skip("there is no strace");
    }

    let manager = Manager::new().await;
    let trace = manager.path("lib/concur-auth/trace");
    // Detached: systemd's listeners are for the process that it has started.
    let traced = ["strace", "-D", "-f", "-o", trace.to_str().unwrap()].map(str::to_owned);
    let service =
        manager.run(&[&traced[..], &manager.command_line("")].concat(), "1", Some(manager.socket()), None);
    assert_eq!(status_of(&manager.token()), 200);
    let call = TOKEN.replace("/token", "/api/profile/identity/v4/Users");
    assert_eq!(status_of(&raw(manager.client(), &call)), 200);
    let process = service.0.id().to_string();
    service.end();
    let trace = soon(|| {
        let text = fs::read_to_string(&trace).unwrap();
        // The process ends after all its threads.
        let is_end = |line: &str| line.starts_with(&process) && line.contains("+++ exited");
        text.lines().last().is_some_and(is_end).then_some(text)
    });

    let families: Vec<_> = unit["RestrictAddressFamilies"][0].split(' ').collect();
    let mut sockets = 0;
    for line in trace.lines() {
        let call = line.trim_start_matches(|c: char| c.is_ascii_digit()).trim_start();
        let Some((name, arguments)) = call.split_once('(') else { continue };
        let is_name = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        let is_in = |list: &[String]| list.iter().any(|it| it == name);
        assert!(!is_name || is_in(&allowed) && !is_in(&refused), "{line}");
        let is_code = arguments.contains("PROT_EXEC");
        assert!(name != "mmap" || !(is_code && arguments.contains("PROT_WRITE")), "{line}");
        assert!(!name.ends_with("mprotect") || !is_code, "{line}");
        if name == "socket" {
            assert!(families.iter().any(|family| arguments.starts_with(&format!("{family},"))), "{line}");
            sockets += 1;
        }
    }
    assert!(sockets > 0, "{trace}");
}
