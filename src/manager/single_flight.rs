//! One piece of work at a time: a caller who needs its outcome starts the work, or waits for the work under way.
//!
//! Always: the work outlives its callers. Work that never started has done nothing, so its callers start it again. Callers of
//! work that is queued for too long, or that blocks its thread, are answered, and the work goes on. Nothing here knows what
//! the work is for.

use std::{
    convert::Infallible,
    future::{Future, poll_fn},
    pin::pin,
    sync::{Arc, atomic::Ordering::SeqCst},
    time::Duration,
};

use tokio::sync::oneshot;

use crate::{
    clock::within,
    sync::{AtomicU64, Mutex, MutexGuard, Notify, locked, watch},
};

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
    /// It takes too long to begin, or blocks its thread. It goes on.
    Late(T),
    Ended(T),
}

/// What the callers of a flight that takes too long are told, and when.
pub(super) struct Limits<T> {
    /// Between two looks at how the flight gets on. A thread that is blocked is noticed at the second look.
    pub(super) look: Duration,
    /// A flight that has not begun at this look is late.
    pub(super) looks_queued: u32,
    pub(super) queued: fn() -> T,
    pub(super) blocked: fn() -> T,
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
                            pace: Arc::default(),
                            overseen: None,
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
    /// Shared with the overseer only: dropping the leader closes the channel.
    told: Arc<watch::Sender<Told<T>>>,
    pace: Arc<Pace>,
    /// Dropped with the leader, which ends the overseer.
    overseen: Option<oneshot::Sender<Infallible>>,
}

/// How far a flight is: grows when it begins, and before and after each poll of its work. Zero while it is queued, and odd
/// while it is polled.
#[derive(Debug, Default)]
struct Pace(AtomicU64);

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
        self.pace.0.fetch_add(2, SeqCst);
        self.is_in_time();
        Some(self)
    }

    /// Does the work, so that the overseer sees a poll that takes long: a call in it blocks its thread.
    pub(super) async fn work<R>(&self, work: impl Future<Output = R>) -> R {
        let mut work = pin!(work);
        poll_fn(|context| {
            self.pace.0.fetch_add(1, SeqCst);
            let polled = work.as_mut().poll(context);
            self.pace.0.fetch_add(1, SeqCst);
            self.is_in_time();
            polled
        })
        .await
    }

    /// Of this flight alone, among the flights of its manager.
    pub(super) fn number(&self) -> u64 {
        self.number
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

    /// Tells the callers when the flight takes too long; those who come while it does are told at once. Run it on any
    /// executor; it ends with the leader. `wait` is ready once real time has passed, or in a simulation the time that is
    /// simulated.
    pub(super) fn overseer<F, W>(
        &mut self,
        limits: Limits<T>,
        wait: F,
    ) -> impl Future<Output = ()> + use<T, F, W>
    where
        F: Fn(Duration) -> W,
        W: Future<Output = ()>,
    {
        let (overseen, mut ended) = oneshot::channel();
        self.overseen = Some(overseen);
        let (pace, told) = (Arc::clone(&self.pace), Arc::downgrade(&self.told));
        async move {
            let (mut before, mut looks) = (0, 0);
            while within(wait(limits.look), &mut ended).await.is_none() {
                let now = pace.0.load(SeqCst);
                looks += 1;
                let late = match now {
                    0 if looks >= limits.looks_queued => Some(limits.queued),
                    _ if now == before && now % 2 == 1 => Some(limits.blocked),
                    _ => None,
                };
                before = now;
                if let (Some(late), Some(told)) = (late, told.upgrade()) {
                    tell_if_late(&told, &pace, now, late);
                }
            }
        }
    }

    /// The flight has got on. Callers who still wait were not told otherwise, and need not be woken.
    fn is_in_time(&self) {
        let is_told = matches!(*self.told.borrow(), Told::Late(_));
        if is_told {
            self.told.send_if_modified(|told| {
                *told = Told::Nothing;
                false
            });
        }
    }

    fn free_slot(&self, slot: &mut Slot<T>) {
        if slot.current.as_ref().is_some_and(|current| current.number == self.number) {
            slot.current = None;
            self.flights.freed.notify_waiters();
        }
    }
}

/// Unless the flight has got on since its pace was `before`, or has ended: that may be at this very moment.
fn tell_if_late<T>(told: &watch::Sender<Told<T>>, pace: &Pace, before: u64, late: fn() -> T) {
    told.send_if_modified(|told| {
        let is_late = pace.0.load(SeqCst) == before && matches!(told, Told::Nothing);
        if is_late {
            *told = Told::Late(late());
        }
        is_late
    });
}

impl<T> Drop for Leader<T> {
    fn drop(&mut self) {
        self.free_slot(&mut self.flights.slot());
    }
}

#[cfg(test)]
mod schedules;

#[cfg(test)]
mod tests {
    use std::{
        pin::Pin,
        sync::{Barrier, atomic::AtomicUsize},
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
        let leader = started.last();
        let number = leader.number();
        leader.finish(1);
        assert_eq!(poll(&mut earlier), Poll::Ready(Ok(Some(1))));
        assert!(poll(&mut first).is_pending() && poll(&mut second).is_pending());
        assert_eq!(started.count(), 1, "the two share the next flight");
        let leader = started.last();
        assert_ne!(leader.number(), number);
        leader.finish(2);
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

    const QUEUED: u32 = 60;
    const BLOCKED: u32 = 70;

    /// It looks as often as the test says.
    fn overseer(leader: &mut Leader<u32>, looks: &Arc<AtomicUsize>) -> Pin<Box<dyn Future<Output = ()>>> {
        let limits = Limits { look: Duration::ZERO, looks_queued: 3, queued: || QUEUED, blocked: || BLOCKED };
        let looks = Arc::clone(looks);
        Box::pin(leader.overseer(limits, move |_| {
            let looks = Arc::clone(&looks);
            poll_fn(move |_| {
                let left = looks.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1));
                if left.is_ok() { Poll::Ready(()) } else { Poll::Pending }
            })
        }))
    }

    #[test]
    fn callers_of_a_flight_that_is_queued_for_too_long_are_answered_and_it_goes_on() {
        let (flights, started, looks) = (Flights::default(), Started::default(), Arc::default());
        let (mut first, mut since) =
            (run(&flights, Join::Any, &started), run(&flights, Join::Since(5), &started));
        assert!(poll(&mut first).is_pending() && poll(&mut since).is_pending());
        let mut leader = started.last();
        let mut overseer = overseer(&mut leader, &looks);
        let mut look = |times| {
            looks.store(times, SeqCst);
            poll(&mut overseer)
        };
        assert!(look(2).is_pending() && poll(&mut first).is_pending());
        assert!(look(1).is_pending());
        assert_eq!(poll(&mut first), Poll::Ready(Ok(Some(QUEUED))));
        assert_eq!(
            poll(&mut since),
            Poll::Ready(Ok(Some(QUEUED))),
            "it only waited for the end of this flight"
        );
        // While a caller waits, others are told at once.
        let mut waits = flights.slot().current.clone().unwrap().told;
        for join in [Join::Any, Join::Own, Join::Since(0)] {
            assert_eq!(poll(&mut run(&flights, join, &started)), Poll::Ready(Ok(Some(QUEUED))), "{join:?}");
        }
        assert_eq!((started.count(), flights.next_number()), (0, 1));

        // It begins, so that callers wait again.
        let leader = leader.begin().unwrap();
        assert!(matches!(*waits.borrow_and_update(), Told::Nothing));
        let mut later = run(&flights, Join::Any, &started);
        assert!(look(100).is_pending() && poll(&mut later).is_pending());
        leader.finish(7);
        assert_eq!(poll(&mut later), Poll::Ready(Ok(Some(7))));
        assert!(look(0).is_ready(), "it ends with its leader");
    }

    #[test]
    fn callers_of_a_flight_that_blocks_its_thread_are_answered_and_it_goes_on() {
        let (flights, started, looks) = (Flights::default(), Started::default(), Arc::default());
        let mut first = run(&flights, Join::Any, &started);
        assert!(poll(&mut first).is_pending());
        let mut leader = started.last();
        let mut overseer = overseer(&mut leader, &looks);
        let mut look = |times| {
            looks.store(times, SeqCst);
            assert!(poll(&mut overseer).is_pending());
        };
        let leader = leader.begin().unwrap();
        let mut polls = 0;
        let mut work = Box::pin(leader.work(poll_fn(|_| {
            polls += 1;
            match polls {
                // Waiting for something blocks no thread.
                1 => Poll::Pending,
                2 => {
                    look(1);
                    assert!(poll(&mut first).is_pending(), "it may have begun just now");
                    look(1);
                    assert_eq!(poll(&mut first), Poll::Ready(Ok(Some(BLOCKED))));
                    assert_eq!(poll(&mut run(&flights, Join::Any, &started)), Poll::Ready(Ok(Some(BLOCKED))));
                    Poll::Pending
                }
                _ => Poll::Ready(()),
            }
        })));
        let context = &mut Context::from_waker(Waker::noop());
        assert!(work.as_mut().poll(context).is_pending());
        assert!(work.as_mut().poll(context).is_pending());
        // The call has ended, so that callers wait again.
        let mut later = run(&flights, Join::Any, &started);
        assert!(poll(&mut later).is_pending());
        assert!(work.as_mut().poll(context).is_ready());
        drop(work);
        looks.store(5, SeqCst);
        assert!(poll(&mut overseer).is_pending() && poll(&mut later).is_pending());
        leader.finish(7);
        assert_eq!(poll(&mut later), Poll::Ready(Ok(Some(7))));
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
                        assert_eq!(under_way.fetch_add(1, SeqCst), 0);
                        thread::yield_now();
                        under_way.fetch_sub(1, SeqCst);
                        let number = flown.fetch_add(1, SeqCst);
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
        assert_eq!(flown.load(SeqCst), numbers);
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
