//! Flights of a runtime that asks for its keeper, runs it late or not at all, in many orders.

use std::sync::{LazyLock, Mutex as Unscheduled};

use shuttle::thread::{self, JoinHandle};
use tokio::runtime::Builder;

use super::*;
use crate::{
    caught,
    schedules::{Fault, World, any_of, one_in, step},
};

static RUNTIME: LazyLock<Id> = LazyLock::new(|| Builder::new_current_thread().build().unwrap().handle().id());

/// No wait ends by its limit.
const WITHOUT_TIME: World = World::new(flights);
/// A keeper may give up a queued flight at any moment.
const IN_TIME: World = World::in_time(flights);

fn flights() {
    let keepers: &'static Keepers = Box::leak(Box::default());
    let turns: Arc<Unscheduled<Vec<JoinHandle<()>>>> = Arc::default();
    let flies = |_| {
        let turns = Arc::clone(&turns);
        thread::spawn(move || {
            for _ in 0..2 {
                let (mut kept, turn) = keepers.kept(*RUNTIME);
                if let Some(turn) = turn {
                    let has_ended = one_in(4);
                    let turn = thread::spawn(move || if has_ended { drop(turn) } else { turn.run() });
                    caught::locked(&turns).push(turn);
                }
                // No caller waits for it any more, or it begins.
                if !one_in(4) && kept.begin() {
                    for _ in 0..any_of(3) {
                        step();
                        let state = kept.keeper.state();
                        assert!(state.stage == Stage::Runs && state.begun > 0, "its runtime waits for it");
                    }
                }
            }
        })
    };
    let threads: Vec<_> = (0..3).map(flies).collect();
    for thread in threads {
        thread.join().unwrap();
    }
    // Keepers end once no flight needs them: else this schedule would not end.
    while let Some(turn) = { caught::locked(&turns).pop() } {
        turn.join().unwrap();
    }
    assert!(locked(&keepers.of).is_empty());
}

#[test]
fn a_runtime_waits_for_the_flights_that_have_begun_and_for_nothing_else() {
    WITHOUT_TIME.holds_in(4_000);
    IN_TIME.holds_in(4_000);
}

#[test]
fn a_keeper_that_is_not_woken_is_found() {
    WITHOUT_TIME.finds(Fault::NotifiesInVain, 1_000);
}
