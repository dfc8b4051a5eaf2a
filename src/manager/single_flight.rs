//! One piece of work at a time: a caller who needs its outcome starts the work, or waits for the work under way.
//!
//! Always: the work outlives its callers. Work that never started has done nothing, so its callers start it again. Nothing
//! here knows what the work is for.

use std::sync::{Arc, Mutex, MutexGuard};

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
    /// Started with [`Join::Own`]: its outcome answers its starter only.
    is_private: bool,
    outcome: watch::Receiver<Option<T>>,
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
                        let (sender, outcome) = watch::channel(None);
                        let flight =
                            Waiter { number: slot.next_number, is_private: join == Join::Own, outcome };
                        slot.next_number += 1;
                        slot.current = Some(flight.clone());
                        let flights = Arc::clone(self);
                        (flight.clone(), Some(Leader { flights, number: flight.number, outcome: sender }))
                    }
                }
            };
            let is_ours = leader.is_some();
            if let Some(leader) = leader {
                start(leader, was_dropped)?;
            }
            let ended = flight.outcome.wait_for(Option::is_some).await;
            match ended.ok().and_then(|outcome| outcome.clone()) {
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
#[derive(Debug)]
pub(super) struct Leader<T> {
    flights: Arc<SingleFlight<T>>,
    number: u64,
    outcome: watch::Sender<Option<T>>,
}

impl<T> Leader<T> {
    pub(super) fn finish(self, outcome: T) {
        // First, so that a caller who comes from now on starts another flight: what this one found is published already.
        self.free_slot(&mut self.flights.slot());
        self.outcome.send_replace(Some(outcome));
    }

    /// Whether all callers have gone who waited for this flight. If so, no other caller can join it any more.
    pub(super) fn is_alone(&self) -> bool {
        let mut slot = self.flights.slot();
        // One receiver is the slot's own.
        let is_alone = self.outcome.receiver_count() <= 1;
        if is_alone {
            self.free_slot(&mut slot);
        }
        is_alone
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
