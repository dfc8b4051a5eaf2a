//! The real program, run as a person runs it: output, exit codes, and no secret even at `RUST_LOG=trace`.

#![cfg(feature = "simulator")]

mod support;

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _},
    path::Path,
    process::{Command, Stdio},
};

use concur_auth::simulator::{ConcurSimulator, Rotation};

struct Run {
    code: i32,
    stdout: String,
    stderr: String,
}

/// Examples are built before tests run, beside them; but not where cargo is told which tests to build.
fn program() -> Command {
    example("refresh_token_management")
}

fn example(name: &str) -> Command {
    let test = std::env::current_exe().unwrap();
    let folder = test.parent().unwrap().parent().unwrap().join("examples");
    let program = folder.join(format!("{name}{}", std::env::consts::EXE_SUFFIX));
    assert!(
        program.exists(),
        "{} is not there; build it first: cargo build --all-features --examples",
        program.display()
    );
    Command::new(program)
}

fn run(dir: &Path, secrets: &[String]) -> Run {
    let output = program().arg("--dir").arg(dir).env("RUST_LOG", "trace").output().unwrap();
    let run = Run {
        code: output.status.code().unwrap(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    };
    for secret in secrets {
        assert!(!run.stdout.contains(secret), "a secret in the output: {}", run.stdout);
        assert!(!run.stderr.contains(secret), "a secret in the log: {}", run.stderr);
    }
    run
}

/// The values of all string members that must never be seen.
fn secrets_in(json: &str) -> Vec<String> {
    let json: serde_json::Value = serde_json::from_str(json).unwrap();
    ["clientSecret", "companyRequestToken", "refresh_token", "access_token", "id_token"]
        .iter()
        .filter_map(|name| json[name].as_str().map(str::to_owned))
        .filter(|secret| !secret.is_empty())
        .collect()
}

#[tokio::test]
async fn from_an_empty_folder_to_a_valid_token_and_beyond() {
    let concur = ConcurSimulator::start().await;
    let dir = tempfile::tempdir().unwrap();
    let credentials = dir.path().join("credentials.json");
    let token = dir.path().join("refreshTokenObjectFile.json");
    let mut secrets = secrets_in(&concur.credentials_json());

    // Empty folder, then the template as it is.
    let first = run(dir.path(), &secrets);
    assert_eq!(first.code, 2, "{}", first.stderr);
    assert!(first.stderr.contains("a blank template was written there; fill in appID"), "{}", first.stderr);
    let blank = run(dir.path(), &secrets);
    assert_eq!(blank.code, 2);
    assert!(blank.stderr.contains("appID and clientSecret are blank in"), "{}", blank.stderr);

    // Half-filled, broken, wrong.
    fs::write(&credentials, r#"{"appID": "a", "clientSecret": "SENTINEL"}"#).unwrap();
    secrets.push("SENTINEL".to_owned());
    let half_filled = run(dir.path(), &secrets);
    assert_eq!(half_filled.code, 2);
    assert!(
        half_filled.stderr.contains("companyUUID and companyRequestToken are blank"),
        "{}",
        half_filled.stderr
    );

    fs::write(&credentials, r#"{"appID": "a", "clientSecret": SENTINEL"#).unwrap();
    let broken = run(dir.path(), &secrets);
    assert_eq!(broken.code, 2);
    assert!(broken.stderr.contains("not valid JSON at line 1, column 32"), "{}", broken.stderr);

    let mut wrong: serde_json::Value = serde_json::from_str(&concur.credentials_json()).unwrap();
    wrong["companyRequestToken"] = "SENTINEL".into();
    fs::write(&credentials, wrong.to_string()).unwrap();
    let refused = run(dir.path(), &secrets);
    assert_eq!(refused.code, 2, "{}", refused.stderr);
    assert!(refused.stderr.contains("https://www.concursolutions.com/nui/authadmin/companytokens"));
    assert!(refused.stderr.contains("(code 5, correlation id "), "{}", refused.stderr);
    wrong["companyRequestToken"] = "x".into();
    wrong["clientSecret"] = "SENTINEL".into();
    fs::write(&credentials, wrong.to_string()).unwrap();
    let refused = run(dir.path(), &secrets);
    assert_eq!(refused.code, 1, "{}", refused.stderr);
    assert!(refused.stderr.contains("(code 64, correlation id "), "{}", refused.stderr);

    // Right, and again.
    fs::write(&credentials, concur.credentials_json()).unwrap();
    let obtained = run(dir.path(), &secrets);
    assert_eq!(obtained.code, 0, "{}", obtained.stderr);
    secrets.extend(secrets_in(&fs::read_to_string(&token).unwrap()));
    let stored = run(dir.path(), &secrets);
    assert_eq!(stored.code, 0);
    let rest = format!("\n  company:     {}\n  expires:     ", concur.company_uuid());
    assert!(obtained.stdout.starts_with(&format!("There is a valid refresh token (obtained).{rest}")));
    assert!(stored.stdout.starts_with(&format!("There is a valid refresh token (stored).{rest}")));
    assert!(stored.stdout.contains(" hours left)\n  geolocation: http://127.0.0.1:"), "{}", stored.stdout);

    // Expired, truncated, empty.
    let mut expired: serde_json::Value = serde_json::from_str(&concur.token_json()).unwrap();
    expired["refresh_expires_in"] = 1_517_039_403.into();
    let whole = concur.token_json();
    for content in [expired.to_string(), whole[..whole.len() / 2].to_owned(), String::new()] {
        fs::write(&token, content).unwrap();
        let again = run(dir.path(), &secrets);
        assert_eq!(again.code, 0, "{}", again.stderr);
        assert!(again.stdout.contains("(obtained)"), "{}", again.stdout);
    }

    // Somebody else's.
    fs::write(&token, r#"{"refresh_token": "SENTINEL", "companyUUID": "another"}"#).unwrap();
    let foreign = run(dir.path(), &secrets);
    assert_eq!(foreign.code, 1);
    assert!(foreign.stderr.contains("belongs to a company without a UUID"), "{}", foreign.stderr);
}

/// The token that Concur has just issued is brought to the disk first.
#[cfg(unix)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signal_in_mid_flight_loses_nothing() {
    for (signal, code) in [("INT", 130), ("TERM", 143)] {
        let concur = ConcurSimulator::builder().rotation(Rotation::AlwaysAndRevokeFamily).start().await;
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("credentials.json"), concur.credentials_json()).unwrap();
        let held = concur.hold_replies();
        let mut process = program().arg("--dir").arg(dir.path()).stderr(Stdio::piped()).spawn().unwrap();
        support::until(|| concur.token_requests() == 1).await;
        let kill = Command::new("kill").args(["-s", signal, &process.id().to_string()]).status().unwrap();
        assert!(kill.success());
        // The reply comes once the program has noticed the signal, not at the same time.
        let mut said = BufReader::new(process.stderr.take().unwrap());
        let mut first = String::new();
        said.read_line(&mut first).unwrap();
        held.release();
        assert_eq!(process.wait().unwrap().code(), Some(code));
        let mut rest = String::new();
        said.read_to_string(&mut rest).unwrap();
        assert_eq!((&*first, &*rest), ("Interrupted; waiting for a renewal under way.\n", ""));
        let stored = fs::read_to_string(dir.path().join("refreshTokenObjectFile.json")).unwrap();
        let stored: serde_json::Value = serde_json::from_str(&stored).unwrap();
        assert!(concur.is_live(stored["refresh_token"].as_str().unwrap()));
    }
}

/// A token that only this process knows is of no use to the next run.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_could_not_be_saved_is_no_success() {
    let concur = ConcurSimulator::start().await;
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("credentials.json"), concur.credentials_json()).unwrap();
    let held = concur.hold_replies();
    let process = program().arg("--dir").arg(dir.path()).stderr(Stdio::piped()).spawn().unwrap();
    support::until(|| concur.token_requests() == 1).await;
    fs::remove_dir_all(dir.path()).unwrap();
    held.release();
    let output = process.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("\nthe newest refresh token is still not saved to "), "{said}");
}

#[test]
fn a_wrong_flag_shows_the_usage() {
    for arguments in [&["--verbose"][..], &["--dir"], &["--base-uri"]] {
        let output = program().args(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(64));
        assert_eq!(
            String::from_utf8(output.stderr).unwrap(),
            "usage: refresh_token_management [--dir DIR] [--base-uri URI]\n"
        );
    }
}

#[test]
fn a_foreign_base_uri_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let output =
        program().arg("--dir").arg(dir.path()).args(["--base-uri", "https://example.net"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        String::from_utf8(output.stderr)
            .unwrap()
            .starts_with("refused to send secrets to https://example.net (given to the builder);")
    );
}

/// The simulator as a program, for tests in other languages.
#[cfg(unix)]
#[tokio::test]
async fn the_simulator_serves_until_it_is_interrupted() {
    let mut simulator = example("simulator")
        .args(["--port", "0", "--rotation", "revoke", "--per-minute", "2"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut json = String::new();
    let mut lines = BufReader::new(simulator.stdout.take().unwrap());
    while !json.ends_with("}\n") {
        assert_ne!(lines.read_line(&mut json).unwrap(), 0, "{json}");
    }
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("credentials.json"), &json).unwrap();
    let tokens = concur_auth::TokenManager::load_from(dir.path()).await.unwrap();
    let first = tokens.get_valid_refresh_token().await.unwrap();
    assert_ne!(tokens.refresh().await.unwrap().secret(), first.secret());
    let error = tokens.refresh().await.unwrap_err();
    assert_eq!(error.kind(), concur_auth::ErrorKind::Unavailable, "{error}");
    let interrupted = Command::new("kill").args(["-s", "INT", &simulator.id().to_string()]).status().unwrap();
    assert!(interrupted.success());
    let output = simulator.wait_with_output().unwrap();
    assert_eq!(
        (output.status.code(), &*String::from_utf8(output.stderr).unwrap()),
        (Some(0), "3 token requests in all\n")
    );

    let wrong = example("simulator").args(["--rotation", "sometimes"]).output().unwrap();
    let usage = String::from_utf8(wrong.stderr).unwrap();
    assert!(wrong.status.code() == Some(64) && usage.starts_with("usage: simulator"), "{usage}");
}

/// The example that a service starts from.
#[cfg(all(feature = "metrics", unix))]
#[tokio::test]
async fn the_service_answers_and_ends_when_it_is_told_to() {
    for signal in ["TERM", "INT"] {
        let mut service = example("service")
            .args(["--port", "0"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut address = String::new();
        BufReader::new(service.stdout.take().unwrap()).read_line(&mut address).unwrap();
        let get = async |path: &str| {
            let reply = concur_auth::reqwest::get(format!("{}{path}", address.trim())).await.unwrap();
            (reply.status().as_u16(), reply.text().await.unwrap())
        };
        let (status, users) = get("/users").await;
        assert!(status == 200 && users.contains("\"totalResults\":1"), "{users}");
        let (status, health) = get("/healthz").await;
        assert!(status == 200 && health.contains("access token valid"), "{health}");
        let (status, metrics) = get("/metrics").await;
        assert_eq!(status, 200);
        assert!(metrics.contains("concur_auth_renewals_total{"), "{metrics}");
        let ended = Command::new("kill").args(["-s", signal, &service.id().to_string()]).status().unwrap();
        assert!(ended.success());
        let output = service.wait_with_output().unwrap();
        assert_eq!(
            (output.status.code(), &*String::from_utf8(output.stderr).unwrap()),
            (Some(0), ""),
            "{signal}"
        );
    }
}
