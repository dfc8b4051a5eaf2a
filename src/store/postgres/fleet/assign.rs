//! The move of a token to the principal whose it is.
//!
//! Always: the token is under one of the two names, whatever fails. It does not leave the database. What another process saves
//! late for the principal, or is just renewing, is superseded, as it is after a sign-in.

use tokio_postgres::types::Type;

use super::PostgresFleet;
use crate::{
    Error, ErrorKind,
    store::{
        postgres::{connection::Parameters, database::LIMIT, row::column, statements::fleet as statements},
        renewal_time::jitter,
    },
};

pub(super) async fn assign(
    fleet: &PostgresFleet,
    app_id: &str,
    pending: &str,
    principal: &str,
) -> Result<(), Error> {
    let from = fleet.row(app_id, pending);
    if pending == principal {
        let message =
            format!("{from} was to be assigned to itself; name the company or user whose token it is");
        return Err(Error::new(ErrorKind::Config, message));
    }
    let both: &Parameters<'_> = &[(&app_id, Type::TEXT), (&pending, Type::TEXT), (&principal, Type::TEXT)];
    let mut transaction = fleet.database.transaction(LIMIT).await?;
    let mut found = None;
    for row in transaction.query(statements::LOCK_BOTH, both).await? {
        if column(&fleet.database, &row, 0)? {
            found = Some((column(&fleet.database, &row, 1)?, column(&fleet.database, &row, 2)?));
        }
    }
    match found {
        Some((_, true)) => {
            let message = format!(
                "the token in {from} was not assigned to {principal}: it is being saved or renewed just now; try again in a moment"
            );
            return Err(Error::new(ErrorKind::Store, message).transient());
        }
        Some((true, false)) => {}
        _ => {
            let message = format!(
                "there is no token in {from} for {principal}: it was assigned before, or was never saved; see whether {principal} \
                 is signed in, or sign in again"
            );
            return Err(Error::new(ErrorKind::Config, message));
        }
    }
    let jitter = jitter(principal);
    let move_to: &Parameters<'_> = &[both, &[(&jitter, Type::FLOAT8)]].concat();
    transaction.query(statements::ASSIGN, move_to).await?;
    transaction.query(statements::DELETE, &both[..2]).await?;
    transaction.commit().await
}
