//! The rows of a fleet: which tokens are due, and who the members are.
//!
//! Always: one statement claims many rows, as one statement claims one. To find what is due takes as long with a million rows as with
//! a thousand.

use std::{fmt, sync::Arc, time::Duration};

use tokio_postgres::{Row as SqlRow, types::Type};

use super::{
    DAY, Limits, PostgresStore,
    claim::random_id,
    database::Database,
    mark_restored,
    row::{TokenRow, time},
    schema,
    statements::many,
};
use crate::{
    BoxedStore, DueToken, DueTokens, Error, ErrorKind, FleetHealth, FleetMember, FleetStore, MemberKind,
    MemberState, TokenStore as _, clock, log, runtime,
};

/// When the store is asked again where all that is due is another worker's, or in doubt.
const OTHERS: Duration = Duration::from_secs(10);
/// The name of a principal that is not known yet begins so.
const PENDING: &str = "pending-";

/// Keeps the tokens of a [`Fleet`](crate::Fleet) in PostgreSQL: for any number of processes, on any number of machines.
///
/// Each member has a row of the table `concur_auth_tokens`, which is what a [`PostgresStore`] uses. Workers claim rows that are due in
/// batches, by one statement each, and share them without knowing of each other (`FOR UPDATE SKIP LOCKED`).
///
/// ```no_run
/// use concur_auth::{Fleet, PostgresFleet};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), concur_auth::Error> {
/// let store = PostgresFleet::new("postgres://app@db.example/concur")?;
/// store.migrate().await?; // makes the tables, or brings them up to date
/// let fleet = Fleet::builder().store(store).build()?;
/// # Ok(()) }
/// ```
///
/// URL, TLS, PgBouncer and leases are as a [`PostgresStore`]'s. [`Fleet::assign`](crate::Fleet::assign) also needs the permission
/// `DELETE`. Clones are the same store.
#[derive(Clone)]
pub struct PostgresFleet {
    database: Arc<Database>,
    limits: Limits,
}

impl PostgresFleet {
    /// The tokens in the database at `url`. Nothing connects yet.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`] when the URL cannot be used, or would send tokens unprotected over a network.
    pub fn new(url: &str) -> Result<Self, Error> {
        Ok(Self { database: Arc::new(Database::new(url)?), limits: Limits::usual() })
    }

    /// As [`PostgresStore::lease`].
    #[must_use]
    pub fn lease(mut self, lease: Duration) -> Self {
        self.limits.lease = lease.min(DAY);
        self
    }

    /// As [`PostgresStore::doubt`].
    #[must_use]
    pub fn doubt(mut self, doubt: Duration) -> Self {
        self.limits.doubt = doubt.min(DAY);
        self
    }

    /// As [`PostgresStore::late_save`].
    #[must_use]
    pub fn late_save(mut self, wait: Duration) -> Self {
        self.limits.late_save = wait.min(DAY);
        self
    }

    /// As [`PostgresStore::migrate`].
    ///
    /// # Errors
    ///
    /// As [`PostgresStore::migrate`].
    pub async fn migrate(&self) -> Result<(), Error> {
        schema::migrate(&self.database).await
    }

    /// As [`PostgresStore::schema`].
    pub fn schema() -> String {
        schema::as_text()
    }

    /// As [`PostgresStore::mark_restored`].
    ///
    /// # Errors
    ///
    /// As [`PostgresStore::mark_restored`].
    pub async fn mark_restored(&self) -> Result<usize, Error> {
        mark_restored(&self.database, self.limits).await
    }

    fn row(&self, app_id: &str, principal: &str) -> TokenRow {
        TokenRow::new(Arc::clone(&self.database), app_id.to_owned(), principal.to_owned())
    }

    /// How many tokens are due, counted up to what makes a backlog, and in how long the next one is.
    async fn look(&self, app_id: &str) -> Result<(i64, Option<Duration>), Error> {
        let parameters = [(&app_id as _, Type::TEXT), (&many::BACKLOG as _, Type::INT8)];
        let rows = self.database.query(many::LOOK, &parameters).await?;
        let row = rows.first().ok_or_else(|| self.not_as_made())?;
        let next: Option<f64> = self.column(row, 1)?;
        // A time that is no duration is far away.
        let next = next.map(|seconds| Duration::try_from_secs_f64(seconds).unwrap_or_default());
        Ok((self.column(row, 0)?, next))
    }

    async fn claim(&self, app_id: &str, most: usize, is_backlog: bool) -> Result<Vec<SqlRow>, Error> {
        let Limits { lease, doubt, .. } = self.limits;
        let (holder, most) = (random_id()?, i64::try_from(most).unwrap_or(i64::MAX));
        let statement = if is_backlog { many::CLAIM_OF_BACKLOG } else { many::CLAIM };
        let claimed = self
            .database
            .query(
                statement,
                &[
                    (&app_id, Type::TEXT),
                    (&most, Type::INT8),
                    (&holder, Type::TEXT),
                    (&lease.as_secs_f64(), Type::FLOAT8),
                    (&doubt.as_secs_f64(), Type::FLOAT8),
                ],
            )
            .await;
        if claimed.is_err() {
            // The leases may be ours: the answer can be what was lost.
            self.release_in_background(app_id, holder);
        }
        claimed
    }

    fn release_in_background(&self, app_id: &str, holder: String) {
        if let Ok(ours) = runtime::handle() {
            let (database, app_id) = (Arc::clone(&self.database), app_id.to_owned());
            ours.spawn(async move {
                let parameters = [(&app_id as _, Type::TEXT), (&holder as _, Type::TEXT)];
                // If that fails, the leases lapse by themselves.
                let _ = database.query(many::RELEASE, &parameters).await;
            });
        }
    }

    fn due(&self, app_id: &str, row: &SqlRow) -> Result<DueToken, Error> {
        let (principal, kind, holder): (&str, &str, String) =
            (self.column(row, 8)?, self.column(row, 9)?, self.column(row, 10)?);
        let of = Arc::new(self.row(app_id, principal));
        let leased = of.leased(row)?;
        Ok(DueToken::new(principal, kind_of(principal, kind), self.limits.lock(of, holder, leased)))
    }

    fn member(&self, row: &SqlRow) -> Result<FleetMember, Error> {
        let (uuid, kind): (&str, &str) = (self.column(row, 0)?, self.column(row, 1)?);
        let mut member = FleetMember::new(uuid, kind_of(uuid, kind), state(self.column(row, 2)?));
        let at = |number| Ok::<_, Error>(time(self.column(row, number)?).map(clock::public_time));
        if member.state == MemberState::NeedsPerson {
            member.needs = self.column(row, 3)?;
            member.needed_since = at(4)?;
        }
        (member.act_before, member.renew_at) = (at(5)?, at(6)?);
        Ok(member)
    }

    fn column<'r, T: tokio_postgres::types::FromSql<'r>>(
        &self,
        row: &'r SqlRow,
        number: usize,
    ) -> Result<T, Error> {
        row.try_get(number).map_err(|_| self.not_as_made())
    }

    fn not_as_made(&self) -> Error {
        let message =
            format!("the table of {} is not as PostgresFleet::migrate makes it", self.database.describe());
        Error::new(ErrorKind::Config, message)
    }
}

fn kind_of(principal: &str, column: &str) -> MemberKind {
    match column {
        _ if principal.starts_with(PENDING) => MemberKind::Pending,
        "user" => MemberKind::User,
        _ => MemberKind::Company,
    }
}

fn state(column: &str) -> MemberState {
    match column {
        "active" => MemberState::Active,
        "needs_reauthorization" => MemberState::NeedsPerson,
        _ => MemberState::SignedOut,
    }
}

impl fmt::Debug for PostgresFleet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresFleet").field("database", &self.database).field("limits", &self.limits).finish()
    }
}

impl FleetStore for PostgresFleet {
    fn of(&self, app_id: &str, principal: &str) -> BoxedStore {
        PostgresStore::of_row(self.row(app_id, principal), self.limits).boxed()
    }

    async fn claim_due(&self, app_id: &str, most: usize) -> Result<DueTokens, Error> {
        let (due, next) = self.look(app_id).await?;
        if due == 0 {
            return Ok(DueTokens::new(Vec::new(), next));
        }
        let rows = self.claim(app_id, most, due >= many::BACKLOG).await?;
        let mut tokens = Vec::new();
        for row in &rows {
            match self.due(app_id, row) {
                Ok(token) => tokens.push((time(self.column(row, 11)?), token)),
                // Its lease lapses, and the others are renewed.
                Err(error) => log::event!(warn, %error, cause = log::causes(&error), "a token that is due cannot be renewed"),
            }
        }
        // A statement that returns what it has updated returns that in any order.
        tokens.sort_by_key(|(expires_at, _)| expires_at.map_or((true, None), |at| (false, Some(at))));
        let next = if tokens.is_empty() { Some(next.map_or(OTHERS, |next| next.min(OTHERS))) } else { next };
        Ok(DueTokens::new(tokens.into_iter().map(|(_, token)| token).collect(), next))
    }

    async fn list(
        &self,
        app_id: &str,
        after: Option<&str>,
        most: usize,
    ) -> Result<Vec<FleetMember>, Error> {
        let (after, most) = (after.unwrap_or_default(), i64::try_from(most).unwrap_or(i64::MAX));
        let parameters = [(&app_id as _, Type::TEXT), (&after as _, Type::TEXT), (&most as _, Type::INT8)];
        let rows = self.database.query(many::LIST, &parameters).await?;
        rows.iter().map(|row| self.member(row)).collect()
    }

    async fn assign(&self, app_id: &str, pending: &str, principal: &str) -> Result<(), Error> {
        let jitter = self.row(app_id, principal).jitter();
        let parameters = [
            (&app_id as _, Type::TEXT),
            (&pending as _, Type::TEXT),
            (&principal as _, Type::TEXT),
            (&jitter as _, Type::FLOAT8),
        ];
        if !self.database.query(many::ASSIGN, &parameters).await?.is_empty() {
            return Ok(());
        }
        let rows = self.database.query(many::HAS_TOKEN, &parameters[..2]).await?;
        let has_token = match rows.first() {
            Some(row) => self.column(row, 0)?,
            None => false,
        };
        let place = self.database.describe();
        Err(if has_token {
            let message = format!("the token of {pending} in {place} is being renewed; assign it again in a minute");
            Error::new(ErrorKind::Store, message).transient()
        } else {
            let message = format!(
                "there is no token of {pending} in {place}: it may have been assigned already; look at the list of members"
            );
            Error::new(ErrorKind::Config, message)
        })
    }

    async fn needing_a_person(&self, app_id: &str) -> Result<Vec<FleetMember>, Error> {
        let rows = self.database.query(many::NEEDING_A_PERSON, &[(&app_id, Type::TEXT)]).await?;
        rows.iter().map(|row| self.member(row)).collect()
    }

    async fn health(&self, app_id: &str) -> Result<FleetHealth, Error> {
        let mut health = FleetHealth::default();
        for row in &self.database.query(many::HEALTH, &[(&app_id, Type::TEXT)]).await? {
            let count: i64 = self.column(row, 1)?;
            let count = u64::try_from(count).unwrap_or_default();
            match state(self.column(row, 0)?) {
                MemberState::Active => {
                    health.active = count;
                    health.soonest_expiry = time(self.column(row, 2)?).map(clock::public_time);
                }
                MemberState::NeedsPerson => health.needing_a_person = count,
                MemberState::SignedOut => health.signed_out = count,
            }
        }
        Ok(health)
    }

    fn lease(&self) -> Option<Duration> {
        Some(self.limits.lease)
    }

    fn describe(&self) -> String {
        format!("the fleet in {}", self.database.describe())
    }
}
