//! A simulated Concur for programs in any language: the same port, ids and secrets at each start.
//!
//! ```text
//! cargo run --example simulator --features simulator -- [--port 8080] [--rotation never|always|revoke] \
//!     [--per-minute N] [--lock-after N]
//! ```
//!
//! It prints a `credentials.json`, and serves until it is interrupted. `always`: each refresh grant brings a new refresh token, and
//! the one before is refused from then on. `revoke`: and who presents the one before loses the new one, too.

use std::{
    future,
    io::{self, Write},
    process::ExitCode,
};

use concur_auth::simulator::{ConcurSimulator, ConcurSimulatorBuilder, Rotation};

const USAGE: &str =
    "usage: simulator [--port PORT] [--rotation never|always|revoke] [--per-minute N] [--lock-after N]";

#[tokio::main]
async fn main() -> io::Result<ExitCode> {
    let Some(builder) = builder(std::env::args().skip(1)) else {
        writeln!(io::stderr(), "{USAGE}")?;
        return Ok(ExitCode::from(64));
    };
    let concur = builder.start().await;
    tokio::select! {
        // First, so that it is waited for before the program says that it is ready.
        biased;
        interrupted = tokio::signal::ctrl_c() => interrupted?,
        printed = print_and_wait(concur.credentials_json()) => printed?,
    }
    writeln!(io::stderr(), "{} token requests in all", concur.token_requests())?;
    Ok(ExitCode::SUCCESS)
}

async fn print_and_wait(credentials: String) -> io::Result<()> {
    let mut out = io::stdout();
    out.write_all(credentials.as_bytes())?;
    out.flush()?;
    future::pending().await
}

fn builder(mut arguments: impl Iterator<Item = String>) -> Option<ConcurSimulatorBuilder> {
    let mut builder = ConcurSimulator::builder()
        .port(8080)
        .app("5f8a1c3e-0000-4000-8000-00000000a001", "5f8a1c3e-0000-4000-8000-00000000a002")
        .company("5f8a1c3e-0000-4000-8000-00000000a003", "at-simulated-request-token");
    while let Some(flag) = arguments.next() {
        let value = arguments.next()?;
        builder = match flag.as_str() {
            "--port" => builder.port(value.parse().ok()?),
            "--rotation" => builder.rotation(match value.as_str() {
                "never" => Rotation::Never,
                "always" => Rotation::Always,
                "revoke" => Rotation::AlwaysAndRevokeFamily,
                _ => return None,
            }),
            "--per-minute" => builder.requests_per_minute(value.parse().ok()?),
            "--lock-after" => builder.lock_after(value.parse().ok()?),
            _ => return None,
        };
    }
    Some(builder)
}
