//! Keeps a caller's runtime from ending while a flight that was started from it is under way.
//!
//! A runtime waits at its end for the blocking tasks that run. So one blocking task of that runtime, the keeper, does nothing
//! but wait for all its flights.
//!
//! Always: one thread of a runtime at most. No flight begins before its keeper runs, unless the runtime had no thread for
//! the keeper for a second; then the runtime does not wait for that flight. A flight that is still queued when its runtime
//! ends is waited for only if another runtime's caller needs it, and for a minute at most.

use std::{
    collections::{HashMap, hash_map::Entry},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, PoisonError},
    time::Duration,
};

use tokio::runtime::{Handle, Id};

use crate::{
    clock::Stopwatch,
    per_process::PerProcess,
    sync::{Condvar, Mutex, MutexGuard, locked},
    threads::try_threads,
};

/// How long a flight waits for its keeper to run. Real time: real threads are waited for.
const LONGEST_WAIT: Duration = Duration::from_secs(1);
/// How long a keeper waits for a queued flight to begin, when none is under way.
const LONGEST_QUEUE: Duration = Duration::from_secs(60);
/// How long a thread that ran a keeper certainly lives: tokio's blocking threads end after 10 idle seconds.
const RECENT: Duration = Duration::from_secs(1);

static KEEPERS: PerProcess<Keepers> = PerProcess::new(Keepers::default);

#[derive(Default)]
struct Keepers {
    of: Mutex<HashMap<Id, Arc<Keeper>>>,
    last_run: Mutex<Option<(Id, Stopwatch)>>,
}

struct Keeper {
    asked: Stopwatch,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    stage: Stage,
    queued: usize,
    begun: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Queued for a thread of its runtime.
    Asked,
    Runs,
    /// It ended, or never will run.
    Gone,
}

/// A flight's part in its keeper. Dropped when the flight has ended.
pub(crate) struct Kept {
    keeper: Arc<Keeper>,
    has_begun: bool,
}

/// Has the end of the `callers`' runtime wait for one flight, from its beginning to its end.
pub(crate) fn keep(callers: &Handle) -> Kept {
    let (kept, turn) = KEEPERS.get().kept(callers.id());
    // Outside the lock: a runtime that has ended drops the task at once.
    if let Some(turn) = turn {
        turn.ask_for(callers);
    }
    kept
}

impl Keepers {
    /// A flight of this runtime, with the keeper to be asked for if it has none.
    fn kept(&'static self, runtime: Id) -> (Kept, Option<Turn>) {
        match locked(&self.of).entry(runtime) {
            Entry::Occupied(known) => (Kept::by(known.get()), None),
            Entry::Vacant(free) => {
                let keeper = free.insert(Arc::new(Keeper::new()));
                let turn = Turn { keepers: self, runtime, keeper: Arc::clone(keeper) };
                (Kept::by(keeper), Some(turn))
            }
        }
    }
}

impl Kept {
    fn by(keeper: &Arc<Keeper>) -> Self {
        keeper.state().queued += 1;
        Self { keeper: Arc::clone(keeper), has_begun: false }
    }

    /// Waits until the flight may begin; `false` if its runtime has ended, so that it must not.
    pub(crate) fn begin(&mut self) -> bool {
        let mut state = self.keeper.state();
        while state.stage == Stage::Asked {
            let Some(left) =
                LONGEST_WAIT.checked_sub(self.keeper.asked.elapsed()).filter(|left| !left.is_zero())
            else {
                break;
            };
            state = self.keeper.wait(state, left).0;
        }
        if state.stage == Stage::Gone {
            return false;
        }
        state.queued -= 1;
        state.begun += 1;
        self.has_begun = true;
        true
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        let mut state = self.keeper.state();
        let count = if self.has_begun { &mut state.begun } else { &mut state.queued };
        *count -= 1;
        if state.begun == 0 {
            self.keeper.changed.notify_all();
        }
    }
}

impl Keeper {
    fn new() -> Self {
        let state = State { stage: Stage::Asked, queued: 0, begun: 0 };
        Self { asked: Stopwatch::start(), state: Mutex::new(state), changed: Condvar::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        locked(&self.state)
    }

    /// Waits for a change; whether `longest` has passed without one.
    fn wait<'a>(&self, state: MutexGuard<'a, State>, longest: Duration) -> (MutexGuard<'a, State>, bool) {
        let (state, waited) =
            self.changed.wait_timeout(state, longest).unwrap_or_else(PoisonError::into_inner);
        (state, waited.timed_out())
    }

    /// Waits until no flight is under way and none is queued; whether a queued flight has not begun for too long.
    fn until_idle(&self) -> bool {
        let (mut state, mut has_waited_long) = (self.state(), false);
        while state.is_needed(has_waited_long) {
            (state, has_waited_long) = self.wait(state, LONGEST_QUEUE);
        }
        has_waited_long
    }

    /// The next flight of this runtime asks for another keeper.
    fn leave(
        self: &Arc<Self>,
        keepers: &mut HashMap<Id, Arc<Self>>,
        mut state: MutexGuard<'_, State>,
        runtime: Id,
    ) {
        if keepers.get(&runtime).is_some_and(|known| Arc::ptr_eq(known, self)) {
            keepers.remove(&runtime);
        }
        state.stage = Stage::Gone;
        self.changed.notify_all();
    }
}

impl State {
    fn is_needed(&self, has_waited_long: bool) -> bool {
        self.begun > 0 || (self.queued > 0 && !has_waited_long)
    }
}

/// The blocking task. Dropped when it has run, or by a runtime that ends before.
struct Turn {
    keepers: &'static Keepers,
    runtime: Id,
    keeper: Arc<Keeper>,
}

impl Turn {
    fn ask_for(self, callers: &Handle) {
        let has_run_lately = locked(&self.keepers.last_run)
            .as_ref()
            .is_some_and(|(runtime, ago)| *runtime == self.runtime && ago.elapsed() < RECENT);
        // tokio panics if it has no blocking thread and gets none. So that is tried first, with one to spare. If it panics
        // nevertheless, its locks stay usable and the task stays queued.
        if has_run_lately || try_threads(2).is_ok() {
            let (keepers, runtime, keeper) = (self.keepers, self.runtime, Arc::clone(&self.keeper));
            let asked = catch_unwind(AssertUnwindSafe(|| callers.spawn_blocking(move || self.run())));
            if asked.is_err() {
                keeper.leave(&mut locked(&keepers.of), keeper.state(), runtime);
            }
        }
    }

    fn run(self) {
        let mut state = self.keeper.state();
        if state.stage == Stage::Asked {
            state.stage = Stage::Runs;
            self.keeper.changed.notify_all();
        }
        drop(state);
        *locked(&self.keepers.last_run) = Some((self.runtime, Stopwatch::start()));
        while !self.is_done(self.keeper.until_idle()) {}
    }

    /// Ends the keeper if nothing has come meanwhile. Both locks at once until it has, so that no flight comes to, or begins
    /// with, a keeper that ends.
    fn is_done(&self, has_waited_long: bool) -> bool {
        let mut keepers = locked(&self.keepers.of);
        let state = self.keeper.state();
        let is_done = !state.is_needed(has_waited_long);
        if is_done {
            self.keeper.leave(&mut keepers, state, self.runtime);
        }
        is_done
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.keeper.leave(&mut locked(&self.keepers.of), self.keeper.state(), self.runtime);
    }
}

#[cfg(test)]
mod schedules;

#[cfg(test)]
mod tests {
    use std::{
        sync::{
            atomic::{AtomicBool, Ordering},
            mpsc,
        },
        thread,
    };

    use tokio::runtime::{Builder, Runtime};

    use super::*;

    fn runtime() -> Runtime {
        Builder::new_multi_thread().worker_threads(1).max_blocking_threads(1).build().unwrap()
    }

    fn is_known(runtime: &Handle) -> bool {
        locked(&KEEPERS.get().of).contains_key(&runtime.id())
    }

    #[test]
    fn one_thread_of_a_runtime_keeps_it_until_all_flights_that_have_begun_have_ended() {
        let runtime = runtime();
        let handle = runtime.handle().clone();
        let mut flights: Vec<_> = (0..3).map(|_| keep(&handle)).collect();
        assert!(flights.iter_mut().all(Kept::begin));
        let has_ended = AtomicBool::new(false);
        thread::scope(|scope| {
            let end = scope.spawn(|| {
                drop(runtime);
                has_ended.store(true, Ordering::SeqCst);
            });
            for flight in flights {
                assert!(!has_ended.load(Ordering::SeqCst));
                drop(flight);
            }
            end.join().unwrap();
        });
        assert!(!is_known(&handle));
    }

    #[test]
    fn a_runtime_that_needs_its_thread_again_gets_it() {
        let runtime = runtime();
        for _ in 0..100 {
            let mut flight = keep(runtime.handle());
            assert!(flight.begin());
            drop(flight);
            runtime.block_on(runtime.spawn_blocking(|| ())).unwrap();
        }
        assert!(!is_known(runtime.handle()));
    }

    #[test]
    fn no_flight_of_a_runtime_that_has_ended_begins() {
        let ended = runtime();
        let handle = ended.handle().clone();
        drop(ended);
        assert!(!keep(&handle).begin());
        assert!(!is_known(&handle));
    }

    #[test]
    fn a_flight_waits_a_second_for_a_runtime_without_a_free_thread_and_then_begins() {
        let runtime = runtime();
        let (free, taken) = mpsc::channel::<()>();
        runtime.spawn_blocking(move || taken.recv());
        let (watch, mut first, mut second) =
            (Stopwatch::start(), keep(runtime.handle()), keep(runtime.handle()));
        assert!(first.begin());
        assert!(watch.elapsed() >= LONGEST_WAIT);
        // It came at the same time.
        assert!(second.begin());
        drop((first, second));
        assert!(is_known(runtime.handle()), "it is still asked for");
        drop(free);
        runtime.block_on(runtime.spawn_blocking(|| ())).unwrap();
        assert!(!is_known(runtime.handle()));
    }
}
