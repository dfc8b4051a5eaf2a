//! The move of a token to the principal whose it is.
//!
//! Always: the token is under one of the two names, whatever fails. What another process saves
//! late for the principal, or is just renewing, is superseded, as it is after a sign-in.

use tokio_postgres::types::Type;
use zeroize::Zeroizing;

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
    let to = fleet.row(app_id, principal);
    let mut found = None;
    for row in transaction.query(statements::LOCK_BOTH, both).await? {
        let text = column::<Option<String>>(&fleet.database, &row, 1)?.map(Zeroizing::new);
        if column(&fleet.database, &row, 0)? {
            found = Some((text, column(&fleet.database, &row, 2)?));
        } else if let Some(text) = text {
            // What cannot be opened is not overwritten.
            to.token(&text)?;
        }
    }
    let text = match found {
        Some((_, true)) => {
            let message = format!(
                "the token in {from} was not assigned to {principal}: it is being saved or renewed just now; try again in a moment"
            );
            return Err(Error::new(ErrorKind::Store, message).transient());
        }
        Some((Some(text), false)) => text,
        _ => {
            let message = format!(
                "there is no token in {from} for {principal}: it was assigned before, or was never saved; see whether {principal} \
                 is signed in, or sign in again"
            );
            return Err(Error::new(ErrorKind::Config, message));
        }
    };
    let token = from.token(&text)?;
    // Sealed for its new place, or as it is.
    let text = if to.text().is_sealed() { to.text().of(&token)? } else { text };
    let (text, jitter) = (text.as_str(), jitter(principal));
    let move_to: &Parameters<'_> = &[both, &[(&jitter, Type::FLOAT8), (&text, Type::TEXT)]].concat();
    transaction.query(statements::ASSIGN, move_to).await?;
    transaction.query(statements::DELETE, &both[..2]).await?;
    transaction.commit().await
}
