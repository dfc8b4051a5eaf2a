//! One flight at a time: whoever needs a renewal starts it or joins the one in the air.
//!
//! Always: a flight that has spent a grant comes to its end whatever becomes of those who wait for it. It runs
//! inside a blocking task of the caller's runtime, because those are waited for when a runtime ends. One that
//! was still queued then, or found no thread within a second, has spent nothing, and its waiters start another.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, MutexGuard},
    thread,
    time::Duration,
};

use tokio::{
    runtime::Handle,
    sync::{Notify, watch},
};

use super::{core::Core, memory::Held};
use crate::{
    Clock as _, Error, ErrorKind, Grant, RefreshTokenObject, SystemClock, caught::locked, log, runtime,
};

/// How long a flight waits for a blocking thread of the caller's runtime. Real time: real threads are waited for.
const LONGEST_QUEUE: Duration = Duration::from_secs(1);

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
    /// All tokens to be revoked; `again` after an access token was refused or renewed for it.
    Revoke { again: bool },
}

impl Need {
    /// What the log calls it.
    fn name(&self) -> &'static str {
        match self {
            Self::RefreshToken => "refresh_token",
            Self::AccessToken => "access_token",
            Self::Ahead => "ahead",
            Self::Grant => "grant",
            Self::SignIn(_) => "sign_in",
            Self::Adopt(_) => "adopt",
            Self::Revoke { .. } => "revoke",
        }
    }
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
    /// The one attempt failed that is made where the flight's starter can do without, which not everybody may who joined.
    Tried(Error),
    /// The tokens are revoked and nothing is held.
    SignedOut,
    /// A token was received and saved, and something else in its reply cannot be used.
    Faulty(Error),
}

#[derive(Clone, Debug)]
pub(super) struct Landed {
    pub(super) held: Arc<Held>,
    /// It was issued by Concur in this flight, which makes it valid whatever our clock says.
    pub(super) fresh: bool,
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
    /// Its end concerns whoever started it: what it brings in place of what was held is no answer to others.
    replaces: bool,
    landing: watch::Receiver<Option<Landing>>,
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
        locked(&self.slot)
    }
}

impl Ticket {
    /// `None` if it never took off.
    async fn landing(mut self) -> Option<Landing> {
        self.landing.wait_for(Option::is_some).await.ok()?.clone()
    }
}

impl Core {
    /// Joins a flight or starts one, and waits for its landing; `None` if `join` forbids to join the one there is.
    pub(super) async fn fly(self: &Arc<Self>, need: Need, join: Join) -> Option<Landing> {
        let mut on_own_thread = false;
        loop {
            let (ticket, crew) = {
                let mut slot = self.flights.slot();
                match (&slot.in_the_air, join) {
                    (Some(_), Join::Never) => return None,
                    (Some(ticket), _) => (ticket.clone(), None),
                    (None, _) => {
                        let (sender, landing) = watch::channel(None);
                        let ticket =
                            Ticket { number: slot.next_number, replaces: join == Join::Own, landing };
                        slot.next_number += 1;
                        slot.in_the_air = Some(ticket.clone());
                        let crew = Crew { core: Arc::clone(self), number: ticket.number, landing: sender };
                        (ticket, Some(crew))
                    }
                }
            };
            let (number, replaces) = (ticket.number, ticket.replaces);
            let is_ours = crew.is_some();
            if let Some(crew) = crew {
                crew.take_off(need.clone(), on_own_thread);
            }
            match (ticket.landing().await, join) {
                (_, Join::Since(first)) if number < first => {}
                _ if !is_ours && (replaces || join == Join::Own) => {}
                (Some(landing), _) => return Some(landing),
                (None, _) if is_ours && on_own_thread => return Some(Landing::Failed(no_thread())),
                (None, _) => on_own_thread |= is_ours,
            }
        }
    }
}

/// Those aboard: dropping it, by landing or unstarted, frees the slot for the next flight.
pub(super) struct Crew {
    core: Arc<Core>,
    number: u64,
    landing: watch::Sender<Option<Landing>>,
}

impl Crew {
    /// Runs the flight on the caller's runtime, or on a thread of its own, also where there is no runtime.
    fn take_off(self, need: Need, on_own_thread: bool) {
        let span = log::span(|| {
            let store = self.core.store.describe();
            tracing::info_span!(target: "concur_auth", "renewal", need = need.name(), store)
        });
        let ours = match runtime::handle() {
            Ok(ours) => ours,
            Err(e) => return self.land(Landing::Failed(e)),
        };
        let flight = move || {
            let run = || catch_unwind(AssertUnwindSafe(|| ours.block_on(self.core.run(&need, &self))));
            let landing = log::within(span, run).unwrap_or_else(|_| self.core.crashed());
            self.land(landing);
        };
        match Handle::try_current() {
            Ok(callers) if !on_own_thread => queue(flight, &callers, ours),
            _ => on_a_thread(flight),
        }
    }

    fn land(self, landing: Landing) {
        // Whoever comes from here on starts anew: what this flight found is in memory already.
        self.free_slot(&mut self.core.flights.slot());
        self.landing.send_replace(Some(landing));
    }

    /// Whether everybody has gone who waited for this flight; nobody can join it any more then.
    pub(super) fn is_alone(&self) -> bool {
        let mut slot = self.core.flights.slot();
        // One receiver is the slot's own.
        let alone = self.landing.receiver_count() <= 1;
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

/// Queues `flight` for a blocking thread of the caller's runtime. Should none get free it takes off elsewhere: those who
/// wait for it may be what takes the threads.
fn queue(flight: impl FnOnce() + Send + 'static, callers: &Handle, ours: &Handle) {
    let flight = Arc::new(Mutex::new(Some(flight)));
    // Weak, so that a flight whose runtime ends while it is queued is lost, and known to be.
    let queued = Arc::downgrade(&flight);
    let patience = ours.spawn(async move {
        SystemClock.sleep(LONGEST_QUEUE).await;
        if let Some(flight) = queued.upgrade().and_then(|flight| take(&flight)) {
            on_a_thread(flight);
        }
    });
    callers.spawn_blocking(move || {
        if let Some(flight) = take(&flight) {
            patience.abort();
            flight();
        }
    });
}

/// Not on a blocking thread of our runtime: name resolution needs those, and flights would wait for themselves.
fn on_a_thread(flight: impl FnOnce() + Send + 'static) {
    // Where there is no thread to be had, the flight never takes off, and who waits for it sees that.
    let _ = thread::Builder::new().name("concur-auth-flight".to_owned()).spawn(flight);
}

fn no_thread() -> Error {
    Error::new(
        ErrorKind::Config,
        "could not start a thread for the renewal; check this process's limits on threads and memory",
    )
}

fn take<T>(slot: &Mutex<Option<T>>) -> Option<T> {
    locked(slot).take()
}
