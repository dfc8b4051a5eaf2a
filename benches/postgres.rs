//! One company on PostgreSQL: a renewal, a look at the row, and the load of callers that wait for another machine.
//!
//! A renewal, `refresh()`, is compared with a bare loop on the same server and the same kind of row that claims with
//! `UPDATE … RETURNING`, sends the same form, and saves with `UPDATE`: tokio-postgres and reqwest, as many round trips,
//! and no guarantee. `get_valid_refresh_token()` is compared with a bare `SELECT`. The server counts the statements. The
//! callers that wait are compared with loops that look at the row every 50 ms.
//!
//! PostgreSQL is started in a temporary folder, with its own settings for durability: each commit is an fsync. The same
//! without fsyncs shows what the crate itself costs.

#![allow(missing_docs, reason = "criterion's macros make undocumented functions")]
#![allow(clippy::disallowed_methods, clippy::print_stdout, reason = "benches measure real time and print it")]

#[cfg(unix)]
#[path = "../tests/support/postgres/mod.rs"]
mod postgres;
mod support;

use criterion::{criterion_group, criterion_main};

#[cfg(unix)]
mod on_unix {
    use std::{
        future::Future,
        time::{Duration, Instant},
    };

    use concur_auth::{Credentials, PostgresStore, TokenManager, reqwest};
    use criterion::Criterion;
    use tokio::runtime::{Builder, Runtime};
    use tokio_postgres::{
        Client, NoTls, Row,
        types::{ToSql, Type},
    };

    use super::{
        postgres::{Database, Options, Postgres},
        support::{self, beside, human, rounds, server::Server},
    };

    const PRINCIPAL: &str = "0b8e2f6c-4d7a-4c1e-9f3a-6a2d5c7b8e90";
    /// The bare loop has a row of its own in the same table.
    const BARE: &str = "bare";
    /// At least 70 % of the renewals per second of the bare loop.
    const GOAL: f64 = 1.43;
    const WAITING: usize = 8;

    const BARE_CLAIM: &str = "
        UPDATE concur_auth_tokens SET lease_owner = $2, lease_until = now() + interval '90 seconds'
         WHERE app_id = '' AND principal = $1 AND (lease_until IS NULL OR lease_until <= now())
     RETURNING token";
    const BARE_SAVE: &str = "
        UPDATE concur_auth_tokens
           SET token = $2, version = version + 1, lease_owner = NULL, lease_until = NULL, updated_at = now()
         WHERE app_id = '' AND principal = $1";
    const BARE_READ: &str = "
        SELECT token, refusal, save_id FROM concur_auth_tokens WHERE app_id = '' AND principal = $1";

    struct Stage<'a> {
        runtime: Runtime,
        server: Server,
        database: Database<'a>,
    }

    impl<'a> Stage<'a> {
        fn new(postgres: &'a Postgres) -> Self {
            let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
            let (server, database) = (Server::start(), postgres.database());
            let stage = Self { runtime, server, database };
            stage.runtime.block_on(stage.store().migrate()).expect("a database");
            stage
        }

        fn store(&self) -> PostgresStore {
            PostgresStore::new(&self.database.url(), PRINCIPAL).expect("a URL")
        }

        /// As on another machine: with connections of its own.
        fn machine(&self) -> TokenManager {
            TokenManager::builder()
                .credentials(Credentials::new("app", "secret").company("uuid", "token"))
                .base_uri(&self.server.uri)
                .store(self.store())
                .build()
                .expect("a manager")
        }

        fn client(&self) -> Client {
            let url = self.database.url();
            let connecting = tokio_postgres::connect(&url, NoTls);
            let (client, connection) = self.runtime.block_on(connecting).expect("a database");
            self.runtime.spawn(connection);
            client
        }

        fn bare(&self) -> Bare<'_> {
            let bare = Bare { stage: self, database: self.client(), http: reqwest::Client::new() };
            self.database.psql(&format!(
                "INSERT INTO concur_auth_tokens (app_id, principal, token) VALUES ('', '{BARE}', '{}')",
                support::STORED
            ));
            bare
        }

        fn block_on<T>(&self, work: impl Future<Output = T>) -> T {
            self.runtime.block_on(work)
        }

        /// Transactions so far, which are statements here, and one for each connection that was opened. A connection that
        /// ends has told its count.
        fn transactions(&self) -> u64 {
            self.database.terminate_connections();
            let name = self.database.name();
            let count =
                format!("SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = '{name}'");
            self.database.postgres().psql(&count).parse().expect("a number")
        }
    }

    struct Bare<'a> {
        stage: &'a Stage<'a>,
        database: Client,
        http: reqwest::Client,
    }

    /// In one round trip, as the crate does.
    async fn statement(client: &Client, text: &str, parameters: &[&(dyn ToSql + Sync)]) -> Vec<Row> {
        let parameters: Vec<_> = parameters.iter().map(|it| (*it, Type::TEXT)).collect();
        client.query_typed(text, &parameters).await.expect("a database")
    }

    impl Bare<'_> {
        async fn renew(&self) {
            let claimed =
                self.database.query_typed(BARE_CLAIM, &[(&BARE, Type::TEXT), (&"bare", Type::TEXT)]);
            let claimed = claimed.await.expect("a database");
            let stored: serde_json::Value = serde_json::from_str(claimed[0].get(0)).expect("a token");
            let refresh_token = stored["refresh_token"].as_str().expect("a token");
            let form = format!(
                "client_id=app&client_secret=secret&grant_type=refresh_token&refresh_token={refresh_token}"
            );
            let request = self.http.post(format!("{}/oauth2/v0/token", self.stage.server.uri));
            let request = request.header("content-type", "application/x-www-form-urlencoded").body(form);
            let reply = request.send().await.expect("a server").text().await.expect("a reply");
            self.statement(BARE_SAVE, &[&BARE, &reply]).await;
        }

        async fn read(&self) {
            assert_eq!(self.statement(BARE_READ, &[&BARE]).await.len(), 1);
        }

        async fn statement(&self, text: &str, parameters: &[&(dyn ToSql + Sync)]) -> Vec<Row> {
            statement(&self.database, text, parameters).await
        }
    }

    fn renewals(criterion: &mut Criterion, postgres: &Postgres, what: &str, goal: Option<f64>) {
        let stage = Stage::new(postgres);
        let (bare, machine) = (stage.bare(), stage.machine());
        beside(
            criterion,
            &format!("{what}: a renewal"),
            goal,
            |n| rounds(n, || stage.block_on(bare.renew())),
            |n| rounds(n, || stage.block_on(machine.refresh()).expect("a token")),
        );
        beside(
            criterion,
            &format!("{what}: get_valid_refresh_token()"),
            None,
            |n| rounds(n, || stage.block_on(bare.read())),
            |n| rounds(n, || stage.block_on(machine.get_valid_refresh_token()).expect("a token")),
        );
    }

    fn statements(postgres: &Postgres) {
        let stage = Stage::new(postgres);
        let machine = stage.machine();
        stage.block_on(machine.refresh()).expect("a token");
        let renewals: u32 = if support::is_dry_run() { 10 } else { 1000 };
        let before = stage.transactions();
        for _ in 0..renewals {
            stage.block_on(machine.refresh()).expect("a token");
        }
        let counted = stage.transactions() - before;
        println!(
            "  >> {renewals} renewals: {counted} transactions, by the server's count, one of them to connect: {:.3} a \
             renewal (goal: 2.1 at most)",
            counted as f64 / f64::from(renewals)
        );
    }

    /// What it costs that [`WAITING`] callers wait for a renewal.
    struct Load {
        /// Of those that wait, also before and after the renewal.
        statements: u64,
        /// Nanoseconds from the end of the renewal until each has the token.
        late: Vec<f64>,
    }

    impl Load {
        fn say(mut self, what: &str, lasts: Duration) {
            self.late.sort_by(f64::total_cmp);
            println!(
                "  >> a renewal takes {lasts:?}, {WAITING} {what} wait: {} statements, {:.1} a second; they have the token \
                 {} after its end (median), the last one {}",
                self.statements,
                self.statements as f64 / lasts.as_secs_f64(),
                human(self.late[self.late.len() / 2]),
                human(self.late[self.late.len() - 1]),
            );
        }
    }

    /// One machine renews, and the others wait.
    fn machines_that_wait(postgres: &Postgres, lasts: Duration) -> Load {
        let stage = Stage::new(postgres);
        let machines: Vec<_> = (0..=WAITING).map(|_| stage.machine()).collect();
        let before = stage.transactions();
        stage.server.hold();
        let (mut late, released) = stage.block_on(async {
            let calls: Vec<_> = machines
                .into_iter()
                .map(|machine| {
                    tokio::spawn(async move {
                        machine.access_token().await.expect("a token");
                        Instant::now()
                    })
                })
                .collect();
            tokio::time::sleep(lasts).await;
            let released = Instant::now();
            stage.server.release();
            let mut ends = Vec::new();
            for call in calls {
                ends.push(call.await.expect("no panic"));
            }
            (ends, released)
        });
        late.sort();
        assert_eq!(stage.server.requests(), 1);
        // The first is the one that renewed.
        let late = late.iter().skip(1).map(|end| (*end - released).as_secs_f64() * 1e9).collect();
        let connections = WAITING as u64 + 1;
        // The renewal's own claim and save.
        Load { statements: stage.transactions() - before - connections - 2, late }
    }

    /// The same by loops that look every 50 ms whether there is a new token.
    fn loops_that_look(postgres: &Postgres, lasts: Duration) -> Load {
        let stage = Stage::new(postgres);
        stage.bare();
        let before = stage.transactions();
        let clients: Vec<_> = (0..=WAITING).map(|_| stage.client()).collect();
        let (ends, released) = stage.block_on(async {
            let mut clients = clients.into_iter();
            let renewing = clients.next().expect("a client");
            let calls: Vec<_> = clients
                .map(|client| {
                    tokio::spawn(async move {
                        let look =
                            "SELECT token FROM concur_auth_tokens WHERE principal = $1 AND version > 0";
                        while client
                            .query_typed(look, &[(&BARE, Type::TEXT)])
                            .await
                            .expect("a row")
                            .is_empty()
                        {
                            tokio::time::sleep(Duration::from_millis(50)).await;
                        }
                        Instant::now()
                    })
                })
                .collect();
            tokio::time::sleep(lasts).await;
            let released = Instant::now();
            statement(&renewing, BARE_SAVE, &[&BARE, &support::STORED]).await;
            let mut ends = Vec::new();
            for call in calls {
                ends.push(call.await.expect("no panic"));
            }
            (ends, released)
        });
        let late = ends.iter().map(|end| (*end - released).as_secs_f64() * 1e9).collect();
        let connections = WAITING as u64 + 1;
        Load { statements: stage.transactions() - before - connections - 1, late }
    }

    pub(super) fn on_postgres(criterion: &mut Criterion) {
        support::explain(include_str!("postgres.rs"));
        let Some(postgres) = Postgres::start("benches/postgres.rs") else { return };
        renewals(criterion, &postgres, "PostgreSQL", Some(GOAL));
        statements(&postgres);
        let seconds = if support::is_dry_run() { vec![0.1] } else { vec![2.0, 10.0] };
        for lasts in seconds.into_iter().map(Duration::from_secs_f64) {
            machines_that_wait(&postgres, lasts).say("machines", lasts);
            loops_that_look(&postgres, lasts).say("loops that look every 50 ms", lasts);
        }
        let options = Options::new().without_fsync();
        let Some(postgres) = Postgres::start_with("benches/postgres.rs", &options) else { return };
        renewals(criterion, &postgres, "PostgreSQL without fsync", None);
    }
}

fn on_postgres(criterion: &mut criterion::Criterion) {
    #[cfg(unix)]
    on_unix::on_postgres(criterion);
    #[cfg(not(unix))]
    let _ = criterion;
}

criterion_group! {
    name = benches;
    config = support::criterion().sample_size(50);
    targets = on_postgres
}
criterion_main!(benches);
