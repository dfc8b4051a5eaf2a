//! Replies that wait until a test lets them go.
//!
//! Always: only the replies wait. The grant is already processed and its request recorded, and the simulator answers
//! questions about both. Nothing waits for a simulator that is dropped.

use crate::caught::locked;
use std::{
    collections::BTreeSet,
    fmt,
    sync::{Arc, Condvar, Mutex, MutexGuard},
};

/// Holds replies back until it is released or dropped; made by
/// [`ConcurSimulator::hold_replies`](super::ConcurSimulator::hold_replies).
#[must_use = "the replies go as soon as this is dropped"]
pub struct HeldReplies {
    gate: Arc<Gate>,
    number: u64,
}

impl HeldReplies {
    /// Lets the replies go, as dropping does.
    pub fn release(self) {}
}

impl Drop for HeldReplies {
    fn drop(&mut self) {
        self.gate.holds().standing.remove(&self.number);
        self.gate.lifted.notify_all();
    }
}

impl fmt::Debug for HeldReplies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HeldReplies").finish_non_exhaustive()
    }
}

/// The gate that replies pass on their way out.
#[derive(Default)]
pub(super) struct Gate {
    holds: Mutex<Holds>,
    lifted: Condvar,
}

#[derive(Default)]
struct Holds {
    next: u64,
    /// The numbers of the guards that are neither released nor dropped.
    standing: BTreeSet<u64>,
}

/// When a request arrived: after the holds with lower numbers.
#[derive(Clone, Copy)]
pub(super) struct Arrival(u64);

impl Gate {
    pub(super) fn hold(self: &Arc<Self>) -> HeldReplies {
        let mut holds = self.holds();
        let number = holds.next;
        holds.next += 1;
        holds.standing.insert(number);
        HeldReplies { gate: Arc::clone(self), number }
    }

    /// Must be called before a test can see the request: a hold that the test starts then is for later requests.
    pub(super) fn arrival(&self) -> Arrival {
        Arrival(self.holds().next)
    }

    /// Blocks until every hold from before the arrival is released.
    pub(super) fn pass(&self, Arrival(next): Arrival) {
        let is_held = |holds: &mut Holds| holds.standing.range(..next).next().is_some();
        drop(self.lifted.wait_while(self.holds(), is_held));
    }

    pub(super) fn lift_all(&self) {
        self.holds().standing.clear();
        self.lifted.notify_all();
    }

    fn holds(&self) -> MutexGuard<'_, Holds> {
        locked(&self.holds)
    }
}
