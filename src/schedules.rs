//! Runs threads in thousands of orders, to find one that breaks a promise. For tests only.
//!
//! A schedule is a run of some threads, one at a time: before each use of what is in `crate::sync`, chance decides which of them
//! goes on. Threads that all wait for each other end the schedule with a panic. Weak memory orderings are not explored: every
//! atomic is as strong as `SeqCst`.
//!
//! Always: `CONCUR_AUTH_SEED` repeats the schedules of a test, one by one.

use std::{
    any::Any,
    cell::Cell,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    thread::LocalKey,
};

use shuttle::{
    Config, FailurePersistence, MaxSteps, Runner,
    scheduler::{PctScheduler, RandomScheduler, Scheduler},
};

use crate::seed::seed;

/// How often the priorities of threads change in a schedule of the second kind. A bug that needs as many switches at certain
/// moments is found with a known probability.
const CHANGES: usize = 3;

/// How many schedules of one kind are run before those of the other kind.
const IN_A_ROW: usize = 50;

/// A schedule takes some hundred.
const MOST_STEPS: usize = 100_000;

/// Room for a store's error with its text in an unoptimised build.
const STACK: usize = 256 * 1024;

/// What can be wrong with the primitives: each makes a bug of the code that uses them, known beforehand, which a test must find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Who waits for a `Notify` or `Condvar` is not woken.
    NotifiesInVain,
    /// A channel has a new value, and its receivers are not woken.
    SendsSilently,
    /// The receivers of a channel are not counted.
    CountsNoReceivers,
    /// What is swapped if it is still the same is swapped in any case.
    SwapsWithoutComparing,
    /// What is changed by a function may have been replaced while the function ran.
    ChangesWithoutComparing,
    /// An atomic number stays as it is.
    AddsNothing,
}

thread_local! {
    static IS_ON: Cell<bool> = const { Cell::new(false) };
    static FAULT: Cell<Option<Fault>> = const { Cell::new(None) };
    static TIME_PASSES: Cell<bool> = const { Cell::new(false) };
}

/// Sets a value of this thread until it is dropped.
struct Set<T: Copy + 'static>(&'static LocalKey<Cell<T>>, T);

impl<T: Copy> Set<T> {
    fn to(key: &'static LocalKey<Cell<T>>, value: T) -> Self {
        Self(key, key.replace(value))
    }
}

impl<T: Copy> Drop for Set<T> {
    fn drop(&mut self) {
        self.0.set(self.1);
    }
}

/// Whether this thread runs a schedule. All threads of a schedule run on the thread of their test.
pub(crate) fn is_on() -> bool {
    IS_ON.get()
}

pub(crate) fn has(fault: Fault) -> bool {
    is_on() && FAULT.get() == Some(fault)
}

/// Where time passes, a wait that has a limit ends at any moment: at its limit (`true`) or, as every wait may, without a reason.
pub(crate) fn woken_by_time() -> Option<bool> {
    TIME_PASSES.get().then(|| one_in(2))
}

/// One of `most` numbers from 0, as the schedule's seed says.
pub(crate) fn any_of(most: usize) -> usize {
    use shuttle::rand::Rng;
    shuttle::rand::thread_rng().gen_range(0..most)
}

pub(crate) fn one_in(most: usize) -> bool {
    any_of(most) == 0
}

/// Lets the other threads of the schedule run. Outside of schedules it does nothing.
pub(crate) fn step() {
    // A thread that unwinds only cleans up.
    if is_on() && !std::thread::panicking() {
        shuttle::sync::atomic::AtomicBool::new(false).load(SeqCst);
    }
}

/// What the schedules of a test run.
#[derive(Clone, Copy)]
pub(crate) struct World {
    /// Begins, runs and ends one schedule; it panics where a promise is broken.
    run: fn(),
    /// Waits that have a limit may end by it.
    time_passes: bool,
}

impl World {
    pub(crate) const fn new(run: fn()) -> Self {
        Self { run, time_passes: false }
    }

    pub(crate) const fn in_time(run: fn()) -> Self {
        Self { run, time_passes: true }
    }

    /// The promises hold in this many schedules: half of them switch at any moment, half of them seldom.
    #[allow(clippy::print_stderr, reason = "it is for a person who wants to know what was covered")]
    pub(crate) fn holds_in(self, schedules: usize) {
        if let Err((number, panic)) = self.search(seed(), schedules, None) {
            eprintln!("the promise was broken in schedule {number} of {schedules}");
            resume_unwind(panic);
        }
        eprintln!("held in {schedules} schedules");
    }

    /// With this fault a promise is broken in one of this many schedules. Returns how many it took.
    pub(crate) fn finds(self, fault: Fault, schedules: usize) -> usize {
        self.finds_from(seed(), fault, schedules)
    }

    #[allow(clippy::print_stderr, reason = "it is for a person who wants to know what was covered")]
    pub(crate) fn finds_from(self, seed: u64, fault: Fault, schedules: usize) -> usize {
        match self.search(seed, schedules, Some(fault)) {
            Err((number, panic)) => {
                eprintln!("{fault:?} was found in schedule {number}: {}", message(&*panic));
                number
            }
            Ok(()) => panic!("{fault:?} was not found in {schedules} schedules"),
        }
    }

    /// Both kinds of schedules in turn, so that a bug of either is found early.
    fn search(self, seed: u64, schedules: usize, fault: Option<Fault>) -> Result<(), Broken> {
        let _set = (Set::to(&FAULT, fault), Set::to(&TIME_PASSES, self.time_passes), Set::to(&IS_ON, true));
        let mut seeds = fastrand::Rng::with_seed(seed);
        for before in (0..schedules).step_by(2 * IN_A_ROW) {
            let later = |after| move |(number, panic)| (before + after + number, panic);
            self.search_with(RandomScheduler::new_from_seed(seeds.u64(..), IN_A_ROW)).map_err(later(0))?;
            self.search_with(PctScheduler::new_from_seed(seeds.u64(..), CHANGES, IN_A_ROW))
                .map_err(later(IN_A_ROW))?;
        }
        Ok(())
    }

    fn search_with(self, scheduler: impl Scheduler + 'static) -> Result<(), Broken> {
        let mut config = Config::new();
        config.stack_size = STACK;
        // A seed and a number say as much.
        config.failure_persistence = FailurePersistence::None;
        config.silence_warnings = true;
        // A thread that asks again and again for what never comes.
        config.max_steps = MaxSteps::FailAfter(MOST_STEPS);
        let begun = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&begun);
        let run = move || {
            count.fetch_add(1, SeqCst);
            (self.run)();
        };
        catch_unwind(AssertUnwindSafe(|| Runner::new(scheduler, config).run(run)))
            .map(drop)
            .map_err(|panic| (begun.load(SeqCst), panic))
    }
}

/// The number of the schedule, and what was wrong.
type Broken = (usize, Box<dyn Any + Send>);

fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or_default()
}
