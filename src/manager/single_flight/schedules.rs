//! Callers, leaders and overseers on threads of their own, in many orders.

use std::{
    collections::BTreeMap,
    future::{pending, poll_fn},
    pin::pin,
    sync::{
        Mutex as Unscheduled,
        atomic::{AtomicBool, AtomicUsize},
    },
    task::{Context, Poll, Waker},
};

use shuttle::{
    future::block_on,
    thread::{self, JoinHandle},
};

use super::*;
use crate::{
    caught,
    schedules::{Fault, World, any_of, one_in, step},
};

const PROCESS: u32 = 1;

const CALLS: World = World::new(calls);
const LATE: World = World::new(late_flights);

/// What is known of a flight.
struct Flown {
    /// The call that started it.
    call: usize,
    is_private: bool,
    /// Its starter waits for it and does not leave before.
    is_waited_for: bool,
    has_ended: bool,
}

/// Outcomes are the flights' numbers.
#[derive(Default)]
struct Sky {
    flights: Arc<SingleFlight<u64>>,
    flown: Unscheduled<BTreeMap<u64, Flown>>,
    under_way: AtomicUsize,
    threads: Unscheduled<Vec<JoinHandle<()>>>,
    /// Callers who are there, and who have ever come.
    here: AtomicUsize,
    come: AtomicUsize,
}

struct Call {
    number: usize,
    join: Join,
    /// The caller does not wait for the outcome.
    leaves: bool,
    /// How often the leader was dropped unstarted.
    dropped: AtomicUsize,
    /// The flight was not accepted.
    has_failed: AtomicBool,
}

#[derive(Debug)]
struct NotAccepted;

impl Sky {
    /// Waits for an outcome, or leaves; `None` after leaving.
    fn run(self: &Arc<Self>, call: &Call) -> Option<Result<Option<u64>, NotAccepted>> {
        self.come.fetch_add(1, SeqCst);
        self.here.fetch_add(1, SeqCst);
        let outcome = {
            let start = |leader, was_dropped| self.start(call, leader, was_dropped);
            let mut run = pin!(self.flights.run(call.join, PROCESS, start));
            if call.leaves {
                let context = &mut Context::from_waker(Waker::noop());
                (0..any_of(4)).find_map(|_| {
                    step();
                    match run.as_mut().poll(context) {
                        Poll::Ready(outcome) => Some(outcome),
                        Poll::Pending => None,
                    }
                })
            } else {
                Some(block_on(run))
            }
        };
        self.here.fetch_sub(1, SeqCst);
        outcome
    }

    fn start(
        self: &Arc<Self>,
        call: &Call,
        leader: Leader<u64>,
        was_dropped: bool,
    ) -> Result<(), NotAccepted> {
        assert_eq!(was_dropped, call.dropped.load(SeqCst) > 0, "the starter knows");
        let flown = Flown {
            call: call.number,
            is_private: call.join == Join::Own,
            is_waited_for: !call.leaves,
            has_ended: false,
        };
        caught::locked(&self.flown).insert(leader.number(), flown);
        match any_of(8) {
            0 => {
                call.has_failed.store(true, SeqCst);
                return Err(NotAccepted);
            }
            1 => {
                call.dropped.fetch_add(1, SeqCst);
                drop(leader);
            }
            2 => {
                call.dropped.fetch_add(1, SeqCst);
                self.spawn(move |_| drop(leader));
            }
            _ => self.spawn(move |sky| sky.fly(leader)),
        }
        Ok(())
    }

    fn spawn(self: &Arc<Self>, run: impl FnOnce(&Self) + Send + 'static) {
        let sky = Arc::clone(self);
        let thread = thread::spawn(move || run(&sky));
        caught::locked(&self.threads).push(thread);
    }

    fn fly(&self, leader: Leader<u64>) {
        let (here, come) = (self.here.load(SeqCst), self.come.load(SeqCst));
        let number = leader.number();
        let is_waited_for = caught::locked(&self.flown)[&number].is_waited_for;
        let Some(leader) = leader.begin() else {
            assert!(!is_waited_for, "a flight that a caller waits for begins");
            return;
        };
        assert!(here > 0 || self.come.load(SeqCst) > come, "what no caller waits for does not begin");
        self.takes_off();
        for _ in 0..any_of(3) {
            block_on(leader.work(async { step() }));
            // Once it is alone, another flight may begin before this one has ended.
            self.under_way.fetch_sub(1, SeqCst);
            if leader.is_alone() {
                assert!(!is_waited_for, "a flight that a caller waits for goes on");
                assert_eq!(leader.told.receiver_count(), 0, "no caller joins what is alone");
                return;
            }
            self.takes_off();
        }
        if let Some(flown) = caught::locked(&self.flown).get_mut(&number) {
            flown.has_ended = true;
        }
        self.under_way.fetch_sub(1, SeqCst);
        leader.finish(number);
    }

    fn takes_off(&self) {
        assert_eq!(self.under_way.fetch_add(1, SeqCst), 0, "one flight is under way");
    }

    /// Whether a call may get what it got, which is returned.
    fn check(&self, call: &Call, outcome: Result<Option<u64>, NotAccepted>) -> Option<u64> {
        match outcome {
            Err(NotAccepted) => {
                assert!(call.has_failed.load(SeqCst));
                None
            }
            Ok(None) => {
                assert_eq!(call.join, Join::Never);
                None
            }
            Ok(Some(number)) => {
                let flown = caught::locked(&self.flown);
                let flight = &flown[&number];
                let is_ours = flight.call == call.number;
                assert!(flight.has_ended, "an outcome comes from a flight that has ended");
                assert!(is_ours || !flight.is_private, "another caller's own flight");
                match call.join {
                    Join::Own | Join::Never => assert!(is_ours, "the outcome of another caller's flight"),
                    Join::Since(first) => assert!(number >= first, "the outcome of an earlier flight"),
                    Join::Any => {}
                }
                Some(number)
            }
        }
    }
}

fn calls() {
    let sky = Arc::new(Sky::default());
    let callers = (0..3).map(|caller| {
        let sky = Arc::clone(&sky);
        thread::spawn(move || {
            let mut before = None;
            for number in [2 * caller, 2 * caller + 1] {
                let join = match any_of(4) {
                    0 => Join::Any,
                    1 => Join::Never,
                    2 => Join::Own,
                    _ => Join::Since(sky.flights.next_number()),
                };
                let call = Call {
                    number,
                    join,
                    leaves: one_in(3),
                    dropped: AtomicUsize::default(),
                    has_failed: AtomicBool::default(),
                };
                if let Some(outcome) = sky.run(&call) {
                    let number = sky.check(&call, outcome);
                    assert!(
                        number.is_none() || number > before,
                        "a flight that has ended answers no later call"
                    );
                    before = before.max(number);
                }
            }
        })
    });
    let callers: Vec<_> = callers.collect();
    let flights = Arc::clone(&sky.flights);
    let idle = thread::spawn(move || block_on(flights.until_idle()));
    for caller in callers {
        caller.join().unwrap();
    }
    while let Some(flight) = { caught::locked(&sky.threads).pop() } {
        flight.join().unwrap();
    }
    idle.join().unwrap();
    assert!(sky.flights.slot().current.is_none(), "the slot is free in the end");
}

const QUEUED: u64 = 1000;
const BLOCKED: u64 = 2000;

/// How far a flight is.
#[derive(Default)]
struct Progress {
    has_begun: AtomicBool,
    has_worked: AtomicBool,
}

/// Flights that are overseen, one after the other.
#[derive(Default)]
struct Overseen {
    flights: Arc<SingleFlight<u64>>,
    progress: Unscheduled<BTreeMap<u64, Arc<Progress>>>,
}

impl Overseen {
    fn newest(&self) -> Option<Arc<Progress>> {
        caught::locked(&self.progress).last_key_value().map(|(_, newest)| Arc::clone(newest))
    }

    fn call(&self) {
        let before = self.newest();
        let has = |what: fn(&Progress) -> &AtomicBool| {
            before.as_ref().is_some_and(|before| what(before).load(SeqCst))
        };
        let (has_begun, has_worked) = (has(|it| &it.has_begun), has(|it| &it.has_worked));
        let run = self.flights.run(Join::Any, PROCESS, |leader, _| self.start(leader));
        let outcome = block_on(run).unwrap().unwrap();
        // If no later flight has started, it was this one that the call has joined.
        if before.zip(self.newest()).is_some_and(|(before, after)| Arc::ptr_eq(&before, &after)) {
            assert!(!(has_begun && outcome == QUEUED), "what has begun is not queued");
            assert!(!(has_worked && outcome == BLOCKED), "what has done its work blocks no thread");
        }
    }

    fn start(&self, mut leader: Leader<u64>) -> Result<(), NotAccepted> {
        let progress = Arc::new(Progress::default());
        caught::locked(&self.progress).insert(leader.number(), Arc::clone(&progress));
        let overseer = overseer(&mut leader);
        thread::spawn(move || block_on(overseer));
        thread::spawn(move || fly_slowly(leader, &progress));
        Ok(())
    }
}

fn fly_slowly(leader: Leader<u64>, progress: &Progress) {
    let takes_time = || (0..6).for_each(|_| step());
    let Some(leader) = leader.begin() else { return };
    progress.has_begun.store(true, SeqCst);
    let mut polls = 2;
    let work = poll_fn(|context| {
        takes_time();
        polls -= 1;
        context.waker().wake_by_ref();
        if polls == 0 { Poll::Ready(()) } else { Poll::Pending }
    });
    block_on(leader.work(work));
    progress.has_worked.store(true, SeqCst);
    takes_time();
    let number = leader.number();
    leader.finish(number);
}

/// The overseers may look at any moment.
fn late_flights() {
    let overseen = Arc::new(Overseen::default());
    let calls = |_| {
        let overseen = Arc::clone(&overseen);
        thread::spawn(move || (0..3).for_each(|_| overseen.call()))
    };
    let callers: Vec<_> = (0..2).map(calls).collect();
    for caller in callers {
        caller.join().unwrap();
    }
    // The flights go on, and their overseers end with them: else this schedule would not end.
    block_on(overseen.flights.until_idle());
}

fn overseer(leader: &mut Leader<u64>) -> impl Future<Output = ()> + use<> {
    let limits = Limits { look: Duration::ZERO, looks_queued: 1, queued: || QUEUED, blocked: || BLOCKED };
    let looks = AtomicUsize::new(8);
    leader.overseer(limits, move |_| {
        let looks_again = looks.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1)).is_ok();
        async move {
            step();
            if !looks_again {
                pending().await
            }
        }
    })
}

#[test]
fn at_most_one_flight_is_under_way_and_each_caller_gets_what_it_asked_for() {
    CALLS.holds_in(12_000);
}

#[test]
fn a_flight_that_has_got_on_is_not_told_to_be_late() {
    LATE.holds_in(8_000);
}

#[test]
fn a_lost_wake_up_is_found() {
    CALLS.finds(Fault::NotifiesInVain, 1_000);
}

#[test]
fn an_outcome_that_is_not_told_is_found() {
    CALLS.finds(Fault::SendsSilently, 1_000);
}

#[test]
fn a_caller_who_is_overlooked_is_found() {
    CALLS.finds(Fault::CountsNoReceivers, 1_000);
}

#[test]
fn a_flight_that_seems_to_stand_still_is_found() {
    LATE.finds(Fault::AddsNothing, 1_000);
}
