//! The simulated parties: a store that several processes share, and Concur.

use std::{
    fmt,
    future::{Future, pending},
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use serde_json::json;

use super::world::{Watch, World};
use crate::{
    Clock as _, Error, MemoryStore, RefreshTokenObject, StoreLock, Stored, TokenStore,
    caught::locked,
    oauth_client::{OutgoingCall, Sent, Transport},
};

/// The tasks that belong to no simulated process.
const KILLER: usize = usize::MAX;

/// A store whose every call takes a while, so that anything may happen in between.
#[derive(Clone)]
pub(super) struct Disk {
    pub(super) store: MemoryStore,
    pub(super) world: Arc<World>,
    /// How often the lock was asked for.
    pub(super) locks: Arc<AtomicUsize>,
    /// Saves that are to fail.
    pub(super) failing: Arc<AtomicUsize>,
    /// No call does anything, or ever answers.
    pub(super) is_silent: Arc<AtomicBool>,
    /// Saves that are to be neither done nor answered.
    pub(super) stuck: Arc<AtomicUsize>,
    /// Saves that are to be done, and never answered.
    pub(super) unanswered: Arc<AtomicUsize>,
    /// How many saves were done.
    pub(super) done: Arc<AtomicUsize>,
    /// Which refresh token was saved when.
    pub(super) saved: Arc<Mutex<Vec<(Duration, String)>>>,
}

impl Disk {
    pub(super) fn new(world: &Arc<World>) -> Self {
        let store = MemoryStore::new();
        Self {
            store,
            world: Arc::clone(world),
            locks: Arc::default(),
            failing: Arc::default(),
            is_silent: Arc::default(),
            stuck: Arc::default(),
            unanswered: Arc::default(),
            done: Arc::default(),
            saved: Arc::default(),
        }
    }

    /// The same store, with a count of its own of how often it is asked for the lock.
    pub(super) fn counting_apart(&self) -> Self {
        Self { locks: Arc::default(), ..self.clone() }
    }

    /// When this refresh token was replaced in the store.
    pub(super) fn replaced_at(&self, refresh: &str) -> Option<Duration> {
        let saved = locked(&self.saved);
        let at = saved.iter().position(|(_, token)| token == refresh).expect("a token that was never saved");
        saved.get(at + 1).map(|(at, _)| *at)
    }

    /// A save that is repeated replaces nothing.
    fn note(&self, token: &RefreshTokenObject) {
        self.done.fetch_add(1, Ordering::Relaxed);
        let mut saved = locked(&self.saved);
        if saved.last().is_none_or(|(_, last)| last != token.secret()) {
            saved.push((self.world.passed(), token.secret().to_owned()));
        }
    }

    /// How often a save was done.
    pub(super) fn saves(&self) -> usize {
        self.done.load(Ordering::Relaxed)
    }

    async fn wait(&self) {
        if self.is_silent.load(Ordering::Relaxed) {
            pending::<()>().await;
        }
        Watch(Arc::clone(&self.world)).sleep(self.world.up_to(Duration::from_millis(20))).await;
    }
}

/// Takes one off what is left.
fn is_one_more(left: &AtomicUsize) -> bool {
    left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
}

impl TokenStore for Disk {
    async fn load(&self) -> Result<Option<RefreshTokenObject>, Error> {
        self.wait().await;
        self.store.load().await
    }

    async fn save(&self, token: &RefreshTokenObject, lock: &StoreLock) -> Result<(), Error> {
        self.wait().await;
        if is_one_more(&self.failing) {
            return Err(Error::store("the disk is full", "no space left"));
        }
        if is_one_more(&self.stuck) {
            pending::<()>().await;
        }
        self.note(token);
        self.store.save(token, lock).await?;
        if is_one_more(&self.unanswered) {
            pending::<()>().await;
        }
        Ok(())
    }

    async fn remove(&self, lock: &StoreLock) -> Result<(), Error> {
        self.store.remove(lock).await
    }

    async fn try_lock(&self) -> Result<Option<StoreLock>, Error> {
        self.locks.fetch_add(1, Ordering::Relaxed);
        self.wait().await;
        self.store.try_lock().await
    }

    /// With the failing saves left alone: the disk gets full behind it.
    async fn rehearse(&self, held: Option<&RefreshTokenObject>, lock: &StoreLock) -> Result<(), Error> {
        self.wait().await;
        self.store.rehearse(held, lock).await
    }

    async fn read(&self) -> Result<Stored, Error> {
        self.wait().await;
        self.store.read().await
    }

    async fn remember(&self, note: Option<&str>, lock: &StoreLock) -> Result<(), Error> {
        self.wait().await;
        self.store.remember(note, lock).await
    }

    async fn unlock(&self, lock: StoreLock) {
        self.wait().await;
        self.store.unlock(lock).await;
    }
}

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Disk")
    }
}

/// Concur, with one refresh token that is good at a time.
pub(super) struct Concur {
    world: Arc<World>,
    /// Each refresh grant returns another refresh token, and the one before is dead.
    rotates: bool,
    issued: Mutex<u32>,
    /// When tokens were issued, and for which kind of grant.
    grants: Mutex<Vec<(Duration, String)>>,
    pub(super) refusals: AtomicUsize,
    /// The process whose grant is being answered.
    asking: Mutex<Option<usize>>,
    /// The processes that are to die around their next grant, at random moments.
    pub(super) kills: AtomicUsize,
}

/// From one process to Concur.
pub(super) struct Line {
    pub(super) concur: Arc<Concur>,
    pub(super) process: usize,
}

/// Hangs up when dropped, also by a kill.
struct Asking<'a>(&'a Concur);

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        *locked(&self.0.asking) = None;
    }
}

impl Concur {
    pub(super) fn new(world: &Arc<World>, rotates: bool) -> Arc<Self> {
        Arc::new(Self {
            world: Arc::clone(world),
            rotates,
            issued: Mutex::new(0),
            grants: Mutex::default(),
            refusals: AtomicUsize::new(0),
            asking: Mutex::default(),
            kills: AtomicUsize::new(0),
        })
    }

    fn refresh_token(&self) -> String {
        if self.rotates { format!("refresh-{}", locked(&self.issued)) } else { "refresh".to_owned() }
    }

    /// When this access token was issued.
    pub(super) fn issued_at(&self, access: &str) -> Duration {
        let number: usize = access.strip_prefix("access-").unwrap().parse().unwrap();
        locked(&self.grants)[number - 1].0
    }

    pub(super) fn grants(&self) -> Vec<(Duration, String)> {
        locked(&self.grants).clone()
    }

    /// How many grants of this type there were.
    pub(super) fn count(&self, grant: &str) -> usize {
        self.grants().iter().filter(|(_, kind)| kind == grant).count()
    }

    /// If kills are left, four of five processes that ask die: before its grant is answered, while the reply travels, while
    /// it is saved, or afterwards.
    fn perhaps_kill(&self, process: usize) {
        let world = Arc::clone(&self.world);
        // Not at the end of the day, when the process may have ended by itself before it is killed.
        let is_early = world.passed() < Duration::from_secs(23 * 3600);
        if is_early && locked(&world.dice).f64() < 0.8 && is_one_more(&self.kills) {
            let moment = Watch(Arc::clone(&world)).sleep(world.up_to(Duration::from_millis(2500)));
            self.world.spawn(KILLER, async move {
                moment.await;
                world.note(format!("{process} is killed"));
                world.kill(process);
            });
        }
    }

    async fn answer(self: &Arc<Self>, call: &OutgoingCall<'_>, process: usize) -> Sent {
        let begun = self.world.passed();
        let travel = || Watch(Arc::clone(&self.world)).sleep(self.world.up_to(Duration::from_secs(1)));
        assert_eq!(locked(&self.asking).replace(process), None, "two requests at once");
        let _asking = Asking(self);
        self.perhaps_kill(process);
        travel().await;
        let grant = call.grant_type().unwrap_or_default().to_owned();
        let is_good = match grant.as_str() {
            "refresh_token" => call.field("refresh_token") == Some(&self.refresh_token()),
            _ => call.field("password") == Some("request token"),
        };
        let reply = if is_good {
            *locked(&self.issued) += 1;
            locked(&self.grants).push((self.world.passed(), grant.clone()));
            self.world.note(format!("issued for {grant}"));
            let access = format!("access-{}", locked(&self.issued));
            let refresh = self.refresh_token();
            call.reply(200, &json!({"refresh_token": refresh, "access_token": access, "expires_in": 3600}))
        } else {
            self.refusals.fetch_add(1, Ordering::Relaxed);
            call.reply(400, &json!({"code": 108, "error": "invalid_grant"}))
        };
        travel().await;
        Sent { elapsed: self.world.passed() - begun, outcome: Ok(reply) }
    }
}

impl Transport for Line {
    fn send<'a>(&'a self, call: &'a OutgoingCall<'a>) -> Pin<Box<dyn Future<Output = Sent> + Send + 'a>> {
        Box::pin(self.concur.answer(call, self.process))
    }
}
