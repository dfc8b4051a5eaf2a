//! Many companies and users of one app: each has a [`TokenManager`], and one task keeps all of them signed in.
//!
//! Always: a member's manager is the same for all callers in a process. Which members there are, and which tokens are due, the
//! store knows; a fleet in memory is no more than what is in use. Building a fleet starts, sends and reads nothing.

mod builder;
mod connect;
mod due;
mod events;
mod import;
mod managers;
mod pace;
mod worker;

use std::{fmt, sync::Arc, time::Duration};

use tokio::sync::{Semaphore, oneshot, watch};

pub use self::{
    builder::FleetBuilder,
    due::FleetRenewals,
    events::{FleetEvent, FleetEvents},
    import::Imported,
};
use self::{
    events::Events,
    managers::{AskedBy, Managers},
    worker::{Stop, Worker},
};
use crate::{
    AppCredentials, CredentialSource, Credentials, DueTokens, Error, ErrorKind, FleetHealth, FleetMember,
    MemberKind, TokenManager,
    clock::within,
    manager::Blueprint,
    measured,
    sealing::SealingKeys,
    store::{BoxFuture, DynFleetStore, member_name},
};

/// The companies and users of one app, all kept signed in.
///
/// Each member has its [`TokenManager`], the same type as for one company. Where the tokens lie is a
/// [`FleetStore`](crate::FleetStore): a folder ([`FolderFleet`](crate::FolderFleet)), PostgreSQL (`PostgresFleet`, for any number
/// of machines), or your own. Cheap to clone; clones share everything.
///
/// ```no_run
/// use concur_auth::{AppCenterRedirect, AppCredentials, Fleet, FolderFleet};
///
/// # async fn example(url: &str, uuid: &str) -> Result<(), concur_auth::Error> {
/// let fleet = Fleet::builder()
///     .app(AppCredentials::from_env()?)
///     .store(FolderFleet::new("/var/lib/my-app/tokens"))
///     .build()?;
/// let _worker = fleet.keep_alive().await?; // one task for all, in as many processes as one likes
///
/// // A company connects.
/// let uuid = fleet.connect(AppCenterRedirect::from_url(url)?).await?;
/// // Its token for an API call.
/// let access = fleet.company(&uuid).access_token().await?;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Fleet(Arc<Inner>);

struct Inner {
    app: AppCredentials,
    store: Arc<dyn DynFleetStore>,
    blueprint: Blueprint,
    /// How many renewals run at once.
    concurrent: usize,
    per_second: Option<f64>,
    /// What the store was given; `import_files` reads sealed files with them.
    keys: Option<SealingKeys>,
    managers: Managers,
    events: Events,
    /// One for each renewal that a worker makes.
    slots: Arc<Semaphore>,
    /// Tells the workers that the fleet is shut down.
    stop: watch::Sender<()>,
}

impl Fleet {
    /// Builds a fleet from parts of your choice.
    pub fn builder() -> FleetBuilder {
        FleetBuilder::new()
    }

    /// The manager of a company, by its UUID. Reads nothing; the company need not be connected yet.
    ///
    /// The manager stays in memory while it is used, and for an hour.
    #[must_use]
    pub fn company(&self, uuid: &str) -> TokenManager {
        self.manager_of(MemberKind::Company, uuid)
    }

    /// The manager of a user, by the UUID that is `sub` in Concur's `id_token`. As [`company`](Self::company).
    #[must_use]
    pub fn user(&self, uuid: &str) -> TokenManager {
        self.manager_of(MemberKind::User, uuid)
    }

    fn manager_of(&self, kind: MemberKind, uuid: &str) -> TokenManager {
        match member_name::normalized(uuid) {
            Ok(name) => self.0.manager(kind, &name, AskedBy::Program),
            // Every call of this manager says what is wrong.
            Err(e) => {
                let credentials = self.0.app.for_member();
                self.0.blueprint.manager(Box::new(credentials), Arc::new(member_name::NoStore(e)), None)
            }
        }
    }

    /// Keeps all members signed in, until the guard is dropped: renews each refresh token once in about 60 days, and the access
    /// tokens of those members that this process has asked for in the last hour, before they expire.
    ///
    /// One task, in as many processes as one likes: each token that is due is renewed by one of them. After an outage, those
    /// tokens come first that expire first.
    ///
    /// ```no_run
    /// # async fn example(fleet: concur_auth::Fleet) -> Result<(), concur_auth::Error> {
    /// let _worker = fleet.keep_alive().await?;
    /// // … serve …
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unavailable`] when no background thread can be started. Later failures are in the log, in
    /// [`needing_a_person`](Self::needing_a_person), and in [`events`](Self::events).
    pub async fn keep_alive(&self) -> Result<FleetKeepAlive, Error> {
        let (running, guard) = watch::channel(());
        let stop = Stop { guard, fleet: self.0.stop.subscribe() };
        let worker = Worker::new(Arc::clone(&self.0), stop);
        self.0.blueprint.machine.executor.spawn(Box::pin(worker.run()))?;
        Ok(FleetKeepAlive { _running: running })
    }

    /// The members that need a person, as any process has found out.
    ///
    /// ```no_run
    /// # async fn example(fleet: concur_auth::Fleet) -> Result<(), concur_auth::Error> {
    /// for member in fleet.needing_a_person().await? {
    ///     println!("{}: {:?} before {:?}", member.uuid, member.needs, member.act_before);
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Store`] when the store cannot be read.
    pub async fn needing_a_person(&self) -> Result<Vec<FleetMember>, Error> {
        let mut members = self.0.call(|fleet| fleet.store.needing_a_person(fleet.app.app_id())).await?;
        self.0.tell_unsaved(&mut members);
        Ok(members)
    }

    /// The member with this UUID, or of this pending name; `None` if there is none. Says whether the UUID is a company's, for
    /// [`company`](Self::company), or a user's, for [`user`](Self::user).
    ///
    /// ```no_run
    /// use concur_auth::MemberKind;
    ///
    /// # async fn example(fleet: concur_auth::Fleet, uuid: &str) -> Result<(), concur_auth::Error> {
    /// let tokens = match fleet.member(uuid).await?.map(|member| member.kind) {
    ///     Some(MemberKind::User) => fleet.user(uuid),
    ///     _ => fleet.company(uuid),
    /// };
    /// # let _ = tokens;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Store`] when the store cannot be read; [`ErrorKind::Config`] when this cannot be the name of a member.
    pub async fn member(&self, uuid: &str) -> Result<Option<FleetMember>, Error> {
        let name = member_name::normalized(uuid)?.into_owned();
        let mut member = self
            .0
            .call(move |fleet| Box::pin(async move { fleet.store.member(fleet.app.app_id(), &name).await }))
            .await?;
        self.0.tell_unsaved(&mut member);
        Ok(member)
    }

    /// How many members there are, and how they are.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Store`] when the store cannot be read.
    pub async fn health(&self) -> Result<FleetHealth, Error> {
        let mut health = self.0.call(|fleet| fleet.store.health(fleet.app.app_id())).await?;
        let unsaved = self.0.managers.in_use().iter().filter(|manager| manager.is_unsaved()).count();
        health.unsaved = u64::try_from(unsaved).unwrap_or(u64::MAX);
        measured::fleet(
            [
                ("active", health.active),
                ("needs_reauthorization", health.needing_a_person),
                ("signed_out", health.signed_out),
            ],
            health.soonest_expiry.map(|at| at.unix_timestamp()),
        );
        Ok(health)
    }

    /// A page of the members, in the order of their names: at most `most`, after the name `after`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Store`] when the store cannot be read.
    pub async fn list(&self, after: Option<&str>, most: usize) -> Result<Vec<FleetMember>, Error> {
        let after = after.map(str::to_owned);
        let mut members = self
            .0
            .call(move |fleet| {
                Box::pin(async move { fleet.store.list(fleet.app.app_id(), after.as_deref(), most).await })
            })
            .await?;
        self.0.tell_unsaved(&mut members);
        Ok(members)
    }

    /// How many texts each sealing key has sealed: tokens, what is noted about them, and what waits in the spool of this machine.
    /// `None` has the tokens that are not sealed. A key that has none left can be taken away, once no backup needs it either.
    /// Feature `sealing`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Store`] when the store cannot be read; [`ErrorKind::Config`] when it takes no sealing keys.
    #[cfg(feature = "sealing")]
    pub async fn count_by_sealing_key(
        &self,
    ) -> Result<std::collections::BTreeMap<Option<String>, u64>, Error> {
        self.0.call(|fleet| fleet.store.count_by_sealing_key(fleet.app.app_id())).await
    }

    /// What happens to members in this process from now on.
    #[must_use]
    pub fn events(&self) -> FleetEvents {
        self.0.events.listen()
    }

    /// Stops the tasks of [`keep_alive`](Self::keep_alive) and [`renew_due`](Self::renew_due), gives back what they have claimed and not presented, and waits for
    /// renewals under way and for tokens that could not be saved yet: all together, for `deadline` at most.
    ///
    /// The fleet can be used afterwards.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Store`] when the deadline has passed and a newest refresh token is still in memory only, or a renewal has not
    /// ended; it names one of them.
    pub async fn shutdown(&self, deadline: Duration) -> Result<(), Error> {
        self.0.stop.send_replace(());
        let machine = &self.0.blueprint.machine;
        let all = u32::try_from(self.0.concurrent).unwrap_or(u32::MAX);
        let renewed = async { drop(self.0.slots.acquire_many(all).await) };
        let began = machine.clock.now();
        let is_over = within(machine.clock.sleep(deadline), renewed).await.is_none();
        let spent = machine.clock.now().duration_since(began).unwrap_or_default();
        let left = if is_over { Duration::ZERO } else { deadline.saturating_sub(spent) };
        let mut ended = Vec::new();
        for manager in self.0.managers.in_use() {
            let (told, end) = oneshot::channel();
            let work = async move {
                let _ = told.send(manager.shutdown(left).await);
            };
            machine.executor.spawn(Box::pin(work))?;
            ended.push(end);
        }
        let mut outcome = Ok(());
        for end in ended {
            // Without an answer the runtime has gone, and nothing goes on.
            outcome = outcome.and(end.await.unwrap_or(Ok(())));
        }
        outcome
    }
}

impl fmt::Debug for Fleet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fleet").field("store", &self.0.store).finish_non_exhaustive()
    }
}

/// Keeps a fleet signed in until it is dropped; see [`Fleet::keep_alive`].
#[must_use = "renewing stops when this is dropped"]
pub struct FleetKeepAlive {
    _running: watch::Sender<()>,
}

impl fmt::Debug for FleetKeepAlive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FleetKeepAlive").finish_non_exhaustive()
    }
}

impl Inner {
    fn manager(self: &Arc<Self>, kind: MemberKind, name: &str, asked_by: AskedBy) -> TokenManager {
        let kind = member_name::kind_of(name, kind);
        let clock = &*self.blueprint.machine.clock;
        self.managers.get(kind, name, asked_by, clock, |name| {
            let store = self.store.of(self.app.app_id(), &name).into_dyn();
            let observer = self.events.of(kind, Arc::clone(&name));
            let source = OfMember { app: self.app.clone(), kind, name };
            let credentials = source.now();
            self.blueprint.manager(Box::new(source), store, Some(observer)).belonging_to(&credentials)
        })
    }

    /// Tells of the members whose newest token is in memory only.
    fn tell_unsaved<'a>(&self, members: impl IntoIterator<Item = &'a mut FleetMember>) {
        for member in members {
            member.unsaved |= self.managers.any(&member.uuid, TokenManager::is_unsaved);
        }
    }

    async fn claim_due(self: &Arc<Self>, most: usize) -> Result<DueTokens, Error> {
        self.call(move |fleet| fleet.store.claim_due(fleet.app.app_id(), most)).await
    }

    /// A call of the store, on a thread that it may block, where its connections live.
    async fn call<T: Send + 'static>(
        self: &Arc<Self>,
        call: impl for<'a> FnOnce(&'a Self) -> BoxFuture<'a, T> + Send + 'static,
    ) -> Result<T, Error> {
        let (told, answered) = oneshot::channel();
        let fleet = Arc::clone(self);
        let work = async move {
            // An error means that the caller has gone.
            let _ = told.send(call(&fleet).await);
        };
        self.blueprint.machine.executor.spawn_blocking(Box::pin(work))?;
        answered.await.unwrap_or_else(|_| {
            let message =
                format!("the call of {} did not come to its end; please report this", self.store.describe());
            Err(Error::new(ErrorKind::Store, message))
        })
    }
}

/// The credentials of a member: the app's, and whose tokens are kept.
struct OfMember {
    app: AppCredentials,
    kind: MemberKind,
    name: Arc<str>,
}

impl OfMember {
    fn now(&self) -> Credentials {
        match self.kind {
            MemberKind::Company => self.app.for_company(&self.name),
            MemberKind::User => self.app.for_user(&self.name),
            MemberKind::Pending => self.app.for_member(),
        }
    }
}

impl CredentialSource for OfMember {
    async fn credentials(&self) -> Result<Credentials, Error> {
        Ok(self.now())
    }
}

impl fmt::Debug for OfMember {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OfMember").field("kind", &self.kind).field("name", &self.name).finish_non_exhaustive()
    }
}
