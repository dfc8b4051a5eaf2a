//! The simulated machine: one thread, virtual time, and an order of events that the seed decides.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    fmt,
    future::{Future, poll_fn},
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    time::{Duration, SystemTime},
};

use crate::{
    Clock, Error,
    caught::locked,
    clock,
    machine::{Executor, Machine, Work},
    random::Random,
};

/// When each world begins, in Unix seconds: on 2027-01-15 at 08:00 UTC.
pub(super) const BEGINNING: u64 = 1_800_000_000;

/// The time, and what waits for it. Events happen in the order that the seed says.
pub(super) struct World {
    tasks: Mutex<Vec<Task>>,
    /// In an order of their own, as the order of wake-ups is not the seed's.
    ready: Arc<Mutex<BTreeSet<usize>>>,
    passed: Mutex<Duration>,
    timers: Mutex<BTreeMap<(Duration, usize), Waker>>,
    next_timer: AtomicUsize,
    pub(super) dice: Mutex<fastrand::Rng>,
    dead: Mutex<HashSet<usize>>,
    /// What happened, to compare two runs.
    pub(super) diary: Mutex<Vec<(Duration, String)>>,
}

struct Task {
    process: usize,
    /// `None` while it is polled, and after it has ended.
    work: Option<Work>,
}

struct Ready {
    task: usize,
    queue: Arc<Mutex<BTreeSet<usize>>>,
}

impl Wake for Ready {
    fn wake(self: Arc<Self>) {
        locked(&self.queue).insert(self.task);
    }
}

impl World {
    pub(super) fn new(seed: u64) -> Arc<Self> {
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

    pub(super) fn spawn(&self, process: usize, work: impl Future<Output = ()> + Send + 'static) {
        let work: Work = Box::pin(work);
        let mut tasks = locked(&self.tasks);
        locked(&self.ready).insert(tasks.len());
        tasks.push(Task { process, work: Some(work) });
    }

    /// Runs until nothing is left to run or to wait for.
    pub(super) fn run(self: &Arc<Self>) {
        loop {
            let next = {
                let mut ready = locked(&self.ready);
                let count = ready.len();
                let chosen = (count > 0).then(|| locked(&self.dice).usize(..count));
                let next = chosen.and_then(|chosen| ready.iter().nth(chosen).copied());
                next.inspect(|task| _ = ready.remove(task))
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
    pub(super) fn kill(&self, process: usize) {
        locked(&self.dead).insert(process);
        let mut tasks = locked(&self.tasks);
        let died: Vec<_> =
            tasks.iter_mut().filter(|task| task.process == process).map(|task| task.work.take()).collect();
        drop(tasks);
        drop(died);
    }

    pub(super) fn passed(&self) -> Duration {
        *locked(&self.passed)
    }

    pub(super) fn note(&self, what: impl Into<String>) {
        locked(&self.diary).push((self.passed(), what.into()));
    }

    /// The machine as the process with this number sees it.
    pub(super) fn machine(self: &Arc<Self>, number: usize) -> Machine {
        let seed = locked(&self.dice).u64(..);
        Machine {
            clock: Arc::new(Watch(Arc::clone(self))),
            random: Arc::new(Random::seeded(seed)),
            executor: Arc::new(Process { world: Arc::clone(self), number }),
        }
    }

    /// A time from nothing to `longest`.
    pub(super) fn up_to(&self, longest: Duration) -> Duration {
        longest.mul_f64(locked(&self.dice).f64())
    }
}

/// The world's time.
#[derive(Clone)]
pub(super) struct Watch(pub(super) Arc<World>);

impl Clock for Watch {
    fn now(&self) -> SystemTime {
        clock::from_unix_seconds(BEGINNING).unwrap() + self.0.passed()
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

    fn monotonic(&self) -> Duration {
        self.0.passed()
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

    fn wait(&self, time: Duration) -> Work {
        Watch(Arc::clone(&self.world)).sleep(time)
    }

    fn process(&self) -> u32 {
        u32::try_from(self.number).unwrap()
    }
}

/// A process whose flights wait so long for a thread.
#[derive(Debug)]
pub(super) struct Crowded(pub(super) Arc<dyn Executor>, pub(super) Arc<Mutex<Duration>>);

impl Executor for Crowded {
    fn launch(&self, work: Work, _: bool) -> Result<(), Error> {
        let queue = self.wait(*locked(&self.1));
        self.spawn(Box::pin(async {
            queue.await;
            work.await;
        }))
    }

    fn spawn_blocking(&self, work: Work) -> Result<(), Error> {
        self.0.spawn_blocking(work)
    }

    fn spawn(&self, work: Work) -> Result<(), Error> {
        self.0.spawn(work)
    }

    fn wait(&self, time: Duration) -> Work {
        self.0.wait(time)
    }

    fn process(&self) -> u32 {
        self.0.process()
    }
}

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Process({})", self.number)
    }
}
