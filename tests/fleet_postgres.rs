//! A fleet in PostgreSQL.

#![cfg(all(feature = "postgres", feature = "simulator", unix))]

#[path = "support/postgres/mod.rs"]
mod postgres;
#[path = "fleet/suite.rs"]
#[macro_use]
mod suite;
mod support;

use std::time::Duration;

use concur_auth::{PostgresFleet, simulator::ManualClock};

use self::{
    postgres::{Database, Postgres},
    suite::Place,
};

struct Table(Database<'static>);

impl Table {
    /// `None`, after the test was said to be skipped, where PostgreSQL is not installed.
    fn available() -> Option<impl FnOnce(&ManualClock) -> Self> {
        let name = std::thread::current().name().unwrap_or("a test").to_owned();
        let postgres = Postgres::shared(&name)?;
        Some(|_: &ManualClock| {
            let table = Self(postgres.database());
            table.0.psql(&PostgresFleet::schema());
            table
        })
    }
}

impl Place for Table {
    type Store = PostgresFleet;

    fn store(&self) -> PostgresFleet {
        PostgresFleet::new(&self.0.url()).unwrap()
    }

    fn pass(&self, time: Duration) {
        self.0.psql(&format!(
            "UPDATE concur_auth_tokens SET renew_at = renew_at - make_interval(secs => {seconds}),
                    refresh_expires_at = refresh_expires_at - make_interval(secs => {seconds})",
            seconds = time.as_secs_f64()
        ));
    }

    fn names(&self) -> Vec<String> {
        let names = self.0.psql("SELECT principal FROM concur_auth_tokens ORDER BY principal");
        names.lines().map(str::to_owned).collect()
    }
}

suite!(Table::available());
