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
    time::Duration,
};

use concur_auth::{Clock as _, SealingKeys, SystemClock, simulator::Fault};

use self::scene::{Scene, json_of, raw, status_of};

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
        fs::copy(env!("CARGO_BIN_EXE_concur-auth"), scene.path("concur-auth")).unwrap();
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
        let mut arguments = files::exec_start(self.path("lib").to_str().unwrap(), clients);
        arguments[0] = self.path("concur-auth").to_str().unwrap().to_owned();
        self.run(&arguments, listeners, Some(self.socket.try_clone().unwrap()), loopback)
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

    fn client(&self) -> UnixStream {
        UnixStream::connect(self.path("run/auth.sock")).unwrap()
    }

    fn token(&self) -> String {
        raw(self.client(), TOKEN)
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
    assert_eq!(manager.told("READY=1"), ["STATUS=serving tokens\nREADY=1\n"]);
    let all = manager.told("access token valid until ").join("");
    assert!(all.contains(&format!("STATUS=company {}: refresh token ", manager.scene.company())), "{all}");
    service.terminate();
    manager.told("STOPPING=1");
    assert_eq!(service.ended().0, Some(0));

    // Whether or not there is a token, clients get an answer; and the status says what is wrong.
    fs::remove_file(manager.path("lib/concur-auth/refreshTokenObjectFile.json")).unwrap();
    manager.scene.concur.set_fault(Fault::code(14));
    let service = manager.start("", None);
    let all = manager.told("code 14").join("");
    assert!(all.contains("READY=1"), "{all}");
    assert_eq!(status_of(&manager.token()), 503);
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

/// An API call whose reply does not come, and its client.
async fn in_flight(manager: &Manager) -> std::thread::JoinHandle<String> {
    assert_eq!(status_of(&manager.token()), 200);
    let call = TOKEN.replace("/token", "/api/expense/v4/reports");
    let client = manager.client();
    let client = std::thread::spawn(move || raw(client, &call));
    let has_arrived = || manager.scene.concur.requests().iter().any(|it| it.path() == "/expense/v4/reports");
    let started = SystemClock.now();
    while !has_arrived() {
        assert!(SystemClock.now().duration_since(started).unwrap() < DEADLINE);
        std::thread::yield_now();
    }
    client
}

#[tokio::test(flavor = "multi_thread")]
async fn at_sigterm_a_request_in_flight_is_finished() {
    let manager = Manager::new().await;
    manager.scene.concur.mount("GET", "/expense/v4/reports", r#"{"it": "came"}"#);
    let service = manager.start("", None);
    manager.token();
    let held = manager.scene.concur.hold_replies();
    let client = in_flight(&manager).await;
    service.terminate();
    manager.told("STOPPING=1");
    held.release();
    let reply = client.join().unwrap();
    assert!(status_of(&reply) == 200 && reply.ends_with(r#"{"it":"came"}"#), "{reply}");
    assert_eq!(service.ended(), (Some(0), String::new()));
}

/// The unit's time-out is never reached: systemd would kill the program then, and a token that is not saved yet would be lost.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_does_not_end_delays_the_end_by_less_than_the_units_time_out() {
    let manager = Manager::new().await;
    let service = manager.start("", None);
    manager.token();
    let held = manager.scene.concur.hold_replies();
    let client = in_flight(&manager).await;
    let started = SystemClock.now();
    service.terminate();
    assert_eq!(service.ended(), (Some(0), String::new()));
    let taken = SystemClock.now().duration_since(started).unwrap();
    let [time_out] = &files::unit("systemd/concur-auth.service")["TimeoutStopSec"][..] else { panic!() };
    let time_out = Duration::from_secs(time_out.trim_end_matches('s').parse().unwrap());
    assert!(taken < time_out, "{taken:?}");
    drop(held);
    client.join().unwrap();
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
