//! The row of one principal: each statement with its parameters, and what came back.
//!
//! Always: what a statement needs is a parameter, never a part of its text.

use std::{sync::Arc, time::Duration};

use tokio_postgres::{
    Row as SqlRow,
    types::{FromSql, ToSql, Type},
};

use super::{connection::Parameters, database::Database, statements};
use crate::{
    Error, ErrorKind, RefreshTokenObject, Stored, clock, consequences, failed_requests::FailedRequests,
    fingerprint::fingerprint,
};

#[derive(Debug)]
pub(super) struct TokenRow {
    database: Arc<Database>,
    app_id: String,
    principal: String,
}

/// What is in the row.
#[derive(Clone)]
pub(super) struct Found {
    pub(super) stored: Stored,
    /// Of the save that left it there.
    pub(super) save_id: Option<String>,
}

/// A lease that was taken, and what it was taken on.
pub(super) struct Leased {
    pub(super) found: Found,
    /// An earlier holder may have spent the token, and may save yet.
    pub(super) in_doubt: bool,
}

/// For whom a lease is taken.
pub(super) struct Claimant<'a> {
    pub(super) holder: &'a str,
    pub(super) lease: Duration,
    /// How long a row in doubt is left alone.
    pub(super) leaves_alone: Duration,
    /// The save that must still be the last one, if it matters.
    pub(super) only_on: Option<Option<String>>,
}

/// A reply that is to be saved.
pub(super) struct Reply<'a> {
    pub(super) token: &'a RefreshTokenObject,
    pub(super) save_id: &'a str,
    /// The save whose token was presented for it.
    pub(super) presented: Option<&'a str>,
    /// The last save ends the lease, and leaves this note.
    pub(super) last: Option<Option<&'a str>>,
}

impl TokenRow {
    pub(super) fn new(database: Arc<Database>, app_id: String, principal: String) -> Self {
        Self { database, app_id, principal }
    }

    pub(super) fn principal(&self) -> &str {
        &self.principal
    }

    pub(super) fn describe(&self) -> String {
        let (principal, database) = (&self.principal, self.database.describe());
        match &*self.app_id {
            "" => format!("the row of {principal} in {database}"),
            app => format!("the row of {principal} of app {app} in {database}"),
        }
    }

    pub(super) async fn read(&self) -> Result<Found, Error> {
        let row = self.run(statements::READ, &[]).await?;
        row.as_ref()
            .map_or_else(|| Ok(Found { stored: Stored::default(), save_id: None }), |row| self.found(row))
    }

    /// `None` while there is a live lease, or the claimant leaves the row alone.
    pub(super) async fn claim(&self, claimant: Claimant<'_>) -> Result<Option<Leased>, Error> {
        let Claimant { holder, lease, leaves_alone, only_on } = claimant;
        let (lease, leaves_alone) = (lease.as_secs_f64(), leaves_alone.as_secs_f64());
        let parameters: [(&(dyn ToSql + Sync), Type); 3] =
            [(&holder, Type::TEXT), (&lease, Type::FLOAT8), (&leaves_alone, Type::FLOAT8)];
        let [holder, lease, leaves_alone] = parameters;
        let row = if let Some(Some(save_id)) = only_on {
            let parameters = [holder, lease, leaves_alone, (&save_id, Type::TEXT)];
            self.run(statements::CLAIM_KNOWN, &parameters).await?
        } else {
            let is_empty = (&only_on.is_some() as _, Type::BOOL);
            self.run(statements::CLAIM, &[holder, lease, leaves_alone, is_empty]).await?
        };
        let leased = |row| Ok(Leased { found: self.found(row)?, in_doubt: self.column(row, 3)? });
        row.as_ref().map(leased).transpose()
    }

    /// Whether the holder still has the lease, on the same save.
    pub(super) async fn prolong(
        &self,
        holder: &str,
        lease: Duration,
        on: Option<&str>,
    ) -> Result<bool, Error> {
        let row = self
            .run(
                statements::PROLONG,
                &[(&holder, Type::TEXT), (&lease.as_secs_f64(), Type::FLOAT8), (&on, Type::TEXT)],
            )
            .await?;
        Ok(row.is_some())
    }

    /// Whether the reply is stored now; otherwise another one has been stored since, or the tokens were revoked.
    pub(super) async fn save(&self, holder: &str, reply: Reply<'_>) -> Result<bool, Error> {
        let Reply { token, save_id, presented, last } = reply;
        let json = token.as_json();
        let kind = if token.company_uuid().is_some() { "company" } else { "user" };
        let expires_at = token.expiry().map(seconds);
        let parameters: [(&(dyn ToSql + Sync), Type); 9] = [
            (&holder, Type::TEXT),
            (&presented, Type::TEXT),
            (&save_id, Type::TEXT),
            (&json.as_str(), Type::TEXT),
            (&kind, Type::TEXT),
            (&expires_at, Type::FLOAT8),
            (&self.jitter(), Type::FLOAT8),
            (&last.is_some(), Type::BOOL),
            (&last.flatten(), Type::TEXT),
        ];
        // The claim has found the row, or made it.
        Ok(self.run(statements::SAVE, &parameters).await?.is_some()
            || self.run(statements::SAVE_IN_ANY_CASE, &parameters).await?.is_some())
    }

    /// Whether the note is kept now; otherwise the lease has ended, or another token has been stored since.
    pub(super) async fn remember(
        &self,
        holder: &str,
        on: Option<&str>,
        note: Option<&str>,
    ) -> Result<bool, Error> {
        let now = clock::Clock::now(&clock::SystemClock);
        let failed = FailedRequests::from_note(note);
        let told = failed.told(now).map(|failed| (failed.times(), failed.pending()));
        let needs_person =
            told.as_ref().is_some_and(|(_, told)| consequences::of(told.error.kind).needs_person);
        let since = told.as_ref().map(|(_, told)| seconds(told.since));
        let failures = told.as_ref().map_or(0, |(times, _)| i32::try_from(*times).unwrap_or(i32::MAX));
        let last_error = told.map(|(_, told)| told.error.to_string());
        let row = self
            .run(
                statements::REMEMBER,
                &[
                    (&holder, Type::TEXT),
                    (&on, Type::TEXT),
                    (&note, Type::TEXT),
                    (&needs_person, Type::BOOL),
                    (&since, Type::FLOAT8),
                    (&failures, Type::INT4),
                    (&last_error, Type::TEXT),
                ],
            )
            .await?;
        Ok(row.is_some())
    }

    /// Whether the row is empty now; otherwise it holds a newer token than that save's.
    pub(super) async fn remove(&self, on: Option<&str>) -> Result<bool, Error> {
        let removed = self.run(statements::REMOVE, &[(&on, Type::TEXT)]).await?;
        Ok(removed.is_some() || self.read().await?.stored.token.is_none())
    }

    pub(super) async fn release(&self, holder: &str) -> Result<(), Error> {
        self.run(statements::RELEASE, &[(&holder, Type::TEXT)]).await.map(drop)
    }

    /// Runs a statement whose first two parameters are this row's key.
    async fn run(
        &self,
        statement: &'static str,
        parameters: &Parameters<'_>,
    ) -> Result<Option<SqlRow>, Error> {
        let key: [(&(dyn ToSql + Sync), Type); 2] =
            [(&self.app_id, Type::TEXT), (&self.principal, Type::TEXT)];
        let parameters: Vec<_> = key.into_iter().chain(parameters.iter().cloned()).collect();
        Ok(self.database.query(statement, &parameters).await?.into_iter().next())
    }

    fn found(&self, row: &SqlRow) -> Result<Found, Error> {
        let json: Option<&str> = self.column(row, 0)?;
        let token = json.map(RefreshTokenObject::from_json).transpose().map_err(|e| {
            let message = format!(
                "{} holds something that is no refresh token object; set its token to NULL, and sign in again",
                self.describe()
            );
            Error::new(ErrorKind::Config, message).caused_by(e)
        })?;
        Ok(Found { stored: Stored::new(token, self.column(row, 1)?), save_id: self.column(row, 2)? })
    }

    fn column<'r, T: FromSql<'r>>(&self, row: &'r SqlRow, number: usize) -> Result<T, Error> {
        row.try_get(number).map_err(|_| {
            let message = format!(
                "the table of {} is not as PostgresStore::migrate makes it",
                self.database.describe()
            );
            Error::new(ErrorKind::Config, message)
        })
    }

    /// At least 0 and less than 1, always the same for a principal: so that tokens that were imported together are not renewed
    /// together ever after.
    fn jitter(&self) -> f64 {
        f64::from(fingerprint(0, [Some(&*self.principal)])) / 4_294_967_296.0
    }
}

#[allow(clippy::cast_precision_loss, reason = "a date is far below 2^53 seconds")]
fn seconds(time: std::time::SystemTime) -> f64 {
    clock::unix_seconds(time) as f64
}
