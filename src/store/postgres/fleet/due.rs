//! The claim of a batch of tokens that are due.
//!
//! Always: a row that was claimed is in the answer, or its lease is given back. One row that cannot be read does not keep the
//! others from being renewed.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use tokio_postgres::{Row, types::Type};

use super::{PostgresFleet, members::kind_of};
use crate::{
    Error, log,
    store::{
        DueToken, DueTokens,
        postgres::{
            claim::{Claim, Unanswered, in_background, random_id, release_in_background},
            connection::Parameters,
            database::Database,
            row::column,
            spool::RowHash,
            statements::fleet as statements,
        },
    },
};

/// What a date of the database can be moved by, without an overflow: 100 years.
const LONGEST_MARGIN: Duration = Duration::from_secs(3_162_240_000);
/// With more than so many due, they are no longer all read to find the oldest expiry.
const MANY: i64 = 500;
/// What is due and cannot be claimed is leased, or in doubt: it is not asked for again at once.
const BUSY: Duration = Duration::from_secs(5);

pub(super) async fn claim(fleet: &PostgresFleet, app_id: &str, most: usize) -> Result<DueTokens, Error> {
    let PostgresFleet { database, limits, .. } = fleet;
    fleet.save_what_waits().await?;
    if let Some(margin) = fleet.margin {
        bring_forward(database, app_id, margin, most).await?;
    }
    let (due, next) = look(database, app_id).await?;
    if due == 0 || most == 0 {
        return Ok(DueTokens::new(Vec::new(), next));
    }
    // One for the whole batch: a lease is always looked for by its row and its holder, and these rows are no other holder's.
    let holder = random_id()?;
    let unanswered = Unanswered::new(|| release_all_in_background(database, app_id, &holder));
    let parameters: &Parameters<'_> = &[
        (&app_id, Type::TEXT),
        (&i64::try_from(most).unwrap_or(i64::MAX), Type::INT8),
        (&holder, Type::TEXT),
        (&limits.lease.as_secs_f64(), Type::FLOAT8),
        (&limits.doubt.as_secs_f64(), Type::FLOAT8),
    ];
    let statement = if due > MANY { statements::CLAIM_OF_MANY } else { statements::CLAIM_OF_FEW };
    let rows = database.query(statement, parameters).await?;
    let claimed = rows.len();
    let rows = rows.iter().map(|row| Claimed::of(database, row)).collect::<Result<Vec<_>, _>>()?;
    let waiting = fleet.waiting()?;
    unanswered.answered();
    let (tokens, failed) = locks(fleet, app_id, rows, &holder, &waiting).await;
    let next = if claimed >= most {
        Some(Duration::ZERO)
    } else if tokens.is_empty() {
        Some(BUSY)
    } else if usize::try_from(due).is_ok_and(|due| due > claimed) {
        Some(next.map_or(BUSY, |next| next.min(BUSY)))
    } else {
        next
    };
    let mut due = DueTokens::new(tokens, next);
    due.failed = failed;
    Ok(due)
}

pub(super) async fn count_busy(fleet: &PostgresFleet, app_id: &str) -> Result<u64, Error> {
    let parameters: &Parameters<'_> =
        &[(&app_id, Type::TEXT), (&fleet.limits.doubt.as_secs_f64(), Type::FLOAT8)];
    let rows = fleet.database.query(statements::COUNT_BUSY, parameters).await?;
    let count: Option<i64> = rows.first().map(|row| column(&fleet.database, row, 0)).transpose()?;
    Ok(count.and_then(|count| u64::try_from(count).ok()).unwrap_or(0))
}

/// Has tokens due for the margin, no more than are claimed next.
async fn bring_forward(
    database: &Database,
    app_id: &str,
    margin: Duration,
    most: usize,
) -> Result<(), Error> {
    let parameters: &Parameters<'_> = &[
        (&app_id, Type::TEXT),
        (&i64::try_from(most).unwrap_or(i64::MAX), Type::INT8),
        (&margin.min(LONGEST_MARGIN).as_secs_f64(), Type::FLOAT8),
    ];
    database.query(statements::BRING_FORWARD, parameters).await.map(drop)
}

/// How many are due, as far as that matters, and in how long the next one is.
async fn look(database: &Database, app_id: &str) -> Result<(i64, Option<Duration>), Error> {
    let parameters: &Parameters<'_> = &[(&app_id, Type::TEXT), (&(MANY + 1), Type::INT8)];
    let rows = database.query(statements::DUE, parameters).await?;
    let Some(row) = rows.first() else { return Ok((0, None)) };
    let next: Option<f64> = column(database, row, 1)?;
    // One that is never due has an infinite date.
    Ok((column(database, row, 0)?, next.and_then(|next| Duration::try_from_secs_f64(next).ok())))
}

/// A row that was claimed. Its first columns are those of any claim.
struct Claimed<'a> {
    row: &'a Row,
    principal: &'a str,
    kind: &'a str,
    expires_at: f64,
}

impl<'a> Claimed<'a> {
    fn of(database: &Database, row: &'a Row) -> Result<Self, Error> {
        let expires_at: Option<f64> = column(database, row, 10)?;
        Ok(Self {
            row,
            principal: column(database, row, 8)?,
            kind: column(database, row, 9)?,
            expires_at: expires_at.unwrap_or(f64::INFINITY),
        })
    }
}

/// `UPDATE` returns rows in any order. A row that cannot be read, or whose newest token waits on the disk still, is given back, and
/// named.
async fn locks(
    fleet: &PostgresFleet,
    app_id: &str,
    mut rows: Vec<Claimed<'_>>,
    holder: &str,
    waiting: &BTreeSet<RowHash>,
) -> (Vec<DueToken>, Vec<String>) {
    rows.sort_by(|a, b| a.expires_at.total_cmp(&b.expires_at));
    let (mut tokens, mut unusable) = (Vec::new(), Vec::new());
    for Claimed { row, principal, kind, .. } in rows {
        let of = Arc::new(fleet.row(app_id, principal));
        if waiting.contains(&of.hash()) {
            unusable.push(of);
            continue;
        }
        match of.leased(row) {
            Ok(leased) => {
                let lock = Claim::lock(of, holder.to_owned(), fleet.limits, leased);
                tokens.push(DueToken::new(principal, kind_of(principal, kind), lock));
            }
            Err(error) => {
                let (store, cause) = (&of, log::causes(&error));
                log::event!(warn, %store, %error, cause, "a token that is due cannot be read");
                unusable.push(of);
            }
        }
    }
    for of in &unusable {
        let given_back = Unanswered::new(|| release_in_background(of, holder.to_owned()));
        if of.release(holder).await.is_ok() {
            given_back.answered();
        }
    }
    (tokens, unusable.iter().map(|of| of.principal.clone()).collect())
}

fn release_all_in_background(database: &Arc<Database>, app_id: &str, holder: &str) {
    let (database, app_id, holder) = (Arc::clone(database), app_id.to_owned(), holder.to_owned());
    in_background(async move {
        let parameters: &Parameters<'_> = &[(&app_id, Type::TEXT), (&holder, Type::TEXT)];
        database.query(statements::RELEASE_ALL, parameters).await.map(drop)
    });
}
