//! What is told of the members of a fleet: without their tokens, and without any lease.
//!
//! Always: one statement for each answer, but for a list, which is read page by page.

use time::{Duration, OffsetDateTime};
use tokio_postgres::{Row, types::Type};

use crate::{
    Error,
    store::{
        FleetHealth, FleetMember, MemberKind, MemberState, member_name,
        postgres::{
            connection::Parameters, database::Database, row::column, statements::fleet as statements,
        },
    },
};

pub(super) fn kind_of(principal: &str, kind: &str) -> MemberKind {
    let of_row = if kind == "company" { MemberKind::Company } else { MemberKind::User };
    member_name::kind_of(principal, of_row)
}

pub(super) async fn list(
    database: &Database,
    app_id: &str,
    after: Option<&str>,
    most: usize,
) -> Result<Vec<FleetMember>, Error> {
    let most = i64::try_from(most).unwrap_or(i64::MAX);
    let parameters: &Parameters<'_> = &[(&app_id, Type::TEXT), (&after, Type::TEXT), (&most, Type::INT8)];
    let rows = database.query(statements::LIST, parameters).await?;
    rows.iter().map(|row| member(database, row)).collect()
}

pub(super) async fn member_called(
    database: &Database,
    app_id: &str,
    principal: &str,
) -> Result<Option<FleetMember>, Error> {
    let parameters: &Parameters<'_> = &[(&app_id, Type::TEXT), (&principal, Type::TEXT)];
    let rows = database.query(statements::MEMBER, parameters).await?;
    rows.first().map(|row| member(database, row)).transpose()
}

pub(super) async fn needing_a_person(database: &Database, app_id: &str) -> Result<Vec<FleetMember>, Error> {
    let rows = database.query(statements::NEEDING_A_PERSON, &[(&app_id, Type::TEXT)]).await?;
    rows.iter().map(|row| member(database, row)).collect()
}

pub(super) async fn health(database: &Database, app_id: &str) -> Result<FleetHealth, Error> {
    let rows = database.query(statements::HEALTH, &[(&app_id, Type::TEXT)]).await?;
    let Some(row) = rows.first() else { return Ok(FleetHealth::default()) };
    let count = |number| {
        let count: i64 = column(database, row, number)?;
        Ok::<_, Error>(u64::try_from(count).unwrap_or(0))
    };
    let (all, active, needing_a_person) = (count(0)?, count(1)?, count(2)?);
    Ok(FleetHealth {
        active,
        needing_a_person,
        signed_out: all.saturating_sub(active).saturating_sub(needing_a_person),
        soonest_expiry: time(column(database, row, 3)?),
        unsaved: 0,
    })
}

#[cfg(feature = "sealing")]
pub(super) async fn count_by_sealing_key(
    database: &Database,
    app_id: &str,
) -> Result<std::collections::BTreeMap<Option<String>, u64>, Error> {
    let rows = database.query(statements::BY_SEALING_KEY, &[(&app_id, Type::TEXT)]).await?;
    let count = |row: &Row| {
        let count: i64 = column(database, row, 1)?;
        Ok((column(database, row, 0)?, u64::try_from(count).unwrap_or(0)))
    };
    rows.iter().map(count).collect()
}

fn member(database: &Database, row: &Row) -> Result<FleetMember, Error> {
    let (uuid, kind): (&str, &str) = (column(database, row, 0)?, column(database, row, 1)?);
    let (has_token, state): (bool, &str) = (column(database, row, 2)?, column(database, row, 3)?);
    let state = match state {
        _ if !has_token => MemberState::SignedOut,
        "needs_reauthorization" => MemberState::NeedsPerson,
        _ => MemberState::Active,
    };
    let mut member = FleetMember::new(uuid, kind_of(uuid, kind), state);
    if state == MemberState::NeedsPerson {
        member.needs = column(database, row, 4)?;
        member.needed_since = time(column(database, row, 5)?);
    }
    member.refresh_token_expires_at = time(column(database, row, 6)?);
    let may_act: Option<bool> = column(database, row, 8)?;
    member.act_before = member.refresh_token_expires_at.filter(|_| may_act == Some(true));
    member.renew_at = time(column(database, row, 7)?);
    Ok(member)
}

/// `None` also for a date that the type cannot hold, such as PostgreSQL's `infinity`. To the microsecond, as the database has it.
#[allow(clippy::cast_possible_truncation, reason = "what is too large becomes a date that cannot be")]
fn time(seconds: Option<f64>) -> Option<OffsetDateTime> {
    let microseconds = (seconds? * 1e6).round() as i64;
    OffsetDateTime::UNIX_EPOCH.checked_add(Duration::microseconds(microseconds))
}
