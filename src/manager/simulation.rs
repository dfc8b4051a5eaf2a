//! Thousands of simulated processes on one thread: one company, one store, one Concur, and a seed that repeats the run.
//!
//! Always: the code that runs is the code of a program; simulated are only the time, chance, threads, the network and the
//! disk. A failure prints the seed; `CONCUR_AUTH_SEED` repeats it.

use std::{
    collections::{BTreeMap, HashSet},
    fmt,
    future::{Future, poll_fn},
    panic::Location,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    time::{Duration, SystemTime},
};

use serde_json::json;

use super::{
    need::{Need, Outcome},
    renewal::fly,
    single_flight::Join,
};
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

/// The tasks that belong to no simulated process.
const KILLER: usize = usize::MAX;

/// The time, and what waits for it. Events happen in the order that the seed says.
struct World {
    tasks: Mutex<Vec<Task>>,
    ready: Arc<Mutex<Vec<usize>>>,
    passed: Mutex<Duration>,
    timers: Mutex<BTreeMap<(Duration, usize), Waker>>,
    next_timer: AtomicUsize,
    dice: Mutex<fastrand::Rng>,
    dead: Mutex<HashSet<usize>>,
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
            tasks: Mutex::default(),
            ready: Arc::default(),
            passed: Mutex::default(),
            timers: Mutex::default(),
            next_timer: AtomicUsize::new(0),
            dice: Mutex::new(fastrand::Rng::with_seed(seed)),
            dead: Mutex::default(),
            diary: Mutex::default(),
        })
    }

    fn spawn(&self, process: usize, work: impl Future<Output = ()> + Send + 'static) {
        let work: Work = Box::pin(work);
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
            let is_pending = work.as_mut().poll(&mut Context::from_waker(&waker)).is_pending();
            let mut tasks = locked(&self.tasks);
            if is_pending && !locked(&self.dead).contains(&tasks[task].process) {
                tasks[task].work = Some(work);
            }
        }
    }

    /// A process dies: its tasks are never polled again, and what they hold is dropped, the store's lock included.
    fn kill(&self, process: usize) {
        locked(&self.dead).insert(process);
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
            random: Arc::new(Random::seeded(seed)),
            executor: Arc::new(Process { world: Arc::clone(self), number }),
        };
        let credentials = Credentials::new("app", "secret").company("company", "request token");
        TokenManager::builder()
            .credentials(credentials)
            .base_uri("https://us.api.concursolutions.com")
            .store(store)
            .oauth_client(OAuthClient::on(Line { concur: Arc::clone(concur), process: number }))
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
    /// Which refresh token was saved when.
    saved: Arc<Mutex<Vec<(Duration, String)>>>,
}

impl Disk {
    fn new(world: &Arc<World>) -> Self {
        let store = MemoryStore::new();
        Self {
            store,
            world: Arc::clone(world),
            locks: Arc::default(),
            failing: Arc::default(),
            saved: Arc::default(),
        }
    }

    /// When this refresh token was replaced in the store.
    fn replaced_at(&self, refresh: &str) -> Option<Duration> {
        let saved = locked(&self.saved);
        let at = saved.iter().position(|(_, token)| token == refresh).expect("a token that was never saved");
        saved.get(at + 1).map(|(at, _)| *at)
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
        let fails =
            self.failing.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        if fails.is_ok() {
            return Err(Error::store("the disk is full", "no space left"));
        }
        locked(&self.saved).push((self.world.passed(), token.secret().to_owned()));
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
    /// The process whose grant is being answered.
    asking: Mutex<Option<usize>>,
    /// The processes that are to die around their next grant, at random moments.
    kills: AtomicUsize,
}

/// From one process to Concur.
struct Line {
    concur: Arc<Concur>,
    process: usize,
}

/// Hangs up when dropped, also by a kill.
struct Asking<'a>(&'a Concur);

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        *locked(&self.0.asking) = None;
    }
}

impl Concur {
    fn new(world: &Arc<World>, rotates: bool) -> Arc<Self> {
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
    fn issued_at(&self, access: &str) -> Duration {
        let number: usize = access.strip_prefix("access-").unwrap().parse().unwrap();
        locked(&self.grants)[number - 1].0
    }

    fn grants(&self) -> Vec<(Duration, String)> {
        locked(&self.grants).clone()
    }

    /// How many grants of this type there were.
    fn count(&self, grant: &str) -> usize {
        self.grants().iter().filter(|(_, kind)| kind == grant).count()
    }

    /// If kills are left, every other process that asks dies: before its grant is answered, while the reply travels, while
    /// it is saved, or afterwards.
    fn perhaps_kill(&self, process: usize) {
        let world = Arc::clone(&self.world);
        if locked(&world.dice).bool()
            && self
                .kills
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1))
                .is_ok()
        {
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

fn seed() -> u64 {
    let given = std::env::var("CONCUR_AUTH_SEED").ok().and_then(|seed| seed.parse().ok());
    given.unwrap_or_else(|| fastrand::u64(..))
}

/// A day in which each of many processes asks for an access token or the refresh token now and then.
fn a_day(seed: u64, processes: usize) -> (Arc<World>, Arc<Concur>) {
    let world = World::new(seed);
    let (concur, disk) = (Concur::new(&world, true), Disk::new(&world));
    for number in 0..processes {
        let (disk, at, asked) = (disk.clone(), Arc::clone(&world), Arc::clone(&concur));
        let tokens = world.process(number, &concur, disk.clone());
        world.spawn(number, async move {
            while at.passed() < 24 * HOUR {
                Watch(Arc::clone(&at)).sleep(at.up_to(4 * HOUR)).await;
                let begun = at.passed();
                if locked(&at.dice).bool() {
                    let access = tokens.access_token().await.unwrap();
                    assert!(at.passed() < asked.issued_at(access.secret()) + HOUR, "an expired access token");
                } else {
                    let refresh = tokens.get_valid_refresh_token().await.unwrap();
                    let replaced = disk.replaced_at(refresh.secret());
                    assert!(replaced.is_none_or(|at| begun <= at), "a refresh token that was rotated away");
                }
                at.note(format!("{number} was served"));
            }
        });
    }
    world.run();
    (world, concur)
}

#[test]
fn two_thousand_processes_send_one_request_an_hour() {
    let (_, concur) = a_day(seed(), 2000);
    assert_eq!(concur.count("password"), 1);
    assert_eq!(concur.refusals.load(Ordering::Relaxed), 0);
    // After the day the processes stop one by one.
    let mut times: Vec<_> = concur.grants().into_iter().map(|(at, _)| at).collect();
    times.retain(|at| *at < 24 * HOUR);
    // A token is renewed in the last five of its 60 minutes, and not before; a process asks every few seconds.
    assert!(*times.last().unwrap() > 23 * HOUR, "{times:?}");
    for (before, next) in times.iter().zip(&times[1..]) {
        assert!((54 * MINUTE..61 * MINUTE).contains(&(*next - *before)), "{before:?} {next:?}");
    }
}

#[test]
fn a_seed_repeats_a_run() {
    let seed = seed();
    let diary = |seed| locked(&a_day(seed, 50).0.diary).clone();
    let (first, second) = (diary(seed), diary(seed));
    assert!(first.len() > 500, "{}", first.len());
    assert_eq!(first, second);
    assert_ne!(first, diary(seed.wrapping_add(1)));
}

/// Where refresh tokens stay the same, no kill can lose one, so each kill costs one request at most: that of a renewal
/// which was begun and not saved.
#[test]
fn processes_that_are_killed_at_any_moment_leave_the_rest_signed_in() {
    const KILLS: usize = 10;
    let world = World::new(seed());
    let (concur, disk) = (Concur::new(&world, false), Disk::new(&world));
    concur.kills.store(KILLS, Ordering::Relaxed);
    let survivors = Arc::new(AtomicUsize::new(0));
    for number in 0..500 {
        let tokens = world.process(number, &concur, disk.clone());
        let (at, survived) = (Arc::clone(&world), Arc::clone(&survivors));
        world.spawn(number, async move {
            while at.passed() < 24 * HOUR {
                Watch(Arc::clone(&at)).sleep(at.up_to(2 * HOUR)).await;
                tokens.access_token().await.unwrap();
                tokens.get_valid_refresh_token().await.unwrap();
            }
            survived.fetch_add(1, Ordering::Relaxed);
        });
    }
    world.run();
    assert_eq!(concur.kills.load(Ordering::Relaxed), 0, "all kills have happened");
    assert_eq!(survivors.load(Ordering::Relaxed), 500 - KILLS);
    let (grants, lifetimes) = (concur.grants().len(), world.passed().as_secs() / (54 * 60));
    assert!(grants <= usize::try_from(lifetimes).unwrap() + 1 + KILLS, "{grants} in {lifetimes}");
    assert!(concur.count("password") <= 1 + KILLS, "only a kill around the first sign-in costs another");
    assert_eq!(concur.refusals.load(Ordering::Relaxed), 0);
}

/// As a worker does that has locked many companies in one statement.
#[test]
fn a_flight_begins_with_a_lock_that_is_already_held() {
    for is_waiting in [false, true] {
        let world = World::new(seed());
        let (concur, disk) = (Concur::new(&world, true), Disk::new(&world));
        let own = Disk { locks: Arc::default(), ..disk.clone() };
        let (holder, sibling) =
            (world.process(1, &concur, own.clone()), world.process(2, &concur, disk.clone()));
        let at = Arc::clone(&world);
        let pause = move |time| Watch(Arc::clone(&at)).sleep(time);
        let (waiting, waited) = (holder.clone(), pause.clone());
        world.spawn(1, async move {
            let lock = own.store.try_lock().await.unwrap().unwrap();
            waited(MINUTE / 2).await;
            // One flight may be under way by now, and wait for this very lock.
            holder.0.cache.hand_in(lock).await;
            let outcome = fly(&holder.0, &Need::KeepAlive, Join::Any).await;
            assert!(matches!(outcome, Outcome::Done(_)), "{outcome:?}");
            let taken = own.locks.load(Ordering::Relaxed);
            assert_eq!(taken > 0, is_waiting, "the flight asked the store for the lock {taken} times");
        });
        if is_waiting {
            world.spawn(1, async move { drop(waiting.access_token().await.unwrap()) });
        }
        // Another process waits meanwhile, and is served what the flight brings.
        world.spawn(2, async move {
            pause(MINUTE / 4).await;
            drop(sibling.access_token().await.unwrap());
        });
        world.run();
        assert_eq!(concur.grants().len(), 1);
    }
}

/// A disk that is full for a while: the token is handed out, its lock is kept, and the background saves it.
#[test]
fn a_token_that_could_not_be_saved_is_saved_later_and_spent_by_no_other_process() {
    let world = World::new(seed());
    let (concur, disk) = (Concur::new(&world, true), Disk::new(&world));
    disk.failing.store(8, Ordering::Relaxed);
    let (first, second) = (world.process(1, &concur, disk.clone()), world.process(2, &concur, disk.clone()));
    let stored = disk.store.clone();
    let at = Arc::clone(&world);
    world.spawn(1, async move {
        let handed_out = first.get_valid_refresh_token().await.unwrap();
        assert!(first.status().unsaved);
        assert!(stored.load().await.unwrap().is_none() && stored.try_lock().await.unwrap().is_none());
        Watch(at).sleep(MINUTE).await;
        assert!(!first.status().unsaved);
        assert_eq!(stored.load().await.unwrap().unwrap().secret(), handed_out.secret());
    });
    let later = Watch(Arc::clone(&world)).sleep(Duration::from_millis(200));
    world.spawn(2, async move {
        // Not before the first process has the lock.
        later.await;
        drop(second.get_valid_refresh_token().await.unwrap());
    });
    world.run();
    assert_eq!(concur.grants().len(), 1);
}
