//! The tables, and how they came to be: one step for each version.
//!
//! Always: a step that was released is never changed; several processes that migrate at once do it one after the other; a
//! newer schema than this version knows is left alone.

use std::time::Duration;

use tokio_postgres::{
    Row,
    types::{FromSql, Type},
};

use super::database::Database;
use crate::{Error, ErrorKind};

/// The versions, oldest first. What a step makes belongs to the first schema of the role's `search_path`.
const STEPS: [&str; 2] = [include_str!("version_1.sql"), include_str!("version_2.sql")];

/// Ends with the transaction, so PgBouncer may be in between. The number stands for this crate's name.
const ALONE: &str = "SELECT pg_advisory_xact_lock(4848274210973562741)";

/// Where the versions are noted.
const VERSIONS: &str = include_str!("versions.sql");
const ARE_THERE: &str = "SELECT to_regclass('concur_auth_schema') IS NOT NULL";
const LATEST: &str = "SELECT coalesce(max(version), 0) FROM concur_auth_schema";
const NOTE: &str = "INSERT INTO concur_auth_schema (version) VALUES ($1)";
/// A step may have to wait for another process that migrates.
const LONGEST_STATEMENT: Duration = Duration::from_secs(60);

/// All of it as one text, for administrators.
pub(super) fn as_text() -> String {
    let steps = STEPS.iter().zip(1..).map(|(step, version)| {
        format!("\n{step}\nINSERT INTO concur_auth_schema (version) VALUES ({version});\n")
    });
    format!("BEGIN;\n{VERSIONS}{}COMMIT;\n", steps.collect::<String>())
}

/// Brings the tables up to date, in one transaction. A role that may only use them finds them up to date.
pub(super) async fn migrate(database: &Database) -> Result<(), Error> {
    let are_there = database.query(ARE_THERE, &[]).await?;
    if first(&are_there)? && steps_done(database, &database.query(LATEST, &[]).await?)? == STEPS.len() {
        return Ok(());
    }
    let mut transaction = database.transaction(LONGEST_STATEMENT).await?;
    transaction.execute(ALONE).await?;
    transaction.execute(VERSIONS).await?;
    let done = steps_done(database, &transaction.query(LATEST, &[]).await?)?;
    for (step, version) in STEPS.iter().zip(1_i32..).skip(done) {
        transaction.execute(step).await?;
        transaction.query(NOTE, &[(&version, Type::INT4)]).await?;
    }
    transaction.commit().await
}

/// How many steps the database has behind it.
fn steps_done(database: &Database, latest: &[Row]) -> Result<usize, Error> {
    let version: i32 = first(latest)?;
    match usize::try_from(version) {
        Ok(done) if done <= STEPS.len() => Ok(done),
        _ => {
            let message = format!(
                "{} has version {version} of the tables, and this version of concur-auth knows {}; upgrade this program",
                database.describe(),
                STEPS.len()
            );
            Err(Error::new(ErrorKind::Config, message))
        }
    }
}

fn first<'r, T: FromSql<'r>>(rows: &'r [Row]) -> Result<T, Error> {
    rows.first().and_then(|row| row.try_get(0).ok()).ok_or_else(|| {
        let message =
            "the table concur_auth_schema is not as PostgresStore::migrate makes it; rename or drop it";
        Error::new(ErrorKind::Config, message)
    })
}
