//! One company on several machines, with its token in PostgreSQL: machines that need a token at once, the row as an
//! operator sees it, and a machine that dies while it renews.
//!
//! ```text
//! cargo run --example postgres_store --features postgres,simulator
//! ```
//!
//! PostgreSQL is started in a temporary folder, if it is installed. To use another one, set `CONCUR_AUTH_POSTGRES_URL`: this
//! makes the tables there, and leaves a row. Each machine is a process of its own, which is told the database and the
//! credentials.

#[cfg(unix)]
#[path = "../tests/support/postgres/mod.rs"]
mod postgres;

use std::{
    env,
    error::Error,
    future,
    io::{self, BufRead, BufReader, Write},
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use concur_auth::{
    Clock, CredentialsFile, PostgresStore, SystemClock, TokenManager, TokenStore,
    simulator::{ConcurSimulator, Rotation},
};

const URL: &str = "CONCUR_AUTH_POSTGRES_URL";
/// Instead of 90 seconds, for which a reader of the output would have to wait.
const SHORT_LEASE: Duration = Duration::from_secs(3);

/// Every column but the token.
const ROW: &str = "SELECT state, version, refresh_expires_at::date AS expires, renew_at::date AS renew_at,
       lease_owner IS NOT NULL AS leased, in_doubt_since IS NOT NULL AS in_doubt, failures
  FROM concur_auth_tokens;";

/// What runs on each machine.
async fn machine(task: &str, principal: &str, credentials: &str) -> Result<(), Box<dyn Error>> {
    let mut out = io::stdout();
    let store = PostgresStore::new(&env::var(URL)?, principal)?;
    if task == "die" {
        let _lease = store.lease(SHORT_LEASE).try_lock().await?.ok_or("another machine has the lease")?;
        writeln!(out, "has the lease")?;
        return future::pending().await;
    }
    let tokens =
        TokenManager::builder().credentials(CredentialsFile::new(credentials)).store(store).build()?;
    if task == "renew" {
        tokens.refresh().await?;
    }
    let access = tokens.access_token().await?;
    let how = tokens.status().source.ok_or("no token")?;
    writeln!(out, "has a token that expires at {}: {how}", access.expires_at())?;
    Ok(())
}

/// The processes, and what they are told.
struct Machines<'a> {
    url: String,
    principal: String,
    credentials: &'a Path,
}

impl Machines<'_> {
    fn start(&self, task: &str) -> io::Result<Child> {
        let mut command = Command::new(env::current_exe()?);
        command.args(["machine", task, &self.principal]).arg(self.credentials);
        // Not as an argument, which other users of the machine see: it may hold a password.
        command.env(URL, &self.url).stdout(Stdio::piped()).spawn()
    }
}

/// The next line that a machine says.
fn said(machine: &mut Child) -> Result<String, Box<dyn Error>> {
    let mut line = String::new();
    BufReader::new(machine.stdout.as_mut().ok_or("no output")?).read_line(&mut line)?;
    let line = line.trim_end();
    if line.is_empty() { Err("a machine failed".into()) } else { Ok(line.to_owned()) }
}

async fn story(url: String, show_row: impl Fn() -> io::Result<String>) -> Result<(), Box<dyn Error>> {
    let mut out = io::stdout();
    // Every renewal gives a new refresh token and ends the one before: to lose one is to be signed out.
    let concur = ConcurSimulator::builder().rotation(Rotation::AlwaysAndRevokeFamily).start().await;
    let folder = tempfile::tempdir()?;
    let credentials = folder.path().join("credentials.json");
    std::fs::write(&credentials, concur.credentials_json())?;
    let machines = Machines { url, principal: concur.company_uuid(), credentials: &credentials };

    PostgresStore::new(&machines.url, &machines.principal)?.migrate().await?;
    writeln!(out, "the table is there\n")?;

    writeln!(out, "two machines need a token at once")?;
    let held = concur.hold_replies();
    let mut both = [machines.start("need")?, machines.start("need")?];
    while concur.token_requests() == 0 {
        SystemClock.sleep(Duration::from_millis(10)).await;
    }
    // Concur takes its time, and the other machine asks for the lease.
    SystemClock.sleep(Duration::from_millis(500)).await;
    held.release();
    for (name, machine) in ["A", "B"].into_iter().zip(&mut both) {
        writeln!(out, "   machine {name} {}", said(machine)?)?;
        machine.wait()?;
    }
    writeln!(out, "   requests to Concur: {}\n\n{ROW}\n{}", concur.token_requests(), show_row()?)?;

    writeln!(out, "machine A is killed while it has the lease, which lasts {SHORT_LEASE:?} here")?;
    let mut killed = machines.start("die")?;
    writeln!(out, "   machine A {}", said(&mut killed)?)?;
    killed.kill()?;
    killed.wait()?;
    let start = SystemClock.now();
    writeln!(out, "   killed\n\n{}", show_row()?)?;
    let mut other = machines.start("renew")?;
    let said_by_other = said(&mut other)?;
    let waited = SystemClock.now().duration_since(start)?;
    other.wait()?;
    writeln!(out, "   machine B {said_by_other}, {:.1} s after the kill", waited.as_secs_f64())?;
    writeln!(out, "   requests to Concur: {}\n\n{}", concur.token_requests(), show_row()?)?;
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<_> = env::args().skip(1).collect();
    if let [role, task, principal, credentials] = &*arguments
        && role == "machine"
    {
        return machine(task, principal, credentials).await;
    }
    if let Ok(url) = env::var(URL) {
        return story(url, || Ok("   (to be run with psql)\n".to_owned())).await;
    }
    #[cfg(unix)]
    if let Some(postgres) = postgres::Postgres::start("examples/postgres_store.rs") {
        let database = postgres.database();
        let show_row = || {
            let mut psql = postgres.program("psql");
            let shown = psql.args(["-X", "-d", &database.url(), "-c", ROW]).output()?;
            Ok(String::from_utf8_lossy(&shown.stdout).trim_end().to_owned() + "\n")
        };
        return story(database.url(), show_row).await;
    }
    writeln!(io::stderr(), "install PostgreSQL, or set {URL} to a database's URL; nothing was done")?;
    Ok(())
}
