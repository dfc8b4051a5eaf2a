//! Where the tokens of many principals are kept.

#[cfg(feature = "sealing")]
use std::collections::BTreeMap;
use std::{
    fmt,
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    time::Duration,
};

use serde::Serialize;
use time::OffsetDateTime;

use super::{
    BoxFuture, BoxedStore, StoreLock,
    erased::{guarded_call, panicked},
    member_name::NoStore,
};
use crate::{Error, ErrorKind, TokenStore as _, status::rfc3339};

/// How many members one page of a list has, where all of them are read.
const PAGE: usize = 1_000;

/// Where a [`Fleet`](crate::Fleet) keeps the tokens of its companies and users: [`FolderFleet`](crate::FolderFleet),
/// `PostgresFleet` (feature `postgres`), or your own.
///
/// A fleet store hands out one [`TokenStore`](crate::TokenStore) for each principal, and knows which tokens are due. Every
/// principal belongs to an app, and has a name: its UUID in lower case, or `pending-…` while it is not known who has signed in.
/// Names consist of ASCII letters, digits, `-` and `_`.
///
/// # When a token is due
///
/// A third of the time between the last grant and the refresh token's expiry after that grant, less a part of the principal's
/// own: up to a ninth of that time, and up to 20 days. So tokens that were imported together are not renewed together ever after.
/// A token without an expiry is due at once. A token that Concur has refused for good is not due. With a
/// [margin](Self::refresh_token_margin), a token may be due earlier.
///
/// # Where a fleet store runs
///
/// As a [`TokenStore`](crate::TokenStore) does.
pub trait FleetStore: fmt::Debug + Send + Sync + 'static {
    /// The store of one principal's token. Reads and makes nothing.
    fn of(&self, app_id: &str, principal: &str) -> BoxedStore;

    /// Locks tokens that are due, at most `most`, those first whose refresh tokens expire first.
    ///
    /// Each lock is one of the principal's store, as [`try_lock_ahead_of_time`](crate::TokenStore::try_lock_ahead_of_time) gives
    /// it. A token that was locked here is not due again before a pause is over, unless it is saved: a minute, doubling with each
    /// time that it was locked and not saved, up to an hour. Several processes may call this at once: each token is locked for
    /// one of them.
    ///
    /// # Errors
    ///
    /// [`Error::store`] when it cannot be found out which tokens are due.
    fn claim_due(&self, app_id: &str, most: usize) -> impl Future<Output = Result<DueTokens, Error>> + Send;

    /// How many tokens are due, and are left alone by [`claim_due`](Self::claim_due), because another process works on them or may
    /// have renewed them. Asked after the last claim of [`Fleet::renew_due`](crate::Fleet::renew_due). Default: 0.
    ///
    /// # Errors
    ///
    /// [`Error::store`] when they cannot be counted.
    fn count_busy(&self, app_id: &str) -> impl Future<Output = Result<u64, Error>> + Send {
        let _ = app_id;
        std::future::ready(Ok(0))
    }

    /// The members of the fleet in the order of their names, at most `most`: those after the name `after`, or the first.
    ///
    /// # Errors
    ///
    /// [`Error::store`] when they cannot be read.
    fn list(
        &self,
        app_id: &str,
        after: Option<&str>,
        most: usize,
    ) -> impl Future<Output = Result<Vec<FleetMember>, Error>> + Send;

    /// The member of this name; `None` if there is none. The default reads the whole [`list`](Self::list).
    ///
    /// # Errors
    ///
    /// As [`list`](Self::list).
    fn member(
        &self,
        app_id: &str,
        principal: &str,
    ) -> impl Future<Output = Result<Option<FleetMember>, Error>> + Send {
        find(self, app_id, principal)
    }

    /// Moves the token of `pending` to `principal`, in place of the token that may be there, in one step. Afterwards `pending` is
    /// no member any more.
    ///
    /// # Errors
    ///
    /// [`Error::store`] when it is not certain that the token was moved.
    fn assign(
        &self,
        app_id: &str,
        pending: &str,
        principal: &str,
    ) -> impl Future<Output = Result<(), Error>> + Send;

    /// The members that need a person. The default reads the whole [`list`](Self::list).
    ///
    /// # Errors
    ///
    /// As [`list`](Self::list).
    fn needing_a_person(&self, app_id: &str) -> impl Future<Output = Result<Vec<FleetMember>, Error>> + Send {
        find_needing_a_person(self, app_id)
    }

    /// Counts the members. The default reads the whole [`list`](Self::list).
    ///
    /// # Errors
    ///
    /// As [`list`](Self::list).
    fn health(&self, app_id: &str) -> impl Future<Output = Result<FleetHealth, Error>> + Send {
        async move {
            let mut health = FleetHealth::default();
            read_all(self, app_id, |member| health.count(&member)).await?;
            Ok(health)
        }
    }

    /// From now on a token is also due when less than this is left of it, as
    /// [`FleetBuilder::refresh_token_margin`](crate::FleetBuilder::refresh_token_margin) asks for. Not within a day of its last grant,
    /// or of its last change, since a margin may be longer than a life; and not before the pause is over that follows a claim or a
    /// refusal.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`](crate::ErrorKind::Config) by default: this store knows no margin.
    fn refresh_token_margin(&mut self, margin: Duration) -> Result<(), Error> {
        let _ = margin;
        let message = format!(
            "{} knows no margin; implement FleetStore::refresh_token_margin, or give the fleet no margin",
            self.describe()
        );
        Err(Error::new(ErrorKind::Config, message))
    }

    /// Seals the tokens with these keys from now on, as [`FleetBuilder::sealed_with`](crate::FleetBuilder::sealed_with) asks for.
    /// A store of one's own calls [`SealingKeys::seal`](crate::SealingKeys::seal) and [`open`](crate::SealingKeys::open). Feature
    /// `sealing`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`](crate::ErrorKind::Config) by default: this store keeps tokens as they are.
    #[cfg(feature = "sealing")]
    fn seal_with(&mut self, keys: crate::SealingKeys) -> Result<(), Error> {
        let _ = keys;
        Err(takes_no_keys(&self.describe()))
    }

    /// How many texts each key has sealed: tokens, and what is noted about them. `None` has the tokens that are not sealed. A key
    /// that has none left can be taken away. Feature `sealing`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`](crate::ErrorKind::Config) by default: this store keeps tokens as they are. [`Error::store`] when they
    /// cannot be read.
    #[cfg(feature = "sealing")]
    fn count_by_sealing_key(
        &self,
        app_id: &str,
    ) -> impl Future<Output = Result<BTreeMap<Option<String>, u64>, Error>> + Send {
        let _ = app_id;
        std::future::ready(Err(takes_no_keys(&self.describe())))
    }

    /// How long the leases of [`claim_due`](Self::claim_due) last, if its locks are leases: no more tokens are claimed at once
    /// than can be presented within a quarter of that.
    fn lease(&self) -> Option<Duration> {
        None
    }

    /// The store's name in errors and logs, such as the path of a folder; never a secret.
    fn describe(&self) -> String {
        std::any::type_name::<Self>().to_owned()
    }
}

#[cfg(feature = "sealing")]
fn takes_no_keys(store: &str) -> Error {
    let message = format!(
        "{store} takes no sealing keys; implement FleetStore::seal_with and count_by_sealing_key, or give the fleet no keys"
    );
    Error::new(ErrorKind::Config, message)
}

/// Tokens that were due, and are locked now.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct DueTokens {
    /// Those that expire first come first.
    pub tokens: Vec<DueToken>,
    /// In how long the next token is due, as far as the store knows. It is asked again after a minute at the latest.
    pub next: Option<Duration>,
    /// The names of those that are due, or may be, and could not be locked or read, or of the folder that they may be in. The
    /// store says why in the log.
    pub failed: Vec<String>,
}

impl DueTokens {
    /// What a store found.
    #[must_use]
    pub fn new(tokens: Vec<DueToken>, next: Option<Duration>) -> Self {
        Self { tokens, next, failed: Vec::new() }
    }
}

/// A token that was due, and is locked now.
#[derive(Debug)]
#[non_exhaustive]
pub struct DueToken {
    /// Whose token it is.
    pub principal: String,
    /// What kind of principal that is.
    pub kind: MemberKind,
    /// The lock of the principal's store.
    pub lock: StoreLock,
}

impl DueToken {
    /// A token that was locked.
    #[must_use]
    pub fn new(principal: impl Into<String>, kind: MemberKind, lock: StoreLock) -> Self {
        Self { principal: principal.into(), kind, lock }
    }
}

/// What a member of a fleet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[non_exhaustive]
#[serde(rename_all = "snake_case")]
pub enum MemberKind {
    /// A company.
    Company,
    /// A user.
    User,
    /// A principal of whom only the token is known, until [`Fleet::assign`](crate::Fleet::assign) says whose it is.
    Pending,
}

/// Whether a member of a fleet is signed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[non_exhaustive]
#[serde(rename_all = "snake_case")]
pub enum MemberState {
    /// It is signed in.
    Active,
    /// Renewals fail until a person acts.
    NeedsPerson,
    /// It has no token.
    SignedOut,
}

/// A company or user of a fleet, without any secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct FleetMember {
    /// The UUID of the company or user; of a principal that is not known yet, the name for [`Fleet::assign`](crate::Fleet::assign).
    pub uuid: String,
    /// What it is.
    pub kind: MemberKind,
    /// Whether it is signed in.
    pub state: MemberState,
    /// What failed, and what to do next, if a person is needed.
    pub needs: Option<String>,
    /// Since when a person is needed.
    #[serde(serialize_with = "rfc3339")]
    pub needed_since: Option<OffsetDateTime>,
    /// When the refresh token expires, as far as that is known.
    #[serde(serialize_with = "rfc3339")]
    pub refresh_token_expires_at: Option<OffsetDateTime>,
    /// Where a person is needed: when the refresh token expires. `None` if no person is needed, or no refresh token is valid.
    #[serde(serialize_with = "rfc3339")]
    pub act_before: Option<OffsetDateTime>,
    /// When the token is due to be renewed, without a margin that the fleet may have.
    #[serde(serialize_with = "rfc3339")]
    pub renew_at: Option<OffsetDateTime>,
    /// Whether the newest token is only in the memory of this process, or in its spool folder. A store need not know of memory: what
    /// a fleet returns is completed.
    pub unsaved: bool,
}

impl FleetMember {
    /// A member about which nothing else is known.
    pub fn new(uuid: impl Into<String>, kind: MemberKind, state: MemberState) -> Self {
        Self {
            uuid: uuid.into(),
            kind,
            state,
            needs: None,
            needed_since: None,
            refresh_token_expires_at: None,
            act_before: None,
            renew_at: None,
            unsaved: false,
        }
    }
}

/// How many members a fleet has, and how they are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct FleetHealth {
    /// How many are signed in, and need no person.
    pub active: u64,
    /// How many need a person.
    pub needing_a_person: u64,
    /// How many have no token.
    pub signed_out: u64,
    /// When the first refresh token of an active member expires.
    #[serde(serialize_with = "rfc3339")]
    pub soonest_expiry: Option<OffsetDateTime>,
    /// How many have their newest token in the memory of this process only.
    pub unsaved: u64,
}

impl FleetHealth {
    /// Counts one more member.
    pub fn count(&mut self, member: &FleetMember) {
        match member.state {
            MemberState::Active => {
                self.active += 1;
                let earlier = self.soonest_expiry.into_iter().chain(member.refresh_token_expires_at).min();
                self.soonest_expiry = earlier;
            }
            MemberState::NeedsPerson => self.needing_a_person += 1,
            MemberState::SignedOut => self.signed_out += 1,
        }
    }
}

async fn find<S: FleetStore + ?Sized>(
    store: &S,
    app_id: &str,
    principal: &str,
) -> Result<Option<FleetMember>, Error> {
    let mut found = None;
    read_all(store, app_id, |member| {
        if member.uuid == principal {
            found = Some(member);
        }
    })
    .await?;
    Ok(found)
}

async fn find_needing_a_person<S: FleetStore + ?Sized>(
    store: &S,
    app_id: &str,
) -> Result<Vec<FleetMember>, Error> {
    let mut found = Vec::new();
    read_all(store, app_id, |member| {
        if member.state == MemberState::NeedsPerson {
            found.push(member);
        }
    })
    .await?;
    Ok(found)
}

async fn read_all<S: FleetStore + ?Sized>(
    store: &S,
    app_id: &str,
    mut each: impl FnMut(FleetMember) + Send,
) -> Result<(), Error> {
    let mut after = None;
    loop {
        let page = store.list(app_id, after.as_deref(), PAGE).await?;
        let Some(last) = page.last() else { return Ok(()) };
        after = Some(last.uuid.clone());
        page.into_iter().for_each(&mut each);
    }
}

/// The object-safe twin, so that a fleet needs no type parameter. A panic in a store is an error of the store.
pub(crate) trait DynFleetStore: fmt::Debug + Send + Sync {
    fn of(&self, app_id: &str, principal: &str) -> BoxedStore;
    fn claim_due<'a>(&'a self, app_id: &'a str, most: usize) -> BoxFuture<'a, DueTokens>;
    fn count_busy<'a>(&'a self, app_id: &'a str) -> BoxFuture<'a, u64>;
    fn list<'a>(
        &'a self,
        app_id: &'a str,
        after: Option<&'a str>,
        most: usize,
    ) -> BoxFuture<'a, Vec<FleetMember>>;
    fn member<'a>(&'a self, app_id: &'a str, principal: &'a str) -> BoxFuture<'a, Option<FleetMember>>;
    fn assign<'a>(&'a self, app_id: &'a str, pending: &'a str, principal: &'a str) -> BoxFuture<'a, ()>;
    fn needing_a_person<'a>(&'a self, app_id: &'a str) -> BoxFuture<'a, Vec<FleetMember>>;
    fn health<'a>(&'a self, app_id: &'a str) -> BoxFuture<'a, FleetHealth>;
    fn refresh_token_margin(&mut self, margin: Duration) -> Result<(), Error>;
    #[cfg(feature = "sealing")]
    fn seal_with(&mut self, keys: crate::SealingKeys) -> Result<(), Error>;
    #[cfg(feature = "sealing")]
    fn count_by_sealing_key<'a>(&'a self, app_id: &'a str) -> BoxFuture<'a, BTreeMap<Option<String>, u64>>;
    fn lease(&self) -> Option<Duration>;
    fn describe(&self) -> String;
}

impl<T: FleetStore> DynFleetStore for T {
    fn of(&self, app_id: &str, principal: &str) -> BoxedStore {
        let made = catch_unwind(AssertUnwindSafe(|| FleetStore::of(self, app_id, principal)));
        made.unwrap_or_else(|_| NoStore(panicked(&DynFleetStore::describe(self))).boxed())
    }

    fn claim_due<'a>(&'a self, app_id: &'a str, most: usize) -> BoxFuture<'a, DueTokens> {
        guarded(self, async move { FleetStore::claim_due(self, app_id, most).await })
    }

    fn count_busy<'a>(&'a self, app_id: &'a str) -> BoxFuture<'a, u64> {
        guarded(self, async move { FleetStore::count_busy(self, app_id).await })
    }

    fn list<'a>(
        &'a self,
        app_id: &'a str,
        after: Option<&'a str>,
        most: usize,
    ) -> BoxFuture<'a, Vec<FleetMember>> {
        guarded(self, async move { FleetStore::list(self, app_id, after, most).await })
    }

    fn member<'a>(&'a self, app_id: &'a str, principal: &'a str) -> BoxFuture<'a, Option<FleetMember>> {
        guarded(self, async move { FleetStore::member(self, app_id, principal).await })
    }

    fn assign<'a>(&'a self, app_id: &'a str, pending: &'a str, principal: &'a str) -> BoxFuture<'a, ()> {
        guarded(self, async move { FleetStore::assign(self, app_id, pending, principal).await })
    }

    fn needing_a_person<'a>(&'a self, app_id: &'a str) -> BoxFuture<'a, Vec<FleetMember>> {
        guarded(self, async move { FleetStore::needing_a_person(self, app_id).await })
    }

    fn health<'a>(&'a self, app_id: &'a str) -> BoxFuture<'a, FleetHealth> {
        guarded(self, async move { FleetStore::health(self, app_id).await })
    }

    fn refresh_token_margin(&mut self, margin: Duration) -> Result<(), Error> {
        let set = catch_unwind(AssertUnwindSafe(|| FleetStore::refresh_token_margin(self, margin)));
        set.unwrap_or_else(|_| Err(panicked(&DynFleetStore::describe(self))))
    }

    #[cfg(feature = "sealing")]
    fn seal_with(&mut self, keys: crate::SealingKeys) -> Result<(), Error> {
        let set = catch_unwind(AssertUnwindSafe(|| FleetStore::seal_with(self, keys)));
        set.unwrap_or_else(|_| Err(panicked(&DynFleetStore::describe(self))))
    }

    #[cfg(feature = "sealing")]
    fn count_by_sealing_key<'a>(&'a self, app_id: &'a str) -> BoxFuture<'a, BTreeMap<Option<String>, u64>> {
        guarded(self, async move { FleetStore::count_by_sealing_key(self, app_id).await })
    }

    fn lease(&self) -> Option<Duration> {
        catch_unwind(AssertUnwindSafe(|| FleetStore::lease(self))).unwrap_or_default()
    }

    fn describe(&self) -> String {
        let described = catch_unwind(AssertUnwindSafe(|| FleetStore::describe(self)));
        described.unwrap_or_else(|_| std::any::type_name::<T>().to_owned())
    }
}

/// The call itself is inside the future, so that a panic in it is caught, too.
fn guarded<'a, T: 'a>(
    store: &'a impl FleetStore,
    call: impl Future<Output = Result<T, Error>> + Send + 'a,
) -> BoxFuture<'a, T> {
    guarded_call(|| DynFleetStore::describe(store), call)
}
