//! The simulated machine: one thread, virtual time, and an order of events that the seed decides.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    fmt,
    future::Future,
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
    tasks: Mutex<Tasks>,
    /// In an order of their own, as the order of wake-ups is not the seed's.
    ready: Ready,
    passed: Mutex<Duration>,
    timers: Mutex<BTreeMap<(Duration, usize), Waker>>,
    next_timer: AtomicUsize,
    pub(super) dice: Mutex<fastrand::Rng>,
    dead: Mutex<HashSet<usize>>,
    /// Until when processes get no time.
    suspended: Mutex<HashMap<usize, Duration>>,
    /// What happened, to compare two runs.
    pub(super) diary: Mutex<Vec<(Duration, String)>>,
}

/// Those that have not ended. Years have millions of them, one after another, so a place is used again.
#[derive(Default)]
struct Tasks {
    places: Vec<Option<Task>>,
    free: Vec<usize>,
    spawned: usize,
}

/// What becomes of a process right before one of its tasks would go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    GoesOn,
    IsKilled,
    /// As by SIGSTOP, or with the machine that it runs on: time passes without it.
    IsSuspended(Duration),
}

struct Task {
    id: TaskId,
    process: usize,
    waker: Waker,
    /// `None` while it is polled.
    work: Option<Work>,
}

/// A task, and not the next one in its place.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct TaskId {
    place: usize,
    number: usize,
}

type Ready = Arc<Mutex<BTreeSet<TaskId>>>;

struct WakeUp {
    task: TaskId,
    queue: Ready,
}

impl Wake for WakeUp {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        locked(&self.queue).insert(self.task);
    }
}

impl Tasks {
    fn add(&mut self, process: usize, work: Work, queue: &Ready) -> TaskId {
        let place = self.free.pop().unwrap_or_else(|| {
            self.places.push(None);
            self.places.len() - 1
        });
        self.spawned += 1;
        let id = TaskId { place, number: self.spawned };
        let waker = Waker::from(Arc::new(WakeUp { task: id, queue: Arc::clone(queue) }));
        self.places[place] = Some(Task { id, process, waker, work: Some(work) });
        id
    }

    /// `None` after its end.
    fn get(&mut self, id: TaskId) -> Option<&mut Task> {
        self.places[id.place].as_mut().filter(|task| task.id == id)
    }

    fn end(&mut self, id: TaskId) -> Option<Task> {
        self.get(id)?;
        self.free.push(id.place);
        self.places[id.place].take()
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
            suspended: Mutex::default(),
            diary: Mutex::default(),
        })
    }

    pub(super) fn spawn(&self, process: usize, work: impl Future<Output = ()> + Send + 'static) {
        if !locked(&self.dead).contains(&process) {
            let task = locked(&self.tasks).add(process, Box::pin(work), &self.ready);
            locked(&self.ready).insert(task);
        }
    }

    /// Runs until nothing is left to run or to wait for.
    pub(super) fn run(&self) {
        self.run_with(|_| Fate::GoesOn);
    }

    /// The same, with a `fate` for the process whose task would go on.
    pub(super) fn run_with(&self, mut fate: impl FnMut(usize) -> Fate) {
        while let Some(task) = self.next_ready() {
            let found = locked(&self.tasks).get(task).map(|task| (task.process, task.waker.clone()));
            let Some((process, waker)) = found else { continue };
            if let Some(until) = self.rests_until(process, &mut fate) {
                let number = self.next_timer.fetch_add(1, Ordering::Relaxed);
                locked(&self.timers).insert((until, number), waker);
                continue;
            }
            // The process may have been killed just now.
            let work = locked(&self.tasks).get(task).and_then(|task| task.work.take());
            let Some(mut work) = work else { continue };
            let is_pending = work.as_mut().poll(&mut Context::from_waker(&waker)).is_pending();
            let mut tasks = locked(&self.tasks);
            // It may have killed its own process.
            match tasks.get(task).filter(|_| is_pending) {
                Some(task) => task.work = Some(work),
                None => _ = tasks.end(task),
            }
        }
    }

    /// The task that goes on next, after time has passed if no task is ready; `None` at the end.
    fn next_ready(&self) -> Option<TaskId> {
        loop {
            {
                let mut ready = locked(&self.ready);
                if !ready.is_empty() {
                    let chosen = locked(&self.dice).usize(..ready.len());
                    let task = ready.iter().nth(chosen).copied();
                    return task.inspect(|task| _ = ready.remove(task));
                }
            }
            let ((at, _), waker) = locked(&self.timers).pop_first()?;
            *locked(&self.passed) = at;
            waker.wake();
        }
    }

    /// Until when a process is suspended, if it is.
    fn rests_until(&self, process: usize, fate: &mut impl FnMut(usize) -> Fate) -> Option<Duration> {
        let until = locked(&self.suspended).get(&process).copied();
        if until.is_some_and(|until| until > self.passed()) {
            return until;
        }
        match fate(process) {
            Fate::GoesOn => None,
            Fate::IsKilled => {
                self.kill(process);
                None
            }
            Fate::IsSuspended(time) => {
                let until = self.passed() + time;
                locked(&self.suspended).insert(process, until);
                Some(until)
            }
        }
    }

    /// Drops what has not ended, so that the world is not kept alive by its own tasks.
    pub(super) fn clear(&self) {
        let left = std::mem::take(&mut *locked(&self.tasks));
        drop(left);
    }

    pub(super) fn is_dead(&self, process: usize) -> bool {
        locked(&self.dead).contains(&process)
    }

    /// A process dies: its tasks are never polled again, and what they hold is dropped, the store's lock included.
    pub(super) fn kill(&self, process: usize) {
        locked(&self.dead).insert(process);
        let mut tasks = locked(&self.tasks);
        let of_process = tasks.places.iter().flatten().filter(|task| task.process == process);
        let died: Vec<_> = of_process.map(|task| task.id).collect();
        let died: Vec<_> = died.into_iter().map(|task| tasks.end(task)).collect();
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
        let number = world.next_timer.fetch_add(1, Ordering::Relaxed);
        Box::pin(Sleep { timer: (world.passed() + duration, number), world, is_set: false })
    }

    fn monotonic(&self) -> Duration {
        self.0.passed()
    }
}

struct Sleep {
    world: Arc<World>,
    timer: (Duration, usize),
    is_set: bool,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.world.passed() >= self.timer.0 {
            return Poll::Ready(());
        }
        self.is_set = true;
        locked(&self.world.timers).insert(self.timer, context.waker().clone());
        Poll::Pending
    }
}

impl Drop for Sleep {
    /// Most time limits are not reached: no later moment is an event because of them.
    fn drop(&mut self) {
        if self.is_set {
            // The waker is dropped after the lock: it may own the last handle on what sleeps, too.
            let _waker = locked(&self.world.timers).remove(&self.timer);
        }
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
