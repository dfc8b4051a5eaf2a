//! Thousands of simulated processes on one thread: one company, one store, one Concur, and a seed that repeats the run.
//!
//! Always: the code that runs is the code of a program; simulated are only the time, chance, threads, the network and the
//! disk. A failure prints the seed; `CONCUR_AUTH_SEED` repeats it.

use std::{
    collections::BTreeMap,
    fmt,
    future::{Future, poll_fn},
    panic::Location,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    time::{Duration, SystemTime},
};

use serde_json::json;

use super::{core::Core, need::Need, renewal::fly, single_flight::Join};
use crate::{
    Clock, Credentials, Error, MemoryStore, OAuthClient, RefreshTokenObject, StoreLock, TokenManager,
    TokenStore,
    caught::locked,
    clock,
    machine::{Executor, Machine, Work},
    oauth_client::{OutgoingCall, Sent, Transport},
    random::Random,
};

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

/// The time, and what waits for it. Events happen in the order that the seed says.
struct World {
    seed: u64,
    tasks: Mutex<Vec<Task>>,
    ready: Arc<Mutex<Vec<usize>>>,
    passed: Mutex<Duration>,
    timers: Mutex<BTreeMap<(Duration, usize), Waker>>,
    next_timer: AtomicUsize,
    dice: Mutex<fastrand::Rng>,
    /// What happened, to compare two runs.
    diary: Mutex<Vec<(Duration, String)>>,
}

struct Task {
    process: usize,
    /// `None` while it is polled, and after it has ended.
    work: Option<Work>,
}

struct Ready {
    task: usize,
    queue: Arc<Mutex<Vec<usize>>>,
}

impl Wake for Ready {
    fn wake(self: Arc<Self>) {
        let mut queue = locked(&self.queue);
        if !queue.contains(&self.task) {
            queue.push(self.task);
        }
    }
}

impl World {
    #[track_caller]
    fn new(seed: u64) -> Arc<Self> {
        eprintln!("the world of {} repeats with CONCUR_AUTH_SEED={seed}", Location::caller());
        Arc::new(Self {
            seed,
            tasks: Mutex::default(),
            ready: Arc::default(),
            passed: Mutex::default(),
            timers: Mutex::default(),
            next_timer: AtomicUsize::new(0),
            dice: Mutex::new(fastrand::Rng::with_seed(seed)),
            diary: Mutex::default(),
        })
    }

    fn spawn(&self, process: usize, work: Work) {
        let mut tasks = locked(&self.tasks);
        locked(&self.ready).push(tasks.len());
        tasks.push(Task { process, work: Some(work) });
    }

    /// Runs until nothing is left to run or to wait for.
    fn run(self: &Arc<Self>) {
        loop {
            let next = {
                let mut ready = locked(&self.ready);
                let count = ready.len();
                (count > 0).then(|| ready.swap_remove(locked(&self.dice).usize(..count)))
            };
            let Some(task) = next else {
                let Some(((at, _), waker)) = locked(&self.timers).pop_first() else { return };
                *locked(&self.passed) = at;
                waker.wake();
                continue;
            };
            let Some(mut work) = locked(&self.tasks)[task].work.take() else { continue };
            let waker = Waker::from(Arc::new(Ready { task, queue: Arc::clone(&self.ready) }));
            if work.as_mut().poll(&mut Context::from_waker(&waker)).is_pending() {
                locked(&self.tasks)[task].work = Some(work);
            }
        }
    }

    /// A process dies: its tasks are never polled again, and what they hold is dropped, the store's lock included.
    fn kill(&self, process: usize) {
        let mut tasks = locked(&self.tasks);
        let died: Vec<_> =
            tasks.iter_mut().filter(|task| task.process == process).map(|task| task.work.take()).collect();
        drop(tasks);
        drop(died);
    }

    fn passed(&self) -> Duration {
        *locked(&self.passed)
    }

    fn note(&self, what: impl Into<String>) {
        locked(&self.diary).push((self.passed(), what.into()));
    }

    /// A time from nothing to `longest`.
    fn up_to(&self, longest: Duration) -> Duration {
        longest.mul_f64(locked(&self.dice).f64())
    }

    /// A process of its own, on the same store and the same Concur.
    fn process(self: &Arc<Self>, number: usize, concur: &Arc<Concur>, store: Disk) -> TokenManager {
        let seed = locked(&self.dice).u64(..);
        let machine = Machine {
            clock: Arc::new(Watch(Arc::clone(self))),
            random: Arc::new(Random::Seeded(Mutex::new(fastrand::Rng::with_seed(seed)))),
            executor: Arc::new(Process { world: Arc::clone(self), number }),
        };
        let credentials = Credentials::new("app", "secret").company("company", "request token");
        TokenManager::builder()
            .credentials(credentials)
            .base_uri("https://us.api.concursolutions.com")
            .store(store)
            .oauth_client(OAuthClient::on(Arc::clone(concur)))
            .machine(machine)
            .build()
            .unwrap()
    }
}

/// The world's time.
#[derive(Clone)]
struct Watch(Arc<World>);

impl Clock for Watch {
    fn now(&self) -> SystemTime {
        clock::from_unix_seconds(1_800_000_000).unwrap() + self.0.passed()
    }

    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let world = Arc::clone(&self.0);
        let wakes_at = world.passed() + duration;
        let number = world.next_timer.fetch_add(1, Ordering::Relaxed);
        Box::pin(poll_fn(move |context| {
            if world.passed() >= wakes_at {
                return Poll::Ready(());
            }
            locked(&world.timers).insert((wakes_at, number), context.waker().clone());
            Poll::Pending
        }))
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Watch")
    }
}

/// The threads of one process: all the same thread.
struct Process {
    world: Arc<World>,
    number: usize,
}

impl Executor for Process {
    fn launch(&self, work: Work, _: bool) -> Result<(), Error> {
        self.spawn(work)
    }

    fn spawn_blocking(&self, work: Work) -> Result<(), Error> {
        self.spawn(work)
    }

    fn spawn(&self, work: Work) -> Result<(), Error> {
        self.world.spawn(self.number, work);
        Ok(())
    }
}

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Process({})", self.number)
    }
}

/// A store whose every call takes a while, so that anything may happen in between.
#[derive(Clone)]
struct Disk {
    store: MemoryStore,
    world: Arc<World>,
    /// Asked for the lock.
    locks: Arc<AtomicUsize>,
    /// Saves that are to fail.
    failing: Arc<AtomicUsize>,
}

impl Disk {
    fn new(world: &Arc<World>) -> Self {
        let store = MemoryStore::new();
        Self { store, world: Arc::clone(world), locks: Arc::default(), failing: Arc::default() }
    }

    async fn wait(&self) {
        Watch(Arc::clone(&self.world)).sleep(self.world.up_to(Duration::from_millis(20))).await;
    }
}

impl TokenStore for Disk {
    async fn load(&self) -> Result<Option<RefreshTokenObject>, Error> {
        self.wait().await;
        self.store.load().await
    }

    async fn save(&self, token: &RefreshTokenObject, lock: &StoreLock) -> Result<(), Error> {
        self.wait().await;
        let fails = self.failing.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        if fails.is_ok() {
            return Err(Error::store("the disk is full", "no space left"));
        }
        self.store.save(token, lock).await
    }

    async fn remove(&self, lock: &StoreLock) -> Result<(), Error> {
        self.store.remove(lock).await
    }

    async fn try_lock(&self) -> Result<Option<StoreLock>, Error> {
        self.locks.fetch_add(1, Ordering::Relaxed);
        self.wait().await;
        self.store.try_lock().await
    }

    async fn rehearse(&self, _: Option<&RefreshTokenObject>, _: &StoreLock) -> Result<(), Error> {
        self.wait().await;
        Ok(())
    }
}

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Disk")
    }
}

/// Concur, with one refresh token that is good at a time.
struct Concur {
    world: Arc<World>,
    /// Each refresh grant returns another refresh token, and the one before is dead.
    rotates: bool,
    issued: Mutex<u32>,
    /// When tokens were issued, and for which kind of grant.
    grants: Mutex<Vec<(Duration, String)>>,
    refusals: AtomicUsize,
    /// A grant is being answered.
    is_asked: AtomicBool,
}

impl Concur {
    fn new(world: &Arc<World>, rotates: bool) -> Arc<Self> {
        Arc::new(Self {
            world: Arc::clone(world),
            rotates,
            issued: Mutex::new(0),
            grants: Mutex::default(),
            refusals: AtomicUsize::new(0),
            is_asked: AtomicBool::new(false),
        })
    }

    fn refresh_token(&self) -> String {
        if self.rotates { format!("refresh-{}", locked(&self.issued)) } else { "refresh".to_owned() }
    }

    fn is_current(&self, access: &str) -> bool {
        access == format!("access-{}", locked(&self.issued))
    }

    fn grants(&self) -> Vec<(Duration, String)> {
        locked(&self.grants).clone()
    }

    /// How many grants of this type there were.
    fn count(&self, grant: &str) -> usize {
        self.grants().iter().filter(|(_, kind)| kind == grant).count()
    }

    async fn answer(&self, call: &OutgoingCall<'_>) -> Sent {
        let begun = self.world.passed();
        let travel = || Watch(Arc::clone(&self.world)).sleep(self.world.up_to(Duration::from_secs(1)));
        assert!(!self.is_asked.swap(true, Ordering::Relaxed), "two requests at once");
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
        self.is_asked.store(false, Ordering::Relaxed);
        Sent { elapsed: self.world.passed() - begun, outcome: Ok(reply) }
    }
}

impl Transport for Concur {
    fn send<'a>(&'a self, call: &'a OutgoingCall<'a>) -> Pin<Box<dyn Future<Output = Sent> + Send + 'a>> {
        Box::pin(self.answer(call))
    }
}

fn seed() -> u64 {
    let given = std::env::var("CONCUR_AUTH_SEED").ok().and_then(|seed| seed.parse().ok());
    given.unwrap_or_else(|| fastrand::u64(..))
}

/// A day in which each of many processes asks for an access token or the refresh token now and then.
fn a_day(seed: u64, processes: usize) -> (Arc<World>, Arc<Concur>) {
    let world = World::new(seed);
    let (concur, disk) = (Concur::new(&world, true), Disk::new(&world));
    for number in 0..processes {
        let (tokens, at, asked) = (world.process(number, &concur, disk.clone()), Arc::clone(&world), Arc::clone(&concur));
        world.spawn(
            number,
            Box::pin(async move {
                while at.passed() < 24 * HOUR {
                    Watch(Arc::clone(&at)).sleep(at.up_to(4 * HOUR)).await;
                    if locked(&at.dice).bool() {
                        let access = tokens.access_token().await.unwrap();
                        assert!(asked.is_current(access.secret()) || asked.is_asked.load(Ordering::Relaxed));
                    } else {
                        let refresh = tokens.get_valid_refresh_token().await.unwrap();
                        assert!(refresh.secret() == asked.refresh_token() || asked.is_asked.load(Ordering::Relaxed));
                    }
                    at.note(format!("{number} was served"));
                }
            }),
        );
    }
    world.run();
    (world, concur)
}
