//! The real program, run as a person runs it: output, exit codes, and no secret even at `RUST_LOG=trace`.

#![cfg(feature = "simulator")]

mod support;

use std::{fs, path::Path, process::Command};

use concur_auth::simulator::ConcurSimulator;

struct Run {
    code: i32,
    stdout: String,
    stderr: String,
}

/// Examples are built before tests run, beside them.
fn program() -> Command {
    let test = std::env::current_exe().unwrap();
    Command::new(test.parent().unwrap().parent().unwrap().join("examples/refresh_token_management"))
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
    assert!(obtained.stdout.starts_with(&format!("A valid refresh token is there (obtained).{rest}")));
    assert!(stored.stdout.starts_with(&format!("A valid refresh token is there (stored).{rest}")));
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
    assert!(foreign.stderr.contains("belongs to company another"), "{}", foreign.stderr);
}

#[test]
fn a_wrong_flag_shows_the_usage() {
    for arguments in [&["--verbose"][..], &["--dir"], &["--base-uri"]] {
        let output = program().args(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
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
