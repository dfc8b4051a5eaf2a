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
mod run;
mod shelf;
mod wire;

use std::{
    fmt,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use self::{
    plan::Plan,
    planted::Bug,
    process::{Callers, Shared},
    run::{Run, SECOND},
    shelf::Shelf,
};
use super::{HOUR, MINUTE, world::Fate};
use crate::{caught::locked, seed::seed};

/// The first seed of the worlds that every run of the tests goes through.
const KNOWN: u64 = 77;
/// The tasks that belong to no simulated process.
const FATE: usize = usize::MAX;
/// A process that is killed is started again under a new number.
const INCARNATIONS: usize = 1000;

/// The processes of one world, and what they share.
struct Life {
    run: Arc<Run>,
    stores: Arc<[Shelf]>,
}

impl Life {
    fn new(seed: u64, bug: Option<Bug>) -> Arc<Self> {
        let run = Run::new(seed, bug);
        let stores = (0..run.plan.companies).map(|_| Shelf::new(run.plan.kind)).collect();
        Arc::new(Self { run, stores })
    }

    fn start(self: &Arc<Self>, process: usize) {
        let shared = Shared::new(&self.run, &self.stores, process);
        for company in 0..self.run.plan.companies {
            let tokens = Callers::manager(&self.run, &self.stores, (process, company), &shared);
            let callers = Arc::new(Callers {
                run: Arc::clone(&self.run),
                process,
                company,
                tokens,
                wrong: Arc::clone(&shared.wrong),
                dropped: Arc::clone(&shared.dropped),
            });
            for _ in 0..self.run.plan.tasks {
                self.run.world.spawn(process, Arc::clone(&callers).live());
            }
        }
    }

    /// What becomes of a process right before one of its tasks goes on.
    fn fate(self: &Arc<Self>, process: usize) -> Fate {
        if process == FATE {
            return Fate::GoesOn;
        }
        let run = &self.run;
        let of = run.plan.troubles;
        if run.chance(of.kill / 10.0) {
            self.dies(process);
            return Fate::IsKilled;
        }
        if run.chance(of.suspend / 10.0) {
            let time = [5 * SECOND, MINUTE, 5 * MINUTE, 3 * HOUR][run.below(4)];
            let time = run.world.up_to(time);
            run.world.note(format!("{process} is suspended for {time:?}"));
            locked(&run.suspended).push((process, time, run.now() + time));
            return Fate::IsSuspended(time);
        }
        Fate::GoesOn
    }

    fn dies(self: &Arc<Self>, process: usize) {
        let run = &self.run;
        run.world.note(format!("{process} is killed"));
        run.books().died(process);
        for (company, shelf) in self.stores.iter().enumerate() {
            if shelf.forgets() {
                run.books().company(company).forgotten(run.now());
            }
        }
        let (life, next) = (Arc::clone(self), process + INCARNATIONS);
        let later = run.world.up_to(HOUR / 4);
        run.world.spawn(FATE, async move {
            life.run.pause(later).await;
            life.start(next);
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
    let life = Life::new(seed, bug);
    let run = &life.run;
    for process in 0..run.plan.processes {
        life.start(process);
    }
    run.world.run_with(|process| life.fate(process));
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

/// What happened in worlds in which nothing broke.
#[derive(Debug, Default)]
struct Survived {
    worlds: AtomicU64,
    requests: AtomicU64,
    kills: AtomicU64,
    suspensions: AtomicU64,
}

impl Survived {
    fn count(&self, diary: &[(Duration, String)]) {
        let add = |number: &AtomicU64, what: &str| {
            let times = diary.iter().filter(|(_, noted)| noted.contains(what)).count();
            number.fetch_add(times.try_into().unwrap(), Relaxed);
        };
        self.worlds.fetch_add(1, Relaxed);
        add(&self.requests, " presents ");
        add(&self.kills, " is killed");
        add(&self.suspensions, " is suspended ");
    }
}

impl fmt::Display for Survived {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { worlds, requests, kills, suspensions } = self;
        let [worlds, requests, kills, suspensions] =
            [worlds, requests, kills, suspensions].map(|number| number.load(Relaxed));
        write!(
            f,
            "{worlds} worlds, with {requests} requests that reached Concur, {kills} kills and {suspensions} suspensions"
        )
    }
}

/// The first of so many worlds in which something broke; each on one thread, and as many at once as there are processors.
fn first_broken(first: u64, runs: u64, bug: Option<Bug>, survived: &Survived) -> Option<(u64, Ended)> {
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
                    if ended.broken.is_empty() {
                        survived.count(&ended.diary);
                    } else {
                        locked(&found).get_or_insert((nth + 1, ended));
                    }
                }
            });
        }
    });
    found.into_inner().unwrap()
}

#[allow(clippy::print_stderr, reason = "it is for a person who wants to know what was covered")]
fn stays_whole(first: u64, runs: u64) {
    let survived = Survived::default();
    let Some((_, Ended { seed, broken, diary })) = first_broken(first, runs, None, &survived) else {
        eprintln!("held in {survived}");
        return;
    };
    let (when, what) = &broken[0];
    let until = diary.partition_point(|(at, _)| at <= when);
    panic!(
        "CONCUR_AUTH_SEED={seed}: at {when:?} {what}; before that: {:#?} in {:#?}",
        &diary[until.saturating_sub(30)..until],
        Plan::draw(seed, None),
    );
}

/// `CONCUR_AUTH_RUNS` says how many worlds are tried, from a new seed or `CONCUR_AUTH_SEED` on. Without it they are the same ones
/// each time, so that a change is what breaks them.
#[test]
fn whatever_happens_no_promise_is_broken() {
    let (first, runs) = match std::env::var("CONCUR_AUTH_RUNS") {
        Ok(runs) => (seed(), runs.parse().unwrap()),
        Err(_) => (KNOWN, 300),
    };
    stays_whole(first, runs);
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
    for bug in planted::ALL {
        let found = first_broken(KNOWN, 1000, Some(bug), &Survived::default());
        let (runs, ended) = found.unwrap_or_else(|| panic!("{bug:?} was not found"));
        eprintln!("{bug:?} found in run {runs}: {}", ended.broken[0].1);
    }
}
