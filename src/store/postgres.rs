//! One row of a PostgreSQL table, for programs on any number of machines; `fleet` has the rows of many principals.
//!
//! Always: the row is the truth. A renewal holds a lease and no connection. What keeps a late save from overwriting a newer token
//! is the id of the save that was presented, not the lease. No secret is in a statement's text, in an error or in a log.

mod claim;
mod connection;
mod database;
mod failure;
mod fleet;
#[cfg(test)]
mod lease_model;
mod row;
mod schema;
mod spool;
mod statements;
mod tls;
mod url;

use std::{
    fmt,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio_postgres::types::Type;

pub use self::fleet::PostgresFleet;
#[cfg(fuzzing)]
pub(crate) use self::spool::fuzzing::spool;
use self::{
    claim::{Claim, Unanswered, random_id, release_in_background},
    connection::Parameters,
    database::Database,
    row::{AtRest, Claimant, Found, TokenRow},
    spool::Spool,
};
use super::{StoreLock, Stored, TokenStore};
use crate::{Error, RefreshTokenObject, caught::locked};

/// Long enough for a request and its save, and for the attempts before them; callers wait for the lock for two minutes.
const LEASE: Duration = Duration::from_secs(90);
/// How long a renewal ahead of time leaves a row in doubt alone.
const DOUBT: Duration = Duration::from_secs(3600);
/// How long the save of a late holder is waited for, once Concur has refused the token.
const LATE_SAVE: Duration = Duration::from_secs(10);
/// To mark the rows of a whole table.
const LONGEST_MARKING: Duration = Duration::from_secs(600);
/// No lease, doubt or wait is longer.
const DAY: Duration = Duration::from_secs(86_400);
/// A caller who waits for another machine's renewal asks the database so often, in the end.
const LONGEST_POLL: Duration = Duration::from_millis(500);

/// Keeps the token of one company, or one user, in PostgreSQL: for programs on several machines.
///
/// The row in the table `concur_auth_tokens` is found by a name of your choice, such as the company's UUID. Processes on any
/// number of machines share it: one of them renews the token, and the others wait for the new token.
///
/// ```no_run
/// use concur_auth::{PostgresStore, TokenManager};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), concur_auth::Error> {
/// let company = "0b8e2f6c-4d7a-4c1e-9f3a-6a2d5c7b8e90";
/// let store = PostgresStore::new("postgres://app@db.example/concur", company)?;
/// store.migrate().await?; // makes the table, or brings it up to date
/// let tokens = TokenManager::builder().store(store).build()?;
/// let access = tokens.access_token().await?;
/// # Ok(()) }
/// ```
///
/// # How a renewal excludes others
///
/// Not by a lock of the database, which would need a connection for as long as Concur takes, but by a lease: who is renewing,
/// and until when, by the database's clock. One statement takes the lease, reads the token and proves that the database accepts
/// writes; another statement saves the reply and ends the lease. Before each request to Concur, the rest of the lease is compared
/// with what the request and its save can take; the lease is prolonged, or the request is not sent.
///
/// A save replaces only the token that was presented for it, and a sign-in only tokens of the sign-in before it. A process that was
/// suspended and comes back with an old reply does not overwrite a newer token.
///
/// When a lease lapses, its holder was killed or is suspended, and the row is *in doubt*: the token may be spent.
/// A caller who needs a token then presents it; [`keep_alive`](crate::TokenManager::keep_alive) leaves the row alone for an hour,
/// in which a suspended holder can still save, unless the refresh token dies within 7 days. If Concur refuses a token in
/// doubt, the row is read again for 10 seconds before the refusal counts.
///
/// One window remains, which no client can close: between the check of the lease and the save. There a process can be killed,
/// be suspended for longer than its lease, or lose its way to the database or Concur's answer. Then the new token is lost, or the
/// next process presents a token that was spent. That is noticed, and ends with a sign-in by the request token, or with
/// [`ReauthorizationRequired`](crate::ErrorKind::ReauthorizationRequired).
///
/// # Connections
///
/// A URL as libpq takes it: `postgres://user:password@host:port/database?sslmode=verify-full&sslrootcert=/path/ca.pem`. A host that
/// is not this machine is reached by TLS only, with its certificate and name checked; a Unix socket
/// (`postgres:///database?host=/var/run/postgresql`) and loopback need none. Connections are opened when they are needed, ten at
/// most, on this crate's own runtime. No session state is used, so PgBouncer may be in between, in transaction mode too.
///
/// # Permissions
///
/// A program needs `SELECT`, `INSERT` and `UPDATE` on `concur_auth_tokens`, and `SELECT` on `concur_auth_schema` for
/// [`migrate`](Self::migrate), which needs to own the tables only where it has something to change.
///
/// Clones are the same store.
#[derive(Clone)]
pub struct PostgresStore {
    row: Arc<TokenRow>,
    limits: Limits,
    /// The id of the save that this handle has read last, until it takes a lease.
    last_read: Arc<Mutex<Option<Option<String>>>>,
}

#[derive(Clone, Copy, Debug)]
struct Limits {
    lease: Duration,
    doubt: Duration,
    late_save: Duration,
}

impl Limits {
    const DEFAULT: Self = Self { lease: LEASE, doubt: DOUBT, late_save: LATE_SAVE };

    fn lease(self, lease: Duration) -> Self {
        Self { lease: lease.min(DAY), ..self }
    }

    fn doubt(self, doubt: Duration) -> Self {
        Self { doubt: doubt.min(DAY), ..self }
    }

    fn late_save(self, wait: Duration) -> Self {
        Self { late_save: wait.min(DAY), ..self }
    }
}

impl PostgresStore {
    /// The row of `principal`, such as a company's UUID, in the database at `url`. Nothing connects yet.
    ///
    /// For other companies in the same database, take [`of_principal`](Self::of_principal): it shares the connections.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`](crate::ErrorKind::Config) when the URL cannot be used, or would send tokens unprotected over a
    /// network.
    pub fn new(url: &str, principal: impl Into<String>) -> Result<Self, Error> {
        let row =
            TokenRow::new(Arc::new(Database::new(url)?), String::new(), principal.into(), AtRest::default());
        Ok(Self::of_row(row, Limits::DEFAULT))
    }

    fn of_row(row: TokenRow, limits: Limits) -> Self {
        Self { row: Arc::new(row), limits, last_read: Arc::default() }
    }

    /// The app that the row belongs to, where several apps share a table. Default: an empty text.
    #[must_use]
    pub fn app_id(self, app_id: impl Into<String>) -> Self {
        let TokenRow { database, principal, at_rest, .. } = &*self.row;
        let row = TokenRow::new(Arc::clone(database), app_id.into(), principal.clone(), at_rest.clone());
        Self::of_row(row, self.limits)
    }

    /// The row of another principal, through the same connections.
    #[must_use]
    pub fn of_principal(&self, principal: impl Into<String>) -> Self {
        let TokenRow { database, app_id, at_rest, .. } = &*self.row;
        let row = TokenRow::new(Arc::clone(database), app_id.clone(), principal.into(), at_rest.clone());
        Self::of_row(row, self.limits)
    }

    /// Seals the token in the row, and the note about what Concur refused (`refusal`), for the place `app_id/principal`. A token
    /// that is not sealed is read, and sealed at its next save. Feature `sealing`.
    ///
    /// The other columns are not sealed: whose the row is, when its token expires, the last error, and what a person must do.
    #[cfg(feature = "sealing")]
    #[must_use]
    pub fn sealed_with(self, keys: crate::SealingKeys) -> Self {
        self.at_rest(|at_rest| at_rest.keys = Some(keys))
    }

    /// Keeps a token that the database does not take in this folder of the local disk at once, from where the next process with the
    /// same folder saves it. Without such a folder it is in memory only, until the database takes it.
    ///
    /// A token is written there as soon as a save has failed, or has taken a second: a private, synced file, sealed where the row
    /// is. Each process of one database on one machine should be given the same folder; another database needs another folder. The
    /// folder that it is in must be there.
    ///
    /// ```no_run
    /// use concur_auth::PostgresStore;
    ///
    /// let store = PostgresStore::new("postgres://app@db.example/concur", "b3f4e2a0")?;
    /// let store = store.spool("/var/lib/my-app/spool");
    /// # Ok::<(), concur_auth::Error>(())
    /// ```
    #[must_use]
    pub fn spool(self, folder: impl AsRef<Path>) -> Self {
        self.at_rest(|at_rest| at_rest.spool = Some(Spool::new(folder.as_ref())))
    }

    fn at_rest(self, change: impl FnOnce(&mut AtRest)) -> Self {
        let TokenRow { database, app_id, principal, at_rest, .. } = &*self.row;
        let mut at_rest = at_rest.clone();
        change(&mut at_rest);
        let row = TokenRow::new(Arc::clone(database), app_id.clone(), principal.clone(), at_rest);
        Self::of_row(row, self.limits)
    }

    /// How long a renewal has the row to itself, unless it is prolonged. Default: 90 seconds.
    ///
    /// After a crash, callers on other machines wait for as long. With less than 80 seconds, a request is sent although it may take
    /// longer than the rest of the lease; that is for tests.
    #[must_use]
    pub fn lease(mut self, lease: Duration) -> Self {
        self.limits = self.limits.lease(lease);
        self
    }

    /// How long a renewal ahead of time leaves a row alone whose holder may still save. Default: one hour.
    #[must_use]
    pub fn doubt(mut self, doubt: Duration) -> Self {
        self.limits = self.limits.doubt(doubt);
        self
    }

    /// How long the save of an earlier holder is waited for when Concur refuses a token in doubt. Default: 10 seconds.
    #[must_use]
    pub fn late_save(mut self, wait: Duration) -> Self {
        self.limits = self.limits.late_save(wait);
        self
    }

    /// Makes the tables, or brings them up to date. Several processes may do so at once, and as often as they like.
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), concur_auth::Error> {
    /// # let store = concur_auth::PostgresStore::new("postgres://app@localhost/concur", "c")?;
    /// store.migrate().await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Store`](crate::ErrorKind::Store) when the database cannot be reached, or the role may not make tables;
    /// [`ErrorKind::Config`](crate::ErrorKind::Config) when the tables are of a newer version than this crate knows.
    pub async fn migrate(&self) -> Result<(), Error> {
        schema::migrate(&self.row.database).await
    }

    /// The SQL that [`migrate`](Self::migrate) runs, for administrators who run it themselves: all versions, oldest first.
    pub fn schema() -> String {
        schema::as_text()
    }

    /// To be called after a restore from a backup, or a failover to a replica that may lack the last saves: gives all tokens of
    /// all apps a lease of no process, after which they are in doubt. Returns how many.
    ///
    /// Renewals that are under way meanwhile save over what was restored. Until this was called, tokens that were restored can
    /// be presented a second time.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Store`](crate::ErrorKind::Store) when the database cannot be written.
    pub async fn mark_restored(&self) -> Result<usize, Error> {
        mark_restored(&self.row.database, self.limits.lease).await
    }

    async fn claim(&self, leaves_alone: Duration) -> Result<Option<StoreLock>, Error> {
        self.row.save_what_waits().await?;
        let holder = random_id()?;
        // Once: who was told that the row has changed reads it, or wants the lease in any case.
        let only_on = locked(&self.last_read).take();
        let unanswered = Unanswered::new(|| release_in_background(&self.row, holder.clone()));
        let claimant = Claimant { holder: &holder, lease: self.limits.lease, leaves_alone, only_on };
        let leased = self.row.claim(claimant).await?;
        unanswered.answered();
        Ok(leased.map(|leased| Claim::lock(Arc::clone(&self.row), holder, self.limits, leased)))
    }

    fn claimed<'a>(&self, lock: &'a StoreLock) -> Result<&'a Claim, Error> {
        lock.of_store(&self.row)
    }
}

async fn mark_restored(database: &Database, lease: Duration) -> Result<usize, Error> {
    let mut transaction = database.transaction(LONGEST_MARKING).await?;
    let lease: &Parameters<'_> = &[(&lease.as_secs_f64(), Type::FLOAT8)];
    let marked = transaction.query(statements::MARK_RESTORED, lease).await?;
    transaction.commit().await?;
    let marked: i64 = marked.first().and_then(|row| row.try_get(0).ok()).unwrap_or(0);
    Ok(usize::try_from(marked).unwrap_or(0))
}

impl fmt::Debug for PostgresStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresStore")
            .field("row", &self.row)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

impl TokenStore for PostgresStore {
    async fn load(&self) -> Result<Option<RefreshTokenObject>, Error> {
        Ok(self.read().await?.token)
    }

    async fn read(&self) -> Result<Stored, Error> {
        self.row.save_what_waits().await?;
        let Found { stored, base } = self.row.read().await?;
        *locked(&self.last_read) = Some(base.save_id);
        Ok(stored)
    }

    async fn try_lock(&self) -> Result<Option<StoreLock>, Error> {
        self.claim(Duration::ZERO).await
    }

    async fn try_lock_ahead_of_time(&self) -> Result<Option<StoreLock>, Error> {
        self.claim(self.limits.doubt).await
    }

    async fn prolong(&self, lock: &StoreLock) -> Result<Duration, Error> {
        let claim = self.claimed(lock)?;
        let lease = self.limits.lease;
        if self.row.prolong(claim.holder(), lease, &claim.base()).await? {
            Ok(lease)
        } else {
            Err(claim.lapsed("the next request to Concur was not sent"))
        }
    }

    async fn unlock(&self, lock: StoreLock) {
        if let Ok(claim) = self.claimed(&lock) {
            claim.release().await;
        }
    }

    async fn read_locked(&self, lock: &StoreLock) -> Result<Stored, Error> {
        self.claimed(lock)?.read().await
    }

    /// Taking the lease has proved that the database accepts writes.
    async fn rehearse(&self, _: Option<&RefreshTokenObject>, lock: &StoreLock) -> Result<(), Error> {
        self.claimed(lock).map(drop)
    }

    async fn save(&self, token: &RefreshTokenObject, lock: &StoreLock) -> Result<(), Error> {
        self.claimed(lock)?.save(token, None).await
    }

    async fn replace(&self, token: &RefreshTokenObject, lock: &StoreLock) -> Result<(), Error> {
        self.claimed(lock)?.replace(token).await
    }

    async fn finish(
        &self,
        token: &RefreshTokenObject,
        note: Option<&str>,
        lock: &StoreLock,
    ) -> Result<(), Error> {
        let claim = self.claimed(lock)?;
        claim.save(token, Some(note)).await?;
        *locked(&self.last_read) = Some(claim.base().save_id);
        Ok(())
    }

    async fn remember(&self, note: Option<&str>, lock: &StoreLock) -> Result<(), Error> {
        self.claimed(lock)?.remember(note).await
    }

    async fn remove(&self, lock: &StoreLock) -> Result<(), Error> {
        self.claimed(lock)?.remove().await
    }

    fn longest_poll(&self) -> Duration {
        LONGEST_POLL
    }

    fn reads_by_locking(&self) -> bool {
        true
    }

    fn describe(&self) -> String {
        self.row.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MemoryStore;

    /// In a database that is not there.
    fn store() -> PostgresStore {
        PostgresStore::new("postgres://app@localhost:1/concur", "c").unwrap()
    }

    #[tokio::test]
    async fn a_lock_of_another_store_is_refused_before_any_request() {
        let lock = MemoryStore::new().try_lock().await.unwrap().unwrap();
        let error = store().rehearse(None, &lock).await.unwrap_err();
        assert!(error.to_string().contains("another store"), "{error}");
    }

    #[test]
    fn each_time_is_the_one_that_was_set_and_none_is_longer_than_a_day() {
        for (set, kept) in [([2, 3, 4], [2, 3, 4]), ([86_401; 3], [86_400; 3])] {
            let [lease, doubt, late_save] = set.map(Duration::from_secs);
            let Limits { lease, doubt, late_save } =
                store().lease(lease).doubt(doubt).late_save(late_save).limits;
            assert_eq!([lease, doubt, late_save].map(|it| it.as_secs()), kept);
        }
    }

    #[test]
    fn it_is_called_after_its_row() {
        let store = store();
        assert_eq!(store.describe(), format!("the row of c in {}", store.row.database.describe()));
        assert!(store.app_id("a").describe().starts_with("the row of c of app a in "));
    }
}
