//! The program `concur-auth`: each command, run as a shell runs it, against a simulated Concur.

#![cfg(all(feature = "cli", feature = "simulator", unix))]

#[cfg(feature = "postgres")]
#[path = "support/postgres/mod.rs"]
mod postgres;
#[path = "cli/scene.rs"]
mod scene;
#[allow(unreachable_pub, reason = "other tests export it")]
#[path = "support/skip.rs"]
mod skip;

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpListener,
    os::unix::{fs::PermissionsExt as _, net::UnixStream},
    path::Path,
    process::{Command, Stdio},
};

use concur_auth::{
    FleetStore as _, FolderFleet, JsonFileStore, RefreshTokenObject, TokenStore as _, simulator::Fault,
};
use serde_json::{Value, json};

use self::scene::{Ran, Scene, raw, time_in, without_settings};
#[cfg(feature = "postgres")]
use self::{
    postgres::Postgres,
    scene::{Serving, json_of},
};

const DAY: i64 = 24 * 3600;

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
fn on_a_terminal(scene: &Scene, command: &[&str], answers: &[(&str, Option<&str>)]) -> Option<Value> {
    if Command::new("python3").arg("--version").output().is_err() {
        skip::skip("there is no python3");
        return None;
    }
    let person = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cli/terminal.py");
    let mut python = Command::new("python3");
    without_settings(&mut python);
    let mut child = python
        .arg(person)
        .arg(scene.dir.path())
        .arg(env!("CARGO_BIN_EXE_concur-auth"))
        .args(command)
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
    let Some(refused) = on_a_terminal(&scene, &["init"], &[]) else { return };
    assert!(
        refused["seen"].as_str().unwrap().contains("credentials.json exists and is not overwritten"),
        "{refused}"
    );
    fs::remove_file(scene.path("credentials.json")).unwrap();

    // Ctrl-C while a secret is typed: nothing is written, and the terminal shows again what is typed.
    let interrupted =
        on_a_terminal(&scene, &["init"], &[&first[..4], &[("not shown)", None)]].concat()).unwrap();
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
    let signed_in = on_a_terminal(&scene, &["init"], &[first, second].concat()).unwrap();
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
async fn a_user_signs_in_on_a_terminal_and_is_a_member_of_a_fleet() {
    let scene = Scene::new().await;
    let credentials: Value = serde_json::from_str(&scene.concur.credentials_json()).unwrap();
    fs::remove_file(scene.path("credentials.json")).unwrap();
    let (user, base) = (scene.concur.add_user(), scene.concur.base_uri());
    let answers = [
        ("App ID", credentials["appID"].as_str()),
        ("Client secret (not shown)", credentials["clientSecret"].as_str()),
        ("a company or a user?", Some("user")),
        ("User name", Some(user.username())),
        ("not shown)", Some(user.password())),
        ("Base URI", Some(&*base)),
    ];
    let Some(seen) = on_a_terminal(&scene, &["init"], &answers) else { return };
    assert_eq!(seen["code"], 0, "{seen}");
    assert!(!seen["seen"].as_str().unwrap().contains(user.password()), "{seen}");
    let token = scene.run(&["access-token"]).ok();
    assert!(scene.concur.is_live_access(token.trim()));
    // The user's UUID is the name in a fleet.
    scene.run(&["--fleet", "tokens", "fleet", "import", "."]).ok();
    let list = scene.run(&["--fleet", "tokens", "fleet", "list", "--json"]).ok();
    let member: Value = serde_json::from_str(&list).unwrap();
    assert_eq!((member["kind"].as_str(), member["company"].as_str()), (Some("user"), Some(user.uuid())));
    let of_user = scene.run(&["--fleet", "tokens", "--company", user.uuid(), "access-token"]).ok();
    assert!(scene.concur.is_live_access(of_user.trim()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_wait_says_on_a_terminal_what_is_waited_for_and_ctrl_c_ends_it() {
    let scene = Scene::new().await;
    let store = JsonFileStore::new(scene.path("refreshTokenObjectFile.json"));
    let _lock = store.try_lock().await.unwrap().unwrap();
    let seen = on_a_terminal(&scene, &["access-token"], &[("waiting for 4 s: ", None)]);
    let Some(seen) = seen else { return };
    assert_eq!(seen["code"], 130, "{seen}");
    let text = seen["seen"].as_str().unwrap();
    for part in ["the lock is held by another process", "refreshTokenObjectFile.json", "longest_s=120"] {
        assert!(text.contains(part), "{text}");
    }
    assert_eq!(scene.concur.token_requests(), 0);
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
    let (reader, writer) = UnixStream::pair().unwrap();
    drop(reader);
    let mut command = scene.command(&["access-token"]);
    let ran = Ran::of(command.stdout(std::os::fd::OwnedFd::from(writer)).output().unwrap());
    // As with `| head -1`, there is nothing to say.
    assert_eq!((ran.code, &*ran.err), (Some(1), ""), "{ran:?}");
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
async fn what_an_import_refuses_is_named_and_no_success() {
    let scene = Scene::new().await;
    fs::create_dir(scene.path("files")).unwrap();
    scene.write("files/broken.json", "{");
    let ran = scene.run(&["--fleet", "tokens", "fleet", "import", "files"]);
    assert_eq!((ran.code, &*ran.out), (Some(1), "taken over: 0; there already: 0; refused: 1\n"), "{ran:?}");
    assert!(ran.err.contains("refused: ") && ran.err.contains("files/broken.json: "), "{ran:?}");
    assert_eq!(fs::read_to_string(scene.path("files/broken.json")).unwrap(), "{");
}

/// Names are the program's own choice.
#[tokio::test]
async fn a_fleet_whose_names_are_no_uuids_is_imported_as_a_fleet() {
    let scene = Scene::new().await;
    let credentials: Value = serde_json::from_str(&scene.concur.credentials_json()).unwrap();
    let app_id = credentials["appID"].as_str().unwrap();
    let store = FolderFleet::new(scene.path("tokens")).of(app_id, "the-company");
    let lock = store.try_lock().await.unwrap().unwrap();
    let token = RefreshTokenObject::from_json(&scene.concur.token_json()).unwrap();
    store.save(&token, &lock).await.unwrap();
    store.unlock(lock).await;
    let imported = scene.run(&["--fleet", "other", "fleet", "import", "tokens"]).ok();
    assert_eq!(imported, "taken over: 1; there already: 0; refused: 0\n");
}

/// A person writes a token while the program makes room for the reply, which takes a moment on a slow disk: found by
/// `src/store/json_file/lock_model.rs`.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_written_while_room_is_made_for_the_reply_is_the_one_that_is_used() {
    if Command::new("strace").arg("--version").output().is_err() {
        return skip::skip("there is no strace");
    }
    let scene = Scene::new().await;
    scene.run(&["refresh-token"]).ok();
    let mut command = Command::new("strace");
    without_settings(&mut command);
    // Each sync takes a second.
    command.args(["--follow-forks", "--quiet=all", "--output=trace", "--trace=fsync"]);
    command.args(["--inject=fsync:delay_exit=1000000", env!("CARGO_BIN_EXE_concur-auth"), "renew", "--now"]);
    command.stdout(Stdio::null());
    let mut child = command
        .current_dir(scene.dir.path())
        .env("CONCUR_BASE_URI", scene.concur.base_uri())
        .spawn()
        .unwrap();
    let is_room = |entry: fs::DirEntry| {
        let is_temporary = entry.file_name().to_string_lossy().contains(".tmp-");
        is_temporary && entry.metadata().is_ok_and(|found| found.len() > 200 * 1024)
    };
    // All of the room is written at once, and synced then.
    while !fs::read_dir(scene.dir.path()).unwrap().any(|entry| entry.is_ok_and(is_room)) {
        assert_eq!(child.try_wait().unwrap(), None, "it ended before it made room");
        std::thread::yield_now();
    }
    let new: Value = serde_json::from_str(&scene.concur.token_json()).unwrap();
    scene.write("refreshTokenObjectFile.json", &new.to_string());
    assert!(child.wait().unwrap().success());
    let requests = scene.concur.requests();
    assert!(requests.last().unwrap().body().contains(new["refresh_token"].as_str().unwrap()));
    assert_eq!(scene.concur.count("refresh_token"), 1);
}

/// Answers each connection with these lines, until the test ends.
fn server(reply: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let mut connection = connection.unwrap();
            let _ = connection.read(&mut [0; 1024]);
            let _ = connection.write_all(reply.as_bytes());
        }
    });
    address.to_string()
}

#[tokio::test]
async fn doctor_names_what_is_wrong_with_credentials_and_keys() {
    let scene = Scene::new().await;
    scene.run(&["refresh-token"]).ok();
    let found = |command: &mut Command, parts: &[&str]| {
        let ran = Ran::of(command.output().unwrap());
        assert!(ran.code == Some(1) && parts.iter().all(|part| ran.out.contains(part)), "{parts:?}: {ran:?}");
    };
    let doctor = || scene.command(&["doctor"]);
    found(
        doctor().env("CONCUR_APP_ID", "app"),
        &[
            "the environment variable CONCUR_CLIENT_SECRET is not set, but the other one is; set both, or neither",
        ],
    );
    found(doctor().env("CONCUR_AUTH_SEALING_KEYS", "no key"), &["CONCUR_AUTH_SEALING_KEYS"]);
    // What can be used is not found fault with.
    scene.write("credentials.json", &format!("\u{feff}{}", scene.concur.credentials_json()));
    assert_eq!(scene.run(&["doctor"]).ok(), "nothing found\n");
    scene.write("credentials.json", "[");
    found(&mut doctor(), &["credentials.json", "fix it, or move it away and run again"]);
    scene.write("credentials.json", r#"{"appID": " ", "baseURI": "http://127.0.0.1:1"}"#);
    found(
        &mut doctor(),
        &["appID and clientSecret are blank in ", "fill them in", "http://127.0.0.1:1 cannot be reached"],
    );
    assert_eq!(scene.run(&["doctor"]).out.matches("clientSecret").count(), 1);
    // Where sign-ins start is looked at, too, where a token names another data centre.
    let mut credentials: Value = serde_json::from_str(&scene.concur.credentials_json()).unwrap();
    credentials.as_object_mut().unwrap().remove("baseURI");
    scene.write("credentials.json", &credentials.to_string());
    found(doctor().env("CONCUR_BASE_URI", "http://127.0.0.1:1"), &["http://127.0.0.1:1 cannot be reached"]);
    // A host with a name that is not shown cannot be looked at.
    let token = fs::read_to_string(scene.path("refreshTokenObjectFile.json")).unwrap();
    let mut elsewhere: Value = serde_json::from_str(&token).unwrap();
    elsewhere["geolocation"] = "https://mars.api.concursolutions.com".into();
    scene.write("refreshTokenObjectFile.json", &elsewhere.to_string());
    assert_eq!(scene.run(&["doctor"]).ok(), "nothing found\n");
    for (file, finding) in [
        ("credentials.json", "check that it is a file this user may read: it is not a regular file"),
        (
            "refreshTokenObjectFile.json",
            ": Is a directory (os error 21); give this user the right to read it",
        ),
    ] {
        fs::remove_file(scene.path(file)).unwrap();
        fs::create_dir(scene.path(file)).unwrap();
        found(&mut doctor(), &[finding]);
        assert_eq!(scene.run(&["doctor"]).out.matches(finding).count(), 1);
    }
}

#[tokio::test]
async fn doctor_looks_at_clock_expiry_tls_and_folder() {
    let scene = Scene::new().await;
    scene.run(&["refresh-token"]).ok();
    let found = |arguments: &[&str], parts: &[&str]| {
        let ran = scene.run(&[&["doctor"], arguments].concat());
        assert!(ran.code == Some(1) && parts.iter().all(|part| ran.out.contains(part)), "{parts:?}: {ran:?}");
    };
    // Any answer will do; its date is that of the server's clock.
    let past =
        server("HTTP/1.1 404 Not Found\r\nDate: Thu, 01 Jan 2026 00:00:00 GMT\r\nContent-Length: 0\r\n\r\n");
    found(
        &["--base-uri", &format!("http://{past}")],
        &["this machine's clock is ", " s ahead of ", "set the clock"],
    );
    let future =
        server("HTTP/1.1 404 Not Found\r\nDate: Fri, 01 Jan 2100 00:00:00 GMT\r\nContent-Length: 0\r\n\r\n");
    found(&["--base-uri", &format!("http://{future}")], &["this machine's clock is ", " s behind that of "]);
    found(
        &["--base-uri", &format!("https://{past}")],
        &["cannot be reached: ", "check the network, any proxy, and the certificates"],
    );
    // A server that does not tell its time says nothing of this machine's clock.
    let silent = server("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(scene.run(&["doctor", "--base-uri", &format!("http://{silent}")]).ok(), "nothing found\n");
    // In which root cannot make files either.
    #[cfg(target_os = "linux")]
    found(
        &["--dir", "/proc"],
        &["/proc: no file can be written: ", "give this user the right to write there"],
    );

    scene.change_stored("refreshTokenExpiresAt", time_in(10 * DAY + 60));
    found(&[], &["the refresh token expires in 10 days", "run concur-auth renew"]);
    scene.change_stored("refreshTokenExpiresAt", time_in(-DAY));
    found(
        &[],
        &["the refresh token expired at ", "; sign in again with: concur-auth refresh-token, or init"],
    );
    scene.change_stored("refreshTokenExpiresAt", time_in(170 * DAY));
    assert_eq!(scene.run(&["doctor"]).ok(), "nothing found\n");

    fs::set_permissions(scene.dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
    found(&[], &["has mode 0777: other users can replace files in it; chmod 0700"]);
    fs::set_permissions(scene.dir.path(), fs::Permissions::from_mode(0o700)).unwrap();
    found(&["--dir", "nowhere"], &["nowhere: ", "make the folder, or choose another with --dir"]);
    found(&["--dir", "credentials.json"], &["credentials.json is no folder"]);
    assert_eq!(scene.concur.token_requests(), 1);
}

#[tokio::test]
async fn doctor_looks_at_owners_and_room() {
    let scene = Scene::new().await;
    fs::create_dir(scene.path("small")).unwrap();
    let small = scene.path("small");
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=256k,mode=0700", "tmpfs"])
        .arg(&small)
        .status();
    if !mounted.is_ok_and(|status| status.success()) {
        return skip::skip("this user may not mount file systems");
    }
    scene.write("small/credentials.json", &scene.concur.credentials_json());
    std::os::unix::fs::chown(scene.path("small/credentials.json"), Some(65534), None).unwrap();
    let ran = scene.run(&["doctor", "--dir", "small"]);
    let full = fs::write(scene.path("small/filler"), vec![0; 1024 * 1024]);
    let of_full = scene.run(&["doctor", "--dir", "small"]);
    Command::new("umount").arg("-l").arg(&small).status().unwrap();
    assert!(
        ran.out.contains("small/credentials.json belongs to user 65534, and this program runs as user 0"),
        "{ran:?}"
    );
    assert!(ran.out.contains(" files are free; make room for the next token"), "{ran:?}");
    full.unwrap_err();
    assert!(
        of_full.out.contains("a file could not be saved: ") && of_full.out.contains("make room"),
        "{of_full:?}"
    );
}

/// As on file systems of a network.
#[tokio::test]
async fn doctor_tries_whether_files_can_be_locked() {
    if Command::new("strace").arg("--version").output().is_err() {
        return skip::skip("there is no strace");
    }
    let scene = Scene::new().await;
    scene.run(&["refresh-token"]).ok();
    let advice = "use a folder on a local disk, or PostgreSQL";
    for (what, parts) in [
        ("flock:error=ENOLCK", ["files cannot be locked there: No locks available", advice]),
        ("flock:retval=0", ["locks exclude no other process there", advice]),
        ("/^statfs$:error=EIO", ["could not find out how much room is free: ", ""]),
        ("/^unlink(at)?$:error=EACCES", [".concur-auth-doctor-", "; remove it by hand"]),
    ] {
        let mut command = Command::new("strace");
        without_settings(&mut command);
        command.args(["--follow-forks", "--quiet=all", "--output=trace", &format!("--inject={what}")]);
        command.args([env!("CARGO_BIN_EXE_concur-auth"), "doctor"]).current_dir(scene.dir.path());
        let ran = Ran::of(command.env("CONCUR_BASE_URI", scene.concur.base_uri()).output().unwrap());
        assert!(ran.code == Some(1) && parts.iter().all(|part| ran.out.contains(part)), "{what}: {ran:?}");
    }
}

#[tokio::test]
async fn doctor_names_the_members_of_a_fleet_that_need_a_person_or_a_key() {
    let scene = Scene::new().await;
    let key = concur_auth::SealingKeys::generate("2026-11").unwrap();
    scene.write("keys", &key);
    let company = scene.company();
    let fleet = |arguments: &[&str]| {
        scene.run(&[&["--fleet", "tokens", "--sealing-keys", "keys"], arguments].concat())
    };
    let connect = ["--fleet", "tokens", "--sealing-keys", "keys", "fleet", "connect", &company];
    scene.run_with(&connect, &scene.request_token()).ok();
    assert_eq!(fleet(&["doctor"]).ok(), "nothing found\n");
    let ran = scene.run(&["--fleet", "tokens", "doctor"]);
    let finding = "1 tokens are sealed with the key \"2026-11\", which is not among the sealing keys";
    assert!(ran.code == Some(1) && ran.out.contains(finding), "{ran:?}");
    scene.concur.set_fault(Fault::code(108));
    assert_eq!(fleet(&["fleet", "renew", &company]).code, Some(2));
    let ran = fleet(&["doctor"]);
    assert!(ran.code == Some(1) && ran.out.contains(&company), "{ran:?}");
    let other = scene.concur.add_company();
    let ran = fleet(&["--company", other.uuid(), "doctor"]);
    let advice =
        format!("there is no refresh token; obtain it with: concur-auth fleet connect {}", other.uuid());
    assert!(ran.code == Some(1) && ran.out.contains(&advice), "{ran:?}");
    let listed: Value =
        serde_json::from_str(&fleet(&["fleet", "list", "--json", "--needs-person"]).ok()).unwrap();
    assert_eq!((&listed["company"], &listed["state"]), (&company.into(), &"needs_reauthorization".into()));
}

/// Adds a company to `tokens`, whose refresh token was granted so many days ago, and lives 180.
fn a_company_of_old(scene: &Scene, days: i64) -> String {
    let company = scene.concur.add_company();
    let connect = ["--fleet", "tokens", "fleet", "connect", company.uuid()];
    scene.run_with(&connect, company.request_token()).ok();
    let uuid = company.uuid();
    let folder = fs::read_dir(scene.path("tokens")).unwrap().map(|entry| entry.unwrap().path().join(uuid));
    let file = folder.map(|folder| folder.join("refreshTokenObjectFile.json")).find(|file| file.exists());
    let file = file.unwrap();
    let mut stored: Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
    stored["refreshTokenReceivedAt"] = time_in(-days * DAY).into();
    stored["refreshTokenExpiresAt"] = time_in((180 - days) * DAY).into();
    fs::write(file, stored.to_string()).unwrap();
    uuid.to_owned()
}

fn counts(renewed: u64, failed: u64, needs_person: u64, skipped: u64) -> Value {
    json!({ "renewed": renewed, "failed": failed, "needs_person": needs_person, "skipped": skipped })
}

/// As cron starts it.
#[tokio::test(flavor = "multi_thread")]
async fn a_round_renews_what_is_due_says_what_became_of_it_and_ends() {
    let scene = Scene::new().await;
    let round = |arguments: &[&str]| {
        let ran = scene.run(&[&["--fleet", "tokens", "fleet", "work", "--until-idle"], arguments].concat());
        (ran.code, serde_json::from_str::<Value>(&ran.out).unwrap(), ran.err)
    };
    let companies = [0, 2, 100, 100].map(|days| a_company_of_old(&scene, days));
    assert_eq!(round(&[]), (Some(0), counts(2, 0, 0, 0), String::new()));
    assert_eq!(round(&[]), (Some(0), counts(0, 0, 0, 0), String::new()));
    // What has at least 179 days is left alone, and so is what was renewed within a day.
    assert_eq!(round(&["--margin", "179"]).1, counts(1, 0, 0, 0));
    assert_eq!(round(&["--margin", "179"]).1, counts(0, 0, 0, 0));

    let failing = a_company_of_old(&scene, 100);
    scene.concur.set_fault(Fault::status(500));
    let (code, ended, log) = round(&["--concurrency", "1", "--rate", "50"]);
    assert_eq!((code, ended), (Some(1), counts(0, 1, 0, 0)));
    assert!(log.contains("answered 500") && log.contains(&failing), "{log}");
    scene.concur.clear_faults();
    assert_eq!(round(&[]).1, counts(1, 0, 0, 0));

    // A token that Concur does not know: a person is needed, tonight and until that person has acted.
    a_company_of_old(&scene, 100);
    scene.concur.set_fault(Fault::code(108));
    let (code, ended, log) = round(&[]);
    assert_eq!((code, &ended["needs_person"], &ended["renewed"]), (Some(2), &1.into(), &0.into()), "{log}");
    scene.concur.clear_faults();
    let (code, ended, _) = round(&[]);
    assert_eq!((code, &ended["needs_person"]), (Some(2), &1.into()));
    assert!(
        companies
            .iter()
            .all(|company| scene.run(&["--fleet", "tokens", "--company", company, "status"]).code == Some(0))
    );
}

/// A job that is told to end says what it has counted until then; what is under way is saved.
#[tokio::test(flavor = "multi_thread")]
async fn a_round_that_is_told_to_end_saves_what_is_under_way() {
    let scene = Scene::new().await;
    let company = a_company_of_old(&scene, 100);
    let held = scene.concur.hold_replies();
    let mut child =
        scene.command(&["-v", "--fleet", "tokens", "fleet", "work", "--until-idle"]).spawn().unwrap();
    let mut said = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    said.find(|line| line.contains("token request sent")).unwrap();
    Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
    let rest = std::thread::spawn(move || said.collect::<Vec<_>>());
    held.release();
    let mut out = String::new();
    child.stdout.take().unwrap().read_to_string(&mut out).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0), "{out}{:?}", rest.join());
    assert!(serde_json::from_str::<Value>(&out).unwrap()["failed"] == 0, "{out}");
    // A round finds nothing that is due: the reply was saved.
    let round = scene.run(&["--fleet", "tokens", "fleet", "work", "--until-idle"]).ok();
    assert_eq!(serde_json::from_str::<Value>(&round).unwrap(), counts(0, 0, 0, 0));
    assert_eq!(scene.run(&["--fleet", "tokens", "--company", &company, "status"]).code, Some(0));
    assert_eq!(scene.concur.count("refresh_token"), 1);
}

#[cfg(feature = "postgres")]
#[tokio::test(flavor = "multi_thread")]
async fn a_fleet_in_a_database_is_made_filled_worked_at_and_served() {
    let test = "a_fleet_in_a_database_is_made_filled_worked_at_and_served";
    let Some(cluster) = Postgres::shared(test) else { return };
    let scene = Scene::new().await;
    let database = cluster.database();
    let url = database.url();
    let fleet = |arguments: &[&str]| scene.run(&[&["--fleet", &url], arguments].concat());
    fleet(&["fleet", "list"]).failed(1, "fleet migrate");
    let ran = fleet(&["doctor"]);
    assert!(ran.code == Some(1) && ran.out.contains("fleet migrate"), "{ran:?}");
    // Several at once, as containers do that start together.
    let migrations: Vec<_> =
        (0..4).map(|_| scene.command(&["--fleet", &url, "fleet", "migrate"]).spawn().unwrap()).collect();
    for migration in migrations {
        assert_eq!(Ran::of(migration.wait_with_output().unwrap()).ok(), "the tables are up to date\n");
    }
    let company = scene.company();
    let connected = scene.run_with(&["--fleet", &url, "fleet", "connect", &company], &scene.request_token());
    assert!(connected.ok().contains("the refresh token is valid until"));
    let token = fleet(&["--company", &company, "access-token"]).ok();
    assert!(scene.concur.is_live_access(token.trim()));
    let round = |code| {
        let ran = fleet(&["fleet", "work", "--until-idle"]);
        assert_eq!(ran.code, Some(code), "{ran:?}");
        serde_json::from_str::<Value>(&ran.out).unwrap()
    };
    assert_eq!(round(0), counts(0, 0, 0, 0));
    let serving = Serving::start(&scene, &["--fleet", &url]);
    assert_eq!(json_of(&serving.get("/companies"))[0]["company"], company);
    assert_eq!(fleet(&["doctor"]).ok(), "nothing found\n");
    // A store that fails is no unknown member, and no empty fleet.
    database.psql("ALTER TABLE concur_auth_tokens RENAME TO elsewhere");
    for path in ["/companies", "/healthz", "/companies/b3f4e2a0-0000-4000-8000-000000000000/token"] {
        let reply = serving.get(path);
        assert!(scene::status_of(&reply) == 503 && json_of(&reply)["kind"] == "store", "{path}: {reply}");
    }
    database.psql("ALTER TABLE elsewhere RENAME TO concur_auth_tokens");
    assert_eq!(serving.end(), Some(0));

    // To a folder and back.
    let imported = scene.run(&["--fleet", "tokens", "fleet", "import", &url]).ok();
    assert_eq!(imported, "taken over: 1; there already: 0; refused: 0\n");
    let imported = fleet(&["fleet", "import", "tokens"]).ok();
    assert_eq!(imported, "taken over: 0; there already: 1; refused: 0\n");
    // After a backup was restored, any token may have been used since: each is in doubt, and is left alone for a while.
    assert!(fleet(&["fleet", "migrate", "--restored"]).ok().contains("1 tokens may have been used"));
    assert_eq!(round(0), counts(0, 0, 0, 0));
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
    assert_eq!(scene.run(&["--sealing-keys", "keys", "doctor"]).ok(), "nothing found\n");
    scene.write("other-keys", &concur_auth::SealingKeys::generate("2026-12").unwrap());
    let ran = scene.run(&["--sealing-keys", "other-keys", "doctor"]);
    assert!(ran.out.contains("is sealed with the key \"2026-11\""), "{ran:?}");
    // Into a sealed fleet, and on from there, with the same keys.
    for (fleet, source) in [("tokens", "."), ("other", "tokens")] {
        let imported =
            scene.run(&["--sealing-keys", "keys", "--fleet", fleet, "fleet", "import", source]).ok();
        assert_eq!(imported, "taken over: 1; there already: 0; refused: 0\n");
    }
    assert_eq!(scene.concur.token_requests(), 1);
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

/// What a person types at a question of a command that asks, and what comes of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_person_is_asked_before_a_sign_out_and_for_a_fleets_request_token() {
    let scene = Scene::new().await;
    scene.run(&["refresh-token"]).ok();
    let Some(kept) = on_a_terminal(&scene, &["revoke"], &[("[y/N]", Some("n"))]) else { return };
    assert!(kept["code"] == 1 && kept["seen"].as_str().unwrap().contains("nothing was done"), "{kept}");
    let gone = on_a_terminal(&scene, &["revoke"], &[("[y/N]", Some("y"))]).unwrap();
    assert_eq!(gone["code"], 0, "{gone}");
    assert!(!scene.path("refreshTokenObjectFile.json").exists());

    let company = scene.concur.add_company();
    let connect = ["--fleet", "tokens", "fleet", "connect", company.uuid()];
    let ended = on_a_terminal(&scene, &connect, &[("(not shown)", None)]).unwrap();
    assert_eq!((&ended["code"], &ended["has_echo"]), (&130.into(), &true.into()), "{ended}");
    let connected =
        on_a_terminal(&scene, &connect, &[("(not shown)", Some(company.request_token()))]).unwrap();
    assert!(connected["code"] == 0 && connected["has_echo"] == true, "{connected}");
    assert!(!connected["seen"].as_str().unwrap().contains(company.request_token()));
    let disconnect = ["--fleet", "tokens", "fleet", "disconnect", company.uuid()];
    let kept = on_a_terminal(&scene, &disconnect, &[("[y/N]", Some(""))]).unwrap();
    assert_eq!(kept["code"], 1, "{kept}");
    assert_eq!(on_a_terminal(&scene, &disconnect, &[("[y/N]", Some("yes"))]).unwrap()["code"], 0);
}

/// Until it is told to end, with success then.
#[tokio::test(flavor = "multi_thread")]
async fn a_fleets_worker_and_serve_end_with_success_at_ctrl_c() {
    let scene = Scene::new().await;
    let company = a_company_of_old(&scene, 100);
    let mut child = scene.command(&["--fleet", "tokens", "fleet", "work"]).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let line = lines.next().unwrap();
    assert!(line.starts_with(&company), "{line}");
    Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert_eq!(scene.concur.count("refresh_token"), 1);

    let mut child = scene.command(&["serve", "--socket", "s"]).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert_eq!(lines.next().unwrap(), "listening on unix:s");
    Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[tokio::test]
async fn a_flag_and_a_variable_name_the_place_and_the_app() {
    let scene = Scene::new().await;
    let credentials: Value = serde_json::from_str(&scene.concur.credentials_json()).unwrap();
    let company = scene.company();
    scene.run_with(&["--fleet", "tokens", "fleet", "connect", &company], &scene.request_token()).ok();
    // The folder has the app's credentials, the variable names the fleet.
    fs::create_dir(scene.path("app")).unwrap();
    fs::rename(scene.path("credentials.json"), scene.path("app/credentials.json")).unwrap();
    let list = ["--dir", "app", "fleet", "list", "--json"];
    let listed = scene.command(&list).env("CONCUR_AUTH_FLEET", "tokens").output().unwrap();
    assert!(Ran::of(listed).ok().contains(&company));
    // Variables have the app's credentials, both or none.
    let mut command = scene.command(&["--fleet", "tokens", "fleet", "list", "--lapsing", "4294967295"]);
    command.env("CONCUR_APP_ID", credentials["appID"].as_str().unwrap());
    Ran::of(command.output().unwrap()).failed(2, "CONCUR_CLIENT_SECRET");
    command.env("CONCUR_CLIENT_SECRET", credentials["clientSecret"].as_str().unwrap());
    assert!(Ran::of(command.output().unwrap()).ok().contains(&company));
}

/// The credentials with a request token that was not used yet.
fn with_another_request_token(scene: &Scene) -> String {
    let mut credentials: Value = serde_json::from_str(&scene.concur.credentials_json()).unwrap();
    credentials["companyRequestToken"] = scene.concur.issue_request_token().into();
    credentials.to_string()
}

/// The refresh and access tokens in all files.
fn tokens_below(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        if path.is_dir() {
            found.extend(tokens_below(&path));
        } else if let Ok(stored) = serde_json::from_slice::<Value>(&fs::read(path).unwrap_or_default()) {
            let members = ["refresh_token", "access_token", "companyRequestToken"];
            found.extend(members.iter().filter_map(|name| Some(stored.get(name)?.as_str()?.to_owned())));
        }
    }
    found.retain(|secret| !secret.is_empty());
    found
}

/// Every command and route, at each level of the log, in success and failure.
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
    scene.write("request-token", &scene.request_token());
    scene.run(&["--fleet", "tokens", "fleet", "import", "."]).ok();
    let company = scene.company();
    let fleet = ["--fleet", "tokens"];
    let of_fleet: [&[&str]; 8] = [
        &["fleet", "list"],
        &["fleet", "list", "--json"],
        &["fleet", "import", "."],
        &["fleet", "connect", &company],
        &["fleet", "renew", &company, "--now"],
        &["fleet", "work", "--until-idle"],
        &["doctor"],
        &["fleet", "disconnect", &company, "--yes"],
    ];
    let commands: [&[&str]; 12] = [
        &["status"],
        &["status", "--json"],
        &["doctor"],
        &["init"],
        &["refresh-token"],
        &["renew"],
        &["renew", "--now"],
        &["exec", "--", "true"],
        &["adopt", "refreshTokenObjectFile.json"],
        &["adopt", "request-token"],
        &["completions", "bash"],
        &["revoke", "--yes"],
    ];
    // In success, and while Concur refuses all.
    let mut told = Vec::new();
    for fault in [None, Some(Fault::code(5))] {
        fault.into_iter().for_each(|fault| scene.concur.set_fault(fault));
        for level in [&[][..], &["--verbose"], &["-vv"], &["-vvv"]] {
            scene.write("credentials.json", &with_another_request_token(&scene));
            let all = commands.iter().map(|command| command.to_vec());
            for command in all.chain(of_fleet.iter().map(|it| [&fleet, *it].concat())) {
                let input = if command.contains(&"connect") { &*scene.request_token() } else { "" };
                let ran = scene.run_with(&[level, &*command].concat(), input);
                assert!(!ran.err.contains("panicked"), "{ran:?}");
                told.push((format!("{level:?} {command:?}"), ran.out + &ran.err));
                secrets.extend(tokens_below(scene.dir.path()));
            }
        }
    }
    secrets.sort_unstable();
    secrets.dedup();
    assert!(secrets.len() > 10, "{}", secrets.len());
    for (what, text) in told {
        for secret in &secrets {
            assert!(!text.contains(secret.as_str()), "{what} shows a secret: {text}");
        }
    }
    scene.concur.clear_faults();
    scene.write("credentials.json", &with_another_request_token(&scene));
    scene.run(&["renew", "--now"]).ok();
    secrets.push(scene.run(&["access-token"]).ok().trim().to_owned());
    secrets.push(scene.run(&["refresh-token", "--show"]).ok().trim().to_owned());
    let access = secrets[secrets.len() - 2].clone();
    let check = |what: &str, text: &str| {
        for secret in &secrets {
            assert!(!text.contains(secret.as_str()), "{what} shows a secret: {text}");
        }
    };
    let ran = scene.run(&["-vv", "access-token"]);
    assert!(ran.out.trim() == access && !ran.err.is_empty(), "{ran:?}");
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

/// A token that only this process knows is of no use to the next run.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_could_not_be_saved_is_no_success() {
    for command in ["access-token", "refresh-token"] {
        let scene = Scene::new().await;
        fs::create_dir(scene.path("state")).unwrap();
        scene.write("state/credentials.json", &scene.concur.credentials_json());
        let held = scene.concur.hold_replies();
        let child = scene.command(&["--dir", "state", command]).spawn().unwrap();
        while scene.concur.token_requests() == 0 {
            std::thread::yield_now();
        }
        fs::remove_dir_all(scene.path("state")).unwrap();
        held.release();
        let ran = Ran::of(child.wait_with_output().unwrap());
        assert!(ran.code == Some(1) && ran.err.contains("still not saved to "), "{command}: {ran:?}");
    }
}

#[tokio::test]
async fn a_person_ends_a_sign_in_by_the_end_of_input_or_is_told_that_the_file_is_not_written() {
    let scene = Scene::new().await;
    let credentials: Value = serde_json::from_str(&scene.concur.credentials_json()).unwrap();
    fs::remove_file(scene.path("credentials.json")).unwrap();
    // Ctrl-D.
    let Some(ended) = on_a_terminal(&scene, &["init"], &[("App ID", Some("\u{4}"))]) else { return };
    assert!(ended["code"] == 1 && ended["seen"].as_str().unwrap().contains("nothing was done"), "{ended}");
    assert_eq!(fs::read_dir(scene.dir.path()).unwrap().count(), 0);

    // A link to nowhere is not there, and is not overwritten either.
    std::os::unix::fs::symlink("nowhere", scene.path("credentials.json")).unwrap();
    let (user, base) = (scene.concur.add_user(), scene.concur.base_uri());
    let answers = [
        ("App ID", credentials["appID"].as_str()),
        ("Client secret (not shown)", credentials["clientSecret"].as_str()),
        ("a company or a user?", Some("user")),
        ("User name", Some(user.username())),
        ("not shown)", Some("a-wrong-password")),
        ("Base URI", Some(&*base)),
        // All is kept but the password.
        ("Try again", Some("")),
        ("not shown)", Some("")),
        ("a company or a user?", Some("")),
        ("User name", Some("")),
        ("not shown)", Some(user.password())),
        ("Base URI", Some("")),
    ];
    let seen = on_a_terminal(&scene, &["init"], &answers).unwrap();
    let text = seen["seen"].as_str().unwrap();
    assert!(seen["code"] == 1 && text.contains("could not be written; write it by hand"), "{seen}");
    assert!(!text.contains(user.password()), "{seen}");
    assert!(scene.path("refreshTokenObjectFile.json").exists() && !scene.path("nowhere").exists());
}

#[tokio::test]
async fn a_token_that_is_lapsed_or_has_no_expiry_is_shown_as_that() {
    let scene = Scene::new().await;
    scene.run(&["refresh-token"]).ok();
    scene.change_stored("refreshTokenExpiresAt", time_in(-DAY));
    let ran = scene.run(&["status"]);
    assert!(ran.out.contains("refresh token  not valid; its expiry: "), "{ran:?}");

    fs::remove_file(scene.path("refreshTokenObjectFile.json")).unwrap();
    let mut token: Value = serde_json::from_str(&scene.concur.token_json()).unwrap();
    for member in ["refresh_expires_in", "refreshTokenExpiresAt"] {
        token.as_object_mut().unwrap().remove(member);
    }
    scene.write("old.json", &token.to_string());
    let said = scene.run(&["adopt", "old.json"]).ok();
    assert!(said.ends_with("the refresh token is valid, with no known expiry\n"), "{said}");

    // A user's.
    fs::remove_file(scene.path("refreshTokenObjectFile.json")).unwrap();
    let user = scene.concur.add_user();
    let base = scene.concur.base_uri().parse().unwrap();
    let app = concur_auth::Credentials::new(scene.concur.app().id(), scene.concur.app().secret());
    let grant = concur_auth::Grant::user_password(user.username(), user.password());
    let reply = concur_auth::OAuthClient::new().request_token(&base, &app, &grant).await.unwrap();
    scene.write("user.json", &reply.refresh_token_object().unwrap().to_json());
    let owner = format!("user {}: the refresh token is valid until ", user.uuid());
    let app = scene.concur.app();
    let credentials =
        json!({ "appID": app.id(), "clientSecret": app.secret(), "baseURI": scene.concur.base_uri() });
    scene.write("credentials.json", &credentials.to_string());
    let said = scene.run(&["adopt", "user.json"]).ok();
    assert!(said.starts_with(&owner), "{said}");
    let said = scene.run(&["status"]).out;
    assert!(said.contains(&format!("\nuser           {}\n", user.uuid())), "{said}");
    assert!(said.contains(" (59 minutes left)"), "{said}");
}

#[tokio::test]
async fn what_is_wrong_with_a_command_or_its_input_is_said() {
    let scene = Scene::new().await;
    let company = scene.company();
    for mode in ["9", "1000"] {
        scene
            .run(&["serve", "--socket", "s", "--socket-mode", mode])
            .failed(64, "write it in octal, such as 0600");
    }
    scene.run(&["--fleet", "tokens", "init"]).failed(64, "this command is for a folder, not for a fleet");
    scene.run(&["--dir", "credentials.json/x", "init"]).failed(1, "could not make credentials.json/x: ");
    fs::create_dir(scene.path("broken")).unwrap();
    scene.write("broken/credentials.json", "[");
    scene.run(&["--dir", "broken", "init"]).failed(2, "broken/credentials.json: ");

    let restored = scene.run(&["--fleet", "tokens", "fleet", "migrate", "--restored"]).ok();
    assert!(restored.starts_with("nothing to do for a folder. After a backup was restored, "), "{restored}");
    let connect = ["--fleet", "tokens", "fleet", "connect", &company];
    let folder = fs::File::open(scene.dir.path()).unwrap();
    let ran = Ran::of(scene.command(&connect).stdin(folder).output().unwrap());
    ran.failed(1, "could not read the request token: ");
    // A flag names the base URI of a fleet, too.
    let base = scene.concur.base_uri();
    scene.run_with(&[&connect[..], &["--base-uri", &base]].concat(), &scene.request_token()).ok();
    scene.run(&["--fleet", "tokens", "fleet", "disconnect", "--keep-at-concur", &company]).failed(
        64,
        &format!("Remove {company} from this fleet, with its refresh token? Without a terminal, add --yes"),
    );
}
