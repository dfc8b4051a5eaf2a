//! A hundred companies kept signed in, first in a folder, then in PostgreSQL if that is installed: they connect, their tokens
//! are due, two workers share the renewals, one worker is killed in the middle, and the other does the rest.
//!
//! ```text
//! cargo run --example fleet --all-features
//! ```
//!
//! Each worker is a process of its own, which is told where the tokens are. It uses a simulated Concur that this program
//! starts itself.

#[cfg(unix)]
#[path = "../tests/support/postgres/mod.rs"]
mod postgres;

use std::{
    env,
    error::Error,
    future,
    io::{self, BufRead, BufReader, Write},
    process::{Child, Command, Stdio},
    time::Duration,
};

use concur_auth::{
    AppCredentials, Clock, Fleet, FolderFleet, Grant, PostgresFleet, RefreshTokenObject, SystemClock,
    simulator::{ConcurSimulator, Rotation, SimulatedCompany},
};
use serde_json::json;

const COMPANIES: usize = 100;
/// How a worker learns where the tokens are: it may hold a password, and other users of the machine see arguments.
const PLACE: &str = "CONCUR_AUTH_FLEET_PLACE";
/// Instead of 90 seconds, and an hour, for which a reader of the output would have to wait.
const SHORT: Duration = Duration::from_secs(2);

type Outcome<T> = Result<T, Box<dyn Error>>;

/// The fleet of all processes of this example. Only the store differs.
fn fleet(place: &str, base_uri: &str, app: AppCredentials) -> Outcome<Fleet> {
    let builder =
        Fleet::builder().app(app).base_uri(base_uri).max_concurrent(16).max_requests_per_second(50.0);
    let builder = if place.starts_with("postgres") {
        builder.store(PostgresFleet::new(place)?.lease(SHORT).doubt(SHORT))
    } else {
        builder.store(FolderFleet::new(place))
    };
    Ok(builder.build()?)
}

/// What a worker is.
async fn worker(base_uri: &str) -> Outcome<()> {
    let fleet = fleet(&env::var(PLACE)?, base_uri, AppCredentials::from_env()?)?;
    let _kept = fleet.keep_alive().await?;
    writeln!(io::stdout(), "works")?;
    future::pending().await
}

struct Story<'a> {
    concur: &'a ConcurSimulator,
    place: String,
    fleet: Fleet,
}

impl Story<'_> {
    fn start_worker(&self) -> Outcome<Child> {
        let app = self.concur.app();
        let mut worker = Command::new(env::current_exe()?)
            .args(["worker", &self.concur.base_uri()])
            .envs([("CONCUR_APP_ID", app.id()), ("CONCUR_CLIENT_SECRET", app.secret())])
            .env(PLACE, &self.place)
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        BufReader::new(worker.stdout.as_mut().ok_or("no output")?).read_line(&mut line)?;
        if line.is_empty() { Err("a worker failed".into()) } else { Ok(worker) }
    }

    async fn connect(&self) -> Outcome<Vec<SimulatedCompany>> {
        let mut companies = Vec::new();
        for _ in 0..COMPANIES {
            let company = self.concur.add_company();
            self.fleet.connect(Grant::company_request_token(company.uuid(), company.request_token())).await?;
            companies.push(company);
        }
        Ok(companies)
    }

    /// As if another system had kept the tokens until now, which did not know when they expire: they are due at once.
    async fn make_due(&self, companies: &[SimulatedCompany]) -> Outcome<()> {
        for company in companies {
            let token = self.fleet.company(company.uuid()).get_valid_refresh_token().await?;
            let known = json!({
                "refresh_token": token.secret(),
                "companyUUID": company.uuid(),
                "geolocation": token.geolocation(),
            });
            self.fleet.adopt(company.uuid(), RefreshTokenObject::from_json(&known.to_string())?).await?;
        }
        Ok(())
    }

    async fn tell(&self) -> Outcome<()> {
        let mut out = io::stdout();
        let before = self.concur.count("refresh_token");
        let renewed = || self.concur.count("refresh_token") - before;
        let companies = self.connect().await?;
        writeln!(out, "   {} companies have connected", companies.len())?;
        let access = self.fleet.company(companies[0].uuid()).access_token().await?;
        writeln!(out, "   the first one's access token expires at {}", access.expires_at())?;

        self.make_due(&companies).await?;
        let mut workers = [self.start_worker()?, self.start_worker()?];
        while renewed() < COMPANIES / 4 {
            SystemClock.sleep(Duration::from_millis(20)).await;
        }
        let [killed, other] = &mut workers;
        killed.kill()?;
        killed.wait()?;
        writeln!(out, "   two workers share the renewals; one is killed after {} of them", renewed())?;
        while renewed() < COMPANIES {
            SystemClock.sleep(Duration::from_millis(20)).await;
        }
        SystemClock.sleep(SHORT).await;
        other.kill()?;
        other.wait()?;
        writeln!(out, "   the other worker goes on: {} renewals of {COMPANIES} tokens", renewed())?;

        let health = self.fleet.health().await?;
        writeln!(out, "   signed in: {}, needing a person: {}", health.active, health.needing_a_person)?;
        // The worker was killed while Concur had rotated a token, and before it was saved: no program can prevent that.
        for member in self.fleet.needing_a_person().await? {
            writeln!(out, "   {}: {}", member.uuid, member.needs.unwrap_or_default())?;
        }
        self.fleet.disconnect(companies[0].uuid()).await?;
        writeln!(out, "   disconnected: {}\n", companies[0].uuid())?;
        self.fleet.shutdown(Duration::from_secs(10)).await?;
        Ok(())
    }
}

async fn story(place: String) -> Outcome<()> {
    let concur = ConcurSimulator::builder().rotation(Rotation::AlwaysAndRevokeFamily).start().await;
    let app = concur.app();
    let fleet = fleet(&place, &concur.base_uri(), AppCredentials::new(app.id(), app.secret()))?;
    Story { concur: &concur, place, fleet }.tell().await
}

#[tokio::main]
async fn main() -> Outcome<()> {
    let arguments: Vec<_> = env::args().skip(1).collect();
    if let [role, base_uri] = &*arguments
        && role == "worker"
    {
        return worker(base_uri).await;
    }
    let folder = tempfile::tempdir()?;
    writeln!(io::stdout(), "in a folder")?;
    story(folder.path().join("tokens").display().to_string()).await?;
    #[cfg(unix)]
    if let Some(postgres) = postgres::Postgres::start("examples/fleet.rs, the part in PostgreSQL") {
        let database = postgres.database();
        PostgresFleet::new(&database.url())?.migrate().await?;
        writeln!(io::stdout(), "in PostgreSQL")?;
        story(database.url()).await?;
    }
    Ok(())
}
