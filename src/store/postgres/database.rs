//! One PostgreSQL database: statements in, rows out.
//!
//! Always:
//! - A statement ends within [`LIMIT`], waiting for a connection and opening one included. After a time-out, a lost
//!   connection or a dropped caller it is not known whether the statement was carried out, and nothing more is sent on
//!   that connection.
//! - Nothing is kept in a session: no named statement, no setting, no lock. So a pooler that gives each transaction another
//!   connection, as PgBouncer does, may be in between.
//! - No error holds what the server says about a failed statement, for that may quote the row: only the SQLSTATE.

use std::{fmt, time::Duration};

use tokio_postgres::Row;

use super::{
    connection::{Parameters, Pool, Taken},
    url::Target,
};
use crate::{Clock as _, Error, SystemClock};

/// The longest that a statement may take; a manager waits 10 seconds for a call of its store.
pub(super) const LIMIT: Duration = Duration::from_secs(8);

/// The most connections that are open at once.
const CONNECTIONS: usize = 10;

pub(super) struct Database(Pool);

impl Database {
    /// Reads the URL; nothing connects.
    pub(super) fn new(url: &str) -> Result<Self, Error> {
        Ok(Self(Pool::new(Target::parse(url)?, CONNECTIONS)))
    }

    /// One statement, in a transaction of its own, and one round trip.
    pub(super) async fn query(
        &self,
        statement: &'static str,
        parameters: &Parameters<'_>,
    ) -> Result<Vec<Row>, Error> {
        let mut limit = SystemClock.sleep(LIMIT);
        let mut connection = self.0.take(&mut limit).await?;
        let rows = connection.query(&mut limit, statement, parameters).await?;
        connection.give_back();
        Ok(rows)
    }

    /// Begins a transaction of several statements, each of which may take as long as `limit`. One that is dropped before its
    /// [`commit`](Transaction::commit) changes nothing.
    pub(super) async fn transaction(&self, limit: Duration) -> Result<Transaction<'_>, Error> {
        let mut first = SystemClock.sleep(limit);
        let connection = self.0.take(&mut first).await?;
        let mut transaction = Transaction { connection, limit };
        transaction.execute("BEGIN").await?;
        Ok(transaction)
    }

    /// Database and server in words, without any secret.
    pub(super) fn describe(&self) -> String {
        self.0.target().name.clone()
    }
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let target = self.0.target();
        f.debug_struct("Database")
            .field("name", &target.name)
            .field("user", &target.config.get_user())
            .field("tls", &target.tls)
            .finish()
    }
}

/// Several statements that take effect together, or not at all.
pub(super) struct Transaction<'a> {
    connection: Taken<'a>,
    limit: Duration,
}

impl Transaction<'_> {
    pub(super) async fn query(
        &mut self,
        statement: &'static str,
        parameters: &Parameters<'_>,
    ) -> Result<Vec<Row>, Error> {
        let mut limit = SystemClock.sleep(self.limit);
        self.connection.query(&mut limit, statement, parameters).await
    }

    /// One statement or several, with semicolons between them, without parameters and without rows.
    pub(super) async fn execute(&mut self, statements: &'static str) -> Result<(), Error> {
        let mut limit = SystemClock.sleep(self.limit);
        self.connection.execute(&mut limit, statements).await
    }

    /// An error means that it is not known whether the statements took effect, or, after a statement that failed, that none
    /// did.
    pub(super) async fn commit(mut self) -> Result<(), Error> {
        self.execute("COMMIT").await?;
        self.connection.give_back();
        Ok(())
    }
}
