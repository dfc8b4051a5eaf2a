//! One flight at a time: whoever needs a renewal starts it or joins the one in the air.
//!
//! Always: a flight that has spent a grant comes to its end whatever becomes of those who wait for it. It runs
//! inside a blocking task of the caller's runtime, because those are waited for when a runtime ends. One that
//! was still queued then has spent nothing, and its waiters start another.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::{
    runtime::Handle,
    sync::{Notify, watch},
};

use super::{core::Core, memory::Held};
use crate::{Error, ErrorKind, Grant, RefreshTokenObject, runtime};

/// What a flight is started for.
#[derive(Clone, Debug)]
pub(super) enum Need {
    /// A refresh token that is valid and not due for renewal.
    RefreshToken,
    /// An access token that is.
    AccessToken,
    /// Both, for longer than callers ask for: nobody has to wait then.
    Ahead,
    /// A grant to be sent, whatever is held.
    Grant,
    /// This grant to be sent, in place of whatever is held.
    SignIn(Grant),
    /// This token to be held, in place of whatever is.
    Adopt(RefreshTokenObject),
}

/// Which flight in the air will do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Join {
    Any,
    /// None: somebody else is renewing, and the caller can be served meanwhile.
    Never,
    /// One with this number or a later one; an earlier one is waited for and then left alone.
    Since(u64),
    /// None but one of its own, after the one in the air.
    Own,
}

/// How a flight ended.
#[derive(Clone, Debug)]
pub(super) enum Landing {
    Done(Landed),
    /// Somebody else holds the store's lock, and the held token is still valid.
    Busy,
    Failed(Error),
    /// A token was received and saved, and something else in its reply cannot be used.
    Faulty(Error),
}

#[derive(Clone, Debug)]
pub(super) struct Landed {
    pub(super) held: Arc<Held>,
    /// It came from Concur in this flight, which makes it valid whatever our clock says.
    pub(super) fresh: bool,
}

#[derive(Clone, Debug)]
enum Progress {
    Queued,
    Started,
    Landed(Landing),
}

/// The flight in the air, if any.
#[derive(Debug, Default)]
pub(super) struct Flights {
    slot: Mutex<Slot>,
    freed: Notify,
}

#[derive(Debug, Default)]
struct Slot {
    next_number: u64,
    in_the_air: Option<Ticket>,
}

#[derive(Clone, Debug)]
struct Ticket {
    number: u64,
    progress: watch::Receiver<Progress>,
}

/// Why a flight has no landing.
enum Lost {
    NeverStarted,
    Panicked,
}

impl Flights {
    /// The number that the next flight to start will have.
    pub(super) fn next_number(&self) -> u64 {
        self.slot().next_number
    }

    /// Waits until no flight is in the air, without being one of those who keep it there.
    pub(super) async fn until_landed(&self) {
        loop {
            // Made before the look, so that no landing in between is missed.
            let freed = self.freed.notified();
            if self.slot().in_the_air.is_none() {
                return;
            }
            freed.await;
        }
    }

    fn slot(&self) -> MutexGuard<'_, Slot> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ticket {
    async fn landing(mut self) -> Result<Landing, Lost> {
        // An error says that the sender is gone; the last thing it said tells why.
        let _ = self.progress.wait_for(|progress| matches!(progress, Progress::Landed(_))).await;
        match &*self.progress.borrow() {
            Progress::Landed(landing) => Ok(landing.clone()),
            Progress::Queued => Err(Lost::NeverStarted),
            Progress::Started => Err(Lost::Panicked),
        }
    }
}

impl Core {
    /// Joins a flight or starts one, and waits for its landing; `None` if `join` forbids to join the one there is.
    pub(super) async fn fly(self: &Arc<Self>, need: Need, join: Join) -> Option<Landing> {
        let mut callers_runtime_ended = false;
        loop {
            let (ticket, crew) = {
                let mut slot = self.flights.slot();
                match (&slot.in_the_air, join) {
                    (Some(_), Join::Never) => return None,
                    (Some(ticket), _) => (ticket.clone(), None),
                    (None, _) => {
                        let (sender, progress) = watch::channel(Progress::Queued);
                        let ticket = Ticket { number: slot.next_number, progress };
                        slot.next_number += 1;
                        slot.in_the_air = Some(ticket.clone());
                        let crew = Crew { core: Arc::clone(self), number: ticket.number, progress: sender };
                        (ticket, Some(crew))
                    }
                }
            };
            let number = ticket.number;
            let is_ours = crew.is_some();
            if let Some(crew) = crew {
                crew.take_off(need.clone(), callers_runtime_ended);
            }
            match (ticket.landing().await, join) {
                (_, Join::Since(first)) if number < first => {}
                (_, Join::Own) if !is_ours => {}
                (Ok(landing), _) => return Some(landing),
                (Err(Lost::NeverStarted), _) => callers_runtime_ended |= is_ours,
                (Err(Lost::Panicked), _) => {
                    return Some(Landing::Failed(Error::new(
                        ErrorKind::Config,
                        "the token store or the credential source panicked during a renewal; see the panic's \
                         message",
                    )));
                }
            }
        }
    }
}

/// Those aboard: dropping it, by landing, by a panic, or unstarted, frees the slot for the next flight.
pub(super) struct Crew {
    core: Arc<Core>,
    number: u64,
    progress: watch::Sender<Progress>,
}

impl Crew {
    /// Runs the flight on the caller's runtime, or on this crate's own where there is none or it has ended.
    fn take_off(self, need: Need, callers_runtime_ended: bool) {
        let span = tracing::Span::current();
        let ours = match runtime::handle() {
            Ok(ours) => ours,
            Err(e) => return self.land(Landing::Failed(e)),
        };
        let flight = move || {
            self.progress.send_replace(Progress::Started);
            let landing = span.in_scope(|| ours.block_on(self.core.run(&need, &self)));
            self.land(landing);
        };
        match Handle::try_current() {
            Ok(callers) if !callers_runtime_ended => callers.spawn_blocking(flight),
            _ => ours.spawn_blocking(flight),
        };
    }

    fn land(self, landing: Landing) {
        // Whoever comes from here on starts anew: what this flight found is in memory already.
        self.free_slot(&mut self.core.flights.slot());
        self.progress.send_replace(Progress::Landed(landing));
    }

    /// Whether everybody has gone who waited for this flight; nobody can join it any more then.
    pub(super) fn is_alone(&self) -> bool {
        let mut slot = self.core.flights.slot();
        // One receiver is the slot's own.
        let alone = self.progress.receiver_count() <= 1;
        if alone {
            self.free_slot(&mut slot);
        }
        alone
    }

    fn free_slot(&self, slot: &mut Slot) {
        if slot.in_the_air.as_ref().is_some_and(|ticket| ticket.number == self.number) {
            slot.in_the_air = None;
            self.core.flights.freed.notify_waiters();
        }
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        self.free_slot(&mut self.core.flights.slot());
    }
}
