//! The row of one principal: each statement with its parameters, and what came back.
//!
//! Always: what a statement needs is a parameter, never a part of its text.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio_postgres::{
    Row as SqlRow,
    types::{FromSql, ToSql, Type},
};

use super::{
    connection::Parameters,
    database::Database,
    spool::{RowHash, Spool},
    statements,
};
use crate::{
    Error, ErrorKind, RefreshTokenObject, Stored, clock, consequences,
    failed_requests::{FailedRequests, REFUSED_BEFORE, is_dead},
    sealing::{SealingKeys, TokenText, Unusable},
    store::{MemberKind, member_name::kind_of_token, renewal_time::jitter},
};

/// How tokens are kept, in the rows and where a row is out of reach.
#[derive(Clone, Debug, Default)]
pub(super) struct AtRest {
    pub(super) keys: Option<SealingKeys>,
    pub(super) spool: Option<Spool>,
}

#[derive(Debug)]
pub(super) struct TokenRow {
    pub(super) database: Arc<Database>,
    pub(super) app_id: String,
    pub(super) principal: String,
    pub(super) at_rest: AtRest,
    /// There was such a row when the database was last asked.
    is_there: AtomicBool,
}

/// What is in the row.
pub(super) struct Found {
    pub(super) stored: Stored,
    pub(super) base: Base,
}

/// What a save compares the row with.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Base {
    /// Of the save that left the token there.
    pub(super) save_id: Option<String>,
    pub(super) version: i64,
    /// The sign-in that the token descends from.
    pub(super) sign_in: i64,
}

/// What a row is, without a look at its token.
pub(super) struct Now {
    pub(super) base: Base,
    pub(super) has_token: bool,
}

/// A lease that was taken, and what it was taken on.
pub(super) struct Leased {
    pub(super) found: Found,
    /// An earlier holder may have spent the token, and may save yet.
    pub(super) in_doubt: bool,
    /// The number of a sign-in under this lease.
    pub(super) sign_in: i64,
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

/// A token that is to be saved.
#[derive(Clone, Copy)]
pub(super) struct ToSave<'a> {
    pub(super) token: &'a RefreshTokenObject,
    pub(super) save_id: &'a str,
    pub(super) base: &'a Base,
}

/// How a renewal is saved.
pub(super) struct Ending<'a> {
    pub(super) holder: &'a str,
    /// The last save ends the lease, and leaves this note.
    pub(super) last: Option<Option<&'a str>>,
}

/// A note that is to be kept.
pub(super) struct Note<'a> {
    pub(super) text: Option<&'a str>,
    pub(super) news: Option<News>,
    /// What it says against the stored token, whatever else failed.
    pub(super) against: Option<&'static str>,
}

/// What a note says that the one before did not, for operators and workers.
#[derive(Default)]
pub(super) struct News {
    /// Why a person is needed, if one is.
    reason: Option<String>,
    /// Unix seconds.
    since: Option<f64>,
    failures: Option<i32>,
    last_error: Option<String>,
    /// In how many seconds the next attempt makes sense, where the failure says more than that this one did not succeed. Not
    /// the date of it: the clocks of machine and database may differ.
    pause: Option<f64>,
}

impl News {
    pub(super) fn between(before: Option<&str>, note: Option<&str>) -> Option<Self> {
        let (before, note) = (FailedRequests::from_note(before), FailedRequests::from_note(note));
        let failed = note.newest()?;
        if before.newest().is_some_and(|before| before.at() >= failed.at()) {
            return None;
        }
        let told = failed.pending();
        let text = told.error.to_string();
        let needs_person = consequences::of(told.error.kind).needs_person;
        let pause = told.next_attempt.duration_since(failed.at()).unwrap_or_default();
        Some(Self {
            reason: needs_person.then(|| text.clone()),
            pause: needs_person.then_some(pause.as_secs_f64()),
            since: Some(seconds(told.since)),
            failures: Some(i32::try_from(failed.times()).unwrap_or(i32::MAX)),
            last_error: Some(text),
        })
    }
}

/// Why a token is of no use, also from its first day, if it was refused before and taken over again.
pub(super) fn reason_against(token: &RefreshTokenObject, note: Option<&str>) -> Option<&'static str> {
    is_dead(token, note).then_some(REFUSED_BEFORE)
}

/// What errors and logs call the row.
impl fmt::Display for TokenRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the row of {}", self.principal)?;
        if !self.app_id.is_empty() {
            write!(f, " of app {}", self.app_id)?;
        }
        write!(f, " in {}", self.database.describe())
    }
}

impl TokenRow {
    pub(super) fn new(database: Arc<Database>, app_id: String, principal: String, at_rest: AtRest) -> Self {
        Self { database, app_id, principal, at_rest, is_there: AtomicBool::new(false) }
    }

    pub(super) fn hash(&self) -> RowHash {
        RowHash::of(&self.app_id, &self.principal)
    }

    /// `None`: there is no row.
    pub(super) async fn now(&self) -> Result<Option<Now>, Error> {
        let Some(row) = self.run(statements::READ, &[]).await? else { return Ok(None) };
        let token: Option<&str> = self.column(&row, 0)?;
        Ok(Some(Now { base: self.base(&row)?, has_token: token.is_some() }))
    }

    pub(super) fn text(&self) -> TokenText {
        TokenText::of_principal(self.at_rest.keys.as_ref(), &self.app_id, &self.principal)
    }

    pub(super) async fn read(&self) -> Result<Found, Error> {
        let row = self.run(statements::READ, &[]).await?;
        self.is_there.store(row.is_some(), Ordering::Relaxed);
        let nothing = || Ok(Found { stored: Stored::default(), base: Base::default() });
        row.as_ref().map_or_else(nothing, |row| self.found(row))
    }

    /// `None` while there is a live lease, or the claimant leaves the row alone.
    pub(super) async fn claim(&self, claimant: Claimant<'_>) -> Result<Option<Leased>, Error> {
        let Claimant { holder, lease, leaves_alone, only_on } = claimant;
        let row = self
            .run(
                statements::CLAIM,
                &[
                    (&holder, Type::TEXT),
                    (&lease.as_secs_f64(), Type::FLOAT8),
                    (&leaves_alone.as_secs_f64(), Type::FLOAT8),
                    (&only_on.is_some(), Type::BOOL),
                    (&only_on.flatten(), Type::TEXT),
                ],
            )
            .await?;
        if row.is_none() && !self.is_there.load(Ordering::Relaxed) {
            return self.make(holder, lease).await;
        }
        self.is_there.store(true, Ordering::Relaxed);
        row.as_ref().map(|row| self.leased(row)).transpose()
    }

    /// Makes an empty row, and takes its lease; `None` if there is a row.
    pub(super) async fn make(&self, holder: &str, lease: Duration) -> Result<Option<Leased>, Error> {
        let parameters: &Parameters<'_> = &[(&holder, Type::TEXT), (&lease.as_secs_f64(), Type::FLOAT8)];
        let row = self.run(statements::MAKE, parameters).await?;
        self.is_there.store(true, Ordering::Relaxed);
        row.as_ref().map(|row| self.leased(row)).transpose()
    }

    /// What a claim returned, whatever follows it in the row.
    pub(super) fn leased(&self, row: &SqlRow) -> Result<Leased, Error> {
        let (in_doubt, sign_in) = (self.column(row, 5)?, self.column(row, 6)?);
        Ok(Leased { found: self.found(row)?, in_doubt, sign_in })
    }

    /// Whether the holder still has the lease, on the same save.
    pub(super) async fn prolong(&self, holder: &str, lease: Duration, on: &Base) -> Result<bool, Error> {
        let row = self
            .run(
                statements::PROLONG,
                &[(&holder, Type::TEXT), (&lease.as_secs_f64(), Type::FLOAT8), (&on.save_id, Type::TEXT)],
            )
            .await?;
        Ok(row.is_some())
    }

    /// Saves what was renewed; `None` if another token has been stored since, or the tokens were revoked.
    pub(super) async fn save(&self, to_save: ToSave<'_>, ending: Ending<'_>) -> Result<Option<Base>, Error> {
        let Ending { holder, last } = ending;
        let note = self.text_of(last.flatten())?;
        let further: &Parameters<'_> = &[
            (&to_save.base.sign_in, Type::INT8),
            (&to_save.base.save_id, Type::TEXT),
            (&last.is_some(), Type::BOOL),
            (&note, Type::TEXT),
            (&holder, Type::TEXT),
        ];
        self.store(statements::SAVE, to_save, further, to_save.base.sign_in).await
    }

    /// Saves what a sign-in brought; `None` if there was another sign-in since.
    pub(super) async fn replace(
        &self,
        to_save: ToSave<'_>,
        sign_in: i64,
        reason: Option<&str>,
    ) -> Result<Option<Base>, Error> {
        let further: &Parameters<'_> =
            &[(&to_save.base.sign_in, Type::INT8), (&sign_in, Type::INT8), (&reason, Type::TEXT)];
        self.store(statements::REPLACE, to_save, further, sign_in).await
    }

    /// A save whose answer was lost may be done already: then nothing is changed.
    async fn store(
        &self,
        statement: &'static str,
        ToSave { token, save_id, base }: ToSave<'_>,
        further: &Parameters<'_>,
        sign_in: i64,
    ) -> Result<Option<Base>, Error> {
        let text = self.text().of(token)?;
        let kind = match kind_of_token(token) {
            MemberKind::User => "user",
            MemberKind::Company | MemberKind::Pending => "company",
        };
        let (text, expires_at, jitter) =
            (text.as_str(), token.expiry().map(seconds), jitter(&self.principal));
        let common: &Parameters<'_> = &[
            (&save_id, Type::TEXT),
            (&text, Type::TEXT),
            (&kind, Type::TEXT),
            (&expires_at, Type::FLOAT8),
            (&jitter, Type::FLOAT8),
            (&base.version, Type::INT8),
        ];
        if let Some(row) = self.run(statement, &[common, further].concat()).await? {
            return Ok(Some(Base {
                save_id: Some(save_id.to_owned()),
                version: self.column(&row, 0)?,
                sign_in,
            }));
        }
        let now = self.now().await?.map(|now| now.base);
        Ok(now.filter(|now| now.save_id.as_deref() == Some(save_id)))
    }

    /// Saves what waits on the disk, so that no token is presented whose successor lies there.
    pub(super) async fn save_what_waits(&self) -> Result<(), Error> {
        match &self.at_rest.spool {
            Some(spool) => spool.save_of(self).await,
            None => Ok(()),
        }
    }

    /// Whether the note is kept now; otherwise the lease has ended, or another token has been stored since.
    pub(super) async fn remember(
        &self,
        holder: &str,
        on: &Base,
        Note { text, news, against }: Note<'_>,
    ) -> Result<bool, Error> {
        let News { reason, since, failures, last_error, pause } = news.unwrap_or_default();
        let text = self.text_of(text)?;
        let row = self
            .run(
                statements::REMEMBER,
                &[
                    (&holder, Type::TEXT),
                    (&on.save_id, Type::TEXT),
                    (&text, Type::TEXT),
                    (&reason, Type::TEXT),
                    (&since, Type::FLOAT8),
                    (&failures, Type::INT4),
                    (&last_error, Type::TEXT),
                    (&pause, Type::FLOAT8),
                    (&against, Type::TEXT),
                ],
            )
            .await?;
        Ok(row.is_some())
    }

    /// Removes every token that descends from the sign-in that was found.
    pub(super) async fn remove(&self, on: &Base) -> Result<(), Error> {
        self.run(statements::REMOVE, &[(&on.sign_in, Type::INT8)]).await.map(drop)
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
        let text: Option<&str> = self.column(row, 0)?;
        let token = text.map(|text| self.token(text)).transpose()?;
        let note = self.column::<Option<String>>(row, 1)?.map(|note| self.note(note)).transpose()?;
        Ok(Found { stored: Stored::new(token, note), base: self.base(row)? })
    }

    fn base(&self, row: &SqlRow) -> Result<Base, Error> {
        Ok(Base {
            save_id: self.column(row, 2)?,
            version: self.column(row, 3)?,
            sign_in: self.column(row, 4)?,
        })
    }

    fn text_of(&self, note: Option<&str>) -> Result<Option<String>, Error> {
        note.map(|note| self.text().of_note(note)).transpose()
    }

    /// It may say that nothing must be sent.
    fn note(&self, text: String) -> Result<String, Error> {
        self.text().note(text).map_err(|e| {
            let message = format!("could not read the column refusal in {self}: {}", e.message());
            Error::new(e.kind(), message)
        })
    }

    /// The token that the row's text is.
    pub(super) fn token(&self, text: &str) -> Result<RefreshTokenObject, Error> {
        self.text().token(text.as_bytes()).map_err(|e| match e {
            Unusable::NotAToken(e) => {
                let message = format!(
                    "{self} holds something that is no refresh token object; set its token and save_id to NULL, and sign in again"
                );
                Error::new(ErrorKind::Config, message).caused_by(e)
            }
            Unusable::Sealed(e) => Error::new(e.kind(), format!("could not read the token in {self}: {}", e.message())),
        })
    }

    fn column<'r, T: FromSql<'r>>(&self, row: &'r SqlRow, number: usize) -> Result<T, Error> {
        column(&self.database, row, number)
    }
}

pub(super) fn column<'r, T: FromSql<'r>>(
    database: &Database,
    row: &'r SqlRow,
    number: usize,
) -> Result<T, Error> {
    row.try_get(number).map_err(|_| {
        let message =
            format!("the table of {} is not as PostgresStore::migrate makes it", database.describe());
        Error::new(ErrorKind::Config, message)
    })
}

#[allow(clippy::cast_precision_loss, reason = "a date is far below 2^53 seconds")]
fn seconds(time: std::time::SystemTime) -> f64 {
    clock::unix_seconds(time) as f64
}
