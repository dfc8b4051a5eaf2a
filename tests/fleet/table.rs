//! The table of one test's fleets, in a database of its own.

#![allow(unreachable_pub, reason = "two test files use it")]

use std::time::Duration;

use concur_auth::{PostgresFleet, simulator::ManualClock};

use crate::{
    postgres::{Database, Postgres},
    suite::Place,
};

pub struct Table(pub Database<'static>);

impl Table {
    /// `None`, after the test was said to be skipped, where PostgreSQL is not installed.
    pub fn available() -> Option<impl FnOnce(&ManualClock) -> Self> {
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
        // With the table locked: a worker skips rows that are locked, and would take others before them.
        self.0.psql(&format!(
            "BEGIN;
             LOCK TABLE concur_auth_tokens IN EXCLUSIVE MODE;
             UPDATE concur_auth_tokens SET renew_at = renew_at - make_interval(secs => {seconds}),
                    refresh_expires_at = refresh_expires_at - make_interval(secs => {seconds}),
                    updated_at = updated_at - make_interval(secs => {seconds});
             COMMIT",
            seconds = time.as_secs_f64()
        ));
    }

    fn names(&self) -> Vec<String> {
        let names = self.0.psql("SELECT principal FROM concur_auth_tokens ORDER BY principal");
        names.lines().map(str::to_owned).collect()
    }
}
