//! SAP's "Tutorial 2: refresh token management automation", for real use.
//!
//! ```text
//! cargo run --example refresh_token_management -- [--dir DIR] [--base-uri URI]
//! ```
//!
//! Run it again and again in one folder: the first run writes a `credentials.json` template, the next run obtains a
//! refresh token, later runs use or renew it. Exit code 0: there is a valid refresh token. 2: you have something to do,
//! and the message says what. 64: wrong usage. 1: any other error. 130 and 143: ended by a signal. `RUST_LOG=concur_auth=info` shows
//! the requests.

use std::{
    error::Error as _,
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use concur_auth::{
    Clock as _, CredentialsFile, Error, ErrorKind, JsonFileStore, SystemClock, TokenManager, TokenOrigin,
    time::OffsetDateTime,
};
use tracing_subscriber::EnvFilter;

struct Arguments {
    dir: PathBuf,
    base_uri: Option<String>,
}

/// How long to wait, before the program ends, for a renewal and for room on the disk.
const PATIENCE: Duration = Duration::from_secs(10);
const USAGE: &str = "usage: refresh_token_management [--dir DIR] [--base-uri URI]";

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    tracing_subscriber::fmt().with_env_filter(EnvFilter::from_default_env()).with_writer(io::stderr).init();
    let Some(arguments) = arguments(std::env::args_os().skip(1)) else {
        return say(io::stderr(), USAGE, 64);
    };
    let tokens = match manager(arguments).await {
        Ok(tokens) => tokens,
        Err(e) => return say(io::stderr(), &explain(&e), exit_code(&e)),
    };
    tokio::select! {
        // The signals first, so that they are waited for before anything is sent.
        biased;
        // A signal's default action ends the process at once, and a token that Concur has just issued would be lost.
        code = signal() => {
            say(io::stderr(), "Interrupted; waiting for a renewal under way.", code);
            match tokens.shutdown(PATIENCE).await {
                Ok(()) => ExitCode::from(code),
                Err(e) => say(io::stderr(), &explain(&e), code),
            }
        }
        outcome = run(&tokens) => match outcome {
            Ok(report) => say(io::stdout(), &report, 0),
            Err(e) => say(io::stderr(), &explain(&e), exit_code(&e)),
        },
    }
}

/// Waits for Ctrl-C or SIGTERM; returns the exit code that a shell gives to a program ended by that signal.
async fn signal() -> u8 {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let Ok(mut terminate) = signal(SignalKind::terminate()) {
            return tokio::select! {
                Some(()) = terminate.recv() => 128 + 15,
                Ok(()) = tokio::signal::ctrl_c() => 128 + 2,
                else => std::future::pending().await,
            };
        }
    }
    match tokio::signal::ctrl_c().await {
        Ok(()) => 128 + 2,
        Err(_) => std::future::pending().await,
    }
}

async fn manager(arguments: Arguments) -> Result<TokenManager, Error> {
    match arguments.base_uri {
        None => TokenManager::load_from(&arguments.dir).await,
        Some(uri) => TokenManager::builder()
            .credentials(CredentialsFile::new(arguments.dir.join("credentials.json")))
            .store(JsonFileStore::new(arguments.dir.join("refreshTokenObjectFile.json")))
            .base_uri(uri)
            .build(),
    }
}

async fn run(tokens: &TokenManager) -> Result<String, Error> {
    let token = tokens.get_valid_refresh_token().await?;
    // A token that could not be saved yet is of no use to the next run.
    tokens.shutdown(PATIENCE).await?;
    let origin = match tokens.status().source {
        Some(TokenOrigin::Renewed) => "renewed",
        Some(TokenOrigin::Obtained) => "obtained",
        _ => "stored",
    };
    Ok(format!(
        "There is a valid refresh token ({origin}).\n  company:     {}\n  expires:     {}\n  geolocation: {}",
        token.company_uuid().unwrap_or("not known"),
        token.expires_at().map_or_else(|| "not known".to_owned(), expiry),
        token.geolocation().unwrap_or("not known"),
    ))
}

fn expiry(at: OffsetDateTime) -> String {
    let left = at - OffsetDateTime::from(SystemClock.now());
    format!("{at} ({} days and {} hours left)", left.whole_days(), left.whole_hours() % 24)
}

/// The message, and one line for each cause.
fn explain(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(e) = cause {
        text.push_str(&format!("\n  caused by: {e}"));
        cause = e.source();
    }
    text
}

fn exit_code(error: &Error) -> u8 {
    match error.kind() {
        ErrorKind::CredentialsNeeded | ErrorKind::CredentialsInvalid | ErrorKind::ReauthorizationRequired => {
            2
        }
        _ => 1,
    }
}

fn arguments(mut given: impl Iterator<Item = std::ffi::OsString>) -> Option<Arguments> {
    let mut arguments = Arguments { dir: PathBuf::from("."), base_uri: None };
    while let Some(flag) = given.next() {
        match flag.to_str()? {
            "--dir" => arguments.dir = given.next()?.into(),
            "--base-uri" => arguments.base_uri = Some(given.next()?.into_string().ok()?),
            _ => return None,
        }
    }
    Some(arguments)
}

/// Unlike with `println!`, a closed or full output is no panic; the exit code is still right.
fn say(mut output: impl Write, text: &str, code: u8) -> ExitCode {
    let _ = writeln!(output, "{text}").and_then(|()| output.flush());
    ExitCode::from(code)
}
