//! One piece of work at a time: a caller who needs its outcome starts the work, or waits for the work under way.
//!
//! Always: the work outlives its callers. Work that never started has done nothing, so its callers start it again. Where the
//! leader has said how long its next step may take, callers are answered when it takes longer, and the work goes on. Nothing
//! here knows what the work is for.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    sync::{Arc, Mutex, MutexGuard},
    task::Poll,
    time::Duration,
};

use tokio::sync::{Notify, watch};

use crate::caught::locked;

/// Which flight under way a caller may wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Join {
    Any,
    /// None: the caller can be served while another caller's flight is under way.
    Never,
    /// A flight with this number or a later one. The caller waits for an earlier one to end, then ignores its outcome.
    Since(u64),
    /// None but the caller's own, after the one under way has ended.
    Own,
}

/// The flight under way, if any.
#[derive(Debug)]
pub(super) struct SingleFlight<T> {
    slot: Mutex<Slot<T>>,
    freed: Notify,
}

#[derive(Debug)]
struct Slot<T> {
    next_number: u64,
    current: Option<Waiter<T>>,
}

#[derive(Clone, Debug)]
struct Waiter<T> {
    number: u64,
    /// The process that runs it.
    process: u32,
    /// Started with [`Join::Own`]: its outcome answers its starter only.
    is_private: bool,
    told: watch::Receiver<Told<T>>,
}

/// What a flight tells those who wait for it.
#[derive(Clone, Debug)]
enum Told<T> {
    Nothing,
    /// Its next step takes too long. It goes on.
    Late(T),
    Ended(T),
}

/// How long the next step of a flight may take, and what its callers are told if it takes longer.
pub(super) struct Limit<T> {
    time: Duration,
    instead: Box<dyn Fn() -> T + Send + Sync>,
}

impl<T> Limit<T> {
    pub(super) fn new(time: Duration, instead: impl Fn() -> T + Send + Sync + 'static) -> Self {
        Self { time, instead: Box::new(instead) }
    }
}

impl<T> Default for SingleFlight<T> {
    fn default() -> Self {
        Self { slot: Mutex::new(Slot { next_number: 0, current: None }), freed: Notify::new() }
    }
}

impl<T> SingleFlight<T> {
    /// The number that the next flight to start will have.
    pub(super) fn next_number(&self) -> u64 {
        self.slot().next_number
    }

    /// Whether a flight was under way when another process forked this one: it goes on there, and never ends here.
    pub(super) fn is_left_behind(&self, process: u32) -> bool {
        self.slot().current.as_ref().is_some_and(|current| current.process != process)
    }

    /// Waits until no flight is under way. Who waits here does not count as waiting for a flight's outcome.
    pub(super) async fn until_idle(&self) {
        loop {
            // Made before the look, so that no end in between is missed.
            let freed = self.freed.notified();
            if self.slot().current.is_none() {
                return;
            }
            freed.await;
        }
    }

    fn slot(&self) -> MutexGuard<'_, Slot<T>> {
        locked(&self.slot)
    }
}

impl<T: Clone> SingleFlight<T> {
    /// Joins the flight under way or starts one, and waits for its outcome; `None` if `join` forbids to join.
    ///
    /// `start` hands the leader to something that outlives the caller. It is told whether an earlier attempt of this caller
    /// was accepted and then dropped unstarted.
    pub(super) async fn run<E>(
        self: &Arc<Self>,
        join: Join,
        process: u32,
        start: impl Fn(Leader<T>, bool) -> Result<(), E>,
    ) -> Result<Option<T>, E> {
        let mut was_dropped = false;
        loop {
            let (mut flight, leader) = {
                let mut slot = self.slot();
                match (&slot.current, join) {
                    (Some(_), Join::Never) => return Ok(None),
                    (Some(current), _) => (current.clone(), None),
                    (None, _) => {
                        let (teller, told) = watch::channel(Told::Nothing);
                        let (number, is_private) = (slot.next_number, join == Join::Own);
                        let flight = Waiter { number, process, is_private, told };
                        slot.next_number += 1;
                        slot.current = Some(flight.clone());
                        let leader = Leader {
                            flights: Arc::clone(self),
                            number: flight.number,
                            told: Arc::new(teller),
                            limit: watch::Sender::new(None),
                        };
                        (flight, Some(leader))
                    }
                }
            };
            let is_ours = leader.is_some();
            if let Some(leader) = leader {
                start(leader, was_dropped)?;
            }
            let told = flight.told.wait_for(|told| !matches!(told, Told::Nothing)).await;
            let outcome = match told.as_deref() {
                // Whether this caller needs the flight's outcome or waits for its end: it has waited long enough.
                Ok(Told::Late(instead)) => return Ok(Some(instead.clone())),
                Ok(Told::Ended(outcome)) => Some(outcome.clone()),
                Ok(Told::Nothing) | Err(_) => None,
            };
            drop(told);
            match outcome {
                // It may have begun before what the caller wants to be newer than.
                _ if matches!(join, Join::Since(first) if flight.number < first) => {}
                // What another caller's own flight brings replaces what everybody holds. Whether it went well or badly says
                // nothing about what this caller needs; and a caller who wants its own is not answered by any other.
                _ if !is_ours && (flight.is_private || join == Join::Own) => {}
                Some(outcome) => return Ok(Some(outcome)),
                None => was_dropped |= is_ours,
            }
        }
    }
}

/// The right and the duty to bring a flight to its end: dropping it, finished or unstarted, frees the slot for the next.
pub(super) struct Leader<T> {
    flights: Arc<SingleFlight<T>>,
    number: u64,
    /// Shared with the overseer, and nobody else: dropping the leader closes the channel.
    told: Arc<watch::Sender<Told<T>>>,
    limit: watch::Sender<Option<Arc<Limit<T>>>>,
}

impl<T> Leader<T> {
    pub(super) fn finish(self, outcome: T) {
        // First, so that a caller who comes from now on starts another flight: what this one found is published already.
        self.free_slot(&mut self.flights.slot());
        self.told.send_replace(Told::Ended(outcome));
    }

    /// To be called when the work begins, which has been queued until now; `None` if no caller waits for it any more.
    pub(super) fn begin(self) -> Option<Self> {
        if self.is_alone() {
            return None;
        }
        self.expect_within(None);
        Some(self)
    }

    /// Whether all callers have gone who waited for this flight. If so, no other caller can join it any more.
    pub(super) fn is_alone(&self) -> bool {
        let mut slot = self.flights.slot();
        // One receiver is the slot's own.
        let is_alone = self.told.receiver_count() <= 1;
        if is_alone {
            self.free_slot(&mut slot);
        }
        is_alone
    }

    /// A step has ended, and the next may take this long; `None`: as long as it likes. Callers who come when it is late are
    /// told at once.
    pub(super) fn expect_within(&self, limit: Option<Limit<T>>) {
        // The overseer has to know of a new limit, and finds out by itself that an old one is gone.
        self.limit.send_if_modified(|expected| {
            *expected = limit.map(Arc::new);
            expected.is_some()
        });
        // Callers who still wait were not told yet, and need not be woken.
        self.told.send_if_modified(|told| {
            *told = Told::Nothing;
            false
        });
    }

    /// Tells the callers when a limit has passed. Run it on any executor; it ends with the leader. `wait` is ready once real
    /// time has passed, or in a simulation the time that is simulated.
    pub(super) fn overseer<F, W>(&self, wait: F) -> impl Future<Output = ()> + use<T, F, W>
    where
        F: Fn(Duration) -> W,
        W: Future<Output = ()>,
    {
        let (mut expected, told) = (self.limit.subscribe(), Arc::downgrade(&self.told));
        async move {
            loop {
                let limit = expected.borrow_and_update().clone();
                let in_time = match &limit {
                    Some(limit) => first(expected.changed(), wait(limit.time)).await,
                    None => Some(expected.changed().await),
                };
                let is_led = match (in_time, limit, told.upgrade()) {
                    (Some(changed), ..) => changed.is_ok(),
                    (None, Some(limit), Some(told)) => {
                        told.send_if_modified(|told| {
                            // The leader may have got on at this very moment.
                            let is_late =
                                expected.borrow().as_ref().is_some_and(|it| Arc::ptr_eq(it, &limit));
                            if is_late {
                                *told = Told::Late((limit.instead)());
                            }
                            is_late
                        });
                        drop(told);
                        expected.changed().await.is_ok()
                    }
                    (None, ..) => false,
                };
                if !is_led {
                    return;
                }
            }
        }
    }

    fn free_slot(&self, slot: &mut Slot<T>) {
        if slot.current.as_ref().is_some_and(|current| current.number == self.number) {
            slot.current = None;
            self.flights.freed.notify_waiters();
        }
    }
}

impl<T> Drop for Leader<T> {
    fn drop(&mut self) {
        self.free_slot(&mut self.flights.slot());
    }
}

/// The output of `work`, unless `deadline` comes first.
async fn first<T>(work: impl Future<Output = T>, deadline: impl Future<Output = ()>) -> Option<T> {
    let (mut work, mut deadline) = (pin!(work), pin!(deadline));
    poll_fn(|context| match work.as_mut().poll(context) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending => deadline.as_mut().poll(context).map(|()| None),
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::{
        convert::Infallible,
        future::Future,
        pin::{Pin, pin},
        sync::{
            Barrier,
            atomic::{AtomicUsize, Ordering},
        },
        task::{Context, Poll, Waker},
        thread,
    };

    use super::*;

    const PROCESS: u32 = 1;

    type Flights = Arc<SingleFlight<u32>>;

    /// Leaders that tests finish when they like.
    #[derive(Default)]
    struct Started(Mutex<Vec<Leader<u32>>>);

    impl Started {
        fn start(&self, leader: Leader<u32>, _: bool) -> Result<(), Infallible> {
            locked(&self.0).push(leader);
            Ok(())
        }

        fn last(&self) -> Leader<u32> {
            locked(&self.0).pop().unwrap()
        }

        fn count(&self) -> usize {
            locked(&self.0).len()
        }
    }

    type Running<'a> = Pin<Box<dyn Future<Output = Result<Option<u32>, Infallible>> + 'a>>;

    fn run<'a>(flights: &'a Flights, join: Join, started: &'a Started) -> Running<'a> {
        Box::pin(flights.run(join, PROCESS, |leader, again| started.start(leader, again)))
    }

    fn poll<T>(future: &mut Pin<Box<dyn Future<Output = T> + '_>>) -> Poll<T> {
        future.as_mut().poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn callers_who_join_share_one_outcome() {
        let (flights, started) = (Flights::default(), Started::default());
        let mut callers: Vec<_> = (0..100).map(|_| run(&flights, Join::Any, &started)).collect();
        assert!(callers.iter_mut().all(|caller| poll(caller).is_pending()));
        assert_eq!(started.count(), 1);
        started.last().finish(7);
        assert!(callers.iter_mut().all(|caller| poll(caller) == Poll::Ready(Ok(Some(7)))));
        assert_eq!((started.count(), flights.next_number()), (0, 1));
    }

    #[test]
    fn a_caller_who_must_not_join_is_told_so_at_once() {
        let (flights, started) = (Flights::default(), Started::default());
        let mut first = run(&flights, Join::Never, &started);
        assert!(poll(&mut first).is_pending(), "nothing is under way yet, so it starts a flight");
        assert_eq!(poll(&mut run(&flights, Join::Never, &started)), Poll::Ready(Ok(None)));
        started.last().finish(1);
        assert_eq!(poll(&mut first), Poll::Ready(Ok(Some(1))));
    }

    #[test]
    fn an_earlier_flight_is_waited_for_and_its_outcome_ignored() {
        let (flights, started) = (Flights::default(), Started::default());
        let mut earlier = run(&flights, Join::Any, &started);
        assert!(poll(&mut earlier).is_pending());
        let since = Join::Since(flights.next_number());
        let (mut first, mut second) = (run(&flights, since, &started), run(&flights, since, &started));
        assert!(poll(&mut first).is_pending() && poll(&mut second).is_pending());
        assert_eq!(started.count(), 1);
        started.last().finish(1);
        assert_eq!(poll(&mut earlier), Poll::Ready(Ok(Some(1))));
        assert!(poll(&mut first).is_pending() && poll(&mut second).is_pending());
        assert_eq!(started.count(), 1, "the two share the next flight");
        started.last().finish(2);
        assert_eq!(poll(&mut first), Poll::Ready(Ok(Some(2))));
        assert_eq!(poll(&mut second), Poll::Ready(Ok(Some(2))));
    }

    #[test]
    fn a_private_flight_answers_its_starter_only() {
        let (flights, started) = (Flights::default(), Started::default());
        let mut joiner = run(&flights, Join::Any, &started);
        let mut own = run(&flights, Join::Own, &started);
        assert!(poll(&mut own).is_pending() && poll(&mut joiner).is_pending());
        assert_eq!(started.count(), 1);
        started.last().finish(1);
        assert_eq!(poll(&mut own), Poll::Ready(Ok(Some(1))));
        assert!(poll(&mut joiner).is_pending());
        assert_eq!(started.count(), 1, "the other caller starts its own");
        // And a private flight does not take another's outcome for its own.
        let mut own = run(&flights, Join::Own, &started);
        assert!(poll(&mut own).is_pending());
        started.last().finish(2);
        assert_eq!(poll(&mut joiner), Poll::Ready(Ok(Some(2))));
        assert!(poll(&mut own).is_pending());
        started.last().finish(3);
        assert_eq!(poll(&mut own), Poll::Ready(Ok(Some(3))));
    }

    #[test]
    fn a_leader_dropped_unstarted_is_replaced_and_the_starter_is_told() {
        let flights = Flights::default();
        let (attempts, started) = (Mutex::new(Vec::new()), Started::default());
        let start = |leader, was_dropped| {
            locked(&attempts).push(was_dropped);
            // Dropped at the end of this closure, unless it is started.
            if was_dropped { started.start(leader, true) } else { Ok(()) }
        };
        let mut caller = pin!(flights.run(Join::Any, PROCESS, start));
        let context = &mut Context::from_waker(Waker::noop());
        assert!(caller.as_mut().poll(context).is_pending());
        assert_eq!(*locked(&attempts), [false, true]);
        started.last().finish(5);
        assert_eq!(caller.as_mut().poll(context), Poll::Ready(Ok(Some(5))));
    }

    #[test]
    fn a_start_that_fails_is_the_callers_error_and_frees_the_slot() {
        let (flights, started) = (Flights::default(), Started::default());
        let mut failing = pin!(flights.run(Join::Any, PROCESS, |_, _| Err("no thread")));
        let context = &mut Context::from_waker(Waker::noop());
        assert_eq!(failing.as_mut().poll(context), Poll::Ready(Err("no thread")));
        assert!(poll(&mut run(&flights, Join::Any, &started)).is_pending());
        assert_eq!(started.count(), 1);
    }

    #[test]
    fn a_leader_is_alone_once_all_callers_have_gone_and_no_other_can_join_then() {
        let (flights, started) = (Flights::default(), Started::default());
        let (mut first, mut second) =
            (run(&flights, Join::Any, &started), run(&flights, Join::Any, &started));
        assert!(poll(&mut first).is_pending() && poll(&mut second).is_pending());
        let leader = started.last();
        drop(first);
        assert!(!leader.is_alone());
        drop(second);
        assert!(leader.is_alone());
        let mut later = run(&flights, Join::Any, &started);
        assert!(poll(&mut later).is_pending());
        assert_eq!(started.count(), 1, "it starts a flight of its own");
        // The abandoned one leaves the slot of the new one alone.
        leader.finish(1);
        assert!(poll(&mut later).is_pending());
        started.last().finish(2);
        assert_eq!(poll(&mut later), Poll::Ready(Ok(Some(2))));
    }

    /// Its limits pass when the test says so.
    fn overseer(leader: &Leader<u32>, passed: &Arc<AtomicUsize>) -> Pin<Box<dyn Future<Output = ()>>> {
        let passed = Arc::clone(passed);
        Box::pin(leader.overseer(move |time| {
            let passed = Arc::clone(&passed);
            poll_fn(move |_| {
                let is_over = passed.load(Ordering::SeqCst) >= usize::try_from(time.as_secs()).unwrap();
                if is_over { Poll::Ready(()) } else { Poll::Pending }
            })
        }))
    }

    const fn within(seconds: u64, instead: u32) -> (Duration, u32) {
        (Duration::from_secs(seconds), instead)
    }

    fn limit((time, instead): (Duration, u32)) -> Option<Limit<u32>> {
        Some(Limit::new(time, move || instead))
    }

    #[test]
    fn callers_are_answered_when_a_step_takes_too_long_and_the_flight_goes_on() {
        let (flights, started, passed) =
            (Flights::default(), Started::default(), Arc::new(AtomicUsize::new(0)));
        let (mut first, mut since) =
            (run(&flights, Join::Any, &started), run(&flights, Join::Since(5), &started));
        assert!(poll(&mut first).is_pending() && poll(&mut since).is_pending());
        let leader = started.last();
        leader.expect_within(limit(within(60, 60)));
        let mut overseer = overseer(&leader, &passed);
        assert!(poll(&mut overseer).is_pending() && poll(&mut first).is_pending());
        passed.store(60, Ordering::SeqCst);
        assert!(poll(&mut overseer).is_pending());
        assert_eq!(poll(&mut first), Poll::Ready(Ok(Some(60))));
        assert_eq!(poll(&mut since), Poll::Ready(Ok(Some(60))), "it only waited for the end of this flight");
        for join in [Join::Any, Join::Own, Join::Since(0)] {
            assert_eq!(poll(&mut run(&flights, join, &started)), Poll::Ready(Ok(Some(60))), "{join:?}");
        }
        assert_eq!((started.count(), flights.next_number()), (0, 1));

        // The flight gets on, so that callers wait again.
        leader.expect_within(None);
        let mut later = run(&flights, Join::Any, &started);
        assert!(poll(&mut overseer).is_pending() && poll(&mut later).is_pending());
        leader.expect_within(limit(within(70, 70)));
        assert!(poll(&mut overseer).is_pending() && poll(&mut later).is_pending());
        passed.store(70, Ordering::SeqCst);
        assert!(poll(&mut overseer).is_pending());
        assert_eq!(poll(&mut later), Poll::Ready(Ok(Some(70))));
        leader.expect_within(None);
        let mut last = run(&flights, Join::Any, &started);
        assert!(poll(&mut last).is_pending());
        leader.finish(7);
        assert_eq!(poll(&mut last), Poll::Ready(Ok(Some(7))));
        assert!(poll(&mut overseer).is_ready(), "it ends with its leader");
    }

    #[test]
    fn a_step_that_ends_in_time_is_not_late_afterwards() {
        let (flights, started, passed) =
            (Flights::default(), Started::default(), Arc::new(AtomicUsize::new(0)));
        let mut caller = run(&flights, Join::Any, &started);
        assert!(poll(&mut caller).is_pending());
        let leader = started.last();
        leader.expect_within(limit(within(60, 60)));
        let mut overseer = overseer(&leader, &passed);
        assert!(poll(&mut overseer).is_pending());
        let leader = leader.begin().unwrap();
        passed.store(60, Ordering::SeqCst);
        assert!(poll(&mut overseer).is_pending() && poll(&mut caller).is_pending());
        drop(leader);
        assert!(poll(&mut overseer).is_ready());
        assert!(poll(&mut caller).is_pending() && started.count() == 1, "dropped, so it starts another");
    }

    #[test]
    fn what_no_caller_waits_for_does_not_begin() {
        let (flights, started) = (Flights::default(), Started::default());
        let mut caller = run(&flights, Join::Any, &started);
        assert!(poll(&mut caller).is_pending());
        drop(caller);
        assert!(started.last().begin().is_none());
        let mut caller = run(&flights, Join::Any, &started);
        assert!(poll(&mut caller).is_pending());
        assert!(started.last().begin().is_some());
    }

    #[test]
    fn a_flight_under_way_at_a_fork_is_left_behind_in_the_child() {
        let (flights, started) = (Flights::default(), Started::default());
        assert!(!flights.is_left_behind(PROCESS + 1), "nothing was under way");
        assert!(poll(&mut run(&flights, Join::Any, &started)).is_pending());
        assert!(flights.is_left_behind(PROCESS + 1) && !flights.is_left_behind(PROCESS));
        started.last().finish(1);
        assert!(!flights.is_left_behind(PROCESS + 1));
    }

    #[test]
    fn waiting_for_idleness_keeps_no_flight_going() {
        let (flights, started) = (Flights::default(), Started::default());
        let mut caller = run(&flights, Join::Any, &started);
        assert!(poll(&mut caller).is_pending());
        let mut idle: Pin<Box<dyn Future<Output = ()>>> = Box::pin(flights.until_idle());
        assert!(poll(&mut idle).is_pending());
        drop(caller);
        let leader = started.last();
        assert!(leader.is_alone());
        assert!(poll(&mut idle).is_ready());
    }

    /// Real threads, all at once: at most one flight is under way at any time, and every caller gets an outcome.
    #[test]
    fn threads_never_have_two_flights_under_way() {
        const THREADS: usize = 8;
        const CALLS: usize = 500;
        let flights = Flights::default();
        let (under_way, flown) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let barrier = Barrier::new(THREADS);
        thread::scope(|scope| {
            for thread in 0..THREADS {
                let (flights, under_way, flown, barrier) = (&flights, &under_way, &flown, &barrier);
                scope.spawn(move || {
                    let start = |leader: Leader<u32>, _| {
                        assert_eq!(under_way.fetch_add(1, Ordering::SeqCst), 0);
                        thread::yield_now();
                        under_way.fetch_sub(1, Ordering::SeqCst);
                        let number = flown.fetch_add(1, Ordering::SeqCst);
                        leader.finish(u32::try_from(number).unwrap());
                        Ok::<_, Infallible>(())
                    };
                    barrier.wait();
                    for call in 0..CALLS {
                        let join = [Join::Any, Join::Own, Join::Since(flights.next_number()), Join::Never];
                        let join = join[(thread + call) % 4];
                        let outcome = block_on(flights.run(join, PROCESS, start)).unwrap();
                        assert!(outcome.is_some() || join == Join::Never);
                    }
                });
            }
        });
        let numbers = usize::try_from(flights.next_number()).unwrap();
        assert_eq!(flown.load(Ordering::SeqCst), numbers);
    }

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        struct Unpark(thread::Thread);
        impl std::task::Wake for Unpark {
            fn wake(self: Arc<Self>) {
                self.0.unpark();
            }
        }
        let waker = Waker::from(Arc::new(Unpark(thread::current())));
        let (mut future, mut context) = (pin!(future), Context::from_waker(&waker));
        loop {
            match future.as_mut().poll(&mut context) {
                Poll::Ready(output) => return output,
                Poll::Pending => thread::park(),
            }
        }
    }
}
