//! The program `concur-auth`: each command, run as a shell runs it, against a simulated Concur.

#![cfg(all(feature = "cli", feature = "simulator", unix))]

#[allow(unreachable_pub, reason = "other tests export it")]
#[path = "support/skip.rs"]
mod skip;

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    os::unix::{fs::PermissionsExt as _, net::UnixStream},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
};

use concur_auth::{
    Clock as _, SystemClock,
    simulator::{ConcurSimulator, Fault},
};
use serde_json::Value;

/// A folder for the program, and a Concur.
struct Scene {
    concur: ConcurSimulator,
    dir: tempfile::TempDir,
}

impl Scene {
    async fn new() -> Self {
        let scene = Self { concur: ConcurSimulator::start().await, dir: tempfile::tempdir().unwrap() };
        scene.write("credentials.json", &scene.concur.credentials_json());
        scene
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(0o600)).unwrap();
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_concur-auth"));
        for name in [
            "CONCUR_APP_ID",
            "CONCUR_CLIENT_SECRET",
            "CONCUR_AUTH_DIR",
            "CONCUR_AUTH_FLEET",
            "XDG_RUNTIME_DIR",
        ] {
            command.env_remove(name);
        }
        command.args(arguments).current_dir(self.dir.path()).env("CONCUR_BASE_URI", self.concur.base_uri());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn run(&self, arguments: &[&str]) -> Ran {
        Ran::of(self.command(arguments).output().unwrap())
    }

    fn run_with(&self, arguments: &[&str], input: &str) -> Ran {
        let mut child = self.command(arguments).stdin(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        Ran::of(child.wait_with_output().unwrap())
    }

    fn change_stored(&self, member: &str, value: i64) {
        let text = fs::read_to_string(self.path("refreshTokenObjectFile.json")).unwrap();
        let mut stored: Value = serde_json::from_str(&text).unwrap();
        stored[member] = value.into();
        self.write("refreshTokenObjectFile.json", &stored.to_string());
    }

    fn company(&self) -> String {
        self.concur.company_uuid()
    }

    fn request_token(&self) -> String {
        let credentials: Value = serde_json::from_str(&self.concur.credentials_json()).unwrap();
        credentials["companyRequestToken"].as_str().unwrap().to_owned()
    }
}

/// In so many seconds, as a Unix time.
fn time_in(seconds: i64) -> i64 {
    concur_auth::time::OffsetDateTime::from(SystemClock.now()).unix_timestamp() + seconds
}

/// What came of a run.
#[derive(Debug)]
struct Ran {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Ran {
    fn of(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Self { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }

    #[track_caller]
    fn ok(self) -> String {
        assert_eq!((self.code, self.err.as_str()), (Some(0), ""), "{self:?}");
        self.out
    }

    #[track_caller]
    fn failed(self, code: i32, with: &str) {
        assert!(self.code == Some(code) && self.err.contains(with) && self.out.is_empty(), "{self:?}");
    }
}

#[tokio::test]
async fn init_without_a_terminal_writes_the_template_and_asks_for_a_person() {
    let scene = Scene::new().await;
    let ran = scene.run(&["init", "--dir", "new/place"]);
    assert_eq!(ran.code, Some(2), "{ran:?}");
    assert!(ran.out.contains("fill in appID and clientSecret"), "{ran:?}");
    let template = fs::read_to_string(scene.path("new/place/credentials.json")).unwrap();
    assert!(template.contains(r#""appID": """#));
    // Once it is filled in, nothing is asked for.
    scene.write("new/place/credentials.json", &scene.concur.credentials_json());
    assert!(scene.run(&["init", "--dir", "new/place"]).ok().contains("concur-auth refresh-token"));
}

/// What a person sees who answers like this; `None` is Ctrl-C. `None` also where there is no Python to play the person.
fn on_a_terminal(scene: &Scene, answers: &[(&str, Option<&str>)]) -> Option<Value> {
    if Command::new("python3").arg("--version").output().is_err() {
        skip::skip("there is no python3");
        return None;
    }
    let person = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cli/terminal.py");
    let mut child = Command::new("python3")
        .arg(person)
        .arg(scene.dir.path())
        .args([env!("CARGO_BIN_EXE_concur-auth"), "init"])
        .env_remove("CONCUR_BASE_URI")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(serde_json::to_string(answers).unwrap().as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    Some(serde_json::from_slice(&output.stdout).unwrap())
}

#[tokio::test]
async fn a_person_signs_in_on_a_terminal_at_the_second_attempt() {
    let scene = Scene::new().await;
    let credentials = fs::read_to_string(scene.path("credentials.json")).unwrap();
    let credentials: Value = serde_json::from_str(&credentials).unwrap();
    let member = |name: &str| credentials[name].as_str().unwrap();
    let base = scene.concur.base_uri();
    let first = [
        ("App ID", Some(member("appID"))),
        ("Client secret (not shown)", Some(member("clientSecret"))),
        ("a company or a user?", Some("")),
        ("Company UUID", Some(member("companyUUID"))),
        ("not shown)", Some("at-wrong")),
        ("Base URI", Some(&*base)),
    ];
    // What exists is not overwritten.
    let Some(refused) = on_a_terminal(&scene, &[]) else { return };
    assert!(
        refused["seen"].as_str().unwrap().contains("credentials.json exists and is not overwritten"),
        "{refused}"
    );
    fs::remove_file(scene.path("credentials.json")).unwrap();

    // Ctrl-C while a secret is typed: nothing is written, and the terminal shows again what is typed.
    let interrupted = on_a_terminal(&scene, &[&first[..4], &[("not shown)", None)]].concat()).unwrap();
    assert_eq!(
        (&interrupted["code"], &interrupted["has_echo"]),
        (&130.into(), &true.into()),
        "{interrupted}"
    );
    assert_eq!(fs::read_dir(scene.dir.path()).unwrap().count(), 0);

    let second = [
        ("Try again", Some("")),
        ("not shown)", Some("")),
        ("a company or a user?", Some("")),
        ("Company UUID", Some("")),
        ("not shown)", Some(member("companyRequestToken"))),
        ("Base URI", Some("")),
    ];
    let signed_in = on_a_terminal(&scene, &[first, second].concat()).unwrap();
    let seen = signed_in["seen"].as_str().unwrap();
    assert!(signed_in["code"] == 0 && seen.contains("Signed in, company "), "{seen}");
    for secret in ["clientSecret", "companyRequestToken"] {
        assert!(!seen.contains(member(secret)), "{seen}");
    }
    assert_eq!(scene.concur.token_requests(), 2);
    let mode = fs::metadata(scene.path("credentials.json")).unwrap().permissions().mode() & 0o777;
    let written: Value =
        serde_json::from_str(&fs::read_to_string(scene.path("credentials.json")).unwrap()).unwrap();
    assert_eq!((mode, &written["companyRequestToken"]), (0o600, &"".into()));
    scene.run(&["access-token"]).ok();
    assert_eq!(scene.concur.token_requests(), 2);
}

#[tokio::test]
async fn access_token_prints_each_format_and_nothing_else() {
    let scene = Scene::new().await;
    let token = scene.run(&["access-token"]).ok();
    let token = token.strip_suffix('\n').unwrap();
    assert!(scene.concur.is_live_access(token));
    let json: Value = serde_json::from_str(&scene.run(&["access-token", "--format", "json"]).ok()).unwrap();
    assert_eq!((json["access_token"].as_str(), json["token_type"].as_str()), (Some(token), Some("Bearer")));
    assert!((3500..=3600).contains(&json["expires_in"].as_i64().unwrap()), "{json}");
    assert_eq!(json["geolocation"], format!("{}/", scene.concur.base_uri().trim_end_matches('/')));
    let header = scene.run(&["access-token", "--format", "header"]).ok();
    assert_eq!(header, format!("Authorization: Bearer {token}\n"));
    let script = scene.run(&["access-token", "--format", "env"]).ok() + "printf %s \"$CONCUR_ACCESS_TOKEN\"";
    let shell = Command::new("sh").args(["-c", &script]).output().unwrap();
    assert_eq!(shell.stdout, token.as_bytes());
    assert_eq!(scene.concur.token_requests(), 1);
    // A token that was issued just now counts, even if no token lives so long.
    assert_eq!(scene.run(&["access-token", "--min-validity", "7200"]).ok().trim(), token);
    scene.change_stored("accessTokenExpiresAt", time_in(600));
    assert_eq!(scene.run(&["access-token", "--min-validity", "500"]).ok().trim(), token);
    assert_eq!(scene.concur.token_requests(), 1);
    let other = scene.run(&["access-token", "--min-validity", "700"]).ok();
    assert!(other.trim() != token && scene.concur.token_requests() == 2);
    scene.change_stored("accessTokenExpiresAt", time_in(600));
    scene.concur.set_fault(Fault::code(14));
    scene.run(&["access-token", "--min-validity", "700"]).failed(1, "not the 700 s asked for");
}

#[tokio::test]
async fn thirty_programs_at_once_send_one_request() {
    let scene = Scene::new().await;
    let children: Vec<_> = (0..30).map(|_| scene.command(&["access-token"]).spawn().unwrap()).collect();
    let tokens: Vec<_> =
        children.into_iter().map(|child| Ran::of(child.wait_with_output().unwrap()).ok()).collect();
    assert!(tokens.iter().all(|token| *token == tokens[0]));
    assert_eq!(scene.concur.token_requests(), 1);
}

#[tokio::test]
async fn an_expired_token_is_never_printed() {
    let scene = Scene::new().await;
    let first = scene.run(&["access-token"]).ok();
    scene.change_stored("accessTokenExpiresAt", 1_000_000_000);
    scene.concur.set_fault(Fault::code(14));
    scene.run(&["access-token"]).failed(1, "code 14");
    scene.concur.clear_faults();
    // A refusal is remembered, and a person can end that.
    let before = scene.concur.token_requests();
    scene.run(&["renew"]).failed(1, "code 14");
    assert_eq!(scene.concur.token_requests(), before);
    assert!(scene.run(&["renew", "--now"]).ok().contains("the refresh token is valid until"));
    assert_ne!(scene.run(&["access-token"]).ok(), first);
}

#[tokio::test]
async fn refresh_token_is_the_tutorials_program() {
    let scene = Scene::new().await;
    let said = scene.run(&["refresh-token"]).ok();
    assert!(said.starts_with("There is a valid refresh token (obtained).\n  company:     "), "{said}");
    assert!(scene.run(&["refresh-token"]).ok().starts_with("There is a valid refresh token (stored)."));
    let shown = scene.run(&["refresh-token", "--show"]).ok();
    let stored = fs::read_to_string(scene.path("refreshTokenObjectFile.json")).unwrap();
    assert!(stored.contains(shown.trim()) && !said.contains(shown.trim()));
}

#[tokio::test]
async fn status_sends_nothing_and_says_who_must_act() {
    let scene = Scene::new().await;
    assert!(scene.run(&["status"]).ok().contains("refresh token  none"));
    scene.run(&["access-token"]).ok();
    let status: Value = serde_json::from_str(&scene.run(&["status", "--json"]).ok()).unwrap();
    assert_eq!(
        (status["health"].as_str(), status["company_uuid"].as_str()),
        (Some("healthy"), Some(&*scene.company()))
    );
    assert_eq!((&status["refresh_token_valid"], &status["access_token_valid"]), (&true.into(), &true.into()));
    scene.concur.set_fault(Fault::code(14));
    scene.run(&["renew"]).failed(1, "code 14");
    let sent = scene.concur.token_requests();
    let ran = scene.run(&["status", "--json"]);
    let status: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!((ran.code, status["health"].as_str()), (Some(2), Some("person_needed")));
    assert_eq!(
        (&status["last_error"]["kind"], &status["last_error"]["code"]),
        (&"refused".into(), &14.into())
    );
    let table = scene.run(&["status"]);
    assert!(
        table.code == Some(2) && table.out.starts_with("health         a person must act\n"),
        "{table:?}"
    );
    assert_eq!(scene.concur.token_requests(), sent);
}

#[tokio::test]
async fn exec_becomes_the_command_or_runs_nothing() {
    let scene = Scene::new().await;
    let script = r#"printf '%s %s %s' "$CONCUR_ACCESS_TOKEN" "$CONCUR_GEOLOCATION" "$CONCUR_TOKEN_EXPIRES_AT"; exit 7"#;
    let ran = scene.run(&["exec", "--", "sh", "-c", script]);
    let parts: Vec<_> = ran.out.split(' ').collect();
    assert!(
        ran.code == Some(7) && scene.concur.is_live_access(parts[0]) && parts[2].ends_with('Z'),
        "{ran:?}"
    );
    scene.run(&["exec", "--", "no-such-program"]).failed(1, "could not run no-such-program");
    scene.write("credentials.json", "{}");
    fs::remove_file(scene.path("refreshTokenObjectFile.json")).unwrap();
    scene.run(&["exec", "--", "touch", "it-ran"]).failed(2, "credentials.json");
    assert!(!scene.path("it-ran").exists());
}

#[tokio::test]
async fn adopt_takes_a_token_over_and_revoke_ends_it() {
    let scene = Scene::new().await;
    scene.write("old.json", &scene.concur.token_json());
    assert!(scene.run(&["adopt", "old.json"]).ok().contains("the refresh token is valid until"));
    let input = scene.concur.token_json();
    assert!(scene.run_with(&["adopt", "-"], &input).ok().contains(&scene.company()));
    assert_eq!(scene.concur.token_requests(), 0);
    scene.run(&["adopt", "none.json"]).failed(1, "none.json");
    scene.run(&["revoke"]).failed(64, "add --yes");
    assert!(scene.run(&["revoke", "--yes"]).ok().starts_with("Revoked all refresh tokens of "));
    assert!(!scene.path("refreshTokenObjectFile.json").exists());
}

#[tokio::test]
async fn wrong_usage_has_a_code_of_its_own() {
    let scene = Scene::new().await;
    let cases: [&[&str]; 9] = [
        &[],
        &["bogus"],
        &["access-token", "--min-validity", "soon"],
        &["access-token", "--format", "xml"],
        &["status", "--company", "b3f4e2a0-0000-4000-8000-000000000000"],
        &["status", "--fleet", "tokens"],
        &["fleet", "list"],
        &["serve", "--listen", "127.0.0.1:0"],
        &["serve"],
    ];
    for arguments in cases {
        let ran = scene.run(arguments);
        assert!(ran.code == Some(64) && ran.out.is_empty() && !ran.err.is_empty(), "{arguments:?}: {ran:?}");
    }
    scene
        .run(&["serve", "--listen", "0.0.0.0:0", "--key-file", "key"])
        .failed(64, "can be reached from other machines");
    for arguments in
        [&["--help"][..], &["--version"], &["access-token", "--help"], &["fleet", "work", "--help"]]
    {
        assert!(!scene.run(arguments).ok().is_empty());
    }
    for shell in ["bash", "zsh", "fish"] {
        assert!(scene.run(&["completions", shell]).ok().contains("access-token"));
    }
}

#[tokio::test]
async fn a_reader_that_goes_away_or_a_full_output_is_no_panic() {
    let scene = Scene::new().await;
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let ran = Ran::of(scene.command(&["access-token"]).stdout(full).output().unwrap());
    ran.failed(1, "could not write to standard output");
    // The token is saved all the same.
    scene.run(&["access-token"]).ok();
    assert_eq!(scene.concur.token_requests(), 1);
}

#[tokio::test]
async fn a_signal_brings_a_renewal_to_its_end() {
    let scene = Scene::new().await;
    let held = scene.concur.hold_replies();
    let mut child = scene.command(&["-v", "access-token"]).spawn().unwrap();
    let mut said = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    said.find(|line| line.contains("token request sent")).unwrap();
    Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
    // The program has heard of it when it says so.
    said.find(|line| line.contains("waiting for a renewal under way")).unwrap();
    held.release();
    assert_eq!(child.wait().unwrap().code(), Some(143));
    scene.run(&["access-token"]).ok();
    assert_eq!(scene.concur.token_requests(), 1);
}

#[tokio::test]
async fn doctor_names_what_could_stop_renewals() {
    let scene = Scene::new().await;
    scene.run(&["refresh-token"]).ok();
    assert_eq!(scene.run(&["doctor"]).ok(), "nothing found\n");
    let sent = scene.concur.token_requests();
    let found = |what: &str| {
        let ran = scene.run(&["doctor"]);
        assert!(ran.code == Some(1) && ran.out.contains(what), "{what}: {ran:?}");
    };
    let mode =
        |name: &str, mode| fs::set_permissions(scene.path(name), fs::Permissions::from_mode(mode)).unwrap();
    mode("credentials.json", 0o644);
    found("credentials.json has mode 0644");
    mode("credentials.json", 0o600);
    mode("refreshTokenObjectFile.json", 0o640);
    found("refreshTokenObjectFile.json has mode 0640");
    scene.write("refreshTokenObjectFile.json", "{");
    found("refreshTokenObjectFile.json");
    fs::remove_file(scene.path("refreshTokenObjectFile.json")).unwrap();
    found("there is no refresh token");
    fs::remove_file(scene.path("credentials.json")).unwrap();
    found("credentials.json is missing; run: concur-auth init");
    assert!(!scene.path("credentials.json").exists());
    let ran = scene.run(&["doctor", "--base-uri", "http://127.0.0.1:1"]);
    assert!(ran.code == Some(1) && ran.out.contains("http://127.0.0.1:1 cannot be reached"), "{ran:?}");
    assert_eq!(scene.concur.token_requests(), sent);
}

#[tokio::test]
async fn a_fleet_is_filled_listed_renewed_and_emptied() {
    let scene = Scene::new().await;
    let company = scene.company();
    let fleet = |arguments: &[&str]| scene.run(&[&["--fleet", "tokens"], arguments].concat());
    assert_eq!(fleet(&["fleet", "migrate"]).ok(), "nothing to do for a folder\n");
    fleet(&["fleet", "connect", &company]).failed(64, "request token");
    let connected =
        scene.run_with(&["--fleet", "tokens", "fleet", "connect", &company], &scene.request_token());
    assert!(connected.ok().contains("the refresh token is valid until"));
    let list = fleet(&["fleet", "list", "--json"]).ok();
    let member: Value = serde_json::from_str(&list).unwrap();
    assert_eq!((member["company"].as_str(), member["state"].as_str()), (Some(&*company), Some("active")));
    assert_eq!((&member["unsaved"], &member["last_error"]), (&false.into(), &Value::Null));
    assert!(fleet(&["fleet", "list"]).ok().contains("active"));
    assert_eq!(fleet(&["fleet", "list", "--json", "--needs-person"]).ok(), "");
    assert_eq!(fleet(&["fleet", "list", "--json", "--lapsing", "30"]).ok(), "");
    assert_eq!(fleet(&["fleet", "list", "--json", "--lapsing", "300"]).ok(), list);
    assert!(fleet(&["fleet", "renew", &company]).ok().contains("valid until"));
    fleet(&["fleet", "renew", "b3f4e2a0-0000-4000-8000-000000000000"])
        .failed(1, "no company or user of this fleet");
    let token = fleet(&["--company", &company, "access-token"]).ok();
    assert!(scene.concur.is_live_access(token.trim()));
    // The environment may name the fleet, and a folder of one's own beats it.
    let by_variable =
        scene.command(&["fleet", "list", "--json"]).env("CONCUR_AUTH_FLEET", "tokens").output().unwrap();
    assert_eq!(Ran::of(by_variable).ok(), fleet(&["fleet", "list", "--json"]).ok());
    // To another fleet, and from single files.
    let imported = scene.run(&["--fleet", "other", "fleet", "import", "tokens"]).ok();
    assert_eq!(imported, "taken over: 1; there already: 0; refused: 0\n");
    let imported = scene.run(&["--fleet", "other", "fleet", "import", "tokens"]).ok();
    assert_eq!(imported, "taken over: 0; there already: 1; refused: 0\n");
    fleet(&["fleet", "disconnect", &company]).failed(64, "add --yes");
    fleet(&["fleet", "disconnect", "--yes", "--keep-at-concur", &company]).ok();
    scene.run(&["--fleet", "other", "fleet", "disconnect", "--yes", &company]).ok();
}

#[tokio::test]
async fn a_sealed_place_is_opened_with_its_keys_only() {
    let scene = Scene::new().await;
    let key = concur_auth::SealingKeys::generate("2026-11").unwrap();
    scene.write("keys", &key);
    let token = scene.run(&["--sealing-keys", "keys", "access-token"]).ok();
    let stored = fs::read_to_string(scene.path("refreshTokenObjectFile.json")).unwrap();
    assert!(!stored.contains(token.trim()) && stored.contains("2026-11"));
    scene.run(&["access-token"]).failed(1, "2026-11");
    let by_variable =
        scene.command(&["access-token"]).env("CONCUR_AUTH_SEALING_KEYS", &key).output().unwrap();
    assert_eq!(Ran::of(by_variable).ok(), token);
    let ran = scene.run(&["doctor"]);
    assert!(ran.out.contains("is sealed with the key \"2026-11\""), "{ran:?}");
    assert_eq!(scene.concur.token_requests(), 1);
}

/// A program that serves, until it is dropped.
struct Serving {
    child: Child,
    socket: PathBuf,
    address: String,
    key: String,
}

impl Serving {
    fn start(scene: &Scene, arguments: &[&str]) -> Self {
        let socket = scene.path("auth.sock");
        let all = ["serve", "--socket", "auth.sock", "--listen", "127.0.0.1:0", "--key-file", "key"];
        let mut child = scene.command(&[&all, arguments].concat()).spawn().unwrap();
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
    fn raw(&self, request: &str) -> String {
        raw(UnixStream::connect(&self.socket).unwrap(), request)
    }

    fn raw_over_loopback(&self, request: &str) -> String {
        raw(TcpStream::connect(&self.address).unwrap(), request)
    }

    fn get(&self, path: &str) -> String {
        self.raw(&format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"))
    }

    fn end(mut self) -> Option<i32> {
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

fn raw(mut connection: impl std::io::Read + std::io::Write, request: &str) -> String {
    // A refusal may come before all is written.
    let _ = connection.write_all(request.as_bytes());
    let mut reply = Vec::new();
    let _ = connection.read_to_end(&mut reply);
    String::from_utf8_lossy(&reply).into_owned()
}

fn status_of(reply: &str) -> u16 {
    reply.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or_else(|| panic!("{reply:?}"))
}

fn json_of(reply: &str) -> Value {
    serde_json::from_str(reply.split_once("\r\n\r\n").unwrap().1).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_endpoint_answers_on_a_socket_and_over_loopback() {
    let scene = Scene::new().await;
    let serving = Serving::start(&scene, &[]);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&serving.socket), mode(&scene.path("key"))), (0o600, 0o600));

    let reply = serving.get("/token?min_validity=600");
    assert!(status_of(&reply) == 200 && reply.contains("cache-control: no-store"), "{reply}");
    assert!(scene.concur.is_live_access(json_of(&reply)["access_token"].as_str().unwrap()));
    assert_eq!(json_of(&serving.get("/status"))["health"], "healthy");
    assert_eq!(status_of(&serving.get("/healthz")), 200);
    assert!(serving.get("/metrics").contains("concur_auth_renewals_total"));
    assert_eq!(status_of(&serving.get("/token?min_validity=soon")), 400);
    assert_eq!(status_of(&serving.get("/")), 404);
    let long = format!("GET /token HTTP/1.1\r\nHost: localhost\r\nLong: {}\r\n\r\n", "x".repeat(16 * 1024));
    assert_eq!(status_of(&serving.raw(&long)), 431);
    assert_eq!(status_of(&serving.get("/api/profile/identity/v4/Users")), 404);

    let over = |headers: &str| {
        status_of(
            &serving.raw_over_loopback(&format!("GET /token HTTP/1.1\r\nConnection: close\r\n{headers}\r\n")),
        )
    };
    let (host, key) =
        (format!("Host: {}\r\n", serving.address), format!("Authorization: Bearer {}\r\n", serving.key));
    assert_eq!(over(&format!("{host}{key}")), 200);
    assert_eq!(over(&host), 401);
    assert_eq!(over(&format!("{host}Authorization: Bearer {}0\r\n", &serving.key[1..])), 401);
    assert_eq!(over(&format!("{host}{key}Origin: https://evil.example\r\n")), 403);
    assert_eq!(over(&format!("Host: evil.example\r\n{key}")), 403);
    assert_eq!(over(&format!("{host}Host: evil.example\r\n{key}")), 403);
    assert_eq!(over(&key), 403);
    assert_eq!(scene.concur.token_requests(), 1);

    // A socket that answers is not taken over.
    scene.run(&["serve", "--socket", "auth.sock"]).failed(1, "another process listens on auth.sock");
    assert_eq!(status_of(&serving.get("/token")), 200);
    assert_eq!(serving.end(), Some(0));
    assert!(!scene.path("auth.sock").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_that_a_killed_process_left_is_taken_over() {
    let scene = Scene::new().await;
    drop(Serving::start(&scene, &[]));
    assert!(scene.path("auth.sock").exists());
    let serving = Serving::start(&scene, &[]);
    assert_eq!(status_of(&serving.get("/token")), 200);
    scene.write("file.sock", "");
    scene.run(&["serve", "--socket", "file.sock"]).failed(1, "file.sock");
    assert!(scene.path("file.sock").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_token_the_endpoint_says_why_and_when_to_ask_again() {
    let scene = Scene::new().await;
    scene.concur.set_fault(Fault::code(14));
    let serving = Serving::start(&scene, &["--proxy"]);
    for path in ["/token", "/api/profile/identity/v4/Users"] {
        let reply = serving.get(path);
        assert!(status_of(&reply) == 503 && reply.contains("retry-after: "), "{reply}");
        assert_eq!((&json_of(&reply)["kind"], &json_of(&reply)["code"]), (&"refused".into(), &14.into()));
    }
    assert_eq!(status_of(&serving.get("/healthz")), 503);
}

#[tokio::test(flavor = "multi_thread")]
async fn api_calls_are_forwarded_with_a_token_and_nothing_else_is() {
    let scene = Scene::new().await;
    scene.concur.mount("GET", "/expense/v4/a%2Fb~c", r#"{"it": "came"}"#);
    let serving = Serving::start(&scene, &["--proxy"]);
    let reply = serving.get("/api/profile/identity/v4/Users");
    assert!(status_of(&reply) == 200 && reply.contains("userName"), "{reply}");
    assert!(serving.get("/api/expense/v4/a%2Fb~c?x=%20y").contains("came"));

    for path in [
        "oauth2/v0/token",
        "OAuth2/v0/token",
        "oauth2;x=1/v0/token",
        "%6fauth2/v0/token",
        "%256fauth2/v0/token",
        "app-mgmt/v0/connections",
        "x/../oauth2/v0/token",
        "x/%2e%2e/oauth2",
        "x/%252e%252e/oauth2",
        "x/..;/oauth2",
        "/oauth2/v0/token",
        "x//y",
        "x/%2f/y",
        "x%5c..%5coauth2",
        ".",
    ] {
        let reply = serving.get(&format!("/api/{path}"));
        assert_eq!(status_of(&reply), 403, "{path}: {reply}");
    }
    for path in ["x/%zz", "x/%2", "x/{y}"] {
        assert_eq!(status_of(&serving.get(&format!("/api/{path}"))), 400, "{path}");
    }
    let head = "GET /api/profile/identity/v4/Users HTTP/1.1\r\nHost: localhost\r\nConnection: ";
    assert_eq!(status_of(&serving.raw(&format!("{head}upgrade\r\nUpgrade: websocket\r\n\r\n"))), 403);
    let absolute = "GET http://evil.example/token HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    assert_eq!(status_of(&serving.raw(absolute)), 400);
    // Two lengths, or a length and chunks: what one server takes for the end of a request another does not.
    for smuggled in
        ["Content-Length: 5\r\nContent-Length: 6\r\n", "Content-Length: 5\r\nTransfer-Encoding: gzip\r\n"]
    {
        let request =
            format!("POST /api/expense/v4/reports HTTP/1.1\r\nHost: localhost\r\n{smuggled}\r\nhello");
        assert_eq!(status_of(&serving.raw(&request)), 400, "{smuggled}");
    }
    assert_eq!(serving.end(), Some(0));
}

/// A body that is too long to be kept cannot be sent again: the client makes that call again.
#[tokio::test(flavor = "multi_thread")]
async fn after_a_401_a_call_is_repeated_if_its_body_is_small() {
    for (length, statuses) in [(1000, [200, 200]), (64 * 1024, [200, 200]), (64 * 1024 + 1, [401, 200])] {
        let scene = Scene::new().await;
        scene.concur.mount("POST", "/expense/v4/reports", r#"{"made": true}"#);
        let serving = Serving::start(&scene, &["--proxy"]);
        assert_eq!(status_of(&serving.get("/token")), 200);
        scene.concur.expire_access_tokens();
        let head = "POST /api/expense/v4/reports HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
                    Authorization: Bearer mine\r\n";
        let request = format!("{head}Content-Length: {length}\r\n\r\n{}", "x".repeat(length));
        let answered = [(); 2].map(|()| status_of(&serving.raw(&request)));
        assert_eq!((answered, scene.concur.token_requests()), (statuses, 2), "{length}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fleet_is_served_by_company() {
    let scene = Scene::new().await;
    let company = scene.company();
    scene.run_with(&["--fleet", "tokens", "fleet", "connect", &company], &scene.request_token()).ok();
    let serving = Serving::start(&scene, &["--fleet", "tokens", "--proxy"]);
    let token = json_of(&serving.get(&format!("/companies/{company}/token")));
    assert!(scene.concur.is_live_access(token["access_token"].as_str().unwrap()));
    assert_eq!(json_of(&serving.get("/companies"))[0]["company"], company);
    assert!(serving.get(&format!("/companies/{company}/api/profile/identity/v4/Users")).contains("userName"));
    assert_eq!(status_of(&serving.get(&format!("/companies/{company}/api/oauth2/v0/token"))), 403);
    assert_eq!(status_of(&serving.get("/companies/b3f4e2a0-0000-4000-8000-000000000000/token")), 404);
    assert_eq!(json_of(&serving.get("/healthz"))["active"], 1);
    assert_eq!(status_of(&serving.get("/token")), 404);
    assert_eq!(serving.end(), Some(0));
}

#[tokio::test]
async fn keep_alive_prints_each_change_and_ends_with_success() {
    let scene = Scene::new().await;
    let mut child = scene.command(&["keep-alive"]).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let line = lines.find(|line| line.as_ref().unwrap().contains("obtained")).unwrap().unwrap();
    assert!(line.starts_with("company "), "{line}");
    Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

/// Every command and route, at the most talkative level, in success and failure.
#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_printed_but_the_one_that_was_asked_for() {
    let scene = Scene::new().await;
    let credentials: Value = serde_json::from_str(&scene.concur.credentials_json()).unwrap();
    let mut secrets: Vec<String> = ["clientSecret", "companyRequestToken"]
        .iter()
        .map(|name| credentials[name].as_str().unwrap().to_owned())
        .collect();
    scene.run(&["refresh-token"]).ok();
    secrets.push(scene.run(&["refresh-token", "--show"]).ok().trim().to_owned());
    secrets.push(scene.run(&["access-token"]).ok().trim().to_owned());
    let check = |what: &str, text: &str| {
        for secret in &secrets {
            assert!(!text.contains(secret.as_str()), "{what} shows a secret: {text}");
        }
    };
    let commands: [&[&str]; 8] = [
        &["status"],
        &["status", "--json"],
        &["doctor"],
        &["refresh-token"],
        &["exec", "--", "true"],
        &["adopt", "refreshTokenObjectFile.json"],
        &["--fleet", "tokens", "fleet", "list"],
        &["fleet", "connect", "x", "--fleet", "tokens"],
    ];
    for command in commands {
        let ran = scene.run(&[&["-vv"], command].concat());
        check(&format!("{command:?}"), &format!("{}{}", ran.out, ran.err));
    }
    let ran = scene.run(&["-vv", "access-token"]);
    assert!(ran.out.trim() == secrets[3] && !ran.err.is_empty(), "{ran:?}");
    check("the log of access-token", &ran.err);

    let log = fs::File::create(scene.path("log")).unwrap();
    let mut child = scene
        .command(&[
            "-vv",
            "serve",
            "--socket",
            "s",
            "--listen",
            "127.0.0.1:0",
            "--key-file",
            "key",
            "--proxy",
        ])
        .stderr(log)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let first = lines.next().unwrap().unwrap();
    lines.next().unwrap().unwrap();
    let key = fs::read_to_string(scene.path("key")).unwrap().trim().to_owned();
    let address = first.strip_prefix("listening on http://").unwrap_or_default().to_owned();
    for path in ["status", "healthz", "metrics", "x", "api/profile/identity/v4/Users", "api/oauth2/v0/token"]
    {
        let request = format!(
            "GET /{path} HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {key}\r\nConnection: close\r\n\r\n"
        );
        let reply = raw(UnixStream::connect(scene.path("s")).unwrap(), &request);
        check(path, &reply);
        assert!(!reply.contains(&key));
    }
    Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let mut log = String::new();
    fs::File::open(scene.path("log")).unwrap().read_to_string(&mut log).unwrap();
    assert!(!log.is_empty() && !log.contains(&key));
    check("the log of serve", &log);
}
