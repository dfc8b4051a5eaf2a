//! A fleet on PostgreSQL, with rows to work on.

use std::{cell::Cell, future::Future, time::Duration};

use concur_auth::{AppCredentials, Fleet, FleetBuilder, FleetStore, PostgresFleet};
use tokio::runtime::{Builder, Runtime};
use tokio_postgres::{Client, NoTls};

use super::{
    endpoint::Endpoint,
    members::{self, APP},
};
use crate::postgres::{Database, Options, Postgres};

/// As PostgreSQL is set up when it is installed, apart from where it listens.
pub fn options() -> Options {
    // The statements of the crate are read from the server's view of its connections.
    Options::new().setting("shared_buffers", "128MB").setting("track_activity_query_size", "16kB")
}

pub fn fleet_on(store: impl FleetStore, uri: &str) -> FleetBuilder {
    Fleet::builder().app(AppCredentials::new(APP, "secret")).base_uri(uri).store(store)
}

/// A runtime as programs have it.
pub fn runtime() -> Runtime {
    Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime")
}

pub struct Stage<'a> {
    pub runtime: Runtime,
    pub endpoint: Endpoint,
    pub database: Database<'a>,
    pub observer: Client,
    looks: Cell<u64>,
}

impl<'a> Stage<'a> {
    pub fn new(postgres: &'a Postgres) -> Self {
        let (runtime, endpoint, database) = (runtime(), Endpoint::start(), postgres.database());
        let store = PostgresFleet::new(&database.url()).expect("a URL");
        runtime.block_on(store.migrate()).expect("a database");
        let observer = client(&runtime, &database.url());
        Self { runtime, endpoint, database, observer, looks: Cell::new(0) }
    }

    pub fn store(&self) -> PostgresFleet {
        PostgresFleet::new(&self.database.url()).expect("a URL")
    }

    pub fn builder(&self) -> FleetBuilder {
        fleet_on(self.store(), &self.endpoint.uri)
    }

    pub fn fleet(&self) -> Fleet {
        self.builder().build().expect("a fleet")
    }

    pub fn block_on<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(work)
    }

    /// Companies 1 to `count`, which got their tokens `ago` (of SQL).
    pub fn insert(&self, app: &str, count: usize, geolocation: &str, ago: &str) {
        self.database.psql(&members::insert(app, count, geolocation, ago));
        self.tidy();
    }

    /// So that what one measurement leaves behind is no load of the next.
    pub fn tidy(&self) {
        self.database.psql("VACUUM ANALYZE concur_auth_tokens");
        self.database.psql("CHECKPOINT");
    }

    /// Companies 1 to `count` of this app are due.
    pub fn make_due(&self, app: &str, count: usize) {
        // Company `n`'s name ends with `n`.
        self.database.psql(&format!(
            "UPDATE concur_auth_tokens SET renew_at = now() - interval '1 minute'
              WHERE app_id = '{app}' AND right(principal, 12) <= lpad(to_hex({count}), 12, '0')"
        ));
        self.tidy();
    }

    /// How many rows of the app hold a lease now.
    pub fn leased(&self, app: &str) -> i64 {
        self.looks.set(self.looks.get() + 1);
        let count = format!(
            "SELECT count(*) FROM concur_auth_tokens WHERE app_id = '{app}' AND lease_owner IS NOT NULL"
        );
        let rows = self.runtime.block_on(self.observer.query_typed(&count, &[])).expect("a database");
        rows[0].get(0)
    }

    /// Waits until what was renewed is saved.
    pub fn until_saved(&self, app: &str) {
        while self.leased(app) > 0 {
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Each company's row from 1 to `count` was saved `times` in addition to what [`insert`](Self::insert) left there.
    pub fn assert_saved(&self, app: &str, count: usize, times: usize) {
        let other = self.database.psql(&format!(
            "SELECT count(*) FILTER (WHERE version = 1 + {times}) || ' of ' || count(*) FROM concur_auth_tokens
              WHERE app_id = '{app}' AND right(principal, 12) <= lpad(to_hex({count}), 12, '0')"
        ));
        assert_eq!(other, format!("{count} of {count}"), "rows that were saved {times} times");
    }

    /// Bytes of write-ahead log so far.
    pub fn log_position(&self) -> u64 {
        self.database
            .psql("SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::bigint")
            .parse()
            .expect("a number")
    }

    pub fn number(&self, select: &str) -> f64 {
        self.database.psql(select).parse().expect("a number")
    }

    /// Transactions so far, by the server's count, and connections that were open. Each connection that was opened counts as a
    /// transaction, too. A connection that ends has told its count, so all are ended; the looks of this stage are no part of it.
    pub fn transactions(&self) -> (u64, u64) {
        let ended = self.database.terminate_connections() as u64;
        let name = self.database.name();
        let count =
            format!("SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = '{name}'");
        let count: u64 = self.database.postgres().psql(&count).parse().expect("a number");
        (count - self.looks.get(), ended)
    }
}

pub fn client(runtime: &Runtime, url: &str) -> Client {
    let connecting = tokio_postgres::connect(url, NoTls);
    let (client, connection) = runtime.block_on(connecting).expect("a database");
    runtime.spawn(connection);
    client
}
