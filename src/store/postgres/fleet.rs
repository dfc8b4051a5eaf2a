//! The tokens of many principals in the rows of one PostgreSQL table.
//!
//! Always: what one principal's row goes through is what [`PostgresStore`] does; here rows are found, claimed together, and moved.
//! All of a fleet share the connections.

mod assign;
mod due;
mod members;

use std::{collections::BTreeSet, path::Path, sync::Arc, time::Duration};

use super::{
    Limits, PostgresStore,
    database::Database,
    mark_restored,
    row::{AtRest, TokenRow},
    schema,
    spool::{RowHash, Spool},
};
use crate::{
    Error,
    store::{BoxedStore, DueTokens, FleetHealth, FleetMember, FleetStore, TokenStore as _},
};

/// Keeps the tokens of a fleet in PostgreSQL: for any number of companies and users, and programs on any number of machines.
///
/// Each principal has a row in the table `concur_auth_tokens`, which [`PostgresStore`] describes: how a renewal excludes others, what
/// a connection needs, and what happens when a machine fails.
///
/// ```no_run
/// use concur_auth::PostgresFleet;
///
/// # async fn example() -> Result<(), concur_auth::Error> {
/// let store = PostgresFleet::new("postgres://app@db.example/concur")?;
/// store.migrate().await?; // makes the tables, or brings them up to date
/// # Ok(()) }
/// ```
///
/// # How workers share what is due
///
/// A worker claims a batch of rows with one statement, after another one that tells whether any are due. Rows that another worker
/// is claiming are left out, so workers need not know of each other. A claim moves the row's next turn, `renew_at`, by a
/// minute, then two, and so on up to an hour, less up to a half at random; a save sets it anew. The costs of both statements depend on how many
/// rows are claimed, not on how many there are.
///
/// # Permissions
///
/// Those of [`PostgresStore`], and `DELETE` on `concur_auth_tokens` to assign tokens.
///
/// Clones are the same store.
#[derive(Clone, Debug)]
pub struct PostgresFleet {
    database: Arc<Database>,
    limits: Limits,
    at_rest: AtRest,
    /// Tokens are due already when less than this is left of them.
    margin: Option<Duration>,
}

impl PostgresFleet {
    /// The fleets in the database at `url`, which [`PostgresStore`] describes. Nothing connects yet.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`](crate::ErrorKind::Config) when the URL cannot be used, or would send tokens unprotected over a
    /// network.
    pub fn new(url: &str) -> Result<Self, Error> {
        Ok(Self {
            database: Arc::new(Database::new(url)?),
            limits: Limits::DEFAULT,
            at_rest: AtRest::default(),
            margin: None,
        })
    }

    /// Seals the tokens, as [`PostgresStore::sealed_with`]. Feature `sealing`.
    #[cfg(feature = "sealing")]
    #[must_use]
    pub fn sealed_with(mut self, keys: crate::SealingKeys) -> Self {
        self.at_rest.keys = Some(keys);
        self
    }

    /// Keeps tokens that the database does not take in this folder of the local disk at once, as [`PostgresStore::spool`].
    ///
    /// ```no_run
    /// use concur_auth::PostgresFleet;
    ///
    /// let store = PostgresFleet::new("postgres://app@db.example/concur")?.spool("/var/lib/my-app/spool");
    /// # Ok::<(), concur_auth::Error>(())
    /// ```
    #[must_use]
    pub fn spool(mut self, folder: impl AsRef<Path>) -> Self {
        self.at_rest.spool = Some(Spool::new(folder.as_ref()));
        self
    }

    /// How long a renewal has its row to itself, as [`PostgresStore::lease`]. Default: 90 seconds.
    #[must_use]
    pub fn lease(mut self, lease: Duration) -> Self {
        self.limits = self.limits.lease(lease);
        self
    }

    /// How long workers leave a row alone whose holder may still save, as [`PostgresStore::doubt`]. Default: one hour.
    #[must_use]
    pub fn doubt(mut self, doubt: Duration) -> Self {
        self.limits = self.limits.doubt(doubt);
        self
    }

    /// How long the save of an earlier holder is waited for, as [`PostgresStore::late_save`]. Default: 10 seconds.
    #[must_use]
    pub fn late_save(mut self, wait: Duration) -> Self {
        self.limits = self.limits.late_save(wait);
        self
    }

    /// Makes the tables, or brings them up to date, as [`PostgresStore::migrate`].
    ///
    /// # Errors
    ///
    /// As [`PostgresStore::migrate`].
    pub async fn migrate(&self) -> Result<(), Error> {
        schema::migrate(&self.database).await
    }

    /// The SQL that [`migrate`](Self::migrate) runs, for administrators who run it themselves: all versions, oldest first.
    pub fn schema() -> String {
        schema::as_text()
    }

    /// To be called after a restore from a backup, or a failover to a replica that may lack the last saves, as
    /// [`PostgresStore::mark_restored`]. Returns how many tokens were marked.
    ///
    /// # Errors
    ///
    /// As [`PostgresStore::mark_restored`].
    pub async fn mark_restored(&self) -> Result<usize, Error> {
        mark_restored(&self.database, self.limits.lease).await
    }

    /// Saves what waits on the disk for any row.
    async fn save_what_waits(&self) -> Result<(), Error> {
        match &self.at_rest.spool {
            Some(spool) => spool.save_all(&self.database, &self.at_rest).await,
            None => Ok(()),
        }
    }

    /// The rows for which something waits still.
    fn waiting(&self) -> Result<BTreeSet<RowHash>, Error> {
        self.at_rest.spool.as_ref().map_or_else(|| Ok(BTreeSet::new()), Spool::waiting)
    }

    /// The members, with those told whose newest token waits on the disk.
    fn with_spooled<T>(&self, app_id: &str, mut members: T) -> Result<T, Error>
    where
        for<'a> &'a mut T: IntoIterator<Item = &'a mut FleetMember>,
    {
        let waiting = self.waiting()?;
        for member in (&mut members).into_iter().filter(|_| !waiting.is_empty()) {
            member.unsaved = waiting.contains(&RowHash::of(app_id, &member.uuid));
        }
        Ok(members)
    }

    fn row(&self, app_id: &str, principal: &str) -> TokenRow {
        TokenRow::new(
            Arc::clone(&self.database),
            app_id.to_owned(),
            principal.to_owned(),
            self.at_rest.clone(),
        )
    }
}

impl FleetStore for PostgresFleet {
    fn of(&self, app_id: &str, principal: &str) -> BoxedStore {
        PostgresStore::of_row(self.row(app_id, principal), self.limits).boxed()
    }

    /// The costs do not grow with the number of rows.
    async fn claim_due(&self, app_id: &str, most: usize) -> Result<DueTokens, Error> {
        due::claim(self, app_id, most).await
    }

    async fn count_busy(&self, app_id: &str) -> Result<u64, Error> {
        due::count_busy(self, app_id).await
    }

    /// In the order that the database gives to names.
    async fn list(&self, app_id: &str, after: Option<&str>, most: usize) -> Result<Vec<FleetMember>, Error> {
        self.with_spooled(app_id, members::list(&self.database, app_id, after, most).await?)
    }

    async fn member(&self, app_id: &str, principal: &str) -> Result<Option<FleetMember>, Error> {
        self.with_spooled(app_id, members::member_called(&self.database, app_id, principal).await?)
    }

    async fn assign(&self, app_id: &str, pending: &str, principal: &str) -> Result<(), Error> {
        assign::assign(self, app_id, pending, principal).await
    }

    async fn needing_a_person(&self, app_id: &str) -> Result<Vec<FleetMember>, Error> {
        self.with_spooled(app_id, members::needing_a_person(&self.database, app_id).await?)
    }

    async fn health(&self, app_id: &str) -> Result<FleetHealth, Error> {
        members::health(&self.database, app_id).await
    }

    #[cfg(feature = "sealing")]
    async fn count_by_sealing_key(
        &self,
        app_id: &str,
    ) -> Result<std::collections::BTreeMap<Option<String>, u64>, Error> {
        let mut count = members::count_by_sealing_key(&self.database, app_id).await?;
        for key in self.at_rest.spool.as_ref().map_or_else(|| Ok(Vec::new()), Spool::sealing_keys)? {
            *count.entry(key).or_default() += 1;
        }
        Ok(count)
    }

    fn refresh_token_margin(&mut self, margin: Duration) -> Result<(), Error> {
        self.margin = Some(margin);
        Ok(())
    }

    #[cfg(feature = "sealing")]
    fn seal_with(&mut self, keys: crate::SealingKeys) -> Result<(), Error> {
        self.at_rest.keys = Some(keys);
        Ok(())
    }

    fn lease(&self) -> Option<Duration> {
        Some(self.limits.lease)
    }

    fn describe(&self) -> String {
        format!("the fleet in {}", self.database.describe())
    }
}
