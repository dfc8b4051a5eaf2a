//! Small worlds in which anything may happen at any step: up to eight processes with several callers, on a memory, a file or a
//! row with a lease, and a Concur that replaces tokens and revokes a family when an old token comes back.
//!
//! Always: whenever a task would go on, its process may be killed or suspended, and its caller dropped; each step of a store and
//! each request may fail, be lost or never end; clocks are set. What a request or a caller's token may be is judged by books that
//! know what really happened. A seed repeats a run exactly.
//!
//! `CONCUR_AUTH_RUNS=100000 cargo test --release --lib simulation::chaos::whatever` is the long form.

mod books;
mod file;
mod plan;
mod planted;
mod process;
mod row;
mod shelf;
mod wire;

use std::{
    future::pending,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use self::{
    books::{Books, Number},
    plan::{Kind, Plan},
    planted::Bug,
    process::{Callers, Shared},
    shelf::Shelf,
};
use super::{
    HOUR, MINUTE,
    world::{Fate, Watch, World},
};
use crate::{Clock as _, Error, RefreshTokenObject, caught::locked, seed::seed};

const SECOND: Duration = Duration::from_secs(1);
/// The tasks that belong to no simulated process.
const FATE: usize = usize::MAX;
/// A process that is killed is started again under a new number.
const INCARNATIONS: usize = 1000;

/// One world, and what should not have happened in it.
struct Run {
    world: Arc<World>,
    plan: Plan,
    books: Mutex<Books>,
    stores: Vec<Shelf>,
    broken: Mutex<Vec<(Duration, String)>>,
    /// How long each process was suspended in all.
    suspended: Mutex<Vec<(usize, Duration)>>,
    /// Steps of a store that failed.
    store_troubles: AtomicUsize,
    audited: AtomicUsize,
}

/// The reply that an object was made from.
fn number_of(token: &RefreshTokenObject) -> Number {
    let access = token.access().expect("each reply has an access token");
    access.secret.expose().rsplit('-').next().unwrap().parse().unwrap()
}

impl Run {
    fn new(seed: u64, bug: Option<Bug>) -> Arc<Self> {
        let plan = Plan::draw(seed, bug);
        let stores = (0..plan.companies).map(|_| Shelf::new(plan.kind)).collect();
        Arc::new(Self {
            world: World::new(seed),
            plan,
            books: Mutex::default(),
            stores,
            broken: Mutex::default(),
            suspended: Mutex::default(),
            store_troubles: AtomicUsize::new(0),
            audited: AtomicUsize::new(0),
        })
    }

    fn has(&self, bug: Bug) -> bool {
        self.plan.bug == Some(bug)
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        locked(&self.books)
    }

    /// What is saved in one step.
    fn saved_and_shown(&self, company: usize, number: Number) {
        let mut books = self.books();
        let books = books.company(company);
        books.saved(number);
        books.shown(self.now(), number);
    }

    fn breaks(&self, promise: impl Into<String>) {
        locked(&self.broken).push((self.now(), promise.into()));
    }

    fn breaks_if(&self, is_broken: bool, promise: impl FnOnce() -> String) {
        if is_broken {
            self.breaks(promise());
        }
    }

    fn now(&self) -> Duration {
        self.world.passed()
    }

    fn chance_always(&self, probability: f64) -> bool {
        locked(&self.world.dice).f64() < probability
    }

    /// Of something that goes wrong, while things go wrong.
    fn chance(&self, probability: f64) -> bool {
        probability > 0.0 && self.now() < self.plan.trouble_until && self.chance_always(probability)
    }

    fn below(&self, end: usize) -> usize {
        locked(&self.world.dice).usize(..end)
    }

    async fn pause(&self, time: Duration) {
        Watch(Arc::clone(&self.world)).sleep(time).await;
    }

    /// From a millisecond on, short times as often as long ones.
    fn some_time(&self) -> Duration {
        let milliseconds = self.plan.longest_pause.as_secs_f64() * 1000.0;
        Duration::from_secs_f64(milliseconds.powf(locked(&self.world.dice).f64()) / 1000.0)
    }

    fn lock_lapses(&self) -> bool {
        self.plan.kind == Kind::Row
    }

    fn suspended(&self, process: usize) -> Duration {
        locked(&self.suspended).iter().filter(|(who, _)| *who == process).map(|(_, time)| *time).sum()
    }

    async fn store_pause(&self) {
        self.pause(self.world.up_to(Duration::from_millis(20))).await;
    }

    /// One step of a store, before or after it does what it was asked for.
    async fn store_step(&self, is_before: bool) -> Result<(), Error> {
        self.store_pause().await;
        let of = self.plan.troubles;
        if self.lock_lapses() {
            if self.chance(of.store_silent) {
                self.store_troubles.fetch_add(1, Relaxed);
                pending::<()>().await;
            }
            if self.chance(of.store_slow) {
                self.pause(self.world.up_to(8 * SECOND)).await;
            }
        }
        if self.chance(if is_before { of.store_fails } else { of.answer_lost }) {
            self.store_troubles.fetch_add(1, Relaxed);
            return Err(Error::store("the store fails", "no space left"));
        }
        Ok(())
    }

    fn start(self: &Arc<Self>, process: usize) {
        let shared = Shared::new(self, process);
        for company in 0..self.plan.companies {
            let tokens = Callers::manager(self, process, company, &shared);
            let callers = Arc::new(Callers {
                run: Arc::clone(self),
                process,
                company,
                tokens,
                wrong: Arc::clone(&shared.wrong),
                dropped: Arc::clone(&shared.dropped),
            });
            for _ in 0..self.plan.tasks {
                self.world.spawn(process, Arc::clone(&callers).live());
            }
        }
    }

    /// What becomes of a process right before one of its tasks goes on.
    fn fate(self: &Arc<Self>, process: usize) -> Fate {
        if process == FATE {
            return Fate::GoesOn;
        }
        let of = self.plan.troubles;
        if self.chance(of.kill / 10.0) {
            self.dies(process);
            return Fate::IsKilled;
        }
        if self.chance(of.suspend / 10.0) {
            let time = [5 * SECOND, MINUTE, 5 * MINUTE, 3 * HOUR][self.below(4)];
            let time = self.world.up_to(time);
            self.world.note(format!("{process} is suspended for {time:?}"));
            locked(&self.suspended).push((process, time));
            return Fate::IsSuspended(time);
        }
        Fate::GoesOn
    }

    fn dies(self: &Arc<Self>, process: usize) {
        self.world.note(format!("{process} is killed"));
        self.books().died(process);
        for (company, shelf) in self.stores.iter().enumerate() {
            if shelf.forgets() {
                self.books().company(company).forgotten(self.now());
            }
        }
        let (run, next) = (Arc::clone(self), process + INCARNATIONS);
        let later = self.world.up_to(HOUR / 4);
        self.world.spawn(FATE, async move {
            run.pause(later).await;
            run.start(next);
        });
    }
}

/// What a world came to.
struct Ended {
    seed: u64,
    /// What should not have happened.
    broken: Vec<(Duration, String)>,
    diary: Vec<(Duration, String)>,
}

fn live(seed: u64, bug: Option<Bug>) -> Ended {
    let run = Run::new(seed, bug);
    for process in 0..run.plan.processes {
        run.start(process);
    }
    run.world.run_with(|process| run.fate(process));
    let callers = run.plan.processes * run.plan.companies * run.plan.tasks;
    let audited = run.audited.load(Relaxed);
    let mut broken = std::mem::take(&mut *locked(&run.broken));
    if broken.is_empty() && audited != callers {
        broken.push((run.now(), format!("{audited} of {callers} callers came to their end")));
    }
    run.world.clear();
    let diary = std::mem::take(&mut *locked(&run.world.diary));
    Ended { seed, broken, diary }
}

/// The first of so many worlds in which something broke; each on one thread, and as many at once as there are processors.
fn first_broken(first: u64, runs: u64, bug: Option<Bug>) -> Option<(u64, Ended)> {
    let (next, found) = (AtomicU64::new(0), Mutex::new(None));
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while locked(&found).is_none() {
                    let nth = next.fetch_add(1, Relaxed);
                    if nth >= runs {
                        return;
                    }
                    let ended = live(first.wrapping_add(nth), bug);
                    if !ended.broken.is_empty() {
                        locked(&found).get_or_insert((nth + 1, ended));
                    }
                }
            });
        }
    });
    found.into_inner().unwrap()
}

fn stays_whole(first: u64, runs: u64) {
    let Some((_, Ended { seed, broken, diary })) = first_broken(first, runs, None) else { return };
    let (when, what) = &broken[0];
    let until = diary.partition_point(|(at, _)| at <= when);
    panic!(
        "CONCUR_AUTH_SEED={seed}: at {when:?} {what}; before that: {:#?} in {:#?}",
        &diary[until.saturating_sub(30)..until],
        Plan::draw(seed, None),
    );
}

/// `CONCUR_AUTH_RUNS` says how many worlds.
#[test]
fn whatever_happens_no_promise_is_broken() {
    let runs = std::env::var("CONCUR_AUTH_RUNS").map_or(300, |runs| runs.parse().unwrap());
    stays_whole(seed(), runs);
}

#[test]
fn a_seed_repeats_a_world() {
    let first = seed();
    let diaries = |of: u64| (0..20).map(|run| live(of.wrapping_add(run), None).diary).collect::<Vec<_>>();
    let once = diaries(first);
    assert!(once.iter().map(Vec::len).sum::<usize>() > 20);
    assert_eq!(once, diaries(first));
    assert_ne!(once, diaries(first.wrapping_add(1000)));
}

/// That nothing is found shows something only where what is known to be wrong is found. `--nocapture` shows in which run.
#[test]
#[allow(clippy::print_stderr, reason = "it is for a person who wants to see how soon")]
fn every_planted_bug_is_found() {
    let first = seed();
    for bug in planted::ALL {
        let found = first_broken(first, 3000, Some(bug));
        let (runs, ended) = found.unwrap_or_else(|| panic!("{bug:?} was not found"));
        eprintln!("{bug:?} found in run {runs}: {}", ended.broken[0].1);
    }
}
